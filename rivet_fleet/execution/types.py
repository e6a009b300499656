"""From canonical column types to Arrow: one table, used by every source and every format.

The representation follows the semantic type alone. UUID and JSON are the canonical Arrow
extension types, so that Parquet carries its own UUID and JSON logical types.
"""

from __future__ import annotations

from functools import lru_cache

import pyarrow as pa

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.errors import UnsupportedType

DECIMAL128_PRECISION_MAX = 38
DECIMAL256_PRECISION_MAX = 76

META_NATIVE_TYPE = "rivet.native_type"
META_FIDELITY = "rivet.fidelity"
META_LOGICAL_TYPE = "rivet.logical_type"
META_COMMENT = "rivet.comment"
META_KEY = "rivet.key"

_ARROW: dict[TypeKind, pa.DataType] = {
    TypeKind.BOOL: pa.bool_(),
    TypeKind.INT16: pa.int16(),
    TypeKind.INT32: pa.int32(),
    TypeKind.INT64: pa.int64(),
    TypeKind.UINT64: pa.uint64(),
    TypeKind.FLOAT32: pa.float32(),
    TypeKind.FLOAT64: pa.float64(),
    TypeKind.DATE: pa.date32(),
    TypeKind.TIME: pa.time64("us"),
    TypeKind.TIMESTAMP: pa.timestamp("us"),
    TypeKind.TIMESTAMP_UTC: pa.timestamp("us", tz="UTC"),
    TypeKind.STRING: pa.string(),
    TypeKind.BINARY: pa.binary(),
    TypeKind.JSON: pa.json_(pa.string()),
    TypeKind.UUID: pa.uuid(),
    TypeKind.ENUM: pa.string(),
    TypeKind.INTERVAL: pa.string(),
}

_LOGICAL_TYPES = (TypeKind.JSON, TypeKind.UUID, TypeKind.ENUM, TypeKind.INTERVAL)
"""Kinds that Arrow's own type does not tell apart everywhere: named in the field metadata."""


def arrow_type(column_type: ColumnType) -> pa.DataType:
    """The Arrow type of one canonical type. Raises UnsupportedType for impossible decimals."""
    if column_type.kind is TypeKind.DECIMAL:
        return _decimal(column_type)
    if column_type.kind is TypeKind.LIST:
        if column_type.element is None:
            raise UnsupportedType("a list type without an element type")
        return pa.list_(pa.field("item", arrow_type(column_type.element), nullable=True))
    return _ARROW[column_type.kind]


def _decimal(column_type: ColumnType) -> pa.DataType:
    precision, scale = column_type.precision, column_type.scale
    if precision is None or scale is None or not 1 <= precision <= DECIMAL256_PRECISION_MAX:
        raise UnsupportedType(
            f"decimal({precision},{scale}) does not fit: precision must be 1 to "
            f"{DECIMAL256_PRECISION_MAX}",
            hint="cast the column to text in `columns:`",
        )
    if precision <= DECIMAL128_PRECISION_MAX:
        return pa.decimal128(precision, scale)
    return pa.decimal256(precision, scale)


def arrow_field(column: ColumnSpec) -> pa.Field:
    """One field with nullability and the ``rivet.*`` metadata."""
    metadata = {
        META_NATIVE_TYPE: column.native_type,
        META_FIDELITY: column.type.fidelity.value,
    }
    if column.type.kind in _LOGICAL_TYPES:
        metadata[META_LOGICAL_TYPE] = column.type.kind.value
    if column.comment:
        metadata[META_COMMENT] = column.comment
    if column.key:
        metadata[META_KEY] = "true"
    return pa.field(
        column.name, arrow_type(column.type), nullable=column.nullable, metadata=metadata
    )


@lru_cache(maxsize=16)
def arrow_schema(columns: tuple[ColumnSpec, ...]) -> pa.Schema:
    """The schema of every page of an export. Raises UnsupportedType for impossible decimals.

    Kept: every page's decoder asks for it again.
    """
    return pa.schema([arrow_field(column) for column in columns])


def empty_batch(schema: pa.Schema) -> pa.RecordBatch:
    """No rows of a schema, extension types inside lists included."""
    return pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)
