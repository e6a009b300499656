"""Reading one chunk: pages of binary COPY, each in its own short transaction."""

from __future__ import annotations

import uuid

import pyarrow as pa

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.contracts.keys import ChunkRange, KeyTuple, RangeKind
from rivet_fleet.contracts.plan import ReadPlan, TuningPlan
from rivet_fleet.errors import ConfigError, MalformedData, SchemaDrift, SourceUnavailable
from rivet_fleet.execution.source import Page, PageLimit
from rivet_fleet.execution.sources.postgres.copystream import CopyStream
from rivet_fleet.execution.sources.postgres.decoder import BatchDecoder, ReferenceDecoder
from rivet_fleet.execution.sources.postgres.dialect import quote_relation
from rivet_fleet.execution.sources.postgres.pagers import (
    BlockPager,
    KeysetPager,
    Pager,
    SpanPager,
    whole_select,
)
from rivet_fleet.execution.sources.postgres.session import Session, Settings
from rivet_fleet.execution.sources.postgres.statements import (
    from_item,
    metadata_settings,
    page_settings,
    select_list,
)
from rivet_fleet.execution.types import arrow_schema

_CUT_FACTOR = 2
"""A page that grew to this many times its byte limit is cut and continued by its key."""
_METADATA_TIMEOUT_S = 30.0

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


def hidden_keys(columns: tuple[ColumnSpec, ...], keys: tuple[str, ...]) -> tuple[str, ...]:
    """The keys a page must carry as extra text columns. Raises ConfigError for float keys."""
    by_name = {column.name: column for column in columns}
    hidden = []
    for name in keys:
        column = by_name.get(name)
        if column is not None and column.cast is None:
            if column.type.kind in (TypeKind.FLOAT32, TypeKind.FLOAT64):
                raise ConfigError(
                    f"column {name} is a floating-point number and cannot be a chunk key",
                    hint="choose an integer, timestamp, uuid or text key",
                )
            if column.type.kind in _EXACT_KEY_TEXT:
                continue
        hidden.append(name)
    return tuple(hidden)


def key_text(value: object) -> str:
    """A carried key value as the server writes it."""
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    return str(value)


class PostgresChunkReader:
    """A ``ChunkReader`` over one session. The session belongs to the source."""

    def __init__(
        self, session: Session, read: ReadPlan, chunk_range: ChunkRange, tuning: TuningPlan
    ) -> None:
        keys = chunk_range.columns if chunk_range.kind in (RangeKind.KEYSET, RangeKind.SPAN) else ()
        extra = hidden_keys(read.columns, keys)
        self._schema = arrow_schema(read.columns)
        self._session, self._tuning, self._range = session, tuning, chunk_range
        self._columns = (*read.columns, *(_hidden_column(i) for i in range(len(extra))))
        names = {column.name: index for index, column in enumerate(read.columns)}
        names |= {name: len(read.columns) + index for index, name in enumerate(extra)}
        self._key_positions = tuple(names[name] for name in keys)
        self._select_list = select_list(read.columns, extra)
        only = chunk_range.relation is not None
        self._source = from_item(chunk_range.relation or read.relation, read.query, only=only)
        self._changed: dict[str, int] = {}
        self._pager = self._make_pager(read)
        self._stream: CopyStream | None = None
        self._stream_decoder = self._decoder()
        self._rows_given = 0

    def _make_pager(self, read: ReadPlan) -> Pager | None:
        kind, columns, source = self._range.kind, self._select_list, self._source
        if kind is RangeKind.KEYSET:
            return KeysetPager(
                columns,
                source,
                self._range,
                self._keys_of_row,
                index_walk=read.relation is not None,
            )
        if kind is RangeKind.SPAN:
            return SpanPager(columns, source, self._range, self._keys_of_row)
        if kind is RangeKind.BLOCKS:
            return BlockPager(columns, source, self._range, self._relation_blocks)
        return None

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of every page."""
        return self._schema

    @property
    def resumable(self) -> bool:
        """True when a failed page is simply read again."""
        return self._pager is not None

    @property
    def changed(self) -> dict[str, int]:
        """Per column: values a stated policy had to change so far."""
        return dict(self._changed)

    def read_page(self, limit: PageLimit) -> Page:
        """The next page; see ``ChunkReader``. State moves only when the page is complete."""
        page = self._stream_page(limit) if self._pager is None else self._read(self._pager, limit)
        self._rows_given += page.batch.num_rows
        return page

    def reconnect(self) -> None:
        """Drop the connection and take a new one. A stream that already gave rows cannot go on."""
        self._abandon_stream()
        self._session.close()
        if self._pager is None and self._rows_given:
            raise SourceUnavailable(
                f"{self._session.url.identity}: the statement of this chunk cannot be continued",
                hint="the chunk is read again from its beginning",
            )
        _ = self._session.connection

    def close(self) -> None:
        """End the statement, if any. Never raises; the connection stays with the source."""
        self._abandon_stream()

    # ------------------------------------------------------------ pages

    def _read(self, pager: Pager, limit: PageLimit) -> Page:
        """One statement of a resumable chunk: received whole, then decoded, so that the server
        is not kept waiting for the decoder."""
        sql = pager.select(limit).copy()
        bytes_max = limit.bytes_max * _CUT_FACTOR if pager.cuttable else None
        stream = self._open(sql, pager.nudges)
        decoder = self._decoder()
        blocks: list[bytes] = []
        wire_bytes, cut = 0, False
        for block in stream:
            blocks.append(block)
            wire_bytes += len(block)
            if bytes_max is not None and wire_bytes > bytes_max and not stream.ended:
                stream.abandon()
                cut = True
                break
        blocks.reverse()
        while blocks:
            decoder.feed(blocks.pop())
        if not cut:
            decoder.finish()
        batch = decoder.take()
        accepted = pager.accept(batch, wire_bytes, cut=cut)
        self._count_changes(decoder)
        return Page(
            batch=self._visible(batch.slice(0, accepted.rows)),
            statement_s=stream.seconds,
            wire_bytes=wire_bytes,
            last=accepted.last,
        )

    def _stream_page(self, limit: PageLimit) -> Page:
        """The next rows of the one statement of a WHOLE or NULLS chunk."""
        if self._stream is None:
            select = whole_select(self._select_list, self._source, self._range)
            self._stream = self._open(select.copy(), ())
            self._stream_decoder = self._decoder()
        stream, decoder = self._stream, self._stream_decoder
        before_s, wire_bytes = stream.seconds, 0
        while decoder.rows_ready < limit.rows_max and wire_bytes < limit.bytes_max:
            block = None if stream.ended else next(stream, None)
            if block is None:
                decoder.finish()
                break
            decoder.feed(block)
            wire_bytes += len(block)
        batch = decoder.take(max(1, limit.rows_max))
        self._count_changes(decoder)
        return Page(
            batch=batch,
            statement_s=stream.seconds - before_s,
            wire_bytes=wire_bytes,
            last=stream.ended and decoder.rows_ready == 0,
        )

    def _open(self, sql: str, nudges: Settings) -> CopyStream:
        return CopyStream(self._session, sql, page_settings(self._tuning, nudges), self._tuning)

    def _decoder(self) -> BatchDecoder:
        return ReferenceDecoder(self._columns, max_value_bytes=self._tuning.max_value_bytes)

    def _abandon_stream(self) -> None:
        if self._stream is not None:
            self._stream.abandon()
            self._stream = None

    def _visible(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The planned columns alone, with exactly the reader's schema."""
        arrays = batch.columns[: len(self._schema)]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _count_changes(self, decoder: BatchDecoder) -> None:
        for name, count in decoder.changed.items():
            self._changed[name] = self._changed.get(name, 0) + count
        decoder.changed.clear()

    def _keys_of_row(self, batch: pa.RecordBatch, row: int) -> KeyTuple:
        values = [batch.column(position)[row].as_py() for position in self._key_positions]
        if None in values:
            raise MalformedData(
                f"chunk key ({', '.join(self._range.columns)}) is NULL in a row",
                hint="a chunk key must be NOT NULL",
            )
        return tuple(key_text(value) for value in values)

    def _relation_blocks(self) -> int:
        """The heap's size now, in blocks."""
        relation = self._range.relation
        if relation is None:
            raise ConfigError("a block range needs the physical relation it is read from")
        sql = "SELECT pg_relation_size(to_regclass(%s)) / current_setting('block_size')::bigint"
        with self._session.transaction(
            metadata_settings(_METADATA_TIMEOUT_S),
            doing="asking for a table's size",
            timeout_s=_METADATA_TIMEOUT_S,
        ) as cursor:
            row = cursor.execute(sql, (quote_relation(relation),)).fetchone()
        if row is None or row[0] is None:
            raise SchemaDrift(f"table {relation} is gone", hint="plan the export again")
        return int(row[0])


def _hidden_column(index: int) -> ColumnSpec:
    """A key that only paging needs: the server's own text."""
    return ColumnSpec(
        name=f"_rivet_key_{index}",
        native_type="text",
        type=ColumnType(kind=TypeKind.STRING),
        wire_type="25",
    )
