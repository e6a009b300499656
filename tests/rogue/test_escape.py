"""A configuration whose SQL means to leave its read-only transaction: nothing is ever written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pymysql
import pytest

from rivet_fleet.contracts.facts import FactsRequest
from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import RivetFleetError, SourceError
from rivet_fleet.execution import registry
from rivet_fleet.execution.source import PageLimit
from rivet_fleet.execution.sources.postgres import ENGINE as POSTGRES
from rivet_fleet.execution.sources.postgres.session import Session
from tests.integration.fleet_cli import Desk
from tests.integration.postgres_source_kit import drain, read_plan

WRITE = "insert into victim values (1)"
QUERIES = {
    "behind a limit": f"select 1 as id) AS x limit 0; COMMIT; {WRITE}; BEGIN; "
    "select * from (select 1 as id",
    "two statements": f"select 1 as id; {WRITE}",
    "commit first": f"COMMIT; {WRITE}",
    "by a parameter": "select 1 as id where 'a' = '${customer}'",
    "a write of its own": WRITE,
}
HARMFUL = f"x'; COMMIT; {WRITE}; BEGIN; select '"
VERBS = (("check",), ("doctor",), ("plan",), ("run",))


@pytest.fixture(params=["postgres", "mysql"])
def victim(request: pytest.FixtureRequest) -> tuple[str, str, Callable[[], int]]:
    """Engine, URL of a user who may write, and how many rows were written."""
    if request.param == "postgres":
        url: str = request.getfixturevalue("database")
        with psycopg.connect(url, autocommit=True) as sql:
            sql.execute("CREATE TABLE victim (n int)")

        def written() -> int:
            with psycopg.connect(url) as sql:
                (count,) = sql.execute("SELECT count(*) FROM victim").fetchone() or (0,)
                return int(count)

        return "postgres", url, written
    url = request.getfixturevalue("mysql_database")
    address = parse_database_url(url)

    def ask(text: str) -> int:
        with (
            pymysql.connect(
                host=address.host,
                port=address.port or 3306,
                user=address.user,
                password=address.password or "",
                database=address.database,
                autocommit=True,
            ) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(text)
            row = cursor.fetchone()
            return int(row[0]) if row else 0

    ask("CREATE TABLE victim (n int)")
    return "mysql", url, lambda: ask("SELECT count(*) FROM victim")


def test_the_users_sql_cannot_leave_its_transaction(
    tmp_path: Path, victim: tuple[str, str, Callable[[], int]]
) -> None:
    engine, url, written = victim
    for number, (how, query) in enumerate(QUERIES.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        desk = Desk(folder=folder, environment={"SHOP_URL": url})
        desk.write(
            f"source: {{type: {engine}, url_env: SHOP_URL}}\n"
            "campaign: {workers: 1, max_chunk_attempts: 1}\n"
            "exports:\n"
            f'  - {{name: o, query: "{query}", format: csv,'
            " destination: {type: local, path: ./out}}\n"
        )
        for verb in VERBS if number == 0 else VERBS[-1:]:
            done = desk.cli(*verb, "--param", f"customer={HARMFUL}", code=None)
            if how != "by a parameter":
                assert done.code != 0, f"{how}, {verb}: {done.said}"
            elif verb == ("run",):
                # Nobody is called that; the value is a text like any other.
                assert done.code == 0, done.said
            assert written() == 0, f"{how}, {verb}: {done.said}"


def test_a_monitors_sql_cannot_leave_its_transaction(
    tmp_path: Path, victim: tuple[str, str, Callable[[], int]]
) -> None:
    engine, url, written = victim
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": url})
    desk.write(
        f"source: {{type: {engine}, url_env: SHOP_URL}}\n"
        "campaign: {workers: 1, max_chunk_attempts: 1}\n"
        "source_groups:\n"
        "  g: {max_running_chunks: 2, monitor: {signals: {mine: {pause_above: 100,"
        f' sql: "select 1; COMMIT; {WRITE}; COMMIT; BEGIN"}}}}}}}}\n'
        "exports:\n"
        "  - {name: o, table: victim, source_group: g, format: csv,"
        " destination: {type: local, path: ./out}}\n"
    )
    for verb in (("doctor",), ("run",)):
        desk.cli(*verb, code=None)
        assert written() == 0, verb


def test_a_monitors_sql_is_part_of_a_select(
    tmp_path: Path, victim: tuple[str, str, Callable[[], int]]
) -> None:
    """One statement after the other, each of which is one: none is taken that is no SELECT."""
    engine, url, written = victim
    signals = registry.open_signals(engine, parse_database_url(url), application_name="t")
    made = tmp_path / "made"
    for sql in (
        "SET SESSION TRANSACTION READ WRITE",
        WRITE,
        "START TRANSACTION READ WRITE",
        WRITE,
        "COMMIT",
        WRITE,
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        WRITE,
        "EXECUTE IMMEDIATE 'SET SESSION TRANSACTION READ WRITE'",
        WRITE,
        "COPY (SELECT 1) TO PROGRAM 'cat > /dev/null'",
        f"SELECT 1 INTO OUTFILE '{made}'",
    ):
        with pytest.raises(RivetFleetError, match=r"1064|42601"):
            signals.query(sql)
        assert written() == 0, sql
    assert not made.exists()
    signals.close()


def test_what_a_query_sets_ends_with_its_page(database: str) -> None:
    """A function may set something for the session. Here what a string is: the second page would
    be read as five statements, of which one writes."""
    query = (
        r"select set_config('standard_conforming_strings', 'off', false) as s,"
        r" generate_series(1, 100) as id, '\' as a, ' as a, 1 as b) as _rivet limit 0) to stdout;"
        f" commit; {WRITE}; begin; copy (select 1 from (select 1 as id, 2 -- ' as b"
    )
    with psycopg.connect(database, autocommit=True) as sql:
        sql.execute("CREATE TABLE victim (n int)")
        source = POSTGRES.open_source(parse_database_url(database), application_name="t")
        facts = source.introspect(FactsRequest(export_name="q", relation=None, query=query))
        chunk = ChunkRange(kind=RangeKind.KEYSET, columns=("id",))
        reader = source.open_chunk(read_plan(facts, query=query), chunk, TuningPlan())
        try:
            found = drain(reader, PageLimit(rows_max=30, bytes_max=1 << 20))
        finally:
            source.close()
            assert sql.execute("SELECT count(*) FROM victim").fetchone() == (0,)
        assert found.column("id").to_pylist() == list(range(1, 101))


def test_a_message_behind_a_users_sql_holds_one_statement(database: str) -> None:
    """Within one transaction what it set is still set: the protocol is what holds."""
    session = Session(
        parse_database_url(database), tls_mode=None, tls_ca_file=None, application_name="t"
    )
    session.undoing = True
    with (
        pytest.raises(SourceError, match="syntax error"),
        session.reading((), doing="reading", timeout_s=5.0) as cursor,
    ):
        assert cursor.execute("SELECT 1").fetchone() == (1,)
        cursor.execute("SELECT 1; COMMIT; CREATE TABLE made (n int)")
    session.close()


def test_an_answer_in_binary_is_refused_before_it_is_taken_apart(database: str) -> None:
    """A server says in which form it answers; psycopg's compiled loaders believe the lengths of a
    binary array, beyond the cell."""
    session = Session(
        parse_database_url(database), tls_mode=None, tls_ca_file=None, application_name="t"
    )
    with (
        pytest.raises(SourceError),
        session.reading((), doing="reading", timeout_s=5.0) as cursor,
    ):
        cursor.execute("SELECT ARRAY['a']", binary=True)
        pytest.fail("it was taken for an answer")
    session.close()


@pytest.mark.parametrize("engine", ["postgres", "mysql"])
def test_the_protocol_takes_one_statement_whatever_our_reading_lets_through(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """Without the lexer that refuses a second statement, the server does."""
    url: str = request.getfixturevalue("database" if engine == "postgres" else "mysql_database")
    module = "dialect" if engine == "postgres" else "statements"
    reading = f"rivet_fleet.execution.sources.{engine}.{module}.one_statement"
    monkeypatch.setattr(reading, lambda sql, alternatives: sql)
    target = parse_database_url(url)
    source = registry.open_source(engine, target, application_name="t")
    signals = registry.open_signals(engine, target, application_name="t")
    made = "CREATE TABLE made (n int)"
    leaving = f"select 1 as id) AS x limit 0; COMMIT; {made}; BEGIN; select * from (select 1 as id"
    asked: tuple[Callable[[], object], ...] = (
        lambda: source.introspect(FactsRequest(export_name="q", relation=None, query=leaving)),
        lambda: source.check_readable(None, leaving),
        lambda: signals.query(f"select 1; COMMIT; {made}; BEGIN; select 1"),
    )
    for ask in asked:
        with pytest.raises(SourceError):
            ask()
    with pytest.raises(SourceError, match="made"):
        signals.query("select count(*) from made")
    assert signals.query("select 7") == 7
    source.close()
    signals.close()
