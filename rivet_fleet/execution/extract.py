"""The extract loop: the only one there is. Pages of one chunk flow into finished local parts.

Every mode, engine and format comes through ``extract_chunk``. It owns the servo, the retries of
a page, the throttle and the rotation by size; it knows nothing of leases or destinations: those
speak through ``on_page`` and ``pacer``, which may end it at any page.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from rivet_fleet.contracts.killpoints import KillPoint, reach
from rivet_fleet.contracts.part import ColumnStats
from rivet_fleet.contracts.plan import FormatPlan, TuningPlan
from rivet_fleet.contracts.retry import backoff_s
from rivet_fleet.errors import RetryClass, SourceError
from rivet_fleet.execution.durable import remove_file
from rivet_fleet.execution.format import PartFormat, PartWriter
from rivet_fleet.execution.pages import PageServo
from rivet_fleet.execution.parts import ColumnCounter
from rivet_fleet.execution.source import ChunkReader, Page

THROTTLE_ROWS = 10_000
"""``throttle_ms`` is per this many rows, unless ``batch_rows_max`` says otherwise."""


class Pacer(Protocol):
    """How the loop waits, so that a stop or a lost lease ends a wait at once."""

    def wait(self, seconds: float) -> None:
        """Wait. May raise StopRequested or LeaseLost."""
        ...

    def retried(self, error: SourceError, attempt: int, wait_s: float) -> None:
        """A page failed for the ``attempt``-th time and is read again after ``wait_s``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PageProgress:
    """Where the chunk stands after a page. ``bytes_total`` are bytes received from the source."""

    rows_total: int
    pages_total: int
    bytes_total: int
    page_rows: int
    statement_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SpooledPart:
    """One finished local file. Part numbers count from 0 within the chunk."""

    part_number: int
    path: Path
    rows: int
    columns: tuple[ColumnStats, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractResult:
    """The whole chunk. A chunk without rows has no part. ``bytes`` came from the source."""

    parts: tuple[SpooledPart, ...]
    rows: int
    pages: int
    bytes: int
    longest_statement_s: float


def extract_chunk(
    *,
    reader: ChunkReader,
    part_format: PartFormat,
    format_plan: FormatPlan,
    tuning: TuningPlan,
    spool_path: Callable[[int], Path],
    pacer: Pacer,
    on_page: Callable[[PageProgress], None],
    jitter: Callable[[], float] = random.random,
) -> ExtractResult:
    """Read the chunk to its end. ``spool_path(part_number)`` names a file that does not exist.

    ``on_page`` is called after every page and may raise (StopRequested, LeaseLost). Whatever
    ends the loop early, no writer stays open and no spool file is left behind.
    Raises SourceError (permanent, or retried ``tuning.max_retries`` times), DestinationFull.
    """
    part_format.check_schema(reader.schema)
    parts = _Parts(reader, part_format, spool_path)
    pages = _Pages(reader, tuning, pacer, jitter)
    with contextlib.ExitStack() as undo:
        undo.callback(parts.abandon)
        while True:
            page = pages.next()
            reach(KillPoint.PAGE_READ)
            parts.write(page.batch)
            if format_plan.file_bytes_max and parts.bytes_flushed >= format_plan.file_bytes_max:
                parts.rotate()
            on_page(pages.progress(page))
            if page.last:
                break
            pages.throttle(page.batch.num_rows)
        parts.rotate()
        undo.pop_all()
    return ExtractResult(
        parts=tuple(parts.finished),
        rows=pages.rows,
        pages=pages.count,
        bytes=pages.bytes,
        longest_statement_s=pages.longest_statement_s,
    )


def open_patiently(
    open_chunk: Callable[[], ChunkReader],
    *,
    tuning: TuningPlan,
    pacer: Pacer,
    jitter: Callable[[], float] = random.random,
) -> ChunkReader:
    """The chunk's reader. A source that is away costs retries, as for a page, before it costs
    the chunk one of its attempts: an outage is nobody's poison.

    Raises SourceError (permanent, or retried ``tuning.max_retries`` times).
    """
    attempt = 0
    while True:
        try:
            return open_chunk()
        except SourceError as error:
            attempt += 1
            if error.retry is RetryClass.PERMANENT or attempt > tuning.max_retries:
                raise
            _rest(error, attempt, tuning, pacer, jitter)


def _rest(
    error: SourceError,
    attempt: int,
    tuning: TuningPlan,
    pacer: Pacer,
    jitter: Callable[[], float],
) -> None:
    """Tell, and wait before the next try."""
    wait_s = backoff_s(
        attempt=attempt,
        base_s=tuning.retry_backoff_ms / 1000.0,
        extra_s=error.extra_delay_s,
        jitter=jitter(),
    )
    pacer.retried(error, attempt, wait_s)
    pacer.wait(wait_s)


class _Pages:
    """Reads pages of the servo's size, and reads a page again when its error allows it."""

    def __init__(
        self,
        reader: ChunkReader,
        tuning: TuningPlan,
        pacer: Pacer,
        jitter: Callable[[], float],
    ) -> None:
        self._reader = reader
        self._tuning = tuning
        self._pacer = pacer
        self._jitter = jitter
        self._servo = PageServo(
            tuning.target_statement_ms, tuning.batch_bytes_max, tuning.batch_rows_max
        )
        self.rows = 0
        self.count = 0
        self.bytes = 0
        self.longest_statement_s = 0.0

    def next(self) -> Page:
        """The next page; a transient failure costs this page one of its retries."""
        page = self._read()
        batch = page.batch
        self._servo.observe(batch.num_rows, max(batch.nbytes, page.wire_bytes), page.statement_s)
        self.rows += batch.num_rows
        self.count += 1
        self.bytes += page.wire_bytes
        self.longest_statement_s = max(self.longest_statement_s, page.statement_s)
        return page

    def progress(self, page: Page) -> PageProgress:
        """The totals after ``page``."""
        return PageProgress(
            rows_total=self.rows,
            pages_total=self.count,
            bytes_total=self.bytes,
            page_rows=page.batch.num_rows,
            statement_s=page.statement_s,
        )

    def throttle(self, rows: int) -> None:
        """Rest in proportion to the rows read, so that page sizes do not change the pace."""
        if self._tuning.throttle_ms > 0 and rows:
            configured = self._tuning.batch_rows_max or THROTTLE_ROWS
            self._pacer.wait(self._tuning.throttle_ms / 1000.0 * rows / configured)

    def _read(self) -> Page:
        attempt = 0
        while True:
            try:
                if attempt:
                    self._reader.reconnect()
                return self._reader.read_page(self._servo.limit())
            except SourceError as error:
                attempt += 1
                if not self._may_retry(error, attempt):
                    raise
                self._servo.shrink()
                _rest(error, attempt, self._tuning, self._pacer, self._jitter)

    def _may_retry(self, error: SourceError, attempt: int) -> bool:
        return (
            error.retry is not RetryClass.PERMANENT
            and attempt <= self._tuning.max_retries
            and self._reader.resumable
        )


class _Parts:
    """The open part and the finished ones. Nothing is opened before there is a row."""

    def __init__(
        self, reader: ChunkReader, part_format: PartFormat, spool_path: Callable[[int], Path]
    ) -> None:
        self._reader = reader
        self._format = part_format
        self._spool_path = spool_path
        self._open: _OpenPart | None = None
        self._changed_before: dict[str, int] = {}
        self.finished: list[SpooledPart] = []

    @property
    def bytes_flushed(self) -> int:
        """Size of the open part so far; 0 when none is open."""
        return self._open.writer.bytes_flushed if self._open else 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Append a page to the open part."""
        if not batch.num_rows:
            return
        if self._open is None:
            path = self._spool_path(len(self.finished))
            writer = self._format.open(path, self._reader.schema)
            self._open = _OpenPart(path, writer, ColumnCounter(self._reader.schema))
        self._open.writer.write(batch)
        self._open.counter.add(batch)
        self._open.rows += batch.num_rows

    def rotate(self) -> None:
        """Finish the open part, if any; the next row starts another."""
        if self._open is None:
            return
        part = self._open
        part.writer.close()
        self._open = None
        self.finished.append(
            SpooledPart(
                part_number=len(self.finished),
                path=part.path,
                rows=part.rows,
                columns=part.counter.finish(self._changed_since()),
            )
        )
        reach(KillPoint.PART_SPOOLED)

    def abandon(self) -> None:
        """Close what is open and remove every spool file of this chunk."""
        if self._open is not None:
            self._open.writer.abort()
        for part in self.finished:
            with contextlib.suppress(OSError):
                remove_file(part.path)

    def _changed_since(self) -> dict[str, int]:
        now = dict(self._reader.changed)
        before, self._changed_before = self._changed_before, now
        return {name: count - before.get(name, 0) for name, count in now.items()}


@dataclass(slots=True)
class _OpenPart:
    """A part being written."""

    path: Path
    writer: PartWriter
    counter: ColumnCounter
    rows: int = 0
