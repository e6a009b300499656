"""Reading state and destinations for people: status and validation of a campaign."""

from __future__ import annotations

from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.state import CampaignView, RunView, TaskView
from rivet_fleet.contracts.task import RunStatus, TaskStatus
from rivet_fleet.coordination.coordinator import COORDINATOR
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.errors import StateRefused
from rivet_fleet.observability.status import StatusReport, explain
from rivet_fleet.verification.validate import Verification, validate_prefix

_TASKS_SHOWN = 500


def campaign_status(fleet: Fleet, view: CampaignView) -> StatusReport:
    """One moment of a campaign, with the reasons for whatever waits."""
    store = fleet.store
    runs = store.runs(view.campaign_id)
    tasks: list[TaskView] = []
    for run in runs:
        for status in (TaskStatus.RUNNING, TaskStatus.COMMITTED, TaskStatus.FAILED):
            if _count(run, status):
                tasks += store.tasks(run.run_id, status=status, limit=_TASKS_SHOWN)
    workers = store.workers(alive_within_s=fleet.settings.lease_ttl_s)
    return explain(
        view,
        runs,
        tasks,
        [worker for worker in workers if not worker.name.startswith(COORDINATOR)],
        store.groups(view.campaign_id),
        store.now_s(),
    )


def _count(run: RunView, status: TaskStatus) -> int:
    count: int = getattr(run.counts, status.value)
    return count


def validate_campaign(
    fleet: Fleet, campaign_id: CampaignId, *, depth: str, export_name: str | None
) -> list[Verification]:
    """Every finished run of a campaign against its own manifest.

    Raises StateRefused when the campaign has no such export or nothing is finished yet.
    """
    runs = [
        run
        for run in fleet.store.runs(campaign_id)
        if export_name is None or run.export_name == export_name
    ]
    if not runs:
        raise StateRefused(f"campaign {campaign_id} has no export {export_name}")
    finished = [run for run in runs if run.status is RunStatus.COMPLETED]
    if not finished:
        raise StateRefused(
            f"campaign {campaign_id} has no finished run to validate",
            hint="`rivet-fleet status` says what it is waiting for",
        )
    return [
        validate_prefix(
            fleet.destination(run.run_id), depth=depth, run_id=run.run_id, verify=run.plan.verify
        )
        for run in finished
    ]
