"""Comparing with former runs: columns before a run, its numbers after it. Pure (ADR 0008)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, Fidelity, TypeKind
from rivet_fleet.contracts.plan import CampaignPlan, ExportPlan, PlannedRun
from rivet_fleet.contracts.quality import (
    SchemaChange,
    SchemaChangeCode,
    ShapeChange,
    ShapeChangeCode,
)
from rivet_fleet.contracts.state import MeasuredRun
from rivet_fleet.errors import SchemaDrift

SHAPE_ROWS_MIN = 1_000
SHAPE_BYTES_MIN = 1024 * 1024
WHOLE_MODES = frozenset({"full", "chunked"})
"""Modes whose runs read their whole table, so that counts of two runs compare."""


def schema_changes(
    before: Sequence[ColumnSpec], after: Sequence[ColumnSpec]
) -> tuple[SchemaChange, ...]:
    """How ``after`` differs from ``before``: gone, new, retyped, nullability, order."""
    old = {column.name: column for column in before}
    new = {column.name: column for column in after}
    found = [
        _change(SchemaChangeCode.REMOVED, name, type_text(old[name]), None)
        for name in old
        if name not in new
    ]
    found += [
        _change(SchemaChangeCode.ADDED, name, None, type_text(new[name]))
        for name in new
        if name not in old
    ]
    kept = [name for name in old if name in new]
    for name in kept:
        found += _column_changes(old[name], new[name])
    order = [name for name in new if name in old]
    if kept != order:
        found.append(_change(SchemaChangeCode.REORDERED, None, ", ".join(kept), ", ".join(order)))
    return tuple(found)


def _column_changes(old: ColumnSpec, new: ColumnSpec) -> Iterator[SchemaChange]:
    # How faithful a type is called may be known better than before: nothing changed.
    was, now = (
        replace(old.type, fidelity=Fidelity.EXACT),
        replace(new.type, fidelity=Fidelity.EXACT),
    )
    if (old.native_type, old.cast, was) != (new.native_type, new.cast, now):
        before, after = type_text(old), type_text(new)
        if before == after:
            before, after = _exported(old.type), _exported(new.type)
        yield _change(SchemaChangeCode.RETYPED, new.name, before, after)
    if old.nullable != new.nullable:
        words = {True: "nullable", False: "NOT NULL"}
        yield _change(
            SchemaChangeCode.NULLABILITY, new.name, words[old.nullable], words[new.nullable]
        )


def _change(
    code: SchemaChangeCode, column: str | None, before: str | None, after: str | None
) -> SchemaChange:
    return SchemaChange(code=code, column=column, before=before, after=after)


def type_text(column: ColumnSpec) -> str:
    """``numeric(12,2)``, or ``numeric(12,2) as text`` for one that is cast."""
    return f"{column.native_type} as {column.cast}" if column.cast else column.native_type


def _exported(column_type: ColumnType) -> str:
    if column_type.kind is TypeKind.LIST and column_type.element is not None:
        return f"exported as list of {column_type.element.kind.value}"
    digits = [str(n) for n in (column_type.precision, column_type.scale) if n is not None]
    return f"exported as {column_type.kind.value}" + (f"({','.join(digits)})" if digits else "")


def with_schema_changes(plan: CampaignPlan, former: Mapping[str, ExportPlan]) -> CampaignPlan:
    """``plan`` with every export's differences from its last completed run (``former``, by
    export name) sealed into it; ``warn`` and ``fail`` add a plan warning for each."""
    return replace(plan, runs=tuple(_compared(run, former) for run in plan.runs))


def _compared(run: PlannedRun, former: Mapping[str, ExportPlan]) -> PlannedRun:
    last = former.get(run.plan.export_name)
    changes = schema_changes(last.output_columns, run.plan.output_columns) if last else ()
    if last is None or not changes:
        return run
    said = [f"{one.sentence} since run {last.run_id} [{one.code.value}]" for one in changes]
    warnings = run.plan.warnings + (() if run.plan.on_schema_drift == "continue" else tuple(said))
    return replace(run, plan=replace(run.plan, schema_changes=changes, warnings=warnings))


def refuse_drift(plan: CampaignPlan) -> None:
    """Raise SchemaDrift, with every difference, when an export that has changed says ``fail``."""
    refused = [
        f"{run.plan.export_name}: {change.sentence} [{change.code.value}]"
        for run in plan.runs
        if run.plan.on_schema_drift == "fail"
        for change in run.plan.schema_changes
    ]
    if refused:
        raise SchemaDrift(
            "columns differ from the last completed run, and on_schema_drift is fail:\n  "
            + "\n  ".join(refused),
            hint="nothing was read; when the change is right, run once with on_schema_drift: warn: "
            "the completed run is what the next one is compared with",
            code="RIVET_SCHEMA_DRIFT",
        )


def shape_changes(
    former: Sequence[MeasuredRun], *, rows: int, size_bytes: int, mode: str, factor: float
) -> tuple[ShapeChange, ...]:
    """What of a finished run is more than ``factor`` times away from the median of ``former``
    successful runs. ``factor`` 0 switches it off."""
    good = [run for run in former if run.succeeded]
    if factor <= 0 or not good:
        return ()
    found: list[tuple[ShapeChangeCode, float, float, int, int]] = []
    if mode in WHOLE_MODES:
        usual_rows = median(run.rows for run in good)
        usual_bytes = median(run.bytes for run in good)
        found += [
            (ShapeChangeCode.ROWS, usual_rows, rows, SHAPE_ROWS_MIN, len(good)),
            (ShapeChangeCode.BYTES, usual_bytes, size_bytes, SHAPE_BYTES_MIN, len(good)),
        ]
    wide = [run.bytes / run.rows for run in good if run.rows >= SHAPE_ROWS_MIN]
    if wide and rows >= SHAPE_ROWS_MIN:
        found.append((ShapeChangeCode.ROW_WIDTH, median(wide), size_bytes / rows, 0, len(wide)))
    return tuple(
        ShapeChange(code=code, usual=usual, now=now, samples=samples)
        for code, usual, now, least, samples in found
        if max(usual, now) >= least and _far(usual, now, factor)
    )


def _far(usual: float, now: float, factor: float) -> bool:
    low, high = sorted((usual, now))
    return high > low * factor
