"""What is left of a sentence about a value."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rivet_fleet.contracts.foreign import without_values


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (
            'invalid input syntax for type integer: "SSN 12"',
            "invalid input syntax for type integer: ***",
        ),
        (
            'value "99999" is out of range for type smallint',
            "value *** is out of range for type smallint",
        ),
        ('a "b" c "d" e', "a *** e"),
        (
            "Incorrect integer value: 'it's' for column `a`.`v` at row 1",
            "Incorrect integer value: *** for column `a`.`v` at row ***",
        ),
        ("BIGINT value is out of range in '10 - 5'", "BIGINT value is out of range in ***"),
        (
            'invalid byte sequence for encoding "UTF8": 0xff',
            "invalid byte sequence for encoding ***: ***",
        ),
        ("division by zero", "division by zero"),
        ("an int4 of 15 and -3.5e7", "an int4 of *** and ***"),
        ('cut in the middle "x', "cut in the middle ***"),
        ("cannot be read: Smith, John", "cannot be read: ***"),
    ],
)
def test_the_kind_stays_and_the_value_goes(said: str, kept: str) -> None:
    assert without_values(said) == kept


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.text(alphabet="\"'xy: \n", max_size=20))
def test_no_quote_of_the_values_own_ends_it(value: str) -> None:
    secret = f"S{value}S"
    for quote in "\"'":
        said = without_values(f"invalid input for type date: {quote}{secret}{quote} at the end")
        assert "S" not in said
        assert said.startswith("invalid input for type date: ***")
