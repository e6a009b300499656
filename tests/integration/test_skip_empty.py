"""Runs without rows: a delivery of nothing, or with ``skip_empty`` no delivery at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.fleet_cli import Desk

EXPORT = """\
  - name: {name}
    table: t
    format: {format}
    destination: {{type: local, path: 'out/{name}'}}
    {more}
"""
HEAD = "source: {type: postgres, url_env: DB}\ncampaign: {name: empty, workers: 1}\nexports:\n"
SHAPES = {
    "whole": ("parquet", "skip_empty: true"),
    "csv": ("csv", "skip_empty: true"),
    "chunks": ("parquet", "{mode: chunked, chunk_column: id, skip_empty: true}"),
    "kept": ("parquet", "mode: full"),
    "keptcsv": ("csv", "{mode: chunked, chunk_column: id, chunk_count: 3}"),
}


@pytest.fixture
def desk(tmp_path: Path, postgres, database: str) -> Desk:
    name = database.rpartition("/")[2]
    postgres.psql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)", database=name)
    desk = Desk(folder=tmp_path, environment={"DB": database})
    text = HEAD
    for export, (kind, more) in SHAPES.items():
        lines = more.strip("{}").replace(", ", "\n    ")
        text += EXPORT.format(name=export, format=kind, more=lines)
    desk.write(text)
    return desk


def marks(desk: Desk, export: str) -> tuple[str, list[str]]:
    folder = desk.out / export
    manifest = json.loads((folder / "manifest.json").read_text())
    return manifest["run_id"], sorted(one.parent.name for one in folder.glob("*/_SUCCESS"))


def test_nothing_replaces_a_delivery_and_nothing_is_a_delivery(desk: Desk, postgres) -> None:
    desk.cli("run")
    before = {export: marks(desk, export) for export in SHAPES}
    postgres.psql("DELETE FROM t", database=desk.environment["DB"].rpartition("/")[2])
    report = desk.cli("run", "--json").json
    assert {one["status"] for one in report["exports"]} == {"completed"}
    for export, (_, more) in SHAPES.items():
        if "skip_empty" in more:
            assert marks(desk, export) == before[export], "the former delivery stays"
            continue
        run_id, delivered = marks(desk, export)
        assert run_id != before[export][0]
        assert delivered == sorted([before[export][0], run_id])
        assert not [one for one in (desk.out / export / run_id).iterdir() if one.name != "_SUCCESS"]
        manifest = json.loads((desk.out / export / "manifest.json").read_text())
        assert (manifest["row_count"], manifest["part_count"], manifest["parts"]) == (0, 0, [])
    verdicts = desk.cli("validate", "--depth", "full", "--json").json
    assert {one["export_name"] for one in verdicts["exports"]} == {"kept", "keptcsv"}
