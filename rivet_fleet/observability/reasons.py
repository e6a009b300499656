"""Why is this waiting, and what to do next? Pure answers, each with a stable code and a sentence.

Codes are part of ``status --json`` (schema version 1): they may be added to, never renamed.
Only the state database's clock is compared with leases and waits (F3).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from rivet_fleet.contracts.clock import BACKOFF_MAX_S
from rivet_fleet.contracts.events import EventName
from rivet_fleet.contracts.keys import RunId
from rivet_fleet.contracts.plan import ClaimPlace
from rivet_fleet.contracts.protection import SourceBudget
from rivet_fleet.contracts.state import (
    CampaignStatus,
    CampaignView,
    GroupView,
    JournalEntry,
    Outage,
    RunStatus,
    RunView,
    TaskStatus,
    TaskView,
    WorkerView,
)
from rivet_fleet.observability.units import bytes_text, counted, duration_text, rfc3339, scaled_text

# ------------------------------------------------------------------------------------------
# What explains the state of a campaign, the most telling first.

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
    DESTINATION_FULL = "destination_full"
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
    """What the state database said at one moment of its own clock, ``now_s``. ``tasks`` are those
    not pending and not completed, or a sample of them; pending ones are known from the runs'
    counts. ``workers`` are those that claim: a coordinator's own row would count as an idle one."""

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
    gone = {w.worker_id for w in scene.workers if w.gone}
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
                f"{about} belongs to {name}, whose process has ended: whoever works on its host "
                f"takes it back at once, others when its lease runs out in {duration_text(left_s)}."
                if task.owner in gone
                else f"{about} belongs to {name}, which is not heard from: its lease runs out in "
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


# ------------------------------------------------------------------------------------------
# What waits for what when the fleet follows waves, priorities or durations.
#
# Only campaigns whose configuration asked for an order have anything to say here; chunks that a
# full source group holds back wait for the group, not for their turn.

_BY_ORDER = {
    "priority": ReasonCode.HIGHER_PRIORITY_FIRST,
    "longest_first": ReasonCode.LONGER_CHUNKS_FIRST,
}


def order_reasons(scene: Scene) -> tuple[Reason, ...]:
    """For every export with claimable chunks: which export goes first, and why; and when two
    waves run at once, that this is meant."""
    if scene.campaign.status.over:
        return ()
    free = _free_runs(scene)
    if not free:
        return _overlap(scene)
    first = free[0]
    behind = (_behind(scene, run, first) for run in free[1:])
    return (*(reason for reason in behind if reason is not None), *_overlap(scene))


def _free_runs(scene: Scene) -> list[RunView]:
    """Runs with chunks that could be claimed now, in the order of handing out."""
    full = full_groups(scene)
    return [
        run for run in scene.runs if run.plan.source_group not in full and claimable(scene, run) > 0
    ]


def _behind(scene: Scene, run: RunView, first: RunView) -> Reason | None:
    """Why ``run`` is not first; None where the configuration's own order is all there is."""
    place, ahead = run.plan.place, first.plan.place
    if place is None or ahead is None:
        return None
    waits = f"{counted(claimable(scene, run), 'chunk')} of {run.export_name}"
    name = f"{first.export_name} ({counted(claimable(scene, first), 'chunk')} left to claim)"
    if ahead.wave != place.wave:
        code = ReasonCode.EARLIER_WAVE_FIRST
        says = f"{waits} belong to wave {place.wave}: wave {ahead.wave} goes first, now {name}."
    elif place.order not in _BY_ORDER:
        return None
    else:
        code = _BY_ORDER[place.order]
        says = f"{waits} come after {name}: {_comparison(place, ahead)}."
    return Reason(code=code, export_name=run.export_name, sentence=says)


def _comparison(place: ClaimPlace, ahead: ClaimPlace) -> str:
    if place.order == "longest_first":
        return (
            f"a chunk of it is expected to take {duration_text(ahead.chunk_work_s)}, "
            f"of this one {duration_text(place.chunk_work_s)}"
        )
    return f"priority {ahead.score} against {place.score}"


def _overlap(scene: Scene) -> tuple[Reason, ...]:
    """A later wave has begun while an earlier one still runs: nobody idles at its end."""
    running: dict[int, int] = {}
    for run in scene.runs:
        place = run.plan.place
        if run.status is RunStatus.IN_PROGRESS and place and place.wave and run.counts.running:
            running[place.wave] = running.get(place.wave, 0) + run.counts.running
    if len(running) < 2:
        return ()
    earliest = min(running)
    later = sum(number for wave, number in running.items() if wave != earliest)
    says = (
        f"Wave {earliest} still runs {counted(running[earliest], 'chunk')}; workers that found "
        f"nothing more to claim in it went on with {counted(later, 'chunk')} of later waves."
    )
    return (Reason(code=ReasonCode.WAVES_OVERLAP, sentence=says),)


# ------------------------------------------------------------------------------------------
# A source that does not come back keeps a campaign active for ever, and so do workers that lack
# something: this says so.

_UNFIT_SHOWN = 20
_TOLD_LATE_S = 2.0
"""Between one word of who waits for room and the next."""


def runs_by_source(runs: Sequence[RunView]) -> dict[str, tuple[RunId, ...]]:
    """The runs of each source that still has something to read. A finished run of the same
    source belongs to it: its last chunk is a sign that the source was there."""
    found: dict[str, list[RunView]] = {}
    for run in runs:
        found.setdefault(run.plan.read.source, []).append(run)
    return {
        source: tuple(run.run_id for run in members)
        for source, members in found.items()
        if any(run.status is RunStatus.IN_PROGRESS and _unread(run) for run in members)
    }


def outage_reasons(scene: Scene, outages: Mapping[str, Outage]) -> list[Reason]:
    """One for each source that is away; nothing once the campaign is over."""
    if scene.campaign.status.over:
        return []
    return [_away(scene, source, outage) for source, outage in outages.items()]


def held_reasons(scene: Scene, entries: Sequence[JournalEntry]) -> list[Reason]:
    """One for each source whose budget of retries is spent at this moment; nothing once the
    campaign is over. ``entries``: when that was told lately."""
    if scene.campaign.status.over:
        return []
    until_s: dict[str, float] = {}
    for entry in entries:
        source, wait_s = str(entry.data.get("source")), entry.data.get("wait_s")
        if isinstance(wait_s, int | float):
            until_s[source] = max(until_s.get(source, 0.0), entry.at_s + wait_s - scene.now_s)
    return [_held(source, left_s) for source, left_s in until_s.items() if left_s > 0]


def full_reasons(scene: Scene, entries: Sequence[JournalEntry]) -> list[Reason]:
    """One for each worker that waits for room at this moment; nothing once the campaign is over.
    ``entries``: when that was told lately, oldest first."""
    if scene.campaign.status.over:
        return []
    last = {entry.worker_id: entry for entry in entries}
    return [
        _full(entry, scene.now_s) for entry in last.values() if _waits_until(entry) > scene.now_s
    ]


def _waits_until(entry: JournalEntry) -> float:
    wait_s = entry.data.get("wait_s")
    known = isinstance(wait_s, int | float) and 0 <= wait_s <= BACKOFF_MAX_S
    return entry.at_s + float(str(wait_s)) + _TOLD_LATE_S if known else 0.0


def _full(entry: JournalEntry, now_s: float) -> Reason:
    return Reason(
        code=ReasonCode.DESTINATION_FULL,
        export_name=entry.export_name,
        sentence=f"{entry.message.rstrip('.')[:1].upper()}{entry.message.rstrip('.')[1:]}. No "
        "attempt is spent while campaign.full_patience_s lasts; make room, and it goes on by "
        "itself.",
        until_s=max(0.0, _waits_until(entry) - _TOLD_LATE_S - now_s),
    )


def _held(source: str, left_s: float) -> Reason:
    return Reason(
        code=ReasonCode.RETRIES_HELD,
        sentence=f"Source {source} fails more often than the fleet may try it again, over all "
        f"hosts and campaigns: tries wait their turn, one for another {duration_text(left_s)}. "
        "Chunks keep what they have read; the journal's source.retried and "
        "chunk.failed say what fails.",
        until_s=left_s,
    )


def unfit_reasons(scene: Scene, entries: Sequence[JournalEntry]) -> list[Reason]:
    """One for each process, by name and host, that refused to work and has not begun anew since;
    nothing once the campaign is over. ``entries``: the starts and refusals, oldest first."""
    if scene.campaign.status.over:
        return []
    last = {(str(e.data.get("worker_name")), str(e.data.get("host_id"))): e for e in entries}
    refused = [
        (who, entry) for who, entry in last.items() if entry.event == EventName.WORKER_REFUSED.value
    ]
    return [_unfit(scene, *who, entry) for who, entry in refused[-_UNFIT_SHOWN:]]


def _unfit(scene: Scene, name: str, host_id: str, entry: JournalEntry) -> Reason:
    return Reason(
        code=ReasonCode.WORKER_UNFIT,
        sentence=f"Worker {name} on {host_id} ended {duration_text(scene.now_s - entry.at_s)} ago "
        f"without spending an attempt ({entry.data.get('code')}): {entry.message.rstrip('.')}.",
        next_command=command("resume", scene.campaign.config_path),
    )


def _unread(run: RunView) -> int:
    return run.counts.pending + run.counts.running + run.counts.failed


def _away(scene: Scene, source: str, outage: Outage) -> Reason:
    running = sum(run.counts.running for run in scene.runs if run.plan.read.source == source)
    now = f" ({counted(running, 'chunk')} at this moment)" if running else ""
    return Reason(
        code=ReasonCode.SOURCE_AWAY,
        sentence=f"Source {source} is away since {rfc3339(outage.since_s)} "
        f"({duration_text(scene.now_s - outage.since_s)}): {counted(outage.tries, 'chunk')} could "
        f"not connect and went back, the last {duration_text(scene.now_s - outage.last_s)} ago: "
        f"{outage.message.rstrip('.')}. Nothing is lost and no attempt is spent; it is tried "
        f"again{now} until it answers. Bring the source, or the way to it, back; "
        "or give the campaign up with `cancel`.",
        next_command=command("doctor", scene.campaign.config_path),
    )


# ------------------------------------------------------------------------------------------
# Source groups in words: what they may do, and what they do now.


def budget_line(budget: SourceBudget) -> str:
    """One line: the group and its limits."""
    limits = _limits(
        budget.chunks_max, budget.connections_max, budget.rows_per_s, budget.bytes_per_s
    )
    return f"{budget.group_name}: {', '.join(limits)}"


def group_words(group: GroupView) -> str:
    """How many chunks run, here and elsewhere, and what limits them."""
    limits = _limits(group.slots_max, group.connections_max, group.rows_per_s, group.bytes_per_s)
    others = group.running - group.running_here
    elsewhere = f" ({others} of other campaigns)" if others > 0 else ""
    if group.monitored:
        limits.append(f"governed by {group.governor}" if group.governor else "not governed now")
    return f"{group.running} running{elsewhere}, {', '.join([*limits, *group.readings()])}"


def rate_words(group: GroupView) -> str:
    """The group's rates, such as ``50k rows/s, 20.0 MB/s``."""
    return ", ".join(_limits(None, None, group.rows_per_s, group.bytes_per_s))


def _limits(
    chunks: int | None, connections: int | None, rows_per_s: float | None, bytes_per_s: float | None
) -> list[str]:
    said = []
    if chunks is not None:
        said.append(f"{chunks} slots")
    if connections is not None:
        said.append(f"{connections} connections")
    if rows_per_s is not None:
        said.append(f"{scaled_text(round(rows_per_s))} rows/s")
    if bytes_per_s is not None:
        said.append(f"{bytes_text(round(bytes_per_s))}/s")
    return said or ["no limit"]


# ------------------------------------------------------------------------------------------
# What the governor, or a rate, does to a campaign's source groups, with the figures.


def protection_reasons(scene: Scene) -> list[Reason]:
    """Every group that is paused, shed or paced; nothing once the campaign is over."""
    if scene.campaign.status.over:
        return []
    return [
        Reason(code=code, sentence=said, until_s=until_s)
        for group in scene.groups
        for code, said, until_s in _protected(scene, group)
    ]


def _protected(scene: Scene, group: GroupView) -> Iterator[tuple[ReasonCode, str, float | None]]:
    name = f"Source group {group.group_name}"
    if group.paused is not None or group.unwatched(scene.now_s):
        why = group.paused or "nobody watches the source, and on_unreadable is pause"
        left_s = None if group.resumes_at_s is None else group.resumes_at_s - scene.now_s
        opens = "" if left_s is None else f"; it opens in {duration_text(left_s)}"
        yield ReasonCode.SOURCE_GROUP_PAUSED, f"{name} is paused: {why}{opens}.", left_s
        return
    most = group.slots_max
    if group.permits is not None and most is not None and group.permits < most:
        why = ", ".join(group.readings(above="calm")) or "it regains one after calm samples"
        said = (
            f"{name} may run {group.permits} of {most} chunks, pages at "
            f"{group.page_share:.0%} of their size: {why}."
        )
        yield ReasonCode.SOURCE_GROUP_SHED, said, None
    if group.running and (group.rows_per_s is not None or group.bytes_per_s is not None):
        yield ReasonCode.SOURCE_GROUP_PACED, f"{name} reads at its rate: {rate_words(group)}.", None


# ------------------------------------------------------------------------------------------
# What to do next: the exact commands, and one sentence per error class. One home for both.

PROGRAM = "rivet-fleet"


@dataclass(frozen=True, slots=True, kw_only=True)
class NextStep:
    """A command to type and why."""

    command: str
    why: str


def command(verb: str, config_path: str, *, export_name: str | None = None) -> str:
    """``rivet-fleet verb -c path [-e export]``, quoted for a shell."""
    words = [PROGRAM, *verb.split(), "-c", config_path]
    words += ["-e", export_name] if export_name else []
    return shlex.join(words)


ADVICE: dict[str, str] = {
    "SourceUnavailable": "Check that the source database is up and reachable, then requeue.",
    "SourceBusy": "The source asked for patience: lower the source group's slots, then requeue.",
    "RelationLocked": "Another session holds a lock on the table: requeue when that has ended.",
    "SourceRefused": "Fix the credentials, the privilege or the SQL, then requeue.",
    "StatementTimeout": "Raise statement_timeout_s or make pages and chunks smaller, then requeue.",
    "UnsupportedType": "Cast the named columns under `columns:` and start a new campaign.",
    "ValueTooLarge": "Give the worker more memory, or leave the column out, then requeue.",
    "MalformedData": "The server's bytes break its own format: look at the page it names.",
    "DestinationUnavailable": "Check the destination, then requeue.",
    "DestinationRefused": "Fix the path or the privilege at the destination, then requeue.",
    "DestinationFull": "Make room at the destination or in the spool directory, then requeue.",
    "StateUnavailable": "Check the state database; running work continues by itself.",
    "StateRefused": "Bring state database and program to the same version.",
    "DataIntegrityError": "Do not use the files of this run before `validate` is clean.",
    "SchemaDrift": "The table changed since it was planned: start a new campaign.",
}
"""By the error class stored with a failed chunk. Anything else gets ADVICE_OTHERWISE."""

_PLANNED_ANEW = frozenset(("SchemaDrift", "UnsupportedType"))

ADVICE_OTHERWISE = "Look at the journal around the failure, then requeue."


def needs_new_plan(error_class: str | None) -> bool:
    """True where the plan itself no longer fits the source: another try of it fails again."""
    return error_class in _PLANNED_ANEW


def advice_for(error_class: str | None) -> str:
    """One sentence on what helps against this class of error."""
    return ADVICE.get(error_class or "", ADVICE_OTHERWISE)
