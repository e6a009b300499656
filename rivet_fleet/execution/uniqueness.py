"""Duplicate detection that merges over parts, chunks and workers within a memory cap (ADR 0008).

Keys are hashed to 64 bits. Beyond the cap hashes are sampled by value: those below
``2**(64 - shift)`` stay, so that samples of different workers hold the same keys and still find
each other's duplicates; what is not found is then unknown, never absent (Q4).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from rivet_fleet.contracts.quality import UniqueFound, UniqueKey, UniqueStats

Hashes = NDArray[np.uint64]
_STORED = np.dtype("<u8")
_PENDING_MIN = 65_536
_NOTHING: Hashes = np.empty(0, np.uint64)


class UniqueCounter:
    """Finds duplicates of one key among the rows of one chunk; used by one thread."""

    def __init__(self, schema: pa.Schema, key: UniqueKey) -> None:
        self._key = key
        self._indexes = [schema.get_field_index(name) for name in key.columns]
        self._seen = _Sample(key.entries_max)
        self._pending: list[Hashes] = []
        self._pending_size = 0
        kind = schema.field(self._indexes[0]).type
        self._ascending = len(self._indexes) == 1 and _is_number(kind)
        self._last: int | None = None
        self._keys = 0
        self._duplicates = 0
        self._fresh: list[Hashes] = []

    def add(self, batch: pa.RecordBatch) -> None:
        """Look at one page."""
        columns = _without_nulls([batch.column(index) for index in self._indexes])
        if not len(columns[0]):
            return
        self._keys += len(columns[0])
        if self._ascending:
            self._follow(columns[0])
        self._pending.append(_hashes(columns))
        self._pending_size += len(columns[0])
        # In lots that grow with what was seen: each of them sorts all of that once more.
        if self._pending_size >= max(_PENDING_MIN, len(self._seen.entries) // 4):
            self._settle()

    def take(self) -> UniqueStats:
        """What the part that ends here found; the next part goes on with the same chunk."""
        self._settle()
        # The sample may have become coarser since they were fresh.
        fresh = self._seen.kept(_joined(self._fresh))
        stats = UniqueStats(
            columns=self._key.columns,
            keys=self._keys,
            duplicates=self._duplicates,
            complete=self._ascending or self._seen.shift == 0,
            shift=self._seen.shift,
            entries=b"" if self._key.within_chunks else _packed(fresh),
        )
        self._keys = self._duplicates = 0
        self._fresh = []
        return stats

    def _settle(self) -> None:
        """Compare what is pending with what was seen."""
        if self._pending:
            fresh, duplicates = self._seen.absorb(_joined(self._pending))
            self._duplicates += duplicates
            if not self._key.within_chunks:
                self._fresh.append(fresh)
        self._pending, self._pending_size = [], 0

    def _follow(self, column: pa.Array) -> None:
        """Strictly ascending keys differ, however many there are."""
        values = _integers(column)
        rises = self._last is None or int(values[0]) > self._last
        self._ascending = rises and bool((values[1:] > values[:-1]).all())
        self._last = int(values[-1])


class _Sample:
    """Distinct hashes, sorted; at most ``entries_max`` of them, those of the smallest values."""

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self.shift = 0
        self.entries = _NOTHING

    def absorb(self, hashes: Hashes) -> tuple[Hashes, int]:
        """Add hashes. Returns those that are new (before any sampling this caused), and how
        many were there before or came twice."""
        hashes = self.kept(hashes)
        distinct = np.unique(hashes)
        if len(self.entries):
            at = np.minimum(np.searchsorted(self.entries, distinct), len(self.entries) - 1)
            fresh = distinct[self.entries[at] != distinct]
        else:
            fresh = distinct
        duplicates = len(hashes) - len(fresh)
        self.entries = np.sort(np.concatenate((self.entries, fresh)))
        while len(self.entries) > self._entries_max:
            self.shift += 1
            self.entries = self.kept(self.entries)
        return fresh, duplicates

    def kept(self, hashes: Hashes) -> Hashes:
        """Those of ``hashes`` that the sample would hold."""
        return hashes[hashes < np.uint64(1 << (64 - self.shift))] if self.shift else hashes

    def widen(self, shift: int) -> None:
        """Sample as coarsely as another one did."""
        self.shift = max(self.shift, shift)
        self.entries = self.kept(self.entries)


def merge_unique(key: UniqueKey, parts: Iterable[UniqueStats], *, entries_max: int) -> UniqueFound:
    """One key over all parts of a run; holds at most ``entries_max`` hashes and one part's."""
    keys = duplicates = shift_max = 0
    complete = True
    sample = _Sample(entries_max)
    for part in parts:
        keys += part.keys
        duplicates += part.duplicates
        shift_max = max(shift_max, part.shift)
        complete = complete and part.complete
        if not key.within_chunks:
            sample.widen(part.shift)
            _, again = sample.absorb(np.frombuffer(part.entries, _STORED).astype(np.uint64))
            duplicates += again
    shift = shift_max if key.within_chunks else sample.shift
    if not key.within_chunks:
        complete = shift == 0
    return UniqueFound(
        columns=key.columns, keys=keys, duplicates=duplicates, complete=complete, shift=shift
    )


def _joined(arrays: Sequence[Hashes]) -> Hashes:
    return np.concatenate(arrays) if arrays else _NOTHING


def _packed(hashes: Hashes) -> bytes:
    return np.sort(hashes).astype(_STORED).tobytes()


def _without_nulls(columns: Sequence[pa.Array]) -> list[pa.Array]:
    """The rows that have a value in every column."""
    if not any(column.null_count for column in columns):
        return list(columns)
    valid = columns[0].is_valid()
    for column in columns[1:]:
        valid = pc.and_(valid, column.is_valid())
    return [column.filter(valid) for column in columns]


def _hashes(columns: Sequence[pa.Array]) -> Hashes:
    combined = _column_hashes(columns[0])
    for column in columns[1:]:
        combined = _mixed(combined * np.uint64(0x9E3779B97F4A7C15) ^ _column_hashes(column))
    return combined


def _column_hashes(column: pa.Array) -> Hashes:
    kind = column.type
    if _is_number(kind):
        return _mixed(_integers(column).view(np.uint64))
    if pa.types.is_floating(kind):
        # Plus zero: minus zero is equal to it, and every NaN becomes the same bits.
        values = _stored(column.cast(pa.float64()), np.float64) + 0.0
        values[np.isnan(values)] = np.nan
        return _mixed(values.view(np.uint64))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        column = column.cast(pa.large_string()).cast(pa.large_binary())
    digest = xxhash.xxh3_64_intdigest
    values = column.to_pylist()
    images = values if _is_bytes(column.type) else [repr(value).encode() for value in values]
    return np.fromiter((digest(image) for image in images), np.uint64, count=len(values))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _is_number(kind: pa.DataType) -> bool:
    """True for types that are a whole number of at most 64 bits: their hash is one to one."""
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_date32(kind)
        or pa.types.is_time64(kind)
        or pa.types.is_timestamp(kind)
    )


def _integers(column: pa.Array) -> NDArray[np.int64] | NDArray[np.uint64]:
    """A column without NULLs as the 64-bit integers that Arrow stores."""
    kind = column.type
    if pa.types.is_uint64(kind):
        return _stored(column, np.uint64)
    if pa.types.is_date32(kind):
        column = column.view(pa.int32())
    elif not pa.types.is_integer(kind) and not pa.types.is_boolean(kind):
        column = column.view(pa.int64())
    return _stored(column.cast(pa.int64()), np.int64)


def _stored(column: pa.Array, kind: type[Any]) -> NDArray[Any]:
    """The values of a fixed-width column without NULLs. By its buffer: workers import pyarrow
    without NumPy, so an array cannot be asked."""
    values = np.frombuffer(column.buffers()[1], kind)
    return values[column.offset : column.offset + len(column)]


def _mixed(values: Hashes) -> Hashes:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): one to one on 64 bits."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))
