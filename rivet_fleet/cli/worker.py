"""worker: one process of the fleet. A module of its own, because there are many of them and each
pays for what it imports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from rivet_fleet.cli.environment import die_with_supervisor
from rivet_fleet.cli.invocation import (
    campaign_option,
    config_option,
    param_option,
    process_options,
    start,
    state_option,
    wanted_campaign,
)
from rivet_fleet.cli.options import exports_option
from rivet_fleet.contracts.seals import Allowed
from rivet_fleet.coordination import wiring
from rivet_fleet.coordination.fitness import Defect, unfit
from rivet_fleet.errors import ConfigError


@click.command()
@config_option
@param_option
@campaign_option
@state_option
@exports_option
@click.option("--name", default="worker", show_default=True, help="Shown in status and journal.")
@click.option(
    "--wait-s",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="How long to wait for the campaign to be submitted.",
)
@click.option(
    "--allow-source",
    "sources",
    multiple=True,
    metavar="PATTERN",
    help="Read only sources of this identity (engine://user@host:port/database; * and ? cross "
    "neither an @ nor a comma, and a * alone is every source), or NAME=PATTERN; repeatable. "
    "Default: RIVET_FLEET_ALLOW_SOURCE, one a line.",
)
@click.option(
    "--allow-destination",
    "destinations",
    multiple=True,
    metavar="FOLDER",
    help="Write only in or below this folder; repeatable. Default: "
    "RIVET_FLEET_ALLOW_DESTINATION, one a line.",
)
@click.option("--worker-id", default=None, hidden=True)
def worker(
    config: Path,
    params: tuple[str, ...],
    campaign_id: str | None,
    state_url: str | None,
    exports: tuple[str, ...],
    name: str,
    wait_s: float,
    sources: tuple[str, ...],
    destinations: tuple[str, ...],
    worker_id: str | None,
) -> int:
    """Claim chunks of a campaign until it is over. Start any number, on any host.

    A process that lacks something (configuration, credentials, a folder, the version) spends no
    chunk's attempt: it ends with exit code 9, and `status` names it.

    SIGTERM drains: the current chunk is finished within campaign.drain_grace_s, or given
    back at the next page boundary.
    """
    try:
        invocation = start(config, params, state_url)
    except ConfigError as error:
        raise unfit(Defect.CONFIGURATION, error) from None
    if invocation.environment.supervisor_pid is not None and worker_id is not None:
        die_with_supervisor(invocation.environment.supervisor_pid)
    wanted = wanted_campaign(invocation, campaign_id)
    supervised = worker_id is not None
    options = process_options(invocation, name, worker_id=worker_id, supervised=supervised)
    allowed = Allowed(
        sources=sources or options.allowed.sources,
        destinations=destinations or options.allowed.destinations,
    )
    options = replace(options, allowed=allowed)
    return int(
        wiring.run_worker(invocation.loaded, options, wanted, wait_s=wait_s, exports=exports)
    )
