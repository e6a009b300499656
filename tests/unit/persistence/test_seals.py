"""Who can write to the state can command nobody (ADR 0024): every sealed column, every reader."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from rivet_fleet.contracts.binding import StoredMark
from rivet_fleet.contracts.cursor import CursorPlan
from rivet_fleet.contracts.events import EventName
from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.plan import CampaignPlan
from rivet_fleet.contracts.sealing import Sealer, is_sealed_range, range_digests
from rivet_fleet.contracts.state import FinishedRun
from rivet_fleet.errors import StateRefused, StateTampered
from rivet_fleet.persistence.open import open_store
from rivet_fleet.persistence.seals import reseal
from tests.campaigns import campaign_plan, staged_part
from tests.stores import identity

C1, RUN, DONE = CampaignId("c1"), RunId("c1-e0"), RunId("c0-e0")
KEY, OTHER = b"k" * 16, b"o" * 32
W1 = identity()


def incremental(plan: CampaignPlan) -> CampaignPlan:
    """Its only run moves a mark from nothing to ``7``."""
    (run,) = plan.runs
    cursor = CursorPlan(mode="single_column", columns=("id",), mark_before=None, mark_after="7")
    return replace(plan, runs=(replace(run, plan=replace(run.plan, cursor=cursor)),))


@pytest.fixture(scope="module", params=[None, KEY], ids=["digest", "key"])
def sealed(request, tmp_path_factory) -> tuple[Path, bytes | None]:
    """A state with a finished incremental run, a run with a committed chunk, and a budget."""
    path = tmp_path_factory.mktemp("sealed") / "state.db"
    store = open_store(f"sqlite:///{path}", seal_key=request.param)
    store.migrate()
    store.submit(incremental(campaign_plan(campaign_id="c0", chunks=(1,))))
    claim = store.claim(CampaignId("c0"), W1, 60.0)
    assert claim is not None
    store.commit(claim.task_id, claim.fence, [staged_part(0, claim.fence)], rows=10, pages=1)
    store.mark_published(claim.task_id, claim.fence)
    lease = store.lease_finalize(DONE, W1, 60.0)
    assert lease is not None
    finished = FinishedRun(manifest_fingerprint="x", rows=10, bytes=10, files=1, duration_s=1.0)
    store.finish_run(lease, finished)
    store.submit(campaign_plan(chunks=(4,), groups=("db",), slots={"db": 3}))
    claim = store.claim(C1, W1, 60.0)
    assert claim is not None
    store.commit(claim.task_id, claim.fence, [staged_part(0, claim.fence)], rows=10, pages=1)
    store.close()
    return path, request.param


def edited(sealed, tmp_path, *statements):
    """The state after somebody's SQL, and what opens it as its owner does."""
    path, key = sealed
    copy = tmp_path / "state.db"
    shutil.copy(path, copy)
    with closing(sqlite3.connect(copy)) as connection, connection:
        for statement in statements:
            assert connection.execute(statement).rowcount > 0, statement
    return open_store(f"sqlite:///{copy}", seal_key=key)


def reads(store) -> dict[str, object]:
    """Every way in which what is sealed is read, by name."""
    run = lambda: store.run(RUN)  # noqa: E731
    mark = lambda: store.marks("shop", ["e0"])  # noqa: E731
    return {
        "run": run,
        "runs": lambda: store.runs(C1),
        "check_seals": lambda: store.check_seals(C1),
        "claim": lambda: store.claim(C1, W1, 60.0),
        "tasks": lambda: store.tasks(RUN),
        "task": lambda: [store.task(RUN, index) for index in range(4)],
        "committed_tasks": lambda: store.committed_tasks(C1, idle_s=0.0),
        "parts": lambda: store.parts(RUN),
        "budgets": store.budgets,
        "groups": lambda: store.groups(C1),
        "set_budgets": lambda: store.set_budgets(store.budgets(), by="x"),
        "marks": mark,
        "last_plans": lambda: store.last_plans("shop", ["e0"]),
    }


def refused(store) -> set[str]:
    """The readers that refuse. The others must not have seen what was edited."""
    found = set()
    for name, read in reads(store).items():
        try:
            read()
        except StateTampered as error:
            assert error.code == "RIVET_STATE_TAMPERED"
            found.add(name)
    return found


PLAN = "UPDATE chunk_run SET {} WHERE run_id = 'c1-e0'"
OF_PLAN = {"run", "runs", "check_seals", "claim", "tasks", "task", "committed_tasks"}
EDITS = {
    "query": (PLAN.format("plan_json = replace(plan_json, '\"e0\"', '\"x\"')"), OF_PLAN),
    "white space": (PLAN.format("plan_json = plan_json || ' '"), OF_PLAN),
    "folder": (PLAN.format("plan_json = replace(plan_json, '/data/out', '/etc')"), OF_PLAN),
    "plan hash": (PLAN.format("plan_hash = 'sha256:0'"), OF_PLAN),
    "export": (PLAN.format("export_name = 'e9'"), OF_PLAN),
    "campaign name": (PLAN.format("campaign_name = 'other'"), OF_PLAN),
    "source group": (PLAN.format("source_group = ''"), OF_PLAN),
    "position": (PLAN.format("position = position + 1"), OF_PLAN),
    "priority": (PLAN.format("priority = priority + 1"), OF_PLAN),
    "number of chunks": (PLAN.format("expected_tasks = 3"), OF_PLAN),
    "no seal": (PLAN.format("seal = NULL"), OF_PLAN),
    "another's seal": (
        PLAN.format("seal = (SELECT o.seal FROM chunk_run o WHERE o.run_id = 'c0-e0')"),
        OF_PLAN,
    ),
    "digests": (
        PLAN.format("chunk_digests = replace(chunk_digests, substr(chunk_digests, 1, 4), 'ffff')"),
        {"check_seals", "claim", "tasks", "task", "committed_tasks"},
    ),
    "range": (
        "UPDATE chunk_task SET range_json = replace(range_json, '1000', '3000') "
        "WHERE run_id = 'c1-e0' AND chunk_index = 1",
        {"check_seals", "claim", "tasks", "task"},
    ),
    "ranges exchanged": (
        "UPDATE chunk_task SET range_json = (SELECT o.range_json FROM chunk_task o "
        "WHERE o.run_id = 'c1-e0' AND o.chunk_index = 2) "
        "WHERE run_id = 'c1-e0' AND chunk_index = 1",
        {"check_seals", "claim", "tasks", "task"},
    ),
    "a chunk dropped": (
        "DELETE FROM chunk_task WHERE run_id = 'c1-e0' AND chunk_index = 3",
        {"check_seals"},
    ),
    "path": ("UPDATE file_log SET path = '../x' WHERE run_id = 'c1-e0'", {"parts"}),
    "receipt": ("UPDATE file_log SET receipt_json = '{}' WHERE run_id = 'c1-e0'", {"parts"}),
    "fingerprint": ("UPDATE file_log SET fingerprint = 'x' WHERE run_id = 'c1-e0'", {"parts"}),
    "fence": ("UPDATE file_log SET fence = 9 WHERE run_id = 'c1-e0'", {"parts"}),
    "rows": ("UPDATE file_log SET rows = 9 WHERE run_id = 'c1-e0'", {"parts"}),
    "columns": ("UPDATE file_log SET columns_json = '[]' WHERE run_id = 'c1-e0'", {"parts"}),
    "chunks_max": (
        "UPDATE source_budget SET chunks_max = 99",
        {"claim", "budgets", "groups", "set_budgets"},
    ),
    "ceiling": ("UPDATE source_budget SET ceiling = 99", {"claim"}),
    "monitor": (
        "UPDATE source_budget SET monitor_json = '{}'",
        {"claim", "budgets", "groups", "set_budgets"},
    ),
    "mark": ("UPDATE export_state SET last_cursor_value = '9'", {"marks"}),
    "binding": ("UPDATE export_state SET mark_binding = 'x'", {"marks"}),
    "another's mark": ("UPDATE export_state SET mark_seal = NULL", {"marks"}),
    "former plan": (
        "UPDATE chunk_run SET plan_json = plan_json || ' ' WHERE run_id = 'c0-e0'",
        {"last_plans"},
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_is_refused_by_whoever_reads_it(sealed, tmp_path, edit: str) -> None:
    statement, readers = EDITS[edit]
    store = edited(sealed, tmp_path, statement)
    assert refused(store) == readers
    store.close()


def test_nothing_is_refused_that_nobody_edited(sealed, tmp_path) -> None:
    store = edited(sealed, tmp_path)
    assert refused(store) == set()
    assert store.marks("shop", ["e0"])["e0"] == StoredMark(value="7", binding=None)
    store.close()


def test_a_claim_of_an_edited_range_gives_the_chunk_back(sealed, tmp_path) -> None:
    store = edited(sealed, tmp_path, EDITS["range"][0])
    with pytest.raises(StateTampered, match="range of chunk 1"):
        store.claim(C1, W1, 60.0)
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection:
        query = "SELECT status, attempts FROM chunk_task WHERE run_id = 'c1-e0'"
        rows = connection.execute(query + " ORDER BY chunk_index").fetchall()
    assert rows == [("committed", 1), *[("pending", 0)] * 3]
    store.close()


def test_the_end_of_an_edited_run_is_not_written(sealed, tmp_path) -> None:
    """The mark and the metrics come from the plan: neither moves."""
    store = edited(
        sealed,
        tmp_path,
        "UPDATE chunk_run SET status = 'cancelled' WHERE run_id = 'c1-e0'",
        "UPDATE chunk_run SET status = 'in_progress', plan_json = replace(plan_json, "
        '\'"mark_after":"7"\', \'"mark_after":"9"\') WHERE run_id = \'c0-e0\'',
        "UPDATE campaign SET status = 'active' WHERE campaign_id = 'c0'",
    )
    lease = store.lease_finalize(DONE, W1, 60.0)
    assert lease is not None
    finished = FinishedRun(manifest_fingerprint="x", rows=1, bytes=1, files=1, duration_s=1.0)
    for end in (lambda: store.finish_run(lease, finished), lambda: store.fail_run(lease, "x")):
        with pytest.raises(StateTampered):
            end()
    assert store.marks("shop", ["e0"])["e0"].value == "7"
    store.close()


def test_cancel_works_on_any_state(sealed, tmp_path) -> None:
    store = edited(sealed, tmp_path, EDITS["query"][0])
    store.cancel(C1)
    store.reset_export("shop", "e0", chunks_only=False)
    store.close()


# ---------------------------------------------------------------- keys


def test_who_computes_digests_anew_has_no_key(sealed, tmp_path) -> None:
    """With a digest alone an edit with another digest is believed: that is what the key is for."""
    path, key = sealed
    store = edited(sealed, tmp_path, EDITS["folder"][0])
    with store._db.migrating() as connection:
        reseal(connection, None, Sealer(), None)
    if key is None:
        run = store.run(RUN)
        assert run is not None
        assert run.plan.destination.prefix == "/etc"
    else:
        with pytest.raises(StateRefused) as found:
            store.run(RUN)
        assert found.value.code == "RIVET_STATE_NOT_KEYED"
    store.close()
    assert path.exists()


def test_another_key_and_none_are_refused_by_name(sealed, tmp_path) -> None:
    path, key = sealed
    for given in (None, KEY, OTHER):
        if given == key:
            continue
        store = open_store(f"sqlite:///{path}", seal_key=given)
        code = "KEY_MISSING" if given is None else "NOT_KEYED" if key is None else "KEY_OTHER"
        for read in (lambda s=store: s.run(RUN), lambda s=store: s.check_seals(C1)):
            with pytest.raises(StateRefused) as found:
                read()
            assert found.value.code == f"RIVET_STATE_{code}"
            for secret in (KEY, OTHER):
                assert secret.decode() not in f"{found.value.message}{found.value.hint}"
        store.close()


def test_keys_change_by_reseal_and_an_edit_refuses_that(sealed, tmp_path) -> None:
    key = sealed[1]
    edited(sealed, tmp_path).close()
    url = f"sqlite:///{tmp_path / 'state.db'}"
    now, again = open_store(url, seal_key=OTHER), open_store(url, seal_key=KEY)
    with pytest.raises(StateRefused):
        now.reseal(b"w" * 16 if key else KEY, by="ann@host")
    assert now.reseal(key, by="ann@host") == 2
    assert refused(now) == set()
    (told,) = [e for e in now.journal() if e.event == EventName.STATE_RESEALED.value]
    assert "ann@host" in told.message
    with pytest.raises(StateRefused) as busy:
        again.reseal(OTHER, by="x")  # one of the readers above has claimed a chunk
    assert busy.value.code == "RIVET_STATE_IN_USE"
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
        connection.execute("UPDATE chunk_task SET status = 'pending' WHERE status = 'running'")
        connection.execute(EDITS["mark"][0])
    with pytest.raises(StateTampered, match="mark"):
        again.reseal(OTHER, by="x")
    assert now.run(RUN) is not None, "nothing was changed"
    again.close()
    now.close()


def test_seals_name_their_kind_and_hide_their_key() -> None:
    keyed = Sealer(key=KEY)
    assert keyed.seal("a", {"x": 1}) != keyed.seal("b", {"x": 1}) != Sealer().seal("b", {"x": 1})
    assert keyed.seal("a", {"x": 1}) == Sealer(key=KEY).seal("a", {"x": 1})
    assert KEY.decode() not in repr(keyed)
    assert KEY.hex() not in keyed.seal("a", {})
    digests = range_digests(["p", "q"])
    assert is_sealed_range(digests, 1, "q")
    assert not is_sealed_range(digests, 0, "q")
    assert not is_sealed_range(digests, 2, "q")
    assert not is_sealed_range("", 0, "p")
