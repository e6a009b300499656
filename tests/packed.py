"""Packed pages in tests: packing by pyarrow's kernels, and back to nominal columns."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from rivet_fleet.execution.packing import dressed, number_type


def packed(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Every column that can be packed, is."""
    columns = []
    for column in batch.columns:
        if pa.types.is_string(column.type):
            columns.append(column.dictionary_encode())
        else:
            columns.append(column.cast(number_type(column.type)) if decimal(column) else column)
    return dressed(columns, batch.schema)


def decimal(column: pa.Array) -> bool:
    return bool(pa.types.is_decimal(column.type))


def unpacked(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with the columns of ``schema``, checked for what packing may change: nothing but
    the type of decimals and text. Every value of a dictionary must occur, once."""
    assert batch.schema.names == schema.names
    assert batch.schema.metadata == schema.metadata
    columns = []
    for column, found, field in zip(batch.columns, batch.schema, schema, strict=True):
        assert found.metadata == field.metadata and found.nullable == field.nullable
        if column.type == field.type:
            columns.append(column)
            continue
        if pa.types.is_dictionary(column.type):
            assert column.type == pa.dictionary(pa.int32(), pa.string()) and pa.types.is_string(
                field.type
            )
            assert column.dictionary.null_count == 0
            assert len(pc.unique(column.dictionary)) == len(column.dictionary)
        else:
            assert column.type == pa.decimal64(field.type.precision, field.type.scale)
        columns.append(column.cast(field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)
