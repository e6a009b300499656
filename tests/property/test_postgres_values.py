"""Hostile values: written by the server, read by us, compared; and hostile bytes: refused."""

from __future__ import annotations

import math
import struct
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import MalformedData, SchemaDrift, UnsupportedType, ValueTooLarge
from rivet_fleet.execution.source import Source
from rivet_fleet.execution.sources.postgres import ENGINE as POSTGRES
from rivet_fleet.execution.sources.postgres.reference import ReferenceDecoder
from rivet_fleet.execution.sources.postgres.values import iso_interval
from tests.integration.postgres_source_kit import facts_of, read_all, read_plan
from tests.unit.execution.test_postgres_decoder import array, numeric, stream

DAY_US = 86_400_000_000
DATE_MIN, DATE_MAX = -2_451_545, 2_145_031_948  # 4714-11-24 BC to 5874897-12-31, from 2000-01-01
UNIX_DAYS, UNIX_US = 10_957, 946_684_800_000_000
STAMP_MIN, STAMP_MAX = -211_813_488_000_000_000, 2**63 - 1 - UNIX_US

Case = tuple[Any, Any]
"""What is inserted (parameters of the column's expression), and what must be read."""


def integers(bits: int) -> st.SearchStrategy[Case]:
    edge = 2 ** (bits - 1)
    return st.integers(-edge, edge - 1).map(lambda n: ((n,), n))


def decimals(precision: int, scale: int) -> st.SearchStrategy[Case]:
    edge = 10**precision - 1
    unscaled = st.one_of(st.integers(-edge, edge), st.sampled_from((edge, -edge, 1, -1, 0)))
    return unscaled.map(lambda n: Decimal((n < 0, tuple(map(int, str(abs(n)))), -scale))).map(
        lambda d: ((str(d),), d)
    )


def stamp(us: int) -> tuple[int, str]:
    days, rest = divmod(us, DAY_US)
    return days, f"{rest} microseconds"


def floats(width: int) -> st.SearchStrategy[Case]:
    return st.floats(width=width).map(lambda f: ((f,), f))


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=30)
TEXTS = st.one_of(st.sampled_from(("", " ", "NULL", "\\N", "é😀", "'\"\\", "\r\n\t")), TEXT)
INTERVALS = st.tuples(
    st.integers(-(10**7), 10**7), st.integers(-(10**8), 10**8), st.integers(-(10**17), 10**17)
)

COLUMNS: dict[str, tuple[str, str, st.SearchStrategy[Case]]] = {
    "b": ("boolean", "%s", st.booleans().map(lambda b: ((b,), b))),
    "i2": ("smallint", "%s", integers(16)),
    "i4": ("integer", "%s", integers(32)),
    "i8": ("bigint", "%s", integers(64)),
    "o": ("oid", "%s::bigint::oid", st.integers(0, 2**32 - 1).map(lambda n: ((n,), n))),
    "f4": ("real", "%s", floats(32)),
    "f8": ("double precision", "%s", floats(64)),
    "n38": ("numeric(38,10)", "%s::numeric", decimals(38, 10)),
    "n60": ("numeric(60,20)", "%s::numeric", decimals(60, 20)),
    "n1": ("numeric(1,0)", "%s::numeric", decimals(1, 0)),
    "d": (
        "date",
        "'2000-01-01'::date + %s::int",
        st.integers(DATE_MIN, DATE_MAX).map(lambda n: ((n,), n + UNIX_DAYS)),
    ),
    "t": (
        "time",
        "'00:00'::time + %s::interval",
        st.integers(0, DAY_US - 1).map(lambda us: ((f"{us} microseconds",), us)),
    ),
    "ts": (
        "timestamp",
        "'2000-01-01'::timestamp + make_interval(days => %s) + %s::interval",
        st.integers(STAMP_MIN, STAMP_MAX).map(lambda us: (stamp(us), us + UNIX_US)),
    ),
    "tz": (
        "timestamptz",
        "('2000-01-01'::timestamp + make_interval(days => %s) + %s::interval) AT TIME ZONE 'UTC'",
        st.integers(STAMP_MIN, STAMP_MAX).map(lambda us: (stamp(us), us + UNIX_US)),
    ),
    "s": ("text", "%s", TEXTS.map(lambda s: ((s,), s))),
    "v": ("varchar(40)", "%s", TEXTS.map(lambda s: ((s,), s))),
    "y": ("bytea", "%s", st.binary(max_size=40).map(lambda y: ((y,), y))),
    "u": ("uuid", "%s", st.uuids().map(lambda u: ((u,), u))),
    "j": ("json", "%s::json", st.integers().map(lambda n: ((f'{{"n":  {n}}}',), f'{{"n":  {n}}}'))),
    "iv": (
        "interval",
        "make_interval(months => %s, days => %s) + %s::interval",
        INTERVALS.map(lambda p: ((p[0], p[1], f"{p[2]} microseconds"), iso_interval(*p))),
    ),
    "ai": (
        "integer[]",
        "%s::integer[]",
        st.lists(st.none() | st.integers(-(2**31), 2**31 - 1), max_size=5).map(lambda a: ((a,), a)),
    ),
    "at": (
        "text[]",
        "%s::text[]",
        st.lists(st.none() | TEXTS, max_size=5).map(lambda a: ((a,), a)),
    ),
    "an": (
        "numeric(20,5)[]",
        "%s::numeric(20,5)[]",
        st.lists(st.none() | decimals(20, 5).map(lambda c: c[1]), max_size=4).map(
            lambda a: ((a,), a)
        ),
    ),
    "au": (
        "uuid[]",
        "%s::uuid[]",
        st.lists(st.none() | st.uuids(), max_size=4).map(lambda a: ((a,), a)),
    ),
}
NULL: Case = (None, None)
ROWS = st.lists(
    st.tuples(*(st.just(NULL) | c[2] for c in COLUMNS.values())), min_size=1, max_size=4
)


@pytest.fixture(scope="module")
def server(postgres) -> Iterator[tuple[psycopg.Connection[Any], Source]]:
    url = postgres.create_database("values_of_all_kinds")
    source = POSTGRES.open_source(parse_database_url(url), application_name="rivet-test")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET TimeZone = 'Pacific/Chatham'; SET IntervalStyle = 'iso_8601'")
        body = ", ".join(f"{name} {kind}" for name, (kind, _, _) in COLUMNS.items())
        connection.execute(f"CREATE TABLE t (row_number int PRIMARY KEY, {body})")
        yield connection, source
    source.close()


def plain(column: pa.ChunkedArray) -> list[Any]:
    """Values as Python objects; what Python's calendar cannot hold as Arrow's own integer."""
    if pa.types.is_date32(column.type):
        return column.cast(pa.int32()).to_pylist()
    if pa.types.is_timestamp(column.type) or pa.types.is_time64(column.type):
        return column.cast(pa.int64()).to_pylist()
    return column.to_pylist()


def same(got: Any, expected: Any) -> bool:
    if isinstance(expected, float):
        if math.isnan(expected):
            return math.isnan(got)
        return struct.pack(">d", got) == struct.pack(">d", expected)
    return type(got) is type(expected) and got == expected


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=ROWS)
def test_what_arrives_is_what_was_there(server, rows) -> None:
    connection, source = server
    connection.execute("TRUNCATE t")
    for number, row in enumerate(rows):
        expressions, parameters = ["%s"], [number]
        for (given_, _), (_, expression, _) in zip(row, COLUMNS.values(), strict=True):
            expressions.append("NULL" if given_ is None else expression)
            parameters += given_ or ()
        connection.execute(f"INSERT INTO t VALUES ({', '.join(expressions)})", parameters)
    facts = facts_of(source, "t")
    chunk = ChunkRange(kind=RangeKind.KEYSET, columns=("row_number",))
    got = read_all(source, read_plan(facts), chunk)
    for index, name in enumerate(COLUMNS):
        values = plain(got.column(name))
        for value, row in zip(values, rows, strict=True):
            assert same(value, row[index][1]), (name, value, row[index])
    texts = connection.execute("SELECT iv::text FROM t ORDER BY row_number").fetchall()
    assert got.column("iv").to_pylist() == [text for (text,) in texts]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("date", "infinity"),
        ("date", "-infinity"),
        ("timestamp", "infinity"),
        ("timestamptz", "-infinity"),
        ("timestamp", "294276-12-31 23:59:59.999999"),
        ("time", "24:00:00"),
        ("interval", "infinity"),
        ("numeric(5,2)", "NaN"),
        ("integer[]", "{{1,2},{3,4}}"),
    ],
)
def test_what_arrow_cannot_hold_is_refused_and_readable_as_text(server, kind, value) -> None:
    connection, source = server
    connection.execute(f"DROP TABLE IF EXISTS x; CREATE TABLE x (c {kind})")
    connection.execute(f"INSERT INTO x VALUES ('{value}')")
    whole = ChunkRange(kind=RangeKind.WHOLE)
    with pytest.raises(UnsupportedType, match="column c"):
        read_all(source, read_plan(facts_of(source, "x")), whole)
    casts = (("c", "text"),)
    facts = facts_of(source, "x", casts=casts)
    assert read_all(source, read_plan(facts, casts), whole).column("c").to_pylist() == [value]


# ---------------------------------------------------------------- hostile bytes

FUZZED = tuple(
    ColumnSpec(name=name, native_type=name, type=type_, wire_type=wire)
    for name, type_, wire in (
        ("i", ColumnType(kind=TypeKind.INT32), "23"),
        ("s", ColumnType(kind=TypeKind.STRING), "25"),
        ("n", ColumnType(kind=TypeKind.DECIMAL, precision=20, scale=4), "1700"),
        ("ts", ColumnType(kind=TypeKind.TIMESTAMP), "1114"),
        ("j", ColumnType(kind=TypeKind.JSON), "3802"),
        ("iv", ColumnType(kind=TypeKind.INTERVAL), "1186"),
        ("b", ColumnType(kind=TypeKind.BOOL), "16"),
        ("u", ColumnType(kind=TypeKind.UUID), "2950"),
        ("a", ColumnType(kind=TypeKind.LIST, element=ColumnType(kind=TypeKind.DATE)), "1082"),
    )
)
GOOD = stream(
    (
        struct.pack(">i", 7),
        "é😀".encode(),
        numeric([12, 3400], 0),
        struct.pack(">q", 5),
        b"\x01{}",
        struct.pack(">qii", 1, 2, 3),
        b"\x01",
        uuid.UUID(int=5).bytes,
        array(1082, [struct.pack(">i", 3), None]),
    ),
    (None,) * 9,
    (None, b"", None, None, b"\x01[]", None, b"\x00", None, struct.pack(">iiI", 0, 0, 1082)),
)
ALLOWED = (MalformedData, ValueTooLarge, UnsupportedType, SchemaDrift)


def try_decode(data: bytes, step: int) -> pa.RecordBatch | None:
    """Decode, and check that what comes out is valid Arrow; None when it was refused."""
    decoder = ReferenceDecoder(FUZZED, max_value_bytes=4096)
    try:
        for start in range(0, len(data), step):
            decoder.feed(data[start : start + step])
        decoder.finish()
        batch = decoder.take()
    except ALLOWED:
        return None
    batch.validate(full=True)
    return batch


def test_the_unharmed_stream_decodes() -> None:
    batch = try_decode(GOOD, len(GOOD))
    assert batch is not None and batch.num_rows == 3


@settings(max_examples=300, deadline=None)
@given(end=st.integers(0, len(GOOD) - 1), step=st.integers(1, 64))
def test_every_truncation_is_refused(end, step) -> None:
    assert try_decode(GOOD[:end], step) is None


@settings(max_examples=600, deadline=None)
@given(
    damage=st.lists(
        st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4
    ),
    step=st.integers(1, 200),
)
def test_damaged_bytes_are_refused_or_give_valid_arrow(damage, step) -> None:
    data = bytearray(GOOD)
    for position, byte in damage:
        data[position] = byte
    try_decode(bytes(data), step)


@settings(max_examples=300, deadline=None)
@given(
    position=st.integers(len(b"PGCOPY\n\xff\r\n\0") + 8, len(GOOD) - 4),
    length=st.integers(-(2**31), 2**31 - 1),
)
def test_lying_lengths_are_refused_or_give_valid_arrow(position, length) -> None:
    data = GOOD[:position] + struct.pack(">i", length) + GOOD[position + 4 :]
    try_decode(data, len(data))


@settings(max_examples=300, deadline=None)
@given(noise=st.binary(max_size=300))
def test_noise_behind_the_header_is_refused_or_valid(noise) -> None:
    try_decode(GOOD[:19] + noise, 300)
