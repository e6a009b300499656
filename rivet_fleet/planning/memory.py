"""From one worker's memory ceiling to the sizes of what it holds. Pure arithmetic.

At the same moment a worker holds a page on the wire, a page decoded, one waiting in the queue,
and a row group with its encoded form: about 3 pages + 2 row groups. With a page of 1/64 and a
row group of 1/32 of the ceiling that is 7/64; cells that are Python objects for a moment, the
interpreter and its libraries take the rest of the smallest sensible ceiling.
"""

from __future__ import annotations

from dataclasses import dataclass

from rivet_fleet.planning.sizes import MIB

PAGE_SHARE = 64
ROW_GROUP_SHARE = 32
PAGE_BYTES_MIN = 1 * MIB
PAGE_BYTES_MAX = 64 * MIB
ROW_GROUP_BYTES_MIN = 4 * MIB
ROW_GROUP_BYTES_MAX = 128 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBudget:
    """What one worker may hold, in bytes of Arrow data."""

    page_bytes: int
    row_group_bytes: int
    value_bytes: int
    """Half of the ceiling: a larger value cannot be held twice."""


def memory_budget(worker_memory_mb: int) -> MemoryBudget:
    """512 MB: pages of 8 MB, row groups of 16 MB. Never below 1 MB and 4 MB."""
    ceiling = worker_memory_mb * MIB
    return MemoryBudget(
        page_bytes=min(max(ceiling // PAGE_SHARE, PAGE_BYTES_MIN), PAGE_BYTES_MAX),
        row_group_bytes=min(
            max(ceiling // ROW_GROUP_SHARE, ROW_GROUP_BYTES_MIN), ROW_GROUP_BYTES_MAX
        ),
        value_bytes=ceiling // 2,
    )
