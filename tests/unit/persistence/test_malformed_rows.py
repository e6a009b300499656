"""One row that nobody of ours wrote keeps nobody from the others: it is told, and they go on."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.protection import GovernorWord, MonitorPlan, SourceBudget
from rivet_fleet.contracts.seals import KEY_CODES, Sealer
from rivet_fleet.contracts.state import RunStatus, TaskStatus
from rivet_fleet.coordination.commit import deliver_chunk
from rivet_fleet.coordination.tend import finalize_ready
from rivet_fleet.errors import RivetFleetError, StateRefused, StateTampered
from rivet_fleet.persistence.database import Transaction
from rivet_fleet.persistence.open import open_store
from rivet_fleet.persistence.store import Store
from tests.campaigns import campaign_plan, staged_part
from tests.stores import identity
from tests.unit.coordination.fleets import make_fleet, memory_plan, spooled

C1, W1, W2 = CampaignId("c1"), identity("w1"), identity("w2")
WATCHED = tuple(
    SourceBudget(group_name=name, chunks_max=9, monitor=MonitorPlan(flag_file="/pause"))
    for name in ("a", "b")
)


class State:
    """A campaign of two exports, each in a source group of its own, and who edits it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "state.db"
        self.store: Store = open_store(f"sqlite:///{self.path}")
        self.left_out: list[RivetFleetError] = []
        self.store.on_left_out(self.left_out.append)
        self.store.migrate()
        plan = campaign_plan(chunks=(2, 2), groups=("a", "b"))
        self.store.submit(replace(plan, budgets=WATCHED))

    def edit(self, statement: str) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            assert connection.execute(statement).rowcount > 0, statement

    def told(self) -> str:
        return "; ".join(error.message for error in self.left_out)


@pytest.fixture
def state(tmp_path: Path):
    made = State(tmp_path)
    yield made
    made.store.close()


@pytest.mark.parametrize(
    "edit",
    [
        "source_budget SET chunks_max = 8",
        "source_budget SET page_share = 'x'",
        "source_budget SET permits = 'x'",
        "source_budget SET seal = 'hmac-sha256:0123456789abcdef:00'",
    ],
)
def test_a_group_whose_budget_is_malformed_keeps_no_other_ungoverned(state, edit: str) -> None:
    state.edit(f"UPDATE {edit} WHERE group_name = 'a'")
    (lease,) = state.store.lease_governor(C1, W1, 60.0, patience_s=0.0)
    assert lease.budget == WATCHED[1]
    assert len(state.left_out) == 1
    assert "source group a" in state.told()


def test_a_run_of_another_namespaces_campaign_keeps_no_governor_from_its_word(state) -> None:
    (lease, _) = state.store.lease_governor(C1, W1, 60.0, patience_s=0.0)
    state.edit("UPDATE chunk_run SET campaign_id = 'c9@them' WHERE export_name = 'e0'")
    plan = campaign_plan(campaign_id="c2", name="two", groups=("a",))
    state.store.submit(replace(plan, budgets=WATCHED))
    told = ((EventName.GOVERNOR_SHED, "s is 3", {}),)
    state.store.govern(lease, GovernorWord(permits=1, page_share=1.0, told=told), 60.0)
    entries = state.store.journal(campaign_id=CampaignId("c2"))
    assert entries[-1].event == EventName.GOVERNOR_SHED.value
    assert "c9@them" in state.told()


@pytest.mark.parametrize(
    ("edit", "refusal"),
    [
        ("chunks_max = 8", StateTampered),
        ("seal = 'hmac-sha256:0123456789abcdef:00'", StateRefused),
    ],
)
def test_chunks_of_other_groups_are_claimed_before_a_spoilt_budget_ends_the_work(
    state, edit: str, refusal: type[RivetFleetError]
) -> None:
    state.edit(f"UPDATE source_budget SET {edit} WHERE group_name = 'a'")
    for _ in range(2):
        claim = state.store.claim(C1, W1, 60.0)
        assert claim is not None
        assert claim.export_name == "e1"
    with pytest.raises(refusal, match="source group a"):
        state.store.claim(C1, W1, 60.0)
    if refusal is StateTampered:
        assert [group.group_name for group in state.store.groups(C1)] == ["b"]


def test_committed_chunks_are_published_before_a_run_of_another_key_ends_the_work(state) -> None:
    committed(state)
    other = "'a.4.b.hmac-sha256:0123456789abcdef:00'"
    state.edit(f"UPDATE chunk_run SET seal = {other} WHERE export_name = 'e0'")
    with closing(open_store(f"sqlite:///{state.path}")) as store:  # which has not seen the run
        found = store.committed_tasks(C1, idle_s=0.0)
        assert [task.export_name for task in found] == ["e1", "e1"]
        for task in found:
            store.mark_published(task.task_id, task.fence)
        with pytest.raises(StateRefused) as caught:
            store.committed_tasks(C1, idle_s=0.0)
    assert caught.value.code in KEY_CODES


def test_what_is_sealed_with_another_key_is_left_out_like_what_is_spoilt(state) -> None:
    def work(tx: Transaction) -> str:
        with tx.leaving_out("one of many"):
            Sealer().check("hmac-sha256:0123456789abcdef:00", "mark", {}, "a mark")
        return "the others"

    assert state.store._db.read(work) == "the others"
    assert "one of many is left out" in state.told()

    def other(tx: Transaction) -> None:
        with tx.leaving_out("one of many"):
            raise StateRefused("this program is too old")

    with pytest.raises(StateRefused, match="too old"):
        state.store._db.read(other)


@pytest.mark.parametrize(
    "edit",
    [
        *(f"chunk_task SET completed_at_s = {value}" for value in ("'x'", "9e999", "1e15")),
        *(f"chunk_task SET claimed_at_s = {value}" for value in ("-9e999", "-1e15")),
        *(f"file_log SET changed_values = {value}" for value in ("9e999", "1e300")),
        "chunk_task SET attempts = 1e300",
        "chunk_run SET seal = 'a.4.b.hmac-sha256:0123456789abcdef:00'",
    ],
)
def test_a_malformed_moment_of_one_run_keeps_no_other_from_its_end(tmp_path, edit: str) -> None:
    with closing(open_store(f"sqlite:///{tmp_path}/state.db")) as store:
        store.migrate()
        store.submit(memory_plan(chunks=(1, 1)))
        fleet = make_fleet(store, tmp_path)
        for _ in range(2):
            claim = store.claim(C1, fleet.identity, 30.0)
            assert claim is not None
            plan = fleet.planned_run(claim.run_id).plan
            deliver_chunk(fleet, claim, plan, spooled(tmp_path / "spool"))
        with closing(sqlite3.connect(tmp_path / "state.db")) as theirs, theirs:
            assert theirs.execute(f"UPDATE {edit} WHERE run_id = 'c1-e0'").rowcount > 0
        with pytest.raises((StateTampered, StateRefused)):
            finalize_ready(fleet, C1, [])
        assert store.run(RunId("c1-e1")).status is RunStatus.COMPLETED


@pytest.mark.parametrize("value", ["'x'", "-9e999", "9e999", "1e15"])
def test_when_a_run_began_is_looked_at_like_any_other_moment(state, value: str) -> None:
    assert state.store.claim(C1, W1, 60.0) is not None
    state.edit(f"UPDATE run_journal SET at_s = {value} WHERE event = 'chunk.claimed'")
    with pytest.raises(StateTampered, match="first_claim_at_s"):
        state.store.runs(C1)


def test_what_a_governor_read_is_only_shown(state) -> None:
    state.edit("UPDATE source_budget SET readings_json = '[1]' WHERE group_name = 'a'")
    assert [view.readings() for view in state.store.groups(C1)] == [[], []]
    assert "readings_json" in state.told()


def test_a_malformed_chunk_keeps_no_other_from_being_taken_back(state) -> None:
    for _ in range(4):
        state.store.claim(C1, W1, -1.0)
    state.edit("UPDATE chunk_task SET attempts = 'x' WHERE export_name = 'e0' AND chunk_index = 0")
    taken = state.store.reap_expired(C1)
    assert {(one.export_name, one.chunk_index) for one in taken} == {
        *(("e0", 1), ("e1", 0), ("e1", 1))
    }
    assert "attempts" in state.told()
    assert [state.store.claim(C1, W2, 60.0) is not None for _ in range(2)] == [True, True]
    assert len(state.store.reap_worker(W2.worker_id, "gone")) == 2


def committed(state: State) -> None:
    for _ in range(4):
        claim = state.store.claim(C1, W1, 60.0)
        assert claim is not None
        part = staged_part(claim.chunk_index, claim.fence)
        path = f"{claim.run_id}/{part.path}"
        state.store.commit(claim.task_id, claim.fence, [replace(part, path=path)], rows=10, pages=1)


@pytest.mark.parametrize("edit", ["range_json = '{}'", "last_error = x'ff'"])
def test_committed_chunks_are_published_before_a_spoilt_one_ends_the_work(state, edit) -> None:
    committed(state)
    state.edit(f"UPDATE chunk_task SET {edit} WHERE export_name = 'e0' AND chunk_index = 0")
    found = state.store.committed_tasks(C1, idle_s=0.0)
    assert len(found) == 3
    for task in found:
        state.store.mark_published(task.task_id, task.fence)
    with pytest.raises(StateTampered):
        state.store.committed_tasks(C1, idle_s=0.0)


def test_what_is_listed_for_people_goes_on_without_a_malformed_row(state) -> None:
    store = state.store
    for worker in (W1, W2):
        store.renew(worker, [], 60.0, 1)
    for word in ("one", "two"):
        store.write_journal(Event(name=EventName.WORKER_STARTED, campaign_id=C1, message=word))
    state.edit("UPDATE worker SET pid = 'x' WHERE name = 'w1'")
    assert [worker.name for worker in store.workers()] == ["w2"]
    state.edit("UPDATE run_journal SET data_json = 'x' WHERE message = 'one'")
    state.edit("UPDATE run_journal SET at_s = 'x' WHERE event = 'campaign.submitted'")
    entries = store.journal(campaign_id=C1)
    ids = [entry.journal_id for entry in entries]
    assert ids == sorted(ids), "whoever follows misses none"
    assert [entry.message for entry in entries][-1] == "two"
    assert [entry.event for entry in entries].count("journal.unreadable") == 2
    assert {"pid", "journal"} <= set(state.told().split())


def test_a_former_run_that_is_malformed_is_no_history(state) -> None:
    with closing(sqlite3.connect(state.path)) as connection, connection:
        for number, rows in enumerate(("10", "'x'", "20")):
            connection.execute(
                "INSERT INTO export_metrics (namespace, campaign_name, export_name, run_id, "
                "run_at_s, status, mode, strategy, format, source_engine, destination_kind, "
                "duration_ms, total_rows, bytes_written, files_produced, chunks, retries, "
                "peak_rss_bytes, attempts, changed_values) VALUES ('default', 'shop', 'e0', "
                f"'r{number}', 1.0, 'success', 'm', 's', 'f', 'e', 'd', 1, {rows}, 1, 1, 1, 0, 0, "
                "1, 0)"
            )
        connection.execute(
            "INSERT INTO export_harm (run_id, source, before_json) VALUES ('c1-e0', 's', 'x')"
        )
    assert {run.rows for run in state.store.history("shop", ["e0"])["e0"]} == {10, 20}
    assert len(state.store.metrics(campaign_name="shop")) == 2
    assert state.store.counters(C1) == []
    assert len(state.left_out) == 3


def test_without_a_malformed_row_nothing_is_left_out(state) -> None:
    committed(state)
    assert len(state.store.committed_tasks(C1, idle_s=0.0)) == 4
    assert {task.status for task in state.store.tasks(RunId("c1-e0"))} == {TaskStatus.COMMITTED}
    assert state.left_out == []
