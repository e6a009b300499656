"""Source groups in the in-memory store: the contract of ``budgets`` over dicts."""

from __future__ import annotations

from collections.abc import Sequence

from rivet_fleet.contracts.clock import RETRIES_SAVED_MAX, RETRY_EVERY_S, RETRY_WAIT_MAX_S
from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.keys import CampaignId, TaskId
from rivet_fleet.contracts.protection import (
    GovernorLease,
    GovernorWord,
    SourceBudget,
    Standing,
)
from rivet_fleet.contracts.state import (
    CampaignStatus,
    GroupView,
    RunStatus,
    WorkerIdentity,
    shown_numbers,
)
from rivet_fleet.errors import LeaseLost
from rivet_fleet.persistence.budgets import changed_words
from tests.model.rows import Budget
from tests.model.views import MemoryRows, synchronized


def appointment(
    free_at_s: float, now_s: float, amount: float, per_s: float | None
) -> tuple[float, float]:
    """(new ``free_at_s``, seconds to wait) when ``amount`` is reserved at ``now_s`` (GCRA).

    Its slot begins where the former one ends, never in the past, so nothing is saved up; the
    amount may be used once the slot begins. No limit: nothing moves.
    """
    if per_s is None or per_s <= 0 or amount <= 0:
        return free_at_s, 0.0
    begins_at_s = max(free_at_s, now_s)
    return begins_at_s + amount / per_s, begins_at_s - now_s


def retry_appointment(paid_until_s: float, now_s: float, cost_s: float) -> tuple[float, float]:
    """(new ``paid_until_s``, seconds to wait) for one retry asked for at ``now_s``.

    All askers together are let in at most ``RETRIES_SAVED_MAX + T / RETRY_EVERY_S`` times within
    any T seconds, as long as nobody has to wait for ``RETRY_WAIT_MAX_S``; from there on each asker
    once in so many seconds.
    """
    earliest_s = now_s - RETRIES_SAVED_MAX * RETRY_EVERY_S
    paid_s = min(max(paid_until_s, earliest_s) + cost_s, now_s + RETRY_WAIT_MAX_S)
    return paid_s, max(0.0, paid_s - now_s)


class MemoryBudgets(MemoryRows):
    """Source groups, over dicts."""

    @synchronized
    def set_budgets(self, budgets: Sequence[SourceBudget], *, by: str) -> list[str]:
        return self._configure(budgets, by)

    def _configure(self, budgets: Sequence[SourceBudget], by: str) -> list[str]:
        changed = []
        for budget in sorted(budgets, key=lambda b: b.group_name):
            row = self._budgets.get(budget.group_name)
            before = None if row is None else row.budget
            if before == budget or (before is None and budget.unlimited):
                continue
            changed.append(budget.group_name)
            if budget.unlimited:
                del self._budgets[budget.group_name]
            else:
                self._store_budget(row, budget)
            message, data = changed_words(before, budget)
            self._tell_users(budget.group_name, EventName.BUDGET_CHANGED, message, data, by)
        return changed

    def _store_budget(self, row: Budget | None, budget: SourceBudget) -> None:
        if row is None:
            row = self._budgets[budget.group_name] = Budget(budget=budget)
        row.configured_at_s = self._clock()
        if row.budget.monitor != budget.monitor or row.budget is budget:
            closed = budget.monitor is not None and budget.monitor.fail_closed
            row.permits, row.page_share, row.paused, row.resumes_at_s = None, 1.0, None, None
            row.valid_until_s = self._clock() if closed else None
            row.fence += 1
            row.lease_expires_at_s = None
        row.budget = budget
        self._paces.setdefault(budget.group_name, (0.0, 0.0))

    def _tell_users(
        self,
        group_name: str,
        name: EventName,
        message: str,
        data: dict[str, object],
        by: str | None,
    ) -> None:
        users: list[str | None] = [*sorted(self._users(group_name))]
        for user in users or [None]:
            self._note(
                Event(
                    name=name,
                    campaign_id=user,
                    worker_id=by,
                    message=message,
                    data={"source_group": group_name, **data},
                )
            )

    def _users(self, group_name: str) -> set[str]:
        return {
            run.campaign_id
            for run in self._runs.values()
            if run.planned.plan.source_group == group_name and run.status is RunStatus.IN_PROGRESS
        }

    def _has_room(self, group_name: str) -> bool:
        row = self._budgets.get(group_name)
        if row is None:
            return True
        expired = row.valid_until_s is not None and row.valid_until_s < self._clock()
        if row.paused is not None or row.halted is not None or expired:
            return False
        most = [n for n in (row.budget.ceiling, row.permits) if n is not None]
        return not most or self._running(group_name) < min(most)

    @synchronized
    def budgets(self) -> list[SourceBudget]:
        return [self._budgets[name].budget for name in sorted(self._budgets)]

    @synchronized
    def reserve(self, group_name: str, rows: float, size_bytes: float) -> float:
        row = self._budgets.get(group_name)
        if row is None:
            return 0.0
        now_s = self._clock()
        rows_free_s, bytes_free_s = self._paces[group_name]
        rows_free_s, rows_wait_s = appointment(rows_free_s, now_s, rows, row.budget.rows_per_s)
        bytes_free_s, bytes_wait_s = appointment(
            bytes_free_s, now_s, size_bytes, row.budget.bytes_per_s
        )
        self._paces[group_name] = rows_free_s, bytes_free_s
        return max(0.0, rows_wait_s, bytes_wait_s)

    @synchronized
    def reserve_retry(self, source_key: str, cost_s: float) -> float:
        before_s = self._paid_until_s.get(source_key, 0.0)
        self._paid_until_s[source_key], wait_s = retry_appointment(before_s, self._clock(), cost_s)
        return wait_s

    @synchronized
    def lease_governor(
        self,
        campaign_id: CampaignId,
        worker: WorkerIdentity,
        lease_ttl_s: float,
        *,
        patience_s: float,
    ) -> list[GovernorLease]:
        now_s, leases = self._clock(), []
        for name in sorted(self._budgets):
            row = self._budgets[name]
            expires_s = (
                row.configured_at_s if row.lease_expires_at_s is None else (row.lease_expires_at_s)
            )
            used = campaign_id in self._users(name)
            if row.budget.monitor is None or not used or expires_s > now_s - patience_s:
                continue
            row.fence += 1
            row.governor, row.lease_expires_at_s = worker.name, now_s + lease_ttl_s
            message = f"{worker.name} watches source group {name}"
            data: dict[str, object] = {"governor": worker.name, "fence": row.fence}
            self._tell_users(name, EventName.GOVERNOR_ELECTED, message, data, worker.worker_id)
            leases.append(
                GovernorLease(
                    budget=row.budget,
                    fence=row.fence,
                    worker_id=worker.worker_id,
                    permits=row.permits,
                    page_share=row.page_share,
                    paused=row.paused,
                )
            )
        return leases

    @synchronized
    def govern(self, lease: GovernorLease, word: GovernorWord, lease_ttl_s: float) -> SourceBudget:
        name, now_s = lease.budget.group_name, self._clock()
        row = self._budgets.get(name)
        if row is None or row.fence != lease.fence:
            raise LeaseLost(f"somebody else governs source group {name}")
        row.permits, row.page_share, row.paused = word.permits, word.page_share, word.paused
        row.resumes_at_s = None if word.resumes_in_s is None else now_s + word.resumes_in_s
        row.valid_until_s = None if word.valid_for_s is None else now_s + word.valid_for_s
        row.sampled_at_s, row.readings_json = now_s, word.readings_json
        row.halted, row.lease_expires_at_s = word.halt or row.halted, now_s + lease_ttl_s
        for event, message, data in word.told:
            self._tell_users(name, event, message, dict(data), lease.worker_id)
        for user in self._users(name) if word.halt else ():
            campaign = self._campaigns[user]
            if campaign.status is CampaignStatus.ACTIVE and campaign.halted is None:
                campaign.halted = word.halt
        return row.budget

    @synchronized
    def hold_governor(self, lease: GovernorLease, lease_ttl_s: float) -> None:
        row = self._budgets.get(lease.budget.group_name)
        if row is None or row.fence != lease.fence:
            raise LeaseLost(f"somebody else governs source group {lease.budget.group_name}")
        row.lease_expires_at_s = self._clock() + lease_ttl_s

    @synchronized
    def leave_governor(self, lease: GovernorLease) -> None:
        row = self._budgets.get(lease.budget.group_name)
        if row is not None and row.fence == lease.fence:
            row.lease_expires_at_s = 0.0

    @synchronized
    def lift_halt(self, campaign_id: CampaignId) -> bool:
        for run in self._runs_of(campaign_id):
            row = self._budgets.get(run.planned.plan.source_group or "")
            if row is not None:
                row.halted = None
        campaign = self._campaigns.get(campaign_id)
        if campaign is None or campaign.halted is None:
            return False
        campaign.halted = None
        return True

    @synchronized
    def standing(self, task_id: TaskId) -> Standing:
        task = self._tasks.get(task_id)
        row = None if task is None else self._budgets.get(task.source_group)
        if task is None or row is None:
            return Standing()
        now_s, mine = self._clock(), (task.claimed_at_s or 0.0, task.task_id)
        paused = row.paused
        if paused is None and row.valid_until_s is not None and row.valid_until_s < now_s:
            paused = "nobody watches the source, and on_unreadable is pause"
        return Standing(
            budget=row.budget,
            ahead=sum(
                (t.claimed_at_s or 0.0, t.task_id) < mine
                for t in self._tasks.values()
                if t.reading and t.source_group == task.source_group
            ),
            permits=row.permits,
            page_share=row.page_share,
            paused=paused,
            paused_for_s=None if row.resumes_at_s is None else row.resumes_at_s - now_s,
            halted=row.halted,
        )

    @synchronized
    def groups(self, campaign_id: CampaignId) -> list[GroupView]:
        names = {r.planned.plan.source_group for r in self._runs_of(campaign_id)}
        return [self._group(campaign_id, name) for name in sorted(n for n in names if n)]

    def _group(self, campaign_id: CampaignId, name: str) -> GroupView:
        here = sum(
            t.reading and (t.source_group, t.campaign_id) == (name, campaign_id)
            for t in self._tasks.values()
        )
        row, running = self._budgets.get(name), self._running(name)
        if row is None:
            return GroupView(group_name=name, slots_max=None, running=running, running_here=here)
        budget = row.budget
        return GroupView(
            group_name=name,
            slots_max=budget.ceiling,
            running=running,
            running_here=here,
            **shown_numbers(budget),
            permits=row.permits,
            page_share=row.page_share,
            paused=row.paused,
            resumes_at_s=row.resumes_at_s,
            halted=row.halted,
            valid_until_s=row.valid_until_s,
            sampled_at_s=row.sampled_at_s,
            monitored=budget.monitor is not None,
            governor=row.governor if (row.lease_expires_at_s or 0.0) > self._clock() else None,
            readings_json=row.readings_json,
        )
