"""sling from a table to several Parquet files: the program inside its wheel takes this one's place.

Arguments: engine, table, output folder.
"""

import json
import os
import sys
from pathlib import Path

import sling_linux_amd64

FILE_ROWS = 1_000_000


def main() -> None:
    """Replace this process by sling's."""
    engine, table, folder = sys.argv[1:4]
    program = next((Path(sling_linux_amd64.__file__).parent / "bin").rglob("sling*"))
    url = os.environ["BENCH_URL"]
    schema = "public" if engine == "postgres" else url.rpartition("/")[2]
    environ = {
        **os.environ,
        "BENCH_SOURCE": f"{url}?sslmode=disable" if engine == "postgres" else url,
        "SLING_HOME_DIR": f"{folder}/../sling",
        "SLING_DISABLE_TELEMETRY": "TRUE",
        # Else it downloads a DuckDB to write Parquet with.
        "SLING_DUCKDB_COMPUTE": "false",
    }
    options = {"format": "parquet", "compression": "zstd", "file_max_rows": FILE_ROWS}
    os.execve(
        program,
        [
            str(program),
            "run",
            *("--src-conn", "BENCH_SOURCE", "--src-stream", f"{schema}.{table}"),
            *("--tgt-object", f"file://{folder}/sling"),
            *("--tgt-options", json.dumps(options)),
        ],
        environ,
    )


if __name__ == "__main__":
    main()
