"""Incremental runs and time windows over MySQL and MariaDB (ADR 0011)."""

from __future__ import annotations

import random

import pytest

from rivet_fleet.contracts.keys import RangeKind
from rivet_fleet.contracts.window import mark_text
from tests.integration.increment_kit import NOW_S, Follower, export_of
from tests.integration.mysql_source_kit import source, sql

__all__ = ["source", "sql"]


def table(sql, kind: str = "datetime(6)", *, index: str = "at", key: str = "PRIMARY KEY") -> None:
    sql.execute("SET sql_mode = '', time_zone = '+00:00'")
    sql.execute(f"CREATE TABLE t (id int NOT NULL {key}, at {kind} NULL, made {kind} NULL)")
    if index:
        sql.execute(f"CREATE INDEX t_at ON t ({index})")


def moment(micros: int) -> str:
    return f"'2025-06-01 00:00:{micros // 1_000_000:02}.{micros % 1_000_000:06}'"


def add(sql, first: int, *moments: int | None) -> None:
    for number, one in enumerate(moments, start=first):
        value = "NULL" if one is None else moment(one)
        sql.execute(f"INSERT INTO t (id, at) VALUES ({number}, {value})")


@pytest.mark.parametrize("index", ["at", "at, id", "", "id, at"])
def test_ties_at_the_mark_are_neither_lost_nor_doubled(sql, source, index) -> None:
    table(sql, index=index)
    add(sql, 10, 1, 2, 3, 3, 3)
    follower = Follower(source=source, export=export_of())
    assert follower.run() == [10, 11, 12, 13, 14]
    assert follower.run() == []
    add(sql, 15, 3, 3, 4)  # two rows tie with the mark
    planned = follower.plan()
    wanted = {RangeKind.KEYSET} if index.startswith("at") else planned.kinds
    assert planned.kinds == wanted
    assert follower.deliver(planned) == [15, 16, 17]
    assert follower.run() == []


def test_a_mark_that_knows_the_cursor_alone_is_gone_on_from_behind_all_its_ties(
    sql, source
) -> None:
    table(sql)
    add(sql, 10, 1, 3, 3)
    at = moment(3).strip("'")
    follower = Follower(
        source=source, export=export_of(), mark=mark_text(("at", "id"), None, (at,))
    )
    assert follower.run() == []
    add(sql, 13, 4, 4)
    assert follower.run() == [13, 14]
    assert follower.run() == []


def test_random_runs_deliver_each_row_exactly_once(sql, source) -> None:
    rng, table_rows = random.Random(12), 0
    table(sql)
    follower = Follower(source=source, export=export_of())
    newest = 0
    for _ in range(8):
        for planned in (None, follower.plan()):
            count = rng.randrange(6)
            moments = sorted(rng.randrange(newest, newest + 4) for _ in range(count))
            add(sql, table_rows + 1, *moments)
            table_rows, newest = table_rows + count, max([newest, *moments])
            if planned is not None:
                follower.deliver(planned)
    follower.run()
    assert sorted(one for run in follower.runs for one in run) == list(range(1, table_rows + 1))


def test_a_late_commit_is_read_with_an_overlap(sql, source) -> None:
    table(sql, "timestamp(6)")
    add(sql, 1, 10_000_000, 20_000_000)
    follower = Follower(source=source, export=export_of(cursor_overlap_s=5))
    assert follower.run() == [1, 2]
    add(sql, 3, 17_000_000, 12_000_000)  # 3 s and 8 s below the mark
    assert follower.run() == [2, 3]


@pytest.mark.parametrize("kind", ["datetime(6)", "timestamp(6)", "date"])
def test_coalesce_gives_null_cursors_another_column(sql, source, kind) -> None:
    table(sql, kind)
    knobs = {"incremental_cursor_mode": "coalesce", "cursor_fallback_column": "made"}
    follower = Follower(source=source, export=export_of(**knobs))
    sql.execute(
        "INSERT INTO t VALUES (1, '2025-01-05', NULL), (2, NULL, '2025-01-06'), (3, NULL, NULL)"
    )
    planned = follower.plan()
    assert "both at and made are NULL" in planned.warned
    assert follower.deliver(planned) == [1, 2]
    sql.execute("INSERT INTO t VALUES (4, NULL, '2025-01-06'), (5, '2025-01-07', '2024-01-01')")
    assert follower.run() == [4, 5]
    assert follower.run() == []


@pytest.mark.parametrize(
    ("kind", "values", "later"),
    [
        ("bigint", ("-5", "0"), "9223372036854775807"),
        ("bigint unsigned", ("0", "18446744073709551614"), "18446744073709551615"),
        ("decimal(12,3)", ("-1.500", "0", "7.125"), "7.126"),
        ("date", ("'0000-00-00'", "'2024-02-29'"), "'2024-03-01'"),
        ("datetime(6)", ("'0000-00-00'", "'2024-03-10 02:30:00.000001'"), "'2024-03-10 02:30:01'"),
        ("datetime", ("'2024-03-10 02:30:00'",), "'2024-03-10 02:30:01'"),
        ("timestamp(6)", ("'2024-03-10 07:00:00'",), "'2024-03-10 07:00:00.000001'"),
        ("varchar(30)", ("'a'", r"'it''s \\ 1'", "'Ñ'"), "'zz'"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
@pytest.mark.parametrize("index", [True, False], ids=["indexed", "unindexed"])
def test_every_cursor_type_is_exact(sql, source, kind, values, later, index) -> None:
    table(sql, kind, index="at" if index else "")
    for number, value in enumerate(values, start=1):
        sql.execute(f"INSERT INTO t (id, at) VALUES ({number}, {value})")
    follower = Follower(source=source, export=export_of(cursor_is_monotonic=True))
    assert follower.run() == list(range(1, len(values) + 1))
    assert follower.run() == []
    sql.execute(f"INSERT INTO t (id, at) VALUES (50, {later})")
    assert follower.run() == [50]
    assert follower.run() == []


def test_without_a_key_equal_values_are_never_cut_apart(sql, source) -> None:
    table(sql, key="")
    follower = Follower(source=source, export=export_of())
    add(sql, 1, 1)
    assert follower.run() == [1]
    add(sql, 2, *([7] * 8), 8)
    planned = follower.plan()
    assert planned.kinds == {RangeKind.SPAN}
    assert follower.deliver(planned) == list(range(2, 11))


def test_a_query_and_a_key_as_the_mark(sql, source) -> None:
    table(sql, index="")
    add(sql, 1, 1, 2)
    query = Follower(source=source, export=export_of(table=None, query="SELECT * FROM t # all"))
    knobs = {"mode": "chunked", "cursor_column": None, "keyset_incremental": True}
    keyed = Follower(source=source, export=export_of(chunk_by_key="id", **knobs))
    assert query.run() == keyed.run() == [1, 2]
    add(sql, 3, 3)
    assert query.run() == keyed.run() == [3]
    assert query.run() == keyed.run() == []


@pytest.mark.parametrize("kind", ["datetime", "timestamp", "date"])
def test_a_time_window_begins_at_its_cutoff_in_utc(sql, source, kind) -> None:
    table(sql, kind)
    sql.execute(
        "INSERT INTO t (id, at) VALUES (1, NULL), (2, '2025-12-28 23:59:59'), (3, '2025-12-29'), "
        "(4, '2025-12-31 23:59:59')"
    )
    knobs = {"mode": "time_window", "cursor_column": None, "time_column": "at", "days_window": 3}
    planned = Follower(source=source, export=export_of(**knobs)).plan(now_s=NOW_S)
    assert "at is NULL" in planned.warned
    assert sorted(planned.ids()) == [3, 4]


def test_a_run_costs_the_rows_it_reads(sql, source) -> None:
    """Counted by the server: neither planning nor any page walks what former runs have read."""
    sql.numbers(2000)
    table(sql)
    sql.execute(
        "INSERT INTO t SELECT i, '2025-06-01' + INTERVAL i DIV 10 SECOND, NULL FROM numbers"
    )
    sql.execute("ANALYZE TABLE t")
    follower = Follower(source=source, export=export_of())
    assert len(follower.run()) == 2000
    sql.execute("INSERT INTO t SELECT i + 2000, '2025-06-02', NULL FROM numbers WHERE i <= 20")
    before = rows_read(sql)
    assert len(follower.run()) == 20
    # Half of what walking the 2,000 once would cost; MySQL reads 535 with its dictionary.
    assert rows_read(sql) - before < 1000


def rows_read(sql) -> int:
    found = sql.execute("SHOW GLOBAL STATUS LIKE 'Handler_read%'")
    moving = ("Handler_read_next", "Handler_read_prev", "Handler_read_rnd_next")
    return sum(int(value) for name, value in found if name in moving)


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
