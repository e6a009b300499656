"""The compiled decoder and the reference agree on everything: values, counts and errors."""

from __future__ import annotations

import random
import sys
from decimal import Context

import pyarrow as pa
import pytest

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.execution.sources.postgres.decoder import compiled_decoder
from rivet_fleet.execution.sources.postgres.reference import ReferenceDecoder
from tests.property.copy_rows import (
    HEADER,
    TRAILER,
    cell,
    damage,
    numeric,
    random_columns,
    random_stream,
)
from tests.property.differential import STREAMS, Outcome, agree, outcome

CONTEXT = Context(prec=100)


def both(
    columns: tuple[ColumnSpec, ...],
    data: bytes,
    cuts: list[int],
    *,
    coerce: bool,
    packed: bool = False,
) -> tuple[Outcome, Outcome]:
    compiled = compiled_decoder()
    assert compiled is not None, "the compiled decoder was not built"
    return (
        outcome(compiled(columns, max_value_bytes=4096, coerce=coerce, packed=packed), data, cuts),
        outcome(ReferenceDecoder(columns, max_value_bytes=4096, coerce=coerce), data, cuts),
    )


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("coerce", [False, True])
def test_compiled_and_reference_agree_on_hostile_rows(coerce: bool, packed: bool) -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}", file=sys.stderr)
    values = 0
    for number in range(STREAMS):
        rng = random.Random(f"{seed}/{number}")
        columns, makers = random_columns(rng)
        rows = rng.randint(0, 12)
        data = random_stream(rng, columns, makers, rows)
        cuts = sorted(rng.randrange(len(data)) for _ in range(rng.choice((0, 0, 1, 3, 30))))
        got, expected = both(columns, data, cuts, coerce=coerce, packed=packed)
        assert agree(got, expected), (seed, number, columns, got, expected)
        values += rows * len(columns)
        bad = damage(rng, data)
        got, expected = both(columns, bad, [], coerce=coerce, packed=packed)
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


def canonical(number: int, scale: int) -> bytes:
    """``number`` / 10^scale as the server writes it: no zero digits at either end."""
    padded = abs(number) * 10 ** (-scale % 4)
    groups, weight = [], -(-scale // 4) * -1 - 1
    while padded:
        padded, digit = divmod(padded, 10_000)
        groups.append(digit)
        weight += 1
    groups.reverse()
    while groups and groups[-1] == 0:
        groups.pop()
    return numeric(groups, weight if groups else 0, 0x4000 if number < 0 else 0, scale)


def test_valid_rows_never_meet_the_reference() -> None:
    """A decoder that asks about every row would still be right, at a tenth of the speed."""
    compiled = compiled_decoder()
    assert compiled is not None
    valid = 0
    for number in range(2000):
        rng = random.Random(f"valid/{number}")
        columns, makers = random_columns(rng)
        if any("n" in column.native_type.partition("[")[0][:1] for column in columns):
            continue  # the generator's numbers have leading zeros, which no server sends
        data = random_stream(rng, columns, makers, 2)
        got, _ = both(columns, data, [], coerce=False)
        if got[2] is None:
            decoder = compiled(columns, max_value_bytes=4096)
            decoder.feed(data)
            decoder.finish()
            assert decoder.asked == 0, (number, columns)
            valid += 1
    assert valid > 100


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("precision", "scale"), [(15, 2), (18, 18), (19, 0), (38, 10), (76, 30)])
def test_valid_decimals_never_meet_the_reference(precision: int, scale: int, packed: bool) -> None:
    rng, top = random.Random(f"{precision}/{scale}"), 10**precision - 1
    numbers = [0, 1, -1, top, -top, *(rng.randint(-top, top) for _ in range(50))]
    numbers += [10**n for n in range(precision)]
    kind = ColumnType(kind=TypeKind.DECIMAL, precision=precision, scale=scale)
    spec = ColumnSpec(name="n", native_type="numeric", type=kind, wire_type="1700")
    rows = (b"\0\1" + cell(canonical(number, scale)) for number in numbers)
    compiled = compiled_decoder()
    assert compiled is not None
    decoder = compiled((spec,), max_value_bytes=4096, packed=packed)
    decoder.feed(HEADER + b"".join(rows) + TRAILER)
    decoder.finish()
    assert decoder.asked == 0
    column = decoder.take().column(0)
    assert pa.types.is_decimal64(column.type) == (packed and precision <= 18)
    got = [int(value.scaleb(scale, CONTEXT)) for value in column.to_pylist()]
    assert got == numbers
