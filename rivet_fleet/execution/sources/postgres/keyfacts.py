"""Which keys a table or a query has, and what is known of each.

A key that cannot be described in time, or that the server cannot compare, is left out with its
reason: one strange key ends no planning. The one that the user asked for is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
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
from rivet_fleet.execution.densityprobe import probe, worth_probing
from rivet_fleet.execution.keywalk import WALKED_BOUNDARIES_MAX, walk_keys
from rivet_fleet.execution.sources.postgres.catalog import Relation
from rivet_fleet.execution.sources.postgres.dialect import quote_identifier
from rivet_fleet.execution.sources.postgres.keyorder import KeyOrder, Keys
from rivet_fleet.execution.sources.postgres.keysamples import (
    KeySource,
    count_between,
    key_at,
    key_facts,
)
from rivet_fleet.execution.sources.postgres.session import Session
from rivet_fleet.execution.sources.postgres.statements import KEY_WALK, metadata_settings

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
    with session.transaction(
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
        with session.transaction(
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
        with session.transaction(
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
