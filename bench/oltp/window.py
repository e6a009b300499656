"""One window: the extraction is at work, then the application's stream runs, then both end."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow.parquet as pq

from bench.oltp.arms import Arm, Goal
from bench.oltp.figures import Window
from bench.oltp.gauge import Gauge
from bench.oltp.permits import Step, mean_permits, steps, told
from bench.oltp.sources import Database
from bench.oltp.stream import BEGIN_IN_S, Load, apply
from bench.sources.server import server_cpu_s

_UNDER_WAY_S_MAX = 60.0


class TooShort(RuntimeError):
    """The extraction ended, or never began, while the application was to be measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the windows of one engine are measured."""

    engine: str
    database: Database
    load: Load
    gauge: Gauge


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mark:
    """Where things stood at one moment."""

    at_s: float
    rows: int
    server_s: float
    extraction_s: float


def measure(arm: Arm, place: Place, goal: Goal, seed: int) -> tuple[Window, tuple[Step, ...]]:
    """Measure one way for one window. Raises RuntimeError, TooShort among them."""
    database, load = place.database, place.load
    seeds = [seed * 1000 + n for n in range(load.processes)]
    with tempfile.TemporaryDirectory(prefix="rivet-fleet-oltp-") as name:
        folder = Path(name)
        environ = {**os.environ, "OLTP_URL": database.extraction_url}
        (folder / "fleet.yaml").write_text(arm.config(place.engine, goal), encoding="utf-8")
        marks: list[_Mark] = []
        with _extracting(arm, folder, environ) as running:

            def mark() -> None:
                marks.append(_mark(folder, database.pid, running))

            felt = apply(
                place.engine, database.application_url, load, seeds, place.gauge, begin=mark
            )
            if running is not None and running.poll() is not None:
                raise TooShort(f"{arm.name} ended within the window:\n{_said(folder)}")
            mark()
        began, ended = marks
        entries = told(folder / "fleet.yaml", environ) if arm.governed else []
    # The journal, too, has the time of day: the state is a file of this machine.
    stairs = steps(entries, began_s=began.at_s + BEGIN_IN_S, most=arm.permits)
    took_s = ended.at_s - began.at_s
    window = Window(
        done=tuple(felt.done),
        due_s=tuple(load.due(seeds)),
        lead_s=load.lead_s,
        seconds=load.seconds,
        rows_per_s=(ended.rows - began.rows) / took_s,
        permits=mean_permits(stairs, begin_s=0.0, end_s=load.whole_s),
        server_cores=(ended.server_s - began.server_s) / took_s,
        extraction_cores=(ended.extraction_s - began.extraction_s) / took_s,
        application_cores=felt.cpu_s / took_s,
    )
    return window, stairs


def _mark(folder: Path, server: int, running: subprocess.Popen[bytes] | None) -> _Mark:
    return _Mark(
        rows=sum(pq.read_metadata(part).num_rows for part in folder.glob("out/*/*/*.parquet")),
        server_s=server_cpu_s(server),
        extraction_s=0.0 if running is None else _family_cpu_s(running.pid),
        at_s=time.time(),
    )


def _family_cpu_s(pid: int) -> float:
    """User and system time of the coordinator and its workers."""
    coordinator = psutil.Process(pid)
    total_s = 0.0
    for one in (coordinator, *coordinator.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total_s += times.user + times.system + times.children_user + times.children_system
    return total_s


@contextmanager
def _extracting(
    arm: Arm, folder: Path, environ: dict[str, str]
) -> Iterator[subprocess.Popen[bytes] | None]:
    """A campaign whose first file is there; killed afterwards, with all its workers."""
    if not arm.extracts:
        yield None
        return
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", "rivet_fleet", "run", "-c", "fleet.yaml"],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        deadline_s = time.monotonic() + _UNDER_WAY_S_MAX
        while not any(folder.glob("out/*/*/*.parquet")):
            if running.poll() is not None or time.monotonic() > deadline_s:
                raise TooShort(f"{arm.name} delivers nothing:\n{_said(folder)}")
            time.sleep(0.05)
        yield running
    finally:
        _kill_all(running)


def _said(folder: Path) -> str:
    return (folder / "log").read_text(encoding="utf-8", errors="replace")[-2000:]


def _kill_all(running: subprocess.Popen[bytes]) -> None:
    """The coordinator and every worker: none may live on into the next window."""
    if running.poll() is None:
        coordinator = psutil.Process(running.pid)
        coordinator.suspend()
        family = [*coordinator.children(recursive=True), coordinator]
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(family, timeout=20)
    running.wait()
