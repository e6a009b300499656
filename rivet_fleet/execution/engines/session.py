"""A session of any engine: one connection at a time, what its errors mean, and how long its silence
is borne.

The frame owns what a use of a session is and what an error comes to; an engine owns its driver, its
table of codes and how settings are made and undone.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import math
import struct
import time
import traceback
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

from rivet_fleet.contracts.clock import vain_bytes
from rivet_fleet.contracts.codec import fits
from rivet_fleet.contracts.foreign import foreign_line, hinted
from rivet_fleet.contracts.url import DatabaseUrl
from rivet_fleet.errors import (
    RelationLocked,
    RetryClass,
    SourceBusy,
    SourceError,
    SourceRefused,
    SourceUnavailable,
    StatementTimeout,
)

_DIGITS_MAX = 20
"""Of any count, size or number of a server: an unsigned one of 64 bits has so many."""

Settings = tuple[tuple[str, str], ...]
"""Names of a session's settings and what they are set to, as SQL."""

# ------------------------------------------------------------------------------------------
# What a server's codes mean for a worker.


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorClass:
    """What one code of a server, or a whole class of them, means for a worker."""

    error: type[SourceError]
    retry: RetryClass
    extra_delay_s: float = 0.0


GONE = ErrorClass(error=SourceUnavailable, retry=RetryClass.RECONNECT)
RESTARTING = ErrorClass(error=SourceUnavailable, retry=RetryClass.RECONNECT, extra_delay_s=15.0)
FULL = ErrorClass(error=SourceBusy, retry=RetryClass.RECONNECT, extra_delay_s=15.0)
REFUSED = ErrorClass(error=SourceRefused, retry=RetryClass.PERMANENT)
TIMED_OUT = ErrorClass(error=StatementTimeout, retry=RetryClass.PERMANENT)
"""A limit, ours or the server's, or somebody's cancel: what ends statements by hand or by a rule
means the statement, not the moment. A page is tried again smaller; the same again is not."""
CONFLICT = ErrorClass(error=SourceBusy, retry=RetryClass.TRANSIENT, extra_delay_s=1.0)
LOCKED = ErrorClass(error=RelationLocked, retry=RetryClass.TRANSIENT)
RESOURCES = ErrorClass(error=SourceBusy, retry=RetryClass.TRANSIENT, extra_delay_s=5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What an error of a driver says, as its engine reads it."""

    said: str
    means: ErrorClass
    number: str = ""
    """The server's own code, as messages show it; empty where there is none."""
    code: str | None = None
    hint: str | None = None
    kept: str | None = None
    """What may be told of ``said`` where it may hold values of rows; None where it holds none."""


def translated(told: Told, url: DatabaseUrl, doing: str) -> SourceError:
    """Our error for what a server said. ``doing`` completes the sentence "… while <doing>"."""
    number = f"{told.number}, " if told.number else ""
    message = f"{url.identity}: {clean(told.said, url)} ({number}while {doing})"
    if told.kept is None:
        return _built(told, message, told.hint)
    shown = f"{url.identity}: {clean(told.kept, url)} ({number}while {doing})"
    return _built(told, shown, hinted(told.hint), unmasked=message)


def cannot_connect(told: Told, url: DatabaseUrl) -> SourceError:
    """Our error for a connection that could not be made: ``connected`` is False."""
    ours = _built(told, f"cannot connect to {url.identity}: {clean(told.said, url)}", told.hint)
    ours.connected = False
    return ours


def _built(told: Told, message: str, hint: str | None, unmasked: str | None = None) -> SourceError:
    return told.means.error(
        message,
        hint=hint,
        code=told.code,
        retry=told.means.retry,
        extra_delay_s=told.means.extra_delay_s,
        unmasked=unmasked,
    )


def clean(text: str, url: DatabaseUrl) -> str:
    """What a driver or a server said, without the password of ``url``, on one line."""
    return foreign_line(text, (url.password,) if url.password else ())


def whole(value: object) -> int:
    """A whole number as a server says it: an int, or a decimal, a float or text of at most
    ``_DIGITS_MAX`` digits. Raises SourceRefused.

    ``int`` would write a decimal's power of ten out: ten bytes of an answer are hours of a process,
    in which no other thread of it, nor a signal, has its turn."""
    said = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    if isinstance(said, Decimal):
        fits = said.is_finite() and said.adjusted() < _DIGITS_MAX
    elif isinstance(said, int | float):
        fits = abs(said) < 10**_DIGITS_MAX
    else:
        digits = said.removeprefix("-") if isinstance(said, str) else ""
        fits = len(digits) <= _DIGITS_MAX and digits.isdecimal()
    if not fits or not isinstance(said, Decimal | int | float | str):
        raise _no_number("a whole number")
    return int(said)


def real(value: object) -> float:
    """A number as ``whole`` takes it, or one with a fraction: a moment, in seconds. Raises
    SourceRefused, also for what is not finite."""
    said = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    if isinstance(said, Decimal | int | float) or (
        isinstance(said, str) and len(said) <= 2 * _DIGITS_MAX
    ):
        with contextlib.suppress(ArithmeticError, ValueError):
            found = float(said)
            if math.isfinite(found):
                return found
    raise _no_number("a number")


def _no_number(due: str) -> SourceRefused:
    return SourceRefused(
        f"the server said something else where {due} is due",
        hint="what it is asked for is a count, a size or a number of its own; is it the server "
        "that it should be?",
        code=OTHER_ANSWER,
    )


@contextlib.contextmanager
def maybe_swapped(codes: frozenset[str]) -> Iterator[None]:
    """Inside, a chunk reads what was there when it was planned: what is not there now (an error of
    these ``codes``) may be on its way back, between the two renames of a swap. So it is waited for,
    as for anything that passes; a wrong name says the same, and is refused to whoever plans."""
    try:
        yield
    except SourceRefused as refused:
        if refused.code not in codes:
            raise
        hint = (
            "a table that is being swapped is there again in a moment; else plan the export again"
        )
        raise SourceBusy(
            refused.message,
            hint=hint if refused.unmasked is None else hinted(hint),
            code=refused.code,
            extra_delay_s=1.0,
            unmasked=refused.unmasked,
        ) from None


# ------------------------------------------------------------------------------------------
# Answers to something else than was asked: rows of another shape, NULL where there is always a
# value, text where a number is due. Whoever takes them apart asks nothing of them: what is stumbled
# into there is the server's fault, and one place says so.

OTHER_ANSWER = "RIVET_SOURCE_ANSWER"
_LOG = logging.getLogger("rivet_fleet.source")
_STUMBLES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
    struct.error,
)


def other_answer(url: DatabaseUrl, doing: str, what: str) -> SourceRefused:
    """Our error for an answer to something else. Asked again, the server would say the same."""
    said = f"the server answered something else than was asked (while {doing}: {what})"
    return SourceRefused(
        f"{url.identity}: {said}",
        hint="is the right server at that address, and does whatever stands between leave answers "
        "as they are? nothing was made of this one",
        code=OTHER_ANSWER,
    )


@contextlib.contextmanager
def as_asked(url: DatabaseUrl, doing: str) -> Iterator[None]:
    """Inside, an answer is taken for what was asked. Raises SourceRefused where it is not; of what
    a library says nothing is kept, for it may hold the value: the log has the steps alone."""
    try:
        yield
    except _STUMBLES as error:
        # It may as well be a defect of ours: then its way here is all there is to find it by.
        steps = "".join(traceback.format_tb(error.__traceback__))
        _LOG.info("an answer of another kind (%s):\n%s", type(error).__name__, steps)
        place = traceback.extract_tb(error.__traceback__)[-1].name
        raise other_answer(url, doing, f"{type(error).__name__} in {place}") from None


K = TypeVar("K", bound=type[Any])
_NO_VERBS = ("close", "pack", "count_pages")
"""They ask nothing."""


def verbs_are_answered(kind: K) -> K:
    """Class decorator: every public method asks inside its ``_session``'s ``asked``, one that is
    added, too; and what it gives is of its annotation, whatever types the server's cells had."""
    for name, verb in inspect.getmembers(kind, inspect.isfunction):
        if not name.startswith("_") and name not in _NO_VERBS:
            setattr(kind, name, _answered(name.replace("_", " "), verb))
    return kind


def _answered(name: str, verb: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(verb)
    def answered(self: Any, *arguments: Any, **named: Any) -> Any:
        with self._session.asked(name):
            answer = verb(self, *arguments, **named)
            if not fits(_given(verb), answer):
                raise other_answer(self._session.url, name, "values of other types")
            return answer

    return answered


@functools.cache
def _given(verb: Callable[..., Any]) -> Any:
    return typing.get_type_hints(verb)["return"]


# ------------------------------------------------------------------------------------------
# Silence: a server that is still at work says as little as a link that is dead.

SILENCE_GRACE_S = 15.0
"""How much longer than the statement's own limit the client waits for a byte before it takes
the link for dead: a half-open connection never says so by itself."""
QUIET_S = 10.0
"""Silence after which the server is asked; doubled with every answer that it is at work."""
QUIET_MAX_S = 60.0
ASK_MAX_S = 10
"""How long a second connection may take to be made, and then to answer."""


class Liveness(Enum):
    """What a silent connection's server does for it."""

    AT_WORK = "at work"
    DEAD = "dead"
    """The server is not there, knows nothing of us, or waits for us as we wait for it."""
    UNKNOWN = "unknown"
    """It cannot be told: a proxy stands between, or the server does not let us look."""


def answers_within_s(timeout_s: float) -> float | None:
    """How long the answer of a statement with this limit may take; None without a limit."""
    return timeout_s + SILENCE_GRACE_S if timeout_s > 0 else None


class Silence:
    """One wait for a server's next byte, which begins now.

    It ends after ``most_s`` seconds (None: never), when the answer is due as a whole (``ends_s``,
    monotonic), and as soon as ``ask`` says that nobody is at work any more.
    """

    __slots__ = ("_ask", "_asking", "_began_s", "_ends_s", "_most_s", "_quiet_s", "late")

    def __init__(
        self,
        most_s: float | None,
        ask: Callable[[], Liveness] | None,
        ends_s: float | None = None,
    ) -> None:
        self._most_s, self._ask, self._ends_s = most_s, ask, ends_s
        self._began_s = time.monotonic()
        self._quiet_s = QUIET_S
        self._asking = False
        self.late = False
        """The answer should have ended, when it was last asked for how long to wait."""

    def wait_s(self) -> float | None:
        """How long to wait for bytes, before ``dead`` is asked; below 0 not at all, None: until
        some come."""
        now_s = time.monotonic()
        left_s = None if self._most_s is None else self._most_s - (now_s - self._began_s)
        if self._ends_s is not None:
            ends_in_s = self._ends_s - now_s
            self.late = ends_in_s <= 0
            left_s = ends_in_s if left_s is None else min(left_s, ends_in_s)
        self._asking = self._ask is not None and (left_s is None or self._quiet_s < left_s)
        return self._quiet_s if self._asking else left_s

    def dead(self) -> bool:
        """Nothing came: whether the link is dead. What came while the server was asked, or while
        this process was stopped, counts all the same: look once more before believing it."""
        if not self._asking or self._ask is None or self._ask() is Liveness.DEAD:
            return True
        self._quiet_s = min(self._quiet_s * 2, QUIET_MAX_S)
        return False

    def __str__(self) -> str:
        silent_s = time.monotonic() - self._began_s
        return f"the server sent nothing for {silent_s:.0f} s: the link is dead"


# ------------------------------------------------------------------------------------------
# One session.


class StatementTimes:
    """How long the source was busy with one statement of ours: the one home of that number.

    A statement whose rows are streamed says it itself (``PageStream.statement_s``); every other
    answer is timed by the connection. Of those the shortest one is a bound for the network's round
    trip, which is not the source's work and is taken off.
    """

    __slots__ = ("_answer_s", "_streamed_s", "_way_s")

    def __init__(self) -> None:
        self._streamed_s = self._answer_s = 0.0
        self._way_s = math.inf

    def begin(self) -> None:
        """From now on the longest is another one. What is known of the way stays."""
        self._streamed_s = self._answer_s = 0.0

    def streamed(self, statement_s: float) -> None:
        """A statement has been open for so long, the way taken off."""
        self._streamed_s = max(self._streamed_s, statement_s)

    def answered(self, spent_s: float) -> None:
        """A statement of ours was sent, and its whole answer was there so much later."""
        self._answer_s = max(self._answer_s, spent_s)
        self._way_s = min(self._way_s, spent_s)

    def way_s(self, spent_s: float) -> float:
        """What of ``spent_s``, in which nothing was asked of the server's data, was the way there
        and back. Whatever made it longer than the shortest answer was a queue, or a lock."""
        self._way_s = min(self._way_s, spent_s)
        return self._way_s

    @property
    def longest_s(self) -> float:
        """The longest since it began; 0 when nothing was asked."""
        return max(self._streamed_s, self._answer_s - min(self._way_s, self._answer_s))


class Watched(Protocol):
    """A driver's connection that gives up on a silent server."""

    silence_s_max: float | None
    liveness: Callable[[], Liveness] | None
    answer_bytes_max: int | None
    times: StatementTimes | None
    """Where it says how long its answers took; None: what is asked is no statement."""

    @property
    def usable(self) -> bool:
        """False once it is closed."""
        ...

    @property
    def answered_bytes(self) -> int:
        """Received so far of the answer to what was last asked."""
        ...

    def drop(self) -> None:
        """Close it, in whatever state it is. Never raises."""
        ...


@contextlib.contextmanager
def no_statement(connection: Watched) -> Iterator[None]:
    """Inside, what is asked begins a transaction: whoever stands between may let it wait for a
    connection, which is no work of the source, and the shortest of such waits is the way there."""
    times, connection.times = connection.times, None
    began_s = time.monotonic()
    try:
        yield
    finally:
        connection.times = times
        if times is not None:
            times.way_s(time.monotonic() - began_s)


Connection = TypeVar("Connection", bound=Watched)
At = TypeVar("At")
"""What a use of a session is asked through: its connection, or a cursor of it."""


class EngineSession(ABC, Generic[Connection, At]):
    """One lazily opened connection to one database."""

    undoing = False
    """True while the SQL of a user is read, which may leave something behind in a session."""

    def __init__(self, url: DatabaseUrl, *, answer_bytes_max: int | None = None) -> None:
        """``answer_bytes_max``: of an answer that is not rows, where less than usual will do."""
        self.url = url
        self.times = StatementTimes()
        """Of all that this session asks."""
        self._answer_bytes_max = answer_bytes_max
        self._connection: Connection | None = None

    @property
    def connection(self) -> Connection:
        """The live connection, opened when needed. Raises SourceUnavailable, SourceRefused."""
        if self._connection is None or not self._connection.usable:
            self._connection = self._connect()
        return self._connection

    @property
    def usable(self) -> bool:
        """True when there is a connection, and nothing is known to have ended it."""
        return self._connection is not None and self._connection.usable

    def close(self) -> None:
        """Close the connection, in whatever state it is. Never raises."""
        if self._connection is not None:
            self._connection.drop()
            self._connection = None

    @contextlib.contextmanager
    def _use(
        self, *, doing: str, timeout_s: float, subject: str = "the query"
    ) -> Iterator[Connection]:
        """The connection, for as long as statements of this limit (0: none) may be silent. The
        driver's errors come out as ours, and tell what was received in vain."""
        connection = self.connection
        connection.silence_s_max = answers_within_s(timeout_s)
        try:
            with as_asked(self.url, doing), self._errors(doing, subject):
                yield connection
        except SourceError as error:
            error.received_bytes = vain_bytes(connection.answered_bytes)
            raise

    @contextlib.contextmanager
    def asked(self, verb: str) -> Iterator[None]:
        """One verb of a seam: questions, and what is made of their answers between and behind them.
        Raises SourceError."""
        try:
            with as_asked(self.url, verb), self._errors(verb, "the query"):
                yield
        except SourceError as error:
            if error.code == OTHER_ANSWER and self._connection is not None:
                answered_bytes = vain_bytes(self._connection.answered_bytes)
                error.received_bytes = error.received_bytes or answered_bytes
            raise

    @abstractmethod
    def reading(
        self, settings: Settings, *, doing: str, timeout_s: float
    ) -> AbstractContextManager[At]:
        """One use of the connection: read-only, with these settings, for one or a few statements.
        ``doing`` completes the sentence "… while <doing>"; ``timeout_s`` is the statements' limit
        (0: none). However it ends, the next use finds the session clean. Raises SourceError."""

    @abstractmethod
    def rows(self, at: At, sql: str, values: Sequence[object] = ()) -> Sequence[tuple[Any, ...]]:
        """Every row of a small answer. Raises the driver's errors."""

    @abstractmethod
    def _connect(self) -> Connection:
        """A new connection on which we have said who we are. Raises as ``connection``."""

    @abstractmethod
    def _errors(self, doing: str, subject: str) -> AbstractContextManager[None]:
        """Inside, the driver's errors become ours; ``subject`` is what is read, in messages."""
