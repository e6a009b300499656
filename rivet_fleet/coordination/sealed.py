"""``apply``: store exactly what a sealed plan says, or refuse. Nothing is decided anew (PA1)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rivet_fleet import __version__
from rivet_fleet.contracts.artifact import Freshness, PlanArtifact, by_name, freshness
from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.places import stranger_at
from rivet_fleet.contracts.state import CampaignStatus, RunStatus, TaskStatus
from rivet_fleet.coordination.coordinator import live_coordinator
from rivet_fleet.coordination.fleet import Fleet, refuse_other_owner
from rivet_fleet.coordination.submit import (
    Submitted,
    check_deliverable,
    go_on,
    refuse_taken,
    store_plan,
)
from rivet_fleet.errors import ConfigError, StateRefused, UsageError
from rivet_fleet.planning.config.connections import source_connection
from rivet_fleet.planning.config.digests import changed_exports
from rivet_fleet.planning.config.loaded import LoadedConfig

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
    # A day may lie between the plan and now: what could be delivered then is looked at again.
    check_deliverable(fleet, artifact.campaign)
    refuse_taken(fleet, artifact.campaign)
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
