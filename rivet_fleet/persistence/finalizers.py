"""Finishing a run: one fenced finalizer per run, and the count checked where it matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rivet_fleet.contracts.codec import dumps, loads
from rivet_fleet.contracts.events import Event, EventName, Told
from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.plan import ExportPlan
from rivet_fleet.contracts.proof import RunProof
from rivet_fleet.contracts.quality import Acceptance, RunFindings
from rivet_fleet.contracts.state import (
    Accepted,
    CampaignStatus,
    FinalizeLease,
    FinishedRun,
    RunStatus,
    WorkerIdentity,
)
from rivet_fleet.errors import LeaseLost, StateRefused
from rivet_fleet.persistence.database import Database, Record, Transaction
from rivet_fleet.persistence.guards import READ_BY
from rivet_fleet.persistence.journal import note, note_all
from rivet_fleet.persistence.ledger import (
    LOCK_CAMPAIGN,
    LOCK_RUN,
    REVIVE_CAMPAIGN,
    forget_former,
)
from rivet_fleet.persistence.marks import end_comparison, move_mark, record_committed
from rivet_fleet.persistence.seals import (
    RUN_SEAL,
    SEALED_OF_RUN,
    WORDS,
    check_run,
    check_words,
    seal_word,
)
from rivet_fleet.persistence.views import found_by_gates, plan_of

# Least and greatest status come from the two ends of the index on (run_id, status): that is
# cheap, and usually ends the question before anything is counted.
ONLY_COMPLETED = """
  (SELECT min(t.status) FROM chunk_task t WHERE t.run_id = chunk_run.run_id) = 'completed'
  AND (SELECT max(t.status) FROM chunk_task t WHERE t.run_id = chunk_run.run_id) = 'completed'
"""
# A run that expects no chunk is a plan that went wrong and is never finished as a success.
ALL_COMPLETED = f"""CASE WHEN {ONLY_COMPLETED} AND expected_tasks > 0
  THEN expected_tasks = (SELECT count(*) FROM chunk_task t
                         WHERE t.run_id = chunk_run.run_id AND t.status = 'completed')
  ELSE 1 = 0 END"""

FINALIZABLE = """
SELECT run_id FROM chunk_run
WHERE campaign_id = :campaign_id AND status = 'in_progress' AND ALL_COMPLETED ORDER BY position
"""
_LEASE = """
UPDATE chunk_run SET finalize_owner = :worker_id, finalize_fence = finalize_fence + 1,
  finalize_lease_expires_at_s = NOW_S + :lease_ttl_s
WHERE run_id = :run_id AND status = 'in_progress' AND ALL_COMPLETED
  AND (finalize_lease_expires_at_s IS NULL OR finalize_lease_expires_at_s < NOW_S)
RETURNING finalize_fence
"""
_CONFIRM = """
UPDATE chunk_run SET finalize_lease_expires_at_s = NOW_S + :lease_ttl_s
WHERE run_id = :run_id AND status = 'in_progress' AND finalize_fence = :finalize_fence
  AND ALL_COMPLETED
"""
_NOTE_PROOF = """
UPDATE chunk_run SET proof_json = :proof_json, proof_seal = :proof_seal,
  finalize_lease_expires_at_s = NOW_S + :lease_ttl_s
WHERE run_id = :run_id AND status = 'in_progress' AND finalize_fence = :finalize_fence
"""
_RETURNED = SEALED_OF_RUN
_FINISH = f"""
UPDATE chunk_run SET status = 'completed', finished_at_s = NOW_S, error = NULL,
  manifest_fingerprint = :manifest_fingerprint, findings_json = :findings_json,
  former_json = NULL, finalize_lease_expires_at_s = NULL
WHERE run_id = :run_id AND status = 'in_progress' AND finalize_fence = :finalize_fence
  AND ALL_COMPLETED
RETURNING {_RETURNED}
"""
# An acceptance that did not suffice is used up: it named other verdicts, and while it stands
# nobody could accept what is refused now.
_FAIL = f"""
UPDATE chunk_run SET status = 'failed', finished_at_s = NOW_S, error = :error,
  findings_json = :findings_json, acceptance_json = NULL, acceptance_seal = NULL,
  finalize_lease_expires_at_s = NULL
WHERE run_id = :run_id AND status = 'in_progress' AND finalize_fence = :finalize_fence
RETURNING {_RETURNED}
"""
_STANDING = "SELECT status, finalize_fence FROM chunk_run WHERE run_id = :run_id"
_PUBLISH_REST = """
UPDATE file_log SET status = 'published', published_at_s = NOW_S
WHERE run_id = :run_id AND status = 'committed'
"""
_ATTEMPTS = """
SELECT coalesce(sum(CASE WHEN attempts > 1 THEN attempts - 1 ELSE 0 END), 0) AS retries,
       coalesce(sum(attempts), 0) AS attempts,
       max(longest_statement_ms) AS longest_statement_ms
FROM chunk_task WHERE run_id = :run_id
"""
_PROOF = "SELECT proof_json FROM chunk_run WHERE run_id = :run_id"
_CHANGED = """
SELECT coalesce(sum(changed_values), 0) AS changed_values FROM file_log
WHERE run_id = :run_id AND status <> 'voided'
"""
# What the attempts that were committed took. Chunks of a program that did not measure are left
# out, and a run of nothing else stays unknown.
_WORK = f"""
SELECT sum(CASE WHEN {READ_BY} > t.claimed_at_s THEN {READ_BY} - t.claimed_at_s ELSE 0 END)
  AS work_s
FROM chunk_task t
WHERE t.run_id = :run_id AND t.claimed_at_s IS NOT NULL AND t.committed_at_s IS NOT NULL
"""
_METRICS = """
INSERT INTO export_metrics (namespace, campaign_name, export_name, run_id, run_at_s, status,
  error_message, mode, strategy, format, source_engine, destination_kind, duration_ms, work_ms,
  total_rows, bytes_written, files_produced, chunks, retries, peak_rss_bytes, attempts,
  longest_statement_ms, changed_values)
VALUES (:namespace, :campaign_name, :export_name, :run_id, NOW_S, :status, :error_message, :mode,
  :strategy, :format, :source_engine, :destination_kind, :duration_ms, :work_ms, :total_rows,
  :bytes_written, :files_produced, :chunks, :retries, :peak_rss_bytes, :attempts,
  :longest_statement_ms, :changed_values)
"""
_LAST_RUN = """
INSERT INTO export_state (namespace, campaign_name, export_name, last_run_id, last_run_at_s)
VALUES (:namespace, :campaign_name, :export_name, :run_id, NOW_S)
ON CONFLICT (namespace, campaign_name, export_name) DO UPDATE SET
  last_run_id = excluded.last_run_id, last_run_at_s = excluded.last_run_at_s
"""


class Finalizers:
    """The finalizer's verbs. Every write names the finalize fence."""

    _db: Database

    def finalizable_runs(self, campaign_id: CampaignId) -> list[RunId]:
        """Runs in progress whose completed tasks equal the expected count (and > 0)."""
        sql = _with_count(FINALIZABLE)
        make = lambda row: RunId(row[0])  # noqa: E731
        return self._db.one(lambda tx: tx.each(sql, make, campaign_id=campaign_id))

    def lease_finalize(
        self, run_id: RunId, worker: WorkerIdentity, lease_ttl_s: float
    ) -> FinalizeLease | None:
        """The right to finish a run: in progress, all tasks completed, count equal to the expected
        one, no live finalizer. None otherwise. A lease whose answer was lost runs out by itself."""
        sql = _with_count(_LEASE)
        values = {"run_id": run_id, "worker_id": worker.worker_id, "lease_ttl_s": lease_ttl_s}
        fence = self._db.write(lambda tx: tx.scalar(sql, **values))
        return None if fence is None else FinalizeLease(run_id=run_id, finalize_fence=fence)

    def confirm_finalize(
        self, lease: FinalizeLease, lease_ttl_s: float, *, told: Sequence[Told] = ()
    ) -> None:
        """Extend the finalizer's lease if its fence still matches and the run is still in
        progress; asked right before shared names are written. ``told`` is journaled with it.
        Raises LeaseLost."""
        sql = _with_count(_CONFIRM)
        values = {**_named(lease), "lease_ttl_s": lease_ttl_s}

        def work(tx: Transaction) -> int:
            confirmed = tx.run(sql, **values)
            note_all(tx, (), told=told if confirmed else ())
            return confirmed

        # The fence is on the disk since the lease was given, and decides; undone by a power cut,
        # the lease ends earlier than its finalizer believes (ADR 0005).
        if self._db.write(work, durable=False) == 0:
            raise _lost(lease)

    def other_in_progress(self, run_id: RunId) -> RunId | None:
        """The run of the same export that is in progress, when it is another one."""
        found: str | None = self._db.one(lambda tx: tx.scalar(OTHER_IN_PROGRESS, run_id=run_id))
        return None if found is None else RunId(found)

    def note_proof(
        self,
        lease: FinalizeLease,
        proof: RunProof,
        lease_ttl_s: float,
        *,
        told: Sequence[Told] = (),
    ) -> None:
        """Keep what the source said of the whole run, until a chunk of it is reopened, and extend
        the finalizer's lease: whoever finishes it tells the same. ``told`` is journaled with it.
        Raises LeaseLost when its fence does not match any more."""
        word = dumps(proof)
        values = {**_named(lease), "proof_json": word, "lease_ttl_s": lease_ttl_s}

        def work(tx: Transaction) -> int:
            run_seal = tx.scalar(RUN_SEAL, run_id=lease.run_id)
            seal = seal_word(tx.sealer, "proof", lease.run_id, word, run_seal=run_seal)
            noted = tx.run(_NOTE_PROOF, **values, proof_seal=seal)
            note_all(tx, (), told=told if noted else ())
            return noted

        # As above; undone, the source is asked again.
        if self._db.write(work, durable=False) == 0:
            raise _lost(lease)

    def finish_run(self, lease: FinalizeLease, finished: FinishedRun) -> None:
        """in_progress → completed with its metrics row and progression, guarded by the finalize
        fence **and** by the count again; the mark moves with it. Raises LeaseLost, and
        StateTampered for a run that is not what was sealed. Called again after its own success it
        succeeds."""

        def work(tx: Transaction) -> None:
            # The lock in a statement of its own: the count below must see what a reopening
            # committed while we waited for it.
            tx.first(LOCK_RUN, run_id=lease.run_id)
            named = {**_named(lease), "manifest_fingerprint": finished.manifest_fingerprint}
            named["findings_json"] = _plain(finished.findings)
            run = tx.first(_with_count(_FINISH), **named)
            if run is None:
                if not _stands(tx, lease, RunStatus.COMPLETED):
                    raise _lost(lease)
                return
            plan = _plan(tx, run)
            if plan.reconcile is not None:
                # It delivers nothing: no mark moves, no history is made.
                found = end_comparison(tx, run, plan)
                data = {"verdict": found.verdict.value, **found.counts}
                note(tx, _event(EventName.RUN_RECONCILED, run, message=found.sentence, data=data))
                return
            tx.run(_PUBLISH_REST, run_id=lease.run_id)
            tx.run(_METRICS, **_metrics(tx, run, plan, finished=finished))
            names = {"campaign_name": run.campaign_name, "export_name": run.export_name}
            names["run_id"] = run.run_id
            tx.run(_LAST_RUN, **names)
            # Here and nowhere else: moved earlier, a run that dies has skipped its rows for good;
            # moved later, the next run delivers them again.
            move_mark(tx, run, plan)
            record_committed(tx, run, plan)
            forget_former(tx, run)
            data = {"rows": finished.rows, "bytes": finished.bytes, "files": finished.files}
            note(tx, _event(EventName.RUN_COMPLETED, run, data=data))

        self._db.write(work)

    def fail_run(
        self, lease: FinalizeLease, error: str, findings: RunFindings | None = None
    ) -> None:
        """in_progress → failed, with what was found. Raises LeaseLost. A reopened chunk bumps the
        finalize fence, so the lease alone proves that every chunk is still completed. Called
        again after its own success it succeeds."""

        def work(tx: Transaction) -> None:
            named = {**_named(lease), "error": error, "findings_json": _plain(findings)}
            run = tx.first(_FAIL, **named)
            if run is None:
                if not _stands(tx, lease, RunStatus.FAILED):
                    raise _lost(lease)
                return
            plan = _plan(tx, run)
            tx.run(_METRICS, **_metrics(tx, run, plan, error=error))
            note(tx, _event(EventName.RUN_FAILED, run, message=error))

        self._db.write(work)

    def run_finished_at_s(self, run_id: RunId) -> float:
        """When its last chunk was completed: the manifest's reproducible finish time. 0.0 while no
        chunk was completed."""
        sql = "SELECT max(completed_at_s) AS completed_at_s FROM chunk_task WHERE run_id = :run_id"
        found = self._db.one(lambda tx: tx.scalar(sql, run_id=run_id))
        return float(found or 0.0)


def _plan(tx: Transaction, run: Record) -> ExportPlan:
    """Raises StateTampered, and the transaction changes nothing."""
    check_run(tx.sealer, run)
    return plan_of(run.plan_json)


def _plain(findings: RunFindings | None) -> str | None:
    return None if findings is None else dumps(findings)


def _with_count(sql: str) -> str:
    return sql.replace("ALL_COMPLETED", ALL_COMPLETED)


def _named(lease: FinalizeLease) -> dict[str, object]:
    return {"run_id": lease.run_id, "finalize_fence": lease.finalize_fence}


def _stands(tx: Transaction, lease: FinalizeLease, status: RunStatus) -> bool:
    row = tx.first(_STANDING, run_id=lease.run_id)
    return row is not None and (row[0], row[1]) == (status.value, lease.finalize_fence)


def _lost(lease: FinalizeLease) -> LeaseLost:
    return LeaseLost(f"run {lease.run_id}: finalize fence {lease.finalize_fence} lost its run")


def _metrics(
    tx: Transaction,
    run: Record,
    plan: ExportPlan,
    *,
    finished: FinishedRun | None = None,
    error: str | None = None,
) -> dict[str, object]:
    work_s = tx.scalar(_WORK, run_id=run.run_id)
    attempts = tx.first(_ATTEMPTS, run_id=run.run_id)
    assert attempts is not None, "sums of nothing are a row, too"
    return {
        "campaign_name": run.campaign_name,
        "export_name": run.export_name,
        "run_id": run.run_id,
        "status": "success" if finished else "failed",
        "error_message": error,
        "mode": plan.mode,
        "strategy": plan.strategy,
        "format": plan.format.format,
        "source_engine": plan.read.engine,
        "destination_kind": plan.destination.kind,
        "duration_ms": round(finished.duration_s * 1000) if finished else 0,
        "work_ms": None if work_s is None else round(work_s * 1000),
        "total_rows": finished.rows if finished else 0,
        "bytes_written": finished.bytes if finished else 0,
        "files_produced": finished.files if finished else 0,
        "chunks": run.expected_tasks,
        "retries": int(attempts.retries),
        "attempts": int(attempts.attempts),
        "longest_statement_ms": _longest_ms(tx, run, attempts.longest_statement_ms),
        "changed_values": int(tx.scalar(_CHANGED, run_id=run.run_id)),
        "peak_rss_bytes": finished.peak_rss_bytes if finished else 0,
    }


def _longest_ms(tx: Transaction, run: Record, of_chunks_ms: int | None) -> int | None:
    """Of its chunks, and of the count of the whole."""
    proof_json = tx.scalar(_PROOF, run_id=run.run_id)
    counting_s = loads(RunProof, proof_json).longest_statement_s if proof_json else None
    known = (of_chunks_ms, None if counting_s is None else round(counting_s * 1000))
    return max((one for one in known if one is not None), default=None)


def _event(
    name: EventName, run: Record, *, message: str = "", data: Mapping[str, object] | None = None
) -> Event:
    return Event(
        name=name,
        campaign_id=run.campaign_id,
        run_id=run.run_id,
        export_name=run.export_name,
        message=message,
        data=data or {},
    )


# ------------------------------------------------------------------------------------------
# An operator takes responsibility for a run that its gates refused (ADR 0012, S6).

WRONG_STATE = "RIVET_ACCEPT_WRONG_STATE"
_WORDS = ", ".join(f"r.{name}" for name in WORDS.split(", "))

_OF_LATER = """FROM chunk_run o
   WHERE o.namespace = r.namespace AND o.campaign_name = r.campaign_name
     AND o.export_name = r.export_name AND o.status IN ('completed', 'in_progress')
     AND (o.created_at_s > r.created_at_s
       OR (o.created_at_s = r.created_at_s AND o.run_id > r.run_id))
   ORDER BY o.created_at_s DESC, o.run_id DESC LIMIT 1"""
OTHER_IN_PROGRESS = """
SELECT o.run_id FROM chunk_run r JOIN chunk_run o ON o.namespace = r.namespace
  AND o.campaign_name = r.campaign_name AND o.export_name = r.export_name
WHERE r.run_id = :run_id AND o.run_id <> r.run_id AND o.status = 'in_progress'
"""
_RUN = f"""
SELECT r.campaign_id, r.run_id, r.export_name, r.status, r.findings_json, r.seal, {_WORDS},
  (SELECT o.run_id {_OF_LATER}) AS later
FROM chunk_run r WHERE r.run_id = :run_id
"""
_PARENT = "SELECT campaign_id FROM chunk_run WHERE run_id = :run_id"
_ACCEPT = f"""
UPDATE chunk_run SET status = 'in_progress', finished_at_s = NULL, error = NULL,
  acceptance_json = :acceptance_json, acceptance_seal = :acceptance_seal,
  finalize_fence = finalize_fence + 1,
  finalize_lease_expires_at_s = NULL
WHERE run_id = :run_id AND status = 'failed' AND acceptance_json IS NULL AND {ALL_COMPLETED}
"""


class Acceptances:
    """One transition: failed by its gates → in progress, to be finished and nothing else."""

    _db: Database

    def accept_run(self, run_id: RunId, *, by: str, reason: str) -> Accepted:
        """failed by its quality gates → in progress with every chunk still completed, so that
        nothing but its end is left to do; finalize fence +1, its campaign active (S6).

        Accepted already: nothing changes, and the acceptance that holds is returned. Raises
        StateRefused for any other run, and for one that is not its export's newest. The first of
        two wins, the second is told who it was.
        """

        def work(tx: Transaction) -> Accepted:
            campaign_id = tx.scalar(_PARENT, run_id=run_id)
            # Top down, as a reopening locks them.
            campaign = tx.scalar(LOCK_CAMPAIGN, campaign_id=campaign_id)
            tx.first(LOCK_RUN, run_id=run_id)
            run = tx.first(_RUN, run_id=run_id)
            if run is None:
                raise StateRefused(f"there is no run {run_id}")
            check_words(tx.sealer, run)
            if run.acceptance_json is not None:
                return Accepted(acceptance=loads(Acceptance, run.acceptance_json), created=False)
            findings = _findings(run)
            refuse_acceptance(
                RunStatus(run.status), CampaignStatus(campaign), findings, run.later, run_id
            )
            acceptance = Acceptance(
                by=by, reason=reason, at_s=float(tx.scalar("SELECT NOW_S")), gates=findings.refused
            )
            word = dumps(acceptance)
            seal = seal_word(tx.sealer, "acceptance", run_id, word, run_seal=run.seal)
            if tx.run(_ACCEPT, run_id=run_id, acceptance_json=word, acceptance_seal=seal) == 0:
                raise wrong_state(f"run {run_id} has chunks that are not delivered")
            tx.run(REVIVE_CAMPAIGN, campaign_id=run.campaign_id)
            note(tx, acceptance_event(run.campaign_id, run_id, run.export_name, acceptance))
            return Accepted(acceptance=acceptance, created=True)

        return self._db.write(work)


def refuse_acceptance(
    status: RunStatus,
    campaign: CampaignStatus,
    findings: RunFindings,
    later: str | None,
    run_id: RunId,
) -> None:
    """Raise StateRefused unless only gates stand between the run and its delivery."""
    if campaign is CampaignStatus.CANCELLED:
        raise wrong_state(f"the campaign of run {run_id} was cancelled")
    if status is not RunStatus.FAILED or not findings.refused:
        raise wrong_state(
            f"run {run_id} is {status.value.replace('_', ' ')}, and no quality gate refused it"
        )
    if later is not None:
        raise wrong_state(
            f"run {later} of the same export is newer: an older delivery must not replace it"
        )


def wrong_state(message: str) -> StateRefused:
    """The refusal; nothing was changed."""
    return StateRefused(
        message,
        hint="`rivet-fleet status` shows every run; only the newest run of an export that its "
        "quality gates refused can be accepted",
        code=WRONG_STATE,
    )


def acceptance_event(
    campaign_id: str, run_id: str, export_name: str, acceptance: Acceptance
) -> Event:
    """Who, why, and which verdicts: into the journal in the same transaction."""
    return Event(
        name=EventName.RUN_ACCEPTED,
        campaign_id=campaign_id,
        run_id=run_id,
        export_name=export_name,
        message=acceptance.sentence,
        data={
            "by": acceptance.by,
            "reason": acceptance.reason,
            "gates": [gate.sentence for gate in acceptance.gates],
        },
    )


def _findings(run: Record) -> RunFindings:
    return found_by_gates(run.findings_json) or RunFindings()
