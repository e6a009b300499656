"""Walking a key's index in bounded statements: exact row percentiles, for every engine.

Used when a plan asks for chunks of exactly so many rows (``chunk_dense``, ADR 0012). Nothing is
numbered and nothing is sorted: each step skips a bounded number of index entries.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rivet_fleet.contracts.keys import KeyTuple
from rivet_fleet.execution.paging import Progress

KeyAt = Callable[[KeyTuple | None, str, int], KeyTuple | None]
"""``(from, operator, skip)``: the key ``skip`` entries behind the first one that is
``operator from``; from the very beginning when ``from`` is None. None when there is none."""

STEP_ROWS_MAX = 50_000
"""Index entries one statement skips at most, so that each stays short."""
WALK_S_MAX = 600.0
WALKED_BOUNDARIES_MAX = 50_000
"""As many chunks as a plan may have."""


def walk_keys(
    key_at: KeyAt,
    *,
    columns: tuple[str, ...],
    every: int,
    boundaries_max: int,
    step_max: int = STEP_ROWS_MAX,
    now_s: Callable[[], float] = time.monotonic,
) -> tuple[KeyTuple, ...] | None:
    """Every ``every``-th key, rising: each but the last range holds exactly so many rows of a
    unique key. Equal keys stay together, so ranges of others may be smaller or larger by one run.

    At most ``boundaries_max``; None when it takes longer than ``WALK_S_MAX``. Raises
    MalformedData when the walk comes back to a key it has passed.
    """
    began_s = now_s()
    at, progress = key_at(None, ">=", 0), Progress(columns)
    found: list[KeyTuple] = []
    while at is not None and len(found) < boundaries_max:
        begin, rest = at, every
        while at is not None and rest > 0:
            if now_s() - began_s > WALK_S_MAX:
                return None
            step = min(rest, step_max)
            ahead = key_at(at, ">=", step)
            at = key_at(at, ">", 0) if ahead == at else ahead
            if at is not None:
                progress.to(">", at)
            rest -= step
        if at is not None and at != begin:
            found.append(at)
    return tuple(found)
