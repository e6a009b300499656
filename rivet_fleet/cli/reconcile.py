"""reconcile: delivered files compared with their source."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from rivet_fleet.cli.campaign import Going, work_on, workers_option
from rivet_fleet.cli.failure import Failure, ending, say_ended
from rivet_fleet.cli.invocation import (
    config_option,
    fleet_of,
    known_redactor,
    param_option,
    start,
    state_option,
)
from rivet_fleet.cli.options import exports_option, json_option
from rivet_fleet.cli.say import is_quiet, say, say_line
from rivet_fleet.contracts.reconcile import (
    CONFIRM_AFTER_S,
    LIMIT_DEFAULT,
    RECONCILE_MISMATCH,
    RECONCILE_UNKNOWN,
    RECONCILE_UNSETTLED,
    RangeVerdict,
    ReconcileDepth,
)
from rivet_fleet.coordination import reconcile as comparisons
from rivet_fleet.coordination.artifact import write_plan
from rivet_fleet.errors import ExitCode

_SHOWN_ROWS = 20
_ENDS = (
    (RangeVerdict.MISMATCH, ExitCode.DATA_INTEGRITY, RECONCILE_MISMATCH),
    (RangeVerdict.UNKNOWN, ExitCode.GENERIC, RECONCILE_UNKNOWN),
    (RangeVerdict.UNSETTLED, ExitCode.RETRYABLE, RECONCILE_UNSETTLED),
)
"""The gravest first."""


@click.command()
@config_option
@param_option
@state_option
@exports_option
@click.option("--run", "run_id", default=None, help="This run; default: each export's newest.")
@click.option(
    "--depth",
    type=click.Choice([one.value for one in ReconcileDepth]),
    default=ReconcileDepth.HASH.value,
    show_default=True,
    help="count: rows of each range; hash: every row, down to its columns.",
)
@click.option(
    "--settled-by",
    default=None,
    metavar="COLUMN",
    help="A date or time that rises when a row is written: only rows from before the run count.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=LIMIT_DEFAULT,
    show_default=True,
    help="So many differing rows of a range are named.",
)
@click.option(
    "--confirm-after",
    "confirm_after_s",
    type=click.FloatRange(0, 3600),
    default=CONFIRM_AFTER_S,
    show_default=True,
    help="Seconds before a difference is looked at again.",
)
@workers_option
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Where the report goes; default: reconcile-CAMPAIGN.json here.",
)
@json_option
def reconcile(
    config: Path,
    params: tuple[str, ...],
    state_url: str | None,
    exports: tuple[str, ...],
    run_id: str | None,
    workers: int | None,
    report: Path | None,
    as_json: bool,
    **asked: Any,
) -> int:
    """Compare delivered files with their source, range by range; nothing is changed in either.

    Safe to kill and to start again. What differs is looked at twice; the report names each range,
    and each row by its key.
    """
    invocation = start(config, params, state_url, shows_progress=True)
    with fleet_of(invocation, "coordinator", migrate=True) as fleet:
        wanted = _wanted(**asked)
        begun = comparisons.begin(fleet, invocation.loaded, wanted, exports, run_id)
        if not (begun.created or is_quiet()):
            say_line(f"continuing comparison {begun.campaign_id}", err=True)
        going = Going(workers=workers, resumed=not begun.created, as_json=as_json)
        named, end = work_on(invocation, fleet, begun.campaign_id, going)
        found = comparisons.found(named, begun.campaign_id)
    path = report or Path(f"reconcile-{begun.campaign_id}.json")
    body = {"campaign_id": begun.campaign_id, "exports": [one.report for one in found]}
    write_plan(path, json.dumps(body, indent=2, ensure_ascii=False) + "\n", what="report")
    failure = _failure(found, end.exit_code, path)
    if as_json:
        say_ended(json.dumps({**body, "report": str(path)}, ensure_ascii=False), failure)
    else:
        for one in found:
            _tell(one)
        say(f"report: {path}", err=True)
        if end.worker_failure and end.exit_code is not ExitCode.OK:
            say(f"last words of a worker that ended:\n{end.worker_failure}", err=True)
        if failure is not None:
            say(f"{failure.message}\n  hint: {failure.hint}", err=True)
    return int(ExitCode.OK) if failure is None else failure.exit_code


def _wanted(
    depth: str, settled_by: str | None, limit: int, confirm_after_s: float
) -> comparisons.Asked:
    return comparisons.Asked(
        depth=ReconcileDepth(depth),
        settled_by=settled_by,
        limit=limit,
        confirm_after_s=confirm_after_s,
    )


def _failure(found: Sequence[comparisons.Compared], code: ExitCode, path: Path) -> Failure | None:
    """How the command ends. A comparison that did not come to its end says so before anything that
    it has not seen."""
    shown = shlex.quote(str(path))
    for verdict, exit_code, name in _ENDS:
        about = [one.export_name for one in found if one.comparison.verdict is verdict]
        if verdict is not RangeVerdict.MISMATCH and code is not ExitCode.OK:
            said = "the comparison did not come to its end: not every range was compared"
            again = "the same command goes on where it is; `rivet-fleet journal --campaign-id` of "
            return ending(code, said, hint=f"{again}the campaign in {shown} says what happened")
        if about:
            said = f"{verdict.value}: {', '.join(about)}"
            return ending(exit_code, said, code=name, hint=f"{shown} names ranges and rows")
    return None


def _tell(one: comparisons.Compared) -> None:
    redact = known_redactor()
    compared, shown = one.comparison, 0
    if is_quiet():
        return
    say_line(redact(f"{one.export_name}: {compared.verdict.value} ({compared.sentence})"))
    for each in one.report["partitions"]:
        if each["status"] == RangeVerdict.MATCH.value:
            continue
        say_line(redact(f"  {each['status']}  {each['identifier']}: {each['note']}"))
        for row in each.get("rows", ()):
            if shown < _SHOWN_ROWS:
                columns = f" in {', '.join(row['columns'])}" if row["columns"] else ""
                key = ", ".join(row["key"]) or "a row without a key"
                say_line(redact(f"    {row['difference']}  {key}{columns}"))
            shown += 1
