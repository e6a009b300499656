"""The priority of one export: a table of points, each with its reason. Pure (Rivet: Scores).

The score starts at 50 and is clamped to 0..100 at the end; the order of the steps only decides
the order of the reasons. Metadata that is missing never adds a point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from rivet_fleet.contracts.priority import (
    CONFIDENCE_START,
    SCORE_MAX,
    SCORE_MIN,
    SCORE_START,
    Caveat,
    CaveatKind,
    CostClass,
    CursorQuality,
    Prediction,
    PriorityClass,
    PriorityReason,
    Provenance,
    ReasonKind,
    Recommendation,
    RiskClass,
    ScorePart,
    Verdict,
)
from rivet_fleet.contracts.state import MeasuredRun

SMALL_ROWS = 100_000
HUGE_ROWS = 10_000_000
CHUNKING_ROWS = 1_000_000
VERY_HIGH_CHUNKS = 8
"""Rivet also names "chunked with more than 16": that is contained in this."""
RECENT_DAYS_MAX = 7
WARNINGS_MANY = 3
SAMPLES_MIN = 3
RETRY_RATE_HIGH = 0.3
SLOW_S = 300.0

CONFIDENCE_COSTS: dict[CaveatKind, int] = {
    CaveatKind.NO_ROW_ESTIMATE: 30,
    CaveatKind.UNKNOWN_ACCESS_PATH: 15,
    CaveatKind.NO_KEY_RANGE: 15,
    CaveatKind.ESTIMATE_CONTRADICTED: 10,
    CaveatKind.ROUGH_ESTIMATE: 10,
    CaveatKind.NO_ROW_WIDTH: 10,
    CaveatKind.NO_HISTORY: 5,
}
"""What each missing fact costs. Nothing adds: knowing more only takes less away."""


class ScoredStrategy(Enum):
    """How an export is read, as far as the score cares."""

    FULL = "full"
    INCREMENTAL = "incremental"
    CHUNKED = "chunked"
    KEYSET = "keyset"
    TIME_WINDOW = "time_window"


class CursorMode(Enum):
    """What the cursor is made of."""

    SINGLE_COLUMN = "single_column"
    COALESCE = "coalesce"
    TIME_WINDOW = "time_window"


UNMEASURED = Prediction(work_s=5.0, provenance=Provenance.PLACEHOLDER)


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What former runs of an export showed. ``avg_work_s`` is one worker's time for a success."""

    sample_size: int = 0
    success_rate: float | None = None
    retry_rate: float | None = None
    avg_work_s: float | None = None
    last_failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreInputs:
    """Everything the score may look at. ``rows`` None: nobody knows."""

    export_name: str
    strategy: ScoredStrategy
    rows: int | None
    chunk_count: int
    verdict: Verdict
    cursor_quality: CursorQuality = CursorQuality.NONE
    sparse_range_risk: bool = False
    reconcile_required: bool = False
    days_window: int | None = None
    warnings: int = 0
    history: History = History()
    predicted: Prediction = UNMEASURED
    source_group: str | None = None
    caveats: tuple[Caveat, ...] = ()


@dataclass(slots=True, kw_only=True)
class _Ledger:
    """Points and reasons as they are found."""

    parts: list[ScorePart] = field(default_factory=list)
    reasons: list[PriorityReason] = field(default_factory=list)

    def add(
        self, what: str, points: int, kind: ReasonKind | None = None, message: str = ""
    ) -> None:
        """One row of the table."""
        if points:
            self.parts.append(ScorePart(what=what, points=points))
        if kind is not None:
            self.reasons.append(PriorityReason(kind=kind, message=message))

    @property
    def score(self) -> int:
        """50 and all points, clamped."""
        total = SCORE_START + sum(part.points for part in self.parts)
        return min(max(total, SCORE_MIN), SCORE_MAX)


def cursor_quality(mode: CursorMode, *, index_used: bool, range_observed: bool) -> CursorQuality:
    """How far a cursor can be trusted. ``FALLBACK_ONLY`` is known but nothing produces it."""
    if mode is CursorMode.TIME_WINDOW:
        return CursorQuality.WEAK_TIME if range_observed else CursorQuality.NONE
    if index_used and range_observed:
        if mode is CursorMode.SINGLE_COLUMN:
            return CursorQuality.STRONG_MONOTONIC
        return CursorQuality.WEAK_MULTI_CANDIDATE
    if index_used:
        return CursorQuality.WEAK_TIME
    return CursorQuality.WEAK_MULTI_CANDIDATE if range_observed else CursorQuality.NONE


def priority_class(score: int) -> PriorityClass:
    """70 and more is high, 40 and more medium."""
    if score >= 70:
        return PriorityClass.HIGH
    return PriorityClass.MEDIUM if score >= 40 else PriorityClass.LOW


def recommended_wave(score: int) -> int:
    """75 and more goes first, then 55, then 35, then the rest."""
    return 1 if score >= 75 else 2 if score >= 55 else 3 if score >= 35 else 4


def cost_class(rows: int | None, chunk_count: int) -> CostClass:
    """What reading costs the source; unknown counts as medium."""
    if rows is None:
        return CostClass.MEDIUM
    if rows < SMALL_ROWS:
        return CostClass.LOW
    if rows < HUGE_ROWS:
        return CostClass.MEDIUM
    return CostClass.VERY_HIGH if chunk_count >= VERY_HIGH_CHUNKS else CostClass.HIGH


def risk_class(*, sparse: bool, verdict: Verdict, warnings: int) -> RiskClass:
    """High for sparse ranges and unsafe access, medium for degraded access or many warnings."""
    if sparse or verdict is Verdict.UNSAFE:
        return RiskClass.HIGH
    if verdict is Verdict.DEGRADED or warnings > WARNINGS_MANY:
        return RiskClass.MEDIUM
    return RiskClass.LOW


def recommend(inputs: ScoreInputs) -> Recommendation:
    """The advice about one export, on its own. The same inputs give the same advice."""
    ledger = _Ledger()
    risk = risk_class(
        sparse=inputs.sparse_range_risk, verdict=inputs.verdict, warnings=inputs.warnings
    )
    _size(ledger, inputs.rows)
    if risk is RiskClass.MEDIUM:
        ledger.add("risk medium", -4)
    _strategy(ledger, inputs)
    _risks(ledger, inputs)
    _history(ledger, inputs.history)
    cost = cost_class(inputs.rows, inputs.chunk_count)
    return Recommendation(
        export_name=inputs.export_name,
        source_group=inputs.source_group,
        priority_score=ledger.score,
        priority_class=priority_class(ledger.score),
        cost_class=cost,
        risk_class=risk,
        recommended_wave=recommended_wave(ledger.score),
        confidence=confidence(inputs.caveats),
        predicted=inputs.predicted,
        parallel_safe=cost is CostClass.LOW,
        reasons=tuple(ledger.reasons),
        caveats=inputs.caveats,
        score_parts=tuple(ledger.parts),
    )


def confidence(caveats: tuple[Caveat, ...]) -> int:
    """100 less what each caveat costs: one more caveat always means less."""
    return CONFIDENCE_START - sum(CONFIDENCE_COSTS[kind] for kind in {c.kind for c in caveats})


def _size(ledger: _Ledger, rows: int | None) -> None:
    if rows is None:
        ledger.add(
            "no row estimate",
            -3,
            ReasonKind.LOW_CONFIDENCE_METADATA,
            "nobody knows how many rows there are: the size is treated as medium",
        )
    elif rows < SMALL_ROWS:
        said = f"about {rows:,} rows, fewer than {SMALL_ROWS:,}: done soon"
        ledger.add("small table", +12, ReasonKind.SMALL_TABLE, said)
    elif rows < HUGE_ROWS:
        said = f"about {rows:,} rows"
        ledger.add("large table", 0, ReasonKind.LARGE_TABLE, said)
    else:
        said = f"about {rows:,} rows, {HUGE_ROWS:,} or more: it keeps the source busy for long"
        ledger.add("huge table", -15, ReasonKind.HUGE_TABLE, said)


def _strategy(ledger: _Ledger, inputs: ScoreInputs) -> None:
    if inputs.strategy is ScoredStrategy.FULL:
        ledger.add("full read", +5)
    elif inputs.strategy is ScoredStrategy.INCREMENTAL:
        _cursor(ledger, inputs.cursor_quality)
    elif inputs.strategy is ScoredStrategy.TIME_WINDOW:
        said = "a window of time has no cursor that proves what is new"
        ledger.add("time window", 0, ReasonKind.NO_TIME_CURSOR, said)
    else:
        heavy = inputs.chunk_count > 1 or (inputs.rows or 0) > CHUNKING_ROWS
        said = f"read in {inputs.chunk_count} chunks"
        ledger.add("chunks", -10 if heavy else 0, ReasonKind.CHUNKING_HEAVY, said)


_CURSOR_POINTS: dict[CursorQuality, tuple[int, ReasonKind, str]] = {
    CursorQuality.STRONG_MONOTONIC: (
        +18,
        ReasonKind.STRONG_CURSOR,
        "the cursor has an index and a known range: only new rows are read",
    ),
    CursorQuality.WEAK_TIME: (
        -8,
        ReasonKind.WEAK_CURSOR,
        "the cursor's range is not known",
    ),
    CursorQuality.WEAK_MULTI_CANDIDATE: (
        -8,
        ReasonKind.WEAK_CURSOR,
        "the cursor has no index of its own, or is made of several columns",
    ),
    CursorQuality.FALLBACK_ONLY: (
        -14,
        ReasonKind.WEAK_CURSOR,
        "only the fallback column can tell what is new",
    ),
    CursorQuality.NONE: (
        -12,
        ReasonKind.WEAK_CURSOR,
        "neither an index nor a range of the cursor is known",
    ),
}


def _cursor(ledger: _Ledger, quality: CursorQuality) -> None:
    points, kind, said = _CURSOR_POINTS[quality]
    ledger.add(f"cursor {quality.value}", points, kind, said)


_VERDICT_POINTS = {Verdict.UNSAFE: -25, Verdict.DEGRADED: -12, Verdict.EFFICIENT: +8}


def _risks(ledger: _Ledger, inputs: ScoreInputs) -> None:
    if inputs.sparse_range_risk:
        said = "most of the key's range holds no rows: many statements may find nothing"
        ledger.add("sparse range", -18, ReasonKind.SPARSE_RANGE_RISK, said)
    if inputs.reconcile_required:
        said = "it is compared with its source afterwards, which reads it once more"
        ledger.add("reconcile required", -12, ReasonKind.RECONCILE_REQUIRED, said)
    days = inputs.days_window
    window = inputs.strategy is ScoredStrategy.TIME_WINDOW
    if window and days is not None and days <= RECENT_DAYS_MAX:
        said = f"a window of {days} days: somebody waits for fresh rows"
        ledger.add("recent window", +6, ReasonKind.FRESHNESS_HINT_RECENT, said)
    points = _VERDICT_POINTS.get(inputs.verdict, 0)
    ledger.add(f"verdict {inputs.verdict.value}", points)


def _history(ledger: _Ledger, history: History) -> None:
    """Bounded: at most 17 points, and only downwards."""
    if history.last_failed:
        said = "its last run failed"
        ledger.add("last run failed", -8, ReasonKind.RECENT_FAILURE_HISTORY, said)
    if history.sample_size < SAMPLES_MIN:
        return
    rate = history.retry_rate or 0.0
    if rate > RETRY_RATE_HIGH:
        said = f"{rate:.2f} retries a run over the last {history.sample_size}"
        ledger.add("retries", -5, ReasonKind.HIGH_RETRY_RATE_HISTORY, said)
    if history.avg_work_s is not None and history.avg_work_s >= SLOW_S:
        said = f"{history.avg_work_s / 60:.0f} minutes of work a run on average"
        ledger.add("slow", -4, ReasonKind.SLOW_HISTORY, said)


# ------------------------------------------------------------------------------------------
# What former runs teach about the next one: bounded, and only where it was measured. Pure.
#
# Rivet's history never recognised its own successes (Rivet: State): the words that mean
# success are named here once.

HISTORY_RUNS = 20
"""How many former runs are looked at."""
ATTEMPT_FLOOR_S = 5.0
STATISTICS = "statistics"
STALE_S = 14 * 86_400.0
CONTRADICTION = 2.0
_DAY_S = 86_400.0


def history_of(runs: Sequence[MeasuredRun]) -> History:
    """The newest ``HISTORY_RUNS`` of ``runs`` (newest first), summed up."""
    seen = runs[:HISTORY_RUNS]
    if not seen:
        return History()
    good = [run for run in seen if run.succeeded]
    measured = [run.work_s for run in good if run.work_s is not None]
    return History(
        sample_size=len(seen),
        success_rate=len(good) / len(seen),
        retry_rate=sum(run.retries for run in seen) / len(seen),
        avg_work_s=sum(measured) / len(measured) if measured else None,
        last_failed=not seen[0].succeeded,
    )


def predict(runs: Sequence[MeasuredRun]) -> Prediction:
    """How long one worker will need (Rivet: Durations): the last success, else the longest
    failed attempt as a lower bound, else a placeholder."""
    for run in runs:
        if run.succeeded and run.work_s is not None:
            return Prediction(work_s=run.work_s, provenance=Provenance.MEASURED)
    tried = [run.work_s for run in runs if run.work_s is not None]
    if tried:
        longest_s = max(*tried, ATTEMPT_FLOOR_S)
        return Prediction(work_s=longest_s, provenance=Provenance.FAILED_ATTEMPT_FLOOR)
    return UNMEASURED


@dataclass(frozen=True, slots=True, kw_only=True)
class BelievedRows:
    """The number to judge by, and who said so. ``contradicted``: the other one says twice as
    many, or half."""

    rows: int | None
    said_by: str
    contradicted: bool = False
    rough: bool = False
    """Neither counted nor from statistics: reckoned from the table's size or a query's plan."""


def believed_rows(
    estimate: int | None,
    provenance: str,
    runs: Sequence[MeasuredRun],
    *,
    now_s: float,
    comparable: bool,
) -> BelievedRows:
    """What a former run counted beats what the catalog guesses (Rivet: Verdicts).

    ``comparable``: a run delivers the whole table (full and chunked exports do, a window does
    not). An old count that the catalog contradicts is given up.
    """
    success = next((run for run in runs if run.succeeded), None)
    catalog = provenance if provenance != "none" else "estimate"
    rough = estimate is not None and provenance != STATISTICS
    if not comparable or success is None:
        said = catalog if estimate is not None else "none"
        return BelievedRows(rows=estimate, said_by=said, rough=rough)
    apart = estimate is not None and _apart(estimate, success.rows)
    if apart and now_s - success.run_at_s > STALE_S:
        return BelievedRows(rows=estimate, said_by=catalog, contradicted=True, rough=rough)
    days = max(now_s - success.run_at_s, 0.0) / _DAY_S
    said = f"measured {days:.0f} days ago" if days >= 1 else "measured today"
    return BelievedRows(rows=success.rows, said_by=said, contradicted=apart)


def _apart(one: int, other: int) -> bool:
    low, high = sorted((one, other))
    return high > 0 and high >= CONTRADICTION * low
