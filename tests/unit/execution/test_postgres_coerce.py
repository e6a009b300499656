"""The value policy of the reference decoder: what does not fit is an error, or NULL and counted."""

from __future__ import annotations

import struct

import pyarrow as pa
import pytest

from rivet_fleet.contracts.columns import ColumnSpec, TypeKind
from rivet_fleet.errors import MalformedData, SchemaDrift, UnsupportedType
from rivet_fleet.execution.sources.postgres.reference import ReferenceDecoder
from tests.unit.execution.test_postgres_decoder import array, column, numeric, stream

DECIMAL = column(TypeKind.DECIMAL, precision=5, scale=2, wire="1700")
LATE_US = 2**63 - 1 - 946_684_800_000_000 + 1
UNFIT: dict[str, tuple[TypeKind, bytes, bytes]] = {
    "date, later": (TypeKind.DATE, struct.pack(">i", 2**31 - 1), struct.pack(">i", 0)),
    "date, earlier": (TypeKind.DATE, struct.pack(">i", -(2**31)), struct.pack(">i", 0)),
    "midnight at the end": (TypeKind.TIME, struct.pack(">q", 86_400_000_000), bytes(8)),
    "timestamp, later": (TypeKind.TIMESTAMP, struct.pack(">q", 2**63 - 1), bytes(8)),
    "timestamp, earlier": (TypeKind.TIMESTAMP_UTC, struct.pack(">q", -(2**63)), bytes(8)),
    "after 294247": (TypeKind.TIMESTAMP, struct.pack(">q", LATE_US), bytes(8)),
    "interval": (
        TypeKind.INTERVAL,
        struct.pack(">qii", 2**63 - 1, 2**31 - 1, 2**31 - 1),
        struct.pack(">qii", 1, 2, 3),
    ),
    "NaN": (TypeKind.DECIMAL, struct.pack(">HhHH", 0, 0, 0xC000, 0), numeric([1], 0)),
    "infinity": (TypeKind.DECIMAL, struct.pack(">HhHH", 0, 0, 0xD000, 0), numeric([1], 0)),
}
MATRIX = struct.pack(">iiI", 2, 0, 23) + struct.pack(">iiii", 1, 1, 1, 1) + struct.pack(">ii", 4, 7)


def spec(kind: TypeKind) -> ColumnSpec:
    return DECIMAL if kind is TypeKind.DECIMAL else column(kind, wire="1")


def list_of(element: ColumnSpec) -> ColumnSpec:
    return column(TypeKind.LIST, element=element.type, wire=element.wire_type)


def read(data: bytes, *columns: ColumnSpec, coerce: bool = True):
    decoder = ReferenceDecoder(columns, max_value_bytes=1 << 20, coerce=coerce)
    decoder.feed(data)
    decoder.finish()
    batch = decoder.take()
    batch.validate(full=True)
    return batch.column(0), decoder.changed


@pytest.mark.parametrize(("kind", "bad", "good"), UNFIT.values(), ids=UNFIT)
def test_a_value_that_does_not_fit_becomes_null_and_is_counted(kind, bad, good) -> None:
    got, changed = read(stream((good,), (bad,), (None,), (bad,), (good,)), spec(kind))
    assert got.is_valid().to_pylist() == [True, False, False, False, True]
    assert changed == {"c": 2}
    fine, unchanged = read(stream((good,), (None,)), spec(kind))
    assert fine[0].equals(got[0]) and got[4].equals(got[0]) and unchanged == {}


@pytest.mark.parametrize(("kind", "bad", "good"), UNFIT.values(), ids=UNFIT)
def test_without_the_policy_it_is_refused_with_both_remedies(kind, bad, good) -> None:
    with pytest.raises(UnsupportedType, match="column c") as caught:
        read(stream((good,), (bad,)), spec(kind), coerce=False)
    assert caught.value.code == "RIVET_VALUE_NOT_REPRESENTABLE"
    assert "columns: {c: text}" in (caught.value.hint or "")
    assert "on_unrepresentable: coerce" in (caught.value.hint or "")


@pytest.mark.parametrize(("kind", "bad", "good"), UNFIT.values(), ids=UNFIT)
def test_an_element_becomes_null_inside_its_list(kind, bad, good) -> None:
    element = spec(kind)
    cell = array(int(element.wire_type), [good, bad, None])
    got, changed = read(stream((cell,), (None,)), list_of(element))
    assert got.is_valid().to_pylist() == [True, False]
    assert got.values.is_valid().to_pylist() == [True, False, False]
    assert changed == {"c": 1}
    with pytest.raises(UnsupportedType, match="column c"):
        read(stream((cell,)), list_of(element), coerce=False)


def test_an_array_of_several_dimensions_becomes_null() -> None:
    ints = list_of(column(TypeKind.INT32, wire="23"))
    line = array(23, [struct.pack(">i", 5)])
    got, changed = read(stream((MATRIX,), (line,)), ints)
    assert got.to_pylist() == [None, [5]]
    assert changed == {"c": 1}
    with pytest.raises(UnsupportedType, match="2 dimensions"):
        read(stream((MATRIX,)), ints, coerce=False)
    damaged = struct.pack(">i", 7) + MATRIX[4:]
    with pytest.raises(MalformedData):
        read(stream((damaged,)), ints)


@pytest.mark.parametrize("kind", [TypeKind.STRING, TypeKind.ENUM, TypeKind.JSON])
def test_bytes_that_are_no_text_are_replaced_one_by_one(kind) -> None:
    good = "é\N{REPLACEMENT CHARACTER}".encode()
    cells = [b"a\xff\xfeb", good, None, b"\xe2\x82", b"\xed\xa0\x80"]
    got, changed = read(stream(*((cell,) for cell in cells)), column(kind, wire="25"))
    texts = got.storage if isinstance(got, pa.ExtensionArray) else got
    fffd = "\N{REPLACEMENT CHARACTER}"
    assert texts.to_pylist() == [f"a{fffd * 2}b", good.decode(), None, fffd, fffd * 3]
    assert changed == {"c": 3}
    with pytest.raises(MalformedData, match="not valid UTF-8"):
        read(stream((b"\xff",)), column(kind, wire="25"), coerce=False)


def test_digits_are_never_dropped_by_policy() -> None:
    with pytest.raises(UnsupportedType) as caught:
        read(stream((numeric([1, 2345], 0),)), DECIMAL)
    assert caught.value.code == "RIVET_DECIMAL_OVERFLOW"


def test_damage_is_never_dropped_by_policy() -> None:
    for kind, raw in (
        (TypeKind.DATE, struct.pack(">i", 2**31 - 2)),
        (TypeKind.TIME, struct.pack(">q", 86_400_000_001)),
        (TypeKind.TIMESTAMP, struct.pack(">q", -(2**63) + 1)),
        (TypeKind.DECIMAL, struct.pack(">HhHH", 0, 0, 0x1234, 0)),
        (TypeKind.INTERVAL, bytes(15)),
    ):
        with pytest.raises(MalformedData):
            read(stream((raw,)), spec(kind))


def test_a_null_of_the_source_in_a_not_null_column_is_still_drift() -> None:
    with pytest.raises(SchemaDrift):
        read(stream((None,)), column(TypeKind.INT32, nullable=False))
