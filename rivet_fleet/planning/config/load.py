"""Loading a configuration: read, replace variables, check everything, digest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rivet_fleet import __version__
from rivet_fleet.contracts.destination import DestinationKinds
from rivet_fleet.contracts.url import redact
from rivet_fleet.errors import ConfigError
from rivet_fleet.planning.config.connections import (
    known_secrets,
    named_variables,
    secrets_in_url,
    spellings,
    state_url,
)
from rivet_fleet.planning.config.destinations import apart
from rivet_fleet.planning.config.digests import digests
from rivet_fleet.planning.config.document import (
    Document,
    Variables,
    check_shape,
    keep_written,
    read_document,
    unknown_key,
)
from rivet_fleet.planning.config.loaded import (
    LoadedConfig,
    all_sources,
    source_key,
)
from rivet_fleet.planning.config.models import (
    DestinationConfig,
    FleetConfig,
)
from rivet_fleet.planning.config.problems import (
    MODE_UNSUPPORTED,
    ConfigKey,
    Problem,
    config_error,
    dotted,
)
from rivet_fleet.planning.config.protection import EngineSignals
from rivet_fleet.planning.config.rules import check_rules
from rivet_fleet.planning.config.sql import (
    PlaceParameters,
    in_sql,
    misplaced_secrets,
    read_sql,
    secrecy_of,
    with_signals,
)

# ------------------------------------------------------------------------------------------
# Settings a Rivet YAML may hold that do nothing here yet: a table, each with its answer.
#
# What would change the data is refused in a sentence; what only advises is dropped with a
# warning. A setting that is switched off (``false``, null, empty) asks for nothing.

_EXPORT_REFUSED = {
    "tables": "several tables in one export",
    "cdc": "change capture",
}
_MODES_REFUSED = ("cdc",)
_DESTINATION_REFUSED = (
    "bucket",
    "prefix",
    "region",
    "endpoint",
    "access_key_env",
    "secret_key_env",
    "session_token_env",
    "aws_profile",
    "credentials_file",
    "account_name",
    "account_key_env",
    "sas_token_env",
    "allow_anonymous",
)
_DESTINATION_TYPES = ("s3", "gcs", "azure", "stdout")
DROPPED = {
    "notifications": "nothing is sent yet",
    "load": "files are written, no warehouse is loaded",
}
_ALERTS = "notifications"
"""Whoever wrote it relies on being woken: that nobody will be is an error, until it is known."""
_KNOWN = "ignored_settings"
ALERT_DROPPED = "RIVET_CONFIG_ALERT_DROPPED"


@dataclass(slots=True, kw_only=True)
class Screened:
    """What is left of the file, what is refused, and what was dropped with a word."""

    plain: dict[str, Any] = field(repr=False)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[tuple[ConfigKey, str]] = field(default_factory=list)

    def refuse(self, at: ConfigKey, what: str, code: str | None = None) -> None:
        """Known, not supported yet: said in one sentence."""
        self.problems.append(
            Problem(
                at=at,
                what=dotted(at),
                reason=f"known in Rivet, not supported yet: {what}",
                suggestion="remove it, or extract this export with Rivet",
                about_key=True,
                code=code,
            )
        )


def screen(plain: dict[str, Any], destinations: DestinationKinds) -> Screened:
    """Take Rivet's other settings out of the parsed file. ``plain`` itself stays as it is."""
    screened = Screened(plain=dict(plain))
    _drop(screened, screened.plain, ())
    exports = plain.get("exports")
    if isinstance(exports, list):
        screened.plain["exports"] = [
            _screen_export(screened, one, ("exports", i), destinations)
            for i, one in enumerate(exports)
        ]
    return screened


def _drop(screened: Screened, block: dict[str, Any], at: ConfigKey) -> None:
    for name, why in DROPPED.items():
        if name in block:
            if _asks_for_something(block[name]):
                if name == _ALERTS and _ALERTS not in (block.get(_KNOWN) or ()):
                    screened.problems.append(_dropped_alert((*at, name)))
                else:
                    text = f"{dotted((*at, name))} is ignored: {why}"
                    screened.warnings.append(((*at, name), text))
            del block[name]


def _dropped_alert(at: ConfigKey) -> Problem:
    return Problem(
        at=at,
        what=dotted(at),
        reason="nothing is sent yet: nobody would be told of a failure",
        suggestion=f"watch exit codes or `metrics --prometheus` instead, and write `{_KNOWN}: "
        f"[{_ALERTS}]` to say so",
        code=ALERT_DROPPED,
        about_key=True,
    )


def _screen_export(
    screened: Screened, export: Any, at: ConfigKey, destinations: DestinationKinds
) -> Any:
    if not isinstance(export, dict):
        return export
    kept = dict(export)
    _drop(screened, kept, at)
    for name, what in _EXPORT_REFUSED.items():
        if name in kept:
            if _asks_for_something(kept[name]):
                screened.refuse((*at, name), what)
            del kept[name]
    if kept.get("mode") in _MODES_REFUSED:
        screened.refuse(
            (*at, "mode"),
            f"mode {kept['mode']}; use full, chunked or incremental",
            MODE_UNSUPPORTED,
        )
        del kept["mode"]
    if isinstance(kept.get("destination"), dict):
        kept["destination"] = _screen_destination(
            screened, kept["destination"], (*at, "destination"), destinations
        )
    return kept


def _screen_destination(
    screened: Screened,
    block: dict[str, Any],
    at: ConfigKey,
    destinations: DestinationKinds,
) -> dict[str, Any]:
    kept = dict(block)
    kind = kept.get("type")
    elsewhere = kind in _DESTINATION_TYPES and kind not in destinations
    if elsewhere:
        screened.refuse((*at, "type"), f"destination type {kind}; use local")
        kept["type"] = next(iter(sorted(destinations)), kind)
        kept.setdefault("path", ".")
    rules = destinations.get(kind) if isinstance(kind, str) else None
    own = rules.settings if rules is not None else {}
    for name in [name for name in kept if name not in DestinationConfig.model_fields]:
        asks = _asks_for_something(kept[name])
        if name in own and asks:
            continue
        if name not in own and name not in _DESTINATION_REFUSED:
            screened.problems.append(unknown_key((*at, name)))
        elif name not in own and asks and not elsewhere:
            screened.refuse((*at, name), "a setting of an object store")
        del kept[name]
    return kept


def _is_dropped(at: ConfigKey) -> bool:
    """True within what is read by nobody: nothing of it is kept, or shown."""
    own = at[2:] if at[:1] == ("exports",) else at
    return bool(own) and own[0] in DROPPED


def _asks_for_something(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_asks_for_something(one) for one in value.values())
    return value not in (None, False, [], "")


__all__ = ["CONFIG_BYTES_MAX", "Installed", "LoadedConfig", "load_config", "state_url"]

CONFIG_BYTES_MAX = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What this installation has: the versions of each seam, and what they say of themselves.
    ``default_ports`` by engine; ``place_parameters`` knows the engines' SQL."""

    engines: frozenset[str]
    destinations: DestinationKinds
    formats: frozenset[str]
    engine_signals: EngineSignals
    default_ports: Mapping[str, int]
    place_parameters: PlaceParameters


def load_config(
    path: Path, *, params: Mapping[str, str], environ: Mapping[str, str], installed: Installed
) -> LoadedConfig:
    """Read and check one configuration file.

    ``params`` before ``environ`` give its ``${NAME}``s their values. Raises ConfigError that
    lists everything wrong, each with ``file:line:column``, reason and suggestion. Connects to
    nothing; reads the file and its ``query_file``s only.
    """
    variables = Variables(params=params, environ=environ)
    document = read_document(_read_text(path, "the configuration"), str(path), variables)
    secrecy = secrecy_of(document, variables)
    declared, misplaced = misplaced_secrets(document, secrecy)
    kept = [one for one in misplaced if not _is_dropped(one.at)]
    document = replace(document, problems=(*document.problems, *kept))
    secrets = spellings([*_secret_texts(document.plain), *declared])
    rules = partial(
        check_rules,
        engines=installed.engines,
        destinations=installed.destinations,
        formats=installed.formats,
        engine_signals=installed.engine_signals,
    )
    config, warnings = _checked(document, secrets, installed.destinations, rules)
    keep_written(config, document, variables)
    config, shared = apart(config, installed.destinations, path.absolute().parent)
    warnings += [f"{document.places.where(at)}: {text}" for at, text in shared]
    secrets = spellings([*secrets, *known_secrets(config, environ)])
    named = named_variables(config, installed.destinations)
    sql = read_sql(
        config,
        path,
        secrecy,
        installed.place_parameters,
        lambda file, key: _read_text(file, f"{document.places.file}: {key}"),
    )
    if sql.problems:
        raise config_error(document.places, sql.problems, secrets)
    config = with_signals(config, sql.signals)
    hidden = [*declared, *(one.value for one in sql.secrets.values())]
    secrets = spellings([*secrets, *hidden, *(text for one in hidden for text in in_sql(one))])
    warnings += [f"{document.places.where(at)}: {text}" for at, text in sql.notes]
    warnings += [f"--param {name} is not used by {path.name}" for name in variables.unused()]
    digest, sections = digests(
        config, path=path, queries=sql.queries, default_ports=installed.default_ports
    )
    return LoadedConfig(
        config=config,
        path=path,
        digest=digest,
        sections=sections,
        warnings=tuple(redact(text, secrets) for text in warnings),
        secrets=secrets,
        queries=sql.queries,
        parameters=sql.secrets,
        templates=frozenset(sql.templates),
        environ={name: environ[name] for name in named if name in environ},
        places=document.places,
        default_ports=dict(installed.default_ports),
        destinations=dict(installed.destinations),
    )


def _checked(
    document: Document,
    secrets: tuple[str, ...],
    destinations: DestinationKinds,
    rules: Callable[[FleetConfig], list[Problem]],
) -> tuple[FleetConfig, list[str]]:
    problems = list(document.problems)
    plain, warnings = document.plain, []
    if isinstance(plain, dict):
        screened = screen(plain, destinations)
        plain = screened.plain
        problems += screened.problems
        warnings = [
            f"{document.places.where(at, about_key=True)}: {text}" for at, text in screened.warnings
        ]
    config, found = check_shape(plain)
    problems += found
    if config is not None and not problems:
        problems += rules(config)
    if config is None or problems:
        raise config_error(document.places, problems, secrets)
    return config, warnings + [
        f"{document.places.where(at)}: {text}" for at, text in _advice(config)
    ]


def _advice(config: FleetConfig) -> list[tuple[ConfigKey, str]]:
    """Settings that are accepted but decided by the fleet, and secrets in plain sight."""
    found: list[tuple[ConfigKey, str]] = []
    for name in ("parallel_exports", "parallel_export_processes"):
        if getattr(config, name):
            found.append(((name,), f"{name} is ignored: the fleet's workers share all chunks"))
    for index, export in enumerate(config.exports):
        at: ConfigKey = ("exports", index)
        for name, instead in (("parallel_safe", "source_groups decide"),):
            if getattr(export, name) is not None:
                found.append(((*at, name), f"{dotted((*at, name))} is ignored: {instead}"))
        if export.parallel is not None and config.campaign.workers is not None:
            where = (*at, "parallel")
            found.append((where, f"{dotted(where)} is ignored: campaign.workers decides"))
        if export.wave is not None and not config.campaign.waves:
            where = (*at, "wave")
            found.append((where, f"{dotted(where)} is ignored: campaign.waves is off"))
        found += _tuning_advice(export.tuning.model_fields_set, at)
    for name, source in all_sources(config).items():
        at = source_key(config, name)
        found += _tuning_advice(source.tuning.model_fields_set, at)
        if source.password is not None:
            found.append(
                ((*at, "password"), f"{dotted((*at, 'password'))} is in the file; use password_env")
            )
        if source.url is not None and any(secrets_in_url(source.url.get_secret_value())):
            found.append(
                ((*at, "url"), f"{dotted((*at, 'url'))} holds a password; use url_env or url_file")
            )
    return found


def _tuning_advice(given: set[str], at: ConfigKey) -> list[tuple[ConfigKey, str]]:
    ignored = {
        "memory_threshold_mb": "campaign.worker_memory_mb is the ceiling",
        "on_batch_memory_exceeded": "pages shrink to fit",
        "adaptive": "pages always follow the time target",
        "min_parallel": "campaign.workers decides",
    }
    return [
        ((*at, "tuning", name), f"{dotted((*at, 'tuning', name))} is ignored: {why}")
        for name, why in ignored.items()
        if name in given
    ]


def _secret_texts(plain: object) -> list[str]:
    """Secrets as they stand in the parsed file, before anything is known to be right."""
    found: list[str] = []
    if isinstance(plain, dict):
        for key, value in plain.items():
            if isinstance(value, (dict, list)):
                found += _secret_texts(value)
            elif key == "password" or (key == "url" and "://" not in str(value)):
                found.append(str(value or ""))
            elif key == "url":
                found += secrets_in_url(str(value))
    elif isinstance(plain, list):
        for item in plain:
            found += _secret_texts(item)
    return found


def _read_text(path: Path, what: str) -> str:
    try:
        with path.open("rb") as file:
            body = file.read(CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(
            f"{what} {path} cannot be read: {error.strerror or 'unknown reason'}",
            hint="check the path and its permissions",
        ) from None
    if len(body) > CONFIG_BYTES_MAX:
        raise ConfigError(f"{what} {path} is larger than {CONFIG_BYTES_MAX} bytes")
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: {what} is not UTF-8 text") from None


# ------------------------------------------------------------------------------------------
# The configuration's JSON Schema, for editors: generated from the models.

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_VARIABLE = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*\}"}
_PLAIN_TYPES = ("integer", "number", "boolean")


def config_json_schema(destinations: DestinationKinds) -> dict[str, Any]:
    """Draft 2020-12, the program's version in its title.

    Numbers, flags and choices may also be written as ``${VAR}``. ``destinations`` bring their own
    settings.
    """
    generated = FleetConfig.model_json_schema()
    known = generated["$defs"]["DestinationConfig"]["properties"]
    for kind in destinations.values():
        for name, setting in kind.settings.items():
            known.setdefault(name, {"type": "string", "description": setting.meaning})
    schema: dict[str, Any] = _with_variables(generated)
    for block in (schema, schema["$defs"]["ExportConfig"]):
        for name, why in DROPPED.items():
            block["properties"][name] = {"description": f"Accepted and ignored: {why}."}
    return {
        **schema,
        "$schema": DIALECT,
        "title": f"rivet-fleet configuration {__version__}",
    }


def _with_variables(node: Any) -> Any:
    if isinstance(node, list):
        return [_with_variables(one) for one in node]
    if not isinstance(node, dict):
        return node
    walked = {key: _with_variables(value) for key, value in node.items()}
    if walked.get("type") in _PLAIN_TYPES or isinstance(walked.get("enum"), list):
        outer = {k: walked.pop(k) for k in ("title", "default", "description") if k in walked}
        return {**outer, "anyOf": [walked, dict(_VARIABLE)]}
    return walked
