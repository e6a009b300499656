"""What was delivered: looked for at its place, against its manifest and the ledger; and the newest
of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.manifest import (
    MANIFEST_NAME,
    LedgerPart,
    part_generation,
    run_manifest_name,
)
from rivet_fleet.contracts.plan import DestinationPlan
from rivet_fleet.contracts.state import RunStatus, RunView
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.coordination.inquiry import choose
from rivet_fleet.coordination.names import former, run_named
from rivet_fleet.coordination.operate import selected_runs
from rivet_fleet.coordination.tend import runs_named
from rivet_fleet.errors import DataIntegrityError, DestinationError, StateRefused
from rivet_fleet.execution.destination import Destination
from rivet_fleet.planning.config.loaded import LoadedConfig
from rivet_fleet.verification.findings import Depth, Verification
from rivet_fleet.verification.manifests import MANIFEST_BYTES_MAX
from rivet_fleet.verification.validate import Ledger, validate_prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """One run's verdict and where it was looked for."""

    export_name: str
    uri: str
    verification: Verification


def validate_campaign(
    fleet: Fleet,
    campaign_id: CampaignId,
    *,
    depth: Depth,
    export_name: str | None,
) -> list[Validated]:
    """Every finished run of a campaign: its files against its own manifest, and that against the
    ledger. Raises StateRefused when the campaign has no such export or nothing is finished yet."""
    chosen = selected_runs(fleet, campaign_id, export_name)
    delivering = [run for run in chosen if run.plan.reconcile is None]
    finished = [run for run in delivering if _stands(fleet, run)]
    if not finished:
        raise StateRefused(
            f"campaign {campaign_id} has no finished run to validate",
            hint="`rivet-fleet status` says what it is waiting for",
            code="RIVET_NOTHING_DELIVERED",
        )
    # A run without rows under skip_empty delivered nothing that could be looked at.
    return [_validate(fleet, run, depth) for run in finished if not run.skipped]


def validate_run(fleet: Fleet, run_id: str, *, depth: Depth) -> Validated:
    """One run of whatever campaign. Raises StateRefused when the state has no such finished run."""
    run = fleet.store.run(RunId(run_id))
    if run is None or not _stands(fleet, run):
        raise StateRefused(
            f"the state has no completed run {run_id}",
            hint="`rivet-fleet state show` lists them; --prefix looks without a state",
            code="RIVET_NOTHING_DELIVERED",
        )
    return _validate(fleet, run, depth)


def _stands(fleet: Fleet, run: RunView) -> bool:
    """Whether readers find the run whole: complete, or as it was before a repair that goes on or
    was given up (ADR 0032)."""
    if run.status is RunStatus.COMPLETED or run.generation == 1:
        return run.status is RunStatus.COMPLETED
    return former(fleet.destination(run.run_id, run), run) is not None


def _validate(fleet: Fleet, run: RunView, depth: Depth) -> Validated:
    destination = fleet.destination(run.run_id)
    verification = validate_prefix(
        destination,
        depth=depth,
        run_id=run.run_id,
        verify=run.plan.verify,
        manifest_required=True,
        ledger=ledger_of(fleet),
    )
    return Validated(export_name=run.export_name, uri=destination.uri, verification=verification)


def ledger_of(fleet: Fleet) -> Ledger:
    """Run and generation → the parts that its state accepted; None for a run that it does not
    know."""

    def parts(named: str, generation: int) -> Sequence[LedgerPart] | None:
        store, run = fleet.store, run_named(fleet, named)
        if run is None:
            return None
        # What a repair has replaced since was of the generations before it.
        until = {part.path for part in store.replaced_parts(run.run_id, until=generation)}
        since = [p for p in store.replaced_parts(run.run_id) if p.path not in until]
        accepted = [*store.parts(run.run_id), *since]
        return [part for part in accepted if part_generation(part.path) <= generation]

    return parts


# ------------------------------------------------------------------------------------------
# Looking at files alone.


def validate_place(
    open_at: Callable[[DestinationPlan], Destination],
    place: DestinationPlan,
    *,
    run_id: str | None,
    depth: Depth,
    ledger: Ledger | None = None,
) -> list[Validated]:
    """The files of a place against its manifest, the newest run's or that of ``run_id``; of a place
    that has none, and has partitions below it, each of those."""
    name = MANIFEST_NAME if run_id is None else run_manifest_name(run_id)
    with contextlib.closing(open_at(place)) as destination:
        below = _places_below(destination, name)
        if not below:
            return [_validate_at(destination, run_id, depth, ledger)]
    found = []
    # Links lead to the place that was asked for, and nowhere from below it.
    anchor = None if "://" in place.prefix else place.prefix
    for folder in below:
        part = replace(place, prefix=f"{place.prefix.rstrip('/')}/{folder}", anchor=anchor)
        with contextlib.closing(open_at(part)) as destination:
            found.append(_validate_at(destination, run_id, depth, ledger))
    return found


def _places_below(destination: Destination, name: str) -> list[str]:
    """What cannot be listed has none: looking at it says why."""
    with contextlib.suppress(DestinationError, DataIntegrityError):
        if destination.read(name, MANIFEST_BYTES_MAX) is None:
            visible = (info.path.rpartition("/") for info in destination.list_visible())
            return sorted(folder for folder, _, last in visible if folder and last == name)
    return []


def _validate_at(
    destination: Destination, run_id: str | None, depth: Depth, ledger: Ledger | None
) -> Validated:
    verification = validate_prefix(
        destination, depth=depth, run_id=run_id, manifest_required=True, ledger=ledger
    )
    name = verification.export_name or "prefix"
    return Validated(export_name=name, uri=destination.uri, verification=verification)


# ------------------------------------------------------------------------------------------
# The newest complete run of each export.


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """One run that is complete. ``files``: paths where the place has paths, else URIs."""

    export_name: str
    run_id: str
    prefix: str
    finished_at_s: float | None
    rows: int
    bytes: int
    files: tuple[str, ...]


def newest_delivered(
    fleet: Fleet, loaded: LoadedConfig, names: Sequence[str]
) -> tuple[Delivered, ...]:
    """Of each named export, of all by default, the newest run that is complete: of one that is
    partitioned those of the newest campaign in which all of them are. Raises UsageError for an
    unknown name, StateRefused where a named one has none."""
    found = newest_families(fleet, loaded, names, whole=partial(_stands, fleet))
    return tuple(_delivered(fleet, loaded, run) for family in found.values() for run in family)


def _complete(run: RunView) -> bool:
    return run.status is RunStatus.COMPLETED


def newest_families(
    fleet: Fleet,
    loaded: LoadedConfig,
    names: Sequence[str],
    *,
    with_files: bool = False,
    whole: Callable[[RunView], bool] = _complete,
) -> dict[str, list[RunView]]:
    """By named export, all by default, the runs of the newest campaign in which all of it are
    ``whole``; none of an export without. ``with_files``: of campaigns alone that delivered
    something of it. Raises UsageError for an unknown name, StateRefused where a named one has
    none."""
    exports = [export.name for export in choose(loaded.config.exports, names)]
    found: dict[str, list[RunView]] = {}
    for campaign in fleet.store.campaigns(name=loaded.campaign_name):
        missing = [name for name in exports if name not in found]
        if not missing:
            break
        runs = fleet.store.runs(campaign.campaign_id)
        for name in missing:
            family = runs_named(runs, [name])
            enough = any(not run.skipped for run in family) if with_files else bool(family)
            if enough and all(whole(run) for run in family):
                found[name] = family
    for name in names:
        if name not in found:
            raise StateRefused(
                f"no run of export {name} is complete yet",
                hint="`rivet-fleet status` says what it is waiting for",
                code="RIVET_NOTHING_DELIVERED",
            )
    return {name: found.get(name, []) for name in exports}


def _delivered(fleet: Fleet, loaded: LoadedConfig, run: RunView) -> Delivered:
    plan = run.plan.destination
    kind = loaded.destinations.get(plan.kind)
    root = plan.prefix if kind and kind.anchored else fleet.destination(run.run_id).uri
    root = root.rstrip("/")
    generation = run.generation - (run.status is not RunStatus.COMPLETED)
    parts = ledger_of(fleet)(run.run_id, generation) or ()
    return Delivered(
        export_name=run.export_name,
        run_id=run.run_id,
        prefix=root,
        finished_at_s=run.finished_at_s,
        rows=sum(part.digest.rows for part in parts),
        bytes=sum(part.digest.size_bytes for part in parts),
        files=tuple(f"{root}/{part.path}" for part in parts),
    )
