"""The whole program over a table of MySQL or MariaDB: run, deliver, validate."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.integration.fleet_cli import Desk, fleet_yaml
from tests.integration.mysql_source_kit import Sql, sql

__all__ = ["sql"]


@pytest.fixture
def desk(tmp_path: Path, mysql_url_any: str) -> Desk:
    return Desk(folder=tmp_path, environment={"SHOP_URL": mysql_url_any})


def fill(sql: Sql, rows: int) -> None:
    sql.numbers(rows)
    sql.execute(
        "CREATE TABLE orders (id bigint unsigned NOT NULL PRIMARY KEY, note varchar(80) COMMENT "
        "'what they said', total decimal(10,2), at timestamp(6) NULL, paid tinyint(1))"
    )
    sql.execute(
        "INSERT INTO orders SELECT i + 18446744073709000000, concat(repeat('ñ', 20), i), i / 100, "
        "if(i % 7, '2024-01-02 03:04:05.678901', null), i % 2 FROM numbers"
    )
    sql.execute("ANALYZE TABLE orders")


@pytest.mark.parametrize("engine", ["mysql", "mariadb"])
def test_a_table_is_delivered_whole_by_several_workers(sql, desk, engine) -> None:
    fill(sql, 5000)
    desk.write(
        fleet_yaml(
            source=f"{{type: {engine}, url_env: SHOP_URL}}",
            extra="mode: chunked, chunk_size: 500",
            campaign="workers: 2, max_chunk_attempts: 3, lease_ttl_s: 5",
        )
    )
    plan = desk.cli("check").said
    assert "orders" in plan
    desk.cli("run")
    assert desk.delivered() == [18446744073709000000 + i for i in range(1, 5001)]
    parts = sorted(desk.out.glob("orders/*/*.parquet"))
    assert len(parts) >= 8
    schema = pq.read_schema(parts[0])
    assert schema.field("id").metadata[b"rivet.native_type"].startswith(b"bigint")
    assert schema.field("note").metadata[b"rivet.comment"] == b"what they said"
    assert str(schema.field("total").type) == "decimal128(10, 2)"
    assert str(schema.field("at").type) == "timestamp[us, tz=UTC]"
    desk.cli("validate")


def test_wrong_credentials_and_names_are_told(sql, desk) -> None:
    fill(sql, 10)
    desk.write(fleet_yaml(table="ordrs", source="{type: mysql, url_env: SHOP_URL}"))
    desk.refused("run", code=1, named="ordrs does not exist", hint=f"{sql.database}.orders")
    desk.write(fleet_yaml(source="{type: mysql, url_env: SHOP_URL}"))
    head, _, tail = desk.environment["SHOP_URL"].rpartition("@")
    wrong = head.rsplit(":", 1)[0] + ":not-the-password"
    desk.environment["SHOP_URL"] = f"{wrong}@{tail}"
    error = desk.refused("run", code=1, named="Access denied", hint="password")
    assert "not-the-password" not in str(error)
