"""One query message that holds one COPY, or several (ADR 0031), and its answer, over psycopg's own
libpq (ADR 0015)."""

from __future__ import annotations

import ctypes
import importlib
import time
from collections.abc import Callable, Generator
from enum import Enum
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Protocol

import psycopg
from psycopg import Cursor, pq
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.errors import MalformedData, SourceError, SourceRefused
from rivet_fleet.execution.engines.decoding import BatchDecoder
from rivet_fleet.execution.engines.session import (
    OTHER_ANSWER,
    Settings,
    answers_within_s,
    maybe_swapped,
    whole,
)
from rivet_fleet.execution.engines.stream import SteppedStream, Steps, Train
from rivet_fleet.execution.servo import Overdue
from rivet_fleet.execution.sources.postgres.border import SWAPPED
from rivet_fleet.execution.sources.postgres.decoder import compiled_decoder
from rivet_fleet.execution.sources.postgres.liveness import Partial, WatchedConnection
from rivet_fleet.execution.sources.postgres.session import Session

if TYPE_CHECKING:
    from rivet_fleet.execution.sources.postgres.copyreceive import CopyReceiver


# ------------------------------------------------------------------------------------------
# The libpq that psycopg itself uses, called directly: one Python call per row would cost more
# than decoding the row.
#
# psycopg hands out the address of its connection (``PGconn.pgconn_ptr``), which is only good for
# the very library it came from. That library is found through psycopg's own extension module: the
# dynamic linker looks a symbol up in a module and in what the module is linked with (dlsym(3)).

_MODULES = {"binary": "psycopg_binary.pq", "c": "psycopg_c.pq"}
"""psycopg's implementations that are linked with libpq. A pure Python one is read row by row."""


@cache
def libpq_addresses(*names: str) -> tuple[int, ...] | None:
    """The addresses of functions of psycopg's libpq, or None where it cannot be reached."""
    module = _MODULES.get(pq.__impl__)
    if module is None:
        return None
    try:
        library = ctypes.CDLL(importlib.import_module(module).__file__)
        return tuple(_address(getattr(library, name)) for name in names)
    except (ImportError, OSError, AttributeError):
        return None


def _address(function: object) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0  # type: ignore[arg-type]


_COPIED = ("PQgetCopyData", "PQconsumeInput", "PQfreemem")
BLOCK_BYTES = 256 * 1024
"""About how much is received before the caller's limits are looked at again."""


class Pulled(Enum):
    """Why a pull returned; the values are the compiled receiver's."""

    BLOCK = 0
    """A block's worth arrived; there may be more at once."""
    WAIT = 1
    """Nothing more is there yet."""
    END = 2
    """No more rows come; ``finish`` says whether the statement failed."""


class RowPuller(Protocol):
    """Gets the rows of a running COPY from libpq into a decoder."""

    def pull(self) -> tuple[int, Pulled]:
        """Receive up to about ``BLOCK_BYTES``; the bytes, and why it returned. After WAIT the
        caller waits for the connection to be readable. What has come of a row that is not whole is
        counted, and may turn out to be less: then the bytes are a correction."""
        ...

    def settle(self) -> None:
        """Decode what is held back. Raises as ``BatchDecoder.feed``."""
        ...


def open_puller(connection: WatchedConnection, decoder: BatchDecoder) -> RowPuller:
    """The quickest puller that this decoder allows."""
    compiled, functions = compiled_decoder(), libpq_addresses(*_COPIED)
    if compiled is None or functions is None or not isinstance(decoder, compiled):
        return HoldingPuller(connection, decoder)
    # Built with the decoder, or neither is.
    from rivet_fleet.execution.sources.postgres.copyreceive import CopyReceiver

    return _DirectPuller(connection, CopyReceiver(decoder, functions))


class Exchange:
    """One query and its answer, or one page's part of it. Raises psycopg's errors, and as
    ``BatchDecoder.feed``.

    What a server says unasked is libpq's to keep: notices, settings and notifications wherever
    they come, and its farewell behind an answer, with which the next query fails.
    """

    def __init__(self, connection: WatchedConnection, decoder: BatchDecoder) -> None:
        self._connection = connection
        self._puller = open_puller(connection, decoder)
        self.pull = self._puller.pull
        self.settle = self._puller.settle

    def send(self, query: bytes) -> None:
        """Send the query, and wait until its rows begin."""
        self._connection.pgconn.send_query(query)
        self.begin()

    def begin(self) -> None:
        """Wait until rows begin, of a query that was sent."""
        while (result := self._result()) is not None and result.status != ExecStatus.COPY_OUT:
            check(result)
        if result is None:
            raise psycopg.OperationalError("the server ended the statement without rows to copy")

    def finish(self) -> None:
        """After END: check that the whole query succeeded, what followed the rows, too."""
        while (result := self._result()) is not None:
            check(result)

    def finish_page(self) -> None:
        """After END, of a query that goes on with another page: check that this one's statement
        and transaction succeeded."""
        for _ in ("COPY", "COMMIT"):
            result = self._result()
            if result is None:
                raise psycopg.OperationalError("the server ended the query before its last page")
            check(result)

    def _result(self) -> PGresult | None:
        connection = self._connection
        connection.flush()
        pgconn, bounds = connection.pgconn, connection.expect_answer()
        while pgconn.is_busy():
            connection.wait_readable(bounds)
            pgconn.consume_input()
        return pgconn.get_result()


class HoldingPuller:
    """Takes one row at a time from libpq and holds the bytes back until ``settle``: a slow
    decoder must not keep the server's statement open."""

    def __init__(self, connection: WatchedConnection, decoder: BatchDecoder) -> None:
        self._pgconn, self._decoder = connection.pgconn, decoder
        self._held: list[bytes] = []
        self._waits = False
        self._partial = Partial(self._pgconn.socket)

    def pull(self) -> tuple[int, Pulled]:
        """See ``RowPuller``. psycopg's own Copy would cost a generator a row."""
        rows: list[bytes] = []
        received_bytes, why = 0, Pulled.BLOCK
        if self._waits:
            self._partial.begin()
            self._pgconn.consume_input()
            received_bytes += self._partial.more_bytes()
        while received_bytes < BLOCK_BYTES or not rows:
            count, data = self._pgconn.get_copy_data(1)
            if count <= 0:
                why = Pulled.WAIT if count == 0 else Pulled.END
                break
            rows.append(bytes(data))
            received_bytes += count - self._partial.end()
        self._waits = why is Pulled.WAIT
        if rows:
            self._held.append(b"".join(rows))
        if why is Pulled.END:
            received_bytes -= self._partial.end()
        return received_bytes, why

    def settle(self) -> None:
        """Feed the decoder; every block is let go as soon as it is decoded."""
        self._held.reverse()
        while self._held:
            self._decoder.feed(self._held.pop())


class _DirectPuller:
    """Rows go from libpq's buffer into Arrow's; the interpreter sees blocks only."""

    def __init__(self, connection: WatchedConnection, receiver: CopyReceiver) -> None:
        self._pgconn, self._receiver = connection.pgconn, receiver

    def pull(self) -> tuple[int, Pulled]:
        """One block, by the compiled receiver."""
        address = self._pgconn.pgconn_ptr  # type: ignore[attr-defined]
        received_bytes, why = self._receiver.pull(address, self._pgconn.socket, BLOCK_BYTES)
        return received_bytes, Pulled(why)

    def settle(self) -> None:
        """Nothing is held back."""


def check(result: PGresult) -> None:
    """Raise psycopg's own exception for a result that reports an error."""
    if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.EMPTY_QUERY):
        raise psycopg.errors.error_from_result(result)


# ------------------------------------------------------------------------------------------
# One COPY statement in one short transaction: its rows, decoded.


class CopyStream(SteppedStream):
    """A ``PageStream``: the transaction begins with the first receive and ends with the last
    byte. Round trips are not counted into ``seconds``.
    """

    def __init__(
        self,
        session: Session,
        sql: str,
        settings: Settings,
        tuning: TuningPlan,
        decoder: BatchDecoder,
        *,
        held: bool = False,
        foreign: bool = False,
    ) -> None:
        """``held``: see ``SteppedStream``. ``foreign``: the statement holds SQL of a user."""
        super().__init__(decoder, held=held, times=session.times)
        self._session, self._sql, self._settings = session, sql, settings
        self._timeout_s, self._foreign = tuning.statement_timeout_s, foreign
        self._exchange: Exchange | None = None
        self._bounded = False
        limit_s = answers_within_s(tuning.statement_timeout_s)
        self._overdue = Overdue(session.url.identity, limit_s or 0.0)

    def receive(self, *, rows_max: int | None, bytes_max: int | None) -> None:
        """As every stream. A page without a row limit is decoded when it has arrived."""
        self._bounded = rows_max is not None
        super().receive(rows_max=rows_max, bytes_max=bytes_max)
        self._settle()
        if self.ended:
            self._decoder.finish()

    def abandon(self) -> None:
        """Close the connection first: a page that has sent nothing yet ends like any other."""
        if not self.ended or self._holds:
            self._session.close()
        super().abandon()

    def _settle(self) -> None:
        if self._exchange is not None:
            self._exchange.settle()

    def _step(self) -> None:
        started_s = time.monotonic()
        try:
            with maybe_swapped(SWAPPED):
                next(self._steps)
            self._check_end(self._spent_s + time.monotonic() - started_s)
            self.ended = self._holds
        except StopIteration:
            self.ended = True
        finally:
            self._spent_s += time.monotonic() - started_s
        if self._bounded:
            self._settle()

    def _check_end(self, spent_s: float) -> None:
        try:
            self._overdue.check(spent_s)
        except SourceError:
            self.abandon()
            raise

    def _receive(self) -> Steps:
        began_s = time.monotonic()
        session, doing = self._session, "reading a page"
        session.undoing = self._foreign
        if not session.stepwise and not self._held:
            round_trip_s = session.round_trip_s()
            self._way_s += time.monotonic() - began_s + round_trip_s
            with session.alone(doing=doing, timeout_s=self._timeout_s):
                yield from self._answer(
                    in_one_message(session.begin(self._settings), self._sql, session.ending)
                )
            return
        with session.reading(
            self._settings, doing=doing, timeout_s=self._timeout_s, snapshot=self._held
        ) as cursor:
            # BEGIN costs the server nothing: it tells the round trip, as far as no pooler let it
            # wait for a connection; its own time is no statement's.
            begun_s = time.monotonic() - began_s
            self._way_s += begun_s + session.times.way_s(begun_s)
            yield from self._answer(self._sql.encode())
            if self._held:
                yield from self._hold(partial(self._ask, cursor))
            ended_s = time.monotonic()
        self._way_s += time.monotonic() - ended_s

    def _ask(self, cursor: Cursor[tuple[Any, ...]], sql: str, timeout_s: float) -> int:
        limit = f"SET LOCAL statement_timeout = {max(1, round(timeout_s * 1000))}"
        limit = limit if timeout_s > 0 else "SELECT"
        # What holds SQL of a user goes one statement a message (``_OneStatement``).
        if self._foreign:
            cursor.execute(limit.encode())
            cursor.execute(sql.encode())
        else:
            cursor.execute(f"{limit};{sql}".encode())
        while cursor.nextset():
            pass
        row = cursor.fetchone()
        try:
            return whole(row[0]) if row else 0
        except SourceRefused:
            said = "the server counted rows and sent no number"
            raise MalformedData(said, code=OTHER_ANSWER) from None

    def _answer(self, query: bytes) -> Steps:
        connection = self._session.connection
        self._exchange = exchange = Exchange(connection, self._decoder)
        try:
            self._begin(exchange, query)
            why = Pulled.BLOCK
            while why is not Pulled.END:
                received_bytes, why = exchange.pull()
                self.wire_bytes += received_bytes
                if why is Pulled.END:
                    self._finish(exchange)
                elif why is Pulled.WAIT and not received_bytes:
                    connection.wait_readable()
                yield  # with what has come: it may be enough, and nothing more may ever come
        except BaseException:
            # Half an answer may be on its way: nobody could tell it from the next one's.
            self._session.close()
            raise

    def _begin(self, exchange: Exchange, query: bytes) -> None:
        exchange.send(query)

    def _finish(self, exchange: Exchange) -> None:
        exchange.finish()


def in_one_message(begin: str, sql: str, end: str) -> bytes:
    """The whole transaction in one query: its answer comes in one round trip."""
    return f"{begin};{sql};{end}".encode()


class _PageOfTrain(CopyStream):
    """A ``PageStream``: one of several COPYs in one message, each in a short transaction of its
    own. What the server does between two of them needs no word of ours; each has its own limit,
    snapshot and locks. The first one sends the message."""

    def __init__(
        self,
        train: Train[Session],
        number: int,
        settings: Settings,
        tuning: TuningPlan,
        decoder: BatchDecoder,
        *,
        foreign: bool,
    ) -> None:
        """``foreign``: as of ``CopyStream``."""
        sql = train.statements[number]
        super().__init__(train.session, sql, settings, tuning, decoder, foreign=foreign)
        self._train, self._number = train, number

    def _receive(self) -> Steps:
        if not self._number:
            yield from super()._receive()
            return
        with self._session.alone(doing="reading a page", timeout_s=self._timeout_s):
            yield from self._answer(b"")

    def _begin(self, exchange: Exchange, query: bytes) -> None:
        if self._number:
            exchange.begin()
            return
        begin, end = self._session.begin(self._settings), self._session.ending
        pages = (in_one_message(begin, sql, end) for sql in self._train.statements)
        exchange.send(b";".join(pages))

    def _finish(self, exchange: Exchange) -> None:
        if self._train.is_last(self._number):
            exchange.finish()
        else:
            exchange.finish_page()
            self._train.ended(self._number)


def copy_train(
    session: Session,
    statements: tuple[str, ...],
    settings: Settings,
    tuning: TuningPlan,
    open_decoder: Callable[[], BatchDecoder],
    *,
    foreign: bool,
) -> Generator[CopyStream, None, None]:
    """The streams of several COPYs that are asked for at once, each with a decoder of its own;
    ``foreign`` as of ``CopyStream``. Nothing is sent before the first receive."""
    train = Train(session, statements)
    return train.streams(
        lambda number: _PageOfTrain(
            train, number, settings, tuning, open_decoder(), foreign=foreign
        )
    )
