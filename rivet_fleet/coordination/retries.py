"""Trying a source again: out of one budget that all processes share (ADR 0013).

Every failure is paid for before the next connection or statement that repeats it, whoever makes it.
"""

from __future__ import annotations

from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.plan import ExportPlan
from rivet_fleet.contracts.retry import retry_cost_s
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.errors import RivetFleetError

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
        self._rest_s = self.wait_s(plan, own_s, lost_bytes)

    def rest(self) -> None:
        """Wait for what ``rest_later`` reserved, without a chunk; until a stop, or the campaign's
        end."""
        fleet, left_s, self._rest_s = self._fleet, self._rest_s, 0.0
        while left_s > 0 and not fleet.stop.wait(min(left_s, _LOOK_S)):
            left_s -= _LOOK_S
            if left_s > 0 and self._over():
                return

    def _over(self) -> bool:
        fleet = self._fleet
        view = fleet.patience.call(
            "look whether there is work", lambda: fleet.store.campaign(self._campaign_id)
        )
        return view is None or view.status.over or view.halted is not None

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


def _key(plan: ExportPlan) -> str:
    """One budget for a source group, whatever its sources are called."""
    return plan.source_group or plan.read.source_identity
