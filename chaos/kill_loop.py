"""The kill loop: campaign after campaign under random blows, each judged by the oracle.

``python -m chaos.kill_loop --seed N --seconds S --source postgres|mariadb --state sqlite|postgres
[--destination local|s3|azure|gcs] [--rows N]``. The seed is printed first and replays the
decisions; exact timing is the machine's. ``--seconds 0`` never ends; ``--campaigns 1 --rows
2000000`` is the headline: two million rows, every one once.
"""

from __future__ import annotations

import argparse
import random
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import psutil

from chaos.arena import STATES, Arena, arena, merciless_state_server
from chaos.decisions import Blow, Decision, decisions
from chaos.processes import kill, until
from chaos.scenario import Campaign, Shape
from chaos.source_data import ALL, SLIM
from chaos.source_scenarios import pause
from chaos.sources import SOURCES
from chaos.stores import DESTINATIONS, running_store
from rivet_fleet.errors import ExitCode

LEASE_TTL_S = 2.0
_DRAIN_GRACE_S = 3.0
_ORPHANS_GONE_S = _DRAIN_GRACE_S + 20.0
_BLOWS_MAX = 10
_SLIM_FROM_ROWS = 100_000
_TICK_S = 0.02

_AFTER = {
    Blow.KILL_COORDINATOR: {-signal.SIGKILL},
    Blow.STOP_COORDINATOR: {ExitCode.STOPPED, ExitCode.OK, -signal.SIGTERM},
}
"""How a coordinator may end after a blow to itself (SIGTERM kills one that is still starting).
A database that is away may cost it its life with RETRYABLE, at any time."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """What was survived."""

    campaigns: int = 0
    rows: int = 0
    blows: Counter[Blow] = field(default_factory=Counter)
    restarts: int = 0

    def __str__(self) -> str:
        blows = ", ".join(f"{count} × {blow.value}" for blow, count in self.blows.most_common())
        return (
            f"{self.campaigns} campaigns, {self.rows:,} rows, each in exactly one visible file; "
            f"survived: {blows or 'nothing'}; the coordinator was started again "
            f"{self.restarts} times"
        )


class Ordeal:
    """One campaign under blows, until it is over."""

    def __init__(
        self,
        place: Arena,
        campaign: Campaign,
        falling: Iterator[Decision],
        tally: Tally,
        say: Callable[[str], None],
        *,
        blows_max: int,
        deadline_s: float,
    ) -> None:
        """``falling``: where the decisions come from, shared by all campaigns of a loop."""
        self._place = place
        self._campaign = campaign
        self._falling = falling
        self._tally = tally
        self._say = say
        self._blows_left = blows_max
        self._end_s = time.monotonic() + deadline_s
        self._coordinator = campaign.start()
        self._expected: set[int] = set()
        self._paused: list[tuple[float, psutil.Process]] = []
        self._source_asleep: list[tuple[float, psutil.Process]] = []

    def survive(self) -> None:
        """Until the campaign has ended well. Raises AssertionError when it cannot."""
        try:
            while not self._over():
                if self._blows_left:
                    self._next_blow()
        finally:
            self._wake(everybody=True)
        self._campaign.expect_no_workers(_ORPHANS_GONE_S)

    def _over(self) -> bool:
        """Wait a tick; look after paused workers and an ended coordinator."""
        assert time.monotonic() < self._end_s, "the campaign did not end in time"
        self._wake()
        try:
            code = self._coordinator.process.wait(_TICK_S)
        except subprocess.TimeoutExpired:
            return False
        if code == ExitCode.OK:
            return True
        allowed = self._expected | {int(ExitCode.RETRYABLE)}
        assert code in allowed, f"the coordinator ended with exit code {code}"
        self._expected = set()
        self._tally.restarts += 1
        self._coordinator = self._campaign.start()
        return False

    def _next_blow(self) -> None:
        decision = next(self._falling)
        due_s = time.monotonic() + decision.wait_s
        while time.monotonic() < due_s:
            if self._over():
                self._blows_left = 0
                return
        self._blows_left -= 1
        self._tally.blows[decision.blow] += 1
        self._say(f"  {decision.wait_s:.2f} s later: {decision.blow.value}")
        self._strike(decision)

    def _strike(self, decision: Decision) -> None:
        match decision.blow:
            case Blow.KILL_WORKER:
                self._kill_worker(decision.pick)
            case Blow.PAUSE_WORKER:
                self._pause_worker(decision.pick)
            case Blow.KILL_COORDINATOR:
                self._kill_coordinator()
            case Blow.STOP_COORDINATOR:
                if int(ExitCode.STOPPED) in self._expected:
                    # A second SIGTERM ends the drain at once.
                    self._expected.add(128 + signal.SIGTERM)
                self._expected |= {int(code) for code in _AFTER[decision.blow]}
                self._coordinator.signal(signal.SIGTERM)
            case Blow.CRASH_STATE:
                assert self._place.state_server is not None, "only where the state can crash"
                self._place.state_server.restart(mode="immediate")
            case Blow.CRASH_SOURCE:
                self._wake_source()
                self._place.source_server.restart(mode="immediate")
            case Blow.CRASH_STORE:
                assert self._place.store is not None, "only where there is one"
                self._place.store.server.restart()
            case Blow.PAUSE_SOURCE:
                self._wake_source()
                over_s = time.monotonic() + LEASE_TTL_S * (1.2 + decision.pick)
                self._source_asleep = [(over_s, one) for one in pause(self._place.source_server)]

    def _worker(self, pick: float) -> psutil.Process | None:
        workers = sorted(self._coordinator.workers(), key=lambda process: process.pid)
        return workers[int(pick * len(workers))] if workers else None

    def _kill_worker(self, pick: float) -> None:
        worker = self._worker(pick)
        if worker is not None:
            kill(worker)

    def _pause_worker(self, pick: float) -> None:
        worker = self._worker(pick)
        if worker is not None and kill(worker, signal.SIGSTOP):
            self._paused.append((time.monotonic() + LEASE_TTL_S * (1.2 + pick), worker))

    def _kill_coordinator(self) -> None:
        """Its workers must leave by themselves, paused ones as soon as they wake."""
        orphans = self._coordinator.workers()
        self._expected |= {int(code) for code in _AFTER[Blow.KILL_COORDINATOR]}
        self._coordinator.signal(signal.SIGKILL)
        self._coordinator.process.wait()
        asleep = {process.pid for _, process in self._paused}
        awake = [process for process in orphans if process.pid not in asleep]
        until(
            lambda: not any(_runs(process) for process in awake),
            what="the dead coordinator's workers are gone",
            deadline_s=_ORPHANS_GONE_S,
        )

    def _wake(self, *, everybody: bool = False) -> None:
        now_s = float("inf") if everybody else time.monotonic()
        self._paused = _still_asleep(self._paused, now_s)
        self._source_asleep = _still_asleep(self._source_asleep, now_s)

    def _wake_source(self) -> None:
        """A server that stands still can neither be ended nor paused once more."""
        self._source_asleep = _still_asleep(self._source_asleep, float("inf"))


def _still_asleep(
    paused: list[tuple[float, psutil.Process]], now_s: float
) -> list[tuple[float, psutil.Process]]:
    """Wake whose time has come; the others."""
    for due_s, process in paused:
        if now_s >= due_s:
            kill(process, signal.SIGCONT)
    return [one for one in paused if now_s < one[0]]


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopOptions:
    """``seconds`` 0: never ends by time. ``campaigns`` 0: as many as fit."""

    seed: int
    seconds: float
    state: str
    source: str = "postgres"
    destination: str = "local"
    rows: int = 6000
    campaigns: int = 0
    workers: int = 4

    @property
    def replay(self) -> str:
        """The command that takes the same decisions again."""
        return (
            f"python -m chaos.kill_loop --seed {self.seed} --seconds {self.seconds:g} "
            f"--source {self.source} --state {self.state} "
            f"--destination {self.destination} --rows {self.rows} "
            f"--campaigns {self.campaigns} --workers {self.workers}"
        )


def run_loop(options: LoopOptions, say: Callable[[str], None] = print) -> Tally:
    """Campaign after campaign until the time is over. Raises AssertionError, logs attached."""
    say(f"seed {options.seed}; replay: {options.replay}")
    tally = Tally()
    end_s = time.monotonic() + options.seconds if options.seconds else float("inf")
    few = ALL if options.destination == "local" else ALL[:2]
    tables = (SLIM,) if options.rows >= _SLIM_FROM_ROWS else few
    in_postgres = options.state == "postgres"
    falling = decisions(
        random.Random(options.seed),
        state_can_crash=in_postgres,
        into_store=options.destination != "local",
    )
    with (
        merciless_state_server(options.state) as state_server,
        running_store(options.destination) as store,
        arena(
            options.source,
            rows=options.rows,
            tables=tables,
            state_server=state_server,
            store=store,
        ) as place,
    ):
        while time.monotonic() < end_s and tally.campaigns != (options.campaigns or -1):
            _one_campaign(place, options, tables, falling, tally, say)
    say(str(tally))
    return tally


def _one_campaign(
    place: Arena,
    options: LoopOptions,
    tables: Sequence[str],
    falling: Iterator[Decision],
    tally: Tally,
    say: Callable[[str], None],
) -> None:
    say(f"campaign {tally.campaigns + 1}")
    big = options.rows >= _SLIM_FROM_ROWS
    shape = Shape(
        chunk_count=max(20, options.rows // 20_000) if big or place.store is not None else 40,
        workers=options.workers,
        lease_ttl_s=LEASE_TTL_S,
        drain_grace_s=_DRAIN_GRACE_S,
    )
    with place.campaign(
        options.state, tables=tables, shape=shape, replay=options.replay
    ) as campaign:
        Ordeal(
            place,
            campaign,
            falling,
            tally,
            say,
            blows_max=3 * _BLOWS_MAX if big else _BLOWS_MAX,
            deadline_s=240.0,
        ).survive()
        verdicts = campaign.expect_exactly_once()
        campaign.expect_completed()
        campaign.expect_tidy()
    rows = sum(int(verdict["rows"]) for verdict in verdicts.values())
    tally.campaigns += 1
    tally.rows += rows
    files = sum(int(verdict["parts"]) for verdict in verdicts.values())
    say(f"  every one of {rows:,} rows exactly once, in {files} files")


def main() -> int:
    """0 when every campaign was exact; 1 with the findings, the logs and the replay otherwise."""
    parser = argparse.ArgumentParser(prog="python -m chaos.kill_loop", description=__doc__)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--source", choices=SOURCES, default="postgres")
    parser.add_argument("--state", choices=STATES, default="sqlite")
    parser.add_argument("--destination", choices=DESTINATIONS, default="local")
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--campaigns", type=int, default=0)
    parser.add_argument("--workers", type=int, default=4)
    given = parser.parse_args()
    options = LoopOptions(
        seed=secrets.randbelow(2**31) if given.seed is None else given.seed,
        seconds=given.seconds,
        state=given.state,
        source=given.source,
        destination=given.destination,
        rows=given.rows,
        campaigns=given.campaigns,
        workers=given.workers,
    )

    def say(text: str) -> None:
        print(text, flush=True)

    try:
        run_loop(options, say)
    except AssertionError as found:
        print(f"FAILED: {found}", *getattr(found, "__notes__", []), sep="\n", file=sys.stderr)
        print(f"replay: {options.replay}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped; replay: {options.replay}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
