"""From a configuration to a stored campaign: facts, plan, checks, one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial

from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.identity import new_campaign_id, owner_of
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.killpoints import KillPoint, reach
from rivet_fleet.contracts.plan import CampaignPlan, ExportPlan
from rivet_fleet.contracts.state import (
    CampaignStatus,
    CampaignView,
    RunStatus,
    RunView,
)
from rivet_fleet.coordination.fleet import Fleet, refuse_other, refuse_other_owner
from rivet_fleet.coordination.inquiry import choose, inquiry_of, undeliverable
from rivet_fleet.coordination.names import (
    RUN_ID_TAKEN,
    delivered_already,
    reached_end,
    retract_all,
)
from rivet_fleet.coordination.tend import refuse_unplanned, runs_named
from rivet_fleet.errors import (
    CampaignIncomplete,
    ConfigError,
    DestinationError,
    DestinationRefused,
    StateRefused,
    UsageError,
)
from rivet_fleet.planning.change import refuse_drift
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
    fleet: Fleet,
    loaded: LoadedConfig,
    wanted: CampaignId | None,
    *,
    anew: bool = False,
    names: Sequence[str] = (),
) -> Submitted:
    """Plan and store a campaign, or continue the one that is there (idempotent).

    A given id that exists, or, without an id, an active campaign of the same name, is
    continued by its stored plan; ConfigError when the configuration has changed since,
    StateRefused when campaigns of this name belong to another configuration (N3). One
    that ended incomplete is the operator's to decide about: CampaignIncomplete. ``anew``
    starts a new campaign in place of whatever is unfinished, which is given up in the
    transaction that stores it: a plan that fails costs nothing (B5). ``names``: of the file's
    exports only these; campaigns that have none of them unfinished are left alone.
    """
    # A misspelt name ends it before the state or a source is asked for anything.
    choose(loaded.config.exports, names)
    refuse_other_owner(fleet.store, loaded)
    unfinished = _with_any(fleet, _unfinished(fleet, loaded), names)
    existing = _existing(fleet, [] if anew else unfinished, wanted)
    if existing is not None:
        refuse_other(fleet.store, loaded, existing)
        refuse_comparison(existing)
        _refuse_changed(fleet, loaded, existing)
        left_out = _not_planned(fleet, loaded, existing.campaign_id, names)
        if names and left_out:
            raise _has_not(existing, left_out)
        go_on(fleet, loaded, existing.campaign_id)
        return Submitted(campaign_id=existing.campaign_id, created=False, left_out=left_out)
    campaign_id = wanted or new_campaign_id(fleet.clock.now_s(), fleet.store.namespace)
    replacing = [campaign.campaign_id for campaign in unfinished] if anew else []
    plan, left_out = plan_now(fleet, loaded, campaign_id, names)
    if wanted is not None:
        refuse_taken(fleet, plan)
    stored = store_plan(fleet, plan, replacing=replacing)
    # Behind the storing: until then there is no campaign that it could be told of.
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


def _with_any(
    fleet: Fleet, unfinished: list[CampaignView], names: Sequence[str]
) -> list[CampaignView]:
    """Those in which one of the named exports is not delivered yet; all without a name."""
    return [
        campaign
        for campaign in unfinished
        if any(
            not names or run.status is not RunStatus.COMPLETED
            for run in runs_named(fleet.store.runs(campaign.campaign_id), names)
        )
    ]


def _has_not(existing: CampaignView, missing: Sequence[LeftOut]) -> StateRefused:
    named = ", ".join(one.export_name for one in missing)
    return StateRefused(
        f"campaign {existing.campaign_id} is unfinished, and was planned without {named}",
        hint="name the exports that it has, or `rivet-fleet resume` finishes it first; "
        "`--new` gives it up and plans the named ones",
        code="RIVET_EXPORT_IN_PROGRESS",
    )


def _not_planned(
    fleet: Fleet, loaded: LoadedConfig, campaign_id: CampaignId, names: Sequence[str]
) -> tuple[LeftOut, ...]:
    """A stored plan is never added to: what it was made without, a later one delivers."""
    runs = fleet.store.runs(campaign_id)
    planned = {run.plan.written_name for run in runs}
    return tuple(
        LeftOut(export_name=export.name, reason="the stored plan was made without it")
        for export in choose(loaded.config.exports, names)
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
    ended = [
        run
        for former in replacing
        for run in fleet.patience.call("read the runs", partial(fleet.store.runs, former))
        if reached_end(run)
    ]
    outcome = fleet.patience.call(
        "submit the campaign",
        lambda: fleet.store.submit(plan, any_mark=any_mark, replacing=replacing),
    )
    if outcome.created:
        # Behind the transaction: until then their finalizers may complete them.
        retract_all(fleet, ended)
    fleet.patience.call("lift a halt", lambda: fleet.store.lift_halt(plan.campaign_id))
    reach(KillPoint.CAMPAIGN_SUBMITTED)
    for run in plan.runs if outcome.created else ():
        _tell_schema_changes(fleet, outcome.campaign_id, run.plan)
    return Submitted(campaign_id=outcome.campaign_id, created=outcome.created)


def _tell_schema_changes(fleet: Fleet, campaign_id: CampaignId, plan: ExportPlan) -> None:
    """Into the journal, one entry per difference."""
    for change in plan.schema_changes:
        fleet.emit(
            Event(
                name=EventName.SCHEMA_CHANGED,
                campaign_id=campaign_id,
                run_id=plan.run_id,
                export_name=plan.export_name,
                worker_id=fleet.identity.worker_id,
                message=change.sentence,
                data={
                    "code": change.code.value,
                    "column": change.column,
                    "before": change.before,
                    "after": change.after,
                    "policy": plan.on_schema_drift,
                },
            )
        )


def refuse_comparison(view: CampaignView) -> None:
    """Raise UsageError for a campaign that compares: worked on as a delivery, it would end well
    whatever it found (ADR 0030)."""
    if owner_of(view.campaign_name) != view.campaign_name:
        raise UsageError(
            f"campaign {view.campaign_id} compares delivered files with their source",
            hint="the same `rivet-fleet reconcile` goes on with it, and tells what it found",
        )


def go_on(
    fleet: Fleet, loaded: LoadedConfig, campaign_id: CampaignId, names: Sequence[str] = ()
) -> None:
    """An operator's word for a stored campaign: the budgets of this configuration count from now
    on, for every campaign on the state database, and what a governor stopped may run again. A
    folder of its destinations that is gone is made anew, because a worker makes none. Raises
    UsageError for one of ``names`` that is no export of it: nothing has changed then."""
    refuse_unplanned(campaign_id, fleet.store.runs(campaign_id) if names else (), names)
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
    planned = {run.plan.written_name: run.plan for run in runs}
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


def refuse_taken(fleet: Fleet, plan: CampaignPlan) -> None:
    """Raise DestinationRefused where something is delivered under the id of a run that is to be
    planned: the state that knew of it is another one, or lost. For ids that were named, once each:
    those that are made are never made twice."""
    for run in plan.runs:
        with closing(fleet.open_destination(run.plan.destination)) as destination:
            found = delivered_already(destination, run.plan.run_id)
            # Who submits the same at the same moment may be ahead: then it is stored, and its own.
            if found is None or fleet.store.campaign(plan.campaign_id) is not None:
                continue
            raise DestinationRefused(
                f"{destination.uri} has {found} already: something was delivered under the id of "
                f"run {run.plan.run_id}, and this state knows nothing of it",
                hint="nothing was planned and nothing was changed; name another --campaign-id, or "
                "none, or the state that knows it",
                code=RUN_ID_TAKEN,
            )
