"""Who this process is, and whether another one on this host still lives."""

from __future__ import annotations

import hashlib
import os
import socket
import uuid
from pathlib import Path

import psutil

from rivet_fleet.contracts.keys import WorkerId
from rivet_fleet.contracts.lease import WorkerIdentity

_START_TOLERANCE_S = 0.05


def host_id() -> str:
    """Equal for two processes exactly when one can see the other's pid.

    The boot and the pid namespace decide: host names repeat across containers, and pids
    repeat across boots.
    """
    seen = [_read("/proc/sys/kernel/random/boot_id"), _link("/proc/self/ns/pid")]
    if not all(seen):
        seen = [socket.gethostname(), str(psutil.boot_time())]
    digest = hashlib.sha256("|".join(seen).encode()).hexdigest()[:12]
    return f"{socket.gethostname()}-{digest}"


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""


def pid_started_at_s(pid: int) -> float | None:
    """When a process started, on the boot's clock, or None when it is gone.

    The boot's clock does not move when somebody sets the time of day.
    """
    stat = _read(f"/proc/{pid}/stat")
    if stat:
        fields = stat.rpartition(")")[2].split()
        if fields[0] in ("Z", "X"):
            return None
        return int(fields[19]) / os.sysconf("SC_CLK_TCK")
    if Path("/proc/self/stat").exists():
        return None
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def process_alive(pid: int, started_at_s: float) -> bool:
    """True when this very process lives: a reused pid has another start time."""
    now_s = pid_started_at_s(pid)
    return now_s is not None and abs(now_s - started_at_s) <= _START_TOLERANCE_S


def awaits_parent(pid: int) -> bool:
    """True for an ended process whose living parent has not asked yet how it ended."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return len(fields) > 1 and fields[0] == "Z" and fields[1] != "1"


def new_worker_id() -> WorkerId:
    """Unique per process start (F4)."""
    return WorkerId(f"w-{uuid.uuid4().hex[:16]}")


def this_process(
    name: str, *, worker_id: WorkerId | None = None, host: str | None = None
) -> WorkerIdentity:
    """The identity of the calling process. ``host`` overrides the host for tests."""
    pid = os.getpid()
    return WorkerIdentity(
        worker_id=worker_id or new_worker_id(),
        name=name,
        host_id=host or host_id(),
        pid=pid,
        pid_started_at_s=pid_started_at_s(pid) or 0.0,
    )
