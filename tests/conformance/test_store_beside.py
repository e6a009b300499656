"""Two lives in one state, step by step: each must read as it would alone (ADR 0022, N2).

Everything has the same name in both namespaces and another number, so a statement that forgot the
namespace would answer with the other's. Alone is the in-memory model, one for each.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from rivet_fleet.contracts.counters import CounterReading
from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.identity import NAMESPACE_DEFAULT, within
from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.plan import CampaignPlan
from rivet_fleet.contracts.protection import GovernorWord, MonitorPlan, SourceBudget
from rivet_fleet.contracts.quality import RunFindings
from rivet_fleet.contracts.state import Failure, FinishedRun, JournalFilter, WorkerIdentity
from rivet_fleet.contracts.window import CursorPlan, StoredMark, mark_text
from rivet_fleet.errors import StateRefused
from rivet_fleet.persistence.store import Store
from tests.campaigns import campaign_plan, staged_part
from tests.conformance.test_store import GATE
from tests.model.store import MemoryStore
from tests.stores import Backend, identity

THEIRS = "team-b"


def mark(at: int) -> str:
    return mark_text(("at", "id"), None, (str(at), "1"))


class Life:
    """One namespace's; ``v`` is what tells its numbers from the other's."""

    def __init__(self, store: Store, v: int) -> None:
        self.store, self.v, self.namespace = store, v, store.namespace
        self.me: WorkerIdentity = replace(identity(f"id-{store.namespace}"), name="w")

    def id(self, bare: str) -> CampaignId:
        return CampaignId(within(bare, self.namespace))

    def run_id(self, bare: str) -> RunId:
        return RunId(within(f"{bare}-e0", self.namespace))

    def plan(self, bare: str, before: int | None, after: int, chunks: int = 3) -> CampaignPlan:
        made = campaign_plan(campaign_id=self.id(bare), chunks=(chunks,), groups=["db"])
        cursor = CursorPlan(
            mode="single_column",
            columns=("at", "id"),
            mark_before=None if before is None else mark(before),
            mark_after=mark(after),
        )
        (run,) = made.runs
        run = replace(run, plan=replace(run.plan, mode="incremental", cursor=cursor))
        return replace(made, runs=(run,))

    def budget(self) -> SourceBudget:
        watched = MonitorPlan(flag_file=f"/stop-{self.v}")
        return SourceBudget(
            group_name="db", chunks_max=1 + self.v, rows_per_s=10.0 * self.v, monitor=watched
        )

    def groups(self, bare: str) -> list[Any]:
        return [
            (
                g.slots_max,
                g.running,
                g.running_here,
                g.permits,
                g.page_share,
                g.halted,
                g.rows_per_s,
            )
            for g in self.store.groups(self.id(bare))
        ]

    def remembers(self) -> list[Any]:
        """What the next plan would begin with, and what people are shown."""
        history = self.store.history("shop", ["e0"]).get("e0", [])
        return [
            self.store.marks("shop", ["e0"]),
            [
                (p.cursor, p.committed and p.committed.cursor)
                for p in self.store.progression("shop")
            ],
            [(one.succeeded, one.rows, one.chunks) for one in history],
            sorted(self.store.last_plans("shop", ["e0"])),
            [row["total_rows"] for row in self.store.metrics()],
            [(c.status, c.halted) for c in sorted_by_id(self.store)],
        ]

    def deliver(self, bare: str) -> None:
        while (claim := self.store.claim(self.id(bare), self.me, 60.0)) is not None:
            part = staged_part(claim.chunk_index, claim.fence)
            self.store.commit(claim.task_id, claim.fence, [part], rows=10, pages=1)
            self.store.mark_published(claim.task_id, claim.fence)

    def end(self, bare: str, *, refused: bool = False) -> None:
        self.deliver(bare)
        lease = self.store.lease_finalize(self.run_id(bare), self.me, 60.0)
        assert lease is not None
        if refused:
            self.store.fail_run(lease, "gates", RunFindings(gates=(GATE,)))
        else:
            self.store.finish_run(
                lease,
                FinishedRun(
                    manifest_fingerprint="x", rows=self.v, bytes=1, files=1, duration_s=1.0
                ),
            )
        self.store.finish_campaign(self.id(bare))

    def steps(self) -> Iterator[object]:
        """Each answer is compared with the model's."""
        yield from self.protects()
        yield from self.keeps()
        yield from self.gives_up()

    def protects(self) -> Iterator[object]:
        store, v = self.store, self.v
        store.submit(self.plan("c1", None, v))
        store.renew(self.me, [], 60.0, 1)
        yield store.set_budgets([self.budget()], by="w")
        leases = store.lease_governor(self.id("c1"), self.me, 60.0, patience_s=-1.0)
        yield [lease.budget for lease in leases]
        (lease,) = leases
        store.govern(lease, GovernorWord(permits=1 + v, page_share=v / 10), 60.0)
        yield self.groups("c1")
        claims = [store.claim(self.id("c1"), self.me, 60.0) for _ in range(1 + v)]
        yield [c and (c.run_id, c.chunk_index) for c in claims]
        yield store.claim(self.id("c1"), self.me, 60.0)
        yield self.groups("c1")
        for claim in claims:
            assert claim is not None
            standing = store.standing(claim.task_id)
            yield standing.ahead, standing.permits, standing.page_share, standing.budget
        yield store.reserve("db", 100.0, 0.0) > 0
        # A rate of 10 a second, or of 20: ten seconds, or five.
        yield store.reserve("db", 100.0, 0.0) > 7.0
        store.govern(lease, GovernorWord(permits=9, page_share=1.0, halt=f"stop {v}"), 60.0)
        yield self.groups("c1"), self.remembers()
        yield store.lift_halt(self.id("c1"))
        yield self.groups("c1"), self.remembers()
        store.leave_governor(lease)
        again = store.lease_governor(self.id("c1"), self.me, 60.0, patience_s=0.0)
        yield [(one.fence - lease.fence, one.permits) for one in again]
        for claim in claims:
            assert claim is not None
            store.release(claim.task_id, claim.fence)

    def keeps(self) -> Iterator[object]:
        store, v = self.store, self.v
        reading = CounterReading(engine="x", taken_at_s=float(v), counters={"n": v}, context={})
        store.note_counters_before(self.run_id("c1"), f"s{v}", reading)
        yield self.remembers()
        self.end("c1")
        yield self.remembers()
        bound = StoredMark(value=mark(v), binding=None)
        event = Event(name=EventName.MARK_ACCEPTED)
        yield store.accept_mark("shop", "e0", bound, f'["{v}"]', event)
        yield self.remembers()
        yield [e.event for e in store.journal(only=JournalFilter(worker="w"))][:3]
        yield [h.source for h in store.counters(self.id("c1"))]
        if v == 1:
            store.reset_export("shop", "e0", chunks_only=True)
        yield [h.source for h in store.counters(self.id("c1"))], self.remembers()

    def gives_up(self) -> Iterator[object]:
        store, v = self.store, self.v
        stored = store.marks("shop", ["e0"])["e0"]
        made = self.plan("c2", v, v + 5, chunks=1)
        (run,) = made.runs
        cursor = replace(run.plan.cursor, binding_before=stored.binding)  # type: ignore[type-var]
        run = replace(run, plan=replace(run.plan, cursor=cursor))
        yield store.submit(replace(made, runs=(run,))).created
        if v == 1:
            self.end("c2", refused=True)
            yield self.remembers()
            yield self.asks_to_accept("c2")
            self.end("c2")
        else:
            claim = store.claim(self.id("c2"), self.me, 60.0)
            assert claim is not None
            yield self.asks_to_reset()
            how = Failure(error_class="X", message="m", permanent=True)
            store.fail(claim.task_id, claim.fence, how)
            store.cancel(self.id("c2"))
            yield self.remembers()
            yield store.reset_export("shop", "e0", chunks_only=False)
        yield self.remembers()

    def asks_to_accept(self, bare: str) -> object:
        return self.store.accept_run(self.run_id(bare), by="ann", reason="r").created

    def asks_to_reset(self) -> object:
        try:
            return self.store.reset_export("shop", "e0", chunks_only=True)
        except StateRefused as refused:
            return refused.message


def sorted_by_id(store: Store) -> list[Any]:
    return sorted(store.campaigns(), key=lambda one: one.campaign_id)


@pytest.mark.parametrize("first", [1, 2])
def test_two_lives_read_as_two_alone(backend: Backend, first: int) -> None:
    beside = backend.beside(THEIRS)
    stores = {1: backend.store, 2: beside}
    spaces = {1: NAMESPACE_DEFAULT, 2: THEIRS}
    order = (first, 3 - first)
    lives = [Life(stores[v], v).steps() for v in order]
    alone = [Life(MemoryStore(time.time, namespace=spaces[v]), v).steps() for v in order]
    pairs = [zip(life, model, strict=True) for life, model in zip(lives, alone, strict=True)]
    for number, answers in enumerate(itertools.zip_longest(*pairs)):
        for v, both in zip(order, answers, strict=True):
            if both is not None:
                assert both[0] == both[1], f"step {number} of {spaces[v]}"
    beside.close()
