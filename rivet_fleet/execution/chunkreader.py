"""Reading one chunk page by page: the only ``ChunkReader`` there is, over what an engine provides.

An engine brings its SQL (``KeyDialect``), its statements (``PageStream``) and the text of its
keys; which rows a page holds, where the next begins and what a failed page means is decided here
and in ``paging`` for all of them.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import replace
from typing import Protocol

import pyarrow as pa

from rivet_fleet.contracts.basis import BasisDifference
from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.contracts.keys import (
    ChunkRange,
    KeyTuple,
    RangeKind,
    RelationName,
    describe_range,
)
from rivet_fleet.contracts.plan import ROW_VALUES, ReadPlan
from rivet_fleet.errors import (
    ConfigError,
    MalformedData,
    SourceError,
    SourceUnavailable,
    ValueTooLarge,
)
from rivet_fleet.execution.keyset import KeysetPager
from rivet_fleet.execution.packing import dressed
from rivet_fleet.execution.paging import (
    KeyDialect,
    Pager,
    Select,
    SpanPager,
    Walk,
    whole_select,
    windowed,
)
from rivet_fleet.execution.proof import PageProofs
from rivet_fleet.execution.source import Page, PageLimit
from rivet_fleet.execution.types import Footing, arrow_schema

_CUT_FACTOR = 2
"""A page that grew to this many times its byte limit is cut behind its last whole row, and
continued by its key; it is never cut before its first."""
_WANTED = 1 / 4
"""Pages that are under way are left when a page may by now have less than this part of their rows,
and when ..."""
_AHEAD_S_MAX = 2.0
"""... they were asked for so long ago: it takes another connection, and spares the source more."""


class PageStream(Protocol):
    """The rows of one statement, decoded as they arrive. Errors are SourceError (by retry
    class), MalformedData, ValueTooLarge, UnsupportedType and SchemaDrift."""

    @property
    def seconds(self) -> float:
        """How long the source worked for us: without the caller's own time between two calls
        and without the network's round trip."""
        ...

    @property
    def statement_s(self) -> float:
        """How long the statement has been open at the source: ``seconds``, and the caller's own
        time between two calls."""
        ...

    @property
    def wire_bytes(self) -> int:
        """Bytes received so far."""
        ...

    @property
    def ended(self) -> bool:
        """True when the statement has ended and every byte of it was decoded."""
        ...

    @property
    def rows_ready(self) -> int:
        """Rows decoded and not yet taken."""
        ...

    @property
    def changed(self) -> dict[str, int]:
        """Per column: values a stated policy had to change. The reader counts and clears."""
        ...

    def receive(self, *, rows_max: int | None, bytes_max: int | None) -> None:
        """Receive until the statement ended, ``rows_max`` rows are ready, or more than
        ``bytes_max`` bytes arrived in this call; None is no limit."""
        ...

    def take(self, rows_max: int | None = None) -> pa.RecordBatch:
        """The oldest rows, at most ``rows_max``, none twice; all of them by default."""
        ...

    def abandon(self) -> None:
        """End the statement before its end, or what is held. Never raises."""
        ...

    def count(self, sql: str, timeout_s: float) -> int:
        """One number, asked in the snapshot of the rows: of a held statement that has ended.
        ``timeout_s`` is its own limit (0: none). Raises SourceError; then nothing is held."""
        ...

    def release(self) -> None:
        """End the snapshot of a held statement that has ended. Raises SourceError."""
        ...


class ReadingEngine(Protocol):
    """What one engine contributes to the reading of one chunk."""

    @property
    def identity(self) -> str:
        """The database in messages: no secrets."""
        ...

    @property
    def keys(self) -> KeyDialect:
        """How keys are compared and ordered."""
        ...

    @property
    def decodes_at_once(self) -> bool:
        """True when rows are decoded about as fast as they come: a slow decoder would keep the
        source's statement open, and receives a page first."""
        ...

    def carries_key(self, column: ColumnSpec) -> bool:
        """True when ``key_text`` of the carried value is exactly the server's own text; else
        the page carries the key once more, as text."""
        ...

    def key_text(self, value: object) -> str:
        """A carried key value as the server writes it."""
        ...

    @property
    def longest_statement_s(self) -> float:
        """How long the source was busy with one statement of the chunk at most."""
        ...

    def hidden_column(self, name: str) -> ColumnSpec:
        """A text column, as this engine's decoder needs it, for a key only paging needs."""
        ...

    def select_list(self, columns: tuple[ColumnSpec, ...], hidden_keys: tuple[str, ...]) -> str:
        """Every planned column by name, then the hidden keys as text."""
        ...

    def from_item(self, relation: RelationName | None, query: str | None, *, only: bool) -> str:
        """What stands after FROM; ``only`` leaves inheritance children out."""
        ...

    def block_pager(self, columns: str, source: str, chunk_range: ChunkRange) -> Pager:
        """Pages of physical blocks. Raises ConfigError where the engine has none."""
        ...

    def open_stream(
        self,
        select: Select,
        columns: tuple[ColumnSpec, ...],
        walk: Walk,
        *,
        packed: bool,
        held: bool = False,
    ) -> PageStream:
        """Start one statement, in its own short transaction. ``packed``: its rows may come
        packed (ADR 0014). ``held``: the transaction is a snapshot that goes on behind the last
        row, so that it can be asked more; until it is released, or abandoned."""
        ...

    def pages_at_once(self, page_s: float) -> int:
        """How many pages of this length are worth asking for at once, on this connection, as it
        is now; 1 where none may be. Asked between two statements. Raises SourceError."""
        ...

    def open_train(
        self,
        selects: tuple[Select, ...],
        columns: tuple[ColumnSpec, ...],
        walk: Walk,
        *,
        packed: bool,
    ) -> Generator[PageStream, None, None]:
        """Several statements, each as ``open_stream`` would start it, asked for at once: their
        streams, the next one when the last one has ended (ADR 0031). One that is abandoned ends all
        of them, and so does ``close`` before the last one was given."""
        ...

    def count_sql(self, select: Select) -> str:
        """The statement of a count over what a page's statement reads."""
        ...

    def keeps_snapshots(self) -> bool:
        """True when every statement of a held transaction sees the same rows of what is read.
        Asked between two statements. Raises SourceError."""
        ...

    @property
    def connected(self) -> bool:
        """False where the next statement makes a new connection."""
        ...

    def reconnect(self) -> None:
        """Drop the connection and take a new one. Raises SourceUnavailable."""
        ...


def hidden_keys(
    engine: ReadingEngine, columns: tuple[ColumnSpec, ...], keys: tuple[str, ...]
) -> tuple[str, ...]:
    """The keys a page must carry as extra text columns. Raises ConfigError for float keys."""
    by_name = {column.name: column for column in columns}
    hidden = []
    for name in keys:
        column = by_name.get(name)
        # A column that is cast carries another value than the one that keys are compared by.
        if column is not None and column.cast is None:
            if column.type.kind in (TypeKind.FLOAT32, TypeKind.FLOAT64):
                raise ConfigError(
                    f"column {name} is a floating-point number and cannot be a chunk key",
                    hint="choose an integer, timestamp, uuid or text key",
                )
            if engine.carries_key(column):
                continue
        hidden.append(name)
    return tuple(hidden)


class PagedReader:
    """A ``ChunkReader`` of one chunk. The connection belongs to the engine's source."""

    def __init__(
        self,
        engine: ReadingEngine,
        read: ReadPlan,
        chunk_range: ChunkRange,
        footing: Footing,
        *,
        row_bytes_max: int,
    ) -> None:
        """``row_bytes_max``: on the wire; a wider row is refused (``TuningPlan.max_row_bytes``)."""
        self._row_bytes_max = row_bytes_max
        columns = read.carried
        keys = chunk_range.columns if chunk_range.kind in (RangeKind.KEYSET, RangeKind.SPAN) else ()
        extra = hidden_keys(engine, columns, keys)
        self._engine, self._range, self._footing = engine, chunk_range, footing
        self._schema = arrow_schema(columns)
        hidden = (engine.hidden_column(f"_rivet_key_{index}") for index in range(len(extra)))
        self._columns = (*columns, *hidden)
        names = {column.name: index for index, column in enumerate(columns)}
        names |= {name: len(columns) + index for index, name in enumerate(extra)}
        self._key_positions = tuple(names[name] for name in keys)
        self._key_names = {self._columns[position].name for position in self._key_positions}
        self._select_list = engine.select_list(columns, extra)
        # A chunk of one heap: what inherits from it are other chunks' rows.
        only = chunk_range.relation is not None
        self._source = engine.from_item(
            chunk_range.relation or read.relation, read.query, only=only
        )
        self._named = str(read.relation or "the query")
        self._window = read.window
        self._packed = False
        self._proofs: PageProofs | None = None
        self._timeout_s = 0.0
        self._asked: Select | None = None
        """The statement of the page, when it is to be proven."""
        self._train: Generator[PageStream, None, None] | None = None
        """Of the pages that are under way."""
        self._train_rows = self._train_left = 0
        """How many rows each of them may have, and how many have not begun to come."""
        self._train_at_s = 0.0
        """When they were asked for (monotonic)."""
        self._alone = False
        """True when something went wrong with pages that were asked for at once."""
        self._changed: dict[str, int] = {}
        self._reached: KeyTuple | None = None
        self._pager = self._make_pager(read)
        self._stream: PageStream | None = None
        self._streamed_rows = 0
        """Rows handed on of a statement that cannot be continued."""
        self._handed_on_rows = 0
        """Rows handed on of a page that goes on."""
        self._handed_on_bytes = 0
        """Received of what was handed on of an open statement."""
        self._lost_bytes = 0
        self._rowless_bytes = 0
        """What has arrived of a streamed row that is not complete."""

    def _make_pager(self, read: ReadPlan) -> Pager | None:
        kind, columns, source = self._range.kind, self._select_list, self._source
        dialect = self._engine.keys
        if kind is RangeKind.KEYSET:
            return KeysetPager(
                dialect,
                columns,
                source,
                self._range,
                self._keys_of_row,
                index_walk=read.relation is not None or read.table is not None,
            )
        if kind is RangeKind.SPAN:
            return SpanPager(dialect, columns, source, self._range, self._keys_of_row)
        if kind is RangeKind.BLOCKS:
            return self._engine.block_pager(columns, source, self._range)
        return None

    @property
    def schema(self) -> pa.Schema:
        """The nominal Arrow schema of every page."""
        return self._schema

    @property
    def resumable(self) -> bool:
        """True when a failed page is simply read again."""
        return self._pager is not None and not self._streamed_rows

    @property
    def piecewise(self) -> bool:
        """True when a page may be handed on in pieces: any row of it can be continued behind."""
        pager = self._pager
        return pager is not None and pager.piecewise and self._engine.decodes_at_once

    @property
    def changed(self) -> dict[str, int]:
        """Per column: values a stated policy had to change so far."""
        return dict(self._changed)

    @property
    def reached(self) -> KeyTuple | None:
        """The key of the last row that was read; see ``ChunkReader``."""
        return self._reached

    @property
    def lost_bytes(self) -> int:
        """Bytes received of statements that failed and not handed on, so far."""
        return self._lost_bytes

    @property
    def longest_statement_s(self) -> float:
        """How long the source was busy with one statement of this chunk at most, so far."""
        return self._engine.longest_statement_s

    def pack(self) -> None:
        """Columns may come packed from the next statement on."""
        self._packed = True

    def count_pages(self, proofs: PageProofs, timeout_s: float) -> None:
        """Ask the server about the pages that ``proofs`` wants to be asked about, each count
        within ``timeout_s`` (0: no limit)."""
        self._proofs, self._timeout_s = proofs, timeout_s

    def read_page(self, limit: PageLimit) -> Page:
        """The next page; see ``ChunkReader``. State moves only when the page is complete."""
        pager = self._pager
        try:
            if pager is None or pager.streamed:
                return self._stream_page(pager, limit)
            return self._read(pager, limit)
        except BaseException:
            # Interrupts, too: whatever ends the reading ends the statement, or the source would go
            # on.
            if self._stream is not None:
                # What was handed on is not lost: the next page begins behind it.
                self._lost_bytes += self._stream.wire_bytes - self._handed_on_bytes
            self._alone = self._alone or self._train is not None
            self._abandon_stream()
            raise

    def reconnect(self) -> None:
        """Drop the connection and take a new one. A stream that already gave rows cannot go on."""
        self._abandon_stream()
        if self._streamed_rows:
            raise SourceUnavailable(
                f"{self._engine.identity}: the statement of this chunk cannot be continued",
                hint="the chunk is read again from its beginning",
            )
        self._engine.reconnect()
        # The same name may lead to another server by now (a failover), or to another table:
        # compared before rows of two are mixed in one chunk (ADR 0018).
        self._footing.prove()

    def prove(self) -> tuple[BasisDifference, ...]:
        """See ``ChunkReader``. A connection that is gone is made anew by asking again."""
        return self._footing.prove()

    def close(self) -> None:
        """End the statement, if any. Never raises; the connection stays with the source."""
        self._abandon_stream()

    # ------------------------------------------------------------ pages

    def _read(self, pager: Pager, limit: PageLimit) -> Page:
        """One statement of a resumable chunk, received to its end unless it outgrew its page; or
        the next piece of it."""
        if self._stream is None:
            self._stream = self._next_stream(pager, limit)
        stream, before_bytes = self._stream, self._stream.wire_bytes
        goes_on = self._receive(stream, pager, limit)
        if not self._handed_on_rows:
            self._receive_a_row(stream, pager, limit)
            goes_on = goes_on and not stream.ended
        batch = stream.take()
        arrived_rows = batch.num_rows
        fits = self._rows_that_fit(stream, batch) if pager.cuttable else arrived_rows
        if fits < arrived_rows:
            if not fits:
                self._abandon_stream()
                seen_bytes = batch.slice(0, 1).nbytes
                raise self._too_wide(seen_bytes, self._key_of_next_row(pager, limit))
            # The next page begins with it.
            batch, goes_on = batch.slice(0, fits), False
        cut = not stream.ended or fits < arrived_rows
        if cut and not goes_on:
            stream.abandon()
            self._leave_train()
        self._check_keys(stream)
        page = Page(
            batch=batch,
            statement_s=stream.statement_s,
            # What the source feels: the statement is open, too, while a piece of it is handed on.
            pace_s=stream.statement_s,
            wire_bytes=stream.wire_bytes - before_bytes,
            last=False,
            complete=not goes_on,
            asked_rows=None if self._train is None else self._train_rows,
            followed=self._train_left > 0,
        )
        changed = bool(stream.changed)
        # Before anything moves: a proof that fails leaves the page unread (ADR 0019, N2).
        if not cut:
            self._check_end(stream, pager, batch, page.statement_s)
        accepted = pager.accept(batch, stream.wire_bytes, cut=cut, changed=changed)
        # A page with changed values holds all of its rows or none (``Pager.accept``): so they are
        # counted when they are handed on, and once.
        if accepted.rows == batch.num_rows:
            self._count_changes(stream)
        if goes_on:
            self._handed_on_rows += batch.num_rows
            self._handed_on_bytes = stream.wire_bytes
        else:
            self._forget_stream()
        if accepted.rows and self._key_positions and not self._packed:
            self._reached = self._keys_of_row(batch, accepted.rows - 1)
        visible = self._visible(batch.slice(0, accepted.rows))
        return replace(page, batch=visible, last=accepted.last)

    def _next_stream(self, pager: Pager, limit: PageLimit) -> PageStream:
        """Of the next page: on its way, or asked for now, alone or with those behind it."""
        age_s = time.monotonic() - self._train_at_s
        wanted = age_s < _AHEAD_S_MAX and limit.rows_max >= _WANTED * self._train_rows
        if self._train is not None and self._train_left and wanted:
            self._train_left -= 1
            return next(self._train)
        self._leave_train()
        self._stand_again()
        proven = self._proofs is not None and self._proofs.due()
        pages = 1 if proven or self._alone else limit.pages_max
        if pages > 1:
            pages = min(pages, self._engine.pages_at_once(limit.page_s))
        selects = tuple(map(self._in_window, pager.train(limit, pages)))
        self._asked = selects[0] if proven else None
        if len(selects) == 1:
            return self._open(selects[0], pager, held=proven)
        self._train = self._engine.open_train(
            selects, self._columns, pager.walk, packed=self._packed
        )
        self._train_rows, self._train_left = limit.rows_max, len(selects) - 1
        self._train_at_s = time.monotonic()
        return next(self._train)

    def _stand_again(self) -> None:
        """A page that was cut, or a train that was left, has ended its connection: the next one may
        lead to another server or table, as behind a failure. Never within a train."""
        if not self._engine.connected:
            self._footing.prove()

    def _leave_train(self) -> None:
        """What is under way is not wanted any more. Never raises."""
        train, left = self._train, self._train_left
        self._train, self._train_left = None, 0
        if train is not None and left:
            train.close()

    def _receive(self, stream: PageStream, pager: Pager, limit: PageLimit) -> bool:
        """Receive the page, or its next piece; True when the statement goes on behind that."""
        # What cannot be continued behind any row is received whole, however large it is.
        bytes_max = limit.bytes_max * _CUT_FACTOR - stream.wire_bytes if pager.cuttable else None
        if limit.piece_bytes_max is None or bytes_max is None or not self.piecewise:
            stream.receive(rows_max=None, bytes_max=bytes_max)
            return False
        piece_rows = limit.piece_rows_max
        if piece_rows and limit.rows_max - self._handed_on_rows <= piece_rows:
            piece_rows = None  # to the very end: what follows the last row is no piece
        piece_bytes = min(limit.piece_bytes_max, bytes_max)
        stream.receive(rows_max=piece_rows, bytes_max=piece_bytes)
        return not stream.ended and stream.wire_bytes <= limit.bytes_max * _CUT_FACTOR

    def _receive_a_row(self, stream: PageStream, pager: Pager, limit: PageLimit) -> None:
        """A page has a row, or it has ended, whatever its limit says: one that is cut before its
        first row would ask for the same again, for ever. Raises ValueTooLarge."""
        while not stream.ended and not stream.rows_ready:
            left_bytes = self._row_bytes_max - stream.wire_bytes
            if left_bytes < 0:
                seen_bytes = stream.wire_bytes
                self._abandon_stream()
                raise self._too_wide(seen_bytes, self._key_of_next_row(pager, limit))
            stream.receive(rows_max=1, bytes_max=left_bytes)

    def _rows_that_fit(self, stream: PageStream, batch: pa.RecordBatch) -> int:
        """How many rows come before the first that is too wide. One that came faster than it was
        looked at is refused like one that was seen to grow: else it were for the speed of a link
        to say which rows are read."""
        at = 0
        rows: int = batch.num_rows
        if stream.wire_bytes <= self._row_bytes_max:
            return rows
        while at < rows:
            # What is less than a row may have, in all its rows, has none that is too wide.
            step = rows - at
            while step > 1 and batch.slice(at, step).nbytes > self._row_bytes_max:
                step //= 2
            if step == 1 and batch.slice(at, 1).nbytes > self._row_bytes_max:
                return at
            at += step
        return rows

    def _key_of_next_row(self, pager: Pager, limit: PageLimit) -> str:
        """Which row a page would begin with, for a message; its place where nobody can say."""
        names = self._range.columns
        if self._range.kind not in (RangeKind.KEYSET, RangeKind.SPAN):
            return f"in {describe_range(self._range)}"
        columns = tuple(self._engine.hidden_column(f"_rivet_key_{i}") for i in range(len(names)))
        select = self._in_window(pager.select(replace(limit, rows_max=1)))
        select = replace(select, columns=self._engine.select_list((), names))
        try:
            stream = self._engine.open_stream(select, columns, pager.walk, packed=False)
            stream.receive(rows_max=None, bytes_max=None)
            (values,) = stream.take().slice(0, 1).to_pylist()
        except (SourceError, ValueError):
            return f"in {describe_range(self._range)}"
        shown = ", ".join(str(value) for value in values.values())
        return f"with ({', '.join(names)}) = ({shown})"

    def _too_wide(self, seen_bytes: int, which: str) -> ValueTooLarge:
        mib = 1024 * 1024
        return ValueTooLarge(
            f"{self._engine.identity}: the row {which} has more than {seen_bytes // mib} MB; the "
            f"widest that this worker takes has {self._row_bytes_max // mib} MB ({ROW_VALUES} "
            "times its largest value)",
            hint="raise `campaign.worker_memory_mb` (and `max_value_mb`), or leave wide columns "
            "out with `query:`",
            code="RIVET_ROW_TOO_LARGE",
        )

    def _stream_page(self, pager: Pager | None, limit: PageLimit) -> Page:
        """The next rows of a statement that is handed on as it arrives: the only one of a WHOLE,
        WINDOW or NULLS chunk, or all rows of one over-full value."""
        if self._stream is None:
            self._stand_again()
            self._stream = self._open(self._in_window(self._streamed_select(pager, limit)), pager)
        stream = self._stream
        before_s, before_bytes = stream.seconds, stream.wire_bytes
        stream.receive(rows_max=max(1, limit.rows_max), bytes_max=limit.bytes_max)
        batch = stream.take(max(1, limit.rows_max))
        self._count_changes(stream)
        self._streamed_rows += batch.num_rows
        arrived_bytes = stream.wire_bytes - before_bytes
        self._rowless_bytes = 0 if batch.num_rows else self._rowless_bytes + arrived_bytes
        if self._rowless_bytes > self._row_bytes_max:
            nth = f"number {self._streamed_rows + 1} of its statement"
            raise self._too_wide(self._rowless_bytes, nth)
        self._handed_on_bytes = stream.wire_bytes
        done = stream.ended and stream.rows_ready == 0
        page = Page(
            batch=self._visible(batch),
            statement_s=stream.statement_s,
            pace_s=stream.seconds - before_s,
            wire_bytes=arrived_bytes,
            last=done and pager is None,
        )
        # Only the over-full value was streamed: its pager goes on behind it.
        if done and pager is not None:
            pager.accept(batch, stream.wire_bytes, cut=False)
            self._stream, self._streamed_rows, self._handed_on_bytes = None, 0, 0
        return page

    def _check_end(
        self, stream: PageStream, pager: Pager, batch: pa.RecordBatch, statement_s: float
    ) -> None:
        """Before anything of the page's end is believed: does the server agree? Raises
        DataIntegrityError, SourceError."""
        proofs, select = self._proofs, self._asked
        if proofs is None:
            return
        proofs.read(statement_s)
        if select is None:
            return
        end = pager.end(batch, changed=bool(stream.changed))
        if end.within is not None and proofs.wants(last=end.last):
            proofs.ask(
                lambda count, timeout_s: stream.count(self._engine.count_sql(count), timeout_s),
                replace(select, where=(*select.where, *end.within)),
                rows=self._handed_on_rows + end.rows,
                page_s=statement_s,
                timeout_s=self._timeout_s,
                what=self._what,
                trusted=self._engine.keeps_snapshots,
            )
        stream.release()

    @property
    def _what(self) -> str:
        return f"{self._named}, {describe_range(self._range)}"

    def _open(self, select: Select, pager: Pager | None, *, held: bool = False) -> PageStream:
        walk = Walk.ANY if pager is None else pager.walk
        packed = self._packed
        return self._engine.open_stream(select, self._columns, walk, packed=packed, held=held)

    def _streamed_select(self, pager: Pager | None, limit: PageLimit) -> Select:
        if pager is not None:
            return pager.select(limit)
        return whole_select(self._engine.keys, self._select_list, self._source, self._range)

    def _in_window(self, select: Select) -> Select:
        return windowed(select, self._engine.keys, self._window, self._range)

    def _abandon_stream(self) -> None:
        if self._stream is not None:
            self._stream.abandon()
        self._leave_train()
        self._forget_stream()

    def _forget_stream(self) -> None:
        self._stream = None
        self._handed_on_rows = self._rowless_bytes = self._handed_on_bytes = 0

    def _visible(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The planned columns alone, with the reader's schema, as they are packed."""
        if batch.num_columns == len(self._schema):
            return batch  # no key was hidden behind them
        return dressed(batch.columns[: len(self._schema)], self._schema)

    def _check_keys(self, stream: PageStream) -> None:
        """A key that was changed has lost its place in the order, and rows with it."""
        replaced = self._key_names & stream.changed.keys()
        if replaced:
            raise MalformedData(
                f"chunk key {', '.join(sorted(replaced))}: a key that is not valid text cannot be "
                "followed",
                hint="cut the export by another key",
            )

    def _count_changes(self, stream: PageStream) -> None:
        for name, count in stream.changed.items():
            self._changed[name] = self._changed.get(name, 0) + count
        stream.changed.clear()

    def _keys_of_row(self, batch: pa.RecordBatch, row: int) -> KeyTuple:
        values = [batch.column(position)[row].as_py() for position in self._key_positions]
        if None in values:
            raise MalformedData(
                f"chunk key ({', '.join(self._range.columns)}) is NULL in a row",
                hint="a chunk key must be NOT NULL",
            )
        return tuple(self._engine.key_text(value) for value in values)


def text_column(name: str, *, native_type: str, wire_type: str) -> ColumnSpec:
    """A hidden key's column: text, whatever the engine calls it."""
    return ColumnSpec(
        name=name,
        native_type=native_type,
        type=ColumnType(kind=TypeKind.STRING),
        wire_type=wire_type,
    )
