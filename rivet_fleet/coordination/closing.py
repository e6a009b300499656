"""How it ended, gathered from the state database: for the terminal, and beside the data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.killpoints import KillPoint, reach
from rivet_fleet.contracts.state import CampaignView, RunView, TaskView
from rivet_fleet.contracts.task import TaskStatus
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.errors import StateRefused
from rivet_fleet.observability.report import Report, summarise
from rivet_fleet.observability.run_summary import (
    SUMMARY_JSON_NAME,
    SUMMARY_MD_NAME,
    summarise_run,
    summary_json,
    summary_markdown,
)

_JOURNAL_PAGE = 5000
_FAILED_SHOWN = 50


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


def write_run_summaries(fleet: Fleet, campaign_id: CampaignId, folder: Path) -> str | None:
    """``<folder>/<run_id>/summary.json`` and ``summary.md`` for every run (inventory §11.6).

    Best effort (step 5 of finishing a run): returns why they could not be written, or None.
    """
    view = fleet.store.campaign(campaign_id)
    if view is None:
        return None
    try:
        for run in fleet.store.runs(campaign_id):
            _write_summary(fleet, view, run, folder / run.run_id)
    except OSError as error:
        return f"the run reports could not be written to {folder}: {error.strerror}"
    reach(KillPoint.REPORT_WRITTEN)
    return None


def _write_summary(fleet: Fleet, view: CampaignView, run: RunView, folder: Path) -> None:
    failed = fleet.store.tasks(run.run_id, status=TaskStatus.FAILED, limit=_FAILED_SHOWN)
    summary = summarise_run(
        view,
        run,
        failed,
        uri=fleet.destination(run.run_id).uri,
        files=len(fleet.store.parts(run.run_id)),
    )
    folder.mkdir(parents=True, exist_ok=True)
    bodies = {
        SUMMARY_JSON_NAME: summary_json(summary, fleet.redact),
        SUMMARY_MD_NAME: summary_markdown(summary, fleet.redact),
    }
    for name, body in bodies.items():
        # Written beside and renamed: a reader, or a death here, never meets half a report.
        partial = folder / f".{name}.partial"
        partial.write_text(body, encoding="utf-8")
        partial.replace(folder / name)


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
