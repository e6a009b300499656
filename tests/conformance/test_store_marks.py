"""High-water marks in every store: who moves them, who may not, and what people see of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.plan import CampaignPlan
from rivet_fleet.contracts.reconcile import (
    RangeResult,
    RangeVerdict,
    ReconcileDepth,
    ReconcilePlan,
    Side,
)
from rivet_fleet.contracts.state import FinishedRun, Progression
from rivet_fleet.contracts.window import (
    MARK_OTHER,
    Bound,
    CursorPlan,
    StoredMark,
    Subject,
    binding_text,
    bound,
    mark_text,
    stored_binding,
)
from rivet_fleet.errors import LeaseLost, StateRefused
from rivet_fleet.persistence.store import Store
from tests.campaigns import campaign_plan, staged_part
from tests.stores import Backend, identity

W1 = identity("w1")


def mark(at: int) -> str:
    return mark_text(("at", "id"), None, (str(at), "1"))


def incremental(
    number: int, before: int | None, after: int | None, *, chunks: int = 1
) -> CampaignPlan:
    """Campaign ``c<number>`` of one export that reads from one mark to the other."""
    plan = campaign_plan(campaign_id=f"c{number}", chunks=(chunks,))
    cursor = CursorPlan(
        mode="single_column",
        columns=("at", "id"),
        mark_before=None if before is None else mark(before),
        mark_after=None if after is None else mark(after),
    )
    (run,) = plan.runs
    run = replace(run, plan=replace(run.plan, mode="incremental", cursor=cursor))
    return replace(plan, runs=(run,))


def complete(store: Store, number: int) -> None:
    """Every chunk delivered; the run itself is not finished."""
    while (claim := store.claim(CampaignId(f"c{number}"), W1, 60.0)) is not None:
        part = staged_part(claim.chunk_index, claim.fence, rows=10)
        store.commit(claim.task_id, claim.fence, [part], rows=10, pages=2)
        store.mark_published(claim.task_id, claim.fence)


def finish(store: Store, number: int) -> None:
    complete(store, number)
    lease = store.lease_finalize(RunId(f"c{number}-e0"), W1, 60.0)
    assert lease is not None
    store.finish_run(
        lease,
        FinishedRun(manifest_fingerprint="xxh3:1", rows=1, bytes=1, files=1, duration_s=1.0),
    )
    store.finish_campaign(CampaignId(f"c{number}"))


def deliver(store: Store, number: int, before: int | None, after: int | None) -> None:
    store.submit(incremental(number, before, after))
    finish(store, number)


def stored(store: Store) -> str | None:
    found = store.marks("shop", ["e0"]).get("e0")
    return None if found is None else found.value


def told(store: Store) -> Progression:
    (found,) = store.progression("shop")
    return found


def test_pg1_the_mark_moves_with_the_runs_last_transaction_and_not_before(store: Store) -> None:
    store.submit(incremental(1, None, 5, chunks=3))
    assert stored(store) is None
    complete(store, 1)
    assert stored(store) is None  # every part is committed and published
    assert store.lease_finalize(RunId("c1-e0"), W1, 60.0) is not None
    store.reap_worker(W1.worker_id, "signal 9")
    assert stored(store) is None
    finish(store, 1)
    assert stored(store) == mark(5)
    assert [e.event for e in store.journal()].count("mark.moved") == 1
    deliver(store, 2, 5, 9)
    assert stored(store) == mark(9)


def test_a_run_with_nothing_new_leaves_the_mark(store: Store) -> None:
    deliver(store, 1, None, None)
    assert stored(store) is None
    deliver(store, 2, None, 5)
    deliver(store, 3, 5, 5)
    assert stored(store) == mark(5)


@pytest.mark.parametrize("before", [None, 4], ids=["no mark", "another mark"])
def test_pa4_a_plan_made_at_another_mark_is_refused_when_it_is_stored(
    store: Store, before: int | None
) -> None:
    deliver(store, 1, None, 5)
    with pytest.raises(StateRefused, match="planned at another high-water mark"):
        store.submit(incremental(2, before, 9))
    assert store.campaign(CampaignId("c2")) is None


def test_a_forced_plan_never_moves_the_mark_back(store: Store) -> None:
    deliver(store, 1, None, 5)
    deliver(store, 2, 5, 9)
    store.submit(incremental(3, 5, 7), any_mark=True)
    finish(store, 3)
    assert stored(store) == mark(9)
    assert "mark.kept" in [e.event for e in store.journal()]


def test_failed_and_cancelled_runs_leave_the_mark(store: Store) -> None:
    deliver(store, 1, None, 5)
    store.submit(incremental(2, 5, 9))
    complete(store, 2)
    lease = store.lease_finalize(RunId("c2-e0"), W1, 60.0)
    assert lease is not None
    store.fail_run(lease, "refused by a gate")
    assert stored(store) == mark(5)
    store.submit(incremental(3, 5, 9))
    complete(store, 3)
    store.cancel(CampaignId("c3"))
    assert stored(store) == mark(5)
    assert told(store).committed is not None
    assert told(store).committed.run_id == "c1-e0"  # type: ignore[union-attr]


def test_pg2_the_boundary_is_recorded_behind_the_mark(store: Store) -> None:
    deliver(store, 1, None, 5)
    found = told(store)
    assert found.cursor == mark(5)
    assert found.committed is not None
    assert (found.committed.cursor, found.committed.run_id) == (mark(5), "c1-e0")


def test_pg3_a_boundary_never_goes_back(store: Store) -> None:
    deliver(store, 1, None, 12)
    store.submit(incremental(2, 5, 9), any_mark=True)  # 9 < 12, although not as text
    finish(store, 2)
    assert told(store).committed.run_id == "c1-e0"  # type: ignore[union-attr]
    store.submit(campaign_plan(campaign_id="c3", chunks=(4,)))
    finish(store, 3)
    store.submit(campaign_plan(campaign_id="c4", chunks=(2,)))
    finish(store, 4)
    assert told(store).committed.run_id == "c3-e0"  # type: ignore[union-attr]


def test_pg4_a_boundary_is_a_cursor_or_a_chunk_as_its_strategy_says(store: Store) -> None:
    deliver(store, 1, None, 5)
    committed = told(store).committed
    assert committed is not None
    assert (committed.strategy, committed.chunk_index) == ("incremental", None)
    store.submit(campaign_plan(campaign_id="c2", chunks=(4,)))
    finish(store, 2)
    committed = told(store).committed
    assert committed is not None
    assert (committed.strategy, committed.cursor, committed.chunk_index) == ("chunked", None, 3)


def comparing(number: int, of: int, *, chunks: int) -> CampaignPlan:
    """Campaign ``c<number>``, which compares what ``c<of>`` has delivered."""
    plan = incremental(number, None, of, chunks=chunks)
    (run,) = plan.runs
    asked = ReconcilePlan(
        of_run=RunId(f"c{of}-e0"), campaign_name="shop", depth=ReconcileDepth.COUNT
    )
    run = replace(run, plan=replace(run.plan, reconcile=asked))
    return replace(plan, campaign_name="shop/reconcile", runs=(run,))


def compare(store: Store, number: int, *verdicts: RangeVerdict) -> None:
    campaign_id = CampaignId(f"c{number}")
    for verdict in verdicts:
        claim = store.claim(campaign_id, W1, 60.0)
        assert claim is not None
        result = RangeResult(verdict=verdict, sentence="said", source=Side(rows=3))
        for _ in range(2):  # its answer was lost
            store.commit_result(claim.task_id, claim.fence, result)
        store.mark_published(claim.task_id, claim.fence)
    lease = store.lease_finalize(RunId(f"c{number}-e0"), W1, 60.0)
    assert lease is not None
    ended = FinishedRun(manifest_fingerprint="", rows=0, bytes=0, files=0, duration_s=1.0)
    store.finish_run(lease, ended)
    store.finish_campaign(campaign_id)


MATCH = RangeVerdict.MATCH


def test_pg5_pg6_rc6_what_is_verified_moves_with_a_clean_comparison_of_the_whole(
    store: Store,
) -> None:
    deliver(store, 3, None, 3)
    before = told(store)
    for number, other in enumerate(one for one in RangeVerdict if one is not MATCH):
        store.submit(comparing(10 + number, 3, chunks=2), any_mark=True)
        compare(store, 10 + number, MATCH, other)
        assert told(store) == before and before.verified is None
    store.submit(comparing(20, 3, chunks=2), any_mark=True)
    assert [one.result for one in store.comparison(RunId("c20-e0"))] == [None, None]
    compare(store, 20, MATCH, MATCH)
    found = store.comparison(RunId("c20-e0"))
    assert [one.result and one.result.source for one in found] == [Side(rows=3)] * 2
    verified = told(store).verified
    assert verified is not None and before.committed is not None
    assert (verified.cursor, verified.run_id) == (mark(3), RunId("c3-e0"))
    assert told(store) == replace(before, verified=verified)
    # It delivers nothing: no mark, no history, no last run of its own name.
    assert store.progression("shop/reconcile") == []
    assert not store.history("shop/reconcile", ["e0"])
    # A later run is not verified by a comparison of an earlier one, nor does that take it back.
    deliver(store, 5, 3, 5)
    store.submit(comparing(21, 5, chunks=1), any_mark=True)
    compare(store, 21, MATCH)
    store.submit(comparing(22, 3, chunks=1), any_mark=True)
    compare(store, 22, MATCH)
    newest = told(store).verified
    assert newest is not None and newest.cursor == mark(5)


def test_a_late_result_of_a_chunk_that_has_another_owner_is_refused(backend: Backend) -> None:
    store = backend.store
    store.submit(comparing(1, 1, chunks=1), any_mark=True)
    claim = store.claim(CampaignId("c1"), W1, 60.0)
    assert claim is not None
    backend.expire(claim.task_id)
    store.reap_expired(CampaignId("c1"))
    with pytest.raises(LeaseLost):
        store.commit_result(claim.task_id, claim.fence, RangeResult(verdict=MATCH, sentence=""))
    assert store.comparison(RunId("c1-e0"))[0].result is None


def test_pg7_boundaries_are_read_by_nobody(backend: Backend) -> None:
    """A boundary that was spoiled changes nothing of what the next run does."""
    store = backend.store
    deliver(store, 1, None, 5)
    spoil = getattr(backend, "execute", None)
    if spoil is not None:
        spoil("UPDATE export_progression SET last_committed_cursor = 'nonsense'")
    deliver(store, 2, 5, 9)
    assert stored(store) == mark(9)


def test_pg8_a_reset_forgets_mark_and_boundary_and_nothing_else_does(store: Store) -> None:
    deliver(store, 1, None, 5)
    store.reset_export("shop", "e0", chunks_only=True)
    assert stored(store) == mark(5)
    assert told(store).committed is not None
    store.reset_export("shop", "e0", chunks_only=False)
    assert stored(store) is None
    assert store.progression("shop") == []
    deliver(store, 2, None, 5)


def test_a_reset_leaves_an_export_of_the_same_name_in_another_campaign_alone(
    store: Store,
) -> None:
    deliver(store, 1, None, 5)
    store.submit(campaign_plan(campaign_id="other", name="bakery", chunks=(1,)))
    assert store.reset_export("bakery", "e0", chunks_only=False) == 1
    assert stored(store) == mark(5) and len(store.progression("shop")) == 1
    assert store.reset_export("shop", "e0", chunks_only=False) == 1
    assert stored(store) is None


def test_a_full_run_has_no_boundary(store: Store) -> None:
    plan = campaign_plan(chunks=(1,))
    (run,) = plan.runs
    store.submit(replace(plan, runs=(replace(run, plan=replace(run.plan, mode="full")),)))
    finish(store, 1)
    assert told(store).committed is None


# -- what a mark is bound to (ADR 0020) ---------------------------------------------------------


def shop(name: str) -> tuple[Bound, ...]:
    return (bound(Subject.SOURCE, name, name),)


def bound_run(
    number: int, before: int | None, after: int | None, to: str, was: str | None = None
) -> CampaignPlan:
    plan = incremental(number, before, after)
    (run,) = plan.runs
    assert run.plan.cursor is not None
    cursor = replace(
        run.plan.cursor,
        binding=shop(to),
        binding_before=None if was is None else binding_text(shop(was)),
    )
    return replace(plan, runs=(replace(run, plan=replace(run.plan, cursor=cursor)),))


def belongs(store: Store) -> str | None:
    (one,) = stored_binding(store.marks("shop", ["e0"])["e0"].binding) or (None,)
    return None if one is None else one.shown


def accepted(store: Store, at: int, to: str, was: str | None) -> bool:
    mark_at = StoredMark(value=mark(at), binding=None if was is None else binding_text(shop(was)))
    event = Event(name=EventName.MARK_ACCEPTED, export_name="e0")
    text = binding_text(shop(to))
    assert text is not None
    return store.accept_mark("shop", "e0", mark_at, text, event)


def imported(store: Store, at: int) -> bool:
    event = Event(name=EventName.MARK_IMPORTED, export_name="e0")
    return store.import_mark("shop", "e0", StoredMark(value=mark(at), binding="[]"), event)


def test_a_mark_of_another_program_is_taken_where_there_is_none(store: Store) -> None:
    assert imported(store, 5)
    assert store.marks("shop", ["e0"])["e0"] == StoredMark(value=mark(5), binding="[]")
    assert not imported(store, 7), "one that is there stays"
    assert (stored(store), names(store)) == (mark(5), ["mark.imported"])
    store.reset_export("shop", "e0", chunks_only=False)
    deliver(store, 1, None, None)
    assert imported(store, 7), "of a run that found nothing there is none"
    assert stored(store) == mark(7)


def test_no_mark_is_taken_while_a_run_may_move_it(store: Store) -> None:
    store.submit(incremental(1, None, 5))
    with pytest.raises(StateRefused, match="is in progress in campaign c1"):
        imported(store, 3)
    assert stored(store) is None


def names(store: Store) -> list[str]:
    return [e.event for e in store.journal() if e.event.startswith("mark.")]


def test_a_mark_and_its_binding_are_written_together(store: Store) -> None:
    store.submit(bound_run(1, None, 5, "a"))
    finish(store, 1)
    assert (stored(store), belongs(store)) == (mark(5), "a")
    store.submit(bound_run(2, 5, 9, "a", "a"))
    finish(store, 2)
    assert (stored(store), belongs(store)) == (mark(9), "a")
    assert names(store) == ["mark.moved", "mark.moved"]


def test_an_unbound_mark_is_adopted_by_the_next_run_even_when_nothing_is_new(
    store: Store,
) -> None:
    deliver(store, 1, None, 5)
    assert belongs(store) is None
    store.submit(bound_run(2, 5, 5, "a"))
    finish(store, 2)
    assert (stored(store), belongs(store)) == (mark(5), "a")
    assert names(store) == ["mark.moved", "mark.adopted"]


def test_a_plan_made_under_another_binding_is_refused_when_it_is_stored(store: Store) -> None:
    store.submit(bound_run(1, None, 5, "a"))
    finish(store, 1)
    with pytest.raises(StateRefused, match="source was b and is a") as refused:
        store.submit(bound_run(2, 5, 9, "b", "b"))
    assert refused.value.code == MARK_OTHER
    assert store.campaign(CampaignId("c2")) is None


def test_a_forced_plan_of_another_binding_leaves_mark_and_binding(store: Store) -> None:
    store.submit(bound_run(1, None, 5, "a"))
    finish(store, 1)
    store.submit(bound_run(2, 5, 9, "b", "b"), any_mark=True)
    finish(store, 2)
    assert (stored(store), belongs(store)) == (mark(5), "a")


def test_nothing_new_under_another_binding_changes_nothing(store: Store) -> None:
    store.submit(bound_run(1, None, 5, "a"))
    finish(store, 1)
    store.submit(bound_run(2, 5, 5, "b", "b"), any_mark=True)
    finish(store, 2)
    assert (stored(store), belongs(store)) == (mark(5), "a")


def test_an_operators_word_binds_the_mark_once_and_only_where_it_stands(store: Store) -> None:
    store.submit(bound_run(1, None, 5, "a"))
    with pytest.raises(StateRefused, match="in progress"):
        accepted(store, 5, "b", "a")
    finish(store, 1)
    for at, was in ((4, "a"), (5, "c"), (5, None)):
        with pytest.raises(StateRefused, match="changed meanwhile"):
            accepted(store, at, "b", was)
    assert names(store) == ["mark.moved"]
    assert accepted(store, 5, "b", "a")
    assert not accepted(store, 5, "b", "a"), "an answer that was lost: it holds already"
    assert (stored(store), belongs(store)) == (mark(5), "b")
    assert names(store) == ["mark.moved", "mark.accepted"]


def test_a_reopened_run_that_ends_again_does_not_undo_an_acceptance(store: Store) -> None:
    store.submit(bound_run(1, None, 5, "a"))
    finish(store, 1)
    assert accepted(store, 5, "b", "a")
    task = store.task(RunId("c1-e0"), 0)
    assert task is not None and store.reopen(task.task_id, task.fence, "lost")
    finish(store, 1)
    assert (stored(store), belongs(store)) == (mark(5), "b")


def test_reset_forgets_the_binding_too(store: Store) -> None:
    store.submit(bound_run(1, None, 5, "a"))
    finish(store, 1)
    store.reset_export("shop", "e0", chunks_only=False)
    assert store.marks("shop", ["e0"]) == {}
