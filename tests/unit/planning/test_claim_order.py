"""The order of handing out: as asked for, stable, and said on every plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from rivet_fleet.contracts.plan import CampaignPlan
from rivet_fleet.contracts.priority import Prediction, Provenance, Recommendation, Verdict
from rivet_fleet.planning.advice import asks_for_order, campaign_view, in_claim_order
from rivet_fleet.planning.config.models import CampaignConfig
from rivet_fleet.planning.priority import ScoredStrategy, ScoreInputs, recommend
from tests.campaigns import campaign_plan
from tests.unit.planning.conftest import Loader


def one(name: str, rows: int, work_s: float) -> Recommendation:
    return recommend(
        ScoreInputs(
            export_name=name,
            strategy=ScoredStrategy.CHUNKED,
            rows=rows,
            chunk_count=1,
            verdict=Verdict.EFFICIENT,
            predicted=Prediction(work_s=work_s, provenance=Provenance.MEASURED),
        )
    )


def ordered(
    config: CampaignConfig, found: list[Recommendation], waves: Mapping[str, int], *chunks: int
) -> CampaignPlan:
    plan = campaign_plan(chunks=chunks or (1,) * len(found))
    return in_claim_order(plan, config, campaign_view(found), waves)


def names(plan: CampaignPlan) -> list[str]:
    return [run.plan.export_name for run in plan.runs]


# e0 huge and slow, e1 small, e2 small and slower, e3 in between.
FOUND = [one("e0", 10**8, 600.0), one("e1", 10, 1.0), one("e2", 10, 2.0), one("e3", 10**6, 30.0)]
WAVES = {"e0": 4, "e1": 2, "e2": 2, "e3": 1}


def test_the_configurations_order_is_left_alone() -> None:
    plan = campaign_plan(chunks=(1, 1, 1, 1))
    as_written = CampaignConfig(order="config")
    assert not asks_for_order(as_written)
    assert in_claim_order(plan, as_written, campaign_view(FOUND), WAVES) is plan
    assert all(run.plan.place is None for run in plan.runs)


def test_each_order_by_itself_and_within_waves() -> None:
    for config, expected in (
        (CampaignConfig(order="priority"), ["e2", "e1", "e3", "e0"]),
        (CampaignConfig(), ["e0", "e3", "e2", "e1"]),
        (CampaignConfig(order="longest_first"), ["e0", "e3", "e2", "e1"]),
        (CampaignConfig(waves=True, order="config"), ["e3", "e1", "e2", "e0"]),
        (CampaignConfig(waves=True, order="priority"), ["e3", "e2", "e1", "e0"]),
        (CampaignConfig(waves=True, order="longest_first"), ["e3", "e2", "e1", "e0"]),
    ):
        plan = ordered(config, FOUND, WAVES)
        assert names(plan) == expected, config
        places = {run.plan.export_name: run.plan.place for run in plan.runs}
        assert {p.wave for p in places.values() if p} == ({1, 2, 4} if config.waves else {None})


def test_longest_first_is_about_chunks_not_exports() -> None:
    found = [one("e0", 10**6, 100.0), one("e1", 10**6, 60.0)]
    plan = ordered(CampaignConfig(order="longest_first"), found, {"e0": 1, "e1": 1}, 100, 2)
    assert names(plan) == ["e1", "e0"], "30 s a chunk before 1 s a chunk"


@given(
    st.lists(st.tuples(st.integers(0, 10**9), st.floats(0, 10**5)), min_size=1, max_size=6),
    st.sampled_from(["config", "priority", "longest_first"]),
    st.booleans(),
)
def test_an_order_loses_and_changes_no_run(
    exports: list[tuple[int, float]], order: str, waves: bool
) -> None:
    found = [one(f"e{i}", rows, work_s) for i, (rows, work_s) in enumerate(exports)]
    config = CampaignConfig.model_validate({"order": order, "waves": waves})
    by_name = {o.export_name: o.recommended_wave for o in found}
    plan = ordered(config, found, by_name)
    assert sorted(names(plan)) == sorted(by_name)
    before = campaign_plan(chunks=(1,) * len(found))
    chunks = {run.plan.export_name: run.chunks for run in before.runs}
    assert all(run.chunks == chunks[run.plan.export_name] for run in plan.runs)
    if waves:
        handed = [by_name[name] for name in names(plan)]
        assert handed == sorted(handed)
    assert ordered(config, found[::-1], by_name) == plan, "advice has no order of its own"


def test_an_order_is_part_of_what_identifies_a_configuration(load_text: Loader) -> None:
    def digest(campaign: str) -> str:
        return load_text(
            "source: {type: postgres, url: 'postgresql://r@localhost/shop'}\n"
            f"campaign: {{{campaign}}}\n"
            "exports: [{name: a, table: a, format: csv, destination: {type: local, path: out}}]\n"
        ).digest

    plain = digest("workers: 2")
    assert plain == digest("order: longest_first, waves: false, workers: 3")
    assert (
        len({plain, digest("order: priority"), digest("order: config"), digest("waves: true")}) == 4
    )


def test_a_wave_nobody_follows_is_said(load_exports: Loader) -> None:
    loaded = load_exports(orders="table: orders\nwave: 2")
    (warning,) = loaded.warnings
    assert "exports[0].wave is ignored: campaign.waves is off" in warning


def test_partitions_of_one_export_stay_together_in_their_order() -> None:
    found = [one("a", 10, 5.0), one("p1", 10, 1.0), one("p2", 10, 9.0), one("p3", 10, 2.0)]
    plan = campaign_plan(chunks=(1, 1, 1, 1))
    runs = [
        replace(run, plan=replace(run.plan, export_name=name, family="" if name == "a" else "p"))
        for run, name in zip(plan.runs, ("a", "p1", "p2", "p3"), strict=True)
    ]
    waves = dict.fromkeys(("a", "p1", "p2", "p3"), 1)
    after = in_claim_order(
        replace(plan, runs=tuple(runs)), CampaignConfig(), campaign_view(found), waves
    )
    assert names(after) == ["p1", "p2", "p3", "a"]
