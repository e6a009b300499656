"""A mark belongs to what it was taken from (ADR 0020): edits are refused, ways on are told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.fleet_cli import Desk, fleet_yaml, run_sqlite, seal_anew
from tests.integration.mysql_source_kit import Sql
from tests.integration.test_incremental_cli import delivered, mark

INCREMENTAL = "mode: incremental, cursor_column: id"
OTHER = "RIVET_MARK_OTHER"
ROWS = "CREATE TABLE {name} (id bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), n int);"
FILL = "INSERT INTO {name} (id, n) SELECT i, i FROM generate_series({first}, {last}) i;"


def name_of(url: str) -> str:
    return url.rpartition("/")[2]


@pytest.fixture
def desk(tmp_path: Path, postgres, database: str) -> Desk:
    postgres.psql(
        "".join(
            ROWS.format(name=table) + FILL.format(name=table, first=1, last=100)
            for table in ("orders", "others")
        ),
        database=name_of(database),
    )
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": database})
    desk.write(fleet_yaml(extra=INCREMENTAL))
    desk.cli("run")
    assert delivered(desk) == list(range(1, 101))
    return desk


@pytest.fixture
def shop_b(postgres, database: str) -> str:
    """The same table in another database of the same server, with rows at and below the mark."""
    other = postgres.create_database(f"{name_of(database)}_b")
    postgres.psql(
        ROWS.format(name="orders") + FILL.format(name="orders", first=50, last=150),
        database=name_of(other),
    )
    return str(other)


def bind(desk: Desk, binding: str | None) -> None:
    """As a run of another configuration, or of an earlier version, would have left it."""
    run_sqlite(desk.state, "UPDATE export_state SET mark_binding = ?", (binding,))
    seal_anew(f"sqlite:///{desk.state}")


def stored(desk: Desk) -> list[tuple[str, str, str]]:
    return run_sqlite(desk.state, "SELECT last_cursor_value, mark_binding FROM export_state")


def test_the_mark_of_another_source_is_refused_by_every_verb(desk, shop_b, database) -> None:
    desk.cli("plan", "-o", "plan.json")
    before = stored(desk)
    desk.environment["SHOP_URL"] = shop_b
    for verb in ("run", "submit", "plan"):
        error = desk.refused(verb, code=1, named=name_of(shop_b), hint="state accept -e orders")
        assert error["code"] == OTHER and f"/{name_of(database)} (database" in error["error"]
    checked = desk.cli("check", code=1)
    assert f"/{name_of(database)} (database" in checked.said
    error = desk.refused("apply", "plan.json", code=1, named="made on", hint="environment")
    assert error["code"] == "RIVET_CONFIG_SOURCE_MISMATCH"
    assert stored(desk) == before
    assert run_sqlite(desk.state, "SELECT count(*) FROM campaign") == [(1,)]
    # Nothing of it is kept where the source is the first one again, by another user or spelling.
    desk.environment["SHOP_URL"] = database + "?application_name=somebody"
    desk.cli("run")


def test_a_renamed_host_is_the_same_source_and_a_server_in_its_place_is_not(
    desk, database, postgres
) -> None:
    """What the server says of itself decides where both sides say it."""
    ((value, text),) = stored(desk)
    assert '"told":"database' in text and "system " in text
    desk.environment["SHOP_URL"] = database.replace("127.0.0.1", "localhost")
    desk.cli("plan")
    # The same address, and another system answers there: as after a restore from a dump.
    elsewhere = [
        {**one, "told": one["told"].replace("system ", "system 9")} for one in json.loads(text)
    ]
    bind(desk, json.dumps(elsewhere))
    desk.environment["SHOP_URL"] = database
    desk.refused("plan", code=1, named="source was", hint="state accept -e orders")
    desk.cli("state", "accept", "-e", "orders")
    desk.cli("plan")
    assert stored(desk) == [(value, text)]


def test_another_order_of_the_cursor_is_another_mark(tmp_path, postgres, database) -> None:
    postgres.psql(
        'CREATE TABLE orders (code text COLLATE "C" PRIMARY KEY);'
        "INSERT INTO orders VALUES ('B'), ('a')",
        database=name_of(database),
    )
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": database})
    desk.write(
        fleet_yaml(extra="mode: incremental, cursor_column: code, cursor_is_monotonic: true")
    )
    desk.cli("submit")
    desk.cli("resume")
    postgres.psql(
        'ALTER TABLE orders ALTER code TYPE text COLLATE "POSIX"', database=name_of(database)
    )
    error = desk.refused("submit", code=1, named="collation was code by", hint="state accept")
    assert error["code"] == OTHER


def test_a_value_that_means_another_moment_now_is_another_mark(
    tmp_path, postgres, database
) -> None:
    """Its text is the same, of a column with another type or a query with another session."""
    name = name_of(database)
    postgres.psql(
        "CREATE TABLE orders (id int PRIMARY KEY, at timestamp NOT NULL, local timestamptz);"
        "INSERT INTO orders VALUES (1, '2025-01-10 10:00', '2025-01-10 10:00+00')",
        database=name,
    )
    asked = fleet_yaml(export="asked", extra="mode: incremental, cursor_column: local")
    asked = asked.replace("table: orders", 'query: "SELECT id, local::timestamp FROM orders"')
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": database})
    desk.write(
        fleet_yaml(extra="mode: incremental, cursor_column: at") + asked.partition("exports:\n")[2]
    )
    desk.cli("run")
    postgres.psql(
        f"ALTER DATABASE {name} SET timezone = 'America/New_York';"
        "ALTER TABLE orders ALTER at TYPE timestamptz",
        database=name,
    )
    checked = desk.cli("check", code=1).said
    assert "type was at a moment without a zone, id a number and is at a moment in UTC" in checked
    assert "session was TimeZone UTC and is TimeZone America/New_York" in checked
    assert checked.count("goes on from it all the same") == 2
    # As an earlier version has bound them: gone on from, and told.
    old = "UPDATE export_state SET mark_binding = ? WHERE export_name = ?"
    for export, text in run_sqlite(
        desk.state, "SELECT export_name, mark_binding FROM export_state"
    ):
        told = [one for one in json.loads(text) if one["subject"] not in ("type", "session")]
        run_sqlite(desk.state, old, (json.dumps(told), export))
    seal_anew(f"sqlite:///{desk.state}")
    told = desk.cli("plan", "-e", "orders").out
    assert "does not say what type its columns had; this run binds it to type at a moment" in told


def test_without_the_guard_rows_of_the_other_source_would_be_lost(desk, shop_b) -> None:
    """What the guard is worth: the case as it was reported."""
    program = (
        "from rivet_fleet.planning import binding as planning\n"
        "planning.differences = lambda *_: ()\n"
        "from rivet_fleet.cli.main import main\n"
        "main()\n"
    )
    desk.environment["SHOP_URL"] = shop_b
    done = subprocess.run(
        [sys.executable, "-c", program, "submit", "-c", str(desk.config)],
        env={**desk.environment, "PATH": "/usr/bin:/bin"},
        cwd=desk.folder,
        timeout=60,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ((window,),) = run_sqlite(
        desk.state, "SELECT plan_json FROM chunk_run ORDER BY created_at_s DESC LIMIT 1"
    )
    read = json.loads(window)["read"]["window"]
    assert read["lower"]["values"] == ["100"], "rows 50 to 100 of the other shop are skipped"


def test_an_edit_of_what_a_mark_is_bound_to_is_refused(desk) -> None:
    plain = fleet_yaml(extra=INCREMENTAL)
    keyset = "mode: chunked, keyset_incremental: true, chunk_by_key: id"
    edits = {
        "relation": plain.replace("table: orders", "table: others"),
        "cursor": fleet_yaml(extra="mode: incremental, cursor_column: n"),
        "mode": fleet_yaml(extra=keyset),
        "destination": fleet_yaml(extra=INCREMENTAL, destination="./out/elsewhere"),
        "format": plain.replace("format: parquet", "format: csv"),
    }
    for subject, text in edits.items():
        desk.write(text)
        way = "state reset" if subject == "cursor" else "state accept"
        error = desk.refused("submit", code=1, named=f"{subject} was", hint=way)
        assert error["code"] == OTHER
        # The key tells equal cursors apart only where the cursor is no key itself.
        others = 1 + (subject == "cursor")
        assert error["error"].count(" was ") == others, "nothing else has changed"
    desk.write(edits["cursor"])
    error = desk.refused("state", "accept", "-e", "orders", code=1, named="no value", hint="reset")
    assert error["code"] == OTHER
    desk.write(edits["format"].replace("./out/orders", "./out/elsewhere"))
    accepted = desk.cli("state", "accept", "-e", "orders", "--reason", "moved", "--json").json
    assert [change["subject"] for change in accepted["changes"]] == ["destination", "format"]
    assert accepted["created"]
    assert not desk.cli("state", "accept", "-e", "orders", "--json").json["created"]
    desk.cli("submit")
    (entry,) = [e for e in told(desk) if e["event"] == "mark.accepted"]
    assert entry["data"]["reason"] == "moved" and entry["data"]["by"]
    assert (entry["data"]["before"]["format"], entry["data"]["after"]["format"]) == (
        "parquet",
        "csv",
    )
    # A run of the export is in progress now: its end moves the mark under what was accepted.
    desk.write(plain)
    error = desk.refused("state", "accept", "-e", "orders", code=1, named="in progress", hint="can")
    assert error["code"] == "RIVET_EXPORT_IN_PROGRESS"


def told(desk: Desk) -> list[dict]:
    rows = run_sqlite(desk.state, "SELECT event, data_json FROM run_journal ORDER BY journal_id")
    return [{"event": event, "data": json.loads(data)} for event, data in rows]


def test_the_text_of_a_query_is_bound_too(desk) -> None:
    query = 'query: "SELECT id, at, n FROM orders WHERE n > 0"'
    text = fleet_yaml(export="asked", extra="mode: incremental, cursor_column: at")
    text = text.replace("table: orders", query)
    desk.write(text)
    desk.cli("run")
    desk.write(text.replace("n > 0", "n > 1"))
    desk.refused("submit", code=1, named="query was SELECT id, at, n", hint="state accept")
    desk.cli("state", "reset", "-e", "asked", "--yes")
    desk.cli("submit")


def test_a_mark_of_an_earlier_version_is_adopted_once_and_told(
    desk, postgres, database, shop_b
) -> None:
    bind(desk, None)
    assert "this run binds it to source" in desk.cli("plan").out
    # What is not bound may change meanwhile.
    postgres.psql(
        "ALTER TABLE orders ADD COLUMN extra int;"
        + FILL.format(name="orders", first=101, last=120),
        database=name_of(database),
    )
    more = f"{INCREMENTAL}, compression: snappy, chunk_size: 7, on_schema_drift: continue"
    desk.write(fleet_yaml(extra=more))
    desk.cli("run")
    assert delivered(desk) == list(range(1, 121))
    assert "mark.adopted" in [entry["event"] for entry in told(desk)]
    assert "this run binds it" not in desk.cli("plan").out
    desk.environment["SHOP_URL"] = shop_b
    desk.refused("run", code=1, named=name_of(shop_b), hint="state accept")


def test_a_state_that_moved_to_a_server_goes_on_from_its_marks(desk, postgres, database) -> None:
    target = str(postgres.create_database(f"{name_of(database)}_state"))
    said = desk.cli("state", "copy", "--to", target).out
    assert "the state moved to" in said and "export_state" in said
    error = desk.refused("run", code=1, named="was moved to", hint="RIVET_FLEET_STATE_URL")
    assert error["code"] == "RIVET_STATE_MOVED"
    desk.environment["RIVET_FLEET_STATE_URL"] = target
    postgres.psql(FILL.format(name="orders", first=101, last=103), database=name_of(database))
    desk.cli("run")
    assert delivered(desk) == list(range(1, 104))


def test_a_plan_from_before_an_acceptance_is_refused(desk, shop_b) -> None:
    desk.cli("plan", "-o", "plan.json")
    text = (desk.folder / "plan.json").read_text()
    assert '"binding_before": "[{' in text
    # The binding alone is another one: as after `state accept` under the same configuration.
    changed = json.loads(stored(desk)[0][1])
    changed[0] = {**changed[0], "shown": "elsewhere", "digest": "sha256:0", "told": ""}
    bind(desk, json.dumps(changed))
    error = desk.refused("apply", "plan.json", code=1, named="source was", hint="plan it again")
    assert error["code"] == OTHER
    at = mark(desk)
    desk.cli("apply", "plan.json", "--force")
    assert mark(desk) == at and stored(desk)[0][1] == json.dumps(changed), "never from elsewhere"


@pytest.mark.parametrize("engine", ["mysql"])
def test_mysql_and_mariadb_marks_are_bound_too(tmp_path, mysql_url_any, engine) -> None:
    sql = Sql(mysql_url_any)
    base, _, name = mysql_url_any.rpartition("/")
    sql.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    sql.execute("INSERT INTO orders VALUES (1), (2), (3)")
    other = f"{name.split('?')[0]}_b"
    sql.execute(f"CREATE DATABASE `{other}`")
    try:
        sql.execute(f"CREATE TABLE `{other}`.orders (id int PRIMARY KEY)")
        sql.execute(f"INSERT INTO `{other}`.orders VALUES (2), (9)")
        desk = Desk(folder=tmp_path, environment={"SHOP_URL": mysql_url_any})
        source = f"{{type: {engine}, url_env: SHOP_URL}}"
        desk.write(fleet_yaml(source=source, extra=INCREMENTAL))
        desk.cli("run")
        desk.environment["SHOP_URL"] = f"{base}/{other}"
        error = desk.refused("run", code=1, named=other, hint="state accept -e orders")
        assert error["code"] == OTHER
        desk.cli("state", "accept", "-e", "orders")
        desk.cli("run")
        assert delivered(desk) == [1, 2, 3, 9], "row 2 of the other lies below: as accepted"
    finally:
        sql.execute(f"DROP DATABASE `{other}`")
        sql.connection.close()
