"""A bad worker harms itself (ADR 0023): no attempt is spent, it is named, the others deliver."""

from __future__ import annotations

from pathlib import Path

from rivet_fleet.demo.embedded import EmbeddedPostgres
from tests.integration.conftest import ROWS
from tests.integration.fleet_cli import ORDERS, Desk, fleet_yaml, run_sqlite
from tests.servers.mariadb import EmbeddedMariadb

UNFIT = 9


def tasks(desk: Desk) -> list[tuple[str, int]]:
    return run_sqlite(desk.state, "SELECT status, attempts FROM chunk_task ORDER BY chunk_index")


def unfit(desk: Desk) -> dict[str, str]:
    """Worker → the sentence in which ``status`` names it."""
    reasons = desk.cli("status", "--json").json["reasons"]
    said = [one["sentence"] for one in reasons if one["code"] == "worker_unfit"]
    return {sentence.split()[1]: sentence for sentence in said}


def test_each_defect_ends_its_worker_and_costs_no_chunk(desk: Desk, postgres) -> None:
    desk.cli("submit")
    (desk.folder / "file").write_text("no folder")
    spool = desk.folder / "spool.yaml"
    spool.write_text(fleet_yaml(tail="spool_dir: ./file\n"))
    given = ("--campaign-id", run_sqlite(desk.state, "SELECT campaign_id FROM campaign")[0][0])

    def start(name: str, config: Path, **environment: str):
        bad = Desk(folder=desk.folder, environment={**desk.environment, **environment})
        return bad.start("--json-errors", "worker", "-c", str(config), "--name", name, *given)

    other = postgres.create_database("cli_unfit_other")
    first = [start("elsewhere", desk.config, SHOP_URL=other), start("spooler", spool)]
    ends = [desk.finish(process, code=UNFIT).error for process in first]
    ends.append(desk.finish(start("unset", desk.config, SHOP_URL=""), code=UNFIT).error)
    out = desk.out.rename(desk.folder / "unmounted")
    ends.append(desk.finish(start("unmounted", desk.config), code=UNFIT).error)
    assert not desk.out.exists(), "the missing mount was made a folder of"
    out.rename(desk.out)
    codes = ["CONFIGURATION", "SPOOL", "CONFIGURATION", "DESTINATION"]
    assert [end["code"] for end in ends] == [f"RIVET_WORKER_{code}" for code in codes]
    assert {end["error_class"] for end in ends} == {"WorkerUnfit"}
    assert tasks(desk) == [("pending", 0)] * 4
    named = unfit(desk)
    assert set(named) == {"elsewhere", "spooler", "unset", "unmounted"}
    assert "SHOP_URL" in named["unset"]
    assert "cli_unfit_other" in named["elsewhere"]
    desk.cli("worker", "--name", "good")
    assert tasks(desk) == [("completed", 1)] * 4
    assert desk.delivered() == list(range(1, ROWS + 1))


def test_a_stale_password_beside_a_good_worker(tmp_path, mariadb: EmbeddedMariadb) -> None:
    mariadb.create_database("cli_stale")
    mariadb.sql(
        "CREATE TABLE orders (id bigint PRIMARY KEY, note varchar(20));"
        "INSERT INTO orders SELECT seq, 'n' FROM seq_1_to_3000; ANALYZE TABLE orders;"
        "CREATE OR REPLACE USER stale@'%' IDENTIFIED BY 'right';"
        "CREATE OR REPLACE USER stale@localhost IDENTIFIED BY 'right';"
        "GRANT SELECT ON cli_stale.* TO stale@'%'; GRANT SELECT ON cli_stale.* TO stale@localhost",
        database="cli_stale",
    )
    head, _, tail = mariadb.url("cli_stale").rpartition("@")
    scheme = head.partition("://")[0]
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": f"{scheme}://stale:right@{tail}"})
    desk.write(fleet_yaml(source="{type: mysql, url_env: SHOP_URL}"))
    desk.cli("submit")
    stale = Desk(folder=tmp_path, environment={"SHOP_URL": f"{scheme}://stale:hunter22@{tail}"})
    both = [each.start("--json-errors", "worker", "-c", str(desk.config)) for each in (stale, desk)]
    error = desk.finish(both[0], code=UNFIT).error
    assert error["code"] == "RIVET_WORKER_LOGIN"
    assert "hunter22" not in str(error)
    desk.finish(both[1])
    assert set(tasks(desk)) == {("completed", 1)}
    assert desk.delivered() == list(range(1, 3001))


def test_a_source_that_refuses_everybody_or_is_another_one(
    tmp_path: Path, postgres: EmbeddedPostgres
) -> None:
    """The campaign waits, by name, and goes on; nothing has failed in between."""
    postgres.create_database("cli_refuses")
    postgres.psql(ORDERS.format(name="orders", rows=ROWS), database="cli_refuses")
    postgres.psql(
        "CREATE ROLE refused LOGIN; GRANT SELECT ON orders TO refused", database="cli_refuses"
    )
    desk = Desk(
        folder=tmp_path, environment={"SHOP_URL": postgres.url("cli_refuses", user="refused")}
    )
    desk.write(fleet_yaml())
    desk.cli("submit")
    postgres.psql("ALTER ROLE refused NOLOGIN")
    done = desk.cli("resume", code=UNFIT)
    assert "no worker of this host can do the work" in done.said
    assert "it may refuse everybody" in done.said
    assert tasks(desk) == [("pending", 0)] * 4
    starts = run_sqlite(desk.state, "SELECT count(*) FROM run_journal WHERE event='worker.started'")
    assert starts == [(3,)], "an unfit worker is started a bounded number of times"
    postgres.psql("ALTER ROLE refused LOGIN; ALTER DATABASE cli_refuses RENAME TO cli_refuses_old")
    postgres.create_database("cli_refuses")
    error = desk.cli("--json-errors", "worker", code=UNFIT).error
    assert error["code"] == "RIVET_WORKER_OTHER_SOURCE", error
    assert tasks(desk) == [("pending", 0)] * 4
    postgres.psql("DROP DATABASE cli_refuses")
    postgres.psql("ALTER DATABASE cli_refuses_old RENAME TO cli_refuses")
    desk.cli("resume")
    assert tasks(desk) == [("completed", 1)] * 4
