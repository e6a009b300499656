"""One worker process: claim, extract, deliver, again. Its loop decides nothing by itself."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import structlog

from rivet_fleet.contracts.clock import backoff_s
from rivet_fleet.contracts.events import EventName
from rivet_fleet.contracts.keys import CampaignId, ChunkRange, RunId
from rivet_fleet.contracts.killpoints import KillPoint, reach
from rivet_fleet.contracts.plan import Access, ExportPlan, ReadPlan
from rivet_fleet.contracts.state import CampaignStatus, Claim, Failure, RunView
from rivet_fleet.coordination.attempt import Attempt, Delivery, Pacer
from rivet_fleet.coordination.compare import COMPARING_BYTES, Approach, compare_chunk
from rivet_fleet.coordination.finalize import look_before
from rivet_fleet.coordination.fitness import (
    asked_of_source,
    asks_source,
    refuse_before_claim,
    refuse_claimed_destination,
    refuse_state,
    spool_is_full,
    tell_unfit,
    unfit_of,
    with_others,
)
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.coordination.heartbeat import Heartbeat
from rivet_fleet.coordination.protect import Protection, Retries, Room
from rivet_fleet.coordination.tend import chosen_over, refuse_unplanned, runs_named, tend, verdict
from rivet_fleet.errors import (
    DestinationError,
    DestinationFull,
    ExitCode,
    LeaseLost,
    RetryClass,
    RivetFleetError,
    SourceError,
    StateError,
    StateRefused,
    StateTampered,
    StopRequested,
    WorkerUnfit,
)
from rivet_fleet.execution.allocator import trim_heap
from rivet_fleet.execution.extract import (
    PageProgress,
    extract_chunk,
    open_patiently,
    page_servo,
)
from rivet_fleet.execution.proof import PageProofs
from rivet_fleet.execution.registry import open_format
from rivet_fleet.execution.servo import PageServo

if TYPE_CHECKING:
    from rivet_fleet.contracts.basis import BasisDifference
    from rivet_fleet.contracts.reconcile import RangeResult
    from rivet_fleet.execution.source import ChunkReader, Source

_MESSAGE_MAX = 2000
_OUTAGE_BACKOFF_S = 1.0
_TRIMMED_FROM = 0.85
"""Share of the memory ceiling from which a worker gives free memory back."""
_LOOKED_EVERY_S = 5.0
"""How often a worker looks at its memory within a chunk: giving back costs page faults."""


class Worker:
    """Works on one campaign until it is over or until it is told to stop."""

    def __init__(
        self,
        fleet: Fleet,
        heartbeat: Heartbeat,
        campaign_id: CampaignId,
        spool: Path,
        exports: Sequence[str] = (),
    ) -> None:
        """``spool``: a folder of this process alone. ``exports``: only chunks of these."""
        self._fleet = fleet
        self._heartbeat = heartbeat
        self._campaign_id = campaign_id
        self._spool = spool
        self._exports = tuple(exports)
        self._only: tuple[RunId, ...] = ()
        self._process = psutil.Process()
        self._looked_at_s = 0.0
        self._plans: tuple[ExportPlan, ...] = ()
        self._delivery = Delivery(fleet, heartbeat)
        self._hands: list[Attempt] = []
        """Chunks of ours: one is read, one may be staged and one published meanwhile (ADR 0035)."""
        self._read: Attempt | None = None
        """Read to its end, and not being delivered yet."""
        self._blamed: Attempt | None = None
        """What this thread works on: what nobody foresaw is charged to it."""
        self._worked = self._compared = False
        """Since the memory was judged."""
        self._protection = Protection(fleet)
        self._looked_at: set[RunId] = set()
        self._probed: set[Access] = set()
        """Destinations that this process has written to."""
        self._servos: dict[tuple[RunId, bool], PageServo] = {}
        self._changes_told: set[tuple[RunId, BasisDifference]] = set()
        self._proofs: dict[RunId, PageProofs] = {}
        self._retries = Retries(fleet, campaign_id)
        self._room = Room(fleet, campaign_id, spool)
        self._outages = 0
        """Chunks given back in a row because the source could not be connected."""

    def run(self) -> ExitCode:
        """Until the campaign is over, or until told to stop. Raises StateError, and WorkerUnfit
        for what this process lacks: told, and no chunk's fault (ADR 0023)."""
        fleet = self._fleet
        try:
            self._plans = refuse_before_claim(fleet, self._campaign_id, self._probed)
            fleet.tell(
                EventName.WORKER_STARTED,
                pid=os.getpid(),
                worker_name=fleet.identity.name,
                host_id=fleet.identity.host_id,
            )
            return self._loop()
        except WorkerUnfit as found:
            tell_unfit(fleet, found)
            self._let_go()
            # Its successor claims at once, and asks no budget.
            self._retries.rest()
            raise found from None
        except StateRefused as error:
            other = refuse_state(error)
            raise tell_unfit(fleet, other) if other else error from None
        except StateError:
            # Without the state nothing can be failed or given back: who sees this process end, or
            # its leases, takes its chunks back, and that costs an attempt.
            raise
        except RivetFleetError:
            self._let_go()
            raise
        except Exception as error:
            # The outermost loop of a worker: a bug costs this attempt and this process, never
            # the campaign. The supervisor starts a fresh process.
            unexpected = self._log_unexpected(error)
            if self._blamed is not None:
                self._fail(self._blamed, unexpected)
                self._over(self._blamed)
            else:
                self._retries.rest_unforeseen(self._plans)
            self._let_go()
            # As above: what comes unforeseen comes by no other budget than what is foreseen.
            self._retries.rest()
            return ExitCode.RETRYABLE
        finally:
            self._delivery.wait()
            for attempt in tuple(self._hands):
                self._over(attempt)
            self._delivery.close()

    def _log_unexpected(self, error: Exception) -> RivetFleetError:
        unexpected = _unexpected(error)
        log = structlog.get_logger("rivet_fleet")
        if self._fleet.settings.row_values_shown:
            unexpected.message = unexpected.unmasked or unexpected.message
            log.exception("unexpected error in a worker")
        else:
            # What a library says of a value that it could not take holds the value.
            steps = "".join(traceback.format_tb(error.__traceback__))
            log.error("unexpected error in a worker", kind=type(error).__name__, steps=steps)
        return unexpected

    def _loop(self) -> ExitCode:
        """An empty claim is not the end of work (F5)."""
        fleet = self._fleet
        if self._exports:
            runs = fleet.patience.call("read the runs", self._runs)
            refuse_unplanned(self._campaign_id, runs, self._exports)
            self._only = tuple(run.run_id for run in runs_named(runs, self._exports))
        while not fleet.stop.requested:
            if self._read is None or not self._shares(self._read):
                self._deliver_rest()
                self._retries.rest()
                # Here, where no chunk is in hand: a wait keeps nothing from the others.
                self._room.wait()
                if self._over_ceiling():
                    return ExitCode.RECYCLE
                if self._room.spool_waited_for() or fleet.stop.requested:
                    continue
            if self._claim():
                continue
            delivered = self._read is not None
            self._deliver_rest()
            fleet.drop_sources()
            trim_heap()
            tended = tend(fleet, self._campaign_id)
            if tended.status.over or chosen_over(fleet, self._campaign_id, self._exports):
                return self._verdict(tended.status)
            # Only now: a campaign that is over asks nobody for a destination any more.
            if tended.refused is not None:
                raise tended.refused
            if tended.halted is not None:
                return ExitCode.HALTED
            if not delivered:
                fleet.stop.wait(fleet.settings.poll_interval_s)
        self._deliver_rest()
        return ExitCode.STOPPED

    def _shares(self, read: Attempt) -> bool:
        """Whether the next chunk may be read while this one is delivered: not where something has
        to be waited for with empty hands."""
        if read.alone or self._retries.resting or self._room.lacking:
            return False
        return not spool_is_full(self._spool) and self._used_bytes() <= self._ceiling_bytes

    def _verdict(self, status: CampaignStatus) -> ExitCode:
        """A cancelled campaign is over for a worker, too: 6 would mean "start me again"."""
        if status is CampaignStatus.CANCELLED:
            return ExitCode.OK
        fleet = self._fleet
        return fleet.patience.call(
            "read why chunks failed",
            lambda: verdict(fleet, self._campaign_id, status, self._exports),
        )

    def _runs(self) -> list[RunView]:
        return self._fleet.store.runs(self._campaign_id)

    def _claim(self) -> bool:
        """Claim the next chunk and read it, while the one that was read is delivered. False when
        there is none to claim."""
        fleet, read = self._fleet, self._read
        # Before asking: the lease runs from when the server gave it, and an answer that was
        # long on its way must not be believed in for longer (F3).
        claimed_at_s = fleet.clock.monotonic_s()
        claim = fleet.patience.call(
            "claim a chunk",
            lambda: fleet.store.claim(
                *(self._campaign_id, fleet.identity, fleet.settings.lease_ttl_s),
                only=self._only,
                read=None if read is None else read.key,
            ),
        )
        if claim is None:
            return False
        attempt = self._blamed = Attempt(claim)
        self._hands.append(attempt)
        self._heartbeat.watch(claim, claimed_at_s=claimed_at_s)
        reach(KillPoint.CHUNK_CLAIMED)
        if read is not None:
            self._read = None
            self._delivery.begin(read)
        self._work(attempt)
        return True

    def _work(self, attempt: Attempt) -> None:
        """Read a chunk to its end. However that ends, it is ours still (``_read``), or somebody's
        again."""
        self._retries.moved()
        self._worked = True
        try:
            plan = attempt.plan = self._fleet.planned_run(attempt.claim.run_id).plan
            if attempt.alone:
                self._await_delivery(attempt)
            if plan.reconcile is None:
                self._extract(attempt, plan)
            else:
                attempt.compared = self._compare(attempt, plan)
            self._leave_source(attempt)
            attempt.guard = None
            self._tell_changes(attempt)
            self._heartbeat.check(attempt.claim)
            # One is staged at a time, so this one waits for its turn.
            self._delivery.wait_turn(attempt)
            self._look_after_delivery()
            self._read = attempt
        except (RivetFleetError, ImportError) as error:
            self._judge(attempt, error)
        self._blamed = None

    def _await_delivery(self, waiting: Attempt | None = None) -> None:
        self._delivery.wait(waiting)
        self._look_after_delivery()

    def _look_after_delivery(self) -> None:
        """Judge what was delivered beside and has ended. Raises what ends this process."""
        while (ended := self._delivery.ended) is not None:
            self._deliver(ended, partial(self._delivery.take, ended))

    def _deliver_rest(self) -> None:
        """What is in hand, to its end."""
        self._await_delivery()
        read, self._read = self._read, None
        if read is not None:
            self._deliver(read, partial(self._delivery.here, read))

    def _deliver(self, attempt: Attempt, deliver: Callable[[], bool]) -> None:
        """One chunk that was read. However its delivery ends, it is somebody's again."""
        former, self._blamed = self._blamed, attempt
        try:
            visible = deliver()
            self._outages = 0
            self._room.found()
            if attempt.plan is not None:
                self._retries.answered(attempt.plan)
            if not visible:
                self._pay_for_reading(attempt)
            self._over(attempt)
        except (RivetFleetError, ImportError) as error:
            self._judge(attempt, error)
        self._blamed = former

    def _judge(self, attempt: Attempt, error: RivetFleetError | ImportError) -> None:
        """What becomes of a chunk that cannot be read, or not delivered. Raises what ends this
        process."""
        fleet = self._fleet
        try:
            match error:
                case LeaseLost():
                    self._emit(attempt, EventName.LEASE_LOST, error.message)
                    self._pay_for_reading(attempt)
                case StopRequested():
                    self._give_back(attempt)
                    if not fleet.stop.requested:
                        # A pause of the source: this process goes on, and may meet the next one
                        # soon.
                        self._pay_for_reading(attempt)
                case StateError():
                    raise error
                case StateTampered():
                    # Somebody else's edit, and no chunk's: it goes back, and nobody acts by such a
                    # state.
                    self._give_back(attempt)
                    raise error
                case _:
                    self._fail_or_give_back(attempt, error)
        finally:
            self._over(attempt)

    def _over(self, attempt: Attempt) -> None:
        """It is not ours any more."""
        self._heartbeat.unwatch(attempt.claim)
        attempt.clean(self._spool)
        if attempt in self._hands:
            self._hands.remove(attempt)

    def _let_go(self) -> None:
        """This process ends: what is being delivered is delivered, the rest goes back."""
        for attempt in tuple(self._hands):
            if self._delivery.holds(attempt):
                # What ends this process is known already.
                with contextlib.suppress(RivetFleetError):
                    self._await_delivery()
            else:
                self._give_back(attempt)
                self._over(attempt)

    def _give_back(self, attempt: Attempt) -> None:
        self._leave_source(attempt)
        self._release(attempt)

    def _approach(self, attempt: Attempt, plan: ExportPlan) -> tuple[Source, Pacer]:
        """The planned source, alone, and what keeps it from harm by this chunk."""
        fleet = self._fleet
        fleet.drop_sources(but=(plan.read.source,))
        source = fleet.source(plan.read.source, plan.read.source_identity)
        attempt.busy_s = lambda: source.longest_statement_s
        pacer = Pacer(
            *(fleet, self._heartbeat, attempt, plan, self._retries),
            beside=self._look_after_delivery,
        )
        attempt.guard = self._protection.guard(attempt.claim, pacer.wait, pacer.tell)
        return source, pacer

    def _compare(self, attempt: Attempt, plan: ExportPlan) -> RangeResult:
        source, pacer = self._approach(attempt, plan)
        self._compared = True

        @contextmanager
        def opened(read: ReadPlan, chunk_range: ChunkRange) -> Iterator[ChunkReader]:
            with self._reader(source, pacer, read, chunk_range) as reader:
                yield reader

        return compare_chunk(
            self._fleet,
            attempt.claim,
            plan,
            Approach(
                source=source,
                opened=opened,
                pacer=pacer,
                servo=lambda reader: self._servo(attempt, plan, reader),
                on_page=lambda progress: self._on_page(attempt, progress),
                breathe=lambda: self._breathe(attempt),
            ),
        )

    def _servo(self, attempt: Attempt, plan: ExportPlan, reader: ChunkReader) -> PageServo:
        """Chunks of an export may be read in different ways: those of NULLs are one statement."""
        return self._servos.setdefault(
            (attempt.claim.run_id, reader.piecewise), page_servo(reader, plan.tuning)
        )

    @contextmanager
    def _reader(
        self, source: Source, pacer: Pacer, read: ReadPlan, chunk_range: ChunkRange
    ) -> Iterator[ChunkReader]:
        """A reader of the chunk, for as long as it is needed."""
        attempt, tuning = pacer.attempt, pacer.plan.tuning
        reader = open_patiently(
            lambda: source.open_chunk(read, chunk_range, tuning), tuning=tuning, pacer=pacer
        )
        if attempt.guard is not None:
            attempt.guard.pausable = reader.resumable
        try:
            yield reader
        finally:
            attempt.read_bytes += reader.lost_bytes - pacer.paid_bytes
            reader.close()

    def _extract(self, attempt: Attempt, plan: ExportPlan) -> None:
        fleet, run_id = self._fleet, attempt.claim.run_id
        # Before the source is opened: for a destination that refuses nothing should be read.
        refuse_claimed_destination(fleet, run_id, self._probed)
        source, pacer = self._approach(attempt, plan)
        with self._reader(source, pacer, plan.read, attempt.claim.chunk_range) as reader:
            if run_id not in self._looked_at:
                self._looked_at.add(run_id)
                if vain := look_before(fleet, run_id, plan.read.source, source):
                    pacer.wait(pacer.retry_in_s(0.0, 0, vain))
            if plan.proof is not None:
                proofs = self._proofs.setdefault(run_id, PageProofs(plan.proof.prove))
                reader.count_pages(proofs, plan.tuning.statement_timeout_s)
            chunk = extract_chunk(
                reader=reader,
                part_format=open_format(plan.format),
                format_plan=plan.format,
                tuning=plan.tuning,
                spool_path=lambda number: attempt.spool_path(self._spool, number),
                pacer=pacer,
                on_page=lambda progress: self._on_page(attempt, progress),
                unique=plan.quality.unique if plan.quality else (),
                meta=plan.meta,
                servo=self._servo(attempt, plan, reader),
                thread=self._delivery.encoder,
            )
        attempt.was_read(chunk)
        reach(KillPoint.CHUNK_READ)

    def _tell_changes(self, attempt: Attempt) -> None:
        """What the source has changed since the plan, without harm: each once."""
        run_id, chunk = attempt.claim.run_id, attempt.chunk
        for one in chunk.result.told if chunk else ():
            if (run_id, one) not in self._changes_told:
                self._changes_told.add((run_id, one))
                self._emit(attempt, EventName.SOURCE_CHANGED, one.sentence, **one.data)

    def _on_page(self, attempt: Attempt, progress: PageProgress) -> None:
        """The page boundary: the only place where a chunk can stop before its end."""
        fleet = self._fleet
        self._retries.moved()
        attempt.read_bytes = progress.bytes_total
        if attempt.guard is not None:
            attempt.guard.after_page(progress.page_rows, progress.page_bytes)
        if fleet.clock.monotonic_s() - self._looked_at_s >= _LOOKED_EVERY_S:
            self._used_bytes()
        self._emit(
            attempt,
            EventName.PAGE_READ,
            rows=progress.page_rows,
            rows_total=progress.rows_total,
            statement_s=round(progress.statement_s, 4),
        )
        self._breathe(attempt)

    def _breathe(self, attempt: Attempt) -> None:
        """Where a chunk may end: told to stop, or not ours any more."""
        claim = attempt.claim
        self._heartbeat.progressed(claim)
        self._look_after_delivery()
        self._fleet.stop.check()
        self._heartbeat.check(claim)
        if not self._heartbeat.trusted(claim):
            self._confirm(claim)

    def _emit(self, attempt: Attempt, name: EventName, message: str = "", **data: object) -> None:
        self._fleet.emit(attempt.event(self._fleet, name, message, **data))

    def _confirm(self, claim: Claim) -> None:
        """The lease may have run out (we were paused, or the state was away): ask before
        reading on. The fence decides, not the clock (F2, F3)."""
        fleet = self._fleet
        sent_at_s = fleet.clock.monotonic_s()
        lost = fleet.patience.call(
            "confirm the lease",
            lambda: fleet.store.renew(
                fleet.identity, [(claim.task_id, claim.fence)], fleet.settings.lease_ttl_s, 0
            ),
        )
        if lost:
            raise LeaseLost(
                f"chunk {claim.chunk_index} of {claim.export_name} has another owner now"
            )
        self._heartbeat.renewed(claim, sent_at_s)

    def _leave_source(self, attempt: Attempt) -> None:
        """Where connections are limited, ours is closed before the chunk's slot is given back."""
        guard, plan = attempt.guard, attempt.plan
        if guard is not None and plan is not None and guard.limits_connections:
            self._fleet.drop_source(plan.read.source)

    def _release(self, attempt: Attempt, outage: str = "") -> None:
        fleet, claim = self._fleet, attempt.claim
        try:
            fleet.patience.call(
                "release the chunk",
                lambda: fleet.store.release(claim.task_id, claim.fence, outage),
            )
            reach(KillPoint.CHUNK_RELEASED)
        except LeaseLost as lost:
            self._emit(attempt, EventName.LEASE_LOST, lost.message)

    def _fail_or_give_back(self, attempt: Attempt, error: RivetFleetError | ImportError) -> None:
        """A defect of this process costs the chunk nothing and ends the process: WorkerUnfit. An
        outage is nobody's poison: it costs the chunk no attempt, however long the source is away,
        and for as long as there is patience with a destination that is full."""
        fleet = self._fleet
        plan = fleet.planned_run(attempt.claim.run_id).plan
        # Of a chunk that is read to its end the source has nothing to say any more, and it may be
        # another chunk's by now.
        asked = asks_source(error) and attempt.reading
        found = unfit_of(error) or (asked_of_source(fleet, plan, error) if asked else None)
        flooded_bytes = error.received_bytes if isinstance(error, RivetFleetError) else 0
        attempt.read_bytes += flooded_bytes
        if found is not None:
            self._drop_source(attempt, plan)
            self._release(attempt)
            told = with_others(fleet, plan, found)
            self._pay_for_reading(attempt)
            raise told
        assert isinstance(error, RivetFleetError)  # every ImportError is a defect of ours
        if isinstance(error, DestinationFull) and self._room.lacks(attempt.claim, error):
            self._give_back(attempt)
            self._pay_for_reading(attempt)
            return
        if asked and error.retry is not RetryClass.PERMANENT:
            self._retries.wait_s(plan, 0.0, 0)  # asking took a connection of its own
        outage = isinstance(error, SourceError) and not error.connected
        if not outage or error.retry is RetryClass.PERMANENT:
            self._outages = 0
            self._fail(attempt, error)
            if error.retry is RetryClass.PERMANENT and flooded_bytes:
                # This chunk is not read again; the next one would be answered alike.
                self._retries.rest_later(plan, 0.0, flooded_bytes)
            return
        self._outages += 1
        self._drop_source(attempt, plan)
        message = error.message or error.error_class
        self._release(attempt, outage=fleet.redact(message)[:_MESSAGE_MAX])
        wait_s = backoff_s(attempt=self._outages, base_s=_OUTAGE_BACKOFF_S)
        self._retries.rest_later(plan, wait_s, attempt.read_bytes)

    def _drop_source(self, attempt: Attempt, plan: ExportPlan) -> None:
        """Not the session that another chunk is read by."""
        if attempt.reading:
            self._fleet.drop_source(plan.read.source)

    def _pay_for_reading(self, attempt: Attempt) -> None:
        """What was read of a chunk that this process has no more is read again by somebody: the
        next claim here waits for what that costs. Nothing, where nothing was read."""
        if attempt.read_bytes:
            plan = self._fleet.planned_run(attempt.claim.run_id).plan
            self._retries.rest_later(plan, 0.0, attempt.read_bytes)

    def _fail(self, attempt: Attempt, error: RivetFleetError) -> None:
        """Spend the attempt. After a commit the fence guard refuses, and that is right: a
        committed chunk is rolled forward by whoever comes next."""
        fleet, claim = self._fleet, attempt.claim
        plan = fleet.planned_run(claim.run_id).plan
        if error.retry is not RetryClass.PERMANENT:
            self._drop_source(attempt, plan)
        self._leave_source(attempt)
        wait_s = backoff_s(
            attempt=claim.attempt,
            base_s=plan.tuning.retry_backoff_ms / 1000.0,
            extra_s=error.extra_delay_s,
        )
        failure = Failure(
            error_class=error.error_class,
            message=fleet.redact(_with_hint(error))[:_MESSAGE_MAX],
            permanent=error.retry is RetryClass.PERMANENT,
            not_before_in_s=wait_s,
            code=error.code,
            longest_statement_s=attempt.busy_s(),
        )
        try:
            fleet.patience.call(
                "fail the chunk",
                lambda: fleet.store.fail(claim.task_id, claim.fence, failure),
            )
            reach(KillPoint.CHUNK_FAILED)
            if not failure.permanent:
                self._retries.rest_later(plan, 0.0, attempt.read_bytes)
        except LeaseLost as lost:
            said = lost.message
            if isinstance(error, DestinationError):
                said = f"committed, but not published yet: {error.message}"
            else:
                self._pay_for_reading(attempt)
            self._emit(attempt, EventName.LEASE_LOST, said)

    @property
    def _ceiling_bytes(self) -> int:
        """Of a worker that compares above what one that delivers needs: as above it, each chunk of
        a comparison would be read by a new process."""
        beside = COMPARING_BYTES if self._compared else 0
        return self._fleet.settings.worker_memory_bytes + beside

    def _used_bytes(self) -> int:
        """What the process holds in memory. Near the ceiling the heap's gaps are given back first:
        those of one page or chunk would add to the peak of the next."""
        self._looked_at_s = self._fleet.clock.monotonic_s()
        used_bytes = int(self._process.memory_info().rss)
        if used_bytes > _TRIMMED_FROM * self._ceiling_bytes:
            trim_heap()
            used_bytes = int(self._process.memory_info().rss)
        return used_bytes

    def _over_ceiling(self) -> bool:
        """Judged behind the last chunk of those that were in hand."""
        if not self._worked:
            return False
        self._worked = False
        rss_bytes = self._used_bytes()
        over = rss_bytes > self._ceiling_bytes
        if over:
            self._fleet.tell(
                EventName.WORKER_RECYCLED,
                f"worker {self._fleet.identity.name} uses {rss_bytes // 2**20} MB and starts anew",
                rss_bytes=rss_bytes,
            )
        return over


def _unexpected(error: Exception) -> RivetFleetError:
    where = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" ({Path(where[0].filename).name}, {where[0].name})" if where else ""
    return RivetFleetError(
        f"unexpected {type(error).__name__}{place}",
        unmasked=f"unexpected {type(error).__name__}{place}: {error}",
        hint="this is a bug of rivet-fleet: the worker's log has the steps to it, and with "
        "`errors: {row_values: shown}` what was said",
        retry=RetryClass.TRANSIENT,
    )


def _with_hint(error: RivetFleetError) -> str:
    return f"{error.message} — {error.hint}" if error.hint else error.message
