"""One query message that holds one COPY, and its answer: over libpq, or straight on the socket.

ADR 0015. psycopg connects, authenticates and speaks for everything else; between two of its
statements a connection is idle, and on an unencrypted one a page's query and answer pass by libpq
without its knowing: from the first byte sent to ReadyForQuery.
"""

from __future__ import annotations

import os
import struct
from enum import Enum
from typing import TYPE_CHECKING, Protocol

import psycopg
import psycopg.errors
from psycopg.pq import DiagnosticField, ExecStatus
from psycopg.pq.abc import PGresult

from rivet_fleet.errors import MalformedData
from rivet_fleet.execution.sources.postgres.decoder import BatchDecoder, compiled_decoder
from rivet_fleet.execution.sources.postgres.libpq import encrypted, libpq_functions
from rivet_fleet.execution.sources.postgres.liveness import WatchedConnection

if TYPE_CHECKING:
    from rivet_fleet.execution.sources.postgres.copyreceive import LibpqReceiver, SocketReceiver

BLOCK_BYTES = 256 * 1024
"""About how much is received before the caller's limits are looked at again."""


class Pulled(Enum):
    """Why a pull returned; the values are the compiled receivers'."""

    BLOCK = 0
    """A block's worth arrived; there may be more at once."""
    WAIT = 1
    """Nothing more is there yet."""
    END = 2
    """No more rows come; ``finish`` says whether the statement failed."""
    LOST = 3
    """The connection was closed."""


class Exchange(Protocol):
    """One query and its answer. All but ``settle`` raise psycopg's errors."""

    def send(self, query: bytes) -> None:
        """Send the query, and wait until its rows begin where that can be told."""
        ...

    def pull(self) -> tuple[int, Pulled]:
        """Receive up to about ``BLOCK_BYTES``; the bytes, and why it returned. After WAIT the
        caller waits for the connection to be readable."""
        ...

    def settle(self) -> None:
        """Decode what is held back. Raises as ``BatchDecoder.feed``."""
        ...

    def finish(self) -> None:
        """After END: check that the whole query succeeded."""
        ...

    @property
    def parted(self) -> bool:
        """After ``finish``: the server took its leave behind the whole answer. What arrived is
        good; the connection is not."""
        ...


class RowPuller(Protocol):
    """Gets the rows of a running COPY from libpq into a decoder."""

    def pull(self) -> tuple[int, Pulled]:
        """See ``Exchange``."""
        ...

    def settle(self) -> None:
        """See ``Exchange``."""
        ...


def open_exchange(connection: WatchedConnection, decoder: BatchDecoder) -> Exchange:
    """The quickest exchange that this connection and this decoder allow."""
    compiled = compiled_decoder()
    if compiled is None or not isinstance(decoder, compiled):
        return LibpqExchange(connection, HoldingPuller(connection, decoder))
    # Built with the decoder, or neither is.
    from rivet_fleet.execution.sources.postgres.copyreceive import LibpqReceiver, SocketReceiver

    if not encrypted(connection.pgconn):
        return SocketExchange(connection, SocketReceiver(decoder))
    functions = libpq_functions()
    if functions is None:
        return LibpqExchange(connection, HoldingPuller(connection, decoder))
    receiver = LibpqReceiver(decoder, functions.for_rows)
    return LibpqExchange(connection, _DirectPuller(connection, receiver))


class SocketExchange:
    """The query and its answer on the connection's own socket, which libpq does not look at
    meanwhile. A compiled receiver reads the messages."""

    def __init__(self, connection: WatchedConnection, receiver: SocketReceiver) -> None:
        self._connection, self._receiver = connection, receiver
        self._fd = connection.pgconn.socket

    def send(self, query: bytes) -> None:
        """One Query message; nothing is read yet."""
        left = memoryview(b"Q" + struct.pack(">I", len(query) + 5) + query + b"\0")
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except BlockingIOError:
                self._connection.wait_writable()
            except OSError as error:
                raise psycopg.OperationalError(f"the connection was lost: {error}") from None

    def pull(self) -> tuple[int, Pulled]:
        """See ``Exchange``. What the server said before it closed the connection is raised."""
        received_bytes, why = self._receiver.pull(self._fd, BLOCK_BYTES)
        if why == Pulled.LOST.value:
            self._check_error()
            raise psycopg.OperationalError("the server closed the connection unexpectedly")
        return received_bytes, Pulled(why)

    def settle(self) -> None:
        """Nothing is held back."""

    def finish(self) -> None:
        """See ``Exchange``."""
        self._check_error()
        if self._receiver.copies != 1:
            raise psycopg.OperationalError("the server ended the statement without rows to copy")

    @property
    def parted(self) -> bool:
        """See ``Exchange``."""
        return self._receiver.farewell is not None

    def _check_error(self) -> None:
        if self._receiver.error is not None:
            raise reported_error(self._receiver.error)


class LibpqExchange:
    """The query and its answer over libpq, which alone knows what an encrypted socket says."""

    def __init__(self, connection: WatchedConnection, puller: RowPuller) -> None:
        self._connection, self._puller = connection, puller
        self._waits = False

    def send(self, query: bytes) -> None:
        """See ``Exchange``: to the beginning of the rows."""
        self._connection.pgconn.send_query(query)
        while (result := self._result()) is not None and result.status != ExecStatus.COPY_OUT:
            _check(result)
        if result is None:
            raise psycopg.OperationalError("the server ended the statement without rows to copy")

    def pull(self) -> tuple[int, Pulled]:
        """See ``Exchange``."""
        if self._waits:
            self._connection.pgconn.consume_input()
        received_bytes, why = self._puller.pull()
        self._waits = why is Pulled.WAIT
        return received_bytes, why

    def settle(self) -> None:
        """See ``Exchange``."""
        self._puller.settle()

    def finish(self) -> None:
        """See ``Exchange``: the results of what followed the rows, too."""
        while (result := self._result()) is not None:
            _check(result)

    @property
    def parted(self) -> bool:
        """See ``Exchange``. libpq keeps what lies behind an answer for the next query, which then
        fails as it would have anyway."""
        return False

    def _result(self) -> PGresult | None:
        connection = self._connection
        pgconn, bounds = connection.pgconn, connection.expect_answer()
        while pgconn.flush():
            connection.wait_readable(bounds)
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

    def pull(self) -> tuple[int, Pulled]:
        """See ``Exchange``. psycopg's own Copy would cost a generator a row."""
        rows: list[bytes] = []
        held_bytes, why = 0, Pulled.BLOCK
        while held_bytes < BLOCK_BYTES:
            count, data = self._pgconn.get_copy_data(1)
            if count <= 0:
                why = Pulled.WAIT if count == 0 else Pulled.END
                break
            rows.append(bytes(data))
            held_bytes += count
        if rows:
            self._held.append(b"".join(rows))
        return held_bytes, why

    def settle(self) -> None:
        """Feed the decoder; every block is let go as soon as it is decoded."""
        self._held.reverse()
        while self._held:
            self._decoder.feed(self._held.pop())


class _DirectPuller:
    """Rows go from libpq's buffer into Arrow's; the interpreter sees blocks only."""

    def __init__(self, connection: WatchedConnection, receiver: LibpqReceiver) -> None:
        self._pgconn, self._receiver = connection.pgconn, receiver

    def pull(self) -> tuple[int, Pulled]:
        """See ``Exchange``."""
        address = self._pgconn.pgconn_ptr  # type: ignore[attr-defined]
        received_bytes, why = self._receiver.pull(address, self._pgconn.socket, BLOCK_BYTES)
        return received_bytes, Pulled(why)

    def settle(self) -> None:
        """Nothing is held back."""


def reported_error(fields: bytes) -> psycopg.Error:
    """psycopg's exception for the fields of an ErrorResponse (manual, "Error and Notice Message
    Fields"). Raises MalformedData."""
    info: dict[int, bytes | None] = {}
    for field in fields.split(b"\0"):
        if field:
            info[field[0]] = field[1:]
    sqlstate = info.get(DiagnosticField.SQLSTATE)
    message = info.get(DiagnosticField.MESSAGE_PRIMARY)
    if sqlstate is None or message is None:
        raise MalformedData(f"an error message of {len(fields)} bytes without its code")
    texts = [message, info.get(DiagnosticField.MESSAGE_DETAIL), info.get(DiagnosticField.CONTEXT)]
    said = "\n".join(text.decode("utf-8", "replace") for text in texts if text)
    try:
        kind = psycopg.errors.lookup(sqlstate.decode("ascii", "replace"))
    except KeyError:
        kind = psycopg.DatabaseError
    return kind(said, info=info)


def _check(result: PGresult) -> None:
    """Raise psycopg's own exception for a result that reports an error."""
    if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.EMPTY_QUERY):
        raise psycopg.errors.error_from_result(result)
