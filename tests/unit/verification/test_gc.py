"""The sweep: what it may touch, and in which order it looks (F9)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rivet_fleet.contracts.manifest import receipt_key
from rivet_fleet.contracts.plan import DestinationPlan
from rivet_fleet.execution.destination import Presence
from rivet_fleet.execution.durable import create_spool
from rivet_fleet.execution.parts import digest_file
from rivet_fleet.verification.gc import sweep_spool, sweep_staged
from tests.model.destination import DESTINATION_NAME, open_destination


@pytest.fixture(params=["local", DESTINATION_NAME])
def destination(request, tmp_path):
    plan = DestinationPlan(kind=request.param, prefix=str(tmp_path / "out"))
    return open_destination(plan)


def stage(destination, folder: Path, path: str):
    local = folder / path.replace("/", "-")
    local.write_bytes(path.encode())
    digest = digest_file(local, 1)
    return destination.stage(local, path, digest), digest


def test_only_what_no_ledger_row_names_is_swept(destination, tmp_path):
    kept, digest = stage(destination, tmp_path, "run/kept")
    lost, _ = stage(destination, tmp_path, "run/lost")
    named = {receipt_key(dict(reversed(kept.items())))}
    swept = sweep_staged(destination, lambda: named, min_age_s=0)
    assert [receipt_key(info.receipt) for info in swept] == [receipt_key(lost)]
    assert destination.publish(kept, "run/kept", digest) is Presence.VISIBLE


def test_young_bytes_are_left_to_their_attempt(destination, tmp_path):
    receipt, digest = stage(destination, tmp_path, "run/young")
    assert sweep_staged(destination, set, min_age_s=3600) == []
    assert destination.look(receipt, "run/young", digest) is Presence.STAGED


def test_the_listing_comes_before_the_ledger(destination, tmp_path):
    """Bytes that are staged and committed while the sweep runs are never touched."""
    stage(destination, tmp_path, "run/old")
    during = []

    def ledger():
        during.append(stage(destination, tmp_path, "run/new"))
        return set()

    swept = sweep_staged(destination, ledger, min_age_s=0)
    assert [info.path for info in swept] == ["run/old"]
    (receipt, digest) = during[0]
    assert destination.look(receipt, "run/new", digest) is Presence.STAGED


def test_a_part_committed_after_the_listing_is_in_the_ledger(destination, tmp_path):
    receipt, digest = stage(destination, tmp_path, "run/part")
    assert sweep_staged(destination, lambda: {receipt_key(receipt)}, min_age_s=0) == []
    assert destination.publish(receipt, "run/part", digest) is Presence.VISIBLE


def test_visible_objects_are_never_swept(destination, tmp_path):
    receipt, digest = stage(destination, tmp_path, "run/part")
    destination.publish(receipt, "run/part", digest)
    destination.put_atomic("manifest.json", b"{}")
    assert sweep_staged(destination, set, min_age_s=0) == []
    assert {i.path for i in destination.list_visible()} == {"run/part", "manifest.json"}


def test_a_dry_run_only_tells(destination, tmp_path):
    receipt, digest = stage(destination, tmp_path, "run/lost")
    assert len(sweep_staged(destination, set, min_age_s=0, dry_run=True)) == 1
    assert destination.look(receipt, "run/lost", digest) is Presence.STAGED


def test_spools_of_dead_processes_go_and_everything_else_stays(tmp_path):
    mine = create_spool(tmp_path, os.getpid(), 100.25)
    dead = create_spool(tmp_path, 4_000_000, 50.0)
    reused = create_spool(tmp_path, os.getpid(), 99.0)
    (dead / "part").write_bytes(b"half")
    (tmp_path / "w-notes").mkdir()
    (tmp_path / "data").mkdir()
    link = tmp_path / dead.name.replace(dead.name[-8:], "00000000")
    link.symlink_to(tmp_path / "data")

    def alive(pid, started_at_s):
        return (pid, started_at_s) == (os.getpid(), 100.25)

    assert sweep_spool(tmp_path, alive, dry_run=True) == sorted([dead, reused])
    assert dead.exists()
    assert sweep_spool(tmp_path, alive) == sorted([dead, reused])
    assert sorted(tmp_path.iterdir()) == sorted(
        [mine, tmp_path / "w-notes", tmp_path / "data", link]
    )


def test_a_root_that_is_not_there_is_empty(tmp_path):
    assert sweep_spool(tmp_path / "none", lambda *_: False) == []
