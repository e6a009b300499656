"""What was decided or found before a run, for review: a plan, and the answers of two commands.

Of a plan: what would be read, in which order, why, and what is not known. Of ``check`` and of
``doctor``: the whole answer, for people and for programs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

from rivet_fleet.contracts.artifact import ArtifactExport, PlanArtifact, by_name
from rivet_fleet.contracts.codec import to_plain
from rivet_fleet.contracts.doctor import DoctorCode, DoctorFinding, DoctorReport, Gravity
from rivet_fleet.contracts.foreign import printable_json
from rivet_fleet.contracts.keys import describe_range
from rivet_fleet.contracts.plan import PlannedRun
from rivet_fleet.contracts.priority import CampaignAdvice, Provenance, Recommendation
from rivet_fleet.contracts.typereport import (
    CheckReport,
    ColumnReport,
    Evidence,
    ExportReport,
    Judgement,
    TargetColumn,
)
from rivet_fleet.contracts.window import describe_mark, describe_window
from rivet_fleet.observability.units import (
    LONG_FROM,
    Redactor,
    counted,
    duration_text,
    one_line,
    safe_line,
    scaled_text,
)

_HEAD = ("wave", "export", "score", "strategy", "chunks", "rows", "verdict", "cost", "risk", "work")
_RANGES_SHOWN = 3


def render_plan(artifact: PlanArtifact, redact: Redactor) -> str:
    """The review for a terminal: a table, the campaign view, then every export's reasons."""
    lines = [*_head(artifact), "", *_table(artifact), ""]
    lines += [*_campaign(artifact.prioritization), ""]
    runs = by_name(artifact)
    advice = _advice(artifact)
    for export in artifact.exports:
        lines += [*_export(export, runs[export.export_name], advice[export.export_name]), ""]
    lines += _foot(artifact)
    return "\n".join(safe_line(line, redact) for line in lines).rstrip()


def _advice(artifact: PlanArtifact) -> dict[str, Recommendation]:
    return {one.export_name: one for one in artifact.prioritization.ordered_exports}


def _head(artifact: PlanArtifact) -> Iterator[str]:
    chunks = sum(export.chunk_count for export in artifact.exports)
    exports = counted(len(artifact.exports), "export")
    yield (
        f"Plan {artifact.plan_id} of {artifact.campaign.campaign_name}: {exports}, "
        f"{counted(chunks, 'chunk')}"
    )
    yield f"made {artifact.created_at} by version {artifact.rivet_fleet_version}"


def _table(artifact: PlanArtifact) -> Iterator[str]:
    """In the order of the campaign view; the wave is the one that is followed, if any is."""
    exports = {export.export_name: export for export in artifact.exports}
    runs = by_name(artifact)
    rows = [_HEAD]
    for one in artifact.prioritization.ordered_exports:
        export, run = exports[one.export_name], runs[one.export_name]
        place = run.plan.place
        wave = place.wave if place and place.wave else one.recommended_wave
        known = export.preflight.rows
        rows.append(
            (
                str(wave),
                one_line(one.export_name, str, 40),
                f"{one.priority_score} {one.priority_class.value}",
                run.plan.strategy,
                str(export.chunk_count),
                "unknown" if known is None else f"~{scaled_text(known)}",
                export.preflight.verdict.value,
                one.cost_class.value,
                one.risk_class.value,
                _work(one),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _work(one: Recommendation) -> str:
    if one.predicted.provenance is Provenance.PLACEHOLDER:
        return "unknown"
    bound = "" if one.predicted.provenance is Provenance.MEASURED else "≥ "
    return bound + duration_text(one.predicted.work_s)


def _campaign(advice: CampaignAdvice) -> Iterator[str]:
    yield "Campaign:"
    for wave in advice.waves:
        packs = " | ".join(", ".join(pack) for pack in wave.packs)
        yield f"  wave {wave.wave} is advised for: {packs}"
    for warning in advice.source_group_warnings:
        yield f"  warning: {warning.message}"
    yield from (f"  hint: {hint.message}" for hint in advice.concurrency_hints)


def _export(export: ArtifactExport, run: PlannedRun, one: Recommendation) -> Iterator[str]:
    preflight = export.preflight
    yield f"{export.export_name}: {run.plan.read.relation or 'a query'}"
    yield f"  {counted(export.chunk_count, 'chunk')}, {run.plan.strategy}: {run.plan.reason}"
    yield from _ranges(run)
    rows = "unknown" if preflight.rows is None else f"{preflight.rows:,} ({preflight.rows_from})"
    yield f"  rows: {rows}; confidence {one.confidence} of 100"
    if run.plan.read.window is not None:
        yield f"  reads {describe_window(run.plan.read.window)}"
    if export.cursor_snapshot is not None:
        yield f"  continues after {describe_mark(export.cursor_snapshot)}"
    at_once = _at_once(preflight.recommended_parallel)
    yield f"  profile {preflight.recommended_profile} is advised, {at_once}"
    parts = ", ".join(f"{part.what} {part.points:+d}" for part in one.score_parts)
    yield f"  score {one.priority_score}: 50{', ' + parts if parts else ''}"
    if one.isolate_on_source:
        yield "  should have its source to itself"
    yield from (f"  because: {reason.message} [{reason.kind.value}]" for reason in one.reasons)
    yield from (f"  not known: {c.message} [{c.kind.value}]" for c in one.caveats)
    for warning in preflight.warnings:
        yield f"  [{warning.severity.value.upper()}] {warning.message} [{warning.code}]"
    yield from (f"  warning: {warning}" for warning in run.plan.warnings)


def _at_once(parallel: int) -> str:
    return "one chunk at a time" if parallel == 1 else f"{parallel} chunks at once"


def _ranges(run: PlannedRun) -> Iterator[str]:
    """The first ranges and the last: all of them are in the file."""
    shown: Sequence[str] = [describe_range(chunk.chunk_range) for chunk in run.chunks]
    if len(shown) > _RANGES_SHOWN + 1:
        shown = [*shown[:_RANGES_SHOWN], f"… {len(shown) - _RANGES_SHOWN - 1} more …", shown[-1]]
    yield from (f"    {line}" for line in shown)


def _foot(artifact: PlanArtifact) -> Iterator[str]:
    place = next((r.plan.place for r in artifact.campaign.runs if r.plan.place), None)
    if place is None:
        yield "Handed out in the order of the configuration: the advice above is not followed"
        yield "(campaign.order, campaign.waves)."
    else:
        order = ", ".join(r.plan.export_name for r in artifact.campaign.runs)
        yield f"Handed out in this order: {order}."
    yield f"Applied as it is until {artifact.expires_at}."
    yield "Scores and verdicts advise; they stop nothing."


# ------------------------------------------------------------------------------------------
# The answer of ``check``, for people and for programs.

_FOOT = "Verdicts advise and stop nothing: an estimate is no count."
_TYPES_HEAD = ("column", "source type", "type", "Arrow", "file", "fidelity", "note")
_TARGET_HEAD = ("column", "loads as", "should be", "status", "recovery or note")


def check_json(report: CheckReport, redact: Redactor) -> str:
    """One JSON object; its shape is in docs/reference/check-report.md."""
    return printable_json(redact(json.dumps(to_plain(report), ensure_ascii=False, indent=2)))


def render_check(
    report: CheckReport, redact: Redactor, *, types: bool, details: bool = True
) -> str:
    """A paragraph for each export, with ``types`` its table of columns; the findings last. Without
    ``details`` and ``types`` a long report has a line for each, and what is wrong below it."""
    lines: list[str] = []
    short = len(report.exports) >= LONG_FROM and not (details or types)
    for export in report.exports:
        lines += _line_of(export) if short else _summary(export)
        if types and export.columns:
            lines += ["", *_columns(export), ""]
            for target in dict.fromkeys(one.target for c in export.columns for one in c.targets):
                loaded = [(c, one) for c in export.columns for one in c.targets]
                lines += [f"  loaded by {target.value}:"]
                lines += [*_target([pair for pair in loaded if pair[1].target is target]), ""]
    lines += ["`--details` says why, and from which numbers"] if short else []
    lines += [f"note: {note}" for note in report.notes]
    if any(export.judgement is not None for export in report.exports):
        lines += ["", _FOOT]
    if types and report.findings:
        lines += ["not exact:", *(f"  {finding}" for finding in report.findings)]
    return "\n".join(safe_line(line, redact) for line in lines).rstrip()


def _line_of(export: ExportReport) -> Iterator[str]:
    said = [export.relation or "a query"]
    said += [] if export.row_estimate is None else [f"about {export.row_estimate} rows"]
    said += [] if export.strategy is None else [f"{export.chunks} chunk(s)"]
    if export.judgement is not None:
        preflight = export.judgement.preflight
        noted = len(preflight.warnings)
        said += [f"verdict {preflight.verdict.value}"]
        said += [f"{counted(noted, 'remark')}"] if noted else []
    yield f"{export.export_name}: {', '.join(said)}"
    yield from (f"  warning: {warning}" for warning in export.warnings)
    yield from (f"  refused: {reason}" for reason in export.refused)


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
    yield from _aligned(_TYPES_HEAD, [_cells(column) for column in export.columns])


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
    yield from _aligned(_TARGET_HEAD, rows)


def _aligned(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, tuple("-" * width for width in widths), *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield ("  " + "  ".join(cells)).rstrip()


# ------------------------------------------------------------------------------------------
# The answer of ``doctor``, for people and for programs.

_MARKS = {
    Gravity.OK: "ok     ",
    Gravity.INFO: "info   ",
    Gravity.WARNING: "WARNING",
    Gravity.ERROR: "ERROR  ",
}

_FOLDED_FROM = 4
"""So many destinations that are fine are told in one line."""


def doctor_json(report: DoctorReport, redact: Callable[[str], str]) -> str:
    """One JSON object; its shape is in docs/reference/doctor.md."""
    return printable_json(redact(json.dumps(to_plain(report), ensure_ascii=False, indent=2)))


def render_doctor(report: DoctorReport, redact: Callable[[str], str]) -> str:
    """One line for what is fine, up to three for what is not; the verdict last."""
    well = [one for one in report.findings if one.code is DoctorCode.DESTINATION_WRITABLE]
    shown = [one for one in report.findings if len(well) < _FOLDED_FROM or one not in well[1:]]
    lines = [line for finding in shown for line in _lines(finding)]
    if len(shown) < len(report.findings):
        lines.append(f"{_MARKS[Gravity.OK]}  and {len(well) - 1} more destinations as well")
    counts = {
        gravity: sum(1 for one in report.findings if one.gravity is gravity) for gravity in Gravity
    }
    verdict = "a run can start" if report.all_ok else "a run would not succeed"
    said = f"{counts[Gravity.ERROR]} error(s), {counts[Gravity.WARNING]} warning(s): {verdict}"
    return "\n".join(safe_line(line, redact) for line in [*lines, "", said])


def _lines(finding: DoctorFinding) -> Iterator[str]:
    loud = finding.gravity in (Gravity.WARNING, Gravity.ERROR)
    code = f" [{finding.code.value}]" if loud else ""
    yield f"{_MARKS[finding.gravity]}  {finding.subject}: {finding.what}{code}"
    if finding.gravity is Gravity.OK:
        return
    if finding.why:
        yield f"           why: {finding.why}"
    if finding.hint:
        yield f"           fix: {finding.hint}" if loud else f"           see: {finding.hint}"
