"""Names that come from outside are checked; spool folders say whose they are."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rivet_fleet.errors import DestinationRefused
from rivet_fleet.execution.durable import (
    SpoolOwner,
    checked_path,
    create_spool,
    parse_spool_name,
    spool_name,
)
from tests.unit.contracts.test_places import give_away

UNSAFE = [
    "",
    "/etc/passwd",
    "../x",
    "a/../b",
    "a//b",
    "a/",
    ".",
    "a/.",
    "a\0b",
    "a\\b",
    "x" * 256,
    "\ud800",
]


@pytest.mark.parametrize("path", UNSAFE)
def test_an_unsafe_path_is_refused(path):
    with pytest.raises(DestinationRefused, match="unsafe object path"):
        checked_path(path)


@pytest.mark.parametrize("path", ["a", "run/part.parquet", "run/..hidden", "ü/é", "a/b/c"])
def test_a_safe_path_is_itself(path):
    assert checked_path(path) == path


@given(pid=st.integers(1, 2**31), started=st.integers(0, 10**12))
def test_a_spool_name_says_whose_it_is(pid, started):
    owner = SpoolOwner(pid=pid, pid_started_at_s=started / 100)
    assert parse_spool_name(spool_name(owner, "0123abcd")) == owner


@pytest.mark.parametrize("name", ["", "w-1", "w-1-2.34-xyz", "w-a-1.00-0123abcd", "data", "w--1-2"])
def test_other_names_are_nobodys(name):
    assert parse_spool_name(name) is None


def test_a_spool_is_new_and_private(tmp_path):
    first = create_spool(tmp_path / "deep" / "spool", 42, 17.5)
    second = create_spool(tmp_path / "deep" / "spool", 42, 17.5)
    assert first != second
    assert first.stat().st_mode & 0o777 == 0o700
    assert parse_spool_name(first.name) == SpoolOwner(pid=42, pid_started_at_s=17.5)


def test_a_spool_that_cannot_be_made_names_its_path(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DestinationRefused, match="file"):
        create_spool(tmp_path / "file", 1, 1.0)


@pytest.mark.parametrize("squatted", ["open to all", "a link"])
def test_a_root_that_somebody_else_made_first_is_refused(tmp_path, squatted):
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    root = shared / "rivet-fleet-spool-0"
    if squatted == "a link":
        (tmp_path / "elsewhere").mkdir()
        root.symlink_to(tmp_path / "elsewhere")
    else:
        root.mkdir()
        root.chmod(0o777)
    with pytest.raises(DestinationRefused, match="whoever made it") as caught:
        create_spool(root, 1, 1.0)
    assert caught.value.code == "RIVET_SPOOL_NOT_OURS"
    assert not any((tmp_path / "elsewhere").glob("*")) and not any(root.glob("w-*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
def test_a_root_of_another_user_is_refused(tmp_path):
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    root = shared / "rivet-fleet-spool-0"
    root.mkdir(mode=0o700)
    os.chown(root, 65534, 65534)
    with pytest.raises(DestinationRefused, match="belongs to user 65534"):
        create_spool(root, 1, 1.0)


def test_a_root_below_a_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    """Who owns a folder on the way may exchange what lies in it at any moment."""
    shared = tmp_path / "tmp"
    (shared / "theirs").mkdir(parents=True)
    shared.chmod(0o1777)
    give_away(shared / "theirs", monkeypatch)
    with pytest.raises(DestinationRefused, match="theirs belongs to user") as caught:
        create_spool(shared / "theirs" / "spool", 1, 1.0)
    assert caught.value.code == "RIVET_SPOOL_NOT_OURS"
    assert not (shared / "theirs" / "spool").exists()


def test_a_root_in_a_folder_of_ones_own_may_be_anything(tmp_path):
    tmp_path.chmod(0o755)
    root = tmp_path / "volume"
    root.mkdir()
    root.chmod(0o777)
    assert create_spool(root, 1, 1.0).is_dir()
    fresh = tmp_path / "fresh"
    create_spool(fresh, 1, 1.0)
    assert fresh.stat().st_mode & 0o777 == 0o700
