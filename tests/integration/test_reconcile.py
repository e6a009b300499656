"""`reconcile` over real servers: delivered files of every strategy against their source."""

from __future__ import annotations

from typing import Any

import pytest

from rivet_fleet.demo.embedded import EmbeddedPostgres
from tests.integration.fleet_cli import Desk

TABLES = """
CREATE TABLE orders (id bigint PRIMARY KEY, note text, total numeric(10,2), share float8,
                     paid_at timestamptz, ref uuid, marks int[]);
INSERT INTO orders SELECT i, 'note ' || i, i / 100.0, i / 7.0, '2024-05-01Z'::timestamptz
    + i * interval '1 hour', md5(i::text)::uuid, ARRAY[i, NULL] FROM generate_series(1, 200) i;
CREATE TABLE spans (bucket int, note text);
INSERT INTO spans SELECT i % 50, 'n' || i FROM generate_series(1, 200) i;
CREATE INDEX ON spans (bucket);
CREATE TABLE heap (note text);
INSERT INTO heap SELECT repeat('x', 200) || i FROM generate_series(1, 400) i;
CREATE TABLE events (id bigint PRIMARY KEY, at timestamptz NOT NULL, note text);
INSERT INTO events SELECT i, '2024-05-01Z'::timestamptz + i * interval '1 hour', 'e' || i
    FROM generate_series(1, 100) i;
CREATE INDEX ON events (at, id);
ANALYZE;
"""
EXPORTS = """
  - {name: orders, table: orders, mode: chunked, chunk_size: 60}
  - {name: spans, table: spans, mode: chunked, chunk_column: bucket, chunk_size: 80}
  - {name: heap, table: heap, mode: chunked, chunk_size: 100}
  - {name: whole, table: events, mode: full}
  - {name: joined, query: "SELECT o.id, e.note FROM orders o JOIN events e ON e.id = o.id"}
  - {name: selected, query: "SELECT id, note FROM orders WHERE id > 20"}
  - {name: fresh, table: events, mode: incremental, cursor_column: at}
  - {name: week, table: events, mode: time_window, time_column: at, days_window: 9000}
  - {name: cells, table: orders, format: csv, columns: {marks: text}}
"""


def config(exports: str) -> str:
    lines = []
    for line in exports.strip("\n").splitlines():
        if line.strip().startswith("- {name:"):
            name = line.split("name: ")[1].split(",")[0]
        if line.rstrip().endswith("}"):
            shape = "" if "format:" in line else "format: parquet, "
            inner = line.rstrip()[:-1]
            line = f"{inner}, {shape}destination: {{type: local, path: ./out/{name}}}}}"
        lines.append(line)
    body = "\n".join(lines)
    return f"""\
source: {{type: postgres, url_env: SHOP_URL}}
campaign: {{name: shop, workers: 1, lease_ttl_s: 5, prove: all}}
exports:
{body}
"""


def compared(desk: Desk, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = desk.cli("reconcile", "--confirm-after", "0", "--json", *arguments, code=code)
    return {one["export_name"]: one for one in done.json["exports"]}


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory, postgres: EmbeddedPostgres) -> Desk:
    url = postgres.create_database("reconcile_shop")
    postgres.psql(TABLES, database="reconcile_shop")
    desk = Desk(folder=tmp_path_factory.mktemp("reconcile"), environment={"SHOP_URL": url})
    desk.write(config(EXPORTS))
    desk.cli("run")
    return desk


def test_all(delivered: Desk) -> None:
    for depth in ("count", "hash"):
        found = compared(delivered, "--depth", depth)

        for one in found.values():
            print(one["export_name"], one["strategy"], one["verdict"], one["found"], one["summary"])
    assert {one["verdict"] for one in found.values()} == {"match"}
