"""What ``gc`` removes: what nobody knows of any more, and what was replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from rivet_fleet.contracts.events import EventName
from rivet_fleet.contracts.identity import namespace_of
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.manifest import (
    REPLACED_AFTER_S,
    PartStatus,
    part_named,
    receipt_key,
)
from rivet_fleet.contracts.plan import Access
from rivet_fleet.contracts.state import RunStatus, RunView, TaskStatus
from rivet_fleet.coordination.commit import remove_late, remove_replaced
from rivet_fleet.coordination.fleet import Fleet, process_alive
from rivet_fleet.coordination.names import move_on
from rivet_fleet.execution.destination import Destination, StagedInfo
from rivet_fleet.verification.gc import sweep_spool, sweep_staged


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What ``gc`` removed."""

    staged_files: int
    staged_bytes: int
    late_parts: int
    replaced_parts: int
    spool_folders: int


def collect_garbage(
    fleet: Fleet,
    campaign_id: CampaignId,
    *,
    min_age_s: float,
    replaced_after_s: float = REPLACED_AFTER_S,
) -> Swept:
    """Remove staged bytes that no committed row names, spools of dead processes, and what a store
    showed of given-up attempts after their runs had ended (F10); and parts that a repair replaced
    ``replaced_after_s`` ago (ADR 0032).

    A published part is durable under its own name. Touches no other visible file. Lists first,
    reads the ledger second (F9).
    """
    files = size_bytes = late = replaced = 0
    seen: set[Access] = set()
    # One that compares stages nothing, and knows of nobody's parts: others' lie at its place.
    delivering = (r for r in fleet.store.runs(campaign_id) if r.plan.reconcile is None)
    for run in delivering:
        # What a refused or cancelled run shows is evidence, and one in progress is its finalizer's.
        if run.status is RunStatus.COMPLETED:
            ledger = fleet.store.completed_ledger(run.run_id)
            if ledger is not None:
                late += remove_late(fleet, run, ledger.fences)
        if run.plan.destination.access in seen:
            continue
        seen.add(run.plan.destination.access)
        swept = _sweep(fleet, fleet.destination(run.run_id), run, min_age_s)
        files += swept[0]
        size_bytes += swept[1]
    if files:
        fleet.tell(EventName.STAGED_SWEPT, f"{files} staged files removed", bytes=size_bytes)
    # The next run came long before the grace of a repair was over.
    for run in _repaired(fleet, campaign_id):
        # Found whole: what a part is marked as decides nothing about one that stands.
        if fleet.store.completed_ledger(run.run_id) is not None:
            replaced += remove_replaced(
                fleet, run, min_age_s=replaced_after_s, leave=partial(move_on, fleet)
            )
    folders = sweep_spool(fleet.settings.spool_root, process_alive)
    return Swept(
        staged_files=files,
        staged_bytes=size_bytes,
        late_parts=late,
        replaced_parts=replaced,
        spool_folders=len(folders),
    )


def _repaired(fleet: Fleet, campaign_id: CampaignId) -> Iterator[RunView]:
    """The completed runs that were repaired, of all campaigns of this one's name."""
    view = fleet.store.campaign(campaign_id)
    for campaign in fleet.store.campaigns(name=view.campaign_name if view else None):
        for run in fleet.store.runs(campaign.campaign_id):
            if run.status is RunStatus.COMPLETED and run.generation > 1:
                yield run


def _sweep(
    fleet: Fleet, destination: Destination, run: RunView, min_age_s: float
) -> tuple[int, int]:
    """All campaigns of this name share the place, so the ledgers of all of them are read. Those
    of other namespaces cannot be: what their runs have staged is left alone."""
    view = fleet.store.campaign(run.campaign_id)
    name = view.campaign_name if view else None

    held: dict[str, Callable[[str], bool]] = {}

    def ledger() -> set[str]:
        sharing = [
            other
            for campaign in fleet.store.campaigns(name=name)
            for other in fleet.store.runs(campaign.campaign_id)
            if other.plan.destination.place == run.plan.destination.place
        ]
        # Who holds a chunk first: what is committed meanwhile is in the second reading.
        held.update((other.run_id, _held_paths(fleet, other)) for other in sharing)
        return {
            receipt_key(part.receipt)
            for other in sharing
            for part in fleet.store.parts(other.run_id)
            if part.status is PartStatus.COMMITTED
        }

    def ours(staged: StagedInfo) -> bool:
        run_id = staged.path.partition("/")[0]
        is_held = held.get(run_id)
        known = namespace_of(run_id) == fleet.store.namespace
        return known and not (is_held is not None and is_held(staged.path))

    swept = sweep_staged(destination, ledger, ours=ours, min_age_s=min_age_s)
    return len(swept), sum(info.size_bytes for info in swept)


def _held_paths(fleet: Fleet, run: RunView) -> Callable[[str], bool]:
    """Whether a part of this path is of an attempt that holds its chunk: its worker may have waited
    with it for the state for longer than anybody's ``min_age_s``, and commits it yet."""
    running = TaskStatus.RUNNING
    tasks = fleet.store.tasks(run.run_id, status=running) if run.counts.running else ()
    attempts = {(task.chunk_index, task.fence) for task in tasks}
    name, extension = run.plan.export_name, run.plan.format.extension
    return lambda path: (
        part_named(path, run_id=run.run_id, export_name=name, extension=extension) in attempts
    )
