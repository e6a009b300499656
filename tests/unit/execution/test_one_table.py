"""What is plainly a SELECT of one table, by its words alone; and where its keys are put in."""

from __future__ import annotations

import pytest

from rivet_fleet.execution.engines.onetable import OneTable, one_table
from rivet_fleet.execution.sources.mysql import querytable as mysql
from rivet_fleet.execution.sources.mysql.statements import LEXICAL as MYSQL_LEXICAL
from rivet_fleet.execution.sources.postgres import querytable as postgres
from rivet_fleet.execution.sources.postgres.dialect import LEXICAL


def found(sql: str) -> OneTable | str:
    return one_table(sql, LEXICAL, postgres.WORDS)


def found_mysql(sql: str) -> OneTable | str:
    return one_table(sql, MYSQL_LEXICAL[0], mysql.WORDS)


@pytest.mark.parametrize(
    ("sql", "keyed"),
    [
        ("SELECT v FROM t", 'SELECT t."k", v FROM t#'),
        ("select v from s.t where v = 1", 'select t."k", v from s.t# where v = 1'),
        ('SELECT v FROM "a ""b" AS x', 'SELECT x."k", v FROM "a ""b" AS x#'),
        ("/* a */ SELECT/*+ hint */ v FROM t", '/* a */ SELECT/*+ hint */ t."k", v FROM t#'),
        ("SELECT -- one\n v FROM t x -- two", 'SELECT x."k", -- one\n v FROM t x# -- two'),
    ],
)
def test_keys_are_put_before_the_querys_own_columns(sql: str, keyed: str) -> None:
    one = found(sql)
    assert isinstance(one, OneTable), one
    assert one.with_columns([f'{one.reference}."k"'], "#") == keyed


def test_what_it_calls_and_asks_for_is_told() -> None:
    one = found('SELECT x.*, s.f(a.b), "G"(1.5) FROM t x WHERE x."Y" @> lower (z) AND n IN (1)')
    assert one == "it asks for a.b, which may be no column of its table"
    one = found('SELECT x.*, s.f(1.5), "G"(.5) FROM t x WHERE x."Y" @> lower (z) AND n IN (1)')
    assert isinstance(one, OneTable)
    assert one.calls == {("s", "f"), ("G",), ("lower",)}
    assert one.dotted == {"*", "Y"} and one.star and "@>" in one.operators
    assert {"Y", "z", "n"} <= one.compared and "Y" not in one.shown
    one = found(
        "SELECT substring (a, 1), overlay(b), like (c) FROM t WHERE a like 'x' AND b ILIKE (c)"
    )
    assert isinstance(one, OneTable)
    assert one.perhaps == {"substring", "overlay", "like", "ilike"} and not one.calls


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a FROM t FROM u",
        "SELECT a",
        "UPDATE t SET a = 1",
        "SELECT a FROM t x y",
        "SELECT a FROM t, u",
        "SELECT a FROM f(1)",
        "SELECT a FROM (t)",
        "SELECT a FROM 'x'",
        "SELECT a FROM t WHERE a = $1",
        "SELECT (r).f FROM t",
        "SELECT a[1].f FROM t",
        "SELECT x.y.z FROM t x",
        "SELECT a FROM t WHERE b < 'Now'",
        "SELECT a FROM t WHERE b < $$today$$",
        "SELECT a FROM t WHERE b < 'tomorrow 12:00'",
        "SELECT a FROM t WHERE b < '04:05 YESTERDAY'",
        "SELECT a FROM t WHERE b < $of$today allballs$of$",
        "SELECT a FROM t WHERE b < E'\\156ow'",
        "SELECT a FROM t WHERE b < U&'\\006eow'",
        "SELECT a FROM t WHERE b < $$x$$ $$y$$",
        "SELECT a FROM TÄFEL",
        "SELECT ÄNDERN(a) FROM t",
        "SELECT li\u212ae(a) FROM t",
        "SELECT a FROM t WHERE b < LOCALTIMESTAMP",
        "SELECT a FROM t WHERE EXISTS (TABLE u)",
        "SELECT a FROM t CROSS JOIN u",
        "SELECT a FROM t WHERE b < 1e5limit 10",
        "SELECT a FROM t WHERE b < 1.5e3offset 4",
        "SELECT a FROM t WHERE b < 10limit 3",
    ],
)
def test_whatever_is_not_plain_is_a_doubt(sql: str) -> None:
    assert isinstance(found(sql), str)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT @a FROM t",
        "SELECT @@version FROM t",
        "SELECT a /*! , b */ FROM t",
        "SELECT a FROM t PARTITION (p0)",
        "SELECT a FROM t FORCE INDEX (i)",
        "SELECT ALL a FROM t",
        "SELECT utc_date FROM t",
        'SELECT a FROM "t"',
        "SELECT a FROM t WHERE b < 1e5limit 10",
        "SELECT a FROM t WHERE b < 1.5limit 10",
        "SELECT a FROM t WHERE b < {t '10:00'}",
    ],
)
def test_whatever_is_not_plain_to_mysql_is_a_doubt(sql: str) -> None:
    assert isinstance(found_mysql(sql), str)


def test_a_number_alone_is_no_doubt() -> None:
    for number in ("1e5", "1.5e-3", "1.", ".5", "12", "1.5E3"):
        sql = f"SELECT a FROM t WHERE b < {number} AND c"
        assert isinstance(found(sql), OneTable) and isinstance(found_mysql(sql), OneTable), sql


def test_a_name_beyond_ascii_that_nobody_folds_is_one() -> None:
    for sql in ('SELECT "Ä" FROM "TÄFEL"', "SELECT a FROM täfel WHERE änd(a) = 1"):
        assert isinstance(found(sql), OneTable), found(sql)
    assert isinstance(found_mysql("SELECT Ä FROM TÄFEL"), OneTable)
