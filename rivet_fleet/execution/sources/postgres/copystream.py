"""One COPY statement in one short transaction: its rows, decoded."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from enum import Enum
from typing import Protocol

import psycopg
import psycopg.errors
import pyarrow as pa
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult

from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.errors import SourceError
from rivet_fleet.execution.sources.postgres.decoder import BatchDecoder
from rivet_fleet.execution.sources.postgres.session import Session, Settings

BLOCK_BYTES = 256 * 1024
"""About how much is received before the caller's limits are looked at again."""


class Pulled(Enum):
    """Why a pull returned."""

    BLOCK = "block"
    """A block's worth arrived; there may be more at once."""
    WAIT = "wait"
    """Nothing more is there yet."""
    END = "end"
    """The statement sends no more rows; its result says whether it failed."""


class RowPuller(Protocol):
    """Gets the rows of a running COPY from libpq into a decoder."""

    def pull(self, pgconn: PGconn) -> tuple[int, Pulled]:
        """Receive up to about ``BLOCK_BYTES``; the bytes, and why it returned."""
        ...

    def settle(self) -> None:
        """Decode what is held back. Raises as ``BatchDecoder.feed``."""
        ...


class HoldingPuller:
    """Takes one row at a time from libpq and holds the bytes back until ``settle``: a slow
    decoder must not keep the server's statement open."""

    def __init__(self, decoder: BatchDecoder) -> None:
        self._decoder = decoder
        self._held: list[bytes] = []

    def pull(self, pgconn: PGconn) -> tuple[int, Pulled]:
        """See ``RowPuller``. psycopg's own Copy would cost a generator a row."""
        rows: list[bytes] = []
        held_bytes, why = 0, Pulled.BLOCK
        while held_bytes < BLOCK_BYTES:
            count, data = pgconn.get_copy_data(1)
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


class CopyStream:
    """A ``PageStream``: the transaction begins with the first receive and ends with the last
    byte. BEGIN's round trip and COMMIT's are not counted into ``seconds``: no page size can
    shorten them, and a servo that counted them would end at one row a page on a distant source.
    """

    def __init__(
        self,
        session: Session,
        sql: str,
        settings: Settings,
        tuning: TuningPlan,
        decoder: BatchDecoder,
        puller: RowPuller,
    ) -> None:
        self.wire_bytes = 0
        self.ended = False
        self._spent_s = 0.0
        self._on_the_way_s = 0.0
        self._session = session
        self._decoder = decoder
        self._puller = puller
        self._steps = self._receive(sql, settings, tuning.statement_timeout_s)

    @property
    def seconds(self) -> float:
        """How long the source worked; see the class."""
        return max(0.0, self._spent_s - self._on_the_way_s)

    @property
    def rows_ready(self) -> int:
        """Rows decoded and not yet taken."""
        return self._decoder.rows_ready

    @property
    def changed(self) -> dict[str, int]:
        """The decoder's own counts."""
        return self._decoder.changed

    def receive(self, *, rows_max: int | None, bytes_max: int | None) -> None:
        """See ``PageStream``. A page without a row limit is decoded when it has arrived."""
        before_bytes = self.wire_bytes
        while not self.ended:
            if rows_max is not None and self.rows_ready >= rows_max:
                break
            if bytes_max is not None and self.wire_bytes - before_bytes > bytes_max:
                break
            self._step()
            if rows_max is not None:
                self._puller.settle()
        self._puller.settle()
        if self.ended:
            self._decoder.finish()

    def take(self, rows_max: int | None = None) -> pa.RecordBatch:
        """The oldest rows, at most ``rows_max``."""
        return self._decoder.take(rows_max)

    def abandon(self) -> None:
        """End the statement before its end. Never raises.

        Closing the connection is what ends it: a cancel request could arrive late and hit
        the statement after it, most of all behind a pooler.
        """
        if not self.ended:
            self.ended = True
            self._session.close()
            with contextlib.suppress(SourceError):
                self._steps.close()  # type: ignore[attr-defined]

    def _step(self) -> None:
        started_s = time.monotonic()
        try:
            self.wire_bytes += next(self._steps)
        except StopIteration:
            self.ended = True
        finally:
            self._spent_s += time.monotonic() - started_s

    def _receive(self, sql: str, settings: Settings, timeout_s: float) -> Iterator[int]:
        """The statement in steps of bytes received; between them the caller has its say."""
        connection = self._session.connection
        began_s = time.monotonic()
        with self._session.transaction(settings, doing="reading a page", timeout_s=timeout_s):
            # BEGIN costs the server nothing: it tells the round trip, once for itself and once
            # for the statement.
            self._on_the_way_s += 2.0 * (time.monotonic() - began_s)
            pgconn = connection.pgconn
            pgconn.send_query(sql.encode())
            _expect(self._next_result(), ExecStatus.COPY_OUT)
            why = Pulled.BLOCK
            while why is not Pulled.END:
                received_bytes, why = self._puller.pull(pgconn)
                if why is Pulled.WAIT:
                    connection.wait_readable()
                    pgconn.consume_input()
                yield received_bytes
            _expect(self._next_result(), ExecStatus.COMMAND_OK)
            ended_s = time.monotonic()
        self._on_the_way_s += time.monotonic() - ended_s

    def _next_result(self) -> PGresult | None:
        """The next result; an error's followers are taken too, so the connection stays usable."""
        connection = self._session.connection
        pgconn = connection.pgconn
        while pgconn.flush():
            connection.wait_readable()
        while pgconn.is_busy():
            connection.wait_readable()
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is not None and result.status != ExecStatus.COPY_OUT:
            while self._next_result() is not None:
                pass
        return result


def _expect(result: PGresult | None, status: ExecStatus) -> None:
    """Raise psycopg's own exception for a result that reports an error."""
    if result is None:
        raise psycopg.OperationalError("the server ended the statement without a result")
    if result.status != status:
        raise psycopg.errors.error_from_result(result)
