"""How a campaign's work ended, told: a report for people, and the same for a scheduler."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from rivet_fleet.cli.failure import Failure, class_named, ending, say_ended
from rivet_fleet.cli.invocation import Invocation, known_redactor
from rivet_fleet.cli.say import is_quiet, say
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.coordination.submit import LeftOut
from rivet_fleet.coordination.tend import closing_report
from rivet_fleet.errors import ExitCode
from rivet_fleet.observability.report import Report, render_report, report_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """How a campaign's end is to be told: as JSON or in words, in full or a line a table."""

    as_json: bool
    details: bool = False
    exports: tuple[str, ...] = ()
    """Those that were worked on; all without a name."""
    left_out: tuple[LeftOut, ...] = ()
    beside_stream: bool = False
    """Standard output is the delivery: what is told goes beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """What the coordinator says of its own end."""

    exit_code: ExitCode
    worker_failure: str = ""
    halted: str | None = None

    @property
    def delivered(self) -> bool:
        """Nothing else is wrong, where an export was left out."""
        return self.exit_code in (ExitCode.OK, ExitCode.INCOMPLETE)


def tell_end(
    invocation: Invocation, fleet: Fleet, campaign_id: CampaignId, end: End, telling: Telling
) -> int:
    """Say how it ended: the exit code of the command."""
    redact = known_redactor()
    report = closing_report(fleet, campaign_id, state=invocation.state_url)
    config = shlex.quote(str(invocation.loaded.path))
    failure = _failure(report, end, telling.left_out, config)
    if telling.as_json:
        failures = (*_failures(report), *left_out_failures(telling.left_out))
        say_ended(report_json(report, redact), failure, failures)
    elif not (is_quiet() or (telling.beside_stream and failure is None)):
        # Of a stream that goes well the stream itself tells: its file's place is gone by then.
        told = render_report(report, redact, details=telling.details)
        say(told, err=telling.beside_stream)
    if end.worker_failure and end.exit_code != 0:
        say(f"last words of a worker that ended:\n{end.worker_failure}", err=True)
    if failure is not None and failure.code in _TOLD:
        say(f"{failure.message}; {failure.hint}", err=True)
    if telling.exports and end.exit_code is ExitCode.OK and report.status == "active":
        going_on = f"`rivet-fleet resume -c {config}` finishes its other exports"
        say(f"campaign {campaign_id} is not over: {going_on}", err=True)
    if end.delivered:
        tell_left_out(telling.left_out, config)
    return failure.exit_code if failure is not None else int(ExitCode.OK)


_TOLD = ("RIVET_CAMPAIGN_HALTED", "RIVET_WORKER_UNFIT")
"""What the report does not say."""


def _failure(report: Report, end: End, left_out: Sequence[LeftOut], config: str) -> Failure | None:
    code, redact = end.exit_code, known_redactor()
    if end.delivered and left_out:
        return left_out_failure(left_out)
    if code is ExitCode.OK:
        return None
    resume = f"`rivet-fleet resume -c {config}` goes on"
    if end.halted:
        said = redact(f"the governor stopped the campaign, resumable: {end.halted}")
        return ending(code, said, code="RIVET_CAMPAIGN_HALTED", hint=resume)
    if report.status == "cancelled":
        said = f"campaign {report.campaign_id} was cancelled"
        again = "`rivet-fleet run` begins a new one"
        return ending(code, said, code="RIVET_CAMPAIGN_CANCELLED", hint=again)
    if code is ExitCode.STOPPED:
        return ending(code, "stopped on the way, in good order", hint=resume)
    if code is ExitCode.UNFIT:
        said = (
            "no worker of this host can do the work: no chunk has failed for it and no attempt is "
            "spent"
        )
        names = f"`rivet-fleet status -c {config}` names what they lack, and once that is mended"
        return ending(code, said, hint=f"{names} {resume}")
    if report.status == "active":
        said = "no worker could start, or each ended by an error that nobody foresaw"
        hint = "the last words of one are above; the rest is in the workers' logs"
        return ending(code, said, code="RIVET_WORKERS_NOT_STARTED", hint=hint)
    undone = [one for one in report.exports if one.status != "completed"]
    refused = next((one.code for one in undone if one.code), None)
    said = f"{len(undone)} of {len(report.exports)} exports were not delivered"
    steps = [step.command for step in report.next_steps]
    known = refused if code is ExitCode.DATA_INTEGRITY else None
    return ending(code, said, code=known, hint=f"`{steps[0]}` says why" if steps else None)


def _failures(report: Report) -> list[Failure]:
    """Each run that was refused, each chunk that failed for good."""
    redact = known_redactor()
    refused = [
        ending(
            ExitCode.DATA_INTEGRITY,
            redact(one.error or "its quality gates refused it"),
            code=one.code,
            about=one.export_name,
        )
        for one in report.exports
        if one.status == "failed"
    ]
    failed = []
    for chunk in report.failed:
        known = class_named(chunk.error_class)
        failed.append(
            Failure(
                code=known.code_default,
                error_class=known.__name__,
                exit_code=int(known.exit_code),
                message=redact(f"chunk {chunk.chunk_index}, {chunk.rows_covered}: {chunk.message}"),
                hint=chunk.advice,
                about=chunk.export_name,
            )
        )
    return refused + failed


# ------------------------------------------------------------------------------------------
# What a campaign was planned without.

_LEFT_OUT = "RIVET_EXPORT_LEFT_OUT"


def left_out_failure(left_out: Sequence[LeftOut]) -> Failure | None:
    """How a command ends that did everything else."""
    if not left_out:
        return None
    names = ", ".join(one.export_name for one in left_out)
    said = f"left out, nothing of it is delivered: {names}"
    hint = "`rivet-fleet plan -e NAME -o rest.json` and `rivet-fleet apply rest.json` deliver it"
    return ending(ExitCode.INCOMPLETE, said, code=_LEFT_OUT, hint=hint)


def left_out_failures(left_out: Sequence[LeftOut]) -> list[Failure]:
    """Each of them with its reason."""
    redact = known_redactor()
    return [
        ending(ExitCode.INCOMPLETE, redact(one.reason), code=_LEFT_OUT, about=one.export_name)
        for one in left_out
    ]


def tell_left_out(left_out: Sequence[LeftOut], config: str) -> None:
    """Name what the campaign does not deliver, and what does."""
    redact = known_redactor()
    for one in left_out:
        said = f"export {one.export_name} is left out, nothing of it is delivered: {one.reason}"
        say(redact(said), err=True)
    if left_out:
        names = " ".join(f"-e {shlex.quote(one.export_name)}" for one in left_out)
        say(
            f"  hint: `rivet-fleet plan -c {config} {names} -o rest.json` and "
            "`rivet-fleet apply rest.json` deliver the rest alone; the next `run` exports "
            "everything",
            err=True,
        )
