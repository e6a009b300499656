"""A claimed range, compared: both of its sides as a worker sees them (ADR 0030)."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from pathlib import Path

import pyarrow as pa

from rivet_fleet.contracts.facts import Asked
from rivet_fleet.contracts.keys import ChunkRange, KeyTuple, RangeKind, RunId
from rivet_fleet.contracts.manifest import LedgerPart
from rivet_fleet.contracts.plan import ExportPlan, ReadPlan
from rivet_fleet.contracts.reconcile import (
    POSITION_CHARS_MAX,
    Moment,
    NotAsWritten,
    RangeResult,
    ReconcileDepth,
    counted_columns,
)
from rivet_fleet.contracts.state import Claim, RunStatus, TaskStatus
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.errors import DataIntegrityError, SourceError
from rivet_fleet.execution.extract import Pacer, PageProgress, Pages, page_servo, patiently
from rivet_fleet.execution.format import PartFormat
from rivet_fleet.execution.parts import digest_file
from rivet_fleet.execution.registry import open_format
from rivet_fleet.execution.servo import PageServo
from rivet_fleet.execution.source import ChunkReader, Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Approach:
    """How a worker comes to the source for one chunk. ``opened`` gives a reader and takes it back;
    ``on_page`` and ``breathe`` (between rows of files) may raise StopRequested and LeaseLost."""

    source: Source
    opened: Callable[[ReadPlan, ChunkRange], AbstractContextManager[ChunkReader]]
    pacer: Pacer
    servo: Callable[[ChunkReader], PageServo]
    on_page: Callable[[PageProgress], None]
    breathe: Callable[[], None]


def compare_chunk(fleet: Fleet, claim: Claim, plan: ExportPlan, approach: Approach) -> RangeResult:
    """What comparing the claimed range came to. Raises SourceError, SchemaDrift, DestinationError
    as reading and looking do, and what ``approach`` raises."""
    # Here and not above: NumPy's memory is for workers that compare.
    from rivet_fleet.verification.reconcile import compare_range

    return compare_range(plan, claim.chunk_range, _Looks(fleet, claim, plan, approach))


class _Looks:
    """``verification.reconcile.Looks`` of one claim."""

    def __init__(self, fleet: Fleet, claim: Claim, plan: ExportPlan, approach: Approach) -> None:
        assert plan.reconcile is not None
        self._fleet, self._claim, self._plan, self._approach = fleet, claim, plan, approach
        self._of_run, self._depth = plan.reconcile.of_run, plan.reconcile.depth
        self._format: PartFormat = open_format(plan.format)

    def source(self, read: ReadPlan, chunk_range: ChunkRange) -> Iterator[pa.RecordBatch]:
        """By the run's own pages, with their limits, retries and rests."""
        approach = self._approach
        with approach.opened(read, chunk_range) as reader:
            if self._format.takes_packed and self._depth is not ReconcileDepth.AGGREGATE:
                # Hashes are of values, however a page holds them, and it holds less so.
                reader.pack()
            servo = approach.servo(reader)
            pages = Pages(reader, self._plan.tuning, approach.pacer, random.random, servo)
            while not pages.ended:
                batch = pages.next()
                approach.on_page(pages.progress)
                yield batch
                del batch  # with the next page it would be two
                if pages.between and not pages.ended:
                    pages.throttle()
            pages.prove()

    def count_files(self) -> int:
        """By the footers of what lies at the destination."""
        rows = 0
        for part in self._parts():
            with self._as_written(part) as local:
                rows += self._format.count_rows(local)
            self._approach.breathe()
        return rows

    def files(self, columns: tuple[str, ...]) -> Iterator[Mapping[str, pa.Array]]:
        """Of what lies at the destination."""
        for part in self._parts():
            with self._as_written(part) as local:
                for rows in self._format.rows(local, columns):
                    self._approach.breathe()
                    yield rows

    @contextlib.contextmanager
    def _as_written(self, part: LedgerPart) -> Iterator[Path]:
        """The part's file. Raises NotAsWritten before anything decodes it: another file is whatever
        somebody put there, and may stand for more than all memory, or end this process. What is too
        large all the same is DataIntegrityError."""
        with self._fleet.destination(self._of_run).local_copy(part.path) as local:
            # All of it: a file with the same quick fingerprint can be made on purpose.
            if digest_file(local, part.digest.rows) != part.digest:
                raise NotAsWritten(f"the bytes of {part.path} are not those that were written")
            try:
                yield local
            except MemoryError:
                text = f"reading the values of {part.path} takes more memory than there is"
                raise DataIntegrityError(text) from None

    def as_read(self, batch: pa.RecordBatch) -> list[pa.Array]:
        """As the run's format would give a page back; see ``PartFormat``."""
        return self._format.as_read(batch)

    def source_moment(self) -> Moment:
        """The source's clock and place in its log, where it says."""
        at_s, position = None, ""
        with contextlib.suppress(SourceError):
            at_s = self._approach.source.read_counters().taken_at_s
            position = self._approach.source.position()
        return Moment(at_s=at_s, position=position if len(position) <= POSITION_CHARS_MAX else "")

    def files_moment(self) -> Moment:
        """The state's clock."""
        now_s = self._fleet.patience.call("read the clock", self._fleet.store.now_s)
        return Moment(at_s=now_s)

    def measured(
        self, read: ReadPlan, chunk_range: ChunkRange, asked: Sequence[Asked]
    ) -> Iterator[tuple[Decimal | None, ...]] | None:
        """By statements of the source's own, each over so many rows as a page's time allows."""
        along_key = chunk_range.kind in (RangeKind.KEYSET, RangeKind.SPAN)
        if not along_key or chunk_range.relation or read.relation is None:
            return None
        if read.on_unrepresentable == "coerce":
            return None  # what the files hold in its place no server knows
        return self._pieces(read, chunk_range, asked)

    def _pieces(
        self, read: ReadPlan, chunk_range: ChunkRange, asked: Sequence[Asked]
    ) -> Iterator[tuple[Decimal | None, ...]]:
        """The answers for the pieces of a range. The first is of one step, and each one after it of
        so many steps as the last one's time says."""
        approach, tuning = self._approach, self._plan.tuning
        bounds = [*self._steps(read, chunk_range), chunk_range.upper]
        target_s = tuning.target_statement_ms / 1000.0
        lower, at, steps = chunk_range.lower, 0, 1
        while at < len(bounds):
            steps = min(steps, len(bounds) - at)
            piece = replace(chunk_range, lower=lower, upper=bounds[at + steps - 1])
            begun_s = self._fleet.clock.monotonic_s()
            ask = partial(approach.source.measure, read, piece, asked, tuning)
            yield patiently(ask, tuning, approach.pacer)
            taken_s = self._fleet.clock.monotonic_s() - begun_s
            lower, at = piece.upper, at + steps
            steps = pieces_next(steps, taken_s, target_s)
            approach.breathe()
            rest_s = max(tuning.throttle_ms / 1000.0, tuning.rest_s(0, taken_s))
            if rest_s > 0:
                approach.pacer.wait(rest_s)
        with approach.opened(read, chunk_range) as reader:
            reader.prove()  # that all of it was asked of what was planned

    def _steps(self, read: ReadPlan, chunk_range: ChunkRange) -> Iterator[KeyTuple]:
        """Keys of a range in the order of its pages, as far apart as a fraction of a page."""
        approach = self._approach
        short = max(1, self._plan.tuning.target_statement_ms // STEPS_A_PAGE)
        tuning = replace(self._plan.tuning, target_statement_ms=short)
        columns = counted_columns(read.columns, chunk_range, None)
        before = chunk_range.lower
        with approach.opened(replace(read, only=columns), chunk_range) as reader:
            servo = page_servo(reader, tuning)
            pages = Pages(reader, tuning, approach.pacer, random.random, servo)
            while not pages.ended:
                pages.next()
                approach.on_page(pages.progress)
                reached = reader.reached
                if reached is not None and reached != before and pages.between:
                    before = reached
                    yield reached
                if pages.between and not pages.ended:
                    pages.throttle()

    def pause(self, seconds: float) -> None:
        """As between two tries of a page."""
        self._approach.pacer.wait(seconds)

    def _parts(self) -> list[LedgerPart]:
        """The range's parts. Raises DataIntegrityError while it has none that are delivered."""
        store, index, of_run = self._fleet.store, self._claim.chunk_index, self._of_run
        run = self._fleet.patience.call("read the run", lambda: store.run(of_run))
        task = self._fleet.patience.call("read the chunk", lambda: store.task(of_run, index))
        if run is None or run.status is not RunStatus.COMPLETED:
            raise _not_there(of_run, "is not delivered any more")
        if task is None or task.status is not TaskStatus.COMPLETED:
            raise _not_there(of_run, f"is having chunk {index} read again")
        return self._fleet.patience.call(
            "read the ledger", lambda: store.parts(of_run, chunk_index=index)
        )


COMPARING_BYTES = 64 * 1024 * 1024
"""What a worker that compares holds beside one that delivers: NumPy and the kernels of Arrow (16
MB), the tallies of two sides, and of each the rows that are told apart (at most 16 MB)."""
STEPS_A_PAGE = 8
"""The keys alone are read in steps of so small a part of a page's time: a statement that measures
all columns of such a step is still no longer than a page."""
_FASTER_MOST = 2.0


def pieces_next(steps: int, taken_s: float, target_s: float) -> int:
    """How many steps the next statement covers, when one over ``steps`` took so long."""
    return max(1, int(steps * min(_FASTER_MOST, 0.5 * target_s / max(taken_s, 1e-6))))


def _not_there(run_id: RunId, how: str) -> DataIntegrityError:
    return DataIntegrityError(f"run {run_id} {how}")
