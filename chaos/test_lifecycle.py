"""How processes live and die: rescue within a second, no orphans, poison, stopping in order."""

from __future__ import annotations

import re
import signal
import statistics
import sys
import time
from pathlib import Path

import psutil

from chaos.arena import Arena
from chaos.conftest import product_of_sources
from chaos.processes import Coordinator, kill, until
from chaos.scenario import Campaign, Shape
from chaos.source_data import DEVICES, ORDERS

_SLOW = Shape(chunk_count=60, workers=2, throttle_ms=40, batch_size=10)
"""Five pages a chunk with a rest after each: about 0.2 s."""
_RESCUES = 5
_RESCUE_MEDIAN_MAX_S = 1.0
_RESCUE_WORST_MAX_S = 3.0


def _busy_worker(campaign: Campaign, coordinator: Coordinator) -> psutil.Process | None:
    """A worker that holds a chunk at this moment."""
    holders = campaign.query("SELECT owner_pid FROM chunk_task WHERE status = 'running'")
    pids = {int(pid) for (pid,) in holders}
    return next((w for w in coordinator.workers() if w.pid in pids), None)


def _working(campaign: Campaign, coordinator: Coordinator) -> psutil.Process:
    return until(lambda: _busy_worker(campaign, coordinator), what="a worker holds a chunk")


def _reaped_at(campaign: Campaign, pid: int) -> float | None:
    """When the chunk of the dead process was taken back, by the state database's clock."""
    return next(
        (
            at_s
            for at_s, event, message in campaign.events()
            if event == "chunk.reaped" and re.search(rf"\b{pid}\b", message)
        ),
        None,
    )


@product_of_sources()
def test_a_dead_worker_is_rescued_within_a_second(quiet_arena: Arena, state: str) -> None:
    """State database and test share this machine's clock, so the times compare."""
    shape = Shape(chunk_count=60, workers=2, lease_ttl_s=60, throttle_ms=40, batch_size=10)
    waits_s: list[float] = []
    with quiet_arena.campaign(state, tables=[ORDERS, DEVICES], shape=shape) as campaign:
        coordinator = campaign.start()
        while len(waits_s) < _RESCUES:
            worker = _working(campaign, coordinator)
            killed_at_s = time.time()
            kill(worker)
            # It may have finished its chunk in this very moment: then there is nothing to rescue.
            gone = f"worker {worker.pid} is missed"
            until(lambda w=worker: _missed(campaign, w.pid), what=gone)  # type: ignore[misc]
            reaped_at_s = _reaped_at(campaign, worker.pid)
            if reaped_at_s is not None:
                waits_s.append(reaped_at_s - killed_at_s)
        assert coordinator.wait(90.0) == 0
        campaign.expect_exactly_once()
        campaign.expect_completed()
    median_s = statistics.median(waits_s)
    print(
        f"\nrescue after kill -9, {state}: median {median_s:.3f} s of {_RESCUES}",
        file=sys.__stderr__,
        flush=True,
    )
    assert median_s <= _RESCUE_MEDIAN_MAX_S, waits_s
    assert max(waits_s) <= _RESCUE_WORST_MAX_S, waits_s


def _missed(campaign: Campaign, pid: int) -> bool:
    """The dead process holds nothing any more."""
    held = f"SELECT task_id FROM chunk_task WHERE status = 'running' AND owner_pid = {pid}"
    return not campaign.query(held)


@product_of_sources(["sqlite"], mariadb=["sqlite"])
def test_nothing_is_orphaned(quiet_arena: Arena, state: str) -> None:
    with quiet_arena.campaign(state, tables=[ORDERS], shape=_SLOW) as campaign:
        coordinator = campaign.start()
        _working(campaign, coordinator)
        coordinator.signal(signal.SIGKILL)
        coordinator.process.wait()
        campaign.expect_no_workers(_SLOW.drain_grace_s + 20.0)
        tasks = campaign.tasks()
        assert {task.status for task in tasks} <= {"pending", "completed"}, "nobody left a claim"
        assert {task.attempts for task in tasks} <= {0, 1}
        campaign.run_to_end()
        campaign.expect_exactly_once()
        assert all(task.attempts == 1 for task in campaign.expect_completed())


@product_of_sources(["sqlite"])
def test_workers_leave_that_start_while_their_supervisor_dies(
    quiet_arena: Arena, state: str
) -> None:
    with quiet_arena.campaign(state, tables=[ORDERS], shape=_SLOW) as campaign:
        coordinator = campaign.start()
        until(coordinator.workers, what="a worker process exists")
        coordinator.signal(signal.SIGKILL)
        coordinator.process.wait()
        campaign.expect_no_workers(_SLOW.drain_grace_s + 20.0)
        campaign.run_to_end()
        campaign.expect_exactly_once()


@product_of_sources(["sqlite"])
def test_without_its_nursery_a_coordinator_executes_its_workers(
    quiet_arena: Arena, state: str
) -> None:
    with quiet_arena.campaign(state, tables=[ORDERS], shape=_SLOW) as campaign:
        coordinator = campaign.start()
        worker = _working(campaign, coordinator)
        nursery = coordinator.nursery()
        assert nursery is not None
        kill(nursery)
        kill(worker)
        until(
            lambda: any("worker" in each.cmdline() for each in coordinator.workers()),
            what="a worker is executed",
        )
        assert coordinator.wait(90.0) == 0
        campaign.expect_exactly_once()
        campaign.expect_no_workers()


@product_of_sources()
def test_poison_costs_one_chunk(quiet_arena: Arena, state: str) -> None:
    """Whoever stages the first chunk dies, again and again, until its budget is spent; the others
    are delivered; requeue and resume deliver that chunk, too."""
    shape = Shape(chunk_count=60, workers=1, attempts_max=2)
    with quiet_arena.campaign(state, tables=[ORDERS], shape=shape) as campaign:
        coordinator = campaign.start(armed="part.staged:kill:1")
        until(
            lambda: any(task.status == "failed" for task in campaign.tasks()),
            what="the first chunk is given up",
        )
        coordinator.signal(signal.SIGKILL)
        coordinator.process.wait()
        campaign.expect_no_workers()
        codes = campaign.run_to_end(wanted=5)
        assert codes == [5]
        failed = [task for task in campaign.tasks() if task.status == "failed"]
        assert failed and all(task.attempts == 2 for task in failed)
        done = [task for task in campaign.tasks() if task.status == "completed"]
        assert len(done) + len(failed) == 60
        told = campaign.coordinators[-1].log.read_text()
        assert "requeue" in told and "SIGKILL" in told, told
        campaign.operate("requeue")
        assert campaign.start(command="resume").wait(60.0) == 0
        campaign.expect_exactly_once()
        campaign.expect_tidy()


@product_of_sources(mariadb=["sqlite"])
def test_sigterm_gives_attempts_back(quiet_arena: Arena, state: str) -> None:
    """Five pages a chunk and no grace: every chunk stops at a page boundary and is given back."""
    shape = Shape(chunk_count=50, workers=2, throttle_ms=60, batch_size=10, drain_grace_s=0.0)
    with quiet_arena.campaign(state, tables=[ORDERS], shape=shape) as campaign:
        coordinator = campaign.start()
        _working(campaign, coordinator)
        coordinator.signal(signal.SIGTERM)
        assert coordinator.wait(20.0) == 6
        tasks = campaign.tasks()
        assert {task.status for task in tasks} <= {"pending", "completed"}
        assert all(task.attempts == (task.status == "completed") for task in tasks), tasks
        assert any(event == "chunk.released" for _, event, _ in campaign.events())
        campaign.expect_no_workers()
        campaign.run_to_end()
        campaign.expect_exactly_once()
        campaign.expect_completed()


@product_of_sources(["sqlite"])
def test_a_second_sigterm_kills_at_once(quiet_arena: Arena, state: str) -> None:
    shape = Shape(workers=2, throttle_ms=40, batch_size=10, drain_grace_s=60.0)
    with quiet_arena.campaign(state, tables=[ORDERS], shape=shape) as campaign:
        coordinator = campaign.start()
        worker = _working(campaign, coordinator)
        # A paused worker cannot leave: the drain would take its whole minute.
        campaign.pause(worker)
        coordinator.signal(signal.SIGTERM)
        until(lambda: _was_told(worker), what="the drain has begun")
        coordinator.signal(signal.SIGTERM)
        assert coordinator.wait(20.0) == 128 + signal.SIGTERM
        campaign.expect_no_workers(20.0)


def _was_told(worker: psutil.Process) -> bool:
    """SIGTERM waits for the paused process: the coordinator has passed the first signal on."""
    status = Path(f"/proc/{worker.pid}/status").read_text()
    pending = next(line for line in status.splitlines() if line.startswith("ShdPnd:"))
    return bool(int(pending.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
