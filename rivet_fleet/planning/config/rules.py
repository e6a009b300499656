"""What the types cannot say: rules between settings (Rivet: Rules between settings). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rivet_fleet.contracts.destination import DestinationKind, DestinationKinds
from rivet_fleet.contracts.identity import check_namespace
from rivet_fleet.contracts.keys import RelationName, parse_relation
from rivet_fleet.planning.config.loaded import DEFAULT_SOURCE, all_sources, source_key, source_name
from rivet_fleet.planning.config.models import ExportConfig, FleetConfig, SourceConfig
from rivet_fleet.planning.config.problems import (
    COUNT_INVALID,
    DAYS_INVALID,
    DUPLICATE_EXPORT,
    NO_EXPORTS,
    ConfigKey,
    Problem,
    did_you_mean,
    dotted,
    listed,
)
from rivet_fleet.planning.config.protection import EngineSignals, check_group
from rivet_fleet.planning.request import override_column

# ------------------------------------------------------------------------------------------
# Rules between the settings of incremental exports and time windows (ADR 0011). Pure.

MODE_OF = {
    "cursor_column": "incremental",
    "cursor_fallback_column": "incremental",
    "incremental_cursor_mode": "incremental",
    "cursor_overlap_s": "incremental",
    "keyset_incremental": "chunked",
    "time_column": "time_window",
    "time_column_type": "time_window",
    "days_window": "time_window",
}
"""A setting that its mode does not read would be believed and do nothing."""
DEFAULTS = {"incremental_cursor_mode": "single_column", "time_column_type": "timestamp"}


def check_windows(export: ExportConfig, at: ConfigKey) -> Iterator[Problem]:
    """Everything that is wrong with what an export reads of its table."""
    for name, mode in MODE_OF.items():
        value = getattr(export, name)
        if value in (None, False, DEFAULTS.get(name)) or export.mode == mode:
            continue
        yield _window_problem(
            (*at, name), f"has no meaning without mode: {mode}", f"add mode: {mode}"
        )
    if (
        export.cursor_is_monotonic
        and export.mode != "incremental"
        and not export.keyset_incremental
    ):
        yield _window_problem(
            (*at, "cursor_is_monotonic"),
            "has no meaning without a cursor",
            "add mode: incremental, or keyset_incremental: true",
        )
    if export.mode == "incremental":
        yield from _incremental(export, at)
    if export.mode == "time_window":
        for name in ("time_column", "days_window"):
            if getattr(export, name) is None:
                yield _window_problem((*at, "mode"), f"time_window needs {name}", f"add {name}")
    if export.on_mark_above != "warn" and not goes_by_mark(export):
        yield _window_problem((*at, "on_mark_above"), "has no meaning without a mark", "remove it")
    if export.keyset_incremental and export.mode == "chunked" and export.chunk_by_key is None:
        yield _window_problem(
            (*at, "keyset_incremental"),
            "needs chunk_by_key: the key is the mark",
            "add chunk_by_key: a key that only rises",
        )
    if export.keyset_incremental and export.partition_by is not None:
        yield _window_problem(
            (*at, "partition_by"),
            "cannot be used with keyset_incremental: a mark is one of a whole export",
            "keep one",
        )


def goes_by_mark(export: ExportConfig) -> bool:
    """True when a run goes on where the last one ended."""
    return export.mode == "incremental" or export.keyset_incremental


def _window_problem(at: ConfigKey, reason: str, suggestion: str | None = None) -> Problem:
    return Problem(at=at, what=dotted(at), reason=reason, suggestion=suggestion)


def _incremental(export: ExportConfig, at: ConfigKey) -> Iterator[Problem]:
    if export.cursor_column is None:
        yield _window_problem(
            (*at, "mode"),
            "incremental needs cursor_column",
            "add cursor_column: a column that rises with every change, such as updated_at",
        )
    coalesce = export.incremental_cursor_mode == "coalesce"
    if coalesce and export.cursor_fallback_column is None:
        yield _window_problem(
            (*at, "incremental_cursor_mode"),
            "coalesce needs cursor_fallback_column",
            "add cursor_fallback_column: a column of the cursor's type",
        )
    if not coalesce and export.cursor_fallback_column is not None:
        yield _window_problem(
            (*at, "cursor_fallback_column"),
            "is read only with incremental_cursor_mode: coalesce",
            "add incremental_cursor_mode: coalesce",
        )


# ------------------------------------------------------------------------------------------
# Rules between the settings that shape chunks, partitions and added columns (ADR 0012). Pure.

PARTITION = "{partition}"


def check_shapes(export: ExportConfig, at: ConfigKey) -> Iterator[Problem]:
    """Everything that is wrong with how an export is cut, partitioned and completed."""
    if export.mode != "full":
        yield from _days(export, at)
    if export.mode == "chunked":
        yield from _dense(export, at)
    elif export.chunk_dense:
        yield _shape_problem(
            (*at, "chunk_dense"), "has no meaning without mode: chunked", "add mode: chunked"
        )
    yield from _partition(export, at)
    hashed = export.meta_columns.hashed
    if hashed and (len(set(hashed)) != len(hashed) or not all(hashed)):
        yield _shape_problem((*at, "meta_columns", "row_hash"), "must name different columns")


def _shape_problem(
    at: ConfigKey, reason: str, suggestion: str | None = None, code: str | None = None
) -> Problem:
    return Problem(at=at, what=dotted(at), reason=reason, suggestion=suggestion, code=code)


def _days(export: ExportConfig, at: ConfigKey) -> Iterator[Problem]:
    if export.chunk_by_days is None:
        return
    here = (*at, "chunk_by_days")
    if export.chunk_count is not None:
        reason = "chunk_by_days and chunk_count exclude each other"
        yield _shape_problem((*at, "chunk_count"), reason, "keep one", COUNT_INVALID)
    for other in ("chunk_by_key", "chunk_size", "chunk_size_memory_mb"):
        if getattr(export, other) is not None:
            reason = f"chunk_by_days and {other} exclude each other"
            yield _shape_problem((*at, other), reason, "keep one", DAYS_INVALID)
    if export.chunk_column is None and export.partition_by is None and not export.chunk_by_key:
        yield _shape_problem(here, "needs chunk_column", "add chunk_column: a date or a moment")


def _dense(export: ExportConfig, at: ConfigKey) -> Iterator[Problem]:
    if not export.chunk_dense:
        return
    here = (*at, "chunk_dense")
    if export.chunk_count is not None:
        reason = "chunk_dense and chunk_count exclude each other"
        yield _shape_problem((*at, "chunk_count"), reason, "use chunk_size", COUNT_INVALID)
    for other in ("chunk_by_key", "chunk_by_days", "chunk_size_memory_mb", "partition_by"):
        if getattr(export, other) is not None:
            yield _shape_problem(
                (*at, other), f"chunk_dense and {other} exclude each other", "keep one"
            )
    if export.chunk_column is None and export.chunk_by_key is None:
        yield _shape_problem(
            here, "needs chunk_column", "add chunk_column: the primary key's column"
        )
    if export.table is None:
        yield _shape_problem(here, "needs table: a query has no index to walk", "use chunk_count")


def _partition(export: ExportConfig, at: ConfigKey) -> Iterator[Problem]:
    where, path = export.destination.below
    if export.partition_by is None:
        if export.partition_granularity is not None:
            yield _shape_problem(
                (*at, "partition_granularity"),
                "has no meaning without partition_by",
                "add partition_by: a date or a moment",
            )
        if PARTITION in path:
            yield _shape_problem(
                (*at, "destination", where), "{partition} needs partition_by", "add partition_by"
            )
        return
    here = (*at, "partition_by")
    if PARTITION not in path:
        yield _shape_problem(
            (*at, "destination", where),
            "partition_by needs {partition} in the path: each partition is a folder of its own",
            "write " + (f"{path.rstrip('/')}/{PARTITION}" if path else PARTITION),
        )
    if export.mode not in ("full", "chunked"):
        yield _shape_problem(
            here, f"cannot be used with mode: {export.mode}", "use full or chunked"
        )
    if export.chunk_by_key is not None:
        yield _shape_problem(
            (*at, "chunk_by_key"),
            "partition_by and chunk_by_key exclude each other",
            "remove chunk_by_key: a partition is cut by its own column",
        )
    if export.chunk_column not in (None, export.partition_by):
        yield _shape_problem(
            (*at, "chunk_column"),
            "a partition is cut by its own column: another one would read the whole table for "
            "each partition",
            f"remove it, or write chunk_column: {export.partition_by}",
        )


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
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TYPE = re.compile(r"[A-Za-z_][A-Za-z0-9_ ]*(\(\s*\d+\s*(,\s*-?\d+\s*)?\))?[A-Za-z ]*(\[\])*")


def check_rules(
    config: FleetConfig,
    *,
    engines: frozenset[str],
    destinations: DestinationKinds,
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
    found += _stream(config, destinations)
    return found


def _stream(config: FleetConfig, kinds: DestinationKinds) -> Iterator[Problem]:
    """A stream cannot be looked at or taken back: one file, once, and nothing is remembered."""
    for index, export in enumerate(config.exports):
        kind, at = kinds.get(export.destination.type), ("exports", index)
        if kind is None or kind.through is None:
            continue
        if len(config.exports) > 1:
            yield _problem(
                (*at, "destination", "type"),
                f"{kind.name} takes one export, and there are {len(config.exports)}",
                "give each a file of its own",
            )
        refused = {
            "mode": (export.mode != "full", "reads in several chunks, which are several files"),
            "max_file_size": (export.max_file_size is not None, "makes several files"),
            "partition_by": (export.partition_by is not None, "makes several files"),
        }
        for name, (wrong, why) in refused.items():
            if wrong:
                yield _problem((*at, name), f"{why}: {kind.name} is one", f"remove {name}")
        if config.state.url is not None or config.state.url_env is not None:
            reason = f"remembers what was delivered; {kind.name} cannot be looked at again"
            yield _problem(("state",), reason, "remove state")


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


def _destination(export: ExportConfig, at: ConfigKey, kinds: DestinationKinds) -> Iterator[Problem]:
    where = (*at, "destination")
    destination = export.destination
    kind = kinds.get(destination.type)
    if kind is None:
        yield _problem(
            (*where, "type"),
            f"must be one of {listed(kinds)}",
            did_you_mean(destination.type, kinds),
        )
        return
    settings = destination.settings
    for name, setting in kind.settings.items():
        if setting.required is not None and name not in settings:
            yield _problem((*where, name), "is required", setting.required)
    for name in settings:
        if name not in kind.settings:
            reason = f"has no meaning for type {kind.name}"
            yield _problem((*where, name), reason, f"use {kind.below}")
    for name, variable in destination.variables.items():
        if not _VARIABLE_NAME.fullmatch(variable):
            # Its value is not repeated: it may be the secret itself.
            reason = "must be the name of an environment variable, and holds something else"
            yield _problem((*where, name), reason, "put the secret into a variable; name that here")
    for found in kind.problems(settings):
        yield _problem((*where, found.setting), found.reason, found.suggestion)
    if kind.below in settings:
        yield from _below(export, (*where, kind.below), settings[kind.below], kind)


def _below(
    export: ExportConfig, where: ConfigKey, text: str, kind: DestinationKind
) -> Iterator[Problem]:
    if reason := kind.unsafe(text):
        yield _problem(where, reason, "give the folder itself")
    for name in re.findall(r"\{([^}]*)\}", text):
        if name not in PLACEHOLDERS:
            yield _problem(
                where,
                f"unknown placeholder {{{name}}}; known: {listed(PLACEHOLDERS)}",
                did_you_mean(name, PLACEHOLDERS),
            )
        elif name == "table" and export.table is None:
            yield _problem(where, "{table} needs table:", "use {export}")
