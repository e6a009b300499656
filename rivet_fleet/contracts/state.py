"""What the state holds, as plain values: the task machine, views and outcomes, claims."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from rivet_fleet.contracts.identity import CampaignIdentity
from rivet_fleet.contracts.keys import CampaignId, ChunkRange, RunId, TaskId, WorkerId
from rivet_fleet.contracts.plan import ExportPlan
from rivet_fleet.contracts.proof import RunProof
from rivet_fleet.contracts.protection import BUDGET_NUMBERS, SourceBudget
from rivet_fleet.contracts.quality import Acceptance, RunFindings

# ------------------------------------------------------------------------------------------
# The task machine of docs/adr/0001: states, verbs and the only transitions there are.


class TaskStatus(Enum):
    """Where a chunk task stands. The values are the database text."""

    PENDING = "pending"
    RUNNING = "running"
    COMMITTED = "committed"
    COMPLETED = "completed"
    FAILED = "failed"


class RunStatus(Enum):
    """Where one export's run stands."""

    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class CampaignStatus(Enum):
    """Where a campaign stands. Only ``active`` campaigns hand out chunks."""

    ACTIVE = "active"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """True when nobody will ever claim a chunk of it again without an operator's verb."""
        return self is not CampaignStatus.ACTIVE


class Verb(Enum):
    """What may be done to a task."""

    ENQUEUE = "enqueue"
    CLAIM = "claim"
    RENEW = "renew"
    COMMIT = "commit"
    COMPLETE = "complete"
    FAIL = "fail"
    RELEASE = "release"
    REAP = "reap"
    REOPEN = "reopen"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One row of the table: where it may start, where it ends, what it does to the numbers.

    ``attempts``: +1 spends one, -1 gives one back, 0 leaves them, None resets to zero.
    ``fence``: how much the fence grows. ``fenced``: the caller must name the current fence.
    """

    sources: frozenset[TaskStatus]
    target: TaskStatus
    attempts: int | None
    fence: int
    fenced: bool


_P, _R, _C, _D, _F = (
    TaskStatus.PENDING,
    TaskStatus.RUNNING,
    TaskStatus.COMMITTED,
    TaskStatus.COMPLETED,
    TaskStatus.FAILED,
)

TRANSITIONS: dict[Verb, Transition] = {
    Verb.ENQUEUE: Transition(sources=frozenset(), target=_P, attempts=None, fence=0, fenced=False),
    Verb.CLAIM: Transition(
        sources=frozenset({_P, _F}), target=_R, attempts=+1, fence=+1, fenced=False
    ),
    Verb.RENEW: Transition(sources=frozenset({_R}), target=_R, attempts=0, fence=0, fenced=True),
    Verb.COMMIT: Transition(sources=frozenset({_R}), target=_C, attempts=0, fence=0, fenced=True),
    Verb.COMPLETE: Transition(sources=frozenset({_C}), target=_D, attempts=0, fence=0, fenced=True),
    Verb.FAIL: Transition(sources=frozenset({_R}), target=_F, attempts=0, fence=0, fenced=True),
    Verb.RELEASE: Transition(sources=frozenset({_R}), target=_P, attempts=-1, fence=0, fenced=True),
    Verb.REAP: Transition(sources=frozenset({_R}), target=_P, attempts=0, fence=+1, fenced=False),
    Verb.REOPEN: Transition(
        sources=frozenset({_C, _D, _F}), target=_P, attempts=None, fence=+1, fenced=True
    ),
}
"""A reap ends in FAILED instead of PENDING when the budget is spent; a permanent failure
spends the whole budget. Everything else is as the table says."""


def after_reap(attempts: int, attempts_max: int) -> TaskStatus:
    """Where a reaped task goes: back to the queue, or to the poison shelf."""
    return TaskStatus.PENDING if attempts < attempts_max else TaskStatus.FAILED


# ------------------------------------------------------------------------------------------
# What the state database answers: views and outcomes.


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitOutcome:
    """``created`` is False when the campaign was there already: nothing was written then."""

    campaign_id: CampaignId
    created: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an attempt ended. ``permanent`` spends the whole budget."""

    error_class: str
    message: str
    """Redacted and bounded by the caller."""
    permanent: bool
    not_before_in_s: float = 0.0
    page: int | None = None
    code: str | None = None
    longest_statement_s: float | None = None
    """How long the source was busy with one statement of this attempt at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """One chunk task; times are epoch seconds of the database's clock. ``delivering``: ADR 0035,
    ``commit_fence`` (of its parts, left behind by a repair that was given up): ADR 0032."""

    task_id: TaskId
    campaign_id: CampaignId
    run_id: RunId
    export_name: str
    chunk_index: int
    chunk_range: ChunkRange
    status: TaskStatus
    fence: int
    commit_fence: int | None = None
    attempts: int
    attempts_max: int
    priority: int
    owner: str | None
    owner_name: str | None
    lease_expires_at_s: float | None
    not_before_s: float | None
    delivering: bool = False
    rows_written: int | None
    pages_read: int | None
    error_class: str | None
    last_error: str | None
    updated_at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """Chunks given back since a source last answered. Times are the database's clock."""

    since_s: float
    last_s: float
    tries: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaped:
    """A task taken back from an owner that is gone. ``status`` is pending or failed."""

    task_id: TaskId
    run_id: RunId
    export_name: str
    chunk_index: int
    status: TaskStatus
    fence: int
    attempts: int
    owner: str | None
    owner_name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCounts:
    """How many tasks of a run are in each status."""

    pending: int = 0
    running: int = 0
    committed: int = 0
    completed: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.pending + self.running + self.committed + self.completed + self.failed


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """One run with its sealed plan and its counts. None: not yet."""

    run_id: RunId
    campaign_id: CampaignId
    export_name: str
    status: RunStatus
    plan: ExportPlan
    plan_hash: str
    expected_tasks: int
    counts: TaskCounts
    rows: int
    bytes: int
    created_at_s: float
    finished_at_s: float | None
    finalize_fence: int
    error: str | None = None
    changed_values: int = 0
    """Values of committed parts that a stated policy had to change."""
    findings: RunFindings | None = None
    acceptance: Acceptance | None = None
    """An operator's word that the verdicts of its gates shall not keep it back."""
    proof: RunProof | None = None
    """What the source said of its rows as a whole; None before, and when it was not asked."""
    first_claim_at_s: float | None = None
    spent: int = 0
    """How many of its failed chunks have no attempt left: the others are claimed again."""
    files: int = 0
    generation: int = 1
    """Of its delivery: each repair makes the next one (ADR 0032)."""
    manifest_fingerprint: str | None = None

    @property
    def began_at_s(self) -> float:
        """From when its time counts: a run that waited for others did nothing."""
        return self.created_at_s if self.first_claim_at_s is None else self.first_claim_at_s

    @property
    def skipped(self) -> bool:
        """True for a completed run that delivered nothing, because there was nothing and
        ``skip_empty`` says so."""
        return self.status is RunStatus.COMPLETED and self.plan.skip_empty and not self.bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignView:
    """One campaign."""

    campaign_id: CampaignId
    campaign_name: str
    config_digest: str
    config_path: str
    status: CampaignStatus
    created_at_s: float
    finished_at_s: float | None
    halted: str | None = None
    """Why the governor stopped it; an operator's ``resume`` or ``run`` lifts it."""
    identity: CampaignIdentity | None = None
    """Which configuration it belongs to; None for one of a program that kept none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """One worker process as it last spoke. ``alive`` is judged by the database's clock."""

    worker_id: str
    name: str
    host_id: str
    pid: int
    pid_started_at_s: float
    started_at_s: float
    heartbeat_at_s: float
    alive: bool
    rss_bytes: int
    running_task: int | None
    gone: bool = False
    """Its process has ended: the kernel of its host says so, which only a process there asks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """One source group of a campaign: its budget, and what its governor decided.

    ``running`` counts the chunks of every campaign, ``running_here`` those of this one.
    ``slots_max``: how many may run when nothing sheds them; ``permits``: how many may run now,
    None when nobody governs. Times are of the database's clock.
    """

    group_name: str
    slots_max: int | None
    running: int
    running_here: int = 0
    connections_max: int | None = None
    rows_per_s: float | None = None
    bytes_per_s: float | None = None
    chunks_min: int = 1
    permits: int | None = None
    page_share: float = 1.0
    paused: str | None = None
    resumes_at_s: float | None = None
    halted: str | None = None
    valid_until_s: float | None = None
    sampled_at_s: float | None = None
    monitored: bool = False
    governor: str | None = None
    readings_json: str = "[]"
    """What the monitor read last: a list of objects with name, value, level and error."""

    def readings(self, *, above: str | None = None) -> list[str]:
        """``lock_waits 3`` for each signal; with ``above`` only those of another level."""
        said = []
        for one in json.loads(self.readings_json):
            if above is not None and one["level"] == above:
                continue
            value = "unreadable" if one["error"] else one["value"]
            said.append(
                f"{one['name']} {value:g}" if isinstance(value, float) else f"{one['name']} {value}"
            )
        return said

    def unwatched(self, now_s: float) -> bool:
        """True when it fails closed and nobody has sampled in time."""
        return self.valid_until_s is not None and self.valid_until_s < now_s

    @property
    def allowed(self) -> int | None:
        """How many chunks may run now; None is no limit."""
        if self.paused is not None or self.halted is not None:
            return 0
        most = [n for n in (self.slots_max, self.permits) if n is not None]
        return min(most) if most else None


def shown_numbers(budget: SourceBudget) -> dict[str, Any]:
    """What the view of a group shows of its budget as it is: the numbers that both call alike."""
    shown = {one.name for one in fields(GroupView)}
    return {name: getattr(budget, name) for name in BUDGET_NUMBERS if name in shown}


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """One journal row."""

    journal_id: int
    at_s: float
    event: str
    campaign_id: str | None
    run_id: str | None
    export_name: str | None
    chunk_index: int | None
    worker_id: str | None
    message: str
    data: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalFilter:
    """Which journal entries are meant; what is not given lets everything pass.

    ``worker`` is a worker's id, or the name of one or several; ``since_s`` is epoch seconds.
    """

    export_name: str | None = None
    events: tuple[str, ...] = ()
    worker: str | None = None
    since_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalizeLease:
    """The right to finish one run: its own fence on the run row."""

    run_id: RunId
    finalize_fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The acceptance that holds; ``created`` is False when it was there already."""

    acceptance: Acceptance
    created: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """What the last transaction of a run records (finishing, step 4)."""

    manifest_fingerprint: str
    rows: int
    bytes: int
    files: int
    duration_s: float
    peak_rss_bytes: int = 0
    findings: RunFindings | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRun:
    """One former run of an export, as it was measured when it ended.

    ``work_s`` is the time workers spent on the attempts that were committed, summed: unlike
    ``duration_s`` it does not grow while chunks wait for their turn. None when unknown.
    """

    run_id: RunId
    run_at_s: float
    succeeded: bool
    rows: int
    bytes: int
    duration_s: float
    work_s: float | None
    chunks: int
    retries: int

    @property
    def rows_per_s(self) -> float | None:
        """Rows that one worker delivered in a second."""
        return self.rows / self.work_s if self.work_s else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """How far something has come: a cursor or a chunk, by ``strategy`` (PG4)."""

    strategy: str
    cursor: str | None
    chunk_index: int | None
    run_id: RunId
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progression:
    """One export's boundaries (PG1 to PG8). ``cursor`` is the mark the next run begins at;
    ``verified`` is how far a comparison with the source found no difference (ADR 0030)."""

    export_name: str
    cursor: str | None
    committed: Boundary | None
    verified: Boundary | None = None


# ------------------------------------------------------------------------------------------
# A claim's proof of ownership, and how long a process may believe in it.


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerIdentity:
    """Who claims. ``worker_id`` is unique per process start; names and pids are reusable (F4).

    ``host_id`` is equal for two processes exactly when one can see the other's pid;
    ``pid_started_at_s`` (boot-relative, from the OS) tells a reused pid from the old one.
    """

    worker_id: WorkerId
    name: str
    host_id: str
    pid: int
    pid_started_at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One claimed chunk: what to read, and the fence every later write must name (F1)."""

    task_id: TaskId
    campaign_id: CampaignId
    run_id: RunId
    export_name: str
    chunk_index: int
    chunk_range: ChunkRange
    fence: int
    attempt: int
    attempts_max: int
    source_group: str = ""
    generation: int = 1


def trusted_until_s(sent_at_monotonic_s: float, lease_ttl_s: float) -> float:
    """When to stop wasting work, anchored at the moment the renewal was *sent* (F3).

    It never decides ownership: the fence does (F2).
    """
    return sent_at_monotonic_s + lease_ttl_s


def heartbeat_interval_s(lease_ttl_s: float) -> float:
    """How often to renew: at most every third of the lease (F6), here a quarter."""
    return lease_ttl_s / 4.0
