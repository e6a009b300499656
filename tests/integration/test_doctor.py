"""``rivet-fleet doctor`` over real servers: what it finds, and that nothing hides anything."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from pathlib import Path

import pytest

from tests.integration.fleet_cli import Desk
from tests.integration.mysql_source_kit import Sql

EXPORT = """\
  - name: {name}
    source: {source}
    table: {table}
    format: parquet
    destination: {{type: local, path: {path}}}
"""


def config(*exports: str, sources: str, top: str = "") -> str:
    return f"{top}spool_dir: spool\nsources:\n{sources}\nexports:\n" + "".join(exports)


def export(name: str, *, source: str = "shop", path: str | None = None, table: str = "") -> str:
    return EXPORT.format(name=name, source=source, path=path or f"out/{name}", table=table or name)


SHOP = "  shop: {type: postgres, url_env: SHOP_URL}"


@pytest.fixture
def desk(tmp_path: Path, postgres, database: str) -> Desk:
    """Two tables, and a user that may read one of them."""
    name = database.rpartition("/")[2]
    role = f"doctor_{os.getpid()}_{abs(hash(name)) % 10_000}"
    postgres.psql(
        "CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE secret (id int); "
        f"CREATE ROLE {role} LOGIN; GRANT SELECT ON orders TO {role}",
        database=name,
    )
    reader = re.sub(r"//[^@]*@", f"//{role}@", database)
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": reader, "OWNER_URL": database})
    desk.write(config(export("orders"), sources=SHOP))
    return desk


def findings(desk: Desk, code: int = 0, *arguments: str) -> dict[tuple[str, str], dict]:
    report = desk.cli("doctor", "--json", *arguments, code=code).json
    assert report["doctor_version"] == 1
    errors = [one for one in report["findings"] if one["gravity"] == "error"]
    assert report["all_ok"] is (not errors) is (code == 0)
    return {(one["code"], one["subject"]): one for one in report["findings"]}


def test_a_signal_that_cannot_be_read_is_told_with_its_privilege(desk: Desk) -> None:
    signals = "{lock_waits: {pause_above: 9}, running_sessions: {pause_above: 9}}"
    for policy, code in (("hold", 0), ("pause", 1)):
        monitor = f"{{on_unreadable: {policy}, signals: {signals}}}"
        top = f"source_groups: {{shop: {{max_running_chunks: 2, monitor: {monitor}}}}}\n"
        desk.write(config(export("orders"), sources=SHOP, top=top))
        found = findings(desk, code)
        assert ("RIVET_SOURCE_SIGNAL_READABLE", "signal lock_waits of shop") in found
        lost = found["RIVET_SOURCE_SIGNAL_UNREADABLE", "signal running_sessions of shop"]
        assert "pg_read_all_stats" in lost["what"] and "GRANT" in lost["hint"]


def test_what_is_well_is_said_and_nothing_is_left_behind(desk: Desk) -> None:
    found = findings(desk)
    for code, subject in (
        ("RIVET_CONFIG_LOADED", "configuration fleet.yaml"),
        ("RIVET_SOURCE_CONNECTED", "source shop"),
        ("RIVET_SOURCE_NOT_ENCRYPTED", "source shop"),
        ("RIVET_SOURCE_CONNECTIONS", "source shop"),
        ("RIVET_SOURCE_READABLE", "source shop"),
        ("RIVET_STATE_ABSENT", "state"),
        ("RIVET_STATE_ONE_HOST", "state"),
        ("RIVET_SPOOL_WRITABLE", "spool"),
        ("RIVET_DESTINATION_WRITABLE", "destination of orders"),
        ("RIVET_HOST_OPEN_FILES", "host"),
    ):
        assert (code, subject) in found, code
    assert not desk.state.exists()
    assert list(desk.folder.rglob("*probe*")) == []
    said = desk.cli("doctor").out
    assert "0 error(s)" in said
    assert "a run can start" in said


def test_no_failure_hides_another(desk: Desk, database: str) -> None:
    desk.environment["GONE_URL"] = "postgres://me:hidden-word@127.0.0.1:1/gone"
    (desk.folder / "blocked").write_text("a file in the way")
    desk.write(
        config(
            export("orders"),
            export("secret"),
            export("nowhere"),
            export("elsewhere", source="gone"),
            export("lost", source="nobody"),
            export("blocked", path="blocked/here", table="orders"),
            sources=SHOP
            + "\n  gone: {type: postgres, url_env: GONE_URL}"
            + "\n  nobody: {type: postgres, url_env: NOT_SET_URL}",
            top="state: {url_env: NO_STATE_URL}\n",
        )
    )
    found = findings(desk, 1)
    for code, subject, word in (
        ("RIVET_SOURCE_CONNECTED", "source shop", ""),
        ("RIVET_SOURCE_READABLE", "source shop", "2 of 4"),
        ("RIVET_SOURCE_EXPORT_REFUSED", "export secret", "GRANT SELECT"),
        ("RIVET_SOURCE_EXPORT_REFUSED", "export nowhere", "does not exist"),
        ("RIVET_SOURCE_UNREACHABLE", "source gone", "is the server running"),
        ("RIVET_SOURCE_EXPORT_UNKNOWN", "source gone", "elsewhere"),
        ("RIVET_CONFIG_CONNECTION_INVALID", "source nobody", "NOT_SET_URL"),
        ("RIVET_STATE_REFUSED", "state", "NO_STATE_URL"),
        ("RIVET_DESTINATION_REFUSED", "destination of blocked", "blocked"),
        ("RIVET_DESTINATION_WRITABLE", "destination of orders", "nothing is overwritten"),
    ):
        assert (code, subject) in found, (code, subject)
        assert word in str(found[code, subject]), (code, found[code, subject])
    assert "hidden-word" not in str(found)


def test_an_unreachable_source_alone_may_be_tried_again(desk: Desk) -> None:
    desk.environment["SHOP_URL"] = "postgres://me@127.0.0.1:1/gone"
    found = findings(desk, 2)
    assert found["RIVET_SOURCE_UNREACHABLE", "source shop"]["retryable"] is True


def test_a_wrong_configuration_leaves_what_needs_none(desk: Desk) -> None:
    desk.write("sources: {}\nexports: []\n")
    found = findings(desk, 1)
    invalid = found["RIVET_CONFIG_INVALID", "configuration fleet.yaml"]
    assert invalid["detail_code"] == "RIVET_CONFIG_NO_EXPORTS"
    assert any(code.startswith("RIVET_HOST_DECODER") for code, _ in found)


def test_the_state_database_is_looked_at_and_left_as_it_is(desk: Desk) -> None:
    desk.cli("run")
    assert ("RIVET_STATE_READY", "state") in findings(desk)
    with contextlib.closing(sqlite3.connect(desk.state)) as state, state:
        state.execute("UPDATE rivet_fleet_version SET version_num = '9999'")
    assert "upgrade" in findings(desk, 1)["RIVET_STATE_NEWER", "state"]["hint"]
    with contextlib.closing(sqlite3.connect(desk.state)) as state, state:
        state.execute("UPDATE rivet_fleet_version SET version_num = '0001'")
    assert "migrate" in findings(desk)["RIVET_STATE_OLD", "state"]["hint"]
    with contextlib.closing(sqlite3.connect(desk.state)) as state:
        version = state.execute("SELECT version_num FROM rivet_fleet_version").fetchone()
    assert version == ("0001",)


def test_a_state_server_is_asked_for_rights_and_time(desk: Desk, postgres) -> None:
    url = desk.environment["OWNER_URL"]
    found = findings(desk, 0, "--state-url", url)
    assert ("RIVET_STATE_ABSENT", "state") in found
    assert ("RIVET_STATE_CLOCK_SKEW", "state") not in found
    found = findings(desk, 1, "--state-url", desk.environment["SHOP_URL"])
    assert "no table" in found["RIVET_STATE_NOT_WRITABLE", "state"]["what"]
    desk.cli("run", "--state-url", url)
    found = findings(desk, 1, "--state-url", desk.environment["SHOP_URL"])
    assert "permission denied" in str(found)


def test_more_workers_than_connections_are_a_warning_with_numbers(desk: Desk, postgres) -> None:
    role = re.search(r"//([^@]*)@", desk.environment["SHOP_URL"])
    assert role is not None
    postgres.psql(f"ALTER ROLE {role[1]} CONNECTION LIMIT 3")
    desk.write(config(export("orders"), sources=SHOP, top="campaign: {workers: 12}\n"))
    low = findings(desk)["RIVET_SOURCE_CONNECTIONS_LOW", "source shop"]
    assert "up to 12" in low["what"]
    assert "of 3 are" in low["what"]
    assert "campaign.workers: 1" in low["hint"]


def test_another_engine_is_examined_as_well(tmp_path: Path, mysql_database: str) -> None:
    sql = Sql(mysql_database)
    sql.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    sql.execute("CREATE TABLE half (a int, b int)")
    user = f"u{os.getpid()}"
    sql.execute(f"CREATE OR REPLACE USER '{user}'@'%' IDENTIFIED BY 'hidden-word'")
    sql.execute(f"GRANT SELECT ON `{sql.database}`.orders TO '{user}'@'%'")
    sql.execute(f"GRANT SELECT (a) ON `{sql.database}`.half TO '{user}'@'%'")
    reader = re.sub(r"//[^@]*@", f"//{user}:hidden-word@", mysql_database)
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": reader})
    shop = "  shop: {type: mysql, url_env: SHOP_URL}"
    desk.write(config(export("orders"), export("half"), sources=shop))
    found = findings(desk, 1)
    assert ("RIVET_SOURCE_CONNECTED", "source shop") in found
    assert ("RIVET_SOURCE_CONNECTIONS", "source shop") in found
    refused = found["RIVET_SOURCE_EXPORT_REFUSED", "export half"]
    assert "GRANT SELECT" in refused["hint"]
    assert ("RIVET_SOURCE_POWERFUL_USER", "source shop") not in found
    assert "hidden-word" not in str(found)
    desk.environment["SHOP_URL"] = reader.replace("hidden-word", "wrong-word")
    refused = findings(desk, 1)["RIVET_SOURCE_REFUSED", "source shop"]
    assert refused["detail_code"] == "MYSQL_1045"
    assert "wrong-word" not in str(refused)
    sql.execute(f"DROP USER '{user}'@'%'")
