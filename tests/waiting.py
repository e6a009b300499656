"""Waiting for a condition, with a limit: the one place of the tests that sleeps."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

_LOOK_S = 0.01


def until(seen: Callable[[], Any], *, limit_s: float = 60.0, what: str = "it") -> Any:
    """Look until there is something to see, and return it."""
    deadline_s = time.monotonic() + limit_s
    while not (found := seen()):
        if time.monotonic() > deadline_s:
            raise AssertionError(f"{what} did not happen within {limit_s} s")
        time.sleep(_LOOK_S)
    return found


def has_ended(process: subprocess.Popen[Any], *, within_s: float = _LOOK_S) -> bool:
    """Wait a moment for a process's end: True when it has ended."""
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        return False
    return True
