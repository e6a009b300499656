"""Reading and encoding on two threads: bounded, in order, and nothing left whatever ends it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import weakref
from dataclasses import replace

import pytest

from rivet_fleet.contracts import killpoints
from rivet_fleet.contracts.killpoints import Arming, KillAction, KillPoint, KillPointReached
from rivet_fleet.contracts.plan import FormatPlan, TuningPlan
from rivet_fleet.errors import DestinationFull, LeaseLost, SourceRefused, StopRequested
from rivet_fleet.execution import registry
from rivet_fleet.execution.encoder import Encoder, Parts
from rivet_fleet.execution.extract import extract_chunk
from rivet_fleet.execution.source import PageLimit
from tests.unit.execution.test_extract import (
    SCHEMA,
    RecordingPacer,
    ScriptedReader,
    read_ids,
    spooled,
)
from tests.waiting import until

A_PAGE = ScriptedReader(1000).read_page(PageLimit(rows_max=100, bytes_max=1)).batch
HUNDRED_ROWS = TuningPlan(batch_rows_max=100)
TWO_PAGES = TuningPlan(batch_rows_max=100, batch_bytes_max=int(1.3 * A_PAGE.nbytes))
"""Two pages of 100 rows may be between reader and encoder, no third."""
PATIENCE_S = 20.0
ABSENCE_S = 0.3


class WatchedFormat:
    """A real format whose writers call ``before(n)`` before the n-th write of the chunk."""

    def __init__(self, inner, before):
        self._inner, self.before, self.writes, self.open_writers = inner, before, 0, 0
        self.closed = 0

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def open(self, path, schema):
        self.open_writers += 1
        return WatchedWriter(self, self._inner.open(path, schema))


class WatchedWriter:
    def __init__(self, owner, inner):
        self._owner, self._inner = owner, inner

    @property
    def bytes_flushed(self):
        return self._inner.bytes_flushed

    def write(self, batch):
        self._owner.writes += 1
        self._owner.before(self._owner.writes)
        self._inner.write(batch)

    def close(self):
        self._inner.close()
        self._owner.open_writers -= 1
        self._owner.closed += 1

    def extremes(self):
        return self._inner.extremes()

    def checksums(self):
        return self._inner.checksums()

    def abort(self):
        self._inner.abort()
        self._owner.open_writers -= 1


class SignallingReader(ScriptedReader):
    """Sets ``begun[n]`` when the n-th page is asked for (from 1)."""

    def __init__(self, rows, **kwargs):
        super().__init__(rows, **kwargs)
        self.begun = {n: threading.Event() for n in range(1, 200)}

    def read_page(self, limit):
        self.begun[self.page + 1].set()
        page = super().read_page(limit)
        return replace(page, pace_s=0.01)  # far below what the servo aims at: pages stay at 100


@pytest.fixture(autouse=True)
def disarmed():
    yield
    killpoints.arm(())


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert [t.name for t in threading.enumerate() if t.name.startswith("encoder")] == []


@pytest.fixture
def run(tmp_path):
    def run(
        reader,
        before=lambda n: None,
        *,
        plan=None,
        on_page=lambda progress: None,
        tuning=HUNDRED_ROWS,
    ):
        plan = plan or FormatPlan(format="parquet")
        run.format = WatchedFormat(registry.open_format(plan), before)
        try:
            return extract_chunk(
                reader=reader,
                part_format=run.format,
                format_plan=plan,
                tuning=tuning,
                spool_path=lambda number: tmp_path / f"p{number}.{plan.extension}",
                pacer=RecordingPacer(),
                on_page=on_page,
                jitter=lambda: 0.0,
            ).finish()
        finally:
            run.open_writers = run.format.open_writers

    return run


def main_thread_is_in(function: str) -> bool:
    frame = sys._current_frames()[threading.main_thread().ident]
    while frame is not None:
        if frame.f_code.co_name == function:
            return True
        frame = frame.f_back
    return False


def test_the_next_page_is_read_while_the_last_one_is_encoded(run):
    reader, overlapped = SignallingReader(500), []

    def before(n):
        if n < 5:
            overlapped.append(reader.begun[n + 1].wait(PATIENCE_S))

    assert read_ids(run(reader, before)) == list(range(500))
    assert overlapped == [True] * 4


def test_the_reader_is_never_further_ahead_than_allowed(run):
    """While a page is written another may wait and a third be read; the fourth is not begun."""
    reader, ahead = SignallingReader(700), []

    def before(n):
        if n < 4:
            assert reader.begun[n + 2].wait(PATIENCE_S)
            ahead.append(reader.begun[n + 3].wait(ABSENCE_S))

    assert run(reader, before, tuning=TWO_PAGES).rows == 700
    assert ahead == [False] * 3


def test_behind_a_page_that_was_not_written_nothing_is_finished(run):
    def before(n):
        if n == 2:
            raise DestinationFull("no space left")

    with pytest.raises(DestinationFull):
        run(SignallingReader(200), before)
    assert (run.format.writes, run.format.closed) == (2, 0)


def test_a_page_that_was_handed_over_is_the_encoder_s_alone(run):
    """Once it is written nobody keeps it: not while the next one is read, nor in a rest."""
    reader, kept = SignallingReader(500), []

    def watched(limit, read=reader.read_page):
        page = read(limit)
        kept.append(weakref.ref(page.batch))
        return page

    def on_page(progress):
        until(lambda: kept[-1]() is None)

    reader.read_page = watched
    assert run(reader, plan=FormatPlan(format="csv"), on_page=on_page).rows == 500
    assert len(kept) == 5


def test_counts_of_changed_values_belong_to_the_part_of_their_page(run):
    reader = SignallingReader(500)
    plan = FormatPlan(format="csv", file_bytes_max=1)  # each page is a part
    result = run(reader, lambda n: n < 4 and reader.begun[n + 2].wait(PATIENCE_S), plan=plan)
    assert len(result.parts) == result.pages
    assert [p.columns[1].changed for p in result.parts] == [p.rows for p in result.parts]


def test_equal_pages_give_equal_files_whoever_is_faster(run, tmp_path):
    plan = FormatPlan(format="parquet", file_bytes_max=4000, compression="none")
    fast = [p.path.read_bytes() for p in run(SignallingReader(3000), plan=plan).parts]
    for path in tmp_path.iterdir():
        path.unlink()
    reader = SignallingReader(3000)
    slow = run(reader, lambda n: n < 20 and reader.begun[n + 2].wait(PATIENCE_S), plan=plan)
    assert [p.path.read_bytes() for p in slow.parts] == fast
    assert len(fast) > 3


@pytest.mark.parametrize("nth", [1, 3])
def test_what_encoding_raises_comes_out_as_it_is(run, tmp_path, nth):
    full = DestinationFull("no space left")

    def before(n):
        if n == nth:
            raise full

    with pytest.raises(DestinationFull) as caught:
        run(SignallingReader(500), before)
    assert caught.value is full
    assert (spooled(tmp_path), run.open_writers) == ([], 0)


def test_an_error_of_the_last_page_is_not_lost(run, tmp_path):
    def before(n):
        if n == 5:
            raise DestinationFull("no space left")

    reader = SignallingReader(500)
    with pytest.raises(DestinationFull):
        run(reader, before)
    assert reader.at == 500
    assert spooled(tmp_path) == []


def test_nothing_is_written_after_a_gap(run):
    reader = SignallingReader(500)

    def before(n):
        if n == 2:
            assert reader.begun[5].wait(PATIENCE_S)  # pages 3 and 4 wait behind this one
            raise DestinationFull("no space left")

    with pytest.raises(DestinationFull):
        run(reader, before)
    assert run.format.writes == 2


def test_a_kill_point_in_the_encoder_surfaces(run, tmp_path):
    killpoints.arm((Arming(point=KillPoint.PART_SPOOLED, action=KillAction.ERROR, nth=2),))
    with pytest.raises(KillPointReached):
        run(SignallingReader(1000), plan=FormatPlan(format="csv", file_bytes_max=500))
    assert (spooled(tmp_path), run.open_writers) == ([], 0)


@pytest.mark.parametrize("plan", [FormatPlan(format="parquet"), FormatPlan(format="csv")])
@pytest.mark.parametrize(
    "error", [StopRequested("stop"), LeaseLost("lost"), KeyboardInterrupt(), SystemExit(3)]
)
def test_whatever_ends_it_at_a_page_nothing_is_left(run, tmp_path, error, plan):
    """With a page being written and another waiting at that moment."""

    def on_page(progress):
        if progress.pages_total == 3:
            until(lambda: run.format.writes == 2)
            raise error

    def before(n):
        if n == 2:
            until(lambda: main_thread_is_in("close"))

    with pytest.raises(type(error)):
        run(SignallingReader(1000), before, plan=plan, on_page=on_page)
    assert (spooled(tmp_path), run.open_writers) == ([], 0)
    assert run.format.writes == 2  # what waited was dropped


def test_an_error_of_the_source_leaves_nothing(run, tmp_path):
    reader = SignallingReader(1000, errors={3: [SourceRefused("no privilege")]})
    with pytest.raises(SourceRefused):
        run(reader, plan=FormatPlan(format="csv", file_bytes_max=500))
    assert (spooled(tmp_path), run.open_writers) == ([], 0)


def test_an_interrupt_while_waiting_for_the_encoder(run, tmp_path):
    def before(n):
        if n == 2:
            until(lambda: main_thread_is_in("make_room"))
            os.kill(os.getpid(), signal.SIGINT)
            until(lambda: main_thread_is_in("abandon"))

    with pytest.raises(KeyboardInterrupt):
        run(SignallingReader(700), before, tuning=TWO_PAGES)
    assert (spooled(tmp_path), run.open_writers) == ([], 0)


def test_a_second_interrupt_does_not_keep_the_encoder_from_cleaning(run, tmp_path):
    let_go = threading.Event()

    def before(n):
        if n == 2:
            until(lambda: main_thread_is_in("make_room"))
            os.kill(os.getpid(), signal.SIGINT)
            until(lambda: main_thread_is_in("abandon"))
            os.kill(os.getpid(), signal.SIGINT)
            assert let_go.wait(PATIENCE_S)

    with pytest.raises(KeyboardInterrupt):
        run(SignallingReader(700), before, tuning=TWO_PAGES)
    let_go.set()
    until(lambda: not any(t.name.startswith("encoder") for t in threading.enumerate()))
    assert (spooled(tmp_path), run.format.open_writers) == ([], 0)


def test_an_interrupt_after_the_last_part_leaves_nothing(tmp_path):
    plan = FormatPlan(format="csv")
    paths = [tmp_path / "p0.csv"]
    parts = Parts(SCHEMA, registry.open_format(plan), paths.__getitem__, file_bytes_max=None)
    encoder = Encoder(parts, ahead_bytes_max=1)
    encoder.hand_over(ScriptedReader(5).read_page(PageLimit(rows_max=5, bytes_max=1)).batch, {})
    encoder.end()
    assert [part.rows for part in encoder.finish()] == [5]
    encoder.abandon()
    assert spooled(tmp_path) == []


def test_encoding_does_not_shorten_the_throttle(tmp_path):
    """The rest after a page is in full, however long the encoder has been at work meanwhile."""
    reader, pacer = SignallingReader(500), RecordingPacer()
    plan = FormatPlan(format="csv")
    extract_chunk(
        reader=reader,
        part_format=WatchedFormat(
            registry.open_format(plan), lambda n: n < 4 and reader.begun[n + 2].wait(PATIENCE_S)
        ),
        format_plan=plan,
        tuning=TuningPlan(batch_rows_max=100, throttle_ms=50),
        spool_path=lambda number: tmp_path / f"p{number}.csv",
        pacer=pacer,
        on_page=lambda progress: None,
    ).finish()
    assert pacer.waits == pytest.approx([0.05] * 4)
