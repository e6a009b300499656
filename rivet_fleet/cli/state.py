"""state show|files|chunks|…: what the fleet knows, and the operator's ways to change it."""

from __future__ import annotations

from pathlib import Path

import click

from rivet_fleet.cli.amend import accept, budget, import_cursors
from rivet_fleet.cli.environment import operator
from rivet_fleet.cli.invocation import (
    Invocation,
    campaign_option,
    config_option,
    exact_redactor,
    fleet_of,
    known_redactor,
    param_option,
    start,
    state_option,
    wanted_campaign,
)
from rivet_fleet.cli.options import json_option, yes_option
from rivet_fleet.cli.say import confirm, say, say_line
from rivet_fleet.contracts.codec import dumps, to_plain
from rivet_fleet.contracts.identity import NAMESPACE_DEFAULT
from rivet_fleet.contracts.keys import describe_range
from rivet_fleet.contracts.state import Boundary, RunView
from rivet_fleet.contracts.window import describe_mark
from rivet_fleet.coordination import marks, operate
from rivet_fleet.coordination.fleet import Fleet, find_campaign, refuse_other_owner
from rivet_fleet.errors import UsageError
from rivet_fleet.observability.units import redact_plain
from rivet_fleet.planning.config.connections import key_in

export_option = click.option("-e", "--export", "export_name", default=None, help="This export.")


@click.group()
def state() -> None:
    """Inspect, migrate and reset the state database."""


for _command in (accept, budget, import_cursors):
    state.add_command(_command)


def _runs(
    fleet: Fleet, invocation: Invocation, campaign_id: str | None, export_name: str | None
) -> list[RunView]:
    view = find_campaign(fleet, invocation.loaded, wanted_campaign(invocation, campaign_id))
    return operate.selected_runs(fleet, view.campaign_id, export_name)


@state.command("show")
@config_option
@param_option
@state_option
@json_option
def show(config: Path, params: tuple[str, ...], state_url: str | None, as_json: bool) -> int:
    """Every campaign of this configuration's name, and the high-water marks of its exports."""
    invocation = start(config, params, state_url, quiet=True)
    with fleet_of(invocation, "state") as fleet:
        refuse_other_owner(fleet.store, invocation.loaded)
        campaigns = fleet.store.campaigns(name=invocation.loaded.campaign_name)
        listed = [(c, fleet.store.runs(c.campaign_id)) for c in campaigns]
        known = fleet.store.progression(invocation.loaded.campaign_name)
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
        where = "" if invocation.namespace == NAMESPACE_DEFAULT else f" in {invocation.namespace}"
        say(f"no campaign yet{where}")
    for campaign, runs in listed:
        say_line(f"{campaign.campaign_id}  {campaign.status.value}")
        for run in runs:
            say_line(
                f"  {run.export_name:<24} {run.status.value:<12} "
                f"{run.counts.completed}/{run.expected_tasks} chunks  {run.rows} rows"
            )
    for name, mark in marks.items():
        say_line(f"the next run of {name} reads from {describe_mark(mark)}")
    return 0


@state.command("progression")
@config_option
@param_option
@state_option
@json_option
def progression(config: Path, params: tuple[str, ...], state_url: str | None, as_json: bool) -> int:
    """How far each export has come: observed, committed, verified. Nothing is decided by it."""
    invocation = start(config, params, state_url, quiet=True)
    with fleet_of(invocation, "state") as fleet:
        refuse_other_owner(fleet.store, invocation.loaded)
        found = fleet.store.progression(invocation.loaded.campaign_name)
        observed = marks.observed(fleet, invocation.loaded)
    if as_json:
        body = [{"progression": p, "observed": observed.get(p.export_name)} for p in found]
        say(dumps(body), as_json=True)
        return 0
    if not found:
        say("no run has completed yet")
    for one in found:
        say_line(one.export_name)
        say_line(f"  observed   {_mark_line(observed.get(one.export_name))}")
        say_line(f"  committed  {_boundary_line(one.committed)}")
        say_line(f"  verified   {_boundary_line(one.verified)}")
    return 0


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
    invocation = start(config, params, state_url, quiet=True)
    with fleet_of(invocation, "state") as fleet:
        runs = _runs(fleet, invocation, campaign_id, export_name)
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
    """Every chunk task: its range, status, attempts, fence, owner and last error.

    One that is running is `delivering` when it is read to its end.
    """
    invocation = start(config, params, state_url, quiet=True)
    hide = known_redactor()
    with fleet_of(invocation, "state") as fleet:
        runs = _runs(fleet, invocation, campaign_id, export_name)
        listed = [(run, fleet.store.tasks(run.run_id)) for run in runs]
    if as_json:
        body = [{"run": _brief(run), "chunks": tasks} for run, tasks in listed]
        say(dumps(redact_plain(to_plain(body), hide)), as_json=True)
        return 0
    for run, tasks in listed:
        say_line(f"{run.run_id}  {run.status.value}")
        for task in tasks:
            error = f"  {task.error_class}: {task.last_error}" if task.last_error else ""
            owner = f"  owner {task.owner_name}" if task.owner_name else ""
            status = "delivering" if task.delivering else task.status.value
            say_line(
                hide(
                    f"  {task.chunk_index:>6}  {status:<10} "
                    f"attempts {task.attempts}/{task.attempts_max}  fence {task.fence}  "
                    f"{describe_range(task.chunk_range)}{owner}{error}"
                )
            )
    return 0


# ------------------------------------------------------------------------------------------
# state copy|reseal|reset|reset-chunks|migrate: an operator changes what the fleet knows.


def _reset(
    config: Path,
    params: tuple[str, ...],
    state_url: str | None,
    export_name: str,
    *,
    chunks_only: bool,
    yes: bool,
) -> int:
    invocation = start(config, params, state_url, quiet=True)
    known = [export.name for export in invocation.loaded.config.exports]
    with fleet_of(invocation, "state") as fleet:
        refuse_other_owner(fleet.store, invocation.loaded)
        names = operate.planned_as(fleet, invocation.loaded, export_name)
        if export_name not in known and not names:
            raise UsageError(f"no export {export_name}", hint=f"known exports: {', '.join(known)}")
        what = "runs and chunks" if chunks_only else "runs, chunks and mark"
        confirm(f"Forget the {what} of export {export_name}?", yes=yes)
        campaign = invocation.loaded.campaign_name
        removed = operate.reset(fleet, campaign, {export_name, *names}, chunks_only=chunks_only)
    say(f"forgot {removed} runs of {export_name}; delivered files were not touched")
    return 0


@state.command("reset")
@config_option
@param_option
@state_option
@click.option("-e", "--export", "export_name", required=True, help="The export to forget.")
@yes_option
def reset(
    config: Path, params: tuple[str, ...], state_url: str | None, export_name: str, yes: bool
) -> int:
    """Forget everything about an export: runs, chunks, ledger, cursor, progression.

    Asks on a terminal; elsewhere --yes is needed.
    """
    return _reset(config, params, state_url, export_name, chunks_only=False, yes=yes)


@state.command("reset-chunks")
@config_option
@param_option
@state_option
@click.option("-e", "--export", "export_name", required=True, help="The export to forget.")
@yes_option
def reset_chunks(
    config: Path, params: tuple[str, ...], state_url: str | None, export_name: str, yes: bool
) -> int:
    """Forget an export's runs and chunks, but keep its cursor and progression.

    Asks on a terminal; elsewhere --yes is needed.
    """
    return _reset(config, params, state_url, export_name, chunks_only=True, yes=yes)


@state.command("migrate")
@config_option
@param_option
@state_option
def migrate(config: Path, params: tuple[str, ...], state_url: str | None) -> int:
    """Bring the state database to this program's schema version.

    A SQLite file is copied first, to `<name>.before-<version>`. Of a PostgreSQL database take a
    dump before: that is its operator's. Refused while an older program still works with it. It
    is every namespace's database: programs of the older version are refused from then on.
    """
    invocation = start(config, params, state_url, quiet=True, needs_namespace=False)
    with fleet_of(invocation, "state", begins=True, for_all=True) as fleet:
        fleet.store.check_version()
    say("the state database has this program's schema version")
    return 0


@state.command("copy")
@config_option
@param_option
@state_option
@click.option("--to", "target", required=True, metavar="URL", help="postgresql://… (empty).")
@json_option
def copy(
    config: Path, params: tuple[str, ...], state_url: str | None, target: str, as_json: bool
) -> int:
    """Move a SQLite state into an empty PostgreSQL database, whole or not at all.

    One transaction; every row is compared before it ends. The file says afterwards where its
    state is, and is refused from then on. Nothing may work with it meanwhile. A password is better
    left to PGPASSWORD or ~/.pgpass than written here.
    """
    invocation = start(config, params, state_url, quiet=True)
    done = operate.copy_state(invocation.state_url, target)
    if as_json:
        say(dumps(done), as_json=True)
        return 0
    for table in done.tables:
        say(f"  {table.name:<20} {table.rows:>10} rows")
    said = "moved" if done.created else "had been copied already, and is moved now,"
    say(
        f"the state {said} to {done.target}: point state: or RIVET_FLEET_STATE_URL there, and say "
        f"whose part it is (state.namespace: {invocation.namespace})"
    )
    return 0


@state.command("reseal")
@config_option
@param_option
@state_option
@click.option(
    "--old-key-env",
    default=None,
    metavar="NAME",
    help="The variable with the key that the state is sealed with now; without it: with none.",
)
@click.option(
    "--yes",
    "shown",
    default=None,
    metavar="FINGERPRINT",
    help="What was shown under this fingerprint was looked at: seal exactly that.",
)
def reseal(
    config: Path,
    params: tuple[str, ...],
    state_url: str | None,
    old_key_env: str | None,
    shown: str | None,
) -> int:
    """Seal everything in the state anew with the key of state.key_env, or without one.

    Every row is checked by its present seal first; one that is not what was sealed refuses the
    whole, and nothing is changed. Refused while anybody works in the namespace. What had no key
    before can have been made by anybody who writes to the state: it is shown, with a fingerprint
    of all of it. A terminal asks; elsewhere --yes FINGERPRINT is needed.
    """
    invocation = start(config, params, state_url, quiet=True)
    with fleet_of(invocation, "state") as fleet:
        refuse_other_owner(fleet.store, invocation.loaded)
        # The configuration names the new one alone, and keeps no other variable.
        value = invocation.environment.variables.get(old_key_env or "")
        old_key = key_in(invocation.loaded, old_key_env, value) if old_key_env else None
        if old_key is None and invocation.loaded.config.state.key_env and shown is None:
            shown = _look(fleet, invocation)
        runs = fleet.store.reseal(old_key, by=operator(), shown=None if old_key else shown)
    say(f"sealed anew: {runs} runs with their chunks and parts, budgets and marks")
    return 0


def _look(fleet: Fleet, invocation: Invocation) -> str:
    """Show what would get the key's seal, and ask; its fingerprint. Raises UsageError."""
    say("what is there has no key's seal: whoever writes to the state can have made it")
    hide = exact_redactor(invocation)
    lines, fingerprint = marks.unkeyed(fleet)
    for line in lines:
        # A pattern of what looks like a secret could be made to hide what a plan says.
        masked = hide(line)
        told = "" if masked == line else "  (*** is a secret of this configuration)"
        say(f"  {_escaped(masked)}{told}")
    say("had it a key before? Then somebody has replaced its seals: restore it, or cancel")
    say(f"fingerprint of all of it: {fingerprint}")
    confirm(
        "Is all of it what was planned?",
        yes=False,
        hint=f"when it is, say so with --yes {fingerprint}",
    )
    return fingerprint


def _escaped(line: str) -> str:
    """With each character that is not plain ASCII as an escape: none is unseen or looks like
    another."""
    return "".join(
        one if " " <= one <= "~" else one.encode("unicode_escape").decode() for one in line
    )
