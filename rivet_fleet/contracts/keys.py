"""Identifiers and key ranges: what a chunk covers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NewType

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
    """Heap blocks ``[block_first, block_end)`` of one physical relation."""
    WINDOW = "window"
    """Rows of a column in ``[lower, upper)``, in one statement: no index gives them in order."""
    NULLS = "nulls"
    """Rows whose span column is NULL: they are outside every range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelationName:
    """A schema-qualified relation."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


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
    low = "-∞" if chunk_range.lower is None else ", ".join(chunk_range.lower)
    high = "∞" if chunk_range.upper is None else ", ".join(chunk_range.upper)
    return f"({', '.join(chunk_range.columns)}) in [{low}; {high}){where}"
