"""Silence and swaps, as every engine's session bears them."""

from __future__ import annotations

import pytest

from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import RetryClass, SourceBusy, SourceRefused, SourceUnavailable
from rivet_fleet.execution.engines import session as frame
from rivet_fleet.execution.engines.session import (
    GONE,
    Liveness,
    Silence,
    StatementTimes,
    Told,
    answers_within_s,
    as_asked,
    cannot_connect,
    maybe_swapped,
    translated,
)

URL = parse_database_url("postgresql://me:s3cret@db.example/shop")


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    one = Clock()
    monkeypatch.setattr(frame, "time", one)
    return one


def silent(clock: Clock, silence: Silence) -> list[float]:
    """Hear nothing until the link is dead; the waits, in seconds."""
    waits: list[float] = []
    while True:
        wait_s = silence.wait_s()
        assert wait_s is not None and len(waits) < 20, "it would wait for ever"
        waits.append(max(0.0, wait_s))
        clock.now_s += waits[-1]
        if silence.dead():
            return waits


def test_a_server_at_work_is_asked_ever_more_rarely_until_the_limit(clock: Clock) -> None:
    asked: list[float] = []

    def ask() -> Liveness:
        asked.append(clock.now_s - 1000.0)
        return Liveness.AT_WORK

    assert silent(clock, Silence(200.0, ask)) == [10.0, 20.0, 40.0, 60.0, 60.0, 10.0]
    assert asked == [10.0, 30.0, 70.0, 130.0, 190.0]


def test_a_dead_link_ends_as_soon_as_it_is_known_with_or_without_a_limit(clock: Clock) -> None:
    said = iter((Liveness.UNKNOWN, Liveness.AT_WORK, Liveness.DEAD) * 2)
    for most_s in (None, 500.0):
        assert silent(clock, Silence(most_s, lambda: next(said))) == [10.0, 20.0, 40.0]


def test_nobody_is_asked_where_the_limit_comes_first(clock: Clock) -> None:
    def ask() -> Liveness:
        raise AssertionError("asked")

    silence = Silence(8.0, ask)
    assert silent(clock, silence) == [8.0]
    assert str(silence) == "the server sent nothing for 8 s: the link is dead"
    assert Silence(None, None).wait_s() is None


def test_an_answer_is_due_as_a_whole_however_it_trickles(clock: Clock) -> None:
    ends_s = clock.now_s + 5.0
    for _ in range(4):
        assert Silence(3.0, None, ends_s).wait_s() == min(3.0, ends_s - clock.now_s)
        clock.now_s += 2.0
    late = Silence(3.0, None, ends_s)
    wait_s = late.wait_s()
    assert wait_s is not None and wait_s < 0 and late.late and late.dead()


def test_a_statement_without_a_limit_may_be_silent_for_as_long_as_it_likes() -> None:
    assert answers_within_s(0.0) is None and answers_within_s(2.0) == 2.0 + frame.SILENCE_GRACE_S


@pytest.mark.parametrize("code", ["GONE_NOW", "OTHER", None])
def test_what_a_swap_takes_away_is_waited_for_and_nothing_else(code: str | None) -> None:
    with (
        pytest.raises((SourceBusy, SourceRefused)) as caught,
        maybe_swapped(frozenset(("GONE_NOW",))),
    ):
        raise SourceRefused("table t does not exist", code=code)
    swapped = code == "GONE_NOW"
    assert isinstance(caught.value, SourceBusy) is swapped
    assert (caught.value.retry is RetryClass.TRANSIENT) is swapped
    assert caught.value.message == "table t does not exist"


def test_what_a_server_says_is_told_without_secrets_and_its_values_on_demand() -> None:
    told = Told(said="no s3cret for Jane", means=GONE, number="77", code="X_77", kept="no ***")
    error = translated(told, URL, "reading")
    assert error.message == f"{URL.identity}: no *** (77, while reading)"
    assert error.unmasked == f"{URL.identity}: no *** for Jane (77, while reading)"
    assert isinstance(error, SourceUnavailable) and error.code == "X_77" and error.connected
    assert "row_values" in (error.hint or "")
    away = cannot_connect(told, URL)
    assert (
        not away.connected and away.message == f"cannot connect to {URL.identity}: no *** for Jane"
    )


def test_of_an_answer_the_way_is_no_work_of_the_source() -> None:
    times = StatementTimes()
    assert times.longest_s == 0.0
    for spent_s in (0.2, 0.2, 3.2, 0.25):
        times.answered(spent_s)
    assert times.longest_s == 3.0
    times.streamed(2.5)
    assert times.longest_s == 3.0
    times.streamed(31.0)
    assert times.longest_s == 31.0


def test_another_longest_begins_and_the_way_is_still_known() -> None:
    times = StatementTimes()
    times.answered(0.2)
    times.streamed(31.0)
    times.begin()
    assert times.longest_s == 0.0
    times.answered(4.2)
    assert times.longest_s == 4.0, "one answer is enough to tell"


def test_a_queue_before_a_statement_is_no_way_of_it() -> None:
    times = StatementTimes()
    assert times.way_s(9.0) == 9.0, "nothing shorter is known"
    times.answered(0.1)
    assert times.way_s(9.0) == 0.1
    assert times.longest_s == 0.0


def test_the_steps_of_a_stumble_are_logged_and_nothing_of_its_value(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="rivet_fleet")
    with pytest.raises(SourceRefused), as_asked(URL, "looking"):
        int("V4lue")
    (line,) = caplog.records
    assert "test_engine_session.py" in line.getMessage() and "ValueError" in line.getMessage()
    assert "invalid literal" not in caplog.text
