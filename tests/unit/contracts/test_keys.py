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


def joined(ranges: list[ChunkRange]) -> list[tuple[int, int, ChunkRange]]:
    return joined_ranges(ranges, {"id", "other"})


def test_a_plan_without_a_gap_is_one_range() -> None:
    assert joined([span(None, "5"), span("5", "9"), span("9", None)]) == [(0, 2, span(None, None))]
    assert joined([blocks(0, 7), blocks(7, None)]) == [(0, 1, blocks(0, None))]
    assert joined([]) == []


def test_a_gap_an_overlap_and_another_relation_begin_a_new_range() -> None:
    gap = [span(None, "5"), span("6", None)]
    assert joined(gap) == [(0, 0, gap[0]), (1, 1, gap[1])]
    overlap = [blocks(0, 7), blocks(6, None)]
    assert joined(overlap) == [(0, 0, overlap[0]), (1, 1, overlap[1])]
    ends = [span(None, None), span(None, None)]
    assert len(joined(ends)) == 2
    child = RelationName(schema="public", name="child")
    for other in (
        replace(span("5", None), relation=child),
        replace(span("5", None), columns=("other",)),
        replace(span("5", None), kind=RangeKind.WINDOW),
    ):
        assert len(joined([span(None, "5"), other])) == 2


def test_ranges_that_meet_backwards_are_told_one_by_one() -> None:
    """Meeting is not enough: between these bounds lie rows that are read twice, or never."""
    keys = [span(None, "900000"), span("900000", "1"), span("1", None)]
    heaps = [blocks(0, 100), blocks(100, 1), blocks(1, None)]
    for backwards in (keys, heaps, keys[1:], heaps[1:], [span("5", "5"), span("5", None)]):
        assert joined(backwards) == [(n, n, one) for n, one in enumerate(backwards)]


def test_bounds_whose_order_only_the_server_knows_are_each_told() -> None:
    """As numbers "9" is below "10", as text above: whoever cannot tell joins neither."""
    texts = [span(None, "9"), span("9", "10"), span("10", None)]
    assert joined_ranges(texts, {"id"}) == [(0, 2, span(None, None))]
    assert joined_ranges(texts, ()) == [(n, n, one) for n, one in enumerate(texts)]
    assert len(joined([span(None, "a"), span("a", "b"), span("b", None)])) == 3
    assert len(joined([span(None, "a"), span("a", None)])) == 2
