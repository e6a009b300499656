"""The probe's windows: bounded, spread, and enough to tell sparse from dense."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rivet_fleet.execution.engines.facts import (
    WINDOW_KEYS,
    WINDOWS,
    probe,
    probe_windows,
    worth_probing,
)


@given(st.integers(-(2**63), 2**63), st.integers(1, 2**64))
def test_windows_are_bounded_rising_and_within_the_span(minimum: int, span: int) -> None:
    found = probe_windows(minimum, minimum + span - 1)
    assert 1 <= len(found) <= WINDOWS
    assert all(0 < end - first <= WINDOW_KEYS for first, end in found)
    assert found[0][0] >= minimum
    assert found[-1][1] <= minimum + span
    assert all(left[1] <= right[0] for left, right in itertools.pairwise(found))


@pytest.mark.parametrize("every", [1, 3, 100, 7919])
def test_the_density_of_an_even_key_is_found(every: int) -> None:
    keys = range(0, 20_000_000, every)
    found = probe(
        lambda low, high, most: min(most, len(range(-(-low // every), -(-high // every)))),
        keys[0],
        keys[-1],
    )
    estimate = (keys[-1] + 1) * found.rows / found.keys
    assert 0.8 * len(keys) <= estimate <= 1.25 * len(keys)


@pytest.mark.parametrize(
    ("rows", "provenance", "span", "worth"),
    [
        (None, "none", 10, True),
        (10, "size", 10, True),
        (49_999, "statistics", 10**9, False),
        (50_000, "statistics", 200_000, False),
        (50_000, "statistics", 200_001, True),
    ],
)
def test_it_is_made_only_where_the_catalogue_is_in_doubt(
    rows: int | None, provenance: str, span: int, worth: bool
) -> None:
    assert worth_probing(rows, provenance, span) is worth
