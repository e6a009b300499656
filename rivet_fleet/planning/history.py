"""What former runs teach about the next one: bounded, and only where it was measured. Pure.

Rivet's history never recognised its own successes (inventory §4.4, trap 7): the words that mean
success are named here once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rivet_fleet.contracts.priority import Prediction, Provenance
from rivet_fleet.contracts.state import MeasuredRun
from rivet_fleet.planning.priority import UNMEASURED, History

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
    """How long one worker will need (inventory §5.5): the last success, else the longest
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
    """What a former run counted beats what the catalog guesses (inventory §5.6).

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
