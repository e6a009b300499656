"""One claim's try at a chunk: what its worker knows of it, how its reading waits, and the threads
that deliver it while the next one is read (ADR 0035).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.keys import TaskId
from rivet_fleet.contracts.killpoints import KillPoint, reach
from rivet_fleet.contracts.manifest import StagedPart
from rivet_fleet.contracts.plan import ExportPlan
from rivet_fleet.contracts.state import Claim
from rivet_fleet.coordination.commit import (
    Published,
    commit_chunk,
    deliver_chunk,
    deliver_result,
    publish_own,
)
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.coordination.heartbeat import Heartbeat
from rivet_fleet.coordination.protect import ChunkGuard, Retries
from rivet_fleet.errors import RivetFleetError, StopRequested
from rivet_fleet.execution.encoder import EncoderThread
from rivet_fleet.execution.extract import ExtractResult, ReadChunk
from rivet_fleet.execution.servo import Allowance

if TYPE_CHECKING:
    from rivet_fleet.contracts.reconcile import RangeResult

_WAIT_S = 0.5
"""How often one who waits shows that it does not hang."""


@dataclass(slots=True)
class Attempt:
    """From its claim until the chunk is somebody else's business again."""

    claim: Claim
    plan: ExportPlan | None = None
    """None before it could be read."""
    guard: ChunkGuard | None = None
    """Of the source, while it is read."""
    chunk: ReadChunk | None = None
    """Once all of it is read."""
    compared: RangeResult | None = None
    """What it came to, of a chunk that is compared instead."""
    read_bytes: int = 0
    """Received, and not paid for by a try."""
    busy_s: Callable[[], float | None] = lambda: None
    """How long the source was busy with one statement at most."""

    @property
    def alone(self) -> bool:
        """Whether it shares its process with no other chunk: what ends the process is charged to
        both, and a chunk that kills whoever reads it must not take its neighbour along (ADR 0035).
        """
        # One that is compared looks into the destination while it reads, and delivers nothing.
        compares = self.plan is not None and self.plan.reconcile is not None
        return compares or self.claim.attempt > 1 or self.claim.attempts_max == 1

    @property
    def reading(self) -> bool:
        """Whether the source is not done with it."""
        return self.chunk is None and self.compared is None

    @property
    def key(self) -> tuple[TaskId, int]:
        """Task and fence: no other attempt of any process has them."""
        return self.claim.task_id, self.claim.fence

    def was_read(self, chunk: ReadChunk) -> None:
        """The source is done with it."""
        longest_s = chunk.result.longest_statement_s
        self.chunk, self.busy_s = chunk, lambda: longest_s

    def spool_path(self, spool: Path, number: int) -> Path:
        """In a worker's own folder, where two attempts lie beside each other: they never share a
        file. No text of the state is in its name: an id could lead out of the folder."""
        return spool / f"{self._prefix}p{number:03d}.part"

    def clean(self, spool: Path) -> None:
        """However it ended: what was delivered has been moved or uploaded, and no later attempt
        goes on with another one's bytes."""
        if self.chunk is not None:
            self.chunk.abandon()
        for path in spool.glob(f"{self._prefix}*"):
            path.unlink(missing_ok=True)

    @property
    def _prefix(self) -> str:
        return f"t{int(self.claim.task_id)}-f{int(self.claim.fence)}-"

    def event(self, fleet: Fleet, name: EventName, message: str, **data: object) -> Event:
        """Something that happened to it."""
        claim = self.claim
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


@dataclass(slots=True)
class Pacer:
    """How the extract loop waits and tells: it must never outwait a stop or a lost lease."""

    fleet: Fleet
    heartbeat: Heartbeat
    attempt: Attempt
    plan: ExportPlan
    retries: Retries
    beside: Callable[[], None]
    """Looks after what is delivered meanwhile."""
    paid_bytes: int = 0
    """Of what the chunk's reader lost, as far as tries have paid for it."""

    def allowance(self) -> Allowance:
        """What the source's protection leaves to the next page, once it may be read."""
        guard = self.attempt.guard
        return guard.before_page() if guard else Allowance()

    def wait(self, seconds: float) -> None:
        """Sleep; progress of a kind. Raises StopRequested or LeaseLost."""
        claim, left_s = self.attempt.claim, seconds
        while True:
            self.heartbeat.progressed(claim)
            if self.fleet.stop.wait(min(left_s, _WAIT_S)):
                raise StopRequested("stopped while waiting for the source")
            self.heartbeat.check(claim)
            self.beside()
            left_s -= _WAIT_S
            if left_s <= 0:
                break
        self.heartbeat.progressed(claim)

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
        self.fleet.emit(self.attempt.event(self.fleet, name, message, **data))


@dataclass(slots=True)
class _Beside:
    """A chunk on the other threads."""

    attempt: Attempt
    committed: Future[None] = field(default_factory=Future)
    shown: Future[bool] | None = None
    """Once it is committed."""

    @property
    def ended(self) -> bool:
        return self.committed.done() and (self.shown is None or self.shown.done())


class Delivery:
    """Delivers with two threads of its own: while one part is published the next one is staged. How
    a chunk ended is for the main thread to judge: it alone holds the budget of retries, the session
    with the source and the patience with a full destination."""

    def __init__(self, fleet: Fleet, heartbeat: Heartbeat) -> None:
        self._fleet = fleet
        self._heartbeat = heartbeat
        self.encoder = EncoderThread()
        """Of all chunks, one after the other."""
        self._threads: tuple[ThreadPoolExecutor, ...] = ()
        self._beside: list[_Beside] = []
        """In their order; of all but the last one the commit has ended."""

    def here(self, attempt: Attempt) -> bool:
        """Deliver a chunk that was read, on this thread. False: its parts were lost on the way, and
        it is read again. Raises what ``deliver_chunk`` does, what encoding did, and LeaseLost."""
        fleet, claim = self._fleet, attempt.claim
        if attempt.compared is not None:
            self._heartbeat.progressed(claim)
            deliver_result(fleet, claim, attempt.compared, attempt.busy_s())
            return True
        return deliver_chunk(fleet, claim, *self._encoded(attempt)) is not Published.REOPENED

    def begin(self, attempt: Attempt) -> None:
        """As ``here``, on the other threads, where no commit is under way. ``take`` follows."""
        assert all(one.committed.done() for one in self._beside), "one at a time"
        if not self._threads:
            # One each: what is staged and not committed has a lease, what is committed has none.
            names = ("delivery", "publishing")
            self._threads = tuple(ThreadPoolExecutor(1, thread_name_prefix=n) for n in names)
        former = self._beside[-1].shown if self._beside else None
        one = _Beside(attempt)
        one.committed = self._threads[0].submit(self._aside, one, former)
        self._beside.append(one)
        reach(KillPoint.CHUNK_HANDED_OVER)

    def holds(self, attempt: Attempt) -> bool:
        """Whether it is being delivered on the other threads, or was and nobody took it."""
        return any(one.attempt is attempt for one in self._beside)

    @property
    def ended(self) -> Attempt | None:
        """One to ``take`` at once."""
        return next((one.attempt for one in self._beside if one.ended), None)

    def take(self, attempt: Attempt) -> bool:
        """How it ended, once it has. Raises as ``here`` does."""
        (taken,) = (one for one in self._beside if one.attempt is attempt)
        self._beside.remove(taken)
        taken.committed.result()
        assert taken.shown is not None, "it is committed"
        return taken.shown.result()

    def wait_turn(self, waiting: Attempt) -> None:
        """Until ``waiting`` may ``begin``: it is no attempt that hangs meanwhile."""
        for one in self._beside:
            self._until(one.committed, waiting)

    def wait(self, waiting: Attempt | None = None) -> None:
        """Until all has ended."""
        for one in self._beside:
            self._until(one.committed, waiting)
            if one.shown is not None:
                self._until(one.shown, waiting)

    def close(self) -> None:
        """End the threads, when they have ended what they do."""
        threads, self._threads = self._threads, ()
        for thread in threads:
            thread.shutdown()
        self.encoder.close()

    def _aside(self, one: _Beside, former: Future[bool] | None) -> None:
        staged = commit_chunk(self._fleet, one.attempt.claim, *self._encoded(one.attempt))
        if former is not None:
            # Else a store that shows slowly would have more and more to show.
            self._until(former, one.attempt)
        one.shown = self._threads[1].submit(self._publish, one.attempt, staged)

    def _encoded(self, attempt: Attempt) -> tuple[ExportPlan, ExtractResult]:
        assert attempt.plan is not None and attempt.chunk is not None, "it was read"
        self._heartbeat.progressed(attempt.claim)
        result = attempt.chunk.finish()
        # A courtesy, the commit decides (F2): a lost lease found here spares an upload that nobody
        # would publish.
        self._heartbeat.check(attempt.claim)
        return attempt.plan, result

    def _publish(self, attempt: Attempt, staged: Sequence[StagedPart]) -> bool:
        # No lease of it is renewed any more, but it may hang still.
        self._heartbeat.progressed(attempt.claim)
        return publish_own(self._fleet, attempt.claim, staged) is not Published.REOPENED

    def _until(self, future: Future[Any], waiting: Attempt | None) -> None:
        while not future.done():
            if waiting is not None:
                self._heartbeat.progressed(waiting.claim)
            wait([future], timeout=_WAIT_S)
