"""A connection that tells a server that is still at work from a link that is dead.

Both are silent. A half-open path (a stuck proxy, a firewall that forgot us) may even acknowledge
bytes, so neither TCP keepalives nor TCP_USER_TIMEOUT ends the wait, and a statement without a
limit has no deadline either. So after a while of silence the server is asked over a second
connection what it does for the first one (``pg_stat_activity``).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import struct
import termios
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import Cursor
from psycopg.abc import RV, AdaptContext, Buffer, PQGen
from psycopg.adapt import AdaptersMap, Loader
from psycopg.pq import ExecStatus, Format

from rivet_fleet.errors import RetryClass
from rivet_fleet.execution.engines.session import (
    ASK_MAX_S,
    Liveness,
    Silence,
    StatementTimes,
)
from rivet_fleet.execution.sources.postgres.border import classify_connect
from rivet_fleet.execution.sources.postgres.dialect import classify

# ------------------------------------------------------------------------------------------
# What one answer that libpq reads may cost: bytes and time.
#
# libpq keeps what it is sent until an answer is complete. How much that is, the kernel knows
# (Linux: ``TCP_INFO``); a socket of this machine's file system is not counted. The rows of a page
# are handed on as they come: they are bounded by their reader (``copyreceive``).

LOGIN_BYTES_MAX = 1024 * 1024
"""Of everything up to the first statement."""
ANSWER_BYTES_MAX = 64 * 1024 * 1024
"""Of one answer about the server, a table or a key: what is larger is not one."""
HELD_BYTES_MAX = 256 * 1024 * 1024
"""What this process may grow by meanwhile: small messages are kept as large objects."""
_TCP_INFO_BYTES = 136
_RECEIVED = struct.Struct("=128xQ")
"""``tcpi_bytes_received`` (linux/tcp.h)."""
_INT = struct.Struct("i")
_LATE_LOOKS_MAX = 64
_HELD_EVERY_BYTES = 256 * 1024
CELL_BYTES_MAX = 4 * 1024 * 1024
"""Of one list or one JSON document: Python's objects take twenty times its text."""


class Bounds:
    """The allowance of one answer on one socket."""

    def __init__(self, fd: int, within_s: float | None, bytes_max: int | None = None) -> None:
        self.fd = fd
        self.ends_s = None if within_s is None else time.monotonic() + within_s
        """When (monotonic) the answer must be complete; None: whenever."""
        self._bytes_max = ANSWER_BYTES_MAX if bytes_max is None else bytes_max
        self._late_left = _LATE_LOOKS_MAX
        self._before_bytes: int | None = None
        self.received_bytes = 0
        """Of the answer, when it was last looked at; the first block left out."""
        self._held_before_bytes = 0
        self._looked_at_bytes = 0
        self._loaded_bytes = 0

    def check(self) -> None:
        """Bytes have come. Raises psycopg's DataError when they are more than an answer has, and
        OperationalError when its end is long due."""
        received = received_bytes(self.fd) or 0
        if self._before_bytes is None:
            # The first look is behind the first block, which a receive buffer bounds.
            self._before_bytes = received
        grown = self.received_bytes = received - self._before_bytes
        if grown > self._bytes_max:
            raise psycopg.DataError("the server's answer is larger than any may be")
        if grown - self._looked_at_bytes > _HELD_EVERY_BYTES:
            self._looked_at_bytes = grown
            self._held_before_bytes = self._held_before_bytes or held_bytes()
            self.check_held()
        if self.late:
            # This process may have been stopped: what is there already may still be taken. Not
            # for ever: it may be a flood.
            self._late_left -= 1
            if self._late_left < 0:
                raise psycopg.OperationalError(
                    "the server did not bring its answer to an end in time"
                )

    def loaded(self, count: int) -> None:
        """Objects are about to be made of ``count`` bytes. Looks every so many of their sum, for
        one row may have a thousand cells. Raises DataError as ``check``."""
        self._loaded_bytes += count
        if self._loaded_bytes > _HELD_EVERY_BYTES:
            self._loaded_bytes = 0
            self.check_held()

    def check_held(self) -> None:
        """Objects are made of the answer, too: raises DataError as ``check``. A small answer was
        not looked at, and makes little."""
        before = self._held_before_bytes
        if before and held_bytes() - before > HELD_BYTES_MAX:
            raise psycopg.DataError("the server's answer takes more memory than any may take")

    @property
    def late(self) -> bool:
        """True when the answer should have ended."""
        return self.ends_s is not None and time.monotonic() >= self.ends_s


def received_bytes(fd: int) -> int | None:
    """Bytes that came over a TCP connection so far; None where nobody counts."""
    if not hasattr(socket, "TCP_INFO"):
        return None
    with contextlib.suppress(OSError, struct.error), socket.socket(fileno=os.dup(fd)) as link:
        info = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        received: int = _RECEIVED.unpack(info)[0]
        return received
    return None


def taken_bytes(fd: int) -> int | None:
    """Of those, the ones that do not wait on the socket any more."""
    received = received_bytes(fd)
    if received is None:
        return None
    (waiting,) = _INT.unpack(fcntl.ioctl(fd, termios.FIONREAD, bytes(_INT.size)))
    return int(received - waiting)


class Partial:
    """What has come of a row that is not whole: libpq keeps it until then, however wide it is.
    Linux, TCP; elsewhere nobody counts."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._taken_bytes: int | None = None
        """What libpq had taken off the socket before it began to look for the row's end."""
        self._told_bytes = 0

    def begin(self) -> None:
        """Before libpq takes what is there."""
        if not self._told_bytes:
            self._taken_bytes = taken_bytes(self._fd)

    def more_bytes(self) -> int:
        """What has come, and was not told."""
        if self._taken_bytes is None:
            return 0
        more = (taken_bytes(self._fd) or 0) - self._taken_bytes - self._told_bytes
        self._told_bytes += max(0, more)
        return max(0, more)

    def end(self) -> int:
        """The row is whole: what was told of it."""
        told_bytes, self._told_bytes = self._told_bytes, 0
        return told_bytes


def held_bytes() -> int:
    """The memory that this process holds; 0 where nobody says (not Linux)."""
    with contextlib.suppress(OSError):
        pages = Path("/proc/self/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGESIZE")
    return 0


def judge(
    *, own_pid: int, told_pid: int, found: bool, state: str | None, waits_for: str | None
) -> Liveness:
    """The verdict from one look at ``pg_stat_activity``. Pure.

    ``own_pid`` is the asking connection's by the protocol, ``told_pid`` by the server: they
    differ behind a pooler, and then no backend's pid can be trusted.
    """
    if own_pid != told_pid or (found and state in (None, "disabled")):
        return Liveness.UNKNOWN
    if not found or state != "active" or waits_for == "Client":
        return Liveness.DEAD
    return Liveness.AT_WORK


def in_own_level(statement: str) -> bytes:
    """One statement in a transaction of its own, at a level that asks nothing of others. Its rows
    are the second result."""
    return f"BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY;{statement};COMMIT".encode()


def ask(parameters: dict[str, Any], backend_pid: int) -> Liveness:
    """Ask the server what its backend ``backend_pid`` does. Takes at most 2 × ``ASK_MAX_S``.

    ``parameters`` are those of the silent connection. Never raises psycopg's errors.
    """
    query = (
        "SELECT pg_catalog.pg_backend_pid(), a.pid IS NOT NULL, a.state, a.wait_event_type "
        "FROM (SELECT) one LEFT JOIN pg_catalog.pg_stat_activity a "
        f"ON a.pid OPERATOR(pg_catalog.=) {int(backend_pid)}"
    )
    try:
        with WatchedConnection.connect(**{**parameters, "connect_timeout": ASK_MAX_S}) as second:
            second.silence_s_max = ASK_MAX_S
            second.answer_bytes_max = LOGIN_BYTES_MAX
            answer = second.execute(in_own_level(query))
            answer.nextset()
            row = answer.fetchone()
            own_pid = second.info.backend_pid
    except psycopg.DataError:
        return Liveness.UNKNOWN  # an answer, and none that can be read
    except psycopg.Error as error:
        known = classify(error.sqlstate) if error.sqlstate else classify_connect(str(error))
        # Refused (no free connection, say) is an answer, too: there is somebody.
        return Liveness.DEAD if known.retry is RetryClass.RECONNECT else Liveness.UNKNOWN
    if row is None:
        return Liveness.UNKNOWN
    match row:
        case (int(told), bool(found), str() | None as state, str() | None as waits_for):
            return judge(
                own_pid=own_pid, told_pid=told, found=found, state=state, waits_for=waits_for
            )
        case _:
            return Liveness.UNKNOWN


# ------------------------------------------------------------------------------------------
# What psycopg makes of an answer's cells. The server says which type each has, whatever was asked.

_MALFORMED = (
    ArithmeticError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    UnboundLocalError,
    ValueError,
    struct.error,
)
"""What psycopg stumbles into when a cell is not of the type that the server says."""
_LISTED = (1009,)
"""Arrays that questions of ours ask for (text[]); every other one comes as its text."""
_JSON = 114
_NEVER_ASKED = (3802, 2249)
"""jsonb and record."""


@contextlib.contextmanager
def well_formed() -> Iterator[None]:
    """Inside, psycopg makes objects of what a server sent: whatever it stumbles into there is a
    DataError."""
    try:
        yield
    except UnicodeDecodeError:
        raise  # of a kind of its own
    except _MALFORMED as error:
        raise psycopg.DataError(
            f"a value that is not of the type the server says ({type(error).__name__})"
        ) from None


class _Bounded(Loader):
    """Psycopg's loader of ``of`` for a type whose values may be large. Raises DataError."""

    of: type[Any]

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        super().__init__(oid, context)
        self._loader = self.of(oid, context)

    def load(self, data: Buffer) -> Any:
        """The value, where it is small enough."""
        if len(data) > CELL_BYTES_MAX:
            raise psycopg.DataError("a value of the server's answer is larger than any may be")
        answer = getattr(self.connection, "answer", None)
        if answer is not None:
            answer.loaded(len(data))
        found = self._loader.load(data)
        if self.oid in _LISTED and any(isinstance(one, list) for one in found):
            # However deep they lie in one another.
            raise psycopg.DataError("a list of the server's answer holds lists")
        return found


def _adapters() -> AdaptersMap:
    known = psycopg.adapters
    made = AdaptersMap(known)
    plain = known.get_loader(25, Format.TEXT)
    assert plain is not None
    arrays = {info.array_oid for info in known.types if info.array_oid} - set(_LISTED)
    for oid in (*arrays, *_NEVER_ASKED):
        made.register_loader(oid, plain)
    for oid in (*_LISTED, _JSON):
        made.register_loader(
            oid, type("Bounded", (_Bounded,), {"of": known.get_loader(oid, Format.TEXT)})
        )
    return made


_ADAPTERS = _adapters()


class WatchedCursor(Cursor[tuple[Any, ...]]):
    """A cursor whose rows are made within the answer's bounds. Raises DataError for those that
    cannot be made."""

    alone = False

    def execute(
        self,
        query: Any,
        params: Any = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> Self:
        """As psycopg's. What is to be prepared is so when it is asked again: it takes a way there
        and back of its own, and the server plans the first time all the same."""
        asked = getattr(self.connection, "asked", None)
        if prepare and asked is not None and query not in asked:
            asked.add(query)
            prepare = None
        return super().execute(query, params, prepare=prepare, binary=binary)

    def _execute_send(
        self, query: Any, *, force_extended: bool = False, binary: bool | None = None
    ) -> None:
        super()._execute_send(query, force_extended=force_extended or self.alone, binary=binary)

    def _select_current_result(self, i: int, format: Format | None = None) -> None:
        # The server says in which form it answers, and psycopg's compiled loaders believe the
        # lengths of a binary one: we ask for text, and take nothing else.
        result = self._results[i]
        if result.status == ExecStatus.TUPLES_OK:
            if any(result.fformat(column) for column in range(result.nfields)):
                raise psycopg.DataError("an answer in binary, which nobody asked for")
            format = Format.TEXT
        super()._select_current_result(i, format)

    def fetchone(self) -> tuple[Any, ...] | None:
        """The next row."""
        with well_formed():
            return super().fetchone()

    def fetchmany(self, size: int = 0) -> list[tuple[Any, ...]]:
        """The next rows."""
        with well_formed():
            return super().fetchmany(size)

    def fetchall(self) -> list[tuple[Any, ...]]:
        """All rows that are left."""
        answer = getattr(self.connection, "answer", None)
        found: list[tuple[Any, ...]] = []
        blocks = answer.received_bytes // _HELD_EVERY_BYTES if answer is not None else 0
        at_once = max(1, self.rowcount // (blocks + 1))
        while rows := self.fetchmany(at_once):
            found += rows
            if answer is not None:
                answer.check_held()
        return found

    def __iter__(self) -> Iterator[tuple[Any, ...]]:  # type: ignore[override]
        return iter(self.fetchall())


class WatchedConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that gives up on a silent server.

    After ``silence_s_max`` in any case (None: never), and as soon as ``liveness`` says that
    nobody is at work for it any more. An answer that libpq keeps is bounded (``bounds``), and by
    ``silence_s_max`` as a whole, however it trickles.
    """

    silence_s_max: float | None = None
    liveness: Callable[[], Liveness] | None = None
    answer_bytes_max: int | None = None
    """Of an answer, where that is less than usual."""
    answer: Bounds | None = None
    """Of what was last asked."""
    times: StatementTimes | None = None
    """Where it says how long its answers took."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.cursor_factory = WatchedCursor
        self.asked: set[bytes | str] = set()
        """What was asked and is to be prepared; so many as there are questions."""
        self._adapters = AdaptersMap(_ADAPTERS)

    @classmethod
    def _connect_gen(cls, *arguments: Any, **options: Any) -> Generator[Any, Any, Any]:
        """psycopg's, bounded: libpq keeps what comes before the login has ended, too."""
        gen = super()._connect_gen(*arguments, **options)
        bounds: Bounds | None = None
        try:
            waits = next(gen)
            while True:
                ready = yield waits
                if bounds is None or bounds.fd != waits[0]:
                    bounds = Bounds(waits[0], None, LOGIN_BYTES_MAX)
                bounds.check()
                waits = gen.send(ready)
        except StopIteration as done:
            return done.value

    @property
    def usable(self) -> bool:
        """False once it is closed."""
        return not self.closed

    @property
    def answered_bytes(self) -> int:
        """Received of the answer to what was last asked, when it was last looked at."""
        return self.answer.received_bytes if self.answer is not None else 0

    def drop(self) -> None:
        """Close the connection, whatever state it is in. Never raises."""
        with contextlib.suppress(psycopg.Error):
            self.close()

    def wait(self, gen: PQGen[RV], interval: float = 0.0, timeout: float | None = None) -> RV:
        """Drive psycopg's generator ``gen`` as psycopg does, with a limit on silence, and one on
        the answer as a whole."""
        fd = self.pgconn.socket
        bounds = self.expect_answer()
        began_s = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                wanted = gen.send(self._poll(fd, int(wanted), bounds))
        except StopIteration as done:
            result: RV = done.value
            return result
        finally:
            if self.times is not None:
                self.times.answered(time.monotonic() - began_s)

    def expect_answer(self) -> Bounds:
        """The bounds of an answer that begins now."""
        self.answer = Bounds(self.pgconn.socket, self.silence_s_max, self.answer_bytes_max)
        return self.answer

    def wait_readable(self, bounds: Bounds | None = None) -> None:
        """Wait for bytes; the caller then consumes them. ``bounds``: of the answer, where libpq
        keeps them."""
        self._poll(self.pgconn.socket, 1, bounds)

    def flush(self) -> None:
        """Send what waits to be sent."""
        bounds = self.expect_answer()
        while self.pgconn.flush():
            # A server may speak before it has heard all, and hear no more until it is listened to.
            if self.wait_either(bounds):
                self.pgconn.consume_input()

    def wait_either(self, bounds: Bounds) -> bool:
        """Wait until bytes can be sent, or have come; True when the caller must consume some."""
        return bool(self._poll(self.pgconn.socket, 3, bounds) & 1)

    def _poll(self, fd: int, wanted: int, bounds: Bounds | None) -> int:
        """Wait until ``fd`` is ready for what is wanted (1 reading, 2 writing, 3 either)."""
        poller = select.poll()
        poller.register(fd, (select.POLLIN if wanted & 1 else 0) | (wanted & 2 and select.POLLOUT))
        flags = self._patiently(poller, bounds)
        ready = 0
        if flags & ~select.POLLOUT:
            ready |= 1
        if flags & ~select.POLLIN:
            ready |= 2
        if bounds is not None and ready & 1:
            try:
                bounds.check()
            except psycopg.Error:
                self.close()
                raise
        return ready & wanted or wanted

    def _patiently(self, poller: select.poll, bounds: Bounds | None) -> int:
        """The event flags. Raises OperationalError when the link is dead."""
        silence = Silence(self.silence_s_max, self.liveness, bounds.ends_s if bounds else None)
        while True:
            limit_s = silence.wait_s()
            events = poller.poll(None if limit_s is None else max(0.0, limit_s) * 1000.0)
            dead = not events and silence.dead()
            events = events or (poller.poll(0) if dead else [])
            if events:
                return events[0][1]
            if dead:
                self.close()
                raise psycopg.OperationalError(str(silence))
