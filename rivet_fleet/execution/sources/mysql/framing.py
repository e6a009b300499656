"""How a column travels: which wire types its kind can be read from, and where its cells end.

Formats: MySQL internals manual, "Binary Protocol Value". Imports nothing that a worker with
compiled decoders could do without.
"""

from __future__ import annotations

from rivet_fleet.contracts.columns import ColumnSpec, TypeKind
from rivet_fleet.errors import UnsupportedType
from rivet_fleet.execution.sources.mysql.wire import STRINGS

LENGTH_ENCODED, DATE_LENGTH, TIME_LENGTH = -1, -2, -3
"""How a cell without a fixed width says its length: see ``framing``."""

BIT, _YEAR, _JSON, _DECIMALS = 16, 13, 245, (0, 246)
_DATES, _TIMES, _TIMESTAMPS = (10, 14), (11,), (7, 12)
NUMBERS = {
    "1": "i1",
    "1:unsigned": "u1",
    "2": "<i2",
    "2:unsigned": "<u2",
    "3": "<i4",
    "3:unsigned": "<u4",
    "4": "<f4",
    "5": "<f8",
    "8": "<i8",
    "8:unsigned": "<u8",
    "9": "<i4",
    "9:unsigned": "<u4",
    "13": "<u2",
}
"""Wire type → numpy type."""
_INTEGER_TYPES = tuple(wire for wire, dtype in NUMBERS.items() if "f" not in dtype)

_STRING_TYPES = tuple(f"{code}{binary}" for code in sorted(STRINGS) for binary in ("", ":binary"))
_TEXTS = (*_STRING_TYPES, str(_JSON))
_INTEGERS = (*_INTEGER_TYPES, str(BIT))

_WIRE_TYPES: dict[TypeKind, tuple[str, ...]] = {
    TypeKind.BOOL: _INTEGERS,
    TypeKind.INT16: _INTEGERS,
    TypeKind.INT32: _INTEGERS,
    TypeKind.INT64: _INTEGERS,
    TypeKind.UINT64: _INTEGERS,
    TypeKind.FLOAT32: ("4", "5"),
    TypeKind.FLOAT64: ("4", "5"),
    TypeKind.DECIMAL: tuple(map(str, _DECIMALS)),
    TypeKind.DATE: tuple(map(str, _DATES)),
    TypeKind.TIME: tuple(map(str, _TIMES)),
    TypeKind.TIMESTAMP: tuple(map(str, _TIMESTAMPS)),
    TypeKind.TIMESTAMP_UTC: tuple(map(str, _TIMESTAMPS)),
    TypeKind.STRING: _TEXTS,
    TypeKind.ENUM: _TEXTS,
    TypeKind.JSON: _TEXTS,
    TypeKind.BINARY: (*_TEXTS, str(BIT), "255"),
    TypeKind.UUID: _STRING_TYPES,
}
"""Kind → the wire types it can be read from. A double read as float32 is rounded: the plan calls
that override lossy."""


def framing(column: ColumnSpec) -> int:
    """How a cell of this column is delimited: its width in bytes, or LENGTH_ENCODED, or one byte
    that says 0, 4, 7 or 11 (DATE_LENGTH), or 0, 8 or 12 (TIME_LENGTH). Raises UnsupportedType
    when the column's planned type cannot be read from its wire type."""
    code, _, _ = column.wire_type.partition(":")
    kind = column.type.kind
    if column.wire_type not in _WIRE_TYPES.get(kind, ()):
        raise UnsupportedType(
            f"column {column.name} ({column.native_type}): {kind.value} cannot be read from wire "
            f"type {column.wire_type!r}",
            hint="plan the export again, or choose another type in `columns:`",
        )
    if column.wire_type in NUMBERS:
        return int(NUMBERS[column.wire_type][-1])
    if int(code) in _DATES + _TIMESTAMPS:
        return DATE_LENGTH
    return TIME_LENGTH if int(code) in _TIMES else LENGTH_ENCODED
