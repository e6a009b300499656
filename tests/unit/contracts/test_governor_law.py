"""The governor's law, without a clock or a database."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rivet_fleet.contracts.events import EventName
from rivet_fleet.contracts.protection import (
    PAGE_SHARE_MIN,
    Decision,
    Gate,
    Governed,
    Level,
    MonitorPlan,
    Reading,
    SignalPlan,
    SourceBudget,
    close,
    decide,
    judge,
    start,
)

SIGNAL = SignalPlan(
    name="s", kind="engine", ask="s", shed_above=10.0, pause_above=100.0, abort_above=1000.0
)


def budget(*, most: int = 8, least: int = 1, policy: str = "hold") -> SourceBudget:
    monitor = MonitorPlan(signals=(SIGNAL,), calm_samples=2, on_unreadable=policy)
    return SourceBudget(group_name="db", chunks_max=most, chunks_min=least, monitor=monitor)


def read(value: float | None) -> list[Reading]:
    return [Reading(name="s", value=value, error="away" if value is None else None)]


def after(values: list[float | None], *, given: SourceBudget | None = None) -> Decision:
    given = given or budget()
    decision = Decision(now=start(given, None, 1.0, None))
    for value in values:
        decision = decide(given, decision.now, read(value), None)
    return decision


def names(decision: Decision) -> list[EventName]:
    return [act.name for act in decision.acts]


@pytest.mark.parametrize(
    ("value", "paused", "level"),
    [
        (0, False, Level.CALM),
        (8, False, Level.CALM),
        (8.1, False, Level.HOLD),
        (10, False, Level.HOLD),
        (10.1, False, Level.SHED),
        (100, False, Level.SHED),
        (100.1, False, Level.PAUSE),
        (81, True, Level.PAUSE),
        (80, True, Level.SHED),
        (1000.1, False, Level.CRITICAL),
    ],
)
def test_a_value_is_judged_with_hysteresis(value: float, paused: bool, level: Level) -> None:
    assert judge(SIGNAL, value, paused=paused)[0] is level


def test_the_first_bad_sample_sheds_one_the_next_ones_half() -> None:
    permits = [after([20.0] * n).now.permits for n in range(6)]
    assert permits == [8, 7, 3, 1, 1, 1]
    assert after([20.0] * 9).now.page_share == PAGE_SHARE_MIN


def test_a_shed_says_signal_value_threshold_and_what_changed() -> None:
    (act,) = after([20.0]).acts
    assert act.name is EventName.GOVERNOR_SHED
    assert act.data == {
        "signal": "s",
        "value": 20.0,
        "threshold": 10.0,
        "from": 8,
        "to": 7,
        "page_share": 0.5,
    }
    assert "s is 20, above 10" in act.message


def test_calm_regains_one_at_a_time_and_slowly() -> None:
    shed = [20.0, 20.0]
    assert [after(shed + [0.0] * n).now.permits for n in range(6)] == [3, 3, 4, 4, 5, 5]


def test_the_band_between_calm_and_shed_moves_nothing() -> None:
    held = after([20.0, *[9.0] * 20])
    assert (held.now.permits, held.acts) == (7, ())


def test_a_pause_ends_after_calm_samples_with_the_fewest() -> None:
    paused = after([200.0])
    assert names(paused) == [EventName.GOVERNOR_PAUSED]
    assert paused.now.paused == "s is 200, above 100"
    assert after([200.0, 200.0]).acts == (), "told once"
    assert after([200.0, 90.0, 90.0, 90.0]).now.paused is not None, "not yet below four fifths"
    resumed = after([200.0, 0.0, 0.0])
    assert names(resumed) == [EventName.GOVERNOR_RESUMED]
    assert (resumed.now.paused, resumed.now.permits) == (None, 1)


def test_only_two_critical_samples_in_a_row_halt() -> None:
    assert after([2000.0]).halt is None
    assert after([2000.0, 0.0, 2000.0]).halt is None
    halted = after([2000.0, 2000.0])
    assert halted.halt == "s is 2000, above 1000"
    assert names(halted) == [EventName.GOVERNOR_ABORTED]
    assert halted.now.paused is not None


@pytest.mark.parametrize(
    ("policy", "paused", "permits"),
    [("hold", False, 7), ("continue", False, 8), ("pause", True, 1)],
)
def test_an_unreadable_signal_holds_twice_and_then_follows_the_policy(
    policy: str, paused: bool, permits: int
) -> None:
    given = budget(policy=policy)
    held = after([20.0, None, None], given=given)
    assert (held.now.permits, held.acts) == (7, ())
    third = after([20.0, None, None, None], given=given)
    assert EventName.SIGNAL_LOST in names(third)
    later = after([20.0, *[None] * 4], given=given)
    assert (later.now.paused is not None, later.now.permits) == (paused, permits)
    assert EventName.SIGNAL_LOST not in names(later), "told once"
    back = after([20.0, *[None] * 4, 0.0], given=given)
    assert EventName.SIGNAL_FOUND in names(back)


def test_a_gate_pauses_without_shedding_and_opens_at_once() -> None:
    given = budget()
    closed = decide(given, start(given, None, 1.0, None), read(0.0), Gate(reason="a flag"))
    assert (closed.now.paused, closed.now.permits) == ("a flag", 8)
    opened = decide(given, closed.now, read(0.0), None)
    assert (opened.now.paused, opened.now.permits) == (None, 8)


def test_the_first_look_at_a_counter_moves_nothing() -> None:
    given = budget()
    first = [Reading(name="s", waiting=True)]
    assert decide(given, start(given, 3, 0.5, None), first, None).now.permits == 3


def test_a_smaller_budget_binds_the_next_decision() -> None:
    assert decide(budget(most=2), Governed(permits=8), read(9.0), None).now.permits == 2


@given(
    values=st.lists(st.sampled_from([0.0, 9.0, 20.0, 200.0, 2000.0, None]), max_size=40),
    most=st.integers(1, 9),
    least=st.integers(1, 9),
    policy=st.sampled_from(["hold", "continue", "pause"]),
)
@settings(deadline=None)
def test_permits_stay_between_floor_and_ceiling_and_every_change_is_told(
    values: list[float | None], most: int, least: int, policy: str
) -> None:
    given = budget(most=most, least=least, policy=policy)
    now = start(given, None, 1.0, None)
    for value in values:
        decision = decide(given, now, read(value), None)
        assert min(most, least) <= decision.now.permits <= most
        assert PAGE_SHARE_MIN <= decision.now.page_share <= 1.0
        changed = (now.permits, now.page_share, now.paused is None) != (
            decision.now.permits,
            decision.now.page_share,
            decision.now.paused is None,
        )
        assert not changed or decision.acts, "a change without a reason in the journal"
        now = decision.now


def test_a_gate_closes_without_a_sample_and_only_a_sample_opens() -> None:
    gate = Gate(reason="the flag file is there")
    running = start(budget(), None, 1.0, None)
    shut = close(running, gate)
    assert (shut.now.paused, names(shut)) == (gate.reason, [EventName.GOVERNOR_PAUSED])
    assert names(close(shut.now, gate)) == [], "told once"
    assert decide(budget(), shut.now, read(0), None).now.paused is None
    pressed = after([101.0]).now
    assert close(pressed, gate).now == pressed, "a pause by pressure ends as such"
