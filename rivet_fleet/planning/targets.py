"""What a warehouse's own Parquet loader makes of each canonical type: a table for each. Pure.

Sources: the loaders' manuals (BigQuery "Loading Parquet data", Snowflake "COPY INTO", DuckDB
"Parquet", ClickHouse "Parquet format") for the files our writer makes (lists of ``element``,
UUID and JSON logical types, decimals as fixed-length bytes); DuckDB's and ClickHouse's (25.8 and
26.9) are also tested.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rivet_fleet.contracts.columns import ColumnType, TypeKind
from rivet_fleet.contracts.typereport import Target, TargetColumn, TargetStatus

Resolver = Callable[[ColumnType, str], TargetColumn]
"""Canonical type and quoted column name → what happens to it."""

_WIDE_YEARS = "years outside 0001 to 9999 are refused"
_ISO_TEXT = "ISO-8601 text, such as P1Y2M3DT4H5M6.5S"


def resolve(column_type: ColumnType | None, name: str, target: Target) -> TargetColumn:
    """One column in one warehouse; None is a column that cannot be carried."""
    if column_type is None:
        return TargetColumn(
            target=target,
            target_type=None,
            autoload_type=None,
            status=TargetStatus.FAIL,
            note="the column is not exported",
        )
    return _RESOLVERS[target](column_type, _quoted(name, target))


def as_text(found: TargetColumn) -> TargetColumn:
    """The same column in a CSV file, which carries text and no types."""
    if found.status is TargetStatus.FAIL:
        return found
    return replace(
        found,
        autoload_type=None,
        status=TargetStatus.WARN,
        note="CSV carries no types: create the table with this type before the load",
        cast_sql=None,
    )


def _quoted(name: str, target: Target) -> str:
    if target in (Target.BIGQUERY, Target.CLICKHOUSE):
        return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"
    return '"' + name.replace('"', '""') + '"'


def _ok(target: Target, kind: str, note: str | None = None) -> TargetColumn:
    return TargetColumn(
        target=target, target_type=kind, autoload_type=kind, status=TargetStatus.OK, note=note
    )


def _warn(
    target: Target, kind: str, autoload: str, note: str, cast_sql: str | None = None
) -> TargetColumn:
    return TargetColumn(
        target=target,
        target_type=kind,
        autoload_type=autoload,
        status=TargetStatus.WARN,
        note=note,
        cast_sql=cast_sql,
    )


def _fail(target: Target, note: str) -> TargetColumn:
    return TargetColumn(
        target=target,
        target_type=None,
        autoload_type=None,
        status=TargetStatus.FAIL,
        note=note,
    )


def _digits(column_type: ColumnType) -> tuple[int, int]:
    return column_type.precision or 0, column_type.scale or 0


# ---------------------------------------------------------------- DuckDB

_DUCKDB: dict[TypeKind, str] = {
    TypeKind.BOOL: "BOOLEAN",
    TypeKind.INT16: "SMALLINT",
    TypeKind.INT32: "INTEGER",
    TypeKind.INT64: "BIGINT",
    TypeKind.UINT64: "UBIGINT",
    TypeKind.FLOAT32: "FLOAT",
    TypeKind.FLOAT64: "DOUBLE",
    TypeKind.DATE: "DATE",
    TypeKind.TIME: "TIME",
    TypeKind.TIMESTAMP: "TIMESTAMP",
    TypeKind.TIMESTAMP_UTC: "TIMESTAMP WITH TIME ZONE",
    TypeKind.STRING: "VARCHAR",
    TypeKind.BINARY: "BLOB",
    TypeKind.JSON: "JSON",
    TypeKind.UUID: "UUID",
    TypeKind.ENUM: "VARCHAR",
    TypeKind.INTERVAL: "VARCHAR",
}


def _duckdb(column_type: ColumnType, quoted: str) -> TargetColumn:
    kind, target = column_type.kind, Target.DUCKDB
    if kind is TypeKind.DECIMAL:
        precision, scale = _digits(column_type)
        if precision <= 38:
            return _ok(target, f"DECIMAL({precision},{scale})")
        return _warn(
            target,
            "VARCHAR",
            "DOUBLE",
            "more than 38 digits become DOUBLE and lose some: export the column as text",
        )
    if kind is TypeKind.LIST and column_type.element is not None:
        inner = _duckdb(column_type.element, quoted)
        return replace(
            inner, target_type=f"{inner.target_type}[]", autoload_type=f"{inner.autoload_type}[]"
        )
    note = _ISO_TEXT if kind is TypeKind.INTERVAL else None
    return _ok(target, _DUCKDB[kind], note)


# ---------------------------------------------------------------- BigQuery

_BIGQUERY: dict[TypeKind, tuple[str, str | None]] = {
    TypeKind.BOOL: ("BOOL", None),
    TypeKind.INT16: ("INT64", None),
    TypeKind.INT32: ("INT64", None),
    TypeKind.INT64: ("INT64", None),
    TypeKind.FLOAT32: ("FLOAT64", None),
    TypeKind.FLOAT64: ("FLOAT64", None),
    TypeKind.DATE: ("DATE", _WIDE_YEARS),
    TypeKind.TIME: ("TIME", None),
    TypeKind.TIMESTAMP_UTC: ("TIMESTAMP", _WIDE_YEARS),
    TypeKind.STRING: ("STRING", None),
    TypeKind.BINARY: ("BYTES", None),
    TypeKind.ENUM: ("STRING", None),
    TypeKind.INTERVAL: ("STRING", _ISO_TEXT),
}


def _bigquery(column_type: ColumnType, quoted: str) -> TargetColumn:
    kind, target = column_type.kind, Target.BIGQUERY
    if kind is TypeKind.DECIMAL:
        return _bigquery_decimal(*_digits(column_type))
    if kind is TypeKind.LIST and column_type.element is not None:
        return _bigquery_list(_bigquery(column_type.element, "item.element"), quoted)
    if kind is TypeKind.UINT64:
        return _warn(
            target,
            "NUMERIC",
            "INT64",
            "values above 9223372036854775807 overflow: export the column as decimal(20,0)",
        )
    if kind is TypeKind.TIMESTAMP:
        note = f"a wall-clock time is read as an instant in UTC; {_WIDE_YEARS}"
        return _warn(target, "DATETIME", "TIMESTAMP", note, f"DATETIME({quoted})")
    if kind is TypeKind.JSON:
        cast = f"PARSE_JSON(SAFE_CONVERT_BYTES_TO_STRING({quoted}))"
        return _warn(target, "JSON", "BYTES", "loaded as its bytes", cast)
    if kind is TypeKind.UUID:
        cast = (
            f"REGEXP_REPLACE(TO_HEX({quoted}), r'^(.{{8}})(.{{4}})(.{{4}})(.{{4}})(.{{12}})$', "
            r"r'\1-\2-\3-\4-\5')"
        )
        return _warn(target, "STRING", "BYTES", "loaded as its 16 bytes", cast)
    return _ok(target, *_BIGQUERY[kind])


def _bigquery_decimal(precision: int, scale: int) -> TargetColumn:
    whole, target = precision - scale, Target.BIGQUERY
    if scale <= 9 and whole <= 29:
        return _ok(target, "NUMERIC")
    if scale <= 38 and whole <= 38:
        return _warn(
            target,
            "BIGNUMERIC",
            "BIGNUMERIC",
            "needs the load option decimal_target_types=['NUMERIC','BIGNUMERIC']",
        )
    return _fail(
        target, f"decimal({precision},{scale}) exceeds BIGNUMERIC: export the column as text"
    )


def _bigquery_list(inner: TargetColumn, quoted: str) -> TargetColumn:
    if inner.status is TargetStatus.FAIL:
        return inner
    element = inner.cast_sql or "item.element"
    note = "without the load option enable_list_inference it is a record of a repeated record"
    return _warn(
        Target.BIGQUERY,
        f"ARRAY<{inner.target_type}>",
        f"STRUCT<list ARRAY<STRUCT<element {inner.autoload_type}>>>",
        note if inner.note is None else f"{note}; {inner.note}",
        f"ARRAY(SELECT {element} FROM UNNEST({quoted}.list) AS item WITH OFFSET AS position "
        "ORDER BY position)",
    )


# ---------------------------------------------------------------- Snowflake

_SNOWFLAKE: dict[TypeKind, tuple[str, str | None]] = {
    TypeKind.BOOL: ("BOOLEAN", None),
    TypeKind.INT16: ("NUMBER(38,0)", None),
    TypeKind.INT32: ("NUMBER(38,0)", None),
    TypeKind.INT64: ("NUMBER(38,0)", None),
    TypeKind.FLOAT32: ("FLOAT", None),
    TypeKind.FLOAT64: ("FLOAT", None),
    TypeKind.DATE: ("DATE", None),
    TypeKind.STRING: ("TEXT", None),
    TypeKind.ENUM: ("TEXT", None),
    TypeKind.INTERVAL: ("TEXT", _ISO_TEXT),
}


def _snowflake(column_type: ColumnType, quoted: str) -> TargetColumn:
    kind, target = column_type.kind, Target.SNOWFLAKE
    if kind is TypeKind.DECIMAL:
        precision, scale = _digits(column_type)
        if precision <= 38:
            return _ok(target, f"NUMBER({precision},{scale})")
        return _fail(target, "NUMBER has at most 38 digits: export the column as text")
    if kind is TypeKind.LIST and column_type.element is not None:
        inner = _snowflake(column_type.element, "value")
        if inner.status is TargetStatus.FAIL:
            return inner
        return _warn(target, "ARRAY", "VARIANT", "loaded as a VARIANT", f"{quoted}::ARRAY")
    found = _SNOWFLAKE_WARN.get(kind)
    if found is None:
        return _ok(target, *_SNOWFLAKE[kind])
    target_type, autoload, note, cast = found
    return _warn(target, target_type, autoload, note, cast and cast.format(column=quoted))


_SNOWFLAKE_WARN: dict[TypeKind, tuple[str, str, str, str | None]] = {
    TypeKind.UINT64: (
        "NUMBER(20,0)",
        "NUMBER(38,0)",
        "values above 9223372036854775807 overflow: export the column as decimal(20,0)",
        None,
    ),
    TypeKind.TIME: (
        "TIME",
        "NUMBER(38,0)",
        "loaded as microseconds since midnight",
        "TIME_FROM_PARTS(0, 0, 0, {column} * 1000)",
    ),
    TypeKind.TIMESTAMP: (
        "TIMESTAMP_NTZ",
        "NUMBER(38,0)",
        "loaded as microseconds since 1970",
        "TO_TIMESTAMP_NTZ({column}, 6)",
    ),
    TypeKind.TIMESTAMP_UTC: (
        "TIMESTAMP_TZ",
        "TIMESTAMP_NTZ",
        "load with the session's TIMEZONE set to 'UTC'",
        "CONVERT_TIMEZONE('UTC', 'UTC', {column})::TIMESTAMP_TZ",
    ),
    TypeKind.BINARY: (
        "BINARY",
        "TEXT",
        "needs the file format option BINARY_AS_TEXT = FALSE",
        None,
    ),
    TypeKind.JSON: ("VARIANT", "TEXT", "loaded as text", "PARSE_JSON({column})"),
    TypeKind.UUID: (
        "TEXT",
        "BINARY",
        "loaded as its 16 bytes (with BINARY_AS_TEXT = FALSE)",
        "REGEXP_REPLACE(LOWER(HEX_ENCODE({column})), "
        "'^(.{{8}})(.{{4}})(.{{4}})(.{{4}})(.{{12}})$', '\\\\1-\\\\2-\\\\3-\\\\4-\\\\5')",
    ),
}

# ---------------------------------------------------------------- ClickHouse

_OLD_CLICKHOUSE = "readers before version 26"

_CLICKHOUSE: dict[TypeKind, tuple[str, str | None]] = {
    TypeKind.BOOL: ("Bool", None),
    TypeKind.INT16: ("Int16", None),
    TypeKind.INT32: ("Int32", None),
    TypeKind.INT64: ("Int64", None),
    TypeKind.UINT64: ("UInt64", None),
    TypeKind.FLOAT32: ("Float32", None),
    TypeKind.FLOAT64: ("Float64", None),
    TypeKind.DATE: ("Date32", "years outside 1900 to 2299 are out of range"),
    TypeKind.TIMESTAMP: (
        "DateTime64(6, 'UTC')",
        "a wall-clock time is read as UTC; years outside 1900 to 2299 are out of range",
    ),
    TypeKind.TIMESTAMP_UTC: (
        "DateTime64(6, 'UTC')",
        "years outside 1900 to 2299 are out of range",
    ),
    TypeKind.STRING: ("String", None),
    TypeKind.BINARY: ("String", None),
    TypeKind.JSON: ("JSON", None),
    TypeKind.ENUM: ("String", None),
    TypeKind.INTERVAL: ("String", _ISO_TEXT),
}


def _clickhouse(column_type: ColumnType, quoted: str) -> TargetColumn:
    kind, target = column_type.kind, Target.CLICKHOUSE
    if kind is TypeKind.DECIMAL:
        precision, scale = _digits(column_type)
        return _ok(target, f"Decimal({precision}, {scale})")
    if kind is TypeKind.LIST and column_type.element is not None:
        inner = _clickhouse(column_type.element, "item")
        cast = inner.cast_sql and f"arrayMap(item -> {inner.cast_sql}, {quoted})"
        return replace(
            inner,
            target_type=f"Array(Nullable({inner.target_type}))",
            autoload_type=f"Array(Nullable({inner.autoload_type}))",
            cast_sql=cast,
        )
    if kind is TypeKind.TIME:
        return _warn(
            target,
            "DateTime64(6, 'UTC')",
            "DateTime64(6, 'UTC')",
            "a moment of 1970-01-01",
        )
    if kind is TypeKind.UUID:
        cast = (
            f"toUUID(replaceRegexpOne(lower(hex({quoted})), "
            r"'^(.{8})(.{4})(.{4})(.{4})(.{12})$', '\\1-\\2-\\3-\\4-\\5'))"
        )
        return _warn(target, "UUID", "UUID", f"{_OLD_CLICKHOUSE} read its 16 bytes", cast)
    return _ok(target, *_CLICKHOUSE[kind])


_RESOLVERS: dict[Target, Resolver] = {
    Target.DUCKDB: _duckdb,
    Target.BIGQUERY: _bigquery,
    Target.SNOWFLAKE: _snowflake,
    Target.CLICKHOUSE: _clickhouse,
}
