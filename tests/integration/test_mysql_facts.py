"""Facts about tables, views and queries of MySQL and MariaDB, from real servers."""

from __future__ import annotations

import datetime
import itertools
from dataclasses import replace

import pytest

from rivet_fleet.contracts.columns import Fidelity, TypeKind
from rivet_fleet.contracts.facts import FactsRequest
from rivet_fleet.contracts.keys import ChunkRange, RangeKind, RelationName
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import ConfigError, SourceRefused
from rivet_fleet.execution.sources.mysql import ENGINE as MYSQL
from rivet_fleet.execution.sources.mysql import introspect
from tests.integration.mysql_source_kit import facts_of, read_all, read_plan, source, sql

__all__ = ["source", "sql"]

WHOLE = ChunkRange(kind=RangeKind.WHOLE)


def test_which_indexes_are_keys(sql, source) -> None:
    sql.execute(
        "CREATE TABLE t (a int NOT NULL, b varchar(30) NOT NULL, c int, f double NOT NULL, "
        "e enum('z', 'a') NOT NULL, `Mixed ``Ünï` int NOT NULL, UNIQUE good (`Mixed ``Ünï`), "
        "UNIQUE both_ways (b, a), UNIQUE nullable (c), UNIQUE prefix (b(3)), UNIQUE floating (f), "
        "UNIQUE labelled (e, a), KEY plain (a), FULLTEXT words (b))"
    )
    ignored = "IGNORED" if sql.mariadb else "INVISIBLE"
    sql.execute(f"CREATE UNIQUE INDEX unseen ON t (a, `Mixed ``Ünï`) {ignored}")
    if not sql.mariadb:
        sql.execute("CREATE UNIQUE INDEX expression ON t ((a + 1))")
        sql.execute("CREATE UNIQUE INDEX mixed ON t (a, b DESC)")
    facts = facts_of(source, "t")
    assert {key.columns for key in facts.keys} == {("Mixed `Ünï",), ("b", "a")}
    by_name = {index.name: index for index in facts.indexes}
    assert by_name["prefix"].partial and not by_name["words"].ordered
    assert not by_name["unseen"].ready and not by_name["labelled"].ordered
    assert not by_name["plain"].unique
    if not sql.mariadb:
        assert by_name["expression"].expression and not by_name["mixed"].ordered


TYPES = {
    "tinyint(1)": ("1", TypeKind.BOOL, True),
    "tinyint": ("-128", TypeKind.INT16, -128),
    "tinyint unsigned": ("255", TypeKind.INT16, 255),
    "smallint": ("-32768", TypeKind.INT16, -32768),
    "smallint unsigned": ("65535", TypeKind.INT32, 65535),
    "mediumint": ("-8388608", TypeKind.INT32, -8388608),
    "mediumint unsigned": ("16777215", TypeKind.INT64, 16777215),
    "int": ("-2147483648", TypeKind.INT32, -(2**31)),
    "int unsigned": ("4294967295", TypeKind.INT64, 2**32 - 1),
    "bigint": ("-9223372036854775808", TypeKind.INT64, -(2**63)),
    "bigint unsigned": ("18446744073709551615", TypeKind.UINT64, 2**64 - 1),
    "bit(1)": ("b'1'", TypeKind.BOOL, True),
    "bit(63)": ("9223372036854775807", TypeKind.INT64, 2**63 - 1),
    "bit(64)": ("18446744073709551615", TypeKind.UINT64, 2**64 - 1),
    "year": ("2155", TypeKind.INT16, 2155),
    "float": ("0.1", TypeKind.FLOAT32, 0.10000000149011612),
    "double": ("0.1", TypeKind.FLOAT64, 0.1),
    "date": ("'9999-12-31'", TypeKind.DATE, datetime.date(9999, 12, 31)),
    "time(6)": ("'23:59:59.999999'", TypeKind.TIME, datetime.time(23, 59, 59, 999999)),
    "datetime(6)": (
        "'1000-01-01 00:00:00.000001'",
        TypeKind.TIMESTAMP,
        datetime.datetime(1000, 1, 1, 0, 0, 0, 1),
    ),
    "timestamp(6) NULL": (
        "'2038-01-19 03:14:07.5'",
        TypeKind.TIMESTAMP_UTC,
        datetime.datetime(2038, 1, 19, 3, 14, 7, 500000, tzinfo=datetime.UTC),
    ),
    "char(5)": ("'ab '", TypeKind.STRING, "ab"),
    "varchar(5)": ("'ab '", TypeKind.STRING, "ab "),
    "longtext": ("'😀'", TypeKind.STRING, "😀"),
    "varchar(5) CHARACTER SET latin1": ("'é'", TypeKind.STRING, "é"),
    "varchar(5) CHARACTER SET binary": ("x'00ff'", TypeKind.BINARY, b"\x00\xff"),
    "binary(3)": ("x'01'", TypeKind.BINARY, b"\x01\x00\x00"),
    "longblob": ("x'00ff'", TypeKind.BINARY, b"\x00\xff"),
    "enum('Ä','b,c')": ("'Ä'", TypeKind.ENUM, "Ä"),
    "set('a','b','c')": ("'c,a'", TypeKind.ENUM, "a,c"),
    "json": ("'{\"a\": 1}'", TypeKind.JSON, '{"a": 1}'),
}


def test_columns_of_every_kind(sql, source) -> None:
    sql.execute("SET SESSION time_zone = '+00:00'")
    columns = ", ".join(f"c{index} {name}" for index, name in enumerate(TYPES))
    sql.execute(f"CREATE TABLE t ({columns}, `decimal` decimal(65,30) COMMENT 'all of it')")
    values = ", ".join(value for value, _, _ in TYPES.values())
    decimal = "12345678901234567890123456789012345." + "1" * 30
    sql.execute(f"INSERT INTO t VALUES ({values}, {decimal})")
    facts = facts_of(source, "t")
    kinds = {column.name: column.type.kind for column in facts.columns if column.type}
    assert kinds == {f"c{i}": kind for i, (_, kind, _) in enumerate(TYPES.values())} | {
        "decimal": TypeKind.DECIMAL
    }
    (row,) = read_all(source, read_plan(facts), WHOLE).to_pylist()
    assert str(row.pop("decimal")) == decimal
    assert dict(zip(TYPES, row.values(), strict=True)) == {
        name: value for name, (_, _, value) in TYPES.items()
    }
    last = facts.columns[-1]
    assert last.comment == "all of it" and last.type and last.type.precision == 65
    # The same columns of a query: a type is what the server will send.
    query = "SELECT * FROM t"
    asked = source.introspect(FactsRequest(export_name="q", relation=None, query=query))
    (again,) = read_all(source, read_plan(asked, query=query), WHOLE).to_pylist()
    assert str(again.pop("decimal")) == decimal
    assert again == row


@pytest.mark.parametrize(
    ("type_name", "value", "override", "carried"),
    [
        ("double", "1.5", "decimal(10,2)", "1.50"),
        ("varchar(20)", "'1.25'", "decimal(10,2)", "1.25"),
        ("decimal(10,4)", "1.2500", "decimal(12,2)", "1.25"),
        ("bigint unsigned", "18446744073709551615", "decimal(20,0)", "18446744073709551615"),
        ("int", "7", "int8", "7"),
        ("tinyint(1)", "7", "int2", "7"),
        ("bit(7)", "b'1000001'", "int4", "65"),
        ("bit(7)", "b'1000001'", "text", "65"),
        ("time", "'-838:59:59'", "text", "-838:59:59"),
        ("float", "0.1", "text", "0.10000000149011612"),
        ("datetime(3)", "'2024-01-02 03:04:05.678'", "text", "2024-01-02 03:04:05.678"),
        ("datetime", "'2024-01-02 03:04:05'", "timestamptz", "2024-01-02 03:04:05+00:00"),
        ("date", "'2024-01-02'", "timestamp", "2024-01-02 00:00:00"),
        ("datetime", "'2024-01-02 03:04:05'", "date", "2024-01-02"),
        ("int", "3", "double", "3.0"),
        ("varchar(9)", "'é'", "binary", r"b'\xc3\xa9'"),
        ("varbinary(9)", "x'c3a9'", "text", "é"),
        ("binary(16)", "x'00112233445566778899aabbccddeeff'", "uuid",
         "00112233-4455-6677-8899-aabbccddeeff"),
        ("char(36)", "'00112233-4455-6677-8899-aabbccddeeff'", "uuid",
         "00112233-4455-6677-8899-aabbccddeeff"),
        ("longtext", "'[1]'", "json", "[1]"),
        ("enum('x','y')", "'y'", "text", "y"),
        ("point", "ST_GeomFromText('POINT(1 2)')", "text", "POINT(1 2)"),
    ],
)  # fmt: skip
def test_overrides_carry_the_value(sql, source, type_name, value, override, carried) -> None:
    sql.execute(f"CREATE TABLE t (c {type_name})")
    sql.execute(f"INSERT INTO t VALUES ({value})")
    casts = (("c", override),)
    facts = facts_of(source, "t", casts=casts)
    assert facts.columns[0].compared == facts_of(source, "t").columns[0].compared
    got = read_all(source, read_plan(facts, casts), WHOLE).column("c")[0].as_py()
    assert str(got) == carried


def test_what_cannot_be_carried_says_what_would_help(sql, source) -> None:
    sql.execute("CREATE TABLE t (n int, g geometry)")
    sql.execute("INSERT INTO t VALUES (1, ST_GeomFromText('POINT(1 2)', 4326))")
    (raw,) = sql.execute("SELECT CAST(g AS BINARY) FROM t")[0]
    column = facts_of(source, "t").columns[1]
    assert column.type is None and column.cast_hint == "binary"
    request = FactsRequest(
        export_name="t",
        relation=RelationName(schema="", name="t"),
        query=None,
        unsupported_cast="binary",
    )
    facts = source.introspect(request)
    assert facts.columns[1].cast == "binary" and facts.columns[1].unsupported_reason
    got = read_all(source, read_plan(facts, (("g", "binary"),)), WHOLE)
    assert got.column("g")[0].as_py() == raw
    with pytest.raises(ConfigError, match="is not a type"):
        facts_of(source, "t", casts=(("n", "int); DROP TABLE t"),))
    with pytest.raises(ConfigError, match="names 'm'"):
        facts_of(source, "t", casts=(("m", "text"),))


def test_a_cast_that_rounds_is_called_lossy(sql, source) -> None:
    sql.execute("CREATE TABLE t (d double, v varchar(9), n int, m decimal(9,2))")
    casts = (("d", "int"), ("v", "date"), ("n", "decimal(12,0)"), ("m", "float8"))
    fidelity = {c.name: c.type.fidelity for c in facts_of(source, "t", casts=casts).columns}
    assert fidelity == {
        "d": Fidelity.LOSSY,
        "v": Fidelity.LOSSY,
        "n": Fidelity.EXACT,
        "m": Fidelity.LOSSY,
    }


def test_uuid_and_addresses_of_mariadb(sql, source) -> None:
    if not sql.mariadb:
        pytest.skip("types of MariaDB")
    sql.execute("CREATE TABLE t (u uuid NOT NULL PRIMARY KEY, i inet6 NOT NULL UNIQUE, n int)")
    sql.numbers(2000)
    sql.execute(
        "INSERT INTO t SELECT concat(left(sha2(i, 256), 8), '-1111-1222-8333-', "
        "right(sha2(i, 256), 12)), concat('::', hex(i)), i FROM numbers"
    )
    facts = facts_of(source, "t")
    assert [column.type.kind for column in facts.columns if column.type] == [
        TypeKind.UUID,
        TypeKind.STRING,
        TypeKind.INT32,
    ]
    for key in facts.keys:
        chunks = itertools.pairwise([None, *key.boundaries[10:90:20], None])
        rows: list[int] = []
        for lower, upper in chunks:
            chunk = ChunkRange(kind=RangeKind.KEYSET, columns=key.columns, lower=lower, upper=upper)
            rows += read_all(source, read_plan(facts), chunk).column("n").to_pylist()
        assert sorted(rows) == list(range(1, 2001))


def test_views_have_an_estimate_and_no_index(sql, source) -> None:
    sql.numbers(3000)
    sql.execute("ANALYZE TABLE numbers")
    sql.execute("CREATE VIEW v AS SELECT i FROM numbers WHERE i > 10")
    facts = facts_of(source, "v", "i")
    assert facts.indexes == () and facts.row_estimate_provenance == "explain"
    assert facts.row_estimate and 900 < facts.row_estimate < 3500
    assert facts.keys[0].minimum == ("11",) and facts.keys[0].provenance == "none"
    table = facts_of(source, "numbers")
    assert table.row_estimate_provenance == "statistics" and table.row_estimate
    assert table.keys[0].provenance == "sample" and table.row_width_bytes


def test_invisible_columns_are_named(sql, source) -> None:
    sql.execute("CREATE TABLE t (n int, hidden int INVISIBLE DEFAULT 3)")
    facts = facts_of(source, "t")
    assert [column.name for column in facts.columns] == ["n"]
    assert facts.warnings == ("invisible columns are not exported: hidden",)


@pytest.mark.parametrize("key", ["n", "k", "b", "d"])
def test_the_quantiles_of_a_large_table_come_from_estimates(sql, source, key, monkeypatch) -> None:
    monkeypatch.setattr(introspect, "WALK_ROWS_MAX", 1000)
    sql.numbers(40000)
    sql.execute(
        "CREATE TABLE t (n bigint NOT NULL PRIMARY KEY, k char(32) NOT NULL UNIQUE, "
        "b binary(16) NOT NULL UNIQUE, d datetime NOT NULL, KEY (d, n))"
    )
    sql.execute(
        "INSERT INTO t SELECT i * i, left(sha2(i, 256), 32), unhex(left(sha2(i, 256), 32)), "
        "'2020-01-01' + interval i * i second FROM numbers"
    )
    sql.execute("ANALYZE TABLE t")
    names = ("d", "n") if key == "d" else (key,)
    (found,) = facts_of(source, "t", *names, boundaries=20).keys
    assert found.provenance == "histogram" and 10 <= len(found.boundaries) <= 20
    literal = "unhex(%s)" if key == "b" else "%s"
    ranks = [
        sql.execute(f"SELECT count(*) FROM t WHERE `{key}` < {literal}", (value[0],))[0][0]
        for value in found.boundaries
    ]
    gaps = [high - low for low, high in itertools.pairwise([0, *ranks, 40000])]
    assert ranks == sorted(set(ranks)) and max(gaps) < 40000 / 4


def test_a_query_is_described_without_running_it(sql, source) -> None:
    query = "SELECT sleep(30) AS s, 1 AS n"
    facts = source.introspect(FactsRequest(export_name="q", relation=None, query=query))
    assert [column.name for column in facts.columns] == ["s", "n"]
    for wrong, said in [
        ("SELECT 1 AS n, 2 AS N", "Duplicate column name"),
        ("SELECT 1 AS n; DROP TABLE t", "the query holds a second statement"),
        ("SELECT ? AS n", "placeholder"),
    ]:
        with pytest.raises((SourceRefused, ConfigError), match=said):
            source.introspect(FactsRequest(export_name="q", relation=None, query=wrong))


def test_a_missing_table_names_close_ones(sql, source) -> None:
    sql.execute("CREATE TABLE Orders (n int)")
    sql.execute("CREATE TABLE customers (n int)")
    folded = sql.execute("SELECT @@lower_case_table_names")[0][0] != 0
    if not folded:
        with pytest.raises(SourceRefused, match="table orders does not exist") as caught:
            facts_of(source, "orders")
        assert f"{sql.database}.Orders" in (caught.value.hint or "")
    with pytest.raises(SourceRefused, match="table custmers does not exist") as caught:
        facts_of(source, "custmers")
    assert f"{sql.database}.customers" in (caught.value.hint or "")


def test_a_column_the_user_may_not_read_is_no_smaller_table(sql, mysql_url_any) -> None:
    sql.execute("CREATE TABLE t (n int, secret int)")
    user = f"r_{sql.database}"[-30:]
    sql.execute(f"CREATE USER '{user}'@'%' IDENTIFIED BY 'pass-word-1'")
    sql.execute(f"GRANT SELECT (n) ON `{sql.database}`.t TO '{user}'@'%'")
    url = replace(parse_database_url(mysql_url_any), user=user, password="pass-word-1")
    limited = MYSQL.open_source(url, application_name="rivet-test")
    try:
        with pytest.raises(SourceRefused) as caught:
            facts_of(limited, "t")
    finally:
        limited.close()
        sql.execute(f"DROP USER '{user}'@'%'")
    assert "GRANT SELECT" in (caught.value.hint or "") or "SELECT" in (caught.value.hint or "")


def test_text_columns_tell_their_character_set_and_collation(sql, source) -> None:
    sql.execute(
        "CREATE TABLE t (a varchar(3) CHARACTER SET sjis COLLATE sjis_bin, b char(4) CHARACTER SET "
        "latin1 COLLATE latin1_german2_ci, e enum('x') CHARACTER SET gbk, v varbinary(4), i int, "
        "u varchar(9) CHARACTER SET utf8mb4 COLLATE utf8mb4_czech_ci)"
    )
    expected = {
        "a": ("sjis", "sjis_bin"),
        "b": ("latin1", "latin1_german2_ci"),
        "e": ("gbk", "gbk_chinese_ci"),
        "v": (None, None),
        "i": (None, None),
        "u": ("utf8mb4", "utf8mb4_czech_ci"),
    }
    table = facts_of(source, "t")
    assert {c.name: (c.charset, c.collation) for c in table.columns} == expected
    query = "SELECT a, b, e, v, i, u FROM t"
    found = source.introspect(FactsRequest(export_name="q", relation=None, query=query))
    if sql.mariadb:  # its newest collations have an old one's number on the wire
        expected["u"] = ("utf8mb4", None)
    assert {c.name: (c.charset, c.collation) for c in found.columns} == expected
    # The session sends text as UTF-8 afterwards, also after a query that cannot be described.
    wrong = FactsRequest(export_name="q", relation=None, query="SELECT nobody FROM t")
    with pytest.raises(SourceRefused):
        source.introspect(wrong)
    sql.execute("INSERT INTO t (b) VALUES (_utf8mb4 'ä')")
    found = source.introspect(FactsRequest(export_name="q", relation=None, query=query))
    assert read_all(source, read_plan(found, query=query), WHOLE).column("b").to_pylist() == ["ä"]
