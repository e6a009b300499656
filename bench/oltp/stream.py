"""The application as a whole: its processes, one stream of transactions, what each one felt."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO

from bench.oltp.application import CPU, arrivals
from bench.oltp.gauge import Gauge
from bench.oltp.sources import ACCOUNTS

_START_S_MAX = 30.0
BEGIN_IN_S = 0.2
"""From ``begin`` to the first moment of the stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The application: so many processes, so many transactions a second of each, for ``lead_s``
    before what counts and for ``seconds`` of what counts."""

    processes: int
    rate: float
    lead_s: float
    seconds: float

    @property
    def whole_s(self) -> float:
        """From the first arrival to the last."""
        return self.lead_s + self.seconds

    def due(self, seeds: Sequence[int]) -> list[float]:
        """When every transaction is due, of all processes."""
        return sorted(at for seed in seeds for at in arrivals(self.rate, self.whole_s, seed))


@dataclass(slots=True)
class Felt:
    """What the processes told: (due, took) of each transaction, and their processor time."""

    done: list[tuple[float, float]] = field(default_factory=list)
    cpu_s: float = 0.0


def apply(
    engine: str, url: str, load: Load, seeds: Sequence[int], gauge: Gauge, begin: Callable[[], None]
) -> Felt:
    """Run the stream once; ``begin`` is called when all are connected, right before it begins.

    Raises RuntimeError when a process does not start or fails.
    """
    processes = [_start(engine, url, load, seed) for seed in seeds]
    # A process that hangs in a lock ends with the window's bound, not with the bench's.
    killer = threading.Timer(_START_S_MAX + 3 * load.whole_s, _kill, (processes,))
    killer.start()
    felt = Felt()
    try:
        for one in processes:
            if _out(one).readline().strip() != "ready":
                raise RuntimeError("a process of the application did not start")
        begin()
        began_s = time.monotonic() + BEGIN_IN_S
        gauge.begin(began_s)
        readers = [
            threading.Thread(target=_read, args=(_out(one), felt, gauge), daemon=True)
            for one in processes
        ]
        for one, reader in zip(processes, readers, strict=True):
            assert one.stdin is not None
            one.stdin.write(f"{began_s}\n")
            one.stdin.flush()
            reader.start()
        for reader in readers:
            reader.join()
        if any(one.wait() for one in processes):
            raise RuntimeError("a process of the application failed")
    finally:
        killer.cancel()
        gauge.end()
        _kill(processes)
    return felt


def _start(engine: str, url: str, load: Load, seed: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "bench.oltp.application", engine, url),
            *(str(load.rate), str(load.whole_s), str(ACCOUNTS), str(seed)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _out(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def _read(lines: IO[str], felt: Felt, gauge: Gauge) -> None:
    """Until the process ends: a line is a transaction, the last one its processor time."""
    for line in lines:
        first, second = line.split()
        if first == CPU:
            felt.cpu_s += float(second)
        else:
            gauge.add(time.monotonic(), float(second))
            felt.done.append((float(first), float(second)))


def _kill(processes: Sequence[subprocess.Popen[str]]) -> None:
    for one in processes:
        one.kill()
        one.wait()
