"""Tables as data, their rows, and the figures that tell two copies apart."""

import csv
import io

import duckdb
import numpy as np
import pytest

from bench.checks import Dialect, of_column, same, statement
from bench.generate import hashes, write_events, write_wide
from bench.schema import EVENTS, LINEITEM, TABLES, WIDE, Engine, Kind


def rows_of(engine: Engine, count: int) -> list[list[str]]:
    sink = io.BytesIO()
    write_wide(count, sink, engine)
    return list(
        csv.reader(io.StringIO(sink.getvalue().decode()), "excel-tab", quoting=csv.QUOTE_NONE)
    )


def test_hashes_are_the_same_everywhere():
    # splitmix64's own test vector: the first output of the generator seeded with 0.
    assert int(hashes(np.array([1]), 0)[0]) == 0xE220A8397B1DCDAF


def test_events_are_one_line_a_row():
    sink = io.BytesIO()
    write_events(3, sink)
    lines = sink.getvalue().decode().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["1", "2", "3"]
    assert {line.count("\t") for line in lines} == {len(EVENTS.columns) - 1}


def test_wide_rows_are_about_four_kilobytes_and_a_fifth_is_null():
    rows = rows_of(Engine.POSTGRES, 300)
    assert {len(row) for row in rows} == {len(WIDE.columns)}
    width = sum(len(cell) for row in rows for cell in row) / len(rows)
    nullable = [i for i, c in enumerate(WIDE.columns) if "NOT NULL" not in c.postgres]
    nulls = sum(row[i] == "\\N" for row in rows for i in nullable) / (len(rows) * len(nullable))
    assert 3500 < width < 4800
    assert 0.17 < nulls < 0.23


def test_both_engines_get_the_same_but_for_the_form_of_arrays():
    postgres, mariadb = rows_of(Engine.POSTGRES, 20), rows_of(Engine.MARIADB, 20)
    arrays = [i for i, column in enumerate(WIDE.columns) if column.kind is Kind.LIST]
    for one, other in zip(postgres, mariadb, strict=True):
        assert all(
            a == b for i, (a, b) in enumerate(zip(one, other, strict=True)) if i not in arrays
        )
    labels = arrays[1]
    assert any(row[labels].startswith("{region-") and ",NULL," in row[labels] for row in postgres)
    assert any(row[labels].startswith('["region-') and " null," in row[labels] for row in mariadb)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("engine", Engine)
def test_ddl_names_every_column_and_the_key(table, engine):
    ddl = table.ddl(engine)
    assert all(f"    {column.name} " in ddl for column in table.columns)
    assert f"PRIMARY KEY ({', '.join(table.key)})" in ddl


def test_a_digest_changes_with_rows_engine_and_shape():
    digests = {
        LINEITEM.digest(Engine.POSTGRES, "1"),
        LINEITEM.digest(Engine.POSTGRES, "2"),
        LINEITEM.digest(Engine.MARIADB, "1"),
        EVENTS.digest(Engine.POSTGRES, "1"),
    }
    assert len(digests) == 4


def test_a_subset_has_its_own_name_and_the_same_columns():
    some = EVENTS.first(100)
    assert (some.name, some.columns, some.subset_of) == ("events_100", EVENTS.columns, "events")


@pytest.mark.parametrize("dialect", Dialect)
def test_a_check_asks_three_figures_a_column(dialect):
    engine = Engine.MARIADB if dialect is Dialect.MARIADB else Engine.POSTGRES
    sql = statement(WIDE.columns, dialect, engine, "t")
    assert sql.startswith("SELECT count(*), count(") and sql.endswith(" FROM t")
    answer = [str(n) for n in range(1 + 3 * len(WIDE.columns))]
    assert of_column(answer, 1) == ("4", "5", "6")


@pytest.mark.parametrize(
    ("kind", "wanted", "found", "equal"),
    [
        (Kind.DECIMAL, "10.50", "10.5", True),
        (Kind.DECIMAL, "10.50", "10.51", False),
        (Kind.DOUBLE, "1000000.0001", "1000000.0002", True),
        (Kind.DOUBLE, "1000000", "1000001", False),
        (Kind.TEXT, "NULL", "None", True),
        (Kind.TEXT, "NULL", "0", False),
    ],
)
def test_figures_are_compared_as_numbers(kind, wanted, found, equal):
    assert same(kind, [wanted], [found]) is equal


def test_single_precision_is_noticed():
    column = next(column for column in EVENTS.columns if column.kind is Kind.DOUBLE)
    sql = statement([column], Dialect.DUCKDB, Engine.POSTGRES, "t")
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE t AS SELECT n / 7.0 AS reading FROM range(1000) r(n)")
        exact = [str(value) for value in connection.execute(sql).fetchall()[0]]
        connection.execute("UPDATE t SET reading = reading::float")
        rough = [str(value) for value in connection.execute(sql).fetchall()[0]]
    assert same(Kind.DOUBLE, of_column(exact, 0), of_column(exact, 0))
    assert not same(Kind.DOUBLE, of_column(exact, 0), of_column(rough, 0))
