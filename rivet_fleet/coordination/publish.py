"""Making committed parts visible, or proving them lost: by the worker or by whoever finds them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from rivet_fleet.contracts.events import Event, EventName, Told
from rivet_fleet.contracts.keys import CampaignId, RunId, TaskId
from rivet_fleet.contracts.killpoints import KillPoint, reach
from rivet_fleet.contracts.part import LedgerPart
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.errors import LeaseLost
from rivet_fleet.execution.destination import Destination, Presence


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
    make_impossible(destination, _committed(fleet, run_id, chunk_index, fence))
    changed = fleet.patience.call(
        "reopen the chunk", lambda: fleet.store.reopen(task_id, fence, fleet.redact(reason))
    )
    reach(KillPoint.CHUNK_REOPENED)
    return Published.REOPENED if changed else Published.OVERTAKEN


def make_impossible(destination: Destination, parts: Sequence[LedgerPart]) -> None:
    """First what is staged (afterwards no publisher can bring it back), then what is visible."""
    for part in parts:
        destination.discard(part.receipt)
    reach(KillPoint.REOPEN_STAGED_DISCARDED)
    for part in parts:
        destination.remove(part.path)
    reach(KillPoint.REOPEN_VISIBLE_REMOVED)
