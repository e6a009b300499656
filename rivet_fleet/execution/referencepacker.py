"""What ``packer`` computes, in pyarrow's own kernels: its specification, and what takes its place
where it was not built."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc


def plain_bytes(column: pa.DictionaryArray) -> int:
    """What ``plain`` would take: offsets and values, without validity."""
    lengths = pc.binary_length(column.dictionary).take(column.indices)
    return int(pc.sum(lengths).as_py() or 0) + 4 * (len(column) + 1)


def plain(column: pa.DictionaryArray) -> pa.Array:
    """A dictionary column of strings as strings. Raises OverflowError beyond 2 GiB."""
    size_bytes = plain_bytes(column) - 4 * (len(column) + 1)
    if size_bytes > 2**31 - 1:
        raise OverflowError(f"{size_bytes} bytes of text in one column of a page")
    return column.dictionary.take(column.indices)


def renumbered(
    columns: Sequence[pa.Array], distinct: int
) -> tuple[Sequence[pa.Array], pa.Array | None]:
    """Indices over one dictionary of ``distinct`` values, numbered by first appearance over all
    ``columns``; the old numbers in their new order, None when nothing changes."""
    order = pa.chunked_array(columns, pa.int32()).unique().drop_null()
    if order.equals(pa.array(range(distinct), pa.int32())):
        return columns, None
    return [pc.index_in(column, value_set=order) for column in columns], order


def narrowed(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """A decimal128 column as the decimal64 ``kind``. Raises OverflowError for what does not fit
    64 bits."""
    try:
        return column.cast(kind)
    except pa.ArrowInvalid as error:
        raise OverflowError(f"a number that {kind} cannot hold") from error


def encoded(column: pa.Array, bytes_max: int) -> pa.DictionaryArray:
    """A column of strings as a dictionary column, values in the order in which they first occur.
    When they are more than ``bytes_max`` bytes: each row's own value, none looked for twice."""
    shared = column.dictionary_encode()
    held_bytes = pc.sum(pc.binary_length(shared.dictionary)).as_py() or 0
    if held_bytes + 4 * len(shared.dictionary) <= bytes_max:
        return shared
    places = pa.array(range(len(column)), pa.int32())
    places = pc.if_else(column.is_valid(), places, pa.scalar(None, pa.int32()))
    return pa.DictionaryArray.from_arrays(places, column.fill_null(""))
