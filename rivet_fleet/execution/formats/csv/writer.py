"""CSV parts, in one documented dialect that tells NULL from the empty string.

UTF-8, no byte order mark; a header always; comma; ``\\n`` after every record; RFC 4180 quoting
where needed. NULL is an empty unquoted cell, the empty string is ``""``. Booleans ``true`` and
``false``; floats the shortest text that reads back equal, ``NaN``, ``inf``, ``-inf``; decimals
every digit of their scale; ``YYYY-MM-DD``, ``HH:MM:SS.ffffff``, ``YYYY-MM-DDTHH:MM:SS.ffffff``
with ``Z`` when the column is UTC (years before 0 and after 9999 are written as they are, signed
and unpadded); UUIDs hyphenated; binary as lowercase hex; JSON as its text. Lists are refused.

PostgreSQL's ``COPY … (FORMAT csv, HEADER)`` reads it back as it is. DuckDB does with::

    read_csv(path, header = true, delim = ',', quote = '"', escape = '"', nullstr = '',
             allow_quoted_nulls = false, columns = {…})

A record of a one-column table whose only value is NULL is an empty line, which some readers skip.
The format has no compression: ``FormatPlan.compression`` is not looked at.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from rivet_fleet.errors import DataIntegrityError, UnsupportedType
from rivet_fleet.execution.checksums import ColumnSums, compiled_sum, patient_sum
from rivet_fleet.execution.durable import filesystem_errors, remove_file
from rivet_fleet.execution.format import PartWriter
from rivet_fleet.execution.formats.csv.cells import Renderer, lines, quoted, renderer_of
from rivet_fleet.execution.parts import Extremes

# ------------------------------------------------------------------------------------------
# Reading a finished CSV file back, for the checksums of its columns.
#
# By pyarrow's reader and not by our writer's own rules turned round: another reader's opinion.

CELLS = "cell64"
"""Checksums of cells: the bytes of their text, without quotes. NULL: empty and unquoted."""
_BLOCK_BYTES = 4 * 1024 * 1024
_BLOCK_BYTES_MAX = 2**31 - 1
_MISCOUNTED = re.compile(r"CSV parse error: ((?:Row #\d+: )?Expected \d+ columns, got \d+)")


def cell_schema(names: Sequence[str]) -> pa.Schema:
    """Columns of cells."""
    return pa.schema([pa.field(name, pa.large_string()) for name in names])


def file_checksums(path: Path) -> dict[str, str]:
    """The checksum of each column, by the header's names. Raises DataIntegrityError when it
    cannot be read, and OSError."""
    sums: ColumnSums | None = None
    for names, cells in _records(path):
        sums = sums or ColumnSums(CELLS, cell_schema(names), patient_sum())
        sums.add(cells)
    if sums is None:
        raise DataIntegrityError("it has no header")
    return sums.texts()


def _records(path: Path) -> Iterator[tuple[list[str], list[pa.Array]]]:
    """The header's names, and under them the bytes of cells, many records at a time: first maybe
    none. Raises as ``file_checksums`` does."""
    block_bytes, size_bytes, given = _BLOCK_BYTES, path.stat().st_size, 0
    while True:
        try:
            # A file, not its name: by that pyarrow would take it for a compressed one.
            with pa.OSFile(str(path)) as first, pa.OSFile(str(path)) as second:
                for names, batch in _records_of(first, second, block_bytes, given):
                    given += batch.num_rows
                    yield names, batch.columns
            return
        except MemoryError:
            raise  # a larger block would take more
        except (pa.ArrowException, UnicodeDecodeError) as error:
            # A record may be larger than a block; only a larger block can tell.
            if block_bytes > size_bytes or block_bytes == _BLOCK_BYTES_MAX:
                # Nothing else of what pyarrow says, nor as its cause: it quotes the record.
                said = _MISCOUNTED.match(str(error))
                how = said[1] if said else "it is damaged"
                raise DataIntegrityError(f"it cannot be read: {how}") from None
            block_bytes = min(8 * block_bytes, _BLOCK_BYTES_MAX)


def _records_of(
    file: pa.NativeFile, again: pa.NativeFile, block_bytes: int, given: int
) -> Iterator[tuple[list[str], pa.RecordBatch]]:
    """Those behind the first ``given`` records."""
    read = pa_csv.ReadOptions(
        use_threads=False, block_size=block_bytes, autogenerate_column_names=True
    )
    parse = pa_csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False)
    with pa_csv.open_csv(file, read, parse, pa_csv.ConvertOptions(check_utf8=False)) as first:
        numbered = first.schema.names
    convert = pa_csv.ConvertOptions(
        check_utf8=False,
        column_types=dict.fromkeys(numbered, pa.binary()),
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    names: list[str] | None = None
    with pa_csv.open_csv(again, read, parse, convert) as reader:
        for batch in reader:
            if names is None and batch.num_rows:
                names = [_text(column[0].as_py()) for column in batch.columns]
                batch = batch.slice(1)
            if names is not None:
                passed = min(given, batch.num_rows)
                given -= passed
                yield names, batch.slice(passed)


def _text(cell: bytes | None) -> str:
    return (cell or b"").decode("utf-8", "replace")


_READ_BYTES = 1024 * 1024
_QUOTE, _LINE_FEED = ord('"'), ord("\n")


class CsvFormat:
    """PartFormat of CSV."""

    @property
    def extension(self) -> str:
        """``csv``."""
        return "csv"

    @property
    def takes_packed(self) -> bool:
        """No: cells are made of nominal columns."""
        return False

    def check_schema(self, schema: pa.Schema) -> None:
        """Refuse what has no exact text, all columns at once."""
        refused = [f for f in schema if renderer_of(f.type) is None]
        if refused:
            columns = ", ".join(f"{f.name} ({f.type})" for f in refused)
            casts = ", ".join(f"{f.name}: text" for f in refused)
            raise UnsupportedType(
                f"CSV cannot carry these columns: {columns}",
                hint=f"write Parquet, or cast them: columns: {{{casts}}}",
                code="RIVET_FORMAT_UNSUPPORTED_TYPE",
            )

    def open(self, path: Path, schema: pa.Schema) -> PartWriter:
        """Start a part at ``path``, which must not exist, with its header."""
        self.check_schema(schema)
        return _CsvWriter(path, schema)

    def count_rows(self, path: Path) -> int:
        """Records after the header, quotes respected. DataIntegrityError when the last record
        has no end."""
        records = inside = 0
        last = _LINE_FEED
        with filesystem_errors(path, "spool"), path.open("rb", buffering=0) as file:
            while block := file.read(_READ_BYTES):
                octets = np.frombuffer(block, np.uint8)
                quotes = octets == _QUOTE
                # A doubled quote turns it twice, and so needs no case of its own.
                parity = (np.cumsum(quotes) + inside) & 1
                records += int(np.count_nonzero((octets == _LINE_FEED) & (parity == 0)))
                inside, last = int(parity[-1]), int(octets[-1])
        if inside or last != _LINE_FEED or records == 0:
            raise DataIntegrityError("it is not a complete CSV file")
        return records - 1

    def rows(
        self, path: Path, columns: Sequence[str] | None = None
    ) -> Iterator[dict[str, pa.Array]]:
        """The bytes of cells, without quotes."""
        for names, cells in _records(path):
            found = zip(names, cells, strict=True)
            yield {name: one for name, one in found if columns is None or name in columns}

    def as_read(self, batch: pa.RecordBatch) -> list[pa.Array]:
        """The bytes of the cells that would be written: a CSV file says no more."""
        renderers = [_required(field) for field in batch.schema]
        cells = [render(one) for render, one in zip(renderers, batch.columns, strict=True)]
        return [one.cast(pa.large_binary()).cast(pa.binary()) for one in cells]

    def checksums(self, path: Path) -> dict[str, str]:
        """Of the cells' text, without quotes."""
        return file_checksums(path)


class _CsvWriter:
    """Renders each batch and hands it to the file at once: nothing is buffered."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._renderers = [_required(field) for field in schema]
        self._extremes = Extremes(schema)
        self._sums = ColumnSums(CELLS, cell_schema(schema.names), compiled_sum())
        self._bytes = 0
        with filesystem_errors(path, "spool"):
            self._file = path.open("xb", buffering=0)
        header = [quoted(pa.array([name], pa.large_string())) for name in schema.names]
        with contextlib.ExitStack() as undo:
            undo.callback(self.abort)
            self._put(lines(header))
            undo.pop_all()

    @property
    def bytes_flushed(self) -> int:
        """Bytes in the file."""
        return self._bytes

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        if batch.num_rows:
            columns = zip(self._renderers, batch.columns, strict=True)
            cells = [render(column) for render, column in columns]
            self._sums.add(cells)
            self._put(lines([quoted(column) for column in cells]))
            self._widen(batch)

    def close(self) -> None:
        """Close the file."""
        with filesystem_errors(self._path, "spool"):
            self._file.close()

    def extremes(self) -> dict[str, tuple[str, str]]:
        """Smallest and largest value of each ordered column."""
        return self._extremes.texts()

    def checksums(self) -> dict[str, str]:
        """Of the cells as they are written: the file does not say what they meant."""
        return self._sums.texts()

    def abort(self) -> None:
        """Remove the file and close it."""
        with contextlib.suppress(OSError):
            remove_file(self._path)
        with contextlib.suppress(OSError):
            self._file.close()

    def _widen(self, batch: pa.RecordBatch) -> None:
        for name in self._extremes.names:
            column = batch.column(name)
            if column.null_count < len(column):
                found = pc.min_max(column)
                self._extremes.widen(name, _stored(found["min"]), _stored(found["max"]))

    def _put(self, body: pa.Buffer) -> None:
        rest = memoryview(body)
        with filesystem_errors(self._path, "spool"):
            # Without a buffer a write may take less than all, and that is no error (write(2)).
            while rest.nbytes:
                written = self._file.write(rest)
                self._bytes += written
                rest = rest[written:]


def _stored(value: pa.Scalar) -> int:
    return int(value.as_py() if pa.types.is_integer(value.type) else value.value)


def _required(field: pa.Field) -> Renderer:
    renderer = renderer_of(field.type)
    if renderer is None:
        raise UnsupportedType(f"CSV cannot carry column {field.name} ({field.type})")
    return renderer
