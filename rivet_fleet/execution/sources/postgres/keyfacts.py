"""Which keys a table or a query has, and what the server knows of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from psycopg import Cursor

from rivet_fleet.contracts.columns import TypeKind
from rivet_fleet.contracts.facts import ColumnFacts, IndexFacts
from rivet_fleet.contracts.keys import KeyTuple
from rivet_fleet.execution.engines.facts import (
    METADATA_TIMEOUT_S,
    Keyed,
    KeyProbe,
    Look,
    Size,
    thinned,
)
from rivet_fleet.execution.sources.postgres.catalog import Relation, oids_of, own_path
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
_UNORDERABLE = (TypeKind.FLOAT32, TypeKind.FLOAT64, TypeKind.LIST, TypeKind.JSON)
_NUDGES = {Look.ENDS: KEY_WALK[:1], Look.WINDOW: (), Look.STEP: KEY_WALK}


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


class PostgresKeys(Keyed[Cursor[tuple[Any, ...]]]):
    """The keys of one table or query; see ``Keyed``."""

    keys: Keys

    def __init__(
        self,
        session: Session,
        columns: tuple[ColumnFacts, ...],
        indexes: tuple[IndexFacts, ...],
        size: Size,
        keys: Keys,
        *,
        item: str,
        sampled: str | None,
        relation: Relation | None = None,
        own: Own = (),
    ) -> None:
        """``item``: what stands after FROM. ``sampled``: the FROM item of a bounded sample, None
        when none can be had. ``relation``: whose histograms speak for its rows; None where none
        do. ``own``: of a query, the session that it is read in."""
        super().__init__(columns, indexes, size, keys)
        self._session, self._own = session, own
        self._item, self._sampled, self._relation = item, sampled, relation

    def asking(self, look: Look, shown: str) -> AbstractContextManager[Cursor[tuple[Any, ...]]]:
        """A transaction of its own, on the user's path."""
        return self._session.reading(
            (*metadata_settings(METADATA_TIMEOUT_S, self._own), *_NUDGES[look]),
            doing=f"{look.value} the key ({shown})",
            timeout_s=METADATA_TIMEOUT_S,
        )

    def rows(self, at: Cursor[tuple[Any, ...]], sql: str) -> list[tuple[Any, ...]]:
        """Every row."""
        return at.execute(sql.encode()).fetchall()

    def item(self, columns: tuple[str, ...]) -> str:
        """The same for every key: the server finds the index."""
        return self._item

    def orderable(self, column: ColumnFacts) -> bool:
        """Neither floats nor what holds several values."""
        return column.type is None or column.type.kind not in _UNORDERABLE

    def unfit(self, column: ColumnFacts) -> tuple[str, str] | None:
        """What has no exact order."""
        if self.orderable(column):
            return None
        return (
            f"column {column.name} ({column.native_type}) cannot be a chunk key",
            "choose an integer, timestamp, uuid or text column",
        )

    def quoted(self, name: str) -> str:
        """In double quotes."""
        return quote_identifier(name)

    def obstacle(self, columns: tuple[str, ...]) -> str | None:
        """What has no operators that compare it."""
        return self.keys.obstacle(columns)

    def finite(self, name: str) -> str:
        """Neither of the two infinities."""
        return " AND ".join(
            self.keys.span_comparison(name, sign, end)
            for sign, end in ((">", "-infinity"), ("<", "infinity"))
        )

    def boundaries(
        self,
        at: Cursor[tuple[Any, ...]],
        probe: KeyProbe,
        lowest: KeyTuple,
        highest: KeyTuple | None,
        most: int,
    ) -> tuple[tuple[KeyTuple, ...], str]:
        """From the histogram, or from a sample."""
        self._compare(at, probe, lowest)
        if most <= 0:
            return (), "none"
        if found := self._histogram(at, probe.columns, most):
            return found, "histogram"
        return self._sample(at, probe, most), "sample"

    def _compare(self, at: Cursor[tuple[Any, ...]], probe: KeyProbe, key: KeyTuple) -> None:
        """A page's own question, before anything rests on it: what the server cannot compare with
        a literal is no key. Raises by SQLSTATE."""
        where = self.keys.row_comparison(probe.columns, ">=", key)
        order = self.keys.key_list(probe.columns)
        self.rows(at, f"SELECT 1 FROM {probe.item} WHERE {where} ORDER BY {order} LIMIT 1")

    def _histogram(
        self, cursor: Cursor[tuple[Any, ...]], columns: tuple[str, ...], most: int
    ) -> tuple[KeyTuple, ...]:
        """The histogram's bounds, sorted by the server with the column's own collation."""
        relation, keys = self._relation, self.keys
        if relation is None or len(columns) != 1:
            return ()
        inherited = relation.kind == "p" or relation.inheritance_parent
        statistics = _STATISTICS.format(
            bounds=keys.travelling("s.histogram_bounds::pg_catalog.text")
        )
        with own_path(cursor):
            found = cursor.execute(
                statistics.encode(),
                (relation.oid, relation.name.schema, relation.name.name, columns[0], inherited),
            ).fetchone()
        if found is None or found[3] > HISTOGRAM_COMMON_MAX:
            return ()
        bounds, schema, array, _ = found
        own = quote_identifier(columns[0])
        # An empty branch of the real column lends the bounds its collation. The bounds are a
        # literal: where a driver's placeholder stands, no name may hold a percent sign.
        values = keys.text_literal(keys.arrived(bounds))
        array = f"{quote_identifier(schema)}.{quote_identifier(array)}"
        rows = self.rows(
            cursor,
            f"SELECT DISTINCT ON ({column_ref(columns[0])}) {keys.text_expression(columns[0])} "
            f"FROM (SELECT {column_ref(columns[0])} AS {own} FROM {self._item} WHERE false "
            f"UNION ALL SELECT pg_catalog.unnest({values}::{array})) AS {ALIAS} "
            f"ORDER BY {column_ref(columns[0])}",
        )
        return thinned(self._keys_of(columns, rows[1:-1]), most)

    def _sample(
        self, cursor: Cursor[tuple[Any, ...]], probe: KeyProbe, most: int
    ) -> tuple[KeyTuple, ...]:
        """Row quantiles of a bounded sample: numbered in key order, thinned, then made distinct."""
        if self._sampled is None:
            return ()
        keys = ", ".join(column_ref(name) for name in probe.columns)
        # The type's default class orders here, too: no operator is looked up.
        rows = self.rows(
            cursor,
            f"SELECT DISTINCT ON ({keys}) {probe.texts} FROM ("
            f"SELECT {ALIAS}.*, pg_catalog.row_number() OVER (ORDER BY {keys}) AS _rivet_n, "
            f"pg_catalog.count(*) OVER () AS _rivet_total FROM ("
            f"SELECT {keys} FROM {self._sampled} WHERE {probe.not_null}) AS {ALIAS}) AS {ALIAS} "
            f"WHERE pg_catalog.mod(_rivet_n, greatest(_rivet_total "
            f"OPERATOR(pg_catalog./) {most}::pg_catalog.int8, 1::pg_catalog.int8)) "
            f"OPERATOR(pg_catalog.=) 0::pg_catalog.int8 "
            f"AND _rivet_n OPERATOR(pg_catalog.<) _rivet_total ORDER BY {keys}",
        )
        return thinned(self._keys_of(probe.columns, rows), most)

    def _keys_of(self, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[KeyTuple]:
        found = [self.keys.key_of(columns, row) for row in rows]
        return [key for key in found if key is not None]


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


# ---------------------------------------------------------------- indexes

_INDEXES = """
SELECT i.indrelid, c.relname, i.indisunique, i.indisprimary, i.indisvalid, i.indisready,
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
WHERE i.indrelid = ANY (%s::pg_catalog.oid[])
ORDER BY i.indrelid, i.indisprimary DESC, i.indisunique DESC, c.relname
"""
# Only an index whose collation, operator class and direction are those of a plain ORDER BY can
# be walked in key order; INCLUDE columns lie behind indnkeyatts.


def indexes(
    cursor: Cursor[tuple[Any, ...]], relation: Relation, orders: Mapping[str, KeyOrder]
) -> tuple[IndexFacts, ...]:
    """Every index; uniqueness of an inheritance parent says nothing about its children."""
    return indexes_of(relation, orders, index_rows(cursor, [relation]).get(relation.oid, ()))


def index_rows(
    cursor: Cursor[tuple[Any, ...]], relations: Sequence[Relation]
) -> dict[int, list[tuple[Any, ...]]]:
    """What the catalogue says of the indexes of each relation, by its OID; for ``indexes_of``."""
    found: dict[int, list[tuple[Any, ...]]] = {}
    for oid, *row in cursor.execute(_INDEXES, (oids_of(relations),), prepare=True):
        found.setdefault(oid, []).append(tuple(row))
    return found


def indexes_of(
    relation: Relation, orders: Mapping[str, KeyOrder], rows: Iterable[tuple[Any, ...]]
) -> tuple[IndexFacts, ...]:
    """As ``indexes``, of what was asked already."""
    keys = Keys(orders)
    covers_all = not relation.inheritance_parent
    found = []
    for row in rows:
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
