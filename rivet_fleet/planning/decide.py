"""One decision from facts and history: ranges, advice, and the order of handing out. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from rivet_fleet.contracts.facts import SourceFacts
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.plan import CampaignPlan
from rivet_fleet.contracts.state import MeasuredRun
from rivet_fleet.planning.advice import Advised, advise, waves_of
from rivet_fleet.planning.claim_order import in_claim_order
from rivet_fleet.planning.connections import SourceConnection
from rivet_fleet.planning.increment import Moving
from rivet_fleet.planning.loaded import LoadedConfig
from rivet_fleet.planning.partitions import expand
from rivet_fleet.planning.planner import plan_campaign


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """The plan, its runs in the order of handing out, and the advice about it."""

    plan: CampaignPlan
    advised: Advised
    facts: Mapping[str, SourceFacts]
    """By the names of the plan's runs."""


def decide(
    loaded: LoadedConfig,
    facts: Mapping[str, SourceFacts],
    *,
    campaign_id: CampaignId,
    connections: Mapping[str, SourceConnection],
    history: Mapping[str, Sequence[MeasuredRun]],
    now_s: float,
    only: Collection[str] = (),
    moving: Mapping[str, Moving] | None = None,
) -> Decided:
    """See ``plan_campaign`` for what it raises; ``history`` newest first, by export name."""
    expanded = expand(loaded, facts, only)
    loaded, facts = expanded.loaded, expanded.facts
    plan = plan_campaign(
        loaded,
        facts,
        campaign_id=campaign_id,
        connections=connections,
        now_s=now_s,
        only=expanded.only,
        moving=moving,
    )
    advised = advise(loaded, facts, plan, history, now_s=now_s)
    waves = waves_of(loaded, advised.campaign)
    ordered = in_claim_order(plan, loaded.config.campaign, advised.campaign, waves)
    return Decided(plan=ordered, advised=advised, facts=facts)
