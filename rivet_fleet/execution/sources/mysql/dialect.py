"""MySQL and MariaDB in tables: types, overrides, quoting, capabilities. No I/O.

MySQL manual "Data Types", "Cast Functions and Operators"; MariaDB "Data Types". Error numbers are
in ``errnos``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rivet_fleet.contracts.columns import ColumnType, Fidelity, TypeKind
from rivet_fleet.contracts.facts import SourceCapabilities
from rivet_fleet.contracts.keys import RelationName
from rivet_fleet.errors import ConfigError
from rivet_fleet.execution.engines.session import whole

ENGINE_NAMES = ("mysql", "mariadb")
DEFAULT_PORT = 3306
ALIAS = "_rivet"
"""The alias of what is read. Keys are always written with it: a bare name in ORDER BY means
the output column, which may be a cast."""
CAPABILITIES = SourceCapabilities(
    keyset=True, composite_keyset=True, block_ranges=False, parallel_wide_rows=False
)

# ---------------------------------------------------------------- types

_INTEGERS: dict[str, tuple[TypeKind, TypeKind]] = {
    "tinyint": (TypeKind.INT16, TypeKind.INT16),
    "smallint": (TypeKind.INT16, TypeKind.INT32),
    "mediumint": (TypeKind.INT32, TypeKind.INT64),
    "int": (TypeKind.INT32, TypeKind.INT64),
    "bigint": (TypeKind.INT64, TypeKind.UINT64),
}
"""Family → the kind when signed, when unsigned."""

_SCALARS: dict[str, TypeKind] = {
    "float": TypeKind.FLOAT32,
    "double": TypeKind.FLOAT64,
    "date": TypeKind.DATE,
    "datetime": TypeKind.TIMESTAMP,
    "timestamp": TypeKind.TIMESTAMP_UTC,
    "time": TypeKind.TIME,
    "year": TypeKind.INT16,
    "enum": TypeKind.ENUM,
    "set": TypeKind.ENUM,
    "json": TypeKind.JSON,
    "uuid": TypeKind.UUID,
    **dict.fromkeys(
        ("char", "varchar", "tinytext", "text", "mediumtext", "longtext", "inet4", "inet6"),
        TypeKind.STRING,
    ),
    **dict.fromkeys(
        ("binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"), TypeKind.BINARY
    ),
}

FIDELITY: dict[TypeKind, Fidelity] = {
    TypeKind.JSON: Fidelity.LOGICAL_STRING,
    TypeKind.ENUM: Fidelity.COMPATIBLE,
}
PRECISION_MAX = 65
SCALE_MAX = 30
_BARE_KINDS = (TypeKind.STRING, TypeKind.BINARY, TypeKind.JSON, TypeKind.UUID)
_DECIMAL = re.compile(r"decimal\((\d+),(\d+)\)")
_WIDTH = re.compile(r"\w+\((\d+)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsupported:
    """Why a type cannot be carried, and the cast that would help."""

    reason: str
    cast_hint: str = "binary"
    order: TypeKind | None = None
    """See ``ColumnFacts``."""


def family(native_type: str) -> str:
    """``bigint(20) unsigned`` → ``bigint``."""
    return re.split(r"[ (]", native_type, maxsplit=1)[0].lower()


def column_type(native_type: str, *, json: bool = False) -> ColumnType | Unsupported:
    """The canonical type of a ``COLUMN_TYPE``, or why there is none.

    ``json`` marks MariaDB's JSON: a longtext whose check says ``json_valid``.
    """
    name = family(native_type)
    if json:
        kind: TypeKind | None = TypeKind.JSON
    elif name in _INTEGERS:
        unsigned = "unsigned" in native_type or "zerofill" in native_type
        one = native_type.startswith("tinyint(1)")
        kind = TypeKind.BOOL if one else _INTEGERS[name][unsigned]
    elif name == "bit":
        width = whole(match[1]) if (match := _WIDTH.match(native_type)) else 1
        kind = {1: TypeKind.BOOL, 64: TypeKind.UINT64}.get(width, TypeKind.INT64)
    elif name == "decimal":
        return _decimal_type(native_type)
    else:
        kind = _SCALARS.get(name)
    if kind is None:
        return Unsupported(reason=f"type {name} has no exact representation")
    return ColumnType(kind=kind, fidelity=FIDELITY.get(kind, Fidelity.EXACT))


def _decimal_type(native_type: str) -> ColumnType | Unsupported:
    match = _DECIMAL.match(native_type)
    precision, scale = (whole(match[1]), whole(match[2])) if match else (0, 0)
    if not scale <= precision or not 1 <= precision <= PRECISION_MAX:
        return Unsupported(
            reason="a decimal whose precision is not known",
            cast_hint="decimal(38,10)",
            order=TypeKind.DECIMAL,
        )
    return ColumnType(kind=TypeKind.DECIMAL, precision=precision, scale=scale)


# ---------------------------------------------------------------- overrides

_OVERRIDES: dict[str, TypeKind] = {
    **dict.fromkeys(("bool", "boolean"), TypeKind.BOOL),
    **dict.fromkeys(("int2", "smallint", "int16"), TypeKind.INT16),
    **dict.fromkeys(("int4", "int", "integer", "int32"), TypeKind.INT32),
    **dict.fromkeys(("int8", "bigint", "int64"), TypeKind.INT64),
    **dict.fromkeys(("float4", "real", "float32"), TypeKind.FLOAT32),
    **dict.fromkeys(("float8", "double", "float64", "double precision"), TypeKind.FLOAT64),
    "date": TypeKind.DATE,
    **dict.fromkeys(("timestamp", "timestamp_ns"), TypeKind.TIMESTAMP),
    **dict.fromkeys(
        ("timestamp_tz", "timestamptz", "timestamp_utc", "timestamp_tz_ns"),
        TypeKind.TIMESTAMP_UTC,
    ),
    **dict.fromkeys(("text", "string", "varchar", "char", "bpchar", "name"), TypeKind.STRING),
    **dict.fromkeys(("binary", "bytea", "blob", "varbinary"), TypeKind.BINARY),
    **dict.fromkeys(("json", "jsonb"), TypeKind.JSON),
    "uuid": TypeKind.UUID,
}
_DECIMAL_OVERRIDE = re.compile(r"(?:decimal|numeric)\s*\(\s*(\d{1,9})\s*(?:,\s*(\d{1,9})\s*)?\)")


def parse_override(text: str) -> ColumnType:
    """``columns:`` override → what arrives. Raises ConfigError: nothing else becomes SQL."""
    name = " ".join(text.strip().lower().split())
    if match := _DECIMAL_OVERRIDE.fullmatch(name):
        precision, scale = int(match[1]), int(match[2] or 0)
        if not (1 <= precision <= PRECISION_MAX and scale <= min(precision, SCALE_MAX)):
            raise ConfigError(
                f"{text}: precision must be 1 to {PRECISION_MAX} and scale at most {SCALE_MAX} "
                "and the precision"
            )
        return ColumnType(kind=TypeKind.DECIMAL, precision=precision, scale=scale)
    kind = _OVERRIDES.get(name)
    if kind is None:
        raise ConfigError(
            f"{text!r} is not a type a column can be cast to",
            hint="known: decimal(p,s), " + ", ".join(sorted(_OVERRIDES)),
        )
    return ColumnType(kind=kind, fidelity=FIDELITY.get(kind, Fidelity.EXACT))


INTEGERS = ("tinyint", "smallint", "mediumint", "int", "bigint")
NUMBERS = (*INTEGERS, "year", "bit")
TEXTS = ("char", "varchar", "tinytext", "text", "mediumtext", "longtext", "json")
BYTES = ("binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob")
_WHOLE_KINDS = (TypeKind.BOOL, TypeKind.INT16, TypeKind.INT32, TypeKind.INT64)
_MOMENTS = ("date", "datetime", "timestamp")


def cast_expression(
    reference: str, native_type: str, target: ColumnType, *, mariadb: bool = False
) -> str:
    """The SQL that makes the server send ``target``, or the bare column where the decoder reads
    the target from the column's own form and refuses what does not fit: the server's casts round
    and clamp without a word."""
    own, kind = family(native_type), target.kind
    whole = own in NUMBERS and kind in _WHOLE_KINDS
    as_text = own in TEXTS and kind in (TypeKind.STRING, TypeKind.JSON, TypeKind.UUID)
    # Bytes as text: a CAST makes NULL of what is not UTF-8; the decoder has a policy for it.
    as_bytes = own in BYTES and kind in _BARE_KINDS
    as_bytes = as_bytes or (own in SPATIAL and kind is TypeKind.BINARY)
    same_decimal = own == "decimal" and kind is TypeKind.DECIMAL
    same_uuid = own == "uuid" and kind is TypeKind.UUID
    if (whole and own != "bit") or as_text or as_bytes or same_decimal or same_uuid:
        return reference
    if own == VECTOR and kind is TypeKind.STRING:
        # There is no CAST of a vector to text on either.
        return f"VEC_ToText({reference})" if mariadb else f"VECTOR_TO_STRING({reference})"
    return _cast(f"({reference} + 0)" if own == "bit" else reference, own, target)


def _cast(reference: str, own: str, target: ColumnType) -> str:
    kind = target.kind
    if kind in _WHOLE_KINDS:
        return f"CAST({reference} AS SIGNED)"
    if kind in (TypeKind.FLOAT32, TypeKind.FLOAT64):
        return f"({reference} + 0e0)"
    if kind is TypeKind.DECIMAL:
        whole_digits = (target.precision or 0) - (target.scale or 0)
        # As many digits as the server has: the decoder refuses what the target cannot hold.
        return f"CAST({reference} AS DECIMAL(65,{min(SCALE_MAX, 65 - whole_digits)}))"
    if kind is TypeKind.DATE:
        return f"CAST({reference} AS DATE)"
    if kind in (TypeKind.TIMESTAMP, TypeKind.TIMESTAMP_UTC):
        return f"CAST({reference} AS DATETIME(6))"
    if kind is TypeKind.BINARY:
        return f"CAST({reference} AS BINARY)"
    if own in SPATIAL:
        return f"ST_AsText({reference})"
    # A float's own text has six digits.
    exact = f"({reference} + 0e0)" if own == "float" else reference
    return f"CAST({exact} AS CHAR CHARACTER SET utf8mb4)"


SPATIAL = (
    *("geometry", "point", "linestring", "polygon", "multipoint", "multilinestring"),
    *("multipolygon", "geometrycollection", "geomcollection"),
)


VECTOR = "vector"
"""MySQL 9 and MariaDB 11.7; its text has fewer digits than its numbers."""


def override_fidelity(native_type: str, own: TypeKind | None, target: ColumnType) -> Fidelity:
    """How faithful an override is. What the decoder checks itself is exact."""
    kind, name = target.kind, family(native_type)
    if own is kind is not TypeKind.DECIMAL:
        return FIDELITY.get(kind, Fidelity.EXACT)
    if kind is TypeKind.STRING:
        return Fidelity.LOSSY if name in (*SPATIAL, VECTOR) else Fidelity.LOGICAL_STRING
    if kind is TypeKind.BINARY:
        return Fidelity.COMPATIBLE
    if kind in _WHOLE_KINDS or kind is TypeKind.DECIMAL:
        return (
            Fidelity.EXACT
            if name in (*NUMBERS, "decimal")
            and kind is not TypeKind.BOOL
            and (name != "decimal" or kind is TypeKind.DECIMAL)
            else Fidelity.LOSSY
        )
    if kind in (TypeKind.TIMESTAMP, TypeKind.TIMESTAMP_UTC):
        return Fidelity.EXACT if name in _MOMENTS else Fidelity.LOSSY
    if kind is TypeKind.FLOAT64:
        narrow = ("float", "tinyint", "smallint", "mediumint", "int", "year")
        return Fidelity.EXACT if name in narrow else Fidelity.LOSSY
    if name in (*TEXTS, *BYTES, "enum", "set") and kind in (TypeKind.JSON, TypeKind.UUID):
        return FIDELITY.get(kind, Fidelity.COMPATIBLE)
    return Fidelity.LOSSY


# ---------------------------------------------------------------- quoting


def quote_identifier(name: str) -> str:
    """``name`` in backticks: exact, whatever its script and whatever the SQL mode."""
    if "\0" in name:
        raise ConfigError("an identifier cannot hold a NUL character")
    return "`" + name.replace("`", "``") + "`"


def quote_relation(relation: RelationName) -> str:
    """```database`.`name```."""
    return f"{quote_identifier(relation.schema)}.{quote_identifier(relation.name)}"


_PLAIN = re.compile(r"[ !#-&(-\[\]-~]+")
"""Printable ASCII without quotes and backslash: the same under every SQL mode. Not an empty text,
which EMPTY_STRING_IS_NULL makes NULL of."""


def quote_text(text: str) -> str:
    """``text`` as a literal that means the same under every SQL mode and character set."""
    if _PLAIN.fullmatch(text):
        return f"'{text}'"
    return f"_utf8mb4 X'{text.encode().hex()}'"


UNIQUE_KEPT_BY = frozenset(
    ("INNODB", "MYISAM", "ARIA", "MEMORY", "ROCKSDB", "TOKUDB", "NDB", "NDBCLUSTER")
)
"""Storage engines that hold the rows themselves and refuse a second one of a unique key. MRG_MyISAM
declares the keys of its tables and looks at each for itself; FEDERATED, SPIDER and CONNECT repeat
what was declared of rows that are elsewhere."""


def keeps_unique(storage_engine: str | None) -> bool:
    """Whether a key that is declared unique is so. What is not known is not believed."""
    return (storage_engine or "").upper() in UNIQUE_KEPT_BY
