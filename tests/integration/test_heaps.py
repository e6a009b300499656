"""Block numbers mean a place in one heap: another heap under the name ends the run by name."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest

from rivet_fleet.contracts.keys import RangeKind
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.errors import ExitCode, SchemaDrift
from rivet_fleet.execution.source import ChunkReader, PageLimit, Source
from tests.integration.fleet_cli import Desk, ended, run_sqlite
from tests.integration.postgres_source_kit import (
    drain,
    read_plan,
    source,
    sql,
)
from tests.integration.shapes_kit import cut, look, shaped
from tests.waiting import until

__all__ = ["source", "sql"]

Sql = psycopg.Connection[tuple[object, ...]]
PAGE = PageLimit(rows_max=300, bytes_max=1 << 20)
ROWS = 3000
TABLE = """
CREATE TABLE t (id int, p text, c timestamptz NOT NULL DEFAULT now());
INSERT INTO t SELECT g, repeat('x', 50), '2024-01-01'::timestamptz + g * interval '1 s'
FROM generate_series(1, 4000) g;
DELETE FROM t WHERE id <= 1000; CREATE INDEX ti ON t ((-id)); ANALYZE t;
"""
SPLIT = """
CREATE TABLE t (id int, p text) PARTITION BY RANGE (id);
CREATE TABLE s1 PARTITION OF t FOR VALUES FROM (0) TO (1001);
CREATE TABLE sd PARTITION OF t DEFAULT;
INSERT INTO t SELECT g, repeat('x', 50) FROM generate_series(1, 3000) g; ANALYZE t;
"""
REWRITES = {
    "vacuum full": "VACUUM FULL t",
    "cluster": "CLUSTER t USING ti",
    "truncate and reload": "BEGIN; CREATE TEMP TABLE x AS SELECT * FROM t; TRUNCATE t;"
    "INSERT INTO t SELECT * FROM x ORDER BY id DESC; COMMIT; DROP TABLE x",
    "truncate": "TRUNCATE t",
    "alter": "ALTER TABLE t SET UNLOGGED",
    "swap": "BEGIN; CREATE TABLE u (LIKE t); INSERT INTO u SELECT * FROM t ORDER BY id DESC;"
    "ALTER TABLE t RENAME TO old; ALTER TABLE u RENAME TO t; COMMIT",
    "drop and rename": "BEGIN; CREATE TABLE u (LIKE t); INSERT INTO u SELECT * FROM t;"
    "DROP TABLE t; ALTER TABLE u RENAME TO t; COMMIT",
    "a child with rows": "CREATE TABLE child (LIKE t); INSERT INTO child SELECT * FROM t LIMIT 10;"
    "ALTER TABLE child INHERIT t",
}
MOVES = {
    "moved out of the default": "BEGIN; CREATE TABLE s3 (LIKE t); WITH m AS (DELETE FROM sd WHERE"
    " id > 2000 RETURNING *) INSERT INTO s3 SELECT * FROM m;"
    "ALTER TABLE t ATTACH PARTITION s3 FOR VALUES FROM (2001) TO (5000); COMMIT",
    "detached": "ALTER TABLE t DETACH PARTITION sd",
    "replaced": "BEGIN; ALTER TABLE t DETACH PARTITION sd; ALTER TABLE sd RENAME TO gone;"
    "CREATE TABLE sd (LIKE gone); INSERT INTO sd SELECT * FROM gone ORDER BY id DESC;"
    "ALTER TABLE t ATTACH PARTITION sd DEFAULT; COMMIT",
    "rewritten": "VACUUM FULL sd",
}


def begun(source: Source, **knobs: object) -> tuple[ChunkReader, list[int]]:
    """All chunks of ``t`` but the last are read, and the first page of that: its reader, and the
    ids so far."""
    export = shaped(**knobs)
    facts = look(source, export, schema="public")
    read, ranges = read_plan(facts), cut(facts, export).ranges
    assert {one.kind for one in ranges} == {RangeKind.BLOCKS}
    found: list[int] = []
    for one in ranges[:-1]:
        found += ids(drain(source.open_chunk(read, one, TuningPlan()), PAGE))
    reader = source.open_chunk(read, ranges[-1], TuningPlan())
    page = reader.read_page(PAGE)
    assert not page.last
    return reader, found + page.batch.column("id").to_pylist()


def ids(table: pa.Table) -> list[int]:
    found: list[int] = table.column("id").to_pylist()
    return found


def refused(reader: ChunkReader) -> SchemaDrift:
    with pytest.raises(SchemaDrift) as caught:
        drain(reader, PAGE)
    error = caught.value
    assert error.code == "RIVET_HEAP_REWRITTEN" and error.exit_code is ExitCode.SCHEMA_DRIFT
    assert "--new" in str(error.hint) and "public." in error.message
    return error


@pytest.mark.parametrize("how", REWRITES)
def test_another_heap_ends_the_chunk(sql: Sql, source: Source, how: str) -> None:
    sql.execute(TABLE)
    reader, _ = begun(source, mode="full")
    sql.execute(REWRITES[how].encode())
    refused(reader)


@pytest.mark.parametrize("how", MOVES)
def test_rows_that_move_between_heaps_end_the_chunk(
    sql: Sql,
    source: Source,
    how: str,
) -> None:
    sql.execute(SPLIT)
    reader, _ = begun(source, chunk_count=3)
    sql.execute(MOVES[how].encode())
    refused(reader)


@pytest.mark.parametrize("how", MOVES)
def test_rows_that_move_below_a_relation_read_as_one_end_the_chunk(
    sql: Sql,
    source: Source,
    how: str,
) -> None:
    """Read through the relation (here: a leaf has a policy, which a superuser does not obey)."""
    sql.execute(SPLIT)
    export = shaped(chunk_count=2)
    facts = replace(look(source, export, schema="public"), rights_apart="told so")
    ranges = cut(facts, export).ranges
    assert [one.relation for one in ranges] == [None, None]
    reader = source.open_chunk(read_plan(facts), ranges[-1], TuningPlan())
    assert not reader.read_page(PageLimit(rows_max=1, bytes_max=1 << 20)).last
    sql.execute(MOVES[how].encode())
    refused(reader)


def test_a_chunk_without_a_page_left_proves_its_heap(sql: Sql, source: Source) -> None:
    """An emptied heap has no row that could tell: the proof needs none."""
    sql.execute(TABLE)
    export = shaped(chunk_count=3)
    facts = look(source, export, schema="public")
    sql.execute("TRUNCATE t")
    for one in cut(facts, export).ranges:
        refused(source.open_chunk(read_plan(facts), one, TuningPlan()))


def test_what_keeps_every_row_in_its_place_is_no_rewrite(sql: Sql, source: Source) -> None:
    sql.execute(SPLIT)
    reader, found = begun(source, chunk_count=3)
    sql.execute("INSERT INTO t SELECT g, 'late' FROM generate_series(3001, 3100) g")
    sql.execute("VACUUM t")
    sql.execute("CREATE TABLE s9 PARTITION OF t FOR VALUES FROM (9000) TO (9999)")
    sql.execute("ALTER TABLE t ADD CONSTRAINT positive CHECK (id > 0)")
    sql.execute("CREATE INDEX ON t (p)")
    found += ids(drain(reader, PAGE))
    assert sorted(set(found)) == sorted(found) and set(range(1, 3001)) <= set(found)


def test_a_rewrite_is_named_whatever_the_table_is_called(sql: Sql, source: Source) -> None:
    sql.execute(TABLE.replace("TABLE t ", 'TABLE "o\'dd ""\\ %s) t" ').split(";")[0])
    sql.execute('ALTER TABLE "o\'dd ""\\ %s) t" RENAME TO t')
    sql.execute("INSERT INTO t SELECT g, repeat('x', 50) FROM generate_series(1, 3000) g")
    reader, _ = begun(source, mode="full")
    sql.execute("VACUUM FULL t")
    refused(reader)


def test_a_refreshed_view_ends_the_chunk(sql: Sql, source: Source) -> None:
    sql.execute(TABLE.replace("TABLE t ", "TABLE b ").replace("INTO t ", "INTO b ").split(";")[0])
    sql.execute("INSERT INTO b SELECT g, repeat('x', 50) FROM generate_series(1, 3000) g")
    sql.execute("CREATE MATERIALIZED VIEW t AS SELECT * FROM b ORDER BY id")
    reader, _ = begun(source, mode="full")
    sql.execute("REFRESH MATERIALIZED VIEW t")
    refused(reader)


def test_a_plan_of_before_heaps_were_sealed_is_read_as_it_was(
    sql: Sql,
    source: Source,
) -> None:
    sql.execute(TABLE)
    facts = look(source, shaped(), schema="public")
    read = replace(read_plan(facts), heaps=())
    (one,) = cut(facts, shaped(mode="full")).ranges
    assert len(ids(drain(source.open_chunk(read, one, TuningPlan()), PAGE))) == ROWS


# ---------------------------------------------------------------- at the command line

SLOW = """\
source: {{type: postgres, url_env: SHOP_URL, tuning: {{batch_size: 500, throttle_ms: 150}}}}
campaign: {{name: shop, workers: 1}}
exports:
  - {{name: t, table: t, {mode}, chunk_count: 4, format: parquet,
     destination: {{type: local, path: ./out/t}}}}
"""


@pytest.mark.parametrize("mode", ["mode: chunked", "mode: incremental, cursor_column: c"])
def test_a_run_whose_table_is_rewritten_fails_and_delivers_nothing(
    tmp_path: Path,
    database: str,
    sql: Sql,
    mode: str,
) -> None:
    sql.execute(TABLE)
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": database})
    desk.write(SLOW.format(mode=mode))
    with ended(desk.start("run", "-c", str(desk.config))) as process:
        done = "SELECT count(*) FROM chunk_task WHERE status = 'completed'"
        until(lambda: desk.state.exists() and counted(desk, done), what="a chunk that is done")
        sql.execute("VACUUM FULL t")
        told = desk.finish(process, code=4)
    assert "public.t: the table was rewritten while it was read" in told.said, told.said
    assert "--new   #" in told.said and "rivet-fleet requeue" not in told.said, told.said
    assert desk.delivered("t") == []
    assert not counted(desk, "SELECT count(*) FROM export_state")
    desk.write(SLOW.format(mode=mode).replace("throttle_ms: 150", "throttle_ms: 0"))
    desk.cli("run", "--new")
    assert desk.delivered("t") == list(range(1001, 4001))


def counted(desk: Desk, query: str) -> int:
    try:
        return int(run_sqlite(desk.state, query)[0][0])
    except sqlite3.Error:
        return 0  # it is being made
