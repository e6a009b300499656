"""A warm process is one like an executed one: what is seen of the program is the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests import warm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere all are executed")
ENV = {n: v for n, v in os.environ.items() if not n.startswith("RIVET_") and n != "HOME"}
"""Without one that the warm process itself has."""
CONFIG = """\
source: {type: postgres, url: "postgresql://127.0.0.1:1/none"}
exports:
  - {name: t, table: t, format: parquet,
     destination: {type: local, path: "${HOME}/${WHERE}"}}
"""


def started(*arguments: str, cold: bool = False, **more: str) -> subprocess.Popen[str]:
    return warm.start(
        "rivet_fleet",
        arguments,
        env={**ENV, **more},
        cwd=more.get("FOLDER"),
        cold=cold,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_both_say_and_end_the_same(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text(CONFIG)
    for arguments, more in (
        (("--version",), {}),
        (("absent",), {}),
        (("status", "-c", "fleet.yaml"), {"WHERE": "é"}),
        (("check", "-c", "fleet.yaml"), {}),
        (("check", "-c", "fleet.yaml"), {"WHERE": "here", "HOME": "/nowhere"}),
    ):
        found = []
        for cold in (False, True):
            with started(*arguments, cold=cold, FOLDER=str(tmp_path), **more) as process:
                out, err = process.communicate(timeout=60)
                assert (process.args[0] == sys.executable) is cold  # type: ignore[index]
            found.append((process.returncode, out, err))
        assert found[0] == found[1], arguments


def test_it_is_a_child_of_ours_that_takes_our_signals(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    # It waits for its configuration: nobody writes to that pipe.
    with started("check", "-c", "pipe", FOLDER=str(tmp_path)) as process:
        assert psutil.Process(process.pid).ppid() == os.getpid()
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL


@pytest.mark.parametrize("name", ["TZ", "PYTHONUTF8", "LC_ALL"])
def test_what_an_interpreter_reads_at_its_start_is_executed(name: str) -> None:
    value = "C" if name == "LC_ALL" else "1" if name == "PYTHONUTF8" else "Asia/Tokyo"
    with started("--version", **{name: value}) as process:
        assert process.args[0] == sys.executable  # type: ignore[index]
        process.communicate(timeout=60)
    assert process.returncode == 0
