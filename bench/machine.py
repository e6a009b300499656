"""What was measured on: facts that explain figures, and nothing that names the machine."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

_GIB = 1024**3


def machine_facts() -> dict[str, str]:
    """The machine and what is always the same on it, in the order they are shown."""
    return {
        "cpu": f"{_cpu_model()}, {os.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / _GIB:.0f} GiB",
        "system": f"{_system_name()}, Linux {platform.release()}",
        "python": platform.python_version(),
        "rivet-fleet's pyarrow": _version("pyarrow"),
    }


def moment_facts(root: Path, *, load_before: float) -> dict[str, str]:
    """What differs from one invocation to the next. ``load_before``: one-minute load."""
    return {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "rivet-fleet": f"{_version('rivet-fleet')} ({_commit(root)})",
        "load before": f"{load_before:.2f}",
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _system_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit(root: Path) -> str:
    """The short commit, marked when files differ from it."""
    described = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty"],
        check=False,
        capture_output=True,
        text=True,
    )
    return described.stdout.strip() or "no commit"
