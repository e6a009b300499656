"""What anybody may do for the campaign (F8): reap, roll forward, finalize, settle."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.killpoints import KillPoint, reach
from rivet_fleet.contracts.seals import SpoiltRow, of_one_row
from rivet_fleet.contracts.state import (
    CampaignStatus,
    Reaped,
    RunStatus,
    RunView,
    TaskStatus,
    TaskView,
)
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.coordination.commit import publish_chunk
from rivet_fleet.coordination.finalize import finalize_run
from rivet_fleet.coordination.fitness import unfit_of
from rivet_fleet.coordination.fleet import Fleet, awaits_parent, process_alive
from rivet_fleet.errors import (
    DataIntegrityError,
    DestinationError,
    ExitCode,
    LeaseLost,
    MalformedData,
    SchemaDrift,
    StateRefused,
    StateTampered,
    UsageError,
    WorkerUnfit,
)
from rivet_fleet.observability.report import Report, summarise


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
    # Its owner publishes right behind its commit: who came at once would do the same work twice.
    idle_s = fleet.settings.lease_ttl_s / 2 if rolling_idle_s is None else rolling_idle_s
    # In the order of a chunk's life, so that one round may lead from a crash to the campaign's end.
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
    if status is CampaignStatus.COMPLETED and finalized:
        tell_vanished(fleet, campaign_id)
    view = fleet.patience.call("look at the campaign", lambda: fleet.store.campaign(campaign_id))
    return Tended(
        reaped=len(reaped) + len(dead),
        rolled_forward=rolled,
        finalized=finalized,
        status=status,
        halted=None if view is None or status.over else view.halted,
        refused=next(filter(None, map(unfit_of, refusals)), None),
    )


def tell_vanished(fleet: Fleet, campaign_id: CampaignId) -> None:
    """Of each partitioned export, the partitions that its last whole delivery had and this one has
    not: their rows were deleted, or lie in others now, and their folders go on naming what was
    delivered then (ADR 0012). Told and not touched: to whom the dataset is an archive, it is
    right. Best effort: what a former campaign is like decides nothing of this one."""
    with contextlib.suppress(StateTampered, StateRefused, MalformedData):
        this = fleet.store.campaign(campaign_id)
        runs = [run for run in fleet.store.runs(campaign_id) if run.plan.family]
        names = {run.export_name for run in runs}
        untold = {run.plan.family for run in runs}
        former_ones = fleet.store.campaigns(name=this.campaign_name) if this and untold else []
        for former in former_ones:
            later = this is not None and former.created_at_s > this.created_at_s
            if later or former.campaign_id == campaign_id or not untold:
                continue
            theirs = [r for r in fleet.store.runs(former.campaign_id) if r.plan.family in untold]
            whole = {run.plan.family for run in theirs}
            whole -= {r.plan.family for r in theirs if r.status is not RunStatus.COMPLETED}
            for family in sorted(whole):
                gone = [r.export_name for r in theirs if r.plan.family == family and not r.skipped]
                gone = [name for name in gone if name not in names]
                if gone:
                    _tell_vanished(fleet, campaign_id, former.campaign_id, family, gone)
            untold -= whole


_VANISHED_SHOWN = 5


def _tell_vanished(
    fleet: Fleet, campaign_id: CampaignId, former: CampaignId, family: str, gone: list[str]
) -> None:
    shown = ", ".join(gone[:_VANISHED_SHOWN])
    more = f" and {len(gone) - _VANISHED_SHOWN} more" if len(gone) > _VANISHED_SHOWN else ""
    fleet.emit(
        Event(
            name=EventName.PARTITION_VANISHED,
            campaign_id=campaign_id,
            export_name=family,
            worker_id=fleet.identity.worker_id,
            message=f"{shown}{more}: delivered by campaign {former} and without rows now; where "
            "their folders are, they go on naming that delivery: `rivet-fleet files` names what "
            "this one delivered",
            data={"partitions": gone},
        )
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
    away: set[str] = set()
    for task in tasks:
        service = fleet.planned_run(task.run_id).plan.destination.service
        if service in away:
            continue
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
            # A store that is away takes seconds for each part: what else of it rests waits for the
            # next round, and nothing of another one does.
            away.add(service)
    return done


def finalize_ready(fleet: Fleet, campaign_id: CampaignId, refusals: list[DestinationError]) -> int:
    """Finish every run whose chunks are all completed. A destination that is away is added to
    ``refusals``. Raises StateTampered for a run that is not what was sealed, StateRefused for one
    that is sealed with another key, behind the others."""
    runs = fleet.patience.call(
        "list runs to finish", lambda: fleet.store.finalizable_runs(campaign_id)
    )
    done = 0
    spoilt: SpoiltRow | None = None
    held = fleet.held_sources()
    for run_id in _from_own_place(runs, fleet.identity.worker_id):
        try:
            done += finalize_run(fleet, run_id)
        except (StateTampered, StateRefused) as error:
            if not of_one_row(error):
                raise
            spoilt = spoilt or error
        except (DestinationError, DataIntegrityError, LeaseLost) as error:
            if isinstance(error, DestinationError):
                refusals.append(error)
            fleet.tell(
                EventName.DESTINATION_RETRIED, f"run {run_id} cannot finish yet: {error.message}"
            )
    # Opened once for all of them, and closed again: an idle connection is a burden. Whoever ends by
    # an error ends, or drops them before the next chunk.
    fleet.drop_sources(but=held)
    if spoilt is not None:
        raise spoilt
    return done


def _from_own_place(runs: Sequence[RunId], worker_id: str) -> list[RunId]:
    """All of them, from another one on for each process: who began where everybody does would ask
    for one lease after the other that somebody has."""
    first = zlib.crc32(worker_id.encode()) % max(len(runs), 1)
    return [*runs[first:], *runs[:first]]


# ------------------------------------------------------------------------------------------
# How it ended, gathered from the state database: for the terminal, and beside the data.

_FAILED_SHOWN = 50
_GRAVE = (
    (ExitCode.DATA_INTEGRITY, {DataIntegrityError.__name__, MalformedData.__name__}),
    (ExitCode.SCHEMA_DRIFT, {SchemaDrift.__name__}),
)


def closing_report(fleet: Fleet, campaign_id: CampaignId, *, state: str) -> Report:
    """Everything the closing summary says. Raises StateRefused when the campaign is gone."""
    view = fleet.store.campaign(campaign_id)
    if view is None:
        raise StateRefused(f"campaign {campaign_id} is not in the state database any more")
    runs = fleet.store.runs(campaign_id)
    return summarise(
        view,
        runs,
        failed_tasks(fleet, runs),
        fleet.store.journal_counts(campaign_id),
        destinations={run.run_id: fleet.destination(run.run_id).uri for run in runs},
        state=state_name(state),
        files={run.run_id: run.files for run in runs},
    )


def failed_tasks(fleet: Fleet, runs: Sequence[RunView]) -> list[TaskView]:
    """The chunks whose budget is spent, a bounded number of them."""
    failed: list[TaskView] = []
    for run in runs:
        if run.counts.failed:
            failed += fleet.store.tasks(
                run.run_id, status=TaskStatus.FAILED, limit=_FAILED_SHOWN - len(failed)
            )
        if len(failed) >= _FAILED_SHOWN:
            break
    return failed


def runs_named(runs: Sequence[RunView], names: Sequence[str]) -> list[RunView]:
    """The runs of the named exports, partitions among them; all without a name."""
    wanted = set(names)
    return [r for r in runs if not wanted or r.export_name in wanted or r.plan.family in wanted]


def refuse_unplanned(
    campaign_id: CampaignId, runs: Sequence[RunView], names: Sequence[str]
) -> None:
    """Raise UsageError for a name that is no export of the stored campaign. ``runs``: all of it."""
    known = {name: None for run in runs for name in (run.plan.family, run.export_name) if name}
    for name in names:
        if name not in known:
            raise UsageError(
                f"campaign {campaign_id} has no export {name!r}",
                hint=f"its exports: {', '.join(known)}",
            )


def is_over(run: RunView) -> bool:
    """Whether nothing more happens to a run by itself."""
    if run.status is not RunStatus.IN_PROGRESS:
        return True
    counts = run.counts
    if counts.pending or counts.running or counts.committed or not counts.failed:
        return False
    # One that has attempts left rests, and is claimed again.
    return run.spent == counts.failed


def chosen_over(fleet: Fleet, campaign_id: CampaignId, names: Sequence[str]) -> bool:
    """Whether nothing more happens to the named exports by itself; False without a name."""
    if not names:
        return False
    runs = fleet.patience.call("look at the runs", lambda: fleet.store.runs(campaign_id))
    return all(is_over(run) for run in runs_named(runs, names))


def verdict(
    fleet: Fleet, campaign_id: CampaignId, status: CampaignStatus, names: Sequence[str] = ()
) -> ExitCode:
    """The exit code of a campaign that is over, or of its exports ``names`` that are
    (docs/reference/exit-codes.md).

    The gravest cause gives its name: wrong data (a run that was refused by its quality gates
    among them) before a changed shape before any other failure.
    """
    if status is CampaignStatus.CANCELLED:
        return ExitCode.STOPPED
    runs = runs_named(fleet.store.runs(campaign_id), names)
    # Names that nothing answers to were delivered by nobody.
    if names and runs and all(run.status is RunStatus.COMPLETED for run in runs):
        return ExitCode.OK
    if not names and status is not CampaignStatus.INCOMPLETE:
        return ExitCode.OK
    if any(run.status is RunStatus.FAILED for run in runs):
        return ExitCode.DATA_INTEGRITY
    classes = {task.error_class for task in failed_tasks(fleet, runs)}
    for code, grave in _GRAVE:
        if classes & grave:
            return code
    return ExitCode.INCOMPLETE


def state_name(url: str) -> str:
    """Where the state is, without secrets: a path for SQLite, the target for a server."""
    if url.startswith("sqlite:"):
        return url.removeprefix("sqlite:///").removeprefix("sqlite://")
    return parse_database_url(url).identity
