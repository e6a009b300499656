"""Which server has come as far as the one that a window was drawn on."""

from __future__ import annotations

import pytest

from rivet_fleet.execution.sources.mysql import source as mysql
from rivet_fleet.execution.sources.postgres import source as postgres

A, B = "3e11fa47-71ca-11e1-9e33-c80aa9429562", "4f22fa47-71ca-11e1-9e33-c80aa9429562"


@pytest.mark.parametrize(
    ("planned", "now", "reached"),
    [
        ("0/3000060", "0/3000060", True),
        ("0/3000060", "0/3000061", True),
        ("0/FFFFFFFF", "1/0", True),
        ("A/0", "9/FFFFFFFF", False),
        ("0/10", "0/F", False),
        ("0/10", "", True),
    ],
)
def test_a_place_in_the_log_is_two_numbers(planned: str, now: str, reached: bool) -> None:
    assert postgres.reached(planned, now) == reached


@pytest.mark.parametrize(
    ("planned", "now", "reached"),
    [
        # MariaDB: the last number of each domain, whichever server wrote it.
        ("0-1-42", "0-1-42", True),
        ("0-1-42", "0-7-43", True),
        ("0-1-42", "0-1-41", False),
        ("0-1-100,2-1-9", "2-1-9,0-1-99", False),
        ("0-1-42,5-1-1", "0-1-42", True),
        # MySQL: sets of each server, with gaps where several threads repeat.
        (f"{A}:1-42", f"{A}:1-42", True),
        (f"{A}:1-42", f"{A}:1-43,{B}:1", True),
        (f"{A}:1-42", f"{A}:1-41", False),
        (f"{A}:1-42", f"{A}:1-30:32-50", False),
        (f"{A}:1-30:32-42", f"{A}:1-30:32-50", True),
        (f"{A}:1-42", f"{A}:11-42", True),
        (f"{A}:1-42", f"{A}:11-41", False),
        (f"{A}:1-42,{B}:1", f"{A}:1-42", False),
        (f"{A}:1-42:tag:1-3", f"{A}:1-42:tag:1-3", True),
        (f"{A}:1-42:tag:1-3", f"{A}:1-42:tag:1-2", False),
    ],
)
def test_a_place_among_transactions_is_what_was_executed(
    planned: str, now: str, reached: bool
) -> None:
    assert mysql.reached(planned, now) == reached
