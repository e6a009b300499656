"""Links that somebody put into a destination: nothing is written, shown or removed behind one."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rivet_fleet.contracts.destination import DestinationConnection
from rivet_fleet.contracts.manifest import PartDigest, Receipt
from rivet_fleet.errors import DataIntegrityError, DestinationRefused
from rivet_fleet.execution import registry
from rivet_fleet.execution.destination import Destination, Presence
from rivet_fleet.execution.folders import Tree
from rivet_fleet.execution.parts import digest_file
from rivet_fleet.verification.gc import sweep_staged

PATH = "run-1/orders-c000001-p000-f1.parquet"
STAGED = f"{PATH}.0123456789abcdef"
RECEIPT: Receipt = {"kind": "local", "staged": STAGED}
BODY = b"one part"


def opened(prefix: Path, anchor: Path | None = None) -> Destination:
    """``anchor``: what the user has written out; the whole prefix unless it is given."""
    written = None if anchor is None else str(anchor)
    return registry.open_destination(
        DestinationConnection(kind="local", prefix=str(prefix), anchor=written)
    )


def a_part(folder: Path) -> tuple[Path, PartDigest]:
    path = folder / "spooled"
    path.write_bytes(BODY)
    return path, digest_file(path, 1)


VERBS: dict[str, Callable[[Destination, Path], object]] = {
    "check": lambda one, folder: one.check(),
    "stage": lambda one, folder: one.stage(*_with(a_part(folder))),
    "look": lambda one, folder: one.look(RECEIPT, PATH, a_part(folder)[1]),
    "prove": lambda one, folder: one.prove(PATH, a_part(folder)[1]),
    "publish": lambda one, folder: one.publish(RECEIPT, PATH, a_part(folder)[1]),
    "discard": lambda one, folder: one.discard(RECEIPT, PATH),
    "remove": lambda one, folder: one.remove(PATH),
    "put": lambda one, folder: one.put_atomic("run-1/manifest.json", b"{}"),
    "put new": lambda one, folder: one.put_new("run-1/manifest.json", b"{}"),
    "read": lambda one, folder: one.read(PATH, 100),
    "open": lambda one, folder: _with_open(one),
    "list": lambda one, folder: list(one.list_visible("run-1")),
    "list staged": lambda one, folder: list(one.list_staged()),
    "sweep": lambda one, folder: sweep_staged(one, set, min_age_s=0.0),
}
STAGING = ("stage", "look", "publish", "discard", "put", "put new")
VISIBLE = ("look", "prove", "publish", "remove", "put", "put new", "read", "open", "list")
CASES = [
    *((".staging", verb) for verb in (*STAGING, "check", "list staged", "sweep")),
    *((".staging/run-1", verb) for verb in STAGING),
    *(("run-1", verb) for verb in VISIBLE),
]


def _with(part: tuple[Path, PartDigest]) -> tuple[Path, str, PartDigest]:
    return part[0], PATH, part[1]


def _with_open(one: Destination) -> None:
    with one.local_copy(PATH):
        pass


def outside(folder: Path) -> Path:
    """Somebody else's folder, with everything that a verb of ours could want to find there."""
    for name in (PATH, STAGED, STAGED.partition("/")[2], PATH.partition("/")[2]):
        place = folder / "outside" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(BODY)
        os.utime(place, (0, 0))
    return folder / "outside"


def seen(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*") if p.is_file()
    }


@pytest.mark.parametrize(("link", "verb"), CASES)
def test_no_verb_goes_behind_a_link(tmp_path: Path, link: str, verb: str) -> None:
    theirs, prefix = outside(tmp_path), tmp_path / "out"
    before = seen(theirs)
    (prefix / link).parent.mkdir(parents=True)
    (prefix / link).symlink_to(theirs)
    with pytest.raises(DestinationRefused) as refused:
        VERBS[verb](opened(prefix), tmp_path)
    assert refused.value.code == "RIVET_DESTINATION_LINK"
    assert str(prefix / link) in refused.value.message
    assert "remove the link" in (refused.value.hint or "")
    assert seen(theirs) == before


@pytest.mark.parametrize("link", ["orders", "orders/2026-01-02"])
@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_goes_behind_a_link_at_a_placeholders_place(
    tmp_path: Path, link: str, verb: str
) -> None:
    """Who may write in the user's own root knows tomorrow's folder by name."""
    theirs, anchor = outside(tmp_path), tmp_path / "out"
    before = {p: p.stat().st_mtime_ns for p in (theirs, *theirs.rglob("*"))}
    (anchor / link).parent.mkdir(parents=True)
    below = theirs / Path("orders/2026-01-02").relative_to(link)
    below.mkdir(parents=True, exist_ok=True)
    before = {p: p.stat().st_mtime_ns for p in (theirs, *theirs.rglob("*"))}
    (anchor / link).symlink_to(theirs)
    with pytest.raises(DestinationRefused) as refused:
        VERBS[verb](opened(anchor / "orders" / "2026-01-02", anchor), tmp_path)
    assert refused.value.code == "RIVET_DESTINATION_LINK"
    assert str(anchor / link) in refused.value.message
    assert {p: p.stat().st_mtime_ns for p in (theirs, *theirs.rglob("*"))} == before


def test_the_way_to_a_prefix_need_not_be_listed(tmp_path: Path) -> None:
    """Its levels are made where they are missing, and only passed where they are there."""
    (tmp_path / "out").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "out")
    destination = opened(tmp_path / "linked" / "orders" / "today", tmp_path / "linked")
    destination.check()
    part, digest = a_part(tmp_path)
    receipt = destination.stage(part, PATH, digest)
    (tmp_path / "out").chmod(0o311)
    try:
        assert destination.publish(receipt, PATH, digest) is Presence.VISIBLE
    finally:
        (tmp_path / "out").chmod(0o755)
    assert (tmp_path / "out" / "orders" / "today" / PATH).read_bytes() == BODY
    unused = opened(tmp_path / "linked" / "customers" / "today", tmp_path / "linked")
    with unused.rehearsal() as tried:
        tried.check()
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["orders"]


@pytest.mark.parametrize(
    ("prefix", "anchor"),
    [("out", "elsewhere"), ("out/../x", "out"), ("out", "out/deeper")],
)
def test_a_prefix_beside_its_anchor_is_refused(tmp_path: Path, prefix: str, anchor: str) -> None:
    with pytest.raises(DestinationRefused, match="is no folder below"):
        opened(tmp_path / prefix, tmp_path / anchor)
    with pytest.raises(DestinationRefused, match="is no folder below"):
        opened(Path("file:/data/out"))


def test_listings_leave_links_out(tmp_path: Path) -> None:
    theirs, prefix = outside(tmp_path), tmp_path / "out"
    before = seen(theirs)
    for link in (".staging/run-1", "run-1"):
        (prefix / link).parent.mkdir(parents=True, exist_ok=True)
        (prefix / link).symlink_to(theirs)
    destination = opened(prefix)
    assert list(destination.list_visible()) == []
    assert sweep_staged(destination, set, min_age_s=0.0) == []
    assert seen(theirs) == before


@pytest.mark.parametrize("verb", ["stage", "put", "put new", "publish"])
def test_a_link_that_takes_a_folders_place_in_between_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """The folder was there when it was looked at; the next instant it is a link."""
    theirs, prefix = outside(tmp_path), tmp_path / "out"
    before, real = seen(theirs), Tree.make
    destination = opened(prefix)
    part, digest = a_part(tmp_path)
    receipt = destination.stage(part, PATH, digest) if verb == "publish" else RECEIPT

    def swapped(tree: Tree, path: Path, **how: Path | None) -> bool:
        made = real(tree, path, **how)
        path.rename(path.with_name("moved"))
        path.symlink_to(theirs)
        return made

    monkeypatch.setattr(Tree, "make", swapped)
    verbs: dict[str, Callable[[], object]] = {
        "stage": lambda: destination.stage(part, PATH, digest),
        "put": lambda: destination.put_atomic("run-1/manifest.json", b"{}"),
        "put new": lambda: destination.put_new("run-1/manifest.json", b"{}"),
        "publish": lambda: destination.publish(receipt, PATH, digest),
    }
    with pytest.raises(DestinationRefused, match="is a symbolic link"):
        verbs[verb]()
    assert seen(theirs) == before


def test_the_users_own_root_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    destination = opened(tmp_path / "out")
    part, digest = a_part(tmp_path)
    receipt = destination.stage(part, PATH, digest)
    assert destination.publish(receipt, PATH, digest) is Presence.VISIBLE
    assert (tmp_path / "real" / PATH).read_bytes() == BODY


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_is_no_file_is_no_object(tmp_path: Path, kind: str) -> None:
    """A link where a file should be is neither read nor waited for; a new manifest replaces it."""
    theirs, prefix = outside(tmp_path), tmp_path / "out"
    place = prefix / "run-1" / "manifest.json"
    place.parent.mkdir(parents=True)
    place.symlink_to(theirs / PATH) if kind == "link" else os.mkfifo(place)
    destination = opened(prefix)
    assert destination.read("run-1/manifest.json", 100) is None
    with pytest.raises(DataIntegrityError), destination.local_copy("run-1/manifest.json"):
        pass
    assert not destination.put_new("run-1/manifest.json", b"{}")
    destination.put_atomic("run-1/manifest.json", b"{}")
    assert destination.read("run-1/manifest.json", 100) == b"{}"
    assert (theirs / PATH).read_bytes() == BODY


@pytest.mark.parametrize("moved", ["renamed", "copied"])
def test_a_link_in_the_place_of_a_spooled_file_is_not_staged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: str
) -> None:
    """The digest's bytes, but somebody else's file: neither it nor the link becomes a part."""
    theirs, prefix = outside(tmp_path), tmp_path / "out"
    before = seen(theirs)
    part, digest = a_part(tmp_path)
    part.unlink()
    part.symlink_to(theirs / PATH)
    if moved == "copied":

        def other_filesystem(*_args: object, **_named: object) -> None:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

        monkeypatch.setattr(os, "rename", other_filesystem)
    destination = opened(prefix)
    with pytest.raises(DestinationRefused):
        destination.stage(part, PATH, digest)
    assert list(destination.list_staged()) == []
    assert seen(theirs) == before
