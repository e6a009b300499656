"""The SQL of a configuration with its parameters in their places, by the rules of its engine."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rivet_fleet.contracts.destination import names_variable
from rivet_fleet.contracts.parameters import (
    DOLLAR,
    VARIABLE,
    Parameter,
    ParameterType,
    Placed,
    references,
)
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import ConfigError
from rivet_fleet.planning.config.connections import STATE_ENV, shown_options
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
    secrecy: Secrecy,
    place: PlaceParameters,
    read_file: ReadFile,
) -> Sql:
    """Every query and every signal's SQL. Query files are relative to the configuration, never
    above it; ``read_file(path, key)`` reads one, or raises ConfigError."""
    found = Sql()
    work = _Work(config, secrecy, place, found)
    sources = all_sources(config)
    for index, export in enumerate(config.exports):
        at: ConfigKey = ("exports", index, "query" if export.query is not None else "query_file")
        text = export.query
        if export.query_file is not None:
            text = _file(path, export.query_file, at, found, read_file)
        if text is None:
            continue
        if export.query_file is not None:
            secrecy.variables.replace(text, at, found.problems)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrecy:
    """Which ``${NAME}`` of one file are secret, and whose secret each is, in words."""

    variables: Variables
    params: Mapping[str, Mapping[str, Any]]
    """What ``params:`` says, by name."""
    held: Mapping[str, str]
    """Environment variable → whose secret it holds: one name more makes it no less of one."""
    urls: frozenset[str]
    """Those of them that hold whole URLs."""

    def owner(self, name: str) -> str | None:
        """Whose secret ``${name}`` would show; None where it is none."""
        said = self.params.get(name, {})
        if _is_secret(name, said, self.variables):
            return f"the secret parameter {name}"
        return self.held.get(self._variable(name))

    def is_url(self, name: str) -> bool:
        """True for a variable that holds a whole URL, and is declared as nothing else."""
        return name not in self.params and self._variable(name) in self.urls

    def value(self, name: str) -> str:
        """What ``${name}`` stands for; nothing where it is not set."""
        return self.variables.value(name) or ""

    def _variable(self, name: str) -> str:
        return self.variables.variables.get(name, name)


def secrecy_of(document: Document, variables: Variables) -> Secrecy:
    """What the file says of secrets: by ``params:``, by a parameter's name, and by every setting
    that names the variable a secret is in."""
    plain = document.plain if isinstance(document.plain, dict) else {}
    declared = plain.get("params")
    params = {
        str(name): block if isinstance(block, dict) else {}
        for name, block in (declared.items() if isinstance(declared, dict) else ())
    }
    urls = frozenset(STATE_ENV)
    held = dict.fromkeys(STATE_ENV, "the state's URL")
    for at, variable in _naming(plain, ()):
        held[variable] = f"the secret that {dotted(at)} names"
        urls |= {variable} if at[-1] == "url_env" else set()
    for name, said in params.items():
        if _is_secret(name, said, variables):
            variable = variables.variables.get(name, name)
            held[variable] = f"the secret parameter {name}, which names that variable"
            urls -= {variable}
    return Secrecy(variables=variables, params=params, held=held, urls=urls)


def _is_secret(name: str, said: Mapping[str, Any], variables: Variables) -> bool:
    """True for a parameter that is secret: by its declaration's own word, else by its name or its
    variable's."""
    word = said.get("secret")
    if word is not None:
        return str(word).strip().lower() in ("true", "yes", "on", "1", "y", "t")
    names = (name, variables.variables.get(name, name))
    return said.get("type") != "identifier" and any(map(_TELLING.search, names))


def _naming(plain: object, at: ConfigKey) -> Iterator[tuple[ConfigKey, str]]:
    """(setting, variable) of every setting that names the variable a secret is in."""
    if isinstance(plain, dict):
        for name, one in plain.items():
            step = (*at, str(name))
            if name == "columns" and at[:1] == ("exports",) and len(at) == 2:
                continue  # They are called as their table calls them.
            if isinstance(one, str) and names_variable(str(name)):
                yield step, one
            yield from _naming(one, step)
    elif isinstance(plain, list):
        for index, one in enumerate(plain):
            yield from _naming(one, (*at, index))


def misplaced_secrets(
    document: Document, secrecy: Secrecy
) -> tuple[tuple[str, ...], list[Problem]]:
    """(values to redact, problems): the secret parameters that the file declares or refers to, and
    each that stands where neither SQL, a password nor a signal's query takes it in."""
    values = [secrecy.value(name) for name in secrecy.params if secrecy.owner(name) is not None]
    problems = []
    for at, text in document.templates:
        for found in VARIABLE.finditer(text):
            name = found[1]
            owner = None if name == DOLLAR else secrecy.owner(name)
            if owner is None:
                continue
            values.append(secrecy.value(name))
            problem = _misplaced(at, text, found, owner, secrecy)
            problems += [] if problem is None else [problem]
    return tuple(value for value in values if value), problems


def _misplaced(
    at: ConfigKey, text: str, found: re.Match[str], owner: str, secrecy: Secrecy
) -> Problem | None:
    """What is wrong with a secret that stands there; None where it is hidden."""
    name, before = found[1], text[: found.start()]
    asked = at[:1] == ("source_groups",) and at[2:4] == ("monitor", "signals")
    if is_sql(at) or (asked and at[5:] == ("http",) and "?" in before and "#" not in before):
        return None
    source = at[:1] == ("source",) or (at[:1] == ("sources",) and len(at) == 3)
    if source and at[-1] == "password" and len(at) > 1:
        return None
    reason = f"holds {owner}, which plans, the state and messages would show here"
    if at == ("state", "url") or (source and at[-1] == "url"):
        parted = secrecy.is_url(name) or _password_alone(text, name, secrecy.variables)
        if parted is True:
            return None
        if parted is None:
            reason = f"holds {owner}, whose value is read as more of the URL than a password"
        place = "it is a URL's password, percent-encoded; url_env: takes a variable with the whole"
    else:
        place = "a secret belongs into SQL, a source's password or behind the ? of a signal's URL"
    # Not as it is written in the file: whatever stands behind `token:` is masked.
    declared = f"; if {name} is none, set its `secret` under `params` to false"
    return Problem(
        at=at,
        what=dotted(at),
        reason=reason,
        suggestion=place + (declared if owner.endswith(f" {name}") else ""),
        code="RIVET_CONFIG_SECRET_MISPLACED",
    )


def _password_alone(text: str, name: str, variables: Variables) -> bool | None:
    """True when of a URL nothing but its password (or an option that is one) follows from the
    variable; None when that depends on its value."""

    def shown(params: Mapping[str, str]) -> object:
        given = replace(variables, params={**variables.params, **params})
        try:
            url = parse_database_url(given.replace(text, (), []).strip())
        except ValueError:
            return None
        return replace(url, password=None, options=shown_options(url))

    # Two that are digits and nothing else are told apart wherever they stand.
    one, other, as_it_is = shown({name: "1"}), shown({name: "2"}), shown({})
    if one is None or one != other:
        return False
    # What cannot be read connects to nothing, and says why.
    return True if as_it_is in (None, one) else None


class _Work:
    """One file's parameters."""

    def __init__(
        self, config: FleetConfig, secrecy: Secrecy, place: PlaceParameters, found: Sql
    ) -> None:
        self.config = config
        self.secrecy = secrecy
        self.place = place
        self.found = found

    def placed(self, engine: str, text: str, at: ConfigKey) -> str:
        if "${" not in text:
            return text
        values = {name: self.value(name) for name in references(text)}
        hidden = frozenset(name for name in values if self.secrecy.owner(name) is not None)
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

    def value(self, name: str) -> Parameter:
        declared = self.config.params.get(name)
        kind = declared.type if declared is not None else None
        return Parameter(
            value=self.secrecy.value(name),
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
