"""Incremental exports through the real program: killed, resumed, continued; read by pyarrow."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.integration.fleet_cli import Desk, fleet_yaml, run_sqlite, seal_anew
from tests.integration.mysql_source_kit import Sql
from tests.waiting import until

INCREMENTAL = "mode: incremental, cursor_column: at, tuning: {batch_size: 40}"


@pytest.fixture
def desk(tmp_path: Path, postgres, database: str) -> Desk:
    name = database.rpartition("/")[2]
    postgres.psql(
        "CREATE TABLE orders (id bigint PRIMARY KEY, at timestamptz);CREATE INDEX ON orders (at);",
        database=name,
    )
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": database})
    desk.write(fleet_yaml(extra=INCREMENTAL, campaign="workers: 2, lease_ttl_s: 3"))
    return desk


def add(postgres, desk: Desk, first: int, last: int) -> None:
    """Rows whose cursors tie in tens, so that every mark has rows beside it."""
    postgres.psql(
        f"INSERT INTO orders SELECT i, timestamptz '2025-01-01' + i / 10 * interval '1 second' "
        f"FROM generate_series({first}, {last}) i; ANALYZE orders;",
        database=desk.environment["SHOP_URL"].rpartition("/")[2],
    )


def delivered(desk: Desk) -> list[int]:
    """Every row of every run that has a manifest of its own."""
    found: list[int] = []
    for manifest in sorted(desk.out.glob("orders/manifest-*.json")):
        run_id = manifest.stem.removeprefix("manifest-")
        for part in sorted(desk.out.glob(f"orders/{run_id}/*.parquet")):
            found += pq.read_table(part, columns=["id"]).column("id").to_pylist()
    return sorted(found)


def mark(desk: Desk) -> str | None:
    found = run_sqlite(desk.state, "SELECT last_cursor_value FROM export_state")
    return found[0][0] if found else None


def test_runs_follow_each_other_without_loss_or_repetition(desk, postgres) -> None:
    add(postgres, desk, 1, 205)
    desk.cli("run")
    assert delivered(desk) == list(range(1, 206))
    desk.cli("run")  # nothing is new: an empty window, one task
    add(postgres, desk, 206, 333)
    desk.cli("run")
    assert delivered(desk) == list(range(1, 334))
    assert '"333"' in (mark(desk) or "")
    assert "the next run of orders reads from at, id = " in desk.cli("state", "show").out
    said = desk.cli("state", "progression").out
    assert "committed  at, id = " in said
    assert "verified   nothing" in said
    desk.cli("validate")
    desk.cli("state", "reset", "-e", "orders", "--yes")
    assert mark(desk) is None


def windows(desk: Desk) -> dict[str, dict[str, Any]]:
    """What a consumer knows: the window of every delivery, by run."""
    found = {}
    for path in desk.out.glob("orders/manifest-*.json"):
        body = json.loads(path.read_text())
        found[body["run_id"]] = body["window"]
    return found


def gaps(known: dict[str, dict[str, Any]]) -> list[dict[str, Any] | None]:
    """The ends that some delivery continues and none has."""
    ends = [{"cursor": w["cursor_high"], "key": w["key_high"]} for w in known.values()]
    return [w["continues"] for w in known.values() if w["continues"] not in [None, *ends]]


def test_three_runs_are_chained_by_their_manifests_alone_and_a_gap_is_found(desk, postgres) -> None:
    for first in (1, 101, 201):
        add(postgres, desk, first, first + 99)
        desk.cli("run")
    known = windows(desk)
    assert len(known) == 3 and gaps(known) == []
    first, second, third = sorted(known, key=lambda run: known[run]["key_high"])
    assert known[first]["cursor_low"] is None and known[first]["continues"] is None
    window = known[second]
    assert (window["cursor_column"], window["key_columns"]) == ("at", ["id"])
    assert (window["cursor_low"], window["key_low"]) == ("2025-01-01 00:00:10+00", ["100"])
    assert (window["cursor_high"], window["key_high"]) == ("2025-01-01 00:00:20+00", ["200"])
    assert (window["low_inclusive"], window["high_inclusive"]) == (False, True)
    # The delivery in the middle is lost on its way to the consumer.
    del known[second]
    assert gaps(known) == [{"cursor": "2025-01-01 00:00:20+00", "key": ["200"]}]
    desk.cli("run")  # nothing is new: its window is empty, and the chain goes on
    (empty,) = [w for w in windows(desk).values() if w["empty"]]
    assert (empty["continues"]["key"], empty["key_high"]) == (["300"], ["300"])
    assert gaps(windows(desk)) == []
    assert known[third]["nulls"] == "outside"
    desk.cli("validate")


def test_pa4_a_plan_made_before_the_mark_moved_is_refused(desk, postgres) -> None:
    add(postgres, desk, 1, 30)
    desk.cli("plan", "-o", "first.json")
    desk.cli("run")
    # It was made before there was any mark: it would deliver all rows again.
    desk.refused("apply", "first.json", code=1, named="high-water mark", hint="plan")
    add(postgres, desk, 31, 60)
    said = desk.cli("plan", "-o", "second.json").out
    assert "continues after at, id = 2025-01-01 00:00:03+00, 30" in said
    assert "reads (at, id) in (2025-01-01 00:00:03+00, 30; 2025-01-01 00:00:06+00, 60]" in said
    moved = (mark(desk) or "").replace('"30"', '"31"')
    run_sqlite(desk.state, "UPDATE export_state SET last_cursor_value = ?", (moved,))
    seal_anew(f"sqlite:///{desk.state}")
    desk.refused("apply", "second.json", code=1, named="has moved", hint="--force")
    desk.cli("apply", "second.json", "--force")
    assert mark(desk) == moved  # never from where the plan did not begin
    assert "mark.kept" in desk.cli("journal", "--json").out


def test_kill_9_of_worker_and_coordinator_repeats_the_same_window(desk, postgres) -> None:
    add(postgres, desk, 1, 500)
    desk.cli("run")
    first = mark(desk)
    add(postgres, desk, 501, 8000)
    running = desk.start("run", "-c", str(desk.config))
    os.kill(until(lambda: _worker(desk), what="a worker at work"), signal.SIGKILL)
    add(postgres, desk, 8001, 8100)  # behind the sealed window
    until(lambda: _worker(desk), what="another worker at work")
    os.kill(running.pid, signal.SIGKILL)
    running.communicate()
    assert mark(desk) == first
    desk.cli("resume")
    assert delivered(desk) == list(range(1, 8001))
    desk.cli("run")
    assert delivered(desk) == list(range(1, 8101))


def _worker(desk: Desk) -> int | None:
    """A process that holds a chunk and lives."""
    rows = run_sqlite(desk.state, "SELECT owner_pid FROM chunk_task WHERE status = 'running'")
    return next((pid for (pid,) in rows if Path(f"/proc/{pid}").exists()), None)


@pytest.mark.parametrize("engine", ["mysql"])
def test_mysql_and_mariadb_are_followed_too(tmp_path, mysql_url_any, engine) -> None:
    sql = Sql(mysql_url_any)
    sql.execute("CREATE TABLE orders (id int PRIMARY KEY, at timestamp(6) NOT NULL, KEY (at))")
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": mysql_url_any})
    source = f"{{type: {engine}, url_env: SHOP_URL}}"
    desk.write(fleet_yaml(source=source, extra=INCREMENTAL))
    for first in (1, 101):
        for i in range(first, first + 100):
            sql.execute(f"INSERT INTO orders VALUES ({i}, from_unixtime(1700000000 + {i} div 10))")
        desk.cli("run")
    assert delivered(desk) == list(range(1, 201))
    sql.connection.close()


def test_a_time_window_is_delivered(desk, postgres) -> None:
    postgres.psql(
        # Half a day from the window's edge, which is cut to the second.
        "INSERT INTO orders SELECT i, now() - (i + 0.5) * interval '1 day' "
        "FROM generate_series(1, 9) i",
        database=desk.environment["SHOP_URL"].rpartition("/")[2],
    )
    window = "mode: time_window, time_column: at, days_window: 5"
    desk.write(fleet_yaml(extra=window))
    desk.cli("run")
    assert delivered(desk) == [1, 2, 3, 4]


def test_a_table_that_was_reloaded_below_its_mark_is_said_and_refused_when_asked(
    desk, postgres
) -> None:
    add(postgres, desk, 1, 50)
    desk.cli("run")
    postgres.psql(
        "TRUNCATE orders; INSERT INTO orders "
        "SELECT i, timestamptz '2020-01-01' + i * interval '1 s' FROM generate_series(1, 50) i",
        database=desk.environment["SHOP_URL"].rpartition("/")[2],
    )
    words = "the greatest at (2020-01-01 00:00:50+00) lies below the mark (2025-01-01 00:00:05+00)"
    assert words in desk.cli("plan").out
    assert words in desk.cli("check").out
    assert words in desk.cli("run").out
    assert words in desk.cli("status").out
    assert delivered(desk) == list(range(1, 51)), "as before"
    desk.write(fleet_yaml(extra=f"{INCREMENTAL}, on_mark_above: fail"))
    for verb in ("run", "plan"):
        error = desk.refused(verb, code=1, named=words, hint="on_mark_above: warn")
        assert error["code"] == "RIVET_MARK_ABOVE"
    desk.cli("state", "reset", "-e", "orders", "--yes")
    desk.cli("run")
    assert len(delivered(desk)) == 100


def test_every_command_says_once_what_the_cursor_cannot_see(desk, postgres) -> None:
    add(postgres, desk, 1, 20)
    for command in ("check", "plan", "run", "status"):
        done = desk.cli(command)
        assert done.said.count("what at cannot see is never delivered") == 1, done.said
    postgres.psql(
        "ALTER TABLE orders ADD word text NOT NULL DEFAULT ''",
        database=desk.environment["SHOP_URL"].rpartition("/")[2],
    )
    words = INCREMENTAL.replace("at,", "word,")
    desk.write(fleet_yaml(export="worded", extra=words))
    for command in ("plan", "run"):
        desk.refused(command, code=1, named="word (text)", hint="cursor_is_monotonic: true")
    desk.write(fleet_yaml(export="worded", extra=f"{words}, cursor_is_monotonic: true"))
    desk.cli("run")
