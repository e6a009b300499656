"""From a state URL to a store."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from rivet_fleet.contracts.codec import loads_checked
from rivet_fleet.contracts.doctor import StateHealth
from rivet_fleet.contracts.identity import NAMESPACE_DEFAULT, CampaignIdentity
from rivet_fleet.contracts.seals import Sealer
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import StateError, StateRefused
from rivet_fleet.persistence.database import Database, Transaction
from rivet_fleet.persistence.dialects import (
    ANSWER_MAX_S,
    Dialect,
    SqliteDialect,
    refuse_network_filesystem,
    refuse_strangers,
)
from rivet_fleet.persistence.guards import SCHEMA_VERSION
from rivet_fleet.persistence.migrate import stored_version
from rivet_fleet.persistence.rivet import RivetCursor, cursors_of, refuse_rivets
from rivet_fleet.persistence.store import Store

_SQLITE = "sqlite:///"
_PARAMETERS = re.compile(r"\?[A-Za-z_]+=[^/]*\Z")
_WRITE = "write sqlite:///path or postgresql://user@host:port/database"


def open_store(
    url: str,
    *,
    namespace: str = NAMESPACE_DEFAULT,
    pool_size: int = 2,
    answer_max_s: float = ANSWER_MAX_S,
    seal_key: bytes | None = None,
) -> Store:
    """A store for ``sqlite:///path`` or ``postgresql://user:password@host:port/database``.

    ``seal_key``: what seals are made with (ADR 0024); None: plain digests.
    ``namespace``: the part of the state that the store sees and changes (ADR 0022).
    ``answer_max_s``: how long a server may take for one statement before its connection is
    given up (no meaning for SQLite). Connects at the first call, not here. Raises StateRefused
    for a URL it does not understand (without repeating it: it may hold a secret) or a path that
    cannot be used.
    """
    dialect = dialect_of(url, answer_max_s)
    sealer = Sealer(key=seal_key)
    return Store(Database(dialect, pool_size=pool_size, namespace=namespace, sealer=sealer))


def store_exists(url: str) -> bool:
    """False for a SQLite file that is not there: opening it would create it. A server may be
    there; only asking it tells. Connects to nothing."""
    if not url.startswith(_SQLITE):
        return True
    return Path(_file_of(url)).is_file()


def rivets_cursors_of_server(url: str) -> tuple[str, tuple[RivetCursor, ...]]:
    """Where a PostgreSQL state of Rivet's is, without a secret, and its cursors. StateError."""
    with contextlib.closing(Database(dialect_of(url), pool_size=1)) as database:
        target = database.dialect.target
        with database.connected() as connection:
            return target, cursors_of(connection, target)


def sqlite_path(url: str) -> Path | None:
    """The file of a SQLite URL, None for a server's. Raises StateRefused for one in memory."""
    if not url.startswith(_SQLITE):
        return None
    path = _file_of(url)
    if path in ("", ":memory:"):
        raise StateRefused("a fleet needs a SQLite state in a file", hint=_WRITE)
    return Path(path).absolute()


def _file_of(url: str) -> str:
    """The path as it stands: a folder's name may hold ? # % and whatever else. Raises StateRefused
    for what is written as parameters of a URL: a file has none."""
    path = url.removeprefix(_SQLITE)
    found = _PARAMETERS.search(path)
    if found is not None:
        raise StateRefused(
            f"a SQLite state has no parameters, and {found[0]} looks like one",
            hint=f"{_WRITE}; all that stands behind sqlite:/// is the file's path",
        )
    return path


_SLASHES = (
    f"three slashes, then the path: {_SQLITE}state.db is relative to the folder the command is "
    f"started in, {_SQLITE}/var/lib/state.db is absolute"
)


def _refuse_misspelt(url: str) -> None:
    """Raise StateRefused for what is meant for a SQLite file and is not written as one. It is not
    repeated: whatever stands there may hold a secret."""
    word = url.partition(":")[0].strip().lower()
    if word.partition("+")[0].removesuffix("3") in ("sqlite", "file"):
        raise StateRefused(
            f"the state URL begins with {word}:, and that of a SQLite file with {_SQLITE}",
            hint=_SLASHES,
        )
    if url.strip() and "://" not in url and "=" not in url:
        raise StateRefused("the state URL has no scheme: it looks like a path", hint=_SLASHES)


def dialect_of(url: str, answer_max_s: float = ANSWER_MAX_S) -> Dialect:
    """The backend of a URL. Raises StateRefused as ``open_store`` does."""
    path = sqlite_path(url)
    if path is not None:
        return SqliteDialect(path)
    _refuse_misspelt(url)
    try:
        parsed = parse_database_url(url)
    except ValueError as problem:
        raise StateRefused(f"the state URL cannot be read: {problem}", hint=_WRITE) from None
    if parsed.scheme not in ("postgresql", "postgres"):
        raise StateRefused(
            f"the state URL's scheme {parsed.scheme!r} is not known",
            hint=_WRITE,
        )
    if not (parsed.database or parsed.user or parsed.option("service")):
        raise StateRefused("the state URL names no database", hint=_WRITE)
    if not (parsed.stays_here or parsed.tls_decided):
        raise StateRefused(
            f"the state database {parsed.identity} is remote, and its URL does not say whether "
            "the way there is encrypted",
            hint="add ?sslmode=verify-full to it (and sslrootcert=…), or ?sslmode=disable to opt "
            "out",
            code="RIVET_STATE_NOT_ENCRYPTED",
        )
    # Imported here: most states of one host need no server's driver.
    from rivet_fleet.persistence.postgres_dialect import PostgresDialect

    return PostgresDialect(parsed, answer_max_s=answer_max_s)


# ------------------------------------------------------------------------------------------
# Looking at a state database without creating or migrating anything.

_TOUCH = "UPDATE campaign SET campaign_name = campaign_name WHERE 1 = 0"
_OTHERS = """
SELECT DISTINCT identity_json FROM campaign
WHERE namespace <> :namespace AND identity_json IS NOT NULL
"""
_PROTECTION = (
    "SELECT coalesce((SELECT version || ', ' || cipher FROM pg_stat_ssl"
    " WHERE pid = pg_backend_pid() AND ssl), '')"
)
# A superuser needs no object in our way; pg_database_owner is whoever owns this database.
_MAKERS = """
SELECT DISTINCT s.nspname, CASE m.grantee WHEN 0 THEN 'PUBLIC' ELSE r.rolname END
FROM pg_catalog.pg_namespace s
CROSS JOIN LATERAL aclexplode(coalesce(s.nspacl, acldefault('n', s.nspowner))) a
CROSS JOIN LATERAL (SELECT CASE
    WHEN pg_get_userbyid(a.grantee) = 'pg_database_owner'
    THEN (SELECT datdba FROM pg_catalog.pg_database WHERE datname = current_database())
    ELSE a.grantee END AS grantee) m
LEFT JOIN pg_catalog.pg_roles r ON r.oid = m.grantee
WHERE s.nspname = ANY (current_schemas(false)) AND a.privilege_type = 'CREATE'
  AND (m.grantee = 0 OR NOT (r.rolsuper OR r.rolname = current_user))
ORDER BY 1, 2
"""
_MAY_CREATE = "SELECT has_schema_privilege(current_schema(), 'CREATE')"


def state_health(url: str, *, namespace: str = NAMESPACE_DEFAULT) -> StateHealth:
    """How it stands. Raises StateUnavailable, StateRefused when it cannot even be asked.

    Whether it can be written is tried with a statement that changes no row; a file that is not
    there yet is not made.
    """
    path = sqlite_path(url)
    if path is not None and not path.exists():
        return _absent_file(path)
    database = Database(dialect_of(url), pool_size=1, namespace=namespace)
    try:
        with database.connected() as connection:
            version = stored_version(connection)
            if version is None:
                refuse_rivets(connection, database.dialect.target)
        return StateHealth(
            target=database.dialect.target,
            schema_version=version,
            known_version=SCHEMA_VERSION,
            one_host=database.dialect.one_host,
            now_s=database.one(lambda tx: float(tx.scalar("SELECT NOW_S"))),
            obstacle=_obstacle(database, version),
            encryption=None if path is not None else _encryption(database),
            makers=() if path is not None else _makers(database),
            read_by_others=_read_by_others(database) if version == SCHEMA_VERSION else frozenset(),
        )
    finally:
        database.close()


def _read_by_others(database: Database) -> frozenset[str]:
    """Sources alone: nothing else of another namespace is anybody's business here, nor whether it
    can be read."""
    found = database.one(lambda tx: tx.all(_OTHERS))
    return frozenset(one for row in found for one in _sources(row[0]))


def _sources(identity_json: str) -> tuple[str, ...]:
    try:
        return loads_checked(CampaignIdentity, identity_json).sources
    except (LookupError, RecursionError, TypeError, ValueError):
        return ()


def _absent_file(path: Path) -> StateHealth:
    refuse_network_filesystem(path)
    obstacle = None
    if path.parent.exists():
        refuse_strangers(path)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        obstacle = f"{path.parent} does not exist or cannot be written"
    return StateHealth(
        target=f"sqlite:///{path}",
        schema_version=None,
        known_version=SCHEMA_VERSION,
        one_host=True,
        now_s=None,
        obstacle=obstacle,
    )


def _encryption(database: Database) -> str | None:
    """What the server says of this connection; None where it does not say."""
    try:
        return str(database.one(lambda tx: tx.scalar(_PROTECTION)))
    except StateError:
        return None


def _makers(database: Database) -> tuple[tuple[str, str], ...]:
    def work(tx: Transaction) -> tuple[tuple[str, str], ...]:
        return tuple((str(schema), str(role)) for schema, role in tx.all(_MAKERS))

    return database.one(work)


def _obstacle(database: Database, version: str | None) -> str | None:
    def work(tx: Transaction) -> bool:
        if version is not None:
            tx.run(_TOUCH)
            return True
        return database.dialect.one_host or bool(tx.scalar(_MAY_CREATE))

    try:
        return None if database.write(work) else "the user may create no table in its schema"
    except StateError as error:
        return error.message
