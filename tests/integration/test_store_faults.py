"""What goes wrong between us and a store, one request at a time: a part is visible once, or not
yet, and whoever comes next finishes it. Each denied permission is named as the cloud names it.
Through a proxy before a real S3 server and services that the tests play; the truth is asked past
it."""

from __future__ import annotations

import contextlib
import importlib
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rivet_fleet.contracts import killpoints
from rivet_fleet.contracts.killpoints import Arming, KillAction, KillPoint, KillPointReached
from rivet_fleet.errors import DestinationError, DestinationRefused, DestinationUnavailable
from rivet_fleet.execution import registry
from rivet_fleet.execution.destination import Presence
from rivet_fleet.execution.destinations import azure as azure_store
from rivet_fleet.execution.destinations import gcs as gcs_store
from rivet_fleet.execution.destinations import s3 as s3_store
from rivet_fleet.execution.parts import digest_file
from rivet_fleet.verification.gc import sweep_staged
from tests.servers.azure_fake import AzureAccount, azure_account
from tests.servers.faults import Fault, FaultProxy, fault_proxy
from tests.servers.gcs_fake import gcs_service
from tests.servers.versitygw import Versitygw
from tests.store_kit import PATH, Scene, Service, again

MIB = 2**20
SERVERS = {"s3": "versitygw", "azure": "azure", "gcs": "gcs"}
PATIENCE_S = 1.5
"""How long an answer is waited for here, in place of a minute."""
PASSING = (
    *(Fault.LOST, Fault.RESET, Fault.CUT, Fault.BUSY, Fault.THROTTLED, Fault.BROKEN),
    Fault.ERROR_IN_200,
)
Case = tuple[str, Fault, bool]
BLOBS = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"
DENIED = {
    "s3": {
        "begin": "s3:PutObject",
        "commit": "s3:PutObject",
        "pieces": "s3:ListMultipartUploadParts",
        "abort": "s3:AbortMultipartUpload",
        "look": "s3:GetObject",
        "get": "s3:GetObject",
        "list": "s3:ListBucket",
        "uploads": "s3:ListBucketMultipartUploads",
        "delete": "s3:DeleteObject",
    },
    "azure": {
        "piece": f"{BLOBS}/write",
        "commit": f"{BLOBS}/write",
        "pieces": f"{BLOBS}/read",
        "look": f"{BLOBS}/read",
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
Scenes = Callable[[], Scene]


async def _at_once(_seconds: float) -> None:
    """Before gcsfs tries again."""


@pytest.fixture(scope="module", params=SERVERS)
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    """Each kind, and a proxy before it."""
    retry = pytest.importorskip("gcsfs.retry")
    store: Any = request.getfixturevalue(SERVERS[request.param])
    with fault_proxy(store.port) as proxy, pytest.MonkeyPatch.context() as patched:
        patched.setattr(retry, "asyncio", SimpleNamespace(sleep=_at_once))
        # Here, so that the way past every proxy has a client with all of its patience.
        registry.open_destination(store.connection(store.make_bucket("patient"), "p")).check()
        yield Service(store=store, proxy=proxy)


@pytest.fixture(scope="module")
def silenced(service: Service) -> Iterator[FaultProxy]:
    """A proxy of its own for those who do not wait for long: each has one client."""
    with fault_proxy(service.store.port) as proxy:
        yield proxy


@pytest.fixture
def hasty(service: Service, silenced: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Service:
    """Reached by a client that is soon tired of a silent service. On a busy machine it asks twice
    for what comes late: only for tests to which that is all the same."""
    silenced.mend()
    monkeypatch.setattr(s3_store, "_READ_TIMEOUT_S", PATIENCE_S)
    monkeypatch.setattr(gcs_store, "_READ_TIMEOUT_S", PATIENCE_S)
    monkeypatch.setitem(azure_store._TIMEOUTS_S, "read_timeout", PATIENCE_S)
    return Service(store=service.store, proxy=silenced)


@pytest.fixture
def scenes(service: Service, tmp_path: Path) -> Scenes:
    """A place of its own for each part."""
    service.proxy.mend()
    return lambda: Scene(service, tmp_path)


def cases(kind: str) -> list[Case]:
    """Call, fault, and whether the service has done what was asked."""
    calls = ("piece", "commit", "look", *(("begin",) if kind == "s3" else ()))
    refusing = (Fault.TAKEN, Fault.CONFLICT, *((Fault.UNKNOWN,) if kind == "s3" else ()))
    return [
        *(
            (call, fault, False)
            for call, fault in itertools.product(calls, PASSING)
            # Of this service only a completion answers before it knows.
            if kind != "s3" or fault is not Fault.ERROR_IN_200 or call == "commit"
        ),
        *itertools.product(calls, [Fault.SILENT], [False, True]),
        # Carried out all the same, or not: a look tells.
        *itertools.product(["commit"], refusing, [False, True]),
    ]


def test_a_part_is_visible_once_whatever_is_answered(hasty: Service, tmp_path: Path) -> None:
    """All at one time, because most of it is waiting: for an answer, or before the next try."""

    def told(case: Case) -> str | None:
        call, fault, acts = case
        scene = Scene(hasty, tmp_path)
        hasty.proxy.inject(scene.meant(call), fault, acts=acts)
        try:
            found = scene.delivered()
            proven = scene.truth.prove(scene.path, scene.digest)
            assert [found, proven] == [Presence.VISIBLE] * 2
            # Whoever was not told of what it began leaves it to a sweep, which takes no more.
            sweep_staged(scene.truth, set, min_age_s=0)
            assert (scene.left(), scene.visible()) == ([], [scene.path])
        except Exception as error:
            return f"{call} {fault.name} {acts}: {error!r}"
        return None

    wanted = cases(hasty.kind)
    with ThreadPoolExecutor(len(wanted)) as pool:
        assert [one for one in pool.map(told, wanted) if one] == []
    assert not hasty.proxy.outwaited


def test_a_probe_holds_whatever_is_not_answered(hasty: Service, tmp_path: Path) -> None:
    """Of a probe each request is asked again, although the service may have done it."""

    def told(case: tuple[str, Fault]) -> str | None:
        call, fault = case
        scene = Scene(hasty, tmp_path)
        hasty.proxy.inject(scene.meant(call), fault, acts=True)
        try:
            again(scene.here.check)
            assert scene.here.exclusive
            assert scene.truth.prove(scene.path, scene.digest) is Presence.MISSING
            sweep_staged(scene.truth, set, min_age_s=0)
            assert hasty.store.bodies(scene.bucket) == {}
            assert hasty.store.staged(scene.bucket) == []
        except Exception as error:
            return f"{call} {fault.name}: {error!r}"
        return None

    wanted = [
        case
        for case in itertools.product(hasty.calls, (Fault.LOST, Fault.SILENT))
        if case[0] not in ("put", "look")
    ]
    with ThreadPoolExecutor(len(wanted)) as pool:
        assert [one for one in pool.map(told, wanted) if one] == []
    assert not hasty.proxy.outwaited


def test_a_small_object_is_whole_whatever_is_not_answered(hasty: Service, tmp_path: Path) -> None:
    def told(case: tuple[Fault, bool]) -> bool:
        fault, new = case
        scene = Scene(hasty, tmp_path)
        call = "put" if "put" in hasty.calls else "piece"
        hasty.proxy.inject(scene.meant(call), fault, acts=True)
        put = scene.here.put_new if new else scene.here.put_atomic
        # Of a new one nobody can tell then whose it is: whoever asked looks at it.
        again(lambda: put("m", b"body"))
        return bool(scene.truth.read("m", 10) == b"body")

    wanted = list(itertools.product((Fault.LOST, Fault.SILENT), (True, False)))
    with ThreadPoolExecutor(len(wanted)) as pool:
        assert all(pool.map(told, wanted))


def test_a_service_that_keeps_failing_is_told_and_nothing_is_shown(
    service: Service, scenes: Scenes
) -> None:
    scene = scenes()
    receipt = scene.stage()
    service.proxy.inject(scene.meant("commit"), Fault.CONFLICT, times=1000)
    with pytest.raises(DestinationUnavailable, match="is staged"):
        scene.publish(receipt)
    assert scene.visible() == []
    service.proxy.mend()
    assert scene.publish(receipt) is Presence.VISIBLE


def test_a_piece_whose_answer_is_lost_is_staged(service: Service, scenes: Scenes) -> None:
    scene = scenes()
    service.proxy.inject(scene.meant("piece"), Fault.LOST)
    assert scene.here.look(scene.stage(), scene.path, scene.digest) is Presence.STAGED


def test_an_object_that_is_replaced_while_it_is_read_is_no_mixture(scenes: Scenes) -> None:
    scene = scenes()
    scene.here.put_atomic("m", b"a" * (5 * MIB))
    blocks = scene.here._store.get(f"{scene.below}/m")
    assert set(next(blocks)) == {ord("a")}
    scene.here.put_atomic("m", b"b" * (5 * MIB))
    with pytest.raises(DestinationUnavailable):
        next(blocks)


def test_an_answer_that_ends_in_its_middle_is_no_object(service: Service, scenes: Scenes) -> None:
    scene = scenes()
    scene.truth.put_atomic("m", b"x" * MIB)
    service.proxy.inject(scene.meant("get"), Fault.CUT)
    try:
        body = scene.here.read("m", MIB)
    except DestinationUnavailable:
        body = scene.here.read("m", MIB)
    assert body == b"x" * MIB


def test_a_lost_discard_is_proven(service: Service, scenes: Scenes) -> None:
    calls = {"s3": ("abort",), "azure": ("commit", "delete"), "gcs": ("delete",)}
    for call in calls[service.kind]:
        scene = scenes()
        receipt = scene.stage()
        service.proxy.inject(scene.meant(call), Fault.LOST)
        scene.here.discard(receipt, scene.path)
        assert scene.visible() == []
        assert scene.truth.publish(receipt, scene.path, scene.digest) is Presence.MISSING


def test_a_large_part_comes_back_whole(service: Service, scenes: Scenes) -> None:
    """In pieces, of which one is half lost, lost as a whole or sent again; shown in steps."""
    for fault in (Fault.LOST, Fault.CUT):
        scene = scenes()
        scene.write(bytes(range(256)) * (11 * 4 * 1024))
        service.proxy.inject(service.calls["piece"], fault)
        if service.kind == "gcs":
            service.store.forgets = 3
        assert scene.publish(scene.stage()) is Presence.VISIBLE
        with scene.truth.local_copy(scene.path) as copy:
            assert copy.read_bytes() == scene.local.read_bytes()


def test_dying_between_two_pieces_shows_nothing(service: Service, scenes: Scenes) -> None:
    scene, sent = scenes(), itertools.count(1)
    scene.write(b"x" * (6 * MIB))
    piece = service.calls["piece"]
    service.proxy.inject(lambda m, p: piece(m, p) and next(sent) == 2, Fault.DENIED)
    with pytest.raises(DestinationRefused):
        scene.stage()
    assert scene.visible() == []
    for left in scene.left():
        assert left.path == scene.path
        if service.kind == "s3":
            assert left.size_bytes == 5 * MIB
            assert scene.truth.publish(left.receipt, PATH, scene.digest) is Presence.MISSING
        scene.truth.discard(left.receipt, left.path)
    assert scene.left() == []
    assert scene.delivered() is Presence.VISIBLE


def test_what_was_swept_before_it_was_shown_is_missing(service: Service, scenes: Scenes) -> None:
    """By a lifecycle rule: then it is extracted again, under a fence of its own."""
    scene = scenes()
    receipt = scene.stage()
    service.store.sweep(scene.bucket)
    assert scene.here.look(receipt, scene.path, scene.digest) is Presence.MISSING
    assert scene.publish(receipt) is Presence.MISSING
    assert (scene.visible(), scene.left()) == ([], [])
    assert scene.delivered() is Presence.VISIBLE


def test_what_is_swept_while_it_is_sent_is_tried_again(service: Service, scenes: Scenes) -> None:
    """Not refused: whoever is refused by a destination ends."""
    scene, sent = scenes(), itertools.count(1)
    scene.write(b"x" * (6 * MIB))
    piece = service.calls["piece"]
    # The second of them; one kind of store begins an upload by a request of its own.
    last = 3 if service.kind == "gcs" else 2

    def swept(method: str, path: str) -> bool:
        if piece(method, path) and next(sent) == last:
            service.store.sweep(scene.bucket)
        return False

    service.proxy.inject(swept, Fault.BUSY)
    # Of blocks nobody notices that others are gone before they are committed.
    first = Presence.MISSING if service.kind == "azure" else Presence.VISIBLE
    assert scene.delivered() is first
    assert next(sent) > last, "nothing was swept"
    assert scene.delivered() is Presence.VISIBLE


def test_a_probe_names_the_permission_that_is_missing(service: Service, scenes: Scenes) -> None:
    for call, permission in DENIED[service.kind].items():
        scene = scenes()
        service.proxy.inject(scene.meant(call), Fault.DENIED, times=1000)
        with pytest.raises(DestinationError) as refused:
            scene.here.check()
            scene.here.prove(scene.path, scene.digest)
        assert f"refuses {permission}: " in refused.value.message, call
        assert refused.value.code == "RIVET_STORE_DENIED"


@pytest.mark.parametrize("point", [KillPoint.STAGE_WRITTEN, KillPoint.PART_RENAMED])
def test_who_dies_is_finished_by_another(
    scenes: Scenes, point: KillPoint, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(lambda: killpoints.arm(()))
    scene = scenes()
    killpoints.arm((Arming(point=point, action=KillAction.ERROR),))
    with pytest.raises(KillPointReached):
        scene.delivered()
    killpoints.arm(())
    (receipt,) = [one.receipt for one in scene.left()] or [None]
    if receipt is not None:
        assert scene.truth.publish(receipt, scene.path, scene.digest) is Presence.VISIBLE
    assert scene.visible() == [scene.path]


def test_what_is_wrong_with_a_destination_is_named(service: Service, tmp_path: Path) -> None:
    there = service.store.connection(service.store.make_bucket("named"), "p")
    absent = replace(there, prefix=there.prefix.replace("named", "absent"))
    wrong = {
        "s3": replace(there, secrets={**there.secrets, "secret_key_env": "wrong"}),
        "azure": replace(there, secrets={"account_key_env": "d3Jvbmc="}),
        "gcs": replace(there, options={**there.options, "credentials_file": str(tmp_path / "no")}),
    }[service.kind]
    names = {
        "s3": ("NoSuchBucket", "SignatureDoesNotMatch"),
        "azure": ("ContainerNotFound", "AuthenticationFailed"),
        "gcs": ("NotFound", "DefaultCredentialsError"),
    }[service.kind]
    for connection, said in zip((absent, wrong), names, strict=True):
        with pytest.raises(DestinationRefused, match=said) as refused:
            registry.open_destination(connection).check()
        assert refused.value.hint
        for secret in there.secrets.values():
            assert secret not in str(refused.value)


def test_an_absent_bucket_makes_no_part_lost(
    service: Service, scenes: Scenes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store may answer of both alike."""
    scene = scenes()
    receipt = scene.stage()
    scene.publish(receipt)
    service.store.remove_bucket(scene.bucket)
    if service.kind != "azure":
        monkeypatch.setattr(scene.here._store._inner, "_answered_s", float("-inf"))
    for ask in (
        lambda: scene.here.prove(scene.path, scene.digest),
        lambda: scene.here.look(receipt, scene.path, scene.digest),
    ):
        with pytest.raises(DestinationRefused, match=r"NotFound|NoSuchBucket"):
            ask()


def test_credentials_that_expire_before_a_commit_cost_nothing(
    service: Service, scenes: Scenes
) -> None:
    """What is staged is shown by whoever has new ones."""
    scene = scenes()
    receipt = scene.stage()
    with pytest.MonkeyPatch.context() as expired:
        if service.kind == "s3":
            service.proxy.inject(scene.meant("commit"), Fault.EXPIRED)
        elif service.kind == "azure":
            expired.setattr(service.store, "key", b"another")
        else:
            expired.setattr(service.store, "token", "another")
        with pytest.raises(DestinationRefused) as refused:
            scene.publish(receipt)
    assert refused.value.code == "RIVET_STORE_DENIED"
    assert "expired" in str(refused.value.hint)
    assert scene.visible() == []
    assert scene.publish(receipt) is Presence.VISIBLE


def test_tokens_are_renewed_while_a_part_is_on_its_way(tmp_path: Path) -> None:
    """Each of them is void as soon as there is another, and lasts for a minute."""
    with gcs_service(tmp_path) as service:
        service.expires_s, given = 60, service.token
        scene = _at(service, tmp_path)
        assert scene.publish(scene.stage()) is Presence.VISIBLE
        assert service.token != given


def _hour_later(remove_tzinfo: bool = True) -> datetime:
    return datetime.now(UTC).replace(tzinfo=None) + timedelta(hours=1)


@pytest.mark.parametrize("kind", SERVERS)
def test_a_clock_that_is_an_hour_wrong_is_named(
    kind: str, versitygw: Versitygw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests are signed with the time, and tokens are asked for with it."""
    with contextlib.ExitStack() as held:
        store: Any = versitygw
        if kind == "s3":
            signing = importlib.import_module("botocore.auth")
            monkeypatch.setattr(signing, "get_current_datetime", _hour_later)
        elif kind == "azure":
            store = held.enter_context(azure_account(ahead_s=3600))
        else:
            store = held.enter_context(gcs_service(tmp_path, ahead_s=3600))
        here = registry.open_destination(store.connection(store.make_bucket("clock"), "p"))
        with pytest.raises(DestinationRefused) as refused:
            here.check()
    assert refused.value.code == "RIVET_STORE_DENIED"
    assert "clock" in str(refused.value.hint)


def test_what_is_staged_is_as_old_as_the_service_says(tmp_path: Path) -> None:
    """Of which the clock is an hour ahead of ours; a SAS token is not signed anew."""
    with azure_account(ahead_s=3600) as account:
        there = replace(
            account.connection(account.make_bucket("b"), "p"),
            secrets={"sas_token_env": account.sas_token},
        )
        here = registry.open_destination(there)
        local = tmp_path / "part"
        local.write_bytes(b"PAR1")
        here.stage(local, PATH, digest_file(local, 1))
        assert [one.age_s < 60 for one in here.list_staged()] == [True]


def test_no_version_of_a_discarded_part_can_be_shown(tmp_path: Path) -> None:
    """A versioned bucket keeps what is deleted, and a rewrite may ask for an older generation."""
    with gcs_service(tmp_path) as service:
        scene = _at(service, tmp_path)
        service.buckets[scene.bucket].versioned = True
        receipt = scene.stage()
        scene.here.discard(receipt, scene.path)
        assert scene.publish(receipt) is Presence.MISSING
        assert service.bodies(scene.bucket) == {}


def _at(store: Any, folder: Path) -> Scene:
    """With nothing in between."""
    return Scene(Service(store=store, proxy=FaultProxy(port=store.port)), folder)


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
