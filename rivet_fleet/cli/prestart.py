"""A worker process that has imported everything and waits for its orders.

Starting an interpreter and importing the libraries takes a worker about half a second, planning
a campaign another half. ``run`` and ``resume`` let both happen at the same time: the process is
started before anything else and gets its command line, environment and log file over a pipe when
the campaign is stored. Should this process die, or have nothing to hand over, the pipe's end
sends the other one home. It has touched nothing until then.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path

from rivet_fleet.cli.lean import import_lean

PROGRAM = (sys.executable, "-m", "rivet_fleet")
"""How a supervisor starts a worker that was not started ahead."""
_DISMISS_TIMEOUT_S = 30.0
"""For the start of an interpreter on a machine that has no time for it; nothing else is left to
wait for, see ``_Homeward``."""


class Prestarted:
    """The process that waits. A ``ReadyWorker`` of the supervisor."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            # The last word is for people who look at the list of processes.
            [sys.executable, "-m", "rivet_fleet.cli.prestart", "worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )

    def hand_over(
        self, arguments: Sequence[str], environment: Mapping[str, str], log_path: Path
    ) -> subprocess.Popen[bytes] | None:
        """Let it become the worker of this command; None when it is gone, or cannot be."""
        if tuple(arguments[: len(PROGRAM)]) != PROGRAM or self._process.poll() is not None:
            self.dismiss()
            return None
        orders = {
            "arguments": list(arguments[len(PROGRAM) :]),
            "environment": dict(environment),
            "log": str(log_path.absolute()),
        }
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(orders).encode() + b"\n")
            self._process.stdin.close()
        except OSError:
            self.dismiss()
            return None
        return self._process

    def dismiss(self) -> None:
        """Send it home. Never raises."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except OSError:
            pass  # it is gone already
        try:
            self._process.wait(_DISMISS_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


_waiting: list[Prestarted] = []


def begin() -> None:
    """Start the process, if the system lets us: without it everything works, a little later."""
    try:
        _waiting.append(Prestarted())
    except OSError:
        pass  # the supervisor will say why no process can be started


def take() -> tuple[Prestarted, ...]:
    """What was begun, once: the caller hands it over or dismisses it."""
    taken = tuple(_waiting)
    _waiting.clear()
    return taken


class _Homeward(MetaPathFinder):
    """Finds no module: before each import it looks whether anybody can still give orders.

    The imports take seconds of a loaded machine, and whoever dismisses the process waits for its
    end. Between two imports nothing is half written, no compiled module in a cache either.
    """

    def __init__(self) -> None:
        self._orders = select.poll()
        self._orders.register(sys.stdin.fileno(), select.POLLIN)

    def find_spec(self, fullname: object, path: object, target: object = None) -> None:
        """Raises SystemExit when the pipe has ended without orders in it."""
        for _, seen in self._orders.poll(0):
            if seen & select.POLLHUP and not seen & select.POLLIN:
                raise SystemExit(0)


def await_orders() -> None:
    """The other process: import, wait, and become the worker."""
    homeward = _Homeward()
    sys.meta_path.insert(0, homeward)
    import_lean()
    importlib.import_module("rivet_fleet.cli.worker")
    sys.meta_path.remove(homeward)
    line = sys.stdin.readline()
    if not line:
        return
    orders = json.loads(line)
    os.environ.clear()
    os.environ.update(orders["environment"])
    log = os.open(orders["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(log)
    os.close(null)
    sys.argv = ["rivet-fleet", *orders["arguments"]]
    importlib.import_module("rivet_fleet.cli.main").main()


if __name__ == "__main__":
    await_orders()
