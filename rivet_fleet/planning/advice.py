"""From facts, plan and history to the campaign view: what first, what alone, how much at once.

Pure. It reads the plan and changes nothing in it: whether the fleet follows the advice is
``claim_order``'s question, and the configuration's (Rivet: Scores).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rivet_fleet.contracts.facts import SourceFacts
from rivet_fleet.contracts.keys import RangeKind
from rivet_fleet.contracts.plan import CampaignPlan, ClaimPlace, PlannedRun
from rivet_fleet.contracts.priority import (
    CampaignAdvice,
    Caveat,
    CaveatKind,
    ConcurrencyHint,
    CostClass,
    CursorQuality,
    GroupWarning,
    Preflight,
    PriorityReason,
    ReasonKind,
    Recommendation,
    Wave,
)
from rivet_fleet.contracts.state import MeasuredRun
from rivet_fleet.planning.candidates import key_facts, led_by
from rivet_fleet.planning.config.loaded import LoadedConfig, reconcile_of
from rivet_fleet.planning.config.models import CHUNK_SIZE_DEFAULT, CampaignConfig, ExportConfig
from rivet_fleet.planning.config.protection import readers_of
from rivet_fleet.planning.judging import Access, preflight, sparse_range
from rivet_fleet.planning.priority import (
    BelievedRows,
    CursorMode,
    ScoredStrategy,
    ScoreInputs,
    believed_rows,
    cursor_quality,
    history_of,
    predict,
    recommend,
)

# ------------------------------------------------------------------------------------------
# The campaign view: exports against each other (Rivet: Scores). Pure.

HEAVY_MIN = 2
MEMBERS_MANY = 3
AT_ONCE = {CostClass.LOW: 10, CostClass.MEDIUM: 3, CostClass.HIGH: 2, CostClass.VERY_HIGH: 2}
PACK_RSS_MB_MAX = 4096
RSS_MB_UNKNOWN = 150


def campaign_view(
    found: Sequence[Recommendation], *, rss_mb: int = RSS_MB_UNKNOWN
) -> CampaignAdvice:
    """Ordered exports, waves, warnings about shared sources, and how much at once.

    ``rss_mb``: what one export's reader may hold. The order of ``found`` does not matter.
    """
    warnings, isolated = _groups(found)
    ordered = sorted(
        (_isolated(one) if one.export_name in isolated else one for one in found),
        key=lambda one: (-one.priority_score, one.export_name),
    )
    waves = tuple(
        _wave(number, [one for one in ordered if one.recommended_wave == number], rss_mb)
        for number in sorted({one.recommended_wave for one in ordered})
    )
    return CampaignAdvice(
        ordered_exports=tuple(ordered),
        waves=waves,
        source_group_warnings=tuple(warnings),
        concurrency_hints=(
            *(_wave_hint(wave) for wave in waves if len(wave.packs) > 1),
            *_group_hints(ordered, isolated),
        ),
    )


def _groups(found: Sequence[Recommendation]) -> tuple[list[GroupWarning], set[str]]:
    """Warnings by group, and the exports that should have their source to themselves."""
    warnings = []
    isolated: set[str] = set()
    for group in sorted({one.source_group for one in found if one.source_group}):
        members = sorted(one.export_name for one in found if one.source_group == group)
        heavy = sorted(
            one.export_name for one in found if one.source_group == group and one.cost_class.heavy
        )
        if len(heavy) >= HEAVY_MIN:
            isolated.update(heavy)
            said = (
                f"{len(heavy)} heavy exports share source group {group}: "
                f"{', '.join(heavy)}; let one finish before the next begins"
            )
            warnings.append(GroupWarning(source_group=group, exports=tuple(heavy), message=said))
        elif len(members) >= MEMBERS_MANY:
            said = f"{len(members)} exports share source group {group}: together they are a load"
            warnings.append(GroupWarning(source_group=group, exports=tuple(members), message=said))
    return warnings, isolated


def _isolated(one: Recommendation) -> Recommendation:
    reason = PriorityReason(
        kind=ReasonKind.SHARED_SOURCE_HEAVY_CONFLICT,
        message=f"another heavy export reads source group {one.source_group}, too",
    )
    return replace(one, isolate_on_source=True, parallel_safe=False, reasons=(*one.reasons, reason))


def _wave(number: int, members: Sequence[Recommendation], rss_mb: int) -> Wave:
    return Wave(
        wave=number,
        exports=tuple(one.export_name for one in members),
        packs=tuple(pack(members, rss_mb=rss_mb)),
    )


def pack(members: Sequence[Recommendation], *, rss_mb: int) -> list[tuple[str, ...]]:
    """Longest first; neighbours share a pack while every member bears the company and the
    memory suffices."""
    queue = sorted(members, key=lambda one: (-one.predicted.work_s, one.export_name))
    packs: list[list[Recommendation]] = []
    for one in queue:
        grown = [*packs[-1], one] if packs else [one]
        at_once = min(AT_ONCE[each.cost_class] for each in grown)
        if packs and len(grown) <= at_once and len(grown) * rss_mb <= PACK_RSS_MB_MAX:
            packs[-1] = grown
        else:
            packs.append([one])
    return [tuple(one.export_name for one in each) for each in packs]


def _wave_hint(wave: Wave) -> ConcurrencyHint:
    most = max(len(each) for each in wave.packs)
    said = f"wave {wave.wave}: at most {most} export{'' if most == 1 else 's'} at once"
    return ConcurrencyHint(exports_at_once=most, message=said, wave=wave.wave)


def _group_hints(ordered: Sequence[Recommendation], isolated: set[str]) -> list[ConcurrencyHint]:
    groups = {one.source_group for one in ordered if one.export_name in isolated}
    return [
        ConcurrencyHint(
            exports_at_once=1,
            message=f"source group {group}: one heavy export at a time",
            source_group=group,
        )
        for group in sorted(name for name in groups if name)
    ]


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
    memory_mb = loaded.worker_memory_mb
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
        reconcile_required=reconcile_of(export) is not None,
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
    readers = [loaded.workers_expected, len(run.chunks)]
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
        # Of most queries nobody knows how the server finds the key's rows.
        return None if facts.relation is None and run.plan.read.table is None else True
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
    """How far it tells what is new (Rivet: Cursors).

    The cursor's index and range are what the window goes by (CC7), whatever this run is cut by;
    the range is known where the source was asked for the newest row.
    """
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


# ------------------------------------------------------------------------------------------
# The order in which the fleet hands out chunks, when the configuration asks for one. Pure.
#
# A claim takes the first claimable task by (position of the run, chunk index), so the order of
# the runs is the order of handing out, and nothing else has to be asked at claim time. There is
# no barrier anywhere: tasks that run, wait for a retry, or belong to a full source group are
# simply passed over, so an idle worker begins the next wave by itself.

_SortKey = tuple[float, ...]


def asks_for_order(config: CampaignConfig) -> bool:
    """True when the fleet shall follow the advice."""
    return config.waves or config.order != "config"


def in_claim_order(
    plan: CampaignPlan,
    config: CampaignConfig,
    advice: CampaignAdvice,
    waves: Mapping[str, int],
) -> CampaignPlan:
    """The same campaign with its runs in the order they are handed out, each saying why.

    ``waves`` by export name. Unchanged when the configuration asks for nothing. Equal exports
    keep the order of the configuration.
    """
    if not asks_for_order(config):
        return plan
    advised = {one.export_name: one for one in advice.ordered_exports}
    placed = [
        _placed(run, config, advised[run.plan.export_name], waves[run.plan.export_name])
        for run in plan.runs
    ]
    # The partitions of one export stay together, in the order of the calendar.
    longest_s: dict[str, float] = {}
    for run in placed:
        name = run.plan.written_name
        longest_s[name] = max(longest_s.get(name, 0.0), _place(run).chunk_work_s)
    return replace(
        plan,
        runs=tuple(sorted(placed, key=lambda r: _sort_key(r, longest_s[r.plan.written_name]))),
    )


def _placed(
    run: PlannedRun, config: CampaignConfig, advice: Recommendation, wave: int
) -> PlannedRun:
    place = ClaimPlace(
        order=config.order,
        wave=wave if config.waves else None,
        score=advice.priority_score,
        chunk_work_s=round(advice.predicted.work_s / max(len(run.chunks), 1), 3),
    )
    return replace(run, plan=replace(run.plan, place=place))


def _place(run: PlannedRun) -> ClaimPlace:
    assert run.plan.place is not None
    return run.plan.place


def _sort_key(run: PlannedRun, longest_s: float) -> _SortKey:
    place = _place(run)
    # Longest first by chunk, not by export: the chunk is what a worker is busy with, and one
    # long chunk begun last is what everybody waits for in the end.
    by_order: dict[str, _SortKey] = {
        "config": (),
        "priority": (-place.score, -place.chunk_work_s),
        "longest_first": (-longest_s,),
    }
    return (place.wave or 0, *by_order[place.order])
