"""The high-water mark at every moment of a run's end: unmoved until the last transaction (W5)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rivet_fleet.contracts import killpoints
from rivet_fleet.contracts.keys import RunId
from rivet_fleet.contracts.killpoints import Arming, KillAction, KillPoint, KillPointReached
from rivet_fleet.contracts.window import CursorPlan, mark_text
from rivet_fleet.coordination.commit import deliver_chunk
from rivet_fleet.coordination.finalize import finalize_run
from rivet_fleet.coordination.tend import tend
from tests.model.store import MemoryStore
from tests.unit.coordination.fleets import (
    CAMPAIGN,
    DatabaseClock,
    make_fleet,
    memory_plan,
    spooled,
)

MARK = mark_text(("at",), None, ("9",))
RUN = RunId("c1-e0")
BEFORE = (
    KillPoint.CHUNK_COMMITTED,
    KillPoint.PART_PUBLISHED,
    KillPoint.CHUNK_COMPLETED,
    KillPoint.FINALIZE_LEASED,
    KillPoint.MANIFEST_COPY_WRITTEN,
    KillPoint.MANIFEST_WRITTEN,
    KillPoint.SUCCESS_WRITTEN,
)
AFTER = (KillPoint.RUN_FINISHED, KillPoint.REPORT_WRITTEN)


@pytest.fixture(autouse=True)
def disarmed():
    yield
    killpoints.arm(())


def incremental(clock: DatabaseClock) -> MemoryStore:
    plan = memory_plan((1,))
    (run,) = plan.runs
    cursor = CursorPlan(mode="single_column", columns=("at",), mark_after=MARK)
    run = replace(run, plan=replace(run.plan, mode="incremental", cursor=cursor))
    store = MemoryStore(clock)
    store.submit(replace(plan, runs=(run,)))
    return store


def work(fleet, tmp_path) -> None:
    """Whatever is left to be done: deliver the chunk, roll it forward, finish the run."""
    claim = fleet.store.claim(CAMPAIGN, fleet.identity, 30.0)
    if claim is not None:
        plan = fleet.planned_run(claim.run_id).plan
        deliver_chunk(fleet, claim, plan, spooled(tmp_path / "spool"))
    finalize_run(fleet, RUN)


@pytest.mark.parametrize("point", [*BEFORE, *AFTER], ids=lambda point: point.value)
def test_wherever_the_finalizer_dies_the_mark_moves_with_the_run_alone(tmp_path, point) -> None:
    clock = DatabaseClock()
    store = incremental(clock)
    killpoints.arm((Arming(point=point, action=KillAction.ERROR),))
    with pytest.raises(KillPointReached):
        work(make_fleet(store, tmp_path, "dying"), tmp_path)
    found = {name: mark.value for name, mark in store.marks("shop", ["e0"]).items()}
    assert found == ({} if point in BEFORE else {"e0": MARK})
    killpoints.arm(())
    clock.time_s += 60.0
    store.reap_expired(CAMPAIGN)
    heir = make_fleet(store, tmp_path, "heir")
    for _ in range(3):
        work(heir, tmp_path)
        tend(heir, CAMPAIGN)
        clock.time_s += 60.0
    assert store.marks("shop", ["e0"])["e0"].value == MARK
    assert [e.event for e in store.journal(campaign_id=CAMPAIGN)].count("mark.moved") == 1
