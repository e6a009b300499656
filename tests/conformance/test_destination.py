"""The destination contract, run against every destination there is, and the models of stores."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import pytest

from rivet_fleet.contracts import killpoints
from rivet_fleet.contracts.killpoints import Arming, KillAction, KillPoint, KillPointReached
from rivet_fleet.contracts.manifest import PartDigest, Receipt, receipt_key
from rivet_fleet.contracts.plan import DestinationPlan
from rivet_fleet.errors import DataIntegrityError, DestinationRefused
from rivet_fleet.execution import objects, registry
from rivet_fleet.execution.destination import Destination, Presence
from rivet_fleet.execution.destinations import local as local_destination
from rivet_fleet.execution.parts import digest_file, fingerprint_bytes
from rivet_fleet.verification.gc import sweep_staged
from tests.model import destination as memory_destination
from tests.model.destination import DESTINATION_NAME, open_destination
from tests.model.objects import Bucket, destination_of

PATH = "run-1/orders-c000001-p000-f1.parquet"
OBJECTS = {"objects": True, "objects without conditions": False}
"""Models of stores → whether they know conditional writes."""
SERVERS = {"s3": "versitygw", "azure": "blob_storage", "gcs": "gcs"}
"""Kinds that need one → its fixture."""
SEEN_NOWHERE = {"s3": (Presence.MISSING,)}
"""versitygw gives an upload another name while it completes it: for an instant it has neither. A
part that is taken for lost then is read again under a fence of its own."""
MEETING = ("azure",)
"""Stores that cannot keep two uploads of one name apart."""
KINDS = (
    *(name for name, kind in registry.destination_kinds().items() if kind.through is None),
    DESTINATION_NAME,
    *OBJECTS,
)
_numbers = itertools.count()


@dataclass(frozen=True)
class Place:
    """One prefix; ``open`` is another process's view of it."""

    kind: str
    prefix: str
    spool: Path
    bucket: Bucket = field(default_factory=Bucket)
    opened: Callable[[str], Destination] | None = None
    """Prefix → the destination, of a kind that needs a server."""

    @property
    def rounds(self) -> int:
        """How often a race is run."""
        return 50 if self.opened is None else 4

    @property
    def exclusive(self) -> bool:
        """Whether a name that is free is given to one of those who ask at one moment."""
        return OBJECTS.get(self.kind, True)

    def open(self) -> Destination:
        if self.opened is not None:
            return self.opened(self.prefix.strip("/"))
        if self.kind in OBJECTS:
            return destination_of(self.bucket, f"objects://bucket{self.prefix}")
        return open_destination(DestinationPlan(kind=self.kind, prefix=self.prefix))

    def part(self, body: bytes = b"PAR1 one part PAR1") -> tuple[Path, PartDigest]:
        local = self.spool / f"part-{next(_numbers)}"
        local.write_bytes(body)
        return local, digest_file(local, 1)


@pytest.fixture(scope="module")
def opening(request) -> Callable[[str], Callable[[str], Destination]]:
    """Kind → prefix → a destination in one bucket."""

    @cache
    def of(kind: str) -> Callable[[str], Destination]:
        server = request.getfixturevalue(SERVERS[kind])
        bucket = server.make_bucket("suite")
        return lambda prefix: registry.open_destination(server.connection(bucket, prefix))

    return of


@pytest.fixture(params=KINDS)
def place(request, tmp_path, opening) -> Place:
    found = place_of(request.param, tmp_path)
    return replace(found, opened=opening(request.param)) if request.param in SERVERS else found


@pytest.fixture(params=OBJECTS)
def store_place(request, tmp_path) -> Place:
    return place_of(request.param, tmp_path)


def place_of(kind: str, folder: Path) -> Place:
    spool = folder / "spool"
    spool.mkdir()
    return Place(
        kind=kind,
        prefix=str(folder / "out" / "orders"),
        spool=spool,
        bucket=Bucket(conditional=OBJECTS.get(kind, True)),
    )


@pytest.fixture(autouse=True)
def disarmed():
    yield
    killpoints.arm(())


def die_at(point: KillPoint, action: Callable[[], object]) -> None:
    killpoints.arm((Arming(point=point, action=KillAction.ERROR),))
    with pytest.raises(KillPointReached):
        action()
    killpoints.arm(())


def visible(destination: Destination) -> dict[str, int]:
    return {info.path: info.size_bytes for info in destination.list_visible()}


def staged(destination: Destination) -> list[Receipt]:
    return [info.receipt for info in destination.list_staged()]


def test_check_leaves_nothing(place):
    destination = place.open()
    destination.check()
    assert (visible(destination), staged(destination)) == ({}, [])


def test_a_check_finds_out_whether_names_are_given_once(place):
    destination = place.open()
    destination.check()
    assert destination.exclusive is place.exclusive


def test_a_probe_that_dies_leaves_nothing_among_the_data_and_is_swept(store_place):
    """Every worker makes one, and any of them may be killed in it: as its bucket was then."""
    bucket, then = store_place.bucket, []
    bucket.answer = lambda _: then.append((dict(bucket.objects), dict(bucket.uploads)))
    store_place.open().check()
    assert [(len(objects), len(uploads)) for objects, uploads in then[:1]] == [(1, 1)]
    for bucket.objects, bucket.uploads in then:
        assert visible(store_place.open()) == {}
        sweep_staged(store_place.open(), set, min_age_s=0)
        assert (bucket.objects, bucket.uploads) == ({}, {})


def test_a_probe_that_a_sweep_has_taken_is_made_once_more(store_place):
    bucket, swept = store_place.bucket, []

    def sweep(verb: str) -> None:
        if verb == "complete" and len(swept) < 2:
            swept.extend(sweep_staged(store_place.open(), set, min_age_s=0))

    bucket.answer = sweep
    destination = store_place.open()
    destination.check()
    assert swept
    assert destination.exclusive in (store_place.exclusive, False)
    assert (bucket.objects, bucket.uploads) == ({}, {})


def test_a_store_that_gives_back_something_else_is_refused(store_place):
    class Corrupting(dict):
        def __setitem__(self, key, stored):
            super().__setitem__(key, replace(stored, body=b"x" * len(stored.body)))

    store_place.bucket.objects = Corrupting()
    with pytest.raises(DestinationRefused, match="does not give it back whole"):
        store_place.open().check()
    assert (store_place.bucket.objects, store_place.bucket.uploads) == ({}, {})


def test_staged_bytes_are_not_visible_and_are_listed(place):
    destination = place.open()
    local, digest = place.part()
    receipt = destination.stage(local, PATH, digest)
    assert visible(destination) == {}
    (info,) = destination.list_staged()
    assert receipt_key(info.receipt) == receipt_key(receipt)
    assert (info.path, info.size_bytes) == (PATH, digest.size_bytes)
    assert 0 <= info.age_s < 60
    assert destination.look(receipt, PATH, digest) is Presence.STAGED


def test_publish_makes_it_visible_whole_and_once(place):
    destination = place.open()
    local, digest = place.part()
    receipt = destination.stage(local, PATH, digest)
    assert destination.publish(receipt, PATH, digest) is Presence.VISIBLE
    assert visible(destination) == {PATH: digest.size_bytes}
    assert staged(destination) == []
    assert destination.look(receipt, PATH, digest) is Presence.VISIBLE
    assert destination.prove(PATH, digest) is Presence.VISIBLE


def test_publish_is_idempotent_from_anywhere(place):
    local, digest = place.part()
    receipt = place.open().stage(local, PATH, digest)
    for _ in range(3):
        assert place.open().publish(receipt, PATH, digest) is Presence.VISIBLE
    assert visible(place.open()) == {PATH: digest.size_bytes}


def test_a_part_of_no_bytes_can_be_published(place):
    local, digest = place.part(b"")
    receipt = place.open().stage(local, PATH, digest)
    assert place.open().publish(receipt, PATH, digest) is Presence.VISIBLE


def test_two_stagings_of_one_path_do_not_meet(place):
    destination = place.open()
    first, digest = place.part()
    second, _ = place.part()
    one = destination.stage(first, PATH, digest)
    two = destination.stage(second, PATH, digest)
    assert receipt_key(one) != receipt_key(two)
    destination.discard(one, PATH)
    met = Presence.MISSING if place.kind in MEETING else Presence.VISIBLE
    assert destination.publish(two, PATH, digest) is met
    assert destination.look(one, PATH, digest) is met


def test_a_spool_file_that_changed_is_refused(place):
    local, digest = place.part()
    local.write_bytes(b"other")
    with pytest.raises(DataIntegrityError):
        place.open().stage(local, PATH, digest)
    assert staged(place.open()) == []


@pytest.mark.parametrize("point", [KillPoint.STAGE_WRITTEN])
def test_dying_while_staging_shows_nothing_and_can_be_swept(place, point):
    local, digest = place.part()
    die_at(point, lambda: place.open().stage(local, PATH, digest))
    assert visible(place.open()) == {}
    (left,) = staged(place.open())
    place.open().discard(left, PATH)
    assert staged(place.open()) == []
    again, digest = place.part()
    receipt = place.open().stage(again, PATH, digest)
    assert place.open().publish(receipt, PATH, digest) is Presence.VISIBLE


def test_dying_while_publishing_is_finished_by_another(place):
    local, digest = place.part()
    receipt = place.open().stage(local, PATH, digest)
    die_at(KillPoint.PART_RENAMED, lambda: place.open().publish(receipt, PATH, digest))
    assert visible(place.open()) == {PATH: digest.size_bytes}
    assert place.open().look(receipt, PATH, digest) is Presence.VISIBLE
    assert place.open().publish(receipt, PATH, digest) is Presence.VISIBLE
    assert staged(place.open()) == []


def test_something_foreign_under_the_name_is_never_overwritten(place):
    destination = place.open()
    destination.check()  # from now on a condition alone stands before it, where there is one
    destination.put_atomic(PATH, b"somebody else's")
    local, digest = place.part()
    receipt = destination.stage(local, PATH, digest)
    assert destination.publish(receipt, PATH, digest) is Presence.FOREIGN
    assert destination.look(receipt, PATH, digest) is Presence.FOREIGN
    assert destination.read(PATH, 100) == b"somebody else's"


def test_something_foreign_of_equal_size_is_told_by_its_fingerprint(place):
    destination = place.open()
    local, digest = place.part(b"abc")
    destination.put_atomic(PATH, b"abd")
    receipt = destination.stage(local, PATH, digest)
    assert destination.publish(receipt, PATH, digest) is Presence.FOREIGN
    assert destination.prove(PATH, digest) is Presence.FOREIGN


def test_only_a_proof_reads_the_bytes(place, monkeypatch):
    """A look is asked of every part before a run ends: it costs what a name costs."""
    destination = place.open()
    local, digest = place.part()
    assert destination.prove(PATH, digest) is Presence.MISSING
    receipt = destination.stage(local, PATH, digest)
    assert destination.prove(PATH, digest) is Presence.MISSING
    destination.publish(receipt, PATH, digest)
    for module in (local_destination, memory_destination, objects):
        for name in ("fingerprint_file", "fingerprint_bytes", "fingerprint_blocks"):
            monkeypatch.setattr(module, name, _unread, raising=False)
    assert destination.look(receipt, PATH, digest) is Presence.VISIBLE
    with pytest.raises(AssertionError, match="read"):
        destination.prove(PATH, digest)


def _unread(*_: object) -> str:
    raise AssertionError("bytes were read")


def test_a_receipt_of_another_path_discards_nothing(place):
    destination = place.open()
    local, digest = place.part()
    receipt = destination.stage(local, PATH, digest)
    with pytest.raises(DestinationRefused):
        place.open().discard(receipt, PATH.replace("f1", "f2"))
    assert destination.publish(receipt, PATH, digest) is Presence.VISIBLE


def test_a_listing_gives_back_every_receipt(place):
    """So that a sweep can compare it with the ledger's: whole, and in any process."""
    destination = place.open()
    paths = [PATH, PATH.replace("p000", "p001"), PATH]
    if place.kind in MEETING:
        paths[2] = PATH.replace("p000", "p002")
    given: list[tuple[str, Receipt]] = []
    for path in paths:
        local, digest = place.part()
        given.append((path, destination.stage(local, path, digest)))
    listed = [(info.path, receipt_key(info.receipt)) for info in place.open().list_staged()]
    assert sorted(listed) == sorted((path, receipt_key(receipt)) for path, receipt in given)
    kept = receipt_key(given[0][1])
    assert len(sweep_staged(place.open(), lambda: {kept}, min_age_s=0)) == 2
    assert [receipt_key(receipt) for receipt in staged(place.open())] == [kept]


def test_a_neighbour_whose_name_begins_alike_is_another_place(place):
    """A store compares letters: ``orders`` begins ``orders_archive``."""
    neighbour = replace(place, prefix=f"{place.prefix}_archive").open()
    neighbour.put_atomic("a/1", b"theirs")
    local, digest = place.part()
    neighbour.stage(local, PATH, digest)
    assert (visible(place.open()), staged(place.open())) == ({}, [])
    assert sweep_staged(place.open(), set, min_age_s=0) == []
    assert (visible(neighbour), len(staged(neighbour))) == ({"a/1": 6}, 1)


def test_a_local_copy_is_given_back(place):
    """A download of every part of a large run would fill the disk."""
    destination = place.open()
    destination.put_atomic("m", b"bytes")
    with destination.local_copy("m") as copy:
        assert copy.read_bytes() == b"bytes"
    assert not copy.exists()
    with pytest.raises(ZeroDivisionError), destination.local_copy("m") as copy:
        raise ZeroDivisionError
    assert not copy.exists()
    assert destination.read("m", 5) == b"bytes"


def test_discarded_bytes_can_never_be_published(place):
    local, digest = place.part()
    receipt = place.open().stage(local, PATH, digest)
    place.open().discard(receipt, PATH)
    place.open().discard(receipt, PATH)
    assert place.open().look(receipt, PATH, digest) is Presence.MISSING
    assert place.open().publish(receipt, PATH, digest) is Presence.MISSING
    assert visible(place.open()) == {}


def test_a_visible_part_that_was_deleted_is_proven_lost(place):
    local, digest = place.part()
    receipt = place.open().stage(local, PATH, digest)
    place.open().publish(receipt, PATH, digest)
    place.open().remove(PATH)
    place.open().remove(PATH)
    assert place.open().look(receipt, PATH, digest) is Presence.MISSING
    assert place.open().publish(receipt, PATH, digest) is Presence.MISSING


@pytest.mark.parametrize("published_before", [False, True])
def test_reopening_discards_then_removes_and_nothing_comes_back(place, published_before):
    """F9: after discard and remove, no late publisher can make the old attempt visible."""
    local, digest = place.part()
    receipt = place.open().stage(local, PATH, digest)
    if published_before:
        place.open().publish(receipt, PATH, digest)
    reopener = place.open()
    reopener.discard(receipt, PATH)
    reopener.remove(PATH)
    assert place.open().publish(receipt, PATH, digest) is Presence.MISSING
    assert visible(place.open()) == {}


def in_threads(*actions: Callable[[], object]) -> list[object]:
    """Run all at once; their results, or the exception."""
    start, results = threading.Barrier(len(actions)), [None] * len(actions)

    def run(index: int, action: Callable[[], object]) -> None:
        start.wait()
        try:
            results[index] = action()
        except BaseException as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_racing_publishers_all_succeed(place):
    for number in range(place.rounds):
        path = f"run-1/part-{number}.parquet"
        local, digest = place.part(b"%d" % number)
        receipt = place.open().stage(local, path, digest)

        def publish(receipt=receipt, path=path, digest=digest):
            return place.open().publish(receipt, path, digest)

        seen = set(in_threads(publish, publish, publish))
        assert Presence.VISIBLE in seen
        assert seen <= {Presence.VISIBLE, *SEEN_NOWHERE.get(place.kind, ())}
        assert place.open().look(receipt, path, digest) is Presence.VISIBLE, "a later look decides"
    assert len(visible(place.open())) == place.rounds
    assert staged(place.open()) == []


def test_a_publisher_racing_a_reopening_never_leaves_the_old_part(place):
    for number in range(place.rounds):
        path = f"run-1/part-{number}.parquet"
        local, digest = place.part(b"%d" % number)
        receipt = place.open().stage(local, path, digest)
        opened, reopener = place.open(), place.open()

        def reopen(reopener=reopener, receipt=receipt, path=path):
            reopener.discard(receipt, path)
            reopener.remove(path)

        def publish(opened=opened, receipt=receipt, path=path, digest=digest):
            return opened.publish(receipt, path, digest)

        published, reopened = in_threads(publish, reopen)
        assert published in (Presence.VISIBLE, Presence.MISSING)
        assert reopened is None
    assert (visible(place.open()), staged(place.open())) == ({}, [])


def test_a_looker_never_misses_a_part_that_is_being_moved(place):
    for number in range(place.rounds):
        path = f"run-1/part-{number}.parquet"
        local, digest = place.part(b"%d" % number)
        receipt = place.open().stage(local, path, digest)

        def look(receipt=receipt, path=path, digest=digest):
            return {place.open().look(receipt, path, digest) for _ in range(10)}

        def publish(receipt=receipt, path=path, digest=digest):
            return place.open().publish(receipt, path, digest)

        seen, _ = in_threads(look, publish)
        assert seen <= {Presence.STAGED, Presence.VISIBLE, *SEEN_NOWHERE.get(place.kind, ())}


def test_small_objects_are_replaced_whole(place):
    destination = place.open()
    assert destination.read("manifest.json", 10) is None
    destination.put_atomic("manifest.json", b"old")
    place.open().put_atomic("manifest.json", b"newer")
    assert destination.read("manifest.json", 5) == b"newer"
    assert visible(destination) == {"manifest.json": 5}
    assert staged(destination) == []


def test_m7_a_reader_sees_the_old_or_the_new_bytes(place):
    bodies = {bytes([letter]) * 100_000 for letter in b"abcdef"}
    place.open().put_atomic("m", b"a" * 100_000)

    def write():
        for body in sorted(bodies):
            place.open().put_atomic("m", body)

    def read():
        return {place.open().read("m", 200_000) for _ in range(50)}

    *_, seen = in_threads(write, write, read)
    assert seen <= bodies


def test_a_name_is_given_to_one_new_object(place):
    """Of all who found none; nothing of the others is left."""
    bodies = [str(number).encode() * 50_000 for number in range(4)]
    won = in_threads(*(lambda body=body: place.open().put_new("m", body) for body in bodies))
    destination = place.open()
    kept = destination.read("m", 1_000_000)
    if place.exclusive:
        assert sorted(won) == [False, False, False, True]
        assert kept == bodies[won.index(True)]
    else:
        assert True in won and kept in bodies
    assert not destination.put_new("m", b"late")
    assert destination.put_new("a/n", b"another")
    assert visible(destination) == {"m": 50_000, "a/n": 7}
    assert staged(destination) == []


def test_reading_is_capped(place):
    destination = place.open()
    destination.put_atomic("m", b"12345")
    with pytest.raises(DataIntegrityError):
        destination.read("m", 4)


def test_listing_knows_folders(place):
    destination = place.open()
    for path in ("a/1", "a/b/2", "ab/3", "4"):
        destination.put_atomic(path, b"x")
    assert set(visible(destination)) == {"a/1", "a/b/2", "ab/3", "4"}
    assert {i.path for i in destination.list_visible("a")} == {"a/1", "a/b/2"}
    assert list(destination.list_visible("none")) == []


def test_an_object_that_is_not_there_cannot_be_opened(place):
    with pytest.raises(DataIntegrityError), place.open().local_copy("nothing"):
        pass


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "a\0b", ""])
def test_unsafe_paths_are_refused_everywhere(place, path):
    destination = place.open()
    local, digest = place.part()
    receipt = destination.stage(local, PATH, digest)
    for action in (
        lambda: destination.stage(local, path, digest),
        lambda: destination.publish(receipt, path, digest),
        lambda: destination.look(receipt, path, digest),
        lambda: destination.prove(path, digest),
        lambda: destination.discard(receipt, path),
        lambda: destination.remove(path),
        lambda: destination.put_atomic(path, b""),
        lambda: destination.put_new(path, b""),
        lambda: destination.read(path, 1),
        lambda: destination.local_copy(path).__enter__(),
    ):
        with pytest.raises(DestinationRefused):
            action()


@pytest.mark.parametrize(
    "receipt", [{}, {"kind": "elsewhere", "staged": "x"}, {"kind": None}, {"staged": 7}]
)
def test_a_receipt_from_elsewhere_is_refused(place, receipt):
    _, digest = place.part()
    for action in (
        lambda: place.open().publish(receipt, PATH, digest),
        lambda: place.open().discard(receipt, PATH),
    ):
        with pytest.raises(DestinationRefused):
            action()


def test_a_uri_names_the_place(place):
    assert place.open().uri.endswith("/out/orders")


def test_fingerprints_agree_with_the_bytes(place):
    local, digest = place.part(b"body")
    assert digest.fingerprint == fingerprint_bytes(b"body")
    assert local.read_bytes() == b"body"


def test_free_space_is_a_number_or_unknown(place) -> None:
    destination = place.open()
    destination.check()
    free = destination.free_bytes()
    assert free is None or free > 0


def test_what_a_store_keeps_aside_is_no_object_of_ours(store_place):
    """Some stores can hide nothing: their staged bytes lie where everybody can list them."""
    destination = store_place.open()
    key = f"{store_place.prefix.strip('/')}/.staging/run-1/part"
    store_place.bucket.put(key, b"staged")
    assert visible(destination) == {}
    with pytest.raises(DestinationRefused, match="staging folder"):
        destination.put_atomic(".staging/run-1/part", b"")


def test_bytes_that_changed_behind_their_digest_are_not_staged(store_place):
    destination = store_place.open()
    local, digest = store_place.part(b"as digested")
    local.write_bytes(b"as it is ..")
    with pytest.raises(DataIntegrityError, match="changed"):
        destination.stage(local, PATH, digest)
    assert staged(destination) == []


def test_a_bucket_alone_is_no_place(store_place):
    with pytest.raises(DestinationRefused, match="whole bucket"):
        destination_of(store_place.bucket, "objects://bucket/")


def test_other_tools_uploads_are_no_garbage_of_ours(store_place):
    """A bucket lists everybody's uploads below a prefix."""
    key = f"{store_place.prefix.strip('/')}/backup/archive.tar"
    store_place.bucket.begin(key, {})
    assert sweep_staged(store_place.open(), set, min_age_s=0) == []
    assert [upload.key for upload in store_place.bucket.uploads.values()] == [key]


@pytest.mark.parametrize("verb", ["complete", "abort"])
def test_an_answer_that_is_lost_is_looked_for(store_place, verb):
    """The store has done it and nobody was told: a look says so, and no guess."""
    destination = store_place.open()
    local, digest = store_place.part()
    receipt = destination.stage(local, PATH, digest)

    def lost(asked: str) -> None:
        if asked == verb:
            raise ConnectionError

    store_place.bucket.answer = lost
    if verb == "complete":
        assert destination.publish(receipt, PATH, digest) is Presence.VISIBLE
    else:
        destination.discard(receipt, PATH)
        assert destination.publish(receipt, PATH, digest) is Presence.MISSING
