"""The tail of a chunk in the state: commit, complete, fail, release, reopen, requeue.

Every verb recognises its own earlier success, because the answer to a COMMIT can be lost with
the connection: calling it again with the same fence is then a success, never LeaseLost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter

from rivet_fleet.contracts.codec import dumps
from rivet_fleet.contracts.events import Event, EventName, Told
from rivet_fleet.contracts.keys import CampaignId, RunId, TaskId
from rivet_fleet.contracts.manifest import (
    StagedPart,
)
from rivet_fleet.contracts.quality import UniqueStats
from rivet_fleet.contracts.reconcile import RangeResult
from rivet_fleet.contracts.state import CampaignStatus, Failure, TaskStatus, Verb
from rivet_fleet.errors import LeaseLost, StateRefused
from rivet_fleet.persistence.commits import seal_commit, seal_part
from rivet_fleet.persistence.database import Database, Record, Transaction
from rivet_fleet.persistence.guards import effect, guard, typed
from rivet_fleet.persistence.journal import note, note_all
from rivet_fleet.persistence.seals import said_by

# ------------------------------------------------------------------------------------------
# What parts know about unique keys: written with the commit, read by the finalizer alone.

_ADD = """
INSERT INTO part_unique (run_id, chunk_index, part_number, fence, position, keys, duplicates,
                         complete, shift, entries)
VALUES (:run_id, :chunk_index, :part_number, :fence, :position, :keys, :duplicates, :complete,
        :shift, :entries)
"""
# Only what a part of the ledger still stands for: a reopened chunk's parts are voided.
_STATS = """
SELECT u.keys, u.duplicates, u.complete, u.shift, u.entries FROM part_unique u
JOIN file_log f ON f.run_id = u.run_id AND f.chunk_index = u.chunk_index
  AND f.part_number = u.part_number AND f.fence = u.fence AND f.status <> 'voided'
WHERE u.run_id = :run_id AND u.position = :position
ORDER BY u.chunk_index, u.part_number
"""
_FORGET_FORMER = """
DELETE FROM part_unique WHERE run_id IN (
  SELECT run_id FROM chunk_run WHERE namespace = :namespace AND campaign_name = :campaign_name
    AND export_name = :export_name AND run_id <> :run_id AND status <> 'in_progress'
    AND created_at_s <= (SELECT created_at_s FROM chunk_run WHERE run_id = :run_id))
"""


class Uniques:
    """Reading, as plain values."""

    _db: Database

    def unique_stats(
        self, run_id: RunId, position: int, columns: tuple[str, ...]
    ) -> list[UniqueStats]:
        """What every part of the ledger knows about the unique key at ``position`` of the
        plan, in (chunk, part) order. Kept until a later run of the export is finished."""
        named = {"run_id": run_id, "position": position}
        rows = self._db.one(lambda tx: tx.all(_STATS, **named))
        return [_stats_from(row, columns) for row in rows]


def add_uniques(tx: Transaction, task: Record, fence: int, parts: Sequence[StagedPart]) -> None:
    """The statistics of a chunk's parts, in the transaction that commits it (Q1)."""
    named = {"run_id": task.run_id, "chunk_index": task.chunk_index, "fence": fence}
    values = [
        {
            **named,
            "part_number": part.part_number,
            "position": position,
            "keys": stats.keys,
            "duplicates": stats.duplicates,
            "complete": int(stats.complete),
            "shift": stats.shift,
            "entries": stats.entries,
        }
        for part in parts
        for position, stats in enumerate(part.uniques)
    ]
    if values:
        tx.run_many(_ADD, values)


def forget_former(tx: Transaction, run: Record) -> None:
    """Former runs of the export need theirs no more: only the last can be reopened usefully."""
    tx.run(
        _FORGET_FORMER,
        campaign_name=run.campaign_name,
        export_name=run.export_name,
        run_id=run.run_id,
    )


def _stats_from(row: Record, columns: tuple[str, ...]) -> UniqueStats:
    return UniqueStats(
        columns=columns,
        keys=row[0],
        duplicates=row[1],
        complete=bool(row[2]),
        shift=row[3],
        entries=bytes(row[4]),
    )


_NAMED = "task_id, campaign_id, run_id, export_name, chunk_index, owner, attempts, attempts_max"

# Of all attempts: the source was busy with those that failed as well.
_LONGEST = """longest_statement_ms = CASE
    WHEN :longest_statement_ms > coalesce(longest_statement_ms, -1) THEN :longest_statement_ms
    ELSE longest_statement_ms END"""
COMMIT = f"""
UPDATE chunk_task SET {effect(Verb.COMMIT)}, rows_written = :rows, pages_read = :pages,
  result_json = :result_json,
  {_LONGEST},
  lease_expires_at_s = NULL, error_class = NULL, last_error = NULL, page = NULL,
  committed_at_s = NOW_S, updated_at_s = NOW_S
WHERE {guard(Verb.COMMIT)} RETURNING {_NAMED},
  (SELECT r.seal FROM chunk_run r WHERE r.run_id = chunk_task.run_id) AS seal
"""
_SEAL_COMMIT = "UPDATE chunk_task SET commit_seal = :commit_seal WHERE task_id = :task_id"
COMPLETE = f"""
UPDATE chunk_task SET {effect(Verb.COMPLETE)}, completed_at_s = NOW_S, updated_at_s = NOW_S
WHERE {guard(Verb.COMPLETE)} RETURNING {_NAMED}
"""
# A permanent error leaves no attempt: nothing claims the chunk again before an operator's word.
FAIL = f"""
UPDATE chunk_task SET {effect(Verb.FAIL)},
  attempts = CASE WHEN :spend = 1 THEN attempts_max ELSE attempts END,
  not_before_s = NOW_S + :not_before_in_s, lease_expires_at_s = NULL,
  error_class = :error_class, last_error = :message, page = :page, {_LONGEST},
  updated_at_s = NOW_S
WHERE {guard(Verb.FAIL)} RETURNING {_NAMED}
"""
RELEASE = f"""
UPDATE chunk_task SET {effect(Verb.RELEASE)}, lease_expires_at_s = NULL, updated_at_s = NOW_S
WHERE {guard(Verb.RELEASE)} RETURNING {_NAMED}
"""
_RESET = """owner = NULL, lease_expires_at_s = NULL, not_before_s = NULL, rows_written = NULL,
  pages_read = NULL, longest_statement_ms = NULL, committed_at_s = NULL,
  completed_at_s = NULL, commit_seal = NULL, result_json = NULL, page = NULL,
  commit_fence = NULL, updated_at_s = NOW_S"""
REOPEN = f"""
UPDATE chunk_task SET {effect(Verb.REOPEN)}, error_class = NULL, last_error = :reason, {_RESET}
WHERE {guard(Verb.REOPEN)} RETURNING {_NAMED}
"""
_REQUEUE = f"""
UPDATE chunk_task SET {effect(Verb.REOPEN)}, {_RESET}
WHERE campaign_id = :campaign_id AND status = 'failed' FILTERS
  AND NOT EXISTS (SELECT 1 FROM file_log f WHERE f.run_id = chunk_task.run_id
                  AND f.chunk_index = chunk_task.chunk_index AND f.status <> 'voided')
RETURNING {_NAMED}
"""
_STANDING = "SELECT run_id, chunk_index, status, fence FROM chunk_task WHERE task_id = :task_id"

_ADD_PART = """
INSERT INTO file_log (run_id, export_name, chunk_index, part_number, fence, path, rows, bytes,
                      fingerprint, md5, receipt_json, columns_json, changed_values, status,
                      created_at_s, seal)
VALUES (:run_id, :export_name, :chunk_index, :part_number, :fence, :path, :rows, :bytes,
        :fingerprint, :md5, :receipt_json, :columns_json, :changed_values, 'committed',
        NOW_S, :seal)
"""
_STORED_PARTS = """
SELECT part_number, path, fingerprint FROM file_log
WHERE run_id = :run_id AND chunk_index = :chunk_index AND fence = :fence AND status <> 'voided'
"""
_PUBLISH_PARTS = """
UPDATE file_log SET status = 'published', published_at_s = NOW_S
WHERE run_id = :run_id AND chunk_index = :chunk_index AND fence = :fence
  AND status = 'committed'
"""
# Voided and not deleted: what was delivered once, and by whom, stays evidence.
VOID_PARTS = """
UPDATE file_log SET status = 'voided'
WHERE run_id = :run_id AND chunk_index = :chunk_index AND status <> 'voided'
"""
# Reopening locks top down: campaign, run, task. The finalizer and the verdict lock the same rows
# first, so none of them decides on a count that is just being changed.
LOCK_CAMPAIGN = "SELECT status FROM campaign WHERE campaign_id = :campaign_id LOCK_ROW"
LOCK_RUN = "SELECT status FROM chunk_run WHERE run_id = :run_id LOCK_ROW"
_PARENTS = "SELECT campaign_id, run_id FROM chunk_task WHERE task_id = :task_id"
# The fence goes up so that whoever is finishing the run right now finds no row to confirm or to
# end. What the source said of the whole was said of parts that are void.
REVIVE_RUN = """
UPDATE chunk_run SET finalize_fence = finalize_fence + 1, finalize_lease_expires_at_s = NULL,
  finished_at_s = NULL, error = NULL, manifest_fingerprint = NULL, findings_json = NULL,
  proof_json = NULL, proof_seal = NULL,
  status = CASE WHEN status = 'cancelled' THEN status ELSE 'in_progress' END
WHERE run_id = :run_id
"""
# A chunk that the repair left as it was: with it the generation before is whole no more.
_FORGET_GENERATION = """
UPDATE chunk_run SET former_json = NULL
WHERE run_id = :run_id AND former_json IS NOT NULL
  AND generation <> (SELECT generation FROM chunk_task WHERE task_id = :task_id)
"""
REVIVE_CAMPAIGN = """
UPDATE campaign SET status = 'active', finished_at_s = NULL
WHERE campaign_id = :campaign_id AND status IN ('completed', 'incomplete')
"""


class Ledger:
    """What a fence owner, or an operator, does to one task."""

    _db: Database

    def commit(
        self,
        task_id: TaskId,
        fence: int,
        parts: Sequence[StagedPart],
        *,
        rows: int,
        pages: int,
        longest_statement_s: float | None = None,
        told: Sequence[Told] = (),
    ) -> None:
        """running → committed with its part rows and what they know about unique keys, in one
        transaction. Raises LeaseLost. Zero parts is allowed (an empty chunk). ``told`` is
        journaled before the transition. Called again with the same fence and parts it succeeds."""
        done = {"rows": rows, "pages": pages, "result_json": None}
        done["longest_statement_ms"] = _ms(longest_statement_s)
        self._db.write(lambda tx: _commit(tx, task_id, fence, parts, done, told))

    def commit_result(
        self,
        task_id: TaskId,
        fence: int,
        result: RangeResult,
        *,
        longest_statement_s: float | None = None,
        told: Sequence[Told] = (),
    ) -> None:
        """As ``commit``, of a chunk that was compared and has no part."""
        rows = 0 if result.source is None else result.source.rows
        done = {"rows": rows, "pages": 0, "result_json": dumps(result)}
        done["longest_statement_ms"] = _ms(longest_statement_s)
        self._db.write(lambda tx: _commit(tx, task_id, fence, (), done, told))

    def mark_published(self, task_id: TaskId, fence: int, told: Sequence[Told] = ()) -> None:
        """committed → completed; its part rows become published. Raises LeaseLost. ``told`` is
        journaled before the transition. On a task completed under this fence it succeeds."""

        def work(tx: Transaction) -> None:
            task = tx.first(COMPLETE, task_id=task_id, fence=fence)
            if task is None:
                if not _stands(tx, task_id, fence, TaskStatus.COMPLETED):
                    raise _lost(task_id, fence, "complete")
                return
            named = {"run_id": task.run_id, "chunk_index": task.chunk_index, "fence": fence}
            tx.run(_PUBLISH_PARTS, **named)
            done = _event(EventName.CHUNK_COMPLETED, task, data={"fence": fence})
            note_all(tx, [done], told=told)

        # Undone by a power cut it is a committed chunk, which anybody completes again; whoever
        # acts on a completed run makes it durable first, with the finalizer's lease.
        self._db.write(work, durable=False)

    def fail(self, task_id: TaskId, fence: int, failure: Failure) -> TaskStatus:
        """running → failed, not to be claimed again before its backoff is over, or not at all when
        the failure is permanent; the status afterwards. Raises LeaseLost. On a task failed under
        this fence it succeeds."""

        def work(tx: Transaction) -> TaskStatus:
            task = tx.first(
                FAIL,
                task_id=task_id,
                fence=fence,
                spend=int(failure.permanent),
                not_before_in_s=failure.not_before_in_s,
                error_class=failure.error_class,
                message=failure.message,
                page=failure.page,
                longest_statement_ms=_ms(failure.longest_statement_s),
            )
            if task is None:
                if not _stands(tx, task_id, fence, TaskStatus.FAILED):
                    raise _lost(task_id, fence, "fail")
                return TaskStatus.FAILED
            data = {
                "error_class": failure.error_class,
                "code": failure.code,
                "permanent": failure.permanent,
                "page": failure.page,
                "attempts": task.attempts,
                "attempts_max": task.attempts_max,
                "longest_statement_s": failure.longest_statement_s,
            }
            note(tx, _event(EventName.CHUNK_FAILED, task, message=failure.message, data=data))
            return TaskStatus.FAILED

        return self._db.write(work)

    def release(self, task_id: TaskId, fence: int, outage: str = "") -> None:
        """running → pending, the attempt given back. Raises LeaseLost. ``outage``: what the source
        said, when it could not be connected. A pending task with this fence was released by its
        owner."""

        def work(tx: Transaction) -> None:
            task = tx.first(RELEASE, task_id=task_id, fence=fence)
            if task is None:
                if not _stands(tx, task_id, fence, TaskStatus.PENDING):
                    raise _lost(task_id, fence, "release")
                return
            note(tx, _event(EventName.CHUNK_RELEASED, task, message=outage))

        self._db.write(work)

    def reopen(self, task_id: TaskId, fence: int, reason: str) -> bool:
        """committed, completed or failed → pending: fence +1, attempts 0, part rows voided; a
        completed or failed run goes back to in progress, its campaign to active. False when the
        fence no longer matches (somebody else did it). The caller has made the old parts
        impossible before (F9)."""

        def work(tx: Transaction) -> bool:
            parents = tx.first(_PARENTS, task_id=task_id)
            if parents is None:
                return False
            tx.first(LOCK_CAMPAIGN, campaign_id=parents.campaign_id)
            tx.first(LOCK_RUN, run_id=parents.run_id)
            task = tx.first(REOPEN, task_id=task_id, fence=fence, reason=reason)
            if task is None:
                return False
            tx.run(VOID_PARTS, run_id=task.run_id, chunk_index=task.chunk_index)
            tx.run(REVIVE_RUN, run_id=task.run_id)
            tx.run(_FORGET_GENERATION, run_id=task.run_id, task_id=task_id)
            tx.run(REVIVE_CAMPAIGN, campaign_id=task.campaign_id)
            data = {"fence": fence + 1}
            note(tx, _event(EventName.CHUNK_REOPENED, task, message=reason, data=data))
            return True

        return self._db.write(work)

    def requeue(
        self,
        campaign_id: CampaignId,
        *,
        export_name: str | None = None,
        chunk_index: int | None = None,
    ) -> int:
        """failed → pending (attempts 0, fence +1) for tasks whose parts need no removal. The
        campaign becomes active again when it was incomplete."""
        filters = ""
        values: dict[str, object] = {"campaign_id": campaign_id}
        if export_name is not None:
            filters, values["export_name"] = "AND export_name = :export_name", export_name
        if chunk_index is not None:
            filters += " AND chunk_index = :chunk_index"
            values["chunk_index"] = chunk_index

        def work(tx: Transaction) -> int:
            status = tx.scalar(LOCK_CAMPAIGN, campaign_id=campaign_id)
            if status is None:
                raise StateRefused(f"there is no campaign {campaign_id}")
            if status == CampaignStatus.CANCELLED.value:
                raise StateRefused(
                    f"campaign {campaign_id} was cancelled",
                    hint="submit the configuration again as a new campaign",
                )
            tasks = tx.all(_REQUEUE.replace("FILTERS", filters), **values)
            if tasks:
                tx.run(REVIVE_CAMPAIGN, campaign_id=campaign_id)
            events = [_event(EventName.CHUNK_REOPENED, t, message="requeued") for t in tasks]
            note_all(tx, events)
            return len(tasks)

        return self._db.write(work)


def _stands(tx: Transaction, task_id: TaskId, fence: int, *statuses: TaskStatus) -> bool:
    row = tx.first(_STANDING, task_id=task_id)
    return row is not None and row.fence == fence and TaskStatus(row.status) in statuses


def _commit(
    tx: Transaction,
    task_id: TaskId,
    fence: int,
    parts: Sequence[StagedPart],
    done: Mapping[str, object],
    told: Sequence[Told],
) -> None:
    # The task first: its row decides who wins (F1), and a loser inserts nothing that the
    # unique key on parts would have to refuse.
    task = tx.first(COMMIT, task_id=task_id, fence=fence, **done)
    if task is None:
        if not _already_committed(tx, task_id, fence, parts):
            raise _lost(task_id, fence, "commit")
        return
    commit = {"fence": fence, "rows_written": done["rows"], "result_json": done["result_json"]}
    _keep_parts(tx, task, commit, parts)
    add_uniques(tx, task, fence, parts)
    size = sum(p.digest.size_bytes for p in parts)
    data: dict[str, object] = {"rows": done["rows"], "parts": len(parts), "bytes": size}
    data["fence"] = fence
    longest_ms = done["longest_statement_ms"]
    if longest_ms is not None:
        data["longest_statement_s"] = int(str(longest_ms)) / 1000
    note_all(tx, [_event(EventName.CHUNK_COMMITTED, task, data=data)], told=told)


def _already_committed(
    tx: Transaction, task_id: TaskId, fence: int, parts: Sequence[StagedPart]
) -> bool:
    """True when exactly these parts were committed under this fence: the answer got lost."""
    if not _stands(tx, task_id, fence, TaskStatus.COMMITTED, TaskStatus.COMPLETED):
        return False
    task = tx.first(_STANDING, task_id=task_id)
    assert task is not None
    stored = tx.all(_STORED_PARTS, run_id=task.run_id, chunk_index=task.chunk_index, fence=fence)
    given = {(p.part_number, p.path, p.digest.fingerprint) for p in parts}
    return {tuple(row) for row in stored} == given


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _lost(task_id: TaskId, fence: int, verb: str) -> LeaseLost:
    return LeaseLost(f"cannot {verb} task {task_id}: fence {fence} does not own it any more")


def _event(
    name: EventName, task: Record, *, message: str = "", data: Mapping[str, object] | None = None
) -> Event:
    return Event(
        name=name,
        campaign_id=task.campaign_id,
        run_id=task.run_id,
        export_name=task.export_name,
        chunk_index=task.chunk_index,
        worker_id=task.owner,
        message=message,
        data=data or {},
    )


def _part_values(task: Record, fence: int, part: StagedPart) -> dict[str, object]:
    return {
        "run_id": task.run_id,
        "export_name": task.export_name,
        "chunk_index": task.chunk_index,
        "part_number": part.part_number,
        "fence": fence,
        "path": part.path,
        "rows": part.digest.rows,
        "bytes": part.digest.size_bytes,
        "fingerprint": part.digest.fingerprint,
        "md5": part.digest.md5_base64,
        "receipt_json": dumps(part.receipt),
        "columns_json": dumps(part.columns),
        "changed_values": sum(column.changed for column in part.columns),
    }


def _keep_parts(
    tx: Transaction, task: Record, commit: Mapping[str, object], parts: Sequence[StagedPart]
) -> None:
    """The rows of a commit's parts, and its seal over them. ``task``: with its run's seal."""
    fence = int(str(commit["fence"]))
    with typed(f"the seal of run {task.run_id}"):
        submission = said_by(task.seal).submission
    values = [_part_values(task, fence, part) for part in parts]
    tx.run_many(
        _ADD_PART,
        [{**value, "seal": seal_part(tx.sealer, value, submission)} for value in values],
    )
    done_so = {**task._mapping, **commit}
    in_order = sorted(values, key=itemgetter("part_number"))
    seal = seal_commit(tx.sealer, done_so, in_order, submission)
    # In a statement of its own: what it covers is known only from what the first one returned.
    tx.run(_SEAL_COMMIT, task_id=task.task_id, commit_seal=seal)
