"""status, validate, files: looking without touching."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from rivet_fleet.cli.environment import config_path, read_environment
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
from rivet_fleet.cli.options import exports_option, json_option
from rivet_fleet.cli.say import say, say_line
from rivet_fleet.contracts.codec import dumps
from rivet_fleet.coordination import wiring
from rivet_fleet.coordination.delivered import (
    Validated,
    ledger_of,
    newest_delivered,
    validate_campaign,
    validate_place,
    validate_run,
)
from rivet_fleet.coordination.fleet import find_campaign, refuse_other_owner
from rivet_fleet.coordination.operate import campaign_status
from rivet_fleet.errors import ExitCode, UsageError
from rivet_fleet.execution.registry import destination_kinds
from rivet_fleet.observability.status import render_status, status_json
from rivet_fleet.planning.config.destinations import own_place, place_named
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
@click.option(
    "-c",
    "--config",
    "config",
    default=None,
    type=click.Path(path_type=Path),
    help="The configuration file; default: fleet.yaml, else what RIVET_FLEET_CONFIG names. With "
    "--prefix none is looked for.",
)
@param_option
@campaign_option
@state_option
@click.option("-e", "--export", "export_name", default=None, help="Only this export.")
@click.option(
    "--prefix",
    metavar="PATH_OR_URI",
    default=None,
    help="The files of this place: its manifest against its bytes. With -c against the state's "
    "ledger, too.",
)
@click.option(
    "--run-id",
    default=None,
    help="This run, of whatever campaign; default: the campaign's runs, of a prefix the newest.",
)
@click.option(
    "--depth",
    type=click.Choice(["light", "sample", "full"]),
    default="full",
    show_default=True,
    help="Manifest only; plus a listing; plus every byte and value.",
)
@json_option
def validate(
    config: Path | None,
    params: tuple[str, ...],
    campaign_id: str | None,
    state_url: str | None,
    export_name: str | None,
    prefix: str | None,
    run_id: str | None,
    depth: str,
    as_json: bool,
) -> int:
    """Check delivered files against their manifest, and that against the ledger.

    With --prefix only the files are needed: no state, no configuration, no source. Exit 3 when
    they are verified wrong.
    """
    deep = Depth(depth)
    if prefix is not None and (export_name or campaign_id):
        raise UsageError("a prefix is one export", hint="--run-id chooses one of its runs")
    if run_id is not None and (export_name or campaign_id):
        raise UsageError("a run is of one export and one campaign", hint="--run-id alone names it")
    if prefix is not None and config is None:
        kinds, allowed = destination_kinds(), read_environment().allowed
        found = validate_place(
            lambda place: wiring.open_place(place, allowed),
            place_named(prefix.rstrip("/") or "/", kinds),
            run_id=run_id,
            depth=deep,
        )
        return _tell_validated(found, as_json=as_json)
    invocation = start(config_path(config), params, state_url, quiet=True)
    with fleet_of(invocation, "validate") as fleet:
        if prefix is not None:
            verified = validate_place(
                fleet.open_destination,
                own_place(invocation.loaded, prefix.rstrip("/") or "/"),
                run_id=run_id,
                depth=deep,
                ledger=ledger_of(fleet),
            )
        elif run_id is not None:
            verified = [validate_run(fleet, run_id, depth=deep)]
        else:
            view = find_campaign(fleet, invocation.loaded, wanted_campaign(invocation, campaign_id))
            verified = validate_campaign(
                fleet, view.campaign_id, depth=deep, export_name=export_name
            )
    return _tell_validated(verified, as_json=as_json)


def _tell_validated(verified: Sequence[Validated], *, as_json: bool) -> int:
    hide = known_redactor()
    codes = [int(v.verification.exit_code) for v in verified]
    wrong = ExitCode.DATA_INTEGRITY in codes
    code = int(ExitCode.DATA_INTEGRITY) if wrong else max(codes, default=0)
    failures = [
        ending(
            int(v.verification.exit_code),
            hide(finding.message),
            code=finding.code.value,
            about=v.export_name,
        )
        for v in verified
        for finding in v.verification.failures
    ]
    if as_json:
        plain = [verification_plain(v.export_name, v.uri, v.verification) for v in verified]
        first = next((one for one in failures if one.exit_code == code), None)
        say_ended(dumps({"exports": plain}), first if code else None, failures)
        return code
    for v in verified:
        say("\n".join(verification_lines(v.export_name, v.uri, v.verification)))
    if not verified:
        say("nothing was delivered: no rows, and skip_empty")
    return code


@click.command()
@config_option
@param_option
@state_option
@exports_option
@json_option
def files(
    config: Path,
    params: tuple[str, ...],
    state_url: str | None,
    exports: tuple[str, ...],
    as_json: bool,
) -> int:
    """The files of the newest complete run of an export, one a line; of every export without -e.

    What a reader should read: a folder has the runs of every day, and files of those that are not
    complete.
    """
    invocation = start(config, params, state_url, quiet=True)
    with fleet_of(invocation, "files") as fleet:
        refuse_other_owner(fleet.store, invocation.loaded)
        found = newest_delivered(fleet, invocation.loaded, exports)
    if as_json:
        say(dumps(found), as_json=True)
        return 0
    for run in found:
        for file in run.files:
            say_line(file)
    return 0
