"""Checksums of columns: what a manifest says against what its files hold (ADR 0021)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rivet_fleet.contracts.manifest import ChecksumState
from rivet_fleet.contracts.part import added_checksums
from rivet_fleet.execution.format import PartFormat
from rivet_fleet.verification.findings import Verification, VerifyCode
from rivet_fleet.verification.manifests import FoundManifest, FoundPart

_NAMED_MAX = 10


class ColumnCheck:
    """Compares the parts of one manifest, one by one, then the whole."""

    def __init__(self, manifest: FoundManifest, part_format: PartFormat) -> None:
        self._columns = manifest.columns
        self._count = len(manifest.parts)
        self._only_totals = manifest.checksums == ChecksumState.TOTALS.value
        self._format = part_format
        self._seen = 0
        self._totals: dict[str, str | None] = {}

    def part(self, local: Path, part: FoundPart, verdict: Verification) -> None:
        """Read the file at ``local`` and compare it. Raises DataIntegrityError when it cannot be
        decoded, OSError when it cannot be read."""
        if self._only_totals:
            self._add(self._format.checksums(local))
        elif part.checksums is not None:
            found = self._format.checksums(local)
            differing, compared = _compared(part.checksums, found)
            if differing:
                text = f"{part.path} holds other values than were read: {_named(differing)}"
                verdict.find(VerifyCode.COLUMN_CHECKSUM, text, part.path)
            elif compared:
                verdict.parts_checksums_verified += 1

    def whole(self, verdict: Verification) -> None:
        """Where a manifest speaks of all parts alone: compare their sum, if all were read."""
        if not self._only_totals or self._seen < self._count:
            return
        found = {name: text for name, text in self._totals.items() if text is not None}
        differing, compared = _compared(self._columns, found)
        if differing:
            text = f"the parts together hold other values than were read: {_named(differing)}"
            verdict.find(VerifyCode.COLUMN_CHECKSUM, text)
        elif compared:
            verdict.parts_checksums_verified = self._seen

    def _add(self, found: Mapping[str, str]) -> None:
        for name in self._columns:
            text = found.get(name)
            self._totals[name] = added_checksums([self._totals[name], text]) if self._seen else text
        self._seen += 1


def _compared(
    expected: Mapping[str, str | None], found: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """Columns that differ, and those that could be compared: one that is gone, or has become a
    type without checksums, differs; of a sum of another kind, a newer program's, nothing can be
    said."""
    differing, compared = [], []
    for name, text in expected.items():
        there = found.get(name)
        if text is None or (there is not None and _kind(there) != _kind(text)):
            continue
        compared.append(name)
        if there != text:
            differing.append(name)
    return differing, compared


def _kind(checksum: str) -> str:
    return checksum.partition(":")[0]


def _named(columns: list[str]) -> str:
    """``column "a"``, ``columns "a", "b"``, and how many more."""
    names = ", ".join(f'"{name}"' for name in columns[:_NAMED_MAX])
    more = len(columns) - _NAMED_MAX
    word = "column" if len(columns) == 1 else "columns"
    return f"{word} {names}" + (f" and {more} more" if more > 0 else "")
