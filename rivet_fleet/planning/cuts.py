"""Where one key is cut: from the source's own samples, in numbers also between them. Pure."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rivet_fleet.contracts.civil import DAY_US, micros_of, server_date, server_moment
from rivet_fleet.contracts.columns import MOMENTS, TypeKind
from rivet_fleet.contracts.facts import WALKED, KeyFacts, PhysicalRelation, SourceFacts
from rivet_fleet.contracts.keys import ChunkRange, KeyTuple, RangeKind
from rivet_fleet.planning.candidates import INTEGERS, column_of, named
from rivet_fleet.planning.config.fields import MIB
from rivet_fleet.planning.config.models import CHUNK_SIZE_DEFAULT, CHUNKS_MAX, ExportConfig
from rivet_fleet.planning.config.problems import DAYS_INVALID

# ------------------------------------------------------------------------------------------
# Key values as whole numbers, so that one arithmetic cuts integers, days and moments. Pure.
#
# Moments are written without a zone: every session of ours is set to UTC (ADR 0012).

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


# ------------------------------------------------------------------------------------------
# Cutting a relation into chunks: pure functions from samples to half-open ranges.
#
# The ranges that come out are a partition: contiguous, half-open, the first without lower and
# the last without upper end, whatever the samples were. Only balance depends on statistics.


def chunks_wanted(rows: int | None, rows_per_chunk: int) -> int | None:
    """How many chunks the estimate asks for; None without an estimate."""
    if rows is None:
        return None
    return max(1, -(-rows // rows_per_chunk))


def quantile_cuts(
    samples: Sequence[KeyTuple], minimum: KeyTuple | None, count: int
) -> list[KeyTuple]:
    """At most ``count - 1`` of the samples, evenly spaced in rows, in their own order.

    A cut at the minimum would only make an empty chunk. The order is the server's
    (collation, uuid): nothing is compared here but equality.
    """
    distinct = [one for one in dict.fromkeys(samples) if one != minimum]
    wanted = count - 1
    if wanted <= 0:
        return []
    if wanted >= len(distinct):
        return distinct
    pieces = len(distinct) + 1
    picked = [distinct[(i * pieces) // count - 1] for i in range(1, count)]
    return list(dict.fromkeys(picked))


def integer_cuts(anchors: Sequence[int], count: int) -> list[int]:
    """``count - 1`` whole numbers that divide the rows evenly, or fewer when they coincide.

    ``anchors`` are minimum, row quantiles, maximum: between two neighbours lie equally many
    rows, so each gap is cut evenly. Plain integers: keys beyond 2**63 are not special.
    """
    ordered = sorted(set(anchors))
    if len(ordered) < 2 or count < 2:
        return []
    gaps = len(ordered) - 1
    cuts = []
    for i in range(1, count):
        gap, rest = divmod(i * gaps, count)
        low = ordered[gap]
        high = ordered[gap + 1] if rest else low
        cuts.append(low + (high - low) * rest // count)
    return [cut for cut in dict.fromkeys(cuts) if cut > ordered[0]]


def key_ranges(
    kind: RangeKind,
    columns: tuple[str, ...],
    cuts: Sequence[KeyTuple],
    *,
    lower: KeyTuple | None = None,
    upper: KeyTuple | None = None,
) -> list[ChunkRange]:
    """``[lower, c1), [c1, c2), … [cn, upper)``: one more range than cuts; None is an open end."""
    edges: list[KeyTuple | None] = [lower, *cuts, upper]
    return [
        ChunkRange(kind=kind, columns=columns, lower=edges[i], upper=edges[i + 1])
        for i in range(len(edges) - 1)
    ]


def block_ranges(heap: PhysicalRelation, count: int) -> list[ChunkRange]:
    """``[0, c1), … [cn, ∞)`` of one heap: rows appended meanwhile belong to the last one."""
    cuts = sorted({i * heap.blocks // count for i in range(1, count)} - {0})
    starts, ends = [0, *cuts], [*cuts, None]
    return [
        ChunkRange(kind=RangeKind.BLOCKS, relation=heap.name, block_first=first, block_end=end)
        for first, end in zip(starts, ends, strict=True)
    ]


def joint_block_ranges(heaps: Sequence[PhysicalRelation], count: int) -> list[ChunkRange]:
    """``[0, c1), … [cn, ∞)`` of all heaps at once, about equally many blocks in each."""
    sizes = [heap.blocks for heap in heaps]
    total = sum(sizes)
    cuts = sorted({_joint_cut(sizes, i * total // count) for i in range(1, count)} - {0})
    starts, ends = [0, *cuts], [*cuts, None]
    return [
        ChunkRange(kind=RangeKind.BLOCKS, block_first=first, block_end=end)
        for first, end in zip(starts, ends, strict=True)
    ]


def _joint_cut(sizes: Sequence[int], wanted: int) -> int:
    """The least number with so many blocks below it, all heaps together."""
    below = floor = 0
    for index, size in enumerate(sorted(sizes)):
        heaps_left = len(sizes) - index
        step = (size - floor) * heaps_left
        if below + step >= wanted:
            return floor - (below - wanted) // heaps_left
        below, floor = below + step, size
    return floor


def whole_range() -> list[ChunkRange]:
    """One chunk with everything."""
    return [ChunkRange(kind=RangeKind.WHOLE)]


def nulls_range(column: str) -> ChunkRange:
    """The rows that are outside every range of a nullable column."""
    return ChunkRange(kind=RangeKind.NULLS, columns=(column,))


def split_estimate(rows: int | None, parts: int) -> int | None:
    """One chunk's share of the estimate."""
    return None if rows is None else rows // max(parts, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why the export cannot be divided as the configuration wants it."""

    setting: str
    reason: str
    suggestion: str | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The decision: ranges that are a partition of the rows, each with its estimate."""

    strategy: str
    reason: str
    ranges: tuple[ChunkRange, ...]
    estimates: tuple[int | None, ...]
    warnings: tuple[str, ...] = ()


def whole_choice(reason: str) -> Choice:
    """Everything in one chunk."""
    return Choice(strategy="whole", reason=reason, ranges=tuple(whole_range()), estimates=(None,))


def cuts_for(
    facts: SourceFacts, columns: tuple[str, ...], key: KeyFacts | None, sizing: Sizing
) -> tuple[list[KeyTuple] | Refusal, list[str]]:
    """Where to cut: sampled quantiles; for numbers and moments also points between them."""
    rows = believable_rows(facts, key)
    if sizing.count == 1:
        return [], []
    if sizing.dense:
        return _dense_cuts(columns, key, facts, sizing)
    scale = scale_of(facts, columns)
    if scale is not None:
        return _scaled_cuts(columns[0], key, sizing, rows, scale)
    samples = key.boundaries if key else ()
    unknown = min(CHUNKS_UNKNOWN, len(samples) + 1)
    count, warnings = chunk_count(sizing, rows, unknown)
    cuts = quantile_cuts(samples, key.minimum if key else None, count)
    if count > len(cuts) + 1:
        warnings.append(
            f"{len(cuts) + 1} chunks instead of {count}: the source's statistics of "
            f"{named(columns)} have no more boundaries"
        )
    return cuts, warnings


def _dense_cuts(
    columns: tuple[str, ...], key: KeyFacts | None, facts: SourceFacts, sizing: Sizing
) -> tuple[list[KeyTuple] | Refusal, list[str]]:
    """Every boundary of the walk is a cut: each chunk holds exactly so many rows."""
    if key is not None and key.provenance == WALKED:
        if len(key.boundaries) >= CHUNKS_MAX:
            return Refusal(
                setting="chunk_size",
                reason=f"chunks of {sizing.rows} rows would be more than {CHUNKS_MAX}",
                suggestion="make chunk_size larger",
            ), []
        return list(key.boundaries), []
    estimated = Sizing(count=None, rows=sizing.rows)
    cuts, warnings = cuts_for(facts, columns, key, estimated)
    return cuts, [
        *warnings,
        f"chunk_dense: the index of {named(columns)} was not walked to its end in time, or there "
        "is none: chunks are cut by the source's statistics",
    ]


def unreadable(name: str) -> Refusal:
    """A bound that cannot be read ends the planning: never an empty success (class 30)."""
    return Refusal(
        setting="chunk_column",
        reason=f"a bound of {name} cannot be read as a whole number or a moment",
        suggestion="use chunk_by_key, or no chunk setting at all",
    )


def _scaled_cuts(
    name: str, key: KeyFacts | None, sizing: Sizing, rows: int | None, scale: Scale
) -> tuple[list[KeyTuple] | Refusal, list[str]]:
    if key is None:
        return [], [f"nothing is known of the values of {name}: one chunk"]
    try:
        anchors = anchors_of(key, scale)
    except ValueError:
        return unreadable(name), []
    if not anchors:
        return [], []
    span = (anchors[-1] - anchors[0]) // max(scale.day, 1) + 1
    unknown = min(CHUNKS_UNKNOWN, max(1, -(-span // sizing.rows) if not scale.day else span))
    count, warnings = chunk_count(sizing, rows, unknown)
    if count > 1 and not key.boundaries:
        warnings.append(
            f"there are no statistics of {name}: its span is cut evenly, and chunks may hold "
            "very different numbers of rows"
        )
    cuts: list[KeyTuple] = [(scale.write(cut),) for cut in integer_cuts(anchors, count)]
    if sizing.count is not None and sizing.count > len(cuts) + 1:
        warnings.append(f"{len(cuts) + 1} chunks instead of {sizing.count}: too few values")
    return cuts, warnings


def day_cuts(
    name: str, key: KeyFacts | None, scale: Scale, days: int
) -> tuple[list[int] | Refusal, list[int]]:
    """Midnights every ``days`` days behind the day of the smallest value, and the anchors; the
    ends stay open, so nothing is outside (S1)."""
    try:
        anchors = anchors_of(key, scale)
    except ValueError:
        return unreadable(name), []
    if not anchors:
        return [], []
    first, last = anchors[0] // scale.day, anchors[-1] // scale.day
    windows = (last - first) // days + 1
    if windows > CHUNKS_MAX:
        return Refusal(
            setting="chunk_by_days",
            reason=f"{name} spans {last - first + 1} days: {windows} windows are more than "
            f"{CHUNKS_MAX}",
            suggestion=f"write chunk_by_days: {-(-(last - first + 1) // CHUNKS_MAX)}",
            code=DAYS_INVALID,
        ), []
    return [(first + days * i) * scale.day for i in range(1, windows)], anchors


# ------------------------------------------------------------------------------------------
# How many chunks: from rows, never from the span of the keys (bug class 38). Pure.

CHUNKS_UNKNOWN = 16
"""Without an estimate of rows: enough to share work, few enough to be harmless."""
ROW_BYTES_UNKNOWN = 512
MEMORY_ROWS_MIN, MEMORY_ROWS_MAX = 10_000, 5_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """What was asked for. ``count`` wins; ``rows`` is the size of one chunk otherwise."""

    count: int | None
    rows: int
    dense: bool = False
    """Chunks shall hold exactly ``rows`` rows."""


def sizing_of(export: ExportConfig, facts: SourceFacts) -> Sizing:
    """The export's chunk knobs; memory becomes rows by the row's width (Rivet: Chunk sizes)."""
    if export.chunk_size_memory_mb is not None:
        width = facts.row_width_bytes or ROW_BYTES_UNKNOWN
        rows = export.chunk_size_memory_mb * MIB // max(width, 1)
        return Sizing(count=None, rows=min(max(rows, MEMORY_ROWS_MIN), MEMORY_ROWS_MAX))
    return Sizing(
        count=export.chunk_count,
        rows=export.chunk_size or CHUNK_SIZE_DEFAULT,
        dense=export.chunk_dense,
    )


def believable_rows(facts: SourceFacts, key: KeyFacts | None) -> int | None:
    """The estimate, unless the key's extremes contradict it (never analysed, or stale)."""
    rows = facts.row_estimate
    if rows == 0 and key is not None and key.minimum is not None:
        return None
    return rows


def chunk_count(sizing: Sizing, rows: int | None, unknown: int) -> tuple[int, list[str]]:
    """How many chunks to aim for, and what has to be said about it.

    ``unknown`` is the count to fall back to without an estimate.
    """
    if sizing.count is not None:
        return sizing.count, []
    wanted = chunks_wanted(rows, sizing.rows)
    if wanted is None:
        return min(unknown, CHUNKS_MAX), [
            f"the source has no estimate of rows: {unknown} chunk(s) were planned, "
            "which may be uneven; let the source collect statistics"
        ]
    if wanted > CHUNKS_MAX:
        larger = -(-(rows or 0) // CHUNKS_MAX)
        return CHUNKS_MAX, [
            f"chunks of {sizing.rows} rows would be {wanted}: "
            f"enlarged to {larger} rows to keep to {CHUNKS_MAX} chunks"
        ]
    return wanted, []


# ------------------------------------------------------------------------------------------
# Ranges of heap blocks: how a table without a usable key is divided. Pure.

BLOCK_BYTES_ASSUMED = 8192
ROW_BYTES_ASSUMED = 100
HEAPS_AT_ONCE_MAX = 256
"""A page through the relation takes a block of each heap at least, and plans a scan of each."""


def block_choice(facts: SourceFacts, sizing: Sizing, reason: str) -> Choice:
    """Every heap on its own, because block numbers repeat across partitions and children."""
    if facts.rights_apart is not None:
        return _joint_blocks(facts, sizing, f"{reason}; {facts.rights_apart}")
    heap_rows = [_heap_rows(facts, heap) for heap in facts.heaps]
    counts, warnings = _block_counts(facts, sizing, heap_rows)
    ranges: list[ChunkRange] = []
    estimates: list[int | None] = []
    for heap, rows, count in zip(facts.heaps, heap_rows, counts, strict=True):
        pieces = block_ranges(heap, count)
        ranges += pieces
        estimates += [split_estimate(rows, len(pieces))] * len(pieces)
    many = f" of {len(facts.heaps)} heaps" if len(facts.heaps) > 1 else ""
    return Choice(
        strategy="blocks",
        reason=f"{reason}: ranges of heap blocks{many}",
        ranges=tuple(ranges),
        estimates=tuple(estimates),
        warnings=tuple(warnings),
    )


def _joint_blocks(facts: SourceFacts, sizing: Sizing, reason: str) -> Choice:
    """Through the relation that the user named, whose rights count: all its heaps at once."""
    heaps = facts.heaps
    if len(heaps) > HEAPS_AT_ONCE_MAX:
        return whole_choice(f"{reason}, and {len(heaps)} heaps are too many to read blocks of all")
    rows = sum(_heap_rows(facts, heap) for heap in heaps)
    count, warnings = (1, []) if sizing.count == 1 else chunk_count(sizing, rows, 1)
    ranges = joint_block_ranges(heaps, count)
    return Choice(
        strategy="blocks",
        reason=f"{reason}: ranges of heap blocks of {len(heaps)} heaps at once, through the "
        "relation itself",
        ranges=tuple(ranges),
        estimates=(split_estimate(rows, len(ranges)),) * len(ranges),
        warnings=tuple(warnings),
    )


def _block_counts(
    facts: SourceFacts, sizing: Sizing, heap_rows: list[int]
) -> tuple[list[int], list[str]]:
    if sizing.count == 1:
        return [1] * len(facts.heaps), []
    count, warnings = chunk_count(sizing, sum(heap_rows), 1)
    blocks = sum(heap.blocks for heap in facts.heaps)
    # Rounded up, so that no chunk is larger than wanted: at most one extra chunk for each heap.
    return [max(1, -(-heap.blocks * count // max(blocks, 1))) for heap in facts.heaps], warnings


def _heap_rows(facts: SourceFacts, heap: PhysicalRelation) -> int:
    """The heap's estimate, else its size over the row's width: blocks are always known."""
    if heap.row_estimate is not None and (heap.row_estimate > 0 or heap.blocks == 0):
        return heap.row_estimate
    width = facts.row_width_bytes or ROW_BYTES_ASSUMED
    return heap.blocks * BLOCK_BYTES_ASSUMED // max(width, 1)
