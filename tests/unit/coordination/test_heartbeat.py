"""The heartbeat over the in-memory store: renewals, lost leases, hangs, orphans."""

import threading
import time

import pytest

from rivet_fleet.contracts.clock import SystemClock
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.coordination.fleet import this_process
from rivet_fleet.coordination.heartbeat import Heartbeat, HeartbeatLimits
from rivet_fleet.errors import ExitCode, LeaseLost, StateRefused, StateUnavailable
from tests.campaigns import campaign_plan
from tests.model.store import MemoryStore

CAMPAIGN = CampaignId("c1")


def claimed(ttl_s):
    store = MemoryStore(time.time)
    store.submit(campaign_plan(chunks=(2,)))
    worker = this_process("w")
    return store, worker, store.claim(CAMPAIGN, worker, ttl_s)


def heartbeat(store, worker, *, ended=None, emit=lambda event: None, **limits):
    values = {"lease_ttl_s": 0.2, "hang_timeout_s": 60.0, **limits}
    return Heartbeat(
        lambda: store,
        worker,
        HeartbeatLimits(**values),
        clock=SystemClock(),
        emit=emit,
        end_process=ended or (lambda code: None),
    )


def until(condition, what):
    deadline_s = time.monotonic() + 20
    gate = threading.Event()
    while not condition():
        assert time.monotonic() < deadline_s, what
        gate.wait(0.01)


def test_a_renewed_lease_outlives_its_first_term():
    store, worker, claim = claimed(0.2)
    beat = heartbeat(store, worker)
    beat.start()
    beat.watch(claim, claimed_at_s=time.monotonic())
    first = store.task(claim.run_id, claim.chunk_index).lease_expires_at_s
    until(
        lambda: store.task(claim.run_id, claim.chunk_index).lease_expires_at_s > first + 0.3,
        "the lease was not renewed",
    )
    assert not store.reap_expired(CAMPAIGN)
    assert beat.trusted(claim)
    beat.check(claim)
    beat.close()


def test_a_lease_somebody_else_took_is_noticed():
    store, worker, claim = claimed(0.2)
    beat = heartbeat(store, worker)
    store.reap_worker(worker.worker_id, "seen to end")
    beat.watch(claim, claimed_at_s=time.monotonic())
    beat.start()

    def lost():
        try:
            beat.check(claim)
        except LeaseLost:
            return True
        return False

    until(lost, "the lost lease was not noticed")
    beat.unwatch(claim)
    beat.check(claim)
    beat.close()


def test_both_leases_of_a_worker_are_renewed_and_told_apart():
    store, worker, read = claimed(30.0)
    following = store.claim(CAMPAIGN, worker, 30.0)
    beat = heartbeat(store, worker, lease_ttl_s=60.0)
    for claim in (read, following):
        beat.watch(claim, claimed_at_s=time.monotonic() - 1000)
    beat._beat(store)
    assert beat.trusted(read) and beat.trusted(following)
    for task in store.tasks(read.run_id):
        assert task.lease_expires_at_s > time.time() + 40
    store._take_back([store._tasks[read.task_id]], "lease expired")
    beat._beat(store)
    with pytest.raises(LeaseLost):
        beat.check(read)
    beat.check(following)
    beat.unwatch(following)
    beat.check(following)


def test_a_chunk_that_is_claimed_again_by_the_same_process_is_lost_to_the_first_claim():
    """The state tells what is lost by the task alone."""
    store, worker, first = claimed(30.0)
    beat = heartbeat(store, worker)
    beat.watch(first, claimed_at_s=time.monotonic())
    store._take_back([store._tasks[first.task_id]], "lease expired")
    second = store.claim(CAMPAIGN, worker, 30.0)
    assert second.task_id == first.task_id
    beat.watch(second, claimed_at_s=time.monotonic())
    beat._beat(store)
    with pytest.raises(LeaseLost):
        beat.check(first)
    beat.check(second)
    assert beat.trusted(second)


@pytest.mark.parametrize("hangs", [0, 1])
def test_either_chunk_may_hang(hangs):
    store, worker, read = claimed(30.0)
    claims, ends = [read, store.claim(CAMPAIGN, worker, 30.0)], []
    beat = heartbeat(store, worker, ended=ends.append, hang_timeout_s=60.0)
    for claim in claims:
        beat.watch(claim, claimed_at_s=time.monotonic())
    beat._watch_progress()
    assert not ends
    beat._leases[claims[hangs].task_id, 1].progress_at_s -= 61.0
    beat.progressed(claims[1 - hangs])
    beat._watch_progress()
    assert ends == [ExitCode.HUNG]


def test_a_state_that_refuses_the_heartbeat_ends_the_chunk():
    """A file of somebody else's beside the state is no reason to try again half a second later."""
    _, worker, claim = claimed(0.2)
    said = threading.Event()

    def refuses():
        raise StateRefused("not this user's alone", code="RIVET_STATE_NOT_OURS")

    beat = Heartbeat(
        refuses,
        worker,
        HeartbeatLimits(lease_ttl_s=0.2, hang_timeout_s=60.0),
        clock=SystemClock(),
        emit=lambda event: said.set(),
    )
    beat.watch(claim, claimed_at_s=time.monotonic())
    beat.start()
    assert said.wait(20)
    with pytest.raises(StateRefused, match="not this user's alone"):
        beat.check(claim)
    beat.close()


def test_a_chunk_without_progress_ends_the_process():
    store, worker, claim = claimed(0.2)
    ends = []
    beat = heartbeat(store, worker, ended=ends.append, hang_timeout_s=0.05)
    beat.watch(claim, claimed_at_s=time.monotonic())
    beat.start()
    until(lambda: ends, "the hang was not noticed")
    assert ends[0] == ExitCode.HUNG
    beat.close()


def test_an_idle_worker_does_not_hang():
    store, worker, _ = claimed(0.2)
    ends = []
    beat = heartbeat(store, worker, ended=ends.append, hang_timeout_s=0.01)
    beat.start()
    until(lambda: any(w.worker_id == worker.worker_id for w in store.workers()), "no beat")
    beat.close()
    assert not ends


def test_an_orphan_that_does_not_drain_ends_itself():
    store, worker, _ = claimed(0.2)
    ends = []
    beat = heartbeat(store, worker, ended=ends.append, parent_pid=1 << 22, orphan_grace_s=0.02)
    beat.start()
    until(lambda: ends, "the orphan went on")
    assert ends[0] == ExitCode.STOPPED
    beat.close()


def test_a_state_database_that_is_away_is_told_and_waited_for():
    store, worker, claim = claimed(30.0)
    events = []

    class Away:
        failures = 2

        def renew(self, *arguments):
            if self.failures:
                self.failures -= 1
                raise StateUnavailable("gone for a moment")
            return store.renew(*arguments)

        def close(self):
            """Nothing to give back."""

    beat = heartbeat(Away(), worker, emit=events.append)
    beat.watch(claim, claimed_at_s=time.monotonic() - 1000)
    assert not beat.trusted(claim)
    beat.start()
    until(lambda: beat.trusted(claim), "it never came back")
    assert len(events) == 2
    beat.close()


def test_trust_is_anchored_at_sending_not_at_the_answer():
    store, worker, claim = claimed(0.2)
    beat = heartbeat(store, worker)
    beat.watch(claim, claimed_at_s=time.monotonic() - 0.3)
    assert not beat.trusted(claim)


def test_what_nobody_foresaw_ends_no_heartbeat():
    """Nothing would replace its thread: leases, hangs and orphans are its to watch."""
    store, worker, claim = claimed(0.2)
    beats = []

    class Breaking:
        def renew(self, *args):
            beats.append(args)
            if len(beats) == 1:
                raise KeyError("a defect")
            return store.renew(*args)

        def close(self):
            pass

    beat = heartbeat(Breaking(), worker)
    beat.watch(claim, claimed_at_s=time.monotonic())
    beat.start()
    until(lambda: len(beats) > 2, "it beats on")
    beat.close()
