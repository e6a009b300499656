"""requeue, cancel, gc: an operator's verbs."""

from __future__ import annotations

from pathlib import Path

import click

from rivet_fleet.cli.environment import operator
from rivet_fleet.cli.failure import ending, say_ended
from rivet_fleet.cli.invocation import (
    campaign_option,
    config_option,
    fleet_of,
    known_redactor,
    param_option,
    start,
    state_option,
    wanted_campaign,
)
from rivet_fleet.cli.options import json_option, yes_option
from rivet_fleet.cli.say import confirm, say
from rivet_fleet.contracts.codec import dumps
from rivet_fleet.contracts.manifest import REPLACED_AFTER_S
from rivet_fleet.contracts.state import CampaignStatus
from rivet_fleet.coordination import operate
from rivet_fleet.coordination.fleet import find_campaign
from rivet_fleet.coordination.garbage import collect_garbage
from rivet_fleet.errors import ExitCode, UsageError


@click.command()
@config_option
@param_option
@campaign_option
@state_option
@click.option("-e", "--export", "export_name", default=None, help="Only this export.")
@click.option("--chunk", type=int, default=None, help="Only this chunk index.")
@click.option("--lost", is_flag=True, help="Also delivered chunks whose files are gone or changed.")
@json_option
def requeue(
    config: Path,
    params: tuple[str, ...],
    campaign_id: str | None,
    state_url: str | None,
    export_name: str | None,
    chunk: int | None,
    lost: bool,
    as_json: bool,
) -> int:
    """Give failed chunks another chance; then `rivet-fleet resume`."""
    invocation = start(config, params, state_url, quiet=True)
    with fleet_of(invocation, "requeue") as fleet:
        view = find_campaign(fleet, invocation.loaded, wanted_campaign(invocation, campaign_id))
        done = operate.requeue(
            fleet, view.campaign_id, export_name=export_name, chunk_index=chunk, lost=lost
        )
    say(
        dumps(done)
        if as_json
        else f"requeued {done.failed} failed and {done.lost} lost chunks of {view.campaign_id}; "
        "continue with `rivet-fleet resume`",
        as_json=as_json,
    )
    return 0


@click.command()
@config_option
@param_option
@campaign_option
@state_option
@click.option("--reason", required=True, help="Why the data are right: kept with the run.")
@click.option("--by", default=None, help="Who says so; the user and host of this process.")
@json_option
@click.argument("export_name", metavar="EXPORT")
def accept(
    config: Path,
    params: tuple[str, ...],
    campaign_id: str | None,
    state_url: str | None,
    reason: str,
    by: str | None,
    as_json: bool,
    export_name: str,
) -> int:
    """Deliver a run that its quality gates refused. Nothing is read again."""
    if not reason.strip():
        raise UsageError("--reason must say why the data are right")
    invocation = start(config, params, state_url, quiet=True)
    with fleet_of(invocation, "accept") as fleet:
        view = find_campaign(fleet, invocation.loaded, wanted_campaign(invocation, campaign_id))
        word = operate.Word(by=by or operator(), reason=reason.strip())
        done = operate.accept(fleet, view.campaign_id, export_name=export_name, word=word)
    failure = None
    if done.status == "failed":
        said = f"run {done.run_id} is accepted, and failed: {known_redactor()(done.error or '')}"
        failure = ending(ExitCode.DATA_INTEGRITY, said, hint="`rivet-fleet status` says why")
    if as_json:
        say_ended(dumps(done), failure)
    else:
        before = "" if done.created else "already "
        say(
            f"run {done.run_id} was {before}accepted by {done.by}: {done.reason}\n"
            + "".join(f"  {gate}\n" for gate in done.gates)
            + f"it is {done.status}{f': {done.error}' if done.error else ''}"
        )
    return failure.exit_code if failure else int(ExitCode.OK)


@click.command()
@config_option
@param_option
@campaign_option
@state_option
@yes_option
@json_option
def cancel(
    config: Path,
    params: tuple[str, ...],
    campaign_id: str | None,
    state_url: str | None,
    yes: bool,
    as_json: bool,
) -> int:
    """Give a campaign up: nothing more is claimed, running chunks lose their fence.

    Asks on a terminal; elsewhere --yes is needed.
    """
    invocation = start(config, params, state_url, quiet=True)
    with fleet_of(invocation, "cancel") as fleet:
        view = find_campaign(fleet, invocation.loaded, wanted_campaign(invocation, campaign_id))
        if not view.status.over:
            confirm(f"Give campaign {view.campaign_id} up?", yes=yes)
        taken = operate.cancel(fleet, view.campaign_id)
        after = fleet.store.campaign(view.campaign_id) or view
    if as_json:
        found = {"campaign_id": view.campaign_id, "taken_back": taken, "status": after.status.value}
        say(dumps(found), as_json=True)
    elif after.status is CampaignStatus.COMPLETED:
        say(
            f"campaign {view.campaign_id} is completed as before its repair, which was given up; "
            f"{taken} running chunks were taken back"
        )
    else:
        say(
            f"campaign {view.campaign_id} is cancelled; {taken} running chunks were taken back. "
            "What is delivered stays; files of unfinished exports stay, too, without a manifest"
        )
    return 0


@click.command()
@config_option
@param_option
@campaign_option
@state_option
@click.option(
    "--min-age-s",
    type=float,
    default=3600.0,
    show_default=True,
    help="Younger staged bytes may belong to somebody who has not committed yet.",
)
@click.option(
    "--replaced-after-s",
    type=click.FloatRange(0),
    default=REPLACED_AFTER_S,
    show_default=True,
    help="Parts that a repair replaced stay for so long, for who reads them yet.",
)
@json_option
def gc(
    config: Path,
    params: tuple[str, ...],
    campaign_id: str | None,
    state_url: str | None,
    min_age_s: float,
    replaced_after_s: float,
    as_json: bool,
) -> int:
    """Remove staged bytes that no ledger row needs, parts of given-up attempts that a store
    showed after their run had ended, and parts that a repair replaced. Touches no other visible
    file.
    """
    invocation = start(config, params, state_url, quiet=True)
    with fleet_of(invocation, "gc") as fleet:
        view = find_campaign(fleet, invocation.loaded, wanted_campaign(invocation, campaign_id))
        swept = collect_garbage(
            fleet, view.campaign_id, min_age_s=min_age_s, replaced_after_s=replaced_after_s
        )
    say(
        dumps(swept)
        if as_json
        else f"removed {swept.staged_files} staged files ({swept.staged_bytes} bytes), "
        f"{swept.late_parts} late and {swept.replaced_parts} replaced parts, and "
        f"{swept.spool_folders} spool folders",
        as_json=as_json,
    )
    return 0
