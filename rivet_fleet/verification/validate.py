"""``validate``: a manifest against what is really at the destination, values too. Reads only.

Depths and codes are those of ``findings``. The manifest's own ``status`` is looked at: a run
that says it failed never passes because its files happen to exist.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rivet_fleet.contracts.manifest import (
    LATEST_NAME,
    MANIFEST_NAME,
    SUCCESS_NAME,
    ChecksumState,
    LedgerPart,
    added_checksums,
    run_manifest_name,
)
from rivet_fleet.contracts.plan import FormatPlan
from rivet_fleet.errors import ConfigError, DataIntegrityError, DestinationError
from rivet_fleet.execution import registry
from rivet_fleet.execution.destination import Destination
from rivet_fleet.execution.parts import digest_file, fingerprint_bytes
from rivet_fleet.verification.apart import READING_BYTES_MAX, PartReader
from rivet_fleet.verification.findings import Depth, Verification, VerifyCode
from rivet_fleet.verification.manifests import (
    MANIFEST_BYTES_MAX,
    FoundManifest,
    FoundPart,
    ManifestUnreadable,
    newest_copy,
    parse_manifest,
    self_contradictions,
)

Ledger = Callable[[str, int], Sequence[LedgerPart] | None]
"""Run and generation → what the state accepted of it; None when it does not know the run."""

# ------------------------------------------------------------------------------------------
# Checksums of columns: what a manifest says against what its files hold (ADR 0021).

_NAMED_MAX = 10


class ColumnCheck:
    """Compares the parts of one manifest, one by one, then the whole."""

    def __init__(self, manifest: FoundManifest, reader: PartReader) -> None:
        self._columns = manifest.columns
        self._count = len(manifest.parts)
        self._only_totals = manifest.checksums == ChecksumState.TOTALS.value
        self._reader = reader
        self._seen = 0
        self._totals: dict[str, str | None] = {}

    def part(self, local: Path, part: FoundPart, verdict: Verification) -> None:
        """Read the file at ``local`` and compare it. Raises DataIntegrityError when it cannot be
        decoded, OSError when it cannot be read."""
        if self._only_totals:
            self._add(self._reader.checksums(local))
        elif part.checksums is not None:
            found = self._reader.checksums(local)
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


SUCCESS_BYTES_MAX = 4096
_SUCCESS_LINE = re.compile(rb"xxh3:[0-9a-f]{16}\n?")
_RUN_MANIFEST = re.compile(r"manifest-[^/]+\.json")


def validate_prefix(
    destination: Destination,
    *,
    depth: Depth = Depth.FULL,
    run_id: str | None = None,
    verify: str = "size",
    manifest_required: bool = False,
    ledger: Ledger | None = None,
) -> Verification:
    """Verify one prefix: its canonical manifest, or the copy of ``run_id``.

    ``verify`` ``content`` demands that every part was compared by its bytes, which only the
    full depth does here. ``manifest_required`` makes an absent manifest a failure. ``ledger``:
    what the state accepted of a run, None of one that it does not know. Problems are findings in
    the result; nothing is raised for them.
    """
    verdict = Verification(depth=depth, run_id=run_id)
    manifest = _read_manifest(destination, verdict, run_id, manifest_required)
    if manifest is None:
        return verdict
    _check_manifest(manifest, verdict)
    if ledger is not None:
        _check_ledger(manifest, ledger(manifest.run_id, manifest.generation), verdict)
    _check_success(destination, manifest, verdict, canonical=run_id is None)
    if depth is not Depth.LIGHT:
        _check_parts(destination, manifest, verdict, verify)
    return verdict


def _read_manifest(
    destination: Destination, verdict: Verification, run_id: str | None, required: bool
) -> FoundManifest | None:
    name = MANIFEST_NAME if run_id is None else run_manifest_name(run_id)
    try:
        if run_id is not None:
            name = newest_copy(destination, run_id)
        body = destination.read(name, MANIFEST_BYTES_MAX)
    except (DestinationError, DataIntegrityError) as error:
        verdict.find(VerifyCode.MANIFEST_READ_ERROR, error.message, name)
        return None
    if body is None:
        if required or run_id is not None:
            verdict.find(VerifyCode.MANIFEST_REQUIRED, f"{name} is not there", name)
        return None
    verdict.manifest_found = True
    try:
        return parse_manifest(body)
    except ManifestUnreadable as error:
        verdict.find(VerifyCode.MANIFEST_INCONSISTENT, f"{name}: {error}", name)
        return None


def _check_manifest(manifest: FoundManifest, verdict: Verification) -> None:
    contradictions = self_contradictions(manifest)
    if verdict.run_id not in (None, manifest.run_id):
        contradictions.append(f"it speaks of run {manifest.run_id}, not {verdict.run_id}")
    for text in contradictions:
        verdict.find(VerifyCode.MANIFEST_INCONSISTENT, text)
    verdict.run_id = manifest.run_id
    verdict.export_name = manifest.export_name
    verdict.rows = manifest.row_count
    verdict.manifest_self_consistent = not contradictions
    verdict.manifest_status = manifest.status
    if manifest.status != "success":
        verdict.find(VerifyCode.RUN_NOT_SUCCESSFUL, f"the manifest's status is {manifest.status!r}")


def _check_ledger(
    manifest: FoundManifest, parts: Sequence[LedgerPart] | None, verdict: Verification
) -> None:
    """Whoever writes to the destination can write a manifest that fits other files: the state
    knows what was accepted."""
    if parts is None:
        verdict.ledger = "unknown_run"
        return
    accepted = {part.path: part.digest for part in parts}
    listed = {part.path: part.digest for part in manifest.parts}
    differing = sorted(
        path for path in {*accepted, *listed} if accepted.get(path) != listed.get(path)
    )
    verdict.ledger = "differs" if differing else "consistent"
    for path in differing[:_NAMED_MAX]:
        what = "is not in" if path not in accepted else "is otherwise in"
        what = what if path in listed else "is missing from the manifest, and stands in"
        verdict.find(VerifyCode.LEDGER_MISMATCH, f"{path} {what} the state's ledger", path)
    if len(differing) > _NAMED_MAX:
        more = f"{len(differing) - _NAMED_MAX} more parts differ from the state's ledger"
        verdict.find(VerifyCode.LEDGER_MISMATCH, more)


def _check_success(
    destination: Destination, manifest: FoundManifest, verdict: Verification, *, canonical: bool
) -> None:
    """``_SUCCESS`` speaks of the canonical manifest; another run's copy is not judged by it."""
    try:
        if not canonical and destination.read(MANIFEST_NAME, MANIFEST_BYTES_MAX) != manifest.body:
            verdict.success_marker = "not_judged"
            return
        line = destination.read(SUCCESS_NAME, SUCCESS_BYTES_MAX)
    except DataIntegrityError as error:
        verdict.success_marker = "inconsistent"
        verdict.find(VerifyCode.SUCCESS_MALFORMED, error.message, SUCCESS_NAME)
        return
    except DestinationError as error:
        verdict.find(VerifyCode.SUCCESS_READ_ERROR, error.message, SUCCESS_NAME)
        return
    verdict.success_marker = _judge_success(line, manifest, verdict)


def _judge_success(line: bytes | None, manifest: FoundManifest, verdict: Verification) -> str:
    if line is None:
        return "absent"
    if not _SUCCESS_LINE.fullmatch(line):
        verdict.find(VerifyCode.SUCCESS_MALFORMED, "_SUCCESS is not one xxh3 line", SUCCESS_NAME)
        return "inconsistent"
    if line.strip().decode() != fingerprint_bytes(manifest.body):
        verdict.find(VerifyCode.SUCCESS_STALE, "_SUCCESS belongs to another manifest", SUCCESS_NAME)
        return "inconsistent"
    return "consistent"


def _check_parts(
    destination: Destination, manifest: FoundManifest, verdict: Verification, verify: str
) -> None:
    try:
        sizes = {info.path: info.size_bytes for info in destination.list_visible()}
    except DestinationError as error:
        verdict.find(VerifyCode.LIST_ERROR, error.message)
        return
    reader = _reader_of(manifest, verdict) if verdict.depth is Depth.FULL else None
    columns = ColumnCheck(manifest, reader) if reader else None
    for part in manifest.parts:
        before = len(verdict.findings)
        _check_part(destination, part, sizes.get(part.path), reader, columns, verdict)
        if len(verdict.findings) == before:
            verdict.parts_verified += 1
            verdict.parts_md5_verified += verdict.depth is Depth.FULL
        else:
            verdict.parts_failed += 1
    if columns:
        columns.whole(verdict)
    if verify == "content" and verdict.parts_md5_verified < verdict.parts_verified:
        verdict.find(
            VerifyCode.CONTENT_UNMET,
            f"{verdict.parts_verified} parts were compared by size only; use depth full",
        )
    _find_untracked(destination, manifest, set(sizes), verdict)


def _reader_of(manifest: FoundManifest, verdict: Verification) -> PartReader | None:
    try:
        return PartReader(registry.open_format(FormatPlan(format=manifest.format)))
    except ConfigError as error:
        verdict.find(VerifyCode.MANIFEST_INCONSISTENT, error.message)
        return None


def _check_part(
    destination: Destination,
    part: FoundPart,
    size_bytes: int | None,
    reader: PartReader | None,
    columns: ColumnCheck | None,
    verdict: Verification,
) -> None:
    if size_bytes is None:
        verdict.find(VerifyCode.PART_MISSING, f"{part.path} is not there", part.path)
    elif size_bytes != part.digest.size_bytes:
        verdict.find(
            VerifyCode.PART_SIZE_MISMATCH,
            f"{part.path} has {size_bytes} bytes, not {part.digest.size_bytes}",
            part.path,
        )
    elif verdict.depth is Depth.FULL:
        _check_content(destination, part, reader, columns, verdict)


def _check_content(
    destination: Destination,
    part: FoundPart,
    reader: PartReader | None,
    columns: ColumnCheck | None,
    verdict: Verification,
) -> None:
    try:
        with destination.local_copy(part.path) as local:
            found = digest_file(local, part.digest.rows)
            if found != part.digest:
                text = f"the bytes of {part.path} are not those that were written"
                verdict.find(VerifyCode.PART_CHECKSUM_MISMATCH, text, part.path)
                return
            rows = reader.count_rows(local) if reader else part.digest.rows
            if rows == part.digest.rows:
                if columns:
                    columns.part(local, part, verdict)
                return
    except MemoryError:
        most = f"more than {READING_BYTES_MAX // 2**20} MB of memory"
        text = f"reading the values of {part.path} takes {most}: they were not compared"
        verdict.find(VerifyCode.PART_TOO_LARGE, text, part.path)
        return
    except DataIntegrityError as error:
        verdict.find(VerifyCode.VALUE_CHECKSUM, f"{part.path}: {error.message}", part.path)
        return
    except (DestinationError, OSError) as error:
        verdict.find(VerifyCode.PART_READ_ERROR, f"{part.path}: {error}", part.path)
        return
    text = f"{part.path} holds {rows} rows, the manifest says {part.digest.rows}"
    verdict.find(VerifyCode.PART_ROW_COUNT, text, part.path)


def _find_untracked(
    destination: Destination, manifest: FoundManifest, paths: set[str], verdict: Verification
) -> None:
    """Objects that no manifest at this prefix lists. Advisory: a run in progress has some."""
    ours = (MANIFEST_NAME, LATEST_NAME)
    untracked = {path for path in paths if path not in ours and not _is_marker(path)}
    untracked -= {part.path for part in manifest.parts}
    for name in sorted(path for path in paths if _RUN_MANIFEST.fullmatch(path)):
        untracked.discard(name)
        untracked -= _paths_listed(destination, name)
    for path in sorted(untracked):
        verdict.find(VerifyCode.UNTRACKED_OBJECT, f"no manifest lists {path}", path)


def _is_marker(path: str) -> bool:
    """``_SUCCESS`` of the prefix and of each run, and the reports: consumers skip ``_`` names."""
    return any(segment.startswith("_") for segment in path.split("/"))


def _paths_listed(destination: Destination, name: str) -> set[str]:
    try:
        body = destination.read(name, MANIFEST_BYTES_MAX)
        return {part.path for part in parse_manifest(body).parts} if body else set()
    except (DestinationError, DataIntegrityError, ManifestUnreadable):
        return set()
