"""What a MySQL or MariaDB server tells about the pressure on it, our own sessions left out.

Ours are those of the user we connect as. Without PROCESS the sessions of others are not listed,
so that a count of them would read zero (manuals: "SHOW PROCESSLIST").
"""

from __future__ import annotations

from typing import Any

from rivet_fleet.errors import SourceRefused
from rivet_fleet.execution.engines.signals import EngineSignals
from rivet_fleet.execution.signals import ANSWER_MAX_S, SignalSpec, one_number
from rivet_fleet.execution.sources.mysql.border import told
from rivet_fleet.execution.sources.mysql.session import Session
from rivet_fleet.execution.sources.mysql.statements import bare_query, from_item

_PROCESS = "the PROCESS privilege"
_OTHERS = "p.USER <> SUBSTRING_INDEX(USER(), '@', 1) AND p.USER <> 'event_scheduler'"
_IDLE = "'Sleep', 'Daemon', 'Binlog Dump', 'Binlog Dump GTID', 'Slave_IO', 'Slave_SQL'"

SIGNALS: dict[str, SignalSpec] = {
    "lock_waits": SignalSpec(meaning="row locks that are waited for"),
    "log_waits": SignalSpec(meaning="waits because the log buffer was too small", counter=True),
    "running_sessions": SignalSpec(
        meaning="sessions of other users that run a statement", needs=_PROCESS
    ),
    "longest_transaction_s": SignalSpec(
        meaning="age of the oldest transaction of other users", needs=_PROCESS
    ),
    "replication_lag_s": SignalSpec(
        meaning="seconds this replica is behind", needs="REPLICATION CLIENT or SLAVE MONITOR"
    ),
}
_STATUS = {"lock_waits": "Innodb_row_lock_current_waits", "log_waits": "Innodb_log_waits"}
_SQL = {
    "running_sessions": f"""
        SELECT COUNT(*) FROM information_schema.PROCESSLIST p
        WHERE p.COMMAND NOT IN ({_IDLE}) AND {_OTHERS} AND p.USER <> 'system user'""",
    "longest_transaction_s": f"""
        SELECT COALESCE(MAX(TIMESTAMPDIFF(SECOND, t.trx_started, NOW())), 0)
        FROM information_schema.INNODB_TRX t
        JOIN information_schema.PROCESSLIST p ON p.ID = t.trx_mysql_thread_id WHERE {_OTHERS}""",
}
# Whoever may read the grant tables sees everybody's privileges: only our own count. A privilege
# that comes by a role is not listed as ours, but seeing others proves it.
_MAY = f"""
    SELECT (SELECT COUNT(*) FROM information_schema.USER_PRIVILEGES u
            WHERE u.PRIVILEGE_TYPE = 'PROCESS' AND REPLACE(u.GRANTEE, '\\'', '') = CURRENT_USER())
         + (SELECT COUNT(*) FROM information_schema.PROCESSLIST p WHERE {_OTHERS}) > 0
"""
_REPLICA = ("SHOW REPLICA STATUS", "SHOW SLAVE STATUS")
_BEHIND = ("Seconds_Behind_Source", "Seconds_Behind_Master")
_SYNTAX = 1064
_QUERY = "the signal's query"


class Signals(EngineSignals[Session]):
    """``SourceSignals`` over one session."""

    specs = SIGNALS
    privilege = _PROCESS
    grant = "GRANT PROCESS ON *.*"

    def _number(self, name: str) -> float:
        if name in _STATUS:
            rows = self._rows(f"SHOW GLOBAL STATUS LIKE '{_STATUS[name]}'")
            return one_number([row[1:] for row in rows], name)
        if name == "replication_lag_s":
            return self._behind()
        return one_number(self._rows(_SQL[name]), name)

    def _of_query(self, sql: str) -> float:
        # Part of a SELECT, as a `query:` is: only the session keeps what runs in it from writing,
        # and a SET would make it another one.
        bare = bare_query(sql, self._session.server.session or None)
        return one_number(self._rows(f"SELECT * FROM {from_item(None, bare)} LIMIT 2"), _QUERY)

    def _ask_privilege(self) -> bool:
        return bool(one_number(self._rows(_MAY), "PROCESS"))

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        with (
            self._session.reading((), doing="reading a signal", timeout_s=ANSWER_MAX_S) as link,
            link.cursor() as cursor,
        ):
            cursor.execute(sql)
            return list(cursor.fetchmany(2))

    def _behind(self) -> float:
        import pymysql

        with (
            self._session.reading((), doing="reading a signal", timeout_s=ANSWER_MAX_S) as link,
            link.cursor(pymysql.cursors.DictCursor) as cursor,
        ):
            try:
                cursor.execute(_REPLICA[0])
            except pymysql.MySQLError as error:
                if told(error)[0] != _SYNTAX:
                    raise
                cursor.execute(_REPLICA[1])
            row = cursor.fetchone()
        behind = next((row[name] for name in _BEHIND if row and name in row), None)
        if behind is None:
            raise SourceRefused(f"{self._session.url.identity} does not replicate now")
        return one_number([[behind]], "replication_lag_s")
