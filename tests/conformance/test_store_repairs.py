"""Repairs in every store: all of the chunks or none, by who is first, beside nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.manifest import PartStatus
from rivet_fleet.contracts.quality import RunFindings
from rivet_fleet.contracts.state import (
    CampaignStatus,
    Failure,
    FinishedRun,
    RunStatus,
    TaskStatus,
)
from rivet_fleet.errors import LeaseLost, StateRefused
from rivet_fleet.persistence.store import Store
from tests.campaigns import campaign_plan, staged_part
from tests.stores import identity

CAMPAIGN, RUN, W1 = CampaignId("c1"), RunId("c1-e0"), identity("w1")


def deliver(store: Store, only: Sequence[RunId] = ()) -> None:
    while (claim := store.claim(CAMPAIGN, W1, 30.0, only=only)) is not None:
        part = staged_part(claim.chunk_index, claim.fence)
        store.commit(claim.task_id, claim.fence, [part], rows=part.digest.rows, pages=1)
        store.mark_published(claim.task_id, claim.fence)


def end(store: Store, only: Sequence[RunId] = ()) -> None:
    deliver(store, only)
    lease = store.lease_finalize(RUN, W1, 30.0)
    assert lease is not None
    ledger = store.whole_ledger(lease)
    assert len(ledger.parts) == len(ledger.fences) == 3, "of this generation, and whole"
    store.finish_run(
        lease,
        FinishedRun(manifest_fingerprint="xxh3:1", rows=1, bytes=1, files=3, duration_s=1.0),
    )


def finish(store: Store) -> None:
    end(store)
    assert store.finish_campaign(CAMPAIGN) is CampaignStatus.COMPLETED


def repair(store: Store, generation: int, fences: dict[int, int], by: str = "a") -> int:
    return store.repair_run(RUN, generation=generation, fences=fences, by=by, reason="it differs")


def test_a_repair_reopens_all_of_its_chunks_as_the_next_generation(store: Store) -> None:
    store.submit(campaign_plan(chunks=(3,)))
    with pytest.raises(StateRefused, match="in progress"):
        repair(store, 1, {0: 0})
    finish(store)
    former = store.parts(RUN)
    for fences in ({0: 1, 2: 9}, {0: 1, 7: 1}):
        with pytest.raises(StateRefused, match="was read again meanwhile"):
            repair(store, 1, fences)
    run = store.run(RUN)
    assert run is not None and (run.status, run.generation) == (RunStatus.COMPLETED, 1)
    assert run.manifest_fingerprint == "xxh3:1"
    assert store.parts(RUN) == former and store.replaced_parts(RUN) == []

    assert repair(store, 1, {0: 1, 2: 1}) == repair(store, 1, {0: 1, 2: 1}) == 2
    with pytest.raises(StateRefused, match="in progress"):
        repair(store, 1, {0: 1, 2: 1}, by="b")
    run = store.run(RUN)
    assert run is not None and (run.status, run.generation) == (RunStatus.IN_PROGRESS, 2)
    assert run.manifest_fingerprint is None and run.counts.pending == 2
    kept = [part.path for part in store.parts(RUN)]
    replaced = [part.path for part in store.replaced_parts(RUN)]
    assert kept == [former[1].path] and replaced == [former[0].path, former[2].path]
    assert {part.status for part in store.replaced_parts(RUN)} == {PartStatus.VOIDED}
    assert store.replaced_parts(RUN, until=1) == []

    claim = store.claim(CAMPAIGN, W1, 30.0)
    assert claim is not None and (claim.generation, claim.chunk_index, claim.attempt) == (2, 0, 1)
    store.release(claim.task_id, claim.fence)
    finish(store)
    assert len(store.parts(RUN)) == 3 and len(store.replaced_parts(RUN, until=2)) == 2
    with pytest.raises(StateRefused, match="was repaired since"):
        repair(store, 1, {0: 1}, by="b")
    assert repair(store, 2, {1: 1}, by="b") == 3
    store.forget_replaced(RUN, 2)
    assert [part.path for part in store.replaced_parts(RUN)] == [former[1].path]


def test_of_a_cancelled_campaign_nothing_is_repaired(store: Store) -> None:
    store.submit(campaign_plan(chunks=(3,)))
    store.cancel(CAMPAIGN)
    with pytest.raises(StateRefused, match="cancelled") as refused:
        repair(store, 1, {0: 1}, by="b")
    assert "delivers its rows anew" in (refused.value.hint or ""), "there is nothing to be resumed"
    with pytest.raises(StateRefused):
        store.repair_run(RunId("c1-e9"), generation=1, fences={}, by="a", reason="")


def test_beside_another_run_of_the_export_nothing_is_repaired(store: Store) -> None:
    store.submit(campaign_plan(chunks=(3,)))
    finish(store)
    store.submit(campaign_plan(campaign_id="c2", chunks=(1,)))
    with pytest.raises(StateRefused, match="run c2-e0 of the same export is in progress"):
        repair(store, 1, {0: 1})
    store.cancel(CampaignId("c2"))
    assert repair(store, 1, {0: 1}) == 2


def test_a_run_that_was_delivered_before_its_campaign_was_cancelled_stays_as_it_is(
    store: Store,
) -> None:
    store.submit(campaign_plan(chunks=(3, 1)))
    end(store, only=[RUN])
    store.cancel(CAMPAIGN)
    run = store.run(RUN)
    assert run is not None and run.status is RunStatus.COMPLETED
    with pytest.raises(StateRefused, match="was cancelled"):
        repair(store, 1, {0: 1})


# ------------------------------------------------------------------------------------------
# A repair that is given up (P7): the run is completed in the generation before, as it was.


def delivered(store: Store) -> object:
    """All that a repair which was given up leaves as it was."""
    run, ledger = store.run(RUN), store.completed_ledger(RUN)
    assert run is not None and ledger is not None
    tasks = [
        replace(task, fence=0, commit_fence=None, updated_at_s=0.0) for task in store.tasks(RUN)
    ]
    return replace(run, finalize_fence=0), ledger.parts, tasks, store.run_finished_at_s(RUN)


GIVEN_UP = ("begun", "running", "committed", "completed", "failed", "refused")


def come_to(store: Store, where: str) -> None:
    """A repair of chunks 0 and 2, so far."""
    if where == "refused":
        deliver(store)
        lease = store.lease_finalize(RUN, W1, 30.0)
        assert lease is not None
        store.fail_run(lease, "too few rows", RunFindings())
        return
    if where == "begun":
        return
    claim = store.claim(CAMPAIGN, W1, 30.0)
    assert claim is not None
    if where == "failed":
        store.fail(claim.task_id, claim.fence, failure())
    if where in ("committed", "completed"):
        part = staged_part(claim.chunk_index, claim.fence)
        store.commit(claim.task_id, claim.fence, [part], rows=part.digest.rows, pages=1)
    if where == "completed":
        store.mark_published(claim.task_id, claim.fence)


def failure() -> Failure:
    return Failure(error_class="SourceError", message="gone", permanent=True)


@pytest.mark.parametrize("verb", ["cancel", "replace"])
@pytest.mark.parametrize("where", GIVEN_UP)
def test_a_repair_that_is_given_up_leads_back_to_what_was_delivered(
    store: Store, where: str, verb: str
) -> None:
    store.submit(campaign_plan(chunks=(3,)))
    finish(store)
    before, fences = delivered(store), {t.chunk_index: t.fence for t in store.tasks(RUN)}
    repair(store, 1, {0: 1, 2: 1})
    come_to(store, where)
    late = {task.chunk_index: task.fence for task in store.tasks(RUN)}
    if verb == "cancel":
        assert store.cancel(CAMPAIGN) == (where == "running")
    else:
        store.submit(campaign_plan(campaign_id="c2", chunks=(1,)), replacing=[CAMPAIGN])
        store.cancel(CampaignId("c2"))
    assert delivered(store) == before
    assert store.replaced_parts(RUN) == [] and store.kept_parts(RUN) == store.parts(RUN)
    campaign = store.campaign(CAMPAIGN)
    assert campaign is not None and campaign.status is CampaignStatus.COMPLETED
    for task in store.tasks(RUN):
        grown = task.chunk_index in (0, 2)
        assert (task.fence > late[task.chunk_index]) is grown, "never given out again (F1)"
        assert task.status is TaskStatus.COMPLETED
        assert (task.commit_fence or task.fence) == fences[task.chunk_index]
        if grown:
            with pytest.raises(LeaseLost):
                part = staged_part(task.chunk_index, late[task.chunk_index])
                store.commit(task.task_id, late[task.chunk_index], [part], rows=1, pages=1)
    with pytest.raises(StateRefused, match="nothing to cancel"):
        store.cancel(CAMPAIGN)
    # And it is repaired again, to its end.
    again = {t.chunk_index: t.fence for t in store.tasks(RUN) if t.chunk_index in (0, 1)}
    assert repair(store, 1, again, by="b") == 2
    store.cancel(CAMPAIGN)
    assert delivered(store) == before
    again = {t.chunk_index: t.fence for t in store.tasks(RUN)}
    repair(store, 1, again, by="c")
    finish(store)
    after = store.run(RUN)
    assert after is not None and (after.status, after.generation) == (RunStatus.COMPLETED, 2)
    assert len(store.replaced_parts(RUN)) == 3


def test_a_generation_that_lost_a_part_is_not_led_back_to(store: Store) -> None:
    """A chunk that the repair left alone was reopened: its part is gone from the former one."""
    store.submit(campaign_plan(chunks=(3,)))
    finish(store)
    repair(store, 1, {0: 1})
    kept = store.task(RUN, 1)
    assert kept is not None and store.reopen(kept.task_id, kept.fence, "lost")
    store.cancel(CAMPAIGN)
    run, campaign = store.run(RUN), store.campaign(CAMPAIGN)
    assert run is not None and run.status is RunStatus.CANCELLED
    assert campaign is not None and campaign.status is CampaignStatus.CANCELLED


def test_a_new_part_that_is_lost_takes_nothing_of_the_generation_before(store: Store) -> None:
    store.submit(campaign_plan(chunks=(3,)))
    finish(store)
    before = delivered(store)
    repair(store, 1, {0: 1})
    deliver(store)
    task = store.task(RUN, 0)
    assert task is not None and store.reopen(task.task_id, task.fence, "lost")
    store.cancel(CAMPAIGN)
    assert delivered(store) == before


def test_what_was_repaired_is_not_led_back_behind_its_end(store: Store) -> None:
    store.submit(campaign_plan(chunks=(3,)))
    finish(store)
    repair(store, 1, {0: 1})
    finish(store)
    task = store.task(RUN, 0)
    assert task is not None and store.reopen(task.task_id, task.fence, "lost")
    store.cancel(CAMPAIGN)
    run = store.run(RUN)
    assert run is not None and (run.status, run.generation) == (RunStatus.CANCELLED, 2)


def test_beside_what_is_given_up_for_good_a_repaired_run_stands(store: Store) -> None:
    store.submit(campaign_plan(chunks=(3, 1)))
    end(store, only=[RUN])
    before = delivered(store)
    repair(store, 1, {0: 1})
    store.cancel(CAMPAIGN)
    assert delivered(store) == before
    other, campaign = store.run(RunId("c1-e1")), store.campaign(CAMPAIGN)
    assert other is not None and other.status is RunStatus.CANCELLED
    assert campaign is not None and campaign.status is CampaignStatus.CANCELLED
