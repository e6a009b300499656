"""Two sides of a range compared, in memory: what each depth finds, excuses and cannot see."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.contracts.keys import ChunkRange, RangeKind, RunId
from rivet_fleet.contracts.plan import ExportPlan, FormatPlan
from rivet_fleet.contracts.reconcile import (
    ComparedRange,
    Difference,
    Moment,
    RangeResult,
    RangeVerdict,
    ReconcileDepth,
    ReconcilePlan,
    Side,
    compared_run,
    confirmed_count,
    counted_columns,
    judged_count,
    moments_plain,
    report_plain,
)
from rivet_fleet.contracts.window import RowWindow, WindowBound
from rivet_fleet.errors import DataIntegrityError
from rivet_fleet.execution import rowtally
from rivet_fleet.execution.registry import open_format
from rivet_fleet.execution.types import arrow_schema
from rivet_fleet.verification.reconcile import compare_range
from tests.campaigns import planned_run
from tests.packed import packed

BEGAN = datetime(2024, 5, 1, tzinfo=UTC)
BEFORE, AFTER = BEGAN - timedelta(hours=1), BEGAN + timedelta(hours=1)
COLUMNS = (
    ColumnSpec(name="id", native_type="bigint", type=ColumnType(kind=TypeKind.INT64), key=True),
    ColumnSpec(name="note", native_type="text", type=ColumnType(kind=TypeKind.STRING)),
    ColumnSpec(name="share", native_type="float8", type=ColumnType(kind=TypeKind.FLOAT64)),
    ColumnSpec(
        name="total",
        native_type="numeric(10,2)",
        type=ColumnType(kind=TypeKind.DECIMAL, precision=10, scale=2),
    ),
    ColumnSpec(name="at", native_type="timestamptz", type=ColumnType(kind=TypeKind.TIMESTAMP_UTC)),
)
RANGE = ChunkRange(kind=RangeKind.KEYSET, columns=("id",))
Row = tuple[Any, ...]
ROWS: list[Row] = [(i, f"n{i}", i / 7, Decimal(i) / 4, BEFORE) for i in range(1, 41)]


def changed(rows: Sequence[Row], **cells: Any) -> list[Row]:
    """``note3="x"``: the note of the row whose id is 3."""
    names = [one.name for one in COLUMNS]
    made = [list(row) for row in rows]
    for cell, value in cells.items():
        name = cell.rstrip("0123456789")
        key = int(cell.removeprefix(name))
        for row in made:
            if row[0] == key:
                row[names.index(name)] = value
    return [tuple(row) for row in made]


def without(rows: Sequence[Row], *keys: int) -> list[Row]:
    return [row for row in rows if row[0] not in keys]


def batch_of(rows: Sequence[Row], columns: Sequence[ColumnSpec] = COLUMNS) -> pa.RecordBatch:
    schema = arrow_schema(tuple(columns))
    places = [[one.name for one in COLUMNS].index(one.name) for one in columns]
    arrays = [
        pa.array([row[place] for row in rows], field.type)
        for place, field in zip(places, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


class Sides:
    """``Looks`` at rows in memory and real files. ``looks``: the source's rows at each look, the
    last for all that follow. ``beyond``: what lies above the window."""

    def __init__(
        self, path: Path, files: Sequence[Row] | None, *looks: Sequence[Row], **more: Any
    ) -> None:
        self._format = open_format(FormatPlan(format=more.get("format", "parquet")))
        path.mkdir(exist_ok=True)
        self._path, self._looks = path / "part", list(looks)
        self._beyond = more.get("beyond", ())
        self._there, self._packed = files is not None, more.get("packed", False)
        if files is not None:
            writer = self._format.open(self._path, arrow_schema(more.get("columns", COLUMNS)))
            writer.write(batch_of(files, more.get("columns", COLUMNS)))
            writer.close()
        self.pauses: list[float] = []
        self.asked: list[tuple[str, ...]] = []
        self.asked_when = 0

    def source(self, read: Any, chunk_range: ChunkRange) -> Iterator[pa.RecordBatch]:
        self.asked.append(read.only)
        above = read.window is not None and read.window.lower is not None
        rows = self._beyond if above else self._looks[0]
        if not above and len(self._looks) > 1:
            self._looks.pop(0)
        for start in range(0, len(rows), 7):
            page = batch_of(rows[start : start + 7], read.carried)
            yield packed(page) if self._packed else page

    def count_files(self) -> int:
        return self._format.count_rows(self._file())

    def files(self, columns: tuple[str, ...]) -> Iterator[Mapping[str, pa.Array]]:
        yield from self._format.rows(self._file(), columns)

    def as_read(self, batch: pa.RecordBatch) -> list[pa.Array]:
        return self._format.as_read(batch)

    def source_moment(self) -> Moment:
        self.asked_when += 1
        return Moment(at_s=float(self.asked_when), position=f"0/{self.asked_when}")

    def files_moment(self) -> Moment:
        self.asked_when += 1
        return Moment(at_s=100.0 + self.asked_when)

    def measured(self, read: Any, chunk_range: ChunkRange, asked: Any) -> None:
        return None  # it is measured here, of the rows

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def _file(self) -> Path:
        if not self._there:
            raise DataIntegrityError("it is not there")
        return self._path


def plan_of(depth: ReconcileDepth, *, settled: bool = False, **more: Any) -> ExportPlan:
    plan = planned_run(run_id="r", export_name="orders", chunks=1).plan
    columns = more.get("columns", COLUMNS)
    read = replace(plan.read, columns=columns, window=more.get("window"))
    asked = ReconcilePlan(
        of_run=RunId("o"),
        campaign_name="shop",
        depth=depth,
        settled_by="at" if settled else None,
        settled_before_us=int(BEGAN.timestamp()) * 1_000_000 if settled else None,
        limit=more.get("limit", 100),
        confirm_after_s=3.0,
    )
    fmt = FormatPlan(format=more.get("format", "parquet"))
    return replace(plan, read=read, reconcile=asked, format=fmt)


def by_row(sides: Sides, **more: Any) -> RangeResult:
    return compare_range(plan_of(ReconcileDepth.HASH, **more), RANGE, sides)


def by_number(sides: Sides, **more: Any) -> RangeResult:
    return compare_range(plan_of(ReconcileDepth.COUNT, **more), RANGE, sides)


def by_measures(sides: Sides, **more: Any) -> RangeResult:
    return compare_range(plan_of(ReconcileDepth.AGGREGATE, **more), RANGE, sides)


def told(result: RangeResult) -> set[tuple[str, str, str]]:
    return {(r.difference.value, ",".join(r.key), ",".join(r.columns)) for r in result.rows}


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_equal_sides_match_at_one_look_whatever_the_order(tmp_path, form) -> None:
    sides = Sides(tmp_path, ROWS[::-1], ROWS, format=form)
    for compared in (by_number, by_measures, by_row):
        result = compared(sides, format=form)
        assert (result.verdict, result.looks, sides.pauses) == (RangeVerdict.MATCH, 1, [])
        assert result.source is not None and result.files is not None
        assert result.source.rows == result.files.rows == 40
        # Each side lies between two moments of its own: the source's are asked of the source.
        assert result.source.begun.at_s is not None and result.files.ended.at_s is not None
        assert result.source.begun.at_s + 1 == result.source.ended.at_s < 100
        assert result.source.ended.position == f"0/{result.source.ended.at_s:.0f}"
        assert 100 < result.files.begun.at_s == result.files.ended.at_s - 1


CELLS = {
    "a case": ({"note3": "N3"}, "note"),
    "a trailing blank": ({"note3": "n3 "}, "note"),
    "NULL for the empty text": ({"note3": None}, "note"),
    "an hour": ({"at3": AFTER}, "at"),
    "a cent": ({"total3": Decimal("0.76")}, "total"),
    "NaN": ({"share3": math.nan}, "share"),
    "the sign of zero": ({"share3": -0.0}, "share"),
}


@pytest.mark.parametrize("form", ["parquet", "csv"])
@pytest.mark.parametrize("name", CELLS)
def test_a_changed_cell_is_named_by_key_and_column(tmp_path, name, form) -> None:
    cells, column = CELLS[name]
    was = changed(ROWS, note3="" if cells.get("note3", 1) is None else "n3", share3=0.0)
    is_now = changed(was, **cells)
    sides = Sides(tmp_path, was, is_now, format=form)
    result = by_row(sides, format=form)
    assert told(result) == {("changed", "3", column)}
    assert (result.verdict, result.looks, sides.pauses) == (RangeVerdict.MISMATCH, 2, [3.0])
    # And the number says nothing of it, in its own words.
    assert by_number(sides, format=form).verdict is RangeVerdict.MATCH


def test_rows_of_either_side_and_swapped_values_are_named(tmp_path) -> None:
    now = [*changed(without(ROWS, 9), note5="n6", note6="n5"), (99, "new", 1.0, None, BEFORE)]
    result = by_row(Sides(tmp_path, ROWS, now))
    assert told(result) == {
        ("extra", "9", ""),
        ("missing", "99", ""),
        ("changed", "5", "note"),
        ("changed", "6", "note"),
    }
    assert (result.missing, result.extra, result.changed, result.complete) == (1, 1, 2, True)
    few = by_row(Sides(tmp_path / "b", ROWS, now), limit=2)
    assert len(few.rows) == 2 and few.changed == 2


def test_packed_pages_are_the_same_rows(tmp_path) -> None:
    sides = Sides(tmp_path, ROWS, ROWS, packed=True)
    assert by_row(sides).verdict is by_number(sides).verdict is RangeVerdict.MATCH
    now = changed(ROWS, note3="x", total4=Decimal("9.99"), note5=None)
    result = by_row(Sides(tmp_path / "b", ROWS, now, packed=True))
    assert told(result) == {
        ("changed", "3", "note"),
        ("changed", "4", "total"),
        ("changed", "5", "note"),
    }


def test_a_difference_of_one_look_alone_is_none(tmp_path) -> None:
    """A row that was on its way at the first look, by row and by number."""
    assert by_row(Sides(tmp_path, ROWS, without(ROWS, 3), ROWS)).verdict is RangeVerdict.MATCH
    sides = Sides(tmp_path / "b", ROWS, without(ROWS, 3), ROWS)
    assert by_number(sides).verdict is RangeVerdict.MATCH


def test_a_source_that_moves_between_two_looks_is_unsettled(tmp_path) -> None:
    looks = changed(ROWS, note3="x"), changed(ROWS, note3="y")
    result = by_row(Sides(tmp_path, ROWS, *looks))
    assert (result.verdict, result.rows) == (RangeVerdict.UNSETTLED, ())
    sides = Sides(tmp_path / "b", ROWS, without(ROWS, 1, 2), without(ROWS, 1))
    assert by_number(sides).verdict is RangeVerdict.UNSETTLED


def test_what_was_written_since_the_run_began_is_no_fault(tmp_path) -> None:
    late = [(99, "new", 1.0, None, AFTER)]
    now = changed(ROWS, note3="later", at3=AFTER, at4=None) + late
    result = by_row(Sides(tmp_path, ROWS, now), settled=True)
    assert (result.verdict, result.rows) == (RangeVerdict.UNSETTLED, ())
    assert result.source is not None and result.source.unsettled == 3
    # Only new rows: all that was delivered is there.
    fresh = by_row(Sides(tmp_path / "b", ROWS, ROWS + late), settled=True)
    assert fresh.verdict is RangeVerdict.MATCH
    # A settled row is gone, or another: nothing excuses that.
    wrong = changed(without(now, 9), note5="x")
    found = by_row(Sides(tmp_path / "c", ROWS, wrong), settled=True)
    assert told(found) == {("extra", "9", ""), ("changed", "5", "note")}


def test_numbers_of_settled_rows_are_excused_by_as_many(tmp_path) -> None:
    now = changed(ROWS, at3=AFTER)
    sides = Sides(tmp_path, ROWS, now)
    result = by_number(sides, settled=True)
    assert result.verdict is RangeVerdict.UNSETTLED
    assert sides.asked == [("id", "at")] * 2
    gone = Sides(tmp_path / "b", ROWS, without(now, 5, 6))
    assert by_number(gone, settled=True).verdict is RangeVerdict.MISMATCH
    assert gone.pauses == [3.0]


def test_a_row_whose_cursor_has_left_the_window_is_no_fault(tmp_path) -> None:
    bound = WindowBound(values=("2024-05-01",), inclusive=False)
    window = RowWindow(columns=("at",), upper=bound)
    left = [changed(ROWS, at3=AFTER)[2]]
    sides = Sides(tmp_path, ROWS, without(ROWS, 3), beyond=left)
    assert by_row(sides, window=window).verdict is RangeVerdict.UNSETTLED
    assert by_number(sides, window=window).verdict is RangeVerdict.UNSETTLED
    gone = Sides(tmp_path / "b", ROWS, without(ROWS, 3, 5), beyond=left)
    assert told(by_row(gone, window=window)) == {("extra", "5", "")}


def test_what_cannot_be_seen_is_unknown(tmp_path) -> None:
    for compared in (by_number, by_row):
        result = compared(Sides(tmp_path, None, ROWS))
        assert result.verdict is RangeVerdict.UNKNOWN and "not there" in result.sentence
    cells = by_row(Sides(tmp_path, ROWS, ROWS, format="csv"), settled=True, format="csv")
    assert cells.verdict is RangeVerdict.UNKNOWN and "settled" in cells.sentence


def test_files_of_other_columns_are_named(tmp_path) -> None:
    fewer = by_row(Sides(tmp_path, ROWS, ROWS, columns=COLUMNS[:4]))
    assert (fewer.verdict, fewer.sentence) == (
        RangeVerdict.MISMATCH,
        "the files have no column at",
    )
    kind = replace(COLUMNS[0], type=ColumnType(kind=TypeKind.INT32))
    other = by_row(Sides(tmp_path / "b", ROWS, ROWS, columns=(kind, *COLUMNS[1:])))
    assert other.sentence == "column id of the files is int32, not int64"


def test_rows_without_a_key_are_told_by_number_alone(tmp_path) -> None:
    columns = (replace(COLUMNS[0], key=False), *COLUMNS[1:])
    twice = [*ROWS, ROWS[0]]
    plan = plan_of(ReconcileDepth.HASH, columns=columns)
    whole = ChunkRange(kind=RangeKind.WHOLE)
    result = compare_range(plan, whole, Sides(tmp_path, twice, [*without(ROWS, 9), ROWS[3]]))
    assert (result.missing, result.extra, result.changed) == (1, 2, 0)
    assert told(result) == {("missing", "", ""), ("extra", "", "")}


def test_more_than_can_be_kept_is_said(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(rowtally, "KEPT_ROWS_MAX", 5)
    result = by_row(Sides(tmp_path, ROWS, changed(ROWS, **{f"note{i}": "x" for i in range(1, 30)})))
    assert result.verdict is RangeVerdict.MISMATCH
    assert 0 < result.changed < 29 and not result.complete
    # One bucket at least, however many rows it has.
    monkeypatch.setattr(rowtally, "KEPT_ROWS_MAX", 0)
    assert by_row(Sides(tmp_path / "b", ROWS, changed(ROWS, note3="x"))).changed == 1
    monkeypatch.setattr(rowtally, "KEPT_BYTES_MAX", 1)
    blind = by_row(Sides(tmp_path / "c", ROWS, changed(ROWS, note3="x")))
    assert (blind.verdict, blind.complete) == (RangeVerdict.MISMATCH, False)
    late = changed(ROWS, note3="x", at4=AFTER)
    excused = by_row(Sides(tmp_path / "d", ROWS, late), settled=True)
    assert (excused.verdict, excused.rows) == (RangeVerdict.UNKNOWN, ())


def test_what_was_never_looked_at_is_not_unsettled(tmp_path, monkeypatch) -> None:
    """Rows that something excuses fill what may be kept: a row that nothing does lies behind."""
    monkeypatch.setattr(rowtally, "KEPT_ROWS_MAX", 0)  # a bucket a look
    names, keys = [one.name for one in COLUMNS], ("id",)
    columns = dict(zip(names, batch_of(ROWS).columns, strict=True))
    buckets = rowtally.RowTally(names, keys, None).add(columns).buckets.tolist()
    inner = [row[0] for _, row in sorted(zip(buckets, ROWS, strict=True))]
    for looks, verdict in ((5, RangeVerdict.MISMATCH), (6, RangeVerdict.UNKNOWN)):
        *late, wrong = inner[:looks]
        now = changed(ROWS, **{f"at{key}": AFTER for key in late}, **{f"note{wrong}": "x"})
        result = by_row(Sides(tmp_path / str(looks), ROWS, now), settled=True)
        assert (result.verdict, result.looks) == (verdict, 6)
        wrong_ones = {("changed", str(wrong), "note")} if looks == 5 else set()
        assert told(result) == wrong_ones and result.complete is (looks == 5)
    # Nothing lies behind what is looked at: it is, to its end.
    late = changed(ROWS, **{f"at{key}": AFTER for key in inner[:5]})
    result = by_row(Sides(tmp_path / "late", ROWS, late), settled=True)
    assert (result.verdict, result.looks, result.complete) == (RangeVerdict.UNSETTLED, 6, True)
    assert "5 rows differ" in result.sentence


@pytest.mark.parametrize("kept_rows_max", [0, 20_000])
def test_an_unsettled_row_without_a_key_excuses_one_row_at_all_looks(
    tmp_path, monkeypatch, kept_rows_max
) -> None:
    monkeypatch.setattr(rowtally, "KEPT_ROWS_MAX", kept_rows_max)
    columns = (replace(COLUMNS[0], key=False), *COLUMNS[1:])
    plan = plan_of(ReconcileDepth.HASH, columns=columns, settled=True)
    whole = ChunkRange(kind=RangeKind.WHOLE)
    for gone, verdict in (((1,), "unsettled"), ((1, 2, 3, 4), "mismatch")):
        now = [*without(ROWS, *gone), (99, "new", 0.0, None, AFTER)]
        result = compare_range(plan, whole, Sides(tmp_path / str(len(gone)), ROWS, now))
        assert result.verdict.value == verdict
        assert (result.extra > 0) is (verdict == "mismatch")
        assert "1 more" in result.sentence or "1 rows differ" in result.sentence


def test_a_key_excuses_one_row_of_the_files(tmp_path) -> None:
    """Four times in the files, and its row at the source was written later or left the window."""
    files = [*ROWS, *[ROWS[0]] * 3]
    later = changed(ROWS, at1=AFTER)
    result = by_row(Sides(tmp_path / "later", files, later), settled=True)
    assert (result.verdict, result.extra) == (RangeVerdict.MISMATCH, 3)
    window = RowWindow(columns=("at",), upper=WindowBound(values=("2024-05-01",), inclusive=False))
    sides = Sides(tmp_path / "left", files, without(ROWS, 1), beyond=later[:1])
    result = by_row(sides, window=window)
    assert (result.verdict, result.extra) == (RangeVerdict.MISMATCH, 3)
    assert "1 more" in result.sentence
    # It left between the look and the one above the window: no second row for that.
    sides = Sides(tmp_path / "both", files, later, beyond=later[:1])
    assert by_row(sides, window=window, settled=True).extra == 3


def test_a_row_of_the_files_that_was_written_late_may_be_gone(tmp_path, monkeypatch) -> None:
    """It was never settled, whatever else differs beside it."""
    monkeypatch.setattr(rowtally, "_SHIFT", np.uint64(63))
    files = [*ROWS, (50, "late", 0.0, None, AFTER)]
    result = by_row(Sides(tmp_path, files, changed(ROWS, note3="x")), settled=True)
    assert told(result) == {("changed", "3", "note")}


# ---------------------------------------------------------------- judging numbers and runs


@pytest.mark.parametrize(
    ("source", "unsettled", "files", "verdict"),
    [
        (10, 0, 10, "match"),
        (10, 5, 10, "match"),
        (9, 0, 10, "mismatch"),
        (9, 1, 10, "unsettled"),
        (8, 1, 10, "mismatch"),
        (11, 5, 10, "mismatch"),
    ],
)
def test_a_number_is_excused_by_what_left_and_by_no_more(source, unsettled, files, verdict) -> None:
    side = Side(rows=source, unsettled=unsettled)
    assert judged_count(side, Side(rows=files))[0].value == verdict
    assert confirmed_count(side, side, Side(rows=files))[0].value == verdict
    if verdict == "mismatch":
        first = Side(rows=source + 3)
        assert confirmed_count(first, side, Side(rows=files))[0] is RangeVerdict.UNSETTLED


def ranges(*results: RangeResult | None, kind: RangeKind = RangeKind.SPAN) -> list[ComparedRange]:
    return [
        ComparedRange(chunk_index=i, chunk_range=ChunkRange(kind=kind), result=one)
        for i, one in enumerate(results)
    ]


def result_of(verdict: str, source: Side | None = None, files: Side | None = None) -> RangeResult:
    return RangeResult(verdict=RangeVerdict(verdict), sentence="", source=source, files=files)


def test_rc3_the_gravest_range_is_the_run(tmp_path) -> None:
    for verdicts, whole in {
        ("match", "match"): "match",
        ("match", "unsettled"): "unsettled",
        ("unsettled", "unknown"): "unknown",
        ("unknown", "mismatch", "match"): "mismatch",
    }.items():
        assert compared_run(ranges(*map(result_of, verdicts))).verdict.value == whole
    # One that was not compared, and none at all, is no match.
    assert compared_run(ranges(result_of("match"), None)).verdict is RangeVerdict.UNKNOWN
    assert compared_run([]).verdict is RangeVerdict.UNKNOWN


def test_rows_that_moved_between_blocks_are_the_same_rows() -> None:
    def moved(digest: str, files_rows: int = 5) -> RangeVerdict:
        one = result_of("mismatch", Side(rows=4, digest="03"), Side(rows=5, digest="05"))
        other = result_of(
            "mismatch", Side(rows=6, digest="04"), Side(rows=files_rows, digest=digest)
        )
        return compared_run(ranges(one, other, kind=RangeKind.BLOCKS)).verdict

    assert moved("02") is RangeVerdict.MATCH
    assert moved("03") is RangeVerdict.MISMATCH
    assert moved("02", 6) is RangeVerdict.MISMATCH


@pytest.mark.parametrize(("digests", "said"), [("34", "the same"), (" ", "only their number")])
def test_rows_that_were_counted_alone_are_not_called_the_same(digests, said) -> None:
    first, last = digests[0].strip(), digests[-1].strip()
    one = result_of("mismatch", Side(rows=4, digest=first), Side(rows=5, digest=last))
    other = result_of("mismatch", Side(rows=6, digest=last), Side(rows=5, digest=first))
    run = compared_run(ranges(one, other, kind=RangeKind.BLOCKS))
    assert run.verdict is RangeVerdict.MATCH and said in run.sentence


def test_counting_reads_the_key_or_the_narrowest_column() -> None:
    assert counted_columns(COLUMNS, RANGE, None) == ("id",)
    assert counted_columns(COLUMNS, RANGE, "at") == ("id", "at")
    whole = ChunkRange(kind=RangeKind.WHOLE)
    assert counted_columns(COLUMNS[1:], whole, None) == ("share",)
    assert counted_columns(COLUMNS[1:2], whole, None) == ("note",)


def test_every_difference_has_a_word() -> None:
    assert {one.value for one in Difference} == {"missing", "extra", "changed"}


def test_a_run_says_between_which_moments_its_sides_were_read() -> None:
    """The first look's beginning to the last one's end, and when the run itself began."""
    sides = [
        Side(rows=1, begun=Moment(at_s=a, position=f"0/{a:.0f}"), ended=Moment(at_s=b))
        for a, b in ((5.0, 9.0), (3.0, 4.0))
    ]
    silent = result_of("match", Side(rows=1), Side(rows=1))
    compared = compared_run(ranges(*(result_of("match", one, one) for one in sides), silent, None))
    asked = ReconcilePlan(
        of_run=RunId("o"),
        campaign_name="shop",
        depth=ReconcileDepth.HASH,
        run_began_us=2_500_000,
    )
    found = moments_plain(compared, asked, "0/2")
    assert (found["source_begun_s"], found["source_ended_s"]) == (3.0, 9.0)
    assert (found["source_begun_position"], found["source_ended_position"]) == ("0/3", None)
    assert (found["run_began_s"], found["run_position"]) == (2.5, "0/2")
    unknown = moments_plain(compared_run(ranges(silent)), replace(asked, run_began_us=None), "")
    assert set(unknown.values()) == {None}


def test_measures_that_differ_are_looked_at_twice(tmp_path) -> None:
    """A source that moved between the two looks is being written to, and says nothing."""
    other = changed(ROWS, total3=Decimal(9), note5="n5 ", share7=math.nan)
    sides = Sides(tmp_path, ROWS, other)
    result = by_measures(sides)
    assert (result.verdict, result.looks, sides.pauses) == (RangeVerdict.MISMATCH, 2, [3.0])
    assert result.measures == {"note": ("bytes",), "share": ("max",), "total": ("sum",)}
    assert "bytes of note" in result.sentence and not result.rows
    moving = Sides(tmp_path / "moving", ROWS, other, changed(other, total4=Decimal(8)))
    result = by_measures(moving)
    assert (result.verdict, result.looks) == (RangeVerdict.UNSETTLED, 2)
    assert "written to" in result.sentence


def test_measures_cannot_see_what_is_exchanged_a_case_or_the_sign_of_a_zero(tmp_path) -> None:
    exchanged = changed(
        ROWS, note3="n4", note4="n3", note9="N9", total5=ROWS[5][3], total6=ROWS[4][3]
    )
    assert by_measures(Sides(tmp_path, ROWS, exchanged)).verdict is RangeVerdict.MATCH
    zero = changed(ROWS, share1=0.0)
    sides = Sides(tmp_path / "zero", zero, changed(zero, share1=-0.0))
    assert by_measures(sides).verdict is RangeVerdict.MATCH


def test_settled_rows_are_measured_and_a_row_that_left_them_excuses_what_differs(tmp_path) -> None:
    left = changed(ROWS, total3=Decimal(9), at3=AFTER)
    result = by_measures(Sides(tmp_path, ROWS, left), settled=True)
    assert result.verdict is RangeVerdict.UNSETTLED
    assert result.source is not None and (result.source.rows, result.source.unsettled) == (39, 1)
    still = changed(ROWS, total3=Decimal(9), at4=AFTER)
    files = changed(ROWS, at4=AFTER)
    sides = Sides(tmp_path / "still", files, still)
    assert by_measures(sides, settled=True).verdict is RangeVerdict.MISMATCH


def test_rc5_the_fields_of_a_report_are_never_taken_away() -> None:
    """As the first version had them; more may come."""
    asked = ReconcilePlan(of_run=RunId("o"), campaign_name="shop", depth=ReconcileDepth.COUNT)
    side = Side(rows=1)
    report = report_plain(
        compared_run(ranges(result_of("match", side, side))),
        asked,
        export_name="orders",
        run_id="r",
        strategy="keyset",
        run_position="",
        columns=COLUMNS,
    )
    assert report.keys() >= {
        *("report_version", "export_name", "run_id", "reconcile_run_id", "strategy", "depth"),
        *("settled_by", "settled_before_us", "verdict", "found", "summary", "partitions"),
    }
    assert report["summary"].keys() >= {
        *("total_partitions", "matches", "mismatches", "unsettled", "unknown", "missing"),
        *("extra", "changed", "total_source_rows", "total_exported_rows"),
    }
    assert report["partitions"][0].keys() >= {
        *("kind", "chunk_index", "identifier", "status", "note", "source_count"),
        *("exported_count", "source_unsettled", "source_read_at_s", "files_read_at_s", "looks"),
        *("missing", "extra", "changed", "complete", "key_columns", "rows"),
    }
