"""What metadata says about reading one export, before it is read. Pure (inventory §5.6, §5.7).

A verdict and its warnings advise: they never block a run, and never make a weak estimate
sound like knowledge.
"""

from __future__ import annotations

from dataclasses import dataclass

from rivet_fleet.contracts.priority import Preflight, PreflightWarning, Severity, Verdict
from rivet_fleet.planning.sizes import MIB

ACCEPTABLE_UNINDEXED_ROWS = 100_000
DEGRADED_ROWS = 1_000_000
EFFICIENT_ROWS_MAX = 10_000_000
CURSOR_DEGRADED_ROWS_MAX = 50_000_000
PEAK_MB_MAX = 2048
SPARSE_DENSITY = 0.1
SPARSE_WINDOWS = 10
CHUNK_BYTES_MAX = 256 * MIB
PARALLEL_MEMORY_ROWS = 5_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What is known of one export's reading.

    ``uses_index``: each statement reads only its own rows; None when nobody knows. ``cursor``:
    the columns it moves along are known. ``key_span``: greatest minus least value of a
    whole-number range, plus one; None for every other way of reading. ``rows_per_chunk`` and
    ``connections_max`` are None when unknown.
    """

    uses_index: bool | None
    cursor: bool
    rows: int | None
    rows_from: str = "estimate"
    row_bytes: int | None = None
    chunked: bool = False
    keyset: bool = False
    parallel: int = 1
    key_span: int | None = None
    rows_per_chunk: int | None = None
    connections_max: int | None = None


def peak_mb(parallel: int, row_bytes: int) -> float:
    """The model of Rivet's resident memory: 16 MB and a clamped share for each reader."""
    return 16 + parallel * min(max(18 + row_bytes * 87 / 4096, 18), 128)


def verdict(access: Access) -> Verdict:
    """One of four. Unknown access counts as no index: weak metadata never strengthens."""
    rows = access.rows
    if access.uses_index:
        if not access.cursor:
            return Verdict.ACCEPTABLE
        # Unknown is no proof of few: only a known number makes it efficient.
        small = rows is not None and rows <= EFFICIENT_ROWS_MAX
        return Verdict.EFFICIENT if small else Verdict.ACCEPTABLE
    if rows is not None and rows < ACCEPTABLE_UNINDEXED_ROWS:
        return Verdict.ACCEPTABLE
    if rows is None or rows <= DEGRADED_ROWS:
        return Verdict.DEGRADED
    if access.cursor and rows <= CURSOR_DEGRADED_ROWS_MAX:
        return Verdict.DEGRADED
    fits = access.row_bytes is not None
    if fits and peak_mb(access.parallel, access.row_bytes or 0) <= PEAK_MB_MAX:
        return Verdict.DEGRADED
    return Verdict.UNSAFE


def recommended_profile(access: Access) -> str:
    """fast, balanced or safe (inventory §5.7)."""
    rows = access.rows
    if access.uses_index:
        if rows is None:
            return "balanced"
        return "fast" if rows <= 1_000_000 else "balanced" if rows <= 10_000_000 else "safe"
    if rows is None:
        return "safe"
    if rows <= 100_000:
        return "safe" if access.parallel > 1 else "balanced"
    return "balanced" if rows <= 1_000_000 else "safe"


def recommended_parallel(access: Access) -> int:
    """How many chunks of it at once; only chunked exports can use more than one."""
    rows = access.rows
    if not access.chunked:
        return 1
    if access.keyset:
        return max(access.parallel, 1)
    if rows is not None and rows < 50_000:
        return 1
    if not access.uses_index:
        return 1 if rows is None or rows > 5_000_000 else 2
    if rows is None or rows < 500_000:
        return 2
    return 4


def sparse_range(access: Access) -> bool:
    """True when the span of a whole-number range is mostly empty."""
    rows, span = access.rows, access.key_span
    if rows is None or rows <= 0 or span is None or span <= 0:
        return False
    windows = -(-span // max(access.rows_per_chunk or 1, 1))
    return rows / span < SPARSE_DENSITY and windows > SPARSE_WINDOWS


def preflight(access: Access) -> Preflight:
    """Verdict, recommendations and warnings of one export."""
    return Preflight(
        verdict=verdict(access),
        rows=access.rows,
        rows_from=access.rows_from if access.rows is not None else "none",
        recommended_profile=recommended_profile(access),
        recommended_parallel=recommended_parallel(access),
        warnings=tuple(_warnings(access)),
    )


def _warnings(access: Access) -> list[PreflightWarning]:
    found: list[PreflightWarning] = []
    limit = access.connections_max
    # Unknown is no warning here: workers and source_groups bound connections, not the export.
    if access.parallel > 1 and limit is not None and access.parallel >= limit:
        said = (
            f"{access.parallel} readers reach the source's limit of {limit} connections; "
            f"use at most {max(limit - 3, 1)}"
        )
        found.append(_warning("connection_limit", Severity.HIGH, said))
    if sparse_range(access):
        assert access.rows is not None and access.key_span is not None
        said = (
            f"sparse key range: about {access.rows:,} rows over {access.key_span:,} values "
            f"({access.rows / access.key_span:.2%}); a unique key would find them directly"
        )
        found.append(_warning("sparse_range", Severity.MEDIUM, said))
    rows_per_chunk = access.rows_per_chunk or 0
    if access.rows is not None:
        rows_per_chunk = min(rows_per_chunk, access.rows)
    chunk_bytes = rows_per_chunk * (access.row_bytes or 0)
    if chunk_bytes > CHUNK_BYTES_MAX:
        wanted = CHUNK_BYTES_MAX // max(access.row_bytes or 1, 1)
        said = (
            f"a chunk holds about {chunk_bytes // MIB:,} MiB, which one failure repeats; "
            f"chunk_size: {wanted} makes it 256 MiB"
        )
        found.append(_warning("oversized_chunk", Severity.MEDIUM, said))
    if access.parallel > 1 and (access.rows or 0) > PARALLEL_MEMORY_ROWS:
        said = (
            f"{access.parallel} readers of about {access.rows:,} rows: about "
            f"{peak_mb(access.parallel, access.row_bytes or 0):.0f} MB of memory together"
        )
        found.append(_warning("parallel_memory", Severity.HIGH, said))
    if access.uses_index is False and (access.rows or 0) >= ACCEPTABLE_UNINDEXED_ROWS:
        said = (
            f"no index serves the way it is read, and there are about {access.rows:,} rows: "
            "each statement searches the table"
        )
        found.append(_warning("missing_index", Severity.MEDIUM, said))
    return found


def _warning(code: str, severity: Severity, message: str) -> PreflightWarning:
    return PreflightWarning(code=code, severity=severity, message=message)
