"""xml, hstore and citext: types of a server with libxml and the contrib extensions.

The server that the other tests bring has neither; this needs Debian's ``postgresql-<n>`` (contrib
is part of it), and is skipped without one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from rivet_fleet.contracts.facts import FactsRequest
from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.demo import embedded
from rivet_fleet.execution.sources.postgres import ENGINE as POSTGRES
from rivet_fleet.planning.config.loaded import ValuePolicies
from rivet_fleet.planning.export_plan import plan_columns
from tests.integration.postgres_keys_kit import facts_of_key, fill, numbers, plan_of
from tests.integration.postgres_source_kit import read_all, read_plan, relation

INSTALLS = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
SQL = """
CREATE EXTENSION hstore; CREATE EXTENSION citext;
CREATE TABLE t (id int PRIMARY KEY, doc xml, pairs hstore, word citext UNIQUE NOT NULL);
INSERT INTO t VALUES (1, '<a b="1">é</a>', 'k=>"v w", n=>NULL', 'Straße'), (2, NULL, '', 'zoo');
"""


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if not INSTALLS:
        pytest.skip("no PostgreSQL with contrib in /usr/lib/postgresql")
    monkeypatch.setattr(embedded, "_readable_install", lambda major: INSTALLS[-1].parents[1])
    with embedded.embedded_postgres(settings={"fsync": "off"}) as server:
        yield server.create_database("contrib")


def test_they_are_refused_with_the_cast_that_carries_them_exactly(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SQL)
    source = POSTGRES.open_source(parse_database_url(url), application_name="rivet-test")
    try:
        request = FactsRequest(export_name="t", relation=relation("t"), query=None)
        plain = {column.name: column for column in source.introspect(request).columns}
        for name in ("doc", "pairs", "word"):
            assert plain[name].type is None, "never guessed"
            assert plain[name].cast_hint == "text"
        facts = source.introspect(
            FactsRequest(
                export_name="t", relation=relation("t"), query=None, unsupported_cast="text"
            )
        )
        policies = ValuePolicies(on_unrepresentable="fail", on_unsupported="text", on_lossy="warn")
        specs = plan_columns("t", facts, {}, policies).specs
        read = replace(read_plan(facts), columns=tuple(specs))
        rows = read_all(source, read, ChunkRange(kind=RangeKind.WHOLE)).to_pylist()
    finally:
        source.close()
    assert sorted(rows, key=lambda row: row["id"]) == [
        {"id": 1, "doc": '<a b="1">é</a>', "pairs": '"k"=>"v w", "n"=>NULL', "word": "Straße"},
        {"id": 2, "doc": None, "pairs": "", "word": "zoo"},
    ]


KEYS = {
    "ext.citext": "a B b2 C aa é z",
    "ext.ltree": "a a.b a.c B b.a",
    "ext.hstore": 'a=>1 a=>2 b=>"x"',
    "ext.cube": "(0,1) (0,2) (1.5,0.1)",
    "ext.isbn": "978-0-393-04002-9 978-0-11-000222-4",
    "ext.seg": "1.0 1.00 2..3 ~1.5",
}
COLLATIONS = ('"und-x-icu"', '"de-x-icu"', "loose", '"C"', "ucs_basic")


@pytest.mark.parametrize("path", ["''", "ext, public"])
def test_keys_of_extensions_and_of_icu_are_each_row_once(url: str, path: str) -> None:
    with psycopg.connect(url, autocommit=True) as sql:
        sql.execute(
            "CREATE SCHEMA ext; CREATE COLLATION loose (provider = icu, "
            "locale = 'und-u-ks-level2', deterministic = false)"
        )
        for name in ("citext", "ltree", "hstore", "cube", "isn", "seg"):
            sql.execute(f"CREATE EXTENSION {name} SCHEMA ext".encode())
        tables = {f"t{n}": one for n, one in enumerate((*KEYS, *COLLATIONS))}
        for table, one in tables.items():
            if one in KEYS:
                fill(sql, table, one, KEYS[one])
            else:
                fill(sql, table, "text", "a B c D é z zz", f"COLLATE {one}")
        orders = {
            table: [row[0] for row in sql.execute(f"SELECT v FROM {table} ORDER BY k".encode())]
            for table in tables
        }
        sql.execute(f"ALTER ROLE CURRENT_USER SET search_path = {path}".encode())
    source = POSTGRES.open_source(parse_database_url(url), application_name="rivet-test")
    try:
        for table, one in tables.items():
            facts = facts_of_key(source, table)
            assert [key.columns for key in facts.keys] == [("k",)], (one, facts.warnings)
            assert numbers(source, plan_of(facts)) == orders[table], one
    finally:
        source.close()
