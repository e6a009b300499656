"""Why is this waiting? Pure answers, each with a stable code and a sentence.

Codes are part of ``status --json`` (schema version 1): they may be added to, never renamed.
Only the state database's clock is compared with leases and waits (F3).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from rivet_fleet.contracts.state import CampaignView, GroupView, RunView, TaskView, WorkerView
from rivet_fleet.contracts.task import CampaignStatus, RunStatus, TaskStatus
from rivet_fleet.observability.advice import advice_for, command, needs_new_plan
from rivet_fleet.observability.units import counted, duration_text

HOLDERS_SHOWN_MAX = 5


class ReasonCode(Enum):
    """What explains the campaign's state; several may hold at once."""

    CAMPAIGN_COMPLETED = "campaign_completed"
    CAMPAIGN_INCOMPLETE = "campaign_incomplete"
    CAMPAIGN_CANCELLED = "campaign_cancelled"
    NO_LIVE_WORKER = "no_live_worker"
    WORKERS_BUSY = "workers_busy"
    SOURCE_GROUP_FULL = "source_group_full"
    SOURCE_GROUP_SHED = "source_group_shed"
    SOURCE_GROUP_PAUSED = "source_group_paused"
    SOURCE_GROUP_PACED = "source_group_paced"
    SOURCE_AWAY = "source_away"
    RETRIES_HELD = "retries_held"
    WORKER_UNFIT = "worker_unfit"
    CAMPAIGN_HALTED = "campaign_halted"
    WAITING_FOR_RETRY = "waiting_for_retry"
    DEAD_WORKER_LEASE = "dead_worker_lease"
    LEASE_EXPIRED = "lease_expired"
    FAILED_FOR_GOOD = "failed_for_good"
    QUALITY_REFUSED = "quality_refused"
    COMMITTED_UNPUBLISHED = "committed_unpublished"
    FINALIZE_WAITING = "finalize_waiting"
    FINALIZE_LEASED = "finalize_leased"
    LEDGER_MISMATCH = "ledger_mismatch"
    CLAIMABLE_NOW = "claimable_now"
    EVERYTHING_RUNNING = "everything_running"
    EARLIER_WAVE_FIRST = "earlier_wave_first"
    HIGHER_PRIORITY_FIRST = "higher_priority_first"
    LONGER_CHUNKS_FIRST = "longer_chunks_first"
    WAVES_OVERLAP = "waves_overlap"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One answer. ``export_name`` is None when it concerns the whole campaign.

    ``until_s`` (seconds from now) says when it resolves by itself, where that is known;
    ``next_command`` what an operator can type, where that helps.
    """

    code: ReasonCode
    sentence: str
    export_name: str | None = None
    until_s: float | None = None
    next_command: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What the state database said at one moment. ``tasks`` are those not pending and not
    completed, or a sample of them; pending ones are known from the runs' counts."""

    campaign: CampaignView
    runs: Sequence[RunView]
    tasks: Sequence[TaskView]
    workers: Sequence[WorkerView]
    groups: Sequence[GroupView]
    now_s: float

    def alive(self) -> list[WorkerView]:
        """Workers whose heartbeat is fresh by the database's clock."""
        return [w for w in self.workers if w.alive]

    def of(self, run: RunView, status: TaskStatus) -> list[TaskView]:
        """The known tasks of a run in this status."""
        return [t for t in self.tasks if t.run_id == run.run_id and t.status is status]


def reasons_for(scene: Scene, protection: Sequence[Reason] = ()) -> tuple[Reason, ...]:
    """Every reason that holds, the campaign's first, then per export in plan order.
    ``protection``: what holds its source groups back."""
    over = _over(scene)
    if over:
        return (over, *_failed_reasons(scene), *_refused_reasons(scene))
    halted = _halted(scene)
    found = [*_group_reasons(scene), *protection]
    found += [halted] if halted else _worker_reasons(scene)
    for run in scene.runs:
        if run.status is RunStatus.IN_PROGRESS:
            found += _run_reasons(scene, run)
    found += _refused_reasons(scene)
    return tuple(found) or _nothing_waits(scene)


def _over(scene: Scene) -> Reason | None:
    path = scene.campaign.config_path
    status = scene.campaign.status
    if status is CampaignStatus.COMPLETED:
        return Reason(
            code=ReasonCode.CAMPAIGN_COMPLETED,
            sentence="Nothing waits: the campaign is completed.",
            next_command=command("validate", path),
        )
    if status is CampaignStatus.INCOMPLETE:
        failed = [task for task in scene.tasks if task.status is TaskStatus.FAILED]
        unfit = bool(failed) and all(needs_new_plan(task.error_class) for task in failed)
        return Reason(
            code=ReasonCode.CAMPAIGN_INCOMPLETE,
            sentence="The campaign is over, but not everything could be extracted; "
            + ("start a new one." if unfit else "requeue what failed, then resume."),
            next_command=f"{command('run', path)} --new" if unfit else command("requeue", path),
        )
    if status is CampaignStatus.CANCELLED:
        return Reason(
            code=ReasonCode.CAMPAIGN_CANCELLED,
            sentence="The campaign was cancelled: nobody will claim its chunks.",
            next_command=command("run", path),
        )
    return None


def _halted(scene: Scene) -> Reason | None:
    halted = scene.campaign.halted
    if halted is None:
        return None
    return Reason(
        code=ReasonCode.CAMPAIGN_HALTED,
        sentence=f"The governor stopped the campaign: {halted}. Nothing is lost: what ran was "
        "given back; resume it when the source is well.",
        next_command=command("resume", scene.campaign.config_path),
    )


def _run_reasons(scene: Scene, run: RunView) -> list[Reason]:
    return [
        *_retry_reasons(scene, run),
        *_lease_reasons(scene, run),
        *_spent_reasons(scene, run),
        *_tail_reasons(run),
    ]


def _failed_reasons(scene: Scene) -> list[Reason]:
    return [r for run in scene.runs for r in _spent_reasons(scene, run)]


def _refused_reasons(scene: Scene) -> list[Reason]:
    """Runs that are not delivered because a quality gate does not hold (ADR 0008)."""
    return [
        Reason(
            code=ReasonCode.QUALITY_REFUSED,
            sentence=f"Run {run.run_id} was {run.error or 'refused'}. Its files have no manifest; "
            "what was delivered before is untouched.",
            export_name=run.export_name,
            next_command=f"{command('run', scene.campaign.config_path)} --new",
        )
        for run in scene.runs
        if run.status is RunStatus.FAILED
    ]


def spent(task: TaskView) -> bool:
    """True for a failed task nobody will claim again without an operator's verb."""
    return task.status is TaskStatus.FAILED and task.attempts >= task.attempts_max


def claimable(scene: Scene, run: RunView) -> int:
    """How many chunks of a run could be claimed now, budgets and workers aside."""
    if run.status is not RunStatus.IN_PROGRESS:
        return 0
    failed = scene.of(run, TaskStatus.FAILED)
    ready = [t for t in failed if not spent(t) and (t.not_before_s or 0.0) <= scene.now_s]
    return run.counts.pending + len(ready)


def full_groups(scene: Scene) -> dict[str, GroupView]:
    """The source groups whose budget is spent."""
    return {
        g.group_name: g
        for g in scene.groups
        if (g.allowed is not None and g.running >= g.allowed) or g.unwatched(scene.now_s)
    }


def _group_reasons(scene: Scene) -> list[Reason]:
    reasons = []
    for name, group in full_groups(scene).items():
        if group.allowed == 0 or group.unwatched(scene.now_s):
            continue  # that is a reason of its own
        members = [r for r in scene.runs if r.plan.source_group == name]
        waiting = sum(claimable(scene, run) for run in members)
        if not waiting:
            continue
        holders = [t for run in members for t in scene.of(run, TaskStatus.RUNNING)]
        reasons.append(
            Reason(
                code=ReasonCode.SOURCE_GROUP_FULL,
                sentence=f"{counted(waiting, 'chunk')} wait for source group {name}: "
                f"{group.running} of {group.allowed} slots are taken"
                f"{_held_by(holders)}{_elsewhere(group)}.",
            )
        )
    return reasons


def _elsewhere(group: GroupView) -> str:
    """A source's budget is shared by every campaign on the state database."""
    others = group.running - group.running_here
    return f"; {others} of them by other campaigns" if others > 0 else ""


def _held_by(holders: Sequence[TaskView]) -> str:
    if not holders:
        return ""
    named = [
        f"{t.export_name} chunk {t.chunk_index} on {t.owner_name or t.owner}"
        for t in holders[:HOLDERS_SHOWN_MAX]
    ]
    more = len(holders) - len(named)
    return " by " + ", ".join(named) + (f" and {more} more" if more > 0 else "")


def _worker_reasons(scene: Scene) -> list[Reason]:
    """Chunks that no budget holds back, against the workers there are to claim them."""
    full = full_groups(scene)
    free = sum(claimable(scene, r) for r in scene.runs if r.plan.source_group not in full)
    alive = scene.alive()
    idle = sum(w.running_task is None for w in alive)
    if not alive:
        return [_no_worker(scene, free)] if _unfinished(scene.runs) else []
    if not free:
        return []
    if idle:
        return [
            Reason(
                code=ReasonCode.CLAIMABLE_NOW,
                sentence=f"{counted(free, 'chunk')} can be claimed now and "
                f"{counted(idle, 'worker')} look for work: claiming is a matter of moments.",
            )
        ]
    return [
        Reason(
            code=ReasonCode.WORKERS_BUSY,
            sentence=f"{counted(free, 'chunk')} wait for a worker: {len(alive)} of {len(alive)} "
            f"{'is' if len(alive) == 1 else 'are'} busy. More workers would help.",
            next_command=command("worker", scene.campaign.config_path),
        )
    ]


def _unfinished(runs: Iterable[RunView]) -> bool:
    return any(run.status is RunStatus.IN_PROGRESS for run in runs)


def _no_worker(scene: Scene, free: int) -> Reason:
    waits = f"{counted(free, 'chunk')} could be claimed, but n" if free else "N"
    return Reason(
        code=ReasonCode.NO_LIVE_WORKER,
        sentence=f"{waits}o worker is alive: start a coordinator or a worker.",
        next_command=command("resume", scene.campaign.config_path),
    )


def _retry_reasons(scene: Scene, run: RunView) -> list[Reason]:
    waiting = [
        t
        for t in scene.of(run, TaskStatus.FAILED)
        if not spent(t) and (t.not_before_s or 0.0) > scene.now_s
    ]
    if not waiting:
        return []
    soonest = min(waiting, key=lambda t: t.not_before_s or 0.0)
    left_s = (soonest.not_before_s or 0.0) - scene.now_s
    return [
        Reason(
            code=ReasonCode.WAITING_FOR_RETRY,
            export_name=run.export_name,
            until_s=left_s,
            sentence=f"{counted(len(waiting), 'chunk')} of {run.export_name} failed and wait "
            f"before the next attempt; the first, chunk {soonest.chunk_index} "
            f"({soonest.error_class}, attempt {soonest.attempts} of {soonest.attempts_max}), "
            f"for {duration_text(left_s)} more.",
        )
    ]


def _lease_reasons(scene: Scene, run: RunView) -> list[Reason]:
    alive = {w.worker_id for w in scene.alive()}
    reasons = []
    for task in scene.of(run, TaskStatus.RUNNING):
        left_s = (task.lease_expires_at_s or 0.0) - scene.now_s
        name = task.owner_name or task.owner
        about = f"Chunk {task.chunk_index} of {run.export_name}"
        if left_s <= 0:
            code = ReasonCode.LEASE_EXPIRED
            says = f"{about}: the lease of {name} ran out; anyone idle takes it back."
        elif task.owner not in alive:
            code = ReasonCode.DEAD_WORKER_LEASE
            says = (
                f"{about} belongs to {name}, which is not heard from: its lease runs out in "
                f"{duration_text(left_s)}, then anyone takes it back."
            )
        else:
            continue
        reasons.append(
            Reason(code=code, export_name=run.export_name, until_s=max(left_s, 0.0), sentence=says)
        )
    return reasons


def _spent_reasons(scene: Scene, run: RunView) -> list[Reason]:
    failed = [t for t in scene.of(run, TaskStatus.FAILED) if spent(t)]
    if not failed:
        return []
    first, path = failed[0], scene.campaign.config_path
    return [
        Reason(
            code=ReasonCode.FAILED_FOR_GOOD,
            export_name=run.export_name,
            sentence=f"{counted(len(failed), 'chunk')} of {run.export_name} failed for good; "
            f"the first, chunk {first.chunk_index}, with {first.error_class}: "
            f"{(first.last_error or 'no message was recorded').rstrip('.')}. "
            f"{advice_for(first.error_class)}",
            next_command=f"{command('run', path)} --new"
            if any(needs_new_plan(task.error_class) for task in failed)
            else command("requeue", path, export_name=run.export_name),
        )
    ]


def _tail_reasons(run: RunView) -> list[Reason]:
    """What stands between the last commit and a completed run."""
    counts = run.counts
    name = run.export_name
    found: list[tuple[ReasonCode, str]] = []
    if counts.total != run.expected_tasks:
        says = (
            f"{name} has {counts.total} chunks but was planned with {run.expected_tasks}: "
            "it cannot finish as a success."
        )
        found.append((ReasonCode.LEDGER_MISMATCH, says))
    elif counts.completed == run.expected_tasks and run.finalize_fence:
        says = (
            f"All chunks of {name} are visible and a finalizer has taken the run; if it died, "
            "another takes over when its lease runs out."
        )
        found.append((ReasonCode.FINALIZE_LEASED, says))
    elif counts.completed == run.expected_tasks:
        says = f"All chunks of {name} are visible; anyone idle writes the manifest and finishes."
        found.append((ReasonCode.FINALIZE_WAITING, says))
    if counts.committed:
        says = (
            f"{counted(counts.committed, 'chunk')} of {name} are committed and wait to be "
            "published; their worker does it, or anyone idle."
        )
        found.append((ReasonCode.COMMITTED_UNPUBLISHED, says))
    return [Reason(code=code, export_name=name, sentence=says) for code, says in found]


def _nothing_waits(scene: Scene) -> tuple[Reason, ...]:
    running = sum(run.counts.running for run in scene.runs)
    said = (
        f"Nothing waits: every chunk that is left is being extracted ({running} running)."
        if running
        else "Nothing waits: the campaign is about to be settled."
    )
    return (Reason(code=ReasonCode.EVERYTHING_RUNNING, sentence=said),)
