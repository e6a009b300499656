"""How it ended, gathered from the state database: for the terminal, and beside the data."""

from __future__ import annotations

from collections import Counter

from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.state import TaskView
from rivet_fleet.contracts.task import CampaignStatus, RunStatus, TaskStatus
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.errors import (
    DataIntegrityError,
    ExitCode,
    MalformedData,
    SchemaDrift,
    StateRefused,
)
from rivet_fleet.observability.report import Report, summarise

_JOURNAL_PAGE = 5000
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
        failed_tasks(fleet, campaign_id),
        count_journal(fleet, campaign_id),
        destinations={run.run_id: fleet.destination(run.run_id).uri for run in runs},
        state=state_name(state),
        files={run.run_id: len(fleet.store.parts(run.run_id)) for run in runs},
    )


def failed_tasks(fleet: Fleet, campaign_id: CampaignId) -> list[TaskView]:
    """The chunks whose budget is spent, a bounded number of them."""
    failed: list[TaskView] = []
    for run in fleet.store.runs(campaign_id):
        if run.counts.failed:
            failed += fleet.store.tasks(
                run.run_id, status=TaskStatus.FAILED, limit=_FAILED_SHOWN - len(failed)
            )
        if len(failed) >= _FAILED_SHOWN:
            break
    return failed


def verdict(fleet: Fleet, campaign_id: CampaignId, status: CampaignStatus) -> ExitCode:
    """The exit code of a campaign that is over (docs/reference/exit-codes.md).

    The gravest cause gives its name: wrong data (a run that was refused by its quality gates
    among them) before a changed shape before any other failure.
    """
    if status is CampaignStatus.CANCELLED:
        return ExitCode.STOPPED
    if status is not CampaignStatus.INCOMPLETE:
        return ExitCode.OK
    if any(run.status is RunStatus.FAILED for run in fleet.store.runs(campaign_id)):
        return ExitCode.DATA_INTEGRITY
    classes = {task.error_class for task in failed_tasks(fleet, campaign_id)}
    for code, names in _GRAVE:
        if classes & names:
            return code
    return ExitCode.INCOMPLETE


def count_journal(fleet: Fleet, campaign_id: CampaignId) -> dict[str, int]:
    """Journal entries by event name."""
    counts: Counter[str] = Counter()
    after_id = 0
    while True:
        entries = fleet.store.journal(
            campaign_id=campaign_id, after_id=after_id, limit=_JOURNAL_PAGE
        )
        counts.update(entry.event for entry in entries)
        if len(entries) < _JOURNAL_PAGE:
            return dict(counts)
        after_id = entries[-1].journal_id


def state_name(url: str) -> str:
    """Where the state is, without secrets: a path for SQLite, the target for a server."""
    if url.startswith("sqlite:"):
        return url.removeprefix("sqlite:///").removeprefix("sqlite://")
    return parse_database_url(url).identity
