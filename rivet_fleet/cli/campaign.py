"""run, submit, resume: the commands that make a campaign go on."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from rivet_fleet.cli import nursery
from rivet_fleet.cli.environment import worker_environment
from rivet_fleet.cli.invocation import (
    Invocation,
    campaign_option,
    config_option,
    fleet_of,
    json_option,
    known_redactor,
    param_option,
    process_options,
    start,
    state_option,
    wanted_campaign,
)
from rivet_fleet.cli.say import say, say_line
from rivet_fleet.contracts.codec import dumps
from rivet_fleet.contracts.events import EventName
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.coordination import submit as submission
from rivet_fleet.coordination import wiring
from rivet_fleet.coordination.coordinator import (
    Coordinator,
    CoordinatorOptions,
    coordinator_name,
)
from rivet_fleet.coordination.fleet import Fleet, find_campaign
from rivet_fleet.coordination.supervisor import WorkerCommand, log_folder_of
from rivet_fleet.coordination.tend import closing_report
from rivet_fleet.errors import ExitCode
from rivet_fleet.observability.progress import PlainProgress, ProgressView
from rivet_fleet.observability.report import render_report, report_json

workers_option = click.option(
    "-w",
    "--workers",
    type=click.IntRange(0, 256),
    default=None,
    help="Worker processes on this host; default: campaign.workers.",
)

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
@workers_option
@new_option
@json_option
def run(
    config: Path,
    params: tuple[str, ...],
    campaign_id: str | None,
    state_url: str | None,
    workers: int | None,
    anew: bool,
    as_json: bool,
) -> int:
    """Plan a campaign (or continue the unfinished one), work on it, and say how it ended.

    Safe to kill and to start again at any moment.
    """
    invocation = start(config, params, state_url, shows_progress=True)
    with fleet_of(invocation, "coordinator", begins=True) as fleet:
        wanted = wanted_campaign(invocation, campaign_id)
        submitted = submission.submit(fleet, invocation.loaded, wanted, anew=anew)
        if not submitted.created:
            say_line(f"continuing campaign {submitted.campaign_id} by its stored plan", err=True)
        code = coordinate(
            invocation,
            fleet,
            submitted.campaign_id,
            workers=workers,
            join=False,
            resumed=not submitted.created,
            as_json=as_json,
        )
        if code not in (ExitCode.OK, ExitCode.INCOMPLETE):
            return code
        return _tell_left_out(submitted, config) or code


def _tell_left_out(submitted: submission.Submitted, config: Path) -> int:
    """Name what the campaign does not deliver, and what does: the exit code that this makes."""
    redact = known_redactor()
    for one in submitted.left_out:
        said = f"export {one.export_name} is left out, nothing of it is delivered: {one.reason}"
        say(redact(said), err=True)
    if not submitted.left_out:
        return int(ExitCode.OK)
    names = " ".join(f"-e {shlex.quote(one.export_name)}" for one in submitted.left_out)
    say(
        f"  hint: `rivet-fleet plan -c {shlex.quote(str(config))} {names} -o rest.json` and "
        "`rivet-fleet apply rest.json` deliver the rest alone; the next `run` exports everything",
        err=True,
    )
    return int(ExitCode.INCOMPLETE)


@click.command()
@config_option
@param_option
@campaign_option
@state_option
@workers_option
@click.option("--join", is_flag=True, help="Help although another coordinator is at work.")
@json_option
def resume(
    config: Path,
    params: tuple[str, ...],
    campaign_id: str | None,
    state_url: str | None,
    workers: int | None,
    join: bool,
    as_json: bool,
) -> int:
    """Continue a campaign by its stored plan, even when the configuration has changed since."""
    invocation = start(config, params, state_url, shows_progress=True)
    with fleet_of(invocation, "coordinator", migrate=True) as fleet:
        view = find_campaign(fleet, invocation.loaded, wanted_campaign(invocation, campaign_id))
        submission.go_on(fleet, invocation.loaded, view.campaign_id)
        say_line(f"continuing campaign {view.campaign_id} by its stored plan", err=True)
        return coordinate(
            invocation,
            fleet,
            view.campaign_id,
            workers=workers,
            join=join,
            resumed=True,
            as_json=as_json,
        )


def coordinate(
    invocation: Invocation,
    fleet: Fleet,
    campaign_id: CampaignId,
    *,
    workers: int | None,
    join: bool,
    resumed: bool,
    as_json: bool,
) -> int:
    """Work on a stored campaign until it is over, show it, and say how it ended: the exit code."""
    named = wiring.for_campaign(fleet, campaign_id, name=coordinator_name(campaign_id))
    named.patience.call("check the seals", lambda: named.store.check_seals(campaign_id))
    if resumed:
        named.tell(EventName.CAMPAIGN_RESUMED, "continued by its stored plan")
    progress = _open_progress()
    options = CoordinatorOptions(
        workers=invocation.loaded.config.campaign.workers if workers is None else workers,
        command=_worker_command(invocation, campaign_id),
        join=join,
        nursery=nursery.take(invocation.loaded.store_libraries),
    )
    governor = wiring.open_governor(
        invocation.loaded, process_options(invocation, "governor"), named, campaign_id
    )
    coordinator = Coordinator(named, campaign_id, options, progress, governor)
    code = coordinator.run()
    report = closing_report(named, campaign_id, state=invocation.state_url)
    say(
        report_json(report, known_redactor())
        if as_json
        else render_report(report, known_redactor()),
        as_json=as_json,
    )
    if coordinator.worker_failure and code != 0:
        say(f"last words of a worker that ended:\n{coordinator.worker_failure}", err=True)
    if code is ExitCode.UNFIT:
        say(
            "no worker of this host can do the work: no chunk has failed for it and no attempt is "
            f"spent; `rivet-fleet status -c {shlex.quote(str(invocation.loaded.path))}` names what "
            "they lack, and once that is mended `rivet-fleet resume` goes on",
            err=True,
        )
    if coordinator.halted:
        said = known_redactor()(coordinator.halted)
        say(f"the governor stopped the campaign, resumable: {said}", err=True)
    return int(code)


def _worker_command(invocation: Invocation, campaign_id: CampaignId) -> WorkerCommand:
    options: dict[str, str | None] = click.get_current_context().find_root().obj or {}
    arguments = [
        *nursery.PROGRAM,
        "--log-level",
        options.get("log_level") or "info",
        "worker",
        "--config",
        str(invocation.loaded.path),
        "--campaign-id",
        campaign_id,
        "--namespace",
        invocation.namespace,
    ]
    return WorkerCommand(
        arguments=arguments,
        environment=worker_environment(
            invocation.environment, params=invocation.params, state_url=invocation.state_url
        ),
        log_folder=log_folder_of(invocation.loaded.path.parent, campaign_id),
    )


@click.command()
@config_option
@param_option
@campaign_option
@state_option
@new_option
@json_option
def submit(
    config: Path,
    params: tuple[str, ...],
    campaign_id: str | None,
    state_url: str | None,
    anew: bool,
    as_json: bool,
) -> int:
    """Plan a campaign and store it; workers anywhere will find it.

    Submitting the same id again changes nothing.
    """
    invocation = start(config, params, state_url)
    with fleet_of(invocation, "submit", begins=True) as fleet:
        wanted = wanted_campaign(invocation, campaign_id)
        submitted = submission.submit(fleet, invocation.loaded, wanted, anew=anew)
    if as_json:
        say(dumps(submitted), as_json=True)
    else:
        verb = "submitted" if submitted.created else "was there already: nothing changed"
        say_line(f"campaign {submitted.campaign_id} {verb}")
    return _tell_left_out(submitted, config)


def _open_progress() -> ProgressView:
    if not sys.stderr.isatty():
        return PlainProgress(sys.stderr, redactor=known_redactor())
    # The terminal's library costs a tenth of a second: only where it draws.
    from rivet_fleet.observability.liveprogress import open_progress

    return open_progress(True, sys.stderr, redactor=known_redactor())
