"""What ``check`` found out about every export: its columns, and how gently it can be read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rivet_fleet.contracts.plan import PlanDiagnostic
from rivet_fleet.contracts.priority import Caveat, Preflight

REPORT_VERSION = 1
UNSUPPORTED = "unsupported"
"""Stands where a fidelity would, for a column that cannot be carried."""


class Target(Enum):
    """A warehouse whose own Parquet loader the report speaks for."""

    DUCKDB = "duckdb"
    BIGQUERY = "bigquery"
    SNOWFLAKE = "snowflake"
    CLICKHOUSE = "clickhouse"


class TargetStatus(Enum):
    """What loading a column comes to."""

    OK = "ok"
    """The loader arrives at the target type by itself."""
    WARN = "warn"
    """It arrives elsewhere, or only with an option; ``cast_sql`` or the note recovers it."""
    FAIL = "fail"
    """No load brings the values in exactly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetColumn:
    """One column in one warehouse. ``cast_sql`` is an expression over the loaded column."""

    target: Target
    target_type: str | None
    autoload_type: str | None
    status: TargetStatus
    note: str | None = None
    cast_sql: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnReport:
    """One column from the source's type to the file's. ``type`` and what follows from it are
    None for a column that cannot be carried."""

    name: str
    native_type: str
    type: str | None
    arrow_type: str | None
    file_type: str | None
    fidelity: str
    nullable: bool
    cast: str | None = None
    note: str | None = None
    targets: tuple[TargetColumn, ...] = ()


class Origin(Enum):
    """Who says a number. None of them but ``measured`` has counted anything."""

    STATISTICS = "statistics"
    """The source's own statistics, as old as they are."""
    EXPLAIN = "explain"
    """The guess of the source's planner."""
    SIZE = "size"
    """Reckoned from the table's size: it was never analysed."""
    SAMPLE = "sample"
    """A sample of the rows or of an index, taken now."""
    INDEX = "index"
    """Read from the index now."""
    SERVER = "server"
    """A setting or a counter of the server, read now."""
    MEASURED = "measured"
    """Counted by a former run of this state database."""
    MODEL = "model"
    """Computed from the other numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One number a verdict was made of. ``used`` False: another one was preferred."""

    what: str
    value: int | float | str
    origin: Origin
    used: bool = True
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """How gently one export can be read, as far as anybody knows. It never blocks a run.

    ``confidence`` is 0 to 100 and weakened by each of the ``caveats``; ``profile`` is what the
    configuration asks for.
    """

    preflight: Preflight
    profile: str
    confidence: int
    caveats: tuple[Caveat, ...]
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """One export as it would be run. ``refused`` says why it would not."""

    export_name: str
    source: str
    engine: str
    server_version: str
    relation: str | None
    format: str
    row_estimate: int | None
    strategy: str | None = None
    reason: str | None = None
    chunks: int | None = None
    columns: tuple[ColumnReport, ...] = ()
    warnings: tuple[str, ...] = ()
    diagnostics: tuple[PlanDiagnostic, ...] = ()
    refused: tuple[str, ...] = ()
    judgement: Judgement | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """Every export that was asked about. ``findings`` are what ``--strict`` refuses; ``notes``
    what could not be looked at."""

    exports: tuple[ExportReport, ...]
    findings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    report_version: int = REPORT_VERSION


def findings(exports: tuple[ExportReport, ...]) -> tuple[str, ...]:
    """A sentence for every lossy or unsupported column and every failed target. A target's
    ``warn`` is no finding: its recovery is in the report."""
    found = []
    for export in exports:
        for column in export.columns:
            where = f"{export.export_name}.{column.name} ({column.native_type})"
            if column.fidelity in (UNSUPPORTED, "lossy"):
                found.append(f"{where} is {column.fidelity}: {column.note or 'no exact form'}")
            found += [
                f"{where} fails on {one.target.value}: {one.note}"
                for one in column.targets
                if one.status is TargetStatus.FAIL
            ]
    return tuple(found)
