"""The server's counters (``SHOW GLOBAL STATUS``) and what the server is like."""

from __future__ import annotations

from rivet_fleet.contracts.harm import HarmReading
from rivet_fleet.execution.sources.mysql.catalog import rows
from rivet_fleet.execution.sources.mysql.dialect import ENGINE_NAMES
from rivet_fleet.execution.sources.mysql.session import Session
from rivet_fleet.execution.sources.mysql.statements import metadata_settings

_LOOK_MAX_S = 5.0
_COUNTERS = (
    # The first is MySQL's, the second MariaDB's.
    *("Innodb_rows_read", "Rows_read"),
    *("Innodb_buffer_pool_reads", "Innodb_buffer_pool_read_requests"),
    *("Innodb_data_read", "Innodb_row_lock_waits", "Innodb_deadlocks"),
    *("Created_tmp_disk_tables", "Handler_read_next", "Handler_read_rnd_next", "Slow_queries"),
)
_CONTEXT = (
    *("max_execution_time", "max_statement_time", "innodb_lock_wait_timeout"),
    *("wait_timeout", "sql_mode", "time_zone", "max_connections", "transaction_isolation"),
)


def read_harm(session: Session) -> HarmReading:
    """The status and the settings that new sessions get. See ``Source.read_harm``."""
    settings = metadata_settings(session.server, _LOOK_MAX_S)
    with session.reading(
        settings, doing="reading the counters", timeout_s=_LOOK_MAX_S
    ) as connection:
        counters = rows(
            connection, f"SHOW GLOBAL STATUS WHERE Variable_name IN {_among(_COUNTERS)}"
        )
        context = rows(
            connection, f"SHOW GLOBAL VARIABLES WHERE Variable_name IN {_among(_CONTEXT)}"
        )
        ((at_s,),) = rows(connection, "SELECT UNIX_TIMESTAMP(SYSDATE(6))")
    return HarmReading(
        engine=ENGINE_NAMES[0],
        taken_at_s=float(at_s),
        counters={str(name): int(value) for name, value in counters},
        context={
            "version": session.server.version_text,
            **{str(name): str(value) for name, value in context},
        },
    )


def _among(names: tuple[str, ...]) -> str:
    return "(" + ", ".join(f"'{name}'" for name in names) + ")"
