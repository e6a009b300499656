"""Two-stage stopping, judged by a clock the test moves."""

import os
import signal
import threading

import pytest

from rivet_fleet.coordination.stop import StopFlag, install
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


def test_a_request_from_another_thread_wakes_the_waiter():
    flag = StopFlag(MovableClock(), grace_s=1.0)
    threading.Timer(0.01, flag.request).start()
    assert flag.wait(30.0)


def test_a_signal_requests_a_stop():
    flag = StopFlag(MovableClock(), grace_s=1.0)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        install(flag, on_second=lambda: None)
        os.kill(os.getpid(), signal.SIGTERM)
        assert flag.wait(30.0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
