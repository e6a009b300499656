"""``state copy``: a SQLite state becomes a PostgreSQL one, whole, in one transaction (ADR 0020).

The file is locked for writing all the while, so nothing moves under the copy. The target commits
first and the file is marked behind it: a process that dies between the two leaves a target that
equals the file, which the next call recognises (B6).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Integer, Table, func, select, text
from sqlalchemy import Text as TextType

from rivet_fleet.errors import DataIntegrityError, StateRefused
from rivet_fleet.persistence.database import Database
from rivet_fleet.persistence.guards import SCHEMA_VERSION
from rivet_fleet.persistence.migrate import (
    MOVED_TO,
    check_version,
    create,
    refuse_live,
    stored_version,
)
from rivet_fleet.persistence.open import dialect_of, sqlite_path, store_exists
from rivet_fleet.persistence.schema import metadata

_BATCH_ROWS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedTable:
    """How many rows of a table are in both states."""

    name: str
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedState:
    """Where the state is now. ``created`` False: an earlier call had copied it already."""

    target: str
    created: bool
    tables: tuple[CopiedTable, ...]


def copy_state(source_url: str, target_url: str) -> CopiedState:
    """Copy every table, compare every row, and retire the file.

    Raises StateRefused, and changes nothing, for a source that is no SQLite file or is in use, for
    a target that is one or holds anything else, and where the schema versions differ.
    """
    if sqlite_path(source_url) is None or not store_exists(source_url):
        raise StateRefused(
            "only a SQLite state that is there can be copied",
            hint="--state-url, or the configuration, names the file to copy",
        )
    if sqlite_path(target_url) is not None:
        raise StateRefused(
            "a state is copied into a PostgreSQL database",
            hint="--to postgresql://user@host:port/database",
        )
    source, target = (Database(dialect_of(url), pool_size=1) for url in (source_url, target_url))
    try:
        check_version(source)
        with source.migrating() as reading:
            refuse_live(reading, source.dialect)
            with target.migrating() as writing:
                created = _fill(reading, writing, target.dialect.target)
                tables = tuple(_compared(table, reading, writing) for table in _tables())
            # Behind the target's commit, and before the file's lock is given back: whoever waits
            # for that lock finds the word where the state is now.
            _retire(reading, source, target.dialect.target)
        return CopiedState(target=target.dialect.target, created=created, tables=tables)
    finally:
        source.close()
        target.close()


def _tables() -> Sequence[Table]:
    """Parents before their children."""
    return metadata.sorted_tables


def _fill(reading: Connection, writing: Connection, target: str) -> bool:
    """True when the rows were copied now, False when something is there (it is compared)."""
    version = stored_version(writing)
    if version is None:
        create(writing)
    elif version != SCHEMA_VERSION:
        raise StateRefused(
            f"state database {target} has schema version {version}; this program needs "
            f"{SCHEMA_VERSION}",
            hint="name an empty database",
            code="RIVET_STATE_SCHEMA_OLD",
        )
    for table in _tables():
        if _count(writing, table):
            return False
    for table in _tables():
        for rows in _batches(reading, table):
            writing.execute(table.insert(), [dict(row._mapping) for row in rows])
        _continue_sequence(writing, table)
    return True


def _continue_sequence(writing: Connection, table: Table) -> None:
    (key, *more) = table.primary_key.columns
    if more or not isinstance(key.type, Integer) or key is not table.autoincrement_column:
        return
    # The rows came with their numbers, of which the sequence knows nothing: it would draw them
    # again.
    writing.execute(
        text(
            f"SELECT setval(pg_get_serial_sequence('{table.name}', '{key.name}'), "
            f"coalesce(max({key.name}), 1), max({key.name}) IS NOT NULL) FROM {table.name}"
        )
    )


def _compared(table: Table, reading: Connection, writing: Connection) -> CopiedTable:
    """Raises StateRefused for a target that holds something else than the source."""
    rows = 0
    for ours, theirs in itertools.zip_longest(_rows(reading, table), _rows(writing, table)):
        if ours != theirs:
            raise StateRefused(
                f"the target's table {table.name} holds something else than the file's: "
                f"{_count(writing, table)} rows, not {_count(reading, table)}",
                hint="name an empty database; nothing was copied",
                code="RIVET_STATE_NOT_EMPTY",
            )
        rows += 1
    if not rows == _count(reading, table) == _count(writing, table):
        raise DataIntegrityError(f"table {table.name} changed while it was copied")
    return CopiedTable(name=table.name, rows=rows)


def _rows(connection: Connection, table: Table) -> Iterator[tuple[Any, ...]]:
    for batch in _batches(connection, table):
        yield from (tuple(row) for row in batch)


def _batches(connection: Connection, table: Table) -> Iterator[Sequence[Any]]:
    """In the order of the key, by bytes on both sides."""
    server = connection.dialect.name != "sqlite"
    order = [
        key.collate("C") if server and isinstance(key.type, TextType) else key
        for key in table.primary_key.columns
    ]
    # In batches on the server's side, too: a journal may be larger than memory.
    wanted = select(table).order_by(*order).execution_options(stream_results=True)
    found = connection.execute(wanted)
    while batch := found.fetchmany(_BATCH_ROWS):
        yield batch


def _count(connection: Connection, table: Table) -> int:
    return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def _retire(reading: Connection, source: Database, target: str) -> None:
    now = source.dialect.fragments["NOW_S"]
    reading.execute(
        text(f"INSERT INTO fleet_meta (key, value, at_s) VALUES ('{MOVED_TO}', :target, {now})"),
        {"target": target},
    )
