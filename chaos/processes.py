"""Real processes of the fleet: started here, watched here, and only these are ever killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil

from rivet_fleet.cli.nursery import NURSERY_NAME, PROCESS_NAME
from tests import warm

T = TypeVar("T")

_POLL_S = 0.02
_ENVIRONMENT = dict(os.environ)
"""Copied while there is one thread: later ones would meet the changes that pytest makes."""


class ChaosTimeout(AssertionError):
    """Something that had to happen did not, within its bound."""


def until(condition: Callable[[], T | None], *, what: str, deadline_s: float = 30.0) -> T:
    """Wait until ``condition`` is truthy and return its value. Raises ChaosTimeout."""
    end_s = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end_s:
            raise ChaosTimeout(f"not within {deadline_s:.0f} s: {what}")
        time.sleep(_POLL_S)


@dataclass(slots=True, kw_only=True)
class Coordinator:
    """A started ``rivet-fleet run`` (or ``resume``) and the worker processes below it."""

    process: subprocess.Popen[bytes]
    config: Path
    log: Path
    started_at_s: float = field(default_factory=time.monotonic)

    @property
    def pid(self) -> int:
        """Of the coordinator itself."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """True while it runs."""
        return self.process.poll() is None

    def workers(self) -> list[psutil.Process]:
        """Its worker processes that run now."""
        try:
            children = psutil.Process(self.pid).children()
        except psutil.NoSuchProcess:
            return []
        return [child for child in children if _is_worker(child, self.config)]

    def nursery(self) -> psutil.Process | None:
        """The process that forks its workers, if there is one now."""
        try:
            children = psutil.Process(self.pid).children()
        except psutil.NoSuchProcess:
            return None
        return next((child for child in children if _is_nursery(child, self.config)), None)

    def signal(self, number: signal.Signals) -> None:
        """To the coordinator alone; nothing when it has ended already."""
        if self.alive:
            self.process.send_signal(number)

    def wait(self, deadline_s: float) -> int:
        """Its exit code. Raises ChaosTimeout."""
        try:
            return self.process.wait(timeout=deadline_s)
        except subprocess.TimeoutExpired:
            raise ChaosTimeout(f"the coordinator did not end within {deadline_s:.0f} s") from None


def start_coordinator(
    config: Path,
    log: Path,
    *,
    arguments: list[str],
    environment: dict[str, str],
) -> Coordinator:
    """Start ``rivet-fleet`` with ``arguments`` in the folder of ``config``, which tells whose each
    process below it is; its output goes to ``log``."""
    with log.open("ab") as output:
        output.write(f"--- {' '.join(arguments)} {environment}\n".encode())
        output.flush()
        process = warm.start(
            "rivet_fleet",
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**_ENVIRONMENT, **environment},
            cwd=config.parent,
            # Ctrl-C on the test's terminal is the test's business; but when the test itself is
            # killed, nothing may go on.
            start_new_session=True,
            die_with_us=True,
        )
    return Coordinator(process=process, config=config, log=log)


def workers_of(config: Path) -> list[psutil.Process]:
    """Every worker process of this configuration, orphans, those that still wait for their
    orders and their nursery included: the path is unique."""
    return [
        process
        for process in psutil.process_iter()
        if _is_worker(process, config) or _is_nursery(process, config)
    ]


def kill(process: psutil.Process, number: signal.Signals = signal.SIGKILL) -> bool:
    """Signal one process by its id and start time. False when it is gone already."""
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return False
    return True


def is_stopped(process: psutil.Process) -> bool:
    """True when it is paused by SIGSTOP."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return str(process.status()) == str(psutil.STATUS_STOPPED)
    return False


def _is_worker(process: psutil.Process, config: Path) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        arguments = process.cmdline()
        if process.name() == PROCESS_NAME:  # its command line is its coordinator's
            return process.cwd() == str(config.parent)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    return "worker" in arguments and str(config) in arguments


def _is_nursery(process: psutil.Process, config: Path) -> bool:
    try:
        if process.name() != NURSERY_NAME or process.status() == psutil.STATUS_ZOMBIE:
            return False
        return process.cwd() == str(config.parent)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
