"""What a chunk is read on: the look that found the source as it was planned, and whether the one
behind a chunk's pages is as good as one before the next chunk's (ADR 0018).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rivet_fleet.contracts.basis import BasisDifference, BasisFact
from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.plan import ReadPlan
from rivet_fleet.errors import (
    RivetFleetError,
    SourceError,
    SourceUnavailable,
    StatementTimeout,
    ValueTooLarge,
)
from rivet_fleet.execution.chunkreader import PagedReader, ReadingEngine
from rivet_fleet.execution.engines.session import EngineSession, verbs_are_answered
from rivet_fleet.execution.source import Page, PageLimit
from rivet_fleet.execution.types import Footing

GROUND_S_MAX = 5.0
"""So long behind a chunk's last look the next one begins on it: what only an opening sees, as a new
column, is seen within this time."""
_ITS_OWN = (SourceUnavailable, StatementTimeout, ValueTooLarge)
"""What a page fails of whatever the source is like."""
_SEVERAL = (RangeKind.KEYSET, RangeKind.SPAN, RangeKind.BLOCKS)
"""Of these a run has more chunks than one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Last:
    """What the last look found. Nothing is ``proven`` where there is none that counts."""

    proven: bool = False
    found: Any = None
    """What the opening's look gave."""
    columns: tuple[BasisFact, ...] = ()


class Ground:
    """The last look behind a chunk's pages, of one source."""

    def __init__(self, session: EngineSession[Any, Any]) -> None:
        self._session = session
        self._last = Last()
        self._shape: tuple[object, ...] = ()
        self._connection: object = None
        self._at_s = 0.0

    def under(self, read: ReadPlan, chunk_range: ChunkRange) -> Last:
        """The look that counts as one before this chunk's pages, on the connection that will read
        them. Chunks of one shape rely on the same facts and are read by the same statements."""
        stands = (
            self._last.proven
            and self._session.usable
            and self._session.connection is self._connection
            and time.monotonic() - self._at_s <= GROUND_S_MAX
            and self._shape == _shape(read, chunk_range)
        )
        return self._last if stands else Last()

    def lost(self) -> None:
        """The source is not known to be as planned any more."""
        self._last = Last()

    def stood(self, read: ReadPlan, chunk_range: ChunkRange, last: Last) -> None:
        """All is as planned behind the pages of this chunk."""
        if chunk_range.kind in _SEVERAL:
            self._last, self._shape = last, _shape(read, chunk_range)
            self._connection, self._at_s = self._session.connection, time.monotonic()


def _shape(read: ReadPlan, chunk_range: ChunkRange) -> tuple[object, ...]:
    return read, chunk_range.kind, chunk_range.columns, chunk_range.relation


@dataclass(slots=True, kw_only=True)
class ChunkGround:
    """What one chunk's reader knows of it. ``spared``: the opening's look, where none was made;
    ``steady``: whether one session of one server answers whatever a connection asks."""

    ground: Ground
    found: Any
    spared: Callable[[], object] | None
    steady: Callable[[], bool]


@verbs_are_answered
class EngineReader(PagedReader):
    """A ``ChunkReader`` over one session."""

    def __init__(
        self,
        session: EngineSession[Any, Any],
        engine: ReadingEngine,
        read: ReadPlan,
        chunk_range: ChunkRange,
        footing: Footing,
        *,
        row_bytes_max: int,
        chunk: ChunkGround,
    ) -> None:
        """Behind the opening's look, or on the one that ``chunk`` stands on."""
        self._session, self._read_plan, self._chunk = session, read, chunk
        super().__init__(engine, read, chunk_range, footing, row_bytes_max=row_bytes_max)

    def read_page(self, limit: PageLimit) -> Page:
        """The next page; see ``ChunkReader``. What cannot be read because the source is not as it
        was planned any more is told as that."""
        try:
            return super().read_page(limit)
        except RivetFleetError as error:
            self._chunk.ground.lost()
            look, self._chunk.spared = self._chunk.spared, None
            if look is not None and not isinstance(error, _ITS_OWN):
                try:
                    look()
                except SourceError:
                    raise error from None
            raise

    def prove(self) -> tuple[BasisDifference, ...]:
        """See ``ChunkReader``. The next chunk may begin on a look that found nothing changed."""
        chunk = self._chunk
        chunk.ground.lost()
        told = super().prove()
        if not told and chunk.steady():
            last = Last(proven=True, found=chunk.found, columns=self._footing.columns)
            chunk.ground.stood(self._read_plan, self._range, last)
        return told
