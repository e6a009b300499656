"""Row hashes: the image is injective, and the compiled code computes what is specified."""

from __future__ import annotations

import struct
from decimal import Decimal

import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from rivet_fleet.contracts.plan import EXPORTED_AT, ROW_HASH, MetaPlan
from rivet_fleet.execution.checksums import open_row_hash, reference_hashes
from rivet_fleet.execution.encoder import AddedColumns

CELLS: tuple[tuple[pa.DataType, st.SearchStrategy[object]], ...] = (
    (pa.int16(), st.integers(-(2**15), 2**15 - 1)),
    (pa.uint64(), st.integers(0, 2**64 - 1)),
    (pa.float64(), st.floats()),
    (pa.bool_(), st.booleans()),
    (pa.string(), st.text("aé€😀\0", max_size=40)),
    (pa.binary(), st.binary(max_size=40)),
    (pa.decimal128(20, 2), st.decimals(-(10**9), 10**9, places=2)),
    (pa.decimal256(60, 0), st.decimals(-(10**9), 10**9, places=0)),
    (pa.date32(), st.dates()),
    (pa.timestamp("us", tz="UTC"), st.integers(-(2**60), 2**60)),
    (pa.binary(16), st.binary(min_size=16, max_size=16)),
    (pa.list_(pa.string()), st.lists(st.none() | st.text("aé\0", max_size=3), max_size=3)),
    (pa.list_(pa.int32()), st.lists(st.none() | st.integers(-9, 9), max_size=3)),
)


def compiled():
    found = open_row_hash()
    if found is reference_hashes:
        pytest.skip("not compiled here")
    return found


@given(st.data())
def test_the_compiled_hash_is_the_specified_one(data: st.DataObject) -> None:
    rows = data.draw(st.integers(0, 20))
    columns = []
    for kind, cells in data.draw(st.lists(st.sampled_from(CELLS), min_size=1, max_size=5)):
        values = data.draw(st.lists(st.none() | cells, min_size=rows, max_size=rows))
        columns.append(pa.array(values, kind))
    skip = data.draw(st.integers(0, rows))
    sliced = [column.slice(skip) for column in columns]
    assert compiled()(sliced).equals(reference_hashes(sliced))


def test_anybody_can_repeat_it() -> None:
    columns = [pa.array([7, None], pa.int32()), pa.array(["é", "b"])]
    images = [
        b"\1"
        + struct.pack("<I", 4)
        + struct.pack("<i", 7)
        + b"\1"
        + struct.pack("<I", 2)
        + "é".encode(),
        b"\0" + b"\1" + struct.pack("<I", 1) + b"b",
    ]
    expected = [
        struct.unpack("<q", struct.pack("<Q", xxhash.xxh64_intdigest(i)))[0] for i in images
    ]
    assert reference_hashes(columns).to_pylist() == expected
    assert open_row_hash()(columns).to_pylist() == expected


@pytest.mark.parametrize(
    "rows",
    [
        [
            ("a", "b"),
            ("ab", ""),
            ("", "ab"),
            (None, "ab"),
            ("ab", None),
            ("a\1", "b"),
            (None, None),
        ],
        [(None, ""), ("", None), ("", "")],
        [([None], "x"), ([""], "x"), ([], "x"), (None, "x"), (["", ""], "x")],
    ],
)
def test_neither_null_nor_order_nor_neighbours_are_mixed_up(rows) -> None:
    first, second = (pa.array(cells) for cells in zip(*rows, strict=True))
    for pair in ([first, second], [second, first]):
        assert len(set(open_row_hash()(pair).to_pylist())) == len(rows)
    assert open_row_hash()([first, second]) != open_row_hash()([second, first])


def test_equal_pages_give_equal_added_columns() -> None:
    schema = pa.schema([("id", pa.int64()), ("at", pa.timestamp("us")), ("d", pa.decimal128(5, 1))])
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array([1, 2]),
            pa.array([0, None], pa.timestamp("us")),
            pa.array([Decimal(1), None], pa.decimal128(5, 1)),
        ],
        schema=schema,
    )
    added = AddedColumns(
        schema, MetaPlan(exported_at_us=1_700_000_000_000_000, row_hash=("id", "d"))
    )
    once, again = added.complete(batch), added.complete(batch)
    assert once.equals(again)
    assert once.schema.names == ["id", "at", "d", EXPORTED_AT, ROW_HASH]
    assert str(once.schema.field(EXPORTED_AT).type) == "timestamp[us, tz=UTC]"
    assert once.column(ROW_HASH).null_count == 0
    assert once.column(3).cast(pa.int64()).to_pylist() == [1_700_000_000_000_000] * 2
