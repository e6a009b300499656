"""Key facts: minimum, maximum and row quantiles of a candidate key, in the server's order.

Nothing here counts or scans a table: extremes are index look-ups, quantiles come from the
server's histogram or from a bounded block sample. Values travel as the server's own text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg import Cursor

from rivet_fleet.contracts.columns import TypeKind
from rivet_fleet.contracts.facts import ColumnFacts, IndexFacts, KeyFacts
from rivet_fleet.contracts.keys import KeyTuple
from rivet_fleet.execution.sources.postgres.catalog import Relation
from rivet_fleet.execution.sources.postgres.dialect import ALIAS, quote_literal, quote_relation
from rivet_fleet.execution.sources.postgres.statements import (
    column_ref,
    key_list,
    row_comparison,
    span_comparison,
)

SAMPLE_BLOCKS_MAX = 2_000
"""Blocks one sample reads at most (16 MB): enough for a thousand quantiles."""
SAMPLE_ROWS_MAX = 200_000
HISTOGRAM_COMMON_MAX = 0.1
"""Above this share of rows in the most common values the histogram speaks for too few rows."""
HISTOGRAM_GROWTH_MAX = 1.5
"""A table this many times larger than when it was analysed has outgrown its histogram."""
_UNORDERABLE = (TypeKind.FLOAT32, TypeKind.FLOAT64, TypeKind.LIST, TypeKind.JSON)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySource:
    """Where the keys are sampled: a FROM item, and what is known about it.

    ``sampled`` is the FROM item of a bounded sample, None when none can be had.
    """

    item: str
    sampled: str | None
    relation: Relation | None
    fresh_statistics: bool
    rows: int | None = None
    rows_from: str = "none"


def table_sample(relation: Relation, blocks: int) -> str | None:
    """A FROM item that reads at most about ``SAMPLE_BLOCKS_MAX`` blocks of the table."""
    if relation.kind not in ("r", "p", "m"):
        return None
    name = f"{quote_relation(relation.name)} AS {ALIAS}"
    if blocks <= SAMPLE_BLOCKS_MAX:
        return name
    return f"{name} TABLESAMPLE SYSTEM ({100.0 * SAMPLE_BLOCKS_MAX / blocks:.6f})"


def query_sample(item: str) -> str:
    """The beginning of a query's rows: bounded, for queries that are estimated to be small."""
    return f"(SELECT * FROM {item} LIMIT {SAMPLE_ROWS_MAX}) AS {ALIAS}"


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
    return column.type is None or column.type.kind not in _UNORDERABLE


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
        where = f"{column_ref(columns[0])} > '-infinity' AND {column_ref(columns[0])} < 'infinity'"
    lowest = _extreme(cursor, source, columns, where, "ASC")
    highest = _extreme(cursor, source, columns, where, "DESC") if lowest else None
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


def _texts(columns: tuple[str, ...]) -> str:
    return ", ".join(f"{column_ref(name)}::text" for name in columns)


def _extreme(
    cursor: Cursor[tuple[Any, ...]],
    source: KeySource,
    columns: tuple[str, ...],
    where: str,
    direction: str,
) -> KeyTuple | None:
    order = ", ".join(f"{column_ref(name)} {direction}" for name in columns)
    sql = f"SELECT {_texts(columns)} FROM {source.item} WHERE {where} ORDER BY {order} LIMIT 1"
    row = cursor.execute(sql.encode()).fetchone()
    return tuple(row) if row else None


def key_at(
    cursor: Cursor[tuple[Any, ...]],
    source: KeySource,
    columns: tuple[str, ...],
    after: tuple[KeyTuple | None, str, int],
) -> KeyTuple | None:
    """One step of a walk; see ``keywalk.KeyAt``."""
    key, operator, skip = after
    where = _not_null(columns) if key is None else row_comparison(columns, operator, key)
    sql = (
        f"SELECT {_texts(columns)} FROM {source.item} WHERE {where} "
        f"ORDER BY {key_list(columns)} LIMIT 1 OFFSET {skip}"
    )
    row = cursor.execute(sql.encode()).fetchone()
    return tuple(row) if row else None


def count_between(
    cursor: Cursor[tuple[Any, ...]], source: KeySource, column: str, window: tuple[int, int, int]
) -> int:
    """Rows with a key in ``[low, high)``, counted up to ``most``."""
    low, high, most = window
    where = " AND ".join(
        (span_comparison(column, ">=", str(low)), span_comparison(column, "<", str(high)))
    )
    sql = f"SELECT count(*) FROM (SELECT 1 FROM {source.item} WHERE {where} LIMIT {most}) AS w"
    row = cursor.execute(sql.encode()).fetchone()
    return int(row[0]) if row else 0


def _has_nulls(
    cursor: Cursor[tuple[Any, ...]], source: KeySource, columns: tuple[str, ...]
) -> bool:
    where = " OR ".join(f"{column_ref(name)} IS NULL" for name in columns)
    sql = f"SELECT 1 FROM {source.item} WHERE {where} LIMIT 1"
    return cursor.execute(sql.encode()).fetchone() is not None


_STATISTICS = """
SELECT s.histogram_bounds::text, pg_catalog.format_type(a.atttypid, -1),
       coalesce((SELECT sum(f) FROM unnest(s.most_common_freqs) AS f), 0)
FROM pg_catalog.pg_stats s
JOIN pg_catalog.pg_attribute a ON a.attrelid = %s AND a.attname = s.attname
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
    relation = source.relation
    if relation is None or len(columns) != 1 or not source.fresh_statistics:
        return ()
    inherited = relation.kind == "p" or relation.inheritance_parent
    found = cursor.execute(
        _STATISTICS.encode(),
        (relation.oid, relation.name.schema, relation.name.name, columns[0], inherited),
    ).fetchone()
    if found is None or found[2] > HISTOGRAM_COMMON_MAX:
        return ()
    bounds, native_type, _ = found
    # An empty branch of the real column lends the bounds its collation. The bounds are a literal:
    # where a driver's placeholder stands, no name may hold a percent sign.
    sql = (
        f"SELECT DISTINCT ON (b.v) b.v::text FROM ("
        f"SELECT {column_ref(columns[0])} AS v FROM {source.item} WHERE false "
        f"UNION ALL SELECT unnest({quote_literal(bounds)}::text::{native_type}[])) AS b "
        f"ORDER BY b.v"
    )
    rows = cursor.execute(sql.encode()).fetchall()
    return _thin([tuple(row) for row in rows[1:-1]], boundaries_max)


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
    keys = [f"k{index}" for index in range(len(columns))]
    named = ", ".join(
        f"{column_ref(name)} AS {key}" for name, key in zip(columns, keys, strict=True)
    )
    distinct = ", ".join(f"q.{key}" for key in keys)
    sql = (
        f"SELECT DISTINCT ON ({distinct}) {', '.join(f'q.{key}::text' for key in keys)} FROM ("
        f"SELECT s.*, row_number() OVER (ORDER BY {', '.join(f's.{key}' for key in keys)}) AS n, "
        f"count(*) OVER () AS total FROM ("
        f"SELECT {named} FROM {source.sampled} WHERE {_not_null(columns)}) AS s) AS q "
        f"WHERE q.n % greatest(q.total / {boundaries_max}, 1) = 0 AND q.n < q.total "
        f"ORDER BY {distinct}"
    )
    rows = cursor.execute(sql.encode()).fetchall()
    return _thin([tuple(row) for row in rows], boundaries_max)
