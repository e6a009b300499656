"""A governor whose signals mean harm: real sockets, the store in memory, a clock that is moved."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.protection import HoursPlan, MonitorPlan, SignalPlan, SourceBudget
from rivet_fleet.contracts.state import GroupView
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.coordination import sampler
from rivet_fleet.coordination.governor import Governor
from rivet_fleet.coordination.sampler import FlagFile, GovernorLinks
from rivet_fleet.errors import ConfigError, SourceUnavailable, WorkerUnfit
from rivet_fleet.execution import registry
from rivet_fleet.execution.signals import SourceSignals
from tests.campaigns import campaign_plan
from tests.model.store import MemoryStore
from tests.rogue.endpoint import endpoint, moved, ok
from tests.rogue.postgres_server import Script
from tests.rogue.tcp import Gone, Peer, rogue
from tests.stores import identity
from tests.unit.coordination.test_stop import MovableClock
from tests.waiting import until

C1 = CampaignId("c1")
QUERY = SignalPlan(name="queue", kind="sql", ask="SELECT 1", pause_above=0.5)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """How fast this machine looks for a file is no matter of these tests."""
    monkeypatch.setattr(sampler, "FLAG_WAIT_S", 60.0)


def http(url: str, pointer: str | None = None) -> SignalPlan:
    return SignalPlan(name="load", kind="http", ask=url, pointer=pointer, pause_above=0.5)


class Watch:
    """One campaign's groups, governed step by step."""

    def __init__(self, *monitors: MonitorPlan, port: int = 9) -> None:
        self.clock = MovableClock()
        self.store = MemoryStore(lambda: self.clock.time_s)
        groups = tuple(f"db{i}" for i in range(len(monitors)))
        self.store.submit(campaign_plan(chunks=(1,) * len(groups), groups=groups))
        self.store.set_budgets(
            [
                SourceBudget(group_name=name, chunks_max=2, monitor=monitor)
                for name, monitor in zip(groups, monitors, strict=True)
            ],
            by="w9",
        )
        self.told: list[Event] = []
        self.counters: Callable[[MonitorPlan], frozenset[str]] = lambda monitor: frozenset()
        self.open_signals: Callable[[str, str], SourceSignals] = lambda name, planned: (
            registry.open_signals(
                "postgres",
                parse_database_url(f"postgresql://u:pw@127.0.0.1:{port}/shop"),
                tls_mode="disable",
                application_name="rivet-fleet governor",
            )
        )
        links = GovernorLinks(
            open_store=lambda: self.store,
            open_signals=lambda name, planned: self.open_signals(name, planned),
            counters=lambda monitor: self.counters(monitor),
            redact=lambda text: text,
            question=lambda group, signal: signal.ask,
        )
        self.governor = Governor(links, C1, identity("w1"), clock=self.clock, emit=self.told.append)
        self.turn()

    def turn(self, after_s: float = 0.0) -> bool:
        self.clock.time_s += after_s
        return self.governor.round(self.store)

    def answered(self) -> None:
        """Every place that was asked has answered, and that is judged."""
        until(lambda: not asking(), what="the answers")
        self.turn()

    def sample(self) -> None:
        self.turn(after_s=1.5)
        self.answered()

    def group(self, name: str = "db0") -> GroupView:
        return next(g for g in self.store.groups(C1) if g.group_name == name)

    def count(self, name: EventName) -> int:
        return sum(entry.event == name.value for entry in self.store.journal(campaign_id=C1))


def asking() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "signals"]


def _unreachable() -> Any:
    raise SourceUnavailable("nobody is there")


def silent(peer: Peer) -> None:
    peer.silence()


def ends(peer: Peer) -> None:
    raise Gone


def test_silent_signals_hold_up_neither_the_flag_file_nor_the_lease(tmp_path: Path) -> None:
    flag = tmp_path / "pause"
    flag.touch()
    with rogue(silent) as nobody:
        url = f"http://127.0.0.1:{nobody.port}/m"
        monitor = MonitorPlan(signals=(http(url), QUERY), flag_file=str(flag))
        watch = Watch(monitor, port=nobody.port)
        watch.turn()
        assert watch.group().paused == f"the flag file {flag} is there", "before any answer"
        for _ in range(20):
            watch.turn(after_s=1.0)
            assert not watch.store.lease_governor(C1, identity("w2"), 4.0, patience_s=0.0)
        assert watch.count(EventName.SIGNAL_LOST) == 2, "each once"
        flag.unlink()
        for _ in range(3):
            watch.turn(after_s=3.0)
        assert watch.group().paused is None
        flag.touch()
        watch.turn(after_s=1.5)
        assert watch.group().paused is not None
    until(lambda: not asking(), what="their end")


def test_the_hours_hold_whoever_does_not_answer() -> None:
    with rogue(silent) as nobody:
        hours = HoursPlan(windows=("03:00-03:01",))
        signals = (http(f"http://127.0.0.1:{nobody.port}/m"),)
        watch = Watch(MonitorPlan(signals=signals, hours=hours))
        watch.turn()
        assert "it may run 03:00-03:01" in (watch.group().paused or "")
        nowhere = MonitorPlan(hours=HoursPlan(windows=("00:00-24:00",), time_zone="No/Where"))
        watch = Watch(nowhere)
        watch.turn()
        assert watch.group().paused == "this host knows no time zone No/Where"
    until(lambda: not asking(), what="their end")


def test_a_silent_signal_keeps_no_other_from_counting() -> None:
    with rogue(silent) as nobody, endpoint(ok(b"0.9")) as health:
        watch = Watch(MonitorPlan(signals=(QUERY, http(health.url))), port=nobody.port)
        watch.turn()
        until(lambda: len(asking()) == 1, what="the endpoint's answer")
        watch.turn(after_s=5.0)
        assert watch.group().paused == "load is 0.9, above 0.5"
    until(lambda: not asking(), what="their end")


DIGITS = b'{"a": ' + b"9" * 400 + b"}"


@pytest.mark.parametrize(
    "answer",
    [moved("http://["), moved("http://[::1"), ok(DIGITS), ok(b'{"a": NaN}'), ok(b'{"a": {}}')],
)
def test_a_malformed_answer_is_unreadable_and_ends_nothing(answer: bytes) -> None:
    with endpoint(answer) as bad:
        watch = Watch(MonitorPlan(signals=(http(bad.url, "/a"),), on_unreadable="pause"))
        for _ in range(3):
            watch.sample()
        assert watch.group().paused == "load cannot be read"
        assert watch.count(EventName.SIGNAL_LOST) == 1


@pytest.mark.parametrize("error", [ValueError("pw of ours"), WorkerUnfit("not allowed")])
def test_whatever_a_source_comes_to_is_an_unreadable_signal(error: Exception) -> None:
    def fails(name: str, planned: str) -> Any:
        raise error

    watch = Watch(MonitorPlan(signals=(QUERY,)))
    watch.open_signals = fails
    for _ in range(3):
        watch.sample()
    assert watch.count(EventName.SIGNAL_LOST) == 1
    assert "pw of ours" not in (watch.group().readings_json or "")


def test_a_group_that_cannot_be_governed_keeps_no_other_waiting(tmp_path: Path) -> None:
    def fails(monitor: MonitorPlan) -> Any:
        if monitor.flag_file is None:
            raise KeyError("nobody foresaw this")
        return frozenset()

    flag = tmp_path / "pause"
    flag.touch()
    watch = Watch(MonitorPlan(), MonitorPlan(flag_file=str(flag)))
    watch.counters = fails
    assert not watch.turn(), "it is told"
    assert watch.group("db1").paused is not None
    assert watch.group("db0").paused is None
    assert watch.turn(after_s=0.5), "it is tried again later"
    flag.unlink()
    for _ in range(4):
        watch.turn(after_s=0.5)
        watch.answered()
    assert watch.group("db1").paused is None, "nor is the other held to its pace"
    assert watch.governor._next_s() < 0.6


def test_a_governor_connects_again_by_the_budget_of_tries() -> None:
    """Twenty signals, and a server that ends each session at its first: a connection a sample
    at most, later and later, and none that the fleet's budget has not."""
    signals = tuple(
        SignalPlan(name=f"q{i}", kind="sql", ask=f"SELECT {i}", pause_above=1.0) for i in range(20)
    )
    with rogue(Script("set_up", ends)) as server:
        watch = Watch(MonitorPlan(signals=signals, interval_s=0.2), port=server.port)
        for _ in range(240):
            watch.turn(after_s=0.25)
            watch.answered()
        assert 4 <= len(server.peers) <= 9, "1 s, 2 s, 4 s, 8 s, then every 15 s"
        before = len(server.peers)
        watch.turn(after_s=15.0)
        watch.answered()
        assert len(server.peers) == before + 1
        for _ in range(90):
            watch.store.reserve_retry("db0", 1.0)
        for _ in range(40):
            watch.turn(after_s=1.0)
            watch.answered()
        assert len(server.peers) <= before + 2, "others have used up what there is"


def test_not_knowing_whether_a_flag_is_there_is_as_if_it_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert FlagFile(str(tmp_path / "pause")).closes() is None
    assert "name too long" in (FlagFile(str(tmp_path / ("x" * 300))).closes() or "")
    monkeypatch.setattr(sampler, "FLAG_WAIT_S", 0.01)
    mounted = threading.Event()

    def dead(path: str) -> None:
        mounted.wait()
        raise FileNotFoundError

    monkeypatch.setattr(sampler, "FLAG_MAX_S", 60.0)
    began_s = time.monotonic()
    flag = FlagFile("/mnt/dead/pause", look=dead)
    assert "does not answer" in (flag.closes() or ""), "nothing is known yet"
    mounted.set()
    until(lambda: flag.closes() is None, what="the answer")
    mounted.clear()
    until(lambda: flag._thread is not None and flag.closes() is None and flag._thread.is_alive())
    assert flag.closes() is None, "as it was last seen"
    assert time.monotonic() - began_s < 50.0, "nobody waits for it"
    monkeypatch.setattr(sampler, "FLAG_MAX_S", 0.0)
    assert "does not answer" in (flag.closes() or "")
    mounted.set()


def test_a_lease_is_held_while_signals_are_asked_and_nothing_is_closed() -> None:
    """A sample takes longer than the lease: without a word in between it would run out."""
    with rogue(silent) as nobody:
        watch = Watch(MonitorPlan(signals=(http(f"http://127.0.0.1:{nobody.port}/m"),)))
        for _ in range(24):
            watch.turn(after_s=0.5)
            assert not watch.store.lease_governor(C1, identity("w2"), 4.0, patience_s=0.0)
        assert watch.group().paused is None
    until(lambda: not asking(), what="their end")


def test_a_source_that_is_not_configured_here_ends_no_other_signal() -> None:
    def unknown(monitor: MonitorPlan) -> Any:
        raise ConfigError("environment variable SHOP_URL is not set", hint="set it")

    signal = SignalPlan(name="waits", kind="engine", ask="lock_waits", pause_above=0.5)
    with endpoint(ok(b"0.9")) as health:
        watch = Watch(MonitorPlan(signals=(signal, http(health.url))))
        watch.counters = unknown
        watch.turn()
        watch.answered()
        assert watch.group().paused == "load is 0.9, above 0.5"
        assert "SHOP_URL is not set (set it)" in watch.group().readings_json


def test_a_connection_that_is_lost_while_a_sample_begins_is_paid_for(tmp_path: Path) -> None:
    """Whether its place still answers is asked once: an answer between two looks makes it free."""
    opened: list[str] = []
    watch = Watch(MonitorPlan(signals=(QUERY,)))
    watch.open_signals = lambda name, planned: opened.append(name) or _unreachable()
    watch.turn()
    until(lambda: not asking(), what="the answers")
    sampled = watch.governor._seats["db0"].sampler
    place = sampled._source
    assert place is not None

    class Ending:
        """A thread that loses its connection and ends behind the first look."""

        looks = 0

        def is_alive(self) -> bool:
            self.looks += 1
            sampled._lost = "the connection ended"
            return self.looks == 1

    place.thread = Ending()  # type: ignore[assignment]
    sampled._lost, before = "", list(opened)
    sampled.begin()
    until(lambda: not asking(), what="the answers")
    assert opened == before
