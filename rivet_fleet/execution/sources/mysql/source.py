"""The MySQL and MariaDB source: what it answers over one session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rivet_fleet.contracts.counters import CounterReading
from rivet_fleet.contracts.facts import (
    leading_index,
)
from rivet_fleet.contracts.keys import ChunkRange, RangeKind, RelationName
from rivet_fleet.contracts.plan import ReadPlan, TuningPlan
from rivet_fleet.contracts.window import Newest, NewestRequest
from rivet_fleet.errors import SourceRefused
from rivet_fleet.execution.engines.source import Counting, Questions
from rivet_fleet.execution.paging import above, beneath
from rivet_fleet.execution.sources.mysql import listing, reading
from rivet_fleet.execution.sources.mysql.basis import Basis
from rivet_fleet.execution.sources.mysql.catalog import find_relation, rows
from rivet_fleet.execution.sources.mysql.dialect import ENGINE_NAMES, family, quote_text
from rivet_fleet.execution.sources.mysql.introspect import introspect, read_shape
from rivet_fleet.execution.sources.mysql.liveness import WatchedConnection
from rivet_fleet.execution.sources.mysql.querysession import in_utc
from rivet_fleet.execution.sources.mysql.reading import MysqlReading
from rivet_fleet.execution.sources.mysql.session import Session
from rivet_fleet.execution.sources.mysql.statements import (
    Keys,
    bare_query,
    column_ref,
    from_item,
    metadata_settings,
)
from rivet_fleet.execution.types import Footing

# ------------------------------------------------------------------------------------------
# The greatest row of a cursor: where an incremental run ends (ADR 0011).

NEWEST_TIMEOUT_S = 300.0
"""As long as a page may take: without an index the table is scanned."""


def newest(session: Session, request: NewestRequest) -> Newest:
    """The greatest row of a cursor as it is now, in one statement that an index makes short. Raises
    SourceRefused for a column that is not there, StatementTimeout."""
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


# ------------------------------------------------------------------------------------------
# The server's counters (``SHOW GLOBAL STATUS``) and what the server is like.

_LOOK_MAX_S = 5.0
_COUNTERS = (
    # The first is MySQL's, the second MariaDB's.
    *("Innodb_rows_read", "Rows_read"),
    *("Innodb_buffer_pool_reads", "Innodb_buffer_pool_read_requests"),
    *("Innodb_data_read", "Innodb_row_lock_waits", "Innodb_deadlocks"),
    *("Created_tmp_disk_tables", "Handler_read_next", "Handler_read_rnd_next", "Slow_queries"),
)
_CONTEXT = (
    *("max_execution_time", "max_statement_time", "innodb_lock_wait_timeout"),
    *("wait_timeout", "sql_mode", "time_zone", "max_connections", "transaction_isolation"),
)


def read_counters(session: Session) -> CounterReading:
    """The status and the settings that new sessions get. See ``Source.read_counters``."""
    settings = metadata_settings(session.server, _LOOK_MAX_S)
    with session.reading(
        settings, doing="reading the counters", timeout_s=_LOOK_MAX_S
    ) as connection:
        counters = rows(
            connection, f"SHOW GLOBAL STATUS WHERE Variable_name IN {_among(_COUNTERS)}"
        )
        context = rows(
            connection, f"SHOW GLOBAL VARIABLES WHERE Variable_name IN {_among(_CONTEXT)}"
        )
        ((at_s,),) = rows(connection, "SELECT UNIX_TIMESTAMP(SYSDATE(6))")
    return CounterReading(
        engine=ENGINE_NAMES[0],
        taken_at_s=float(at_s),
        counters={str(name): int(value) for name, value in counters},
        context={
            "version": session.server.version_text,
            **{str(name): str(value) for name, value in context},
        },
    )


def _among(names: tuple[str, ...]) -> str:
    return "(" + ", ".join(f"'{name}'" for name in names) + ")"


def _resolve(session: Session, relation: RelationName) -> RelationName:
    with session.reading(
        metadata_settings(session.server, _LOOK_MAX_S),
        doing=f"looking for {relation.name}",
        timeout_s=_LOOK_MAX_S,
    ) as connection:
        return find_relation(connection, relation).name


WHOLE = ChunkRange(kind=RangeKind.WHOLE)


def _counting(
    session: Session, read: ReadPlan, chunk_range: ChunkRange, timeout_s: float
) -> Counting:
    engine = MysqlReading(session, read, WHOLE, TuningPlan())
    return Counting(
        keys=engine.keys,
        item=engine.from_item(read.relation, read.query, only=False),
        settings=metadata_settings(session.server, timeout_s, read.session),
    )


def _reading(
    session: Session,
    _basis: Basis,
    footing: Footing,
    read: ReadPlan,
    chunk_range: ChunkRange,
    tuning: TuningPlan,
) -> MysqlReading:
    engine = MysqlReading(session, read, chunk_range, tuning)
    footing.prove()
    return engine


def _ping(session: Session) -> str:
    with session.reading((), doing="saying hello", timeout_s=10.0) as connection:
        connection.ping()
    return session.server.version_text


QUESTIONS = Questions(
    basis=Basis,
    introspect=introspect,
    resolve=_resolve,
    newest=newest,
    read_changes=reading.read_changes,
    counting=_counting,
    reading=_reading,
    list_relations=listing.list_relations,
    describe_server=listing.describe_server,
    check_readable=listing.check_readable,
    read_counters=read_counters,
    ping=_ping,
)
