"""arrow-odbc over an ODBC driver named by its file, written as zstd-3 Parquet.

Arguments: engine, table, output folder, driver file.
"""

import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import arrow_odbc
import pyarrow.parquet as pq

BATCH_ROWS = 50_000
BATCH_BYTES_MAX = 64 * 1024 * 1024
TEXT_BYTES_MAX = 16 * 1024
"""Room for the longest text of the tables; ODBC binds fixed buffers."""

STREAMING = {
    # Else the driver holds the whole result in memory before it gives the first row.
    "postgres": "UseDeclareFetch=1;Fetch=20000;UnknownsAsLongVarchar=1;BoolsAsChar=0",
    "mariadb": "FORWARDONLY=1;NO_CACHE=1;CHARSET=utf8mb4",
}


def main() -> None:
    """Read the whole table; by default the next batch is fetched while one is written."""
    engine, table, folder, driver = sys.argv[1:5]
    url = urlsplit(os.environ["BENCH_URL"])
    words = (
        f"Driver={driver};Server={url.hostname};Port={url.port};Uid={url.username};"
        f"Database={url.path.lstrip('/')};Pwd={url.password or ''};{STREAMING[engine]}"
    )
    reader = arrow_odbc.read_arrow_batches_from_odbc(
        query=f"SELECT * FROM {table}",
        connection_string=words,
        batch_size=BATCH_ROWS,
        max_bytes_per_batch=BATCH_BYTES_MAX,
        max_text_size=TEXT_BYTES_MAX,
    )
    path = Path(folder) / "all.parquet"
    with pq.ParquetWriter(path, reader.schema, compression="zstd", compression_level=3) as writer:
        for batch in reader:
            writer.write_batch(batch)


if __name__ == "__main__":
    main()
