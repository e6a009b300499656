"""The rows of the in-memory store, and how they are seen: dicts instead of tables."""

from __future__ import annotations

from dataclasses import dataclass

from rivet_fleet.contracts.keys import CampaignId, ChunkRange, RunId, TaskId
from rivet_fleet.contracts.manifest import LedgerPart, PartStatus
from rivet_fleet.contracts.plan import CampaignPlan, PlannedRun
from rivet_fleet.contracts.proof import RunProof
from rivet_fleet.contracts.protection import SourceBudget
from rivet_fleet.contracts.quality import Acceptance, RunFindings
from rivet_fleet.contracts.reconcile import RangeResult
from rivet_fleet.contracts.state import (
    TRANSITIONS,
    CampaignStatus,
    CampaignView,
    Reaped,
    RunStatus,
    RunView,
    TaskCounts,
    TaskStatus,
    TaskView,
    Verb,
    after_reap,
)


@dataclass(slots=True, kw_only=True)
class Task:
    """A row of ``chunk_task``."""

    task_id: TaskId
    campaign_id: CampaignId
    run_id: RunId
    export_name: str
    run_position: int
    chunk_index: int
    chunk_range: ChunkRange
    attempts_max: int
    priority: int
    source_group: str
    updated_at_s: float
    status: TaskStatus = TaskStatus.PENDING
    attempts: int = 0
    fence: int = 0
    owner: str | None = None
    owner_name: str | None = None
    lease_expires_at_s: float | None = None
    not_before_s: float | None = None
    error_class: str | None = None
    last_error: str | None = None
    rows_written: int | None = None
    pages_read: int | None = None
    longest_statement_s: float | None = None
    claimed_at_s: float | None = None
    read_at_s: float | None = None
    committed_at_s: float | None = None
    completed_at_s: float | None = None
    result: RangeResult | None = None
    generation: int = 1
    commit_fence: int | None = None
    former: Task | None = None
    """As it was before the repair that goes on."""

    def may(self, verb: Verb, fence: int | None = None) -> bool:
        """The guard of the task machine."""
        rule = TRANSITIONS[verb]
        return self.status in rule.sources and (not rule.fenced or self.fence == fence)

    def move(self, verb: Verb, now_s: float) -> None:
        """The effect every verb has; whoever calls it has asked ``may``."""
        rule = TRANSITIONS[verb]
        self.status = rule.target
        self.attempts = 0 if rule.attempts is None else self.attempts + rule.attempts
        self.fence += rule.fence
        self.updated_at_s = now_s
        if rule.target is not TaskStatus.RUNNING:
            self.lease_expires_at_s = None

    @property
    def reading(self) -> bool:
        """What a budget counts."""
        return self.status is TaskStatus.RUNNING and self.read_at_s is None

    def took(self, longest_statement_s: float | None) -> None:
        """Of all attempts the longest counts."""
        known = (self.longest_statement_s, longest_statement_s)
        self.longest_statement_s = max((s for s in known if s is not None), default=None)

    def forget_attempt(self) -> None:
        """What a reopened task no longer knows."""
        self.owner = None
        self.not_before_s = None
        self.rows_written = None
        self.pages_read = None
        self.longest_statement_s = None
        self.committed_at_s = None
        self.completed_at_s = None
        self.result = None
        self.commit_fence = None

    def reap(self, reason: str, now_s: float) -> Reaped:
        """Take it back from an owner that is gone."""
        self.move(Verb.REAP, now_s)
        self.status = after_reap(self.attempts, self.attempts_max)
        self.error_class = "WorkerDied"
        self.last_error = reason
        return Reaped(
            task_id=self.task_id,
            run_id=self.run_id,
            export_name=self.export_name,
            chunk_index=self.chunk_index,
            status=self.status,
            fence=self.fence,
            attempts=self.attempts,
            owner=self.owner,
            owner_name=self.owner_name,
        )

    @property
    def claim_order(self) -> tuple[int, int, int]:
        """Highest priority, then plan order, then chunk order."""
        return (-self.priority, self.run_position, self.chunk_index)

    def view(self) -> TaskView:
        """As the store answers."""
        return TaskView(
            task_id=self.task_id,
            campaign_id=self.campaign_id,
            run_id=self.run_id,
            export_name=self.export_name,
            chunk_index=self.chunk_index,
            chunk_range=self.chunk_range,
            status=self.status,
            fence=self.fence,
            commit_fence=self.commit_fence,
            attempts=self.attempts,
            attempts_max=self.attempts_max,
            priority=self.priority,
            owner=self.owner,
            owner_name=self.owner_name,
            lease_expires_at_s=self.lease_expires_at_s,
            not_before_s=self.not_before_s,
            delivering=self.status is TaskStatus.RUNNING and not self.reading,
            rows_written=self.rows_written,
            pages_read=self.pages_read,
            error_class=self.error_class,
            last_error=self.last_error,
            updated_at_s=self.updated_at_s,
        )


@dataclass(slots=True, kw_only=True)
class Run:
    """A row of ``chunk_run``."""

    campaign_id: CampaignId
    campaign_name: str
    planned: PlannedRun
    position: int
    created_at_s: float
    status: RunStatus = RunStatus.IN_PROGRESS
    finished_at_s: float | None = None
    finalize_fence: int = 0
    finalize_owner: str | None = None
    finalize_lease_expires_at_s: float | None = None
    error: str | None = None
    findings: RunFindings | None = None
    acceptance: Acceptance | None = None
    proof: RunProof | None = None
    generation: int = 1
    manifest_fingerprint: str | None = None
    former: Run | None = None
    """As it was before the repair that goes on."""

    @property
    def run_id(self) -> RunId:
        """The plan's run."""
        return self.planned.plan.run_id

    def view(self, tasks: list[Task], parts: list[LedgerPart]) -> RunView:
        """As the store answers."""
        counts = {s.value: sum(t.status is s for t in tasks) for s in TaskStatus}
        kept = [p for p in parts if p.status is not PartStatus.VOIDED]
        return RunView(
            run_id=self.run_id,
            campaign_id=self.campaign_id,
            export_name=self.planned.plan.export_name,
            status=self.status,
            plan=self.planned.plan,
            plan_hash=self.planned.plan_hash,
            expected_tasks=len(self.planned.chunks),
            counts=TaskCounts(**counts),
            spent=sum(
                t.status is TaskStatus.FAILED and t.attempts >= t.attempts_max for t in tasks
            ),
            rows=sum(p.digest.rows for p in kept),
            bytes=sum(p.digest.size_bytes for p in kept),
            created_at_s=self.created_at_s,
            finished_at_s=self.finished_at_s,
            finalize_fence=self.finalize_fence,
            error=self.error,
            changed_values=changed_values(kept),
            files=len(kept),
            findings=self.findings,
            acceptance=self.acceptance,
            proof=self.proof,
            generation=self.generation,
            manifest_fingerprint=self.manifest_fingerprint,
        )


@dataclass(slots=True, kw_only=True)
class Budget:
    """A row of ``source_budget``."""

    budget: SourceBudget
    permits: int | None = None
    page_share: float = 1.0
    paused: str | None = None
    resumes_at_s: float | None = None
    halted: str | None = None
    valid_until_s: float | None = None
    sampled_at_s: float | None = None
    readings_json: str = "[]"
    governor: str | None = None
    fence: int = 0
    lease_expires_at_s: float | None = None
    configured_at_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class Campaign:
    """A row of ``campaign``."""

    plan: CampaignPlan
    created_at_s: float
    status: CampaignStatus = CampaignStatus.ACTIVE
    finished_at_s: float | None = None
    halted: str | None = None

    def view(self) -> CampaignView:
        """As the store answers."""
        return CampaignView(
            campaign_id=self.plan.campaign_id,
            campaign_name=self.plan.campaign_name,
            config_digest=self.plan.config_digest,
            config_path=self.plan.config_path,
            status=self.status,
            created_at_s=self.created_at_s,
            finished_at_s=self.finished_at_s,
            halted=self.halted,
            identity=self.plan.identity,
        )


@dataclass(slots=True, kw_only=True)
class Worker:
    """A row of ``worker``."""

    worker_id: str
    name: str
    host_id: str
    pid: int
    pid_started_at_s: float
    started_at_s: float
    heartbeat_at_s: float
    rss_bytes: int = 0
    ended: bool = False


def changed_values(parts: list[LedgerPart]) -> int:
    """How many values of these parts a policy changed."""
    return sum(column.changed for part in parts for column in part.columns)


def planned_tasks(plan: CampaignPlan, first_id: int, now_s: float) -> list[Task]:
    """Every task of a campaign, pending, numbered from ``first_id``."""
    tasks: list[Task] = []
    for position, run in enumerate(plan.runs):
        for chunk in run.chunks:
            tasks.append(
                Task(
                    task_id=TaskId(first_id + len(tasks)),
                    campaign_id=plan.campaign_id,
                    run_id=run.plan.run_id,
                    export_name=run.plan.export_name,
                    run_position=position,
                    chunk_index=chunk.chunk_index,
                    chunk_range=chunk.chunk_range,
                    attempts_max=run.plan.attempts_max,
                    priority=run.plan.priority,
                    source_group=run.plan.source_group or "",
                    updated_at_s=now_s,
                )
            )
    return tasks
