"""Worker processes of one host: forked by a nursery or executed, watched, rescued, replaced."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rivet_fleet.contracts.clock import Clock
from rivet_fleet.contracts.identity import checked_id
from rivet_fleet.contracts.keys import CampaignId, WorkerId
from rivet_fleet.contracts.places import make_own, stranger_at
from rivet_fleet.coordination.fleet import new_worker_id
from rivet_fleet.errors import ExitCode, StateRefused

_CRASH_WINDOW_S = 30.0
_UNFIT_WINDOW_S = 3600.0
_START_FAILURES_MAX = 3
_START_FAILURE_S = 5.0
_UNFIT_MAX = 3
_UNFIT_PAUSE_S = 0.5
_REFUSALS = (ExitCode.UNFIT, ExitCode.DATA_INTEGRITY)
"""A worker that ends so while its campaign is not over would end so again."""
_BACKOFF_MAX_S = 5.0
SILENT_LEASES = 4
"""A worker that has not been heard of for so many leases is ended: its chunk is somebody else's by
then, and its place stays empty for as long as it is there."""
SILENT_MIN_S = 60.0
"""Nor before that: a machine that is busy starts a process late, and beats late."""
_SILENT_GRACE_S = 5.0
# What one look counts as silence at most: a longer gap is this process's own, which was stopped or
# suspended with the machine and could hear nobody.
_GAP_MAX_S = 5.0
_LOG_TAIL_BYTES = 2000
_GRACEFUL = (
    ExitCode.OK,
    ExitCode.DATA_INTEGRITY,
    ExitCode.SCHEMA_DRIFT,
    ExitCode.INCOMPLETE,
    ExitCode.STOPPED,
    ExitCode.RECYCLE,
    ExitCode.HALTED,
)
"""3, 4 and 5 are a worker's verdict on a campaign that is over, not an end of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCommand:
    """How a worker is started: the very command that a pod runs."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    log_folder: Path


def log_folder_of(beside: Path, campaign_id: CampaignId) -> Path:
    """Where the logs of a campaign's workers go; nothing is made. Raises StateRefused where
    somebody else has made it, and StateTampered for an id that leads elsewhere."""
    folder = beside / ".rivet_fleet" / "logs" / checked_id(campaign_id)
    _refuse_others(folder, stranger_at(folder))
    return folder


def _refuse_others(folder: Path, what: str | None) -> None:
    if what is not None:
        raise StateRefused(
            f"the folder for the workers' logs {folder} {what}: whoever made it could read and "
            "replace them",
            hint="no worker was started; keep the configuration in a folder of your own",
            code="RIVET_LOGS_NOT_OURS",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEnd:
    """A worker process that was seen to end."""

    worker_id: WorkerId
    name: str
    pid: int
    status: int
    """As ``Popen.returncode``: negative is the signal that killed it."""
    told_to_stop: bool
    lived_s: float
    log_tail: str
    told: bool = False
    """It had been told to leave."""
    silent_s: float | None = None
    """It was ended because nobody had heard of it for so long."""

    @property
    def reason(self) -> str:
        """One sentence for people and for the chunk it died on."""
        said = f"worker {self.name} (pid {self.pid}) "
        if self.silent_s is not None:
            said += f"had not been heard of for {self.silent_s:.0f} s and "
        if self.status < 0:
            return f"{said}was killed by {_signal_name(-self.status)}"
        return f"{said}ended with exit code {self.status}"

    @property
    def unfit(self) -> bool:
        """It ended because the process itself lacks something; it has told what."""
        return self.status == ExitCode.UNFIT

    @property
    def graceful(self) -> bool:
        """It ended because the work was over, it was told to, or it asked for a fresh process.

        A process that is still starting, or already leaving, has no signal handler: being told
        then ends it by the signal itself.
        """
        if self.told and self.status == -signal.SIGTERM:
            return True
        return self.status in _GRACEFUL


class WorkerProcess(Protocol):
    """A worker's process; ``subprocess.Popen`` is one."""

    @property
    def pid(self) -> int:
        """Its id."""
        ...

    def poll(self) -> int | None:
        """As ``Popen.poll``."""
        ...

    def wait(self) -> int | None:
        """As ``Popen.wait``."""
        ...

    def send_signal(self, number: int, /) -> None:
        """As ``Popen.send_signal``."""
        ...


class WorkerSource(Protocol):
    """Where worker processes come from without being executed (``cli.nursery``)."""

    def hand_over(
        self, arguments: Sequence[str], environment: Mapping[str, str], log_path: Path
    ) -> WorkerProcess | None:
        """A new worker of this command; None when there is none to be had."""
        ...

    def release(self) -> None:
        """Nothing more is asked of it: it may go while others are waited for."""
        ...

    def dismiss(self) -> None:
        """It is not needed any more; the workers stay. More than once is nothing new."""
        ...


class OnEnd(Protocol):
    """What happens when a worker ends: the coordinator takes its chunks back."""

    def __call__(self, end: WorkerEnd) -> None:
        """Called once per ended process, before a new one is started."""
        ...


@dataclass(slots=True, kw_only=True)
class _Slot:
    """One place for a worker process."""

    name: str
    process: WorkerProcess | None = None
    worker_id: WorkerId | None = None
    told: bool = False
    end_fd: int | None = None
    """Can be read when the process has ended; None where the system has no such thing."""
    started_at_s: float = 0.0
    start_after_s: float = 0.0
    crashes: list[float] = field(default_factory=list)
    start_failures: int = 0
    silent_s: float | None = None
    kill_at_s: float | None = None
    """It was asked to end because it is silent."""
    unfit: int = 0
    """Ends in a row because the process would not work."""
    refusal: ExitCode = ExitCode.UNFIT
    """The last of them."""

    @property
    def closed(self) -> bool:
        """True when there is no point in starting another process here."""
        return self.start_failures >= _START_FAILURES_MAX or self.unfit >= _UNFIT_MAX


class Silences:
    """Who has not been heard of, and for how long somebody has listened.

    Only what was listened for counts: neither while the state is away, when nobody could be heard,
    nor while this process itself was stopped.
    """

    def __init__(self, *, lease_ttl_s: float) -> None:
        self._max_s = max(SILENT_LEASES * lease_ttl_s, SILENT_MIN_S)
        self._heard: dict[WorkerId, tuple[float | None, float]] = {}
        self._looked_at_s: float | None = None

    def look(
        self, now_s: float, workers: Sequence[WorkerId], beats: Mapping[str, float]
    ) -> dict[WorkerId, float]:
        """Those of ``workers`` that are silent for too long, with their seconds. ``now_s``: of this
        process's clock; ``beats``: when each was last heard of, by whatever clock; a process that
        has not begun yet has none."""
        gap_s = 0.0 if self._looked_at_s is None else min(now_s - self._looked_at_s, _GAP_MAX_S)
        self._looked_at_s = now_s
        before, self._heard = self._heard, {}
        for worker_id in workers:
            beat = beats.get(worker_id)
            known = before.get(worker_id)
            # Any other beat is a sign of life, also an older one: clocks of states are set back.
            silent_s = known[1] + gap_s if known is not None and known[0] == beat else 0.0
            self._heard[worker_id] = beat, silent_s
        return {
            one: silent_s for one, (_, silent_s) in self._heard.items() if silent_s > self._max_s
        }

    def blind(self) -> None:
        """Nobody could be heard."""
        self._heard.clear()


class Supervisor:
    """Keeps a number of workers running until nobody wants them any more."""

    def __init__(
        self,
        command: WorkerCommand,
        *,
        workers: int,
        clock: Clock,
        on_end: OnEnd,
        nursery: WorkerSource | None = None,
    ) -> None:
        """``workers``: how many processes this host contributes. ``nursery``: ours from now on;
        without it, or where it gives none, the command is executed."""
        self._nursery = nursery
        self._command = command
        self._clock = clock
        self._on_end = on_end
        self._slots = [_Slot(name=f"worker-{n}") for n in range(1, workers + 1)]
        self._hiring = True
        if not workers:
            self._dismiss_nursery()

    @property
    def pids(self) -> list[int]:
        """Of the processes that run now."""
        return [s.process.pid for s in self._slots if s.process is not None]

    @property
    def exhausted(self) -> bool:
        """True when every slot failed to start, or was unfit, over and over: there is no point in
        going on.

        Never without slots: then the workers are somebody else's (pods, other hosts).
        """
        return bool(self._slots) and all(s.process is None and s.closed for s in self._slots)

    @property
    def verdict(self) -> ExitCode:
        """Why it is exhausted: its processes lack something, or what they were to work by is not
        what was sealed; else they could not start."""
        refusals = [s.refusal for s in self._slots if s.unfit >= _UNFIT_MAX]
        return max(refusals, default=ExitCode.GENERIC)

    @property
    def worker_ids(self) -> list[WorkerId]:
        """Of the processes that run now."""
        return [s.worker_id for s in self._slots if s.worker_id is not None]

    @property
    def end_fds(self) -> list[int]:
        """Descriptors that can be read as soon as a process has ended that nobody has noticed."""
        return [s.end_fd for s in self._slots if s.end_fd is not None]

    def end_silent(self, worker_id: WorkerId, silent_s: float) -> None:
        """SIGTERM for a worker that nobody has heard of for so long; SIGKILL follows, which also
        ends one that is stopped (SIGSTOP). Another takes its place."""
        for slot in self._slots:
            if slot.worker_id == worker_id and slot.process is not None and slot.kill_at_s is None:
                slot.silent_s = silent_s
                slot.kill_at_s = self._clock.monotonic_s() + _SILENT_GRACE_S
                slot.process.send_signal(signal.SIGTERM)

    def tick(self) -> None:
        """Notice ended processes, then fill empty slots. Call it several times a second."""
        for slot in self._slots:
            # Ends before starts: what a dead worker held is free when the next one claims.
            self._notice(slot)
        if not self._hiring:
            return
        for slot in self._slots:
            if slot.process is None and self._may_start(slot):
                self._start(slot)

    def stop_hiring(self) -> None:
        """From now on an ended worker is not replaced."""
        self._hiring = False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every worker that runs. Only processes we started and still hold."""
        for slot in self._slots:
            if slot.process is not None and slot.process.poll() is None:
                slot.process.send_signal(number)

    def ask_to_stop(self) -> None:
        """SIGTERM, once for each worker: a second one would mean "at once".

        Sends signals and does nothing else, so that a signal handler may call it.
        """
        self.stop_hiring()
        for slot in self._slots:
            if slot.process is not None and not slot.told and slot.process.poll() is None:
                slot.told = True
                slot.process.send_signal(signal.SIGTERM)

    def drain(self, *, grace_s: float, tick: Callable[[], None]) -> None:
        """Ask to stop, then wait until all have ended; SIGKILL for those who take too long."""
        self.ask_to_stop()
        if self._nursery is not None:
            self._nursery.release()
        deadline_s = self._clock.monotonic_s() + grace_s
        while self.pids and self._clock.monotonic_s() < deadline_s:
            tick()
            self.tick()
        self.kill()

    def kill(self) -> None:
        """SIGKILL whoever is left, and notice their ends: leases and fences cover it."""
        self.stop_hiring()
        self._dismiss_nursery()
        self.signal(signal.SIGKILL)
        for slot in self._slots:
            if slot.process is not None:
                slot.process.wait()
                self._notice(slot)

    def _may_start(self, slot: _Slot) -> bool:
        if slot.closed:
            return False
        return self._clock.monotonic_s() >= slot.start_after_s

    def _start(self, slot: _Slot) -> None:
        worker_id = new_worker_id()
        slot.told = False
        slot.silent_s = slot.kill_at_s = None
        # At each start: where everybody may write it may have been exchanged since the last one.
        _refuse_others(self._command.log_folder, make_own(self._command.log_folder))
        log_path = self._command.log_folder / f"{slot.name}.log"
        arguments = [*self._command.arguments, "--worker-id", worker_id, "--name", slot.name]
        if self._nursery is not None:
            slot.process = self._nursery.hand_over(arguments, self._command.environment, log_path)
        if slot.process is None:
            self._dismiss_nursery()
            slot.process = self._execute(arguments, log_path)
        slot.worker_id = worker_id
        slot.end_fd = _end_fd(slot.process.pid)
        slot.started_at_s = self._clock.monotonic_s()

    def _execute(self, arguments: list[str], log_path: Path) -> subprocess.Popen[bytes]:
        # Appended: the last words of the worker before are what tells why there is a new one.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        made = os.open(log_path, flags, 0o600)
        with os.fdopen(made, "ab") as log:
            return subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(self._command.environment),
                # An own group: Ctrl-C on the terminal reaches the coordinator alone, which
                # then drains its workers; they must not count it as a second signal.
                process_group=0,
            )

    def _dismiss_nursery(self) -> None:
        nursery, self._nursery = self._nursery, None
        if nursery is not None:
            nursery.dismiss()

    def _notice(self, slot: _Slot) -> None:
        if slot.process is None or slot.worker_id is None:
            return
        status = slot.process.poll()
        now_s = self._clock.monotonic_s()
        if status is None:
            if slot.kill_at_s is not None and now_s >= slot.kill_at_s:
                slot.process.send_signal(signal.SIGKILL)
            return
        end = WorkerEnd(
            worker_id=slot.worker_id,
            name=slot.name,
            pid=slot.process.pid,
            status=status,
            told_to_stop=not self._hiring,
            lived_s=now_s - slot.started_at_s,
            log_tail=self._log_tail(slot),
            told=not self._hiring,
            silent_s=slot.silent_s,
        )
        slot.process = None
        slot.worker_id = None
        if slot.end_fd is not None:
            os.close(slot.end_fd)
            slot.end_fd = None
        # The slot is empty already: what follows asks the state and may raise, and an end is told
        # once.
        self._remember(slot, end, now_s)
        self._on_end(end)

    def _remember(self, slot: _Slot, end: WorkerEnd, now_s: float) -> None:
        """Crash loops slow down; a worker that cannot even start stops being tried."""
        if end.status in _REFUSALS:
            # What it lacks may come back (a file of credentials, a mount): tried a few times.
            # How long it lived says little: a place that refuses is met behind a whole chunk.
            slot.unfit = slot.unfit + 1 if end.lived_s < _UNFIT_WINDOW_S else 1
            slot.refusal = ExitCode(end.status)
            slot.start_after_s = now_s + _UNFIT_PAUSE_S * 2.0 ** (slot.unfit - 1)
            return
        slot.unfit = 0
        if end.graceful:
            slot.crashes.clear()
            slot.start_failures = 0
            slot.start_after_s = now_s if end.status == ExitCode.RECYCLE else now_s + 0.2
            return
        slot.crashes = [t for t in slot.crashes if now_s - t < _CRASH_WINDOW_S] + [now_s]
        # Exit code 1 within seconds is a command line or configuration, which another try would not
        # mend.
        if end.status == ExitCode.GENERIC and end.lived_s < _START_FAILURE_S:
            slot.start_failures += 1
        else:
            slot.start_failures = 0
        slot.start_after_s = now_s + min(0.1 * 2.0 ** (len(slot.crashes) - 1), _BACKOFF_MAX_S)

    def _log_tail(self, slot: _Slot) -> str:
        path = self._command.log_folder / f"{slot.name}.log"
        try:
            with path.open("rb") as log:
                log.seek(max(0, path.stat().st_size - _LOG_TAIL_BYTES))
                return log.read().decode(errors="replace").strip()
        except OSError:
            return ""


def _end_fd(pid: int) -> int | None:
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None  # a kernel before 5.3, or it has ended: the next look finds it


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
