"""The arithmetic of the application's latencies, and the configurations that are compared."""

from __future__ import annotations

import pytest
import yaml

from bench.oltp.application import arrivals
from bench.oltp.arms import ARMS, LATENCY, UNPROTECTED, Arm, Goal
from bench.oltp.figures import Window, alone_p95_ms, figures, percentile, table
from bench.oltp.gauge import RECENT_S, Gauge
from bench.oltp.permits import Step, mean_permits, staircase, steps
from bench.oltp.report import Measured, Run, report
from bench.oltp.stream import Load
from rivet_fleet.planning.config.models import FleetConfig

GOAL = Goal(url="http://127.0.0.1:9/", alone_ms=3.0)
LOAD = Load(processes=2, rate=20.0, lead_s=1.0, seconds=2.0)


def window(*took_s: float, lead: tuple[float, ...] = (), due: int | None = None) -> Window:
    """Everything is due at once, half a second into the lead-in or after it."""
    done = [*((0.5, took) for took in lead), *((1.5, took) for took in took_s)]
    return Window(
        done=tuple(done),
        due_s=(0.5,) * len(lead) + (1.5,) * (len(took_s) if due is None else due),
        lead_s=1.0,
        seconds=2.0,
        rows_per_s=100.0,
    )


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert [percentile(values, wanted) for wanted in (50, 95, 99)] == [50.0, 95.0, 99.0]
    assert percentile([7.0], 99) == 7.0
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_arrivals_are_the_same_for_every_way_bounded_and_at_the_rate() -> None:
    once = [*arrivals(20.0, 60.0, seed=7)]
    assert once == [*arrivals(20.0, 60.0, seed=7)] != [*arrivals(20.0, 60.0, seed=8)]
    assert once == sorted(once) and once[0] > 0 and once[-1] < 60.0
    assert 1000 < len(once) < 1400


def test_what_is_due_is_of_all_processes_over_lead_in_and_window() -> None:
    due = LOAD.due([1, 2])
    assert due == sorted([*arrivals(20.0, 3.0, 1), *arrivals(20.0, 3.0, 2)])


def test_the_figures_are_medians_of_windows_not_of_all_values() -> None:
    quiet, loud = window(*(0.001,) * 99), window(0.5, due=2)
    found = figures([quiet, loud, quiet])
    assert found.percentiles_ms == (1.0, 1.0, 1.0)
    assert (found.max_ms, found.done, found.due, found.per_s) == (500.0, 199, 200, 49.5)
    assert "| loud | 500.0 | 500.0 | 500.0 | 500.0 | 500.0 | 0.5 | 50.0% |" in table(
        {"loud": [loud]}
    )


def test_the_lead_in_counts_only_where_it_says_so() -> None:
    found = figures([window(*(0.001,) * 9, lead=(0.4,))])
    assert (found.max_ms, found.p99_whole_ms) == (1.0, 400.0)
    assert (found.done, found.due) == (9, 9)
    assert alone_p95_ms([window(0.002, lead=(0.4,))]) == 2.0


def test_the_achieved_rate_counts_what_ended_within_the_window() -> None:
    late_from_the_lead_in, in_time, too_late = (0.5, 0.6), (1.5, 0.1), (2.9, 0.2)
    done = ((0.5, 0.1), late_from_the_lead_in, in_time, too_late)
    one = Window(done=done, due_s=(0.5, 0.5, 1.5, 2.9), lead_s=1.0, seconds=2.0)
    assert one.per_s == 1.0


def test_a_way_without_a_window_has_a_line() -> None:
    assert "| lost | – |" in table({"lost": []})


def test_the_gauge_tells_the_last_seconds_only() -> None:
    gauge = Gauge()
    assert gauge.recent_ms(9.0) == 0.0
    gauge.begin(10.0)
    gauge.add(10.1, 0.2)
    for _ in range(20):
        gauge.add(11.0, 0.003)
    assert gauge.recent_ms(11.0) == 3.0
    gauge.add(11.0, 0.2)
    assert gauge.recent_ms(11.0) == 200.0
    gauge.end()
    assert gauge.recent_ms(11.1 + RECENT_S) == 0.0


def test_an_application_where_nothing_ends_is_not_told_as_fast() -> None:
    gauge = Gauge()
    gauge.begin(10.0)
    assert gauge.recent_ms(9.9) == 0.0
    assert gauge.recent_ms(10.5) == 500.0
    assert gauge.recent_ms(100.0) == 1000 * RECENT_S


def test_the_journal_becomes_a_staircase_of_the_window() -> None:
    entries = [
        {"at_s": 99.0, "data": {"from": 4, "to": 3}},
        {"at_s": 103.0, "data": {"from": 0, "to": 1}},
        {"at_s": 101.0, "data": {"from": 3, "to": 0}},
        {"at_s": 103.5, "data": {"from": 1, "to": 1, "page_share": 0.2}},
    ]
    stairs = steps(entries, began_s=100.0, most=4)
    assert [(one.at_s, one.permits) for one in stairs] == [(0.0, 3), (1.0, 0), (3.0, 1)]
    assert mean_permits(stairs, begin_s=0.0, end_s=4.0) == pytest.approx((3 + 0 + 1) / 4)
    assert mean_permits(stairs, begin_s=2.0, end_s=4.0) == pytest.approx(0.5)
    assert mean_permits(stairs, begin_s=0.0, end_s=2.0) == pytest.approx(1.5)
    assert staircase(stairs, end_s=2.0) == "3, from 1.0 s 0"
    assert steps([], began_s=100.0, most=4) == (Step(at_s=0.0, permits=4),)


@pytest.mark.parametrize("engine", ["postgres", "mariadb"])
@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm.extracts], ids=lambda arm: arm.name)
def test_every_way_is_a_configuration(arm: Arm, engine: str) -> None:
    found = FleetConfig.model_validate(yaml.safe_load(arm.config(engine, GOAL)))
    assert len(found.exports) > 1
    assert bool(found.source_groups) is (arm is not UNPROTECTED)


def test_the_latency_thresholds_are_multiples_of_what_is_alone() -> None:
    found = FleetConfig.model_validate(yaml.safe_load(LATENCY.config("postgres", GOAL)))
    monitor = found.source_groups["shop"].monitor
    assert monitor is not None
    (signal,) = monitor.signals.values()
    assert (signal.http, signal.shed_above, signal.pause_above) == (GOAL.url, 6.0, 30.0)


def test_a_failed_window_is_told_beside_the_others() -> None:
    windows = {arm.name: [window(0.001)] for arm in ARMS[:2]} | {arm.name: [] for arm in ARMS[2:]}
    measured = Measured(
        windows=windows,
        stairs={LATENCY.name: (Step(at_s=0.0, permits=4), Step(at_s=0.8, permits=1))},
        failures=["round 1, budget: it ended\nwith its last words"],
    )
    run = Run(command="python -m bench.oltp", load=LOAD, took_s=9.0, facts={"load before": "0.1"})
    text = report(run, {"postgres": measured})
    assert "- failed: round 1, budget: it ended\n" in text and "last words" not in text
    assert "- governor, latency: 4, from 0.8 s 1\n" in text
    assert "- load before: 0.1\n" in text
