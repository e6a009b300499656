"""A plan for review: what would be read, in which order, why, and what is not known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rivet_fleet.contracts.artifact import ArtifactExport, PlanArtifact, by_name
from rivet_fleet.contracts.cursor import describe_mark
from rivet_fleet.contracts.keys import describe_range
from rivet_fleet.contracts.plan import PlannedRun
from rivet_fleet.contracts.priority import CampaignAdvice, Provenance, Recommendation
from rivet_fleet.contracts.window import describe_window
from rivet_fleet.observability.redaction import Redactor, one_line, safe_line
from rivet_fleet.observability.units import counted, duration_text, scaled_text

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
