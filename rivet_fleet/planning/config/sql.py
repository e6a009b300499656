"""The SQL of a configuration with its parameters in their places, by the rules of its engine."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rivet_fleet.contracts.parameters import (
    DOLLAR,
    VARIABLE,
    Parameter,
    ParameterType,
    Placed,
    references,
)
from rivet_fleet.errors import ConfigError
from rivet_fleet.planning.config.document import Document, Variables, is_sql
from rivet_fleet.planning.config.loaded import all_sources, source_name
from rivet_fleet.planning.config.models import FleetConfig
from rivet_fleet.planning.config.problems import ConfigKey, Problem, dotted
from rivet_fleet.planning.config.protection import monitored_source

PlaceParameters = Callable[[str, str, Mapping[str, Parameter], frozenset[str]], Placed]
"""(engine, template, values, names that stay references) → the SQL. Raises ConfigError."""
_TELLING = re.compile(
    r"password|passwd|pwd|passphrase|secret|token|credential|(?:api|access|private|account)_?key",
    re.IGNORECASE,
)
ReadFile = Callable[[Path, str], str]


@dataclass(slots=True, kw_only=True)
class Sql:
    """What the file says in SQL. ``queries`` by export, ``signals`` by (group, signal), in which
    ``secrets`` are referred to by name."""

    queries: dict[str, str] = field(default_factory=dict, repr=False)
    signals: dict[tuple[str, str], str] = field(default_factory=dict, repr=False)
    secrets: dict[str, Parameter] = field(default_factory=dict, repr=False)
    templates: set[str] = field(default_factory=set, repr=False)
    """Of the texts above, those that refer to secrets."""
    problems: list[Problem] = field(default_factory=list)
    notes: list[tuple[ConfigKey, str]] = field(default_factory=list)


def read_sql(
    config: FleetConfig,
    path: Path,
    variables: Variables,
    place: PlaceParameters,
    read_file: ReadFile,
) -> Sql:
    """Every query and every signal's SQL. Query files are relative to the configuration, never
    above it; ``read_file(path, key)`` reads one, or raises ConfigError."""
    found = Sql()
    work = _Work(config, variables, place, found)
    sources = all_sources(config)
    for index, export in enumerate(config.exports):
        at: ConfigKey = ("exports", index, "query" if export.query is not None else "query_file")
        text = export.query
        if export.query_file is not None:
            text = _file(path, export.query_file, at, found, read_file)
        if text is None:
            continue
        if export.query_file is not None:
            variables.replace(text, at, found.problems)
        engine = sources[source_name(config, export)].type
        placed = work.placed(engine, text, at)
        bare = placed.strip().rstrip(";").rstrip()
        if placed in found.templates:
            found.templates.add(bare)
        found.queries[export.name] = bare
    for where, engine, text in _signals(config):
        placed = work.placed(
            engine, text, ("source_groups", where[0], "monitor", "signals", where[1], "sql")
        )
        found.signals[where] = placed
    return found


def with_signals(config: FleetConfig, signals: Mapping[tuple[str, str], str]) -> FleetConfig:
    """The same configuration, its signals asking this SQL."""
    groups = dict(config.source_groups)
    for (name, signal), sql in signals.items():
        monitor = groups[name].monitor
        assert monitor is not None
        told = {**monitor.signals, signal: monitor.signals[signal].model_copy(update={"sql": sql})}
        groups[name] = groups[name].model_copy(
            update={"monitor": monitor.model_copy(update={"signals": told})}
        )
    return config.model_copy(update={"source_groups": groups}) if signals else config


def in_sql(secret: str) -> tuple[str, ...]:
    """As it stands in a statement, which a server's message may repeat."""
    doubled = secret.replace("'", "''")
    return doubled, doubled.replace("\\", "\\\\"), secret.encode(errors="replace").hex()


# ------------------------------------------------------------------------------------------
# Secret parameters elsewhere: what a plan, the state or a message holds as it is, is no place for
# one. Looked at before the file is known to be right: what is wrong with it is told, too.


def secret_by(name: str, kind: object, word: object) -> bool:
    """True for a parameter that is secret, by its declaration's own ``word`` or by its name."""
    if word is not None:
        return str(word).strip().lower() in ("true", "yes", "on", "1", "y", "t")
    return kind != "identifier" and _TELLING.search(name) is not None


def misplaced_secrets(
    document: Document, variables: Variables
) -> tuple[tuple[str, ...], list[Problem]]:
    """(values to redact, problems): the secret parameters that the file declares, and each that
    stands where neither SQL nor a source, the state's URL or a signal's query takes it in."""
    values, problems = [], []
    declared = document.plain.get("params") if isinstance(document.plain, dict) else None
    params = declared if isinstance(declared, dict) else {}

    def hidden(name: str) -> bool:
        block = params.get(name)
        said = block if isinstance(block, dict) else {}
        return secret_by(name, said.get("type"), said.get("secret"))

    values += [variables.value(name) for name in params if hidden(name)]
    for at, text in document.templates:
        for found in VARIABLE.finditer(text):
            name = found[1]
            if name == DOLLAR or not hidden(name) or _takes_secrets(at, text[: found.start()]):
                continue
            values.append(variables.value(name))
            problems.append(
                Problem(
                    at=at,
                    what=dotted(at),
                    reason=f"holds the secret parameter {name}, which plans, the state and "
                    "messages would show here",
                    suggestion="a secret belongs into SQL, a source's settings or behind the ? of "
                    f"a signal's URL; one that is none says so: params: {{{name}: "
                    "{secret: false}}",
                    code="RIVET_CONFIG_SECRET_MISPLACED",
                )
            )
    return tuple(value for value in values if value), problems


def _takes_secrets(at: ConfigKey, before: str) -> bool:
    if is_sql(at) or at[:1] in (("source",), ("sources",)) or at == ("state", "url"):
        return True
    asked = at[:1] == ("source_groups",) and at[2:4] == ("monitor", "signals")
    return asked and at[5:] == ("http",) and "?" in before and "#" not in before


class _Work:
    """One file's parameters."""

    def __init__(
        self, config: FleetConfig, variables: Variables, place: PlaceParameters, found: Sql
    ) -> None:
        self.config = config
        self.variables = variables
        self.place = place
        self.found = found

    def placed(self, engine: str, text: str, at: ConfigKey) -> str:
        if "${" not in text:
            return text
        values = {name: self.value(name) for name in references(text)}
        hidden = frozenset(name for name in values if self.is_secret(name))
        try:
            # With every value first: what a place cannot hold is said now, not by a worker.
            placed = self.place(engine, text, values, frozenset())
            if hidden:
                placed = self.place(engine, text, values, hidden)
                self.found.templates.add(placed.sql)
                self.found.secrets.update({name: values[name] for name in hidden})
        except ConfigError as error:
            self.found.problems.append(
                Problem(
                    at=at,
                    what=dotted(at),
                    reason=error.message,
                    suggestion=error.hint,
                    code=error.code,
                )
            )
            return ""
        self.found.notes += [(at, f"{dotted(at)}: {note}") for note in placed.notes]
        return placed.sql

    def is_secret(self, name: str) -> bool:
        declared = self.config.params.get(name)
        kind, word = (None, None) if declared is None else (declared.type, declared.secret)
        return secret_by(name, kind, word)

    def value(self, name: str) -> Parameter:
        declared = self.config.params.get(name)
        kind = declared.type if declared is not None else None
        return Parameter(
            value=self.variables.value(name) or "",
            type=ParameterType(kind) if kind is not None else None,
        )


def _signals(config: FleetConfig) -> Iterator[tuple[tuple[str, str], str, str]]:
    """((group, signal), engine, SQL)."""
    sources = all_sources(config)
    for name, group in config.source_groups.items():
        if group.monitor is None:
            continue
        for signal, asked in group.monitor.signals.items():
            if asked.sql is not None:
                source = sources[monitored_source(config, group.monitor)]
                yield (name, signal), source.type, asked.sql


def _file(path: Path, name: str, at: ConfigKey, found: Sql, read_file: ReadFile) -> str | None:
    inside = _inside(path.absolute().parent, name)
    if inside is None:
        found.problems.append(
            Problem(
                at=at,
                what=dotted(at),
                reason="must be a relative path below the configuration's folder",
            )
        )
        return None
    return read_file(inside, dotted(at))


def _inside(folder: Path, name: str) -> Path | None:
    """The file, or None when it is absolute, climbs, or escapes through a symbolic link."""
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        return None
    target = Path(os.path.realpath(folder / name))
    return target if target.is_relative_to(os.path.realpath(folder)) else None
