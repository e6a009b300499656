"""The rows of one statement, received in steps: what every engine's streams have in common."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

import pyarrow as pa

from rivet_fleet.errors import SourceError, SourceUnavailable
from rivet_fleet.execution.engines.decoding import BatchDecoder
from rivet_fleet.execution.engines.session import EngineSession, StatementTimes

Steps = Generator[None, None, None]
"""Receives; between two steps the caller has its say. What is left in the middle ends there."""


class SteppedStream(ABC):
    """A ``PageStream`` whose bytes come by the steps of a generator.

    An engine counts ``wire_bytes`` and ``_spent_s`` as it receives, and into ``_way_s`` what of
    that time is the network's: no page size can shorten it, and a servo that counted it would end
    at one row a page on a distant source.
    """

    def __init__(self, decoder: BatchDecoder, *, held: bool, times: StatementTimes) -> None:
        """``held``: the statement is one of a snapshot, which goes on behind the last row until
        ``release``. ``times``: of its session."""
        self.wire_bytes = 0
        self.ended = False
        self._decoder = decoder
        self._held = held
        self._holds = False
        """The statement has ended, and its snapshot has not."""
        self._question: tuple[str, float] | None = None
        self._answered = 0
        self._spent_s = self._way_s = self._waited_s = 0.0
        self._left_at_s: float | None = None
        """When the caller was last given rows while the statement went on (monotonic)."""
        self._times = times
        self._steps = self._receive()

    @abstractmethod
    def _receive(self) -> Steps:
        """The use of the session, from its beginning to its end, or to that of ``_hold``."""

    @property
    def seconds(self) -> float:
        """How long we received; see the class."""
        return max(0.0, self._spent_s - self._way_s)

    @property
    def statement_s(self) -> float:
        """How long the source has been busy with the statement: ``seconds``, and how long it was
        held open while its rows waited for the caller."""
        return self.seconds + self._waited_s

    @property
    def rows_ready(self) -> int:
        """Rows complete and not yet taken."""
        return self._decoder.rows_ready

    @property
    def changed(self) -> dict[str, int]:
        """The decoder's own counts."""
        return self._decoder.changed

    def receive(self, *, rows_max: int | None, bytes_max: int | None) -> None:
        """Receive until the statement ended, ``rows_max`` rows are ready, or more than
        ``bytes_max`` bytes arrived in this call. After an error the connection is in step, or it is
        closed."""
        if self._left_at_s is not None:
            self._waited_s += time.monotonic() - self._left_at_s
            self._left_at_s = None
        before_bytes = self.wire_bytes
        try:
            while not self.ended:
                if rows_max is not None and self.rows_ready >= rows_max:
                    break
                if bytes_max is not None and self.wire_bytes - before_bytes > bytes_max:
                    break
                self._step()
        finally:
            # Also of a statement that failed: the source was busy with it as well.
            self._times.streamed(self.statement_s)
        if not self.ended:
            self._left_at_s = time.monotonic()

    def at_work_since(self, moment_s: float | None) -> None:
        """The server did not wait for the caller, but for the end of another statement (monotonic);
        None: it does."""
        self._left_at_s = moment_s

    def take(self, rows_max: int | None = None) -> pa.RecordBatch:
        """The oldest rows, at most ``rows_max``."""
        return self._decoder.take(rows_max)

    def abandon(self) -> None:
        """End the statement before its end. Never raises.

        What leaves the use of a session in the middle closes the connection, and that is what ends
        the statement. A cancel request would need a second connection, and could arrive late and
        hit the statement after it, most of all behind a pooler.
        """
        if not self.ended or self._holds:
            self.ended, self._holds = True, False
            with contextlib.suppress(SourceError):
                self._steps.close()

    def count(self, sql: str, timeout_s: float) -> int:
        """One number, asked in the snapshot that the rows were read in; the limit is its own.
        Raises SourceError; then nothing is held."""
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

    def _step(self) -> None:
        try:
            next(self._steps)
            self.ended = self._holds
        except StopIteration:
            self.ended = True

    def _hold(self, ask: Callable[[str, float], int]) -> Steps:
        """Behind the last row: answer what is asked in its snapshot."""
        self._holds = True
        yield
        while self._question is not None:
            self._answered = ask(*self._question)
            yield


P = TypeVar("P", bound=SteppedStream)
S = TypeVar("S", bound=EngineSession[Any, Any])


class Train(Generic[S]):
    """Statements of one session that were asked for at once (ADR 0031). Nothing else may be asked
    of it before the last one has ended."""

    def __init__(self, session: S, statements: tuple[str, ...]) -> None:
        self.session, self.statements = session, statements
        self.left_at_s: float | None = None
        """When the last page ended (monotonic): since then the server is at work for the next."""

    def is_last(self, number: int) -> bool:
        """True of the statement that nothing follows; they count from 0."""
        return number + 1 == len(self.statements)

    def ended(self, number: int) -> None:
        """That statement's rows have come."""
        self.left_at_s = time.monotonic()

    def streams(self, page: Callable[[int], P]) -> Generator[P, None, None]:
        """What ``page`` opens for each of them, when the last one has ended. Raises
        SourceUnavailable."""
        for number in range(len(self.statements)):
            if number and not self.session.usable:
                raise SourceUnavailable(
                    f"{self.session.url.identity}: the connection on which pages were asked for "
                    "is gone",
                    hint="the page is read again",
                )
            stream = page(number)
            stream.at_work_since(self.left_at_s)
            try:
                yield stream
            except GeneratorExit:
                if not self.is_last(number):
                    # As of any statement that is left: its connection ends it.
                    self.session.close()
                raise
