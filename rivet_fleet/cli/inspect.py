"""status, validate: looking without touching."""

from __future__ import annotations

from pathlib import Path

import click

from rivet_fleet.cli.invocation import (
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
from rivet_fleet.cli.say import say
from rivet_fleet.contracts.codec import dumps
from rivet_fleet.coordination.fleet import find_campaign
from rivet_fleet.coordination.operate import campaign_status, validate_campaign
from rivet_fleet.errors import ExitCode
from rivet_fleet.observability.status import render_status, status_json
from rivet_fleet.verification.findings import Depth, verification_lines, verification_plain


@click.command()
@config_option
@param_option
@campaign_option
@state_option
@json_option
def status(
    config: Path,
    params: tuple[str, ...],
    campaign_id: str | None,
    state_url: str | None,
    as_json: bool,
) -> int:
    """Where the campaign stands, and why something waits."""
    invocation = start(config, params, state_url, quiet=True)
    with fleet_of(invocation, "status") as fleet:
        view = find_campaign(fleet, invocation.loaded, wanted_campaign(invocation, campaign_id))
        report = campaign_status(fleet, view)
    hide = known_redactor()
    shown = status_json if as_json else render_status
    say(shown(report, hide), as_json=as_json)
    return 0


@click.command()
@config_option
@param_option
@campaign_option
@state_option
@click.option("-e", "--export", "export_name", default=None, help="Only this export.")
@click.option(
    "--depth",
    type=click.Choice(["light", "sample", "full"]),
    default="full",
    show_default=True,
    help="Manifest only; plus a listing; plus every byte and value.",
)
@json_option
def validate(
    config: Path,
    params: tuple[str, ...],
    campaign_id: str | None,
    state_url: str | None,
    export_name: str | None,
    depth: str,
    as_json: bool,
) -> int:
    """Check delivered files against their manifest. Exit 3 when they are verified wrong."""
    invocation = start(config, params, state_url, quiet=True)
    with fleet_of(invocation, "validate") as fleet:
        view = find_campaign(fleet, invocation.loaded, wanted_campaign(invocation, campaign_id))
        verified = validate_campaign(
            fleet, view.campaign_id, depth=Depth(depth), export_name=export_name
        )
    if as_json:
        plain = [verification_plain(v.export_name, v.uri, v.verification) for v in verified]
        say(dumps({"exports": plain}), as_json=True)
    else:
        for v in verified:
            say("\n".join(verification_lines(v.export_name, v.uri, v.verification)))
        if not verified:
            say("nothing was delivered: no rows, and skip_empty")
    codes = [int(v.verification.exit_code) for v in verified]
    return (
        int(ExitCode.DATA_INTEGRITY) if ExitCode.DATA_INTEGRITY in codes else max(codes, default=0)
    )
