"""Repairs in every store: all of the chunks or none, by who is first, beside nobody."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.manifest import PartStatus
from rivet_fleet.contracts.state import CampaignStatus, FinishedRun, RunStatus
from rivet_fleet.errors import StateRefused
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
    finish(store)
    repair(store, 1, {0: 1})
    store.cancel(CAMPAIGN)
    with pytest.raises(StateRefused, match="cancelled"):
        repair(store, 2, {0: 1}, by="b")
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
