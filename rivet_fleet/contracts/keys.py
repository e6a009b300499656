"""Identifiers and key ranges: what a chunk covers."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import NewType

from rivet_fleet.contracts.foreign import flat

CampaignId = NewType("CampaignId", str)
RunId = NewType("RunId", str)
TaskId = NewType("TaskId", int)
WorkerId = NewType("WorkerId", str)

KeyTuple = tuple[str, ...]
"""One key value per key column, each in the server's own text form (``column::text``)."""


class RangeKind(Enum):
    """How a chunk names its rows."""

    WHOLE = "whole"
    """Everything the relation or query returns."""
    KEYSET = "keyset"
    """Rows of a unique NOT NULL key in ``[lower, upper)``, paged by that key."""
    SPAN = "span"
    """Rows of an integer column in ``[lower, upper)``, paged by sub-spans: ties are harmless."""
    BLOCKS = "blocks"
    """Heap blocks ``[block_first, block_end)`` of one physical relation; without one, the blocks
    of these numbers in every heap of the export's relation, read through it."""
    WINDOW = "window"
    """Rows of a column in ``[lower, upper)``, in one statement: no index gives them in order."""
    NULLS = "nulls"
    """Rows whose span column is NULL: they are outside every range."""


_PLAIN_PART = r"[A-Za-z_][A-Za-z0-9_$]*"
_PART = re.compile(rf'({_PLAIN_PART})|"((?:[^"]|"")+)"|`((?:[^`]|``)+)`')
_PLAIN_NAME = re.compile(_PLAIN_PART)
PARTS_MOST = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RelationName:
    """A relation; an empty ``schema`` leaves it to the source where to look.

    Its text is SQL's: a part that is no plain word stands in double quotes, a double quote of
    the name's own twice. ``parse_relation`` reads it back as the same name, whatever it holds.
    """

    schema: str
    name: str

    def __str__(self) -> str:
        name = _quoted_part(self.name)
        return f"{_quoted_part(self.schema)}.{name}" if self.schema else name


def _quoted_part(part: str) -> str:
    return part if _PLAIN_NAME.fullmatch(part) else '"' + part.replace('"', '""') + '"'


def parse_relation(written: str) -> RelationName:
    """``name``, ``schema.name``, each part plain or in double quotes or backticks (a quote inside
    its own kind of quotes stands twice). Names are exact: case counts, blanks inside quotes too.

    Raises ValueError with what is wrong, as the end of a sentence about the name.
    """
    parts: list[str] = []
    at = 0
    while True:
        found = _PART.match(written, at)
        if found is None:
            raise ValueError(_unreadable(written, at))
        plain, double, tick = found.groups()
        if plain is not None:
            parts.append(plain)
        else:
            parts.append(double.replace('""', '"') if double else tick.replace("``", "`"))
        at = found.end()
        if at == len(written):
            break
        if written[at] != ".":
            raise ValueError(f"has {written[at]!r} outside quotes")
        at += 1
    if len(parts) > PARTS_MOST:
        raise ValueError(f"has {len(parts)} parts; it is name or schema.name")
    if any("\0" in part for part in parts):
        raise ValueError("holds a NUL character, which no name does")
    return RelationName(schema="" if len(parts) == 1 else parts[0], name=parts[-1])


def _unreadable(written: str, at: int) -> str:
    rest = written[at:]
    if rest[:1] in ('"', "`"):
        empty = rest.startswith(rest[0] * 2)
        return f"has {'an empty part' if empty else f'a {rest[0]} that nothing closes'}"
    if not rest:
        return "ends where a name is expected" if written else "is empty"
    return f"has {rest[0]!r} outside quotes"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRange:
    """The rows of one chunk. Half-open everywhere; ``None`` is an open end.

    ``relation`` names the physical child (partition, inheritance child) that is read with
    ``ONLY``; None means the export's own relation or query. The ranges of one run are a
    partition of its rows: no gap, no overlap, first and last open-ended.
    """

    kind: RangeKind
    relation: RelationName | None = None
    columns: tuple[str, ...] = ()
    lower: KeyTuple | None = None
    upper: KeyTuple | None = None
    block_first: int | None = None
    block_end: int | None = None


def joined_ranges(
    ranges: Sequence[ChunkRange], whole_numbers: Collection[str]
) -> list[tuple[int, int, ChunkRange]]:
    """Ranges in the order of their chunks, those that begin where the one before ends told as one:
    the first and the last index of each, and what they are together. A gap, an overlap or another
    order begins a new one, and so does a range whose end is not known to be above its beginning:
    ``whole_numbers`` names the columns that are ordered as such, all else only its server orders.
    """
    found: list[tuple[int, int, ChunkRange]] = []
    for index, one in enumerate(ranges):
        joins = found and _meet(found[-1][2], one) and _rises(one, whole_numbers)
        if joins and _rises(found[-1][2], whole_numbers):
            first, _, before = found[-1]
            longer = replace(before, upper=one.upper, block_end=one.block_end)
            found[-1] = (first, index, longer)
        else:
            found.append((index, index, one))
    return found


def _meet(one: ChunkRange, other: ChunkRange) -> bool:
    alike = (one.kind, one.relation, one.columns) == (other.kind, other.relation, other.columns)
    if one.kind is RangeKind.BLOCKS:
        return alike and one.block_end is not None and one.block_end == other.block_first
    return alike and one.upper is not None and one.upper == other.lower


_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,40}")


def _rises(one: ChunkRange, whole_numbers: Collection[str]) -> bool:
    """Whether its end lies above its beginning, as far as that can be told here."""
    if one.kind is RangeKind.BLOCKS:
        return one.block_end is None or one.block_end > (one.block_first or 0)
    lower, upper = one.lower or (), one.upper or ()
    known = set(one.columns).issubset(whole_numbers)
    if not known or not all(map(_WHOLE_NUMBER.fullmatch, (*lower, *upper))):
        return False
    return not lower or not upper or tuple(map(int, lower)) < tuple(map(int, upper))


SHOWN_CHARS_MAX = 400
"""Of one value of a key, where people read it."""
CUT = "…"
"""Behind a value that is longer."""


def shown_key(values: KeyTuple) -> str:
    """A key for people, on one line; a long value is cut. One that could not travel as text begins
    with NUL, and is bytes."""
    return ", ".join(_shown(value) for value in values)


def _shown(value: str) -> str:
    text = flat(value[: SHOWN_CHARS_MAX + 1].replace("\0", "\\x"))
    return text if len(value) <= SHOWN_CHARS_MAX else f"{text[:SHOWN_CHARS_MAX]}{CUT}"


def describe_range(chunk_range: ChunkRange) -> str:
    """One short human line for a range, for status and messages."""
    where = f" of {chunk_range.relation}" if chunk_range.relation else ""
    if chunk_range.kind is RangeKind.WHOLE:
        return f"all rows{where}"
    if chunk_range.kind is RangeKind.NULLS:
        return f"{', '.join(chunk_range.columns)} is null{where}"
    if chunk_range.kind is RangeKind.BLOCKS:
        end = "∞" if chunk_range.block_end is None else str(chunk_range.block_end)
        return f"blocks [{chunk_range.block_first or 0}, {end}){where}"
    low = "-∞" if chunk_range.lower is None else shown_key(chunk_range.lower)
    high = "∞" if chunk_range.upper is None else shown_key(chunk_range.upper)
    return f"({', '.join(chunk_range.columns)}) in [{low}; {high}){where}"
