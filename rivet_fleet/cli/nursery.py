"""Worker processes that need not import anything: a nursery forks them (ADR 0017).

Importing the libraries takes a process about half a second of CPU. ``run``, ``resume`` and
``apply`` therefore fork a nursery as soon as everything is imported that a worker needs. It does
nothing but fork: each child shares those imports, and gets its command line, environment and log
file over a pipe when the supervisor wants it. Should the supervisor die, the pipes' ends send
everybody home who has not begun; what has begun is a worker like any other.

Forking is safe there, and would not be in the coordinator: the nursery has one thread for ever, no
connection and no open file but its socket (fork(2)). What a source, a format or a destination
needs beside that it imports when it is told to, before the first of them, while the campaign is
planned.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from rivet_fleet.errors import RivetFleetError

# ------------------------------------------------------------------------------------------
# What a worker's process does without: optional parts of its libraries that it never uses.
#
# Some libraries import whatever they find installed. A fleet has many workers, and their memory is
# a promise: NumPy behind pyarrow alone costs each of them 13 MB and a tenth of a second.

_LEFT_OUT = {
    # Arrays of Arrow are never turned into NumPy's; Arrow supports its absence.
    "pyarrow": ("numpy",),
    # Remote filesystems with their SDKs: destinations bring their own clients.
    "pyarrow.fs": ("pyarrow._s3fs", "pyarrow._gcsfs", "pyarrow._azurefs", "pyarrow._hdfs"),
    # Tracebacks in colour; a worker's log is a file.
    "structlog": ("rich", "colorama"),
}
"""Library → what it looks for and copes without."""


def import_lean() -> None:
    """Import the libraries of the table as if what they look for were not installed.

    A library that is there already stays as it is. Afterwards everything can be imported by
    whoever needs it.
    """
    for library, left_out in _LEFT_OUT.items():
        if library in sys.modules:
            continue
        hidden = [name for name in left_out if name not in sys.modules]
        for name in hidden:
            # None makes an import fail like that of a missing module (importlib's manual).
            sys.modules[name] = None  # type: ignore[assignment]
        try:
            importlib.import_module(library)
        finally:
            for name in hidden:
                del sys.modules[name]


# ------------------------------------------------------------------------------------------
# A command's name, options and words are in its module of ``cli``; what it does is in the layers
# below, which take most of a second to import. Whoever asks for help gets an answer without them.

_BELOW = tuple(
    f"rivet_fleet.{layer}"
    for layer in (
        "coordination",
        "execution",
        "observability",
        "persistence",
        "planning",
        "verification",
    )
)


class _Absent:
    """Stands for whatever a module below would have had: nothing that describes a command asks more
    of it than to be there."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Absent()

    def __call__(self, *_: object, **__: object) -> _Absent:
        return _Absent()

    def __iter__(self) -> Iterator[object]:
        return iter(())

    def __mro_entries__(self, _bases: tuple[object, ...]) -> tuple[type, ...]:
        return ()


class _AbsentModule(ModuleType):
    __path__ = []  # noqa: RUF012 (a package without any file)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Absent()


class _Below:
    """Finds an empty module in the place of each of the layers below."""

    def find_spec(self, fullname: str, *_: Any) -> ModuleSpec | None:
        if not fullname.startswith(_BELOW):
            return None
        return ModuleSpec(fullname, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _AbsentModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def import_declared(module: str) -> tuple[ModuleType, frozenset[str]]:
    """A module of ``cli`` for its declarations alone, and which modules are not what they are
    called because of it: whoever wants to do anything has to forget those before."""
    before = frozenset(sys.modules)
    below = _Below()
    sys.meta_path.insert(0, below)
    try:
        declared = importlib.import_module(module)
    finally:
        sys.meta_path.remove(below)
    new = sys.modules.keys() - before
    return declared, frozenset(name for name in new if name.startswith("rivet_fleet."))


# ------------------------------------------------------------------------------------------
# The nursery, and the processes that it forks.

PROGRAM = (sys.executable, "-m", "rivet_fleet")
"""How a supervisor starts a worker without a nursery."""
PROCESS_NAME = "rivet-worker"
"""What ``ps -o comm`` and ``top`` show of it: its command line is that of the coordinator."""
NURSERY_NAME = "rivet-nursery"
_FORK, _IMPORT = b"w", b"i"
_ANSWER_TIMEOUT_S = 5.0
_IMPORT_TIMEOUT_S = 60.0
_DISMISS_TIMEOUT_S = 30.0
_PR_SET_CHILD_SUBREAPER = 36
_STARTS = sys.platform == "linux"
"""Elsewhere a fork without an exec is not safe for the system's own libraries."""
_PID = struct.Struct("=i")


class Forked:
    """A forked process as a supervisor sees one (``coordination.supervisor.WorkerProcess``)."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        return self._wait(os.WNOHANG)

    def wait(self, timeout_s: float | None = None) -> int | None:
        """The same, after its end; None when it still runs after ``timeout_s``."""
        if timeout_s is None:
            return self._wait(0)
        if self.poll() is None:
            try:
                told = os.pidfd_open(self.pid)
            except OSError:
                return self.poll()  # a kernel before 5.3
            try:
                select.select([told], [], [], timeout_s)
            finally:
                os.close(told)
        return self.poll()

    def send_signal(self, number: int) -> None:
        """Nothing happens when it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            ended_pid, status = os.waitpid(self.pid, options)
            if ended_pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """What workers import beside the program's own: by name, and by what they read and write."""

    libraries: Sequence[str] = ()
    engines: Sequence[str] = ()
    formats: Sequence[str] = ()


class Nursery:
    """The process that forks workers, seen from the supervisor's. A ``WorkerSource`` of it."""

    def __init__(self, program: Callable[[], object]) -> None:
        """``program``: what a worker's process runs, which reads ``sys.argv``. Raises OSError when
        no process can be started, or could not be adopted."""
        # A worker's parent has ended when we are told of it: it becomes our own child then.
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1) != 0:
            raise OSError(ctypes.get_errno(), "no subreaper")
        # Ignored by inheritance, it would lose every exit code (wait(2)).
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._socket, theirs = socket.socketpair()
        # What is shared stays shared: a collection would touch every object and copy its page.
        gc.freeze()
        supervisor_pid = os.getpid()
        try:
            if min(self._socket.fileno(), theirs.fileno()) <= 2:
                raise OSError("a standard stream is closed: its number would be the socket's")
            pid = os.fork()
        except OSError:
            self._socket.close()
            theirs.close()
            raise
        if pid == 0:
            _become_nursery(theirs, supervisor_pid, program)
        theirs.close()
        self._socket.settimeout(_ANSWER_TIMEOUT_S)
        self._process = Forked(pid)
        self._importing = False

    @property
    def pid(self) -> int:
        """Of the nursery itself."""
        return self._process.pid

    def prepare(self, needed: Needed) -> None:
        """Import this once for all workers that come, while the caller goes on. What cannot be
        imported each of them finds out, and tells, by itself."""
        told_fd, tell_fd = os.pipe()
        try:
            with os.fdopen(tell_fd, "w") as pipe, os.fdopen(told_fd, "rb"):
                socket.send_fds(self._socket, [_IMPORT], [told_fd])
                pipe.write(json.dumps(asdict(needed)))
            self._importing = True
        except OSError:
            self.dismiss()

    def hand_over(
        self, arguments: Sequence[str], environment: Mapping[str, str], log_path: Path
    ) -> Forked | None:
        """A new worker of this command; None when there is none to be had, now or ever again."""
        if tuple(arguments[: len(PROGRAM)]) != PROGRAM:
            return None
        orders = {
            "arguments": list(arguments[len(PROGRAM) :]),
            "environment": dict(environment),
            "log": str(log_path.absolute()),
        }
        process: Forked | None = None
        orders_fd, own_fd = os.pipe()
        try:
            # Whatever happens, the pipe's end sends a child home that nobody would know of.
            with os.fdopen(own_fd, "wb") as pipe:
                try:
                    process = self._child(orders_fd)
                finally:
                    os.close(orders_fd)  # a pipe that we could read ourselves would never break
                pipe.write(json.dumps(orders).encode() + b"\n")
        except OSError:
            if process is not None:
                process.kill()
                process.wait()
            self.dismiss()
            return None
        return process

    def release(self) -> None:
        """It may go home: nobody asks it for anything any more."""
        self._socket.close()

    def dismiss(self) -> None:
        """Send it home, and wait until it is; workers stay. Never raises."""
        self.release()
        if self._process.wait(_DISMISS_TIMEOUT_S) is None:
            self._process.kill()
            self._process.wait()

    def _child(self, orders_fd: int) -> Forked:
        """A child of ours that reads ``orders_fd``. Raises OSError."""
        self._await_imports()
        socket.send_fds(self._socket, [_FORK], [orders_fd])
        pid = self._answer()
        if pid <= 0:
            raise OSError("the nursery could not fork")
        process = Forked(pid)
        process.poll()  # ChildProcessError, an OSError: it was not given to us
        return process

    def _await_imports(self) -> None:
        if self._importing:
            self._socket.settimeout(_IMPORT_TIMEOUT_S)
            self._answer()
            self._importing = False
            self._socket.settimeout(_ANSWER_TIMEOUT_S)

    def _answer(self) -> int:
        answer = b""
        while len(answer) < _PID.size:
            more = self._socket.recv(_PID.size - len(answer))
            if not more:
                raise OSError("the nursery has ended")
            answer += more
        (number,) = _PID.unpack(answer)
        return int(number)


_waiting: list[Nursery] = []


def begin(program: Callable[[], object]) -> None:
    """Start the nursery, if the system lets us: without it everything works, a little later.
    ``program``: see ``Nursery``."""
    if not _STARTS:
        return
    gc.disable()  # importing makes what lives as long as the process
    import_lean()
    importlib.import_module("rivet_fleet.cli.worker")
    try:
        _waiting.append(Nursery(program))
    except OSError:
        pass  # the supervisor will say why no process can be started


def prepare(needed: Needed) -> None:
    """Let what was begun import what its workers will need."""
    for nursery in _waiting:
        nursery.prepare(needed)


def take() -> Nursery | None:
    """What was begun, once: the caller uses it and dismisses it."""
    return _waiting.pop() if _waiting else None


def _become_nursery(
    theirs: socket.socket, supervisor_pid: int, program: Callable[[], object]
) -> NoReturn:
    """The child. Nothing of the parent's stack is returned to, whatever happens."""
    code = 1
    try:
        # An own group: Ctrl-C on the terminal reaches the coordinator alone.
        os.setpgid(0, 0)
        _name_process(NURSERY_NAME)
        null_fd = os.open(os.devnull, os.O_RDWR)
        for target in (0, 1, 2):
            os.dup2(null_fd, target)
        orders = theirs.fileno()
        os.closerange(3, orders)
        os.closerange(orders + 1, os.sysconf("SC_OPEN_MAX"))
        while True:
            said, fds, _, _ = socket.recv_fds(theirs, 1, 1)
            if not said or not fds:
                break
            if said == _IMPORT:
                _import(fds[0])
                theirs.sendall(_PID.pack(0))
                continue
            pid = _grandchild(fds[0], supervisor_pid, program)
            os.close(fds[0])
            theirs.sendall(_PID.pack(pid))
        code = 0
    finally:
        os._exit(code)


def _import(told_fd: int) -> None:
    with os.fdopen(told_fd, "r") as pipe:
        needed = Needed(**json.loads(pipe.read()))
    for name in needed.libraries:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    # Here, because `--help` imports this module, too.
    from rivet_fleet.execution.registry import import_working

    with contextlib.suppress(RivetFleetError):
        import_working(needed.engines, needed.formats)
    gc.freeze()


def _grandchild(orders_fd: int, supervisor_pid: int, program: Callable[[], object]) -> int:
    """Fork a worker whose parent has ended before we return; its id, or 0 when none came."""
    told_fd, tell_fd = os.pipe()
    try:
        between = os.fork()
    except OSError:
        os.close(told_fd)
        os.close(tell_fd)
        return 0
    if between == 0:
        try:
            pid = os.fork()
            if pid == 0:
                _become_worker(orders_fd, supervisor_pid, program)
            os.write(tell_fd, _PID.pack(pid))
        finally:
            os._exit(0)
    os.close(tell_fd)
    # Shorter than the kernel's atomic write: all of it, or the end.
    told = os.read(told_fd, _PID.size)
    os.close(told_fd)
    os.waitpid(between, 0)
    return int(_PID.unpack(told)[0]) if told else 0


def _become_worker(orders_fd: int, supervisor_pid: int, program: Callable[[], object]) -> NoReturn:
    """The grandchild: wait, and become the worker, or go home."""
    code = 1
    try:
        os.setpgid(0, 0)
        _name_process(PROCESS_NAME)
        os.dup2(orders_fd, 0)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        with os.fdopen(0, "rb", closefd=False) as pipe:
            line = pipe.readline()
        # Orders come from the parent alone, and only after it has become that.
        ordered = line.endswith(b"\n") and os.getppid() == supervisor_pid
        if ordered:
            _take_on(json.loads(line))
            program()
        code = 0
    finally:
        os._exit(code)


def _take_on(orders: Mapping[str, object]) -> None:
    """Command line, environment and streams as ordered."""
    arguments, environment = orders["arguments"], orders["environment"]
    assert isinstance(arguments, list) and isinstance(environment, dict)
    os.environ.clear()
    os.environ.update(environment)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    log = os.open(str(orders["log"]), flags, 0o600)
    null_fd = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null_fd, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(log)
    os.close(null_fd)
    sys.argv = ["rivet-fleet", *arguments]
    gc.enable()


def _name_process(name: str) -> None:
    try:
        Path("/proc/self/comm").write_text(name)
    except OSError:
        pass  # a name is a courtesy
