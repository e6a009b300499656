"""state accept|import|budget: what marks and campaigns belong to, where exports go on, and how
much a source bears, by an operator's word."""

from __future__ import annotations

from pathlib import Path

import click

from rivet_fleet.cli.environment import operator
from rivet_fleet.cli.invocation import (
    Invocation,
    config_option,
    fleet_of,
    param_option,
    start,
    state_option,
)
from rivet_fleet.cli.options import json_option
from rivet_fleet.cli.say import say, say_line
from rivet_fleet.contracts.codec import dumps
from rivet_fleet.contracts.window import describe_binding, describe_mark
from rivet_fleet.coordination import marks, operate, takeover
from rivet_fleet.coordination.fleet import refuse_other_owner
from rivet_fleet.coordination.operate import Word
from rivet_fleet.errors import ExitCode, UsageError
from rivet_fleet.observability.reasons import budget_line
from rivet_fleet.planning.config.protection import MEGABYTE


@click.command("accept")
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
    invocation = start(config, params, state_url, quiet=True)
    word = Word(by=by or operator(), reason=reason.strip())
    if export_name is None:
        return _accept_campaigns(invocation, word, as_json=as_json)
    with fleet_of(invocation, "accept") as fleet:
        refuse_other_owner(fleet.store, invocation.loaded)
        done = marks.accept_mark(fleet, invocation.loaded, export_name, word)
    if as_json:
        say(dumps(done), as_json=True)
        return 0
    if not done.created:
        say(f"the mark of {export_name} belongs to this already: nothing was changed")
        return 0
    say_line(f"{export_name} goes on from {describe_mark(done.mark)}")
    for change in done.changes:
        say(f"  {change.sentence}")
    say(f"  bound to {describe_binding(done.binding)}")
    return 0


def _accept_campaigns(invocation: Invocation, word: Word, *, as_json: bool) -> int:
    with fleet_of(invocation, "accept") as fleet:
        done = operate.accept_campaigns(fleet, invocation.loaded, word)
    if as_json:
        say(dumps(done), as_json=True)
    elif not done.created:
        say(f"campaigns of {done.campaign_name} belong to this already: nothing was changed")
    else:
        say(f"{done.campaigns} campaign(s) of {done.campaign_name} belong to {done.after.shown}")
        if done.before is not None:
            say(f"  and belonged to {done.before.shown}")
    return 0


@click.command("import")
@config_option
@param_option
@state_option
@click.option("-e", "--export", "names", multiple=True, help="Only this export; repeat for more.")
@click.option(
    "--from",
    "place",
    default=None,
    metavar="PATH|URL",
    help="Rivet's state; by default .rivet_state.db beside the configuration.",
)
@json_option
def import_cursors(
    config: Path,
    params: tuple[str, ...],
    state_url: str | None,
    names: tuple[str, ...],
    place: str | None,
    as_json: bool,
) -> int:
    """Let incremental exports go on where Rivet stopped: take the cursors of its state.

    What lies at a cursor and below is not read; the source is asked what the export means, and
    its mark is bound to that. An export that has a mark here keeps it. Rivet's state is read and
    left as it is: run only one of the two from then on. A password is better left to PGPASSWORD
    or ~/.pgpass than written here.
    """
    invocation = start(config, params, state_url, quiet=True)
    where, cursors = takeover.rivets_cursors(invocation.loaded, place)
    with fleet_of(invocation, "state", begins=True) as fleet:
        refuse_other_owner(fleet.store, invocation.loaded)
        done = takeover.import_marks(fleet, invocation.loaded, where, cursors, names, operator())
    if as_json:
        say(dumps(done), as_json=True)
    else:
        for one in done:
            if one.mark is not None:
                say_line(f"{one.export_name} goes on from {describe_mark(one.mark)}")
            else:
                say_line(f"{one.export_name}: nothing was changed: {one.reason}")
        if not done:
            say("no export of this configuration goes by a cursor: nothing was changed")
    left = [one for one in done if not one.created and not one.settled]
    return int(ExitCode.GENERIC if left else ExitCode.OK)


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


@click.command("budget")
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
    invocation = start(config, params, state_url, quiet=True)
    with fleet_of(invocation, "state") as fleet:
        if changes and group_name is not None:
            refuse_other_owner(fleet.store, invocation.loaded)
            operate.change_budget(fleet, invocation.loaded, group_name, changes)
        budgets = list(operate.budgets_named(fleet, invocation.loaded, group_name).values())
    if as_json:
        say(dumps(budgets), as_json=True)
        return 0
    for one in budgets:
        say(budget_line(one))
    if not budgets:
        say("no budget: nothing is limited")
    return 0
