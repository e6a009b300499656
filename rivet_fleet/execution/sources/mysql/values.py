"""One column of binary-protocol cells to one Arrow array, per semantic type: the specification.

Formats: MySQL internals manual, "Binary Protocol Value". Numbers are little-endian, BIT is
big-endian, decimals are text, dates and times are cut off behind their last part that is not
zero. A value that the exported type cannot hold is an error naming column, value and remedy, or,
by the plan's policy, a NULL that is counted (``Unfit``): zero dates (``0000-00-00``), partial and
impossible dates (``2024-02-00``, ``2024-02-31`` under ALLOW_INVALID_DATES), times below 00:00 or
from 24:00 on, text that is no UUID. ``tinyint(1)`` may hold more than 0 and 1: by the same policy
an error, or true and counted. A number beyond its integer or decimal is always an error: a wider
type carries it.
"""

from __future__ import annotations

import datetime
import re
import struct
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from rivet_fleet.contracts.columns import ColumnSpec, TypeKind
from rivet_fleet.execution.arrays import (
    Cells,
    Unfit,
    decimals,
    does_not_fit,
    fixed_array,
    malformed,
    not_representable,
    numbers,
    text,
    uuids,
    variable,
)
from rivet_fleet.execution.sources.mysql.wire import BIT, NUMBERS
from rivet_fleet.execution.types import arrow_type

_DAY_US = 86_400_000_000
_UNIX_EPOCH_ORDINAL = datetime.date(1970, 1, 1).toordinal()
_LEAP_CYCLE_YEARS, _LEAP_CYCLE_DAYS = 400, 146_097
_TIME_US_MAX = 839 * 3_600_000_000 - 1

Builder = Callable[[Cells, ColumnSpec, Unfit], pa.Array]


def build_column(
    cells: Cells, column: ColumnSpec, changed: dict[str, int], *, coerce: bool = False
) -> pa.Array:
    """The array of one column: type from ``column.type``, wire form from ``wire_type``.

    Raises MalformedData or UnsupportedType naming the column; with ``coerce`` a value that does
    not fit becomes NULL (text: U+FFFD; a number read as a boolean: true). Adds to ``changed``.
    """
    unfit = Unfit(column, _hint(column), changed, coerce=coerce)
    return _BUILDERS[column.type.kind](cells, column, unfit)


def _hint(column: ColumnSpec) -> str:
    carrier = "int16" if column.type.kind is TypeKind.BOOL else "text"
    return (
        f"export it as {carrier}: `columns: {{{column.name}: {carrier}}}`; or let such values be "
        "changed and counted: `on_unrepresentable: coerce`"
    )


# ---------------------------------------------------------------- numbers


def _bits(cells: Cells, column: ColumnSpec) -> tuple[pa.Buffer | None, np.ndarray]:
    """BIT(1..64): one to eight bytes, the most significant first."""
    widened: Cells = []
    for cell in cells:
        if cell == b"":
            malformed(column, "a bit value of no bytes")
        widened.append(None if cell is None else cell.rjust(8, b"\0"))
    return numbers(widened, ">u8", column)


def _whole_numbers(cells: Cells, column: ColumnSpec) -> tuple[pa.Buffer | None, np.ndarray]:
    if column.wire_type == str(BIT):
        return _bits(cells, column)
    return numbers(cells, NUMBERS[column.wire_type], column)


def _integer(cells: Cells, column: ColumnSpec, unfit: Unfit) -> pa.Array:
    kind = arrow_type(column.type)
    target = np.dtype(f"{'u' if pa.types.is_unsigned_integer(kind) else 'i'}{kind.bit_width // 8}")
    valid, values = _whole_numbers(cells, column)
    if values.size:
        limits = np.iinfo(target)
        for value in (int(values.min()), int(values.max())):
            if not limits.min <= value <= limits.max:
                hint = f"choose a wider type in `columns:` ({column.name}: …)"
                not_representable(
                    column, f"{{}} does not fit {column.type.kind.value}", hint, value
                )
    return fixed_array(kind, len(cells), valid, values.astype(target))


def _boolean(cells: Cells, column: ColumnSpec, unfit: Unfit) -> pa.Array:
    valid, values = _whole_numbers(cells, column)
    others = (values != 0) & (values != 1)
    if others.any():
        if not unfit.coerce:
            found = values[int(others.argmax())]
            not_representable(column, "{} is neither 0 nor 1", _hint(column), found)
        unfit.count(int(others.sum()))
    return fixed_array(pa.bool_(), len(cells), valid, np.packbits(values != 0, bitorder="little"))


def _float(cells: Cells, column: ColumnSpec, unfit: Unfit) -> pa.Array:
    valid, values = numbers(cells, NUMBERS[column.wire_type], column)
    kind = arrow_type(column.type)
    with np.errstate(over="ignore"):
        carried = values.astype(f"f{kind.bit_width // 8}")
    if np.isinf(carried).sum() != np.isinf(values).sum():
        hint = f"choose a wider type in `columns:` ({column.name}: float64)"
        not_representable(column, f"a number is beyond {column.type.kind.value}", hint)
    return fixed_array(kind, len(cells), valid, carried)


_DECIMAL_TEXT = re.compile(rb"(-?)([0-9]*)(?:\.([0-9]*))?")
_DECIMAL_BYTES_MAX = 128
"""The longest a server writes has 65 digits, a sign, a point and a zero before it."""


def _decimal(cells: Cells, column: ColumnSpec, unfit: Unfit) -> pa.Array:
    return decimals(cells, column.type, lambda cell: unscaled_decimal(cell, column))


def unscaled_decimal(cell: bytes, column: ColumnSpec) -> int:
    """The integer ``value × 10^scale`` of a decimal's text, exact; refuses what does not fit."""
    precision, scale = column.type.precision or 0, column.type.scale or 0
    match = _DECIMAL_TEXT.fullmatch(cell) if len(cell) <= _DECIMAL_BYTES_MAX else None
    if match is None or not (match[2] or match[3]):
        malformed(column, f"a decimal of {len(cell)} bytes that is not one")
    fraction = (match[3] or b"").ljust(scale, b"0")
    if fraction[scale:].strip(b"0"):
        does_not_fit(column, precision, scale)
    number = int(match[2] + fraction[:scale] or b"0")
    if number >= 10**precision:
        does_not_fit(column, precision, scale)
    return -number if match[1] else number


# ---------------------------------------------------------------- dates and times

_DATE = struct.Struct("<HBB")
_CLOCK = struct.Struct("<BBB")
_TIME_HEAD = struct.Struct("<BI")
Moment = tuple[int, int, int, int]
"""Year, month, day, and the microseconds since midnight."""


def _clock_us(cell: bytes, position: int, column: ColumnSpec) -> int:
    """Hours to microseconds, as far as the cell goes. Raises MalformedData."""
    if len(cell) <= position:
        return 0
    hours, minutes, seconds = _CLOCK.unpack_from(cell, position)
    us = int.from_bytes(cell[position + _CLOCK.size :], "little")
    if hours > 23 or minutes > 59 or seconds > 59 or us > 999_999:
        malformed(column, "the clock time {} microseconds", f"{hours}:{minutes}:{seconds} and {us}")
    return int(((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + us)


def _moment(cell: bytes, column: ColumnSpec) -> Moment:
    """The parts of a date or datetime of 0, 4, 7 or 11 bytes. Raises MalformedData."""
    if not cell:
        return 0, 0, 0, 0
    if len(cell) not in (4, 7, 11):
        malformed(column, f"a date of {len(cell)} bytes")
    year, month, day = _DATE.unpack_from(cell)
    if year > 9999 or month > 12 or day > 31:
        malformed(column, "the date {}", f"{year:04}-{month:02}-{day:02}")
    return year, month, day, _clock_us(cell, _DATE.size, column)


def days_since_1970(year: int, month: int, day: int) -> int | None:
    """Days in the proleptic Gregorian calendar, years 0 to 9999; None: there is no such day."""
    # Python's calendar begins with year 1: year 0 is counted one leap cycle later.
    cycles = 1 if year == 0 else 0
    try:
        shifted = datetime.date(year + cycles * _LEAP_CYCLE_YEARS, month, day)
    except ValueError:
        return None
    return shifted.toordinal() - cycles * _LEAP_CYCLE_DAYS - _UNIX_EPOCH_ORDINAL


def _date(cells: Cells, column: ColumnSpec, unfit: Unfit) -> pa.Array:
    def days(cell: bytes) -> int | None:
        year, month, day, us = _moment(cell, column)
        if us:
            malformed(column, "a date with a time of the day")
        return days_since_1970(year, month, day)

    values = _each(cells, days, lambda cell: _shown_moment(_moment(cell, column))[:10], unfit)
    return pa.array(values, type=pa.int32()).view(pa.date32())


def _timestamp(cells: Cells, column: ColumnSpec, unfit: Unfit) -> pa.Array:
    def since_1970_us(cell: bytes) -> int | None:
        year, month, day, us = _moment(cell, column)
        days = days_since_1970(year, month, day)
        return None if days is None else days * _DAY_US + us

    values = _each(cells, since_1970_us, lambda cell: _shown_moment(_moment(cell, column)), unfit)
    return pa.array(values, type=pa.int64()).view(arrow_type(column.type))


def _span_us(cell: bytes, column: ColumnSpec) -> int:
    """The signed microseconds of a TIME of 0, 8 or 12 bytes. Raises MalformedData."""
    if not cell:
        return 0
    if len(cell) not in (8, 12):
        malformed(column, f"a time of {len(cell)} bytes")
    negative, days = _TIME_HEAD.unpack_from(cell)
    us = int(days) * _DAY_US + _clock_us(cell, _TIME_HEAD.size, column)
    if negative > 1 or us > _TIME_US_MAX:
        malformed(column, f"a time of {us} microseconds and sign {negative}")
    return -us if negative else us


def _time(cells: Cells, column: ColumnSpec, unfit: Unfit) -> pa.Array:
    def of_day_us(cell: bytes) -> int | None:
        us = _span_us(cell, column)
        return us if 0 <= us < _DAY_US else None

    values = _each(cells, of_day_us, lambda cell: _shown_span(_span_us(cell, column)), unfit)
    return pa.array(values, type=pa.int64()).view(pa.time64("us"))


def _each(
    cells: Cells,
    convert: Callable[[bytes], int | None],
    shown: Callable[[bytes], str],
    unfit: Unfit,
) -> list[int | None]:
    """Every cell converted, equal ones once; None from ``convert`` is a value that is dropped."""
    known: dict[bytes, int | None] = {}
    values: list[int | None] = []
    for cell in cells:
        if cell is None:
            values.append(None)
            continue
        if cell not in known:
            known[cell] = convert(cell)
        if known[cell] is None:
            said = shown(cell)
            # A zero date says nothing of its row: it is what was put where nothing was known.
            if said.startswith(_ZERO_DATE):
                unfit.drop(f"the value is {said}")
            else:
                unfit.drop("the value is {}", value=said)
        values.append(known[cell])
    return values


_ZERO_DATE = "0000-00-00"


def _shown_moment(moment: Moment) -> str:
    year, month, day, us = moment
    return f"{year:04}-{month:02}-{day:02} {_shown_span(us)}"


def _shown_span(span_us: int) -> str:
    seconds, us = divmod(abs(span_us), 1_000_000)
    sign = "-" if span_us < 0 else ""
    clock = f"{sign}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return clock + (f".{us:06}" if us else "")


# ---------------------------------------------------------------- text and bytes

_NOT_UTF8_HINT = (
    "bytes that are no text, or characters that UTF-8 has no form of; export the column as bytes "
    "(`columns:` … binary); or replace what is not text: `on_unrepresentable: coerce`"
)
_UUID_TEXT = re.compile(rb"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def _string(cells: Cells, column: ColumnSpec, unfit: Unfit) -> pa.Array:
    return text(cells, column, unfit, _NOT_UTF8_HINT)


def _json(cells: Cells, column: ColumnSpec, unfit: Unfit) -> pa.Array:
    return pa.ExtensionArray.from_storage(pa.json_(pa.string()), _string(cells, column, unfit))


def _binary(cells: Cells, column: ColumnSpec, unfit: Unfit) -> pa.Array:
    return variable(cells, pa.binary(), column)


def _uuid(cells: Cells, column: ColumnSpec, unfit: Unfit) -> pa.Array:
    """Bytes are the UUID itself when there are 16 of them; text has its canonical 36 characters."""
    raw = column.wire_type.endswith(":binary")
    found: Cells = []
    for cell in cells:
        if cell is not None and not (raw and len(cell) == 16):
            if _UUID_TEXT.fullmatch(cell):
                cell = bytes.fromhex(cell.replace(b"-", b"").decode("ascii"))
            else:
                unfit.drop("{} is no UUID", value=repr(cell[:40]))
                cell = None
        found.append(cell)
    return uuids(found, column.type, column)


# ---------------------------------------------------------------- tables

_BUILDERS: dict[TypeKind, Builder] = {
    TypeKind.BOOL: _boolean,
    TypeKind.INT16: _integer,
    TypeKind.INT32: _integer,
    TypeKind.INT64: _integer,
    TypeKind.UINT64: _integer,
    TypeKind.FLOAT32: _float,
    TypeKind.FLOAT64: _float,
    TypeKind.DECIMAL: _decimal,
    TypeKind.DATE: _date,
    TypeKind.TIME: _time,
    TypeKind.TIMESTAMP: _timestamp,
    TypeKind.TIMESTAMP_UTC: _timestamp,
    TypeKind.STRING: _string,
    TypeKind.ENUM: _string,
    TypeKind.JSON: _json,
    TypeKind.BINARY: _binary,
    TypeKind.UUID: _uuid,
}
