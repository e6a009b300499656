"""The nursery: its children become workers, or go home without a trace (ADR 0017)."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from rivet_fleet.cli.nursery import NURSERY_NAME, PROCESS_NAME

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")

BEGUN = """
import os, signal, sys
from pathlib import Path
from rivet_fleet.cli import main, nursery as nurseries
from tests.waiting import until

nurseries.begin(main.main)
nursery = nurseries.take()
worker = [*nurseries.PROGRAM, "worker"]
nowhere = Path(os.devnull)

def waiting():
    orders, pipe = os.pipe()
    child = nursery._child(orders)
    os.close(orders)
    return child, pipe
"""


def begin(what: str, *arguments: str, before: str = "", code: int = 0) -> list[str]:
    """A nursery in a process of its own (a fork needs one without threads), then ``what``; the
    words it printed. ``before``: what the process does first of all."""
    command = [sys.executable, "-c", before + BEGUN + what, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr
    return done.stdout.split()


def test_its_children_become_the_workers_they_are_told_to_be(tmp_path: Path) -> None:
    """More than one, each our own child with a status of its own."""
    log = tmp_path / "worker.log"
    said = begin(
        """
for name in ("absent.yaml", "missing.yaml"):
    given = [*worker, "--config", name]
    process = nursery.hand_over(given, {"PATH": ""}, Path(sys.argv[1]))
    print(process.wait(30), process.returncode, process.poll())
nursery.dismiss()
""",
        str(log),
    )
    assert said == ["9"] * 6
    assert "absent.yaml" in log.read_text()
    assert "missing.yaml" in log.read_text()


def test_what_all_of_them_need_is_imported_once(tmp_path: Path) -> None:
    """Before the first of them; what is not installed costs nothing."""
    (tmp_path / "librarylike.py").write_text(
        "import os; open(os.environ['TOLD'], 'a').write(f'{os.getpid()} ')"
    )
    said = begin(
        """
import os
nursery.prepare(nurseries.Needed(libraries=["librarylike", "no_such_library"], engines=["no"]))
children = [waiting() for _ in range(2)]
print(os.getpid() != nursery.pid, nursery.pid)
for child, pipe in children:
    child.kill()
    child.wait(30)
print(open(os.environ["TOLD"]).read())
nursery.dismiss()
""",
        before=f"import os, sys; sys.path.insert(0, {str(tmp_path)!r}); "
        f"os.environ['TOLD'] = {str(tmp_path / 'told')!r}\n",
    )
    assert said[0] == "True"
    assert said[1:] == [said[1]] * 2


def test_the_signal_that_ends_a_worker_is_told() -> None:
    said = begin(
        """
child, pipe = waiting()
child.kill()
print(child.wait(30))
nursery.dismiss()
"""
    )
    assert said == [str(-signal.SIGKILL)]


@pytest.mark.parametrize("name", [NURSERY_NAME, PROCESS_NAME])
def test_each_has_a_name_and_a_group_of_its_own(name: str) -> None:
    said = begin(
        f"""
child, pipe = waiting()
pid = child.pid if {name == PROCESS_NAME} else nursery.pid
until(lambda: Path(f"/proc/{{pid}}/comm").read_text().strip() == {name!r})
print(os.getpgid(pid) == pid)
os.close(pipe)
nursery.dismiss()
"""
    )
    assert said == ["True"]
    assert len(name) < 16  # the kernel cuts what is longer


def test_neither_holds_anything_of_whoever_began_it() -> None:
    """A pipe that one kept open would never end for its reader."""
    said = begin(
        """
child, pipe = waiting()
for pid, few in ((child.pid, 3), (nursery.pid, 4)):
    until(lambda: len(os.listdir(f"/proc/{pid}/fd")) == few)
    print(len(os.listdir(f"/proc/{pid}/fd")))
os.close(pipe)
nursery.dismiss()
"""
    )
    assert said == ["3", "4"]


def test_each_goes_home_when_it_is_not_needed() -> None:
    said = begin(
        """
child, pipe = waiting()
os.close(pipe)
print(child.wait(30))
nursery.dismiss()
nursery.dismiss()
print(nursery._process.returncode, nursery.hand_over(worker, {}, nowhere))
"""
    )
    assert said == ["0", "0", "None"]


@pytest.mark.parametrize("blow", ["SIGKILL", "SIGSTOP"])
def test_a_nursery_that_does_not_answer_gives_nothing(blow: str) -> None:
    """And no child that nobody knows of, nor a file that stays open."""
    said = begin(
        f"""
nurseries._ANSWER_TIMEOUT_S = 0.2
nursery._socket.settimeout(0.2)
nurseries._DISMISS_TIMEOUT_S = 0.2
before = len(os.listdir("/proc/self/fd"))
os.kill(nursery.pid, signal.{blow})
print(nursery.hand_over(worker, {{}}, nowhere), nursery._process.returncode)
print(len(os.listdir("/proc/self/fd")) - before)
try:
    print(os.waitpid(-1, os.WNOHANG))
except ChildProcessError:
    print("alone")
"""
    )
    assert said == ["None", str(-signal.SIGKILL), "-1", "alone"]


@pytest.mark.parametrize("size", [1, 1_000_000])
def test_a_child_that_dies_before_its_orders_costs_nothing(size: int) -> None:
    """Of more than a pipe holds, whoever writes would wait for ever."""
    said = begin(
        """
born = nursery._child
def dying(orders_fd):
    child = born(orders_fd)
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    return child
nursery._child = dying
print(nursery.hand_over(worker, {"ABOUT": "x" * int(sys.argv[1])}, nowhere))
try:
    print(os.waitpid(-1, os.WNOHANG))
except ChildProcessError:
    print("alone")
""",
        str(size),
    )
    assert said == ["None", "alone"]


def test_exit_codes_are_seen_where_children_were_ignored() -> None:
    said = begin(
        """
process = nursery.hand_over([*worker, "--config", "absent.yaml"], {}, nowhere)
print(process.wait(30))
nursery.dismiss()
""",
        before="import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n",
    )
    assert said == ["9"]


def test_no_socket_takes_the_place_of_a_closed_standard_stream() -> None:
    said = begin("print(nursery)", before="import os; os.close(0)\n")
    assert said == ["None"]


def test_another_program_is_started_the_ordinary_way() -> None:
    said = begin("print(nursery.hand_over(['/bin/true'], {}, nowhere)); nursery.dismiss()")
    assert said == ["None"]


def test_nobody_outlives_whoever_began_it() -> None:
    said = begin(
        """
child, pipe = waiting()
print(nursery.pid, child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
""",
        code=-signal.SIGKILL,
    )
    for pid in map(int, said):
        try:
            psutil.Process(pid).wait(30)
        except psutil.NoSuchProcess:
            pass
        except psutil.TimeoutExpired:
            pytest.fail(f"process {pid} still waits for orders that nobody can give")


def test_orders_of_a_parent_that_died_are_not_followed(tmp_path: Path) -> None:
    """They lay in the pipe already: a worker without a supervisor would begin."""
    log = tmp_path / "worker.log"
    said = begin(
        """
import json
child, pipe = waiting()
os.kill(child.pid, signal.SIGSTOP)
orders = {"arguments": ["worker", "--config", "absent.yaml"], "environment": {}, "log": sys.argv[1]}
os.write(pipe, json.dumps(orders).encode() + b"\\n")
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
""",
        str(log),
        code=-signal.SIGKILL,
    )
    orphan = psutil.Process(int(said[0]))
    orphan.send_signal(signal.SIGCONT)
    try:
        orphan.wait(30)
    except psutil.NoSuchProcess:
        pass
    assert not log.exists()


def test_an_error_of_a_child_never_returns_into_its_parent(tmp_path: Path) -> None:
    """What stands behind the fork would be done twice."""
    said = begin(
        """
process = nursery.hand_over(worker, {}, Path(sys.argv[1]))
print("once", process.wait(30))
nursery.dismiss()
""",
        str(tmp_path / "absent" / "worker.log"),
    )
    assert said == ["once", "1"]
