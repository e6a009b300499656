"""Reading state and destinations for people: status and validation of a campaign."""

from __future__ import annotations

from dataclasses import dataclass

from rivet_fleet.contracts.events import EventName
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.retry import RETRY_WAIT_MAX_S
from rivet_fleet.contracts.state import CampaignView, JournalFilter, RunView, TaskView
from rivet_fleet.contracts.task import RunStatus, TaskStatus
from rivet_fleet.coordination.coordinator import COORDINATOR
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.errors import StateRefused
from rivet_fleet.observability.outage_reasons import runs_by_source
from rivet_fleet.observability.status import StatusReport, explain
from rivet_fleet.verification.findings import Depth, Verification
from rivet_fleet.verification.validate import validate_prefix

_TASKS_SHOWN = 500
_PROCESSES_SHOWN = 500
_BEGAN = JournalFilter(events=(EventName.WORKER_STARTED.value, EventName.WORKER_REFUSED.value))


def campaign_status(fleet: Fleet, view: CampaignView) -> StatusReport:
    """One moment of a campaign, with the reasons for whatever waits."""
    store = fleet.store
    runs = store.runs(view.campaign_id)
    tasks: list[TaskView] = []
    for run in runs:
        for status in (TaskStatus.RUNNING, TaskStatus.COMMITTED, TaskStatus.FAILED):
            if _count(run, status):
                tasks += store.tasks(run.run_id, status=status, limit=_TASKS_SHOWN)
    now_s = store.now_s()
    lately = JournalFilter(events=(EventName.SOURCE_HELD.value,), since_s=now_s - RETRY_WAIT_MAX_S)
    workers = store.workers(alive_within_s=fleet.settings.lease_ttl_s)
    return explain(
        view,
        runs,
        tasks,
        [worker for worker in workers if not worker.name.startswith(COORDINATOR)],
        store.groups(view.campaign_id),
        now_s,
        {
            source: outage
            for source, run_ids in runs_by_source(runs).items()
            if (outage := store.outage(view.campaign_id, run_ids)) is not None
        },
        store.journal(
            campaign_id=view.campaign_id, only=_BEGAN, limit=_PROCESSES_SHOWN, newest=True
        ),
        store.journal(
            campaign_id=view.campaign_id, only=lately, limit=_PROCESSES_SHOWN, newest=True
        ),
    )


def _count(run: RunView, status: TaskStatus) -> int:
    count: int = getattr(run.counts, status.value)
    return count


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """One run's verdict and where it was looked for."""

    export_name: str
    uri: str
    verification: Verification


def validate_campaign(
    fleet: Fleet, campaign_id: CampaignId, *, depth: Depth, export_name: str | None
) -> list[Validated]:
    """Every finished run of a campaign against its own manifest.

    Raises StateRefused when the campaign has no such export or nothing is finished yet.
    """
    runs = fleet.store.runs(campaign_id)
    chosen = [run for run in runs if export_name in (None, run.export_name)]
    if not chosen:
        known = ", ".join(run.export_name for run in runs)
        raise StateRefused(
            f"campaign {campaign_id} has no export {export_name}", hint=f"its exports: {known}"
        )
    finished = [run for run in chosen if run.status is RunStatus.COMPLETED]
    if not finished:
        raise StateRefused(
            f"campaign {campaign_id} has no finished run to validate",
            hint="`rivet-fleet status` says what it is waiting for",
        )
    # A run without rows under skip_empty delivered nothing that could be looked at.
    return [_validate(fleet, run, depth) for run in finished if not run.skipped]


def _validate(fleet: Fleet, run: RunView, depth: Depth) -> Validated:
    destination = fleet.destination(run.run_id)
    verification = validate_prefix(
        destination,
        depth=depth,
        run_id=run.run_id,
        verify=run.plan.verify,
        manifest_required=True,
    )
    return Validated(export_name=run.export_name, uri=destination.uri, verification=verification)
