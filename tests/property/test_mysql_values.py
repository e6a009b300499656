"""Rows written by the manual and read by us; and damaged bytes: refused, never anything else."""

from __future__ import annotations

import struct
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rivet_fleet.contracts.columns import ColumnSpec
from rivet_fleet.errors import MalformedData, SchemaDrift, UnsupportedType, ValueTooLarge
from rivet_fleet.execution.sources.mysql.reference import ReferenceDecoder
from tests.property.mysql_rows import (
    KINDS,
    Case,
    Kind,
    Unfit,
    column,
    damaged,
    lenenc,
    packets,
    plain,
    random_case,
    row,
    same,
)

ALLOWED = (MalformedData, ValueTooLarge, UnsupportedType, SchemaDrift)
RANDOMS = st.randoms(use_true_random=False)
QUIET = settings(deadline=None, suppress_health_check=list(HealthCheck))


def decode(
    columns: tuple[ColumnSpec, ...],
    data: bytes,
    *,
    step: int | None = None,
    coerce: bool = False,
    max_value_bytes: int = 1 << 20,
) -> tuple[pa.RecordBatch, dict[str, int]]:
    decoder = ReferenceDecoder(columns, max_value_bytes=max_value_bytes, coerce=coerce)
    for start in range(0, len(data), step or max(len(data), 1)):
        decoder.feed(data[start : start + (step or len(data))])
    decoder.finish()
    assert decoder.error is None
    batch = decoder.take()
    assert decoder.rows_ready == 0
    return batch, decoder.changed


def check(case: Case, batch: pa.RecordBatch, expected: list[list[Any]]) -> None:
    batch.validate(full=True)
    assert batch.num_rows == len(case.payloads)
    for index, values in enumerate(expected):
        for got, value in zip(plain(batch.column(index)), values, strict=True):
            assert same(got, value), (case.columns[index], got, value)


@settings(QUIET, max_examples=200)
@given(random=RANDOMS, step=st.integers(1, 400))
def test_every_value_arrives_wherever_the_stream_is_cut(random, step) -> None:
    case = random_case(random, unfit=False)
    batch, changed = decode(case.columns, case.stream, step=step)
    check(case, batch, case.expected(coerce=False) or [])
    assert changed == {}


@settings(QUIET, max_examples=200)
@given(random=RANDOMS)
def test_under_coerce_what_does_not_fit_is_changed_and_counted(random) -> None:
    case = random_case(random)
    batch, changed = decode(case.columns, case.stream, coerce=True)
    check(case, batch, case.expected(coerce=True) or [])
    assert changed == case.changed()


@settings(QUIET, max_examples=200)
@given(random=RANDOMS)
def test_under_fail_what_does_not_fit_is_refused(random) -> None:
    case = random_case(random)
    if case.expected(coerce=False) is not None:
        return
    with pytest.raises((UnsupportedType, MalformedData), match=r"^column c\d+_\w+") as refused:
        decode(case.columns, case.stream)
    assert "row at offset" in refused.value.message
    assert "on_unrepresentable" in (refused.value.hint or "")


@pytest.mark.parametrize("name", KINDS)
def test_thousands_of_values_of_every_kind(name) -> None:
    random, kind = Random(f"every kind: {name}"), KINDS[name]
    case = Case((column("c", kind),))
    for _ in range(3000):
        cell, value = kind.draw(random)
        case.payloads.append(row((cell,)))
        case.values.append((value,))
    batch, changed = decode(case.columns, case.stream, coerce=True)
    check(case, batch, case.expected(coerce=True) or [])
    assert changed == case.changed()


def test_rows_are_given_out_once_and_in_order() -> None:
    kind = KINDS["int"]
    cells = [number.to_bytes(4, "little") for number in range(10)]
    case = Case((column("c", kind),), [row((cell,)) for cell in cells])
    decoder = ReferenceDecoder(case.columns, max_value_bytes=10)
    data, taken = case.stream, []
    for byte in range(len(data)):
        decoder.feed(data[byte : byte + 1])
        if decoder.rows_ready >= 3:
            taken.append(decoder.take(2).column(0).to_pylist())
    taken.append(decoder.take().column(0).to_pylist())
    assert [number for part in taken for number in part] == list(range(10))
    assert decoder.ended


# ---------------------------------------------------------------- refusals


def refused(kind: Kind, cell: bytes | None, **options: Any) -> Exception:
    spec = column("c", kind, nullable=options.pop("nullable", True))
    data = Case((spec,), [row((cell,))]).stream
    with pytest.raises(ALLOWED) as caught:
        decode((spec,), data, **options)
    assert "column c" in str(caught.value) and "offset 0" in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("name", "cell", "shown"),
    [
        ("date", b"\0", "0000-00-00"),
        ("date", b"\4\xe8\x07\2\0", "2024-02-00"),
        ("date", b"\4\xe8\x07\2\x1f", "2024-02-31"),
        ("datetime", b"\0", "0000-00-00 00:00:00"),
        ("timestamp", b"\x0b\0\0\0\0\1\2\3\1\0\0\0", "0000-00-00 01:02:03.000001"),
        ("time", b"\x08\1\x22\0\0\0\x16\x3b\x3b", "-838:59:59"),
        ("time", b"\x08\0\1\0\0\0\0\0\0", "24:00:00"),
        ("bool", b"\x02", "2 is neither 0 nor 1"),
        ("uuid_text", b"\3abc", "b'abc' is no UUID"),
    ],
)
def test_a_value_without_a_place_is_named_with_its_remedy(name, cell, shown) -> None:
    error = refused(KINDS[name], cell)
    assert isinstance(error, UnsupportedType)
    assert error.code == "RIVET_VALUE_NOT_REPRESENTABLE"
    assert shown in (error.unmasked or error.message)
    assert shown.startswith("0000-00-00") == (shown in error.message)
    assert "columns: {c: " in (error.hint or "")


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("date", b"\4\xe8\x07\x0d\1"),  # month 13
        ("date", b"\4\x10\x27\1\1"),  # year 10000
        ("date", b"\7\xe8\x07\1\1\0\0\1"),  # a date with a clock
        ("date", b"\5\xe8\x07\1\1\0"),
        ("datetime", b"\7\xe8\x07\1\1\x18\0\0"),  # hour 24
        ("datetime", b"\x0b\xe8\x07\1\1\0\0\0\x40\x42\x0f\0"),  # a million microseconds
        ("time", b"\x08\2\0\0\0\0\0\0\0"),  # sign 2
        ("time", b"\x08\0\x22\0\0\0\x17\0\0"),  # 839 hours
        ("time", b"\4\0\0\0\0"),
        ("bit9", b"\0"),
        ("bit9", b"\x09" + bytes(9)),
        ("decimal_5_2", lenenc(b"")),
        ("decimal_5_2", lenenc(b".")),
        ("decimal_5_2", lenenc(b"1e3")),
        ("decimal_5_2", lenenc(b" 1")),
        ("decimal_5_2", lenenc(b"1_0")),
        ("decimal_5_2", lenenc("١".encode())),
        ("decimal_5_2", lenenc(b"9" * 5000)),
        ("int", b"\0\0\0"),
        ("int", b"\0\0\0\0\0"),
        ("varchar", b"\xfb"),
        ("varchar", b"\xff"),
        ("varchar", b"\xfc\1"),
        ("varchar", b"\2a"),
        ("varchar", b""),
    ],
)
def test_bytes_against_the_format_are_malformed(name, cell) -> None:
    spec = column("c", KINDS[name])
    with pytest.raises(MalformedData, match="offset 0"):
        decode((spec,), Case((spec,), [row((cell,))]).stream, coerce=True)


@pytest.mark.parametrize(("name", "text"), [("decimal_5_2", b"1000.00"), ("decimal_5_2", b"0.001")])
def test_a_number_beyond_its_decimal_is_refused_whatever_the_policy(name, text) -> None:
    error = refused(KINDS[name], lenenc(text), coerce=True)
    assert isinstance(error, UnsupportedType) and error.code == "RIVET_DECIMAL_OVERFLOW"


@pytest.mark.parametrize(("value", "kind"), [(-32769, "int16"), (32768, "int16"), (-1, "uint64")])
def test_a_number_beyond_its_integer_is_refused_whatever_the_policy(value, kind) -> None:
    target = KINDS["smallint" if kind == "int16" else "bigint_unsigned"].type
    cell = value.to_bytes(8, "little", signed=True)
    error = refused(Kind("8", target, KINDS["int"].draw), cell, coerce=True)
    assert f"*** does not fit {kind}" in error.message
    assert f"{value} does not fit {kind}" in (error.unmasked or "")


def test_a_double_beyond_float32_is_refused_not_infinite() -> None:
    wide = Kind("5", KINDS["float"].type, KINDS["float"].draw)
    assert "beyond float32" in str(refused(wide, struct.pack("<d", 1e300), coerce=True))


def test_null_in_a_not_null_column_is_drift() -> None:
    assert isinstance(refused(KINDS["int"], None, nullable=False), SchemaDrift)


def test_a_value_that_would_become_null_in_a_not_null_column_is_refused() -> None:
    spec = column("c", KINDS["date"], nullable=False)
    with pytest.raises(UnsupportedType, match="NOT NULL"):
        decode((spec,), Case((spec,), [row((b"\0",))]).stream, coerce=True)


@pytest.mark.parametrize("length", [101, 1 << 16, 1 << 24, 1 << 63, (1 << 64) - 1])
def test_a_value_that_is_too_large_is_refused_as_soon_as_its_length_shows(length) -> None:
    """With nothing behind the length: neither allocated nor waited for."""
    spec = column("c", KINDS["blob"])
    announced = b"\xfe" + length.to_bytes(8, "little")
    payload_bytes = min(2 + len(announced) + length, 0xFFFFFF)
    head = payload_bytes.to_bytes(3, "little") + b"\4" + row((announced,))
    decoder = ReferenceDecoder((spec,), max_value_bytes=100)
    with pytest.raises(ValueTooLarge, match=f"column c: one value has {length} bytes") as caught:
        for byte in head:
            decoder.feed(bytes((byte,)))
    assert caught.value.code == "RIVET_VALUE_TOO_LARGE"


@pytest.mark.parametrize("extra", [-1, 0, 1, 2])
def test_a_row_that_needs_several_packets_arrives_whole(extra) -> None:
    """Around 16 MiB - 1, where a full packet announces another one, empty if need be."""
    columns = (column("a", KINDS["blob"]), column("b", KINDS["int"]), column("s", KINDS["text"]))
    blob = bytes(range(256)) * ((0xFFFFFF // 256) + 1)
    blob = blob[: 0xFFFFFF - 2 - 5 - 4 - 3 + extra]
    cells = (lenenc(blob), (7).to_bytes(4, "little"), lenenc("é".encode()))
    case = Case(columns, [row(cells)] * 2)
    batch, _ = decode(columns, case.stream, step=700_000, max_value_bytes=1 << 25)
    assert batch.column(0).to_pylist() == [blob, blob]
    assert batch.column(1).to_pylist() == [7, 7] and batch.column(2).to_pylist() == ["é", "é"]


@pytest.mark.parametrize(("length", "behind"), [(4, b""), (5, b"ab"), (255, b"")])
def test_a_value_that_ends_behind_its_row_names_its_column(length, behind) -> None:
    """Also when the next row's bytes are there to be taken for it."""
    columns = (column("a", KINDS["varchar"]), column("b", KINDS["varchar"]))
    lying = row((lenenc(b"ok"), lenenc(b"x" * length)[:-3] + behind))
    with pytest.raises(MalformedData, match="column b: a value that ends behind its row"):
        decode(columns, Case(columns, [lying, row((lenenc(b"ok"), lenenc(b"ok")))]).stream)


def test_a_long_packet_that_is_no_row_is_malformed() -> None:
    spec = column("c", KINDS["blob"])
    payload = row((lenenc(bytes(0xFFFFFF)),))
    for head in (b"\1", b"\xfe", b"\xff"):
        with pytest.raises(MalformedData, match="long packet that is no row at offset 0"):
            decode((spec,), packets((head + payload[1:],), 4), max_value_bytes=1 << 25)


def test_a_continued_row_keeps_its_count() -> None:
    """Its pieces may begin like an error, but only an error may count anew."""
    spec = column("c", KINDS["blob"])
    payload = row((lenenc(b"\xff" * 0x1000010),))
    data = packets((payload[:0xFFFFFF] + payload[0xFFFFFF:],), 4)
    second = 4 + 0xFFFFFF
    assert data[second + 3] == 5 and data[second + 4] == 0xFF
    decode((spec,), data + packets((b"\xfe\0\0\2\0",), 6), max_value_bytes=1 << 25)
    data = data[: second + 3] + b"\0" + data[second + 4 :]
    with pytest.raises(MalformedData, match="packet number 0 where 5 was expected"):
        decode((spec,), data, max_value_bytes=1 << 25)


def test_a_value_of_many_packets_is_refused_within_the_first() -> None:
    spec = column("c", KINDS["blob"])
    payload = row((b"\xfe" + (1 << 32).to_bytes(8, "little") + bytes(0xFFFFFF),))
    with pytest.raises(ValueTooLarge):
        decode((spec,), packets((payload[:0xFFFFFF],), 4), max_value_bytes=1 << 20)


# ---------------------------------------------------------------- damage


def try_decode(columns: tuple[ColumnSpec, ...], data: bytes, step: int, *, coerce: bool) -> bool:
    """Decode, and check that what comes out is valid Arrow; False when it was refused."""
    try:
        decoder = ReferenceDecoder(columns, max_value_bytes=4096, coerce=coerce)
        for start in range(0, len(data), step):
            decoder.feed(data[start : start + step])
        decoder.finish()
        batch = decoder.take()
    except ALLOWED:
        return False
    batch.validate(full=True)
    return decoder.error is None


@settings(QUIET, max_examples=200)
@given(random=RANDOMS, step=st.integers(1, 64))
def test_every_truncation_is_refused(random, step) -> None:
    case = random_case(random, unfit=False, columns_max=4, rows_max=4)
    data = case.stream
    assert not try_decode(case.columns, data[: random.randrange(len(data))], step, coerce=False)


@pytest.mark.parametrize("seed", range(8))
def test_damaged_streams_are_refused_or_give_valid_arrow(seed) -> None:
    random = Random(seed)
    for _ in range(600):
        case = random_case(random, columns_max=6, rows_max=5)
        data = damaged(random, case.stream)
        try_decode(case.columns, data, random.choice((1, 7, 100, 1 << 20)), coerce=seed % 2 == 0)


@settings(QUIET, max_examples=300)
@given(random=RANDOMS, noise=st.binary(max_size=300), step=st.integers(1, 300))
def test_noise_is_refused_or_gives_valid_arrow(random, noise, step) -> None:
    case = random_case(random, columns_max=3, rows_max=1)
    try_decode(case.columns, case.stream[: -9 or None] + noise, step, coerce=True)


def test_the_generator_draws_what_needs_a_policy() -> None:
    random = Random(1)
    drawn = [random_case(random) for _ in range(200)]
    assert any(case.changed() for case in drawn) and not all(case.changed() for case in drawn)
    assert Unfit(True) == Unfit(True)
