"""The report files of one run: bodies of ``summary.json`` and ``summary.md`` (inventory §11.6)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rivet_fleet.contracts.change import SchemaChange
from rivet_fleet.contracts.quality import RunFindings
from rivet_fleet.contracts.state import CampaignView, RunView, TaskView
from rivet_fleet.contracts.task import RunStatus
from rivet_fleet.contracts.url import redact
from rivet_fleet.observability.advice import command
from rivet_fleet.observability.redaction import Redactor, one_line, redact_plain
from rivet_fleet.observability.report import (
    ExportOutcome,
    FailedChunk,
    export_outcome,
    failed_chunk,
)
from rivet_fleet.observability.units import (
    bytes_text,
    counted,
    duration_text,
    rfc3339,
    rows_rate_text,
)

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
    lines = [f"# {outcome.export_name}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(value, redactor)} |" for name, value in facts]
    if summary.plan_warnings:
        lines += ["", "## Plan warnings", ""]
        lines += [f"- {one_line(w, redactor)}" for w in summary.plan_warnings]
    if outcome.findings:
        lines += ["", "## Findings", ""]
        lines += [f"- {one_line(line, redactor)}" for line in outcome.findings]
    if summary.changed:
        lines += ["", "## Changed values", ""]
        lines += [f"- {one_line(n, redactor)}: {count:,}" for n, count in summary.changed.items()]
    if summary.failed:
        lines += ["", f"## Failed for good: {counted(len(summary.failed), 'chunk')}", ""]
        lines += [f"- {one_line(_failure(chunk), redactor)}" for chunk in summary.failed]
    return "\n".join(lines) + "\n"


def _cell(value: str, redactor: Redactor) -> str:
    return one_line(value, redactor).replace("|", "\\|")


def _failure(chunk: FailedChunk) -> str:
    return (
        f"chunk {chunk.chunk_index} ({chunk.rows_covered}), {chunk.error_class}: "
        f"{chunk.message} {chunk.advice}"
    )
