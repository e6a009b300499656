"""The scoring table, row by row, and what must hold whatever the inputs are."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rivet_fleet.contracts.priority import (
    Caveat,
    CaveatKind,
    CostClass,
    CursorQuality,
    PriorityClass,
    Recommendation,
    RiskClass,
    Verdict,
)
from rivet_fleet.contracts.priority import ReasonKind as R
from rivet_fleet.planning.priority import (
    CursorMode,
    History,
    ScoredStrategy,
    ScoreInputs,
    confidence,
    cursor_quality,
    priority_class,
    recommend,
    recommended_wave,
    risk_class,
)

FULL, INCREMENTAL, CHUNKED, KEYSET, WINDOW = (
    ScoredStrategy.FULL,
    ScoredStrategy.INCREMENTAL,
    ScoredStrategy.CHUNKED,
    ScoredStrategy.KEYSET,
    ScoredStrategy.TIME_WINDOW,
)
Q, V = CursorQuality, Verdict
FAILED = History(sample_size=1, last_failed=True)


def inputs(**changes: Any) -> ScoreInputs:
    """An export whose score is 50 and whose only reason is its size: nothing else speaks."""
    values: dict[str, Any] = {
        "export_name": "orders",
        "strategy": WINDOW,
        "rows": 500_000,
        "chunk_count": 1,
        "verdict": V.ACCEPTABLE,
    }
    return ScoreInputs(**{**values, **changes})


def kinds(advice: Recommendation) -> set[R]:
    return {reason.kind for reason in advice.reasons}


NEUTRAL = {R.LARGE_TABLE, R.NO_TIME_CURSOR}

# Each row of the table: what differs from the neutral export, its points, the reasons it has
# beside the neutral ones (those it replaces are named with a minus).
ROWS: list[tuple[str, dict[str, Any], int, set[R], set[R]]] = [
    ("rows < 100 000", {"rows": 99_999}, +12, {R.SMALL_TABLE}, {R.LARGE_TABLE}),
    ("100 000 <= rows", {"rows": 100_000}, 0, set(), set()),
    ("rows < 10 000 000", {"rows": 9_999_999}, 0, set(), set()),
    ("rows >= 10 000 000", {"rows": 10_000_000}, -15, {R.HUGE_TABLE}, {R.LARGE_TABLE}),
    ("no row estimate", {"rows": None}, -3, {R.LOW_CONFIDENCE_METADATA}, {R.LARGE_TABLE}),
    ("full", {"strategy": FULL}, +5, set(), {R.NO_TIME_CURSOR}),
    *(
        (
            f"incremental, {quality.value}",
            {"strategy": INCREMENTAL, "cursor_quality": quality},
            points,
            {reason},
            {R.NO_TIME_CURSOR},
        )
        for quality, points, reason in (
            (Q.STRONG_MONOTONIC, +18, R.STRONG_CURSOR),
            (Q.WEAK_TIME, -8, R.WEAK_CURSOR),
            (Q.WEAK_MULTI_CANDIDATE, -8, R.WEAK_CURSOR),
            (Q.FALLBACK_ONLY, -14, R.WEAK_CURSOR),
            (Q.NONE, -12, R.WEAK_CURSOR),
        )
    ),
    *(
        (
            f"{strategy.value}, {what}",
            {"strategy": strategy, **more},
            points,
            {R.CHUNKING_HEAVY},
            {R.NO_TIME_CURSOR},
        )
        for strategy in (CHUNKED, KEYSET)
        for what, more, points in (
            ("chunk_count > 1", {"chunk_count": 2}, -10),
            ("rows > 1 000 000", {"rows": 1_000_001}, -10),
            ("rows = 1 000 000", {"rows": 1_000_000}, 0),
            ("otherwise", {}, 0),
        )
    ),
    ("time_window", {}, 0, set(), set()),
    ("sparse range risk", {"sparse_range_risk": True}, -18, {R.SPARSE_RANGE_RISK}, set()),
    ("reconcile required", {"reconcile_required": True}, -12, {R.RECONCILE_REQUIRED}, set()),
    ("time_window, 7 days", {"days_window": 7}, +6, {R.FRESHNESS_HINT_RECENT}, set()),
    ("time_window, 8 days", {"days_window": 8}, 0, set(), set()),
    ("verdict unsafe", {"verdict": V.UNSAFE}, -25, set(), set()),
    ("verdict degraded, with its medium risk", {"verdict": V.DEGRADED}, -12 - 4, set(), set()),
    ("verdict efficient", {"verdict": V.EFFICIENT}, +8, set(), set()),
    ("more than 3 warnings: medium risk", {"warnings": 4}, -4, set(), set()),
    ("3 warnings", {"warnings": 3}, 0, set(), set()),
    (
        "medium risk not when sparse",
        {"warnings": 4, "sparse_range_risk": True},
        -18,
        {R.SPARSE_RANGE_RISK},
        set(),
    ),
    ("medium risk not when unsafe", {"warnings": 4, "verdict": V.UNSAFE}, -25, set(), set()),
    ("last run failed", {"history": FAILED}, -8, {R.RECENT_FAILURE_HISTORY}, set()),
    (
        "3 samples, retries/run > 0.3",
        {"history": History(sample_size=3, retry_rate=0.31)},
        -5,
        {R.HIGH_RETRY_RATE_HISTORY},
        set(),
    ),
    ("retries/run = 0.3", {"history": History(sample_size=3, retry_rate=0.3)}, 0, set(), set()),
    ("2 samples", {"history": History(sample_size=2, retry_rate=9.0)}, 0, set(), set()),
    (
        "3 samples, 5 minutes on average",
        {"history": History(sample_size=3, avg_work_s=300.0)},
        -4,
        {R.SLOW_HISTORY},
        set(),
    ),
    ("under 5 minutes", {"history": History(sample_size=3, avg_work_s=299.9)}, 0, set(), set()),
    ("2 slow samples", {"history": History(sample_size=2, avg_work_s=900.0)}, 0, set(), set()),
]


@pytest.mark.parametrize(
    ("changes", "points", "more", "less"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_the_table_row_by_row(
    changes: dict[str, Any], points: int, more: set[R], less: set[R]
) -> None:
    advice = recommend(inputs(**changes))
    assert advice.priority_score == 50 + points
    assert kinds(advice) == (NEUTRAL - less) | more
    assert sum(part.points for part in advice.score_parts) == points


def test_the_worked_extremes() -> None:
    best = recommend(
        inputs(
            strategy=INCREMENTAL,
            rows=1_000,
            cursor_quality=Q.STRONG_MONOTONIC,
            verdict=V.EFFICIENT,
        )
    )
    assert (best.priority_score, best.recommended_wave) == (88, 1)
    worst = recommend(
        inputs(
            strategy=CHUNKED,
            rows=50_000_000,
            chunk_count=500,
            sparse_range_risk=True,
            verdict=V.UNSAFE,
        )
    )
    assert (worst.priority_score, worst.recommended_wave) == (0, 4)


@pytest.mark.parametrize(
    ("rows", "chunks", "cost"),
    [
        (99_999, 100, CostClass.LOW),
        (None, 100, CostClass.MEDIUM),
        (100_000, 100, CostClass.MEDIUM),
        (9_999_999, 100, CostClass.MEDIUM),
        (10_000_000, 7, CostClass.HIGH),
        (10_000_000, 8, CostClass.VERY_HIGH),
        (10_000_000, 17, CostClass.VERY_HIGH),
    ],
)
def test_cost_classes(rows: int | None, chunks: int, cost: CostClass) -> None:
    advice = recommend(inputs(strategy=CHUNKED, rows=rows, chunk_count=chunks))
    assert advice.cost_class is cost
    assert advice.parallel_safe is (cost is CostClass.LOW)


@pytest.mark.parametrize(
    ("sparse", "verdict", "warnings", "risk"),
    [
        (True, V.EFFICIENT, 0, RiskClass.HIGH),
        (False, V.UNSAFE, 0, RiskClass.HIGH),
        (False, V.DEGRADED, 0, RiskClass.MEDIUM),
        (False, V.EFFICIENT, 4, RiskClass.MEDIUM),
        (False, V.EFFICIENT, 3, RiskClass.LOW),
        (False, V.ACCEPTABLE, 0, RiskClass.LOW),
    ],
)
def test_risk_classes(sparse: bool, verdict: Verdict, warnings: int, risk: RiskClass) -> None:
    assert risk_class(sparse=sparse, verdict=verdict, warnings=warnings) is risk


def test_priority_classes_and_waves_at_their_borders() -> None:
    classes = {100: "high", 70: "high", 69: "medium", 40: "medium", 39: "low", 0: "low"}
    assert {score: priority_class(score).value for score in classes} == classes
    waves = {100: 1, 75: 1, 74: 2, 55: 2, 54: 3, 35: 3, 34: 4, 0: 4}
    assert {score: recommended_wave(score) for score in waves} == waves
    assert priority_class(70) is PriorityClass.HIGH


@pytest.mark.parametrize(
    ("mode", "both", "index_only", "range_only", "neither"),
    [
        (
            CursorMode.SINGLE_COLUMN,
            Q.STRONG_MONOTONIC,
            Q.WEAK_TIME,
            Q.WEAK_MULTI_CANDIDATE,
            Q.NONE,
        ),
        (
            CursorMode.COALESCE,
            Q.WEAK_MULTI_CANDIDATE,
            Q.WEAK_TIME,
            Q.WEAK_MULTI_CANDIDATE,
            Q.NONE,
        ),
        (CursorMode.TIME_WINDOW, Q.WEAK_TIME, Q.NONE, Q.WEAK_TIME, Q.NONE),
    ],
)
def test_the_cursor_quality_table(
    mode: CursorMode,
    both: CursorQuality,
    index_only: CursorQuality,
    range_only: CursorQuality,
    neither: CursorQuality,
) -> None:
    found = [
        cursor_quality(mode, index_used=index, range_observed=ranged)
        for index, ranged in ((True, True), (True, False), (False, True), (False, False))
    ]
    assert found == [both, index_only, range_only, neither]


def test_the_fifteen_codes_are_stable() -> None:
    assert {kind.value for kind in R} == {
        *("small_table", "large_table", "huge_table", "strong_cursor", "weak_cursor"),
        *("no_time_cursor", "sparse_range_risk", "chunking_heavy", "reconcile_required"),
        *("freshness_hint_recent", "shared_source_heavy_conflict", "low_confidence_metadata"),
        *("high_retry_rate_history", "recent_failure_history", "slow_history"),
    }


# -- whatever the inputs are ----------------------------------------------------------------------

HISTORIES = st.builds(
    History,
    sample_size=st.integers(0, 20),
    success_rate=st.none() | st.floats(0, 1),
    retry_rate=st.none() | st.floats(0, 50),
    avg_work_s=st.none() | st.floats(0, 1e6),
    last_failed=st.booleans(),
)
INPUTS = st.builds(
    ScoreInputs,
    export_name=st.just("orders"),
    strategy=st.sampled_from(ScoredStrategy),
    rows=st.none() | st.integers(0, 10**12),
    chunk_count=st.integers(1, 50_000),
    verdict=st.sampled_from(Verdict),
    cursor_quality=st.sampled_from(CursorQuality),
    sparse_range_risk=st.booleans(),
    reconcile_required=st.booleans(),
    days_window=st.none() | st.integers(1, 400),
    warnings=st.integers(0, 9),
    history=HISTORIES,
)


@given(INPUTS)
def test_a_score_is_clamped_and_deterministic(one: ScoreInputs) -> None:
    advice = recommend(one)
    assert 0 <= advice.priority_score <= 100
    assert advice == recommend(replace(one))
    total = 50 + sum(part.points for part in advice.score_parts)
    assert advice.priority_score == min(max(total, 0), 100)
    assert len({reason.kind for reason in advice.reasons}) == len(advice.reasons)


@given(INPUTS, st.integers(0, 10**12), st.integers(0, 10**12))
def test_more_rows_never_raise_a_score(one: ScoreInputs, rows: int, others: int) -> None:
    fewer, more = sorted((rows, others))
    low, high = (recommend(replace(one, rows=n)) for n in (more, fewer))
    assert low.priority_score <= high.priority_score
    assert low.recommended_wave >= high.recommended_wave


@given(INPUTS, HISTORIES)
def test_history_only_lowers_and_at_most_by_17(one: ScoreInputs, history: History) -> None:
    without, with_it = (
        sum(part.points for part in recommend(replace(one, history=h)).score_parts)
        for h in (History(), history)
    )
    assert without - 17 <= with_it <= without


@given(INPUTS)
def test_an_unknown_size_is_never_better_than_a_small_one(one: ScoreInputs) -> None:
    unknown, small = (recommend(replace(one, rows=n)) for n in (None, 10))
    assert unknown.priority_score <= small.priority_score
    assert R.LOW_CONFIDENCE_METADATA in kinds(unknown)


def test_every_missing_fact_weakens_the_confidence() -> None:
    said = {kind: Caveat(kind=kind, message="unknown") for kind in CaveatKind}
    assert confidence(()) == 100
    for size in range(1, len(said) + 1):
        for some in itertools.combinations(said.values(), size):
            for left_out in some:
                fewer = tuple(one for one in some if one is not left_out)
                assert 0 <= confidence(some) < confidence(fewer)
    again = (said[CaveatKind.NO_HISTORY],) * 2
    assert confidence(again) == confidence(again[:1]), "one fact is missing once"
