"""Working on a stored campaign: its coordinator and workers, what is shown, how it ended."""

from __future__ import annotations

import io
import math
import sys
from dataclasses import dataclass

import click

from rivet_fleet.cli import nursery
from rivet_fleet.cli.environment import worker_environment
from rivet_fleet.cli.invocation import Invocation, known_redactor, process_options
from rivet_fleet.cli.say import is_quiet, log_level, say_line
from rivet_fleet.cli.verdict import End, Telling, tell_end
from rivet_fleet.contracts.events import EventName
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.coordination import wiring
from rivet_fleet.coordination.coordinator import (
    Coordinator,
    CoordinatorOptions,
    coordinator_name,
)
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.coordination.supervisor import WorkerCommand, log_folder_of
from rivet_fleet.observability.progress import PlainProgress, ProgressView

workers_option = click.option(
    "-w",
    "--workers",
    type=click.IntRange(0, 256),
    default=None,
    help="Worker processes on this host; default: campaign.workers, else the largest `parallel` of "
    "the exports, else what this host and the budgets allow, four at most.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Going(Telling):
    """How a stored campaign is worked on (see ``CoordinatorOptions``), and how its end is told."""

    workers: int | None
    join: bool = False
    resumed: bool = False


def prepare_workers(invocation: Invocation) -> None:
    """Let a nursery import what this configuration's workers will need, while they are not."""
    loaded = invocation.loaded
    sqlite = invocation.state_url.startswith("sqlite:")
    nursery.prepare(
        nursery.Needed(
            libraries=[*sorted(loaded.store_libraries), *(_SQLITE_LIBRARY if sqlite else ())],
            engines=sorted({loaded.sources[name].type for name in loaded.used_sources()}),
            formats=sorted({export.format for export in loaded.config.exports}),
        )
    )


_SQLITE_LIBRARY = ("sqlalchemy.dialects.sqlite",)
"""What a state in a file is opened with; that of a server comes with its driver."""


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
        nursery=nursery.take(),
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


def _open_progress() -> ProgressView:
    if is_quiet():
        return PlainProgress(io.StringIO(), redactor=known_redactor(), every_s=math.inf)
    if not sys.stderr.isatty():
        return PlainProgress(sys.stderr, redactor=known_redactor())
    # The terminal's library costs a tenth of a second: only where it draws.
    from rivet_fleet.observability.liveprogress import open_progress

    return open_progress(True, sys.stderr, redactor=known_redactor())
