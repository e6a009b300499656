"""Days and moments of any year as text and back."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rivet_fleet.contracts.civil import (
    DAY_US,
    days_of,
    micros_of,
    server_date,
    server_moment,
    year_month_of,
)

EPOCH = datetime.date(1970, 1, 1)


@given(st.dates())
def test_a_day_is_the_day_python_knows(day: datetime.date) -> None:
    days = days_of(day.year, day.month, day.day)
    assert days == (day - EPOCH).days
    assert server_date(days) == day.isoformat()
    assert year_month_of(days) == (day.year, day.month)


@given(st.integers(-4713 * 366 * DAY_US, 294_000 * 366 * DAY_US))
def test_every_moment_survives_its_text(micros: int) -> None:
    assert micros_of(server_moment(micros)) == micros
    assert micros_of(server_moment(micros, zone="+00:00")) == micros
    assert micros_of(server_date(micros // DAY_US)) == micros // DAY_US * DAY_US


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("0001-12-31 BC", "0000-12-31"),
        ("2024-00-00", "2024-01-01"),
        ("2024-01-01 00:00:00.5+00", "2024-01-01 00:00:00.500000"),
        ("2024-01-01T00:00:01+00:00", "2024-01-01 00:00:01"),
    ],
)
def test_what_servers_write(text: str, same: str) -> None:
    assert micros_of(text) == micros_of(same)


@pytest.mark.parametrize(
    "text", ["infinity", "-infinity", "", "12", "2024-01-01 00:00:00+05", "2024-1-1", "now"]
)
def test_nothing_is_guessed(text: str) -> None:
    with pytest.raises(ValueError, match="neither"):
        micros_of(text)
