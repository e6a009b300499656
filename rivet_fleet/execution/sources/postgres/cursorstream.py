"""The rows of a statement that cannot be cut, in bounded steps: a cursor, a FETCH for each page.

ADR 0029. Each FETCH is a statement of its own, with the limit of one. A binary cursor's rows are
those of a binary COPY, cell by cell (manual, "DECLARE", "COPY"), so the same decoders read them.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

import pyarrow as pa
from psycopg import pq
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.errors import StatementTimeout
from rivet_fleet.execution.engines.decoding import BatchDecoder
from rivet_fleet.execution.engines.session import Settings
from rivet_fleet.execution.engines.stream import Steps
from rivet_fleet.execution.sources.postgres.decoder import compiled_decoder
from rivet_fleet.execution.sources.postgres.exchange import (
    BLOCK_BYTES,
    CopyStream,
    Pulled,
    check,
    libpq_addresses,
)
from rivet_fleet.execution.sources.postgres.liveness import Partial
from rivet_fleet.execution.sources.postgres.session import Session

SIGNATURE = b"PGCOPY\n\xff\r\n\0" + struct.pack(">II", 0, 0)
TRAILER = b"\xff\xff"
_ROWS_AT_ONCE = 16
"""libpq hands out so many rows as one result, and holds them until then."""
_RESULT_BYTES = 256 * 1024
_ROWS = (ExecStatus.SINGLE_TUPLE, ExecStatus.TUPLES_CHUNK, ExecStatus.TUPLES_OK)
_FETCHED = ("PQntuples", "PQnfields", "PQgetisnull", "PQgetlength", "PQgetvalue")


class FetchPuller:
    """Takes the rows of one FETCH from libpq and brings them into the decoder."""

    def __init__(self, session: Session, decoder: BatchDecoder, rows_at_once: int) -> None:
        self._connection = session.connection
        self._decoder, self._taker = decoder, _taker(decoder)
        self._rows_at_once = rows_at_once
        self._waits = False
        self._partial = Partial(self._connection.pgconn.socket)
        self.rows = 0
        """So many have come."""
        self.widest_bytes = 0

    def send(self, query: bytes) -> None:
        """One statement, whose rows come a few at a time."""
        pgconn = self._connection.pgconn
        pgconn.send_query(query)
        if self._rows_at_once > 1 and pq.version() >= _CHUNKS_SINCE:
            pgconn.set_chunked_rows_mode(self._rows_at_once)
        else:
            pgconn.set_single_row_mode()
        self._connection.flush()

    def pull(self) -> tuple[int, Pulled]:
        """Receive and decode up to about ``BLOCK_BYTES``; the bytes, and why it returned. Raises
        psycopg's errors, and as ``BatchDecoder.feed``."""
        pgconn = self._connection.pgconn
        received_bytes = 0
        if self._waits:
            self._partial.begin()
            pgconn.consume_input()
            received_bytes += self._partial.more_bytes()
        while True:
            self._waits = bool(pgconn.is_busy())
            if self._waits:
                return received_bytes, Pulled.WAIT
            result = pgconn.get_result()
            if result is None:
                return received_bytes, Pulled.END
            if result.status not in _ROWS:
                check(result)
            if result.ntuples:
                taken_bytes = self._taker(result)
                self.rows += result.ntuples
                self.widest_bytes = max(self.widest_bytes, taken_bytes // result.ntuples)
                received_bytes += taken_bytes - self._partial.end()
            if received_bytes >= BLOCK_BYTES:
                return received_bytes, Pulled.BLOCK


_CHUNKS_SINCE = 170_000
"""The version of libpq since which it hands out several rows at once."""


def _taker(decoder: BatchDecoder) -> Callable[[PGresult], int]:
    compiled = compiled_decoder()
    addresses = libpq_addresses(*_FETCHED)
    if compiled is not None and addresses is not None and isinstance(decoder, compiled):
        # Built with the decoder, or neither is.
        from rivet_fleet.execution.sources.postgres.fetchrows import CompiledTaker

        return CompiledTaker(decoder, addresses)
    return lambda result: _take(decoder, result)


def _take(decoder: BatchDecoder, result: PGresult) -> int:
    """The rows of a result as those of a COPY; their bytes."""
    rows = bytearray()
    for row in range(result.ntuples):
        rows += struct.pack(">h", result.nfields)
        for column in range(result.nfields):
            cell = result.get_value(row, column)
            rows += b"\xff\xff\xff\xff" if cell is None else struct.pack(">i", len(cell)) + cell
    decoder.feed(bytes(rows))
    return len(rows)


class CursorStream(CopyStream):
    """A ``PageStream`` whose every ``receive`` with a row limit is one FETCH. The transaction
    begins with the first and ends behind the last row."""

    def __init__(
        self,
        session: Session,
        select: str,
        settings: Settings,
        tuning: TuningPlan,
        decoder: BatchDecoder,
        *,
        foreign: bool = False,
    ) -> None:
        """``select``: the statement. ``foreign``: it holds SQL of a user."""
        super().__init__(session, select, settings, tuning, decoder, foreign=foreign)
        self._age_s_max = tuning.whole_read_timeout_s
        self._wanted_rows = 1_000
        self._fetched_rows = self._taken_rows = 0
        self._before_s = self._spent_before_s = 0.0
        """What the statement took, and what was spent, before the FETCH that goes on."""

    def receive(self, *, rows_max: int | None, bytes_max: int | None) -> None:
        """As every stream; ``rows_max`` is what the next FETCH asks for."""
        self._wanted_rows = rows_max or self._wanted_rows
        super().receive(rows_max=rows_max, bytes_max=bytes_max)

    @property
    def rows_ready(self) -> int:
        """Rows fetched and not taken: the plain decoder cuts them out later."""
        return self._fetched_rows - self._taken_rows

    def take(self, rows_max: int | None = None) -> pa.RecordBatch:
        """The oldest rows, at most ``rows_max``."""
        batch = super().take(rows_max)
        self._taken_rows += batch.num_rows
        return batch

    @property
    def statement_s(self) -> float:
        """Of the FETCH that goes on, or of the last one."""
        return max(0.0, super().statement_s - self._before_s)

    def _check_end(self, spent_s: float) -> None:
        super()._check_end(spent_s - self._spent_before_s)

    def _receive(self) -> Steps:
        session, began_s = self._session, time.monotonic()
        session.undoing = self._foreign
        with session.reading(
            self._settings, doing="reading a page", timeout_s=self._timeout_s
        ) as cursor:
            cursor.execute(f"DECLARE {_NAME} BINARY NO SCROLL CURSOR FOR {self._sql}".encode())
            begun_s = time.monotonic() - began_s
            way_s = session.times.way_s(begun_s)
            self._way_s += begun_s
            self._decoder.feed(SIGNATURE)
            widest_bytes = _RESULT_BYTES
            while True:
                self._check_age(began_s)
                self._before_s, self._spent_before_s = super().statement_s, self._spent_s
                self._way_s += way_s
                asked = max(1, self._wanted_rows - self.rows_ready)
                at_once = min(_ROWS_AT_ONCE, max(1, _RESULT_BYTES // max(1, widest_bytes)))
                puller = FetchPuller(session, self._decoder, at_once)
                yield from self._fetched(puller, asked)
                widest_bytes = max(puller.widest_bytes, 1)
                if puller.rows < asked:
                    break
            self._decoder.feed(TRAILER)

    def _fetched(self, puller: FetchPuller, rows: int) -> Steps:
        connection = self._session.connection
        try:
            puller.send(f"FETCH FORWARD {rows} FROM {_NAME}".encode())
            why = Pulled.BLOCK
            while why is not Pulled.END:
                rows_before = puller.rows
                received_bytes, why = puller.pull()
                self.wire_bytes += received_bytes
                self._fetched_rows += puller.rows - rows_before
                if why is Pulled.WAIT and not received_bytes:
                    connection.wait_readable()
                if why is not Pulled.END:
                    yield
            if puller.rows >= rows:
                yield
        except BaseException:
            # Half an answer may be on its way: nobody could tell it from the next one's.
            self._session.close()
            raise

    def _check_age(self, began_s: float) -> None:
        limit_s = self._age_s_max
        if limit_s and time.monotonic() - began_s > limit_s:
            self._session.close()
            raise StatementTimeout(
                f"{self._session.url.identity}: a read that cannot be cut has kept its "
                f"transaction open for {limit_s:.0f} s (`whole_read_timeout_s`)",
                hint="raise whole_read_timeout_s, or give the query a key that cuts it "
                "(`chunk_by_key`, `chunk_column`)",
                code="RIVET_WHOLE_READ_TIMEOUT",
            )


_NAME = "rivet_rows"
