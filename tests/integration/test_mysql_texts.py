"""Text of MySQL and MariaDB in character sets that UTF-8 does not give back: keys and values."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rivet_fleet.contracts.columns import Fidelity
from rivet_fleet.contracts.facts import FactsRequest
from rivet_fleet.contracts.keys import ChunkRange, RangeKind, RelationName
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.contracts.window import NewestRequest, RowWindow, WindowBound
from rivet_fleet.errors import ConfigError, MalformedData, SourceRefused
from rivet_fleet.execution.checksums import reference_sum
from rivet_fleet.execution.source import PageLimit
from rivet_fleet.execution.sources.mysql import introspect
from tests.integration.fleet_cli import Desk, fleet_yaml
from tests.integration.mysql_source_kit import drain, facts_of, read_plan, source, sql

__all__ = ["source", "sql"]

SOURCE = "{type: mysql, url_env: SHOP_URL}"
TWO_ROWS = PageLimit(rows_max=2, bytes_max=1 << 20)
SHARED = ("5C", "815F", "5C5C", "5C815F", "41", "7E", "8160", "B1", "81CA", "FA54", "EEF9", "20")
"""cp932: U+FFE2 has three codes; sjis: U+005C has two."""
KEYS = {
    "b5": ("big5 COLLATE big5_bin", "A1C3 A1C5 A1FE A240 A2CC A451 A2CE A4CA A15A A1C4"),
    "sj": ("sjis COLLATE sjis_bin", "815F 5C 8160 817C 8191 8192 81CA 7E A1 B1"),
    "cp": ("cp1251", "41 4198 4199 42 C0"),
    "c32": ("cp932", "FA54 81CA EEF9 8161 A1 41"),
}


@pytest.fixture
def desk(tmp_path: Path, mysql_url_any: str) -> Desk:
    return Desk(folder=tmp_path, environment={"SHOP_URL": mysql_url_any})


def test_plain_ascii_keys_of_sjis_arrive_all(sql, desk) -> None:
    sql.numbers(4000)
    sql.execute(
        "CREATE TABLE p (k varchar(60) CHARACTER SET sjis COLLATE sjis_bin NOT NULL PRIMARY KEY, "
        "id int)"
    )
    sql.execute("INSERT INTO p SELECT CONCAT(X'433A5C646174615C', LPAD(i, 5, '0')), i FROM numbers")
    sql.execute("ANALYZE TABLE p")
    extra = "mode: chunked, chunk_size: 700, tuning: {batch_size: 300}"
    desk.write(fleet_yaml(table="p", source=SOURCE, extra=extra))
    desk.cli("run")
    assert desk.delivered("p") == list(range(1, 4001))
    checksum = reference_sum(pa.array([f"C:\\data\\{i:05}" for i in range(1, 4001)]))
    (delivery,) = desk.out.rglob("manifest.json")
    columns = json.loads(delivery.read_text())["columns"]
    assert {c["name"]: c["checksum"] for c in columns}["k"] == f"value64:{checksum:016x}"
    desk.cli("validate")


def several(policy: str) -> str:
    exports = "".join(
        f"  - {{name: {name}, table: {name}, mode: chunked, chunk_count: 3, format: parquet, "
        f"tuning: {{batch_size: 1}}, on_unrepresentable: {policy},\n"
        f"     destination: {{type: local, path: ./out/{name}}}}}\n"
        for name in KEYS
    )
    return f"source: {SOURCE}\ncampaign: {{workers: 1, max_chunk_attempts: 1}}\nexports:\n{exports}"


def test_keys_that_utf8_does_not_give_back_arrive_once(sql, desk) -> None:
    for name, (charset, codes) in KEYS.items():
        sql.execute(
            f"CREATE TABLE {name} (k varchar(40) CHARACTER SET {charset} NOT NULL PRIMARY KEY, "
            "id int)"
        )
        rows = ", ".join(f"(X'{code}', {id})" for id, code in enumerate(codes.split()))
        sql.execute(f"INSERT INTO {name} VALUES {rows}")
    desk.write(several("coerce"))
    desk.cli("run")
    for name, (_, codes) in KEYS.items():
        assert desk.delivered(name) == list(range(len(codes.split()))), name
    columns = json.loads((desk.out / "cp" / "manifest.json").read_text())["columns"]
    assert {one["name"]: one["changed_values"] for one in columns} == {"k": 1, "id": 0}
    parts = [pq.read_table(one) for one in desk.out.glob("cp/*/*.parquet")]
    found = [text for part in parts for text in part.column("k").to_pylist()]
    assert sorted(found) == ["A", "A™", "A\ufffd", "B", "А"]
    # Under the default policy nothing becomes another character without a word.
    strict = Desk(folder=desk.folder / "strict", environment=desk.environment)
    strict.folder.mkdir()
    strict.write(several("fail"))
    strict.cli("run", code=3)
    assert strict.delivered("sj") == list(range(10)) and strict.delivered("c32") == list(range(6))
    assert not strict.delivered("cp") and not strict.delivered("b5")
    said = strict.cli("status", code=None).said
    assert "column k: text that is not valid UTF-8" in said


def table(sql, columns: str, keys: tuple[str, ...] = SHARED) -> None:
    """A table ``t`` with a row for each key, ``n`` counting them; ``columns`` holds ``k``."""
    sql.execute(f"CREATE TABLE t (n int NOT NULL, {columns})")
    for n, key in enumerate(keys, 1):
        sql.execute(f"INSERT INTO t (n, k) VALUES ({n}, X'{key}')")


def coerced(facts, query: str | None = None):
    return replace(read_plan(facts, query=query), on_unrepresentable="coerce")


def in_order(sql, order: str) -> list[int]:
    return [row[0] for row in sql.execute(f"SELECT n FROM t ORDER BY {order}")]


@pytest.mark.parametrize(
    ("columns", "key", "kind"),
    [
        ("k varchar(9) CHARACTER SET cp932 NOT NULL, PRIMARY KEY (n, k)", ("n", "k"), "keyset"),
        ("k char(9) CHARACTER SET sjis NOT NULL, PRIMARY KEY (k, n)", ("k", "n"), "keyset"),
        ("k varchar(9) CHARACTER SET sjis COLLATE sjis_bin, KEY (k)", ("k",), "span"),
        ("k varchar(9) CHARACTER SET ascii COLLATE ascii_bin, KEY (k)", ("k",), "span"),
    ],
)
def test_composite_keys_spans_and_walks(sql, source, columns, key, kind) -> None:
    table(sql, columns, ("C3", "C3A9", "41", "C3", "5C") if "ascii" in columns else SHARED)
    facts = source.introspect(
        FactsRequest(
            export_name="t",
            relation=RelationName(schema="", name="t"),
            query=None,
            key_columns=key,
            walk_rows=2,
        )
    )
    (found,) = facts.keys
    expected = in_order(sql, ", ".join(key))
    assert found.provenance == "walk" and len(found.boundaries) >= 2
    got = []
    for low, high in zip((None, *found.boundaries), (*found.boundaries, None), strict=True):
        chunk = ChunkRange(kind=RangeKind(kind), columns=key, lower=low, upper=high)
        reader = source.open_chunk(coerced(facts), chunk, TuningPlan())
        got += drain(reader, TWO_ROWS).column("n").to_pylist()
    assert sorted(got) == sorted(expected)
    if kind == "keyset":
        assert got == expected


def test_the_estimated_boundaries_of_a_large_table(sql, source, monkeypatch) -> None:
    monkeypatch.setattr(introspect, "WALK_ROWS_MAX", 1000)
    sql.numbers(20_000)
    sql.execute(
        "CREATE TABLE t (k varchar(40) CHARACTER SET sjis COLLATE sjis_bin NOT NULL PRIMARY KEY, "
        "n int NOT NULL)"
    )
    sql.execute(
        "INSERT INTO t SELECT CONCAT(X'433A5C', IF(i % 50, HEX(i * 7919), X'B1B1'), i), i "
        "FROM numbers"
    )
    sql.execute("ANALYZE TABLE t")
    (key,) = facts_of(source, "t", boundaries=20).keys
    assert key.provenance == "histogram" and 5 <= len(key.boundaries) <= 20
    ranks = [
        sql.execute(f"SELECT count(*) FROM t WHERE k < {one[0]}")[0][0] for one in key.boundaries
    ]
    assert ranks == sorted(set(ranks))


def test_a_page_of_every_character_set_reads_its_own_rows_only(sql, source) -> None:
    sql.numbers(3000)
    for charset in ("sjis", "latin2", "utf8mb4", "ascii"):
        sql.execute("DROP TABLE IF EXISTS t")
        sql.execute(f"CREATE TABLE t (k varchar(9) CHARACTER SET {charset} PRIMARY KEY, n int)")
        sql.execute("INSERT INTO t SELECT concat('k', i), i FROM numbers")
        sql.execute("ANALYZE TABLE t")
        facts = facts_of(source, "t", boundaries=9)
        chunk = ChunkRange(kind=RangeKind.KEYSET, columns=("k",), lower=facts.keys[0].boundaries[4])
        pager = source.open_chunk(read_plan(facts), chunk, TuningPlan())._pager
        sql.execute("FLUSH STATUS")
        sql.execute(pager.select(PageLimit(rows_max=50, bytes_max=1)).sql())
        counted = dict(sql.execute("SHOW SESSION STATUS LIKE 'Handler_read%'"))
        assert sum(int(value) for value in counted.values()) <= 60, charset


def test_marks_and_coalesced_cursors(sql, source) -> None:
    text = "varchar(9) CHARACTER SET sjis COLLATE sjis_bin"
    table(sql, f"k {text}, o {text}, l varchar(9) CHARACTER SET latin1, PRIMARY KEY (n)")
    sql.execute("UPDATE t SET o = k, k = NULL WHERE n % 2 = 0")
    facts = facts_of(source, "t")
    relation = facts.relation
    order = [row[0] for row in sql.execute("SELECT n FROM t ORDER BY coalesce(k, o), n")]
    seen, mark = [], None
    for _ in range(2):  # the second time nothing is new
        request = NewestRequest(
            relation=relation, query=None, columns=("k", "n"), fallback="o", above=mark
        )
        newest = source.newest(request).values
        if newest is None:
            break
        assert newest[0].startswith("_sjis X'") and int(newest[1]) == order[-1]
        window = RowWindow(
            columns=("k", "n"),
            fallback="o",
            lower=None if mark is None else WindowBound(values=mark, inclusive=False),
            upper=WindowBound(values=newest, inclusive=True),
        )
        read = replace(coerced(facts), window=window)
        chunk = ChunkRange(kind=RangeKind.KEYSET, columns=("n",))
        seen += (
            drain(source.open_chunk(read, chunk, TuningPlan()), TWO_ROWS).column("n").to_pylist()
        )
        mark = newest
    assert mark is not None and sorted(seen) == sorted(order)
    request = NewestRequest(relation=relation, query=None, columns=("k",), fallback="l")
    with pytest.raises(ConfigError, match="sjis_bin, latin1"):
        source.newest(request)
    # A mark that an older program wrote as text is not taken for another key.
    old = NewestRequest(relation=relation, query=None, columns=("k",), above=("\\",))
    with pytest.raises(ConfigError, match="written by an older program"):
        source.newest(old)


def test_a_querys_key_has_the_character_set_of_its_column(sql, source) -> None:
    table(sql, "k varchar(9) CHARACTER SET cp932 COLLATE cp932_bin NOT NULL")
    for query in (
        "SELECT n, k FROM t",
        "SELECT n, CONCAT(k, k) AS k FROM t",
        "SELECT DISTINCT n, k COLLATE cp932_japanese_ci AS k FROM t",
        "SELECT n, CONVERT(HEX(k) USING utf8mb4) AS k FROM t",
        "SELECT n, CAST(n AS CHAR) AS k FROM t",
    ):
        facts = source.introspect(
            FactsRequest(export_name="q", relation=None, query=query, key_columns=("k",))
        )
        chunk = ChunkRange(kind=RangeKind.KEYSET, columns=("k",))
        reader = source.open_chunk(coerced(facts, query), chunk, TuningPlan())
        got = drain(reader, TWO_ROWS).column("n").to_pylist()
        assert sorted(got) == sorted(in_order(sql, "n")), query


def test_values_without_an_image_fail_or_are_counted(sql, source) -> None:
    sql.execute(
        "CREATE TABLE t (n int PRIMARY KEY, g longtext CHARACTER SET gbk, a char(9) CHARACTER SET "
        "ascii, s varchar(40) CHARACTER SET sjis, e enum('?', 'x') CHARACTER SET sjis, l "
        "varchar(9) CHARACTER SET latin1)"
    )
    sql.execute(
        "INSERT INTO t VALUES (1, CONCAT(X'D2BB', '? \x01'), 'what?', CONCAT(X'5C815F', '?\x01'), "
        "'?', X'8081'), (2, NULL, NULL, NULL, NULL, NULL)"
    )
    facts = facts_of(source, "t")
    whole = ChunkRange(kind=RangeKind.WHOLE)
    for read in (read_plan(facts), coerced(facts)):
        reader = source.open_chunk(read, whole, TuningPlan())
        first, second = drain(reader).to_pylist()
        assert first == {
            "n": 1, "g": "一? \x01", "a": "what?", "s": "\\\\?\x01", "e": "?", "l": "€\x81",
        }  # fmt: skip
        assert second == dict.fromkeys(first) | {"n": 2} and not reader.changed
    fidelity = {column.name: column.type.fidelity for column in facts.columns}
    assert fidelity["s"] is Fidelity.COMPATIBLE and fidelity["g"] is Fidelity.EXACT
    sql.execute("INSERT INTO t (n, g) VALUES (3, CONCAT('a?', X'A140', '?'))")
    if sql.mariadb:
        sql.execute("UPDATE t SET a = X'61C3' WHERE n = 3")
    for column in ("g", "a") if sql.mariadb else ("g",):
        query = f"SELECT n, {column} FROM t WHERE n = 3"
        facts = source.introspect(FactsRequest(export_name="q", relation=None, query=query))
        with pytest.raises(MalformedData, match=f"column {column}: text that is not valid UTF-8"):
            drain(source.open_chunk(read_plan(facts, query=query), whole, TuningPlan()))
        reader = source.open_chunk(coerced(facts, query), whole, TuningPlan())
        (row,) = drain(reader).to_pylist()
        assert row[column] == {"g": "a?\ufffd?", "a": "a\ufffd"}[column]
        assert reader.changed == {column: 1}


def test_an_unsound_collation_is_no_key(sql, source) -> None:
    sql.execute(
        "CREATE TABLE t (k varchar(9) CHARACTER SET latin2 COLLATE latin2_czech_cs PRIMARY KEY)"
    )
    assert facts_of(source, "t").keys == ()
    with pytest.raises(SourceRefused, match="cannot be a chunk key"):
        facts_of(source, "t", "k")
