"""dlt's sql_database source into Parquet files on the local disk.

Arguments: engine, table, output folder, backend (``pyarrow`` or ``connectorx``). dlt lets one
choose zstd but no level: pyarrow's default, 1, costs less than the others' 3.
"""

import os
import sys

os.environ.update(
    {
        "RUNTIME__DLTHUB_TELEMETRY": "false",
        "RUNTIME__LOG_LEVEL": "ERROR",
        "DATA_WRITER__COMPRESSION": "zstd",
        "NORMALIZE__DATA_WRITER__COMPRESSION": "zstd",
        "EXTRACT__DATA_WRITER__COMPRESSION": "zstd",
    }
)

import dlt
from dlt.sources.sql_database import sql_table

CHUNK_ROWS = 100_000
DRIVERS = {"postgresql": "postgresql+psycopg2", "mysql": "mysql+pymysql"}


def main() -> None:
    """Extract, normalize and load one table."""
    engine, table, folder, backend = sys.argv[1:5]
    url = os.environ["BENCH_URL"]
    scheme, _, rest = url.partition("://")
    options = {"backend_kwargs": {"conn": url, "return_type": "arrow_stream"}}
    resource = sql_table(
        credentials=f"{DRIVERS[scheme]}://{rest}",
        table=table,
        schema="public" if engine == "postgres" else None,
        backend=backend,
        chunk_size=CHUNK_ROWS,
        reflection_level="full_with_precision",
        **(options if backend == "connectorx" else {}),
    )
    pipeline = dlt.pipeline(
        pipeline_name="bench",
        pipelines_dir=f"{folder}/../dlt",
        destination=dlt.destinations.filesystem(bucket_url=f"file://{folder}"),
        dataset_name="bench",
    )
    pipeline.run(resource, loader_file_format="parquet")


if __name__ == "__main__":
    main()
