"""Ranges as people check them: what meets is told as one, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

from rivet_fleet.contracts.keys import ChunkRange, RangeKind, RelationName, joined_ranges


def span(lower: str | None, upper: str | None) -> ChunkRange:
    return ChunkRange(
        kind=RangeKind.SPAN,
        columns=("id",),
        lower=None if lower is None else (lower,),
        upper=None if upper is None else (upper,),
    )


def blocks(first: int | None, end: int | None) -> ChunkRange:
    return ChunkRange(kind=RangeKind.BLOCKS, block_first=first, block_end=end)


def test_a_plan_without_a_gap_is_one_range() -> None:
    assert joined_ranges([span(None, "5"), span("5", "9"), span("9", None)]) == [
        (0, 2, span(None, None))
    ]
    assert joined_ranges([blocks(0, 7), blocks(7, None)]) == [(0, 1, blocks(0, None))]
    assert joined_ranges([]) == []


def test_a_gap_an_overlap_and_another_relation_begin_a_new_range() -> None:
    gap = [span(None, "5"), span("6", None)]
    assert joined_ranges(gap) == [(0, 0, gap[0]), (1, 1, gap[1])]
    overlap = [blocks(0, 7), blocks(6, None)]
    assert joined_ranges(overlap) == [(0, 0, overlap[0]), (1, 1, overlap[1])]
    ends = [span(None, None), span(None, None)]
    assert len(joined_ranges(ends)) == 2
    child = RelationName(schema="public", name="child")
    for other in (
        replace(span("5", None), relation=child),
        replace(span("5", None), columns=("other",)),
        replace(span("5", None), kind=RangeKind.WINDOW),
    ):
        assert len(joined_ranges([span(None, "5"), other])) == 2
