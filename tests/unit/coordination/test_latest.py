"""``latest.json`` at every moment of a run's end: whole once it is there, about a run that is
complete, and forward alone."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rivet_fleet.contracts import killpoints
from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.killpoints import Arming, KillAction, KillPoint, KillPointReached
from rivet_fleet.contracts.manifest import LATEST_NAME, MANIFEST_NAME, SUCCESS_NAME, success_line
from rivet_fleet.contracts.plan import CampaignPlan, DestinationPlan
from rivet_fleet.contracts.state import CampaignStatus, RunStatus
from rivet_fleet.coordination.commit import deliver_chunk
from rivet_fleet.coordination.finalize import finalize_run
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.coordination.operate import requeue
from rivet_fleet.coordination.tend import tend
from rivet_fleet.errors import LeaseLost, StateRefused
from rivet_fleet.execution.destination import Destination
from rivet_fleet.execution.parts import fingerprint_bytes
from tests.campaigns import campaign_plan
from tests.model.destination import open_destination
from tests.model.store import MemoryStore
from tests.unit.coordination.fleets import DatabaseClock, make_fleet, spooled

BODY_MAX = 1 << 20
POINTS = tuple(
    point
    for point in KillPoint
    if point.value.partition(".")[0]
    in ("finalize", "manifest", "success", "latest", "run", "report", "proof")
    and point is not KillPoint.PROOF_NOTED  # nothing is proven here
)


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    killpoints.arm(())
    killpoints.observe(None)


class Place:
    """One dataset to which one campaign after the other delivers."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, DatabaseClock()
        self.store = MemoryStore(self.clock)
        self.where = DestinationPlan(kind="memory", prefix=f"latest-{folder}")

    def submit(self, name: str) -> RunId:
        plan: CampaignPlan = campaign_plan(campaign_id=name, chunks=(1,))
        (run,) = plan.runs
        run = replace(run, plan=replace(run.plan, destination=self.where))
        self.store.submit(replace(plan, runs=(run,)))
        return run.plan.run_id

    def deliver(self, name: str, fleet: Fleet) -> None:
        """Whatever is left to be done of a campaign."""
        claim = fleet.store.claim(CampaignId(name), fleet.identity, 30.0)
        if claim is not None:
            plan = fleet.planned_run(claim.run_id).plan
            deliver_chunk(fleet, claim, plan, spooled(self.folder / "spool"))
        for run in self.store.runs(CampaignId(name)):
            finalize_run(fleet, run.run_id)

    def finish(self, name: str) -> None:
        """By others, once the leases of whoever died are over."""
        heir = make_fleet(self.store, self.folder, "heir")
        for _ in range(3):
            self.clock.time_s += 60.0
            self.store.reap_expired(CampaignId(name))
            self.deliver(name, heir)
            tend(heir, CampaignId(name))
        assert {run.status for run in self.store.runs(CampaignId(name))} == {RunStatus.COMPLETED}

    def fleet(self, name: str = "worker") -> Fleet:
        return make_fleet(self.store, self.folder, name)

    def latest(self) -> dict[str, Any] | None:
        """What a reader finds, who believes it: the run that it names must be all there."""
        destination = open_destination(self.where)
        body = destination.read(LATEST_NAME, BODY_MAX)
        if body is None:
            return None
        found: dict[str, Any] = json.loads(body)
        if found["run_id"] is not None:
            manifest = destination.read(found["manifest"], BODY_MAX)
            assert manifest is not None, "it points to a run without a manifest"
            line = destination.read(found["success"], BODY_MAX)
            assert line == success_line(fingerprint_bytes(manifest)), "the run is not complete"
            assert found["success"] == f"{found['run_id']}/{SUCCESS_NAME}"
            visible = {info.path for info in destination.list_visible(found["run_id"])}
            assert set(found["files"]) <= visible, "a file is missing"
            assert found["files"] == [part["path"] for part in json.loads(manifest)["parts"]]
        return found

    def marked(self) -> str | None:
        """Whose run ``manifest.json`` is, when ``_SUCCESS`` fits it."""
        destination = open_destination(self.where)
        body = destination.read(MANIFEST_NAME, BODY_MAX) or b""
        fits = destination.read(SUCCESS_NAME, BODY_MAX) == success_line(fingerprint_bytes(body))
        return json.loads(body)["run_id"] if fits else None

    def named(self) -> str | None:
        found = self.latest()
        return None if found is None else found["run_id"]


def looked_at(place: Place) -> Callable[[KillPoint], None]:
    """A reader who looks at every moment that has a name."""

    def look(_point: KillPoint) -> None:
        place.latest()

    return look


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.value)
def test_wherever_the_finalizer_dies_a_reader_finds_a_complete_run(
    tmp_path: Path, point: KillPoint
) -> None:
    place = Place(tmp_path)
    killpoints.observe(looked_at(place))
    first, second = place.submit("c1"), RunId("c2-e0")
    place.deliver("c1", place.fleet())
    place.finish("c1")
    assert place.named() == first
    assert place.submit("c2") == second
    killpoints.arm((Arming(point=point, action=KillAction.ERROR),))
    with pytest.raises(KillPointReached):
        place.deliver("c2", place.fleet("dying"))
    written = POINTS.index(point) >= POINTS.index(KillPoint.LATEST_WRITTEN)
    assert place.named() == (second if written else first), "never missing, never torn"
    killpoints.arm(())
    place.finish("c2")
    assert place.named() == second


@pytest.mark.parametrize("at", [KillPoint.MANIFEST_VERIFIED, KillPoint.SUCCESS_WRITTEN])
def test_a_finalizer_that_slept_does_not_bring_an_older_run_back(
    tmp_path: Path, at: KillPoint
) -> None:
    """It wakes up before or behind ``_SUCCESS``, and others have finished its run and the next."""
    place = Place(tmp_path)
    place.submit("c1")
    slept: list[None] = []

    def sleep(point: KillPoint) -> None:
        if point is at and not slept:
            slept.append(None)
            place.finish("c1")
            place.submit("c2")
            place.finish("c2")

    killpoints.observe(sleep)
    with contextlib.suppress(LeaseLost):
        place.deliver("c1", place.fleet("sleeper"))
    assert slept and place.named() == place.marked() == "c2-e0"


@pytest.mark.parametrize("name", ["\ud800", "../c1-e0", ""])
def test_a_strange_id_in_a_manifest_reaches_no_state(tmp_path: Path, name: str) -> None:
    """Who may write at a destination may write any name there."""
    place = Place(tmp_path)
    place.submit("c1")
    place.finish("c1")
    destination = open_destination(place.where)
    body = json.loads(destination.read("manifest.json", BODY_MAX) or b"")
    strange = json.dumps({**body, "run_id": name}).encode()
    destination.put_atomic("manifest.json", strange)
    asked = []
    place.store.run = lambda run_id, ask=place.store.run: asked.append(run_id) or ask(run_id)  # type: ignore[method-assign,func-returns-value]
    place.submit("c2")
    place.finish("c2")
    assert name not in asked and place.named() == place.marked() == "c2-e0"


def test_where_a_later_run_has_the_canonical_name_nothing_is_named(tmp_path: Path) -> None:
    """A lease that is still believed does not help: the name says who is the newest."""
    place = Place(tmp_path)
    place.submit("c1")

    def taken(point: KillPoint) -> None:
        if point is KillPoint.SUCCESS_WRITTEN:
            open_destination(place.where).put_atomic("manifest.json", b"of a later run")

    killpoints.observe(taken)
    place.deliver("c1", place.fleet())
    assert place.named() is None


def test_a_run_that_is_reopened_is_named_no_longer_and_no_older_one_instead(
    tmp_path: Path,
) -> None:
    place = Place(tmp_path)
    for name in ("c1", "c2"):
        place.submit(name)
        place.deliver(name, place.fleet())
        place.finish(name)
    latest = place.latest()
    assert latest is not None and latest["run_id"] == "c2-e0" and latest["row_count"] == 10
    open_destination(place.where).remove(latest["files"][0])
    assert requeue(place.fleet(), CampaignId("c2"), lost=True).lost == 1
    withdrawn = place.latest()
    assert withdrawn is not None, "once it is there it stays"
    assert withdrawn["run_id"] is None and withdrawn["files"] == []
    assert set(withdrawn) == set(latest)
    place.finish("c2")
    assert place.named() == "c2-e0"


def part_of(destination: Destination, run_id: str) -> str:
    visible = destination.list_visible(RunId(run_id))
    return next(one.path for one in visible if not one.path.endswith(SUCCESS_NAME))


def test_an_older_run_that_is_made_whole_again_does_not_come_back(tmp_path: Path) -> None:
    """A file of it was lost and is read again: it is complete in its own folder, and the prefix
    goes on to be known by the newest."""
    place = Place(tmp_path)
    for name in ("c1", "c2"):
        place.submit(name)
        place.finish(name)
    destination, own = open_destination(place.where), f"c1-e0/{SUCCESS_NAME}"
    line = destination.read(own, BODY_MAX)
    destination.remove(part_of(destination, "c1-e0"))
    assert requeue(place.fleet(), CampaignId("c1"), lost=True).lost == 1
    assert destination.read(own, BODY_MAX) is None
    assert place.named() == place.marked() == "c2-e0"
    place.finish("c1")
    assert place.named() == place.marked() == "c2-e0"
    assert destination.read(own, BODY_MAX) not in (None, line), "another part under a new fence"


def test_beside_a_run_in_progress_no_older_one_is_reopened(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.submit("c1")
    place.finish("c1")
    before = place.latest()
    place.submit("c2")
    destination = open_destination(place.where)
    destination.remove(part_of(destination, "c1-e0"))
    with pytest.raises(StateRefused, match="run c2-e0 of the same export is in progress"):
        requeue(place.fleet(), CampaignId("c1"), lost=True)
    assert before is not None and place.marked() == "c1-e0"
    assert destination.read(LATEST_NAME, BODY_MAX) is not None
    place.finish("c2")
    assert requeue(place.fleet(), CampaignId("c1"), lost=True).lost == 1


def test_where_the_later_run_delivered_elsewhere_the_older_one_has_its_name_back(
    tmp_path: Path,
) -> None:
    """Yesterday's folder is known by yesterday's run, whatever was delivered into today's."""
    place = Place(tmp_path)
    place.submit("c1")
    place.finish("c1")
    elsewhere = replace(place.where, prefix=f"{place.where.prefix}-today")
    here, place.where = place.where, elsewhere
    place.submit("c2")
    place.finish("c2")
    place.where = here
    destination = open_destination(here)
    destination.remove(part_of(destination, "c1-e0"))
    assert requeue(place.fleet(), CampaignId("c1"), lost=True).lost == 1
    assert place.named() is None
    place.finish("c1")
    assert place.named() == place.marked() == "c1-e0"


def test_a_partition_that_vanished_is_told_and_left(tmp_path: Path) -> None:
    place = Place(tmp_path)

    def deliver(campaign: str, *months: str) -> list[str]:
        plan: CampaignPlan = campaign_plan(campaign_id=campaign, chunks=(1,) * len(months))
        runs = [
            replace(
                run,
                plan=replace(
                    run.plan,
                    export_name=f"e__{month}",
                    family="e",
                    destination=replace(place.where, prefix=f"{place.where.prefix}-{month}"),
                ),
            )
            for run, month in zip(plan.runs, months, strict=True)
        ]
        place.store.submit(replace(plan, runs=tuple(runs)))
        told: list[Event] = []
        place.clock.time_s += 1.0
        fleet = replace(place.fleet(), emit=told.append)
        for _ in months:
            claim = place.store.claim(CampaignId(campaign), fleet.identity, 30.0)
            assert claim is not None
            planned = fleet.planned_run(claim.run_id).plan
            deliver_chunk(fleet, claim, planned, spooled(tmp_path / "spool"))
        assert tend(fleet, CampaignId(campaign)).status is CampaignStatus.COMPLETED
        return [one.message for one in told if one.name is EventName.PARTITION_VANISHED]

    assert deliver("c1", "01", "02") == []
    (sentence,) = deliver("c2", "02")
    assert sentence.startswith("e__01: delivered by campaign c1 and without rows now")
    assert deliver("c3", "02") == []
    january = replace(place.where, prefix=f"{place.where.prefix}-01")
    place.where = january
    assert place.named() == place.marked() == "c1-e0"
