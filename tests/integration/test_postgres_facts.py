"""Facts about PostgreSQL tables, views and queries, from a real server."""

from __future__ import annotations

import itertools

import psycopg
import pytest

from rivet_fleet.contracts.columns import TypeKind
from rivet_fleet.contracts.facts import FactsRequest, KeyFacts, SourceFacts
from rivet_fleet.contracts.keys import ChunkRange, RangeKind, RelationName
from rivet_fleet.errors import RelationLocked, SourceRefused, UnsupportedType
from rivet_fleet.execution.source import Source
from rivet_fleet.execution.sources.postgres.liveness import WatchedCursor
from rivet_fleet.planning.export_plan import refused_casts
from tests.integration.postgres_source_kit import (
    facts_of,
    read_all,
    read_plan,
    relation,
    source,
    sql,
)

__all__ = ["source", "sql"]

WHOLE = ChunkRange(kind=RangeKind.WHOLE)


def test_which_indexes_are_keys(sql, source) -> None:
    sql.execute(
        "CREATE TABLE t (a int NOT NULL, b text NOT NULL, c int, f float8 NOT NULL, "
        '"Mixed Ünï" int NOT NULL)'
    )
    sql.execute('CREATE UNIQUE INDEX good ON t ("Mixed Ünï") INCLUDE (c)')
    sql.execute("CREATE UNIQUE INDEX descending ON t (a DESC, b DESC)")
    for name, body in {
        "mixed": "(a, b DESC)",
        "nullable": "(c)",
        "partial": "(a) WHERE a > 0",
        "expression": "(lower(b))",
        "pattern": "(b text_pattern_ops)",
        "floating": "(f)",
    }.items():
        sql.execute(f"CREATE UNIQUE INDEX {name} ON t {body}")
    sql.execute("CREATE INDEX hashed ON t USING hash (a)")
    sql.execute("INSERT INTO t SELECT 1, 'x', 2, 1.5, 7")
    invalid = "UPDATE pg_index SET indisvalid = {} WHERE indexrelid = 'descending'::regclass"
    sql.execute(invalid.format("false"))
    facts = facts_of(source, "t")
    assert [key.columns for key in facts.keys] == [("Mixed Ünï",)]
    by_name = {index.name: index for index in facts.indexes}
    assert by_name["partial"].partial and by_name["expression"].expression
    assert not by_name["descending"].valid and not by_name["hashed"].ordered
    assert not by_name["mixed"].ordered and not by_name["pattern"].ordered
    assert by_name["good"].columns == ("Mixed Ünï",)
    sql.execute(invalid.format("true"))
    assert {key.columns for key in facts_of(source, "t").keys} == {("Mixed Ünï",), ("a", "b")}


@pytest.mark.parametrize("query", [None, "SELECT id, p, n FROM t"])
def test_a_cast_that_the_server_does_not_have_is_its_columns_own_trouble(
    sql, source, query
) -> None:
    """Named with its export, and the others of the table are described all the same."""
    sql.execute("CREATE TABLE t (id int PRIMARY KEY, p point, n numeric); INSERT INTO t VALUES (1)")
    request = FactsRequest(
        export_name="spots",
        relation=relation("t") if query is None else None,
        query=query,
        key_columns=("id",),
        casts=(("n", "decimal(10,2)"), ("p", "date")),
    )
    facts = source.introspect(request)
    assert [one.name for one in facts.columns if one.cast_refused] == ["p"]
    assert facts.keys[0].minimum == ("1",) and facts.columns[2].type is not None
    refusal = refused_casts("spots", facts)
    assert refusal is not None
    assert "spots.p (point): this server cannot read it as date" in refusal.message
    assert "cannot cast type point to date" in refusal.message
    assert "columns: {p: text}" in refusal.message


def test_columns_of_every_kind_and_their_overrides(sql, source) -> None:
    sql.execute("CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN price AS numeric(12,2)")
    sql.execute(
        "CREATE TABLE t (e mood, p price, u numeric, m money, i inet, j jsonb, a mood[], "
        "r int4range, c char(5), d numeric(5,-2), s numeric(3,5), x oid, vv int2vector, "
        "n numeric(60,20)[])"
    )
    sql.execute("COMMENT ON COLUMN t.c IS 'padded'")
    casts = (("u", "decimal(20,4)"), ("m", "text"), ("i", "string"), ("c", "string"))
    plain = {c.name: c for c in facts_of(source, "t").columns}
    assert {name for name, c in plain.items() if c.type is None} == {"u", "m", "i", "r", "vv"}
    assert plain["u"].cast_hint == "decimal(38,10)" and plain["m"].cast_hint == "text"
    for name, expected in {"p": (12, 2), "d": (7, 0), "s": (5, 5)}.items():
        found = plain[name].type
        assert found is not None and (found.precision, found.scale) == expected
    assert plain["c"].comment == "padded" and plain["p"].native_type == "price"
    sql.execute("ALTER TABLE t DROP r, DROP vv")
    sql.execute(
        "INSERT INTO t VALUES ('ok', 1.5, 1.2345, 3.5, '10.0.0.1', '{\"k\": 1}', '{sad,NULL}', "
        "'ab', 1234567, 0.00123, 4000000000, '{1.5,NULL}')"
    )
    facts = facts_of(source, "t", casts=casts)
    order = {one.name: one.compared for one in facts.columns if one.uncast}
    assert order == {"u": TypeKind.DECIMAL, **dict.fromkeys("mic", TypeKind.STRING)}
    (row,) = read_all(source, read_plan(facts, casts), WHOLE).to_pylist()
    assert {name: str(value) for name, value in row.items()} == {
        "e": "ok",
        "p": "1.50",
        "u": "1.2345",
        "m": "$3.50",
        "i": "10.0.0.1/32",
        "j": '{"k": 1}',
        "a": "['sad', None]",
        "c": "ab   ",
        "d": "1234600",
        "s": "0.00123",
        "x": "4000000000",
        "n": "[Decimal('1.50000000000000000000'), None]",
    }
    sql.execute("UPDATE t SET u = 1.23456")
    with pytest.raises(UnsupportedType, match="column u"):
        read_all(source, read_plan(facts, casts), WHOLE)


def test_a_not_null_that_was_never_validated_is_nullable(sql, source) -> None:
    sql.execute("CREATE TABLE t (n int)")
    sql.execute("INSERT INTO t VALUES (NULL)")
    sql.execute("ALTER TABLE t ADD CONSTRAINT c NOT NULL n NOT VALID")
    facts = facts_of(source, "t")
    assert facts.columns[0].nullable
    assert read_all(source, read_plan(facts), WHOLE).column("n").to_pylist() == [None]


def test_views_have_no_heap_and_an_estimate(sql, source) -> None:
    sql.execute("CREATE TABLE t (n int PRIMARY KEY)")
    sql.execute("INSERT INTO t SELECT i FROM generate_series(1, 3000) i")
    unknown = facts_of(source, "t")
    assert unknown.row_estimate_provenance == "size" and unknown.row_estimate
    assert unknown.keys[0].provenance == "sample"
    sql.execute("ANALYZE t")
    sql.execute("CREATE VIEW v AS SELECT n FROM t WHERE n > 10")
    facts = facts_of(source, "v", "n")
    assert facts.heaps == () and facts.row_estimate_provenance == "explain"
    assert facts.row_estimate and 2500 < facts.row_estimate < 3500
    assert facts.keys[0].minimum == ("11",) and facts.keys[0].provenance == "none"
    table = facts_of(source, "t")
    assert (table.row_estimate, table.row_estimate_provenance) == (3000, "statistics")
    assert table.keys[0].provenance == "histogram"


def test_a_skewed_key_is_sampled_by_rows(sql, source) -> None:
    sql.execute("CREATE TABLE t (k bigint, n int)")
    sql.execute(
        "INSERT INTO t SELECT case when i % 2 = 0 then 5 else i end, i "
        "FROM generate_series(1, 10000) i"
    )
    sql.execute("CREATE INDEX ON t (k); ANALYZE t")
    (key,) = facts_of(source, "t", "k").keys
    assert key.provenance == "sample" and not key.unique
    values = [int(v) for (v,) in key.boundaries]
    assert values == sorted(set(values)) and 5 in values and len(values) > 40


def test_the_quantiles_of_a_large_table_come_from_all_over_it(sql, source) -> None:
    sql.execute("CREATE TABLE t (a bigint, b bigint, pad text, PRIMARY KEY (a, b))")
    sql.execute(
        "INSERT INTO t SELECT i / 3, i % 3, repeat('x', 90) FROM generate_series(0, 299999) i"
    )
    sql.execute("ANALYZE t")
    (key,) = facts_of(source, "t", boundaries=50).keys
    assert key.provenance == "sample" and key.maximum == ("99999", "2")
    points = [0, *(int(a) for a, _ in key.boundaries), 100_000]
    gaps = [high - low for low, high in itertools.pairwise(points)]
    assert len(key.boundaries) >= 45 and max(gaps) < 10_000 and min(gaps) >= 0


def test_a_query_is_sampled_only_when_it_is_small(sql, source) -> None:
    def keys(rows: int) -> KeyFacts:
        query = f"SELECT i AS k FROM generate_series(1, {rows}) i"
        request = FactsRequest(
            export_name="q", relation=None, query=query, key_columns=("k",), boundaries_max=10
        )
        return source.introspect(request).keys[0]

    small, large = keys(1000), keys(300_000)
    assert small.provenance == "sample" and 8 <= len(small.boundaries) <= 10
    assert large.provenance == "none" and large.maximum == ("300000",)


ZOO = """
CREATE TYPE mood AS ENUM ('low', 'high');
CREATE DOMAIN code AS text COLLATE "C" CHECK (length(VALUE) < 9);
CREATE SCHEMA "od.d";
CREATE TABLE plain (id int PRIMARY KEY, n numeric(9, 2), m mood, t text);
CREATE TABLE texts (a varchar(9) PRIMARY KEY, b code COLLATE "POSIX" NOT NULL UNIQUE, c money);
CREATE TABLE "od.d"."a.b%" ("x y" uuid PRIMARY KEY, z timestamptz);
CREATE TABLE parted (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE parted_a PARTITION OF parted FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE parted_b PARTITION OF parted FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (extra text) INHERITS (parent);
CREATE TABLE secret (id int PRIMARY KEY, owner text);
ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON secret USING (owner = current_user);
CREATE VIEW flat AS SELECT id, n FROM plain;
CREATE VIEW deep AS SELECT f.id, s.owner FROM flat f JOIN secret s USING (id);
CREATE MATERIALIZED VIEW kept AS SELECT id FROM plain;
CREATE TABLE bare ();
INSERT INTO plain SELECT g, g, 'low', 'x' FROM generate_series(1, 500) g;
INSERT INTO parted SELECT g, date '2020-06-01' + g % 365 FROM generate_series(1, 500) g;
ANALYZE
"""
ANIMALS = (
    *("plain", "texts", "parted", "parted_a", "parent", "child", "secret", "flat", "deep", "kept"),
    *("bare", "not_there"),
)


def asked_of(source: Source, wanted: RelationName) -> SourceFacts | str:
    request = FactsRequest(export_name="e", relation=wanted, query=None, boundaries_max=100)
    try:
        return source.introspect(request)
    except SourceRefused as error:
        return f"{error.message} ({error.hint})"


def test_many_tables_are_asked_about_at_once_as_each_alone(sql, source) -> None:
    """ADR 0033: the plan of a table is the same whoever else is planned with it."""
    sql.execute(ZOO)
    named = [relation(name) for name in ANIMALS]
    wanted = [*named, relation("a.b%", "od.d"), relation("plain", ""), relation("not_there", "")]
    alone = [asked_of(source, one) for one in wanted]
    assert sum(isinstance(one, str) for one in alone) == 2
    for order in (wanted, wanted[::-1], [*wanted, *wanted]):
        source.look_ahead(order)
        assert [asked_of(source, one) for one in wanted] == alone


def test_what_was_seen_ahead_serves_once(sql, source) -> None:
    sql.execute("CREATE TABLE t (a int PRIMARY KEY); CREATE TABLE u (a int PRIMARY KEY)")
    source.look_ahead([relation("t"), relation("u")])
    before = source.read_changes(relation("t"))
    sql.execute("INSERT INTO t VALUES (1); ALTER TABLE t ADD b int; ALTER TABLE u ADD b int")
    assert len(facts_of(source, "t").columns) == 1, "as it was looked at"
    assert len(facts_of(source, "t").columns) == 2, "as it is"
    after = source.read_changes(relation("t"))
    assert before.moment != after.moment
    source.look_ahead([])
    assert len(facts_of(source, "u").columns) == 2, "nothing is kept for later"


def test_a_table_that_cannot_be_looked_at_takes_no_other_with_it(sql, source, database) -> None:
    sql.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)")
    with psycopg.connect(database) as other:
        other.execute("LOCK TABLE b IN ACCESS EXCLUSIVE MODE")
        source.look_ahead([relation("a"), relation("b")])
        assert facts_of(source, "a").keys
        with pytest.raises(RelationLocked):
            facts_of(source, "b")


def test_many_tables_take_no_more_questions_than_one(sql, source, monkeypatch) -> None:
    names = [f"t{n}" for n in range(40)]
    for name in names:
        sql.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, v text)")
    asked: list[object] = []
    execute = WatchedCursor.execute

    def counted(self, query, *arguments, **named):
        asked.append(query)
        return execute(self, query, *arguments, **named)

    monkeypatch.setattr(WatchedCursor, "execute", counted)
    source.look_ahead([relation(names[0])])
    few = len(asked)
    source.look_ahead([relation(name) for name in names])
    assert len(asked) - few <= few
