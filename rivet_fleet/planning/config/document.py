"""YAML to plain values with the place of every key, and ``${VAR}`` taken from given values.

Scalars follow YAML 1.2 (``on``, ``yes`` and dates are text); duplicate keys are refused.
Variables are replaced inside scalars after parsing, so a value can never add structure;
``${$}`` stands for a dollar sign, so that a name may hold ``${``.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from rivet_fleet.contracts.parameters import DOLLAR, VARIABLE
from rivet_fleet.planning.config.models import FleetConfig
from rivet_fleet.planning.config.problems import (
    COUNT_INVALID,
    DAYS_INVALID,
    NO_EXPORTS,
    ConfigKey,
    Places,
    Problem,
    close_match,
    config_error,
    did_you_mean,
    dotted,
)

NODES_MAX = 200_000
"""Aliases are followed; this bounds what a small hostile file can grow into."""
DEPTH_MAX = 50

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HALF = re.compile(r"[\ud800-\udfff]")
"""One half of a pair: an escape of JSON's, or a byte of the environment's that is no UTF-8. Such a
text cannot be written anywhere."""


class _CoreLoader(yaml.SafeLoader):
    """SafeLoader with the scalars of the YAML 1.2 core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
):
    for _letter in _first:
        _CoreLoader.yaml_implicit_resolvers.setdefault(
            "" if _letter == "\0" else _letter, []
        ).append((f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z")))


@dataclass(slots=True, kw_only=True)
class Variables:
    """``${NAME}`` from ``--param`` first, then from the environment; strict (bug class 88)."""

    params: Mapping[str, str] = field(repr=False)
    environ: Mapping[str, str] = field(repr=False)
    used: set[str] = field(default_factory=set)
    variables: dict[str, str] = field(default_factory=dict)
    """Name → the environment variable that holds it, where ``params:`` says another."""

    def value(self, name: str) -> str | None:
        """What ``${name}`` stands for; None when it is not set."""
        if name in self.params:
            self.used.add(name)
            return self.params[name]
        return self.environ.get(self.variables.get(name, name))

    def replace(self, text: str, at: ConfigKey, problems: list[Problem]) -> str:
        """``text`` with every variable replaced; unset ones become problems."""

        def one(found: re.Match[str]) -> str:
            name = found[1]
            if name == DOLLAR:
                return DOLLAR
            value = self.value(name)
            if value is None:
                problems.append(_unset(name, at, self.variables.get(name, name)))
            return value or ""

        return VARIABLE.sub(one, text)

    def written_out(self, path: str) -> str:
        """A path down to its first variable, which stays: what it holds is nobody's who wrote the
        path, and may be known before a run. One that it begins with and that holds a whole path
        is a place that was chosen, as one that is written."""
        found, behind = "", 0
        for one in VARIABLE.finditer(path):
            value = DOLLAR if one[1] == DOLLAR else self.value(one[1]) or ""
            found, behind = found + path[behind : one.start()], one.end()
            if one[1] != DOLLAR and (one.start() or not value.startswith("/")):
                return found + one[0]
            found += value
        return found + path[behind:]

    def unused(self) -> list[str]:
        """Parameters that nothing asked for."""
        return sorted(set(self.params) - self.used)


def _unset(name: str, at: ConfigKey, variable: str) -> Problem:
    if not _NAME.fullmatch(name):
        return Problem(
            at=at,
            what=dotted(at),
            reason="${…} must hold a variable name (letters, digits and underscores)",
        )
    return Problem(
        at=at,
        what=dotted(at),
        reason=f"the variable ${{{name}}} is not set",
        suggestion=f"pass --param {name}=VALUE or export {variable}=VALUE",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A parsed file: plain values (never shown: they may hold secrets) and their places."""

    plain: Any = field(repr=False)
    places: Places = field(repr=False)
    problems: tuple[Problem, ...]
    templates: tuple[tuple[ConfigKey, str], ...] = field(default=(), repr=False)
    """Texts that refer to variables, as they are written."""


class _Builder:
    """Walks the composed nodes once."""

    def __init__(self, loader: _CoreLoader, variables: Variables) -> None:
        self.loader = loader
        self.variables = variables
        self.keys: dict[ConfigKey, tuple[int, int]] = {}
        self.values: dict[ConfigKey, tuple[int, int]] = {}
        self.problems: list[Problem] = []
        self.templates: list[tuple[ConfigKey, str]] = []
        self.count = 0

    def build(self, node: yaml.Node, at: ConfigKey) -> Any:
        """The plain value of one node."""
        self.count += 1
        self.values[at] = (node.start_mark.line + 1, node.start_mark.column + 1)
        if self.count > NODES_MAX or len(at) > DEPTH_MAX:
            if not any(p.what == "the file" for p in self.problems):
                self.problems.append(
                    Problem(at=at, what="the file", reason="is nested too deeply or too large")
                )
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, at)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*at, i)) for i, item in enumerate(node.value)]
        return self._scalar(node, at)

    def _mapping(self, node: yaml.MappingNode, at: ConfigKey) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            here = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if not isinstance(key_node, yaml.ScalarNode):
                self.values[(*at, "?")] = here
                self.problems.append(
                    Problem(
                        at=(*at, "?"),
                        what=dotted(at),
                        reason="a key must be plain text",
                        suggestion="put text with braces or brackets in quotes",
                    )
                )
                continue
            key = str(key_node.value)
            step = (*at, key)
            if half := _HALF.search(key):
                step = (*at, _HALF.sub("\ufffd", key))
                self.keys[step] = here
                self.problems.append(_half(half, step, about_key=True))
                continue
            if key in found:
                first = self.keys[step][0]
                self.keys[step] = here
                self.problems.append(
                    Problem(
                        at=step,
                        what=dotted(step),
                        reason=f"this key is already given in line {first}",
                        suggestion="keep one of them",
                        about_key=True,
                    )
                )
                continue
            self.keys[step] = here
            found[key] = self.build(value_node, step)
        return found

    def _scalar(self, node: yaml.Node, at: ConfigKey) -> Any:
        if isinstance(node.value, str) and "${" in node.value:
            self.templates.append((at, node.value))
            # Stays text: a number field reads digits, and nothing is quoted twice.
            replaced = self.variables.replace(node.value, at, self.problems)
            return self._whole(node.value if is_sql(at) else replaced, at)
        try:
            return self._whole(self.loader.construct_object(node, deep=True), at)
        except (yaml.YAMLError, ValueError, LookupError, AttributeError):
            # The last two: a tag (`!!bool x`, `!!timestamp x`) over what it cannot hold.
            self.problems.append(
                Problem(at=at, what=dotted(at), reason="this value cannot be read as YAML")
            )
            return None

    def _whole(self, value: Any, at: ConfigKey) -> Any:
        if isinstance(value, str) and (half := _HALF.search(value)):
            self.problems.append(_half(half, at))
            return _HALF.sub("\ufffd", value)
        return value


def keep_written(config: FleetConfig, document: Document, variables: Variables) -> None:
    """Let each destination know how much of its place is written out: links are followed so far
    (``DestinationPlan.anchor``)."""
    for at, text in document.templates:
        if at[:1] == ("exports",) and isinstance(at[1], int) and at[2:3] == ("destination",):
            destination = config.exports[at[1]].destination
            if at[3:] == destination.below[:1]:
                destination.keep_written(variables.written_out(text))


def is_sql(at: ConfigKey) -> bool:
    """True for settings that hold SQL: what a variable is there, its place in the SQL decides."""
    if len(at) == 3:
        return at[0] == "exports" and at[2] == "query"
    return (
        len(at) == 6
        and at[0] == "source_groups"
        and at[2:4] == ("monitor", "signals")
        and (at[5] == "sql")
    )


def _declared(node: yaml.Node, variables: Variables) -> dict[str, str]:
    """Which environment variables ``params:`` names; what is wrong with it is found later."""
    blocks = [value for key, value in _pairs(node) if key.value == "params"]
    found: dict[str, str] = {}
    for name, block in _pairs(blocks[0]) if blocks else ():
        for key, value in _pairs(block):
            if getattr(key, "value", None) == "env" and isinstance(value.value, str):
                found[str(name.value)] = value.value
    return found


def _pairs(node: yaml.Node) -> list[tuple[yaml.Node, yaml.Node]]:
    """A mapping's; of anything else none."""
    return node.value if isinstance(node, yaml.MappingNode) else []


def _half(found: re.Match[str], at: ConfigKey, *, about_key: bool = False) -> Problem:
    return Problem(
        at=at,
        what=dotted(at),
        reason=f"holds \\u{ord(found[0]):04x}, which is no character but half of one",
        suggestion="write the character itself, or its whole number: \\U0001F600, not two halves",
        about_key=about_key,
    )


def read_document(text: str, file: str, variables: Variables) -> Document:
    """Parse ``text``. Raises ConfigError with line and column when it is not YAML at all."""
    loader = None
    try:
        loader = _CoreLoader(text)
        node = loader.get_single_node()
        if isinstance(node, yaml.MappingNode):
            variables.variables = _declared(node, variables)
        builder = _Builder(loader, variables)
        plain = builder.build(node, ()) if node is not None else None
    except yaml.YAMLError as error:
        raise _syntax_error(text, file, error) from None
    except RecursionError:
        deep = Problem(at=(), what="the file", reason="is nested too deeply")
        raise config_error(Places(file=file), [deep]) from None
    finally:
        if loader is not None:
            loader.dispose()
    places = Places(file=file, keys=builder.keys, values=builder.values)
    return Document(
        plain=plain,
        places=places,
        problems=tuple(builder.problems),
        templates=tuple(builder.templates),
    )


def _syntax_error(text: str, file: str, error: yaml.YAMLError) -> Exception:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = mark.line if mark else 0
    column = mark.column if mark else 0
    lines = text.splitlines()
    near = lines[max(0, line - 1) : line + 1]
    reason = str(getattr(error, "problem", None) or "it holds a character YAML does not allow")
    suggestion = None
    if "\\t" in reason or any(re.match(r"[ ]*\t", one) for one in near):
        reason = "a tab character is used for indentation"
        suggestion = "YAML allows only spaces there: replace the tab"
    elif any(re.search(r"(:|-)\s+[{\[@`%*&]", one) for one in near):
        suggestion = 'put text that begins with a special character in quotes: path: "{date}/x"'
    places = Places(file=file, values={(): (line + 1, column + 1)})
    problem = Problem(at=(), what="not valid YAML", reason=reason, suggestion=suggestion)
    return config_error(places, [problem])


# ------------------------------------------------------------------------------------------
# From parsed values to the models: each refusal with its place, its reason and a suggestion.
#
# No value of any setting is repeated, because a misplaced one may be a password.

_TEXT_HINT = "put it in quotes if it is meant as text"
_REASONS = {
    "missing": "is required",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "dict_type": "must be a block of keys and values",
    "model_type": "must be a block of keys and values",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
}

_CODES = {
    "exports": NO_EXPORTS,
    "chunk_count": COUNT_INVALID,
    "chunk_by_days": DAYS_INVALID,
}
"""Settings whose values have a stable code when they are wrong."""


def check_shape(plain: Any) -> tuple[FleetConfig | None, list[Problem]]:
    """The configuration, or everything that is wrong with its shape."""
    if not isinstance(plain, dict):
        return None, [
            Problem(
                at=(),
                what="the file",
                reason="must hold keys and values",
                suggestion="begin with source: and exports:",
            )
        ]
    try:
        return FleetConfig.model_validate(plain), []
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        return None, [_problem(dict(one), plain) for one in found]


def _problem(error: dict[str, Any], plain: Any) -> Problem:
    at: ConfigKey = tuple(error["loc"])
    kind = str(error["type"])
    if kind == "extra_forbidden":
        return unknown_key(at)
    code = _CODES.get(str(at[-1])) if at else None
    if kind == "missing":
        return Problem(at=at[:-1], what=dotted(at), reason="is required", code=code)
    reason = _REASONS.get(kind) or str(error["msg"]).removeprefix("Value error, ")
    suggestion = None
    value = _value_at(plain, at)
    if kind == "literal_error":
        reason, suggestion = _literal(error, value)
    elif kind == "string_type" and isinstance(value, dict):
        suggestion = 'text with braces needs quotes: "{date}"'
    elif kind == "string_type" and isinstance(value, (bool, int, float)):
        suggestion = _TEXT_HINT
    return Problem(
        at=at,
        what=dotted(at),
        reason=reason[0].lower() + reason[1:],
        suggestion=suggestion,
        code=code,
    )


def _literal(error: dict[str, Any], value: Any) -> tuple[str, str | None]:
    expected = str(error.get("ctx", {}).get("expected", ""))
    words = [word.strip(" '") for word in expected.replace(" or ", ",").split(",")]
    suggestion = did_you_mean(value, words) if isinstance(value, str) else None
    return f"must be one of {', '.join(words)}", suggestion


def _value_at(plain: Any, at: ConfigKey) -> Any:
    for step in at:
        try:
            plain = plain[step]
        except (KeyError, IndexError, TypeError):
            return None
    return plain


def unknown_key(at: ConfigKey) -> Problem:
    """A key that the block it stands in does not have: where it belongs, or what it is like."""
    word = str(at[-1])
    container = _model_at(at[:-1])
    known = tuple(container.model_fields) if container else ()
    home = _home_of(word, at[:-1])
    if home is not None:
        return Problem(
            at=at,
            what=dotted(at),
            reason="this key is in the wrong place",
            suggestion=f"{word!r} belongs under {home}",
            about_key=True,
        )
    near = close_match(word, known)
    suggestion = f"did you mean {near!r}?" if near else f"known keys here: {', '.join(known)}"
    return Problem(
        at=at, what=dotted(at), reason="unknown key", suggestion=suggestion, about_key=True
    )


def _inner_models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _inner_models(inner)


def _model_at(at: ConfigKey) -> type[BaseModel] | None:
    model: type[BaseModel] = FleetConfig
    in_container = False
    for step in at:
        if in_container:
            in_container = False
            continue
        info = model.model_fields.get(str(step))
        inner = next(_inner_models(info.annotation), None) if info else None
        if info is None or inner is None:
            return None
        in_container = typing.get_origin(info.annotation) in (dict, tuple, list)
        model = inner
    return model


def _homes() -> list[tuple[tuple[str, ...], str]]:
    """Every (path of the enclosing block, key) of the whole configuration."""
    found: list[tuple[tuple[str, ...], str]] = []

    def walk(model: type[BaseModel], path: tuple[str, ...]) -> None:
        for name, info in model.model_fields.items():
            found.append((path, name))
            for inner in _inner_models(info.annotation):
                walk(inner, (*path, name))

    walk(FleetConfig, ())
    return found


def _home_of(word: str, at: ConfigKey) -> str | None:
    """Where a key belongs when it exists elsewhere: the block nearest to where it stands."""
    here = tuple(str(step) for step in at if not isinstance(step, int))
    if here[:1] == ("sources",):
        here = ("source", *here[2:])
    candidates = [path for path, name in _homes() if name == word and path[:1] != ("sources",)]
    if not candidates or here in candidates:
        return None

    def distance(path: tuple[str, ...]) -> tuple[int, int]:
        shared = 0
        for mine, theirs in zip(here, path, strict=False):
            if mine != theirs:
                break
            shared += 1
        return (-shared, len(path))

    best = min(candidates, key=distance)
    if not best:
        return "the top of the file"
    return f"{best[-1]}:" if best[:-1] == here else f"{'.'.join(best)}:"
