"""A process that stands still exactly where a scenario wants it, while the world is changed.

It stops itself (kill point, action ``stop``) right behind the point, and goes on when told.
"""

from __future__ import annotations

from pathlib import Path

import psutil

from chaos.processes import is_stopped, until, workers_of
from chaos.scenario import Campaign
from rivet_fleet.contracts.killpoints import KillAction, KillPoint

_START_S = 90.0


def stopping_at(campaign: Campaign, point: KillPoint, nth: int) -> str:
    """What to arm: the first process that comes to ``point`` for the ``nth`` time stops itself."""
    return f"{point.value}:{KillAction.STOP.value}:{nth}:{_marker(campaign)}"


def standing_still(campaign: Campaign, point: KillPoint) -> psutil.Process:
    """The process that has stopped itself, worker or coordinator. Raises ChaosTimeout."""

    def found() -> psutil.Process | None:
        if not _marker(campaign).exists():
            return None
        candidates = workers_of(campaign.config)
        candidates += [psutil.Process(c.pid) for c in campaign.coordinators if c.alive]
        return next((p for p in candidates if is_stopped(p)), None)

    return until(found, what=f"a process stops at {point.value}", deadline_s=_START_S)


def _marker(campaign: Campaign) -> Path:
    """Is there as soon as one process has stopped itself."""
    return campaign.folder / "stopped"
