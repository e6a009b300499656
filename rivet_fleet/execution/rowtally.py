"""Rows of two sides compared without an order and in little memory (ADR 0030).

Every row is hashed over all of its columns (``checksums``), and rows are counted and their hashes
summed in buckets by the hash of their key. Where all buckets agree, so do the sides. Where some do
not, the rows of those buckets alone are kept at the next look, and told apart.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rivet_fleet.contracts.keys import shown_key
from rivet_fleet.contracts.reconcile import Difference, DifferingRow
from rivet_fleet.execution.checksums import row_chains
from rivet_fleet.execution.types import storage_of

Columns = Mapping[str, pa.Array]
Bits = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]

BUCKETS = 1 << 14
_SHIFT = np.uint64(64 - 14)
KEPT_ROWS_MAX = 20_000
"""Rows of one side that are told apart at most: whole buckets, and one at least."""
KEPT_BYTES_MAX = 16 * 1024 * 1024
_DAY_US = 86_400_000_000
_NEVER = 2**62


def hashes_of(columns: Sequence[pa.Array]) -> Bits:
    """One number a row, over these columns."""
    return np.frombuffer(row_chains()(columns), np.uint64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """Which rows are: those whose ``column`` is below ``before_us``; NULL is not."""

    column: str
    before_us: int

    def flags(self, columns: Columns) -> Flags:
        """One for each row."""
        values = storage_of(columns[self.column])
        day = pa.types.is_date32(values.type)
        numbers = values.cast(pa.int32()).cast(pa.int64()) if day else values.cast(pa.int64())
        moments = _numbers(numbers.fill_null(_NEVER))
        return np.asarray(moments < (self.before_us // _DAY_US if day else self.before_us))


def _numbers(column: pa.Array) -> npt.NDArray[np.int64]:
    """The values of a column of 64-bit numbers without NULL, where they are."""
    data = column.buffers()[1]
    if data is None or not len(column):
        return np.zeros(0, np.int64)
    return np.frombuffer(data, np.int64, count=len(column), offset=8 * column.offset)


class RowCount:
    """How many rows of a side are settled."""

    def __init__(self, settled: Settled | None) -> None:
        self._settled = settled
        self.rows = self.unsettled = 0

    def add(self, columns: Columns, rows: int) -> Flags | None:
        """Some rows; which of them are settled, None for all."""
        if self._settled is None:
            self.rows += rows
            return None
        flags = self._settled.flags(columns)
        settled = int(np.count_nonzero(flags))
        self.rows += settled
        self.unsettled += rows - settled
        return flags


@dataclass(frozen=True, slots=True)
class _Hashed:
    rows: Bits
    keys: Bits
    buckets: npt.NDArray[np.int64]
    settled: Flags


class RowTally:
    """One look at one side."""

    def __init__(self, names: Sequence[str], keys: Sequence[str], settled: Settled | None) -> None:
        """``names``: the columns of a row, in one order for both sides. ``keys``: those of them
        that tell rows apart; without any, rows are their own."""
        self.names, self.keys = tuple(names), tuple(keys)
        self._count = RowCount(settled)
        self.counts = np.zeros(BUCKETS, np.int64)
        self.sums = np.zeros(BUCKETS, np.uint64)

    @property
    def rows(self) -> int:
        """Those that are settled."""
        return self._count.rows

    @property
    def unsettled(self) -> int:
        """All others."""
        return self._count.unsettled

    @property
    def digest(self) -> str:
        """The sum of all settled rows' hashes."""
        return f"{int(np.sum(self.sums, dtype=np.uint64)):016x}"

    def add(self, columns: Columns) -> _Hashed:
        """Some rows of the side."""
        rows = hashes_of([columns[name] for name in self.names])
        keys = hashes_of([columns[name] for name in self.keys]) if self.keys else rows
        flags = self._count.add(columns, len(rows))
        settled = np.ones(len(rows), np.bool_) if flags is None else flags
        buckets = (keys >> _SHIFT).astype(np.int64)
        counted = buckets if flags is None else buckets[settled]
        self.counts += np.bincount(counted, minlength=BUCKETS)
        np.add.at(self.sums, counted, rows if flags is None else rows[settled])
        return _Hashed(rows, keys, buckets, settled)

    def differing(self, other: RowTally) -> Flags:
        """The buckets that do not agree, of the same side or of the other."""
        return np.asarray((self.counts != other.counts) | (self.sums != other.sums))


def chosen(differing: Flags, one: RowTally, other: RowTally) -> Flags:
    """Of the buckets that differ so many that their rows can be kept."""
    found = np.flatnonzero(differing)
    sizes = np.maximum(one.counts[found], other.counts[found])
    fits = np.cumsum(sizes) <= KEPT_ROWS_MAX
    fits[:1] = True
    kept = np.zeros(BUCKETS, np.bool_)
    kept[found[fits]] = True
    return kept


@dataclass(slots=True)
class _Row:
    """One row that is kept; ``place``: the block of rows that it is in, and where."""

    hash: int
    key: int
    bucket: int
    settled: bool
    place: tuple[int, int]


class RowsKept:
    """A look at a side that keeps the rows of some buckets."""

    def __init__(self, tally: RowTally, wanted: Flags) -> None:
        self.tally = tally
        self._wanted = wanted
        self._blocks: list[Columns] = []
        self._bytes = 0
        self.whole = True
        """False when there was more than may be kept."""
        self.rows: list[_Row] = []

    def add(self, columns: Columns) -> None:
        """Some rows of the side."""
        hashed = self.tally.add(columns)
        places = np.flatnonzero(self._wanted[hashed.buckets])
        if not len(places):
            return
        indexes = pa.Array.from_buffers(
            pa.int64(), len(places), [None, pa.py_buffer(places.astype(np.int64))]
        )
        taken = {name: columns[name].take(indexes) for name in self.tally.names}
        self._bytes += sum(one.nbytes for one in taken.values())
        if self._bytes > KEPT_BYTES_MAX:
            self.whole = False
            return
        block = len(self._blocks)
        self._blocks.append(taken)
        for at, row in enumerate(places.tolist()):
            self.rows.append(
                _Row(
                    int(hashed.rows[row]),
                    int(hashed.keys[row]),
                    int(hashed.buckets[row]),
                    bool(hashed.settled[row]),
                    (block, at),
                )
            )

    def cells(self, row: _Row) -> list[pa.Array]:
        """The values of a kept row, an array of one each, in the order of the tally's names."""
        block, at = row.place
        return [self._blocks[block][name].slice(at, 1) for name in self.tally.names]

    def key_of(self, row: _Row) -> tuple[str, ...]:
        """A kept row's key, for people."""
        block, at = row.place
        values = (self._blocks[block][name][at].as_py() for name in self.tally.keys)
        return tuple(shown_key((key_text(value),)) for value in values)


def key_text(value: Any) -> str:
    """One value of a key, for people."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return "\\x" + value.hex()
    if isinstance(value, uuid.UUID):
        return str(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


@dataclass(slots=True)
class Told:
    """How two sides differ. ``excused``: rows that may have been written since.
    ``excused_by_number``: rows without a key that unsettled ones of the source excused, one each,
    at all looks so far."""

    missing: int = 0
    extra: int = 0
    changed: int = 0
    excused: int = 0
    excused_by_number: int = 0
    rows: list[DifferingRow] | None = None

    @property
    def differing(self) -> int:
        """All that nothing excuses."""
        return self.missing + self.extra + self.changed


def told_apart(
    source: RowsKept,
    files: RowsKept,
    *,
    stable: Flags,
    limit: int,
    moved_away: Callable[[], set[int]],
    excused_before: int = 0,
) -> Told:
    """Which rows differ. ``stable``: the buckets in which the source has not moved between two
    looks; what differs in another is excused. ``moved_away``: hashes of keys that the source holds
    beyond what the run was to read; asked when the files hold a row that the source does not.
    ``excused_before``: rows that looks before have excused by their number."""
    told = Told(rows=[], excused_by_number=excused_before)
    found = _Found(source, files, told, limit)
    extra: list[_Row] = []
    spent: set[int] = set()
    for s, f, later in _by_key(source.rows, files.rows).values():
        if not s and not f:
            continue
        moving = not stable[(s or f)[0].bucket]
        pairs = list(zip(s, f, strict=False))
        if moving:
            told.excused += max(len(s), len(f))
            continue
        if source.tally.keys:
            for one, other in pairs:
                found.changed(one, other)
            s, f = s[len(pairs) :], f[len(pairs) :]
        for one in s:
            found.missing(one)
        if later and f:
            # A key has one row at the source, and that has been one row of the files.
            told.excused += 1
            spent.add(f.pop().key)
        extra += f
    away = moved_away() - spent if extra and source.tally.keys else set()
    unsettled = 0 if source.tally.keys else source.tally.unsettled
    for one in extra:
        if one.key in away:
            away.remove(one.key)
            told.excused += 1
        elif told.excused_by_number < unsettled:
            told.excused_by_number += 1
            told.excused += 1
        else:
            found.extra(one)
    return told


_Sides = dict[int, tuple[list[_Row], list[_Row], bool]]


def _by_key(source: Iterable[_Row], files: Iterable[_Row]) -> _Sides:
    """By key what each side has that the other has not, of settled rows; and whether the source
    has rows of it that are not."""
    left: dict[int, list[_Row]] = defaultdict(list)
    right: dict[int, list[_Row]] = defaultdict(list)
    later = set()
    for one in source:
        if one.settled:
            left[one.key].append(one)
        else:
            later.add(one.key)
    for one in files:
        # A row of the files that was written late is no less a row: the source's settled row of
        # its key is compared with it.
        if one.settled or one.key in left:
            right[one.key].append(one)
    return {key: (*_without_equal(left[key], right[key]), key in later) for key in {*left, *right}}


def _without_equal(one: list[_Row], other: list[_Row]) -> tuple[list[_Row], list[_Row]]:
    """What is left of two lists when rows of one hash have left them in pairs."""
    waiting: dict[int, list[_Row]] = defaultdict(list)
    for row in one:
        waiting[row.hash].append(row)
    rest = [row for row in other if not (waiting[row.hash] and waiting[row.hash].pop())]
    return [row for rows in waiting.values() for row in rows], rest


@dataclass(slots=True)
class _Found:
    """Counts differing rows, and keeps the first."""

    source: RowsKept
    files: RowsKept
    told: Told
    limit: int

    def missing(self, row: _Row) -> None:
        self.told.missing += 1
        self._keep(Difference.MISSING, self.source.key_of(row))

    def extra(self, row: _Row) -> None:
        self.told.extra += 1
        self._keep(Difference.EXTRA, self.files.key_of(row))

    def changed(self, row: _Row, other: _Row) -> None:
        self.told.changed += 1
        cells = zip(
            self.source.tally.names, self.source.cells(row), self.files.cells(other), strict=True
        )
        columns = [name for name, one, two in cells if hashes_of([one])[0] != hashes_of([two])[0]]
        self._keep(Difference.CHANGED, self.source.key_of(row), tuple(columns))

    def _keep(
        self, difference: Difference, key: tuple[str, ...], columns: tuple[str, ...] = ()
    ) -> None:
        assert self.told.rows is not None
        if len(self.told.rows) < self.limit:
            self.told.rows.append(DifferingRow(difference=difference, key=key, columns=columns))
