"""Waiting out a state database that is away: the protocol makes every call repeatable."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from rivet_fleet.contracts.clock import Clock
from rivet_fleet.contracts.events import Emit, Event, EventName
from rivet_fleet.contracts.retry import backoff_s
from rivet_fleet.coordination.stop import StopFlag
from rivet_fleet.errors import StateUnavailable

T = TypeVar("T")

_BASE_S = 0.1
_WAIT_MAX_S = 5.0


class Patience:
    """Repeats calls to the state database while it is away.

    Not a retry library: the wait must end when we are told to stop, and while draining the
    result of finished work must still be written for as long as the grace period lasts.
    """

    def __init__(self, clock: Clock, stop: StopFlag, emit: Emit, *, limit_s: float) -> None:
        """``limit_s``: after this long without an answer the error is the caller's."""
        self._clock = clock
        self._stop = stop
        self._emit = emit
        self._limit_s = limit_s

    def call(self, what: str, action: Callable[[], T]) -> T:
        """The result of ``action``. Raises StateUnavailable after ``limit_s``, or when the
        grace period of a stop ends first. Every other error passes at once."""
        started_s = self._clock.monotonic_s()
        attempt = 0
        while True:
            try:
                return action()
            except StateUnavailable as error:
                attempt += 1
                away_s = self._clock.monotonic_s() - started_s
                if away_s > self._limit_s or self._stop.grace_over:
                    raise
                self._tell(what, error, attempt)
                wait_s = min(backoff_s(attempt=attempt, base_s=_BASE_S), _WAIT_MAX_S)
                if self._stop.wait(wait_s):
                    self._pause_while_draining(wait_s)

    def _tell(self, what: str, error: StateUnavailable, attempt: int) -> None:
        if attempt in (1, 5, 20) or attempt % 50 == 0:
            self._emit(
                Event(
                    name=EventName.STATE_RETRIED,
                    message=f"{what}: the state database is away, trying again",
                    data={"attempt": attempt, "error": error.message},
                )
            )

    def _pause_while_draining(self, wait_s: float) -> None:
        """The stop pipe is readable for good now, so ``wait`` returns at once: sleep instead."""
        deadline_s = self._clock.monotonic_s() + min(wait_s, 0.5)
        while self._clock.monotonic_s() < deadline_s and not self._stop.grace_over:
            time.sleep(0.05)
