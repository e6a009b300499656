"""Budgets over hosts and campaigns, by the real program on real servers (ADR 0013)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from rivet_fleet.demo.embedded import EmbeddedPostgres
from tests.integration.fleet_cli import ORDERS, Desk
from tests.waiting import has_ended

ROWS, CHUNKS, RATE = 60_000, 24, 12_000
CONFIG = """\
source: {{type: postgres, url_env: SHOP_URL, environment: local}}
campaign: {{name: {name}, workers: 2, lease_ttl_s: 5}}
source_groups: {{shop: {budget}}}
exports:
  - {{name: orders, table: orders, format: parquet, mode: chunked, chunk_count: {chunks},
     source_group: shop, destination: {{type: local, path: ./out}}}}
"""
OURS = """
SELECT count(*) FROM pg_stat_activity
WHERE application_name LIKE 'rivet-fleet %' AND datname = current_database()
"""


@pytest.fixture(scope="module")
def big_shop(postgres: EmbeddedPostgres) -> str:
    url = postgres.create_database("protected_shop")
    postgres.psql(ORDERS.format(name="orders", rows=ROWS), database="protected_shop")
    return url


READERS = "SELECT count(*) FROM chunk_task WHERE status = 'running' AND read_at_s IS NULL"
"""What a budget counts: not what is only delivered any more."""


def desk_of(folder: Path, shop: str, state: str, *, name: str, budget: str) -> Desk:
    folder.mkdir()
    desk = Desk(folder=folder, environment={"SHOP_URL": shop, "RIVET_FLEET_STATE_URL": state})
    desk.write(CONFIG.format(name=name, budget=budget, chunks=CHUNKS))
    return desk


def on_host(desk: Desk, host: str) -> Desk:
    return replace(desk, environment={**desk.environment, "RIVET_FLEET_TEST_HOST_ID": host})


def test_rows_and_connections_hold_over_two_hosts_and_are_shared(
    tmp_path: Path, big_shop: str, database: str
) -> None:
    budget = f"{{max_connections: 4, max_rows_per_s: {RATE}}}"
    desk = desk_of(tmp_path / "one", big_shop, database, name="shop", budget=budget)
    desk.cli("submit")
    hosts = [on_host(desk, name) for name in ("host-a", "host-b")]
    coordinators = [host.start("resume", "--join", "-c", str(desk.config)) for host in hosts]
    most_connections = most_running = 0
    with (
        psycopg.connect(big_shop, autocommit=True) as shop,
        psycopg.connect(database, autocommit=True) as state,
    ):
        while not all(has_ended(process) for process in coordinators):
            (connections,) = shop.execute(OURS).fetchone() or (0,)
            (running,) = state.execute(READERS).fetchone() or (0,)
            most_connections = max(most_connections, connections)
            most_running = max(most_running, running)
        began_s, ended_s = state.execute(
            "SELECT min(claimed_at_s), max(committed_at_s) FROM chunk_task"
        ).fetchone() or (0, 0)
        shares = dict(
            state.execute(
                "SELECT owner_host, sum(rows_written)::int FROM chunk_task GROUP BY owner_host"
            ).fetchall()
        )
    for process, host in zip(coordinators, hosts, strict=True):
        host.finish(process)
    assert len(desk.delivered("")) == ROWS
    assert most_running == 3, "one of four connections is kept for planning and checks"
    assert most_connections <= 4
    # How much longer it takes is the machine's business: that nobody waits for more than was asked
    # is the arithmetic's (tests/unit/coordination/test_protect.py).
    assert ended_s - began_s >= 0.85 * ROWS / RATE, "the rate does not hold"
    assert min(shares.values()) > ROWS * 0.2, f"one of three, and not shared: {shares}"


def test_two_campaigns_share_one_budget(tmp_path: Path, big_shop: str, database: str) -> None:
    budget = "{max_running_chunks: 1}"
    desks = [
        desk_of(tmp_path / name, big_shop, database, name=name, budget=budget)
        for name in ("one", "two")
    ]
    runs = [desk.start("run", "-c", str(desk.config)) for desk in desks]
    most = 0
    with psycopg.connect(database, autocommit=True) as state:
        while not all(has_ended(process) for process in runs):
            try:
                (running,) = state.execute(READERS).fetchone() or (0,)
            except psycopg.errors.UndefinedTable:
                running = 0
            most = max(most, running)
    for desk, process in zip(desks, runs, strict=True):
        desk.finish(process)
    assert most == 1


def test_a_budget_is_changed_while_the_campaign_runs(
    tmp_path: Path, big_shop: str, database: str
) -> None:
    slow = "{max_rows_per_s: 500}"
    desk = desk_of(tmp_path / "one", big_shop, database, name="shop", budget=slow)
    run = desk.start("run", "-c", str(desk.config))
    with psycopg.connect(database, autocommit=True) as state:
        while not has_ended(run):
            try:
                if state.execute("SELECT 1 FROM chunk_task WHERE status = 'running'").fetchone():
                    break
            except psycopg.errors.UndefinedTable:
                pass
    said = desk.cli("state", "budget", "shop", "--rows-per-s", "none", "--chunks", "2").out
    assert said.strip() == "shop: 2 slots"
    assert desk.finish(run).code == 0, "at 500 rows a second it would have taken two minutes"
    (changed,) = desk.cli("journal", "--event", "budget.changed", "--last", "1", "--json").json
    assert changed["data"]["changes"] == {"chunks_max": [None, 2], "rows_per_s": [500.0, None]}
    refused = desk.cli("state", "budget", "shop", "--connections", "1", code=1)
    assert "leave none for a chunk" in refused.err
    typo = desk.cli("state", "budget", "shpo", "--chunks", "1", code=1)
    assert "no source group 'shpo'" in typo.err
    assert [one["group_name"] for one in desk.cli("state", "budget", "--json").json] == ["shop"]
