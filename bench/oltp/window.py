"""One window: the extraction is at work, then the application's stream runs, then both end."""

from __future__ import annotations

import json
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

from bench.oltp.application import arrivals
from bench.oltp.arms import Arm
from bench.oltp.figures import Window
from bench.oltp.sources import ACCOUNTS

_UNDER_WAY_S_MAX = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The application: so many processes, so many transactions a second of each."""

    processes: int
    rate: float
    seconds: float


class TooShort(RuntimeError):
    """The extraction ended, or never began, while the application was to be measured."""


def measure(arm: Arm, engine: str, urls: tuple[str, str], load: Load, seed: int) -> Window:
    """Measure one way for one window."""
    application, extraction = urls
    seeds = [seed * 1000 + n for n in range(load.processes)]
    with tempfile.TemporaryDirectory(prefix="rivet-fleet-oltp-") as name:
        folder = Path(name)
        with _extracting(arm, engine, extraction, folder) as running:
            rows = _delivered(folder)
            took_s = _apply(engine, application, load, seeds)
            if running is not None and running.poll() is not None:
                raise TooShort(f"{arm.name} on {engine} ended within the window: see {folder}")
            rows = _delivered(folder) - rows
    due = sum(1 for one in seeds for _ in arrivals(load.rate, load.seconds, one))
    return Window(took_s=tuple(took_s), due=due, seconds=load.seconds, rows=rows)


@contextmanager
def _extracting(
    arm: Arm, engine: str, url: str, folder: Path
) -> Iterator[subprocess.Popen[bytes] | None]:
    """A campaign whose first file is there; killed afterwards, with all its workers."""
    if not arm.extracts:
        yield None
        return
    (folder / "fleet.yaml").write_text(arm.config(engine), encoding="utf-8")
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", "rivet_fleet", "run", "-c", "fleet.yaml"],
            cwd=folder,
            env={**os.environ, "OLTP_URL": url},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        deadline_s = time.monotonic() + _UNDER_WAY_S_MAX
        while not any(folder.glob("out/*/*/*.parquet")):
            if running.poll() is not None or time.monotonic() > deadline_s:
                said = (folder / "log").read_text(encoding="utf-8", errors="replace")
                raise TooShort(f"{arm.name} on {engine} delivers nothing:\n{said[-2000:]}")
            time.sleep(0.05)
        yield running
    finally:
        _kill_all(running)


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


def _apply(engine: str, url: str, load: Load, seeds: list[int]) -> list[float]:
    """The latencies of all processes of the application."""
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "bench.oltp.application", engine, url),
                *(str(load.rate), str(load.seconds), str(ACCOUNTS), str(seed)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in seeds
    ]
    took_s: list[float] = []
    try:
        for one in processes:
            assert one.stdout is not None and one.stdin is not None
            if one.stdout.readline().strip() != "ready":
                raise RuntimeError("a process of the application did not start")
        began_s = time.monotonic() + 0.2
        for one in processes:
            assert one.stdin is not None
            one.stdin.write(f"{began_s}\n")
            one.stdin.flush()
        for one in processes:
            out, _ = one.communicate(timeout=3 * load.seconds + 30)
            took_s += json.loads(out)
    finally:
        for one in processes:
            one.kill()
            one.wait()
    return took_s


def _delivered(folder: Path) -> int:
    """Rows in visible files."""
    return sum(pq.read_metadata(part).num_rows for part in folder.glob("out/*/*/*.parquet"))
