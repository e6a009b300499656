"""Where a campaign stands, and how its progress is told in plain lines.

No timers: the coordinator calls update. The view that needs the terminal's library is
``liveprogress``. Neither view ever raises: a terminal that went away must not stop an extraction.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TextIO

from rivet_fleet.contracts.events import EventName, News
from rivet_fleet.contracts.keys import RunId
from rivet_fleet.contracts.state import JournalEntry, RunStatus, RunView, WorkerView
from rivet_fleet.observability.journal import subject_of
from rivet_fleet.observability.units import (
    Redactor,
    clock_text,
    count_text,
    counted,
    duration_text,
    one_line,
    rate_text,
    rows_rate_text,
)

# ------------------------------------------------------------------------------------------
# Where a campaign stands right now, computed from the state database's answers alone.
#
# So it shows the work of every host, and a coordinator that was restarted shows the same. Pure:
# the caller polls the store and passes the previous snapshot, from which rates are smoothed.

RATE_TAU_S = 15.0
"""Rows arrive a chunk at a time: a shorter memory would flicker between zero and bursts."""
ETA_TAU_S = 60.0

_RETRIES = frozenset(name.value for name in EventName if name.verb == "retried")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ewma:
    """An exponentially weighted rate. ``weight`` corrects the bias of the first moments."""

    value: float = 0.0
    weight: float = 0.0

    @property
    def per_s(self) -> float | None:
        """The rate, or None while nothing was observed."""
        return self.value / self.weight if self.weight > 0 else None

    def after(self, amount: float, elapsed_s: float, tau_s: float) -> Ewma:
        """The rate once ``amount`` more was seen within ``elapsed_s`` more seconds.

        A shrinking amount (a reopened chunk) counts as standing still.
        """
        if elapsed_s <= 0:
            return self
        kept = math.exp(-elapsed_s / tau_s)
        seen = max(amount, 0.0) / elapsed_s
        return Ewma(
            value=self.value * kept + seen * (1 - kept), weight=self.weight * kept + (1 - kept)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast rows, bytes and chunks come in."""

    rows: Ewma = Ewma()
    bytes: Ewma = Ewma()
    chunks: Ewma = Ewma()


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Counts of chunks and amounts written, and how fast they grow.

    ``chunks_done`` are completed (visible); ``committed`` ones wait to be published.
    ``rows`` and ``bytes`` count what is committed to the ledger.
    """

    chunks_total: int
    chunks_done: int
    committed: int
    running: int
    pending: int
    failed: int
    rows: int
    bytes: int
    pace: Pace = Pace()

    @property
    def rows_per_s(self) -> float | None:
        """Smoothed, or None in the first snapshot."""
        return self.pace.rows.per_s

    @property
    def bytes_per_s(self) -> float | None:
        """Smoothed bytes written, or None in the first snapshot."""
        return self.pace.bytes.per_s

    @property
    def eta_s(self) -> float | None:
        """Seconds until the last chunk that can still finish, or None while unknown."""
        left = self.chunks_total - self.chunks_done - self.failed
        if left <= 0:
            return 0.0 if self.chunks_total else None
        rate = self.pace.chunks.per_s
        return left / rate if rate and rate > 1e-9 else None

    @property
    def share_done(self) -> float:
        """Between 0 and 1; an export without chunks has done nothing."""
        return self.chunks_done / self.chunks_total if self.chunks_total else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportProgress:
    """One export's line."""

    run_id: RunId
    export_name: str
    status: RunStatus
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersProgress:
    """Who is at work. ``rss_bytes_max`` is the largest live worker's resident memory."""

    alive: int = 0
    busy: int = 0
    hosts: int = 0
    rss_bytes_max: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A whole campaign at one moment of the database's clock."""

    at_s: float
    exports: tuple[ExportProgress, ...]
    overall: Progress
    workers: WorkersProgress
    rescues: int = 0
    retries: int = 0
    failed_attempts: int = 0


def snapshot(
    previous: Snapshot | None,
    runs: Sequence[RunView],
    workers: Sequence[WorkerView],
    now_s: float,
    *,
    entries: Sequence[JournalEntry] = (),
) -> Snapshot:
    """The next snapshot. ``entries`` are the journal entries since ``previous``, each once.

    ``now_s`` is the state database's clock; rates need two snapshots.
    """
    before = {e.run_id: e.progress for e in previous.exports} if previous else {}
    elapsed_s = now_s - previous.at_s if previous else 0.0
    exports = tuple(
        ExportProgress(
            run_id=run.run_id,
            export_name=run.export_name,
            status=run.status,
            progress=_paced(_counted(run), before.get(run.run_id), elapsed_s),
        )
        for run in runs
    )
    totals = _summed([e.progress for e in exports])
    rescued = sum(e.event == EventName.CHUNK_REAPED.value for e in entries)
    retried = sum(e.event in _RETRIES for e in entries)
    failed = sum(e.event == EventName.CHUNK_FAILED.value for e in entries)
    return Snapshot(
        at_s=now_s,
        exports=exports,
        overall=_paced(totals, previous.overall if previous else None, elapsed_s),
        workers=_at_work(workers),
        rescues=(previous.rescues if previous else 0) + rescued,
        retries=(previous.retries if previous else 0) + retried,
        failed_attempts=(previous.failed_attempts if previous else 0) + failed,
    )


def _counted(run: RunView) -> Progress:
    counts = run.counts
    return Progress(
        chunks_total=max(run.expected_tasks, counts.total),
        chunks_done=counts.completed,
        committed=counts.committed,
        running=counts.running,
        pending=counts.pending,
        failed=counts.failed,
        rows=run.rows,
        bytes=run.bytes,
    )


def _summed(parts: Sequence[Progress]) -> Progress:
    return Progress(
        chunks_total=sum(p.chunks_total for p in parts),
        chunks_done=sum(p.chunks_done for p in parts),
        committed=sum(p.committed for p in parts),
        running=sum(p.running for p in parts),
        pending=sum(p.pending for p in parts),
        failed=sum(p.failed for p in parts),
        rows=sum(p.rows for p in parts),
        bytes=sum(p.bytes for p in parts),
    )


def _paced(now: Progress, before: Progress | None, elapsed_s: float) -> Progress:
    """``now`` with the rates that follow from what changed since ``before``."""
    if before is None:
        return now
    was = before.pace
    pace = Pace(
        rows=was.rows.after(now.rows - before.rows, elapsed_s, RATE_TAU_S),
        bytes=was.bytes.after(now.bytes - before.bytes, elapsed_s, RATE_TAU_S),
        chunks=was.chunks.after(now.chunks_done - before.chunks_done, elapsed_s, ETA_TAU_S),
    )
    return replace(now, pace=pace)


def _at_work(workers: Sequence[WorkerView]) -> WorkersProgress:
    alive = [w for w in workers if w.alive]
    return WorkersProgress(
        alive=len(alive),
        busy=sum(w.running_task is not None for w in alive),
        hosts=len({w.host_id for w in alive}),
        rss_bytes_max=max((w.rss_bytes for w in alive), default=0),
    )


# ------------------------------------------------------------------------------------------
# Views: what is told while a campaign runs.

NOTABLE = {e.value: e.news for e in EventName if e.news is not None and not e.news.live_only}
"""Events told as they happen. Claims are no news."""

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

    def abandon(self) -> None:
        """Give the terminal its cursor back, and no more: from a signal's handler."""
        ...


def notable_line(
    entry: JournalEntry, redactor: Redactor, notable: Mapping[str, News]
) -> tuple[str, str] | None:
    """The line for an entry and its colour, or None when it is not worth one."""
    news = notable.get(entry.event)
    if news is None:
        return None
    about = subject_of(entry) or entry.worker_id or ""
    detail = f": {entry.message}" if entry.message else ""
    text = one_line(f"{news.words} {about}{detail}", redactor)
    return f"{clock_text(entry.at_s)} {text}", news.colour


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

    def abandon(self) -> None:
        """Nothing: lines leave a terminal as it was."""

    def _print_snapshot(self, snapshot: Snapshot) -> None:
        self._printed_at_s = snapshot.at_s
        self._write(f"{clock_text(snapshot.at_s)} {overall_line(snapshot)}")

    def _write(self, line: str) -> None:
        with contextlib.suppress(*BROKEN):
            self._stream.write(line + "\n")
            self._stream.flush()
