"""Parquet parts: row groups bounded in memory, exact logical types, reproducible bytes.

Equal batches with equal options give equal files: the ``created_by`` of the writer library is a
constant of its version and no time or host is written. Decimals of up to 18 digits are stored as
integers, which every reader of the format knows and which costs less than fixed-size bytes.
Batches may come packed (ADR 0014): that changes what writing costs, never what is read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rivet_fleet.contracts.plan import FormatPlan
from rivet_fleet.errors import ConfigError, DataIntegrityError, UnsupportedType
from rivet_fleet.execution.checksums import ColumnSums, compiled_sum, patient_sum
from rivet_fleet.execution.durable import filesystem_errors, remove_file
from rivet_fleet.execution.format import PartWriter
from rivet_fleet.execution.formats.parquet.encodings import (
    as_stored,
    choose_encodings,
    reader_metadata,
    with_numbers,
    with_shared_dictionaries,
)
from rivet_fleet.execution.packing import packed_schema
from rivet_fleet.execution.parts import Extremes
from rivet_fleet.execution.types import empty_batch

# ------------------------------------------------------------------------------------------
# Reading a finished Parquet file back, for the checksums of its columns.

VALUES = "value64"
"""Checksums of decoded values."""
_ROWS_MAX = 65_536
_ROWS_OF_WORKER = 8_192
"""In a process that has promised how much memory it takes. There dictionaries are of no use: who
reads text of many values as one has both."""
_BYTES_MAX = 32 * 1024 * 1024


def file_checksums(path: Path) -> dict[str, str]:
    """The checksum of each column, by name. Raises DataIntegrityError when it cannot be decoded,
    and OSError."""
    sums: ColumnSums | None = None
    for batch, shared, schema in _decoded(path, None, shares=True):
        sums = sums or ColumnSums(VALUES, schema, patient_sum())
        for piece in _pieces(batch, shared):
            sums.add(piece)
    return sums.texts() if sums is not None else {}


def _decoded(
    path: Path, columns: Sequence[str] | None, *, shares: bool
) -> Iterator[tuple[pa.RecordBatch, list[str], pa.Schema]]:
    """The named columns that the file has, some rows at a time; which of them come as dictionaries
    (``shares``), and what all are nominally. First no rows. Raises as ``file_checksums`` does."""
    try:
        with pq.ParquetFile(path) as file:
            footer, schema = file.metadata, file.schema_arrow
        if columns is not None:
            schema = pa.schema([one for one in schema if one.name in columns])
        yield empty_batch(schema), [], schema
        wide, names = _shared(footer, schema), schema.names
        shared = wide if shares else []
        rows = _rows_at_once(footer, _ROWS_MAX if shares else _ROWS_OF_WORKER)
        if wide and not shares:
            rows = max(1, min(rows, _BYTES_MAX // max(_widest_of(path, footer, wide), 1)))
        with pq.ParquetFile(path, metadata=footer, read_dictionary=shared) as file:
            for batch in file.iter_batches(rows, columns=names, use_threads=False):
                yield batch, shared, schema
    except MemoryError:
        raise  # Arrow's own is one of its exceptions, too: it says nothing of the bytes
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # The system's own; what pyarrow says of the bytes has no number.
        # Not what pyarrow says of it, nor as its cause: that may quote a value.
        raise DataIntegrityError("it cannot be decoded: it is damaged") from None


def _rows_at_once(footer: pq.FileMetaData, rows_max: int) -> int:
    """So many rows that their values, as they are encoded, take about 32 MB."""
    groups = [footer.row_group(index) for index in range(footer.num_row_groups)]
    widest = max((g.total_byte_size / max(g.num_rows, 1) for g in groups), default=1.0)
    for _, column in _columns_of(footer):
        if _PREFIXED in column.encodings:
            # Each value may be the one before and a byte: as wide as all of the chunk.
            widest = max(widest, float(column.total_uncompressed_size))
    return max(1, min(rows_max, int(_BYTES_MAX / max(widest, 1.0))))


_PREFIXED = "DELTA_BYTE_ARRAY"


def _columns_of(footer: pq.FileMetaData) -> Iterator[tuple[str, pq.ColumnChunkMetaData]]:
    for index in range(footer.num_row_groups):
        group = footer.row_group(index)
        for at in range(group.num_columns):
            yield (column := group.column(at)).path_in_schema, column


def _shared(footer: pq.FileMetaData, schema: pa.Schema) -> list[str]:
    """The columns whose values stand once in the file, however many rows have them: a few bytes
    of it may be more than all memory."""
    wide = {one.name for one in schema if one.type in (pa.string(), pa.binary())}
    found = {name for name, one in _columns_of(footer) if one.has_dictionary_page}
    return sorted(wide & found)


def _pieces(batch: pa.RecordBatch, shared: list[str]) -> Iterator[list[pa.Array]]:
    """The batch's columns without dictionaries, so many rows at once that they take about 32 MB
    however wide their values are."""
    widest = sum(_widest(batch.column(name).dictionary) for name in shared)
    rows = max(1, _BYTES_MAX // max(widest, 1))
    for start in range(0, batch.num_rows, rows):
        columns = batch.slice(start, rows).columns
        yield [
            column.dictionary_decode() if name in shared else column
            for name, column in zip(batch.schema.names, columns, strict=True)
        ]


def _widest_of(path: Path, footer: pq.FileMetaData, shared: list[str]) -> int:
    """What a row of these columns takes at most, by the dictionaries of each row group."""
    found = 0
    with pq.ParquetFile(path, metadata=footer, read_dictionary=shared) as file:
        for group in range(footer.num_row_groups):
            first = file.iter_batches(1, row_groups=[group], columns=shared, use_threads=False)
            columns = next(iter(first)).columns if footer.row_group(group).num_rows else ()
            found = max(found, sum(_widest(one.dictionary) for one in columns))
    return found


def _widest(values: pa.Array) -> int:
    # Only here: NumPy costs a process that writes its memory (ADR 0014), the kernels even more.
    import numpy as np

    if not len(values):
        return 0
    ends = np.frombuffer(values.buffers()[1], np.int32, len(values) + 1, 4 * values.offset)
    return int(np.diff(ends).max())


_CODECS = {"zstd": "zstd", "snappy": "snappy", "gzip": "gzip", "lz4": "lz4", "none": "none"}
_DEFAULT_LEVELS = {"zstd": 3, "gzip": 6}
_LEVELS = {"zstd": range(1, 23), "gzip": range(10)}
_FIRST_RATIO = 0.35
"""Encoded size over Arrow size, until the first row group has shown the real one."""


class ParquetFormat:
    """PartFormat of Parquet."""

    def __init__(self, plan: FormatPlan) -> None:
        """Raises ConfigError for a codec or level it lacks."""
        self._codec, self._level = _codec(plan)
        self._differences = plan.encodings == "auto"
        self._group_rows = plan.row_group_rows
        # A file limit below the row group's would never be noticed in time.
        self._group_bytes = min(plan.row_group_bytes, plan.file_bytes_max or plan.row_group_bytes)

    @property
    def extension(self) -> str:
        """``parquet``."""
        return "parquet"

    @property
    def takes_packed(self) -> bool:
        """Yes: they are nearer to what it stores."""
        return True

    def check_schema(self, schema: pa.Schema) -> None:
        """Refuse what Parquet has no exact type for, all columns at once."""
        refused = [f for f in schema if not _is_exact(f.type)]
        if refused:
            columns = ", ".join(f"{f.name} ({f.type})" for f in refused)
            raise UnsupportedType(
                f"Parquet cannot carry these columns exactly: {columns}",
                hint="cast them, for example with columns: {" + refused[0].name + ": text}",
                code="RIVET_FORMAT_UNSUPPORTED_TYPE",
            )

    def open(self, path: Path, schema: pa.Schema) -> PartWriter:
        """Start a part at ``path``, which must not exist."""
        return _ParquetWriter(
            path,
            schema,
            codec=self._codec,
            level=self._level,
            differences=self._differences,
            group_rows=self._group_rows,
            group_bytes=self._group_bytes,
        )

    def count_rows(self, path: Path) -> int:
        """Rows by the footer. DataIntegrityError when it is no complete Parquet file."""
        try:
            return int(pq.read_metadata(path).num_rows)
        except MemoryError:
            raise
        except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
            raise DataIntegrityError("it is not a complete Parquet file") from error

    def rows(
        self, path: Path, columns: Sequence[str] | None = None
    ) -> Iterator[dict[str, pa.Array]]:
        """Nominal values; first of no rows, for the types."""
        for batch, _, schema in _decoded(path, columns, shares=False):
            yield dict(zip(schema.names, batch.columns, strict=True))

    def as_read(self, batch: pa.RecordBatch) -> list[pa.Array]:
        """The page itself, packed or not: the file says what its values mean."""
        return list(batch.columns)

    def checksums(self, path: Path) -> dict[str, str]:
        """Of the values that pyarrow reads, a few thousand rows at a time."""
        return file_checksums(path)


class _ParquetWriter:
    """Holds batches until a row group is full, then encodes and lets them go."""

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        *,
        codec: str,
        level: int | None,
        differences: bool,
        group_rows: int | None,
        group_bytes: int,
    ) -> None:
        self._path = path
        self._schema = schema
        self._group_rows = group_rows
        self._group_bytes = group_bytes
        self._codec, self._level = codec, level
        self._differences = differences
        self._extremes = Extremes(schema)
        self._sums = ColumnSums(VALUES, schema, compiled_sum())
        self._held: list[pa.RecordBatch] = []
        self._held_rows = 0
        self._held_bytes = 0
        self._encoded_arrow_bytes = 0
        self._writer: pq.ParquetWriter | None = None
        self._stored: pa.Schema | None = None
        """How this file keeps its columns, once its first row group has told."""
        self._dictionaries: frozenset[str] = frozenset()
        with filesystem_errors(path, "spool"):
            # Made here, exclusively: Arrow's own file would write over what is there.
            path.open("xb").close()
            try:
                self._sink = pa.OSFile(str(path), "wb")
            except OSError:
                remove_file(path)
                raise

    @property
    def bytes_flushed(self) -> int:
        """Encoded bytes plus what the held rows will become, by the ratio seen so far."""
        flushed = int(self._sink.tell())
        seen = self._encoded_arrow_bytes
        ratio = flushed / seen if seen else _FIRST_RATIO
        return flushed + int(self._held_bytes * ratio)

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows; encodes when a row group is full."""
        # Before anything else touches them: what is made of these columns is what is in doubt.
        self._sums.add(batch.columns)
        while batch.num_rows:
            room = batch.num_rows
            if self._group_rows is not None:
                room = min(room, self._group_rows - self._held_rows)
            self._hold(batch.slice(0, room))
            batch = batch.slice(room)
            if self._is_full():
                self._flush()

    def close(self) -> None:
        """Encode the rest, write the footer and close the file."""
        self._flush()
        with filesystem_errors(self._path, "spool"):
            writer = self._writer or self._open_writer()
            writer.close()
            self._sink.close()
            self._read_extremes()

    def extremes(self) -> dict[str, tuple[str, str]]:
        """Smallest and largest value of each ordered column: the footer's own."""
        return self._extremes.texts()

    def checksums(self) -> dict[str, str]:
        """Of the values as they came."""
        return self._sums.texts()

    def abort(self) -> None:
        """Remove the file first, so that no later step can complete it; then let go."""
        self._held.clear()
        with contextlib.suppress(OSError):
            remove_file(self._path)
        for open_thing in (self._writer, self._sink):
            with contextlib.suppress(OSError, ValueError, pa.ArrowException):
                if open_thing is not None:
                    open_thing.close()

    def _hold(self, batch: pa.RecordBatch) -> None:
        if self._stored is None:
            batch = with_numbers(batch, self._schema)
        else:
            batch = as_stored(batch, self._stored)
        self._held.append(batch)
        self._held_rows += batch.num_rows
        self._held_bytes += batch.nbytes

    def _is_full(self) -> bool:
        """True when another batch like the last would be too much: what is held stays within
        ``group_bytes``, and row groups are at least half of it."""
        rows_full = self._group_rows is not None and self._held_rows >= self._group_rows
        return rows_full or self._held_bytes + self._held[-1].nbytes > self._group_bytes

    def _flush(self) -> None:
        if not self._held_rows:
            return
        with filesystem_errors(self._path, "spool"):
            if self._writer is None:
                self._writer = self._open_writer()
            table = pa.Table.from_batches(self._held, schema=self._stored)
            table = with_shared_dictionaries(table, self._dictionaries)
            # Said, or the library cuts at a size of its own.
            self._writer.write_table(table, row_group_size=self._held_rows)
        self._encoded_arrow_bytes += self._held_bytes
        self._held = []
        self._held_rows = self._held_bytes = 0

    def _open_writer(self) -> pq.ParquetWriter:
        """What is held is the first row group, which tells how the columns repeat."""
        self._stored = stored = packed_schema(self._schema, self._held)
        self._held = [as_stored(batch, stored) for batch in self._held]
        table = pa.Table.from_batches(self._held, schema=stored)
        encodings = choose_encodings(table, differences=self._differences)
        self._dictionaries = frozenset(encodings.dictionary)
        writer = pq.ParquetWriter(
            self._sink,
            stored,
            compression=self._codec,
            compression_level=self._level,
            **encodings.options(),
            # It would be the packed one; readers are told the nominal one below (ADR 0014).
            store_schema=False,
            store_decimal_as_integer=True,
        )
        writer.add_key_value_metadata(reader_metadata(self._schema))
        return writer

    def _read_extremes(self) -> None:
        """From the footer: the encoder has found them already."""
        footer = pq.read_metadata(self._path)
        leaves = _leaves(self._schema)
        ordered = [(i, name) for i, name in enumerate(leaves) if name in self._extremes.names]
        for group in range(footer.num_row_groups):
            for index, name in ordered:
                self._widen(name, footer.row_group(group).column(index).statistics)

    def _widen(self, name: str, statistics: pq.Statistics | None) -> None:
        if statistics is None or not statistics.has_min_max:
            return
        low, high = statistics.min_raw, statistics.max_raw
        # Parquet stores an unsigned number as the signed one with the same bits.
        wraps = _unsigned_range(self._schema.field(name).type)
        self._extremes.widen(name, low % wraps if wraps else low, high % wraps if wraps else high)


def _leaves(schema: pa.Schema) -> list[str]:
    """The name of each Parquet leaf's column, in the file's order."""
    return [field.name for field in schema for _ in range(_leaf_count(field.type))]


def _leaf_count(kind: pa.DataType) -> int:
    if isinstance(kind, pa.BaseExtensionType):
        return _leaf_count(kind.storage_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _leaf_count(kind.value_type)
    if pa.types.is_struct(kind):
        return sum(_leaf_count(field.type) for field in kind)
    return 1


def _unsigned_range(kind: pa.DataType) -> int | None:
    """How many values an unsigned type has; None for every other type."""
    return int(2**kind.bit_width) if pa.types.is_unsigned_integer(kind) else None


def _codec(plan: FormatPlan) -> tuple[str, int | None]:
    codec = _CODECS.get(plan.compression)
    if codec is None:
        raise ConfigError(
            f"unknown Parquet compression {plan.compression!r}",
            hint="use one of " + ", ".join(_CODECS),
        )
    level = plan.compression_level
    if level is None:
        return codec, _DEFAULT_LEVELS.get(codec)
    allowed = _LEVELS.get(codec)
    if allowed is None:
        raise ConfigError(f"Parquet compression {codec} has no level", hint="remove the level")
    if level not in allowed:
        raise ConfigError(
            f"compression level {level} is outside {allowed[0]}..{allowed[-1]} of {codec}"
        )
    return codec, level


def _is_exact(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _is_exact(kind.storage_type)
    if pa.types.is_decimal(kind):
        return bool(kind.scale >= 0)
    if pa.types.is_timestamp(kind) or pa.types.is_time(kind):
        return bool(kind.unit != "s")
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_exact(kind.value_type)
    if pa.types.is_struct(kind):
        return all(_is_exact(field.type) for field in kind)
    return any(test(kind) for test in _SCALARS)


_SCALARS = (
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_float32,
    pa.types.is_float64,
    pa.types.is_date32,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
)
