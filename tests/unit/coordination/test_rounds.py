"""What one round over many runs costs: nothing is opened for each of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from rivet_fleet.contracts.counters import CounterReading
from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.coordination.commit import deliver_chunk
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.coordination.tend import _from_own_place, finalize_ready
from rivet_fleet.execution.source import Source
from tests.unit.coordination.fleets import DatabaseClock, make_fleet, open_store, spooled

READING = CounterReading(engine="e", taken_at_s=1.0, counters={}, context={})
C1 = CampaignId("c1")


@dataclass
class Counted:
    """A source that has counters and nothing else."""

    log: list[str] = field(default_factory=list)

    def open(self, _name: str, _identity: str) -> Source:
        self.log.append("opened")
        return cast(Source, self)

    def read_counters(self) -> CounterReading:
        self.log.append("read")
        return READING

    def close(self) -> None:
        self.log.append("closed")


def finished(tmp_path: Path, source: Counted, runs: int) -> Fleet:
    """A fleet whose runs wait for their end."""
    store: Any = open_store(DatabaseClock(), chunks=(1,) * runs)
    fleet = replace(make_fleet(store, tmp_path), open_source=source.open)
    for _ in range(runs):
        claim = store.claim(C1, fleet.identity, 30.0)
        store.note_counters_before(claim.run_id, "s", READING)
        plan = fleet.planned_run(claim.run_id).plan
        deliver_chunk(fleet, claim, plan, spooled(tmp_path / "spool"))
    return fleet


def test_a_source_is_opened_once_for_all_runs_of_a_round(tmp_path: Path) -> None:
    source = Counted()
    fleet = finished(tmp_path, source, runs=3)
    assert finalize_ready(fleet, C1, []) == 3
    assert source.log == ["opened", "read", "read", "read", "closed"]


def test_what_was_open_before_a_round_stays_open(tmp_path: Path) -> None:
    source = Counted()
    fleet = finished(tmp_path, source, runs=2)
    read = fleet.planned_run(RunId("c1-e0")).plan.read
    fleet.source(read.source, read.source_identity)
    assert finalize_ready(fleet, C1, []) == 2
    assert source.log == ["opened", "read", "read"]


def test_finalizers_begin_in_different_places_and_leave_none_out() -> None:
    runs = [RunId(f"r{n}") for n in range(10)]
    orders = [_from_own_place(runs, f"w{n}") for n in range(20)]
    assert all(sorted(order) == runs for order in orders)
    assert len({order[0] for order in orders}) > 3
    assert _from_own_place([], "w") == []
