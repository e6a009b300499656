"""`check --target clickhouse` against ClickHouse itself (chDB), where that is installed.

chDB is as large as everything else the tests need together, so it is no dependency: put it
into the environment and run this file.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.contracts.plan import FormatPlan
from rivet_fleet.contracts.typereport import Target
from rivet_fleet.execution import registry
from rivet_fleet.execution.types import arrow_schema
from rivet_fleet.planning.targets import resolve

chdb = pytest.importorskip("chdb")

K = TypeKind
VALUES: tuple[tuple[ColumnType, Any, str], ...] = (
    (ColumnType(kind=K.BOOL), True, "true"),
    (ColumnType(kind=K.INT16), -5, "-5"),
    (ColumnType(kind=K.INT32), 7, "7"),
    (ColumnType(kind=K.INT64), -(2**62), str(-(2**62))),
    (ColumnType(kind=K.UINT64), 2**64 - 1, str(2**64 - 1)),
    (ColumnType(kind=K.FLOAT32), 0.5, "0.5"),
    (ColumnType(kind=K.FLOAT64), 0.1, "0.1"),
    (ColumnType(kind=K.DATE), dt.date(1950, 2, 28), "1950-02-28"),
    (ColumnType(kind=K.TIME), dt.time(23, 59, 59, 999_999), "1970-01-01 23:59:59.999999"),
    (ColumnType(kind=K.TIMESTAMP), dt.datetime(2024, 2, 29, 1), "2024-02-29 01:00:00.000000"),
    (
        ColumnType(kind=K.TIMESTAMP_UTC),
        dt.datetime(2024, 2, 29, 1, tzinfo=dt.UTC),
        "2024-02-29 01:00:00.000000",
    ),
    (ColumnType(kind=K.STRING), "é", "é"),
    (ColumnType(kind=K.BINARY), b"bytes", "bytes"),
    (ColumnType(kind=K.JSON), '{"a": 1}', '{"a":1}'),
    (ColumnType(kind=K.UUID), uuid.UUID(int=5), str(uuid.UUID(int=5))),
    (ColumnType(kind=K.ENUM), "x", "x"),
    (ColumnType(kind=K.INTERVAL), "P1D", "P1D"),
    (ColumnType(kind=K.DECIMAL, precision=38, scale=10), Decimal("12.25"), "12.25"),
    (ColumnType(kind=K.DECIMAL, precision=60, scale=5), Decimal("12.25"), "12.25"),
    (ColumnType(kind=K.LIST, element=ColumnType(kind=K.INT32)), [7, None], "[7,NULL]"),
)


def ask(sql: str) -> list[dict[str, Any]]:
    return json.loads(chdb.query(sql, "JSON").bytes().decode())["data"]


def test_columns_arrive_as_the_report_says(tmp_path: Path) -> None:
    specs = tuple(
        ColumnSpec(name=f"c{i}", native_type="x", type=kind) for i, (kind, *_) in enumerate(VALUES)
    )
    schema = arrow_schema(specs)
    arrays = []
    for field, (_, value, _) in zip(schema, VALUES, strict=True):
        cells = [value.bytes if isinstance(value, uuid.UUID) else value, None]
        extension = isinstance(field.type, pa.BaseExtensionType)
        array = pa.array(cells, field.type.storage_type if extension else field.type)
        arrays.append(pa.ExtensionArray.from_storage(field.type, array) if extension else array)
    path = tmp_path / "part.parquet"
    writer = registry.open_format(FormatPlan(format="parquet")).open(path, schema)
    writer.write(pa.record_batch(arrays, schema=schema))
    writer.close()
    found = {row["name"]: row["type"] for row in ask(f"DESCRIBE file('{path}', Parquet)")}
    for spec, (kind, _, text) in zip(specs, VALUES, strict=True):
        said = resolve(kind, spec.name, Target.CLICKHOUSE)
        assert found[spec.name] in (said.autoload_type, f"Nullable({said.autoload_type})"), kind
        expression = said.cast_sql or f"`{spec.name}`"
        rows = ask(f"SELECT toString({expression}) AS v FROM file('{path}', Parquet)")
        assert rows[0]["v"] == text, kind
