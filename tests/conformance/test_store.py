"""What every store must do: the same suite over memory, SQLite and PostgreSQL."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event as sql_event

from rivet_fleet.contracts.counters import CounterReading
from rivet_fleet.contracts.events import Event, EventName, Told
from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.manifest import ColumnStats, PartStatus
from rivet_fleet.contracts.proof import ProofOutcome, Prove, RunProof
from rivet_fleet.contracts.quality import (
    GateCode,
    GateOutcome,
    GateVerdict,
    RunFindings,
    ShapeChange,
    ShapeChangeCode,
    UniqueStats,
)
from rivet_fleet.contracts.state import (
    CampaignStatus,
    Claim,
    Failure,
    FinalizeLease,
    FinishedRun,
    JournalFilter,
    RunStatus,
    TaskStatus,
)
from rivet_fleet.errors import LeaseLost, StateRefused
from rivet_fleet.persistence.store import Store
from tests.campaigns import campaign_plan, staged_part
from tests.stores import Backend, identity

C1 = CampaignId("c1")
R0 = RunId("c1-e0")
W1, W2 = identity("w1"), identity("w2")
BROKEN = Failure(error_class="SourceBusy", message="deadlock", permanent=False)


def claimed(store: Store, worker: Any = W1, *, ttl_s: float = 60.0) -> Claim:
    claim = store.claim(C1, worker, ttl_s)
    assert claim is not None
    return claim


def commit(store: Store, claim: Claim, *, rows: int = 10) -> None:
    part = staged_part(claim.chunk_index, claim.fence, rows=rows)
    store.commit(claim.task_id, claim.fence, [part], rows=rows, pages=2)


def complete_all(store: Store) -> None:
    while (claim := store.claim(C1, W1, 60.0)) is not None:
        commit(store, claim)
        store.mark_published(claim.task_id, claim.fence)


def finished(**changes: Any) -> FinishedRun:
    values = {"manifest_fingerprint": "xxh3:1", "rows": 30, "bytes": 3000, "files": 3}
    return FinishedRun(**{**values, "duration_s": 1.5, **changes})


def view(store: Store, chunk: int = 0, run: RunId = R0) -> Any:
    found = store.task(run, chunk)
    assert found is not None
    return found


def reclaimed(backend: Backend) -> tuple[Claim, Claim]:
    """The same chunk claimed, expired, reaped and claimed by another: old and new claim."""
    old = claimed(backend.store)
    backend.expire(old.task_id)
    assert [r.task_id for r in backend.store.reap_expired(C1)] == [old.task_id]
    new = claimed(backend.store, W2)
    assert new.task_id == old.task_id and new.fence > old.fence
    return old, new


def events(store: Store) -> list[str]:
    return [entry.event for entry in store.journal(campaign_id=C1)]


# -- submission ---------------------------------------------------------------------------------


def test_submission_stores_everything_at_once(store: Store) -> None:
    assert store.submit(campaign_plan(chunks=(3, 2))).created
    assert [(r.export_name, r.expected_tasks, r.counts.pending) for r in store.runs(C1)] == [
        ("e0", 3, 3),
        ("e1", 2, 2),
    ]
    run = store.run(R0)
    planned = campaign_plan(chunks=(3, 2)).runs[0]
    assert run is not None and run.plan == planned.plan and run.plan_hash == planned.plan_hash
    assert [t.chunk_range for t in store.tasks(R0)] == [c.chunk_range for c in planned.chunks]
    assert store.task(R0, 99) is None and store.run(RunId("none")) is None


def test_submitting_twice_is_a_no_op(store: Store) -> None:
    store.submit(campaign_plan())
    claimed(store)
    assert not store.submit(campaign_plan()).created
    assert view(store).status is TaskStatus.RUNNING
    assert events(store).count("campaign.submitted") == 1


def test_another_configuration_under_the_same_id_is_refused(store: Store) -> None:
    store.submit(campaign_plan())
    with pytest.raises(StateRefused, match="another configuration"):
        store.submit(campaign_plan(digest="other"))


def test_one_run_in_progress_per_campaign_name_and_export(store: Store) -> None:
    store.submit(campaign_plan())
    with pytest.raises(StateRefused, match="still in progress in c1"):
        store.submit(campaign_plan(campaign_id="c2"))
    assert store.campaign(CampaignId("c2")) is None
    store.submit(campaign_plan(campaign_id="c3", name="other shop"))
    assert {c.campaign_id for c in store.campaigns()} == {"c1", "c3"}
    assert [c.campaign_id for c in store.campaigns(name="shop")] == ["c1"]


def test_a_run_without_chunks_is_refused(store: Store) -> None:
    with pytest.raises(StateRefused, match="without any chunk"):
        store.submit(campaign_plan(chunks=(0,)))
    with pytest.raises(StateRefused, match="no exports"):
        store.submit(campaign_plan(chunks=()))


# -- claiming -----------------------------------------------------------------------------------


def test_claims_follow_priority_then_plan_then_chunk_order(store: Store) -> None:
    store.submit(campaign_plan(chunks=(2, 1, 2), priorities=(10, 90, 10)))
    order = []
    while (claim := store.claim(C1, W1, 60.0)) is not None:
        order.append((claim.export_name, claim.chunk_index))
    assert order == [("e1", 0), ("e0", 0), ("e0", 1), ("e2", 0), ("e2", 1)]


def test_an_idle_worker_begins_the_next_wave_instead_of_waiting(backend: Backend) -> None:
    """Runs in the order of handing out, as ``campaign.waves`` puts them: no barrier between."""
    store = backend.store
    # e0 is the first wave; e1 and e2 the second, e1 behind a budget of one.
    store.submit(
        campaign_plan(chunks=(2, 2, 1), groups=(None, "db", None), slots={"db": 1}, attempts_max=2)
    )
    first, second = claimed(store), claimed(store)
    assert [c.export_name for c in (first, second)] == ["e0", "e0"]
    third, fourth = claimed(store), claimed(store, W2)
    assert [c.export_name for c in (third, fourth)] == ["e1", "e2"], "the budget holds"
    assert store.claim(C1, W2, 60.0) is None
    store.fail(first.task_id, first.fence, replace(BROKEN, not_before_in_s=3600))
    store.release(third.task_id, third.fence)
    assert claimed(store).export_name == "e1", "a retry that waits holds nobody up"
    backend.make_due(first.task_id)
    commit(store, second)
    assert claimed(store, W2).export_name == "e0", "once due, the first wave goes first again"


def test_every_claim_grows_the_fence(store: Store) -> None:
    store.submit(campaign_plan(chunks=(1,)))
    fences = []
    for _ in range(3):
        claim = claimed(store)
        fences.append(claim.fence)
        store.release(claim.task_id, claim.fence)
    assert fences == sorted(set(fences))


def test_a_claim_tells_what_to_read_and_spends_an_attempt(store: Store) -> None:
    store.submit(campaign_plan(chunks=(2,)))
    claim = claimed(store)
    spec = campaign_plan(chunks=(2,)).runs[0].chunks[0]
    assert claim.chunk_range == spec.chunk_range
    assert (claim.attempt, claim.attempts_max, claim.run_id) == (1, 3, R0)
    task = view(store)
    assert (task.status, task.owner, task.owner_name) == (TaskStatus.RUNNING, "w1", "w1")
    assert task.lease_expires_at_s == pytest.approx(store.now_s() + 60, abs=5)


def test_nothing_is_claimed_from_an_unknown_or_cancelled_campaign(store: Store) -> None:
    assert store.claim(CampaignId("none"), W1, 60.0) is None
    store.submit(campaign_plan())
    store.cancel(C1)
    assert store.claim(C1, W1, 60.0) is None


def test_a_group_budget_holds_across_workers(store: Store) -> None:
    plan = campaign_plan(chunks=(3, 2), groups=("db", None), slots={"db": 2}, priorities=(90, 10))
    store.submit(plan)
    first, second = claimed(store, W1), claimed(store, W2)
    assert {first.export_name, second.export_name} == {"e0"}
    third = claimed(store, W1)
    assert third.export_name == "e1"
    assert [(g.group_name, g.slots_max, g.running) for g in store.groups(C1)] == [("db", 2, 2)]
    claimed(store, W2)
    assert store.claim(C1, W1, 60.0) is None
    store.release(first.task_id, first.fence)
    assert claimed(store, W2).task_id == first.task_id


def test_a_group_without_a_limit_is_no_limit(store: Store) -> None:
    store.submit(campaign_plan(chunks=(3, 1), groups=("free", "tight"), slots={"tight": 1}))
    names = [claimed(store).export_name for _ in range(4)]
    assert names == ["e0", "e0", "e0", "e1"]
    assert [(g.group_name, g.slots_max) for g in store.groups(C1)] == [("free", None), ("tight", 1)]


def test_a_failed_chunk_waits_for_its_time_and_its_budget(backend: Backend) -> None:
    store = backend.store
    store.submit(campaign_plan(chunks=(1,), attempts_max=2))
    claim = claimed(store)
    later = Failure(error_class="X", message="m", permanent=False, not_before_in_s=3600)
    store.fail(claim.task_id, claim.fence, later)
    assert store.claim(C1, W1, 60.0) is None
    backend.make_due(claim.task_id)
    again = claimed(store)
    assert (again.attempt, again.fence) == (2, claim.fence + 1)
    store.fail(again.task_id, again.fence, BROKEN)
    assert store.claim(C1, W1, 60.0) is None


# -- heartbeats ---------------------------------------------------------------------------------


def test_renewing_extends_the_lease_and_shows_the_worker(store: Store) -> None:
    store.submit(campaign_plan())
    claim = claimed(store, ttl_s=5)
    assert store.renew(W1, [(claim.task_id, claim.fence)], 500, 1234) == []
    assert view(store).lease_expires_at_s == pytest.approx(store.now_s() + 500, abs=5)
    store.renew(W1, [], 500, 0)
    (worker,) = store.workers()
    assert (worker.worker_id, worker.rss_bytes, worker.alive) == ("w1", 1234, True)
    assert worker.running_task == claim.task_id
    assert store.workers(host_id="elsewhere") == []


def test_a_stale_fence_cannot_renew(backend: Backend) -> None:
    backend.store.submit(campaign_plan())
    old, new = reclaimed(backend)
    backend.expire(new.task_id)
    assert backend.store.renew(W1, [(old.task_id, old.fence)], 600, 1) == [old.task_id]
    assert [r.task_id for r in backend.store.reap_expired(C1)] == [new.task_id]


def test_an_expired_lease_that_nobody_reaped_can_be_renewed(backend: Backend) -> None:
    backend.store.submit(campaign_plan())
    claim = claimed(backend.store)
    backend.expire(claim.task_id)
    assert backend.store.renew(W1, [(claim.task_id, claim.fence)], 60, 1) == []
    assert backend.store.reap_expired(C1) == []


def test_a_commit_faster_than_its_heartbeat_is_not_a_loss(store: Store) -> None:
    store.submit(campaign_plan())
    claim = claimed(store)
    commit(store, claim)
    assert store.renew(W1, [(claim.task_id, claim.fence)], 60, 1) == []
    assert view(store).status is TaskStatus.COMMITTED


# -- committing ---------------------------------------------------------------------------------


def test_a_commit_enters_the_ledger_whole(store: Store) -> None:
    store.submit(campaign_plan())
    claim = claimed(store)
    parts = [staged_part(0, claim.fence, number=n) for n in (0, 1)]
    store.commit(claim.task_id, claim.fence, parts, rows=20, pages=4)
    stored = store.parts(R0, chunk_index=0)
    assert [(p.part_number, p.digest, dict(p.receipt), p.columns) for p in stored] == [
        (p.part_number, p.digest, dict(p.receipt), p.columns) for p in parts
    ]
    assert {(p.status, p.fence) for p in stored} == {(PartStatus.COMMITTED, claim.fence)}
    task = view(store)
    assert (task.status, task.rows_written, task.pages_read) == (TaskStatus.COMMITTED, 20, 4)
    run = store.run(R0)
    assert run is not None and (run.rows, run.bytes) == (20, 2000)


def test_an_empty_chunk_commits_without_parts(store: Store) -> None:
    store.submit(campaign_plan())
    claim = claimed(store)
    store.commit(claim.task_id, claim.fence, [], rows=0, pages=1)
    store.commit(claim.task_id, claim.fence, [], rows=0, pages=1)
    assert view(store).status is TaskStatus.COMMITTED and store.parts(R0) == []


def test_a_commit_after_expiry_is_good_while_the_fence_matches(backend: Backend) -> None:
    backend.store.submit(campaign_plan())
    claim = claimed(backend.store)
    backend.expire(claim.task_id)
    commit(backend.store, claim)
    assert backend.store.reap_expired(C1) == []


def test_a_stale_fence_cannot_commit(backend: Backend) -> None:
    backend.store.submit(campaign_plan())
    old, new = reclaimed(backend)
    with pytest.raises(LeaseLost):
        commit(backend.store, old)
    assert view(backend.store).status is TaskStatus.RUNNING
    assert backend.store.parts(R0) == []
    commit(backend.store, new)
    with pytest.raises(LeaseLost):
        commit(backend.store, old)
    assert {p.fence for p in backend.store.parts(R0)} == {new.fence}


def test_a_released_chunk_cannot_be_committed(store: Store) -> None:
    store.submit(campaign_plan())
    claim = claimed(store)
    store.release(claim.task_id, claim.fence)
    with pytest.raises(LeaseLost):
        commit(store, claim)
    assert view(store).status is TaskStatus.PENDING and store.parts(R0) == []


def test_a_failed_chunk_cannot_be_committed(store: Store) -> None:
    store.submit(campaign_plan())
    claim = claimed(store)
    store.fail(claim.task_id, claim.fence, BROKEN)
    with pytest.raises(LeaseLost):
        commit(store, claim)
    assert view(store).status is TaskStatus.FAILED and store.parts(R0) == []


def test_committing_again_is_a_success_only_with_the_same_parts(store: Store) -> None:
    store.submit(campaign_plan())
    claim = claimed(store)
    commit(store, claim)
    commit(store, claim)
    assert len(store.parts(R0)) == 1 and events(store).count("chunk.committed") == 1
    with pytest.raises(LeaseLost):
        other = staged_part(0, claim.fence + 7)
        store.commit(claim.task_id, claim.fence, [other], rows=1, pages=1)
    store.mark_published(claim.task_id, claim.fence)
    commit(store, claim)
    assert view(store).status is TaskStatus.COMPLETED


def test_one_part_number_twice_commits_nothing(store: Store) -> None:
    store.submit(campaign_plan())
    claim = claimed(store)
    part = staged_part(0, claim.fence)
    with pytest.raises(StateRefused):
        store.commit(claim.task_id, claim.fence, [part, part], rows=1, pages=1)
    assert view(store).status is TaskStatus.RUNNING and store.parts(R0) == []


# -- publishing ---------------------------------------------------------------------------------


def test_publishing_completes_the_chunk_and_can_be_repeated(store: Store) -> None:
    store.submit(campaign_plan())
    claim = claimed(store)
    commit(store, claim)
    (waiting,) = store.committed_tasks(C1, idle_s=0)
    assert (waiting.task_id, waiting.fence) == (claim.task_id, claim.fence)
    assert store.committed_tasks(C1, idle_s=3600) == []
    store.mark_published(claim.task_id, claim.fence)
    store.mark_published(claim.task_id, claim.fence)
    assert view(store).status is TaskStatus.COMPLETED
    assert [p.status for p in store.parts(R0)] == [PartStatus.PUBLISHED]
    assert store.committed_tasks(C1, idle_s=0) == []
    assert store.run_finished_at_s(R0) == pytest.approx(store.now_s(), abs=5)


def test_a_stale_fence_cannot_complete(backend: Backend) -> None:
    backend.store.submit(campaign_plan())
    old, new = reclaimed(backend)
    commit(backend.store, new)
    with pytest.raises(LeaseLost):
        backend.store.mark_published(old.task_id, old.fence)
    assert view(backend.store).status is TaskStatus.COMMITTED


def test_a_running_chunk_cannot_be_completed(store: Store) -> None:
    store.submit(campaign_plan())
    claim = claimed(store)
    with pytest.raises(LeaseLost):
        store.mark_published(claim.task_id, claim.fence)
    assert view(store).status is TaskStatus.RUNNING


# -- failing and releasing ----------------------------------------------------------------------


def test_a_failure_is_remembered_and_can_be_repeated(store: Store) -> None:
    store.submit(campaign_plan())
    claim = claimed(store)
    for _ in range(2):
        assert store.fail(claim.task_id, claim.fence, BROKEN) is TaskStatus.FAILED
    task = view(store)
    assert (task.error_class, task.last_error, task.attempts) == ("SourceBusy", "deadlock", 1)
    assert events(store).count("chunk.failed") == 1


def test_a_permanent_failure_spends_the_whole_budget(store: Store) -> None:
    store.submit(campaign_plan(chunks=(1,)))
    claim = claimed(store)
    permanent = Failure(error_class="SourceRefused", message="no privilege", permanent=True)
    store.fail(claim.task_id, claim.fence, permanent)
    assert view(store).attempts == 3 and store.claim(C1, W1, 60.0) is None


def test_a_stale_fence_cannot_fail(backend: Backend) -> None:
    backend.store.submit(campaign_plan())
    old, _new = reclaimed(backend)
    with pytest.raises(LeaseLost):
        backend.store.fail(old.task_id, old.fence, BROKEN)
    assert view(backend.store).status is TaskStatus.RUNNING


def test_a_committed_chunk_cannot_be_failed(store: Store) -> None:
    store.submit(campaign_plan())
    claim = claimed(store)
    commit(store, claim)
    with pytest.raises(LeaseLost):
        store.fail(claim.task_id, claim.fence, BROKEN)
    assert view(store).status is TaskStatus.COMMITTED


def test_a_release_gives_the_attempt_back_and_can_be_repeated(store: Store) -> None:
    store.submit(campaign_plan())
    claim = claimed(store)
    store.release(claim.task_id, claim.fence)
    store.release(claim.task_id, claim.fence)
    task = view(store)
    assert (task.status, task.attempts, task.fence) == (TaskStatus.PENDING, 0, claim.fence)


def test_an_outage_is_what_was_given_back_since_the_source_last_answered(store: Store) -> None:
    store.submit(campaign_plan(chunks=(2, 2)))
    other = RunId("c1-e1")
    for said in ("", "gone", "gone still"):
        claim = claimed(store)
        store.release(claim.task_id, claim.fence, said)
    outage = store.outage(C1, [R0, other])
    assert outage is not None and (outage.tries, outage.message) == (2, "gone still")
    assert outage.since_s <= outage.last_s <= store.now_s()
    entries = store.journal(only=JournalFilter(events=("chunk.released",)))
    assert [e.message for e in entries] == ["", "gone", "gone still"]
    assert outage.since_s == entries[1].at_s
    assert store.outage(C1, [other]) is None and store.outage(C1, []) is None
    commit(store, claimed(store))
    assert store.outage(C1, [R0, other]) is None, "it answered"
    claim = claimed(store)
    store.release(claim.task_id, claim.fence, "gone again")
    outage = store.outage(C1, [R0, other])
    assert outage is not None and outage.tries == 1
    claim = claimed(store)
    store.fail(claim.task_id, claim.fence, BROKEN)
    assert store.outage(C1, [R0, other]) is None, "it answered"


def test_a_stale_fence_cannot_release(backend: Backend) -> None:
    backend.store.submit(campaign_plan())
    old, new = reclaimed(backend)
    with pytest.raises(LeaseLost):
        backend.store.release(old.task_id, old.fence)
    task = view(backend.store)
    assert (task.status, task.fence) == (TaskStatus.RUNNING, new.fence)


def test_a_committed_chunk_cannot_be_released(store: Store) -> None:
    store.submit(campaign_plan())
    claim = claimed(store)
    commit(store, claim)
    with pytest.raises(LeaseLost):
        store.release(claim.task_id, claim.fence)
    assert view(store).status is TaskStatus.COMMITTED


# -- reaping ------------------------------------------------------------------------------------


def test_reaping_makes_the_old_fence_worthless(backend: Backend) -> None:
    store = backend.store
    store.submit(campaign_plan())
    claim = claimed(store)
    backend.expire(claim.task_id)
    (reaped,) = store.reap_expired()
    assert (reaped.status, reaped.owner, reaped.owner_name) == (TaskStatus.PENDING, "w1", "w1")
    assert reaped.fence == claim.fence + 1 and reaped.attempts == 1
    with pytest.raises(LeaseLost):
        store.release(claim.task_id, claim.fence)
    with pytest.raises(LeaseLost):
        commit(store, claim)
    assert store.renew(W1, [(claim.task_id, claim.fence)], 60, 1) == [claim.task_id]


def test_only_the_databases_clock_expires_a_lease(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.submit(campaign_plan())
    claimed(store)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 86_400)
    assert store.reap_expired() == []


def test_a_reap_that_spends_the_budget_leaves_a_poison_chunk(backend: Backend) -> None:
    store = backend.store
    store.submit(campaign_plan(chunks=(1,), attempts_max=1))
    store.renew(W1, [], 60, 1)
    claimed(store)
    (reaped,) = store.reap_worker("w1", "signal SIGSEGV")
    assert reaped.status is TaskStatus.FAILED
    task = view(store)
    assert (task.error_class, task.last_error) == ("WorkerDied", "signal SIGSEGV")
    assert store.workers() == []
    assert [e for e in events(store) if e in ("chunk.reaped", "chunk.failed")] == [
        "chunk.reaped",
        "chunk.failed",
    ]
    assert store.reap_worker("w1", "again") == []


def test_reaping_is_bounded_and_keeps_to_its_campaign(backend: Backend) -> None:
    store = backend.store
    store.submit(campaign_plan(chunks=(3,)))
    for _ in range(3):
        backend.expire(claimed(store).task_id)
    assert store.reap_expired(CampaignId("other")) == []
    assert len(store.reap_expired(C1, limit=2)) == 2
    assert len(store.reap_expired(C1)) == 1


# -- reopening ----------------------------------------------------------------------------------


def test_reopening_voids_the_parts_and_revives_run_and_campaign(store: Store) -> None:
    store.submit(campaign_plan(chunks=(2,)))
    complete_all(store)
    lease = store.lease_finalize(R0, W1, 60)
    assert lease is not None
    store.finish_run(lease, finished())
    assert store.finish_campaign(C1) is CampaignStatus.COMPLETED
    task = view(store)
    assert store.reopen(task.task_id, task.fence, "part lost")
    after = view(store)
    assert (after.status, after.fence, after.attempts) == (TaskStatus.PENDING, task.fence + 1, 0)
    assert [p.chunk_index for p in store.parts(R0)] == [1]
    assert len(store.parts(R0, include_voided=True)) == 2
    run, campaign = store.run(R0), store.campaign(C1)
    assert run is not None and campaign is not None
    assert (run.status, campaign.status) == (RunStatus.IN_PROGRESS, CampaignStatus.ACTIVE)
    assert claimed(store).fence == task.fence + 2
    assert not store.reopen(task.task_id, task.fence, "again")


def test_a_stale_fence_cannot_reopen(store: Store) -> None:
    store.submit(campaign_plan())
    claim = claimed(store)
    commit(store, claim)
    assert not store.reopen(claim.task_id, claim.fence - 1, "stale")
    assert view(store).status is TaskStatus.COMMITTED and len(store.parts(R0)) == 1


def test_a_running_chunk_is_not_reopened(store: Store) -> None:
    store.submit(campaign_plan())
    claim = claimed(store)
    assert not store.reopen(claim.task_id, claim.fence, "no")
    assert view(store).status is TaskStatus.RUNNING


def test_reopening_takes_the_run_from_its_finalizer(store: Store) -> None:
    store.submit(campaign_plan(chunks=(1,)))
    complete_all(store)
    lease = store.lease_finalize(R0, W1, 60)
    assert lease is not None
    task = view(store)
    store.reopen(task.task_id, task.fence, "lost")
    complete_all(store)
    for late in (
        lambda: store.confirm_finalize(lease, 60),
        lambda: store.finish_run(lease, finished()),
        lambda: store.fail_run(lease, "late"),
    ):
        with pytest.raises(LeaseLost):
            late()


def test_requeue_takes_failed_chunks_and_revives_the_campaign(store: Store) -> None:
    store.submit(campaign_plan(chunks=(2, 1), attempts_max=1))
    while (claim := store.claim(C1, W1, 60.0)) is not None:
        store.fail(claim.task_id, claim.fence, BROKEN)
    assert store.finish_campaign(C1) is CampaignStatus.INCOMPLETE
    assert store.requeue(C1, export_name="e0", chunk_index=1) == 1
    campaign = store.campaign(C1)
    assert campaign is not None and campaign.status is CampaignStatus.ACTIVE
    assert store.requeue(C1, export_name="e1") == 1
    assert store.requeue(C1) == 1 and store.requeue(C1) == 0
    task = view(store, 1)
    assert (task.status, task.attempts, task.fence) == (TaskStatus.PENDING, 0, 2)
    with pytest.raises(StateRefused):
        store.requeue(CampaignId("none"))


# -- finishing ----------------------------------------------------------------------------------


def test_a_dead_finalizers_run_is_free_at_once(store: Store) -> None:
    store.submit(campaign_plan(chunks=(1,)))
    complete_all(store)
    dead = store.lease_finalize(R0, W1, 60)
    assert dead is not None and store.lease_finalize(R0, W2, 60) is None
    store.reap_worker(W2.worker_id, "another one ended")
    assert store.lease_finalize(R0, W2, 60) is None
    store.reap_worker(W1.worker_id, "signal 9")
    successor = store.lease_finalize(R0, W2, 60)
    assert successor is not None and successor.finalize_fence > dead.finalize_fence
    with pytest.raises(LeaseLost):
        store.confirm_finalize(dead, 60)


def test_one_finalizer_finishes_a_complete_run(backend: Backend) -> None:
    store = backend.store
    store.submit(campaign_plan(chunks=(3,)))
    assert store.finalizable_runs(C1) == [] and store.lease_finalize(R0, W1, 60) is None
    complete_all(store)
    assert store.finalizable_runs(C1) == [R0]
    first = store.lease_finalize(R0, W1, 60)
    assert first is not None and store.lease_finalize(R0, W2, 60) is None
    store.confirm_finalize(first, 60)
    backend.expire_finalizer(R0)
    second = store.lease_finalize(R0, W2, 60)
    assert second is not None and second.finalize_fence > first.finalize_fence
    for stale in (
        lambda: store.confirm_finalize(first, 60),
        lambda: store.finish_run(first, finished()),
    ):
        with pytest.raises(LeaseLost):
            stale()
    store.finish_run(second, finished())
    store.finish_run(second, finished())
    run = store.run(R0)
    assert run is not None and run.status is RunStatus.COMPLETED and run.finished_at_s
    (metrics,) = store.metrics(export_name="e0")
    assert (metrics["status"], metrics["total_rows"], metrics["run_id"]) == ("success", 30, R0)
    assert events(store).count("run.completed") == 1
    assert store.finalizable_runs(C1) == []


def test_a_run_with_open_chunks_cannot_be_finished(store: Store) -> None:
    store.submit(campaign_plan(chunks=(2,)))
    claim = claimed(store)
    commit(store, claim)
    store.mark_published(claim.task_id, claim.fence)
    assert store.finalizable_runs(C1) == []
    assert store.lease_finalize(R0, W1, 60) is None
    with pytest.raises(LeaseLost):
        store.finish_run(FinalizeLease(run_id=R0, finalize_fence=0), finished())
    run = store.run(R0)
    assert run is not None and run.status is RunStatus.IN_PROGRESS


def test_a_failed_run_leaves_the_campaign_incomplete(store: Store) -> None:
    store.submit(campaign_plan(chunks=(1,)))
    complete_all(store)
    lease = store.lease_finalize(R0, W1, 60)
    assert lease is not None
    store.fail_run(lease, "manifest does not verify")
    store.fail_run(lease, "manifest does not verify")
    run = store.run(R0)
    assert run is not None
    assert (run.status, run.error) == (RunStatus.FAILED, "manifest does not verify")
    assert store.finish_campaign(C1) is CampaignStatus.INCOMPLETE
    assert store.metrics()[0]["status"] == "failed"


def test_failed_chunks_that_are_tried_no_more_are_counted(store: Store) -> None:
    store.submit(campaign_plan(chunks=(3,), attempts_max=2))
    for permanent in (True, False):
        claim = claimed(store)
        store.fail(claim.task_id, claim.fence, replace(BROKEN, permanent=permanent))
    (run,) = store.runs(C1)
    assert (run.counts.failed, run.counts.pending, run.spent) == (2, 1, 1)


def test_a_campaign_is_settled_only_when_nothing_can_happen_any_more(store: Store) -> None:
    store.submit(campaign_plan(chunks=(2,), attempts_max=1))
    assert store.finish_campaign(C1) is CampaignStatus.ACTIVE
    first, second = claimed(store), claimed(store)
    store.fail(first.task_id, first.fence, BROKEN)
    assert store.finish_campaign(C1) is CampaignStatus.ACTIVE
    commit(store, second)
    assert store.finish_campaign(C1) is CampaignStatus.ACTIVE
    store.mark_published(second.task_id, second.fence)
    assert store.finish_campaign(C1) is CampaignStatus.INCOMPLETE
    assert store.finish_campaign(C1) is CampaignStatus.INCOMPLETE
    assert events(store).count("campaign.incomplete") == 1
    with pytest.raises(StateRefused):
        store.finish_campaign(CampaignId("none"))


def test_cancelling_takes_running_chunks_back(store: Store) -> None:
    store.submit(campaign_plan(chunks=(3,)))
    claim = claimed(store)
    assert store.cancel(C1) == 1
    with pytest.raises(LeaseLost):
        commit(store, claim)
    task = view(store)
    assert (task.status, task.fence, task.attempts) == (TaskStatus.PENDING, claim.fence + 1, 0)
    campaign, run = store.campaign(C1), store.run(R0)
    assert campaign is not None and campaign.status is CampaignStatus.CANCELLED
    assert run is not None and run.status is RunStatus.CANCELLED
    assert store.cancel(C1) == 0 and events(store).count("campaign.cancelled") == 1
    store.submit(campaign_plan(campaign_id="c2"))
    with pytest.raises(StateRefused):
        store.requeue(C1)


def test_a_campaign_takes_the_place_of_another_in_one_transaction(store: Store) -> None:
    store.submit(campaign_plan(chunks=(3,)))
    claim = claimed(store)
    outcome = store.submit(campaign_plan(campaign_id="c2"), replacing=[C1])
    assert outcome.created
    campaign, run = store.campaign(C1), store.run(R0)
    assert campaign is not None and campaign.status is CampaignStatus.CANCELLED
    assert run is not None and run.status is RunStatus.CANCELLED
    with pytest.raises(LeaseLost):
        commit(store, claim)
    # The same again, as after an answer that was lost: nothing changes.
    again = store.submit(campaign_plan(campaign_id="c2"), replacing=[C1])
    assert not again.created and events(store).count("campaign.cancelled") == 1


def test_a_refused_submission_replaces_nothing(store: Store) -> None:
    store.submit(campaign_plan(chunks=(3,)))
    claim = claimed(store)
    other = campaign_plan(campaign_id="c2", chunks=(1, 1))
    store.submit(replace(other, runs=other.runs[1:]))
    # c1 would not be in the way any more; c2 is, and is not named.
    with pytest.raises(StateRefused, match="still in progress in c2"):
        store.submit(campaign_plan(campaign_id="c3", chunks=(1, 1)), replacing=[C1])
    campaign = store.campaign(C1)
    assert campaign is not None and campaign.status is CampaignStatus.ACTIVE
    assert store.campaign(CampaignId("c3")) is None
    commit(store, claim)


def test_what_completed_meanwhile_is_not_cancelled_by_its_replacement(store: Store) -> None:
    store.submit(campaign_plan(chunks=(1,)))
    complete_all(store)
    lease = store.lease_finalize(R0, W1, 60)
    assert lease is not None
    store.finish_run(lease, finished())
    store.finish_campaign(C1)
    assert store.submit(campaign_plan(campaign_id="c2"), replacing=[C1]).created
    campaign = store.campaign(C1)
    assert campaign is not None and campaign.status is CampaignStatus.COMPLETED


def test_a_completed_campaign_cannot_be_cancelled(store: Store) -> None:
    store.submit(campaign_plan(chunks=(1,)))
    complete_all(store)
    lease = store.lease_finalize(R0, W1, 60)
    assert lease is not None
    store.finish_run(lease, finished())
    store.finish_campaign(C1)
    with pytest.raises(StateRefused, match="nothing to cancel"):
        store.cancel(C1)
    assert store.campaigns(active_only=True) == []


def test_reset_forgets_an_export_unless_somebody_works_on_it(backend: Backend) -> None:
    store = backend.store
    store.submit(campaign_plan(chunks=(1, 1)))
    claim = claimed(store)
    with pytest.raises(StateRefused, match="live worker"):
        store.reset_export("shop", "e0", chunks_only=True)
    backend.expire(claim.task_id)
    assert store.reset_export("shop", "e0", chunks_only=True) == 1
    assert [r.export_name for r in store.runs(C1)] == ["e1"]
    assert store.reset_export("shop", "e1", chunks_only=False) == 1
    campaign = store.campaign(C1)
    assert campaign is not None and campaign.status is CampaignStatus.CANCELLED


# -- the journal --------------------------------------------------------------------------------


def test_every_transition_is_in_the_journal(backend: Backend) -> None:
    store = backend.store
    store.submit(campaign_plan(chunks=(1,)))
    reclaimed(backend)
    task = view(store)
    store.release(task.task_id, task.fence)
    claim = claimed(store)
    commit(store, claim)
    store.mark_published(claim.task_id, claim.fence)
    store.reopen(claim.task_id, claim.fence, "lost")
    assert events(store) == [
        "campaign.submitted",
        "chunk.claimed",
        "chunk.reaped",
        "chunk.claimed",
        "chunk.released",
        "chunk.claimed",
        "chunk.committed",
        "chunk.completed",
        "chunk.reopened",
    ]
    entries = store.journal(run_id=R0)
    assert entries[0].worker_id == "w1" and entries[0].chunk_index == 0
    assert store.journal(after_id=entries[-1].journal_id) == []
    assert store.journal(campaign_id=C1, limit=2) == store.journal(campaign_id=C1)[:2]
    told = [entry.event for entry in store.journal(campaign_id=C1)]
    assert store.journal_counts(C1) == {event: told.count(event) for event in told}
    assert store.journal_counts(CampaignId("nobody")) == {}


def test_what_led_to_a_transition_is_journaled_with_it_at_its_own_time(store: Store) -> None:
    store.submit(campaign_plan())
    claim = claimed(store)
    staged = Told(event=Event(name=EventName.PART_STAGED, campaign_id=C1), ago_s=lambda: 60.0)
    shown = Told(event=Event(name=EventName.PART_PUBLISHED, campaign_id=C1), ago_s=lambda: 30.0)
    with pytest.raises(LeaseLost):
        store.commit(claim.task_id, claim.fence + 1, [], rows=0, pages=1, told=[staged])
    assert "part.staged" not in events(store)
    for _ in range(2):
        store.commit(claim.task_id, claim.fence, [], rows=0, pages=1, told=[staged])
    for _ in range(2):
        store.mark_published(claim.task_id, claim.fence, [shown])
    entries = store.journal(campaign_id=C1)[-4:]
    names = ["part.staged", "chunk.committed", "part.published", "chunk.completed"]
    assert [entry.event for entry in entries] == names
    assert entries[1].at_s - entries[0].at_s == pytest.approx(60.0, abs=5.0)
    assert entries[3].at_s - entries[2].at_s == pytest.approx(30.0, abs=5.0)


def test_only_what_decides_nothing_may_be_undone_by_a_power_cut(backend: Backend) -> None:
    """Every other transition has reached the disk when it returns (ADR 0005)."""
    if not isinstance(backend.store, Store):
        pytest.skip("keeps nothing")
    store, levels = backend.store, list[str]()

    def at_commit(connection: Any, cursor: Any, statement: str, *_: object) -> None:
        if statement == "COMMIT":
            sqlite = connection.dialect.name == "sqlite"
            look = connection.connection.dbapi_connection.cursor()
            look.execute("PRAGMA synchronous" if sqlite else "SHOW synchronous_commit")
            levels.append(str(look.fetchone()[0]))

    store.submit(campaign_plan())
    first, second = claimed(store), claimed(store)
    sql_event.listen(store._db.engine, "before_cursor_execute", at_commit)
    try:
        store.commit(first.task_id, first.fence, [], rows=0, pages=1)
        store.mark_published(first.task_id, first.fence)
        store.release(second.task_id, second.fence)
        claimed(store)
        store.reopen(first.task_id, first.fence, "lost")
        decided = len(levels)
        reading = CounterReading(engine="e", taken_at_s=1.0, counters={}, context={})
        store.note_counters_before(R0, "s", reading)
        store.note_counters_after(R0, reading)
        store.write_journal(Event(name=EventName.WORKER_DIED))
        with pytest.raises(LeaseLost):
            store.confirm_finalize(FinalizeLease(run_id=R0, finalize_fence=9), 1.0)
    finally:
        sql_event.remove(store._db.engine, "before_cursor_execute", at_commit)
    relaxed, waits = ("1", "2") if levels[0] == "2" else ("off", "on")
    assert levels[1] == relaxed
    assert set(levels[:1] + levels[2:decided]) == {waits}
    assert levels[decided:] == [relaxed] * 4


def test_events_of_others_are_kept_as_they_are(store: Store) -> None:
    event = Event(name=EventName.WORKER_DIED, worker_id="w9", message="gone", data={"signal": 9})
    store.write_journal(event)
    (entry,) = store.journal()
    assert (entry.event, entry.worker_id, entry.message) == ("worker.died", "w9", "gone")
    assert entry.data == {"signal": 9}


# -- history ------------------------------------------------------------------------------------


def test_history_tells_what_ended_runs_measured_newest_first(store: Store) -> None:
    for number in (1, 2):
        campaign_id = CampaignId(f"c{number}")
        run_id = RunId(f"c{number}-e0")
        store.submit(campaign_plan(campaign_id=campaign_id, chunks=(2,)))
        while (claim := store.claim(campaign_id, W1, 60.0)) is not None:
            commit(store, claim)
            store.mark_published(claim.task_id, claim.fence)
        lease = store.lease_finalize(run_id, W1, 60)
        assert lease is not None
        store.finish_run(lease, finished(rows=number * 100))
    assert store.history("other", ["e0"]) == {} and store.history("shop", ["e9"]) == {}
    (measured,) = store.history("shop", ["e0"], limit=1)["e0"]
    assert (measured.run_id, measured.rows, measured.succeeded) == ("c2-e0", 200, True)
    assert [run.rows for run in store.history("shop", ["e0"])["e0"]] == [200, 100]
    assert (measured.chunks, measured.retries, measured.duration_s) == (2, 0, 1.5)
    assert measured.work_s is not None and 0 <= measured.work_s < 5.0


def test_time_spent_waiting_is_no_work(store: Store) -> None:
    store.submit(campaign_plan(chunks=(1,)))
    before_s = store.now_s()
    while store.now_s() < before_s + 0.3:
        pass  # the chunk waits for somebody to claim it
    complete_all(store)
    waited_s = store.now_s() - before_s
    lease = store.lease_finalize(R0, W1, 60)
    assert lease is not None
    store.finish_run(lease, finished())
    (measured,) = store.history("shop", ["e0"])["e0"]
    assert measured.work_s is not None and measured.work_s < waited_s - 0.25


def test_a_run_that_was_given_up_is_remembered_as_a_failure(store: Store) -> None:
    store.submit(campaign_plan(chunks=(2,)))
    commit(store, claimed(store))
    claim = claimed(store)
    store.fail(claim.task_id, claim.fence, replace(BROKEN, permanent=True))
    assert store.history("shop", ["e0"]) == {}, "it may still be finished"
    store.cancel(C1)
    (measured,) = store.history("shop", ["e0"])["e0"]
    assert not measured.succeeded and measured.work_s is not None


def test_an_export_without_a_mark_has_no_cursor(store: Store) -> None:
    store.submit(campaign_plan(chunks=(1,)))
    assert store.marks("shop", ["e0", "e1"]) == {}


def unique(entries: bytes, duplicates: int = 0) -> UniqueStats:
    return UniqueStats(
        columns=("id",), keys=3, duplicates=duplicates, complete=True, shift=2, entries=entries
    )


def committed_with(store, chunk: int, *stats: UniqueStats, longest_statement_s=None):
    claim = store.claim(C1, W1, 30.0)
    assert claim.chunk_index == chunk
    part = replace(
        staged_part(chunk, claim.fence),
        uniques=stats,
        columns=(ColumnStats(name="id", nulls=0, changed=chunk + 1),),
    )
    store.commit(
        claim.task_id, claim.fence, [part], rows=10, pages=1,
        longest_statement_s=longest_statement_s,
    )  # fmt: skip
    store.mark_published(claim.task_id, claim.fence)
    return claim


def test_a_ledger_is_read_whole_by_who_ends_the_run_and_by_nobody_after_a_reopening(store) -> None:
    store.submit(campaign_plan(chunks=(2,)))
    first, second = committed_with(store, 0), committed_with(store, 1)
    lease = store.lease_finalize(first.run_id, W1, 60)
    ledger = store.whole_ledger(lease)
    assert ledger.parts == store.parts(first.run_id)
    assert ledger.fences == {0: first.fence, 1: second.fence}
    assert store.completed_ledger(first.run_id) is None
    store.finish_run(lease, finished())
    assert store.completed_ledger(first.run_id) == ledger
    assert store.completed_ledger(RunId("c1-none")) is None
    assert store.reopen(second.task_id, second.fence, "lost")
    assert store.completed_ledger(first.run_id) is None
    with pytest.raises(LeaseLost):
        store.whole_ledger(lease)


def test_statistics_of_unique_keys_live_and_die_with_their_parts(store) -> None:
    """Q1: committed with the chunk, voided with its parts, gone when a later run is finished."""
    store.submit(campaign_plan(chunks=(2,)))
    first = committed_with(store, 0, unique(b"\x01" * 8), unique(b"", 5))
    committed_with(store, 1, unique(b"\x02" * 8), unique(b""))
    run_id = RunId("c1-e0")
    found = store.unique_stats(run_id, 0, ("id",))
    assert found == [unique(b"\x01" * 8), unique(b"\x02" * 8)]
    assert [s.duplicates for s in store.unique_stats(run_id, 1, ("id",))] == [5, 0]
    assert store.unique_stats(run_id, 2, ("id",)) == []
    assert store.reopen(first.task_id, first.fence, "lost")
    assert store.unique_stats(run_id, 0, ("id",)) == [unique(b"\x02" * 8)]
    committed_with(store, 0, unique(b"\x03" * 8))
    assert store.unique_stats(run_id, 0, ("id",))[0].entries == b"\x03" * 8
    assert store.run(run_id).changed_values == 3
    finish(store, run_id, RunFindings())
    assert store.unique_stats(run_id, 0, ("id",)) != []

    store.submit(campaign_plan(campaign_id="c2", chunks=(1,)))
    claim = store.claim(CampaignId("c2"), W1, 30.0)
    store.commit(claim.task_id, claim.fence, [staged_part(0, claim.fence)], rows=10, pages=1)
    store.mark_published(claim.task_id, claim.fence)
    finish(store, RunId("c2-e0"), None)
    assert store.unique_stats(run_id, 0, ("id",)) == []


def finish(store, run_id: RunId, findings: RunFindings | None, error: str = "") -> None:
    lease = store.lease_finalize(run_id, W1, 30.0)
    if error:
        store.fail_run(lease, error, findings)
        return
    store.finish_run(
        lease,
        FinishedRun(
            manifest_fingerprint="x", rows=1, bytes=1, files=1, duration_s=1.0, findings=findings
        ),
    )


GATE = GateVerdict(
    code=GateCode.UNIQUE,
    columns=("a", "b"),
    outcome=GateOutcome.UNKNOWN,
    refuses=True,
    sentence="?",
)


def test_of_all_attempts_the_longest_statement_counts(store) -> None:
    store.submit(campaign_plan(chunks=(1,)))
    claim = store.claim(C1, W1, 30.0)
    store.fail(claim.task_id, claim.fence, replace(BROKEN, longest_statement_s=30.0))
    committed_with(store, 0, longest_statement_s=0.25)
    finish(store, RunId("c1-e0"), RunFindings())
    assert store.metrics()[0]["longest_statement_ms"] == 30_000


def test_what_was_found_is_kept_with_the_run_until_it_is_reopened(store) -> None:
    store.submit(campaign_plan(chunks=(1,)))
    claim = committed_with(store, 0, longest_statement_s=0.25)
    shape = ShapeChange(code=ShapeChangeCode.ROWS, usual=1.5, now=3.0, samples=2)
    findings = RunFindings(gates=(GATE,), shape=(shape,))
    run_id = RunId("c1-e0")
    finish(store, run_id, findings, error="not delivered")
    run = store.run(run_id)
    assert (run.status, run.error, run.findings) == (RunStatus.FAILED, "not delivered", findings)
    (row,) = store.metrics()
    assert (row["attempts"], row["longest_statement_ms"], row["changed_values"]) == (1, 250, 1)
    assert store.last_plans("shop", ["e0"]) == {}
    assert store.finish_campaign(CampaignId("c1")) is CampaignStatus.INCOMPLETE
    assert store.reopen(claim.task_id, claim.fence, "again")
    run = store.run(run_id)
    assert (run.status, run.error, run.findings) == (RunStatus.IN_PROGRESS, None, None)


def test_what_the_source_said_of_a_run_is_kept_until_its_data_change(store) -> None:
    store.submit(campaign_plan(chunks=(1,)))
    claim = committed_with(store, 0)
    proof = RunProof(
        prove=Prove.ALL,
        outcome=ProofOutcome.PROVEN,
        delivered=10,
        counted=10,
        sentence="as many",
        longest_statement_s=0.75,
    )
    run_id = RunId("c1-e0")
    told = Told(event=Event(name=EventName.RUN_PROVEN, campaign_id=C1), ago_s=lambda: 0.0)
    former = store.lease_finalize(run_id, W1, -1.0)
    lease = store.lease_finalize(run_id, W2, 30.0)
    with pytest.raises(LeaseLost):
        store.note_proof(former, proof, 30.0, told=[told])
    assert store.run(run_id).proof is None
    assert "run.proven" not in events(store)
    store.note_proof(lease, proof, 30.0)
    store.note_proof(lease, proof, 30.0, told=[told])
    assert events(store)[-1] == "run.proven"
    store.confirm_finalize(lease, 30.0, told=[told])
    with pytest.raises(LeaseLost):
        store.confirm_finalize(former, 30.0, told=[told])
    assert events(store)[-2:] == ["run.proven"] * 2
    assert events(store).count("run.proven") == 2
    assert store.run(run_id).proof == proof
    store.fail_run(lease, "not delivered", RunFindings(gates=(GATE,)))
    assert store.run(run_id).proof == proof, "an accepted run is judged as it was"
    assert store.metrics()[0]["longest_statement_ms"] == 750, "counting was a statement, too"
    assert store.reopen(claim.task_id, claim.fence, "again")
    assert store.run(run_id).proof is None


def test_the_last_completed_run_is_the_baseline_of_the_next(store) -> None:
    plan = campaign_plan(chunks=(1, 1))
    store.submit(plan)
    assert store.last_plans("shop", ["e0", "e1"]) == {}
    committed_with(store, 0)
    finish(store, RunId("c1-e0"), RunFindings())
    assert store.last_plans("shop", ["e0", "e1", "other"]) == {"e0": plan.runs[0].plan}
    assert store.last_plans("other", ["e0"]) == {}
    assert store.run(RunId("c1-e0")).findings == RunFindings()


def test_journal_entries_are_chosen_by_what_they_are_about(store) -> None:
    store.submit(campaign_plan(chunks=(1, 1)))
    for worker in (W1, W2):
        claim = store.claim(C1, worker, 30.0)
        store.renew(worker, [(claim.task_id, claim.fence)], 30.0, 1)
    whole = store.journal(campaign_id=C1)

    def chosen(**only: Any) -> list[str]:
        return [e.event for e in store.journal(campaign_id=C1, only=JournalFilter(**only))]

    assert chosen() == [entry.event for entry in whole]
    assert chosen(export_name="e1") == ["chunk.claimed"]
    assert chosen(events=("campaign.submitted", "chunk.failed")) == ["campaign.submitted"]
    assert chosen(worker=W1.worker_id) == chosen(worker=W1.name) == ["chunk.claimed"]
    assert chosen(worker="nobody") == []
    assert chosen(since_s=store.now_s() + 60) == []
    assert len(chosen(since_s=store.now_s() - 3600)) == len(whole)
    assert store.journal(campaign_id=C1, newest=True, limit=2) == whole[-2:]
    assert store.journal(campaign_id=C1, newest=True, limit=0) == []


def refused_run(store) -> RunId:
    """A run whose only chunk is completed and whose gates did not hold."""
    store.submit(campaign_plan(chunks=(1,)))
    committed_with(store, 0)
    finish(store, RunId("c1-e0"), RunFindings(gates=(GATE,)), error="not delivered")
    assert store.finish_campaign(C1) is CampaignStatus.INCOMPLETE
    return RunId("c1-e0")


def test_an_export_has_one_run_in_progress_and_every_other_is_told_of_it(store) -> None:
    store.submit(campaign_plan(campaign_id="c1", chunks=(1,)))
    assert store.other_in_progress(RunId("c1-e0")) is None
    committed_with(store, 0)
    finish(store, RunId("c1-e0"), RunFindings())
    store.finish_campaign(C1)
    store.submit(campaign_plan(campaign_id="c2", chunks=(1,)))
    assert store.other_in_progress(RunId("c1-e0")) == "c2-e0"
    assert store.other_in_progress(RunId("c2-e0")) is None


def test_an_accepted_run_is_finished_and_nothing_else(store) -> None:
    run_id = refused_run(store)
    before = store.run(run_id)
    accepted = store.accept_run(run_id, by="ann", reason="a holiday")
    assert accepted.created
    assert (accepted.acceptance.by, accepted.acceptance.gates) == ("ann", (GATE,))
    run = store.run(run_id)
    assert (run.status, run.error, run.finished_at_s) == (RunStatus.IN_PROGRESS, None, None)
    assert run.acceptance == accepted.acceptance
    assert run.counts.completed == run.expected_tasks, "nothing is read again"
    assert run.finalize_fence > before.finalize_fence, "S6: a late finalizer has lost the run"
    assert store.campaign(C1).status is CampaignStatus.ACTIVE
    assert store.finalizable_runs(C1) == [run_id]
    again = store.accept_run(run_id, by="bob", reason="me too")
    assert (again.created, again.acceptance) == (False, accepted.acceptance)
    (entry,) = [e for e in store.journal(campaign_id=C1) if e.event == "run.accepted"]
    assert "ann" in entry.message
    assert entry.data["reason"] == "a holiday"
    finish(store, run_id, RunFindings(gates=(GATE,), acceptance=accepted.acceptance))
    assert store.finish_campaign(C1) is CampaignStatus.COMPLETED
    assert store.run(run_id).acceptance == accepted.acceptance
    assert store.accept_run(run_id, by="bob", reason="late").created is False


def test_other_verdicts_end_an_acceptance(store) -> None:
    run_id = refused_run(store)
    store.accept_run(run_id, by="ann", reason="a holiday")
    finish(store, run_id, RunFindings(gates=(replace(GATE, sentence="!"),)), error="again")
    run = store.run(run_id)
    assert (run.status, run.acceptance) == (RunStatus.FAILED, None)
    assert store.accept_run(run_id, by="ann", reason="this, too").created


def test_only_a_run_that_gates_refused_can_be_accepted(store) -> None:
    store.submit(campaign_plan(chunks=(1,)))
    run_id = RunId("c1-e0")

    def refused() -> None:
        before = store.run(run_id)
        with pytest.raises(StateRefused) as error:
            store.accept_run(run_id, by="ann", reason="why not")
        assert error.value.code == "RIVET_ACCEPT_WRONG_STATE"
        assert store.run(run_id) == before

    refused()
    committed_with(store, 0)
    refused()
    finish(store, run_id, RunFindings())
    refused()
    with pytest.raises(StateRefused):
        store.accept_run(RunId("nothing"), by="ann", reason="why not")


def test_a_cancelled_campaign_stays_given_up(store) -> None:
    run_id = refused_run(store)
    store.cancel(C1)
    with pytest.raises(StateRefused, match="cancelled"):
        store.accept_run(run_id, by="ann", reason="why not")


def test_a_newer_run_of_the_export_stands_in_the_way(store) -> None:
    run_id = refused_run(store)
    store.submit(campaign_plan(campaign_id="c2", chunks=(1,)))
    with pytest.raises(StateRefused, match="newer"):
        store.accept_run(run_id, by="ann", reason="why not")


def test_a_claim_may_be_for_some_runs_alone(store: Store, backend: Backend) -> None:
    """With a budget and without one; whoever names none gets what is left."""
    for name, groups in (("c1", ()), ("c2", ("shop", "shop", "shop"))):
        campaign = CampaignId(name)
        store.submit(
            campaign_plan(
                campaign_id=name, name=name, chunks=(1, 2, 1), groups=groups, slots={"shop": 9}
            )
        )
        named = (RunId(f"{name}-e1"), RunId(f"{name}-e2"))
        got = [store.claim(campaign, W1, 60.0, only=named[:1]) for _ in range(3)]
        assert [claim and claim.run_id for claim in got] == [named[0], named[0], None]
        last = store.claim(campaign, W1, 60.0, only=named)
        assert last is not None and last.run_id == named[1]
        rest = store.claim(campaign, W1, 60.0)
        assert rest is not None and rest.export_name == "e0"


def test_a_runs_time_counts_from_its_first_claim(store: Store, backend: Backend) -> None:
    store.submit(campaign_plan(chunks=(1,)))
    before = store.run(R0)
    assert before is not None and before.first_claim_at_s is None
    assert before.began_at_s == before.created_at_s
    first = claimed(store)
    begun = store.run(R0)
    assert begun is not None and begun.first_claim_at_s is not None
    assert begun.began_at_s == begun.first_claim_at_s >= begun.created_at_s
    store.release(first.task_id, first.fence)
    claimed(store, W2)
    again = store.run(R0)
    assert again is not None and again.first_claim_at_s == begun.first_claim_at_s
