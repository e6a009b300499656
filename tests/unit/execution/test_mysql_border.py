"""What a MySQL or MariaDB server says of a value, at the engine's border."""

from __future__ import annotations

import pymysql
import pytest

from rivet_fleet.contracts.foreign import NOTHING_SAID
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.execution.sources.mysql.border import translate

URL = parse_database_url("mysql://reader@db.example/shop")


@pytest.mark.parametrize(
    ("errno", "said", "kept"),
    [
        (1105, "XPATH syntax error: ':SSN of Jane's 878'", "XPATH syntax error: ***"),
        (1062, "Duplicate entry 'SSN 878' for key 'k'", "Duplicate entry ***"),
        (1411, "Incorrect datetime value: 'SSN 878' for function", "Incorrect datetime value: ***"),
        (1644, "no SSN for 878", NOTHING_SAID),
        (1645, "no SSN for 878", NOTHING_SAID),
        (1430, "a foreign server said SSN 878", NOTHING_SAID),
    ],
)
def test_a_value_in_what_a_server_says_is_told_on_demand_alone(
    errno: int, said: str, kept: str
) -> None:
    error = translate(pymysql.err.OperationalError(errno, said), URL, "reading")
    assert kept in error.message
    assert "SSN" not in error.message and "878" not in error.message
    assert error.unmasked is not None and said in error.unmasked
    assert "errors: {row_values: shown}" in (error.hint or "")


def test_names_are_told() -> None:
    said = "Unknown column 'nope' in 'SELECT'"
    error = translate(pymysql.err.OperationalError(1054, said), URL, "reading")
    assert said in error.message and error.unmasked is None


@pytest.mark.parametrize(
    ("errno", "sqlstate", "shown"),
    [
        (1213, "40001", True),
        (1213, "HY000", False),
        (1205, "HY000", True),
        (1205, "45000", False),
        (1146, "42S02", True),
        (1146, "45001", False),
        (1365, "45000", False),
        (1213, "", True),
    ],
)
def test_a_functions_signal_under_a_number_of_the_servers_is_known_by_its_state(
    errno: int, sqlstate: str, shown: bool
) -> None:
    said = pymysql.err.OperationalError(errno, "Jane is away")
    said.sqlstate = sqlstate  # type: ignore[attr-defined]
    error = translate(said, URL, "reading")
    assert ("Jane" in error.message) is shown and (error.unmasked is None) is shown
