"""The governor's lease and what it decides: every write names its fence (ADR 0013)."""

from __future__ import annotations

from rivet_fleet.contracts.events import EventName
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.lease import WorkerIdentity
from rivet_fleet.contracts.protection import GovernorLease, GovernorWord, SourceBudget
from rivet_fleet.errors import LeaseLost
from rivet_fleet.persistence.budgets import BUDGET_COLUMNS, USERS, budget_from, tell
from rivet_fleet.persistence.database import Database, Transaction

GOVERNABLE = """
SELECT b.group_name FROM source_budget b
WHERE b.namespace = :namespace AND b.monitor_json IS NOT NULL
  AND coalesce(b.governor_lease_expires_at_s, b.configured_at_s) <= NOW_S - :patience_s
  AND b.group_name IN (SELECT r.source_group FROM chunk_run r
                       WHERE r.campaign_id = :campaign_id AND r.status = 'in_progress')
ORDER BY b.group_name
"""
LEASE = f"""
UPDATE source_budget SET governor_owner = :worker_id, governor_name = :name,
  governor_fence = governor_fence + 1, governor_lease_expires_at_s = NOW_S + :lease_ttl_s
WHERE namespace = :namespace AND group_name = :group_name AND monitor_json IS NOT NULL
  AND coalesce(governor_lease_expires_at_s, configured_at_s) <= NOW_S - :patience_s
RETURNING {BUDGET_COLUMNS.replace("b.", "")}, governor_fence
"""
GOVERN = f"""
UPDATE source_budget SET permits = :permits, page_share = :page_share,
  paused_reason = :paused_reason, resumes_at_s = NOW_S + :resumes_in_s,
  valid_until_s = NOW_S + :valid_for_s, sampled_at_s = NOW_S, readings_json = :readings_json,
  halted_reason = coalesce(:halt, halted_reason),
  governor_lease_expires_at_s = NOW_S + :lease_ttl_s
WHERE namespace = :namespace AND group_name = :group_name AND governor_fence = :fence
RETURNING {BUDGET_COLUMNS.replace("b.", "")}
"""
_LEAVE = """
UPDATE source_budget SET governor_lease_expires_at_s = 0
WHERE namespace = :namespace AND group_name = :group_name AND governor_fence = :fence
"""
_HALT = f"""
UPDATE campaign SET halted_reason = :halt
WHERE status = 'active' AND halted_reason IS NULL AND campaign_id IN ({USERS})
"""
_LIFT = """
UPDATE campaign SET halted_reason = NULL
WHERE campaign_id = :campaign_id AND halted_reason IS NOT NULL
"""
_LIFT_GROUPS = """
UPDATE source_budget SET halted_reason = NULL
WHERE namespace = :namespace AND halted_reason IS NOT NULL AND group_name IN (
  SELECT r.source_group FROM chunk_run r WHERE r.campaign_id = :campaign_id)
"""


class Governing:
    """One governor per group, over one database."""

    _db: Database

    def lease_governor(
        self,
        campaign_id: CampaignId,
        worker: WorkerIdentity,
        lease_ttl_s: float,
        *,
        patience_s: float,
    ) -> list[GovernorLease]:
        """See ``Store.lease_governor``."""
        values = {"patience_s": patience_s, "campaign_id": campaign_id}
        names = [r[0] for r in self._db.one(lambda tx: tx.all(GOVERNABLE, **values))]
        leases = []
        for name in names:
            lease = self._db.write(
                lambda tx, n=name: _lease(tx, n, worker, lease_ttl_s, patience_s)  # type: ignore[misc]
            )
            if lease is not None:
                leases.append(lease)
        return leases

    def govern(self, lease: GovernorLease, word: GovernorWord, lease_ttl_s: float) -> SourceBudget:
        """See ``Store.govern``."""

        def work(tx: Transaction) -> SourceBudget:
            row = tx.first(
                GOVERN,
                group_name=lease.budget.group_name,
                fence=lease.fence,
                lease_ttl_s=lease_ttl_s,
                permits=word.permits,
                page_share=word.page_share,
                paused_reason=word.paused,
                resumes_in_s=word.resumes_in_s,
                valid_for_s=word.valid_for_s,
                readings_json=word.readings_json,
                halt=word.halt,
            )
            if row is None:
                raise LeaseLost(f"somebody else governs source group {lease.budget.group_name}")
            for name, message, data in word.told:
                tell(tx, lease.budget.group_name, name, message, dict(data), lease.worker_id)
            if word.halt is not None:
                tx.run(_HALT, group_name=lease.budget.group_name, halt=word.halt)
            return budget_from(row, tx.sealer)

        return self._db.write(work)

    def leave_governor(self, lease: GovernorLease) -> None:
        """See ``Store.leave_governor``."""
        values = {"group_name": lease.budget.group_name, "fence": lease.fence}
        self._db.write(lambda tx: tx.run(_LEAVE, **values))

    def lift_halt(self, campaign_id: CampaignId) -> bool:
        """See ``Store.lift_halt``."""

        def work(tx: Transaction) -> bool:
            tx.run(_LIFT_GROUPS, campaign_id=campaign_id)
            return tx.run(_LIFT, campaign_id=campaign_id) > 0

        return self._db.write(work)


def _lease(
    tx: Transaction, group_name: str, worker: WorkerIdentity, ttl_s: float, patience_s: float
) -> GovernorLease | None:
    row = tx.first(
        LEASE,
        group_name=group_name,
        worker_id=worker.worker_id,
        name=worker.name,
        lease_ttl_s=ttl_s,
        patience_s=patience_s,
    )
    if row is None:
        return None
    message = f"{worker.name} watches source group {group_name}"
    data: dict[str, object] = {"governor": worker.name, "fence": row.governor_fence}
    tell(tx, group_name, EventName.GOVERNOR_ELECTED, message, data, worker.worker_id)
    return GovernorLease(
        budget=budget_from(row, tx.sealer),
        fence=row.governor_fence,
        worker_id=worker.worker_id,
        permits=row.permits,
        page_share=row.page_share,
        paused=row.paused_reason,
    )
