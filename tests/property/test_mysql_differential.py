"""The compiled decoder and the reference agree on everything: values, counts and errors."""

from __future__ import annotations

import random
import sys

import pytest

from rivet_fleet.contracts.columns import ColumnSpec
from rivet_fleet.execution.sources.mysql.decoder import ReferenceDecoder, compiled_decoder
from tests.property.differential import STREAMS, Outcome, agree, outcome
from tests.property.mysql_rows import damaged, random_case


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
        case = random_case(rng, unfit=rng.random() < 0.5)
        data = case.stream
        cuts = sorted(rng.randrange(len(data)) for _ in range(rng.choice((0, 0, 1, 3, 30))))
        got, expected = both(case.columns, data, cuts, coerce=coerce)
        assert agree(got, expected), (seed, number, case.columns, got, expected)
        values += len(case.payloads) * len(case.columns)
        bad = damaged(rng, data)
        got, expected = both(case.columns, bad, [], coerce=coerce)
        assert agree(got, expected), (seed, number, "damaged", case.columns, got, expected)
    assert values > STREAMS
