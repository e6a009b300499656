"""The sealed plan: everything a worker needs to know, and nothing it has to decide."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal

from rivet_fleet.contracts.basis import BasisFact
from rivet_fleet.contracts.codec import canonical_json, to_plain
from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.contracts.identity import CampaignIdentity
from rivet_fleet.contracts.keys import CampaignId, ChunkRange, RelationName, RunId
from rivet_fleet.contracts.parameters import ParameterSeal
from rivet_fleet.contracts.proof import ProofPlan
from rivet_fleet.contracts.protection import SourceBudget
from rivet_fleet.contracts.quality import QualityPlan, SchemaChange
from rivet_fleet.contracts.reconcile import ReconcilePlan
from rivet_fleet.contracts.window import CursorPlan, RowWindow

PLAN_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedHeap:
    """One heap whose block numbers a plan uses. They mean nothing in a heap of another identity."""

    relation: RelationName
    identity: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTable:
    """The table whose key cuts a query (ADR 0028). ``added``: name and native type of each column
    that the plan's query returns for the sake of the key alone."""

    relation: RelationName
    added: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPlan:
    """What is read. Exactly one of ``relation`` and ``query`` is set.

    ``source`` names a connection of the configuration; ``source_identity`` is that
    connection's host, port, database and user without any secret, so that a worker with
    another configuration refuses instead of reading the wrong database.
    """

    source: str
    engine: str
    source_identity: str
    relation: RelationName | None
    query: str | None
    columns: tuple[ColumnSpec, ...]
    on_unrepresentable: str = "fail"
    """A value its column's type cannot hold: ``fail`` stops the chunk, ``coerce`` makes it NULL
    (invalid UTF-8: U+FFFD) and counts it in ``ColumnStats.changed``."""
    window: RowWindow | None = None
    """Which rows are read at all: ANDed to every statement; None is every row."""
    session: tuple[tuple[str, str], ...] = ()
    """What the query was planned under: the source's own session variables that decide what its
    SQL means. Every statement that holds the query is read under them, whatever the source's are
    by then; empty for a relation."""
    heaps: tuple[SealedHeap, ...] = ()
    """Every heap of the relation, when it is read by blocks: proven by each page (ADR 0004)."""
    secrets: tuple[ParameterSeal, ...] = ()
    """Secret parameters that ``query`` refers to by name: who reads has their values from its own
    environment. Empty: ``query`` is SQL, and refers to nothing."""
    basis: tuple[BasisFact, ...] = ()
    """What its ranges and its window rest on (ADR 0018); empty in plans of older programs."""
    table: PlannedTable | None = None
    """Of a query that is cut by its table's key."""
    position: str = ""
    """Of a window that moves a mark: how far the server had come that showed its end
    (``Newest.position``). One that has not may lack rows that nobody will read again."""
    only: tuple[str, ...] = ()
    """Of ``columns``, which are compared with the source's all the same, those that are read: who
    counts needs a few. Empty: all. No stored plan says any."""

    @property
    def carried(self) -> tuple[ColumnSpec, ...]:
        """The columns of every page."""
        wanted = self.only
        return tuple(one for one in self.columns if one.name in wanted) if wanted else self.columns

    @property
    def hidden(self) -> frozenset[str]:
        """Columns that the query returns and that are no part of the export."""
        return frozenset(name for name, _ in self.table.added) if self.table else frozenset()


TARGET_STATEMENT_MS = 150
"""The longest that one statement should take where nobody says another limit. Pages settle below
it, at about 0.1 s (``servo.AIM``)."""
THROTTLE_ROWS = 10_000
"""``throttle_ms`` is per this many rows, unless ``batch_rows_max`` says otherwise."""
ROW_VALUES = 4
"""So many values as large as ``max_value_bytes`` a row may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningPlan:
    """How gently it is read (Rivet: Profiles). Zero disables a limit."""

    target_statement_ms: int = TARGET_STATEMENT_MS
    batch_rows_max: int | None = None
    batch_bytes_max: int = 16 * 1024 * 1024
    statement_timeout_s: float = 300.0
    whole_read_timeout_s: float = 3600.0
    """Of a read that cannot be cut: of its one statement, or of the transaction that it is read in
    by several."""
    lock_timeout_s: float = 30.0
    throttle_ms: float = 0.0
    rest_share: float = 0.0
    """Of the time of reading: ``rest_s`` after ``busy_s`` is this share of both together."""
    max_retries: int = 3
    retry_backoff_ms: float = 2000.0
    max_value_bytes: int = 256 * 1024 * 1024

    def rest_s(self, rows: int, busy_s: float) -> float:
        """Seconds to rest after so many rows that the source was busy with for ``busy_s``."""
        by_rows_s = self.throttle_ms / 1000.0 * rows / (self.batch_rows_max or THROTTLE_ROWS)
        return max(by_rows_s, busy_s * self.rest_share / (1.0 - self.rest_share))

    @property
    def max_row_bytes(self) -> int:
        """The widest row that is read, in bytes on the wire. However little a page may hold, it
        holds one row, so this bounds what a row can cost: several values of the largest kind."""
        return ROW_VALUES * self.max_value_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatPlan:
    """How parts are written."""

    format: str
    compression: str = "zstd"
    compression_level: int | None = None
    row_group_rows: int | None = None
    row_group_bytes: int = 32 * 1024 * 1024
    """Arrow bytes, packed where pages come so (ADR 0014), that are held before a row group is
    closed: the memory ceiling decides."""
    file_bytes_max: int | None = None
    encodings: Literal["auto", "classic"] = "classic"
    """``classic``: a dictionary or plain values. ``auto``: or differences (ADR 0010)."""

    @property
    def extension(self) -> str:
        """The file name's ending, without the dot."""
        return self.format


Access = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationPlan:
    """Where parts go. ``prefix`` is the dataset's root: of a folder its path, of a store a URI that
    holds the bucket. ``options`` are the kind's other settings; of a secret they hold the name of
    its variable, never itself.

    ``anchor``: of a folder the part of the prefix that its user has written out, down to the first
    placeholder: links that lead there are followed, and none below it. None: all of the prefix (a
    store, and plans of former programs)."""

    kind: str
    prefix: str
    options: dict[str, str] = field(default_factory=dict)
    anchor: str | None = None

    @property
    def place(self) -> tuple[str, str]:
        """Where it is, whoever asks: plans of one place share its objects."""
        return self.kind, self.prefix

    @property
    def service(self) -> str:
        """What is away as one: a store's bucket, or a folder."""
        scheme, found, rest = self.prefix.partition("://")
        return f"{scheme}://{rest.partition('/')[0]}" if found else self.prefix

    @property
    def access(self) -> Access:
        """Where it is and how it is opened: what an opened destination is kept by."""
        return (*self.place, *(text for pair in sorted(self.options.items()) for text in pair))


EXPORTED_AT = "_rivet_exported_at"
ROW_HASH = "_rivet_row_hash"
ROW_HASH_RENDER = "xxh64-arrow-v1"
"""How a row hash is computed: ADR 0012, `meta_columns`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaPlan:
    """Columns that are appended to every row (ADR 0012, S5). ``row_hash`` names those it
    covers, in the order of the plan."""

    exported_at_us: int | None = None
    """Microseconds since 1970, one value for the whole run."""
    row_hash: tuple[str, ...] | None = None

    @property
    def columns(self) -> tuple[ColumnSpec, ...]:
        """What is appended, in this order."""
        added = (
            (self.exported_at_us is not None, EXPORTED_AT, TypeKind.TIMESTAMP_UTC),
            (self.row_hash is not None, ROW_HASH, TypeKind.INT64),
        )
        return tuple(
            ColumnSpec(name=name, native_type="added", type=ColumnType(kind=kind), nullable=False)
            for asked, name, kind in added
            if asked
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkSpec:
    """One chunk of a run."""

    chunk_index: int
    chunk_range: ChunkRange
    row_estimate: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimPlace:
    """Why an export's chunks are handed out when they are. The place itself is the run's
    position in its campaign; this tells ``status`` how it came about.

    ``order`` is the configuration's word; ``wave`` None when waves are not followed;
    ``chunk_work_s`` is what one chunk is expected to take one worker.
    """

    order: str
    wave: int | None
    score: int
    chunk_work_s: float


MARK_ABOVE_EVERYTHING = "mark-above-everything"
CURSOR_CANNOT_SEE = "cursor-cannot-see"
TOLD_BY_RUNS = frozenset({MARK_ABOVE_EVERYTHING, CURSOR_CANNOT_SEE})
"""The rules of diagnostics that ``status`` and the report of a run repeat: rows that exist, or
will, and are not delivered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDiagnostic:
    """Something a plan says about itself; it never stops a run. ``rule`` is stable;
    ``severity`` is ``note``, ``warning`` or ``degraded``."""

    rule: str
    severity: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPlan:
    """One export, decided. A resumed campaign uses only this, never the configuration."""

    export_name: str
    run_id: RunId
    mode: str
    strategy: str
    reason: str
    read: ReadPlan
    format: FormatPlan
    destination: DestinationPlan
    tuning: TuningPlan
    attempts_max: int
    priority: int = 50
    source_group: str | None = None
    skip_empty: bool = False
    verify: str = "size"
    row_estimate: int | None = None
    warnings: tuple[str, ...] = ()
    diagnostics: tuple[PlanDiagnostic, ...] = ()
    """Those of ``warnings`` that have a rule."""
    place: ClaimPlace | None = None
    """None: the order of the configuration."""
    quality: QualityPlan | None = None
    """What must hold before the run is delivered; None asks for nothing."""
    on_schema_drift: str = "warn"
    schema_changes: tuple[SchemaChange, ...] = ()
    """How the columns differ from those of the last completed run; sealed at submit (Q5)."""
    shape_drift_warn_factor: float = 2.0
    cursor: CursorPlan | None = None
    """How the next run goes on where this one ends; None for a run without a mark."""
    settings_digest: str = ""
    """Of this export's part of the configuration: tells which export has changed since."""
    family: str = ""
    """The export of the configuration that this is a partition of; empty when it is none."""
    meta: MetaPlan | None = None
    """None appends nothing."""
    proof: ProofPlan | None = None
    """What the run asks the server about its own completeness; None asks nothing."""
    reconcile: ReconcilePlan | None = None
    """Set: this run delivers nothing. It compares another run's files with their source (ADR 0030),
    over the ranges of that run's plan, which this one repeats."""
    plan_version: int = PLAN_VERSION

    @property
    def written_name(self) -> str:
        """The export of the configuration that this run is, or is a partition of."""
        return self.family or self.export_name

    @property
    def output_columns(self) -> tuple[ColumnSpec, ...]:
        """What stands in the files: the columns that are read, then those that are added."""
        return self.read.columns + (self.meta.columns if self.meta else ())


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """A plan and its chunks, together sealed by ``plan_hash``."""

    plan: ExportPlan
    chunks: tuple[ChunkSpec, ...]

    @property
    def plan_hash(self) -> str:
        """``sha256:<hex>`` over the canonical JSON of plan and chunks."""
        body = canonical_json({"plan": to_plain(self.plan), "chunks": to_plain(self.chunks)})
        return "sha256:" + hashlib.sha256(body).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignPlan:
    """Several exports planned together. ``config_digest`` ties it to the configuration."""

    campaign_id: CampaignId
    campaign_name: str
    config_digest: str
    config_path: str
    runs: tuple[PlannedRun, ...]
    budgets: tuple[SourceBudget, ...] = ()
    """What the configuration allows each source group; not sealed, the newest word counts."""
    identity: CampaignIdentity | None = None
    """Which configuration it belongs to; None in a plan of a program that kept none."""
