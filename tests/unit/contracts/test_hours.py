"""Windows of the day: over midnight, by weekday, over a change of the clocks."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from rivet_fleet.contracts.protection import HoursPlan, opens_in_s, parse_window

BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = HoursPlan(windows=("22:00-06:00",), time_zone="Europe/Berlin")


def at(*moment: int) -> float:
    return datetime(*moment, tzinfo=BERLIN).timestamp()  # type: ignore[misc, arg-type]


@pytest.mark.parametrize(
    ("moment", "hours"),
    [
        ((2026, 1, 5, 22, 0), 0),
        ((2026, 1, 6, 5, 59), 0),
        ((2026, 1, 6, 6, 0), 16),
        ((2026, 1, 6, 21, 30), 0.5),
        ((2026, 3, 29, 5, 30), 0),
        ((2026, 3, 28, 20, 0), 2),
    ],
)
def test_a_night_reaches_over_midnight(moment: tuple[int, ...], hours: float) -> None:
    assert opens_in_s(NIGHT, at(*moment)) == hours * 3600


def test_days_are_those_on_which_a_window_begins() -> None:
    friday = HoursPlan(windows=("22:00-06:00",), days=("fri",), time_zone="Europe/Berlin")
    assert opens_in_s(friday, at(2026, 1, 10, 3, 0)) == 0, "Saturday morning is Friday's night"
    assert opens_in_s(friday, at(2026, 1, 11, 3, 0)) == (4 * 24 + 24 + 19) * 3600


def test_the_night_the_clocks_go_forward_is_an_hour_shorter() -> None:
    early = HoursPlan(windows=("01:00-04:00",), time_zone="Europe/Berlin")
    begin = at(2026, 3, 29, 1, 0)
    assert opens_in_s(early, begin + 2 * 3600 - 1) == 0
    assert opens_in_s(early, begin + 2 * 3600) > 0


@pytest.mark.parametrize("text", ["22-06", "24:00-25:00", "22:61-23:00", "", "10:00-24:30"])
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"window|midnight"):
        parse_window(text)


def test_equal_ends_are_a_whole_day() -> None:
    assert parse_window("00:00-00:00") == (0, 24 * 60)
