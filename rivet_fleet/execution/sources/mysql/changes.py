"""How often rows were changed, as the server counts it; and the rows of a relation, counted.

The counters are those of the whole server: an upper bound for each of its tables, and never late.
MySQL counts InnoDB's own work, cascades of foreign keys included; MariaDB only what statements ask
of an engine (manuals: "Server Status Variables").
"""

from __future__ import annotations

from rivet_fleet.contracts.keys import RelationName
from rivet_fleet.contracts.proof import ChangeReading
from rivet_fleet.execution.sources.mysql.catalog import find_relation, rows
from rivet_fleet.execution.sources.mysql.liveness import WatchedConnection
from rivet_fleet.execution.sources.mysql.proxies import Proxy
from rivet_fleet.execution.sources.mysql.querysession import Own
from rivet_fleet.execution.sources.mysql.session import Session
from rivet_fleet.execution.sources.mysql.statements import metadata_settings

_LOOK_MAX_S = 5.0
_BY_ENGINE = ("Innodb_rows_inserted", "Innodb_rows_updated", "Innodb_rows_deleted")
_BY_STATEMENTS = ("Handler_write", "Handler_update", "Handler_delete")
_SINCE = ("Uptime", "Uptime_since_flush_status")
_STATUS = "SHOW GLOBAL STATUS WHERE Variable_name IN ({names})".format(
    names=", ".join(f"'{name}'" for name in (*_BY_ENGINE, *_BY_STATEMENTS, *_SINCE))
)
_CASCADES = """
SELECT COUNT(*) FROM information_schema.REFERENTIAL_CONSTRAINTS
WHERE CONSTRAINT_SCHEMA = %s AND TABLE_NAME = %s
  AND (DELETE_RULE NOT IN ('RESTRICT', 'NO ACTION') OR UPDATE_RULE NOT IN ('RESTRICT', 'NO ACTION'))
"""
_INNODB = "innodb"


def read_changes(session: Session, relation: RelationName) -> ChangeReading:
    """See ``Source.read_changes``. The status and the data dictionary; no table is touched."""
    with session.reading(
        metadata_settings(session.server, _LOOK_MAX_S),
        doing="reading how often rows were changed",
        timeout_s=_LOOK_MAX_S,
    ) as connection:
        found = find_relation(connection, relation)
        status = {str(name): int(value) for name, value in rows(connection, _STATUS)}
        ((server, now_s),) = rows(connection, "SELECT @@server_id, UNIX_TIMESTAMP(SYSDATE())")
        names: tuple[str, ...] = _BY_STATEMENTS
        if set(_BY_ENGINE) <= status.keys() and (found.storage_engine or "").lower() == _INNODB:
            names = _BY_ENGINE
        elif not _counts_everything(connection, found.name):
            names = ()
    countable = found.base_table and bool(names) and set(names) <= status.keys()
    if not countable:
        return ChangeReading()
    inserted, updated, deleted = (status[name] for name in names)
    since = min(status[name] for name in _SINCE if name in status)
    return ChangeReading(
        inserted=inserted,
        updated=updated,
        deleted=deleted,
        epoch=f"{server} {names[0]}",
        since_s=float(now_s) - since,
    )


def _counts_everything(connection: WatchedConnection, name: RelationName) -> bool:
    """False where rows of this table are changed by the changes of others: no statement asks."""
    ((cascades,),) = rows(connection, _CASCADES, (name.schema, name.name))
    return not cascades


def count_rows(session: Session, select: str, timeout_s: float, own: Own = ()) -> int:
    """One ``SELECT count(*)``, read only, within its limit. ``own``: of a query, what it was
    planned under. Raises StatementTimeout."""
    settings = metadata_settings(session.server, timeout_s, own)
    with session.reading(settings, doing="counting rows", timeout_s=timeout_s) as connection:
        ((counted,),) = rows(connection, select)
    return int(counted)


_TRANSACTIONAL = "SELECT e.ENGINE FROM information_schema.ENGINES e WHERE e.TRANSACTIONS = 'YES'"
_OTHERS = f"""
SELECT COUNT(*) FROM information_schema.TABLES t
WHERE t.TABLE_TYPE = 'BASE TABLE' AND t.ENGINE NOT IN ({_TRANSACTIONAL})
  AND t.TABLE_SCHEMA NOT IN ('information_schema', 'mysql', 'performance_schema', 'sys')
"""
_LEVELS = ("transaction_isolation", "tx_isolation")
_LASTING = ("REPEATABLE-READ", "SERIALIZABLE")


def keeps_snapshots(session: Session, relation: RelationName | None) -> bool:
    """True when a snapshot of ``Session.reading`` shows the same rows to all of its statements:
    of a table whose engine is transactional; of a view or a query only where there is no other
    table. Through a proxy our own level may have gone to another session: there the default must
    be one that lasts."""
    with session.reading(
        metadata_settings(session.server, _LOOK_MAX_S),
        doing="asking whether a snapshot lasts",
        timeout_s=_LOOK_MAX_S,
    ) as connection:
        if session.server.proxy is not Proxy.DIRECT:
            levels = rows(connection, f"SHOW VARIABLES WHERE Variable_name IN {_LEVELS}")
            if not {str(level) for _, level in levels} & set(_LASTING):
                return False
        if relation is not None:
            found = find_relation(connection, relation)
            if found.base_table:
                known = {str(name) for (name,) in rows(connection, _TRANSACTIONAL)}
                return found.storage_engine in known
        ((others,),) = rows(connection, _OTHERS)
        return not others
