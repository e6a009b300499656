"""How the quality block becomes gates, and how gates are judged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rivet_fleet.contracts.keys import ChunkRange, RangeKind, RelationName
from rivet_fleet.contracts.quality import GateOutcome, QualityPlan, UniqueFound, judge
from rivet_fleet.planning.config.quality import (
    QualityConfig,
    keys_stay_in_chunks,
    quality_plan,
    uncompared,
)


def ranges(kind: RangeKind, *columns: str, child: str | None = None) -> list[ChunkRange]:
    relation = RelationName(schema="s", name=child) if child else None
    return [ChunkRange(kind=kind, relation=relation, columns=columns) for _ in range(3)]


@pytest.mark.parametrize(
    ("chunks", "columns", "stay"),
    [
        (ranges(RangeKind.KEYSET, "id"), ("id",), True),
        (ranges(RangeKind.KEYSET, "id"), ("tenant", "id"), True),
        (ranges(RangeKind.KEYSET, "id"), ("email",), False),
        (ranges(RangeKind.KEYSET, "tenant", "id"), ("id",), False),
        (ranges(RangeKind.KEYSET, "tenant", "id"), ("id", "tenant"), True),
        (ranges(RangeKind.SPAN, "n") + ranges(RangeKind.NULLS, "n")[:1], ("n",), True),
        (ranges(RangeKind.BLOCKS), ("id",), False),
        (ranges(RangeKind.BLOCKS)[:1], ("id",), True),
        (
            ranges(RangeKind.KEYSET, "id", child="p1") + ranges(RangeKind.KEYSET, "id"),
            ("id",),
            False,
        ),
    ],
)
def test_when_equal_keys_cannot_be_in_different_chunks(chunks, columns, stay) -> None:
    assert keys_stay_in_chunks(columns, chunks) is stay


def test_the_cap_is_shared_by_chunks_whose_keys_have_to_meet() -> None:
    config = QualityConfig(unique_columns=["id", ["a", "b"]], unique_max_entries=100_000)
    plan = quality_plan(config, ranges(RangeKind.KEYSET, "id") * 100)
    assert plan is not None
    assert [(k.columns, k.within_chunks, k.entries_max) for k in plan.unique] == [
        (("id",), True, 100_000),
        (("a", "b"), False, 1_334),
    ]
    assert len(uncompared(plan, 200_000, 300)) == 1
    assert uncompared(plan, 90_000, 300) == []
    assert quality_plan(None, []) is None


@pytest.mark.parametrize(
    ("plan", "rows", "nulls", "outcome"),
    [
        (QualityPlan(row_count_min=10), 10, {}, "passed"),
        (QualityPlan(row_count_min=10), 9, {}, "failed"),
        (QualityPlan(row_count_max=10), 10, {}, "passed"),
        (QualityPlan(row_count_max=10), 11, {}, "failed"),
        (QualityPlan(null_ratio_max={"a": 0.5}), 10, {"a": 5}, "passed"),
        (QualityPlan(null_ratio_max={"a": 0.5}), 10, {"a": 6}, "failed"),
        (QualityPlan(null_ratio_max={"a": 0.0}), 0, {}, "passed"),
    ],
)
def test_bounds_are_inclusive(plan, rows, nulls, outcome) -> None:
    (verdict,) = judge(plan, rows=rows, nulls=nulls, unique=())
    assert verdict.outcome.value == outcome
    assert verdict.refuses is (outcome == "failed")


def unique(duplicates: int, *, complete: bool) -> UniqueFound:
    return UniqueFound(
        columns=("a",),
        keys=100,
        duplicates=duplicates,
        complete=complete,
        shift=0 if complete else 3,
    )


@pytest.mark.parametrize(
    ("found", "on_unknown", "outcome", "refuses"),
    [
        (unique(0, complete=True), "fail", GateOutcome.PASSED, False),
        (unique(1, complete=True), "warn", GateOutcome.FAILED, True),
        (unique(1, complete=False), "warn", GateOutcome.FAILED, True),
        (unique(0, complete=False), "fail", GateOutcome.UNKNOWN, True),
        (unique(0, complete=False), "warn", GateOutcome.UNKNOWN, False),
        (replace(unique(0, complete=True), missing=1), "fail", GateOutcome.UNKNOWN, True),
        (replace(unique(1, complete=True), missing=1), "warn", GateOutcome.FAILED, True),
    ],
)
def test_what_was_not_compared_is_never_passed(found, on_unknown, outcome, refuses) -> None:
    """Q4."""
    (verdict,) = judge(QualityPlan(on_unknown=on_unknown), rows=1, nulls={}, unique=[found])
    assert (verdict.outcome, verdict.refuses) == (outcome, refuses)
