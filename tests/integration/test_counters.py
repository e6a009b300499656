"""The source's own counters around real runs, on both engines; and a run that cannot have them."""

from __future__ import annotations

from pathlib import Path

from rivet_fleet.contracts.counters import COUNTERS_CAVEAT
from tests.integration.fleet_cli import Desk
from tests.servers.mariadb import EmbeddedMariadb

CONFIG = """\
sources:
  shop: {type: postgres, url_env: SHOP_URL}
  billing: {type: mysql, url_env: BILLING_URL}
campaign: {name: counted, workers: 1}
exports:
  - {name: orders, source: shop, table: orders, mode: chunked, chunk_size: 100, format: parquet,
     destination: {type: local, path: ./out/orders}}
  - {name: bills, source: billing, table: bills, format: parquet,
     destination: {type: local, path: ./out/bills}}
"""
BILLS = "CREATE TABLE bills (id int PRIMARY KEY); INSERT INTO bills SELECT seq FROM seq_1_to_500"


def test_counters_before_and_after_each_run(
    tmp_path: Path, shop: str, mysql_database: str, mariadb: EmbeddedMariadb
) -> None:
    mariadb.sql(BILLS, database=mysql_database.rpartition("/")[2])
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": shop, "BILLING_URL": mysql_database})
    desk.write(CONFIG)
    desk.cli("run")
    report = desk.cli("metrics", "--json").json
    counted = {one["export_name"]: one for one in report["harm"]}
    assert set(counted) == {"orders", "bills"}
    assert {"blks_read", "temp_bytes", "deadlocks"} <= counted["orders"]["risen"].keys()
    assert counted["bills"]["risen"]["Rows_read"] >= 500
    for one in counted.values():
        assert one["caveat"] == COUNTERS_CAVEAT
        assert one["before"]["taken_at_s"] <= one["after"]["taken_at_s"]
        assert one["before"]["context"]["version"]
    # The server's defaults, not what our own session was set to.
    assert counted["orders"]["before"]["context"]["statement_timeout"] == "0"
    said = desk.cli("metrics").out
    assert COUNTERS_CAVEAT in said and "bills on billing: " in said
    told = desk.cli("journal", "--event", "source.counted").out
    assert told.count("source.counted") == 2
