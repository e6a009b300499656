"""One state, two namespaces (ADR 0022): each behaves as if it were alone (N1, N2).

The in-memory model of a namespace is a store of its own, so what the other two must do is what two
models do that know nothing of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from rivet_fleet.contracts.codec import dumps
from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.identity import (
    NAMESPACE_DEFAULT,
    NAMESPACE_OTHER,
    CampaignIdentity,
    within,
)
from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.plan import CampaignPlan
from rivet_fleet.contracts.protection import GovernorWord, MonitorPlan, SourceBudget
from rivet_fleet.contracts.state import JournalFilter
from rivet_fleet.contracts.window import CursorPlan, StoredMark, mark_text
from rivet_fleet.errors import StateRefused
from rivet_fleet.persistence.open import open_store, state_health
from rivet_fleet.persistence.store import Store
from tests.campaigns import campaign_plan, staged_part
from tests.conformance.test_store import finished, unique
from tests.stores import Backend, SqlBackend, identity

OURS, THEIRS = NAMESPACE_DEFAULT, "team-b"
SPACES = (OURS, THEIRS)


@pytest.fixture
def pair(backend: Backend) -> Iterator[dict[str, Store]]:
    other = backend.beside(THEIRS)
    yield {OURS: backend.store, THEIRS: other}
    other.close()


def named(namespace: str, bare: str = "c1") -> CampaignId:
    return CampaignId(within(bare, namespace))


def plan(namespace: str, bare: str = "c1", **more: Any) -> CampaignPlan:
    made = campaign_plan(
        campaign_id=named(namespace, bare), chunks=(2,), groups=["db"], slots={"db": 1}, **more
    )
    return replace(made, identity=CampaignIdentity(name="shop", named=True, path=f"/{namespace}"))


def submitted(pair: dict[str, Store]) -> None:
    """The same everything in both: id, name, export, group."""
    for namespace, store in pair.items():
        assert store.submit(plan(namespace)).created


def worker(namespace: str) -> Any:
    return identity(f"w-{namespace}")


def seen(store: Store, namespace: str) -> str:
    """Everything a namespace can see of itself, but what merely passes."""
    campaign_id = named(namespace)
    run_id = RunId(within("c1-e0", namespace))
    return dumps(
        [
            store.campaigns(),
            store.runs(campaign_id),
            store.tasks(run_id),
            store.parts(run_id),
            store.journal(),
            store.metrics(),
            store.budgets(),
            [replace(w, heartbeat_at_s=0.0) for w in store.workers()],
            store.groups(campaign_id),
            store.progression("shop"),
        ]
    )


def test_one_id_one_name_one_group_in_two_namespaces(pair: dict[str, Store]) -> None:
    submitted(pair)
    for namespace, store in pair.items():
        claim = store.claim(named(namespace), worker(namespace), 60.0)
        assert claim is not None, "the other's running chunk fills no budget of ours"
        assert store.claim(named(namespace), worker(namespace), 60.0) is None
        (view,) = store.campaigns(name="shop")
        assert view.campaign_id == named(namespace) == claim.campaign_id
        assert view.identity is not None and view.identity.path == f"/{namespace}"
        assert claim.run_id == within("c1-e0", namespace)


VERBS: dict[str, Callable[[Store, str], object]] = {
    "cancel": lambda s, ns: s.cancel(named(ns)),
    "reset": lambda s, _: s.reset_export("shop", "e1", chunks_only=False),
    "requeue": lambda s, ns: s.requeue(named(ns)),
    "replace": lambda s, ns: s.submit(plan(ns, "c2"), replacing=[named(ns)]),
    "budget": lambda s, _: s.set_budgets([SourceBudget(group_name="db")], by="w"),
    "renew": lambda s, ns: s.renew(worker(ns), [], 60.0, 1),
    "reap": lambda s, _: s.reap_expired(),
    "journal": lambda s, _: s.write_journal(Event(name=EventName.STAGED_SWEPT)),
    "settle": lambda s, ns: s.finish_campaign(named(ns)),
    "halt": lambda s, ns: s.lift_halt(named(ns)),
    "reserve": lambda s, _: s.reserve("db", 1000.0, 1000.0),
    "reserve_retry": lambda s, _: s.reserve_retry("db", 1000.0),
}


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_changes_another_namespace(pair: dict[str, Store], verb: str) -> None:
    submitted(pair)
    for namespace, store in pair.items():
        store.renew(worker(namespace), [], 60.0, 1)
    for namespace, other in (SPACES, SPACES[::-1]):
        before = seen(pair[other], other)
        VERBS[verb](pair[namespace], namespace)
        assert seen(pair[other], other) == before
    if verb == "reserve_retry":
        assert pair[THEIRS].reserve_retry("other", 1.0) == 0.0
        pair[OURS].reserve_retry("theirs", 1000.0)
        assert pair[THEIRS].reserve_retry("theirs", 1.0) == 0.0


def deliver(store: Store, namespace: str) -> None:
    while (claim := store.claim(named(namespace), worker(namespace), 60.0)) is not None:
        store.commit(claim.task_id, claim.fence, [], rows=0, pages=1)
        store.mark_published(claim.task_id, claim.fence)
    lease = store.lease_finalize(RunId(within("c1-e0", namespace)), worker(namespace), 60.0)
    assert lease is not None
    store.finish_run(lease, finished())
    store.finish_campaign(named(namespace))


def test_history_plans_and_metrics_are_ones_own(pair: dict[str, Store]) -> None:
    submitted(pair)
    ours, theirs = pair[OURS], pair[THEIRS]
    deliver(theirs, THEIRS)
    assert ours.history("shop", ["e0"]) == ours.last_plans("shop", ["e0"]) == {}
    assert ours.metrics() == [] and ours.progression("shop") == []
    assert [row["run_id"] for row in theirs.metrics()] == ["c1-e0@team-b"]
    before = seen(theirs, THEIRS)
    assert ours.reset_export("shop", "e0", chunks_only=False) == 1
    assert seen(theirs, THEIRS) == before
    assert theirs.reset_export("shop", "e0", chunks_only=False) == 1


def test_an_expired_chunk_is_reaped_by_its_own(backend: Backend, pair: dict[str, Store]) -> None:
    submitted(pair)
    if backend.durable:
        claim = pair[THEIRS].claim(named(THEIRS), worker(THEIRS), 60.0)
        assert claim is not None
        backend.expire(claim.task_id)
        assert pair[OURS].reap_expired() == []
        assert [one.task_id for one in pair[THEIRS].reap_expired()] == [claim.task_id]


def test_a_chunk_that_another_works_on_is_no_reason_to_wait(pair: dict[str, Store]) -> None:
    submitted(pair)
    ours, theirs = pair[OURS], pair[THEIRS]
    assert theirs.claim(named(THEIRS), worker(THEIRS), 60.0) is not None
    now = CampaignIdentity(name="shop", named=True, path="/moved")
    assert ours.accept_campaigns("shop", now, Event(name=EventName.CAMPAIGN_ACCEPTED)) == 1
    assert ours.reset_export("shop", "e0", chunks_only=False) == 1


def test_a_governor_that_leaves_leaves_its_own(pair: dict[str, Store]) -> None:
    submitted(pair)
    leases = {}
    for namespace, store in pair.items():
        watched = SourceBudget(group_name="db", monitor=MonitorPlan(flag_file="/stop"))
        store.set_budgets([watched], by="w")
        (leases[namespace],) = store.lease_governor(
            named(namespace), worker(namespace), 60.0, patience_s=-1.0
        )
    pair[OURS].leave_governor(leases[OURS])
    assert pair[THEIRS].lease_governor(named(THEIRS), worker("x"), 60.0, patience_s=0.0) == []


def test_what_a_governor_halted_is_lifted_in_its_own_namespace(pair: dict[str, Store]) -> None:
    submitted(pair)
    for namespace, store in pair.items():
        watched = SourceBudget(group_name="db", monitor=MonitorPlan(flag_file="/stop"))
        store.set_budgets([watched], by="w")
        (lease,) = store.lease_governor(named(namespace), worker(namespace), 60.0, patience_s=-1.0)
        store.govern(lease, GovernorWord(permits=1, page_share=1.0, halt="stop"), 60.0)
    assert pair[OURS].lift_halt(named(OURS))
    assert [g.halted for g in pair[OURS].groups(named(OURS))] == [None]
    assert [g.halted for g in pair[THEIRS].groups(named(THEIRS))] == ["stop"]
    (theirs,) = pair[THEIRS].campaigns()
    assert theirs.halted == "stop"


AT = StoredMark(value=mark_text(("at",), None, ("7",)), binding=None)


def marked(pair: dict[str, Store]) -> None:
    """Both have delivered up to the same mark."""
    for namespace, store in pair.items():
        made = plan(namespace)
        cursor = CursorPlan(
            mode="single_column", columns=("at",), mark_before=None, mark_after=AT.value
        )
        (run,) = made.runs
        run = replace(run, plan=replace(run.plan, mode="incremental", cursor=cursor))
        store.submit(replace(made, runs=(run,)))
        deliver(store, namespace)


def test_the_same_mark_is_bound_in_its_own_namespace(pair: dict[str, Store]) -> None:
    marked(pair)
    event = Event(name=EventName.MARK_ACCEPTED)
    assert pair[OURS].accept_mark("shop", "e0", AT, '["x"]', event)
    assert pair[THEIRS].marks("shop", ["e0"]) == {"e0": AT}


def test_how_far_one_came_is_no_others_boundary(pair: dict[str, Store]) -> None:
    """PG3: a boundary never goes back, and another namespace's is none."""
    for namespace, chunks in ((THEIRS, 5), (OURS, 2)):
        made = campaign_plan(campaign_id=named(namespace), chunks=(chunks,))
        pair[namespace].submit(made)
        deliver(pair[namespace], namespace)
        (found,) = pair[namespace].progression("shop")
        assert found.committed is not None and found.committed.chunk_index == chunks - 1


def test_statistics_of_another_outlive_our_run(pair: dict[str, Store]) -> None:
    """Its refused run is accepted by them, or not at all."""
    submitted(pair)
    theirs, run_id = pair[THEIRS], RunId("c1-e0@team-b")
    while (claim := theirs.claim(named(THEIRS), worker(THEIRS), 60.0)) is not None:
        part = replace(staged_part(claim.chunk_index, claim.fence), uniques=(unique(b"\x01" * 8),))
        theirs.commit(claim.task_id, claim.fence, [part], rows=10, pages=1)
        theirs.mark_published(claim.task_id, claim.fence)
    lease = theirs.lease_finalize(run_id, worker(THEIRS), 60.0)
    assert lease is not None
    theirs.fail_run(lease, "gates")
    deliver(pair[OURS], OURS)
    assert len(theirs.unique_stats(run_id, 0, ("a",))) == 2


def test_a_key_seals_its_own_namespace(backend: Backend, pair: dict[str, Store]) -> None:
    marked(pair)
    if not isinstance(backend, SqlBackend):
        return
    pair[OURS].renew(identity("busy"), [], 60.0, 1)
    before = seen(pair[OURS], OURS)
    keyed = open_store(backend.url, namespace=THEIRS, seal_key=b"k" * 16)
    assert keyed.reseal(None, by="ann") == 1
    assert seen(pair[OURS], OURS) == before
    assert pair[OURS].marks("shop", ["e0"]) == keyed.marks("shop", ["e0"]) == {"e0": AT}
    assert len(keyed.budgets()) == len(keyed.runs(named(THEIRS))) == 1
    keyed.renew(identity("busy too"), [], 60.0, 1)
    with pytest.raises(StateRefused, match="busy too") as found:
        keyed.reseal(b"k" * 16, by="ann")
    assert found.value.code == "RIVET_STATE_IN_USE"
    keyed.close()


def test_the_journal_finds_workers_of_ones_own(pair: dict[str, Store]) -> None:
    submitted(pair)
    for namespace, store in pair.items():
        store.renew(identity(f"id-{namespace}"), [], 60.0, 1)
    only = JournalFilter(worker=f"id-{THEIRS}")
    assert pair[OURS].journal(only=only) == []
    assert [w.worker_id for w in pair[OURS].workers()] == [f"id-{OURS}"]


def test_doctor_learns_which_sources_others_read(backend: Backend, pair: dict[str, Store]) -> None:
    made = plan(THEIRS)
    assert made.identity is not None
    pair[THEIRS].submit(replace(made, identity=replace(made.identity, sources=("pg://db/shop",))))
    if isinstance(backend, SqlBackend):
        assert state_health(backend.url, namespace=OURS).read_by_others == {"pg://db/shop"}
        assert state_health(backend.url, namespace=THEIRS).read_by_others == set()


FOREIGN: dict[str, Callable[[Store], object]] = {
    "submit": lambda s: s.submit(plan(THEIRS)),
    "campaign": lambda s: s.campaign(named(THEIRS)),
    "runs": lambda s: s.runs(named(THEIRS)),
    "run": lambda s: s.run(RunId("c1-e0@team-b")),
    "cancel": lambda s: s.cancel(named(THEIRS)),
    "claim": lambda s: s.claim(named(THEIRS), worker(OURS), 60.0),
    "replace": lambda s: s.submit(plan(OURS, "c3"), replacing=[named(THEIRS)]),
}


@pytest.mark.parametrize("verb", FOREIGN)
def test_an_id_of_another_namespace_is_refused(pair: dict[str, Store], verb: str) -> None:
    pair[THEIRS].submit(plan(THEIRS))
    before = seen(pair[THEIRS], THEIRS)
    with pytest.raises(StateRefused, match="team-b") as refused:
        FOREIGN[verb](pair[OURS])
    assert refused.value.code == NAMESPACE_OTHER
    assert seen(pair[THEIRS], THEIRS) == before and pair[OURS].campaigns() == []


def test_campaigns_are_signed_over_within_a_namespace(pair: dict[str, Store]) -> None:
    submitted(pair)
    ours, theirs = pair[OURS], pair[THEIRS]
    now = CampaignIdentity(name="shop", named=True, path="/moved")
    event = Event(name=EventName.CAMPAIGN_ACCEPTED, message="moved")
    claim = ours.claim(named(OURS), worker(OURS), 60.0)
    assert claim is not None
    with pytest.raises(StateRefused, match="live worker"):
        ours.accept_campaigns("shop", now, event)
    ours.release(claim.task_id, claim.fence)
    assert ours.accept_campaigns("shop", now, event) == 1
    assert ours.campaigns()[0].identity == now
    assert [e.event for e in ours.journal()][-1] == "campaign.accepted"
    identity_there = theirs.campaigns()[0].identity
    assert identity_there is not None and identity_there.path == f"/{THEIRS}"
