"""Keeping a lease alive from its own thread, with its own connection (F6)."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import structlog

from rivet_fleet.contracts.clock import Clock
from rivet_fleet.contracts.events import Emit, Event, EventName
from rivet_fleet.contracts.keys import TaskId
from rivet_fleet.contracts.state import Claim, WorkerIdentity, heartbeat_interval_s, trusted_until_s
from rivet_fleet.errors import ExitCode, LeaseLost, StateError, StateRefused
from rivet_fleet.persistence.store import Store

_FOR_GOOD = ("RIVET_STATE_NOT_OURS", "RIVET_STATE_SEVERAL_HOSTS", "RIVET_STATE_MOVED")
"""Refusals after which this process's next step must not go by the state, either. Others may pass:
a role's connections are all taken, a schema is being changed."""
_RETRY_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatLimits:
    """``hang_timeout_s``: a chunk without any progress for this long ends the process.
    ``parent_pid``: whose child we must be; None for a worker on its own (a pod).
    ``orphan_grace_s``: how long an orphan may take to drain before it ends itself."""

    lease_ttl_s: float
    hang_timeout_s: float
    parent_pid: int | None = None
    orphan_grace_s: float = 30.0


@dataclass(slots=True)
class _Lease:
    """One claim that is being worked on. Times are monotonic."""

    claim: Claim
    trusted_until_s: float
    progress_at_s: float
    lost: bool = False


class Heartbeat:
    """Renews the claims that are being worked on, and judges nothing else."""

    def __init__(
        self,
        open_store: Callable[[], Store],
        worker: WorkerIdentity,
        limits: HeartbeatLimits,
        *,
        clock: Clock,
        emit: Emit,
        on_orphaned: Callable[[], None] = lambda: None,
        # Nothing but this ends a main thread that hangs; what it held, leases and fences cover.
        end_process: Callable[[int], None] = os._exit,
    ) -> None:
        """``open_store`` is called once, and ``on_orphaned`` may be called several times, from
        the heartbeat's own thread."""
        self._open_store = open_store
        self._worker = worker
        self._limits = limits
        self._clock = clock
        self._emit = emit
        self._on_orphaned = on_orphaned
        self._end_process = end_process
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._leases: dict[tuple[TaskId, int], _Lease] = {}
        self._refused: StateRefused | None = None
        self._orphaned_at_s: float | None = None
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin beating. Also the worker's own row is kept fresh while it is idle."""
        self._thread.start()

    def close(self) -> None:
        """Stop beating; returns when the thread is gone or five seconds have passed."""
        self._closed = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def watch(self, claim: Claim, *, claimed_at_s: float) -> None:
        """Renew this claim from now on. ``claimed_at_s``: monotonic, when claiming was *sent*."""
        trusted_s = trusted_until_s(claimed_at_s, self._limits.lease_ttl_s)
        with self._lock:
            for other in self._leases.values():
                # Claimed a second time, by this very process: the first claim of it is lost.
                other.lost = other.lost or other.claim.task_id == claim.task_id
            self._leases[_key(claim)] = _Lease(claim, trusted_s, self._clock.monotonic_s())

    def unwatch(self, claim: Claim) -> None:
        """The chunk is over, one way or another."""
        with self._lock:
            self._leases.pop(_key(claim), None)

    def progressed(self, claim: Claim) -> None:
        """The chunk made progress: it is not hanging."""
        with self._lock:
            lease = self._leases.get(_key(claim))
            if lease is not None:
                lease.progress_at_s = self._clock.monotonic_s()

    def check(self, claim: Claim) -> None:
        """Raise LeaseLost when a renewal matched no row (F1), and StateRefused when the state let
        itself not be used: it would refuse this process's next step, too."""
        with self._lock:
            lease = self._leases.get(_key(claim))
        if self._refused is not None:
            raise self._refused
        if lease is not None and lease.lost:
            raise LeaseLost(
                f"chunk {claim.chunk_index} of {claim.export_name} has another owner now",
                hint="nothing to do: what was read is discarded, the new owner delivers it",
            )

    def renewed(self, claim: Claim, sent_at_s: float) -> None:
        """A renewal succeeded: believe again, from the moment it was sent."""
        with self._lock:
            lease = self._leases.get(_key(claim))
            if lease is not None:
                lease.trusted_until_s = trusted_until_s(sent_at_s, self._limits.lease_ttl_s)

    def trusted(self, claim: Claim) -> bool:
        """False when the lease may have run out: do not waste work before the next renewal."""
        with self._lock:
            lease = self._leases.get(_key(claim))
        return lease is not None and self._clock.monotonic_s() < lease.trusted_until_s

    def _run(self) -> None:
        store: Store | None = None
        interval_s = heartbeat_interval_s(self._limits.lease_ttl_s)
        wait_s = 0.0
        while not self._wake.wait(wait_s) and not self._closed:
            wait_s = interval_s
            # Before the state is asked, which may take its time: it must not keep a process that
            # hangs, or has no parent, alive.
            self._watch_parent()
            self._watch_progress()
            try:
                store = store or self._open_store()
                self._beat(store)
            except StateError as error:
                if isinstance(error, StateRefused) and error.code in _FOR_GOOD:
                    self._refused = error
                # What failed is made up for at once, not an interval later: the lease goes on
                # running.
                wait_s = min(_RETRY_S, interval_s)
                self._emit(
                    Event(
                        name=EventName.STATE_RETRIED,
                        worker_id=self._worker.worker_id,
                        message=f"heartbeat: {error.message}",
                    )
                )
            except Exception as defect:
                # The outermost loop of a thread that nothing would replace: without it a chunk
                # that hangs, and an orphan, would not end. What was said may hold a value.
                wait_s = min(_RETRY_S, interval_s)
                structlog.get_logger("rivet_fleet").error(
                    "unexpected error in a heartbeat",
                    kind=type(defect).__name__,
                    steps="".join(traceback.format_tb(defect.__traceback__)),
                )
        if store is not None:
            store.close()

    def _beat(self, store: Store) -> None:
        with self._lock:
            # Of one task never two: who is told that it is lost must know which claim of it.
            named = [key for key, lease in self._leases.items() if not lease.lost]
        sent_at_s = self._clock.monotonic_s()
        rss_bytes = int(psutil.Process().memory_info().rss)
        lost = store.renew(self._worker, named, self._limits.lease_ttl_s, rss_bytes)
        trusted_s = trusted_until_s(sent_at_s, self._limits.lease_ttl_s)
        with self._lock:
            for key in named:
                lease = self._leases.get(key)  # of a chunk that is over by now it says nothing
                if lease is not None and key[0] in lost:
                    lease.lost = True
                elif lease is not None:
                    lease.trusted_until_s = trusted_s

    def _watch_progress(self) -> None:
        """A chunk that hangs costs one attempt: this process ends, its supervisor sees it."""
        with self._lock:
            since_s = [lease.progress_at_s for lease in self._leases.values()]
        if since_s and self._clock.monotonic_s() - min(since_s) > self._limits.hang_timeout_s:
            self._end_process(int(ExitCode.HUNG))

    def _watch_parent(self) -> None:
        """An orphan drains (the kernel's signal may be missing); one that cannot is ended."""
        parent = self._limits.parent_pid
        if parent is None or os.getppid() == parent:
            return
        self._on_orphaned()
        now_s = self._clock.monotonic_s()
        self._orphaned_at_s = self._orphaned_at_s or now_s
        if now_s - self._orphaned_at_s > self._limits.orphan_grace_s:
            self._end_process(int(ExitCode.STOPPED))


def _key(claim: Claim) -> tuple[TaskId, int]:
    return claim.task_id, claim.fence
