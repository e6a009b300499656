"""Snapshots are pure; the two views show them, survive anything and hide secrets."""

from __future__ import annotations

import io
import logging
import re
import sys

import pytest
import structlog
from rich.console import Console

from rivet_fleet.contracts.state import RunStatus
from rivet_fleet.observability.journal import LOGGER_NAME, configure_logging
from rivet_fleet.observability.liveprogress import LiveProgress, choose_rows, draw, open_progress
from rivet_fleet.observability.progress import RATE_TAU_S, Ewma, PlainProgress, Snapshot, snapshot
from tests.unit.observability.views import NOW_S, entry, redactor_for, run, worker

HIDE = redactor_for(["hunter22"])


def _two(rows: int = 0, done: int = 0, seconds: float = 2.0) -> Snapshot:
    first = snapshot(None, [run(pending=10)], [worker()], NOW_S)
    later = run(pending=10 - done, completed=done, rows=rows, size=rows * 10)
    return snapshot(first, [later], [worker()], NOW_S + seconds)


def test_the_first_snapshot_knows_no_rate() -> None:
    first = snapshot(None, [run(pending=3, completed=1, rows=100)], [], NOW_S)
    assert first.overall.rows_per_s is None and first.overall.eta_s is None
    assert first.overall.chunks_total == 4 and first.overall.share_done == 0.25


def test_rates_are_exact_from_the_second_snapshot_on() -> None:
    now = _two(rows=2000, done=2)
    assert now.overall.rows_per_s == pytest.approx(1000)
    assert now.overall.bytes_per_s == pytest.approx(10_000)
    assert now.overall.eta_s == pytest.approx(8.0)


def test_rates_are_smoothed_towards_the_newest() -> None:
    rate = Ewma()
    for _ in range(50):
        rate = rate.after(100, 1.0, RATE_TAU_S)
    assert rate.per_s == pytest.approx(100)
    lower = rate.after(0, 1.0, RATE_TAU_S).per_s
    assert lower is not None and 90 < lower < 100


def test_a_reopened_chunk_or_a_clock_that_stands_still_is_no_negative_rate() -> None:
    now = _two(rows=2000, done=2)
    back = snapshot(now, [run(pending=10)], [], NOW_S + 3)
    assert back.overall.rows_per_s is not None and back.overall.rows_per_s >= 0
    same = snapshot(now, [run(pending=10)], [], now.at_s)
    assert same.overall.rows_per_s == now.overall.rows_per_s


def test_work_of_other_hosts_and_of_dead_workers_is_told_apart() -> None:
    workers = [worker("w1"), worker("w2", host="h2", busy=False), worker("w3", alive=False)]
    now = snapshot(None, [run(running=1)], workers, NOW_S)
    assert (now.workers.alive, now.workers.busy, now.workers.hosts) == (2, 1, 2)


def test_rescues_and_retries_add_up_over_snapshots() -> None:
    first = snapshot(None, [run(pending=1)], [], NOW_S, entries=[entry("chunk.reaped")])
    second = snapshot(
        first,
        [run(pending=1)],
        [],
        NOW_S + 1,
        entries=[entry("chunk.reaped"), entry("source.retried"), entry("chunk.failed")],
    )
    assert (second.rescues, second.retries, second.failed_attempts) == (2, 1, 1)


def test_eta_counts_out_what_failed_for_good() -> None:
    done = snapshot(None, [run(completed=3, failed=1)], [], NOW_S)
    assert done.overall.eta_s == 0.0
    assert snapshot(None, [], [], NOW_S).overall.eta_s is None


def test_plain_progress_paces_its_lines_and_tells_the_news() -> None:
    stream = io.StringIO()
    view = PlainProgress(stream, redactor=HIDE, every_s=10)
    first = snapshot(None, [run(pending=4)], [worker()], NOW_S)
    view.update(first)
    second = snapshot(first, [run(pending=3, completed=1)], [worker()], NOW_S + 1)
    view.update(second)
    view.tell(entry("chunk.claimed"))
    view.tell(entry("chunk.reaped", message="worker hunter22 died"))
    view.tell(entry("source.retried"))
    view.tell(entry("worker.died", export_name=None, chunk_index=None, message="by SIGKILL"))
    view.update(snapshot(second, [run(pending=3, completed=1)], [worker()], NOW_S + 10))
    last = snapshot(second, [run(completed=4)], [], NOW_S + 11)
    view.update(last)
    view.close()
    view.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 5
    assert "0/4 chunks (0%)" in lines[0]
    assert "rescued orders chunk 12: worker *** died" in lines[1]
    assert "worker died w1: by SIGKILL" in lines[2]
    assert "1/4 chunks" in lines[3] and "4/4 chunks (100%)" in lines[4]


def test_a_closed_stream_stops_nothing() -> None:
    stream = io.StringIO()
    view = PlainProgress(stream, redactor=HIDE)
    stream.close()
    view.update(_two())
    view.tell(entry("chunk.reaped"))
    view.close()


def _console(width: int, height: int = 24) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    console = Console(
        file=stream, force_terminal=True, width=width, height=height, highlight=False, markup=False
    )
    return console, stream


@pytest.mark.parametrize("width", [20, 40, 60, 100, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    console, stream = _console(width)
    runs = [run(f"a_rather_long_export_name_{i}", pending=5, completed=3) for i in range(3)]
    console.print(draw(snapshot(None, runs, [worker()], NOW_S), HIDE, width, 24))
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue()).splitlines()
    assert lines and max(map(len, lines)) <= width
    assert len(lines) == 1 + 3 + 2


def test_a_low_terminal_shows_work_and_trouble_first() -> None:
    runs = [
        run("done", completed=1, status=RunStatus.COMPLETED),
        run("waits", pending=1),
        run("works", running=1),
        run("broke", failed=1),
    ]
    exports = snapshot(None, runs, [], NOW_S).exports
    shown, hidden = choose_rows(exports, 2)
    assert [e.export_name for e in shown] == ["works", "broke"]
    assert [e.export_name for e in hidden] == ["done", "waits"]
    console, stream = _console(80, height=7)
    console.print(draw(snapshot(None, runs, [], NOW_S), HIDE, 80, 7))
    assert "2 more exports, 1 done" in stream.getvalue()


def test_live_progress_draws_tells_and_leaves_the_cursor_visible() -> None:
    console, stream = _console(120)
    view = LiveProgress(console, redactor=HIDE)
    view.update(_two(rows=2000, done=2))
    view.tell(entry("chunk.reaped", message="[bold]hunter22[/bold] died"))
    view.tell(entry("source.retried", message="again"))
    view.tell(entry("chunk.claimed"))
    view.update(_two(rows=4000, done=4))
    view.close()
    view.close()
    shown = stream.getvalue()
    for part in ("orders", "4/10", "rescued orders chunk 12: [bold]***[/bold]", "source retried"):
        assert part in shown
    assert "hunter22" not in shown and "claimed" not in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


def test_log_lines_scroll_above_the_live_table(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("sys.stderr", stream)
    root = logging.getLogger()
    before = root.handlers[:], root.level
    configure_logging(level="info", json_lines=False, stream=stream, redactor=HIDE)
    view = open_progress(True, stream, redactor=HIDE)
    try:
        view.update(_two())
        proxied = sys.stderr is not stream
        structlog.get_logger(LOGGER_NAME).warning("careful with hunter22")
        shown = stream.getvalue()
    finally:
        view.close()
        logging.captureWarnings(False)
        root.handlers[:], root.level = before[0], before[1]
        structlog.reset_defaults()
    assert proxied and sys.stderr is stream, "stderr must be given back"
    assert "careful with ***" in shown
    assert "orders" in shown[shown.index("careful with") :], "the table moves below the line"


def test_live_progress_survives_a_closed_stream() -> None:
    console, stream = _console(80)
    view = LiveProgress(console, redactor=HIDE)
    view.update(_two())
    stream.close()
    view.update(_two())
    view.tell(entry("chunk.reaped"))
    view.close()


def test_open_progress_chooses_by_what_the_terminal_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    assert isinstance(open_progress(True, io.StringIO()), LiveProgress)
    assert isinstance(open_progress(False, io.StringIO()), PlainProgress)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(open_progress(True, io.StringIO()), PlainProgress)


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    stream = io.StringIO()
    view = open_progress(True, stream)
    view.update(snapshot(None, [run(failed=1)], [], NOW_S))
    view.tell(entry("chunk.failed"))
    view.close()
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", stream.getvalue())


def test_a_bar_is_red_for_nobody() -> None:
    """Red says that something failed; the library's own colour of a bar is next to it."""
    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=True, color_system="truecolor", width=130)
    for done in (4, 10):
        console.print(draw(_two(rows=10, done=done), HIDE, 130, 40))
    assert "249;38;114" not in drawn.getvalue() and "\x1b[31m" not in drawn.getvalue()
    assert "\x1b[36m" in drawn.getvalue() and "\x1b[32m" in drawn.getvalue()
