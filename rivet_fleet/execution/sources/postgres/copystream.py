"""One COPY statement in one short transaction: its rows, decoded."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from psycopg import Cursor

from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.errors import MalformedData, SourceError
from rivet_fleet.execution.overdue import Overdue
from rivet_fleet.execution.sources.postgres.border import names_may_swap
from rivet_fleet.execution.sources.postgres.decoder import BatchDecoder
from rivet_fleet.execution.sources.postgres.exchange import Exchange, Pulled, open_exchange
from rivet_fleet.execution.sources.postgres.session import Session, Settings, answers_within_s


class CopyStream:
    """A ``PageStream``: the transaction begins with the first receive and ends with the last
    byte. Round trips are not counted into ``seconds``: no page size can shorten them, and a servo
    that counted them would end at one row a page on a distant source.
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
        """``held``: the transaction is a snapshot, and goes on behind the last row until
        ``release``. ``foreign``: the statement holds SQL of a user."""
        self.wire_bytes = 0
        self.ended = False
        self._held = held
        self._holds = False
        """The statement has ended, and its transaction has not."""
        self._question: bytes | None = None
        self._limit = ""
        self._answered = 0
        self._spent_s = 0.0
        self._on_the_way_s = 0.0
        self._session, self._foreign = session, foreign
        self._decoder = decoder
        self._exchange: Exchange | None = None
        limit_s = answers_within_s(tuning.statement_timeout_s)
        self._overdue = Overdue(session.url.identity, limit_s or 0.0)
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
                self._settle()
        self._settle()
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
        if not self.ended or self._holds:
            self.ended, self._holds = True, False
            self._session.close()
            with contextlib.suppress(SourceError):
                self._steps.close()  # type: ignore[attr-defined]

    def count(self, sql: str, timeout_s: float) -> int:
        """See ``PageStream``. The limit is the count's own."""
        limit = f"SET LOCAL statement_timeout = {max(1, round(timeout_s * 1000))}"
        self._limit = limit if timeout_s > 0 else "SELECT"
        self._question = sql.encode()
        try:
            next(self._steps)
        except BaseException:
            self._holds = False
            raise
        return self._answered

    def release(self) -> None:
        """See ``PageStream``."""
        if self._holds:
            self._holds, self._question = False, None
            with contextlib.suppress(StopIteration):
                next(self._steps)

    def _settle(self) -> None:
        if self._exchange is not None:
            self._exchange.settle()

    def _step(self) -> None:
        started_s = time.monotonic()
        try:
            with names_may_swap():
                self.wire_bytes += next(self._steps)
            self._check_end(self._spent_s + time.monotonic() - started_s)
            self.ended = self._holds
        except StopIteration:
            self.ended = True
        finally:
            self._spent_s += time.monotonic() - started_s

    def _check_end(self, spent_s: float) -> None:
        try:
            self._overdue.check(spent_s)
        except SourceError:
            self.abandon()
            raise

    def _receive(self, sql: str, settings: Settings, timeout_s: float) -> Iterator[int]:
        """The statement in steps of bytes received; between them the caller has its say."""
        began_s = time.monotonic()
        session, doing = self._session, "reading a page"
        session.undoing = self._foreign
        if not session.stepwise and not self._held:
            round_trip_s = session.round_trip_s()
            self._on_the_way_s += time.monotonic() - began_s + round_trip_s
            with session.alone(doing=doing, timeout_s=timeout_s):
                yield from self._answer(
                    in_one_message(session.begin(settings), sql, session.ending)
                )
            return
        with session.transaction(
            settings, doing=doing, timeout_s=timeout_s, snapshot=self._held
        ) as cursor:
            # BEGIN costs the server nothing: it tells the round trip, once for itself and once
            # for the statement.
            self._on_the_way_s += 2.0 * (time.monotonic() - began_s)
            yield from self._answer(sql.encode())
            if self._held:
                yield from self._hold(cursor)
            ended_s = time.monotonic()
        self._on_the_way_s += time.monotonic() - ended_s

    def _hold(self, cursor: Cursor[tuple[Any, ...]]) -> Iterator[int]:
        """Behind the last row: answer what is asked in its snapshot."""
        self._holds = True
        yield 0
        while self._question is not None:
            if self._foreign:
                cursor.execute(self._limit.encode())
                cursor.execute(self._question)
            else:
                cursor.execute(f"{self._limit};".encode() + self._question)
            while cursor.nextset():
                pass
            row = cursor.fetchone()
            try:
                self._answered = int(row[0]) if row else 0
            except (TypeError, ValueError):
                raise MalformedData("the server counted rows and sent no number") from None
            yield 0

    def _answer(self, query: bytes) -> Iterator[int]:
        connection = self._session.connection
        self._exchange = exchange = open_exchange(connection, self._decoder)
        try:
            exchange.send(query)
            why = Pulled.BLOCK
            while why is not Pulled.END:
                received_bytes, why = exchange.pull()
                if why is Pulled.WAIT:
                    connection.wait_readable()
                yield received_bytes
            exchange.finish()
        except BaseException:
            # Half an answer may be on its way: nobody could tell it from the next one's.
            self._session.close()
            raise
        if exchange.parted:
            self._session.close()


def in_one_message(begin: str, sql: str, end: str) -> bytes:
    """The whole transaction in one query: its answer comes in one round trip."""
    return f"{begin};{sql};{end}".encode()
