"""Folders of every name: configuration, state, spool, query file and output inside them."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rivet_fleet.errors import StateRefused
from rivet_fleet.persistence.open import dialect_of, sqlite_path, store_exists
from tests.integration.fleet_cli import Desk

HOSTILE = "a?b=c#d%20e%s f'g\"h\\i\nj {export} ${X} é📦 ;&"


def test_a_campaign_works_in_a_folder_of_any_name(tmp_path: Path, database: str) -> None:
    folder = tmp_path / HOSTILE / "second?x"
    folder.mkdir(parents=True)
    desk = Desk(folder=folder, environment={"SHOP_URL": database})
    (folder / "the query?.sql").write_text("select 7 as id; -- the end")
    desk.write(
        "source: {type: postgres, url_env: SHOP_URL}\n"
        "spool_dir: 'spool ? # % é'\n"
        "exports:\n"
        "  - {name: orders, query_file: 'the query?.sql', format: parquet,\n"
        "     destination: {type: local, path: 'out/orders'}}\n"
        "  - {name: odd, query: 'select 8 as id', format: parquet,\n"
        '     destination: {type: local, path: "out/o ? # %s \' é/x"}}\n'
    )
    for command in ("doctor", "check", "plan", "run", "validate", "status", "journal"):
        desk.cli(command)
    assert desk.delivered("orders") == [7]
    (odd,) = (desk.out / "o ? # %s ' é/x").glob("*/*.parquet")
    assert pq.read_table(odd).column("id").to_pylist() == [8]
    # Nothing was written beside the folder, under a part of its name.
    assert [one.name for one in tmp_path.iterdir()] == [HOSTILE]
    assert {one.name for one in (tmp_path / HOSTILE).iterdir()} == {"second?x"}
    assert desk.state.is_file()
    sealed = folder / "plan %s?.json"
    desk.cli("plan", "-o", str(sealed))
    desk.bare("apply", str(sealed), "-c", str(desk.config))


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%20b", "a b", "é", "a?b=c/d", "new\nline", "'\""])
def test_a_states_path_is_what_it_says(tmp_path: Path, name: str) -> None:
    file = tmp_path / name / "state.db"
    file.parent.mkdir(parents=True)
    url = f"sqlite:///{file}"
    assert sqlite_path(url) == file
    assert not store_exists(url)
    dialect = dialect_of(url)
    try:
        with dialect.engine(1).connect() as connection:
            connection.exec_driver_sql("CREATE TABLE t (i int)")
    finally:
        dialect.close()
    assert store_exists(url)
    assert os.listdir(file.parent) >= ["state.db"]


def test_parameters_of_a_file_are_refused_by_name() -> None:
    with pytest.raises(StateRefused, match=r"\?mode=rwc looks like one"):
        sqlite_path("sqlite:///state.db?mode=rwc")
