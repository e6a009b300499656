"""One COPY statement in one short transaction, as a stream of byte blocks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import psycopg
import psycopg.errors
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.errors import SourceError
from rivet_fleet.execution.sources.postgres.session import Session, Settings

_BLOCK_BYTES = 256 * 1024


class CopyStream:
    """Iterate to receive blocks; the transaction begins with the first and ends with the last.

    ``seconds`` is how long the source worked for us: from sending the statement to its last
    byte, without the time the caller spent between blocks and without the network's round trip,
    which no page size can shorten: a servo that counted it would end at one row a page on a
    distant source. Errors are SourceError.
    """

    def __init__(self, session: Session, sql: str, settings: Settings, tuning: TuningPlan) -> None:
        self._spent_s = 0.0
        self._on_the_way_s = 0.0
        self._session = session
        self._blocks = self._receive(sql, settings, tuning.statement_timeout_s)
        self.ended = False

    @property
    def seconds(self) -> float:
        """See the class."""
        return max(0.0, self._spent_s - self._on_the_way_s)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        started = time.monotonic()
        try:
            return next(self._blocks)
        except StopIteration:
            self.ended = True
            raise
        finally:
            self._spent_s += time.monotonic() - started

    def _receive(self, sql: str, settings: Settings, timeout_s: float) -> Iterator[bytes]:
        connection = self._session.connection
        began_s = time.monotonic()
        with self._session.transaction(settings, doing="reading a page", timeout_s=timeout_s):
            # BEGIN costs the server nothing: it tells the round trip, once for itself and once
            # for the statement.
            self._on_the_way_s += 2.0 * (time.monotonic() - began_s)
            pgconn = connection.pgconn
            pgconn.send_query(sql.encode())
            _expect(self._next_result(), ExecStatus.COPY_OUT)
            rows: list[bytes] = []
            held_bytes = 0
            # libpq hands out one row per message; psycopg's own Copy costs a generator each.
            while True:
                count, data = pgconn.get_copy_data(1)
                if count > 0:
                    rows.append(bytes(data))
                    held_bytes += count
                    if held_bytes >= _BLOCK_BYTES:
                        yield b"".join(rows)
                        rows, held_bytes = [], 0
                elif count == 0:
                    connection.wait_readable()
                    pgconn.consume_input()
                else:
                    break
            _expect(self._next_result(), ExecStatus.COMMAND_OK)
            if rows:
                yield b"".join(rows)
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

    def abandon(self) -> None:
        """End the statement before its end. Never raises.

        Closing the connection is what ends it: a cancel request could arrive late and hit
        the statement after it, most of all behind a pooler.
        """
        if not self.ended:
            self.ended = True
            self._session.close()
            with contextlib.suppress(SourceError):
                self._blocks.close()  # type: ignore[attr-defined]


def _expect(result: PGresult | None, status: ExecStatus) -> None:
    """Raise psycopg's own exception for a result that reports an error."""
    if result is None:
        raise psycopg.OperationalError("the server ended the statement without a result")
    if result.status != status:
        raise psycopg.errors.error_from_result(result)
