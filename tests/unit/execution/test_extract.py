"""The extract loop against a scripted reader and the real formats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rivet_fleet.contracts import killpoints
from rivet_fleet.contracts.basis import BasisDifference, BasisKind, Consequence
from rivet_fleet.contracts.killpoints import Arming, KillAction, KillPoint, KillPointReached
from rivet_fleet.contracts.plan import FormatPlan, MetaPlan, TuningPlan
from rivet_fleet.contracts.quality import UniqueKey
from rivet_fleet.errors import (
    LeaseLost,
    SchemaDrift,
    SourceBusy,
    SourceRefused,
    SourceUnavailable,
    StatementTimeout,
    StopRequested,
    UnsupportedType,
)
from rivet_fleet.execution import registry
from rivet_fleet.execution.extract import extract_chunk
from rivet_fleet.execution.servo import Allowance
from rivet_fleet.execution.source import Page, PageLimit

SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("note", pa.string())])


class ScriptedReader:
    """Serves ``rows`` rows by the limits it is given; ``errors[n]`` are raised before page n."""

    piecewise = False
    lost_bytes, longest_statement_s = 0, 0.2

    def __init__(self, rows, *, errors=None, resumable=True, schema=SCHEMA, empty_pages=()):
        self.rows, self.errors, self.resumable, self.schema = rows, errors or {}, resumable, schema
        self.at = self.page = self.reconnects = self.packs = 0
        self.limits: list[PageLimit] = []
        self.changed: dict[str, int] = {}
        self.empty_pages = set(empty_pages)

    def prove(self):
        return ()

    def read_page(self, limit):
        self.limits.append(limit)
        queue = self.errors.get(self.page)
        if queue:
            raise queue.pop(0)
        self.page += 1
        count = 0 if self.page in self.empty_pages else min(limit.rows_max, self.rows - self.at)
        ids = list(range(self.at, self.at + count))
        self.at += count
        self.changed["note"] = self.at
        batch = pa.record_batch(
            [pa.array(ids, pa.int64()), pa.array([None if i % 3 == 0 else f"n{i}" for i in ids])],
            schema=self.schema,
        )
        last = self.at >= self.rows
        return Page(batch=batch, statement_s=0.2, pace_s=0.2, wire_bytes=count * 10, last=last)

    def pack(self):
        self.packs += 1

    def reconnect(self):
        self.reconnects += 1
        queue = self.errors.get("reconnect")
        if queue:
            raise queue.pop(0)

    def close(self):
        pass


class RecordingPacer:
    def __init__(self, stop_at_wait=None):
        self.waits, self.retries, self.stop_at_wait = [], [], stop_at_wait

    def wait(self, seconds):
        self.waits.append(seconds)
        if self.stop_at_wait == len(self.waits):
            raise StopRequested("stop")

    def allowance(self) -> Allowance:
        return Allowance()

    def retry_in_s(self, wait_s: float, lost_bytes: int, answer_bytes: int = 0) -> float:
        return wait_s

    def retried(self, error, attempt, wait_s):
        self.retries.append((type(error), attempt, wait_s))


@pytest.fixture(autouse=True)
def disarmed():
    yield
    killpoints.arm(())
    killpoints.observe(None)


@pytest.fixture
def run(tmp_path):
    def run(reader, *, tuning=None, plan=None, pacer=None, on_page=lambda progress: None):
        plan = plan or FormatPlan(format="parquet")
        return extract_chunk(
            reader=reader,
            part_format=registry.open_format(plan),
            format_plan=plan,
            tuning=tuning or TuningPlan(batch_rows_max=100),
            spool_path=lambda number: tmp_path / f"p{number}.{plan.extension}",
            pacer=pacer or RecordingPacer(),
            on_page=on_page,
            jitter=lambda: 0.0,
        ).finish()

    return run


def read_ids(result) -> list[int]:
    return [i for p in result.parts for i in pq.read_table(p.path)["id"].to_pylist()]


def spooled(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_every_row_once_with_its_statistics(run):
    seen = []
    result = run(ScriptedReader(250), on_page=seen.append)
    assert read_ids(result) == list(range(250))
    (part,) = result.parts
    assert (result.rows, part.rows, result.pages) == (250, 250, len(seen))
    assert part.columns[0].nulls == 0
    assert (part.columns[0].minimum, part.columns[0].maximum) == ("0", "249")
    assert part.columns[1].nulls == len(range(0, 250, 3))
    assert part.columns[1].changed == 250
    assert seen[-1].rows_total == 250
    assert seen[-1].bytes_total == result.bytes == 2500
    assert [p.pages_total for p in seen] == list(range(1, len(seen) + 1))
    assert result.longest_statement_s == 0.2


ID_KEY = UniqueKey(columns=("id",), within_chunks=True, entries_max=1000)


@pytest.mark.parametrize(
    ("name", "options", "packs"),
    [
        ("parquet", {}, 1),
        ("csv", {}, 0),
        ("parquet", {"unique": (ID_KEY,)}, 0),
        ("parquet", {"meta": MetaPlan(row_hash=("id", "note"))}, 0),
        ("parquet", {"meta": MetaPlan(exported_at_us=1)}, 0),
    ],
)
def test_pages_are_packed_only_for_a_writer_that_alone_looks_at_them(
    tmp_path, name, options, packs
):
    reader, plan = ScriptedReader(10), FormatPlan(format=name)
    extract_chunk(
        reader=reader,
        part_format=registry.open_format(plan),
        format_plan=plan,
        tuning=TuningPlan(batch_rows_max=100),
        spool_path=lambda number: tmp_path / f"p{number}",
        pacer=RecordingPacer(),
        on_page=lambda progress: None,
        **options,
    ).finish()
    assert reader.packs == packs


def test_a_page_counts_what_it_took_on_the_wire(run):
    """Text that repeats is held in few bytes; pages of it must not outgrow what they are cut at."""
    reader = ScriptedReader(200_000)
    read_page = reader.read_page

    def wide(limit):
        page = read_page(limit)
        return replace(page, wire_bytes=page.batch.num_rows * 1000)

    reader.read_page = wide
    tuning = TuningPlan(batch_bytes_max=1_000_000, target_statement_ms=0, batch_rows_max=None)
    run(reader, tuning=tuning)
    widest = max(limit.rows_max for limit in reader.limits)
    assert 1_000_000 < widest * 1000 < 2 * 1_000_000


def test_a_chunk_without_rows_has_no_part(run, tmp_path):
    result = run(ScriptedReader(0))
    assert (result.parts, result.rows, result.pages) == ((), 0, 1)
    assert spooled(tmp_path) == []


def test_empty_pages_in_the_middle_are_not_the_end(run):
    assert read_ids(run(ScriptedReader(250, empty_pages=(1, 3)))) == list(range(250))


def test_rotation_by_size_numbers_the_parts_and_splits_the_counts(run):
    plan = FormatPlan(format="csv", file_bytes_max=1000)
    result = run(ScriptedReader(1000), plan=plan)
    assert len(result.parts) > 3
    assert [p.part_number for p in result.parts] == list(range(len(result.parts)))
    assert sum(p.rows for p in result.parts) == 1000
    assert sum(p.columns[1].changed for p in result.parts) == 1000
    assert all(p.columns[1].changed == p.rows for p in result.parts)


def test_rotation_works_below_the_row_group_size(run):
    plan = FormatPlan(format="parquet", compression="none", file_bytes_max=4000)
    result = run(ScriptedReader(5000), plan=plan)
    assert len(result.parts) > 3
    assert read_ids(result) == list(range(5000))


@pytest.mark.parametrize("error", [SourceBusy("deadlock"), SourceUnavailable("gone")])
def test_a_transient_error_costs_a_retry_of_that_page_only(run, error):
    pacer = RecordingPacer()
    reader = ScriptedReader(250, errors={1: [error]})
    result = run(reader, pacer=pacer)
    assert read_ids(result) == list(range(250))
    assert reader.reconnects == 1
    assert pacer.retries == [(type(error), 1, 2.0)]
    assert pacer.waits == [2.0]
    assert reader.limits[2].rows_max < reader.limits[1].rows_max


def test_retries_are_counted_per_page_and_grow(run):
    errors = {n: [SourceBusy("a"), SourceBusy("b"), SourceBusy("c")] for n in (0, 2)}
    pacer = RecordingPacer()
    assert read_ids(run(ScriptedReader(400, errors=errors), pacer=pacer)) == list(range(400))
    assert pacer.waits == [2.0, 4.0, 8.0, 2.0, 4.0, 8.0]


def test_the_budget_of_a_page_ends(run, tmp_path):
    errors = {1: [SourceBusy(str(n)) for n in range(4)]}
    with pytest.raises(SourceBusy, match="3"):
        run(ScriptedReader(250, errors=errors))
    assert spooled(tmp_path) == []


def test_a_failing_reconnect_is_a_failed_attempt(run):
    errors = {0: [SourceUnavailable("gone")], "reconnect": [SourceUnavailable("still gone")]}
    pacer = RecordingPacer()
    reader = ScriptedReader(10, errors=errors)
    assert read_ids(run(reader, pacer=pacer)) == list(range(10))
    assert reader.reconnects == 2
    assert [attempt for _, attempt, _ in pacer.retries] == [1, 2]


def test_a_permanent_error_is_never_repeated_against_the_source(run, tmp_path):
    reader = ScriptedReader(250, errors={1: [SourceRefused("no privilege")]})
    with pytest.raises(SourceRefused):
        run(reader)
    assert (reader.reconnects, len(reader.limits)) == (0, 2)
    assert spooled(tmp_path) == []


def test_a_statement_over_its_limit_is_tried_with_a_smaller_page(run):
    pacer = RecordingPacer()
    reader = ScriptedReader(250, errors={1: [StatementTimeout("a"), StatementTimeout("b")]})
    assert read_ids(run(reader, pacer=pacer)) == list(range(250))
    asked = [limit.rows_max for limit in reader.limits[1:4]]
    assert asked == [asked[0], asked[0] // 5, asked[0] // 25]
    assert pacer.waits == [2.0, 4.0]


def test_statements_over_their_limit_are_bounded(run, tmp_path):
    errors = {1: [StatementTimeout(str(n), hint="an index") for n in range(9)]}
    reader = ScriptedReader(2500, errors=errors)
    with pytest.raises(StatementTimeout) as caught:
        run(reader, tuning=TuningPlan(batch_rows_max=1000))
    assert (reader.reconnects, caught.value.hint) == (3, "an index")
    assert spooled(tmp_path) == []


def test_a_page_of_one_row_over_its_limit_is_not_repeated(run):
    reader = ScriptedReader(250, errors={1: [StatementTimeout("a")]})
    with pytest.raises(StatementTimeout):
        run(reader, tuning=TuningPlan(batch_rows_max=1))
    assert reader.reconnects == 0


def test_a_reader_that_cannot_resume_is_not_retried(run, tmp_path):
    with pytest.raises(SourceBusy):
        run(ScriptedReader(250, errors={1: [SourceBusy("x")]}, resumable=False))
    assert spooled(tmp_path) == []


@pytest.mark.parametrize("error", [StopRequested("stop"), LeaseLost("lost")])
@pytest.mark.parametrize("plan", [FormatPlan(format="parquet"), FormatPlan(format="csv")])
def test_ending_at_a_page_leaves_no_file(run, tmp_path, error, plan):
    def on_page(progress):
        if progress.pages_total == 2:
            raise error

    rotating = FormatPlan(format=plan.format, file_bytes_max=500)
    with pytest.raises(type(error)):
        run(ScriptedReader(1000), plan=rotating, on_page=on_page)
    assert spooled(tmp_path) == []


def test_a_stop_ends_a_wait_between_retries(run, tmp_path):
    reader = ScriptedReader(250, errors={1: [SourceBusy("x")]})
    with pytest.raises(StopRequested):
        run(reader, pacer=RecordingPacer(stop_at_wait=1))
    assert spooled(tmp_path) == []


@pytest.mark.parametrize("point", [KillPoint.PAGE_READ, KillPoint.PART_SPOOLED])
@pytest.mark.parametrize("nth", [1, 2])
def test_an_unexpected_error_leaves_no_file(run, tmp_path, point, nth):
    killpoints.arm((Arming(point=point, action=KillAction.ERROR, nth=nth),))
    with pytest.raises(KillPointReached):
        run(ScriptedReader(1000), plan=FormatPlan(format="csv", file_bytes_max=500))
    assert spooled(tmp_path) == []


def test_the_points_are_reached_once_a_page_and_once_a_part(run):
    seen = []
    killpoints.observe(seen.append)
    result = run(ScriptedReader(1000), plan=FormatPlan(format="csv", file_bytes_max=1000))
    assert seen.count(KillPoint.PAGE_READ) == result.pages
    assert seen.count(KillPoint.PART_SPOOLED) == len(result.parts)


@pytest.mark.parametrize("configured", [500, None])
def test_the_throttle_follows_rows_and_not_pages(run, configured):
    pacer, pages = RecordingPacer(), []
    tuning = TuningPlan(throttle_ms=100, batch_rows_max=configured)
    run(ScriptedReader(2000), pacer=pacer, tuning=tuning, on_page=pages.append)
    per_row_s = 0.1 / (configured or 10_000)
    expected = [per_row_s * page.page_rows for page in pages[:-1]]  # not after the last page
    assert len(pages) > 2
    assert pacer.waits == pytest.approx(expected)


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_share_of_the_time_is_rest_however_long_pages_take(run, share):
    pacer, pages = RecordingPacer(), []
    run(
        ScriptedReader(2000), pacer=pacer, tuning=TuningPlan(rest_share=share), on_page=pages.append
    )
    busy_s = sum(page.statement_s for page in pages[:-1])
    assert len(pages) > 2 and busy_s > 0
    assert sum(pacer.waits) / (sum(pacer.waits) + busy_s) == pytest.approx(share)


def test_no_throttle_after_the_last_page(run):
    pacer = RecordingPacer()
    run(ScriptedReader(50), pacer=pacer, tuning=TuningPlan(throttle_ms=100))
    assert pacer.waits == []


def test_a_column_the_format_cannot_carry_fails_before_the_first_page(run):
    reader = ScriptedReader(10, schema=pa.schema([("tags", pa.list_(pa.string()))]))
    with pytest.raises(UnsupportedType, match="tags"):
        run(reader, plan=FormatPlan(format="csv"))
    assert reader.limits == []


SWAPPED = BasisDifference(
    kind=BasisKind.RELATION,
    subject="table",
    before="oid 1",
    after="oid 2",
    consequence=Consequence.TOLD,
    sentence="the table behind the name is another one",
)


def test_a_chunk_is_proven_behind_its_last_page_as_patiently_as_a_page_is_read(run):
    reader, pacer = ScriptedReader(250), RecordingPacer()
    answers = [SourceUnavailable("gone"), SourceBusy("between two renames"), (SWAPPED,)]

    def prove():
        assert reader.at == 250
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    reader.prove = prove
    assert run(reader, pacer=pacer).told == (SWAPPED,)
    assert [kind for kind, _, _ in pacer.retries] == [SourceUnavailable, SourceBusy]


def test_a_chunk_whose_plan_rests_on_something_else_leaves_nothing(run, tmp_path):
    reader = ScriptedReader(250)

    def prove():
        raise SchemaDrift("another order")

    reader.prove = prove
    with pytest.raises(SchemaDrift):
        run(reader)
    assert spooled(tmp_path) == []
