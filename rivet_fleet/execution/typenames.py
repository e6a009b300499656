"""Names of types for people: the canonical type, Arrow's, and the file's."""

from __future__ import annotations

import pyarrow as pa

from rivet_fleet.contracts.columns import ColumnType, TypeKind
from rivet_fleet.execution.types import arrow_type

_PARQUET: dict[TypeKind, str] = {
    TypeKind.BOOL: "BOOLEAN",
    TypeKind.INT16: "INT(16)",
    TypeKind.INT32: "INT(32)",
    TypeKind.INT64: "INT(64)",
    TypeKind.UINT64: "INT(64, unsigned)",
    TypeKind.FLOAT32: "FLOAT",
    TypeKind.FLOAT64: "DOUBLE",
    TypeKind.DATE: "DATE",
    TypeKind.TIME: "TIME(us)",
    TypeKind.TIMESTAMP: "TIMESTAMP(us)",
    TypeKind.TIMESTAMP_UTC: "TIMESTAMP(us, UTC)",
    TypeKind.STRING: "STRING",
    TypeKind.BINARY: "BYTE_ARRAY",
    TypeKind.JSON: "JSON",
    TypeKind.UUID: "UUID",
    TypeKind.ENUM: "STRING",
    TypeKind.INTERVAL: "STRING",
}


def canonical_name(column_type: ColumnType) -> str:
    """``decimal(12,2)``, ``list<int32>``, ``timestamp_utc``."""
    if column_type.kind is TypeKind.DECIMAL:
        return f"decimal({column_type.precision},{column_type.scale})"
    if column_type.kind is TypeKind.LIST and column_type.element is not None:
        return f"list<{canonical_name(column_type.element)}>"
    return str(column_type.kind.value)


def arrow_name(column_type: ColumnType) -> str:
    """Arrow's own spelling. Raises UnsupportedType for impossible decimals."""
    return _spelled(arrow_type(column_type))


def _spelled(kind: pa.DataType) -> str:
    if isinstance(kind, pa.BaseExtensionType):
        return str(kind.extension_name)
    if pa.types.is_list(kind):
        return f"list<{_spelled(kind.value_type)}>"
    return str(kind)


def parquet_name(column_type: ColumnType) -> str:
    """Parquet's logical type, or its physical one where it has none."""
    if column_type.kind is TypeKind.DECIMAL:
        return f"DECIMAL({column_type.precision},{column_type.scale})"
    if column_type.kind is TypeKind.LIST and column_type.element is not None:
        return f"LIST<{parquet_name(column_type.element)}>"
    return _PARQUET[column_type.kind]
