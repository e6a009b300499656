"""How an export should be treated before it is read: advice with its reasons (Rivet: Scores).

The enums' values are the stable codes of ``plan --json``: they may be added to, never renamed.
Advice is made of metadata, and metadata is a signal, not truth: nothing here moves a boundary,
proves that rows are complete, or lets a check pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

SCORE_START = 50
SCORE_MIN, SCORE_MAX = 0, 100
CONFIDENCE_START = 100


class ReasonKind(Enum):
    """Why a score or an isolation is what it is."""

    SMALL_TABLE = "small_table"
    LARGE_TABLE = "large_table"
    HUGE_TABLE = "huge_table"
    STRONG_CURSOR = "strong_cursor"
    WEAK_CURSOR = "weak_cursor"
    NO_TIME_CURSOR = "no_time_cursor"
    SPARSE_RANGE_RISK = "sparse_range_risk"
    CHUNKING_HEAVY = "chunking_heavy"
    RECONCILE_REQUIRED = "reconcile_required"
    FRESHNESS_HINT_RECENT = "freshness_hint_recent"
    SHARED_SOURCE_HEAVY_CONFLICT = "shared_source_heavy_conflict"
    LOW_CONFIDENCE_METADATA = "low_confidence_metadata"
    HIGH_RETRY_RATE_HISTORY = "high_retry_rate_history"
    RECENT_FAILURE_HISTORY = "recent_failure_history"
    SLOW_HISTORY = "slow_history"


class CaveatKind(Enum):
    """What was not known when the advice was given. Each one lowers the confidence."""

    NO_ROW_ESTIMATE = "no_row_estimate"
    ROUGH_ESTIMATE = "rough_estimate"
    NO_ROW_WIDTH = "no_row_width"
    UNKNOWN_ACCESS_PATH = "unknown_access_path"
    NO_KEY_RANGE = "no_key_range"
    NO_HISTORY = "no_history"
    ESTIMATE_CONTRADICTED = "estimate_contradicted"


class PriorityClass(Enum):
    """The score in a word."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class CostClass(Enum):
    """What reading it costs the source."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    VERY_HIGH = "very_high"

    @property
    def heavy(self) -> bool:
        """True for what should not meet its like on one source."""
        return self in (CostClass.HIGH, CostClass.VERY_HIGH)


class RiskClass(Enum):
    """How likely it hurts the source or itself."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class CursorQuality(Enum):
    """How far a cursor can be trusted to find what is new (Rivet: Cursors)."""

    STRONG_MONOTONIC = "strong_monotonic"
    WEAK_TIME = "weak_time"
    WEAK_MULTI_CANDIDATE = "weak_multi_candidate"
    FALLBACK_ONLY = "fallback_only"
    NONE = "none"


class Verdict(Enum):
    """How gently the source can answer (Rivet: Verdicts). It never blocks a run."""

    EFFICIENT = "efficient"
    ACCEPTABLE = "acceptable"
    DEGRADED = "degraded"
    UNSAFE = "unsafe"


class Severity(Enum):
    """How much a warning matters."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class Provenance(Enum):
    """Where a predicted duration comes from; all but ``measured`` are lower bounds."""

    MEASURED = "measured"
    FAILED_ATTEMPT_FLOOR = "failed_attempt_floor"
    PLACEHOLDER = "placeholder"


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorityReason:
    """One reason: the code is stable, the message tells the numbers."""

    kind: ReasonKind
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Caveat:
    """One thing that was not known."""

    kind: CaveatKind
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorePart:
    """One summand: ``SCORE_START`` plus all parts, clamped, is the score."""

    what: str
    points: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PreflightWarning:
    """One warning of the plan (Rivet: Warnings). It never blocks a run."""

    code: str
    severity: Severity
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """What metadata says about one export before it is read.

    ``rows`` is the number everything here was judged by; ``rows_from`` says whether the source
    estimated it or former runs measured it.
    """

    verdict: Verdict
    rows: int | None
    rows_from: str
    recommended_profile: str
    recommended_parallel: int
    warnings: tuple[PreflightWarning, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """How long one worker is expected to need for the whole export, in seconds."""

    work_s: float
    provenance: Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The advice about one export. ``confidence`` is 0 to 100 and only ever weakens."""

    export_name: str
    source_group: str | None
    priority_score: int
    priority_class: PriorityClass
    cost_class: CostClass
    risk_class: RiskClass
    recommended_wave: int
    confidence: int
    predicted: Prediction
    isolate_on_source: bool = False
    parallel_safe: bool = False
    reasons: tuple[PriorityReason, ...] = ()
    caveats: tuple[Caveat, ...] = ()
    score_parts: tuple[ScorePart, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """Exports to begin together; ``packs`` are those that may run at once, heaviest first."""

    wave: int
    exports: tuple[str, ...]
    packs: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupWarning:
    """Exports of one source group that would get in each other's way."""

    source_group: str
    exports: tuple[str, ...]
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConcurrencyHint:
    """How much at once. ``source_group`` None speaks of one wave."""

    exports_at_once: int
    message: str
    wave: int | None = None
    source_group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignAdvice:
    """The campaign view: what comes first, what should run alone, how much at once."""

    ordered_exports: tuple[Recommendation, ...]
    waves: tuple[Wave, ...]
    source_group_warnings: tuple[GroupWarning, ...] = ()
    concurrency_hints: tuple[ConcurrencyHint, ...] = ()
