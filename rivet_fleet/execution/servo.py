"""The page servo: how many rows the next statement may read, so that each stays short.

Pure arithmetic. The size follows the time the source needed for the last page, damped: at most
×1.5 up and ÷5 down at a time. While a page took less than a quarter of the target, nothing is
at risk yet and the step up may be ×8, so that a large chunk leaves the probe in a few pages; a
page that failed ends that for good (the slow start of RFC 5681), else the size would swing
between a page that is quick and the one that fails.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rivet_fleet.errors import SourceUnavailable
from rivet_fleet.execution.source import PageLimit

PROBE_ROWS = 500
PAGES_AHEAD_MAX = 16
"""How many pages are asked for at once at most: what a server keeps of one message is bounded, and
so are the statements that may come back empty."""
PIECES = 4
"""A page that is handed on in pieces may hold so many times what one is: what a statement costs
beyond its rows is shared by more of them (ADR 0016)."""
ROWS_CEILING = 1_000_000
"""No page is larger, whatever the limits say: it bounds what one answer can cost."""
BYTES_CEILING = 1024 * 1024 * 1024
STEP_UP = 1.5
STEP_UP_FAR = 8.0
STEP_DOWN = 5.0
FAR_BELOW = 4.0
AIM = 0.7
"""The part of the target that pages settle at where all take about as long as expected."""
AIM_MIN = 0.25
"""The same where statements are often held up: other work at the source, a busy machine. Smaller
pages would cost more than they spare."""
_LATE_ROOM = 0.85
"""The next statement that is held up may be a little later than the latest one was."""
_LATE_FIRST = 1.7
"""How late the latest is taken to be as long as nobody has seen: with more workers than cores the
first one came after 2.7 times what was expected, and was a third too long."""
_LATE_MEMORY = 0.98
"""Of a late statement half is forgotten after 34 others."""
_PACE_MEMORY = 0.8
_ALIKE = 0.8
"""Pages are compared when the later one has at least this part of the former's rows."""
_PACE_STEP = 1.5
"""A statement that took longer than this many times what was expected counts as no more: one that
was held up says little of the others."""
LOOK = 5.0
"""The first page of a worker's next chunk has this part of the rows of its last page: the rows are
of the same table, but from elsewhere in it, and the source may have changed meanwhile."""
_WIDTH_MEMORY = 0.7
AHEAD_S = 1.0
"""Pages that are asked for at once take about as long as this together, at most: whoever wants the
source to rest, or pages to be smaller, waits so long (ADR 0031)."""
HELD_BY_WIRE = 0.625
"""A page counts at least this part of what it took on the wire, however little is held of it
(packed text, booleans): a page is cut at twice its bytes on the wire (``chunkreader``), and a cut
costs a connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What the source's protection leaves to one page: a share of the servo's own targets, and
    most rows and bytes; None is no limit."""

    share: float = 1.0
    rows_max: int | None = None
    bytes_max: int | None = None


class PageServo:
    """Follows ``target_statement_ms`` and ``batch_bytes_max``, whichever allows fewer rows.

    Zero disables the time target or the byte limit; ``rows_max`` None or 0 means no fixed limit.
    ``piecewise``: ``batch_bytes_max`` bounds a piece, and a page is at most ``PIECES`` of them.
    ``ahead``: several pages may be asked for at once.
    One is for all chunks of an export that a worker reads: ``begin_chunk`` before each.
    """

    def __init__(
        self,
        target_statement_ms: float,
        batch_bytes_max: int,
        rows_max: int | None = None,
        probe_rows: int = PROBE_ROWS,
        *,
        piecewise: bool = False,
        ahead: bool = True,
    ) -> None:
        self._target_s = target_statement_ms / 1000.0
        self._piece_bytes = min(batch_bytes_max or BYTES_CEILING, BYTES_CEILING)
        self._bytes_max = min(self._piece_bytes * (PIECES if piecewise else 1), BYTES_CEILING)
        self._piecewise, self._ahead = piecewise, ahead
        self._wire_share = 1.0
        """Bytes on the wire for each byte that a page counts, of the last page."""
        self._rows_ceiling = min(rows_max or ROWS_CEILING, ROWS_CEILING)
        self._row_width_bytes = 0.0
        self._step_up_far = STEP_UP_FAR
        self._row_s = 0.0
        """What a row of a usual page takes; 0 before there was one."""
        self._pace_rows = 0
        """How many rows the page had that told it last."""
        self._late = _LATE_FIRST
        """How many times what was expected the latest statements took."""
        self._share = 1.0
        self._held_back = False
        self._probe_rows = float(probe_rows)
        self._rows = self._clamped(self._probe_rows)

    def begin_chunk(self) -> None:
        """Another chunk of the same export: what was learnt stays, and is tried out first."""
        self._step_up_far = STEP_UP_FAR
        self._rows = self._clamped(max(self._rows / LOOK, min(self._rows, self._probe_rows)))

    def limit(self, allowance: Allowance = Allowance()) -> PageLimit:
        """What the next page may hold: at least one row, never above the limits."""
        self._follow(allowance.share)
        rows, size = int(self._rows), max(1, int(self._bytes_max * self._share))
        if allowance.rows_max is not None:
            rows = min(rows, max(1, allowance.rows_max))
        if allowance.bytes_max is not None:
            size = min(size, max(1, allowance.bytes_max))
            if self._row_width_bytes > 0:
                rows = min(rows, max(1, int(size / self._row_width_bytes)))
        self._held_back = rows < int(self._rows)
        piece_rows, piece_bytes = self._piece(rows)
        page_s = self._row_s * rows
        # What is reserved of a rate is for one page.
        rated = allowance.rows_max is not None or allowance.bytes_max is not None
        # Shrunk to almost nothing, as after errors, a page's time says nothing, and of a second's
        # worth of such pages most would be empty.
        alone = not self._ahead or rated or page_s <= 0 or rows < self._probe_rows
        return PageLimit(
            rows_max=rows,
            bytes_max=size,
            piece_rows_max=piece_rows,
            piece_bytes_max=piece_bytes,
            pages_max=1 if alone else max(1, min(PAGES_AHEAD_MAX, int(AHEAD_S / page_s))),
            page_s=page_s,
        )

    def _piece(self, page_rows: int) -> tuple[int | None, int | None]:
        """Most rows, and bytes on the wire, of a page's pieces, which are about equal; nothing
        while no row's width is known."""
        if not self._piecewise or self._row_width_bytes <= 0:
            return None, None
        pieces = max(1, math.ceil(page_rows * self._row_width_bytes / self._piece_bytes))
        return math.ceil(page_rows / pieces), math.ceil(self._piece_bytes * self._wire_share)

    def _follow(self, share: float) -> None:
        """A smaller share counts at once, a larger one as the pages prove it."""
        if share < self._share:
            self._rows = max(1.0, self._rows * share / self._share)
        self._share = share

    def observe(
        self,
        rows: int,
        bytes: int,
        statement_s: float,
        *,
        wire_bytes: int | None = None,
        asked_rows: int | None = None,
    ) -> None:
        """Learn from a page of ``rows`` rows and ``bytes`` bytes, ``wire_bytes`` of them on the
        wire (None: as many), that the source was busy with for ``statement_s``.
        ``asked_rows``: it was asked for at once with others, so many rows each at most, and its end
        was reckoned; None: as ``limit`` said last.

        The step applies to the limit, not to the rows that came back: a sparse range may
        return few rows for the same work.
        """
        if rows > 0:
            self._learn_width(bytes / rows)
            self._wire_share = (bytes if wire_bytes is None else wire_bytes) / max(bytes, 1)
        self._learn_pace(rows, statement_s)
        step = self._step(statement_s)
        # A page that was kept small by others proves nothing about a larger one.
        held_back = self._held_back or (asked_rows is not None and rows < _ALIKE * asked_rows)
        # Of pages that were asked for at once each tells of the same size: their steps do not add
        # up.
        base = self._rows if asked_rows is None else float(asked_rows)
        self._rows = self._clamped(base * (min(step, 1.0) if held_back else step))

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
        ratio = self._aim * self._target_s * self._share / statement_s
        if ratio > FAR_BELOW:
            return min(ratio, self._step_up_far)
        return min(max(ratio, 1.0 / STEP_DOWN), STEP_UP)

    @property
    def _aim(self) -> float:
        """The part of the target at which a statement as late as the latest ones still ends in
        time."""
        return max(AIM_MIN, min(AIM, _LATE_ROOM / self._late))

    def _learn_pace(self, rows: int, statement_s: float) -> None:
        # A statement of few rows is mostly its fixed cost, and no page to be afraid of.
        if rows <= 0 or statement_s * FAR_BELOW < self._target_s * self._share * AIM_MIN:
            return
        row_s, before_s = statement_s / rows, self._row_s
        if before_s <= 0 or rows < _ALIKE * self._pace_rows:
            # A smaller page spends more of its time on what a statement costs without its rows.
            self._row_s = row_s
        else:
            late = min(row_s / before_s, 1.0 / AIM_MIN)
            self._late = max(late, 1.0 + _LATE_MEMORY * (self._late - 1.0))
            row_s = min(row_s, before_s * _PACE_STEP)
            self._row_s = _PACE_MEMORY * before_s + (1.0 - _PACE_MEMORY) * row_s
        self._pace_rows = rows

    def _learn_width(self, width_bytes: float) -> None:
        # Wider rows count at once, narrower ones slowly: memory is a promise.
        slow = _WIDTH_MEMORY * self._row_width_bytes + (1.0 - _WIDTH_MEMORY) * width_bytes
        self._row_width_bytes = max(width_bytes, slow)

    def _clamped(self, rows: float) -> float:
        ceiling = self._rows_ceiling * self._share
        if self._row_width_bytes > 0:
            ceiling = min(ceiling, self._bytes_max * self._share / self._row_width_bytes)
        return max(1.0, min(rows, ceiling))


# ------------------------------------------------------------------------------------------
# When a statement whose rows still come should long have ended. Pure.
#
# A server that was given a limit ends the statement itself, its rows included. One that goes on
# sends a little now and then for ever: bytes that move, and no end.

_LOOKS_MAX = 64


class Overdue:
    """The limit of one statement. ``limit_s``: the server's own and some grace; 0: none."""

    def __init__(self, identity: str, limit_s: float) -> None:
        self._identity, self._limit_s = identity, limit_s
        self._looks_left = _LOOKS_MAX

    def check(self, spent_s: float) -> None:
        """``spent_s``: how long this statement was received for, the time that its rows waited
        for us not counted. Raises SourceUnavailable.

        This process may have been stopped meanwhile: what is there already is still looked at.
        """
        if not self._limit_s or spent_s <= self._limit_s:
            return
        self._looks_left -= 1
        if self._looks_left < 0 or spent_s > 2.0 * self._limit_s:
            raise SourceUnavailable(
                f"{self._identity}: the server sends rows for {spent_s:.0f} s and brings the "
                f"statement to no end, though it may take {self._limit_s:.0f} s",
                hint="something between holds its answers up, or it is no honest server; "
                "`statement_timeout_s` is the limit",
            )
