"""What a PostgreSQL server tells about the pressure on it, our own sessions left out.

Manual, "The Cumulative Statistics System": without pg_read_all_stats the sessions of others
have no state, so that a count of them would read zero.
"""

from __future__ import annotations

from rivet_fleet.execution.engines.session import Settings
from rivet_fleet.execution.engines.signals import EngineSignals
from rivet_fleet.execution.signals import ANSWER_MAX_S, SignalSpec, one_number
from rivet_fleet.execution.sources.postgres.catalog import execute_alone
from rivet_fleet.execution.sources.postgres.dialect import OWN_PATH, from_item
from rivet_fleet.execution.sources.postgres.querysession import PLAIN_STRINGS
from rivet_fleet.execution.sources.postgres.session import Session

_STATS = "membership in pg_read_all_stats (or pg_monitor)"
# By the name that ours have: a governor must not see the load of its own fleet (ADR 0013).
_OTHERS = "coalesce(a.application_name, '') NOT LIKE 'rivet-fleet%' AND a.pid <> pg_backend_pid()"
_CHECKPOINTER_SINCE = 170000

SIGNALS: dict[str, SignalSpec] = {
    "lock_waits": SignalSpec(meaning="sessions of others that wait for a lock"),
    "running_sessions": SignalSpec(meaning="sessions of others that run a query", needs=_STATS),
    "longest_transaction_s": SignalSpec(
        meaning="age of the oldest transaction of others", needs=_STATS
    ),
    "requested_checkpoints": SignalSpec(
        meaning="checkpoints that were due before their time", counter=True
    ),
    "replication_lag_s": SignalSpec(
        meaning="on a primary the slowest standby's replay lag, on a standby its own", needs=_STATS
    ),
}
_SQL = {
    "lock_waits": f"""
        SELECT count(DISTINCT l.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE NOT l.granted AND {_OTHERS}""",
    "running_sessions": f"""
        SELECT count(*) FROM pg_stat_activity a
        WHERE a.state = 'active' AND a.backend_type = 'client backend' AND {_OTHERS}""",
    "longest_transaction_s": f"""
        SELECT coalesce(max(extract(epoch FROM clock_timestamp() - a.xact_start)), 0)
        FROM pg_stat_activity a WHERE a.backend_type = 'client backend' AND {_OTHERS}""",
    # A standby that has replayed all it received is not behind, however old the last change is.
    "replication_lag_s": """
        SELECT CASE
          WHEN NOT pg_is_in_recovery() THEN
            (SELECT coalesce(max(extract(epoch FROM r.replay_lag)), 0) FROM pg_stat_replication r)
          WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
          ELSE coalesce(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()), 0)
        END""",
}
_CHECKPOINTS = "SELECT num_requested FROM pg_stat_checkpointer"
_CHECKPOINTS_OLD = "SELECT checkpoints_req FROM pg_stat_bgwriter"
_OWN: Settings = (("search_path", OWN_PATH),)
_MAY = "SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')::int"


class Signals(EngineSignals[Session]):
    """``SourceSignals`` over one session, in short transactions: statistics are not frozen."""

    specs = SIGNALS
    privilege = _STATS
    grant = "GRANT pg_read_all_stats"

    def _number(self, name: str) -> float:
        if name == "requested_checkpoints":
            new = self._session.server_version_num >= _CHECKPOINTER_SINCE
            return self._answer(_CHECKPOINTS if new else _CHECKPOINTS_OLD, _OWN)
        return self._answer(_SQL[name], _OWN)

    def _of_query(self, sql: str) -> float:
        # Part of a SELECT of ours, as a `query:` is: COPY … TO PROGRAM is one statement, too.
        selected = f"SELECT * FROM {from_item(None, sql)} LIMIT 2"
        return self._answer(selected, ((PLAIN_STRINGS, "on"),))

    def _ask_privilege(self) -> bool:
        return bool(self._answer(_MAY, _OWN))

    def _answer(self, sql: str, settings: Settings) -> float:
        limit = (("statement_timeout", f"'{int(ANSWER_MAX_S * 1000)}ms'"), *settings)
        doing = "reading a signal"
        with self._session.reading(limit, doing=doing, timeout_s=ANSWER_MAX_S) as cursor:
            execute_alone(cursor, sql.encode())
            rows = cursor.fetchmany(2)
        return one_number(rows, "the signal's query")
