"""What identifies a part and what it holds: digests and per-column counts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import xxhash

from rivet_fleet.contracts.civil import date_text, time_text, timestamp_text
from rivet_fleet.contracts.manifest import ColumnStats, PartDigest

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


def fingerprint_file(path: Path | int) -> str:
    """``xxh3:<16 hex>`` of a file's bytes; an open one is read from where it stands. Raises
    OSError."""
    with open(path, "rb", buffering=0, closefd=not isinstance(path, int)) as file:
        return fingerprint_blocks(iter(lambda: file.read(_READ_BYTES), b""))


def fingerprint_blocks(blocks: Iterable[bytes]) -> str:
    """``xxh3:<16 hex>`` of bytes that come one block after the other."""
    fingerprint = xxhash.xxh3_64()
    for block in blocks:
        fingerprint.update(block)
    return f"xxh3:{fingerprint.hexdigest()}"


def fingerprint_bytes(body: bytes) -> str:
    """``xxh3:<16 hex>`` of a small object's bytes."""
    return fingerprint_blocks([body])


class ColumnCounter:
    """Adds up ColumnStats over the batches of one part."""

    def __init__(self, schema: pa.Schema) -> None:
        self._names = list(schema.names)
        self._nulls = [0] * len(self._names)

    def add(self, batch: pa.RecordBatch) -> None:
        """Count one batch of the counter's schema."""
        for index, column in enumerate(batch.columns):
            self._nulls[index] += column.null_count

    def finish(
        self,
        changed: Mapping[str, int],
        extremes: Mapping[str, tuple[str, str]],
        checksums: Mapping[str, str],
    ) -> tuple[ColumnStats, ...]:
        """The counts; ``changed`` are this part's values that a stated policy had to change,
        ``extremes`` and ``checksums`` what its writer found."""
        nothing = (None, None)
        return tuple(
            ColumnStats(
                name=name,
                nulls=nulls,
                minimum=extremes.get(name, nothing)[0],
                maximum=extremes.get(name, nothing)[1],
                changed=changed.get(name, 0),
                checksum=checksums.get(name),
            )
            for name, nulls in zip(self._names, self._nulls, strict=True)
        )


# ------------------------------------------------------------------------------------------
# Smallest and largest values of a part's columns, for the manifest.
#
# Kept where finding them is one cheap pass: integers, dates, times of day and timestamps. Formats
# report them as the integers that Arrow stores; the text of any year is made here.

_UNITS_A_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def is_ordered(kind: pa.DataType) -> bool:
    """True for types whose extremes are kept."""
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_date32(kind)
        or pa.types.is_time64(kind)
        or pa.types.is_timestamp(kind)
    )


class Extremes:
    """Smallest and largest stored integer per column of one part."""

    def __init__(self, schema: pa.Schema) -> None:
        self._types = {field.name: field.type for field in schema if is_ordered(field.type)}
        self._seen: dict[str, tuple[int, int]] = {}

    @property
    def names(self) -> frozenset[str]:
        """The columns whose extremes are kept."""
        return frozenset(self._types)

    def widen(self, name: str, low: int, high: int) -> None:
        """Some rows of an ordered column lie between ``low`` and ``high``, both among them."""
        seen = self._seen.get(name)
        self._seen[name] = (low, high) if seen is None else (min(seen[0], low), max(seen[1], high))

    def texts(self) -> dict[str, tuple[str, str]]:
        """Column → smallest and largest value as text; columns without any value are left out."""
        return {
            name: (_text(self._types[name], low), _text(self._types[name], high))
            for name, (low, high) in self._seen.items()
        }


def _text(kind: pa.DataType, stored: int) -> str:
    if pa.types.is_date32(kind):
        return date_text(stored)
    if pa.types.is_time64(kind):
        return time_text(_micros(stored, kind.unit))
    if pa.types.is_timestamp(kind):
        zone = "Z" if kind.tz is not None else ""
        return timestamp_text(_micros(stored, kind.unit), separator=" ") + zone
    return str(stored)


def _micros(stored: int, unit: str) -> int:
    return stored * 1_000_000 // _UNITS_A_SECOND[unit]
