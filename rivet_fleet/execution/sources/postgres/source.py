"""The PostgreSQL source: what it answers over one session."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from psycopg import Cursor

from rivet_fleet.contracts.columns import TypeKind
from rivet_fleet.contracts.counters import CounterReading
from rivet_fleet.contracts.facts import (
    ColumnFacts,
)
from rivet_fleet.contracts.keys import ChunkRange, RelationName
from rivet_fleet.contracts.plan import ReadPlan, TuningPlan
from rivet_fleet.contracts.proof import ChangeReading
from rivet_fleet.contracts.window import Newest, NewestRequest
from rivet_fleet.errors import SourceRefused
from rivet_fleet.execution.engines.facts import METADATA_TIMEOUT_S
from rivet_fleet.execution.engines.session import maybe_swapped
from rivet_fleet.execution.engines.source import Counting, Questions
from rivet_fleet.execution.paging import above, beneath, compared_columns
from rivet_fleet.execution.sources.postgres import listing
from rivet_fleet.execution.sources.postgres.basis import Basis
from rivet_fleet.execution.sources.postgres.border import SWAPPED
from rivet_fleet.execution.sources.postgres.catalog import find_relation
from rivet_fleet.execution.sources.postgres.dialect import (
    ENGINE_NAMES,
    KEY_WALK,
    catalog_settings,
    column_ref,
    from_item,
    metadata_settings,
    page_settings,
    steady_text,
)
from rivet_fleet.execution.sources.postgres.introspect import columns_now, introspect, read_columns
from rivet_fleet.execution.sources.postgres.keyorder import Keys
from rivet_fleet.execution.sources.postgres.querysession import sealed
from rivet_fleet.execution.sources.postgres.reading import PostgresReading
from rivet_fleet.execution.sources.postgres.session import Session
from rivet_fleet.execution.types import Footing, check_columns

# ------------------------------------------------------------------------------------------
# How often the rows of a relation were changed, as the server counts it; and its rows, counted.
#
# Manual, "The Cumulative Statistics System": backends hand in their counts at the end of a
# transaction, at most once a second, an idle one within ten; a crash forgets them all, and a
# standby counts nothing that it replays. A snapshot says more: as long as no transaction has
# begun to write, two of them are the same (manual, "System Information Functions",
# ``pg_snapshot``).

_LAG_S = 11.0
"""When even an idle backend has handed in what it counted."""
_SNAPSHOTS_SINCE = 130_000
_SHARED_SINCE = 150_000
"""Counts are handed in to shared memory at once, at the latest when a backend ends."""
_CHANGES_LOOK = """
WITH RECURSIVE tree(oid) AS (
  SELECT %s::oid UNION
  SELECT i.inhrelid FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.oid
)
SELECT pg_catalog.{snapshot}()::text,
       pg_catalog.bool_and(c.relkind IN ('r', 'p')),
       pg_catalog.bool_and(c.relkind IN ('r', 'p', 'm')),
       pg_catalog.pg_is_in_recovery(),
       pg_catalog.current_setting('track_counts'),
       pg_catalog.md5(pg_catalog.string_agg(c.oid::text, ',' ORDER BY c.oid)),
       (SELECT d.stats_reset::text FROM pg_catalog.pg_stat_database d
        WHERE d.datname = pg_catalog.current_database()),
       (SELECT b.stats_reset::text FROM pg_catalog.pg_stat_bgwriter b),
       coalesce(pg_catalog.sum(pg_catalog.pg_stat_get_tuples_inserted(c.oid)), 0)::bigint,
       coalesce(pg_catalog.sum(pg_catalog.pg_stat_get_tuples_updated(c.oid)), 0)::bigint,
       coalesce(pg_catalog.sum(pg_catalog.pg_stat_get_tuples_deleted(c.oid)), 0)::bigint,
       ARRAY(SELECT DISTINCT l.virtualtransaction FROM pg_catalog.pg_locks l
             WHERE l.locktype = 'virtualxid' AND l.granted
               AND l.pid <> pg_catalog.pg_backend_pid()),
       (SELECT pg_catalog.pg_stat_get_db_numbackends(d.oid) FROM pg_catalog.pg_database d
        WHERE d.datname = pg_catalog.current_database())
FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.oid
"""


def read_changes(session: Session, relation: RelationName) -> ChangeReading:
    """See ``Source.read_changes``. Statistics and the catalogue alone; no table is touched."""
    new = session.server_version_num >= _SNAPSHOTS_SINCE
    snapshot = "pg_current_snapshot" if new else "txid_current_snapshot"
    with session.reading(
        metadata_settings(_LOOK_MAX_S),
        doing="reading how often rows were changed",
        timeout_s=_LOOK_MAX_S,
    ) as cursor:
        oid = find_relation(cursor, relation).oid
        sql = _CHANGES_LOOK.format(snapshot=snapshot).encode()
        row = cursor.execute(sql, (oid,)).fetchone()
    assert row is not None, "an aggregate of nothing is a row, too"
    moment, tables, local, standby, tracked, leaves, *resets_and_counts = row
    *resets, inserted, updated, deleted, others, backends = resets_and_counts
    alone = backends <= 1 and session.server_version_num >= _SHARED_SINCE
    countable = tables and not standby and tracked == "on"
    return ChangeReading(
        inserted=inserted,
        updated=updated,
        deleted=deleted,
        epoch=" ".join((leaves, *(str(reset) for reset in resets))) if countable else "",
        # What a foreign table or a view shows may change without a transaction here.
        moment=moment if local else "",
        lag_s=0.0 if alone else _LAG_S,
        open_transactions=tuple(others),
    )


# ------------------------------------------------------------------------------------------
# The greatest row of a cursor: where an incremental run ends (ADR 0011).

NEWEST_TIMEOUT_S = 300.0
"""As long as a page may take: without an index the table is scanned."""
_INFINITY_SINCE = 140000
"""numeric knows infinity since PostgreSQL 14; before it NaN alone is above every number."""
_MOMENTS = {TypeKind.DATE: "date", TypeKind.TIMESTAMP: "timestamp"}
_MOMENTS |= {TypeKind.TIMESTAMP_UTC: "timestamptz"}


def newest(session: Session, request: NewestRequest) -> Newest:
    """The greatest row of a cursor as it is now, in the order of the column's own operators. Raises
    SourceRefused for a column that is not there, StatementTimeout."""
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
    texts = [_cursor_text(keys, request), *(keys.text_expression(name) for name in ties)]
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

    with session.reading(
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
    text, *other = map(keys.text_expression, names)
    if not other:
        return text
    return f"CASE WHEN {column_ref(names[0])} IS NULL THEN {other[0]} ELSE {text} END"


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


# ------------------------------------------------------------------------------------------
# The database's counters (``pg_stat_database``) and what the server is like.

_LOOK_MAX_S = 5.0
_COUNTERS = (
    *("blks_read", "blks_hit", "tup_returned", "tup_fetched"),
    *("temp_files", "temp_bytes", "deadlocks", "conflicts"),
)
_CONTEXT = (
    *("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"),
    *("TimeZone", "max_connections"),
)
# What sessions get by default: our own transaction has set some of these for itself.
_LOOK = f"""
SELECT extract(epoch FROM clock_timestamp())::float8,
       (SELECT json_build_object({", ".join(f"'{name}', d.{name}" for name in _COUNTERS)})
        FROM pg_catalog.pg_stat_database d WHERE d.datname = current_database()),
       (SELECT json_object_agg(s.name, s.reset_val) FROM pg_catalog.pg_settings s
        WHERE s.name IN ({", ".join(f"'{name}'" for name in _CONTEXT)}))
"""


def read_counters(session: Session) -> CounterReading:
    """One question to the statistics views; no table is touched. See ``Source.read_counters``."""
    settings = catalog_settings(_LOOK_MAX_S)
    with session.reading(settings, doing="reading the counters", timeout_s=_LOOK_MAX_S) as cursor:
        row = cursor.execute(_LOOK.encode()).fetchone()
    assert row is not None
    at_s, counters, context = row
    return CounterReading(
        engine=ENGINE_NAMES[0],
        taken_at_s=at_s,
        counters={name: int(value) for name, value in (counters or {}).items()},
        context={"version": session.server_version, **(context or {})},
    )


def _resolve(session: Session, relation: RelationName) -> RelationName:
    with session.reading(
        catalog_settings(METADATA_TIMEOUT_S),
        doing=f"looking for {relation.name}",
        timeout_s=METADATA_TIMEOUT_S,
    ) as cursor:
        return find_relation(cursor, relation).name


def _planned(session: Session, read: ReadPlan) -> AbstractContextManager[Cursor[tuple[Any, ...]]]:
    return session.reading(
        catalog_settings(METADATA_TIMEOUT_S, read.session),
        doing="comparing the source with the plan",
        timeout_s=METADATA_TIMEOUT_S,
    )


def _keys_now(
    session: Session, cursor: Cursor[tuple[Any, ...]], read: ReadPlan, chunk_range: ChunkRange
) -> tuple[tuple[ColumnFacts, ...], Keys]:
    compared = compared_columns(read.window, chunk_range)
    steady = bool(read.session)
    return columns_now(cursor, read.relation, read.query, compared, session.encoding, steady=steady)


def _counting(
    session: Session, read: ReadPlan, chunk_range: ChunkRange, timeout_s: float
) -> Counting:
    """In the session of the pages: a query's is what it was planned under."""
    with _planned(session, read) as cursor:
        _, keys = _keys_now(session, cursor, read, chunk_range)
    limited = TuningPlan(statement_timeout_s=timeout_s)
    return Counting(
        keys=keys,
        item=from_item(read.relation, read.query),
        settings=page_settings(limited, own=read.session),
    )


def _reading(
    session: Session,
    basis: Basis,
    footing: Footing,
    read: ReadPlan,
    chunk_range: ChunkRange,
    tuning: TuningPlan,
) -> PostgresReading:
    own = session.own if read.relation is None else ()
    with maybe_swapped(SWAPPED), _planned(session, read) as cursor:
        now, keys = _keys_now(session, cursor, read, chunk_range)
        check_columns(read, now)
        footing.judge(basis.now(cursor, read, chunk_range, own))
    return PostgresReading(session, read, tuning, keys)


def _ping(session: Session) -> str:
    with session.reading((), doing="saying hello", timeout_s=10.0) as cursor:
        cursor.execute("SELECT")
    return session.server_version


QUESTIONS = Questions(
    basis=Basis,
    introspect=introspect,
    resolve=_resolve,
    newest=newest,
    read_changes=read_changes,
    counting=_counting,
    reading=_reading,
    list_relations=listing.list_relations,
    describe_server=listing.describe_server,
    check_readable=listing.check_readable,
    read_counters=read_counters,
    ping=_ping,
)
