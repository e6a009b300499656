"""The hash of a row over several columns, for ``meta_columns.row_hash`` (ADR 0012, S5).

XXH64, seed 0, of the row's image: for each column a byte 0 for NULL, else a byte 1, the value's
length as four bytes little-endian, and the value as Arrow stores it; of a list the count of its
elements, then their images. The image is injective, so neither NULL nor neighbouring texts
are mixed up. The compiled version reads Arrow's buffers; this one is its specification.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Sequence
from functools import cache

import pyarrow as pa
import xxhash

from rivet_fleet.execution.slowdecoder import warn_of_slow_decoder

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


def storage_of(column: pa.Array) -> pa.Array:
    """The array below an extension type (UUID, JSON)."""
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def width_of(kind: pa.DataType) -> int:
    """Bytes of one value of a fixed-width type as Arrow stores it."""
    return int(kind.bit_width) // 8


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
