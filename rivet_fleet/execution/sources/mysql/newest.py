"""The greatest row of a cursor: where an incremental run ends (ADR 0011)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rivet_fleet.contracts.facts import leading_index
from rivet_fleet.contracts.window import Newest, NewestRequest
from rivet_fleet.errors import SourceRefused
from rivet_fleet.execution.sources.mysql.catalog import rows
from rivet_fleet.execution.sources.mysql.dialect import family, quote_text
from rivet_fleet.execution.sources.mysql.introspect import read_shape
from rivet_fleet.execution.sources.mysql.liveness import WatchedConnection
from rivet_fleet.execution.sources.mysql.querysession import in_utc
from rivet_fleet.execution.sources.mysql.session import Session
from rivet_fleet.execution.sources.mysql.statements import (
    Keys,
    bare_query,
    column_ref,
    from_item,
    metadata_settings,
)
from rivet_fleet.execution.windowing import above, beneath

NEWEST_TIMEOUT_S = 300.0
"""As long as a page may take: without an index the table is scanned."""


def newest(session: Session, request: NewestRequest) -> Newest:
    """See ``Source.newest``."""
    own = session.server.session if request.relation is None else ()
    shape = read_shape(session, request.relation, request.query, own)
    by_name = {column.name: column for column in shape.columns}
    cursors = (request.columns[0], *((request.fallback,) if request.fallback else ()))
    for name in (*request.columns, *cursors):
        if name not in by_name:
            raise SourceRefused(f"there is no column {name}", hint="plan the export again")
    dialect = Keys.of(shape.columns)
    cursor = column_ref(cursors[0])
    if request.fallback is not None:
        cursor = dialect.coalesced(*cursors)
    keys = request.columns[1:]
    texts = [dialect.text_expression(cursors[0], cursor)]
    texts += [dialect.text_expression(name) for name in keys]
    order = f" ORDER BY {', '.join(f'{column_ref(k)} DESC' for k in keys)}" if keys else ""
    index = leading_index(shape.indexes, cursors) if request.fallback is None else None
    native_types = {name: column.native_type for name, column in by_name.items()}
    query = request.query and in_utc(bare_query(request.query), native_types, own)
    item = from_item(request.relation, query, index=index)

    def greatest(wanted: Sequence[str], *more: str) -> str:
        one = f"SELECT {cursor} FROM {item} WHERE {' AND '.join(wanted)} ORDER BY {cursor} DESC"
        shown = ", ".join((*texts, *more))
        return f"SELECT {shown} FROM {item} WHERE {cursor} = ({one} LIMIT 1){order} LIMIT 1"

    null = " AND ".join(f"{column_ref(name)} IS NULL" for name in cursors)
    with session.reading(
        metadata_settings(session.server, NEWEST_TIMEOUT_S, own),
        doing=f"looking for the newest {cursors[0]}",
        timeout_s=NEWEST_TIMEOUT_S,
    ) as connection:
        there = f"{cursor} IS NOT NULL"
        found = rows(connection, greatest([there, *above(dialect, request)]))
        lower: Sequence[tuple[Any, ...]] = ()
        if not found and request.above is not None:
            lower = rows(connection, greatest([there], beneath(dialect, request)))
        nulls = all(by_name[name].nullable for name in cursors) and bool(
            rows(connection, f"SELECT 1 FROM {item} WHERE {null} LIMIT 1")
        )
        return Newest(
            values=tuple(found[0]) if found else None,
            nulls=nulls,
            overlap=_overlap(connection, by_name[cursors[0]].native_type, request),
            below=tuple(lower[0][:-1]) if lower and int(lower[0][-1]) else None,
            vacant=not found and request.above is not None and not lower,
        )


def _overlap(connection: WatchedConnection, native: str, request: NewestRequest) -> str | None:
    if request.above is None or not request.overlap_s:
        return None
    if family(native) not in ("date", "datetime", "timestamp"):
        return None
    kind = "DATE" if family(native) == "date" else "DATETIME(6)"
    mark = f"CAST({quote_text(request.above[0])} AS DATETIME(6))"
    back = f"TIMESTAMPADD(MICROSECOND, -{round(request.overlap_s * 1e6)}, {mark})"
    (row,) = rows(connection, f"SELECT CAST(CAST({back} AS {kind}) AS CHAR)")
    (found,) = row
    return None if found is None else str(found)
