"""The in-memory store's high-water marks and boundaries."""

from __future__ import annotations

from collections.abc import Sequence

from rivet_fleet.contracts.plan import CampaignPlan
from rivet_fleet.contracts.state import Boundary, Progression
from rivet_fleet.persistence.marks import boundary_of, mark_event, moves_on, refuse_moved
from rivet_fleet.persistence.memory_model import Run
from rivet_fleet.persistence.memory_views import MemoryRows, synchronized


class MemoryMarks(MemoryRows):
    """Marks move with the run that ends, boundaries behind them."""

    @synchronized
    def cursors(self, campaign_name: str, export_names: Sequence[str]) -> dict[str, str]:
        """See ``Store.cursors``."""
        found = {name: self._marks.get((campaign_name, name)) for name in export_names}
        return {name: mark for name, mark in found.items() if mark is not None}

    @synchronized
    def progression(self, campaign_name: str) -> list[Progression]:
        """See ``Store.progression``."""
        names = {n for c, n in (*self._last_run, *self._committed) if c == campaign_name}
        return [
            Progression(
                export_name=name,
                cursor=self._marks.get((campaign_name, name)),
                committed=self._committed.get((campaign_name, name)),
            )
            for name in sorted(names)
        ]

    def _refuse_moved_marks(self, plan: CampaignPlan) -> None:
        for run in plan.runs:
            name, cursor = run.plan.export_name, run.plan.cursor
            if cursor is not None:
                refuse_moved(name, cursor, self._marks.get((plan.campaign_name, name)))

    def _move_mark(self, run: Run) -> None:
        plan, key = run.planned.plan, (run.campaign_name, run.planned.plan.export_name)
        cursor = plan.cursor
        stored = self._marks.get(key)
        if cursor is None or cursor.mark_after in (None, cursor.mark_before, stored):
            return
        moved = stored == cursor.mark_before
        if moved:
            self._marks[key] = cursor.mark_after
        self._note(mark_event(run.run_id, run.campaign_id, plan, moved=moved))

    def _record_committed(self, run: Run) -> None:
        plan, key = run.planned.plan, (run.campaign_name, run.planned.plan.export_name)
        found = boundary_of(plan, len(run.planned.chunks))
        before = self._committed.get(key)
        if found is None:
            return
        if before is None or moves_on(before.strategy, before.cursor, before.chunk_index, found):
            self._committed[key] = Boundary(
                strategy=str(found["strategy"]),
                cursor=plan.cursor.mark_after if plan.cursor is not None else None,
                chunk_index=None if plan.cursor is not None else len(run.planned.chunks) - 1,
                run_id=run.run_id,
                at_s=self._clock(),
            )

    def _forget_marks(self, campaign_name: str, export_name: str) -> None:
        gone = (campaign_name, export_name)
        self._marks = {k: v for k, v in self._marks.items() if k != gone}
        self._committed = {k: v for k, v in self._committed.items() if k != gone}
        self._last_run = {k: v for k, v in self._last_run.items() if k != gone}
