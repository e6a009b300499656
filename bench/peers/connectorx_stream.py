"""ConnectorX as a stream of Arrow batches, written by pyarrow as zstd-3 Parquet.

Arguments: URL, table, output path.
"""

import sys

import connectorx
import pyarrow.parquet as pq

BATCH_ROWS = 50_000


def main() -> None:
    """Read the whole table over one connection; any error ends with a traceback."""
    url, table, path = sys.argv[1:4]
    stream = connectorx.read_sql(
        url, f"SELECT * FROM {table}", return_type="arrow_stream", batch_size=BATCH_ROWS
    )
    with pq.ParquetWriter(path, stream.schema, compression="zstd", compression_level=3) as writer:
        for batch in stream:
            writer.write_batch(batch)


if __name__ == "__main__":
    main()
