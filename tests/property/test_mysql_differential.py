"""The compiled decoder and the reference agree on everything: values, counts and errors."""

from __future__ import annotations

import itertools
import random
import sys
from typing import NoReturn

import pytest

from rivet_fleet.contracts.columns import ColumnSpec
from rivet_fleet.execution.sources.mysql import values
from rivet_fleet.execution.sources.mysql.decoder import compiled_decoder
from rivet_fleet.execution.sources.mysql.reference import ReferenceDecoder
from tests.property.differential import STREAMS, Outcome, agree, outcome
from tests.property.mysql_rows import KINDS, column, damaged, end_of_rows, packets, random_case


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
        case = random_case(rng, unfit=rng.random() < 0.5)
        data = case.stream
        cuts = sorted(rng.randrange(len(data)) for _ in range(rng.choice((0, 0, 1, 3, 30))))
        got, expected = both(case.columns, data, cuts, coerce=coerce, packed=packed)
        assert agree(got, expected), (seed, number, case.columns, got, expected)
        values += len(case.payloads) * len(case.columns)
        bad = damaged(rng, data)
        got, expected = both(case.columns, bad, [], coerce=coerce, packed=packed)
        assert agree(got, expected), (seed, number, "damaged", case.columns, got, expected)
    assert values > STREAMS


def test_valid_rows_never_meet_the_reference() -> None:
    """A decoder that asks about every row would still be right, at a twentieth of the speed."""
    compiled = compiled_decoder()
    assert compiled is not None
    for number in range(300):
        case = random_case(random.Random(f"valid/{number}"), unfit=False)
        decoder = compiled(case.columns, max_value_bytes=1 << 20)
        decoder.feed(case.stream)
        assert decoder.take().num_rows == len(case.payloads)
        assert decoder.asked == 1, (number, "the end alone is the reference's", case.columns)


def test_no_column_is_built_by_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its NumPy costs a worker 13 MB, and each cell an object."""

    def refuse(cells: object, column: ColumnSpec, *_: object, **__: object) -> NoReturn:
        raise AssertionError(f"{column.name} was built by the reference")

    monkeypatch.setattr(values, "build_column", refuse)
    compiled = compiled_decoder()
    assert compiled is not None
    for number in range(300):
        case = random_case(random.Random(f"valid/{number}"), unfit=False)
        decoder = compiled(case.columns, max_value_bytes=1 << 20)
        decoder.feed(case.stream)
        assert decoder.take().num_rows == len(case.payloads)


@pytest.mark.parametrize("days", [35, 106_752, 2**31, 4_244_635_682, 2**32 - 1])
def test_a_time_of_more_days_than_64_bits_of_microseconds_hold_is_refused(days: int) -> None:
    """days x 86,400,000,000 us wraps around from 106,752 days on, and may land in the day."""
    cell = bytes([12, 0]) + days.to_bytes(4, "little") + bytes(7)
    columns = (column("t", KINDS["time"]),)
    data = packets((b"\0\0" + cell, end_of_rows()), len(columns) + 3)
    got, expected = both(columns, data, [], coerce=True)
    assert got[2] is not None and got[2] == expected[2]


@pytest.mark.parametrize("compiled", [False, True])
def test_what_follows_a_result_is_handed_out_as_it_came(compiled: bool) -> None:
    """Wherever it is cut, and whatever it is: an answer, its beginning, or nothing."""
    for number in range(200):
        rng = random.Random(f"behind/{number}")
        case, other = random_case(rng, unfit=False), random_case(rng, unfit=False)
        tail = other.stream[: rng.randrange(len(other.stream) + 1)]
        data = case.stream + tail
        made = compiled_decoder() if compiled else ReferenceDecoder
        assert made is not None
        decoder = made(case.columns, max_value_bytes=1 << 20)
        decoder.expect_more()
        cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((0, 1, 3, 30))))
        rest = b""
        for start, stop in itertools.pairwise((0, *cuts, len(data))):
            if decoder.ended:
                rest += data[start:stop]
            elif stop > start:
                decoder.feed(memoryview(data)[start:stop])
        decoder.finish()
        assert decoder.take().num_rows == len(case.payloads)
        assert not decoder.parted
        assert decoder.rest() + rest == tail
        assert decoder.rest() == b""
