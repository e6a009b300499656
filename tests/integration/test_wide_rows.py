"""Rows that are wider than a page may be: read, or refused once by their key, on both engines.

What the source is asked is counted at the server, or by the connections made to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pymysql
import pytest

from rivet_fleet.contracts.url import parse_database_url
from tests.integration.fleet_cli import Desk
from tests.integration.relay import relay

MIB = 1024 * 1024
CAMPAIGN = "campaign: {workers: 1, max_chunk_attempts: 2, hang_timeout_s: 20}\n"


def _tables(values: dict[str, tuple[int, int]]) -> Iterator[tuple[str, int, int]]:
    for name, (count, bytes_each) in values.items():
        yield name, count, bytes_each


TABLES = {"wide": (6, 7 * MIB), "fits": (4, 7 * MIB), "value": (1, 60 * MIB)}
"""Name → values in row 41, and the bytes of each. The largest value of 150 MB is one of 8 MB."""


@pytest.fixture
def postgres_wide(database: str) -> tuple[str, str]:
    with psycopg.connect(database, autocommit=True) as sql:
        for name, count, bytes_each in _tables(TABLES):
            columns = ", ".join(f"c{i} text" for i in range(count))
            sql.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, {columns})")
            sql.execute(f"INSERT INTO {name} (id) SELECT generate_series(1, 80)")
            filled = ", ".join(f"c{i} = repeat('x', {bytes_each})" for i in range(count))
            sql.execute(f"UPDATE {name} SET {filled} WHERE id = 41")
    return "postgres", database


@pytest.fixture
def mysql_wide(mysql_database: str) -> tuple[str, str]:
    with _mysql(mysql_database) as connection, connection.cursor() as sql:
        sql.execute("SET GLOBAL max_allowed_packet = 1073741824")
    with _mysql(mysql_database) as connection, connection.cursor() as sql:
        for name, count, bytes_each in _tables(TABLES):
            columns = ", ".join(f"c{i} longtext" for i in range(count))
            sql.execute(f"CREATE TABLE `{name}` (id int PRIMARY KEY, {columns})")
            rows = ", ".join(f"({i})" for i in range(1, 81))
            sql.execute(f"INSERT INTO `{name}` (id) VALUES {rows}")
            for i in range(count):
                sql.execute(f"UPDATE `{name}` SET c{i} = repeat('x', {MIB}) WHERE id = 41")
                piece = f"concat({', '.join([f'c{i}'] * (bytes_each // MIB))})"
                sql.execute(f"UPDATE `{name}` SET c{i} = {piece} WHERE id = 41")
    return "mysql", mysql_database


def _mysql(url: str) -> pymysql.Connection[pymysql.cursors.Cursor]:
    address = parse_database_url(url)
    return pymysql.connect(
        host=address.host,
        port=address.port or 3306,
        user=address.user,
        password=address.password or "",
        database=address.database,
        autocommit=True,
    )


def _desk(folder: Path, engine: str, url: str, name: str, groups: str = "") -> Desk:
    desk = Desk(folder=folder, environment={"SHOP_URL": url})
    group = ", source_group: g" if groups else ""
    desk.write(
        f"source: {{type: {engine}, url_env: SHOP_URL, environment: local, "
        "tuning: {retry_backoff_ms: 20}}\n"
        f"{CAMPAIGN}{groups}"
        f"exports:\n  - {{name: {name}, table: {name}, mode: chunked, format: parquet{group}, "
        f"destination: {{type: local, path: ./out/{name}}}}}\n"
    )
    return desk


@pytest.mark.parametrize("source", ["postgres_wide", "mysql_wide"])
def test_a_row_wider_than_a_worker_takes_is_refused_once_by_its_key(
    tmp_path: Path, request: pytest.FixtureRequest, source: str
) -> None:
    engine, url = request.getfixturevalue(source)
    for name, code in (("wide", "ROW"), ("value", "VALUE")):
        folder = tmp_path / name
        folder.mkdir()
        address = parse_database_url(url)
        with relay(address) as link:
            through = url.replace(f":{address.port}/", f":{link.port}/")
            desk = _desk(folder, engine, through, name)
            done = desk.cli("run", code=None)
            # Planning, the worker's own, one for the page that was cut, one to ask for the key.
            assert link.accepted <= 6, f"{link.accepted} connections"
        assert done.code == 5, done.said
        ((failed,),) = (run["chunks"] for run in desk.cli("state", "chunks", "--json").json)
        said = str(failed)
        assert failed["status"] == "failed" and "worker_memory_mb" in said, said
        assert code != "ROW" or "(id) = (41)" in said, said


@pytest.mark.parametrize("source", ["postgres_wide", "mysql_wide"])
def test_a_rate_below_one_row_lets_a_row_through(
    tmp_path: Path, request: pytest.FixtureRequest, source: str
) -> None:
    """A budget of 16 MB a second grants pages of 8 MB, and the row has 28."""
    engine, url = request.getfixturevalue(source)
    groups = "source_groups: {g: {max_mb_per_s: 16}}\n"
    desk = _desk(tmp_path, engine, url, "fits", groups)
    desk.cli("run")
    assert desk.delivered("fits") == list(range(1, 81))
