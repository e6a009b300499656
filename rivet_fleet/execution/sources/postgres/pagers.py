"""How a chunk is cut into pages: pure state machines, one per kind of range.

``select`` says what the next page reads and changes nothing; ``accept`` takes what arrived and
moves on. A page that failed is simply selected again: no row is seen twice, none is skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from rivet_fleet.contracts.keys import ChunkRange, KeyTuple, RangeKind
from rivet_fleet.execution.source import PageLimit
from rivet_fleet.execution.sources.postgres.statements import (
    KEY_WALK,
    TID_WALK,
    Select,
    block_range,
    column_ref,
    key_list,
    row_comparison,
    span_comparison,
)

KeysOfRow = Callable[[pa.RecordBatch, int], KeyTuple]
"""The key values of one row of a batch, each as the server's text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """Which of the arrived rows belong to the page, and whether it was the last one."""

    rows: int
    last: bool


class Pager(Protocol):
    """Cuts one chunk into statements."""

    @property
    def nudges(self) -> tuple[tuple[str, str], ...]:
        """Planner settings of the pages' transactions."""
        ...

    @property
    def cuttable(self) -> bool:
        """True when a page may be cut short after any row and continued behind it."""
        ...

    def select(self, limit: PageLimit) -> Select:
        """The next page's statement."""
        ...

    def accept(self, batch: pa.RecordBatch, wire_bytes: int, *, cut: bool) -> Accepted:
        """What arrived for the statement last selected."""
        ...


class KeysetPager:
    """Pages of a unique key: ``(k…) > last ORDER BY k… LIMIT n``."""

    cuttable = True

    def __init__(
        self,
        columns: str,
        source: str,
        chunk_range: ChunkRange,
        keys_of_row: KeysOfRow,
        *,
        index_walk: bool,
    ) -> None:
        self.nudges = KEY_WALK if index_walk else ()
        self._columns, self._source, self._range = columns, source, chunk_range
        self._keys_of_row = keys_of_row
        self._from: tuple[str, KeyTuple] | None = (
            None if chunk_range.lower is None else (">=", chunk_range.lower)
        )
        self._asked = 0

    def _where(self) -> tuple[str, ...]:
        keys, upper = self._range.columns, self._range.upper
        where = () if self._from is None else (row_comparison(keys, *self._from),)
        return where if upper is None else (*where, row_comparison(keys, "<", upper))

    def select(self, limit: PageLimit) -> Select:
        """The next ``rows_max`` rows of the key's order."""
        self._asked = max(1, limit.rows_max)
        return Select(
            columns=self._columns,
            source=self._source,
            where=self._where(),
            order_by=key_list(self._range.columns),
            limit=self._asked,
        )

    def accept(self, batch: pa.RecordBatch, wire_bytes: int, *, cut: bool) -> Accepted:
        """Go on behind the last row; fewer rows than asked for were the last ones."""
        rows = batch.num_rows
        if rows:
            self._from = (">", self._keys_of_row(batch, rows - 1))
        return Accepted(rows=rows, last=rows < self._asked and not cut)


class SpanPager:
    """Pages of a column that may repeat: a page never ends inside a run of equal values.

    A page asks for one row more than it may hold. When all of them arrive, the rows of the
    last value may be incomplete: they are left to the next page, which begins at that value.
    The width of a sub-span thus follows the density exactly, and gaps cost nothing. A single
    value with more rows than a page is read in one statement.
    """

    def __init__(
        self, columns: str, source: str, chunk_range: ChunkRange, keys_of_row: KeysOfRow
    ) -> None:
        self.nudges = KEY_WALK
        self._columns, self._source, self._range = columns, source, chunk_range
        self._keys_of_row = keys_of_row
        (self._column,) = chunk_range.columns
        self._from = ">=", chunk_range.lower
        self._heavy: KeyTuple | None = None
        self._asked = 0

    @property
    def cuttable(self) -> bool:
        """A run of equal values has no order to continue in."""
        return self._heavy is None

    def select(self, limit: PageLimit) -> Select:
        """The next sub-span, or all rows of one over-full value."""
        if self._heavy is not None:
            where: tuple[str, ...] = (span_comparison(self._column, "=", *self._heavy),)
            return Select(columns=self._columns, source=self._source, where=where)
        operator, value = self._from
        where = (f"{column_ref(self._column)} IS NOT NULL",)
        if value is not None:
            where = (span_comparison(self._column, operator, *value),)
        if self._range.upper is not None:
            where = (*where, span_comparison(self._column, "<", *self._range.upper))
        self._asked = max(1, limit.rows_max) + 1
        return Select(
            columns=self._columns,
            source=self._source,
            where=where,
            order_by=column_ref(self._column),
            limit=self._asked,
        )

    def accept(self, batch: pa.RecordBatch, wire_bytes: int, *, cut: bool) -> Accepted:
        """Keep whole values only; remember where the next page begins."""
        rows = batch.num_rows
        if self._heavy is not None:
            self._from, self._heavy = (">", self._heavy), None
            return Accepted(rows=rows, last=False)
        if rows < self._asked and not cut:
            return Accepted(rows=rows, last=True)
        if rows == 0:
            return Accepted(rows=0, last=False)
        tail = self._keys_of_row(batch, rows - 1)
        kept = self._first_row_of(batch, tail)
        if kept == 0:
            self._heavy = tail
        else:
            self._from = ">=", tail
        return Accepted(rows=kept, last=False)

    def _first_row_of(self, batch: pa.RecordBatch, tail: KeyTuple) -> int:
        """The first row of the run of equal values at the end, by bisection."""
        low, high = 0, batch.num_rows - 1
        while low < high:
            middle = (low + high) // 2
            if self._keys_of_row(batch, middle) == tail:
                high = middle
            else:
                low = middle + 1
        return low


class BlockPager:
    """Pages of heap blocks; how many blocks a page takes follows the rows and bytes per block."""

    cuttable = False
    nudges = TID_WALK
    _GROWTH_MAX = 4
    _ROWS_PER_BLOCK_MAX = 226
    """No heap block of 8 KiB holds more rows with a column: 24 + 8 bytes each, and a pointer."""

    def __init__(
        self,
        columns: str,
        source: str,
        chunk_range: ChunkRange,
        relation_blocks: Callable[[], int],
    ) -> None:
        self._columns, self._source = columns, source
        self._next = chunk_range.block_first or 0
        self._end = chunk_range.block_end
        self._relation_blocks = relation_blocks
        self._known_blocks = -1
        self._width = 0
        self._page_end: int | None = None
        self._blocks_seen = self._rows_seen = self._bytes_seen = 0

    def select(self, limit: PageLimit) -> Select:
        """The next blocks. Behind the relation's present end nothing bounds the statement, so
        rows that were appended to new blocks while the chunk was read are read too."""
        self._width = width = self._width_for(limit)
        end = self._next + width
        if self._end is not None:
            self._page_end = min(end, self._end)
        else:
            if end >= self._known_blocks:
                self._known_blocks = self._relation_blocks()
            self._page_end = None if end >= self._known_blocks else end
        return Select(
            columns=self._columns,
            source=self._source,
            where=block_range(self._next, self._page_end),
        )

    def _width_for(self, limit: PageLimit) -> int:
        if not self._blocks_seen:
            return max(1, limit.rows_max // self._ROWS_PER_BLOCK_MAX)
        by_rows = limit.rows_max * self._blocks_seen // max(self._rows_seen, 1)
        by_bytes = limit.bytes_max * self._blocks_seen // max(self._bytes_seen, 1)
        return max(1, min(by_rows, by_bytes, self._width * self._GROWTH_MAX))

    def accept(self, batch: pa.RecordBatch, wire_bytes: int, *, cut: bool) -> Accepted:
        """Count what the blocks held and go on behind them."""
        if self._page_end is None:
            return Accepted(rows=batch.num_rows, last=True)
        # The newest pages tell more about the next one than those long ago.
        self._blocks_seen = self._blocks_seen // 2 + (self._page_end - self._next)
        self._rows_seen = self._rows_seen // 2 + batch.num_rows
        self._bytes_seen = self._bytes_seen // 2 + wire_bytes
        self._next = self._page_end
        return Accepted(rows=batch.num_rows, last=self._end is not None and self._next >= self._end)


def whole_select(columns: str, source: str, chunk_range: ChunkRange) -> Select:
    """The one statement of a WHOLE or NULLS chunk."""
    where: tuple[str, ...] = ()
    if chunk_range.kind is RangeKind.NULLS:
        where = tuple(f"{column_ref(name)} IS NULL" for name in chunk_range.columns)
    return Select(columns=columns, source=source, where=where)
