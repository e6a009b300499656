"""A PostgreSQL server as the state database: the other side of ``dialects``' seam."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg.abc import RV, AdaptContext, Buffer, PQGen
from psycopg.adapt import AdaptersMap, Loader, Transformer
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

from rivet_fleet.contracts.url import DatabaseUrl
from rivet_fleet.persistence.dialects import ANSWER_MAX_S, POOL_WAIT_S, transaction

# ------------------------------------------------------------------------------------------
# Ends network waits that no timeout of the driver would end.
#
# A half-open path whose near end still acknowledges bytes (a stuck proxy, a frozen server)
# defeats TCP keepalives and TCP_USER_TIMEOUT. A heartbeat must not hang behind it (F6), so one
# daemon thread per store shuts the socket down when a statement is overdue; the driver then
# reports a lost connection like any other.


class Watchdog:
    """Deadlines for sockets, watched by one thread that starts with the first deadline."""

    def __init__(self, *, tick_s: float = 0.5) -> None:
        self._tick_s = tick_s
        self._lock = threading.Lock()
        self._watched: dict[int, tuple[int, float]] = {}
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    @contextlib.contextmanager
    def limit(self, fileno: int, seconds: float) -> Iterator[None]:
        """Shut the socket down if the block takes longer. The fd must stay open within it."""
        number = next(self._numbers)
        with self._lock:
            self._watched[number] = (fileno, time.monotonic() + seconds)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="state-watchdog")
                self._thread.daemon = True
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._watched.pop(number, None)

    def close(self) -> None:
        """Stop the thread."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(self._tick_s):
            self._end_overdue(time.monotonic())

    def _end_overdue(self, now_s: float) -> None:
        # Under the lock: an entry that is still there belongs to a statement in progress, so
        # its file descriptor cannot have been closed and reused.
        with self._lock:
            for number, (fileno, deadline_s) in list(self._watched.items()):
                if now_s >= deadline_s:
                    del self._watched[number]
                    _shutdown(fileno)


_TEXT = psycopg.pq.Format.TEXT


def _plain() -> AdaptersMap:
    """Psycopg's adapters, with arrays and documents as their text: the state has none, the server
    says which type each cell has, and their objects take twenty-five times their text."""
    known = psycopg.adapters
    made = AdaptersMap(known)
    text = known.get_loader(known.types["text"].oid, _TEXT)
    assert text is not None
    for info in known.types:
        if info.array_oid:
            made.register_loader(info.array_oid, text)
    for name in ("json", "jsonb", "record"):
        made.register_loader(known.types[name].oid, text)
    return made


_PLAIN = _plain()


class LimitedConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection whose every wait for the network happens within ``limit``, and for an answer
    that this process can hold."""

    limit: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.cursor_factory = _TextCursor
        self._adapters = AdaptersMap(_PLAIN)
        self.held = _Held(_HELD_BYTES_MAX)
        """Of what was last asked."""

    @classmethod
    def _connect_gen(cls, *arguments: Any, **options: Any) -> Generator[Any, Any, Any]:
        """psycopg's, bounded: libpq keeps what comes before the login has ended, too."""
        gen = _little_at_once(super()._connect_gen(*arguments, **options))
        return (yield from _bounded(gen, _Held(_LOGIN_HELD_BYTES_MAX)))

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """As psycopg's."""
        self.held = _Held(_HELD_BYTES_MAX)
        with self.limit():
            try:
                found: RV = super().wait(_bounded(gen, self.held), interval, timeout)
                return found
            except psycopg.DataError as error:
                if error.sqlstate is None:
                    self.close()  # what is left of the answer would be the next one's
                raise


class _TextCursor(psycopg.Cursor[tuple[Any, ...]]):
    """The server says in which form it answers, and psycopg's compiled loaders believe the lengths
    of a binary one: we ask for text, and take nothing else. Of an answer that was kept objects are
    made, which are larger: a block at a time, and of no cell that is too large."""

    def _select_current_result(self, i: int, format: psycopg.pq.Format | None = None) -> None:
        result = self._results[i]
        columns = range(result.nfields)
        if result.status == psycopg.pq.ExecStatus.TUPLES_OK:
            if any(map(result.fformat, columns)):
                raise psycopg.DataError("an answer in binary, which nobody asked for")
            if self._held.look() > _CELL_BYTES_MAX:
                # Else no cell can be so large, and none is worth a look.
                self._adapters = _measured(self.adapters, set(map(result.ftype, columns)))
                self._tx = Transformer(self)
        super()._select_current_result(i, format)

    def fetchall(self) -> list[tuple[Any, ...]]:
        """All rows that are left. Raises DataError when they take more memory than any may."""
        found = self.fetchmany(_BLOCK_ROWS)
        while (self.rownumber or 0) < self.rowcount:
            try:
                self._held.look()  # most answers have less than a block, which makes little
            except psycopg.DataError:
                self.connection.close()  # libpq keeps the room that a large answer took
                raise
            found += self.fetchmany(_BLOCK_ROWS)
        return found

    @property
    def _held(self) -> _Held:
        connection = self.connection
        assert isinstance(connection, LimitedConnection)
        return connection.held


class _Measured(Loader):
    """Psycopg's loader of ``of``, for cells that are small enough. Raises DataError."""

    of: type[Any]

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        super().__init__(oid, context)
        self._loader = self.of(oid, context)

    def load(self, data: Buffer) -> Any:
        """The value."""
        if len(data) > _CELL_BYTES_MAX:
            if isinstance(self.connection, LimitedConnection):
                self.connection.close()
            raise psycopg.DataError("a value of the answer is larger than any may be")
        return self._loader.load(data)


def _measured(known: AdaptersMap, oids: set[int]) -> AdaptersMap:
    """The same adapters, that measure what is of these types."""
    made = AdaptersMap(known)
    for oid in oids:
        # What nobody knows is the server's text.
        of = known.get_loader(oid, _TEXT) or known.get_loader(0, _TEXT)
        made.register_loader(oid, type("Measured", (_Measured,), {"of": of}))
    return made


_HELD_BYTES_MAX = 512 * 1024 * 1024
"""What this process may grow by while libpq keeps one answer (it keeps all that comes), and while
objects are made of it."""
_LOGIN_HELD_BYTES_MAX = 32 * 1024 * 1024
"""The same of everything before the first statement."""
_CELL_BYTES_MAX = 64 * 1024 * 1024
"""Of one cell: its text may take four times its bytes."""
_BLOCK_ROWS = 1000
_RECEIVE_BUFFER_BYTES = 48 * 1024
"""What the kernel keeps for us (it doubles that): libpq reads a long message until nothing more is
there, so a buffer that grows with a fast peer would bring hundreds of megabytes between two looks.
The state's answers are small."""


class _Held:
    """What this process grew by since an answer was first looked at."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._before_bytes: int | None = None

    def look(self) -> int:
        """By how many bytes. Raises DataError when they are more than any answer may take."""
        held_bytes = _held_bytes()
        if self._before_bytes is None:
            self._before_bytes = held_bytes
        grown_bytes = held_bytes - self._before_bytes
        if grown_bytes > self._bytes_max:
            raise psycopg.DataError("the answer takes more memory than any may take")
        return grown_bytes


def _bounded(gen: Generator[Any, Any, Any], held: _Held) -> Generator[Any, Any, Any]:
    """psycopg's generator ``gen``. Raises DataError when its answer takes too much memory."""
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            # Before libpq takes what came: the first look is at a process without any of it.
            held.look()
            wanted = gen.send(ready)
    except StopIteration as done:
        return done.value


def _little_at_once(gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """psycopg's generator of a connection, whose every socket keeps little for us."""
    known = -1
    try:
        waits = next(gen)
        while True:
            # One for each address that is tried.
            if waits[0] != known:
                known = waits[0]
                _keep_little(known)
            waits = gen.send((yield waits))
    except StopIteration as done:
        return done.value


def _keep_little(fileno: int) -> None:
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fileno)) as duplicate:
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)


def _held_bytes() -> int:
    """The memory that this process holds; 0 where nobody says (not Linux)."""
    with contextlib.suppress(OSError):
        pages = Path("/proc/self/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGESIZE")
    return 0


def _shutdown(fileno: int) -> None:
    try:
        # Shut down and not closed: closing wakes nobody who waits in poll(2), and frees the number
        # for another file. Of a duplicate, because this object closes its own number when it ends.
        with socket.socket(fileno=os.dup(fileno)) as duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # already gone: the waiting statement is about to notice by itself


_MIGRATE_MAX_S = 180.0
# libpq's limit for each address that a name leads to, not for all of them together.
_CONNECT_MAX_S = 5
_PORT = 5432
# "rivet_fl" in ASCII: numbers of advisory locks are shared by all programs of a database.
_MIGRATION_LOCK = 0x7269_7665_745F_666C


_METHODS_CHOSEN = 160_000
"""The version of libpq since which it knows ``require_auth``."""


class PostgresDialect:
    """A server for many hosts, directly or behind a transaction pooler."""

    one_statement_claim = True
    one_host = False
    fragments: Mapping[str, str] = {
        "NOW_S": "extract(epoch from clock_timestamp())::float8",
        "LOCK_TASKS": "FOR UPDATE OF t SKIP LOCKED",
        "LOCK_ROW": "FOR UPDATE",
    }
    # Our transitions lock their rows and look again: at SERIALIZABLE, which the role, the database
    # or the server may have for its default, they would fail each other (40001).
    _LEVEL = "BEGIN ISOLATION LEVEL READ COMMITTED"
    # A process that is paused inside a transaction must not keep its row locks: others would
    # skip those tasks for as long as the pause lasts.
    _BEGIN = (
        f"{_LEVEL}; SET LOCAL idle_in_transaction_session_timeout = '10s'; "
        # Both below ANSWER_MAX_S: the server's word keeps the connection, the watchdog's ends it.
        # The lock's comes first: it (55P03) is repeated at once, a statement's is not.
        "SET LOCAL statement_timeout = '14s'; SET LOCAL lock_timeout = '10s'"
    )
    # The log is written in order: a later synchronous commit takes this one with it.
    _BEGIN_RELAXED = f"{_BEGIN}; SET LOCAL synchronous_commit = off"
    _BEGIN_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; " + _BEGIN.split("; ", 1)[1]
    # A role's own lock_timeout would end the wait for the others' migrations.
    _BEGIN_MIGRATION = (
        f"{_LEVEL}; SET LOCAL lock_timeout = 0; SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"
    )

    def __init__(self, url: DatabaseUrl, *, answer_max_s: float = ANSWER_MAX_S) -> None:
        self._url = url
        self._answer_max_s = answer_max_s
        self.target = url.identity
        self.secrets: tuple[str, ...] = (url.password,) if url.password else ()
        self._watchdog = Watchdog()

    def engine(self, pool_size: int) -> Engine:
        """An engine whose every connection answers within its limit, the first questions too."""
        engine = create_engine(
            # Where it is, libpq is told as the URL says it: a socket's folder, several hosts.
            URL.create("postgresql+psycopg"),
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
            pool_size=pool_size,
            max_overflow=4,
            pool_timeout=POOL_WAIT_S,
            pool_recycle=1800,
            # Else SQLAlchemy looks in the catalogue for an extension that nothing here uses.
            use_native_hstore=False,
            connect_args=self._connect_args(),
        )
        # SQLAlchemy asks a first connection questions of its own, outside of our statements.
        event.listen(engine, "do_connect", self._connect)
        event.listen(engine, "connect", _connected)
        return engine

    def _connect(
        self, _dialect: object, _record: ConnectionPoolEntry, _args: object, options: dict[str, Any]
    ) -> LimitedConnection:
        # SQLAlchemy would have the connection make its own objects again.
        connection = LimitedConnection.connect(**{**options, "context": None})
        connection.limit = lambda: self._watchdog.limit(connection.fileno(), self._answer_max_s)
        return connection

    def _connect_args(self) -> dict[str, object]:
        return {
            "connect_timeout": _CONNECT_MAX_S,
            "keepalives": 1,
            "keepalives_idle": 10,
            "keepalives_interval": 3,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,
            "application_name": "rivet-fleet",
            # Server-side prepared statements do not survive a transaction pooler.
            "prepare_threshold": None,
            # Else the environment's (PGOPTIONS: a search path) would lead to other tables. Its word
            # about TLS counts where the URL needs none: on this machine.
            **({} if self._url.option("service") else {"options": ""}),
            **self._careful(),
            **dict(self._url.options),
            **self._url.place(_PORT),
        }

    def _careful(self) -> dict[str, object]:
        """The password itself is for a server that was verified, or a socket's file: a rogue one
        would ask for it. What the URL says of ``require_auth`` wins."""
        elsewhere = any(self._url.option(name) for name in ("hostaddr", "service"))
        by_file = self._url.host[:1] in ("/", "@") and not (self._url.more_hosts or elsewhere)
        verified = self._url.option("sslmode") in ("verify-ca", "verify-full")
        if by_file or verified or psycopg.pq.version() < _METHODS_CHOSEN:
            return {}
        return {"require_auth": "!password"}

    @contextlib.contextmanager
    def writing(
        self, connection: Connection, *, migrating: bool = False, durable: bool = True
    ) -> Iterator[None]:
        """A write transaction, each statement within the limit for an answer. ``migrating``: no
        other migration overlaps it, and it may wait for one. Not ``durable``: its COMMIT does not
        wait for the disk, which a later one that does takes along."""
        if migrating:
            # Waiting for fifteen other migrations is the one wait that may be long.
            begin = self._BEGIN_MIGRATION
            with (
                self._within(connection, _MIGRATE_MAX_S),
                transaction(connection, begin, driver_error=psycopg.Error),
            ):
                yield
            return
        begin = self._BEGIN if durable else self._BEGIN_RELAXED
        with transaction(connection, begin, self.limit, driver_error=psycopg.Error):
            yield

    def reading(self, connection: Connection) -> contextlib.AbstractContextManager[None]:
        """A snapshot that several SELECTs share, read only."""
        return transaction(connection, self._BEGIN_READ, self.limit, driver_error=psycopg.Error)

    def alone(self, connection: Connection) -> contextlib.AbstractContextManager[None]:
        """One statement by itself, in a transaction of ours where the server's default level is
        another than ours."""
        if connection.info.get(_DEFAULT_LEVEL) == "read committed":
            return contextlib.nullcontext()
        return transaction(connection, self._BEGIN, self.limit, driver_error=psycopg.Error)

    def limit(self, connection: Connection) -> contextlib.AbstractContextManager[None]:
        """Bound one statement, its way through the network included, by the watchdog."""
        return self._within(connection, self._answer_max_s)

    def _within(
        self, connection: Connection, seconds: float
    ) -> contextlib.AbstractContextManager[None]:
        raw: Any = connection.connection.dbapi_connection
        if raw.closed:
            return contextlib.nullcontext()  # the statement itself reports it
        return self._watchdog.limit(raw.fileno(), seconds)

    def refresh_statistics(self, engine: Engine) -> None:
        """ANALYZE the tables that a campaign fills. A failure is nobody's concern."""
        # Before autovacuum has looked, a table that just grew from nothing is planned as small.
        with (
            contextlib.suppress(DBAPIError),
            engine.connect() as connection,
            self.limit(connection),
        ):
            connection.exec_driver_sql("ANALYZE chunk_task, chunk_run")

    def keep_copy(self, revision: str) -> None:
        """See ``Dialect.keep_copy``. A dump of a server is its operator's: ``state migrate`` and
        its documentation say so."""

    def close(self) -> None:
        """End the watchdog's thread."""
        self._watchdog.close()


_DEFAULT_LEVEL = "default level"


def _connected(raw: LimitedConnection, record: ConnectionPoolEntry) -> None:
    """SQLAlchemy's own questions are answered; from now on each statement is limited. At which
    level a statement without a transaction of ours would run is asked once."""
    sql = "SELECT pg_catalog.current_setting('default_transaction_isolation')"
    row = raw.execute(sql).fetchone()
    if not raw.autocommit:
        raw.rollback()
    record.info[_DEFAULT_LEVEL] = row[0] if row else ""
    raw.limit = contextlib.nullcontext
