"""Which indexes can carry a read from its first row to its last. Pure.

A key is unique, NOT NULL in every column, covers every row, and is ordered by the server.
Whatever is in doubt is no key: paging by it would lose rows (bug classes 28, 31).
"""

from __future__ import annotations

from rivet_fleet.contracts.columns import INTEGERS as INTEGERS
from rivet_fleet.contracts.columns import TypeKind
from rivet_fleet.contracts.facts import (
    ColumnFacts,
    IndexFacts,
    KeyFacts,
    SourceFacts,
    leading_index,
)

_NOT_KEYS = frozenset({TypeKind.FLOAT32, TypeKind.FLOAT64, TypeKind.LIST, TypeKind.JSON})
_RANKS = {TypeKind.UUID: 1, TypeKind.STRING: 2}


def column_of(facts: SourceFacts, name: str) -> ColumnFacts | None:
    """One column's facts, or None; of a query's key as its table has it."""
    known = (*(facts.table.columns if facts.table else ()), *facts.columns)
    return next((column for column in known if column.name == name), None)


def key_facts(facts: SourceFacts, columns: tuple[str, ...]) -> KeyFacts | None:
    """The samples of one key, or None when there are none."""
    return next((key for key in facts.keys if key.columns == columns), None)


def is_integer(facts: SourceFacts, columns: tuple[str, ...]) -> bool:
    """True for a single whole-number column."""
    column = column_of(facts, columns[0]) if len(columns) == 1 else None
    return column is not None and column.type is not None and column.type.kind in INTEGERS


def led_by(facts: SourceFacts, name: str) -> bool:
    """True when some index returns all rows in the order of this column."""
    return leading_index(facts.indexes, (name,)) is not None


def has_inheriting_children(facts: SourceFacts) -> bool:
    """True when the relation is a heap among others: its keys say nothing of its children.

    A partitioned table is no heap itself, and its unique indexes span every partition.
    """
    names = [heap.name for heap in facts.heaps]
    return len(names) > 1 and facts.relation in names


def why_not_a_key(facts: SourceFacts, index: IndexFacts) -> str | None:
    """The reason an index cannot be a key, or None when it can."""
    for wrong, reason in (
        (not index.unique, ": ".join(filter(None, ("is not unique", index.obstacle)))),
        (index.partial, "is partial: it does not cover every row"),
        (index.expression, "is on an expression"),
        (not index.valid, "is not valid"),
        (not index.ready, "is not ready yet"),
        (not index.ordered, "does not return rows in order"),
        (not index.columns, "has no columns"),
        (index.obstacle is not None, f"is no key: {index.obstacle}"),
        (not facts.capabilities.keyset, "cannot be paged on this source"),
        (
            len(index.columns) > 1 and not facts.capabilities.composite_keyset,
            "has several columns, which this source cannot page by",
        ),
    ):
        if wrong:
            return reason
    for name in index.columns:
        column = column_of(facts, name)
        if column is None or column.type is None:
            return f"uses column {name}, which cannot be read"
        if column.nullable:
            return f"uses column {name}, which may be NULL"
        if column.type.kind in _NOT_KEYS:
            return f"uses column {name} of type {column.native_type}, which is no exact key"
    if has_inheriting_children(facts):
        return "does not cover the tables that inherit from this one"
    key = key_facts(facts, index.columns)
    if key is not None and (key.has_nulls or not key.unique):
        return "was found to hold NULLs or repeated values"
    return None


def usable_keys(facts: SourceFacts) -> list[IndexFacts]:
    """Every index that can be a key, the best first.

    The primary key before other unique indexes; among equals integer, uuid, text, other,
    composite; then by name, so that the choice never depends on the catalogue's order.
    """
    usable = [index for index in facts.indexes if why_not_a_key(facts, index) is None]
    return sorted(usable, key=lambda index: (not index.primary, _rank(facts, index), index.name))


def _rank(facts: SourceFacts, index: IndexFacts) -> int:
    if len(index.columns) > 1:
        return 4
    if is_integer(facts, index.columns):
        return 0
    column = column_of(facts, index.columns[0])
    return _RANKS.get(column.type.kind, 3) if column and column.type else 3


def named(columns: tuple[str, ...]) -> str:
    """``(a, b)``."""
    return f"({', '.join(columns)})"
