"""Reading a finished Parquet file back, for the checksums of its columns."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rivet_fleet.errors import DataIntegrityError
from rivet_fleet.execution.checksums import ColumnSums, patient_sum

VALUES = "value64"
"""Checksums of decoded values."""
_ROWS_MAX = 65_536
_BYTES_MAX = 32 * 1024 * 1024


def file_checksums(path: Path) -> dict[str, str]:
    """The checksum of each column, by name. Raises DataIntegrityError when it cannot be decoded,
    and OSError."""
    try:
        with pq.ParquetFile(path) as file:
            sums = ColumnSums(VALUES, file.schema_arrow, patient_sum())
            for batch in file.iter_batches(_rows_at_once(file.metadata), use_threads=False):
                sums.add(batch.columns)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # The system's own; what pyarrow says of the bytes has no number.
        raise DataIntegrityError(f"it cannot be decoded: {error}") from error
    return sums.texts()


def _rows_at_once(footer: pq.FileMetaData) -> int:
    """So many rows that their values take about 32 MB."""
    groups = [footer.row_group(index) for index in range(footer.num_row_groups)]
    widest = max((g.total_byte_size / max(g.num_rows, 1) for g in groups), default=1.0)
    return max(1, min(_ROWS_MAX, int(_BYTES_MAX / max(widest, 1.0))))
