"""One state database: connections, transactions and the retries that are safe.

``write`` may run its work twice: after a lost connection (the outcome is then unknown, which is
why every transition recognises its own earlier success) and after a rollback by the server.

A database is seen from within one namespace: statements name it as ``:namespace``, and an id of
another one is refused before it reaches any of them (N1).
"""

from __future__ import annotations

import contextlib
import sqlite3
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import Connection, TextClause, exc, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.base import Executable

from rivet_fleet.contracts.foreign import SAID_CHARS_MAX, foreign_line
from rivet_fleet.contracts.identity import NAMESPACE_DEFAULT
from rivet_fleet.contracts.protection import BUDGET_NUMBERS
from rivet_fleet.contracts.seals import UNKEYED, Sealer, SpoiltRow, of_one_row, tampered
from rivet_fleet.errors import (
    RivetFleetError,
    StateError,
    StateRefused,
    StateTampered,
    StateUnavailable,
)
from rivet_fleet.persistence.dialects import Dialect
from rivet_fleet.persistence.guards import (
    MOMENTS,
    NUMBERS,
    SECONDS_MADE,
    TEXTS,
    UNLIKE,
    refuse_foreign,
)

# ------------------------------------------------------------------------------------------
# Where the drivers' exceptions end: one table from SQLSTATE or SQLite code to our errors.

_MIGRATE = "run `rivet-fleet state migrate` with this version of the program"


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What a driver's code means to us. ``again``: the server rolled back; repeat at once."""

    error: type[StateError]
    hint: str | None = None
    again: bool = False


_UNAVAILABLE = Meaning(error=StateUnavailable)
_UNREACHABLE = Meaning(
    error=StateUnavailable,
    hint="is the state database running and reachable from here? Its URL comes from --state-url, "
    "RIVET_FLEET_STATE_URL or `state:`; nothing is lost, start again when it is there",
)
_AGAIN = Meaning(error=StateUnavailable, again=True)
_SPACE = Meaning(error=StateUnavailable, hint="free space for the state database")

SQLSTATES: dict[str, Meaning] = {
    "08": _UNAVAILABLE,
    "53": _UNAVAILABLE,
    "53100": _SPACE,
    "57": _UNAVAILABLE,
    "58": _UNAVAILABLE,
    "40": _AGAIN,
    "55P03": _AGAIN,
    "25P03": _UNAVAILABLE,
    "25P04": _UNAVAILABLE,
    "25006": Meaning(
        error=StateUnavailable, hint="the state URL points at a read-only server or standby"
    ),
    "28": Meaning(error=StateRefused, hint="check the user and password of the state URL"),
    "3D": Meaning(error=StateRefused, hint="create the state database first"),
    "42501": Meaning(error=StateRefused, hint="the state user needs rights on its schema"),
    "42P01": Meaning(error=StateRefused, hint=_MIGRATE),
    "42703": Meaning(error=StateRefused, hint=_MIGRATE),
    "23": Meaning(error=StateRefused),
}
"""Longest prefix wins; the class is the first two characters (PostgreSQL manual, appendix A)."""

SQLITE_CODES: dict[int, Meaning] = {
    sqlite3.SQLITE_BUSY: _AGAIN,
    sqlite3.SQLITE_LOCKED: _AGAIN,
    sqlite3.SQLITE_IOERR: Meaning(error=StateUnavailable, hint="check the disk of the state"),
    sqlite3.SQLITE_FULL: _SPACE,
    sqlite3.SQLITE_NOMEM: _UNAVAILABLE,
    sqlite3.SQLITE_INTERRUPT: _UNAVAILABLE,
    sqlite3.SQLITE_PROTOCOL: _AGAIN,
    sqlite3.SQLITE_SCHEMA: _AGAIN,
    sqlite3.SQLITE_CORRUPT: Meaning(
        error=StateRefused, hint="restore the state from a backup, or start with a new one"
    ),
    sqlite3.SQLITE_NOTADB: Meaning(
        error=StateRefused, hint="the state path is a file that is not a SQLite database"
    ),
    sqlite3.SQLITE_READONLY: Meaning(
        error=StateRefused, hint="the state file and its directory must be writable"
    ),
    sqlite3.SQLITE_PERM: Meaning(error=StateRefused, hint="check the rights of the state file"),
    sqlite3.SQLITE_CANTOPEN: Meaning(
        error=StateRefused, hint="the state's directory must exist and be writable"
    ),
    sqlite3.SQLITE_CONSTRAINT: Meaning(error=StateRefused),
}
"""By primary result code (the low byte of the extended one; sqlite.org/rescode.html)."""

_OTHERWISE = Meaning(error=StateRefused)


_NONSENSE = (AssertionError, MemoryError, UnboundLocalError, struct.error, *UNLIKE)
"""What drivers and SQLAlchemy stumble into where a server answers what was not asked."""


@contextlib.contextmanager
def border(target: str, secrets: tuple[str, ...] = (), *, foreign: bool = False) -> Iterator[None]:
    """Turn every driver or SQLAlchemy error of the block into a StateError; of a ``foreign``
    server whatever its answers make anybody stumble into.

    ``target`` names the state database without a secret.
    """
    try:
        yield
    except exc.DBAPIError as failure:
        raise _translate(failure, target, secrets) from None
    except exc.TimeoutError:
        raise StateUnavailable(
            f"no free connection to the state database {target}",
            hint="every connection of this process's pool is busy",
        ) from None
    except exc.SQLAlchemyError as failure:
        raise StateRefused(f"state database {target}: {type(failure).__name__}") from None
    except _NONSENSE as failure:
        if not foreign:
            raise
        # What they say of an answer holds the answer.
        raise StateRefused(
            f"state database {target}: its answer cannot be understood ({type(failure).__name__})",
            hint="does the URL name a PostgreSQL server, and nothing between here and there that "
            "changes what it says? Nothing was changed",
            code="RIVET_STATE_NONSENSE",
        ) from failure


def meaning_of(failure: exc.DBAPIError) -> Meaning:
    """What the driver's error means. Pure."""
    orig = failure.orig
    if failure.connection_invalidated:
        return _UNAVAILABLE
    if isinstance(orig, sqlite3.Error):
        return _sqlite_meaning(orig)
    # A driver is known by what its errors carry, so that only the one in use is imported.
    state = getattr(orig, "sqlstate", "")
    if state:
        found = [SQLSTATES[p] for p in (state, state[:2]) if p in SQLSTATES]
        return found[0] if found else _OTHERWISE
    # libpq reports a connection that could not be made, or broke, without any SQLSTATE.
    operational = any(kind.__name__ == "OperationalError" for kind in type(orig).__mro__)
    without_state = state is None and operational
    return _connecting(orig) if without_state else _OTHERWISE


def _connecting(orig: BaseException | None) -> Meaning:
    text = str(orig)
    for sign, state in _CONNECT_REFUSALS:
        if sign in text:
            return SQLSTATES[state]
    return _UNREACHABLE


# During connection start-up libpq keeps the server's SQLSTATE to itself; these are the server's
# own untranslated texts for the three refusals a user can repair.
_CONNECT_REFUSALS = (
    ("too many connections", "53"),
    ("password authentication failed", "28"),
    ("no password supplied", "28"),
    ("no pg_hba.conf entry", "28"),
    ("role ", "28"),
    ("does not exist", "3D"),
)


def _sqlite_meaning(orig: sqlite3.Error) -> Meaning:
    code = getattr(orig, "sqlite_errorcode", None)
    if code is None:
        return _OTHERWISE
    # SQLite has one code, SQLITE_ERROR, for these and for any mistake in SQL: only the text tells.
    if "no such table" in str(orig) or "no such column" in str(orig):
        return Meaning(error=StateRefused, hint=_MIGRATE)
    return SQLITE_CODES.get(code & 0xFF, _OTHERWISE)


def _translate(failure: exc.DBAPIError, target: str, secrets: tuple[str, ...]) -> StateError:
    meaning = meaning_of(failure)
    # The driver's own words, not SQLAlchemy's: those repeat the statement with its parameters.
    first_line = (str(failure.orig)[:SAID_CHARS_MAX].strip().splitlines() or [""])[0]
    told = foreign_line(first_line, secrets, chars_max=500)
    return meaning.error(f"state database {target}: {told}", hint=meaning.hint)


T = TypeVar("T")
Record: TypeAlias = Any
"""A result row: its columns by name, or by position."""

# Few, because they follow each other without a pause; longer waits are for those whom a stop or a
# lost lease can end. One more over a lost connection: a pool's may all have died with the server.
_TRIES_ON_CONFLICT = 5
_TRIES_ON_LOST_CONNECTION = 2


@lru_cache(maxsize=512)
def _compiled(fragments: tuple[tuple[str, str], ...], sql: str) -> TextClause:
    for name, fragment in fragments:
        # text() reads ':name' as a parameter, so a PostgreSQL cast is escaped.
        sql = sql.replace(name, fragment.replace("::", r"\:\:"))
    return text(sql)


_MOMENT_MAX_S = 6e10
"""Farther from 1970 (some 1,900 years) than any clock of ours: no calendar shows it."""


_NUMBER_MAX = 2**63
"""No column keeps a larger one, nor takes it."""


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    # A number that is none is not below it either.
    return isinstance(value, int | float | Decimal) and abs(float(value)) < _NUMBER_MAX


def _is_moment(value: object) -> bool:
    return isinstance(value, int | float | Decimal) and abs(float(value)) <= _MOMENT_MAX_S


@lru_cache(maxsize=512)
def _looked_at(names: tuple[str, ...]) -> tuple[tuple[int, str, Callable[[object], bool]], ...]:
    found = ((at, name, _fine(name)) for at, name in enumerate(names))
    return tuple((at, name, fine) for at, name, fine in found if fine is not None)


def _fine(name: str) -> Callable[[object], bool] | None:
    """What a column of this name may hold; None for one that two tables use differently."""
    if name in TEXTS:
        return _is_text
    if name in MOMENTS or name in SECONDS_MADE:
        return _is_moment
    return _is_number if name in NUMBERS or name in BUDGET_NUMBERS else None


def _refuse_other_types(rows: Sequence[Record]) -> None:
    """SQLite keeps a value of any type in any column, and a number may be none on both: raise
    StateTampered for what nobody here wrote, so that arithmetic and calendars take the rest."""
    for at, name, fine in _looked_at(rows[0]._fields) if rows else ():
        for row in rows:
            if row[at] is not None and not fine(row[at]):
                raise tampered(f"{name} of the state (a value that the column never holds)")


def _left_out(error: SpoiltRow, which: str) -> SpoiltRow:
    error.message = f"{which} is left out: {error.message}"
    return error


@contextlib.contextmanager
def _of_one_row(which: str, tell: Callable[[SpoiltRow], None]) -> Iterator[None]:
    try:
        yield
    except (StateTampered, StateRefused) as error:
        if not of_one_row(error):
            raise
        tell(_left_out(error, which))


_OWNED = ("campaign_id", "run_id")
"""Parameters whose values carry their namespace."""


class Transaction:
    """Statements on one connection. ``sql`` is text with ``:name`` parameters and fragments."""

    def __init__(
        self,
        connection: Connection,
        dialect: Dialect,
        namespace: str = NAMESPACE_DEFAULT,
        sealer: Sealer = UNKEYED,
    ) -> None:
        self.sealer = sealer
        """Makes and checks the seals of what is written and read."""
        self.left_out: list[SpoiltRow] = []
        """What was read without: ``leaving_out``."""
        self.connection = connection
        self._dialect = dialect
        self._namespace = namespace
        self._fragments = tuple(dialect.fragments.items())

    def all(self, sql: str, **values: object) -> Sequence[Record]:
        """Every row."""
        rows = self._fetched(sql, values)
        _refuse_other_types(rows)
        return rows

    def each(
        self,
        sql: str,
        make: Callable[[Record], T],
        otherwise: Callable[[Record], T] | None = None,
        /,
        **values: object,
    ) -> list[T]:
        """What ``make`` makes of every row. One that is not like anything of ours is left out, or
        becomes what ``otherwise`` makes of it: it is told, and keeps nobody from the others."""
        found = []
        for row in self._fetched(sql, values):
            try:
                _refuse_other_types((row,))
                found.append(make(row))
            except StateTampered as error:
                self.left_out.append(
                    _left_out(error, f"row {foreign_line(str(row[0]), chars_max=80)}")
                )
                if otherwise is not None:
                    found.append(otherwise(row))
        return found

    @contextlib.contextmanager
    def leaving_out(self, which: str) -> Iterator[None]:
        """The block is about one of many, ``which``, and ends where that is not what it should
        be."""
        with _of_one_row(which, self.left_out.append):
            yield

    def _fetched(self, sql: str, values: dict[str, object]) -> Sequence[Record]:
        with self._dialect.limit(self.connection):
            result = self.connection.execute(self._text(sql), self._within(sql, values))
            return result.fetchall()

    def first(self, sql: str, **values: object) -> Record | None:
        """The first row, or None."""
        with self._dialect.limit(self.connection):
            row = self.connection.execute(self._text(sql), self._within(sql, values)).first()
        _refuse_other_types(() if row is None else (row,))
        return row

    def scalar(self, sql: str, **values: object) -> Any:
        """The first column of the first row, or None."""
        row = self.first(sql, **values)
        return None if row is None else row[0]

    def run(self, sql: str, **values: object) -> int:
        """How many rows the statement changed."""
        with self._dialect.limit(self.connection):
            return self.connection.execute(self._text(sql), self._within(sql, values)).rowcount

    def run_many(
        self, statement: Executable | str, rows: Sequence[dict[str, object]], *, batch: int = 1000
    ) -> None:
        """One statement for many rows, in batches so that each stays short."""
        clause: Executable
        if isinstance(statement, str):
            clause = self._text(statement)
            rows = [self._within(statement, row) for row in rows]
        else:
            clause = statement
        for start in range(0, len(rows), batch):
            with self._dialect.limit(self.connection):
                self.connection.execute(clause, rows[start : start + batch])

    @property
    def namespace(self) -> str:
        """The part of the state that it sees."""
        return self._namespace

    def _text(self, sql: str) -> TextClause:
        return _compiled(self._fragments, sql)

    def _within(self, sql: str, values: dict[str, object]) -> dict[str, object]:
        refuse_foreign(self._namespace, *(values.get(name) for name in _OWNED))
        return {**values, "namespace": self._namespace} if ":namespace" in sql else values


class Database:
    """The engine of one store, with its dialect, seen from one namespace."""

    def __init__(
        self,
        dialect: Dialect,
        *,
        pool_size: int = 2,
        namespace: str = NAMESPACE_DEFAULT,
        sealer: Sealer = UNKEYED,
    ) -> None:
        self.sealer = sealer
        self.dialect = dialect
        self.namespace = namespace
        self.engine = dialect.engine(pool_size)
        self.on_left_out: Callable[[RivetFleetError], None] = lambda _error: None
        """Told of each row that was left out, behind the transaction that met it."""

    def __repr__(self) -> str:
        return f"Database({self.dialect.target})"

    def write(self, work: Callable[[Transaction], T], *, durable: bool = True) -> T:
        """Run ``work`` in one transaction. Raises StateUnavailable or StateRefused.

        Not ``durable``: a power cut may undo it as long as no later durable one has returned
        (ADR 0005); the death of processes never does.
        """
        return self._again(lambda c: self.dialect.writing(c, durable=durable), work)

    def read(self, work: Callable[[Transaction], T]) -> T:
        """Run several SELECTs on one snapshot."""
        return self._again(lambda c: self.dialect.reading(c), work)

    def one(self, work: Callable[[Transaction], T]) -> T:
        """Run one statement: in autocommit, which is one round trip, where that is at our level."""
        return self._again(lambda c: self.dialect.alone(c), work)

    @contextlib.contextmanager
    def migrating(self) -> Iterator[Connection]:
        """A connection in a transaction that no other migration overlaps."""
        with (
            self._border(),
            self.engine.connect() as connection,
            self.dialect.writing(connection, migrating=True),
        ):
            yield connection

    @contextlib.contextmanager
    def connected(self) -> Iterator[Connection]:
        """A plain connection in autocommit, for looking at the schema."""
        with self._border(), self.engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def leaving_out(self, which: str) -> Iterator[None]:
        """As ``Transaction.leaving_out``, for what needs a transaction for each of many."""
        with _of_one_row(which, self.on_left_out):
            yield

    def close(self) -> None:
        """Give every connection back."""
        self.engine.dispose()
        self.dialect.close()

    def _again(
        self,
        scope: Callable[[Connection], contextlib.AbstractContextManager[None]],
        work: Callable[[Transaction], T],
    ) -> T:
        lost = conflicts = 0
        with self._border():
            while True:
                try:
                    with self.engine.connect() as connection, scope(connection):
                        tx = self._transaction(connection)
                        found = work(tx)
                    break
                except DBAPIError as failure:
                    if failure.connection_invalidated:
                        # It may have been committed all the same: each verb recognises its own
                        # success (``ledger``).
                        lost += 1
                        if lost >= _TRIES_ON_LOST_CONNECTION:
                            raise
                    else:
                        conflicts += 1
                        if not meaning_of(failure).again or conflicts >= _TRIES_ON_CONFLICT:
                            raise
        # Only now: whoever is told may write to this state, whose lock SQLite has just given back.
        for error in tx.left_out:
            self.on_left_out(error)
        return found

    def _transaction(self, connection: Connection) -> Transaction:
        return Transaction(connection, self.dialect, self.namespace, self.sealer)

    def _border(self) -> contextlib.AbstractContextManager[None]:
        foreign = not self.dialect.one_host
        return border(self.dialect.target, self.dialect.secrets, foreign=foreign)
