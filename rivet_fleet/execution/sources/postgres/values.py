"""One column of binary COPY cells to one Arrow array, per semantic type.

A value that Arrow cannot hold is an error that names the column and the cast to text, or, by the
plan's policy, a NULL that is counted (``Unfit``): ``infinity`` dates, timestamps and intervals,
the time ``24:00:00`` (Arrow's time ends before it, and readers turn it into 00:00), timestamps
after 294247-01-10 (64-bit microseconds since 1970 end there), numeric ``NaN`` and ``Infinity``,
arrays of several dimensions. The same holds for the elements of arrays. An array whose first
subscript is not 1 loses only that number, and is counted too. A number with more digits than its
decimal is always an error: a wider type carries it.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.execution.arrays import (
    Cells,
    Unfit,
    byte_order,
    decimals,
    does_not_fit,
    fixed_array,
    malformed,
    numbers,
    text,
    uuids,
    validity,
    variable,
)
from rivet_fleet.execution.sources.postgres.dialect import OID_JSONB, OID_OID
from rivet_fleet.execution.types import arrow_type

_UNIX_DAYS_OF_2000 = 10_957
_UNIX_US_OF_2000 = 946_684_800_000_000
_INT64_MAX = 2**63 - 1
_DAY_US = 86_400_000_000
# The server's own ends, from 2000-01-01: Julian day 0 (4714-11-24 BC) and 5874897-12-31. Beyond
# them lies damage, never a value.
_DATE_DAYS_MIN, _DATE_DAYS_MAX = -2_451_545, 2_145_031_948
_TIMESTAMP_US_MIN = -211_813_488_000_000_000


def build_column(
    cells: Cells, column: ColumnSpec, changed: dict[str, int], *, coerce: bool = False
) -> pa.Array:
    """The array of one column: type from ``column.type``, wire form from ``wire_type``.

    Raises MalformedData or UnsupportedType naming the column; with ``coerce`` a value that does
    not fit becomes NULL. Adds to ``changed``.
    """
    unfit = Unfit(column, _CAST_HINT.format(name=column.name), changed, coerce=coerce)
    if column.type.kind is TypeKind.LIST:
        return _list(cells, column, unfit)
    return _scalar(cells, column.type, column, unfit)


_CAST_HINT = (
    "export it as text: `columns: {{{name}: text}}`, or `{name}::text` in a `query:`; or let such "
    "values become NULL and be counted: `on_unrepresentable: coerce`"
)


def _scalar(cells: Cells, column_type: ColumnType, column: ColumnSpec, unfit: Unfit) -> pa.Array:
    kind = column_type.kind
    if kind in _EXACT:
        return _EXACT[kind](cells, column_type, column)
    return _POLICED[kind](cells, column_type, column, unfit)


# ---------------------------------------------------------------- fixed width


def _int64(cells: Cells, column_type: ColumnType, column: ColumnSpec) -> pa.Array:
    wire = ">u4" if column.wire_type == str(OID_OID) else ">i8"
    valid, values = numbers(cells, wire, column)
    return fixed_array(arrow_type(column_type), len(cells), valid, values.astype("<i8"))


def _bool(cells: Cells, column_type: ColumnType, column: ColumnSpec) -> pa.Array:
    valid, values = numbers(cells, "u1", column)
    if values.size and values.max() > 1:
        malformed(column, f"a boolean of {values.max()}")
    return fixed_array(pa.bool_(), len(cells), valid, np.packbits(values, bitorder="little"))


def _date(cells: Cells, column_type: ColumnType, column: ColumnSpec, unfit: Unfit) -> pa.Array:
    valid, days = numbers(cells, ">i4", column)
    infinite = (days == -(2**31)) | (days == 2**31 - 1)
    valid, days = unfit.drop_where(infinite, "the date is infinite", valid, days)
    if days.size and (int(days.min()) < _DATE_DAYS_MIN or int(days.max()) > _DATE_DAYS_MAX):
        malformed(column, "a date outside the server's own range")
    unix = days.astype("<i4") + np.int32(_UNIX_DAYS_OF_2000)
    return fixed_array(pa.date32(), len(cells), valid, unix)


def _time(cells: Cells, column_type: ColumnType, column: ColumnSpec, unfit: Unfit) -> pa.Array:
    valid, us = numbers(cells, ">i8", column)
    valid, us = unfit.drop_where(us == _DAY_US, "the time is 24:00:00", valid, us)
    if us.size and (int(us.min()) < 0 or int(us.max()) > _DAY_US):
        malformed(column, "a time outside the day")
    return fixed_array(pa.time64("us"), len(cells), valid, us.astype("<i8"))


def _timestamp(cells: Cells, column_type: ColumnType, column: ColumnSpec, unfit: Unfit) -> pa.Array:
    valid, us = numbers(cells, ">i8", column)
    infinite = (us == -(2**63)) | (us == _INT64_MAX)
    valid, us = unfit.drop_where(infinite, "the timestamp is infinite", valid, us)
    late = us > _INT64_MAX - _UNIX_US_OF_2000
    valid, us = unfit.drop_where(late, "the timestamp is later than 294247-01-10", valid, us)
    if us.size and int(us.min()) < _TIMESTAMP_US_MIN:
        malformed(column, "a timestamp outside the server's own range")
    unix = us.astype("<i8") + np.int64(_UNIX_US_OF_2000)
    return fixed_array(arrow_type(column_type), len(cells), valid, unix)


# ---------------------------------------------------------------- variable width


def _binary(cells: Cells, column_type: ColumnType, column: ColumnSpec) -> pa.Array:
    return variable(cells, pa.binary(), column)


_NOT_UTF8_HINT = (
    "the database's encoding does not promise valid text (SQL_ASCII?); export the column as "
    "bytes: convert_to(…) in a `query:`; or replace what is not text: `on_unrepresentable: coerce`"
)


def _string(cells: Cells, column_type: ColumnType, column: ColumnSpec, unfit: Unfit) -> pa.Array:
    return text(cells, column, unfit, _NOT_UTF8_HINT)


def _json(cells: Cells, column_type: ColumnType, column: ColumnSpec, unfit: Unfit) -> pa.Array:
    if column.wire_type == str(OID_JSONB):
        for cell in cells:
            if cell is not None and cell[:1] != b"\x01":
                malformed(column, "jsonb of an unknown version")
        cells = [None if cell is None else cell[1:] for cell in cells]
    return pa.ExtensionArray.from_storage(
        pa.json_(pa.string()), _string(cells, column_type, column, unfit)
    )


# ---------------------------------------------------------------- interval

_INTERVAL = struct.Struct(">qii")
_INTERVAL_INFINITE = {
    (_INT64_MAX, 2**31 - 1, 2**31 - 1),
    (-(2**63), -(2**31), -(2**31)),
}


def _interval(cells: Cells, column_type: ColumnType, column: ColumnSpec, unfit: Unfit) -> pa.Array:
    texts: Cells = []
    for cell in cells:
        if cell is None:
            texts.append(None)
            continue
        if len(cell) != _INTERVAL.size:
            malformed(column, f"an interval of {len(cell)} bytes")
        us, days, months = _INTERVAL.unpack(cell)
        if (us, days, months) in _INTERVAL_INFINITE:
            unfit.drop("the interval is infinite")
            texts.append(None)
            continue
        texts.append(iso_interval(months, days, us).encode())
    return variable(texts, pa.string(), column)


def iso_interval(months: int, days: int, us: int) -> str:
    """ISO-8601 text, a sign on each component: ``P1Y2M3DT4H5M6.5S``, ``P-1Y``, ``PT0S``."""
    years, months = _toward_zero(months, 12)
    date = "".join(f"{n}{unit}" for n, unit in ((years, "Y"), (months, "M"), (days, "D")) if n)
    sign, rest = ("-", -us) if us < 0 else ("", us)
    minutes, second_us = divmod(rest, 60_000_000)
    hours, minutes = divmod(minutes, 60)
    time = f"{sign}{hours}H" if hours else ""
    time += f"{sign}{minutes}M" if minutes else ""
    if second_us:
        seconds, fraction = divmod(second_us, 1_000_000)
        time += f"{sign}{seconds}" + (f".{fraction:06d}".rstrip("0") if fraction else "") + "S"
    if not date and not time:
        return "PT0S"
    return f"P{date}" + (f"T{time}" if time else "")


def _toward_zero(value: int, divisor: int) -> tuple[int, int]:
    quotient, remainder = divmod(abs(value), divisor)
    return (-quotient, -remainder) if value < 0 else (quotient, remainder)


# ---------------------------------------------------------------- numeric

_NUMERIC = struct.Struct(">HhHH")
_NEGATIVE = 0x4000
_NOT_FINITE = {0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}


def _decimal(cells: Cells, column_type: ColumnType, column: ColumnSpec, unfit: Unfit) -> pa.Array:
    cells = [_finite(cell, unfit) for cell in cells]
    return decimals(cells, column_type, lambda cell: unscaled_numeric(cell, column_type, column))


def _finite(cell: bytes | None, unfit: Unfit) -> bytes | None:
    """The cell, None when it is NaN or infinite and may be dropped."""
    if cell is None or len(cell) < _NUMERIC.size:
        return cell
    what = _NOT_FINITE.get(_NUMERIC.unpack_from(cell)[2])
    if what is None:
        return cell
    unfit.drop(f"the number is {what}")
    return None


def unscaled_numeric(cell: bytes, column_type: ColumnType, column: ColumnSpec) -> int:
    """The integer ``value × 10^scale``, exact; refuses what does not fit (p,s)."""
    precision, scale = column_type.precision or 0, column_type.scale or 0
    if len(cell) < _NUMERIC.size:
        malformed(column, f"a numeric of {len(cell)} bytes")
    digits, weight, sign, _ = _NUMERIC.unpack_from(cell)
    if sign not in (0, _NEGATIVE) or len(cell) != _NUMERIC.size + 2 * digits:
        malformed(column, f"a numeric whose {len(cell)} bytes contradict each other")
    number: int = 0
    for digit in struct.unpack_from(f">{digits}H", cell, _NUMERIC.size):
        if digit > 9999:
            malformed(column, f"a numeric digit of {digit}")
        number = number * 10_000 + digit
    if number == 0:
        return 0
    shift = 4 * (weight - digits + 1) + scale
    # Compared before the power is taken: a lying weight must not cost memory or time.
    if shift > precision:
        does_not_fit(column, precision, scale)
    if shift >= 0:
        number *= 10**shift
    else:
        number, lost = divmod(number, 10 ** min(-shift, 4 * digits + 1))
        if lost:
            does_not_fit(column, precision, scale)
    if number >= 10**precision:
        does_not_fit(column, precision, scale)
    return -number if sign == _NEGATIVE else number


# ---------------------------------------------------------------- arrays

_ARRAY_HEAD = struct.Struct(">iiI")
_ARRAY_DIMENSION = struct.Struct(">ii")
_LENGTH = struct.Struct(">i")
_DIMENSIONS_MAX = 6
"""``MAXDIM`` of the server: more of them are damage, not a value."""


def _list(cells: Cells, column: ColumnSpec, unfit: Unfit) -> pa.Array:
    element = column.type.element
    assert element is not None
    flat: Cells = []
    lengths = []
    cells = [_flat(cell, unfit) for cell in cells]
    for cell in cells:
        before = len(flat)
        if cell is not None and _elements(cell, element, column, flat) != 1:
            unfit.count()
        lengths.append(len(flat) - before)
    offsets = np.array([0, *itertools.accumulate(lengths)], dtype="<i4")
    valid = validity(cells)
    kind = arrow_type(column.type)
    return pa.Array.from_buffers(
        kind,
        len(cells),
        [valid, pa.py_buffer(offsets)],
        children=[_scalar(flat, element, column, unfit)],
    )


def _flat(cell: bytes | None, unfit: Unfit) -> bytes | None:
    """The cell, None when it has several dimensions and may be dropped."""
    if cell is None or len(cell) < _ARRAY_HEAD.size:
        return cell
    dimensions = _ARRAY_HEAD.unpack_from(cell)[0]
    if not 1 < dimensions <= _DIMENSIONS_MAX:
        return cell
    unfit.drop(f"the array has {dimensions} dimensions")
    return None


def _elements(cell: bytes, element: ColumnType, column: ColumnSpec, flat: Cells) -> int:
    """Append the elements of one array to ``flat``; its first subscript."""
    if len(cell) < _ARRAY_HEAD.size:
        malformed(column, f"an array of {len(cell)} bytes")
    dimensions, _, element_oid = _ARRAY_HEAD.unpack_from(cell)
    if element.kind is not TypeKind.ENUM and str(element_oid) != column.wire_type:
        malformed(column, f"an array of type {element_oid} instead of {column.wire_type}")
    if dimensions == 0 and len(cell) == _ARRAY_HEAD.size:
        return 1
    position = _ARRAY_HEAD.size + _ARRAY_DIMENSION.size
    if dimensions != 1 or len(cell) < position:
        malformed(column, "an array without a valid dimension")
    count, first = _ARRAY_DIMENSION.unpack_from(cell, _ARRAY_HEAD.size)
    if not 0 <= count <= (len(cell) - position) // 4:
        malformed(column, f"an array of {count} elements in {len(cell)} bytes")
    for _ in range(count):
        if position + 4 > len(cell):
            malformed(column, "an array that ends in the middle")
        (length,) = _LENGTH.unpack_from(cell, position)
        position += 4
        if length == -1:
            flat.append(None)
            continue
        if length < 0 or position + length > len(cell):
            malformed(column, f"an array element of {length} bytes")
        flat.append(cell[position : position + length])
        position += length
    if position != len(cell):
        malformed(column, "an array with bytes after its last element")
    return int(first)


_EXACT: dict[TypeKind, Callable[[Cells, ColumnType, ColumnSpec], pa.Array]] = {
    TypeKind.BOOL: _bool,
    TypeKind.INT16: byte_order(">i2", "<i2"),
    TypeKind.INT32: byte_order(">i4", "<i4"),
    TypeKind.INT64: _int64,
    TypeKind.FLOAT32: byte_order(">f4", "<f4"),
    TypeKind.FLOAT64: byte_order(">f8", "<f8"),
    TypeKind.BINARY: _binary,
    TypeKind.UUID: uuids,
}
"""Kinds that hold every value their source type has."""

_POLICED: dict[TypeKind, Callable[[Cells, ColumnType, ColumnSpec, Unfit], pa.Array]] = {
    TypeKind.DECIMAL: _decimal,
    TypeKind.DATE: _date,
    TypeKind.TIME: _time,
    TypeKind.TIMESTAMP: _timestamp,
    TypeKind.TIMESTAMP_UTC: _timestamp,
    TypeKind.STRING: _string,
    TypeKind.JSON: _json,
    TypeKind.ENUM: _string,
    TypeKind.INTERVAL: _interval,
}
"""Kinds some values of which need the plan's policy."""
