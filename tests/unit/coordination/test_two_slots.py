"""One chunk is read while the one before it is delivered, and each ends rightly (ADR 0035).

A real worker over the store and the destination in memory. Nothing is timed: where one of the two
has to wait for the other, the test holds it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rivet_fleet.contracts import killpoints
from rivet_fleet.contracts.events import EventName
from rivet_fleet.contracts.killpoints import Arming, KillAction, KillPoint
from rivet_fleet.contracts.protection import SourceBudget
from rivet_fleet.contracts.state import TaskStatus, TaskView
from rivet_fleet.coordination import fitness
from rivet_fleet.coordination.attempt import Attempt
from rivet_fleet.coordination.heartbeat import Heartbeat, HeartbeatLimits
from rivet_fleet.coordination.worker import Worker
from rivet_fleet.errors import (
    DestinationFull,
    DestinationRefused,
    DestinationUnavailable,
    ExitCode,
    SchemaDrift,
    SourceBusy,
    StateTampered,
    StateUnavailable,
    WorkerUnfit,
)
from tests.model.store import MemoryStore
from tests.unit.coordination.fleets import CAMPAIGN, make_fleet, memory_plan
from tests.unit.execution.test_extract import ScriptedReader
from tests.waiting import until

PATIENCE_S = 20.0
ABSENCE_S = 0.3
ROWS = 30


class Reader(ScriptedReader):
    """Three pages; ``before(chunk, page)`` is called before each one is read."""

    def __init__(self, chunk: int, here: Here) -> None:
        super().__init__(ROWS)
        self.chunk, self.here = chunk, here

    def read_page(self, limit):
        self.here.before_page(self.chunk, self.page)
        return super().read_page(replace(limit, rows_max=ROWS // 3))

    def prove(self):
        assert not self.here.closed, "somebody closed the session that it is read by"
        return super().prove()


class Here:
    """One worker over chunks that read and are staged as a test says."""

    def __init__(self, tmp_path: Path, chunks: int = 3, **settings: object) -> None:
        plan = memory_plan((chunks,))
        run = plan.runs[0]
        tuning = replace(run.plan.tuning, max_retries=0, retry_backoff_ms=1)
        run = replace(run, plan=replace(run.plan, tuning=tuning, source_group="db"))
        self.store = MemoryStore(time.time)
        self.store.submit(replace(plan, runs=(run,)))
        self.run_id = run.plan.run_id
        self.fleet = make_fleet(self.store, tmp_path)
        self.fleet.settings = replace(self.fleet.settings, **settings)  # type: ignore[arg-type]
        self.events = self.fleet.emit.__self__  # type: ignore[attr-defined]
        self.fleet.open_source = lambda name, identity: self  # type: ignore[assignment, return-value]
        self.read: list[int] = []
        self.staged: list[int] = []
        self.before_page: Callable[[int, int], None] = lambda chunk, page: None
        self.before_stage: Callable[[int], None] = lambda chunk: None
        destination = self.fleet.destination(self.run_id)
        real, self.real = destination.stage, destination

        def stage(local, path, digest):
            chunk = int(path.rpartition("-c")[2][:6])
            self.before_stage(chunk)
            self.staged.append(chunk)
            return real(local, path, digest)

        self.before_publish: Callable[[int], None] = lambda chunk: None
        show = destination.publish

        def publish(receipt, path, digest):
            self.before_publish(int(path.rpartition("-c")[2][:6]))
            return show(receipt, path, digest)

        destination.stage, destination.publish = stage, publish  # type: ignore[method-assign]
        self.spool = tmp_path / "spool"
        self.spool.mkdir()
        self.beat = Heartbeat(
            lambda: self.store,
            self.fleet.identity,
            HeartbeatLimits(lease_ttl_s=30.0, hang_timeout_s=60.0),
            clock=self.fleet.clock,
            emit=self.fleet.emit,
        )
        self.worker = Worker(self.fleet, self.beat, CAMPAIGN, self.spool)

    # -- the source ---------------------------------------------------------------------------

    longest_statement_s = 0.0

    def open_chunk(self, read, chunk_range, tuning):
        chunk = 0 if chunk_range.lower is None else int(chunk_range.lower[0]) // 1000
        self.read.append(chunk)
        self.closed = False
        return Reader(chunk, self)

    def read_counters(self):
        raise SourceBusy("not asked")

    def identify(self):
        return ()

    closed = False

    def close(self) -> None:
        self.closed = True

    # -- what became of it ------------------------------------------------------------------------

    def task(self, chunk: int) -> TaskView:
        found = self.store.task(self.run_id, chunk)
        assert found is not None
        return found

    def standing(self) -> list[tuple[TaskStatus, int, int]]:
        return [(t.status, t.attempts, t.fence) for t in self.store.tasks(self.run_id)]

    def told(self, name: EventName) -> list[int | None]:
        return [e.chunk_index for e in self.events if e.name is name]

    def apart(self) -> None:
        """Chunk 0 is staged once chunk 1 is at its second page, which waits for that."""
        begun, stage, page = threading.Event(), self.before_stage, self.before_page

        def before_stage(chunk: int) -> None:
            assert chunk != 0 or begun.wait(PATIENCE_S), "nothing is read beside the delivery"
            stage(chunk)

        def before_page(chunk: int, number: int) -> None:
            if (chunk, number) == (1, 1):
                begun.set()
                until(lambda: self.worker._delivery.ended, what="the delivery beside")
            page(chunk, number)

        self.before_stage, self.before_page = before_stage, before_page

    def reap(self, chunk: int) -> None:
        """Its lease ran out."""
        (task,) = (t for t in self.store._tasks.values() if t.chunk_index == chunk)
        self.store._take_back([task], "lease expired")

    def left(self) -> list[str]:
        """What must be nowhere when a worker has ended."""
        threads = [t.name for t in threading.enumerate()]
        started = [n for n in threads if n.startswith(("delivery", "publishing", "encoder"))]
        return [*started, *(p.name for p in self.spool.iterdir()), *map(str, self.worker._hands)]


@pytest.fixture(autouse=True)
def disarmed():
    yield
    killpoints.arm(())


DONE = (TaskStatus.COMPLETED, 1, 1)
BACK = (TaskStatus.PENDING, 0, 1)
UNTOUCHED = (TaskStatus.PENDING, 0, 0)
FAILED = (TaskStatus.FAILED, 1, 1)


class Once:
    """Raises its error for one chunk, the first time."""

    def __init__(self, chunk: int, error: Exception) -> None:
        self.chunk, self.error = chunk, error

    def __call__(self, chunk: int, page: int = 1) -> None:
        if (chunk, page) == (self.chunk, 1):
            self.chunk = -1
            raise self.error


def test_the_next_chunk_is_read_while_the_last_one_is_delivered(tmp_path: Path) -> None:
    here = Here(tmp_path)
    here.store.set_budgets([SourceBudget(group_name="db", chunks_max=1)], by="operator")
    seen = []

    def look(chunk: int) -> None:
        if chunk == 0:
            (group,) = here.store.groups(CAMPAIGN)
            seen.append((group.running, [t.delivering for t in here.store.tasks(here.run_id)]))

    here.before_stage = look
    here.apart()
    assert here.worker.run() is ExitCode.OK
    assert here.standing() == [DONE] * 3
    assert here.read == here.staged == [0, 1, 2]
    assert seen == [(1, [True, False, False])], "only the one that is read counts"
    assert here.left() == []


def test_a_third_chunk_waits_for_the_first(tmp_path: Path) -> None:
    """However slow a delivery is: one is read, one is delivered."""
    here = Here(tmp_path)
    waits, real = threading.Event(), here.worker._delivery.wait_turn

    def wait(waiting: Attempt) -> None:
        if waiting.claim.chunk_index == 1:
            waits.set()
        real(waiting)

    here.worker._delivery.wait_turn = wait  # type: ignore[method-assign]
    here.before_stage = lambda chunk: look(chunk)
    seen = []

    def look(chunk: int) -> None:
        if chunk == 0:
            assert waits.wait(PATIENCE_S)
            waiting = here.beat._leases[here.task(1).task_id, 1]
            waiting.progress_at_s = 0.0
            until(lambda: waiting.progress_at_s > 0.0, what="one that waits does not hang")
            seen.append((list(here.read), here.task(2).fence, here.task(1).status))

    assert here.worker.run() is ExitCode.OK
    assert seen == [([0, 1], 0, TaskStatus.RUNNING)]
    assert here.standing() == [DONE] * 3


def test_the_next_part_is_staged_while_the_last_one_is_published(tmp_path: Path) -> None:
    """One is published, one is staged or waits with its commit, one is read: never a fourth."""
    here = Here(tmp_path, chunks=4)
    waits, real = threading.Event(), here.worker._delivery.wait_turn
    seen = []

    def wait(waiting: Attempt) -> None:
        if waiting.claim.chunk_index == 2:
            waits.set()
        real(waiting)

    def look(chunk: int) -> None:
        if chunk == 0:
            assert waits.wait(PATIENCE_S), "nothing is staged beside what is published"
            until(lambda: here.task(1).status is TaskStatus.COMMITTED, what="the next commit")
            waiting = here.beat._leases[here.task(1).task_id, 1]
            waiting.progress_at_s = 0.0
            until(lambda: waiting.progress_at_s > 0.0, what="one that waits does not hang")
            seen.append((list(here.read), list(here.staged), here.standing()))
        else:
            seen.append(here.task(chunk - 1).status)

    here.worker._delivery.wait_turn = wait  # type: ignore[method-assign]
    here.before_publish = look
    assert here.worker.run() is ExitCode.OK
    committed, running = (TaskStatus.COMMITTED, 1, 1), (TaskStatus.RUNNING, 1, 1)
    first = ([0, 1, 2], [0, 1], [committed, committed, running, UNTOUCHED])
    assert seen == [first, *[TaskStatus.COMPLETED] * 3], "in their order"
    assert here.standing() == [DONE] * 4
    assert here.left() == []


@pytest.mark.parametrize(
    ("error", "ends", "third"),
    [
        (DestinationUnavailable("gone"), ExitCode.STOPPED, DONE),
        (DestinationRefused("read-only"), WorkerUnfit, BACK),
        (RuntimeError("a bug"), ExitCode.RETRYABLE, BACK),
    ],
)
def test_what_cannot_be_published_rests_committed(
    tmp_path: Path, error: Exception, ends: object, third: object
) -> None:
    here = Here(tmp_path)
    fails = Once(0, error)
    here.fleet.stop._grace_s = PATIENCE_S

    def before_publish(chunk: int) -> None:
        if chunk == 0:
            until(lambda: 1 in here.staged and 2 in here.read, what="both others")
        fails(chunk)

    def before_page(chunk: int, page: int) -> None:
        if (chunk, page) == (2, 1):
            until(lambda: here.worker._delivery.ended is not None, what="the end of the first")
        if (chunk, page) == (2, 2):
            here.fleet.stop.request()

    here.before_publish, here.before_page = before_publish, before_page
    if isinstance(ends, ExitCode):
        assert here.worker.run() is ends
    else:
        with pytest.raises(WorkerUnfit):
            here.worker.run()
    assert here.told(EventName.LEASE_LOST) == [0], "nobody spends an attempt of it"
    assert here.standing() == [(TaskStatus.COMMITTED, 1, 1), DONE, third]
    assert here.left() == []


def test_a_chunk_that_fails_is_followed_by_none_before_all_is_delivered(tmp_path: Path) -> None:
    here = Here(tmp_path, chunks=4)
    failed, later, beside, hands = threading.Event(), threading.Event(), [], []

    def before_publish(chunk: int) -> None:
        if chunk == 0:
            assert failed.wait(PATIENCE_S)
        if chunk == 1:
            beside.append(later.wait(ABSENCE_S))

    def before_page(chunk: int, page: int) -> None:
        if chunk == 2:
            failed.set()
            raise SchemaDrift("a column is gone")
        if chunk == 3:
            later.set()
            hands.append(len(here.worker._hands))

    here.before_publish, here.before_page = before_publish, before_page
    assert here.worker.run() is ExitCode.SCHEMA_DRIFT
    assert (beside, set(hands)) == ([False], {1})
    assert here.standing() == [DONE, DONE, (TaskStatus.FAILED, 3, 1), DONE]
    assert here.left() == []


def test_parts_that_are_lost_before_they_are_shown_are_read_again(tmp_path: Path) -> None:
    here = Here(tmp_path)
    lost = here.fleet.destination(here.run_id).publish

    def publish(receipt, path, digest):
        if path.endswith("-c000000-p000-f1.parquet"):
            until(lambda: 1 in here.staged, what="the next one")
            here.real.discard(receipt, path)
        return lost(receipt, path, digest)

    here.real.publish = publish  # type: ignore[method-assign]
    assert here.worker.run() is ExitCode.OK
    assert here.read.count(0) == 2
    assert here.standing() == [(TaskStatus.COMPLETED, 1, 3), DONE, DONE]
    assert here.left() == []


def test_a_lease_that_is_lost_in_delivery_costs_the_other_nothing(tmp_path: Path) -> None:
    here = Here(tmp_path)
    paid = []
    real = here.store.reserve_retry

    def reserve_retry(source_key: str, cost_s: float) -> float:
        paid.append(real(source_key, cost_s))
        return 0.001

    def rest() -> None:
        if here.worker._retries.resting:
            rests.append((list(here.worker._hands), list(here.read)))
        rested()

    rests, rested = [], here.worker._retries.rest
    here.worker._retries.rest = rest  # type: ignore[method-assign]
    here.store.reserve_retry = reserve_retry  # type: ignore[method-assign]
    here.before_stage = lambda chunk: here.reap(0) if here.staged == [] else None
    here.apart()
    assert here.worker.run() is ExitCode.OK
    assert here.told(EventName.LEASE_LOST) == [0]
    assert here.standing() == [(TaskStatus.COMPLETED, 2, 3), DONE, DONE]
    assert here.read == [0, 1, 0, 2], "what was read in vain is paid for, and read again"
    assert len(paid) == 1 and rests == [([], [0, 1])], "with empty hands, before a claim"
    assert list(here.real.list_staged()) == [], "what it had staged is discarded"
    assert here.left() == []


def test_a_lease_that_is_lost_while_reading_leaves_the_delivery_alone(tmp_path: Path) -> None:
    here = Here(tmp_path)

    def before_page(chunk: int, page: int) -> None:
        if (chunk, page) == (1, 1) and here.read == [0, 1]:
            here.reap(1)
            here.beat._beat(here.store)

    here.before_page = before_page
    assert here.worker.run() is ExitCode.OK
    assert here.told(EventName.LEASE_LOST) == [1]
    assert here.standing() == [DONE, (TaskStatus.COMPLETED, 2, 3), DONE]
    assert here.left() == []


def test_a_delivery_that_fails_is_tried_again_alone(tmp_path: Path) -> None:
    here = Here(tmp_path)
    fails, beside, told = Once(0, DestinationUnavailable("gone")), [], []
    later = threading.Event()

    def before_stage(chunk: int) -> None:
        fails(chunk)
        beside.append((chunk, chunk == 0 and later.wait(ABSENCE_S)))

    def before_page(chunk: int, page: int) -> None:
        if chunk == 2:
            later.set()
        if (chunk, page) == (1, 2):
            told.append(here.task(0).status)

    here.before_stage, here.before_page = before_stage, before_page
    here.apart()
    assert here.worker.run() is ExitCode.OK
    assert told == [TaskStatus.FAILED], "it is somebody's again at once"
    assert here.standing() == [(TaskStatus.COMPLETED, 2, 2), DONE, DONE]
    assert (0, False) in beside, "a chunk that was tried before shares its worker with no other"
    assert here.left() == []


def test_a_chunk_with_one_attempt_is_never_charged_with_its_neighbour(tmp_path: Path) -> None:
    here = Here(tmp_path)
    for task in here.store._tasks.values():
        task.attempts_max = 1
    beside = []
    here.before_stage = lambda chunk: beside.append((chunk, here.read[-1]))
    assert here.worker.run() is ExitCode.OK
    assert beside == [(0, 0), (1, 1), (2, 2)]


def test_a_chunk_that_is_tried_again_is_read_behind_the_delivery_before_it(tmp_path: Path) -> None:
    here = Here(tmp_path)
    fails, again, beside = Once(1, SourceBusy("deadlock")), threading.Event(), []
    (second,) = (t for t in here.store._tasks.values() if t.chunk_index == 1)

    def before_page(chunk: int, page: int) -> None:
        if chunk == 1 and here.read.count(1) == 2:
            again.set()
        if (chunk, page) == (2, 1):
            # Not before: else it would be claimed with empty hands.
            second.not_before_s = None
        fails(chunk, page)

    def failed(task_id, fence, failure, fail=here.store.fail):
        fail(task_id, fence, replace(failure, not_before_in_s=PATIENCE_S))

    here.store.fail = failed  # type: ignore[method-assign]
    here.before_page = before_page
    here.before_stage = lambda chunk: beside.append((chunk, chunk == 2 and again.wait(ABSENCE_S)))
    assert here.worker.run() is ExitCode.OK
    assert beside == [(0, False), (2, False), (1, False)]
    assert here.standing() == [DONE, (TaskStatus.COMPLETED, 2, 2), DONE]


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (DestinationRefused("read-only"), WorkerUnfit),
        (StateTampered("the seal of a run"), StateTampered),
    ],
)
def test_a_defect_that_the_delivery_meets_gives_both_back(
    tmp_path: Path, error: Exception, ends: type[Exception]
) -> None:
    here = Here(tmp_path)
    here.before_stage = Once(0, error)
    here.apart()
    with pytest.raises(ends):
        here.worker.run()
    assert here.standing() == [BACK, BACK, UNTOUCHED]
    assert here.left() == []


@pytest.mark.parametrize(
    ("error", "first"),
    [(None, (TaskStatus.COMPLETED, 1, 1)), (DestinationUnavailable("gone"), FAILED)],
)
def test_a_defect_that_the_reading_meets_lets_the_delivery_end(
    tmp_path: Path, error: Exception | None, first: object
) -> None:
    here = Here(tmp_path)
    begun = threading.Event()

    def before_page(chunk: int, page: int) -> None:
        if chunk == 1:
            begun.set()
            raise ImportError("a module")

    def before_stage(chunk: int) -> None:
        assert begun.wait(PATIENCE_S)
        if error is not None:
            raise error

    here.before_page, here.before_stage = before_page, before_stage
    with pytest.raises(WorkerUnfit):
        here.worker.run()
    assert here.standing() == [first, BACK, UNTOUCHED]
    assert here.left() == []


def test_what_nobody_foresaw_is_charged_to_whom_it_befell(tmp_path: Path) -> None:
    here = Here(tmp_path)
    here.before_stage = Once(0, RuntimeError("a bug"))
    here.apart()
    assert here.worker.run() is ExitCode.RETRYABLE
    assert here.standing() == [(TaskStatus.FAILED, 1, 1), BACK, UNTOUCHED]
    assert here.left() == []


def test_what_nobody_foresaw_in_reading_lets_the_delivery_end(tmp_path: Path) -> None:
    here = Here(tmp_path)
    begun = threading.Event()

    def before_page(chunk: int, page: int) -> None:
        if chunk == 1:
            begun.set()
            raise RuntimeError("a bug")

    here.before_page = before_page
    here.before_stage = lambda chunk: begun.wait(PATIENCE_S) and None
    assert here.worker.run() is ExitCode.RETRYABLE
    assert here.standing() == [DONE, (TaskStatus.FAILED, 1, 1), UNTOUCHED]
    assert here.left() == []


@pytest.mark.parametrize(("grace_s", "second"), [(0.0, BACK), (60.0, DONE)])
def test_a_stop_ends_both_rightly(tmp_path: Path, grace_s: float, second: object) -> None:
    here = Here(tmp_path)
    here.fleet.stop._grace_s = grace_s

    def before_page(chunk: int, page: int) -> None:
        if (chunk, page) == (1, 1):
            here.fleet.stop.request()

    here.before_page = before_page
    here.apart()
    assert here.worker.run() is ExitCode.STOPPED
    assert here.standing() == [DONE, second, UNTOUCHED]
    assert here.left() == []


def test_a_state_that_stays_away_ends_the_process_and_nothing_else(tmp_path: Path) -> None:
    here = Here(tmp_path)
    here.fleet.patience._limit_s = 0.0

    def commit(*arguments: object, **named: object) -> None:
        raise StateUnavailable("away")

    here.store.commit = commit  # type: ignore[method-assign, assignment]
    here.apart()
    with pytest.raises(StateUnavailable):
        here.worker.run()
    assert here.standing() == [(TaskStatus.RUNNING, 1, 1)] * 2 + [UNTOUCHED]
    assert here.left() == []


def test_a_full_destination_is_waited_for_with_empty_hands(tmp_path: Path, monkeypatch) -> None:
    here = Here(tmp_path, full_patience_s=100.0)
    here.before_stage = Once(0, DestinationFull("no space left"))
    here.apart()
    waits = []

    def wait() -> None:
        if here.worker._room.lacking:
            waits.append((list(here.worker._hands), here.task(1).status))
            here.worker._room._met = None

    monkeypatch.setattr(here.worker._room, "wait", wait)
    assert here.worker.run() is ExitCode.OK
    assert waits == [([], TaskStatus.COMPLETED)]
    assert here.standing() == [(TaskStatus.COMPLETED, 1, 2), DONE, DONE]


def test_nothing_is_claimed_beside_a_delivery_into_a_full_spool(
    tmp_path: Path, monkeypatch
) -> None:
    here = Here(tmp_path)

    def before_page(chunk: int, page: int) -> None:
        if page == 2:
            monkeypatch.setattr(fitness, "SPOOL_FREE_BYTES_MIN", 1 << 62)

    here.before_page = before_page
    with pytest.raises(WorkerUnfit, match="no space left in the spool"):
        here.worker.run()
    assert here.standing() == [DONE, UNTOUCHED, UNTOUCHED]


def test_a_worker_that_is_too_large_starts_anew_with_empty_hands(tmp_path: Path) -> None:
    here = Here(tmp_path, worker_memory_bytes=1)
    assert here.worker.run() is ExitCode.RECYCLE
    assert here.standing() == [DONE, UNTOUCHED, UNTOUCHED]
    assert here.left() == []


@pytest.mark.parametrize(
    ("point", "nth", "standing"),
    [
        (KillPoint.CHUNK_CLAIMED, 2, [BACK, (TaskStatus.FAILED, 1, 1), UNTOUCHED]),
        (KillPoint.CHUNK_READ, 1, [(TaskStatus.FAILED, 1, 1), UNTOUCHED, UNTOUCHED]),
        (KillPoint.CHUNK_HANDED_OVER, 1, [DONE, (TaskStatus.FAILED, 1, 1), UNTOUCHED]),
        (KillPoint.CHUNK_COMMITTED, 1, [(TaskStatus.COMMITTED, 1, 1)]),
        (KillPoint.PART_PUBLISHED, 1, [(TaskStatus.COMMITTED, 1, 1)]),
        (KillPoint.PART_SPOOLED, 3, [DONE, DONE, (TaskStatus.FAILED, 1, 1)]),
    ],
)
def test_an_error_at_each_point_of_the_overlap(
    tmp_path: Path, point: KillPoint, nth: int, standing: list[object]
) -> None:
    here = Here(tmp_path)
    killpoints.arm((Arming(point=point, action=KillAction.ERROR, nth=nth),))
    assert here.worker.run() is ExitCode.RETRYABLE
    # How far the others are by then, nobody can say.
    assert here.standing()[: len(standing)] == standing
    assert set(here.standing()) <= {*standing, BACK, UNTOUCHED, DONE}
    assert here.left() == []


def test_of_two_waits_the_longer_one_is_waited_for(tmp_path: Path) -> None:
    here = Here(tmp_path)
    plan = here.fleet.planned_run(here.run_id).plan
    retries = here.worker._retries
    retries.rest_later(plan, 5.0, 0)
    retries.rest_later(plan, 1.0, 0)
    assert retries._rest_s >= 5.0
