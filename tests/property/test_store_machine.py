"""Random interleavings of workers, reapers, operators and finalizers, against the model.

Every rule does the same to a real store and to the in-memory one; their answers and, after
every step, all their tasks, parts, runs and verdicts must agree, and the invariants of the
protocol must hold. Leases expire by a hook that moves them into the past, never by waiting.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rivet_fleet.contracts.keys import CampaignId, RunId, TaskId
from rivet_fleet.contracts.manifest import PartStatus
from rivet_fleet.contracts.protection import SourceBudget
from rivet_fleet.contracts.state import (
    CampaignStatus,
    Failure,
    FinalizeLease,
    FinishedRun,
    RunStatus,
    TaskStatus,
)
from rivet_fleet.errors import LeaseLost, StateRefused
from tests.campaigns import campaign_plan, staged_part
from tests.stores import Backend, MemoryBackend, SqlBackend, identity, sqlite_backend

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
PROFILE = settings(
    max_examples=1000 if LONG else 30,
    stateful_step_count=80 if LONG else 35,
    # Shrinking takes minutes: the default run only says that something is wrong, and where.
    phases=tuple(Phase) if LONG else (Phase.generate,),
    print_blob=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
_numbers = itertools.count(1)


def _answer(call: Callable[[], Any]) -> Any:
    """What a caller sees: the answer, or the class of the refusal."""
    try:
        return call()
    except (LeaseLost, StateRefused) as refusal:
        return type(refusal).__name__


class StoreMachine(RuleBasedStateMachine):
    backend: ClassVar[Backend]

    @initialize(
        chunks=st.lists(st.integers(1, 3), min_size=1, max_size=2),
        attempts_max=st.integers(1, 3),
        slots=st.sampled_from([None, 1, 2]),
    )
    def submit(self, chunks: list[int], attempts_max: int, slots: int | None) -> None:
        self.real, self.model = self.backend, MemoryBackend()
        self.campaign_id = CampaignId(f"m{next(_numbers)}")
        plan = campaign_plan(
            campaign_id=self.campaign_id,
            name=self.campaign_id,
            chunks=chunks,
            attempts_max=attempts_max,
            groups=[f"{self.campaign_id}-db"] * len(chunks),
            slots={} if slots is None else {f"{self.campaign_id}-db": slots},
        )
        self.slots, self.lowered = slots, False
        self.workers = [identity(f"{self.campaign_id}-w{n}") for n in range(3)]
        for side in (self.real, self.model):
            assert side.store.submit(plan).created
        self.run_ids = [RunId(f"{self.campaign_id}-e{i}") for i in range(len(chunks))]
        self.tasks = [(r, c) for r, n in zip(self.run_ids, chunks, strict=True) for c in range(n)]
        self.ids = {
            side: {(r, t.chunk_index): t.task_id for r in self.run_ids for t in side.store.tasks(r)}
            for side in (self.real, self.model)
        }
        self.fences = dict.fromkeys(self.tasks, 0)
        self.held: list[tuple[tuple[RunId, int], int, int]] = []
        self.leases: list[FinalizeLease] = []
        self.promised: dict[tuple[RunId, int], int] = {}

    # -- both sides -----------------------------------------------------------------------

    def both(self, act: Callable[[Backend, Callable[[tuple[RunId, int]], TaskId]], Any]) -> Any:
        answers = []
        for side in (self.real, self.model):
            ids = self.ids[side]
            answers.append(_answer(lambda s=side, i=ids: act(s, i.__getitem__)))  # type: ignore[misc]
        assert answers[0] == answers[1]
        return answers[0]

    def a_hold(self, data: st.DataObject) -> tuple[tuple[RunId, int], int, int]:
        """Any claim ever made, current or stale: a paused worker forgets nothing."""
        return data.draw(st.sampled_from(self.held))

    # -- workers --------------------------------------------------------------------------

    @rule(data=st.data(), worker=st.integers(0, 2), read=st.booleans())
    def claim(self, data: st.DataObject, worker: int, read: bool) -> None:
        """``read``: any claim ever made is said to be read by now, a stale one, too."""
        done = self.a_hold(data) if read and self.held else None

        def act(side: Backend, ids: Any) -> Any:
            claim = side.store.claim(
                self.campaign_id,
                self.workers[worker],
                60.0,
                read=None if done is None else (ids(done[0]), done[1]),
            )
            if claim is None:
                return None
            return (claim.run_id, claim.chunk_index), claim.fence, claim.attempt

        found = self.both(act)
        if found is not None:
            (after,) = self.real.store.groups(self.campaign_id)
            assert self.slots is None or after.running <= self.slots, "beyond the budget"
            key, fence, _ = found
            assert fence > self.fences[key]
            self.held.append((key, fence, worker))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), parts=st.integers(0, 2), repeat=st.booleans())
    def commit(self, data: st.DataObject, parts: int, repeat: bool) -> None:
        key, fence, _ = self.a_hold(data)
        staged = [staged_part(key[1], fence, number=n) for n in range(parts)]
        for _ in range(1 + repeat):
            lost = self.both(
                lambda s, i: s.store.commit(i(key), fence, staged, rows=10 * parts, pages=1)
            )
        if lost is None:
            self.promised[key] = fence

    @precondition(lambda self: self.held)
    @rule(data=st.data(), repeat=st.booleans())
    def publish(self, data: st.DataObject, repeat: bool) -> None:
        key, fence, _ = self.a_hold(data)
        for _ in range(1 + repeat):
            self.both(lambda s, i: s.store.mark_published(i(key), fence))

    @rule()
    def roll_forward(self) -> None:
        def act(side: Backend, _id: Any) -> Any:
            waiting = side.store.committed_tasks(self.campaign_id, idle_s=-1)
            for task in waiting:
                side.store.mark_published(task.task_id, task.fence)
            return sorted((t.run_id, t.chunk_index) for t in waiting)

        self.both(act)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), permanent=st.booleans(), wait_s=st.sampled_from([0.0, 3600.0]))
    def fail(self, data: st.DataObject, permanent: bool, wait_s: float) -> None:
        key, fence, _ = self.a_hold(data)
        failure = Failure(error_class="X", message="m", permanent=permanent, not_before_in_s=wait_s)
        self.both(lambda s, i: s.store.fail(i(key), fence, failure))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        key, fence, _ = self.a_hold(data)
        self.both(lambda s, i: s.store.release(i(key), fence))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        key, fence, worker = self.a_hold(data)
        self.both(
            lambda s, i: len(s.store.renew(self.workers[worker], [(i(key), fence)], 60.0, 1000))
        )

    # -- time, reapers, operators ---------------------------------------------------------

    @rule(slots=st.sampled_from([None, 1, 2, 3]))
    def an_operator_changes_the_budget(self, slots: int | None) -> None:
        budget = SourceBudget(group_name=f"{self.campaign_id}-db", chunks_max=slots)
        self.both(lambda s, _i: len(s.store.set_budgets([budget], by="operator")))
        self.slots, self.lowered = slots, True

    @rule(data=st.data())
    def a_lease_runs_out(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(self.tasks))
        task = self.real.store.task(*key)
        if task is not None and task.status is TaskStatus.RUNNING:
            self.both(lambda s, i: s.expire(i(key)))

    @rule(data=st.data())
    def a_backoff_ends(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(self.tasks))
        self.both(lambda s, i: s.make_due(i(key)))

    @rule()
    def reap(self) -> None:
        def act(side: Backend, _id: Any) -> Any:
            reaped = side.store.reap_expired(self.campaign_id)
            return sorted((r.run_id, r.chunk_index, r.status.value, r.fence) for r in reaped)

        self.both(act)

    @rule(worker=st.integers(0, 2))
    def a_worker_dies(self, worker: int) -> None:
        def act(side: Backend, _id: Any) -> Any:
            reaped = side.store.reap_worker(self.workers[worker].worker_id, "signal 9")
            return sorted((r.run_id, r.chunk_index, r.status.value, r.fence) for r in reaped)

        self.both(act)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def reopen(self, data: st.DataObject) -> None:
        key, fence, _ = self.a_hold(data)
        if self.both(lambda s, i: s.store.reopen(i(key), fence, "lost")) is True:
            self.promised.pop(key, None)

    @rule()
    def requeue(self) -> None:
        self.both(lambda s, _: s.store.requeue(self.campaign_id))

    # -- the end --------------------------------------------------------------------------

    @rule(data=st.data(), worker=st.integers(0, 2))
    def lease_finalize(self, data: st.DataObject, worker: int) -> None:
        run_id = data.draw(st.sampled_from(self.run_ids))
        lease = self.both(lambda s, _: s.store.lease_finalize(run_id, self.workers[worker], 60.0))
        if lease is not None:
            self.leases.append(lease)

    @rule(data=st.data())
    def a_finalizer_is_slow(self, data: st.DataObject) -> None:
        run_id = data.draw(st.sampled_from(self.run_ids))
        self.both(lambda s, _: s.expire_finalizer(run_id))

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), verb=st.sampled_from(["confirm", "finish", "finish", "fail"]))
    def finalize(self, data: st.DataObject, verb: str) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        finished = FinishedRun(manifest_fingerprint="x", rows=1, bytes=1, files=1, duration_s=1.0)
        if verb == "confirm":
            self.both(lambda s, _: s.store.confirm_finalize(lease, 60.0))
        elif verb == "fail":
            self.both(lambda s, _: s.store.fail_run(lease, "m"))
        else:
            self.both(lambda s, _: s.store.finish_run(lease, finished))

    @rule()
    def settle(self) -> None:
        self.both(lambda s, _: s.store.finish_campaign(self.campaign_id))

    @precondition(lambda self: len(self.held) > 6)
    @rule()
    def cancel(self) -> None:
        self.both(lambda s, _: s.store.cancel(self.campaign_id))

    # -- what must always hold --------------------------------------------------------------

    @invariant()
    def the_store_is_the_model(self) -> None:
        for run_id in self.run_ids:
            assert self._seen(self.real, run_id) == self._seen(self.model, run_id)
        assert self._verdict(self.real) == self._verdict(self.model)

    def _seen(self, side: Backend, run_id: RunId) -> Any:
        run = side.store.run(run_id)
        assert run is not None
        tasks = [
            (
                *(t.chunk_index, t.status, t.delivering, t.fence, t.attempts, t.owner),
                *(t.error_class, t.last_error),
            )
            for t in side.store.tasks(run_id)
        ]
        parts = [
            (p.chunk_index, p.part_number, p.fence, p.status)
            for p in side.store.parts(run_id, include_voided=True)
        ]
        whole = (run.status, run.finalize_fence, run.counts, run.rows, run.bytes, run.error)
        return tasks, sorted(parts, key=str), whole

    def _verdict(self, side: Backend) -> Any:
        campaign = side.store.campaign(self.campaign_id)
        assert campaign is not None
        groups = side.store.groups(self.campaign_id)
        return campaign.status, groups, side.store.finalizable_runs(self.campaign_id)

    @invariant()
    def the_protocol_holds(self) -> None:
        for run_id in self.run_ids:
            tasks = self.real.store.tasks(run_id)
            kept = self.real.store.parts(run_id)
            names = [(p.chunk_index, p.part_number) for p in kept]
            assert len(names) == len(set(names)), "a part twice"
            for task in tasks:
                self._task_holds(
                    run_id, task, [p for p in kept if p.chunk_index == task.chunk_index]
                )
            run = self.real.store.run(run_id)
            assert run is not None
            if run.status is RunStatus.COMPLETED:
                assert all(t.status is TaskStatus.COMPLETED for t in tasks)
        if self.slots is not None and not self.lowered:
            (group,) = self.real.store.groups(self.campaign_id)
            assert group.running <= self.slots
        campaign = self.real.store.campaign(self.campaign_id)
        if campaign is not None and campaign.status is CampaignStatus.COMPLETED:
            runs = self.real.store.runs(self.campaign_id)
            assert all(r.status is RunStatus.COMPLETED for r in runs)

    def _task_holds(self, run_id: RunId, task: Any, parts: list[Any]) -> None:
        key = (run_id, task.chunk_index)
        assert task.fence >= self.fences[key], "a fence shrank"
        self.fences[key] = task.fence
        assert 0 <= task.attempts <= task.attempts_max
        done = task.status in (TaskStatus.COMMITTED, TaskStatus.COMPLETED)
        assert not parts or done, "parts of a chunk that is not committed"
        assert {p.fence for p in parts} <= {task.fence}, "parts of another attempt"
        if task.status is TaskStatus.COMPLETED:
            assert {p.status for p in parts} <= {PartStatus.PUBLISHED}
        if key in self.promised:
            assert done and task.fence == self.promised[key], "a commit was lost"


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def backend(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SqlBackend]:
    if request.param == "sqlite":
        opened = sqlite_backend(tmp_path_factory.mktemp("machine"))
    else:
        server = request.getfixturevalue("postgres")
        opened = SqlBackend(server.create_database("store_machine"))
    yield opened
    opened.store.close()


def test_every_interleaving_agrees_with_the_model(backend: SqlBackend) -> None:
    machine = type("Machine", (StoreMachine,), {"backend": backend})
    run_state_machine_as_test(machine, settings=PROFILE)
