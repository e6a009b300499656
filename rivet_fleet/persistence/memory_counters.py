"""The in-memory store's looks at a source's counters."""

from __future__ import annotations

from dataclasses import replace

from rivet_fleet.contracts.counters import CounterReading, RunCounters
from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.state import RunStatus
from rivet_fleet.persistence.memory_views import MemoryRows, synchronized
from rivet_fleet.persistence.views import counters_event


class MemoryCounters(MemoryRows):
    """One look before, one after."""

    @synchronized
    def note_counters_before(self, run_id: RunId, source: str, reading: CounterReading) -> None:
        """See ``Store.note_counters_before``."""
        run = self._runs.get(run_id)
        if run is not None and run.status is RunStatus.IN_PROGRESS:
            self._counters.setdefault(
                run_id, RunCounters(run_id=run_id, source=source, before=reading)
            )

    @synchronized
    def note_counters_after(self, run_id: RunId, reading: CounterReading) -> None:
        """See ``Store.note_counters_after``."""
        if run_id in self._counters and run_id in self._runs:
            run = self._runs[run_id]
            self._counters[run_id] = looked = replace(self._counters[run_id], after=reading)
            self._note(counters_event(looked, run.campaign_id, run.planned.plan.export_name))

    @synchronized
    def counters(self, campaign_id: CampaignId) -> list[RunCounters]:
        """See ``Store.counters``."""
        runs = self._runs_of(campaign_id)
        return [self._counters[run.run_id] for run in runs if run.run_id in self._counters]
