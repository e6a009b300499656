"""The coordinator: submit, supervise, tend, show, and say how it ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rivet_fleet.contracts.clock import wait_readable
from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.state import CampaignStatus, WorkerView
from rivet_fleet.coordination.fleet import (
    COORDINATOR,
    Fleet,
    install,
    process_alive,
    seen_workers,
)
from rivet_fleet.coordination.governor import Governor
from rivet_fleet.coordination.journal import Follower
from rivet_fleet.coordination.supervisor import (
    Silences,
    Supervisor,
    WorkerCommand,
    WorkerEnd,
    WorkerSource,
)
from rivet_fleet.coordination.tend import chosen_over, reap_ended, tend, verdict
from rivet_fleet.errors import ExitCode, StateRefused, StateUnavailable
from rivet_fleet.observability.progress import ProgressView, Snapshot, snapshot

_TICK_S = 0.1
_TEND_S = 1.0
_SHOW_S = 0.5
_SHOWN_SHARE = 0.05
_SHOWN_WITHIN_S = 3.0
# Workers have their grace up to a page's end; this is for what comes behind the last page: its
# encoding, the commit, the publication.
_DRAIN_MARGIN_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorOptions:
    """``workers``: processes on this host, from the ``nursery`` where there is one.
    ``join``: another coordinator may be at work. ``exports``: work on these alone, and leave when
    nothing more happens to them by itself; all without a name."""

    workers: int
    command: WorkerCommand
    join: bool = False
    nursery: WorkerSource | None = None
    exports: tuple[str, ...] = ()


class Coordinator:
    """One process that makes a campaign go on. Its death stops nothing but its own workers."""

    def __init__(
        self,
        fleet: Fleet,
        campaign_id: CampaignId,
        options: CoordinatorOptions,
        progress: ProgressView,
        governor: Governor | None = None,
    ) -> None:
        """``progress`` is told everything and decides nothing."""
        self._governor = governor
        self.halted: str | None = None
        """Why a governor stopped the campaign."""
        self._fleet = fleet
        self._campaign_id = campaign_id
        self._options = options
        self._progress = progress
        self._supervisor = Supervisor(
            options.command,
            workers=options.workers,
            clock=fleet.clock,
            on_end=self._on_end,
            nursery=options.nursery,
        )
        self._silences = Silences(lease_ttl_s=fleet.settings.lease_ttl_s)
        self._snapshot: Snapshot | None = None
        self._follower = Follower(fleet.store, campaign_id)
        self._due_s: dict[Callable[[], None], float] = {}
        self._status = CampaignStatus.ACTIVE
        self._over = False
        self._ended_roughly = False
        self._last_log_tail = ""

    def run(self) -> ExitCode:
        """Until the campaign is over, or until told to stop. Raises StateRefused for a second
        coordinator, StateUnavailable when the state database stays away for too long."""
        fleet = self._fleet
        # Asked before it is said: two that begin in one moment may both pass. It spares operators a
        # mistake; two coordinators do no harm (F8).
        self._refuse_second()
        self._heartbeat()
        install(fleet.stop, on_first=self._supervisor.ask_to_stop, on_second=self._kill_now)
        if self._governor is not None:
            self._governor.start()
        try:
            self._loop()
            self._drain()
        finally:
            # First: whatever else fails here, the terminal has its cursor back.
            self._progress.close()
            # Whatever ended the loop: no worker of ours outlives us (their leases and fences cover
            # it).
            self._supervisor.kill()
            if self._governor is not None:
                self._governor.close()
            self._say_goodbye()
        return self._verdict()

    def _loop(self) -> None:
        fleet = self._fleet
        while not fleet.stop.requested and not self._supervisor.exhausted:
            self._every(_TEND_S, self._tend)
            if self._over:
                return
            # Workers first: what is only shown must keep none from its work.
            self._supervisor.tick()
            self._every(_SHOW_S, self._show)
            self._every(fleet.settings.lease_ttl_s / 4, self._heartbeat)
            # Who has ended may have ended the campaign: then it is looked at without a pause.
            if self._tend in self._due_s:
                fleet.stop.wait(_TICK_S, also=self._supervisor.end_fds)

    def _every(self, interval_s: float, action: Callable[[], None]) -> None:
        clock = self._fleet.clock
        now_s = clock.monotonic_s()
        if now_s < self._due_s.get(action, 0.0):
            return
        self._due_s[action] = now_s + interval_s
        action()
        if action == self._show:
            # Looking at thousands of runs is worth no core; for seconds nobody waits for a number.
            rest_s = min((clock.monotonic_s() - now_s) / _SHOWN_SHARE, _SHOWN_WITHIN_S)
            self._due_s[action] = now_s + max(interval_s, rest_s)

    def _tend(self) -> None:
        idle_s = 0.0 if self._ended_roughly else None
        self._ended_roughly = False
        tended = tend(self._fleet, self._campaign_id, rolling_idle_s=idle_s)
        self._status, halted = tended.status, tended.halted
        self._over = tended.status.over or chosen_over(
            self._fleet, self._campaign_id, self._options.exports
        )
        if halted is not None and self.halted is None:
            self.halted = halted
            self._fleet.stop.request()

    def _on_end(self, end: WorkerEnd) -> None:
        """A process was seen to end: its chunks are free again within a tick, not a lease."""
        reap_ended(self._fleet, end.worker_id, end.reason)
        # A worker leaves when the campaign is over: look at once, not at the next turn.
        self._due_s.pop(self._tend, None)
        if end.graceful and end.status != ExitCode.DATA_INTEGRITY:
            return
        self._last_log_tail = self._fleet.redact(end.log_tail)
        if end.unfit or end.graceful:
            return  # it holds nothing, and has told itself what it lacks
        self._ended_roughly = True
        self._fleet.emit(
            Event(
                name=EventName.WORKER_DIED,
                campaign_id=self._campaign_id,
                worker_id=end.worker_id,
                message=end.reason,
                data={"status": end.status, "pid": end.pid, "name": end.name},
            )
        )

    def _heartbeat(self) -> None:
        """The coordinator is seen in ``status``, and a second one sees it, too."""
        fleet = self._fleet
        try:
            fleet.store.renew(fleet.identity, [], fleet.settings.lease_ttl_s, 0)
        except StateUnavailable as error:
            fleet.tell(EventName.STATE_RETRIED, f"heartbeat: {error.message}")
            # Where nobody can write but everybody read, a worker's silence says nothing.
            self._silences.blind()

    def _show(self) -> None:
        """Everything shown comes from the state database: it is true for the whole fleet."""
        fleet, campaign_id = self._fleet, self._campaign_id
        try:
            entries = self._follower.look(fleet.clock.monotonic_s(), last=fleet.stop.requested)
            runs = fleet.store.runs(campaign_id)
            workers = seen_workers(fleet)
            now_s = fleet.store.now_s()
        except StateUnavailable as error:
            fleet.tell(EventName.STATE_RETRIED, f"progress: {error.message}")
            self._silences.blind()
            return
        self._end_silent(workers)
        for entry in entries:
            self._progress.tell(entry)
        at_work = [w for w in workers if w.alive and not w.name.startswith(COORDINATOR)]
        self._snapshot = snapshot(self._snapshot, runs, at_work, now_s, entries=entries)
        self._progress.update(self._snapshot)

    def _end_silent(self, workers: Sequence[WorkerView]) -> None:
        """A worker that is stopped or hangs in the kernel ends neither itself nor its place."""
        beats = {worker.worker_id: worker.heartbeat_at_s for worker in workers}
        now_s = self._fleet.clock.monotonic_s()
        silent = self._silences.look(now_s, self._supervisor.worker_ids, beats)
        for worker_id, silent_s in silent.items():
            self._supervisor.end_silent(worker_id, silent_s)

    def _drain(self) -> None:
        """The campaign is over, or we were told to stop: let the workers leave in good order."""
        grace_s = self._fleet.settings.drain_grace_s + _DRAIN_MARGIN_S

        def pause() -> None:
            wait_readable(self._supervisor.end_fds, _TICK_S)

        self._supervisor.ask_to_stop()
        if self._fleet.stop.requested:
            why = f"the governor stopped it: {self.halted}; " if self.halted else ""
            self._fleet.tell(EventName.CAMPAIGN_STOPPED, f"{why}stopping in good order; resumable")
        self._supervisor.drain(grace_s=grace_s, tick=pause)
        # Once more behind the last worker: what it left committed need not wait for the next start.
        self._tend()
        self._show()

    def _kill_now(self) -> None:
        """The second signal. Called from the handler: signals only, no bookkeeping."""
        self._supervisor.signal(signal.SIGKILL)
        self._progress.abandon()

    def _say_goodbye(self) -> None:
        fleet = self._fleet
        try:
            # As of any process that ended: a run whose end it held is free for the next one at
            # once.
            fleet.store.reap_worker(fleet.identity.worker_id, "coordinator left")
        except StateUnavailable:
            pass  # its row goes stale by itself

    def _refuse_second(self) -> None:
        if self._options.join:
            return
        other = live_coordinator(self._fleet, self._campaign_id)
        if other is not None:
            raise StateRefused(
                f"campaign {self._campaign_id} has a coordinator already: "
                f"pid {other.pid} on {other.host_id}",
                hint="nothing was changed; add workers with `rivet-fleet worker`, or let this "
                "host join with `rivet-fleet resume --join`",
                code="RIVET_CAMPAIGN_COORDINATED",
            )

    def _verdict(self) -> ExitCode:
        if self._over:
            chosen = self._options.exports
            return verdict(self._fleet, self._campaign_id, self._status, chosen)
        if self.halted is not None:
            return ExitCode.HALTED
        if self._fleet.stop.requested:
            return ExitCode.STOPPED
        return self._supervisor.verdict

    @property
    def worker_failure(self) -> str:
        """The last words of a worker that could not start, redacted; empty when all could."""
        return self._last_log_tail


def live_coordinator(fleet: Fleet, campaign_id: CampaignId) -> WorkerView | None:
    """Another process that coordinates the campaign now; None when there is none."""
    for other in fleet.store.workers(alive_within_s=fleet.settings.lease_ttl_s):
        mine = other.pid == os.getpid() and other.host_id == fleet.identity.host_id
        if other.name == coordinator_name(campaign_id) and not mine and _alive(fleet, other):
            return other
    return None


def _alive(fleet: Fleet, worker: WorkerView) -> bool:
    """True when its process lives: of this host the process itself tells, else its heartbeat."""
    if worker.host_id != fleet.identity.host_id:
        return worker.alive
    return process_alive(worker.pid, worker.pid_started_at_s)


def coordinator_name(campaign_id: CampaignId) -> str:
    """The name a coordinator's own row bears: one per campaign."""
    return f"{COORDINATOR}:{campaign_id}"
