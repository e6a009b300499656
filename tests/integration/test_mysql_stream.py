"""Statements read from a real server: every type's edges, errors in mid-stream, nothing left."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from random import Random
from typing import Any

import pyarrow as pa
import pymysql
import pytest

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import (
    SchemaDrift,
    SourceBusy,
    SourceError,
    SourceRefused,
    SourceUnavailable,
    StatementTimeout,
    UnsupportedType,
    ValueTooLarge,
)
from rivet_fleet.execution.sources.mysql import wire
from rivet_fleet.execution.sources.mysql.dialect import Unsupported, column_type
from rivet_fleet.execution.sources.mysql.reference import ReferenceDecoder
from rivet_fleet.execution.sources.mysql.session import Session
from rivet_fleet.execution.sources.mysql.stream import StatementStream
from rivet_fleet.execution.sources.mysql.values import days_since_1970
from tests.integration.relay import Relay, relay
from tests.property.mysql_rows import plain, same

SETTINGS = (("time_zone", "'+00:00'"), ("sql_mode", "''"))
TUNING = TuningPlan()
_EXECUTE = b"\n\0\0\0\x17"
"""How a COM_STMT_EXECUTE without parameters begins."""
UTC = datetime.UTC


class Kit:
    """A session to read by, and a connection of one's own to write and look by."""

    def __init__(self, url: str) -> None:
        self.url = parse_database_url(url)
        self.session = Session(
            self.url, tls_mode=None, tls_ca_file=None, application_name="rivet-test"
        )
        self.own = pymysql.connect(
            host=self.url.host or "",
            port=self.url.port or 3306,
            user=self.url.user or "",
            password=self.url.password or "",
            database=self.url.database,
            charset="utf8mb4",
            autocommit=True,
        )

    def sql(self, text: str, *parameters: Any) -> tuple[tuple[Any, ...], ...]:
        with self.own.cursor() as cursor:
            cursor.execute(text, parameters or None)
            return tuple(cursor.fetchall())

    def stream(
        self,
        text: str,
        columns: tuple[ColumnSpec, ...],
        *,
        coerce: bool = False,
        tuning: TuningPlan = TUNING,
        settings: tuple[tuple[str, str], ...] = SETTINGS,
    ) -> StatementStream:
        decoder = ReferenceDecoder(columns, max_value_bytes=tuning.max_value_bytes, coerce=coerce)
        return StatementStream(self.session, text, columns, settings, tuning, decoder)

    def read(self, text: str, *columns: ColumnSpec, **options: Any) -> pa.RecordBatch:
        stream = self.stream(text, columns, **options)
        stream.receive(rows_max=None, bytes_max=None)
        assert stream.ended
        batch = stream.take()
        batch.validate(full=True)
        return batch

    def prepared_statements(self) -> int:
        ((_, count),) = self.sql("SHOW GLOBAL STATUS LIKE 'Prepared_stmt_count'")
        return int(count)

    def expect_prepared_statements(self, expected: int) -> None:
        """The server does not answer a close: it may come to it a moment later."""
        deadline_s = time.monotonic() + 10.0
        while self.prepared_statements() != expected and time.monotonic() < deadline_s:
            pass
        assert self.prepared_statements() == expected

    def close(self) -> None:
        self.session.close()
        self.own.close()


@pytest.fixture
def kit(mysql_url_any: str) -> Iterator[Kit]:
    opened = Kit(mysql_url_any)
    yield opened
    opened.close()


def spec(name: str, kind: TypeKind, wire_type: str, *, native: str = "x") -> ColumnSpec:
    return ColumnSpec(
        name=name, native_type=native, type=ColumnType(kind=kind), wire_type=wire_type
    )


NUMBER = spec("n", TypeKind.INT64, "8")
TEXT = spec("s", TypeKind.STRING, "252")


@pytest.fixture
def numbers(kit: Kit) -> Kit:
    """A table of 20,000 numbers and texts."""
    kit.sql("CREATE TABLE t (n BIGINT PRIMARY KEY, s TEXT NOT NULL)")
    kit.sql(
        "INSERT INTO t SELECT a.n + 10 * b.n + 100 * c.n + 1000 * d.n + 10000 * e.n, 'Grüße' FROM "
        + " JOIN ".join(
            f"(SELECT 0 n{''.join(f' UNION SELECT {k}' for k in range(1, top))}) {name}"
            for name, top in (("a", 10), ("b", 10), ("c", 10), ("d", 10), ("e", 2))
        )
    )
    return kit


# ---------------------------------------------------------------- types

Edge = tuple[str, list[tuple[Any, Any]]]
"""A column's type; what is inserted, and what must be read."""


def whole(native: str, *values: int) -> Edge:
    return native, [(value, value) for value in values]


def signed(native: str, bits: int) -> Edge:
    edge = 1 << bits - 1
    return whole(native, -edge, edge - 1, 0, -1)


def bits(width: int) -> Edge:
    top = (1 << width) - 1
    shown: Callable[[int], Any] = bool if width == 1 else int
    return f"bit({width})", [(value, shown(value)) for value in sorted({0, 1, top, top - top // 3})]


def exact(native: str, *values: str) -> Edge:
    return native, [(value, Decimal(value)) for value in values]


def us(text: str) -> int:
    stamp = datetime.datetime.fromisoformat(text).replace(tzinfo=UTC)
    return (stamp - datetime.datetime(1970, 1, 1, tzinfo=UTC)) // datetime.timedelta(microseconds=1)


def moments(native: str, *values: str) -> Edge:
    return native, [(value, us(value)) for value in values]


def texts(native: str, *values: str) -> Edge:
    return native, [(value, value) for value in values]


ODD = ("", " ", "NULL", "\\N", "é😀\U0010ffff", "'\"\\`%", "\r\n\t", "a\0b", "\ufffd\ufeff")
UUID_1 = uuid.UUID("6ccd780c-baba-1026-9564-5b8c656024db")

EDGES: dict[str, Edge] = {
    "tinyint": signed("tinyint", 8),
    "tinyint_u": whole("tinyint unsigned", 0, 255),
    "tinyint_1": ("tinyint(1)", [(0, False), (1, True)]),
    "smallint": signed("smallint", 16),
    "smallint_u": whole("smallint unsigned", 0, 65535),
    "mediumint": signed("mediumint", 24),
    "mediumint_u": whole("mediumint unsigned", 0, (1 << 24) - 1),
    "int": signed("int", 32),
    "int_u": whole("int unsigned", 0, (1 << 32) - 1),
    "int_zerofill": whole("int(9) unsigned zerofill", 0, 7),
    "bigint": signed("bigint", 64),
    "bigint_u": whole("bigint unsigned", 0, (1 << 63) - 1, 1 << 63, (1 << 64) - 1),
    **{f"bit_{width}": bits(width) for width in (1, 2, 7, 8, 9, 31, 33, 63, 64)},
    "year": whole("year", 0, 1901, 2155),
    "float": (
        "float",
        [(value, struct.unpack("<f", struct.pack("<f", value))[0]) for value in (0.1, -3.4028e38)],
    ),
    "double": ("double", [(v, v) for v in (0.1, -1.7976931348623157e308, 2.2250738585072014e-308)]),
    "decimal": exact("decimal(65,30)", "9" * 35 + "." + "9" * 30, "-" + "9" * 35 + ".5", "0"),
    "decimal_0": exact("decimal(65,0)", "9" * 65, "-" + "9" * 65),
    "decimal_small": exact("decimal(3,3)", "0.001", "-0.999"),
    "decimal_zerofill": exact("decimal(9,2) unsigned zerofill", "1.50", "0"),
    "date": (
        "date",
        [
            (text, days_since_1970(*map(int, text.split("-"))))
            for text in ("1000-01-01", "9999-12-31", "1970-01-01", "2024-02-29", "0001-01-01")
        ],
    ),
    "datetime": moments("datetime", "1000-01-01 00:00:00", "9999-12-31 23:59:59"),
    "datetime_6": moments(
        "datetime(6)", "9999-12-31 23:59:59.999999", "1969-12-31 23:59:59.000001"
    ),
    "datetime_3": moments("datetime(3)", "2024-02-29 12:00:00.120000"),
    "timestamp_6": (
        "timestamp(6) null",
        [(t, us(t)) for t in ("1970-01-01 00:00:01", "2038-01-19 03:14:07.999999")],
    ),
    "time_6": (
        "time(6)",
        [("00:00:00", 0), ("23:59:59.999999", 86_399_999_999), ("00:00:00.000001", 1)],
    ),
    "char": texts("char(9)", "", "é", "a b"),
    "varchar": texts("varchar(40)", *ODD),
    "varchar_latin1": texts("varchar(40) character set latin1", "é", "ÿ", "", "a\0b"),
    "varchar_utf16": texts("varchar(40) character set utf16", "é😀", ""),
    "tinytext": texts("tinytext", *ODD, "x" * 252),
    "mediumtext": texts("mediumtext", "x" * 70_000, "é" * 33_000),
    "longtext": texts("longtext", "x" * 251, "x" * 250),
    "enum": texts("enum('ÄÖÜ','日本','a,b','')", "ÄÖÜ", "日本", "a,b", ""),
    "set": texts("set('ß','x','😀')", "", "ß,😀", "ß,x,😀", "x"),
    "binary": ("binary(4)", [(b"\0\1\xff", b"\0\1\xff\0"), (b"", b"\0" * 4)]),
    "varbinary": ("varbinary(300)", [(v, v) for v in (b"", b"\0", bytes(range(256)))]),
    "blob": ("blob", [(v, v) for v in (b"", b"\xff\xfe", b"\0" * 65_535)]),
    "json": texts("json", '{"a": [1, 2.5, null, "é😀"]}', "[]", '"NULL"', "null"),
}


def described(kit: Kit, query: str, natives: dict[str, str]) -> tuple[ColumnSpec, ...]:
    """Specs by what the server says of its columns, as an introspection would find them."""
    with kit.session.reading(SETTINGS, doing="describing", timeout_s=30) as connection:
        link = wire.Channel(connection)
        prepared = wire.prepare(link, f"{query} LIMIT 0")
        definitions = wire.execute(link, prepared)
        wire.check_end(link.packet())
        wire.close(link, prepared)
    specs = []
    for definition in definitions:
        native = natives[definition.name]
        found = column_type(native, json=native == "json")
        assert not isinstance(found, Unsupported), definition
        specs.append(
            ColumnSpec(
                name=definition.name,
                native_type=native,
                type=found,
                wire_type=definition.wire_type,
            )
        )
    return tuple(specs)


def test_every_type_arrives_as_it_is_written(kit) -> None:
    """Extremes, empty strings against NULL, non-ASCII labels, NUL bytes, microseconds."""
    natives = {f"c_{name}": native for name, (native, _) in EDGES.items()}
    body = ", ".join(f"`{name}` {native}" for name, native in natives.items())
    kit.sql(f"CREATE TABLE every (id INT PRIMARY KEY, {body})")
    kit.sql("SET time_zone = '+00:00'")
    rows = max(len(values) for _, values in EDGES.values()) + 1
    for number in range(rows):
        given = [v[number][0] if number < len(v) else None for _, v in EDGES.values()]
        marks = ", ".join(["%s"] * (len(given) + 1))
        kit.sql(f"INSERT INTO every VALUES ({marks})", number, *given)
    query = f"SELECT {', '.join(f'`{name}`' for name in natives)} FROM every ORDER BY id"
    batch = kit.read(query, *described(kit, query, natives))
    assert batch.num_rows == rows
    for index, (name, (_, values)) in enumerate(EDGES.items()):
        expected = [value for _, value in values] + [None] * (rows - len(values))
        got = plain(batch.column(index))
        if name == "json":
            got, expected = [
                [value and json.loads(value) for value in side] for side in (got, expected)
            ]
        for one, other in zip(got, expected, strict=True):
            assert same(one, other), (name, one, other)


RANDOM: dict[str, tuple[str, Callable[[Random], tuple[Any, Any]]]] = {}
"""Name → type, and how to draw what is inserted and what must be read."""


def drawn(name: str, native: str) -> Callable[[Callable[[Random], Any]], None]:
    def register(draw: Callable[[Random], Any]) -> None:
        def pair(random: Random) -> tuple[Any, Any]:
            value = draw(random)
            return value if isinstance(value, tuple) else (value, value)

        RANDOM[name] = native, pair

    return register


drawn("u", "bigint unsigned")(lambda random: random.getrandbits(64))
drawn("b", "bit(41)")(lambda random: random.getrandbits(41))
drawn("d", "decimal(40,7)")(lambda random: scaled(random.randrange(10**40), -7))
drawn("e", "decimal(65,30)")(lambda random: scaled(-random.randrange(10**65), -30))
drawn("y", "varbinary(50)")(lambda random: random.randbytes(random.randrange(20)))


def scaled(unscaled: int, exponent: int) -> Decimal:
    """Exact: ``Decimal.scaleb`` would round to 28 digits."""
    return Decimal((unscaled < 0, tuple(map(int, str(abs(unscaled)))), exponent))


POINTS = (97, 0, 233, 0x4E2D, 0x1F600, 39, 92)
drawn("s", "varchar(50)")(
    lambda random: "".join(chr(random.choice(POINTS)) for _ in range(random.randrange(12)))
)


@drawn("g", "double")
def _(random: Random) -> Any:
    return struct.unpack("<d", struct.pack("<Q", random.getrandbits(62)))[0]


@drawn("i", "datetime(6)")
def _(random: Random) -> Any:
    stamp_us = random.randrange(-62_135_596_800_000_000, 253_402_300_800_000_000)
    when = datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=stamp_us)
    return when.isoformat(sep=" "), stamp_us


@drawn("k", "time(6)")
def _(random: Random) -> Any:
    clock_us = random.randrange(86_400_000_000)
    return str(datetime.timedelta(microseconds=clock_us)), clock_us


def test_random_values_come_back_as_they_went(kit) -> None:
    random = Random("there and back")
    natives = {name: native for name, (native, _) in RANDOM.items()}
    body = ", ".join(f"{name} {native}" for name, native in natives.items())
    kit.sql(f"CREATE TABLE r (id INT PRIMARY KEY, {body})")
    rows = [
        [(None, None) if not random.randrange(9) else draw(random) for _, draw in RANDOM.values()]
        for _ in range(2000)
    ]
    with kit.own.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO r VALUES ({', '.join(['%s'] * (len(RANDOM) + 1))})",
            [(number, *(given for given, _ in row)) for number, row in enumerate(rows)],
        )
    query = f"SELECT {', '.join(natives)} FROM r ORDER BY id"
    batch = kit.read(query, *described(kit, query, natives))
    for index, name in enumerate(natives):
        for got, row in zip(plain(batch.column(index)), rows, strict=True):
            assert same(got, row[index][1]), (name, got, row[index])


@pytest.mark.parametrize(
    ("native", "value", "kind", "wire_type", "shown"),
    [
        ("date", "0000-00-00", TypeKind.DATE, "10", "0000-00-00"),
        ("date", "2024-02-00", TypeKind.DATE, "10", "2024-02-00"),
        ("date", "2024-00-05", TypeKind.DATE, "10", "2024-00-05"),
        ("date", "2024-02-31", TypeKind.DATE, "10", "2024-02-31"),
        ("datetime", "0000-00-00", TypeKind.TIMESTAMP, "12", "0000-00-00 00:00:00"),
        ("datetime(6)", "2024-05-00 01:02:03.5", TypeKind.TIMESTAMP, "12", "2024-05-00 01:02:03.5"),
        ("timestamp", "0000-00-00", TypeKind.TIMESTAMP_UTC, "7", "0000-00-00 00:00:00"),
        ("time", "838:59:59", TypeKind.TIME, "11", "838:59:59"),
        ("time", "-838:59:59", TypeKind.TIME, "11", "-838:59:59"),
        ("time(6)", "-00:00:00.000001", TypeKind.TIME, "11", "-00:00:00.000001"),
        ("time", "24:00:00", TypeKind.TIME, "11", "24:00:00"),
        ("char(36)", "no uuid", TypeKind.UUID, "254", "no uuid"),
        ("tinyint(1)", "2", TypeKind.BOOL, "1", "2 is neither"),
    ],
)
def test_a_value_without_a_place_is_refused_or_counted(
    kit, native, value, kind, wire_type, shown
) -> None:
    kit.sql("SET sql_mode = 'ALLOW_INVALID_DATES'")
    kit.sql(f"CREATE TABLE x (c {native})")
    kit.sql("INSERT INTO x VALUES (%s), (NULL), (NULL)", value)
    column = spec("c", kind, wire_type, native=native)
    stream = kit.stream("SELECT c FROM x", (column,))
    stream.receive(rows_max=None, bytes_max=None)
    with pytest.raises(UnsupportedType, match="column c") as refused:
        stream.take()
    assert shown in (refused.value.unmasked or refused.value.message)
    assert refused.value.code == "RIVET_VALUE_NOT_REPRESENTABLE"
    stream = kit.stream("SELECT c FROM x", (column,), coerce=True)
    stream.receive(rows_max=None, bytes_max=None)
    dropped = True if kind is TypeKind.BOOL else None
    assert stream.take().column(0).to_pylist() == [dropped, None, None]
    assert stream.changed == {"c": 1}
    assert (
        kit.read("SELECT CAST(c AS CHAR) AS c FROM x", spec("c", TypeKind.STRING, "253"))
        .column(0)[0]
        .as_py()
        .startswith(shown.split(" is ")[0])
    )


def test_uuids_by_override_and_by_type(kit) -> None:
    kit.sql("CREATE TABLE u (b BINARY(16), c CHAR(36))")
    kit.sql("INSERT INTO u VALUES (%s, %s)", UUID_1.bytes, str(UUID_1).upper())
    batch = kit.read(
        "SELECT b, c FROM u",
        spec("b", TypeKind.UUID, "254:binary"),
        spec("c", TypeKind.UUID, "254"),
    )
    assert [column[0].as_py() for column in batch.columns] == [UUID_1, UUID_1]


def test_a_number_read_as_a_wider_or_narrower_one(kit) -> None:
    kit.sql("CREATE TABLE w (a SMALLINT, b BIGINT)")
    kit.sql("INSERT INTO w VALUES (-5, 40000)")
    wide = spec("a", TypeKind.INT64, "2"), spec("b", TypeKind.INT32, "8")
    assert [c[0].as_py() for c in kit.read("SELECT a, b FROM w", *wide).columns] == [-5, 40000]
    with pytest.raises(UnsupportedType, match=r"\*\*\* does not fit int16"):
        kit.read("SELECT b FROM w", spec("b", TypeKind.INT16, "8"))


def test_values_of_many_packets_arrive_whole(kit) -> None:
    """16 MiB - 1 is a packet's most: around it, and far beyond."""
    ((allowed,),) = kit.sql("SELECT @@max_allowed_packet")
    if allowed < 64 << 20:
        pytest.skip("the server's max_allowed_packet is too small")
    kit.sql("CREATE TABLE big (n BIGINT PRIMARY KEY, y LONGBLOB)")
    sizes = [(1 << 24) - 16, (1 << 24) - 12, (1 << 24) - 11, (1 << 24), 40 << 20, 0]
    for number, size in enumerate(sizes):
        kit.sql("INSERT INTO big VALUES (%s, REPEAT(CHAR(%s USING latin1), %s))", number, 65, size)
    columns = (NUMBER, spec("y", TypeKind.BINARY, "252:binary"))
    batch = kit.read("SELECT n, y FROM big ORDER BY n", *columns)
    digests = [hashlib.md5(value.as_buffer()).hexdigest() for value in batch.column(1)]
    assert batch.column(0).to_pylist() == list(range(len(sizes)))
    assert digests == [hashlib.md5(b"A" * size).hexdigest() for size in sizes]


def test_a_value_that_is_too_large_is_refused_before_it_has_arrived(kit) -> None:
    kit.sql("CREATE TABLE big (y LONGBLOB)")
    kit.sql("INSERT INTO big VALUES (REPEAT('x', 50000000))")
    tuning = TuningPlan(max_value_bytes=1 << 20)
    stream = kit.stream(
        "SELECT y FROM big", (spec("y", TypeKind.BINARY, "252:binary"),), tuning=tuning
    )
    with pytest.raises(ValueTooLarge, match="column y: one value has 50000000 bytes"):
        stream.receive(rows_max=None, bytes_max=None)
    assert stream.wire_bytes < 2 << 20
    kit.sql("CREATE TABLE small (n INT)")
    assert kit.read("SELECT n FROM small", spec("n", TypeKind.INT32, "3")).num_rows == 0


# ---------------------------------------------------------------- statements


def test_a_stream_stops_at_its_limits_and_goes_on(numbers) -> None:
    stream = numbers.stream("SELECT n, s FROM t ORDER BY n", (NUMBER, TEXT))
    stream.receive(rows_max=100, bytes_max=None)
    assert not stream.ended and stream.rows_ready >= 100
    got = stream.take(100).column(0).to_pylist()
    before_bytes = stream.wire_bytes
    stream.receive(rows_max=None, bytes_max=1)
    assert not stream.ended and stream.wire_bytes > before_bytes
    stream.receive(rows_max=None, bytes_max=None)
    assert stream.ended
    got += stream.take().column(0).to_pylist()
    assert got == list(range(20_000))


def test_the_callers_own_time_is_not_the_statements(numbers) -> None:
    stream = numbers.stream("SELECT n, s FROM t", (NUMBER, TEXT))
    stream.receive(rows_max=1, bytes_max=None)
    before_s = stream.seconds
    numbers.sql("SELECT SLEEP(0.3)")
    stream.receive(rows_max=None, bytes_max=None)
    assert stream.seconds < before_s + 0.3


def test_the_time_of_executing_is_the_statements(kit) -> None:
    stream = kit.stream("SELECT SLEEP(0.25) + 0e0 AS n", (spec("n", TypeKind.FLOAT64, "5"),))
    stream.receive(rows_max=None, bytes_max=None)
    # Its clock is not ours: a sleep may be a tick shorter than what it was asked for.
    assert 0.2 <= stream.seconds < 30


def test_the_server_forgets_every_statement(numbers) -> None:
    before = numbers.prepared_statements()
    for number in range(20):
        batch = numbers.read(f"SELECT n FROM t WHERE n = {number}", NUMBER)
        assert batch.column(0).to_pylist() == [number]
    with pytest.raises(SourceRefused):
        numbers.read("SELECT (SELECT n FROM t) AS n", NUMBER)
    with pytest.raises(SourceRefused):
        numbers.read("SELECT nowhere FROM t", NUMBER)
    assert numbers.read("SELECT n FROM t WHERE n < 0", NUMBER).num_rows == 0
    numbers.expect_prepared_statements(before)


def connection_id(kit: Kit) -> int:
    return kit.session.connection.own_id


def test_an_error_in_mid_stream_is_told_and_the_connection_goes_on(numbers) -> None:
    """Rows are out when the server meets the one it cannot compute."""
    before, statements = connection_id(numbers), numbers.prepared_statements()
    broken = "SELECT IF(n < 15000, n, (SELECT n FROM t WHERE t2.n >= 0)) AS n FROM t AS t2"
    stream = numbers.stream(broken, (NUMBER,))
    with pytest.raises(SourceRefused, match="more than 1 row") as refused:
        stream.receive(rows_max=None, bytes_max=None)
    assert refused.value.code == "MYSQL_1242"
    assert connection_id(numbers) == before
    numbers.expect_prepared_statements(statements)


def test_a_statement_that_is_killed_or_runs_into_its_limit_is_a_timeout(numbers) -> None:
    victim = connection_id(numbers)
    stream = numbers.stream("SELECT a.n FROM t a JOIN t b JOIN t c", (NUMBER,))
    stream.receive(rows_max=1, bytes_max=None)
    numbers.sql(f"KILL QUERY {victim}")
    with pytest.raises(StatementTimeout, match="1317"):
        stream.receive(rows_max=None, bytes_max=None)
    assert connection_id(numbers) == victim


def test_a_limit_of_the_server_is_a_timeout(numbers) -> None:
    maria = "MariaDB" in numbers.sql("SELECT VERSION()")[0][0]
    limit = ("max_statement_time", "0.2") if maria else ("max_execution_time", "200")
    stream = numbers.stream(
        "SELECT MAX(a.n + b.n * c.n) AS n FROM t a JOIN t b JOIN t c",
        (NUMBER,),
        settings=(*SETTINGS, limit),
    )
    with pytest.raises(StatementTimeout) as caught:
        stream.receive(rows_max=None, bytes_max=None)
    assert "statement_timeout_s" in (caught.value.hint or "")


def test_a_connection_that_is_killed_can_be_taken_anew(numbers) -> None:
    victim = connection_id(numbers)
    stream = numbers.stream("SELECT a.n FROM t a JOIN t b JOIN t c", (NUMBER,))
    stream.receive(rows_max=1, bytes_max=None)
    numbers.sql(f"KILL {victim}")
    with pytest.raises(SourceUnavailable):
        stream.receive(rows_max=None, bytes_max=None)
    assert connection_id(numbers) != victim


def test_a_server_that_goes_away_behind_the_result_takes_nothing_from_it(numbers) -> None:
    victim: list[int] = []
    killed = threading.Event()

    def kill() -> None:
        numbers.sql(f"KILL {victim[0]}")
        killed.set()

    with relay(numbers.url, last_words=(_EXECUTE, kill)) as link:
        session = Session(
            link.through(numbers.url), tls_mode=None, tls_ca_file=None, application_name="t"
        )
        victim.append(session.connection.own_id)
        kept, numbers.session = numbers.session, session
        try:
            assert numbers.read("SELECT n FROM t WHERE n < 500", NUMBER).num_rows == 500
            assert killed.is_set()
            # A server without a last word is missed by the next statement.
            with contextlib.suppress(SourceUnavailable):
                assert numbers.read("SELECT n FROM t WHERE n < 7", NUMBER).num_rows == 7
            assert numbers.read("SELECT n FROM t WHERE n < 9", NUMBER).num_rows == 9
        finally:
            session.close()
            numbers.session = kept


def test_an_abandoned_statement_ends_on_the_server(numbers) -> None:
    victim, statements = connection_id(numbers), numbers.prepared_statements()
    stream = numbers.stream("SELECT a.n FROM t a JOIN t b JOIN t c", (NUMBER,))
    stream.receive(rows_max=1, bytes_max=None)
    stream.abandon()
    stream.abandon()
    assert stream.ended
    query = f"SELECT COUNT(*) FROM information_schema.processlist WHERE id = {victim}"
    for _ in range(100):
        if numbers.sql(query) == ((0,),):
            break
        numbers.sql("SELECT SLEEP(0.1)")
    else:
        pytest.fail("the server still works for a client that has gone")
    assert connection_id(numbers) != victim
    numbers.expect_prepared_statements(statements)


@pytest.mark.parametrize(
    ("query", "columns", "expected"),
    [
        ("SELECT n FROM t", (TEXT,), SchemaDrift),
        ("SELECT n, s FROM t", (NUMBER,), SchemaDrift),
        ("DO 1", (NUMBER,), SourceRefused),
        ("SELECT n FROM nowhere", (NUMBER,), SourceBusy),
        ("SELEKT 1", (NUMBER,), SourceRefused),
        ("SELECT 1; SELECT 2", (NUMBER,), SourceRefused),
    ],
)
def test_what_is_not_the_planned_result_is_refused(numbers, query, columns, expected) -> None:
    with pytest.raises(expected):
        numbers.read(query, *columns)
    assert numbers.read("SELECT n FROM t LIMIT 1", NUMBER).num_rows == 1
    numbers.expect_prepared_statements(0)


def test_a_placeholder_is_refused_before_it_is_executed(numbers) -> None:
    with pytest.raises(SourceRefused, match="placeholders"):
        numbers.read("SELECT n FROM t WHERE n = ?", NUMBER)


def test_the_networks_round_trip_is_not_the_statements(numbers) -> None:
    relay = Relay((numbers.url.host or "", numbers.url.port or 3306))
    relay.delay_s = 0.15
    numbers.session.close()
    numbers.session = Session(
        relay.through(numbers.url), tls_mode=None, tls_ca_file=None, application_name="rivet-test"
    )
    try:
        stream = numbers.stream("SELECT n FROM t WHERE n = 5", (NUMBER,))
        stream.receive(rows_max=None, bytes_max=None)
        assert stream.take().num_rows == 1 and stream.seconds < 0.1
    finally:
        numbers.session.close()
        relay.close()


def test_a_server_out_of_prepared_statements_is_busy(numbers) -> None:
    ((before,),) = numbers.sql("SELECT @@GLOBAL.max_prepared_stmt_count")
    numbers.sql("SET GLOBAL max_prepared_stmt_count = 0")
    try:
        with pytest.raises(SourceBusy, match="max_prepared_stmt_count") as busy:
            numbers.read("SELECT n FROM t", NUMBER)
        assert busy.value.code == "MYSQL_1461" and busy.value.hint
    finally:
        numbers.sql(f"SET GLOBAL max_prepared_stmt_count = {before}")
    assert numbers.read("SELECT n FROM t", NUMBER).num_rows == 20_000


def test_what_prepared_statements_refuse_says_so(numbers) -> None:
    with pytest.raises(SourceError) as refused:
        numbers.read("PREPARE x FROM 'SELECT 1'", NUMBER)
    assert refused.value.code == "MYSQL_1295" and "prepared" in (refused.value.hint or "")
