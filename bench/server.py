"""What a run did to the server, by the server's own account: CPU and statement durations."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

import psutil

from rivet_fleet.demo.embedded import EmbeddedPostgres

SETTINGS = {
    "fsync": "off",
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "autovacuum": "off",
    "log_min_duration_statement": "0",
}
"""Read-only work on loaded tables: durability and vacuum play no part. Every statement's
duration is logged, so that the longest is known exactly and not sampled."""

_DURATION = re.compile(rb"duration: (\d+(?:\.\d+)?) ms")
_SETTLE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Where the server stood when a run began."""

    log_offset: int
    cpu_s: float
    processes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCost:
    """What happened since a ``Watch``."""

    cpu_s: float
    statements: int
    longest_statement_s: float


def watch(server: EmbeddedPostgres) -> Watch:
    """Begin: nobody else may use the server until ``cost_since``."""
    return Watch(
        log_offset=(server.directory / "server.log").stat().st_size,
        cpu_s=_cpu_s(server),
        processes=_process_count(server),
    )


def cost_since(server: EmbeddedPostgres, began: Watch) -> ServerCost:
    """End: waits until the run's backends are gone, so that their CPU is counted."""
    deadline_s = time.monotonic() + _SETTLE_TIMEOUT_S
    while _process_count(server) > began.processes and time.monotonic() < deadline_s:
        time.sleep(0.02)
    with (server.directory / "server.log").open("rb") as log:
        log.seek(began.log_offset)
        durations_s = statement_durations_s(log.read())
    return ServerCost(
        cpu_s=_cpu_s(server) - began.cpu_s,
        statements=len(durations_s),
        longest_statement_s=max(durations_s, default=0.0),
    )


def statement_durations_s(log: bytes) -> list[float]:
    """The durations in a server log, in seconds. Parse and bind steps count by themselves."""
    return [float(found) / 1000.0 for found in _DURATION.findall(log)]


def _postmaster(server: EmbeddedPostgres) -> psutil.Process:
    if server.pid is None:
        raise RuntimeError(f"the source server is gone: see {server.directory / 'server.log'}")
    return psutil.Process(server.pid)


def _process_count(server: EmbeddedPostgres) -> int:
    return len(_postmaster(server).children())


def _cpu_s(server: EmbeddedPostgres) -> float:
    """User and system time of the postmaster, the backends that ended, and those alive."""
    postmaster = _postmaster(server)
    times = postmaster.cpu_times()
    total_s = times.user + times.system + times.children_user + times.children_system
    for child in postmaster.children():
        try:
            own = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total_s += own.user + own.system
    return float(total_s)
