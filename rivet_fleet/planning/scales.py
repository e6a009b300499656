"""Key values as whole numbers, so that one arithmetic cuts integers, days and moments. Pure.

Moments are written without a zone: every session of ours is set to UTC (ADR 0012).
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from rivet_fleet.contracts.civil import DAY_US, micros_of, server_date, server_moment
from rivet_fleet.contracts.columns import MOMENTS, TypeKind
from rivet_fleet.contracts.facts import KeyFacts, SourceFacts
from rivet_fleet.planning.candidates import INTEGERS, column_of

_NO_MOMENT = ("infinity", "-infinity", "0000-")
"""How a server writes values of these columns that have no place in a calendar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """``read`` raises ValueError for what is no value of this scale; ``day`` is one day's
    length in its numbers, 0 where there are no days."""

    read: Callable[[str], int]
    write: Callable[[int], str]
    day: int = 0


def scale_of(facts: SourceFacts, columns: tuple[str, ...]) -> Scale | None:
    """The scale of a single whole-number, date or timestamp column; None for any other key."""
    column = column_of(facts, columns[0]) if len(columns) == 1 else None
    kind = column.type.kind if column and column.type else None
    if kind in INTEGERS:
        return Scale(read=_whole_number, write=str)
    if kind is TypeKind.DATE:
        return Scale(read=lambda text: micros_of(text) // DAY_US, write=server_date, day=1)
    if kind in MOMENTS:
        return Scale(read=micros_of, write=server_moment, day=DAY_US)
    return None


def anchors_of(key: KeyFacts | None, scale: Scale) -> list[int]:
    """Minimum, row quantiles and maximum as numbers; between two neighbours lie equally many
    rows. Raises ValueError for a bound that cannot be read."""
    if key is None:
        return []
    samples = [one for one in (key.minimum, *key.boundaries, key.maximum) if one is not None]
    finite = [one[0] for one in samples if not (scale.day and one[0].startswith(_NO_MOMENT))]
    return sorted({scale.read(text) for text in finite})


def shares(anchors: list[int], cuts: list[int], rows: int | None) -> list[int | None]:
    """How many rows each of the ranges between ``cuts`` holds, by the anchors' quantiles."""
    if rows is None or len(anchors) < 2:
        return [None if rows is None else rows // (len(cuts) + 1)] * (len(cuts) + 1)
    gaps = len(anchors) - 1
    places = [0.0, *(_place(anchors, cut) for cut in cuts), float(gaps)]
    return [
        max(0, round(rows * (after - before) / gaps))
        for before, after in itertools.pairwise(places)
    ]


def _place(anchors: list[int], value: int) -> float:
    """Where a value stands among the anchors, 0 to their number less one."""
    below = bisect_right(anchors, value)
    if below == 0:
        return 0.0
    if below == len(anchors):
        return float(len(anchors) - 1)
    low, high = anchors[below - 1], anchors[below]
    return below - 1 + (value - low) / (high - low)


def _whole_number(text: str) -> int:
    """``12`` and ``12.000``; ValueError for anything else."""
    whole, _, fraction = text.strip().partition(".")
    if fraction.strip("0"):
        raise ValueError("not a whole number")
    return int(whole)
