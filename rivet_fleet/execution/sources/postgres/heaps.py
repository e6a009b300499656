"""The heaps of a relation: their blocks, whose rights count in them, and the proof of a page that
they are still the planned ones.

A block number means a place in one heap. VACUUM FULL, CLUSTER, TRUNCATE, a swap by rename and a
refreshed materialized view put another heap in its place, and the same numbers then mean other
rows. So a page asks, in its own transaction, behind its lock and in its own snapshot.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from rivet_fleet.contracts.facts import PhysicalRelation
from rivet_fleet.contracts.keys import ChunkRange, RelationName
from rivet_fleet.contracts.plan import ReadPlan, SealedHeap
from rivet_fleet.errors import SchemaDrift
from rivet_fleet.execution.engines.session import whole
from rivet_fleet.execution.sources.postgres.catalog import Relation, Row, oids_of
from rivet_fleet.execution.sources.postgres.dialect import quote_literal, quote_relation

_TREE = """
WITH RECURSIVE tree(oid) AS (
  SELECT {root} UNION
  SELECT i.inhrelid FROM tree
  JOIN pg_catalog.pg_inherits i ON i.inhparent OPERATOR(pg_catalog.=) tree.oid
)
"""
_HEAPS = """
WITH RECURSIVE tree(root, oid) AS (
  SELECT w.oid, w.oid FROM pg_catalog.unnest(%s::pg_catalog.oid[]) AS w(oid) UNION
  SELECT tree.root, i.inhrelid FROM tree
  JOIN pg_catalog.pg_inherits i ON i.inhparent OPERATOR(pg_catalog.=) tree.oid
)
SELECT tree.root, n.nspname, c.relname, c.relkind::text, am.amname, c.reltuples, c.relpages,
       CASE WHEN c.relkind IN ('r', 'm') THEN
         coalesce(pg_catalog.pg_relation_size(c.oid), 0)
         / current_setting('block_size')::bigint END,
       c.oid, pg_catalog.pg_relation_filenode(c.oid), pg_catalog.row_security_active(c.oid),
       pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND (
         pg_catalog.has_table_privilege(c.oid, 'SELECT') OR NOT EXISTS (
           SELECT FROM pg_catalog.pg_attribute a
           WHERE a.attrelid = tree.root AND NOT a.attisdropped
             AND (a.attnum > 0 OR a.attname = 'ctid')
             AND NOT pg_catalog.has_column_privilege(c.oid, a.attname::text, 'SELECT'))),
       pg_catalog.has_table_privilege(tree.root, 'SELECT')
         OR pg_catalog.has_column_privilege(tree.root, -1::int2, 'SELECT')
FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.oid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam
WHERE c.relkind <> 'p'
ORDER BY tree.root, c.oid
"""
# Grants of columns cover no row's place: ``ctid`` is a column (number -1) to be granted, too.


@dataclass(frozen=True, slots=True, kw_only=True)
class Heaps:
    """The physical relations, or none with the reason why blocks cannot be ranged over."""

    heaps: tuple[PhysicalRelation, ...]
    analysed_blocks: int
    """``relpages`` when statistics were last taken, all heaps together."""
    obstacle: str | None = None
    rights_apart: str | None = None
    """See ``SourceFacts``."""


def heaps(cursor: Row, relation: Relation) -> Heaps:
    """Leaf partitions, the table with its inheritance children, or the table itself."""
    return heaps_of(relation, heap_rows(cursor, [relation]).get(relation.oid, ()))


def heap_rows(cursor: Row, relations: Sequence[Relation]) -> dict[int, list[tuple[Any, ...]]]:
    """What the catalogue says of the heaps of each relation, by its OID; for ``heaps_of``."""
    found: dict[int, list[tuple[Any, ...]]] = {}
    for root, *row in cursor.execute(_HEAPS.encode(), (oids_of(relations),), prepare=True):
        found.setdefault(root, []).append(tuple(row))
    return found


def heaps_of(relation: Relation, rows: Sequence[tuple[Any, ...]]) -> Heaps:
    """As ``heaps``, of what was asked already."""
    strange = [row for row in rows if row[2] not in ("r", "m") or row[3] != "heap"]
    if strange:
        schema, name = strange[0][:2]
        return Heaps(heaps=(), analysed_blocks=0, obstacle=f"{schema}.{name} is not a heap")
    found = tuple(
        PhysicalRelation(
            name=RelationName(schema=schema, name=name),
            blocks=blocks,
            row_estimate=_rows_now(tuples, pages, blocks),
            identity=f"{oid}/{filenode}",
        )
        for schema, name, _, _, tuples, pages, blocks, oid, filenode, *_ in rows
    )
    leaves = [(heap.name, *row[9:11]) for heap, row in zip(found, rows, strict=True)]
    below = [one for one in leaves if one[0] != relation.name]
    apart = _rights_apart(relation, below) if below else None
    by_its_name = apart is not None or len(below) < len(leaves)
    if by_its_name and rows and not rows[0][11]:
        return Heaps(heaps=(), analysed_blocks=0, obstacle=_NO_PLACES.format(relation.name))
    return Heaps(heaps=found, analysed_blocks=sum(row[5] for row in rows), rights_apart=apart)


_NO_PLACES = "the user may read the columns of {}, but not where its rows are (ctid)"


def _rows_now(tuples: float, pages: int, blocks: int) -> int | None:
    """As the server's planner does: the density of the last ANALYZE times today's size."""
    if blocks == 0:
        return 0
    if tuples < 0 or pages == 0:
        return None
    return round(tuples / pages * blocks)


def _rights_apart(relation: Relation, leaves: list[tuple[RelationName, bool, bool]]) -> str | None:
    """The server asks for the rights of what a statement names: of a leaf, when it is named."""
    if relation.row_security:
        return f"row-level security of {relation.name} is active, and its heaps do not obey it"
    hidden = [name for name, policies, _ in leaves if policies]
    if hidden:
        return f"row-level security of {hidden[0]} is active, and {relation.name} does not obey it"
    closed = [name for name, _, readable in leaves if not readable]
    if closed:
        return f"the user may read {relation.name}, but not {closed[0]} by itself"
    return None


def relation_blocks(cursor: Row, relation: RelationName, *, only: bool) -> int | None:
    """The size now in blocks, of the largest heap unless ``only``; None when it is gone."""
    root = f"pg_catalog.to_regclass({quote_literal(quote_relation(relation))})::pg_catalog.oid"
    tree = f"WITH tree(oid) AS (SELECT {root})" if only else _TREE.format(root=root)
    row = cursor.execute(
        f"{tree} SELECT max(pg_catalog.pg_relation_size(tree.oid))"
        " / current_setting('block_size')::bigint FROM tree".encode()
    ).fetchone()
    return None if row is None or row[0] is None else whole(row[0])


# ---------------------------------------------------------------- the proof

_MARK = "rivet-heap"
_MARKED = re.compile(rf"{_MARK}\((\w+)\)(.*)\({_MARK}\)", re.DOTALL)
_REWRITTEN = (
    "the table was rewritten while it was read (VACUUM FULL, CLUSTER, TRUNCATE, REFRESH or an "
    "ALTER TABLE): the planned block numbers mean other rows now"
)
_SAID = {
    "rewritten": _REWRITTEN,
    "swapped": "another table has this name now: the planned block numbers are not its own",
    "policies": "row-level security became active since it was planned: rows would be read by "
    "other rights than those of the relation that the export names",
    "rights": "the user may not read every column of it any more, although it still may read the "
    "heaps below",
    "leaves": "partitions or inheriting tables came or went while it was read: rows may have moved "
    "to where no chunk looks",
}
_NEXT = (
    "nothing of this export is delivered; `run --new` gives the campaign up and plans it again; a "
    "unique NOT NULL key makes a table independent of its heap"
)


def proof(read: ReadPlan, chunk_range: ChunkRange, *, last: bool) -> str | None:
    """The LIMIT of a page of blocks: none, but it fails the statement when the heap is not the
    planned one. The server evaluates it once, before the first row and for a heap without any,
    when the page has its lock; ``last``: also that no other heap holds rows of the relation by
    now, in the snapshot of the rows themselves. None for a plan of before heaps were sealed."""
    named, own = read.relation, chunk_range.relation
    if not read.heaps or named is None:
        return None
    cases = []
    if own is not None:
        (heap,) = (one for one in read.heaps if one.relation == own)
        cases += _own_heap(heap, named)
    if own is None or last:
        cases += _all_heaps(read.heaps, named, own)
    # NOT TRUE and not FALSE: of what is gone the answer is NULL.
    whens = " ".join(
        f"WHEN ({holds}) IS NOT TRUE THEN {_marked(code, about)}" for holds, code, about in cases
    )
    # Only a value that is not known before it runs may fail: constants are folded by the planner.
    return f"(SELECT (CASE {whens} END)::pg_catalog.int8)"


def _own_heap(heap: SealedHeap, named: RelationName) -> list[tuple[str, str, RelationName]]:
    oid, _, filenode = heap.identity.partition("/")
    mine = heap.relation
    cases = [
        (f"{_oid_of(mine)} OPERATOR(pg_catalog.=) {_oid(oid)}", "swapped", mine),
        (
            f"pg_catalog.pg_relation_filenode({_oid(oid)}) OPERATOR(pg_catalog.=) {_oid(filenode)}",
            "rewritten",
            mine,
        ),
    ]
    if mine != named:
        cases += [
            (f"{_oid_of(named)} IS NOT NULL", "swapped", named),
            (_readable(_oid_of(named)), "rights", named),
            (f"NOT pg_catalog.row_security_active({_oid(oid)})", "policies", mine),
            (f"NOT pg_catalog.row_security_active({_oid_of(named)})", "policies", named),
        ]
    return cases


def _readable(oid: str) -> str:
    return (
        f"pg_catalog.has_table_privilege({oid}, 'SELECT') OR NOT EXISTS ("
        f"SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid OPERATOR(pg_catalog.=) {oid}"
        " AND a.attnum OPERATOR(pg_catalog.>) 0::pg_catalog.int2 AND NOT a.attisdropped"
        f" AND NOT pg_catalog.has_column_privilege({oid}, a.attnum, 'SELECT'))"
    )


def _all_heaps(
    sealed: tuple[SealedHeap, ...], named: RelationName, own: RelationName | None
) -> list[tuple[str, str, RelationName]]:
    """Of the planned heaps each still belongs to the relation (the chunk's own, where it has
    one); any other is empty. Read through the relation, each must be the planned one, too."""
    pairs = [one.identity.split("/") for one in sealed]
    oids = _oids([oid for oid, _ in pairs])
    tree = _TREE.format(root=_oid_of(named))
    mine = [oid for one, (oid, _) in zip(sealed, pairs, strict=True) if own in (None, one.relation)]
    equal, other = "OPERATOR(pg_catalog.=)", "OPERATOR(pg_catalog.<>)"
    cases = [
        (
            f"{_oids(mine)} OPERATOR(pg_catalog.<@) ARRAY({tree} SELECT tree.oid FROM tree)"
            f" AND NOT EXISTS ({tree} SELECT FROM tree"
            f" JOIN pg_catalog.pg_class c ON c.oid {equal} tree.oid"
            f" WHERE c.relkind {other} 'p' AND c.oid {other} ALL ({oids}) AND"
            f" (c.relkind {other} ALL ('{{r,m}}'::pg_catalog.\"char\"[])"
            " OR pg_catalog.pg_relation_size(c.oid) OPERATOR(pg_catalog.>) 0::pg_catalog.int8))",
            "leaves",
            named,
        )
    ]
    if own is None:
        filenodes = _oids([filenode for _, filenode in pairs])
        cases.append(
            (
                f"NOT EXISTS (SELECT FROM ROWS FROM (pg_catalog.unnest({oids}),"
                f" pg_catalog.unnest({filenodes})) AS h(oid, node)"
                f" WHERE (pg_catalog.pg_relation_filenode(h.oid) {equal} h.node) IS NOT TRUE)",
                "rewritten",
                named,
            )
        )
    return cases


def _oid(number: str) -> str:
    return f"'{number}'::pg_catalog.oid"


def _oids(numbers: list[str]) -> str:
    return f"'{{{','.join(numbers)}}}'::pg_catalog.oid[]"


def _oid_of(relation: RelationName) -> str:
    return f"pg_catalog.to_regclass({quote_literal(quote_relation(relation))})::pg_catalog.oid"


def _marked(code: str, about: RelationName) -> str:
    return quote_literal(f"{_MARK}({code}){about}({_MARK})").strip()


def broken_seal(error: psycopg.Error) -> SchemaDrift | None:
    """What a page's proof said when it failed; None for every other error."""
    if error.sqlstate != "22P02" or (found := _MARKED.search(str(error))) is None:
        return None
    code, about = found.groups()
    return SchemaDrift(
        f"{about}: {_SAID.get(code, _REWRITTEN)}", hint=_NEXT, code="RIVET_HEAP_REWRITTEN"
    )
