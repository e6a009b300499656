"""Who can write to the state can command nobody (ADR 0024): every sealed column, every reader."""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Text

from rivet_fleet.contracts.events import EventName
from rivet_fleet.contracts.foreign import SAID_CHARS_MAX
from rivet_fleet.contracts.keys import CampaignId, RunId, TaskId
from rivet_fleet.contracts.plan import CampaignPlan
from rivet_fleet.contracts.proof import ProofOutcome, Prove, RunProof
from rivet_fleet.contracts.protection import BUDGET_NUMBERS, SourceBudget
from rivet_fleet.contracts.seals import Sealer, is_sealed_range, range_digests
from rivet_fleet.contracts.state import FinishedRun
from rivet_fleet.contracts.window import CursorPlan, StoredMark
from rivet_fleet.errors import StateRefused, StateTampered
from rivet_fleet.persistence import seals
from rivet_fleet.persistence.open import open_store, state_health
from rivet_fleet.persistence.reseal import reseal
from rivet_fleet.persistence.schema import metadata
from rivet_fleet.persistence.seals import seal_budget
from tests.campaigns import campaign_plan, staged_part
from tests.house.tree import ROOT
from tests.stores import identity
from tests.unit.persistence.former import as_former

C1, RUN, DONE = CampaignId("c1"), RunId("c1-e0"), RunId("c0-e0")
KEY, OTHER = b"k" * 16, b"o" * 32
W1 = identity()
BUDGET = SourceBudget(group_name="db", chunks_max=3, rows_per_s=1e9)
FORMER_SEAL = "sha256:656404546509840fffda4dc22c4b5af5a1ecf5a0590225ce22e31795f208a64f"
FORMER_KEYED_SEAL = (
    "hmac-sha256:dd1334eefda5ca9d:35bd89523684fe0bba0130e48a673d6cca9a349b81e7bd5c7bf44210290f881d"
)
PROOF = RunProof(
    prove=Prove.ALL, outcome=ProofOutcome.DIFFERS, delivered=10, counted=99, sentence="fewer"
)


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
    store.note_proof(lease, PROOF, 60.0)
    finished = FinishedRun(manifest_fingerprint="x", rows=10, bytes=10, files=1, duration_s=1.0)
    store.finish_run(lease, finished)
    store.submit(replace(campaign_plan(chunks=(4,), groups=("db",)), budgets=(BUDGET,)))
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
        "former": lambda: store.run(DONE),
        "claim": lambda: [store.claim(C1, W1, 60.0) for _ in range(4)],
        "standing": lambda: store.standing(TaskId(2)),
        "reserve": lambda: store.reserve("db", 1.0, 0.0),
        "tasks": lambda: store.tasks(RUN),
        "task": lambda: [store.task(RUN, index) for index in range(4)],
        "committed_tasks": lambda: store.committed_tasks(C1, idle_s=0.0),
        "parts": lambda: [store.parts(RUN), store.parts(DONE)],
        "budgets": store.budgets,
        "groups": lambda: store.groups(C1),
        "marks": mark,
        "last_plans": lambda: store.last_plans("shop", ["e0"]),
        "set_budgets": lambda: store.set_budgets([replace(BUDGET, chunks_max=2)], by="x"),
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
        except StateRefused:
            found.add(f"{name}, by the database")
    return found


PLAN = "UPDATE chunk_run SET {} WHERE run_id = 'c1-e0'"
OF_CHUNKS = {"check_seals", "claim", "tasks", "task", "committed_tasks", "standing"}
OF_PLAN = {"run", "runs", *OF_CHUNKS}
OF_TASK = {"check_seals", "claim", "tasks", "task"}
OF_BUDGET = {"check_seals", "claim", "standing", "groups", "set_budgets"}
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
    "no seal": (PLAN.format("seal = NULL"), {"parts", *OF_PLAN}),
    "another's seal": (
        PLAN.format("seal = (SELECT o.seal FROM chunk_run o WHERE o.run_id = 'c0-e0')"),
        {"parts", *OF_PLAN},
    ),
    "digests": (
        PLAN.format("chunk_digests = replace(chunk_digests, substr(chunk_digests, 1, 4), 'ffff')"),
        OF_CHUNKS,
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
    "a chunk marked completed": (
        "UPDATE chunk_task SET status = 'completed' WHERE run_id = 'c1-e0' AND chunk_index = 1",
        {"parts"},
    ),
    "a chunk completed like another": (
        "UPDATE chunk_task SET status = 'completed', fence = 1, rows_written = 10, commit_seal = "
        "(SELECT o.commit_seal FROM chunk_task o WHERE o.run_id = 'c1-e0' AND o.chunk_index = 0) "
        "WHERE run_id = 'c1-e0' AND chunk_index = 1",
        {"parts"},
    ),
    "a part taken away": ("DELETE FROM file_log WHERE run_id = 'c1-e0'", {"parts"}),
    "a part voided": (
        "UPDATE file_log SET status = 'voided' WHERE run_id = 'c1-e0'",
        {"parts"},
    ),
    "chunks_max": ("UPDATE source_budget SET chunks_max = 99", {"budgets", *OF_BUDGET}),
    "ceiling": ("UPDATE source_budget SET ceiling = 99", {"claim"}),
    "monitor": ("UPDATE source_budget SET monitor_json = '{}'", {"budgets", *OF_BUDGET}),
    "a budget dropped": ("DELETE FROM source_budget", OF_BUDGET),
    "a pace dropped": ("DELETE FROM source_pace", {"reserve"}),
    "proof": (
        "UPDATE chunk_run SET proof_json = replace(proof_json, 'differs', 'proven') "
        "WHERE run_id = 'c0-e0'",
        {"former"},
    ),
    "mark": ("UPDATE export_state SET last_cursor_value = '9'", {"marks"}),
    "binding": ("UPDATE export_state SET mark_binding = 'x'", {"marks"}),
    "another's mark": ("UPDATE export_state SET mark_seal = NULL", {"marks"}),
    "former plan": (
        "UPDATE chunk_run SET plan_json = plan_json || ' ' WHERE run_id = 'c0-e0'",
        {"last_plans", "former"},
    ),
}


def _columns(table: str, names: str, readers: set[str], where: str = "1 = 1"):
    """An edit of each column, and who has to refuse it."""
    kinds = metadata.tables[table].columns
    for name in names.split():
        old = f"coalesce({name}, '')" if isinstance(kinds[name].type, Text) else name
        new = f"{old} || 'x'" if isinstance(kinds[name].type, Text) else f"coalesce({old}, 0) + 10"
        yield (table, name), (f"UPDATE {table} SET {name} = {new} WHERE {where}", readers)


_COMMITTED = "run_id = 'c1-e0' AND chunk_index = 0"
_RUN, _PENDING = "run_id = 'c1-e0'", "run_id = 'c1-e0' AND chunk_index = 1"
_STRAYED = OF_TASK - {"claim"}
COLUMNS = {
    **dict(
        _columns(
            "chunk_run",
            "campaign_name export_name position priority expected_tasks plan_json plan_hash seal",
            OF_PLAN,
            _RUN,
        )
    ),
    # Nothing is claimed of a run that moved away.
    **dict(_columns("chunk_run", "namespace source_group", OF_PLAN - {"claim"}, _RUN)),
    **dict(_columns("chunk_run", "run_id", {"runs", "tasks", "check_seals"}, _RUN)),
    **dict(_columns("chunk_run", "campaign_id", {"run", "tasks"}, _RUN)),
    **dict(_columns("chunk_run", "chunk_digests", OF_CHUNKS, _RUN)),
    **dict(_columns("chunk_run", "proof_json proof_seal", {"former"}, "run_id = 'c0-e0'")),
    # A word that nobody gave.
    **dict(_columns("chunk_run", "acceptance_json", {"run", "runs"}, _RUN)),
    ("chunk_run", "acceptance_seal"): (
        "UPDATE chunk_run SET acceptance_seal = proof_seal, acceptance_json = proof_json "
        "WHERE run_id = 'c0-e0'",
        {"former"},
    ),
    **dict(
        _columns(
            "chunk_task",
            "namespace export_name run_position range_json priority",
            OF_TASK,
            _PENDING,
        )
    ),
    **dict(_columns("chunk_task", "chunk_index", OF_TASK - {"task"}, _PENDING)),
    **dict(_columns("chunk_task", "campaign_id source_group", _STRAYED, _PENDING)),
    **dict(_columns("chunk_task", "run_id", {"check_seals"}, _PENDING)),
    **dict(_columns("chunk_task", "rows_written commit_seal result_json", {"parts"}, _COMMITTED)),
    **dict(
        _columns(
            "file_log",
            "export_name chunk_index part_number fence path rows bytes fingerprint md5 "
            "receipt_json columns_json changed_values seal",
            {"parts"},
            _RUN,
        )
    ),
    ("file_log", "run_id"): (
        f"UPDATE file_log SET run_id = 'c0-e0', chunk_index = 1 WHERE {_RUN}",
        {"parts"},
    ),
    **dict(
        _columns(
            "source_budget",
            f"namespace group_name {' '.join(BUDGET_NUMBERS)} monitor_json seal",
            OF_BUDGET,
        )
    ),
    **dict(_columns("source_budget", "ceiling", {"claim"})),
    **dict(_columns("source_pace", "namespace group_name", {"reserve"})),
    **dict(_columns("export_state", "last_cursor_value mark_binding mark_seal", {"marks"})),
}
"""Every column that commands: (table, column) → somebody's edit, and who refuses it at least."""


@pytest.mark.parametrize("column", COLUMNS, ids=".".join)
def test_an_edit_of_any_column_that_commands_is_refused(sealed, tmp_path, column) -> None:
    statement, readers = COLUMNS[column]
    store = edited(sealed, tmp_path, statement)
    assert refused(store) >= readers
    store.close()


OF_TYPES = [
    *(("chunk_run", name, _RUN) for name in ("position", "expected_tasks", "plan_json", "seal")),
    *(("chunk_task", name, _PENDING) for name in ("chunk_index", "priority", "range_json")),
    *(("file_log", name, _RUN) for name in ("fence", "rows", "path", "seal")),
    *(("source_budget", name, "1 = 1") for name in ("chunks_max", "rows_per_s", "monitor_json")),
    *(("export_state", name, "1 = 1") for name in ("last_cursor_value", "mark_seal")),
    *(("chunk_task", name, _COMMITTED) for name in ("rows_written", "commit_seal")),
    ("chunk_run", "chunk_digests", _RUN),
    ("chunk_run", "proof_json", "run_id = 'c0-e0'"),
]
"""What a reader takes apart before, or while, it looks at the seal."""


@pytest.mark.parametrize(("table", "name", "where"), OF_TYPES)
def test_a_value_of_another_type_is_refused_like_any_other(sealed, tmp_path, table, name, where):
    """SQLite keeps it in any column; a number that is nearly the sealed one is none either."""
    number = not isinstance(metadata.tables[table].columns[name].type, Text)
    for value in ("x'ff'", f"{name} + 0.5", "'x'") if number else ("x'ff'",):
        store = edited(sealed, tmp_path, f"UPDATE {table} SET {name} = {value} WHERE {where}")
        assert refused(store), value
        store.close()


@pytest.mark.parametrize(
    ("written", "share"), [("1000", 1.0), ("1.0000001", 1.0), ("-5", 0.1), ("0", 0.1)]
)
def test_a_governors_word_opens_no_more_than_a_whole_page(sealed, tmp_path, written, share) -> None:
    """It is not sealed: whatever stands there, the sealed limits bound it."""
    store = edited(sealed, tmp_path, f"UPDATE source_budget SET page_share = {written}")
    assert refused(store) == set()
    assert store.groups(C1)[0].page_share == share
    assert store.standing(TaskId(2)).page_share == share
    store.close()


@pytest.mark.parametrize("edit", ["page_share = 9e999", "page_share = 'x'", "permits = 'x'"])
def test_a_governors_word_that_is_no_number_is_named(sealed, tmp_path, edit) -> None:
    store = edited(sealed, tmp_path, f"UPDATE source_budget SET {edit}")
    assert refused(store) >= {"groups", "standing"}
    store.close()


def looks(store) -> list:
    """Every way in which what is not sealed is shown or gone by."""
    again = ("runs", "former", "tasks", "parts", "standing", "claim")
    return [
        *(read for name, read in reads(store).items() if name in again),
        lambda: store.campaigns(name="shop"),
        lambda: store.campaign(C1),
        lambda: store.workers(),
        lambda: store.journal(),
        lambda: store.metrics(),
        lambda: store.history("shop", ["e0"]),
        lambda: [view.readings() for view in store.groups(C1)],
        lambda: store.lease_finalize(DONE, W1, 60.0),
    ]


def named_tampered(store) -> int:
    """How many looks refuse by name, or say by name what they went on without; anything else that
    is raised is raised here."""
    found, left_out = 0, []
    store.on_left_out(left_out.append)
    for look in looks(store):
        try:
            look()
        except StateTampered:
            found += 1
        except StateRefused as error:
            assert error.code == "RIVET_BUDGET_TAKEN_AWAY", error
    store.close()
    return found + len(left_out)


MALFORMED = [
    "source_budget SET readings_json = 'nojson'",
    "source_budget SET readings_json = '[1]'",
    """source_budget SET readings_json = '[{"name":1,"value":1,"level":"calm","error":null}]'""",
    "chunk_run SET findings_json = 'x'",
    """chunk_run SET findings_json = '{"gates": 5}'""",
    "chunk_run SET created_at_s = 9e99",
    "chunk_run SET created_at_s = 'abc'",
    "chunk_run SET status = 'odd'",
    "chunk_task SET status = 'odd'",
    "chunk_task SET updated_at_s = 9e999",
    "chunk_task SET last_error = x'ff'",
    "chunk_task SET attempts = 'x'",
    "campaign SET status = 'odd'",
    "campaign SET created_at_s = 'x'",
    "campaign SET identity_json = '[]'",
    """campaign SET identity_json = '{"name":1,"named":true,"path":"/x","sources":[]}'""",
    """campaign SET identity_json = '{"name":"x","named":true,"path":"/x","sources":5}'""",
    "file_log SET status = 'odd'",
    "run_journal SET data_json = 'x'",
]


@pytest.mark.parametrize("edit", MALFORMED)
def test_what_is_not_sealed_and_malformed_is_named(sealed, tmp_path, edit) -> None:
    assert named_tampered(edited(sealed, tmp_path, f"UPDATE {edit}")) > 0


def test_no_column_of_another_type_ends_in_an_error_of_the_program(sealed, tmp_path) -> None:
    """SQLite keeps a value of any type in any column, those without a seal among them."""
    if sealed[1] is not None:
        return  # a key changes nothing of it
    unsealed = sorted(name for name in _not_promised() if name not in COLUMNS)
    for table, name in unsealed:
        number = not isinstance(metadata.tables[table].columns[name].type, Text)
        store = edited(sealed, tmp_path)
        with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
            wrong = "'x'" if number else "x'ff'"
            with suppress(sqlite3.IntegrityError):
                connection.execute(f"UPDATE {table} SET {name} = {wrong}")
        named_tampered(store)


def _not_promised() -> set[tuple[str, str]]:
    """The table of ADR 0024: ``| `table` | `column` … | what follows |``."""
    adr = (ROOT / "docs/adr/0024-sealed-means-checked.md").read_text()
    section = adr.partition("## Not promised")[2].partition("\n## ")[0]
    found = set()
    for line in section.splitlines():
        cells = line.split("|")
        if len(cells) != 5 or "`" not in cells[1]:
            continue
        for table in re.findall(r"`(\w+)`", cells[1]):
            every = [column.name for column in metadata.tables[table].columns]
            named = re.findall(r"`(\w+)`", cells[2])
            found |= {(table, name) for name in (named or every)}
    return found


def test_every_column_is_sealed_or_said_not_to_be() -> None:
    """A new column is placed: among the edits above, or in ADR 0024 with what follows from it."""
    every = {(t.name, column.name) for t in metadata.tables.values() for column in t.columns}
    said = _not_promised()
    assert said - every == set()
    assert said & set(COLUMNS) == set(), "a column is checked, or not promised"
    assert every - said - set(COLUMNS) == set()


def test_a_budget_of_a_former_program_is_still_what_was_sealed() -> None:
    """A number that budgets learn later breaks no seal made before it, whoever has the key."""
    row = {"namespace": "default", "group_name": "db", "chunks_max": 3, "connections_max": None}
    row |= {"rows_per_s": 1e9, "bytes_per_s": None, "chunks_min": 1, "monitor_json": None}
    for sealer, seal in ((Sealer(), FORMER_SEAL), (Sealer(key=KEY), FORMER_KEYED_SEAL)):
        assert seal_budget(sealer, row) == seal
        assert seal_budget(sealer, {**row, "rows_per_s": 1_000_000_000}) == seal
        assert seal_budget(sealer, {**row, "connections_max": 9}) != seal


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_is_refused_by_whoever_reads_it(sealed, tmp_path, edit: str) -> None:
    statement, readers = EDITS[edit]
    store = edited(sealed, tmp_path, statement)
    assert refused(store) == readers
    store.close()


_RUN_ELSEWHERE = (
    "UPDATE chunk_run SET run_id = '../../x', plan_json = replace(plan_json, 'c1-e0', '../../x')",
    "UPDATE chunk_task SET run_id = '../../x'",
)
_CAMPAIGN_ELSEWHERE = tuple(
    f"UPDATE {table} SET campaign_id = '../../x'"
    for table in ("campaign", "chunk_run", "chunk_task")
)


@pytest.mark.parametrize(
    ("edits", "look"),
    [
        (_RUN_ELSEWHERE, lambda store: store.runs(C1)),
        (_RUN_ELSEWHERE, lambda store: store.claim(C1, W1, 60.0)),
        (_RUN_ELSEWHERE[:1], lambda store: store.run(RunId("../../x"))),
        (
            ("UPDATE chunk_run SET plan_json = replace(plan_json, 'c1-e0', '../../x')",),
            lambda store: store.runs(C1),
        ),
        (_CAMPAIGN_ELSEWHERE, lambda store: store.campaigns(name="shop")),
        (_CAMPAIGN_ELSEWHERE, lambda store: store.campaign(CampaignId("../../x"))),
    ],
)
def test_an_id_that_leads_elsewhere_is_refused_however_it_is_sealed(
    tmp_path, monkeypatch, edits, look
) -> None:
    """Folders and files are named after ids; without a key whoever edits seals anew."""
    store = open_store(f"sqlite:///{tmp_path}/state.db")
    store.migrate()
    store.submit(campaign_plan(chunks=(2,)))
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
        for statement in edits:
            assert connection.execute(statement).rowcount > 0, statement
    with monkeypatch.context() as theirs, store._db.migrating() as connection:
        theirs.setattr(seals, "checked_id", lambda stored_id: stored_id)
        reseal(connection, None, Sealer(), None)
    with closing(store), pytest.raises(StateTampered):
        look(store)


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


def test_a_chunk_that_was_moved_to_another_group_goes_back(sealed, tmp_path) -> None:
    store = edited(sealed, tmp_path)
    store.submit(campaign_plan(campaign_id="c2", name="two", chunks=(1, 1), groups=("db", "other")))
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
        connection.execute("UPDATE chunk_task SET source_group = 'other' WHERE run_id = 'c2-e0'")
        connection.execute("UPDATE source_budget SET paused_reason = 'x' WHERE group_name = 'db'")
    with pytest.raises(StateTampered, match="source group of chunk 0 of run c2-e0"):
        store.claim(CampaignId("c2"), W1, 60.0)
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection:
        query = "SELECT DISTINCT status, attempts FROM chunk_task WHERE campaign_id = 'c2'"
        assert connection.execute(query).fetchall() == [("pending", 0)]
    store.close()


def test_a_running_chunk_counts_for_its_runs_group(sealed, tmp_path) -> None:
    store = edited(sealed, tmp_path)
    assert [store.claim(C1, W1, 60.0) is not None for _ in range(3)] == [True] * 3
    store.submit(campaign_plan(campaign_id="c2", name="two", groups=("db",)))
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
        connection.execute(
            "UPDATE chunk_task SET source_group = '', namespace = 'x' WHERE owner > ''"
        )
    assert store.claim(CampaignId("c2"), W1, 60.0) is None
    (group,) = store.groups(C1)
    assert (group.running, group.running_here) == (3, 3)
    store.close()


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE chunk_run SET source_group = '' WHERE run_id = 'c1-e0'",
        "UPDATE chunk_run SET namespace = 'x' WHERE run_id = 'c1-e0'",
        "UPDATE chunk_task SET source_group = '' WHERE owner > ''",
        "UPDATE chunk_task SET namespace = 'x' WHERE owner > ''",
        "DELETE FROM source_budget",
    ],
)
def test_a_chunk_that_is_read_stays_in_its_budget(sealed, tmp_path, edit: str) -> None:
    """Its worker has read plan and seal long ago; it asks how its group stands each second."""
    store = edited(sealed, tmp_path)
    claim = store.claim(C1, W1, 60.0)
    assert claim is not None
    assert store.standing(claim.task_id).budget == BUDGET
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
        assert connection.execute(edit).rowcount > 0
    with pytest.raises(StateTampered):
        store.standing(claim.task_id)
    store.close()


def test_a_new_configuration_says_a_spoilt_budget_anew(sealed, tmp_path) -> None:
    """The way out of a refusal: cancel, and a new run. One that says nothing of the group hides no
    theft from those that are in progress."""
    store = edited(sealed, tmp_path, "DELETE FROM source_budget")
    silent = campaign_plan(campaign_id="c2", name="two", groups=("db",))
    with pytest.raises(StateTampered, match="budget of source group db"):
        store.submit(silent)
    store.cancel(C1)
    assert store.submit(silent).created, "nobody misses it any more"
    for number, edit in enumerate(("DELETE FROM source_budget", EDITS["chunks_max"][0])):
        with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
            connection.execute(edit)
        name = f"n{number}"
        said = campaign_plan(campaign_id=name, name=name, groups=("db",), slots={"db": number + 1})
        assert store.submit(said).created
        assert store.budgets() == [SourceBudget(group_name="db", chunks_max=number + 1)]
    store.close()


def test_runs_of_a_former_program_may_miss_a_budget_and_a_seal_of_their_proof(
    sealed, tmp_path
) -> None:
    """Their seals promise neither; whoever takes the mark of a whole run away breaks its seal."""
    key = sealed[1]
    taken = (
        "DELETE FROM source_budget",
        "UPDATE chunk_run SET proof_seal = NULL",
        "UPDATE chunk_task SET commit_seal = NULL",
    )
    store = edited(sealed, tmp_path, *taken)
    assert refused(store) == {"former", "parts", *OF_BUDGET}
    as_former(store, mark="")
    assert refused(store) == set()
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
        connection.execute("UPDATE chunk_task SET status = 'pending' WHERE status = 'running'")
        connection.execute("DELETE FROM source_budget")
    again = open_store(f"sqlite:///{tmp_path / 'state.db'}", seal_key=OTHER)
    assert again.reseal(key, by="ann") == 2
    assert refused(again) == set()
    again.close()
    store.close()
    (tmp_path / "whole").mkdir()
    whole = edited(
        sealed, tmp_path / "whole", "UPDATE chunk_run SET seal = replace(seal, '.4.', '.')"
    )
    assert refused(whole) >= OF_PLAN
    whole.close()


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


def test_an_error_of_any_length_is_read_in_part(sealed, tmp_path) -> None:
    """It is no sealed column, and every reader shows it."""
    endless = "replace(hex(zeroblob(1000000)), '00', 'la')"
    store = edited(
        sealed,
        tmp_path,
        f"UPDATE chunk_task SET last_error = {endless}, error_class = {endless}",
        f"UPDATE chunk_run SET error = {endless}",
    )
    (run, *_) = store.runs(C1)
    (task, *_) = store.tasks(RUN)
    assert {len(run.error or ""), len(task.last_error or ""), len(task.error_class or "")} == {
        2 * SAID_CHARS_MAX
    }
    store.close()


@pytest.mark.parametrize(
    "theirs", ["garbage", "[]", '{"name": 1}', '{"name":"x","named":true,"path":"/x","sources":5}']
)
def test_what_another_namespace_cannot_be_read_by_keeps_nobody_from_looking(
    sealed, tmp_path, theirs
) -> None:
    edited(sealed, tmp_path, f"UPDATE campaign SET identity_json = '{theirs}'").close()
    health = state_health(f"sqlite:///{tmp_path}/state.db", namespace="team-b")
    assert health.read_by_others == frozenset()


@pytest.mark.parametrize(
    "edit",
    [
        "DELETE FROM chunk_task WHERE chunk_index = 1",
        "UPDATE chunk_task SET range_json = (SELECT range_json FROM chunk_task "
        "WHERE chunk_index = 0) WHERE chunk_index = 1",
    ],
    ids=["gone", "exchanged"],
)
def test_a_comparison_has_all_of_its_ranges(tmp_path, edit) -> None:
    """One that was taken away would take along what was found in it."""
    with closing(open_store(f"sqlite:///{tmp_path}/state.db")) as store:
        store.migrate()
        store.submit(campaign_plan(chunks=(2,)))
        assert len(store.comparison(RunId("c1-e0"))) == 2
        with closing(sqlite3.connect(tmp_path / "state.db")) as theirs, theirs:
            assert theirs.execute(edit).rowcount == 1
        with pytest.raises(StateTampered):
            store.comparison(RunId("c1-e0"))
