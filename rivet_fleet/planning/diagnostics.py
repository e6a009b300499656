"""What a plan should say about itself: findings as values, never a reason to stop. Pure.

The rules of Rivet keep their ids where they mean something here (docs/reference/check-report.md
has those that do not).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum

from rivet_fleet.contracts.facts import SourceFacts
from rivet_fleet.contracts.keys import RangeKind
from rivet_fleet.contracts.plan import (
    CURSOR_CANNOT_SEE,
    MARK_ABOVE_EVERYTHING,
    PlanDiagnostic,
    TuningPlan,
)
from rivet_fleet.planning.config.models import ExportConfig
from rivet_fleet.planning.strategy import Choice
from rivet_fleet.planning.window import Windowed


class Rule(Enum):
    """The stable name of a diagnostic."""

    UNBOUNDED_STATEMENT = "unbounded-statement"
    UNINDEXED_WINDOW = "unindexed-window"
    NO_KEY = "no-key"
    NO_ROW_ESTIMATE = "no-row-estimate"
    NULL_CHUNK = "null-chunk"
    ONE_CHUNK = "one-chunk"
    DENSE_SURROGATE = "dense-surrogate"
    QUALITY_UNIQUE_NO_CAP = "quality-unique-no-cap"
    MARK_ABOVE_EVERYTHING = MARK_ABOVE_EVERYTHING
    CURSOR_CANNOT_SEE = CURSOR_CANNOT_SEE


NOTE, WARNING, DEGRADED = "note", "warning", "degraded"
LARGE_ROWS = 1_000_000


def diagnose(
    export: ExportConfig,
    *,
    facts: SourceFacts,
    choice: Choice,
    tuning: TuningPlan,
    uncompared: Sequence[str] = (),
    windowed: Windowed | None = None,
) -> tuple[PlanDiagnostic, ...]:
    """Everything worth knowing before the first row is read. ``uncompared``: gates that will
    probably stay unknown, in words; ``windowed``: what is known of the mark."""
    found = [*_shape(choice, tuning), *_rows(export, facts, choice), *_settings(export)]
    found += [_say(Rule.QUALITY_UNIQUE_NO_CAP, WARNING, said) for said in uncompared]
    if windowed is not None and windowed.beyond:
        found.append(_say(Rule.MARK_ABOVE_EVERYTHING, WARNING, windowed.beyond))
    if windowed is not None and windowed.unseen:
        found.append(_say(Rule.CURSOR_CANNOT_SEE, NOTE, windowed.unseen))
    return tuple(found)


def _say(rule: Rule, severity: str, message: str) -> PlanDiagnostic:
    return PlanDiagnostic(rule=rule.value, severity=severity, message=message)


def _shape(choice: Choice, tuning: TuningPlan) -> Iterator[PlanDiagnostic]:
    kinds = {one.kind for one in choice.ranges}
    if RangeKind.WHOLE in kinds:
        limit = tuning.whole_read_timeout_s
        bound = f"limited to {limit:g} s in all" if limit else "without any time limit"
        yield _say(
            Rule.UNBOUNDED_STATEMENT,
            WARNING,
            f"everything is read by one statement, {bound}, and a failure starts "
            "it anew; give the table a unique key, or the query a chunk_column",
        )
    if RangeKind.WINDOW in kinds:
        yield _say(
            Rule.UNINDEXED_WINDOW,
            DEGRADED,
            "no index begins with the chunk column: each chunk is one statement that "
            "may read the whole table, and a failure starts it anew; index the column",
        )
    if RangeKind.BLOCKS in kinds:
        yield _say(
            Rule.NO_KEY,
            WARNING,
            "rows are read by heap block: a row updated while the run goes on may "
            "move between chunks; a unique NOT NULL index avoids that",
        )
    if RangeKind.NULLS in kinds:
        yield _say(
            Rule.NULL_CHUNK,
            NOTE,
            "the chunk column may be NULL: those rows have a chunk of their own",
        )


def _rows(export: ExportConfig, facts: SourceFacts, choice: Choice) -> Iterator[PlanDiagnostic]:
    if facts.row_estimate is None:
        yield _say(
            Rule.NO_ROW_ESTIMATE,
            NOTE,
            "the source has no estimate of rows: progress has no total",
        )
    elif export.mode == "full" and facts.row_estimate >= LARGE_ROWS and len(choice.ranges) == 1:
        yield _say(
            Rule.ONE_CHUNK,
            WARNING,
            f"about {facts.row_estimate} rows in one chunk: a single worker reads "
            "them; mode: chunked shares them",
        )


def _settings(export: ExportConfig) -> Iterator[PlanDiagnostic]:
    if export.chunk_dense:
        yield _say(
            Rule.DENSE_SURROGATE,
            WARNING,
            "chunk_dense reads the key's index from its beginning to its end when planning; "
            "without it chunks are cut by the source's statistics for nothing",
        )
