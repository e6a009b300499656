"""The tail of a chunk, roll-forward, reopening and finishing: over real seams, without servers.

The functions named ``proof_…`` are run twice: as tests, and with one rule removed, when they
must fail (point 9 d of the protocol's proofs; the store's own guards are in test_mutants.py).
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from rivet_fleet.contracts.keys import RunId
from rivet_fleet.contracts.manifest import MANIFEST_NAME, SUCCESS_NAME
from rivet_fleet.contracts.plan import DestinationPlan
from rivet_fleet.contracts.proof import ProofOutcome, ProofPlan, Prove, RunProof
from rivet_fleet.contracts.quality import GateOutcome, QualityPlan, UniqueKey
from rivet_fleet.contracts.state import CampaignStatus, Failure, RunStatus, TaskStatus
from rivet_fleet.coordination import commit, finalize
from rivet_fleet.coordination.commit import Published, deliver_chunk, publish_chunk
from rivet_fleet.coordination.finalize import finalize_run
from rivet_fleet.coordination.garbage import collect_garbage
from rivet_fleet.coordination.operate import requeue
from rivet_fleet.coordination.tend import chosen_over, tend, verdict
from rivet_fleet.errors import (
    DestinationUnavailable,
    ExitCode,
    LeaseLost,
    StateRefused,
    StateTampered,
)
from rivet_fleet.execution.destination import Presence
from rivet_fleet.persistence.open import open_store as open_sql_store
from tests.model.objects import Bucket, destination_of
from tests.model.store import MemoryStore
from tests.unit.coordination.fleets import (
    CAMPAIGN,
    DatabaseClock,
    make_fleet,
    memory_plan,
    open_store,
    spooled,
)


def test_a_run_that_was_edited_keeps_no_other_from_its_end(tmp_path):
    """Nor does what a finished run cost its source, which is evidence alone."""
    store = open_sql_store(f"sqlite:///{tmp_path}/state.db")
    store.migrate()
    store.submit(memory_plan(chunks=(1, 1)))
    fleet = make_fleet(store, tmp_path)
    for _ in range(2):
        deliver(fleet, tmp_path)
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
        connection.execute("UPDATE chunk_run SET priority = 7 WHERE export_name = 'e0'")
        connection.execute("INSERT INTO export_harm VALUES ('c1-e1', 's', 'x', NULL)")
    with pytest.raises(StateTampered, match="export e0"):
        tend(fleet, CAMPAIGN)
    assert store.run(RunId("c1-e1")).status is RunStatus.COMPLETED
    fleet.close()


def claim_of(fleet):
    return fleet.store.claim(CAMPAIGN, fleet.identity, 30.0)


def deliver(fleet, tmp_path, *, parts=1):
    claim = claim_of(fleet)
    plan = fleet.planned_run(claim.run_id).plan
    outcome = deliver_chunk(fleet, claim, plan, spooled(tmp_path / "spool", parts))
    return claim, outcome


def visible(fleet, run_id):
    return sorted(info.path for info in fleet.destination(run_id).list_visible(run_id))


def proof_a_loser_shows_nothing(tmp_path):
    """A worker that was given up meanwhile commits nothing and nothing of it is ever visible."""
    clock = DatabaseClock()
    store = open_store(clock, chunks=(1,))
    slow, quick = make_fleet(store, tmp_path, "slow"), make_fleet(store, tmp_path, "quick")
    stale = claim_of(slow)
    plan = slow.planned_run(stale.run_id).plan
    result = spooled(tmp_path / "slow")
    clock.time_s += 31.0
    assert len(store.reap_expired(CAMPAIGN)) == 1
    fresh, outcome = deliver(quick, tmp_path)
    assert outcome is Published.COMPLETED
    with pytest.raises(LeaseLost):
        deliver_chunk(slow, stale, plan, result)
    assert all(f"-f{fresh.fence}." in path for path in visible(quick, fresh.run_id))
    assert len(visible(quick, fresh.run_id)) == 1
    assert not list(quick.destination(fresh.run_id).list_staged())


def proof_reopening_leaves_no_old_part(tmp_path):
    """When one of two parts is lost, the other one goes, too, before the chunk comes back."""
    store = open_store(DatabaseClock(), chunks=(1,))
    fleet = make_fleet(store, tmp_path)
    old, _ = deliver(fleet, tmp_path, parts=2)
    destination = fleet.destination(old.run_id)
    destination.remove(store.parts(old.run_id)[0].path)
    assert not finalize_run(fleet, old.run_id)
    assert store.task(old.run_id, 0).status is TaskStatus.PENDING
    new, outcome = deliver(fleet, tmp_path, parts=2)
    assert outcome is Published.COMPLETED
    assert new.fence > old.fence
    assert len(visible(fleet, old.run_id)) == 2
    assert all(f"-f{new.fence}." in path for path in visible(fleet, old.run_id))


def proof_a_lost_part_is_no_success(tmp_path):
    """A file deleted under our feet is found before anybody is told of success."""
    store = open_store(DatabaseClock(), chunks=(1,))
    fleet = make_fleet(store, tmp_path)
    claim, _ = deliver(fleet, tmp_path)
    destination = fleet.destination(claim.run_id)
    destination.remove(store.parts(claim.run_id)[0].path)
    finalize_run(fleet, claim.run_id)
    assert destination.read(SUCCESS_NAME, 4096) is None
    assert store.run(claim.run_id).status is RunStatus.IN_PROGRESS


def proof_a_late_finalizer_leaves_the_newer_manifest_alone(tmp_path):
    """A finalizer that lost its lease while it slept must not write the shared names."""
    clock = DatabaseClock()
    store = open_store(clock, chunks=(1,))
    slow, quick = make_fleet(store, tmp_path, "slow"), make_fleet(store, tmp_path, "quick")
    claim, _ = deliver(slow, tmp_path)
    lease = store.lease_finalize(claim.run_id, slow.identity, 30.0)
    clock.time_s += 31.0
    assert finalize_run(quick, claim.run_id)
    destination = quick.destination(claim.run_id)
    destination.put_atomic(MANIFEST_NAME, b"the next run's manifest")
    parts = store.parts(claim.run_id)
    with pytest.raises(LeaseLost):
        finalize._write(slow, destination, store.run(claim.run_id), lease, parts, b"old manifest")
    assert destination.read(MANIFEST_NAME, 4096) == b"the next run's manifest"


def late_fleet(tmp_path, chunks=(1,)):
    """A fleet into an object store."""
    (run,) = memory_plan(chunks).runs
    into = DestinationPlan(kind="objects", prefix="objects://bucket/shop")
    store = MemoryStore(DatabaseClock())
    plan = replace(run, plan=replace(run.plan, destination=into))
    store.submit(replace(memory_plan(chunks), runs=(plan,)))
    fleet, bucket = make_fleet(store, tmp_path), Bucket()
    fleet.open_destination = lambda plan: destination_of(bucket, plan.prefix)
    return fleet, bucket


def given_up(fleet, bucket, tmp_path):
    """A chunk that was committed, and reopened while its part was on its way at the store: its
    claim, and what carries that out."""
    bucket.on_their_way = late = []
    claim = claim_of(fleet)
    plan = fleet.planned_run(claim.run_id).plan
    with pytest.raises(DestinationUnavailable):
        deliver_chunk(fleet, claim, plan, spooled(tmp_path / "spool"))
    bucket.on_their_way = None
    reopened = commit.reopen_chunk(
        fleet,
        task_id=claim.task_id,
        run_id=claim.run_id,
        chunk_index=claim.chunk_index,
        fence=claim.fence,
        reason="an operator's word",
    )
    assert reopened is Published.REOPENED
    return claim, lambda: bucket.objects.update(late)


def proof_a_late_commit_is_gone_before_the_manifest(tmp_path, parts=1):
    """F10: the store proved the upload gone, and carries its commit out after all."""
    fleet, bucket = late_fleet(tmp_path)
    old, carry_out = given_up(fleet, bucket, tmp_path)
    new, outcome = deliver(fleet, tmp_path, parts=parts)
    assert outcome is Published.COMPLETED
    prove = finalize.prove_run

    def late_and_proven(*arguments):
        carry_out()
        assert f"-f{old.fence}." in " ".join(visible(fleet, old.run_id))
        return prove(*arguments)

    with pytest.MonkeyPatch.context() as slow:
        slow.setattr(finalize, "prove_run", late_and_proven)
        assert finalize_run(fleet, new.run_id)
    shown = [path for path in visible(fleet, new.run_id) if path.endswith(".parquet")]
    assert len(shown) == parts
    assert all(f"-f{new.fence}." in path for path in shown)


PROOFS = (
    proof_a_loser_shows_nothing,
    proof_reopening_leaves_no_old_part,
    proof_a_lost_part_is_no_success,
    proof_a_late_finalizer_leaves_the_newer_manifest_alone,
    proof_a_late_commit_is_gone_before_the_manifest,
)


@pytest.mark.parametrize("proof", PROOFS)
def test_proof(proof, tmp_path):
    proof(tmp_path)


def publish_before_commit(monkeypatch):
    stage = commit._stage

    def staged_and_shown(fleet, claim, plan, destination, spooled_part):
        part = stage(fleet, claim, plan, destination, spooled_part)
        assert destination.publish(part.receipt, part.path, part.digest) is Presence.VISIBLE
        return part

    monkeypatch.setattr(commit, "_stage", staged_and_shown)


def reopen_leaves_parts(monkeypatch):
    monkeypatch.setattr(commit, "make_impossible", lambda destination, parts: None)


def finalize_without_looking(monkeypatch):
    monkeypatch.setattr(finalize, "_reopen_lost", lambda *arguments: False)


def finalize_without_confirming(monkeypatch):
    monkeypatch.setattr(finalize, "_still_ours", lambda *_: None)


def finalize_without_removing_what_is_late(monkeypatch):
    monkeypatch.setattr(finalize, "remove_late", lambda *arguments: None)


MUTANTS = (
    (publish_before_commit, proof_a_loser_shows_nothing),
    (reopen_leaves_parts, proof_reopening_leaves_no_old_part),
    (finalize_without_looking, proof_a_lost_part_is_no_success),
    (finalize_without_confirming, proof_a_late_finalizer_leaves_the_newer_manifest_alone),
    (finalize_without_removing_what_is_late, proof_a_late_commit_is_gone_before_the_manifest),
)


@pytest.mark.parametrize(("mutant", "proof"), MUTANTS)
def test_the_proof_notices_the_missing_rule(mutant, proof, tmp_path, monkeypatch):
    mutant(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        proof(tmp_path)


def test_whoever_comes_next_rolls_a_committed_chunk_forward(tmp_path):
    store = open_store(DatabaseClock(), chunks=(1,))
    dead, heir = make_fleet(store, tmp_path, "dead"), make_fleet(store, tmp_path, "heir")
    claim = claim_of(dead)
    plan = dead.planned_run(claim.run_id).plan
    destination = dead.destination(claim.run_id)
    part = commit._stage(dead, claim, plan, destination, spooled(tmp_path / "spool").parts[0])
    store.commit(claim.task_id, claim.fence, [part], rows=10, pages=1)
    assert visible(heir, claim.run_id) == []
    tended = tend(heir, CAMPAIGN, rolling_idle_s=0.0)
    assert (tended.rolled_forward, tended.finalized) == (1, 1)
    assert tended.status is CampaignStatus.COMPLETED
    assert len([p for p in visible(heir, claim.run_id) if p.endswith(".parquet")]) == 1


@pytest.mark.parametrize("permanent", [False, True])
def test_a_chosen_export_is_not_over_while_a_chunk_is_tried_again(tmp_path, permanent):
    store = open_store(DatabaseClock(), chunks=(1, 1))
    fleet = make_fleet(store, tmp_path)
    claim = claim_of(fleet)
    failure = Failure(
        error_class="SourceUnavailable", message="reset", permanent=permanent, not_before_in_s=2.0
    )
    store.fail(claim.task_id, claim.fence, failure)
    name = fleet.planned_run(claim.run_id).export_name
    fleet.store.tasks = lambda *_, **__: pytest.fail("every failed chunk, at each look")
    assert chosen_over(fleet, CAMPAIGN, (name,)) is permanent


def test_names_that_no_export_bears_are_no_success(tmp_path):
    fleet = make_fleet(open_store(DatabaseClock(), chunks=(1,)), tmp_path)
    for status in (CampaignStatus.ACTIVE, CampaignStatus.COMPLETED):
        assert verdict(fleet, CAMPAIGN, status, ("typo",)) is ExitCode.INCOMPLETE


def test_a_destination_that_is_away_keeps_no_other_waiting(tmp_path, monkeypatch):
    """Asked once a round, and the chunks of another one are published."""
    store = open_store(DatabaseClock(), chunks=(2, 1))
    dead, heir = make_fleet(store, tmp_path, "dead"), make_fleet(store, tmp_path, "heir")
    asked = []
    for _ in range(3):
        claim = claim_of(dead)
        plan = dead.planned_run(claim.run_id).plan
        destination = dead.destination(claim.run_id)
        part = commit._stage(dead, claim, plan, destination, spooled(tmp_path / "spool").parts[0])
        store.commit(claim.task_id, claim.fence, [part], rows=10, pages=1)

    def away(*_):
        asked.append(1)
        raise DestinationUnavailable("nobody answers")

    monkeypatch.setattr(heir.destination(RunId("c1-e0")), "publish", away)
    assert tend(heir, CAMPAIGN, rolling_idle_s=0.0).rolled_forward == 1
    assert len(asked) == 1
    bucket = DestinationPlan(kind="s3", prefix="s3://lake@127.0.0.1:9/raw/orders")
    assert bucket.service == "s3://lake@127.0.0.1:9"
    assert store.run(RunId("c1-e1")).status is RunStatus.COMPLETED


def test_a_reopening_right_after_the_commit_leaves_nothing_of_it(tmp_path, monkeypatch):
    """The committer publishes what it committed without asking the ledger again (ADR 0001)."""
    store = open_store(DatabaseClock(), chunks=(1,))
    fleet, other = make_fleet(store, tmp_path), make_fleet(store, tmp_path, "other")
    claim = claim_of(fleet)
    really_commit = store.commit

    def commit_and_be_reopened(task_id, fence, parts, **done):
        really_commit(task_id, fence, parts, **done)
        commit.reopen_chunk(
            other,
            task_id=task_id,
            run_id=claim.run_id,
            chunk_index=claim.chunk_index,
            fence=fence,
            reason="an operator's word",
        )

    monkeypatch.setattr(store, "commit", commit_and_be_reopened)
    plan = fleet.planned_run(claim.run_id).plan
    outcome = deliver_chunk(fleet, claim, plan, spooled(tmp_path / "spool"))
    assert outcome is Published.OVERTAKEN
    assert visible(fleet, claim.run_id) == []
    assert store.task(claim.run_id, 0).status is TaskStatus.PENDING


def test_a_part_s_own_events_are_journaled_with_its_transitions(tmp_path):
    store = open_store(DatabaseClock(), chunks=(1,))
    claim, _ = deliver(make_fleet(store, tmp_path), tmp_path)
    told = [e for e in store.journal(campaign_id=CAMPAIGN) if e.chunk_index == claim.chunk_index]
    names = ["chunk.claimed", "part.staged", "chunk.committed", "part.published", "chunk.completed"]
    assert [entry.event for entry in told] == names
    assert told[1].data == told[3].data
    assert set(told[1].data) == {"path", "rows", "bytes"}


def test_publishing_twice_is_publishing_once(tmp_path):
    store = open_store(DatabaseClock(), chunks=(1,))
    fleet = make_fleet(store, tmp_path)
    claim, outcome = deliver(fleet, tmp_path)
    assert outcome is Published.COMPLETED
    again = publish_chunk(
        fleet,
        task_id=claim.task_id,
        campaign_id=CAMPAIGN,
        run_id=claim.run_id,
        chunk_index=claim.chunk_index,
        fence=claim.fence,
    )
    assert again is Published.COMPLETED
    assert len(visible(fleet, claim.run_id)) == 1


def test_two_finalizers_write_the_same_bytes(tmp_path):
    clock = DatabaseClock()
    store = open_store(clock, chunks=(2,))
    first, second = make_fleet(store, tmp_path, "first"), make_fleet(store, tmp_path, "second")
    claim, _ = deliver(first, tmp_path)
    deliver(second, tmp_path)
    run = store.run(claim.run_id)
    parts = store.parts(claim.run_id)
    one = finalize.manifest_bytes(first, run, first.destination(claim.run_id), parts)
    clock.time_s += 100.0
    two = finalize.manifest_bytes(second, run, second.destination(claim.run_id), parts[::-1])
    assert one == two


def test_other_bytes_of_the_same_size_are_found_where_a_proof_is_asked_for(tmp_path):
    """``verify: content`` before anybody is told of success, ``requeue --lost`` at any time."""
    (run,) = memory_plan((1,)).runs
    store = MemoryStore(DatabaseClock())
    read_back = replace(run, plan=replace(run.plan, verify="content"))
    store.submit(replace(memory_plan((1,)), runs=(read_back,)))
    fleet = make_fleet(store, tmp_path)
    claim, _ = deliver(fleet, tmp_path)
    destination = fleet.destination(claim.run_id)
    assert requeue(fleet, CAMPAIGN, lost=True).lost == 0
    (part,) = destination.list_visible(claim.run_id)
    destination.put_atomic(part.path, b"x" * part.size_bytes)
    tended = tend(fleet, CAMPAIGN)
    assert tended.status is CampaignStatus.INCOMPLETE, "nobody looks again and again"
    run = store.run(claim.run_id)
    assert run is not None and run.status is RunStatus.FAILED
    assert "does not hold what was written" in (run.error or "")
    assert verdict(fleet, CAMPAIGN, tended.status) is ExitCode.DATA_INTEGRITY
    assert destination.read(SUCCESS_NAME, 100) is None
    assert destination.read("manifest.json", 100) is None
    assert requeue(fleet, CAMPAIGN, lost=True).lost == 1
    assert visible(fleet, claim.run_id) == []
    deliver(fleet, tmp_path)
    assert tend(fleet, CAMPAIGN).status is CampaignStatus.COMPLETED


def test_of_a_cancelled_campaign_nothing_is_taken_back(tmp_path):
    """Nobody would read it again: what was delivered of it stays as it is, and is told as that."""
    store = MemoryStore(DatabaseClock())
    store.submit(memory_plan((1, 1)))
    fleet = make_fleet(store, tmp_path)
    claim, _ = deliver(fleet, tmp_path)
    tend(fleet, CAMPAIGN)
    store.cancel(CAMPAIGN)
    destination = fleet.destination(claim.run_id)
    found = destination.list_visible(claim.run_id)
    (part,) = (one for one in found if one.path.endswith(".parquet"))
    destination.remove(part.path)
    with pytest.raises(StateRefused, match="cancelled: nothing was changed"):
        requeue(fleet, CAMPAIGN, lost=True)
    assert destination.read(f"{claim.run_id}/{SUCCESS_NAME}", 1000) is not None
    assert store.run(claim.run_id).status is RunStatus.COMPLETED


def test_a_chunk_that_nobody_read_ends_nothing_whatever_its_status_says_when(tmp_path):
    """Marked completed until the run's end is leased, and not when commits are looked at."""
    store = open_sql_store(f"sqlite:///{tmp_path}/state.db", seal_key=b"k" * 16)
    store.migrate()
    store.submit(memory_plan((2,)))
    fleet = make_fleet(store, tmp_path)
    claim, _ = deliver(fleet, tmp_path)
    with closing(sqlite3.connect(tmp_path / "state.db")) as theirs, theirs:
        theirs.execute("UPDATE chunk_task SET status = 'completed'")
        theirs.execute(
            "CREATE TRIGGER t AFTER UPDATE OF finalize_fence ON chunk_run BEGIN "
            "UPDATE chunk_task SET status = 'pending' WHERE chunk_index = 1; END"
        )
    with pytest.raises(StateTampered, match="commit of chunk 1"):
        finalize_run(fleet, claim.run_id)
    assert not [p for p in visible(fleet, claim.run_id) if not p.endswith(".parquet")]
    store.close()


def test_a_late_commit_of_a_chunk_that_has_no_rows_any_more_is_gone_too(tmp_path):
    proof_a_late_commit_is_gone_before_the_manifest(tmp_path, parts=0)


def test_a_finalizer_with_a_former_reading_removes_nothing_of_a_later_attempt(tmp_path):
    """Nor what no part of this run is named like."""
    fleet, bucket = late_fleet(tmp_path)
    given_up(fleet, bucket, tmp_path)
    new, _ = deliver(fleet, tmp_path)
    run, destination = fleet.store.run(new.run_id), fleet.destination(new.run_id)
    others = [
        f"{new.run_id}/{name}"
        for name in (
            "e0-c000007-p000-f1.parquet",
            "e0-c000000-p000-f1.csv",
            "e1-c000000-p000-f1.parquet",
            "e0-c0000000-p000-f1.parquet",
            "e0-c000000-p000-f01.parquet",
            f"e0-c000000-p000-f{'0' * 99}1.parquet",
            "e0-c000000-p000-f1.parquet/x",
        )
    ]
    for path in others:
        destination.put_atomic(path, b"theirs")
    before = visible(fleet, new.run_id)
    for fences in ({0: new.fence - 1}, {0: new.fence}, {}):
        commit.remove_late(fleet, run, fences)
    assert visible(fleet, new.run_id) == before


def test_what_is_shown_after_the_runs_end_is_swept(tmp_path):
    """And nothing else that is visible, before the end or behind it."""
    fleet, bucket = late_fleet(tmp_path, chunks=(2,))
    old, carry_out = given_up(fleet, bucket, tmp_path)
    deliver(fleet, tmp_path)
    deliver(fleet, tmp_path)
    before = dict(bucket.objects)
    carry_out()
    assert collect_garbage(fleet, CAMPAIGN, min_age_s=0).late_parts == 0, "the finalizer's to do"
    bucket.objects = dict(before)
    assert finalize_run(fleet, old.run_id)
    ended = dict(bucket.objects)
    assert collect_garbage(fleet, CAMPAIGN, min_age_s=0).late_parts == 0
    carry_out()
    assert bucket.objects != ended
    assert collect_garbage(fleet, CAMPAIGN, min_age_s=0).late_parts == 1
    assert bucket.objects == ended


def test_what_an_attempt_has_staged_that_holds_its_chunk_is_not_swept(tmp_path):
    """It may have waited for the state for longer than any age that gc is told."""
    store = open_store(DatabaseClock(), chunks=(1,))
    fleet = make_fleet(store, tmp_path)
    claim = claim_of(fleet)
    plan = fleet.planned_run(claim.run_id).plan
    destination = fleet.destination(claim.run_id)
    part = commit._stage(fleet, claim, plan, destination, spooled(tmp_path / "spool").parts[0])
    assert collect_garbage(fleet, CAMPAIGN, min_age_s=0).staged_files == 0
    store.release(claim.task_id, claim.fence)
    again = claim_of(fleet)
    assert again.fence > claim.fence
    assert collect_garbage(fleet, CAMPAIGN, min_age_s=0).staged_files == 1, "of a lost attempt"
    assert destination.look(part.receipt, part.path, part.digest) is not Presence.STAGED


def test_a_completed_run_whose_ledger_is_not_whole_is_not_swept(tmp_path):
    """The fence that a chunk stands at comes from its commit, and of a chunk without rows, too."""
    fleet, bucket = late_fleet(tmp_path, chunks=(2,))
    old, carry_out = given_up(fleet, bucket, tmp_path)
    again = claim_of(fleet)
    assert (again.chunk_index, again.fence > old.fence) == (old.chunk_index, True)
    fleet.store.commit(again.task_id, again.fence, [], rows=0, pages=1)
    fleet.store.mark_published(again.task_id, again.fence)
    deliver(fleet, tmp_path)
    assert fleet.store.completed_ledger(old.run_id) is None
    assert finalize_run(fleet, old.run_id)
    carry_out()
    assert collect_garbage(fleet, CAMPAIGN, min_age_s=0).late_parts == 1


def test_a_late_commit_that_cannot_be_removed_keeps_the_run_open(tmp_path, monkeypatch):
    fleet, bucket = late_fleet(tmp_path)
    _, carry_out = given_up(fleet, bucket, tmp_path)
    new, _ = deliver(fleet, tmp_path)
    carry_out()

    def away(path):
        raise DestinationUnavailable(f"{path} is away")

    with monkeypatch.context() as lost:
        lost.setattr(fleet.destination(new.run_id), "remove", away)
        with pytest.raises(DestinationUnavailable):
            finalize_run(fleet, new.run_id)
    assert fleet.store.run(new.run_id).status is RunStatus.IN_PROGRESS
    assert not [path for path in bucket.objects if not path.endswith(".parquet")]


@pytest.mark.parametrize("delivered", [10, 99])
def test_a_proof_of_another_number_of_rows_is_asked_for_anew(tmp_path, delivered):
    """A reopening takes a run's proof back; put there again, it is sealed and speaks of others."""
    (run,) = memory_plan((1,)).runs
    proven = replace(run.plan, proof=ProofPlan(prove=Prove.ALL))
    store = MemoryStore(DatabaseClock())
    store.submit(replace(memory_plan((1,)), runs=(replace(run, plan=proven),)))
    fleet = make_fleet(store, tmp_path)
    claim, _ = deliver(fleet, tmp_path)
    lease = store.lease_finalize(claim.run_id, fleet.identity, 30.0)
    outcome = ProofOutcome.PROVEN
    former = RunProof(
        prove=Prove.ALL, outcome=outcome, delivered=delivered, counted=delivered, sentence="all"
    )
    store.note_proof(lease, former, 30.0)
    ledger = store.whole_ledger(lease)
    found = finalize.prove_run(fleet, store.run(claim.run_id), lease, ledger.parts)
    assert found.delivered == 10
    assert (found == former) is (delivered == 10)


def test_a_unique_key_of_which_a_part_says_nothing_is_unknown(tmp_path):
    """A former run whose lost chunk is read again: what its other parts held is not kept."""
    (run,) = memory_plan((1,)).runs
    store = MemoryStore(DatabaseClock())
    quality = QualityPlan(unique=(UniqueKey(columns=("id",), within_chunks=False, entries_max=10),))
    store.submit(
        replace(memory_plan((1,)), runs=(replace(run, plan=replace(run.plan, quality=quality)),))
    )
    fleet = make_fleet(store, tmp_path)
    claim, _ = deliver(fleet, tmp_path)
    view = store.run(claim.run_id)
    assert view is not None
    (gate,) = finalize.run_findings(fleet, view, store.parts(claim.run_id)).gates
    assert gate.outcome is GateOutcome.UNKNOWN and "1 parts are not kept" in gate.sentence
