"""Checksums of columns that know no order (ADR 0021): what they are, and who computes them.

A column's checksum is the sum modulo 2^64 of one 64-bit hash for each of its values, so that sums
of pages, row groups and parts add up, whatever was cut where and however it was encoded. What is
hashed is the value, not how Arrow happens to hold it:

- whole numbers, dates (days), times, timestamps (microseconds), false and true as 0 and 1, and
  decimals by their unscaled value: 64 bits of two's complement, mixed. A decimal that needs more:
  its 16 or 32 bytes, little-endian, as bytes
- floats as doubles, by their bits: -0.0 is not 0.0, every NaN is the same one
- text (UTF-8), binary, JSON and UUIDs: the bytes, by a hash after wyhash
- NULL: a constant; a list: its length, then its elements' hashes in their order

The compiled version reads Arrow's buffers; ``reference_sum`` is its specification.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterable, Sequence
from functools import cache

import pyarrow as pa
import xxhash

from rivet_fleet.execution.packing import warn_of_slow_decoder
from rivet_fleet.execution.types import storage_of, width_of

# ------------------------------------------------------------------------------------------
# The hash of a row over several columns, for ``meta_columns.row_hash`` (ADR 0012, S5).
#
# XXH64, seed 0, of the row's image: for each column a byte 0 for NULL, else a byte 1, the value's
# length as four bytes little-endian, and the value as Arrow stores it; of a list the count of its
# elements, then their images. The image is injective, so neither NULL nor neighbouring texts
# are mixed up. The compiled version reads Arrow's buffers; this one is its specification.

HashRows = Callable[[Sequence[pa.Array]], pa.Array]
"""Columns of equal length → one int64 per row."""

_LENGTH = struct.Struct("<I")


@cache
def open_row_hash() -> HashRows:
    """The compiled hash where it was built, else this module's, with one warning."""
    try:
        from rivet_fleet.execution import rowhasher
    except ModuleNotFoundError:
        warn_of_slow_decoder("row hashes")
        return reference_hashes
    return rowhasher.hash_rows


def reference_hashes(columns: Sequence[pa.Array]) -> pa.Array:
    """One object per cell: short, and slow."""
    cells = [_images(storage_of(column)) for column in columns]
    hashes = (xxhash.xxh64_intdigest(b"".join(row)) for row in zip(*cells, strict=True))
    return pa.array([_signed(one) for one in hashes], pa.int64())


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _images(column: pa.Array) -> list[bytes]:
    present = column.is_valid().to_pylist()
    values = _values(column)
    return [
        b"\1" + _LENGTH.pack(length) + value if there else b"\0"
        for there, (length, value) in zip(present, values, strict=True)
    ]


def _values(column: pa.Array) -> list[tuple[int, bytes]]:
    kind = column.type
    if pa.types.is_list(kind):
        images = _images(storage_of(column.values))
        ends = _ends(column)
        return [
            (after - first, b"".join(images[first:after]))
            for first, after in itertools.pairwise(ends)
        ]
    if pa.types.is_boolean(kind):
        return [(1, bytes([bool(value)])) for value in column.to_pylist()]
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        ends = _ends(column)
        data = column.buffers()[2] or b""
        body = bytes(memoryview(data))
        return [(after - first, body[first:after]) for first, after in itertools.pairwise(ends)]
    width = width_of(kind)
    body = bytes(memoryview(column.buffers()[1] or b""))
    start = column.offset
    return [
        (width, body[row * width : (row + 1) * width]) for row in range(start, start + len(column))
    ]


def _ends(column: pa.Array) -> list[int]:
    """Where the values of a variable-width array begin and end."""
    buffer = column.buffers()[1]
    if buffer is None or not buffer.size:
        return [0] * (len(column) + 1)
    whole = memoryview(buffer).cast("i")
    return list(whole[column.offset : column.offset + len(column) + 1])


ColumnSum = Callable[[pa.Array], int]
"""A column of a type that ``is_summed`` → the sum of its hashes, 0 ≤ sum < 2^64."""

_MASK = 2**64 - 1
_NULL = 0xA0761D6478BD642F
_LIST = 0x589965CC75374CC3
_NAN = 0x7FF8000000000000
_SECRET = (0x2D358DCCAA6C78A5, 0x8BB84B93962EACC9, 0x4B33A62ED433D4A3, 0x4D5A2DA51DE1AA47)


@cache
def compiled_sum() -> ColumnSum | None:
    """The compiled sum, None where it was not built: then nothing is summed while writing,
    because the reference would cost more than all the rest."""
    try:
        from rivet_fleet.execution import columnsums
    except ModuleNotFoundError:
        return None
    return columnsums.column_sum


@cache
def patient_sum() -> ColumnSum:
    """For checking what others summed: the compiled sum, else the reference, with one warning."""
    compiled = compiled_sum()
    if compiled is None:
        warn_of_slow_decoder("checksums of columns")
        return reference_sum
    return compiled


RowChains = Callable[[Sequence[pa.Array]], bytearray]
"""Columns of equal length and of types that ``is_summed`` → for each row 64 bits, in the machine's
order: the hashes of its values, chained in the order of the columns. So equal values in other
columns, and values exchanged between rows, give other rows."""

_ROW = 0x8A91A6D40BF42040


@cache
def row_chains() -> RowChains:
    """For comparing what others read: compiled, else the reference, with one warning."""
    try:
        from rivet_fleet.execution import columnsums
    except ModuleNotFoundError:
        warn_of_slow_decoder("hashes of rows")
        return reference_chains
    return lambda columns: columnsums.row_chains(list(columns), _ROW)


def reference_chains(columns: Sequence[pa.Array]) -> bytearray:
    """One object per value: short, and slow."""
    out = bytearray()
    for values in zip(*map(_hashes, columns), strict=True):
        chained = _ROW
        for value in values:
            chained = mixed(chained ^ value)
        out += struct.pack("=Q", chained)
    return out


def is_summed(kind: pa.DataType) -> bool:
    """True for every type that a source delivers (``types``), packed ones included."""
    if isinstance(kind, pa.BaseExtensionType):
        return is_summed(kind.storage_type)
    if pa.types.is_timestamp(kind) or pa.types.is_time64(kind):
        return bool(kind.unit == "us")
    if pa.types.is_dictionary(kind):
        return bool(kind.index_type == pa.int32()) and is_summed(kind.value_type)
    if pa.types.is_list(kind):
        return is_summed(kind.value_type)
    return any(test(kind) for test in _SUMMED)


_SUMMED = (
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_float32,
    pa.types.is_float64,
    pa.types.is_decimal,
    pa.types.is_date32,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
)


class ColumnSums:
    """The checksums of one part's columns, as its pages go by."""

    def __init__(self, kind: str, schema: pa.Schema, column_sum: ColumnSum | None) -> None:
        """``kind``: what is summed, the word before the colon. Without ``column_sum`` there are
        no sums."""
        self._kind = kind
        self._sum = column_sum
        self._sums = {
            index: 0
            for index, field in enumerate(schema)
            if column_sum is not None and is_summed(field.type)
        }
        self._names = list(schema.names)

    def add(self, columns: list[pa.Array]) -> None:
        """The columns of one page, in the schema's order, packed or not."""
        if self._sum is None:
            return
        for index, before in self._sums.items():
            self._sums[index] = before + self._sum(columns[index]) & _MASK

    def texts(self) -> dict[str, str]:
        """Column → ``<kind>:<16 hex>``; columns without a checksum are left out."""
        return {self._names[index]: f"{self._kind}:{s:016x}" for index, s in self._sums.items()}


# ---------------------------------------------------------------- the specification


def reference_sum(column: pa.Array) -> int:
    """One object per value: short, and slow."""
    return sum(_hashes(column)) & _MASK


def _hashes(column: pa.Array) -> Iterable[int]:
    column = storage_of(column)
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _hashes(column.dictionary_decode())
    if pa.types.is_list(kind):
        return _list_hashes(column)
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        return _each(column, mixed)
    if pa.types.is_date32(kind):
        return _each(column.cast(pa.int32()), mixed)
    if pa.types.is_time64(kind) or pa.types.is_timestamp(kind):
        return _each(column.cast(pa.int64()), mixed)
    if pa.types.is_floating(kind):
        return _each(column, _float_hash)
    if pa.types.is_decimal(kind):
        return _each(_unscaled(column), _decimal_hash)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        column = column.cast(pa.large_binary())
    return _each(column, bytes_hash)


def _each(values: Iterable[object], hash_of: Callable[..., int]) -> Iterable[int]:
    plain = (v.as_py() if isinstance(v, pa.Scalar) else v for v in values)
    return (_NULL if value is None else hash_of(value) for value in plain)


def _list_hashes(column: pa.Array) -> Iterable[int]:
    elements = list(_hashes(column.values))
    ends = column.offsets.to_pylist()
    for there, (first, after) in zip(column.is_valid(), itertools.pairwise(ends), strict=True):
        hashed = mixed(_LIST + after - first)
        for element in elements[first:after]:
            hashed = mixed(hashed ^ element)
        yield hashed if there.as_py() else _NULL


def _unscaled(column: pa.Array) -> Iterable[int | None]:
    width, first = column.type.byte_width, column.offset
    body = bytes(memoryview(column.buffers()[1] or b""))
    for row, there in enumerate(column.is_valid()):
        at = (first + row) * width
        number = int.from_bytes(body[at : at + width], "little", signed=True)
        yield number if there.as_py() else None


def _float_hash(value: float) -> int:
    bits: int = struct.unpack("<Q", struct.pack("<d", value))[0]
    return mixed(_NAN if value != value else bits)


def _decimal_hash(unscaled: int) -> int:
    for width in (8, 16):
        if -(2 ** (8 * width - 1)) <= unscaled < 2 ** (8 * width - 1):
            break
    else:
        width = 32
    if width == 8:
        return mixed(unscaled)
    return bytes_hash(unscaled.to_bytes(width, "little", signed=True))


def mixed(number: int) -> int:
    """Sixty-four bits of a whole number, spread. It ends in a shift: a last multiplication would be
    linear, and so no more than a factor of the whole sum."""
    x = (number + 0x9E3779B97F4A7C15) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ x >> 32) * 0x94D049BB133111EB & _MASK
    return x ^ x >> 29


def bytes_hash(body: bytes) -> int:
    """wyhash (Wang Yi), final version 4, seed 0, default secret; but 17 to 48 bytes in one step of
    reads that overlap."""
    s0, s1, s2, s3 = _SECRET
    size, left, seed = len(body), len(body), _folded(s0, s1)
    if 16 < size <= 48:
        inner = min(size, 32) - 16
        seed = _folded(_word(body, 0) ^ s1, _word(body, 8) ^ seed) ^ _folded(
            _word(body, inner) ^ s2, _word(body, inner + 8) ^ s3
        )
        a, b = _word(body, size - 16), _word(body, size - 8)
    elif size > 48:
        at, second, third = 0, seed, seed
        while left >= 48:
            seed = _folded(_word(body, at) ^ s1, _word(body, at + 8) ^ seed)
            second = _folded(_word(body, at + 16) ^ s2, _word(body, at + 24) ^ second)
            third = _folded(_word(body, at + 32) ^ s3, _word(body, at + 40) ^ third)
            at, left = at + 48, left - 48
        seed ^= second ^ third
        while left > 16:
            seed = _folded(_word(body, at) ^ s1, _word(body, at + 8) ^ seed)
            at, left = at + 16, left - 16
        a, b = _word(body, size - 16), _word(body, size - 8)
    elif size >= 4:
        inner = size >> 3 << 2
        a = _half(body, 0) << 32 | _half(body, inner)
        b = _half(body, size - 4) << 32 | _half(body, size - 4 - inner)
    elif size:
        a, b = body[0] << 16 | body[size >> 1] << 8 | body[size - 1], 0
    else:
        a = b = 0
    product = (a ^ s1) * (b ^ seed)
    return _folded(product & _MASK ^ s0 ^ size, product >> 64 ^ s1)


def _folded(a: int, b: int) -> int:
    product = a * b
    return product & _MASK ^ product >> 64


def _word(body: bytes, at: int) -> int:
    return int.from_bytes(body[at : at + 8], "little")


def _half(body: bytes, at: int) -> int:
    return int.from_bytes(body[at : at + 4], "little")
