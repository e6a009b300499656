"""A ``query:`` means what its user gets from the same SQL: the time zone and text forms of the
role, the database, the URL or the environment, in every page and after every restart; and what is
ours around it (keys, marks, casts) means the same in all of them.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest

from rivet_fleet.contracts.basis import BasisKind, Consequence, resting
from rivet_fleet.contracts.facts import FactsRequest, SourceFacts
from rivet_fleet.contracts.keys import ChunkRange, RangeKind, RelationName
from rivet_fleet.contracts.plan import ReadPlan, TuningPlan
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.contracts.window import NewestRequest
from rivet_fleet.demo.embedded import EmbeddedPostgres
from rivet_fleet.errors import ConfigError, SchemaDrift, SourceRefused
from rivet_fleet.execution.source import PageLimit, Source
from rivet_fleet.execution.sources.postgres import ENGINE as POSTGRES
from rivet_fleet.execution.sources.postgres.dialect import moment_literal, steady_text
from rivet_fleet.execution.sources.postgres.querysession import SEALED, question
from tests.integration.fleet_cli import Desk
from tests.integration.postgres_source_kit import drain, read_plan

Sql = psycopg.Connection[tuple[Any, ...]]
WHOLE = ChunkRange(kind=RangeKind.WHOLE)
SMALL = PageLimit(rows_max=2, bytes_max=1 << 20)
READER = "session_reader"
TABLE = r"""
CREATE TABLE t (id int PRIMARY KEY, ts timestamptz, w timestamp, d date, i interval, b bytea,
  f float8, n int, x text, m tstzrange);
INSERT INTO t SELECT k, '2024-10-27 00:30:00+00'::timestamptz + k * '1:10'::interval,
  '2024-03-04 23:59:59.5'::timestamp + k * '1 day'::interval, '2024-02-27'::date + k,
  make_interval(days => k - 3, secs => k * 3600.25),
  decode(lpad(to_hex(k), 2, '0') || '5c27ff', 'hex'), k / 3.0, nullif(k, 3), 'the cats ' || k,
  tstzrange('2024-01-01 00:00+00'::timestamptz + k * '1 h'::interval, NULL)
  FROM generate_series(1, 7) k;
CREATE TABLE guarded (id int PRIMARY KEY); INSERT INTO guarded VALUES (1), (2);
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON guarded USING (id > 1);
"""


@pytest.fixture(scope="module")
def owner(postgres: EmbeddedPostgres) -> Iterator[str]:
    url = postgres.create_database("query_sessions")
    with psycopg.connect(url, autocommit=True) as sql:
        sql.execute(TABLE.encode())
        sql.execute(f"CREATE ROLE {READER} LOGIN; GRANT SELECT ON t, guarded TO {READER}".encode())
        yield url
        sql.execute(f"DROP OWNED BY {READER}; DROP ROLE {READER}".encode())


@pytest.fixture(scope="module")
def sql(owner: str) -> Iterator[Sql]:
    with psycopg.connect(owner, autocommit=True) as connection:
        yield connection


@pytest.fixture
def url(owner: str, sql: Sql) -> Iterator[str]:
    yield owner.replace("//postgres@", f"//{READER}@")
    sql.execute(f"ALTER ROLE {READER} RESET ALL; ALTER DATABASE query_sessions RESET ALL".encode())


@contextmanager
def opened(url: str) -> Iterator[Source]:
    with closing(
        POSTGRES.open_source(parse_database_url(url), application_name="rivet-test")
    ) as source:
        yield source


def asked(
    source: Source, query: str, *keys: str, chunk: ChunkRange = WHOLE, casts=()
) -> tuple[SourceFacts, ReadPlan]:
    request = FactsRequest(
        export_name="q", relation=None, query=query, key_columns=keys, casts=casts
    )
    facts = source.introspect(request)
    read = read_plan(facts, casts=casts, query=query)
    return facts, replace(read, basis=resting(facts.basis, [chunk], None))


def told(url: str, query: str) -> list[tuple[Any, ...]]:
    """What a client of today's gets: a fresh session, nothing set."""
    with psycopg.connect(url) as connection:
        return sorted(connection.execute(query.encode()).fetchall(), key=repr)


def exported(source: Source, read: ReadPlan, chunk: ChunkRange = WHOLE) -> list[tuple[Any, ...]]:
    table = drain(source.open_chunk(read, chunk, TuningPlan()), SMALL)
    return sorted((tuple(row.values()) for row in table.to_pylist()), key=repr)


def by_key(name: str, low: str | None = None, high: str | None = None) -> ChunkRange:
    lower, upper = ((one,) if one is not None else None for one in (low, high))
    return ChunkRange(kind=RangeKind.KEYSET, columns=(name,), lower=lower, upper=upper)


# ---------------------------------------------------------------- every setting

IN_TEXT = "select id, ts::text as ts, w::text as w, d::text as d, ts::date as day from t"
MEANINGS = {
    "TimeZone": (
        "Asia/Kolkata",
        "select id, ts::date as day, ts::text as v, extract(hour from ts)::int as h from t",
    ),
    "DateStyle": ("SQL, DMY", "select id, '01/02/2026'::date as d, ts::text as v from t"),
    "IntervalStyle": (
        "sql_standard",
        "select id, i::text as v, '-1 2:03'::interval::text j from t",
    ),
    "timezone_abbreviations": ("India", "select id, '2024-01-01 0:00 IST'::timestamptz v from t"),
    "bytea_output": ("escape", "select id, b::text as v from t"),
    "extra_float_digits": ("-5", "select id, f::text as v from t"),
    "xmlbinary": ("hex", "select id, current_setting('xmlbinary') as v from t"),
    "xmloption": ("document", "select id, current_setting('xmloption') as v from t"),
    "array_nulls": ("off", "select id, ('{NULL,a}'::text[])[1] is null as v from t"),
    "quote_all_identifiers": ("on", "select id, quote_ident('a') as v from t"),
    "transform_null_equals": ("on", "select id, n = NULL as v from t"),
    "default_text_search_config": (
        "pg_catalog.simple",
        "select id, to_tsvector(x)::text as v from t",
    ),
    "row_security": ("off", "select id from guarded"),
    "lc_numeric": ("C", "select id, to_char(f, '9D99') as v, current_setting('lc_numeric') from t"),
    "lc_monetary": ("POSIX", "select id, current_setting('lc_monetary') as v from t"),
    "lc_time": ("POSIX", "select id, to_char(ts, 'TMMonth'), current_setting('lc_time') v from t"),
}
DATABASE, URL = ("TimeZone", "DateStyle"), ("TimeZone", "IntervalStyle")
PLACES = [
    *((name, "role") for name in MEANINGS),
    *((name, "database") for name in DATABASE),
    *((name, "url") for name in URL),
]


def test_every_sealed_setting_is_tried() -> None:
    assert set(MEANINGS) == set(SEALED)


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_a_query_is_read_in_the_session_its_user_has(sql, url, name, place) -> None:
    """Whole and by a key: as a fresh session of that user answers the same SQL."""
    value, query = MEANINGS[name]
    if place == "role":
        sql.execute(f"ALTER ROLE {READER} SET {name} = '{value}'".encode())
    elif place == "database":
        sql.execute(f"ALTER DATABASE query_sessions SET {name} = '{value}'".encode())
    else:
        url += f"?options=-c%20{name}%3D{value}"
    with opened(url) as source:
        try:
            expected = told(url, query)
        except psycopg.Error:
            with pytest.raises(SourceRefused):
                asked(source, query)
            return
        facts, read = asked(source, query, "id")
        assert dict(facts.session)[name] == value
        assert exported(source, read) == expected
        some = [row for row in expected if 2 <= row[0] < 6]
        assert exported(source, read, by_key("id", "2", "6")) == some
        said = any(f"{name} {value}" in one for one in facts.warnings)
        assert said is (SEALED[name].plain is not None)


def test_a_plain_session_needs_no_word(sql, url) -> None:
    sql.execute(f"ALTER ROLE {READER} SET TimeZone = 'Etc/UTC'".encode())
    with opened(url) as source:
        facts, _ = asked(source, "select id, ts from t")
        assert dict(facts.session)["TimeZone"] == "UTC"
        assert not any("session" in one for one in facts.warnings), facts.warnings


def test_a_table_is_read_in_ours(sql, url) -> None:
    sql.execute(f"ALTER ROLE {READER} SET TimeZone = 'Asia/Kolkata'".encode())
    with opened(url) as source:
        relation = RelationName(schema="public", name="t")
        facts = source.introspect(FactsRequest(export_name="t", relation=relation, query=None))
        assert facts.session == () and not any("session" in one for one in facts.warnings)


def test_a_limit_of_an_inverted_index_is_lifted_and_said(sql, url) -> None:
    sql.execute(f"ALTER ROLE {READER} SET gin_fuzzy_search_limit = 5".encode())
    with opened(url) as source:
        facts, _ = asked(source, "select id from t")
        assert any("gin_fuzzy_search_limit is 5" in one for one in facts.warnings)


def test_a_query_that_our_strings_would_change_is_refused(sql, url) -> None:
    sql.execute(f"ALTER ROLE {READER} SET standard_conforming_strings = off".encode())
    with opened(url) as source:
        with pytest.raises(ConfigError) as refused:
            asked(source, r"select id, 'a\'b' as v from t")
        assert refused.value.code == "RIVET_QUERY_STRINGS"
        query = r"select id, E'a\'b\\' as v from t"
        _, read = asked(source, query)
        assert exported(source, read) == told(url, query)


def test_strings_are_those_that_were_planned(sql, url) -> None:
    query = r"select id, 'a\\b' as v from t"
    expected = told(url, query)
    with opened(url) as source:
        _, read = asked(source, query)
    sql.execute(f"ALTER ROLE {READER} SET standard_conforming_strings = off".encode())
    assert told(url, query) != expected
    with opened(url) as source:
        assert exported(source, read) == expected


# ---------------------------------------------------------------- what is ours around the query

ELSEWHERE = (
    "SET TimeZone = 'America/New_York'",
    "SET DateStyle = 'Postgres, DMY'",
    "SET IntervalStyle = 'sql_standard'",
    "SET bytea_output = 'escape'",
    "SET extra_float_digits = -5",
)


@pytest.fixture
def elsewhere(sql: Sql, url: str) -> str:
    for one in ELSEWHERE:
        sql.execute(f"ALTER ROLE {READER} {one}".encode())
    return url


@pytest.mark.parametrize("key", ["ts", "w", "d", "b", "i", "m", "ms"])
def test_every_key_finds_each_row_once_in_any_session(elsewhere, key) -> None:
    query = "select id, ts, w, d, b, i, m, array[m] as ms from t"
    rng = random.Random(11)
    casts = (("m", "text"), ("ms", "text"))
    with opened(elsewhere) as source:
        facts, read = asked(source, query, key, casts=casts)
        (known,) = facts.keys
        cuts = [known.minimum, *known.boundaries, known.maximum]
        chosen = [one[0] for one in sorted(rng.sample(cuts, 3), key=cuts.index) if one]
        found: list[int] = []
        for low, high in itertools.pairwise([None, *dict.fromkeys(chosen), None]):
            found += [row[0] for row in exported(source, read, by_key(key, low, high))]
        assert sorted(found) == list(range(1, 8))


@pytest.mark.parametrize("columns", [("ts", "id"), ("w", "id"), ("d", "id")])
def test_a_mark_is_the_same_text_in_any_session(owner, elsewhere, columns) -> None:
    query = "select id, nullif(ts, ts) as none, ts, w, d from t"
    marks = []
    for url in (owner, elsewhere):
        with opened(url) as source:
            request = NewestRequest(relation=None, query=query, columns=columns)
            newest = source.newest(request).values
            assert newest is not None
            again = replace(request, above=newest, overlap_s=3600.0)
            falling = replace(request, columns=columns[:1], fallback=columns[0])
            found = (source.newest(one) for one in (again, falling))
            # Not how far the server has come, which is further each time.
            marks.append((newest, *(replace(one, position=None) for one in found)))
            assert marks[-1][1].values is None and not marks[-1][1].vacant
    assert marks[0] == marks[1]


def test_a_key_and_a_mark_are_those_of_the_querys_own_rows(elsewhere) -> None:
    query = "select id from t where d <= '02/03/2024'::date"  # the second of March, as it is DMY
    with opened(elsewhere) as source:
        assert asked(source, query, "id")[0].keys[0].maximum == ("4",)
        newest = source.newest(NewestRequest(relation=None, query=query, columns=("id",)))
        assert newest.values == ("4",)


def test_a_bound_without_a_zone_is_one_in_utc(elsewhere) -> None:
    with opened(elsewhere) as source:
        _, read = asked(source, "select id, ts from t", "ts")
        chunk = ChunkRange(
            kind=RangeKind.SPAN, columns=("ts",), lower=("2024-10-27 02:50:00",), upper=None
        )
        assert [row[0] for row in exported(source, read, chunk)] == [2, 3, 4, 5, 6, 7]


ALL = "select id, ts, w, d, b from t"
CASTS = (
    *(("ts", one) for one in ("text", "date", "timestamp")),
    *(("w", one) for one in ("text", "timestamptz", "date")),
    *(("d", one) for one in ("text", "timestamptz", "timestamp")),
    ("b", "text"),
)


def test_a_cast_of_ours_means_the_same_in_every_session(owner, elsewhere) -> None:
    for name, cast in CASTS:
        casts = ((name, cast),)
        with opened(owner) as source:
            plain = exported(source, asked(source, ALL, casts=casts)[1])
        with opened(elsewhere) as source:
            _, read = asked(source, ALL, casts=casts)
            assert exported(source, read) == plain, casts


def test_a_cast_that_the_session_writes_is_said(elsewhere) -> None:
    with opened(elsewhere) as source:
        casts = (("i", "text"), ("f", "text"), ("ts", "text"), ("id", "text"), ("m", "text"))
        facts, _ = asked(source, "select * from t", casts=casts)
        (said,) = [one for one in facts.warnings if "written by the query's session" in one]
        assert said.startswith("columns i, f, m:")


def test_steady_texts_are_those_of_a_plain_session(sql) -> None:
    """Before our era, without end, with and without a fraction, in every style."""
    rng = random.Random(5)
    micros = [
        rng.randrange(-210_000_000_000_000_000, 9_000_000_000_000_000_000) for _ in range(300)
    ]
    spread = [0, 1, 500_000, -1, 253_402_300_800_000_000, -62_135_596_800_000_001, *micros]
    listed = ", ".join(f"({one})" for one in spread)
    moments = (
        "(SELECT '2000-01-01 00:00+00'::timestamptz + v * '1 us'::interval AS v FROM "
        f"(VALUES {listed}) AS s(v) UNION ALL SELECT 'infinity' UNION ALL SELECT '-infinity') s"
    )
    kinds = {
        "timestamptz": "v",
        "timestamp": "v AT TIME ZONE 'UTC'",
        "date": "(v AT TIME ZONE 'UTC')::date",
    }
    try:
        for kind, value in kinds.items():
            sql.execute("SET TimeZone = 'UTC'; SET DateStyle = 'ISO, MDY'")
            plain = sql.execute(f"SELECT ({value})::text FROM {moments}".encode()).fetchall()
            sql.execute("SET TimeZone = 'Africa/Monrovia'; SET DateStyle = 'German, DMY'")
            steady = steady_text(kind, f"({value})")
            assert sql.execute(f"SELECT {steady} FROM {moments}".encode()).fetchall() == plain
            again = ", ".join(f"{moment_literal(one)}::{kind}" for (one,) in plain)
            same = f"SELECT bool_and(a = b) FROM unnest(ARRAY(SELECT {value} FROM {moments}), "
            same += f"ARRAY[{again}]) AS u(a, b)"
            assert sql.execute(same.encode()).fetchone() == (True,)
    finally:
        sql.execute("RESET TimeZone; RESET DateStyle")


# ---------------------------------------------------------------- sealed


def test_the_planned_session_counts_whatever_the_defaults_are_by_then(
    sql, elsewhere, monkeypatch
) -> None:
    query = IN_TEXT + " order by id"
    expected = told(elsewhere, query)
    with opened(elsewhere) as source:
        _, read = asked(source, query, "id")
        reader = source.open_chunk(read, WHOLE, TuningPlan())
        assert reader.prove() == ()
    sql.execute(f"ALTER ROLE {READER} SET DateStyle = 'German, DMY'".encode())
    monkeypatch.setenv("PGTZ", "Asia/Kolkata")
    assert told(elsewhere, query) != expected
    with opened(elsewhere) as source:
        for chunk in (WHOLE, by_key("id")):
            assert exported(source, read, chunk) == expected
        # A count is asked in the session of the pages: to them this is the second of March.
        counted = "select id from t where d < '02/03/2024'::date"
        other = replace(asked(source, counted)[1], session=read.session)
        assert source.count_rows(other, WHOLE, 10.0) == len(exported(source, other)) == 3
        differences = source.open_chunk(read, WHOLE, TuningPlan()).prove()
    assert {one.subject for one in differences} == {"TimeZone", "DateStyle"}
    assert {one.consequence for one in differences} == {Consequence.TOLD}
    assert {one.kind for one in differences} == {BasisKind.SESSION}
    said = " ".join(one.sentence for one in differences)
    assert "was America/New_York and is now Asia/Kolkata" in said


def test_a_plan_of_an_older_program_is_read_as_it_was_planned(elsewhere) -> None:
    with opened(elsewhere) as source:
        _, read = asked(source, IN_TEXT, "ts")
        older = replace(read, session=())
        assert "2024-10-27 01:40:00+00" in {row[1] for row in exported(source, older)}
        assert source.open_chunk(older, WHOLE, TuningPlan()).prove() == ()


def test_settings_of_an_application_are_compared_and_not_shown(sql, url) -> None:
    query = "select id from t where id > coalesce(current_setting('app.tenant', true), '0')::int"
    sql.execute(f"ALTER ROLE {READER} SET app.tenant = '4321'".encode())
    with opened(url) as source:
        _, read = asked(source, query)
        assert "app.tenant" in repr(read.basis) and "4321" not in repr(read)
        sql.execute(f"ALTER ROLE {READER} SET auto_explain.log_analyze = 'on'".encode())
        assert source.open_chunk(read, WHOLE, TuningPlan()).prove() == ()
        sql.execute(f"ALTER ROLE {READER} SET app.tenant = '2'".encode())
        with pytest.raises(SchemaDrift, match="of names with a dot"):
            source.open_chunk(read, WHOLE, TuningPlan())


def test_in_a_shared_session_only_what_is_kept_for_each_client_counts(sql) -> None:
    """Behind a pooler others may have left settings of theirs."""
    sql.execute("SET TimeZone = 'Asia/Kolkata'; SET bytea_output = 'escape'")
    try:
        shared = dict(sql.execute(question(shared=True).encode()).fetchall())
        ours = dict(sql.execute(question(shared=False).encode()).fetchall())
    finally:
        sql.execute("RESET TimeZone; RESET bytea_output")
    assert (shared["TimeZone"], shared["bytea_output"]) == ("Asia/Kolkata", "hex")
    assert (ours["TimeZone"], ours["bytea_output"]) == ("Asia/Kolkata", "escape")


def test_a_campaign_goes_on_in_the_planned_session_and_says_so(
    sql, elsewhere, tmp_path: Path
) -> None:
    desk = Desk(folder=tmp_path, environment={"SRC": elsewhere})
    desk.write(
        "source: {type: postgres, url_env: SRC}\ncampaign: {workers: 1}\nexports:\n"
        f'  - {{name: q, query: "{IN_TEXT}", format: parquet,\n'
        "     destination: {type: local, path: ./out/q}}\n"
    )
    path = tmp_path / "plan.json"
    said = desk.cli("plan", "-o", str(path)).said
    assert "TimeZone America/New_York" in said and "DateStyle Postgres, DMY" in said
    expected = told(elsewhere, IN_TEXT)
    sql.execute(f"ALTER ROLE {READER} SET DateStyle = 'German, DMY'".encode())
    desk.environment["PGTZ"] = "Asia/Kolkata"
    desk.bare("apply", str(path))
    events = [one for one in desk.cli("journal", "--json").json if one["event"] == "source.changed"]
    assert {one["data"]["subject"] for one in events} == {"TimeZone", "DateStyle"}
    parts = sorted(desk.out.glob("q/*/*.parquet"))
    rows = [tuple(row.values()) for part in parts for row in pq.read_table(part).to_pylist()]
    assert sorted(rows, key=repr) == expected


def test_a_view_or_a_policy_that_is_computed_in_another_zone_is_named(sql, url) -> None:
    """What a table's rows are no setting decides; what a view makes of them is computed anew."""
    sql.execute("CREATE VIEW seen AS SELECT id, ts::date AS day FROM t")
    sql.execute(f"GRANT SELECT ON seen TO {READER}".encode())
    computed = {"seen": "the view of", "guarded": "row-level security of", "t": None}

    def said(name: str) -> str:
        with opened(url) as source:
            relation = RelationName(schema="public", name=name)
            request = FactsRequest(export_name=name, relation=relation, query=None)
            return " ".join(source.introspect(request).warnings)

    assert not any("in our session" in said(name) for name in computed)
    sql.execute(f"ALTER ROLE {READER} SET TimeZone = 'Asia/Kolkata'".encode())
    for name, what in computed.items():
        words = f"{what} public.{name} is computed in our session (TimeZone UTC"
        named = words in said(name) and "TimeZone Asia/Kolkata: " in said(name)
        assert named is (what is not None), name
