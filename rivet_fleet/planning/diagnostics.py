"""What a plan should say about itself: findings as values, never a reason to stop. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rivet_fleet.contracts.facts import SourceFacts
from rivet_fleet.contracts.keys import RangeKind
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.planning.strategy import Choice


class Finding(Enum):
    """The stable name of a warning."""

    UNBOUNDED_STATEMENT = "unbounded_statement"
    UNINDEXED_WINDOW = "unindexed_window"
    NO_KEY = "no_key"
    NO_ROW_ESTIMATE = "no_row_estimate"
    NULL_CHUNK = "null_chunk"
    ONE_CHUNK = "one_chunk"


LARGE_ROWS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """One finding in words."""

    finding: Finding
    message: str


def diagnose(
    *, mode: str, facts: SourceFacts, choice: Choice, tuning: TuningPlan
) -> tuple[Diagnostic, ...]:
    """Everything worth knowing before the first row is read."""
    found: list[Diagnostic] = []
    kinds = {one.kind for one in choice.ranges}
    if RangeKind.WHOLE in kinds:
        limit = tuning.statement_timeout_s
        bound = f"limited to {limit:g} s" if limit else "without any time limit"
        found.append(
            Diagnostic(
                finding=Finding.UNBOUNDED_STATEMENT,
                message=f"everything is read by one statement, {bound}, and a failure starts "
                "it anew; give the table a unique key, or the query a chunk_column",
            )
        )
    if RangeKind.WINDOW in kinds:
        found.append(
            Diagnostic(
                finding=Finding.UNINDEXED_WINDOW,
                message="no index begins with the chunk column: each chunk is one statement that "
                "may read the whole table, and a failure starts it anew; index the column",
            )
        )
    if RangeKind.BLOCKS in kinds:
        found.append(
            Diagnostic(
                finding=Finding.NO_KEY,
                message="rows are read by heap block: a row updated while the run goes on may "
                "move between chunks; a unique NOT NULL index avoids that",
            )
        )
    if RangeKind.NULLS in kinds:
        found.append(
            Diagnostic(
                finding=Finding.NULL_CHUNK,
                message="the chunk column may be NULL: those rows have a chunk of their own",
            )
        )
    if facts.row_estimate is None:
        found.append(
            Diagnostic(
                finding=Finding.NO_ROW_ESTIMATE,
                message="the source has no estimate of rows: progress has no total",
            )
        )
    elif mode == "full" and facts.row_estimate >= LARGE_ROWS and len(choice.ranges) == 1:
        found.append(
            Diagnostic(
                finding=Finding.ONE_CHUNK,
                message=f"about {facts.row_estimate} rows in one chunk: a single worker reads "
                "them; mode: chunked shares them",
            )
        )
    return tuple(found)
