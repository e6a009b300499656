"""Facts about one table or query: what the planner may know, gathered gently.

Every question has a limit; a key that cannot be described within it is left out with a warning,
because weak metadata may weaken a plan, never fail it.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from functools import partial

import pymysql

from rivet_fleet.contracts.facts import (
    ColumnFacts,
    FactsRequest,
    IndexFacts,
    SourceFacts,
    leading_index,
)
from rivet_fleet.contracts.keys import KeyTuple, RelationName
from rivet_fleet.execution.engines import facts
from rivet_fleet.execution.engines.facts import (
    METADATA_TIMEOUT_S,
    Keyed,
    KeyProbe,
    Look,
    Size,
    as_keys,
    refused_cast,
    thinned,
    with_casts,
)
from rivet_fleet.execution.paging import Progress
from rivet_fleet.execution.sources.mysql import catalog, dialect, querytable
from rivet_fleet.execution.sources.mysql.basis import Basis
from rivet_fleet.execution.sources.mysql.border import refused, told
from rivet_fleet.execution.sources.mysql.dialect import (
    CAPABILITIES,
    ENGINE_NAMES,
    cast_expression,
    family,
    override_fidelity,
    parse_override,
    quote_identifier,
    quote_text,
)
from rivet_fleet.execution.sources.mysql.estimates import explained, range_cuts
from rivet_fleet.execution.sources.mysql.keytext import ORDERED_TEXTS, orderable
from rivet_fleet.execution.sources.mysql.liveness import WatchedConnection
from rivet_fleet.execution.sources.mysql.querysession import Own, apart, in_utc, notes
from rivet_fleet.execution.sources.mysql.session import Session
from rivet_fleet.execution.sources.mysql.statements import (
    Keys,
    bare_query,
    column_ref,
    from_item,
    metadata_settings,
)

# ------------------------------------------------------------------------------------------
# Key facts: minimum, maximum and row quantiles of a candidate key, in the server's order.
#
# Extremes are index look-ups. Quantiles of a table of moderate size come from walking the key's
# index in bounded steps; those of a large one from the server's own estimates of index ranges
# (EXPLAIN dives into the index and reads no row). Values travel as the server's own text and are
# compared by the server alone: its collations are not Python's.

WALK_ROWS_MAX = 2_000_000
"""The largest table whose index is walked: a second or two of an index that is read anyway."""
WALK_S_MAX = 15.0
WHOLE_ROWS_MAX = 20_000
"""Up to so many keys are simply all read: one statement is gentler than two for each boundary."""
ROWS_PER_BOUNDARY = 5_000
"""A boundary for fewer rows is only worth a statement where few are asked for."""
BOUNDARIES_ANYWAY = 200
STEP_ROWS_MAX = 50_000
"""Index entries one statement of the walk skips at most, so that each stays short."""
STEPS_MIN = 32
"""Of a walk, whatever is asked for: with fewer the chunks would be as uneven as the steps are
long."""


def usable_keys(
    columns: tuple[ColumnFacts, ...], indexes: tuple[IndexFacts, ...]
) -> tuple[tuple[str, ...], ...]:
    """The column tuples a keyset can walk."""
    return facts.usable_keys(columns, indexes, orderable)


class MysqlKeys(Keyed[WatchedConnection]):
    """The keys of one table or query; see ``Keyed``."""

    keys: Keys

    def __init__(
        self,
        session: Session,
        columns: tuple[ColumnFacts, ...],
        indexes: tuple[IndexFacts, ...],
        size: Size,
        *,
        relation: RelationName | None = None,
        query: str | None = None,
        own: Own = (),
    ) -> None:
        """``own``: of a query, the session that it is read in."""
        super().__init__(columns, indexes, size, Keys.of(columns))
        self._session, self._own = session, own
        self._relation, self._query = relation, query

    def asking(
        self, look: Look, shown: str
    ) -> contextlib.AbstractContextManager[WatchedConnection]:
        """The same limit as every question of metadata."""
        return _asking(self._session, f"{look.value} the key ({shown})", self._own)

    def rows(self, at: WatchedConnection, sql: str) -> tuple[catalog.Row, ...]:
        """Every row."""
        return catalog.rows(at, sql)

    def item(self, columns: tuple[str, ...]) -> str:
        """By the key's index, if there is one."""
        index = leading_index(self.indexes, columns)
        return from_item(self._relation, self._query, index=index)

    def orderable(self, column: ColumnFacts) -> bool:
        """As the function of this name, which readers ask, too."""
        return orderable(column)

    def unfit(self, column: ColumnFacts) -> tuple[str, str] | None:
        """What has no exact order, and text of which nobody says how it is compared."""
        if not orderable(column):
            return (
                f"column {column.name} ({column.native_type}) cannot be a chunk key",
                "choose an integer, decimal, date, uuid or text column",
            )
        if family(column.native_type) in dialect.TEXTS and column.charset is None:
            return (
                "the server does not say which character set "
                f"column {column.name} has: a chunk key cannot be compared without",
                f"cast it in the query: CONVERT({column.name} USING utf8mb4) AS {column.name}",
            )
        return None

    def quoted(self, name: str) -> str:
        """In backticks."""
        return quote_identifier(name)

    def finite(self, name: str) -> str:
        """No zero date."""
        return f"{self.keys.column_ref(name)} >= {quote_text('0001-01-01')}"

    def boundaries_most(self, request: FactsRequest) -> int:
        """A walk pays for each with two statements."""
        return request.boundaries_wanted(self.size.rows)

    def boundaries(
        self,
        at: WatchedConnection,
        probe: KeyProbe,
        lowest: KeyTuple,
        highest: KeyTuple | None,
        most: int,
    ) -> tuple[tuple[KeyTuple, ...], str]:
        """By walking the index of a table of moderate size, else by the server's estimates."""
        if highest is None or most <= 0 or leading_index(self.indexes, probe.columns) is None:
            return (), "none"
        if self.size.rows is not None and self.size.rows <= WALK_ROWS_MAX:
            return walk(probe, max(1, self.size.rows), lowest, most), "sample"
        return _estimated(at, self.keys, probe, lowest, highest, most), "histogram"


def _all_keys(probe: KeyProbe, rows_max: int) -> list[KeyTuple] | None:
    """All different keys, rising; None when there are ``rows_max`` rows or more."""
    found = probe.ask(
        f"SELECT {probe.texts} FROM {probe.item} WHERE {probe.not_null} "
        f"ORDER BY {probe.keys.key_list(probe.columns)} LIMIT {rows_max}"
    )
    return list(dict.fromkeys(found)) if len(found) < rows_max else None


def walk(probe: KeyProbe, estimate: int, lowest: KeyTuple, most: int) -> tuple[KeyTuple, ...]:
    """Every n-th key. A walk that takes too long is given up: half of it would be a lie."""
    if estimate <= WHOLE_ROWS_MAX:
        keys = _all_keys(probe, 2 * WHOLE_ROWS_MAX)
        if keys is not None:
            return thinned(keys[1:], most)
    most = min(most, max(BOUNDARIES_ANYWAY, estimate // ROWS_PER_BOUNDARY))
    # The estimate may be far off: small steps, thinned afterwards.
    steps = max(STEPS_MIN, 2 * most)
    step = max(1, min(STEP_ROWS_MAX, estimate // steps))
    found: list[KeyTuple] = []
    last, began_s, progress = lowest, time.monotonic(), Progress(probe.columns)
    while True:
        key = probe.key_at(last, ">", step - 1)
        if key is None and len(found) < most and step > 1:
            # There are less than half as many rows as were thought: again, in smaller steps.
            return walk(probe, (len(found) + 1) * step, lowest, most)
        if key is None:
            return thinned(found, most)
        if time.monotonic() - began_s > WALK_S_MAX or len(found) * step > 4 * WALK_ROWS_MAX:
            return ()
        found.append(key)
        _, last = progress.to(">", key)
        if len(found) >= 2 * steps and 2 * step <= STEP_ROWS_MAX:
            found, step = found[1::2], step * 2


def _estimated(
    at: WatchedConnection,
    keys: Keys,
    probe: KeyProbe,
    lowest: KeyTuple,
    highest: KeyTuple,
    most: int,
) -> tuple[KeyTuple, ...]:
    """Cuts of the leading column by the server's estimates, each moved to the key behind it."""
    lead = probe.columns[0]
    found: list[KeyTuple] = []
    for cut in range_cuts(at, probe.item, keys, lead, lowest[0], highest[0], most):
        where = keys.span_comparison(lead, ">=", cut)
        if found:
            where = f"{where} AND {keys.row_comparison(probe.columns, '>', found[-1])}"
        key = probe.first(where)
        if key is not None and key != lowest:
            found.append(key)
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a worker compares with its plan, and what it reads by."""

    columns: tuple[ColumnFacts, ...]
    indexes: tuple[IndexFacts, ...] = ()


def introspect(
    session: Session, basis: Basis, request: FactsRequest, _ahead: object
) -> SourceFacts:
    """Facts for one export. Raises SourceRefused when it is not there or not readable."""
    return facts.introspect(
        request, partial(_table, session, basis), partial(_query, session, basis)
    )


def read_shape(
    session: Session, relation: RelationName | None, query: str | None, own: Own = ()
) -> Shape:
    """Columns and indexes as they are now, without casts. ``own``: what the query is read under."""
    doing = "comparing the source's columns with the plan"
    with _asking(session, doing, own) as connection:
        if relation is None:
            bare, mariadb = bare_query(query or "", own), session.server.mariadb
            item = from_item(None, bare)
            return Shape(columns=catalog.query_columns(connection, item, mariadb=mariadb))
        found = catalog.find_relation(connection, relation)
        mariadb = session.server.mariadb
        return Shape(
            columns=catalog.relation_columns(connection, found, mariadb=mariadb),
            indexes=catalog.indexes(connection, found),
        )


def _table(session: Session, basis: Basis, request: FactsRequest) -> SourceFacts:
    assert request.relation is not None
    warnings = list(session.server.warnings)
    about = request.relation.name
    with _asking(session, f"looking at {about}") as connection:
        relation = catalog.find_relation(connection, request.relation)
        mariadb = session.server.mariadb
        columns = catalog.relation_columns(connection, relation, mariadb=mariadb)
        marked = catalog.marked_columns(connection, relation)
        indexes = _ordered(catalog.indexes(connection, relation), columns)
        item = from_item(relation.name, None)
        casted = with_casts(columns, request, partial(_cast, connection, item, mariadb))
        size = _table_size(connection, relation, item)
        rests_on = basis.of_relation(connection, relation.name)
    invisible = [name for name, mark in marked.items() if "INVISIBLE" in mark]
    if invisible:
        warnings.append(f"invisible columns are not exported: {', '.join(invisible)}")
    virtual = [name for name, mark in marked.items() if "VIRTUAL GENERATED" in mark]
    computed = f"virtual column {', '.join(virtual)}" if relation.base_table else "the view"
    theirs = apart(session.server.session)
    if theirs and (virtual or not relation.base_table):
        ours = "time_zone +00:00, no sql_mode"
        warnings.append(facts.apart(computed, relation.name, ours, theirs))
    found = MysqlKeys(session, columns, indexes, size, relation=relation.name)
    keys, indexes = found.describe(request, warnings)
    return SourceFacts(
        engine=ENGINE_NAMES[0],
        server_version=session.server.version_text,
        capabilities=CAPABILITIES,
        relation=relation.name,
        columns=casted,
        indexes=indexes,
        keys=keys,
        row_estimate=size.rows,
        row_estimate_provenance=size.provenance,
        row_width_bytes=size.width_bytes,
        warnings=tuple(warnings),
        basis=rests_on,
    )


def _query(session: Session, basis: Basis, request: FactsRequest) -> SourceFacts:
    mariadb, own = session.server.mariadb, session.server.session
    query = bare_query(request.query or "", own)
    with _asking(session, "describing the query", own) as connection:
        columns = catalog.query_columns(connection, from_item(None, query), mariadb=mariadb)
        native_types = {column.name: column.native_type for column in columns}
        utc = in_utc(query, native_types, own)
        item = from_item(None, utc)
        if utc != query:
            sent = catalog.query_columns(connection, item, mariadb=mariadb)
            columns = tuple(
                replace(column, wire_type=as_sent.wire_type)
                for column, as_sent in zip(columns, sent, strict=True)
            )
        casted = with_casts(columns, request, partial(_cast, connection, item, mariadb))
        # Bare: of a derived table the optimizer may run what it takes for constant.
        size = explained(connection, query)
        rests_on = basis.of_query(connection, query, _texts(columns))
    under = _beneath(session, basis, request, query, size)
    warnings = [*session.server.warnings, *notes(own, native_types, request.key_columns)]
    table, undivided = (None, under) if isinstance(under, str) else (under.table, "")
    if not isinstance(under, str) and not request.key_columns:
        keys, indexes = _table_keys(session, under).describe(request, warnings)
    else:
        every = () if isinstance(under, str) else under.indexes
        indexes = tuple(one for one in every if one.columns == request.key_columns)
        found = MysqlKeys(session, as_keys(columns, table), indexes, size, query=utc, own=own)
        keys, _ = found.describe(request, warnings) if request.key_columns else ((), ())
    return SourceFacts(
        engine=ENGINE_NAMES[0],
        server_version=session.server.version_text,
        capabilities=CAPABILITIES,
        relation=None,
        columns=casted,
        indexes=indexes,
        keys=keys,
        row_estimate=size.rows,
        row_estimate_provenance=size.provenance,
        row_width_bytes=size.width_bytes,
        warnings=tuple(warnings),
        basis=rests_on,
        session=own,
        table=table,
        undivided=undivided,
    )


def _beneath(
    session: Session, basis: Basis, request: FactsRequest, query: str, size: Size
) -> querytable.Found | str:
    """The one table of the query, or why the query is read by itself. ``query``: bare."""

    def look(connection: WatchedConnection) -> querytable.Found | str:
        mariadb, own = session.server.mariadb, session.server.session
        found = querytable.query_table(connection, query, own, mariadb=mariadb)
        if isinstance(found, str):
            return found
        whole = _table_size(connection, found.relation, from_item(found.relation.name, None))
        rests_on = basis.of_query_table(connection, found.relation.name)
        table = replace(found.table, basis=rests_on)
        indexes = _ordered(found.indexes, found.columns)
        return replace(found, table=table, indexes=indexes, size=whole)

    asking = _asking(session, "looking for the query's table", session.server.session)
    return facts.table_beneath(asking, look, request, size)


def _table_keys(session: Session, under: querytable.Found) -> MysqlKeys:
    """The keys of a query's table, looked for in the table: they cut the query's rows as well."""
    return MysqlKeys(
        session, under.table.columns, under.indexes, under.size, relation=under.relation.name
    )


def _asking(
    session: Session, doing: str, own: Own = ()
) -> contextlib.AbstractContextManager[WatchedConnection]:
    return session.reading(
        metadata_settings(session.server, METADATA_TIMEOUT_S, own),
        doing=doing,
        timeout_s=METADATA_TIMEOUT_S,
    )


def _texts(columns: tuple[ColumnFacts, ...]) -> list[str]:
    """The columns that a collation orders."""
    return [one.name for one in columns if one.type is not None and one.type.kind in ORDERED_TEXTS]


def _ordered(
    indexes: tuple[IndexFacts, ...], columns: tuple[ColumnFacts, ...]
) -> tuple[IndexFacts, ...]:
    """Indexes over a column whose text has another order than the index return no order of ours."""
    fit = {column.name for column in columns if orderable(column)}
    return tuple(
        replace(index, ordered=index.ordered and set(index.columns) <= fit) for index in indexes
    )


# ---------------------------------------------------------------- casts


def _cast(
    connection: WatchedConnection,
    item: str,
    mariadb: bool,
    column: ColumnFacts,
    override: str,
    *,
    asked: bool,
) -> ColumnFacts:
    """See ``engines.facts.Cast``: the server says whether it can cast, and what it then sends."""
    target = parse_override(override)
    own = column.type.kind if column.type else None
    expression = cast_expression(
        column_ref(column.name), column.native_type, target, mariadb=mariadb
    )
    try:
        (field,) = catalog.describe(connection, f"SELECT {expression} FROM {item}")
    except pymysql.MySQLError as error:
        if not refused(error):
            raise
        return refused_cast(column, override, told(error)[1], column.cast_hint)
    return replace(
        column,
        type=replace(target, fidelity=override_fidelity(column.native_type, own, target)),
        wire_type=field.wire_type,
        # A cast that fails on a value gives NULL and a warning.
        nullable=column.nullable or expression != column_ref(column.name),
        unsupported_reason=None,
        cast_hint=None,
    )


# ---------------------------------------------------------------- size


def _table_size(connection: WatchedConnection, relation: catalog.Relation, item: str) -> Size:
    if relation.row_estimate is None:
        return explained(connection, f"SELECT * FROM {item}")
    return Size(
        rows=relation.row_estimate, provenance="statistics", width_bytes=relation.row_width_bytes
    )
