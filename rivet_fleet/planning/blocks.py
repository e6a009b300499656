"""Ranges of heap blocks: how a table without a usable key is divided. Pure."""

from __future__ import annotations

from rivet_fleet.contracts.facts import PhysicalRelation, SourceFacts
from rivet_fleet.contracts.keys import ChunkRange
from rivet_fleet.planning.chunker import block_ranges, joint_block_ranges, split_estimate
from rivet_fleet.planning.cuts import Choice, whole_choice
from rivet_fleet.planning.sizing import Sizing, chunk_count

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
