"""What PostgreSQL contributes to the reading of one chunk; the reader itself is every engine's."""

from __future__ import annotations

import math
import uuid
from collections import deque
from collections.abc import Callable, Generator

import pyarrow as pa

from rivet_fleet.contracts.columns import ColumnSpec, TypeKind
from rivet_fleet.contracts.keys import ChunkRange, RelationName
from rivet_fleet.contracts.plan import ReadPlan, TuningPlan
from rivet_fleet.errors import ConfigError, SchemaDrift
from rivet_fleet.execution.engines.decoding import BatchDecoder
from rivet_fleet.execution.engines.source import EngineReading
from rivet_fleet.execution.paging import Accepted, KeyDialect, PageEnd, Pager, Select, Walk
from rivet_fleet.execution.source import PageLimit
from rivet_fleet.execution.sources.postgres import dialect
from rivet_fleet.execution.sources.postgres.cursorstream import CursorStream
from rivet_fleet.execution.sources.postgres.decoder import DECODERS
from rivet_fleet.execution.sources.postgres.dialect import OID_TEXT, block_range
from rivet_fleet.execution.sources.postgres.exchange import CopyStream, copy_train
from rivet_fleet.execution.sources.postgres.heaps import proof, relation_blocks
from rivet_fleet.execution.sources.postgres.keyorder import Keys
from rivet_fleet.execution.sources.postgres.session import Session

# ------------------------------------------------------------------------------------------
# Pages of heap blocks: what a table without a usable key is read by (TID range scans, PG 14).


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
        self._asked: deque[int | None] = deque()
        """Where the pages end that were asked for; None is an open end."""
        self._blocks_seen = self._rows_seen = self._bytes_seen = 0

    def select(self, limit: PageLimit) -> Select:
        """The next blocks. Behind the relation's present end nothing bounds the statement, so
        rows that were appended to new blocks while the chunk was read are read too."""
        return self.train(limit, 1)[0]

    def train(self, limit: PageLimit, pages: int) -> tuple[Select, ...]:
        """So many times as many blocks, once it is known what they hold."""
        self._width = self._width_for(limit)
        self._asked.clear()
        selects, first = [], self._next
        for _ in range(pages if self._blocks_seen else 1):
            end = self._end_of(first + self._width)
            last = self._is_last(end)
            selects.append(
                Select(
                    columns=self._columns,
                    source=self._source,
                    where=block_range(first, end),
                    proof=self._proof(last),
                )
            )
            self._asked.append(end)
            if last or end is None:
                break
            first = end
        return tuple(selects)

    def _end_of(self, end: int) -> int | None:
        if self._end is not None:
            return min(end, self._end)
        if end >= self._known_blocks:
            self._known_blocks = self._relation_blocks()
        return None if end >= self._known_blocks else end

    def _is_last(self, end: int | None) -> bool:
        """True when the page that ends there is the chunk's last."""
        return end is None or (self._end is not None and end >= self._end)

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
        end = self._asked.popleft()
        if end is None:
            return Accepted(rows=batch.num_rows, last=True)
        # The newest pages tell more about the next one than those long ago.
        self._blocks_seen = self._blocks_seen // 2 + (end - self._next)
        self._rows_seen = self._rows_seen // 2 + batch.num_rows
        self._bytes_seen = self._bytes_seen // 2 + wire_bytes
        self._next = end
        return Accepted(rows=batch.num_rows, last=self._is_last(end))


_METADATA_TIMEOUT_S = 30.0
_NEAR_S = 0.002
"""A way that is shorter is no distance: a page is much longer, and where it is not it costs little.
"""
_WAY_SHARE = 0.05
"""Of the time that pages take, the way there and back may be this part before more of them travel
together."""

_EXACT_KEY_TEXT = (
    TypeKind.INT16,
    TypeKind.INT32,
    TypeKind.INT64,
    TypeKind.STRING,
    TypeKind.ENUM,
    TypeKind.UUID,
    TypeKind.BINARY,
)
"""Kinds whose server text we can write from the carried value. For all others the page carries
the key once more, as the server's own text."""
_TEXTS = (TypeKind.STRING, TypeKind.ENUM)
"""Those of them that are other bytes in another encoding."""


class PostgresReading(EngineReading[Session, BatchDecoder]):
    """A ``ReadingEngine`` over one session. The session belongs to the source."""

    _text_types = ("text", str(OID_TEXT))
    _decoders = DECODERS

    def __init__(
        self,
        session: Session,
        read: ReadPlan,
        tuning: TuningPlan,
        keys: Keys,
        *,
        whole: bool = False,
    ) -> None:
        """``whole``: the chunk is everything, in no order that could be gone on in."""
        super().__init__(session, read, tuning)
        self._keys, self._whole = keys, whole

    @property
    def keys(self) -> KeyDialect:
        """The operators of the keys' own classes."""
        return self._keys

    def carries_key(self, column: ColumnSpec) -> bool:
        """Integers, text, uuid and bytes: what ``key_text`` can write."""
        kind = column.type.kind
        return kind in _EXACT_KEY_TEXT and (self._keys.as_text or kind not in _TEXTS)

    def key_text(self, value: object) -> str:
        """A carried key value as the server writes it."""
        if isinstance(value, uuid.UUID):
            return str(value)
        if isinstance(value, bytes):
            return "\\x" + value.hex()
        if isinstance(value, str):
            return self._keys.arrived(value)
        return str(value)

    def select_list(self, columns: tuple[ColumnSpec, ...], hidden_keys: tuple[str, ...]) -> str:
        """Every planned column by name, then the hidden keys as text."""
        hidden = tuple(map(self._keys.text_expression, hidden_keys))
        return dialect.select_list(columns, hidden, steady=bool(self._read.session))

    def from_item(self, relation: RelationName | None, query: str | None, *, only: bool) -> str:
        """What stands after FROM; ``only``: without the children of a table."""
        return dialect.from_item(relation, query, only=only)

    def block_pager(self, columns: str, source: str, chunk_range: ChunkRange) -> Pager:
        """Pages of heap blocks. Raises ConfigError for a query, which has none."""
        read, only = self._read, chunk_range.relation is not None
        relation = chunk_range.relation or read.relation
        if relation is None:
            raise ConfigError("a block range needs the relation it is read from")
        return BlockPager(
            columns,
            source,
            chunk_range,
            lambda: self._relation_blocks(relation, only=only),
            lambda last: proof(read, chunk_range, last=last),
        )

    def open_stream(
        self,
        select: Select,
        columns: tuple[ColumnSpec, ...],
        walk: Walk,
        *,
        packed: bool,
        held: bool = False,
    ) -> CopyStream:
        """One COPY in its own short transaction; nothing is sent before the first receive."""
        decoder = self._open_decoder(columns, packed=packed)
        settings = self._settings(walk)
        session, tuning = self._session, self._tuning
        foreign = self._read.query is not None
        if self._whole and not held:
            sql = select.sql()
            return CursorStream(session, sql, settings, tuning, decoder, foreign=foreign)
        sql = dialect.copy_statement(select)
        return CopyStream(session, sql, settings, tuning, decoder, held=held, foreign=foreign)

    def pages_at_once(self, page_s: float) -> int:
        """So many that the way there and back is a small part of the time that they take: the
        server's log and its list of activities show a message as one query, which is to be no
        longer than that needs."""
        if self._session.stepwise or not self.decodes_at_once:
            return 1
        # The shortest: what made it longer was a busy moment.
        way_s = self._session.times.way_s(self._session.round_trip_s())
        return 1 if way_s < _NEAR_S else max(1, math.ceil(way_s / (_WAY_SHARE * page_s)))

    def open_train(
        self,
        selects: tuple[Select, ...],
        columns: tuple[ColumnSpec, ...],
        walk: Walk,
        *,
        packed: bool,
    ) -> Generator[CopyStream, None, None]:
        """One message; nothing is sent before the first receive."""
        return copy_train(
            self._session,
            tuple(map(dialect.copy_statement, selects)),
            self._settings(walk),
            self._tuning,
            lambda: self._open_decoder(columns, packed=packed),
            foreign=self._read.query is not None,
        )

    def _settings(self, walk: Walk) -> tuple[tuple[str, str], ...]:
        nudges = dialect.whole_read(self._tuning) if self._whole else dialect.NUDGES[walk]
        settings = dialect.page_settings(self._tuning, nudges, self._read.session)
        if self._session.text_unchecked:
            # As UTF8 the server would refuse a bad byte itself, and the policy had no say.
            settings = (*settings, ("client_encoding", "SQL_ASCII"))
        return settings

    def count_sql(self, select: Select) -> str:
        """As it is."""
        return select.sql()

    def keeps_snapshots(self) -> bool:
        """Always: every table is of this server's own storage, or its wrapper does as much."""
        return True

    def reconnect(self) -> None:
        """Drop the connection and take a new one. Raises SourceUnavailable."""
        self._session.close()
        _ = self._session.connection

    def _relation_blocks(self, relation: RelationName, *, only: bool) -> int:
        """The heap's size now, in blocks; of the largest unless ``only``."""
        with self._session.reading(
            dialect.catalog_settings(_METADATA_TIMEOUT_S),
            doing="asking for a table's size",
            timeout_s=_METADATA_TIMEOUT_S,
        ) as cursor:
            blocks = relation_blocks(cursor, relation, only=only)
        if blocks is None:
            raise SchemaDrift(f"table {relation} is gone", hint="plan the export again")
        return blocks
