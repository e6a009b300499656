"""Ends network waits that no timeout of the driver would end.

A half-open path whose near end still acknowledges bytes (a stuck proxy, a frozen server) defeats
TCP keepalives and TCP_USER_TIMEOUT. A heartbeat must not hang behind it (F6), so one daemon
thread per store shuts the socket down when a statement is overdue; the driver then reports a
lost connection like any other.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
from psycopg.abc import RV, PQGen


class Watchdog:
    """Deadlines for sockets, watched by one thread that starts with the first deadline."""

    def __init__(self, *, tick_s: float = 0.5) -> None:
        self._tick_s = tick_s
        self._lock = threading.Lock()
        self._watched: dict[int, tuple[int, float]] = {}
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    @contextlib.contextmanager
    def limit(self, fileno: int, seconds: float) -> Iterator[None]:
        """Shut the socket down if the block takes longer. The fd must stay open within it."""
        number = next(self._numbers)
        with self._lock:
            self._watched[number] = (fileno, time.monotonic() + seconds)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="state-watchdog")
                self._thread.daemon = True
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._watched.pop(number, None)

    def close(self) -> None:
        """Stop the thread."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(self._tick_s):
            self._end_overdue(time.monotonic())

    def _end_overdue(self, now_s: float) -> None:
        # Under the lock: an entry that is still there belongs to a statement in progress, so
        # its file descriptor cannot have been closed and reused.
        with self._lock:
            for number, (fileno, deadline_s) in list(self._watched.items()):
                if now_s >= deadline_s:
                    del self._watched[number]
                    _shutdown(fileno)


class LimitedConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection whose every wait for the network happens within ``limit``."""

    limit: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """As psycopg's."""
        with self.limit():
            return super().wait(gen, interval, timeout)


def _shutdown(fileno: int) -> None:
    try:
        with socket.socket(fileno=os.dup(fileno)) as duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # already gone: the waiting statement is about to notice by itself
