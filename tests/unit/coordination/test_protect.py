"""A worker under its source's protection, over the in-memory store and a clock that is moved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from rivet_fleet.contracts.events import EventName
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.protection import GovernorWord, MonitorPlan, SourceBudget
from rivet_fleet.coordination.protect import BLOCK_S, ChunkGuard, Protection
from rivet_fleet.errors import StateUnavailable, StopRequested
from tests.campaigns import campaign_plan
from tests.model.store import MemoryStore
from tests.stores import identity
from tests.unit.coordination.fleets import make_fleet
from tests.unit.coordination.test_stop import MovableClock

C1 = CampaignId("c1")
OPEN = GovernorWord(permits=4, page_share=1.0)


@dataclass
class Scene:
    """Two chunks of one group, claimed in order, each with its guard."""

    store: MemoryStore
    clock: MovableClock
    fleet: Any
    guards: list[ChunkGuard] = field(default_factory=list)
    told: list[EventName] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    away: bool = False

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.clock.time_s += seconds


def scene_of(tmp_path, **limits: Any) -> Scene:
    clock = MovableClock()
    store = MemoryStore(lambda: clock.time_s)
    store.submit(campaign_plan(chunks=(4,), groups=("db",)))
    store.set_budgets([SourceBudget(group_name="db", **limits)], by="w9")
    fleet = make_fleet(store, tmp_path)
    fleet.clock = clock
    scene = Scene(store, clock, fleet)
    for name in ("w1", "w2"):
        claim = store.claim(C1, identity(name), 60.0)
        assert claim is not None
        clock.time_s += 0.001
        guard = Protection(fleet).guard(
            claim, scene.wait, lambda name, message, **data: scene.told.append(name)
        )
        scene.guards.append(guard)
    return scene


def lead(scene: Scene):
    (lease,) = scene.store.lease_governor(C1, identity("w1"), 600.0, patience_s=0.0)
    return lease


def test_the_rate_holds_over_many_workers_whatever_the_pages_are(tmp_path) -> None:
    """Two readers that are faster than the rate: in turn, each page of another size."""
    scene = scene_of(tmp_path, chunks_max=4, rows_per_s=1000.0)
    began_s, rows = scene.clock.time_s, 0
    sizes = [1, 499, 500, 7, 250, 900]
    for step in range(120):
        guard = scene.guards[step % 2]
        allowed = guard.before_page()
        assert allowed.rows_max == 1000 * BLOCK_S
        read = sizes[step % len(sizes)]
        guard.after_page(read, 0)
        rows += read
    elapsed_s = scene.clock.time_s - began_s
    # What was reserved and not read yet, and one overdraft for each reader.
    assert rows / elapsed_s == pytest.approx(1000, rel=0.05)
    assert max(scene.waits) <= 0.5, "a stop is noticed while waiting"


def test_bytes_are_paced_as_rows_are(tmp_path) -> None:
    scene = scene_of(tmp_path, bytes_per_s=1e6)
    began_s = scene.clock.time_s
    for _ in range(21):
        assert scene.guards[0].before_page().bytes_max == 500_000
        scene.guards[0].after_page(10, 500_000)
    assert scene.clock.time_s - began_s == pytest.approx(10.0, abs=0.6)


def test_of_the_running_chunks_the_last_claimed_rest(tmp_path) -> None:
    scene = scene_of(tmp_path, chunks_max=4, monitor=MonitorPlan(flag_file="/x"))
    scene.store.govern(lead(scene), GovernorWord(permits=1, page_share=0.5), 600.0)
    assert scene.guards[0].before_page().share == 0.5
    with pytest.raises(StopRequested, match="given back while its source group rests"):
        scene.guards[1].before_page()
    assert scene.told == [EventName.CHUNK_PAUSED]
    assert sum(scene.waits) == pytest.approx(60.0), "it kept its worker for a minute"


def test_a_short_pause_costs_nothing_but_time(tmp_path) -> None:
    scene = scene_of(tmp_path, chunks_max=4, monitor=MonitorPlan(flag_file="/x"))
    lease = lead(scene)
    scene.store.govern(lease, GovernorWord(permits=4, page_share=1.0, paused="flag"), 600.0)
    plain = scene.wait

    def until_opened(seconds: float) -> None:
        plain(seconds)
        if len(scene.waits) == 4:
            scene.store.govern(lease, OPEN, 600.0)

    scene.guards[0]._wait = until_opened
    scene.guards[0].before_page()
    assert scene.told == [EventName.CHUNK_PAUSED, EventName.CHUNK_RESUMED]
    assert len(scene.waits) == 4


def test_a_pause_that_is_known_to_be_long_gives_the_chunk_back_at_once(tmp_path) -> None:
    scene = scene_of(tmp_path, chunks_max=4, monitor=MonitorPlan(flag_file="/x"))
    word = GovernorWord(permits=4, page_share=1.0, paused="at noon", resumes_in_s=3600.0)
    scene.store.govern(lead(scene), word, 600.0)
    with pytest.raises(StopRequested, match="at noon"):
        scene.guards[0].before_page()
    assert scene.waits == []


def test_one_streaming_statement_is_not_paused_but_ended_by_an_abort(tmp_path) -> None:
    scene = scene_of(tmp_path, chunks_max=4, monitor=MonitorPlan(flag_file="/x"))
    lease = lead(scene)
    scene.store.govern(lease, GovernorWord(permits=4, page_share=1.0, paused="flag"), 600.0)
    scene.guards[0].pausable = False
    scene.guards[0].before_page()
    assert scene.waits == []
    scene.store.govern(lease, GovernorWord(permits=4, page_share=1.0, halt="too much"), 600.0)
    scene.clock.time_s += 2.0
    with pytest.raises(StopRequested, match="too much"):
        scene.guards[0].before_page()


def test_the_state_is_asked_once_a_second_not_once_a_page(tmp_path, monkeypatch) -> None:
    scene = scene_of(tmp_path, chunks_max=4)
    asked = []
    plain = scene.store.standing
    monkeypatch.setattr(scene.store, "standing", lambda task: asked.append(1) or plain(task))
    for _ in range(30):
        scene.guards[0].before_page()
        scene.clock.time_s += 0.1
    assert 3 <= len(asked) <= 4


def gone(*_: Any) -> Any:
    raise StateUnavailable("away")


def test_while_the_state_is_away_the_last_pace_counts(tmp_path, monkeypatch) -> None:
    scene = scene_of(tmp_path, chunks_max=4, rows_per_s=1000.0)
    for _ in range(4):
        for guard in scene.guards:
            guard.before_page()
            guard.after_page(500, 0)
    monkeypatch.setattr(scene.store, "reserve", gone)
    monkeypatch.setattr(scene.store, "standing", gone)
    began_s = scene.clock.time_s
    for _ in range(5):
        scene.guards[0].before_page()
        scene.guards[0].after_page(500, 0)
    per_s = 5 * 500 / (scene.clock.time_s - began_s)
    assert per_s <= 1000, f"{per_s} rows a second without anybody's leave"


def test_a_group_that_fails_closed_waits_for_the_state(tmp_path, monkeypatch) -> None:
    monitor = MonitorPlan(flag_file="/x", on_unreadable="pause")
    scene = scene_of(tmp_path, chunks_max=4)
    scene.store.set_budgets([SourceBudget(group_name="db", chunks_max=4, monitor=monitor)], by="w")
    scene.store.govern(lead(scene), GovernorWord(permits=4, page_share=1.0), 600.0)
    scene.guards[0].before_page()
    calls = []

    def patient(what: str, action: Any) -> Any:
        calls.append(what)
        return action()

    monkeypatch.setattr(scene.fleet.patience, "call", patient)
    scene.clock.time_s += 2.0
    scene.guards[0].before_page()
    assert calls, "asked once, without waiting for the answer"


def test_a_chunk_of_no_group_asks_nobody(tmp_path, monkeypatch) -> None:
    scene = scene_of(tmp_path, chunks_max=4)
    monkeypatch.setattr(scene.store, "standing", gone)
    scene.store.submit(campaign_plan(campaign_id="c2", name="two", chunks=(1,)))
    claim = scene.store.claim(CampaignId("c2"), identity("w3"), 60.0)
    guard = Protection(scene.fleet).guard(claim, scene.wait, lambda *_, **__: None)  # type: ignore[arg-type]
    assert guard.before_page().rows_max is None
    assert not guard.limits_connections
