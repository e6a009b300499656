"""Pages of heap blocks: what a table without a usable key is read by (TID range scans, PG 14)."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from rivet_fleet.contracts.keys import ChunkRange
from rivet_fleet.execution.paging import Accepted, PageEnd, Select, Walk
from rivet_fleet.execution.source import PageLimit
from rivet_fleet.execution.sources.postgres.statements import block_range


class BlockPager:
    """Pages of heap blocks; how many blocks a page takes follows the rows and bytes per block."""

    cuttable = False
    piecewise = False
    streamed = False
    walk = Walk.BLOCKS
    _GROWTH_MAX = 4
    _ROWS_PER_BLOCK_MAX = 226
    """No heap block of 8 KiB holds more rows with a column: 24 + 8 bytes each, and a pointer."""

    def __init__(
        self,
        columns: str,
        source: str,
        chunk_range: ChunkRange,
        relation_blocks: Callable[[], int],
        proof: Callable[[bool], str | None],
    ) -> None:
        """``proof``: what fails a page, or the last one, of another heap (``Select``)."""
        self._columns, self._source = columns, source
        self._next = chunk_range.block_first or 0
        self._end = chunk_range.block_end
        self._relation_blocks, self._proof = relation_blocks, proof
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
            proof=self._proof(self._at_end),
        )

    @property
    def _at_end(self) -> bool:
        """True when the page that was last selected is the chunk's last."""
        return self._page_end is None or (self._end is not None and self._page_end >= self._end)

    def _width_for(self, limit: PageLimit) -> int:
        if not self._blocks_seen:
            return max(1, limit.rows_max // self._ROWS_PER_BLOCK_MAX)
        by_rows = limit.rows_max * self._blocks_seen // max(self._rows_seen, 1)
        by_bytes = limit.bytes_max * self._blocks_seen // max(self._bytes_seen, 1)
        return max(1, min(by_rows, by_bytes, self._width * self._GROWTH_MAX))

    def end(self, batch: pa.RecordBatch, *, changed: bool) -> PageEnd:
        """Blocks are no order of rows: what was read between two of them proves nothing."""
        return PageEnd(rows=batch.num_rows, within=None)

    def accept(
        self, batch: pa.RecordBatch, wire_bytes: int, *, cut: bool, changed: bool = False
    ) -> Accepted:
        """Count what the blocks held and go on behind them."""
        if self._page_end is None:
            return Accepted(rows=batch.num_rows, last=True)
        last = self._at_end
        # The newest pages tell more about the next one than those long ago.
        self._blocks_seen = self._blocks_seen // 2 + (self._page_end - self._next)
        self._rows_seen = self._rows_seen // 2 + batch.num_rows
        self._bytes_seen = self._bytes_seen // 2 + wire_bytes
        self._next = self._page_end
        return Accepted(rows=batch.num_rows, last=last)
