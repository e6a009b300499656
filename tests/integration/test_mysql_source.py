"""MySQL and MariaDB, real servers: every kind of range holds every row once."""

from __future__ import annotations

import random

import pytest

from rivet_fleet.contracts.columns import TypeKind
from rivet_fleet.contracts.facts import FactsRequest
from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.execution.source import PageLimit
from tests.integration.mysql_source_kit import (
    drain,
    facts_of,
    partition_by_key,
    random_cuts,
    read_all,
    read_plan,
    source,
    sql,
)

__all__ = ["source", "sql"]
ROWS = 3000
ALL = list(range(1, ROWS + 1))
WORDS = "concat(elt(1 + i % 4, 'a', 'B', '_é''\\\\', '😀 '), i)"


def test_a_collation_that_takes_letters_for_equal_orders_pages_and_boundaries(sql, source) -> None:
    sql.numbers(ROWS)
    sql.execute(
        "CREATE TABLE t (k varchar(20) COLLATE utf8mb4_general_ci NOT NULL PRIMARY KEY, "
        "n int NOT NULL)"
    )
    sql.execute(
        "INSERT INTO t SELECT if(i % 2, upper(conv(i * 977, 10, 36)), lower(conv(i * 977, 10, 36)))"
        ", i FROM numbers"
    )
    facts = facts_of(source, "t")
    # A bound that differs from the row's key only in case names the same place.
    swapped = [(key[0].swapcase(),) for key in facts.keys[0].boundaries]
    cuts = random_cuts(swapped, random.Random(5))
    got = partition_by_key(source, read_plan(facts), RangeKind.KEYSET, ("k",), cuts)
    assert sorted(got.column("n").to_pylist()) == ALL


def test_an_empty_table_and_a_query(sql, source) -> None:
    sql.execute("CREATE TABLE t (n int NOT NULL PRIMARY KEY)")
    facts = facts_of(source, "t")
    assert facts.keys[0].minimum is None
    for kind in (RangeKind.WHOLE, RangeKind.KEYSET, RangeKind.SPAN):
        columns = () if kind is RangeKind.WHOLE else ("n",)
        got = read_all(source, read_plan(facts), ChunkRange(kind=kind, columns=columns))
        assert got.num_rows == 0
    sql.numbers(ROWS)
    query = "SELECT i AS k, i * 1.5 AS v, upper('ä%d') AS \"w\" FROM numbers -- done;"
    query = query.replace('"w"', "`w`")
    facts = source.introspect(
        FactsRequest(export_name="q", relation=None, query=query, key_columns=("k",))
    )
    assert facts.keys[0].minimum == ("1",) and facts.keys[0].maximum == (str(ROWS),)
    casts = (("v", "decimal(10,3)"),)
    facts = source.introspect(
        FactsRequest(export_name="q", relation=None, query=query, casts=casts)
    )
    assert facts.row_estimate_provenance == "explain" and facts.row_estimate
    read = read_plan(facts, casts, query)
    got = read_all(source, read, ChunkRange(kind=RangeKind.SPAN, columns=("k",)))
    assert got.column("k").to_pylist() == ALL
    assert str(got.column("v")[0]) == "1.500" and got.column("w")[0].as_py() == "Ä%D"


def test_rows_that_are_small_on_the_wire_do_not_make_large_pieces(sql, source) -> None:
    """Nine bytes on the wire may be hundreds in Arrow: a block of them is decoded at once."""
    sql.numbers(20_000)
    chunk = ChunkRange(kind=RangeKind.KEYSET, columns=("i",))
    reader = source.open_chunk(read_plan(facts_of(source, "numbers")), chunk, TuningPlan())
    limit = PageLimit(
        rows_max=20_000, bytes_max=1 << 20, piece_rows_max=1000, piece_bytes_max=16 * 1024
    )
    pages = [reader.read_page(limit)]
    while not pages[-1].last:
        pages.append(reader.read_page(limit))
    reader.close()
    assert [i for page in pages for i in page.batch.column("i").to_pylist()] == list(
        range(1, 20_001)
    )
    assert max(page.batch.num_rows for page in pages) < 2000


def test_a_page_far_over_its_bytes_is_cut_and_continued(sql, source) -> None:
    sql.numbers(700)
    sql.execute("CREATE TABLE t (k int NOT NULL PRIMARY KEY, pad mediumtext)")
    sql.execute(
        "INSERT INTO t SELECT i, if(i > 500, repeat(left(sha2(i, 256), 32), 3000), null) "
        "FROM numbers"
    )
    read = read_plan(facts_of(source, "t"))
    for kind in (RangeKind.KEYSET, RangeKind.SPAN):
        reader = source.open_chunk(read, ChunkRange(kind=kind, columns=("k",)), TuningPlan())
        rows: list[int] = []
        while True:
            page = reader.read_page(PageLimit(rows_max=1000, bytes_max=1 << 20))
            assert page.wire_bytes < 4 << 20
            rows += page.batch.column("k").to_pylist()
            if page.last:
                break
        assert rows == list(range(1, 701))


def handler_reads(sql, select: str) -> int:
    """How many index entries the server touches for a statement."""
    sql.execute("FLUSH STATUS")
    sql.execute(select)
    counted = dict(sql.execute("SHOW SESSION STATUS LIKE 'Handler_read%'"))
    return sum(int(value) for value in counted.values())


@pytest.mark.parametrize(
    ("columns", "lower", "upper"),
    [
        (("a", "b", "c"), ("25", "m", "7"), None),
        (("a", "b", "c"), ("25", "m", "7"), ("40", "x", "1")),
        (("u",), ("k150",), ("k400",)),
        (("s",), ("2000",), None),
    ],
)
def test_a_page_reads_its_own_rows_only(sql, source, columns, lower, upper) -> None:
    sql.numbers(5000)
    sql.execute(
        "CREATE TABLE t (a int NOT NULL, b varchar(9) NOT NULL, c int NOT NULL, u char(9) "
        "CHARACTER SET latin1 NOT NULL, s int NOT NULL, pad varchar(100), "
        "PRIMARY KEY (a, b, c), UNIQUE (u), KEY (s))"
    )
    sql.execute(
        "INSERT INTO t SELECT i % 50, char(97 + i % 26), i, concat('k', i), i, repeat('x', 90) "
        "FROM numbers"
    )
    sql.execute("ANALYZE TABLE t")
    facts = facts_of(source, "t")
    kind = RangeKind.SPAN if columns == ("s",) else RangeKind.KEYSET
    chunk = ChunkRange(kind=kind, columns=columns, lower=lower, upper=upper)
    reader = source.open_chunk(read_plan(facts), chunk, TuningPlan())
    pager = reader._pager
    assert pager is not None
    for _ in range(2):
        reads = handler_reads(sql, pager.select(PageLimit(rows_max=100, bytes_max=1)).sql())
        assert 100 <= reads <= 110
        # The next page begins behind the last row.
        reader.read_page(PageLimit(rows_max=100, bytes_max=1 << 20))


def test_the_optimizer_is_not_left_to_sort_the_table(sql, source) -> None:
    """Left alone it reads and sorts everything for a page that is most of the table."""
    sql.numbers(5000)
    sql.execute("CREATE TABLE t (id int NOT NULL PRIMARY KEY, u char(9) NOT NULL UNIQUE, n int)")
    sql.execute("INSERT INTO t SELECT i, concat('k', 10000 + i), i FROM numbers")
    sql.execute("ANALYZE TABLE t")
    chunk = ChunkRange(kind=RangeKind.KEYSET, columns=("u",), lower=("k10100",))
    read = read_plan(facts_of(source, "t", "u"))
    pager = source.open_chunk(read, chunk, TuningPlan())._pager
    select = pager.select(PageLimit(rows_max=100_000, bytes_max=1)).sql()
    assert handler_reads(sql, select) <= 4910
    left_alone = select.replace(" FORCE INDEX (`u`)", "")
    assert left_alone != select and handler_reads(sql, left_alone) > 5000


def test_the_texts_of_keys_and_casts_do_not_depend_on_the_session(sql, source) -> None:
    sql.numbers(2000)
    sql.execute("CREATE TABLE t (k timestamp NOT NULL PRIMARY KEY, c timestamp NULL, z char(5))")
    sql.execute("SET SESSION time_zone = '+00:00'")
    sql.execute(
        "INSERT INTO t SELECT '2024-03-04 05:06:07' + interval i hour, "
        "'2024-03-04 05:06:07' + interval i hour, 'ab' FROM numbers"
    )
    before = sql.execute("SELECT @@GLOBAL.time_zone, @@GLOBAL.sql_mode")[0]
    sql.execute("SET GLOBAL time_zone = '+12:45'")
    sql.execute("SET GLOBAL sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH'")
    try:
        casts = (("c", "text"),)
        facts = facts_of(source, "t", casts=casts)
        assert facts.keys[0].minimum == ("2024-03-04 06:06:07",)
        cuts = random_cuts(list(facts.keys[0].boundaries), random.Random(1))
        got = partition_by_key(source, read_plan(facts, casts), RangeKind.KEYSET, ("k",), cuts)
    finally:
        sql.execute("SET GLOBAL time_zone = %s, GLOBAL sql_mode = %s", before)
    assert got.num_rows == 2000 and got.column("c")[0].as_py() == "2024-03-04 06:06:07"
    assert got.column("z")[0].as_py() == "ab"


def test_a_server_that_limits_every_select_loses_no_row(sql, source) -> None:
    sql.numbers(2000)
    read = read_plan(facts_of(source, "numbers"))
    before = sql.execute("SELECT @@GLOBAL.sql_select_limit")[0]
    sql.execute("SET GLOBAL sql_select_limit = 10")
    source.close()
    try:
        got = drain(source.open_chunk(read, ChunkRange(kind=RangeKind.WHOLE), TuningPlan()))
    finally:
        sql.execute("SET GLOBAL sql_select_limit = %s", before)
    assert got.num_rows == 2000


def test_zero_dates_are_keys_and_text(sql, source) -> None:
    sql.execute("SET SESSION sql_mode = ''")
    sql.execute("CREATE TABLE t (k date NOT NULL PRIMARY KEY, n int NOT NULL)")
    sql.execute(
        "INSERT INTO t VALUES ('0000-00-00', 1), ('2024-00-00', 2), ('2024-02-00', 3), "
        "('2024-02-03', 4)"
    )
    casts = (("k", "text"),)
    facts = facts_of(source, "t", casts=casts)
    assert facts.columns[0].type is not None and facts.columns[0].type.kind is TypeKind.STRING
    chunk = ChunkRange(kind=RangeKind.KEYSET, columns=("k",))
    reader = source.open_chunk(read_plan(facts, casts), chunk, TuningPlan())
    got = drain(reader, PageLimit(rows_max=1, bytes_max=1 << 20))
    assert got.to_pydict() == {
        "k": ["0000-00-00", "2024-00-00", "2024-02-00", "2024-02-03"],
        "n": [1, 2, 3, 4],
    }


def test_a_default_of_the_server_never_sets_the_level_of_our_reading(sql, source) -> None:
    """A SELECT at SERIALIZABLE may lock the rows it reads."""
    level = "tx_isolation" if sql.mariadb else "transaction_isolation"
    before = sql.execute(f"SELECT @@GLOBAL.{level}")[0]
    sql.execute(f"SET GLOBAL {level} = 'SERIALIZABLE'")
    try:
        with (
            source._session.reading((), doing="asking", timeout_s=5.0) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(f"SELECT @@SESSION.{level}")
            found = cursor.fetchone()
    finally:
        sql.execute(f"SET GLOBAL {level} = %s", before)
    assert found == ("READ-COMMITTED",)


def test_cuts_between_no_year_and_the_first_part_the_rows(sql, source) -> None:
    years = [0, 1901, 1969, 1970, 1999, 2000, 2049, 2050, 2069, 2070, 2155]
    sql.execute("CREATE TABLE t (y year NOT NULL PRIMARY KEY)")
    sql.execute(f"INSERT INTO t VALUES {', '.join(f'({year})' for year in years)}")
    read = read_plan(facts_of(source, "t"))
    cuts = [None, *((str(cut),) for cut in (1, 2, 50, 69, 70, 99, 100, 500, 1999, 2050)), None]
    for kind in (RangeKind.SPAN, RangeKind.KEYSET):
        got = partition_by_key(source, read, kind, ("y",), cuts)
        assert sorted(got.column("y").to_pylist()) == years
