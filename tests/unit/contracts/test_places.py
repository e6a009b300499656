"""Where everybody may write, what somebody else made first is not taken for one's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rivet_fleet.contracts import places
from rivet_fleet.contracts.places import make_own, make_private, sharer_of, stranger_at

STRANGER = 65534


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``path`` is another user's from now on; who is not root becomes another user instead."""
    if os.geteuid() == 0:
        os.chown(path, STRANGER, STRANGER, follow_symlinks=False)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: STRANGER)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder as ``/tmp`` is."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


@pytest.mark.parametrize("below", ["", "spool", "a/b/spool"])
def test_a_folder_of_somebody_else_on_the_way_is_found(
    shared: Path, below: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = shared / "theirs"
    (theirs / below).mkdir(parents=True)
    give_away(theirs, monkeypatch)
    assert f"{theirs} belongs to user" in (stranger_at(theirs / below) or "")
    assert f"{theirs} belongs to user" in (stranger_at(theirs / below / "not" / "there") or "")


def test_a_link_does_not_lead_past_it(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = shared / "theirs"
    theirs.mkdir()
    (tmp_path / "scratch").symlink_to(theirs)
    give_away(theirs, monkeypatch)
    assert f"{theirs} belongs to user" in (stranger_at(tmp_path / "scratch" / "spool") or "")


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert stranger_at(tmp_path / "a") is None


def test_what_is_ones_own_may_lie_there(shared: Path, tmp_path: Path) -> None:
    make_private(shared / "mine" / "spool")
    assert stranger_at(shared / "mine" / "spool") is None
    assert stranger_at(shared / "nothing" / "yet") is None
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume").chmod(0o777)
    assert stranger_at(tmp_path / "volume") is None


@pytest.mark.parametrize(("mode", "below"), [(0o1777, ""), (0o777, ""), (0o777, "mine/deep")])
def test_a_folder_in_which_others_may_take_a_name_is_found(
    tmp_path: Path, mode: int, below: str
) -> None:
    """Without a sticky bit also one that lies in it may be given another name, and replaced."""
    shared = tmp_path / "shared"
    (shared / below).mkdir(parents=True)
    shared.chmod(mode)
    (tmp_path / "linked").symlink_to(shared / below)
    (tmp_path / "file").symlink_to(shared / below / "file")
    for way in (shared / below / "file", tmp_path / "linked" / "file", tmp_path / "file"):
        assert "everybody may write in" in (sharer_of(way) or "")


@pytest.mark.parametrize("where", ["shared", "deep/shared"])
def test_a_link_between_two_links_is_looked_at(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither as it is written nor where it ends: but it is there that it can be led elsewhere."""
    own, shared = tmp_path / "own", tmp_path / where
    own.mkdir()
    shared.mkdir(parents=True)
    shared.chmod(0o1777)
    for last in ("file", "folder"):
        (shared / last).symlink_to(own / last)
        # A link may be relative, and climb.
        (tmp_path / last).symlink_to(f"own/../{where}/{last}")
    (own / "folder").mkdir()
    assert f"everybody may write in {shared}" in (sharer_of(tmp_path / "file") or "")
    shared.chmod(0o777)
    assert f"everybody may write in {shared}" in (sharer_of(tmp_path / "folder" / "x") or "")
    give_away(shared / "folder", monkeypatch)
    assert f"{shared / 'folder'} belongs to" in (stranger_at(tmp_path / "folder" / "x") or "")


def test_a_folder_of_ones_own_is_nobody_elses(shared: Path, tmp_path: Path) -> None:
    (shared / "mine").mkdir(mode=0o700)
    assert sharer_of(shared / "mine" / "file") is None
    (tmp_path / "group").mkdir()
    (tmp_path / "group").chmod(0o2775)
    assert sharer_of(tmp_path / "group" / "file") is None


def test_a_folder_of_another_user_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o755)
    give_away(theirs, monkeypatch)
    assert f"{theirs} belongs to user" in (sharer_of(theirs / "file") or "")


def test_what_somebody_makes_between_two_looks_is_found(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faster(folder: Path) -> None:
        folder.mkdir()
        give_away(folder, monkeypatch)

    monkeypatch.setattr(places, "make_private", faster)
    assert "belongs to user" in (make_own(shared / "theirs") or "")


def test_every_folder_that_is_made_is_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_private(tmp_path / "a" / "b")
        make_private(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert [oct(p.stat().st_mode & 0o777) for p in (tmp_path / "a", tmp_path / "a" / "b")] == [
        "0o700",
        "0o700",
    ]
