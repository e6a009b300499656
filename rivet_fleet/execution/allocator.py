"""Giving memory back: what a page or a row group needed must not stay with the worker. And taking
no more than so much of it."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

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


@contextlib.contextmanager
def memory_bounded(grows_bytes_max: int) -> Iterator[None]:
    """Inside, this process grows by so much at most, whatever it reads; more is MemoryError,
    Arrow's too. By its address space (setrlimit(2), RLIMIT_AS), which all threads share: for a
    process that does nothing else. Where nobody says how large it is (not Linux) nothing happens.
    """
    import resource

    before, pool = resource.getrlimit(resource.RLIMIT_AS), pa.default_memory_pool()
    # The first use of Arrow's own pool takes a gigabyte of addresses; large blocks of the C
    # allocator are new ones.
    pa.allocate_buffer(1, memory_pool=pool)
    pa.set_memory_pool(pa.system_memory_pool())
    trim_heap()
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGESIZE") + grows_bytes_max
        if before[0] == resource.RLIM_INFINITY or most < before[0]:
            resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        pa.set_memory_pool(pool)
