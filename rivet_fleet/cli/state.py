"""state show|files|chunks|progression|budget: what the fleet knows."""

from __future__ import annotations

from pathlib import Path

import click

from rivet_fleet.cli.say import say
from rivet_fleet.cli.session import (
    Session,
    campaign_option,
    config_option,
    fleet_of,
    json_option,
    known_redactor,
    param_option,
    start,
    state_option,
    wanted_campaign,
)
from rivet_fleet.contracts.codec import dumps, to_plain
from rivet_fleet.contracts.cursor import describe_mark
from rivet_fleet.contracts.keys import describe_range
from rivet_fleet.contracts.namespace import NAMESPACE_DEFAULT
from rivet_fleet.contracts.state import Boundary, RunView
from rivet_fleet.coordination.campaign_lookup import find_campaign, refuse_other_owner
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.coordination.operate import change_budget
from rivet_fleet.errors import UsageError
from rivet_fleet.observability.groups import budget_line
from rivet_fleet.observability.redaction import redact_plain
from rivet_fleet.planning.loaded import LoadedConfig
from rivet_fleet.planning.protection import MEGABYTE

export_option = click.option("-e", "--export", "export_name", default=None, help="This export.")


@click.group()
def state() -> None:
    """Inspect, migrate and reset the state database."""


def _runs(
    fleet: Fleet, session: Session, campaign_id: str | None, export_name: str | None
) -> list[RunView]:
    view = find_campaign(fleet, session.loaded, wanted_campaign(session, campaign_id))
    runs = fleet.store.runs(view.campaign_id)
    known = [run.export_name for run in runs]
    if export_name is not None and export_name not in known:
        raise UsageError(f"no export {export_name}", hint=f"known exports: {', '.join(known)}")
    return [run for run in runs if export_name in (None, run.export_name)]


@state.command("show")
@config_option
@param_option
@state_option
@json_option
def show(config: Path, params: tuple[str, ...], state_url: str | None, as_json: bool) -> int:
    """Every campaign of this configuration's name, and the high-water marks of its exports."""
    session = start(config, params, state_url, quiet=True)
    with fleet_of(session, "state") as fleet:
        refuse_other_owner(fleet.store, session.loaded)
        campaigns = fleet.store.campaigns(name=session.loaded.campaign_name)
        listed = [(c, fleet.store.runs(c.campaign_id)) for c in campaigns]
        known = fleet.store.progression(session.loaded.campaign_name)
    marks = {one.export_name: one.cursor for one in known if one.cursor is not None}
    if as_json:
        body = [
            {
                "campaign": c,
                "runs": [_brief(r) for r in runs],
                "marks": {r.export_name: marks.get(r.export_name) for r in runs},
            }
            for c, runs in listed
        ]
        say(dumps(body), as_json=True)
        return 0
    if not listed:
        where = "" if session.namespace == NAMESPACE_DEFAULT else f" in {session.namespace}"
        say(f"no campaign yet{where}")
    for campaign, runs in listed:
        say(f"{campaign.campaign_id}  {campaign.status.value}")
        for run in runs:
            say(
                f"  {run.export_name:<24} {run.status.value:<12} "
                f"{run.counts.completed}/{run.expected_tasks} chunks  {run.rows} rows"
            )
    for name, mark in marks.items():
        say(f"the next run of {name} reads from {describe_mark(mark)}")
    return 0


@state.command("progression")
@config_option
@param_option
@state_option
@json_option
def progression(config: Path, params: tuple[str, ...], state_url: str | None, as_json: bool) -> int:
    """How far each export has come: observed, committed, verified. Nothing is decided by it."""
    session = start(config, params, state_url, quiet=True)
    with fleet_of(session, "state") as fleet:
        refuse_other_owner(fleet.store, session.loaded)
        found = fleet.store.progression(session.loaded.campaign_name)
        observed = _observed(fleet, session.loaded)
    if as_json:
        say(dumps([{"progression": p, "observed": observed.get(p.export_name)} for p in found]))
        return 0
    if not found:
        say("no run has completed yet")
    for one in found:
        say(one.export_name)
        say(f"  observed   {_mark_line(observed.get(one.export_name))}")
        say(f"  committed  {_boundary_line(one.committed)}")
        say(f"  verified   {_boundary_line(one.verified)}")
    return 0


def _observed(fleet: Fleet, loaded: LoadedConfig) -> dict[str, str]:
    """What the newest campaign saw at the source when it was planned, delivered or not."""
    found: dict[str, str] = {}
    for campaign in fleet.store.campaigns(name=loaded.campaign_name):
        for run in fleet.store.runs(campaign.campaign_id):
            cursor = run.plan.cursor
            if cursor is not None and cursor.mark_after is not None:
                found.setdefault(run.export_name, cursor.mark_after)
    return found


def _mark_line(mark: str | None) -> str:
    return "nothing" if mark is None else describe_mark(mark)


def _boundary_line(boundary: Boundary | None) -> str:
    if boundary is None:
        return "nothing"
    if boundary.cursor is not None:
        return f"{describe_mark(boundary.cursor)}  by {boundary.run_id}"
    return f"chunk {boundary.chunk_index}, the last of {boundary.run_id}"


def _brief(run: RunView) -> dict[str, object]:
    return {
        "run_id": run.run_id,
        "export_name": run.export_name,
        "status": run.status.value,
        "expected_tasks": run.expected_tasks,
        "counts": run.counts,
        "rows": run.rows,
        "bytes": run.bytes,
        "plan_hash": run.plan_hash,
    }


@state.command("files")
@config_option
@param_option
@campaign_option
@state_option
@export_option
@click.option(
    "-l",
    "--last",
    type=click.IntRange(min=0),
    default=50,
    show_default=True,
    help="Only so many of the newest.",
)
@json_option
def files(
    config: Path,
    params: tuple[str, ...],
    campaign_id: str | None,
    state_url: str | None,
    export_name: str | None,
    last: int,
    as_json: bool,
) -> int:
    """The ledger: every part that was accepted."""
    session = start(config, params, state_url, quiet=True)
    with fleet_of(session, "state") as fleet:
        runs = _runs(fleet, session, campaign_id, export_name)
        parts = [part for run in runs for part in fleet.store.parts(run.run_id)]
    shown = parts[len(parts) - min(last, len(parts)) :]
    if as_json:
        say(dumps(shown), as_json=True)
        return 0
    for part in shown:
        say(
            f"{part.path}  {part.status.value}  {part.digest.rows} rows  "
            f"{part.digest.size_bytes} bytes  {part.digest.fingerprint}"
        )
    return 0


@state.command("chunks")
@config_option
@param_option
@campaign_option
@state_option
@export_option
@json_option
def chunks(
    config: Path,
    params: tuple[str, ...],
    campaign_id: str | None,
    state_url: str | None,
    export_name: str | None,
    as_json: bool,
) -> int:
    """Every chunk task: its range, status, attempts, fence, owner and last error."""
    session = start(config, params, state_url, quiet=True)
    hide = known_redactor()
    with fleet_of(session, "state") as fleet:
        runs = _runs(fleet, session, campaign_id, export_name)
        listed = [(run, fleet.store.tasks(run.run_id)) for run in runs]
    if as_json:
        body = [{"run": _brief(run), "chunks": tasks} for run, tasks in listed]
        say(dumps(redact_plain(to_plain(body), hide)), as_json=True)
        return 0
    for run, tasks in listed:
        say(f"{run.run_id}  {run.status.value}")
        for task in tasks:
            error = f"  {task.error_class}: {task.last_error}" if task.last_error else ""
            owner = f"  owner {task.owner_name}" if task.owner_name else ""
            say(
                hide(
                    f"  {task.chunk_index:>6}  {task.status.value:<9} "
                    f"attempts {task.attempts}/{task.attempts_max}  fence {task.fence}  "
                    f"{describe_range(task.chunk_range)}{owner}{error}"
                )
            )
    return 0


def _limit(value: str | None, word: str, kind: type[int] | type[float]) -> float | int | None:
    """A number above zero, or ``none``. Raises UsageError."""
    if value is None or value == "none":
        return None
    try:
        number = kind(value)
    except ValueError:
        number = kind(0)
    if not 0 < number < float("inf"):
        raise UsageError(f"{word} {value!r} is no limit", hint="a number above 0, or none")
    return number


@state.command("budget")
@config_option
@param_option
@state_option
@click.argument("group_name", required=False, metavar="[GROUP]")
@click.option("--chunks", metavar="N|none", default=None, help="Chunks that run at once.")
@click.option("--connections", metavar="N|none", default=None, help="Connections at once.")
@click.option("--rows-per-s", metavar="N|none", default=None, help="Rows read per second.")
@click.option("--mb-per-s", metavar="N|none", default=None, help="Megabytes per second.")
@json_option
def budget(
    config: Path,
    params: tuple[str, ...],
    state_url: str | None,
    group_name: str | None,
    chunks: str | None,
    connections: str | None,
    rows_per_s: str | None,
    mb_per_s: str | None,
    as_json: bool,
) -> int:
    """Show the budgets of source groups, or change one while campaigns run.

    What is set here holds until a configuration with another budget is submitted or resumed.
    """
    changes: dict[str, float | int | None] = {}
    if chunks is not None:
        changes["chunks_max"] = _limit(chunks, "--chunks", int)
    if connections is not None:
        changes["connections_max"] = _limit(connections, "--connections", int)
    if rows_per_s is not None:
        changes["rows_per_s"] = _limit(rows_per_s, "--rows-per-s", float)
    if mb_per_s is not None:
        size = _limit(mb_per_s, "--mb-per-s", float)
        changes["bytes_per_s"] = None if size is None else size * MEGABYTE
    if changes and group_name is None:
        raise UsageError("which source group?", hint="rivet-fleet state budget GROUP --chunks 2")
    session = start(config, params, state_url, quiet=True)
    with fleet_of(session, "state") as fleet:
        if changes and group_name is not None:
            change_budget(fleet, group_name, changes)
        budgets = [b for b in fleet.store.budgets() if group_name in (None, b.group_name)]
    if as_json:
        say(dumps(budgets), as_json=True)
        return 0
    for one in budgets:
        say(budget_line(one))
    if not budgets:
        say("no budget: nothing is limited")
    return 0
