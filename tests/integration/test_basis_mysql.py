"""What a plan of MySQL or MariaDB rests on: changed before a chunk is opened, and under it, seen by
the source and by a user at the command line (ADR 0018)."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rivet_fleet.contracts import basis
from rivet_fleet.contracts.basis import (
    INSTANCE,
    SERVER,
    BasisKind,
    Consequence,
    mark_basis,
    other_source,
    resting,
)
from rivet_fleet.contracts.facts import FactsRequest, SourceFacts
from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.plan import ReadPlan, TuningPlan
from rivet_fleet.errors import SchemaDrift
from rivet_fleet.execution.source import PageLimit
from tests.integration.fleet_cli import Desk, ended, fleet_yaml, run_sqlite
from tests.integration.mysql_source_kit import Sql, drain, facts_of, read_plan, source, sql
from tests.waiting import until

__all__ = ["source", "sql"]

PAGE = PageLimit(rows_max=100, bytes_max=1 << 20)
ROWS = 1000
BY_K = ChunkRange(kind=RangeKind.KEYSET, columns=("k",))
BY_ID = ChunkRange(kind=RangeKind.KEYSET, columns=("id",))
ALL = ChunkRange(kind=RangeKind.WHOLE)
GENERAL = "ALTER TABLE t CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"
SWAP = (
    "CREATE TABLE u LIKE t",
    "ALTER TABLE u DROP KEY by_id, ADD UNIQUE other (id)",
    "INSERT INTO u SELECT * FROM t",
    "RENAME TABLE t TO old, u TO t",
)
LATIN = "ALTER TABLE t MODIFY k varchar(30) CHARACTER SET latin1 COLLATE latin1_bin NOT NULL"
PREFIX = "ALTER TABLE t DROP PRIMARY KEY, ADD PRIMARY KEY (k(3), id)"
FEWER = "CREATE OR REPLACE VIEW {} AS SELECT * FROM {} WHERE id < 9"
INVOKER = "ALTER SQL SECURITY INVOKER VIEW v AS SELECT * FROM below"
FATAL = {
    "collation": ("t", BY_K, (GENERAL,), "k was ordered by utf8mb4, utf8mb4_bin and is now"),
    "character set": ("t", BY_K, (LATIN,), "k was ordered by"),
    "unique by its beginning alone": ("t", BY_K, (PREFIX,), "unique"),
    "view": ("v", ALL, (FEWER.format("v", "below"),), "v is defined otherwise"),
    "view beneath": ("v", ALL, (FEWER.format("below", "t"),), "below is defined otherwise"),
    "view's rights": ("v", ALL, (INVOKER,), "v is defined otherwise"),
}
HARMLESS = {
    "statistics": (BY_K, ("ANALYZE TABLE t",)),
    "rows": (BY_ID, ("DELETE FROM t WHERE id = 500",)),
    "an order that is not compared": (ALL, ("ALTER TABLE v_base COMMENT 'x'",)),
}


@pytest.fixture(autouse=True)
def table(sql: Sql) -> None:
    sql.numbers(ROWS)
    sql.execute(
        "CREATE TABLE t (k varchar(30) COLLATE utf8mb4_bin NOT NULL PRIMARY KEY,"
        "id bigint NOT NULL, UNIQUE by_id (id))"
    )
    sql.execute("INSERT INTO t SELECT concat(if(i % 2, 'B', 'a'), i), i FROM numbers")
    sql.execute("CREATE TABLE v_base LIKE t")
    sql.execute("CREATE VIEW below AS SELECT * FROM t")
    sql.execute("CREATE VIEW v AS SELECT * FROM below")
    sql.execute("ANALYZE TABLE t")


def planned(facts: SourceFacts, *chunks: ChunkRange) -> ReadPlan:
    return replace(read_plan(facts), basis=resting(facts.basis, chunks, None))


def refused(act: Callable[[], object], *words: str) -> None:
    with pytest.raises(SchemaDrift) as caught:
        act()
    assert all(word in caught.value.message for word in words), caught.value.message


def run_all(sql: Sql, statements: tuple[str, ...]) -> None:
    for one in statements:
        sql.execute(one)


def a_second_later(sql: Sql) -> None:
    """A creation time has whole seconds: what is created from now on has another one."""
    created = (
        "SELECT max(create_time) FROM information_schema.tables WHERE table_schema = DATABASE()"
    )
    until(lambda: sql.execute(f"SELECT ({created}) < now()")[0][0])


@pytest.mark.parametrize("name", FATAL)
def test_another_order_or_view_is_refused(sql, source, name) -> None:
    relation, chunk, change, words = FATAL[name]
    read = planned(facts_of(source, relation), chunk)
    reader = source.open_chunk(read, chunk, TuningPlan())
    assert reader.prove() == ()
    reader.read_page(PAGE)
    reader.close()
    run_all(sql, change)
    refused(reader.prove, words)
    if reader.resumable:
        refused(reader.reconnect, words)
    refused(lambda: source.open_chunk(read, chunk, TuningPlan()), words)


def test_another_table_under_a_key_is_told(sql, source) -> None:
    read = planned(facts_of(source, "t"), BY_ID)
    reader = source.open_chunk(read, BY_ID, TuningPlan())
    first = reader.read_page(PAGE).batch.num_rows
    a_second_later(sql)
    run_all(sql, SWAP)
    reader.reconnect()
    assert first + drain(reader, PAGE).num_rows == ROWS
    told = reader.prove()
    assert [one.kind for one in told] == [BasisKind.INDEX, BasisKind.RELATION]
    assert {one.consequence for one in told} == {Consequence.TOLD}
    assert source.open_chunk(read, BY_ID, TuningPlan()).prove() == told


@pytest.mark.parametrize("name", HARMLESS)
def test_what_a_chunk_does_not_rely_on_is_nothing(sql, source, name) -> None:
    chunk, change = HARMLESS[name]
    read = planned(facts_of(source, "t"), chunk)
    reader = source.open_chunk(read, chunk, TuningPlan())
    run_all(sql, change)
    assert reader.prove() == () == source.open_chunk(read, chunk, TuningPlan()).prove()
    reader.close()


def test_a_query_rests_on_the_order_of_its_key(sql, source) -> None:
    query = "SELECT k, id FROM t -- all of it"
    facts = source.introspect(FactsRequest(export_name="q", relation=None, query=query))
    read = replace(planned(facts, BY_K), query=query)
    assert drain(source.open_chunk(read, BY_K, TuningPlan()), PAGE).num_rows == ROWS
    sql.execute(GENERAL)
    refused(lambda: source.open_chunk(read, BY_K, TuningPlan()), "k was ordered by")


def test_a_mark_means_the_order_it_was_taken_in(sql, source) -> None:
    taken = mark_basis(facts_of(source, "t").basis, ("k",))
    assert mark_basis(facts_of(source, "t").basis, ("k",)) == taken
    number = mark_basis(facts_of(source, "t").basis, ("id",))
    sql.execute(GENERAL)
    assert mark_basis(facts_of(source, "t").basis, ("k",)) != taken
    assert mark_basis(facts_of(source, "t").basis, ("id",)) == number


def test_another_server_is_seen_and_no_mark_rests_on_a_place(sql, source) -> None:
    """Both lines say enough of themselves; what MariaDB says names a place and not a source."""
    facts = facts_of(source, "t")
    (own,) = [fact for fact in facts.basis if fact.kind is BasisKind.SOURCE]
    assert source.identify() == (own,)
    assert own.subject == (INSTANCE if sql.mariadb else SERVER)
    assert any(fact.subject == own.subject for fact in mark_basis(facts.basis, ())) is (
        not sql.mariadb
    )
    elsewhere = replace(own, value=f"{own.value}1")
    read = replace(planned(facts, ALL), basis=(elsewhere,))
    assert other_source(read.basis, source.identify())
    (told,) = source.open_chunk(read, ALL, TuningPlan()).prove()
    assert (told.subject, told.consequence) == (own.subject, Consequence.TOLD)


def test_without_the_comparison_rows_are_doubled(sql, source, monkeypatch) -> None:
    """What the refusal is for: the same chunks, read in two orders."""
    keys = ("B3", "B7", "a2")
    cuts = [None, *((key,) for key in keys), None]
    chunks = [
        ChunkRange(kind=RangeKind.KEYSET, columns=("k",), lower=low, upper=high)
        for low, high in itertools.pairwise(cuts)
    ]
    read = planned(facts_of(source, "t"), *chunks)

    def ids(chunk: ChunkRange) -> list[int]:
        return drain(source.open_chunk(read, chunk, TuningPlan()), PAGE).column("id").to_pylist()

    found = [one for chunk in chunks[:2] for one in ids(chunk)]
    sql.execute(GENERAL)
    refused(lambda: ids(chunks[2]), "k was ordered by")
    monkeypatch.setattr(basis, "differences", lambda *_: ())
    found += [one for chunk in chunks[2:] for one in ids(chunk)]
    assert max(Counter(found).values()) == 2


# ---------------------------------------------------------------- at the command line


@pytest.fixture
def desk(tmp_path: Path, mysql_url_any: str) -> Desk:
    return Desk(folder=tmp_path, environment={"SHOP_URL": mysql_url_any})


def configure(desk: Desk, key: str, tuning: str = "") -> None:
    desk.write(
        fleet_yaml(
            table="t",
            source=f"{{type: mysql, url_env: SHOP_URL{tuning}}}",
            extra=f"mode: chunked, chunk_count: 4, chunk_by_key: [{key}]",
            campaign="workers: 1, max_chunk_attempts: 2, lease_ttl_s: 5",
        )
    )


SLOW = ", tuning: {batch_size: 50, throttle_ms: 200, retry_backoff_ms: 50}"


def a_chunk_is_done(desk: Desk) -> bool:
    """One chunk is delivered, and the next one begun or about to."""
    done = "SELECT count(*) FROM chunk_task WHERE status = 'completed'"
    with contextlib.suppress(sqlite3.OperationalError):  # no state yet
        return bool(run_sqlite(desk.state, done)[0][0])
    return False


def test_a_collation_altered_between_plan_and_resume_ends_by_name(sql, desk) -> None:
    configure(desk, "k")
    desk.cli("submit")
    sql.execute(GENERAL)
    done = desk.cli("resume", code=4)
    assert "k was ordered by utf8mb4, utf8mb4_bin and is now utf8mb4" in done.said
    assert "plan the export again" in done.said
    assert not list(desk.out.rglob("_SUCCESS"))
    desk.cli("run", "--new")
    assert desk.delivered("t") == list(range(1, ROWS + 1))


def test_a_collation_altered_under_a_run_ends_by_name(sql, desk) -> None:
    configure(desk, "k", SLOW)
    with ended(desk.start("run", "-c", str(desk.config))) as process:
        until(lambda: a_chunk_is_done(desk), what="a chunk")
        sql.execute(GENERAL)
        done = desk.finish(process, code=4)
    assert "k was ordered by" in done.said
    assert not list(desk.out.rglob("_SUCCESS"))


def test_a_swap_under_a_keyset_run_delivers_every_row_and_is_told(sql, desk) -> None:
    configure(desk, "id", SLOW)
    a_second_later(sql)
    with ended(desk.start("run", "-c", str(desk.config))) as process:
        until(lambda: a_chunk_is_done(desk), what="a chunk")
        run_all(sql, SWAP)
        done = desk.finish(process)
    assert desk.delivered("t") == list(range(1, ROWS + 1))
    assert "2 changes of the source told" in done.said
    told = [one for one in desk.cli("journal", "--json").json if one["event"] == "source.changed"]
    assert sorted(one["data"]["kind"] for one in told) == ["index", "relation"]
    assert all(one["message"] for one in told)
    assert pq.ParquetDataset(next(desk.out.glob("t/*/_SUCCESS")).parent).read().num_rows == ROWS
