"""A run that is given up at its end says nothing of itself any more, and of a repair readers find
the former generation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rivet_fleet.contracts import killpoints
from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.killpoints import Arming, KillAction, KillPoint, KillPointReached
from rivet_fleet.contracts.manifest import (
    LATEST_NAME,
    MANIFEST_NAME,
    SUCCESS_NAME,
    run_manifest_name,
    run_marker_name,
    success_line,
)
from rivet_fleet.contracts.plan import CampaignPlan
from rivet_fleet.contracts.quality import GateCode, GateOutcome, GateVerdict, RunFindings
from rivet_fleet.contracts.state import RunStatus
from rivet_fleet.coordination import finalize, operate
from rivet_fleet.coordination.delivered import validate_campaign
from rivet_fleet.coordination.garbage import collect_garbage
from rivet_fleet.coordination.names import RUN_ID_TAKEN
from rivet_fleet.coordination.submit import refuse_taken, store_plan
from rivet_fleet.errors import DestinationRefused, DestinationUnavailable, LeaseLost, StateRefused
from rivet_fleet.execution.parts import fingerprint_bytes
from rivet_fleet.verification.findings import Depth
from tests.campaigns import campaign_plan
from tests.model.store import MemoryStore
from tests.unit.coordination.fleets import make_fleet
from tests.unit.coordination.test_repair import BODY_MAX, REPAIRED, RUN, Place

C2, SECOND = CampaignId("c2"), RunId("c2-e0")
AT_END = (
    KillPoint.MANIFEST_COPY_WRITTEN,
    KillPoint.MANIFEST_WRITTEN,
    KillPoint.MANIFEST_VERIFIED,
    KillPoint.SUCCESS_WRITTEN,
    KillPoint.LATEST_WRITTEN,
)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path, getattr(request, "param", "memory"))
    yield made
    killpoints.arm(())
    killpoints.observe(None)
    made.close()


def give_up(place: Place, verb: str, campaign_id: CampaignId = C2) -> None:
    fleet = place.fleet("operator")
    if verb == "cancel":
        operate.cancel(fleet, campaign_id)
    elif verb == "reset":
        # What a dead finalizer holds runs out.
        place.clock.time_s += 60.0
        operate.reset(fleet, "shop", {"e0"}, chunks_only=True)
    else:
        plan = campaign_plan(campaign_id="c3")
        store_plan(fleet, plan, replacing=[campaign_id])


def die(place: Place, point: KillPoint) -> None:
    """The second run of the export, whose finalizer dies there."""
    place.submit("c2")
    killpoints.arm((Arming(point=point, action=KillAction.ERROR),))
    with pytest.raises(KillPointReached):
        place.work("c2", place.fleet("dying"))
    killpoints.arm(())


def said(place: Place, run_id: str) -> set[str]:
    """Which names speak of a run: its own, and the shared ones that are believed."""
    read = place.destination.read
    found = {
        name
        for name in (run_manifest_name(run_id), run_marker_name(run_id))
        if read(name, BODY_MAX)
    }
    manifest, latest = read(MANIFEST_NAME, BODY_MAX) or b"{}", read(LATEST_NAME, BODY_MAX) or b"{}"
    marked = read(SUCCESS_NAME, BODY_MAX) == success_line(fingerprint_bytes(manifest))
    if marked and json.loads(manifest)["run_id"] == run_id:
        found.add(SUCCESS_NAME)
    if json.loads(latest).get("run_id") == run_id:
        found.add(LATEST_NAME)
    return found


@pytest.mark.parametrize("place", ["memory", "local"], indirect=True)
@pytest.mark.parametrize("verb", ["cancel", "reset", "replace"])
@pytest.mark.parametrize("point", AT_END, ids=lambda point: point.value)
def test_what_a_finalizer_left_that_died_is_taken_back(
    place: Place, point: KillPoint, verb: str
) -> None:
    die(place, point)
    assert said(place, SECOND)
    give_up(place, verb)
    assert said(place, SECOND) == set()
    # What was delivered before is what readers find, by whichever name.
    assert len(said(place, RUN)) == 4
    assert place.listed() == place.listed(LATEST_NAME) == place.first


@pytest.mark.parametrize("verb", ["cancel", "reset", "replace"])
@pytest.mark.parametrize("point", AT_END, ids=lambda point: point.value)
def test_a_live_finalizer_takes_back_what_it_wrote_of_a_run_that_is_gone(
    place: Place, point: KillPoint, verb: str
) -> None:
    """It stands at a point of its end while the run is given up, and goes on."""
    place.submit("c2")

    def meanwhile(at: KillPoint) -> None:
        if at is point:
            killpoints.observe(None)
            give_up(place, verb)

    killpoints.observe(meanwhile)
    try:
        place.work("c2", place.fleet("slow"))
    except LeaseLost:
        assert point in AT_END[:3], "asked before each shared name"
    assert said(place, SECOND) == set()
    assert len(said(place, RUN)) == 4 and place.listed() == place.listed(LATEST_NAME) == place.first


@pytest.mark.parametrize("verb", ["cancel", "replace"])
@pytest.mark.parametrize("point", AT_END, ids=lambda point: point.value)
def test_where_nothing_else_is_delivered_the_names_go(
    tmp_path: Path, point: KillPoint, verb: str
) -> None:
    place = Place(tmp_path, done=False)
    killpoints.arm((Arming(point=point, action=KillAction.ERROR),))
    with pytest.raises(KillPointReached):
        place.work("c1", place.fleet("dying"))
    killpoints.arm(())
    give_up(place, verb, CampaignId("c1"))
    assert said(place, RUN) == set()
    assert place.destination.read(MANIFEST_NAME, BODY_MAX) is None
    assert place.destination.read(SUCCESS_NAME, BODY_MAX) is None
    latest = place.destination.read(LATEST_NAME, BODY_MAX)
    assert latest is None or json.loads(latest)["files"] == []
    place.close()


def test_a_completed_run_that_is_reopened_and_given_up_gives_the_names_back(place: Place) -> None:
    place.submit("c2")
    place.finish("c2")
    lost = next(one.path for one in place.destination.list_visible(SECOND) if place_part(one.path))
    place.destination.remove(lost)
    assert operate.requeue(place.fleet(), C2, lost=True).lost == 1
    give_up(place, "cancel")
    assert said(place, SECOND) == set() and len(said(place, RUN)) == 4
    assert place.listed() == place.listed(LATEST_NAME) == place.first


@pytest.mark.parametrize("point", AT_END[1:], ids=lambda point: point.value)
def test_what_a_run_that_was_given_up_left_holds_no_name(place: Place, point: KillPoint) -> None:
    """It may lie there since before names were given back, or since the place was away."""
    die(place, point)
    left = {
        name: place.destination.read(name, BODY_MAX) or b""
        for name in (MANIFEST_NAME, SUCCESS_NAME, LATEST_NAME)
    }
    give_up(place, "cancel")
    for name, body in left.items():
        place.destination.put_atomic(name, body)
    place.begin()
    place.finish("c1")
    assert place.listed() == place.listed(LATEST_NAME) != place.first
    assert place.run.generation == 2


def test_a_finalizer_that_another_overtook_takes_nothing_back(place: Place) -> None:
    place.submit("c2")

    def meanwhile(at: KillPoint) -> None:
        if at is KillPoint.SUCCESS_WRITTEN:
            killpoints.observe(None)
            place.finish("c2")

    killpoints.observe(meanwhile)
    place.work("c2", place.fleet("slow"))
    assert len(said(place, SECOND)) == 4


@pytest.mark.parametrize("live", [False, True], ids=["died", "alive"])
@pytest.mark.parametrize("point", [KillPoint.PART_PUBLISHED, *AT_END], ids=lambda p: p.value)
def test_of_a_repair_that_is_given_up_the_former_generation_is_what_readers_find(
    place: Place, point: KillPoint, live: bool
) -> None:
    def meanwhile(at: KillPoint) -> None:
        if at is point:
            killpoints.observe(None)
            give_up(place, "cancel", CampaignId("c1"))

    place.begin()
    if live:
        killpoints.observe(meanwhile)
    else:
        killpoints.arm((Arming(point=point, action=KillAction.ERROR),))
    try:
        place.work("c1", place.fleet("dying"))
    except (KillPointReached, LeaseLost):
        pass
    killpoints.arm(())
    if not live:
        give_up(place, "cancel", CampaignId("c1"))
    assert (place.run.status, place.run.generation) == (RunStatus.COMPLETED, 1)
    assert place.listed() == place.listed(LATEST_NAME) == place.in_folder() == place.first
    assert len(said(place, RUN)) == 4
    read = place.destination.read
    assert read(MANIFEST_NAME, BODY_MAX) == read(run_manifest_name(RUN), BODY_MAX)
    assert not read(run_manifest_name(RUN, 2), BODY_MAX)
    assert not read(run_marker_name(RUN, 2), BODY_MAX)


@pytest.mark.parametrize("place", ["memory", "local"], indirect=True)
@pytest.mark.parametrize("point", AT_END, ids=lambda point: point.value)
def test_killed_between_the_state_and_the_place_the_next_cancel_ends_it(
    place: Place, point: KillPoint
) -> None:
    place.begin()
    killpoints.arm((Arming(point=point, action=KillAction.ERROR),))
    with pytest.raises(KillPointReached):
        place.work("c1", place.fleet("dying"))
    killpoints.arm(())
    place.store.cancel(CampaignId("c1"))
    assert place.run.status is RunStatus.COMPLETED
    assert place.destination.read(run_manifest_name(RUN, 2), BODY_MAX)
    operate.cancel(place.fleet(), CampaignId("c1"))
    assert place.listed() == place.listed(LATEST_NAME) == place.in_folder() == place.first
    assert len(said(place, RUN)) == 4
    with pytest.raises(StateRefused, match="nothing to cancel"):
        operate.cancel(place.fleet(), CampaignId("c1"))


@pytest.mark.parametrize("place", ["memory", "local"], indirect=True)
def test_what_was_led_back_is_validated_repaired_again_and_kept_by_gc(place: Place) -> None:
    """Parts of a lower fence than their chunk's: only what nobody is led to is late (F10)."""
    place.begin()
    killpoints.arm((Arming(point=KillPoint.SUCCESS_WRITTEN, action=KillAction.ERROR),))
    with pytest.raises(KillPointReached):
        place.work("c1", place.fleet("dying"))
    killpoints.arm(())
    operate.cancel(place.fleet(), CampaignId("c1"))
    (found,) = validate_campaign(
        place.fleet(), CampaignId("c1"), depth=Depth.SAMPLE, export_name=None
    )
    assert found.verification.ledger == "consistent"
    assert found.verification.rows == place.run.rows
    swept = collect_garbage(place.fleet(), CampaignId("c1"), min_age_s=0, replaced_after_s=0)
    assert (swept.late_parts, swept.replaced_parts) == (len(REPAIRED), 0), "of the repair alone"
    assert place.listed() == place.in_folder() == place.first
    fences = {t.chunk_index: t.fence for t in place.store.tasks(RUN) if t.chunk_index in (0, 1)}
    place.begin("again", fences=fences)
    place.finish()
    assert place.run.generation == 2 and place.listed() == place.listed(LATEST_NAME)
    assert len(place.listed() - place.first) == 2
    assert place.in_folder() == place.first


def test_a_part_of_what_was_led_back_that_is_lost_is_read_again(place: Place) -> None:
    place.begin()
    operate.cancel(place.fleet(), CampaignId("c1"))
    lost = min(place.first)
    place.destination.remove(lost)
    assert operate.requeue(place.fleet(), CampaignId("c1"), lost=True).lost == 1
    place.finish()
    assert place.run.status is RunStatus.COMPLETED
    assert lost not in place.listed() and len(place.listed()) == len(place.first)


def test_a_lost_part_of_the_repair_takes_no_mark_of_what_is_led_back_to(place: Place) -> None:
    place.begin()
    killpoints.arm((Arming(point=KillPoint.MANIFEST_COPY_WRITTEN, action=KillAction.ERROR),))
    with pytest.raises(KillPointReached):
        place.work("c1", place.fleet("dying"))
    killpoints.arm(())
    place.destination.remove(min(p for p in place.visible() - place.first if place_part(p)))
    assert operate.requeue(place.fleet(), CampaignId("c1"), lost=True).lost == 1
    assert not place.destination.read(SUCCESS_NAME, BODY_MAX)
    operate.cancel(place.fleet(), CampaignId("c1"))
    assert place.listed() == place.listed(LATEST_NAME) == place.in_folder() == place.first
    assert len(said(place, RUN)) == 4


def test_a_former_generation_that_lost_a_part_is_not_put_back(place: Place) -> None:
    place.begin()
    place.destination.remove(min(place.first))
    place.destination.remove(run_marker_name(RUN))
    operate.cancel(place.fleet(), CampaignId("c1"))
    assert said(place, RUN) <= {run_manifest_name(RUN)}


@pytest.mark.parametrize("verb", ["cancel", "replace"])
def test_a_place_that_is_away_is_told_and_cancelled_again_when_it_is_back(
    place: Place, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    die(place, KillPoint.SUCCESS_WRITTEN)
    away(place, monkeypatch)
    with pytest.raises(DestinationUnavailable, match=f"{SECOND} is given up") as told:
        give_up(place, verb)
    assert "cancel --campaign-id c2" in (told.value.hint or "")
    monkeypatch.undo()
    assert said(place, SECOND)
    give_up(place, "cancel")
    assert said(place, SECOND) == set()


def test_a_run_that_somebody_ends_is_not_forgotten(place: Place) -> None:
    die(place, KillPoint.SUCCESS_WRITTEN)
    with pytest.raises(StateRefused, match="somebody is ending run c2-e0"):
        operate.reset(place.fleet("operator"), "shop", {"e0"}, chunks_only=True)
    assert place.store.run(SECOND) is not None and len(said(place, SECOND)) == 3


def test_a_run_that_was_completed_meanwhile_keeps_what_it_says(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at it and the cancellation."""
    die(place, KillPoint.SUCCESS_WRITTEN)
    cancel = place.store.cancel

    def too_late(campaign_id: CampaignId) -> int:
        place.clock.time_s += 60.0
        assert finalize.finalize_run(place.fleet("heir"), SECOND)
        return cancel(campaign_id)

    monkeypatch.setattr(place.store, "cancel", too_late)
    operate.cancel(place.fleet("operator"), C2)
    assert len(said(place, SECOND)) == 4


def test_nothing_is_forgotten_while_the_place_is_away(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    die(place, KillPoint.SUCCESS_WRITTEN)
    away(place, monkeypatch)
    with pytest.raises(DestinationUnavailable):
        give_up(place, "reset")
    assert place.store.run(SECOND) is not None


def away(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise DestinationUnavailable("the place is away")

    monkeypatch.setattr(type(place.destination), "read", refuse)


@pytest.mark.parametrize("how", ["damaged", "refused"])
def test_a_run_that_fails_behind_a_dead_finalizers_marks_keeps_none_of_them(
    place: Place, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    die(place, KillPoint.LATEST_WRITTEN)
    fleet = place.fleet("heir")
    place.clock.time_s += 60.0
    if how == "damaged":
        monkeypatch.setattr(finalize, "_damaged", lambda *_: "a part is not what was written")
    else:
        gate = GateVerdict(
            code=GateCode.ROW_COUNT_MIN,
            columns=(),
            outcome=GateOutcome.FAILED,
            refuses=True,
            sentence="too few rows",
        )
        found = RunFindings(gates=(gate,))
        monkeypatch.setattr(finalize, "run_findings", lambda *_: found)
    assert not finalize.finalize_run(fleet, SECOND)
    run = place.store.run(SECOND)
    assert run is not None and run.status is RunStatus.FAILED
    assert said(place, SECOND) == set()


def test_lost_parts_of_a_run_in_progress_withdraw_a_dead_finalizers_marks(place: Place) -> None:
    die(place, KillPoint.LATEST_WRITTEN)
    lost = next(one.path for one in place.destination.list_visible(SECOND) if place_part(one.path))
    place.destination.remove(lost)
    assert operate.requeue(place.fleet(), C2, lost=True).lost == 1
    assert said(place, SECOND) <= {run_manifest_name(SECOND)}


def place_part(path: str) -> bool:
    return path.endswith(".parquet")


# ------------------------------------------------------------------------------------------
# An id that was used before, by a state that is another one.


def under_the_same_id(place: Place) -> tuple[MemoryStore, CampaignPlan]:
    plan = campaign_plan(campaign_id="c1", chunks=(3,))
    (run,) = plan.runs
    run = replace(run, plan=replace(run.plan, destination=place.where))
    return MemoryStore(place.clock), replace(plan, runs=(run,))


@pytest.mark.parametrize("place", ["memory", "local"], indirect=True)
@pytest.mark.parametrize("left", ["all", "parts", "copy"])
def test_an_id_that_has_a_delivery_is_refused_before_anything_is_planned(
    place: Place, left: str
) -> None:
    if left == "parts":
        place.destination.remove(run_manifest_name(RUN))
    if left == "copy":
        for path in [one.path for one in place.destination.list_visible(RUN)]:
            place.destination.remove(path)
    store, plan = under_the_same_id(place)
    fleet = make_fleet(store, place.folder, "other")
    with pytest.raises(DestinationRefused, match="knows nothing of it") as refused:
        refuse_taken(fleet, plan)
    assert refused.value.code == RUN_ID_TAKEN
    # Stored by who was quicker with the same, it is its own.
    store.submit(plan)
    refuse_taken(fleet, plan)
    refuse_taken(place.fleet("first"), plan)
    fleet.close()


def test_a_part_of_another_delivery_fails_the_run_by_name_and_stays(place: Place) -> None:
    """Planned where nothing was; the other delivery comes since."""
    place.submit("c2")
    theirs = min(place.first).replace("-f1.", "-f7.").replace(RUN, SECOND)
    place.destination.put_atomic(theirs, b"another delivery's")
    place.destination.put_atomic(run_manifest_name(SECOND), b"another delivery's")
    place.work("c2", place.fleet("late"))
    run = place.store.run(SECOND)
    assert run is not None and run.status is RunStatus.FAILED
    assert theirs in (run.error or "") and RUN_ID_TAKEN in (run.error or "")
    assert theirs in place.visible()
    assert place.destination.read(run_manifest_name(SECOND), BODY_MAX) == b"another delivery's"
