"""Keys whose operators, literals or bytes are not what their names say."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pyarrow.parquet as pq
import pytest

from rivet_fleet.contracts.facts import FactsRequest
from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.contracts.window import NewestRequest, RowWindow, WindowBound
from rivet_fleet.demo.embedded import EmbeddedPostgres
from rivet_fleet.errors import SourceRefused
from rivet_fleet.execution.source import Source
from rivet_fleet.execution.sources.postgres import ENGINE as POSTGRES
from rivet_fleet.execution.sources.postgres.keyorder import Keys, key_orders
from tests.integration.fleet_cli import Desk
from tests.integration.postgres_keys_kit import (
    HOSTILE,
    OWN_TYPE,
    Sql,
    facts_of_key,
    numbers,
    plan_of,
)
from tests.integration.postgres_source_kit import (
    drain,
    facts_of,
    read_plan,
    relation,
    source,
    sql,
)

__all__ = ["source", "sql"]

PEOPLE = """
CREATE TABLE people (email ext.ci PRIMARY KEY, v int);
INSERT INTO people SELECT CASE WHEN g % 2 = 0 THEN upper(md5(g::text)) ELSE md5(g::text) END, g
  FROM generate_series(1, 3000) g;
CREATE TABLE pairs (a ext.ci NOT NULL, b int NOT NULL, v int, PRIMARY KEY (a, b));
INSERT INTO pairs SELECT CASE WHEN g % 2 = 0 THEN upper(md5((g/3)::text)) ELSE md5((g/3)::text) END,
  g, g FROM generate_series(1, 3000) g;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO PUBLIC; ANALYZE;
"""


@pytest.fixture
def reader(database: str, sql: Sql) -> Iterator[str]:
    """A role whose search path holds nothing, as the usual hardening has it; its URL."""
    sql.execute((OWN_TYPE + HOSTILE + PEOPLE).encode())
    name = f"keys_{sql.info.dbname}"
    sql.execute(f"CREATE ROLE {name} LOGIN; ALTER ROLE {name} SET search_path = ''".encode())
    yield database.replace("//postgres@", f"//{name}@")
    sql.execute(f"DROP OWNED BY {name}; DROP ROLE {name}".encode())


def _config(
    desk: Desk, *exports: str, defaults: str = "on_unsupported: text", source: str = ""
) -> None:
    body = "".join(
        f"  - {{{one}, format: parquet, destination: {{type: local, path: out/"
        f"{one.partition(',')[0].removeprefix('name: ')}}}}}\n"
        for one in exports
    )
    desk.write(
        f"source: {{type: postgres, url_env: SHOP_URL{source}}}\n"
        f"defaults: {{{defaults}}}\nexports:\n{body}"
    )


def _values(desk: Desk, export: str, column: str = "v") -> list[int]:
    found: list[int] = []
    for success in sorted((desk.out / export).glob("*/_SUCCESS")):
        for part in sorted(success.parent.glob("*.parquet")):
            found += pq.read_table(part, columns=[column]).column(column).to_pylist()
    return sorted(found)


# ---------------------------------------------------------------- one operator


def test_a_key_type_outside_the_search_path_is_delivered_whole(reader: str, tmp_path: Path) -> None:
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": reader})
    _config(
        desk,
        "name: people, table: public.people",
        "name: pairs, table: public.pairs",
        "name: people4, table: public.people, mode: chunked, chunk_count: 4",
        "name: pairs4, table: public.pairs, mode: chunked, chunk_count: 4",
        source=", tuning: {batch_size: 300}",
    )
    done = desk.cli("run", "--workers", "1")
    for export in ("people", "pairs", "people4", "pairs4"):
        assert _values(desk, export) == list(range(1, 3001)), done.said


@pytest.mark.parametrize("path", ["''", "ext, public", "evil, pg_catalog"])
def test_pages_of_a_few_rows_are_each_row_once(sql: Sql, reader: str, path: str) -> None:
    role = parse_database_url(reader).user
    sql.execute(f"ALTER ROLE {role} SET search_path = {path}".encode())
    opened = POSTGRES.open_source(parse_database_url(reader), application_name="rivet-test")
    for table, columns in (("people", ("email",)), ("pairs", ("a", "b"))):
        facts = facts_of_key(opened, table)
        assert [key.columns for key in facts.keys] == [columns], facts.warnings
        read = plan_of(facts)
        cuts = [None, *facts.keys[0].boundaries, None]
        found: list[int] = []
        for low, high in itertools.pairwise(cuts):
            found += numbers(opened, read, columns, rows=100, lower=low, upper=high)
        order = ", ".join(columns)
        assert found == [
            row[0] for row in sql.execute(f"SELECT v FROM {table} ORDER BY {order}".encode())
        ]
    opened.close()


def test_a_window_is_drawn_and_read_by_the_cursors_own_operators(sql: Sql, reader: str) -> None:
    opened = POSTGRES.open_source(parse_database_url(reader), application_name="rivet-test")
    name = relation("people")
    newest = opened.newest(NewestRequest(relation=name, query=None, columns=("email",)))
    last = sql.execute(
        "SELECT p.email::text FROM people p ORDER BY p.email DESC LIMIT 1"
    ).fetchone()
    assert newest.values == last
    middle = sql.execute("SELECT p.email::text FROM people p ORDER BY p.email OFFSET 1500 LIMIT 1")
    (text,) = middle.fetchone() or ("",)
    above = NewestRequest(relation=name, query=None, columns=("email",), above=(str(text),))
    assert opened.newest(above).values == last
    read = plan_of(facts_of_key(opened, "people"))
    window = RowWindow(columns=("email",), lower=WindowBound(values=(str(text),), inclusive=False))
    assert len(numbers(opened, replace(read, window=window), ("email",), rows=50)) == 1499
    opened.close()


def test_pages_are_read_from_the_keys_index(sql: Sql, reader: str) -> None:
    sql.execute("SET enable_seqscan = off; SET enable_sort = off; SET enable_bitmapscan = off")
    sql.execute("SET search_path = public, ext")  # for the look alone
    sql.execute("CREATE TABLE codes (k varchar(40) PRIMARY KEY); INSERT INTO codes VALUES ('a')")
    for table, names, condition in (
        ("people", ("email",), "email > "),
        ("pairs", ("a", "b"), "a >= "),
        ("codes", ("k",), "k > "),
    ):
        rows = sql.execute(
            "SELECT attname, atttypid FROM pg_attribute WHERE attrelid = %s::regclass "
            "AND attnum > 0",
            [table],
        ).fetchall()
        with psycopg.connect(reader) as look:
            orders = key_orders(look.cursor(), [(str(name), int(str(oid))) for name, oid in rows])
        keys = Keys(orders)
        where = keys.row_comparison(names, ">", ("abc", "7")[: len(names)])
        sql_text = (
            f"EXPLAIN (COSTS OFF) SELECT 1 FROM {table} AS _rivet WHERE {where} "
            f"ORDER BY {keys.key_list(names)} LIMIT 5"
        )
        plan = "\n".join(str(row[0]) for row in sql.execute(sql_text.encode()))
        assert "Sort" not in plan, plan
        assert f"Index Cond: ({condition}" in plan, plan


def test_a_key_that_the_server_does_not_compare_is_left_out(sql: Sql, reader: str) -> None:
    """Its values have a text and an index; what a page would ask is refused."""
    sql.execute("REVOKE EXECUTE ON FUNCTION ext.ci_3 FROM PUBLIC")  # >=
    opened = POSTGRES.open_source(parse_database_url(reader), application_name="rivet-test")
    facts = facts_of_key(opened, "people")
    opened.close()
    assert facts.keys == () and any(
        "key (email) is left out" in one and "permission denied" in one for one in facts.warnings
    )


def test_an_index_of_another_class_is_no_key(sql: Sql, reader: str) -> None:
    """text's class on a type of another order: whole to the eye, ordered otherwise."""
    sql.execute(
        "CREATE TABLE other (k ext.ci NOT NULL, v int); CREATE UNIQUE INDEX ON other (k text_ops);"
        "INSERT INTO other VALUES ('a', 1), ('B', 2), ('C', 3); GRANT SELECT ON other TO PUBLIC"
    )
    opened = POSTGRES.open_source(parse_database_url(reader), application_name="rivet-test")
    facts = facts_of_key(opened, "other")
    assert not facts.keys and not facts.indexes[0].ordered
    opened.close()


# ---------------------------------------------------------------- keys without a literal


def test_keys_without_an_exact_literal_are_read_another_way(
    sql: Sql, database: str, tmp_path: Path
) -> None:
    sql.execute(
        'CREATE TABLE k_char (k "char" PRIMARY KEY, v int);'
        'INSERT INTO k_char SELECT chr(33 + g)::"char", g FROM generate_series(0, 89) g;'
        "CREATE TYPE pair AS (a int, b text); CREATE TABLE k_pair (k pair PRIMARY KEY, v int);"
        "INSERT INTO k_pair SELECT row(g, 'x')::pair, g FROM generate_series(0, 99) g; ANALYZE"
    )
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": database})
    exports = [
        f"name: {table}, table: {table}, mode: chunked, chunk_count: 3"
        for table in ("k_char", "k_pair")
    ]
    _config(desk, *exports)
    desk.cli("run", "--workers", "1")
    assert _values(desk, "k_char") == list(range(90))
    assert _values(desk, "k_pair") == list(range(100))
    _config(desk, "name: k_char, table: k_char, mode: chunked, chunk_by_key: k")
    desk.refused("plan", code=1, named="k_char", hint="")


LYING = """
CREATE TYPE lie;
CREATE FUNCTION lie_in(cstring) RETURNS lie LANGUAGE internal IMMUTABLE STRICT AS 'int4in';
CREATE FUNCTION lie_out(lie) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'int4out';
CREATE TYPE lie (INPUT = lie_in, OUTPUT = lie_out, LIKE = int4);
CREATE FUNCTION said(lie) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT '7'::text $$;
CREATE CAST (lie AS text) WITH FUNCTION said(lie);
CREATE TABLE lies (k lie NOT NULL, v int);
INSERT INTO lies SELECT g::text::lie, g FROM generate_series(1, 50) g; ANALYZE lies;
CREATE FUNCTION lie_cmp(lie, lie) RETURNS int4 LANGUAGE internal IMMUTABLE STRICT AS 'btint4cmp';
""" + "".join(
    f"CREATE FUNCTION lie_{name}(lie, lie) RETURNS bool LANGUAGE internal IMMUTABLE STRICT AS "
    f"'int4{name}'; CREATE OPERATOR {sign} (LEFTARG = lie, RIGHTARG = lie, FUNCTION = lie_{name});"
    for name, sign in (("lt", "<"), ("le", "<="), ("eq", "="), ("ge", ">="), ("gt", ">"))
)
LYING += """
CREATE OPERATOR CLASS lie_ops DEFAULT FOR TYPE lie USING btree AS OPERATOR 1 <, OPERATOR 2 <=,
  OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 lie_cmp(lie, lie);
CREATE UNIQUE INDEX ON lies (k);
"""


def test_a_value_whose_text_is_another_values_is_no_key(sql: Sql, source: Source) -> None:
    sql.execute(LYING.encode())
    facts = facts_of_key(source, "lies")
    assert not facts.keys
    (index,) = facts.indexes
    assert "read back as another value" in (index.obstacle or "")
    assert any("export lies" in warning and "(k)" in warning for warning in facts.warnings)
    with pytest.raises(SourceRefused, match=r"export lies: key \(k\) cannot be one"):
        facts_of_key(source, "lies", "k")


# ---------------------------------------------------------------- bytes that are no UTF-8


@pytest.fixture
def unchecked(postgres: EmbeddedPostgres, database: str) -> Iterator[str]:
    """The URL of an SQL_ASCII database."""
    name = f"ascii_{database.rpartition('/')[2]}"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0".encode()
        )
    yield f"{database.rpartition('/')[0]}/{name}"


STRANGE = """
CREATE TABLE kt (k text PRIMARY KEY, v int);
INSERT INTO kt SELECT convert_from(decode(to_hex(225 + g % 9), 'hex')
  || convert_to(g::text, 'SQL_ASCII'), 'SQL_ASCII'), g FROM generate_series(1, 3000) g;
INSERT INTO kt VALUES ('plain', 0);
CREATE TABLE kv (v int PRIMARY KEY, t text); INSERT INTO kv SELECT v, k FROM kt; ANALYZE;
"""


def test_keys_of_unchecked_bytes_are_followed(unchecked: str, tmp_path: Path) -> None:
    with psycopg.connect(unchecked, autocommit=True) as connection:
        connection.execute(STRANGE)
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": unchecked})
    _config(
        desk,
        "name: kt, table: kt, mode: full",
        "name: kt3, table: kt, mode: chunked, chunk_by_key: k, chunk_count: 3",
        "name: kv, table: kv",
        defaults="on_unrepresentable: coerce",
    )
    done = desk.cli("run", "--workers", "1")
    for export in ("kt", "kt3", "kv"):
        assert _values(desk, export) == list(range(3001)), done.said
    assert "\0" not in desk.cli("status").out


@pytest.mark.parametrize("encoding", ["LATIN1", "EUC_JP", "WIN1252"])
def test_keys_of_another_encoding_come_back_as_they_went(
    postgres: EmbeddedPostgres, database: str, encoding: str
) -> None:
    name = f"enc_{encoding.lower()}_{database.rpartition('/')[2]}"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0".encode()
        )
    url = f"{database.rpartition('/')[0]}/{name}"
    letters = "あいう亜" if encoding == "EUC_JP" else "äöüß"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (k varchar(9) PRIMARY KEY, v int)")
        for number, (a, b) in enumerate(itertools.product(letters + "az", repeat=2)):
            connection.execute("INSERT INTO t VALUES (%s, %s)", [a + b, number])
        connection.execute("ANALYZE t")
        order = [row[0] for row in connection.execute("SELECT v FROM t ORDER BY k")]
    opened = POSTGRES.open_source(parse_database_url(url), application_name="rivet-test")
    facts = facts_of(opened, "t", boundaries=5)
    for cut in facts.keys[0].boundaries:
        halves = numbers(opened, plan_of(facts), rows=3, upper=cut)
        assert halves + numbers(opened, plan_of(facts), rows=3, lower=cut) == order
    assert facts.keys[0].boundaries
    opened.close()


# ---------------------------------------------------------------- names that are captured


def test_nothing_of_a_table_is_read_by_names_of_another_schema(
    sql: Sql, reader: str, database: str
) -> None:
    sql.execute(
        "CREATE TABLE t (id int PRIMARY KEY, at timestamptz NOT NULL, n numeric, w text);"
        "INSERT INTO t SELECT i, '2024-01-01'::timestamptz + i * interval '1 min', i, 'wwwwwwwwww' "
        "FROM generate_series(1, 2000) i; CREATE INDEX ON t (at); GRANT SELECT ON t TO PUBLIC;"
        "CREATE TABLE heap AS SELECT id AS v FROM t; GRANT SELECT ON heap TO PUBLIC; ANALYZE"
    )
    role = parse_database_url(reader).user
    plain = POSTGRES.open_source(parse_database_url(database), application_name="rivet-test")
    casts = (("n", "text"), ("at", "date"))
    wanted = facts_of(plain, "t", casts=casts)
    sql.execute(f"ALTER ROLE {role} SET search_path = evil, pg_catalog".encode())
    opened = POSTGRES.open_source(parse_database_url(reader), application_name="rivet-test")
    found = facts_of(opened, "t", casts=casts)
    assert replace(found, basis=()) == replace(wanted, basis=())  # which names the role
    newest = NewestRequest(
        relation=relation("t"),
        query=None,
        columns=("at", "id"),
        above=("2024-01-01 00:00:00+00", "1"),
        overlap_s=60.0,
    )
    assert opened.newest(newest) == plain.newest(newest)
    assert opened.list_relations().relations == plain.list_relations().relations
    assert opened.describe_server().database == plain.describe_server().database
    for chunk in (
        ChunkRange(kind=RangeKind.SPAN, columns=("id",), lower=("5",), upper=("1500",)),
        ChunkRange(kind=RangeKind.WINDOW, columns=("at",), lower=("2024-01-01 01:00:00",)),
        ChunkRange(kind=RangeKind.KEYSET, columns=("id",), lower=("1990",)),
        ChunkRange(kind=RangeKind.WHOLE),
    ):
        read = read_plan(wanted, casts)
        theirs = drain(opened.open_chunk(read, chunk, TuningPlan()))
        ours = drain(plain.open_chunk(read, chunk, TuningPlan()))
        assert theirs.num_rows == ours.num_rows and theirs.equals(ours)
    heap = facts_of(opened, "heap")
    blocks = ChunkRange(kind=RangeKind.BLOCKS, relation=relation("heap"), block_first=0)
    assert drain(opened.open_chunk(read_plan(heap), blocks, TuningPlan())).num_rows == 2000
    plain.close()
    opened.close()


def test_a_query_still_means_what_it_names_on_the_users_path(sql: Sql, reader: str) -> None:
    sql.execute(
        "CREATE SCHEMA app; CREATE TABLE app.t AS SELECT 1 AS v; "
        "CREATE FUNCTION app.twice(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2';"
        "GRANT USAGE ON SCHEMA app TO PUBLIC; GRANT SELECT ON app.t TO PUBLIC"
    )
    role = parse_database_url(reader).user
    sql.execute(f"ALTER ROLE {role} SET search_path = app".encode())
    opened = POSTGRES.open_source(parse_database_url(reader), application_name="rivet-test")
    query = "SELECT twice(v) AS v FROM t"
    facts = opened.introspect(FactsRequest(export_name="q", relation=None, query=query))
    reading = opened.open_chunk(
        read_plan(facts, query=query), ChunkRange(kind=RangeKind.WHOLE), TuningPlan()
    )
    assert drain(reading).column("v").to_pylist() == [2]
    unqualified = relation("t", schema="")
    found = opened.introspect(FactsRequest(export_name="t", relation=unqualified, query=None))
    assert found.relation == relation("t", schema="app")
    opened.close()
