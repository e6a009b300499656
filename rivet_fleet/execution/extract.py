"""The extract loop: the only one there is. Pages of one chunk flow into finished local parts.

Every mode, engine and format comes through ``extract_chunk``. This thread reads and owns the
servo, the retries of a page and the throttle; another encodes (``encoder``, ADR 0006). It knows
nothing of leases or destinations: those speak through ``on_page`` and ``pacer``, which may end it
at any page.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from rivet_fleet.contracts.killpoints import KillPoint, reach
from rivet_fleet.contracts.plan import FormatPlan, MetaPlan, TuningPlan
from rivet_fleet.contracts.quality import UniqueKey
from rivet_fleet.contracts.retry import backoff_s
from rivet_fleet.errors import RetryClass, SourceError, StatementTimeout
from rivet_fleet.execution.encoder import Encoder, Parts, SpooledPart
from rivet_fleet.execution.format import PartFormat
from rivet_fleet.execution.pages import HELD_BY_WIRE, Allowance, PageServo
from rivet_fleet.execution.source import ChunkReader, Page

if TYPE_CHECKING:
    from rivet_fleet.execution.added import AddedColumns

THROTTLE_ROWS = 10_000
"""``throttle_ms`` is per this many rows, unless ``batch_rows_max`` says otherwise."""


class Pacer(Protocol):
    """How the loop waits, so that a stop or a lost lease ends a wait at once."""

    def wait(self, seconds: float) -> None:
        """Wait. May raise StopRequested or LeaseLost."""
        ...

    def allowance(self) -> Allowance:
        """What the next page may take at most. Called right before every page."""
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
    page_bytes: int
    statement_s: float


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
    unique: Sequence[UniqueKey] = (),
    meta: MetaPlan | None = None,
) -> ExtractResult:
    """Read the chunk to its end. ``spool_path(part_number)`` names a file that does not exist.

    ``on_page`` is called after every page and may raise (StopRequested, LeaseLost). Whatever
    ends the loop early, no writer stays open, no spool file is left behind and no thread goes
    on. Equal pages give equal files. ``unique``: keys whose duplicates the parts count.
    ``meta``: columns that are appended to every row.
    Raises SourceError (permanent, or retried ``tuning.max_retries`` times in a row, each time
    with a smaller page), DestinationFull.
    """
    added = _added(reader.schema, meta)
    part_format.check_schema(added.schema if added else reader.schema)
    if part_format.takes_packed and not unique and added is None:
        # Nobody but the writer looks at values: row hashes and duplicate counts would not know
        # the packed types.
        reader.pack()
    parts = Parts(
        reader.schema,
        part_format,
        spool_path,
        file_bytes_max=format_plan.file_bytes_max,
        unique=unique,
        added=added,
    )
    # While a row group is encoded in one burst, a page waits and another is on its way.
    page_bytes = tuning.batch_bytes_max or format_plan.row_group_bytes
    encoder = Encoder(parts, ahead_bytes_max=2 * page_bytes)
    pages = _Pages(reader, tuning, pacer, jitter)
    with contextlib.ExitStack() as undo:
        undo.callback(encoder.abandon)
        while True:
            batch = pages.next()
            reach(KillPoint.PAGE_READ)
            encoder.hand_over(batch, dict(reader.changed))
            del batch  # The encoder's alone from here: held on, it would cost one page more.
            on_page(pages.progress)
            if pages.ended:
                break
            pages.throttle()
        finished = encoder.finish()
        undo.pop_all()
    return ExtractResult(
        parts=finished,
        rows=pages.progress.rows_total,
        pages=pages.progress.pages_total,
        bytes=pages.progress.bytes_total,
        longest_statement_s=pages.longest_statement_s,
    )


def _added(schema: pa.Schema, meta: MetaPlan | None) -> AddedColumns | None:
    if meta is None:
        return None
    # Here and not above: most exports add nothing, and a worker starts sooner without it.
    from rivet_fleet.execution.added import AddedColumns

    return AddedColumns(schema, meta)


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
        self.ended = False
        self.longest_statement_s = 0.0
        self.progress = PageProgress(
            rows_total=0, pages_total=0, bytes_total=0, page_rows=0, page_bytes=0, statement_s=0.0
        )
        """Where the chunk stands after the last page."""

    def next(self) -> pa.RecordBatch:
        """The next page's rows; a transient failure costs this page one of its retries."""
        page = self._read()
        batch, before = page.batch, self.progress
        size_bytes = max(batch.nbytes, int(page.wire_bytes * HELD_BY_WIRE))
        self._servo.observe(batch.num_rows, size_bytes, page.statement_s)
        self.progress = PageProgress(
            rows_total=before.rows_total + batch.num_rows,
            pages_total=before.pages_total + 1,
            bytes_total=before.bytes_total + page.wire_bytes,
            page_rows=batch.num_rows,
            page_bytes=page.wire_bytes,
            statement_s=page.statement_s,
        )
        self.longest_statement_s = max(self.longest_statement_s, page.statement_s)
        self.ended = page.last
        return batch

    def throttle(self) -> None:
        """Rest in proportion to the rows read, so that page sizes do not change the pace."""
        rows = self.progress.page_rows
        if self._tuning.throttle_ms > 0 and rows:
            configured = self._tuning.batch_rows_max or THROTTLE_ROWS
            self._pacer.wait(self._tuning.throttle_ms / 1000.0 * rows / configured)

    def _read(self) -> Page:
        attempt = 0
        while True:
            try:
                if attempt:
                    self._reader.reconnect()
                return self._reader.read_page(self._servo.limit(self._pacer.allowance()))
            except SourceError as error:
                attempt += 1
                if not self._may_retry(error, attempt):
                    raise
                self._servo.shrink()
                _rest(error, attempt, self._tuning, self._pacer, self._jitter)

    def _may_retry(self, error: SourceError, attempt: int) -> bool:
        """A smaller page may do where this one ran into its limit, or into an administrator's
        cancel, which says the same; the same page again would only hurt the source."""
        if attempt > self._tuning.max_retries or not self._reader.resumable:
            return False
        if isinstance(error, StatementTimeout):
            return not self._servo.at_minimum
        return error.retry is not RetryClass.PERMANENT
