"""reconcile: delivered files compared with their source."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from rivet_fleet.cli.failure import Failure, ending, say_ended
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
from rivet_fleet.cli.say import is_quiet, say, say_line
from rivet_fleet.cli.work import Going, prepare_workers, work_on, workers_option
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.reconcile import (
    CONFIRM_AFTER_S,
    LIMIT_DEFAULT,
    RECONCILE_MISMATCH,
    RECONCILE_UNKNOWN,
    RECONCILE_UNSETTLED,
    RangeVerdict,
    ReconcileDepth,
)
from rivet_fleet.contracts.state import RunView
from rivet_fleet.coordination import reconcile as comparisons
from rivet_fleet.coordination.artifact import write_plan
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.errors import ExitCode, UsageError
from rivet_fleet.observability.units import redact_plain, rfc3339
from rivet_fleet.planning.config.loaded import LoadedConfig, reconcile_of
from rivet_fleet.planning.config.models import ReconcileConfig

_SHOWN_ROWS = 20
_ENDS = (
    (RangeVerdict.MISMATCH, ExitCode.DATA_INTEGRITY, RECONCILE_MISMATCH),
    (RangeVerdict.UNKNOWN, ExitCode.GENERIC, RECONCILE_UNKNOWN),
    (RangeVerdict.UNSETTLED, ExitCode.RETRYABLE, RECONCILE_UNSETTLED),
)
"""The gravest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the command line says; None leaves it to each export's ``reconcile``."""

    depth: str | None = None
    settled_by: str | None = None
    limit: int = LIMIT_DEFAULT
    confirm_after_s: float = CONFIRM_AFTER_S
    report: Path | None = None
    workers: int | None = None
    as_json: bool = False


@click.command()
@config_option
@param_option
@state_option
@exports_option
@click.option("--run", "run_id", default=None, help="This run; default: each export's newest.")
@click.option(
    "--depth",
    type=click.Choice([one.value for one in ReconcileDepth]),
    default=None,
    help="count: rows of each range; aggregate: and NULLs, extremes and sums of its columns; hash: "
    "every row, down to its columns. Default: the export's `reconcile`, else hash.",
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
    **said: Any,
) -> int:
    """Compare delivered files with their source, range by range; nothing is changed in either.

    Safe to kill and to start again. What differs is looked at twice; the report names each range,
    and each row by its key.
    """
    settings = Settings(**said)
    if settings.report is not None and not settings.report.parent.is_dir():
        # Before anything is read: a report that cannot be written tells nobody.
        raise UsageError(f"{settings.report.parent} is no folder", hint="name another --report")
    invocation = start(config, params, state_url, shows_progress=True)
    prepare_workers(invocation)
    with fleet_of(invocation, "coordinator", migrate=True) as fleet:
        runs = chosen_runs(invocation, fleet, exports, run_id)
        failure, _ = compare(invocation, fleet, runs, settings)
    return int(ExitCode.OK) if failure is None else failure.exit_code


def chosen_runs(
    invocation: Invocation, fleet: Fleet, exports: Sequence[str], run_id: str | None
) -> list[RunView]:
    """The run that is named, else the newest of each export; those that have none are told."""
    if run_id is not None:
        return comparisons.one_run(fleet, invocation.loaded, run_id)
    runs, left_out = comparisons.newest_runs(fleet, invocation.loaded, exports)
    if left_out:
        line = f"not compared, nothing of them is delivered: {', '.join(left_out)}"
        say(known_redactor()(line), err=True)
    return runs


def compare(
    invocation: Invocation, fleet: Fleet, runs: Sequence[RunView], settings: Settings
) -> tuple[Failure | None, ExitCode]:
    """Compare delivered runs with their source, write the report and tell it. How it failed, told
    already, None for a match; and how the comparing itself ended, whatever it found."""
    looked = look(invocation, fleet, runs, settings)
    tell(looked, as_json=settings.as_json)
    return looked.failure, looked.exit_code


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """A comparison, how its campaign ended, and how the command does: ``failure``, None for a
    match."""

    campaign_id: CampaignId
    found: list[comparisons.Compared]
    exit_code: ExitCode
    worker_failure: str
    path: Path
    failure: Failure | None

    @property
    def body(self) -> dict[str, Any]:
        """The report, for the file and for ``--json``: redacted as what the terminal shows."""
        return _body(self.campaign_id, self.found)


def look(
    invocation: Invocation, fleet: Fleet, runs: Sequence[RunView], settings: Settings
) -> Looked:
    """Compare delivered runs with their source, and write the report."""
    ask = partial(_asked, invocation.loaded, settings)
    begun = comparisons.begin(fleet, invocation.loaded, runs, ask)
    if not (begun.created or is_quiet()):
        say_line(f"continuing comparison {begun.campaign_id}", err=True)
    going = Going(workers=settings.workers, resumed=not begun.created, as_json=settings.as_json)
    named, end = work_on(invocation, fleet, begun.campaign_id, going)
    found = comparisons.found(named, begun.campaign_id)
    path = settings.report or Path(f"reconcile-{begun.campaign_id}.json")
    looked = Looked(
        campaign_id=begun.campaign_id,
        found=found,
        exit_code=end.exit_code,
        worker_failure=end.worker_failure,
        path=path,
        failure=_failure(found, end.exit_code, path),
    )
    try:
        write_plan(
            path, json.dumps(looked.body, indent=2, ensure_ascii=False) + "\n", what="report"
        )
    except UsageError as error:
        if settings.report is not None:
            raise
        say(f"warning: {known_redactor()(error.message)}", err=True)
    return looked


def _body(campaign_id: CampaignId, found: Sequence[comparisons.Compared]) -> dict[str, Any]:
    exports = redact_plain([one.report for one in found], known_redactor())
    return {"campaign_id": campaign_id, "exports": exports}


def tell(looked: Looked, *, as_json: bool) -> None:
    """Say what a comparison found, and how it ended."""
    failure = looked.failure
    if as_json:
        document = {**looked.body, "report": str(looked.path)}
        say_ended(json.dumps(document, ensure_ascii=False), failure)
        return
    for one in looked.found:
        _tell(one)
    say(f"report: {looked.path}", err=True)
    if looked.worker_failure and looked.exit_code is not ExitCode.OK:
        say(f"last words of a worker that ended:\n{looked.worker_failure}", err=True)
    if failure is not None:
        say(f"{failure.message}\n  hint: {failure.hint}", err=True)


def compare_delivered(
    invocation: Invocation,
    fleet: Fleet,
    campaign_id: CampaignId,
    exports: Sequence[str],
    settings: Settings | None,
    repair: Callable[[CampaignId, Collection[str]], ExitCode],
) -> ExitCode:
    """Behind a campaign that has delivered: compare what asks for it, all where the command line
    does (``settings``); how the command ends. What may have been written since is told alone.
    ``repair``: what a comparison found of these runs' exports, where they ask for that."""
    loaded = invocation.loaded
    words = {one.name: reconcile_of(one) for one in loaded.config.exports}
    delivered = comparisons.runs_of(fleet, campaign_id, exports)
    runs = [run for run in delivered if settings or words.get(_name(run)) is not None]
    if not runs:
        return ExitCode.OK
    looked = look(invocation, fleet, runs, settings or Settings())
    tell(looked, as_json=False)
    failure = looked.failure
    say_of = {run.export_name: words.get(_name(run)) for run in runs}
    asking = {name for name, one in say_of.items() if one and one.on_mismatch == "repair"}
    mended = [one for one in looked.found if one.export_name in asking and _differs(one)]
    # Only what was compared to its end: else the rest of it is unknown.
    if mended and looked.exit_code is ExitCode.OK:
        code = repair(looked.campaign_id, {one.export_name for one in mended})
        if code is not ExitCode.OK:
            return code
        left = [one for one in looked.found if one not in mended]
        failure = _failure(left, looked.exit_code, looked.path)
        say_of = {one.export_name: say_of.get(one.export_name) for one in left}
    if failure is None or failure.code == RECONCILE_UNSETTLED:
        return ExitCode.OK
    if all(one is not None and one.on_mismatch == "warn" for one in say_of.values()):
        # Of what was found alone: a comparison that did not come to its end is none.
        return looked.exit_code
    return ExitCode(failure.exit_code)


def _differs(one: comparisons.Compared) -> bool:
    return one.comparison.verdict is RangeVerdict.MISMATCH


def _name(run: RunView) -> str:
    return run.plan.written_name


def _asked(loaded: LoadedConfig, settings: Settings, run: RunView) -> comparisons.Asked:
    known = {one.name: reconcile_of(one) for one in loaded.config.exports}
    word = known.get(_name(run)) or ReconcileConfig()
    return comparisons.Asked(
        depth=ReconcileDepth(settings.depth or word.depth),
        settled_by=settings.settled_by or word.settled_by,
        limit=settings.limit,
        confirm_after_s=settings.confirm_after_s,
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


def _moments(told: Mapping[str, Any]) -> Iterator[str]:
    """When the sides were read, of what is known."""
    for name, clock in (("source", "by its own clock"), ("files", "by the state's clock")):
        begun, ended = (
            _moment(told[f"{name}_{end}_s"], told.get(f"{name}_{end}_position"))
            for end in ("begun", "ended")
        )
        if begun and ended:
            yield f"{name} read from {begun} to {ended}, {clock}"
    run = _moment(told["run_began_s"], told["run_position"])
    if run:
        yield f"the run began at {run}"


def _moment(at_s: float | None, position: str | None) -> str:
    if at_s is None:
        return ""
    return f"{rfc3339(at_s)} ({position})" if position else rfc3339(at_s)


def _tell(one: comparisons.Compared) -> None:
    redact = known_redactor()
    compared, shown = one.comparison, 0
    if is_quiet():
        return
    say_line(redact(f"{one.export_name}: {compared.verdict.value} ({compared.sentence})"))
    for line in _moments(one.report["moments"]):
        say_line(redact(f"  {line}"))
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
