"""Cutting a relation into chunks: pure functions from samples to half-open ranges.

The ranges that come out are a partition: contiguous, half-open, the first without lower and
the last without upper end, whatever the samples were. Only balance depends on statistics.
"""

from __future__ import annotations

from collections.abc import Sequence

from rivet_fleet.contracts.facts import PhysicalRelation
from rivet_fleet.contracts.keys import ChunkRange, KeyTuple, RangeKind


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
