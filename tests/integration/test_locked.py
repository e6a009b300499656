"""One locked table ends nothing about the others: it is named, and what delivers it later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pyarrow.parquet as pq
import pytest

from tests.integration.fleet_cli import Desk, ended, run_sqlite
from tests.integration.mysql_source_kit import Sql

TABLES = ("a", "b", "c")
STATE = "sqlite:///other.db"


def desk_of(tmp_path: Path, url: str, kind: str, *, config: str = "") -> Desk:
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": url})
    exports = "\n".join(
        f"  - {{name: {t}, table: {t}, format: parquet,"
        f" destination: {{type: local, path: ./out/{t}}}}}"
        for t in TABLES
    )
    desk.write(
        f"source: {{type: {kind}, url_env: SHOP_URL}}\ncampaign: {{name: shop, workers: 1}}\n"
        f"exports:\n{exports}\n{config}"
    )
    return desk


@pytest.fixture
def postgres_desk(tmp_path: Path, database: str) -> Desk:
    with psycopg.connect(database, autocommit=True) as sql:
        for name in TABLES:
            sql.execute(f"CREATE TABLE {name} (id int PRIMARY KEY)".encode())
            sql.execute(f"INSERT INTO {name} VALUES (1), (2)".encode())
        sql.execute("CREATE TABLE d (id int PRIMARY KEY); ANALYZE d")
    return desk_of(tmp_path, database, "postgres")


@contextmanager
def locked(url: str, *names: str) -> Iterator[None]:
    with psycopg.connect(url) as sql:
        for name in names:
            sql.execute(f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE".encode())
        yield


def rows_of(desk: Desk, table: str) -> list[int]:
    found: list[int] = []
    for success in (desk.out / table).glob("*/_SUCCESS"):
        for part in success.parent.glob("*.parquet"):
            found += pq.read_table(part).column("id").to_pylist()
    return found


def test_what_is_not_locked_is_exported_and_the_rest_is_named(postgres_desk: Desk) -> None:
    """Six commands wait for the same lock, beside each other: it costs five seconds each."""
    desk, bad = postgres_desk, postgres_desk.folder / "bad.yaml"
    bad.write_text(desk.config.read_text().replace("table: c", "table: nowhere"))
    # What doctor tries out must not lie where the run delivers.
    look = desk.folder / "look.yaml"
    look.write_text(desk.config.read_text().replace("./out/", "./look/"))
    looking = ("--json", "-c", str(look), "--state-url", "sqlite:///look.db")
    source = ("--source-url-env", "SHOP_URL")
    with (
        locked(desk.environment["SHOP_URL"], "b", "d"),
        ended(desk.start("--json-errors", "plan", "-c", str(desk.config))) as plan,
        ended(desk.start("--json-errors", "run", "-c", str(bad), "--state-url", STATE)) as refused,
        ended(desk.start("init", *source, "--discover")) as init,
        ended(desk.start("check", *looking)) as check,
        ended(desk.start("doctor", *looking)) as doctor,
    ):
        told = desk.cli("run", "--json", code=5)
        error = desk.finish(plan, code=2).error
        worse = desk.finish(refused, code=1).error
        found = desk.finish(init).json
        refusals = desk.finish(check, code=2).json
        findings = desk.finish(doctor, code=2).json["findings"]
    assert [rows_of(desk, name) for name in TABLES] == [[1, 2], [], [1, 2]]
    assert "export b is left out" in told.err and "looking at b" in told.err
    assert "plan -c" in told.err and "-e b -o rest.json" in told.err
    ended_json = told.json
    assert (ended_json["code"], ended_json["retryable"]) == ("RIVET_EXPORT_LEFT_OUT", False)
    (one,) = ended_json["failures"]
    assert one["export_name"] == "b" and "looking at b" in one["message"]
    assert (ended_json["status"], ended_json["rows"]) == ("completed", 4), "and the report"
    left_out = "SELECT export_name FROM run_journal WHERE event = 'export.left_out'"
    assert run_sqlite(desk.state, left_out) == [("b",)]

    looked = refusals["exports"]
    assert (refusals["code"], refusals["retryable"]) == ("SQLSTATE_55P03", True)
    assert [one["export_name"] for one in refusals["failures"]] == ["b"]
    assert [one["export_name"] for one in looked if one["refused"]] == ["b"]
    assert "looking at b" in looked[1]["refused"][0]
    assert [one["subject"] for one in findings if one["gravity"] == "error"] == ["export b"]

    assert (error["error_class"], error["code"]) == ("RelationLocked", "SQLSTATE_55P03")
    assert "looking at b" in error["error"] and "holds a lock" in error["hint"]
    assert "nowhere does not exist" in worse["error"], "what is wrong for good stops everything"

    assert [one["export_name"] for one in found["exports"]] == ["a", "c"]
    reasons = {one["relation"]["name"]: one["reason"] for one in found["skipped"]}
    assert set(reasons) == {"b", "d"} and "lock" in reasons["b"] and "lock" in reasons["d"]

    # The two commands of the hint deliver the rest alone.
    desk.cli("plan", "-e", "b", "-o", "rest.json")
    desk.bare("apply", "rest.json")
    assert [rows_of(desk, name) for name in TABLES] == [[1, 2], [1, 2], [1, 2]]


def test_a_campaign_without_an_export_stays_without_it(postgres_desk: Desk) -> None:
    """A stored plan is never added to: who continues it is told what is missing."""
    desk = postgres_desk
    with locked(desk.environment["SHOP_URL"], "b"):
        told = desk.cli("submit", code=5)
        assert "export b is left out" in told.err
    told = desk.cli("run", code=5)
    assert "continuing campaign" in told.err
    assert "export b is left out" in told.err and "made without it" in told.err
    assert [rows_of(desk, name) for name in TABLES] == [[1, 2], [], [1, 2]]
    desk.cli("run")
    assert rows_of(desk, "b") == [1, 2]


def test_a_locked_table_of_mariadb_is_left_out(tmp_path: Path, mysql_database: str) -> None:
    sql = Sql(mysql_database)
    for name in TABLES:
        sql.execute(f"CREATE TABLE {name} (id int PRIMARY KEY)")
        sql.execute(f"INSERT INTO {name} VALUES (1), (2)")
    desk = desk_of(tmp_path, mysql_database, "mysql")
    sql.execute("LOCK TABLES b WRITE")
    source = ("--source-url-env", "SHOP_URL", "--discover")
    try:
        with ended(desk.start("init", *source)) as init:
            told = desk.cli("run", code=5)
            found = desk.finish(init).json
    finally:
        sql.execute("UNLOCK TABLES")
    assert {"a", "c"} <= {one["export_name"] for one in found["exports"]}
    reasons = {one["relation"]["name"]: one["reason"] for one in found["skipped"]}
    assert "b" not in reasons or "lock" in reasons["b"].lower()
    assert [rows_of(desk, name) for name in TABLES] == [[1, 2], [], [1, 2]]
    assert "export b is left out" in told.err
