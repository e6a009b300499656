"""The PostgreSQL source: what it answers over one session."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

from psycopg import Cursor

from rivet_fleet.contracts.columns import INTEGERS, TypeKind
from rivet_fleet.contracts.counters import CounterReading
from rivet_fleet.contracts.facts import (
    Asked,
    ColumnFacts,
    Measure,
)
from rivet_fleet.contracts.keys import ChunkRange, RangeKind, RelationName
from rivet_fleet.contracts.plan import ReadPlan, TuningPlan
from rivet_fleet.contracts.window import Newest, NewestRequest
from rivet_fleet.execution.engines import facts
from rivet_fleet.execution.engines.facts import METADATA_TIMEOUT_S
from rivet_fleet.execution.engines.session import whole
from rivet_fleet.execution.engines.source import Counting, Questions
from rivet_fleet.execution.paging import compared_columns
from rivet_fleet.execution.sources.postgres import listing
from rivet_fleet.execution.sources.postgres.ahead import look_ahead
from rivet_fleet.execution.sources.postgres.basis import Basis
from rivet_fleet.execution.sources.postgres.catalog import (
    RawColumn,
    column_facts,
    find_relation,
)
from rivet_fleet.execution.sources.postgres.changes import read_changes
from rivet_fleet.execution.sources.postgres.dialect import (
    ENGINE_NAMES,
    KEY_WALK,
    catalog_settings,
    from_item,
    metadata_settings,
    page_settings,
    steady_text,
)
from rivet_fleet.execution.sources.postgres.introspect import (
    columns_now,
    introspect,
    keys_now,
    read_columns,
)
from rivet_fleet.execution.sources.postgres.keyorder import Keys
from rivet_fleet.execution.sources.postgres.querysession import sealed
from rivet_fleet.execution.sources.postgres.reading import PostgresReading
from rivet_fleet.execution.sources.postgres.session import Session
from rivet_fleet.execution.types import Footing, check_columns

# ------------------------------------------------------------------------------------------
# The greatest row of a cursor: where an incremental run ends (ADR 0011).

_INFINITY_SINCE = 140000
"""numeric knows infinity since PostgreSQL 14; before it NaN alone is above every number."""
_MOMENTS = {TypeKind.DATE: "date", TypeKind.TIMESTAMP: "timestamp"}
_MOMENTS |= {TypeKind.TIMESTAMP_UTC: "timestamptz"}


def newest(session: Session, request: NewestRequest) -> Newest:
    """The greatest row of a cursor as it is now, in the order of the column's own operators. Raises
    SourceRefused for a column that is not there, StatementTimeout."""
    names = tuple(dict.fromkeys((*request.columns, *facts.cursor_columns(request))))
    own = sealed(session.own) if request.relation is None else ()
    columns, keys = read_columns(session, request.relation, request.query, names, own)
    found = facts.by_name(request, columns)
    column = found[names[0]]
    end = _end(session, column)
    look = facts.NewestLook(
        request=request,
        by_name=found,
        keys=keys,
        item=from_item(request.relation, request.query),
        beyond=keys.literal(column.name, end) if end else "",
        moved=_moved(column, keys, request),
    )
    with session.reading(
        (*metadata_settings(facts.NEWEST_TIMEOUT_S, own), *KEY_WALK[:1]),
        doing=f"looking for the newest {column.name}",
        timeout_s=facts.NEWEST_TIMEOUT_S,
    ) as at:
        return facts.newest(partial(session.rows, at), look)


def _end(session: Session, column: ColumnFacts) -> str:
    """The least value that is no mark; empty for types whose every value is one."""
    kind = column.compared
    if kind in _MOMENTS:
        return "infinity"
    if kind is TypeKind.DECIMAL or column.native_type.startswith("numeric"):
        return "Infinity" if session.server_version_num >= _INFINITY_SINCE else "NaN"
    return ""


def _moved(column: ColumnFacts, keys: Keys, request: NewestRequest) -> str | None:
    native = _MOMENTS.get(column.compared) if column.compared else None
    if request.above is None or not request.overlap_s or native is None:
        return None
    mark = keys.literal(column.name, request.above[0])
    less = f"'{request.overlap_s:f} seconds'::pg_catalog.interval"
    moved = f"({mark} OPERATOR(pg_catalog.-) {less})::pg_catalog.{native}"
    return f"SELECT {steady_text(native, moved)}"


# ------------------------------------------------------------------------------------------
# How far a server has come: a primary in what it has written, a standby in what it has replayed of
# it (manual, "System Administration Functions"). Servers that speak PostgreSQL's protocol and keep
# no such log refuse the question.

_POSITION = """
SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
       ELSE pg_catalog.pg_current_wal_lsn() END::pg_catalog.text
"""
_LSN = re.compile(r"([0-9A-F]{1,8})/([0-9A-F]{1,8})")


def position(session: Session, _planning: bool) -> str:
    """Its place in the log: what is there is its primary's, whoever has repeated it."""
    with session.reading(
        catalog_settings(_LOOK_MAX_S), doing="asking how far it has come", timeout_s=_LOOK_MAX_S
    ) as cursor:
        row = cursor.execute(_POSITION.encode()).fetchone()
    found = str(row[0]) if row else ""
    return found if _LSN.fullmatch(found) else ""


def reached(planned: str, now: str) -> bool:
    """Whether the second place is not before the first."""
    before, after = _LSN.fullmatch(planned), _LSN.fullmatch(now)
    if before is None or after is None:
        return True
    return [one.zfill(8) for one in after.groups()] >= [one.zfill(8) for one in before.groups()]


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
        counters={name: whole(value) for name, value in (counters or {}).items()},
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
    """For a look at what was planned. A name that stands for nothing is refused: a swap here is one
    transaction, and whoever took a table away is told at once."""
    return session.reading(
        catalog_settings(METADATA_TIMEOUT_S, read.session),
        doing="comparing the source with the plan",
        timeout_s=METADATA_TIMEOUT_S,
    )


def _columns_now(
    session: Session, cursor: Cursor[tuple[Any, ...]], read: ReadPlan, chunk_range: ChunkRange
) -> tuple[tuple[RawColumn, ...], Keys]:
    compared = compared_columns(read.window, chunk_range)
    raw = columns_now(cursor, read.relation, read.query)
    steady = bool(read.session)
    return raw, keys_now(cursor, raw, compared, session.encoding, steady=steady)


def _counting(
    session: Session, read: ReadPlan, chunk_range: ChunkRange, timeout_s: float
) -> Counting:
    """In the session of the pages: a query's is what it was planned under."""
    with _planned(session, read) as cursor:
        _, keys = _columns_now(session, cursor, read, chunk_range)
    limited = TuningPlan(statement_timeout_s=timeout_s)
    return Counting(
        keys=keys,
        item=from_item(read.relation, read.query),
        settings=page_settings(limited, own=read.session),
    )


def _measuring(
    session: Session, read: ReadPlan, chunk_range: ChunkRange, tuning: TuningPlan
) -> Counting:
    how = _counting(session, read, chunk_range, tuning.statement_timeout_s)
    return replace(how, settings=page_settings(tuning, KEY_WALK[:2], own=read.session))


# As they are sent, counted from 2000-01-01: exact in every version, and infinity has its place.
_SENT = {
    TypeKind.DATE: ("date_send", 32, 10_957),
    TypeKind.TIMESTAMP: ("timestamp_send", 64, 946_684_800_000_000),
    TypeKind.TIMESTAMP_UTC: ("timestamptz_send", 64, 946_684_800_000_000),
}
_PADDED = "1042"
"""The OID of ``bpchar``: as text it would lose what it is padded with."""


def measured(reference: str, asked: Asked) -> str:
    """The SQL of a measure; see ``Questions``."""
    kind, measure = asked.column.type.kind, asked.measure
    if measure is Measure.NULLS:
        number = f"pg_catalog.count(*) OPERATOR(pg_catalog.-) pg_catalog.count({reference})"
    elif measure is Measure.BYTES:
        sent = f"pg_catalog.textsend({reference}::pg_catalog.text)"
        if asked.column.wire_type == _PADDED:
            sent = f"pg_catalog.bpcharsend({reference})"
        value = reference if kind is TypeKind.BINARY else sent
        number = f"pg_catalog.sum(pg_catalog.octet_length({value}))"
    elif kind is TypeKind.BOOL:
        number = f"pg_catalog.count(*) FILTER (WHERE {reference})"
    else:
        value = f"{reference}::pg_catalog.int8" if kind in INTEGERS else reference
        number = f"pg_catalog.{measure.value}({value})"
    if kind in _SENT and measure is not Measure.NULLS:
        send, bits, before = _SENT[kind]
        sent = f"pg_catalog.textcat('x', pg_catalog.encode(pg_catalog.{send}({number}), 'hex'))"
        number = f"{sent}::pg_catalog.bit({bits})::pg_catalog.int{bits // 8}"
        number = f"{number}::pg_catalog.numeric OPERATOR(pg_catalog.+) {before}"
    return f"({number})::pg_catalog.text"


def _look(
    session: Session, basis: Basis, footing: Footing, read: ReadPlan, chunk_range: ChunkRange
) -> Keys:
    own = session.own if read.relation is None else ()
    with _planned(session, read) as cursor:
        raw, keys = _columns_now(session, cursor, read, chunk_range)
        check_columns(read, column_facts(cursor, raw), forms_are_sent=False)
        footing.judge(basis.now(cursor, read, chunk_range, own, raw))
    return keys


def _reading(
    session: Session, keys: Keys, read: ReadPlan, chunk_range: ChunkRange, tuning: TuningPlan
) -> PostgresReading:
    whole = chunk_range.kind is RangeKind.WHOLE
    return PostgresReading(session, read, tuning, keys, whole=whole)


def _ping(session: Session) -> str:
    with session.reading((), doing="saying hello", timeout_s=10.0) as cursor:
        cursor.execute("SELECT")
    return session.server_version


QUESTIONS = Questions(
    basis=Basis,
    introspect=introspect,
    look_ahead=look_ahead,
    resolve=_resolve,
    newest=newest,
    position=position,
    reached=reached,
    mixed=lambda session: session.pooled,
    steady=lambda session: not session.pooled,
    read_changes=read_changes,
    counting=_counting,
    measuring=_measuring,
    measured=measured,
    # A select list ends at 1,664 entries: a few hundred columns.
    together=lambda measures: f"ARRAY[{', '.join(measures)}]",
    look=_look,
    reading=_reading,
    list_relations=listing.list_relations,
    describe_server=listing.describe_server,
    check_readable=listing.check_readable,
    read_counters=read_counters,
    ping=_ping,
)
