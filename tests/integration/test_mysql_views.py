"""What a user may read is enough to export it: views handed out alone, column grants, one column
that the server cannot send as asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.integration.fleet_cli import Desk
from tests.integration.mysql_source_kit import Sql, sql

__all__ = ["sql"]

Reader = Callable[..., Desk]


@pytest.fixture
def reader(sql: Sql, mysql_url_any: str, tmp_path: Path) -> Iterator[Reader]:
    """The desk of a user who has these privileges and no other."""
    name = f"r_{sql.database}"[:32]
    sql.execute(f"CREATE USER {name}@'%' IDENTIFIED BY 'pw'")
    head, _, place = mysql_url_any.rpartition("@")
    scheme = head.split("//", 1)[0]

    def granted(*grants: str) -> Desk:
        for grant in grants:
            sql.execute(f"GRANT {grant} TO {name}@'%'")
        return Desk(folder=tmp_path, environment={"SRC": f"{scheme}//{name}:pw@{place}"})

    yield granted
    sql.execute(f"DROP USER {name}@'%'")


def config(*exports: str) -> str:
    destination = "format: parquet, destination: {{type: local, path: ./out/{name}}}"
    lines = []
    for export in exports:
        name = export.split(",", 1)[0].removeprefix("name: ")
        lines.append(f"  - {{{export}, {destination.format(name=name)}}}")
    return "source: {type: mysql, url_env: SRC}\nexports:\n" + "\n".join(lines) + "\n"


def rows_of(desk: Desk, export: str) -> list[dict[str, object]]:
    parts = sorted(desk.out.glob(f"{export}/*/*.parquet"))
    found = [row for part in parts for row in pq.read_table(part).to_pylist()]
    return sorted(found, key=lambda row: str(row["id"]))


@pytest.mark.parametrize("security", ["DEFINER", "INVOKER"])
def test_select_on_a_view_alone_is_enough(sql, reader, security) -> None:
    sql.execute("CREATE TABLE t (id int PRIMARY KEY, a int, secret int)")
    sql.execute("INSERT INTO t VALUES (1, 2, 3), (2, 3, 4)")
    sql.execute(f"CREATE SQL SECURITY {security} VIEW v AS SELECT id, a FROM t")
    beneath = "SELECT (id, a) ON t"
    desk = reader("SELECT ON v", *([beneath] if security == "INVOKER" else []))
    desk.write(
        config(
            "name: v, table: v",
            "name: q, query: 'select id, a from v'",
            "name: k, query: 'select id, a from v', mode: chunked, chunk_column: id",
            "name: j, query: 'select one.id, one.a from v one join v two on one.id = two.id'",
        )
    )
    desk.cli("doctor")
    checked = desk.cli("check", "--json").json
    by_name = {export["export_name"]: export for export in checked["exports"]}
    assert by_name["v"]["row_estimate"] is None and not by_name["v"]["refused"]
    desk.cli("run")
    for export in ("v", "q", "k", "j"):
        assert rows_of(desk, export) == [{"id": 1, "a": 2}, {"id": 2, "a": 3}], export
    proposed = desk.folder / "proposed.yaml"
    desk.bare("init", "--source-url-env", "SRC", "--include", "*", "-o", str(proposed))
    assert "table: v" in proposed.read_text()


def test_a_view_over_a_function_and_a_view_is_read_with_the_rights_on_it_alone(sql, reader) -> None:
    sql.execute("CREATE TABLE t (id int PRIMARY KEY, a int)")
    sql.execute("INSERT INTO t VALUES (1, 2)")
    sql.execute("CREATE FUNCTION f(x int) RETURNS int DETERMINISTIC RETURN x + 1")
    sql.execute("CREATE VIEW inner_v AS SELECT id, f(a) AS a FROM t")
    sql.execute("CREATE VIEW v AS SELECT id, a FROM inner_v")
    desk = reader("SELECT ON v")
    desk.write(config("name: v, table: v"))
    desk.cli("doctor")
    desk.cli("check")
    desk.cli("run")
    assert rows_of(desk, "v") == [{"id": 1, "a": 3}]


def test_a_query_needs_the_columns_it_reads_and_a_table_needs_all(sql, reader) -> None:
    sql.execute("CREATE TABLE t (id int PRIMARY KEY, a int, secret int)")
    sql.execute("INSERT INTO t VALUES (1, 2, 3)")
    desk = reader("SELECT (id, a) ON t")
    desk.write(config("name: q, query: 'select id, a from t'"))
    desk.cli("doctor")
    desk.cli("check")
    desk.cli("run")
    assert rows_of(desk, "q") == [{"id": 1, "a": 2}]
    desk.write(config("name: t, table: t"))
    for command in ("doctor", "check", "run"):
        assert "SELECT command denied" in desk.cli(command, code=1).said, command


def test_a_column_that_cannot_be_read_as_asked_is_named_with_its_export(sql, reader) -> None:
    """MariaDB 10.11 has no vectors; it has no CAST of a value to nothing it knows either."""
    sql.execute("CREATE TABLE t (id int PRIMARY KEY)")
    sql.execute("INSERT INTO t VALUES (1)")
    sql.execute("CREATE TABLE shapes (id int PRIMARY KEY, place point)")
    sql.execute("INSERT INTO shapes VALUES (1, ST_GeomFromText('POINT(1 2)'))")
    desk = reader("SELECT ON *")
    desk.write(
        config(
            "name: t, table: t",
            "name: shapes, table: shapes, columns: {place: 'decimal(10,2)'}",
            "name: others, table: shapes, columns: {place: date}",
        )
    )
    checked = desk.cli("check", "--json", code=1).json
    refused = {one["export_name"]: " ".join(one["refused"]) for one in checked["exports"]}
    assert not refused["t"] and "shapes.place (point)" in refused["shapes"]
    done = desk.cli("run", code=5)
    assert rows_of(desk, "t") == [{"id": 1}]
    for export in ("shapes", "others"):
        assert (
            f"export {export} is left out, nothing of it is delivered: {export}.place" in done.err
        )
    assert "decimal(10,2)" in done.err
    desk.write(config("name: shapes, table: shapes, columns: {place: date}"))
    error = desk.refused("run", "--new", code=1, named="shapes.place (point)", hint="columns:")
    assert error["error_class"] == "UnsupportedType"
