"""What a look at a live database suggests, relation by relation: the answer of ``init``.

The enums' values are stable codes of ``init --discover``: they may be added to, never renamed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rivet_fleet.contracts.facts import RelationKind
from rivet_fleet.contracts.keys import RelationName

DISCOVERY_VERSION = 1


class CursorReason(Enum):
    """Why a column may tell what is new (Rivet: Discovery)."""

    TIMESTAMP_TYPE = "timestamp_type"
    INTEGER_MONOTONIC = "integer_monotonic"
    PRIMARY_KEY = "primary_key"
    NAME_SUGGESTS_UPDATED = "name_suggests_updated"
    NAME_SUGGESTS_CREATED = "name_suggests_created"
    NULLABLE = "nullable"
    SET_ON_UPDATE = "set_on_update"


@dataclass(frozen=True, slots=True, kw_only=True)
class CursorCandidate:
    """A column that may be a cursor; the higher the score the better."""

    column: str
    native_type: str
    nullable: bool
    primary_key: bool
    score: int
    reasons: tuple[CursorReason, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkCandidate:
    """A whole-number column whose ranges could be chunks. ``indexed``: some index begins with
    it, so that a range need not search the whole table."""

    column: str
    native_type: str
    primary_key: bool
    indexed: bool
    score: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeOverride:
    """The cast that makes a column exportable. ``review``: it may refuse some values."""

    column: str
    native_type: str
    override: str
    reason: str
    review: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveredExport:
    """One relation as an export. Exactly one of ``table`` and ``query`` is set.

    ``mode`` is what fits best; ``mode_now`` what this version can run. ``chunk_by_key`` and
    ``chunk_column`` are the ways to cut it, at most one of them set. ``parallel`` is how many
    ranges at once are sensible. ``cursor_column`` is what mode incremental would go by;
    ``cursor_doubt`` says why that is not proposed, None where it is.
    """

    export_name: str
    source: str
    relation: RelationName
    kind: RelationKind
    table: str | None
    query: str | None
    row_estimate: int | None
    row_estimate_from: str
    row_width_bytes: int | None
    size_bytes: int | None
    mode: str
    mode_now: str
    mode_reason: str
    chunk_size: int | None
    chunk_by_key: tuple[str, ...]
    chunk_column: str | None
    parallel: int
    target_row_group_mb: int
    cursor_candidates: tuple[CursorCandidate, ...] = ()
    cursor_fallback: str | None = None
    cursor_column: str | None = None
    cursor_doubt: str | None = None
    chunk_candidates: tuple[ChunkCandidate, ...] = ()
    overrides: tuple[TypeOverride, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedRelation:
    """A relation that is no export, and why."""

    source: str
    relation: RelationName
    kind: RelationKind
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveredSource:
    """One source as it was found; ``identity`` holds no secret."""

    name: str
    engine: str
    server_version: str
    identity: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """Everything that was found. ``workers`` is what the largest export can use."""

    sources: tuple[DiscoveredSource, ...]
    exports: tuple[DiscoveredExport, ...]
    skipped: tuple[SkippedRelation, ...]
    workers: int
    discovery_version: int = DISCOVERY_VERSION
