"""Repairs, without a database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from rivet_fleet.contracts.keys import RunId
from rivet_fleet.contracts.manifest import LedgerPart, PartStatus
from rivet_fleet.contracts.state import CampaignStatus, TaskStatus
from rivet_fleet.persistence.repairs import GIVEN_UP, refuse_repair, repairing_event, underway
from tests.model.rows import Run, Task
from tests.model.verdicts import MemoryFinish
from tests.model.views import MemoryViews, synchronized


class MemoryRepairs(MemoryFinish, MemoryViews):
    """See ``persistence.repairs``."""

    def _reopen(self, task: Task, reason: str) -> None:
        raise NotImplementedError

    def _revive_run(self, run: Run) -> None:
        raise NotImplementedError

    @synchronized
    def repair_run(
        self, run_id: RunId, *, generation: int, fences: Mapping[int, int], by: str, reason: str
    ) -> int:
        run = self._runs.get(run_id)
        if run is None:
            raise underway(f"there is no run {run_id}")
        if run.generation == generation + 1 and self._repaired_by.get(run_id) == by:
            return run.generation
        refuse_repair(run_id, run.status, run.generation, generation)
        if self._campaigns[run.campaign_id].status is CampaignStatus.CANCELLED:
            raise underway(f"the campaign of run {run_id} was cancelled", hint=GIVEN_UP)
        other = self.other_in_progress(run_id)
        if other is not None:
            raise underway(f"run {other} of the same export is in progress")
        tasks = [t for t in self._tasks_of(run_id) if t.chunk_index in fences]
        if len(tasks) < len(fences):
            raise underway(f"a chunk of run {run_id} was read again meanwhile")
        for task in tasks:
            if task.fence != fences[task.chunk_index] or task.status is not TaskStatus.COMPLETED:
                raise underway(f"chunk {task.chunk_index} of run {run_id} was read again meanwhile")
        former = replace(run)
        for task in tasks:
            task.former = replace(task, former=None)
            task.generation = generation + 1
            for part in self.parts(run_id, chunk_index=task.chunk_index):
                self._replaced[run_id, part.path] = generation + 1
            self._reopen(task, reason)
        self._revive_run(run)
        run.generation, run.former = generation + 1, former
        self._repaired_by[run_id] = by
        name = run.planned.plan.export_name
        told = (run.campaign_id, run_id, name, by, reason, run.generation, sorted(fences))
        self._note(repairing_event(*told))
        return run.generation

    @synchronized
    def replaced_parts(self, run_id: RunId, *, until: int | None = None) -> list[LedgerPart]:
        return [
            part
            for part in self.parts(run_id, include_voided=True)
            if (run_id, part.path) in self._replaced
            and (until is None or self._replaced[run_id, part.path] <= until)
        ]

    @synchronized
    def kept_parts(self, run_id: RunId) -> list[LedgerPart]:
        return [
            part
            for part in self.parts(run_id, include_voided=True)
            if part.status is not PartStatus.VOIDED or (run_id, part.path) in self._replaced
        ]

    @synchronized
    def forget_replaced(self, run_id: RunId, generation: int) -> None:
        for key, replaced_in in list(self._replaced.items()):
            if key[0] == run_id and replaced_in <= generation:
                del self._replaced[key]
