"""A finished file of one chunk, and the receipt that lets anybody publish it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from rivet_fleet.contracts.codec import canonical_json
from rivet_fleet.contracts.quality import UniqueStats

Receipt = Mapping[str, object]
"""Plain JSON. Whatever a destination needs to make staged bytes visible, from any process."""


def receipt_key(receipt: Receipt) -> str:
    """A receipt as canonical JSON text: equal receipts have equal keys, whatever their order."""
    return canonical_json(dict(receipt)).decode()


class PartStatus(Enum):
    """Where a ledger row stands."""

    COMMITTED = "committed"
    PUBLISHED = "published"
    VOIDED = "voided"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartDigest:
    """What identifies the bytes of a part (M3)."""

    rows: int
    size_bytes: int
    fingerprint: str
    """``xxh3:<16 hex>`` over the exact bytes."""
    md5_base64: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnStats:
    """Mergeable per-column facts of one part: counts add up, extremes widen."""

    name: str
    nulls: int
    minimum: str | None = None
    maximum: str | None = None
    changed: int = 0
    """Values a stated policy had to change; 0 means every value is exactly the source's."""
    checksum: str | None = None
    """``<kind>:<16 hex>`` over all values in any order (ADR 0021); None: nobody computed it."""


def added_checksums(checksums: Sequence[str | None]) -> str | None:
    """The checksum of all that these speak of. None when one is missing, or of another kind."""
    kinds = {text.partition(":")[0] if text else None for text in checksums}
    if len(kinds) != 1 or None in kinds:
        return None
    total = sum(int(text.partition(":")[2], 16) for text in checksums if text)
    return f"{kinds.pop()}:{total % 2**64:016x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedPart:
    """One part, durably stored and invisible. ``path`` is relative to the dataset prefix."""

    part_number: int
    path: str
    digest: PartDigest
    receipt: Receipt
    columns: tuple[ColumnStats, ...] = ()
    uniques: tuple[UniqueStats, ...] = ()
    """One entry per unique key of the export's quality gates, in the plan's order."""

    def committed(
        self, *, run_id: str, export_name: str, chunk_index: int, fence: int
    ) -> LedgerPart:
        """Its row in the ledger once the chunk is committed."""
        return LedgerPart(
            run_id=run_id,
            export_name=export_name,
            chunk_index=chunk_index,
            part_number=self.part_number,
            fence=fence,
            path=self.path,
            digest=self.digest,
            receipt=self.receipt,
            status=PartStatus.COMMITTED,
            columns=self.columns,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerPart:
    """One row of ``file_log``: a part the commit transaction accepted."""

    run_id: str
    export_name: str
    chunk_index: int
    part_number: int
    fence: int
    path: str
    digest: PartDigest
    receipt: Receipt
    status: PartStatus
    columns: tuple[ColumnStats, ...] = field(default=())


def part_path(
    *, run_id: str, export_name: str, chunk_index: int, part_number: int, fence: int, extension: str
) -> str:
    """Where a part becomes visible, relative to the dataset prefix.

    One folder per run, so that globbing it is exactly-once; the fence is in the name, so an
    old attempt can never overwrite a newer one (F9).
    """
    name = f"{export_name}-c{chunk_index:06d}-p{part_number:03d}-f{fence}.{extension}"
    return f"{run_id}/{name}"
