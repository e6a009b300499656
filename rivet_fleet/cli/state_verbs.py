"""state accept|copy|reseal|reset|reset-chunks|migrate: an operator changes what the fleet knows."""

from __future__ import annotations

from pathlib import Path

import click

from rivet_fleet.cli.environment import operator
from rivet_fleet.cli.say import say
from rivet_fleet.cli.session import (
    Session,
    config_option,
    fleet_of,
    json_option,
    param_option,
    start,
    state_option,
)
from rivet_fleet.cli.state import state
from rivet_fleet.contracts.binding import describe_binding
from rivet_fleet.contracts.codec import dumps
from rivet_fleet.contracts.cursor import describe_mark
from rivet_fleet.coordination import marks, operate
from rivet_fleet.coordination.campaign_lookup import refuse_other_owner
from rivet_fleet.coordination.operate import Word
from rivet_fleet.errors import UsageError
from rivet_fleet.planning.connections import seal_key

__all__ = ["state"]


@state.command("accept")
@config_option
@param_option
@state_option
@click.option("-e", "--export", "export_name", default=None, help="Whose mark goes on.")
@click.option(
    "--campaign", is_flag=True, help="Whatever campaigns of this name there are are this file's."
)
@click.option("--reason", default="", help="Why that is right: kept in the journal.")
@click.option("--by", default=None, help="Who says so; the user and host of this process.")
@json_option
def accept(
    config: Path,
    params: tuple[str, ...],
    state_url: str | None,
    export_name: str | None,
    campaign: bool,
    reason: str,
    by: str | None,
    as_json: bool,
) -> int:
    """Let an export go on from its mark although the mark belongs to something else now; with
    --campaign, let campaigns of this name belong to this configuration.

    The source is asked, the present meaning is stored beside the mark, and the journal keeps
    who said so, why, before and after. Rows at or below the mark are not read again. Campaigns
    are signed over without asking anybody, and not while a worker holds a chunk of one.
    """
    if campaign == (export_name is not None):
        raise UsageError("accept what?", hint="-e EXPORT for its mark, or --campaign")
    session = start(config, params, state_url, quiet=True)
    word = Word(by=by or operator(), reason=reason.strip())
    if export_name is None:
        return _accept_campaigns(session, word, as_json=as_json)
    with fleet_of(session, "accept") as fleet:
        refuse_other_owner(fleet.store, session.loaded)
        done = marks.accept_mark(fleet, session.loaded, export_name, word)
    if as_json:
        say(dumps(done), as_json=True)
        return 0
    if not done.created:
        say(f"the mark of {export_name} belongs to this already: nothing was changed")
        return 0
    say(f"{export_name} goes on from {describe_mark(done.mark)}")
    for change in done.changes:
        say(f"  {change.sentence}")
    say(f"  bound to {describe_binding(done.binding)}")
    return 0


def _accept_campaigns(session: Session, word: Word, *, as_json: bool) -> int:
    with fleet_of(session, "accept") as fleet:
        done = operate.accept_campaigns(fleet, session.loaded, word)
    if as_json:
        say(dumps(done), as_json=True)
    elif not done.created:
        say(f"campaigns of {done.campaign_name} belong to this already: nothing was changed")
    else:
        say(f"{done.campaigns} campaign(s) of {done.campaign_name} belong to {done.after.shown}")
        if done.before is not None:
            say(f"  and belonged to {done.before.shown}")
    return 0


def _reset(
    config: Path,
    params: tuple[str, ...],
    state_url: str | None,
    export_name: str,
    *,
    chunks_only: bool,
) -> int:
    session = start(config, params, state_url, quiet=True)
    known = [export.name for export in session.loaded.config.exports]
    if export_name not in known:
        raise UsageError(f"no export {export_name}", hint=f"known exports: {', '.join(known)}")
    with fleet_of(session, "state") as fleet:
        refuse_other_owner(fleet.store, session.loaded)
        removed = fleet.store.reset_export(
            session.loaded.campaign_name, export_name, chunks_only=chunks_only
        )
    say(f"forgot {removed} runs of {export_name}; delivered files were not touched")
    return 0


@state.command("reset")
@config_option
@param_option
@state_option
@click.option("-e", "--export", "export_name", required=True, help="The export to forget.")
def reset(config: Path, params: tuple[str, ...], state_url: str | None, export_name: str) -> int:
    """Forget everything about an export: runs, chunks, ledger, cursor, progression."""
    return _reset(config, params, state_url, export_name, chunks_only=False)


@state.command("reset-chunks")
@config_option
@param_option
@state_option
@click.option("-e", "--export", "export_name", required=True, help="The export to forget.")
def reset_chunks(
    config: Path, params: tuple[str, ...], state_url: str | None, export_name: str
) -> int:
    """Forget an export's runs and chunks, but keep its cursor and progression."""
    return _reset(config, params, state_url, export_name, chunks_only=True)


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
    session = start(config, params, state_url, quiet=True, needs_namespace=False)
    with fleet_of(session, "state", begins=True, for_all=True) as fleet:
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
    session = start(config, params, state_url, quiet=True)
    done = operate.copy_state(session.state_url, target)
    if as_json:
        say(dumps(done), as_json=True)
        return 0
    for table in done.tables:
        say(f"  {table.name:<20} {table.rows:>10} rows")
    said = "moved" if done.created else "had been copied already, and is moved now,"
    say(
        f"the state {said} to {done.target}: point state: or RIVET_FLEET_STATE_URL there, and say "
        f"whose part it is (state.namespace: {session.namespace})"
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
def reseal(
    config: Path, params: tuple[str, ...], state_url: str | None, old_key_env: str | None
) -> int:
    """Seal everything in the state anew with the key of state.key_env, or without one.

    Every row is checked by its present seal first; one that is not what was sealed refuses the
    whole, and nothing is changed. Refused while anybody works in the namespace.
    """
    session = start(config, params, state_url, quiet=True)
    with fleet_of(session, "state") as fleet:
        old_key = seal_key(session.loaded, old_key_env) if old_key_env else None
        runs = fleet.store.reseal(old_key, by=operator())
    say(f"sealed anew: {runs} runs with their chunks and parts, budgets and marks")
    return 0
