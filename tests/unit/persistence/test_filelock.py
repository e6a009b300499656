"""One holder at a time, over threads and over open files; the wait is bounded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rivet_fleet.errors import StateUnavailable
from rivet_fleet.persistence.dialects import FileLock, holder_pid

_HOLDER = """
import os, signal, sys
from pathlib import Path
from rivet_fleet.persistence.dialects import FileLock
with FileLock(Path(sys.argv[1])).held():
    print("held", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
"""


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


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="only Linux tells who holds a lock")
def test_who_waits_in_vain_is_told_of_the_stopped_process(tmp_path: Path) -> None:
    path = tmp_path / "l"
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(path)], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        os.waitpid(holder.pid, os.WUNTRACED)
        assert holder_pid(path) == holder.pid
        with pytest.raises(StateUnavailable) as raised, FileLock(path, wait_max_s=0.05).held():
            pass
        holder.send_signal(signal.SIGCONT)
        assert holder.wait(30) == 0
    assert f"kill -CONT {holder.pid}" in str(raised.value.hint)
    assert holder_pid(path) is None
