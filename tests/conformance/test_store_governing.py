"""The governor's lease and word, over every store: one leader, fenced, and what it may do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rivet_fleet.contracts.events import EventName
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.protection import (
    GovernorLease,
    GovernorWord,
    MonitorPlan,
    SourceBudget,
)
from rivet_fleet.contracts.state import CampaignStatus
from rivet_fleet.errors import LeaseLost
from rivet_fleet.persistence.store import Store
from tests.campaigns import campaign_plan
from tests.stores import Backend, identity

C1, C2 = CampaignId("c1"), CampaignId("c2")
W1, W2 = identity("w1"), identity("w2")
BUDGET = SourceBudget(group_name="db", chunks_max=3, monitor=MonitorPlan(flag_file="/pause"))
OPEN = GovernorWord(permits=3, page_share=1.0)


def governed(store: Store, budget: SourceBudget = BUDGET) -> GovernorLease:
    for campaign_id, name in ((C1, "one"), (C2, "two")):
        plan = campaign_plan(campaign_id=campaign_id, name=name, chunks=(4,), groups=("db",))
        store.submit(plan)
    store.set_budgets([budget], by="w9")
    (lease,) = lead(store)
    return lease


def lead(store: Store, worker=W1, campaign_id=C1, *, ttl_s=60.0, patience_s=0.0):
    return store.lease_governor(campaign_id, worker, ttl_s, patience_s=patience_s)


def test_one_governs_whichever_campaign_it_works_on(store: Store) -> None:
    lease = governed(store)
    assert lead(store, W2) == lead(store, W2, C2) == []
    (group,) = store.groups(C2)
    assert (group.governor, group.monitored) == ("w1", True)
    store.leave_governor(lease)
    (successor,) = lead(store, W2, C2)
    assert successor.fence == lease.fence + 1
    elected = [e.message for e in store.journal(campaign_id=C1) if e.event == "governor.elected"]
    assert len(elected) == 2


def test_a_dead_governors_lease_runs_out_and_workers_wait_longer(store: Store) -> None:
    governed(store)
    lease = lead(store, ttl_s=60.0)
    assert lease == []
    store.set_budgets([replace(BUDGET, monitor=MonitorPlan(flag_file="/other"))], by="w9")
    assert lead(store, W2, patience_s=3600.0) == [], "a coordinator may come"
    assert [one.budget.group_name for one in lead(store, W2, ttl_s=-1.0)] == ["db"]
    assert len(lead(store, W1)) == 1, "an expired lease is anybody's"


def test_a_former_governor_changes_nothing(store: Store) -> None:
    old = governed(store)
    store.leave_governor(old)
    (new,) = lead(store, W2)
    store.govern(new, replace(OPEN, permits=2), 60.0)
    with pytest.raises(LeaseLost):
        store.govern(old, replace(OPEN, permits=3, halt="stale"), 60.0)
    store.leave_governor(old)
    assert lead(store, W1) == [], "nor can it give away what is not its own"
    assert [g.permits for g in store.groups(C1)] == [2]
    assert store.campaign(C1).halted is None  # type: ignore[union-attr]


def test_a_lease_is_held_without_a_word(backend: Backend) -> None:
    """While signals are asked: what a group may do is what the last sample said, and as old."""
    store = backend.store
    closed = MonitorPlan(flag_file="/pause", on_unreadable="pause")
    lease = governed(store, replace(BUDGET, monitor=closed))
    store.govern(lease, replace(OPEN, permits=2, valid_for_s=-1.0), -1.0)
    store.hold_governor(lease, 60.0)
    assert lead(store, W2) == []
    assert [g.permits for g in store.groups(C1)] == [2]
    assert store.claim(C1, W1, 60.0) is None, "nobody has sampled"
    store.leave_governor(lease)
    (new,) = lead(store, W2)
    with pytest.raises(LeaseLost):
        store.hold_governor(lease, 60.0)
    store.hold_governor(new, 60.0)


def test_permits_and_pauses_are_kept_by_every_claim(store: Store) -> None:
    lease = governed(store)
    store.govern(lease, replace(OPEN, permits=1), 60.0)
    claim = store.claim(C1, W1, 60.0)
    assert claim is not None and store.claim(C2, W2, 60.0) is None
    store.govern(lease, replace(OPEN, permits=3), 60.0)
    assert store.claim(C2, W2, 60.0) is not None
    store.govern(lease, replace(OPEN, paused="it is noon", resumes_in_s=90.0), 60.0)
    assert store.claim(C1, W1, 60.0) is None
    standing = store.standing(claim.task_id)
    assert standing.reason_to_rest == "it is noon"
    assert standing.paused_for_s == pytest.approx(90.0, abs=5.0)
    store.govern(lease, OPEN, 60.0)
    assert store.claim(C1, W1, 60.0) is not None


def test_what_a_sample_led_to_is_told_to_every_campaign(store: Store) -> None:
    lease = governed(store)
    told = ((EventName.GOVERNOR_SHED, "s is 3, above 2", {"signal": "s"}),)
    store.govern(lease, replace(OPEN, permits=2, told=told), 60.0)
    for campaign_id in (C1, C2):
        entry = store.journal(campaign_id=campaign_id)[-1]
        assert (entry.event, entry.message, entry.worker_id) == (
            *("governor.shed", "s is 3, above 2"),
            "w1",
        )
        assert entry.data == {"source_group": "db", "signal": "s"}


def test_a_group_that_fails_closed_is_open_while_somebody_samples(backend: Backend) -> None:
    store = backend.store
    closed = MonitorPlan(flag_file="/pause", on_unreadable="pause")
    lease = governed(store, replace(BUDGET, monitor=closed))
    assert store.claim(C1, W1, 60.0) is None
    store.govern(lease, replace(OPEN, valid_for_s=60.0), 60.0)
    claim = store.claim(C1, W1, 60.0)
    assert claim is not None
    store.govern(lease, replace(OPEN, valid_for_s=-1.0), 60.0)
    assert store.claim(C1, W1, 60.0) is None
    assert "nobody watches" in (store.standing(claim.task_id).reason_to_rest or "")


def test_a_halt_stops_every_campaign_of_the_group_until_an_operator_goes_on(store: Store) -> None:
    lease = governed(store)
    claim = store.claim(C1, W1, 60.0)
    assert claim is not None
    store.govern(lease, replace(OPEN, halt="too much"), 60.0)
    assert store.standing(claim.task_id).halted == "too much"
    store.release(claim.task_id, claim.fence)
    for campaign_id in (C1, C2):
        assert store.claim(campaign_id, W1, 60.0) is None
        view = store.campaign(campaign_id)
        assert view is not None and (view.halted, view.status) == (
            "too much",
            CampaignStatus.ACTIVE,
        )
    assert store.lift_halt(C1)
    assert store.claim(C1, W1, 60.0) is not None
    assert store.claim(C2, W1, 60.0) is None, "each campaign is its operator's"
    assert not store.lift_halt(C1)


def test_a_changed_monitor_needs_a_new_governor(store: Store) -> None:
    lease = governed(store)
    store.govern(lease, replace(OPEN, paused="flag"), 60.0)
    store.set_budgets([replace(BUDGET, chunks_max=2)], by="w9")
    assert store.govern(lease, replace(OPEN, paused="flag"), 60.0).chunks_max == 2
    store.set_budgets([replace(BUDGET, monitor=None)], by="w9")
    with pytest.raises(LeaseLost):
        store.govern(lease, OPEN, 60.0)
    assert store.claim(C1, W1, 60.0) is not None, "nobody watches, so nothing is paused"
