"""What identifies a part and what it holds: digests and per-column counts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from rivet_fleet.contracts.part import ColumnStats, PartDigest

_READ_BYTES = 1024 * 1024


def digest_file(path: Path, rows: int) -> PartDigest:
    """Size, xxh3-64 and MD5 of a finished file in one streamed pass (M3). Raises OSError."""
    fingerprint = xxhash.xxh3_64()
    md5 = hashlib.md5(usedforsecurity=False)
    size_bytes = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(_READ_BYTES):
            fingerprint.update(block)
            md5.update(block)
            size_bytes += len(block)
    return PartDigest(
        rows=rows,
        size_bytes=size_bytes,
        fingerprint=f"xxh3:{fingerprint.hexdigest()}",
        md5_base64=base64.b64encode(md5.digest()).decode(),
    )


def fingerprint_file(path: Path) -> str:
    """``xxh3:<16 hex>`` of a file's bytes. Raises OSError."""
    fingerprint = xxhash.xxh3_64()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_READ_BYTES):
            fingerprint.update(block)
    return f"xxh3:{fingerprint.hexdigest()}"


def fingerprint_bytes(body: bytes) -> str:
    """``xxh3:<16 hex>`` of a small object's bytes."""
    return f"xxh3:{xxhash.xxh3_64_hexdigest(body)}"


class ColumnCounter:
    """Adds up ColumnStats over the batches of one part.

    Extremes are kept where finding them is one vectorised pass: integers, dates, times and
    timestamps.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._names = list(schema.names)
        self._nulls = [0] * len(self._names)
        self._ordered = [_has_cheap_order(field.type) for field in schema]
        self._extremes: list[tuple[pa.Scalar, pa.Scalar] | None] = [None] * len(self._names)

    def add(self, batch: pa.RecordBatch) -> None:
        """Count one batch of the counter's schema."""
        for index, column in enumerate(batch.columns):
            self._nulls[index] += column.null_count
            if self._ordered[index] and column.null_count < len(column):
                self._widen(index, column)

    def finish(self, changed: Mapping[str, int]) -> tuple[ColumnStats, ...]:
        """The counts; ``changed`` are this part's values that a stated policy had to change."""
        return tuple(self._stats(index, changed) for index in range(len(self._names)))

    def _widen(self, index: int, column: pa.Array) -> None:
        found = pc.min_max(column)
        low, high = found["min"], found["max"]
        seen = self._extremes[index]
        if seen is not None:
            low = seen[0] if pc.less(seen[0], low).as_py() else low
            high = seen[1] if pc.greater(seen[1], high).as_py() else high
        self._extremes[index] = (low, high)

    def _stats(self, index: int, changed: Mapping[str, int]) -> ColumnStats:
        name = self._names[index]
        extremes = self._extremes[index]
        return ColumnStats(
            name=name,
            nulls=self._nulls[index],
            minimum=None if extremes is None else _text(extremes[0]),
            maximum=None if extremes is None else _text(extremes[1]),
            changed=changed.get(name, 0),
        )


def _has_cheap_order(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_date32(kind)
        or pa.types.is_time64(kind)
        or pa.types.is_timestamp(kind)
    )


def _text(value: pa.Scalar) -> str:
    # A zone other than the session's would need a tz database to print; the numbers are UTC.
    if pa.types.is_timestamp(value.type) and value.type.tz is not None:
        return str(value.cast(pa.timestamp(value.type.unit)).cast(pa.string()).as_py()) + "Z"
    return str(value.cast(pa.string()).as_py())
