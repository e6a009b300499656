"""High-water marks and the boundaries people read, inside the transactions of others (ADR 0011)."""

from __future__ import annotations

from collections.abc import Mapping

from rivet_fleet.contracts.cursor import CursorPlan, advances, describe_mark
from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.plan import CampaignPlan, ExportPlan
from rivet_fleet.contracts.state import Boundary, Progression
from rivet_fleet.errors import StateRefused
from rivet_fleet.persistence.database import Database, Record, Transaction
from rivet_fleet.persistence.journal import note

INCREMENTAL = "incremental"
CHUNKED = "chunked"

_MARK = """
SELECT last_cursor_value FROM export_state
WHERE campaign_name = :campaign_name AND export_name = :export_name
"""
_MOVE = """
UPDATE export_state SET last_cursor_value = :after
WHERE campaign_name = :campaign_name AND export_name = :export_name
  AND coalesce(last_cursor_value, '') = :before
"""
_COMMITTED = """
SELECT last_committed_strategy, last_committed_cursor, last_committed_chunk_index
FROM export_progression
WHERE campaign_name = :campaign_name AND export_name = :export_name
"""
_RECORD = """
INSERT INTO export_progression (campaign_name, export_name, last_committed_strategy,
  last_committed_cursor, last_committed_chunk_index, last_committed_run_id, last_committed_at_s)
VALUES (:campaign_name, :export_name, :strategy, :cursor, :chunk_index, :run_id, NOW_S)
ON CONFLICT (campaign_name, export_name) DO UPDATE SET
  last_committed_strategy = excluded.last_committed_strategy,
  last_committed_cursor = excluded.last_committed_cursor,
  last_committed_chunk_index = excluded.last_committed_chunk_index,
  last_committed_run_id = excluded.last_committed_run_id,
  last_committed_at_s = excluded.last_committed_at_s
"""
_PROGRESSION = """
SELECT n.export_name, s.last_cursor_value,
  p.last_committed_strategy, p.last_committed_cursor, p.last_committed_chunk_index,
  p.last_committed_run_id, p.last_committed_at_s,
  p.last_verified_strategy, p.last_verified_cursor, p.last_verified_chunk_index,
  p.last_verified_run_id, p.last_verified_at_s
FROM (SELECT export_name FROM export_state WHERE campaign_name = :campaign_name
      UNION SELECT export_name FROM export_progression WHERE campaign_name = :campaign_name) n
LEFT JOIN export_state s
  ON s.campaign_name = :campaign_name AND s.export_name = n.export_name
LEFT JOIN export_progression p
  ON p.campaign_name = :campaign_name AND p.export_name = n.export_name
ORDER BY n.export_name
"""


class Marks:
    """Reading them, as plain values."""

    _db: Database

    def progression(self, campaign_name: str) -> list[Progression]:
        """See ``Store.progression``."""
        rows = self._db.one(lambda tx: tx.all(_PROGRESSION, campaign_name=campaign_name))
        return [
            Progression(
                export_name=row[0],
                cursor=row[1],
                committed=_boundary(*row[2:7]),
                verified=_boundary(*row[7:12]),
            )
            for row in rows
        ]


def _boundary(
    strategy: str | None,
    cursor: str | None,
    chunk_index: int | None,
    run_id: str | None,
    at_s: float | None,
) -> Boundary | None:
    if strategy is None or run_id is None or at_s is None:
        return None
    return Boundary(
        strategy=strategy, cursor=cursor, chunk_index=chunk_index, run_id=RunId(run_id), at_s=at_s
    )


def refuse_moved_marks(tx: Transaction, plan: CampaignPlan) -> None:
    """W6. Call it behind the look for a run in progress: only such a run could move a mark, and
    one that ends between the two is seen here."""
    for run in plan.runs:
        if run.plan.cursor is not None:
            named = {"campaign_name": plan.campaign_name, "export_name": run.plan.export_name}
            refuse_moved(run.plan.export_name, run.plan.cursor, tx.scalar(_MARK, **named))


def refuse_moved(export_name: str, cursor: CursorPlan, stored: str | None) -> None:
    """Raise StateRefused when the stored mark is not the one the plan begins at."""
    if cursor.mark_before == stored:
        return
    now = "gone" if stored is None else f"now {describe_mark(stored)}"
    raise StateRefused(
        f"export {export_name} was planned at another high-water mark: it is {now}",
        hint="plan it again: another campaign has delivered rows meanwhile",
        code="RIVET_PLAN_CURSOR_DRIFT",
    )


def move_mark(tx: Transaction, run: Record, plan: ExportPlan) -> None:
    """The mark moves to the end of the run's window, from its beginning and from nowhere else:
    a forced plan that began elsewhere leaves it where it is. Values are never compared."""
    cursor = plan.cursor
    if cursor is None or cursor.mark_after in (None, cursor.mark_before):
        return
    named = {"campaign_name": run.campaign_name, "export_name": run.export_name}
    if tx.scalar(_MARK, **named) == cursor.mark_after:
        return  # a reopened run that ends again
    moved = tx.run(_MOVE, **named, before=cursor.mark_before or "", after=cursor.mark_after)
    note(tx, mark_event(run.run_id, run.campaign_id, plan, moved=moved == 1))


def mark_event(run_id: RunId, campaign_id: CampaignId, plan: ExportPlan, *, moved: bool) -> Event:
    """What became of the mark."""
    assert plan.cursor is not None and plan.cursor.mark_after is not None
    return Event(
        name=EventName.MARK_MOVED if moved else EventName.MARK_KEPT,
        campaign_id=campaign_id,
        run_id=run_id,
        export_name=plan.export_name,
        message=describe_mark(plan.cursor.mark_after),
        data={"before": plan.cursor.mark_before, "after": plan.cursor.mark_after},
    )


def boundary_of(plan: ExportPlan, chunks: int) -> Mapping[str, object] | None:
    """What a completed run proves (PG4); None for modes that have no boundary."""
    if plan.cursor is not None:
        if plan.cursor.mark_after is None:
            return None
        return {"strategy": INCREMENTAL, "cursor": plan.cursor.mark_after, "chunk_index": None}
    if plan.mode == CHUNKED:
        return {"strategy": CHUNKED, "cursor": None, "chunk_index": chunks - 1}
    return None


def moves_on(
    strategy: str | None,
    cursor: str | None,
    chunk_index: int | None,
    boundary: Mapping[str, object],
) -> bool:
    """PG3: a boundary never goes back; one of another strategy takes its place."""
    if strategy != boundary["strategy"]:
        return True
    if strategy == INCREMENTAL:
        return advances(cursor, str(boundary["cursor"]))
    return chunk_index is None or chunk_index <= int(str(boundary["chunk_index"]))


def record_committed(tx: Transaction, run: Record, plan: ExportPlan) -> None:
    """PG2: behind the mark, in the same transaction."""
    boundary = boundary_of(plan, run.expected_tasks)
    if boundary is None:
        return
    named = {"campaign_name": run.campaign_name, "export_name": run.export_name}
    before = tx.first(_COMMITTED, **named)
    strategy, cursor, chunk_index = before or (None, None, None)
    if moves_on(strategy, cursor, chunk_index, boundary):
        tx.run(_RECORD, **named, run_id=run.run_id, **boundary)
