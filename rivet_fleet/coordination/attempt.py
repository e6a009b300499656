"""One claim's try at a chunk: what its worker knows of it, how its reading waits, and the thread
that delivers it while the next one is read (ADR 0035).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.keys import TaskId
from rivet_fleet.contracts.killpoints import KillPoint, reach
from rivet_fleet.contracts.plan import ExportPlan
from rivet_fleet.contracts.state import Claim
from rivet_fleet.coordination.commit import Published, deliver_chunk, deliver_result
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.coordination.heartbeat import Heartbeat
from rivet_fleet.coordination.protect import ChunkGuard, Retries
from rivet_fleet.errors import RivetFleetError, StopRequested
from rivet_fleet.execution.encoder import EncoderThread
from rivet_fleet.execution.extract import ReadChunk
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


class Delivery:
    """Delivers one chunk at a time, with the threads that takes. How it ended is for the main
    thread to judge: it alone holds the budget of retries, the session with the source and the
    patience with a full destination."""

    def __init__(self, fleet: Fleet, heartbeat: Heartbeat) -> None:
        self._fleet = fleet
        self._heartbeat = heartbeat
        self.encoder = EncoderThread()
        """Of all chunks, one after the other."""
        self._thread: ThreadPoolExecutor | None = None
        self._future: Future[bool] | None = None
        self.attempt: Attempt | None = None
        """What is being delivered on the other thread."""

    def here(self, attempt: Attempt) -> bool:
        """Deliver a chunk that was read, on this thread. False: its parts were lost on the way, and
        it is read again. Raises what ``deliver_chunk`` does, what encoding did, and LeaseLost."""
        fleet, claim, plan, chunk = self._fleet, attempt.claim, attempt.plan, attempt.chunk
        self._heartbeat.progressed(claim)
        if attempt.compared is not None:
            deliver_result(fleet, claim, attempt.compared, attempt.busy_s())
            return True
        assert plan is not None and chunk is not None, "it was read"
        result = chunk.finish()
        # A courtesy, the commit decides (F2): a lost lease found here spares an upload that nobody
        # would publish.
        self._heartbeat.check(claim)
        return deliver_chunk(fleet, claim, plan, result) is not Published.REOPENED

    def begin(self, attempt: Attempt) -> None:
        """As ``here``, on the other thread; nothing is being delivered there. ``take`` follows."""
        assert self.attempt is None, "one at a time"
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="delivery")
        self.attempt = attempt
        self._future = self._thread.submit(self.here, attempt)
        reach(KillPoint.CHUNK_HANDED_OVER)

    @property
    def ended(self) -> bool:
        """Whether there is something to ``take`` at once."""
        return self._future is not None and self._future.done()

    def take(self) -> bool:
        """How it ended, once it has. Raises as ``here`` does."""
        future, self._future, self.attempt = self._future, None, None
        assert future is not None, "something is being delivered"
        return future.result()

    def wait(self, waiting: Attempt | None = None) -> None:
        """Until it has ended. ``waiting`` is no attempt that hangs meanwhile."""
        while self._future is not None and not self._future.done():
            if waiting is not None:
                self._heartbeat.progressed(waiting.claim)
            wait([self._future], timeout=_WAIT_S)

    def close(self) -> None:
        """End the threads, when they have ended what they do."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown()
        self.encoder.close()
