"""The MySQL and MariaDB source: what it answers over one session."""

from __future__ import annotations

import re
from functools import partial

from rivet_fleet.contracts.columns import MOMENTS, TypeKind
from rivet_fleet.contracts.counters import CounterReading
from rivet_fleet.contracts.facts import (
    Asked,
    Measure,
    leading_index,
)
from rivet_fleet.contracts.keys import ChunkRange, RangeKind, RelationName
from rivet_fleet.contracts.plan import ReadPlan, TuningPlan
from rivet_fleet.contracts.window import Newest, NewestRequest
from rivet_fleet.execution.engines import facts
from rivet_fleet.execution.engines.session import real, whole
from rivet_fleet.execution.engines.source import Counting, Questions
from rivet_fleet.execution.sources.mysql import listing, reading
from rivet_fleet.execution.sources.mysql.basis import Basis
from rivet_fleet.execution.sources.mysql.catalog import find_relation, rows
from rivet_fleet.execution.sources.mysql.dialect import ENGINE_NAMES, family, quote_text
from rivet_fleet.execution.sources.mysql.introspect import Shape, introspect, read_shape
from rivet_fleet.execution.sources.mysql.querysession import in_utc
from rivet_fleet.execution.sources.mysql.reading import MysqlReading
from rivet_fleet.execution.sources.mysql.session import Proxy, Session
from rivet_fleet.execution.sources.mysql.statements import (
    Keys,
    bare_query,
    from_item,
    metadata_settings,
    page_settings,
)
from rivet_fleet.execution.types import Footing

# ------------------------------------------------------------------------------------------
# The greatest row of a cursor: where an incremental run ends (ADR 0011).


def newest(session: Session, request: NewestRequest) -> Newest:
    """The greatest row of a cursor as it is now, in one statement that an index makes short. Raises
    SourceRefused for a column that is not there, StatementTimeout."""
    own = session.server.session if request.relation is None else ()
    shape = read_shape(session, request.relation, request.query, own)
    found = facts.by_name(request, shape.columns)
    cursors = facts.cursor_columns(request)
    index = leading_index(shape.indexes, cursors) if request.fallback is None else None
    native_types = {name: column.native_type for name, column in found.items()}
    query = request.query and in_utc(bare_query(request.query), native_types, own)
    look = facts.NewestLook(
        request=request,
        by_name=found,
        keys=Keys.of(shape.columns),
        item=from_item(request.relation, query, index=index),
        moved=_moved(native_types[cursors[0]], request),
    )
    with session.reading(
        metadata_settings(session.server, facts.NEWEST_TIMEOUT_S, own),
        doing=f"looking for the newest {cursors[0]}",
        timeout_s=facts.NEWEST_TIMEOUT_S,
    ) as at:
        return facts.newest(partial(session.rows, at), look)


def _moved(native: str, request: NewestRequest) -> str | None:
    if request.above is None or not request.overlap_s:
        return None
    if family(native) not in ("date", "datetime", "timestamp"):
        return None
    kind = "DATE" if family(native) == "date" else "DATETIME(6)"
    mark = f"CAST({quote_text(request.above[0])} AS DATETIME(6))"
    back = f"TIMESTAMPADD(MICROSECOND, -{round(request.overlap_s * 1e6)}, {mark})"
    return f"SELECT CAST(CAST({back} AS {kind}) AS CHAR)"


# ------------------------------------------------------------------------------------------
# How far a server has come: the transactions it has executed, by their global ids. What only one
# replica has written (an ANALYZE there) reaches no other: it is left out of what others must have.
#
# MySQL's are sets of numbers for each server (``uuid:1-5:7``), MariaDB's the last number of each
# domain (``0-1-42``).

_EXECUTED = "SELECT @@GLOBAL.gtid_executed"
# A primary that is frozen is read-only, too: where nothing comes from others, all is its own.
_WITHOUT_OWN = """SELECT IF(@@GLOBAL.read_only, COALESCE(NULLIF(GTID_SUBTRACT(
  @@GLOBAL.gtid_executed, CONCAT(@@GLOBAL.server_uuid, ':1-9223372036854775806')), ''),
  @@GLOBAL.gtid_executed), @@GLOBAL.gtid_executed)"""
_OF_DOMAINS = """SELECT IF(@@GLOBAL.read_only, COALESCE(NULLIF(@@GLOBAL.gtid_slave_pos, ''),
  @@GLOBAL.gtid_current_pos), @@GLOBAL.gtid_current_pos)"""
_LAST = re.compile(r"(\d+)-\d+-(\d+)")
_RUN = re.compile(r"(\d+)(?:-(\d+))?")


def position(session: Session, planning: bool) -> str:
    """The transactions it has executed; for a plan, without those that are a replica's own."""
    if session.server.proxy is not Proxy.DIRECT:
        return ""  # the next statement may reach another server
    asked = _WITHOUT_OWN if planning else _EXECUTED
    with session.reading(
        metadata_settings(session.server, _LOOK_MAX_S),
        doing="asking how far it has come",
        timeout_s=_LOOK_MAX_S,
    ) as connection:
        ((found,),) = rows(connection, _OF_DOMAINS if session.server.mariadb else asked)
    return "".join(str(found or "").split())


def reached(planned: str, now: str) -> bool:
    """Whether all of the first are among the second. What a server was filled with at its beginning
    it may not list: domains that it does not know, and numbers below its first, are not compared.
    """
    if ":" not in planned:
        after = _domains(now)
        return all(after.get(domain, last) >= last for domain, last in _domains(planned).items())
    executed = _sets(now)
    return all(_holds(executed.get(server, []), runs) for server, runs in _sets(planned).items())


def _holds(executed: list[tuple[int, int]], runs: list[tuple[int, int]]) -> bool:
    begin = min(executed)[0] if executed else 0
    return all(
        any(low <= max(first, begin) and last <= high for low, high in executed)
        for first, last in runs
        if last >= begin
    )


def _domains(text: str) -> dict[int, int]:
    found = (_LAST.fullmatch(one) for one in text.split(","))
    return {whole(one[1]): whole(one[2]) for one in found if one}


def _sets(text: str) -> dict[str, list[tuple[int, int]]]:
    """Runs of numbers by server, and by server and tag (MySQL 8.3)."""
    found: dict[str, list[tuple[int, int]]] = {}
    for one in filter(None, text.split(",")):
        server, *parts = one.split(":")
        name = server
        for part in parts:
            run = _RUN.fullmatch(part)
            if run is None:
                name = f"{server}:{part}"
            else:
                runs = found.setdefault(name, [])
                runs.append((whole(run[1]), whole(run[2] or run[1])))
    return found


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
        taken_at_s=real(at_s),
        counters={str(name): whole(value) for name, value in counters},
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
    now = reading.looked(session, read, WHOLE)
    engine = MysqlReading(session, read, WHOLE, TuningPlan(), now)
    return Counting(
        keys=engine.keys,
        item=engine.from_item(read.relation, read.query, only=False),
        settings=metadata_settings(session.server, timeout_s, read.session),
    )


def _measuring(
    session: Session, read: ReadPlan, chunk_range: ChunkRange, tuning: TuningPlan
) -> Counting:
    now = reading.looked(session, read, chunk_range)
    engine = MysqlReading(session, read, chunk_range, tuning, now)
    return Counting(
        keys=engine.keys,
        item=engine.from_item(read.relation, read.query, only=False),
        settings=page_settings(session.server, tuning, read.session),
    )


def measured(reference: str, asked: Asked) -> str:
    """The SQL of a measure; see ``Questions``. Moments are those of a session in UTC."""
    kind, measure = asked.column.type.kind, asked.measure
    if measure is Measure.NULLS:
        return f"CAST(COUNT(*) - COUNT({reference}) AS CHAR)"
    if measure is Measure.BYTES:
        value = reference if kind is TypeKind.BINARY else f"CONVERT({reference} USING utf8mb4)"
        return f"CAST(SUM(LENGTH({value})) AS CHAR)"
    if kind is TypeKind.BOOL:
        return f"CAST(SUM({reference} <> 0) AS CHAR)"
    value = f"{reference} + 0" if asked.column.native_type.startswith("bit") else reference
    number = f"{measure.value.upper()}({value})"
    if kind is TypeKind.DATE:
        number = f"TO_DAYS({number}) - 719528"
    elif kind in MOMENTS:
        number = f"TIMESTAMPDIFF(MICROSECOND, TIMESTAMP'1970-01-01 00:00:00', {number})"
    return f"CAST({number} AS CHAR)"


def _look(
    session: Session, _basis: Basis, footing: Footing, read: ReadPlan, chunk_range: ChunkRange
) -> Shape:
    now = reading.looked(session, read, chunk_range)
    footing.prove()
    return now


def _reading(
    session: Session, now: Shape, read: ReadPlan, chunk_range: ChunkRange, tuning: TuningPlan
) -> MysqlReading:
    return MysqlReading(session, read, chunk_range, tuning, now)


def _ping(session: Session) -> str:
    with session.reading((), doing="saying hello", timeout_s=10.0) as connection:
        connection.ping()
    return session.server.version_text


QUESTIONS = Questions(
    basis=Basis,
    introspect=introspect,
    # Its tables' definitions are in a cache by name: a question about many is as many questions.
    look_ahead=lambda _session, _basis, _wanted: {},
    resolve=_resolve,
    newest=newest,
    position=position,
    reached=reached,
    mixed=lambda _session: False,
    steady=lambda session: session.server.proxy is Proxy.DIRECT,
    read_changes=reading.read_changes,
    counting=_counting,
    measuring=_measuring,
    measured=measured,
    together=", ".join,
    look=_look,
    reading=_reading,
    list_relations=listing.list_relations,
    describe_server=listing.describe_server,
    check_readable=listing.check_readable,
    read_counters=read_counters,
    ping=_ping,
)
