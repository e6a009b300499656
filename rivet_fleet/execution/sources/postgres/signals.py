"""What a PostgreSQL server tells about the pressure on it, our own sessions left out.

Manual, "The Cumulative Statistics System": without pg_read_all_stats the sessions of others
have no state, so that a count of them would read zero.
"""

from __future__ import annotations

from rivet_fleet.contracts.url import CAREFUL, DatabaseUrl, Login
from rivet_fleet.errors import SourceRefused
from rivet_fleet.execution.engines.session import Settings
from rivet_fleet.execution.signals import (
    ANSWER_BYTES_MAX,
    ANSWER_MAX_S,
    SignalSpec,
    one_number,
    unknown_signal,
)
from rivet_fleet.execution.sources.postgres.dialect import OWN_PATH, from_item
from rivet_fleet.execution.sources.postgres.querysession import PLAIN_STRINGS
from rivet_fleet.execution.sources.postgres.session import Session

_STATS = "membership in pg_read_all_stats (or pg_monitor)"
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


class PostgresSignals:
    """``SourceSignals`` over one session, in short transactions: statistics are not frozen."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._may: bool | None = None

    def read(self, name: str) -> float:
        """A number of the statistics views. Raises SourceRefused where pg_read_all_stats is
        missing: without it others' work would not be counted."""
        self._session.undoing = False
        spec = SIGNALS.get(name)
        if spec is None:
            raise unknown_signal(name, SIGNALS)
        if spec.needs is not None and not self._may_read_all():
            raise SourceRefused(
                f"{self._session.url.identity}: {name} needs {spec.needs}",
                hint=f"GRANT pg_read_all_stats TO {self._session.url.user or 'the user'}",
            )
        if name == "requested_checkpoints":
            new = self._session.server_version_num >= _CHECKPOINTER_SINCE
            return self._answer(_CHECKPOINTS if new else _CHECKPOINTS_OLD, _OWN)
        return self._answer(_SQL[name], _OWN)

    def query(self, sql: str) -> float:
        """The one number of a query, read as part of a SELECT of ours. Raises SourceError."""
        self._session.undoing = True
        # Part of a SELECT of ours, as a `query:` is: COPY … TO PROGRAM is one statement, too.
        selected = f"SELECT * FROM {from_item(None, sql)} LIMIT 2"
        return self._answer(selected, ((PLAIN_STRINGS, "on"),))

    def _answer(self, sql: str, settings: Settings) -> float:
        limit = (("statement_timeout", f"'{int(ANSWER_MAX_S * 1000)}ms'"), *settings)
        doing = "reading a signal"
        with self._session.reading(limit, doing=doing, timeout_s=ANSWER_MAX_S) as cursor:
            # Binary: the extended protocol, which takes one statement and no second one.
            cursor.execute(sql.encode(), binary=True)
            rows = cursor.fetchmany(2)
        return one_number(rows, "the signal's query")

    def close(self) -> None:
        """Close the session. Never raises."""
        self._session.close()

    def _may_read_all(self) -> bool:
        if self._may is None:
            self._may = bool(self._answer(_MAY, _OWN))
        return self._may


def open_signals(
    url: DatabaseUrl,
    *,
    tls_mode: str | None = None,
    tls_ca_file: str | None = None,
    application_name: str,
    login: Login = CAREFUL,
) -> PostgresSignals:
    """A monitoring connection of its own; connects at first use."""
    return PostgresSignals(
        Session(
            url,
            tls_mode=tls_mode,
            tls_ca_file=tls_ca_file,
            application_name=application_name,
            login=login,
            answer_bytes_max=ANSWER_BYTES_MAX,
        )
    )
