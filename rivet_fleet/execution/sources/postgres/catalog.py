"""Questions to the system catalogues, each one statement, each answer a value."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from psycopg import Cursor

from rivet_fleet.contracts.columns import ColumnType
from rivet_fleet.contracts.facts import ColumnFacts
from rivet_fleet.contracts.keys import RelationName
from rivet_fleet.errors import SourceRefused
from rivet_fleet.execution.engines.facts import close_relations
from rivet_fleet.execution.sources.postgres.dialect import (
    NOT_REALLY_ARRAYS,
    OWN_PATH,
    CatalogType,
    Unsupported,
    column_type,
    quote_identifier,
    quote_relation,
)

Row = Cursor[tuple[Any, ...]]


_USERS_PATH = "SET LOCAL search_path = DEFAULT"
_OWN_PATH = f"SET LOCAL search_path = {OWN_PATH}"


@contextlib.contextmanager
def own_path(cursor: Row) -> Iterator[None]:
    """Within a transaction on the user's search path: names in the block are the server's own."""
    cursor.execute(_OWN_PATH.encode())
    yield
    cursor.execute(_USERS_PATH.encode())


@contextlib.contextmanager
def users_path(cursor: Row) -> Iterator[None]:
    """Within a transaction on our own path: the user's query, and what lies under a view, may
    mean what they name by the user's."""
    cursor.execute(_USERS_PATH.encode())
    yield
    cursor.execute(_OWN_PATH.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A relation as ``pg_class`` has it. ``kind`` is ``relkind``: r p m v f."""

    oid: int
    name: RelationName
    kind: str
    inheritance_parent: bool
    """An ordinary table whose children hold rows too: its indexes do not cover them."""
    row_security: bool


_RELATIONS = """
SELECT w.n, c.oid, n.nspname, c.relname, c.relkind::text,
       c.relkind = 'r' AND EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid),
       pg_catalog.row_security_active(c.oid),
       pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
       pg_catalog.has_table_privilege(c.oid, 'SELECT')
         OR pg_catalog.has_any_column_privilege(c.oid, 'SELECT')
"""
_NAMED = f"""{_RELATIONS}
FROM ROWS FROM (
  pg_catalog.unnest(%s::pg_catalog.name[]), pg_catalog.unnest(%s::pg_catalog.name[])
) WITH ORDINALITY AS w(schema, name, n)
JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
WHERE c.relkind IN ('r', 'p', 'm', 'v', 'f')
"""
_ON_PATH = f"""{_RELATIONS}
FROM pg_catalog.unnest(%s::pg_catalog.oid[]) WITH ORDINALITY AS w(oid, n)
JOIN pg_catalog.pg_class c ON c.oid = w.oid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm', 'v', 'f')
"""
_TO_OIDS = """
SELECT pg_catalog.array_agg(pg_catalog.to_regclass(w.name)::pg_catalog.oid ORDER BY w.n)::text
FROM pg_catalog.unnest(%s::text[]) WITH ORDINALITY AS w(name, n)
"""


def find_relation(cursor: Row, wanted: RelationName) -> Relation:
    """The relation, exactly as named; an empty schema means the search path.

    Raises SourceRefused with close matches, or with the GRANT that is missing.
    """
    return _found(cursor, wanted, _rows_of(cursor, [wanted]).get(wanted))


def find_relations(
    cursor: Row, wanted: Sequence[RelationName]
) -> dict[RelationName, Relation | SourceRefused]:
    """Each relation as ``find_relation`` finds it, or why it does not."""
    rows = _rows_of(cursor, wanted)
    found: dict[RelationName, Relation | SourceRefused] = {}
    for name in wanted:
        try:
            found[name] = _found(cursor, name, rows.get(name))
        except SourceRefused as error:
            found[name] = error
    return found


def _rows_of(cursor: Row, wanted: Sequence[RelationName]) -> dict[RelationName, tuple[Any, ...]]:
    """What ``pg_class`` says of those that are there, behind the name that it was asked by."""
    named = [one for one in wanted if one.schema]
    bare = [one for one in wanted if not one.schema]
    found: dict[RelationName, tuple[Any, ...]] = {}
    if named:
        asked = ([one.schema for one in named], [one.name for one in named])
        rows = cursor.execute(_NAMED.encode(), asked, prepare=True).fetchall()
        found |= {named[n - 1]: row for n, *row in rows}
    if bare:
        with users_path(cursor):
            quoted = [quote_identifier(one.name) for one in bare]
            (oids,) = cursor.execute(_TO_OIDS, (quoted,)).fetchone() or (None,)
        rows = cursor.execute(_ON_PATH.encode(), (oids,), prepare=True).fetchall()
        found |= {bare[n - 1]: row for n, *row in rows}
    return found


def _found(cursor: Row, wanted: RelationName, row: Sequence[Any] | None) -> Relation:
    # The server cuts names of more than 63 bytes short, and finds another table by them.
    if row is None or row[2] != wanted.name or wanted.schema not in ("", row[1]):
        raise SourceRefused(
            f"table {shown(wanted)} does not exist",
            hint=_close_matches(cursor, wanted),
            code="SQLSTATE_42P01",
        )
    oid, schema, name, kind, inherits, row_security, usage, select = row
    found = RelationName(schema=schema, name=name)
    _check_privileges(cursor, found, usage=usage, select=select)
    return Relation(
        oid=oid,
        name=found,
        kind=kind,
        inheritance_parent=inherits,
        row_security=row_security,
    )


def shown(relation: RelationName) -> str:
    """The name as it was asked for."""
    return str(relation) if relation.schema else relation.name


def _check_privileges(cursor: Row, name: RelationName, *, usage: bool, select: bool) -> None:
    if usage and select:
        return
    user = _current_user(cursor)
    grants = []
    if not usage:
        grants.append(f"GRANT USAGE ON SCHEMA {quote_identifier(name.schema)} TO {user};")
    if not select:
        grants.append(f"GRANT SELECT ON {quote_relation(name)} TO {user};")
    raise SourceRefused(
        f"user {user} may not read {name}", hint=" ".join(grants), code="SQLSTATE_42501"
    )


_UNREADABLE = """
SELECT a.attrelid, a.attname FROM pg_catalog.pg_attribute a
WHERE a.attrelid = ANY (%s::pg_catalog.oid[]) AND a.attnum > 0 AND NOT a.attisdropped
  AND NOT pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'SELECT')
ORDER BY a.attrelid, a.attnum
"""


def unreadable(cursor: Row, relations: Sequence[Relation]) -> dict[int, list[str]]:
    """The columns that the user may not read, by the relation's OID."""
    found: dict[int, list[str]] = {}
    for oid, name in cursor.execute(_UNREADABLE, (oids_of(relations),), prepare=True):
        found.setdefault(oid, []).append(name)
    return found


def oids_of(relations: Iterable[Relation]) -> str:
    """An array of OIDs as text: as numbers its type would follow from the largest of them."""
    return "{" + ",".join(str(one.oid) for one in relations) + "}"


def prove_readable(cursor: Row, relation: Relation, hidden: Sequence[str]) -> None:
    """What a run needs, before it runs: every column (``hidden``: those it may not read), and a
    statement that the server would execute (what lies under a view, a view that was filled). Raises
    SourceRefused."""
    if hidden:
        user, columns = _current_user(cursor), ", ".join(map(quote_identifier, hidden))
        raise SourceRefused(
            f"user {user} may not read every column of {relation.name}: {', '.join(hidden)}",
            hint=f"GRANT SELECT ({columns}) ON {quote_relation(relation.name)} TO {user}; or name "
            "the columns it may read in a `query:`",
            code="SQLSTATE_42501",
        )
    # As ``users_path``, in one message: no word of a user is in it.
    looked = f"SELECT * FROM {quote_relation(relation.name)} LIMIT 0"
    cursor.execute(f"{_USERS_PATH};{looked};{_OWN_PATH}".encode())


def _current_user(cursor: Row) -> str:
    """Who asks: behind ``SET ROLE`` not the one who connected."""
    row = cursor.execute("SELECT current_user").fetchone()
    return quote_identifier(row[0] if row else "")


def _close_matches(cursor: Row, wanted: RelationName) -> str:
    schema = wanted.schema
    if not schema:
        with users_path(cursor):
            row = cursor.execute("SELECT pg_catalog.current_schema()").fetchone()
        schema = (row[0] if row else None) or ""
    rows = cursor.execute(
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c "
        "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relkind IN ('r','p','m','v','f') AND n.nspname !~ '^pg_' "
        "AND n.nspname <> 'information_schema' ORDER BY n.nspname <> %s LIMIT 20000",
        [schema],
    ).fetchall()
    return (
        close_relations(
            RelationName(schema=schema, name=wanted.name),
            [RelationName(schema=schema, name=name) for schema, name in rows],
        )
        or "check the schema and the spelling"
    )


# ---------------------------------------------------------------- columns

NEVER_NULL = """a.attnotnull AND NOT EXISTS (
         SELECT FROM pg_catalog.pg_constraint k
         WHERE k.conrelid = a.attrelid AND k.contype = 'n' AND k.conkey = ARRAY[a.attnum]
           AND (NOT k.convalidated OR k.connoinherit))"""
"""Of a column ``a`` of pg_attribute. A NOT NULL that is NOT VALID (PostgreSQL 18) or NO INHERIT
does not speak for every row."""
_COLUMNS = rf"""
SELECT a.attrelid, a.attname, a.atttypid, a.atttypmod,
       pg_catalog.format_type(a.atttypid, a.atttypmod),
       {NEVER_NULL},
       pg_catalog.col_description(a.attrelid, a.attnum),
       (SELECT s.avg_width FROM pg_catalog.pg_stats s
        WHERE s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = a.attname
        ORDER BY s.inherited DESC LIMIT 1),
       (SELECT bool_or(
          a.attname = ANY (string_to_array(encode(t.tgargs, 'escape'), E'\\000'))
          OR p.prosrc ~* (E'(;|\\mbegin|\\mthen|\\melse)\\s+new\\."?'
             || regexp_replace(a.attname, '([^[:alnum:]_])', E'\\\\\\1', 'g') || E'"?\\s*:?='))
        FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
        WHERE t.tgrelid = a.attrelid AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')
          AND t.tgtype & 19 = 19 AND t.tgattr::text = '')
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE a.attrelid = ANY (%s::pg_catalog.oid[]) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
"""
# 19: for each row, before, update. A trigger of moddatetime's kind has the column as argument.

_TYPES = """
WITH RECURSIVE t AS (
  SELECT oid AS asked, oid, typname, typtype, typbasetype, typtypmod, typelem, typlen,
         typcategory, -1 AS typmod, 0 AS depth
  FROM pg_catalog.pg_type WHERE oid = ANY (%s::oid[])
  UNION ALL
  SELECT t.asked, b.oid, b.typname, b.typtype, b.typbasetype, b.typtypmod, b.typelem, b.typlen,
         b.typcategory, t.typtypmod, t.depth + 1
  FROM t JOIN pg_catalog.pg_type b ON t.typtype = 'd' AND b.oid = t.typbasetype
)
SELECT DISTINCT ON (asked) asked, oid, typname, typtype::text, typmod,
       CASE WHEN typcategory = 'A' AND typlen = -1 THEN typelem ELSE 0 END
FROM t ORDER BY asked, depth DESC
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawColumn:
    """A column before its type is understood."""

    name: str
    type_oid: int
    typmod: int
    native_type: str
    nullable: bool = True
    comment: str | None = None
    avg_width_bytes: int | None = None
    set_on_update: bool | None = False
    """See ``ColumnFacts``."""
    origin: tuple[int, int] = (0, 0)
    """Of a query's column that is a table's as it stands: the table's OID, the column's number."""


def relation_columns(cursor: Row, relation: Relation) -> tuple[RawColumn, ...]:
    """The live columns of a relation, in their order."""
    return relations_columns(cursor, [relation]).get(relation.oid, ())


def relations_columns(
    cursor: Row, relations: Sequence[Relation]
) -> dict[int, tuple[RawColumn, ...]]:
    """The live columns of each, in their order, by the relation's OID."""
    rows = cursor.execute(_COLUMNS, (oids_of(relations),), prepare=True).fetchall()
    natives = [row[4] for row in rows]
    if any("." in native for native in natives):
        # A type of somebody's own is spelled as the user would spell it.
        natives = _natives(cursor, [(row[2], row[3]) for row in rows])
    found: dict[int, list[RawColumn]] = {}
    for row, native in zip(rows, natives, strict=True):
        of, name, oid, typmod, _, not_null, comment, width, named = row
        column = RawColumn(
            name=name,
            type_oid=oid,
            typmod=typmod,
            native_type=native,
            nullable=not not_null,
            comment=comment,
            avg_width_bytes=width,
            # NULL: there is no such trigger. False: there is one that does not name it.
            set_on_update={None: False, False: None, True: True}[named],
        )
        found.setdefault(of, []).append(column)
    return {oid: tuple(columns) for oid, columns in found.items()}


def _natives(cursor: Row, types: list[tuple[int, int]]) -> list[str]:
    """How the server spells each (type, typmod) on the user's path."""
    with users_path(cursor):
        rows = cursor.execute(
            "SELECT pg_catalog.format_type(o, m) FROM ROWS FROM ("
            "pg_catalog.unnest(%s::pg_catalog.oid[]), pg_catalog.unnest(%s::pg_catalog.int4[])"
            ") WITH ORDINALITY AS u(o, m, n) ORDER BY n",
            ([oid for oid, _ in types], [typmod for _, typmod in types]),
        ).fetchall()
    return [native for (native,) in rows]


def execute_alone(cursor: Any, sql: bytes) -> None:
    """Execute by the extended protocol, which takes one statement and no second one. ``cursor``:
    a ``WatchedCursor``."""
    cursor.alone = True
    try:
        cursor.execute(sql)
    finally:
        cursor.alone = False


def query_columns(cursor: Row, source: str) -> tuple[RawColumn, ...]:
    """The columns a query would return, without running it. ``source`` is a FROM item.

    By the extended protocol, in which a message is one statement or refused by the server: every
    plan and every chunk begins with this, before the text is part of a COPY.
    """
    with users_path(cursor):
        execute_alone(cursor, f"SELECT * FROM {source} LIMIT 0".encode())
        raw = described(cursor)
    if not raw:
        return ()
    natives = _natives(cursor, [(one.type_oid, one.typmod) for one in raw])
    return tuple(replace(one, native_type=native) for one, native in zip(raw, natives, strict=True))


def described(cursor: Row) -> tuple[RawColumn, ...]:
    """The columns of the last statement as the server describes them, without their spelling."""
    result = cursor.pgresult
    if result is None:
        return ()
    return tuple(
        RawColumn(
            name=column.name,
            type_oid=column.type_code,
            typmod=result.fmod(index),
            native_type="",
            origin=(result.ftable(index), result.ftablecol(index)),
        )
        for index, column in enumerate(cursor.description or [])
    )


def catalog_types(cursor: Row, raw: Sequence[RawColumn]) -> dict[tuple[int, int], CatalogType]:
    """(type OID, typmod) of each column → its type, domains resolved, elements attached."""
    asked = {column.type_oid for column in raw}
    found = cursor.execute(_TYPES, (sorted(asked),), prepare=True)
    rows = {row[0]: row for row in found.fetchall()}
    element_oids = [row[5] for row in rows.values() if row[5] and row[1] not in NOT_REALLY_ARRAYS]
    elements = {}
    if element_oids:
        plain = "SELECT oid, typname, typtype::text FROM pg_catalog.pg_type WHERE oid = ANY (%s)"
        elements = {row[0]: row for row in cursor.execute(plain, (element_oids,), prepare=True)}
    resolved = {}
    for column in raw:
        _, oid, name, typtype, domain_typmod, element_oid = rows[column.type_oid]
        typmod = column.typmod if column.typmod >= 0 else domain_typmod
        element = None
        if element_oid in elements and oid not in NOT_REALLY_ARRAYS:
            _, element_name, element_typtype = elements[element_oid]
            element = CatalogType(
                oid=element_oid, typmod=typmod, typtype=element_typtype, name=element_name
            )
        resolved[column.type_oid, column.typmod] = CatalogType(
            oid=oid, typmod=typmod, typtype=typtype, name=name, element=element
        )
    return resolved


def column_facts(
    cursor: Row,
    raw: tuple[RawColumn, ...],
    types: Mapping[tuple[int, int], CatalogType] | None = None,
) -> tuple[ColumnFacts, ...]:
    """What each column is to us: its canonical type, or why there is none. ``types``: what
    ``catalog_types`` said of these and others."""
    types = catalog_types(cursor, raw) if types is None else types
    return tuple(_facts(column, types[column.type_oid, column.typmod]) for column in raw)


def _facts(column: RawColumn, catalog: CatalogType) -> ColumnFacts:
    understood = column_type(catalog)
    unsupported = understood if isinstance(understood, Unsupported) else None
    return ColumnFacts(
        name=column.name,
        native_type=column.native_type,
        type=understood if isinstance(understood, ColumnType) else None,
        nullable=column.nullable,
        wire_type=str(catalog.element.oid if catalog.element else catalog.oid),
        comment=column.comment,
        unsupported_reason=unsupported.reason if unsupported else None,
        cast_hint=unsupported.cast_hint if unsupported else None,
        order=unsupported.order if unsupported else None,
        avg_width_bytes=column.avg_width_bytes,
        set_on_update=column.set_on_update,
    )
