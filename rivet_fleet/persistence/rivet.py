"""Rivet's own state: told from ours, which has some of its names, and read. Never changed."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from rivet_fleet.errors import StateRefused
from rivet_fleet.persistence.dialects import anothers_file
from rivet_fleet.persistence.guards import VERSION_TABLE

OF_RIVET = "RIVET_STATE_OF_RIVET"
CURSOR_CHARS_MAX = 4_000
_VERSIONS = ("schema_version", "rivet_schema_version")
"""Of its schema, in a file and on a server."""
_CURSORS = "export_state"
_EXPORTS_MAX = 10_000
_TABLES_MAX = 1_000


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


# SQLAlchemy's own question asks for every domain and enumeration besides, as lists.
_COLUMNS = """
SELECT a.attname::text FROM pg_catalog.pg_attribute a
WHERE a.attrelid = pg_catalog.to_regclass(:name) AND a.attnum > 0 AND NOT a.attisdropped
"""


def is_rivets(tables: Collection[str]) -> bool:
    """True for Rivet's tables: ours have a version of another name, whatever else is beside it."""
    rivets = _CURSORS in tables and any(version in tables for version in _VERSIONS)
    return rivets and VERSION_TABLE not in tables


def is_rivets_file(path: Path) -> bool:
    """The same of a SQLite file; False where that cannot be told."""
    with contextlib.suppress(StateRefused, sqlite3.Error):
        if path.is_file():
            with anothers_file(path) as connection:
                return is_rivets(_tables(connection))
    return False


def refuse_rivets(connection: Connection, target: str) -> None:
    """Raise StateRefused where a state of ours would be made among Rivet's tables."""
    if is_rivets(inspect(connection).get_table_names()):
        raise StateRefused(
            f"{target} holds the state of Rivet, whose tables have our names; nothing was changed",
            hint="give the fleet a state of its own (`state: {url: …}`, or RIVET_FLEET_STATE_URL); "
            "`rivet-fleet state import` takes Rivet's cursors",
            code=OF_RIVET,
        )


def cursors_of_file(path: Path) -> tuple[RivetCursor, ...]:
    """Every cursor in a SQLite state of Rivet's, by name. Raises StateRefused where there is none,
    it cannot be read, or it could be somebody else's."""
    if not path.is_file():
        raise StateRefused(f"there is no state of Rivet at {path}", code="RIVET_STATE_ABSENT")
    try:
        with anothers_file(path) as connection:
            _refuse_others(_tables(connection), f"sqlite:///{path}")
            columns = connection.execute(f"PRAGMA table_xinfo({_CURSORS})").fetchall()
            return _cursors(connection.execute(_asked({str(one[1]) for one in columns})))
    except sqlite3.Error as error:
        raise StateRefused(f"{path} cannot be read: {type(error).__name__}") from None


def cursors_of(connection: Connection, target: str) -> tuple[RivetCursor, ...]:
    """Every cursor on a server, by name. Raises StateRefused for what is no state of Rivet's."""
    _refuse_others(inspect(connection).get_table_names(), target)
    columns = {str(name) for (name,) in connection.execute(text(_COLUMNS), {"name": _CURSORS})}
    return _cursors(connection.execute(text(_asked(columns))))


def _tables(connection: sqlite3.Connection) -> set[str]:
    listed = f"SELECT name FROM sqlite_master WHERE type = 'table' LIMIT {_TABLES_MAX}"
    return {str(name) for (name,) in connection.execute(listed)}


def _refuse_others(tables: Collection[str], target: str) -> None:
    if not is_rivets(tables):
        raise StateRefused(f"{target} is no state of Rivet's", hint="name its file, or its URL")


def _asked(columns: Collection[str]) -> str:
    """What is asked of its table: of its earlier versions, which know of no runs of pages, less."""
    resumed = "resume_run_id IS NOT NULL" if "resume_run_id" in columns else "1 = 0"
    return (
        f"SELECT export_name, last_cursor_value, {resumed} FROM {_CURSORS} "
        f"WHERE length(last_cursor_value) <= {CURSOR_CHARS_MAX} "
        f"AND length(export_name) <= {CURSOR_CHARS_MAX} LIMIT {_EXPORTS_MAX}"
    )


def _cursors(rows: Iterable[Sequence[object]]) -> tuple[RivetCursor, ...]:
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
