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
