"""Who a campaign belongs to, and folders that two namespaces name (ADR 0022, N3 and N4)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from rivet_fleet.cli import invocation
from rivet_fleet.contracts.identity import CAMPAIGN_OTHER, CampaignIdentity
from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.manifest import (
    MANIFEST_NAME,
    SUCCESS_NAME,
    run_manifest_name,
    success_line,
)
from rivet_fleet.contracts.plan import CampaignPlan
from rivet_fleet.contracts.state import RunStatus
from rivet_fleet.coordination import fleet as fleets
from rivet_fleet.coordination.finalize import finalize_run
from rivet_fleet.coordination.fleet import find_campaign, refuse_other_owner
from rivet_fleet.coordination.garbage import collect_garbage
from rivet_fleet.coordination.names import DESTINATION_SHARED
from rivet_fleet.coordination.operate import Word, accept_campaigns
from rivet_fleet.coordination.submit import check_deliverable
from rivet_fleet.errors import DestinationRefused, StateRefused, UsageError
from rivet_fleet.execution.parts import digest_file, fingerprint_bytes
from tests.campaigns import campaign_plan
from tests.model.destination import open_destination
from tests.model.store import MemoryStore
from tests.unit.coordination.fleets import CAMPAIGN, DatabaseClock, make_fleet, memory_plan
from tests.unit.coordination.test_tail import deliver

THEIRS = CampaignId("c1@team-b")


def twins() -> tuple[CampaignPlan, CampaignPlan]:
    """One campaign in two namespaces, into one folder."""
    ours = memory_plan((1,))
    theirs = campaign_plan(campaign_id=THEIRS, chunks=(1,))
    place = ours.runs[0].plan.destination
    (run,) = theirs.runs
    run = replace(run, plan=replace(run.plan, destination=place))
    return ours, replace(theirs, runs=(run,))


def delivered(tmp_path: Path) -> tuple[Any, Any, CampaignPlan]:
    """Both planned; ours is finished."""
    ours, theirs = twins()
    fleets = []
    for plan, namespace in ((ours, "default"), (theirs, "team-b")):
        store = MemoryStore(DatabaseClock(), namespace=namespace)
        store.submit(plan)
        fleets.append(make_fleet(store, tmp_path))
    deliver(fleets[0], tmp_path)
    assert finalize_run(fleets[0], RunId("c1-e0"))
    return fleets[0], fleets[1], theirs


def test_a_folder_with_another_namespaces_manifest_is_refused_first(tmp_path: Path) -> None:
    ours, other, theirs = delivered(tmp_path)
    with pytest.raises(DestinationRefused, match="another namespace") as refused:
        check_deliverable(other, theirs)
    assert refused.value.code == DESTINATION_SHARED
    check_deliverable(ours, twins()[0])


def test_and_once_more_before_the_manifest_is_written(tmp_path: Path) -> None:
    _, other, theirs = delivered(tmp_path)
    claim = other.store.claim(THEIRS, other.identity, 30.0)
    other.store.commit(claim.task_id, claim.fence, [], rows=0, pages=1)
    other.store.mark_published(claim.task_id, claim.fence)
    assert not finalize_run(other, claim.run_id)
    run = other.store.run(claim.run_id)
    assert run.status is RunStatus.FAILED and DESTINATION_SHARED in run.error
    destination = open_destination(theirs.runs[0].plan.destination)
    manifest = destination.read(MANIFEST_NAME, 1_000_000)
    assert manifest is not None and json.loads(manifest)["run_id"] == "c1-e0"


def test_nor_is_a_first_manifest_put_over_one_that_came_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both found none. The other one's is there the moment ours is to get its name."""
    plans, fleets = twins(), []
    for plan, namespace in zip(plans, ("default", "team-b"), strict=True):
        store = MemoryStore(DatabaseClock(), namespace=namespace)
        store.submit(plan)
        fleets.append(make_fleet(store, tmp_path))
    ours, other = fleets
    deliver(ours, tmp_path)
    claim = other.store.claim(THEIRS, other.identity, 30.0)
    other.store.commit(claim.task_id, claim.fence, [], rows=0, pages=1)
    other.store.mark_published(claim.task_id, claim.fence)
    destination = open_destination(plans[1].runs[0].plan.destination)
    put_new = type(destination).put_new

    def too_late(self: Any, path: str, body: bytes) -> bool:
        monkeypatch.undo()
        assert finalize_run(ours, RunId("c1-e0"))
        return bool(put_new(self, path, body))

    monkeypatch.setattr(type(destination), "put_new", too_late)
    assert not finalize_run(other, claim.run_id)
    run = other.store.run(claim.run_id)
    assert run.status is RunStatus.FAILED and DESTINATION_SHARED in run.error
    manifest = destination.read(MANIFEST_NAME, 1_000_000)
    assert manifest is not None and json.loads(manifest)["run_id"] == "c1-e0"
    assert destination.read(SUCCESS_NAME, 4096) == success_line(fingerprint_bytes(manifest))
    assert destination.read(run_manifest_name(claim.run_id), 1_000_000) is None


def test_gc_leaves_what_its_ledger_cannot_know(tmp_path: Path) -> None:
    ours, _, theirs = delivered(tmp_path)
    destination = open_destination(theirs.runs[0].plan.destination)
    local = tmp_path / "part"
    for path in ("c1-e0@team-b/part", "c0-e0/part"):
        local.write_bytes(path.encode())
        destination.stage(local, path, digest_file(local, 1))
    assert collect_garbage(ours, CAMPAIGN, min_age_s=0).staged_files == 1
    assert [one.path for one in destination.list_staged()] == ["c1-e0@team-b/part"]


# -- whose campaign it is --------------------------------------------------------------------------


def configuration(path: str, *, name: str = "shop", named: bool = False) -> Any:
    campaign = SimpleNamespace(name=name if named else None)
    return SimpleNamespace(
        campaign_name=name,
        path=Path(path),
        config=SimpleNamespace(campaign=campaign),
        used_sources=frozenset,
    )


@pytest.fixture
def fleet(tmp_path: Path) -> Any:
    """One campaign ``c1`` of ``/a/shop.yaml``."""
    store = MemoryStore(DatabaseClock())
    owner = CampaignIdentity(name="shop", named=False, path="/a/shop.yaml")
    store.submit(replace(memory_plan(), identity=owner))
    return make_fleet(store, tmp_path)


@pytest.mark.parametrize("wanted", [None, CAMPAIGN])
def test_another_configuration_of_the_same_stem_is_refused(fleet: Any, wanted: Any) -> None:
    other = configuration("/b/shop.yaml")
    with pytest.raises(StateRefused, match=r"/a/shop\.yaml.*this is /b/shop\.yaml") as refused:
        find_campaign(fleet, other, wanted)
    assert refused.value.code == CAMPAIGN_OTHER and "state accept" in str(refused.value.hint)
    with pytest.raises(StateRefused):
        refuse_other_owner(fleet.store, other)
    own = configuration("/x/../a/shop.yaml")
    assert find_campaign(fleet, own, wanted).campaign_id == CAMPAIGN


def test_an_id_of_another_name_is_refused(fleet: Any) -> None:
    other = configuration("/a/bills.yaml", name="bills")
    with pytest.raises(StateRefused, match="is one of shop") as refused:
        find_campaign(fleet, other, CAMPAIGN)
    assert refused.value.code == CAMPAIGN_OTHER


def test_a_worker_elsewhere_that_was_given_the_id_may_join(fleet: Any) -> None:
    copied = configuration("/elsewhere/shop.yaml")
    assert find_campaign(fleet, copied, CAMPAIGN, copied=True).campaign_id == CAMPAIGN
    with pytest.raises(StateRefused):
        find_campaign(fleet, copied, None, copied=True)


def test_an_early_worker_does_not_wait_for_another_configurations_campaign(fleet: Any) -> None:
    with pytest.raises(StateRefused) as refused:
        fleets.await_campaign(fleet, configuration("/b/shop.yaml"), None, wait_s=3600.0)
    assert refused.value.code == CAMPAIGN_OTHER


def test_an_operator_signs_campaigns_over(fleet: Any) -> None:
    moved = configuration("/b/shop.yaml")
    word = Word(by="ann@ops", reason="moved")
    done = accept_campaigns(fleet, moved, word)
    assert done.created and done.before is not None and done.before.path == "/a/shop.yaml"
    assert find_campaign(fleet, moved, None).campaign_id == CAMPAIGN
    told = fleet.store.journal()[-1]
    assert (told.event, told.data["by"], told.data["reason"]) == (
        *("campaign.accepted", "ann@ops"),
        "moved",
    )
    assert not accept_campaigns(fleet, moved, word).created
    with pytest.raises(StateRefused):
        find_campaign(fleet, configuration("/a/shop.yaml"), None)


# -- which namespace a command works within --------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "configured", "variable", "expected"),
    [
        ("a", "b", "c", "a"),
        (None, "b", "c", "b"),
        (None, None, "c", "c"),
        (None, None, "", None),
        (None, None, None, None),
    ],
)
def test_who_says_which_namespace(
    option: str | None, configured: str | None, variable: str | None, expected: str | None
) -> None:
    loaded: Any = SimpleNamespace(
        config=SimpleNamespace(state=SimpleNamespace(namespace=configured))
    )
    variables = {} if variable is None else {"RIVET_FLEET_NAMESPACE": variable}
    environment: Any = SimpleNamespace(variables=variables)
    with click.Context(click.Command("x")) as context:
        context.meta["rivet_fleet.namespace"] = option
        assert invocation._namespace(loaded, environment) == expected
        environment.variables["RIVET_FLEET_NAMESPACE"] = "No Name"
        if (option or configured) is None:
            with pytest.raises(UsageError, match="RIVET_FLEET_NAMESPACE 'No Name'"):
                invocation._namespace(loaded, environment)
