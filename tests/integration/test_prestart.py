"""The worker that is started ahead: it becomes the first worker, or goes home without a trace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from rivet_fleet.cli.prestart import PROGRAM, Prestarted

BEGIN_AND_DIE = (
    "import os, signal; from rivet_fleet.cli import prestart; prestart.begin(); "
    "print(prestart._waiting[0]._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
)
LEAVE_AND_TELL = (
    "import atexit, sys; from rivet_fleet.cli import prestart; "
    "atexit.register(lambda: print('rivet_fleet.cli.worker' in sys.modules)); "
    "prestart.await_orders()"
)


def test_it_becomes_the_worker_it_is_told_to_be(tmp_path: Path) -> None:
    ready, log = Prestarted(), tmp_path / "worker.log"
    environment = {**os.environ, "RIVET_FLEET_TEST_ORDERS": "1"}
    process = ready.hand_over([*PROGRAM, "worker", "--config", "absent.yaml"], environment, log)
    assert process is not None and process.wait(30) == 1
    assert "absent.yaml" in log.read_text()


def test_it_goes_home_when_it_is_not_needed() -> None:
    ready = Prestarted()
    ready.dismiss()
    assert ready._process.returncode == 0
    assert ready.hand_over([*PROGRAM, "worker"], {}, Path("unused")) is None


def test_it_does_not_import_on_when_nobody_can_give_orders() -> None:
    """Whoever dismisses it waits for its end: on a loaded machine the imports take seconds."""
    reading, writing = os.pipe()
    os.close(writing)
    try:
        left = subprocess.run(
            [sys.executable, "-c", LEAVE_AND_TELL], stdin=reading, capture_output=True, check=True
        )
    finally:
        os.close(reading)
    assert left.stdout == b"False\n"


def test_a_dead_one_is_not_handed_anything(tmp_path: Path) -> None:
    ready = Prestarted()
    ready._process.kill()
    ready._process.wait()
    assert ready.hand_over([*PROGRAM, "worker"], {}, tmp_path / "log") is None


def test_another_program_is_started_the_ordinary_way(tmp_path: Path) -> None:
    assert Prestarted().hand_over(["/bin/true"], {}, tmp_path / "log") is None


def test_it_does_not_outlive_whoever_began_it() -> None:
    began = subprocess.run([sys.executable, "-c", BEGIN_AND_DIE], capture_output=True, check=False)
    assert began.returncode == -signal.SIGKILL
    pid = int(began.stdout)
    try:
        psutil.Process(pid).wait(30)
    except psutil.NoSuchProcess:
        pass
    except psutil.TimeoutExpired:
        pytest.fail(f"process {pid} still waits for orders that nobody can give")
