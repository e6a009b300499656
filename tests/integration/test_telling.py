"""metrics and journal by the real program; the exposition is read by Prometheus' own parser."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.fleet_cli import Desk, ended, run_sqlite

SQL = """
CREATE TABLE t (id int PRIMARY KEY, until date DEFAULT 'infinity');
INSERT INTO t SELECT i FROM generate_series(1, 400) i;
ANALYZE t;
"""
CONFIG = """\
source: {type: postgres, url_env: DB}
campaign: {name: 'night "shift"'}
source_groups: {shop: {max_running_chunks: 3}}
exports:
  - name: t
    table: t
    format: parquet
    mode: chunked
    chunk_count: 4
    source_group: shop
    on_unrepresentable: coerce
    destination: {type: local, path: out}
"""


@pytest.fixture
def desk(tmp_path: Path, postgres, database: str) -> Desk:
    postgres.psql(SQL, database=database.rpartition("/")[2])
    desk = Desk(folder=tmp_path, environment={"DB": database})
    desk.write(CONFIG)
    return desk


def test_metrics_of_this_campaign_and_of_former_ones(desk: Desk) -> None:
    assert desk.cli("metrics", "--prometheus", code=None).code == 1, "no state database yet"
    for _ in range(2):
        desk.cli("run", "--workers", "2")
    report = desk.cli("metrics", "--json").json
    (now,) = report["now"]["exports"]
    assert (now["rows"], now["status"], now["changed_values"]) == (400, "completed", 400)
    assert report["now"]["chunks"]["completed"] == 4
    runs = report["ended"]
    assert len(runs) == 2
    assert runs[0]["ended_at_s"] > runs[1]["ended_at_s"]
    for run in runs:
        assert (run["status"], run["rows"], run["files"], run["chunks"]) == ("success", 400, 4, 4)
        assert (run["attempts"], run["retries"], run["changed_values"]) == (4, 0, 400)
        assert run["bytes"] > 0
        assert run["rows_per_s"] > 0
        assert 0 <= run["longest_statement_s"] < run["duration_s"]
    assert len(desk.cli("metrics", "--last", "1", "--json").json["ended"]) == 1
    text = desk.cli("metrics").out
    assert "t: completed, 4/4 chunks, 400 rows" in text
    assert text.count("success") == 2
    desk.cli("metrics", "-e", "other", code=1)
    desk.cli("metrics", "--json", "--prometheus", code=1)


SLOW = """\
  - name: slow
    query: SELECT repeat('x', 100000) AS pad, pg_sleep(0.05)::text AS s FROM generate_series(1, 8)
    format: parquet
    destination: {type: local, path: out}
"""


def test_the_exposition_is_read_by_prometheus_own_parser(desk: Desk) -> None:
    desk.write(CONFIG + SLOW)
    assert "exports t, slow share out" in desk.cli("run", "--workers", "1").err
    assert {one.name for one in desk.out.iterdir()} == {"t", "slow"}, "a folder each"
    longest_s = the_longest_statement_is_one_number(desk)
    text = desk.cli("metrics", "--prometheus").out
    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    assert all(family.documentation and family.type == "gauge" for family in families)
    samples = {
        (s.name, s.labels.get("export"), s.labels.get("status") or s.labels.get("group")): s.value
        for family in families
        for s in family.samples
    }
    campaigns = {s.labels["campaign"] for family in families for s in family.samples}
    assert campaigns == {'night "shift"'}
    assert {s.labels["state_namespace"] for f in families for s in f.samples} == {"default"}
    for name, about, value in (
        ("run_rows", None, 400),
        ("run_chunks", "completed", 4),
        ("run_chunks", "failed", 0),
        ("run_status", "completed", 1),
        ("run_status", "in_progress", 0),
        ("last_run_success", None, 1),
        ("last_run_rows", None, 400),
        ("last_run_files", None, 4),
        ("last_run_attempts", None, 4),
        ("last_run_changed_values", None, 400),
    ):
        assert samples[f"rivet_fleet_{name}", "t", about] == value, name
    assert samples["rivet_fleet_last_run_longest_statement_seconds", "slow", None] == longest_s
    assert samples["rivet_fleet_source_group_slots", None, "shop"] == 3
    assert samples["rivet_fleet_workers_alive", None, None] >= 0


def the_longest_statement_is_one_number(desk: Desk) -> float:
    """Of a read by one statement, whose rows come one by one."""
    report = desk.cli("metrics", "-e", "slow", "--json").json
    longest_s = float(report["ended"][0]["longest_statement_s"])
    assert 0.35 <= longest_s < 10
    told = desk.cli("journal", "-e", "slow", "--event", "chunk.committed", "--json").json
    assert [entry["data"]["longest_statement_s"] for entry in told] == [longest_s]
    chunk = "SELECT longest_statement_ms FROM chunk_task WHERE export_name = 'slow'"
    assert run_sqlite(desk.state, chunk) == [(round(longest_s * 1000),)]
    return longest_s


def test_the_journal_is_filtered_and_comes_as_lines(desk: Desk) -> None:
    desk.cli("run", "--workers", "2")
    lines = desk.cli("journal", "--event", "chunk.claimed", "--json-lines").out.splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry["event"] for entry in entries] == ["chunk.claimed"] * 4
    worker = entries[0]["worker_id"]
    own = desk.cli("journal", "--worker", worker, "--last", "1000", "--json").json
    assert {entry["worker_id"] for entry in own} == {worker}
    assert desk.cli("journal", "--since", "1h", "--json").json
    assert desk.cli("journal", "--since", "2999-01-01", "--json").json == []
    assert desk.cli("journal", "-e", "other", "--json").json == []
    assert (
        "did you mean 'chunk.claimed'" in desk.cli("journal", "--event", "chunk.claim", code=1).err
    )
    desk.cli("journal", "--since", "yesterday", code=1)
    desk.cli("journal", "--json", "--follow", code=1)


def test_following_ends_with_the_campaign_or_an_interrupt(desk: Desk) -> None:
    desk.cli("submit")
    config = str(desk.config)
    with (
        ended(
            desk.start("journal", "-c", config, "--follow", "--json-lines", "--last", "1000")
        ) as whole,
        ended(
            desk.start(
                *("journal", "-c", config, "-f"),
                *("--event", "worker.died", "--event", "campaign.submitted"),
            )
        ) as some,
    ):
        assert some.stdout is not None
        first = some.stdout.readline()
        assert "campaign.submitted" in first, f"not the first entry: {first!r}"
        some.send_signal(signal.SIGINT)
        desk.finish(some)
        desk.cli("resume", "--workers", "1")
        told = [json.loads(line)["event"] for line in desk.finish(whole).out.splitlines()]
    assert told.count("chunk.completed") == 4
    assert told.count("campaign.submitted") == told.count("campaign.completed") == 1
    kept = desk.cli("journal", "--last", "1000", "--json").json
    assert [entry["event"] for entry in kept][: len(told)] == told
