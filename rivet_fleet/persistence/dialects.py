"""What differs between the two backends, in this one place: clock, locks, begin, connecting.

Both engines run in driver-level autocommit and transactions are begun here in so many words:
SQLite needs ``BEGIN IMMEDIATE`` behind a file lock, PostgreSQL gets its limits in the same round
trip as ``BEGIN``. Limits are ``SET LOCAL``, so nothing outlives a transaction and any pooler works.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import psycopg
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from rivet_fleet.contracts.url import DatabaseUrl
from rivet_fleet.errors import StateRefused
from rivet_fleet.persistence.filelock import FileLock
from rivet_fleet.persistence.watchdog import LimitedConnection, Watchdog

ANSWER_MAX_S = 15.0
"""How long one statement may take, its way through the network included."""
_DRIVER_ERRORS = (sqlite3.Error, psycopg.Error, SQLAlchemyError)
_MIGRATE_MAX_S = 180.0
_CONNECT_MAX_S = 5
_POOL_WAIT_S = 30.0
_MIGRATION_LOCK = 0x7269_7665_745F_666C

_NETWORK_FILESYSTEMS = {
    *("nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "ncpfs", "afs", "ceph", "lustre", "gfs2"),
    *("ocfs2", "glusterfs", "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone"),
}


class Dialect(Protocol):
    """One backend. The SQL fragments are spliced into statements in place of their names."""

    target: str
    """The database by name, without a secret."""
    secrets: tuple[str, ...]
    fragments: Mapping[str, str]
    """``NOW_S`` the clock; ``LOCK_TASKS`` skip what others lock; ``LOCK_ROW`` wait for it."""
    one_statement_claim: bool
    """True when a claim with its journal row is one autocommitted statement."""
    one_host: bool
    """True when only processes of one host may use the state."""

    def engine(self, pool_size: int) -> Engine:
        """An engine that opens connections when they are needed."""
        ...

    def writing(
        self, connection: Connection, *, migrating: bool = False
    ) -> contextlib.AbstractContextManager[None]:
        """A write transaction: committed at the end of the block, rolled back on errors."""
        ...

    def reading(self, connection: Connection) -> contextlib.AbstractContextManager[None]:
        """A snapshot that several SELECTs share."""
        ...

    def limit(self, connection: Connection) -> contextlib.AbstractContextManager[None]:
        """Bound one statement's wait for the network."""
        ...

    def refresh_statistics(self, engine: Engine) -> None:
        """Let the planner know about many new tasks."""
        ...

    def close(self) -> None:
        """Give files and threads back."""
        ...


_Limit = Callable[[Connection], contextlib.AbstractContextManager[None]]


def _unlimited(_connection: Connection) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


@contextlib.contextmanager
def _transaction(connection: Connection, begin: str, limit: _Limit = _unlimited) -> Iterator[None]:
    with limit(connection):
        connection.exec_driver_sql(begin)
    try:
        yield
        with limit(connection):
            connection.exec_driver_sql("COMMIT")
    except BaseException:
        # The driver's own rollback sends nothing when no transaction is open any more.
        if not connection.invalidated:
            with contextlib.suppress(*_DRIVER_ERRORS), limit(connection):
                connection.connection.dbapi_connection.rollback()  # type: ignore[union-attr]
        raise


class SqliteDialect:
    """A file beside the configuration: WAL, ``synchronous=FULL``, one writer at a time."""

    one_statement_claim = False
    one_host = True
    secrets: tuple[str, ...] = ()
    fragments: Mapping[str, str] = {
        # julianday is the only sub-second clock before SQLite 3.42.
        "NOW_S": "((julianday('now') - 2440587.5) * 86400.0)",
        "LOCK_TASKS": "",
        "LOCK_ROW": "",
    }

    def __init__(self, path: Path) -> None:
        """Raises StateRefused for a missing or unwritable directory or a network filesystem."""
        self.path = path
        self.target = f"sqlite:///{path}"
        refuse_network_filesystem(path)
        try:
            self._lock = FileLock(path.with_name(path.name + ".lock"))
        except OSError as failure:
            raise StateRefused(
                f"state database {self.target}: {failure.strerror}",
                hint="the state's directory must exist and be writable",
            ) from None

    def engine(self, pool_size: int) -> Engine:
        """See ``Dialect.engine``."""
        engine = create_engine(
            URL.create("sqlite", database=str(self.path)),
            isolation_level="AUTOCOMMIT",
            pool_size=pool_size,
            max_overflow=4,
            pool_timeout=_POOL_WAIT_S,
            connect_args={"timeout": 30.0, "check_same_thread": False, "cached_statements": 256},
        )
        event.listen(engine, "connect", self._prepare)
        return engine

    def _prepare(self, raw: Any, _record: ConnectionPoolEntry) -> None:
        # Switching to WAL does not go through SQLite's busy handler, so it needs our lock.
        with self._lock.held():
            for pragma in (
                "busy_timeout=30000",
                "journal_mode=WAL",
                "synchronous=FULL",
                "foreign_keys=ON",
            ):
                raw.execute(f"PRAGMA {pragma}").fetchall()

    @contextlib.contextmanager
    def writing(self, connection: Connection, *, migrating: bool = False) -> Iterator[None]:
        """See ``Dialect.writing``."""
        with self._lock.held(), _transaction(connection, "BEGIN IMMEDIATE"):
            yield

    def reading(self, connection: Connection) -> contextlib.AbstractContextManager[None]:
        """See ``Dialect.reading``."""
        return _transaction(connection, "BEGIN")

    def limit(self, connection: Connection) -> contextlib.AbstractContextManager[None]:
        """See ``Dialect.limit``."""
        return contextlib.nullcontext()

    def refresh_statistics(self, engine: Engine) -> None:
        """See ``Dialect.refresh_statistics``."""
        # every statement of ours has one index to choose

    def close(self) -> None:
        """See ``Dialect.close``."""
        self._lock.close()


class PostgresDialect:
    """A server for many hosts, directly or behind a transaction pooler."""

    one_statement_claim = True
    one_host = False
    fragments: Mapping[str, str] = {
        "NOW_S": "extract(epoch from clock_timestamp())::float8",
        "LOCK_TASKS": "FOR UPDATE OF t SKIP LOCKED",
        "LOCK_ROW": "FOR UPDATE",
    }
    # A process that is paused inside a transaction must not keep its row locks: others would
    # skip those tasks for as long as the pause lasts.
    _BEGIN = (
        "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '10s'; "
        "SET LOCAL statement_timeout = '14s'; SET LOCAL lock_timeout = '10s'"
    )
    _BEGIN_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; " + _BEGIN.split("; ", 1)[1]
    _BEGIN_MIGRATION = (
        f"BEGIN; SET LOCAL lock_timeout = 0; SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"
    )

    def __init__(self, url: DatabaseUrl, *, answer_max_s: float = ANSWER_MAX_S) -> None:
        self._url = url
        self._answer_max_s = answer_max_s
        self.target = url.identity
        self.secrets: tuple[str, ...] = (url.password,) if url.password else ()
        self._watchdog = Watchdog()

    def engine(self, pool_size: int) -> Engine:
        """See ``Dialect.engine``."""
        url = self._url
        engine = create_engine(
            URL.create(
                "postgresql+psycopg",
                username=url.user or None,
                password=url.password,
                host=None if url.host.startswith("/") else url.host or None,
                port=url.port,
                database=url.database or None,
                query={"host": url.host} if url.host.startswith("/") else {},
            ),
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
            pool_size=pool_size,
            max_overflow=4,
            pool_timeout=_POOL_WAIT_S,
            pool_recycle=1800,
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
        connection = LimitedConnection.connect(**options)
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
            **dict(self._url.options),
        }

    @contextlib.contextmanager
    def writing(self, connection: Connection, *, migrating: bool = False) -> Iterator[None]:
        """See ``Dialect.writing``."""
        if migrating:
            # Waiting for fifteen other migrations is the one wait that may be long.
            begin = self._BEGIN_MIGRATION
            with self._within(connection, _MIGRATE_MAX_S), _transaction(connection, begin):
                yield
            return
        with _transaction(connection, self._BEGIN, self.limit):
            yield

    def reading(self, connection: Connection) -> contextlib.AbstractContextManager[None]:
        """See ``Dialect.reading``."""
        return _transaction(connection, self._BEGIN_READ, self.limit)

    def limit(self, connection: Connection) -> contextlib.AbstractContextManager[None]:
        """See ``Dialect.limit``."""
        return self._within(connection, self._answer_max_s)

    def _within(
        self, connection: Connection, seconds: float
    ) -> contextlib.AbstractContextManager[None]:
        raw: Any = connection.connection.dbapi_connection
        if raw.closed:
            return contextlib.nullcontext()  # the statement itself reports it
        return self._watchdog.limit(raw.fileno(), seconds)

    def refresh_statistics(self, engine: Engine) -> None:
        """See ``Dialect.refresh_statistics``."""
        # Before autovacuum has looked, a table that just grew from nothing is planned as small.
        with (
            contextlib.suppress(DBAPIError),
            engine.connect() as connection,
            self.limit(connection),
        ):
            connection.exec_driver_sql("ANALYZE chunk_task, chunk_run")

    def close(self) -> None:
        """See ``Dialect.close``."""
        self._watchdog.close()


def _connected(raw: LimitedConnection, _record: ConnectionPoolEntry) -> None:
    """SQLAlchemy's own questions are answered; from now on each statement is limited."""
    raw.limit = contextlib.nullcontext


def refuse_network_filesystem(path: Path, mounts: str | None = None) -> None:
    """Raise StateRefused when ``path`` is on a network filesystem: its locks do not hold there.

    ``mounts`` is the text of /proc/mounts; systems without it are not checked.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/mounts").read_text()
        except OSError:
            return
    place = str(path.absolute())
    found = ""
    kind = ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        point = fields[1].replace("\\040", " ").rstrip("/")
        if len(point) >= len(found) and (place + "/").startswith(point + "/"):
            found, kind = point, fields[2]
    if kind in _NETWORK_FILESYSTEMS:
        raise StateRefused(
            f"the SQLite state {place} is on a network filesystem ({kind})",
            hint="put it on a local disk, or use a PostgreSQL state database",
            code="RIVET_STATE_NETWORK_FILESYSTEM",
        )
