"""PostgreSQL in tables: types, overrides, error classes, capabilities, quoting. No I/O.

Type OIDs: ``pg_type.dat`` of the server. SQLSTATE: manual, appendix "PostgreSQL Error Codes".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rivet_fleet.contracts.columns import ColumnType, Fidelity, TypeKind
from rivet_fleet.contracts.facts import SourceCapabilities
from rivet_fleet.contracts.keys import RelationName
from rivet_fleet.errors import (
    ConfigError,
    RelationLocked,
    RetryClass,
    SourceBusy,
    SourceError,
    SourceRefused,
    SourceUnavailable,
    StatementTimeout,
)

ENGINE_NAMES = ("postgres", "postgresql")
DEFAULT_PORT = 5432
ALIAS = "_rivet"
"""The alias of what is read. Keys are always written with it: a bare name in ORDER BY means
the output column, which may be a cast."""

OWN_PATH = "pg_catalog, pg_temp"
"""The search path of statements that name nothing of the user's."""

# ---------------------------------------------------------------- types

OID_JSONB = 3802
OID_TEXT = 25
OID_OID = 26
OID_BPCHAR = 1042
SCALAR_KINDS: dict[int, TypeKind] = {
    16: TypeKind.BOOL,
    17: TypeKind.BINARY,
    19: TypeKind.STRING,  # name
    20: TypeKind.INT64,
    21: TypeKind.INT16,
    23: TypeKind.INT32,
    OID_TEXT: TypeKind.STRING,
    OID_OID: TypeKind.INT64,
    114: TypeKind.JSON,
    700: TypeKind.FLOAT32,
    701: TypeKind.FLOAT64,
    OID_BPCHAR: TypeKind.STRING,
    1043: TypeKind.STRING,
    1082: TypeKind.DATE,
    1083: TypeKind.TIME,
    1114: TypeKind.TIMESTAMP,
    1184: TypeKind.TIMESTAMP_UTC,
    1186: TypeKind.INTERVAL,
    1700: TypeKind.DECIMAL,
    2950: TypeKind.UUID,
    OID_JSONB: TypeKind.JSON,
}
TEXT_READ_AS_IS = ("19", str(OID_BPCHAR), "1043")
"""Wire types a string override leaves alone: ``char(n)::text`` would cut the padding off. Not
25: that is also what other types become when they are cast to text."""
NOT_REALLY_ARRAYS = (22, 30)
"""int2vector and oidvector: array-like on the wire, zero-based, internal."""

FIDELITY: dict[TypeKind, Fidelity] = {
    TypeKind.JSON: Fidelity.LOGICAL_STRING,
    TypeKind.ENUM: Fidelity.COMPATIBLE,
    TypeKind.INTERVAL: Fidelity.COMPATIBLE,
    TypeKind.LIST: Fidelity.COMPATIBLE,
}
PRECISION_MAX = 76


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogType:
    """A column's type as the catalogue tells it, domains already resolved to their base."""

    oid: int
    typmod: int = -1
    typtype: str = "b"
    """``pg_type.typtype``: b base, c composite, d domain, e enum, p pseudo, r/m range."""
    name: str = ""
    element: CatalogType | None = None
    """The element's type when this is a true array."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsupported:
    """Why a type cannot be carried, and the cast that would help."""

    reason: str
    cast_hint: str = "text"


def column_type(catalog: CatalogType) -> ColumnType | Unsupported:
    """The canonical type of a catalogue type, or why there is none."""
    if catalog.element is not None:
        return _list_type(catalog.element)
    if catalog.typtype == "e":
        return ColumnType(kind=TypeKind.ENUM, fidelity=Fidelity.COMPATIBLE)
    kind = SCALAR_KINDS.get(catalog.oid)
    if kind is None:
        return Unsupported(reason=f"type {catalog.name} has no exact representation")
    if kind is TypeKind.DECIMAL:
        return numeric_type(catalog.typmod)
    return ColumnType(kind=kind, fidelity=FIDELITY.get(kind, Fidelity.EXACT))


def _list_type(element: CatalogType) -> ColumnType | Unsupported:
    if element.typtype == "d" or element.element is not None or element.oid == OID_OID:
        return Unsupported(reason=f"arrays of {element.name} are not carried")
    inner = column_type(element)
    if isinstance(inner, Unsupported):
        return Unsupported(reason=f"array whose elements cannot be carried: {inner.reason}")
    return ColumnType(kind=TypeKind.LIST, element=inner, fidelity=Fidelity.COMPATIBLE)


def numeric_type(typmod: int) -> ColumnType | Unsupported:
    """Decode ``atttypmod`` of numeric: 16 bits precision, 11 bits signed scale (PG ≥ 15)."""
    if typmod < 4:
        return Unsupported(
            reason="numeric without a precision can hold any number of digits",
            cast_hint="decimal(38,10)",
        )
    precision = ((typmod - 4) >> 16) & 0xFFFF
    scale = (((typmod - 4) & 0x7FF) ^ 1024) - 1024
    # Parquet knows neither a negative scale nor a scale above the precision: the same values
    # are carried exactly by a wider decimal.
    precision, scale = (precision - scale, 0) if scale < 0 else (max(precision, scale), scale)
    if precision > PRECISION_MAX:
        return Unsupported(reason=f"numeric with {precision} digits (the limit is 76)")
    return ColumnType(kind=TypeKind.DECIMAL, precision=precision, scale=scale)


# ---------------------------------------------------------------- overrides


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """One ``columns:`` override: what arrives, and the SQL that makes the server send it. A type
    that is no word of the grammar names its schema: it would be looked up on the search path."""

    type: ColumnType
    wire_oid: int
    sql_type: str


_OVERRIDE_NAMES: dict[str, tuple[TypeKind, int, str]] = {
    **dict.fromkeys(("bool", "boolean"), (TypeKind.BOOL, 16, "boolean")),
    **dict.fromkeys(("int2", "smallint", "int16"), (TypeKind.INT16, 21, "smallint")),
    **dict.fromkeys(("int4", "int", "integer", "int32"), (TypeKind.INT32, 23, "integer")),
    **dict.fromkeys(("int8", "bigint", "int64"), (TypeKind.INT64, 20, "bigint")),
    **dict.fromkeys(("float4", "real", "float32"), (TypeKind.FLOAT32, 700, "real")),
    **dict.fromkeys(
        ("float8", "double", "float64", "double precision"),
        (TypeKind.FLOAT64, 701, "double precision"),
    ),
    "date": (TypeKind.DATE, 1082, "pg_catalog.date"),
    **dict.fromkeys(
        ("timestamp", "timestamp_ns"), (TypeKind.TIMESTAMP, 1114, "pg_catalog.timestamp")
    ),
    **dict.fromkeys(
        ("timestamp_tz", "timestamptz", "timestamp_utc", "timestamp_tz_ns"),
        (TypeKind.TIMESTAMP_UTC, 1184, "pg_catalog.timestamptz"),
    ),
    **dict.fromkeys(
        ("text", "string", "varchar", "char", "bpchar", "name"),
        (TypeKind.STRING, 25, "pg_catalog.text"),
    ),
    **dict.fromkeys(
        ("binary", "bytea", "blob", "varbinary"), (TypeKind.BINARY, 17, "pg_catalog.bytea")
    ),
    **dict.fromkeys(("json", "jsonb"), (TypeKind.JSON, 114, "pg_catalog.json")),
    "uuid": (TypeKind.UUID, 2950, "pg_catalog.uuid"),
}
_DECIMAL_OVERRIDE = re.compile(r"(?:decimal|numeric)\s*\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)")


def parse_override(text: str) -> Override:
    """``columns:`` override → what it means. Raises ConfigError: nothing else becomes SQL."""
    name = " ".join(text.strip().lower().split())
    if match := _DECIMAL_OVERRIDE.fullmatch(name):
        precision, scale = int(match[1]), int(match[2] or 0)
        if not (1 <= precision <= PRECISION_MAX and scale <= precision):
            raise ConfigError(f"{text}: precision must be 1 to 76 and scale at most the precision")
        # Plain numeric: numeric(p,s) would round. The decoder refuses what does not fit.
        decimal = ColumnType(kind=TypeKind.DECIMAL, precision=precision, scale=scale)
        return Override(type=decimal, wire_oid=1700, sql_type="numeric")
    found = _OVERRIDE_NAMES.get(name)
    if found is None:
        raise ConfigError(
            f"{text!r} is not a type a column can be cast to",
            hint="known: decimal(p,s), " + ", ".join(sorted(_OVERRIDE_NAMES)),
        )
    kind, wire_oid, sql_type = found
    fidelity = FIDELITY.get(kind, Fidelity.EXACT)
    return Override(
        type=ColumnType(kind=kind, fidelity=fidelity), wire_oid=wire_oid, sql_type=sql_type
    )


_WIDENING = {
    (TypeKind.INT16, TypeKind.INT32),
    (TypeKind.INT16, TypeKind.INT64),
    (TypeKind.INT32, TypeKind.INT64),
    (TypeKind.FLOAT32, TypeKind.FLOAT64),
    (TypeKind.INT16, TypeKind.FLOAT64),
    (TypeKind.INT32, TypeKind.FLOAT64),
    (TypeKind.BOOL, TypeKind.INT32),
    (TypeKind.DATE, TypeKind.TIMESTAMP),
    (TypeKind.TIMESTAMP, TypeKind.TIMESTAMP_UTC),
    (TypeKind.TIMESTAMP_UTC, TypeKind.TIMESTAMP),
}


_INTEGERS = (TypeKind.INT16, TypeKind.INT32, TypeKind.INT64)
_ROUNDED_FROM_TEXT = (
    TypeKind.FLOAT32,
    TypeKind.FLOAT64,
    TypeKind.DATE,
    TypeKind.TIMESTAMP,
    TypeKind.TIMESTAMP_UTC,
)
_ROUNDED_FROM_UNKNOWN = (*_INTEGERS, *_ROUNDED_FROM_TEXT, TypeKind.BOOL)


def override_fidelity(own: TypeKind | None, target: TypeKind) -> Fidelity:
    """How faithful a cast is: the server rounds floats, dates and integers without a word.

    ``own`` is None for a type without an exact form (numeric without a precision, money, …).
    """
    if own is target:
        return FIDELITY.get(target, Fidelity.EXACT)
    if target is TypeKind.STRING:
        return Fidelity.LOGICAL_STRING
    if own is None:
        rounded = target in _ROUNDED_FROM_UNKNOWN
        return Fidelity.LOSSY if rounded else FIDELITY.get(target, Fidelity.EXACT)
    if own in (TypeKind.STRING, TypeKind.ENUM):
        rounded = target in _ROUNDED_FROM_TEXT
        return Fidelity.LOSSY if rounded else FIDELITY.get(target, Fidelity.COMPATIBLE)
    # Plain numeric keeps every digit of an integer, but only 15 of a float.
    whole_to_decimal = target is TypeKind.DECIMAL and own in _INTEGERS
    return Fidelity.EXACT if whole_to_decimal or (own, target) in _WIDENING else Fidelity.LOSSY


# ---------------------------------------------------------------- errors


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorClass:
    """What one SQLSTATE (or a whole class of them) means for a worker."""

    error: type[SourceError]
    retry: RetryClass
    extra_delay_s: float = 0.0


GONE = ErrorClass(error=SourceUnavailable, retry=RetryClass.RECONNECT)
RESTARTING = ErrorClass(error=SourceUnavailable, retry=RetryClass.RECONNECT, extra_delay_s=15.0)
REFUSED = ErrorClass(error=SourceRefused, retry=RetryClass.PERMANENT)
_TIMED_OUT = ErrorClass(error=StatementTimeout, retry=RetryClass.PERMANENT)
_CONFLICT = ErrorClass(error=SourceBusy, retry=RetryClass.TRANSIENT, extra_delay_s=1.0)

SQLSTATES: dict[str, ErrorClass] = {
    "57014": _TIMED_OUT,  # statement_timeout, or an administrator's pg_cancel_backend
    "57P01": RESTARTING,  # admin shutdown, pg_terminate_backend
    "57P02": RESTARTING,
    "57P03": RESTARTING,
    "57P05": GONE,  # idle_session_timeout
    "25P03": GONE,  # idle_in_transaction_session_timeout
    "25P04": GONE,  # transaction_timeout: the connection is gone, and ours sets it to 0
    "53300": ErrorClass(error=SourceBusy, retry=RetryClass.RECONNECT, extra_delay_s=15.0),
    "40001": _CONFLICT,  # serialization, or a standby's recovery conflict
    "40P01": _CONFLICT,
    "55P03": ErrorClass(error=RelationLocked, retry=RetryClass.TRANSIENT),
}
SQLSTATE_CLASSES: dict[str, ErrorClass] = {
    "08": GONE,
    "53": ErrorClass(error=SourceBusy, retry=RetryClass.TRANSIENT, extra_delay_s=5.0),
}


def classify(sqlstate: str) -> ErrorClass:
    """The class of an SQLSTATE: exact code, then its two-letter class, else refused for good."""
    return SQLSTATES.get(sqlstate) or SQLSTATE_CLASSES.get(sqlstate[:2]) or REFUSED


# ---------------------------------------------------------------- capabilities, quoting


def capabilities(server_version_num: int) -> SourceCapabilities:
    """What a server of this ``server_version_num`` can do (TID range scans: 14)."""
    return SourceCapabilities(
        keyset=True, composite_keyset=True, block_ranges=server_version_num >= 140000
    )


def quote_identifier(name: str) -> str:
    """``name`` as a quoted identifier: exact, whatever its case or script."""
    if "\0" in name:
        raise ConfigError("an identifier cannot hold a NUL character")
    return '"' + name.replace('"', '""') + '"'


def quote_relation(relation: RelationName) -> str:
    """``"schema"."name"``."""
    return f"{quote_identifier(relation.schema)}.{quote_identifier(relation.name)}"


def quote_literal(text: str) -> str:
    """``text`` as a literal that means the same under any ``standard_conforming_strings``."""
    if "\0" in text:
        raise ConfigError("a key value cannot hold a NUL character")
    quoted = text.replace("'", "''")
    return " E'" + quoted.replace("\\", "\\\\") + "'" if "\\" in text else f"'{quoted}'"
