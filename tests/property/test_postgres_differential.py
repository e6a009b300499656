"""The compiled decoder and the reference agree on everything: values, counts and errors."""

from __future__ import annotations

import random
import sys

import pytest

from rivet_fleet.contracts.columns import ColumnSpec
from rivet_fleet.execution.sources.postgres.decoder import ReferenceDecoder, compiled_decoder
from tests.property.copy_rows import damage, random_columns, random_stream
from tests.property.differential import STREAMS, Outcome, agree, outcome


def both(
    columns: tuple[ColumnSpec, ...], data: bytes, cuts: list[int], *, coerce: bool
) -> tuple[Outcome, Outcome]:
    compiled = compiled_decoder()
    assert compiled is not None, "the compiled decoder was not built"
    return (
        outcome(compiled(columns, max_value_bytes=4096, coerce=coerce), data, cuts),
        outcome(ReferenceDecoder(columns, max_value_bytes=4096, coerce=coerce), data, cuts),
    )


@pytest.mark.parametrize("coerce", [False, True])
def test_compiled_and_reference_agree_on_hostile_rows(coerce: bool) -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}", file=sys.stderr)
    values = 0
    for number in range(STREAMS):
        rng = random.Random(f"{seed}/{number}")
        columns, makers = random_columns(rng)
        rows = rng.randint(0, 12)
        data = random_stream(rng, columns, makers, rows)
        cuts = sorted(rng.randrange(len(data)) for _ in range(rng.choice((0, 0, 1, 3, 30))))
        got, expected = both(columns, data, cuts, coerce=coerce)
        assert agree(got, expected), (seed, number, columns, got, expected)
        values += rows * len(columns)
        bad = damage(rng, data)
        got, expected = both(columns, bad, [], coerce=coerce)
        assert agree(got, expected), (seed, number, "damaged", columns, got, expected)
    assert values > STREAMS


@pytest.mark.parametrize("coerce", [False, True])
def test_one_bad_cell_gives_the_same_words(coerce: bool) -> None:
    """With one row of one column there is one thing to say: errors are equal to the letter."""
    refused = 0
    for number in range(STREAMS):
        rng = random.Random(f"words/{number}")
        columns, makers = random_columns(rng)
        data = random_stream(rng, columns[:1], makers[:1], 1)
        got, expected = both(columns[:1], data, [], coerce=coerce)
        assert got[2] == expected[2], (number, columns[0])
        refused += got[2] is not None
    assert refused
