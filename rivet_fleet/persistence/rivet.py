"""Rivet's own state: told from ours, which has some of its names, and read. Never changed."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from rivet_fleet.errors import StateRefused

OF_RIVET = "RIVET_STATE_OF_RIVET"
CURSOR_CHARS_MAX = 4_000
_VERSIONS = ("schema_version", "rivet_schema_version")
"""Of its schema, in a file and on a server."""
_CURSORS = "export_state"
_EXPORTS_MAX = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RivetCursor:
    """How far Rivet has read one export: it delivered what lies at ``value`` and below.

    ``unfinished``: a run of pages was broken off, and the value is where it began. ``several``: of
    one name it has several, for other sources or destinations.
    """

    export_name: str
    value: str
    unfinished: bool = False
    several: bool = False


def is_rivets(connection: Connection) -> bool:
    """True where Rivet's tables are; ours have other versions, and cannot be beside them."""
    tables = set(inspect(connection).get_table_names())
    return _CURSORS in tables and not tables.isdisjoint(_VERSIONS)


def is_rivets_file(path: Path) -> bool:
    """The same of a SQLite file; False where that cannot be told."""
    with contextlib.suppress(SQLAlchemyError, sqlite3.Error), _looking(path) as connection:
        return is_rivets(connection)
    return False


def refuse_rivets(connection: Connection, target: str) -> None:
    """Raise StateRefused where a state of ours would be made among Rivet's tables."""
    if is_rivets(connection):
        raise StateRefused(
            f"{target} holds the state of Rivet, whose tables have our names; nothing was changed",
            hint="give the fleet a state of its own (`state: {url: …}`, or RIVET_FLEET_STATE_URL); "
            "`rivet-fleet state import` takes Rivet's cursors",
            code=OF_RIVET,
        )


def cursors_of_file(path: Path) -> tuple[RivetCursor, ...]:
    """Every cursor in a SQLite state of Rivet's, by name. Raises StateRefused where there is none,
    or it cannot be read."""
    if not path.is_file():
        raise StateRefused(f"there is no state of Rivet at {path}", code="RIVET_STATE_ABSENT")
    try:
        with _looking(path) as connection:
            return cursors_of(connection, f"sqlite:///{path}")
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise StateRefused(f"{path} cannot be read: {type(error).__name__}") from None


@contextlib.contextmanager
def _looking(path: Path) -> Iterator[Connection]:
    """Without changing the file, and without making SQLite's others beside it: where there is no
    log to read, the file is all there is."""
    log = path.with_name(path.name + "-wal")
    whole = not (log.is_file() and log.stat().st_size)
    options = "mode=ro&immutable=1" if whole else "mode=ro"
    where = f"{path.absolute().as_uri()}?{options}"
    engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(where, uri=True))
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def cursors_of(connection: Connection, target: str) -> tuple[RivetCursor, ...]:
    """Every cursor, by name. Raises StateRefused for what is no state of Rivet's."""
    if not is_rivets(connection):
        raise StateRefused(f"{target} is no state of Rivet's", hint="name its file, or its URL")
    # Its earlier versions know of no runs of pages.
    columns = {str(one["name"]) for one in inspect(connection).get_columns(_CURSORS)}
    resumed = "resume_run_id IS NOT NULL" if "resume_run_id" in columns else "1 = 0"
    rows = connection.execute(
        text(
            f"SELECT export_name, last_cursor_value, {resumed} FROM {_CURSORS} "
            f"WHERE length(last_cursor_value) <= {CURSOR_CHARS_MAX} "
            f"AND length(export_name) <= {CURSOR_CHARS_MAX} LIMIT {_EXPORTS_MAX}"
        )
    )
    found: dict[str, RivetCursor] = {}
    for name, value, unfinished in rows:
        if not (isinstance(name, str) and isinstance(value, str)):
            continue
        other = found.get(name)
        found[name] = RivetCursor(
            export_name=name,
            value=value,
            unfinished=bool(unfinished),
            several=other is not None and (other.several or other.value != value),
        )
    return tuple(found[name] for name in sorted(found))
