"""One prepared statement, executed once: its rows, decoded as they arrive."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator

import pyarrow as pa
import pymysql

from rivet_fleet.contracts.columns import ColumnSpec
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.errors import SchemaDrift, SourceError, SourceRefused
from rivet_fleet.execution.engines.session import Settings, maybe_swapped
from rivet_fleet.execution.servo import Overdue
from rivet_fleet.execution.sources.mysql import wire
from rivet_fleet.execution.sources.mysql.border import SWAPPED_CODES
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


class StatementStream:
    """A ``PageStream``: prepared with the first receive, closed on the server behind the last
    byte. ``seconds`` runs from sending the execution to the last byte; the round trip that
    preparing took is taken off, because no page size can shorten it.
    """

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
        """``subject``: what is read, in messages. ``held``: the statement is one of a snapshot,
        which goes on behind the last row until ``release``."""
        self.wire_bytes = 0
        self.ended = False
        self._held = held
        self._holds = False
        """The statement has ended, and its snapshot has not."""
        self._question: tuple[str, float] | None = None
        self._answered = 0
        self._session = session
        self._columns = columns
        self._decoder = decoder
        self._subject = subject
        self._spent_s = 0.0
        self._round_trip_s = 0.0
        self._block_bytes = BLOCK_BYTES
        self._steps = self._receive(sql, settings, tuning.statement_timeout_s)

    @property
    def seconds(self) -> float:
        """How long the source worked; see the class."""
        return max(0.0, self._spent_s - self._round_trip_s)

    @property
    def rows_ready(self) -> int:
        """Rows complete and not yet taken."""
        return self._decoder.rows_ready

    @property
    def changed(self) -> dict[str, int]:
        """The decoder's own counts."""
        return self._decoder.changed

    def receive(self, *, rows_max: int | None, bytes_max: int | None) -> None:
        """See ``PageStream``. After an error the connection is in step, or it is closed."""
        before_bytes = self.wire_bytes
        if bytes_max is not None:
            # A block is decoded at once: of rows that are small on the wire, it must not hold
            # many more than the caller wants.
            self._block_bytes = max(_BLOCK_BYTES_MIN, min(BLOCK_BYTES, bytes_max // 4))
        while not self.ended:
            if rows_max is not None and self.rows_ready >= rows_max:
                return
            if bytes_max is not None and self.wire_bytes - before_bytes > bytes_max:
                return
            self._step()

    def take(self, rows_max: int | None = None) -> pa.RecordBatch:
        """The oldest rows, at most ``rows_max``."""
        return self._decoder.take(rows_max)

    def abandon(self) -> None:
        """End the statement before its end. Never raises.

        What leaves ``Session.reading`` in the middle closes the connection, and that is what
        ends the statement: the server notices with the next bytes it sends. KILL would need a
        second connection and could arrive late.
        """
        if not self.ended or self._holds:
            self.ended, self._holds = True, False
            with contextlib.suppress(SourceError):
                self._steps.close()

    def count(self, sql: str, timeout_s: float) -> int:
        """One number, asked in the snapshot that the rows were read in. Raises SourceError; then
        nothing is held."""
        self._question = sql, timeout_s
        try:
            next(self._steps)
        except BaseException:
            self._holds = False
            raise
        return self._answered

    def release(self) -> None:
        """End the snapshot of a held statement that has ended; nothing where none is held."""
        if self._holds:
            self._holds, self._question = False, None
            with contextlib.suppress(StopIteration):
                next(self._steps)

    # ------------------------------------------------------------ one statement

    def _step(self) -> None:
        try:
            next(self._steps)
            self.ended = self._holds
        except StopIteration:
            self.ended = True

    def _receive(
        self, sql: str, settings: Settings, timeout_s: float
    ) -> Generator[None, None, None]:
        """One block at each step; what happens before and behind the statement is not counted."""
        subject = self._subject
        reading = self._session.reading(
            settings,
            doing=f"reading a page of {subject}",
            timeout_s=timeout_s,
            subject=subject,
            snapshot=self._held,
        )
        with maybe_swapped(SWAPPED_CODES), reading as connection:
            channel = wire.Channel(connection)
            overdue = Overdue(self._session.url.identity, connection.silence_s_max or 0.0)
            prepared = self._prepare(channel, sql)
            try:
                yield from self._timed(self._execute(channel, prepared), channel, overdue)
            except wire.StatementFailed as error:
                with contextlib.suppress(pymysql.MySQLError):
                    wire.close(channel, prepared)
                self._explain(error)
                raise
            self._part(channel, prepared)
            if self._held:
                yield from self._hold(connection)

    def _part(self, channel: wire.Channel, prepared: wire.Prepared) -> None:
        """The result is whole, whatever becomes of the connection now."""
        if not self._decoder.parted:
            with contextlib.suppress(pymysql.MySQLError):
                wire.close(channel, prepared)
                return
        self._session.close()

    def _hold(self, connection: WatchedConnection) -> Iterator[None]:
        """Behind the last row: answer what is asked in its snapshot."""
        self._holds = True
        yield
        while self._question is not None:
            sql, timeout_s = self._question
            self._session.limit(statement_limit(self._session.server, timeout_s))
            with connection.cursor() as cursor:
                cursor.execute(sql)
                with well_formed():
                    ((answered,),) = cursor.fetchall()
                    self._answered = int(answered)
            yield

    def _prepare(self, channel: wire.Channel, sql: str) -> wire.Prepared:
        began_s = time.monotonic()
        try:
            prepared = wire.prepare(channel, sql)
        except wire.StatementFailed as error:
            self._explain(error)
            raise
        self._round_trip_s = time.monotonic() - began_s
        if prepared.parameters:
            raise SourceRefused(
                f"{self._session.url.identity}: the statement has placeholders (?)",
                hint="write the values into the `query:`",
            )
        return prepared

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

    def _execute(self, channel: wire.Channel, prepared: wire.Prepared) -> Iterator[None]:
        """Execute, and feed the decoder until the server's end or error."""
        check_definitions(wire.execute(channel, prepared), self._columns)
        buffer = memoryview(bytearray(BLOCK_BYTES))
        while not self._decoder.ended:
            count = channel.receive_into(buffer[: self._block_bytes])
            self._decoder.feed(buffer[:count])
            if count < min(_LITTLE_BYTES, self._block_bytes) and not self._decoder.ended:
                channel.let_collect()
            yield
        self._decoder.finish()
        if self._decoder.error is not None:
            raise wire.StatementFailed(self._decoder.error)

    def _explain(self, error: wire.StatementFailed) -> None:
        """Raise ours for an error that a statement sent as text would not have met."""
        said = error.server_error
        if said.errno in _REFUSALS:
            found, hint = _REFUSALS[said.errno]
            message = (
                f"{self._session.url.identity}: {said.message} ({said.errno}, preparing a page)"
            )
            raise found(message, hint=hint, code=f"MYSQL_{said.errno}") from None


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
