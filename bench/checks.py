"""What a table's columns hold, in figures that do not depend on the order of rows. Pure.

Per column three texts: how many values, a digest of them, and for text their bytes, for doubles
their low bits. The source answers once, after loading; DuckDB answers for the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from enum import Enum

from bench.schema import Column, Engine, Kind

DOUBLE_TOLERANCE = 1e-9
"""Sums of doubles depend on the order of the rows in their last digits."""


class Dialect(Enum):
    """Who computes the figures."""

    POSTGRES = "postgres"
    MARIADB = "mariadb"
    DUCKDB = "duckdb"


_HASH = {
    Dialect.POSTGRES: "sum(('x' || substr(md5({0}), 1, 8))::bit(32)::bigint)",
    Dialect.MARIADB: "sum(cast(conv(substr(md5({0}), 1, 8), 16, 10) AS unsigned))",
    Dialect.DUCKDB: "sum(cast('0x' || substr(md5({0}), 1, 8) AS bigint))",
}
_BYTES = {
    Dialect.POSTGRES: "sum(octet_length({0}))",
    Dialect.MARIADB: "sum(length({0}))",
    Dialect.DUCKDB: "sum(strlen({0}))",
}
_TEXT = {
    Dialect.POSTGRES: "{0}::text",
    Dialect.MARIADB: "cast({0} AS char)",
    Dialect.DUCKDB: "cast({0} AS varchar)",
}
_DATE = {
    Dialect.POSTGRES: "sum({0} - date '1970-01-01')",
    Dialect.MARIADB: "sum(to_days({0}) - 719528)",
    Dialect.DUCKDB: "sum(date_diff('day', date '1970-01-01', {0}))",
}
_MOMENT = {
    Dialect.POSTGRES: "sum((extract(epoch from {0}) * 1000000)::bigint)",
    Dialect.MARIADB: "sum(timestampdiff(microsecond, '1970-01-01', {0}))",
    Dialect.DUCKDB: "sum(epoch_us({0}))",
}
_BOOL = {
    Dialect.POSTGRES: "sum({0}::integer)",
    Dialect.MARIADB: "sum({0})",
    Dialect.DUCKDB: "sum({0}::integer)",
}
_JOINED = {
    Dialect.POSTGRES: "array_to_string({0}, ',', 'NULL')",
    Dialect.DUCKDB: "array_to_string(list_transform({0}, lambda x: coalesce(x, 'NULL')), ',')",
}
_LOW_BITS = "sum(floor({0} * 4294967296.0) - floor({0} * 1048576.0) * 4096.0)"
"""Bits 21 to 32 behind the binary point, as whole numbers, exact in every engine: a sum alone
would not notice that a column went through single precision."""
_NONE = "0"


def figures(column: Column, dialect: Dialect, engine: Engine) -> tuple[str, str, str]:
    """Three SQL expressions: count, digest, bytes. ``engine`` is where the values come from."""
    name = f'"{column.name}"' if dialect is not Dialect.MARIADB else f"`{column.name}`"
    count = f"count({name})"
    match column.compared_as(engine):
        case Kind.WHOLE | Kind.DECIMAL:
            return count, f"sum({name})", _NONE
        case Kind.DOUBLE:
            return count, f"sum({name})", _LOW_BITS.format(name)
        case Kind.BOOL:
            return count, _BOOL[dialect].format(name), _NONE
        case Kind.DATE:
            return count, _DATE[dialect].format(name), _NONE
        case Kind.MOMENT:
            return count, _MOMENT[dialect].format(name), _NONE
        case Kind.PADDED:
            stripped = f"rtrim({name})"
            return count, _HASH[dialect].format(stripped), _BYTES[dialect].format(name)
        case Kind.LIST:
            joined = _JOINED[dialect].format(name)
            return count, _HASH[dialect].format(joined), _BYTES[dialect].format(joined)
        case Kind.TEXT:
            text = _TEXT[dialect].format(name)
            return count, _HASH[dialect].format(text), _BYTES[dialect].format(text)


def statement(columns: Sequence[Column], dialect: Dialect, engine: Engine, relation: str) -> str:
    """One SELECT: the row count, then three figures a column."""
    wanted = [figure for column in columns for figure in figures(column, dialect, engine)]
    return f"SELECT count(*), {', '.join(wanted)} FROM {relation}"


def of_column(checks: Sequence[str], position: int) -> tuple[str, str, str]:
    """The three figures of the column at ``position`` in the answer to ``statement``."""
    start = 1 + 3 * position
    count, digest, size = checks[start : start + 3]
    return count, digest, size


def same(kind: Kind, wanted: Sequence[str], found: Sequence[str]) -> bool:
    """Whether two columns' figures agree; sums of doubles within ``DOUBLE_TOLERANCE``."""
    return all(_equal(kind, a, b) for a, b in zip(wanted, found, strict=True))


def _equal(kind: Kind, wanted: str, found: str) -> bool:
    try:
        a, b = Decimal(wanted), Decimal(found)
    except InvalidOperation:
        return _nothing(wanted) == _nothing(found)
    if kind is Kind.DOUBLE:
        return abs(a - b) <= Decimal(DOUBLE_TOLERANCE) * max(abs(a), abs(b))
    return a == b


def _nothing(text: str) -> str:
    """A sum over no rows, however a client writes it."""
    return "" if text in ("NULL", "None", "") else text
