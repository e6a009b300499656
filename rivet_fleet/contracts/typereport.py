"""What ``check`` found out about the columns of every export, as values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

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
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """Every export that was asked about. ``findings`` are what ``--strict`` refuses."""

    exports: tuple[ExportReport, ...]
    findings: tuple[str, ...] = ()
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
