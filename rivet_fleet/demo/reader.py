"""An independent reader: another process that knows the files and the source, nothing of ours.

``python -m rivet_fleet.demo.reader FILES_DIR`` reads ``SHOP_URL`` from its environment, reads
every Parquet file with DuckDB, and compares it with what PostgreSQL itself computes.
"""

from __future__ import annotations

import os
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import psycopg

from rivet_fleet.demo.shop import TABLES, Table


def check_table(files: Path, table: Table, source: psycopg.Connection[Any]) -> tuple[bool, str]:
    """Whether the run folder's files hold exactly the table, and one line that says so."""
    folder = _run_folder(files / table.name)
    parts = sorted(folder.glob("*.parquet")) if folder else []
    want = _from_source(source, table)
    have = _from_files(folder, table) if parts else _nothing(table)
    same = want == have
    verdict = "equal" if same else f"DIFFERENT: source {want}, files {have}"
    keys = "" if table.key is None else f", {have[1]:,} distinct keys"
    return same, f"{table.name:<12} {have[0]:>9,} rows in {len(parts):>2} files{keys}: {verdict}"


def _run_folder(prefix: Path) -> Path | None:
    """The one finished run: it bears the marker."""
    marked = sorted(p.parent for p in prefix.glob("*/_SUCCESS"))
    return marked[-1] if marked else None


def _expressions(table: Table, *, distinct: str) -> str:
    return ", ".join(["count(*)", distinct, *table.checks])


def _from_source(source: psycopg.Connection[Any], table: Table) -> tuple[Any, ...]:
    distinct = f"count(DISTINCT ({table.key}))" if table.key else "0"
    query = f"SELECT {_expressions(table, distinct=distinct)} FROM {table.name}"
    row = source.execute(query.encode()).fetchone()
    return _plain(row or ())


def _from_files(folder: Path | None, table: Table) -> tuple[Any, ...]:
    keys = table.key or ""
    distinct = f"count(DISTINCT ({keys}))" if table.key else "0"
    query = (
        f"SELECT {_expressions(table, distinct=distinct)} FROM read_parquet('{folder}/*.parquet')"
    )
    row = duckdb.connect().execute(query).fetchone()
    return _plain(row or ())


def _nothing(table: Table) -> tuple[Any, ...]:
    counts = tuple(0 if check.startswith("count") else None for check in table.checks)
    return (0, 0, *counts)


def _plain(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(Decimal(str(v)).normalize() if isinstance(v, (float, Decimal)) else v for v in row)


def main() -> int:
    """Exit code 0 when every table is equal."""
    files = Path(sys.argv[1])
    good = True
    with psycopg.connect(os.environ["SHOP_URL"]) as source:
        for table in TABLES:
            same, line = check_table(files, table, source)
            print(f"  {line}", flush=True)
            good = good and same
    return 0 if good else 3


if __name__ == "__main__":
    sys.exit(main())
