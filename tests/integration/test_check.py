"""``rivet-fleet check`` at the command line, over a table of everything that is difficult."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.fleet_cli import Desk
from tests.integration.mysql_source_kit import Sql

SQL = """
CREATE TYPE mood AS ENUM ('glücklich', 'müde');
CREATE TABLE exact (id bigint PRIMARY KEY, total numeric(12,2) NOT NULL, at timestamptz,
                    who uuid, feels mood, doc jsonb, tags text[]);
CREATE TABLE hard (id int PRIMARY KEY, paid money, host inet, many numeric, huge numeric(1000,500),
                   span int4range, flag bit(3), late timetz, page xml, words tsvector);
INSERT INTO hard VALUES (1, 12.5, '10.0.0.1/8', 1.25, 1e400, '[1,5)', '101', '12:00+02',
                         NULL, 'a:1');
CREATE TABLE wide (id int PRIMARY KEY, n numeric(76,40));
"""
ENTRY = """\
  - name: {name}
    table: {name}
    format: parquet
    destination: {{type: local, path: out/{name}}}
"""


@pytest.fixture
def desk(tmp_path: Path, postgres, database: str) -> Desk:
    postgres.psql(SQL, database=database.rpartition("/")[2])
    return Desk(folder=tmp_path, environment={"DB": database})


def config(*names: str, more: str = "", top: str = "") -> str:
    head = f"source: {{type: postgres, url_env: DB}}\n{top}exports:\n"
    return head + "".join(ENTRY.format(name=name) + more for name in names)


def columns(report, export: int = 0) -> dict[str, dict]:
    return {column["name"]: column for column in report["exports"][export]["columns"]}


def test_a_clean_export_is_described_and_nothing_is_written(desk: Desk) -> None:
    desk.write(config("exact"))
    done = desk.cli("check", "--type-report", "--strict")
    for words in ("numeric(12,2) NOT NULL", "decimal(12,2)", "arrow.uuid", "TIMESTAMP(us, UTC)"):
        assert words in done.out
    report = desk.cli("check", "--json").json
    assert report["report_version"] == 1
    (export,) = report["exports"]
    assert (export["refused"], export["chunks"], export["strategy"]) == ([], 1, "keyset")
    found = columns(report)
    assert found["feels"]["fidelity"] == "compatible"
    assert found["doc"]["file_type"] == "JSON"
    assert found["tags"]["type"] == "list<string>"
    assert found["total"]["nullable"] is False
    assert sorted(path.name for path in desk.folder.iterdir()) == ["fleet.yaml"]


def test_what_cannot_be_carried_is_listed_with_its_cast(desk: Desk) -> None:
    desk.write(config("hard", "exact"))
    done = desk.cli("check", "--type-report", code=1)
    assert "9 column(s) cannot be carried exactly" in done.out
    report = desk.cli("check", "--json", code=1).json
    found = columns(report)
    assert found["many"]["note"].endswith("columns: {many: decimal(38,10)}")
    assert found["paid"]["fidelity"] == "unsupported"
    assert len(report["findings"]) == 9
    assert report["exports"][1]["refused"] == []
    assert desk.cli("check", "-e", "exact", "--strict").code == 0


def test_as_text_everything_is_carried(desk: Desk) -> None:
    desk.write(config("hard", top="defaults: {on_unsupported: text}\n"))
    report = desk.cli("check", "--json", "--strict").json
    found = columns(report)
    assert {c["cast"] for n, c in found.items() if n != "id"} == {"text"}
    assert found["huge"]["fidelity"] == "logical_string"
    (export,) = report["exports"]
    assert any("column paid (money) is exported as text" in w for w in export["warnings"])


def test_a_lossy_override_is_a_finding_of_strict_alone(desk: Desk) -> None:
    desk.write(config("exact", more="    columns: {total: float4}\n"))
    assert "may not keep every value" in desk.cli("check").out
    done = desk.cli("check", "--strict", code=1)
    assert "exact.total (numeric(12,2)) is lossy" in done.out
    desk.write(config("exact", more="    columns: {total: float4}\n    on_lossy: fail\n"))
    assert "on_lossy is fail" in desk.cli("check", code=1).out


def test_a_warehouse_that_cannot_hold_a_column_is_a_finding(desk: Desk) -> None:
    desk.write(config("wide"))
    assert "BIGNUMERIC" in desk.cli("check", "--target", "bigquery").out
    done = desk.cli("check", "--target", "snowflake", "--strict", code=1)
    assert "fails on snowflake" in done.out
    assert desk.cli("check", "--target", "duckdb", "--target", "clickhouse", "--strict").code == 0
    desk.write(config("wide", more="    target: snowflake\n"))
    assert desk.cli("check", "--strict", code=1).out == done.out


def test_what_is_wrong_with_one_export_hides_no_other(desk: Desk) -> None:
    desk.write(config("exact", "nowhere"))
    done = desk.cli("check", code=1)
    assert "refused: table nowhere does not exist" in done.out
    assert "exact: public.exact on default" in done.out
    done = desk.cli("check", "-e", "exat", code=1)
    assert "did you mean 'exact'?" in done.said


def test_a_format_that_cannot_hold_a_column_is_refused(desk: Desk) -> None:
    desk.write(config("exact").replace("parquet", "csv"))
    assert "tags" in desk.cli("check", code=1).out


MARIADB = (
    "CREATE TABLE odd (id bigint unsigned PRIMARY KEY, flag tinyint(1), bits bit(64), "
    "day date, place point, doc json)",
)


def test_the_same_questions_to_another_engine(tmp_path: Path, mysql_database: str) -> None:
    sql = Sql(mysql_database)
    for statement in MARIADB:
        sql.execute(statement)
    desk = Desk(folder=tmp_path, environment={"DB": mysql_database})
    desk.write(config("odd").replace("type: postgres", "type: mysql"))
    report = desk.cli("check", "--json", "--target", "bigquery", code=1).json
    found = columns(report)
    assert (found["id"]["type"], found["bits"]["type"]) == ("uint64", "uint64")
    assert found["place"]["fidelity"] == "unsupported"
    assert found["id"]["targets"][0]["status"] == "warn"
    top = "defaults: {on_unsupported: text, on_unrepresentable: coerce}\n"
    desk.write(config("odd", top=top).replace("type: postgres", "type: mysql"))
    found = columns(desk.cli("check", "--json").json)
    assert (found["place"]["cast"], found["place"]["fidelity"]) == ("text", "lossy")
    assert "odd.place (point) is lossy" in desk.cli("check", "--strict", code=1).out


JUDGED = """
CREATE TABLE many (id bigint PRIMARY KEY, note text);
INSERT INTO many SELECT i, 'x' FROM generate_series(1, 3000) i;
CREATE TABLE guessed (id bigint PRIMARY KEY); INSERT INTO guessed VALUES (1), (2);
CREATE TABLE heap (a int); INSERT INTO heap SELECT 1 FROM generate_series(1, 10);
ANALYZE many, heap;
"""


def test_a_verdict_tells_its_numbers_and_who_says_them(
    tmp_path: Path, postgres, database: str
) -> None:
    postgres.psql(JUDGED, database=database.rpartition("/")[2])
    desk = Desk(folder=tmp_path, environment={"DB": database})
    desk.write(config("many", "guessed", "heap"))
    many, guessed, heap = (one["judgement"] for one in desk.cli("check", "--json").json["exports"])
    assert many["preflight"]["verdict"] == "efficient"
    assert many["preflight"]["rows_from"] == "statistics"
    assert many["preflight"]["recommended_profile"] == "fast"
    assert many["profile"] == "balanced"
    found = {(one["what"], one["origin"]): one for one in many["evidence"]}
    assert found["rows", "statistics"]["value"] == 3000
    assert found["extremes of id", "index"]["value"] == "1 … 3000"
    assert found["connections_max", "server"]["value"] > 10
    assert [one["code"] for one in guessed["preflight"]["warnings"]] == ["unanalysed"]
    assert {"size"} == {one["origin"] for one in guessed["evidence"] if one["what"] == "rows"}
    assert "no_history" in [one["kind"] for one in many["caveats"]]
    assert heap["preflight"]["verdict"] == "acceptable"
    said = desk.cli("check").out
    assert "verdict: efficient; judged by rows 3,000 (statistics)" in said
    assert "advised: profile fast (configured: balanced)" in said
    assert "an estimate is no count" in said
    assert sorted(path.name for path in desk.folder.iterdir()) == ["fleet.yaml"]


def test_what_a_former_run_counted_is_preferred_and_said(
    tmp_path: Path, postgres, database: str
) -> None:
    name = database.rpartition("/")[2]
    postgres.psql(JUDGED, database=name)
    desk = Desk(folder=tmp_path, environment={"DB": database})
    desk.write(config("many"))
    desk.cli("run")
    postgres.psql(
        "INSERT INTO many SELECT i, 'x' FROM generate_series(3001, 3500) i; ANALYZE many",
        database=name,
    )
    judged = desk.cli("check", "--json").json["exports"][0]["judgement"]
    assert (judged["preflight"]["rows"], judged["preflight"]["rows_from"]) == (
        3000,
        "measured today",
    )
    rows = {one["origin"]: one for one in judged["evidence"] if one["what"] == "rows"}
    assert (rows["statistics"]["value"], rows["statistics"]["used"]) == (3500, False)
    assert (rows["measured"]["value"], rows["measured"]["used"]) == (3000, True)
    done = desk.cli("check", "--state-url", "postgres://me@127.0.0.1:1/gone")
    assert "note: no history: " in done.out
    assert "judged by rows 3,500 (statistics)" in done.out
