"""What one process of the fleet has in its hands: the value every coordination step takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rivet_fleet.contracts.clock import Clock
from rivet_fleet.contracts.events import Emit, Event, EventName, Told
from rivet_fleet.contracts.keys import RunId
from rivet_fleet.contracts.lease import WorkerIdentity
from rivet_fleet.contracts.plan import DestinationPlan
from rivet_fleet.contracts.state import RunView
from rivet_fleet.coordination.patience import Patience
from rivet_fleet.coordination.stop import StopFlag
from rivet_fleet.errors import StateRefused
from rivet_fleet.execution.destination import Destination
from rivet_fleet.execution.source import Source
from rivet_fleet.persistence.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSettings:
    """The numbers of one process. Bytes and seconds."""

    lease_ttl_s: float = 30.0
    drain_grace_s: float = 25.0
    hang_timeout_s: float = 900.0
    state_patience_s: float = 300.0
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
    emit: Emit
    clock: Clock
    stop: StopFlag
    identity: WorkerIdentity
    settings: FleetSettings
    patience: Patience
    redact: Callable[[str], str]
    _runs: dict[RunId, RunView] = field(default_factory=dict)
    _sources: dict[str, Source] = field(default_factory=dict)
    _destinations: dict[str, Destination] = field(default_factory=dict)

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

    def holds_source(self, name: str) -> bool:
        """True while this process has a connection to it."""
        return name in self._sources

    def destination(self, run_id: RunId) -> Destination:
        """Where a run's parts go; opened once per prefix."""
        plan = self.planned_run(run_id).plan.destination
        if plan.prefix not in self._destinations:
            self._destinations[plan.prefix] = self.open_destination(plan)
        return self._destinations[plan.prefix]

    def drop_source(self, name: str) -> None:
        """Forget a connection that failed; the next chunk opens a new one."""
        source = self._sources.pop(name, None)
        if source is not None:
            source.close()

    def drop_sources(self, *, but: str | None = None) -> None:
        """Close connections that nobody needs now: an idle one is a burden, too."""
        for name in [name for name in self._sources if name != but]:
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
