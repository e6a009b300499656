"""What goes wrong between us and Azure or Google, one request at a time: a part is visible once, or
not yet, and whoever comes next finishes it. Through a proxy before a service that the tests play;
the truth is asked past it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rivet_fleet.contracts import killpoints
from rivet_fleet.contracts.killpoints import Arming, KillAction, KillPoint, KillPointReached
from rivet_fleet.errors import DestinationError, DestinationRefused, DestinationUnavailable
from rivet_fleet.execution import registry
from rivet_fleet.execution.destination import Presence
from rivet_fleet.execution.parts import digest_file
from tests.integration.test_s3_faults import PASSING, Scene
from tests.servers.azure_fake import AzureAccount, azure_account
from tests.servers.faults import Fault, FaultProxy, fault_proxy
from tests.servers.gcs_fake import GcsService, gcs_service

Matches = Callable[[str, str], bool]
MIB = 2**20
AZURE: dict[str, Matches] = {
    "piece": lambda m, p: m == "PUT" and "comp=block&" in f"{p}&",
    "commit": lambda m, p: m == "PUT" and "comp=blocklist" in p,
    "pieces": lambda m, p: m == "GET" and "comp=blocklist" in p,
    "look": lambda m, p: m == "HEAD",
    "get": lambda m, p: m == "GET" and "comp=" not in p,
    "list": lambda m, p: m == "GET" and "comp=list" in p,
    "put": lambda m, p: m == "PUT" and "comp=" not in p,
    "delete": lambda m, p: m == "DELETE",
}
GCS: dict[str, Matches] = {
    "piece": lambda m, p: m in ("POST", "PUT") and ("/upload/" in p or "/session/" in p),
    "commit": lambda m, p: m == "POST" and "/rewriteTo/" in p,
    "look": lambda m, p: m == "GET" and "/o/" in p and "alt=" not in p,
    "get": lambda m, p: m == "GET" and "alt=media" in p,
    "list": lambda m, p: m == "GET" and "/o?" in p,
    "delete": lambda m, p: m == "DELETE",
}
BLOBS = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"
DENIED = {
    "azure": {
        "piece": f"{BLOBS}/write",
        "commit": f"{BLOBS}/write",
        "pieces": f"{BLOBS}/read",
        "get": f"{BLOBS}/read",
        "list": f"{BLOBS}/read",
        "delete": f"{BLOBS}/delete",
    },
    "gcs": {
        "piece": "storage.objects.create",
        "commit": "storage.objects.create",
        "look": "storage.objects.get",
        "get": "storage.objects.get",
        "list": "storage.objects.list",
        "delete": "storage.objects.delete",
    },
}
_numbers = itertools.count()


@dataclass
class Service:
    """A store, and the way to it."""

    kind: str
    store: Any
    proxy: FaultProxy
    calls: dict[str, Matches]


@pytest.fixture(scope="module", params=["azure", "gcs"])
def service(request, azure: AzureAccount, gcs: GcsService) -> Iterator[Service]:
    store: Any = {"azure": azure, "gcs": gcs}[request.param]
    calls = {"azure": AZURE, "gcs": GCS}[request.param]
    with fault_proxy(store.port) as proxy:
        yield Service(request.param, store, proxy, calls)


@pytest.fixture
def scenes(service: Service, tmp_path: Path, monkeypatch) -> Callable[[], Scene]:
    """A place of its own for each part. gcsfs tries again at once."""
    retry = pytest.importorskip("gcsfs.retry")
    monkeypatch.setattr(retry, "random", SimpleNamespace(random=lambda: -1.0))

    def scene() -> Scene:
        service.proxy.mend()
        name = service.store.make_bucket(f"faults{next(_numbers)}")
        return Scene(service.proxy, service.store, name, tmp_path)

    return scene


def delivered(scene: Scene) -> Presence:
    """As a chunk is: what cannot be told now is asked again, what was not staged is staged anew."""
    for _ in range(3):
        try:
            receipt = scene.here.stage(scene.local, scene.path, scene.digest)
            break
        except DestinationUnavailable:
            continue
    for _ in range(3):
        try:
            return scene.here.publish(receipt, scene.path, scene.digest)
        except DestinationUnavailable:
            continue
    raise AssertionError("never delivered")


def test_a_part_is_visible_once_whatever_is_answered(
    service: Service, scenes: Callable[[], Scene]
) -> None:
    passing = itertools.product(("piece", "commit", "look"), PASSING, [False])
    looked = itertools.product(("commit",), (Fault.TAKEN, Fault.CONFLICT), (False, True))
    for call, fault, acts in (*passing, *looked):
        scene = scenes()
        service.proxy.inject(service.calls[call], fault, acts=acts)
        case = f"{call} {fault.name} {acts}"
        assert delivered(scene) is Presence.VISIBLE, case
        assert scene.visible() == [scene.path], case
        assert scene.truth.prove(scene.path, scene.digest) is Presence.VISIBLE, case


def test_a_service_that_keeps_failing_is_told_and_nothing_is_shown(
    service: Service, scenes: Callable[[], Scene]
) -> None:
    scene = scenes()
    receipt = scene.here.stage(scene.local, scene.path, scene.digest)
    service.proxy.inject(service.calls["commit"], Fault.CONFLICT, times=1000)
    with pytest.raises(DestinationUnavailable, match="is staged"):
        scene.here.publish(receipt, scene.path, scene.digest)
    assert scene.visible() == []
    service.proxy.mend()
    assert scene.here.publish(receipt, scene.path, scene.digest) is Presence.VISIBLE


def test_a_piece_whose_answer_is_lost_is_staged(
    service: Service, scenes: Callable[[], Scene]
) -> None:
    scene = scenes()
    service.proxy.inject(service.calls["piece"], Fault.LOST)
    receipt = scene.here.stage(scene.local, scene.path, scene.digest)
    assert scene.here.look(receipt, scene.path, scene.digest) is Presence.STAGED


def test_an_object_that_is_replaced_while_it_is_read_is_no_mixture(
    scenes: Callable[[], Scene],
) -> None:
    scene = scenes()
    scene.here.put_atomic("m", b"a" * (5 * MIB))
    blocks = scene.here._store.get(f"{scene.below}/m")  # type: ignore[attr-defined]
    assert set(next(blocks)) == {ord("a")}
    scene.here.put_atomic("m", b"b" * (5 * MIB))
    with pytest.raises(DestinationUnavailable):
        next(blocks)


def test_a_lost_discard_is_proven(service: Service, scenes: Callable[[], Scene]) -> None:
    for call in ("commit", "delete"):
        scene = scenes()
        receipt = scene.here.stage(scene.local, scene.path, scene.digest)
        service.proxy.inject(service.calls[call], Fault.LOST)
        scene.here.discard(receipt, scene.path)
        assert scene.visible() == []
        assert scene.truth.publish(receipt, scene.path, scene.digest) is Presence.MISSING


def test_a_large_part_comes_back_whole(service: Service, scenes: Callable[[], Scene]) -> None:
    """In pieces, of which one is half lost, lost as a whole or sent again; shown in steps."""
    scene = scenes()
    scene.local.write_bytes(bytes(range(256)) * (11 * 4 * 1024))
    scene.digest = digest_file(scene.local, 1)
    service.proxy.inject(service.calls["piece"], Fault.LOST)
    if service.kind == "gcs":
        service.store.forgets = 3
    receipt = scene.here.stage(scene.local, scene.path, scene.digest)
    assert scene.here.publish(receipt, scene.path, scene.digest) is Presence.VISIBLE
    with scene.truth.local_copy(scene.path) as copy:
        assert copy.read_bytes() == scene.local.read_bytes()


def test_dying_between_two_pieces_shows_nothing(
    service: Service, scenes: Callable[[], Scene]
) -> None:
    scene, sent = scenes(), itertools.count(1)
    scene.local.write_bytes(b"x" * (6 * MIB))
    scene.digest = digest_file(scene.local, 1)
    piece = service.calls["piece"]
    service.proxy.inject(lambda m, p: piece(m, p) and next(sent) == 2, Fault.DENIED)
    with pytest.raises(DestinationRefused):
        scene.here.stage(scene.local, scene.path, scene.digest)
    assert scene.visible() == []
    for left in scene.truth.list_staged():
        assert left.path == scene.path
        scene.truth.discard(left.receipt, left.path)
    assert list(scene.truth.list_staged()) == []
    assert delivered(scene) is Presence.VISIBLE


def test_a_probe_names_the_permission_that_is_missing(
    service: Service, scenes: Callable[[], Scene]
) -> None:
    for call, permission in DENIED[service.kind].items():
        scene = scenes()
        service.proxy.inject(service.calls[call], Fault.DENIED, times=1000)
        with pytest.raises(DestinationError) as refused:
            scene.here.check()
            scene.here.list_staged()
        assert f"refuses {permission}: " in refused.value.message, call
        assert refused.value.code == "RIVET_STORE_DENIED"


@pytest.mark.parametrize("point", [KillPoint.STAGE_WRITTEN, KillPoint.PART_RENAMED])
def test_who_dies_is_finished_by_another(
    scenes: Callable[[], Scene], point: KillPoint, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(lambda: killpoints.arm(()))
    scene = scenes()
    killpoints.arm((Arming(point=point, action=KillAction.ERROR),))
    with pytest.raises(KillPointReached):
        delivered(scene)
    killpoints.arm(())
    (receipt,) = [one.receipt for one in scene.truth.list_staged()] or [None]
    if receipt is not None:
        assert scene.truth.publish(receipt, scene.path, scene.digest) is Presence.VISIBLE
    assert scene.visible() == [scene.path]


def test_what_is_wrong_with_a_destination_is_named(service: Service, tmp_path: Path) -> None:
    there = service.store.connection(service.store.make_bucket("named"), "p")
    absent = replace(there, prefix=there.prefix.replace("named", "absent"))
    wrong = {
        "azure": replace(there, secrets={"account_key_env": "d3Jvbmc="}),
        "gcs": replace(there, options={**there.options, "credentials_file": str(tmp_path / "no")}),
    }[service.kind]
    for connection, said in (
        (absent, {"azure": "ContainerNotFound", "gcs": "NotFound"}),
        (wrong, {"azure": "AuthenticationFailed", "gcs": "DefaultCredentialsError"}),
    ):
        with pytest.raises(DestinationRefused, match=said[service.kind]) as refused:
            registry.open_destination(connection).check()
        assert refused.value.hint


def test_an_absent_bucket_makes_no_part_lost(
    service: Service, scenes: Callable[[], Scene], monkeypatch
) -> None:
    """A store may answer of both alike."""
    scene = scenes()
    receipt = scene.here.stage(scene.local, scene.path, scene.digest)
    scene.here.publish(receipt, scene.path, scene.digest)
    gone = getattr(service.store, "containers", None) or service.store.buckets
    gone.clear()
    if service.kind == "gcs":
        monkeypatch.setattr(scene.here._store._inner, "_answered_s", float("-inf"))  # type: ignore[attr-defined]
    for ask in (
        lambda: scene.here.prove(scene.path, scene.digest),
        lambda: scene.here.look(receipt, scene.path, scene.digest),
    ):
        with pytest.raises(DestinationRefused, match="NotFound"):
            ask()


def test_what_is_staged_is_as_old_as_the_service_says(tmp_path: Path) -> None:
    """Of which the clock is an hour ahead of ours."""
    local = tmp_path / "part"
    local.write_bytes(b"PAR1")
    digest = digest_file(local, 1)
    path = "run-1/orders-c000001-p000-f1.parquet"
    with azure_account(ahead_s=3600) as account:
        here = registry.open_destination(account.connection(account.make_bucket("b"), "p"))
        here.stage(local, path, digest)
        assert [one.age_s < 60 for one in here.list_staged()] == [True]


def test_no_version_of_a_discarded_part_can_be_shown(tmp_path: Path) -> None:
    """A versioned bucket keeps what is deleted, and a rewrite may ask for an older generation."""
    local = tmp_path / "part"
    local.write_bytes(b"PAR1")
    digest = digest_file(local, 1)
    path = "run-1/orders-c000001-p000-f1.parquet"
    with gcs_service(tmp_path) as service:
        name = service.make_bucket("b")
        service.buckets[name].versioned = True
        here = registry.open_destination(service.connection(name, "p"))
        receipt = here.stage(local, path, digest)
        here.discard(receipt, path)
        assert here.publish(receipt, path, digest) is Presence.MISSING
        assert service.bodies(name) == {}


def test_a_sas_token_opens_a_container(azure: AzureAccount) -> None:
    there = azure.connection(azure.make_bucket("sas"), "p")
    options = {name: text for name, text in there.options.items() if name != "account_key_env"}
    here = replace(
        there,
        options={**options, "sas_token_env": "LAKE_SAS"},
        secrets={"sas_token_env": azure.sas_token},
    )
    registry.open_destination(here).check()
    old = azure.sas_token.replace("se=2999", "se=2001")
    with pytest.raises(DestinationRefused, match="the SAS token has expired"):
        registry.open_destination(replace(here, secrets={"sas_token_env": old}))
    ends_s = registry.destination_kinds()["azure"].expires_s({"sas_token_env": old})
    assert ends_s == datetime(2001, 1, 1, tzinfo=UTC).timestamp()
    wrong = replace(here, secrets={"sas_token_env": azure.sas_token + "0"})
    with pytest.raises(DestinationRefused, match="AuthenticationFailed") as refused:
        registry.open_destination(wrong).check()
    assert azure.sas_signature not in str(refused.value)
