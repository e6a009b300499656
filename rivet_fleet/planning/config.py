"""Loading a configuration: read, replace variables, check everything, digest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from rivet_fleet.contracts.url import redact
from rivet_fleet.errors import ConfigError
from rivet_fleet.planning.config_check import check_shape
from rivet_fleet.planning.config_digest import digests
from rivet_fleet.planning.config_models import FleetConfig
from rivet_fleet.planning.config_rivet import screen
from rivet_fleet.planning.config_rules import check_rules
from rivet_fleet.planning.config_sql import PlaceParameters, read_sql, with_signals
from rivet_fleet.planning.config_yaml import Document, Variables, read_document
from rivet_fleet.planning.connections import (
    known_secrets,
    named_variables,
    secrets_in_url,
    spellings,
    state_url,
)
from rivet_fleet.planning.loaded import LoadedConfig, all_sources, source_key
from rivet_fleet.planning.problems import ConfigKey, Problem, config_error, dotted
from rivet_fleet.planning.protection import EngineSignals

__all__ = ["CONFIG_BYTES_MAX", "LoadedConfig", "load_config", "state_url"]

CONFIG_BYTES_MAX = 4 * 1024 * 1024


def load_config(
    path: Path,
    *,
    params: Mapping[str, str],
    environ: Mapping[str, str],
    engines: frozenset[str],
    destinations: frozenset[str],
    formats: frozenset[str],
    engine_signals: EngineSignals,
    default_ports: Mapping[str, int],
    place_parameters: PlaceParameters,
) -> LoadedConfig:
    """Read and check one configuration file.

    ``engines``, ``destinations``, ``formats`` and ``engine_signals`` are what this installation
    has; ``place_parameters`` knows its engines' SQL. Raises ConfigError that lists everything
    wrong, each with ``file:line:column``, reason and suggestion. Connects to nothing; reads the
    file and its ``query_file``s only.
    """
    variables = Variables(params=params, environ=environ)
    document = read_document(_read_text(path, "the configuration"), str(path), variables)
    secrets = spellings(_secret_texts(document.plain))
    rules = partial(
        check_rules,
        engines=engines,
        destinations=destinations,
        formats=formats,
        engine_signals=engine_signals,
    )
    config, warnings = _checked(document, secrets, destinations, rules)
    secrets = spellings([*secrets, *known_secrets(config, environ)])
    sql = read_sql(
        config,
        path,
        variables,
        place_parameters,
        lambda file, key: _read_text(file, f"{document.places.file}: {key}"),
    )
    if sql.problems:
        raise config_error(document.places, sql.problems, secrets)
    config = with_signals(config, sql.signals)
    hidden = [one.value for one in sql.secrets.values()]
    secrets = spellings([*secrets, *hidden, *(text for one in hidden for text in _in_sql(one))])
    warnings += [f"{document.places.where(at)}: {text}" for at, text in sql.notes]
    warnings += [f"--param {name} is not used by {path.name}" for name in variables.unused()]
    digest, sections = digests(config, path=path, queries=sql.queries, default_ports=default_ports)
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
        environ={name: environ[name] for name in named_variables(config) if name in environ},
        places=document.places,
        default_ports=dict(default_ports),
    )


def _checked(
    document: Document,
    secrets: tuple[str, ...],
    destinations: frozenset[str],
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
        for name, instead in (
            ("parallel", "campaign.workers and source_groups decide"),
            ("parallel_safe", "source_groups decide"),
            ("reconcile_required", "nothing is reconciled yet"),
        ):
            if getattr(export, name) is not None:
                found.append(((*at, name), f"{dotted((*at, name))} is ignored: {instead}"))
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


def _in_sql(secret: str) -> tuple[str, ...]:
    """As it stands in a statement, which a server's message may repeat."""
    doubled = secret.replace("'", "''")
    return doubled, doubled.replace("\\", "\\\\"), secret.encode(errors="replace").hex()


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
