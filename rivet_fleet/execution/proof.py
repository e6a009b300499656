"""Asking the server whether a page held what it counts between the page's own bounds (ADR 0019).

Pages are a partition when each holds exactly the rows above the mark it began behind and not above
the mark that the next one begins behind, compared by the server with the very comparisons that
pages use. That is asked in the page's own snapshot, so that no change by others can matter; a mark
that does not rise counts nothing, and is found by the same question.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.proof import PROOF_PAGE, Prove
from rivet_fleet.contracts.window import RowWindow
from rivet_fleet.errors import ConfigError, DataIntegrityError, SourceError
from rivet_fleet.execution.paging import KeyDialect, Select, whole_select, windowed

COUNT = "count(*)"
SHARE = 0.01
"""Of the time that pages take, sampled proofs may take as much again."""
_HELD_S = 0.002
"""What a page costs that was held for a question which its end made idle."""
_PATIENCE_S = 0.5
"""A sampled count that takes longer, and twice what its page took, is given up."""


class PageProofs:
    """What one worker has asked about the pages of one run, and whether it asks about the next.

    ``sampled`` asks about the first page, and then whenever all proofs together took less than
    ``SHARE`` of what the pages took: about every tenth page where an index serves the count.
    """

    def __init__(self, prove: Prove, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._prove, self._clock = prove, clock
        self._spent_s = self._read_s = 0.0
        self.proven = 0
        self.unproven = 0
        """Pages whose count was not answered in time, or means nothing."""
        self._idle = 0

    def due(self) -> bool:
        """Whether the next page is asked about."""
        if self._prove is Prove.SAMPLED:
            untried = not self.proven + self.unproven + self._idle
            return untried or self._spent_s < SHARE * self._read_s
        return self._prove is Prove.ALL

    @property
    def thorough(self) -> bool:
        """Every page is asked about: one whose count fails is read again."""
        return self._prove is Prove.ALL

    def read(self, statement_s: float) -> None:
        """A page took so long."""
        self._read_s += statement_s

    def wants(self, *, last: bool) -> bool:
        """Whether a page that is held is asked about, now that its end is known. The end of a
        chunk has no mark that could be wrong: it is worth a question only where all are."""
        if last and not self.thorough:
            self._idle += 1
            self._spent_s += _HELD_S
            return False
        return True

    def ask(
        self,
        count: Callable[[Select, float], int],
        select: Select,
        *,
        rows: int,
        page_s: float,
        timeout_s: float,
        what: str,
        trusted: Callable[[], bool],
    ) -> None:
        """Count, and compare. ``timeout_s`` is the statement limit (0: none), ``what`` names the
        page; ``trusted`` says whether the count saw the rows that the page saw, and is asked only
        when they differ. Raises DataIntegrityError, and SourceError where every page is to be
        proven."""
        if not self.thorough:
            patience_s = max(_PATIENCE_S, 2.0 * page_s)
            timeout_s = min(timeout_s, patience_s) if timeout_s > 0 else patience_s
        began_s = self._clock()
        try:
            # Without the page's own limit: a row too many between its bounds is to be counted, too.
            counted = count(replace(select, columns=COUNT, order_by=None, limit=None), timeout_s)
        except SourceError:
            self.unproven += 1
            if self.thorough:
                raise
            return
        finally:
            # Also of a count that failed: what questions cost is bounded, not what they answer.
            self._spent_s += self._clock() - began_s
        if counted != rows and not trusted():
            self.unproven += 1
            return
        self.proven += 1
        if counted != rows:
            raise DataIntegrityError(
                f"{what}: the page holds {rows:,} rows, but the server counts {counted:,} between "
                "its bounds: it compares this key otherwise than it orders it, so that rows would "
                "be lost or doubled",
                hint="nothing of this run is delivered; cut the export by another key "
                "(chunk_by_key), or read it with mode: full and no key",
                code=PROOF_PAGE,
            )


def count_select(
    dialect: KeyDialect, source: str, chunk_range: ChunkRange, window: RowWindow | None
) -> str:
    """The statement that counts the rows of a range, within a run's window. Raises ConfigError for
    a range of blocks: what others write there meanwhile moves rows out of it and into it."""
    if chunk_range.kind is RangeKind.BLOCKS:
        raise ConfigError("the rows of a range of blocks are not counted")
    select = whole_select(dialect, COUNT, source, chunk_range)
    return windowed(select, dialect, window, ChunkRange(kind=RangeKind.WHOLE)).sql()
