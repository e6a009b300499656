"""Incremental runs and time windows over a real PostgreSQL (ADR 0011)."""

from __future__ import annotations

import random
import re

import pytest

from rivet_fleet.contracts.keys import RangeKind
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.execution.chunkreader import PagedReader
from rivet_fleet.execution.sources.postgres.introspect import read_columns
from rivet_fleet.execution.sources.postgres.reading import PostgresReading
from rivet_fleet.execution.types import Footing
from tests.integration.increment_kit import NOW_S, SMALL, Follower, export_of
from tests.integration.postgres_source_kit import drain, source, sql

__all__ = ["source", "sql"]

MOMENT = "timestamptz '2025-06-01 00:00:00+00' + {} * interval '1 microsecond'"


def table(sql, kind: str = "timestamptz", *, key: str = "PRIMARY KEY", index: str = "at") -> None:
    sql.execute(f"CREATE TABLE t (id int {key}, at {kind}, made {kind})")
    if index:
        sql.execute(f"CREATE INDEX t_at ON t ({index})")


def add(sql, first: int, *moments: int | None) -> None:
    for number, moment in enumerate(moments, start=first):
        value = "NULL" if moment is None else MOMENT.format(moment)
        sql.execute(f"INSERT INTO t (id, at) VALUES ({number}, {value})")


@pytest.mark.parametrize("index", ["at", "at, id", "", "id, at"])
def test_ties_at_the_mark_are_neither_lost_nor_doubled(sql, source, index) -> None:
    table(sql, index=index)
    add(sql, 10, 1, 2, 3, 3, 3)
    follower = Follower(source=source, export=export_of(), schema="public")
    assert follower.run() == [10, 11, 12, 13, 14]
    assert follower.run() == []
    add(sql, 15, 3, 3, 4)  # two rows tie with the mark
    planned = follower.plan()
    wanted = {RangeKind.KEYSET} if index.startswith("at") else planned.kinds
    assert planned.kinds == wanted
    assert ("no index begins with at" in planned.warned) == (not index.startswith("at"))
    assert follower.deliver(planned) == [15, 16, 17]
    assert follower.run() == []


def test_what_comes_after_planning_waits_for_the_next_run(sql, source) -> None:
    table(sql)
    add(sql, 1, 5, 6)
    follower = Follower(source=source, export=export_of(), schema="public")
    planned = follower.plan()
    add(sql, 3, 6, 7)
    assert follower.deliver(planned) == [1, 2]
    assert follower.deliver(follower.plan()) == [3, 4]


def test_random_runs_deliver_each_row_exactly_once(sql, source) -> None:
    """Ties, NULLs and rows that arrive between planning and reading; the union is the table."""
    rng, table_rows = random.Random(11), 0
    table(sql, index="at")
    follower = Follower(source=source, export=export_of(), schema="public")
    newest = 0
    for _ in range(12):
        for planned in (None, follower.plan()):
            count = rng.randrange(6)
            # Ids rise with time, as a sequence gives them; cursors tie.
            moments = sorted(rng.randrange(newest, newest + 4) for _ in range(count))
            add(sql, table_rows + 1, *moments)
            table_rows, newest = table_rows + count, max([newest, *moments])
            if planned is not None:
                follower.deliver(planned)
    follower.run()
    assert sorted(one for run in follower.runs for one in run) == list(range(1, table_rows + 1))


def test_a_late_commit_is_read_with_an_overlap(sql, source) -> None:
    table(sql)
    add(sql, 1, 10_000_000, 20_000_000)
    follower = Follower(source=source, export=export_of(cursor_overlap_s=5), schema="public")
    assert follower.run() == [1, 2]
    add(sql, 3, 17_000_000, 12_000_000)  # 3 s and 8 s below the mark
    assert follower.run() == [2, 3]
    assert follower.run() == [2, 3]


def test_coalesce_gives_null_cursors_another_column(sql, source) -> None:
    table(sql)
    follower = Follower(source=source, export=export_of(), schema="public")
    add(sql, 1, 5, None)
    planned = follower.plan()
    assert "at is NULL" in planned.warned
    assert "coalesce" in planned.warned
    assert follower.deliver(planned) == [1]
    knobs = {"incremental_cursor_mode": "coalesce", "cursor_fallback_column": "made"}
    both = Follower(source=source, export=export_of(**knobs), schema="public")
    sql.execute(f"UPDATE t SET made = {MOMENT.format(7)} WHERE id = 2")
    add(sql, 3, 6, None)
    planned = both.plan()
    assert "both at and made are NULL" in planned.warned
    assert both.deliver(planned) == [1, 2, 3]
    sql.execute(f"INSERT INTO t VALUES (5, NULL, {MOMENT.format(7)}), (6, NULL, 'infinity')")
    planned = both.plan()
    assert "infinite" in planned.warned
    assert both.deliver(planned) == [5]


@pytest.mark.parametrize(
    ("kind", "values", "later"),
    [
        ("bigint", ("-5", "0", "9223372036854775806"), "9223372036854775807"),
        ("numeric(12,3)", ("-1.500", "0", "7.125", "'NaN'"), "7.126"),
        ("date", ("'-infinity'", "'2024-02-29'", "'infinity'"), "'2024-03-01'"),
        (
            "timestamp",
            ("'2024-01-01 00:00:00.000001'", "'infinity'"),
            "'2024-01-01 00:00:00.000002'",
        ),
        (
            "timestamptz",
            ("'0044-03-15 12:00+00 BC'", "'2024-01-01 02:00+02'"),
            "'2024-01-01 00:00:00.000001+00'",
        ),
        (
            "uuid",
            ("'00000000-0000-0000-0000-000000000001'",),
            "'f0000000-0000-0000-0000-000000000000'",
        ),
        ("text", ("'a'", r"E'it''s \\ 1'", "'ñ'"), "'ñz'"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
@pytest.mark.parametrize("index", [True, False], ids=["indexed", "unindexed"])
def test_every_cursor_type_is_exact(sql, source, kind, values, later, index) -> None:
    sql.execute("SET TimeZone = 'America/New_York'")
    table(sql, kind, index="at" if index else "")
    for number, value in enumerate(values, start=1):
        sql.execute(f"INSERT INTO t (id, at) VALUES ({number}, {value})")
    endless = {n for n, v in enumerate(values, start=1) if v in ("'NaN'", "'infinity'")}
    follower = Follower(source=source, export=export_of(cursor_is_monotonic=True), schema="public")
    planned = follower.plan()
    assert ("never the mark" in planned.warned) == bool(endless)
    assert follower.deliver(planned) == [n for n in range(1, len(values) + 1) if n not in endless]
    assert follower.run() == []
    sql.execute(f"INSERT INTO t (id, at) VALUES (50, {later})")
    assert follower.run() == [50]
    assert follower.run() == []


def test_no_mark_is_not_a_number_whatever_the_cursor_is_called_and_cast_to(sql, source) -> None:
    """A domain over numeric that is sent as text is ordered as numeric: NaN lies above all."""
    sql.execute("CREATE DOMAIN amount AS numeric")
    table(sql, "amount", index="at")
    for number, value in enumerate(("1", "2", "'NaN'"), start=1):
        sql.execute(f"INSERT INTO t (id, at) VALUES ({number}, {value})")
    export = export_of(cursor_is_monotonic=True, columns={"at": "text"})
    planned = Follower(source=source, export=export, schema="public").plan()
    upper = planned.windowed.window.upper
    assert upper is not None and upper.values[0] == "2"
    assert "never the mark" in planned.warned


def test_without_a_key_equal_values_are_never_cut_apart(sql, source) -> None:
    table(sql, key="NOT NULL")
    follower = Follower(source=source, export=export_of(), schema="public")
    add(sql, 1, 1)
    assert follower.run() == [1]
    add(sql, 2, *([7] * 8), 8)
    planned = follower.plan()
    assert planned.kinds == {RangeKind.SPAN}
    assert "no key tells rows with the same at apart" in planned.warned
    assert follower.deliver(planned) == list(range(2, 11))


def test_the_mark_outlives_the_rows_it_came_from(sql, source) -> None:
    table(sql)
    add(sql, 1, 1, 9)
    follower = Follower(source=source, export=export_of(), schema="public")
    follower.run()
    mark = follower.mark
    sql.execute("DELETE FROM t WHERE id = 2")
    assert follower.run() == []
    assert follower.mark == mark
    empty = Follower(source=source, export=export_of(), schema="public")
    sql.execute("TRUNCATE t")
    assert empty.run() == []
    assert empty.mark is None


def test_the_key_itself_may_be_the_mark(sql, source) -> None:
    table(sql, index="")
    add(sql, 1, 1, None)
    knobs = {"mode": "chunked", "cursor_column": None, "keyset_incremental": True}
    follower = Follower(source=source, export=export_of(chunk_by_key="id", **knobs))
    assert follower.run() == [1, 2]
    add(sql, 3, 0)
    planned = follower.plan()
    assert planned.kinds == {RangeKind.KEYSET}
    assert follower.deliver(planned) == [3]


def test_a_query_is_followed_like_a_table(sql, source) -> None:
    table(sql)
    add(sql, 1, 1, 2)
    query = "SELECT id, at FROM t -- all of it"
    knobs = {"table": None, "query": query}
    follower = Follower(source=source, export=export_of(**knobs))
    planned = follower.plan()
    assert "no key" in planned.warned
    assert follower.deliver(planned) == [1, 2]
    add(sql, 3, 3)
    assert follower.run() == [3]
    keyed = Follower(source=source, export=export_of(chunk_by_key="id", **knobs))
    planned = keyed.plan()
    assert "no key" not in planned.warned  # its rows are the table's, and so is its key
    assert keyed.deliver(planned) == [1, 2, 3]


@pytest.mark.parametrize("index", ["at", ""])
def test_a_time_window_begins_at_its_cutoff(sql, source, index) -> None:
    table(sql, index=index)
    for number, at in enumerate(
        (
            "NULL",
            "to_timestamp({}) - interval '3 days 1 second'",
            "to_timestamp({}) - interval '3 days'",
            "'infinity'",
        ),
        start=1,
    ):
        sql.execute(f"INSERT INTO t (id, at) VALUES ({number}, {at.format(NOW_S)})")
    knobs = {"mode": "time_window", "cursor_column": None, "time_column": "at", "days_window": 3}
    follower = Follower(source=source, export=export_of(**knobs), schema="public")
    planned = follower.plan()
    assert "at is NULL" in planned.warned
    assert follower.deliver(planned) == [3, 4]
    assert follower.mark is None


def test_a_time_window_of_seconds(sql, source) -> None:
    table(sql, "bigint")
    for number, seconds in enumerate((NOW_S - 86_401, NOW_S - 86_400, NOW_S), start=1):
        sql.execute(f"INSERT INTO t (id, at) VALUES ({number}, {seconds:.0f})")
    knobs = {"mode": "time_window", "cursor_column": None, "time_column": "at", "days_window": 1}
    follower = Follower(source=source, export=export_of(time_column_type="unix", **knobs))
    assert follower.run() == [2, 3]


def test_a_run_costs_the_rows_it_reads(sql, source) -> None:
    """Counted by the server: neither planning nor any page walks what former runs have read."""
    table(sql)
    sql.execute(
        "INSERT INTO t SELECT i, timestamptz '2025-06-01' + i / 10 * interval '1 second' "
        "FROM generate_series(1, 5000) i"
    )
    sql.execute("ANALYZE t")
    follower = Follower(source=source, export=export_of(), schema="public")
    assert len(follower.run()) == 5000
    sql.execute("INSERT INTO t SELECT i, '2025-06-02' FROM generate_series(5001, 5020) i")
    planned = follower.plan()
    (chunk,) = planned.choice.ranges
    _, keys = read_columns(source._session, planned.read.relation, None, ("at", "id"))
    engine = PostgresReading(source._session, planned.read, TuningPlan(), keys)
    footing = Footing(planned.read, chunk, lambda: ())
    reader = PagedReader(engine, planned.read, chunk, footing, row_bytes_max=1 << 30)
    pages = []
    engine.open_stream = spy(engine.open_stream, pages)
    assert len(drain(reader, SMALL)) == 20
    assert len(pages) > 5
    for select in pages:
        sql.execute("SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off")
        plan = sql.execute(f"EXPLAIN (ANALYZE, FORMAT TEXT) {select.sql()}").fetchall()
        said = "\n".join(line for (line,) in plan)
        assert "Index" in said, said
        removed = [int(n) for n in re.findall(r"Rows Removed by Filter: (\d+)", said)]
        assert sum(removed) <= 20, said


def spy(open_stream, pages):
    def opened(select, *rest, **options):
        pages.append(select)
        return open_stream(select, *rest, **options)

    return opened


@pytest.mark.parametrize("index", ["at", ""])
def test_a_mark_above_everything_is_told(sql, source, index) -> None:
    """Case 29: a table that was reloaded with older values delivers nothing, for ever."""
    table(sql, index=index)
    add(sql, 1, 50, 60)
    follower = Follower(source=source, export=export_of())
    assert follower.run() == [1, 2]
    assert follower.plan().windowed.beyond is None, "nothing is new, and the mark's row is there"
    sql.execute("DELETE FROM t WHERE id = 2")
    add(sql, 3, 10, 20)
    assert "the greatest at (2025" in (follower.plan().windowed.beyond or "")
    sql.execute("DELETE FROM t")
    sql.execute("INSERT INTO t (id, at) VALUES (9, NULL)")
    assert "no row has a at any more" in (follower.plan().windowed.beyond or "")
    sql.execute("DELETE FROM t")
    assert "no row has a at any more" in (follower.plan().windowed.beyond or "")
    assert follower.run() == []
    add(sql, 5, 61)
    assert follower.plan().windowed.beyond is None
    assert follower.run() == [5], "a mark goes on as soon as something lies above it"


def test_a_row_that_ties_with_a_mark_whose_own_row_is_gone_is_no_reload(sql, source) -> None:
    table(sql)
    add(sql, 1, 50, 50)
    follower = Follower(source=source, export=export_of())
    assert follower.run() == [1, 2]
    sql.execute("DELETE FROM t WHERE id = 2")
    assert follower.plan().windowed.beyond is None
    coalesced = {"incremental_cursor_mode": "coalesce", "cursor_fallback_column": "made"}
    follower = Follower(source=source, export=export_of(**coalesced))
    assert follower.run() == [1]
    sql.execute("UPDATE t SET at = NULL, made = '2001-01-01 00:00:00'")
    assert "coalesce(at, made) (2001" in (follower.plan().windowed.beyond or "")


def test_keys_that_were_numbered_anew_are_told(sql, source) -> None:
    table(sql)
    add(sql, 100, 1, 2, 3)
    keyed = {"mode": "chunked", "keyset_incremental": True, "chunk_by_key": "id"}
    follower = Follower(source=source, export=export_of(cursor_column=None, **keyed))
    assert follower.run() == [100, 101, 102]
    sql.execute("UPDATE t SET id = id - 99")
    assert "the greatest id (3) lies below the mark (102)" in (
        follower.plan().windowed.beyond or ""
    )
    assert follower.run() == []
