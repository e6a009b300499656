"""The warehouse table, row by row; DuckDB's column is also asked of DuckDB itself."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.contracts.plan import FormatPlan
from rivet_fleet.contracts.typereport import Target, TargetStatus
from rivet_fleet.execution.registry import open_format
from rivet_fleet.execution.types import arrow_name, arrow_schema, canonical_name, parquet_name
from rivet_fleet.planning.targets import as_text, resolve

BQ, SF, DD, CH = Target.BIGQUERY, Target.SNOWFLAKE, Target.DUCKDB, Target.CLICKHOUSE


def decimal(precision: int, scale: int) -> ColumnType:
    return ColumnType(kind=TypeKind.DECIMAL, precision=precision, scale=scale)


def of(kind: TypeKind) -> ColumnType:
    return ColumnType(kind=kind)


def listed(element: ColumnType) -> ColumnType:
    return ColumnType(kind=TypeKind.LIST, element=element)


K = TypeKind
ROWS: list[tuple[ColumnType, Target, str, str | None, str | None]] = [
    # type, target, status, target type, autoload when it differs
    *((of(k), BQ, "ok", "INT64", None) for k in (K.INT16, K.INT32, K.INT64)),
    *((of(k), SF, "ok", "NUMBER(38,0)", None) for k in (K.INT16, K.INT32, K.INT64)),
    (of(K.INT16), DD, "ok", "SMALLINT", None),
    (of(K.INT32), DD, "ok", "INTEGER", None),
    (of(K.INT64), DD, "ok", "BIGINT", None),
    (of(K.INT16), CH, "ok", "Int16", None),
    (of(K.INT32), CH, "ok", "Int32", None),
    (of(K.INT64), CH, "ok", "Int64", None),
    (of(K.BOOL), BQ, "ok", "BOOL", None),
    (of(K.BOOL), SF, "ok", "BOOLEAN", None),
    (of(K.BOOL), DD, "ok", "BOOLEAN", None),
    (of(K.BOOL), CH, "ok", "Bool", None),
    (of(K.UINT64), BQ, "warn", "NUMERIC", "INT64"),
    (of(K.UINT64), SF, "warn", "NUMBER(20,0)", "NUMBER(38,0)"),
    (of(K.UINT64), DD, "ok", "UBIGINT", None),
    (of(K.UINT64), CH, "ok", "UInt64", None),
    (of(K.FLOAT32), BQ, "ok", "FLOAT64", None),
    (of(K.FLOAT32), SF, "ok", "FLOAT", None),
    (of(K.FLOAT32), DD, "ok", "FLOAT", None),
    (of(K.FLOAT32), CH, "ok", "Float32", None),
    (of(K.FLOAT64), BQ, "ok", "FLOAT64", None),
    (of(K.FLOAT64), SF, "ok", "FLOAT", None),
    (of(K.FLOAT64), DD, "ok", "DOUBLE", None),
    (of(K.FLOAT64), CH, "ok", "Float64", None),
    (decimal(38, 9), BQ, "ok", "NUMERIC", None),
    (decimal(38, 10), BQ, "warn", "BIGNUMERIC", None),
    (decimal(39, 9), BQ, "warn", "BIGNUMERIC", None),
    (decimal(76, 38), BQ, "warn", "BIGNUMERIC", None),
    (decimal(76, 39), BQ, "fail", None, None),
    (decimal(76, 37), BQ, "fail", None, None),
    (decimal(38, 10), SF, "ok", "NUMBER(38,10)", None),
    (decimal(39, 10), SF, "fail", None, None),
    (decimal(38, 10), DD, "ok", "DECIMAL(38,10)", None),
    (decimal(39, 10), DD, "warn", "VARCHAR", "DOUBLE"),
    (decimal(38, 10), CH, "ok", "Decimal(38, 10)", None),
    (decimal(76, 76), CH, "ok", "Decimal(76, 76)", None),
    (of(K.DATE), BQ, "ok", "DATE", None),
    (of(K.DATE), SF, "ok", "DATE", None),
    (of(K.DATE), DD, "ok", "DATE", None),
    (of(K.DATE), CH, "ok", "Date32", None),
    (of(K.TIME), BQ, "ok", "TIME", None),
    (of(K.TIME), SF, "warn", "TIME", "NUMBER(38,0)"),
    (of(K.TIME), DD, "ok", "TIME", None),
    (of(K.TIME), CH, "warn", "DateTime64(6, 'UTC')", None),
    (of(K.TIMESTAMP), BQ, "warn", "DATETIME", "TIMESTAMP"),
    (of(K.TIMESTAMP), SF, "warn", "TIMESTAMP_NTZ", "NUMBER(38,0)"),
    (of(K.TIMESTAMP), DD, "ok", "TIMESTAMP", None),
    (of(K.TIMESTAMP), CH, "ok", "DateTime64(6, 'UTC')", None),
    (of(K.TIMESTAMP_UTC), BQ, "ok", "TIMESTAMP", None),
    (of(K.TIMESTAMP_UTC), SF, "warn", "TIMESTAMP_TZ", "TIMESTAMP_NTZ"),
    (of(K.TIMESTAMP_UTC), DD, "ok", "TIMESTAMP WITH TIME ZONE", None),
    (of(K.TIMESTAMP_UTC), CH, "ok", "DateTime64(6, 'UTC')", None),
    *((of(k), BQ, "ok", "STRING", None) for k in (K.STRING, K.ENUM, K.INTERVAL)),
    *((of(k), SF, "ok", "TEXT", None) for k in (K.STRING, K.ENUM, K.INTERVAL)),
    *((of(k), DD, "ok", "VARCHAR", None) for k in (K.STRING, K.ENUM, K.INTERVAL)),
    *((of(k), CH, "ok", "String", None) for k in (K.STRING, K.ENUM, K.INTERVAL)),
    (of(K.BINARY), BQ, "ok", "BYTES", None),
    (of(K.BINARY), SF, "warn", "BINARY", "TEXT"),
    (of(K.BINARY), DD, "ok", "BLOB", None),
    (of(K.BINARY), CH, "ok", "String", None),
    (of(K.JSON), BQ, "warn", "JSON", "BYTES"),
    (of(K.JSON), SF, "warn", "VARIANT", "TEXT"),
    (of(K.JSON), DD, "ok", "JSON", None),
    (of(K.JSON), CH, "ok", "JSON", None),
    (of(K.UUID), BQ, "warn", "STRING", "BYTES"),
    (of(K.UUID), SF, "warn", "TEXT", "BINARY"),
    (of(K.UUID), DD, "ok", "UUID", None),
    (of(K.UUID), CH, "warn", "UUID", None),
    (listed(of(K.INT32)), BQ, "warn", "ARRAY<INT64>", "STRUCT<list ARRAY<STRUCT<element INT64>>>"),
    (listed(of(K.INT32)), SF, "warn", "ARRAY", "VARIANT"),
    (listed(of(K.INT32)), DD, "ok", "INTEGER[]", None),
    (listed(of(K.INT32)), CH, "ok", "Array(Nullable(Int32))", None),
    (listed(decimal(60, 2)), BQ, "fail", None, None),
    (listed(decimal(60, 2)), SF, "fail", None, None),
    (listed(decimal(60, 2)), DD, "warn", "VARCHAR[]", "DOUBLE[]"),
    (listed(of(K.UUID)), CH, "warn", "Array(Nullable(UUID))", None),
]


@pytest.mark.parametrize(
    ("kind", "target", "status", "wanted", "autoload"),
    ROWS,
    ids=[f"{canonical_name(r[0])} {r[1].value}" for r in ROWS],
)
def test_a_row_of_the_table(kind, target, status, wanted, autoload) -> None:
    found = resolve(kind, "c", target)
    assert (found.status.value, found.target_type) == (status, wanted)
    assert found.autoload_type == (wanted if autoload is None else autoload)
    if found.status is not TargetStatus.OK:
        assert found.note, "what diverges says how"


def test_the_table_has_a_row_for_every_type_and_target() -> None:
    told = {(row[0].kind, row[1]) for row in ROWS}
    assert told == {(kind, target) for kind in TypeKind for target in Target}


@pytest.mark.parametrize("target", list(Target))
def test_what_is_not_exported_fails_everywhere(target) -> None:
    assert resolve(None, "c", target).status is TargetStatus.FAIL


def test_names_are_quoted_as_each_warehouse_quotes() -> None:
    assert resolve(of(K.TIME), 'a"b', SF).cast_sql == 'TIME_FROM_PARTS(0, 0, 0, "a""b" * 1000)'
    assert resolve(of(K.TIMESTAMP), "a`b", BQ).cast_sql == "DATETIME(`a\\`b`)"
    uuid = resolve(of(K.UUID), "u", SF).cast_sql or ""
    assert "'^(.{8})(.{4})(.{4})(.{4})(.{12})$'" in uuid


def test_csv_carries_no_types() -> None:
    found = as_text(resolve(of(K.UUID), "u", DD))
    assert (found.status, found.autoload_type) == (TargetStatus.WARN, None)
    assert as_text(resolve(decimal(60, 2), "n", SF)).status is TargetStatus.FAIL


# ---------------------------------------------------------------- asked of the real things

EVERY = [of(kind) for kind in TypeKind if kind not in (K.DECIMAL, K.LIST)] + [
    *(decimal(p, s) for p, s in ((1, 0), (9, 2), (18, 18), (38, 10), (39, 5), (76, 38))),
]
EVERY += [listed(kind) for kind in EVERY]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    columns = tuple(
        ColumnSpec(name=f"c{n}", native_type="x", type=kind) for n, kind in enumerate(EVERY)
    )
    schema = arrow_schema(columns)
    path = tmp_path_factory.mktemp("types") / "every.parquet"
    writer = open_format(FormatPlan(format="parquet")).open(path, schema)
    nulls = [pa.nulls(1, field.type) for field in schema]
    writer.write(pa.RecordBatch.from_arrays(nulls, schema=schema))
    writer.close()
    return path


def test_duckdb_loads_what_the_table_says(written) -> None:
    found = duckdb.sql(f"DESCRIBE SELECT * FROM '{written}'").fetchall()
    for (name, loaded, *_), kind in zip(found, EVERY, strict=True):
        assert loaded == resolve(kind, name, DD).autoload_type, canonical_name(kind)


def logical(column) -> str:
    """Parquet's own words for one leaf, in the report's spelling."""
    said = str(column.logical_type)
    unsigned = "isSigned=false" in said
    known = {
        "None": str(column.physical_type),
        "String": "STRING",
        "JSON": "JSON",
        "UUID": "UUID",
        "Date": "DATE",
    }
    for word, spelled in known.items():
        if said == word:
            return {"INT32": "INT(32)", "INT64": "INT(64)"}.get(spelled, spelled)
    if said.startswith("Int("):
        return f"INT({said.split('=')[1].split(',')[0]}{', unsigned' if unsigned else ''})"
    if said.startswith("Decimal("):
        return f"DECIMAL({column.precision},{column.scale})"
    unit = "(us, UTC)" if "isAdjustedToUTC=true" in said else "(us)"
    assert "timeUnit=microseconds" in said
    return said.split("(")[0].upper() + unit


def test_the_file_has_the_logical_types_the_report_names(written) -> None:
    schema = pq.ParquetFile(written).schema
    for index, kind in enumerate(EVERY):
        leaf = logical(schema.column(index))
        expected = f"LIST<{leaf}>" if kind.kind is K.LIST else leaf
        assert parquet_name(kind) == expected
    assert arrow_name(listed(of(K.UUID))) == "list<arrow.uuid>"
    assert arrow_name(of(K.TIMESTAMP_UTC)) == "timestamp[us, tz=UTC]"
