"""The extract loop: the only one there is. Pages of one chunk flow into finished local parts.

Every mode, engine and format comes through ``extract_chunk``. This thread reads and owns the
servo, the retries of a page and the throttle; another encodes (``encoder``, ADR 0006), and goes on
when the last page is read: whoever needs the parts waits for it (ADR 0035). It knows
nothing of leases or destinations: those speak through ``on_page`` and ``pacer``, which may end it
at any page.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import pyarrow as pa

from rivet_fleet.contracts.basis import BasisDifference
from rivet_fleet.contracts.clock import backoff_s
from rivet_fleet.contracts.killpoints import KillPoint, reach
from rivet_fleet.contracts.plan import FormatPlan, MetaPlan, TuningPlan
from rivet_fleet.contracts.quality import UniqueKey
from rivet_fleet.errors import RetryClass, SourceError, StatementTimeout
from rivet_fleet.execution.encoder import Encoder, EncoderThread, Parts, SpooledPart
from rivet_fleet.execution.format import PartFormat
from rivet_fleet.execution.servo import HELD_BY_WIRE, Allowance, PageServo
from rivet_fleet.execution.source import ChunkReader, Page, PageLimit

if TYPE_CHECKING:
    from rivet_fleet.execution.encoder import AddedColumns

T = TypeVar("T")


class Pacer(Protocol):
    """How the loop waits, so that a stop or a lost lease ends a wait at once."""

    def wait(self, seconds: float) -> None:
        """Wait. May raise StopRequested or LeaseLost."""
        ...

    def allowance(self) -> Allowance:
        """What the next page may take at most. Called right before every page."""
        ...

    def retry_in_s(self, wait_s: float, lost_bytes: int, answer_bytes: int = 0) -> float:
        """How long to wait before the next try: at least ``wait_s``. ``lost_bytes`` of rows, and
        ``answer_bytes`` of other answers, were received and are read again."""
        ...

    def retried(self, error: SourceError, attempt: int, wait_s: float) -> None:
        """A page failed for the ``attempt``-th time and is read again after ``wait_s``. May raise
        ``error``: it has been tried for too long."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PageProgress:
    """Where the chunk stands after a page, or a piece of one. ``bytes_total`` are bytes received
    from the source, ``page_rows`` and ``page_bytes`` those since the last time. ``pages_total``
    counts complete pages; ``statement_s`` is how long the page's statement has run so far."""

    rows_total: int
    pages_total: int
    bytes_total: int
    page_rows: int
    page_bytes: int
    statement_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractResult:
    """The whole chunk. A chunk without rows has no part. ``bytes`` came from the source.
    ``longest_statement_s``: see ``ChunkReader``. ``told``: what the source has changed since the
    plan, without harm to the rows."""

    parts: tuple[SpooledPart, ...]
    rows: int
    pages: int
    bytes: int
    longest_statement_s: float
    told: tuple[BasisDifference, ...] = ()


class ReadChunk:
    """A chunk that was read to its end, and may not be encoded to its end yet. ``finish`` or
    ``abandon`` must follow, on whichever thread."""

    def __init__(self, encoder: Encoder, result: ExtractResult) -> None:
        """``result``: all but its parts."""
        self._encoder = encoder
        self._result = result
        self._finished = False

    @property
    def result(self) -> ExtractResult:
        """What is known already: all but the parts."""
        return self._result

    def finish(self) -> ExtractResult:
        """Wait until it is encoded. Raises what encoding raised; nothing is left behind then."""
        try:
            finished = replace(self._result, parts=self._encoder.finish())
        except BaseException:
            self.abandon()
            raise
        finally:
            self._finished = True
        return finished

    def abandon(self) -> None:
        """Drop what is not encoded, remove every spool file. Nothing where it was finished: the
        files are another's then."""
        if not self._finished:
            self._encoder.abandon()


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
    servo: PageServo | None = None,
    thread: EncoderThread | None = None,
) -> ReadChunk:
    """Read the chunk to its end. ``spool_path(part_number)`` names a file that does not exist.

    ``on_page`` is called after every page, and every piece of one, and may raise (StopRequested,
    LeaseLost). Whatever ends the loop early, no writer stays open, no spool file is left behind
    and no thread goes on; behind the last page the encoder's does, until its work is done. Equal
    pages give equal files. ``unique``: keys whose duplicates the parts count. ``meta``: columns
    that are appended to every row. ``servo``: what was learnt of the source by the chunks of this
    export before (``page_servo``); it learns on. ``thread``: encodes for chunks before this one.
    Raises SourceError (permanent, or retried ``tuning.max_retries`` times in a row, each time
    with a smaller page), SchemaDrift (also behind the last page: ``ChunkReader.prove``),
    DestinationFull.
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
    encoder = Encoder(parts, ahead_bytes_max=2 * page_bytes, thread=thread)
    pages = Pages(reader, tuning, pacer, jitter, servo)
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
            # Never within a page: an open statement cannot rest (ADR 0016).
            if pages.between:
                pages.throttle()
        # Before the last part is finished: meanwhile the encoder works on, and of a relation that
        # was changed under the chunk nothing is finished at all.
        result = pages.result(pages.prove())
        encoder.end()
        undo.pop_all()
    return ReadChunk(encoder, result)


def page_servo(reader: ChunkReader, tuning: TuningPlan) -> PageServo:
    """The servo for all chunks of an export that are read like this one."""
    return PageServo(
        tuning.target_statement_ms,
        tuning.batch_bytes_max,
        tuning.batch_rows_max,
        piecewise=reader.piecewise,
        # Where pages rest, the source may idle between them.
        ahead=tuning.throttle_ms <= 0,
    )


def _added(schema: pa.Schema, meta: MetaPlan | None) -> AddedColumns | None:
    if meta is None:
        return None
    # Here and not above: most exports add nothing, and a worker starts sooner without it.
    from rivet_fleet.execution.encoder import AddedColumns

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
    return patiently(open_chunk, tuning, pacer, jitter)


def patiently(
    ask: Callable[[], T],
    tuning: TuningPlan,
    pacer: Pacer,
    jitter: Callable[[], float] = random.random,
) -> T:
    """What ``ask`` gives, asked again as a page would be. Raises as ``open_patiently``."""
    attempt = 0
    while True:
        try:
            return ask()
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
    lost_bytes: int = 0,
) -> None:
    """Tell, and wait before the next try."""
    wait_s = backoff_s(
        attempt=attempt,
        base_s=tuning.retry_backoff_ms / 1000.0,
        extra_s=error.extra_delay_s,
        jitter=jitter(),
    )
    wait_s = pacer.retry_in_s(wait_s, lost_bytes, error.received_bytes)
    pacer.retried(error, attempt, wait_s)
    pacer.wait(wait_s)


@dataclass(slots=True)
class _PageSums:
    """What has arrived of a page."""

    rows: int = 0
    bytes: int = 0
    """As they are held, or what counts for it (``HELD_BY_WIRE``)."""
    wire_bytes: int = 0

    def add(self, batch: pa.RecordBatch, wire_bytes: int) -> None:
        self.rows += batch.num_rows
        self.bytes += max(batch.nbytes, int(wire_bytes * HELD_BY_WIRE))
        self.wire_bytes += wire_bytes


class Pages:
    """Reads pages of the servo's size, in pieces where the reader can, and reads again what is
    missing of a page when its error allows it."""

    def __init__(
        self,
        reader: ChunkReader,
        tuning: TuningPlan,
        pacer: Pacer,
        jitter: Callable[[], float],
        servo: PageServo | None = None,
    ) -> None:
        """``servo``: of the chunks of this export before; see ``page_servo``."""
        self._reader = reader
        self._tuning = tuning
        self._pacer = pacer
        self._jitter = jitter
        self._servo = servo or page_servo(reader, tuning)
        self._servo.begin_chunk()
        self._limit: PageLimit | None = None
        """Of the page whose statement goes on."""
        self._allowance: Allowance | None = None
        """Of the pages that are under way."""
        self._sums = _PageSums()
        self._rows_since_rest = 0
        self._busy_s = 0.0
        """The source, since it last rested."""
        self._lost_bytes = 0
        """Of the reader, as far as they are paid for."""
        self.ended = False
        self.between = True
        """No statement is open: the loop may rest."""
        self.progress = PageProgress(
            rows_total=0, pages_total=0, bytes_total=0, page_rows=0, page_bytes=0, statement_s=0.0
        )
        """Where the chunk stands after the last page."""

    def next(self) -> pa.RecordBatch:
        """The rows of the next page, or of its next piece; a transient failure costs this page
        one of its retries."""
        page = self._read()
        batch, before = page.batch, self.progress
        self._sums.add(batch, page.wire_bytes)
        self._rows_since_rest += batch.num_rows
        self.between = page.complete and not page.followed
        if page.complete:
            self._busy_s += page.pace_s
            sums = self._sums
            self._servo.observe(
                sums.rows,
                sums.bytes,
                page.pace_s,
                wire_bytes=sums.wire_bytes,
                asked_rows=page.asked_rows,
            )
            self._forget_page()
        if self.between:
            self._allowance = None
        self.progress = PageProgress(
            rows_total=before.rows_total + batch.num_rows,
            pages_total=before.pages_total + int(page.complete),
            bytes_total=before.bytes_total + page.wire_bytes,
            page_rows=batch.num_rows,
            page_bytes=page.wire_bytes,
            statement_s=page.statement_s,
        )
        self.ended = page.last
        return batch

    def prove(self) -> tuple[BasisDifference, ...]:
        """Behind the last page; see ``ChunkReader.prove``. As patient as for a page."""
        return patiently(self._reader.prove, self._tuning, self._pacer, self._jitter)

    def result(self, told: tuple[BasisDifference, ...]) -> ExtractResult:
        """All of the chunk but its parts. ``told``: as it was proved."""
        return ExtractResult(
            parts=(),
            rows=self.progress.rows_total,
            pages=self.progress.pages_total,
            bytes=self.progress.bytes_total,
            longest_statement_s=self._reader.longest_statement_s,
            told=told,
        )

    def throttle(self) -> None:
        """Rest in proportion to what was read, so that page sizes do not change the pace."""
        rest_s = self._tuning.rest_s(self._rows_since_rest, self._busy_s)
        self._rows_since_rest, self._busy_s = 0, 0.0
        if rest_s > 0:
            self._pacer.wait(rest_s)

    def _read(self) -> Page:
        attempt = 0
        while True:
            try:
                if attempt:
                    self._reader.reconnect()
                if self._limit is None:
                    # Whoever is asked may wait: never while the source is at work for us.
                    self._allowance = self._allowance or self._pacer.allowance()
                    self._limit = self._servo.limit(self._allowance)
                return self._reader.read_page(self._limit)
            except SourceError as error:
                attempt += 1
                self._allowance = None
                # What the protection allows is asked anew before the next try, which may be much
                # later.
                self._forget_page()
                if not self._may_retry(error, attempt):
                    raise
                self._servo.shrink()
                lost_bytes = self._reader.lost_bytes - self._lost_bytes
                self._lost_bytes += lost_bytes
                _rest(error, attempt, self._tuning, self._pacer, self._jitter, lost_bytes)

    def _forget_page(self) -> None:
        self._limit, self._sums = None, _PageSums()

    def _may_retry(self, error: SourceError, attempt: int) -> bool:
        """A smaller page may do where this one ran into its limit, or into an administrator's
        cancel, which says the same; the same page again would only hurt the source."""
        if attempt > self._tuning.max_retries or not self._reader.resumable:
            return False
        if isinstance(error, StatementTimeout):
            return not self._servo.at_minimum
        return error.retry is not RetryClass.PERMANENT
