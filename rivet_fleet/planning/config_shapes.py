"""Rules between the settings that shape chunks, partitions and added columns (ADR 0012). Pure."""

from __future__ import annotations

from collections.abc import Iterator

from rivet_fleet.planning.config_models import ExportConfig
from rivet_fleet.planning.problems import (
    COUNT_INVALID,
    DAYS_INVALID,
    ConfigKey,
    Problem,
    dotted,
)

PARTITION = "{partition}"


def check_shapes(export: ExportConfig, at: ConfigKey) -> Iterator[Problem]:
    """Everything that is wrong with how an export is cut, partitioned and completed."""
    if export.mode != "full":
        yield from _days(export, at)
    if export.mode == "chunked":
        yield from _dense(export, at)
    elif export.chunk_dense:
        yield _problem(
            (*at, "chunk_dense"), "has no meaning without mode: chunked", "add mode: chunked"
        )
    yield from _partition(export, at)
    hashed = export.meta_columns.hashed
    if hashed and (len(set(hashed)) != len(hashed) or not all(hashed)):
        yield _problem((*at, "meta_columns", "row_hash"), "must name different columns")


def _problem(
    at: ConfigKey, reason: str, suggestion: str | None = None, code: str | None = None
) -> Problem:
    return Problem(at=at, what=dotted(at), reason=reason, suggestion=suggestion, code=code)


def _days(export: ExportConfig, at: ConfigKey) -> Iterator[Problem]:
    if export.chunk_by_days is None:
        return
    here = (*at, "chunk_by_days")
    if export.chunk_count is not None:
        reason = "chunk_by_days and chunk_count exclude each other"
        yield _problem((*at, "chunk_count"), reason, "keep one", COUNT_INVALID)
    for other in ("chunk_by_key", "chunk_size", "chunk_size_memory_mb"):
        if getattr(export, other) is not None:
            reason = f"chunk_by_days and {other} exclude each other"
            yield _problem((*at, other), reason, "keep one", DAYS_INVALID)
    if export.chunk_column is None and export.partition_by is None and not export.chunk_by_key:
        yield _problem(here, "needs chunk_column", "add chunk_column: a date or a moment")


def _dense(export: ExportConfig, at: ConfigKey) -> Iterator[Problem]:
    if not export.chunk_dense:
        return
    here = (*at, "chunk_dense")
    if export.chunk_count is not None:
        reason = "chunk_dense and chunk_count exclude each other"
        yield _problem((*at, "chunk_count"), reason, "use chunk_size", COUNT_INVALID)
    for other in ("chunk_by_key", "chunk_by_days", "chunk_size_memory_mb", "partition_by"):
        if getattr(export, other) is not None:
            yield _problem((*at, other), f"chunk_dense and {other} exclude each other", "keep one")
    if export.chunk_column is None and export.chunk_by_key is None:
        yield _problem(here, "needs chunk_column", "add chunk_column: the primary key's column")
    if export.table is None:
        yield _problem(here, "needs table: a query has no index to walk", "use chunk_count")


def _partition(export: ExportConfig, at: ConfigKey) -> Iterator[Problem]:
    path = export.destination.path or ""
    if export.partition_by is None:
        if export.partition_granularity is not None:
            yield _problem(
                (*at, "partition_granularity"),
                "has no meaning without partition_by",
                "add partition_by: a date or a moment",
            )
        if PARTITION in path:
            yield _problem(
                (*at, "destination", "path"), "{partition} needs partition_by", "add partition_by"
            )
        return
    here = (*at, "partition_by")
    if PARTITION not in path:
        yield _problem(
            (*at, "destination", "path"),
            "partition_by needs {partition} in the path: each partition is a folder of its own",
            "write " + (f"{path.rstrip('/')}/{PARTITION}" if path else PARTITION),
        )
    if export.mode not in ("full", "chunked"):
        yield _problem(here, f"cannot be used with mode: {export.mode}", "use full or chunked")
    if export.chunk_by_key is not None:
        yield _problem(
            (*at, "chunk_by_key"),
            "partition_by and chunk_by_key exclude each other",
            "remove chunk_by_key: a partition is cut by its own column",
        )
    if export.chunk_column not in (None, export.partition_by):
        yield _problem(
            (*at, "chunk_column"),
            "a partition is cut by its own column: another one would read the whole table for "
            "each partition",
            f"remove it, or write chunk_column: {export.partition_by}",
        )
