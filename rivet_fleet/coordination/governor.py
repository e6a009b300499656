"""The governor: one process of the fleet watches a group's source and says how much may run.

A thread of a coordinator or worker, with its own connections to the state and to the source. Which
process it is the state database says, by a lease with a fence (ADR 0013); the law it follows is
``contracts/protection.py``.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rivet_fleet.contracts.clock import Clock
from rivet_fleet.contracts.events import Emit, Event, EventName
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.protection import (
    Decision,
    Gate,
    Governed,
    GovernorLease,
    GovernorWord,
    MonitorPlan,
    Reading,
    SignalPlan,
    decide,
    judge,
    opens_in_s,
    start,
)
from rivet_fleet.contracts.state import WorkerIdentity
from rivet_fleet.coordination.secrets import private
from rivet_fleet.errors import ConfigError, LeaseLost, SourceError, StateError, StateTampered
from rivet_fleet.execution.signals import SourceSignals, read_http
from rivet_fleet.persistence.store import Store

LOOK_S = 2.0
"""How often a process looks for a group that nobody governs."""
LEASE_MIN_S = 4.0
LEASE_SAMPLES = 4
VALID_LEASES = 2
"""A group that fails closed is closed when nobody has sampled for so many leases."""

OpenSignals = Callable[[str, str], SourceSignals]
"""(source name, planned identity) → its monitoring connection. ConfigError when they differ."""


@dataclass(slots=True, kw_only=True)
class _Seat:
    """One group that this process governs."""

    lease: GovernorLease
    governed: Governed
    due_s: float
    signals: SourceSignals | None = None
    counters: dict[str, float] = field(default_factory=dict)

    @property
    def monitor(self) -> MonitorPlan:
        return self.lease.budget.monitor or MonitorPlan()

    @property
    def lease_ttl_s(self) -> float:
        return max(LEASE_MIN_S, LEASE_SAMPLES * self.monitor.interval_s)

    def close(self) -> None:
        if self.signals is not None:
            self.signals.close()
            self.signals = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GovernorLinks:
    """How the thread reaches the state and the sources."""

    open_store: Callable[[], Store]
    open_signals: OpenSignals
    counters: Callable[[MonitorPlan], frozenset[str]]
    """Names of the monitor's signals that only grow."""
    redact: Callable[[str], str]
    question: Callable[[str, SignalPlan], str]
    """(group, signal) → what it asks in full. ConfigError where this process does not know."""


class Governor:
    """Governs those groups of one campaign that nobody else governs."""

    def __init__(
        self,
        links: GovernorLinks,
        campaign_id: CampaignId,
        identity: WorkerIdentity,
        *,
        clock: Clock,
        emit: Emit,
        patience_s: float = 0.0,
    ) -> None:
        """``patience_s``: how long a group must have been without a governor; workers leave
        it to coordinators where there are any."""
        self._links = links
        self._campaign_id = campaign_id
        self._identity = identity
        self._clock = clock
        self._emit = emit
        self._patience_s = patience_s
        self._seats: dict[str, _Seat] = {}
        self._look_s = 0.0
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="governor", daemon=True)

    def start(self) -> None:
        """Begin watching."""
        self._thread.start()

    def close(self) -> None:
        """Stop, and let others govern at once; returns within seconds."""
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        store: Store | None = None
        wait_s = 0.0
        while not self._wake.wait(wait_s):
            try:
                store = store or self._links.open_store()
                self.round(store)
                wait_s = self._next_s()
            except (StateError, StateTampered) as error:
                # Nobody governs by an edited budget; the process's main thread is told, too.
                self._emit(
                    Event(name=EventName.STATE_RETRIED, message=f"governor: {error.message}")
                )
                wait_s = 1.0
        if store is not None:
            self._leave(store)
            store.close()

    def round(self, store: Store) -> None:
        """Sample what is due; look for groups without a governor. Raises StateError."""
        for name, seat in list(self._seats.items()):
            if self._clock.monotonic_s() >= seat.due_s:
                try:
                    self._sample(store, seat)
                except LeaseLost:
                    self._seats.pop(name).close()
        if self._clock.monotonic_s() >= self._look_s:
            self._look_s = self._clock.monotonic_s() + LOOK_S
            self._look(store)

    def _look(self, store: Store) -> None:
        now_s = self._clock.monotonic_s()
        found = store.lease_governor(
            self._campaign_id, self._identity, LEASE_MIN_S, patience_s=self._patience_s
        )
        for lease in found:
            governed = start(lease.budget, lease.permits, lease.page_share, lease.paused)
            former = self._seats.pop(lease.budget.group_name, None)
            if former is not None:
                former.close()
            self._seats[lease.budget.group_name] = _Seat(
                lease=lease, governed=governed, due_s=now_s
            )

    def _next_s(self) -> float:
        now_s = self._clock.monotonic_s()
        soonest = min([self._look_s, *(seat.due_s for seat in self._seats.values())])
        return max(0.02, soonest - now_s)

    # ---------------------------------------------------------------- one sample

    def _sample(self, store: Store, seat: _Seat) -> None:
        monitor = seat.monitor
        seat.due_s = self._clock.monotonic_s() + monitor.interval_s
        readings = [self._read(seat, signal) for signal in monitor.signals]
        gate = _gate(monitor, store.now_s() if monitor.hours else 0.0)
        decision = decide(seat.lease.budget, seat.governed, readings, gate)
        word = _word(seat, decision, readings)
        budget = store.govern(seat.lease, word, seat.lease_ttl_s)
        seat.governed = decision.now
        seat.lease = GovernorLease(
            budget=budget,
            fence=seat.lease.fence,
            worker_id=seat.lease.worker_id,
            permits=None,
            page_share=1.0,
            paused=None,
        )

    def _read(self, seat: _Seat, signal: SignalPlan) -> Reading:
        try:
            value = self._ask(seat, signal)
        except (SourceError, ConfigError) as error:
            seat.close()
            said = f"{error.message} ({error.hint})" if error.hint else error.message
            return Reading(name=signal.name, error=self._links.redact(said)[:500])
        if signal.name not in self._links.counters(seat.monitor):
            return Reading(name=signal.name, value=value)
        before = seat.counters.get(signal.name)
        seat.counters[signal.name] = value
        if before is None or value < before:
            return Reading(name=signal.name, waiting=True)
        return Reading(name=signal.name, value=value - before)

    def _ask(self, seat: _Seat, signal: SignalPlan) -> float:
        def connection() -> SourceSignals:
            if seat.signals is None:
                monitor = seat.monitor
                seat.signals = self._links.open_signals(
                    monitor.source or "", monitor.source_identity or ""
                )
            return seat.signals

        question = self._links.question(seat.lease.budget.group_name, signal)
        return ask_signal(signal, question, connection)

    def _leave(self, store: Store) -> None:
        for seat in self._seats.values():
            seat.close()
            try:
                store.leave_governor(seat.lease)
            except StateError:
                pass  # its lease runs out by itself
        self._seats.clear()


def ask_signal(signal: SignalPlan, question: str, connection: Callable[[], SourceSignals]) -> float:
    """Read one signal. ``question``: its ``ask`` in full. ``connection`` is called where the source
    is asked. Raises SourceError, ConfigError."""
    if signal.kind == "http":
        return read_http(question, signal.pointer)
    source = connection()
    with private(question, signal.ask):
        return source.query(question) if signal.kind == "sql" else source.read(question)


def _gate(monitor: MonitorPlan, now_s: float) -> Gate | None:
    if monitor.flag_file is not None and Path(monitor.flag_file).exists():
        return Gate(reason=f"the flag file {monitor.flag_file} is there")
    if monitor.hours is not None:
        closed_s = opens_in_s(monitor.hours, now_s)
        if closed_s > 0:
            windows = ", ".join(monitor.hours.windows)
            days = f" on {', '.join(monitor.hours.days)}" if monitor.hours.days else ""
            return Gate(
                reason=f"it may run {windows}{days} ({monitor.hours.time_zone})",
                opens_in_s=closed_s,
            )
    return None


def _word(seat: _Seat, decision: Decision, readings: Sequence[Reading]) -> GovernorWord:
    plans = {signal.name: signal for signal in seat.monitor.signals}
    shown = []
    for reading in readings:
        level = (
            None
            if reading.value is None
            else judge(plans[reading.name], reading.value, paused=False)[0].name.lower()
        )
        shown.append(
            {
                "name": reading.name,
                "value": reading.value,
                "level": level,
                "error": reading.error,
            }
        )
    now = decision.now
    closes = seat.monitor.fail_closed
    return GovernorWord(
        permits=now.permits,
        page_share=now.page_share,
        paused=now.paused,
        resumes_in_s=now.opens_in_s,
        valid_for_s=VALID_LEASES * seat.lease_ttl_s if closes else None,
        readings_json=json.dumps(shown),
        halt=decision.halt,
        told=tuple((act.name, act.message, dict(act.data)) for act in decision.acts),
    )
