"""What every store must do to protect a source (ADR 0013): memory, SQLite and PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rivet_fleet.contracts.clock import RETRIES_SAVED_MAX, RETRY_EVERY_S, RETRY_WAIT_MAX_S
from rivet_fleet.contracts.keys import CampaignId, TaskId
from rivet_fleet.contracts.protection import MonitorPlan, SourceBudget, Standing
from rivet_fleet.contracts.state import Claim, Failure, TaskStatus
from rivet_fleet.persistence.store import Store
from tests.campaigns import campaign_plan
from tests.model.budgets import appointment
from tests.stores import Backend, SqlBackend, identity

C1, C2 = CampaignId("c1"), CampaignId("c2")
W1, W2 = identity("w1"), identity("w2")
BROKEN = Failure(error_class="SourceBusy", message="deadlock", permanent=False)


def two_campaigns(store: Store, *, slots: int | None = 2) -> None:
    """Both read the group ``db``; only the first one's configuration names a budget."""
    given = {} if slots is None else {"db": slots}
    store.submit(
        campaign_plan(campaign_id=C1, name="one", chunks=(4,), groups=("db",), slots=given)
    )
    store.submit(campaign_plan(campaign_id=C2, name="two", chunks=(4,), groups=("db",)))


def claimed(store: Store, campaign_id: CampaignId = C1) -> Claim:
    claim = store.claim(campaign_id, W1, 60.0)
    assert claim is not None
    return claim


def budget(**limits: object) -> SourceBudget:
    return SourceBudget(group_name="db", **limits)  # type: ignore[arg-type]


def changes(store: Store, campaign_id: CampaignId = C1) -> list[object]:
    entries = store.journal(campaign_id=campaign_id)
    return [e.data["changes"] for e in entries if e.event == "budget.changed"]


def test_a_budget_is_the_sources_whoever_asks(store: Store) -> None:
    two_campaigns(store)
    first, _ = claimed(store, C1), claimed(store, C2)
    assert store.claim(C1, W2, 60.0) is None
    assert store.claim(C2, W2, 60.0) is None
    (seen,) = store.groups(C2)
    assert (seen.slots_max, seen.running, seen.running_here) == (2, 2, 1)
    store.release(first.task_id, first.fence)
    assert claimed(store, C2).source_group == "db"


@pytest.mark.parametrize("end", ["release", "fail", "reap_expired", "reap_worker", "cancel"])
def test_whatever_ends_a_chunk_frees_its_slot(backend: Backend, end: str) -> None:
    store = backend.store
    two_campaigns(store, slots=1)
    claim = claimed(store, C1)
    assert store.claim(C2, W2, 60.0) is None
    if end == "release":
        store.release(claim.task_id, claim.fence)
    elif end == "fail":
        store.fail(claim.task_id, claim.fence, BROKEN)
    elif end == "reap_expired":
        backend.expire(claim.task_id)
        assert store.reap_expired()
    elif end == "reap_worker":
        assert store.reap_worker("w1", "killed")
    else:
        assert store.cancel(C1) == 1
    assert store.claim(C2, W2, 60.0) is not None


def test_the_newest_word_counts_and_is_told_to_everybody_concerned(store: Store) -> None:
    two_campaigns(store, slots=1)
    claimed(store, C1)
    assert store.claim(C2, W2, 60.0) is None
    assert store.set_budgets([budget(chunks_max=3)], by="w9") == ["db"]
    claimed(store, C2), claimed(store, C2)
    assert store.claim(C2, W2, 60.0) is None
    assert changes(store, C2)[-1] == {"chunks_max": [1, 3]}
    assert changes(store, C1)[-1] == {"chunks_max": [1, 3]}
    assert store.set_budgets([budget(chunks_max=3)], by="w9") == [], "the same again is no change"


def test_a_budget_that_appears_while_a_campaign_runs_is_kept_by_the_next_claim(
    store: Store,
) -> None:
    two_campaigns(store, slots=None)
    claimed(store, C1)
    store.set_budgets([budget(chunks_max=1)], by="w9")
    assert store.claim(C1, W1, 60.0) is None


def test_a_budget_that_says_nothing_is_forgotten(store: Store) -> None:
    two_campaigns(store, slots=1)
    claimed(store, C1)
    assert store.set_budgets([budget()], by="w9") == ["db"]
    assert store.budgets() == []
    assert store.claim(C1, W2, 60.0) is not None


def test_connections_leave_a_seat_for_planning_and_one_for_the_monitor(store: Store) -> None:
    two_campaigns(store, slots=None)
    monitor = MonitorPlan(source="shop", source_identity="postgres://db/shop")
    store.set_budgets([budget(connections_max=3, monitor=monitor)], by="w9")
    claimed(store, C1)
    assert store.claim(C2, W2, 60.0) is None
    store.set_budgets([budget(connections_max=3)], by="w9")
    claimed(store, C2)
    assert store.claim(C2, W2, 60.0) is None
    assert store.budgets() == [budget(connections_max=3)]


def test_a_group_whose_monitor_fails_closed_is_closed_until_somebody_watches(store: Store) -> None:
    two_campaigns(store, slots=None)
    monitor = MonitorPlan(on_unreadable="pause")
    store.set_budgets([budget(chunks_max=4, monitor=monitor)], by="w9")
    assert store.claim(C1, W1, 60.0) is None


def test_a_running_chunk_sees_its_place_in_the_group(store: Store) -> None:
    two_campaigns(store, slots=3)
    # Claims of one millisecond stand in the order of their tasks, which is this one.
    claims = [claimed(store, C1), claimed(store, C1), claimed(store, C2)]
    assert [store.standing(c.task_id).ahead for c in claims] == [0, 1, 2]
    store.set_budgets([budget(chunks_max=1)], by="w9")
    rests = [store.standing(c.task_id).reason_to_rest is not None for c in claims]
    assert rests == [False, True, True]
    store.release(claims[0].task_id, claims[0].fence)
    assert store.standing(claims[1].task_id).reason_to_rest is None


def key(claim: Claim) -> tuple[TaskId, int]:
    return claim.task_id, claim.fence


def test_a_chunk_that_is_read_gives_its_slot_to_the_claim_that_says_so(store: Store) -> None:
    two_campaigns(store, slots=1)
    read = claimed(store)
    assert store.claim(C1, W1, 60.0) is None
    following = store.claim(C1, W1, 60.0, read=key(read))
    assert following is not None and following.chunk_index == 1
    (seen,) = store.groups(C1)
    assert (seen.running, seen.running_here) == (1, 1)
    assert store.standing(following.task_id).ahead == 0, "it rests behind no chunk that is read"
    shown = {t.chunk_index: (t.status, t.delivering) for t in store.tasks(read.run_id)}
    assert shown[0] == (TaskStatus.RUNNING, True) and shown[1] == (TaskStatus.RUNNING, False)
    assert store.claim(C2, W2, 60.0) is None
    store.commit(read.task_id, read.fence, [], rows=0, pages=1)


def test_a_slot_is_given_up_though_nothing_else_is_found(store: Store) -> None:
    """Whoever waits for it need not wait for the end of a delivery."""
    store.submit(campaign_plan(campaign_id=C1, name="one", chunks=(2,), groups=("db",)))
    store.submit(
        campaign_plan(campaign_id=C2, name="two", chunks=(2,), groups=("db",), slots={"db": 2})
    )
    mine, theirs = claimed(store, C1), claimed(store, C2)
    store.set_budgets([budget(chunks_max=1)], by="operator")
    assert store.claim(C1, W1, 60.0, read=key(mine)) is None, "theirs is read"
    assert store.claim(C2, W2, 60.0, read=key(theirs)) is not None


@pytest.mark.parametrize("end", ["reaped", "committed", "released"])
def test_nobody_marks_what_is_not_his_or_not_running(backend: Backend, end: str) -> None:
    """Else its next reader would not be counted."""
    store = backend.store
    two_campaigns(store, slots=1)
    stale = claimed(store)
    if end == "committed":
        store.commit(stale.task_id, stale.fence, [], rows=0, pages=1)
        store.reopen(stale.task_id, stale.fence, "lost")
    elif end == "released":
        store.release(stale.task_id, stale.fence)
        claimed(store)  # with the next fence
    else:
        backend.expire(stale.task_id)
        store.reap_expired(C1)
        claimed(store)
    store.claim(C1, W2, 60.0, read=key(stale))
    (seen,) = store.groups(C1)
    assert seen.running == 1
    assert not any(t.delivering for t in store.tasks(stale.run_id))


def test_a_chunk_that_is_read_again_is_counted_again(backend: Backend) -> None:
    store = backend.store
    two_campaigns(store, slots=1)
    read = claimed(store)
    following = store.claim(C1, W1, 60.0, read=key(read))
    assert following is not None
    store.release(following.task_id, following.fence)
    backend.expire(read.task_id)
    store.reap_expired(C1)
    assert claimed(store).task_id == read.task_id
    assert store.claim(C1, W2, 60.0) is None
    (seen,) = store.groups(C1)
    assert seen.running == 1


def test_a_campaign_without_groups_says_what_is_delivered(store: Store) -> None:
    store.submit(campaign_plan(chunks=(2,)))
    read = claimed(store)
    assert store.claim(C1, W1, 60.0, read=key(read)) is not None
    assert [t.delivering for t in store.tasks(read.run_id)] == [True, False]
    assert store.claim(C1, W1, 60.0, read=key(read)) is None


def test_a_chunk_of_no_budget_stands_alone(store: Store) -> None:
    two_campaigns(store, slots=None)
    assert store.standing(claimed(store, C1).task_id) == Standing()
    assert store.reserve("db", 1000.0, 1000.0) == 0.0


def test_rates_are_appointments_one_after_the_other(store: Store) -> None:
    store.set_budgets([budget(rows_per_s=1000.0, bytes_per_s=1e6)], by="w9")
    waits = [store.reserve("db", 10_000.0, 0.0) for _ in range(3)]
    assert waits == pytest.approx([0.0, 10.0, 20.0], abs=1.0)
    assert store.reserve("db", 0.0, 1.0) == pytest.approx(0.0, abs=1.0)
    assert store.reserve("db", 0.0, 0.0) == 0.0, "nothing needed is nothing to wait for"


def test_nothing_is_saved_up_while_nobody_reads(backend: Backend) -> None:
    store = backend.store
    store.set_budgets([budget(rows_per_s=1000.0)], by="w9")
    if isinstance(backend, SqlBackend):
        backend.execute("UPDATE source_pace SET rows_free_at_s = NOW_S - 3600")
    assert store.reserve("db", 5000.0, 0.0) == pytest.approx(0.0, abs=0.5)
    assert store.reserve("db", 1.0, 0.0) == pytest.approx(5.0, abs=1.0)


def test_retries_of_a_source_are_paid_from_one_budget(store: Store) -> None:
    most = int(RETRIES_SAVED_MAX)
    waits = [store.reserve_retry("db", RETRY_EVERY_S) for _ in range(most + 3)]
    assert waits[:most] == pytest.approx([0.0] * most, abs=0.5)
    assert waits[-1] == pytest.approx(3 * RETRY_EVERY_S, abs=1.0)
    assert store.reserve_retry("other", RETRY_EVERY_S) == 0.0
    assert store.reserve_retry("dear", 1e9) == pytest.approx(RETRY_WAIT_MAX_S, abs=1.0)
    assert store.reserve_retry("dear", 1e9) == pytest.approx(RETRY_WAIT_MAX_S, abs=1.0)


def test_retries_are_saved_up_to_their_most(backend: Backend) -> None:
    store = backend.store
    store.reserve_retry("db", 100.0)
    if isinstance(backend, SqlBackend):
        backend.execute("UPDATE source_retry SET paid_until_s = NOW_S - 3600")
        assert store.reserve_retry("db", RETRIES_SAVED_MAX * RETRY_EVERY_S) < 1.0
        assert store.reserve_retry("db", 5.0) == pytest.approx(5.0, abs=1.0)


def test_many_claimers_at_once_never_exceed_a_budget(backend: Backend) -> None:
    store = backend.store
    two_campaigns(store)
    store.set_budgets([budget(chunks_max=3)], by="w9")
    gate, found = threading.Barrier(8), []

    def ask(number: int) -> None:
        gate.wait()
        found.append(store.claim(C1 if number % 2 else C2, identity(f"w{number}"), 60.0))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(claim is not None for claim in found) == 3


AMOUNTS = st.lists(st.sampled_from([0.0, 1.0, 250.0, 5_000.0]), min_size=1, max_size=8)


@given(amounts=AMOUNTS, rate=st.sampled_from([1.0, 100.0, 12_345.6]))
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_sql_of_an_appointment_is_the_pure_function(
    sql_store: SqlBackend, amounts: Sequence[float], rate: float
) -> None:
    sql_store.wipe()
    sql_store.store.set_budgets([budget(rows_per_s=rate)], by="w9")
    free_at_s, began_s = 0.0, sql_store.store.now_s()
    for amount in amounts:
        free_at_s, wait_s = appointment(free_at_s, began_s, amount, rate)
        assert sql_store.store.reserve("db", amount, 0.0) == pytest.approx(wait_s, abs=1.0)


@pytest.fixture
def sql_store(opened: Backend) -> SqlBackend:
    if not isinstance(opened, SqlBackend):
        pytest.skip("the model calls the pure function itself")
    return opened
