"""A SQLite state belongs to one host: its WAL lives in memory that hosts do not share."""

from __future__ import annotations

from rivet_fleet.contracts.lease import WorkerIdentity
from rivet_fleet.errors import StateRefused
from rivet_fleet.persistence.database import Transaction

QUIET_S = 30.0
"""How long the former host must have been silent before another one may take over (a laptop
that was rebooted, a container that was replaced)."""

_READ = "SELECT value FROM fleet_meta WHERE key = 'host_id'"
_LAST_SIGN = """
SELECT NOW_S - max(at_s) FROM (
  SELECT at_s FROM fleet_meta WHERE key = 'host_id'
  UNION ALL
  SELECT heartbeat_at_s FROM worker WHERE host_id = :host_id AND ended_at_s IS NULL) seen
"""
_WRITE = """
INSERT INTO fleet_meta (key, value, at_s) VALUES ('host_id', :host_id, NOW_S)
ON CONFLICT (key) DO UPDATE SET value = excluded.value, at_s = excluded.at_s
"""


def require_this_host(tx: Transaction, worker: WorkerIdentity) -> None:
    """Raise StateRefused while another host uses this state; take it over when that is quiet."""
    owner = tx.scalar(_READ)
    if owner == worker.host_id:
        return
    if owner is not None:
        quiet_s = tx.scalar(_LAST_SIGN, host_id=owner)
        if quiet_s < QUIET_S:
            raise StateRefused(
                f"this SQLite state is in use by host {owner}, and this is {worker.host_id}",
                hint="workers on several hosts need a PostgreSQL state database; if that host "
                f"is gone for good, try again in {QUIET_S - quiet_s:.0f} s",
                code="RIVET_STATE_SEVERAL_HOSTS",
            )
    tx.run(_WRITE, host_id=worker.host_id)
