"""What a plan of PostgreSQL rests on: changed before a chunk is opened, and under it (ADR 0018)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import psycopg
import pytest

from rivet_fleet.contracts.basis import (
    BasisKind,
    Consequence,
    mark_basis,
    resting,
)
from rivet_fleet.contracts.facts import FactsRequest, SourceFacts
from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.plan import ReadPlan, TuningPlan
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.contracts.window import RowWindow, WindowBound
from rivet_fleet.errors import SchemaDrift
from rivet_fleet.execution.source import PageLimit, Source
from rivet_fleet.execution.sources.postgres import ENGINE as POSTGRES
from tests.integration.postgres_source_kit import (
    drain,
    facts_of,
    read_plan,
    relation,
    source,
    sql,
)

__all__ = ["source", "sql"]

Sql = psycopg.Connection[tuple[object, ...]]
PAGE = PageLimit(rows_max=100, bytes_max=1 << 20)
ROWS = 1000
BY_K = ChunkRange(kind=RangeKind.KEYSET, columns=("k",))
BY_ID = ChunkRange(kind=RangeKind.KEYSET, columns=("id",))
SPAN_ID = ChunkRange(kind=RangeKind.SPAN, columns=("id",))
ALL = ChunkRange(kind=RangeKind.WHOLE)
TABLE = f"""
CREATE COLLATION own (provider = libc, locale = 'C.utf8');
CREATE TABLE t (id int NOT NULL, k text COLLATE own NOT NULL, n int);
CREATE UNIQUE INDEX by_k ON t (k); CREATE UNIQUE INDEX by_id ON t (id);
INSERT INTO t SELECT i, 'k' || i, i FROM generate_series(1, {ROWS}) i;
CREATE VIEW below AS SELECT * FROM t; CREATE VIEW v AS SELECT * FROM below;
"""
NEW_T = "CREATE TABLE u (LIKE t INCLUDING ALL); INSERT INTO u SELECT * FROM t;"
SWAP = f"BEGIN; {NEW_T} ALTER TABLE t RENAME TO old; ALTER TABLE u RENAME TO t; COMMIT"
COLLATED = 'DROP VIEW v, below; ALTER TABLE t ALTER k TYPE text COLLATE "C"'
UPGRADED = "UPDATE pg_collation SET collversion = '0' WHERE collname = 'own'"
RECREATED = "DROP INDEX by_k; CREATE UNIQUE INDEX by_k ON t (k{});"
SECURED = "ALTER TABLE t ENABLE ROW LEVEL SECURITY"
FATAL = {
    "collation": ("t", BY_K, COLLATED, "k was ordered by"),
    "library": ("t", BY_K, UPGRADED, "k was ordered by"),
    "operator class": (
        "t",
        BY_K,
        RECREATED.format(" text_pattern_ops"),
        "was ordered by index by_k",
    ),
    "index collation": ("t", BY_K, RECREATED.format(' COLLATE "C"'), "was ordered by index by_k"),
    "no unique index": ("t", BY_K, "DROP INDEX by_k; CREATE INDEX ON t (k)", "unique by no index"),
    "an heir": ("t", BY_ID, "CREATE TABLE heir () INHERITS (t)", "unique by no index"),
    "view": (
        "v",
        ALL,
        "CREATE OR REPLACE VIEW v AS SELECT * FROM below WHERE n < 9",
        "view public.v",
    ),
    "view beneath": (
        "v",
        ALL,
        "CREATE OR REPLACE VIEW below AS SELECT * FROM t WHERE n < 9",
        "view public.below",
    ),
    "view's rights": (
        "v",
        ALL,
        "ALTER VIEW below SET (security_invoker = true)",
        "view public.below",
    ),
    "policies beneath": ("v", ALL, SECURED, "beneath the view"),
}
BOTH = (BasisKind.INDEX, BasisKind.RELATION)
TOLD = {
    "swap, and an index of another name": (BY_ID, SWAP, *BOTH),
    "swap under spans": (SPAN_ID, SWAP, BasisKind.RELATION),
    "rewritten": (BY_K, "VACUUM FULL t", BasisKind.RELATION),
    "truncated": (
        BY_ID,
        "BEGIN; CREATE TEMP TABLE x AS SELECT * FROM t; TRUNCATE t; INSERT INTO t SELECT * FROM x;"
        "COMMIT",
        BasisKind.RELATION,
    ),
    "index renamed": (BY_K, "ALTER INDEX by_k RENAME TO other", BasisKind.INDEX),
    "index reversed": (BY_K, RECREATED.format(" DESC"), BasisKind.INDEX),
}
HARMLESS = {
    "statistics": (BY_K, "ANALYZE t"),
    "another index": (BY_K, "CREATE INDEX ON t (n); REINDEX INDEX by_k"),
    "rows": (BY_ID, "DELETE FROM t WHERE id = 500"),
    "another key": (BY_ID, RECREATED.format(" text_pattern_ops")),
    "a collation that is not compared": (ALL, "ALTER COLLATION own RENAME TO another"),
    "a role": (BY_ID, "COMMENT ON TABLE t IS 'x'; GRANT SELECT ON t TO PUBLIC"),
}
OTHER_N = "DROP VIEW v, below; ALTER TABLE t ALTER n TYPE real"
MOODY = """CREATE DOMAIN mood AS {}; CREATE TABLE moody (id int PRIMARY KEY, n mood);
INSERT INTO moody SELECT id, n FROM t;"""
OTHER_MOOD = f"DROP TABLE moody; DROP DOMAIN mood; {MOODY.format('real')}"
QUERY = "SELECT id, n FROM t WHERE id > 0"
RETYPED = {
    "by key": ("t", BY_ID, OTHER_N, "n was integer when the chunk was opened and is now real"),
    "by place": ("t", ChunkRange(kind=RangeKind.BLOCKS), OTHER_N, "is now real"),
    "by one statement": ("t", ALL, OTHER_N, "is now real"),
    "swapped": (
        "t",
        SPAN_ID,
        SWAP.replace(
            " ALTER TABLE t RENAME",
            " ALTER TABLE u ALTER n TYPE date USING date '2026-01-01' + n; ALTER TABLE t RENAME",
        ),
        "is now date",
    ),
    "a view": ("v", ALL, f"{OTHER_N}; CREATE VIEW v AS TABLE t", "is now real"),
    "a domain of the same name": ("moody", SPAN_ID, OTHER_MOOD, "mood, oid"),
    "a query": (QUERY, BY_ID, OTHER_N, "n was integer when the chunk was opened and is now real"),
    "a query by one statement": (QUERY, ALL, OTHER_N, "is now real"),
}


@pytest.fixture(autouse=True)
def table(sql: Sql) -> None:
    sql.execute(TABLE)


def planned(facts: SourceFacts, chunk: ChunkRange, window: RowWindow | None = None) -> ReadPlan:
    basis = resting(facts.basis, [chunk], window)
    return replace(read_plan(facts), window=window, basis=basis)


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(SchemaDrift) as caught:
        act()
    assert caught.value.code == "RIVET_BASIS_CHANGED", caught.value
    return caught.value.message


def begun(source: Source, read: ReadPlan, chunk: ChunkRange, change: Callable[[], object]):
    """The first page, the change, the other pages; then the proof."""
    reader = source.open_chunk(read, chunk, TuningPlan())
    assert reader.prove() == ()
    first = reader.read_page(PAGE).batch.num_rows
    if not reader.resumable:
        # Of a cursor nobody can change what it reads before its last row: the server's locks.
        drain(reader, PAGE)
    change()
    return first, reader


@pytest.mark.parametrize("name", FATAL)
def test_another_order_view_or_right_is_refused(sql, source, name) -> None:
    relation, chunk, change, words = FATAL[name]
    read = planned(facts_of(source, relation), chunk)
    _, reader = begun(source, read, chunk, lambda: sql.execute(change))
    assert words in refused(reader.prove)
    if reader.resumable:
        assert words in refused(reader.reconnect)
    assert words in refused(lambda: source.open_chunk(read, chunk, TuningPlan()))


@pytest.mark.parametrize("name", RETYPED)
def test_a_column_that_is_of_another_type_behind_the_pages_is_refused(sql, source, name) -> None:
    item, chunk, change, words = RETYPED[name]
    sql.execute(MOODY.format("int"))
    query, table = (item, None) if item == QUERY else (None, relation(item))
    facts = source.introspect(FactsRequest(export_name="t", relation=table, query=query))
    # What an older program planned has no basis.
    sealed = planned(facts, chunk).basis if name != "by place" else ()
    read = replace(read_plan(facts, query=query), basis=sealed)
    reader = source.open_chunk(read, chunk, TuningPlan())
    assert reader.prove() == ()
    assert reader.read_page(PAGE).batch.num_rows
    if not reader.resumable:
        # Its locks keep the table as it is before its last row.
        drain(reader, PAGE)
    sql.execute("ALTER TABLE t ADD later real; ALTER TABLE moody ADD later real")
    assert reader.prove() == (), "what the plan does not read is nothing to it"
    sql.execute(change)
    assert words in refused(reader.prove)
    if reader.resumable:
        assert words in refused(reader.reconnect)
    with pytest.raises(SchemaDrift):
        source.open_chunk(read, chunk, TuningPlan())


@pytest.mark.parametrize("name", TOLD)
def test_another_table_or_index_under_a_key_is_told(sql, source, name) -> None:
    chunk, change, *kinds = TOLD[name]
    read = planned(facts_of(source, "t"), chunk)
    first, reader = begun(source, read, chunk, lambda: sql.execute(change))
    assert first + drain(reader, PAGE).num_rows == ROWS
    told = reader.prove()
    assert [one.kind for one in told] == kinds
    assert {one.consequence for one in told} == {Consequence.TOLD}
    assert source.open_chunk(read, chunk, TuningPlan()).prove() == told


@pytest.mark.parametrize("name", HARMLESS)
def test_what_a_chunk_does_not_rely_on_is_nothing(sql, source, name) -> None:
    chunk, change = HARMLESS[name]
    read = planned(facts_of(source, "t"), chunk)
    _, reader = begun(source, read, chunk, lambda: sql.execute(change))
    assert reader.prove() == ()
    assert source.open_chunk(read, chunk, TuningPlan()).prove() == ()


def test_a_window_over_text_relies_on_its_order(sql, source) -> None:
    window = RowWindow(columns=("k",), lower=WindowBound(values=("k5",), inclusive=True))
    read = planned(facts_of(source, "t"), ALL, window)
    sql.execute(UPGRADED)
    assert "k was ordered by" in refused(lambda: source.open_chunk(read, ALL, TuningPlan()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (f"CREATE POLICY p ON t USING (n < 9); {SECURED}", "active: p"),
        (SECURED, "no policy lets a row through"),
        ("GRANT {other} TO {reader}", "active: q, r"),
        ("ALTER POLICY q ON guarded USING (n < 9)", "row-level security was active: q"),
        (
            "GRANT {other} TO {reader}; ALTER ROLE {reader} SET role = {other}",
            "the reading role was",
        ),
    ],
)
def test_other_rights_are_refused(sql, database, change, words) -> None:
    stem = database.rpartition("/")[2]
    names = {"reader": f"{stem}_reader", "other": f"{stem}_other"}
    sql.execute(
        "CREATE ROLE {other}; CREATE ROLE {reader} LOGIN; ALTER TABLE t OWNER TO {other};"
        "CREATE TABLE guarded (LIKE t INCLUDING ALL);"
        "ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY q ON guarded TO PUBLIC USING (n > 1);"
        "CREATE POLICY r ON guarded TO {other} USING (n > 2);"
        "GRANT SELECT ON t, guarded TO {reader}, {other}".format(**names)
    )
    url = replace(parse_database_url(database), user=names["reader"], password=None)
    reading = POSTGRES.open_source(url, application_name="rivet-test")
    table = "t" if "ON t" in change or "TABLE t " in change else "guarded"
    try:
        read = planned(facts_of(reading, table), BY_ID)
        sql.execute(change.format(**names))
        reading.close()
        said = refused(lambda: reading.open_chunk(read, BY_ID, TuningPlan()))
        assert words in said, said
    finally:
        reading.close()
        sql.execute(
            "DROP OWNED BY {other}, {reader} CASCADE; DROP ROLE {other}, {reader}".format(**names)
        )


def test_another_database_is_refused_and_a_mark_of_it_is_none_of_ours(
    sql, source, postgres, database
) -> None:
    facts = facts_of(source, "t")
    read = planned(facts, BY_ID)
    name = f"{database.rpartition('/')[2]}_b"
    other_url = postgres.create_database(name)
    postgres.psql(TABLE, database=name)
    other = POSTGRES.open_source(parse_database_url(other_url), application_name="rivet-test")
    try:
        assert "database was" in refused(lambda: other.open_chunk(read, BY_ID, TuningPlan()))
        taken = mark_basis(facts.basis, ("k", "id"))
        elsewhere = mark_basis(facts_of(other, "t").basis, ("k", "id"))
        assert {one.kind for one in set(taken) - set(elsewhere)} == {BasisKind.SOURCE}
    finally:
        other.close()
    sql.execute(UPGRADED)
    upgraded = mark_basis(facts_of(source, "t").basis, ("k", "id"))
    assert {one.kind for one in set(taken) - set(upgraded)} == {BasisKind.COLLATION}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (COLLATED, "k was ordered by"),
        (
            "CREATE SCHEMA nearer; ALTER DATABASE {} SET search_path = nearer, public",
            "search path",
        ),
    ],
)
def test_a_query_rests_on_its_search_path_and_the_order_of_its_key(
    sql, source, database, change, words
) -> None:
    query = "SELECT id, k, n FROM t -- all of it"
    facts = source.introspect(FactsRequest(export_name="q", relation=None, query=query))
    read = replace(planned(facts, BY_K), query=query)
    assert source.open_chunk(read, BY_K, TuningPlan()).prove() == ()
    sql.execute(change.format(database.rpartition("/")[2]))
    source.close()
    assert words in refused(lambda: source.open_chunk(read, BY_K, TuningPlan()))


def test_a_role_that_may_not_ask_for_the_cluster_is_told_nothing_of_it(sql, database) -> None:
    role = f"{database.rpartition('/')[2]}_poor"
    sql.execute(f"CREATE ROLE {role} LOGIN; GRANT SELECT ON t TO {role}")
    sql.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    reading = POSTGRES.open_source(
        replace(parse_database_url(database), user=role, password=None), application_name="t"
    )
    try:
        read = planned(facts_of(reading, "t"), BY_ID)
        assert [f.subject for f in read.basis if f.kind is BasisKind.SOURCE] == ["database"]
        assert drain(reading.open_chunk(read, BY_ID, TuningPlan()), PAGE).num_rows == ROWS
    finally:
        reading.close()
        sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_plan_that_sealed_nothing_is_compared_by_its_columns_alone(sql, source) -> None:
    read = read_plan(facts_of(source, "t"))
    sql.execute(SWAP)
    reader = source.open_chunk(read, BY_ID, TuningPlan())
    assert drain(reader, PAGE).num_rows == ROWS and reader.prove() == ()
