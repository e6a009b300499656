"""ConnectorX into Arrow, written by pyarrow as zstd-3 Parquet.

Arguments: engine, table, output folder (or ``s3://bucket/prefix``, which s3fs writes to),
``stream`` or ``whole``, connections, partition column.
"""

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any

import connectorx
import pyarrow.parquet as pq

BATCH_ROWS = 50_000


def main() -> None:
    """Read the whole table: as a stream over one connection, or at once over several."""
    _engine, table, folder, how, connections, column = sys.argv[1:7]
    url, query = os.environ["BENCH_URL"], f"SELECT * FROM {table}"
    path = f"{folder}/all.parquet"
    if how == "whole":
        split = {"partition_on": column, "partition_num": int(connections)}
        options = split if int(connections) > 1 else {}
        arrow = connectorx.read_sql(url, query, return_type="arrow", **options)
        pq.write_table(arrow, path, compression="zstd", compression_level=3)
        return
    stream = connectorx.read_sql(url, query, return_type="arrow_stream", batch_size=BATCH_ROWS)
    with (
        _opened(path) as sink,
        pq.ParquetWriter(sink, stream.schema, compression="zstd", compression_level=3) as writer,
    ):
        for batch in stream:
            writer.write_batch(batch)


def _opened(path: str) -> AbstractContextManager[Any]:
    if not path.startswith("s3://"):
        return nullcontext(path)
    service = import_module("s3fs").S3FileSystem(
        key=os.environ["BENCH_STORE_KEY"],
        secret=os.environ["BENCH_STORE_SECRET"],
        endpoint_url=os.environ["BENCH_STORE_URL"],
        client_kwargs={"region_name": "us-east-1"},
    )
    return service.open(path, "wb")


if __name__ == "__main__":
    main()
