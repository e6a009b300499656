"""The store without a database: the same contract over dicts, with a clock that is given.

It is the oracle of the property tests and serves tests that need no server. One lock makes
every method one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rivet_fleet.contracts.events import Event, EventName, Told
from rivet_fleet.contracts.keys import CampaignId, RunId, TaskId
from rivet_fleet.contracts.manifest import PartStatus, RunLedger, StagedPart
from rivet_fleet.contracts.plan import CampaignPlan
from rivet_fleet.contracts.reconcile import RangeResult
from rivet_fleet.contracts.state import (
    CampaignStatus,
    Claim,
    Failure,
    FinalizeLease,
    Reaped,
    RunStatus,
    SubmitOutcome,
    TaskStatus,
    Verb,
    WorkerIdentity,
)
from rivet_fleet.errors import LeaseLost, RivetFleetError, StateRefused
from rivet_fleet.persistence.campaigns import overlap, refuse_changed, refuse_empty
from rivet_fleet.persistence.guards import refuse_foreign
from tests.model.budgets import MemoryBudgets
from tests.model.repairs import MemoryRepairs
from tests.model.rows import Campaign, Run, Task, Worker, planned_tasks
from tests.model.views import MemoryViews, synchronized


class MemoryStore(MemoryBudgets, MemoryRepairs, MemoryViews):
    """The contract of ``Store`` in one process. ``clock`` is the database's: epoch seconds."""

    def migrate(self, *, for_all: bool = False) -> None:
        """Nothing to do."""

    def on_left_out(self, tell: Callable[[RivetFleetError], None]) -> None:
        """Its rows are always what they should be."""

    def check_version(self) -> None:
        """Always this program's version."""

    def close(self) -> None:
        """Nothing to give back."""

    @synchronized
    def submit(
        self,
        plan: CampaignPlan,
        *,
        any_mark: bool = False,
        replacing: Sequence[CampaignId] = (),
    ) -> SubmitOutcome:
        refuse_empty(plan)
        refuse_foreign(self.namespace, plan.campaign_id, *replacing)
        known = self._campaigns.get(plan.campaign_id)
        if known is not None:
            refuse_changed(plan, known.plan.config_digest)
            return SubmitOutcome(campaign_id=plan.campaign_id, created=False)
        for run in plan.runs:
            self._refuse_overlap(plan, run.plan.export_name, replacing)
        if not any_mark:
            self._refuse_moved_marks(plan)
        for former in sorted(replacing):
            campaign = self._campaigns.get(former)
            if campaign is not None and campaign.status is not CampaignStatus.COMPLETED:
                self.cancel(former)
        now_s = self._clock()
        self._campaigns[plan.campaign_id] = Campaign(plan=plan, created_at_s=now_s)
        for position, run in enumerate(plan.runs):
            self._runs[run.plan.run_id] = Run(
                campaign_id=plan.campaign_id,
                campaign_name=plan.campaign_name,
                planned=run,
                position=position,
                created_at_s=now_s,
            )
        for task in planned_tasks(plan, self._next_task_id, now_s):
            self._tasks[task.task_id] = task
            self._next_task_id = task.task_id + 1
        self._note(Event(name=EventName.CAMPAIGN_SUBMITTED, campaign_id=plan.campaign_id))
        self._configure(plan.budgets, plan.campaign_id)
        return SubmitOutcome(campaign_id=plan.campaign_id, created=True)

    def _refuse_overlap(
        self, plan: CampaignPlan, export_name: str, replacing: Sequence[CampaignId]
    ) -> None:
        for run in self._runs.values():
            if run.campaign_id in replacing:
                continue
            same = (run.campaign_name, run.planned.plan.export_name)
            if run.status is RunStatus.IN_PROGRESS and same == (plan.campaign_name, export_name):
                raise overlap(export_name, plan.campaign_name, run.campaign_id)

    # -- the task machine -----------------------------------------------------------------

    @synchronized
    def claim(
        self,
        campaign_id: CampaignId,
        worker: WorkerIdentity,
        lease_ttl_s: float,
        *,
        only: Sequence[RunId] = (),
        read: tuple[TaskId, int] | None = None,
    ) -> Claim | None:
        refuse_foreign(self.namespace, campaign_id)
        now_s = self._clock()
        if read is not None and self._tasks[read[0]].may(Verb.RENEW, read[1]):
            self._tasks[read[0]].read_at_s = now_s
        candidates = [
            task
            for task in self._tasks.values()
            if (not only or task.run_id in only) and self._claimable(task, campaign_id, now_s)
        ]
        if not candidates:
            return None
        task = min(candidates, key=lambda t: t.claim_order)
        task.move(Verb.CLAIM, now_s)
        task.owner, task.owner_name = worker.worker_id, worker.name
        task.claimed_at_s, task.read_at_s = now_s, None
        task.lease_expires_at_s, task.not_before_s = now_s + lease_ttl_s, None
        self._note_task(EventName.CHUNK_CLAIMED, task)
        return Claim(
            task_id=task.task_id,
            campaign_id=campaign_id,
            run_id=task.run_id,
            export_name=task.export_name,
            chunk_index=task.chunk_index,
            chunk_range=task.chunk_range,
            fence=task.fence,
            attempt=task.attempts,
            attempts_max=task.attempts_max,
            source_group=task.source_group,
            generation=task.generation,
        )

    def _claimable(self, task: Task, campaign_id: CampaignId, now_s: float) -> bool:
        campaign = self._campaigns.get(campaign_id)
        if campaign is None or campaign.status is not CampaignStatus.ACTIVE or campaign.halted:
            return False
        return (
            task.campaign_id == campaign_id
            and task.may(Verb.CLAIM)
            and task.attempts < task.attempts_max
            and (task.not_before_s is None or task.not_before_s <= now_s)
            and self._runs[task.run_id].status is RunStatus.IN_PROGRESS
            and self._has_room(task.source_group)
        )

    @synchronized
    def renew(
        self,
        worker: WorkerIdentity,
        claims: Sequence[tuple[TaskId, int]],
        lease_ttl_s: float,
        rss_bytes: int,
    ) -> list[TaskId]:
        now_s = self._clock()
        row = self._workers.setdefault(
            worker.worker_id,
            Worker(
                worker_id=worker.worker_id,
                name=worker.name,
                host_id=worker.host_id,
                pid=worker.pid,
                pid_started_at_s=worker.pid_started_at_s,
                started_at_s=now_s,
                heartbeat_at_s=now_s,
            ),
        )
        row.heartbeat_at_s, row.rss_bytes, row.ended = now_s, rss_bytes or row.rss_bytes, False
        lost = []
        for task_id, fence in sorted(claims):
            task = self._tasks.get(task_id)
            if task is not None and task.may(Verb.RENEW, fence):
                task.lease_expires_at_s = now_s + lease_ttl_s
            elif task is None or task.fence != fence:
                lost.append(task_id)
        return lost

    @synchronized
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
        self._commit(task_id, fence, parts, (rows, pages, None), longest_statement_s, told)

    @synchronized
    def commit_result(
        self,
        task_id: TaskId,
        fence: int,
        result: RangeResult,
        *,
        longest_statement_s: float | None = None,
        told: Sequence[Told] = (),
    ) -> None:
        rows = 0 if result.source is None else result.source.rows
        self._commit(task_id, fence, (), (rows, 0, result), longest_statement_s, told)

    def _commit(
        self,
        task_id: TaskId,
        fence: int,
        parts: Sequence[StagedPart],
        done: tuple[int, int, RangeResult | None],
        longest_statement_s: float | None,
        told: Sequence[Told],
    ) -> None:
        task = self._tasks.get(task_id)
        if task is None or not task.may(Verb.COMMIT, fence):
            over = (TaskStatus.COMMITTED, TaskStatus.COMPLETED)
            if task is None or not self._stands(task, fence, *over):
                raise _lost(task_id, fence)
            if self._stored(task) != {(p.part_number, p.path, p.digest.fingerprint) for p in parts}:
                raise _lost(task_id, fence)
            return
        if len({p.part_number for p in parts}) != len(parts):
            raise StateRefused(f"task {task_id}: one part number twice")
        task.move(Verb.COMMIT, self._clock())
        task.rows_written, task.pages_read, task.result = done
        task.took(longest_statement_s)
        task.committed_at_s = task.updated_at_s
        task.error_class = task.last_error = None
        self._parts += [
            part.committed(
                run_id=task.run_id,
                export_name=task.export_name,
                chunk_index=task.chunk_index,
                fence=fence,
            )
            for part in parts
        ]
        for part in parts:
            self._uniques[task.run_id, task.chunk_index, part.part_number, fence] = part.uniques
        self._note_task(EventName.CHUNK_COMMITTED, task, told=told)

    @synchronized
    def mark_published(self, task_id: TaskId, fence: int, told: Sequence[Told] = ()) -> None:
        task = self._owned(task_id, fence, Verb.COMPLETE, TaskStatus.COMPLETED)
        if task is None:
            return
        task.move(Verb.COMPLETE, self._clock())
        task.completed_at_s = task.updated_at_s
        self._mark_parts(task.run_id, task.chunk_index, PartStatus.COMMITTED, PartStatus.PUBLISHED)
        self._note_task(EventName.CHUNK_COMPLETED, task, told=told)

    @synchronized
    def fail(self, task_id: TaskId, fence: int, failure: Failure) -> TaskStatus:
        task = self._owned(task_id, fence, Verb.FAIL, TaskStatus.FAILED)
        if task is None:
            return TaskStatus.FAILED
        now_s = self._clock()
        task.move(Verb.FAIL, now_s)
        if failure.permanent:
            task.attempts = task.attempts_max
        task.not_before_s = now_s + failure.not_before_in_s
        task.error_class, task.last_error = failure.error_class, failure.message
        task.took(failure.longest_statement_s)
        self._note_task(EventName.CHUNK_FAILED, task, failure.message)
        return TaskStatus.FAILED

    @synchronized
    def release(self, task_id: TaskId, fence: int, outage: str = "") -> None:
        task = self._owned(task_id, fence, Verb.RELEASE, TaskStatus.PENDING)
        if task is not None:
            task.move(Verb.RELEASE, self._clock())
            self._note_task(EventName.CHUNK_RELEASED, task, outage)

    @synchronized
    def reap_expired(
        self, campaign_id: CampaignId | None = None, *, limit: int = 100
    ) -> list[Reaped]:
        now_s = self._clock()
        expired = [
            t
            for t in self._tasks.values()
            if t.may(Verb.REAP)
            and t.lease_expires_at_s is not None
            and t.lease_expires_at_s < now_s
            and campaign_id in (None, t.campaign_id)
        ]
        expired.sort(key=lambda t: t.lease_expires_at_s or 0.0)
        return self._take_back(expired[:limit], "lease expired")

    @synchronized
    def reap_worker(self, worker_id: str, reason: str) -> list[Reaped]:
        if worker_id in self._workers:
            self._workers[worker_id].ended = True
        for run in self._runs.values():
            if run.finalize_owner == worker_id:
                run.finalize_lease_expires_at_s = None
        owned = [t for t in self._tasks.values() if t.may(Verb.REAP) and t.owner == worker_id]
        return self._take_back(owned, reason)

    def _take_back(self, tasks: list[Task], reason: str) -> list[Reaped]:
        taken = []
        for task in tasks:
            taken.append(task.reap(reason, self._clock()))
            self._note_task(EventName.CHUNK_REAPED, task, reason)
            if task.status is TaskStatus.FAILED:
                self._note_task(EventName.CHUNK_FAILED, task, reason)
        return taken

    @synchronized
    def reopen(self, task_id: TaskId, fence: int, reason: str) -> bool:
        task = self._tasks.get(task_id)
        if task is None or not task.may(Verb.REOPEN, fence):
            return False
        run = self._runs[task.run_id]
        self._reopen(task, reason)
        self._revive_run(run)
        if task.generation != run.generation:
            run.former = None
        return True

    @synchronized
    def requeue(
        self,
        campaign_id: CampaignId,
        *,
        export_name: str | None = None,
        chunk_index: int | None = None,
    ) -> int:
        campaign = self._known(campaign_id)
        if campaign.status is CampaignStatus.CANCELLED:
            raise StateRefused(f"campaign {campaign_id} was cancelled")
        chosen = [
            t
            for t in self._tasks.values()
            if t.campaign_id == campaign_id
            and t.status is TaskStatus.FAILED
            and export_name in (None, t.export_name)
            and chunk_index in (None, t.chunk_index)
            and not self._stored(t)
        ]
        for task in chosen:
            task.move(Verb.REOPEN, self._clock())
            task.forget_attempt()
            self._note_task(EventName.CHUNK_REOPENED, task, "requeued")
        if chosen:
            self._revive(campaign_id)
        return len(chosen)

    # -- inside -----------------------------------------------------------------------------

    def _owned(self, task_id: TaskId, fence: int, verb: Verb, done: TaskStatus) -> Task | None:
        """The task when the verb may happen; None when this very verb has happened already."""
        task = self._tasks.get(task_id)
        if task is not None and task.may(verb, fence):
            return task
        if task is None or not self._stands(task, fence, done):
            raise _lost(task_id, fence)
        return None

    @staticmethod
    def _stands(task: Task, fence: int, *statuses: TaskStatus) -> bool:
        return task.fence == fence and task.status in statuses

    def _stored(self, task: Task) -> set[tuple[int, str, str]]:
        return {
            (p.part_number, p.path, p.digest.fingerprint)
            for p in self._parts
            if (p.run_id, p.chunk_index) == (task.run_id, task.chunk_index)
            and p.status is not PartStatus.VOIDED
        }

    def _reopen(self, task: Task, reason: str) -> None:
        task.move(Verb.REOPEN, self._clock())
        task.forget_attempt()
        task.error_class, task.last_error = None, reason
        for status in (PartStatus.COMMITTED, PartStatus.PUBLISHED):
            self._mark_parts(task.run_id, task.chunk_index, status, PartStatus.VOIDED)
        self._note_task(EventName.CHUNK_REOPENED, task, reason)

    def _revive_run(self, run: Run) -> None:
        run.finalize_fence += 1
        run.finalize_lease_expires_at_s = run.finished_at_s = run.error = None
        run.findings = run.proof = run.manifest_fingerprint = None
        if run.status is not RunStatus.CANCELLED:
            run.status = RunStatus.IN_PROGRESS
        self._revive(run.campaign_id)

    def _mark_parts(self, run_id: RunId, chunk: int, old: PartStatus, new: PartStatus) -> None:
        self._parts = [
            replace(p, status=new)
            if (p.run_id, p.chunk_index, p.status) == (run_id, chunk, old)
            else p
            for p in self._parts
        ]

    @synchronized
    def whole_ledger(self, lease: FinalizeLease) -> RunLedger:
        if self._leased(lease) is None:
            raise LeaseLost(f"run {lease.run_id} is not ours to finish any more")
        return self._whole(lease.run_id)

    @synchronized
    def completed_ledger(self, run_id: RunId) -> RunLedger | None:
        run = self._runs.get(run_id)
        done = run is not None and run.status is RunStatus.COMPLETED
        return self._whole(run_id) if done else None

    def _whole(self, run_id: RunId) -> RunLedger:
        fences = {task.chunk_index: task.fence for task in self._tasks_of(run_id)}
        return RunLedger(parts=self.parts(run_id), fences=fences)


def _lost(task_id: TaskId, fence: int) -> LeaseLost:
    return LeaseLost(f"task {task_id}: fence {fence} does not own it any more")
