"""What one worker waits for: the protection of the source it reads, its next try of it, and room
for what it has read.

The state database decides (ADR 0013); this follows it at page boundaries. While the state is
away the last word counts, unless the group fails closed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rivet_fleet.contracts.clock import backoff_s, retry_cost_s
from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.plan import ExportPlan
from rivet_fleet.contracts.protection import SourceBudget, Standing
from rivet_fleet.contracts.state import Claim
from rivet_fleet.coordination.fitness import full_spool, spool_is_full
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.errors import (
    DestinationError,
    DestinationFull,
    RivetFleetError,
    StateUnavailable,
    StopRequested,
)
from rivet_fleet.execution.servo import Allowance
from rivet_fleet.observability.units import bytes_text

LOOK_S = 1.0
"""How often a running chunk asks how its group stands."""
REST_S = 0.5
BLOCK_S = 0.5
"""How much of a rate is taken at once: small enough to be fair, large enough to be rare."""
_HOLD_S = 60.0
_UNFORESEEN_S = 1.0
"""How long a process rests at least that ends by a defect."""

_T = TypeVar("_T")


@dataclass(slots=True)
class _Account:
    """What this worker has reserved of a group's rates and not yet read."""

    rows: float = 0.0
    bytes: float = 0.0
    slot_at_s: float = 0.0
    pace_s: float = BLOCK_S


class Protection:
    """The groups this worker reads from: one after the other, never two at once."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._accounts: dict[str, _Account] = {}

    def guard(
        self, claim: Claim, wait: Callable[[float], None], tell: Callable[..., None]
    ) -> ChunkGuard:
        """The guard of one claimed chunk. ``wait`` may raise StopRequested or LeaseLost;
        ``tell(event name, message, **data)`` tells about the chunk."""
        account = self._accounts.setdefault(claim.source_group, _Account())
        return ChunkGuard(self._fleet, claim, account, wait, tell)


class ChunkGuard:
    """Holds one chunk back before its pages. A chunk without a source group is never held."""

    def __init__(
        self,
        fleet: Fleet,
        claim: Claim,
        account: _Account,
        wait: Callable[[float], None],
        tell: Callable[..., None],
    ) -> None:
        self._fleet = fleet
        self._claim = claim
        self._account = account
        self._wait = wait
        self._tell = tell
        self._standing = Standing()
        self._looked_at_s: float | None = None
        self.pausable = True
        """False while one statement streams: a pause would only hold its snapshot longer."""

    @property
    def limits_connections(self) -> bool:
        """True when the connection must be gone before the slot is."""
        budget = self._standing.budget
        return budget is not None and budget.connections_max is not None

    def before_page(self) -> Allowance:
        """Wait until the next page may be read, and say how large it may be.

        Raises StopRequested when the chunk should be given back instead, and what ``wait`` raises.
        """
        if not self._claim.source_group:
            return Allowance()
        self._look()
        self._rest()
        budget = self._standing.budget
        if budget is None or not budget.paced:
            return Allowance(share=self._standing.page_share)
        self._reserve(budget)
        return Allowance(
            share=self._standing.page_share,
            rows_max=_block(budget.rows_per_s),
            bytes_max=_block(budget.bytes_per_s),
        )

    def after_page(self, rows: int, size_bytes: int) -> None:
        """What was read is taken from what was reserved; it may be more."""
        self._account.rows -= rows
        self._account.bytes -= size_bytes

    # ---------------------------------------------------------------- looking and resting

    def _look(self, *, now: bool = False) -> None:
        at_s = self._fleet.clock.monotonic_s()
        if self._looked_at_s is not None and not now and at_s - self._looked_at_s < LOOK_S:
            return
        task_id = self._claim.task_id
        self._standing = self._ask(
            lambda: self._fleet.store.standing(task_id), otherwise=lambda: self._standing
        )
        self._looked_at_s = at_s
        if self._standing.halted is not None:
            raise StopRequested(f"the governor stopped the campaign: {self._standing.halted}")

    def _rest(self) -> None:
        began_s: float | None = None
        while self.pausable and (reason := self._standing.reason_to_rest) is not None:
            now_s = self._fleet.clock.monotonic_s()
            if began_s is None:
                began_s = now_s
                self._tell(EventName.CHUNK_PAUSED, reason)
            if self._too_long(now_s - began_s):
                raise StopRequested(f"given back while its source group rests: {reason}")
            self._wait(REST_S)
            self._look(now=True)
        if began_s is not None:
            rested_s = round(self._fleet.clock.monotonic_s() - began_s, 3)
            self._tell(EventName.CHUNK_RESUMED, "", rested_s=rested_s)

    def _too_long(self, rested_s: float) -> bool:
        """A chunk keeps its pages through a short pause, not its worker through a long one."""
        standing = self._standing
        monitor = standing.budget.monitor if standing.budget else None
        hold_s = _HOLD_S if monitor is None else monitor.hold_paused_s
        known_s = standing.paused_for_s if standing.paused is not None else None
        return rested_s >= hold_s or (known_s is not None and rested_s + known_s > hold_s)

    # ---------------------------------------------------------------- rates

    def _reserve(self, budget: SourceBudget) -> None:
        """Take the next block of whatever is used up, and wait for its time to come."""
        account, clock = self._account, self._fleet.clock
        rows = _needed(account.rows, budget.rows_per_s)
        size = _needed(account.bytes, budget.bytes_per_s)
        if rows <= 0 and size <= 0:
            return
        asked_at_s = clock.monotonic_s()
        group = self._claim.source_group
        wait_s = self._ask(
            lambda: self._fleet.store.reserve(group, rows, size),
            # The state is away, the source is not: at the distance of the last two appointments.
            otherwise=lambda: max(0.0, account.slot_at_s + account.pace_s - asked_at_s),
        )
        slot_at_s = asked_at_s + wait_s
        if account.slot_at_s:
            account.pace_s = max(slot_at_s - account.slot_at_s, BLOCK_S)
        account.slot_at_s = slot_at_s
        account.rows += rows
        account.bytes += size
        while (left_s := slot_at_s - clock.monotonic_s()) > 0:
            self._wait(min(left_s, REST_S))
            self._look()

    def _ask(self, action: Callable[[], _T], *, otherwise: Callable[[], _T]) -> _T:
        """The state's answer; while it is away the last one, unless the group fails closed."""
        budget = self._standing.budget
        closed = budget is not None and budget.monitor is not None and budget.monitor.fail_closed
        # Before the first answer there is no last word to go on by.
        if closed or self._looked_at_s is None:
            return self._fleet.patience.call("look after the source", action)
        try:
            return action()
        except StateUnavailable:
            return otherwise()


def _block(per_s: float | None) -> int | None:
    return None if per_s is None else max(1, int(per_s * BLOCK_S))


def _needed(balance: float, per_s: float | None) -> float:
    """How much to reserve: a block and what was overdrawn, once nothing is left."""
    if per_s is None or balance > 0:
        return 0.0
    return max(1.0, per_s * BLOCK_S) - balance


# ------------------------------------------------------------------------------------------
# Trying a source again: out of one budget that all processes share (ADR 0013).
#
# Every failure is paid for before the next connection or statement that repeats it, whoever makes
# it.

_TOLD_FROM_S = 5.0
_LOOK_S = 5.0
"""How often one who waits without a chunk looks whether there is still something to wait for."""


class Retries:
    """What one worker tries again. Its chunk, if it holds one, keeps what it has read."""

    def __init__(self, fleet: Fleet, campaign_id: CampaignId) -> None:
        self._fleet = fleet
        self._campaign_id = campaign_id
        self._told: set[str] = set()
        self._rest_s = 0.0
        self._failing_since_s: float | None = None

    def moved(self) -> None:
        """Rows, bytes or boundaries came: whatever failed before is over."""
        self._failing_since_s = None

    def answered(self, plan: ExportPlan) -> None:
        """A chunk of this source was delivered."""
        self._told.discard(_key(plan))

    def wait_s(self, plan: ExportPlan, own_s: float, lost_bytes: int) -> float:
        """Reserve a retry; how long to wait for it, at least ``own_s``. Raises StateError."""
        fleet, key, cost_s = self._fleet, _key(plan), retry_cost_s(lost_bytes)
        held_s = fleet.patience.call(
            "ask for a retry", lambda: fleet.store.reserve_retry(key, cost_s)
        )
        # Once, until a chunk of the source is delivered: waiting fleets would fill the journal.
        if held_s > max(own_s, _TOLD_FROM_S) and key not in self._told:
            self._told.add(key)
            self._tell_held(plan, held_s)
        return max(own_s, held_s)

    def give_up_when_hanging(self, error: RivetFleetError) -> None:
        """Raise ``error`` when tries have moved nothing for ``hang_timeout_s``, however many are
        left: trying is no progress."""
        now_s = self._fleet.clock.monotonic_s()
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        if now_s - self._failing_since_s > self._fleet.settings.hang_timeout_s:
            raise error

    def rest_later(self, plan: ExportPlan, own_s: float, lost_bytes: int) -> None:
        """A chunk went back, failed or not: the next claim waits for its retry."""
        # Two chunks may have gone back by then: the longer wait is for both.
        self._rest_s = max(self._rest_s, self.wait_s(plan, own_s, lost_bytes))

    @property
    def resting(self) -> bool:
        """Whether there is something to ``rest`` for."""
        return self._rest_s > 0

    def rest_unforeseen(self, plans: Sequence[ExportPlan]) -> None:
        """This process ends by a defect and held no chunk: it was tending, which may have asked any
        source of what is unfinished (``plans``), and whoever takes its place does the same."""
        self._rest_s = _UNFORESEEN_S
        with contextlib.suppress(RivetFleetError):
            for plan in {_key(plan): plan for plan in plans}.values():
                self._rest_s = max(self._rest_s, self.wait_s(plan, 0.0, 0))

    def rest(self) -> None:
        """Wait for what ``rest_later`` reserved, without a chunk; until a stop, or the campaign's
        end."""
        fleet, left_s, self._rest_s = self._fleet, self._rest_s, 0.0
        while left_s > 0 and not fleet.stop.wait(min(left_s, _LOOK_S)):
            left_s -= _LOOK_S
            if left_s > 0 and _over(fleet, self._campaign_id):
                return

    def _tell_held(self, plan: ExportPlan, held_s: float) -> None:
        fleet, read = self._fleet, plan.read
        fleet.emit(
            Event(
                name=EventName.SOURCE_HELD,
                campaign_id=self._campaign_id,
                run_id=plan.run_id,
                export_name=plan.export_name,
                worker_id=fleet.identity.worker_id,
                message=f"source {read.source} fails more often than the fleet may try it again: "
                f"the next try is in {held_s:.0f} s",
                data={"source": read.source, "wait_s": round(held_s, 3)},
            )
        )


def _over(fleet: Fleet, campaign_id: CampaignId) -> bool:
    view = fleet.patience.call(
        "look whether there is work", lambda: fleet.store.campaign(campaign_id)
    )
    return view is None or view.status.over or view.halted is not None


def _key(plan: ExportPlan) -> str:
    """One budget for a source group, whatever its sources are called."""
    return plan.source_group or plan.read.source_identity


# ------------------------------------------------------------------------------------------
# Waiting for room: a full destination or spool is an outage like an absent source.

_ROOM_BASE_S = 1.0
_ROOM_LOOK_S = 2.0


class Room:
    """One worker where there is no room for a chunk's files: it waits without a chunk, which spends
    no attempt, for ``full_patience_s`` from the first until one was delivered again."""

    def __init__(self, fleet: Fleet, campaign_id: CampaignId, spool: Path) -> None:
        self._fleet = fleet
        self._campaign_id = campaign_id
        self._spool = spool
        self._since_s: float | None = None
        self._tries = 0
        self._met: tuple[Claim, DestinationFull, int | None] | None = None

    @property
    def lacking(self) -> bool:
        """Whether there is something to ``wait`` for."""
        return self._met is not None

    def found(self) -> None:
        """A chunk was delivered."""
        self._since_s, self._tries = None, 0

    def lacks(self, claim: Claim, error: DestinationFull) -> bool:
        """True when the chunk goes back, and this worker ``waits``; False when it has waited for as
        long as it may, room would not help, or the chunk was committed: it is published by whoever
        finds room."""
        written = error.spool or error.needed_bytes > 0
        if not (written and error.passing and self._patient()):
            return False
        self._met = claim, error, self._free_bytes(claim, error)
        return True

    def wait(self) -> None:
        """For what ``lacks`` has met, until there is room, a stop, or the campaign's end; where
        nobody says how much is free, for a while."""
        met, self._met = self._met, None
        if met is None:
            return
        claim, error, before = met
        # A filesystem that had room enough by its own word is one with a quota.
        known = before is not None and before < error.needed_bytes
        while self._patient():
            wait_s = self._told(claim, error, before)
            if self._rest(wait_s, lambda: known and self._enough(claim, error)) or not known:
                return

    def spool_waited_for(self) -> bool:
        """True when the spool has no room for anything, and this worker has waited for a while.
        Raises WorkerUnfit where it is gone, or stays full for too long."""
        if not spool_is_full(self._spool):
            return False
        if not self._patient():
            raise full_spool(self._spool)
        said = f"no space left in the spool at {self._spool}: no chunk is claimed"
        wait_s = self._tell(said, None, place=str(self._spool))
        self._rest(wait_s, lambda: not spool_is_full(self._spool))
        return True

    def _patient(self) -> bool:
        now_s = self._fleet.clock.monotonic_s()
        self._since_s = now_s if self._since_s is None else self._since_s
        return now_s - self._since_s < self._fleet.settings.full_patience_s

    def _free_bytes(self, claim: Claim, error: DestinationFull) -> int | None:
        if error.spool:
            return None  # what the chunk wrote is gone by now
        try:
            return self._fleet.destination(claim.run_id).free_bytes()
        except DestinationError:
            return None

    def _enough(self, claim: Claim, error: DestinationFull) -> bool:
        free = self._free_bytes(claim, error)
        return free is not None and free >= error.needed_bytes

    def _rest(self, wait_s: float, roomy: Callable[[], bool]) -> bool:
        """True when there is no reason to wait for longer."""
        fleet, left_s, looked_s = self._fleet, wait_s, 0.0
        while left_s > 0:
            if fleet.stop.wait(min(left_s, _ROOM_LOOK_S)) or roomy():
                return True
            left_s -= _ROOM_LOOK_S
            looked_s += _ROOM_LOOK_S
            if looked_s >= _LOOK_S:
                looked_s = 0.0
                if _over(fleet, self._campaign_id):
                    return True
        return False

    def _told(self, claim: Claim, error: DestinationFull, free: int | None) -> float:
        known = "" if free is None else f", and {bytes_text(free)} are free"
        needs = f": its files need {bytes_text(error.needed_bytes)}{known}"
        said = f"chunk {claim.chunk_index} of {claim.export_name} waits for room: {error.message}"
        return self._tell(
            self._fleet.redact(f"{said}{needs if error.needed_bytes else ''}"),
            claim,
            needed_bytes=error.needed_bytes or None,
            free_bytes=free,
        )

    def _tell(self, message: str, claim: Claim | None, **data: object) -> float:
        """How long is waited before the next word."""
        self._tries += 1
        wait_s = backoff_s(attempt=self._tries, base_s=_ROOM_BASE_S)
        self._fleet.emit(
            Event(
                name=EventName.DESTINATION_FULL,
                campaign_id=self._campaign_id,
                run_id=None if claim is None else claim.run_id,
                export_name=None if claim is None else claim.export_name,
                chunk_index=None if claim is None else claim.chunk_index,
                worker_id=self._fleet.identity.worker_id,
                message=message,
                data={**data, "wait_s": round(wait_s, 3)},
            )
        )
        return wait_s
