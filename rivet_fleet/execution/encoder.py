"""The encoding half of the extract loop: pages in, finished local parts out, on its own thread.

Reading and encoding overlap (ADR 0006). The thread that reads hands pages over and never touches
a writer; the encoder's thread owns every writer from its opening to its end.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from rivet_fleet.contracts.killpoints import KillPoint, reach
from rivet_fleet.contracts.manifest import ColumnStats
from rivet_fleet.contracts.plan import EXPORTED_AT, MetaPlan
from rivet_fleet.contracts.quality import UniqueKey, UniqueStats
from rivet_fleet.execution.checksums import open_row_hash
from rivet_fleet.execution.durable import remove_file
from rivet_fleet.execution.format import PartFormat, PartWriter
from rivet_fleet.execution.parts import ColumnCounter
from rivet_fleet.execution.types import arrow_schema

if TYPE_CHECKING:
    from rivet_fleet.execution.uniqueness import UniqueCounter


@dataclass(frozen=True, slots=True, kw_only=True)
class SpooledPart:
    """One finished local file. Part numbers count from 0 within the chunk."""

    part_number: int
    path: Path
    rows: int
    columns: tuple[ColumnStats, ...]
    uniques: tuple[UniqueStats, ...] = ()


class EncoderThread:
    """Encodes for one reader after the other: of two chunks that one worker has in hand the former
    is encoded to its end first, and what waits is bounded over both (ADR 0035)."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._ahead: deque[tuple[Future[None], int]] = deque()
        self._ahead_bytes = 0

    def make_room(self, size_bytes: int, ahead_bytes_max: int) -> None:
        """Wait until what waits or is being encoded leaves room; the reading thread's alone."""
        while self._ahead and (
            self._ahead[0][0].done() or self._ahead_bytes + size_bytes > ahead_bytes_max
        ):
            oldest, oldest_bytes = self._ahead.popleft()
            wait([oldest])
            self._ahead_bytes -= oldest_bytes

    def submit(self, work: Callable[..., None], *given: object, size_bytes: int) -> Future[None]:
        """Do it soon; the reading thread's alone."""
        submitted = self._started().submit(work, *given)
        self._ahead.append((submitted, size_bytes))
        self._ahead_bytes += size_bytes
        return submitted

    def clean(self, work: Callable[[], None]) -> Future[None]:
        """Do it behind what waits, whoever asks."""
        return self._started().submit(work)

    def close(self) -> None:
        """End the thread behind what waits; another one starts with the next work."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown()

    def _started(self) -> ThreadPoolExecutor:
        if self._thread is None:
            # One: pages are written in their order, and a writer is touched by nobody else
            # (ADR 0006).
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        return self._thread


class Encoder:
    """Encodes one chunk's pages in the order they are handed over; used by one thread at a time,
    works on another.

    At most ``ahead_bytes_max`` bytes of Arrow data wait or are being encoded, or one page when
    that alone is larger. After an error nothing more is written: the error itself comes out of
    the next ``hand_over`` or of ``finish``. ``finish`` or ``abandon`` must follow. Between ``end``
    and them it may pass to another thread.
    """

    def __init__(
        self, parts: Parts, *, ahead_bytes_max: int, thread: EncoderThread | None = None
    ) -> None:
        """``thread``: whoever owns it ends it; None: one of this chunk's own, which does not
        outlive it."""
        self._parts = parts
        self._ahead_bytes_max = ahead_bytes_max
        self._ahead: deque[Future[None]] = deque()
        self._finished = False
        self._own = thread is None
        self._thread = thread or EncoderThread()

    def hand_over(self, batch: pa.RecordBatch, changed: Mapping[str, int]) -> None:
        """Encode ``batch`` soon; waits for room first. ``changed`` are the reader's counts as
        they stood after this page. Raises what encoding an earlier page raised."""
        self._thread.make_room(batch.nbytes, self._ahead_bytes_max)
        # An error is to come out at the next page, not at the chunk's end.
        while self._ahead and self._ahead[0].done():
            self._ahead.popleft().result()
        write = self._parts.write
        self._ahead.append(self._thread.submit(write, batch, changed, size_bytes=batch.nbytes))

    def end(self) -> None:
        """There is no further page: the last part is closed behind those that wait, soon."""
        self._ahead.append(self._thread.submit(self._parts.end, size_bytes=0))

    def finish(self) -> tuple[SpooledPart, ...]:
        """Behind ``end``: wait until all is encoded. Raises what encoding raised."""
        while self._ahead:
            self._ahead.popleft().result()
        self._finished = True
        self._leave()
        return tuple(self._parts.finished)

    def abandon(self) -> None:
        """Drop what waits, remove every file of this chunk.

        The encoder's own thread cleans up, so that it happens even when a second interrupt
        ends the waiting for it here.
        """
        if self._finished:
            self._parts.abandon()
            return
        for waiting in self._ahead:
            waiting.cancel()
        cleaning = self._thread.clean(self._parts.abandon)
        self._leave()
        cleaning.result()

    def _leave(self) -> None:
        if self._own:
            self._thread.close()


class Parts:
    """The open part and the finished ones. Nothing is opened before there is a row."""

    def __init__(
        self,
        schema: pa.Schema,
        part_format: PartFormat,
        spool_path: Callable[[int], Path],
        *,
        file_bytes_max: int | None,
        unique: Sequence[UniqueKey] = (),
        added: AddedColumns | None = None,
    ) -> None:
        """``file_bytes_max``: a part that grew to this size is finished; None or 0: never.
        ``unique``: keys whose duplicates are looked for, over all parts of this chunk.
        ``added`` completes pages of ``schema`` before they are written."""
        self._added = added
        self._schema = added.schema if added else schema
        self._format = part_format
        self._spool_path = spool_path
        self._file_bytes_max = file_bytes_max
        self._open: _OpenPart | None = None
        self._broken = False
        self._unique = _unique_counters(schema, unique)
        self._changed: Mapping[str, int] = {}
        self._changed_before: Mapping[str, int] = {}
        self.finished: list[SpooledPart] = []

    def write(self, batch: pa.RecordBatch, changed: Mapping[str, int]) -> None:
        """Append a page; finish the part when it is large enough. After an error of an earlier
        page this does nothing: what follows a gap must not be written."""
        if self._broken:
            return
        # Set before and taken back behind: whatever is raised in between leaves it set.
        self._broken = True
        self._append(batch, changed)
        part = self._open
        if part and self._file_bytes_max and part.writer.bytes_flushed >= self._file_bytes_max:
            self.rotate()
        self._broken = False

    def end(self) -> None:
        """Finish the last part; nothing after an error of an earlier page."""
        if not self._broken:
            self._broken = True
            self.rotate()
            self._broken = False

    def rotate(self) -> None:
        """Finish the open part, if any; the next row starts another."""
        if self._open is None:
            return
        part = self._open
        part.writer.close()
        # Behind ``close``: a writer whose footer could not be written is still there to be aborted.
        self._open = None
        self.finished.append(
            SpooledPart(
                part_number=len(self.finished),
                path=part.path,
                rows=part.rows,
                columns=part.counter.finish(
                    self._changed_since(), part.writer.extremes(), part.writer.checksums()
                ),
                uniques=tuple(counter.take() for counter in self._unique),
            )
        )
        reach(KillPoint.PART_SPOOLED)

    def abandon(self) -> None:
        """Close what is open and remove every spool file of this chunk. Never raises."""
        if self._open is not None:
            self._open.writer.abort()
            self._open = None
        for part in self.finished:
            with contextlib.suppress(OSError):
                remove_file(part.path)

    def _append(self, batch: pa.RecordBatch, changed: Mapping[str, int]) -> None:
        self._changed = changed
        if not batch.num_rows:
            return
        if self._added is not None:
            batch = self._added.complete(batch)
        if self._open is None:
            path = self._spool_path(len(self.finished))
            writer = self._format.open(path, self._schema)
            self._open = _OpenPart(path, writer, ColumnCounter(self._schema))
        self._open.writer.write(batch)
        self._open.counter.add(batch)
        for counter in self._unique:
            counter.add(batch)
        self._open.rows += batch.num_rows

    def _changed_since(self) -> dict[str, int]:
        now, before = self._changed, self._changed_before
        self._changed_before = now
        return {name: count - before.get(name, 0) for name, count in now.items()}


def _unique_counters(schema: pa.Schema, unique: Sequence[UniqueKey]) -> list[UniqueCounter]:
    if not unique:
        return []
    # Here and not above: NumPy's memory is for workers whose exports ask for it.
    from rivet_fleet.execution.uniqueness import UniqueCounter

    return [UniqueCounter(schema, key) for key in unique]


@dataclass(slots=True)
class _OpenPart:
    """A part being written."""

    path: Path
    writer: PartWriter
    counter: ColumnCounter
    rows: int = 0


# ------------------------------------------------------------------------------------------
# Columns that are appended to every page before it is encoded (ADR 0012, ``meta_columns``).


class AddedColumns:
    """Completes pages of ``schema``. They depend on the plan and the row alone (S5)."""

    def __init__(self, schema: pa.Schema, meta: MetaPlan) -> None:
        self._meta = meta
        self._hashed = [schema.get_field_index(name) for name in meta.row_hash or ()]
        self.schema = pa.schema([*schema, *arrow_schema(meta.columns)])

    def complete(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The page with what is added, of ``self.schema``."""
        arrays = list(batch.columns)
        if self._meta.exported_at_us is not None:
            kind = self.schema.field(EXPORTED_AT).type
            moment = pa.scalar(self._meta.exported_at_us, kind)
            arrays.append(pa.repeat(moment, batch.num_rows))
        if self._meta.row_hash is not None:
            arrays.append(open_row_hash()([batch.column(index) for index in self._hashed]))
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)
