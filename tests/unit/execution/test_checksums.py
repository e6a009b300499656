"""Checksums of columns: the compiled sum against its specification, and what they tell apart."""

from __future__ import annotations

import random
import struct
import sys
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rivet_fleet import execution
from rivet_fleet.contracts.columns import ColumnType, TypeKind
from rivet_fleet.contracts.plan import FormatPlan
from rivet_fleet.errors import DataIntegrityError
from rivet_fleet.execution import checksums, registry
from rivet_fleet.execution.checksums import (
    ColumnSums,
    bytes_hash,
    is_summed,
    reference_chains,
    reference_sum,
    row_chains,
)
from rivet_fleet.execution.columnsums import choose_registers, column_sum
from rivet_fleet.execution.formats.csv import writer as csv_reading
from rivet_fleet.execution.formats.parquet import writer as parquet_reading
from rivet_fleet.execution.types import arrow_type
from tests.packed import packed

Value = Callable[[random.Random], object]


def text(rng: random.Random) -> str:
    size = rng.choice((0, 1, 3, 4, 8, 15, 16, 17, 32, 47, 48, 49, 96, 97, 200))
    return "".join(rng.choice("aé\0語🙂") if i % 7 == 0 else "x" for i in range(size))


def whole(bits: int, *, signed: bool = True) -> Value:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return lambda rng: rng.choice((low, high, 0, rng.randint(low, high), rng.randint(0, 100)))


def number(digits: int) -> Value:
    edges = [e for e in (2**63 - 1, 2**63, 2**127 - 1, 2**127, 2**191, 2**192) if e < 10**digits]
    return lambda rng: Decimal(
        rng.choice((-1, 1))
        * rng.choice([*edges, *(e + 1 for e in edges if e + 1 < 10**digits), 0, 10**digits - 1,
                      rng.randrange(10 ** rng.randint(1, digits))])
    )  # fmt: skip


def double(rng: random.Random) -> float:
    return rng.choice((0.0, -0.0, float("inf"), 1.5, rng.gauss(0, 1e9), float("nan")))


COLUMNS: dict[str, tuple[pa.DataType, Value]] = {
    "bool": (pa.bool_(), lambda rng: rng.random() < 0.5),
    **{
        f"{'' if signed else 'u'}int{bits}": (
            getattr(pa, f"{'' if signed else 'u'}int{bits}")(),
            whole(bits, signed=signed),
        )
        for bits in (8, 16, 32, 64)
        for signed in (True, False)
    },
    "float32": (pa.float32(), double),
    "float64": (pa.float64(), double),
    "date": (pa.date32(), whole(32)),
    "time": (pa.time64("us"), lambda rng: rng.randrange(86_400_000_001)),
    "timestamp": (pa.timestamp("us"), whole(64)),
    "instant": (pa.timestamp("us", "UTC"), whole(64)),
    "decimal 9": (pa.decimal128(9, 2), number(7)),
    "decimal 38": (pa.decimal128(38, 0), number(38)),
    "decimal 76": (pa.decimal256(76, 0), number(76)),
    "text": (pa.string(), text),
    "few texts": (pa.string(), lambda rng: rng.choice(("", "N", "A", "a longer text"))),
    "long text": (pa.large_string(), text),
    "binary": (pa.binary(), lambda rng: rng.randbytes(rng.randrange(70))),
    "uuid": (pa.uuid(), lambda rng: uuid.UUID(int=rng.getrandbits(128)).bytes),
    "json": (pa.json_(pa.string()), lambda rng: '{"a": 1}' * rng.randrange(9)),
    "list": (
        pa.list_(pa.int32()),
        lambda rng: [rng.choice((None, 1, rng.randrange(9))) for _ in range(rng.randrange(4))],
    ),
    "list of uuids": (
        pa.list_(pa.binary(16)),
        lambda rng: [rng.randbytes(16) for _ in range(rng.randrange(3))],
    ),
    "list of lists": (
        pa.list_(pa.list_(pa.string())),
        lambda rng: [
            None if rng.random() < 0.2 else [text(rng)] * rng.randrange(3)
            for _ in range(rng.randrange(3))
        ],
    ),
}


def column_of(name: str, rows: int, seed: int, nulls: float) -> pa.Array:
    kind, value = COLUMNS[name]
    rng = random.Random(f"{name} {seed}")
    values = [None if rng.random() < nulls else value(rng) for _ in range(rows)]
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))
    return pa.array(values, kind)


@pytest.fixture(params=(5, 2, 0))
def registers(request: pytest.FixtureRequest) -> Iterator[int]:
    """The widest that this processor has, and narrower ones."""
    if choose_registers(request.param) != request.param:
        choose_registers()
        pytest.skip("this processor has no such registers")
    yield request.param
    choose_registers()


@pytest.mark.parametrize("name", COLUMNS)
def test_the_compiled_sum_is_the_specification_s(name: str, registers: int) -> None:
    """With and without NULLs, around the edges of a validity word, cut anywhere, and packed."""
    for seed, (rows, nulls) in enumerate(
        [(1, 0), (63, 0.3), (64, 0), (65, 0.5), (130, 1), (300, 0.1)]
    ):
        column = column_of(name, rows, seed, nulls)
        expected = reference_sum(column)
        assert column_sum(column) == expected, (rows, nulls)
        first, after = sorted(random.Random(seed).choices(range(rows + 1), k=2))
        pieces = column[:first], column[first:after], column[after:]
        sums = [column_sum(piece) for piece in pieces]
        assert sums == [reference_sum(piece) for piece in pieces]
        assert sum(sums) % 2**64 == expected, "sums of pages add up"
        assert column_sum(column.take(pa.array(range(rows - 1, -1, -1)))) == expected, "no order"
        one = packed(pa.record_batch([column], names=["c"])).column(0)
        assert column_sum(one) == expected == reference_sum(one), one.type
        if first < after:
            assert column_sum(one[first:after]) == sums[1]


def test_bytes_of_every_length_have_the_specification_s_hash() -> None:
    body = random.Random(7).randbytes(200)
    for size in range(len(body)):
        assert column_sum(pa.array([body[:size]])) == bytes_hash(body[:size]), size


def test_every_type_that_a_source_delivers_has_a_checksum() -> None:
    for kind in TypeKind:
        element = ColumnType(kind=TypeKind.INT16)
        one = ColumnType(kind=kind, precision=40, scale=2, element=element)
        assert is_summed(arrow_type(one)), kind
    assert not is_summed(pa.timestamp("ns"))
    assert not is_summed(pa.list_(pa.time64("ns")))


def test_checksums_are_these_for_ever() -> None:
    """Manifests outlive programs: a change here needs another word before the colon."""
    assert bytes_hash(b"") == 0x93228A4DE0EEC5A2, "wyhash's own"
    told = {}
    for name, (kind, _) in COLUMNS.items():
        sums = ColumnSums("value64", pa.schema([("c", kind)]), column_sum)
        sums.add([column_of(name, 100, 7, 0.2)])
        told[name] = sums.texts()["c"]
    assert told == KNOWN


def nan(bits: int) -> float:
    return struct.unpack("<d", struct.pack("<Q", bits))[0]


def test_what_is_another_value_has_another_sum() -> None:
    different = [
        (pa.float64(), [[0.0], [-0.0], [None]]),
        (pa.string(), [[""], [None], ["\0"], ["\0\0"]]),
        (pa.int64(), [[0], [None], [1, 4], [2, 3], [0, 5], [0, 0], []]),
        (pa.bool_(), [[True], [False], [None]]),
        (
            pa.list_(pa.string()),
            [[["a", "b"]], [["b", "a"]], [["a"], ["b"]], [[], ["a", "b"]], [[]], [None], [[None]]],
        ),
        (pa.decimal256(76, 0), [[Decimal(2**64)], [Decimal(0)], [Decimal(2**128)]]),
    ]
    for kind, columns in different:
        sums = [column_sum(pa.array(values, kind)) for values in columns]
        assert len(set(sums)) == len(sums), kind


def test_what_is_the_same_value_has_the_same_sum() -> None:
    same = [
        [pa.array([nan(0x7FF8000000000000)]), pa.array([nan(0xFFF8000000000123)]),
         pa.array([float("nan")], pa.float32())],
        [pa.array([1.5], pa.float32()), pa.array([1.5])],
        [pa.array([-7], kind) for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())],
        [pa.array([Decimal(-7)], kind) for kind in
         (pa.decimal64(9, 0), pa.decimal128(9, 0), pa.decimal256(40, 0))],
        [pa.array([Decimal(2**70)], kind) for kind in (pa.decimal128(38, 0), pa.decimal256(40, 0))],
        [pa.array(["é"]), pa.array(["é"], pa.large_string()), pa.array(["é".encode()])],
    ]  # fmt: skip
    for columns in same:
        assert len({column_sum(column) for column in columns}) == 1, columns


def test_bytes_below_a_null_do_not_count() -> None:
    """Arrow says nothing of them, and another writer's are others."""
    valid = pa.py_buffer(b"\x05")
    for garbage in (b"\0" * 12, b"\xff" * 12):
        data = struct.pack("<i", 1) + garbage[:4] + struct.pack("<i", 3)
        column = pa.Array.from_buffers(pa.int32(), 3, [valid, pa.py_buffer(data)])
        assert column_sum(column) == reference_sum(pa.array([1, None, 3], pa.int32()))
        places = pa.Array.from_buffers(pa.int32(), 3, [valid, pa.py_buffer(
            struct.pack("<i", 1) + garbage[:4] + struct.pack("<i", 0))])  # fmt: skip
        text = pa.DictionaryArray.from_arrays(places, pa.array(["a", "b"]), safe=False)
        assert column_sum(text) == reference_sum(pa.array(["b", None, "a"]))


@pytest.mark.parametrize("name", registry.format_names())
def test_without_a_compiler_nothing_is_summed_and_everything_can_be_checked(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = pa.schema([("n", pa.int64()), ("t", pa.string())])
    batch = pa.record_batch([pa.array([1, None]), pa.array(["", "a"])], schema=schema)
    part_format = registry.open_format(FormatPlan(format=name))

    def written(path: Path) -> dict[str, str]:
        writer = part_format.open(path, schema)
        writer.write(batch)
        writer.close()
        return dict(writer.checksums())

    compiled = written(tmp_path / "compiled")
    monkeypatch.delattr(execution, "columnsums")
    monkeypatch.setitem(sys.modules, "rivet_fleet.execution.columnsums", None)
    for cached in (checksums.compiled_sum, checksums.patient_sum):
        cached.cache_clear()
    try:
        assert written(tmp_path / "plain") == {}
        with pytest.warns(RuntimeWarning, match="checksums of columns"):
            assert part_format.checksums(tmp_path / "plain") == compiled
    finally:
        monkeypatch.undo()
        for cached in (checksums.compiled_sum, checksums.patient_sum):
            cached.cache_clear()


def test_a_record_larger_than_a_block_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = pa.schema([("a", pa.string()), ("b", pa.string())])
    texts = ["short", 'long, "quoted"\n' * 300, "", None]
    batch = pa.record_batch([pa.array(texts), pa.array(texts[::-1])], schema=schema)
    part_format = registry.open_format(FormatPlan(format="csv"))
    writer = part_format.open(tmp_path / "part", schema)
    writer.write(batch)
    writer.close()
    monkeypatch.setattr(csv_reading, "_BLOCK_BYTES", 64)
    assert part_format.checksums(tmp_path / "part") == writer.checksums()
    (tmp_path / "torn").write_bytes((tmp_path / "part").read_bytes() + b"one,two,three\n")
    with pytest.raises(DataIntegrityError, match="it cannot be read"):
        part_format.checksums(tmp_path / "torn")


KNOWN = {
    "bool": "value64:7a2318866ffd2a92",
    "int8": "value64:63b3f012f4cfe98d",
    "uint8": "value64:0948cb0eda95d06e",
    "int16": "value64:6d951de323930324",
    "uint16": "value64:845ce8451418ee91",
    "int32": "value64:6bf5ef69aab57e7b",
    "uint32": "value64:c4c7fd89635bc433",
    "int64": "value64:120c1c936ee0fc82",
    "uint64": "value64:15434d0fa3992623",
    "float32": "value64:944f8bbd991268b6",
    "float64": "value64:7ad72d44e0d0a4ff",
    "date": "value64:6758739d53221b6b",
    "time": "value64:06337360ba80a968",
    "timestamp": "value64:08e43a9980a01c90",
    "instant": "value64:5e78b4537103a4ba",
    "decimal 9": "value64:7e8b9dddc743c7bf",
    "decimal 38": "value64:d76c330b0edb1ae6",
    "decimal 76": "value64:45bf2b75c2e00c22",
    "text": "value64:2832464c968eb9a8",
    "few texts": "value64:add4884bf67826c4",
    "long text": "value64:59f9b64e23034864",
    "binary": "value64:94532c5829183a5c",
    "uuid": "value64:f06ad4decf1b7173",
    "json": "value64:0768e3b0407a32dc",
    "list": "value64:4962088aeff5f94f",
    "list of uuids": "value64:eb902e53cb90de33",
    "list of lists": "value64:34a211ca205307cf",
}


@pytest.mark.parametrize("encoding", ["RLE_DICTIONARY", "DELTA_BYTE_ARRAY"])
def test_a_small_file_of_wide_rows_is_read_in_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """A value that stands once in the file, or as what it has more than the one before."""
    rows, wide = 1000, "x" * 100_000
    column: pa.Array = pa.DictionaryArray.from_arrays(pa.array([0, 1] * (rows // 2)), [wide, "y"])
    options: dict[str, object] = {"store_schema": False}
    if encoding == "DELTA_BYTE_ARRAY":
        column = pa.array([wide] * rows)
        options |= {"use_dictionary": False, "column_encoding": {"v": encoding}}
    ids = pa.array(range(rows), pa.int32())
    path = tmp_path / "small.parquet"
    pq.write_table(pa.table({"id": ids, "v": column}), path, row_group_size=rows, **options)
    del column
    seen: list[int] = []

    class Watched(ColumnSums):
        def add(self, columns: list[pa.Array]) -> None:
            seen.append(sum(one.nbytes for one in columns))
            super().add(columns)

    monkeypatch.setattr(parquet_reading, "ColumnSums", Watched)
    found = parquet_reading.file_checksums(path)
    assert path.stat().st_size < 1_000_000
    assert max(seen) < 34 * 1024 * 1024
    shown = [wide, "y"] if encoding == "RLE_DICTIONARY" else [wide, wide]
    schema = pa.schema({"id": pa.int32(), "v": pa.string()})
    sums = ColumnSums(parquet_reading.VALUES, schema, column_sum)
    for start in range(0, rows, 2):
        sums.add([ids.slice(start, 2), pa.array(shown)])
    assert found == sums.texts()
    # As a comparison reads it, row by row.
    given = list(registry.open_format(FormatPlan(format="parquet")).rows(path))
    assert sum(len(columns["id"]) for columns in given) == rows
    assert max(sum(one.nbytes for one in columns.values()) for columns in given) < 34 * 1024 * 1024


def test_rows_chain_alike_compiled_and_not() -> None:
    """Of every type, sliced, and over more rows than are taken at once."""
    columns = [values.slice(1) for values in COLUMNS_OF_ROWS]
    assert row_chains()(columns) == reference_chains(columns)
    long = [pa.array(range(2500)), pa.array([None, "x"] * 1250)]
    assert row_chains()(long) == reference_chains(long)
    assert row_chains()(long[::-1]) != row_chains()(long)
    assert row_chains()([long[0].slice(0, 0)]) == bytearray()


COLUMNS_OF_ROWS = [
    pa.array([0, 1, None, -5], pa.int16()),
    pa.array([True, None, False, True]),
    pa.array([0.0, -0.0, float("nan"), None]),
    pa.array(["", "a", None, "b" * 60]),
    pa.array([[1, None], [], None, [3]], pa.list_(pa.int32())),
    pa.array(["x", "y", None, "x"]).dictionary_encode(),
    pa.array([Decimal("1.5"), None, Decimal("-2.25"), Decimal("0")], pa.decimal128(30, 2)),
]
