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
NAME = "ssn_of_jane"
POSTGRES = {
    "a cast": "select v::int as v from t",
    "a range": "select n::text::smallint as v from t",
    "a date": "select d::date as v from t",
    "a raise": "select boom(v) as v from t",
    "json": "select v::json as v from t",
    "a raise with a pooler's words": "select boom(v || ' no such user', '08P01') as v from t",
    **{
        f"a raise of {state}": f"select boom(v, '{state}') as v from t"
        for state in (
            *("08006", "0A000", "21000", "22023", "23505", "25006", "28000", "40001", "42501"),
            *("42P01", "53100", "55P03", "57014", "58030", "P0001", "XX000", "ZZ999"),
        )
    },
}
POSTGRES_NAMES = {
    made: f"select ({made})::text as v from t"
    for made in (
        *("v2::regclass", "v2::regtype", "v2::regproc", "v2::regrole", "v2::regnamespace"),
        *("v2::regcollation", "current_setting(v2)", "current_setting('a.' || v2)"),
        *("has_table_privilege(v2, 'select')", "pg_get_viewdef(v2)", "convert_to('x', v2)"),
        *("to_tsquery(v2 || ' ' || v2)", "nextval(v2::text)", "query_to_xml(v2, true, true, '')"),
        *("query_to_xml('select ' || v2, true, true, '')", "encode('x', v2)"),
        *("now() at time zone v2", "date_trunc(v2, now())"),
    )
}
"""Values that the server takes for names, and says so."""
NUMBERS = (
    *(1644, 1365, 1064, 1054, 1146, 1030, 1105, 1406, 3141, 1142, 1305, 1045, 1290, 1317, 1690),
    *(1296, 4000, 1158, 1205, 1213, 1370, 1295, 1243, 2013, 2027),
)
MYSQL = {f"a signal of {number}": f"select boom{number}(v) as v from t" for number in NUMBERS}


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
        assert "ssn" not in error.message.lower(), (how, error.message)
        if error.code not in ("MYSQL_1243", "MYSQL_1295"):  # in words of our own alone
            told = "SSN" if how == "json" else NAME if how in POSTGRES_NAMES else TOLD
            assert told in (error.unmasked or ""), (how, error.message, error.unmasked)
            assert "errors: {row_values: shown}" in (error.hint or ""), how
        said.append(error.message)
    return said


@pytest.fixture
def people(database: str) -> str:
    with psycopg.connect(database, autocommit=True) as sql:
        sql.execute("CREATE TABLE t (v text, n bigint, d text, v2 text)")
        row = (VALUE, int(TOLD), f"x{TOLD}", NAME)
        sql.execute("INSERT INTO t VALUES (%s, %s, %s, %s)", row)
        sql.execute(
            "CREATE FUNCTION boom(v text, s text = 'P0001') RETURNS text LANGUAGE plpgsql STABLE "
            "AS $$ BEGIN RAISE EXCEPTION 'bad %', v USING DETAIL = v, ERRCODE = s; END $$"
        )
    return database


def test_postgres_values_stay_in_their_rows(people: str) -> None:
    said = failing(POSTGRES_ENGINE.open_source, people, {**POSTGRES, **POSTGRES_NAMES})
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
        for number in NUMBERS:
            cursor.execute(
                f"CREATE FUNCTION boom{number}(v text) RETURNS text DETERMINISTIC NO SQL BEGIN "
                f"SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = v, MYSQL_ERRNO = {number}; "
                "RETURN v; END"
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
