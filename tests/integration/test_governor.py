"""The governor by the real program: real lock waits, a real file, a real endpoint, a real kill."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from rivet_fleet.contracts.seals import Sealer
from rivet_fleet.demo.embedded import EmbeddedPostgres
from rivet_fleet.persistence.seals import SEALED_OF_BUDGET, seal_budget
from tests.integration.fleet_cli import ORDERS, Desk
from tests.waiting import until

ROWS, CHUNKS = 12_000, 4
CONFIG = """\
source: {{type: postgres, url_env: SHOP_URL, environment: local}}
campaign: {{name: shop, workers: 2, lease_ttl_s: 5}}
source_groups:
  shop:
    max_running_chunks: 2
    max_rows_per_s: 250
    monitor: {monitor}
exports:
  - {{name: orders, table: orders, format: parquet, mode: chunked, chunk_count: {chunks},
     source_group: shop, destination: {{type: local, path: ./out}}}}
"""


@pytest.fixture(scope="module")
def shop(postgres: EmbeddedPostgres) -> str:
    url = postgres.create_database("governed_shop")
    sql = ORDERS.format(name="orders", rows=ROWS) + "CREATE TABLE load (n numeric);"
    postgres.psql(sql + "CREATE TABLE carts (id int PRIMARY KEY);", database="governed_shop")
    return url


@pytest.fixture
def watched(tmp_path: Path, shop: str, database: str) -> Iterator[Watched]:
    watched = Watched(tmp_path, shop, database)
    yield watched
    watched.close()


class Watched:
    """A campaign under a monitor, and what its state says."""

    def __init__(self, folder: Path, shop: str, state: str) -> None:
        self.desk = Desk(
            folder=folder, environment={"SHOP_URL": shop, "RIVET_FLEET_STATE_URL": state}
        )
        self._state = state
        self.processes: list[subprocess.Popen[str]] = []

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.communicate()

    def submit(self, monitor: str) -> None:
        self.desk.write(CONFIG.format(monitor=monitor, chunks=CHUNKS))
        self.desk.cli("submit")

    def resume(self) -> subprocess.Popen[str]:
        self.processes.append(self.desk.start("resume", "-c", str(self.desk.config)))
        return self.processes[-1]

    def ask(self, sql: str) -> list[Any]:
        with psycopg.connect(self._state, autocommit=True) as state:
            return state.execute(sql).fetchall()

    def events(self, name: str) -> list[dict[str, Any]]:
        rows = self.ask(f"SELECT data_json FROM run_journal WHERE event = '{name}'")
        return [json.loads(text) for (text,) in rows]

    def happened(self, name: str) -> dict[str, Any]:
        last: dict[str, Any] = until(lambda: self.events(name), what=name)[-1]
        return last

    def paused_by(self, signal: str | None) -> dict[str, Any]:
        """The newest pause, once that signal made it; None: the flag file."""

        def newest() -> list[dict[str, Any]]:
            return [e for e in self.events("governor.paused")[-1:] if e.get("signal") == signal]

        found: list[dict[str, Any]] = until(newest, what=f"a pause by {signal or 'the flag file'}")
        return found[0]

    def permits(self, count: int) -> None:
        """So many chunks may run, and nothing is paused."""
        until(
            lambda: self.ask(
                "SELECT 1 FROM source_budget WHERE paused_reason IS NULL "
                f"AND coalesce(permits, ceiling) = {count}"
            ),
            what=f"{count} permits",
        )

    def hurry(self) -> None:
        """As ``state budget --rows-per-s none`` does, without a process."""
        with psycopg.connect(self._state, row_factory=dict_row) as state:
            (row,) = state.execute(f"SELECT {SEALED_OF_BUDGET} FROM source_budget").fetchall()
            state.execute(
                "UPDATE source_budget SET rows_per_s = NULL, seal = %s",
                (seal_budget(Sealer(), {**row, "rows_per_s": None}),),
            )

    def completes(self, process: subprocess.Popen[str]) -> None:
        self.hurry()
        self.desk.finish(process)
        assert self.desk.delivered("") == list(range(1, ROWS + 1))
        (attempts,) = self.ask("SELECT max(attempts) FROM chunk_task")[0]
        assert attempts == 1, "a pause costs no attempt"


@contextlib.contextmanager
def blocked(shop: str) -> Iterator[None]:
    """An application's session waits for a lock that another one holds."""
    with psycopg.connect(shop) as holder, psycopg.connect(shop) as waiter:
        holder.execute("LOCK TABLE carts IN ACCESS EXCLUSIVE MODE")
        thread = threading.Thread(target=waiter.execute, args=("SELECT * FROM carts",))
        thread.start()
        try:
            yield
        finally:
            holder.rollback()
            thread.join()


MONITOR = """{{interval_s: 0.2, calm_samples: 1, flag_file: pause, signals: {{
      lock_waits: {{pause_above: 0}},
      queue: {{sql: 'SELECT coalesce(max(n), 0) FROM load', shed_above: 10}},
      health: {{http: '{url}', pointer: /db/load, pause_above: 0.5}}}}}}"""


def test_every_kind_of_signal_acts_and_its_end_too(watched: Watched, shop: str) -> None:
    """One campaign for all: processes cost more than what they prove a second time."""
    with endpoint() as (url, answer):
        watched.submit(MONITOR.format(url=url))
        flag = watched.desk.folder / "pause"
        flag.touch()
        process = watched.resume()
        watched.paused_by(None)
        assert "the flag file" in watched.desk.cli("status").out
        assert not watched.events("chunk.claimed")
        flag.unlink()
        watched.happened("chunk.claimed")
        watched.permits(2)

        with blocked(shop):
            paused = watched.paused_by("lock_waits")
            assert (paused["value"], paused["threshold"]) == (1, 0)
            watched.happened("chunk.paused")
            said = watched.desk.cli("status").out
            assert "Source group shop is paused: lock_waits is 1, above 0." in said
            assert "governed by coordinator" in said
        watched.permits(2)
        assert len(watched.events("governor.resumed")) == 2

        answer["load"] = 0.9
        assert watched.paused_by("health")["value"] == 0.9
        answer["load"] = 0.1
        watched.permits(2)

        with psycopg.connect(shop, autocommit=True) as application:
            application.execute("INSERT INTO load VALUES (11)")
            shed = watched.happened("governor.shed")
            assert (shed["from"], shed["to"], shed["signal"]) == (2, 1, "queue")
            until(
                lambda: "may run 1 of 2 chunks" in watched.desk.cli("status").out, what="the reason"
            )
            application.execute("DELETE FROM load")
        watched.permits(2)
        assert watched.happened("governor.regained")["to"] == 2
        watched.completes(process)
    assert len(watched.events("governor.elected")) == 1


@contextlib.contextmanager
def endpoint() -> Iterator[tuple[str, dict[str, float]]]:
    answer = {"load": 0.0}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"db": answer}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", answer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_critical_signal_stops_the_campaign_and_resume_finishes_it(
    watched: Watched, shop: str
) -> None:
    watched.submit(
        "{interval_s: 0.2, signals: {queue: {sql: 'SELECT coalesce(max(n), 0) FROM load', "
        "abort_above: 100}}}"
    )
    process = watched.resume()
    watched.happened("chunk.claimed")
    with psycopg.connect(shop, autocommit=True) as application:
        application.execute("INSERT INTO load VALUES (101)")
        done = watched.desk.finish(process, code=10)
        assert "the governor stopped the campaign, resumable: queue is 101, above 100" in done.err
        assert watched.ask("SELECT count(*) FROM chunk_task WHERE status = 'running'") == [(0,)]
        assert "campaign_halted" in watched.desk.cli("status").out
        watched.desk.cli("worker", code=10)  # nobody but an operator goes on
        application.execute("DELETE FROM load")
    claims = len(watched.events("chunk.claimed"))
    process = watched.resume()  # it sets the budget as configured, so only then
    until(lambda: len(watched.events("chunk.claimed")) > claims, what="a claim after the resume")
    watched.completes(process)


def test_a_killed_governor_is_replaced(watched: Watched) -> None:
    watched.submit("{interval_s: 0.2, signals: {lock_waits: {pause_above: 5}}}")
    workers = [watched.desk.start("worker", "-c", str(watched.desk.config)) for _ in range(2)]
    watched.processes += workers
    pid = {worker.pid for worker in workers}
    first = watched.happened("governor.elected")
    ((owner,),) = watched.ask(
        "SELECT w.pid FROM source_budget b JOIN worker w ON w.worker_id = b.governor_owner"
    )
    assert owner in pid
    os.kill(owner, signal.SIGKILL)
    until(lambda: len(watched.events("governor.elected")) == 2, what="a second governor")
    assert watched.events("governor.elected")[-1]["fence"] == first["fence"] + 1
    (left,) = pid - {owner}
    ((now,),) = watched.ask(
        "SELECT w.pid FROM source_budget b JOIN worker w ON w.worker_id = b.governor_owner"
    )
    assert now == left
    watched.hurry()
    watched.desk.finish(next(w for w in workers if w.pid == left))
    assert watched.desk.delivered("") == list(range(1, ROWS + 1))
