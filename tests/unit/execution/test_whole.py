"""Whole numbers of a server: ten bytes of an answer are not hours of a process."""

from __future__ import annotations

from decimal import Decimal

import pytest

from rivet_fleet.errors import SourceRefused
from rivet_fleet.execution.engines.session import real, whole


@pytest.mark.parametrize(
    ("said", "number"),
    [
        (7, 7),
        (-1, -1),
        ("42", 42),
        ("-1", -1),
        (b"42", 42),
        (Decimal("12.0"), 12),
        (3.0, 3),
        (2**64 - 1, 2**64 - 1),
        (Decimal(2**64 - 1), 2**64 - 1),
    ],
)
def test_what_a_server_counts_is_taken(said: object, number: int) -> None:
    assert whole(said) == number


@pytest.mark.parametrize(
    "said",
    [
        # Without the guard the first one is red before the last one holds the process.
        *(Decimal("1e5000"), 10**5000, 1e300, "9" * 5000, "1e9", b"\xff", "", None, [1]),
        *(float("nan"), float("inf"), Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity")),
        Decimal("1e99999999"),
    ],
    ids=lambda said: type(said).__name__,
)
def test_what_is_no_number_of_a_server_is_refused_before_it_is_written_out(said: object) -> None:
    with pytest.raises(SourceRefused, match="where a whole number is due"):
        whole(said)


@pytest.mark.parametrize("said", [1.5, Decimal("1.5"), "1.5", b"1.5"])
def test_a_moment_of_a_server_is_taken(said: object) -> None:
    assert real(said) == 1.5


@pytest.mark.parametrize(
    "said",
    [
        "soon",
        "nan",
        "1e999",
        "1" * 50,
        b"\xff",
        None,
        [1],
        10**400,
        Decimal("NaN"),
        Decimal("1e999"),
    ],
    ids=lambda said: f"{said!s:.6}",
)
def test_what_is_no_moment_of_a_server_is_refused(said: object) -> None:
    with pytest.raises(SourceRefused, match="where a number is due"):
        real(said)
