"""Which keys a table or a query has, and what is known of each.

A key that cannot be described in time, or that the server cannot compare, is left out with its
reason: one strange key ends no planning. The one that the user asked for is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from psycopg import Cursor

from rivet_fleet.contracts.columns import INTEGERS, MOMENTS, TypeKind
from rivet_fleet.contracts.facts import (
    WALKED,
    ColumnFacts,
    FactsRequest,
    IndexFacts,
    KeyFacts,
    leading_index,
)
from rivet_fleet.contracts.keys import KeyTuple
from rivet_fleet.errors import SourceRefused, StatementTimeout
from rivet_fleet.execution.engines.facts import (
    WALKED_BOUNDARIES_MAX,
    probe,
    walk_keys,
    worth_probing,
)
from rivet_fleet.execution.sources.postgres.catalog import Relation, own_path
from rivet_fleet.execution.sources.postgres.dialect import (
    ALIAS,
    KEY_WALK,
    column_ref,
    metadata_settings,
    quote_identifier,
    quote_relation,
)
from rivet_fleet.execution.sources.postgres.keyorder import KeyOrder, Keys
from rivet_fleet.execution.sources.postgres.querysession import Own
from rivet_fleet.execution.sources.postgres.session import Session

# ------------------------------------------------------------------------------------------
# Key facts: minimum, maximum and row quantiles of a candidate key, in the server's order.
#
# Nothing here counts or scans a table: extremes are index look-ups, quantiles come from the
# server's histogram or from a bounded block sample. Values travel as the server's own text.

SAMPLE_BLOCKS_MAX = 2_000
"""Blocks one sample reads at most (16 MB): enough for a thousand quantiles."""
SAMPLE_ROWS_MAX = 200_000
HISTOGRAM_COMMON_MAX = 0.1
"""Above this share of rows in the most common values the histogram speaks for too few rows."""
HISTOGRAM_GROWTH_MAX = 1.5
"""A table this many times larger than when it was analysed has outgrown its histogram."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySource:
    """Where the keys are sampled: a FROM item, and what is known about it.

    ``sampled`` is the FROM item of a bounded sample, None when none can be had.
    """

    item: str
    sampled: str | None
    relation: Relation | None
    keys: Keys
    fresh_statistics: bool
    rows: int | None = None
    rows_from: str = "none"
    own: Own = ()
    """Of a query: the session that it is read in."""


def table_sample(relation: Relation, blocks: int) -> str | None:
    """A FROM item that reads at most about ``SAMPLE_BLOCKS_MAX`` blocks of the table."""
    if relation.kind not in ("r", "p", "m"):
        return None
    name = f"{quote_relation(relation.name)} AS {ALIAS}"
    if blocks <= SAMPLE_BLOCKS_MAX:
        return name
    return f"{name} TABLESAMPLE pg_catalog.system ({100.0 * SAMPLE_BLOCKS_MAX / blocks:.6f})"


def query_sample(item: str) -> str:
    """The beginning of a query's rows: bounded, for queries that are estimated to be small."""
    return f"(SELECT * FROM {item} LIMIT {SAMPLE_ROWS_MAX}) AS {ALIAS}"


def key_facts(
    cursor: Cursor[tuple[Any, ...]],
    source: KeySource,
    columns: tuple[str, ...],
    *,
    nullable: bool,
    unique: bool,
    boundaries_max: int,
    finite: bool = False,
) -> KeyFacts:
    """Extremes and quantiles of one key. The caller's transaction bounds the time.

    ``finite``: the key is a date or a moment; its extremes are those within the calendar."""
    where = _not_null(columns)
    if finite:
        where = " AND ".join(
            source.keys.span_comparison(columns[0], sign, end)
            for sign, end in ((">", "-infinity"), ("<", "infinity"))
        )
    lowest = _extreme(cursor, source, columns, where, "<")
    highest = _extreme(cursor, source, columns, where, ">") if lowest else None
    if lowest is not None:
        _compare(cursor, source, columns, lowest)
    boundaries: tuple[KeyTuple, ...] = ()
    provenance = "none"
    if lowest and boundaries_max > 0:
        boundaries = _histogram(cursor, source, columns, boundaries_max)
        provenance = "histogram"
        if not boundaries:
            boundaries = _sample(cursor, source, columns, boundaries_max)
            provenance = "sample" if boundaries else "none"
    return KeyFacts(
        columns=columns,
        minimum=lowest,
        maximum=highest,
        boundaries=boundaries,
        provenance=provenance,
        has_nulls=nullable and _has_nulls(cursor, source, columns),
        unique=unique,
    )


def _not_null(columns: tuple[str, ...]) -> str:
    return " AND ".join(f"{column_ref(name)} IS NOT NULL" for name in columns)


def _texts(source: KeySource, columns: tuple[str, ...]) -> str:
    return ", ".join(source.keys.text(name) for name in columns)


def _extreme(
    cursor: Cursor[tuple[Any, ...]],
    source: KeySource,
    columns: tuple[str, ...],
    where: str,
    sign: str,
) -> KeyTuple | None:
    sql = (
        f"SELECT {_texts(source, columns)} FROM {source.item} WHERE {where} "
        f"ORDER BY {source.keys.ordered(columns, sign)} LIMIT 1"
    )
    return source.keys.key_of(columns, cursor.execute(sql.encode()).fetchone())


def _compare(
    cursor: Cursor[tuple[Any, ...]], source: KeySource, columns: tuple[str, ...], key: KeyTuple
) -> None:
    """A page's own question, before anything rests on it: what the server cannot compare with a
    literal is no key. Raises by SQLSTATE."""
    where = source.keys.row_comparison(columns, ">=", key)
    order = source.keys.key_list(columns)
    sql = f"SELECT 1 FROM {source.item} WHERE {where} ORDER BY {order} LIMIT 1"
    cursor.execute(sql.encode())


def key_at(
    cursor: Cursor[tuple[Any, ...]],
    source: KeySource,
    columns: tuple[str, ...],
    after: tuple[KeyTuple | None, str, int],
) -> KeyTuple | None:
    """One step of a walk; see ``keywalk.KeyAt``."""
    key, operator, skip = after
    where = (
        _not_null(columns) if key is None else source.keys.row_comparison(columns, operator, key)
    )
    sql = (
        f"SELECT {_texts(source, columns)} FROM {source.item} WHERE {where} "
        f"ORDER BY {source.keys.key_list(columns)} LIMIT 1 OFFSET {skip}"
    )
    return source.keys.key_of(columns, cursor.execute(sql.encode()).fetchone())


def count_between(
    cursor: Cursor[tuple[Any, ...]], source: KeySource, column: str, window: tuple[int, int, int]
) -> int:
    """Rows with a key in ``[low, high)``, counted up to ``most``."""
    low, high, most = window
    where = " AND ".join(
        source.keys.span_comparison(column, sign, str(end))
        for sign, end in ((">=", low), ("<", high))
    )
    some = f"SELECT 1 FROM {source.item} WHERE {where} LIMIT {most}"
    sql = f"SELECT pg_catalog.count(*) FROM ({some}) AS w"
    row = cursor.execute(sql.encode()).fetchone()
    return int(row[0]) if row else 0


def _has_nulls(
    cursor: Cursor[tuple[Any, ...]], source: KeySource, columns: tuple[str, ...]
) -> bool:
    where = " OR ".join(f"{column_ref(name)} IS NULL" for name in columns)
    sql = f"SELECT 1 FROM {source.item} WHERE {where} LIMIT 1"
    return cursor.execute(sql.encode()).fetchone() is not None


_STATISTICS = """
SELECT {bounds}, n.nspname, r.typname,
       coalesce((SELECT sum(f) FROM unnest(s.most_common_freqs) AS f), 0)
FROM pg_catalog.pg_stats s
JOIN pg_catalog.pg_attribute a ON a.attrelid = %s AND a.attname = s.attname
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
JOIN pg_catalog.pg_type r ON r.oid = t.typarray
JOIN pg_catalog.pg_namespace n ON n.oid = r.typnamespace
WHERE s.schemaname = %s AND s.tablename = %s AND s.attname = %s AND s.inherited = %s
  AND s.histogram_bounds IS NOT NULL
"""


def _histogram(
    cursor: Cursor[tuple[Any, ...]],
    source: KeySource,
    columns: tuple[str, ...],
    boundaries_max: int,
) -> tuple[KeyTuple, ...]:
    """The histogram's bounds, sorted by the server with the column's own collation."""
    relation, keys = source.relation, source.keys
    if relation is None or len(columns) != 1 or not source.fresh_statistics:
        return ()
    inherited = relation.kind == "p" or relation.inheritance_parent
    statistics = _STATISTICS.format(bounds=keys.travelling("s.histogram_bounds::pg_catalog.text"))
    with own_path(cursor):
        found = cursor.execute(
            statistics.encode(),
            (relation.oid, relation.name.schema, relation.name.name, columns[0], inherited),
        ).fetchone()
    if found is None or found[3] > HISTOGRAM_COMMON_MAX:
        return ()
    bounds, schema, array, _ = found
    own = quote_identifier(columns[0])
    # An empty branch of the real column lends the bounds its collation. The bounds are a literal:
    # where a driver's placeholder stands, no name may hold a percent sign.
    values = keys.text_literal(keys.arrived(bounds))
    array = f"{quote_identifier(schema)}.{quote_identifier(array)}"
    sql = (
        f"SELECT DISTINCT ON ({column_ref(columns[0])}) {keys.text(columns[0])} FROM ("
        f"SELECT {column_ref(columns[0])} AS {own} FROM {source.item} WHERE false "
        f"UNION ALL SELECT pg_catalog.unnest({values}::{array})) AS {ALIAS} "
        f"ORDER BY {column_ref(columns[0])}"
    )
    rows = cursor.execute(sql.encode()).fetchall()
    return _thin(_keys_of(source, columns, rows[1:-1]), boundaries_max)


def _keys_of(
    source: KeySource, columns: tuple[str, ...], rows: list[tuple[Any, ...]]
) -> list[KeyTuple]:
    found = [source.keys.key_of(columns, row) for row in rows]
    return [key for key in found if key is not None]


def _thin(rows: list[KeyTuple], most: int) -> tuple[KeyTuple, ...]:
    """At most ``most`` of the rows, evenly spaced."""
    if len(rows) <= most:
        return tuple(rows)
    return tuple(rows[(2 * i + 1) * len(rows) // (2 * most)] for i in range(most))


def _sample(
    cursor: Cursor[tuple[Any, ...]],
    source: KeySource,
    columns: tuple[str, ...],
    boundaries_max: int,
) -> tuple[KeyTuple, ...]:
    """Row quantiles of a bounded sample: numbered in key order, thinned, then made distinct."""
    if source.sampled is None:
        return ()
    keys = ", ".join(column_ref(name) for name in columns)
    # The type's default class orders here, too: no operator is looked up.
    sql = (
        f"SELECT DISTINCT ON ({keys}) {_texts(source, columns)} FROM ("
        f"SELECT {ALIAS}.*, pg_catalog.row_number() OVER (ORDER BY {keys}) AS _rivet_n, "
        f"pg_catalog.count(*) OVER () AS _rivet_total FROM ("
        f"SELECT {keys} FROM {source.sampled} WHERE {_not_null(columns)}) AS {ALIAS}) AS {ALIAS} "
        f"WHERE pg_catalog.mod(_rivet_n, greatest(_rivet_total "
        f"OPERATOR(pg_catalog./) {boundaries_max}::pg_catalog.int8, 1::pg_catalog.int8)) "
        f"OPERATOR(pg_catalog.=) 0::pg_catalog.int8 "
        f"AND _rivet_n OPERATOR(pg_catalog.<) _rivet_total ORDER BY {keys}"
    )
    rows = cursor.execute(sql.encode()).fetchall()
    return _thin(_keys_of(source, columns, rows), boundaries_max)


METADATA_TIMEOUT_S = 30.0
_KEYS_MAX = 8
_UNORDERABLE = (TypeKind.FLOAT32, TypeKind.FLOAT64, TypeKind.LIST, TypeKind.JSON)


# ---------------------------------------------------------------- indexes

_INDEXES = """
SELECT c.relname, i.indisunique, i.indisprimary, i.indisvalid, i.indisready,
       i.indpred IS NOT NULL, k.expressions, k.columns,
       am.amname = 'btree' AND k.same_collation
         AND (k.option_min = k.option_max AND k.option_min IN (0, 3)), k.classes
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_am am ON am.oid = c.relam
CROSS JOIN LATERAL (
  SELECT array_agg(a.attname::text ORDER BY p.n) FILTER (WHERE a.attname IS NOT NULL) AS columns,
         bool_or(i.indkey[p.n] = 0) AS expressions,
         bool_and(i.indcollation[p.n] = coalesce(a.attcollation, 0)) AS same_collation,
         array_agg(coalesce(o.opcfamily || '/' || o.opcintype, '') ORDER BY p.n) AS classes,
         min(i.indoption[p.n]) AS option_min, max(i.indoption[p.n]) AS option_max
  FROM generate_series(0, i.indnkeyatts - 1) AS p(n)
  LEFT JOIN pg_catalog.pg_attribute a
    ON a.attrelid = i.indrelid AND a.attnum = i.indkey[p.n] AND a.attnum > 0
  LEFT JOIN pg_catalog.pg_opclass o ON o.oid = i.indclass[p.n]
) k
WHERE i.indrelid = %s
ORDER BY i.indisprimary DESC, i.indisunique DESC, c.relname
"""
# Only an index whose collation, operator class and direction are those of a plain ORDER BY can
# be walked in key order; INCLUDE columns lie behind indnkeyatts.


def indexes(
    cursor: Cursor[tuple[Any, ...]], relation: Relation, orders: Mapping[str, KeyOrder]
) -> tuple[IndexFacts, ...]:
    """Every index; uniqueness of an inheritance parent says nothing about its children."""
    keys = Keys(orders)
    covers_all = not relation.inheritance_parent
    found = []
    for row in cursor.execute(_INDEXES, (relation.oid,)).fetchall():
        name, unique, primary, valid, ready, partial, expressions, columns, ordered, classes = row
        names = tuple(columns or ())
        found.append(
            IndexFacts(
                name=name,
                columns=names,
                unique=unique and covers_all,
                primary=primary and covers_all,
                valid=valid,
                ready=ready,
                partial=partial,
                expression=bool(expressions),
                ordered=bool(ordered) and covers_all and _in_order(orders, names, classes),
                obstacle=keys.obstacle(names),
            )
        )
    return tuple(found)


def _in_order(orders: Mapping[str, KeyOrder], columns: tuple[str, ...], classes: list[str]) -> bool:
    """True when each column is indexed by the class that its ORDER BY takes: citext by text's
    class is ordered, but not so."""
    own = [orders[name].order_class if name in orders else None for name in columns]
    return own == classes


# ---------------------------------------------------------------- keys


def usable_keys(
    columns: tuple[ColumnFacts, ...], indexes: tuple[IndexFacts, ...]
) -> tuple[tuple[str, ...], ...]:
    """The column tuples a keyset can walk: unique, whole, ordered, NOT NULL, exact as text."""
    by_name = {column.name: column for column in columns}
    found: list[tuple[str, ...]] = []
    for index in indexes:
        sound = index.unique and index.valid and index.ready and index.ordered
        if not sound or index.partial or index.expression or index.obstacle:
            continue
        keys = [by_name.get(name) for name in index.columns]
        if all(key is not None and not key.nullable and orderable(key) for key in keys):
            found.append(index.columns)
    return tuple(dict.fromkeys(found))


def orderable(column: ColumnFacts) -> bool:
    """True when the column's text stands exactly for its place in the order."""
    return column.type is None or column.type.kind not in _UNORDERABLE


def describe_keys(
    session: Session,
    request: FactsRequest,
    source: KeySource,
    columns: tuple[ColumnFacts, ...],
    indexes: tuple[IndexFacts, ...],
    warnings: list[str],
) -> tuple[tuple[KeyFacts, ...], tuple[IndexFacts, ...]]:
    """What is known of the keys, and the indexes: without those that turned out to be none. A
    strange key ends no planning; the one that was asked for is refused by its name."""
    usable = usable_keys(columns, indexes)
    asked = (_requested(request, columns),) if request.key_columns else None
    by_name = {column.name: column for column in columns}
    found = []
    for names in asked or usable[:_KEYS_MAX]:
        shown = f"key ({', '.join(names)})"
        obstacle = source.keys.obstacle(names)
        try:
            if obstacle is None:
                unique = any(set(key) <= set(names) for key in usable)
                found.append(
                    _described(session, request, source, names, by_name, indexes, unique=unique)
                )
        except StatementTimeout:
            warnings.append(
                f"{shown} could not be described within {METADATA_TIMEOUT_S:.0f} s: "
                "is there an index on it?"
            )
        except SourceRefused as error:
            obstacle = error.message
        if obstacle is not None and asked:
            raise SourceRefused(
                f"export {request.export_name}: {shown} cannot be one: {obstacle}",
                hint="cut the export by another column, or leave the choice to the plan",
            )
        if obstacle is not None:
            warnings.append(f"export {request.export_name}: {shown} is left out: {obstacle}")
            indexes = tuple(
                replace(index, obstacle=obstacle) if index.columns == names else index
                for index in indexes
            )
    return tuple(found), indexes


def _described(
    session: Session,
    request: FactsRequest,
    source: KeySource,
    names: tuple[str, ...],
    by_name: Mapping[str, ColumnFacts],
    indexes: tuple[IndexFacts, ...],
    *,
    unique: bool,
) -> KeyFacts:
    """One key. Raises StatementTimeout, and SourceRefused for what the server cannot compare."""
    with session.reading(
        (*metadata_settings(METADATA_TIMEOUT_S, source.own), *KEY_WALK[:1]),
        doing=f"looking at the key ({', '.join(names)})",
        timeout_s=METADATA_TIMEOUT_S,
    ) as cursor:
        facts = key_facts(
            cursor,
            source,
            names,
            nullable=any(by_name[name].nullable for name in names),
            unique=unique,
            boundaries_max=request.boundaries_max,
            finite=len(names) == 1 and _is_moment(by_name[names[0]]),
        )
    if request.probe_density and leading_index(indexes, names):
        facts = _probed(session, source, facts, by_name[names[0]])
    if request.walk_rows is not None and leading_index(indexes, names):
        facts = _walked(session, source, facts, request.walk_rows)
    return facts


def _probed(session: Session, source: KeySource, facts: KeyFacts, column: ColumnFacts) -> KeyFacts:
    """How densely a whole-number key is filled, where the statistics leave it in doubt."""
    whole = column.type is not None and column.type.kind in INTEGERS
    if not whole or len(facts.columns) > 1 or not facts.minimum or not facts.maximum:
        return facts
    first, last = int(facts.minimum[0]), int(facts.maximum[0])
    if not worth_probing(source.rows, source.rows_from, last - first + 1):
        return facts

    def count(low: int, high: int, most: int) -> int:
        with session.reading(
            metadata_settings(METADATA_TIMEOUT_S, source.own),
            doing=f"probing the key ({column.name})",
            timeout_s=METADATA_TIMEOUT_S,
        ) as cursor:
            return count_between(cursor, source, column.name, (low, high, most))

    return replace(facts, probed=probe(count, first, last))


def _is_moment(column: ColumnFacts) -> bool:
    return column.type is not None and column.type.kind in MOMENTS


def _walked(session: Session, source: KeySource, facts: KeyFacts, every: int) -> KeyFacts:
    """Exact boundaries. Every step is a transaction of its own: a walk may take minutes."""

    def step(key: KeyTuple | None, operator: str, skip: int) -> KeyTuple | None:
        with session.reading(
            (*metadata_settings(METADATA_TIMEOUT_S, source.own), *KEY_WALK),
            doing=f"walking the key ({', '.join(facts.columns)})",
            timeout_s=METADATA_TIMEOUT_S,
        ) as cursor:
            return key_at(cursor, source, facts.columns, (key, operator, skip))

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
                hint="choose an integer, timestamp, uuid or text column",
            )
    return request.key_columns
