"""The in-memory store's rows and everything that only reads them."""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar, cast

from rivet_fleet.contracts.codec import to_plain
from rivet_fleet.contracts.counters import CounterReading, RunCounters
from rivet_fleet.contracts.events import Event, EventName, Told
from rivet_fleet.contracts.identity import NAMESPACE_DEFAULT
from rivet_fleet.contracts.keys import CampaignId, RunId, TaskId
from rivet_fleet.contracts.manifest import LedgerPart, PartStatus
from rivet_fleet.contracts.plan import ExportPlan
from rivet_fleet.contracts.quality import UniqueStats
from rivet_fleet.contracts.state import (
    Boundary,
    CampaignStatus,
    CampaignView,
    JournalEntry,
    JournalFilter,
    Outage,
    RunStatus,
    RunView,
    TaskStatus,
    TaskView,
    WorkerView,
)
from rivet_fleet.contracts.window import StoredMark
from rivet_fleet.errors import StateRefused
from rivet_fleet.persistence.guards import refuse_foreign
from rivet_fleet.persistence.views import ANSWERED, counters_event
from tests.model.rows import Budget, Campaign, Run, Task, Worker

if TYPE_CHECKING:
    from rivet_fleet.persistence.reseal import ToSeal

S = TypeVar("S", bound="MemoryRows")
P = ParamSpec("P")
R = TypeVar("R")


def synchronized(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """One method is one transaction: nobody else is inside meanwhile."""

    @functools.wraps(method)
    def inside(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            return method(self, *args, **kwargs)

    return cast(Callable[Concatenate[S, P], R], inside)


class MemoryRows:
    """The tables of one namespace: what another holds is in another store."""

    def __init__(self, clock: Callable[[], float], *, namespace: str = NAMESPACE_DEFAULT) -> None:
        self._namespace = namespace
        self._clock = clock
        self._lock = threading.RLock()
        self._campaigns: dict[str, Campaign] = {}
        self._runs: dict[str, Run] = {}
        self._tasks: dict[TaskId, Task] = {}
        self._parts: list[LedgerPart] = []
        self._replaced: dict[tuple[RunId, str], int] = {}
        """By run and path, the generation that a repair replaced it in."""
        self._repaired_by: dict[RunId, str] = {}
        self._uniques: dict[tuple[RunId, int, int, int], tuple[UniqueStats, ...]] = {}
        self._last_run: dict[tuple[str, str], RunId] = {}
        self._marks: dict[tuple[str, str], StoredMark] = {}
        self._committed: dict[tuple[str, str], Boundary] = {}
        self._verified: dict[tuple[str, str], Boundary] = {}
        self._workers: dict[str, Worker] = {}
        self._journal: list[JournalEntry] = []
        self._metrics: list[dict[str, object]] = []
        self._budgets: dict[str, Budget] = {}
        self._paces: dict[str, tuple[float, float]] = {}
        self._paid_until_s: dict[str, float] = {}
        self._counters: dict[RunId, RunCounters] = {}
        self._next_task_id = 1

    @property
    def namespace(self) -> str:
        return self._namespace

    @property
    def shared(self) -> bool:
        return False

    def _known(self, campaign_id: CampaignId) -> Campaign:
        refuse_foreign(self.namespace, campaign_id)
        if campaign_id not in self._campaigns:
            raise StateRefused(f"there is no campaign {campaign_id}")
        return self._campaigns[campaign_id]

    def _runs_of(self, campaign_id: CampaignId) -> list[Run]:
        found = [r for r in self._runs.values() if r.campaign_id == campaign_id]
        return sorted(found, key=lambda r: r.position)

    def _tasks_of(self, run_id: RunId) -> list[Task]:
        found = [t for t in self._tasks.values() if t.run_id == run_id]
        return sorted(found, key=lambda t: t.chunk_index)

    def _running(self, group: str) -> int:
        return sum(t.reading for t in self._tasks.values() if t.source_group == group)

    def _note(self, event: Event, ago_s: float = 0.0) -> None:
        self._journal.append(
            JournalEntry(
                journal_id=len(self._journal) + 1,
                at_s=self._clock() - ago_s,
                event=event.name.value,
                campaign_id=event.campaign_id,
                run_id=event.run_id,
                export_name=event.export_name,
                chunk_index=event.chunk_index,
                worker_id=event.worker_id,
                message=event.message,
                data=to_plain(event.data),
            )
        )

    def _note_task(
        self, name: EventName, task: Task, message: str = "", told: Sequence[Told] = ()
    ) -> None:
        for before in told:
            self._note(before.event, before.ago_s())
        self._note(
            Event(
                name=name,
                campaign_id=task.campaign_id,
                run_id=task.run_id,
                export_name=task.export_name,
                chunk_index=task.chunk_index,
                worker_id=task.owner,
                message=message,
            )
        )


class MemoryViews(MemoryRows):
    """Reading, as plain values."""

    def check_seals(self, campaign_id: CampaignId) -> None:
        """Nobody else can write here."""

    def reseal(self, old_key: bytes | None, *, by: str, shown: str | None = None) -> int:
        """Nothing is sealed here."""
        return 0

    def to_seal(self) -> ToSeal:
        """Nothing is sealed here."""
        return ToSeal()

    def now_s(self) -> float:
        return self._clock()

    @synchronized
    def campaign(self, campaign_id: CampaignId) -> CampaignView | None:
        refuse_foreign(self.namespace, campaign_id)
        found = self._campaigns.get(campaign_id)
        return None if found is None else found.view()

    @synchronized
    def campaigns(
        self, *, name: str | None = None, active_only: bool = False
    ) -> list[CampaignView]:
        found = [
            c.view()
            for c in self._campaigns.values()
            if name in (None, c.plan.campaign_name)
            and (not active_only or c.status is CampaignStatus.ACTIVE)
        ]
        return sorted(found, key=lambda c: (-c.created_at_s, c.campaign_id))

    @synchronized
    def committed_tasks(
        self, campaign_id: CampaignId, *, idle_s: float, limit: int = 100
    ) -> list[TaskView]:
        before_s = self._clock() - idle_s
        found = [
            t
            for t in self._tasks.values()
            if (t.campaign_id, t.status) == (campaign_id, TaskStatus.COMMITTED)
            and t.updated_at_s <= before_s
        ]
        found.sort(key=lambda t: (t.updated_at_s, t.task_id))
        return [t.view() for t in found[:limit]]

    @synchronized
    def task(self, run_id: RunId, chunk_index: int) -> TaskView | None:
        found = [t for t in self._tasks_of(run_id) if t.chunk_index == chunk_index]
        return found[0].view() if found else None

    @synchronized
    def tasks(
        self, run_id: RunId, *, status: TaskStatus | None = None, limit: int = 1_000_000
    ) -> list[TaskView]:
        found = [t for t in self._tasks_of(run_id) if status in (None, t.status)]
        return [t.view() for t in found[:limit]]

    @synchronized
    def parts(
        self, run_id: RunId, *, chunk_index: int | None = None, include_voided: bool = False
    ) -> list[LedgerPart]:
        found = [
            p
            for p in self._parts
            if p.run_id == run_id
            and chunk_index in (None, p.chunk_index)
            and (include_voided or p.status is not PartStatus.VOIDED)
        ]
        return sorted(found, key=lambda p: (p.chunk_index, p.part_number))

    @synchronized
    def unique_stats(
        self, run_id: RunId, position: int, columns: tuple[str, ...]
    ) -> list[UniqueStats]:
        found = []
        for part in self.parts(run_id):
            kept = self._uniques.get((run_id, part.chunk_index, part.part_number, part.fence), ())
            found += [replace(kept[position], columns=columns)] if position < len(kept) else []
        return found

    @synchronized
    def last_plans(self, campaign_name: str, export_names: Sequence[str]) -> dict[str, ExportPlan]:
        last = {name: self._last_run.get((campaign_name, name)) for name in export_names}
        return {n: self._runs[r].planned.plan for n, r in last.items() if r in self._runs}

    @synchronized
    def run(self, run_id: RunId) -> RunView | None:
        refuse_foreign(self.namespace, run_id)
        found = self._runs.get(run_id)
        return None if found is None else self._run_view(found)

    @synchronized
    def runs(self, campaign_id: CampaignId) -> list[RunView]:
        refuse_foreign(self.namespace, campaign_id)
        return [self._run_view(r) for r in self._runs_of(campaign_id)]

    def _run_view(self, run: Run) -> RunView:
        parts = [p for p in self._parts if p.run_id == run.run_id]
        claims = (
            e.at_s
            for e in self._journal
            if e.run_id == run.run_id and e.event == EventName.CHUNK_CLAIMED.value
        )
        seen = run.view(self._tasks_of(run.run_id), parts)
        return replace(seen, first_claim_at_s=next(claims, None))

    @synchronized
    def run_finished_at_s(self, run_id: RunId) -> float:
        return max((t.completed_at_s or 0.0 for t in self._tasks_of(run_id)), default=0.0)

    @synchronized
    def workers(
        self, *, host_id: str | None = None, alive_within_s: float = 60.0
    ) -> list[WorkerView]:
        since_s = self._clock() - alive_within_s
        rows = [w for w in self._workers.values() if not w.ended and host_id in (None, w.host_id)]
        rows.sort(key=lambda w: (-w.heartbeat_at_s, w.worker_id))
        return [self._worker_view(w, since_s) for w in rows]

    def _worker_view(self, row: Worker, since_s: float) -> WorkerView:
        held = (
            t.task_id
            for t in self._tasks.values()
            if t.status is TaskStatus.RUNNING and t.owner == row.worker_id
        )
        return WorkerView(
            worker_id=row.worker_id,
            name=row.name,
            host_id=row.host_id,
            pid=row.pid,
            pid_started_at_s=row.pid_started_at_s,
            started_at_s=row.started_at_s,
            heartbeat_at_s=row.heartbeat_at_s,
            alive=row.heartbeat_at_s >= since_s,
            rss_bytes=row.rss_bytes,
            running_task=min(held, default=None),
        )

    @synchronized
    def journal(
        self,
        *,
        campaign_id: CampaignId | None = None,
        run_id: RunId | None = None,
        after_id: int = 0,
        limit: int = 1000,
        only: JournalFilter | None = None,
        newest: bool = False,
    ) -> list[JournalEntry]:
        found = [
            e
            for e in self._journal
            if e.journal_id > after_id
            and campaign_id in (None, e.campaign_id)
            and run_id in (None, e.run_id)
            and (only is None or self._passes(e, only))
        ]
        return found[max(len(found) - limit, 0) :] if newest else found[:limit]

    def _passes(self, entry: JournalEntry, only: JournalFilter) -> bool:
        named = {w.worker_id for w in self._workers.values() if w.name == only.worker}
        return (
            only.export_name in (None, entry.export_name)
            and (not only.events or entry.event in only.events)
            and (only.worker in (None, entry.worker_id) or entry.worker_id in named)
            and (only.since_s is None or entry.at_s >= only.since_s)
        )

    @synchronized
    def outage(self, campaign_id: CampaignId, run_ids: Sequence[RunId]) -> Outage | None:
        about = [e for e in self._journal if e.campaign_id == campaign_id and e.run_id in run_ids]
        answered_id = max((e.journal_id for e in about if e.event in ANSWERED), default=0)
        released = EventName.CHUNK_RELEASED.value
        given_back = [
            e for e in about if e.journal_id > answered_id and e.event == released and e.message
        ]
        if not given_back:
            return None
        return Outage(
            since_s=min(e.at_s for e in given_back),
            last_s=max(e.at_s for e in given_back),
            tries=len(given_back),
            message=given_back[-1].message,
        )

    @synchronized
    def journal_counts(self, campaign_id: CampaignId) -> dict[str, int]:
        return dict(Counter(e.event for e in self._journal if e.campaign_id == campaign_id))

    @synchronized
    def write_journal(self, event: Event) -> None:
        self._note(event)

    @synchronized
    def metrics(
        self,
        *,
        campaign_name: str | None = None,
        export_name: str | None = None,
        limit: int = 20,
    ) -> list[dict[str, object]]:
        found = [
            m
            for m in reversed(self._metrics)
            if export_name in (None, m["export_name"])
            and campaign_name in (None, m["campaign_name"])
        ]
        return found[:limit]


class MemoryCounters(MemoryRows):
    """One look before, one after."""

    @synchronized
    def note_counters_before(self, run_id: RunId, source: str, reading: CounterReading) -> None:
        run = self._runs.get(run_id)
        if run is not None and run.status is RunStatus.IN_PROGRESS:
            self._counters.setdefault(
                run_id, RunCounters(run_id=run_id, source=source, before=reading)
            )

    @synchronized
    def note_counters_after(self, run_id: RunId, reading: CounterReading) -> None:
        if run_id in self._counters and run_id in self._runs:
            run = self._runs[run_id]
            self._counters[run_id] = looked = replace(self._counters[run_id], after=reading)
            self._note(counters_event(looked, run.campaign_id, run.planned.plan.export_name))

    @synchronized
    def counters_of(self, run_id: RunId) -> RunCounters | None:
        return self._counters.get(run_id)

    @synchronized
    def counters(self, campaign_id: CampaignId) -> list[RunCounters]:
        runs = self._runs_of(campaign_id)
        return [self._counters[run.run_id] for run in runs if run.run_id in self._counters]
