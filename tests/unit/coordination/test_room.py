"""Where there is no room for a chunk's files: nobody's attempt, and a wait that ends by itself."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from rivet_fleet.contracts.events import EventName
from rivet_fleet.contracts.state import TaskStatus
from rivet_fleet.coordination import fitness
from rivet_fleet.coordination.attempt import Attempt
from rivet_fleet.coordination.commit import deliver_chunk
from rivet_fleet.coordination.heartbeat import Heartbeat, HeartbeatLimits
from rivet_fleet.coordination.protect import Room
from rivet_fleet.coordination.worker import Worker
from rivet_fleet.errors import DestinationFull, WorkerUnfit
from rivet_fleet.execution.durable import filesystem_error
from tests.campaigns import staged_part
from tests.unit.coordination.fleets import CAMPAIGN, DatabaseClock, make_fleet, open_store, spooled
from tests.unit.coordination.test_stop import MovableClock

PATIENCE_S = 100.0
MB = 1_000_000


class Full:
    """A fleet whose time passes where it waits, and whose destination says what is free."""

    def __init__(self, tmp_path: Path) -> None:
        self.store = open_store(DatabaseClock(), (4,))
        self.fleet = make_fleet(self.store, tmp_path)
        self.fleet.settings = replace(self.fleet.settings, full_patience_s=PATIENCE_S)
        self.clock = MovableClock()
        self.fleet.clock = self.clock
        self.fleet.stop = SimpleNamespace(wait=self.passes, requested=False)  # type: ignore[assignment]
        self.events: list = []
        self.fleet.emit = self.events.append
        self.free: list[int | None] = []
        self.spool = tmp_path / "spool"
        self.spool.mkdir()
        self.claim = self.store.claim(CAMPAIGN, self.fleet.identity, 30.0)
        real = self.fleet.destination(self.claim.run_id)
        told = SimpleNamespace(free_bytes=self.next_free, real=real)
        self.fleet._destinations = dict.fromkeys(self.fleet._destinations, told)  # type: ignore[arg-type]
        limits = HeartbeatLimits(lease_ttl_s=30.0, hang_timeout_s=60.0)
        beat = Heartbeat(
            lambda: self.store, self.fleet.identity, limits, clock=self.clock, emit=self.fleet.emit
        )
        self.worker = Worker(self.fleet, beat, CAMPAIGN, self.spool)
        self.room: Room = self.worker._room

    def passes(self, seconds: float) -> bool:
        self.clock.time_s += seconds
        return False

    def next_free(self) -> int | None:
        return self.free.pop(0) if len(self.free) > 1 else self.free[0]

    def meets(self, error: DestinationFull) -> tuple[TaskStatus, int]:
        """How the chunk stands behind it."""
        claim = self.store.claim(CAMPAIGN, self.fleet.identity, 30.0)
        self.worker._fail_or_give_back(Attempt(claim), error)
        task = next(t for t in self.store.tasks(claim.run_id) if t.task_id == claim.task_id)
        return task.status, task.attempts

    def waits(self) -> list[float]:
        full = [e for e in self.events if e.name is EventName.DESTINATION_FULL]
        return [e.data["wait_s"] for e in full]


def full(needed_bytes: int = 4 * MB) -> DestinationFull:
    error = DestinationFull("no space left in the destination at /out", code="RIVET_NO_SPACE")
    error.needed_bytes = needed_bytes
    return error


def test_no_attempt_is_spent_while_there_is_patience(tmp_path: Path) -> None:
    here = Full(tmp_path)
    here.free = [MB]
    assert here.meets(full()) == (TaskStatus.PENDING, 0)
    here.clock.time_s += PATIENCE_S / 2
    assert here.meets(full()) == (TaskStatus.PENDING, 0)
    here.clock.time_s += PATIENCE_S / 2
    assert here.meets(full()) == (TaskStatus.FAILED, 1), "it has an end"
    here.room.found()
    assert here.meets(full()) == (TaskStatus.PENDING, 0), "what was delivered begins anew"


def test_a_file_that_is_too_large_is_no_outage(tmp_path: Path) -> None:
    here = Full(tmp_path)
    here.free = [1 << 40]
    large = filesystem_error(OSError(errno.EFBIG, "x"), tmp_path, "destination")
    assert large.code == "RIVET_FILE_TOO_LARGE"
    assert isinstance(large, DestinationFull)
    assert here.meets(large) == (TaskStatus.FAILED, 1)


def test_a_committed_chunk_goes_back_nowhere(tmp_path: Path) -> None:
    """It was full when its parts were to be shown: they are staged, and anybody publishes them."""
    here = Full(tmp_path)
    claim = here.claim
    here.store.commit(claim.task_id, claim.fence, [staged_part(0, claim.fence)], rows=10, pages=1)
    here.worker._fail_or_give_back(Attempt(claim), full(needed_bytes=0))
    (lost,) = [one for one in here.events if one.name is EventName.LEASE_LOST]
    assert "committed, but not published yet" in lost.message
    assert here.waits() == []
    task = next(one for one in here.store.tasks(claim.run_id) if one.task_id == claim.task_id)
    assert (task.status, task.attempts) == (TaskStatus.COMMITTED, 1)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_and_a_full_quota_are_outages(tmp_path: Path, number: int) -> None:
    error = filesystem_error(OSError(number, "x"), tmp_path, "destination")
    assert isinstance(error, DestinationFull) and error.passing


def test_it_goes_on_as_soon_as_there_is_room_for_what_is_needed(tmp_path: Path) -> None:
    here = Full(tmp_path)
    here.free = [MB, MB, 2 * MB, 4 * MB]
    began_s = here.clock.time_s
    assert here.room.lacks(here.claim, full())
    here.room.wait()
    (first, *_) = [e for e in here.events if e.name is EventName.DESTINATION_FULL]
    assert (first.data["needed_bytes"], first.data["free_bytes"]) == (4 * MB, MB)
    assert "its files need 4.00 MB, and 1.00 MB are free" in first.message
    assert here.clock.time_s - began_s < 10.0, "it looks, and waits for no turn of its own"
    before_s = here.clock.time_s
    here.room.wait()
    assert here.clock.time_s == before_s, "once for each that was met"


def test_a_quota_and_a_store_are_asked_again_later_and_later(tmp_path: Path) -> None:
    """What is free there is not what one may write, or nobody knows."""
    here = Full(tmp_path)
    began_s = here.clock.time_s
    for free in (1 << 40, None, 1 << 40, None):
        here.free = [free]
        assert here.room.lacks(here.claim, full())
        here.room.wait()
    assert here.waits() == [1.0, 2.0, 4.0, 8.0]
    assert here.clock.time_s - began_s >= 15.0


def test_a_full_spool_claims_nothing_until_it_has_room(tmp_path: Path, monkeypatch) -> None:
    here = Full(tmp_path)
    assert not here.room.spool_waited_for()
    monkeypatch.setattr(fitness, "SPOOL_FREE_BYTES_MIN", 1 << 62)
    assert here.room.spool_waited_for()
    here.clock.time_s += PATIENCE_S
    with pytest.raises(WorkerUnfit, match="no space left in the spool"):
        here.room.spool_waited_for()


def test_what_was_staged_of_a_chunk_that_found_no_room_is_given_back(tmp_path: Path) -> None:
    store = open_store(DatabaseClock(), (1,))
    fleet = make_fleet(store, tmp_path)
    claim = store.claim(CAMPAIGN, fleet.identity, 30.0)
    destination = fleet.destination(claim.run_id)
    result = spooled(tmp_path / "s", parts=3)
    size_bytes = sum(part.path.stat().st_size for part in result.parts)
    staged, real = [], destination.stage

    def stage(local, path, digest):
        if len(staged) == 2:
            raise full(0)
        staged.append(path)
        return real(local, path, digest)

    destination.stage = stage
    with pytest.raises(DestinationFull) as found:
        deliver_chunk(fleet, claim, fleet.planned_run(claim.run_id).plan, result)
    assert found.value.needed_bytes == size_bytes
    assert list(destination.list_staged()) == []
