"""What a plan rests on, asked of the system catalogues: one statement, facts by kind (ADR 0018).

Only ``pg_catalog`` is asked, which every role may read, on our own search path. Trees of views and
policies are compared as the server stores them, not as it prints them. Columns of newer servers are
read through ``to_jsonb``, where a missing one is NULL.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from psycopg import Cursor

from rivet_fleet.contracts.basis import (
    BasisFact,
    BasisKind,
    Reliance,
    of_session,
    reliance,
    relies,
)
from rivet_fleet.contracts.keys import ChunkRange, RelationName
from rivet_fleet.contracts.plan import PlannedTable, ReadPlan
from rivet_fleet.errors import SourceBusy
from rivet_fleet.execution.engines.session import whole
from rivet_fleet.execution.sources.postgres import querysession
from rivet_fleet.execution.sources.postgres.catalog import (
    NEVER_NULL,
    RawColumn,
    described,
    users_path,
)
from rivet_fleet.execution.sources.postgres.dialect import (
    catalog_settings,
    from_item,
    quote_identifier,
    quote_literal,
)
from rivet_fleet.execution.sources.postgres.querysession import Own
from rivet_fleet.execution.sources.postgres.querytable import table_name
from rivet_fleet.execution.sources.postgres.session import Session

Row = Cursor[tuple[Any, ...]]
Arm = tuple[str, tuple[object, ...]]
"""A SELECT of (place, kind, subject, value, columns) and what stands for its ``%s``. The place is
the relation's among those that are asked about, 0 for what is no relation's. What differs from
table to table is a parameter, of one type: so the server plans the same question once, which takes
it several times as long as to answer it."""

_TIMEOUT_S = 30.0
_ICU_DEFAULTS = 150_000
"""The version since which a database records its own collation's version."""
_STORED = r"regexp_replace({tree}::text, ':(location|stmt_location|stmt_len) -?[0-9]+', '', 'g')"
"""A stored tree without the places of its words in the text that made it."""

_RELATIONS = """rel AS (
  SELECT w.n, c.oid, c.relkind::text AS kind
  FROM ROWS FROM (
    pg_catalog.unnest(%s::pg_catalog.name[]), pg_catalog.unnest(%s::pg_catalog.name[])
  ) WITH ORDINALITY AS w(schema, name, n)
  JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
)"""
_VIEWS = """beneath(n, oid, kind, depth) AS (
  SELECT n, oid, kind, 0 FROM rel WHERE kind = 'v' UNION
  SELECT b.n, c.oid, c.relkind::text, b.depth + 1
  FROM beneath b JOIN pg_catalog.pg_rewrite w ON w.ev_class = b.oid
  JOIN pg_catalog.pg_depend d
    ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = w.oid
   AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid <> b.oid
  JOIN pg_catalog.pg_class c ON c.oid = d.refobjid
  WHERE b.kind = 'v' AND b.depth < 16
)"""

_DATABASE = """
SELECT 0, 'source', 'database', d.datname || ', oid ' || d.oid, '{}'::text[]
FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()
"""
_SYSTEM = """
SELECT 0, 'source', 'system', s.system_identifier::text, '{}'::text[]
FROM pg_catalog.pg_control_system() s
"""
_NAMED = """
SELECT n, 'relation', 'relation', 'oid ' || oid || CASE WHEN kind IN ('r', 'm')
  THEN ', file ' || pg_catalog.pg_relation_filenode(oid) ELSE '' END, '{}'::text[] FROM rel
"""
_INDEXES = """
SELECT rel.n, 'index', c.relname::text, '(' || k.terms || ')', k.columns
FROM rel JOIN pg_catalog.pg_index i ON i.indrelid = rel.oid
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_am am ON am.oid = c.relam
CROSS JOIN LATERAL (
  SELECT array_agg(a.attname::text ORDER BY p.n) AS columns,
    string_agg(a.attname
      || CASE WHEN o.opcdefault THEN '' ELSE ' ' || ns.nspname || '.' || o.opcname END
      || CASE WHEN co.oid IS NULL THEN '' ELSE ' collate ' || cn.nspname || '.' || co.collname END
      || CASE WHEN i.indoption[p.n] & 1 = 1 THEN ' desc' ELSE '' END, ', ' ORDER BY p.n) AS terms
  FROM generate_series(0, i.indnkeyatts - 1) AS p(n)
  JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[p.n]
  JOIN pg_catalog.pg_opclass o ON o.oid = i.indclass[p.n]
  JOIN pg_catalog.pg_namespace ns ON ns.oid = o.opcnamespace
  LEFT JOIN pg_catalog.pg_collation co
    ON co.oid = i.indcollation[p.n] AND i.indcollation[p.n] <> a.attcollation
  LEFT JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace
) k
WHERE i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
  AND am.amname = 'btree' AND NOT (rel.kind = 'r' AND EXISTS (
    SELECT FROM pg_catalog.pg_inherits h WHERE h.inhparent = rel.oid)){only}
"""
# A table that other tables inherit from: no index of its own speaks for their rows.
_KEYS = f"""
SELECT rel.n, 'key', a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod)
  || CASE WHEN {NEVER_NULL} THEN ' NOT NULL' ELSE '' END, ARRAY[a.attname::text]
FROM rel JOIN pg_catalog.pg_attribute a ON a.attrelid = rel.oid
WHERE a.attnum > 0 AND NOT a.attisdropped{{only}}
"""
_ORDER = """
SELECT x.n, 'collation', x.subject, CASE WHEN c.oid IS NULL THEN 'no collation'
  WHEN c.collprovider = 'd' THEN (
    SELECT 'the database''s own: ' || coalesce(d.j ->> 'datlocprovider', 'c') || ' '
      || coalesce(d.j ->> 'datlocale', d.j ->> 'daticulocale', d.datcollate)
      || coalesce(' rules ' || pg_catalog.md5(d.j ->> 'daticurules'), '')
      || ', version ' || coalesce(d.j ->> 'datcollversion', 'none')
      || ', now ' || coalesce({database_version}, 'none')
    FROM (SELECT oid, datcollate, encoding, pg_catalog.to_jsonb(p) AS j
          FROM pg_catalog.pg_database p WHERE p.datname = pg_catalog.current_database()) d)
  ELSE n.nspname || '.' || c.collname || ': ' || c.collprovider::text || ' '
    || coalesce(c.j ->> 'colllocale', c.j ->> 'colliculocale', c.j ->> 'collcollate', '')
    || coalesce(' rules ' || pg_catalog.md5(c.j ->> 'collicurules'), '')
    || CASE WHEN c.collisdeterministic THEN '' ELSE ' nondeterministic' END
    || ', version ' || coalesce(c.collversion, 'none')
    || ', now ' || coalesce(pg_catalog.pg_collation_actual_version(c.oid), 'none')
  END, ARRAY[x.name]
FROM ({columns}) x(n, subject, name, coll)
LEFT JOIN (SELECT p.*, pg_catalog.to_jsonb(p) AS j FROM pg_catalog.pg_collation p) c
  ON c.oid = x.coll
LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace
"""
_OWN_VERSION = "pg_catalog.pg_database_collation_actual_version(d.oid)"
_LIBRARY_VERSION = """(SELECT max(pg_catalog.pg_collation_actual_version(l.oid))
  FROM pg_catalog.pg_collation l WHERE l.collprovider = 'c' AND l.collcollate = d.datcollate
   AND l.collencoding IN (-1, d.encoding))"""
_OF_COLUMNS = """
SELECT rel.n, a.attname::text, a.attname::text, a.attcollation
FROM rel JOIN pg_catalog.pg_attribute a ON a.attrelid = rel.oid
WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attcollation <> 0{only}
UNION ALL
SELECT rel.n, a.attname || ' in index ' || c.relname, a.attname::text, i.indcollation[p.n]
FROM rel JOIN pg_catalog.pg_index i ON i.indrelid = rel.oid AND i.indisunique
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
CROSS JOIN LATERAL generate_series(0, i.indnkeyatts - 1) AS p(n)
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[p.n]
WHERE i.indcollation[p.n] NOT IN (0, a.attcollation){only}
"""
_OF_RESULT = """
SELECT 0, u.* FROM ROWS FROM (
  pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::oid[])
) AS u(subject, name, coll)
"""
_TYPE = """pg_catalog.format_type({oid}, {typmod})
  || CASE WHEN {oid} >= 16384 THEN ', oid ' || {oid} ELSE '' END"""
# What somebody made may be made again, as another type of the same name (manual, "System Catalog
# Initial Data": OIDs of the server's own types are smaller).
_COLUMNS = f"""
SELECT rel.n, 'column', a.attname::text, {_TYPE.format(oid="a.atttypid", typmod="a.atttypmod")},
  ARRAY[a.attname::text]
FROM rel JOIN pg_catalog.pg_attribute a ON a.attrelid = rel.oid
WHERE a.attnum > 0 AND NOT a.attisdropped
"""
_DESCRIBED = f"""
SELECT 0, 'column', x.name, {_TYPE.format(oid="x.oid", typmod="x.typmod")}, ARRAY[x.name]
FROM ROWS FROM (
  pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::oid[]), pg_catalog.unnest(%s::int4[])
) x(name, oid, typmod)
"""
_OF_QUERY = (
    "SELECT q.*, pg_catalog.array_to_string(pg_catalog.current_schemas(false), ', '),"
    " {found}{collations} FROM (SELECT 1) AS o LEFT JOIN (SELECT * FROM {item} LIMIT 0) q ON true"
)
# Columns and the collation of an expression are known without a row of it: LIMIT 0 runs nothing.
_DEFINITIONS = f"""
SELECT b.n, 'definition', 'view ' || n.nspname || '.' || c.relname, pg_catalog.md5(
    c.relowner || coalesce(c.reloptions::text, '') || string_agg(
      {_STORED.format(tree="w.ev_action")}, ',' ORDER BY w.rulename)), '{{}}'::text[]
FROM (SELECT DISTINCT n, oid FROM beneath WHERE kind = 'v') b
JOIN pg_catalog.pg_class c ON c.oid = b.oid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_rewrite w ON w.ev_class = c.oid AND w.ev_type = '1'
GROUP BY b.n, c.oid, c.relowner, c.reloptions::text, n.nspname, c.relname
"""
_SEARCH_PATH = "SELECT 0, 'definition', 'the search path of the query', %s::text, '{}'::text[]"
_STANDS_FOR = """
SELECT 0, 'definition', %s::text, coalesce((
  SELECT n.nspname || '.' || c.relname FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s::oid), 'nothing'),
  '{}'::text[]
"""
# On the same path another table comes first as soon as it is made.
_CUSTOM = """
SELECT 0, 'definition', 'what the reading role and the database set of names with a dot',
  coalesce(string_agg(DISTINCT s.name, ', ' ORDER BY s.name) || ' ' || pg_catalog.md5(string_agg(
    s.place || s.one, ',' ORDER BY s.place, s.one)), 'nothing'), '{{}}'::text[]
FROM (SELECT split_part(c.one, '=', 1) AS name, c.one, r.setdatabase || '/' || r.setrole AS place
  FROM pg_catalog.pg_db_role_setting r CROSS JOIN LATERAL unnest(r.setconfig) AS c(one)
  WHERE r.setdatabase IN (0, (
      SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()))
    AND r.setrole IN (0, (
      SELECT o.oid FROM pg_catalog.pg_roles o WHERE o.rolname = session_user))) s
WHERE s.name LIKE '%%.%%' AND split_part(s.name, '.', 1) NOT IN ({watching})
""".format(watching=", ".join(map(quote_literal, querysession.WATCHING)))
# As the catalogue has them: a value may be a secret, and is compared by its digest.
_ROLE = "SELECT 0, 'rights', 'the reading role', current_user::text, '{}'::text[]"
_POLICY = f"""concat_ws(' ', p.polname, p.polpermissive,
  {_STORED.format(tree="p.polqual")})"""
_POLICIES = f"""
SELECT rel.n, 'rights', 'row-level security', CASE
  WHEN NOT pg_catalog.row_security_active(rel.oid) THEN 'not active'
  ELSE 'active: ' || coalesce((
    SELECT string_agg(p.polname, ', ' ORDER BY p.polname) || ' '
      || pg_catalog.md5(string_agg({_POLICY}, ',' ORDER BY p.polname))
    FROM pg_catalog.pg_policy p WHERE p.polrelid = rel.oid AND p.polcmd IN ('r', '*')
     AND EXISTS (SELECT FROM unnest(p.polroles) AS r(oid)
                 WHERE r.oid = 0 OR pg_catalog.pg_has_role(r.oid, 'USAGE'))),
    'no policy lets a row through') END, '{{}}'::text[]
FROM rel WHERE kind IN ('r', 'p')
"""
_BENEATH = f"""
SELECT b.n, 'rights', 'row-level security beneath the view', coalesce(pg_catalog.md5(string_agg(
    concat_ws(' ', c.oid, c.relforcerowsecurity, p.polroles::text, {_POLICY}),
    ',' ORDER BY c.oid, p.polname) FILTER (WHERE c.oid IS NOT NULL)), 'none'), '{{}}'::text[]
FROM (SELECT DISTINCT n, oid FROM beneath) b
LEFT JOIN pg_catalog.pg_class c ON c.oid = b.oid AND c.relrowsecurity
LEFT JOIN pg_catalog.pg_policy p ON p.polrelid = c.oid AND p.polcmd IN ('r', '*')
GROUP BY b.n
"""
# Beneath a view another role reads, as a rule its owner: every policy counts, whomever it names.


class Basis:
    """Asks for facts. One for each source: what this role may ask is found out once."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._may_ask_system: bool | None = None

    def of_relations(
        self, cursor: Row, names: Sequence[RelationName]
    ) -> dict[RelationName, tuple[BasisFact, ...]]:
        """Everything that a plan of each relation may rest on."""
        found = _ask_all(cursor, self._arms(cursor, {*BasisKind} - {BasisKind.KEY}), names)
        return {name: (*found[0], *found[n]) for n, name in enumerate(names, 1)}

    def of_query_table(self, cursor: Row, query: str, name: RelationName) -> tuple[BasisFact, ...]:
        """The same of the table whose key cuts a query, what its columns are, and that the query's
        own name for it stands for it."""
        named = table_name(query)
        with users_path(cursor):
            row = cursor.execute(f"SELECT {_found(named)}".encode()).fetchone()
        stands_for = _of_name(named, row and row[0])
        return _ask(cursor, [*self._arms(cursor, {*BasisKind}), *stands_for], name)

    def of_query(
        self, cursor: Row, query: str, columns: tuple[RawColumn, ...]
    ) -> tuple[BasisFact, ...]:
        """Everything that a plan of this query may rest on."""
        kinds = {BasisKind.SOURCE, BasisKind.DEFINITION, BasisKind.RIGHTS}
        collated = cursor.execute(
            "SELECT oid FROM pg_catalog.pg_type WHERE typcollation <> 0 AND oid = ANY (%s)",
            ([column.type_oid for column in columns],),
        ).fetchall()
        oids = {oid for (oid,) in collated}
        names = [column.name for column in columns if column.type_oid in oids]
        arms, _ = self._of_query(cursor, kinds, query, names)
        return _ask(cursor, arms, None)

    def now(
        self,
        cursor: Row,
        read: ReadPlan,
        chunk_range: ChunkRange,
        own: Own,
        raw: tuple[RawColumn, ...] = (),
    ) -> tuple[BasisFact, ...]:
        """What the plan rests on in this chunk, as it is now. ``own``: of a query, what its session
        has before anything is set in it. ``raw``: the columns, where they were asked for; a COPY
        does not say what they are. Raises SourceBusy while the name stands for nothing."""
        use = reliance(chunk_range, read.window)
        planned = [fact for fact in read.basis if relies(use, fact)]
        kinds = {fact.kind for fact in planned}
        if read.relation is None:
            shown = {column.name for column in read.columns} | read.hidden
            ordered = {fact.subject for fact in planned if fact.kind is BasisKind.COLLATION}
            named = table_name(read.query or "") if read.table is not None else None
            arms, sent = self._of_query(cursor, kinds, read.query or "", ordered & shown, named)
            settings = of_session(querysession.sealed(own))
            found = (*_ask(cursor, [*arms, *_described(raw or sent)], None), *settings)
            return (*self._of_table(cursor, read.table, kinds, use), *found)
        columns = _described(raw) or [(_COLUMNS, ())]
        found = _ask(cursor, [*self._arms(cursor, kinds, use), *columns], read.relation)
        if not {BasisKind.COLUMN, *({BasisKind.RELATION} & kinds)} <= {one.kind for one in found}:
            raise SourceBusy(
                f"table {read.relation} is not there at this moment",
                hint="a swap may be on its way; otherwise plan the export again",
            )
        return found

    def _of_table(
        self, cursor: Row, table: PlannedTable | None, kinds: set[BasisKind], use: Reliance
    ) -> tuple[BasisFact, ...]:
        """Of the table whose key cuts a query. That it is gone, the query says itself."""
        if table is None:
            return ()
        return _ask(cursor, self._arms(cursor, kinds, use), table.relation)

    def look(self, read: ReadPlan, chunk_range: ChunkRange) -> tuple[BasisFact, ...]:
        """``now``, in a transaction of its own. Raises SourceError."""
        own = self._session.own if read.relation is None else ()
        with self._session.reading(
            catalog_settings(_TIMEOUT_S, read.session),
            doing="comparing the source with what the plan rests on",
            timeout_s=_TIMEOUT_S,
        ) as cursor:
            return self.now(cursor, read, chunk_range, own)

    def of_source(self) -> tuple[BasisFact, ...]:
        """The server and the database alone, in a transaction of its own. Raises SourceError."""
        with self._session.reading(
            catalog_settings(_TIMEOUT_S), doing="asking who the source is", timeout_s=_TIMEOUT_S
        ) as cursor:
            return _ask(cursor, self._of_reader(cursor, {BasisKind.SOURCE}), None)

    def _of_reader(self, cursor: Row, kinds: set[BasisKind]) -> list[Arm]:
        """The questions about the source and who reads it, as ``_arms``."""
        arms: list[Arm] = []
        if BasisKind.SOURCE in kinds:
            arms += [(_DATABASE, ()), *([(_SYSTEM, ())] if self._system_known(cursor) else [])]
        if BasisKind.RIGHTS in kinds:
            arms.append((_ROLE, ()))
        return arms

    def _arms(self, cursor: Row, kinds: set[BasisKind], use: Reliance | None = None) -> list[Arm]:
        """The questions. ``use`` None: nothing is planned yet, and everything is asked."""
        arms = self._of_reader(cursor, kinds)
        if BasisKind.RELATION in kinds:
            arms.append((_NAMED, ()))
        if BasisKind.INDEX in kinds:
            only = "" if use is None else " AND k.columns <@ %s::text[]"
            arms.append((_INDEXES.format(only=only), () if use is None else (sorted(use.key),)))
        only = "" if use is None else " AND a.attname = ANY (%s::text[])"
        compared = () if use is None else (sorted(use.compared),)
        if BasisKind.KEY in kinds:
            arms.append((_KEYS.format(only=only), compared))
        if BasisKind.COLLATION in kinds:
            # It names the columns twice.
            arms.append((self._ordered(_OF_COLUMNS.format(only=only)), compared * 2))
        if BasisKind.DEFINITION in kinds:
            arms.append((_DEFINITIONS, ()))
        if BasisKind.RIGHTS in kinds:
            # Beneath a table nothing lies, and the walk costs as much as all the rest.
            arms.append((_POLICIES, ()))
            arms += [(_BENEATH, ())] if BasisKind.DEFINITION in kinds else []
        return arms

    def _of_query(
        self,
        cursor: Row,
        kinds: set[BasisKind],
        query: str,
        names: Iterable[str],
        named: str | None = None,
    ) -> tuple[list[Arm], tuple[RawColumn, ...]]:
        """The questions about a query, as ``_arms``; and the columns that it would return.
        ``named``: as it writes its one table."""
        listed = sorted(names)
        collations = (
            f", pg_catalog.to_regcollation(pg_catalog.pg_collation_for(q.{quote_identifier(one)}))"
            "::pg_catalog.oid"
            for one in listed
        )
        asked = _OF_QUERY.format(
            item=from_item(None, query), found=_found(named), collations="".join(collations)
        )
        with users_path(cursor):
            row = cursor.execute(asked.encode()).fetchone() or ()
            columns = described(cursor)[: -2 - len(listed)]
        path, oid, *oids = row[len(columns) :]
        arms = self._of_reader(cursor, kinds)
        if BasisKind.DEFINITION in kinds:
            on_path = (_SEARCH_PATH, (path or "",))
            arms += [on_path, *_of_name(named, oid), (_CUSTOM, ())]
        if listed:
            arms.append((self._ordered(_OF_RESULT), (listed, listed, _numbers(oids))))
        return arms, columns

    def _ordered(self, columns: str) -> str:
        own = self._session.server_version_num >= _ICU_DEFAULTS
        version = _OWN_VERSION if own else _LIBRARY_VERSION
        return _ORDER.format(columns=columns, database_version=version)

    def _system_known(self, cursor: Row) -> bool:
        """Whether this role may ask for the cluster's identity: everybody may, unless revoked."""
        if self._may_ask_system is None:
            row = cursor.execute(
                "SELECT pg_catalog.has_function_privilege("
                "to_regprocedure('pg_catalog.pg_control_system()'), 'EXECUTE')"
            ).fetchone()
            self._may_ask_system = bool(row and row[0])
        return self._may_ask_system


def _found(named: str | None) -> str:
    shown = "NULL" if named is None else quote_literal(named)
    return f"pg_catalog.to_regclass({shown})::pg_catalog.oid"


def _of_name(named: str | None, oid: object) -> list[Arm]:
    """What the one table that a query names as ``named`` is on its path."""
    if named is None:
        return []
    return [(_STANDS_FOR, (f"the name {named} in the query", whole(oid or 0)))]


def _described(raw: Sequence[RawColumn]) -> list[Arm]:
    names = [one.name for one in raw]
    oids, typmods = (one.type_oid for one in raw), (one.typmod for one in raw)
    return [(_DESCRIBED, (names, _numbers(oids), _numbers(typmods)))] if raw else []


def _numbers(numbers: Iterable[int | None]) -> str:
    """An array as text: as numbers its type would follow from the largest of them."""
    return "{" + ",".join("NULL" if one is None else str(one) for one in numbers) + "}"


def _ask(cursor: Row, arms: list[Arm], name: RelationName | None) -> tuple[BasisFact, ...]:
    """All questions, of one relation or of none."""
    found = _ask_all(cursor, arms, [] if name is None else [name])
    return tuple(fact for facts in found for fact in facts)


def _ask_all(
    cursor: Row, arms: list[Arm], names: Sequence[RelationName]
) -> list[tuple[BasisFact, ...]]:
    """One statement of all questions: what is no relation's, then what is each one's."""
    body = " UNION ALL ".join(sql for sql, _ in arms)
    tables, given = [], [one for _, parameters in arms for one in parameters]
    if names:
        tables.append(_RELATIONS)
        given = [[one.schema for one in names], [one.name for one in names], *given]
    tables += [_VIEWS] if "FROM beneath" in body else []
    head = f"WITH RECURSIVE {', '.join(tables)} " if tables else ""
    # Each chunk, and each table of a plan, asks it in the same words; behind a pooler nothing is
    # prepared all the same.
    rows = cursor.execute(f"{head}{body}".encode(), given, prepare=True).fetchall()
    found: list[list[BasisFact]] = [[] for _ in range(len(names) + 1)]
    for n, kind, subject, value, columns in rows:
        fact = BasisFact(kind=BasisKind(kind), subject=subject, value=value, columns=tuple(columns))
        found[n].append(fact)
    return [tuple(facts) for facts in found]
