"""What anybody may do for the campaign (F8): reap, roll forward, finalize, settle."""

from __future__ import annotations

from dataclasses import dataclass

from rivet_fleet.contracts.events import EventName
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.killpoints import KillPoint, reach
from rivet_fleet.contracts.state import Reaped
from rivet_fleet.contracts.task import CampaignStatus
from rivet_fleet.coordination.finalize import finalize_run
from rivet_fleet.coordination.fitness import unfit_of
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.coordination.identity import awaits_parent, process_alive
from rivet_fleet.coordination.publish import publish_chunk
from rivet_fleet.errors import (
    DataIntegrityError,
    DestinationError,
    LeaseLost,
    StateTampered,
    WorkerUnfit,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tended:
    """What one round did."""

    reaped: int
    rolled_forward: int
    finalized: int
    status: CampaignStatus
    halted: str | None = None
    """Why a governor stopped the campaign."""
    refused: WorkerUnfit | None = None
    """The destination refuses this process: somebody else has to finish what waits for it."""


def tend(fleet: Fleet, campaign_id: CampaignId, *, rolling_idle_s: float | None = None) -> Tended:
    """One round. Every step is idempotent and safe beside other tenders.

    ``rolling_idle_s``: how long a committed chunk may rest before somebody else publishes it;
    default half a lease, 0 right after its owner was seen to end.
    """
    idle_s = fleet.settings.lease_ttl_s / 2 if rolling_idle_s is None else rolling_idle_s
    dead = reap_dead_neighbours(fleet)
    reaped = fleet.patience.call(
        "reap expired leases", lambda: fleet.store.reap_expired(campaign_id)
    )
    if reaped:
        reach(KillPoint.CHUNK_REAPED)
    refusals: list[DestinationError] = []
    rolled = roll_forward(fleet, campaign_id, refusals, idle_s=0.0 if dead else idle_s)
    finalized = finalize_ready(fleet, campaign_id, refusals)
    status = fleet.patience.call(
        "settle the campaign", lambda: fleet.store.finish_campaign(campaign_id)
    )
    view = fleet.patience.call("look at the campaign", lambda: fleet.store.campaign(campaign_id))
    return Tended(
        reaped=len(reaped) + len(dead),
        rolled_forward=rolled,
        finalized=finalized,
        status=status,
        halted=None if view is None or status.over else view.halted,
        refused=next(filter(None, map(unfit_of, refusals)), None),
    )


def reap_dead_neighbours(fleet: Fleet) -> list[Reaped]:
    """Take back chunks of processes of this host that are gone: no need to wait for a lease.

    A process that has just ended is left to its supervisor, which alone learns the signal or
    exit code that a poison chunk has to name.
    """
    reaped: list[Reaped] = []
    host = fleet.identity.host_id
    for worker in fleet.patience.call("list workers", lambda: fleet.store.workers(host_id=host)):
        if worker.worker_id == fleet.identity.worker_id:
            continue
        if awaits_parent(worker.pid):
            continue
        if not process_alive(worker.pid, worker.pid_started_at_s):
            reaped += reap_ended(fleet, worker.worker_id, f"process {worker.pid} is gone")
    return reaped


def reap_ended(fleet: Fleet, worker_id: str, reason: str) -> list[Reaped]:
    """Take back every chunk of a process that was seen to end."""
    reaped = fleet.patience.call(
        "reap a worker", lambda: fleet.store.reap_worker(worker_id, reason)
    )
    if reaped:
        reach(KillPoint.CHUNK_REAPED)
    return reaped


def roll_forward(
    fleet: Fleet, campaign_id: CampaignId, refusals: list[DestinationError], *, idle_s: float
) -> int:
    """Publish committed chunks that rest. A destination that is away leaves them for later, and
    is added to ``refusals``."""
    tasks = fleet.patience.call(
        "list committed chunks", lambda: fleet.store.committed_tasks(campaign_id, idle_s=idle_s)
    )
    done = 0
    for task in tasks:
        try:
            publish_chunk(
                fleet,
                task_id=task.task_id,
                campaign_id=campaign_id,
                run_id=task.run_id,
                chunk_index=task.chunk_index,
                fence=task.fence,
            )
            done += 1
        except DestinationError as error:
            refusals.append(error)
            fleet.tell(
                EventName.DESTINATION_RETRIED,
                f"chunk {task.chunk_index} of {task.export_name} waits for its destination: "
                f"{error.message}",
            )
            break
    return done


def finalize_ready(fleet: Fleet, campaign_id: CampaignId, refusals: list[DestinationError]) -> int:
    """Finish every run whose chunks are all completed. A destination that is away is added to
    ``refusals``."""
    runs = fleet.patience.call(
        "list runs to finish", lambda: fleet.store.finalizable_runs(campaign_id)
    )
    done = 0
    for run_id in runs:
        try:
            done += finalize_run(fleet, run_id)
        except StateTampered:
            raise
        except (DestinationError, DataIntegrityError, LeaseLost) as error:
            if isinstance(error, DestinationError):
                refusals.append(error)
            fleet.tell(
                EventName.DESTINATION_RETRIED, f"run {run_id} cannot finish yet: {error.message}"
            )
    return done
