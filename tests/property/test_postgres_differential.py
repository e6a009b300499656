"""The compiled decoder and the reference agree on everything: values, counts and errors."""

from __future__ import annotations

import os
import random
import sys

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rivet_fleet.contracts.columns import ColumnSpec
from rivet_fleet.errors import RivetFleetError
from rivet_fleet.execution.sources.postgres.decoder import (
    BatchDecoder,
    ReferenceDecoder,
    compiled_decoder,
)
from tests.property.copy_rows import damage, random_columns, random_stream

Outcome = tuple[pa.RecordBatch | None, dict[str, int], str | None]

STREAMS = int(os.environ.get("RIVET_FLEET_TEST_STREAMS", "4000"))
"""How many streams a run decodes twice; each is tried whole and damaged."""


def outcome(decoder: BatchDecoder, data: bytes, cuts: list[int]) -> Outcome:
    """All rows, the counts of changed values, and the error, if any."""
    batches = []
    try:
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            decoder.feed(data[start:end])
            if len(cuts) > 3:
                batches.append(decoder.take(3))
        decoder.finish()
        batches.append(decoder.take())
    except RivetFleetError as error:
        return None, {}, f"{type(error).__name__} {error.code}: {error} | {error.hint}"
    whole = pa.concat_batches(batches)
    whole.validate(full=True)
    return whole, dict(decoder.changed), None


def both(
    columns: tuple[ColumnSpec, ...], data: bytes, cuts: list[int], *, coerce: bool
) -> tuple[Outcome, Outcome]:
    compiled = compiled_decoder()
    assert compiled is not None, "the compiled decoder was not built"
    return (
        outcome(compiled(columns, max_value_bytes=4096, coerce=coerce), data, cuts),
        outcome(ReferenceDecoder(columns, max_value_bytes=4096, coerce=coerce), data, cuts),
    )


def same(a: pa.Array, b: pa.Array) -> bool:
    """Equal to the bit: a NaN equals itself, and only itself."""
    if pa.types.is_floating(a.type):
        bits = pa.int32() if a.type.bit_width == 32 else pa.int64()
        a, b = a.view(bits), b.view(bits)
    if pa.types.is_list(a.type):
        if not pc.list_value_length(a).equals(pc.list_value_length(b)):
            return False
        a, b = a.flatten(), b.flatten()
        return same(a, b)
    return bool(a.equals(b))


def agree(got: Outcome, expected: Outcome) -> bool:
    if expected[2] is not None or got[2] is not None:
        # Which of several bad cells is met first may differ: rows here, columns there.
        return got[2] is not None and expected[2] is not None
    assert got[0] is not None and expected[0] is not None
    if not got[0].schema.equals(expected[0].schema, check_metadata=True) or got[1] != expected[1]:
        return False
    return all(map(same, got[0].columns, expected[0].columns))


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
