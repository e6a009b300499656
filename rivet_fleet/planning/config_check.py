"""From parsed values to the models: each refusal with its place, its reason and a suggestion.

No value of any setting is repeated, because a misplaced one may be a password.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from rivet_fleet.planning.config_models import FleetConfig
from rivet_fleet.planning.problems import (
    COUNT_INVALID,
    DAYS_INVALID,
    NO_EXPORTS,
    ConfigKey,
    Problem,
    close_match,
    did_you_mean,
    dotted,
)

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
        return _unknown_key(at)
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


def _unknown_key(at: ConfigKey) -> Problem:
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
