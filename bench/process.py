"""One command as a fresh process tree: its wall time, its CPU, the peak memory of each process."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SAMPLE_S = 0.05
_OUTPUT_TAIL_BYTES = 4000
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The high-water mark of one process's resident memory, by the kernel's own count."""

    pid: int
    command: str
    rss_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A finished command. ``cpu_s``: user and system time of it and all it waited for.

    ``tree_rss_bytes``: the most that all its processes had at one moment, pages they share
    counted once for each; sampled, so a little less than the truth. ``tree_pss_bytes``: the same
    with each shared page divided among those that have it; 0 unless it was asked for.
    """

    exit_code: int
    wall_s: float
    cpu_s: float
    root: Peak
    descendants: tuple[Peak, ...]
    tree_rss_bytes: int
    tree_pss_bytes: int = 0
    last_words: str


def run_measured(
    command: Sequence[str],
    *,
    folder: Path,
    env: Mapping[str, str],
    timeout_s: float,
    shared_memory: bool = False,
) -> Measured:
    """Run to the end, standard output to /dev/null, standard error to a file in ``folder``.
    ``shared_memory``: reckon it, too, which costs the machine a few percent.

    A command that outlives ``timeout_s`` is killed with its process group: exit code -9.
    """
    log = folder / "stderr.txt"
    with log.open("wb") as stderr:
        began_s = time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env=dict(env),
            start_new_session=True,
        )
        sampler = PeakSampler(process.pid, shared=shared_memory)
        sampler.start()
        usage = _wait(process, timeout_s)
        wall_s = time.monotonic() - began_s
    peaks = sampler.finish()
    sampled = (*peaks.values(), Peak(pid=0, command="", rss_bytes=0))
    return Measured(
        exit_code=process.returncode,
        wall_s=wall_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        root=peaks.pop(process.pid, Peak(pid=process.pid, command="", rss_bytes=0)),
        descendants=tuple(peaks.values()),
        tree_rss_bytes=max(sampler.tree_rss_bytes, *(p.rss_bytes for p in sampled)),
        tree_pss_bytes=sampler.tree_pss_bytes,
        last_words=log.read_bytes()[-_OUTPUT_TAIL_BYTES:].decode(errors="replace").strip(),
    )


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> resource.struct_rusage:
    """Wait for the end, sets ``returncode``. Nothing survives the limit, or an interruption."""
    killer = threading.Timer(timeout_s, os.killpg, (process.pid, signal.SIGKILL))
    killer.start()
    try:
        # wait4 rather than Popen.wait: the kernel adds up the whole tree's CPU, to the tick.
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        killer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage


class PeakSampler(threading.Thread):
    """Follows a process tree and remembers each process's ``VmHWM``.

    The kernel keeps the high-water mark itself, so a sample misses no peak that came before
    it, only growth within a process's last moments. ``ru_maxrss`` would be wrong here: it
    counts the parent's memory between fork and exec.
    """

    def __init__(self, root_pid: int, *, shared: bool = False) -> None:
        """``root_pid``: the tree's root; its descendants are found by their parent's pid.
        ``shared``: see ``Measured.tree_pss_bytes``."""
        super().__init__(name="peak-sampler", daemon=True)
        self._tree = {root_pid}
        self._others: set[int] = set()
        self._commands: dict[int, str] = {}
        self._peaks: dict[int, int] = {}
        self._over = threading.Event()
        self._shared = shared
        self.tree_rss_bytes = 0
        self.tree_pss_bytes = 0
        self._sample(root_pid)

    def run(self) -> None:
        """Sample until told to stop, and then once more."""
        over = False
        while not over:
            over = self._over.wait(_SAMPLE_S)
            self._adopt()
            for pid in self._tree:
                self._sample(pid)
            now_bytes = sum(_resident_bytes(pid) for pid in self._tree)
            self.tree_rss_bytes = max(self.tree_rss_bytes, now_bytes)
            if self._shared:
                now_bytes = sum(_proportional_bytes(pid) for pid in self._tree)
                self.tree_pss_bytes = max(self.tree_pss_bytes, now_bytes)

    def finish(self) -> dict[int, Peak]:
        """Stop; what was seen, by pid."""
        self._over.set()
        self.join()
        return {
            pid: Peak(pid=pid, command=self._commands.get(pid, ""), rss_bytes=rss_bytes)
            for pid, rss_bytes in self._peaks.items()
        }

    def _adopt(self) -> None:
        """Look at each new pid once: cheap enough to do twenty times a second."""
        for pid in sorted(pid for pid in _pids() if pid not in self._tree | self._others):
            known = self._tree if _parent(pid) in self._tree else self._others
            known.add(pid)

    def _sample(self, pid: int) -> None:
        # Between fork and exec a child still is its parent, memory included: what was seen
        # under another command line does not count.
        command = _command_line(pid)
        if not command:
            return
        if command != self._commands.get(pid):
            self._commands[pid] = command
            self._peaks.pop(pid, None)
        self._peaks[pid] = max(_high_water_bytes(pid), self._peaks.get(pid, 0))


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit())


def _read(pid: int, name: str) -> bytes:
    """A file of /proc; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _parent(pid: int) -> int | None:
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if len(fields) > 1 else None


def _high_water_bytes(pid: int) -> int:
    for line in _read(pid, "status").splitlines():
        if line.startswith(b"VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _resident_bytes(pid: int) -> int:
    fields = _read(pid, "statm").split()
    return int(fields[1]) * _PAGE_BYTES if len(fields) > 1 else 0


def _proportional_bytes(pid: int) -> int:
    for line in _read(pid, "smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _command_line(pid: int) -> str:
    return _read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()
