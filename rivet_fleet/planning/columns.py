"""The columns of one export as they will be read: types, casts, nullability, what to say. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, Fidelity, TypeKind
from rivet_fleet.contracts.facts import ColumnFacts, SourceFacts
from rivet_fleet.errors import UnsupportedType
from rivet_fleet.planning.policies import ValuePolicies

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
