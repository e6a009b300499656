"""From one worker's memory ceiling to the sizes of what it holds. Pure arithmetic.

The process itself (interpreter, Arrow, drivers) takes ``PROCESS_BYTES`` of the ceiling; the rest
is for data. At the same moment a worker holds a page that arrives (P), up to two pages between
reader and encoder (2 P), and a row group, the last page of which may overlap its end (G + P),
one of those pages being in both: about G + 3 P, and the encoded form of one column. With
P = 1/5 and G = 1/4 of the data that is 17/20.
"""

from __future__ import annotations

from dataclasses import dataclass

from rivet_fleet.planning.sizes import MIB

PROCESS_BYTES = 120 * MIB
DATA_BYTES_MIN = 8 * MIB
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
    """150 MB: pages of 6 MB, row groups of 7.5 MB, values of up to 15 MB."""
    data = max(worker_memory_mb * MIB - PROCESS_BYTES, DATA_BYTES_MIN)
    return MemoryBudget(
        page_bytes=min(data // 5, PAGE_BYTES_MAX),
        row_group_bytes=min(data // 4, ROW_GROUP_BYTES_MAX),
        value_bytes=data // 2,
    )
