"""How a campaign, or one run of it, ended: what is where, what failed and why, what to do next."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rivet_fleet.contracts.codec import dumps
from rivet_fleet.contracts.events import EventName
from rivet_fleet.contracts.keys import describe_range
from rivet_fleet.contracts.manifest import run_manifest_name
from rivet_fleet.contracts.plan import TOLD_BY_RUNS
from rivet_fleet.contracts.proof import ProofOutcome
from rivet_fleet.contracts.quality import (
    GateCode,
    GateOutcome,
    GateVerdict,
    RunFindings,
    SchemaChange,
)
from rivet_fleet.contracts.state import CampaignStatus, CampaignView, RunStatus, RunView, TaskView
from rivet_fleet.contracts.url import redact
from rivet_fleet.observability.reasons import NextStep, advice_for, command, needs_new_plan
from rivet_fleet.observability.units import (
    LONG_FROM,
    Redactor,
    bytes_text,
    counted,
    duration_text,
    one_line,
    redact_plain,
    rfc3339,
    rows_rate_text,
    safe_line,
)

# ------------------------------------------------------------------------------------------
# The closing report of a campaign.

REPORT_VERSION = 1
FAILED_SHOWN_MAX = 20
_COUNTED = tuple((event.value, event.count) for event in EventName if event.count is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOutcome:
    """One export's end. ``folder`` and ``manifest`` say where its files are.

    ``duration_s`` counts from the run's first claim to its end, None while it is not over;
    ``files`` is None when the caller did not count them.
    """

    export_name: str
    run_id: str
    status: str
    folder: str
    manifest: str | None
    chunks_done: int
    chunks_total: int
    chunks_failed: int
    rows: int
    bytes: int
    files: int | None
    duration_s: float | None
    rows_per_s: float | None
    error: str | None
    code: str | None = None
    """The gate that refused it."""
    changed_values: int = 0
    findings: tuple[str, ...] = ()
    """One line each: changed values, schema changes, quality gates, unusual numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedChunk:
    """One chunk that will not be tried again by itself."""

    export_name: str
    chunk_index: int
    rows_covered: str
    attempts: int
    error_class: str | None
    message: str
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A campaign's closing summary: plain values, JSON through ``report_json``."""

    report_version: int
    campaign_id: str
    campaign_name: str
    status: str
    state: str
    started_at: str
    finished_at: str | None
    duration_s: float | None
    rows: int
    bytes: int
    files: int | None
    exports: tuple[ExportOutcome, ...]
    failed: tuple[FailedChunk, ...]
    happened: dict[str, int]
    """What the journal counted on the way, by the key of each event's ``count``; zeros, too."""
    next_steps: tuple[NextStep, ...]


def summarise(
    campaign: CampaignView,
    runs: Sequence[RunView],
    failed: Sequence[TaskView],
    journal_counts: Mapping[str, int],
    *,
    destinations: Mapping[str, str],
    state: str,
    files: Mapping[str, int] | None = None,
) -> Report:
    """Everything the closing report says.

    ``failed`` are the tasks whose budget is spent; ``journal_counts`` counts entries by event
    name; ``destinations`` and ``files`` map a run id to its dataset's URI and to the number of
    visible files; ``state`` says where the state database is, without secrets.
    """
    counted_files = files or {}
    exports = tuple(
        export_outcome(run, destinations.get(run.run_id), counted_files.get(run.run_id))
        for run in runs
    )
    finished_at_s = campaign.finished_at_s
    return Report(
        report_version=REPORT_VERSION,
        campaign_id=campaign.campaign_id,
        campaign_name=campaign.campaign_name,
        status=campaign.status.value,
        state=state,
        started_at=rfc3339(campaign.created_at_s),
        finished_at=None if finished_at_s is None else rfc3339(finished_at_s),
        duration_s=None if finished_at_s is None else finished_at_s - campaign.created_at_s,
        rows=sum(e.rows for e in exports),
        bytes=sum(e.bytes for e in exports),
        files=sum(e.files or 0 for e in exports) if files is not None else None,
        exports=exports,
        failed=tuple(failed_chunk(task) for task in failed),
        happened={count.key: journal_counts.get(event, 0) for event, count in _COUNTED},
        next_steps=next_steps(campaign, runs, failed),
    )


def export_outcome(run: RunView, uri: str | None, files: int | None) -> ExportOutcome:
    """One run's line; ``uri`` is its dataset's place, the plan's prefix when unknown."""
    root = (uri or run.plan.destination.prefix).rstrip("/")
    duration_s = None if run.finished_at_s is None else run.finished_at_s - run.began_at_s
    done = run.status is RunStatus.COMPLETED
    return ExportOutcome(
        export_name=run.export_name,
        run_id=run.run_id,
        status=run.status.value,
        folder=f"{root}/{run.run_id}",
        manifest=f"{root}/{run_manifest_name(run.run_id, run.generation)}"
        if done and not run.skipped
        else None,
        chunks_done=run.counts.completed,
        chunks_total=max(run.expected_tasks, run.counts.total),
        chunks_failed=run.counts.failed,
        rows=run.rows,
        bytes=run.bytes,
        files=files,
        duration_s=duration_s,
        rows_per_s=run.rows / duration_s if duration_s else None,
        error=run.error,
        code=refusing_gate(run),
        changed_values=run.changed_values,
        findings=finding_lines(run),
    )


def refusing_gate(run: RunView) -> str | None:
    """The code of the first gate that keeps a failed run from being delivered."""
    gates = run.findings.refused if run.findings and run.status is RunStatus.FAILED else ()
    return next((gate.code.value for gate in gates), None)


def failed_chunk(task: TaskView) -> FailedChunk:
    """A spent task with its reason and what helps."""
    return FailedChunk(
        export_name=task.export_name,
        chunk_index=task.chunk_index,
        rows_covered=describe_range(task.chunk_range),
        attempts=task.attempts,
        error_class=task.error_class,
        message=task.last_error or "no message was recorded",
        advice=advice_for(task.error_class),
    )


def next_steps(
    campaign: CampaignView, runs: Sequence[RunView], failed: Sequence[TaskView] = ()
) -> tuple[NextStep, ...]:
    """What an operator may sensibly type now, in order. ``failed``: see ``summarise``."""
    path = campaign.config_path
    status = NextStep(command=command("status", path), why="see where each export stands and why")
    resume = NextStep(command=command("resume", path), why="carry on from what is done")
    validate = NextStep(command=command("validate", path), why="check every file by its manifest")
    sweep = NextStep(command=command("gc", path), why="list what stopped attempts left staged")
    if campaign.status is CampaignStatus.COMPLETED:
        return (validate,)
    if campaign.status is CampaignStatus.ACTIVE:
        return (status, resume)
    if campaign.status is CampaignStatus.CANCELLED:
        again = NextStep(command=command("run", path), why="start a new campaign")
        return (sweep, again)
    unfit = {task.run_id for task in failed if needs_new_plan(task.error_class)}
    requeue = tuple(
        NextStep(
            command=command("requeue", path, export_name=run.export_name),
            why=f"try the {counted(run.counts.failed, 'failed chunk')} of {run.export_name} again",
        )
        for run in runs
        if run.counts.failed and run.run_id not in unfit
    )
    anew = NextStep(
        command=f"{command('run', path)} --new",
        why="plan again and start again: a chunk of a plan that no longer fits fails again"
        if unfit
        else "start again once the source, or the gate, is right",
    )
    ended = bool(unfit) or any(run.status is RunStatus.FAILED for run in runs)
    going_on = (*requeue, resume) if requeue or not ended else ()
    return (status, *going_on, *((anew,) if ended else ()))


def report_json(report: Report, redactor: Redactor = redact) -> str:
    """The report as canonical JSON on one line, redacted."""
    return dumps(redact_plain(report, redactor))


_VERDICTS = {
    "completed": "completed: every row of the plan is in exactly one visible file",
    "incomplete": "incomplete: not every export was delivered; what is done stays done",
    "cancelled": "cancelled: what was finished before stays where it is",
    "active": "not finished: stopped on the way, resumable",
}


def render_report(report: Report, redactor: Redactor = redact, *, details: bool = True) -> str:
    """The report as plain text for a terminal, redacted line by line. Without ``details`` a long
    one has a line for each export, and says more of those alone where something is to be seen."""
    verdict = _VERDICTS.get(report.status, report.status)
    sections = [
        [f"Campaign {report.campaign_name} ({report.campaign_id}) {verdict}."],
        _totals(report),
        _exports(report, details=details),
        _failures(report),
        ["Next:", *(f"  {step.command}   # {step.why}" for step in report.next_steps)],
    ]
    blocks = ["\n".join(safe_line(line, redactor) for line in s) for s in sections if s]
    return "\n\n".join(blocks) + "\n"


def _totals(report: Report) -> list[str]:
    files = "" if report.files is None else f" in {counted(report.files, 'file')}"
    lasted = "" if report.duration_s is None else f" in {duration_text(report.duration_s)}"
    lines = [f"{counted(report.rows, 'row')}{files}, {bytes_text(report.bytes)}{lasted}."]
    numbers = [(report.happened[count.key], count) for _event, count in _COUNTED]
    told = [f"{number} {c.one if number == 1 else c.many}" for number, c in numbers if number]
    lines += [f"On the way: {', '.join(told)}."] if told else []
    return [*lines, f"State: {report.state}"]


def _exports(report: Report, *, details: bool) -> list[str]:
    if details or len(report.exports) < LONG_FROM:
        return [line for export in report.exports for line in export_lines(export)]
    lines = []
    for export in report.exports:
        head, *more = export_lines(export)
        plain = export.status == "completed" and not export.findings
        lines += [head] if plain else [head, *more]
    return [*lines, "`--details` says where each one's files are"]


def export_lines(export: ExportOutcome) -> list[str]:
    """One export: its numbers, then where its files and manifest are."""
    files = "" if export.files is None else f", {counted(export.files, 'file')}"
    head = (
        f"{export.export_name}: {export.status}, {export.chunks_done}/"
        f"{counted(export.chunks_total, 'chunk')}, {counted(export.rows, 'row')}{files}, "
        f"{bytes_text(export.bytes)}"
    )
    if export.duration_s is not None:
        head += f", {duration_text(export.duration_s)}, {rows_rate_text(export.rows_per_s)}"
    lines = [head, f"  files     {export.folder}/"]
    lines += [f"  manifest  {export.manifest}"] if export.manifest else []
    lines += [f"  {line}" for line in export.findings]
    return lines + ([f"  error     {export.error}"] if export.error else [])


def _failures(report: Report) -> list[str]:
    if not report.failed:
        return []
    lines = [f"Failed for good ({counted(len(report.failed), 'chunk')}):"]
    for chunk in report.failed[:FAILED_SHOWN_MAX]:
        lines.append(
            f"  {chunk.export_name} chunk {chunk.chunk_index}, {chunk.rows_covered}: "
            f"{chunk.error_class or 'unknown error'}: {chunk.message}"
        )
        lines.append(f"    {chunk.advice}")
    hidden = len(report.failed) - FAILED_SHOWN_MAX
    return lines + ([f"  … and {hidden} more; `status --json` lists all"] if hidden > 0 else [])


# ------------------------------------------------------------------------------------------
# What is told about a run besides its numbers: changed values, drift, gates.


def finding_lines(run: RunView) -> tuple[str, ...]:
    """One line per finding, each beginning with what it is about; nothing for a quiet run."""
    lines = []
    if run.skipped:
        lines.append("skipped   no rows: nothing was written (skip_empty)")
    if run.changed_values:
        lines.append(
            f"changed   {counted(run.changed_values, 'value')} by on_unrepresentable: "
            f"{run.plan.read.on_unrepresentable}"
        )
    lines += [
        f"mark      {one.message} [{one.rule}]"
        for one in run.plan.diagnostics
        if one.rule in TOLD_BY_RUNS
    ]
    lines += [f"schema    {one.sentence} [{one.code.value}]" for one in run.plan.schema_changes]
    if run.findings is not None:
        proof = run.findings.proof
        if proof is not None and proof.outcome is not ProofOutcome.DIFFERS:
            lines.append(f"proof     {proof.outcome.value}: {proof.sentence}")
        lines += [
            f"{_about(gate)} {gate.outcome.value}: {gate.sentence} [{gate.code.value}]"
            for gate in run.findings.gates
            if gate.outcome is not GateOutcome.PASSED
        ]
        passed = sum(gate.outcome is GateOutcome.PASSED for gate in run.findings.gates)
        lines += [f"quality   {counted(passed, 'gate')} passed"] if passed else []
        if run.findings.acceptance is not None:
            lines.append(f"quality   {run.findings.acceptance.sentence}")
        lines += [f"shape     {one.sentence} [{one.code.value}]" for one in run.findings.shape]
    return tuple(lines)


def _about(gate: GateVerdict) -> str:
    return "proof    " if gate.code is GateCode.PROOF_COUNT else "quality  "


# ------------------------------------------------------------------------------------------
# The report files of one run, ``summary.json`` and ``summary.md`` (Rivet: Reports of runs).

SUMMARY_VERSION = 1
SUMMARY_JSON_NAME = "summary.json"
SUMMARY_MD_NAME = "summary.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One run, as a file beside the state database tells it."""

    summary_version: int
    campaign_id: str
    started_at: str
    finished_at: str | None
    source_engine: str
    source_identity: str
    source_object: str
    strategy: str
    reason: str
    destination_kind: str
    format: str
    compression: str
    plan_hash: str
    plan_warnings: tuple[str, ...]
    outcome: ExportOutcome
    changed: dict[str, int]
    """Column → values that a stated policy had to change, in the files of this run."""
    schema_changes: tuple[SchemaChange, ...]
    findings: RunFindings | None
    failed: tuple[FailedChunk, ...]
    resumable: bool
    resume_command: str | None


def summarise_run(
    campaign: CampaignView,
    run: RunView,
    failed: Sequence[TaskView],
    *,
    uri: str | None,
    files: int | None,
    changed: Mapping[str, int] | None = None,
) -> RunSummary:
    """``failed`` are this run's spent tasks; ``uri`` is its dataset's place without secrets."""
    read, plan = run.plan.read, run.plan
    resumable = run.status is RunStatus.IN_PROGRESS
    return RunSummary(
        summary_version=SUMMARY_VERSION,
        campaign_id=run.campaign_id,
        started_at=rfc3339(run.created_at_s),
        finished_at=None if run.finished_at_s is None else rfc3339(run.finished_at_s),
        source_engine=read.engine,
        source_identity=read.source_identity,
        source_object=str(read.relation) if read.relation else "query",
        strategy=plan.strategy,
        reason=plan.reason,
        destination_kind=plan.destination.kind,
        format=plan.format.format,
        compression=plan.format.compression,
        plan_hash=run.plan_hash,
        plan_warnings=plan.warnings,
        outcome=export_outcome(run, uri, files),
        changed={name: count for name, count in (changed or {}).items() if count},
        schema_changes=plan.schema_changes,
        findings=run.findings,
        failed=tuple(failed_chunk(task) for task in failed),
        resumable=resumable,
        resume_command=command("resume", campaign.config_path) if resumable else None,
    )


def summary_json(summary: RunSummary, redactor: Redactor = redact) -> str:
    """The body of ``summary.json``: pretty, redacted, one final newline."""
    return json.dumps(redact_plain(summary, redactor), indent=2, ensure_ascii=False) + "\n"


def summary_markdown(summary: RunSummary, redactor: Redactor = redact) -> str:
    """The body of ``summary.md``: a table of facts and a list of failures, redacted."""
    outcome = summary.outcome
    facts = [
        ("run", outcome.run_id),
        ("campaign", summary.campaign_id),
        ("status", outcome.status),
        ("source", f"{summary.source_identity}, {summary.source_object}"),
        ("strategy", f"{summary.strategy}: {summary.reason}"),
        ("started", summary.started_at),
        ("finished", summary.finished_at or "not finished"),
        ("duration", duration_text(outcome.duration_s)),
        ("rows", f"{outcome.rows:,} ({rows_rate_text(outcome.rows_per_s)})"),
        ("chunks", f"{outcome.chunks_done}/{outcome.chunks_total}"),
        ("files", "not counted" if outcome.files is None else f"{outcome.files:,}"),
        ("size", f"{bytes_text(outcome.bytes)}, {summary.format} ({summary.compression})"),
        ("folder", outcome.folder),
        ("manifest", outcome.manifest or "none: only a completed run has one"),
        ("plan", summary.plan_hash),
    ]
    facts += [("error", outcome.error)] if outcome.error else []
    facts += [("resume with", summary.resume_command)] if summary.resume_command else []
    lines = [f"# {_text(outcome.export_name, redactor)}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_text(value, redactor)} |" for name, value in facts]
    if summary.plan_warnings:
        lines += ["", "## Plan warnings", ""]
        lines += [f"- {_text(w, redactor)}" for w in summary.plan_warnings]
    if outcome.findings:
        lines += ["", "## Findings", ""]
        lines += [f"- {_text(line, redactor)}" for line in outcome.findings]
    if summary.changed:
        lines += ["", "## Changed values", ""]
        lines += [f"- {_text(n, redactor)}: {count:,}" for n, count in summary.changed.items()]
    if summary.failed:
        lines += ["", f"## Failed for good: {counted(len(summary.failed), 'chunk')}", ""]
        lines += [f"- {_text(_failure(chunk), redactor)}" for chunk in summary.failed]
    return "\n".join(lines) + "\n"


_MARKS = re.compile(r"([\\`*\[\]|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
_TAGS = {ord("<"): "&lt;", ord(">"): "&gt;", ord("&"): "&amp;"}


def _text(value: str, redactor: Redactor) -> str:
    """One line of somebody else's words as Markdown that shows them: no link, image, tag or cell is
    theirs."""
    return _MARKS.sub(r"\\\1", one_line(value, redactor).translate(_TAGS))


def _failure(chunk: FailedChunk) -> str:
    return (
        f"chunk {chunk.chunk_index} ({chunk.rows_covered}), {chunk.error_class}: "
        f"{chunk.message} {chunk.advice}"
    )
