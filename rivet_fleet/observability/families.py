"""Partitions of one export as one line, beside it only those worth their own. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rivet_fleet.observability.redaction import one_line
from rivet_fleet.observability.units import bytes_text, scaled_text

if TYPE_CHECKING:
    from rivet_fleet.observability.status import ExportStatus

FOLDED_FROM = 13
"""So many partitions of one export are told together."""
HEAD = ("export", "status", "chunks", "running", "committed", "failed", "rows", "size")
_Cells = tuple[str, ...]


def export_rows(exports: Sequence[ExportStatus]) -> list[_Cells]:
    """A row for each export; a large family has one for all, and one for each member that runs
    or has failed."""
    sizes = Counter(export.family for export in exports if export.family)
    rows: list[_Cells] = []
    told: set[str] = set()
    for export in exports:
        if sizes[export.family] < FOLDED_FROM:
            rows.append(_row(export))
            continue
        if export.family not in told:
            told.add(export.family)
            rows.append(_together([one for one in exports if one.family == export.family]))
        if export.chunks.running or export.chunks.failed or export.status == "failed":
            rows.append(_row(export))
    return rows


def _row(export: ExportStatus) -> _Cells:
    return (
        one_line(export.export_name, str, 40),
        export.status,
        f"{export.chunks.completed}/{export.chunks_expected}",
        str(export.chunks.running),
        str(export.chunks.committed),
        str(export.chunks.failed),
        scaled_text(export.rows),
        bytes_text(export.bytes),
    )


def _together(members: Sequence[ExportStatus]) -> _Cells:
    done = sum(one.status == "completed" for one in members)
    chunks = [one.chunks for one in members]
    return (
        one_line(f"{members[0].family} ({len(members)} partitions)", str, 40),
        f"{done} completed",
        f"{sum(one.completed for one in chunks)}/{sum(one.chunks_expected for one in members)}",
        str(sum(one.running for one in chunks)),
        str(sum(one.committed for one in chunks)),
        str(sum(one.failed for one in chunks)),
        scaled_text(sum(one.rows for one in members)),
        bytes_text(sum(one.bytes for one in members)),
    )
