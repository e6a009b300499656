"""Whether a query's rows are one table's, asked of the server: what its names stand for, which
columns come from where, which functions may answer twice, and how it would read them (ADR 0028).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import Cursor

from rivet_fleet.contracts.facts import IndexFacts, KeyedQuery, QueryTable
from rivet_fleet.contracts.keys import RelationName
from rivet_fleet.execution.engines.onetable import OneTable, Words, one_table
from rivet_fleet.execution.onestatement import Token, TokenKind
from rivet_fleet.execution.sources.postgres import catalog
from rivet_fleet.execution.sources.postgres.dialect import (
    ALIAS,
    LEXICAL,
    bare_query,
    from_item,
    quote_identifier,
)
from rivet_fleet.execution.sources.postgres.keyfacts import indexes as find_indexes
from rivet_fleet.execution.sources.postgres.keyorder import KeyOrder, key_orders

Row = Cursor[tuple[Any, ...]]


def _name(sql: str, piece: Token) -> str | None:
    text = sql[piece.start : piece.end]
    if piece.kind is TokenKind.QUOTED and text.startswith('"'):
        return text[1:-1].replace('""', '"')
    if piece.kind is not TokenKind.WORD or text[0].isdigit():
        return None
    return text.lower()


_CLOCK = (
    *("now", "today", "tomorrow", "yesterday", "current_date", "current_time"),
    *("current_timestamp", "localtime", "localtimestamp"),
)
WORDS = Words(
    name=_name,
    others=frozenset(("xmltable", "json_table")),
    clauses=frozenset(
        (
            *("in", "and", "or", "not", "where", "when", "then", "else", "case", "between", "to"),
            *("any", "all", "some", "row", "coalesce", "nullif", "select", "greatest", "least"),
            *("cast", "extract", "position", "trim", "numeric", "decimal", "dec", "varchar"),
            *("character", "char", "bit", "time", "timestamp", "interval", "float"),
        )
    ),
    # Manual, "SQL Key Words": no function's name but "can be function or type", or written like
    # a call of one.
    either=frozenset(
        ("like", "ilike", "similar", "is", "escape", "varying", "substring", "overlay"),
    ),
    moments=frozenset(_CLOCK),
    symbols=frozenset("$"),
)
_STEADY = (
    *("to_char", "to_date", "to_timestamp", "to_number", "date_trunc", "date_part", "extract"),
    *("timezone", "format", "concat", "concat_ws", "to_json", "to_jsonb", "row_to_json"),
    *("array_to_string", "array_to_json", "json_build_object", "jsonb_build_object"),
    *("json_build_array", "jsonb_build_array", "date_add", "date_subtract", "quote_nullable"),
)
"""Of the server's own functions that a setting decides, those that it alone decides: not the clock,
not a table, not the session. What decides is sealed with the query (``querysession``)."""
_CALLED = """
SELECT f.name FROM ROWS FROM (
  pg_catalog.unnest(%s::pg_catalog.text[]), pg_catalog.unnest(%s::pg_catalog.bool[])
) AS f(name, perhaps)
LEFT JOIN pg_catalog.pg_proc p ON p.proname = f.name
GROUP BY f.name, f.perhaps HAVING NOT pg_catalog.bool_and(coalesce(
  p.prokind = 'f' AND NOT p.proretset AND (p.provolatile = 'i' OR (
    p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace
    AND p.proname = ANY (%s::pg_catalog.text[]))), f.perhaps))
"""
# Every function of that name, in whatever schema: which of them is called is the server's to know.
_DEFINED = """
SELECT o.oprname::text FROM pg_catalog.pg_operator o
JOIN pg_catalog.pg_proc p ON p.oid = o.oprcode
WHERE o.oid >= 16384 AND p.provolatile <> 'i' AND o.oprname = ANY (%s::pg_catalog.text[])
UNION ALL
SELECT 'a cast by ' || p.proname FROM pg_catalog.pg_cast k
JOIN pg_catalog.pg_proc p ON p.oid = k.castfunc
WHERE k.oid >= 16384 AND p.provolatile = 'v'
LIMIT 1
"""
# Built-in operators and casts are never volatile.
_TABLE = """
SELECT c.oid, n.nspname::text, c.relname::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = %s::pg_catalog.oid AND c.relkind IN ('r', 'p')
"""
_READABLE = """
SELECT attname::text, attnum FROM pg_catalog.pg_attribute
WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped
  AND pg_catalog.has_column_privilege(attrelid, attnum, 'SELECT')
"""
_SYSTEM = frozenset(("ctid", "xmin", "xmax", "cmin", "cmax", "tableoid", "*"))
_TIMES = (1083, 1266)
"""time and timetz: one becomes the other, or is shifted, by the zone's offset of this very day."""
_MOMENTS = frozenset(("date", "time", "timetz", "timestamp", "timestamptz"))
_JOINING = frozenset(("concat", "concat_ws", "format"))
"""What makes one text of several: ``('no' || 'w')::timestamptz`` is the clock's."""
_KIND_SINCE = 110_000
"""The version since which the catalogue tells aggregates and windows from functions."""
_PLAIN_NODES = frozenset(
    (
        *("Limit", "Sort", "Incremental Sort", "Result", "Append", "Merge Append", "Seq Scan"),
        *("Index Scan", "Index Only Scan", "Bitmap Heap Scan", "Bitmap Index Scan", "BitmapOr"),
        *("BitmapAnd", "Tid Scan", "Tid Range Scan"),
    )
)
"""A plan of these alone looks at the table itself, with our conditions beside the query's: nothing
of the query stands between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The table, and what is known of its keys as far as the query can show them."""

    relation: catalog.Relation
    table: QueryTable
    indexes: tuple[IndexFacts, ...]
    orders: Mapping[str, KeyOrder]
    raw: tuple[catalog.RawColumn, ...]


def query_table(
    cursor: Row, query: str, result: tuple[catalog.RawColumn, ...], version_num: int
) -> Found | str:
    """The one table whose rows the query's are, or why it is not taken for one: the end of a
    sentence about it. Nothing of the query is run; on our own path, in the query's session. Raises
    SourceRefused, StatementTimeout."""
    one = one_table(bare_query(query), LEXICAL, WORDS)
    if isinstance(one, str):
        return one
    if version_num < _KIND_SINCE:
        return "this version of the server does not say which functions are aggregates"
    called = _doubtful_calls(cursor, one)
    if called is not None:
        return called
    with catalog.users_path(cursor):
        row = cursor.execute(
            "SELECT pg_catalog.to_regclass(%s)::pg_catalog.oid", [_written(one)]
        ).fetchone()
    row = cursor.execute(_TABLE, row or (None,)).fetchone()
    if row is None:
        return "what it reads from is no table"
    oid, schema, name = row
    if any(column.origin[0] not in (0, oid) for column in result):
        return "a column of it comes from elsewhere"
    relation = catalog.find_relation(cursor, RelationName(schema=schema, name=name))
    raw = catalog.relation_columns(cursor, relation)
    strange = one.dotted - {column.name for column in raw} - _SYSTEM
    if strange:
        # Written so, a function of the whole row is called like a column.
        return f"it asks its table for {min(strange)}, which is no column of it"
    joined = "||" in one.operators or {parts[-1] for parts in one.calls} & _JOINING
    if joined and one.made & _MOMENTS:
        return "a moment in it may be of a text that is put together: of the clock, even"
    used = one.used(returned_only=all(column.origin[0] for column in result))
    daily = {column.name for column in raw if column.type_oid in _TIMES} & used
    if daily:
        return f"with a zone {min(daily)}, a time of day, is one of today, for each page of its own"
    return _keyed(cursor, one, relation, raw, result)


def table_name(query: str) -> str | None:
    """The name that a query over one table reads, as the server is asked for it; None where it is
    not plainly one."""
    one = one_table(bare_query(query), LEXICAL, WORDS)
    return None if isinstance(one, str) else _written(one)


def _written(one: OneTable) -> str:
    return ".".join(map(quote_identifier, one.parts))


def _doubtful_calls(cursor: Row, one: OneTable) -> str | None:
    """A function, operator or cast that may answer twice."""
    names = {**dict.fromkeys(one.perhaps, True), **{parts[-1]: False for parts in one.calls}}
    asked = (list(names), list(names.values()), list(_STEADY))
    doubtful = cursor.execute(_CALLED, asked).fetchall() if names else []
    if doubtful:
        (name,) = min(doubtful)
        return f"it calls {name}, which may not answer row by row, and alike for each page"
    defined = cursor.execute(_DEFINED, (sorted(one.operators),)).fetchone()
    if defined is not None:
        return f"it may use {defined[0]}, which may not answer alike for each page"
    return None


def _keyed(
    cursor: Row,
    one: OneTable,
    relation: catalog.Relation,
    raw: tuple[catalog.RawColumn, ...],
    result: tuple[catalog.RawColumn, ...],
) -> Found | str:
    orders = key_orders(cursor, [(column.name, column.type_oid) for column in raw])
    # As the query's result speaks of columns; those that this role may read.
    numbers: dict[str, int] = dict(cursor.execute(_READABLE, [relation.oid]).fetchall())
    returned = {column.name: column.origin[1] for column in result}
    types = {column.name: column.native_type for column in raw}
    indexes, queries = [], []
    for index in find_indexes(cursor, relation, orders):
        added = [name for name in index.columns if name not in returned]
        known = {name: numbers.get(name) for name in index.columns}
        itself = all(returned.get(name, number) == number for name, number in known.items())
        if not itself or None in known.values() or (added and one.star):
            continue
        listed = [f"{one.reference}.{quote_identifier(name)}" for name in added]
        keyed = KeyedQuery(
            columns=index.columns,
            sql=one.with_columns(listed),
            added=tuple((name, types[name]) for name in added),
        )
        if index.unique and index.columns and _plain(cursor, keyed):
            indexes.append(index)
            queries.append(keyed)
    shown = {name for index in indexes for name in index.columns}
    columns = catalog.column_facts(cursor, tuple(one for one in raw if one.name in shown))
    table = QueryTable(relation=relation.name, columns=columns, queries=tuple(queries))
    return Found(relation=relation, table=table, indexes=tuple(indexes), orders=orders, raw=raw)


def _plain(cursor: Row, keyed: KeyedQuery) -> bool:
    """Whether the server reads the table itself, in the order of the key, for a page of it."""
    keys = ", ".join(f"{ALIAS}.{quote_identifier(name)}" for name in keyed.columns)
    page = f"SELECT {keys} FROM {from_item(None, keyed.sql)} ORDER BY {keys} LIMIT 1"
    with catalog.users_path(cursor):
        row = cursor.execute(f"EXPLAIN (FORMAT JSON) {page}".encode()).fetchone()
    plan = row[0] if row else None
    plan = json.loads(plan) if isinstance(plan, str) else plan
    return isinstance(plan, list) and set(_nodes(plan[0]["Plan"])) <= _PLAIN_NODES


def _nodes(plan: Mapping[str, Any]) -> Iterator[str]:
    yield str(plan["Node Type"])
    for below in plan.get("Plans", ()):
        yield from _nodes(below)
