"""Looking at a state database without creating or migrating anything."""

from __future__ import annotations

import os
from pathlib import Path

from rivet_fleet.contracts.codec import loads
from rivet_fleet.contracts.doctor import StateHealth
from rivet_fleet.contracts.identity import CampaignIdentity
from rivet_fleet.contracts.namespace import NAMESPACE_DEFAULT
from rivet_fleet.errors import StateError
from rivet_fleet.persistence.database import Database, Transaction
from rivet_fleet.persistence.dialects import refuse_network_filesystem
from rivet_fleet.persistence.migrate import stored_version
from rivet_fleet.persistence.open import dialect_of, sqlite_path
from rivet_fleet.persistence.versions import SCHEMA_VERSION

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
    """Sources alone: nothing else of another namespace is anybody's business here."""
    found = database.one(lambda tx: tx.all(_OTHERS))
    return frozenset(one for row in found for one in loads(CampaignIdentity, row[0]).sources)


def _absent_file(path: Path) -> StateHealth:
    refuse_network_filesystem(path)
    obstacle = None
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
    found = database.one(lambda tx: tx.all(_MAKERS))
    return tuple((str(schema), str(role)) for schema, role in found)


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
