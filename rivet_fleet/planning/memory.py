"""From one worker's memory ceiling to the sizes of what it holds. Pure arithmetic.

The process itself (interpreter, Arrow, drivers, what the heap cannot give back) takes
``PROCESS_BYTES`` of the ceiling (measured: ADR 0014); the rest is for data. At the same moment
a worker holds a row group (G), a page that is being written, one that waits for the encoder and
one that arrives (3 P). With G = 1/4 and P = 1/5 that is 17/20; the rest is a column's encoded form
and the heap's gaps.
"""

from __future__ import annotations

from dataclasses import dataclass

from rivet_fleet.planning.sizes import MIB

PROCESS_BYTES = 134 * MIB
DATA_BYTES_MIN = 6 * MIB
PAGE_BYTES_MAX = 64 * MIB
ROW_GROUP_BYTES_MAX = 128 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBudget:
    """What one worker may hold, in bytes of Arrow data."""

    page_bytes: int
    row_group_bytes: int
    value_bytes: int
    """Half of what is for data: a larger value cannot be held as it arrives and as it is kept."""


def memory_budget(worker_memory_mb: int) -> MemoryBudget:
    """150 MB: pages of 3.2 MB, row groups of 4 MB, values of up to 8 MB."""
    data = max(worker_memory_mb * MIB - PROCESS_BYTES, DATA_BYTES_MIN)
    return MemoryBudget(
        page_bytes=min(data // 5, PAGE_BYTES_MAX),
        row_group_bytes=min(data // 4, ROW_GROUP_BYTES_MAX),
        value_bytes=data // 2,
    )
