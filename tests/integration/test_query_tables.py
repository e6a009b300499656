"""Queries that are read like tables, and those that must not be: their rows are the query's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rivet_fleet.contracts.facts import FactsRequest, KeyedQuery
from rivet_fleet.contracts.keys import RelationName
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import SchemaDrift, SourceBusy, SourceRefused
from rivet_fleet.execution.source import Source
from rivet_fleet.execution.sources.mysql import ENGINE as MYSQL
from rivet_fleet.execution.sources.mysql import querytable as mysql_querytable
from rivet_fleet.execution.sources.postgres import ENGINE as POSTGRES
from rivet_fleet.execution.sources.postgres import catalog, querytable
from rivet_fleet.planning.candidates import usable_keys, why_not_a_key
from tests.integration.mysql_source_kit import Sql
from tests.integration.query_tables_kit import by_itself, divided, planned, rows_of

ROWS = 90
_TABLES = (
    "CREATE TABLE t (id int PRIMARY KEY, a int, n int NOT NULL, v varchar(40), d date, "
    "code varchar(20) NOT NULL)",
    "CREATE TABLE pair (x int NOT NULL, y int NOT NULL, v varchar(20), PRIMARY KEY (y, x))",
    "CREATE TABLE keyless (id int NOT NULL, v varchar(20))",
    "CREATE TABLE u (id int PRIMARY KEY, t_id int)",
    "CREATE UNIQUE INDEX t_code ON t (code)",
    "CREATE TABLE u_v (id int PRIMARY KEY, v varchar(20), k int NOT NULL UNIQUE)",
    "CREATE VIEW shown AS SELECT * FROM t",
)
_OWN = {
    "postgres": (
        "CREATE FUNCTION rank_of(t) RETURNS int VOLATILE LANGUAGE sql AS 'SELECT 1'",
        "CREATE FUNCTION steady(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1'",
        "CREATE FUNCTION drifting(int) RETURNS int VOLATILE LANGUAGE sql AS 'SELECT $1'",
        "CREATE FUNCTION wander(int, int) RETURNS int VOLATILE LANGUAGE sql AS 'SELECT $1 + $2'",
        "CREATE OPERATOR ## (LEFTARG = int, RIGHTARG = int, PROCEDURE = wander)",
        'CREATE FUNCTION "overlay"(int) RETURNS int VOLATILE LANGUAGE sql AS $$SELECT $1$$',
        "CREATE FUNCTION escape(int) RETURNS int VOLATILE LANGUAGE sql AS 'SELECT $1'",
        "CREATE TABLE days (id int PRIMARY KEY, tod time, d timetz)",
        "INSERT INTO days SELECT id, '10:00:00', '11:00:00+01' FROM t",
        'CREATE TABLE "From" (id int PRIMARY KEY, "select" int)',
        'INSERT INTO "From" SELECT id, n FROM t',
        "ANALYZE",
    ),
    "mysql": (
        "CREATE TABLE `From` (id int PRIMARY KEY, `select` int)",
        "INSERT INTO `From` SELECT id, n FROM t",
        "CREATE TABLE days (id int PRIMARY KEY, tod time, d date)",
        "INSERT INTO days SELECT id, '10:00:00', d FROM t",
        "ANALYZE TABLE t, u, pair, keyless, days, `From`",
    ),
}


@dataclass(slots=True)
class Desk:
    engine: str
    source: Source
    run: Callable[[str], Any]
    open: Callable[[str], Source]
    """As another user, who has no password."""


def _filled() -> Iterator[str]:
    rows = (
        f"({i}, {'NULL' if i % 7 == 0 else i % 3}, {i % 5}, 'v{i % 11}', "
        f"'2026-01-{i % 28 + 1:02}', 'c{i:03}')"
        for i in range(1, ROWS + 1)
    )
    yield f"INSERT INTO t VALUES {', '.join(rows)}"
    yield "INSERT INTO u SELECT id, id FROM t WHERE id < 40"
    yield "INSERT INTO u_v SELECT id, v, 100 - id FROM t WHERE id < 40"
    yield "INSERT INTO pair SELECT n, id, v FROM t"
    yield "INSERT INTO keyless SELECT n, v FROM t"


@pytest.fixture(scope="module", params=["postgres", "mysql"])
def desk(request: pytest.FixtureRequest) -> Iterator[Desk]:
    engine = request.param
    server = request.getfixturevalue("postgres" if engine == "postgres" else "mariadb")
    text = server.create_database("querytables")
    run: Callable[[str], Any]
    if engine == "postgres":
        connection = psycopg.connect(text, autocommit=True)
        run, close = connection.execute, connection.close
    else:
        other = Sql(text)
        run, close = other.execute, other.connection.close
    for statement in (*_TABLES, *_filled(), *_OWN[engine]):
        run(statement)
    kind = POSTGRES if engine == "postgres" else MYSQL
    url = parse_database_url(text)

    def another(user: str | None) -> Source:
        return kind.open_source(
            replace(url, user=user, password=None if user != url.user else url.password),
            application_name="t",
        )

    opened = another(url.user)
    yield Desk(engine, opened, run, another)
    opened.close()
    close()


PLAIN: tuple[tuple[str, str | None], ...] = (
    ("SELECT * FROM t", None),
    ("SELECT id, v FROM t", None),
    ("select v, d from t where n > 1", None),
    (
        "SELECT v AS word, n + 1 AS more FROM t AS x WHERE x.n <> 2 AND (x.a IS NULL OR x.a < 2)",
        None,
    ),
    ("SELECT t.v, t.n FROM t WHERE t.v IN ('v1', 'v2;', 'v3')", None),
    ("SELECT id AS order_id, v FROM t", None),
    (
        "SELECT upper(v) AS u, coalesce(a, 0) AS a, CASE WHEN n > 2 THEN 1 ELSE 0 END AS c FROM t",
        None,
    ),
    ("SELECT y, v FROM pair", None),
    ("-- all of them\nSELECT v /* of t */ FROM t -- and no more\n;", None),
    ("SELECT v, 1.5 AS r, .5 * n AS h FROM t WHERE n BETWEEN 1 AND 3", "mysql"),
    ("SELECT v, (.5 * n + 1.)::float8 AS h FROM t WHERE n BETWEEN 1 AND 3", "postgres"),
    ("SELECT cast(extract(year FROM d) AS int) AS y, v FROM t", "postgres"),
    ("SELECT extract(year FROM d) AS y, v FROM t", "mysql"),
    ("SELECT id + 1 AS id, v FROM t", None),
    ("SELECT 'FROM u JOIN' AS said, v FROM t WHERE v <> 'then and there'", None),
    ('SELECT "select" FROM "From" WHERE "select" > 1', "postgres"),
    ("SELECT `select` FROM `From` WHERE `select` > 1", "mysql"),
    ("SELECT v::text AS s, steady(n) AS k, d::date AS d FROM public.t x", "postgres"),
    ("SELECT substring(v, 1, 2)::varchar(2) AS s, v FROM t WHERE v ILIKE ('v%')", "postgres"),
    ("SELECT tod AS t, d FROM days WHERE d > '2026-01-02'", "mysql"),
    ("SELECT tod AS t FROM days WHERE id > 0", "postgres"),
    ("SELECT v || 'x' AS x, d::date AS d, (n + 1)::text AS n FROM t", "postgres"),
    ("SELECT v, date_trunc('month', d)::date AS m FROM t", "postgres"),
    ("SELECT date_format(d, '%Y-%m') AS m, concat(v, '-', n) AS c FROM querytables.t x", "mysql"),
)
"""A SELECT of one table: read like it. With the engine that understands it; None: both."""

HOSTILE: tuple[tuple[str, str | None], ...] = (
    ("SELECT DISTINCT n FROM t", None),
    ("SELECT n, count(*) AS c FROM t GROUP BY n", None),
    ("SELECT max(id) AS id FROM t", None),
    ("SELECT id, v FROM t LIMIT 10", None),
    ("SELECT id, v FROM t ORDER BY v, id LIMIT 5", None),
    ("SELECT id, row_number() OVER (ORDER BY id) AS r FROM t", None),
    ("SELECT id FROM t UNION ALL SELECT id FROM u", None),
    ("SELECT t.id, u.id AS other FROM t JOIN u ON u.t_id = t.id", None),
    ("SELECT t.id, u.id AS other FROM t, u WHERE u.t_id = t.id", None),
    ("SELECT t.id, u.id AS other FROM t LEFT JOIN u ON u.t_id = t.id", None),
    ("SELECT t.* FROM t NATURAL JOIN u", None),
    ("SELECT id FROM t WHERE id IN (SELECT t_id FROM u)", None),
    ("SELECT id, (SELECT max(id) FROM u) AS m FROM t", None),
    ("SELECT id FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.t_id = t.id)", None),
    ("WITH t AS (SELECT * FROM u) SELECT id FROM t", None),
    ("SELECT id FROM (SELECT id FROM t) AS s", None),
    ("SELECT id, v FROM shown", None),
    ("SELECT v, id FROM keyless", None),
    ("SELECT -id AS id, v AS code FROM t", None),
    ("SELECT id AS code, code AS id FROM t", None),
    ("SELECT n AS id, v AS code FROM t", None),
    ("SELECT id, v FROM t ORDER BY v", None),
    ("SELECT id FROM t HAVING count(*) > 0 OR id > 0", "mysql"),
    ("SELECT 1 AS one", None),
    ("SELECT id FROM t WHERE id = 17", None),
    ("SELECT id, current_date AS today FROM t", None),
    ("SELECT id, v FROM t WHERE d < now()", None),
    ("SELECT id FROM t FOR UPDATE", "sealed"),
    ("SELECT DISTINCT ON (n) n, id FROM t ORDER BY n, id", "postgres"),
    ("SELECT id, generate_series(1, 2) AS g FROM t", "postgres"),
    ("SELECT id, unnest(ARRAY[n, a]) AS g FROM t", "postgres"),
    ("SELECT id, random() < 2 AS r FROM t", "postgres"),
    ("SELECT id FROM t WHERE random() < 2", "postgres"),
    ("SELECT id, drifting(n) AS f FROM t", "postgres"),
    ("SELECT id, t.rank_of FROM t", "postgres"),
    ("SELECT id, (t).rank_of AS r FROM t", "postgres"),
    ("SELECT id, overlay(n) AS f FROM t", "postgres"),
    ("SELECT id, (tod AT TIME ZONE 'UTC')::text > '' AS y FROM days", "postgres"),
    ("SELECT id FROM t WHERE Escape (n) > 0", "postgres"),
    ("SELECT id, n ## 1 AS w FROM t", "postgres"),
    ("SELECT id FROM t WHERE n ## 1 > 0", "postgres"),
    ("SELECT id FROM t WHERE t.rank_of = 1", "postgres"),
    ("SELECT id FROM t WHERE d < 'tomorrow'::date + 9999", "postgres"),
    ("SELECT id FROM t WHERE d <> timestamp 'now'", "postgres"),
    ("SELECT id FROM t WHERE d <> timestamp 'tomorrow 12:00'", "postgres"),
    ("SELECT id FROM t WHERE d <> U&'!006eow' UESCAPE '!'", "postgres"),
    ("SELECT id FROM t WHERE d <> ('no'||'w')::timestamptz", "postgres"),
    ("SELECT id FROM t WHERE d <> concat('n', 'ow')::pg_catalog.date", "postgres"),
    ("SELECT id FROM t WHERE d <> cast('no' || 'w' AS timestamp)", "postgres"),
    ("SELECT id FROM ONLY t", "postgres"),
    ("SELECT id FROM t TABLESAMPLE SYSTEM (100)", "postgres"),
    ("TABLE t", "postgres"),
    ("SELECT id FROM t *", "postgres"),
    ("SELECT x.p AS id FROM t AS x(p)", "postgres"),
    ("SELECT id, string_agg(v, ',') FILTER (WHERE n > 1) OVER () AS s FROM t", "postgres"),
    ("SELECT id FROM t OFFSET 3", "postgres"),
    ("SELECT id FROM t FETCH FIRST 4 ROWS ONLY", "postgres"),
    ("SELECT id, pg_catalog.clock_timestamp() > d AS c FROM t", "postgres"),
    ('SELECT id, "now"() > d AS c FROM t', "postgres"),
    ("SELECT id FROM t WHERE v IS DISTINCT FROM 'v1'", "postgres"),
    ("SELECT id, nextval(pg_get_serial_sequence('s', 'id')) AS n FROM t WHERE false", "refused"),
    ("SELECT id, rand(1) < 2 AS r FROM t", "mysql"),
    ("SELECT id, @n := 1 AS n FROM t", "mysql"),
    ("SELECT STRAIGHT_JOIN id FROM t", "mysql"),
    ("SELECT id FROM t USE INDEX (PRIMARY)", "mysql"),
    ("SELECT id, uuid() <> v AS r FROM t", "mysql"),
    ("SELECT id, benchmark(1, 1) AS b FROM t", "mysql"),
    ("SELECT id /*! , n */ FROM t", "mysql"),
    ("SELECT id FROM t WHERE curdate() > d OR id > 0", "mysql"),
    ("SELECT id FROM t WHERE d <> TIME '10:00:00'", "mysql"),
    ("SELECT id FROM t WHERE d <> CAST('10:00:00' AS time)", "mysql"),
    ("SELECT id FROM t WHERE d <> sec_to_time(n)", "mysql"),
    ("SELECT id FROM t WHERE d <> {t '10:00:00'}", "mysql"),
    ("SELECT id FROM t WHERE d <> str_to_date('10:11', '%H:%i')", "mysql"),
    ("SELECT id FROM days WHERE Tod <> d", None),
    ("SELECT id, year(days.tod) > 0 AS y FROM days", "mysql"),
    ("SELECT ID, v AS code FROM t", "mysql"),
    ("SELECT id, group_concat(v) AS g FROM t", "mysql"),
    ("SELECT id FROM t LIMIT 3, 5", "mysql"),
)
"""More than that, or doubtful: read by itself. ``sealed``, ``refused``: by no engine in a
transaction that only reads."""


def fitting(shapes: tuple[tuple[str, str | None], ...], engine: str) -> list[str]:
    return [query for query, only in shapes if only in (None, engine)]


def test_a_select_of_one_table_is_read_like_the_table(desk: Desk) -> None:
    """In pages of its key, selected or not; the rows of all chunks are the query's own."""
    for query in fitting(PLAIN, desk.engine):
        facts, choice, read = planned(desk.source, query)
        assert divided(choice) and "alone" in choice.reason, f"{query}: {choice.reason}"
        chunks = rows_of(desk.source, read, choice)
        assert len([one for one in chunks if one]) > 1, query
        assert sorted(chain(*chunks)) == sorted(by_itself(desk.source, facts, query)), query


def test_a_query_that_may_be_more_is_read_by_itself(desk: Desk) -> None:
    for query in fitting(HOSTILE, desk.engine):
        facts, choice, read = planned(desk.source, query)
        assert not divided(choice), f"{query}: {choice.reason}"
        assert read.query == query and read.table is None, query
        assert "one statement" in choice.reason, query
        if "random" not in query and "clock" not in query:
            (rows,) = rows_of(desk.source, read, choice)
            assert sorted(rows) == sorted(by_itself(desk.source, facts, query)), query


def test_the_plan_says_why(desk: Desk) -> None:
    _, choice, _ = planned(desk.source, "SELECT n, count(*) AS c FROM t GROUP BY n", mode="full")
    assert "it holds the word GROUP" in choice.reason
    _, choice, _ = planned(desk.source, "SELECT v FROM t WHERE id = 3", mode="full")
    assert "knows its own way to them" in choice.reason
    _, choice, _ = planned(desk.source, "SELECT v FROM t", mode="full")
    assert "the query's rows are those of" in choice.reason and "(id)" in choice.reason
    _, choice, _ = planned(desk.source, "SELECT v FROM shown", mode="full")
    assert "what it reads from is no table" in choice.reason


DECLARED: dict[str, dict[str, tuple[bool, tuple[str, ...]]]] = {
    "postgres": {
        "parent": (
            False,
            (
                "CREATE TABLE parent (id int PRIMARY KEY, v text)",
                "CREATE TABLE child () INHERITS (parent)",
                "INSERT INTO parent SELECT id, v FROM t",
                "INSERT INTO child SELECT id, v FROM t",
            ),
        ),
        "partly": (
            False,
            (
                "CREATE TABLE partly (id int NOT NULL, v text)",
                "CREATE UNIQUE INDEX of_partly ON partly (id) WHERE v = 'once'",
                "INSERT INTO partly SELECT id, v FROM t UNION ALL SELECT id, v FROM t",
            ),
        ),
        "unfinished": (
            False,
            (
                "CREATE TABLE unfinished (id int NOT NULL, v text)",
                "CREATE UNIQUE INDEX of_unfinished ON unfinished (id)",
                "UPDATE pg_index SET indisvalid = false, indisready = false "
                "WHERE indexrelid = 'of_unfinished'::regclass",
                "INSERT INTO unfinished SELECT id, v FROM t UNION ALL SELECT id, v FROM t",
            ),
        ),
        "parts": (
            True,
            (
                "CREATE TABLE parts (id int PRIMARY KEY, v text) PARTITION BY HASH (id)",
                *(
                    f"CREATE TABLE part_{i} PARTITION OF parts "
                    f"FOR VALUES WITH (MODULUS 2, REMAINDER {i})"
                    for i in range(2)
                ),
                "INSERT INTO parts SELECT id, v FROM t",
            ),
        ),
        "late": (
            True,
            (
                "CREATE TABLE late (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text)",
                "INSERT INTO late SELECT id, v FROM t",
            ),
        ),
    },
    "mysql": {
        "merged": (
            False,
            (
                *(
                    f"CREATE TABLE m{i} (id int PRIMARY KEY, v varchar(40)) ENGINE=MyISAM"
                    for i in range(2)
                ),
                *(f"INSERT INTO m{i} SELECT id, v FROM t" for i in range(2)),
                "CREATE TABLE merged (id int PRIMARY KEY, v varchar(40)) "
                "ENGINE=MERGE UNION=(m0, m1)",
            ),
        ),
        "isam": (
            True,
            (
                "CREATE TABLE isam (id int PRIMARY KEY, v varchar(40)) ENGINE=MyISAM",
                "INSERT INTO isam SELECT id, v FROM t",
            ),
        ),
        "parts": (
            True,
            (
                "CREATE TABLE parts (id int PRIMARY KEY, v varchar(40)) "
                "PARTITION BY HASH (id) PARTITIONS 2",
                "INSERT INTO parts SELECT id, v FROM t",
            ),
        ),
    },
}
"""Tables whose key is declared: whether the server keeps it unique over every row of theirs."""


def test_a_declared_key_is_one_where_the_server_keeps_it(desk: Desk) -> None:
    for name, (kept, statements) in DECLARED[desk.engine].items():
        for one in statements:
            desk.run(one)
        desk.run(f"ANALYZE {name}" if desk.engine == "postgres" else f"ANALYZE TABLE {name}")
        query = f"SELECT v FROM {name}"
        facts, choice, read = planned(desk.source, query)
        assert divided(choice) is kept, (name, choice.reason)
        found = sorted(chain(*rows_of(desk.source, read, choice)))
        assert found == sorted(by_itself(desk.source, facts, query)), name
        assert len(found) == ROWS if kept else len(found) == 2 * ROWS, name
        table = desk.source.introspect(
            FactsRequest(export_name="t", relation=RelationName(schema="", name=name), query=None)
        )
        assert bool(usable_keys(table)) is kept, name
        told = {why_not_a_key(table, index) for index in table.indexes}
        assert any(told) is not kept, (name, told)
        if name == "merged":
            assert told == {"is not unique: storage engine MRG_MyISAM does not keep it so"}


def test_a_table_that_keeps_its_key_no_more_ends_the_chunk(desk: Desk) -> None:
    if desk.engine == "postgres":
        return  # of its tables, all keep what they declare
    desk.run("CREATE TABLE altered (id int PRIMARY KEY, v varchar(40)) ENGINE=MyISAM")
    desk.run("INSERT INTO altered SELECT id, v FROM t")
    desk.run("ANALYZE TABLE altered")
    _, choice, read = planned(desk.source, "SELECT v FROM altered")
    assert divided(choice)
    desk.run("RENAME TABLE altered TO below")
    desk.run("CREATE TABLE altered (id int PRIMARY KEY, v varchar(40)) ENGINE=MERGE UNION=(below)")
    with pytest.raises(SchemaDrift, match="unique by no index"):
        rows_of(desk.source, read, choice)


def test_a_query_is_cut_by_a_key_of_its_table_that_is_asked_for(desk: Desk) -> None:
    query = "SELECT code, n FROM t WHERE n > 0"
    facts, choice, read = planned(desk.source, query, chunk_by_key=["code"])
    assert divided(choice) and read.table is not None
    assert {one.columns for one in choice.ranges} == {("code",)}
    found = chain(*rows_of(desk.source, read, choice))
    assert sorted(found) == sorted(by_itself(desk.source, facts, query))


def test_a_key_that_is_one_no_more_ends_the_chunk(desk: Desk) -> None:
    """The plan rests on the table's index, though the query never names it."""
    desk.run("CREATE TABLE keyed AS SELECT id, v FROM t")
    desk.run("CREATE UNIQUE INDEX keyed_id ON keyed (id)")
    desk.run(
        "ALTER TABLE keyed ALTER COLUMN id SET NOT NULL"
        if desk.engine == "postgres"
        else "ALTER TABLE keyed MODIFY id int NOT NULL"
    )
    desk.run("ANALYZE keyed" if desk.engine == "postgres" else "ANALYZE TABLE keyed")
    _, choice, read = planned(desk.source, "SELECT v FROM keyed")
    assert divided(choice)
    desk.run("DROP INDEX keyed_id" + (" ON keyed" if desk.engine == "mysql" else ""))
    with pytest.raises((SchemaDrift, SourceBusy), match=r"unique|keyed_id"):
        rows_of(desk.source, read, choice)


RETYPED = {
    "postgres": "ALTER TABLE changing ALTER id TYPE text",
    "mysql": "ALTER TABLE changing MODIFY id varchar(20) NOT NULL",
}
EMPTIED = {
    "postgres": "ALTER TABLE changing ALTER id DROP NOT NULL",
    "mysql": "ALTER TABLE changing MODIFY id int NULL",
}


@pytest.mark.parametrize("shown", ["v", "id, v"])
@pytest.mark.parametrize(
    ("change", "now"), [(RETYPED, "text|varchar"), (EMPTIED, "is now int|may be NULL")]
)
def test_a_key_that_is_another_column_now_ends_the_chunk(desk: Desk, change, now, shown) -> None:
    """In text order 1000 comes before 500, and NULL is in no range; the index is the same."""
    desk.run("DROP TABLE IF EXISTS changing")
    desk.run("CREATE TABLE changing (id int NOT NULL, v varchar(40))")
    desk.run("CREATE UNIQUE INDEX changing_id ON changing (id)")
    desk.run("INSERT INTO changing SELECT id, v FROM t")
    desk.run("ANALYZE changing" if desk.engine == "postgres" else "ANALYZE TABLE changing")
    _, choice, read = planned(desk.source, f"SELECT {shown} FROM changing")
    assert divided(choice)
    desk.run(change[desk.engine])
    first, *_ = choice.ranges
    with pytest.raises(SchemaDrift, match=now):
        desk.source.open_chunk(read, first, TuningPlan())


def test_a_name_that_stands_for_another_table_now_ends_the_chunk(desk: Desk) -> None:
    """The path is the same, and another table comes first on it."""
    if desk.engine == "mysql":
        pytest.skip("a name stands for one database's table there")
    (user,) = desk.run("SELECT quote_ident(current_user)").fetchone()
    desk.run("CREATE SCHEMA AUTHORIZATION CURRENT_USER")
    try:
        desk.run("CREATE TABLE public.moved (id int PRIMARY KEY, v varchar(40))")
        desk.run("INSERT INTO moved SELECT id, v FROM t")
        desk.run("ANALYZE moved")
        _, choice, read = planned(desk.source, "SELECT v FROM moved")
        assert divided(choice)
        first, *_ = choice.ranges
        desk.source.open_chunk(read, first, TuningPlan()).close()
        desk.run("CREATE TABLE moved AS SELECT id, v FROM t")
        with pytest.raises(SchemaDrift, match='the name "moved" in the query'):
            desk.source.open_chunk(read, first, TuningPlan())
    finally:
        desk.run(f"DROP SCHEMA {user} CASCADE")


def test_a_column_that_may_not_be_read_is_no_key_of_a_query(desk: Desk) -> None:
    """The query is read under the rights of the names in it, and of no others."""
    user = "ROLE" if desk.engine == "postgres" else "USER"
    desk.run(f"CREATE {user} only_v" + " LOGIN" * (desk.engine == "postgres"))
    desk.run("GRANT SELECT (v) ON u_v TO only_v")
    opened = desk.open("only_v")
    try:
        facts, choice, read = planned(opened, "SELECT v FROM u_v")
        assert not divided(choice) and read.table is None
        assert len(by_itself(opened, facts, "SELECT v FROM u_v")) == 39
        desk.run("GRANT SELECT (k) ON u_v TO only_v")
        _, choice, read = planned(opened, "SELECT v FROM u_v")
        # MySQL describes a table's columns to whoever may read all of them.
        columns = {("k",)} if desk.engine == "postgres" else {()}
        assert {one.columns for one in choice.ranges} == columns, choice.reason
        assert len([*chain(*rows_of(opened, read, choice))]) == 39
    finally:
        opened.close()
        if desk.engine == "postgres":
            desk.run("DROP OWNED BY only_v")
        desk.run(f"DROP {user} only_v")


def test_the_server_says_what_stands_between_a_page_and_the_table(desk: Desk) -> None:
    for sql, plain in (
        ("SELECT id FROM t WHERE n > 1", True),
        ("SELECT DISTINCT id FROM t", False),
    ):
        keyed = KeyedQuery(columns=("id",), sql=sql)
        if desk.engine == "postgres":
            with desk.source._session.reading((), doing="asking", timeout_s=5.0) as cursor:
                assert querytable._plain(cursor, keyed) == plain
        else:
            with desk.source._session.reading((), doing="asking", timeout_s=5.0) as connection:
                assert mysql_querytable._plain(connection, keyed) == plain


def test_a_column_from_elsewhere_is_a_doubt(desk: Desk) -> None:
    if desk.engine == "mysql":
        pytest.skip("asked with the query there")
    strange = catalog.RawColumn(name="id", type_oid=23, typmod=-1, native_type="", origin=(1259, 1))
    with desk.source._session.reading((), doing="asking", timeout_s=5.0) as cursor:
        found = querytable.query_table(cursor, "SELECT id FROM t", (strange,), 180000)
    assert found == "a column of it comes from elsewhere"


_LISTS = st.lists(
    st.sampled_from(
        (
            *("id", "v", "n", "a", "d", "code", "t.id", "t.v AS word", "n + 1 AS id", "id AS code"),
            *("upper(v) AS code", "coalesce(a, -1) AS a1", "count(*) AS c", "max(id) AS id", "*"),
            *("v AS id", "CASE WHEN n > 2 THEN v END AS w", "'FROM' AS said", "1 AS one"),
        )
    ),
    min_size=1,
    max_size=4,
)
_FROMS = st.sampled_from(("t", "t", "t", "t AS t", "t, u", "(SELECT * FROM t) AS t", "shown AS t"))
_WHERES = st.sampled_from(
    ("", "", " WHERE n > 0", " WHERE a IS NULL OR a = 1", " WHERE id % 3 = 0", " WHERE v < 'v5'")
)
_ENDS = st.sampled_from(("", "", "", "", " GROUP BY 1", " LIMIT 7", " ORDER BY 1", " -- all"))


@settings(max_examples=60, derandomize=True, deadline=None)
@given(columns=_LISTS, source=_FROMS, where=_WHERES, end=_ENDS)
def test_what_is_claimed_to_be_one_tables_rows_is_a_partition_of_the_querys(
    desk: Desk, columns: list[str], source: str, where: str, end: str
) -> None:
    query = f"SELECT {', '.join(columns)} FROM {source}{where}{end}"
    try:
        facts, choice, read = planned(desk.source, query)
    except SourceRefused:
        return  # the server takes it for no query
    if read.table is not None:
        found = chain(*rows_of(desk.source, read, choice))
        assert sorted(found) == sorted(by_itself(desk.source, facts, query)), query
