"""One worker process: claim, extract, deliver, again. Its loop decides nothing by itself."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import structlog

from rivet_fleet.contracts.clock import backoff_s
from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.keys import CampaignId, ChunkRange, RunId
from rivet_fleet.contracts.killpoints import KillPoint, reach
from rivet_fleet.contracts.plan import Access, ExportPlan, ReadPlan
from rivet_fleet.contracts.state import CampaignStatus, Claim, Failure, RunView
from rivet_fleet.coordination.commit import Published, deliver_chunk, deliver_result
from rivet_fleet.coordination.compare import Approach, compare_chunk
from rivet_fleet.coordination.finalize import look_before
from rivet_fleet.coordination.fitness import (
    asked_of_source,
    asks_source,
    refuse_before_claim,
    refuse_claimed_destination,
    refuse_state,
    tell_unfit,
    unfit_of,
    with_others,
)
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.coordination.heartbeat import Heartbeat
from rivet_fleet.coordination.protect import ChunkGuard, Protection, Retries, Room
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
    ExtractResult,
    PageProgress,
    extract_chunk,
    open_patiently,
    page_servo,
)
from rivet_fleet.execution.proof import PageProofs
from rivet_fleet.execution.registry import open_format
from rivet_fleet.execution.servo import Allowance, PageServo

if TYPE_CHECKING:
    from rivet_fleet.contracts.basis import BasisDifference
    from rivet_fleet.contracts.reconcile import RangeResult
    from rivet_fleet.execution.source import ChunkReader, Source

_MESSAGE_MAX = 2000
_OUTAGE_BACKOFF_S = 1.0
_WAIT_S = 0.5
"""How often one who waits for the source shows that it does not hang."""
_TRIMMED_FROM = 0.85
"""Share of the memory ceiling from which a worker gives free memory back."""
_LOOKED_EVERY_S = 5.0
"""How often a worker looks at its memory within a chunk: giving back costs page faults."""


@dataclass(slots=True)
class _Pacer:
    """How the extract loop waits and tells: it must never outwait a stop or a lost lease."""

    fleet: Fleet
    heartbeat: Heartbeat
    claim: Claim
    plan: ExportPlan
    retries: Retries
    guard: ChunkGuard | None = None
    paid_bytes: int = 0
    """Of what the chunk's reader lost, as far as tries have paid for it."""

    def allowance(self) -> Allowance:
        """What the source's protection leaves to the next page, once it may be read."""
        return self.guard.before_page() if self.guard else Allowance()

    def wait(self, seconds: float) -> None:
        """Sleep; progress of a kind. Raises StopRequested or LeaseLost."""
        left_s = seconds
        while True:
            self.heartbeat.progressed()
            if self.fleet.stop.wait(min(left_s, _WAIT_S)):
                raise StopRequested("stopped while waiting for the source")
            self.heartbeat.check()
            left_s -= _WAIT_S
            if left_s <= 0:
                break
        self.heartbeat.progressed()

    def retry_in_s(self, wait_s: float, lost_bytes: int, answer_bytes: int = 0) -> float:
        """When the fleet's budget lets the source be tried again."""
        self.paid_bytes += lost_bytes
        return self.retries.wait_s(self.plan, wait_s, lost_bytes + answer_bytes)

    def retried(self, error: RivetFleetError, attempt: int, wait_s: float) -> None:
        """The source asked for patience. Raises ``error`` when it has had enough."""
        self.retries.give_up_when_hanging(error)
        self.tell(
            EventName.SOURCE_RETRIED,
            self.fleet.redact(error.message),
            attempt=attempt,
            wait_s=round(wait_s, 3),
            error_class=error.error_class,
        )

    def tell(self, name: EventName, message: str, **data: object) -> None:
        """An event of the chunk."""
        self.fleet.emit(_chunk_event(self.fleet, self.claim, name, message, **data))


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
        self._claimed: Claim | None = None
        self._plans: tuple[ExportPlan, ...] = ()
        self._protection = Protection(fleet)
        self._guard: ChunkGuard | None = None
        self._looked_at: set[RunId] = set()
        self._probed: set[Access] = set()
        """Destinations that this process has written to."""
        self._servos: dict[tuple[RunId, bool], PageServo] = {}
        self._changes_told: set[tuple[RunId, BasisDifference]] = set()
        self._proofs: dict[RunId, PageProofs] = {}
        self._retries = Retries(fleet, campaign_id)
        self._room = Room(fleet, campaign_id, spool)
        self._read_bytes = 0
        """Received of the chunk, and not paid for by a try."""
        self._busy_s: Callable[[], float | None] = lambda: None
        """How long the source was busy with one statement of the chunk at most."""
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
            # Its successor claims at once, and asks no budget.
            self._retries.rest()
            raise found from None
        except StateRefused as error:
            other = refuse_state(error)
            raise tell_unfit(fleet, other) if other else error from None
        except RivetFleetError:
            raise
        except Exception as error:
            # The outermost loop of a worker: a bug costs this attempt and this process, never
            # the campaign. The supervisor starts a fresh process.
            unexpected = _unexpected(error)
            log = structlog.get_logger("rivet_fleet")
            if fleet.settings.row_values_shown:
                unexpected.message = unexpected.unmasked or unexpected.message
                log.exception("unexpected error in a worker")
            else:
                # What a library says of a value that it could not take holds the value.
                steps = "".join(traceback.format_tb(error.__traceback__))
                log.error("unexpected error in a worker", kind=type(error).__name__, steps=steps)
            if self._claimed is not None:
                self._fail(self._claimed, unexpected)
            else:
                self._retries.rest_unforeseen(self._plans)
            # As above: what comes unforeseen comes by no other budget than what is foreseen.
            self._retries.rest()
            return ExitCode.RETRYABLE

    def _loop(self) -> ExitCode:
        """An empty claim is not the end of work (F5)."""
        fleet = self._fleet
        if self._exports:
            runs = fleet.patience.call("read the runs", self._runs)
            refuse_unplanned(self._campaign_id, runs, self._exports)
            self._only = tuple(run.run_id for run in runs_named(runs, self._exports))
        while not fleet.stop.requested:
            if self._room.spool_waited_for():
                continue
            # Before asking: the lease runs from when the server gave it, and an answer that was
            # long on its way must not be believed in for longer (F3).
            claimed_at_s = fleet.clock.monotonic_s()
            claim = fleet.patience.call("claim a chunk", self._claim)
            if claim is not None:
                self._claimed = claim
                self._heartbeat.watch(claim, claimed_at_s=claimed_at_s)
                reach(KillPoint.CHUNK_CLAIMED)
                self._work(claim)
                self._claimed = None
                self._retries.rest()
                # Here, where no chunk is in hand: a wait keeps nothing from the others.
                self._room.wait()
                if self._over_ceiling():
                    return ExitCode.RECYCLE
                continue
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
            fleet.stop.wait(fleet.settings.poll_interval_s)
        return ExitCode.STOPPED

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

    def _claim(self) -> Claim | None:
        fleet = self._fleet
        return fleet.store.claim(
            *(self._campaign_id, fleet.identity, fleet.settings.lease_ttl_s), only=self._only
        )

    def _work(self, claim: Claim) -> None:
        """One attempt at one chunk. However it ends, the chunk is somebody's again."""
        fleet = self._fleet
        self._read_bytes, self._busy_s = 0, lambda: None
        self._retries.moved()
        plan: ExportPlan | None = None
        try:
            plan = fleet.planned_run(claim.run_id).plan
            published = self._attempt(claim, plan)
            self._outages = 0
            self._room.found()
            self._retries.answered(plan)
            if published is Published.REOPENED:
                self._pay_for_reading(claim)
        except LeaseLost as lost:
            fleet.emit(_chunk_event(fleet, claim, EventName.LEASE_LOST, lost.message))
            self._pay_for_reading(claim)
        except StopRequested:
            self._give_back(claim, plan)
            if not fleet.stop.requested:
                # A pause of the source: this process goes on, and may meet the next one soon.
                self._pay_for_reading(claim)
        except StateError:
            # Without the state nothing can be failed or given back: who sees this process end, or
            # its lease, takes the chunk back, and that costs an attempt.
            raise
        except StateTampered:
            # Somebody else's edit, and no chunk's: it goes back, and nobody acts by such a state.
            self._give_back(claim, plan)
            raise
        except (RivetFleetError, ImportError) as error:
            self._fail_or_give_back(claim, error)
        finally:
            self._guard = None
            self._heartbeat.unwatch()
            self._clean_spool()

    def _give_back(self, claim: Claim, plan: ExportPlan | None) -> None:
        """``plan``: None when it could not be read: asked again it would say the same, and the
        chunk would stay with us until its lease ends."""
        if plan is not None:
            self._leave_source(plan)
        self._release(claim)

    def _attempt(self, claim: Claim, plan: ExportPlan) -> Published:
        """Read the chunk and deliver what came of it."""
        fleet = self._fleet
        if plan.reconcile is not None:
            found = self._compare(claim, plan)
            self._leave_source(plan)
            self._heartbeat.check()
            return deliver_result(fleet, claim, found, self._busy_s())
        result = self._extract(claim, plan)
        self._leave_source(plan)
        self._tell_changes(claim, result.told)
        self._heartbeat.check()
        # The look above is a courtesy, the commit decides (F2): a lost lease found here spares
        # an upload that nobody would publish.
        return deliver_chunk(fleet, claim, plan, result)

    def _approach(self, claim: Claim, plan: ExportPlan) -> tuple[Source, _Pacer, ChunkGuard]:
        """The planned source, alone, and what keeps it from harm by this chunk."""
        fleet = self._fleet
        fleet.drop_sources(but=(plan.read.source,))
        source = fleet.source(plan.read.source, plan.read.source_identity)
        self._busy_s = lambda: source.longest_statement_s
        pacer = _Pacer(fleet, self._heartbeat, claim, plan, self._retries)
        self._guard = pacer.guard = guard = self._protection.guard(claim, pacer.wait, pacer.tell)
        return source, pacer, guard

    def _compare(self, claim: Claim, plan: ExportPlan) -> RangeResult:
        source, pacer, guard = self._approach(claim, plan)

        @contextmanager
        def opened(read: ReadPlan, chunk_range: ChunkRange) -> Iterator[ChunkReader]:
            with self._reader(source, pacer, read, chunk_range) as reader:
                guard.pausable = reader.resumable
                yield reader

        return compare_chunk(
            self._fleet,
            claim,
            plan,
            Approach(
                source=source,
                opened=opened,
                pacer=pacer,
                servo=lambda reader: self._servo(claim, plan, reader),
                on_page=lambda progress: self._on_page(claim, progress, guard),
                breathe=lambda: self._breathe(claim),
            ),
        )

    def _servo(self, claim: Claim, plan: ExportPlan, reader: ChunkReader) -> PageServo:
        """Chunks of an export may be read in different ways: those of NULLs are one statement."""
        return self._servos.setdefault(
            (claim.run_id, reader.piecewise), page_servo(reader, plan.tuning)
        )

    @contextmanager
    def _reader(
        self, source: Source, pacer: _Pacer, read: ReadPlan, chunk_range: ChunkRange
    ) -> Iterator[ChunkReader]:
        """A reader of the chunk, for as long as it is needed."""
        tuning = pacer.plan.tuning
        reader = open_patiently(
            lambda: source.open_chunk(read, chunk_range, tuning), tuning=tuning, pacer=pacer
        )
        try:
            yield reader
        finally:
            self._read_bytes += reader.lost_bytes - pacer.paid_bytes
            reader.close()

    def _extract(self, claim: Claim, plan: ExportPlan) -> ExtractResult:
        fleet = self._fleet
        # Before the source is opened: for a destination that refuses nothing should be read.
        refuse_claimed_destination(fleet, claim.run_id, self._probed)
        source, pacer, guard = self._approach(claim, plan)
        with self._reader(source, pacer, plan.read, claim.chunk_range) as reader:
            if claim.run_id not in self._looked_at:
                self._looked_at.add(claim.run_id)
                if vain := look_before(fleet, claim.run_id, plan.read.source, source):
                    pacer.wait(pacer.retry_in_s(0.0, 0, vain))
            guard.pausable = reader.resumable
            if plan.proof is not None:
                proofs = self._proofs.setdefault(claim.run_id, PageProofs(plan.proof.prove))
                reader.count_pages(proofs, plan.tuning.statement_timeout_s)
            return extract_chunk(
                reader=reader,
                part_format=open_format(plan.format),
                format_plan=plan.format,
                tuning=plan.tuning,
                spool_path=lambda number: self._spool_path(claim, number),
                pacer=pacer,
                on_page=lambda progress: self._on_page(claim, progress, guard),
                unique=plan.quality.unique if plan.quality else (),
                meta=plan.meta,
                servo=self._servo(claim, plan, reader),
            )

    def _tell_changes(self, claim: Claim, told: tuple[BasisDifference, ...]) -> None:
        """What the source has changed since the plan, without harm: each once."""
        name = EventName.SOURCE_CHANGED
        for one in told:
            if (claim.run_id, one) not in self._changes_told:
                self._changes_told.add((claim.run_id, one))
                self._fleet.emit(_chunk_event(self._fleet, claim, name, one.sentence, **one.data))

    def _spool_path(self, claim: Claim, number: int) -> Path:
        """In this process's own folder, where one attempt at one chunk lies at a time. Chunk and
        fence are in the name for who looks: two attempts never share a file. No text of the
        state is: an id could lead out of the folder."""
        return self._spool / f"c{claim.chunk_index:06d}-f{claim.fence}-p{number:03d}.part"

    def _on_page(self, claim: Claim, progress: PageProgress, guard: ChunkGuard) -> None:
        """The page boundary: the only place where a chunk can stop before its end."""
        fleet = self._fleet
        self._retries.moved()
        self._read_bytes = progress.bytes_total
        guard.after_page(progress.page_rows, progress.page_bytes)
        if fleet.clock.monotonic_s() - self._looked_at_s >= _LOOKED_EVERY_S:
            self._used_bytes()
        fleet.emit(
            _chunk_event(
                fleet,
                claim,
                EventName.PAGE_READ,
                "",
                rows=progress.page_rows,
                rows_total=progress.rows_total,
                statement_s=round(progress.statement_s, 4),
            )
        )
        self._breathe(claim)

    def _breathe(self, claim: Claim) -> None:
        """Where a chunk may end: told to stop, or not ours any more."""
        self._heartbeat.progressed()
        self._fleet.stop.check()
        self._heartbeat.check()
        if not self._heartbeat.trusted:
            self._confirm(claim)

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
        self._heartbeat.renewed(sent_at_s)

    def _leave_source(self, plan: ExportPlan) -> None:
        """Where connections are limited, ours is closed before the chunk's slot is given back."""
        if self._guard is not None and self._guard.limits_connections:
            self._fleet.drop_source(plan.read.source)

    def _release(self, claim: Claim, outage: str = "") -> None:
        fleet = self._fleet
        try:
            fleet.patience.call(
                "release the chunk",
                lambda: fleet.store.release(claim.task_id, claim.fence, outage),
            )
            reach(KillPoint.CHUNK_RELEASED)
        except LeaseLost as lost:
            fleet.emit(_chunk_event(fleet, claim, EventName.LEASE_LOST, lost.message))

    def _fail_or_give_back(self, claim: Claim, error: RivetFleetError | ImportError) -> None:
        """A defect of this process costs the chunk nothing and ends the process: WorkerUnfit. An
        outage is nobody's poison: it costs the chunk no attempt, however long the source is away,
        and for as long as there is patience with a destination that is full."""
        fleet = self._fleet
        plan = fleet.planned_run(claim.run_id).plan
        found = unfit_of(error) or asked_of_source(fleet, plan, error)
        flooded_bytes = error.received_bytes if isinstance(error, RivetFleetError) else 0
        self._read_bytes += flooded_bytes
        if found is not None:
            fleet.drop_source(plan.read.source)
            self._release(claim)
            told = with_others(fleet, plan, found)
            self._pay_for_reading(claim)
            raise told
        assert isinstance(error, RivetFleetError)  # every ImportError is a defect of ours
        if isinstance(error, DestinationFull) and self._room.lacks(claim, error):
            self._leave_source(plan)
            self._release(claim)
            self._pay_for_reading(claim)
            return
        if asks_source(error) and error.retry is not RetryClass.PERMANENT:
            self._retries.wait_s(plan, 0.0, 0)  # asking took a connection of its own
        outage = isinstance(error, SourceError) and not error.connected
        if not outage or error.retry is RetryClass.PERMANENT:
            self._outages = 0
            self._fail(claim, error)
            if error.retry is RetryClass.PERMANENT and flooded_bytes:
                # This chunk is not read again; the next one would be answered alike.
                self._retries.rest_later(plan, 0.0, flooded_bytes)
            return
        self._outages += 1
        fleet.drop_source(plan.read.source)
        message = error.message or error.error_class
        self._release(claim, outage=fleet.redact(message)[:_MESSAGE_MAX])
        wait_s = backoff_s(attempt=self._outages, base_s=_OUTAGE_BACKOFF_S)
        self._retries.rest_later(plan, wait_s, self._read_bytes)

    def _pay_for_reading(self, claim: Claim) -> None:
        """What was read of a chunk that this process has no more is read again by somebody: the
        next claim here waits for what that costs. Nothing, where nothing was read."""
        if self._read_bytes:
            plan = self._fleet.planned_run(claim.run_id).plan
            self._retries.rest_later(plan, 0.0, self._read_bytes)

    def _fail(self, claim: Claim, error: RivetFleetError) -> None:
        """Spend the attempt. After a commit the fence guard refuses, and that is right: a
        committed chunk is rolled forward by whoever comes next."""
        fleet = self._fleet
        plan = fleet.planned_run(claim.run_id).plan
        if error.retry is not RetryClass.PERMANENT:
            fleet.drop_source(plan.read.source)
        self._leave_source(plan)
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
            longest_statement_s=self._busy_s(),
        )
        try:
            fleet.patience.call(
                "fail the chunk",
                lambda: fleet.store.fail(claim.task_id, claim.fence, failure),
            )
            reach(KillPoint.CHUNK_FAILED)
            if not failure.permanent:
                self._retries.rest_later(plan, 0.0, self._read_bytes)
        except LeaseLost as lost:
            said = lost.message
            if isinstance(error, DestinationError):
                said = f"committed, but not published yet: {error.message}"
            else:
                self._pay_for_reading(claim)
            fleet.emit(_chunk_event(fleet, claim, EventName.LEASE_LOST, said))

    def _used_bytes(self) -> int:
        """What the process holds in memory. Near the ceiling the heap's gaps are given back first:
        those of one page or chunk would add to the peak of the next."""
        self._looked_at_s = self._fleet.clock.monotonic_s()
        used_bytes = int(self._process.memory_info().rss)
        if used_bytes > _TRIMMED_FROM * self._fleet.settings.worker_memory_bytes:
            trim_heap()
            used_bytes = int(self._process.memory_info().rss)
        return used_bytes

    def _over_ceiling(self) -> bool:
        ceiling_bytes = self._fleet.settings.worker_memory_bytes
        rss_bytes = self._used_bytes()
        over = rss_bytes > ceiling_bytes
        if over:
            self._fleet.tell(
                EventName.WORKER_RECYCLED,
                f"worker {self._fleet.identity.name} uses {rss_bytes // 2**20} MB and starts anew",
                rss_bytes=rss_bytes,
            )
        return over

    def _clean_spool(self) -> None:
        # However it ended: what was delivered has been moved or uploaded, and no later attempt goes
        # on with another one's bytes.
        for path in self._spool.iterdir():
            path.unlink(missing_ok=True)


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


def _chunk_event(
    fleet: Fleet, claim: Claim, name: EventName, message: str, **data: object
) -> Event:
    return Event(
        name=name,
        campaign_id=claim.campaign_id,
        run_id=claim.run_id,
        export_name=claim.export_name,
        chunk_index=claim.chunk_index,
        worker_id=fleet.identity.worker_id,
        message=message,
        data={"fence": claim.fence, "attempt": claim.attempt, **data},
    )
