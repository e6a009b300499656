"""The PostgreSQL source against a real server: every kind of range holds every row once."""

from __future__ import annotations

import itertools
import random

import pyarrow as pa
import pytest

from rivet_fleet.contracts.aggregates import asked_of
from rivet_fleet.contracts.facts import FactsRequest, Measure, SourceFacts
from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.execution.source import PageLimit, Source
from rivet_fleet.execution.sources.postgres import ENGINE as POSTGRES
from rivet_fleet.execution.sources.postgres.dialect import NUDGES, page_settings
from tests.integration.postgres_source_kit import (
    LIMIT,
    drain,
    facts_of,
    partition_by_key,
    random_cuts,
    read_all,
    read_plan,
    relation,
    source,
    specs,
    sql,
)

__all__ = ["source", "sql"]


def read_blocks(source: Source, facts: SourceFacts) -> pa.Table:
    tables = []
    for heap in facts.heaps:
        cuts = [0, heap.blocks // 3, heap.blocks // 2, None]
        for first, end in itertools.pairwise(cuts):
            chunk = ChunkRange(
                kind=RangeKind.BLOCKS, relation=heap.name, block_first=first, block_end=end
            )
            tables.append(read_all(source, read_plan(facts), chunk))
    return pa.concat_tables(tables)


def test_blocks_of_a_plain_table(sql, source) -> None:
    sql.execute("CREATE TABLE t (n int NOT NULL, pad text)")
    sql.execute("INSERT INTO t SELECT i, repeat('x', i % 200) FROM generate_series(1, 20000) i")
    sql.execute("DELETE FROM t WHERE n BETWEEN 3000 AND 9000")
    facts = facts_of(source, "t")
    assert facts.capabilities.block_ranges and facts.keys == ()
    assert [h.name.name for h in facts.heaps] == ["t"]
    expected = [n for n in range(1, 20001) if not 3000 <= n <= 9000]
    assert sorted(read_blocks(source, facts).column("n").to_pylist()) == expected


def test_rows_appended_behind_the_planned_end_are_read(sql, source) -> None:
    sql.execute("CREATE TABLE t (n int NOT NULL, pad text)")
    fill = "INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(%s::int, %s::int) i"
    sql.execute(fill, (1, 5000))
    facts = facts_of(source, "t")
    chunk = ChunkRange(kind=RangeKind.BLOCKS, relation=relation("t"), block_first=0)
    reader = source.open_chunk(read_plan(facts), chunk, TuningPlan())
    first = reader.read_page(LIMIT)
    sql.execute(fill, (5001, 9000))
    rest = drain(reader)
    rows = first.batch.column("n").to_pylist() + rest.column("n").to_pylist()
    assert sorted(rows) == list(range(1, 9001))


def test_blocks_of_partitions_and_of_inheritance_children(sql, source) -> None:
    sql.execute("CREATE TABLE t (n int NOT NULL, d text) PARTITION BY RANGE (n)")
    sql.execute("CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (3000)")
    sql.execute("CREATE TABLE t2 (d text, n int NOT NULL)")
    sql.execute("ALTER TABLE t ATTACH PARTITION t2 FOR VALUES FROM (3000) TO (9000)")
    sql.execute("INSERT INTO t SELECT i, 'd' || i FROM generate_series(1, 6000) i")
    facts = facts_of(source, "t")
    assert [h.name.name for h in facts.heaps] == ["t1", "t2"]
    got = read_blocks(source, facts)
    assert sorted(got.column("n").to_pylist()) == list(range(1, 6001))
    assert got.column("d").to_pylist() == [f"d{n}" for n in got.column("n").to_pylist()]

    sql.execute("CREATE TABLE p (n int PRIMARY KEY)")
    sql.execute("CREATE TABLE c (extra text) INHERITS (p)")
    sql.execute("INSERT INTO p SELECT i FROM generate_series(1, 100) i")
    sql.execute("INSERT INTO c SELECT i, 'x' FROM generate_series(51, 150) i")
    facts = facts_of(source, "p")
    assert [h.name.name for h in facts.heaps] == ["p", "c"]
    assert facts.keys == () and not facts.indexes[0].unique
    got = read_blocks(source, facts).column("n").to_pylist()
    assert sorted(got) == sorted([*range(1, 101), *range(51, 151)])


def test_an_empty_table_and_a_query(sql, source) -> None:
    sql.execute("CREATE TABLE t (n int PRIMARY KEY)")
    facts = facts_of(source, "t")
    assert facts.keys[0].minimum is None
    for kind in (RangeKind.WHOLE, RangeKind.KEYSET, RangeKind.SPAN):
        columns = () if kind is RangeKind.WHOLE else ("n",)
        got = read_all(source, read_plan(facts), ChunkRange(kind=kind, columns=columns))
        assert got.num_rows == 0
    query = "SELECT i AS k, i * 1.5::numeric(8,2) AS v FROM generate_series(1, 3000) i -- done;"
    facts = source.introspect(
        FactsRequest(export_name="q", relation=None, query=query, key_columns=("k",))
    )
    assert facts.keys[0].minimum == ("1",) and facts.keys[0].maximum == ("3000",)
    casts = (("v", "decimal(10,3)"),)
    facts = source.introspect(
        FactsRequest(export_name="q", relation=None, query=query, casts=casts)
    )
    read = read_plan(facts, casts, query)
    got = read_all(source, read, ChunkRange(kind=RangeKind.KEYSET, columns=("k",)))
    assert got.column("k").to_pylist() == list(range(1, 3001))
    assert str(got.column("v")[0]) == "1.500"


def test_a_page_far_over_its_bytes_is_cut_and_continued(sql, source) -> None:
    sql.execute("CREATE TABLE t (k int PRIMARY KEY, pad text)")
    sql.execute(
        "INSERT INTO t SELECT i, case when i > 500 then repeat(md5(i::text), 3000) end "
        "FROM generate_series(1, 700) i"
    )
    read = read_plan(facts_of(source, "t"))
    for kind in (RangeKind.KEYSET, RangeKind.SPAN):
        chunk = ChunkRange(kind=kind, columns=("k",))
        reader = source.open_chunk(read, chunk, TuningPlan())
        rows: list[int] = []
        while True:
            page = reader.read_page(PageLimit(rows_max=1000, bytes_max=1 << 20))
            assert page.wire_bytes < 3 << 20
            rows += page.batch.column("k").to_pylist()
            if page.last:
                break
        assert rows == list(range(1, 701))


@pytest.mark.parametrize("kind", [RangeKind.KEYSET, RangeKind.SPAN, RangeKind.BLOCKS])
def test_a_page_walks_its_index_or_its_blocks(sql, source, kind) -> None:
    sql.execute("CREATE TABLE t (a int, b text, n int, PRIMARY KEY (a, b))")
    sql.execute("INSERT INTO t SELECT i % 50, i::text, i FROM generate_series(1, 5000) i")
    facts = facts_of(source, "t")
    chunk = {
        RangeKind.KEYSET: ChunkRange(kind=kind, columns=("a", "b"), lower=("3", "x")),
        RangeKind.SPAN: ChunkRange(kind=kind, columns=("a",), lower=("3",), upper=("40",)),
        RangeKind.BLOCKS: ChunkRange(kind=kind, relation=relation("t"), block_end=10),
    }[kind]
    reader = source.open_chunk(read_plan(facts), chunk, TuningPlan())
    pager = reader._pager
    settings = page_settings(TuningPlan(), NUDGES[pager.walk])
    with source._session.reading(settings, doing="explaining", timeout_s=5) as cursor:
        cursor.execute(f"EXPLAIN {pager.select(LIMIT).sql()}")
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert ("Tid Range Scan" if kind is RangeKind.BLOCKS else "Index Scan using t_pkey") in plan
    assert "Sort" not in plan and "Seq Scan" not in plan


def test_the_texts_of_keys_and_casts_do_not_depend_on_the_session(database, sql) -> None:
    name = database.rsplit("/", 1)[1]
    sql.execute(f"ALTER DATABASE {name} SET TimeZone = 'Pacific/Chatham'")
    sql.execute(f"ALTER DATABASE {name} SET DateStyle = 'SQL, DMY'")
    sql.execute("CREATE TABLE t (k timestamptz PRIMARY KEY, c timestamptz)")
    sql.execute(
        "INSERT INTO t SELECT s, s FROM generate_series(1, 2000) i, "
        "LATERAL (SELECT '2024-03-04 05:06:07Z'::timestamptz + i * interval '1 h') AS x(s)"
    )
    source = POSTGRES.open_source(parse_database_url(database), application_name="rivet-test")
    casts = (("c", "text"),)
    facts = facts_of(source, "t", casts=casts)
    assert facts.keys[0].minimum == ("2024-03-04 06:06:07+00",)
    cuts = random_cuts(list(facts.keys[0].boundaries), random.Random(1))
    got = partition_by_key(source, read_plan(facts, casts), RangeKind.KEYSET, ("k",), cuts)
    source.close()
    assert got.num_rows == 2000 and got.column("c")[0].as_py() == "2024-03-04 06:06:07+00"


def test_every_column_of_the_widest_table_is_measured(sql, source) -> None:
    """A select list of PostgreSQL ends at 1,664 entries, and each number has four measures."""
    names = [f"c{n}" for n in range(900)]
    sql.execute(f"CREATE TABLE t (id int PRIMARY KEY, {', '.join(f'{n} int2' for n in names)})")
    sql.execute("INSERT INTO t (id, c7, c899) VALUES (1, 5, NULL), (2, 6, 9)")
    facts = facts_of(source, "t")
    asked = asked_of(specs(facts))
    assert len(asked) > 1664
    whole = ChunkRange(kind=RangeKind.WHOLE)
    count, *found = source.measure(read_plan(facts), whole, asked, TuningPlan())
    assert count == 2
    by = {(one.column.name, one.measure): number for one, number in zip(asked, found, strict=True)}
    assert by["c7", Measure.SUM] == 11 and by["c899", Measure.NULLS] == 1
    assert by["c899", Measure.MOST] == 9 and by["c8", Measure.MOST] is None
