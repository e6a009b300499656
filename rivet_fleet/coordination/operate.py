"""An operator's verbs: requeue, cancel, gc. Each says what it did and loses nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rivet_fleet.contracts.clock import BACKOFF_MAX_S, RETRY_WAIT_MAX_S
from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.identity import CampaignIdentity
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.manifest import (
    PartStatus,
)
from rivet_fleet.contracts.protection import SourceBudget
from rivet_fleet.contracts.state import (
    CampaignStatus,
    CampaignView,
    JournalEntry,
    JournalFilter,
    RunStatus,
    RunView,
    TaskStatus,
    TaskView,
)
from rivet_fleet.coordination.commit import (
    Published,
    reopen_chunk,
)
from rivet_fleet.coordination.finalize import finalize_run
from rivet_fleet.coordination.fleet import COORDINATOR, Fleet, seen_workers
from rivet_fleet.coordination.names import (
    left_of_repairs,
    reached_end,
    retract,
    retract_all,
    withdraw_success,
)
from rivet_fleet.errors import StateRefused, StateTampered, UsageError
from rivet_fleet.execution.destination import Presence
from rivet_fleet.observability.reasons import Scene, runs_by_source
from rivet_fleet.observability.status import StatusReport, explain
from rivet_fleet.planning.config.connections import present_identity
from rivet_fleet.planning.config.loaded import LoadedConfig

if TYPE_CHECKING:
    from rivet_fleet.persistence.copies import CopiedState


@dataclass(frozen=True, slots=True, kw_only=True)
class Requeued:
    """How many chunks wait again: failed ones, and delivered ones whose parts were lost."""

    failed: int
    lost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """Who takes responsibility, and why."""

    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedRun:
    """The acceptance that holds, whoever's it is, and how the run stands now."""

    run_id: str
    created: bool
    by: str
    reason: str
    gates: tuple[str, ...]
    status: str
    error: str | None


def requeue(
    fleet: Fleet,
    campaign_id: CampaignId,
    *,
    export_name: str | None = None,
    chunk_index: int | None = None,
    lost: bool = False,
) -> Requeued:
    """Put failed chunks back into the queue with a fresh budget; with ``lost`` also the
    delivered ones whose files are gone or changed. Raises StateRefused for unknown names, and for a
    cancelled campaign before anything was changed."""
    runs = selected_runs(fleet, campaign_id, export_name)
    campaign = fleet.store.campaign(campaign_id)
    if campaign is not None and campaign.status is CampaignStatus.CANCELLED:
        # Nobody would read again what was taken back.
        raise StateRefused(
            f"campaign {campaign_id} was cancelled: nothing was changed",
            hint="submit the configuration again as a new campaign",
        )
    for run in runs if lost else ():
        _refuse_beside_another(fleet, run)
    reopened = sum(_reopen_lost(fleet, run, chunk_index) for run in runs) if lost else 0
    failed = fleet.store.requeue(campaign_id, export_name=export_name, chunk_index=chunk_index)
    return Requeued(failed=failed, lost=reopened)


def cancel(fleet: Fleet, campaign_id: CampaignId) -> int:
    """Give a campaign up, and take back what its runs say of themselves that were at their end; one
    that was being repaired stands as it was before, and its campaign is completed again (ADR 0032).
    How many running chunks were taken back. Again it does what is left. Raises StateRefused, and
    DestinationError where a place is away: the campaign is cancelled then."""
    # Before the state says so: afterwards it is not known which of them were in progress.
    ended = _at_their_end(fleet, campaign_id)
    try:
        taken = fleet.store.cancel(campaign_id)
    except StateRefused:
        # A repair was given up before, by somebody who died behind the state's transaction.
        left = left_of_repairs(fleet, fleet.store.runs(campaign_id))
        if not left:
            raise
        retract_all(fleet, left)
        return 0
    retract_all(fleet, ended)
    with contextlib.suppress(StateTampered):
        retract_all(fleet, left_of_repairs(fleet, fleet.store.runs(campaign_id)))
    return taken


def reset(fleet: Fleet, campaign_name: str, names: Collection[str], *, chunks_only: bool) -> int:
    """Forget runs and chunks of these exports, and their marks unless ``chunks_only``; how many
    runs. What those in progress say of themselves is taken back first. Raises StateRefused, also
    while somebody ends one, and DestinationError: nothing was forgotten."""
    ended = [
        run
        for campaign in fleet.store.campaigns(name=campaign_name)
        for run in _at_their_end(fleet, campaign.campaign_id)
        if run.export_name in names and run.status is RunStatus.IN_PROGRESS
    ]
    # Before the state forgets them, which is the only one that knows of them. Whoever holds the
    # run's end while that goes on can be sure that nobody completes it.
    for run in ended:
        lease = fleet.store.lease_finalize(run.run_id, fleet.identity, fleet.settings.lease_ttl_s)
        if lease is None and run.counts.completed == run.expected_tasks:
            raise StateRefused(
                f"somebody is ending run {run.run_id} of export {run.export_name}; nothing was "
                "forgotten",
                hint="again when it is completed, or when the lease of whoever died has run out",
            )
        retract(fleet, fleet.destination(run.run_id, run), run)
    return sum(
        fleet.store.reset_export(campaign_name, name, chunks_only=chunks_only)
        for name in sorted(names)
    )


def _at_their_end(fleet: Fleet, campaign_id: CampaignId) -> list[RunView]:
    """What was edited is given up all the same: where it delivers is not known any more."""
    with contextlib.suppress(StateTampered):
        return [run for run in fleet.store.runs(campaign_id) if reached_end(run)]
    return []


def accept(fleet: Fleet, campaign_id: CampaignId, *, export_name: str, word: Word) -> AcceptedRun:
    """Deliver a run that its quality gates refused, because an operator says that the data are
    right. Nothing is read again: only the run's end is done, here and now, or by whoever comes
    next (S6). Raises StateRefused for any other run."""
    (run,) = selected_runs(fleet, campaign_id, export_name)
    accepted = fleet.patience.call(
        "accept the run",
        lambda: fleet.store.accept_run(run.run_id, by=word.by, reason=word.reason),
    )
    finalize_run(fleet, run.run_id)
    fleet.patience.call("settle the campaign", lambda: fleet.store.finish_campaign(campaign_id))
    after = fleet.store.run(run.run_id) or run
    return AcceptedRun(
        run_id=run.run_id,
        created=accepted.created,
        by=accepted.acceptance.by,
        reason=accepted.acceptance.reason,
        gates=tuple(gate.sentence for gate in accepted.acceptance.gates),
        status=after.status.value,
        error=after.error,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedCampaigns:
    """Whose the campaigns of a name are now; ``created`` False when they were already."""

    campaign_name: str
    created: bool
    campaigns: int
    before: CampaignIdentity | None
    after: CampaignIdentity


def accept_campaigns(fleet: Fleet, loaded: LoadedConfig, word: Word) -> AcceptedCampaigns:
    """An operator's word that campaigns of this name belong to this configuration (N3). Raises
    StateRefused when there is none, or while somebody works on one."""
    name, now = loaded.campaign_name, present_identity(loaded)
    known = fleet.store.campaigns(name=name)
    if not known:
        raise StateRefused(
            f"there is no campaign of {name} in namespace {fleet.store.namespace}",
            hint="`rivet-fleet run` starts the first one",
        )
    before = next((one.identity for one in known if one.identity is not None), None)
    shared = fleet.store.shared
    created = any(
        one.identity is None or not one.identity.is_of(now, shared=shared) for one in known
    )
    event = Event(
        name=EventName.CAMPAIGN_ACCEPTED,
        worker_id=fleet.identity.worker_id,
        message=f"campaigns of {name} belong to {now.shown}",
        data={
            "by": word.by,
            "reason": word.reason,
            "campaigns": [one.campaign_id for one in known],
            "before": before.shown if before else "",
            "after": now.shown,
        },
    )
    if created:
        fleet.patience.call(
            "accept the campaigns", lambda: fleet.store.accept_campaigns(name, now, event)
        )
    return AcceptedCampaigns(
        campaign_name=name, created=created, campaigns=len(known), before=before, after=now
    )


def copy_state(source_url: str, target_url: str) -> CopiedState:
    """Make a PostgreSQL state of a SQLite one, whole, and retire the file (B6). Raises
    StateRefused, and changes nothing, where either is not what it should be or anybody works."""
    # Imported here: no other verb declares every table.
    from rivet_fleet.persistence import copies

    return copies.copy_state(source_url, target_url)


def selected_runs(fleet: Fleet, campaign_id: CampaignId, export_name: str | None) -> list[RunView]:
    """The run of an export, all without a name. Raises StateRefused for an unknown one."""
    runs = fleet.store.runs(campaign_id)
    if export_name is None:
        return runs
    chosen = [run for run in runs if run.export_name == export_name]
    if not chosen:
        known = ", ".join(run.export_name for run in runs)
        raise StateRefused(
            f"campaign {campaign_id} has no export {export_name}", hint=f"its exports: {known}"
        )
    return chosen


def planned_as(fleet: Fleet, loaded: LoadedConfig, name: str) -> set[str]:
    """The names that runs of an export have in the state: its own, and those of its partitions."""
    found = set()
    for campaign in fleet.store.campaigns(name=loaded.campaign_name):
        # A plan that was edited names nothing, and can be forgotten all the same.
        with contextlib.suppress(StateTampered):
            for run in fleet.store.runs(campaign.campaign_id):
                if name in (run.export_name, run.plan.family):
                    found.add(run.export_name)
    return found


def _refuse_beside_another(fleet: Fleet, run: RunView) -> None:
    """Before any of them is withdrawn: an export has one run in progress. Raises StateRefused."""
    other = fleet.store.other_in_progress(run.run_id)
    if other is not None:
        raise StateRefused(
            f"run {other} of the same export is in progress: run {run.run_id} cannot be continued "
            "beside it; nothing was changed",
            hint="`rivet-fleet resume` ends it; then again",
        )


def _reopen_lost(fleet: Fleet, run: RunView, chunk_index: int | None) -> int:
    destination = fleet.destination(run.run_id)
    wanted = {
        part.chunk_index
        for part in fleet.store.parts(run.run_id, chunk_index=chunk_index)
        if part.status is PartStatus.PUBLISHED
        and destination.prove(part.path, part.digest) is not Presence.VISIBLE
    }
    # Also of a run in progress: its finalizer may have died behind the marks, and of a repair
    # the former generation is what readers see.
    if wanted:
        # Before the first of them: nobody may read a folder as complete whose rows are on their
        # way out.
        withdraw_success(destination, run)
    return sum(_reopen(fleet, run, index) for index in sorted(wanted))


def _reopen(fleet: Fleet, run: RunView, chunk_index: int) -> bool:
    task = fleet.store.task(run.run_id, chunk_index)
    if task is None or task.status is not TaskStatus.COMPLETED:
        return False
    outcome = reopen_chunk(
        fleet,
        task_id=task.task_id,
        run_id=run.run_id,
        chunk_index=chunk_index,
        fence=task.fence,
        reason="an operator found a part of it lost",
    )
    return outcome is Published.REOPENED


def budgets_named(
    fleet: Fleet, loaded: LoadedConfig, group_name: str | None
) -> dict[str, SourceBudget]:
    """The stored budgets by group, of one group alone where it is named. Raises UsageError for a
    group that neither the state nor the configuration has."""
    stored = {budget.group_name: budget for budget in fleet.store.budgets()}
    if group_name is None:
        return stored
    exports = (export.source_group for export in loaded.config.exports)
    known = sorted({*stored, *loaded.config.source_groups, *filter(None, exports)})
    if group_name not in known:
        raise UsageError(
            f"there is no source group {group_name!r}",
            hint=f"the groups: {', '.join(known) or 'none'}",
        )
    return {name: budget for name, budget in stored.items() if name == group_name}


def change_budget(
    fleet: Fleet, loaded: LoadedConfig, group_name: str, changes: Mapping[str, float | int | None]
) -> None:
    """Change some limits of a group; the others stay. Raises UsageError for a budget that leaves
    no connection for a chunk, and for a group that is none."""
    stored = budgets_named(fleet, loaded, group_name)
    before = stored.get(group_name, SourceBudget(group_name=group_name))
    budget = replace(before, **changes)  # type: ignore[arg-type]
    if budget.ceiling == 0:
        raise UsageError(
            f"{budget.connections_max} connections leave none for a chunk",
            hint=f"{budget.connections_reserved} are kept for planning, checks and the monitor",
        )
    fleet.store.set_budgets([budget], by=fleet.identity.worker_id)


# ------------------------------------------------------------------------------------------
# Reading the state for people.

_TASKS_SHOWN = 500
_PROCESSES_SHOWN = 500
_BEGAN = JournalFilter(events=(EventName.WORKER_STARTED.value, EventName.WORKER_REFUSED.value))


def campaign_status(fleet: Fleet, view: CampaignView) -> StatusReport:
    """One moment of a campaign, with the reasons for whatever waits."""
    store = fleet.store
    runs = store.runs(view.campaign_id)
    tasks: list[TaskView] = []
    for run in runs:
        for status in (TaskStatus.RUNNING, TaskStatus.COMMITTED, TaskStatus.FAILED):
            if _count(run, status):
                tasks += store.tasks(run.run_id, status=status, limit=_TASKS_SHOWN)
    now_s = store.now_s()

    def told(only: JournalFilter) -> list[JournalEntry]:
        return store.journal(
            campaign_id=view.campaign_id, only=only, limit=_PROCESSES_SHOWN, newest=True
        )

    def lately(name: EventName, within_s: float) -> list[JournalEntry]:
        return told(JournalFilter(events=(name.value,), since_s=now_s - within_s))

    workers = seen_workers(fleet)
    scene = Scene(
        campaign=view,
        runs=runs,
        tasks=tasks,
        workers=[worker for worker in workers if not worker.name.startswith(COORDINATOR)],
        groups=store.groups(view.campaign_id),
        now_s=now_s,
    )
    return explain(
        scene,
        outages={
            source: outage
            for source, run_ids in runs_by_source(runs).items()
            if (outage := store.outage(view.campaign_id, run_ids)) is not None
        },
        began=told(_BEGAN),
        held=lately(EventName.SOURCE_HELD, RETRY_WAIT_MAX_S),
        full=lately(EventName.DESTINATION_FULL, 2 * BACKOFF_MAX_S),
    )


def _count(run: RunView, status: TaskStatus) -> int:
    count: int = getattr(run.counts, status.value)
    return count
