"""From canonical column types to Arrow: one table, used by every source and every format.

The representation follows the semantic type alone. UUID and JSON are the canonical Arrow
extension types, so that Parquet carries its own UUID and JSON logical types.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import pyarrow as pa

from rivet_fleet.contracts import basis
from rivet_fleet.contracts.basis import BasisDifference, BasisFact, BasisKind, Consequence
from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.contracts.facts import ColumnFacts
from rivet_fleet.contracts.keys import ChunkRange
from rivet_fleet.contracts.plan import ReadPlan
from rivet_fleet.errors import SchemaDrift, UnsupportedType

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


def storage_of(column: pa.Array) -> pa.Array:
    """The array below an extension type (UUID, JSON)."""
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def width_of(kind: pa.DataType) -> int:
    """Bytes of one value of a fixed-width type as Arrow stores it."""
    return int(kind.bit_width) // 8


# ------------------------------------------------------------------------------------------
# Names of types for people: the canonical type, Arrow's, and the file's.

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


# ------------------------------------------------------------------------------------------
# How a source differs from what was planned: its columns, and what the plan rests on.


def check_columns(
    read: ReadPlan, now: tuple[ColumnFacts, ...], *, forms_are_sent: bool = True
) -> None:
    """Raises SchemaDrift when the source's columns are not the planned ones. ``forms_are_sent``:
    every answer says of which types its cells are; otherwise these are compared here, too."""
    shown = tuple(one for one in now if one.name not in read.hidden)
    differences = drift(read.columns, shown)
    if not differences and not forms_are_sent:
        differences = _other_forms(read.columns, shown)
    if differences:
        raise SchemaDrift(
            f"{read.relation or 'the query'}: the columns are not the planned ones: "
            + "; ".join(differences),
            hint="plan the export again",
        )


def judge(
    read: ReadPlan,
    chunk_range: ChunkRange,
    now: tuple[BasisFact, ...],
    opened: tuple[BasisFact, ...] = (),
) -> tuple[BasisDifference, ...]:
    """What is another than planned and only to be told. ``opened``: what is compared with the
    chunk's opening. Raises SchemaDrift when a difference would make this chunk's rows others than
    the plan's (ADR 0018). Nothing else judges."""
    planned = (*read.basis, *basis.of_session(read.session), *opened)
    found = basis.differences(planned, now, chunk_range, read.window)
    fatal = [one for one in found if one.consequence is Consequence.FATAL]
    if fatal:
        raise SchemaDrift(
            f"{read.relation or 'the query'}: what the plan rests on has changed: "
            + "; ".join(one.sentence for one in fatal),
            hint="nothing of this chunk was delivered; plan the export again",
            code="RIVET_BASIS_CHANGED",
        )
    return found


class Footing:
    """What one chunk's plan rests on: judged when the chunk is opened and again behind its pages.
    ``look`` asks the source; it raises SourceError."""

    def __init__(
        self,
        read: ReadPlan,
        chunk_range: ChunkRange,
        look: Callable[[], tuple[BasisFact, ...]],
        *,
        columns: tuple[BasisFact, ...] = (),
    ) -> None:
        """``columns``: what they are, as an opening has found and passed them."""
        self._read, self._range, self._look = read, chunk_range, look
        self._told: dict[BasisDifference, None] = {}
        self.columns = columns

    def judge(self, now: tuple[BasisFact, ...]) -> tuple[BasisDifference, ...]:
        """Everything that was found changed so far, without harm. The first ``now`` that says what
        the columns are is the opening's, which ``check_columns`` passed. Raises SchemaDrift."""
        if not self.columns:
            self.columns = tuple(fact for fact in now if fact.kind is BasisKind.COLUMN)
        self._told |= dict.fromkeys(judge(self._read, self._range, now, self.columns))
        return tuple(self._told)

    def prove(self) -> tuple[BasisDifference, ...]:
        """Look again, and judge; nothing is asked where there is nothing to compare with."""
        compared = self._read.basis or self.columns or self._read.position
        return self.judge(self._look()) if compared else ()


def drift(planned: tuple[ColumnSpec, ...], now: tuple[ColumnFacts, ...]) -> tuple[str, ...]:
    """How the source's columns differ from the planned ones, one phrase each."""
    before = {column.name: column for column in planned}
    after = {column.name: column for column in now}
    found = [f"{name} is gone" for name in before if name not in after]
    found += [f"{name} ({after[name].native_type}) is new" for name in after if name not in before]
    for name in before.keys() & after.keys():
        old, new = before[name], after[name]
        if old.native_type != new.native_type:
            found.append(f"{name} was {old.native_type} and is {new.native_type}")
        # The other way round is none: a column that became NOT NULL has the rows it had.
        elif not old.nullable and new.nullable:
            found.append(f"{name} was NOT NULL and may be NULL")
    if not found and tuple(before) != tuple(after):
        found.append(f"the order was {', '.join(before)} and is {', '.join(after)}")
    return tuple(sorted(found))


def _other_forms(planned: tuple[ColumnSpec, ...], now: tuple[ColumnFacts, ...]) -> tuple[str, ...]:
    """Columns whose values come as those of another type: a domain may be made again under its
    name. Labels come as text, whatever enum they are of."""
    return tuple(
        f"{new.name} is of another type that is called {new.native_type} now, too"
        for old, new in zip(planned, now, strict=True)
        if old.cast is None
        and old.type.kind is not TypeKind.ENUM
        and old.wire_type != new.wire_type
    )
