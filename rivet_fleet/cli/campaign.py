"""run, submit, resume: the commands that make a campaign go on."""

from __future__ import annotations

import io
import math
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from rivet_fleet.cli import nursery
from rivet_fleet.cli.environment import worker_environment
from rivet_fleet.cli.failure import say_ended
from rivet_fleet.cli.invocation import (
    Invocation,
    campaign_option,
    config_option,
    fleet_of,
    known_redactor,
    param_option,
    process_options,
    start,
    state_option,
    wanted_campaign,
)
from rivet_fleet.cli.options import details_option, exports_option, json_option
from rivet_fleet.cli.say import give, is_quiet, log_level, refuse_stream, say_line
from rivet_fleet.cli.verdict import (
    End,
    Telling,
    left_out_failure,
    left_out_failures,
    tell_end,
    tell_left_out,
)
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
from rivet_fleet.errors import ExitCode
from rivet_fleet.observability.progress import PlainProgress, ProgressView

workers_option = click.option(
    "-w",
    "--workers",
    type=click.IntRange(0, 256),
    default=None,
    help="Worker processes on this host; default: campaign.workers, else the largest `parallel` of "
    "the exports, else what this host and the budgets allow, four at most.",
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
@exports_option
@workers_option
@new_option
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
    details: bool,
    as_json: bool,
) -> int:
    """Plan a campaign (or continue the unfinished one), work on it, and say how it ended.

    Safe to kill and to start again at any moment. With -e the named exports alone are planned, or
    worked on where a campaign has them unfinished.
    """
    invocation = start(config, params, state_url, shows_progress=True)
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
        return given_on(coordinate(invocation, fleet, submitted.campaign_id, going))


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
    with fleet_of(invocation, "coordinator", migrate=True) as fleet:
        view = find_campaign(fleet, invocation.loaded, wanted_campaign(invocation, campaign_id))
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
        return coordinate(invocation, fleet, view.campaign_id, going)


def _tell_continued(campaign_id: CampaignId) -> None:
    if not is_quiet():
        say_line(f"continuing campaign {campaign_id} by its stored plan", err=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Going(Telling):
    """How a stored campaign is worked on (see ``CoordinatorOptions``), and how its end is told."""

    workers: int | None
    join: bool = False
    resumed: bool = False


def coordinate(
    invocation: Invocation,
    fleet: Fleet,
    campaign_id: CampaignId,
    going: Going,
) -> int:
    """Work on a stored campaign until it is over, show it, and say how it ended: the exit code."""
    named, end = work_on(invocation, fleet, campaign_id, going)
    return tell_end(invocation, named, campaign_id, end, going)


def work_on(
    invocation: Invocation, fleet: Fleet, campaign_id: CampaignId, going: Going
) -> tuple[Fleet, End]:
    """Work on a stored campaign until it is over, and show it. The fleet as its coordinator."""
    named = wiring.for_campaign(fleet, campaign_id, name=coordinator_name(campaign_id))
    named.patience.call("check the seals", lambda: named.store.check_seals(campaign_id))
    if going.resumed:
        named.tell(EventName.CAMPAIGN_RESUMED, "continued by its stored plan")
    options = CoordinatorOptions(
        workers=_workers(invocation, named, campaign_id, going.workers),
        command=_worker_command(invocation, campaign_id, going.exports),
        join=going.join,
        nursery=nursery.take(invocation.loaded.store_libraries),
        exports=going.exports,
    )
    governor = wiring.open_governor(
        invocation.loaded, process_options(invocation, "governor"), named, campaign_id
    )
    coordinator = Coordinator(named, campaign_id, options, _open_progress(), governor)
    code = coordinator.run()
    end = End(exit_code=code, worker_failure=coordinator.worker_failure, halted=coordinator.halted)
    return named, end


def _workers(
    invocation: Invocation, fleet: Fleet, campaign_id: CampaignId, given: int | None
) -> int:
    """As many as were asked for; else so many as suit, which is said."""
    asked = invocation.loaded.config.campaign.workers if given is None else given
    if asked is not None:
        return asked
    chosen = wiring.workers_here(invocation.loaded, fleet, campaign_id)
    if not is_quiet():
        say_line(chosen.sentence, err=True)
    return chosen.count


def _worker_command(
    invocation: Invocation, campaign_id: CampaignId, exports: tuple[str, ...]
) -> WorkerCommand:
    # Quiet is the terminal: a worker's log is a file, for whoever looks later.
    level = log_level()
    arguments = [
        *nursery.PROGRAM,
        "--log-level",
        "info" if level is None or is_quiet() else level,
        "worker",
        "--config",
        str(invocation.loaded.path),
        "--campaign-id",
        campaign_id,
        "--namespace",
        invocation.namespace,
        *(word for name in exports for word in ("--export", name)),
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


def _open_progress() -> ProgressView:
    if is_quiet():
        return PlainProgress(io.StringIO(), redactor=known_redactor(), every_s=math.inf)
    if not sys.stderr.isatty():
        return PlainProgress(sys.stderr, redactor=known_redactor())
    # The terminal's library costs a tenth of a second: only where it draws.
    from rivet_fleet.observability.liveprogress import open_progress

    return open_progress(True, sys.stderr, redactor=known_redactor())
