"""One campaign whose wire to the source or to the state breaks in a chosen phase of a chunk.

Phases are hit exactly: a process stops itself (kill point, action ``stop``) right before the
phase, the wire is broken while it stands still, and then it goes on.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import psutil

from chaos.arena import Arena
from chaos.processes import Coordinator, kill, start_coordinator, until
from chaos.scenario import CAMPAIGN_ID, Campaign, Shape
from chaos.source_data import ORDERS
from chaos.standstill import standing_still, stopping_at
from chaos.wire import Toxic, Toxiproxy, Wire
from rivet_fleet.contracts.killpoints import KillPoint

NOTICE_SOURCE_S = 40.0
NOTICE_STATE_S = 20.0
"""How long a process may believe in a connection that is silent for good, on a busy machine."""
RECOVER_S = 30.0
"""From the mended wire to the end of the campaign, its remaining work included."""
_PROGRESS_S = 150.0
_LEASE_TTL_S = 2.0
_SLOW = (Toxic.LATENCY, Toxic.NARROW)


class Phase(Enum):
    """Where a chunk, or its run, stands when the wire breaks."""

    CLAIM = "claim"
    PAGE = "page"
    COMMIT = "commit"
    PUBLISH = "publish"
    HEARTBEAT = "heartbeat"
    FINALIZE = "finalize"


class Cut(Enum):
    """Which wire breaks, and for whom."""

    SOURCE = "source"
    """Between the workers and the source."""
    STATE = "state"
    """Between the state database and everybody: coordinator, workers and their heartbeats."""
    STATE_OF_WORKERS = "state-of-workers"
    """Between the state database and the workers; a coordinator elsewhere reaps them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One scenario."""

    phase: Phase
    cut: Cut
    toxic: Toxic

    @property
    def name(self) -> str:
        """As in the test's id."""
        return f"{self.phase.value}-{self.cut.value}-{self.toxic.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Survived:
    """How it went. Seconds from breaking the wire to noticing, from mending it to the end."""

    noticed_s: float | None
    recovered_s: float
    reaped: int


_STOP_AT = {
    # The next thing a process does after completing a chunk is to claim another.
    Phase.CLAIM: (KillPoint.CHUNK_COMPLETED, 2),
    Phase.PAGE: (KillPoint.PAGE_READ, 6),
    Phase.COMMIT: (KillPoint.PART_STAGED, 2),
    Phase.PUBLISH: (KillPoint.CHUNK_COMMITTED, 2),
    Phase.HEARTBEAT: (KillPoint.PAGE_READ, 2),
    Phase.FINALIZE: (KillPoint.FINALIZE_LEASED, 1),
}
_SHAPES = {
    # Pages are slow here, so that a chunk outlives several leases: only heartbeats keep it.
    Phase.HEARTBEAT: Shape(
        chunk_count=6, lease_ttl_s=_LEASE_TTL_S, batch_size=60, throttle_ms=500.0
    ),
}
_SHAPE = Shape(chunk_count=20, lease_ttl_s=_LEASE_TTL_S, batch_size=40, throttle_ms=20.0)


def play(arena: Arena, proxy: Toxiproxy, state: str, fault: Fault) -> Survived:
    """Run the campaign through the fault, and judge it. Raises AssertionError.

    ``state``: SQLite has no wire to break, so only ``Cut.SOURCE`` goes with it.
    """
    with _wired(arena, proxy, state, fault) as wired:
        return wired.play()


@contextlib.contextmanager
def _wired(arena: Arena, proxy: Toxiproxy, state: str, fault: Fault) -> Iterator[_Wired]:
    name = f"{arena.engine}-{state}-{fault.name}"
    cut_source = fault.cut is Cut.SOURCE
    wire = None if not cut_source else proxy.wire(f"source-{name}", arena.frozen.url)
    with arena.campaign(
        state,
        tables=[ORDERS],
        shape=_SHAPES.get(fault.phase, _SHAPE),
        source_url=None if wire is None else wire.through(arena.frozen.url),
    ) as campaign:
        fleet_state_url = campaign.state_url
        if wire is None:
            wire = proxy.wire(f"state-{name}", campaign.state_url)
            fleet_state_url = wire.through(campaign.state_url)
        yield _Wired(fault=fault, campaign=campaign, wire=wire, fleet_state_url=fleet_state_url)


@dataclass(slots=True, kw_only=True)
class _Wired:
    """A campaign and the wire that will break."""

    fault: Fault
    campaign: Campaign
    wire: Wire
    fleet_state_url: str

    def play(self) -> Survived:
        """Start, break, wait for what the fault must cause, mend, and wait for the end."""
        fault, campaign = self.fault, self.campaign
        coordinator, workers = self._start()
        stopped = standing_still(campaign, _STOP_AT[fault.phase][0])
        self.wire.break_with(fault.toxic)
        broken_at_s = time.monotonic()
        delivered = self._delivered()
        kill(stopped, signal.SIGCONT)
        noticed_s = self._until_felt(coordinator, stopped, delivered, broken_at_s)
        self.wire.mend(fault.toxic)
        mended_at_s = time.monotonic()
        for process in (*workers, coordinator):
            code = process.wait(RECOVER_S)
            assert code == 0, f"{fault.name}: exit code {code}"
        recovered_s = time.monotonic() - mended_at_s
        campaign.expect_exactly_once()
        campaign.expect_completed()
        campaign.expect_tidy()
        reaped = sum(event == "chunk.reaped" for _, event, _ in campaign.events())
        return Survived(noticed_s=noticed_s, recovered_s=recovered_s, reaped=reaped)

    def _start(self) -> tuple[Coordinator, list[Coordinator]]:
        """The coordinator, and the workers it does not supervise itself."""
        point, nth = _STOP_AT[self.fault.phase]
        armed = stopping_at(self.campaign, point, nth)
        if self.fault.cut is not Cut.STATE_OF_WORKERS:
            arguments = ("--state-url", self.fleet_state_url)
            return self.campaign.start(armed=armed, arguments=arguments), []
        coordinator = self.campaign.start(arguments=("--workers", "0"))
        return coordinator, [self._worker(f"far-{n}", armed) for n in (1, 2)]

    def _worker(self, name: str, armed: str) -> Coordinator:
        config = self.campaign.config
        process = start_coordinator(
            config,
            self.campaign.folder / f"{name}.log",
            arguments=[
                *("--log-level", "info", "worker", "--config", str(config)),
                *("--campaign-id", CAMPAIGN_ID, "--name", name, "--wait-s", "30"),
                *("--state-url", self.fleet_state_url),
            ],
            environment={"RIVET_FLEET_TEST_KILL": armed, "RIVET_FLEET_TESTING": "1"},
        )
        self.campaign.coordinators.append(process)
        return process

    # ------------------------------------------------------------ what a fault must cause

    def _until_felt(
        self,
        coordinator: Coordinator,
        stopped: psutil.Process,
        delivered: int,
        broken_at_s: float,
    ) -> float | None:
        """Wait until the fault has had its effect; seconds until it was noticed, if it must be.

        ``stopped`` stood still when the wire broke, and ``delivered`` chunks were completed.
        """
        fault = self.fault
        if fault.cut is Cut.SOURCE and fault.phase is Phase.FINALIZE:
            until(lambda: not coordinator.alive, what="the end without the source")
            return None
        if fault.toxic in _SLOW:
            self._until_progress(delivered + 3)
            return None
        if fault.cut is Cut.SOURCE and fault.phase in (Phase.COMMIT, Phase.PUBLISH):
            # Neither needs the source: the chunk in hand is delivered while it is away.
            self._until_progress(delivered + 1)
        bound_s = NOTICE_SOURCE_S if fault.cut is Cut.SOURCE else NOTICE_STATE_S
        until(
            lambda: self._noticed(stopped.pid), what=f"{fault.name} is noticed", deadline_s=bound_s
        )
        noticed_s = time.monotonic() - broken_at_s
        longer_than_lease_s = broken_at_s + 1.5 * _LEASE_TTL_S
        until(lambda: time.monotonic() > longer_than_lease_s, what="a lease runs out")
        return noticed_s

    def _until_progress(self, chunks: int) -> None:
        """So many chunks are delivered, or all are."""
        wanted = min(chunks, self.campaign.shape.chunk_count)
        until(
            lambda: self._delivered() >= wanted,
            what=f"{wanted} chunks in spite of the fault",
            deadline_s=_PROGRESS_S,
        )

    def _delivered(self) -> int:
        """Visible parts: each chunk has one."""
        return len(self.campaign.parts())

    def _noticed(self, pid: int) -> bool:
        """It was said that the database behind the broken wire does not answer."""
        campaign = self.campaign
        if self.fault.cut is Cut.SOURCE:
            # Whose link broke in the middle of its work: others may only fail to connect.
            return campaign.said("source.retried", pid=pid)
        return campaign.said("state.retried")
