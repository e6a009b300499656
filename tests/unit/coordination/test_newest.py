"""Which delivered runs a comparison without ``--run`` is of."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.coordination.commit import deliver_chunk
from rivet_fleet.coordination.finalize import finalize_run
from rivet_fleet.coordination.reconcile import newest_runs
from rivet_fleet.coordination.tend import tend
from rivet_fleet.errors import StateRefused, UsageError
from tests.campaigns import campaign_plan
from tests.model.store import MemoryStore
from tests.unit.coordination.fleets import DatabaseClock, make_fleet, memory_plan, spooled

CONFIGURED = ("days", "never", "whole")
LOADED = SimpleNamespace(
    campaign_name="shop",
    config=SimpleNamespace(exports=[SimpleNamespace(name=name) for name in CONFIGURED]),
)


def deliver(fleet, campaign_id, *names, of=None):
    """A campaign of these runs, of which the first ``of`` are delivered, all by default. A day is
    a partition of ``days``."""
    plan = campaign_plan(campaign_id=campaign_id, chunks=(1,) * len(names))
    (memory,) = memory_plan((1,)).runs
    runs = tuple(
        replace(
            run,
            plan=replace(
                run.plan,
                export_name=name,
                family="days" if name.startswith("days__") else "",
                destination=replace(memory.plan.destination, prefix=f"{campaign_id}-{name}"),
            ),
        )
        for run, name in zip(plan.runs, names, strict=True)
    )
    fleet.store._clock.time_s += 1.0
    fleet.store.submit(replace(plan, runs=runs), replacing=open_ends(fleet))
    for _ in names[:of]:
        claim = fleet.store.claim(CampaignId(campaign_id), fleet.identity, 30.0)
        run = fleet.planned_run(claim.run_id)
        deliver_chunk(fleet, claim, run.plan, spooled(fleet.settings.spool_root))
        finalize_run(fleet, claim.run_id)
    tend(fleet, CampaignId(campaign_id))


def open_ends(fleet):
    return [
        one.campaign_id
        for one in fleet.store.campaigns(name="shop")
        if one.status.value in ("active", "incomplete")
    ]


@pytest.fixture
def fleet(tmp_path):
    fleet = make_fleet(MemoryStore(DatabaseClock()), tmp_path)
    yield fleet
    fleet.close()


def found(fleet, *names):
    runs, left_out = newest_runs(fleet, LOADED, names)
    return {f"{run.campaign_id} {run.export_name}" for run in runs}, left_out


def test_what_has_no_delivered_run_is_refused_by_name_or_said(fleet) -> None:
    with pytest.raises(StateRefused, match="no run that was asked for"):
        found(fleet)
    deliver(fleet, "c1", "whole")
    assert found(fleet) == ({"c1 whole"}, ("days", "never"))
    assert found(fleet, "whole") == ({"c1 whole"}, ())
    with pytest.raises(StateRefused, match="no run of export never is complete") as refused:
        found(fleet, "whole", "never")
    assert refused.value.code == "RIVET_NOTHING_DELIVERED"
    with pytest.raises(UsageError, match="no export 'nevr'"):
        found(fleet, "nevr")


def test_partitions_are_those_of_one_campaign(fleet) -> None:
    """One that vanished is only told: compared, it would be a mismatch for ever."""
    deliver(fleet, "c1", "days__jan", "days__feb", "whole")
    assert found(fleet)[0] == {"c1 days__jan", "c1 days__feb", "c1 whole"}
    deliver(fleet, "c2", "days__feb")
    assert found(fleet)[0] == {"c2 days__feb", "c1 whole"}
    deliver(fleet, "c3", "days__jan", "days__feb", of=1)
    assert found(fleet, "days")[0] == {"c2 days__feb"}
