"""A worker's memory: under its stated ceiling whatever the table's size and width, measured on
the real process. The exact figures are the benchmark's; here they have room for other machines.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rivet_fleet.demo.embedded import EmbeddedPostgres
from tests.integration.fleet_cli import TIMEOUT_S, Desk, fleet_yaml
from tests.waiting import has_ended

CEILING_MB = 170
FLAT_WITHIN_MB = 30
HUGE_BYTES = 24_000_000
NEVER_IMPORTED = {
    "alembic", "duckdb", "numpy", "pyarrow._s3fs", "pyarrow.compute", "pymysql", "rich",
}  # fmt: skip

NARROW = """
CREATE TABLE {name} (id bigint PRIMARY KEY, kind int NOT NULL, amount numeric(12,2), v float8,
                     at timestamptz NOT NULL);
INSERT INTO {name} SELECT i, i % 1000, i / 100.0, sin(i), to_timestamp(1.6e9 + i)
FROM generate_series(1, {rows}) i;
ANALYZE {name};
"""
WIDE = """
CREATE TABLE {name} (id bigint PRIMARY KEY, doc jsonb, {columns});
INSERT INTO {name} SELECT i, jsonb_build_object('n', i, 'of', md5(i::text)), {values}
FROM generate_series(1, {rows}) i;
ANALYZE {name};
"""
"""Rows of about 4 KB in 20 columns."""


@dataclass(frozen=True, kw_only=True)
class Table:
    name: str
    rows: int
    sql: str

    @property
    def statement(self) -> str:
        columns = ", ".join(f"t{i} text" for i in range(18))
        values = ", ".join(f"repeat(md5((i * {i + 7})::text), 7)" for i in range(18))
        return self.sql.format(name=self.name, rows=self.rows, columns=columns, values=values)


NARROW_TABLES = (
    Table(name="narrow_few", rows=10_000, sql=NARROW),
    Table(name="narrow_many", rows=1_000_000, sql=NARROW),
)
WIDE_TABLES = (
    Table(name="wide_few", rows=1_000, sql=WIDE),
    Table(name="wide_many", rows=40_000, sql=WIDE),
)


def peak_mb(process: subprocess.Popen[str]) -> float:
    """The highest resident set of a process, followed until it ends (proc(5), VmHWM).

    Not ``getrusage``: its figure begins with that of the process that forked it.
    """
    status, peak_kb = Path(f"/proc/{process.pid}/status"), 0
    deadline_s = time.monotonic() + TIMEOUT_S
    while not has_ended(process):
        assert time.monotonic() < deadline_s, "the worker did not end"
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                peak_kb = int(line.split()[1])
    return peak_kb / 1024


@pytest.fixture(scope="module")
def tables(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The URL of a database with every table of this module."""
    url = postgres.create_database("memory")
    for table in (*NARROW_TABLES, *WIDE_TABLES):
        postgres.psql(table.statement, database="memory")
    yield url
    postgres.psql("DROP DATABASE memory")


@pytest.fixture
def desk(tmp_path: Path, tables: str) -> Desk:
    return Desk(folder=tmp_path, environment={"SHOP_URL": tables})


def worker_peak_mb(desk: Desk, table: Table) -> float:
    """One worker over one table at default settings (but for rests between pages)."""
    source = "{type: postgres, url_env: SHOP_URL, tuning: {throttle_ms: 0}}"
    desk.write(fleet_yaml(table=table.name, source=source, extra="mode: full"))
    desk.cli("submit", "--campaign-id", table.name)
    worker = desk.start("worker", "-c", str(desk.config), "--campaign-id", table.name)
    peak = peak_mb(worker)
    desk.finish(worker)
    assert len(desk.delivered(table.name)) == table.rows
    return peak


@pytest.mark.parametrize("family", [NARROW_TABLES, WIDE_TABLES], ids=["narrow", "wide"])
def test_a_worker_stays_under_its_ceiling_and_flat(
    desk: Desk, family: tuple[Table, Table], record_property
) -> None:
    few, many = (worker_peak_mb(desk, table) for table in family)
    record_property("peak_mb", {family[0].name: few, family[1].name: many})
    print(f"peak RSS: {family[0].name} {few:.0f} MB, {family[1].name} {many:.0f} MB")
    assert many <= CEILING_MB
    assert many - few <= FLAT_WITHIN_MB


def test_a_value_over_the_limit_is_an_error_and_not_an_outgrown_worker(
    desk: Desk, postgres: EmbeddedPostgres
) -> None:
    postgres.psql(
        "DROP TABLE IF EXISTS huge; CREATE TABLE huge (id int PRIMARY KEY, body text);"
        "INSERT INTO huge SELECT i, 'x' FROM generate_series(1, 900) i;"
        f"UPDATE huge SET body = repeat('x', {HUGE_BYTES}) WHERE id = 800",
        database="memory",
    )
    desk.write(fleet_yaml(table="huge", extra="mode: full"))
    desk.cli("submit", "--campaign-id", "huge")
    worker = desk.start("worker", "-c", str(desk.config), "--campaign-id", "huge")
    peak = peak_mb(worker)
    desk.finish(worker, code=5)
    said = desk.cli("status", "--json", "--campaign-id", "huge").said
    assert f"ValueTooLarge: column body: one value has {HUGE_BYTES} bytes" in said
    # The driver holds the whole row as it arrives, in a buffer that doubles; nobody holds it twice.
    assert peak <= CEILING_MB + HUGE_BYTES / 2**20
    assert desk.delivered("huge") == []


def test_a_started_worker_has_imported_only_what_it_uses(desk: Desk) -> None:
    """The import set is most of a worker's memory and all of its start-up time."""
    desk.write(fleet_yaml(table=NARROW_TABLES[0].name, extra="mode: full"))
    desk.cli("submit", "--campaign-id", "c1")
    arguments = ["worker", "-c", str(desk.config), "--campaign-id", "c1"]
    program = (
        "import sys; from rivet_fleet.cli.main import _main; code = _main(sys.argv[1:]); "
        "print(*sys.modules, sep='\\n'); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, **desk.environment},
        cwd=desk.folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT_S,
    )
    imported = set(done.stdout.split())
    assert {"pyarrow.parquet", "psycopg", "rivet_fleet.coordination.worker"} <= imported
    assert imported & NEVER_IMPORTED == set()
    assert len(desk.delivered(NARROW_TABLES[0].name)) == NARROW_TABLES[0].rows
