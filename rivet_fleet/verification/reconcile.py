"""One range compared with its source (ADR 0030): what is looked at, how often, and what it says.

A driver over two sides, which it is given as ``Looks``; it knows nothing of leases or connections.
The source is read as the run read it, page by page; the files as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Protocol

import numpy as np
import pyarrow as pa

from rivet_fleet.contracts.aggregates import asked_of, differing
from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.contracts.facts import Asked
from rivet_fleet.contracts.keys import ChunkRange
from rivet_fleet.contracts.plan import ExportPlan, ReadPlan
from rivet_fleet.contracts.reconcile import (
    Moment,
    NotAsWritten,
    RangeResult,
    RangeVerdict,
    ReconcileDepth,
    ReconcilePlan,
    Side,
    confirmed_count,
    counted_columns,
    judged_count,
    judged_measures,
    key_columns,
)
from rivet_fleet.contracts.window import RowWindow, WindowBound
from rivet_fleet.errors import DataIntegrityError
from rivet_fleet.execution.rowtally import (
    Flags,
    RowCount,
    RowsKept,
    RowTally,
    Settled,
    Told,
    chosen,
    hashes_of,
    told_apart,
)
from rivet_fleet.execution.totals import Measured
from rivet_fleet.execution.types import arrow_schema, empty_batch, storage_of


class Looks(Protocol):
    """The two sides of one range. Whatever is raised for the source, a stop or a lost lease ends
    the comparison."""

    def source(self, read: ReadPlan, chunk_range: ChunkRange) -> Iterator[pa.RecordBatch]:
        """The rows of a range as they are now, by pages of the run's own reader; packed (ADR 0014)
        where the format takes that."""
        ...

    def count_files(self) -> int:
        """Rows of the range's files, by their footers. Raises as ``files`` does."""
        ...

    def files(self, columns: tuple[str, ...]) -> Iterator[Mapping[str, pa.Array]]:
        """These columns of the range's files (``PartFormat.rows``). Raises NotAsWritten for a file
        that is another, DataIntegrityError for one that cannot be read."""
        ...

    def as_read(self, batch: pa.RecordBatch) -> list[pa.Array]:
        """``PartFormat.as_read``."""
        ...

    def source_moment(self) -> Moment:
        """Now, by the source's own clock and log, as far as it says."""
        ...

    def files_moment(self) -> Moment:
        """Now, by the state's clock."""
        ...

    def measured(
        self, read: ReadPlan, chunk_range: ChunkRange, asked: Sequence[Asked]
    ) -> Iterator[tuple[Decimal | None, ...]] | None:
        """Piece by piece of a range how many rows it has, and the measures of its columns, by
        statements at the source as short as pages; None where no such statement can be cut, or
        would not mean what was read."""
        ...

    def pause(self, seconds: float) -> None:
        """Wait before the second look."""
        ...


class _Otherwise(Exception):
    """The files are not of the run's columns; the message says how."""


def compare_range(plan: ExportPlan, chunk_range: ChunkRange, looks: Looks) -> RangeResult:
    """What the range came to. A side that cannot be seen is ``unknown``, never a match."""
    assert plan.reconcile is not None
    comparison = _Comparison(plan, plan.reconcile, chunk_range, looks)
    if comparison.blind:
        return RangeResult(
            verdict=RangeVerdict.UNKNOWN,
            sentence=f"a {plan.format.format} file does not say which of its rows are settled",
        )
    try:
        if plan.reconcile.depth is ReconcileDepth.COUNT:
            return comparison.by_count()
        if plan.reconcile.depth is ReconcileDepth.AGGREGATE:
            return comparison.by_measures()
        return comparison.by_rows()
    except _Otherwise as wrong:
        return RangeResult(verdict=RangeVerdict.MISMATCH, sentence=str(wrong))
    except NotAsWritten as wrong:
        return RangeResult(verdict=RangeVerdict.MISMATCH, sentence=wrong.message)
    except DataIntegrityError as wrong:
        return RangeResult(verdict=RangeVerdict.UNKNOWN, sentence=f"the files: {wrong.message}")


_LOOKS_MAX = 6
"""At both sides of a range: each reads all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Between:
    """When a look at both sides began and ended."""

    source: tuple[Moment, Moment]
    files: tuple[Moment, Moment]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Closer:
    """What a closer look came to. ``looked_at``: the buckets of all looks so far; ``hidden``: no
    row that nothing excuses was found, and there may be some in others."""

    verdict: RangeVerdict
    sentence: str
    source: RowTally
    files: RowTally
    between: _Between
    looks: int
    told: Told
    whole: bool
    looked_at: Flags
    hidden: bool


class _Comparison:
    def __init__(
        self, plan: ExportPlan, asked: ReconcilePlan, chunk_range: ChunkRange, looks: Looks
    ) -> None:
        self._asked, self._range, self._looks = asked, chunk_range, looks
        self._read = plan.read
        self._settled = (
            Settled(column=asked.settled_by, before_us=asked.settled_before_us)
            if asked.settled_by is not None and asked.settled_before_us is not None
            else None
        )

    @property
    def blind(self) -> bool:
        """True where the files hold no moments, but their texts, and moments decide."""
        if self._settled is None:
            return False
        column = [one for one in self._read.columns if one.name == self._settled.column]
        nothing = empty_batch(arrow_schema(tuple(column)))
        (found,) = self._looks.as_read(nothing)
        return bool(found.type != nothing.column(0).type)

    # ---------------------------------------------------------------- count

    def by_count(self) -> RangeResult:
        """Two numbers; looked at again before they are called different."""
        source, files = self._counted()
        verdict, sentence = judged_count(source, files)
        if verdict is RangeVerdict.MATCH:
            return RangeResult(verdict=verdict, sentence=sentence, source=source, files=files)
        self._looks.pause(self._asked.confirm_after_s)
        first, (source, files) = source, self._counted()
        verdict, sentence = confirmed_count(first, source, files)
        return RangeResult(verdict=verdict, sentence=sentence, source=source, files=files, looks=2)

    def _counted(self) -> tuple[Side, Side]:
        begun = self._looks.source_moment()
        source = self._count_source(self._read, self._range)
        ended = self._looks.source_moment()
        files = self._count_files()
        beyond = self._beyond()
        moved = 0
        if beyond is not None and files.rows > source.rows:
            moved = self._count_source(*beyond, all_rows=True).rows
            ended = self._looks.source_moment()
        unsettled = source.unsettled + moved
        return replace(source, unsettled=unsettled, begun=begun, ended=ended), files

    def _count_files(self) -> Side:
        begun = self._looks.files_moment()
        if self._settled is None:
            rows, unsettled = self._looks.count_files(), 0
        else:
            count = RowCount(self._settled)
            for columns in self._file_rows((self._settled.column,)):
                count.add(columns, len(columns[self._settled.column]))
            rows, unsettled = count.rows, count.unsettled
        ended = self._looks.files_moment()
        return Side(rows=rows, unsettled=unsettled, begun=begun, ended=ended)

    def _count_source(
        self, read: ReadPlan, chunk_range: ChunkRange, *, all_rows: bool = False
    ) -> Side:
        count = RowCount(None if all_rows else self._settled)
        only = counted_columns(read.columns, chunk_range, self._asked.settled_by)
        for batch in self._looks.source(replace(read, only=only), chunk_range):
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            count.add(columns, batch.num_rows)
        return Side(rows=count.rows, unsettled=count.unsettled)

    def _beyond(self) -> tuple[ReadPlan, ChunkRange] | None:
        """Where rows are that have left the run's window through its upper end: a cursor rises
        when a row is written again. None when nothing can have."""
        window = self._read.window
        if window is None or window.upper is None or window.empty:
            return None
        above = RowWindow(
            columns=window.columns,
            fallback=window.fallback,
            lower=WindowBound(values=window.upper.values, inclusive=not window.upper.inclusive),
        )
        chunk_range = self._range
        if set(chunk_range.columns) & set(window.columns):
            # Its own ends are of the cursor: what rose lies behind them.
            chunk_range = replace(chunk_range, lower=None, upper=None)
        return replace(self._read, window=above), chunk_range

    # ---------------------------------------------------------------- aggregate

    def by_measures(self) -> RangeResult:
        """Numbers of rows and of each column; looked at again before they are called different."""
        asked = asked_of(self._comparable())
        source, files, first, found = self._measured(asked)
        verdict, sentence = judged_measures(source, files, found)
        looks = 1
        if verdict is not RangeVerdict.MATCH:
            self._looks.pause(self._asked.confirm_after_s)
            before, looks = source, 2
            source, files, second, found = self._measured(asked)
            verdict, sentence = judged_measures(source, files, found)
            moved = before.rows != source.rows or differing(asked, first, second)
            if verdict is RangeVerdict.MISMATCH and moved:
                verdict = RangeVerdict.UNSETTLED
                sentence += "; the source was being written to between the two looks"
        return RangeResult(
            verdict=verdict,
            sentence=sentence,
            source=source,
            files=files,
            looks=looks,
            measures=found,
            measured=True,
        )

    def _comparable(self) -> list[ColumnSpec]:
        """As the files hold them: cells of text have lengths, and are not numbers."""
        cell = ColumnType(kind=TypeKind.STRING)
        return [
            replace(spec, cast=None, type=cell) if spec.name in self._cells() else spec
            for spec in self._read.columns
        ]

    def _cells(self) -> set[str]:
        """The columns of which the files hold but their text."""
        schema = arrow_schema(self._read.columns)
        planned = empty_batch(schema).columns
        pairs = zip(schema.names, self._nothing(), planned, strict=True)
        return {name for name, found, plan in pairs if _kind(found) != _kind(plan)}

    def _nothing(self) -> list[pa.Array]:
        return self._looks.as_read(empty_batch(arrow_schema(self._read.columns)))

    def _measured(
        self, asked: Sequence[Asked]
    ) -> tuple[Side, Side, tuple[Decimal | None, ...], dict[str, tuple[str, ...]]]:
        """Both sides, what is measured at the source, and in what they differ."""
        names = tuple(one.name for one in self._read.columns)
        at_source, of_files = (Measured(asked, self._settled) for _ in range(2))
        begun = self._looks.source_moment()
        by_server = None
        if self._settled is None and not self._cells():
            by_server = self._looks.measured(self._read, self._range, asked)
        if by_server is None:
            self._read_source(names, at_source.add)
        else:
            for rows, *values in by_server:
                at_source.join(int(rows or 0), values)
        source = at_source.side(begun, self._looks.source_moment())
        begun = self._looks.files_moment()
        self._read_files(names, of_files.add)
        files = of_files.side(begun, self._looks.files_moment())
        beyond = self._beyond()
        if beyond is not None and files.rows > source.rows:
            moved = self._count_source(*beyond, all_rows=True).rows
            ended = self._looks.source_moment()
            source = replace(source, unsettled=source.unsettled + moved, ended=ended)
        found = at_source.totals.values
        return source, files, found, differing(asked, found, of_files.totals.values)

    # ---------------------------------------------------------------- hash

    def by_rows(self) -> RangeResult:
        """Every row, by its hash; where buckets differ, once more and row by row."""
        names = tuple(one.name for one in self._read.columns)
        keys = key_columns(self._read.columns, self._range)
        first, first_files = (RowTally(names, keys, self._settled) for _ in range(2))
        between = self._read_both(names, first.add, first_files.add)
        differing = first.differing(first_files)
        if not differing.any():
            return RangeResult(
                verdict=RangeVerdict.MATCH,
                sentence=f"{first.rows:,} rows are the same on both sides",
                source=_side(first, between.source),
                files=_side(first_files, between.files),
                key_columns=keys,
            )
        self._looks.pause(self._asked.confirm_after_s)
        closer = self._closer(first, first_files, np.zeros_like(differing))
        while closer.hidden and closer.looks < _LOOKS_MAX:
            closer = self._closer(first, first_files, closer.looked_at, closer)
        told = closer.told
        return RangeResult(
            verdict=closer.verdict,
            sentence=closer.sentence,
            source=_side(closer.source, closer.between.source),
            files=_side(closer.files, closer.between.files),
            looks=closer.looks,
            missing=told.missing,
            extra=told.extra,
            changed=told.changed,
            complete=closer.whole and bool((closer.looked_at >= differing).all()),
            key_columns=keys,
            rows=tuple(told.rows or ()),
        )

    def _closer(
        self,
        first: RowTally,
        first_files: RowTally,
        passed: Flags,
        before: _Closer | None = None,
    ) -> _Closer:
        """Another look at both sides, at the rows of some buckets that differed at the first and
        that no look ``before`` was at (``passed``)."""
        names, keys = first.names, first.keys
        differing = first.differing(first_files)
        wanted = chosen(differing & ~passed, first, first_files)
        source, files = (RowsKept(RowTally(names, keys, self._settled), wanted) for _ in range(2))
        between = self._read_both(names, source.add, files.add)
        stable = ~first.differing(source.tally)
        still = source.tally.differing(files.tally) & differing
        whole, looked_at = source.whole and files.whole, passed | wanted
        told, hidden = Told(rows=[]), False
        if whole:
            told = told_apart(
                source,
                files,
                stable=stable,
                limit=self._asked.limit,
                moved_away=self._moved_away,
                excused_before=before.told.excused_by_number if before else 0,
            )
            told.excused += before.told.excused if before else 0
            hidden = not told.differing and bool((still & stable & ~looked_at).any())
            verdict, sentence = _judged(told, still=bool(still.any()), hidden=hidden)
        else:
            verdict, sentence = self._too_wide(source.tally, proven=bool((still & stable).any()))
        return _Closer(
            verdict=verdict,
            sentence=sentence,
            source=source.tally,
            files=files.tally,
            between=between,
            looks=before.looks + 1 if before else 2,
            told=told,
            whole=whole,
            looked_at=looked_at,
            hidden=hidden,
        )

    def _too_wide(self, source: RowTally, *, proven: bool) -> tuple[RangeVerdict, str]:
        """Rows that take more than may be kept are not told apart. ``proven``: the sides differ at
        both looks where the source has not moved."""
        said = "rows differ that are too wide to be told apart here"
        if proven and not source.unsettled and self._beyond() is None:
            return RangeVerdict.MISMATCH, said
        return RangeVerdict.UNKNOWN, f"{said}; they may have been written since the run began"

    def _read_both(self, names: tuple[str, ...], source: _Take, files: _Take) -> _Between:
        """Read the source, then the files; when."""
        source_begun = self._looks.source_moment()
        self._read_source(names, source)
        source_ended, files_begun = self._looks.source_moment(), self._looks.files_moment()
        self._read_files(names, files)
        files_ended = self._looks.files_moment()
        return _Between(source=(source_begun, source_ended), files=(files_begun, files_ended))

    def _read_source(self, names: tuple[str, ...], take: _Take) -> None:
        for batch in self._looks.source(self._read, self._range):
            columns = dict(zip(names, self._looks.as_read(batch), strict=True))
            if batch.num_rows:
                take(columns)
            del batch, columns  # held on, they would be there beside the next page

    def _read_files(self, names: tuple[str, ...], take: _Take) -> None:
        for columns in self._file_rows(names):
            if len(columns[names[0]]):
                take(columns)

    def _file_rows(self, names: tuple[str, ...]) -> Iterator[Mapping[str, pa.Array]]:
        """Of the planned columns and types. Raises _Otherwise."""
        every = [one.name for one in self._read.columns]
        planned = dict(zip(every, self._nothing(), strict=True))
        for columns in self._looks.files(names):
            for name in names:
                if name not in columns:
                    raise _Otherwise(f"the files have no column {name}")
                found, kind = _kind(columns[name]), _kind(planned[name])
                if found != kind:
                    raise _Otherwise(f"column {name} of the files is {found}, not {kind}")
            yield columns

    def _moved_away(self) -> set[int]:
        beyond = self._beyond()
        keys = key_columns(self._read.columns, self._range)
        if beyond is None or not keys:
            return set()
        read, chunk_range = beyond
        wanted = {*keys, *(n for n in chunk_range.columns if n in {c.name for c in read.columns})}
        only = tuple(one.name for one in read.columns if one.name in wanted)
        found: set[int] = set()
        for batch in self._looks.source(replace(read, only=only), chunk_range):
            # As they were hashed: by what the file says of them.
            columns = dict(zip(only, self._looks.as_read(batch), strict=True))
            found.update(hashes_of([columns[name] for name in keys]).tolist())
        return found


def _kind(column: pa.Array) -> pa.DataType:
    """The type of a column's values, however they are held."""
    kind = storage_of(column).type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


class _Take(Protocol):
    def __call__(self, columns: Mapping[str, pa.Array], /) -> object: ...


def _side(tally: RowTally, between: tuple[Moment, Moment]) -> Side:
    begun, ended = between
    return Side(
        rows=tally.rows,
        unsettled=tally.unsettled,
        begun=begun,
        ended=ended,
        digest=tally.digest,
    )


def _judged(told: Told, *, still: bool, hidden: bool) -> tuple[RangeVerdict, str]:
    """``still``: the sides differ at the last look, too; ``hidden``: also in buckets that no look
    was at, where the source has not moved."""
    if told.differing:
        rows = (
            f"{told.missing:,} rows are missing in the files, {told.extra:,} are in the files "
            f"alone, {told.changed:,} have other values"
        )
        later = f"; {told.excused:,} more may have been written since" if told.excused else ""
        return RangeVerdict.MISMATCH, rows + later
    if hidden:
        return (
            RangeVerdict.UNKNOWN,
            "not all that differs was looked at: there is more than can be kept; "
            f"{told.excused:,} rows that were may have been written since the run began",
        )
    if still or told.excused:
        return (
            RangeVerdict.UNSETTLED,
            f"{told.excused:,} rows differ that may have been written since the run began",
        )
    return RangeVerdict.MATCH, "the sides differed at the first look and are the same now"
