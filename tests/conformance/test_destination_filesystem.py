"""What only a filesystem can do to a destination: full, read-only, without links, killed -9."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rivet_fleet.contracts.codec import to_plain
from rivet_fleet.contracts.destination import DestinationConnection
from rivet_fleet.contracts.killpoints import KillPoint
from rivet_fleet.errors import (
    DestinationFull,
    DestinationRefused,
    DestinationUnavailable,
)
from rivet_fleet.execution import durable, registry
from rivet_fleet.execution.destination import Presence
from rivet_fleet.execution.destinations import local as local_destination
from rivet_fleet.execution.durable import create_spool, creates_only, rehearsed_spool
from rivet_fleet.execution.parts import digest_file

PATH = "run-1/orders-c000001-p000-f1.parquet"
NOBODY = 65534


def opened(prefix: Path, *, anchor: Path | None = None, **options):
    begun = None if anchor is None else str(anchor)
    return registry.open_destination(
        DestinationConnection(kind="local", prefix=str(prefix), anchor=begun), **options
    )


def a_part(folder: Path, body: bytes = b"one part"):
    path = folder / "spooled"
    path.write_bytes(body)
    return path, digest_file(path, 1)


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_who_only_looked_leaves_no_folder(tmp_path):
    with opened(tmp_path / "new" / "out").rehearsal() as tried:
        tried.check()
        assert tried.free_bytes()
        assert not (tmp_path / "new").exists()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with opened(tmp_path / "out").rehearsal() as tried:
        tried.check()
        (tmp_path / "out" / ".staging" / "somebody's").write_bytes(b"")
    assert files(tmp_path) == ["out/.staging/somebody's"]


@pytest.mark.parametrize("there", ["", "new", "new/out"])
def test_a_run_that_starts_beside_who_only_looks_keeps_its_folder(tmp_path, there):
    """Its destination and its spool are still empty, and its workers make no root."""
    (tmp_path / there).mkdir(parents=True, exist_ok=True)
    with (
        opened(tmp_path / "new" / "out").rehearsal() as tried,
        rehearsed_spool(tmp_path / "new" / "spool") as (folder, free),
    ):
        tried.check()
        opened(tmp_path / "new" / "out").check()
        durable.make_root(tmp_path / "new" / "spool")
        assert creates_only(tried, folder) and free > 0
    opened(tmp_path / "new" / "out", create=False).check()
    assert (tmp_path / "new" / "spool").is_dir()
    found = sorted(path.name for path in tmp_path.rglob("*") if "doctor" in path.name)
    assert found == []


def test_a_spool_is_made_again_where_its_root_vanishes(tmp_path, monkeypatch):
    real, left = durable.make_root, [3]

    def tidied(root):
        real(root)
        if left[0]:
            left[0] -= 1
            root.rmdir()

    monkeypatch.setattr(durable, "make_root", tidied)
    assert create_spool(tmp_path / "spool", 1, 1.0).is_dir()


def test_a_full_destination_is_full_and_keeps_no_half(small_filesystem, tmp_path):
    """ENOSPC of a real filesystem; the spool is on another one, so the bytes are copied."""
    path, digest = a_part(tmp_path, os.urandom(3_000_000))
    destination = opened(small_filesystem / "out")
    destination.check()
    with pytest.raises(DestinationFull, match=str(small_filesystem)) as raised:
        destination.stage(path, PATH, digest)
    assert raised.value.hint
    assert path.exists()
    assert files(small_filesystem) == []
    with pytest.raises(DestinationFull):
        destination.put_atomic("manifest.json", bytes(3_000_000))
    assert files(small_filesystem) == []
    small, digest = a_part(tmp_path)
    receipt = destination.stage(small, PATH, digest)
    assert destination.publish(receipt, PATH, digest) is Presence.VISIBLE
    assert not small.exists()


def test_one_filesystem_means_a_move_and_not_a_copy(tmp_path):
    path, digest = a_part(tmp_path)
    inode = path.stat().st_ino
    destination = opened(tmp_path / "out")
    receipt = destination.stage(path, PATH, digest)
    destination.publish(receipt, PATH, digest)
    assert (tmp_path / "out" / PATH).stat().st_ino == inode
    assert not path.exists()


def test_a_read_only_filesystem_is_refused(read_only_filesystem, tmp_path):
    destination = opened(read_only_filesystem / "out")
    with pytest.raises(DestinationRefused, match="read-only"):
        destination.check()
    path, digest = a_part(tmp_path)
    with pytest.raises(DestinationRefused):
        destination.stage(path, PATH, digest)
    assert path.exists()


CHECK = """
import os, sys
from rivet_fleet.contracts.destination import DestinationConnection
from rivet_fleet.errors import DestinationRefused
from rivet_fleet.execution import registry
destination = registry.open_destination(DestinationConnection(kind="local", prefix=sys.argv[1]))
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    destination.check()
except DestinationRefused as refused:
    print(refused.message, refused.hint)
"""


def test_a_folder_of_somebody_else_is_refused_and_named(tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    folder.chmod(0o555)
    for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(parent.stat().st_mode | 0o055)
    found = subprocess.run([sys.executable, "-c", CHECK, folder], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert str(folder) in found.stdout
    assert "permission denied" in found.stdout


def test_a_file_where_the_prefix_should_be_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(DestinationRefused, match="not a folder"):
        opened(tmp_path / "out").check()


def test_folders_without_end_are_refused_by_name(tmp_path):
    """Each level costs an open file: a thousand of them would be the end of the process."""
    (tmp_path / "/".join(["d"] * 60)).mkdir(parents=True)
    assert list(opened(tmp_path).list_visible()) == []
    (tmp_path / "/".join(["d"] * 80)).mkdir(parents=True)
    with pytest.raises(DestinationRefused, match="more than 64 deep"):
        list(opened(tmp_path).list_visible())
    (tmp_path / ".staging" / "/".join(["d"] * 80)).mkdir(parents=True)
    with pytest.raises(DestinationRefused, match="more than 64 deep"):
        list(opened(tmp_path).list_staged())


def test_readers_never_create_the_prefix(tmp_path):
    destination = opened(tmp_path / "absent", create=False)
    assert list(destination.list_visible()) == []
    assert list(destination.list_staged()) == []
    assert destination.read("manifest.json", 10) is None
    with pytest.raises(DestinationRefused, match="does not exist"):
        destination.put_atomic("manifest.json", b"")
    assert not (tmp_path / "absent").exists()


def test_corrupted_staged_bytes_are_never_published_by_another(tmp_path):
    path, digest = a_part(tmp_path, b"good")
    receipt = opened(tmp_path / "out").stage(path, PATH, digest)
    (tmp_path / "out" / ".staging" / receipt["staged"]).write_bytes(b"evil")
    other = opened(tmp_path / "out")
    assert other.publish(receipt, PATH, digest) is Presence.MISSING
    assert list(other.list_visible()) == []


def test_truncated_staged_bytes_are_not_published_even_by_the_stager(tmp_path):
    path, digest = a_part(tmp_path, b"good")
    destination = opened(tmp_path / "out")
    receipt = destination.stage(path, PATH, digest)
    (tmp_path / "out" / ".staging" / receipt["staged"]).write_bytes(b"go")
    assert destination.publish(receipt, PATH, digest) is Presence.MISSING


def test_a_link_under_the_name_is_foreign_and_not_followed_by_listings(tmp_path):
    path, digest = a_part(tmp_path)
    destination = opened(tmp_path / "out")
    receipt = destination.stage(path, PATH, digest)
    (tmp_path / "out" / "run-1").mkdir()
    (tmp_path / "out" / PATH).symlink_to(tmp_path / "nowhere")
    assert destination.publish(receipt, PATH, digest) is Presence.FOREIGN
    assert list(destination.list_visible()) == []


def test_a_filesystem_without_hard_links_still_publishes(tmp_path, monkeypatch):
    def no_links(*_args, **_more):
        raise OSError(errno.EPERM, "no hard links here")

    path, digest = a_part(tmp_path)
    destination = opened(tmp_path / "out")
    receipt = destination.stage(path, PATH, digest)
    monkeypatch.setattr(local_destination.os, "link", no_links)
    assert destination.publish(receipt, PATH, digest) is Presence.VISIBLE
    assert destination.publish(receipt, PATH, digest) is Presence.VISIBLE
    assert files(tmp_path / "out") == [PATH]
    again, digest = a_part(tmp_path, b"another")
    receipt = destination.stage(again, PATH, digest)
    assert destination.publish(receipt, PATH, digest) is Presence.FOREIGN
    assert (tmp_path / "out" / PATH).read_bytes() == b"one part"
    assert destination.put_new("manifest.json", b"one")
    assert not destination.put_new("manifest.json", b"another")
    assert destination.read("manifest.json", 100) == b"one"


@pytest.mark.parametrize("failing_call", range(1, 5))
def test_a_failed_fsync_is_an_error_and_the_staged_bytes_are_given_up(
    tmp_path, monkeypatch, failing_call
):
    calls = []
    real = os.fsync

    def failing(handle):
        calls.append(handle)
        if len(calls) == failing_call:
            raise OSError(errno.EIO, "I/O error")
        real(handle)

    destination = opened(tmp_path / "out")
    destination.check()
    path, digest = a_part(tmp_path)
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(DestinationUnavailable, match="Input/output error"):
        destination.stage(path, PATH, digest)
    assert files(tmp_path / "out") == []


@pytest.mark.parametrize("failing_call", [1, 2])
def test_a_failed_fsync_while_publishing_is_an_error_and_can_be_repeated(
    tmp_path, monkeypatch, failing_call
):
    path, digest = a_part(tmp_path)
    destination = opened(tmp_path / "out")
    receipt = destination.stage(path, PATH, digest)
    calls = []

    def failing(handle):
        calls.append(handle)
        if len(calls) >= failing_call:
            raise OSError(errno.EIO, "I/O error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing)
        with pytest.raises(DestinationUnavailable):
            destination.publish(receipt, PATH, digest)
    assert opened(tmp_path / "out").publish(receipt, PATH, digest) is Presence.VISIBLE


@pytest.fixture
def synced(monkeypatch):
    """What is fsynced, in order."""
    found = []
    real = os.fsync

    def recording(handle):
        found.append(os.readlink(f"/proc/self/fd/{handle}"))
        real(handle)

    monkeypatch.setattr(os, "fsync", recording)
    return found


@pytest.mark.parametrize("levels", [0, 2])
def test_every_new_name_is_made_durable(tmp_path, synced, levels):
    """Each folder that got an entry on the way is fsynced after it got it, whether it stands in the
    prefix or a placeholder made it."""
    out = tmp_path / "a" / "out"
    path, digest = a_part(tmp_path)
    destination = opened(out, anchor=[out, *out.parents][levels])
    receipt = destination.stage(path, PATH, digest)
    staging = str(out / ".staging" / "run-1")
    file = str(out / ".staging" / receipt["staged"])
    assert {str(tmp_path), str(tmp_path / "a"), str(out), str(out / ".staging"), staging} <= set(
        synced
    )
    assert synced.index(file) < len(synced) - 1 - synced[::-1].index(staging)
    synced.clear()
    destination.publish(receipt, PATH, digest)
    assert {str(out / "run-1"), str(out)} <= set(synced)
    synced.clear()
    assert opened(out).publish(receipt, PATH, digest) is Presence.VISIBLE
    assert {str(out / PATH), str(out / "run-1"), str(out)} <= set(synced), "a witness does all"


def test_publishing_ones_own_bytes_waits_for_the_disk_once(tmp_path, synced):
    out = tmp_path / "out"
    destination = opened(out)
    for path in ("run-1/first", "run-1/second"):
        local, digest = a_part(tmp_path)
        receipt = destination.stage(local, path, digest)
        synced.clear()
        assert destination.publish(receipt, path, digest) is Presence.VISIBLE
    assert synced == [str(out / "run-1")]


def test_a_small_object_waits_for_its_bytes_and_for_its_name(tmp_path, synced):
    """The way to it once, and nothing of the name that it has meanwhile."""
    out = tmp_path / "out"
    destination = opened(out)
    for path in ("m", "run-1/m"):
        destination.put_atomic(path, b"1")
    assert {str(tmp_path), str(out), str(out / "run-1")} <= set(synced), "the way there"
    for path, folder in (("m", out), ("n", out), ("run-1/m", out / "run-1")):
        synced.clear()
        destination.put_atomic(path, b"2")
        written, named = synced
        assert written.startswith(str(out / ".staging" / path)) and named == str(folder)
    synced.clear()
    assert destination.put_new("run-1/n", b"1") and synced[1:] == [str(out / "run-1")]
    synced.clear()
    destination.put_atomic("run-2/summary.md", b"1", durable=False)
    (written,) = synced
    assert written.startswith(str(out / ".staging")), "its bytes are there before its name is"
    shutil.rmtree(out / "run-1")
    synced.clear()
    destination.put_atomic("run-1/m", b"3")
    assert synced[1:] == [str(out / "run-1"), str(out)], "somebody else had taken the folder away"
    destination.close()
    assert list((out / ".staging").iterdir()) == []


def test_a_discard_is_durable_whoever_removed_the_staged_name(tmp_path, synced):
    """F9: a power cut after a reopening must not bring back what could be published."""
    out = tmp_path / "out"
    destination = opened(out)
    local, digest = a_part(tmp_path)
    receipt = destination.stage(local, PATH, digest)
    destination.publish(receipt, PATH, digest)
    synced.clear()
    opened(out).discard(receipt, PATH)
    assert str(out / ".staging" / "run-1") in synced


def test_closing_makes_what_publishing_removed_durable_and_leaves_no_folder(tmp_path, synced):
    out = tmp_path / "out"
    destination = opened(out)
    local, digest = a_part(tmp_path)
    destination.publish(destination.stage(local, PATH, digest), PATH, digest)
    synced.clear()
    destination.close()
    assert synced == [str(out / ".staging" / "run-1")]
    assert list((out / ".staging").iterdir()) == []
    destination.close()


def test_a_staged_name_that_came_back_is_harmless(tmp_path):
    """A power cut may undo the removal of a published part's staged name."""
    out = tmp_path / "out"
    destination = opened(out)
    local, digest = a_part(tmp_path)
    receipt = destination.stage(local, PATH, digest)
    destination.publish(receipt, PATH, digest)
    os.link(out / PATH, out / ".staging" / receipt["staged"])
    assert opened(out).look(receipt, PATH, digest) is Presence.VISIBLE
    opened(out).discard(receipt, PATH)
    opened(out).remove(PATH)
    assert opened(out).publish(receipt, PATH, digest) is Presence.MISSING
    assert files(out) == []


CHILD = """
import json, sys
from pathlib import Path
from rivet_fleet.contracts import killpoints
from rivet_fleet.contracts.manifest import PartDigest
from rivet_fleet.contracts.destination import DestinationConnection
from rivet_fleet.execution import registry
from rivet_fleet.execution.parts import digest_file
prefix, spooled, path, arming = sys.argv[1:]
killpoints.arm(killpoints.parse_armings(arming))
destination = registry.open_destination(DestinationConnection(kind="local", prefix=prefix))
receipt = destination.stage(Path(spooled), path, digest_file(Path(spooled), 1))
print(json.dumps(dict(receipt)), flush=True)
destination.publish(receipt, path, PartDigest(**json.loads(sys.stdin.read())))
"""


@pytest.mark.parametrize("point", [KillPoint.STAGE_WRITTEN, KillPoint.PART_RENAMED])
def test_a_process_killed_on_the_way_is_survived(tmp_path, point):
    """SIGKILL in a real process; whoever comes next sees nothing or the whole part."""
    path, digest = a_part(tmp_path)
    keep = tmp_path / "keep"
    shutil.copy(path, keep)
    out = tmp_path / "out"
    killed = subprocess.run(
        [sys.executable, "-c", CHILD, out, path, PATH, f"{point.value}:kill"],
        input=json.dumps(to_plain(digest)),
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    destination = opened(out)
    if point is KillPoint.STAGE_WRITTEN:
        assert list(destination.list_visible()) == []
        assert len(list(destination.list_staged())) == 1
        return
    receipt = json.loads(killed.stdout)
    assert files(out)[-1] == PATH
    assert destination.publish(receipt, PATH, digest) is Presence.VISIBLE
    assert files(out) == [PATH]
    assert (out / PATH).read_bytes() == keep.read_bytes()


RACER = """
import json, sys
from rivet_fleet.contracts.manifest import PartDigest
from rivet_fleet.contracts.destination import DestinationConnection
from rivet_fleet.execution import registry
destination = registry.open_destination(DestinationConnection(kind="local", prefix=sys.argv[1]))
print("ready", flush=True)
work = json.loads(sys.stdin.readline())
for path, receipt, digest in work:
    print(destination.publish(receipt, path, PartDigest(**digest)).value)
"""


def test_racing_processes_publish_everything_once(tmp_path):
    out = tmp_path / "out"
    stager, work = opened(out), []
    for number in range(60):
        path, digest = a_part(tmp_path, b"part %d" % number)
        name = f"run-1/part-{number:03d}.parquet"
        work.append((name, dict(stager.stage(path, name, digest)), to_plain(digest)))
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, out],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 2
    for racer in racers:
        racer.stdin.write(json.dumps(work) + "\n")
        racer.stdin.flush()
    answers = [racer.communicate()[0].split() for racer in racers]
    assert answers == [["visible"] * 60] * 2
    assert files(out) == [name for name, _, _ in work]
    assert [info.path for info in opened(out).list_visible()] == files(out)
