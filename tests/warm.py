"""Real processes of the program that need not import it: forked from one that has (Linux).

Importing the libraries takes the half second of CPU that most commands take, and the tests start
some thousand of them. ``start`` gives a ``subprocess.Popen`` like any other: a process of its own,
our child, with its own id, streams, folder, environment and signals. What differs is the command
line that ``ps`` shows; ``cold=True`` executes it as a user's shell does, and so does everything
that the imported modules have settled already (``_SETTLED``).
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import io
import json
import os
import runpy
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO, Any, NoReturn

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_PID = struct.Struct("=i")
_LENGTH = struct.Struct("=I")
_SETTLED = ("PYTHON", "LC_", "LANG", "TZ", "LD_", "MALLOC", "ARROW", "OMP_")
"""Variables that are read when an interpreter starts, or a library is imported."""
_IMPORTED = {
    "rivet_fleet": (
        *(f"rivet_fleet.cli.{name}" for name in ("main", "nursery", "worker", "campaign")),
        *(f"rivet_fleet.cli.{name}" for name in ("check", "init", "inspect", "plan")),
        *(f"rivet_fleet.cli.{name}" for name in ("operate", "state", "metrics")),
        *(f"rivet_fleet.execution.sources.{engine}" for engine in ("postgres", "mysql")),
        *("rivet_fleet.execution.sources.postgres.source", "psycopg", "pymysql", "alembic.command"),
        *("rivet_fleet.execution.sources.mysql.source", "rivet_fleet.persistence.open"),
        *("rivet_fleet.execution.formats.parquet.writer", "rivet_fleet.execution.formats.csv"),
        *("sqlalchemy.dialects.sqlite", "sqlalchemy.dialects.postgresql", "pyarrow.parquet"),
        *("structlog", "rich.console", "rich.table"),
    ),
    "pytest": (
        *("pytest", "_pytest.assertion.rewrite", "hypothesis", "xdist.plugin", "pygments.lexers"),
        *("psycopg", "pymysql", "alembic.command", "sqlalchemy.dialects.sqlite"),
        *("sqlalchemy.dialects.postgresql", "rivet_fleet.persistence.open"),
        *("tests.model.store", "tests.servers.mariadb"),
    ),
}
"""By program: what is imported beforehand, as far as it is there."""
_NOT_THESE = ("demo", "schema", "completions")
"""Commands that import what a worker's process does without (``rivet_fleet.cli.nursery``)."""


def start(
    program: str,
    arguments: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str | os.PathLike[str] | None = None,
    cold: bool = False,
    die_with_us: bool = False,
    **streams: Any,
) -> subprocess.Popen[Any]:
    """``python -m program arguments``. ``streams``: as Popen's; anything else makes it cold.

    ``die_with_us``: SIGKILL when this process ends.
    """
    warm = _warm(program, arguments, env, cold or bool(streams.keys() - _STREAMS))
    if warm is None:
        command = [sys.executable, "-m", program, *arguments]
        if die_with_us:
            streams["preexec_fn"] = _die_with_parent
        return subprocess.Popen(command, env=env, cwd=cwd, **streams)
    orders = {
        "arguments": list(arguments),
        "env": dict(env),
        "cwd": os.fspath(cwd or "."),
        "session": streams.pop("start_new_session", False),
        "die": die_with_us,
    }
    return _Forked(warm, orders, **streams)


_STREAMS = {"stdin", "stdout", "stderr", "text", "start_new_session"}


class _Forked(subprocess.Popen[Any]):
    """A Popen that asks a warm process for a child instead of executing one."""

    def __init__(self, warm: _Warm, orders: dict[str, object], **streams: Any) -> None:
        self._warm, self._orders = warm, orders
        super().__init__(["rivet-fleet", *map(str, orders["arguments"])], **streams)  # type: ignore[call-overload]

    def _execute_child(self, *given: Any) -> None:
        # args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags,
        # shell, and the six ends of three streams: theirs are the first, fourth and sixth.
        ends = given[10:16]
        try:
            self.pid = self._warm.child(self._orders, (ends[0], ends[3], ends[5]))
            self._child_created = True
        finally:
            self._close_pipe_fds(*ends)  # type: ignore[attr-defined]


class _Warm:
    """The process that forks, seen from here. Safe to use from several threads."""

    def __init__(self, program: str) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm", program, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            cwd=_ROOT,
        )
        theirs.close()
        atexit.register(self._end, os.getpid())

    def child(self, orders: dict[str, object], ends: tuple[int, ...]) -> int:
        """The id of a new child of ours; -1 among ``ends``: our own stream."""
        fds = [number if end == -1 else end for number, end in enumerate(ends)]
        body = json.dumps(orders).encode()
        with self._lock, _adopting():
            socket.send_fds(self._socket, [_LENGTH.pack(len(body))], fds)
            self._socket.sendall(body)
            (pid,) = _PID.unpack(_exactly(self._socket, _PID.size))
        return int(pid)

    def _end(self, owner_pid: int) -> None:
        if os.getpid() == owner_pid:
            self._socket.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)


_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_made: dict[str, _Warm] = {}
_making = threading.Lock()
_before = {k: v for k, v in os.environ.items() if k.startswith(_SETTLED)}


def _warm(
    program: str, arguments: Sequence[str], env: Mapping[str, str], cold: bool
) -> _Warm | None:
    settled = {k: v for k, v in env.items() if k.startswith(_SETTLED) and k not in _COMPILED}
    before = {k: v for k, v in _before.items() if k not in _COMPILED}
    if cold or sys.platform != "linux" or settled != before or {*_NOT_THESE} & {*arguments}:
        return None
    with _making:
        if program not in _made:
            _made[program] = _Warm(program)
        return _made[program]


_COMPILED = {"PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"}
"""They say where modules are compiled to: all are imported."""


@contextlib.contextmanager
def _adopting() -> Any:
    """A process whose parent has ended below us is our child: only while we wait for one."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0)


def _exactly(stream: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = stream.recv(size - len(found))
        if not more:
            raise RuntimeError("the warm process has ended")
        found += more
    return found


# ---------------------------------------------------------------- in the warm process


def _serve(program: str, orders: socket.socket) -> None:
    from rivet_fleet.cli.nursery import import_lean

    import_lean()
    for module in _IMPORTED[program]:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    gc.collect()
    gc.freeze()
    # Ctrl-C on the terminal is the tests' business, and their end is ours.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        head, fds, _, _ = socket.recv_fds(orders, _LENGTH.size, 3)
        if not head:
            return
        body = json.loads(_exactly(orders, *_LENGTH.unpack(head)))
        told_fd, tell_fd = os.pipe()
        go_fd, gone_fd = os.pipe()
        between = os.fork()
        if between == 0:
            pid = os.fork()
            if pid == 0:
                # Until our parent has ended and the tests have adopted us.
                os.close(gone_fd)
                os.read(go_fd, 1)
                _become(program, body, fds)
            os.write(tell_fd, _PID.pack(pid))
            os._exit(0)
        os.close(tell_fd)
        told = os.read(told_fd, _PID.size)
        os.waitpid(between, 0)
        for fd in (told_fd, go_fd, gone_fd, *fds):
            os.close(fd)
        orders.sendall(told)


def _become(program: str, orders: Mapping[str, Any], fds: Sequence[int]) -> NoReturn:
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if orders["session"]:
            os.setsid()
        if orders["die"]:
            _die_with_parent()
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        os.chdir(orders["cwd"])
        os.environ.clear()
        os.environ.update(orders["env"])
        sys.stdin, sys.stdout = _stream(0, "r", sys.stdin), _stream(1, "w", sys.stdout)
        sys.stderr = _stream(2, "w", sys.stderr)
        sys.argv = [program, *orders["arguments"]]
        gc.enable()
        try:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _stream(fd: int, mode: str, like: IO[Any]) -> io.TextIOWrapper:
    raw = open(fd, f"{mode}b", closefd=False)  # noqa: SIM115
    each_line = fd == 2 or os.isatty(fd)
    return io.TextIOWrapper(raw, like.encoding, like.errors, line_buffering=each_line)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    _serve(sys.argv[1], socket.socket(fileno=int(sys.argv[2])))
