"""Which campaign a verb or a worker is about, and whether it is this configuration's. Apart from
``submit``, so that a worker does not import the planner."""

from __future__ import annotations

from rivet_fleet.contracts.identity import CAMPAIGN_OTHER, CampaignIdentity
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.state import CampaignView
from rivet_fleet.contracts.task import CampaignStatus
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.errors import StateRefused
from rivet_fleet.persistence.store import Store
from rivet_fleet.planning.identity import present_identity
from rivet_fleet.planning.loaded import LoadedConfig


def find_campaign(
    fleet: Fleet, loaded: LoadedConfig, wanted: CampaignId | None, *, copied: bool = False
) -> CampaignView:
    """The campaign a verb is about: by id, else the active one of this name, else the newest.

    ``copied``: this may be a copy of the configuration on another host; with an id, its name is
    enough. Raises StateRefused, naming what is known, when there is none, and when it belongs to
    another configuration (N3).
    """
    name = loaded.campaign_name
    known = fleet.store.campaigns(name=name)
    if wanted is not None:
        view = fleet.store.campaign(wanted)
        if view is None:
            listed = ", ".join(c.campaign_id for c in known[:5]) or "none"
            raise StateRefused(
                f"there is no campaign {wanted} in this state database",
                hint=f"known campaigns of {name}: {listed}",
            )
        refuse_other(fleet.store, loaded, view, copied=copied)
        return view
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
    if view.campaign_name != loaded.campaign_name:
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
