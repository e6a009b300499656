"""Windows and dense chunks over MySQL and MariaDB: each row in exactly one (ADR 0012, S1)."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from rivet_fleet.contracts.facts import FactsRequest
from rivet_fleet.contracts.keys import RelationName
from rivet_fleet.execution.engines import facts
from rivet_fleet.planning.request import with_probed_rows
from tests.integration.fleet_cli import Desk
from tests.integration.mysql_source_kit import source, sql
from tests.integration.shapes_kit import assert_each_once, cut, ids_by_chunk, look, shaped

__all__ = ["source", "sql"]

HOSTILE = (
    "'0000-00-00'",
    "'2024-00-00'",
    "'2024-02-28 23:59:59.999999'",
    "'2024-02-29 00:00:00'",
    "'2024-02-29 23:59:59.999999'",
    "'2024-03-01'",
    "'2024-03-10 07:30:00'",
    "'2024-12-31 23:59:59.999999'",
)


def fill(sql, kind: str, values, *, index: bool) -> int:
    """The values as they are, in a session whose zone and mode allow all of them."""
    sql.execute("SET sql_mode = '', time_zone = '+00:00'")
    sql.execute(f"CREATE TABLE t (id int PRIMARY KEY, at {kind})")
    for number, value in enumerate(values, start=1):
        sql.execute(f"INSERT INTO t VALUES ({number}, {value})")
    if index:
        sql.execute("CREATE INDEX t_at ON t (at)")
    sql.execute("ANALYZE TABLE t")
    return len(values)


@pytest.mark.parametrize("index", [True, False], ids=["indexed", "unindexed"])
@pytest.mark.parametrize(
    "kind", ["date NULL", "datetime(6) NULL", "datetime(6) NOT NULL", "date NOT NULL"]
)
@pytest.mark.parametrize("knobs", [{"chunk_by_days": 30}, {"chunk_count": 4}], ids=str)
def test_windows_hold_each_row_once_zero_dates_too(source, sql, kind, index, knobs) -> None:
    empty = ("NULL", "NULL") if "NOT" not in kind else ()
    rows = fill(sql, kind, (*HOSTILE, *empty), index=index)
    export = shaped(chunk_column="at", **knobs)
    facts = look(source, export, schema="")
    choice = cut(facts, export)
    assert len(choice.ranges) >= 4
    assert_each_once(ids_by_chunk(source, facts, choice), rows)


@pytest.mark.parametrize("index", [True, False], ids=["indexed", "unindexed"])
def test_instants_are_cut_in_utc_whatever_the_servers_zone(source, sql, index) -> None:
    values = ("NULL", "'2024-03-10 04:59:59'", "'2024-03-10 05:00:00'", "'2024-03-11 23:59:59'")
    rows = fill(sql, "timestamp(6) NULL", values, index=index)
    export = shaped(chunk_column="at", chunk_by_days=1)
    facts = look(source, export, schema="")
    chunks = ids_by_chunk(source, facts, cut(facts, export))
    assert_each_once(chunks, rows)
    assert [2, 3] in [sorted(one) for one in chunks]


def test_dense_chunks_of_a_skewed_key_hold_exactly_chunk_size_rows(source, sql) -> None:
    sql.numbers(2003)
    sql.execute("CREATE TABLE t (id int PRIMARY KEY, ref bigint unsigned NOT NULL UNIQUE)")
    sql.execute(
        "INSERT INTO t SELECT i, if(i < 1500, i, 18446744073709551615 - (2003 - i) * 1000) "
        "FROM numbers"
    )
    sql.execute("ANALYZE TABLE t")
    export = shaped(chunk_column="ref", chunk_dense=True, chunk_size=250)
    facts = look(source, export, schema="")
    chunks = ids_by_chunk(source, facts, cut(facts, export))
    assert [len(one) for one in chunks] == [250] * 8 + [3]
    assert_each_once(chunks, 2003)


def test_partitions_are_delivered_with_their_nulls_and_zero_dates(
    sql, mysql_url_any, tmp_path
) -> None:
    fill(sql, "datetime(6) NULL", ("NULL", *HOSTILE, "'2024-04-01'"), index=True)
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": mysql_url_any})
    desk.write(
        "source: {type: mysql, url_env: SHOP_URL}\n"
        "campaign: {name: parts, workers: 1}\n"
        "exports:\n"
        "  - {name: t, table: t, format: parquet, on_unrepresentable: coerce, partition_by: at,\n"
        "     partition_granularity: month, meta_columns: {row_hash: [id]},\n"
        "     destination: {type: local, path: 'out/{partition}'}}\n"
    )
    desk.cli("run")
    found = {
        part.parents[1].name: sorted(
            pq.read_table(part, partitioning=None).column("id").to_pylist()
        )
        for part in desk.out.glob("*/*/*.parquet")
    }
    assert found == {
        "at=2024-01": [2, 3],  # 0000-00-00 and 2024-00-00: the first partition is open below
        "at=2024-02": [4, 5, 6],
        "at=2024-03": [7, 8],
        "at=2024-04": [10],
        "at=2024-12": [9],
        "at=__HIVE_DEFAULT_PARTITION__": [1],
    }
    assert len(list(desk.out.glob("*/_SUCCESS"))) == 13, "empty months, too"
    desk.cli("validate", "--depth", "full")


def test_a_probe_counts_a_sparse_key(source, sql, monkeypatch) -> None:
    sql.numbers(2000)
    sql.execute("CREATE TABLE t (id bigint unsigned PRIMARY KEY)")
    sql.execute("INSERT INTO t SELECT i * 2000 FROM numbers")
    sql.execute("ANALYZE TABLE t")
    monkeypatch.setattr(facts, "SMALL_ROWS", 100)
    found = source.introspect(
        FactsRequest(
            export_name="t",
            relation=RelationName(schema="", name="t"),
            query=None,
            boundaries_max=0,
            probe_density=True,
        )
    )
    assert with_probed_rows(found).row_estimate == pytest.approx(2000, rel=0.15)
