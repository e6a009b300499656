"""What a manifest is made of is what was committed, whatever anybody edits (ADR 0024)."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.proof import ProofOutcome, Prove, RunProof
from rivet_fleet.contracts.quality import GateCode, GateOutcome, GateVerdict, RunFindings
from rivet_fleet.contracts.seals import Sealer
from rivet_fleet.contracts.state import FinishedRun
from rivet_fleet.errors import LeaseLost, StateTampered
from rivet_fleet.persistence.commits import seal_part
from rivet_fleet.persistence.open import open_store
from rivet_fleet.persistence.seals import KINDS_OF_WORD, WORDS, said_by
from rivet_fleet.persistence.store import Store
from tests.campaigns import campaign_plan, staged_part
from tests.stores import identity
from tests.unit.persistence.former import as_former

CAMPAIGN, RUN, W1 = CampaignId("c1"), RunId("c1-e0"), identity()
KEY = b"k" * 16
PARTS = (2, 1, 0)
"""Of each chunk; the last one is empty."""
GATE = GateVerdict(
    code=GateCode.NULL_RATIO,
    columns=("id",),
    outcome=GateOutcome.FAILED,
    refuses=True,
    sentence="x",
)
KINDS = ("4.", "3.", "")


def commit_all(store: Store, rows: int = 10, parts_of: tuple[int, ...] = PARTS) -> None:
    """Read what is there to read."""
    while (claim := store.claim(CAMPAIGN, W1, 60.0)) is not None:
        numbers = range(parts_of[claim.chunk_index])
        parts = [staged_part(claim.chunk_index, claim.fence, number=n, rows=rows) for n in numbers]
        store.commit(claim.task_id, claim.fence, parts, rows=rows * len(parts), pages=1)
        store.mark_published(claim.task_id, claim.fence)


@pytest.fixture(scope="module", params=KINDS, ids=["now", "commits", "former"])
def kept(request, tmp_path_factory) -> tuple[Path, str]:
    """A run of three completed chunks with a key's seals; chunk 0 was read again once."""
    path = tmp_path_factory.mktemp("whole") / "state.db"
    store = opened(path)
    store.migrate()
    store.submit(campaign_plan(chunks=(3,)))
    commit_all(store)
    task = store.task(RUN, 0)
    assert task is not None
    assert store.reopen(task.task_id, task.fence, "x")
    commit_all(store)
    if request.param != "4.":
        as_former(store, mark=request.param)
    store.close()
    return path, request.param


def opened(path: Path) -> Store:
    return open_store(f"sqlite:///{path}", seal_key=KEY)


def told(kept: tuple[Path, str], tmp_path: Path, *statements: str) -> tuple[str, int]:
    """What the finalizer's one reading refuses behind somebody's SQL, which comes after its lease;
    how many parts there are where it does not."""
    copy = tmp_path / "state.db"
    shutil.copy(kept[0], copy)
    with closing(opened(copy)) as store:
        lease = store.lease_finalize(RUN, W1, 60.0)
        assert lease is not None
        with closing(sqlite3.connect(copy)) as connection, connection:
            for statement in statements:
                connection.execute(statement)
        try:
            ledger = store.whole_ledger(lease)
            assert ledger.fences.items() <= {0: 3, 1: 1, 2: 1}.items()
            return "", len(ledger.parts)
        except StateTampered as error:
            assert error.code == "RIVET_STATE_TAMPERED"
            return error.message, 0


OF = "run_id = 'c1-e0' AND chunk_index"
LOOSE = "DROP INDEX uq_file_log_part"
FIELDS = (
    "export_name, path, rows, bytes, fingerprint, md5, receipt_json, columns_json, "
    "changed_values, status, created_at_s, seal"
)


def copied(to: str, source: str) -> str:
    """A part's row once more, as ``run_id, chunk_index, part_number, fence`` of ``to``."""
    return (
        f"INSERT INTO file_log (run_id, chunk_index, part_number, fence, {FIELDS}) "
        f"SELECT {to}, {FIELDS} FROM file_log WHERE {source} AND status <> 'voided'"
    )


OUT = {
    "never committed, and its status toggled": (
        f"UPDATE chunk_task SET status = 'pending', commit_seal = NULL WHERE {OF} = 1",
        f"DELETE FROM file_log WHERE {OF} = 1",
    ),
    "a commit of another chunk": (
        "UPDATE chunk_task SET (fence, rows_written, commit_seal) = (SELECT o.fence, "
        "o.rows_written, o.commit_seal FROM chunk_task o WHERE o.run_id = 'c1-e0' AND "
        f"o.chunk_index = 2), status = 'pending' WHERE {OF} = 1",
        f"DELETE FROM file_log WHERE {OF} = 1",
    ),
    "a chunk taken away": (
        f"DELETE FROM file_log WHERE {OF} = 1",
        f"DELETE FROM chunk_task WHERE {OF} = 1",
    ),
    "a part voided, its chunk's status toggled": (
        f"UPDATE file_log SET status = 'voided' WHERE {OF} = 0 AND part_number = 1",
        f"UPDATE chunk_task SET status = 'running' WHERE {OF} = 0",
    ),
    "a part in another's place": (
        LOOSE,
        f"DELETE FROM file_log WHERE {OF} = 0 AND part_number = 1",
        copied("run_id, chunk_index, part_number, fence", f"{OF} = 0 AND part_number = 0"),
    ),
    "a part of another chunk": (
        f"DELETE FROM file_log WHERE {OF} = 0 AND part_number = 1",
        copied("run_id, 0, 1, fence", f"{OF} = 1"),
    ),
}


@pytest.mark.parametrize("edit", OUT)
def test_no_chunk_and_no_part_is_left_out_whatever_a_status_says(kept, tmp_path, edit) -> None:
    refusal, _ = told(kept, tmp_path, *OUT[edit])
    if kept[1] or edit == "a part of another chunk":
        assert "is not what was sealed" in refusal


def test_what_is_known_of_a_completed_run_is_whole_or_refused(kept, tmp_path) -> None:
    """Who sweeps by it holds no lease."""
    copy = tmp_path / "state.db"
    shutil.copy(kept[0], copy)
    with closing(opened(copy)) as store:
        lease = store.lease_finalize(RUN, W1, 60.0)
        assert lease is not None
        done = FinishedRun(manifest_fingerprint="x", rows=30, bytes=1, files=3, duration_s=1.0)
        store.finish_run(lease, done)
        found = store.completed_ledger(RUN)
        assert found is not None and found.fences.keys() == {0, 1, 2}
        with closing(sqlite3.connect(copy)) as connection, connection:
            connection.execute(f"DELETE FROM file_log WHERE {OF} = 1")
            connection.execute(f"UPDATE chunk_task SET status = 'pending' WHERE {OF} = 1")
        if kept[1]:
            with pytest.raises(StateTampered, match="commit of chunk 1"):
                store.completed_ledger(RUN)


def test_a_part_that_was_committed_under_the_same_fence_before_takes_no_place(
    kept, tmp_path
) -> None:
    """Who sets a fence back and lets the chunk be read again has two sealed rows of one name."""
    if not kept[1]:
        return  # a former commit is believed where it has no seal
    with closing(sqlite3.connect(kept[0])) as connection:
        connection.row_factory = sqlite3.Row
        (row,) = connection.execute(f"SELECT * FROM file_log WHERE {OF} = 1")
        ((seal,),) = connection.execute("SELECT seal FROM chunk_run")
    other = {**dict(row), "rows": 3}
    sealed = seal_part(Sealer(key=KEY), other, said_by(seal).submission)
    edit = f"UPDATE file_log SET rows = 3, seal = '{sealed}' WHERE {OF} = 1"
    assert "chunk 1 of run c1-e0 is not what was sealed" in told(kept, tmp_path, edit)[0]


def test_a_part_of_a_former_attempt_is_named(kept, tmp_path) -> None:
    """It kept a run from its end for good, and nobody was told."""
    edits = (
        LOOSE,
        "UPDATE file_log SET status = 'published' WHERE status = 'voided' AND part_number = 0",
    )
    refusal, _ = told(kept, tmp_path, *edits)
    assert "part run/c000000-p000-f1.parquet of run c1-e0, of another attempt (fence 1)" in refusal
    assert "(fence 3)" in refusal


@pytest.mark.parametrize(
    "edit", ["UPDATE chunk_task SET status = 'pending'", "UPDATE file_log SET status = 'committed'"]
)
def test_what_nobody_left_out_is_whole_whatever_a_status_says(kept, tmp_path, edit) -> None:
    where = "WHERE status <> 'voided'"
    assert told(kept, tmp_path, f"{edit} {where}") == ("", sum(PARTS))


def test_a_ledger_is_read_by_who_holds_the_runs_end_alone(kept, tmp_path) -> None:
    """A chunk that is reopened behind the lease was not taken away by anybody."""
    copy = tmp_path / "state.db"
    shutil.copy(kept[0], copy)
    with closing(opened(copy)) as store:
        lease = store.lease_finalize(RUN, W1, 60.0)
        task = store.task(RUN, 1)
        assert lease is not None
        assert task is not None
        assert store.reopen(task.task_id, task.fence, "x")
        with pytest.raises(LeaseLost):
            store.whole_ledger(lease)


def test_a_plan_that_was_exchanged_is_refused_in_the_same_reading(kept, tmp_path) -> None:
    edit = "UPDATE chunk_run SET expected_tasks = 2"
    assert "run c1-e0" in told(kept, tmp_path, edit, *OUT["a chunk taken away"])[0]


FORMER = "(SELECT o.{} FROM old_chunk_task o WHERE o.chunk_index = chunk_task.chunk_index)"
PUT_BACK = (
    "UPDATE chunk_task SET "
    + ", ".join(f"{name} = {FORMER.format(name)}" for name in ("commit_seal", "rows_written"))
    + f" WHERE {OF} = "
)


def test_no_word_on_a_former_submission_fits_the_next_one(tmp_path) -> None:
    """What the source said of it, and that an operator took responsibility."""
    path = tmp_path / "state.db"
    proof = RunProof(
        prove=Prove.ALL, outcome=ProofOutcome.PROVEN, delivered=30, counted=30, sentence="all"
    )
    with closing(opened(path)) as store:
        store.migrate()
        store.submit(campaign_plan(chunks=(3,)))
        commit_all(store)
        lease = store.lease_finalize(RUN, W1, 60.0)
        assert lease is not None
        store.note_proof(lease, proof, 60.0)
        store.fail_run(lease, "x", RunFindings(gates=(GATE,)))
        store.accept_run(RUN, by="ann", reason="known")
        with closing(sqlite3.connect(path)) as connection, connection:
            ((*words,),) = connection.execute(f"SELECT {WORDS} FROM chunk_run")
            assert None not in words
        store.reset_export("shop", "e0", chunks_only=True)
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("DELETE FROM campaign")
        store.submit(campaign_plan(chunks=(3,)))
        for number, kind in enumerate(KINDS_OF_WORD):
            edit = f"UPDATE chunk_run SET {kind}_json = ?, {kind}_seal = ?"
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.execute(edit, words[2 * number : 2 * number + 2])
            with pytest.raises(StateTampered, match=f"the {kind} of run"):
                store.run(RUN)
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.execute(edit, (None, None))
        assert store.run(RUN) is not None


@pytest.mark.parametrize("chunk", [0, 1], ids=["with parts", "empty"])
def test_nothing_of_a_former_submission_fits_the_next_one(tmp_path, chunk: int) -> None:
    """The same plan under the same id: without a name of its own its old rows would be believed."""
    path = tmp_path / "state.db"
    with closing(opened(path)) as store:
        store.migrate()
        for rows, parts_of in ((10, (2, 0, 0)), (1000, PARTS)):
            store.reset_export("shop", "e0", chunks_only=True)
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.execute("DELETE FROM campaign")
            store.submit(campaign_plan(chunks=(3,)))
            commit_all(store, rows, parts_of)
            with closing(sqlite3.connect(path)) as connection, connection:
                for table in ("chunk_task", "file_log"):
                    connection.execute(
                        f"CREATE TABLE IF NOT EXISTS old_{table} AS SELECT * FROM {table}"
                    )
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(f"DELETE FROM file_log WHERE {OF} = {chunk}")
            connection.execute(
                f"INSERT INTO file_log (run_id, chunk_index, part_number, fence, {FIELDS}) SELECT "
                f"run_id, chunk_index, part_number, fence, {FIELDS} FROM old_file_log "
                f"WHERE chunk_index = {chunk}"
            )
            connection.execute(f"{PUT_BACK}{chunk}")
        lease = store.lease_finalize(RUN, W1, 60.0)
        assert lease is not None
        with pytest.raises(StateTampered, match=f"commit of chunk {chunk}"):
            store.whole_ledger(lease)
        if chunk == 0:
            with pytest.raises(StateTampered, match="part run/"):
                store.parts(RUN, chunk_index=0)
