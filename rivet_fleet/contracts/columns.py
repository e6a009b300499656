"""Canonical column types: what a value is, whichever engine it came from (Rivet: Types)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class TypeKind(Enum):
    """The semantic type; it alone decides the Arrow and Parquet representation (T1)."""

    BOOL = "bool"
    INT16 = "int16"
    INT32 = "int32"
    INT64 = "int64"
    UINT64 = "uint64"
    FLOAT32 = "float32"
    FLOAT64 = "float64"
    DECIMAL = "decimal"
    DATE = "date"
    TIME = "time"
    TIMESTAMP = "timestamp"
    TIMESTAMP_UTC = "timestamp_utc"
    STRING = "string"
    BINARY = "binary"
    JSON = "json"
    UUID = "uuid"
    ENUM = "enum"
    INTERVAL = "interval"
    LIST = "list"


INTEGERS = frozenset({TypeKind.INT16, TypeKind.INT32, TypeKind.INT64, TypeKind.UINT64})
"""Whole-number kinds."""
MOMENTS = frozenset({TypeKind.DATE, TypeKind.TIMESTAMP, TypeKind.TIMESTAMP_UTC})
"""Kinds with a place in the calendar."""


class Fidelity(Enum):
    """How faithfully the carried value stands for the source's value."""

    EXACT = "exact"
    LOGICAL_STRING = "logical_string"
    COMPATIBLE = "compatible"
    LOSSY = "lossy"


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnType:
    """One canonical type. ``precision``/``scale`` for decimals, ``element`` for lists."""

    kind: TypeKind
    precision: int | None = None
    scale: int | None = None
    element: ColumnType | None = None
    fidelity: Fidelity = Fidelity.EXACT


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnSpec:
    """One column of an export, as it was planned.

    ``native_type`` is the engine's own spelling (``numeric(12,2)``); ``wire_type`` is what
    the engine's decoder needs to read it (PostgreSQL: the type's OID as text; for a list
    the element's). ``cast`` is an SQL type the column is cast to when it is read
    (``columns:`` overrides), or None.
    """

    name: str
    native_type: str
    type: ColumnType
    nullable: bool = True
    wire_type: str = ""
    cast: str | None = None
    comment: str | None = None
    key: bool = False
