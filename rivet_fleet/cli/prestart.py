"""A worker process that is there before there is work for it.

Importing the libraries takes a process about half a second of CPU, planning a campaign as long
again. ``run`` and ``resume`` therefore fork as soon as everything is imported that a worker needs:
the child shares it, and gets its command line, environment and log file over a pipe when the
campaign is stored. Should the child die, or have nothing to hand over, the pipe's end sends the
other one home. It has touched nothing until then.

Forking is safe here and not later: there is one thread, no connection, no open file (fork(2)).
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from rivet_fleet.cli.lean import import_lean

PROGRAM = (sys.executable, "-m", "rivet_fleet")
"""How a supervisor starts a worker that was not started ahead."""
PROCESS_NAME = "rivet-worker"
"""What ``ps -o comm`` and ``top`` show of it: its command line is that of the coordinator."""
_DISMISS_TIMEOUT_S = 30.0
_STARTS = sys.platform == "linux"
"""Elsewhere a fork without an exec is not safe for the system's own libraries."""


class Forked:
    """A forked process as a supervisor sees one (``coordination.supervisor.WorkerProcess``)."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        return self._wait(os.WNOHANG)

    def wait(self, timeout_s: float | None = None) -> int | None:
        """The same, after its end; None when it still runs after ``timeout_s``."""
        if timeout_s is None:
            return self._wait(0)
        if self.poll() is None:
            try:
                told = os.pidfd_open(self.pid)
            except OSError:
                return self.poll()  # a kernel before 5.3
            try:
                select.select([told], [], [], timeout_s)
            finally:
                os.close(told)
        return self.poll()

    def send_signal(self, number: int) -> None:
        """Nothing happens when it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            ended_pid, status = os.waitpid(self.pid, options)
            if ended_pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


class Prestarted:
    """The process that waits. A ``ReadyWorker`` of the supervisor."""

    def __init__(self) -> None:
        """Raises OSError when no process can be started."""
        orders_fd, own_fd = os.pipe()
        # What is shared stays shared: a collection would touch every object and copy its page.
        gc.freeze()
        pid = os.fork()
        if pid == 0:
            _become_worker(orders_fd)
        os.close(orders_fd)
        # An object and no number: a number closed twice may be another file's by then.
        self._orders = os.fdopen(own_fd, "wb")
        self._process = Forked(pid)

    def hand_over(
        self, arguments: Sequence[str], environment: Mapping[str, str], log_path: Path
    ) -> Forked | None:
        """Let it become the worker of this command; None when it is gone, or cannot be."""
        if tuple(arguments[: len(PROGRAM)]) != PROGRAM or self._process.poll() is not None:
            self.dismiss()
            return None
        orders = {
            "arguments": list(arguments[len(PROGRAM) :]),
            "environment": dict(environment),
            "log": str(log_path.absolute()),
        }
        try:
            with self._orders:
                self._orders.write(json.dumps(orders).encode() + b"\n")
        except OSError:
            self.dismiss()
            return None
        return self._process

    def dismiss(self) -> None:
        """Send it home. Never raises."""
        try:
            self._orders.close()
        except OSError:
            pass  # it is gone already
        if self._process.wait(_DISMISS_TIMEOUT_S) is None:
            self._process.kill()
            self._process.wait()


_waiting: list[Prestarted] = []


def begin() -> None:
    """Start the process, if the system lets us: without it everything works, a little later."""
    if not _STARTS:
        return
    gc.disable()  # importing makes what lives as long as the process
    import_lean()
    importlib.import_module("rivet_fleet.cli.worker")
    try:
        _waiting.append(Prestarted())
    except OSError:
        pass  # the supervisor will say why no process can be started


def take() -> tuple[Prestarted, ...]:
    """What was begun, once: the caller hands it over or dismisses it."""
    taken = tuple(_waiting)
    _waiting.clear()
    return taken


def _become_worker(orders_fd: int) -> NoReturn:
    """The child: wait, and become the worker, or go home. Nothing of the parent's stack is
    returned to, whatever happens."""
    code = 1
    try:
        # An own group: Ctrl-C on the terminal reaches the coordinator alone.
        os.setpgid(0, 0)
        _name_process()
        null_fd = os.open(os.devnull, os.O_RDWR)
        for target in (0, 1, 2):
            os.dup2(orders_fd if target == 0 else null_fd, target)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        with os.fdopen(0, "rb", closefd=False) as pipe:
            line = pipe.readline()
        code = _work(json.loads(line)) if line.endswith(b"\n") else 0
    finally:
        os._exit(code)


def _work(orders: Mapping[str, object]) -> int:
    arguments, environment = orders["arguments"], orders["environment"]
    assert isinstance(arguments, list) and isinstance(environment, dict)
    os.environ.clear()
    os.environ.update(environment)
    log = os.open(str(orders["log"]), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    null_fd = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null_fd, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(log)
    os.close(null_fd)
    sys.argv = ["rivet-fleet", *arguments]
    gc.enable()
    importlib.import_module("rivet_fleet.cli.main").main()
    return 0


def _name_process() -> None:
    try:
        Path("/proc/self/comm").write_text(PROCESS_NAME)
    except OSError:
        pass  # a name is a courtesy
