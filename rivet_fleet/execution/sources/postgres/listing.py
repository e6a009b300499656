"""The catalogue as a whole, and the server itself: what ``init``, ``doctor`` and ``check`` ask."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

from psycopg import Cursor

from rivet_fleet.contracts.facts import (
    ListedRelation,
    Listing,
    NoteKind,
    RelationKind,
    ServerFacts,
    SourceNote,
)
from rivet_fleet.contracts.keys import RelationName
from rivet_fleet.execution.sources.postgres import catalog
from rivet_fleet.execution.sources.postgres.border import POOLER
from rivet_fleet.execution.sources.postgres.catalog import execute_alone
from rivet_fleet.execution.sources.postgres.dialect import (
    ENGINE_NAMES,
    catalog_settings,
    from_item,
    quote_identifier,
    quote_relation,
)
from rivet_fleet.execution.sources.postgres.querysession import Own, check_strings, sealed
from rivet_fleet.execution.sources.postgres.session import Session

ASK_MAX_S = 30.0
BLOCK_RANGES_SINCE = 140_000
"""TID range scans came with version 14."""
_KINDS = {
    "r": RelationKind.TABLE,
    "p": RelationKind.PARTITIONED,
    "v": RelationKind.VIEW,
    "m": RelationKind.MATERIALIZED_VIEW,
    "f": RelationKind.FOREIGN,
}
# Nothing here may wait for one table's lock: a size is asked only of what nobody has locked.
# Sizes are sums over the leaves; an estimate of a leaf that was never analysed (-1) makes the
# whole one unknown, except where the leaf has no block.
_RELATIONS = """
WITH RECURSIVE leaf(root, oid) AS (
  SELECT c.oid, c.oid FROM pg_catalog.pg_class c
  WHERE c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition
  UNION
  SELECT leaf.root, i.inhrelid FROM leaf
  JOIN pg_catalog.pg_inherits i ON i.inhparent = leaf.oid
), sized AS (
  SELECT leaf.root, sum(c.relpages)::bigint AS pages,
         sum(greatest(c.reltuples, 0))::bigint AS tuples,
         bool_or(CASE
           WHEN c.reltuples < 0 THEN true
           WHEN c.reltuples > 0 OR c.relpages > 0 THEN false
           WHEN c.oid IN (SELECT l.relation FROM pg_catalog.pg_locks l
                          WHERE l.mode = 'AccessExclusiveLock') THEN true
           ELSE pg_catalog.pg_relation_size(c.oid) > 0 END) AS unknown
  FROM leaf JOIN pg_catalog.pg_class c ON c.oid = leaf.oid
  WHERE c.relkind IN ('r', 'm') GROUP BY leaf.root
)
SELECT n.nspname, c.relname, c.relkind::text,
       CASE WHEN NOT s.unknown THEN s.tuples END,
       s.pages * current_setting('block_size')::bigint,
       pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
       pg_catalog.has_table_privilege(c.oid, 'SELECT')
         OR pg_catalog.has_any_column_privilege(c.oid, 'SELECT'),
       pn.nspname, pc.relname
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN sized s ON s.root = c.oid
LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid AND i.inhseqno = 1
LEFT JOIN pg_catalog.pg_class pc ON pc.oid = i.inhparent
LEFT JOIN pg_catalog.pg_namespace pn ON pn.oid = pc.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
  AND c.relpersistence <> 't'
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY n.nspname, c.relname
"""


def list_relations(session: Session) -> Listing:
    """Every relation outside the system's schemas. See ``Source.list_relations``."""
    with _asking(session, "listing the relations") as cursor:
        with catalog.users_path(cursor):
            row = cursor.execute("SELECT pg_catalog.current_schema(), current_user").fetchone()
        schema, user = row or (None, "")
        found = cursor.execute(_RELATIONS).fetchall()
    return Listing(
        default_schema=schema,
        relations=tuple(_listed(one, quote_identifier(user)) for one in found),
    )


def _listed(row: tuple[Any, ...], user: str) -> ListedRelation:
    schema, name, kind, rows, size, usage, select, parent_schema, parent = row
    relation = RelationName(schema=schema, name=name)
    grants = []
    if not usage:
        grants.append(f"GRANT USAGE ON SCHEMA {quote_identifier(schema)} TO {user};")
    if not select:
        grants.append(f"GRANT SELECT ON {quote_relation(relation)} TO {user};")
    return ListedRelation(
        name=relation,
        kind=_KINDS[kind],
        from_item=quote_relation(relation),
        row_estimate=rows,
        size_bytes=size,
        missing=" ".join(grants) or None,
        inherits_from=RelationName(schema=parent_schema, name=parent) if parent else None,
    )


_SERVER = """
SELECT current_user, current_database(), pg_catalog.pg_is_in_recovery(),
       extract(epoch from clock_timestamp())::float8,
       current_setting('max_connections')::int
         - CASE WHEN r.rolsuper THEN 0
                ELSE current_setting('superuser_reserved_connections')::int END,
       (SELECT sum(numbackends)::int FROM pg_catalog.pg_stat_database), r.rolsuper,
       r.rolconnlimit,
       (SELECT s.version FROM pg_catalog.pg_stat_ssl s WHERE s.pid = pg_catalog.pg_backend_pid())
FROM pg_catalog.pg_roles r WHERE r.rolname = current_user
"""
_RULING = (
    *("pg_write_all_data", "pg_write_server_files", "pg_read_server_files", "pg_maintain"),
    *("pg_execute_server_program", "pg_signal_backend", "pg_checkpoint", "pg_create_subscription"),
)
"""The server's own roles whose members may more than read tables (manual, "Predefined Roles")."""
# What a role may that is granted to ours counts, too: one statement is enough to take it on.
_POWERS = f"""
WITH me AS (
  SELECT * FROM pg_catalog.pg_roles r
  WHERE pg_catalog.pg_has_role(current_user, r.oid, 'MEMBER')
), place AS (
  SELECT * FROM pg_catalog.pg_namespace n
  WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
), writable AS (
  SELECT c.oid, me.oid AS role, format('%I.%I', place.nspname, c.relname) AS shown
  FROM me CROSS JOIN pg_catalog.pg_class c JOIN place ON place.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'v', 'f', 'S')
    AND (pg_catalog.has_table_privilege(me.oid, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
         OR pg_catalog.has_any_column_privilege(me.oid, c.oid, 'INSERT, UPDATE'))
)
SELECT a.name, 1::bigint, NULL::text
FROM me CROSS JOIN LATERAL (VALUES
  ('SUPERUSER', me.rolsuper), ('CREATEROLE', me.rolcreaterole), ('CREATEDB', me.rolcreatedb),
  ('REPLICATION', me.rolreplication)) AS a(name, has)
WHERE a.has GROUP BY a.name
UNION ALL
SELECT 'membership in ' || me.rolname, 1, NULL FROM me WHERE me.rolname IN {_RULING}
UNION ALL
SELECT p.name, count(DISTINCT w.oid), min(w.shown)
FROM writable w CROSS JOIN (VALUES ('INSERT'), ('UPDATE'), ('DELETE'), ('TRUNCATE')) AS p(name)
WHERE CASE WHEN p.name IN ('INSERT', 'UPDATE')
           THEN pg_catalog.has_any_column_privilege(w.role, w.oid, p.name)
           ELSE pg_catalog.has_table_privilege(w.role, w.oid, p.name) END
GROUP BY p.name
UNION ALL
SELECT 'CREATE', count(DISTINCT place.oid), min(format('schema %I', place.nspname))
FROM me CROSS JOIN place WHERE pg_catalog.has_schema_privilege(me.oid, place.oid, 'CREATE')
HAVING count(*) > 0
UNION ALL
SELECT 'CREATE', 1, 'the database' WHERE EXISTS (
  SELECT FROM me
  WHERE pg_catalog.has_database_privilege(me.oid, pg_catalog.current_database(), 'CREATE'))
"""


def describe_server(session: Session) -> ServerFacts:
    """The server as this user meets it. See ``Source.describe_server``."""
    with _asking(session, "asking about the server") as cursor:
        row = cursor.execute(_SERVER).fetchone()
        # A superuser may everything: not a word more about it.
        powers = [] if row is None or row[6] else cursor.execute(_POWERS.encode()).fetchall()
        encrypted = bool(session.connection.pgconn.ssl_in_use)
    assert row is not None
    user, database, standby, now_s, most, used, powerful, own_limit, version = row
    notes = [
        *([POOLER] if session.pooled else []),
        *_version_note(session),
        *([_REPLICA] if standby else []),
        *([_UNCHECKED] if session.text_unchecked else []),
        *([_POWERFUL] if powerful else _powerful(powers)),
    ]
    return ServerFacts(
        engine=ENGINE_NAMES[0],
        version=session.server_version,
        user=user,
        database=database,
        tls=(version or "TLS") if encrypted else None,
        now_s=now_s,
        connections_max=min(most, own_limit) if own_limit >= 0 else most,
        connections_used=used,
        notes=tuple(notes),
    )


def check_readable(
    session: Session, relation: RelationName | None, query: str | None
) -> tuple[SourceNote, ...]:
    """Whether every column may be read, without reading a row. See ``Source.check_readable``."""
    policies = False
    about = "the query" if relation is None else catalog.shown(relation)
    own: Own = ()
    if relation is None:
        check_strings(query or "", session.plain_strings)
        own = sealed(session.own)
    with _asking(session, f"looking at the privileges on {about}", own) as cursor:
        if relation is not None:
            found = catalog.find_relation(cursor, relation)
            policies = found.row_security
            hidden = catalog.unreadable(cursor, [found]).get(found.oid, [])
            catalog.prove_readable(cursor, found, hidden)
        else:
            with catalog.users_path(cursor):
                item = from_item(None, query)
                execute_alone(cursor, f"SELECT * FROM {item} LIMIT 0".encode())
    return (_HIDDEN,) if policies else ()


def _asking(
    session: Session, doing: str, own: Own = ()
) -> contextlib.AbstractContextManager[Cursor[tuple[Any, ...]]]:
    return session.reading(catalog_settings(ASK_MAX_S, own), doing=doing, timeout_s=ASK_MAX_S)


def _version_note(session: Session) -> list[SourceNote]:
    if session.server_version_num >= BLOCK_RANGES_SINCE:
        return []
    return [
        SourceNote(
            kind=NoteKind.OLD_VERSION,
            what=f"version {session.server_version} cannot read ranges of heap blocks",
            why="a table without a unique NOT NULL key is read by one long statement",
            hint="version 14 can; or give such tables a unique key",
        )
    ]


def _powerful(powers: list[tuple[str, int, str | None]]) -> list[SourceNote]:
    if not powers:
        return []
    said = [
        name + (f" on {example}" if example else "") + (f" and {count - 1} more" * (count > 1))
        for name, count, example in powers
    ]
    return [replace(_POWERFUL, what=f"the user may more than read: {'; '.join(said)}")]


_REPLICA = SourceNote(
    kind=NoteKind.REPLICA,
    what="the server is a standby",
    why="it spares the primary; a statement may be cancelled when it conflicts with replay, and "
    "is then tried again",
    hint="hot_standby_feedback = on, or a larger max_standby_streaming_delay, avoids that",
)
_UNCHECKED = SourceNote(
    kind=NoteKind.UNCHECKED_TEXT,
    what="the database's encoding is SQL_ASCII",
    why="its text was never checked: bytes that are no UTF-8 stop the chunk that meets them",
    hint="on_unrepresentable: coerce replaces them by U+FFFD and counts them",
)
_POWERFUL = SourceNote(
    kind=NoteKind.POWERFUL_USER,
    what="the user is a superuser",
    why="exports need to read only; every transaction is read-only, but that does not hold files, "
    "programs and other sessions, and the password is worth more than it must be",
    hint="a role of its own: CREATE ROLE … LOGIN; GRANT USAGE ON SCHEMA …, GRANT SELECT ON the "
    "tables (or GRANT pg_read_all_data) TO …",
)
_HIDDEN = SourceNote(
    kind=NoteKind.HIDDEN_ROWS,
    what="row-level security is active for this user",
    why="rows that its policies hide are missing from the export, without an error",
    hint="use a role with BYPASSRLS, or make sure the policies show it every row",
)
