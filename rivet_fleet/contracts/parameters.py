"""Values for ``${NAME}`` in SQL: what is known about one, and how text refers to it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache

VARIABLE = re.compile(r"\$\{([^}]*)\}")
DOLLAR = "$"
"""``${$}`` stands for a dollar sign, so that text may hold ``${``."""


PARAMETER_CHANGED = "RIVET_PARAMETER_CHANGED"
"""A secret has another value than when the plan was made."""
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
