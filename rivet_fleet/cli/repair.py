"""repair: ranges that differ from their source, read anew in place of what was delivered."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import click

from rivet_fleet.cli.failure import Failure, ending, failure_of, say_ended
from rivet_fleet.cli.invocation import (
    Invocation,
    config_option,
    fleet_of,
    known_redactor,
    param_option,
    start,
    state_option,
)
from rivet_fleet.cli.options import exports_option, json_option
from rivet_fleet.cli.reconcile import Looked, Settings, chosen_runs, look, tell
from rivet_fleet.cli.say import is_quiet, say, say_line
from rivet_fleet.cli.work import Going, prepare_workers, work_on, workers_option
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.state import RunView
from rivet_fleet.coordination import repair as repairs
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.errors import ExitCode, StateRefused, UsageError
from rivet_fleet.observability.units import redact_plain


@click.command()
@config_option
@param_option
@state_option
@exports_option
@click.option("--run", "run_id", default=None, help="This run; default: each export's newest.")
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="What `reconcile` found; default: a new comparison is made first.",
)
@click.option("--execute", is_flag=True, help="Do it; without it nothing is changed.")
@workers_option
@json_option
def repair(
    config: Path,
    params: tuple[str, ...],
    state_url: str | None,
    exports: tuple[str, ...],
    run_id: str | None,
    report: Path | None,
    execute: bool,
    workers: int | None,
    as_json: bool,
) -> int:
    """Read ranges again that differ from their source, in place of what was delivered.

    Says what it would read; --execute does it. Readers of the manifest or of latest.json see the
    former files until the new ones are complete. The ranges are compared again behind it.
    """
    if report is not None and run_id is not None:
        raise UsageError("--report says which runs it is about", hint="leave --run out")
    body = None if report is None else _read(report)
    invocation = start(config, params, state_url, shows_progress=True)
    prepare_workers(invocation)
    # What only looks at a report changes nothing, not even the state's version.
    with fleet_of(invocation, "coordinator", migrate=execute or body is None) as fleet:
        if body is None:
            runs = chosen_runs(invocation, fleet, exports, run_id)
            looked = look(invocation, fleet, runs, Settings(workers=workers))
            if looked.exit_code is not ExitCode.OK:
                tell(looked, as_json=as_json)
                return int(looked.exit_code)
            found = repairs.of_comparison(fleet, invocation.loaded, looked.campaign_id)
        else:
            found = repairs.of_report(fleet, invocation.loaded, body, exports)
        document = {
            "executed": execute,
            "exports": redact_plain([one.plain for one in found], known_redactor()),
        }
        if not as_json:
            _say_plan(found)
        if execute:
            failure, ended = _execute(invocation, fleet, found, workers)
            document |= ended
        else:
            failure = None
            say("nothing was changed; --execute reads these ranges again", err=True)
    if as_json:
        say_ended(json.dumps(document, ensure_ascii=False), failure)
    elif failure is not None:
        say(f"{failure.message}\n  hint: {failure.hint}", err=True)
    return int(ExitCode.OK) if failure is None else failure.exit_code


def repair_found(
    invocation: Invocation, fleet: Fleet, campaign_id: CampaignId, names: Collection[str]
) -> ExitCode:
    """Behind a run: repair what its comparison found of these exports, and tell it in words. How it
    ended; a comparison without a difference is the only good end."""
    every = repairs.of_comparison(fleet, invocation.loaded, campaign_id)
    found = [one for one in every if one.run.export_name in names]
    _say_plan(found)
    failure, _ = _execute(invocation, fleet, found, None)
    if failure is None:
        return ExitCode.OK
    say(f"{failure.message}\n  hint: {failure.hint}", err=True)
    return ExitCode(failure.exit_code)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            body = file.read(repairs.REPORT_BYTES_MAX + 1)
    except OSError as error:
        reason = error.strerror or "it cannot be read"
        raise UsageError(f"{path}: {reason}", hint="name a report of `reconcile`") from None
    if len(body) > repairs.REPORT_BYTES_MAX:
        raise UsageError(f"{path} is larger than any report", hint="name a report of `reconcile`")
    return body


def _say_plan(found: Sequence[repairs.Repair]) -> None:
    redact = known_redactor()
    for one in () if is_quiet() else found:
        plain, total = one.plain, one.run.expected_tasks
        say_line(
            redact(
                f"{one.run.export_name}: {len(one.ranges)} of {total} ranges, {plain['rows']:,} "
                f"rows and {plain['bytes']:,} bytes in files, read in {plain['statements']:,} "
                f"statements (run {one.run.run_id})"
            )
        )
        for each in one.ranges:
            say_line(redact(f"  {each.identifier}: {each.found}"))


def _execute(
    invocation: Invocation,
    fleet: Fleet,
    found: Sequence[repairs.Repair],
    workers: int | None,
) -> tuple[Failure | None, dict[str, Any]]:
    """Read the ranges again, and compare behind it. How it failed, and what of it to tell."""
    for one in found:
        repairs.refuse_altered(fleet, one)
    begun, refused = _begin(fleet, found)
    for campaign_id in dict.fromkeys(one.run.campaign_id for one in begun):
        failure = _work(invocation, fleet, campaign_id, workers)
        if failure is not None:
            return failure, {"compared": []}
    failure, compared = refused, []
    for asked in dict.fromkeys((one.asked.depth, one.asked.settled_by) for one in begun):
        alike = [one for one in begun if (one.asked.depth, one.asked.settled_by) == asked]
        looked = _look_again(invocation, fleet, alike, workers)
        compared.append({**looked.body, "report": str(looked.path)})
        failure = failure or looked.failure
    return failure, {"compared": compared}


def _begin(
    fleet: Fleet, found: Sequence[repairs.Repair]
) -> tuple[list[repairs.Repair], Failure | None]:
    """Begin all of them. Where somebody is quicker behind the first, those that are begun are ended
    before that is told. Raises StateRefused where nothing is begun."""
    begun: list[repairs.Repair] = []
    for one in found:
        try:
            repairs.begin(fleet, one)
        except StateRefused as error:
            if not begun:
                raise
            return begun, failure_of(error, about=one.run.export_name)
        begun.append(one)
    return begun, None


def _work(
    invocation: Invocation, fleet: Fleet, campaign_id: CampaignId, workers: int | None
) -> Failure | None:
    going = Going(workers=workers, resumed=True, as_json=True)
    _, end = work_on(invocation, fleet, campaign_id, going)
    if end.worker_failure and end.exit_code is not ExitCode.OK:
        say(f"last words of a worker that ended:\n{end.worker_failure}", err=True)
    if end.exit_code is ExitCode.OK:
        return None
    said = "the repair did not come to its end: what was delivered before is what readers see"
    hint = f"`rivet-fleet status --campaign-id {campaign_id}` says why, and `resume` goes on"
    return ending(end.exit_code, said, hint=hint)


def _look_again(
    invocation: Invocation, fleet: Fleet, alike: Sequence[repairs.Repair], workers: int | None
) -> Looked:
    asked = alike[0].asked
    settings = Settings(
        depth=asked.depth.value,
        settled_by=asked.settled_by,
        limit=asked.limit,
        confirm_after_s=asked.confirm_after_s,
        workers=workers,
    )
    looked = look(invocation, fleet, _now(fleet, alike), settings)
    for one in looked.found:
        said = f"{one.export_name}: {one.comparison.verdict.value} after the repair"
        say(known_redactor()(said), err=True)
    return looked


def _now(fleet: Fleet, alike: Sequence[repairs.Repair]) -> list[RunView]:
    """The repaired runs as they are now."""
    found = [fleet.store.run(one.run.run_id) for one in alike]
    return [run for run in found if run is not None]
