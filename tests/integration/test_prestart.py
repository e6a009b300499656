"""The worker that is started ahead: it becomes the first worker, or goes home without a trace."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from rivet_fleet.cli.prestart import PROCESS_NAME

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")

BEGUN = (
    "import os, signal, sys; from pathlib import Path; from rivet_fleet.cli import prestart; "
    "prestart.begin(); (ready,) = prestart.take(); worker = [*prestart.PROGRAM, 'worker']; "
)

WAIT = "from tests.waiting import until\nuntil(lambda: {condition})\n"


def begin(what: str, *arguments: str, code: int = 0) -> str:
    """Start one ahead in a process of its own (a fork needs one without threads), then ``what``."""
    command = [sys.executable, "-c", BEGUN + what, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr
    return done.stdout


def test_it_becomes_the_worker_it_is_told_to_be(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    said = begin(
        "given = [*worker, '--config', 'absent.yaml']; "
        "process = ready.hand_over(given, {'PATH': ''}, Path(sys.argv[1])); "
        "print(process.wait(30), process.returncode, process.poll())",
        str(log),
    )
    assert said.split() == ["1", "1", "1"]
    assert "absent.yaml" in log.read_text()


def test_it_has_a_name_and_a_group_of_its_own() -> None:
    said = begin(
        "pid = ready._process.pid; comm = Path(f'/proc/{pid}/comm')\n"
        + WAIT.format(condition=f"comm.read_text().strip() == {PROCESS_NAME!r}")
        + "print(os.getpgid(pid) == pid); ready.dismiss()"
    )
    assert said.split() == ["True"]
    assert len(PROCESS_NAME) < 16  # the kernel cuts what is longer


def test_it_holds_nothing_of_whoever_began_it() -> None:
    """A pipe that it kept open would never end for its reader."""
    said = begin(
        "fds = f'/proc/{ready._process.pid}/fd'\n"
        + WAIT.format(condition="len(os.listdir(fds)) == 3")
        + "print(sorted(map(int, os.listdir(fds)))); ready.dismiss()"
    )
    assert said.strip() == "[0, 1, 2]"


def test_it_goes_home_when_it_is_not_needed() -> None:
    said = begin(
        "ready.dismiss(); print(ready._process.returncode); "
        "print(ready.hand_over(worker, {}, Path('unused')))"
    )
    assert said.split() == ["0", "None"]


def test_its_pipe_is_closed_once_whatever_comes_next() -> None:
    """A number that is closed twice may belong to another file by then: the state database's."""
    said = begin(
        "ready.dismiss(); others = [os.open('/dev/null', os.O_RDONLY) for _ in range(9)]; "
        "ready.dismiss(); ready.hand_over(worker, {}, Path('unused')); "
        "print(all(os.fstat(other) for other in others))"
    )
    assert said.strip() == "True"


def test_a_dead_one_is_not_handed_anything() -> None:
    said = begin(
        "ready._process.kill(); print(ready._process.wait()); "
        "print(ready.hand_over(worker, {}, Path('unused')))"
    )
    assert said.split() == [str(-signal.SIGKILL), "None"]


def test_another_program_is_started_the_ordinary_way() -> None:
    assert begin("print(ready.hand_over(['/bin/true'], {}, Path('unused')))").strip() == "None"


def test_it_does_not_outlive_whoever_began_it() -> None:
    said = begin(
        "print(ready._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)",
        code=-signal.SIGKILL,
    )
    pid = int(said)
    try:
        psutil.Process(pid).wait(30)
    except psutil.NoSuchProcess:
        pass
    except psutil.TimeoutExpired:
        pytest.fail(f"process {pid} still waits for orders that nobody can give")


def test_an_error_of_the_child_never_returns_into_its_parent(tmp_path: Path) -> None:
    """What stands behind the fork would be done twice."""
    said = begin(
        "process = ready.hand_over(worker, {}, Path(sys.argv[1])); print('once', process.wait(30))",
        str(tmp_path / "absent" / "worker.log"),
    )
    assert said.split() == ["once", "1"]
