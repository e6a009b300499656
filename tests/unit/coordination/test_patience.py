"""Waiting out a state database that is away."""

import pytest

from rivet_fleet.contracts.clock import SystemClock
from rivet_fleet.coordination.fleet import Patience, StopFlag
from rivet_fleet.errors import LeaseLost, StateUnavailable


def patience(*, limit_s=30.0, grace_s=10.0):
    events = []
    clock = SystemClock()
    stop = StopFlag(clock, grace_s=grace_s)
    return Patience(clock, stop, events.append, limit_s=limit_s), stop, events


def failing(times, error, result="done"):
    left = [times]

    def action():
        if left[0]:
            left[0] -= 1
            raise error
        return result

    return action


def test_a_short_absence_is_waited_out_and_told_once():
    wait, _, events = patience()
    assert wait.call("claim", failing(2, StateUnavailable("away"))) == "done"
    assert len(events) == 1


def test_a_long_absence_is_the_callers_problem():
    wait, _, _ = patience(limit_s=0.0)
    with pytest.raises(StateUnavailable):
        wait.call("claim", failing(1000, StateUnavailable("away")))


def test_what_is_no_absence_passes_at_once():
    wait, _, events = patience()
    with pytest.raises(LeaseLost):
        wait.call("commit", failing(1, LeaseLost("other owner")))
    assert not events


def test_draining_still_writes_finished_work():
    wait, stop, _ = patience()
    stop.request()
    assert wait.call("commit", failing(2, StateUnavailable("away"))) == "done"


def test_after_the_grace_period_nothing_is_waited_for():
    wait, stop, _ = patience(grace_s=0.0)
    stop.request()
    with pytest.raises(StateUnavailable):
        wait.call("commit", failing(1000, StateUnavailable("away")))
