"""check, doctor: what a run would do, and whether everything is there that it needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from rivet_fleet.cli.failure import ending, failure_of, say_ended
from rivet_fleet.cli.invocation import (
    config_option,
    known_redactor,
    param_option,
    process_options,
    start,
    state_option,
)
from rivet_fleet.cli.options import details_option, exports_option, json_option
from rivet_fleet.cli.say import say
from rivet_fleet.contracts.doctor import Gravity, report_of
from rivet_fleet.contracts.identity import new_campaign_id
from rivet_fleet.contracts.typereport import Target
from rivet_fleet.coordination import wiring
from rivet_fleet.coordination.check import check_exports
from rivet_fleet.coordination.doctor import examine, examine_engines, exit_code_of, invalid
from rivet_fleet.errors import ConfigError, ExitCode
from rivet_fleet.execution.registry import engine_names
from rivet_fleet.observability.planreport import (
    check_json,
    doctor_json,
    render_check,
    render_doctor,
)


@click.command()
@config_option
@param_option
@state_option
@exports_option
@click.option(
    "--type-report",
    is_flag=True,
    help="Every column: source type, canonical type, Arrow and file type, fidelity.",
)
@click.option(
    "--strict",
    is_flag=True,
    help="End with 1 when a column is lossy or unsupported, or fails on a target; implies "
    "--type-report.",
)
@click.option(
    "--target",
    "targets",
    type=click.Choice([target.value for target in Target]),
    multiple=True,
    help="What this warehouse's Parquet loader makes of each column; implies --type-report.",
)
@click.option(
    "--probe",
    is_flag=True,
    help="Where statistics leave it in doubt, count rows in 50 short windows of a whole-number "
    "key, and judge by that.",
)
@details_option
@json_option
def check(
    config: Path,
    params: tuple[str, ...],
    state_url: str | None,
    exports: tuple[str, ...],
    type_report: bool,
    strict: bool,
    targets: tuple[str, ...],
    probe: bool,
    details: bool,
    as_json: bool,
) -> int:
    """Ask the sources, plan every export, and say what a run would do and how gently.

    Writes nothing. Verdicts advise: what a former run measured goes before what the source
    estimates, and every number says who says it. Ends with 0 when a run would deliver every
    export, else with what a run of the refused ones would end with.
    """
    invocation = start(config, params, state_url, needs_state=False)
    now_s = wiring.local_clock().now_s()
    checked = check_exports(
        invocation.loaded,
        process_options(invocation, "check"),
        names=exports,
        targets=tuple(Target(name) for name in dict.fromkeys(targets)),
        campaign_id=new_campaign_id(now_s, invocation.namespace),
        now_s=now_s,
        probe=probe,
    )
    types = type_report or strict or bool(targets)
    hide = known_redactor()
    failures = [failure_of(one.error, about=one.export_name or None) for one in checked.refused]
    failure = None
    if failures:
        first = next(one for one in failures if one.exit_code == checked.exit_code)
        said = f"a run would not deliver {len(failures)} of {len(checked.report.exports)} exports"
        failure = replace(first, message=f"{said}: {first.message}")
    elif strict and checked.report.findings:
        said = "not every column is carried exactly"
        failure = ending(ExitCode.GENERIC, said, code="RIVET_CHECK_FINDINGS")
    if as_json:
        say_ended(check_json(checked.report, hide), failure, failures)
    else:
        say(render_check(checked.report, hide, types=types, details=details))
    return failure.exit_code if failure else int(checked.exit_code)


# ------------------------------------------------------------------------------------------
# doctor


@click.command()
@config_option
@param_option
@state_option
@json_option
def doctor(config: Path, params: tuple[str, ...], state_url: str | None, as_json: bool) -> int:
    """Verify what a run needs: credentials, privileges, encryption, connections, the state
    database, destinations, spool, decoders and limits of this machine, and that every export
    can be planned.

    Writes a few bytes at each destination and in the spool folder, and removes them. Ends with
    0 when there is no error (warnings may be), with 2 when trying again later may help with
    every error, else with 1.
    """
    try:
        invocation = start(
            config,
            params,
            state_url,
            quiet=True,
            needs_state=False,
            needs_namespace=False,
        )
    except ConfigError as error:
        findings = (invalid(error, config), *examine_engines(engine_names()))
    else:
        findings = examine(
            invocation.loaded,
            process_options(invocation, "doctor"),
            now_s=wiring.local_clock().now_s(),
            namespace_missing=invocation.namespace_missing,
        )
    report = report_of(str(config), findings)
    code, hide = exit_code_of(findings), known_redactor()
    failures = [
        replace(
            ending(
                ExitCode.RETRYABLE if one.retryable else ExitCode.GENERIC,
                hide(f"{one.subject}: {one.what}"),
                code=one.code.value,
                hint=hide(one.hint or "") or None,
            ),
            about=one.subject.removeprefix("export ") if "export " in one.subject else None,
        )
        for one in findings
        if one.gravity is Gravity.ERROR
    ]
    if as_json:
        failure = next((one for one in failures if one.exit_code == code), None)
        say_ended(doctor_json(report, hide), failure, failures)
    else:
        say(render_doctor(report, hide))
    return int(code)
