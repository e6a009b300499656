"""The in-memory store's high-water marks and boundaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rivet_fleet.contracts.events import Event
from rivet_fleet.contracts.keys import RunId
from rivet_fleet.contracts.plan import CampaignPlan
from rivet_fleet.contracts.state import Boundary, Progression, RunStatus
from rivet_fleet.contracts.window import StoredMark
from rivet_fleet.persistence.marks import (
    boundary_of,
    in_progress,
    mark_changed,
    move_events,
    move_of,
    moves_on,
    refuse_moved,
)
from tests.model.rows import Run
from tests.model.views import MemoryRows, synchronized


class MemoryMarks(MemoryRows):
    """Marks move with the run that ends, boundaries behind them."""

    @synchronized
    def marks(self, campaign_name: str, export_names: Sequence[str]) -> dict[str, StoredMark]:
        found = {name: self._marks.get((campaign_name, name)) for name in export_names}
        return {name: mark for name, mark in found.items() if mark is not None}

    @synchronized
    def marked_campaigns(self) -> list[str]:
        return sorted({campaign_name for campaign_name, _ in self._marks})

    @synchronized
    def accept_mark(
        self, campaign_name: str, export_name: str, at: StoredMark, binding: str, event: Event
    ) -> bool:
        key = (campaign_name, export_name)
        for run in self._runs.values():
            same = (run.campaign_name, run.planned.plan.export_name) == key
            if same and run.status is RunStatus.IN_PROGRESS:
                raise in_progress(export_name, run.campaign_id)
        after = replace(at, binding=binding)
        if self._marks.get(key) == after:
            return False
        if self._marks.get(key) != at:
            raise mark_changed(export_name)
        self._marks[key] = after
        self._note(event)
        return True

    @synchronized
    def import_mark(
        self, campaign_name: str, export_name: str, mark: StoredMark, event: Event
    ) -> bool:
        key = (campaign_name, export_name)
        for run in self._runs.values():
            same = (run.campaign_name, run.planned.plan.export_name) == key
            if same and run.status is RunStatus.IN_PROGRESS:
                raise in_progress(export_name, run.campaign_id)
        if key in self._marks:
            return False
        self._marks[key] = mark
        self._note(event)
        return True

    @synchronized
    def progression(self, campaign_name: str) -> list[Progression]:
        known = (*self._last_run, *self._committed, *self._verified)
        names = {n for c, n in known if c == campaign_name}
        return [
            Progression(
                export_name=name,
                cursor=_value(self._marks.get((campaign_name, name))),
                committed=self._committed.get((campaign_name, name)),
                verified=self._verified.get((campaign_name, name)),
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
        move = move_of(plan.cursor, self._marks.get(key))
        if move is None:
            return
        moved = self._marks.get(key) == move.at
        if moved:
            self._marks[key] = move.after
        for event in move_events(run.run_id, run.campaign_id, plan, move, moved=moved):
            self._note(event)

    def _record_committed(self, run: Run) -> None:
        self._record(self._committed, run, run.campaign_name, run.run_id)

    def _record_verified(self, run: Run) -> None:
        of = run.planned.plan.reconcile
        assert of is not None
        self._record(self._verified, run, of.campaign_name, of.of_run)

    def _record(
        self, kept: dict[tuple[str, str], Boundary], run: Run, campaign_name: str, run_id: RunId
    ) -> None:
        plan, key = run.planned.plan, (campaign_name, run.planned.plan.export_name)
        found = boundary_of(plan, len(run.planned.chunks))
        before = kept.get(key)
        if found is None:
            return
        if before is None or moves_on(before.strategy, before.cursor, before.chunk_index, found):
            kept[key] = Boundary(
                strategy=str(found["strategy"]),
                cursor=plan.cursor.mark_after if plan.cursor is not None else None,
                chunk_index=None if plan.cursor is not None else len(run.planned.chunks) - 1,
                run_id=run_id,
                at_s=self._clock(),
            )

    def _forget_marks(self, campaign_name: str, export_name: str) -> None:
        gone = (campaign_name, export_name)
        self._marks = {k: v for k, v in self._marks.items() if k != gone}
        self._committed = {k: v for k, v in self._committed.items() if k != gone}
        self._verified = {k: v for k, v in self._verified.items() if k != gone}
        self._last_run = {k: v for k, v in self._last_run.items() if k != gone}


def _value(mark: StoredMark | None) -> str | None:
    return None if mark is None else mark.value
