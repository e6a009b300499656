"""Reading a finished CSV file back, for the checksums of its columns.

By pyarrow's reader and not by our writer's own rules turned round: another reader's opinion.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv

from rivet_fleet.errors import DataIntegrityError
from rivet_fleet.execution.checksums import ColumnSums, patient_sum

CELLS = "cell64"
"""Checksums of cells: the bytes of their text, without quotes. NULL: empty and unquoted."""
_BLOCK_BYTES = 4 * 1024 * 1024
_BLOCK_BYTES_MAX = 2**31 - 1


def cell_schema(names: Sequence[str]) -> pa.Schema:
    """Columns of cells."""
    return pa.schema([pa.field(name, pa.large_string()) for name in names])


def file_checksums(path: Path) -> dict[str, str]:
    """The checksum of each column, by the header's names. Raises DataIntegrityError when it
    cannot be read, and OSError."""
    block_bytes, size_bytes = _BLOCK_BYTES, path.stat().st_size
    while True:
        try:
            return _sums(path, block_bytes)
        except (pa.ArrowException, UnicodeDecodeError) as error:
            # A record may be larger than a block; only a larger block can tell.
            if block_bytes > size_bytes or block_bytes == _BLOCK_BYTES_MAX:
                raise DataIntegrityError(f"it cannot be read: {error}") from error
            block_bytes = min(8 * block_bytes, _BLOCK_BYTES_MAX)


def _sums(path: Path, block_bytes: int) -> dict[str, str]:
    read = pa_csv.ReadOptions(
        use_threads=False, block_size=block_bytes, autogenerate_column_names=True
    )
    parse = pa_csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False)
    with pa_csv.open_csv(path, read, parse, pa_csv.ConvertOptions(check_utf8=False)) as first:
        numbered = first.schema.names
    convert = pa_csv.ConvertOptions(
        check_utf8=False,
        column_types=dict.fromkeys(numbered, pa.binary()),
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    sums: ColumnSums | None = None
    with pa_csv.open_csv(path, read, parse, convert) as reader:
        for batch in reader:
            if sums is None and batch.num_rows:
                names = [_text(column[0].as_py()) for column in batch.columns]
                sums = ColumnSums(CELLS, cell_schema(names), patient_sum())
                batch = batch.slice(1)
            if sums is not None:
                sums.add(batch.columns)
    if sums is None:
        raise DataIntegrityError("it has no header")
    return sums.texts()


def _text(cell: bytes | None) -> str:
    return (cell or b"").decode("utf-8", "replace")
