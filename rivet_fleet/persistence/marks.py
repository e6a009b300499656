"""High-water marks and the boundaries people read, inside the transactions of others (ADR 0011)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rivet_fleet.contracts.codec import loads
from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.plan import CampaignPlan, ExportPlan
from rivet_fleet.contracts.reconcile import RangeVerdict, RunComparison, compared_run
from rivet_fleet.contracts.state import Boundary, MeasuredRun, Progression
from rivet_fleet.contracts.window import (
    MARK_OTHER,
    CursorPlan,
    StoredMark,
    advances,
    binding_text,
    describe_binding,
    describe_changes,
    describe_mark,
    differences,
    stored_binding,
)
from rivet_fleet.errors import StateRefused
from rivet_fleet.persistence.commits import read_comparison
from rivet_fleet.persistence.database import Database, Record, Transaction
from rivet_fleet.persistence.guards import READ_BY, typed
from rivet_fleet.persistence.journal import note
from rivet_fleet.persistence.seals import (
    SEALED_OF_MARK,
    SEALED_OF_RUN,
    check_mark,
    check_run,
    seal_mark,
)

INCREMENTAL = "incremental"
CHUNKED = "chunked"

_MARK = f"""
SELECT {SEALED_OF_MARK} FROM export_state
WHERE namespace = :namespace AND campaign_name = :campaign_name AND export_name = :export_name
"""
_MARKED = """
SELECT DISTINCT campaign_name FROM export_state
WHERE namespace = :namespace AND last_cursor_value IS NOT NULL ORDER BY campaign_name
"""
# No mark is NULL, which equals nothing in SQL: compared is the empty text instead.
MOVE = """
UPDATE export_state SET last_cursor_value = :after, mark_binding = :binding, mark_seal = :seal
WHERE namespace = :namespace AND campaign_name = :campaign_name AND export_name = :export_name
  AND coalesce(last_cursor_value, '') = :before AND coalesce(mark_binding, '') = :binding_before
"""
_IMPORT = """
INSERT INTO export_state (namespace, campaign_name, export_name, last_cursor_value, mark_binding,
                          mark_seal)
VALUES (:namespace, :campaign_name, :export_name, :value, :binding, :seal)
ON CONFLICT (namespace, campaign_name, export_name) DO UPDATE SET
  last_cursor_value = excluded.last_cursor_value, mark_binding = excluded.mark_binding,
  mark_seal = excluded.mark_seal
WHERE export_state.last_cursor_value IS NULL
"""
_IN_PROGRESS = """
SELECT campaign_id FROM chunk_run
WHERE namespace = :namespace AND campaign_name = :campaign_name
  AND export_name = :export_name AND status = 'in_progress'
"""
_BOUNDARY = """
SELECT last_KIND_strategy, last_KIND_cursor, last_KIND_chunk_index
FROM export_progression
WHERE namespace = :namespace AND campaign_name = :campaign_name AND export_name = :export_name
"""
_RECORD = """
INSERT INTO export_progression (namespace, campaign_name, export_name, last_KIND_strategy,
  last_KIND_cursor, last_KIND_chunk_index, last_KIND_run_id, last_KIND_at_s)
VALUES (:namespace, :campaign_name, :export_name, :strategy, :cursor, :chunk_index, :run_id, NOW_S)
ON CONFLICT (namespace, campaign_name, export_name) DO UPDATE SET
  last_KIND_strategy = excluded.last_KIND_strategy,
  last_KIND_cursor = excluded.last_KIND_cursor,
  last_KIND_chunk_index = excluded.last_KIND_chunk_index,
  last_KIND_run_id = excluded.last_KIND_run_id,
  last_KIND_at_s = excluded.last_KIND_at_s
"""
_PROGRESSION = """
SELECT n.export_name, s.last_cursor_value,
  p.last_committed_strategy, p.last_committed_cursor, p.last_committed_chunk_index,
  p.last_committed_run_id, p.last_committed_at_s,
  p.last_verified_strategy, p.last_verified_cursor, p.last_verified_chunk_index,
  p.last_verified_run_id, p.last_verified_at_s
FROM (SELECT export_name FROM export_state
      WHERE namespace = :namespace AND campaign_name = :campaign_name
      UNION SELECT export_name FROM export_progression
      WHERE namespace = :namespace AND campaign_name = :campaign_name) n
LEFT JOIN export_state s
  ON s.namespace = :namespace AND s.campaign_name = :campaign_name AND s.export_name = n.export_name
LEFT JOIN export_progression p
  ON p.namespace = :namespace AND p.campaign_name = :campaign_name AND p.export_name = n.export_name
ORDER BY n.export_name
"""


class Marks:
    """Reading them, as plain values, and an operator's word for one."""

    _db: Database

    def marks(self, campaign_name: str, export_names: Sequence[str]) -> dict[str, StoredMark]:
        """The mark of each export that has one, with what it is bound to (PA4 compares it). Raises
        StateTampered for one that is not where a run or an operator left it."""

        def work(tx: Transaction) -> dict[str, StoredMark]:
            named = {"campaign_name": campaign_name}
            found = {name: _stored(tx, {**named, "export_name": name}) for name in export_names}
            return {name: mark for name, mark in found.items() if mark is not None}

        return self._db.read(work)

    def marked_campaigns(self) -> list[str]:
        """Names under which exports have marks, whether or not a campaign is left of them."""
        return [name for (name,) in self._db.one(lambda tx: tx.all(_MARKED))]

    def accept_mark(
        self, campaign_name: str, export_name: str, at: StoredMark, binding: str, event: Event
    ) -> bool:
        """Bind the mark ``at`` to something else; ``event`` tells it in the same transaction.
        False when it is bound so already. StateRefused when it has changed, or a run of the
        export is in progress."""
        named = {"campaign_name": campaign_name, "export_name": export_name}

        def work(tx: Transaction) -> bool:
            other = tx.scalar(_IN_PROGRESS, **named)
            if other is not None:
                raise in_progress(export_name, other)
            after = StoredMark(value=at.value, binding=binding)
            if _stored(tx, named) == after:
                return False
            if tx.run(MOVE, **named, **_from_to(at, after), seal=_sealed(tx, named, after)) == 0:
                raise mark_changed(export_name)
            note(tx, event)
            return True

        return self._db.write(work)

    def import_mark(
        self, campaign_name: str, export_name: str, mark: StoredMark, event: Event
    ) -> bool:
        """Give an export without a mark the one that another program stopped at; ``event`` tells it
        in the same transaction. False, and nothing is changed, when it has one. StateRefused when
        a run of the export is in progress."""
        named = {"campaign_name": campaign_name, "export_name": export_name}

        def work(tx: Transaction) -> bool:
            other = tx.scalar(_IN_PROGRESS, **named)
            if other is not None:
                raise in_progress(export_name, other)
            stored = {"value": mark.value, "binding": mark.binding}
            if tx.run(_IMPORT, **named, **stored, seal=_sealed(tx, named, mark)) == 0:
                return False
            note(tx, event)
            return True

        return self._db.write(work)

    def progression(self, campaign_name: str) -> list[Progression]:
        """How far each export has come, by name. For people: nothing is decided by it (PG7)."""
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
            refuse_moved(run.plan.export_name, run.plan.cursor, _stored(tx, named))


def refuse_moved(export_name: str, cursor: CursorPlan, stored: StoredMark | None) -> None:
    """Raise StateRefused when the stored mark is not the one the plan begins at, or means
    something else now."""
    value, binding = (None, None) if stored is None else (stored.value, stored.binding)
    if cursor.mark_before == value:
        if cursor.binding_before == binding:
            return
        changes = differences(stored_binding(cursor.binding_before), stored_binding(binding))
        raise StateRefused(
            f"export {export_name} was planned before its mark was bound anew: "
            f"{describe_changes(changes) or 'a run has bound it meanwhile'}",
            hint="plan it again: the mark belongs to what `state accept` or the last run said",
            code=MARK_OTHER,
        )
    now = "gone" if value is None else f"now {describe_mark(value)}"
    raise StateRefused(
        f"export {export_name} was planned at another high-water mark: it is {now}",
        hint="plan it again: another campaign has delivered rows meanwhile",
        code="RIVET_PLAN_CURSOR_DRIFT",
    )


def in_progress(export_name: str, campaign_id: str) -> StateRefused:
    """The refusal to change what a run will move when it ends."""
    return StateRefused(
        f"export {export_name} is in progress in campaign {campaign_id}: its end moves the mark",
        hint="wait for it, or `rivet-fleet cancel` it, and accept then",
        code="RIVET_EXPORT_IN_PROGRESS",
    )


def mark_changed(export_name: str) -> StateRefused:
    """The refusal to bind a mark that is not there any more."""
    return StateRefused(
        f"the mark of export {export_name} has changed meanwhile; nothing was accepted",
        hint="`rivet-fleet state show` has it as it is now; accept again",
        code="RIVET_PLAN_CURSOR_DRIFT",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What the end of a run makes of its mark. ``at``: where the plan began, None for no mark;
    only from there ``after`` is written."""

    at: StoredMark | None
    after: StoredMark
    adopts: bool

    @property
    def silent(self) -> bool:
        """True when nothing was new: the mark stays, whatever becomes of its binding."""
        return self.at is not None and self.at.value == self.after.value


def move_of(cursor: CursorPlan | None, stored: StoredMark | None) -> Move | None:
    """What is to be written, by compare-and-set (B2); None when nothing is, also because a
    reopened run ends again."""
    if cursor is None or cursor.mark_after is None:
        return None
    before, binding = cursor.mark_before, binding_text(cursor.binding) or cursor.binding_before
    move = Move(
        at=None if before is None else StoredMark(value=before, binding=cursor.binding_before),
        after=StoredMark(value=cursor.mark_after, binding=binding),
        adopts=before is not None and cursor.binding_before is None and binding is not None,
    )
    if stored == move.after:
        return None
    again = stored is not None and stored.value == move.after.value
    return None if again and not move.silent else move


def move_mark(tx: Transaction, run: Record, plan: ExportPlan) -> None:
    """The mark moves to the end of the run's window, from its beginning and from nowhere else:
    a forced plan that began elsewhere leaves it where it is. Values are never compared."""
    named = {"campaign_name": run.campaign_name, "export_name": run.export_name}
    move = move_of(plan.cursor, _stored(tx, named))
    if move is None:
        return
    seal = _sealed(tx, named, move.after)
    moved = tx.run(MOVE, **named, **_from_to(move.at, move.after), seal=seal) == 1
    for event in move_events(run.run_id, run.campaign_id, plan, move, moved=moved):
        note(tx, event)


def move_events(
    run_id: RunId, campaign_id: CampaignId, plan: ExportPlan, move: Move, *, moved: bool
) -> Iterator[Event]:
    """What is told of a mark at the end of its run."""
    if moved and move.adopts:
        assert plan.cursor is not None
        yield Event(
            name=EventName.MARK_ADOPTED,
            campaign_id=campaign_id,
            run_id=run_id,
            export_name=plan.export_name,
            message=f"bound to {describe_binding(plan.cursor.binding)}",
            data={"binding": [one.shown for one in plan.cursor.binding]},
        )
    if not move.silent:
        yield mark_event(run_id, campaign_id, plan, moved=moved)


def _from_to(at: StoredMark | None, after: StoredMark) -> dict[str, str | None]:
    return {
        "before": at.value if at else "",
        "binding_before": (at.binding if at else None) or "",
        "after": after.value,
        "binding": after.binding,
    }


def _stored(tx: Transaction, named: Mapping[str, str]) -> StoredMark | None:
    row = tx.first(_MARK, **named)
    if row is None or row.last_cursor_value is None:
        return None
    check_mark(tx.sealer, row)
    return StoredMark(value=row.last_cursor_value, binding=row.mark_binding)


def _sealed(tx: Transaction, named: Mapping[str, str], mark: StoredMark) -> str:
    fields = {"last_cursor_value": mark.value, "mark_binding": mark.binding}
    return seal_mark(tx.sealer, {"namespace": tx.namespace, **named, **fields})


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
    _record(tx, "committed", run.campaign_name, run.run_id, plan, run.expected_tasks)


def end_comparison(tx: Transaction, run: Record, plan: ExportPlan) -> RunComparison:
    """PG5, PG6: what is verified moves with a run that has compared all of another one without a
    difference, and with nothing less."""
    assert plan.reconcile is not None
    found, of = compared_run(read_comparison(tx, run.run_id)), plan.reconcile
    if found.verdict is RangeVerdict.MATCH:
        _record(tx, "verified", of.campaign_name, of.of_run, plan, run.expected_tasks)
    return found


def _record(
    tx: Transaction, kind: str, campaign_name: str, run_id: str, plan: ExportPlan, chunks: int
) -> None:
    boundary = boundary_of(plan, chunks)
    if boundary is None:
        return
    named = {"campaign_name": campaign_name, "export_name": plan.export_name}
    before = tx.first(_BOUNDARY.replace("KIND", kind), **named)
    strategy, cursor, chunk_index = before or (None, None, None)
    if moves_on(strategy, cursor, chunk_index, boundary):
        tx.run(_RECORD.replace("KIND", kind), **named, run_id=run_id, **boundary)


# ------------------------------------------------------------------------------------------
# What former runs measured, and where exports stand: read when the next campaign is planned.

_ENDED = """
SELECT run_id, run_at_s, status, total_rows, bytes_written, duration_ms, work_ms, chunks, retries
FROM export_metrics
WHERE export_name = :export_name AND namespace = :namespace AND campaign_name = :campaign_name
ORDER BY metrics_id DESC LIMIT :limit
"""
# A run whose chunks failed for good never ends by itself: its campaign was given up, or rests
# incomplete. Without these the history would know successes only.
_GIVEN_UP = f"""
SELECT r.run_id, coalesce(c.finished_at_s, r.created_at_s) AS run_at_s, 'failed' AS status,
       0 AS total_rows, 0 AS bytes_written, 0 AS duration_ms,
       (SELECT sum(CASE WHEN {READ_BY} > t.claimed_at_s
                        THEN {READ_BY} - t.claimed_at_s ELSE 0 END) * 1000
        FROM chunk_task t WHERE t.run_id = r.run_id AND t.claimed_at_s IS NOT NULL
          AND t.committed_at_s IS NOT NULL) AS work_ms,
       r.expected_tasks AS chunks,
       (SELECT coalesce(sum(CASE WHEN t.attempts > 1 THEN t.attempts - 1 ELSE 0 END), 0)
        FROM chunk_task t WHERE t.run_id = r.run_id) AS retries
FROM chunk_run r JOIN campaign c ON c.campaign_id = r.campaign_id
WHERE r.namespace = :namespace AND r.campaign_name = :campaign_name
  AND r.export_name = :export_name
  AND r.status IN ('in_progress', 'cancelled') AND c.status IN ('incomplete', 'cancelled')
  AND EXISTS (SELECT 1 FROM chunk_task t WHERE t.run_id = r.run_id AND t.status = 'failed')
ORDER BY run_at_s DESC LIMIT :limit
"""
_LAST_PLAN = """
SELECT SEALED FROM export_state s JOIN chunk_run r ON r.run_id = s.last_run_id
WHERE s.namespace = :namespace AND s.campaign_name = :campaign_name
  AND s.export_name = :export_name
"""


class Histories:
    """Reading, as plain values."""

    _db: Database

    def history(
        self, campaign_name: str, export_names: Sequence[str], *, limit: int = 20
    ) -> dict[str, list[MeasuredRun]]:
        """What the last ``limit`` ended runs of each export measured, newest first; exports
        without any are left out. Advice is made of it, never correctness."""

        def work(tx: Transaction) -> dict[str, list[MeasuredRun]]:
            named = {"campaign_name": campaign_name, "limit": limit}
            found = {}
            for name in export_names:
                runs = [
                    *tx.each(_ENDED, _measured_from, **named, export_name=name),
                    *tx.each(_GIVEN_UP, _measured_from, **named, export_name=name),
                ]
                if runs:
                    found[name] = sorted(runs, key=lambda run: -run.run_at_s)[:limit]
            return found

        return self._db.read(work)

    def last_plans(self, campaign_name: str, export_names: Sequence[str]) -> dict[str, ExportPlan]:
        """The sealed plan of each export's last completed run; exports without one, or whose
        run was forgotten, are left out. What schema drift is measured from. Raises
        StateTampered."""

        def work(tx: Transaction) -> dict[str, str]:
            named = {"campaign_name": campaign_name}
            sealed = ", ".join(f"r.{name}" for name in SEALED_OF_RUN.split(", "))
            sql = _LAST_PLAN.replace("SEALED", sealed)
            found = {n: tx.first(sql, **named, export_name=n) for n in export_names}
            runs = {name: run for name, run in found.items() if run is not None}
            for run in runs.values():
                check_run(tx.sealer, run)
            return {name: run.plan_json for name, run in runs.items()}

        return {name: loads(ExportPlan, plan) for name, plan in self._db.read(work).items()}


@typed("a former run of the state")
def _measured_from(row: Record) -> MeasuredRun:
    return MeasuredRun(
        run_id=RunId(row.run_id),
        run_at_s=row.run_at_s,
        succeeded=row.status == "success",
        rows=row.total_rows,
        bytes=row.bytes_written,
        duration_s=row.duration_ms / 1000,
        work_s=None if row.work_ms is None else row.work_ms / 1000,
        chunks=row.chunks,
        retries=row.retries,
    )
