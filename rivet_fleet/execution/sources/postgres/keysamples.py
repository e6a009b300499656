"""Key facts: minimum, maximum and row quantiles of a candidate key, in the server's order.

Nothing here counts or scans a table: extremes are index look-ups, quantiles come from the
server's histogram or from a bounded block sample. Values travel as the server's own text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg import Cursor

from rivet_fleet.contracts.facts import KeyFacts
from rivet_fleet.contracts.keys import KeyTuple
from rivet_fleet.execution.sources.postgres.catalog import Relation, own_path
from rivet_fleet.execution.sources.postgres.dialect import (
    ALIAS,
    quote_identifier,
    quote_relation,
)
from rivet_fleet.execution.sources.postgres.keyorder import Keys
from rivet_fleet.execution.sources.postgres.querysession import Own
from rivet_fleet.execution.sources.postgres.statements import column_ref

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
