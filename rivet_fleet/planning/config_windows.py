"""Rules between the settings of incremental exports and time windows (ADR 0011). Pure."""

from __future__ import annotations

from collections.abc import Iterator

from rivet_fleet.planning.config_models import ExportConfig
from rivet_fleet.planning.problems import ConfigKey, Problem, dotted

MODE_OF = {
    "cursor_column": "incremental",
    "cursor_fallback_column": "incremental",
    "incremental_cursor_mode": "incremental",
    "cursor_overlap_s": "incremental",
    "keyset_incremental": "chunked",
    "time_column": "time_window",
    "time_column_type": "time_window",
    "days_window": "time_window",
}
"""A setting that its mode does not read would be believed and do nothing."""
DEFAULTS = {"incremental_cursor_mode": "single_column", "time_column_type": "timestamp"}


def check_windows(export: ExportConfig, at: ConfigKey) -> Iterator[Problem]:
    """Everything that is wrong with what an export reads of its table."""
    for name, mode in MODE_OF.items():
        value = getattr(export, name)
        if value in (None, False, DEFAULTS.get(name)) or export.mode == mode:
            continue
        yield _problem((*at, name), f"has no meaning without mode: {mode}", f"add mode: {mode}")
    if (
        export.cursor_is_monotonic
        and export.mode != "incremental"
        and not export.keyset_incremental
    ):
        yield _problem(
            (*at, "cursor_is_monotonic"),
            "has no meaning without a cursor",
            "add mode: incremental, or keyset_incremental: true",
        )
    if export.mode == "incremental":
        yield from _incremental(export, at)
    if export.mode == "time_window":
        for name in ("time_column", "days_window"):
            if getattr(export, name) is None:
                yield _problem((*at, "mode"), f"time_window needs {name}", f"add {name}")
    if export.on_mark_above != "warn" and not goes_by_mark(export):
        yield _problem((*at, "on_mark_above"), "has no meaning without a mark", "remove it")
    if export.keyset_incremental and export.mode == "chunked" and export.chunk_by_key is None:
        yield _problem(
            (*at, "keyset_incremental"),
            "needs chunk_by_key: the key is the mark",
            "add chunk_by_key: a key that only rises",
        )
    if export.keyset_incremental and export.partition_by is not None:
        yield _problem(
            (*at, "partition_by"),
            "cannot be used with keyset_incremental: a mark is one of a whole export",
            "keep one",
        )


def goes_by_mark(export: ExportConfig) -> bool:
    """True when a run goes on where the last one ended."""
    return export.mode == "incremental" or export.keyset_incremental


def _problem(at: ConfigKey, reason: str, suggestion: str | None = None) -> Problem:
    return Problem(at=at, what=dotted(at), reason=reason, suggestion=suggestion)


def _incremental(export: ExportConfig, at: ConfigKey) -> Iterator[Problem]:
    if export.cursor_column is None:
        yield _problem(
            (*at, "mode"),
            "incremental needs cursor_column",
            "add cursor_column: a column that rises with every change, such as updated_at",
        )
    coalesce = export.incremental_cursor_mode == "coalesce"
    if coalesce and export.cursor_fallback_column is None:
        yield _problem(
            (*at, "incremental_cursor_mode"),
            "coalesce needs cursor_fallback_column",
            "add cursor_fallback_column: a column of the cursor's type",
        )
    if not coalesce and export.cursor_fallback_column is not None:
        yield _problem(
            (*at, "cursor_fallback_column"),
            "is read only with incremental_cursor_mode: coalesce",
            "add incremental_cursor_mode: coalesce",
        )
