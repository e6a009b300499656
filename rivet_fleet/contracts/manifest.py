"""Finished files, and the manifest v1 that lists them (Rivet: Manifest).

It is written from the ledger alone, byte-for-byte reproducible.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from rivet_fleet.contracts.codec import canonical_json
from rivet_fleet.contracts.keys import KeyTuple
from rivet_fleet.contracts.plan import ROW_HASH, ROW_HASH_RENDER, ExportPlan
from rivet_fleet.contracts.proof import RunProof
from rivet_fleet.contracts.quality import Acceptance, UniqueStats
from rivet_fleet.contracts.window import RowWindow, WindowBound, mark_values

# ------------------------------------------------------------------------------------------
# A finished file of one chunk, and the receipt that lets anybody publish it.

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


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLedger:
    """All that a manifest is made of, found whole at one moment."""

    parts: list[LedgerPart]
    """In (chunk, part) order."""
    fences: Mapping[int, int]
    """By chunk, also by one without rows: the attempt that was committed."""


def generation_folder(run_id: str, generation: int) -> str:
    """Where parts and the marker of one generation of a run lie (ADR 0032): a folder of its own in
    the run's, which a glob of the run's does not look into."""
    return run_id if generation == 1 else f"{run_id}/_g{generation}"


def part_path(
    *,
    run_id: str,
    export_name: str,
    chunk_index: int,
    part_number: int,
    fence: int,
    extension: str,
    generation: int = 1,
) -> str:
    """Where a part becomes visible, relative to the dataset prefix.

    One folder per run, so that globbing it is exactly-once; the fence is in the name, so an
    old attempt can never overwrite a newer one (F9).
    """
    name = f"{export_name}-c{chunk_index:06d}-p{part_number:03d}-f{fence}.{extension}"
    return f"{generation_folder(run_id, generation)}/{name}"


def part_named(
    path: str, *, run_id: str, export_name: str, extension: str
) -> tuple[int, int] | None:
    """The chunk and the fence of a visible object's path, None unless ``part_path`` could have
    made it for this run."""
    name = rf"(?:_g(\d{{1,9}})/)?{re.escape(export_name)}-c(\d{{6,18}})-p(\d{{3,18}})-f(\d{{1,18}})"
    found = re.fullmatch(rf"{re.escape(run_id)}/{name}\.{re.escape(extension)}", path, re.ASCII)
    if found is None:
        return None
    generation, chunk_index, part_number, fence = (int(digits or 1) for digits in found.groups())
    same = part_path(
        run_id=run_id,
        export_name=export_name,
        chunk_index=chunk_index,
        part_number=part_number,
        fence=fence,
        extension=extension,
        generation=generation,
    )
    return (chunk_index, fence) if same == path else None


def part_generation(path: str) -> int:
    """The generation that made the part of a visible object's path."""
    found = re.fullmatch(r"[^/]+/_g(\d{1,9})/[^/]+", path, re.ASCII)
    return int(found[1]) if found else 1


MANIFEST_VERSION = 1
MANIFEST_NAME = "manifest.json"
SUCCESS_NAME = "_SUCCESS"
LATEST_NAME = "latest.json"
"""Which run is the newest complete one, for programs that read the files."""
LATEST_VERSION = 1
REPLACED_AFTER_S = 86_400.0
"""So long a reader may go on with the manifest that it began with, once it is replaced."""
REPORT_FOLDER = "_reports"
"""One folder per run with a summary; consumers skip names that begin with ``_``."""
PART_CHECKSUMS_MAX = 400_000
"""Beyond so many, parts times columns, a manifest holds the sums over all parts alone: 16 MB, so
that it can still be read where its size is bounded."""


def run_manifest_name(run_id: str, generation: int = 1) -> str:
    """The immutable copy of one generation of a run."""
    return f"manifest-{run_id}{'' if generation == 1 else f'.g{generation}'}.json"


def run_marker_name(run_id: str, generation: int = 1) -> str:
    """Its own ``_SUCCESS``."""
    return f"{generation_folder(run_id, generation)}/{SUCCESS_NAME}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunWindow:
    """When the run started and finished, from the state database (epoch seconds), and of which of
    its generations that is (ADR 0032)."""

    started_at: str
    finished_at: str
    generation: int = 1


def merge_columns(parts: Sequence[LedgerPart]) -> list[ColumnStats]:
    """Per-column counts over all parts; columns keep the order of the first part. A checksum is
    there when every part has one."""
    found: dict[str, list[ColumnStats]] = {}
    for part in parts:
        for stats in part.columns:
            found.setdefault(stats.name, []).append(stats)
    return [
        ColumnStats(
            name=name,
            nulls=sum(stats.nulls for stats in each),
            changed=sum(stats.changed for stats in each),
            checksum=added_checksums([s.checksum for s in each])
            if len(each) == len(parts)
            else None,
        )
        for name, each in found.items()
    ]


class ChecksumState(Enum):
    """Which checksums a manifest holds (its field ``checksums``)."""

    COMPLETE = "complete"
    """Of each column in each part, and over all parts."""
    TOTALS = "totals"
    """Over all parts alone: there are too many."""
    PARTIAL = "partial"
    """Of some parts: the others were written by workers that did not compute any."""
    UNAVAILABLE = "unavailable"
    """None."""


def checksum_state(parts: Sequence[LedgerPart]) -> ChecksumState:
    """What the receipts of these parts allow a manifest to say. A column whose type has no
    checksum takes nothing from completeness."""
    having = sum(any(c.checksum for c in part.columns) for part in parts)
    if having < len(parts):
        return ChecksumState.PARTIAL if having else ChecksumState.UNAVAILABLE
    return ChecksumState.COMPLETE if _can_list(parts) else ChecksumState.TOTALS


def _can_list(parts: Sequence[LedgerPart]) -> bool:
    return sum(len(part.columns) for part in parts) <= PART_CHECKSUMS_MAX


def build_manifest(
    plan: ExportPlan,
    parts: Sequence[LedgerPart],
    *,
    window: RunWindow,
    destination_uri: str,
    schema_fingerprint: str,
    acceptance: Acceptance | None = None,
    proof: RunProof | None = None,
) -> bytes:
    """The exact bytes of the manifest: pretty JSON, keys in a fixed order, one final newline."""
    ordered = sorted(parts, key=lambda p: (p.chunk_index, p.part_number))
    relation = plan.read.relation
    body: dict[str, object] = {
        "manifest_version": MANIFEST_VERSION,
        "run_id": plan.run_id,
        "export_name": plan.export_name,
        **({"export_family": plan.family} if plan.family else {}),
        "mode": "batch",
        "started_at": window.started_at,
        "finished_at": window.finished_at,
        "status": "success",
        "source": {
            "engine": plan.read.engine,
            "schema": relation.schema if relation else None,
            "table": relation.name if relation else None,
            "extraction": {
                "strategy": plan.strategy,
                "cursor_column": plan.read.window.columns[0] if plan.read.window else None,
            },
        },
        "destination": {"kind": plan.destination.kind, "uri": destination_uri},
        "format": plan.format.format,
        "compression": plan.format.compression,
        "schema_fingerprint": schema_fingerprint,
        "row_count": sum(p.digest.rows for p in ordered),
        "part_count": len(ordered),
        **_contents(ordered),
    }
    if window.generation > 1:
        superseded = run_manifest_name(plan.run_id, window.generation - 1)
        body |= {"generation": window.generation, "supersedes": superseded}
    if plan.read.window is not None:
        body["window"] = _window(plan, plan.read.window)
    if plan.meta is not None and plan.meta.row_hash is not None:
        covered = list(plan.meta.row_hash)
        body["row_hash"] = {"column": ROW_HASH, "covered": covered, "render": ROW_HASH_RENDER}
    if proof is not None:
        if proof.counted is not None:
            body["source_row_count"] = proof.counted
        body["proof"] = {
            "prove": proof.prove.value,
            "outcome": proof.outcome.value,
            "found": proof.sentence,
        }
    if acceptance is not None:
        body["accepted"] = {
            "by": acceptance.by,
            "reason": acceptance.reason,
            "at_s": round(acceptance.at_s, 3),
            "gates": [
                {"code": gate.code.value, "outcome": gate.outcome.value, "found": gate.sentence}
                for gate in acceptance.gates
            ],
        }
    return (json.dumps(body, indent=2, ensure_ascii=False) + "\n").encode()


def latest_bytes(
    plan: ExportPlan, parts: Sequence[LedgerPart], *, finished_at: str, generation: int = 1
) -> bytes:
    """The exact bytes of ``latest.json`` for a run that is complete; paths are relative to it."""
    ordered = sorted(parts, key=lambda p: (p.chunk_index, p.part_number))
    return _latest(
        plan,
        run_id=plan.run_id,
        finished_at=finished_at,
        manifest=run_manifest_name(plan.run_id, generation),
        success=run_marker_name(plan.run_id, generation),
        row_count=sum(p.digest.rows for p in ordered),
        files=[p.path for p in ordered],
    )


def latest_of(plan: ExportPlan, manifest: bytes, generation: int) -> bytes:
    """The same from the bytes of a manifest that was written for this generation of the run."""
    body = json.loads(manifest)
    return _latest(
        plan,
        run_id=plan.run_id,
        finished_at=body["finished_at"],
        manifest=run_manifest_name(plan.run_id, generation),
        success=run_marker_name(plan.run_id, generation),
        row_count=body["row_count"],
        files=[part["path"] for part in body["parts"]],
    )


def withdrawn_bytes(plan: ExportPlan) -> bytes:
    """The same while no run is: the newest one was reopened, and nothing older takes its place."""
    nothing = dict.fromkeys(("run_id", "finished_at", "manifest", "success", "row_count"))
    return _latest(plan, **nothing, files=[])


def _latest(plan: ExportPlan, **fields: object) -> bytes:
    body = {"latest_version": LATEST_VERSION, "export_name": plan.export_name, **fields}
    return (json.dumps(body, indent=2, ensure_ascii=False) + "\n").encode()


def _contents(parts: Sequence[LedgerPart]) -> dict[str, object]:
    """Parts and columns."""
    columns, checksums = merge_columns(parts), checksum_state(parts)
    listed = checksums in (ChecksumState.COMPLETE, ChecksumState.PARTIAL) and _can_list(parts)
    names = [column.name for column in columns] if listed else None
    return {
        "checksums": checksums.value,
        "parts": [_part(i, p, names) for i, p in enumerate(parts, start=1)],
        "columns": [
            {
                "name": c.name,
                "nulls": c.nulls,
                "changed_values": c.changed,
                "checksum": c.checksum,
            }
            for c in columns
        ],
    }


def _window(plan: ExportPlan, window: RowWindow) -> dict[str, object]:
    """Which rows the run was to read: the cursor's half and the key's half of both ends, and the
    mark that it continues (ADR 0020). An end that is null is open."""
    cursor = plan.cursor
    # By the key alone, all of the columns are the cursor: the key tells nothing further apart.
    keys = list(window.columns[1:])
    before = None
    if cursor is not None and cursor.mark_before is not None:
        before = mark_values(cursor.mark_before, cursor.columns, cursor.fallback)
    return {
        "cursor_column": window.columns[0],
        "cursor_fallback_column": window.fallback,
        "key_columns": keys,
        **_end("low", window.lower),
        **_end("high", window.upper),
        "nulls": window.nulls.value,
        "empty": window.empty,
        "continues": _values(before),
    }


def _end(name: str, bound: WindowBound | None) -> dict[str, object]:
    values = _values(None if bound is None else bound.values)
    return {
        f"cursor_{name}": values["cursor"] if values else None,
        f"key_{name}": values["key"] if values else None,
        f"{name}_inclusive": None if bound is None else bound.inclusive,
    }


def _values(values: KeyTuple | None) -> dict[str, object] | None:
    """``key`` is null where the bound says nothing of it, as at the begin of an overlap."""
    if values is None:
        return None
    return {"cursor": values[0], "key": list(values[1:]) or None}


def _part(part_id: int, part: LedgerPart, names: Sequence[str] | None) -> dict[str, object]:
    """``names``: the columns whose checksums are listed, in the order of the manifest's columns."""
    checksums = {column.name: column.checksum for column in part.columns}
    return {
        "part_id": part_id,
        "path": part.path,
        "rows": part.digest.rows,
        "size_bytes": part.digest.size_bytes,
        "content_fingerprint": part.digest.fingerprint,
        "content_md5": part.digest.md5_base64,
        "status": "committed",
        "chunk_index": part.chunk_index,
        **({} if names is None else {"checksums": [checksums.get(name) for name in names]}),
    }


def success_line(manifest_fingerprint: str) -> bytes:
    """The one line of ``_SUCCESS`` (M2): the xxh3 of the manifest's exact bytes."""
    return f"{manifest_fingerprint}\n".encode()
