"""``status``: where a campaign stands and why, as text and as JSON (schema version 1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from rivet_fleet.contracts.codec import dumps
from rivet_fleet.contracts.keys import describe_range
from rivet_fleet.contracts.state import (
    GroupView,
    JournalEntry,
    Outage,
    RunView,
    TaskCounts,
    TaskStatus,
    TaskView,
    WorkerView,
)
from rivet_fleet.contracts.url import redact
from rivet_fleet.observability.reasons import (
    Reason,
    Scene,
    full_reasons,
    group_words,
    held_reasons,
    order_reasons,
    outage_reasons,
    protection_reasons,
    reasons_for,
    spent,
    unfit_reasons,
)
from rivet_fleet.observability.report import finding_lines
from rivet_fleet.observability.units import (
    Redactor,
    bytes_text,
    counted,
    duration_text,
    one_line,
    redact_plain,
    rfc3339,
    safe_line,
    scaled_text,
)

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportStatus:
    """One export's row."""

    export_name: str
    run_id: str
    status: str
    strategy: str
    chunks: TaskCounts
    chunks_expected: int
    rows: int
    bytes: int
    error: str | None
    wave: int | None = None
    """None when the campaign does not follow waves."""
    priority_score: int | None = None
    changed_values: int = 0
    """Values of committed chunks that a stated policy had to change."""
    family: str = ""
    """The export of the file that this is a partition of; empty when it is none."""
    findings: tuple[str, ...] = ()
    """One line each: changed values, schema changes, quality gates, unusual numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """One worker process. ``silent_s`` is how long ago it was last heard from."""

    worker_id: str
    name: str
    host_id: str
    pid: int
    alive: bool
    silent_s: float
    rss_bytes: int
    chunk: str | None
    gone: bool = False
    """Its process has ended, by the kernel's word: only of the host where this is asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedStatus:
    """One chunk whose budget is spent."""

    export_name: str
    chunk_index: int
    rows_covered: str
    attempts: int
    error_class: str | None
    message: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReport:
    """Everything ``status`` says; times are the state database's."""

    schema_version: int
    at: str
    campaign_id: str
    campaign_name: str
    status: str
    created_at: str
    finished_at: str | None
    exports: tuple[ExportStatus, ...]
    workers: tuple[WorkerStatus, ...]
    groups: tuple[GroupView, ...]
    failed: tuple[FailedStatus, ...]
    reasons: tuple[Reason, ...]


def explain(
    scene: Scene,
    *,
    outages: Mapping[str, Outage] = MappingProxyType({}),
    began: Sequence[JournalEntry] = (),
    held: Sequence[JournalEntry] = (),
    full: Sequence[JournalEntry] = (),
) -> StatusReport:
    """The report for one moment.

    ``outages`` are by source; ``began`` are the last workers that started or were unfit; ``held``
    is when retries were told to wait, lately, and ``full`` when workers were told to.
    """
    campaign, now_s = scene.campaign, scene.now_s
    finished_at_s = campaign.finished_at_s
    return StatusReport(
        schema_version=SCHEMA_VERSION,
        at=rfc3339(now_s),
        campaign_id=campaign.campaign_id,
        campaign_name=campaign.campaign_name,
        status=campaign.status.value,
        created_at=rfc3339(campaign.created_at_s),
        finished_at=None if finished_at_s is None else rfc3339(finished_at_s),
        exports=tuple(_export(run) for run in scene.runs),
        workers=tuple(_worker(worker, scene.tasks, now_s) for worker in scene.workers),
        groups=tuple(scene.groups),
        failed=tuple(_failed(t) for t in scene.tasks if spent(t)),
        reasons=(
            *outage_reasons(scene, outages),
            *held_reasons(scene, held),
            *full_reasons(scene, full),
            *unfit_reasons(scene, began),
            *reasons_for(scene, protection_reasons(scene)),
            *order_reasons(scene),
        ),
    )


def _export(run: RunView) -> ExportStatus:
    return ExportStatus(
        export_name=run.export_name,
        run_id=run.run_id,
        status=run.status.value,
        strategy=run.plan.strategy,
        chunks=run.counts,
        chunks_expected=run.expected_tasks,
        rows=run.rows,
        bytes=run.bytes,
        error=run.error,
        wave=run.plan.place.wave if run.plan.place else None,
        priority_score=run.plan.place.score if run.plan.place else None,
        changed_values=run.changed_values,
        family=run.plan.family,
        findings=finding_lines(run),
    )


def _worker(worker: WorkerView, tasks: Sequence[TaskView], now_s: float) -> WorkerStatus:
    held = [
        f"{t.export_name} chunk {t.chunk_index}"
        for t in tasks
        if t.status is TaskStatus.RUNNING and t.owner == worker.worker_id
    ]
    return WorkerStatus(
        worker_id=worker.worker_id,
        name=worker.name,
        host_id=worker.host_id,
        pid=worker.pid,
        alive=worker.alive,
        silent_s=max(now_s - worker.heartbeat_at_s, 0.0),
        rss_bytes=worker.rss_bytes,
        chunk=", ".join(held) or None,
        gone=worker.gone,
    )


def _failed(task: TaskView) -> FailedStatus:
    return FailedStatus(
        export_name=task.export_name,
        chunk_index=task.chunk_index,
        rows_covered=describe_range(task.chunk_range),
        attempts=task.attempts,
        error_class=task.error_class,
        message=task.last_error,
    )


def status_json(report: StatusReport, redactor: Redactor = redact) -> str:
    """The report as canonical JSON on one line, redacted."""
    return dumps(redact_plain(report, redactor))


def render_status(report: StatusReport, redactor: Redactor = redact) -> str:
    """The report as plain text for a terminal, redacted."""
    blocks = [
        [f"Campaign {report.campaign_name} ({report.campaign_id}): {report.status}"],
        _export_table(report),
        [
            f"{one_line(e.export_name, str, 40)}: {line}"
            for e in report.exports
            for line in e.findings
        ],
        _worker_lines(report),
        [f"source group {g.group_name}: {group_words(g)}" for g in report.groups],
        ["Why:", *(line for reason in report.reasons for line in _reason_lines(reason))],
    ]
    safe = ["\n".join(safe_line(line, redactor) for line in block) for block in blocks if block]
    return "\n\n".join(safe) + "\n"


def _export_table(report: StatusReport) -> list[str]:
    head = HEAD
    rows = export_rows(report.exports)
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]


def _worker_lines(report: StatusReport) -> list[str]:
    alive = sum(w.alive for w in report.workers)
    lines = [f"{counted(alive, 'worker')} alive"]
    for worker in report.workers:
        silent = f"not heard from for {duration_text(worker.silent_s)}"
        seen = "alive" if worker.alive else "its process has ended" if worker.gone else silent
        doing = worker.chunk or ("idle" if worker.alive else "holds nothing")
        place = f"{worker.host_id} pid {worker.pid}"
        lines.append(f"  {worker.name} ({place}): {seen}, {doing}, {bytes_text(worker.rss_bytes)}")
    return lines


def _reason_lines(reason: Reason) -> list[str]:
    lines = [f"  {reason.sentence} [{reason.code.value}]"]
    return lines + ([f"    {reason.next_command}"] if reason.next_command else [])


# ------------------------------------------------------------------------------------------
# Partitions of one export as one line, beside it only those worth their own.

FOLDED_FROM = 13
"""So many partitions of one export are told together."""
HEAD = ("export", "status", "chunks", "running", "committed", "failed", "rows", "size")
_Cells = tuple[str, ...]


def export_rows(exports: Sequence[ExportStatus]) -> list[_Cells]:
    """A row for each export; a large family has one for all, and one for each member that runs
    or has failed."""
    sizes = Counter(export.family for export in exports if export.family)
    rows: list[_Cells] = []
    told: set[str] = set()
    for export in exports:
        if sizes[export.family] < FOLDED_FROM:
            rows.append(_row(export))
            continue
        if export.family not in told:
            told.add(export.family)
            rows.append(_together([one for one in exports if one.family == export.family]))
        if export.chunks.running or export.chunks.failed or export.status == "failed":
            rows.append(_row(export))
    return rows


def _row(export: ExportStatus) -> _Cells:
    return (
        one_line(export.export_name, str, 40),
        export.status,
        f"{export.chunks.completed}/{export.chunks_expected}",
        str(export.chunks.running),
        str(export.chunks.committed),
        str(export.chunks.failed),
        scaled_text(export.rows),
        bytes_text(export.bytes),
    )


def _together(members: Sequence[ExportStatus]) -> _Cells:
    done = sum(one.status == "completed" for one in members)
    chunks = [one.chunks for one in members]
    return (
        one_line(f"{members[0].family} ({len(members)} partitions)", str, 40),
        f"{done} completed",
        f"{sum(one.completed for one in chunks)}/{sum(one.chunks_expected for one in members)}",
        str(sum(one.running for one in chunks)),
        str(sum(one.committed for one in chunks)),
        str(sum(one.failed for one in chunks)),
        scaled_text(sum(one.rows for one in members)),
        bytes_text(sum(one.bytes for one in members)),
    )
