"""DuckDB's PostgreSQL scanner, from a table to one zstd-3 Parquet file.

Arguments: URL, table, output path, threads (0: DuckDB's default).
"""

import sys
from pathlib import Path

import duckdb
import duckdb_extension_postgres_scanner


def main() -> None:
    """COPY the whole table through the scanner; any error ends with a traceback."""
    url, table, path, threads = sys.argv[1:5]
    extension = _extension()
    connection = duckdb.connect()
    connection.execute(f"LOAD '{extension}'")
    if int(threads):
        connection.execute(f"SET threads = {int(threads)}")
    connection.execute(f"ATTACH '{url}' AS source (TYPE postgres, READ_ONLY)")
    connection.execute(
        f"COPY (SELECT * FROM source.public.{table}) TO '{path}' "
        "(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 3)"
    )


def _extension() -> Path:
    """The extension file inside its wheel: nothing is downloaded while measuring."""
    folder = Path(duckdb_extension_postgres_scanner.__file__).parent
    return next(folder.rglob("*.duckdb_extension"))


if __name__ == "__main__":
    main()
