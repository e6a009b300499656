"""The greatest row of a cursor: where an incremental run ends (ADR 0011)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rivet_fleet.contracts.columns import TypeKind
from rivet_fleet.contracts.facts import ColumnFacts
from rivet_fleet.contracts.window import Newest, NewestRequest
from rivet_fleet.errors import SourceRefused
from rivet_fleet.execution.sources.postgres import statements
from rivet_fleet.execution.sources.postgres.dialect import quote_literal
from rivet_fleet.execution.sources.postgres.introspect import read_columns
from rivet_fleet.execution.sources.postgres.session import Session
from rivet_fleet.execution.sources.postgres.statements import (
    KEY_WALK,
    column_ref,
    from_item,
    metadata_settings,
)
from rivet_fleet.execution.windowing import above, beneath

NEWEST_TIMEOUT_S = 300.0
"""As long as a page may take: without an index the table is scanned."""
_INFINITY_SINCE = 140000
"""numeric knows infinity since PostgreSQL 14; before it NaN alone is above every number."""
_MOMENTS = {TypeKind.DATE: "date", TypeKind.TIMESTAMP: "timestamp"}
_MOMENTS |= {TypeKind.TIMESTAMP_UTC: "timestamptz"}


def newest(session: Session, request: NewestRequest) -> Newest:
    """See ``Source.newest``."""
    by_name = {c.name: c for c in read_columns(session, request.relation, request.query)}
    names = tuple(dict.fromkeys((*request.columns, *_cursor_columns(request))))
    for name in names:
        if name not in by_name:
            raise SourceRefused(f"there is no column {name}", hint="plan the export again")
    item = from_item(request.relation, request.query)
    cursor, end = _expression(request), _end(session, by_name, names)
    finite = f"{cursor} < {end}" if end else f"{cursor} IS NOT NULL"
    texts = [f"({cursor})::text", *(f"{column_ref(k)}::text" for k in request.columns[1:])]
    keys = ", ".join(f"{column_ref(name)} DESC" for name in request.columns[1:])
    order = f" ORDER BY {keys}" if keys else ""

    def greatest(wanted: Sequence[str], *more: str) -> str:
        one = f"SELECT {cursor} FROM {item} WHERE {' AND '.join(wanted)} ORDER BY {cursor} DESC"
        shown = ", ".join((*texts, *more))
        return f"SELECT {shown} FROM {item} WHERE {cursor} = ({one} LIMIT 1){order} LIMIT 1"

    with session.transaction(
        (*metadata_settings(NEWEST_TIMEOUT_S), *KEY_WALK[:1]),
        doing=f"looking for the newest {request.columns[0]}",
        timeout_s=NEWEST_TIMEOUT_S,
    ) as connection:

        def first(statement: str) -> tuple[Any, ...] | None:
            return connection.execute(statement.encode()).fetchone()

        def some(where: str) -> bool:
            return first(f"SELECT 1 FROM {item} WHERE {where} LIMIT 1") is not None

        found = first(greatest([finite, *above(statements, request)]))
        there = None
        if found is None and request.above is not None:
            there = first(greatest([finite], beneath(statements, request)))
        cursors = _cursor_columns(request)
        may_be_null = all(by_name[name].nullable for name in cursors)
        nulls = " AND ".join(f"{column_ref(name)} IS NULL" for name in cursors)
        return Newest(
            values=None if found is None else tuple(found),
            nulls=may_be_null and some(nulls),
            endless=bool(end) and some(f"{cursor} >= {end}"),
            overlap=_overlap(first, by_name, request),
            below=tuple(there[:-1]) if there and there[-1] else None,
            vacant=found is None and request.above is not None and there is None,
        )


def _cursor_columns(request: NewestRequest) -> tuple[str, ...]:
    return (request.columns[0], *((request.fallback,) if request.fallback else ()))


def _expression(request: NewestRequest) -> str:
    references = [column_ref(name) for name in _cursor_columns(request)]
    return references[0] if len(references) == 1 else f"COALESCE({', '.join(references)})"


def _end(session: Session, by_name: Mapping[str, ColumnFacts], names: tuple[str, ...]) -> str:
    """The least value that is no mark; empty for types whose every value is one."""
    column = by_name[names[0]]
    kind = column.type.kind if column.type else None
    if kind in _MOMENTS:
        return "'infinity'"
    if kind is TypeKind.DECIMAL or column.native_type.startswith("numeric"):
        return "'Infinity'" if session.server_version_num >= _INFINITY_SINCE else "'NaN'"
    return ""


def _overlap(
    first: Callable[[str], tuple[Any, ...] | None],
    by_name: Mapping[str, ColumnFacts],
    request: NewestRequest,
) -> str | None:
    column = by_name[request.columns[0]]
    native = _MOMENTS.get(column.type.kind) if column.type else None
    if request.above is None or not request.overlap_s or native is None:
        return None
    mark = f"{quote_literal(request.above[0])}::{native}"
    row = first(f"SELECT ({mark} - interval '{request.overlap_s:f} seconds')::{native}::text")
    return None if row is None else row[0]
