"""Format and destination of an export, decided (Rivet: Output). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rivet_fleet.contracts.basis import BasisFact
from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, Fidelity, TypeKind
from rivet_fleet.contracts.facts import ColumnFacts, SourceFacts
from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.plan import (
    EXPORTED_AT,
    ROW_HASH,
    TARGET_STATEMENT_MS,
    DestinationPlan,
    FormatPlan,
    MetaPlan,
    PlannedTable,
    SealedHeap,
    TuningPlan,
)
from rivet_fleet.contracts.proof import ProofPlan, Prove
from rivet_fleet.errors import UnsupportedType
from rivet_fleet.planning.config.destinations import in_words
from rivet_fleet.planning.config.fields import MIB
from rivet_fleet.planning.config.loaded import LoadedConfig, ValuePolicies
from rivet_fleet.planning.config.models import ExportConfig, SourceConfig, TuningConfig
from rivet_fleet.planning.config.problems import ConfigKey, Problem, did_you_mean
from rivet_fleet.planning.config.rules import UNCOMPRESSED_FORMATS

# ------------------------------------------------------------------------------------------
# From one worker's memory ceiling to the sizes of what it holds. Pure arithmetic.
#
# The process itself (interpreter, Arrow, drivers, what the heap cannot give back) takes
# ``PROCESS_BYTES`` of the ceiling (measured: ADR 0014); the rest is for data. At the same moment
# a worker holds a row group (G), a page that is being written, one that waits for the encoder and
# one that arrives (3 P). With G = 1/4 and P = 1/5 that is 17/20; the rest is a column's encoded
# form and the heap's gaps.

PROCESS_BYTES = 134 * MIB
DATA_BYTES_MIN = 6 * MIB
PAGE_BYTES_MAX = 64 * MIB
ROW_GROUP_BYTES_MAX = 128 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBudget:
    """What one worker may hold, in bytes of Arrow data."""

    page_bytes: int
    row_group_bytes: int
    value_bytes: int
    """Half of what is for data: a larger value cannot be held as it arrives and as it is kept."""


def memory_budget(worker_memory_mb: int) -> MemoryBudget:
    """150 MB: pages of 3.2 MB, row groups of 4 MB, values of up to 8 MB."""
    data = max(worker_memory_mb * MIB - PROCESS_BYTES, DATA_BYTES_MIN)
    return MemoryBudget(
        page_bytes=min(data // 5, PAGE_BYTES_MAX),
        row_group_bytes=min(data // 4, ROW_GROUP_BYTES_MAX),
        value_bytes=data // 2,
    )


COMPRESSION_PROFILES: dict[str, tuple[str, int | None]] = {
    "none": ("none", None),
    "fast": ("snappy", None),
    "balanced": ("zstd", 3),
    "compact": ("zstd", 9),
}


def format_plan(export: ExportConfig, budget: MemoryBudget) -> tuple[FormatPlan, list[str]]:
    """How parts are written, and what the memory ceiling took away, in words."""
    codec, level = _codec(export)
    rows: int | None = None
    group_bytes = budget.row_group_bytes
    warnings = []
    parquet = export.parquet
    if parquet is not None:
        if parquet.row_group_strategy == "fixed_rows":
            rows = parquet.row_group_rows
        else:
            wanted = parquet.target_row_group_mb * MIB
            if wanted > group_bytes and "target_row_group_mb" in parquet.model_fields_set:
                warnings.append(
                    f"row groups of {parquet.target_row_group_mb} MB do not fit the memory ceiling "
                    f"of a worker: {group_bytes // MIB} MB are used; see campaign.worker_memory_mb"
                )
            group_bytes = min(group_bytes, wanted)
        if parquet.max_row_group_mb is not None:
            group_bytes = min(group_bytes, parquet.max_row_group_mb * MIB)
    plan = FormatPlan(
        format=export.format,
        compression=codec,
        compression_level=level,
        row_group_rows=rows,
        row_group_bytes=group_bytes,
        file_bytes_max=export.max_file_size,
        encodings=parquet.encodings if parquet is not None else "classic",
    )
    return plan, warnings


def _codec(export: ExportConfig) -> tuple[str, int | None]:
    if export.format in UNCOMPRESSED_FORMATS:
        return "none", None
    if export.compression_profile is not None:
        return COMPRESSION_PROFILES[export.compression_profile]
    return export.compression or "zstd", export.compression_level


def destination_plan(loaded: LoadedConfig, export: ExportConfig, date: str) -> DestinationPlan:
    """The prefix by the rules of its kind, every placeholder replaced, and the kind's other
    settings, of secrets the names of their variables alone. ``date`` is ``YYYY-MM-DD``."""
    kind = loaded.destinations[export.destination.type]
    below, path = export.destination.below
    path = in_words(export, path, date)
    folder = loaded.path.absolute().parent
    settings = {**export.destination.settings, below: path}
    written = {**settings, below: export.destination.written_out}
    return DestinationPlan(
        kind=kind.name,
        prefix=kind.prefix(settings, folder),
        options=kind.options(settings),
        anchor=kind.prefix(written, folder) if kind.anchored else None,
    )


def uses_date(export: ExportConfig) -> bool:
    """True when the destination depends on the day."""
    return "{date}" in export.destination.below[1]


# ------------------------------------------------------------------------------------------
# The columns of one export as they will be read: types, casts, nullability, what to say. Pure.

NULL_UNDER_COERCE = frozenset(
    {
        TypeKind.DECIMAL,
        TypeKind.DATE,
        TypeKind.TIME,
        TypeKind.TIMESTAMP,
        TypeKind.TIMESTAMP_UTC,
        TypeKind.INTERVAL,
        TypeKind.LIST,
    }
)
"""Kinds some of whose source values have no place in the exported type, on whichever engine."""


@dataclass(slots=True, kw_only=True)
class PlannedColumns:
    """What became of the columns. ``unsupported`` and ``lossy`` hold a sentence for each column
    that keeps the export from being planned; ``notes`` go into the plan's warnings."""

    specs: list[ColumnSpec] = field(default_factory=list)
    unsupported: list[str] = field(default_factory=list)
    lossy: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def plan_columns(
    export_name: str, facts: SourceFacts, casts: Mapping[str, str], policies: ValuePolicies
) -> PlannedColumns:
    """Every column by the policies. ``casts`` are the export's own overrides by column name."""
    found = PlannedColumns()
    primary = next((index.columns for index in facts.indexes if index.primary), ())
    if not {column.name for column in facts.columns}.issuperset(primary):
        primary = ()  # A part of a key tells no rows apart.
    for column in facts.columns:
        if column.type is None:
            found.unsupported.append(_unsupported(export_name, column))
            continue
        cast = casts.get(column.name) or column.cast
        if column.cast is not None:
            found.notes.append(
                f"column {column.name} ({column.native_type}) is exported as {column.cast}: "
                f"{column.unsupported_reason or 'it has no exact form'} (on_unsupported)"
            )
        if lossy(column.type):
            _lossy(found, export_name, column, cast, policies)
        found.specs.append(
            ColumnSpec(
                name=column.name,
                native_type=column.native_type,
                type=column.type,
                nullable=column.nullable
                or may_become_null(column.type, policies, overridden=cast is not None),
                wire_type=column.wire_type,
                cast=cast,
                comment=column.comment,
                key=column.name in primary,
            )
        )
    return found


def may_become_null(column_type: ColumnType, policies: ValuePolicies, *, overridden: bool) -> bool:
    """True when a value of a NOT NULL column may still arrive as NULL."""
    unread = overridden and column_type.kind is TypeKind.UUID  # Text that is no UUID.
    return policies.coerce and (unread or column_type.kind in NULL_UNDER_COERCE)


def lossy(column_type: ColumnType) -> bool:
    """True when the type, or the type of its elements, does not keep every value."""
    element = column_type.element
    return column_type.fidelity is Fidelity.LOSSY or (element is not None and lossy(element))


def refused_casts(export_name: str, facts: SourceFacts) -> UnsupportedType | None:
    """What keeps this export from being read as it was asked for, and says nothing of others."""
    found = [_unsupported(export_name, column) for column in facts.columns if column.cast_refused]
    if not found:
        return None
    return UnsupportedType(
        "; ".join(found),
        hint="write the cast shown under columns: of the export, or leave the "
        "columns out with query:",
    )


def _unsupported(export_name: str, column: ColumnFacts) -> str:
    reason = column.unsupported_reason or "this type is not supported"
    fix = f"; columns: {{{column.name}: {column.cast_hint}}}" if column.cast_hint else ""
    return f"{export_name}.{column.name} ({column.native_type}): {reason}{fix}"


def _lossy(
    found: PlannedColumns,
    export_name: str,
    column: ColumnFacts,
    cast: str | None,
    policies: ValuePolicies,
) -> None:
    what = f"read as {cast}, which" if cast else "whose exported type"
    if policies.on_lossy == "fail":
        found.lossy.append(
            f"{export_name}.{column.name} ({column.native_type}): {what} may not keep every value"
        )
    elif policies.on_lossy == "warn":
        found.notes.append(
            f"column {column.name} ({column.native_type}): {what} may not keep every value"
        )


# ------------------------------------------------------------------------------------------
# The columns an export adds to every row, decided (ADR 0012). Pure.


def meta_plan(
    export: ExportConfig, columns: Sequence[ColumnSpec], now_s: float | None
) -> MetaPlan | None:
    """What is added, sealed: the moment, and which columns are hashed. None adds nothing."""
    asked = export.meta_columns
    hashed = asked.hashed
    if not asked.exported_at and hashed is None:
        return None
    covered = None
    if hashed is not None:
        covered = tuple(one.name for one in columns if not hashed or one.name in hashed)
    moment = round((now_s or 0.0) * 1_000_000) if asked.exported_at else None
    return MetaPlan(exported_at_us=moment, row_hash=covered)


def meta_problems(export: ExportConfig, names: Sequence[str], at: ConfigKey) -> list[Problem]:
    """Names that are taken, and hashed columns that are not there."""
    asked = export.meta_columns
    taken = [
        (setting, name)
        for setting, name, wanted in (
            ("exported_at", EXPORTED_AT, asked.exported_at),
            ("row_hash", ROW_HASH, asked.hashed is not None),
        )
        if wanted and name in names
    ]
    found = [
        Problem(
            at=(*at, "meta_columns", setting),
            what=f"export {export.name}, meta_columns.{setting}",
            reason=f"the source has a column {name} already",
            suggestion="switch it off, or rename the source's column with query:",
        )
        for setting, name in taken
    ]
    found += [
        Problem(
            at=(*at, "meta_columns", "row_hash"),
            what=f"export {export.name}, meta_columns.row_hash",
            reason=f"names a column that is not there: {name}",
            suggestion=did_you_mean(name, names),
        )
        for name in asked.hashed or ()
        if name not in names
    ]
    return found


# ------------------------------------------------------------------------------------------
# Profiles and overrides to a TuningPlan (Rivet: Profiles). Pure.

TUNING_PROFILES: dict[str, dict[str, float]] = {
    "fast": {
        "batch_size_memory_mb": 64,
        "throttle_ms": 0,
        "statement_timeout_s": 0,
        "max_retries": 1,
        "retry_backoff_ms": 1_000,
        "lock_timeout_s": 0,
    },
    "balanced": {
        "batch_size_memory_mb": 32,
        "throttle_ms": 0,
        "rest_share": 0.2,
        "statement_timeout_s": 300,
        "max_retries": 3,
        "retry_backoff_ms": 2_000,
        "lock_timeout_s": 30,
    },
    "safe": {
        "batch_size": 2_000,
        "throttle_ms": 500,
        "statement_timeout_s": 120,
        "max_retries": 10,
        "retry_backoff_ms": 5_000,
        "lock_timeout_s": 10,
    },
}
MAX_VALUE_MB = 256
WHOLE_READ_TIMEOUT_S = 3_600.0
"""Where the profile limits statements at all."""


def profile_of(source: SourceConfig, export: TuningConfig) -> str:
    """An explicit profile wins, the export's first; else ``local`` is fast, others balanced."""
    explicit = export.profile or source.tuning.profile
    if explicit is not None:
        return explicit
    return "fast" if source.environment == "local" else "balanced"


def tuning_of(
    loaded: LoadedConfig, source_name: str, export: ExportConfig, budget: MemoryBudget
) -> TuningPlan:
    """How gently an export of a configuration is read."""
    group = loaded.config.source_groups.get(export.source_group or "")
    watched = group is not None and group.monitor is not None
    return tuning_plan(loaded.sources[source_name], export.tuning, budget, watched=watched)


def tuning_plan(
    source: SourceConfig, export: TuningConfig, budget: MemoryBudget, *, watched: bool = False
) -> TuningPlan:
    """Field by field: the export's own setting, the source's, the profile's.

    The memory ceiling bounds bytes; a row limit exists only where rows were asked for. ``watched``:
    a governor decides how much of the source is ours, so the profile's rest does not count.
    """
    profile = TUNING_PROFILES[profile_of(source, export)]

    def said(name: str) -> float | None:
        for block in (export, source.tuning):
            value = getattr(block, name)
            if value is not None:
                return float(value)
        return None

    def pick(name: str) -> float | None:
        own = said(name)
        return profile.get(name) if own is None else own

    def number(name: str) -> float:
        return pick(name) or 0.0

    rows, memory_mb = _batch(source.tuning, export, profile)
    bytes_max = budget.page_bytes
    for limit_mb in (memory_mb, pick("max_batch_memory_mb")):
        if limit_mb is not None:
            bytes_max = min(bytes_max, int(limit_mb) * MIB)
    value_mb, whole_s = pick("max_value_mb"), pick("whole_read_timeout_s")
    share = said("rest_share")
    if share is None and said("throttle_ms") is None and not watched:
        share = profile.get("rest_share")
    by_profile_s = WHOLE_READ_TIMEOUT_S if profile["statement_timeout_s"] else 0.0
    value_bytes = int(MAX_VALUE_MB if value_mb is None else value_mb) * MIB
    return TuningPlan(
        target_statement_ms=int(pick("target_statement_ms") or TARGET_STATEMENT_MS),
        batch_rows_max=rows,
        batch_bytes_max=bytes_max,
        statement_timeout_s=number("statement_timeout_s"),
        whole_read_timeout_s=by_profile_s if whole_s is None else whole_s,
        lock_timeout_s=number("lock_timeout_s"),
        throttle_ms=number("throttle_ms"),
        rest_share=share or 0.0,
        max_retries=int(number("max_retries")),
        retry_backoff_ms=number("retry_backoff_ms"),
        # Switching the limit off leaves the worker's memory ceiling, which is a promise.
        max_value_bytes=min(value_bytes or budget.value_bytes, budget.value_bytes),
    )


def attempts_max(loaded: LoadedConfig, export: ExportConfig, tuning: TuningPlan) -> int:
    """How often a chunk is tried: the export's word, the campaign's, one more than retries."""
    campaign = loaded.config.campaign
    return export.chunk_max_attempts or campaign.max_chunk_attempts or tuning.max_retries + 1


def _batch(
    source: TuningConfig, export: TuningConfig, profile: dict[str, float]
) -> tuple[int | None, int | None]:
    """(rows, MB) of one page, from the first block that sets either of the two."""
    for block in (export, source):
        if block.batch_size is not None or block.batch_size_memory_mb is not None:
            return block.batch_size, block.batch_size_memory_mb
    rows, memory_mb = profile.get("batch_size"), profile.get("batch_size_memory_mb")
    return (int(rows) if rows else None), (int(memory_mb) if memory_mb else None)


# ------------------------------------------------------------------------------------------
# The query as it is read, what that rests on (ADR 0028), and the heaps. Pure.


def query_plan(
    query: str | None, facts: SourceFacts, ranges: Sequence[ChunkRange]
) -> tuple[str | None, PlannedTable | None, tuple[BasisFact, ...]]:
    """The query, with the columns of the key that cuts it where that is its table's."""
    table, cut = facts.table, ranges[0]
    if table is not None and cut.kind is RangeKind.KEYSET:
        for keyed in table.queries:
            if keyed.columns == cut.columns:
                planned = PlannedTable(relation=table.relation, added=keyed.added)
                return keyed.sql, planned, tuple(dict.fromkeys((*facts.basis, *table.basis)))
    return query, None, facts.basis


def sealed_heaps(facts: SourceFacts, ranges: Sequence[ChunkRange]) -> tuple[SealedHeap, ...]:
    """What the block numbers of a plan are numbers of; nothing for a plan without any."""
    if all(one.kind is not RangeKind.BLOCKS for one in ranges):
        return ()
    return tuple(
        SealedHeap(relation=heap.name, identity=heap.identity)
        for heap in facts.heaps
        if heap.identity is not None
    )


# ------------------------------------------------------------------------------------------
# What a run will ask the source about its own completeness (ADR 0019). Pure.


def proof_plan(
    prove: Prove, facts: SourceFacts, ranges: Sequence[ChunkRange], *, partition: bool
) -> ProofPlan | None:
    """None asks nothing. A query is evaluated once more only where everything is asked.
    ``partition``: the run reads one period of a column."""
    if prove is Prove.OFF:
        return None
    counted = (
        covered(ranges, partition=partition)
        if facts.relation is not None or prove is Prove.ALL
        else None
    )
    return ProofPlan(prove=prove, counted=counted, before=facts.changes)


def covered(ranges: Sequence[ChunkRange], *, partition: bool) -> ChunkRange:
    """The rows of all ranges together, as one: everything there is, but for a partition."""
    first, last = ranges[0], ranges[-1]
    if not partition or first.kind is RangeKind.WHOLE:
        return ChunkRange(kind=RangeKind.WHOLE)
    if first.kind is RangeKind.NULLS:
        return first
    return ChunkRange(
        kind=RangeKind.WINDOW, columns=first.columns, lower=first.lower, upper=last.upper
    )
