"""Facts about one table or query: what the planner may know, gathered gently.

Every question has a limit; a key that cannot be described within it is left out with a warning,
because weak metadata may weaken a plan, never fail it.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace

import pymysql

from rivet_fleet.contracts.columns import INTEGERS, MOMENTS, TypeKind
from rivet_fleet.contracts.facts import (
    WALKED,
    ColumnFacts,
    FactsRequest,
    IndexFacts,
    KeyFacts,
    SourceFacts,
    leading_index,
)
from rivet_fleet.contracts.keys import KeyTuple, RelationName
from rivet_fleet.errors import ConfigError, SourceRefused, StatementTimeout
from rivet_fleet.execution.engines.facts import (
    WALKED_BOUNDARIES_MAX,
    probe,
    walk_keys,
    worth_probing,
)
from rivet_fleet.execution.paging import Progress
from rivet_fleet.execution.sources.mysql import catalog, dialect
from rivet_fleet.execution.sources.mysql.basis import Basis
from rivet_fleet.execution.sources.mysql.border import refused, told
from rivet_fleet.execution.sources.mysql.catalog import rows
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
from rivet_fleet.execution.sources.mysql.estimates import Size, explained, range_cuts
from rivet_fleet.execution.sources.mysql.keytext import UNSOUND
from rivet_fleet.execution.sources.mysql.liveness import WatchedConnection
from rivet_fleet.execution.sources.mysql.querysession import Own, in_utc, notes
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
_UNORDERABLE = (
    TypeKind.FLOAT32,
    TypeKind.FLOAT64,
    TypeKind.JSON,
    # The server compares an enum with text as text, but orders it by its number; comparing
    # numbers reads the whole index.
    TypeKind.ENUM,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySource:
    """Where the keys are sampled: a FROM item that uses the key's index, if there is one.

    ``row_estimate`` None means that nothing is known and nothing is walked.
    """

    item: str
    keys: Keys
    row_estimate: int | None
    indexed: bool


def usable_keys(
    columns: tuple[ColumnFacts, ...], indexes: tuple[IndexFacts, ...]
) -> tuple[tuple[str, ...], ...]:
    """The column tuples a keyset can walk: unique, whole, ordered, NOT NULL, exact as text."""
    by_name = {column.name: column for column in columns}
    found: list[tuple[str, ...]] = []
    for index in indexes:
        sound = index.unique and index.valid and index.ready and index.ordered
        if not sound or index.partial or index.expression:
            continue
        keys = [by_name.get(name) for name in index.columns]
        if all(key is not None and not key.nullable and orderable(key) for key in keys):
            found.append(index.columns)
    return tuple(dict.fromkeys(found))


def orderable(column: ColumnFacts) -> bool:
    """True when the column's text stands exactly for its place in the order."""
    if column.collation in UNSOUND:
        return False
    return column.type is not None and column.type.kind not in _UNORDERABLE


def key_facts(
    connection: WatchedConnection,
    source: KeySource,
    columns: tuple[str, ...],
    *,
    nullable: bool,
    unique: bool,
    boundaries_max: int,
    finite: bool = False,
) -> KeyFacts:
    """Extremes and quantiles of one key. The caller bounds the time of each statement.

    ``finite``: the key is a date or a moment; its extremes are those within the calendar."""
    where = _not_null(source, columns)
    if finite:
        where = f"{source.keys.column_ref(columns[0])} >= {quote_text('0001-01-01')}"
    lowest = _extreme(connection, source, columns, where, "ASC")
    highest = _extreme(connection, source, columns, where, "DESC") if lowest else None
    boundaries: tuple[KeyTuple, ...] = ()
    provenance = "none"
    if lowest and highest and source.indexed and boundaries_max > 0:
        if source.row_estimate is not None and source.row_estimate <= WALK_ROWS_MAX:
            boundaries = _walk(connection, source, columns, lowest, boundaries_max)
            provenance = "sample"
        else:
            boundaries = _estimated(connection, source, columns, lowest, highest, boundaries_max)
            provenance = "histogram"
    return KeyFacts(
        columns=columns,
        minimum=lowest,
        maximum=highest,
        boundaries=boundaries,
        provenance=provenance if boundaries else "none",
        has_nulls=nullable and _has_nulls(connection, source, columns),
        unique=unique,
    )


def _text_expressions(source: KeySource, columns: tuple[str, ...]) -> str:
    return ", ".join(source.keys.text_expression(name) for name in columns)


def _not_null(source: KeySource, columns: tuple[str, ...]) -> str:
    return " AND ".join(f"{source.keys.column_ref(name)} IS NOT NULL" for name in columns)


def _extreme(
    connection: WatchedConnection,
    source: KeySource,
    columns: tuple[str, ...],
    where: str,
    direction: str,
) -> KeyTuple | None:
    order = ", ".join(f"{source.keys.column_ref(name)} {direction}" for name in columns)
    found = rows(
        connection,
        f"SELECT {_text_expressions(source, columns)} FROM {source.item} "
        f"WHERE {where} ORDER BY {order} LIMIT 1",
    )
    return found[0] if found else None


def walk_step(
    connection: WatchedConnection,
    source: KeySource,
    columns: tuple[str, ...],
    after: tuple[KeyTuple | None, str, int],
) -> KeyTuple | None:
    """One step of a walk; see ``keywalk.KeyAt``."""
    key, operator, skip = after
    where = _not_null(source, columns)
    if key is not None:
        where = source.keys.row_comparison(columns, operator, key)
    return _key_at(connection, source, columns, where, skip)


def count_between(
    connection: WatchedConnection, source: KeySource, column: str, window: tuple[int, int, int]
) -> int:
    """Rows with a key in ``[low, high)``, counted up to ``most``."""
    low, high, most = window
    where = " AND ".join(
        source.keys.span_comparison(column, operator, str(value))
        for operator, value in ((">=", low), ("<", high))
    )
    sql = f"SELECT count(*) FROM (SELECT 1 FROM {source.item} WHERE {where} LIMIT {most}) AS w"
    return int(rows(connection, sql)[0][0])


def _has_nulls(connection: WatchedConnection, source: KeySource, columns: tuple[str, ...]) -> bool:
    where = " OR ".join(f"{source.keys.column_ref(name)} IS NULL" for name in columns)
    return bool(rows(connection, f"SELECT 1 FROM {source.item} WHERE {where} LIMIT 1"))


def _key_at(
    connection: WatchedConnection,
    source: KeySource,
    columns: tuple[str, ...],
    where: str,
    skip: int,
) -> KeyTuple | None:
    """The key ``skip`` rows behind the first one that ``where`` lets through."""
    found = rows(
        connection,
        f"SELECT {_text_expressions(source, columns)} FROM {source.item} WHERE {where} "
        f"ORDER BY {source.keys.key_list(columns)} LIMIT 1 OFFSET {skip}",
    )
    return found[0] if found else None


def _all_keys(
    connection: WatchedConnection, source: KeySource, columns: tuple[str, ...], rows_max: int
) -> list[KeyTuple] | None:
    """All different keys, rising; None when there are ``rows_max`` rows or more."""
    found = rows(
        connection,
        f"SELECT {_text_expressions(source, columns)} FROM {source.item} "
        f"WHERE {_not_null(source, columns)} ORDER BY {source.keys.key_list(columns)} "
        f"LIMIT {rows_max}",
    )
    return list(dict.fromkeys(found)) if len(found) < rows_max else None


def _walk(
    connection: WatchedConnection,
    source: KeySource,
    columns: tuple[str, ...],
    lowest: KeyTuple,
    most: int,
) -> tuple[KeyTuple, ...]:
    """Every n-th key. A walk that takes too long is given up: half of it would be a lie."""
    estimate = max(1, source.row_estimate or 1)
    if estimate <= WHOLE_ROWS_MAX:
        keys = _all_keys(connection, source, columns, 2 * WHOLE_ROWS_MAX)
        if keys is not None:
            return _thin(keys[1:], most)
    most = min(most, max(BOUNDARIES_ANYWAY, estimate // ROWS_PER_BOUNDARY))
    # The estimate may be far off: small steps, thinned afterwards.
    walk_step = max(1, min(STEP_ROWS_MAX, estimate // (2 * most)))
    found: list[KeyTuple] = []
    last, began_s, progress = lowest, time.monotonic(), Progress(columns)
    while True:
        where = source.keys.row_comparison(columns, ">", last)
        key = _key_at(connection, source, columns, where, walk_step - 1)
        if key is None:
            return _thin(found, most)
        if time.monotonic() - began_s > WALK_S_MAX or len(found) * walk_step > 4 * WALK_ROWS_MAX:
            return ()
        found.append(key)
        _, last = progress.to(">", key)
        if len(found) >= 4 * most:
            found, walk_step = found[1::2], walk_step * 2


def _thin(found: list[KeyTuple], most: int) -> tuple[KeyTuple, ...]:
    """At most ``most`` of the keys, evenly spaced."""
    if len(found) <= most:
        return tuple(found)
    return tuple(found[(2 * i + 1) * len(found) // (2 * most)] for i in range(most))


def _estimated(
    connection: WatchedConnection,
    source: KeySource,
    columns: tuple[str, ...],
    lowest: KeyTuple,
    highest: KeyTuple,
    most: int,
) -> tuple[KeyTuple, ...]:
    """Cuts of the leading column by the server's estimates, each moved to the key behind it."""
    lead = columns[0]
    cuts = range_cuts(
        connection,
        source.item,
        source.keys,
        lead,
        lowest[0],
        highest[0],
        most,
    )
    found: list[KeyTuple] = []
    for cut in cuts:
        where = source.keys.span_comparison(lead, ">=", cut)
        if found:
            behind = source.keys.row_comparison(columns, ">", found[-1])
            where = f"{where} AND {behind}"
        key = _key_at(connection, source, columns, where, 0)
        if key is not None and key != lowest:
            found.append(key)
    return tuple(found)


METADATA_TIMEOUT_S = 30.0
TEXTS = (TypeKind.STRING, TypeKind.ENUM)
_KEYS_MAX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a worker compares with its plan, and what it reads by."""

    columns: tuple[ColumnFacts, ...]
    indexes: tuple[IndexFacts, ...] = ()


def introspect(session: Session, basis: Basis, request: FactsRequest) -> SourceFacts:
    """Facts for one export. Raises SourceRefused when it is not there or not readable."""
    if (request.relation is None) == (request.query is None):
        raise ConfigError(f"export {request.export_name}: either a table or a query")
    ask = _table if request.relation else _query
    return ask(session, basis, request)


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
        invisible = catalog.invisible_columns(connection, relation)
        indexes = _ordered(catalog.indexes(connection, relation), columns)
        item = from_item(relation.name, None)
        casted = _with_casts(connection, columns, request, item, mariadb=mariadb)
        size = _table_size(connection, relation, item)
        rests_on = basis.of_relation(connection, relation.name)
    if invisible:
        warnings.append(f"invisible columns are not exported: {', '.join(invisible)}")
    keys = _keys(session, request, _Keyed(relation.name, columns, indexes, size), warnings)
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
        casted = _with_casts(connection, columns, request, item, mariadb=mariadb)
        # Bare: of a derived table the optimizer may run what it takes for constant.
        size = explained(connection, query)
        rests_on = basis.of_query(connection, query, _texts(columns))
    warnings = [*session.server.warnings, *notes(own, native_types, request.key_columns)]
    keys: tuple[KeyFacts, ...] = ()
    if request.key_columns:
        keyed = _Keyed(None, columns, (), size, query=utc, own=own)
        keys = _keys(session, request, keyed, warnings)
    return SourceFacts(
        engine=ENGINE_NAMES[0],
        server_version=session.server.version_text,
        capabilities=CAPABILITIES,
        relation=None,
        columns=casted,
        keys=keys,
        row_estimate=size.rows,
        row_estimate_provenance=size.provenance,
        row_width_bytes=size.width_bytes,
        warnings=tuple(warnings),
        basis=rests_on,
        session=own,
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
    return [one.name for one in columns if one.type is not None and one.type.kind in TEXTS]


def _ordered(
    indexes: tuple[IndexFacts, ...], columns: tuple[ColumnFacts, ...]
) -> tuple[IndexFacts, ...]:
    """Indexes over a column whose text has another order than the index return no order of ours."""
    fit = {column.name for column in columns if orderable(column)}
    return tuple(
        replace(index, ordered=index.ordered and set(index.columns) <= fit) for index in indexes
    )


# ---------------------------------------------------------------- casts


def _with_casts(
    connection: WatchedConnection,
    columns: tuple[ColumnFacts, ...],
    request: FactsRequest,
    item: str,
    *,
    mariadb: bool,
) -> tuple[ColumnFacts, ...]:
    """Apply the overrides; the server says whether it can cast, and what it then sends."""
    known = {column.name: column for column in columns}
    asked = dict(request.casts)
    for name in asked:
        if name not in known:
            raise ConfigError(
                f"export {request.export_name}: `columns:` names {name!r}, which is not there",
                hint=f"columns: {', '.join(known)}",
            )
        known[name] = _cast(connection, known[name], asked[name], item, mariadb=mariadb)
    if request.unsupported_cast is not None:
        for column in columns:
            if column.type is None and column.name not in asked:
                way = request.unsupported_cast
                cast = _cast(connection, column, way, item, mariadb=mariadb)
                if cast.type is not None:
                    reason = column.unsupported_reason
                    cast = replace(cast, cast=way, unsupported_reason=reason)
                known[column.name] = cast
    return tuple(known[column.name] for column in columns)


def _cast(
    connection: WatchedConnection,
    column: ColumnFacts,
    override: str,
    item: str,
    *,
    mariadb: bool,
) -> ColumnFacts:
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
        # This column's own trouble: the plan lists it beside the others, by export and name.
        reason = f"this server cannot read it as {override} ({told(error)[1]})"
        hint = column.cast_hint if column.cast_hint != override else None
        return replace(
            column, type=None, unsupported_reason=reason, cast_hint=hint, cast_refused=True
        )
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


# ---------------------------------------------------------------- keys


@dataclass(frozen=True, slots=True)
class _Keyed:
    """What keys are looked for in."""

    relation: RelationName | None
    columns: tuple[ColumnFacts, ...]
    indexes: tuple[IndexFacts, ...]
    size: Size
    query: str | None = None
    own: Own = ()


def _keys(
    session: Session, request: FactsRequest, keyed: _Keyed, warnings: list[str]
) -> tuple[KeyFacts, ...]:
    usable = usable_keys(keyed.columns, keyed.indexes)
    wanted = (_requested(request, keyed.columns),) if request.key_columns else usable[:_KEYS_MAX]
    nullable = {column.name for column in keyed.columns if column.nullable}
    kinds = {one.name: one.type.kind if one.type else None for one in keyed.columns}
    keys = Keys.of(keyed.columns)
    found = []
    for names in wanted:
        index = leading_index(keyed.indexes, names)
        source = KeySource(
            item=from_item(keyed.relation, keyed.query, index=index),
            keys=keys,
            row_estimate=keyed.size.rows,
            indexed=index is not None,
        )
        try:
            doing = f"looking at the key ({', '.join(names)})"
            with _asking(session, doing, keyed.own) as connection:
                facts = key_facts(
                    connection,
                    source,
                    names,
                    nullable=bool(nullable & set(names)),
                    unique=any(set(key) <= set(names) for key in usable),
                    boundaries_max=request.boundaries_max,
                    finite=len(names) == 1 and kinds[names[0]] in MOMENTS,
                )
            if request.probe_density and source.indexed and kinds[names[0]] in INTEGERS:
                facts = _probed(session, source, facts, keyed.size)
            if request.walk_rows is not None and source.indexed:
                facts = _walked(session, source, facts, request.walk_rows)
        except StatementTimeout:
            warnings.append(
                f"key ({', '.join(names)}) could not be described within "
                f"{METADATA_TIMEOUT_S:.0f} s: is there an index on it?"
            )
            continue
        found.append(facts)
    return tuple(found)


def _probed(session: Session, source: KeySource, facts: KeyFacts, size: Size) -> KeyFacts:
    """How densely a whole-number key is filled, where the statistics leave it in doubt."""
    if len(facts.columns) > 1 or not facts.minimum or not facts.maximum:
        return facts
    first, last = int(facts.minimum[0]), int(facts.maximum[0])
    if not worth_probing(size.rows, size.provenance, last - first + 1):
        return facts

    def count(low: int, high: int, most: int) -> int:
        with _asking(session, f"probing the key ({facts.columns[0]})") as connection:
            return count_between(connection, source, facts.columns[0], (low, high, most))

    return replace(facts, probed=probe(count, first, last))


def _walked(session: Session, source: KeySource, facts: KeyFacts, every: int) -> KeyFacts:
    """Exact boundaries, one bounded statement for each step."""

    def step(key: KeyTuple | None, operator: str, skip: int) -> KeyTuple | None:
        with _asking(session, f"walking the key ({', '.join(facts.columns)})") as connection:
            return walk_step(connection, source, facts.columns, (key, operator, skip))

    found = walk_keys(
        step, columns=facts.columns, every=every, boundaries_max=WALKED_BOUNDARIES_MAX
    )
    return facts if found is None else replace(facts, boundaries=found, provenance=WALKED)


def _requested(request: FactsRequest, columns: tuple[ColumnFacts, ...]) -> tuple[str, ...]:
    known = {column.name: column for column in columns}
    for name in request.key_columns:
        if name not in known:
            raise SourceRefused(
                f"export {request.export_name}: there is no column {quote_identifier(name)}",
                hint=f"columns: {', '.join(known)}",
            )
        if not orderable(known[name]):
            raise SourceRefused(
                f"export {request.export_name}: column {name} ({known[name].native_type}) "
                "cannot be a chunk key",
                hint="choose an integer, decimal, date, uuid or text column",
            )
        if family(known[name].native_type) in dialect.TEXTS and known[name].charset is None:
            raise SourceRefused(
                f"export {request.export_name}: the server does not say which character set "
                f"column {name} has: a chunk key cannot be compared without",
                hint=f"cast it in the query: CONVERT({name} USING utf8mb4) AS {name}",
            )
    return request.key_columns
