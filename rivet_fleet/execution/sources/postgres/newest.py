"""The greatest row of a cursor: where an incremental run ends (ADR 0011)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rivet_fleet.contracts.columns import TypeKind
from rivet_fleet.contracts.facts import ColumnFacts
from rivet_fleet.contracts.window import Newest, NewestRequest
from rivet_fleet.errors import SourceRefused
from rivet_fleet.execution.sources.postgres.introspect import read_columns
from rivet_fleet.execution.sources.postgres.keyorder import Keys
from rivet_fleet.execution.sources.postgres.querysession import sealed
from rivet_fleet.execution.sources.postgres.session import Session
from rivet_fleet.execution.sources.postgres.statements import (
    KEY_WALK,
    column_ref,
    from_item,
    metadata_settings,
)
from rivet_fleet.execution.sources.postgres.steadytext import steady_text
from rivet_fleet.execution.windowing import above, beneath

NEWEST_TIMEOUT_S = 300.0
"""As long as a page may take: without an index the table is scanned."""
_INFINITY_SINCE = 140000
"""numeric knows infinity since PostgreSQL 14; before it NaN alone is above every number."""
_MOMENTS = {TypeKind.DATE: "date", TypeKind.TIMESTAMP: "timestamp"}
_MOMENTS |= {TypeKind.TIMESTAMP_UTC: "timestamptz"}


def newest(session: Session, request: NewestRequest) -> Newest:
    """See ``Source.newest``."""
    names = tuple(dict.fromkeys((*request.columns, *_cursor_columns(request))))
    own = sealed(session.own) if request.relation is None else ()
    columns, keys = read_columns(session, request.relation, request.query, names, own)
    by_name = {column.name: column for column in columns}
    for name in names:
        if name not in by_name:
            raise SourceRefused(f"there is no column {name}", hint="plan the export again")
    item = from_item(request.relation, request.query)
    first_name, ties = request.columns[0], request.columns[1:]
    cursor, end = keys.first_of(_cursor_columns(request)), _end(session, by_name, names)
    beyond = keys.literal(first_name, end) if end else ""
    finite = f"{cursor} {keys.sign(first_name, '<')} {beyond}" if end else f"{cursor} IS NOT NULL"
    texts = [_cursor_text(keys, request), *(keys.text(name) for name in ties)]
    order = f" ORDER BY {keys.ordered(ties, '>')}" if ties else ""

    def greatest(wanted: Sequence[str], *more: str) -> str:
        one = (
            f"SELECT {cursor} FROM {item} WHERE {' AND '.join(wanted)} "
            f"ORDER BY {cursor} USING {keys.sign(first_name, '>')} LIMIT 1"
        )
        return (
            f"SELECT {', '.join((*texts, *more))} FROM {item} "
            f"WHERE {cursor} {keys.sign(first_name, '=')} ({one}){order} LIMIT 1"
        )

    with session.transaction(
        (*metadata_settings(NEWEST_TIMEOUT_S, own), *KEY_WALK[:1]),
        doing=f"looking for the newest {request.columns[0]}",
        timeout_s=NEWEST_TIMEOUT_S,
    ) as connection:

        def first(statement: str) -> tuple[Any, ...] | None:
            return connection.execute(statement.encode()).fetchone()

        def some(where: str) -> bool:
            return first(f"SELECT 1 FROM {item} WHERE {where} LIMIT 1") is not None

        found = first(greatest([finite, *above(keys, request)]))
        there = None
        if found is None and request.above is not None:
            there = first(greatest([finite], beneath(keys, request)))
        cursors = _cursor_columns(request)
        may_be_null = all(by_name[name].nullable for name in cursors)
        nulls = " AND ".join(f"{column_ref(name)} IS NULL" for name in cursors)
        return Newest(
            values=keys.key_of(request.columns, found),
            nulls=may_be_null and some(nulls),
            endless=bool(end) and some(f"{cursor} {keys.sign(first_name, '>=')} {beyond}"),
            overlap=_overlap(first, by_name, keys, request),
            below=keys.key_of(request.columns, there[:-1]) if there and there[-1] else None,
            vacant=found is None and request.above is not None and there is None,
        )


def _cursor_columns(request: NewestRequest) -> tuple[str, ...]:
    return (request.columns[0], *((request.fallback,) if request.fallback else ()))


def _cursor_text(keys: Keys, request: NewestRequest) -> str:
    names = _cursor_columns(request)
    text = keys.text(names[0])
    if len(names) == 1:
        return text
    return f"CASE WHEN {column_ref(names[0])} IS NULL THEN {keys.text(names[1])} ELSE {text} END"


def _end(session: Session, by_name: Mapping[str, ColumnFacts], names: tuple[str, ...]) -> str:
    """The least value that is no mark; empty for types whose every value is one."""
    column = by_name[names[0]]
    kind = column.type.kind if column.type else None
    if kind in _MOMENTS:
        return "infinity"
    if kind is TypeKind.DECIMAL or column.native_type.startswith("numeric"):
        return "Infinity" if session.server_version_num >= _INFINITY_SINCE else "NaN"
    return ""


def _overlap(
    first: Callable[[str], tuple[Any, ...] | None],
    by_name: Mapping[str, ColumnFacts],
    keys: Keys,
    request: NewestRequest,
) -> str | None:
    column = by_name[request.columns[0]]
    native = _MOMENTS.get(column.type.kind) if column.type else None
    if request.above is None or not request.overlap_s or native is None:
        return None
    mark = keys.literal(request.columns[0], request.above[0])
    less = f"'{request.overlap_s:f} seconds'::pg_catalog.interval"
    moved = f"({mark} OPERATOR(pg_catalog.-) {less})::pg_catalog.{native}"
    row = first(f"SELECT {steady_text(native, moved)}")
    return None if row is None else row[0]
