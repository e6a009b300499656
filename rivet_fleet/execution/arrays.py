"""Cells of one column to one Arrow array: what every wire format's builders have in common.

A cell is one value's bytes as the source sent them, None for NULL. Nothing here knows an
engine; a builder takes the cells apart by its own format and ends in one of these functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import numpy as np
import pyarrow as pa

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType
from rivet_fleet.contracts.foreign import hinted
from rivet_fleet.contracts.url import MASK
from rivet_fleet.errors import MalformedData, UnsupportedType
from rivet_fleet.execution.types import arrow_type

Cells = list[bytes | None]
OFFSET_MAX = 2**31 - 1
"""Bytes one Arrow array of variable-width values can address (32-bit offsets)."""


# ---------------------------------------------------------------- refusals


def malformed(column: ColumnSpec, what: str, value: object = None) -> NoReturn:
    """Raise MalformedData naming the column: the bytes do not follow their own format. ``what``
    has ``{}`` where ``value`` belongs, which is a row's and shown on demand alone."""
    shown, unmasked = _told(what, value)
    raise MalformedData(
        f"column {column.name}: {shown}",
        unmasked=unmasked and f"column {column.name}: {unmasked}",
    )


def not_representable(column: ColumnSpec, what: str, hint: str, value: object = None) -> NoReturn:
    """Raise UnsupportedType: a valid value that the column's exported type cannot hold. ``what``
    and ``value`` as for ``malformed``."""
    shown, unmasked = _told(what, value)
    named = f"column {column.name} ({column.native_type})"
    raise UnsupportedType(
        f"{named}: {shown}",
        hint=hint if value is None else hinted(hint),
        code="RIVET_VALUE_NOT_REPRESENTABLE",
        unmasked=unmasked and f"{named}: {unmasked}",
    )


def _told(what: str, value: object) -> tuple[str, str | None]:
    """(what is said, what is said on demand)."""
    return (what, None) if value is None else (what.format(MASK), what.format(value))


def does_not_fit(column: ColumnSpec, precision: int, scale: int) -> NoReturn:
    """Raise UnsupportedType: a number that decimal(precision,scale) cannot hold exactly."""
    raise UnsupportedType(
        f"column {column.name} ({column.native_type}): a number does not fit "
        f"decimal({precision},{scale}) without losing digits",
        hint=f"widen it in `columns:` ({column.name}: decimal(p,s)), or export it as text",
        code="RIVET_DECIMAL_OVERFLOW",
    )


class Unfit:
    """What becomes of a valid value that its column's exported type cannot hold.

    ``coerce`` False: an error naming column, value and remedy. ``coerce`` True: NULL (invalid
    text: U+FFFD), counted in ``changed`` under the column's name.
    """

    def __init__(
        self, column: ColumnSpec, hint: str, changed: dict[str, int], *, coerce: bool
    ) -> None:
        self.coerce = coerce
        self._column, self._hint, self._changed = column, hint, changed

    def count(self, values: int = 1) -> None:
        """So many values are not what they were."""
        name = self._column.name
        self._changed[name] = self._changed.get(name, 0) + values

    def drop(self, what: str, values: int = 1, *, value: object = None) -> None:
        """These values become NULL; ``what`` names one. Raises UnsupportedType by policy."""
        if not self.coerce:
            not_representable(self._column, what, self._hint, value)
        self.count(values)

    def drop_where(
        self, mask: np.ndarray, what: str, valid: pa.Buffer | None, data: np.ndarray
    ) -> tuple[pa.Buffer | None, np.ndarray]:
        """Validity and data without the masked values. ``mask`` is False wherever NULL stands."""
        dropped = int(mask.sum())
        if not dropped:
            return valid, data
        self.drop(what, dropped)
        kept = np.packbits(~mask, bitorder="little")
        if valid is not None:
            kept &= np.frombuffer(valid, dtype=np.uint8)
        return pa.py_buffer(kept), np.where(mask, 0, data)


# ---------------------------------------------------------------- fixed width


def validity(cells: Cells) -> pa.Buffer | None:
    """The validity bitmap, None when no cell is NULL."""
    if None not in cells:
        return None
    mask = np.fromiter((cell is not None for cell in cells), dtype=bool, count=len(cells))
    return pa.py_buffer(np.packbits(mask, bitorder="little"))


def fixed_bytes(cells: Cells, width: int, column: ColumnSpec) -> tuple[pa.Buffer | None, bytes]:
    """Validity and the joined cells, NULLs as zero bytes. Raises MalformedData for a length."""
    valid = validity(cells)
    if valid is None:
        filled: list[bytes] = cells  # type: ignore[assignment]
    else:
        zero = bytes(width)
        filled = [zero if cell is None else cell for cell in cells]
    if set(map(len, filled)) - {width}:
        wrong = next(len(cell) for cell in filled if len(cell) != width)
        malformed(column, f"a value of {wrong} bytes where {width} were expected")
    return valid, b"".join(filled)


def numbers(cells: Cells, wire: str, column: ColumnSpec) -> tuple[pa.Buffer | None, np.ndarray]:
    """Validity and the cells as numbers of the numpy type ``wire``, NULLs as zero."""
    dtype = np.dtype(wire)
    valid, joined = fixed_bytes(cells, dtype.itemsize, column)
    return valid, np.frombuffer(joined, dtype=dtype)


def fixed_array(
    kind: pa.DataType, count: int, valid: pa.Buffer | None, data: np.ndarray | bytes
) -> pa.Array:
    """An array of fixed-width values from its two buffers."""
    return pa.Array.from_buffers(kind, count, [valid, pa.py_buffer(data)])


def byte_order(wire: str, native: str) -> Callable[[Cells, ColumnType, ColumnSpec], pa.Array]:
    """A builder for numbers whose only change is the byte order."""

    def build(cells: Cells, column_type: ColumnType, column: ColumnSpec) -> pa.Array:
        valid, values = numbers(cells, wire, column)
        return fixed_array(arrow_type(column_type), len(cells), valid, values.astype(native))

    return build


def uuids(cells: Cells, column_type: ColumnType, column: ColumnSpec) -> pa.Array:
    """UUIDs from cells of 16 bytes in network order. Raises MalformedData for other lengths."""
    valid, joined = fixed_bytes(cells, 16, column)
    storage = fixed_array(pa.binary(16), len(cells), valid, joined)
    return pa.ExtensionArray.from_storage(pa.uuid(), storage)


def decimals(cells: Cells, column_type: ColumnType, unscaled: Callable[[bytes], int]) -> pa.Array:
    """Decimals; ``unscaled`` gives value × 10^scale for one cell and checks that it fits.

    Equal cells are asked for once: amounts, rates and quantities repeat.
    """
    kind = arrow_type(column_type)
    width = kind.byte_width
    known: dict[bytes | None, bytes] = {None: bytes(width)}
    out = []
    for cell in cells:
        encoded = known.get(cell)
        if encoded is None:
            assert cell is not None
            known[cell] = encoded = unscaled(cell).to_bytes(width, "little", signed=True)
        out.append(encoded)
    return fixed_array(kind, len(cells), validity(cells), b"".join(out))


# ---------------------------------------------------------------- variable width


def text(cells: Cells, column: ColumnSpec, unfit: Unfit, hint: str) -> pa.Array:
    """Strings, checked to be UTF-8. Under ``coerce`` every ill-formed sequence becomes one
    U+FFFD (Unicode 3.9, "maximal subpart"), and the value is counted.

    Raises MalformedData, ``hint`` saying why the source sends such bytes and how to read them.
    """
    array = variable(cells, pa.string(), column)
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        if not unfit.coerce:
            message = f"column {column.name}: text that is not valid UTF-8"
            raise MalformedData(message, hint=hint) from None
        return variable([_replaced(cell, unfit) for cell in cells], pa.string(), column)
    return array


def _replaced(cell: bytes | None, unfit: Unfit) -> bytes | None:
    if cell is None:
        return None
    replaced = cell.decode("utf-8", "replace").encode()
    if replaced != cell:
        unfit.count()
    return replaced


def variable(cells: Cells, kind: pa.DataType, column: ColumnSpec) -> pa.Array:
    """An array of variable-width values (``binary``, or ``string`` not checked yet)."""
    valid = validity(cells)
    filled = [b"" if cell is None else cell for cell in cells]
    offsets = np.zeros(len(filled) + 1, dtype="<i8")
    np.cumsum(np.fromiter(map(len, filled), dtype="<i8", count=len(filled)), out=offsets[1:])
    if int(offsets[-1]) > OFFSET_MAX:
        malformed(column, "more than 2 GiB in one batch")
    buffers = [valid, pa.py_buffer(offsets.astype("<i4")), pa.py_buffer(b"".join(filled))]
    return pa.Array.from_buffers(kind, len(filled), buffers)
