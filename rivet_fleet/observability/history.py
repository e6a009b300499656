"""Ended runs of exports, campaign after campaign: what ``metrics`` lists. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rivet_fleet.observability.redaction import Redactor, one_line
from rivet_fleet.observability.units import bytes_text, duration_text, rfc3339, rows_rate_text


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRun:
    """One row of ``export_metrics``. Seconds and bytes; None where it was not measured.

    ``duration_s`` counts from submission, ``work_s`` only the time workers spent on attempts
    that were committed; ``rows_per_s`` is what one worker delivered in a second of work, else of
    the duration.
    """

    export_name: str
    run_id: str
    ended_at_s: float
    status: str
    error: str | None
    rows: int
    bytes: int
    files: int
    chunks: int
    duration_s: float
    work_s: float | None
    rows_per_s: float | None
    attempts: int | None
    retries: int
    longest_statement_s: float | None
    changed_values: int | None


def ended_run(row: Mapping[str, Any]) -> EndedRun:
    """A row as ``Store.metrics`` answers it."""
    duration_s = row["duration_ms"] / 1000
    work_s = _seconds(row["work_ms"])
    spent_s = work_s or duration_s
    return EndedRun(
        export_name=row["export_name"],
        run_id=row["run_id"],
        ended_at_s=row["run_at_s"],
        status=row["status"],
        error=row["error_message"],
        rows=row["total_rows"],
        bytes=row["bytes_written"],
        files=row["files_produced"],
        chunks=row["chunks"],
        duration_s=duration_s,
        work_s=work_s,
        rows_per_s=row["total_rows"] / spent_s if spent_s else None,
        attempts=row["attempts"],
        retries=row["retries"],
        longest_statement_s=_seconds(row["longest_statement_ms"]),
        changed_values=row["changed_values"],
    )


def _seconds(millis: int | None) -> float | None:
    return None if millis is None else millis / 1000


_HEAD = (
    "export", "ended", "status", "rows", "size", "files", "took", "rows/s", "attempts",
    "retries", "longest statement", "changed",
)  # fmt: skip


def history_lines(runs: Sequence[EndedRun], redactor: Redactor) -> list[str]:
    """A table, newest first; one line that says so when there is nothing."""
    if not runs:
        return ["No run of these exports has ended yet."]
    rows = [_cells(run, redactor) for run in runs]
    widths = [max(map(len, column)) for column in zip(_HEAD, *rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < 3 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (_HEAD, *rows)
    ]


def _cells(run: EndedRun, redactor: Redactor) -> tuple[str, ...]:
    longest_s = run.longest_statement_s
    return (
        one_line(run.export_name, redactor, 40),
        rfc3339(run.ended_at_s),
        run.status,
        f"{run.rows:,}",
        bytes_text(run.bytes),
        str(run.files),
        duration_text(run.duration_s),
        rows_rate_text(run.rows_per_s),
        "-" if run.attempts is None else str(run.attempts),
        str(run.retries),
        "-" if longest_s is None else duration_text(longest_s),
        "-" if run.changed_values is None else f"{run.changed_values:,}",
    )
