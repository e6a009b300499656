"""Where Rivet has run: its state is told from ours, and an incremental export goes on where it
stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rivet_fleet.errors import StateRefused
from rivet_fleet.persistence.open import open_store, rivets_cursors_of_server, state_health
from rivet_fleet.persistence.rivet import OF_RIVET, is_rivets_file
from tests.integration.fleet_cli import Desk, fleet_yaml, run_sqlite
from tests.integration.test_incremental_cli import INCREMENTAL, add, delivered
from tests.unit.persistence.test_rivet_state import rivets

RIVETS_FILE = ".rivet_state.db"


@pytest.fixture
def desk(tmp_path: Path, postgres, database: str) -> Desk:
    """A folder in which Rivet has read the first 200 rows; ten rows share a cursor."""
    postgres.psql(
        "CREATE TABLE orders (id bigint PRIMARY KEY, at timestamptz); CREATE INDEX ON orders (at)",
        database=database.rpartition("/")[2],
    )
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": database})
    desk.write(fleet_yaml(extra=INCREMENTAL))
    add(postgres, desk, 1, 209)
    # 2025-01-01 + 20 s: rows 200 to 209, in the form of Arrow.
    rivets(tmp_path / RIVETS_FILE, ("orders", "2025-01-01T00:00:20.000000+00:00", None, None))
    return desk


def test_an_incremental_export_goes_on_where_rivet_stopped(desk: Desk, postgres) -> None:
    theirs = (desk.folder / RIVETS_FILE).read_bytes()
    said = desk.cli("plan").out
    assert "Rivet's state in this folder has the cursor of orders at 2025-01-01T00:00:20" in said
    assert "`rivet-fleet state import` goes on from there" in said
    assert not desk.state.exists()
    assert "with cursors of orders" in desk.cli("doctor").out
    done = desk.cli("state", "import")
    assert "orders goes on from at, id = 2025-01-01 00:00:20+00" in done.out
    assert "it has a mark here, which stays" in desk.cli("state", "import").out
    add(postgres, desk, 210, 230)
    desk.cli("run")
    assert delivered(desk) == list(range(210, 231))
    add(postgres, desk, 231, 240)
    desk.cli("run")
    assert delivered(desk) == list(range(210, 241))
    told = "SELECT data_json FROM run_journal WHERE event = 'mark.imported'"
    ((data,),) = run_sqlite(desk.state, told)
    assert json.loads(data)["value"] == "2025-01-01T00:00:20.000000+00:00"
    assert (desk.folder / RIVETS_FILE).read_bytes() == theirs
    assert is_rivets_file(desk.folder / RIVETS_FILE)


def test_what_cannot_be_taken_is_named_and_nothing_is_changed(desk: Desk) -> None:
    (desk.folder / RIVETS_FILE).unlink()
    missing = desk.cli("state", "import", code=1)
    assert "there is no state of Rivet at" in missing.err and not desk.state.exists()
    rivets(desk.folder / "other.db", ("orders", "yesterday", None, None))
    odd = desk.cli("state", "import", "--from", f"sqlite:{desk.folder / 'other.db'}", code=1)
    assert "'yesterday' is no value of at (timestamp with time zone)" in odd.out
    assert desk.cli("state", "show").out.count("reads from") == 0


def test_what_a_run_would_refuse_of_a_state_check_and_doctor_refuse(desk: Desk) -> None:
    here = ("--state-url", f"sqlite:///{desk.folder / RIVETS_FILE}")
    for command in ("run", "plan", "check", "status"):
        assert "holds the state of Rivet" in desk.cli(command, *here, code=1).said, command
    assert "holds the state of Rivet" in desk.cli("doctor", *here, code=None).said


def test_a_servers_state_of_rivets_is_read_and_none_of_ours_is_made_in_it(
    postgres, database: str
) -> None:
    postgres.psql(
        "CREATE TABLE rivet_schema_version (version bigint);"
        "CREATE TABLE export_state (export_name text, last_cursor_value text, last_run_at text);"
        "INSERT INTO export_state VALUES ('orders', '17', 'now')",
        database=database.rpartition("/")[2],
    )
    store = open_store(database)
    try:
        with pytest.raises(StateRefused, match="holds the state of Rivet") as caught:
            store.migrate()
        assert caught.value.code == OF_RIVET
        target, (found,) = rivets_cursors_of_server(database)
        assert database.rpartition("/")[2] in target
        assert (found.export_name, found.value, found.unfinished) == ("orders", "17", False)
        postgres.psql(
            "CREATE DOMAIN run AS text CHECK (VALUE <> '');"
            "ALTER TABLE export_state ADD resume_run_id run DEFAULT 'r'",
            database=database.rpartition("/")[2],
        )
        assert rivets_cursors_of_server(database)[1][0].unfinished
    finally:
        store.close()
    with pytest.raises(StateRefused, match="holds the state of Rivet"):
        state_health(database)
