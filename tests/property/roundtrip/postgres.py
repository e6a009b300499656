"""PostgreSQL's universe of types, its tables, and what the server itself prints of them."""

from __future__ import annotations

import math
import struct
import uuid
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any, ClassVar

import psycopg
from psycopg import sql

from rivet_fleet.contracts.columns import ColumnType, TypeKind
from tests.property.roundtrip import normal, texts
from tests.property.roundtrip.families import Column, Family, Maker
from tests.property.roundtrip.normal import DAY_US, UNFIT

K = TypeKind

# ---------------------------------------------------------------- values


def _float(rng: Random, code: str, bits: int) -> str:
    special = ("NaN", "Infinity", "-Infinity", "-0", "0", "1e-320" if bits == 64 else "1e-44")
    if rng.random() < 0.3:
        return rng.choice(special)
    value = struct.unpack(code, rng.randbytes(bits // 8))[0]
    if math.isnan(value) or math.isinf(value):
        return rng.choice(special)
    return repr(value)


_DATE_LOW, _DATE_HIGH = normal.days(-4713, 11, 24), normal.days(5_874_897, 12, 31)
_STAMP_LOW = _DATE_LOW * DAY_US
_EPOCH_2000 = normal.days(2000, 1, 1)


def _date_text(days: int) -> tuple[str, str]:
    year, month, day = texts.civil(days)
    era = " BC" if year <= 0 else ""
    return f"{1 - year if year <= 0 else year:04d}-{month:02d}-{day:02d}", era


def _date(rng: Random) -> str:
    near = rng.randint(_EPOCH_2000 - 40_000, _EPOCH_2000 + 40_000)
    return "".join(_date_text(rng.choice((near, texts.integer(rng, _DATE_LOW, _DATE_HIGH)))))


def _stamp(rng: Random) -> str:
    near = rng.randint(-(2**51), 2**51)
    low_to_high = texts.integer(rng, _STAMP_LOW, normal.INT64_MAX)
    days, us = divmod(rng.choice((near, near - near % 1_000_000, low_to_high)), DAY_US)
    date, era = _date_text(days)
    return f"{date} {texts.clock_text(us)}{era}"


def _stamp_tz(rng: Random) -> str:
    stamp, era, _ = _stamp(rng).partition(" BC")
    return f"{stamp}Z{era}"


def _time(rng: Random) -> str:
    return texts.clock_text(texts.integer(rng, 0, DAY_US - 1))


def _interval(rng: Random) -> str:
    months = rng.choice((0, 1, -1, 13, rng.randint(-(10**7), 10**7)))
    days = rng.choice((0, 1, -1, rng.randint(-(10**8), 10**8)))
    us = rng.choice(
        (0, 1, -1, DAY_US, rng.randint(-(10**17), 10**17), rng.randint(-(10**9), 10**9))
    )
    return f"{months} months {days} days {us} microseconds"


def _uuid(rng: Random) -> str:
    return str(uuid.UUID(int=rng.choice((0, 2**128 - 1, rng.getrandbits(128)))))


def _bytea(rng: Random) -> str:
    return "\\x" + texts.octets(rng).hex()


def _json(rng: Random) -> str:
    if rng.random() < 0.2:
        return rng.choice(('{"a":1,"a":2}', '"\\ud83d\\ude00"', " [ ] ", "1e400", "-0", "null"))
    return texts.json_text(rng)


def _oid(rng: Random) -> str:
    return str(texts.integer(rng, 0, 2**32 - 1))


def _integers(bits: int) -> Maker:
    return lambda rng: str(texts.integer(rng, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1))


# ---------------------------------------------------------------- families

SCALARS: tuple[Family, ...] = (
    Family(ddl="boolean", canonical="bool", make=lambda rng: rng.choice(("t", "f"))),
    Family(ddl="smallint", canonical="int16", make=_integers(16)),
    Family(ddl="integer", canonical="int32", make=_integers(32)),
    Family(ddl="bigint", canonical="int64", make=_integers(64)),
    Family(ddl="real", canonical="float32", make=lambda rng: _float(rng, ">f", 32)),
    Family(ddl="double precision", canonical="float64", make=lambda rng: _float(rng, ">d", 64)),
    Family(ddl="date", canonical="date", make=_date, unfit=("infinity", "-infinity")),
    Family(ddl="time", canonical="time", make=_time, unfit=("24:00:00",)),
    Family(
        ddl="timestamp",
        canonical="timestamp",
        make=_stamp,
        unfit=(
            "infinity",
            "-infinity",
            "294276-12-31 23:59:59.999999",
            "294247-01-10 04:00:54.775808",
        ),
    ),
    Family(
        ddl="timestamptz",
        canonical="timestamp_utc",
        make=_stamp_tz,
        unfit=("infinity", "-infinity", "294276-12-31 23:59:59Z"),
    ),
    Family(ddl="interval", canonical="interval", make=_interval, unfit=("infinity", "-infinity")),
    Family(ddl="text", canonical="string", make=texts.text),
    Family(ddl="varchar", canonical="string", make=texts.text),
    Family(ddl="varchar(7)", canonical="string", make=texts.text),
    Family(ddl="char(9)", canonical="string", make=texts.text),
    Family(ddl="bytea", canonical="binary", make=_bytea),
    Family(ddl="uuid", canonical="uuid", make=_uuid),
    Family(ddl="json", canonical="json", make=_json),
    Family(ddl="jsonb", canonical="json", make=_json),
    Family(ddl="name", canonical="string", make=lambda rng: texts.text(rng, length_max=9)[:9]),
)


def _numeric(rng: Random) -> Family:
    precision = rng.choice((1, 9, 18, 19, 38, 39, 76, rng.randint(1, 76)))
    # The file's decimal holds max(precision, scale) digits, and 76 are the most.
    scale = rng.choice((0, precision, rng.randint(0, precision), rng.randint(-5, 76)))
    digits, shown = (precision - scale, 0) if scale < 0 else (max(precision, scale), scale)
    if digits > 76:
        precision, scale, digits, shown = 76, 10, 76, 10
    return Family(
        ddl=f"numeric({precision},{scale})",
        canonical=f"decimal({digits},{shown})",
        make=lambda rng: texts.fixed(rng, precision, scale),
        unfit=("NaN",),
    )


def _widened(rng: Random) -> Family:
    precision, scale = rng.choice(((38, 10), (60, 0), (76, 76), (20, 19)))
    return Family(
        ddl="numeric",
        canonical=f"decimal({precision},{scale})",
        make=lambda rng: texts.fixed(rng, precision, scale),
        unfit=("NaN", "Infinity", "-Infinity"),
        override=f"decimal({precision},{scale})",
    )


LABELS = ("", "plain", "glücklich", "日本", "\U0001f600", "a,b", 'q"q', "it's", "b\\s", " space ")


def _enum(rng: Random) -> Family:
    labels = rng.sample(LABELS, rng.randint(1, len(LABELS)))
    name = f"mood_{rng.getrandbits(48):x}"
    listed = ", ".join("'" + label.replace("'", "''") + "'" for label in labels)
    return Family(
        ddl=name,
        canonical="enum",
        make=lambda rng: rng.choice(labels),
        setup=(f"CREATE TYPE {name} AS ENUM ({listed})",),
    )


def _domain(rng: Random) -> Family:
    base = scalar(rng) if rng.random() < 0.8 else _list(rng)
    name = f"dom_{rng.getrandbits(48):x}"
    setup = (*base.setup, f"CREATE DOMAIN {name} AS {base.ddl}")
    ddl = name
    if rng.random() < 0.3:
        setup, ddl = (*setup, f"CREATE DOMAIN {name}_2 AS {name}"), f"{name}_2"
    return replace(base, ddl=ddl, setup=setup)


def scalar(rng: Random) -> Family:
    """Any type whose arrays are lists."""
    pick = rng.random()
    if pick < 0.2:
        return _numeric(rng)
    return _enum(rng) if pick < 0.3 else rng.choice(SCALARS)


def _quoted(element: str | None) -> str:
    if element is None:
        return "NULL"
    return '"' + element.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _array(elements: list[str | None]) -> str:
    return "{" + ",".join(map(_quoted, elements)) + "}"


def _list(rng: Random) -> Family:
    element = scalar(rng)

    def elements(rng: Random) -> list[str | None]:
        count = rng.choice((0, 1, 2, 5, rng.randint(0, 30)))
        return [None if rng.random() < 0.2 else element.make(rng) for _ in range(count)]

    def make(rng: Random) -> str:
        made = elements(rng)
        if made and rng.random() < 0.1:
            first = rng.choice((0, 2, -5, 100))
            return f"[{first}:{first + len(made) - 1}]={_array(made)}"
        return _array(made)

    one, two = element.make(rng), element.make(rng)
    square = "{" + _array([one, None]) + "," + _array([two, one]) + "}"
    within = tuple(_array([one, bad, None, bad]) for bad in element.unfit)
    return Family(
        ddl=f"{element.ddl}[]",
        canonical=f"list<{element.canonical}>",
        make=make,
        unfit=(square, "{" + square + "}", *within),
        setup=element.setup,
    )


def _bits(rng: Random) -> str:
    return "".join(rng.choice("01") for _ in range(13))


def _spread(rng: Random, make: Maker) -> str:
    """A range of whatever two values come out in order."""
    if rng.random() < 0.2:
        return rng.choice(("empty", "(,)"))
    return f"[{make(rng)},)" if rng.random() < 0.5 else f"(,{make(rng)}]"


def _net(rng: Random) -> str:
    octets = ".".join(str(rng.randint(0, 255)) for _ in range(4))
    v6 = ":".join(f"{rng.getrandbits(16):x}" for _ in range(8))
    return rng.choice((f"{octets}/{rng.randint(0, 32)}", octets, v6, f"{v6}/{rng.randint(0, 128)}"))


def _short(rng: Random) -> str:
    return f"{rng.uniform(-1e6, 1e6)!r}"


AS_TEXT: tuple[tuple[str, Maker], ...] = (
    ("money", lambda rng: texts.fixed(rng, 16, 2)),
    ("timetz", lambda rng: _time(rng) + rng.choice(("+00", "-15:59:59", "+05:30"))),
    ("inet", _net),
    ("macaddr", lambda rng: rng.randbytes(6).hex()),
    ("macaddr8", lambda rng: rng.randbytes(8).hex()),
    ("bit(13)", _bits),
    ("varbit", _bits),
    ("int4range", lambda rng: _spread(rng, lambda r: str(r.randint(-(10**9), 10**9)))),
    ("numrange", lambda rng: _spread(rng, lambda r: texts.fixed(r, 30, 10))),
    ("daterange", lambda rng: _spread(rng, lambda r: "2024-01-01")),
    ("tstzrange", lambda rng: _spread(rng, lambda r: f'"{_stamp_tz(r)}"')),
    ("int8multirange", lambda rng: "{[1,5),[7," + str(rng.randint(8, 2**62)) + ")}"),
    (
        "numeric",
        lambda rng: rng.choice(("NaN", "Infinity", "-Infinity", texts.fixed(rng, 200, 90))),
    ),
    ("numeric(1000,500)", lambda rng: rng.choice(("NaN", texts.fixed(rng, 1000, 500)))),
    ("tsvector", lambda rng: rng.choice(("", "a:1 b:2A", "'it''s':3"))),
    ("tsquery", lambda rng: rng.choice(("a & b", "!a | 'c d'"))),
    ("point", lambda rng: f"({_short(rng)},{_short(rng)})"),
    ("box", lambda rng: f"({_short(rng)},{_short(rng)}),({_short(rng)},{_short(rng)})"),
    ("polygon", lambda rng: f"(({_short(rng)},{_short(rng)}),(1,2),(3,4))"),
    ('"char"', lambda rng: rng.choice(("", "a", " ", "~"))),
    ("pg_lsn", lambda rng: f"{rng.getrandbits(32):X}/{rng.getrandbits(32):X}"),
    ("jsonpath", lambda rng: "$.a[*] ? (@ > 1)"),
    ("oid[]", lambda rng: _array([_oid(rng), None])),
    ("money[]", lambda rng: _array([texts.fixed(rng, 10, 2), None])),
    ("box[]", lambda rng: '{"(1,2),(3,4)"}'),
    ("int4range[]", lambda rng: _array(["[1,5)", None])),
)


def _as_text(rng: Random) -> Family:
    ddl, make = rng.choice(AS_TEXT)
    return Family(ddl=ddl, canonical="string", make=make)


def _composite(rng: Random) -> Family:
    name = f"pair_{rng.getrandbits(48):x}"
    return Family(
        ddl=name,
        canonical="string",
        make=lambda rng: f'({rng.randint(0, 9)},"a,b")',
        setup=(f"CREATE TYPE {name} AS (a int, b text)",),
    )


_TEXTABLE = (
    "date",
    "time",
    "timestamp",
    "timestamptz",
    "interval",
    "uuid",
    "jsonb",
    "bytea",
    "real",
    "char(9)",
)


def _overridden(rng: Random) -> Family:
    """A supported type cast to text: what did not fit fits now."""
    base = rng.choice((*(f for f in SCALARS if f.ddl in _TEXTABLE), _numeric(rng), _list(rng)))
    pool = (*base.unfit, *base.unfit)
    make = base.make
    return replace(
        base,
        canonical="string",
        make=lambda rng: rng.choice(pool) if pool and rng.random() < 0.3 else make(rng),
        unfit=(),
        override="text",
    )


_KINDS: tuple[tuple[float, Callable[[Random], Family]], ...] = (
    (0.45, scalar),
    (0.15, _list),
    (0.1, _domain),
    (0.1, _as_text),
    (0.05, _widened),
    (0.03, _composite),
    (0.07, _overridden),
    (0.05, lambda rng: Family(ddl="oid", canonical="int64", make=_oid)),
)


def family(rng: Random) -> Family:
    """Any type of the universe."""
    weights, makers = zip(*_KINDS, strict=True)
    return rng.choices(makers, weights)[0](rng)


# ---------------------------------------------------------------- tables

# Of the database: a query is read in its user's own session, and printed in the same.
_SETTINGS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "iso_8601",
    "extra_float_digits": "3",
    "bytea_output": "hex",
}


def _ident(name: str) -> sql.Identifier:
    return sql.Identifier(name)


def _shown(column: Column) -> str:
    """As it is printed; but inet's cast to text writes the mask out, which is the same value."""
    name = _ident(column.name).as_string()
    return f"{name}::text" if column.family.ddl == "inet" else name


class PostgresTables:
    """Creates tables, and reads them back as the server prints them."""

    source: ClassVar[dict[str, Any]] = {"type": "postgres"}

    def __init__(self, url: str) -> None:
        self.url = url
        with psycopg.connect(url, autocommit=True) as first:
            for name, value in _SETTINGS.items():
                setting = "ALTER DATABASE {} SET {} = {}"
                named = (sql.Identifier(first.info.dbname), sql.Identifier(name), value)
                first.execute(sql.SQL(setting).format(*named))
        self._connection = psycopg.connect(url, autocommit=True)

    def close(self) -> None:
        self._connection.close()

    def place(self, number: int) -> str:
        """A schema of its own, so that types go with the table."""
        return f"s{number}.t"

    def create(self, table: str, columns: list[Column], *, key: str, keyed: bool) -> None:
        """The table, filled: ``key`` is one of the columns, and a primary key when ``keyed``."""
        execute = self._connection.execute
        schema = table.partition(".")[0]
        execute(f"CREATE SCHEMA {schema}; SET search_path = {schema}".encode())
        for column in columns:
            for statement in column.family.setup:
                execute(statement.encode())
        # Names with % or braces are no placeholders: they are quoted before they are joined.
        body = ", ".join(
            f"{_ident(c.name).as_string()} {c.family.ddl}"
            + (" PRIMARY KEY" if keyed and c.name == key else " NOT NULL" if c.not_null else "")
            for c in columns
        )
        execute(f"CREATE TABLE {table} ({body})".encode())
        casts = ", ".join(f"u.c{i}::{c.family.ddl}" for i, c in enumerate(columns))
        arrays = ", ".join(["%s::text[]"] * len(columns))
        names = ", ".join(f"c{i}" for i in range(len(columns)))
        statement = f"INSERT INTO {table} SELECT {casts} FROM unnest({arrays}) AS u({names})"
        execute(statement.encode(), [column.values for column in columns])
        execute(f"ANALYZE {table}".encode())

    def printed(self, table: str, columns: list[Column], key: str) -> list[list[bytes | None]]:
        """Row by row in key order: every cell as the server's own output function writes it."""
        names = ", ".join(_shown(column) for column in columns)
        cursor = self._connection.execute(
            f"SELECT {names} FROM {table} ORDER BY {_ident(key).as_string()}".encode()
        )
        result = cursor.pgresult
        assert result is not None
        width = range(len(columns))
        return [[result.get_value(row, i) for i in width] for row in range(result.ntuples)]

    def drop(self, table: str) -> None:
        self._connection.execute(
            f"DROP SCHEMA IF EXISTS {table.partition('.')[0]} CASCADE".encode()
        )

    def expected(self, family: Family, kind: ColumnType, cell: bytes | None) -> tuple[Any, int]:
        """What has to arrive for a printed cell, and how many changes that is (coerced)."""
        return (None, 0) if cell is None else _expected(kind, cell)


# ---------------------------------------------------------------- the server's output, understood


def _expected(kind: ColumnType, cell: bytes) -> tuple[Any, int]:
    if kind.kind is K.LIST:
        assert kind.element is not None
        return _expected_list(kind.element, cell.decode())
    if kind.kind in (K.STRING, K.ENUM, K.JSON):
        text = cell.decode("utf-8", "replace")
        return text, int(text.encode() != cell)
    value = _PARSERS[kind.kind](cell.decode())
    return (None, 1) if value is UNFIT else (value, 0)


def _expected_list(element: ColumnType, text: str) -> tuple[Any, int]:
    bounds, _, body = text.partition("=") if text.startswith("[") else ("", "", text)
    if body.startswith("{{"):  # An element that begins with a brace would stand in quotes.
        return None, 1
    changed, values = int(bool(bounds)), []
    for cell in _array_cells(body):
        value, more = (None, 0) if cell is None else _expected(element, cell.encode())
        values.append(value)
        changed += more
    return values, changed


def _array_cells(body: str) -> list[str | None]:
    """``{a,"b\\"c",NULL}`` → its cells (manual, "Array Input and Output Syntax")."""
    cells: list[str | None] = []
    position = 1
    while body[position] != "}":
        if body[position] == ",":
            position += 1
        if body[position] == '"':
            letters, position = [], position + 1
            while body[position] != '"':
                position += body[position] == "\\"
                letters.append(body[position])
                position += 1
            cells.append("".join(letters))
            position += 1
        else:
            end = position
            while body[end] not in ",}":
                end += 1
            word = body[position:end]
            cells.append(None if word == "NULL" else word)
            position = end
    return cells


def _date_value(text: str) -> Any:
    if text.endswith("infinity"):
        return UNFIT
    body, _, era = text.partition(" ")
    year, rest = body.split("-", 1)
    return normal.iso_date(f"{1 - int(year) if era == 'BC' else year}-{rest}")


def _stamp_value(text: str) -> Any:
    if text.endswith("infinity"):
        return UNFIT
    era = " BC" if text.endswith(" BC") else ""
    date, time = text.removesuffix(" BC").split(" ")
    us = _date_value(date + era) * DAY_US + normal.clock(time.removesuffix("+00"))
    return us if us <= normal.INT64_MAX else UNFIT


_PARSERS: dict[TypeKind, Callable[[str], Any]] = {
    K.BOOL: lambda text: {"t": True, "f": False}[text],
    **dict.fromkeys((K.INT16, K.INT32, K.INT64), int),
    K.FLOAT32: lambda text: normal.float32(float(text)),
    K.FLOAT64: lambda text: normal.float64(float(text)),
    K.DECIMAL: lambda text: (
        UNFIT if text in ("NaN", "Infinity", "-Infinity") else normal.decimal(text)
    ),
    K.DATE: _date_value,
    K.TIME: lambda text: UNFIT if text == "24:00:00" else normal.clock(text),
    K.TIMESTAMP: _stamp_value,
    K.TIMESTAMP_UTC: _stamp_value,
    K.INTERVAL: lambda text: UNFIT if text.endswith("infinity") else text,
    K.BINARY: lambda text: bytes.fromhex(text.removeprefix("\\x")),
    K.UUID: str,
}
