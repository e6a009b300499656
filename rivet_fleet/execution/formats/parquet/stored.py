"""In which form a file keeps its columns, and what its readers are told of it (ADR 0014).

Decided by the first row group, for the whole file: pyarrow's writer has one schema.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Sequence

import pyarrow as pa

from rivet_fleet.execution.packing import (
    dressed,
    formed,
    is_repeated,
    number_type,
    shared,
)

_ARROW_SCHEMA = "ARROW:schema"
"""The key that pyarrow's own writer uses: a serialized schema, in base64."""


def with_numbers(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch of nominal ``schema`` with its decimals as they are stored."""
    kinds = [number_type(f.type) if pa.types.is_decimal(f.type) else None for f in schema]
    return _formed(batch, schema, kinds)


def as_stored(batch: pa.RecordBatch, stored: pa.Schema) -> pa.RecordBatch:
    """The batch in the form of the file."""
    return _formed(batch, stored, stored.types)


def _formed(
    batch: pa.RecordBatch, schema: pa.Schema, kinds: Sequence[pa.DataType | None]
) -> pa.RecordBatch:
    pairs = zip(batch.columns, kinds, strict=True)
    return dressed([c if kind is None else formed(c, kind) for c, kind in pairs], schema)


def with_shared_dictionaries(table: pa.Table, encoded: Collection[str]) -> pa.Table:
    """One dictionary for all pages in each column of ``encoded``, the leaves that are written
    with one. The others are expanded by the Parquet library, a page at a time."""
    for index, field in enumerate(table.schema):
        if is_repeated(field.type) and field.name in encoded:
            table = table.set_column(index, field, shared(table.column(index)))
    return table


def reader_metadata(schema: pa.Schema) -> dict[str | bytes, str | bytes]:
    """What pyarrow's writer would store in the file's metadata for ``schema``."""
    serialized = base64.b64encode(schema.serialize().to_pybytes())
    return {_ARROW_SCHEMA: serialized, **(schema.metadata or {})}
