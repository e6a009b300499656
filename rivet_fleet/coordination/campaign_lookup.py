"""Which campaign a verb or a worker is about. Apart from ``submit``, so that a worker does not
import the planner."""

from __future__ import annotations

from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.state import CampaignView
from rivet_fleet.contracts.task import CampaignStatus
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.errors import StateRefused


def find_campaign(fleet: Fleet, name: str, wanted: CampaignId | None) -> CampaignView:
    """The campaign a verb is about: by id, else the active one of this name, else the newest.

    Raises StateRefused, naming what is known, when there is none.
    """
    known = fleet.store.campaigns(name=name)
    if wanted is not None:
        view = fleet.store.campaign(wanted)
        if view is None:
            listed = ", ".join(c.campaign_id for c in known[:5]) or "none"
            raise StateRefused(
                f"there is no campaign {wanted} in this state database",
                hint=f"known campaigns of {name}: {listed}",
            )
        return view
    active = [c for c in known if c.status is CampaignStatus.ACTIVE]
    if not known:
        raise StateRefused(
            f"no campaign of {name} was ever submitted to this state database",
            hint="`rivet-fleet run` or `rivet-fleet submit` starts one; check --state-url if you "
            "expected one here",
        )
    return (active or known)[0]


def await_campaign(
    fleet: Fleet, name: str, wanted: CampaignId | None, *, wait_s: float
) -> CampaignView | None:
    """As ``find_campaign``, but the campaign may take ``wait_s`` to appear.

    None when a stop was requested meanwhile.
    """
    deadline_s = fleet.clock.monotonic_s() + wait_s
    while True:
        try:
            return fleet.patience.call(
                "find the campaign", lambda: find_campaign(fleet, name, wanted)
            )
        except StateRefused:
            if fleet.clock.monotonic_s() >= deadline_s:
                raise
        if fleet.stop.wait(1.0):
            return None
