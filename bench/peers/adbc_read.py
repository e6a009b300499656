"""ADBC's PostgreSQL driver as a stream, numerics cast to decimals, written as zstd-3 Parquet.

Arguments: engine, table, output folder, then ``column:precision:scale`` of every numeric: the
driver hands numerics out as text, and a decimal column is what a user of them wants.
"""

import os
import sys
from pathlib import Path

import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


def main() -> None:
    """Read the whole table over one connection."""
    _engine, table, folder, *numerics = sys.argv[1:]
    decimals = {
        name: pa.decimal128(int(precision), int(scale))
        for name, precision, scale in (entry.split(":") for entry in numerics)
    }
    with adbc.connect(os.environ["BENCH_URL"]) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {table}")
        reader = cursor.fetch_record_batch()
        schema = pa.schema([_field(field, decimals) for field in reader.schema])
        path = Path(folder) / "all.parquet"
        with pq.ParquetWriter(path, schema, compression="zstd", compression_level=3) as writer:
            for batch in reader:
                columns = [
                    _cast(column, field)
                    for column, field in zip(batch.columns, schema, strict=True)
                ]
                writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


def _field(field: pa.Field, decimals: dict[str, pa.DataType]) -> pa.Field:
    plain = field.type
    if isinstance(plain, pa.BaseExtensionType):
        plain = plain.storage_type
    return pa.field(field.name, decimals.get(field.name, plain), field.nullable)


def _cast(column: pa.Array, field: pa.Field) -> pa.Array:
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    return column if column.type == field.type else pc.cast(column, field.type)


if __name__ == "__main__":
    main()
