"""A manifest as it was found: parsed without trust, checked against itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rivet_fleet.contracts.manifest import (
    MANIFEST_VERSION,
    ChecksumState,
    PartDigest,
    added_checksums,
    run_manifest_name,
)
from rivet_fleet.errors import DestinationRefused
from rivet_fleet.execution.destination import Destination
from rivet_fleet.execution.durable import checked_path

MANIFEST_BYTES_MAX = 64 * 1024 * 1024
_WHOLE_MAX = 2**63 - 1
"""More of anything there is not; a number of thousands of digits cannot even be shown."""
_CHECKSUM = re.compile(r"[0-9a-z]+:[0-9a-f]{16}")


class ManifestUnreadable(ValueError):
    """The bytes are no manifest; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPart:
    """One part as the manifest claims it."""

    part_id: int
    path: str
    digest: PartDigest
    checksums: Mapping[str, str | None] | None = None
    """By column; None in manifests, and for parts, without them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundManifest:
    """What the bytes claim. ``body`` are the exact bytes."""

    body: bytes
    version: int
    run_id: str
    export_name: str
    status: str
    format: str
    row_count: int
    part_count: int
    parts: tuple[FoundPart, ...]
    generation: int = 1
    checksums: str | None = None
    """The value of a ``ChecksumState``; None in manifests from before there were any."""
    columns: Mapping[str, str | None] = field(default_factory=dict)
    """Column → checksum over all parts."""


def parse_manifest(body: bytes) -> FoundManifest:
    """Read the fields a verification needs. Raises ManifestUnreadable."""
    try:
        plain = json.loads(body)
    except (ValueError, RecursionError):
        raise ManifestUnreadable("it is not JSON") from None
    fields = _Fields(plain, "the manifest")
    parts = fields.take("parts", list)
    columns = [_Fields(entry, "a column") for entry in fields.optional("columns", list) or []]
    names = [column.take("name", str) for column in columns]
    return FoundManifest(
        body=body,
        version=fields.take("manifest_version", int),
        run_id=fields.take("run_id", str),
        export_name=fields.take("export_name", str),
        status=fields.take("status", str),
        format=fields.take("format", str),
        row_count=fields.take("row_count", int),
        part_count=fields.take("part_count", int),
        parts=tuple(_part(entry, names) for entry in parts),
        generation=fields.optional("generation", int) or 1,
        checksums=fields.optional("checksums", str),
        columns={
            name: _checksum(column.optional("checksum", str))
            for name, column in zip(names, columns, strict=True)
        },
    )


def newest_copy(destination: Destination, run_id: str) -> str:
    """The name of the copy of a run's newest generation. Raises DestinationError."""
    name, generation = run_manifest_name(run_id), 2
    while destination.read(run_manifest_name(run_id, generation), MANIFEST_BYTES_MAX) is not None:
        name, generation = run_manifest_name(run_id, generation), generation + 1
    return name


def self_contradictions(manifest: FoundManifest) -> list[str]:
    """Where the manifest disagrees with itself: version, counts, repeated or unsafe parts."""
    rows = sum(part.digest.rows for part in manifest.parts)
    checks = [
        (manifest.version == MANIFEST_VERSION, f"manifest_version is {manifest.version}"),
        (
            manifest.part_count == len(manifest.parts),
            f"part_count is {manifest.part_count}, but {len(manifest.parts)} parts are listed",
        ),
        (
            manifest.row_count == rows,
            f"row_count is {manifest.row_count}, but the parts have {rows} rows",
        ),
        (_unique(manifest, lambda p: p.part_id), "a part_id occurs twice"),
        (_unique(manifest, lambda p: p.path), "a path occurs twice"),
        *(
            (_adds_up(manifest, name), f"the checksums of column {name} do not add up")
            for name in manifest.columns
        ),
    ]
    found = [text for holds, text in checks if not holds]
    return found + [f"unsafe path {p.path!r}" for p in manifest.parts if not _is_safe(p.path)]


def _adds_up(manifest: FoundManifest, column: str) -> bool:
    if manifest.checksums != ChecksumState.COMPLETE.value or not manifest.parts:
        return True
    each = [(part.checksums or {}).get(column) for part in manifest.parts]
    return added_checksums(each) == manifest.columns[column]


def _part(entry: object, names: list[str]) -> FoundPart:
    fields = _Fields(entry, "a part")
    return FoundPart(
        part_id=fields.take("part_id", int),
        path=fields.take("path", str),
        digest=PartDigest(
            rows=fields.take("rows", int),
            size_bytes=fields.take("size_bytes", int),
            fingerprint=fields.take("content_fingerprint", str),
            md5_base64=fields.take("content_md5", str),
        ),
        checksums=_checksums(fields.optional("checksums", list), names),
    )


def _checksums(plain: list[object] | None, names: list[str]) -> dict[str, str | None] | None:
    if plain is None:
        return None
    if len(plain) != len(names):
        raise ManifestUnreadable(f"a part has {len(plain)} checksums for {len(names)} columns")
    return dict(zip(names, map(_checksum, plain), strict=True))


def _checksum(plain: object) -> str | None:
    if plain is None or (isinstance(plain, str) and _CHECKSUM.fullmatch(plain)):
        return plain
    raise ManifestUnreadable("a checksum is not <kind>:<16 hexadecimal digits>")


def _unique(manifest: FoundManifest, key: Callable[[FoundPart], object]) -> bool:
    return len({key(part) for part in manifest.parts}) == len(manifest.parts)


def _is_safe(path: str) -> bool:
    try:
        checked_path(path)
    except DestinationRefused:
        return False
    return True


class _Fields:
    """Typed access to one JSON object."""

    def __init__(self, plain: object, what: str) -> None:
        if not isinstance(plain, dict):
            raise ManifestUnreadable(f"{what} is not an object")
        self._plain = plain
        self._what = what

    def optional(self, name: str, kind: type) -> Any:
        """The field's value, of this type; None when it is absent or null. Raises
        ManifestUnreadable."""
        return None if self._plain.get(name) is None else self.take(name, kind)

    def take(self, name: str, kind: type) -> Any:
        """The field's value, of this type. Raises ManifestUnreadable."""
        value = self._plain.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ManifestUnreadable(f"{self._what} has no {kind.__name__} field {name!r}")
        if isinstance(value, int) and not 0 <= value <= _WHOLE_MAX:
            raise ManifestUnreadable(f"{self._what} has a {name!r} that counts nothing")
        return value
