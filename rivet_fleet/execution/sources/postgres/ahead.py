"""What the catalogue says of relations, asked for one or for many at once (ADR 0033).

Planning hundreds of small tables is hundreds of times the same questions: they take the OIDs of
all relations, and every answer begins with the one it is about. A relation itself is not touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import Cursor

from rivet_fleet.contracts.basis import BasisFact
from rivet_fleet.contracts.facts import ColumnFacts, IndexFacts
from rivet_fleet.contracts.keys import RelationName
from rivet_fleet.errors import SourceRefused
from rivet_fleet.execution.engines.facts import METADATA_TIMEOUT_S
from rivet_fleet.execution.engines.source import Ahead
from rivet_fleet.execution.sources.postgres import catalog, keyfacts
from rivet_fleet.execution.sources.postgres.basis import Basis
from rivet_fleet.execution.sources.postgres.changes import changes_of
from rivet_fleet.execution.sources.postgres.dialect import catalog_settings
from rivet_fleet.execution.sources.postgres.heaps import Heaps, heap_rows, heaps_of
from rivet_fleet.execution.sources.postgres.keyorder import KeyOrder, type_orders
from rivet_fleet.execution.sources.postgres.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What the catalogue says of one relation; nothing of it asks the relation itself."""

    relation: catalog.Relation
    hidden: tuple[str, ...]
    """Columns that the user may not read."""
    columns: tuple[ColumnFacts, ...]
    orders: Mapping[str, KeyOrder]
    indexes: tuple[IndexFacts, ...]
    heaps: Heaps
    basis: tuple[BasisFact, ...]


def look_ahead(
    session: Session, basis: Basis, wanted: Sequence[RelationName]
) -> dict[RelationName, Ahead]:
    """What ``introspect`` begins with, of many relations in as many statements as of one. Raises
    SourceError."""
    with session.reading(
        catalog_settings(METADATA_TIMEOUT_S),
        doing=f"looking at {len(wanted)} tables",
        timeout_s=METADATA_TIMEOUT_S,
    ) as cursor:
        named = catalog.find_relations(cursor, wanted)
        relations = [one for one in named.values() if isinstance(one, catalog.Relation)]
        # Before anything else: what changes from now on is counted.
        changes = changes_of(session, cursor, relations)
        looked = look(cursor, basis, relations) if relations else {}
    return {
        name: Ahead(found=one)
        if isinstance(one, SourceRefused)
        else Ahead(found=looked[one.oid], changes=changes.get(one.oid))
        for name, one in named.items()
    }


def look(
    cursor: Cursor[tuple[Any, ...]], basis: Basis, relations: Sequence[catalog.Relation]
) -> dict[int, Looked]:
    """At each relation, by its OID."""
    hidden = catalog.unreadable(cursor, relations)
    raw = catalog.relations_columns(cursor, relations)
    every = [column for columns in raw.values() for column in columns]
    types = catalog.catalog_types(cursor, every)
    orders = type_orders(cursor, (column.type_oid for column in every))
    indexes, heaps = keyfacts.index_rows(cursor, relations), heap_rows(cursor, relations)
    rests_on = basis.of_relations(cursor, [one.name for one in relations])

    def looked(relation: catalog.Relation) -> Looked:
        own = raw.get(relation.oid, ())
        of = {one.name: orders[one.type_oid] for one in own if one.type_oid in orders}
        return Looked(
            relation=relation,
            hidden=tuple(hidden.get(relation.oid, ())),
            columns=catalog.column_facts(cursor, own, types),
            orders=of,
            indexes=keyfacts.indexes_of(relation, of, indexes.get(relation.oid, ())),
            heaps=heaps_of(relation, heaps.get(relation.oid, ())),
            basis=rests_on[relation.name],
        )

    return {one.oid: looked(one) for one in relations}
