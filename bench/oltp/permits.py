"""What the governor allowed during a window, by the campaign's own journal."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

_EVENTS = ("governor.shed", "governor.paused", "governor.resumed", "governor.regained")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """From this moment on, in seconds from the window's begin, so many chunks may run."""

    at_s: float
    permits: int


def told(config: Path, environ: Mapping[str, str]) -> list[dict[str, Any]]:
    """The governor's entries in the journal, oldest first. Raises RuntimeError."""
    only = [word for name in _EVENTS for word in ("--event", name)]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "rivet_fleet", "journal", "-c", config.name),
            *("--last", "100000", "--json", *only),
        ],
        cwd=config.parent,
        check=False,
        capture_output=True,
        text=True,
        env=dict(environ),
        timeout=60,
    )
    if done.returncode:
        raise RuntimeError(f"no journal: {done.stderr.strip()[-300:]}")
    entries: list[dict[str, Any]] = json.loads(done.stdout)
    return entries


def steps(entries: Sequence[Mapping[str, Any]], *, began_s: float, most: int) -> tuple[Step, ...]:
    """The journal as a staircase; the first step is what was allowed when the window began."""
    found = sorted((float(one["at_s"]) - began_s, int(one["data"]["to"])) for one in entries)
    before = [permits for at_s, permits in found if at_s <= 0]
    stairs = [Step(at_s=0.0, permits=before[-1] if before else most)]
    for at_s, permits in found:
        if at_s > 0 and permits != stairs[-1].permits:
            stairs.append(Step(at_s=at_s, permits=permits))
    return tuple(stairs)


def mean_permits(stairs: Sequence[Step], *, begin_s: float, end_s: float) -> float:
    """Averaged over time. Raises ValueError without a step."""
    if not stairs or end_s <= begin_s:
        raise ValueError("no steps, or no time")
    ends = [*stairs, Step(at_s=max(end_s, stairs[-1].at_s), permits=0)]
    area = sum(
        one.permits * max(0.0, min(after.at_s, end_s) - max(one.at_s, begin_s))
        for one, after in pairwise(ends)
    )
    return area / (end_s - begin_s)


def staircase(stairs: Sequence[Step], *, end_s: float) -> str:
    """Such as ``4, from 0.6 s 3, from 1.1 s 1``."""
    first, *others = [one for one in stairs if one.at_s < end_s]
    return ", ".join(
        [str(first.permits), *(f"from {one.at_s:.1f} s {one.permits}" for one in others)]
    )
