"""Partitions, windows and added columns through the real program, read back by DuckDB alone."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import duckdb
import psycopg
import pyarrow as pa
import pytest

from rivet_fleet.execution.checksums import reference_sum
from tests.integration.fleet_cli import Desk
from tests.waiting import has_ended, until

ROWS = 6000
SQL = f"""
CREATE TABLE orders (id int PRIMARY KEY, made timestamptz, note text);
INSERT INTO orders
SELECT i, CASE WHEN i % 50 = 0 THEN NULL
               WHEN i = 1 THEN 'infinity'
               ELSE timestamptz '2024-01-15 00:00:00+00' + i * interval '20 minutes' END,
       CASE WHEN i % 3 = 0 THEN NULL ELSE 'n' || i END
FROM generate_series(1, {ROWS}) i;
CREATE INDEX ON orders (made);
ANALYZE orders;
"""
CONFIG = """\
source: {type: postgres, url_env: DB}
campaign: {name: shapes, lease_ttl_s: 4}
exports:
  - name: orders
    table: orders
    format: parquet
    mode: chunked
    chunk_size: 300
    partition_by: made
    partition_granularity: month
    meta_columns: {exported_at: true, row_hash: true}
    on_unrepresentable: coerce
    destination: {type: local, path: 'out/{export}/{partition}'}
    tuning: {batch_size: 100}
"""
MONTHS = ["2024-01", "2024-02", "2024-03", "2024-04"]
PARTITIONS = [*(f"made={month}" for month in MONTHS), "made=__HIVE_DEFAULT_PARTITION__"]


@pytest.fixture
def desk(tmp_path: Path, postgres, database: str) -> Desk:
    postgres.psql(SQL, database=database.rpartition("/")[2])
    desk = Desk(folder=tmp_path, environment={"DB": database})
    desk.write(CONFIG)
    return desk


def read(desk: Desk, columns: str, **more: str) -> list[tuple[object, ...]]:
    files = [
        str(part)
        for success in sorted(desk.out.glob("orders/*/*/_SUCCESS"))
        for part in sorted(success.parent.glob("*.parquet"))
    ]
    where = f" WHERE {more['where']}" if more else ""
    sql = f"SELECT {columns} FROM read_parquet({files}, hive_partitioning = false, filename = true)"
    return duckdb.connect().execute(f"SET TimeZone = 'UTC'; {sql}{where}").fetchall()


def test_a_killed_campaign_of_partitions_delivers_each_row_once(desk: Desk) -> None:
    running = desk.start("run", "--workers", "2", "-c", str(desk.config))
    until(lambda: has_ended(running) or list(desk.out.glob("orders/*/*/*.parquet")), what="a part")
    assert running.poll() is None, running.communicate()
    os.kill(running.pid, signal.SIGKILL)
    running.communicate()
    desk.cli("resume", "--workers", "2")
    assert sorted(path.name for path in desk.out.glob("orders/*")) == sorted(PARTITIONS)
    assert [i for (i,) in sorted(read(desk, "id"))] == list(range(1, ROWS + 1))
    for month in MONTHS:
        inside = f"filename LIKE '%made={month}/%' AND made IS NOT NULL"
        assert read(desk, "DISTINCT strftime(made, '%Y-%m')", where=inside) == [(month,)]
    nulls = read(desk, "count(*)", where="filename LIKE '%__HIVE_DEFAULT_PARTITION__/%'")
    assert nulls == [(ROWS // 50,)]
    assert read(desk, "filename LIKE '%made=2024-04/%'", where="id = 1") == [(True,)], "open above"
    assert read(desk, "count(DISTINCT _rivet_exported_at)") == [(1,)]
    assert read(desk, "count(DISTINCT _rivet_row_hash)") == [(ROWS,)]
    manifest = json.loads((desk.out / "orders" / "made=2024-02" / "manifest.json").read_text())
    assert manifest["export_name"] == "orders__2024-02"
    assert manifest["export_family"] == "orders"
    assert manifest["row_hash"]["covered"] == ["id", "made", "note"]
    assert [one["name"] for one in manifest["columns"]][-2:] == [
        "_rivet_exported_at",
        "_rivet_row_hash",
    ]
    assert manifest["checksums"] == "complete"
    ids = [i for (i,) in read(desk, "id", where="filename LIKE '%made=2024-02/%'")]
    checksum = reference_sum(pa.array(ids, pa.int32()))
    assert manifest["columns"][0]["checksum"] == f"value64:{checksum:016x}"
    alone = desk.bare("validate", "--prefix", str(desk.out / "orders"), "--json").json["exports"]
    assert len(alone) == len(PARTITIONS) and {one["verdict"] for one in alone} == {"PASSED"}
    for one in desk.cli("validate", "--depth", "full", "--json").json["exports"]:
        found = one["verification"]
        assert found["parts_checksums_verified"] == found["parts_verified"] > 0
    said = desk.cli("status").said
    assert "orders__2024-03" in said
    # Each partition is compared with its own former run.
    with psycopg.connect(desk.environment["DB"], autocommit=True) as sql:
        sql.execute("ALTER TABLE orders ADD extra int")
    runs = desk.cli("plan", "--json").json["campaign"]["runs"]
    new = "column extra (integer) is new"
    assert [new in str(run["plan"]["warnings"]) for run in runs] == [True] * len(PARTITIONS)
    desk.write(CONFIG + "    on_schema_drift: fail\n")
    assert new in desk.cli("check", code=4).out


def test_check_and_plan_speak_of_partitions(desk: Desk) -> None:
    said = desk.cli("check", "--type-report").said
    assert "5 partitions" in said
    assert "_rivet_row_hash" in said
    plan = desk.cli("plan", "--json").json
    assert [one["export_name"] for one in plan["exports"]] == [
        *(f"orders__{month}" for month in MONTHS),
        "orders__null",
    ]


def test_partitions_that_vanish_are_told_and_can_be_forgotten(
    tmp_path: Path, postgres, database: str
) -> None:
    name = database.rpartition("/")[2]
    postgres.psql(
        "CREATE TABLE orders (id int PRIMARY KEY, made date NOT NULL);"
        "CREATE INDEX ON orders (made);"
        "INSERT INTO orders VALUES (1, '2024-01-31'), (2, '2024-02-10'); ANALYZE orders",
        database=name,
    )
    desk = Desk(folder=tmp_path, environment={"DB": database})
    few = "\n".join(
        line for line in CONFIG.splitlines() if "mode:" not in line and "chunk_size" not in line
    )
    desk.write(few)
    desk.cli("run")
    postgres.psql("UPDATE orders SET made = '2024-02-01' WHERE id = 1", database=name)
    desk.cli("run")
    assert "orders__2024-01: delivered by campaign" in desk.cli("journal", "--last", "100").out
    (files,) = [one for one in desk.cli("files").out.splitlines() if one.endswith(".parquet")]
    assert "made=2024-02" in files
    error = desk.cli("state", "reset", "-e", "orders__2024-99", "--yes", code=1).err
    assert "no export orders__2024-99" in error
    assert "forgot 2 runs" in desk.cli("state", "reset", "-e", "orders__2024-02", "--yes").out
    assert "forgot 1 runs" in desk.cli("state", "reset", "-e", "orders", "--yes").out
    assert "forgot 0 runs" in desk.cli("state", "reset", "-e", "orders", "--yes").out
