"""The in-memory store's verdicts: finishing runs and campaigns, cancelling, forgetting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rivet_fleet.contracts.events import Event, EventName, Told
from rivet_fleet.contracts.identity import CampaignIdentity
from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.manifest import PartStatus
from rivet_fleet.contracts.proof import RunProof
from rivet_fleet.contracts.quality import Acceptance, RunFindings
from rivet_fleet.contracts.reconcile import ComparedRange, RangeVerdict, compared_run
from rivet_fleet.contracts.state import (
    Accepted,
    CampaignStatus,
    FinalizeLease,
    FinishedRun,
    MeasuredRun,
    RunStatus,
    TaskStatus,
    Verb,
    WorkerIdentity,
)
from rivet_fleet.errors import LeaseLost, StateRefused
from rivet_fleet.persistence.campaigns import held
from rivet_fleet.persistence.finalizers import acceptance_event, refuse_acceptance, wrong_state
from rivet_fleet.persistence.repairs import restored_event
from tests.model.marks import MemoryMarks
from tests.model.rows import Run, changed_values
from tests.model.views import MemoryCounters, synchronized


class MemoryFinish(MemoryMarks, MemoryCounters):
    """Finalizer and verdict."""

    def _all_completed(self, run: Run) -> bool:
        tasks = self._tasks_of(run.run_id)
        done = sum(t.status is TaskStatus.COMPLETED for t in tasks)
        return done == len(tasks) == len(run.planned.chunks) > 0

    @synchronized
    def comparison(self, run_id: RunId) -> list[ComparedRange]:
        done = (TaskStatus.COMMITTED, TaskStatus.COMPLETED)
        return [
            ComparedRange(
                chunk_index=task.chunk_index,
                chunk_range=task.chunk_range,
                result=task.result if task.status in done else None,
            )
            for task in self._tasks_of(run_id)
        ]

    @synchronized
    def finalizable_runs(self, campaign_id: CampaignId) -> list[RunId]:
        return [
            r.run_id
            for r in self._runs_of(campaign_id)
            if r.status is RunStatus.IN_PROGRESS and self._all_completed(r)
        ]

    @synchronized
    def lease_finalize(
        self, run_id: RunId, worker: WorkerIdentity, lease_ttl_s: float
    ) -> FinalizeLease | None:
        run = self._runs.get(run_id)
        now_s = self._clock()
        if run is None or run.status is not RunStatus.IN_PROGRESS or not self._all_completed(run):
            return None
        if (run.finalize_lease_expires_at_s or 0.0) >= now_s:
            return None
        run.finalize_fence += 1
        run.finalize_owner = worker.worker_id
        run.finalize_lease_expires_at_s = now_s + lease_ttl_s
        return FinalizeLease(run_id=run_id, finalize_fence=run.finalize_fence)

    @synchronized
    def confirm_finalize(
        self, lease: FinalizeLease, lease_ttl_s: float, *, told: Sequence[Told] = ()
    ) -> None:
        run = self._leased(lease)
        if run is None or not self._all_completed(run):
            raise _lost(lease)
        run.finalize_lease_expires_at_s = self._clock() + lease_ttl_s
        for one in told:
            self._note(one.event)

    @synchronized
    def note_proof(
        self,
        lease: FinalizeLease,
        proof: RunProof,
        lease_ttl_s: float,
        *,
        told: Sequence[Told] = (),
    ) -> None:
        run = self._leased(lease)
        if run is None:
            raise _lost(lease)
        run.proof = proof
        run.finalize_lease_expires_at_s = self._clock() + lease_ttl_s
        for one in told:
            self._note(one.event)

    @synchronized
    def finish_run(self, lease: FinalizeLease, finished: FinishedRun) -> None:
        run = self._leased(lease)
        if run is None or not self._all_completed(run):
            if self._run_stands(lease, RunStatus.COMPLETED):
                return
            raise _lost(lease)
        self._end(run, RunStatus.COMPLETED, None)
        run.former = None
        run.findings = finished.findings
        run.manifest_fingerprint = finished.manifest_fingerprint
        if run.planned.plan.reconcile is not None:
            found = compared_run(self.comparison(run.run_id))
            if found.verdict is RangeVerdict.MATCH:
                self._record_verified(run)
            self._note(_event(EventName.RUN_RECONCILED, run, found.sentence))
            return
        self._last_run[run.campaign_name, run.planned.plan.export_name] = run.run_id
        self._move_mark(run)
        self._record_committed(run)
        self._forget_former(run)
        self._metrics.append(self._measured(run, "success", finished))
        self._note(_event(EventName.RUN_COMPLETED, run))

    @synchronized
    def fail_run(
        self, lease: FinalizeLease, error: str, findings: RunFindings | None = None
    ) -> None:
        run = self._leased(lease)
        if run is None:
            if self._run_stands(lease, RunStatus.FAILED):
                return
            raise _lost(lease)
        self._end(run, RunStatus.FAILED, error)
        run.findings, run.acceptance = findings, None
        self._metrics.append(self._measured(run, "failed", None))
        self._note(_event(EventName.RUN_FAILED, run, error))

    def _revive(self, campaign_id: CampaignId) -> None:
        campaign = self._campaigns[campaign_id]
        if campaign.status in (CampaignStatus.COMPLETED, CampaignStatus.INCOMPLETE):
            campaign.status, campaign.finished_at_s = CampaignStatus.ACTIVE, None

    @synchronized
    def other_in_progress(self, run_id: RunId) -> RunId | None:
        others = self._of_the_same_export(run_id, RunStatus.IN_PROGRESS)
        return others[0].run_id if others else None

    def _of_the_same_export(self, run_id: RunId, *statuses: RunStatus) -> list[Run]:
        run = self._runs[run_id]
        name = run.planned.plan.export_name
        return [
            other
            for other in self._runs.values()
            if (other.campaign_name, other.planned.plan.export_name) == (run.campaign_name, name)
            and other is not run
            and other.status in statuses
        ]

    @synchronized
    def accept_run(self, run_id: RunId, *, by: str, reason: str) -> Accepted:
        run = self._runs.get(run_id)
        if run is None:
            raise StateRefused(f"there is no run {run_id}")
        if run.acceptance is not None:
            return Accepted(acceptance=run.acceptance, created=False)
        name = run.planned.plan.export_name
        findings = run.findings or RunFindings()
        campaign = self._known(run.campaign_id)
        later = max(
            (
                (other.created_at_s, other.run_id)
                for other in self._of_the_same_export(
                    run_id, RunStatus.COMPLETED, RunStatus.IN_PROGRESS
                )
                if (other.created_at_s, other.run_id) > (run.created_at_s, run_id)
            ),
            default=(0.0, None),
        )[1]
        refuse_acceptance(run.status, campaign.status, findings, later, run_id)
        if not self._all_completed(run):
            raise wrong_state(f"run {run_id} has chunks that are not delivered")
        run.acceptance = Acceptance(
            by=by, reason=reason, at_s=self._clock(), gates=findings.refused
        )
        run.status = RunStatus.IN_PROGRESS
        run.finalize_fence += 1
        run.finalize_lease_expires_at_s = run.finished_at_s = run.error = None
        self._revive(run.campaign_id)
        self._note(acceptance_event(run.campaign_id, run_id, name, run.acceptance))
        return Accepted(acceptance=run.acceptance, created=True)

    @synchronized
    def finish_campaign(self, campaign_id: CampaignId) -> CampaignStatus:
        campaign = self._known(campaign_id)
        runs = self._runs_of(campaign_id)
        if campaign.status.over:
            return campaign.status
        if runs and all(r.status is RunStatus.COMPLETED for r in runs):
            campaign.status = CampaignStatus.COMPLETED
        elif not any(self._open_work(r) for r in runs):
            campaign.status = CampaignStatus.INCOMPLETE
        else:
            return campaign.status
        campaign.finished_at_s = self._clock()
        completed = campaign.status is CampaignStatus.COMPLETED
        name = EventName.CAMPAIGN_COMPLETED if completed else EventName.CAMPAIGN_INCOMPLETE
        self._note(Event(name=name, campaign_id=campaign_id))
        return campaign.status

    def _open_work(self, run: Run) -> bool:
        in_progress = run.status is RunStatus.IN_PROGRESS
        if in_progress and self._all_completed(run):
            return True
        return any(
            t.status in (TaskStatus.RUNNING, TaskStatus.COMMITTED)
            or (in_progress and t.may(Verb.CLAIM) and t.attempts < t.attempts_max)
            for t in self._tasks_of(run.run_id)
        )

    @synchronized
    def cancel(self, campaign_id: CampaignId) -> int:
        campaign = self._known(campaign_id)
        now_s = self._clock()
        if campaign.status is CampaignStatus.COMPLETED:
            raise StateRefused(f"campaign {campaign_id} is completed: nothing to cancel")
        read = sum(self._restore(run) for run in self._runs_of(campaign_id))
        statuses = {run.status for run in self._runs_of(campaign_id)}
        if campaign.status is not CampaignStatus.CANCELLED and statuses == {RunStatus.COMPLETED}:
            campaign.status, campaign.finished_at_s = CampaignStatus.COMPLETED, now_s
            self._note(Event(name=EventName.CAMPAIGN_COMPLETED, campaign_id=campaign_id))
            return read
        if campaign.status is not CampaignStatus.CANCELLED:
            self._note(Event(name=EventName.CAMPAIGN_CANCELLED, campaign_id=campaign_id))
        campaign.status = CampaignStatus.CANCELLED
        campaign.finished_at_s = campaign.finished_at_s or now_s
        for run in self._runs_of(campaign_id):
            if run.status is RunStatus.IN_PROGRESS:
                self._end(run, RunStatus.CANCELLED, None)
                run.finalize_fence += 1
        taken = [
            t
            for t in self._tasks.values()
            if (t.campaign_id, t.status) == (campaign_id, TaskStatus.RUNNING)
        ]
        for task in taken:
            task.move(Verb.RELEASE, now_s)
            task.fence += 1
            self._note_task(EventName.CHUNK_REAPED, task, "campaign cancelled")
        return read + len(taken)

    def _restore(self, run: Run) -> int:
        """Back to what it was before its repair; how many of its chunks were being read."""
        if run.former is None or run.status not in (RunStatus.IN_PROGRESS, RunStatus.FAILED):
            return 0
        tasks = [t for t in self._tasks_of(run.run_id) if t.generation == run.generation]
        read = sum(task.status is TaskStatus.RUNNING for task in tasks)
        indexes = {task.chunk_index for task in tasks}
        for task in tasks:
            assert task.former is not None, "kept as it was reopened"
            before = task.former
            fence = before.fence if before.commit_fence is None else before.commit_fence
            self._tasks[task.task_id] = replace(
                before, fence=task.fence + 1, commit_fence=fence, updated_at_s=self._clock()
            )
        for index, part in enumerate(self._parts):
            if part.run_id == run.run_id and part.chunk_index in indexes:
                again = self._replaced.get((run.run_id, part.path)) == run.generation
                status = PartStatus.PUBLISHED if again else PartStatus.VOIDED
                self._parts[index] = replace(part, status=status)
        self._replaced = {
            key: generation
            for key, generation in self._replaced.items()
            if key[0] != run.run_id or generation != run.generation
        }
        self._runs[run.run_id] = replace(run.former, finalize_fence=run.finalize_fence + 1)
        told = (run.campaign_id, run.run_id, run.planned.plan.export_name)
        self._note(restored_event(*told, run.former.generation, sorted(indexes)))
        return read

    @synchronized
    def accept_campaigns(self, campaign_name: str, identity: CampaignIdentity, event: Event) -> int:
        now_s = self._clock()
        found = [c for c in self._campaigns.values() if c.plan.campaign_name == campaign_name]
        ids = {campaign.plan.campaign_id for campaign in found}
        for task in self._tasks.values():
            live = (task.lease_expires_at_s or 0.0) >= now_s
            if live and task.campaign_id in ids and task.status is TaskStatus.RUNNING:
                raise held(f"campaign {campaign_name}")
        for campaign in found:
            campaign.plan = replace(campaign.plan, identity=identity)
        self._note(event)
        return len(found)

    @synchronized
    def reset_export(self, campaign_name: str, export_name: str, *, chunks_only: bool) -> int:
        now_s = self._clock()
        gone = {
            run.run_id
            for run in self._runs.values()
            if run.planned.plan.export_name == export_name
            and self._campaigns[run.campaign_id].plan.campaign_name == campaign_name
        }
        for task in self._tasks.values():
            live = (task.lease_expires_at_s or 0.0) >= now_s
            if live and task.run_id in gone and task.status is TaskStatus.RUNNING:
                raise held(f"export {export_name}")
        self._runs = {k: r for k, r in self._runs.items() if k not in gone}
        self._tasks = {k: t for k, t in self._tasks.items() if t.run_id not in gone}
        self._parts = [p for p in self._parts if p.run_id not in gone]
        self._uniques = {k: v for k, v in self._uniques.items() if k[0] not in gone}
        self._counters = {k: v for k, v in self._counters.items() if k not in gone}
        for campaign in self._campaigns.values():
            settled = campaign.status in (CampaignStatus.COMPLETED, CampaignStatus.CANCELLED)
            if not settled and not self._runs_of(campaign.plan.campaign_id):
                campaign.status, campaign.finished_at_s = CampaignStatus.CANCELLED, now_s
        if not chunks_only:
            self._forget_marks(campaign_name, export_name)
        return len(gone)

    def _measured(self, run: Run, status: str, finished: FinishedRun | None) -> dict[str, object]:
        work_s = self._work_s(run)
        return {
            **_metrics(run, status, finished),
            "run_at_s": run.finished_at_s,
            "work_ms": None if work_s is None else round(work_s * 1000),
            "retries": self._retries(run),
            "attempts": sum(t.attempts for t in self._tasks_of(run.run_id)),
            "longest_statement_ms": self._longest_ms(run),
            "changed_values": changed_values(
                [
                    p
                    for p in self._parts
                    if p.run_id == run.run_id and p.status is not PartStatus.VOIDED
                ]
            ),
        }

    def _longest_ms(self, run: Run) -> int | None:
        known = [t.longest_statement_s for t in self._tasks_of(run.run_id)]
        known.append(run.proof.longest_statement_s if run.proof else None)
        return max((round(s * 1000) for s in known if s is not None), default=None)

    def _forget_former(self, run: Run) -> None:
        name = run.planned.plan.export_name
        former = {
            r.run_id
            for r in self._runs.values()
            if (r.campaign_name, r.planned.plan.export_name) == (run.campaign_name, name)
            and r.run_id != run.run_id
            and r.status is not RunStatus.IN_PROGRESS
            and r.created_at_s <= run.created_at_s
        }
        self._uniques = {k: v for k, v in self._uniques.items() if k[0] not in former}

    def _work_s(self, run: Run) -> float | None:
        spent_s = [
            min(t.committed_at_s, t.read_at_s or t.committed_at_s) - t.claimed_at_s
            for t in self._tasks_of(run.run_id)
            if t.committed_at_s is not None and t.claimed_at_s is not None
        ]
        return sum(spent_s) if spent_s else None

    def _retries(self, run: Run) -> int:
        return sum(max(t.attempts - 1, 0) for t in self._tasks_of(run.run_id))

    @synchronized
    def history(
        self, campaign_name: str, export_names: Sequence[str], *, limit: int = 20
    ) -> dict[str, list[MeasuredRun]]:
        runs = [(str(m["export_name"]), str(m["campaign_name"]), m) for m in self._metrics]
        found: dict[str, list[MeasuredRun]] = {}
        for name in export_names:
            ended = [_measured_from(m) for n, c, m in runs if (n, c) == (name, campaign_name)]
            given_up = [
                self._given_up(run)
                for run in self._runs.values()
                if (run.planned.plan.export_name, run.campaign_name) == (name, campaign_name)
                and self._is_given_up(run)
            ]
            if ended or given_up:
                newest = sorted([*reversed(ended), *given_up], key=lambda run: -run.run_at_s)
                found[name] = newest[:limit]
        return found

    def _is_given_up(self, run: Run) -> bool:
        campaign = self._campaigns[run.campaign_id]
        return (
            run.status in (RunStatus.IN_PROGRESS, RunStatus.CANCELLED)
            and campaign.status in (CampaignStatus.INCOMPLETE, CampaignStatus.CANCELLED)
            and any(t.status is TaskStatus.FAILED for t in self._tasks_of(run.run_id))
        )

    def _given_up(self, run: Run) -> MeasuredRun:
        campaign = self._campaigns[run.campaign_id]
        return MeasuredRun(
            run_id=run.run_id,
            run_at_s=campaign.finished_at_s or run.created_at_s,
            succeeded=False,
            rows=0,
            bytes=0,
            duration_s=0.0,
            work_s=self._work_s(run),
            chunks=len(run.planned.chunks),
            retries=self._retries(run),
        )

    def _leased(self, lease: FinalizeLease) -> Run | None:
        return self._runs[lease.run_id] if self._run_stands(lease, RunStatus.IN_PROGRESS) else None

    def _run_stands(self, lease: FinalizeLease, status: RunStatus) -> bool:
        run = self._runs.get(lease.run_id)
        return run is not None and (run.status, run.finalize_fence) == (
            status,
            lease.finalize_fence,
        )

    def _end(self, run: Run, status: RunStatus, error: str | None) -> None:
        run.status, run.error = status, error
        run.finished_at_s = self._clock()
        run.finalize_lease_expires_at_s = None


def _lost(lease: FinalizeLease) -> LeaseLost:
    return LeaseLost(f"run {lease.run_id}: finalize fence {lease.finalize_fence} lost its run")


def _metrics(run: Run, status: str, finished: FinishedRun | None) -> dict[str, object]:
    return {
        "duration_ms": round(finished.duration_s * 1000) if finished else 0,
        "chunks": len(run.planned.chunks),
        "campaign_name": run.campaign_name,
        "export_name": run.planned.plan.export_name,
        "run_id": run.run_id,
        "status": status,
        "total_rows": finished.rows if finished else 0,
        "bytes_written": finished.bytes if finished else 0,
        "files_produced": finished.files if finished else 0,
    }


def _event(name: EventName, run: Run, message: str = "") -> Event:
    return Event(
        name=name,
        campaign_id=run.campaign_id,
        run_id=run.run_id,
        export_name=run.planned.plan.export_name,
        message=message,
    )


def _measured_from(row: dict[str, Any]) -> MeasuredRun:
    return MeasuredRun(
        run_id=RunId(row["run_id"]),
        run_at_s=row["run_at_s"],
        succeeded=row["status"] == "success",
        rows=row["total_rows"],
        bytes=row["bytes_written"],
        duration_s=row["duration_ms"] / 1000,
        work_s=None if row["work_ms"] is None else row["work_ms"] / 1000,
        chunks=row["chunks"],
        retries=row["retries"],
    )
