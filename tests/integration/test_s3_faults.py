"""What goes wrong between us and an S3 service, one request at a time: a part is visible once, or
not yet, and whoever comes next finishes it. Each denied permission is named as the service names
it. Through a proxy before a real server; the truth is asked of the server itself."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from rivet_fleet.errors import DestinationError, DestinationRefused, DestinationUnavailable
from rivet_fleet.execution import registry
from rivet_fleet.execution.destination import Destination, Presence
from rivet_fleet.execution.parts import digest_file
from tests.servers.faults import Fault, FaultProxy, fault_proxy
from tests.servers.versitygw import Versitygw

CALLS: dict[str, Callable[[str, str], bool]] = {
    "begin": lambda method, path: method == "POST" and path.endswith("?uploads"),
    "piece": lambda method, path: method == "PUT" and "partNumber=" in path,
    "commit": lambda method, path: method == "POST" and "uploadId=" in path,
    "pieces": lambda method, path: method == "GET" and "uploadId=" in path,
    "abort": lambda method, path: method == "DELETE" and "uploadId=" in path,
    "look": lambda method, path: method == "HEAD",
    "get": lambda method, path: method == "GET" and "?" not in path,
    "list": lambda method, path: method == "GET" and "list-type=" in path,
    "uploads": lambda method, path: method == "GET" and "uploads" in path and "prefix=" in path,
    "put": lambda method, path: method == "PUT" and "?" not in path,
    "delete": lambda method, path: method == "DELETE" and "?" not in path,
}
PASSING = (Fault.LOST, Fault.RESET, Fault.BUSY, Fault.THROTTLED, Fault.BROKEN, Fault.ERROR_IN_200)
_numbers = itertools.count()


@pytest.fixture(scope="module")
def proxy(versitygw: Versitygw) -> Iterator[FaultProxy]:
    with fault_proxy(versitygw.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def bucket(versitygw: Versitygw) -> str:
    return versitygw.make_bucket("faults")


class Scene:
    """One part, on its way through the proxy and past it."""

    def __init__(self, proxy: FaultProxy, versitygw: Versitygw, bucket: str, folder: Path) -> None:
        self.below = f"f{next(_numbers)}"
        direct = versitygw.connection(bucket, self.below)
        endpoint = {"endpoint": f"http://127.0.0.1:{proxy.port}"}
        self.proxy = proxy
        self.path = "run-1/orders-c000001-p000-f1.parquet"
        self.here: Destination = registry.open_destination(
            replace(direct, options={**direct.options, **endpoint})
        )
        self.truth: Destination = registry.open_destination(direct)
        self.local = folder / f"part-{self.below}"
        self.local.write_bytes(b"PAR1 one part PAR1")
        self.digest = digest_file(self.local, 1)

    def delivered(self) -> None:
        """As a chunk is: staged, published; what cannot be told now is asked again."""
        receipt = self.here.stage(self.local, self.path, self.digest)
        try:
            found = self.here.publish(receipt, self.path, self.digest)
        except DestinationUnavailable:
            found = self.here.publish(receipt, self.path, self.digest)
        assert found is Presence.VISIBLE

    def refuse_anything_else(self, *, swept: bool) -> None:
        """The part alone, whole."""
        assert self.visible() == [self.path]
        assert swept or list(self.truth.list_staged()) == []
        assert self.truth.prove(self.path, self.digest) is Presence.VISIBLE

    def visible(self) -> list[str]:
        return [info.path for info in self.truth.list_visible()]


@pytest.fixture
def scene(proxy: FaultProxy, versitygw: Versitygw, bucket: str, tmp_path: Path) -> Scene:
    proxy.mend()
    return Scene(proxy, versitygw, bucket, tmp_path)


CASES = [
    *(
        (call, fault, False)
        for call, fault in itertools.product(("begin", "piece", "commit", "look"), PASSING)
        # Only a completion answers before it knows.
        if fault is not Fault.ERROR_IN_200 or call == "commit"
    ),
    # Carried out all the same, or not: a look tells.
    *itertools.product(["commit"], [Fault.TAKEN, Fault.CONFLICT, Fault.UNKNOWN], [False, True]),
]


def test_a_part_is_visible_once_whatever_is_answered(
    proxy: FaultProxy, versitygw: Versitygw, bucket: str, tmp_path: Path
) -> None:
    """All at one time, because most of it is waiting before the next try."""

    def told(case: tuple[str, Fault, bool]) -> str | None:
        call, fault, acts = case
        scene = Scene(proxy, versitygw, bucket, tmp_path)
        meant = CALLS[call]
        proxy.inject(lambda m, p: meant(m, p) and f"/{scene.below}/" in p, fault, acts=acts)
        try:
            scene.delivered()
            # Whoever was not told of an upload that it began leaves it to a sweep.
            scene.refuse_anything_else(swept=call == "begin")
        except Exception as error:
            return f"{call} {fault.name} {acts}: {error!r}"
        return None

    proxy.mend()
    with ThreadPoolExecutor(len(CASES)) as pool:
        assert [one for one in pool.map(told, CASES) if one] == []


def test_a_service_that_keeps_failing_is_told_and_nothing_is_shown(scene: Scene) -> None:
    receipt = scene.here.stage(scene.local, scene.path, scene.digest)
    scene.proxy.inject(CALLS["commit"], Fault.CONFLICT, times=1000)
    with pytest.raises(DestinationUnavailable, match="is staged"):
        scene.here.publish(receipt, scene.path, scene.digest)
    assert scene.visible() == []
    scene.proxy.mend()
    assert scene.here.publish(receipt, scene.path, scene.digest) is Presence.VISIBLE


def test_a_lost_abort_is_proven(scene: Scene) -> None:
    receipt = scene.here.stage(scene.local, scene.path, scene.digest)
    scene.proxy.inject(CALLS["abort"], Fault.LOST)
    scene.here.discard(receipt, scene.path)
    assert scene.truth.publish(receipt, scene.path, scene.digest) is Presence.MISSING


def test_an_abort_that_was_only_claimed_is_repeated(scene: Scene) -> None:
    receipt = scene.here.stage(scene.local, scene.path, scene.digest)
    scene.proxy.inject(CALLS["abort"], Fault.CLAIMED)
    scene.here.discard(receipt, scene.path)
    assert scene.truth.publish(receipt, scene.path, scene.digest) is Presence.MISSING


@pytest.mark.parametrize("foreign", [False, True])
def test_a_service_that_takes_no_condition_is_asked_without(scene: Scene, foreign: bool) -> None:
    """The look is all there is then, and it is enough for whoever came before."""
    receipt = scene.here.stage(scene.local, scene.path, scene.digest)
    scene.here._exclusive = True
    if foreign:
        scene.truth.put_atomic(scene.path, b"somebody else's")
    scene.proxy.inject(CALLS["commit"], Fault.UNKNOWN, times=1000)
    wanted = Presence.FOREIGN if foreign else Presence.VISIBLE
    assert scene.here.publish(receipt, scene.path, scene.digest) is wanted
    assert (scene.truth.read(scene.path, 100) == b"somebody else's") is foreign


def test_an_object_that_is_replaced_while_it_is_read_is_not_half_of_each(scene: Scene) -> None:
    scene.truth.put_atomic("m", b"a" * (6 * 2**20))
    blocks = scene.here._store.get(f"{scene.below}/m")
    next(blocks)
    scene.truth.put_atomic("m", b"b" * (6 * 2**20))
    with pytest.raises(DestinationUnavailable, match="replaced while it was read"):
        next(blocks)


def test_a_bucket_of_another_region_is_named_with_it(scene: Scene) -> None:
    scene.proxy.inject(lambda m, p: True, Fault.ELSEWHERE, times=1000)
    with pytest.raises(DestinationRefused) as refused:
        scene.here.check()
    assert "write region: eu-north-1" in str(refused.value.hint)


def test_credentials_that_expire_before_a_commit_cost_nothing(scene: Scene) -> None:
    receipt = scene.here.stage(scene.local, scene.path, scene.digest)
    scene.proxy.inject(CALLS["commit"], Fault.EXPIRED)
    with pytest.raises(DestinationRefused, match="ExpiredToken") as refused:
        scene.here.publish(receipt, scene.path, scene.digest)
    assert "expired" in str(refused.value.hint)
    assert refused.value.code == "RIVET_STORE_DENIED"
    assert scene.visible() == []
    assert scene.here.publish(receipt, scene.path, scene.digest) is Presence.VISIBLE


def test_uploads_that_a_service_hides_from_a_prefix_are_found(scene: Scene) -> None:
    """Some list them for a whole key or for none: all are asked for, and ours are taken."""
    scene.here.stage(scene.local, scene.path, scene.digest)
    scene.proxy.inject(
        lambda m, p: CALLS["uploads"](m, p) and "prefix=&" not in f"{p}&", Fault.EMPTY, times=1000
    )
    assert [info.path for info in scene.here.list_staged()] == [scene.path]
    scene.proxy.mend()
    assert [info.path for info in scene.truth.list_staged()] == [scene.path], "no probe is left"


def test_dying_between_two_pieces_shows_nothing_and_is_swept(scene: Scene) -> None:
    scene.local.write_bytes(b"x" * (6 * 2**20))
    digest = digest_file(scene.local, 1)
    sent = itertools.count(1)
    scene.proxy.inject(lambda m, p: CALLS["piece"](m, p) and next(sent) == 2, Fault.DENIED)
    with pytest.raises(DestinationRefused):
        scene.here.stage(scene.local, scene.path, digest)
    assert scene.visible() == []
    (left,) = scene.truth.list_staged()
    assert (left.path, left.size_bytes) == (scene.path, 5 * 2**20)
    assert scene.truth.publish(left.receipt, left.path, digest) is Presence.MISSING
    scene.truth.discard(left.receipt, left.path)
    assert (scene.visible(), list(scene.truth.list_staged())) == ([], [])


def test_an_upload_that_was_swept_while_it_was_sent_is_tried_again(scene: Scene) -> None:
    """Not refused: whoever is refused by a destination ends."""
    key, store = f"{scene.below}/x", scene.truth._store
    upload = store.begin(key, scene.digest)
    store.discard(upload.tokens, key)
    with pytest.raises(DestinationUnavailable, match="NoSuchUpload"):
        upload.send(b"sent", hashlib.md5(b"sent").digest(), last=True)


def test_a_piece_that_changed_on_its_way_is_refused_by_the_service(scene: Scene) -> None:
    upload = scene.truth._store.begin(f"{scene.below}/x", scene.digest)
    with pytest.raises(DestinationRefused, match="BadDigest"):
        upload.send(b"sent", hashlib.md5(b"meant").digest(), last=True)


def test_a_large_part_comes_back_whole(scene: Scene) -> None:
    scene.local.write_bytes(bytes(range(256)) * (44 * 1024))
    scene.digest = digest_file(scene.local, 1)
    scene.delivered()
    assert scene.truth.prove(scene.path, scene.digest) is Presence.VISIBLE
    with scene.truth.local_copy(scene.path) as copy:
        assert copy.read_bytes() == scene.local.read_bytes()


def test_a_part_costs_two_requests_beside_its_own(scene: Scene) -> None:
    """Begin and one piece; commit and look."""
    scene.here.check()
    scene.proxy.mend()
    scene.delivered()
    assert [
        next(name for name, call in CALLS.items() if call(*one)) for one in scene.proxy.seen
    ] == [
        "begin",
        "piece",
        "commit",
        "look",
    ]


DENIED = {
    "begin": "s3:PutObject",
    "commit": "s3:PutObject",
    "pieces": "s3:ListMultipartUploadParts",
    "abort": "s3:AbortMultipartUpload",
    "look": "s3:GetObject",
    "get": "s3:GetObject",
    "list": "s3:ListBucket",
    "uploads": "s3:ListBucketMultipartUploads",
    "delete": "s3:DeleteObject",
}


@pytest.mark.parametrize("call", DENIED)
def test_a_probe_names_the_permission_that_is_missing(scene: Scene, call: str) -> None:
    scene.proxy.inject(CALLS[call], Fault.DENIED, times=1000)
    with pytest.raises(DestinationError) as refused:
        scene.here.check()
        scene.here.look(
            {"kind": "s3", "path": scene.path, "upload_id": "x"}, scene.path, scene.digest
        )
    assert f"refuses {DENIED[call]}: " in refused.value.message
    assert refused.value.code == "RIVET_STORE_DENIED"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prefix": "s3://absent@x/p"}, "NoSuchBucket"),
        ({"secrets": "wrong"}, "SignatureDoesNotMatch"),
    ],
)
def test_what_is_wrong_with_a_destination_is_named(
    versitygw: Versitygw, bucket: str, change: dict[str, object], said: str
) -> None:
    connection = versitygw.connection(bucket, "p")
    if "secrets" in change:
        change = {"secrets": {**connection.secrets, "secret_key_env": change["secrets"]}}
    connection = replace(connection, **change)  # type: ignore[arg-type]
    with pytest.raises(DestinationRefused, match=said) as refused:
        registry.open_destination(connection).check()
    assert refused.value.hint
    assert versitygw.secret_key not in str(refused.value)


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
    receipt = scene.here.stage(scene.local, scene.path, scene.digest)
    versitygw.restart()
    assert scene.here.publish(receipt, scene.path, scene.digest) is Presence.VISIBLE
