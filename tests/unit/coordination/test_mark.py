"""The high-water mark at every moment of a run's end: unmoved until the last transaction (W5)."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import pytest

from rivet_fleet.contracts import killpoints
from rivet_fleet.contracts.codec import dumps, to_plain
from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.keys import RunId
from rivet_fleet.contracts.killpoints import Arming, KillAction, KillPoint, KillPointReached
from rivet_fleet.contracts.proof import ProofOutcome, Prove, RunProof
from rivet_fleet.contracts.protection import BUDGET_NUMBERS, SourceBudget
from rivet_fleet.contracts.quality import Acceptance
from rivet_fleet.contracts.reconcile import RangeResult, RangeVerdict
from rivet_fleet.contracts.seals import Sealer
from rivet_fleet.contracts.window import CursorPlan, StoredMark, mark_text
from rivet_fleet.coordination.commit import deliver_chunk
from rivet_fleet.coordination.finalize import finalize_run
from rivet_fleet.coordination.marks import unkeyed
from rivet_fleet.coordination.tend import tend
from rivet_fleet.errors import StateRefused, StateTampered
from rivet_fleet.persistence import open as sqlite_store
from rivet_fleet.persistence.commits import (
    SEALED_OF_PART,
    seal_commit,
    seal_part,
    standing_parts,
)
from rivet_fleet.persistence.seals import said_by, seal_budget, seal_mark, seal_run, seal_word
from tests.model.store import MemoryStore
from tests.unit.coordination.fleets import (
    CAMPAIGN,
    DatabaseClock,
    make_fleet,
    memory_plan,
    spooled,
)

MARK = mark_text(("at",), None, ("9",))
RUN = RunId("c1-e0")
BEFORE = (
    KillPoint.CHUNK_COMMITTED,
    KillPoint.PART_PUBLISHED,
    KillPoint.CHUNK_COMPLETED,
    KillPoint.FINALIZE_LEASED,
    KillPoint.MANIFEST_COPY_WRITTEN,
    KillPoint.MANIFEST_WRITTEN,
    KillPoint.SUCCESS_WRITTEN,
    KillPoint.LATEST_WRITTEN,
)
AFTER = (KillPoint.RUN_FINISHED, KillPoint.REPORT_WRITTEN)


@pytest.fixture(autouse=True)
def disarmed():
    yield
    killpoints.arm(())


def incremental(clock: DatabaseClock) -> MemoryStore:
    plan = memory_plan((1,))
    (run,) = plan.runs
    cursor = CursorPlan(mode="single_column", columns=("at",), mark_after=MARK)
    run = replace(run, plan=replace(run.plan, mode="incremental", cursor=cursor))
    store = MemoryStore(clock)
    store.submit(replace(plan, runs=(run,)))
    return store


def work(fleet, tmp_path) -> None:
    """Whatever is left to be done: deliver the chunk, roll it forward, finish the run."""
    claim = fleet.store.claim(CAMPAIGN, fleet.identity, 30.0)
    if claim is not None:
        plan = fleet.planned_run(claim.run_id).plan
        deliver_chunk(fleet, claim, plan, spooled(tmp_path / "spool"))
    finalize_run(fleet, RUN)


@pytest.mark.parametrize("point", [*BEFORE, *AFTER], ids=lambda point: point.value)
def test_wherever_the_finalizer_dies_the_mark_moves_with_the_run_alone(tmp_path, point) -> None:
    clock = DatabaseClock()
    store = incremental(clock)
    killpoints.arm((Arming(point=point, action=KillAction.ERROR),))
    with pytest.raises(KillPointReached):
        work(make_fleet(store, tmp_path, "dying"), tmp_path)
    found = {name: mark.value for name, mark in store.marks("shop", ["e0"]).items()}
    assert found == ({} if point in BEFORE else {"e0": MARK})
    killpoints.arm(())
    clock.time_s += 60.0
    store.reap_expired(CAMPAIGN)
    heir = make_fleet(store, tmp_path, "heir")
    for _ in range(3):
        work(heir, tmp_path)
        tend(heir, CAMPAIGN)
        clock.time_s += 60.0
    assert store.marks("shop", ["e0"])["e0"].value == MARK
    assert [e.event for e in store.journal(campaign_id=CAMPAIGN)].count("mark.moved") == 1


def test_what_would_get_a_keys_seal_is_shown(tmp_path):
    """Whatever is believed of a run once it has the key's seal: what was said of it, and a gap."""
    url = f"sqlite:///{tmp_path}/state.db"
    words = {
        "acceptance": dumps(Acceptance(by="ann", reason="known", at_s=1.0, gates=())),
        "proof": dumps(
            RunProof(
                prove=Prove.ALL,
                outcome=ProofOutcome.PROVEN,
                delivered=10,
                counted=10,
                sentence="10 rows",
            )
        ),
    }
    with closing(sqlite_store.open_store(url)) as store:
        store.migrate()
        (run,) = memory_plan((3,)).runs
        # The rows between the first and the third chunk are nobody's.
        left = [replace(one, chunk_index=n) for n, one in enumerate(run.chunks[::2])]
        store.submit(replace(memory_plan((3,)), runs=(replace(run, chunks=tuple(left)),)))
    with closing(sqlite3.connect(tmp_path / "state.db")) as theirs, theirs:
        ((run_seal,),) = theirs.execute("SELECT seal FROM chunk_run")
        theirs.executemany(
            "UPDATE chunk_run SET acceptance_json = ?, acceptance_seal = ?, proof_json = ?, "
            "proof_seal = ?",
            [
                [
                    value
                    for kind, word in words.items()
                    for value in (
                        word,
                        seal_word(Sealer(), kind, RUN, word, run_seal=run_seal),
                    )
                ]
            ],
        )
    with closing(sqlite_store.open_store(url, seal_key=b"k" * 16)) as store:
        shown = "\n".join(unkeyed(make_fleet(store, tmp_path))[0])
    for word in words.values():
        assert word in shown
    for index, (lower, upper) in enumerate((("null", '["1000"]'), ('["2000"]', "null"))):
        said = f'"lower":{lower},"relation":null,"upper":{upper}'
        assert re.search(f"chunks {index} to {index}: .*{re.escape(said)}", shown)


def test_every_setting_of_a_plan_and_every_mark_is_shown_before_it_gets_a_key(tmp_path):
    """A mark far ahead, a cast, a session, a gate, an option: each decides what is delivered, now
    or by the next run."""
    url = f"sqlite:///{tmp_path}/state.db"
    ahead = mark_text(("at",), None, ("99990101",))
    with closing(sqlite_store.open_store(url)) as store:
        store.migrate()
        campaign = memory_plan((2,))
        (run,) = campaign.runs
        plan = replace(
            run.plan,
            mode="incremental",
            cursor=CursorPlan(mode="single_column", columns=("at",), mark_after=ahead),
            read=replace(run.plan.read, session=(("search_path", "elsewhere"),)),
            destination=replace(run.plan.destination, options={"endpoint": "https://other"}),
        )
        bounds = [(None, ("900000",)), (("900000",), None)]
        chunks = tuple(
            replace(one, chunk_range=replace(one.chunk_range, lower=lower, upper=upper))
            for one, (lower, upper) in zip(run.chunks, bounds, strict=True)
        )
        run = replace(run, plan=plan, chunks=chunks)
        store.submit(replace(campaign, runs=(run,)))
        at = StoredMark(value=ahead, binding="[]")
        event = Event(name=EventName.MARK_IMPORTED)
        assert store.import_mark("nobodys", "e7", at, event)
    with closing(sqlite_store.open_store(url, seal_key=b"k" * 16)) as store:
        shown = "\n".join(unkeyed(make_fleet(store, tmp_path))[0])
    settings = to_plain(plan)
    assert shown.count("\n  ") > len(settings)
    for name, of_it in settings.items():
        assert f"  {name}" in shown
        for inner in of_it if isinstance(of_it, dict) else ():
            assert f"  {name}.{inner}" in shown
    assert f"  cursor.mark_after: {dumps(ahead)}" in shown
    assert '  read.session[0]: ["search_path","elsewhere"]' in shown
    assert '  destination.options.endpoint: "https://other"' in shown
    for index, column in enumerate(plan.read.columns):
        assert f"  read.columns[{index}]: {dumps(column)}" in shown
    assert f"nobodys: e7 reads on from {ahead}, bound to []" in shown


def test_a_run_whose_campaign_is_aside_is_shown_before_it_gets_a_key(tmp_path):
    url = f"sqlite:///{tmp_path}/state.db"
    with closing(sqlite_store.open_store(url)) as store:
        store.migrate()
        store.submit(memory_plan((3,)))
    for aside in ("UPDATE campaign SET namespace = 'elsewhere'", "DELETE FROM campaign"):
        with closing(sqlite3.connect(tmp_path / "state.db")) as theirs, theirs:
            assert theirs.execute(aside).rowcount == 1
        with closing(sqlite_store.open_store(url, seal_key=b"k" * 16)) as store:
            shown, _ = unkeyed(make_fleet(store, tmp_path))
        assert any(line.startswith(f"{RUN} delivers to ") for line in shown)


def test_whatever_a_seal_would_cover_is_a_line_of_its_own(tmp_path):
    """Two states that differ in anything that gets the key's seal are shown differently: in what an
    operator reads, not in the fingerprint alone, of which nobody has the honest one."""
    url, path = f"sqlite:///{tmp_path}/state.db", tmp_path / "state.db"
    budget = SourceBudget(group_name="db", chunks_max=1)
    with closing(sqlite_store.open_store(url)) as store:
        store.migrate()
        (run,) = memory_plan((2,)).runs
        run = replace(run, plan=replace(run.plan, source_group="db"))
        store.submit(replace(memory_plan((2,)), runs=(run,), budgets=(budget,)))
        at = StoredMark(value=mark_text(("at",), None, ("1",)), binding="[]")
        assert store.import_mark("shop", "x: e7", at, Event(name=EventName.MARK_IMPORTED))
        fleet = make_fleet(store, tmp_path)
        claim = store.claim(CAMPAIGN, fleet.identity, 30.0)
        assert claim is not None
        deliver_chunk(fleet, claim, run.plan, spooled(tmp_path / "spool"))
    result = dumps(RangeResult(verdict=RangeVerdict.MISMATCH, sentence="rows differ"))
    with closing(sqlite3.connect(path)) as theirs, theirs:
        found = "UPDATE chunk_task SET result_json = ? WHERE commit_seal IS NOT NULL"
        theirs.execute(found, [result])
    honest = path.read_bytes()

    def looked() -> tuple[list[str], str]:
        with closing(sqlite_store.open_store(url, seal_key=b"k" * 16)) as store:
            return unkeyed(make_fleet(store, tmp_path))

    def edited(*statements: str, kind: str = "4.") -> tuple[list[str], str]:
        path.write_bytes(honest)
        with closing(sqlite3.connect(path)) as theirs, theirs:
            theirs.row_factory = sqlite3.Row
            for statement in statements:
                assert theirs.execute(statement).rowcount, statement
            as_sealed(theirs, kind)
        return looked()

    texts = {"campaign_id", "campaign_name", "export_name", "source_group", "plan_hash"}
    edits = {f"run {one}": [f"UPDATE chunk_run SET {one} = {one} || 'x'"] for one in texts}
    edits |= {
        f"run {one}": [f"UPDATE chunk_run SET {one} = {one} + 1"]
        for one in ("position", "priority", "expected_tasks")
    }
    first = "UPDATE chunk_task SET range_json = replace(range_json, '{}', '{}') WHERE {}"
    edits |= {
        f"bound {bound!r}": [first.format(*bound, f"chunk_index = {index}")]
        for index, bound in (
            (1, ('"lower":["1000"]', '"lower":["1000\u200b"]')),
            (1, ('"upper":null', '"upper":["\u221e"]')),
            (0, ('"lower":null', '"lower":["-\u221e"]')),
            (0, ('"kind":', '"unheard":1,"kind":')),
        )
    }
    parts = set(SEALED_OF_PART.split(", ")) - {"run_id", "seal"}
    edits |= {f"part {one}": [f"UPDATE file_log SET {one} = {one} || '1'"] for one in parts}
    another = "CASE typeof({0}) WHEN 'text' THEN {0} || ' ' ELSE {0} + 1 END"
    commit = f"UPDATE chunk_task SET {{0}} = {another} WHERE commit_seal IS NOT NULL"
    edits |= {f"commit {one}": [commit.format(one)] for one in columns_of_a_commit()}
    edits["a verdict"] = [
        "UPDATE chunk_task SET result_json = replace(result_json, 'mismatch', 'match') "
        "WHERE commit_seal IS NOT NULL"
    ]
    edits |= {
        f"mark {one}": [f"UPDATE export_state SET {one} = {one} || ' '"]
        for one in ("campaign_name", "export_name", "last_cursor_value", "mark_binding")
    }
    edits["names that run together"] = [
        "UPDATE export_state SET campaign_name = 'shop: x', export_name = 'e7'"
    ]
    edits |= {f"budget {one}": [f"UPDATE source_budget SET {one} = 7"] for one in BUDGET_NUMBERS}
    shown, fingerprint = edited()
    assert looked() == (shown, fingerprint)
    alike = []
    for name, statements in edits.items():
        lines, other = edited(*statements)
        assert other != fingerprint, name
        if lines == shown:
            alike.append(name)
    kinds = [edited(kind=kind)[0] for kind in ("", "2.", "3.", "4.")]
    assert len({tuple(lines) for lines in kinds}) == len(kinds)
    assert alike == []


def columns_of_a_commit() -> set[str]:
    """What a commit's seal covers of a chunk's row, but for which chunk it is."""
    asked = set()

    class Row(dict[str, str]):
        def __missing__(self, name: str) -> str:
            asked.add(name)
            return "1"

    seal_commit(Sealer(), Row(), [], "of a submission")
    return asked - {"run_id", "chunk_index"}


def as_sealed(theirs: sqlite3.Connection, kind: str) -> None:
    """Everything there gets the seal that whoever writes to a state without a key can make."""
    sealer = Sealer()

    def rows(table: str, order: str = "1") -> list[SimpleNamespace]:
        found = theirs.execute(f"SELECT * FROM {table} ORDER BY {order}").fetchall()
        return [SimpleNamespace(**dict(one)) for one in found]

    def put(table: str, row: SimpleNamespace, key: str, **values: object) -> None:
        names = ", ".join(f"{name} = ?" for name in values)
        given = (*values.values(), getattr(row, key))
        theirs.execute(f"UPDATE {table} SET {names} WHERE {key} = ?", given)

    (run,) = rows("chunk_run")
    tasks, parts = rows("chunk_task", "chunk_index"), rows("file_log", "part_number")
    submission = said_by(run.seal).submission if kind == "4." else ""
    ranges = [task.range_json for task in tasks]
    sealed = seal_run(sealer, vars(run), ranges, mark=kind, submission=submission)
    put("chunk_run", run, "run_id", **sealed)
    for part in parts:
        put("file_log", part, "file_id", seal=seal_part(sealer, vars(part), submission))
    for task in tasks:
        if task.commit_seal is not None:
            mine = [vars(one) for one in standing_parts(parts).get(task.chunk_index, ())]
            seal = seal_commit(sealer, vars(task), mine, submission)
            put("chunk_task", task, "task_id", commit_seal=seal)
    for mark in rows("export_state"):
        put("export_state", mark, "export_name", mark_seal=seal_mark(sealer, vars(mark)))
    for one in rows("source_budget"):
        put("source_budget", one, "group_name", seal=seal_budget(sealer, vars(one)))


def test_only_what_was_shown_gets_a_key(tmp_path, monkeypatch):
    """Neither what came before the yes, nor what a trigger brings while it is done; and who is
    shown it keeps nobody from writing."""
    url, path = f"sqlite:///{tmp_path}/state.db", tmp_path / "state.db"
    ahead = mark_text(("at",), None, ("99990101",))
    names = ("namespace", "campaign_name", "export_name", "last_cursor_value", "mark_binding")
    mark = dict(zip(names, ("default", "shop", "e0", ahead, None), strict=True))
    insert = f"""INSERT INTO export_state ({", ".join(names[:4])}, mark_seal)
        VALUES ('default', 'shop', 'e0', '{ahead}', '{seal_mark(Sealer(), mark)}')"""
    with closing(sqlite_store.open_store(url)) as store:
        store.migrate()
        store.submit(memory_plan((1,)))
    with closing(sqlite_store.open_store(url, seal_key=b"k" * 16)) as store:
        fleet = make_fleet(store, tmp_path)
        with monkeypatch.context() as looking:
            looking.setattr(
                type(store._db.dialect), "writing", lambda *_, **__: pytest.fail("lock")
            )
            _, before = unkeyed(fleet)
        assert unkeyed(fleet)[1] == before
        with closing(sqlite3.connect(path)) as theirs, theirs:
            theirs.execute(insert)
        with pytest.raises(StateRefused) as refused:
            store.reseal(None, by="ann", shown=before)
        assert refused.value.code == "RIVET_STATE_NOT_SHOWN"
        with closing(sqlite3.connect(path)) as theirs, theirs:
            theirs.execute("DELETE FROM export_state")
            theirs.execute(f"""CREATE TRIGGER x AFTER UPDATE OF seal ON chunk_run
                WHEN NEW.seal LIKE '%hmac%' BEGIN {insert}; END""")
        assert store.reseal(None, by="ann", shown=before) == 1
        with pytest.raises((StateRefused, StateTampered)):
            store.marks("shop", ["e0"])
