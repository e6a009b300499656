"""How many chunks: from rows, never from the span of the keys (bug class 38). Pure."""

from __future__ import annotations

from dataclasses import dataclass

from rivet_fleet.contracts.facts import KeyFacts, SourceFacts
from rivet_fleet.planning.chunker import chunks_wanted
from rivet_fleet.planning.config_models import CHUNK_SIZE_DEFAULT, CHUNKS_MAX, ExportConfig
from rivet_fleet.planning.sizes import MIB

CHUNKS_UNKNOWN = 16
"""Without an estimate of rows: enough to share work, few enough to be harmless."""
ROW_BYTES_UNKNOWN = 512
MEMORY_ROWS_MIN, MEMORY_ROWS_MAX = 10_000, 5_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """What was asked for. ``count`` wins; ``rows`` is the size of one chunk otherwise."""

    count: int | None
    rows: int
    dense: bool = False
    """Chunks shall hold exactly ``rows`` rows."""


def sizing_of(export: ExportConfig, facts: SourceFacts) -> Sizing:
    """The export's chunk knobs; memory becomes rows by the row's width (inventory §5.9)."""
    if export.chunk_size_memory_mb is not None:
        width = facts.row_width_bytes or ROW_BYTES_UNKNOWN
        rows = export.chunk_size_memory_mb * MIB // max(width, 1)
        return Sizing(count=None, rows=min(max(rows, MEMORY_ROWS_MIN), MEMORY_ROWS_MAX))
    return Sizing(
        count=export.chunk_count,
        rows=export.chunk_size or CHUNK_SIZE_DEFAULT,
        dense=export.chunk_dense,
    )


def believable_rows(facts: SourceFacts, key: KeyFacts | None) -> int | None:
    """The estimate, unless the key's extremes contradict it (never analysed, or stale)."""
    rows = facts.row_estimate
    if rows == 0 and key is not None and key.minimum is not None:
        return None
    return rows


def chunk_count(sizing: Sizing, rows: int | None, unknown: int) -> tuple[int, list[str]]:
    """How many chunks to aim for, and what has to be said about it.

    ``unknown`` is the count to fall back to without an estimate.
    """
    if sizing.count is not None:
        return sizing.count, []
    wanted = chunks_wanted(rows, sizing.rows)
    if wanted is None:
        return min(unknown, CHUNKS_MAX), [
            f"the source has no estimate of rows: {unknown} chunk(s) were planned, "
            "which may be uneven; let the source collect statistics"
        ]
    if wanted > CHUNKS_MAX:
        larger = -(-(rows or 0) // CHUNKS_MAX)
        return CHUNKS_MAX, [
            f"chunks of {sizing.rows} rows would be {wanted}: "
            f"enlarged to {larger} rows to keep to {CHUNKS_MAX} chunks"
        ]
    return wanted, []
