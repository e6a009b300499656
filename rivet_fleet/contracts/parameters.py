"""Values for ``${NAME}`` in SQL: what is known about one, and how text refers to it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum

VARIABLE = re.compile(r"\$\{([^}]*)\}")
DOLLAR = "$"
"""``${$}`` stands for a dollar sign, so that text may hold ``${``."""


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
