"""The reference decoder over hand-made COPY bytes: framing, values, refusals."""

from __future__ import annotations

import struct
from decimal import Decimal

import pyarrow as pa
import pytest

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.errors import MalformedData, SchemaDrift, UnsupportedType, ValueTooLarge
from rivet_fleet.execution.sources.postgres.reference import SIGNATURE, ReferenceDecoder
from rivet_fleet.execution.sources.postgres.values import iso_interval
from rivet_fleet.execution.types import arrow_schema

HEADER = SIGNATURE + bytes(8)
TRAILER = b"\xff\xff"


def column(kind: TypeKind, *, wire: str = "", nullable: bool = True, **type_) -> ColumnSpec:
    return ColumnSpec(
        name="c",
        native_type=kind.value,
        type=ColumnType(kind=kind, **type_),
        nullable=nullable,
        wire_type=wire,
    )


def cell(value: bytes | None) -> bytes:
    return struct.pack(">i", -1) if value is None else struct.pack(">i", len(value)) + value


def stream(*rows: tuple[bytes | None, ...]) -> bytes:
    body = b"".join(struct.pack(">h", len(row)) + b"".join(map(cell, row)) for row in rows)
    return HEADER + body + TRAILER


def decode(data: bytes, *columns: ColumnSpec, limit: int = 1 << 20) -> pa.RecordBatch:
    decoder = ReferenceDecoder(columns, max_value_bytes=limit)
    decoder.feed(data)
    decoder.finish()
    return decoder.take()


def value(raw: bytes | None, spec: ColumnSpec) -> object:
    return decode(stream((raw,)), spec).column(0)[0].as_py()


INT = column(TypeKind.INT32)
TEXT = column(TypeKind.STRING)


def test_a_stream_cut_anywhere_decodes_the_same() -> None:
    rows = [(struct.pack(">i", n), None if n % 3 else b"x" * n) for n in range(20)]
    data = stream(*rows)
    whole = decode(data, INT, TEXT)
    for size in (1, 2, 3, 7, 19):
        decoder = ReferenceDecoder((INT, TEXT), max_value_bytes=100)
        taken = []
        for start in range(0, len(data), size):
            decoder.feed(memoryview(data)[start : start + size])
            taken.append(decoder.take(rows_max=2))
        decoder.finish()
        while decoder.rows_ready:
            taken.append(decoder.take(rows_max=3))
        assert pa.Table.from_batches(taken).combine_chunks().to_batches()[0].equals(whole)


def test_take_never_gives_more_than_asked_and_nothing_twice() -> None:
    decoder = ReferenceDecoder((INT,), max_value_bytes=100)
    decoder.feed(stream(*((struct.pack(">i", n),) for n in range(10))))
    assert decoder.take(rows_max=4).column(0).to_pylist() == [0, 1, 2, 3]
    assert decoder.rows_ready == 6
    assert decoder.take().column(0).to_pylist() == [4, 5, 6, 7, 8, 9]
    assert decoder.take().num_rows == 0


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"PGDUMP" + bytes(40), "signature"),
        (SIGNATURE + struct.pack(">Ii", 1 << 16, 0) + TRAILER, "flags"),
        (SIGNATURE + struct.pack(">Ii", 0, -5) + TRAILER, "header extension"),
        (HEADER + struct.pack(">h", 2), "2 fields instead of 1"),
        (HEADER + struct.pack(">hi", 1, -2), "column c: length -2"),
        (HEADER + struct.pack(">hi", 1, 4) + b"ab", "ended in the middle"),
        (HEADER, "ended in the middle"),
        (stream((b"\0\0\0\1",)) + b"x", "follow the trailer"),
        (stream((b"\0\0\1",)), "3 bytes where 4"),
    ],
)
def test_malformed_streams_are_named(data, said) -> None:
    with pytest.raises(MalformedData, match=said):
        decode(data, INT)


def test_lengths_that_compensate_each_other_are_caught() -> None:
    with pytest.raises(MalformedData):
        decode(stream((b"\0\0\1",), (b"\0\0\0\0\1",)), INT)


def test_a_value_over_the_limit_is_refused_by_its_length_alone() -> None:
    head = HEADER + struct.pack(">hi", 1, 2**31 - 1)
    with pytest.raises(ValueTooLarge) as caught:
        decode(head, TEXT, limit=1000)
    assert caught.value.code == "RIVET_VALUE_TOO_LARGE" and "column c" in caught.value.message


def test_null_in_a_not_null_column_is_drift() -> None:
    with pytest.raises(SchemaDrift, match="column c"):
        decode(stream((None,)), column(TypeKind.INT32, nullable=False))


def test_text_must_be_utf8_cell_by_cell() -> None:
    with pytest.raises(MalformedData, match="UTF-8"):
        decode(stream(("é".encode()[:1],), ("é".encode()[1:],)), TEXT)
    assert value(b"", TEXT) == "" and value(None, TEXT) is None


@pytest.mark.parametrize(
    ("spec", "raw"),
    [
        (column(TypeKind.DATE), struct.pack(">i", 2**31 - 1)),
        (column(TypeKind.DATE), struct.pack(">i", -(2**31))),
        (column(TypeKind.TIMESTAMP), struct.pack(">q", 2**63 - 1)),
        (column(TypeKind.TIMESTAMP_UTC), struct.pack(">q", -(2**63))),
        (column(TypeKind.TIMESTAMP), struct.pack(">q", 2**63 - 2)),
        (column(TypeKind.TIME), struct.pack(">q", 86_400_000_000)),
        (column(TypeKind.INTERVAL), struct.pack(">qii", 2**63 - 1, 2**31 - 1, 2**31 - 1)),
        (column(TypeKind.DECIMAL, precision=5, scale=2), struct.pack(">HhHH", 0, 0, 0xC000, 0)),
        (column(TypeKind.DECIMAL, precision=5, scale=2), struct.pack(">HhHH", 0, 0, 0xD000, 0)),
    ],
)
def test_values_without_an_arrow_form_name_the_cast(spec, raw) -> None:
    with pytest.raises(UnsupportedType) as caught:
        value(raw, spec)
    assert "text" in (caught.value.hint or "") and "column c" in caught.value.message


def numeric(digits: list[int], weight: int, sign: int = 0, dscale: int = 0) -> bytes:
    head = struct.pack(">HhHH", len(digits), weight, sign, dscale)
    return head + struct.pack(f">{len(digits)}H", *digits)


def test_numeric_is_exact_or_refused() -> None:
    money = column(TypeKind.DECIMAL, precision=8, scale=2)
    assert value(numeric([12, 3400], 0), money) == Decimal("12.34")
    assert value(numeric([12, 3400], 0, 0x4000), money) == Decimal("-12.34")
    assert value(numeric([], 0), money) == Decimal("0.00")
    for raw in (numeric([12, 3450], 0), numeric([1], 2), numeric([1], 32767), numeric([1], -30000)):
        with pytest.raises(UnsupportedType, match=r"decimal\(8,2\)"):
            value(raw, money)
    for raw in (b"\0" * 7, numeric([10_000], 0), numeric([1], 0)[:-1], numeric([1], 0, 0x1234)):
        with pytest.raises(MalformedData):
            value(raw, money)


def test_oid_json_and_bool() -> None:
    assert value(b"\xff\xff\xff\xff", column(TypeKind.INT64, wire="26")) == 2**32 - 1
    assert value(b'\x01{"a": 1}', column(TypeKind.JSON, wire="3802")) == '{"a": 1}'
    with pytest.raises(MalformedData, match="version"):
        value(b"\x02{}", column(TypeKind.JSON, wire="3802"))
    with pytest.raises(MalformedData):
        value(b"\x02", column(TypeKind.BOOL))


def array(oid: int, elements: list[bytes | None], *, first: int = 1) -> bytes:
    head = struct.pack(">iiIii", 1, 1, oid, len(elements), first)
    return head + b"".join(map(cell, elements))


def test_arrays_keep_nulls_and_emptiness() -> None:
    ints = column(TypeKind.LIST, element=ColumnType(kind=TypeKind.INT16), wire="21")
    two = struct.pack(">h", 2)
    data = stream((array(21, [two, None]),), (struct.pack(">iiI", 0, 0, 21),), (None,))
    assert decode(data, ints).column(0).to_pylist() == [[2, None], [], None]
    decoder = ReferenceDecoder((ints,), max_value_bytes=1000)
    decoder.feed(stream((array(21, [two], first=5),)))
    assert decoder.take().column(0).to_pylist() == [[2]] and decoder.changed == {"c": 1}
    square = struct.pack(">iiIiiii", 2, 0, 21, 1, 1, 1, 1) + cell(two)
    with pytest.raises(UnsupportedType, match="2 dimensions"):
        value(square, ints)
    for raw in (
        array(23, [two]),
        array(21, [two]) + b"x",
        array(21, [two])[:-1],
        struct.pack(">iiIii", 1, 0, 21, 2**30, 1),
        struct.pack(">iiI", 3, 0, 21)[:-1],
        struct.pack(">iiI", -1, 0, 21),
    ):
        with pytest.raises((MalformedData, UnsupportedType)):
            value(raw, ints)


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ((0, 0, 0), "PT0S"),
        ((14, 3, 0), "P1Y2M3D"),
        ((-12, 0, 0), "P-1Y"),
        ((0, 0, -3_661_500_000), "PT-1H-1M-1.5S"),
        ((-1, 2, 1), "P-1M2DT0.000001S"),
        ((0, 0, 360_000_000_000), "PT100H"),
    ],
)
def test_intervals_are_iso_8601(parts, text) -> None:
    assert iso_interval(*parts) == text


def test_the_schema_says_what_the_columns_are() -> None:
    spec = ColumnSpec(
        name="id",
        native_type="uuid",
        type=ColumnType(kind=TypeKind.UUID),
        nullable=False,
        comment="who",
        key=True,
    )
    (field,) = arrow_schema((spec,))
    assert field.type == pa.uuid() and not field.nullable
    assert field.metadata == {
        b"rivet.native_type": b"uuid",
        b"rivet.fidelity": b"exact",
        b"rivet.logical_type": b"uuid",
        b"rivet.comment": b"who",
        b"rivet.key": b"true",
    }
    wide = column(TypeKind.DECIMAL, precision=39, scale=2)
    assert arrow_schema((wide,)).field(0).type == pa.decimal256(39, 2)
    with pytest.raises(UnsupportedType):
        arrow_schema((column(TypeKind.DECIMAL, precision=77, scale=2),))
