"""How often the rows of a relation were changed, as the server counts it.

Manual, "The Cumulative Statistics System": backends hand in their counts at the end of a
transaction, at most once a second, an idle one within ten; a crash forgets them all, and a
standby counts nothing that it replays. A snapshot says more: as long as no transaction has
begun to write, two of them are the same (manual, "System Information Functions",
``pg_snapshot``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import Cursor

from rivet_fleet.contracts.keys import RelationName
from rivet_fleet.contracts.proof import ChangeReading
from rivet_fleet.execution.sources.postgres.catalog import Relation, find_relation, oids_of
from rivet_fleet.execution.sources.postgres.dialect import metadata_settings
from rivet_fleet.execution.sources.postgres.session import Session

CHANGES_MAX_S = 5.0
_LAG_S = 11.0
"""When even an idle backend has handed in what it counted."""
_SNAPSHOTS_SINCE = 130_000
_SHARED_SINCE = 150_000
"""Counts are handed in to shared memory at once, at the latest when a backend ends."""
_CHANGES_LOOK = """
WITH RECURSIVE tree(root, oid) AS (
  SELECT w.oid, w.oid FROM pg_catalog.unnest(%s::oid[]) AS w(oid) UNION
  SELECT tree.root, i.inhrelid FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.oid
)
SELECT tree.root, pg_catalog.{snapshot}()::text,
       pg_catalog.bool_and(c.relkind IN ('r', 'p')),
       pg_catalog.bool_and(c.relkind IN ('r', 'p', 'm')),
       pg_catalog.pg_is_in_recovery(),
       pg_catalog.current_setting('track_counts'),
       pg_catalog.md5(pg_catalog.string_agg(c.oid::text, ',' ORDER BY c.oid)),
       (SELECT d.stats_reset::text FROM pg_catalog.pg_stat_database d
        WHERE d.datname = pg_catalog.current_database()),
       (SELECT b.stats_reset::text FROM pg_catalog.pg_stat_bgwriter b),
       coalesce(pg_catalog.sum(pg_catalog.pg_stat_get_tuples_inserted(c.oid)), 0)::bigint,
       coalesce(pg_catalog.sum(pg_catalog.pg_stat_get_tuples_updated(c.oid)), 0)::bigint,
       coalesce(pg_catalog.sum(pg_catalog.pg_stat_get_tuples_deleted(c.oid)), 0)::bigint,
       ARRAY(SELECT DISTINCT l.virtualtransaction FROM pg_catalog.pg_locks l
             WHERE l.locktype = 'virtualxid' AND l.granted
               AND l.pid <> pg_catalog.pg_backend_pid()),
       (SELECT pg_catalog.pg_stat_get_db_numbackends(d.oid) FROM pg_catalog.pg_database d
        WHERE d.datname = pg_catalog.current_database())
FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.oid
GROUP BY tree.root
"""


def read_changes(session: Session, relation: RelationName) -> ChangeReading:
    """See ``Source.read_changes``. Statistics and the catalogue alone; no table is touched."""
    with session.reading(
        metadata_settings(CHANGES_MAX_S),
        doing="reading how often rows were changed",
        timeout_s=CHANGES_MAX_S,
    ) as cursor:
        found = find_relation(cursor, relation)
        return changes_of(session, cursor, [found])[found.oid]


def changes_of(
    session: Session, cursor: Cursor[tuple[Any, ...]], relations: Sequence[Relation]
) -> dict[int, ChangeReading]:
    """The counters of each relation at one moment, by its OID."""
    new = session.server_version_num >= _SNAPSHOTS_SINCE
    snapshot = "pg_current_snapshot" if new else "txid_current_snapshot"
    sql = _CHANGES_LOOK.format(snapshot=snapshot).encode()
    rows = cursor.execute(sql, (oids_of(relations),), prepare=True).fetchall()
    return {root: _reading(session, row) for root, *row in rows}


def _reading(session: Session, row: Sequence[Any]) -> ChangeReading:
    moment, tables, local, standby, tracked, leaves, *resets_and_counts = row
    *resets, inserted, updated, deleted, others, backends = resets_and_counts
    alone = backends <= 1 and session.server_version_num >= _SHARED_SINCE
    countable = tables and not standby and tracked == "on"
    return ChangeReading(
        inserted=inserted,
        updated=updated,
        deleted=deleted,
        epoch=" ".join((leaves, *(str(reset) for reset in resets))) if countable else "",
        # What a foreign table or a view shows may change without a transaction here.
        moment=moment if local else "",
        lag_s=0.0 if alone else _LAG_S,
        open_transactions=tuple(others),
    )
