"""Bringing the schema to this program's version, inside one exclusive transaction.

A database with an older schema is upgraded by Alembic, step by step. A new one is made as
``schema.py`` declares it: the same database, as a test proves, without importing Alembic.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from rivet_fleet.contracts.identity import NAMESPACE_DEFAULT
from rivet_fleet.errors import StateRefused
from rivet_fleet.persistence.database import Database, Transaction
from rivet_fleet.persistence.dialects import Dialect
from rivet_fleet.persistence.guards import SCHEMA_VERSION, VERSION_TABLE
from rivet_fleet.persistence.rivet import refuse_rivets

SCHEMA_NONE = "RIVET_STATE_SCHEMA_NONE"
SCHEMA_OLD = "RIVET_STATE_SCHEMA_OLD"
MOVED_TO = "moved_to"
"""The key of ``fleet_meta`` that says where the state of a file is now."""
QUIET_S = 60.0
_NAMESPACES_SINCE = "0007"
_LIVE = """
SELECT name, pid, host_id FROM worker
WHERE ended_at_s IS NULL AND heartbeat_at_s >= NOW_S - :quiet_s WITHIN ORDER BY name
"""
_HOLDING = """
SELECT DISTINCT owner, owner_name FROM chunk_task
WHERE status = 'running' AND lease_expires_at_s >= NOW_S WITHIN
"""
_SCRIPTS = Path(__file__).parent / "migrations"


def migrate(database: Database, *, for_all: bool = False) -> None:
    """Create or upgrade the schema. Any number of processes may call it at once: they queue.

    A file is copied before it is upgraded; a server's dump is its operator's. ``for_all``: an
    operator's word that other namespaces' programs are to know the new one, too. Raises
    StateRefused, and changes nothing, when the schema is newer than the program, when programs
    of an older one still work with it, when others use it and nobody speaks for all, when no
    copy can be kept, and for a state that was moved.
    """
    with database.migrating() as connection:
        stored = stored_version(connection)
        if stored == SCHEMA_VERSION:
            refuse_moved_state(connection, database.dialect)
            return
        refuse_newer(stored, database.dialect.target)
        if stored is None:
            refuse_rivets(connection, database.dialect.target)
            create(connection)
            return
        refuse_live(connection, database.dialect)
        if not for_all:
            _refuse_others(connection, database, stored)
        # Behind the lock, so that nothing is written between the copy and the upgrade.
        database.dialect.keep_copy(SCHEMA_VERSION)
        upgrade(connection)


def refuse_live(connection: Connection, dialect: Dialect, namespace: str | None = None) -> None:
    """Raise StateRefused while the state knows of processes that live or hold a lease: whatever
    they write next would be written into something else than they know. None: of any namespace,
    asking what every schema version has."""
    tx = Transaction(connection, dialect, namespace or NAMESPACE_DEFAULT)
    within = "" if namespace is None else "AND namespace = :namespace"
    workers = tx.all(_LIVE.replace("WITHIN", within), quiet_s=QUIET_S)
    live = [f"{row.name} (pid {row.pid} on {row.host_id})" for row in workers]
    holding = tx.all(_HOLDING.replace("WITHIN", within))
    live += [f"{row.owner_name or row.owner}, which holds a chunk" for row in holding]
    if live:
        raise StateRefused(
            f"state database {dialect.target} is in use by {', '.join(dict.fromkeys(live[:5]))}"
            + (f" and {len(live) - 5} more" if len(live) > 5 else ""),
            hint=f"nothing was changed: stop them first; one that was killed is forgotten "
            f"{QUIET_S:.0f} s after its last heartbeat, or when its lease ends",
            code="RIVET_STATE_IN_USE",
        )


def _refuse_others(connection: Connection, database: Database, stored: str) -> None:
    """Raise StateRefused where another namespace has campaigns, without naming it (N6): its
    programs would be refused from then on, at a moment that another team chose."""
    if database.dialect.one_host or stored < _NAMESPACES_SINCE:
        return
    tx = Transaction(connection, database.dialect, database.namespace)
    if tx.scalar("SELECT count(*) FROM campaign WHERE namespace <> :namespace"):
        raise StateRefused(
            f"state database {database.dialect.target} has schema version {stored}, this program "
            f"needs version {SCHEMA_VERSION}, and another namespace uses it, too",
            hint="nothing was changed; when every team's programs know that version, "
            "`rivet-fleet state migrate` brings it there for all",
            code=SCHEMA_OLD,
        )


def refuse_moved_state(connection: Connection, dialect: Dialect) -> None:
    """Raise StateRefused for a file whose state lives on a server now (B6)."""
    if not dialect.one_host:
        return
    moved = Transaction(connection, dialect).scalar(
        "SELECT value FROM fleet_meta WHERE key = :key", key=MOVED_TO
    )
    if moved is not None:
        raise StateRefused(
            f"state {dialect.target} was moved to {moved}",
            hint="point state: or RIVET_FLEET_STATE_URL there; this file is only kept as it was",
            code="RIVET_STATE_MOVED",
        )


def check_version(database: Database) -> None:
    """Raise StateRefused unless the schema is exactly this program's version."""
    with database.connected() as connection:
        stored = stored_version(connection)
        if stored == SCHEMA_VERSION:
            refuse_moved_state(connection, database.dialect)
            return
        if stored is None:
            refuse_rivets(connection, database.dialect.target)
    refuse_newer(stored, database.dialect.target)
    have = "no schema" if stored is None else f"schema version {stored}"
    raise StateRefused(
        f"state database {database.dialect.target} has {have}; "
        f"this program needs version {SCHEMA_VERSION}",
        hint="run `rivet-fleet state migrate`",
        code=SCHEMA_NONE if stored is None else SCHEMA_OLD,
    )


def refuse_newer(stored: str | None, target: str) -> None:
    """Raise StateRefused when ``stored`` is a version this program does not know. Versions are
    zero-padded numbers, so their text compares like their order."""
    if stored is not None and stored > SCHEMA_VERSION:
        raise StateRefused(
            f"state database {target} has schema version {stored}, newer than the version "
            f"{SCHEMA_VERSION} this program knows",
            hint="upgrade rivet-fleet on this machine",
            code="RIVET_STATE_SCHEMA_NEWER",
        )


def stored_version(connection: Connection) -> str | None:
    """The schema's version, None where there is no schema."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.execute(text(f"SELECT max(version_num) FROM {VERSION_TABLE}")).scalar()
    return None if found is None else str(found)


def create(connection: Connection) -> None:
    """Make every table, and the version table as Alembic would. A table of one of our names that
    is there already is an error: it is not ours."""
    # Imported here: workers start often and declare no tables.
    from rivet_fleet.persistence.schema import metadata

    metadata.create_all(connection, checkfirst=False)
    connection.execute(
        text(
            f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL, "
            f"CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY (version_num))"
        )
    )
    connection.execute(
        text(f"INSERT INTO {VERSION_TABLE} (version_num) VALUES (:version)"),
        {"version": SCHEMA_VERSION},
    )


def upgrade(connection: Connection) -> None:
    """From the version it has, or from nothing, step by step."""
    # Imported here: workers start often and never migrate.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
