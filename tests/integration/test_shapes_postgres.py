"""Windows, dense chunks and partitions over PostgreSQL: each row in exactly one (ADR 0012, S1)."""

from __future__ import annotations

import pytest

from rivet_fleet.contracts.facts import FactsRequest
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.errors import SourceUnavailable
from rivet_fleet.execution.source import PageLimit
from rivet_fleet.planning.request import with_probed_rows
from tests.integration.postgres_source_kit import read_plan, relation, source, sql
from tests.integration.shapes_kit import assert_each_once, cut, ids_by_chunk, look, shaped

__all__ = ["source", "sql"]

HOSTILE = (
    "NULL",
    "NULL",
    "'-infinity'",
    "'infinity'",
    "'2024-02-28 23:59:59.999999'",
    "'2024-02-29 00:00:00'",
    "'2024-02-29 23:59:59.999999'",
    "'2024-03-01'",
    "'2024-03-10 06:59:59'",  # America/New_York springs forward
    "'2024-03-10 07:00:00'",
    "'2024-03-10 07:30:00'",
    "'2024-11-03 05:30:00'",  # and falls back: the hour happens twice
    "'2024-11-03 06:30:00'",
    "'2024-12-31 23:59:59.999999'",
)


def fill(sql, kind: str, values=HOSTILE, *, index: bool = True) -> int:
    """The values as moments in UTC, in a database whose own zone is not."""
    name = sql.info.dbname
    sql.execute(f"ALTER DATABASE {name} SET timezone = 'America/New_York'")
    sql.execute(f"CREATE TABLE t (id int PRIMARY KEY, at {kind})")
    sql.execute("SET timezone = 'UTC'")
    for number, value in enumerate(values, start=1):
        sql.execute(f"INSERT INTO t VALUES ({number}, {value}::{kind})")
    if index:
        sql.execute("CREATE INDEX ON t (at)")
    sql.execute("ANALYZE t")
    return len(values)


@pytest.mark.parametrize("index", [True, False], ids=["indexed", "unindexed"])
@pytest.mark.parametrize("kind", ["date", "timestamp", "timestamptz"])
def test_day_windows_hold_each_row_once_whatever_the_zone(source, sql, kind, index) -> None:
    rows = fill(sql, kind, index=index)
    export = shaped(chunk_column="at", chunk_by_days=1)
    facts = look(source, export, schema="public")
    choice = cut(facts, export)
    assert len(choice.ranges) == 308 + 1, "2024-02-28 to 2024-12-31, and the NULLs"
    kinds = {one.kind.value for one in choice.ranges}
    assert kinds == {"span" if index else "window", "nulls"}
    assert_each_once(ids_by_chunk(source, facts, choice), rows)
    leap = next(one for one in choice.ranges if one.lower and one.lower[0][:10] == "2024-02-29")
    assert leap.upper is not None
    assert leap.upper[0][:10] == "2024-03-01"


@pytest.mark.parametrize("kind", ["date", "timestamp", "timestamptz"])
def test_ranges_of_moments_hold_each_row_once(source, sql, kind) -> None:
    ancient = (
        "'0044-03-15 BC'",
        "'0001-12-31 BC'",
        "'0001-01-01'",
        "'9999-12-31'",
        "'10000-01-01'",
    )
    rows = fill(sql, kind, (*HOSTILE, *ancient))
    export = shaped(chunk_column="at", chunk_count=9)
    facts = look(source, export, schema="public")
    choice = cut(facts, export)
    assert len(choice.ranges) == 9 + 1
    assert_each_once(ids_by_chunk(source, facts, choice), rows)


def test_windows_over_dates_before_christ(source, sql) -> None:
    values = ("'0044-03-15 BC'", "'0001-12-31 BC'", "'0001-01-01'", "'2024-02-29'")
    rows = fill(sql, "date", values)
    export = shaped(chunk_column="at", chunk_by_days=3652)
    facts = look(source, export, schema="public")
    assert_each_once(ids_by_chunk(source, facts, cut(facts, export)), rows)


def test_a_day_with_more_rows_than_a_page_is_streamed(source, sql) -> None:
    sql.execute("CREATE TABLE t (id int PRIMARY KEY, at date NOT NULL)")
    sql.execute(
        "INSERT INTO t SELECT i, date '2024-01-01' + CASE WHEN i % 10 = 0 THEN i % 7 ELSE 3 END "
        "FROM generate_series(1, 9000) i"
    )
    sql.execute("CREATE INDEX ON t (at)")
    sql.execute("ANALYZE t")
    export = shaped(chunk_column="at", chunk_by_days=2)
    facts = look(source, export, schema="public")
    choice = cut(facts, export)
    assert len(choice.ranges) == 4
    assert_each_once(ids_by_chunk(source, facts, choice), 9000)


def test_dense_chunks_of_a_skewed_key_hold_exactly_chunk_size_rows(source, sql) -> None:
    sql.execute("CREATE TABLE t (id int PRIMARY KEY, ref bigint UNIQUE NOT NULL)")
    sql.execute(
        "INSERT INTO t SELECT i, CASE WHEN i < 4000 THEN i ELSE i::bigint * i * 1000 END "
        "FROM generate_series(1, 5003) i"
    )
    export = shaped(chunk_column="ref", chunk_dense=True, chunk_size=500)
    facts = look(source, export, schema="public")
    choice = cut(facts, export)
    chunks = ids_by_chunk(source, facts, choice)
    assert [len(one) for one in chunks] == [500] * 10 + [3]
    assert_each_once(chunks, 5003)
    assert choice.warnings == ()
    sql.execute("INSERT INTO t SELECT 5003 + i, -i FROM generate_series(1, 40) i")
    sql.execute("DELETE FROM t WHERE id BETWEEN 2001 AND 2100")
    again = sorted(one for chunk in ids_by_chunk(source, facts, choice) for one in chunk)
    assert again == [*range(1, 2001), *range(2101, 5044)], "S3: no ordinal to be wrong about"


def test_dense_chunks_keep_equal_values_together(source, sql) -> None:
    sql.execute("CREATE TABLE t (id int PRIMARY KEY, kind int NOT NULL)")
    sql.execute(
        "INSERT INTO t SELECT i, CASE WHEN i <= 900 THEN 7 ELSE i / 3 END "
        "FROM generate_series(1, 2000) i"
    )
    sql.execute("CREATE INDEX ON t (kind)")
    export = shaped(chunk_column="kind", chunk_dense=True, chunk_size=250)
    facts = look(source, export, schema="public")
    chunks = ids_by_chunk(source, facts, cut(facts, export))
    assert_each_once(chunks, 2000)
    assert max(len(one) for one in chunks) == 900
    assert sorted(len(one) for one in chunks)[-2] <= 252


def test_one_window_without_an_index_leaves_the_nulls_to_their_own_chunk(source, sql) -> None:
    rows = fill(sql, "date", ("NULL", "'2024-01-01'", "'2024-01-01'"), index=False)
    export = shaped(chunk_column="at", chunk_by_days=1)
    facts = look(source, export, schema="public")
    choice = cut(facts, export)
    assert len(choice.ranges) == 2
    assert_each_once(ids_by_chunk(source, facts, choice), rows)


def test_extremes_are_those_within_the_calendar(source, sql) -> None:
    fill(sql, "timestamptz")
    (key,) = look(source, shaped(chunk_column="at"), schema="public").keys
    assert key.minimum is not None
    assert key.maximum is not None
    assert (key.minimum[0], key.maximum[0]) == (
        "2024-02-28 23:59:59.999999+00",
        "2024-12-31 23:59:59.999999+00",
    )


def test_a_streamed_value_that_was_begun_is_never_continued(source, sql) -> None:
    sql.execute("CREATE TABLE t (id int PRIMARY KEY, at date NOT NULL)")
    sql.execute("INSERT INTO t SELECT i, date '2024-01-01' FROM generate_series(1, 3000) i")
    sql.execute("CREATE INDEX ON t (at)")
    export = shaped(chunk_column="at", chunk_by_days=1)
    facts = look(source, export, schema="public")
    (window,) = cut(facts, export).ranges
    reader = source.open_chunk(read_plan(facts), window, TuningPlan())
    limit = PageLimit(rows_max=500, bytes_max=1 << 20)
    while not reader.read_page(limit).batch.num_rows:
        assert reader.resumable
    assert not reader.resumable
    with pytest.raises(SourceUnavailable, match="cannot be continued"):
        reader.reconnect()
    reader.close()


def test_a_probe_finds_what_stale_statistics_hide(source, sql) -> None:
    sql.execute("CREATE TABLE t (id bigint PRIMARY KEY) WITH (autovacuum_enabled = off)")
    sql.execute("INSERT INTO t SELECT i * 500 FROM generate_series(1, 40000) i")
    facts = source.introspect(
        FactsRequest(
            export_name="t",
            relation=relation("t"),
            query=None,
            boundaries_max=0,
            probe_density=True,
        )
    )
    (key,) = facts.keys
    assert key.probed is not None
    assert key.probed.keys == 500_000
    probed = with_probed_rows(facts)
    assert probed.row_estimate_provenance == "sample"
    assert probed.row_estimate == pytest.approx(40_000, rel=0.15)
