"""Giving memory back: what a page or a row group needed must not stay with the worker."""

from __future__ import annotations

import ctypes

import pyarrow as pa

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_THRESHOLD_BYTES = 4 * 1024 * 1024
"""Smaller blocks are used again from the heap: mapping and unmapping each of a page's buffers cost
a fifth of the worker's CPU in page faults, to save 10 MB."""

_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_memory_back() -> None:
    """Let Arrow use the C allocator, and let that return large blocks to the system at once.

    Arrow's own pool keeps what it once had, and glibc raises its threshold for separate
    mappings with every large block that is freed, so a worker would stay at its highest page
    for good (mallopt(3), M_MMAP_THRESHOLD). On a C library without mallopt nothing happens.
    Call it before the first Arrow allocation of the process.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_MMAP_THRESHOLD, _THRESHOLD_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _THRESHOLD_BYTES)
    mallopt(_M_ARENA_MAX, 2)


def trim_heap() -> None:
    """Give free pages inside the heap back to the system (malloc_trim(3)): before a worker
    idles, and before its memory is judged. The next chunk's pages use the same heap again: between
    chunks it would cost a walk over all of it, and every page's faults anew."""
    if _malloc_trim is not None:
        _malloc_trim(0)
