"""The governor: one process of the fleet watches a group's source and says how much may run.

A thread of a coordinator or worker, with its own connections to the state and to the source. Which
process it is the state database says, by a lease with a fence (ADR 0013); the law it follows is
``contracts/protection.py``.
"""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from rivet_fleet.contracts.clock import Clock, retry_cost_s
from rivet_fleet.contracts.events import Emit, Event, EventName
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.protection import (
    Decision,
    Gate,
    Governed,
    GovernorLease,
    GovernorWord,
    HoursPlan,
    MonitorPlan,
    Reading,
    SourceBudget,
    close,
    decide,
    judge,
    opens_in_s,
    start,
)
from rivet_fleet.contracts.state import WorkerIdentity
from rivet_fleet.coordination.sampler import FlagFile, GovernorLinks, Sampler
from rivet_fleet.errors import LeaseLost, StateError, StateTampered
from rivet_fleet.execution.signals import ANSWER_MAX_S
from rivet_fleet.persistence.store import Store

LOOK_S = 2.0
"""How often a process looks for a group that nobody governs."""
LEASE_MIN_S = 4.0
LEASE_SAMPLES = 4
VALID_LEASES = 2
"""A group that fails closed is closed when nobody has sampled for so many leases."""

_RETRY_S = 1.0


@dataclass(slots=True, kw_only=True)
class _Seat:
    """One group that this process governs."""

    lease: GovernorLease
    governed: Governed
    sampler: Sampler
    flag: FlagFile | None
    due_s: float
    """When the next sample begins."""
    ends_s: float | None = None
    """When the sample ends that goes on, whoever has not answered."""
    renew_s: float = 0.0
    retry_s: float = 0.0
    """Before then nothing of it is tried again: something failed."""
    readings_json: str = "[]"

    @property
    def monitor(self) -> MonitorPlan:
        return self.lease.budget.monitor or MonitorPlan()

    @property
    def lease_ttl_s(self) -> float:
        return max(LEASE_MIN_S, LEASE_SAMPLES * self.monitor.interval_s)

    @property
    def next_s(self) -> float:
        """When there is something to do, unless a place answers before."""
        due_s = self.due_s if self.ends_s is None else min(self.ends_s, self.renew_s)
        return max(due_s, self.retry_s)

    def due(self, now_s: float) -> bool:
        """True when that is now, or each place has answered."""
        answered = self.ends_s is not None and self.sampler.done
        return now_s >= self.retry_s and (now_s >= self.next_s or answered)


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
        self._closed = False
        self._store: Store | None = None
        self._thread = threading.Thread(target=self._run, name="governor", daemon=True)

    def start(self) -> None:
        """Begin watching."""
        self._thread.start()

    def close(self) -> None:
        """Stop, and let others govern at once; returns within seconds."""
        self._closed = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while not self._closed:
            wait_s = self._next_s() if self._try(self._turn) else _RETRY_S
            self._wake.wait(wait_s)
            self._wake.clear()
        if self._store is not None:
            self._leave(self._store)
            self._store.close()

    def _turn(self) -> None:
        self._store = self._store or self._links.open_store()
        self.round(self._store)

    def round(self, store: Store) -> bool:
        """Do what is due for each group, then look for groups without a governor. False when
        something of it failed: that is told, and keeps no other group waiting."""
        now_s = self._clock.monotonic_s
        whole = True
        for name, seat in list(self._seats.items()):
            if not seat.due(now_s()):
                continue
            if not self._try(lambda n=name, s=seat: self._govern(store, n, s)):  # type: ignore[misc]
                # This group alone waits; the others keep their pace.
                whole, seat.retry_s = False, now_s() + _RETRY_S
        if now_s() >= self._look_s:
            self._look_s = now_s() + LOOK_S
            whole &= self._try(lambda: self._look(store))
        return whole

    def _try(self, step: Callable[[], None]) -> bool:
        """The outermost loop of a thread that nothing would replace: whatever a step comes to, the
        next one is made. False when it failed."""
        try:
            step()
        except (StateError, StateTampered) as error:
            # Nobody governs by an edited budget; the process's main thread is told, too.
            message = f"governor: {error.message}"
            self._emit(Event(name=EventName.STATE_RETRIED, message=message))
        except Exception as defect:
            # What a library says of a value that it could not take holds the value.
            structlog.get_logger("rivet_fleet").error(
                "unexpected error in a governor",
                kind=type(defect).__name__,
                steps="".join(traceback.format_tb(defect.__traceback__)),
            )
        else:
            return True
        return False

    def _look(self, store: Store) -> None:
        now_s = self._clock.monotonic_s()
        # Short: the first step of a seat makes it as long as its monitor needs (``_hold``), and who
        # dies before that is soon replaced.
        found = store.lease_governor(
            self._campaign_id, self._identity, LEASE_MIN_S, patience_s=self._patience_s
        )
        for lease in found:
            name = lease.budget.group_name
            self._rise(name)
            monitor = lease.budget.monitor or MonitorPlan()
            self._seats[name] = _Seat(
                lease=lease,
                governed=start(lease.budget, lease.permits, lease.page_share, lease.paused),
                sampler=Sampler(
                    name,
                    monitor,
                    self._links,
                    clock=self._clock,
                    pay=lambda group=name: store.reserve_retry(group, retry_cost_s(0)),  # type: ignore[misc]
                    wake=self._wake.set,
                ),
                flag=None if monitor.flag_file is None else FlagFile(monitor.flag_file),
                due_s=now_s,
            )

    def _rise(self, name: str) -> None:
        former = self._seats.pop(name, None)
        if former is not None:
            former.sampler.close()

    def _next_s(self) -> float:
        now_s = self._clock.monotonic_s()
        soonest = min([self._look_s, *(seat.next_s for seat in self._seats.values())])
        # Never 0: a step that is due again at once would take the interpreter from the other
        # threads.
        return max(0.02, soonest - now_s)

    # ---------------------------------------------------------------- one sample

    def _govern(self, store: Store, name: str, seat: _Seat) -> None:
        try:
            if seat.ends_s is None:
                # Before anything is asked: flag file and hours close at once, however long signals
                # take.
                self._hold(store, seat)
                self._begin(seat)
            if seat.sampler.done or self._clock.monotonic_s() >= (seat.ends_s or 0.0):
                self._judge(store, seat)
            elif self._clock.monotonic_s() >= seat.renew_s:
                self._hold(store, seat)
        except LeaseLost:
            self._rise(name)

    def _begin(self, seat: _Seat) -> None:
        now_s = self._clock.monotonic_s()
        seat.sampler.begin()
        seat.due_s = now_s + seat.monitor.interval_s
        seat.ends_s = now_s + ANSWER_MAX_S

    def _hold(self, store: Store, seat: _Seat) -> None:
        """Keep the lease while signals are asked; a closed gate closes whatever they say."""
        gate = _gate(seat, store)
        if gate is not None:
            self._write(store, seat, close(seat.governed, gate))
        elif self._clock.monotonic_s() >= seat.renew_s:
            store.hold_governor(seat.lease, seat.lease_ttl_s)
            self._renewed(seat)

    def _judge(self, store: Store, seat: _Seat) -> None:
        readings = seat.sampler.readings()
        decision = decide(seat.lease.budget, seat.governed, readings, _gate(seat, store))
        seat.readings_json = _shown(seat.monitor, readings)
        budget = self._write(store, seat, decision)
        seat.ends_s = None
        seat.lease = GovernorLease(
            budget=budget,
            fence=seat.lease.fence,
            worker_id=seat.lease.worker_id,
            permits=None,
            page_share=1.0,
            paused=None,
        )

    def _write(self, store: Store, seat: _Seat, decision: Decision) -> SourceBudget:
        budget = store.govern(seat.lease, _word(seat, decision), seat.lease_ttl_s)
        seat.governed = decision.now
        self._renewed(seat)
        return budget

    def _renewed(self, seat: _Seat) -> None:
        seat.renew_s = self._clock.monotonic_s() + seat.lease_ttl_s / LEASE_SAMPLES

    def _leave(self, store: Store) -> None:
        for name, seat in list(self._seats.items()):
            self._rise(name)
            # Where it cannot be given back it runs out by itself.
            self._try(lambda lease=seat.lease: store.leave_governor(lease))  # type: ignore[misc]


def _gate(seat: _Seat, store: Store) -> Gate | None:
    shut = None if seat.flag is None else seat.flag.closes()
    if shut is not None:
        return Gate(reason=shut)
    hours = seat.monitor.hours
    if hours is None:
        return None
    try:
        closed_s = opens_in_s(hours, store.now_s())
    except (KeyError, OSError, ValueError):
        # As with a flag file: not knowing is as if it were shut.
        return Gate(reason=f"this host knows no time zone {hours.time_zone}")
    return Gate(reason=_opening(hours), opens_in_s=closed_s) if closed_s > 0 else None


def _opening(hours: HoursPlan) -> str:
    windows = ", ".join(hours.windows)
    days = f" on {', '.join(hours.days)}" if hours.days else ""
    return f"it may run {windows}{days} ({hours.time_zone})"


def _shown(monitor: MonitorPlan, readings: Sequence[Reading]) -> str:
    plans = {signal.name: signal for signal in monitor.signals}
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
    return json.dumps(shown, allow_nan=False)


def _word(seat: _Seat, decision: Decision) -> GovernorWord:
    now = decision.now
    closes = seat.monitor.fail_closed
    return GovernorWord(
        permits=now.permits,
        page_share=now.page_share,
        paused=now.paused,
        resumes_in_s=now.opens_in_s,
        valid_for_s=VALID_LEASES * seat.lease_ttl_s if closes else None,
        readings_json=seat.readings_json,
        halt=decision.halt,
        told=tuple((act.name, act.message, dict(act.data)) for act in decision.acts),
    )
