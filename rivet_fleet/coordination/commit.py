"""The tail of a chunk: the only one there is (ADR 0001, steps 1 to 6).

Every mode, engine and destination ends a chunk here. Each step is followed by its kill point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum

from rivet_fleet.contracts.events import Event, EventName, Told
from rivet_fleet.contracts.keys import CampaignId, RunId, TaskId
from rivet_fleet.contracts.killpoints import KillPoint, reach
from rivet_fleet.contracts.manifest import (
    LedgerPart,
    StagedPart,
    part_named,
    part_path,
    run_manifest_name,
    run_marker_name,
)
from rivet_fleet.contracts.plan import ExportPlan
from rivet_fleet.contracts.reconcile import RangeResult
from rivet_fleet.contracts.state import Claim, RunView
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.errors import DestinationError, DestinationFull, LeaseLost
from rivet_fleet.execution.destination import Destination, Presence
from rivet_fleet.execution.durable import filesystem_errors, sync_file
from rivet_fleet.execution.encoder import SpooledPart
from rivet_fleet.execution.extract import ExtractResult
from rivet_fleet.execution.parts import digest_file, fingerprint_bytes
from rivet_fleet.verification.manifests import MANIFEST_BYTES_MAX

# ------------------------------------------------------------------------------------------
# Making committed parts visible, or proving them lost: by the worker or by whoever finds them.


class Published(Enum):
    """How it ended."""

    COMPLETED = "completed"
    REOPENED = "reopened"
    OVERTAKEN = "overtaken"
    """Somebody else completed or reopened the chunk meanwhile: nothing to do."""


def publish_chunk(
    fleet: Fleet,
    *,
    task_id: TaskId,
    campaign_id: CampaignId,
    run_id: RunId,
    chunk_index: int,
    fence: int,
    parts: Sequence[LedgerPart] | None = None,
) -> Published:
    """committed → completed (steps 5 and 6 of the tail), idempotent, by anybody.

    The ledger decides which parts there are; who has just committed them under ``fence`` knows
    ``parts`` without asking. Raises DestinationError when looking was not possible: then nothing
    has changed and the next one tries again.
    """
    destination = fleet.destination(run_id)
    if parts is None:
        parts = _committed(fleet, run_id, chunk_index, fence)
    told = [_make_visible(fleet, campaign_id, destination, part) for part in parts]
    lost = [part for part, shown in zip(parts, told, strict=True) if shown is None]
    if lost:
        reason = f"part {lost[0].path} is neither staged nor visible with its fingerprint"
        return reopen_chunk(
            fleet,
            task_id=task_id,
            run_id=run_id,
            chunk_index=chunk_index,
            fence=fence,
            reason=reason,
        )
    try:
        fleet.patience.call(
            "complete the chunk",
            lambda: fleet.store.mark_published(task_id, fence, [t for t in told if t]),
        )
    except LeaseLost:
        return Published.OVERTAKEN
    reach(KillPoint.CHUNK_COMPLETED)
    return Published.COMPLETED


def _committed(fleet: Fleet, run_id: RunId, chunk_index: int, fence: int) -> list[LedgerPart]:
    parts = fleet.patience.call(
        "read the ledger", lambda: fleet.store.parts(run_id, chunk_index=chunk_index)
    )
    # The chunk may have been reopened and committed anew since the caller saw it: those parts are
    # another attempt's, whose owner publishes them.
    return [part for part in parts if part.fence == fence]


def _make_visible(
    fleet: Fleet, campaign_id: CampaignId, destination: Destination, part: LedgerPart
) -> Told | None:
    """None: it is proven lost."""
    presence = destination.publish(part.receipt, part.path, part.digest)
    if presence is not Presence.VISIBLE:
        return None
    reach(KillPoint.PART_PUBLISHED)
    return fleet.mention(
        Event(
            name=EventName.PART_PUBLISHED,
            campaign_id=campaign_id,
            run_id=part.run_id,
            export_name=part.export_name,
            chunk_index=part.chunk_index,
            worker_id=fleet.identity.worker_id,
            data={"path": part.path, "rows": part.digest.rows, "bytes": part.digest.size_bytes},
        )
    )


def reopen_chunk(
    fleet: Fleet, *, task_id: TaskId, run_id: RunId, chunk_index: int, fence: int, reason: str
) -> Published:
    """Destructive, so in this order (F9): make the old parts impossible, then void the ledger.

    A crash in between leaves a committed or completed chunk whose parts are missing: the next
    roll-forward, or the finalizer's look at every part, comes here again.
    """
    destination = fleet.destination(run_id)
    task = fleet.patience.call("read a chunk", lambda: fleet.store.task(run_id, chunk_index))
    behind = task.commit_fence if task is not None and task.fence == fence else None
    parts = _committed(fleet, run_id, chunk_index, fence if behind is None else behind)
    make_impossible(destination, parts)
    changed = fleet.patience.call(
        "reopen the chunk", lambda: fleet.store.reopen(task_id, fence, fleet.redact(reason))
    )
    reach(KillPoint.CHUNK_REOPENED)
    return Published.REOPENED if changed else Published.OVERTAKEN


def make_impossible(destination: Destination, parts: Sequence[LedgerPart]) -> None:
    """First what is staged (afterwards no publisher can bring it back), then what is visible."""
    for part in parts:
        destination.discard(part.receipt, part.path)
    reach(KillPoint.REOPEN_STAGED_DISCARDED)
    for part in parts:
        destination.remove(part.path)
    reach(KillPoint.REOPEN_VISIBLE_REMOVED)


def remove_late(fleet: Fleet, run: RunView, fences: Mapping[int, int]) -> int:
    """Remove what is visible of attempts that were given up: a store may carry out a commit that
    was on its way while its chunk was reopened (F10); how many there were. ``fences``: under which
    each chunk of the run was committed.

    A name with a lower fence than its chunk's, and that no reader is led to, can never be good
    again, since fences only grow; so whoever comes here late, with a former reading, removes
    nothing of a later attempt. Raises DestinationError: then some are still there, and the run is
    not to end.
    """
    if all(fence <= 1 for fence in fences.values()):
        return 0  # every chunk was claimed once, and no other attempt has ever been
    removed = 0
    destination = fleet.destination(run.run_id)
    plan = run.plan
    # Behind whoever read the fences, and of one moment: a repair may have begun since, or been
    # given up, which leaves parts with a lower fence than their chunk's.
    kept = {part.path for part in _kept(fleet, run)}
    # Listed to the end before anything is removed: what a listing shows of a folder that changes
    # meanwhile is not defined (readdir(3)).
    for path in [info.path for info in destination.list_visible(run.run_id)]:
        named = part_named(
            path,
            run_id=run.run_id,
            export_name=plan.export_name,
            extension=plan.format.extension,
        )
        if path in kept or named is None or named[1] >= fences.get(named[0], 0):
            continue
        destination.remove(path)
        removed += 1
        chunk_index, fence = named
        told = f"{path} became visible after its attempt was given up"
        _tell_removed(fleet, run, chunk_index, path, fence, told)
    return removed


def _kept(fleet: Fleet, run: RunView) -> list[LedgerPart]:
    """Parts of the run that readers may be led to."""
    return fleet.patience.call("read what is kept", lambda: fleet.store.kept_parts(run.run_id))


def _replaced(fleet: Fleet, run: RunView, *, until: int) -> list[LedgerPart]:
    """Parts that repairs of the run have replaced, and that readers may have yet (ADR 0032)."""
    return fleet.patience.call(
        "read what was replaced", lambda: fleet.store.replaced_parts(run.run_id, until=until)
    )


def remove_replaced(
    fleet: Fleet,
    run: RunView,
    *,
    min_age_s: float,
    leave: Callable[[Destination, RunView], bool],
) -> int:
    """Remove the parts that repairs of a completed run have replaced, once the manifest of its
    generation has stood for ``min_age_s`` and no name leads to them (``leave`` sees to that); how
    many. Markers of former generations go first:
    their folders are whole no more. Raises DestinationError: then some are still there."""
    if run.generation == 1 or run.finished_at_s is None:
        return 0
    # Of a repair that began since this run was read nothing is replaced yet.
    parts = _replaced(fleet, run, until=run.generation)
    age_s = fleet.patience.call("read the clock", fleet.store.now_s) - run.finished_at_s
    if not parts or age_s < min_age_s:
        return 0
    destination = fleet.destination(run.run_id)
    body = destination.read(run_manifest_name(run.run_id, run.generation), MANIFEST_BYTES_MAX)
    # Who took the new manifest away has left the former one alone, and its readers with it.
    if body is None or fingerprint_bytes(body) != run.manifest_fingerprint:
        return 0
    # Whoever goes by a name is led to what stays, before anything goes.
    if not leave(destination, run):
        return 0
    for generation in range(1, run.generation):
        destination.remove(run_marker_name(run.run_id, generation))
    make_impossible(destination, parts)
    reach(KillPoint.REPLACED_REMOVED)
    for part in parts:
        _tell_removed(
            fleet, run, part.chunk_index, part.path, part.fence, "a repair has replaced it"
        )
    fleet.patience.call(
        "forget what was replaced",
        lambda: fleet.store.forget_replaced(run.run_id, run.generation),
    )
    return len(parts)


def _tell_removed(
    fleet: Fleet, run: RunView, chunk_index: int, path: str, fence: int, why: str
) -> None:
    """Into the journal: a visible part was taken away."""
    fleet.emit(
        Event(
            name=EventName.PART_REMOVED,
            campaign_id=run.campaign_id,
            run_id=run.run_id,
            export_name=run.export_name,
            chunk_index=chunk_index,
            worker_id=fleet.identity.worker_id,
            message=why,
            data={"path": path, "fence": fence},
        )
    )


def deliver_chunk(fleet: Fleet, claim: Claim, plan: ExportPlan, result: ExtractResult) -> Published:
    """Stage, commit, publish, complete. Raises as the two halves do."""
    return publish_own(fleet, claim, commit_chunk(fleet, claim, plan, result))


def commit_chunk(
    fleet: Fleet, claim: Claim, plan: ExportPlan, result: ExtractResult
) -> Sequence[StagedPart]:
    """Stage and commit; ``publish_own`` follows, or whoever comes next. Raises LeaseLost before
    anything became visible, and DestinationError or StateError."""
    destination = fleet.destination(claim.run_id)
    staged: list[StagedPart] = []
    told: list[Told] = []
    needed_bytes = _size_bytes(result)
    try:
        for spooled in result.parts:
            staged.append(_stage(fleet, claim, plan, destination, spooled))
            told.append(_staged(fleet, claim, staged[-1]))
        fleet.patience.call(
            "commit the chunk",
            lambda: fleet.store.commit(
                claim.task_id,
                claim.fence,
                staged,
                rows=result.rows,
                pages=result.pages,
                longest_statement_s=result.longest_statement_s,
                told=told,
            ),
        )
    except LeaseLost:
        # Nobody will ever have these receipts: no row was stored under this fence. That is not so
        # of StateUnavailable, behind which the commit may stand: then everything stays staged, and
        # what no row names is swept later.
        _discard(destination, staged)
        raise
    except DestinationFull as error:
        # What is staged of it already is room that another chunk could have.
        _discard(destination, staged)
        error.needed_bytes = needed_bytes
        raise
    reach(KillPoint.CHUNK_COMMITTED)
    return staged


def deliver_result(
    fleet: Fleet, claim: Claim, result: RangeResult, longest_statement_s: float | None
) -> Published:
    """The same tail for a chunk that was compared: it has no part. Raises LeaseLost, StateError."""
    sides = {"source_rows": result.source, "files_rows": result.files}
    told = fleet.mention(
        Event(
            name=EventName.CHUNK_COMPARED,
            campaign_id=claim.campaign_id,
            run_id=claim.run_id,
            export_name=claim.export_name,
            chunk_index=claim.chunk_index,
            worker_id=fleet.identity.worker_id,
            message=result.sentence,
            data={
                "verdict": result.verdict.value,
                "looks": result.looks,
                **{name: side.rows if side else None for name, side in sides.items()},
            },
        )
    )
    fleet.patience.call(
        "commit the comparison",
        lambda: fleet.store.commit_result(
            claim.task_id,
            claim.fence,
            result,
            longest_statement_s=longest_statement_s,
            told=[told],
        ),
    )
    reach(KillPoint.CHUNK_COMMITTED)
    return publish_own(fleet, claim, [])


def publish_own(fleet: Fleet, claim: Claim, staged: Sequence[StagedPart]) -> Published:
    """Publish and complete what this process has just committed. Raises DestinationError and
    StateError; a committed chunk is never failed any more: whoever comes next rolls it forward."""
    return publish_chunk(
        fleet,
        task_id=claim.task_id,
        campaign_id=claim.campaign_id,
        run_id=claim.run_id,
        chunk_index=claim.chunk_index,
        fence=claim.fence,
        # The commit that has just succeeded stored exactly these: asking would be asking for them.
        parts=[
            part.committed(
                run_id=claim.run_id,
                export_name=claim.export_name,
                chunk_index=claim.chunk_index,
                fence=claim.fence,
            )
            for part in staged
        ],
    )


def _size_bytes(result: ExtractResult) -> int:
    return sum(part.path.stat().st_size for part in result.parts if part.path.exists())


def _stage(
    fleet: Fleet, claim: Claim, plan: ExportPlan, destination: Destination, spooled: SpooledPart
) -> StagedPart:
    with filesystem_errors(spooled.path, "spool"):
        # First: a write that the kernel could not carry out is told here (fsync(2)), before the
        # digest vouches for bytes that no disk has.
        sync_file(spooled.path)
        digest = digest_file(spooled.path, spooled.rows)
    reach(KillPoint.PART_DIGESTED)
    path = part_path(
        run_id=claim.run_id,
        export_name=claim.export_name,
        chunk_index=claim.chunk_index,
        part_number=spooled.part_number,
        fence=claim.fence,
        extension=plan.format.extension,
        generation=claim.generation,
    )
    receipt = destination.stage(spooled.path, path, digest)
    reach(KillPoint.PART_STAGED)
    return StagedPart(
        part_number=spooled.part_number,
        path=path,
        digest=digest,
        receipt=receipt,
        columns=spooled.columns,
        uniques=spooled.uniques,
    )


def _staged(fleet: Fleet, claim: Claim, part: StagedPart) -> Told:
    return fleet.mention(
        Event(
            name=EventName.PART_STAGED,
            campaign_id=claim.campaign_id,
            run_id=claim.run_id,
            export_name=claim.export_name,
            chunk_index=claim.chunk_index,
            worker_id=fleet.identity.worker_id,
            data={"path": part.path, "rows": part.digest.rows, "bytes": part.digest.size_bytes},
        )
    )


def _discard(destination: Destination, staged: Sequence[StagedPart]) -> None:
    """A loser's bytes were never visible; what cannot be removed now is swept by ``gc``."""
    for part in staged:
        try:
            destination.discard(part.receipt, part.path)
        except DestinationError:
            continue
