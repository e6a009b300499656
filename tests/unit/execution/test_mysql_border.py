"""What a MySQL or MariaDB server says of a value, at the engine's border."""

from __future__ import annotations

import pymysql
import pytest

from rivet_fleet.contracts.foreign import NOTHING_SAID
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.execution.sources.mysql.border import Asked, translate

URL = parse_database_url("mysql://reader@db.example/shop")


@pytest.mark.parametrize(
    ("errno", "said", "kept"),
    [
        (1105, "XPATH syntax error: ':SSN of Jane's 878'", "XPATH syntax error: ***"),
        (1146, "no SSN for 878", NOTHING_SAID),
        (1064, "no SSN for 878", "parse error; "),
        (1317, "no SSN for 878", "query interrupted; "),
        (1213, "no SSN for 878", NOTHING_SAID),
        (4000, "no SSN for 878", NOTHING_SAID),
        (1146, "Table 'shop.SSN' doesn't exist: 878", NOTHING_SAID),
        (1054, "Unknown column 'SSN 878' in 'SELECT'", "Unknown column *** in 'SELECT'"),
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


def test_names_of_the_statement_are_told() -> None:
    said = "Unknown column 'nope' in 'SELECT'"
    failed = pymysql.err.OperationalError(1054, said)
    for asked in (Asked(text="SELECT `nope` FROM `t`"), Asked(text="?", rows=False)):
        failed.asked = asked  # type: ignore[attr-defined]
        error = translate(failed, URL, "reading")
        assert said in error.message and error.unmasked is None


def test_a_number_of_the_drivers_is_believed_of_the_driver_alone() -> None:
    """A server may send it, too: SIGNAL … MYSQL_ERRNO = 2013."""
    failed = pymysql.err.OperationalError(2013, "lost: SSN 878")
    assert "lost: SSN 878" in translate(failed, URL, "reading").message
    failed.asked = Asked()  # type: ignore[attr-defined]
    assert "SSN" not in translate(failed, URL, "reading").message
