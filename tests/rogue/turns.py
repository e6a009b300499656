"""A fleet in one process and in turns: who waits, waits in virtual time, and one goes on at a time.

Nothing depends on the machine's pace: waits cost nothing, and whoever is due first is next.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from rivet_fleet.contracts.plan import CampaignPlan
from rivet_fleet.coordination.fleet import Fleet, FleetSettings, Patience, StopFlag
from rivet_fleet.coordination.heartbeat import Heartbeat, HeartbeatLimits
from rivet_fleet.coordination.worker import Worker
from rivet_fleet.errors import ExitCode, WorkerUnfit
from rivet_fleet.execution.source import Source
from tests.model.store import MemoryStore
from tests.unit.coordination.fleets import make_fleet

_WAITS_MAX = 3000
_TURN_S_MAX = 60.0
"""Of real time: a turn that takes longer hangs."""


class Turns:
    """A ``Clock`` that goes on when everybody waits."""

    def __init__(self, lasts_s: float) -> None:
        self.time_s = 1_700_000_000.0
        self.ends_at_s = self.time_s + lasts_s
        self._due: list[tuple[float, int, threading.Event]] = []
        self._numbers = itertools.count()
        self._parked = threading.Semaphore(0)

    def now_s(self) -> float:
        return self.time_s

    def monotonic_s(self) -> float:
        return self.time_s

    @property
    def over(self) -> bool:
        return self.time_s >= self.ends_at_s

    def wait(self, seconds: float) -> None:
        mine = threading.Event()
        due_s = min(self.time_s + max(seconds, 0.0), self.ends_at_s)
        heapq.heappush(self._due, (due_s, next(self._numbers), mine))
        self._parked.release()
        assert mine.wait(_TURN_S_MAX)

    def play(self, actors: list[Callable[[], object]]) -> None:
        """Until all have ended. What one raises is raised here."""
        failures: list[BaseException] = []

        def act(actor: Callable[[], object]) -> None:
            self.wait(0.0)
            try:
                actor()
            except BaseException as error:
                failures.append(error)
            self._parked.release()

        for actor in actors:
            threading.Thread(target=act, args=(actor,), daemon=True).start()
            assert self._parked.acquire(timeout=_TURN_S_MAX)
        while self._due:
            self.time_s, _, first = heapq.heappop(self._due)
            first.set()
            assert self._parked.acquire(timeout=_TURN_S_MAX)
        if failures:
            raise failures[0]


class TurnsStop(StopFlag):
    """Asked for when the time of the turns is over."""

    def __init__(self, turns: Turns) -> None:
        super().__init__(turns, grace_s=0.0)
        self._turns = turns
        self._waits = 0

    @property
    def requested(self) -> bool:
        return self._turns.over

    @property
    def grace_over(self) -> bool:
        return self._turns.over

    def wait(self, seconds: float) -> bool:
        self._waits += 1
        if self._waits > _WAITS_MAX:
            pytest.fail("it goes on without end, and no time passes")
        if not self.requested and seconds > 0:
            self._turns.wait(seconds)
        return self.requested


def play_fleet(
    plan: CampaignPlan,
    open_source: Callable[[], Source],
    folder: Path,
    *,
    workers: int,
    lasts_s: float,
    hang_timeout_s: float = 900.0,
    change: Callable[[Fleet], None] | None = None,
) -> MemoryStore:
    """So many workers, each as a process would be, until the campaign or the time is over.
    ``change`` sees each fleet first; then the place of a worker that gave up is filled again at
    once."""
    turns = Turns(lasts_s)
    store = MemoryStore(turns.now_s)
    store.submit(plan)
    (campaign,) = store.campaigns()
    actors = []
    for number in range(workers):
        spool = folder / f"w{number}"
        spool.mkdir()
        fleet = make_fleet(store, spool, name=f"w{number}")
        events = fleet.emit
        fleet.open_source = lambda name, identity: open_source()
        fleet.clock, fleet.stop = turns, TurnsStop(turns)
        fleet.patience = Patience(turns, fleet.stop, events, limit_s=5.0)
        fleet.emit = store.write_journal
        # This process is the tests' own: how large it is ends nobody.
        fleet.settings = FleetSettings(
            lease_ttl_s=1e6,
            spool_root=spool,
            hang_timeout_s=hang_timeout_s,
            worker_memory_bytes=1 << 50,
        )
        limits = HeartbeatLimits(lease_ttl_s=1e6, hang_timeout_s=1e6)
        beat = Heartbeat(lambda: store, fleet.identity, limits, clock=turns, emit=events)
        actors.append(partial(_work, Worker(fleet, beat, campaign.campaign_id, spool), change))
        if change is not None:
            change(fleet)
    turns.play(actors)
    return store


def _work(worker: Worker, again: object) -> None:
    """One place of a fleet."""
    while True:
        try:
            if worker.run() is not ExitCode.RETRYABLE or again is None:
                return
        except WorkerUnfit:
            if again is None:
                raise


def tuned(plan: CampaignPlan, **tuning: object) -> CampaignPlan:
    """The plan with other limits."""
    runs = tuple(
        replace(
            run,
            plan=replace(run.plan, tuning=replace(run.plan.tuning, **tuning)),  # type: ignore[arg-type]
        )
        for run in plan.runs
    )
    return replace(plan, runs=runs)
