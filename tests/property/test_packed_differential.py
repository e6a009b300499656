"""Packed columns at their edges: unpacked, they are the reference's, whatever the caps did.

The other differential tests run packed too, on short streams; here are long ones, in which text
repeats, ceases to, and reaches each limit of a dictionary.
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.execution.packing import REPEATED_TEXT
from rivet_fleet.execution.sources.mysql.decoder import compiled_decoder as mysql_decoder
from rivet_fleet.execution.sources.mysql.reference import ReferenceDecoder as MysqlReference
from rivet_fleet.execution.sources.postgres.decoder import compiled_decoder as copy_decoder
from rivet_fleet.execution.sources.postgres.reference import ReferenceDecoder as CopyReference
from tests.packed import unpacked
from tests.property.copy_rows import HEADER, TRAILER, cell
from tests.property.differential import STREAMS, agree, outcome
from tests.property.mysql_rows import end_of_rows, lenenc, packets, row

VALUES_MAX, BYTES_MAX, TRIED_ROWS = 1000, 65_536, 1024
"""The limits of a dictionary in columnar.pxd and columnar.pyx."""
Row = tuple[bytes | None, ...]


@dataclass(frozen=True)
class Engine:
    """Rows of text columns as this engine sends them."""

    wire_type: str
    compiled: Any
    reference: Any
    stream: Callable[[list[Row]], bytes]
    part: Callable[[list[Row], int], bytes]
    """Rows out of the middle of a stream, behind so many others."""


def copy_stream(rows: list[Row]) -> bytes:
    body = (struct.pack(">h", len(one)) + b"".join(map(cell, one)) for one in rows)
    return HEADER + b"".join(body) + TRAILER


def packet_stream(rows: list[Row]) -> bytes:
    body = [row(tuple(None if v is None else lenenc(v) for v in one)) for one in rows]
    return packets((*body, end_of_rows()), (len(rows[0]) if rows else 1) + 3)


def copy_part(rows: list[Row], before: int) -> bytes:
    return copy_stream(rows)[len(HEADER) if before else 0 : -len(TRAILER)]


def packet_part(rows: list[Row], before: int) -> bytes:
    body = [row(tuple(None if v is None else lenenc(v) for v in one)) for one in rows]
    return packets(tuple(body), (len(rows[0]) + 3 + before) & 0xFF)


ENGINES = {
    "postgres": Engine("25", copy_decoder(), CopyReference, copy_stream, copy_part),
    "mysql": Engine("253", mysql_decoder(), MysqlReference, packet_stream, packet_part),
}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param]


def texts(engine: Engine, count: int) -> tuple[ColumnSpec, ...]:
    return tuple(
        ColumnSpec(
            name=f"c{index}",
            native_type="text",
            type=ColumnType(kind=TypeKind.ENUM if index % 2 else TypeKind.STRING),
            wire_type=engine.wire_type,
        )
        for index in range(count)
    )


def decoded(engine: Engine, rows: list[Row], like: Any = None) -> tuple[Any, pa.RecordBatch]:
    """A packed page that needs nothing of the reference's, and its decoder."""
    columns = texts(engine, len(rows[0]))
    decoder = engine.compiled(columns, max_value_bytes=1 << 20, packed=True)
    if like is not None:
        decoder.expect_like(like)
    decoder.feed(engine.stream(rows))
    decoder.finish()
    batch = decoder.take()
    batch.validate(full=True)
    said = [None if v is None else v.decode() for one in rows for v in one]
    found = list(zip(*unpacked(batch, decoder.schema).to_pydict().values(), strict=True))
    assert [value for one in found for value in one] == said
    return decoder, batch


def is_dictionary(engine: Engine, values: list[bytes | None]) -> bool:
    """Does a page of one column with these values come as a dictionary?"""
    _, batch = decoded(engine, [(value,) for value in values])
    return bool(batch.column(0).type == REPEATED_TEXT)


def pool(rng: random.Random) -> list[bytes]:
    """Values of one column: from one to more than a dictionary takes, some of them long."""
    count = rng.choice((1, 2, 7, 300, VALUES_MAX - 1, VALUES_MAX, VALUES_MAX + 1, 1500))
    long = rng.choice((1, 1, 5, 60, 200))
    made = [f"{rng.choice(('', 'é', '😀', 'x' * 8))}{n}".encode() * rng.randint(1, long)
            for n in range(count)]  # fmt: skip
    return [b"", *made] if rng.random() < 0.5 else made


def random_rows(rng: random.Random, width: int) -> list[Row]:
    pools = [pool(rng) for _ in range(width)]
    nulls = [rng.choice((0.0, 0.0, 0.2, 0.95)) for _ in range(width)]
    broken = rng.choice((0.0, 0.0, 0.0005))
    grows = rng.random() < 0.5

    def value(index: int, at: int) -> bytes | None:
        if rng.random() < nulls[index]:
            return None
        if rng.random() < broken:
            return b"\xf0\x9f\x98"
        values = pools[index]
        # Growing: few values at first, all of them at the end.
        upto = min(len(values), 1 + at // 2) if grows else len(values)
        return values[rng.randrange(upto)]

    count = rng.choice((1, 40, 900, 1500, 3000))
    return [tuple(value(index, at) for index in range(width)) for at in range(count)]


@pytest.mark.parametrize("coerce", [False, True])
def test_long_streams_agree_with_the_reference(engine: Engine, coerce: bool) -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}", file=sys.stderr)
    dictionaries = plain = 0
    for number in range(max(10, STREAMS // 60)):
        rng = random.Random(f"{seed}/{number}")
        width = rng.randint(1, 3)
        rows = random_rows(rng, width)
        columns, data = texts(engine, width), engine.stream(rows)
        cuts = sorted(rng.randrange(len(data)) for _ in range(rng.choice((0, 1, 3, 300))))
        compiled = engine.compiled(columns, max_value_bytes=1 << 20, coerce=coerce, packed=True)
        reference = engine.reference(columns, max_value_bytes=1 << 20, coerce=coerce)
        kinds: list[pa.DataType] = []
        got = outcome(Watched(compiled, kinds), data, cuts)
        assert agree(got, outcome(reference, data, cuts)), (seed, number)
        dictionaries += sum(kind == REPEATED_TEXT for kind in kinds)
        plain += sum(kind == pa.string() for kind in kinds)
    assert dictionaries and plain


class Watched:
    """A decoder whose types are noted as they come."""

    def __init__(self, decoder: Any, kinds: list[pa.DataType]) -> None:
        self._decoder, self._kinds = decoder, kinds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def take(self, rows_max: int | None = None) -> pa.RecordBatch:
        batch = self._decoder.take(rows_max)
        if batch.num_rows:
            self._kinds.extend(batch.schema.types)
        return batch


def test_a_dictionary_takes_so_many_values_and_no_more(engine: Engine) -> None:
    full = [f"{n % VALUES_MAX}".encode() for n in range(3 * VALUES_MAX)]
    assert is_dictionary(engine, full)
    assert not is_dictionary(engine, [*full, b"one more"])
    assert not is_dictionary(engine, [*full, b"one more", *full])


def test_a_dictionary_takes_so_many_bytes_and_no_more(engine: Engine) -> None:
    eight = [str(n).encode() * (BYTES_MAX // 8) for n in range(8)]
    assert is_dictionary(engine, eight * 3)
    assert is_dictionary(engine, [*eight, b"", *eight, b""])
    assert not is_dictionary(engine, [*eight, b"x", *eight])
    assert not is_dictionary(engine, [b"x" * (BYTES_MAX + 1)] * 5)


def test_text_that_hardly_repeats_is_given_up_early(engine: Engine) -> None:
    """Long before the caps, and not before so many rows that it can be told."""
    own = [f"{n}".encode() for n in range(TRIED_ROWS)]
    assert not is_dictionary(engine, own)
    first, batch = decoded(engine, [(v,) for v in own[:500]])
    assert batch.column(0).type == pa.string()
    # A short page proves nothing: the next one tries again.
    second, batch = decoded(engine, [(own[n % 3],) for n in range(5_000)], like=first)
    assert batch.column(0).type == REPEATED_TEXT
    third, batch = decoded(engine, [(f"{n}".encode(),) for n in range(2_000)], like=second)
    assert batch.column(0).type == pa.string()
    # A long one does, for the rest of the chunk.
    _, batch = decoded(engine, [(own[n % 3],) for n in range(5_000)], like=third)
    assert batch.column(0).type == pa.string()


def test_nothing_but_null_and_nothing_but_empty(engine: Engine) -> None:
    for value in (None, b""):
        _, batch = decoded(engine, [(value,)] * 3_000)
        column = batch.column(0)
        assert column.type == REPEATED_TEXT
        assert column.null_count == (3_000 if value is None else 0)
        assert len(column.dictionary) == (0 if value is None else 1)


def test_values_of_a_row_that_is_taken_back_leave_the_dictionary(engine: Engine) -> None:
    """The reference gets the row whose second cell is broken; its first cell was new, or the one
    too many that made the column plain."""
    columns = texts(engine, 2)
    for count in (3, VALUES_MAX - 1, VALUES_MAX):
        good = [(f"{n % count}".encode(), b"same") for n in range(3 * VALUES_MAX)]
        rows = [*good, (b"taken back", b"\xff"), *good]
        for stop in (1, 2):
            data = engine.stream(rows)
            decoder = engine.compiled(columns, max_value_bytes=4096, coerce=True, packed=True)
            middle = data.index(b"taken back") + 3
            for block in (data[:middle], data[middle:]) if stop == 2 else (data,):
                decoder.feed(block)
            decoder.finish()
            assert decoder.changed == {"c1": 1}
            batch = decoder.take()
            batch.validate(full=True)
            found = unpacked(batch, decoder.schema).to_pydict()
            assert found["c0"] == [first.decode() for first, _ in rows]
            assert found["c1"] == ["same"] * len(good) + ["\ufffd"] + ["same"] * len(good)


def test_rows_that_the_reference_took_leave_no_value_behind(engine: Engine) -> None:
    """Else so many of them would use a dictionary up that no row of the page needs."""
    decoder = engine.compiled(texts(engine, 2), max_value_bytes=4096, coerce=True, packed=True)
    broken: list[Row] = [(f"gone {n}".encode(), b"\xff") for n in range(VALUES_MAX)]
    decoder.feed(engine.part(broken, 0))
    assert decoder.take().num_rows == VALUES_MAX
    good: list[Row] = [(b"a", b"same"), (b"b", b"same"), (None, b"same")] * 2
    decoder.feed(engine.part(good, VALUES_MAX))
    batch = decoder.take()
    assert [column.dictionary.to_pylist() for column in batch.columns] == [["a", "b"], ["same"]]


def test_a_row_cut_anywhere_leaves_no_value_behind(engine: Engine) -> None:
    """An incomplete row is taken back and decoded again: its values must be there once, at the
    row they came with."""
    columns = texts(engine, 3)
    rows = [(f"a{n % 9}".encode(), f"b{n % 7}".encode(), f"c{n % 5}".encode()) for n in range(60)]
    data = engine.stream(rows)
    decoder = engine.compiled(columns, max_value_bytes=4096, packed=True)
    for at in range(len(data)):
        decoder.feed(data[at : at + 1])
    decoder.finish()
    batch = decoder.take()
    assert [len(column.dictionary) for column in batch.columns] == [9, 7, 5]
    for index, column in enumerate(batch.columns):
        first = dict.fromkeys(one[index].decode() for one in rows)
        assert column.dictionary.to_pylist() == list(first)


def test_decimals_are_packed_up_to_18_digits() -> None:
    compiled = copy_decoder()
    assert compiled is not None
    for precision in (18, 19):
        kind = ColumnType(kind=TypeKind.DECIMAL, precision=precision, scale=0)
        spec = ColumnSpec(name="n", native_type="numeric", type=kind, wire_type="1700")
        batch = compiled((spec,), max_value_bytes=4096, packed=True)
        batch.feed(copy_stream([(struct.pack(">HhHHH", 1, 0, 0x4000, 0, 7),), (None,)]))
        column = batch.take().column(0)
        assert pa.types.is_decimal64(column.type) == (precision == 18)
        assert [v and int(v) for v in column.to_pylist()] == [-7, None]


def test_a_dictionary_column_stands_for_no_more_than_32_bit_offsets_reach(engine: Engine) -> None:
    """2 GiB of one repeated value, then one that makes the column plain: what came before must
    have been closed, because plain offsets do not reach so far."""
    block: list[Row] = [(b"v" * 60_000,)] * 200
    blocks = 2**31 // (60_000 * 200) + 1
    decoder = engine.compiled(texts(engine, 1), max_value_bytes=1 << 20, packed=True)
    for number in range(blocks):
        decoder.feed(engine.part(block, number * 200))
    decoder.feed(engine.part([(b"w" * (BYTES_MAX + 1),)], blocks * 200))
    batch = decoder.take()
    batch.validate(full=True)
    column = batch.column(0)
    assert column.type == REPEATED_TEXT
    assert column.dictionary.to_pylist() == ["v" * 60_000, "w" * (BYTES_MAX + 1)]
    assert column.indices.to_pylist() == [0] * (blocks * 200) + [1]
