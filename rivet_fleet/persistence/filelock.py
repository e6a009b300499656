"""One writer at a time for a SQLite state: an ``flock`` on a side file, with a bounded wait.

SQLite's own busy handler is unfair and gives up with ``database is locked`` under a fleet's
load. Waiting in front of the database instead keeps that message from ever surfacing (F7).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from rivet_fleet.errors import StateUnavailable

_SLEEP_MIN_S = 0.0002
_SLEEP_MAX_S = 0.004


class FileLock:
    """An exclusive lock over processes and over this process's threads."""

    def __init__(self, path: Path, *, wait_max_s: float = 60.0) -> None:
        """``path`` is created when missing. Raises OSError when it cannot be opened."""
        self._path = path
        self._wait_max_s = wait_max_s
        # flock belongs to the open file, which this process's threads share.
        self._threads = threading.Lock()
        self._fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock within the block. Raises StateUnavailable after the bounded wait."""
        deadline_s = time.monotonic() + self._wait_max_s
        if not self._threads.acquire(timeout=self._wait_max_s):
            raise self._busy()
        try:
            self._acquire(deadline_s)
            try:
                yield
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
        finally:
            self._threads.release()

    def close(self) -> None:
        """Close the side file; the file itself stays (removing it would race)."""
        os.close(self._fd)

    def _acquire(self, deadline_s: float) -> None:
        sleep_s = _SLEEP_MIN_S
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline_s:
                    raise self._busy() from None
            # Chance keeps waiters out of step; a short ceiling keeps the lock from idling.
            time.sleep(sleep_s * (0.5 + random.random()))
            sleep_s = min(sleep_s * 1.5, _SLEEP_MAX_S)

    def _busy(self) -> StateUnavailable:
        pid = holder_pid(self._path)
        held = f"a stopped process may hold {self._path}" if pid is None else _told(pid, self._path)
        return StateUnavailable(
            f"the SQLite state was held by another process for {self._wait_max_s:.0f} s",
            hint=f"{held}; use PostgreSQL for many workers",
            code="RIVET_STATE_BUSY",
        )


def holder_pid(path: Path) -> int | None:
    """Who holds the lock on ``path`` now, as the kernel tells it (proc_locks(5)).

    None when nobody does, or where the kernel has no such list.
    """
    try:
        listed = Path("/proc/locks").read_text()
        inode = str(path.stat().st_ino)
    except OSError:
        return None
    for line in listed.splitlines():
        # 1: FLOCK  ADVISORY  WRITE 4711 fe:00:131102 0 EOF; one that waits has "->" second.
        fields = line.split()
        if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == inode:
            return int(fields[4])
    return None


def _told(pid: int, path: Path) -> str:
    try:
        stopped = psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        stopped = False
    if stopped:
        return f"process {pid}, which is stopped (kill -CONT {pid} wakes it), holds {path}"
    return f"process {pid} holds {path}"
