"""Packed columns: the form in which a Parquet writer takes them most cheaply (ADR 0014).

A page has the reader's schema (the nominal one), or, where it was asked for, columns of it packed:
a decimal of up to 18 digits as ``decimal64``, text that repeats as ``dictionary<int32, string>``.
Nothing but the type of such an array differs: names, nullability and metadata stay.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from types import ModuleType

import pyarrow as pa

from rivet_fleet.execution.types import empty_batch

DECIMAL64_PRECISION_MAX = 18
REPEATED_TEXT = pa.dictionary(pa.int32(), pa.string())
DICTIONARY_BYTES_MAX = 1024 * 1024
"""Where the Parquet library itself gives a dictionary up."""


def is_repeated(kind: pa.DataType) -> bool:
    """True for the packed form of text."""
    return bool(kind == REPEATED_TEXT)


def number_type(kind: pa.DataType) -> pa.DataType:
    """``decimal64`` for a decimal that it holds; every other type as it is."""
    if pa.types.is_decimal128(kind) and kind.precision <= DECIMAL64_PRECISION_MAX:
        return pa.decimal64(kind.precision, kind.scale)
    return kind


def dressed(arrays: Sequence[pa.Array], schema: pa.Schema) -> pa.RecordBatch:
    """A batch of ``schema``, with the types that the arrays have."""
    return pa.RecordBatch.from_arrays(arrays, schema=typed(schema, [a.type for a in arrays]))


def typed(schema: pa.Schema, kinds: Sequence[pa.DataType]) -> pa.Schema:
    """The same fields and metadata with other types; ``schema`` itself when they are its own."""
    if all(field.type == kind for field, kind in zip(schema, kinds, strict=True)):
        return schema
    fields = [field.with_type(kind) for field, kind in zip(schema, kinds, strict=True)]
    return pa.schema(fields, metadata=schema.metadata)


def alike(batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> list[pa.RecordBatch]:
    """Batches of nominal ``schema``, each packed in its own way, in the one form that suits most
    of their rows."""
    first = batches[0].schema
    if all(batch.schema.equals(first) for batch in batches):
        return list(batches)
    kinds = packed_schema(schema, batches).types
    return [dressed([*map(formed, batch.columns, kinds)], schema) for batch in batches]


def packed_schema(schema: pa.Schema, batches: Sequence[pa.RecordBatch]) -> pa.Schema:
    """The form for batches of nominal ``schema``: every decimal that can be packed, and as
    dictionaries the text of which at least half of the rows came so."""
    rows = sum(batch.num_rows for batch in batches)
    kinds = []
    for index, field in enumerate(schema):
        came_so = sum(b.num_rows for b in batches if is_repeated(b.column(index).type))
        kinds.append(REPEATED_TEXT if 0 < rows <= 2 * came_so else number_type(field.type))
    return typed(schema, kinds)


def formed(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """The same values as ``kind``: packed, unpacked or as they are."""
    if column.type == kind:
        return column
    if is_repeated(column.type):
        return _kernels().plain(column)
    if is_repeated(kind):
        return _kernels().encoded(column, DICTIONARY_BYTES_MAX)
    return _kernels().narrowed(column, kind)


def shared(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A dictionary column whose chunks have one dictionary, of the values that occur, in the
    order in which they first do: what is written then depends on the rows alone.

    A dictionary of more than 1 MB is not made: the chunks keep theirs, behind one
    that is small, and the Parquet library goes over to plain values where they differ.
    """
    if sum(chunk.dictionary.nbytes for chunk in column.chunks) <= 4 * DICTIONARY_BYTES_MAX:
        chunks = _in_order(column.unify_dictionaries().chunks)
        if chunks[0].dictionary.nbytes <= DICTIONARY_BYTES_MAX:
            return pa.chunked_array(chunks)
    first, *rest = column.chunks
    (written,) = _in_order([first])
    if written.dictionary.nbytes <= DICTIONARY_BYTES_MAX:
        return pa.chunked_array([written, *rest])
    alone = pa.array(first.slice(0, 1).to_pylist(), REPEATED_TEXT)
    return pa.chunked_array([alone, first.slice(1), *rest])


def _in_order(chunks: Sequence[pa.DictionaryArray]) -> list[pa.DictionaryArray]:
    """Chunks of one dictionary, over those of its values that occur, as they first do."""
    values = chunks[0].dictionary
    indices, order = _kernels().renumbered([chunk.indices for chunk in chunks], len(values))
    if order is not None:
        values = _kernels().plain(pa.DictionaryArray.from_arrays(order, values))
    return [pa.DictionaryArray.from_arrays(one, values) for one in indices]


def plain_table(table: pa.Table) -> pa.Table:
    """Every dictionary column as strings."""
    for index, field in enumerate(table.schema):
        if is_repeated(field.type):
            chunks = [_kernels().plain(chunk) for chunk in table.column(index).chunks]
            strings = pa.chunked_array(chunks, pa.string())
            table = table.set_column(index, field.with_type(pa.string()), strings)
    return table


def plain_bytes(table: pa.Table) -> int:
    """About what ``table`` would take with nominal columns."""
    size_bytes = int(table.nbytes)
    for column in table.columns:
        if is_repeated(column.type):
            size_bytes += sum(_kernels().plain_bytes(chunk) for chunk in column.chunks)
            size_bytes -= int(column.nbytes)
        elif pa.types.is_decimal64(column.type):
            size_bytes += 8 * len(column)
    return size_bytes


@cache
def _kernels() -> ModuleType:
    """The compiled kernels where they were built, else pyarrow's own."""
    try:
        from rivet_fleet.execution import packer
    except ModuleNotFoundError:
        from rivet_fleet.execution import referencepacker

        return referencepacker
    return packer


# ------------------------------------------------------------------------------------------
# Decoded rows on their way from a decoder to a page.


class BatchQueue:
    """Record batches of one schema, each packed or not, taken by rows: oldest first, none twice."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.rows = 0
        self._batches: list[pa.RecordBatch] = []

    def append(self, batch: pa.RecordBatch) -> None:
        """Add rows behind those that are there."""
        if batch.num_rows:
            self._batches.append(batch)
            self.rows += batch.num_rows

    def take(self, rows_max: int | None = None) -> pa.RecordBatch:
        """The oldest rows, at most ``rows_max``; all of them by default."""
        batches, self._batches, self.rows = self._batches, [], 0
        if not batches:
            return empty_batch(self.schema)
        whole = batches[0] if len(batches) == 1 else pa.concat_batches(alike(batches, self.schema))
        if rows_max is None or whole.num_rows <= rows_max:
            return whole
        self.append(whole.slice(rows_max))
        return whole.slice(0, rows_max)


# ------------------------------------------------------------------------------------------
# The one warning about a decoder that was not compiled.


class SlowDecoderWarning(RuntimeWarning):
    """A plain-Python reference decoder does the compiled one's work."""


def warn_of_slow_decoder(engine: str) -> None:
    """Say what it costs and how to end it. Call it once a process (a cached function)."""
    warnings.warn(
        f"the compiled decoder for {engine} is not installed: the plain-Python one reads the "
        "same values at a tenth of the speed; install a C compiler and Python's headers, then "
        "reinstall rivet-fleet",
        SlowDecoderWarning,
        stacklevel=3,
    )
