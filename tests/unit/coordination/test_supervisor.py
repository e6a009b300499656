"""The supervisor over real processes: ends are noticed, named, and answered."""

import gc
import io
import os
import select
import signal
import sys
import threading
import time
from dataclasses import replace

import psutil
import pytest

from rivet_fleet.contracts.clock import SystemClock
from rivet_fleet.contracts.keys import WorkerId
from rivet_fleet.coordination import supervisor as supervision
from rivet_fleet.coordination.coordinator import Coordinator, CoordinatorOptions
from rivet_fleet.coordination.fleet import this_process
from rivet_fleet.coordination.supervisor import Silences, Supervisor, WorkerCommand
from rivet_fleet.errors import ExitCode, StateUnavailable
from rivet_fleet.observability.progress import PlainProgress
from tests.unit.coordination.fleets import CAMPAIGN, make_fleet, open_store
from tests.waiting import until

SLEEPER = "import time; time.sleep(600)"


@pytest.fixture
def supervise(tmp_path):
    made = []

    def make(code, *, workers=1, nursery=None):
        ends = []
        command = WorkerCommand(
            arguments=[sys.executable, "-c", code],
            environment={"PATH": "/usr/bin:/bin"},
            log_folder=tmp_path / "logs",
        )
        supervisor = Supervisor(
            command, workers=workers, clock=SystemClock(), on_end=ends.append, nursery=nursery
        )
        made.append(supervisor)
        return supervisor, ends

    yield make
    for supervisor in made:
        supervisor.kill()


def tick_until(supervisor, condition):
    deadline_s = time.monotonic() + 30
    gate = threading.Event()
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen"
        supervisor.tick()
        gate.wait(0.02)


def test_a_killed_worker_is_named_with_its_signal_and_replaced(supervise):
    supervisor, ends = supervise(SLEEPER, workers=2)
    tick_until(supervisor, lambda: len(supervisor.pids) == 2)
    (first, _second) = supervisor.pids
    supervisor.signal(signal.SIGKILL)
    tick_until(supervisor, lambda: len(ends) == 2)
    assert {end.status for end in ends} == {-signal.SIGKILL}
    assert "SIGKILL" in ends[0].reason
    assert not ends[0].graceful
    assert len({end.worker_id for end in ends}) == 2
    tick_until(supervisor, lambda: len(supervisor.pids) == 2)
    assert first not in supervisor.pids


def test_workers_that_cannot_start_are_given_up(supervise):
    supervisor, ends = supervise("import sys; print('no such thing', file=sys.stderr); sys.exit(1)")
    tick_until(supervisor, lambda: supervisor.exhausted)
    assert len(ends) == 3
    assert "no such thing" in ends[-1].log_tail


def test_a_worker_that_asks_for_a_fresh_process_gets_it_at_once(supervise):
    supervisor, ends = supervise(f"raise SystemExit({int(ExitCode.RECYCLE)})")
    tick_until(supervisor, lambda: len(ends) >= 4)
    assert all(end.graceful for end in ends)
    assert not supervisor.exhausted


def test_draining_waits_for_the_graceful_and_kills_the_deaf(supervise):
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    supervisor, ends = supervise(deaf + SLEEPER)
    tick_until(supervisor, lambda: supervisor.pids)
    supervisor.drain(grace_s=0.3, tick=lambda: threading.Event().wait(0.02))
    assert not supervisor.pids
    assert ends[-1].status in (-signal.SIGKILL, -signal.SIGTERM)
    supervisor.tick()
    assert not supervisor.pids


def test_a_worker_told_to_stop_before_it_listens_did_not_crash(supervise):
    supervisor, ends = supervise(SLEEPER)
    tick_until(supervisor, lambda: supervisor.pids)
    supervisor.drain(grace_s=10.0, tick=lambda: threading.Event().wait(0.02))
    assert ends[-1].graceful


def stop_process(pid):
    os.kill(pid, signal.SIGSTOP)
    until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)


def test_a_silent_worker_is_ended_and_another_takes_its_place(supervise, monkeypatch):
    """One that is stopped hears no SIGTERM, and its chunk is somebody else's for long."""
    monkeypatch.setattr(supervision, "_SILENT_GRACE_S", 0.05)
    supervisor, ends = supervise(SLEEPER, workers=2)
    tick_until(supervisor, lambda: len(supervisor.pids) == 2)
    first, second = supervisor.pids
    stopped, _ = supervisor.worker_ids
    stop_process(first)
    supervisor.end_silent(stopped, 120.0)
    supervisor.end_silent(stopped, 121.0)
    tick_until(supervisor, lambda: ends)
    (end,) = ends
    assert (end.pid, end.status, end.graceful) == (first, -signal.SIGKILL, False)
    assert "had not been heard of for 120 s and was killed by SIGKILL" in end.reason
    tick_until(supervisor, lambda: len(supervisor.pids) == 2)
    assert second in supervisor.pids and first not in supervisor.pids
    tick_until(supervisor, lambda: not supervisor.end_silent(WorkerId("nobody"), 1.0))
    assert len(ends) == 1


def test_silence_is_what_was_listened_for():
    w1, w2 = WorkerId("w1"), WorkerId("w2")
    listening = Silences(lease_ttl_s=20.0)
    beats = {"w2": 0.0}
    for second in range(0, 81, 2):
        beats["w2"] += 1.0
        assert listening.look(float(second), [w1, w2], beats) == {}
    assert listening.look(82.0, [w1, w2], beats) == {w1: 82.0}, "it has never been heard of"
    listening.blind()
    for second in range(84, 164, 2):
        assert listening.look(float(second), [w1, w2], beats) == {}, "the state was away"
    assert set(listening.look(170.0, [w1, w2], beats)) == {w1, w2}
    listening = Silences(lease_ttl_s=1.0)
    listening.look(0.0, [w1], {"w1": 5.0})
    assert listening.look(59.0, [w1], {"w1": 5.0}) == {}, "a busy machine beats late"
    assert listening.look(1000.0, [w1], {"w1": 5.0}) == {}, "we were stopped ourselves"


def test_a_coordinator_ends_the_worker_that_it_does_not_hear(supervise, tmp_path, monkeypatch):
    """By the state's own rows: the one that beats stays, the stopped one goes."""
    monkeypatch.setattr(supervision, "_SILENT_GRACE_S", 0.05)
    supervisor, ends = supervise(SLEEPER, workers=2)
    fleet = make_fleet(open_store(time.time), tmp_path)
    fleet.settings = replace(fleet.settings, lease_ttl_s=0.05)
    monkeypatch.setattr(supervision, "SILENT_MIN_S", 0.2)
    options = CoordinatorOptions(workers=0, command=supervisor._command)
    progress = PlainProgress(io.StringIO(), redactor=str)
    coordinator = Coordinator(fleet, CAMPAIGN, options, progress)
    coordinator._supervisor = supervisor
    tick_until(supervisor, lambda: len(supervisor.pids) == 2)
    (stopped, beating), (pid, _) = supervisor.worker_ids, supervisor.pids
    stop_process(pid)

    def seen():
        fleet.store.renew(this_process("w", worker_id=beating), [], 30.0, 0)
        coordinator._show()
        return ends

    tick_until(supervisor, seen)
    assert [end.worker_id for end in ends] == [stopped]


def test_a_coordinator_that_cannot_be_heard_itself_blames_nobody(supervise, tmp_path):
    """A state that is read and not written: no worker's heartbeat reaches it either."""
    supervisor, _ = supervise(SLEEPER)
    fleet = make_fleet(open_store(time.time), tmp_path)

    class ReadOnly:
        def renew(self, *arguments):
            raise StateUnavailable("read-only")

    fleet.store = ReadOnly()
    options = CoordinatorOptions(workers=0, command=supervisor._command)
    coordinator = Coordinator(fleet, CAMPAIGN, options, PlainProgress(io.StringIO(), redactor=str))
    worker = WorkerId("w")
    for second in range(0, 1000, 2):
        if second % 5 == 0:
            coordinator._heartbeat()
        assert coordinator._silences.look(float(second), [worker], {}) == {}


@pytest.mark.parametrize(("took_s", "looks"), [(0.0, 20), (0.125, 4), (9.0, 2)])
def test_showing_takes_a_small_share_and_is_never_seconds_late(
    supervise, tmp_path, monkeypatch, took_s, looks
):
    """Within ten seconds of a coordinator that shows thousands of runs."""
    supervisor, _ = supervise(SLEEPER)
    fleet = make_fleet(open_store(time.time), tmp_path)
    now_s, seen = [0.0], []

    def show(_coordinator):
        seen.append(now_s[0])
        now_s[0] += took_s

    monkeypatch.setattr(Coordinator, "_show", show)
    monkeypatch.setattr(SystemClock, "monotonic_s", lambda _clock: now_s[0])
    options = CoordinatorOptions(workers=0, command=supervisor._command)
    coordinator = Coordinator(fleet, CAMPAIGN, options, PlainProgress(io.StringIO(), redactor=str))
    while now_s[0] < 9.95:
        coordinator._every(0.5, coordinator._show)
        now_s[0] += 0.125
    assert len(seen) == looks


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the kernel tells of no end by a file")
def test_an_end_is_told_by_a_file_that_is_closed_behind_it(supervise):
    """Whoever waits for it waits for no tick."""
    gc.collect()  # What other tests left open is closed now, not while it is counted.
    before = len(os.listdir("/proc/self/fd"))
    supervisor, ends = supervise(SLEEPER, workers=2)
    tick_until(supervisor, lambda: len(supervisor.pids) == 2)
    assert len(supervisor.end_fds) == 2
    waiter = select.poll()
    for fd in supervisor.end_fds:
        waiter.register(fd, select.POLLIN)
    assert waiter.poll(0) == []
    os.kill(supervisor.pids[0], signal.SIGKILL)
    assert [fd for fd, _ in waiter.poll(30_000)] == supervisor.end_fds[:1]
    supervisor.kill()
    assert len(ends) == 2 and supervisor.end_fds == []
    assert len(os.listdir("/proc/self/fd")) == before


class Barren:
    """A nursery that has nothing to give."""

    def __init__(self):
        self.said = []

    def hand_over(self, arguments, environment, log_path):
        self.said.append("asked")

    def release(self):
        self.said.append("released")

    def dismiss(self):
        self.said.append("dismissed")


def test_without_a_nursery_that_gives_workers_are_executed(supervise):
    nursery = Barren()
    supervisor, _ = supervise(SLEEPER, workers=2, nursery=nursery)
    tick_until(supervisor, lambda: len(supervisor.pids) == 2)
    assert nursery.said == ["asked", "dismissed"]


def test_a_nursery_that_nobody_needs_is_dismissed(supervise):
    for workers, said in ((0, ["dismissed"]), (1, [])):
        nursery = Barren()
        supervisor, _ = supervise(SLEEPER, workers=workers, nursery=nursery)
        assert nursery.said == said
        supervisor.kill()
        assert nursery.said == ["dismissed"]


@pytest.mark.parametrize("code", [ExitCode.UNFIT, ExitCode.DATA_INTEGRITY])
def test_workers_that_will_not_work_are_tried_a_few_times(supervise, monkeypatch, code):
    monkeypatch.setattr(supervision, "_UNFIT_PAUSE_S", 0.01)
    # However long they worked before they found out.
    monkeypatch.setattr(supervision, "_CRASH_WINDOW_S", 0.0)
    supervisor, ends = supervise(f"raise SystemExit({int(code)})", workers=2)
    tick_until(supervisor, lambda: supervisor.exhausted)
    assert len(ends) == 6
    assert all(end.unfit is (code is ExitCode.UNFIT) for end in ends)
    assert supervisor.verdict is code
    supervisor.tick()
    assert not supervisor.pids
