"""One prepared statement, executed once: its rows, decoded as they arrive."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial

import pymysql

from rivet_fleet.contracts.columns import ColumnSpec
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.errors import SchemaDrift, SourceError, SourceRefused
from rivet_fleet.execution.engines.session import Settings, maybe_swapped, whole
from rivet_fleet.execution.engines.stream import SteppedStream, Steps, Train
from rivet_fleet.execution.servo import Overdue
from rivet_fleet.execution.sources.mysql import wire
from rivet_fleet.execution.sources.mysql.border import SWAPPED_CODES, Asked
from rivet_fleet.execution.sources.mysql.decoder import BatchDecoder
from rivet_fleet.execution.sources.mysql.liveness import WatchedConnection, well_formed
from rivet_fleet.execution.sources.mysql.session import Session
from rivet_fleet.execution.sources.mysql.statements import statement_limit

BLOCK_BYTES = 256 * 1024
"""What one block holds at most; the caller's limits are looked at behind every block."""
_BLOCK_BYTES_MIN = 4 * 1024
_LITTLE_BYTES = 64 * 1024
"""A block that is smaller came from a server that makes rows slower than they are read."""

_REFUSALS: dict[int, tuple[type[SourceError], str]] = {
    1295: (
        SourceRefused,
        "a proxy on the way refuses prepared statements; export from the server itself, or "
        "allow them there",
    ),
    1243: (
        SourceRefused,
        "a proxy on the way sends a statement's execution to another server than its "
        "preparation; export from the server itself",
    ),
}
"""Errors that speak of prepared statements rather than of what was asked: class and remedy."""


class StatementStream(SteppedStream):
    """A ``PageStream``: prepared with the first receive, closed on the server behind the last
    byte. ``seconds`` runs from sending the execution to the last byte; the round trip that
    preparing took is taken off.
    """

    _decoder: BatchDecoder

    def __init__(
        self,
        session: Session,
        sql: str,
        columns: tuple[ColumnSpec, ...],
        settings: Settings,
        tuning: TuningPlan,
        decoder: BatchDecoder,
        *,
        subject: str = "the query",
        held: bool = False,
    ) -> None:
        """``subject``: what is read, in messages. ``held``: see ``SteppedStream``."""
        super().__init__(decoder, held=held, times=session.times)
        self._session, self._sql, self._settings = session, sql, settings
        self._timeout_s = tuning.statement_timeout_s
        self._columns = columns
        self._subject = subject
        self._block_bytes = BLOCK_BYTES

    def receive(self, *, rows_max: int | None, bytes_max: int | None) -> None:
        """As every stream, by blocks that are small enough for ``bytes_max``."""
        if bytes_max is not None:
            # A block is decoded at once: of rows that are small on the wire, it must not hold
            # many more than the caller wants.
            self._block_bytes = max(_BLOCK_BYTES_MIN, min(BLOCK_BYTES, bytes_max // 4))
        super().receive(rows_max=rows_max, bytes_max=bytes_max)

    # ------------------------------------------------------------ one statement

    def _receive(self) -> Steps:
        """One block at each step; what happens before and behind the statement is not counted."""
        subject = self._subject
        reading = self._session.reading(
            self._settings,
            doing=f"reading a page of {subject}",
            timeout_s=self._timeout_s,
            subject=subject,
            snapshot=self._held,
        )
        with maybe_swapped(SWAPPED_CODES), reading as connection:
            channel = wire.Channel(connection)
            overdue = Overdue(self._session.url.identity, connection.silence_s_max or 0.0)
            prepared = self._prepare(channel)
            try:
                rows = self._rows(channel, partial(wire.execute, channel, prepared))
                yield from self._timed(rows, channel, overdue)
            except wire.StatementFailed as error:
                with contextlib.suppress(pymysql.MySQLError):
                    wire.close(channel, prepared)
                self._explain(error)
                raise
            self._part(channel, prepared)
            if self._held:
                yield from self._hold(partial(self._ask, connection))

    def _part(self, channel: wire.Channel, prepared: wire.Prepared) -> None:
        """The result is whole, whatever becomes of the connection now."""
        if not self._decoder.parted:
            with contextlib.suppress(pymysql.MySQLError):
                wire.close(channel, prepared)
                return
        self._session.close()

    def _ask(self, connection: WatchedConnection, sql: str, timeout_s: float) -> int:
        self._session.limit(statement_limit(self._session.server, timeout_s))
        with connection.cursor() as cursor:
            cursor.execute(sql)
            with well_formed():
                ((answered,),) = cursor.fetchall()
                return whole(answered)

    def _prepare(self, channel: wire.Channel) -> wire.Prepared:
        began_s = time.monotonic()
        try:
            prepared = wire.prepare(channel, self._sql)
        except wire.StatementFailed as error:
            self._explain(error)
            raise
        prepared_s = time.monotonic() - began_s
        self._session.times.answered(prepared_s)  # it may have waited for a lock
        self._way_s = self._session.times.way_s(prepared_s)
        self._check_prepared(prepared)
        return prepared

    def _check_prepared(self, prepared: wire.Prepared) -> None:
        if prepared.parameters:
            raise SourceRefused(
                f"{self._session.url.identity}: the statement has placeholders (?)",
                hint="write the values into the `query:`",
            )

    def _timed(
        self, blocks: Iterator[None], channel: wire.Channel, overdue: Overdue
    ) -> Iterator[None]:
        """The same, measured."""
        while True:
            began_s = time.monotonic()
            try:
                next(blocks)
            except StopIteration:
                return
            finally:
                self._spent_s += time.monotonic() - began_s
                self.wire_bytes = channel.wire_bytes
            overdue.check(self._spent_s)
            yield

    def _rows(
        self, channel: wire.Channel, begin: Callable[[], tuple[wire.ColumnDefinition, ...]]
    ) -> Iterator[None]:
        """Feed the decoder until the server's end or error. ``begin``: takes what stands before
        the rows."""
        check_definitions(begin(), self._columns)
        buffer = memoryview(bytearray(BLOCK_BYTES))
        while not self._decoder.ended:
            count = channel.receive_into(buffer[: self._block_bytes])
            self._decoder.feed(buffer[:count])
            if count < min(_LITTLE_BYTES, self._block_bytes) and not self._decoder.ended:
                channel.let_collect()
            yield
        self._decoder.finish()
        if self._decoder.error is not None:
            raise wire.StatementFailed(self._decoder.error, channel.asked)

    def _explain(self, error: wire.StatementFailed) -> None:
        """Raise ours for an error that a statement sent as text would not have met."""
        said = error.server_error
        if said.errno in _REFUSALS:
            found, hint = _REFUSALS[said.errno]
            # Not in its words: SIGNAL may send these numbers, too.
            message = (
                f"{self._session.url.identity}: a page could not be read by a prepared statement "
                f"({said.errno})"
            )
            raise found(message, hint=hint, code=f"MYSQL_{said.errno}") from None


class _PageOfTrain(StatementStream):
    """A ``PageStream``: one of several statements that were sent at once. The server finds the next
    one on its socket when it has sent a page's last byte. The first one sends them all."""

    def __init__(
        self,
        train: Train[Session],
        number: int,
        columns: tuple[ColumnSpec, ...],
        settings: Settings,
        tuning: TuningPlan,
        decoder: BatchDecoder,
        *,
        subject: str,
    ) -> None:
        sql = train.statements[number]
        super().__init__(train.session, sql, columns, settings, tuning, decoder, subject=subject)
        self._train, self._number = train, number
        if not train.is_last(number):
            decoder.expect_more()

    def _receive(self) -> Steps:
        session, subject = self._session, self._subject
        reading = session.reading(
            self._settings,
            doing=f"reading a page of {subject}",
            timeout_s=self._timeout_s,
            subject=subject,
        )
        with maybe_swapped(SWAPPED_CODES), reading as connection:
            try:
                yield from self._answer(connection)
            except BaseException:
                # The others' answers are on their way: nobody could tell them from the next one's.
                session.close()
                raise

    def _answer(self, connection: WatchedConnection) -> Steps:
        channel = wire.Channel(connection)
        if self._number:
            connection.expect_answer()
        else:
            wire.send_all(channel, self._train.statements)
        connection.asked = Asked(text=self._sql)
        overdue = Overdue(self._session.url.identity, connection.silence_s_max or 0.0)
        channel.sequence_id = 1
        prepared = wire.take_prepared(channel)
        self._check_prepared(prepared)
        channel.sequence_id = 1
        rows = self._rows(channel, partial(wire.take_definitions, channel))
        yield from self._timed(rows, channel, overdue)
        if not self._train.is_last(self._number):
            channel.give_back(self._decoder.rest())
            self._train.ended(self._number)
        self.wire_bytes = channel.wire_bytes
        self._part(channel, prepared)


def statement_train(
    session: Session,
    statements: tuple[str, ...],
    columns: tuple[ColumnSpec, ...],
    settings: Settings,
    tuning: TuningPlan,
    open_decoder: Callable[[], BatchDecoder],
    *,
    subject: str,
) -> Generator[StatementStream, None, None]:
    """The streams of several statements that are asked for at once, each with a decoder of its own;
    ``subject`` as of ``StatementStream``. Nothing is sent before the first receive."""
    train = Train(session, statements)
    return train.streams(
        lambda number: _PageOfTrain(
            train, number, columns, settings, tuning, open_decoder(), subject=subject
        )
    )


def check_definitions(
    definitions: tuple[wire.ColumnDefinition, ...], columns: tuple[ColumnSpec, ...]
) -> None:
    """Check that the server sends the planned columns. Raises SchemaDrift."""
    if not definitions:
        raise SourceRefused("the statement has no result", hint="a `query:` must be a SELECT")
    if len(definitions) != len(columns):
        raise SchemaDrift(
            f"the source sends {len(definitions)} columns, planned were {len(columns)}",
            hint="plan the export again",
        )
    for definition, column in zip(definitions, columns, strict=True):
        if not wire.same_form(column.wire_type, definition.wire_type):
            raise SchemaDrift(
                f"column {column.name} was planned as {column.native_type} (wire type "
                f"{column.wire_type}), but the source sends wire type {definition.wire_type}",
                hint="plan the export again",
            )
