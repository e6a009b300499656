"""From facts, plan and history to the campaign view: what first, what alone, how much at once.

Pure. It reads the plan and changes nothing in it: whether the fleet follows the advice is
``claim_order``'s question, and the configuration's (inventory §5.3, §5.4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rivet_fleet.contracts.facts import SourceFacts
from rivet_fleet.contracts.keys import RangeKind
from rivet_fleet.contracts.plan import CampaignPlan, PlannedRun
from rivet_fleet.contracts.priority import (
    CampaignAdvice,
    Caveat,
    CaveatKind,
    CursorQuality,
    Preflight,
    Recommendation,
)
from rivet_fleet.contracts.state import MeasuredRun
from rivet_fleet.planning.candidates import key_facts, led_by
from rivet_fleet.planning.config_models import CHUNK_SIZE_DEFAULT, ExportConfig
from rivet_fleet.planning.history import BelievedRows, believed_rows, history_of, predict
from rivet_fleet.planning.loaded import LoadedConfig
from rivet_fleet.planning.priority import (
    CursorMode,
    ScoredStrategy,
    ScoreInputs,
    cursor_quality,
    recommend,
)
from rivet_fleet.planning.protection import readers_of
from rivet_fleet.planning.verdicts import Access, preflight, sparse_range
from rivet_fleet.planning.waves import campaign_view

_WHOLE_TABLE_MODES = ("full", "chunked")


@dataclass(frozen=True, slots=True, kw_only=True)
class Advised:
    """The campaign view, and what was found about each export on its own."""

    campaign: CampaignAdvice
    preflights: Mapping[str, Preflight]


def advise(
    loaded: LoadedConfig,
    facts: Mapping[str, SourceFacts],
    plan: CampaignPlan,
    history: Mapping[str, Sequence[MeasuredRun]],
    *,
    now_s: float,
) -> Advised:
    """The advice for every planned export. ``facts`` and ``history`` (newest first) by export
    name; an export without history is judged by its facts alone."""
    exports = {export.name: export for export in loaded.config.exports}
    preflights: dict[str, Preflight] = {}
    found: list[Recommendation] = []
    for run in plan.runs:
        name = run.plan.export_name
        runs = history.get(name, ())
        preflights[name], recommendation = _one(
            loaded, exports[name], facts[name], run, runs, now_s
        )
        found.append(recommendation)
    memory_mb = loaded.config.campaign.worker_memory_mb
    return Advised(campaign=campaign_view(found, rss_mb=memory_mb), preflights=preflights)


def _one(
    loaded: LoadedConfig,
    export: ExportConfig,
    facts: SourceFacts,
    run: PlannedRun,
    runs: Sequence[MeasuredRun],
    now_s: float,
) -> tuple[Preflight, Recommendation]:
    rows = believed_rows(
        facts.row_estimate,
        facts.row_estimate_provenance,
        runs,
        now_s=now_s,
        comparable=export.mode in _WHOLE_TABLE_MODES,
    )
    access = _access(loaded, export, facts, run, rows)
    checked = preflight(access)
    ranged = _range_known(facts, run)
    strategy = _strategy(export, run)
    inputs = ScoreInputs(
        export_name=export.name,
        strategy=strategy,
        rows=rows.rows,
        chunk_count=len(run.chunks),
        verdict=checked.verdict,
        cursor_quality=_cursor(export, facts, run, strategy),
        sparse_range_risk=sparse_range(access),
        reconcile_required=bool(export.reconcile_required),
        days_window=export.days_window,
        warnings=len(checked.warnings),
        history=history_of(runs),
        predicted=predict(runs),
        source_group=export.source_group,
        caveats=tuple(_caveats(access, ranged, rows, bool(runs))),
    )
    return checked, recommend(inputs)


def _access(
    loaded: LoadedConfig,
    export: ExportConfig,
    facts: SourceFacts,
    run: PlannedRun,
    rows: BelievedRows,
) -> Access:
    kinds = {chunk.chunk_range.kind for chunk in run.chunks}
    readers = [loaded.config.campaign.workers, len(run.chunks)]
    allowed = readers_of(loaded, export.source_group)
    if allowed is not None:
        readers.append(allowed)
    return Access(
        uses_index=_uses_index(facts, run, kinds),
        cursor=run.plan.cursor is not None or bool(kinds & {RangeKind.KEYSET, RangeKind.SPAN}),
        rows=rows.rows,
        rows_from=rows.said_by,
        row_bytes=facts.row_width_bytes,
        chunked=len(run.chunks) > 1,
        keyset=RangeKind.KEYSET in kinds,
        parallel=min(readers),
        key_span=_key_span(facts, run) if RangeKind.SPAN in kinds else None,
        rows_per_chunk=export.chunk_size or CHUNK_SIZE_DEFAULT,
    )


def _uses_index(facts: SourceFacts, run: PlannedRun, kinds: set[RangeKind]) -> bool | None:
    """Does each statement touch only its own rows? A range of heap blocks does, too."""
    if (reads_new := _reads_new_only(facts, run)) is not None:
        return reads_new
    if kinds <= {RangeKind.KEYSET, RangeKind.BLOCKS}:
        # Of a query nobody knows how the server finds the key's rows.
        return None if facts.relation is None else True
    if facts.relation is None:
        return None
    columns = _key_columns(run)
    if RangeKind.SPAN not in kinds or not columns:
        return False
    return led_by(facts, columns[0])


def _reads_new_only(facts: SourceFacts, run: PlannedRun) -> bool | None:
    """Whether a run that begins at a mark or cutoff costs only what is new; None for others."""
    window = run.plan.read.window
    if window is None or facts.relation is None:
        return None
    if window.empty:
        return True
    if window.lower is None:
        return None
    return window.fallback is None and _key_columns(run)[:1] == window.columns[:1]


def _key_columns(run: PlannedRun) -> tuple[str, ...]:
    kinds = (RangeKind.KEYSET, RangeKind.SPAN, RangeKind.WINDOW)
    found = (c.chunk_range.columns for c in run.chunks if c.chunk_range.kind in kinds)
    return next(found, ())


def _range_known(facts: SourceFacts, run: PlannedRun) -> bool | None:
    """True when the key's extremes are known; None where it is read without a key."""
    columns = _key_columns(run)
    if not columns:
        return None
    key = key_facts(facts, columns)
    return key is not None and (key.minimum is not None or facts.row_estimate == 0)


def _key_span(facts: SourceFacts, run: PlannedRun) -> int | None:
    key = key_facts(facts, _key_columns(run))
    if key is None or key.minimum is None or key.maximum is None:
        return None
    try:
        return int(key.maximum[0]) - int(key.minimum[0]) + 1
    except ValueError:
        return None


def _strategy(export: ExportConfig, run: PlannedRun) -> ScoredStrategy:
    if export.mode == "chunked":
        keyset = any(chunk.chunk_range.kind is RangeKind.KEYSET for chunk in run.chunks)
        return ScoredStrategy.KEYSET if keyset else ScoredStrategy.CHUNKED
    return ScoredStrategy(export.mode)


def _cursor(
    export: ExportConfig, facts: SourceFacts, run: PlannedRun, strategy: ScoredStrategy
) -> CursorQuality:
    """Inventory §5.2. The cursor's index and range are what the window goes by (CC7), whatever
    this run is cut by; the range is known where the source was asked for the newest row."""
    window, cursor = run.plan.read.window, run.plan.cursor
    mode = CursorMode(export.incremental_cursor_mode)
    indexed = window is not None and led_by(facts, window.columns[0])
    observed = cursor is not None and cursor.mark_after is not None
    if strategy is ScoredStrategy.TIME_WINDOW:
        mode, observed = CursorMode.TIME_WINDOW, indexed
    return cursor_quality(mode, index_used=indexed, range_observed=observed)


def _caveats(
    access: Access, ranged: bool | None, rows: BelievedRows, measured: bool
) -> list[Caveat]:
    known = (
        (rows.rows is not None, CaveatKind.NO_ROW_ESTIMATE, "nobody knows how many rows"),
        (
            access.uses_index is not None,
            CaveatKind.UNKNOWN_ACCESS_PATH,
            "how the server finds the rows of a query is not known",
        ),
        (
            not rows.rough,
            CaveatKind.ROUGH_ESTIMATE,
            "the number of rows comes from the table's size or a query's plan, not from statistics",
        ),
        (ranged is not False, CaveatKind.NO_KEY_RANGE, "the key's least and greatest are unknown"),
        (access.row_bytes is not None, CaveatKind.NO_ROW_WIDTH, "how wide a row is is not known"),
        (measured, CaveatKind.NO_HISTORY, "no former run was measured"),
        (
            not rows.contradicted,
            CaveatKind.ESTIMATE_CONTRADICTED,
            "the source's estimate and the last run differ by half or more",
        ),
    )
    return [Caveat(kind=kind, message=said) for fine, kind, said in known if not fine]


def waves_of(loaded: LoadedConfig, advice: CampaignAdvice) -> dict[str, int]:
    """Each export's wave: what the configuration says, else what is recommended."""
    said = {export.name: export.wave for export in loaded.config.exports}
    return {
        one.export_name: said.get(one.export_name) or one.recommended_wave
        for one in advice.ordered_exports
    }
