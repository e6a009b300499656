"""The dictionary as a whole, and the server itself: what ``init``, ``doctor`` and ``check`` ask."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import replace

from rivet_fleet.contracts.keys import RelationName
from rivet_fleet.contracts.listing import (
    ListedRelation,
    Listing,
    NoteKind,
    RelationKind,
    ServerFacts,
    SourceNote,
)
from rivet_fleet.execution.sources.mysql import catalog
from rivet_fleet.execution.sources.mysql.catalog import Row, rows
from rivet_fleet.execution.sources.mysql.dialect import ENGINE_NAMES, quote_relation
from rivet_fleet.execution.sources.mysql.liveness import WatchedConnection
from rivet_fleet.execution.sources.mysql.proxies import Proxy
from rivet_fleet.execution.sources.mysql.querysession import Own
from rivet_fleet.execution.sources.mysql.session import Session
from rivet_fleet.execution.sources.mysql.statements import bare_query, metadata_settings

ASK_MAX_S = 30.0
_SYSTEM = "('information_schema', 'mysql', 'performance_schema', 'sys')"
_RELATIONS = f"""
SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE, TABLE_ROWS, DATA_LENGTH, CREATE_OPTIONS
FROM information_schema.TABLES
WHERE TABLE_SCHEMA NOT IN {_SYSTEM} AND TABLE_SCHEMA = COALESCE(DATABASE(), TABLE_SCHEMA)
  AND TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED', 'VIEW')
ORDER BY TABLE_SCHEMA, TABLE_NAME
"""


def list_relations(session: Session) -> Listing:
    """The relations of the URL's database, of every one when it names none. The dictionary shows
    only what the user may see. See ``Source.list_relations``."""
    with _asking(session, "listing the relations") as connection:
        schema = rows(connection, "SELECT DATABASE()")[0][0]
        found = rows(connection, _RELATIONS)
    return Listing(default_schema=schema, relations=tuple(_listed(row) for row in found))


def _listed(row: Row) -> ListedRelation:
    schema, name, kind, estimate, size, options = row
    relation = RelationName(schema=schema, name=name)
    if kind == "VIEW":
        what = RelationKind.VIEW
    elif "partitioned" in (options or "").lower():
        what = RelationKind.PARTITIONED
    else:
        what = RelationKind.TABLE
    return ListedRelation(
        name=relation,
        kind=what,
        from_item=quote_relation(relation),
        row_estimate=None if estimate is None else int(estimate),
        size_bytes=None if size is None else int(size),
    )


_SERVER = """
SELECT CURRENT_USER(), COALESCE(DATABASE(), ''), UNIX_TIMESTAMP(NOW(6)), @@max_connections,
       @@max_user_connections, @@read_only
"""


def describe_server(session: Session) -> ServerFacts:
    """The server as this user meets it. See ``Source.describe_server``."""
    with _asking(session, "asking about the server") as connection:
        user, database, now_s, most, own_limit, read_only = rows(connection, _SERVER)[0]
        status = _status(connection, "Threads_connected", "Ssl_version")
        powers = _powers(str(row[0]) for row in rows(connection, "SHOW GRANTS"))
    limits = [int(one) for one in (most, own_limit) if int(one) > 0]
    notes = [
        *_proxy_note(session),
        *([_READ_ONLY] if int(read_only or 0) else []),
        *_powerful(powers),
    ]
    return ServerFacts(
        engine=ENGINE_NAMES[0],
        version=session.server.version_text,
        user=user,
        database=database,
        tls=status.get("Ssl_version") or None,
        now_s=float(now_s),
        connections_max=min(limits) if limits else None,
        connections_used=int(status.get("Threads_connected") or 0) or None,
        notes=tuple(notes),
    )


_READS = frozenset(
    (
        *("SELECT", "USAGE", "SHOW VIEW", "SHOW DATABASES", "PROCESS"),
        *("SHOW_ROUTINE", "SHOW CREATE ROUTINE"),
        *("REPLICATION CLIENT", "BINLOG MONITOR", "SLAVE MONITOR", "REPLICA MONITOR"),
    )
)
"""Privileges of those who only look. Whatever else there is, or will be, may more."""
_COLUMNS = r"\((?:[^()`]|`(?:[^`]|``)*`)*\)"
_GRANT = re.compile(rf"GRANT ((?:[A-Z_ ,]|{_COLUMNS})+) ON (.+?) TO ")


def _powers(grants: Iterable[str]) -> dict[str, list[str]]:
    """What the grants give beyond looking: privilege → what it is on. A role's are listed with
    ours while it is active; one that is not cannot be taken on within a SELECT."""
    found: dict[str, list[str]] = {}
    for grant in grants:
        match = _GRANT.match(grant)
        if match is None:
            continue
        for name in re.sub(_COLUMNS, "", match[1]).split(","):
            if name.strip() not in _READS:
                found.setdefault(name.strip(), []).append(match[2])
        if grant.endswith("WITH GRANT OPTION"):
            found.setdefault("GRANT OPTION", []).append(match[2])
    return found


def _powerful(powers: dict[str, list[str]]) -> list[SourceNote]:
    if not powers:
        return []
    said = [
        f"{name} on {places[0]}" + f" and {len(places) - 1} more" * (len(places) > 1)
        for name, places in powers.items()
    ]
    return [replace(_POWERFUL, what=f"the user may more than read: {'; '.join(said[:8])}")]


def check_readable(
    session: Session, relation: RelationName | None, query: str | None
) -> tuple[SourceNote, ...]:
    """Whether every column may be read: the statement is prepared, never run.
    See ``Source.check_readable``."""
    own = session.server.session if relation is None else ()
    with _asking(session, "looking at the privileges", own) as connection:
        if relation is None:
            catalog.describe(connection, bare_query(query or "", own))
        else:
            found = catalog.find_relation(connection, relation)
            catalog.describe(connection, f"SELECT * FROM {quote_relation(found.name)}")
    return ()


def _asking(
    session: Session, doing: str, own: Own = ()
) -> contextlib.AbstractContextManager[WatchedConnection]:
    settings = metadata_settings(session.server, ASK_MAX_S, own)
    return session.reading(settings, doing=doing, timeout_s=ASK_MAX_S)


def _status(connection: WatchedConnection, *names: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        for row in rows(connection, f"SHOW STATUS LIKE '{name}'"):
            found[name] = str(row[1])
    return found


def _proxy_note(session: Session) -> list[SourceNote]:
    if session.server.proxy is Proxy.DIRECT:
        return []
    return [
        SourceNote(
            kind=NoteKind.POOLER,
            what=f"the connection goes through {session.server.proxy.value}",
            why="every statement runs in a transaction of its own with settings that are restored "
            "after it, and a server that is silent cannot be asked what it does",
            hint="give the workers a direct address where there is one",
        )
    ]


_READ_ONLY = SourceNote(
    kind=NoteKind.REPLICA,
    what="the server is read-only, as replicas are",
    why="it spares the primary; what arrives late there is exported late",
)
_POWERFUL = SourceNote(
    kind=NoteKind.POWERFUL_USER,
    what="the user may more than read",
    why="exports need SELECT only; every session is read-only, but files (FILE), locks and the "
    "server's settings are not held by that, and the password is worth more than it must be",
    hint="a user of its own: CREATE USER …; GRANT SELECT ON the database.* TO …",
)
