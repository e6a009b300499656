"""Two-stage stopping: the first signal drains, the second ends at once."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from types import FrameType

from rivet_fleet.contracts.clock import Clock
from rivet_fleet.errors import StopRequested

SIGNALS = (signal.SIGTERM, signal.SIGINT)
PARENT_DEATH_SIGNAL = signal.SIGHUP


class StopFlag:
    """Remembers that we were told to stop, and for how long we may go on.

    A pipe instead of a ``threading.Event``: a signal handler that runs while the main thread
    holds the event's own lock would wait for itself.
    """

    def __init__(self, clock: Clock, *, grace_s: float) -> None:
        """``grace_s``: how long after the first request the current chunk may still run."""
        self._clock = clock
        self._grace_s = grace_s
        self._requested_at_s: float | None = None
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._write_fd, False)

    def request(self) -> None:
        """Stop claiming now; stop reading when the grace period is over."""
        if self._requested_at_s is None:
            self._requested_at_s = self._clock.monotonic_s()
            os.write(self._write_fd, b"!")

    @property
    def requested(self) -> bool:
        """True after the first request."""
        return self._requested_at_s is not None

    @property
    def grace_over(self) -> bool:
        """True when the current chunk must stop at its next page boundary."""
        if self._requested_at_s is None:
            return False
        return self._clock.monotonic_s() - self._requested_at_s >= self._grace_s

    def wait(self, seconds: float) -> bool:
        """Sleep, but not past a request. True when stopping was requested."""
        if not self.requested and seconds > 0:
            select.select([self._read_fd], [], [], seconds)
        return self.requested

    def check(self) -> None:
        """Raise StopRequested when the current chunk must give up now."""
        if self.grace_over:
            raise StopRequested("stopped at a page boundary; the chunk goes back to the queue")


def install(
    flag: StopFlag,
    *,
    on_first: Callable[[], None] = lambda: None,
    on_second: Callable[[], None] = lambda: None,
) -> None:
    """Let SIGTERM and SIGINT request a stop; the second one calls ``on_second`` and exits.

    ``on_first`` runs inside the handler, too: it must not wait for anything, because the main
    thread may be waiting for the state database at this moment.
    """

    def handle(number: int, _frame: FrameType | None) -> None:
        if flag.requested:
            on_second()
            os._exit(128 + number)
        flag.request()
        on_first()

    for number in SIGNALS:
        signal.signal(number, handle)


def stop_with_parent(flag: StopFlag) -> None:
    """Drain when the parent is gone, however often the kernel says so.

    A signal of its own: the kernel repeats the parent-death signal for every thread of a dying
    parent (prctl(2), PR_SET_PDEATHSIG), and a second SIGTERM means "at once".
    """
    signal.signal(PARENT_DEATH_SIGNAL, lambda _number, _frame: flag.request())
