"""The tail of a chunk: the only one there is (ADR 0001, steps 1 to 6).

Every mode, engine and destination ends a chunk here. Each step is followed by its kill point.
"""

from __future__ import annotations

from collections.abc import Sequence

from rivet_fleet.contracts.events import Event, EventName, Told
from rivet_fleet.contracts.killpoints import KillPoint, reach
from rivet_fleet.contracts.lease import Claim
from rivet_fleet.contracts.part import StagedPart, part_path
from rivet_fleet.contracts.plan import ExportPlan
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.coordination.publish import Published, publish_chunk
from rivet_fleet.errors import DestinationError, LeaseLost
from rivet_fleet.execution.destination import Destination
from rivet_fleet.execution.durable import filesystem_errors, sync_file
from rivet_fleet.execution.encoder import SpooledPart
from rivet_fleet.execution.extract import ExtractResult
from rivet_fleet.execution.parts import digest_file


def deliver_chunk(fleet: Fleet, claim: Claim, plan: ExportPlan, result: ExtractResult) -> Published:
    """Stage, commit, publish, complete. Raises LeaseLost before anything became visible, and
    DestinationError or StateError; a committed chunk is never failed any more: whoever comes
    next rolls it forward."""
    destination = fleet.destination(claim.run_id)
    staged: list[StagedPart] = []
    told: list[Told] = []
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
        _discard(destination, staged)
        raise
    reach(KillPoint.CHUNK_COMMITTED)
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


def _stage(
    fleet: Fleet, claim: Claim, plan: ExportPlan, destination: Destination, spooled: SpooledPart
) -> StagedPart:
    with filesystem_errors(spooled.path, "spool"):
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
            destination.discard(part.receipt)
        except DestinationError:
            continue
