"""A ``query:`` means what the same user gets from the same SQL: the server's mode, its time zone,
in every page and after every restart; and moments arrive as the moments they are.

The server stands in Berlin, where an hour is there twice each autumn.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import fields
from typing import Any

import pyarrow.parquet as pq
import pytest

from rivet_fleet.contracts.facts import FactsRequest, SourceFacts
from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.plan import ReadPlan, TuningPlan
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import SourceError, SourceRefused
from rivet_fleet.execution.source import PageLimit, Source
from rivet_fleet.execution.sources.mysql import ENGINE as MYSQL
from tests.conftest import missing
from tests.integration.fleet_cli import Desk
from tests.integration.mysql_source_kit import Sql, drain, facts_of, read_plan
from tests.servers.mariadb import (
    EmbeddedMariadb,
    EmbeddedMariadbMissing,
    MariadbInstall,
    embedded_mariadb,
    find_mariadb,
)

WHOLE = ChunkRange(kind=RangeKind.WHOLE)
SMALL = PageLimit(rows_max=2, bytes_max=1 << 20)


class InBerlin(MariadbInstall):
    """The same programs, elsewhere."""

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "TZ": "Europe/Berlin"}


@pytest.fixture(scope="module")
def berlin() -> Iterator[EmbeddedMariadb]:
    try:
        here = find_mariadb()
        there = InBerlin(**{field.name: getattr(here, field.name) for field in fields(here)})
        with embedded_mariadb(install=there) as server:
            yield server
    except EmbeddedMariadbMissing as absent:
        missing(str(absent))


@pytest.fixture
def url(berlin: EmbeddedMariadb) -> str:
    berlin.sql("DROP DATABASE IF EXISTS shop")
    return berlin.create_database("shop")


@pytest.fixture
def sql(url: str) -> Iterator[Sql]:
    opened = Sql(url)
    opened.execute("SET time_zone = '+00:00', sql_mode = ''")
    yield opened
    opened.connection.close()


@contextmanager
def server_has(sql: Sql, **variables: str) -> Iterator[None]:
    """The server's own defaults, for sessions that begin from now on."""
    names = list(variables)
    (before,) = sql.execute("SELECT " + ", ".join(f"@@GLOBAL.{name}" for name in names))
    try:
        for name, value in variables.items():
            sql.execute(f"SET GLOBAL {name} = %s", (value,))
        yield
    finally:
        for name, value in zip(names, before, strict=True):
            sql.execute(f"SET GLOBAL {name} = %s", (value,))


@contextmanager
def opened(url: str) -> Iterator[Source]:
    with closing(
        MYSQL.open_source(parse_database_url(url), application_name="rivet-test")
    ) as source:
        yield source


def asked(source: Source, query: str, *keys: str) -> tuple[SourceFacts, ReadPlan]:
    request = FactsRequest(export_name="q", relation=None, query=query, key_columns=keys)
    facts = source.introspect(request)
    return facts, read_plan(facts, query=query)


def told(url: str, query: str) -> list[tuple[Any, ...]]:
    """What a client of today's gets: a fresh session, nothing set."""
    with closing(Sql(url).connection) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return sorted(cursor.fetchall(), key=repr)


def exported(source: Source, read: ReadPlan, chunk: ChunkRange = WHOLE) -> list[tuple[Any, ...]]:
    table = drain(source.open_chunk(read, chunk, TuningPlan()), SMALL)
    return sorted((tuple(row.values()) for row in table.to_pylist()), key=repr)


# ---------------------------------------------------------------- modes

MODES = (
    *("", "ANSI_QUOTES", "PIPES_AS_CONCAT", "NO_BACKSLASH_ESCAPES", "IGNORE_SPACE", "ORACLE"),
    *("HIGH_NOT_PRECEDENCE", "EMPTY_STRING_IS_NULL", "NO_UNSIGNED_SUBTRACTION", "MSSQL", "ANSI"),
    *("REAL_AS_FLOAT", "PAD_CHAR_TO_FULL_LENGTH", "TIME_ROUND_FRACTIONAL", "TRADITIONAL"),
    *("ONLY_FULL_GROUP_BY", "NO_ZERO_DATE,NO_ZERO_IN_DATE", "ALLOW_INVALID_DATES", "MAXDB", "DB2"),
    *("ANSI_QUOTES,NO_BACKSLASH_ESCAPES,EMPTY_STRING_IS_NULL", "POSTGRESQL", "MYSQL40"),
)
QUERIES = (
    'select id as id, "a" as v from t',
    "select id, a || 'x' as v from t",
    "select id, a || null as v from t",
    r"select id, 'a\n' as v from t",
    r"select id, concat('\\', a, '') as v from t",
    "select id, coalesce('', 'empty') as v from t",
    "select id, not id between 2 and 3 as v from t",
    "select id, c as v from t",
    "select id, substr(a, 0) as v from t",
    "select id, str_to_date('00/00/0000', '%m/%d/%Y') is null as v from t",
    "select id, cast('2024-02-31' as date) is null as v from t",
    "select id, cast(time'10:11:12.99' as time(0)) = '10:11:13' as v from t",
    "select id, count (*) as v from t group by id",
    "select id, a as v from t group by a, id",
)


@pytest.fixture
def lettered(sql: Sql) -> Sql:
    sql.execute("CREATE TABLE t (id int PRIMARY KEY, a varchar(20) NOT NULL, c char(5) NOT NULL)")
    sql.execute("INSERT INTO t VALUES (1, 'x', 'p'), (2, 'y', 'q'), (3, '', ''), (4, 'y''\"', '`')")
    return sql


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode or "none")
def test_a_query_is_read_in_the_mode_its_user_has(lettered, url, mode) -> None:
    """Every page, whole and by a key, as a fresh session of that server answers the same SQL."""
    keys = ChunkRange(kind=RangeKind.KEYSET, columns=("id",), lower=("1",), upper=("4",))
    texts = ChunkRange(kind=RangeKind.SPAN, columns=("a",), lower=("",), upper=("~",))
    with server_has(lettered, sql_mode=mode), opened(url) as source:
        for query in QUERIES:
            try:
                expected = told(url, query)
            except Exception:
                with pytest.raises(SourceRefused):
                    asked(source, query)
                continue
            _, read = asked(source, query, "id")
            assert exported(source, read) == expected, query
            assert exported(source, read, keys) == [r for r in expected if r[0] < 4], query
        _, read = asked(source, "select a, id from t", "a")
        assert len(exported(source, read, texts)) == 4


def config(query: str, extra: str = "") -> str:
    return f"""\
source: {{type: mysql, url_env: SRC, tuning: {{batch_size: 2}}}}
campaign: {{workers: 1}}
exports:
  - name: q
    query: {query}
    format: parquet
    {extra}
    destination: {{type: local, path: ./out/q}}
"""


def rows_of(desk: Desk) -> list[dict[str, Any]]:
    parts = sorted(desk.out.glob("q/*/*.parquet"))
    found = [row for part in parts for row in pq.read_table(part).to_pylist()]
    return sorted(found, key=lambda row: int(row["id"]))


def test_the_planned_mode_counts_wherever_the_campaign_goes_on(lettered, url, tmp_path) -> None:
    desk = Desk(folder=tmp_path, environment={"SRC": url})
    desk.write(config("""'select id, "a" || null as p from t'"""))
    with server_has(lettered, sql_mode="ORACLE"):
        said = desk.cli("check").said
        assert "SQL mode: " in said and "ANSI_QUOTES" in said and "ORACLE" in said
        path = desk.folder / "plan.json"
        assert "PIPES_AS_CONCAT" in desk.cli("plan", "-o", str(path)).said
        assert '"sql_mode"' in path.read_text()
    with server_has(lettered, sql_mode="STRICT_TRANS_TABLES"):
        assert "SQL mode" not in desk.cli("check").said
        desk.bare("apply", str(path))
    # ORACLE's || takes NULL for nothing.
    assert [row["p"] for row in rows_of(desk)] == ["x", "y", "", "y'\""]


# ---------------------------------------------------------------- time zones

FOLD = ("2024-10-27 00:30:00", "2024-10-27 01:30:00.25", "2024-10-27 01:59:59.999999")
"""In UTC; the first two are 02:30 in Berlin, once in summer time and once in winter time."""
MOMENTS = (*FOLD, "1970-01-01 00:00:01", "2024-03-31 01:00:00", "2038-01-19 03:14:07.5")


def utc(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text.ljust(26, "0") if "." in text else text).replace(
        tzinfo=dt.UTC
    )


@pytest.fixture
def timed(sql: Sql) -> Sql:
    sql.execute("CREATE TABLE t (id int PRIMARY KEY, ts timestamp(6) NULL, d datetime NULL)")
    rows = [(i, ts, "2024-10-27 02:30:00") for i, ts in enumerate(MOMENTS, 1)]
    with sql.connection.cursor() as cursor:
        cursor.executemany("INSERT INTO t VALUES (%s, %s, %s)", [*rows, (99, None, None)])
    return sql


@pytest.mark.parametrize("zone", ["SYSTEM", "+05:30", "-11:00", "+00:00"])
def test_a_query_has_the_servers_midnight_and_its_moments_are_utc(timed, url, zone) -> None:
    query = (
        "select id, ts, d, date(ts) as day, from_unixtime(0) as epoch, "
        "date_format(ts, '%Y-%m-%d %H:%i:%s') as local from t"
    )
    with server_has(timed, time_zone=zone), opened(url) as source:
        facts, read = asked(source, query, "id")
        assert any("time zone" in one for one in facts.warnings) is (zone != "+00:00")
        assert [str(c.type.kind.value) for c in facts.columns if c.type][1] == "timestamp_utc"
        got = {row[0]: row for row in exported(source, read)}
        expected = {row[0]: row for row in told(url, query)}
        for i, ts in enumerate(MOMENTS, 1):
            assert got[i][1] == utc(ts)
            assert got[i][2:] == expected[i][2:]
        assert got[99][1] is None
        # The same rows by ranges of the moment itself, an hour that is there twice among them.
        _, read = asked(source, query, "ts")
        cuts = [None, *((text,) for text in sorted(FOLD)), None]
        found: list[int] = []
        for low, high in itertools.pairwise(cuts):
            chunk = ChunkRange(kind=RangeKind.SPAN, columns=("ts",), lower=low, upper=high)
            found += [row[0] for row in exported(source, read, chunk)]
        assert sorted(found) == list(range(1, len(MOMENTS) + 1))


@pytest.mark.parametrize("mode", ["", "NO_ZERO_DATE"])
def test_a_zero_timestamp_of_a_query_is_never_null_without_a_word(timed, url, mode) -> None:
    timed.execute("INSERT INTO t VALUES (100, 0, 0)")
    with server_has(timed, time_zone="+05:30", sql_mode=mode), opened(url) as source:
        _, read = asked(source, "select id, ts from t")
        with pytest.raises(SourceError) as lost:
            exported(source, read)
        assert "column ts" in str(lost.value) or "zero TIMESTAMP" in str(lost.value.hint)


def test_the_newest_moment_of_a_query_is_the_newest_in_utc(timed, url, tmp_path) -> None:
    """Incremental, with the mark in the hour that is there twice: nothing lost, nothing doubled."""
    timed.execute("DELETE FROM t WHERE ts > '2024-10-27 02:00:00' OR ts IS NULL")
    timed.execute("UPDATE t SET ts = '2024-10-27 00:30:00' WHERE id = 3")
    timed.execute("DELETE FROM t WHERE id = 2")
    desk = Desk(folder=tmp_path, environment={"SRC": url})
    extra = "mode: incremental\n    cursor_column: ts"
    desk.write(config("'select id, ts, date(ts) as day from t'", extra))
    desk.cli("run")
    first = rows_of(desk)
    assert {row["id"]: row["ts"] for row in first}[1] == utc(FOLD[0])
    # Later, and an hour earlier on the clock of the wall.
    timed.execute("INSERT INTO t VALUES (7, '2024-10-27 01:10:00', NULL)")
    desk.cli("run")
    assert sorted(row["id"] for row in rows_of(desk)) == sorted([*(r["id"] for r in first), 7])


def test_a_table_is_read_in_utc_whatever_the_server_has(timed, url, tmp_path) -> None:
    desk = Desk(folder=tmp_path, environment={"SRC": url})
    desk.write(config("X").replace("query: X", "table: t"))
    with server_has(timed, time_zone="+05:30", sql_mode="ANSI_QUOTES,EMPTY_STRING_IS_NULL"):
        assert "time zone" not in desk.cli("check").said
        desk.cli("run")
    assert [row["ts"] for row in rows_of(desk)][: len(MOMENTS)] == [utc(ts) for ts in MOMENTS]


def test_a_view_or_a_virtual_column_that_is_computed_in_another_zone_is_named(timed, url) -> None:
    timed.execute("CREATE VIEW seen AS SELECT id, date(ts) AS day FROM t")
    timed.execute("CREATE TABLE made (id int PRIMARY KEY, ts timestamp, day date AS (date(ts)))")
    timed.execute("CREATE TABLE kept (id int PRIMARY KEY, n int AS (id + 1) STORED)")
    names = {"seen": "the view of", "made": "virtual column day of", "t": "", "kept": ""}
    with server_has(timed, time_zone="+02:00"), opened(url) as source:
        for name, what in names.items():
            warned = " ".join(facts_of(source, name).warnings)
            assert ("computed in our session" in warned) is bool(what), name
            assert not what or f"{what} shop.{name} is" in warned
            assert not what or "time_zone +02:00" in warned
    with server_has(timed, time_zone="+00:00"), opened(url) as source:
        assert not any("computed" in one for one in facts_of(source, "seen").warnings)
