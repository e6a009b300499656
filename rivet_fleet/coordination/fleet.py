"""What one process of the fleet has in its hands: the value every coordination step takes."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import time
import uuid
import weakref
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import TypeVar

import psutil

from rivet_fleet.contracts.clock import Clock, backoff_s, wait_readable
from rivet_fleet.contracts.events import Emit, Event, EventName, Told
from rivet_fleet.contracts.identity import CAMPAIGN_OTHER, CampaignIdentity, owner_of
from rivet_fleet.contracts.keys import CampaignId, RunId, WorkerId
from rivet_fleet.contracts.plan import Access, DestinationPlan
from rivet_fleet.contracts.state import (
    CampaignStatus,
    CampaignView,
    RunView,
    WorkerIdentity,
    WorkerView,
)
from rivet_fleet.errors import StateRefused, StateUnavailable, StopRequested
from rivet_fleet.execution.destination import Destination
from rivet_fleet.execution.source import Source
from rivet_fleet.persistence.store import Store
from rivet_fleet.planning.config.connections import present_identity
from rivet_fleet.planning.config.loaded import LoadedConfig

COORDINATOR = "coordinator"
"""How a coordinator's name among a campaign's workers begins."""

# ------------------------------------------------------------------------------------------
# Two-stage stopping: the first signal drains, the second ends at once.

SIGNALS = (signal.SIGTERM, signal.SIGINT)
PARENT_DEATH_SIGNAL = signal.SIGHUP


class StopFlag:
    """Remembers that we were told to stop, and for how long we may go on.

    A pipe instead of a ``threading.Event``: a signal handler that runs while the main thread
    holds the event's own lock would wait for itself.
    """

    def __init__(self, clock: Clock, *, grace_s: float) -> None:
        """``grace_s``: how long after the first request the current chunk may still run."""
        self._clock = clock
        self._grace_s = grace_s
        self._requested_at_s: float | None = None
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._write_fd, False)
        for end in (self._read_fd, self._write_fd):
            weakref.finalize(self, os.close, end)

    def request(self) -> None:
        """Stop claiming now; stop reading when the grace period is over."""
        if self._requested_at_s is None:
            self._requested_at_s = self._clock.monotonic_s()
            os.write(self._write_fd, b"!")

    @property
    def requested(self) -> bool:
        """True after the first request."""
        return self._requested_at_s is not None

    @property
    def grace_over(self) -> bool:
        """True when the current chunk must stop at its next page boundary."""
        if self._requested_at_s is None:
            return False
        return self._clock.monotonic_s() - self._requested_at_s >= self._grace_s

    def wait(self, seconds: float, also: Iterable[int] = ()) -> bool:
        """Sleep, but not past a request, nor past the moment in which one of the descriptors
        ``also`` can be read. True when stopping was requested."""
        if not self.requested and seconds > 0:
            wait_readable((self._read_fd, *also), seconds)
        return self.requested

    def check(self) -> None:
        """Raise StopRequested when the current chunk must give up now."""
        if self.grace_over:
            raise StopRequested("stopped at a page boundary; the chunk goes back to the queue")


def install(
    flag: StopFlag,
    *,
    on_first: Callable[[], None] = lambda: None,
    on_second: Callable[[], None] = lambda: None,
) -> None:
    """Let SIGTERM and SIGINT request a stop; the second one calls ``on_second`` and exits.

    ``on_first`` runs inside the handler, too: it must not wait for anything, because the main
    thread may be waiting for the state database at this moment.
    """

    def handle(number: int, _frame: FrameType | None) -> None:
        if flag.requested:
            on_second()
            os._exit(128 + number)
        flag.request()
        on_first()

    for number in SIGNALS:
        signal.signal(number, handle)


def stop_with_parent(flag: StopFlag) -> None:
    """Drain when the parent is gone, however often the kernel says so.

    A signal of its own: the kernel repeats the parent-death signal for every thread of a dying
    parent (prctl(2), PR_SET_PDEATHSIG), and a second SIGTERM means "at once".
    """
    signal.signal(PARENT_DEATH_SIGNAL, lambda _number, _frame: flag.request())


# ------------------------------------------------------------------------------------------
# Waiting out a state database that is away: the protocol makes every call repeatable.

T = TypeVar("T")

_BASE_S = 0.1
_WAIT_MAX_S = 5.0


class Patience:
    """Repeats calls to the state database while it is away.

    Not a retry library: the wait must end when we are told to stop, and while draining the
    result of finished work must still be written for as long as the grace period lasts.
    """

    def __init__(self, clock: Clock, stop: StopFlag, emit: Emit, *, limit_s: float) -> None:
        """``limit_s``: after this long without an answer the error is the caller's."""
        self._clock = clock
        self._stop = stop
        self._emit = emit
        self._limit_s = limit_s

    def call(self, what: str, action: Callable[[], T]) -> T:
        """The result of ``action``. Raises StateUnavailable after ``limit_s``, or when the
        grace period of a stop ends first. Every other error passes at once."""
        started_s = self._clock.monotonic_s()
        attempt = 0
        while True:
            try:
                return action()
            except StateUnavailable as error:
                attempt += 1
                away_s = self._clock.monotonic_s() - started_s
                if away_s > self._limit_s or self._stop.grace_over:
                    raise
                self._tell(what, error, attempt)
                wait_s = min(backoff_s(attempt=attempt, base_s=_BASE_S), _WAIT_MAX_S)
                if self._stop.wait(wait_s):
                    self._pause_while_draining(wait_s)

    def _tell(self, what: str, error: StateUnavailable, attempt: int) -> None:
        if attempt in (1, 5, 20) or attempt % 50 == 0:
            self._emit(
                Event(
                    name=EventName.STATE_RETRIED,
                    message=f"{what}: the state database is away, trying again",
                    data={"attempt": attempt, "error": error.message},
                )
            )

    def _pause_while_draining(self, wait_s: float) -> None:
        """The stop pipe is readable for good now, so ``wait`` returns at once: sleep instead."""
        deadline_s = self._clock.monotonic_s() + min(wait_s, 0.5)
        while self._clock.monotonic_s() < deadline_s and not self._stop.grace_over:
            time.sleep(0.05)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSettings:
    """The numbers of one process. Bytes and seconds."""

    lease_ttl_s: float = 30.0
    drain_grace_s: float = 25.0
    hang_timeout_s: float = 900.0
    state_patience_s: float = 300.0
    full_patience_s: float = 3600.0
    worker_memory_bytes: int = 512 * 1024 * 1024
    poll_interval_s: float = 0.5
    spool_root: Path
    row_values_shown: bool = False
    """Whether errors of this process tell what stands in rows."""


@dataclass(slots=True, kw_only=True)
class Fleet:
    """Store, connections and clocks of one process. Not shared between threads."""

    store: Store
    open_store: Callable[[], Store]
    open_source: Callable[[str, str], Source]
    """(source name, planned identity) → source. ConfigError when they do not agree."""
    open_destination: Callable[[DestinationPlan], Destination]
    """ConfigError when this process has not what it takes."""
    emit: Emit
    clock: Clock
    stop: StopFlag
    identity: WorkerIdentity
    settings: FleetSettings
    patience: Patience
    redact: Callable[[str], str]
    _runs: dict[RunId, RunView] = field(default_factory=dict)
    _sources: dict[str, Source] = field(default_factory=dict)
    _destinations: dict[Access, Destination] = field(default_factory=dict)

    def planned_run(self, run_id: RunId) -> RunView:
        """A run with its sealed plan. The plan never changes, so it is read once; the counts
        of the returned view are those of that first read."""
        if run_id not in self._runs:
            view = self.patience.call("read the plan", lambda: self.store.run(run_id))
            if view is None:
                raise StateRefused(
                    f"run {run_id} is not in the state database any more",
                    hint="it was reset while this process worked on it",
                )
            self._runs[run_id] = view
        return self._runs[run_id]

    def source(self, name: str, identity: str) -> Source:
        """The connection a plan names; opened once per process."""
        if name not in self._sources:
            self._sources[name] = self.open_source(name, identity)
        return self._sources[name]

    def held_sources(self) -> frozenset[str]:
        """Those it has a connection to."""
        return frozenset(self._sources)

    def destination(self, run_id: RunId, known: RunView | None = None) -> Destination:
        """Where a run's parts go; opened once for each place and way in. ``known``: the run, where
        it was read already."""
        if known is not None:
            self._runs.setdefault(run_id, known)
        plan = self.planned_run(run_id).plan.destination
        if plan.access not in self._destinations:
            self._destinations[plan.access] = self.open_destination(plan)
        return self._destinations[plan.access]

    def drop_source(self, name: str) -> None:
        """Forget a connection that failed; the next chunk opens a new one."""
        source = self._sources.pop(name, None)
        if source is not None:
            source.close()

    def drop_sources(self, *, but: Collection[str] = ()) -> None:
        """Close connections that nobody needs now: an idle one is a burden, too."""
        for name in [name for name in self._sources if name not in but]:
            self.drop_source(name)

    def close(self) -> None:
        """Give everything back. Never raises."""
        for source in self._sources.values():
            source.close()
        for destination in self._destinations.values():
            destination.close()
        self.store.close()

    def mention(self, event: Event) -> Told:
        """Emit an event that the journal learns with the transition it leads to."""
        at_s = self.clock.monotonic_s()
        self.emit(event)
        return Told(event=event, ago_s=lambda: self.clock.monotonic_s() - at_s)

    def tell(self, name: EventName, message: str = "", **data: object) -> None:
        """Emit an event of this process that belongs to no chunk."""
        self.emit(Event(name=name, worker_id=self.identity.worker_id, message=message, data=data))


# ------------------------------------------------------------------------------------------
# Who this process is, and whether another one on this host still lives.

_START_TOLERANCE_S = 0.05


def host_id() -> str:
    """Equal for two processes exactly when one can see the other's pid.

    The boot and the pid namespace decide: host names repeat across containers, and pids
    repeat across boots.
    """
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    seen = [_told(boot.read_text), _told(namespace.readlink)]
    if not all(seen):
        seen = [socket.gethostname(), str(psutil.boot_time())]
    digest = hashlib.sha256("|".join(seen).encode()).hexdigest()[:12]
    return f"{socket.gethostname()}-{digest}"


def _told(ask: Callable[[], object]) -> str:
    """What a file says; nothing where it is not there."""
    try:
        return str(ask()).strip()
    except OSError:
        return ""


def pid_started_at_s(pid: int) -> float | None:
    """When a process started, on the boot's clock, or None when it is gone.

    The boot's clock does not move when somebody sets the time of day.
    """
    stat = _told(Path(f"/proc/{pid}/stat").read_text)
    if stat:
        fields = stat.rpartition(")")[2].split()
        if fields[0] in ("Z", "X"):
            return None
        return int(fields[19]) / os.sysconf("SC_CLK_TCK")
    if Path("/proc/self/stat").exists():
        return None
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def process_alive(pid: int, started_at_s: float) -> bool:
    """True when this very process lives: a reused pid has another start time. One that is hidden
    from us (proc(5), hidepid) counts as living."""
    now_s = pid_started_at_s(pid)
    if now_s is None:
        return _hidden(pid)
    return abs(now_s - started_at_s) <= _START_TOLERANCE_S


def _hidden(pid: int) -> bool:
    if Path(f"/proc/{pid}").exists():
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def seen_workers(fleet: Fleet) -> list[WorkerView]:
    """The state's workers as they are now: those of this host by the kernel, the others by when
    they were last heard of."""
    found = fleet.store.workers(alive_within_s=fleet.settings.lease_ttl_s)
    return [
        replace(one, alive=False, gone=True)
        if one.host_id == fleet.identity.host_id
        and not process_alive(one.pid, one.pid_started_at_s)
        else one
        for one in found
    ]


def awaits_parent(pid: int) -> bool:
    """True for an ended process whose living parent has not asked yet how it ended."""
    fields = _told(Path(f"/proc/{pid}/stat").read_text).rpartition(")")[2].split()
    return len(fields) > 1 and fields[0] == "Z" and fields[1] != "1"


def new_worker_id() -> WorkerId:
    """Unique per process start (F4)."""
    return WorkerId(f"w-{uuid.uuid4().hex[:16]}")


def this_process(
    name: str, *, worker_id: WorkerId | None = None, host: str | None = None
) -> WorkerIdentity:
    """The identity of the calling process. ``host`` overrides the host for tests."""
    pid = os.getpid()
    return WorkerIdentity(
        worker_id=worker_id or new_worker_id(),
        name=name,
        host_id=host or host_id(),
        pid=pid,
        pid_started_at_s=pid_started_at_s(pid) or 0.0,
    )


# ------------------------------------------------------------------------------------------
# Which campaign a verb or a worker is about, and whether it is this configuration's.


def find_campaign(
    fleet: Fleet, loaded: LoadedConfig, wanted: CampaignId | None, *, copied: bool = False
) -> CampaignView:
    """The campaign a verb is about: by id, else the active one of this name, else the newest.

    ``copied``: this may be a copy of the configuration on another host; with an id, its name is
    enough. Raises StateRefused, naming what is known, when there is none, and when it belongs to
    another configuration (N3).
    """
    name = loaded.campaign_name
    if wanted is not None:
        # Alone: another campaign's row that is malformed is no matter of this one.
        view = fleet.store.campaign(wanted)
        if view is None:
            known = fleet.store.campaigns(name=name)
            listed = ", ".join(c.campaign_id for c in known[:5]) or "none"
            raise StateRefused(
                f"there is no campaign {wanted} in this state database",
                hint=f"known campaigns of {name}: {listed}",
            )
        refuse_other(fleet.store, loaded, view, copied=copied)
        return view
    known = fleet.store.campaigns(name=name)
    active = [c for c in known if c.status is CampaignStatus.ACTIVE]
    if not known:
        raise StateRefused(
            f"no campaign of {name} was ever submitted to this state database"
            f"{_in_namespace(fleet.store)}",
            hint="`rivet-fleet run` or `rivet-fleet submit` starts one; check --state-url and "
            "--namespace if you expected one here",
        )
    view = (active or known)[0]
    refuse_other(fleet.store, loaded, view)
    return view


def _in_namespace(store: Store) -> str:
    return f" (namespace {store.namespace})"


def refuse_other(
    store: Store, loaded: LoadedConfig, view: CampaignView, *, copied: bool = False
) -> None:
    """Raise StateRefused for a campaign of another name, or of another configuration of this
    name."""
    if loaded.campaign_name not in (view.campaign_name, owner_of(view.campaign_name)):
        raise StateRefused(
            f"campaign {view.campaign_id} is one of {view.campaign_name}, and "
            f"{loaded.path.name} is the configuration of {loaded.campaign_name}",
            hint=f"use the configuration it was submitted with: {view.config_path}",
            code=CAMPAIGN_OTHER,
        )
    if view.identity is None or copied:
        return
    now = present_identity(loaded)
    if not view.identity.is_of(now, shared=store.shared):
        raise _other(view, view.identity, now)


def refuse_other_owner(store: Store, loaded: LoadedConfig) -> None:
    """Raise StateRefused when campaigns of this name belong to another configuration: then so do
    its marks and history. The newest one tells."""
    owned = next(
        (c for c in store.campaigns(name=loaded.campaign_name) if c.identity is not None), None
    )
    if owned is not None:
        refuse_other(store, loaded, owned)


def _other(view: CampaignView, before: CampaignIdentity, now: CampaignIdentity) -> StateRefused:
    same = (
        "if it is the same and reads elsewhere now, sign once"
        if before.path == now.path
        else "if it is the same in another place, give it a campaign.name and sign once"
    )
    return StateRefused(
        f"campaign {view.campaign_id} of {view.campaign_name} belongs to another configuration: "
        f"to {before.shown}; this is {now.shown}",
        hint=f"{same}: `rivet-fleet state accept --campaign --reason …`; if it is another team's, "
        "write `state: {namespace: …}` into this one; if it is another of yours, give it another "
        "campaign.name",
        code=CAMPAIGN_OTHER,
    )


def await_campaign(
    fleet: Fleet, loaded: LoadedConfig, wanted: CampaignId | None, *, wait_s: float
) -> CampaignView | None:
    """As ``find_campaign``, but the campaign may take ``wait_s`` to appear.

    None when a stop was requested meanwhile.
    """
    deadline_s = fleet.clock.monotonic_s() + wait_s
    while True:
        try:
            return fleet.patience.call(
                "find the campaign", lambda: find_campaign(fleet, loaded, wanted, copied=True)
            )
        except StateRefused as refused:
            if refused.code == CAMPAIGN_OTHER or fleet.clock.monotonic_s() >= deadline_s:
                raise
        if fleet.stop.wait(1.0):
            return None
