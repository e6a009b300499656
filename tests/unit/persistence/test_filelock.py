"""One holder at a time, over threads and over open files; the wait is bounded."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from rivet_fleet.errors import StateUnavailable
from rivet_fleet.persistence.filelock import FileLock


def test_two_locks_on_one_file_exclude_each_other(tmp_path: Path) -> None:
    first = FileLock(tmp_path / "l")
    second = FileLock(tmp_path / "l", wait_max_s=0.05)
    held_by_another = pytest.raises(StateUnavailable, match="held by another process")
    with first.held(), held_by_another, second.held():
        pass
    with second.held():
        pass


def test_threads_take_turns(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "l")
    inside = 0
    most = 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(50):
            with lock.held():
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
