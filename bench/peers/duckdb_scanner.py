"""DuckDB's scanners, from a table to one zstd-3 Parquet file.

Arguments: engine, table, output folder (or ``s3://bucket/prefix``, by its own httpfs), threads (0:
DuckDB's default).
"""

import importlib
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import duckdb

WHEELS = {
    "postgres": ("duckdb_extension_postgres_scanner", "postgres", "public"),
    "mariadb": ("duckdb_extension_mysql_scanner", "mysql", None),
}


def main() -> None:
    """COPY the whole table through the scanner."""
    engine, table, folder, threads = sys.argv[1:5]
    package, kind, schema = WHEELS[engine]
    url = urlsplit(os.environ["BENCH_URL"])
    database = url.path.lstrip("/")
    connection = duckdb.connect()
    connection.execute(f"LOAD '{_extension(package)}'")
    if int(threads):
        connection.execute(f"SET threads = {int(threads)}")
    if folder.startswith("s3://"):
        connection.execute(f"LOAD '{_extension('duckdb_extension_httpfs')}'")
        connection.execute(
            "CREATE SECRET store (TYPE s3, URL_STYLE path, USE_SSL false, REGION 'us-east-1', "
            f"ENDPOINT '{urlsplit(os.environ['BENCH_STORE_URL']).netloc}', "
            f"KEY_ID '{os.environ['BENCH_STORE_KEY']}', "
            f"SECRET '{os.environ['BENCH_STORE_SECRET']}')"
        )
    name = "dbname" if kind == "postgres" else "database"
    words = f"host={url.hostname} port={url.port} user={url.username} {name}={database}"
    words += f" password={url.password}" if url.password else ""
    if url.query:
        words += " sslmode=require" if kind == "postgres" else " ssl_mode=required"
    connection.execute(f"ATTACH '{words}' AS source (TYPE {kind}, READ_ONLY)")
    connection.execute(
        f"COPY (SELECT * FROM source.{schema or database}.{table}) TO '{folder}/all.parquet' "
        "(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 3)"
    )


def _extension(package: str) -> Path:
    """The extension file inside its wheel: nothing is downloaded while measuring."""
    folder = Path(importlib.import_module(package).__file__).parent
    return next(folder.rglob("*.duckdb_extension"))


if __name__ == "__main__":
    main()
