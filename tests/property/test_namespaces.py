"""Random verbs in one namespace never change a row of another (ADR 0022, N1 and N2).

Everything has one name in both: campaigns, exports, groups, bare ids. After every verb the rows of
the other namespace are what they were, to the last column.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.identity import NAMESPACE_DEFAULT, CampaignIdentity, namespace_of, within
from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.protection import GovernorWord, MonitorPlan, SourceBudget
from rivet_fleet.contracts.state import Failure, FinishedRun
from rivet_fleet.errors import LeaseLost, StateRefused
from rivet_fleet.persistence.schema import metadata
from rivet_fleet.persistence.store import Store
from tests.campaigns import campaign_plan, staged_part
from tests.stores import SqlBackend, identity, sqlite_backend

SPACES = (NAMESPACE_DEFAULT, "team-b")
VERBS = 120
FINISHED = FinishedRun(manifest_fingerprint="x", rows=1, bytes=1, files=1, duration_s=1.0)


@pytest.fixture(params=["sqlite", "postgres"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlBackend]:
    if request.param == "sqlite":
        made = sqlite_backend(tmp_path)
    else:
        made = SqlBackend(request.getfixturevalue("database"))
    yield made
    made.store.close()


def rows_of(backend: SqlBackend, namespace: str) -> dict[str, list[Any]]:
    """Every row of a namespace: by its column, else by the run it belongs to."""
    found: dict[str, list[Any]] = {}
    with backend.sql._db.connected() as connection:
        for table in metadata.sorted_tables:
            rows = [dict(row._mapping) for row in connection.execute(select(table))]
            if table.name == "fleet_meta":
                continue
            own = (row.get("namespace") or namespace_of(row["run_id"]) for row in rows)
            found[table.name] = sorted(
                (repr(row) for row, whose in zip(rows, own, strict=True) if whose == namespace)
            )
    return found


class Team:
    """What one namespace does, at random: it remembers the claims and leases it has."""

    def __init__(self, store: Store, chance: random.Random) -> None:
        self.store, self.chance, self.namespace = store, chance, store.namespace
        self.worker = identity(f"w-{store.namespace}")
        self.claims: list[Any] = []
        self.ids: list[CampaignId] = []

    def step(self) -> None:
        name = self.chance.choice([n for n in dir(self) if n.startswith("do_")])
        with contextlib.suppress(LeaseLost, StateRefused):
            getattr(self, name)()

    def some_id(self) -> CampaignId:
        return self.chance.choice(self.ids or [CampaignId(within("none", self.namespace))])

    def do_submit(self, *, anew: bool = False) -> None:
        campaign_id = CampaignId(within(f"c{len(self.ids)}", self.namespace))
        plan = campaign_plan(
            campaign_id=campaign_id, chunks=(2, 1), groups=["db", None], slots={"db": 2}
        )
        self.store.submit(plan, replacing=self.ids if anew else ())
        self.ids.append(campaign_id)

    def do_replace(self) -> None:
        self.do_submit(anew=True)

    def do_claim(self) -> None:
        claim = self.store.claim(self.some_id(), self.worker, 60.0)
        self.claims += [claim] if claim else []

    do_claim_too = do_claim_again = do_claim

    def do_deliver(self) -> None:
        for claim in self.claims:
            part = staged_part(claim.chunk_index, claim.fence)
            with contextlib.suppress(LeaseLost):
                self.store.commit(claim.task_id, claim.fence, [part], rows=10, pages=1)
                self.store.mark_published(claim.task_id, claim.fence)
        self.claims.clear()

    def do_fail(self) -> None:
        if self.claims:
            claim = self.claims.pop()
            how = Failure(error_class="X", message="m", permanent=True)
            self.store.fail(claim.task_id, claim.fence, how)

    def do_finish(self) -> None:
        self.store.lift_halt(self.some_id())
        for campaign_id in self.ids[-2:]:
            while (claim := self.store.claim(campaign_id, self.worker, 60.0)) is not None:
                self.claims.append(claim)
                self.do_deliver()
            self.finish(campaign_id)

    do_finish_too = do_finish

    def finish(self, campaign_id: CampaignId) -> None:
        for run_id in self.store.finalizable_runs(campaign_id):
            lease = self.store.lease_finalize(RunId(run_id), self.worker, 60.0)
            if lease is not None:
                self.store.finish_run(lease, FINISHED)

    def do_settle(self) -> None:
        self.store.finish_campaign(self.some_id())

    def do_cancel(self) -> None:
        self.store.cancel(self.some_id())

    def do_reset(self) -> None:
        self.store.reset_export("shop", "e0", chunks_only=self.chance.random() < 0.5)

    def do_beat_and_reap(self) -> None:
        self.store.renew(self.worker, [], self.chance.choice([-1.0, 60.0]), 1)
        self.store.reap_expired()
        self.store.requeue(self.some_id())

    def do_reap_own(self) -> None:
        self.store.reap_worker(self.worker.worker_id, "gone")

    def do_budget(self) -> None:
        monitor = self.chance.choice([None, MonitorPlan(flag_file="/stop")])
        budget = SourceBudget(group_name="db", chunks_max=3, rows_per_s=9.0, monitor=monitor)
        self.store.set_budgets([budget], by="w")
        self.store.reserve("db", 5.0, 0.0)
        self.store.reserve_retry("db", 1.0)

    def do_govern(self) -> None:
        for lease in self.store.lease_governor(self.some_id(), self.worker, 60.0, patience_s=-99.0):
            self.store.hold_governor(lease, 60.0)
            self.store.govern(lease, GovernorWord(permits=1, page_share=0.5, halt="stop"), 60.0)
        self.store.lift_halt(self.some_id())

    def do_sign(self) -> None:
        mine = CampaignIdentity(name="shop", named=True, path=f"/{self.namespace}")
        self.store.accept_campaigns("shop", mine, Event(name=EventName.CAMPAIGN_ACCEPTED))

    def check(self) -> None:
        """What it sees is its own."""
        assert {namespace_of(c.campaign_id) for c in self.store.campaigns()} <= {self.namespace}
        assert {w.worker_id for w in self.store.workers()} <= {self.worker.worker_id}
        named = {e.campaign_id for e in self.store.journal() if e.campaign_id}
        assert {namespace_of(one) for one in named} <= {self.namespace}


def test_random_verbs_stay_within_their_namespace(backend: SqlBackend) -> None:
    chance = random.Random(7)
    other = backend.beside(SPACES[1])
    teams = [Team(store, chance) for store in (backend.store, other)]
    rows = [rows_of(backend, namespace) for namespace in SPACES]
    for _ in range(VERBS):
        acting = chance.randrange(2)
        teams[acting].step()
        teams[acting].check()
        now = [rows_of(backend, namespace) for namespace in SPACES]
        assert now[1 - acting] == rows[1 - acting]
        rows = now
    other.close()
    for namespace in SPACES:
        empty = [name for name, found in rows_of(backend, namespace).items() if not found]
        assert set(empty) <= {"part_unique", "export_harm", "export_progression"}, "nothing ran"
