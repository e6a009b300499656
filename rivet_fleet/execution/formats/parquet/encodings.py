"""How each column's values are laid out: in a dictionary, as differences, or as they are.

Measured on a sample of the first row group, because it decides most of the encoder's time: a
dictionary that does not pay costs up to three times as much, and what is small before compression
is compressed quickly. Differences are left out unless they were asked for: not every reader knows
them. Equal tables, equal answer. ADR 0010 has the figures.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from rivet_fleet.execution.packing import (
    dressed,
    formed,
    is_repeated,
    number_type,
    plain_bytes,
    plain_table,
    shared,
)

_SAMPLE_ROWS = 16_384
_SAMPLE_BYTES = 2 * 1024 * 1024
_SAMPLE_PLACES = 4
_DICTIONARY_PAYS = 0.7
"""With a dictionary a column must be smaller than this part of its plain size. In a sample a
dictionary looks worse than in a whole row group, over which it is shared."""
_DELTA_PAYS = 0.85
"""The same for differences, which look alike everywhere and spare the compressor."""
_DELTA = "DELTA_BINARY_PACKED"
_DELTA_TYPES = ("INT32", "INT64")
"""The physical types that differences exist for: whole numbers, and what is stored as them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encodings:
    """Leaf columns by dotted path; every other leaf is plain."""

    dictionary: tuple[str, ...]
    delta: tuple[str, ...]

    def options(self) -> dict[str, object]:
        """For ``ParquetWriter``."""
        return {
            "use_dictionary": list(self.dictionary),
            "column_encoding": dict.fromkeys(self.delta, _DELTA) or None,
        }


def choose_encodings(table: pa.Table, *, differences: bool) -> Encodings:
    """Per leaf the smallest of dictionary, plain and, where ``differences`` allows them, these:
    before compression, in a sample from four places of ``table``. However its columns are
    packed, the answer is that for nominal ones."""
    rows = min(_SAMPLE_ROWS, int(_SAMPLE_BYTES * table.num_rows / max(plain_bytes(table), 1)))
    piece = max(1, rows // _SAMPLE_PLACES)
    step = max(piece, table.num_rows // _SAMPLE_PLACES)
    pieces = [table.slice(i * step, piece) for i in range(_SAMPLE_PLACES)]
    sample = plain_table(pa.concat_tables(pieces))
    if not sample.num_rows:
        return Encodings(dictionary=(), delta=())
    plain = _leaf_sizes(sample, use_dictionary=False)
    shared = {path: size for path, (size, _) in _leaf_sizes(sample, use_dictionary=True).items()}
    whole = [path for path, (_, physical) in plain.items() if physical in _DELTA_TYPES]
    packed = _delta_sizes(sample, whole) if differences else {}
    dictionary, delta = [], []
    for path, (size, _) in plain.items():
        if path in packed and packed[path] < min(_DELTA_PAYS * size, shared[path]):
            delta.append(path)
        elif shared[path] < _DICTIONARY_PAYS * size:
            dictionary.append(path)
    return Encodings(dictionary=tuple(dictionary), delta=tuple(delta))


def _delta_sizes(sample: pa.Table, paths: list[str]) -> Mapping[str, int]:
    """Encoded bytes of whole-number leaves as differences; only their columns are encoded."""
    if not paths:
        return {}
    names = {path.split(".", 1)[0] for path in paths}
    # A column whose own name has a dot is not found again by its path: it is left out.
    some = sample.select([name for name in sample.column_names if name in names])
    sizes = _leaf_sizes(some, use_dictionary=False, column_encoding=dict.fromkeys(paths, _DELTA))
    return {path: sizes[path][0] for path in paths if path in sizes}


def _leaf_sizes(sample: pa.Table, **options: object) -> dict[str, tuple[int, str]]:
    """Encoded, uncompressed bytes and the physical type per leaf column."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        sample.schema,
        compression="none",
        write_statistics=False,
        store_schema=False,
        store_decimal_as_integer=True,
        **options,
    ) as writer:
        writer.write_table(sample, row_group_size=sample.num_rows)
    group = pq.read_metadata(pa.BufferReader(sink.getvalue())).row_group(0)
    columns = [group.column(index) for index in range(group.num_columns)]
    return {
        column.path_in_schema: (column.total_uncompressed_size, column.physical_type)
        for column in columns
    }


# ------------------------------------------------------------------------------------------
# In which form a file keeps its columns, and what its readers are told of it (ADR 0014).
#
# Decided by the first row group, for the whole file: pyarrow's writer has one schema.

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
