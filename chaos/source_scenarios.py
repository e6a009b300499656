"""One campaign whose source's server itself falls ill in the middle of a chunk's pages."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from enum import Enum

import psutil

from chaos.arena import Arena
from chaos.processes import kill, until
from chaos.scenario import Campaign, Shape
from chaos.source_data import ORDERS, SourceServer
from chaos.standstill import standing_still, stopping_at
from rivet_fleet.contracts.killpoints import KillPoint

NOTICE_S = 40.0
"""How long a worker may believe in a server that is silent for good, on a busy machine."""
RECOVER_S = 40.0
"""From the healthy server to the end of the campaign, its remaining work included."""
_LEASE_TTL_S = 2.0
_SHAPE = Shape(chunk_count=20, lease_ttl_s=_LEASE_TTL_S, batch_size=40, throttle_ms=20.0)
_PAGES_BEFORE = 6


class Ill(Enum):
    """What happens to the server."""

    CRASH = "crash"
    """It is killed, stays away until that was noticed, and recovers."""
    SHUTDOWN = "shutdown"
    """It ends in order, stays away until that was noticed, and starts again."""
    PAUSE = "pause"
    """It stands still for longer than a lease, and goes on as if nothing had been."""
    LONG_PAUSE = "long-pause"
    """It stands still until its reader has lost patience with it."""


def play(arena: Arena, state: str, ill: Ill) -> float | None:
    """Run the campaign through it, and judge it. Raises AssertionError.

    Returns the seconds from the ill to noticing it, if it had to be noticed.
    """
    with arena.campaign(state, tables=[ORDERS], shape=_SHAPE) as campaign:
        point = KillPoint.PAGE_READ
        coordinator = campaign.start(armed=stopping_at(campaign, point, _PAGES_BEFORE))
        reader = standing_still(campaign, point)
        with _taken_ill(arena.source_server, ill):
            began_s = time.monotonic()
            kill(reader, signal.SIGCONT)
            noticed_s = _until_felt(campaign, ill, reader.pid, began_s)
        code = coordinator.wait(RECOVER_S)
        assert code == 0, f"{ill.value}: exit code {code}"
        campaign.expect_exactly_once()
        campaign.expect_completed()
        campaign.expect_tidy()
        reaped = [message for _, event, message in campaign.events() if event == "chunk.reaped"]
        # However long the source is away, heartbeats hold the chunk.
        assert not reaped, reaped
    return noticed_s


def _until_felt(campaign: Campaign, ill: Ill, pid: int, began_s: float) -> float | None:
    if ill is Ill.PAUSE:
        over_s = began_s + 1.5 * _LEASE_TTL_S
        until(lambda: time.monotonic() > over_s, what="a lease would have run out")
        return None
    until(
        lambda: campaign.said("source.retried", pid=pid),
        what=f"the {ill.value} is noticed by its reader",
        deadline_s=NOTICE_S,
    )
    return time.monotonic() - began_s


@contextlib.contextmanager
def _taken_ill(server: SourceServer, ill: Ill) -> Iterator[None]:
    """Ill inside the block, well again behind it."""
    if ill in (Ill.CRASH, Ill.SHUTDOWN):
        server.stop(mode="immediate" if ill is Ill.CRASH else "fast")
        try:
            yield
        finally:
            server.start()
        return
    paused = pause(server)
    try:
        yield
    finally:
        for process in paused:
            kill(process, signal.SIGCONT)


def pause(server: SourceServer) -> list[psutil.Process]:
    """Stop every process of the server, the first one first; returns them."""
    assert server.pid is not None, "a server that runs can be paused"
    first = psutil.Process(server.pid)
    kill(first, signal.SIGSTOP)
    # Now it can start no more of them.
    processes = [first, *first.children(recursive=True)]
    for process in processes:
        kill(process, signal.SIGSTOP)
    return processes
