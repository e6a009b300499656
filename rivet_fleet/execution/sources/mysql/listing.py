"""The dictionary as a whole, and the server itself: what ``init``, ``doctor`` and ``check`` ask."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import replace

import pymysql

from rivet_fleet.contracts.facts import (
    ListedRelation,
    Listing,
    NoteKind,
    RelationKind,
    ServerFacts,
    SourceNote,
)
from rivet_fleet.contracts.keys import RelationName
from rivet_fleet.execution.engines.session import real, whole
from rivet_fleet.execution.sources.mysql import catalog
from rivet_fleet.execution.sources.mysql.border import CLIENT_ERRNOS, told
from rivet_fleet.execution.sources.mysql.catalog import Row, rows
from rivet_fleet.execution.sources.mysql.dialect import ENGINE_NAMES, quote_relation
from rivet_fleet.execution.sources.mysql.liveness import WatchedConnection
from rivet_fleet.execution.sources.mysql.querysession import Own
from rivet_fleet.execution.sources.mysql.session import Proxy, Session
from rivet_fleet.execution.sources.mysql.statements import bare_query, metadata_settings

ASK_MAX_S = 30.0
_SAID_MAX = 8
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
        row_estimate=None if estimate is None else whole(estimate),
        size_bytes=None if size is None else whole(size),
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
        grants = _grants(connection, "SHOW GRANTS")
        said = [*_told(_powers(grants)), *_told_of_roles(session, connection, grants)]
    if any(map(_ROLES.match, grants)):
        # Each was taken on to see what it gives: the next use logs in anew.
        session.close()
    limits = [n for n in map(whole, (most, own_limit)) if n > 0]
    notes = [
        *_proxy_note(session),
        *([_READ_ONLY] if whole(read_only or 0) else []),
        *_powerful(said),
    ]
    return ServerFacts(
        engine=ENGINE_NAMES[0],
        version=session.server.version_text,
        user=user,
        database=database,
        tls=status.get("Ssl_version") or None,
        now_s=real(now_s),
        connections_max=min(limits) if limits else None,
        connections_used=whole(status.get("Threads_connected") or 0) or None,
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
    ours while it is active."""
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


def _told(powers: dict[str, list[str]], role: str = "") -> list[str]:
    return [
        f"{name} on {places[0]}"
        + f" and {len(places) - 1} more" * (len(places) > 1)
        + (role and f" as role {role}")
        for name, places in powers.items()
    ]


def _grants(connection: WatchedConnection, ask: str) -> list[str]:
    return [str(row[0]) for row in rows(connection, ask)]


_NAME = r"(?:`(?:[^`]|``)*`|[0-9A-Za-z_$]+)"
_ROLE = rf"{_NAME}(?:@{_NAME})?"
_ROLES = re.compile(rf"GRANT ({_ROLE}(?:, ?{_ROLE})*) TO ")
_ROLES_MAX = 32


def _told_of_roles(session: Session, connection: WatchedConnection, grants: list[str]) -> list[str]:
    """What roles add that are granted and not active: a SELECT cannot take one on, but who has
    the password can (``SET ROLE``)."""
    lists = [match[1] for match in map(_ROLES.match, grants) if match]
    roles = list(dict.fromkeys(role for text in lists for role in re.findall(_ROLE, text)))
    known, said = set(grants), []
    for role in roles[:_ROLES_MAX]:
        found = _grants_as(session, connection, role)
        if found is None:
            said.append(f"what role {role} may, which could not be looked at")
        else:
            said += _told(_powers(grant for grant in found if grant not in known), role)
            known.update(found)
    if len(roles) > _ROLES_MAX:
        said.append(f"what {len(roles) - _ROLES_MAX} more roles may, which were not looked at")
    return said


def _grants_as(session: Session, connection: WatchedConnection, role: str) -> list[str] | None:
    """The user's grants with this role's; None where the server does not tell. MariaDB tells
    them of an active role alone, and a borrowed session is not ours to give another."""
    try:
        if not session.server.mariadb:
            return _grants(connection, f"SHOW GRANTS FOR CURRENT_USER() USING {role}")
        if session.server.proxy is not Proxy.DIRECT:
            return None
        with connection.cursor() as cursor:
            cursor.execute(f"SET ROLE {role}")
        return _grants(connection, "SHOW GRANTS")
    except pymysql.MySQLError as error:
        if not connection.open or told(error)[0] in CLIENT_ERRNOS:
            raise
        return None


def _powerful(said: list[str]) -> list[SourceNote]:
    if not said:
        return []
    more = len(said) - _SAID_MAX
    shown = "; ".join(said[:_SAID_MAX]) + (f"; and {more} more" if more > 0 else "")
    return [replace(_POWERFUL, what=f"the user may more than read: {shown}")]


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
