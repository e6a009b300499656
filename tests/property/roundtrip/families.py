"""What a random schema is made of: one family for each type, with values in the server's syntax."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

Maker = Callable[[Random], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One column type. ``make`` gives values that fit, ``unfit`` those that only a policy lets
    through; ``canonical`` is what the product must call it."""

    ddl: str
    canonical: str
    make: Maker
    unfit: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    override: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A family under a name, and its values in row order; None is NULL."""

    name: str
    family: Family
    not_null: bool = False
    values: list[str | None] = field(default_factory=list)


def fill(column: Column, rng: Random, rows: int, *, unfit: bool) -> None:
    """Values: some NULL where it may be, some unfit where they may be."""
    family = column.family
    for _ in range(rows):
        pick = rng.random()
        if pick < 0.1 and not column.not_null:
            column.values.append(None)
        elif pick < 0.2 and unfit and family.unfit:
            column.values.append(rng.choice(family.unfit))
        else:
            column.values.append(family.make(rng))
