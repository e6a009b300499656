"""What the types cannot say: rules between settings (inventory §2.2, §2.3, §2.7). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rivet_fleet.contracts.keys import RelationName, parse_relation
from rivet_fleet.contracts.namespace import check_namespace
from rivet_fleet.planning.config_models import ExportConfig, FleetConfig, SourceConfig
from rivet_fleet.planning.config_shapes import check_shapes
from rivet_fleet.planning.config_windows import check_windows
from rivet_fleet.planning.loaded import DEFAULT_SOURCE, all_sources, source_key, source_name
from rivet_fleet.planning.problems import (
    DUPLICATE_EXPORT,
    NO_EXPORTS,
    ConfigKey,
    Problem,
    did_you_mean,
    dotted,
    listed,
)
from rivet_fleet.planning.protection import EngineSignals, check_group
from rivet_fleet.planning.request import override_column

NAME_BYTES_MAX = 128
CHUNKED_ONLY = (
    "chunk_column",
    "chunk_by_key",
    "chunk_count",
    "chunk_size",
    "chunk_size_memory_mb",
    "chunk_by_days",
)
UNCOMPRESSED_FORMATS = frozenset({"csv"})
LEVELS = {"zstd": (1, 22), "gzip": (0, 9)}
PLACEHOLDERS = frozenset({"date", "export", "table", "partition"})
_TYPE = re.compile(r"[A-Za-z_][A-Za-z0-9_ ]*(\(\s*\d+\s*(,\s*-?\d+\s*)?\))?[A-Za-z ]*(\[\])*")


def check_rules(
    config: FleetConfig,
    *,
    engines: frozenset[str],
    destinations: frozenset[str],
    formats: frozenset[str],
    engine_signals: EngineSignals,
) -> list[Problem]:
    """Everything that is wrong although every single setting has the right type."""
    found = [*_root(config), *_groups(config, engines, engine_signals), *_state(config)]
    for name, source in all_sources(config).items():
        found += _source(source, source_key(config, name), engines)
    for index, export in enumerate(config.exports):
        at: ConfigKey = ("exports", index)
        found += [
            *_reading(config, export, at),
            *_quality(export, at),
            *_chunking(export, at),
            *check_shapes(export, at),
            *check_windows(export, at),
            *_writing(export, at, formats),
            *_destination(export, at, destinations),
        ]
    return found


def unsafe_name(name: str) -> str | None:
    """Why a name cannot be part of a file name, or None."""
    if not name or name != name.strip():
        return "must not be empty nor begin or end with a space"
    if name.startswith("."):
        return "must not begin with a dot"
    if "/" in name or "\\" in name or ".." in name:
        return "must not hold / \\ or .. (it becomes part of file names)"
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        return "must not hold control characters"
    if len(name.encode()) > NAME_BYTES_MAX:
        return f"must not be longer than {NAME_BYTES_MAX} bytes"
    return None


def replaced_name(name: str) -> str | None:
    """Why a name cannot take the place of ``{export}``, or None."""
    held = [word for word in sorted(PLACEHOLDERS) if "{" + word + "}" in name]
    if not held:
        return None
    return f"must not hold {{{held[0]}}}, which a destination's path would replace"


def unreadable_table(written: str) -> tuple[str, str] | None:
    """Why ``table:`` cannot be read and what to write instead, or None."""
    try:
        parse_relation(written)
    except ValueError as error:
        return (
            f"{error}; a plain name or schema.name needs no quotes, any other part stands in "
            "double quotes, as in SQL",
            _quoted(written),
        )
    return None


def _quoted(written: str) -> str:
    if "\0" in written or not written:
        return "write the table's name"
    whole = _in_yaml(str(RelationName(schema="", name=written)))
    schema, _, name = written.partition(".")
    if schema and name:
        parted = _in_yaml(str(RelationName(schema=schema, name=name)))
        return f"write {parted}, or {whole} where the dot is the name's own"
    return f"write {whole}"


def _in_yaml(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def unsafe_path(path: str) -> str | None:
    """Why a destination path is refused, or None."""
    if not path.strip():
        return "must not be empty"
    if any(ord(letter) < 32 for letter in path):
        return "must not hold control characters"
    if ".." in re.split(r"[/\\]", path):
        return "must not hold '..'"
    return None


def _problem(at: ConfigKey, reason: str, suggestion: str | None = None, **more: str) -> Problem:
    return Problem(
        at=at, what=dotted(at), reason=reason, suggestion=suggestion, code=more.get("code")
    )


def _root(config: FleetConfig) -> Iterator[Problem]:
    if not config.exports:
        yield _problem(
            ("exports",),
            "there is nothing to extract",
            "add an entry under exports:",
            code=NO_EXPORTS,
        )
    if config.source is None and not config.sources:
        yield _problem((), "no source is given", "add source: with type: and url_env:")
    if config.source is not None and DEFAULT_SOURCE in config.sources:
        yield _problem(("sources", DEFAULT_SOURCE), "the single source: is already named 'default'")
    for name in config.sources:
        if reason := unsafe_name(name):
            yield _problem(("sources", name), reason)
    if config.campaign.name is not None and (reason := unsafe_name(config.campaign.name)):
        yield _problem(("campaign", "name"), reason)
    first: dict[str, int] = {}
    for index, export in enumerate(config.exports):
        if reason := unsafe_name(export.name) or replaced_name(export.name):
            yield _problem(("exports", index, "name"), reason)
        if export.name in first:
            yield _problem(
                ("exports", index, "name"),
                f"exports[{first[export.name]}] has the same name",
                "give each export its own name",
                code=DUPLICATE_EXPORT,
            )
        first.setdefault(export.name, index)


def _groups(
    config: FleetConfig, engines: frozenset[str], engine_signals: EngineSignals
) -> Iterator[Problem]:
    # An engine that is not there is a problem of its source; every signal would repeat it.
    supported = all(source.type in engines for source in all_sources(config).values())
    for name, group in config.source_groups.items():
        if reason := unsafe_name(name):
            yield _problem(("source_groups", name), reason)
        yield from check_group(config, name, group, engine_signals if supported else None)


def _state(config: FleetConfig) -> Iterator[Problem]:
    if config.state.url is not None and config.state.url_env is not None:
        yield _problem(("state",), "url and url_env exclude each other", "keep url_env")
    if config.state.namespace is not None:
        try:
            check_namespace(config.state.namespace)
        except ValueError as problem:
            yield _problem(("state", "namespace"), str(problem))


def _source(source: SourceConfig, at: ConfigKey, engines: frozenset[str]) -> Iterator[Problem]:
    if source.type not in engines:
        yield _problem(
            (*at, "type"),
            f"this source type is not supported; supported: {listed(engines)}",
            did_you_mean(source.type, engines),
        )
    urls = [name for name in ("url", "url_env", "url_file") if getattr(source, name) is not None]
    structured = [
        name
        for name in ("host", "port", "user", "database", "password", "password_env")
        if getattr(source, name) is not None
    ]
    if len(urls) > 1:
        yield _problem(at, f"{' and '.join(urls)} exclude each other", "keep url_env")
    if urls and structured:
        yield _problem(
            (*at, structured[0]),
            f"{urls[0]} and {structured[0]} exclude each other",
            "give either a URL, or host, user and database",
        )
    missing = [name for name in ("host", "user", "database") if getattr(source, name) is None]
    if not urls and not structured:
        yield _problem(at, "no connection is given", "add url_env: DATABASE_URL")
    elif not urls and missing:
        yield _problem(at, f"{' and '.join(missing)} missing", f"add {missing[0]}: …")
    if source.password is not None and source.password_env is not None:
        yield _problem(
            (*at, "password"), "password and password_env exclude each other", "keep password_env"
        )
    if source.tuning.batch_size is not None and source.tuning.batch_size_memory_mb is not None:
        yield _problem(
            (*at, "tuning", "batch_size"), "batch_size and batch_size_memory_mb exclude each other"
        )
    tls = source.tls
    if tls is not None and tls.mode not in (None, "disable"):
        for knob in ("accept_invalid_certs", "accept_invalid_hostnames"):
            if getattr(tls, knob):
                yield _problem(
                    (*at, "tls", knob),
                    f"contradicts mode {tls.mode}",
                    "remove it, or remove mode",
                )


def _reading(config: FleetConfig, export: ExportConfig, at: ConfigKey) -> Iterator[Problem]:
    shapes = [name for name in ("table", "query", "query_file") if getattr(export, name)]
    if len(shapes) != 1:
        yield _problem(
            (*at, shapes[1]) if shapes else at,
            "exactly one of table, query and query_file is needed",
        )
    unreadable = unreadable_table(export.table) if export.table is not None else None
    if unreadable is not None:
        yield _problem((*at, "table"), *unreadable)
    known = all_sources(config)
    name = source_name(config, export)
    if name not in known and known:
        where = (*at, "source") if export.source is not None else at
        reason = "no such source" if export.source is not None else "source is required here"
        yield _problem(where, f"{reason}; known: {listed(known)}", did_you_mean(name, known))
    groups = config.source_groups
    if export.source_group is not None and groups and export.source_group not in groups:
        yield _problem(
            (*at, "source_group"),
            f"no such group; known: {listed(groups)}",
            did_you_mean(export.source_group, groups),
        )
    for column, override in export.columns.items():
        if unreadable is None and override_column(export, column) is None:
            yield _problem(
                (*at, "columns", column),
                "names a table this export does not read",
                "a column with a dot in its name is written table.column",
            )
        if not _TYPE.fullmatch(override.strip()):
            yield _problem((*at, "columns", column), "must be a type such as decimal(18,2) or text")
    tuning = export.tuning
    if tuning.batch_size is not None and tuning.batch_size_memory_mb is not None:
        yield _problem(
            (*at, "tuning", "batch_size"), "batch_size and batch_size_memory_mb exclude each other"
        )


def _quality(export: ExportConfig, at: ConfigKey) -> Iterator[Problem]:
    gates = export.quality
    if gates is None:
        return
    low, high = gates.row_count_min, gates.row_count_max
    if low is not None and high is not None and low > high:
        yield _problem((*at, "quality", "row_count_max"), "must not be less than row_count_min")
    for columns in gates.unique_columns:
        if not columns or any(not c for c in columns) or len(set(columns)) != len(columns):
            yield _problem((*at, "quality", "unique_columns"), "each entry names different columns")


def _chunking(export: ExportConfig, at: ConfigKey) -> Iterator[Problem]:
    given = [name for name in CHUNKED_ONLY if getattr(export, name) is not None]
    if export.mode == "full":
        for name in given:
            yield _problem((*at, name), "has no meaning without mode: chunked", "add mode: chunked")
        return
    if export.chunk_by_key is not None:
        if export.chunk_column is not None:
            yield _problem(
                (*at, "chunk_column"), "chunk_by_key and chunk_column exclude each other"
            )
        columns = export.chunk_by_key
        if not columns or any(not c for c in columns) or len(set(columns)) != len(columns):
            yield _problem((*at, "chunk_by_key"), "must name different columns")
    sizes = [n for n in ("chunk_count", "chunk_size", "chunk_size_memory_mb") if n in given]
    if len(sizes) > 1:
        yield _problem((*at, sizes[1]), f"{' and '.join(sizes)} exclude each other", "keep one")
    if export.chunk_size_memory_mb is not None and export.table is None:
        yield _problem(
            (*at, "chunk_size_memory_mb"), "needs table", "use chunk_size or chunk_count"
        )


def _writing(export: ExportConfig, at: ConfigKey, formats: frozenset[str]) -> Iterator[Problem]:
    if export.format not in formats:
        yield _problem(
            (*at, "format"),
            f"must be one of {listed(formats)}",
            did_you_mean(export.format, formats),
        )
    codec = export.compression_profile or export.compression or "zstd"
    if export.format in UNCOMPRESSED_FORMATS:
        for name in ("compression", "compression_profile", "compression_level"):
            if getattr(export, name) not in (None, "none"):
                yield _problem((*at, name), f"{export.format} is written uncompressed", "remove it")
        if export.parquet is not None:
            yield _problem((*at, "parquet"), f"has no meaning for {export.format}", "remove it")
    elif export.compression_level is not None and export.compression_profile is None:
        low, high = LEVELS.get(codec, (0, -1))
        if not low <= export.compression_level <= high:
            reason = (
                f"must be {low} to {high} for {codec}" if high > 0 else f"{codec} has no levels"
            )
            yield _problem((*at, "compression_level"), reason)
    parquet = export.parquet
    if parquet is not None:
        fixed = parquet.row_group_strategy == "fixed_rows"
        if fixed != (parquet.row_group_rows is not None):
            yield _problem(
                (*at, "parquet"), "row_group_rows and row_group_strategy: fixed_rows go together"
            )


def _destination(
    export: ExportConfig, at: ConfigKey, destinations: frozenset[str]
) -> Iterator[Problem]:
    where = (*at, "destination")
    destination = export.destination
    if destination.type not in destinations:
        yield _problem(
            (*where, "type"),
            f"must be one of {listed(destinations)}",
            did_you_mean(destination.type, destinations),
        )
    if destination.path is None:
        yield _problem((*where, "path"), "is required", "add path: exports/{export}")
        return
    if reason := unsafe_path(destination.path):
        yield _problem((*where, "path"), reason, "give the folder itself")
    for name in re.findall(r"\{([^}]*)\}", destination.path):
        if name not in PLACEHOLDERS:
            yield _problem(
                (*where, "path"),
                f"unknown placeholder {{{name}}}; known: {listed(PLACEHOLDERS)}",
                did_you_mean(name, PLACEHOLDERS),
            )
        elif name == "table" and export.table is None:
            yield _problem((*where, "path"), "{table} needs table:", "use {export}")
