"""Folders that several processes make and tidy away at once are never mistaken for files."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

from rivet_fleet.execution.durable import make_folder

_SECONDS = 1.0


def test_a_vanishing_folder_is_missing_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    end_s = time.monotonic() + _SECONDS
    wrong: list[OSError] = []
    made = 0

    def make() -> None:
        nonlocal made
        while time.monotonic() < end_s:
            try:
                make_folder(folder)
                made += 1
            except FileNotFoundError:
                continue
            except OSError as error:
                wrong.append(error)
                return

    def tidy() -> None:
        while time.monotonic() < end_s:
            with contextlib.suppress(OSError):
                folder.rmdir()

    threads = [threading.Thread(target=work) for work in (make, make, tidy, tidy)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong
    assert made
