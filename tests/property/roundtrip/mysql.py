"""MySQL's and MariaDB's universe of types, their tables, and what the server itself prints.

Strict mode is off while values are written: zero and partial dates, cut-off text and clamped
numbers are what production databases hold. What was stored is what the server prints.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any, ClassVar

import pymysql

from rivet_fleet.contracts.columns import ColumnType, TypeKind
from rivet_fleet.contracts.url import parse_database_url
from tests.property.roundtrip import normal, texts
from tests.property.roundtrip.families import Column, Family, Maker
from tests.property.roundtrip.normal import DAY_US, UNFIT

K = TypeKind
_DATE_LOW, _DATE_HIGH = normal.days(0, 1, 1), normal.days(9999, 12, 31)

# ---------------------------------------------------------------- values


def _between(low: int, high: int) -> Maker:
    return lambda rng: str(texts.integer(rng, low, high))


def _date(rng: Random) -> str:
    near = rng.randint(-40_000, 40_000)
    days = rng.choice((near, texts.integer(rng, _DATE_LOW, _DATE_HIGH)))
    year, month, day = texts.civil(days)
    return f"{year:04d}-{month:02d}-{day:02d}"


def _fraction(text: str, digits: int) -> str:
    """A clock with no more digits than its column keeps: more would round up to another day."""
    return text[: len(text) - 6 + digits].rstrip(".")


def _clock(rng: Random, digits: int) -> str:
    return _fraction(texts.clock_text(texts.integer(rng, 0, DAY_US - 1)), digits)


def _timestamp(rng: Random, digits: int) -> str:
    us = texts.integer(rng, 1_000_000, (2**31 - 1) * 1_000_000)
    days, rest = divmod(us, DAY_US)
    year, month, day = texts.civil(days)
    return f"{year:04d}-{month:02d}-{day:02d} {_fraction(texts.clock_text(rest), digits)}"


def _double(rng: Random) -> str:
    value = struct.unpack(">d", rng.randbytes(8))[0]
    if value != value or value in (float("inf"), float("-inf")) or rng.random() < 0.3:
        return rng.choice(("0", "-0", "1e-320", "1.7976931348623157e308", "0.1", "-1.5"))
    return repr(value)


def _single(rng: Random) -> str:
    value = struct.unpack(">f", rng.randbytes(4))[0]
    if value != value or value in (float("inf"), float("-inf")) or rng.random() < 0.3:
        return rng.choice(("0", "-0", "3.4028235e38", "0.1", "16777217", "1e-44"))
    return repr(value)


def _text(rng: Random) -> str:
    if rng.random() < 0.05:
        return rng.choice(("\0", "a\0b", "\0\0"))
    return texts.text(rng)


def _hex(rng: Random) -> str:
    return texts.octets(rng).hex()


def _uuid(rng: Random) -> str:
    return str(uuid.UUID(int=rng.choice((0, 2**128 - 1, rng.getrandbits(128)))))


# ---------------------------------------------------------------- families

_WHOLE: tuple[tuple[str, int, str, str], ...] = (
    ("tinyint", 8, "int16", "int16"),
    ("smallint", 16, "int16", "int32"),
    ("mediumint", 24, "int32", "int64"),
    ("int", 32, "int32", "int64"),
    ("bigint", 64, "int64", "uint64"),
)


def _integers() -> list[Family]:
    found = []
    for name, bits, signed, unsigned in _WHOLE:
        edge = 2 ** (bits - 1)
        positive = _between(0, 2 * edge - 1)
        found += [
            Family(ddl=name, canonical=signed, make=_between(-edge, edge - 1)),
            Family(ddl=f"{name} unsigned", canonical=unsigned, make=positive),
            Family(ddl=f"{name}(9) unsigned zerofill", canonical=unsigned, make=positive),
        ]
    return found


_ZERO_DATES = ("0000-00-00", "2024-02-00", "2024-00-00", "2024-02-31", "0000-00-01")
SCALARS: tuple[Family, ...] = (
    *_integers(),
    Family(
        ddl="tinyint(1)",
        canonical="bool",
        make=lambda rng: rng.choice("01"),
        unfit=("2", "-1", "127"),
    ),
    Family(ddl="float", canonical="float32", make=_single),
    Family(ddl="double", canonical="float64", make=_double),
    Family(ddl="date", canonical="date", make=_date, unfit=_ZERO_DATES),
    Family(
        ddl="year", canonical="int16", make=lambda rng: rng.choice(("0", "1901", "2155", "2024"))
    ),
    Family(ddl="text", canonical="string", make=_text),
    Family(ddl="longtext", canonical="string", make=_text),
    Family(ddl="varchar(7)", canonical="string", make=_text),
    Family(ddl="char(9)", canonical="string", make=_text),
    Family(ddl="varchar(40) CHARACTER SET latin1", canonical="string", make=_text),
    Family(ddl="varchar(40) CHARACTER SET utf16", canonical="string", make=_text),
    Family(ddl="varchar(40) CHARACTER SET cp1251", canonical="string", make=_text),
    Family(ddl="varchar(40) CHARACTER SET sjis", canonical="string", make=_text),
    Family(ddl="text CHARACTER SET ascii", canonical="string", make=_text),
    Family(ddl="varchar(40) COLLATE utf8mb4_bin", canonical="string", make=_text),
    Family(ddl="blob", canonical="binary", make=_hex),
    Family(ddl="varbinary(300)", canonical="binary", make=_hex),
    Family(ddl="binary(9)", canonical="binary", make=lambda rng: rng.randbytes(9).hex()),
    Family(ddl="json", canonical="json", make=texts.json_text),
)
MARIADB_ONLY: tuple[Family, ...] = (
    Family(ddl="uuid", canonical="uuid", make=_uuid),
    Family(ddl="inet6", canonical="string", make=lambda rng: f"{rng.getrandbits(16):x}::1"),
)


def _decimal(rng: Random) -> Family:
    precision = rng.choice((1, 18, 38, 39, 65, rng.randint(1, 65)))
    scale = rng.choice((0, min(30, precision), rng.randint(0, min(30, precision))))
    return Family(
        ddl=f"decimal({precision},{scale})",
        canonical=f"decimal({precision},{scale})",
        make=lambda rng: texts.fixed(rng, precision, scale),
    )


def _bit(rng: Random) -> Family:
    width = rng.choice((1, 2, 8, 31, 63, 64, rng.randint(1, 64)))
    return Family(
        ddl=f"bit({width})",
        canonical={1: "bool", 64: "uint64"}.get(width, "int64"),
        make=_between(0, 2**width - 1),
    )


def _moment(rng: Random) -> Family:
    digits = rng.choice((0, 3, 6))
    if rng.random() < 0.5:
        return Family(
            ddl=f"timestamp({digits})",
            canonical="timestamp_utc",
            make=lambda rng: _timestamp(rng, digits),
            unfit=("0000-00-00 00:00:00",),
        )
    return Family(
        ddl=f"datetime({digits})",
        canonical="timestamp",
        make=lambda rng: f"{_date(rng)} {_clock(rng, digits)}",
        unfit=(*(f"{zero} 00:00:00" for zero in _ZERO_DATES), "2024-00-00 12:34:56"),
    )


def _time(rng: Random) -> Family:
    digits = rng.choice((0, 3, 6))
    return Family(
        ddl=f"time({digits})",
        canonical="time",
        make=lambda rng: _clock(rng, digits),
        unfit=("-838:59:59", "838:59:59", "24:00:00", "-00:00:01", "100:00:00"),
    )


_LABELS = ("plain", "glücklich", "日本", 'q"q', "it's", "b\\s", "Ünd", "semi;colon", "x y")


def _labels(rng: Random) -> Family:
    labels = rng.sample(_LABELS, rng.randint(1, len(_LABELS)))
    listed = ", ".join("'" + one.replace("\\", "\\\\").replace("'", "''") + "'" for one in labels)
    if rng.random() < 0.5:
        return Family(ddl=f"enum({listed})", canonical="enum", make=lambda rng: rng.choice(labels))
    return Family(
        ddl=f"set({listed})",
        canonical="enum",
        make=lambda rng: ",".join(rng.sample(labels, rng.randint(0, len(labels)))),
    )


def _overridden(rng: Random) -> Family:
    """Overrides that carry what the own type cannot, or that the decoder itself checks."""
    pick = rng.random()
    if pick < 0.35:
        base = rng.choice((_moment(rng), _time(rng), next(f for f in SCALARS if f.ddl == "date")))
        return _always(replace(base, canonical="string", override="text"))
    if pick < 0.5:
        return Family(
            ddl="bigint unsigned",
            canonical="decimal(20,0)",
            make=_between(0, 2**64 - 1),
            override="decimal(20,0)",
        )
    if pick < 0.6:
        base = next(f for f in SCALARS if f.ddl == "tinyint(1)")
        return _always(replace(base, canonical="int16", override="int16"))
    if pick < 0.8:
        hostile = ("ff", "61ff62", "c3", "e28278", "eda080", "f0908080")
        return Family(
            ddl="varbinary(60)",
            canonical="string",
            make=lambda rng: _text(rng).encode()[:4].decode("utf-8", "ignore").encode().hex(),
            unfit=hostile,
            override="text",
        )
    if pick < 0.9:
        return Family(
            ddl="char(36)", canonical="uuid", make=_uuid, unfit=("", "no uuid"), override="uuid"
        )
    return Family(
        ddl="binary(16)",
        canonical="uuid",
        make=lambda rng: rng.randbytes(16).hex(),
        override="uuid",
    )


def _always(family: Family) -> Family:
    """What did not fit fits now."""
    pool, make = family.unfit, family.make
    return replace(
        family,
        make=lambda rng: rng.choice(pool) if pool and rng.random() < 0.3 else make(rng),
        unfit=(),
    )


def _point(rng: Random) -> Family:
    return Family(
        ddl="point",
        canonical="string",
        make=lambda rng: f"POINT({rng.randint(-180, 180)} {rng.randint(-90, 90)})",
    )


_KINDS: tuple[tuple[float, Callable[[Random], Family]], ...] = (
    (0.5, lambda rng: rng.choice(SCALARS)),
    (0.1, _decimal),
    (0.08, _bit),
    (0.1, _moment),
    (0.06, _time),
    (0.06, _labels),
    (0.08, _overridden),
    (0.02, _point),
)


def family(rng: Random) -> Family:
    """Any type that both servers have."""
    weights, makers = zip(*_KINDS, strict=True)
    return rng.choices(makers, weights)[0](rng)


def mariadb_family(rng: Random) -> Family:
    """Any type of MariaDB."""
    return rng.choice(MARIADB_ONLY) if rng.random() < 0.05 else family(rng)


# ---------------------------------------------------------------- tables


def _ident(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _placeholder(family: Family) -> str:
    base = family.ddl.split("(")[0].split(" ")[0]
    if base in ("blob", "varbinary", "binary"):
        return "UNHEX(%s)"
    if base == "point":
        return "ST_GeomFromText(%s)"
    return "CAST(%s AS UNSIGNED)" if base == "bit" else "%s"


def _shown(column: Column) -> str:
    """As it is printed; but a bit as a number, a shape as text, and a float with all its digits and
    its sign, which an addition would take from a negative zero."""
    name, ddl = _ident(column.name), column.family.ddl
    if ddl.startswith("bit"):
        return f"({name} + 0)"
    if ddl == "float":
        return f"({name} * 1e0)"
    return f"ST_AsText({name})" if ddl == "point" else name


class MysqlTables:
    """Creates tables, and reads them back as the server prints them."""

    source: ClassVar[dict[str, Any]] = {"type": "mysql"}

    def __init__(self, url: str) -> None:
        self.url = url
        target = parse_database_url(url)
        self._database = target.database
        self._connection = pymysql.connect(
            host=target.host,
            port=target.port or 3306,
            user=target.user,
            password=(target.password or "").encode(),
            database=target.database,
            autocommit=True,
            charset="utf8mb4",
            conv={str: pymysql.converters.escape_string, type(None): lambda *_: "NULL"},
        )
        self._execute("SET time_zone = '+00:00', sql_mode = 'ALLOW_INVALID_DATES'")

    def close(self) -> None:
        self._connection.close()

    def _execute(self, sql: str) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    @property
    def mariadb(self) -> bool:
        ((version,),) = self._execute("SELECT VERSION()")
        return "mariadb" in str(version).lower()

    def place(self, number: int) -> str:
        return f"{self._database}.t{number}"

    def create(self, table: str, columns: list[Column], *, key: str, keyed: bool) -> None:
        """The table, filled: ``key`` is one of the columns, and a primary key when ``keyed``."""
        body = ", ".join(
            f"{_ident(c.name)} {c.family.ddl}"
            + (" PRIMARY KEY" if keyed and c.name == key else "")
            # A timestamp that is not said to be NULL is NOT NULL on some servers.
            + (" NOT NULL" if c.not_null else "" if keyed and c.name == key else " NULL")
            for c in columns
        )
        self._execute(f"CREATE TABLE {table} ({body}) CHARACTER SET utf8mb4")
        places = ", ".join(_placeholder(column.family) for column in columns)
        rows = list(zip(*(column.values for column in columns), strict=True))
        for start in range(0, len(rows), 100):
            shown = [self._literals(places, row) for row in rows[start : start + 100]]
            self._execute(f"INSERT INTO {table} VALUES " + ", ".join(shown))
        self._execute(f"ANALYZE TABLE {table}")

    def _literals(self, places: str, row: tuple[str | None, ...]) -> str:
        values = tuple(
            "NULL" if value is None else f"_utf8mb4 X'{value.encode().hex()}'" for value in row
        )
        return f"({places % values})"

    def printed(self, table: str, columns: list[Column], key: str) -> list[list[bytes | None]]:
        """Row by row in key order: every cell as the server writes it in its text protocol."""
        names = ", ".join(_shown(column) for column in columns)
        rows = self._execute(f"SELECT {names} FROM {table} ORDER BY {_ident(key)}")
        return [[one.encode() if isinstance(one, str) else one for one in row] for row in rows]

    def drop(self, table: str) -> None:
        self._execute(f"DROP TABLE IF EXISTS {table}")

    def expected(self, family: Family, kind: ColumnType, cell: bytes | None) -> tuple[Any, int]:
        """What has to arrive for a printed cell, and how many changes that is (coerced)."""
        if cell is None:
            return None, 0
        if kind.kind in (K.STRING, K.ENUM, K.JSON):
            text = cell.decode("utf-8", "replace")
            return text, int(text.encode() != cell)
        if kind.kind is K.BINARY:
            return cell, 0
        if kind.kind is K.BOOL:
            return int(cell) != 0, int(cell not in (b"0", b"1"))
        if kind.kind is K.UUID:
            value = _uuid_value(cell, raw=family.ddl == "binary(16)")
        else:
            value = _PARSERS[kind.kind](cell.decode())
        return (None, 1) if value is UNFIT else (value, 0)


# ---------------------------------------------------------------- the server's text, understood


def _uuid_value(cell: bytes, *, raw: bool) -> Any:
    try:
        return str(uuid.UUID(bytes=cell) if raw else uuid.UUID(cell.decode()))
    except ValueError:
        return UNFIT


def _date_value(text: str) -> Any:
    year, month, day = (int(part) for part in text.split("-"))
    if not (month and day):
        return UNFIT
    value = normal.days(year, month, day)
    return value if texts.civil(value) == (year, month, day) else UNFIT


def _moment_value(text: str) -> Any:
    date, _, clock = text.partition(" ")
    days = _date_value(date)
    return UNFIT if days is UNFIT else days * DAY_US + normal.clock(clock or "00:00:00")


def _time_value(text: str) -> Any:
    us = normal.clock(text.removeprefix("-"))
    return UNFIT if us >= DAY_US or (text.startswith("-") and us) else us


_PARSERS: dict[TypeKind, Callable[[str], Any]] = {
    **dict.fromkeys((K.INT16, K.INT32, K.INT64, K.UINT64), int),
    K.FLOAT32: lambda text: normal.float32(float(text)),
    K.FLOAT64: lambda text: normal.float64(float(text)),
    K.DECIMAL: normal.decimal,
    K.DATE: _date_value,
    K.TIME: _time_value,
    K.TIMESTAMP: _moment_value,
    K.TIMESTAMP_UTC: _moment_value,
}
