"""Comparing delivered runs with their source: which, as which campaign, and what came of it.

A comparison is a run whose plan repeats another one's (ADR 0030). So its ranges are claimed,
leased, budgeted and resumed as those of every run; this module begins it and reads its end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rivet_fleet.contracts.identity import (
    NAMESPACE_DEFAULT,
    RECONCILE_SUFFIX,
    new_campaign_id,
    run_id_of,
    within,
)
from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.manifest import run_manifest_name
from rivet_fleet.contracts.plan import CampaignPlan, ChunkSpec, ExportPlan, PlannedRun
from rivet_fleet.contracts.reconcile import (
    ReconcileDepth,
    ReconcilePlan,
    RunComparison,
    compared_run,
    report_plain,
    settling_columns,
)
from rivet_fleet.contracts.state import CampaignStatus, CampaignView, RunStatus, RunView
from rivet_fleet.coordination.delivered import newest_families
from rivet_fleet.coordination.fleet import Fleet, refuse_other, refuse_other_owner
from rivet_fleet.coordination.submit import Submitted, store_plan
from rivet_fleet.coordination.tend import runs_named
from rivet_fleet.errors import DataIntegrityError, StateRefused, UsageError
from rivet_fleet.planning.config.connections import present_identity
from rivet_fleet.planning.config.loaded import LoadedConfig
from rivet_fleet.planning.config.protection import budgets_of
from rivet_fleet.verification.manifests import (
    MANIFEST_BYTES_MAX,
    ManifestUnreadable,
    parse_manifest,
)

FILES_GONE = "RIVET_RECONCILE_FILES_GONE"
SETTLED_BY = "RIVET_RECONCILE_SETTLED_BY"
_STEM = "-reconcile"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What an operator asks; see ``ReconcilePlan``."""

    depth: ReconcileDepth
    settled_by: str | None
    limit: int
    confirm_after_s: float


Ask = Callable[[RunView], Asked]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One run's comparison as it stands."""

    export_name: str
    run_id: RunId
    comparison: RunComparison
    report: dict[str, Any]


def begin(fleet: Fleet, loaded: LoadedConfig, runs: Sequence[RunView], ask: Ask) -> Submitted:
    """Store a campaign that compares ``runs`` with their source; one that is asked the same and is
    not over is gone on with.

    Nothing is written but that campaign. Raises StateRefused where a run's manifest is gone or
    lists other files than the state; UsageError for a column that cannot tell which rows are
    settled.
    """
    refuse_other_owner(fleet.store, loaded)
    plans = [_asked_of(run, loaded, ask(run)) for run in runs]
    for run in runs:
        refuse_other_files(fleet, run)
    name = f"{loaded.campaign_name}{RECONCILE_SUFFIX}"
    open_ends = _open_ends(fleet, name, {run.export_name for run in runs})
    for campaign, asked in open_ends:
        if campaign.status is CampaignStatus.ACTIVE and asked == plans:
            fleet.patience.call("lift a halt", partial(fleet.store.lift_halt, campaign.campaign_id))
            return Submitted(campaign_id=campaign.campaign_id, created=False)
    campaign_id = _new_id(fleet)
    return store_plan(
        fleet,
        CampaignPlan(
            campaign_id=campaign_id,
            campaign_name=name,
            config_digest=loaded.digest,
            config_path=str(loaded.path),
            runs=tuple(
                _planned(fleet, run, plan, campaign_id)
                for run, plan in zip(runs, plans, strict=True)
            ),
            budgets=budgets_of(loaded),
            identity=present_identity(loaded),
        ),
        # The marks of the runs that are compared stand where those runs left them.
        any_mark=True,
        # What asks otherwise, or stopped at a failure: an export has one comparison at a time.
        replacing=[campaign.campaign_id for campaign, _ in open_ends],
    )


def _open_ends(
    fleet: Fleet, name: str, export_names: Set[str]
) -> list[tuple[CampaignView, list[ReconcilePlan | None]]]:
    """Comparisons of these exports that are not over, and what they ask."""
    found = []
    for campaign in fleet.store.campaigns(name=name):
        if campaign.status in (CampaignStatus.ACTIVE, CampaignStatus.INCOMPLETE):
            runs = fleet.store.runs(campaign.campaign_id)
            if any(run.export_name in export_names for run in runs):
                found.append((campaign, [run.plan.reconcile for run in runs]))
    return found


def _new_id(fleet: Fleet) -> CampaignId:
    bare = new_campaign_id(fleet.clock.now_s(), NAMESPACE_DEFAULT)
    return CampaignId(within(f"{bare}{_STEM}", fleet.store.namespace))


def one_run(fleet: Fleet, loaded: LoadedConfig, run_id: str) -> list[RunView]:
    """The run of this id. Raises StateRefused where it is not delivered, or another's."""
    run = fleet.store.run(RunId(run_id))
    campaign = None if run is None else fleet.store.campaign(run.campaign_id)
    if run is None or campaign is None or not _delivered(run):
        raise _nothing(f"the state has no delivered run {run_id}")
    refuse_other(fleet.store, loaded, campaign)
    return [run]


def newest_runs(
    fleet: Fleet, loaded: LoadedConfig, names: Sequence[str]
) -> tuple[list[RunView], tuple[str, ...]]:
    """The newest delivered runs of each named export, all by default, and the exports that have
    none: of one that is partitioned the runs of one campaign. Raises UsageError for a name that is
    none, StateRefused for a named one without a run, and where nothing is delivered."""
    families = newest_families(fleet, loaded, names, with_files=True)
    if not any(families.values()):
        raise _nothing("no run that was asked for is delivered")
    runs = [run for family in families.values() for run in filter(_delivered, family)]
    return runs, tuple(name for name, family in families.items() if not family)


def runs_of(fleet: Fleet, campaign_id: CampaignId, names: Sequence[str]) -> list[RunView]:
    """What a campaign has delivered of the named exports, all by default."""
    return list(filter(_delivered, runs_named(fleet.store.runs(campaign_id), names)))


def _delivered(run: RunView) -> bool:
    of_rows = run.plan.reconcile is None and not run.skipped
    return run.status is RunStatus.COMPLETED and of_rows


def _nothing(message: str) -> StateRefused:
    return StateRefused(
        message,
        hint="`rivet-fleet state show` lists what is; `rivet-fleet run` delivers",
        code="RIVET_NOTHING_DELIVERED",
    )


def _asked_of(run: RunView, loaded: LoadedConfig, asked: Asked) -> ReconcilePlan:
    settled_by = asked.settled_by
    if settled_by is not None:
        _refuse_settled_by(run.plan, settled_by)
    return ReconcilePlan(
        of_run=run.run_id,
        campaign_name=loaded.campaign_name,
        depth=asked.depth,
        settled_by=settled_by,
        settled_before_us=None if settled_by is None else int(run.created_at_s * 1_000_000),
        limit=asked.limit,
        confirm_after_s=asked.confirm_after_s,
        run_began_us=int(run.created_at_s * 1_000_000),
    )


def _refuse_settled_by(plan: ExportPlan, name: str) -> None:
    moments = settling_columns(plan.read.columns)
    if name not in moments:
        known = any(one.name == name for one in plan.read.columns)
        wrong = "is no date or time" if known else "is no column of it"
        raise UsageError(
            f"export {plan.export_name}: {name} {wrong}, and so cannot tell which rows are settled",
            hint=f"its columns of dates and times: {', '.join(moments) or 'none'}; without one all "
            "rows are compared",
            code=SETTLED_BY,
        )


def refuse_other_files(fleet: Fleet, run: RunView) -> None:
    """What readers go by must be what is compared. Raises StateRefused."""
    name, destination = run_manifest_name(run.run_id, run.generation), fleet.destination(run.run_id)
    try:
        body = destination.read(name, MANIFEST_BYTES_MAX)
        listed = None if body is None else {part.path for part in parse_manifest(body).parts}
    except (DataIntegrityError, ManifestUnreadable) as wrong:
        raise _files_gone(run, f"{name} cannot be read: {wrong}") from None
    if listed is None:
        raise _files_gone(run, f"{name} is not there")
    # Whole by its seals: what is not there any more would be compared with nothing.
    ledger = fleet.store.completed_ledger(run.run_id)
    if ledger is None or len(ledger.fences) != run.expected_tasks:
        raise _files_gone(run, "the state does not have all of it")
    if listed != {part.path for part in ledger.parts}:
        raise _files_gone(run, f"{name} lists other files than the state does")


def _files_gone(run: RunView, how: str) -> StateRefused:
    return StateRefused(
        f"export {run.export_name}, run {run.run_id}: {how}",
        hint="nothing was compared and nothing changed; `rivet-fleet validate` says what is there",
        code=FILES_GONE,
    )


def _planned(
    fleet: Fleet, run: RunView, asked: ReconcilePlan, campaign_id: CampaignId
) -> PlannedRun:
    """The run's own plan over its own ranges, which asks instead of delivering."""
    plan = replace(
        run.plan,
        run_id=run_id_of(run.export_name, campaign_id),
        reason=f"compares run {run.run_id} with its source, {asked.depth.value}",
        reconcile=asked,
        # Of a run that delivers: nothing of it is judged or asked again here.
        quality=None,
        proof=None,
        schema_changes=(),
        warnings=(),
        diagnostics=(),
    )
    chunks = [
        ChunkSpec(chunk_index=task.chunk_index, chunk_range=task.chunk_range)
        for task in fleet.store.tasks(run.run_id)
    ]
    return PlannedRun(plan=plan, chunks=tuple(chunks))


def found(fleet: Fleet, campaign_id: CampaignId) -> list[Compared]:
    """What a campaign of comparisons has found so far, by export."""
    told = []
    for run in fleet.store.runs(campaign_id):
        asked = run.plan.reconcile
        assert asked is not None, "a campaign of its name holds nothing else"
        comparison = compared_run(fleet.store.comparison(run.run_id))
        report = report_plain(
            comparison,
            asked,
            export_name=run.export_name,
            run_id=run.run_id,
            strategy=run.plan.strategy,
            run_position=run.plan.read.position,
            columns=run.plan.read.columns,
        )
        told.append(
            Compared(
                export_name=run.export_name,
                run_id=asked.of_run,
                comparison=comparison,
                report=report,
            )
        )
    return told
