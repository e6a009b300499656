"""The answer of ``check``, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

from rivet_fleet.contracts.codec import to_plain
from rivet_fleet.contracts.foreign import printable_json
from rivet_fleet.contracts.typereport import (
    CheckReport,
    ColumnReport,
    Evidence,
    ExportReport,
    Judgement,
    TargetColumn,
)
from rivet_fleet.observability.redaction import safe_line

Redactor = Callable[[str], str]
_FOOT = "Verdicts advise and stop nothing: an estimate is no count."
_HEAD = ("column", "source type", "type", "Arrow", "file", "fidelity", "note")
_TARGET_HEAD = ("column", "loads as", "should be", "status", "recovery or note")


def check_json(report: CheckReport, redact: Redactor) -> str:
    """One JSON object; its shape is in docs/reference/check-report.md."""
    return printable_json(redact(json.dumps(to_plain(report), ensure_ascii=False, indent=2)))


def render_check(report: CheckReport, redact: Redactor, *, types: bool) -> str:
    """A paragraph for each export, with ``types`` its table of columns; the findings last."""
    lines: list[str] = []
    for export in report.exports:
        lines += _summary(export)
        if types and export.columns:
            lines += ["", *_columns(export), ""]
            for target in dict.fromkeys(one.target for c in export.columns for one in c.targets):
                loaded = [(c, one) for c in export.columns for one in c.targets]
                lines += [f"  loaded by {target.value}:"]
                lines += [*_target([pair for pair in loaded if pair[1].target is target]), ""]
    lines += [f"note: {note}" for note in report.notes]
    if any(export.judgement is not None for export in report.exports):
        lines += ["", _FOOT]
    if types and report.findings:
        lines += ["not exact:", *(f"  {finding}" for finding in report.findings)]
    return "\n".join(safe_line(line, redact) for line in lines).rstrip()


def _summary(export: ExportReport) -> Iterator[str]:
    server = f"{export.engine} {export.server_version}".strip()
    rows = "" if export.row_estimate is None else f", about {export.row_estimate} rows"
    what = f"{export.export_name}: {export.relation or 'a query'}"
    yield f"{what} on {export.source} ({server}{rows})"
    if export.strategy is not None:
        yield f"  {export.chunks} chunk(s), {export.strategy}: {export.reason}"
    if export.judgement is not None:
        yield from _judgement(export.judgement)
    yield from (f"  warning: {warning}" for warning in export.warnings)
    yield from (f"  refused: {reason}" for reason in export.refused)


def _judgement(judged: Judgement) -> Iterator[str]:
    preflight = judged.preflight
    rows = "unknown" if preflight.rows is None else f"{preflight.rows:,} ({preflight.rows_from})"
    yield (
        f"  verdict: {preflight.verdict.value}; judged by rows {rows}; "
        f"confidence {judged.confidence} of 100"
    )
    profile = preflight.recommended_profile
    configured = "as configured" if profile == judged.profile else f"configured: {judged.profile}"
    parallel = preflight.recommended_parallel
    at_once = "one chunk at a time" if parallel == 1 else f"{parallel} chunks at once"
    yield f"  advised: profile {profile} ({configured}), {at_once}"
    yield f"  numbers: {'; '.join(_number(one) for one in judged.evidence)}"
    yield from (f"  not known: {c.message} [{c.kind.value}]" for c in judged.caveats)
    for warning in preflight.warnings:
        yield f"  [{warning.severity.value.upper()}] {warning.message} [{warning.code}]"


def _number(one: Evidence) -> str:
    value = f"{one.value:,}" if isinstance(one.value, int) else str(one.value)
    preferred = "" if one.used else ", not used"
    note = f", {one.note}" if one.note else ""
    return f"{one.what.replace('_', ' ')} {value} [{one.origin.value}{preferred}{note}]"


def _columns(export: ExportReport) -> Iterator[str]:
    yield from _table(_HEAD, [_cells(column) for column in export.columns])


def _cells(column: ColumnReport) -> tuple[str, ...]:
    native = column.native_type + ("" if column.nullable else " NOT NULL")
    return (
        column.name,
        native,
        column.type or "-",
        column.arrow_type or "-",
        column.file_type or "-",
        column.fidelity,
        column.note or "",
    )


def _target(found: list[tuple[ColumnReport, TargetColumn]]) -> Iterator[str]:
    rows = []
    for column, one in found:
        advice = " | ".join(word for word in (one.cast_sql, one.note) if word)
        loads = one.autoload_type or "-"
        rows.append((column.name, loads, one.target_type or "-", one.status.value, advice))
    yield from _table(_TARGET_HEAD, rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, tuple("-" * width for width in widths), *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield ("  " + "  ".join(cells)).rstrip()
