"""The in-memory store's looks at a source's counters."""

from __future__ import annotations

from dataclasses import replace

from rivet_fleet.contracts.counters import HarmReading, RunHarm
from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.state import RunStatus
from rivet_fleet.persistence.memory_views import MemoryRows, synchronized
from rivet_fleet.persistence.views import harm_event


class MemoryHarm(MemoryRows):
    """One look before, one after."""

    @synchronized
    def note_harm_before(self, run_id: RunId, source: str, reading: HarmReading) -> None:
        """See ``Store.note_harm_before``."""
        run = self._runs.get(run_id)
        if run is not None and run.status is RunStatus.IN_PROGRESS:
            self._harm.setdefault(run_id, RunHarm(run_id=run_id, source=source, before=reading))

    @synchronized
    def note_harm_after(self, run_id: RunId, reading: HarmReading) -> None:
        """See ``Store.note_harm_after``."""
        if run_id in self._harm and run_id in self._runs:
            run = self._runs[run_id]
            self._harm[run_id] = harm = replace(self._harm[run_id], after=reading)
            self._note(harm_event(harm, run.campaign_id, run.planned.plan.export_name))

    @synchronized
    def harm(self, campaign_id: CampaignId) -> list[RunHarm]:
        """See ``Store.harm``."""
        runs = self._runs_of(campaign_id)
        return [self._harm[run.run_id] for run in runs if run.run_id in self._harm]
