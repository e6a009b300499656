"""Live progress on a terminal, plain lines elsewhere. No timers: the coordinator calls update.

The terminal's library is imported where there is a terminal. Neither view ever raises: a terminal
that went away must not stop an extraction.
"""

from __future__ import annotations

import contextlib
from typing import Protocol, TextIO

from rivet_fleet.contracts.events import EventName
from rivet_fleet.contracts.state import JournalEntry
from rivet_fleet.contracts.url import redact
from rivet_fleet.observability.journal import subject_of
from rivet_fleet.observability.redaction import Redactor, one_line
from rivet_fleet.observability.snapshot import Snapshot, snapshot
from rivet_fleet.observability.units import (
    clock_text,
    count_text,
    counted,
    duration_text,
    rate_text,
    rows_rate_text,
)

__all__ = ["PlainProgress", "ProgressView", "Snapshot", "open_progress", "snapshot"]

NOTABLE: dict[str, tuple[str, str]] = {
    EventName.CHUNK_REAPED.value: ("rescued", "yellow"),
    EventName.CHUNK_FAILED.value: ("failed", "red"),
    EventName.CHUNK_REOPENED.value: ("reopened", "yellow"),
    EventName.LEASE_LOST.value: ("lease lost", "yellow"),
    EventName.WORKER_DIED.value: ("worker died", "red"),
    EventName.WORKER_RECYCLED.value: ("worker recycled", "dim"),
    EventName.WORKER_REFUSED.value: ("worker unfit", "red"),
    EventName.RUN_COMPLETED.value: ("run completed", "green"),
    EventName.RUN_FAILED.value: ("run failed", "red"),
}
"""Events told as they happen, with the words and the colour. Claims are not news."""

BROKEN = (OSError, ValueError)
"""What writing to a closed or full stream raises."""


class ProgressView(Protocol):
    """Where progress is shown."""

    def update(self, snapshot: Snapshot) -> None:
        """Show this snapshot. Called several times a second at most."""
        ...

    def tell(self, entry: JournalEntry) -> None:
        """Show one thing that happened, if it is worth a line."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was; the last state stays readable. May be called twice."""
        ...


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
    if console_is_terminal:
        from rivet_fleet.observability.liveprogress import open_live

        live = open_live(stream, redactor=redactor)
        if live is not None:
            return live
    return PlainProgress(stream, redactor=redactor, every_s=every_s)


def notable_line(
    entry: JournalEntry, redactor: Redactor, words: dict[str, tuple[str, str]]
) -> tuple[str, str] | None:
    """The line for an entry and its colour, or None when it is not worth one."""
    if entry.event not in words:
        return None
    said, style = words[entry.event]
    about = subject_of(entry) or entry.worker_id or ""
    detail = f": {entry.message}" if entry.message else ""
    text = one_line(f"{said} {about}{detail}", redactor)
    return f"{clock_text(entry.at_s)} {text}", style


def overall_line(snapshot: Snapshot) -> str:
    """The campaign in one plain line, without its time."""
    overall, workers = snapshot.overall, snapshot.workers
    parts = [
        f"{count_text(overall.chunks_done)}/{counted(overall.chunks_total, 'chunk')}"
        f" ({overall.share_done:.0%})",
        counted(overall.rows, "row"),
        rows_rate_text(overall.rows_per_s),
        rate_text(overall.bytes_per_s, "B"),
        f"ETA {duration_text(overall.eta_s)}",
        f"{overall.running} running",
        counted(workers.alive, "worker"),
    ]
    for number, noun in ((overall.failed, "failed"), (snapshot.rescues, "rescued")):
        parts += [f"{number} {noun}"] if number else []
    return " · ".join(parts)


class PlainProgress:
    """One plain line every ``every_s`` seconds of the snapshots' clock, and per notable event."""

    def __init__(self, stream: TextIO, *, redactor: Redactor, every_s: float = 10.0) -> None:
        self._stream = stream
        self._redactor = redactor
        self._every_s = every_s
        self._last: Snapshot | None = None
        self._printed_at_s: float | None = None

    def update(self, snapshot: Snapshot) -> None:
        """Print the campaign's line when the last one is old enough."""
        self._last = snapshot
        due = self._printed_at_s is None or snapshot.at_s - self._printed_at_s >= self._every_s
        if due:
            self._print_snapshot(snapshot)

    def tell(self, entry: JournalEntry) -> None:
        """Print a notable event."""
        told = notable_line(entry, self._redactor, NOTABLE)
        if told:
            self._write(told[0])

    def close(self) -> None:
        """Print the last snapshot if it was not printed yet."""
        last, self._last = self._last, None
        if last and last.at_s != self._printed_at_s:
            self._print_snapshot(last)

    def _print_snapshot(self, snapshot: Snapshot) -> None:
        self._printed_at_s = snapshot.at_s
        self._write(f"{clock_text(snapshot.at_s)} {overall_line(snapshot)}")

    def _write(self, line: str) -> None:
        with contextlib.suppress(*BROKEN):
            self._stream.write(line + "\n")
            self._stream.flush()
