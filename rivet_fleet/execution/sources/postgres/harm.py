"""The database's counters (``pg_stat_database``) and what the server is like."""

from __future__ import annotations

from rivet_fleet.contracts.harm import HarmReading
from rivet_fleet.execution.sources.postgres.dialect import ENGINE_NAMES
from rivet_fleet.execution.sources.postgres.session import Session
from rivet_fleet.execution.sources.postgres.statements import catalog_settings

_LOOK_MAX_S = 5.0
_COUNTERS = (
    *("blks_read", "blks_hit", "tup_returned", "tup_fetched"),
    *("temp_files", "temp_bytes", "deadlocks", "conflicts"),
)
_CONTEXT = (
    *("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"),
    *("TimeZone", "max_connections"),
)
# What sessions get by default: our own transaction has set some of these for itself.
_LOOK = f"""
SELECT extract(epoch FROM clock_timestamp())::float8,
       (SELECT json_build_object({", ".join(f"'{name}', d.{name}" for name in _COUNTERS)})
        FROM pg_catalog.pg_stat_database d WHERE d.datname = current_database()),
       (SELECT json_object_agg(s.name, s.reset_val) FROM pg_catalog.pg_settings s
        WHERE s.name IN ({", ".join(f"'{name}'" for name in _CONTEXT)}))
"""


def read_harm(session: Session) -> HarmReading:
    """One question to the statistics views; no table is touched. See ``Source.read_harm``."""
    settings = catalog_settings(_LOOK_MAX_S)
    with session.transaction(
        settings, doing="reading the counters", timeout_s=_LOOK_MAX_S
    ) as cursor:
        row = cursor.execute(_LOOK.encode()).fetchone()
    assert row is not None
    at_s, counters, context = row
    return HarmReading(
        engine=ENGINE_NAMES[0],
        taken_at_s=at_s,
        counters={name: int(value) for name, value in (counters or {}).items()},
        context={"version": session.server_version, **(context or {})},
    )
