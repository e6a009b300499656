"""run, submit, resume: the commands that make a campaign go on."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click

from rivet_fleet.cli.failure import say_ended
from rivet_fleet.cli.invocation import (
    Invocation,
    campaign_option,
    config_option,
    fleet_of,
    param_option,
    start,
    state_option,
    wanted_campaign,
)
from rivet_fleet.cli.options import details_option, exports_option, json_option
from rivet_fleet.cli.reconcile import Settings, compare_delivered
from rivet_fleet.cli.repair import repair_found
from rivet_fleet.cli.say import give, is_quiet, refuse_stream, say_line
from rivet_fleet.cli.verdict import (
    left_out_failure,
    left_out_failures,
    tell_left_out,
)
from rivet_fleet.cli.work import Going, coordinate, prepare_workers, workers_option
from rivet_fleet.contracts.codec import dumps
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.reconcile import ReconcileDepth
from rivet_fleet.coordination import submit as submission
from rivet_fleet.coordination import wiring
from rivet_fleet.coordination.fleet import find_campaign
from rivet_fleet.errors import ExitCode

new_option = click.option(
    "--new",
    "anew",
    is_flag=True,
    help="Start a new campaign in place of an unfinished one of this name, once it is planned.",
)


@click.command()
@config_option
@param_option
@campaign_option
@state_option
@exports_option
@workers_option
@new_option
@click.option(
    "--reconcile",
    "reconcile_depth",
    type=click.Choice([one.value for one in ReconcileDepth]),
    is_flag=False,
    flag_value=ReconcileDepth.HASH.value,
    default=None,
    help="Compare what was delivered with its source: --reconcile (hash) or --reconcile=count.",
)
@details_option
@json_option
def run(
    config: Path,
    params: tuple[str, ...],
    campaign_id: str | None,
    state_url: str | None,
    exports: tuple[str, ...],
    workers: int | None,
    anew: bool,
    reconcile_depth: str | None,
    details: bool,
    as_json: bool,
) -> int:
    """Plan a campaign (or continue the unfinished one), work on it, and say how it ended.

    Safe to kill and to start again at any moment. With -e the named exports alone are planned, or
    worked on where a campaign has them unfinished.
    """
    invocation = start(config, params, state_url, shows_progress=True)
    prepare_workers(invocation)
    with (
        _streaming(invocation, as_json=as_json) as given_on,
        fleet_of(invocation, "coordinator", begins=True) as fleet,
    ):
        wanted = wanted_campaign(invocation, campaign_id)
        submitted = submission.submit(fleet, invocation.loaded, wanted, anew=anew, names=exports)
        if not submitted.created:
            _tell_continued(submitted.campaign_id)
        going = Going(
            workers=workers if invocation.stream is None else 1,
            resumed=not submitted.created,
            as_json=as_json,
            details=details,
            exports=exports,
            left_out=submitted.left_out,
            beside_stream=invocation.stream is not None,
        )
        code = coordinate(invocation, fleet, submitted.campaign_id, going)
        if code == ExitCode.OK and invocation.stream is None:
            settings = Settings(depth=reconcile_depth, workers=workers)
            asked = settings if reconcile_depth else None
            mending = partial(repair_found, invocation, fleet)
            code = compare_delivered(
                invocation, fleet, submitted.campaign_id, exports, asked, mending
            )
        return given_on(code)


@contextmanager
def _streaming(invocation: Invocation, *, as_json: bool) -> Iterator[Callable[[int], int]]:
    """Where standard output is the destination: a place for the length of the command, and what
    gives its file on when all went well. Raises UsageError, DestinationError."""
    if invocation.stream is None:
        yield lambda code: code
        return
    refuse_stream(as_json=as_json)
    with wiring.held_stream(invocation.stream) as found:

        def given_on(code: int) -> int:
            file = found() if code == ExitCode.OK else None
            if file is not None:
                size_bytes = file.stat().st_size
                give(file)
                if not is_quiet():
                    say_line(f"{size_bytes:,} bytes went to standard output, whole", err=True)
            return code

        yield given_on


@click.command()
@config_option
@param_option
@campaign_option
@state_option
@exports_option
@workers_option
@click.option("--join", is_flag=True, help="Help although another coordinator is at work.")
@details_option
@json_option
def resume(
    config: Path,
    params: tuple[str, ...],
    campaign_id: str | None,
    state_url: str | None,
    exports: tuple[str, ...],
    workers: int | None,
    join: bool,
    details: bool,
    as_json: bool,
) -> int:
    """Continue a campaign by its stored plan, even when the configuration has changed since.

    With -e its named exports alone are worked on; the others wait for the next `resume`.
    """
    invocation = start(config, params, state_url, shows_progress=True)
    prepare_workers(invocation)
    with fleet_of(invocation, "coordinator", migrate=True) as fleet:
        view = find_campaign(fleet, invocation.loaded, wanted_campaign(invocation, campaign_id))
        submission.refuse_comparison(view)
        submission.go_on(fleet, invocation.loaded, view.campaign_id, exports)
        _tell_continued(view.campaign_id)
        going = Going(
            workers=workers,
            join=join,
            resumed=True,
            as_json=as_json,
            details=details,
            exports=exports,
        )
        code = coordinate(invocation, fleet, view.campaign_id, going)
        if code == ExitCode.OK:
            mending = partial(repair_found, invocation, fleet)
            code = compare_delivered(invocation, fleet, view.campaign_id, exports, None, mending)
        return code


def _tell_continued(campaign_id: CampaignId) -> None:
    if not is_quiet():
        say_line(f"continuing campaign {campaign_id} by its stored plan", err=True)


@click.command()
@config_option
@param_option
@campaign_option
@state_option
@exports_option
@new_option
@json_option
def submit(
    config: Path,
    params: tuple[str, ...],
    campaign_id: str | None,
    state_url: str | None,
    exports: tuple[str, ...],
    anew: bool,
    as_json: bool,
) -> int:
    """Plan a campaign and store it; workers anywhere will find it.

    Submitting the same id again changes nothing. With -e the named exports alone are planned.
    """
    invocation = start(config, params, state_url)
    with fleet_of(invocation, "submit", begins=True) as fleet:
        wanted = wanted_campaign(invocation, campaign_id)
        submitted = submission.submit(fleet, invocation.loaded, wanted, anew=anew, names=exports)
    failure = left_out_failure(submitted.left_out)
    if as_json:
        say_ended(dumps(submitted), failure, left_out_failures(submitted.left_out))
    elif not is_quiet():
        verb = "submitted" if submitted.created else "was there already: nothing changed"
        say_line(f"campaign {submitted.campaign_id} {verb}")
    tell_left_out(submitted.left_out, shlex.quote(str(config)))
    return failure.exit_code if failure is not None else int(ExitCode.OK)
