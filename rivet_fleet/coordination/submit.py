"""From a configuration to a stored campaign: facts, plan, checks, one transaction."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from rivet_fleet import __version__
from rivet_fleet.contracts.artifact import Freshness, PlanArtifact, by_name, freshness
from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.identity import new_campaign_id
from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.killpoints import KillPoint, reach
from rivet_fleet.contracts.places import stranger_at
from rivet_fleet.contracts.plan import CampaignPlan
from rivet_fleet.contracts.state import (
    CampaignStatus,
    CampaignView,
    RunStatus,
    RunView,
    TaskStatus,
)
from rivet_fleet.coordination.coordinator import live_coordinator
from rivet_fleet.coordination.finalize import tell_schema_changes
from rivet_fleet.coordination.fleet import Fleet, refuse_other, refuse_other_owner
from rivet_fleet.coordination.inquiry import inquiry_of, undeliverable
from rivet_fleet.errors import (
    CampaignIncomplete,
    ConfigError,
    DestinationError,
    StateRefused,
    UsageError,
)
from rivet_fleet.planning.change import refuse_drift
from rivet_fleet.planning.config.connections import source_connection
from rivet_fleet.planning.config.digests import changed_exports
from rivet_fleet.planning.config.loaded import LoadedConfig
from rivet_fleet.planning.config.protection import budgets_of


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """One export that a campaign was planned without, because its relation was locked or
    a column of it cannot be read as it was asked for."""

    export_name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """Which campaign it is, and whether this call created it."""

    campaign_id: CampaignId
    created: bool
    left_out: tuple[LeftOut, ...] = ()
    """Exports of the configuration that the campaign does not have."""


def submit(
    fleet: Fleet, loaded: LoadedConfig, wanted: CampaignId | None, *, anew: bool = False
) -> Submitted:
    """Plan and store a campaign, or continue the one that is there (idempotent).

    A given id that exists, or, without an id, an active campaign of the same name, is
    continued by its stored plan; ConfigError when the configuration has changed since,
    StateRefused when campaigns of this name belong to another configuration (N3). One
    that ended incomplete is the operator's to decide about: CampaignIncomplete. ``anew``
    starts a new campaign in place of whatever is unfinished, which is given up in the
    transaction that stores it: a plan that fails costs nothing (B5).
    """
    refuse_other_owner(fleet.store, loaded)
    unfinished = _unfinished(fleet, loaded)
    existing = _existing(fleet, [] if anew else unfinished, wanted)
    if existing is not None:
        refuse_other(fleet.store, loaded, existing)
        _refuse_changed(fleet, loaded, existing)
        go_on(fleet, loaded, existing.campaign_id)
        return Submitted(
            campaign_id=existing.campaign_id,
            created=False,
            left_out=_not_planned(fleet, loaded, existing.campaign_id),
        )
    campaign_id = wanted or new_campaign_id(fleet.clock.now_s(), fleet.store.namespace)
    replacing = [campaign.campaign_id for campaign in unfinished] if anew else []
    plan, left_out = plan_now(fleet, loaded, campaign_id)
    stored = store_plan(fleet, plan, replacing=replacing)
    for one in left_out:
        fleet.emit(
            Event(
                name=EventName.EXPORT_LEFT_OUT,
                campaign_id=stored.campaign_id,
                export_name=one.export_name,
                worker_id=fleet.identity.worker_id,
                message=fleet.redact(one.reason),
            )
        )
    return replace(stored, left_out=left_out)


def _not_planned(
    fleet: Fleet, loaded: LoadedConfig, campaign_id: CampaignId
) -> tuple[LeftOut, ...]:
    """A stored plan is never added to: what it was made without, a later one delivers."""
    runs = fleet.store.runs(campaign_id)
    planned = {run.plan.family or run.export_name for run in runs}
    return tuple(
        LeftOut(export_name=export.name, reason="the stored plan was made without it")
        for export in loaded.config.exports
        if export.name not in planned
    )


def store_plan(
    fleet: Fleet,
    plan: CampaignPlan,
    *,
    any_mark: bool = False,
    replacing: Sequence[CampaignId] = (),
) -> Submitted:
    """Store a decided campaign in place of those it is ``replacing``: one transaction, and a
    no-op when it is there already.

    Raises StateRefused when an export is still in progress elsewhere, or when its high-water
    mark has moved since it was planned and not ``any_mark``; SchemaDrift when columns have
    changed and ``on_schema_drift`` is fail."""
    refuse_drift(plan)
    reach(KillPoint.CAMPAIGN_PLANNED)
    outcome = fleet.patience.call(
        "submit the campaign",
        lambda: fleet.store.submit(plan, any_mark=any_mark, replacing=replacing),
    )
    fleet.patience.call("lift a halt", lambda: fleet.store.lift_halt(plan.campaign_id))
    reach(KillPoint.CAMPAIGN_SUBMITTED)
    for run in plan.runs if outcome.created else ():
        tell_schema_changes(fleet, outcome.campaign_id, run.plan)
    return Submitted(campaign_id=outcome.campaign_id, created=outcome.created)


def go_on(fleet: Fleet, loaded: LoadedConfig, campaign_id: CampaignId) -> None:
    """An operator's word for a stored campaign: the budgets of this configuration count from now
    on, for every campaign on the state database, and what a governor stopped may run again. A
    folder of its destinations that is gone is made anew, because a worker makes none."""
    budgets, by = budgets_of(loaded), fleet.identity.worker_id
    if budgets:
        fleet.patience.call("store the budgets", lambda: fleet.store.set_budgets(budgets, by=by))
    fleet.patience.call("lift a halt", lambda: fleet.store.lift_halt(campaign_id))
    for run in fleet.patience.call("read the runs", lambda: fleet.store.runs(campaign_id)):
        if run.status is RunStatus.IN_PROGRESS:
            plan = fleet.planned_run(run.run_id).plan
            # What else may be wrong with it, workers and finalizers find and tell.
            with (
                suppress(DestinationError),
                closing(fleet.open_destination(plan.destination)) as it,
            ):
                it.check()


def _unfinished(fleet: Fleet, loaded: LoadedConfig) -> list[CampaignView]:
    """Campaigns of this name that are active or ended incomplete, newest first."""
    open_ends = (CampaignStatus.ACTIVE, CampaignStatus.INCOMPLETE)
    return [c for c in fleet.store.campaigns(name=loaded.campaign_name) if c.status in open_ends]


def _existing(
    fleet: Fleet, unfinished: list[CampaignView], wanted: CampaignId | None
) -> CampaignView | None:
    """The campaign to continue. Raises CampaignIncomplete for one that only waits for a verb."""
    if wanted is not None and (known := fleet.store.campaign(wanted)) is not None:
        return known
    for campaign in unfinished:
        if campaign.status is CampaignStatus.INCOMPLETE:
            raise _incomplete(campaign, fleet.store.runs(campaign.campaign_id))
    return unfinished[0] if unfinished and wanted is None else None


def _incomplete(campaign: CampaignView, runs: Sequence[RunView]) -> CampaignIncomplete:
    failed = sum(run.counts.failed for run in runs)
    refused = [run.export_name for run in runs if run.status is RunStatus.FAILED]
    told = [f"{failed} chunks failed"] if failed or not refused else []
    told += [f"not delivered: {', '.join(refused)}"] if refused else []
    finish = "`rivet-fleet requeue` and `resume` finish it, " if failed else ""
    if refused and not failed:
        finish = "`rivet-fleet accept` delivers it as it is, "
    return CampaignIncomplete(
        f"campaign {campaign.campaign_id} ended incomplete: {'; '.join(told)}",
        hint=f"`rivet-fleet status` says why; {finish}`--new` gives it up and starts a new "
        "campaign",
        code="RIVET_CAMPAIGN_INCOMPLETE",
    )


def _refuse_changed(fleet: Fleet, loaded: LoadedConfig, existing: CampaignView) -> None:
    if existing.config_digest == loaded.digest:
        return
    runs = fleet.store.runs(existing.campaign_id)
    planned = {run.plan.family or run.export_name: run.plan for run in runs}
    before = {name: plan.settings_digest for name, plan in planned.items()}
    changed = changed_exports(before, loaded.sections)
    raise ConfigError(
        f"{loaded.path.name} has changed since campaign {existing.campaign_id} was planned from "
        f"it: {', '.join(changed) or 'the order of exports or the name'}",
        hint="a campaign keeps to its stored plan: `rivet-fleet resume` finishes it as planned, "
        "`rivet-fleet cancel` gives it up so that the new configuration can be submitted",
        code="RIVET_CONFIG_CHANGED",
    )


def plan_now(
    fleet: Fleet, loaded: LoadedConfig, campaign_id: CampaignId, names: Sequence[str] = ()
) -> tuple[CampaignPlan, tuple[LeftOut, ...]]:
    """Ask about the named exports, all by default, plan, and refuse what could not be delivered.
    What is one export's own trouble leaves that one out, unless it is everything.

    Nothing is written anywhere but a probe at each destination. Raises ConfigError,
    SourceError, UnsupportedType, DestinationError.
    """
    with inquiry_of(fleet, loaded) as inquiry:
        answers = inquiry.inquire(names, campaign_id=campaign_id, now_s=fleet.clock.now_s())
    plan = answers.decided().plan
    check_deliverable(fleet, plan)
    for planned in plan.runs:
        fleet.tell(
            EventName.EXPORT_PLANNED,
            f"{planned.plan.export_name}: {len(planned.chunks)} chunks, {planned.plan.reason}",
            export_name=planned.plan.export_name,
            chunks=len(planned.chunks),
            warnings=list(planned.plan.warnings),
        )
    return plan, tuple(
        LeftOut(export_name=one.export_name, reason=one.reason) for one in answers.refused
    )


def check_deliverable(fleet: Fleet, plan: CampaignPlan) -> None:
    """Refuse what could not be written, before the first row is read. Raises ConfigError,
    UnsupportedType, DestinationError; leaves nothing behind but a probe that is removed."""
    namespace = fleet.store.namespace
    for refused in undeliverable(plan, fleet.open_destination, namespace, writes=True):
        raise refused.error


# ------------------------------------------------------------------------------------------
# ``apply``: store exactly what a plan says, or refuse. Nothing is decided anew (PA1).

_PLAN_ANEW = "`rivet-fleet plan` makes a new plan"


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedRun:
    """One run of a plan that was applied before, as it stands."""

    run_id: RunId
    export_name: str
    status: RunStatus
    rows: int
    bytes: int
    chunks_completed: int
    chunks_expected: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Already:
    """What a plan that was applied before has become. ``by``: who works on it now, in words;
    empty when it is completed."""

    campaign_id: CampaignId
    status: CampaignStatus
    by: str
    runs: tuple[AppliedRun, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """``warnings`` are for people; what was forced stands in the journal as well. ``already``:
    there is nothing left to do, and nothing was stored."""

    submitted: Submitted
    warnings: tuple[str, ...]
    already: Already | None = None


def config_of(named: str, plan_path: Path) -> tuple[Path, str | None]:
    """Where the configuration that a plan names is: where it was, else beside the plan, with a
    word (PA7).

    Raises UsageError when it is in neither place, and when it is not this user's (or root's): who
    writes a plan does not choose by it whose state and whose key are believed.
    """
    recorded = Path(named)
    if recorded.is_file():
        return _own(recorded), None
    beside = plan_path.absolute().parent / recorded.name
    if beside.is_file():
        return _own(beside), f"{recorded} is not here: using {beside}, beside the plan"
    raise UsageError(
        f"the configuration {recorded} of this plan is not here",
        hint="name it with -c: it knows the secrets, the state database and the workers",
    )


def _own(config: Path) -> Path:
    whose = config.stat().st_uid
    what = f"belongs to user {whose}" if whose not in (0, os.geteuid()) else stranger_at(config)
    if what is None:
        return config
    raise UsageError(
        f"the configuration {config}, which the plan alone names, {what}",
        hint="look at it, and name it with -c if it is the one that is meant",
        code="RIVET_PLAN_CONFIG_UNNAMED",
    )


def apply_plan(
    fleet: Fleet, loaded: LoadedConfig, artifact: PlanArtifact, *, force: bool
) -> Applied:
    """Store the plan's campaign, or continue it when it is stored already and nobody works on it.

    ``force`` passes age and a moved cursor, never another configuration or source. Raises
    ConfigError, UsageError, StateRefused, DestinationError; then nothing was stored.
    """
    _refuse_changed_config(loaded, artifact)
    _refuse_other_sources(loaded, artifact)
    refuse_other_owner(fleet.store, loaded)
    if fleet.store.campaign(artifact.plan_id) is not None:
        _refuse_other_plan(fleet, artifact)
        already = _already(fleet, artifact.plan_id)
        if already is None:
            go_on(fleet, loaded, artifact.plan_id)
        return Applied(
            submitted=Submitted(campaign_id=artifact.plan_id, created=False),
            warnings=(),
            already=already,
        )
    warnings, forced = _age(artifact, fleet.clock.now_s(), force=force)
    moved = _moved_cursors(fleet, artifact)
    if moved and not force:
        raise StateRefused(
            f"the high-water mark has moved since the plan was made: {', '.join(moved)}",
            hint=f"{_PLAN_ANEW}; --force applies this one and may read rows again",
            code="RIVET_PLAN_CURSOR_DRIFT",
        )
    if moved:
        warnings.append(f"forced although the high-water mark has moved: {', '.join(moved)}")
        forced.append("cursor_drift")
    if artifact.rivet_fleet_version != __version__:
        warnings.append(
            f"the plan was made by version {artifact.rivet_fleet_version}, this is {__version__}"
        )
    check_deliverable(fleet, artifact.campaign)
    submitted = store_plan(fleet, artifact.campaign, any_mark=force)
    go_on(fleet, loaded, artifact.plan_id)
    _tell(fleet, artifact, forced)
    return Applied(submitted=submitted, warnings=tuple(warnings))


def _refuse_changed_config(loaded: LoadedConfig, artifact: PlanArtifact) -> None:
    if loaded.digest == artifact.config_digest:
        return
    before = {name: run.plan.settings_digest for name, run in by_name(artifact).items()}
    now = {name: digest for name, digest in loaded.sections.items() if name in before}
    changed = changed_exports(before, now)
    raise ConfigError(
        f"{loaded.path.name} is not the configuration this plan was made from: "
        f"{', '.join(changed) or 'another export or the campaign'} changed",
        hint=f"{_PLAN_ANEW}; no option goes around this",
        code="RIVET_CONFIG_CHANGED",
    )


def _refuse_other_sources(loaded: LoadedConfig, artifact: PlanArtifact) -> None:
    """The credentials of this process must lead to the planned database."""
    for run in artifact.campaign.runs:
        here = source_connection(loaded, run.plan.read.source).identity
        if here != run.plan.read.source_identity:
            raise ConfigError(
                f"source {run.plan.read.source} is {here} here, but the plan was made on "
                f"{run.plan.read.source_identity}",
                hint="give this process the environment of the plan; no option goes around this",
                code="RIVET_CONFIG_SOURCE_MISMATCH",
            )


def _refuse_other_plan(fleet: Fleet, artifact: PlanArtifact) -> None:
    """A campaign of this id is continued only when it is this very plan."""
    stored = {run.export_name: run.plan_hash for run in fleet.store.runs(artifact.plan_id)}
    planned = {name: run.plan_hash for name, run in by_name(artifact).items()}
    if stored != planned:
        raise StateRefused(
            f"campaign {artifact.plan_id} is stored already, with another plan",
            hint=f"{_PLAN_ANEW}, under an id of its own",
            code="RIVET_PLAN_CONFLICT",
        )


def _already(fleet: Fleet, campaign_id: CampaignId) -> Already | None:
    """The plan's campaign when it is completed or somebody works on it; None when it waits."""
    view = fleet.store.campaign(campaign_id)
    by = "" if view is None or view.status.over else _who_works(fleet, campaign_id)
    if view is None or (view.status is not CampaignStatus.COMPLETED and not by):
        return None
    return Already(
        campaign_id=campaign_id,
        status=view.status,
        by=by,
        runs=tuple(
            AppliedRun(
                run_id=run.run_id,
                export_name=run.export_name,
                status=run.status,
                rows=run.rows,
                bytes=run.bytes,
                chunks_completed=run.counts.completed,
                chunks_expected=run.expected_tasks,
            )
            for run in fleet.store.runs(campaign_id)
        ),
    )


def _who_works(fleet: Fleet, campaign_id: CampaignId) -> str:
    coordinator = live_coordinator(fleet, campaign_id)
    if coordinator is not None:
        return f"a coordinator, pid {coordinator.pid} on {coordinator.host_id}"
    owners = {
        task.owner
        for run in fleet.store.runs(campaign_id)
        if run.counts.running
        for task in fleet.store.tasks(run.run_id, status=TaskStatus.RUNNING)
    }
    # A worker of this host without a coordinator may be dying with it this very moment: joining it
    # does no harm, leaving the campaign to it could.
    working = [
        one
        for one in fleet.store.workers(alive_within_s=fleet.settings.lease_ttl_s)
        if one.worker_id in owners and one.alive and one.host_id != fleet.identity.host_id
    ]
    return ", ".join(f"{one.name}, pid {one.pid} on {one.host_id}" for one in working[:3])


def _age(artifact: PlanArtifact, now_s: float, *, force: bool) -> tuple[list[str], list[str]]:
    """Warnings and what was forced (PA3)."""
    hours = (now_s - artifact.created_at_s) / 3600
    match freshness(artifact.created_at_s, now_s):
        case Freshness.FRESH:
            return [], []
        case Freshness.AGING:
            return [f"the plan is {hours:.1f} hours old: rows may have come since"], []
        case Freshness.FROM_THE_FUTURE:
            return ["the plan was made later than it is now: the clocks of two hosts differ"], []
        case Freshness.STALE if force:
            return [f"forced although the plan is {hours:.1f} hours old"], ["stale"]
        case _:
            raise UsageError(
                f"the plan is {hours:.1f} hours old; it expired {artifact.expires_at}",
                hint=f"{_PLAN_ANEW}; --force applies this one all the same",
                code="RIVET_PLAN_STALE",
            )


def _moved_cursors(fleet: Fleet, artifact: PlanArtifact) -> Sequence[str]:
    """Exports whose stored mark is another than the plan's; no snapshot matches any (PA4)."""
    taken = {
        export.export_name: export.cursor_snapshot
        for export in artifact.exports
        if export.cursor_snapshot is not None
    }
    if not taken:
        return ()
    now = fleet.store.marks(artifact.campaign.campaign_name, tuple(taken))
    standing = {name: mark.value for name, mark in now.items()}
    return [name for name, mark in taken.items() if standing.get(name) != mark]


def _tell(fleet: Fleet, artifact: PlanArtifact, forced: Sequence[str]) -> None:
    words = f", forced: {', '.join(forced)}" if forced else ""
    fleet.emit(
        Event(
            name=EventName.PLAN_APPLIED,
            campaign_id=artifact.plan_id,
            worker_id=fleet.identity.worker_id,
            message=f"plan of {artifact.created_at}{words}",
            data={"created_at": artifact.created_at, "forced": list(forced)},
        )
    )
