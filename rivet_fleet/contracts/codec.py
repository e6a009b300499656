"""Frozen values to plain JSON and back, so that plans, ranges and receipts survive a process."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar, cast

T = TypeVar("T")


def to_plain(value: object) -> Any:
    """Dataclasses, enums and tuples as dicts, strings and lists. ``None`` fields are kept."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(v) for v in value]
    return value


def canonical_json(plain: object) -> bytes:
    """Key-sorted, minimal JSON: equal values give equal bytes."""
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def dumps(value: object) -> str:
    """A value as canonical JSON text."""
    return canonical_json(to_plain(value)).decode()


def loads(kind: type[T], text: str) -> T:
    """The value that ``dumps`` wrote. Unknown fields are ignored, missing ones take defaults."""
    return from_plain(kind, json.loads(text))


def loads_checked(kind: type[T], text: str) -> T:
    """``loads`` for a text that nobody vouches for: every scalar, too, is of its type. Raises
    ValueError or TypeError."""
    value = loads(kind, text)
    if not fits(kind, value):
        raise TypeError(f"{text[:40]!r} is no {kind.__name__}")
    return value


def fits(kind: Any, value: object) -> bool:
    """Whether a value is of its annotation, whatever lies in it: every field of a dataclass, every
    element, every scalar. A float is finite; what is none of the codec's kinds fits."""
    return _fitting(kind)(value)


_Fits = Callable[[Any], bool]


@cache
def _fitting(kind: Any) -> _Fits:
    """``fits`` of one annotation: what it is made of is found out once, not for each value."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        options = tuple(map(_fitting, inner))
        return lambda value: any(one(value) for one in options)
    if origin is tuple:
        return _elements_fit(inner)
    if origin in (dict, Mapping):
        name, one = map(_fitting, inner)
        return lambda value: (
            isinstance(value, Mapping) and all(name(k) and one(v) for k, v in value.items())
        )
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _fields_fit(kind)
    if kind is float:
        return lambda value: type(value) in (int, float) and math.isfinite(value)
    if kind in (str, int, bool, types.NoneType):
        return lambda value: type(value) is kind
    if isinstance(kind, type) and issubclass(kind, Enum):
        return lambda value: isinstance(value, kind)
    return lambda _: True


def _fields_fit(kind: type) -> _Fits:
    found: list[tuple[Callable[[Any], Any], _Fits]] = []

    def fit(value: Any) -> bool:
        if not found:  # Not before: a field may be of the class itself.
            hints = _hints(kind)
            named = [one.name for one in dataclasses.fields(kind)]
            found.extend((attrgetter(name), _fitting(hints[name])) for name in named)
        return isinstance(value, kind) and all(fit(get(value)) for get, fit in found)

    return fit


def _elements_fit(kinds: tuple[Any, ...]) -> _Fits:
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        every = _fitting(kinds[0])
        return lambda value: isinstance(value, tuple) and all(map(every, value))
    each = tuple(map(_fitting, kinds))
    return lambda value: (
        isinstance(value, tuple)
        and len(each) == len(value)
        and all(fit(one) for fit, one in zip(each, value, strict=True))
    )


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def from_plain(kind: type[T], plain: Any) -> T:
    """Build ``kind`` from plain JSON. Raises TypeError when the shapes do not agree."""
    return cast(T, _build(kind, plain))


def _build(kind: Any, plain: Any) -> Any:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        options = [a for a in typing.get_args(kind) if a is not type(None)]
        if plain is None:
            return None
        return _build(options[0], plain)
    if origin is tuple:
        args = typing.get_args(kind)
        return tuple(_build(args[0], item) for item in plain)
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return dict(plain)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(plain)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _build_dataclass(kind, plain)
    return plain


def _build_dataclass(kind: type, plain: Any) -> Any:
    if not isinstance(plain, Mapping):
        raise TypeError(f"{kind.__name__} needs an object, not {type(plain).__name__}")
    hints = _hints(kind)
    known = {f.name for f in dataclasses.fields(kind)}
    return kind(**{k: _build(hints[k], v) for k, v in plain.items() if k in known})
