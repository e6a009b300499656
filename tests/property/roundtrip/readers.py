"""Parts read back by pyarrow and by DuckDB, Parquet and CSV, as normal values by column."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from tests.property.roundtrip import normal

K = TypeKind
Rows = list[list[Any]]
"""Column by column: the normal values of all parts, in their order."""

# ---------------------------------------------------------------- pyarrow, Parquet


def parquet_by_pyarrow(paths: Sequence[Path], columns: Sequence[ColumnSpec]) -> Rows:
    """Every column's values, from Arrow's own representation."""
    found: Rows = [[] for _ in columns]
    for path in paths:
        table = pq.read_table(path)
        assert table.column_names == [column.name for column in columns]
        for values, chunks, column in zip(found, table.columns, columns, strict=True):
            for chunk in chunks.chunks:
                chunk.validate(full=True)
                values += _arrow(chunk, column.type)
    return found


def _arrow(array: pa.Array, kind: ColumnType) -> list[Any]:
    if isinstance(array, pa.ExtensionArray):
        expected = {K.UUID: "arrow.uuid", K.JSON: "arrow.json"}[kind.kind]
        assert array.type.extension_name == expected
        array = array.storage
    if kind.kind is K.LIST:
        assert kind.element is not None
        inner = _arrow(array.values, kind.element)
        bounds = array.offsets.to_pylist()
        return [
            inner[low:high] if valid else None
            for low, high, valid in zip(
                bounds[:-1], bounds[1:], array.is_valid().to_pylist(), strict=True
            )
        ]
    if kind.kind is K.DATE:
        return array.cast(pa.int32()).to_pylist()
    if kind.kind in (K.TIME, K.TIMESTAMP, K.TIMESTAMP_UTC):
        assert (getattr(array.type, "tz", None) == "UTC") is (kind.kind is K.TIMESTAMP_UTC)
        return array.cast(pa.int64()).to_pylist()
    convert = _FROM_PYTHON.get(kind.kind)
    values = array.to_pylist()
    return [None if v is None else convert(v) for v in values] if convert else values


def _uuid_text(value: bytes) -> str:
    text = value.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


_FROM_PYTHON: dict[TypeKind, Callable[[Any], Any]] = {
    K.FLOAT32: normal.float32,
    K.FLOAT64: normal.float64,
    K.DECIMAL: lambda v: v if v else Decimal(0),
    K.UUID: _uuid_text,
}

# ---------------------------------------------------------------- DuckDB, Parquet


def parquet_by_duckdb(paths: Sequence[Path], columns: Sequence[ColumnSpec]) -> Rows:
    """Every column's values, by DuckDB's own reader; integers where Python has no calendar."""
    source = "SELECT * FROM read_parquet($1)"
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        found: Rows = [[] for _ in columns]
        for path in paths:
            described = db.execute(f"DESCRIBE {source}", [str(path)]).fetchall()
            shown = ", ".join(
                _duckdb_sql(_name(row[0]), column.type)
                for row, column in zip(described, columns, strict=True)
            )
            for row in db.execute(f"SELECT {shown} FROM ({source})", [str(path)]).fetchall():
                for values, value, column in zip(found, row, columns, strict=True):
                    values.append(_duckdb_value(value, column.type))
    return found


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _duckdb_sql(reference: str, kind: ColumnType) -> str:
    if kind.kind is K.LIST and kind.element is not None:
        return f"list_transform({reference}, lambda x: {_duckdb_sql('x', kind.element)})"
    if kind.kind is K.DATE:
        return f"date_diff('day', DATE '1970-01-01', {reference})"
    if kind.kind is K.TIME:
        return f"date_diff('microsecond', TIME '00:00:00', {reference})"
    if kind.kind in (K.TIMESTAMP, K.TIMESTAMP_UTC):
        # DuckDB takes the very last microsecond of 64 bits for its own infinity.
        return (
            f"CASE WHEN isinf({reference}) THEN {normal.INT64_MAX} ELSE epoch_us({reference}) END"
        )
    if kind.kind in (K.UUID, K.JSON) or (kind.kind is K.DECIMAL and _narrow(kind)):
        return f"{reference}::VARCHAR"
    return reference


def _narrow(kind: ColumnType) -> bool:
    return (kind.precision or 0) <= 38


def _duckdb_value(value: Any, kind: ColumnType) -> Any:
    if value is None:
        return None
    if kind.kind is K.LIST and kind.element is not None:
        return [_duckdb_value(one, kind.element) for one in value]
    if kind.kind is K.DECIMAL:
        return normal.decimal(value) if _narrow(kind) else value
    if kind.kind in (K.FLOAT32, K.FLOAT64):
        return _FROM_PYTHON[kind.kind](value)
    return value


def duckdb_sees(expected: Any, kind: ColumnType) -> Callable[[Any], bool]:
    """Whether a value DuckDB gave is the expected one: its decimals end at 38 digits."""
    if kind.kind is K.DECIMAL and not _narrow(kind) and isinstance(expected, Decimal):
        return lambda got: math.isclose(got, float(expected), rel_tol=1e-14, abs_tol=1e-300)
    if kind.kind is K.LIST and kind.element is not None and isinstance(expected, list):
        inner = [duckdb_sees(one, kind.element) for one in expected]
        return lambda got: (
            isinstance(got, list)
            and len(got) == len(inner)
            and all(sees(one) for sees, one in zip(inner, got, strict=True))
        )
    return lambda got: type(got) is type(expected) and got == expected


# ---------------------------------------------------------------- CSV


def csv_by_pyarrow(paths: Sequence[Path], columns: Sequence[ColumnSpec]) -> Rows:
    """Every cell as text by pyarrow, then by the documented dialect."""
    names = [f"c{index}" for index in range(len(columns))]
    found: Rows = [[] for _ in columns]
    for path in paths:
        table = pacsv.read_csv(
            path,
            read_options=pacsv.ReadOptions(column_names=names, skip_rows_after_names=1),
            parse_options=pacsv.ParseOptions(newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
        for values, chunks, column in zip(found, table.columns, columns, strict=True):
            values += [csv_value(text, column.type) for text in chunks.to_pylist()]
    return found


def csv_by_duckdb(paths: Sequence[Path], columns: Sequence[ColumnSpec]) -> Rows:
    """Every cell as text by DuckDB, then by the documented dialect."""
    found: Rows = [[] for _ in columns]
    names = ", ".join(f"'c{index}': 'VARCHAR'" for index in range(len(columns)))
    sql = (
        "SELECT * FROM read_csv($1, header = true, delim = ',', quote = '\"', escape = '\"', "
        f"nullstr = '', allow_quoted_nulls = false, auto_detect = false, columns = {{{names}}}, "
        "max_line_size = 20000000, new_line = '\\n')"
    )
    with duckdb.connect() as db:
        for path in paths:
            for row in db.execute(sql, [str(path)]).fetchall():
                for values, text, column in zip(found, row, columns, strict=True):
                    values.append(csv_value(text, column.type))
    return found


def csv_value(text: str | None, kind: ColumnType) -> Any:
    """A cell of docs/reference/types.md, "In the file"."""
    if text is None:
        return None
    return _FROM_CSV.get(kind.kind, str)(text)


def _truth(text: str) -> bool:
    return {"true": True, "false": False}[text]


def _instant_utc(text: str) -> int:
    assert text.endswith("Z")
    return normal.iso_instant(text[:-1])


_FROM_CSV: dict[TypeKind, Callable[[str], Any]] = {
    K.BOOL: _truth,
    **dict.fromkeys((K.INT16, K.INT32, K.INT64, K.UINT64), int),
    K.FLOAT32: lambda text: normal.float32(float(text)),
    K.FLOAT64: lambda text: normal.float64(float(text)),
    K.DECIMAL: normal.decimal,
    K.DATE: normal.iso_date,
    K.TIME: normal.clock,
    K.TIMESTAMP: normal.iso_instant,
    K.TIMESTAMP_UTC: _instant_utc,
    K.BINARY: bytes.fromhex,
}
