"""The live view of a campaign: a table that is redrawn in place, while news scrolls above it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.errors import ConsoleError
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rivet_fleet.contracts.events import EventName
from rivet_fleet.contracts.state import JournalEntry, RunStatus
from rivet_fleet.contracts.url import redact
from rivet_fleet.observability.progress import (
    BROKEN,
    ExportProgress,
    PlainProgress,
    Progress,
    ProgressView,
    Snapshot,
    notable_line,
    overall_line,
)
from rivet_fleet.observability.units import (
    Redactor,
    bytes_text,
    counted,
    duration_text,
    one_line,
    scaled_text,
)

NOTABLE_LIVE = {event.value: event.news for event in EventName if event.news is not None}

_BROKEN = (*BROKEN, ConsoleError)
"""What drawing on a closed, full or strangely encoded terminal raises."""

_SHOW_CURSOR = b"\x1b[?25h"
_NAME_CHARS_MAX = 28
_LINES_AROUND = 5
"""Header, total, workers, the line about hidden exports, and the prompt below."""


def open_live(stream: TextIO, *, redactor: Redactor) -> LiveProgress | None:
    """The live view; None on a terminal that cannot move its cursor (TERM=dumb)."""
    console = Console(file=stream, force_terminal=True, highlight=False, markup=False)
    return None if console.is_dumb_terminal else LiveProgress(console, redactor=redactor)


def open_progress(
    console_is_terminal: bool,
    stream: TextIO,
    *,
    redactor: Redactor = redact,
    every_s: float = 10.0,
) -> ProgressView:
    """The live view on a terminal that can move its cursor, plain lines anywhere else.

    NO_COLOR and TERM=dumb are honoured (by rich). ``every_s`` paces the plain lines.
    """
    live = open_live(stream, redactor=redactor) if console_is_terminal else None
    return live or PlainProgress(stream, redactor=redactor, every_s=every_s)


class LiveProgress:
    """One row per export, the total and the workers, redrawn in place; news scrolls above."""

    def __init__(self, console: Console, *, redactor: Redactor) -> None:
        self._console = console
        self._redactor = redactor
        # Log lines share the terminal: through rich's proxy they scroll above the table.
        self._live = Live(
            console=console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=console.file is sys.stderr,
        )

    def update(self, snapshot: Snapshot) -> None:
        """Redraw."""
        with contextlib.suppress(*_BROKEN):
            if not self._live.is_started:
                self._live.start()
            self._live.update(self._drawn(snapshot), refresh=True)

    def tell(self, entry: JournalEntry) -> None:
        """Print a notable event above the table."""
        told = notable_line(entry, self._redactor, NOTABLE_LIVE)
        if told:
            with contextlib.suppress(*_BROKEN):
                self._console.print(Text(told[0], style=told[1]), soft_wrap=True)

    def close(self) -> None:
        """Show the cursor again; the last table stays."""
        with contextlib.suppress(*_BROKEN):
            self._live.stop()

    def abandon(self) -> None:
        """Show the cursor again, past locks and buffers that whatever was interrupted holds."""
        with contextlib.suppress(*_BROKEN):
            os.write(self._console.file.fileno(), _SHOW_CURSOR)

    def _drawn(self, snapshot: Snapshot) -> RenderableType:
        return draw(snapshot, self._redactor, self._console.width, self._console.height)


def draw(snapshot: Snapshot, redactor: Redactor, width: int, height: int) -> RenderableType:
    """The live view's picture for a terminal of this size, in characters and lines."""
    shown, hidden = choose_rows(snapshot.exports, max(height - _LINES_AROUND, 1))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    columns = _columns(width)
    for title in columns:
        table.add_column(
            title,
            justify="left" if title in ("export", "") else "right",
            no_wrap=True,
            overflow="ellipsis",
            header_style="dim",
        )
    for export in shown:
        table.add_row(*_cells(export, columns, redactor), style=_style(export))
    lines: list[RenderableType] = [table]
    if hidden:
        done = sum(e.status is RunStatus.COMPLETED for e in hidden)
        lines.append(Text(f"… {counted(len(hidden), 'more export')}, {done} done", style="dim"))
    lines.append(Text(overall_line(snapshot), style="bold", no_wrap=True, overflow="ellipsis"))
    lines.append(Text(_workers_line(snapshot), style="dim", no_wrap=True, overflow="ellipsis"))
    return Group(*lines)


def choose_rows(
    exports: Sequence[ExportProgress], rows_max: int
) -> tuple[list[ExportProgress], list[ExportProgress]]:
    """Which exports fit: those at work or in trouble first, then waiting, then done; plan order."""
    ranked = sorted(range(len(exports)), key=lambda i: (_rank(exports[i]), i))
    kept = set(ranked[:rows_max])
    shown = [e for i, e in enumerate(exports) if i in kept]
    return shown, [e for i, e in enumerate(exports) if i not in kept]


def _rank(export: ExportProgress) -> int:
    progress = export.progress
    if progress.running or progress.committed or progress.failed:
        return 0
    return 1 if export.status is RunStatus.IN_PROGRESS else 2


def _columns(width: int) -> tuple[str, ...]:
    """What fits, most telling first. The title of the bar is empty."""
    if width < 50:
        return ("export", "chunks")
    if width < 80:
        return ("export", "chunks", "rows", "ETA")
    if width < 110:
        return ("export", "chunks", "rows", "rows/s", "ETA", "run", "fail")
    return ("export", "", "chunks", "rows", "rows/s", "MB/s", "ETA", "run", "fail")


def _cells(
    export: ExportProgress, columns: Sequence[str], redactor: Redactor
) -> list[RenderableType]:
    progress = export.progress
    over = export.status is not RunStatus.IN_PROGRESS
    cells: dict[str, RenderableType] = {
        "export": Text(one_line(export.export_name, redactor, _NAME_CHARS_MAX)),
        "": ProgressBar(
            total=max(progress.chunks_total, 1),
            completed=progress.chunks_done,
            width=20,
            # Red says that something failed, and the library's own bar is nearly red.
            complete_style="cyan",
            finished_style="green",
        ),
        "chunks": f"{progress.chunks_done}/{progress.chunks_total}",
        "rows": scaled_text(progress.rows),
        "rows/s": "" if over else _number(progress.rows_per_s),
        "MB/s": "" if over else _megabytes(progress),
        "ETA": _ending(export),
        "run": str(progress.running or ""),
        "fail": str(progress.failed or ""),
    }
    return [cells[column] for column in columns]


def _ending(export: ExportProgress) -> str:
    """When it ends, or how it ended; chunks that failed for good have no ETA."""
    progress = export.progress
    if export.status is not RunStatus.IN_PROGRESS:
        return str(export.status.value)
    if progress.failed and progress.chunks_done + progress.failed == progress.chunks_total:
        return "failed"
    return duration_text(progress.eta_s)


def _number(per_s: float | None) -> str:
    return "–" if per_s is None else scaled_text(per_s)


def _megabytes(progress: Progress) -> str:
    return "–" if progress.bytes_per_s is None else f"{progress.bytes_per_s / 1e6:.1f}"


def _style(export: ExportProgress) -> str:
    if export.progress.failed or export.status is RunStatus.FAILED:
        return "red"
    return "green" if export.status is RunStatus.COMPLETED else ""


def _workers_line(snapshot: Snapshot) -> str:
    workers = snapshot.workers
    parts = [
        f"{counted(workers.alive, 'worker')} on {counted(workers.hosts, 'host')}",
        f"{workers.busy} busy",
        f"largest {bytes_text(workers.rss_bytes_max)}",
        counted(snapshot.rescues, "rescue"),
    ]
    parts += [f"{snapshot.retries} retried"] if snapshot.retries else []
    return " · ".join(parts)
