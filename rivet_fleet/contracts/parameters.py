"""Values for ``${NAME}`` in SQL: what is known about one, and how text refers to it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from itertools import groupby

VARIABLE = re.compile(r"\$\{([^}]*)\}")
DOLLAR = "$"
"""``${$}`` stands for a dollar sign, so that text may hold ``${``."""


PARAMETER_CHANGED = "RIVET_PARAMETER_CHANGED"
"""A secret has another value than when the plan was made."""
PARAMETER_NAMED = "RIVET_PARAMETER_NAMED"
"""A column's name, made by the server of the query's text, holds a secret."""
PARAMETER_MISSING = "RIVET_PARAMETER_MISSING"


class ParameterType(Enum):
    """What a parameter's value is to SQL. Undeclared, its place and its own look decide."""

    TEXT = "text"
    NUMBER = "number"
    IDENTIFIER = "identifier"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One value. ``type`` None: nobody said. The value never appears in ``repr``."""

    value: str = field(repr=False)
    type: ParameterType | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """SQL with its parameters in their places, and what its author should know about it."""

    sql: str
    notes: tuple[str, ...] = ()


def references(text: str) -> tuple[str, ...]:
    """The names that ``text`` refers to, in order, each once."""
    found = (one[1] for one in VARIABLE.finditer(text) if one[1] != DOLLAR)
    return tuple(dict.fromkeys(found))


_PIECE = 6
"""So many letters in a row that stand in the whole SQL alone are a piece of a secret."""


def without_pieces(text: str, whole: str, template: str) -> str:
    """``text`` without what stands in ``whole`` and not in the ``template`` that it was made of.

    Servers and libpq show excerpts of a statement, which begin and end anywhere: half a secret is
    not recognised as one, in whichever spelling it stands in the SQL.
    """
    known = {template[at : at + _PIECE] for at in range(len(template))}
    pieces = {whole[at : at + _PIECE] for at in range(len(whole) - _PIECE + 1)} - known
    hidden = bytearray(len(text))
    for at in range(len(text) - _PIECE + 1):
        if text[at : at + _PIECE] in pieces:
            hidden[at : at + _PIECE] = b"\x01" * _PIECE
    runs = groupby(range(len(text)), key=hidden.__getitem__)
    return "".join(
        "***" if is_hidden else "".join(map(text.__getitem__, at)) for is_hidden, at in runs
    )


def escaped(text: str) -> str:
    """``text`` as one that refers to nothing and means the same."""
    return text.replace("${", "${$}{")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterSeal:
    """A secret parameter as a plan has it: its name, and by what its value is recognised.

    ``digest`` is slow to compute and salted, so that whoever reads a plan can neither look a
    value up nor see that two exports have the same; a word that is easily guessed stays one."""

    name: str
    digest: str


def seal(name: str, value: str, source_identity: str, query: str) -> ParameterSeal:
    """The seal of one value in a plan that reads this query there."""
    return ParameterSeal(name=name, digest=_digest(value, f"{name}\0{source_identity}\0{query}"))


@lru_cache(maxsize=64)
def _digest(value: str, salt: str) -> str:
    found = hashlib.scrypt(value.encode(), salt=salt.encode(), n=4096, r=8, p=1, dklen=16)
    return f"scrypt:{found.hex()}"
