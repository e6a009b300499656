"""What is S3's alone of what goes wrong between us and a store: services that take no conditions,
that hide uploads, that claim what they did not do, that are in another region. Through a proxy
before a real server; the truth is asked of the server itself."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rivet_fleet.errors import DestinationRefused
from rivet_fleet.execution import registry
from rivet_fleet.execution.destination import Presence
from rivet_fleet.execution.destinations import s3 as s3_store
from rivet_fleet.planning.config.models import CampaignConfig
from tests.servers.faults import Fault, FaultProxy, fault_proxy
from tests.servers.versitygw import Versitygw
from tests.store_kit import S3, Scene, Service


@pytest.fixture(scope="module")
def proxy(versitygw: Versitygw) -> Iterator[FaultProxy]:
    with fault_proxy(versitygw.port) as proxy:
        yield proxy


@pytest.fixture
def scene(proxy: FaultProxy, versitygw: Versitygw, tmp_path: Path) -> Scene:
    proxy.mend()
    return Scene(Service(store=versitygw, proxy=proxy), tmp_path)


def test_an_abort_that_was_only_claimed_is_repeated(scene: Scene) -> None:
    receipt = scene.stage()
    scene.proxy.inject(S3["abort"], Fault.CLAIMED)
    scene.here.discard(receipt, scene.path)
    assert scene.truth.publish(receipt, scene.path, scene.digest) is Presence.MISSING


@pytest.mark.parametrize("foreign", [False, True])
def test_a_service_that_takes_no_condition_is_asked_without(scene: Scene, foreign: bool) -> None:
    """The look is all there is then, and it is enough for whoever came before."""
    receipt = scene.stage()
    scene.here._exclusive = True
    if foreign:
        scene.truth.put_atomic(scene.path, b"somebody else's")
    scene.proxy.inject(S3["commit"], Fault.UNKNOWN, times=1000)
    wanted = Presence.FOREIGN if foreign else Presence.VISIBLE
    assert scene.publish(receipt) is wanted
    assert (scene.truth.read(scene.path, 100) == b"somebody else's") is foreign


def test_a_bucket_of_another_region_is_named_with_it(scene: Scene) -> None:
    scene.proxy.inject(lambda m, p: True, Fault.ELSEWHERE, times=1000)
    with pytest.raises(DestinationRefused) as refused:
        scene.here.check()
    assert "write region: eu-north-1" in str(refused.value.hint)


def test_uploads_that_a_service_hides_from_a_prefix_are_found(scene: Scene) -> None:
    """Some list them for a whole key or for none: all are asked for, and ours are taken."""
    scene.stage()
    scene.proxy.inject(
        lambda m, p: S3["uploads"](m, p) and "prefix=&" not in f"{p}&", Fault.EMPTY, times=1000
    )
    assert [info.path for info in scene.here.list_staged()] == [scene.path]
    scene.proxy.mend()
    assert [info.path for info in scene.truth.list_staged()] == [scene.path], "no probe is left"


def test_a_piece_that_changed_on_its_way_is_refused_by_the_service(scene: Scene) -> None:
    upload = scene.truth._store.begin(f"{scene.below}/x", scene.digest)
    with pytest.raises(DestinationRefused, match="BadDigest"):
        upload.send(b"sent", hashlib.md5(b"meant").digest(), last=True)


def test_a_part_costs_two_requests_beside_its_own(scene: Scene) -> None:
    """Begin and one piece; commit and look."""
    scene.here.check()
    scene.proxy.mend()
    scene.delivered()
    asked = [next(name for name, call in S3.items() if call(*one)) for one in scene.proxy.seen]
    assert asked == ["begin", "piece", "commit", "look"]


def test_a_silent_service_is_given_up_before_its_worker_is() -> None:
    """s3fs asks five times, what it stands on twice each, and a chunk makes no progress then."""
    tries = 2 * importlib.import_module("s3fs").S3FileSystem.retries
    hang_timeout_s = CampaignConfig.model_fields["hang_timeout_s"].default
    assert tries * s3_store._READ_TIMEOUT_S <= hang_timeout_s / 2


def test_no_variable_or_file_leads_it_elsewhere(
    versitygw: Versitygw, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec.config

    elsewhere = "http://127.0.0.1:1"
    monkeypatch.setenv("AWS_ENDPOINT_URL", elsewhere)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", elsewhere)
    monkeypatch.setitem(
        fsspec.config.conf, "s3", {"endpoint_url": elsewhere, "requester_pays": True}
    )
    own = replace(
        versitygw.connection("b", "p"), prefix="s3://b/p", options={"region": "eu-west-1"}
    )
    service = registry.open_destination(own)._store._fs
    service.connect()
    assert service.s3.meta.endpoint_url == "https://s3.eu-west-1.amazonaws.com"
    assert not service.requester_pays


def test_a_killed_server_keeps_what_was_staged(scene: Scene, versitygw: Versitygw) -> None:
    receipt = scene.stage()
    versitygw.restart()
    assert scene.publish(receipt) is Presence.VISIBLE
