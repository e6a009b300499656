"""A run that is repaired: at every moment a reader finds one generation of it whole, and `gc` takes
what was replaced and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rivet_fleet.contracts import killpoints
from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.killpoints import Arming, KillAction, KillPoint, KillPointReached
from rivet_fleet.contracts.manifest import (
    LATEST_NAME,
    MANIFEST_NAME,
    SUCCESS_NAME,
    part_named,
    part_path,
    run_manifest_name,
    run_marker_name,
    success_line,
)
from rivet_fleet.contracts.plan import DestinationPlan
from rivet_fleet.contracts.state import RunStatus, RunView
from rivet_fleet.coordination import operate
from rivet_fleet.coordination.commit import deliver_chunk
from rivet_fleet.coordination.delivered import ledger_of, validate_campaign, validate_run
from rivet_fleet.coordination.finalize import finalize_run
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.coordination.garbage import collect_garbage
from rivet_fleet.coordination.operate import requeue
from rivet_fleet.coordination.tend import tend
from rivet_fleet.errors import StateRefused
from rivet_fleet.execution.destination import Destination
from rivet_fleet.execution.parts import fingerprint_bytes
from rivet_fleet.verification.findings import Depth, VerifyCode
from rivet_fleet.verification.validate import validate_prefix
from tests.campaigns import campaign_plan
from tests.model.destination import open_destination
from tests.model.store import MemoryStore
from tests.unit.coordination.fleets import DatabaseClock, make_fleet, spooled

CAMPAIGN, RUN = CampaignId("c1"), RunId("c1-e0")
BODY_MAX = 1 << 20
CHUNKS = 3
REPAIRED = {0: 1, 2: 1}
"""Chunks that differ, with the fence that each was delivered under; chunk 1 does not."""
BEHIND = tuple(
    point
    for point in KillPoint
    if point.value.partition(".")[0]
    in ("repair", "part", "stage", "chunk", "finalize", "manifest", "success", "latest", "run")
    and point
    not in {
        *(KillPoint.PART_SPOOLED, KillPoint.PART_RENAMED, KillPoint.STAGE_WRITTEN),
        *(KillPoint.CHUNK_READ, KillPoint.CHUNK_HANDED_OVER, KillPoint.CHUNK_CLAIMED),
        *(KillPoint.CHUNK_FAILED, KillPoint.CHUNK_RELEASED, KillPoint.CHUNK_REOPENED),
        *(KillPoint.CHUNK_REAPED, KillPoint.PART_STAGED),
    }
)
"""What a repair reaches here, in its order."""


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    killpoints.arm(())
    killpoints.observe(None)


class Place:
    """A run of three chunks that is delivered, and is repaired."""

    def __init__(self, folder: Path, kind: str = "memory", *, done: bool = True) -> None:
        self.folder, self.clock = folder, DatabaseClock()
        self.store = MemoryStore(self.clock)
        prefix = str(folder / "out") if kind == "local" else f"repair-{folder}"
        self.where = DestinationPlan(kind=kind, prefix=prefix)
        self.fleets: list[Fleet] = []
        self.destination: Destination = open_destination(self.where)
        self.submit("c1")
        self.first: set[str] = set()
        if done:
            self.finish("c1")
            self.first = self.listed()

    def close(self) -> None:
        """What is open of a folder is closed here, and not when somebody looks at descriptors."""
        for fleet in self.fleets:
            fleet.close()
        self.destination.close()

    @property
    def run(self) -> RunView:
        run = self.store.run(RUN)
        assert run is not None
        return run

    def fleet(self, name: str = "worker") -> Fleet:
        self.fleets.append(make_fleet(self.store, self.folder, name))
        return self.fleets[-1]

    def submit(self, name: str) -> None:
        plan = campaign_plan(campaign_id=name, chunks=(CHUNKS,))
        (run,) = plan.runs
        run = replace(run, plan=replace(run.plan, destination=self.where))
        self.store.submit(replace(plan, runs=(run,)))

    def begin(self, name: str = "worker", generation: int = 1, fences: object = None) -> None:
        by = self.fleet(name).identity.worker_id
        self.store.repair_run(
            RUN, generation=generation, fences=fences or REPAIRED, by=by, reason="it differs"
        )
        killpoints.reach(KillPoint.REPAIR_BEGUN)

    def work(self, name: str, fleet: Fleet) -> None:
        while (claim := self.store.claim(CampaignId(name), fleet.identity, 30.0)) is not None:
            plan = fleet.planned_run(claim.run_id).plan
            deliver_chunk(fleet, claim, plan, spooled(self.folder / "spool"))
        for run in self.store.runs(CampaignId(name)):
            finalize_run(fleet, run.run_id)

    def finish(self, name: str = "c1") -> None:
        """By others, once the leases of whoever died are over."""
        heir = self.fleet("heir")
        for _ in range(3):
            self.clock.time_s += 60.0
            self.store.reap_expired(CampaignId(name))
            tend(heir, CampaignId(name), rolling_idle_s=0.0)
            self.work(name, heir)
        assert {run.status for run in self.store.runs(CampaignId(name))} == {RunStatus.COMPLETED}

    def visible(self) -> set[str]:
        return {one.path for one in self.destination.list_visible()}

    def listed(self, name: str = MANIFEST_NAME) -> set[str]:
        """What a reader finds who goes by this name; all of it is there."""
        body = self.destination.read(name, BODY_MAX)
        assert body is not None, f"{name} is gone"
        said = json.loads(body)
        if name == LATEST_NAME:
            copy = self.destination.read(said["manifest"], BODY_MAX) or b""
            line = success_line(fingerprint_bytes(copy))
            assert self.destination.read(said["success"], BODY_MAX) == line
            assert [part["path"] for part in json.loads(copy)["parts"]] == said["files"]
        files = set(said["files"] if name == LATEST_NAME else (p["path"] for p in said["parts"]))
        assert files <= self.visible(), f"{name} names what is not there"
        chunks = [named[0] for path in files if (named := self.named(path)) is not None]
        assert sorted(chunks) == list(range(CHUNKS)), "rows twice, or none of a range"
        return files

    @staticmethod
    def named(path: str) -> tuple[int, int] | None:
        return part_named(path, run_id=RUN, export_name="e0", extension="parquet")

    def in_folder(self) -> set[str]:
        """What a glob of the run's own folder finds, when it says that it is whole."""
        if self.destination.read(f"{RUN}/{SUCCESS_NAME}", BODY_MAX) is None:
            return set()
        found = {p for p in self.visible() if p.startswith(f"{RUN}/") and p.count("/") == 1}
        return found - {f"{RUN}/{SUCCESS_NAME}"}

    def looked_at(self, _point: KillPoint) -> None:
        """A reader who looks at every moment that has a name."""
        second = self.listed(MANIFEST_NAME), self.listed(LATEST_NAME)
        assert self.in_folder() == self.first
        for files in second:
            assert files == self.first or len(files & self.first) == 1, "of both generations"
        order = [files != self.first for files in second]
        assert order != [False, True], "latest.json moves behind manifest.json"


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path, getattr(request, "param", "memory"))
    yield made
    killpoints.observe(None)
    made.close()


@pytest.mark.parametrize("place", ["memory", "local"], indirect=True)
@pytest.mark.parametrize("point", BEHIND, ids=lambda point: point.value)
def test_wherever_a_repair_dies_a_reader_finds_one_generation_whole(
    place: Place, point: KillPoint
) -> None:
    """RR5, M1, M2, M4, M7: beside what is there, and no name is moved before all of it is."""
    killpoints.observe(place.looked_at)
    killpoints.arm((Arming(point=point, action=KillAction.ERROR),))
    with pytest.raises(KillPointReached):
        place.begin()
        place.work("c1", place.fleet("dying"))
    place.looked_at(point)
    killpoints.arm(())
    place.finish()
    new = place.listed()
    assert place.listed(LATEST_NAME) == new and len(new & place.first) == 1
    assert {path for path in new - place.first if "/_g2/" in path} == new - place.first
    # The copy of the former generation is as it was, and the new one names it.
    former = run_manifest_name(RUN)
    assert place.listed(former) == place.first
    said = json.loads(place.destination.read(run_manifest_name(RUN, 2), BODY_MAX) or b"")
    assert (said["supersedes"], said["generation"]) == (former, 2)
    for run_id in (None, RUN):
        found = validate_prefix(place.destination, depth=Depth.FULL, run_id=run_id)
        assert not found.findings and new <= place.visible()


def test_what_was_replaced_goes_behind_its_grace_and_never_before_the_manifest(
    place: Place,
) -> None:
    sweep = place.fleet("sweeper")

    def swept(after_s: float) -> tuple[int, int]:
        done = collect_garbage(sweep, CAMPAIGN, min_age_s=0.0, replaced_after_s=after_s)
        return done.replaced_parts, done.late_parts

    killpoints.observe(place.looked_at)
    place.begin()
    assert swept(0.0) == (0, 0), "in progress: readers have it"
    place.work("c1", place.fleet())
    assert swept(60.0) == (0, 0), "its grace is not over"
    place.looked_at(KillPoint.RUN_FINISHED)
    copy = run_manifest_name(RUN, 2)
    body = place.destination.read(copy, BODY_MAX) or b""
    place.destination.remove(copy)
    assert swept(0.0) == (0, 0), "without the new manifest the former one is what is delivered"
    place.destination.put_atomic(copy, body)
    killpoints.observe(None)
    killpoints.arm((Arming(point=KillPoint.REOPEN_VISIBLE_REMOVED, action=KillAction.ERROR),))
    place.clock.time_s += 61.0
    with pytest.raises(KillPointReached):
        swept(60.0)
    assert place.in_folder() == set(), "no marker speaks of a folder that is not whole"
    killpoints.arm(())
    assert swept(60.0) == (2, 0) and swept(60.0) == (0, 0)
    left = {path for path in place.visible() if place.named(path)}
    assert left == place.listed() == place.listed(LATEST_NAME)
    for run_id in (None, RUN):
        found = validate_prefix(place.destination, depth=Depth.FULL, run_id=run_id)
        assert not found.findings, "of the newest generation, by whichever name"


def test_of_two_repairs_one_is_refused_and_the_same_one_may_ask_again(place: Place) -> None:
    by = place.fleet("first").identity.worker_id
    asked = {"generation": 1, "fences": REPAIRED, "reason": "it differs"}
    assert place.store.repair_run(RUN, by=by, **asked) == 2  # type: ignore[arg-type]
    assert place.store.repair_run(RUN, by=by, **asked) == 2  # type: ignore[arg-type]
    with pytest.raises(StateRefused, match="is in progress"):
        place.begin("second")
    place.work("c1", place.fleet())
    with pytest.raises(StateRefused, match="was repaired since it was compared"):
        place.begin("second")
    # The next one goes on from there: three generations, of which one is current.
    place.begin("second", generation=2, fences={1: 1})
    place.work("c1", place.fleet())
    assert place.run.generation == 3 and place.listed() == place.listed(LATEST_NAME)
    assert {path.count("_g3") for path in place.listed()} == {0, 1}


def test_a_part_that_is_lost_in_a_repair_takes_every_mark_along(place: Place) -> None:
    """Chunk 1 belongs to both generations."""
    place.begin()
    (shared,) = (path for path in place.first if "-c000001-" in path)
    place.destination.remove(shared)
    assert requeue(place.fleet(), CAMPAIGN, lost=True).lost == 1
    assert place.destination.read(SUCCESS_NAME, BODY_MAX) is None
    assert place.destination.read(run_marker_name(RUN), BODY_MAX) is None
    place.finish()
    assert place.listed() == place.listed(LATEST_NAME)


def test_an_older_run_is_repaired_in_its_own_folder_alone(place: Place) -> None:
    place.submit("c2")
    with pytest.raises(StateRefused, match="run c2-e0 of the same export is in progress"):
        place.begin()
    place.finish("c2")
    names = (MANIFEST_NAME, LATEST_NAME, SUCCESS_NAME)
    before = [place.destination.read(name, BODY_MAX) for name in names]
    place.begin()
    place.finish()
    assert [place.destination.read(name, BODY_MAX) for name in names] == before
    assert place.listed(run_manifest_name(RUN, 2)) != place.first


def test_a_name_is_made_for_its_generation_and_read_back() -> None:
    for generation in (1, 2, 10):
        named = {"run_id": "r", "export_name": "e", "extension": "csv"}
        path = part_path(**named, chunk_index=3, part_number=0, fence=7, generation=generation)
        assert part_named(path, **named) == (3, 7)
    for strange in ("r/_g1/e-c000003-p000-f7.csv", "r/_g02/e-c000003-p000-f7.csv"):
        assert part_named(strange, **named) is None


@pytest.mark.parametrize("name", [MANIFEST_NAME, LATEST_NAME])
def test_nothing_goes_that_a_name_still_leads_to(place: Place, name: str) -> None:
    """Names may lag where whoever moved them was another state, or was stopped by hand."""
    former = place.destination.read(name, BODY_MAX) or b""
    place.begin()
    place.finish()
    place.destination.put_atomic(name, former)
    marker = run_marker_name(RUN, 2)
    line = place.destination.read(marker, BODY_MAX) or b""
    place.destination.remove(marker)
    sweep = place.fleet("sweeper")

    def swept() -> int:
        place.clock.time_s += 61.0
        done = collect_garbage(sweep, CAMPAIGN, min_age_s=0.0, replaced_after_s=60.0)
        return done.replaced_parts

    assert swept() == 0, "nothing else says that it is delivered"
    assert place.listed(name) == place.first
    place.destination.put_atomic(marker, line)
    assert swept() == 2
    assert place.listed() == place.listed(LATEST_NAME) != place.first


def test_what_was_replaced_goes_though_another_campaign_is_the_newest(place: Place) -> None:
    place.begin()
    place.finish()
    place.submit("c2")
    place.finish("c2")
    place.clock.time_s += 61.0
    sweep = place.fleet("sweeper")
    done = collect_garbage(sweep, CampaignId("c2"), min_age_s=0.0, replaced_after_s=60.0)
    assert done.replaced_parts == 2
    left = {path for path in place.visible() if path.startswith(f"{RUN}/")}
    assert not left & place.first - place.listed(run_manifest_name(RUN, 2))


@pytest.mark.parametrize("point", BEHIND, ids=lambda point: point.value)
@pytest.mark.parametrize("cancelled", [False, True], ids=["dead", "cancelled"])
def test_whoever_looks_while_a_run_is_repaired_looks_at_what_readers_find(
    place: Place, point: KillPoint, cancelled: bool
) -> None:
    """A delivery that is whole is called so: its manifest is asked about its own generation."""
    killpoints.arm((Arming(point=point, action=KillAction.ERROR),))
    with pytest.raises(KillPointReached):
        place.begin()
        place.work("c1", place.fleet("dying"))
    killpoints.arm(())
    fleet = place.fleet("looking")
    ended = place.run.status is RunStatus.COMPLETED
    if cancelled and not ended:
        operate.cancel(fleet, CAMPAIGN)
    found = [
        validate_run(fleet, RUN, depth=Depth.FULL).verification,
        *(
            one.verification
            for one in validate_campaign(fleet, CAMPAIGN, depth=Depth.FULL, export_name=None)
        ),
        validate_prefix(place.destination, ledger=ledger_of(fleet)),
    ]
    assert [one.ledger for one in found] == ["consistent"] * 3
    codes = {failure.code for one in found for failure in one.failures}
    # Between the two names the marker speaks of the former manifest, as between two runs.
    between = point in (KillPoint.MANIFEST_WRITTEN, KillPoint.MANIFEST_VERIFIED) and not cancelled
    assert codes == ({VerifyCode.SUCCESS_STALE} if between else set())


def test_a_strange_run_in_a_manifest_is_nobodys(place: Place) -> None:
    looked = ledger_of(place.fleet("looking"))
    for named in ("../x", "a\x00b", "", "x" * 5000, "\ud800"):
        assert looked(named, 1) is None
    assert looked(RUN, 1) and looked(RUN, 0) == []
