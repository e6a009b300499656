"""What differs between the two backends: clock, locks, begin, connecting. The seam, and SQLite's
side of it; ``postgres_dialect`` is the other, so that a laptop's state imports no server's driver.

Both engines run in driver-level autocommit and transactions are begun here in so many words:
SQLite needs ``BEGIN IMMEDIATE`` behind a file lock, PostgreSQL gets its limits in the same round
trip as ``BEGIN``. Limits are ``SET LOCAL``, so nothing outlives a transaction and any pooler works.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import psutil
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from rivet_fleet.contracts.places import sharer_of, stranger_at
from rivet_fleet.errors import StateRefused, StateUnavailable

# ------------------------------------------------------------------------------------------
# One writer at a time for a SQLite state: an ``flock`` on a side file, with a bounded wait.
#
# SQLite's own busy handler is unfair and gives up with ``database is locked`` under a fleet's
# load. Waiting in front of the database instead keeps that message from ever surfacing (F7).

_SLEEP_MIN_S = 0.0002
_SLEEP_MAX_S = 0.004


class FileLock:
    """An exclusive lock over processes and over this process's threads."""

    def __init__(self, path: Path, *, wait_max_s: float = 60.0) -> None:
        """``path`` is created when missing. Raises OSError when it cannot be opened."""
        self._path = path
        self._wait_max_s = wait_max_s
        # flock belongs to the open file, which this process's threads share.
        self._threads = threading.Lock()
        # An executed child must not inherit it: the lock of a holder that was killed would live on
        # in the child (flock(2)).
        self._fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock within the block. Raises StateUnavailable after the bounded wait."""
        deadline_s = time.monotonic() + self._wait_max_s
        if not self._threads.acquire(timeout=self._wait_max_s):
            raise self._busy()
        try:
            self._acquire(deadline_s)
            try:
                yield
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
        finally:
            self._threads.release()

    def close(self) -> None:
        """Close the side file; the file itself stays (removing it would race). Once: its number
        may be another file's by then."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _acquire(self, deadline_s: float) -> None:
        sleep_s = _SLEEP_MIN_S
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline_s:
                    raise self._busy() from None
            # Chance keeps waiters out of step; a short ceiling keeps the lock from idling.
            time.sleep(sleep_s * (0.5 + random.random()))
            sleep_s = min(sleep_s * 1.5, _SLEEP_MAX_S)

    def _busy(self) -> StateUnavailable:
        pid = holder_pid(self._path)
        held = f"a stopped process may hold {self._path}" if pid is None else _told(pid, self._path)
        return StateUnavailable(
            f"the SQLite state was held by another process for {self._wait_max_s:.0f} s",
            hint=f"{held}; use PostgreSQL for many workers",
            code="RIVET_STATE_BUSY",
        )


def holder_pid(path: Path) -> int | None:
    """Who holds the lock on ``path`` now, as the kernel tells it (proc_locks(5)).

    None when nobody does, or where the kernel has no such list.
    """
    try:
        listed = Path("/proc/locks").read_text()
        inode = str(path.stat().st_ino)
    except OSError:
        return None
    for line in listed.splitlines():
        # 1: FLOCK  ADVISORY  WRITE 4711 fe:00:131102 0 EOF; one that waits has "->" second.
        fields = line.split()
        if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == inode:
            return int(fields[4])
    return None


def _told(pid: int, path: Path) -> str:
    try:
        stopped = psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        stopped = False
    if stopped:
        return f"process {pid}, which is stopped (kill -CONT {pid} wakes it), holds {path}"
    return f"process {pid} holds {path}"


ANSWER_MAX_S = 15.0
"""How long one statement may take, its way through the network included."""
POOL_WAIT_S = 30.0

_NETWORK_FILESYSTEMS = {
    *("nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "ncpfs", "afs", "ceph", "lustre", "gfs2"),
    *("ocfs2", "glusterfs", "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone"),
}

UNTRUSTED = "trusted_schema=OFF"
"""A trigger, view or column of a file calls no function of this process: ``regexp``, which
SQLAlchemy gives each connection, takes minutes over a few letters."""
_BESIDE = ("-wal", "-shm", "-journal", ".lock")


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
        self, connection: Connection, *, migrating: bool = False, durable: bool = True
    ) -> contextlib.AbstractContextManager[None]:
        """A write transaction: committed at the end of the block, rolled back on errors.
        Not ``durable``: it reaches the disk with the next durable one, never after it."""
        ...

    def reading(self, connection: Connection) -> contextlib.AbstractContextManager[None]:
        """A snapshot that several SELECTs share."""
        ...

    def alone(self, connection: Connection) -> contextlib.AbstractContextManager[None]:
        """One statement and no more: autocommitted where the server's defaults allow it."""
        ...

    def limit(self, connection: Connection) -> contextlib.AbstractContextManager[None]:
        """Bound one statement's wait for the network."""
        ...

    def refresh_statistics(self, engine: Engine) -> None:
        """Let the planner know about many new tasks."""
        ...

    def keep_copy(self, revision: str) -> None:
        """Keep what is there before it is migrated to ``revision``, where that is ours to do."""
        ...

    def close(self) -> None:
        """Give files and threads back."""
        ...


Limit = Callable[[Connection], contextlib.AbstractContextManager[None]]


def _unlimited(_connection: Connection) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


@contextlib.contextmanager
def transaction(
    connection: Connection,
    begin: str,
    limit: Limit = _unlimited,
    *,
    driver_error: type[Exception],
) -> Iterator[None]:
    """``begin`` to COMMIT, each within ``limit``; rolled back on errors.

    ``driver_error``: what the driver may raise when even the rollback does not get through.
    """
    with limit(connection):
        connection.exec_driver_sql(begin)
    try:
        yield
        with limit(connection):
            connection.exec_driver_sql("COMMIT")
    except BaseException:
        # Interrupts, too: the pool must not get a connection back that is within a transaction.
        # The driver's own rollback sends nothing when no transaction is open any more.
        if not connection.invalidated:
            with contextlib.suppress(driver_error, SQLAlchemyError), limit(connection):
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
        """Raises StateRefused for a missing or unwritable directory, a network filesystem, and
        where somebody else could make, or have made, one of the files."""
        self.path = path
        self.target = f"sqlite:///{path}"
        refuse_network_filesystem(path)
        refuse_strangers(path)
        try:
            self._lock = FileLock(path.with_name(path.name + ".lock"))
        except OSError as failure:
            raise StateRefused(
                f"state database {self.target}: {failure.strerror}",
                hint="the state's directory must exist and be writable",
            ) from None
        try:
            # Again, behind what was opened: in between somebody may have changed the place.
            refuse_strangers(path)
        except StateRefused:
            self._lock.close()
            raise

    def engine(self, pool_size: int) -> Engine:
        """An engine whose connections have our pragmas; the file is made when there is none."""
        engine = create_engine(
            URL.create("sqlite", database=str(self.path)),
            isolation_level="AUTOCOMMIT",
            pool_size=pool_size,
            max_overflow=4,
            pool_timeout=POOL_WAIT_S,
            # The pool lends a connection to whichever thread asks, to one at a time; sqlite3 would
            # refuse all but the thread that opened it.
            connect_args={"timeout": 30.0, "check_same_thread": False, "cached_statements": 256},
        )
        event.listen(engine, "do_connect", self._make_private)
        event.listen(engine, "connect", self._prepare)
        return engine

    def _prepare(self, raw: Any, _record: ConnectionPoolEntry) -> None:
        # Switching to WAL does not go through SQLite's busy handler, so it needs our lock.
        with self._lock.held():
            for pragma in (
                # For programs that do not know our lock file: a backup, a shell.
                "busy_timeout=30000",
                "journal_mode=WAL",
                "synchronous=FULL",
                "foreign_keys=ON",
                UNTRUSTED,
            ):
                raw.execute(f"PRAGMA {pragma}").fetchall()

    def _make_private(self, *_: object) -> None:
        """A state that is made now is its user's alone (SQLite's other files follow it). One that
        is there keeps its mode, and is not opened: closing it would drop SQLite's locks."""
        made = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, made, 0o600))

    @contextlib.contextmanager
    def writing(
        self, connection: Connection, *, migrating: bool = False, durable: bool = True
    ) -> Iterator[None]:
        """A write transaction of the one writer that the file's lock admits. Not ``durable``: it
        reaches the disk with the next durable one. Raises StateUnavailable when another process
        keeps the lock."""
        with self._lock.held():
            # Before BEGIN: SQLite refuses to change the level within a transaction.
            self._synchronize(connection, "FULL" if durable else "NORMAL")
            # IMMEDIATE although our lock is held: behind a program that does not know it, a
            # transaction that has read could not become a writer (SQLITE_BUSY_SNAPSHOT, at once).
            with transaction(connection, "BEGIN IMMEDIATE", driver_error=sqlite3.Error):
                yield

    def _synchronize(self, connection: Connection, level: str) -> None:
        """When a commit is fsynced: FULL always, NORMAL with the next FULL or checkpoint."""
        if connection.info.get("synchronous", "FULL") != level:
            # Unknown until it is done: a failure must not leave a belief in FULL behind.
            connection.info["synchronous"] = ""
            connection.exec_driver_sql(f"PRAGMA synchronous={level}")
            connection.info["synchronous"] = level

    def reading(self, connection: Connection) -> contextlib.AbstractContextManager[None]:
        """A snapshot that several SELECTs share; in WAL it waits for nobody."""
        return transaction(connection, "BEGIN", driver_error=sqlite3.Error)

    def alone(self, connection: Connection) -> contextlib.AbstractContextManager[None]:
        """Nothing: a statement of SQLite is a transaction by itself."""
        return contextlib.nullcontext()

    def limit(self, connection: Connection) -> contextlib.AbstractContextManager[None]:
        """Nothing: there is no network to wait for."""
        return contextlib.nullcontext()

    def refresh_statistics(self, engine: Engine) -> None:
        """Nothing: every statement of ours has one index to choose."""

    def keep_copy(self, revision: str) -> None:
        """See ``Dialect.keep_copy``: ``<name>.before-<revision>``, for its owner alone. Raises
        StateRefused when it cannot be kept."""
        copy = self.path.with_name(f"{self.path.name}.before-{revision}")
        passing = copy.with_name(f"{copy.name}.tmp")
        try:
            passing.unlink(missing_ok=True)
            os.close(os.open(passing, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            with (
                contextlib.closing(sqlite3.connect(self.path)) as present,
                contextlib.closing(sqlite3.connect(passing)) as kept,
            ):
                # Not a copy of the file: what was committed last may still be in the WAL beside it.
                present.backup(kept)
            # Under its own name only when it is whole: a copy cut short by a kill must not look
            # like one to go back to.
            passing.replace(copy)
        except (OSError, sqlite3.Error) as failure:
            with contextlib.suppress(OSError):
                passing.unlink(missing_ok=True)
            raise StateRefused(
                f"no copy of {self.target} could be kept as {copy.name}: {failure}",
                hint="nothing was migrated; a migration needs room for one copy beside the file",
            ) from None

    def close(self) -> None:
        """Give the lock's file back."""
        self._lock.close()


_STEPS_BETWEEN_LOOKS = 10_000
_LOOKS_MAX = 5_000
_VALUE_BYTES_MAX = 1_000_000


@contextlib.contextmanager
def anothers_file(path: Path) -> Iterator[sqlite3.Connection]:
    """A SQLite file of another program, to read a little of it. It is not changed, and SQLite's
    others are not made beside it: where there is no log to read, the file is all there is.

    Whatever its schema says calls nothing of ours, works for seconds and holds megabytes at most:
    sqlite3.Error behind that. Raises StateRefused where the file could be somebody else's.
    """
    refuse_strangers(path)
    # A journal says that the file may hold half of a transaction: SQLite is to look at it.
    logs = (path.with_name(path.name + end) for end in ("-wal", "-journal"))
    whole = not any(log.is_file() and log.stat().st_size for log in logs)
    options = "mode=ro&immutable=1" if whole else "mode=ro"
    where = f"{path.absolute().as_uri()}?{options}"
    looks = iter(range(_LOOKS_MAX))
    with contextlib.closing(sqlite3.connect(where, uri=True)) as raw:
        for pragma in (UNTRUSTED, "cell_size_check=ON", "mmap_size=0"):
            raw.execute(f"PRAGMA {pragma}").fetchall()
        # Within one call of a function of SQLite's nobody looks at the clock.
        raw.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _VALUE_BYTES_MAX)
        raw.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 0)
        raw.set_progress_handler(lambda: next(looks, None) is None, _STEPS_BETWEEN_LOOKS)
        yield raw


def refuse_strangers(path: Path) -> None:
    """Raise StateRefused when others may put files beside the state, and when one of its files lies
    where everybody may write and is somebody else's: SQLite reads pages out of the files beside
    its own, each time it connects, and believes them."""
    refused = None
    try:
        sharer = sharer_of(path)
        if sharer is not None:
            refused = f"lies where others may put files: {sharer}; who does"
    except OSError as failure:
        # A folder that is not there now may be somebody else's a moment later.
        raise StateRefused(
            f"state database sqlite:///{path}: {failure.strerror}",
            hint="the state's directory must exist and be writable",
        ) from None
    for name in (path.name, *(path.name + end for end in _BESIDE)):
        try:
            what = stranger_at(path.with_name(name))
        except OSError:
            continue
        if what is not None:
            refused = f"{what}: whoever made it"
    if refused is not None:
        raise StateRefused(
            f"state database sqlite:///{path} {refused} could read and change what the fleet "
            "remembers",
            hint="nothing was opened; keep the state in a folder of your own (`state: {url: "
            "sqlite:///…}`), or take the right to write in this one from everybody (chmod o-w)",
            code="RIVET_STATE_NOT_OURS",
        )


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
        # The longest mount point holds the path; of two on one point the later hides the earlier.
        if len(point) >= len(found) and (place + "/").startswith(point + "/"):
            found, kind = point, fields[2]
    if kind in _NETWORK_FILESYSTEMS:
        raise StateRefused(
            f"the SQLite state {place} is on a network filesystem ({kind})",
            hint="put it on a local disk, or use a PostgreSQL state database",
            code="RIVET_STATE_NETWORK_FILESYSTEM",
        )
