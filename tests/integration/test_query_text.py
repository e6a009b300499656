"""Queries as users write them, read by real servers: what ends them never changes their rows."""

from __future__ import annotations

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rivet_fleet.contracts.facts import FactsRequest
from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.plan import ReadPlan
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import ConfigError
from rivet_fleet.execution.source import Source
from rivet_fleet.execution.sources.mysql import ENGINE as MYSQL_ENGINE
from rivet_fleet.execution.sources.postgres import ENGINE as POSTGRES_ENGINE
from rivet_fleet.execution.sources.postgres.dialect import from_item
from tests.integration.fleet_cli import Desk
from tests.integration.postgres_source_kit import read_all, specs

BOTH = [
    ("select 'a' as v; -- the end", "a"),
    ("select 'a;' as v;", "a;"),
    ("select 'it''s; so' as v /* ; */ ;\n/* behind */", "it's; so"),
    ("-- before;\nselect 'a' as v -- no end;", "a"),
]
POSTGRES = [
    ("select $q$;'--$q$ as v;", ";'--"),
    (r"select E'\';' as v; --", "';"),
    ("select E'a'\n'\\';' as v;", "a';"),
    ("select 'a' /* 1 /* 2; */ ; */ as v; /* /* */ ; */", "a"),
    (r"select 'c:\' as v; -- 'x'", "c:\\"),
]
MYSQL = [
    (r"select 'it\'s; so' as v; # the end; really", "it's; so"),
    ('select "a;\\"" as v;', 'a;"'),
    ("select 'a' as `v`  /*! ; */", None),
    ("select /*! 'a' */ as v; -- x", "a"),
]
PIECES = ("select 1 as a", ";", "--", "\n", "/*", "*/", "'", "E'", "\\", '"', "$$", "$a$", " ")
LEAVING = "select 1 as a) as y; select 1 from (select 1 as a"
"""Not one statement, unless a quote or comment before it makes text of it."""


def read(source: Source, query: str) -> list[object]:
    facts = source.introspect(FactsRequest(export_name="q", relation=None, query=query))
    plan = ReadPlan(
        source="s",
        engine=facts.engine,
        source_identity="",
        relation=None,
        query=query,
        columns=specs(facts),
    )
    return read_all(source, plan, ChunkRange(kind=RangeKind.WHOLE)).column("v").to_pylist()


def check(source: Source, query: str, value: str | None) -> None:
    try:
        if value is None:
            with pytest.raises(ConfigError):
                read(source, query)
        else:
            assert read(source, query) == [value]
            source.check_readable(None, query)
    finally:
        source.close()


@pytest.mark.parametrize(("query", "value"), [*BOTH, *POSTGRES])
def test_postgres_reads_what_the_query_says(database: str, query: str, value: str | None) -> None:
    check(
        POSTGRES_ENGINE.open_source(parse_database_url(database), application_name="t"),
        query,
        value,
    )


@pytest.mark.parametrize(("query", "value"), [*BOTH, *MYSQL])
def test_mariadb_reads_what_the_query_says(
    mysql_database: str, query: str, value: str | None
) -> None:
    check(
        MYSQL_ENGINE.open_source(parse_database_url(mysql_database), application_name="t"),
        query,
        value,
    )


def test_nothing_that_is_taken_leaves_its_parentheses(database: str) -> None:
    """The server's own parser is the judge: it names a second command when it meets one."""
    with psycopg.connect(database, autocommit=True) as connection:

        @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(st.lists(st.sampled_from((*PIECES, LEAVING, LEAVING)), max_size=9).map("".join))
        def judged(text: str) -> None:
            try:
                item = from_item(None, text)
            except ConfigError:
                return
            try:
                connection.execute(
                    f"select 1 from {item} where %s".encode(), (False,), prepare=False
                )
            except psycopg.Error as error:
                assert "multiple commands" not in str(error)

        judged()


def test_a_query_is_planned_with_its_comment_and_refused_with_a_second_one(
    tmp_path, database: str
) -> None:
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": database})
    one = (
        "source: {type: postgres, url_env: SHOP_URL}\n"
        "exports:\n"
        "  - {name: a, query: 'select 1 as id; -- the end', format: parquet, destination: "
        "{type: local, path: out/a}}\n"
    )
    desk.write(one)
    desk.cli("plan")
    desk.cli("run")
    assert desk.delivered("a") == [1]
    desk.write(one.replace("-- the end", "drop table x"))
    for command in ("plan", "run"):
        desk.refused(command, code=1, named="a second statement, 'drop'", hint="one SELECT")
