"""Facts about one table or query: what the planner may know, gathered gently.

Every question runs in a short transaction with a limit; a key that cannot be described within
it is left out with a warning, because weak metadata may weaken a plan, never fail it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import psycopg
from psycopg import Cursor

from rivet_fleet.contracts.columns import TypeKind
from rivet_fleet.contracts.facts import (
    ColumnFacts,
    FactsRequest,
    SourceFacts,
)
from rivet_fleet.contracts.keys import RelationName
from rivet_fleet.errors import SourceRefused
from rivet_fleet.execution.engines import facts
from rivet_fleet.execution.engines.facts import (
    METADATA_TIMEOUT_S,
    Size,
    as_keys,
    refused_cast,
    with_casts,
)
from rivet_fleet.execution.sources.postgres import catalog, keyfacts, querytable
from rivet_fleet.execution.sources.postgres.ahead import Looked, look
from rivet_fleet.execution.sources.postgres.basis import Basis
from rivet_fleet.execution.sources.postgres.dialect import (
    ENGINE_NAMES,
    capabilities,
    catalog_settings,
    column_ref,
    from_item,
    override_fidelity,
    parse_override,
)
from rivet_fleet.execution.sources.postgres.heaps import Heaps
from rivet_fleet.execution.sources.postgres.heaps import heaps as find_heaps
from rivet_fleet.execution.sources.postgres.keyorder import Keys, key_orders
from rivet_fleet.execution.sources.postgres.querysession import (
    Own,
    apart,
    check_strings,
    notes,
    sealed,
)
from rivet_fleet.execution.sources.postgres.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class _Size(Size):
    """``fresh``: what the statistics say of values is true of the table as it is now."""

    blocks: int = 0
    fresh: bool = False


def introspect(
    session: Session, basis: Basis, request: FactsRequest, ahead: Looked | SourceRefused | None
) -> SourceFacts:
    """Facts for one export. ``ahead``: what ``look_ahead`` found of its table. Raises SourceRefused
    when it is not there or not readable."""
    return facts.introspect(
        request, partial(_table, session, basis, ahead), partial(_query, session, basis)
    )


def read_columns(
    session: Session,
    relation: RelationName | None,
    query: str | None,
    compared: tuple[str, ...],
    own: Own = (),
) -> tuple[tuple[ColumnFacts, ...], Keys]:
    """The columns as they are now, without casts, and how ``compared`` ones are compared. ``own``:
    what a query is read under."""
    with _transaction(session, "asking for the source's columns", own) as cursor:
        raw = columns_now(cursor, relation, query)
        keys = keys_now(cursor, raw, compared, session.encoding, steady=bool(own))
        return catalog.column_facts(cursor, raw), keys


def columns_now(
    cursor: Cursor[tuple[Any, ...]], relation: RelationName | None, query: str | None
) -> tuple[catalog.RawColumn, ...]:
    """The same within a transaction on our own path: what drift is compared with."""
    if relation is None:
        return catalog.query_columns(cursor, from_item(None, query))
    return catalog.relation_columns(cursor, catalog.find_relation(cursor, relation))


def keys_now(
    cursor: Cursor[tuple[Any, ...]],
    raw: tuple[catalog.RawColumn, ...],
    compared: tuple[str, ...],
    encoding: str,
    *,
    steady: bool,
) -> Keys:
    """How the ``compared`` of these columns are compared, asked only when there are any.
    ``steady``: see ``Keys``."""
    asked = [(one.name, one.type_oid) for one in raw if one.name in compared]
    orders = key_orders(cursor, asked) if asked else {}
    return Keys(orders, encoding=encoding, steady=steady)


def _table(
    session: Session, basis: Basis, ahead: Looked | SourceRefused | None, request: FactsRequest
) -> SourceFacts:
    assert request.relation is not None
    warnings = session.warnings
    with _transaction(session, f"looking at {catalog.shown(request.relation)}") as cursor:
        if isinstance(ahead, SourceRefused):
            raise ahead
        if ahead is None:
            named = catalog.find_relation(cursor, request.relation)
            ahead = look(cursor, basis, [named])[named.oid]
        found = ahead
        relation, orders, heaps = found.relation, found.orders, found.heaps
        catalog.prove_readable(cursor, relation, found.hidden)
        item = from_item(relation.name, None)
        columns = with_casts(found.columns, request, partial(_cast, cursor, item))
        size = _table_size(cursor, relation, heaps, columns, item)
    if heaps.obstacle and relation.kind in ("r", "p"):
        warnings.append(f"no block ranges: {heaps.obstacle}")
    if relation.row_security:
        warnings.append("row-level security is active: the user sees only the rows it may see")
    warnings += _apart(session, relation)
    if relation.inheritance_parent:
        warnings.append("inheritance children: unique indexes of the parent do not cover them")
    keys, indexes = keyfacts.PostgresKeys(
        session,
        columns,
        found.indexes,
        size,
        Keys(orders, encoding=session.encoding),
        item=item,
        sampled=keyfacts.table_sample(relation, size.blocks),
        relation=relation if size.fresh else None,
    ).describe(request, warnings)
    return SourceFacts(
        engine=ENGINE_NAMES[0],
        server_version=session.server_version,
        capabilities=capabilities(session.server_version_num),
        relation=relation.name,
        columns=columns,
        indexes=indexes,
        keys=keys,
        heaps=heaps.heaps,
        rights_apart=heaps.rights_apart,
        row_estimate=size.rows,
        row_estimate_provenance=size.provenance,
        row_width_bytes=size.width_bytes,
        warnings=tuple(warnings),
        basis=found.basis,
    )


def _apart(session: Session, relation: catalog.Relation) -> Iterator[str]:
    """Where what is computed while it is read may be other values than its user would see."""
    computed = "the view" if relation.kind == "v" else "row-level security"
    if relation.kind == "v" or relation.row_security:
        theirs = apart(session.own)
        if theirs:
            yield facts.apart(computed, relation.name, "TimeZone UTC, DateStyle ISO, MDY", theirs)


def _query(session: Session, basis: Basis, request: FactsRequest) -> SourceFacts:
    check_strings(request.query or "", session.plain_strings)
    item = from_item(None, request.query)
    found = session.own
    own = sealed(found)
    warnings = session.warnings
    with _transaction(session, "describing the query", own) as cursor:
        raw = catalog.query_columns(cursor, item)
        plain = columns = catalog.column_facts(cursor, raw)
        _refuse_duplicates(columns)
        rests_on = basis.of_query(cursor, request.query or "", raw)
        asked = [(one.name, one.type_oid) for one in raw if one.name in request.key_columns]
        orders = key_orders(cursor, asked) if asked else {}
        columns = with_casts(columns, request, partial(_cast, cursor, item))
        size = _explained(cursor, item)
    under = _beneath(session, basis, request, raw, size)
    warnings += notes(found, plain, _texts(columns, request))
    compared = Keys(orders, encoding=session.encoding, steady=True)
    table, undivided = (None, under) if isinstance(under, str) else (under.found.table, "")
    if isinstance(under, _Beneath) and not request.key_columns:
        keys, indexes = _table_keys(session, under).describe(request, warnings)
    else:
        every = under.found.indexes if isinstance(under, _Beneath) else ()
        indexes = tuple(one for one in every if one.columns == request.key_columns)
        # A query that is estimated to return more is not run for the sake of a sample.
        small = size.rows is not None and size.rows <= keyfacts.SAMPLE_ROWS_MAX
        sampled = keyfacts.query_sample(item) if small else None
        looked = keyfacts.PostgresKeys(
            session,
            as_keys(columns, table),
            indexes,
            size,
            compared,
            item=item,
            sampled=sampled,
            own=own,
        )
        keys, _ = looked.describe(request, warnings) if request.key_columns else ((), ())
    return SourceFacts(
        engine=ENGINE_NAMES[0],
        server_version=session.server_version,
        capabilities=capabilities(session.server_version_num),
        relation=None,
        columns=columns,
        indexes=indexes,
        keys=keys,
        row_estimate=size.rows,
        row_estimate_provenance=size.provenance,
        row_width_bytes=size.width_bytes,
        warnings=tuple(warnings),
        basis=rests_on,
        session=own,
        table=table,
        undivided=undivided,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Beneath:
    """The one table of a query, and how large it is."""

    found: querytable.Found
    size: _Size


def _beneath(
    session: Session,
    basis: Basis,
    request: FactsRequest,
    raw: tuple[catalog.RawColumn, ...],
    size: _Size,
) -> _Beneath | str:
    """The one table of the query, or why the query is read by itself."""

    def look(cursor: Cursor[tuple[Any, ...]]) -> _Beneath | str:
        version = session.server_version_num
        found = querytable.query_table(cursor, request.query or "", raw, version)
        if isinstance(found, str):
            return found
        columns = catalog.column_facts(cursor, found.raw)
        heaps, item = find_heaps(cursor, found.relation), from_item(found.relation.name, None)
        whole = _table_size(cursor, found.relation, heaps, columns, item, shown="")
        rests_on = basis.of_query_table(cursor, request.query or "", found.relation.name)
        table = replace(found.table, basis=rests_on)
        return _Beneath(found=replace(found, table=table), size=whole)

    asking = _transaction(session, "looking for the query's table", sealed(session.own))
    return facts.table_beneath(asking, look, request, size)


def _table_keys(session: Session, under: _Beneath) -> keyfacts.PostgresKeys:
    """The keys of a query's table, looked for in the table: they cut the query's rows as well."""
    found = under.found
    return keyfacts.PostgresKeys(
        session,
        found.table.columns,
        found.indexes,
        under.size,
        Keys(found.orders, encoding=session.encoding),
        item=from_item(found.relation.name, None),
        sampled=keyfacts.table_sample(found.relation, under.size.blocks),
        relation=found.relation if under.size.fresh else None,
    )


def _transaction(session: Session, doing: str, own: Own = ()) -> Any:
    """On our own path: see ``catalog.users_path``. ``own``: what a query is described under."""
    return session.reading(
        catalog_settings(METADATA_TIMEOUT_S, own), doing=doing, timeout_s=METADATA_TIMEOUT_S
    )


def _texts(columns: tuple[ColumnFacts, ...], request: FactsRequest) -> set[str]:
    """The columns that the export casts to text."""
    asked = {name for name, _ in request.casts}
    cast = (one for one in columns if one.name in asked or one.cast is not None)
    return {one.name for one in cast if one.type and one.type.kind is TypeKind.STRING}


def _refuse_duplicates(columns: tuple[ColumnFacts, ...]) -> None:
    names = [column.name for column in columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SourceRefused(
            f"the query returns several columns named {', '.join(twice)}",
            hint="give each its own name with AS",
        )


# ---------------------------------------------------------------- casts


def _cast(
    cursor: Cursor[tuple[Any, ...]], item: str, column: ColumnFacts, override: str, *, asked: bool
) -> ColumnFacts:
    """See ``engines.facts.Cast``. Any column is cast to text by the server's own conversion: what
    serves a type that we do not know is not asked for."""
    refused = ""
    if asked:
        sql_type = parse_override(override).sql_type
        cast = f"SELECT {column_ref(column.name)}::{sql_type} FROM {item} LIMIT 0"
        with catalog.users_path(cursor):
            # One that is refused would take the whole transaction with it, and what it found.
            cursor.execute(b"SAVEPOINT asked")
            try:
                cursor.execute(cast.encode())
            except psycopg.Error as error:
                if error.sqlstate not in _NO_CAST:
                    raise
                cursor.execute(b"ROLLBACK TO asked")
                refused = error.diag.message_primary or "no such cast"
        if refused:
            return refused_cast(column, override, refused, "text")
    target = parse_override(override)
    own = column.type.kind if column.type else None
    if own is target.type.kind is TypeKind.STRING:
        return column
    fidelity = override_fidelity(own, target.type.kind)
    return replace(
        column,
        type=replace(target.type, fidelity=fidelity),
        wire_type=str(target.wire_oid),
        unsupported_reason=None,
        cast_hint=None,
    )


_NO_CAST = ("42846", "42804", "42883", "42704", "0A000")
"""Not to be cast, a function or type that is not there, not supported."""


# ---------------------------------------------------------------- size


def _table_size(
    cursor: Cursor[tuple[Any, ...]],
    relation: catalog.Relation,
    heaps: Heaps,
    columns: tuple[ColumnFacts, ...],
    item: str,
    *,
    shown: str = "*",
) -> _Size:
    """``shown``: what may be asked for; of a query's table perhaps nothing but its rows."""
    if not heaps.heaps:
        return _explained(cursor, item, shown)
    blocks = sum(heap.blocks for heap in heaps.heaps)
    widths = [column.avg_width_bytes for column in columns]
    width = sum(w for w in widths if w is not None) if any(widths) else None
    estimates = [heap.row_estimate for heap in heaps.heaps]
    if None not in estimates:
        rows = sum(e for e in estimates if e is not None)
        grown = blocks > keyfacts.HISTOGRAM_GROWTH_MAX * max(heaps.analysed_blocks, 1)
        return _Size(
            rows=rows,
            provenance="statistics",
            width_bytes=width or (blocks * 8192 // rows if rows else None),
            blocks=blocks,
            fresh=not grown,
        )
    guess = _explained(cursor, item, shown)
    return replace(guess, provenance="size", blocks=blocks)


def _explained(cursor: Cursor[tuple[Any, ...]], item: str, shown: str = "*") -> _Size:
    """The server's planner's own guess; for a table never analysed it guesses from its size."""
    asked = f"EXPLAIN (FORMAT JSON) SELECT {shown} FROM {item}"
    with catalog.users_path(cursor):
        row = cursor.execute(asked.encode()).fetchone()
    plan = row[0] if row else None
    plan = json.loads(plan) if isinstance(plan, str) else plan
    if not plan:
        return _Size(rows=None, provenance="none", width_bytes=None)
    top = plan[0]["Plan"]
    return _Size(rows=top["Plan Rows"], provenance="explain", width_bytes=top["Plan Width"] or None)
