"""doctor: is everything there that a run needs?"""

from __future__ import annotations

from pathlib import Path

import click

from rivet_fleet.cli.say import say
from rivet_fleet.cli.session import (
    config_option,
    json_option,
    known_redactor,
    param_option,
    process_options,
    start,
    state_option,
)
from rivet_fleet.contracts.doctor import report_of
from rivet_fleet.coordination import wiring
from rivet_fleet.coordination.doctor import examine, examine_engines, exit_code_of, invalid
from rivet_fleet.errors import ConfigError
from rivet_fleet.execution.registry import engine_names
from rivet_fleet.observability.doctorreport import doctor_json, render_doctor


@click.command()
@config_option
@param_option
@state_option
@json_option
def doctor(config: Path, params: tuple[str, ...], state_url: str | None, as_json: bool) -> int:
    """Verify what a run needs: credentials, privileges, encryption, connections, the state
    database, destinations, spool, decoders and limits of this machine.

    Writes a few bytes at each destination and in the spool folder, and removes them. Ends with
    0 when there is no error (warnings may be), with 2 when trying again later may help with
    every error, else with 1.
    """
    try:
        session = start(
            config, params, state_url, quiet=True, needs_state=False, needs_namespace=False
        )
    except ConfigError as error:
        findings = (invalid(error, config), *examine_engines(engine_names()))
    else:
        findings = examine(
            session.loaded,
            process_options(session, "doctor"),
            now_s=wiring.local_clock().now_s(),
            namespace_missing=session.namespace_missing,
        )
    report = report_of(str(config), findings)
    shown = doctor_json if as_json else render_doctor
    say(shown(report, known_redactor()), as_json=as_json)
    return int(exit_code_of(findings))
