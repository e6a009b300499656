"""One state database: connections, transactions and the retries that are safe.

``write`` may run its work twice: after a lost connection (the outcome is then unknown, which is
why every transition recognises its own earlier success) and after a rollback by the server.

A database is seen from within one namespace: statements name it as ``:namespace``, and an id of
another one is refused before it reaches any of them (N1).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import Connection, TextClause, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.base import Executable

from rivet_fleet.contracts.namespace import NAMESPACE_DEFAULT
from rivet_fleet.contracts.sealing import UNKEYED, Sealer
from rivet_fleet.persistence.border import border, meaning_of
from rivet_fleet.persistence.dialects import Dialect
from rivet_fleet.persistence.guards import refuse_foreign

T = TypeVar("T")
Record: TypeAlias = Any
"""A result row: its columns by name, or by position."""

_TRIES_ON_CONFLICT = 5
_TRIES_ON_LOST_CONNECTION = 2


@lru_cache(maxsize=512)
def _compiled(fragments: tuple[tuple[str, str], ...], sql: str) -> TextClause:
    for name, fragment in fragments:
        # text() reads ':name' as a parameter, so a PostgreSQL cast is escaped.
        sql = sql.replace(name, fragment.replace("::", r"\:\:"))
    return text(sql)


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
        self._connection = connection
        self._dialect = dialect
        self._namespace = namespace
        self._fragments = tuple(dialect.fragments.items())

    def all(self, sql: str, **values: object) -> Sequence[Record]:
        """Every row."""
        with self._dialect.limit(self._connection):
            return self._connection.execute(self._text(sql), self._within(sql, values)).fetchall()

    def first(self, sql: str, **values: object) -> Record | None:
        """The first row, or None."""
        with self._dialect.limit(self._connection):
            return self._connection.execute(self._text(sql), self._within(sql, values)).first()

    def scalar(self, sql: str, **values: object) -> Any:
        """The first column of the first row, or None."""
        row = self.first(sql, **values)
        return None if row is None else row[0]

    def run(self, sql: str, **values: object) -> int:
        """How many rows the statement changed."""
        with self._dialect.limit(self._connection):
            return self._connection.execute(self._text(sql), self._within(sql, values)).rowcount

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
            with self._dialect.limit(self._connection):
                self._connection.execute(clause, rows[start : start + batch])

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
                        return work(self._transaction(connection))
                except DBAPIError as failure:
                    if failure.connection_invalidated:
                        lost += 1
                        if lost >= _TRIES_ON_LOST_CONNECTION:
                            raise
                    else:
                        conflicts += 1
                        if not meaning_of(failure).again or conflicts >= _TRIES_ON_CONFLICT:
                            raise

    def _transaction(self, connection: Connection) -> Transaction:
        return Transaction(connection, self.dialect, self.namespace, self.sealer)

    def _border(self) -> contextlib.AbstractContextManager[None]:
        return border(self.dialect.target, self.dialect.secrets)
