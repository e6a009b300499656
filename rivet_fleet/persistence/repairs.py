"""A delivered run that is read anew in part, as its next generation (ADR 0032)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.keys import RunId
from rivet_fleet.contracts.manifest import LedgerPart
from rivet_fleet.contracts.state import RunStatus
from rivet_fleet.errors import StateRefused
from rivet_fleet.persistence.commits import SEALED_OF_PART, read_parts
from rivet_fleet.persistence.database import Record, Transaction
from rivet_fleet.persistence.finalizers import OTHER_IN_PROGRESS, Acceptances, Finalizers
from rivet_fleet.persistence.guards import typed
from rivet_fleet.persistence.journal import note
from rivet_fleet.persistence.ledger import (
    LOCK_CAMPAIGN,
    LOCK_RUN,
    REOPEN,
    REVIVE_CAMPAIGN,
    REVIVE_RUN,
    VOID_PARTS,
)
from rivet_fleet.persistence.seals import SEALED_OF_RUN, check_run

UNDERWAY = "RIVET_REPAIR_UNDERWAY"
COMMIT_FENCE = "commit_fence"
_RUN = f"SELECT {SEALED_OF_RUN}, status, generation FROM chunk_run WHERE run_id = :run_id"
_PARENT = "SELECT campaign_id FROM chunk_run WHERE run_id = :run_id"
_TASK = """
SELECT task_id, fence FROM chunk_task
WHERE run_id = :run_id AND chunk_index = :chunk_index AND status = 'completed'
"""
_NEXT_OF_TASK = """
UPDATE chunk_task SET generation = :generation, former_json = :former_json WHERE task_id = :task_id
"""
_NEXT_OF_RUN = """
UPDATE chunk_run SET generation = :generation, former_json = :former_json WHERE run_id = :run_id
"""
# What reopening forgets: kept beside the row until the repair is completed, so that one that is
# given up leads back to it. Seals travel along, and are compared as ever.
_OF_RUN = [
    "generation",
    "finished_at_s",
    "error",
    "manifest_fingerprint",
    "findings_json",
    "proof_json",
    "proof_seal",
    "acceptance_json",
    "acceptance_seal",
]
_OF_TASK = [
    "generation",
    "attempts",
    "owner",
    "error_class",
    "last_error",
    "rows_written",
    "pages_read",
    "longest_statement_ms",
    "committed_at_s",
    "completed_at_s",
    "commit_seal",
    "page",
]
_RUN_BEFORE = f"SELECT {', '.join(_OF_RUN)} FROM chunk_run WHERE run_id = :run_id"
_TASK_BEFORE = f"""
SELECT {", ".join(_OF_TASK)}, coalesce(commit_fence, fence) AS commit_fence
FROM chunk_task WHERE task_id = :task_id
"""
_OPEN_REPAIRS = """
SELECT run_id, campaign_id, export_name, generation, former_json FROM chunk_run
WHERE campaign_id = :campaign_id AND status IN ('in_progress', 'failed')
  AND former_json IS NOT NULL ORDER BY position LOCK_ROW
"""
_TASKS_GIVEN_UP = """
SELECT task_id, chunk_index, status, former_json FROM chunk_task
WHERE run_id = :run_id AND generation = :generation ORDER BY chunk_index LOCK_ROW
"""
# The fence goes up, and what was committed under a former one says so: whoever works on the chunk
# of the repair finds no row any more (F1), and its fence is never given out again.
_RESTORE_TASK = f"""
UPDATE chunk_task SET status = 'completed', fence = fence + 1, lease_expires_at_s = NULL,
  not_before_s = NULL, result_json = NULL, former_json = NULL, updated_at_s = NOW_S,
  commit_fence = :commit_fence, {", ".join(f"{name} = :{name}" for name in _OF_TASK)}
WHERE task_id = :task_id
"""
_RESTORE_RUN = f"""
UPDATE chunk_run SET status = 'completed', finalize_fence = finalize_fence + 1,
  finalize_lease_expires_at_s = NULL, former_json = NULL,
  {", ".join(f"{name} = :{name}" for name in _OF_RUN)}
WHERE run_id = :run_id
"""
_ACCEPT_AGAIN = """
UPDATE file_log SET status = 'published', replaced_in = NULL
WHERE run_id = :run_id AND status = 'voided' AND replaced_in = :generation
"""
_REPLACE = """
UPDATE file_log SET replaced_in = :generation
WHERE run_id = :run_id AND chunk_index = :chunk_index AND status <> 'voided'
"""
_REPLACED = f"""
SELECT {SEALED_OF_PART}, status FROM file_log
WHERE run_id = :run_id AND status = 'voided' AND replaced_in IS NOT NULL UNTIL
ORDER BY chunk_index, part_number, file_id
"""
_KEPT = f"""
SELECT {SEALED_OF_PART}, status FROM file_log
WHERE run_id = :run_id AND (status <> 'voided' OR replaced_in IS NOT NULL)
ORDER BY chunk_index, part_number, file_id
"""
_FORGET = """
UPDATE file_log SET replaced_in = NULL WHERE run_id = :run_id AND replaced_in <= :generation
"""
_BEGUN_BY = f"""
SELECT worker_id FROM run_journal
WHERE run_id = :run_id AND event = '{EventName.RUN_REPAIRING.value}'
ORDER BY journal_id DESC LIMIT 1
"""


class Repairs(Acceptances, Finalizers):
    """How a run ends, and begins anew: completed → in progress as the next generation, and what
    becomes of what it replaces."""

    def repair_run(
        self, run_id: RunId, *, generation: int, fences: Mapping[int, int], by: str, reason: str
    ) -> int:
        """Reopen the chunks of ``fences`` (index → the fence each was committed under) of a run
        that is completed in this ``generation``, all or none; the next generation. Their parts
        stay visible, voided and marked as replaced. Raises StateRefused, and changes nothing, for
        a run in any other state, and beside another one of its export. Called again by the same
        process (``by``) after its own success it succeeds."""

        def work(tx: Transaction) -> int:
            campaign_id = tx.scalar(_PARENT, run_id=run_id)
            # Top down, as a reopening locks them.
            campaign = tx.scalar(LOCK_CAMPAIGN, campaign_id=campaign_id)
            tx.first(LOCK_RUN, run_id=run_id)
            run = tx.first(_RUN, run_id=run_id)
            if run is None:
                raise underway(f"there is no run {run_id}")
            check_run(tx.sealer, run)
            if run.generation == generation + 1 and tx.scalar(_BEGUN_BY, run_id=run_id) == by:
                return generation + 1
            refuse_repair(run_id, RunStatus(run.status), run.generation, generation)
            if campaign == "cancelled":
                raise underway(f"the campaign of run {run_id} was cancelled", hint=GIVEN_UP)
            other = tx.scalar(OTHER_IN_PROGRESS, run_id=run_id)
            if other is not None:
                raise underway(f"run {other} of the same export is in progress")
            for chunk_index, fence in fences.items():
                _reopen(tx, run, chunk_index, fence, reason)
            before = _kept(tx.first(_RUN_BEFORE, run_id=run_id))
            tx.run(REVIVE_RUN, run_id=run_id)
            tx.run(_NEXT_OF_RUN, run_id=run_id, generation=generation + 1, former_json=before)
            tx.run(REVIVE_CAMPAIGN, campaign_id=campaign_id)
            told = (run.campaign_id, run_id, run.export_name)
            note(tx, repairing_event(*told, by, reason, generation + 1, sorted(fences)))
            return generation + 1

        return self._db.write(work)

    def replaced_parts(self, run_id: RunId, *, until: int | None = None) -> list[LedgerPart]:
        """Parts that repairs have replaced and nobody has removed yet, in a generation ``until``
        this one where it is given. Raises StateTampered."""
        sql = _REPLACED.replace("UNTIL", "" if until is None else "AND replaced_in <= :until")
        values: dict[str, object] = {} if until is None else {"until": until}
        return self._db.read(lambda tx: read_parts(tx, sql, run_id, **values))

    def kept_parts(self, run_id: RunId) -> list[LedgerPart]:
        """Parts that readers may be led to, of one moment: accepted ones, and those that repairs
        have replaced and nobody has removed yet. Raises StateTampered."""
        return self._db.read(lambda tx: read_parts(tx, _KEPT, run_id))

    def forget_replaced(self, run_id: RunId, generation: int) -> None:
        """What was replaced up to this generation is removed; its rows stay as evidence."""
        self._db.write(lambda tx: tx.run(_FORGET, run_id=run_id, generation=generation))


def _reopen(tx: Transaction, run: Record, chunk_index: int, fence: int, reason: str) -> None:
    named = {"run_id": run.run_id, "chunk_index": chunk_index}
    task = tx.first(_TASK, **named)
    if task is None or task.fence != fence:
        raise underway(f"chunk {chunk_index} of run {run.run_id} was read again meanwhile")
    next_one = {"task_id": task.task_id, "generation": run.generation + 1}
    next_one["former_json"] = _kept(tx.first(_TASK_BEFORE, task_id=task.task_id))
    tx.first(REOPEN, task_id=task.task_id, fence=fence, reason=reason)
    tx.run(_NEXT_OF_TASK, **next_one)
    tx.run(_REPLACE, **named, generation=run.generation + 1)
    tx.run(VOID_PARTS, **named)
    note(
        tx,
        Event(
            name=EventName.CHUNK_REOPENED,
            campaign_id=run.campaign_id,
            run_id=run.run_id,
            export_name=run.export_name,
            chunk_index=chunk_index,
            message=reason,
            data={"fence": fence + 1, "generation": run.generation + 1},
        ),
    )


def _kept(row: Record | None) -> str:
    assert row is not None, "it is locked"
    return json.dumps(dict(row._mapping))


def restore_runs(tx: Transaction, campaign_id: str) -> int:
    """The campaign's runs whose repair is given up are completed again in the generation before it,
    as they were; how many of their chunks somebody was reading. Of the repair nothing is left but
    its parts, voided as evidence. The caller has locked the campaign."""
    taken = 0
    for run in tx.all(_OPEN_REPAIRS, campaign_id=campaign_id):
        of_repair = {"run_id": run.run_id, "generation": run.generation}
        tasks = tx.all(_TASKS_GIVEN_UP, **of_repair)
        for task in tasks:
            # Before those that they replaced stand again: a chunk's parts have one number each.
            tx.run(VOID_PARTS, run_id=run.run_id, chunk_index=task.chunk_index)
            tx.run(_RESTORE_TASK, task_id=task.task_id, **_former(task, [*_OF_TASK, COMMIT_FENCE]))
        tx.run(_ACCEPT_AGAIN, **of_repair)
        before = _former(run, _OF_RUN)
        tx.run(_RESTORE_RUN, run_id=run.run_id, **before)
        taken += sum(task.status == "running" for task in tasks)
        told = (run.campaign_id, run.run_id, run.export_name)
        indexes = [task.chunk_index for task in tasks]
        note(tx, restored_event(*told, int(str(before["generation"])), indexes))
    return taken


def _former(row: Record, names: Sequence[str]) -> dict[str, object]:
    with typed("what was before a repair"):
        kept = json.loads(row.former_json)
        return {name: kept[name] for name in names}


def restored_event(
    campaign_id: str, run_id: str, export_name: str, generation: int, chunks: list[int]
) -> Event:
    """Which generation stands again: into the journal in the same transaction."""
    return Event(
        name=EventName.RUN_RESTORED,
        campaign_id=campaign_id,
        run_id=run_id,
        export_name=export_name,
        data={"generation": generation, "chunks": chunks},
    )


def refuse_repair(run_id: str, status: RunStatus, found: int, expected: int) -> None:
    """Raise StateRefused unless the run is completed in the generation that was compared."""
    if status is RunStatus.CANCELLED:
        raise underway(f"run {run_id} is cancelled", hint=GIVEN_UP)
    if status is not RunStatus.COMPLETED:
        raise underway(f"run {run_id} is {status.value.replace('_', ' ')}")
    if found != expected:
        raise underway(f"run {run_id} was repaired since it was compared")


_RESUME = (
    "`rivet-fleet resume --campaign-id` of its campaign ends what is in progress; then compare and "
    "repair again"
)
GIVEN_UP = (
    "what was given up is not taken up again: a new run of the export delivers its rows anew; of "
    "one that reads only what is new, `rivet-fleet state reset` lets it read all of them"
)


def underway(message: str, hint: str = _RESUME) -> StateRefused:
    """The refusal; nothing was changed."""
    return StateRefused(
        f"{message}: it was not repaired, and nothing was changed", hint=hint, code=UNDERWAY
    )


def repairing_event(
    campaign_id: str,
    run_id: str,
    export_name: str,
    by: str,
    reason: str,
    generation: int,
    chunks: list[int],
) -> Event:
    """Who reads what again: into the journal in the same transaction."""
    return Event(
        name=EventName.RUN_REPAIRING,
        campaign_id=campaign_id,
        run_id=run_id,
        export_name=export_name,
        worker_id=by,
        message=reason,
        data={"generation": generation, "chunks": chunks},
    )
