"""Time and chance as arguments, and how long to wait: nothing below the CLI asks the machine."""

from __future__ import annotations

import select
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """Wall time for names and reports, monotonic time for durations. Never for ownership (F3)."""

    def now_s(self) -> float:
        """Seconds since the epoch, UTC."""
        ...

    def monotonic_s(self) -> float:
        """Seconds on a clock that never goes back."""
        ...


@dataclass(frozen=True, slots=True)
class SystemClock:
    """The machine's clocks."""

    def now_s(self) -> float:
        """Seconds since the epoch, UTC."""
        return time.time()

    def monotonic_s(self) -> float:
        """Seconds on a clock that never goes back."""
        return time.monotonic()


def wait_readable(fds: Iterable[int], seconds: float) -> None:
    """Sleep until one of these descriptors can be read, at most so long."""
    waiter = select.poll()  # `select` knows no descriptor above 1023
    for fd in fds:
        waiter.register(fd, select.POLLIN)
    waiter.poll(seconds * 1000.0)


# ------------------------------------------------------------------------------------------
# How long to wait before the next try: pure arithmetic, chance comes in as an argument.

BACKOFF_MAX_S = 60.0


def backoff_s(*, attempt: int, base_s: float, extra_s: float = 0.0, jitter: float = 0.0) -> float:
    """base × 2^(attempt−1), at most 60 s, plus the error class's own extra (Rivet: Retries).

    ``attempt`` counts from 1; ``jitter`` in [0, 1) shortens the wait by up to a quarter so that
    a fleet does not come back in step.
    """
    exponent = min(max(attempt, 1) - 1, 16)
    wait_s = min(base_s * float(2**exponent), BACKOFF_MAX_S)
    return wait_s * (1.0 - 0.25 * jitter) + extra_s


RETRIES_SAVED_MAX = 30.0
"""How many retries of a source a fleet may have at once, after a while without any."""
RETRY_EVERY_S = 1.0
REREAD_BYTES_PER_RETRY = 64 * 1024 * 1024
"""So many bytes that are read again count as one more retry."""
ANSWER_BYTES_FREE = 1024 * 1024
"""So much of one answer that is not rows belongs to its try, and is counted nowhere."""
RETRY_WAIT_MAX_S = 600.0
"""Nobody waits longer, whatever happened to the state's clock, or however many ask."""


def retry_cost_s(lost_bytes: float) -> float:
    """What one retry takes of the fleet's budget for a source. ``lost_bytes``: received of what
    failed, hence to be read again."""
    return RETRY_EVERY_S * (1.0 + max(0.0, lost_bytes) / REREAD_BYTES_PER_RETRY)


def vain_bytes(answer_bytes: int) -> int:
    """What counts of a failed answer that was not rows: nothing of an ordinary one."""
    return answer_bytes if answer_bytes > ANSWER_BYTES_FREE else 0
