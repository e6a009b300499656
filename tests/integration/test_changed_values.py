"""Values that a policy changed are counted in the manifest, by the real program."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.integration.fleet_cli import Desk

SQL = """
CREATE TABLE t (id int PRIMARY KEY, until date NOT NULL, share numeric(5,2), tags int[]);
INSERT INTO t SELECT i, CASE WHEN i % 10 = 0 THEN 'infinity' ELSE '2024-01-01' END::date,
    CASE WHEN i % 5 = 0 THEN 'NaN' ELSE '1.25' END::numeric(5,2),
    CASE WHEN i % 4 = 0 THEN '{{1},{2}}' ELSE '{1,NULL}' END::int[] FROM generate_series(1, 400) i;
ANALYZE t;
"""
CONFIG = """\
source: {type: postgres, url_env: DB}
exports:
  - name: t
    table: t
    format: parquet
    mode: chunked
    chunk_count: 3
    destination: {type: local, path: out}
    tuning: {batch_size: 50}
"""


@pytest.fixture
def desk(tmp_path: Path, postgres, database: str) -> Desk:
    postgres.psql(SQL, database=database.rpartition("/")[2])
    return Desk(folder=tmp_path, environment={"DB": database})


def test_coerced_values_are_null_and_counted_in_the_manifest(desk: Desk) -> None:
    desk.write(CONFIG + "    on_unrepresentable: coerce\n")
    desk.cli("run", "--workers", "2")
    manifest = json.loads((desk.out / "manifest.json").read_text())
    counted = {column["name"]: column["changed_values"] for column in manifest["columns"]}
    assert counted == {"id": 0, "until": 40, "share": 80, "tags": 100}
    found = pq.read_table([desk.out / part["path"] for part in manifest["parts"]])
    assert [found.column(name).null_count for name in ("until", "share", "tags")] == [40, 80, 100]
    assert found.schema.field("until").nullable


def test_without_the_policy_the_run_says_which_column_and_what_to_do(desk: Desk) -> None:
    desk.write(CONFIG)
    desk.cli("run", "--workers", "1", code=5)
    said = desk.cli("status", code=None).said
    assert "UnsupportedType: column " in said
    assert "on_unrepresentable: coerce" in said
