"""From facts and history to the campaign view: what is missing weakens, what is heavy is alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rivet_fleet.contracts.facts import SourceFacts
from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.priority import (
    CampaignAdvice,
    CaveatKind,
    Prediction,
    Provenance,
    ReasonKind,
    Recommendation,
    Verdict,
)
from rivet_fleet.contracts.state import MeasuredRun
from rivet_fleet.planning.advice import Advised, advise, campaign_view, waves_of
from rivet_fleet.planning.config.connections import source_connection
from rivet_fleet.planning.config.loaded import LoadedConfig
from rivet_fleet.planning.planner import plan_campaign
from rivet_fleet.planning.priority import (
    ScoredStrategy,
    ScoreInputs,
    believed_rows,
    history_of,
    predict,
    recommend,
)
from tests.unit.planning.conftest import Loader
from tests.unit.planning.shapes import PRIMARY, index, int_key, query, table

NOW_S = 1_700_000_000.0
DAY_S = 86_400.0
KEYED = table(indexes=(PRIMARY,), keys=(int_key("id", *range(0, 1_000_001, 1000)),))
C = CaveatKind


def measured(**changes: Any) -> MeasuredRun:
    values: dict[str, Any] = {
        "run_id": RunId("r"),
        "run_at_s": NOW_S,
        "succeeded": True,
        "rows": 1_000_000,
        "bytes": 10**8,
        "duration_s": 60.0,
        "work_s": 40.0,
        "chunks": 10,
        "retries": 0,
    }
    return MeasuredRun(**{**values, **changes})


def advised(
    loaded: LoadedConfig,
    facts: SourceFacts | Mapping[str, SourceFacts],
    history: Mapping[str, Sequence[MeasuredRun]] | None = None,
) -> Advised:
    names = [export.name for export in loaded.config.exports]
    by_name = facts if isinstance(facts, Mapping) else dict.fromkeys(names, facts)
    plan = plan_campaign(
        loaded,
        by_name,
        campaign_id=CampaignId("20240531T101112.123"),
        connections={n: source_connection(loaded, n) for n in loaded.used_sources()},
    )
    return advise(loaded, by_name, plan, history or {}, now_s=NOW_S)


def of(advice: Advised, name: str = "orders") -> Recommendation:
    return next(o for o in advice.campaign.ordered_exports if o.export_name == name)


def kinds(one: Recommendation) -> set[CaveatKind]:
    return {caveat.kind for caveat in one.caveats}


# -- what is not known ----------------------------------------------------------------------------


def test_everything_known_is_full_confidence(load_exports: Loader) -> None:
    loaded = load_exports(orders="table: orders\nmode: chunked")
    one = of(advised(loaded, KEYED, {"orders": [measured()]}))
    assert (one.caveats, one.confidence) == ((), 100)
    assert one.predicted == Prediction(work_s=40.0, provenance=Provenance.MEASURED)


def test_every_missing_fact_is_said_and_lowers_the_confidence(load_exports: Loader) -> None:
    loaded = load_exports(orders="table: orders\nmode: chunked\nchunk_by_key: id")
    seen = {"orders": [measured()]}
    full = of(advised(loaded, KEYED, seen)).confidence
    unsampled = replace(KEYED, keys=())
    uncounted = {"orders": [measured(succeeded=False)]}
    missing: list[tuple[SourceFacts, Mapping[str, list[MeasuredRun]], CaveatKind]] = [
        (replace(KEYED, row_width_bytes=None), seen, C.NO_ROW_WIDTH),
        (unsampled, seen, C.NO_KEY_RANGE),
        (KEYED, {}, C.NO_HISTORY),
        (replace(KEYED, row_estimate_provenance="size"), uncounted, C.ROUGH_ESTIMATE),
        (KEYED, {"orders": [measured(rows=2_000_000)]}, C.ESTIMATE_CONTRADICTED),
    ]
    for facts, history, kind in missing:
        one = of(advised(loaded, facts, history))
        assert kinds(one) == {kind}
        assert one.confidence < full
    nothing = replace(unsampled, row_estimate=None, row_width_bytes=None)
    one = of(advised(loaded, nothing, {}))
    assert kinds(one) == {C.NO_ROW_ESTIMATE, C.NO_KEY_RANGE, C.NO_ROW_WIDTH, C.NO_HISTORY}
    assert one.confidence == 40


def test_nobody_knows_how_a_query_is_answered(load_exports: Loader) -> None:
    loaded = load_exports(orders="query: SELECT 1 AS id")
    advice = advised(loaded, query(row_estimate=2_000_000))
    assert C.UNKNOWN_ACCESS_PATH in kinds(of(advice))
    assert advice.preflights["orders"].verdict is Verdict.DEGRADED


# -- reading the plan -----------------------------------------------------------------------------


def test_a_key_is_efficient_and_a_search_is_not(load_exports: Loader) -> None:
    keyed = load_exports(orders="table: orders\nmode: chunked")
    assert advised(keyed, KEYED).preflights["orders"].verdict is Verdict.EFFICIENT
    spans = load_exports(orders="table: orders\nmode: chunked\nchunk_column: region")
    facts = replace(KEYED, keys=(int_key("region", 0, 500_000, 1_000_000),))
    unindexed = advised(spans, facts).preflights["orders"]
    assert unindexed.verdict is Verdict.DEGRADED
    assert "missing_index" in {one.code for one in unindexed.warnings}
    found = replace(facts, indexes=(index("orders_region", "region", unique=False),))
    assert advised(spans, found).preflights["orders"].verdict is Verdict.EFFICIENT
    partial = index("orders_region", "region", unique=False, partial=True)
    assert (
        advised(spans, replace(facts, indexes=(partial,))).preflights["orders"].verdict
        is Verdict.DEGRADED
    )


def test_a_sparse_range_is_seen_in_the_key(load_exports: Loader) -> None:
    loaded = load_exports(orders="table: orders\nmode: chunked\nchunk_column: region")
    facts = replace(
        KEYED,
        keys=(int_key("region", 0, 10**9),),
        indexes=(index("orders_region", "region", unique=False),),
    )
    one = of(advised(loaded, facts))
    assert ReasonKind.SPARSE_RANGE_RISK in {reason.kind for reason in one.reasons}


def test_a_wave_that_is_written_down_wins(load_exports: Loader) -> None:
    loaded = load_exports(orders="table: orders\nwave: 3", items="table: items")
    advice = advised(loaded, replace(KEYED, row_estimate=10))
    assert waves_of(loaded, advice.campaign) == {"orders": 3, "items": 1}


# -- history --------------------------------------------------------------------------------------


def test_history_recognises_its_own_successes() -> None:
    runs = [measured(), measured(succeeded=False, retries=4, work_s=None), measured(work_s=20.0)]
    history = history_of(runs)
    assert (history.sample_size, history.last_failed) == (3, False)
    assert history.success_rate == 2 / 3 and history.avg_work_s == 30.0
    assert history.retry_rate == 4 / 3
    assert history_of(runs[1:]).last_failed
    assert history_of([measured(retries=1)] * 20 + [measured(retries=999)] * 5).retry_rate == 1.0


def test_a_prediction_says_where_it_comes_from() -> None:
    failed = measured(succeeded=False, work_s=90.0)
    assert predict([failed, measured()]).provenance is Provenance.MEASURED
    assert predict([failed]) == Prediction(work_s=90.0, provenance=Provenance.FAILED_ATTEMPT_FLOOR)
    assert predict([measured(succeeded=False, work_s=1.0)]).work_s == 5.0
    assert predict([]) == Prediction(work_s=5.0, provenance=Provenance.PLACEHOLDER)


def test_a_count_beats_a_guess_unless_it_is_old_and_contradicted() -> None:
    def rows(estimate: int | None, run: MeasuredRun, **more: Any) -> tuple[int | None, bool]:
        found = believed_rows(
            estimate, "statistics", [run], now_s=NOW_S, comparable=more.get("comparable", True)
        )
        return found.rows, found.contradicted

    assert rows(100, measured(rows=150)) == (150, False)
    assert rows(100, measured(rows=200)) == (200, True)
    old = NOW_S - 14 * DAY_S - 1
    assert rows(100, measured(rows=199, run_at_s=old)) == (199, False)
    assert rows(100, measured(rows=200, run_at_s=old)) == (100, True)
    assert rows(400, measured(rows=200, run_at_s=old)) == (400, True)
    assert rows(None, measured(rows=7)) == (7, False)
    assert rows(100, measured(rows=200), comparable=False) == (100, False)
    assert rows(100, measured(rows=200, succeeded=False)) == (100, False)


# -- the campaign view ----------------------------------------------------------------------------


def scored(name: str, rows: int, group: str | None = None, work_s: float = 5.0) -> Recommendation:
    return recommend(
        ScoreInputs(
            export_name=name,
            strategy=ScoredStrategy.CHUNKED,
            rows=rows,
            chunk_count=10,
            verdict=Verdict.EFFICIENT,
            source_group=group,
            predicted=Prediction(work_s=work_s, provenance=Provenance.MEASURED),
        )
    )


def names(advice: CampaignAdvice) -> list[str]:
    return [one.export_name for one in advice.ordered_exports]


def test_exports_are_ordered_by_score_then_name() -> None:
    found = [scored("b", 10), scored("huge", 10**8), scored("a", 10), scored("mid", 10**6)]
    advice = campaign_view(found)
    assert names(advice) == ["a", "b", "mid", "huge"]
    assert advice == campaign_view(found[::-1]), "the order of the file does not matter"
    assert [(wave.wave, wave.exports) for wave in advice.waves] == [
        (2, ("a", "b")),
        (3, ("mid",)),
        (4, ("huge",)),
    ]


def test_heavy_neighbours_are_kept_apart() -> None:
    found = [scored("h1", 10**8, "db"), scored("h2", 10**8, "db"), scored("s", 10, "db")]
    advice = campaign_view([*found, scored("h3", 10**8, "other")])
    by_name = {one.export_name: one for one in advice.ordered_exports}
    assert [w.source_group for w in advice.source_group_warnings] == ["db"]
    assert advice.source_group_warnings[0].exports == ("h1", "h2")
    for name in ("h1", "h2"):
        assert by_name[name].isolate_on_source and not by_name[name].parallel_safe
        assert by_name[name].reasons[-1].kind is ReasonKind.SHARED_SOURCE_HEAVY_CONFLICT
    assert by_name["s"].parallel_safe and not by_name["s"].isolate_on_source
    assert not by_name["h3"].isolate_on_source
    assert [h.source_group for h in advice.concurrency_hints if h.source_group] == ["db"]


def test_three_members_of_a_group_are_worth_a_softer_word() -> None:
    two = [scored("a", 10, "db"), scored("b", 10**8, "db")]
    assert campaign_view(two).source_group_warnings == ()
    (warning,) = campaign_view([*two, scored("c", 10, "db")]).source_group_warnings
    assert warning.exports == ("a", "b", "c")
    ungrouped = [scored(name, 10**8) for name in "abc"]
    assert campaign_view(ungrouped).source_group_warnings == ()


def test_packs_are_longest_first_and_bear_each_other() -> None:
    low = [scored(f"s{i:02}", 10, work_s=float(i)) for i in range(12)]
    (wave,) = campaign_view(low).waves
    assert [len(pack) for pack in wave.packs] == [10, 2]
    assert wave.packs[0][0] == "s11", "the longest begins"
    medium = [scored(f"m{i}", 10**6) for i in range(4)]
    assert [len(p) for p in campaign_view(medium).waves[0].packs] == [3, 1]
    heavy = [scored(f"h{i}", 10**8) for i in range(3)]
    assert [len(p) for p in campaign_view(heavy).waves[0].packs] == [2, 1]
    (wave,) = campaign_view(low, rss_mb=1500).waves
    assert {len(p) for p in wave.packs} == {2}, "4096 MB hold two of them"
