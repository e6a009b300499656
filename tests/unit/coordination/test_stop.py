"""Two-stage stopping, judged by a clock the test moves."""

import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest

from rivet_fleet.coordination.fleet import StopFlag, install
from rivet_fleet.errors import StopRequested


class MovableClock:
    """A clock that stands still until somebody moves it."""

    def __init__(self):
        self.time_s = 100.0

    def now_s(self):
        return self.time_s

    def monotonic_s(self):
        return self.time_s


def test_a_request_ends_the_wait_and_the_grace_period_ends_the_chunk():
    clock = MovableClock()
    flag = StopFlag(clock, grace_s=10.0)
    flag.check()
    assert not flag.requested
    flag.request()
    assert flag.wait(3600.0)
    flag.check()
    clock.time_s += 9.9
    flag.check()
    clock.time_s += 0.2
    with pytest.raises(StopRequested):
        flag.check()


def test_a_second_request_does_not_extend_the_grace_period():
    clock = MovableClock()
    flag = StopFlag(clock, grace_s=10.0)
    flag.request()
    clock.time_s += 8.0
    flag.request()
    clock.time_s += 2.5
    assert flag.grace_over


def open_descriptors() -> set[str]:
    """What this process has open."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{name}"))
    return found


def test_a_flag_that_nobody_holds_gives_its_pipe_back():
    flag = StopFlag(MovableClock(), grace_s=1.0)
    pipe = os.readlink(f"/proc/self/fd/{flag._read_fd}")
    assert pipe in open_descriptors()
    del flag
    assert pipe not in open_descriptors()


def test_a_request_from_another_thread_wakes_the_waiter():
    flag = StopFlag(MovableClock(), grace_s=1.0)
    threading.Timer(0.01, flag.request).start()
    assert flag.wait(30.0)


def test_a_signal_requests_a_stop():
    flag = StopFlag(MovableClock(), grace_s=1.0)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        install(flag)
        os.kill(os.getpid(), signal.SIGTERM)
        assert flag.wait(30.0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_the_first_signal_is_passed_on_inside_the_handler():
    flag, told = StopFlag(MovableClock(), grace_s=1.0), []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        install(flag, on_first=lambda: told.append("workers"))
        os.kill(os.getpid(), signal.SIGTERM)
        assert flag.wait(30.0)
        assert told == ["workers"]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


REPEATED = """
import os, signal, sys
from rivet_fleet.contracts.clock import SystemClock
from rivet_fleet.coordination.fleet import PARENT_DEATH_SIGNAL, StopFlag, install, stop_with_parent
flag = StopFlag(SystemClock(), grace_s=60.0)
install(flag)
stop_with_parent(flag)
for _ in range(5):
    os.kill(os.getpid(), PARENT_DEATH_SIGNAL)
assert flag.wait(30.0) and not flag.grace_over
print("drains")
"""


def test_a_parent_that_dies_thread_by_thread_is_one_request():
    done = subprocess.run(
        [sys.executable, "-c", REPEATED], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "drains"), done.stderr
