"""The order in which the fleet hands out chunks, when the configuration asks for one. Pure.

A claim takes the first claimable task by (position of the run, chunk index), so the order of
the runs is the order of handing out, and nothing else has to be asked at claim time. There is no
barrier anywhere: tasks that run, wait for a retry, or belong to a full source group are simply
passed over, so an idle worker begins the next wave by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from rivet_fleet.contracts.plan import CampaignPlan, ClaimPlace, PlannedRun
from rivet_fleet.contracts.priority import CampaignAdvice, Recommendation
from rivet_fleet.planning.config_models import CampaignConfig

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
    return replace(plan, runs=tuple(sorted(placed, key=_sort_key)))


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


def _sort_key(run: PlannedRun) -> _SortKey:
    place = run.plan.place
    assert place is not None
    # Longest first by chunk, not by export: the chunk is what a worker is busy with, and one
    # long chunk begun last is what everybody waits for in the end.
    by_order: dict[str, _SortKey] = {
        "config": (),
        "priority": (-place.score, -place.chunk_work_s),
        "longest_first": (-place.chunk_work_s, -place.score),
    }
    return (place.wave or 0, *by_order[place.order])
