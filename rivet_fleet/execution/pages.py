"""The page servo: how many rows the next statement may read, so that each stays short.

Pure arithmetic. The size follows the time the source needed for the last page, damped: at most
×1.5 up and ÷5 down at a time. While a page took less than a quarter of the target, nothing is
at risk yet and the step up may be ×8, so that a large chunk leaves the probe in a few pages; a
page that failed ends that for good (the slow start of RFC 5681), else the size would swing
between a page that is quick and the one that fails.
"""

from __future__ import annotations

from rivet_fleet.execution.source import PageLimit

PROBE_ROWS = 500
ROWS_CEILING = 1_000_000
"""No page is larger, whatever the limits say: it bounds what one answer can cost."""
BYTES_CEILING = 1024 * 1024 * 1024
STEP_UP = 1.5
STEP_UP_FAR = 8.0
STEP_DOWN = 5.0
FAR_BELOW = 4.0
_WIDTH_MEMORY = 0.7


class PageServo:
    """Follows ``target_statement_ms`` and ``batch_bytes_max``, whichever allows fewer rows.

    Zero disables the time target or the byte limit; ``rows_max`` None or 0 means no fixed limit.
    """

    def __init__(
        self,
        target_statement_ms: float,
        batch_bytes_max: int,
        rows_max: int | None = None,
        probe_rows: int = PROBE_ROWS,
    ) -> None:
        self._target_s = target_statement_ms / 1000.0
        self._bytes_max = min(batch_bytes_max or BYTES_CEILING, BYTES_CEILING)
        self._rows_ceiling = min(rows_max or ROWS_CEILING, ROWS_CEILING)
        self._row_width_bytes = 0.0
        self._step_up_far = STEP_UP_FAR
        self._rows = self._clamped(float(probe_rows))

    def limit(self) -> PageLimit:
        """What the next page may hold: at least one row, never above the limits."""
        return PageLimit(rows_max=int(self._rows), bytes_max=self._bytes_max)

    def observe(self, rows: int, bytes: int, statement_s: float) -> None:
        """Learn from a page of ``rows`` rows and ``bytes`` bytes that the source worked
        ``statement_s`` for.

        The step applies to the limit, not to the rows that came back: a sparse range may
        return few rows for the same work.
        """
        if rows > 0:
            self._learn_width(bytes / rows)
        self._rows = self._clamped(self._rows * self._step(statement_s))

    def shrink(self) -> None:
        """The statement failed before it ended: ask for much less."""
        self._step_up_far = STEP_UP
        self._rows = self._clamped(self._rows / STEP_DOWN)

    @property
    def at_minimum(self) -> bool:
        """True when the next page asks for one row: nothing smaller can be asked for."""
        return int(self._rows) <= 1

    def _step(self, statement_s: float) -> float:
        if self._target_s <= 0 or statement_s <= 0:
            return self._step_up_far
        ratio = self._target_s / statement_s
        if ratio > FAR_BELOW:
            return min(ratio, self._step_up_far)
        return min(max(ratio, 1.0 / STEP_DOWN), STEP_UP)

    def _learn_width(self, width_bytes: float) -> None:
        # Wider rows count at once, narrower ones slowly: memory is a promise.
        slow = _WIDTH_MEMORY * self._row_width_bytes + (1.0 - _WIDTH_MEMORY) * width_bytes
        self._row_width_bytes = max(width_bytes, slow)

    def _clamped(self, rows: float) -> float:
        ceiling = float(self._rows_ceiling)
        if self._row_width_bytes > 0:
            ceiling = min(ceiling, self._bytes_max / self._row_width_bytes)
        return max(1.0, min(rows, ceiling))
