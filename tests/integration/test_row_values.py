"""What stands in rows is in no message, state or log, whoever words it, unless it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pymysql
import pytest

from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import RivetFleetError
from tests.integration.fleet_cli import Desk
from tests.integration.test_query_text import MYSQL_ENGINE, POSTGRES_ENGINE, read

VALUE = "SSN of Jane's 878051120"
TOLD = "878051120"
POSTGRES = {
    "a cast": "select v::int as v from t",
    "a range": "select n::text::smallint as v from t",
    "a date": "select d::date as v from t",
    "a raise": "select boom(v) as v from t",
    "json": "select v::json as v from t",
}
MYSQL = {"a raise": "select boom(v) as v from t"}


def failing(open_source: Callable[..., object], url: str, queries: dict[str, str]) -> list[str]:
    """What is said of each query that fails, after a look that nothing of it is a row's."""
    said = []
    for how, query in queries.items():
        source = open_source(parse_database_url(url), application_name="t")
        with pytest.raises(RivetFleetError) as raised:
            read(source, query)  # type: ignore[arg-type]
        source.close()  # type: ignore[attr-defined]
        error = raised.value
        assert TOLD not in error.message, (how, error.message)
        assert "SSN" not in error.message, (how, error.message)
        told = "SSN" if how == "json" else TOLD
        assert told in (error.unmasked or ""), (how, error.message, error.unmasked)
        assert "errors: {row_values: shown}" in (error.hint or ""), how
        said.append(error.message)
    return said


@pytest.fixture
def people(database: str) -> str:
    with psycopg.connect(database, autocommit=True) as sql:
        sql.execute("CREATE TABLE t (v text, n bigint, d text)")
        sql.execute("INSERT INTO t VALUES (%s, %s, %s)", (VALUE, int(TOLD), f"x{TOLD}"))
        sql.execute(
            "CREATE FUNCTION boom(v text) RETURNS text LANGUAGE plpgsql STABLE AS "
            "$$ BEGIN RAISE EXCEPTION 'bad %', v USING DETAIL = v; END $$"
        )
    return database


def test_postgres_values_stay_in_their_rows(people: str) -> None:
    said = failing(POSTGRES_ENGINE.open_source, people, POSTGRES)
    assert any("invalid input syntax for type integer: ***" in one for one in said), said
    assert any("out of range" in one for one in said), said


def test_mysql_values_stay_in_their_rows(mysql_database: str) -> None:
    at = parse_database_url(mysql_database)
    with (
        pymysql.connect(
            host=at.host,
            port=at.port or 3306,
            user=at.user,
            password=at.password or "",
            database=at.database,
            autocommit=True,
        ) as link,
        link.cursor() as cursor,
    ):
        cursor.execute("CREATE TABLE t (v varchar(60), n bigint)")
        cursor.execute("INSERT INTO t VALUES (%s, %s)", (VALUE, int(TOLD)))
        cursor.execute(
            "CREATE FUNCTION boom(v text) RETURNS text DETERMINISTIC NO SQL "
            "BEGIN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = v; RETURN v; END"
        )
    failing(MYSQL_ENGINE.open_source, mysql_database, MYSQL)


def test_state_and_log_hold_no_value_until_it_is_asked_for(tmp_path: Path, people: str) -> None:
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": people})
    text = (
        "source: {type: postgres, url_env: SHOP_URL, tuning: {retry_backoff_ms: 20}}\n"
        "campaign: {workers: 1, max_chunk_attempts: 1}\n"
        "exports:\n"
        "  - {name: o, query: 'select v::int as v from t', mode: full, format: parquet,"
        " destination: {type: local, path: ./out/o}}\n"
    )
    desk.write(text)
    said = desk.cli("--log-level", "debug", "run", code=None).said
    assert "invalid input syntax for type integer: ***" in said
    assert TOLD not in said
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or TOLD.encode() not in path.read_bytes(), path
    desk.write(f"errors: {{row_values: shown}}\n{text}")
    assert TOLD in desk.cli("run", "--new", code=None).said
