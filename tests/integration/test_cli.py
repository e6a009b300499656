"""Every command of the program once, as a process, against real servers."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import jsonschema
import pyarrow.parquet as pq
import pytest
import yaml

from rivet_fleet import __version__
from rivet_fleet.demo.embedded import EmbeddedPostgres
from tests.integration.fleet_cli import Desk, fleet_yaml, run_sqlite

ALL = list(range(1, 201))
ROOT = Path(__file__).parents[2]


def test_in_pieces_from_submit_to_validate(desk: Desk) -> None:
    """submit twice, status, worker, journal, validate, state …, and resume when all is done."""
    first = desk.cli("submit", "--campaign-id", "night-1", "--json").json
    again = desk.cli("submit", "--campaign-id", "night-1", "--json").json
    assert (first["campaign_id"], first["created"]) == ("night-1", True)
    assert (again["campaign_id"], again["created"]) == ("night-1", False)
    assert "nothing changed" in desk.cli("submit").out

    waiting = desk.cli("status", "--json").json
    assert waiting["schema_version"] >= 1
    assert "night-1" in desk.cli("status").out

    desk.cli("worker", "--campaign-id", "night-1", "--name", "hand")
    assert desk.delivered() == ALL
    assert "completed" in desk.cli("status").out

    journal = desk.cli("journal").out
    assert "run.completed" in journal or "run completed" in journal
    entries = desk.cli("journal", "--json", "--last", "3").json
    assert len(entries) == 3 and all(e["campaign_id"] == "night-1" for e in entries)

    for depth in ("light", "sample", "full"):
        verdict = desk.cli("validate", "--json", "--depth", depth).json
        assert [v["export_name"] for v in verdict["exports"]] == ["orders"]
    assert "orders" in desk.cli("validate", "-e", "orders").out

    files = desk.cli("state", "files", "--json").json
    assert len(files) == 4 and sum(f["digest"]["rows"] for f in files) == 200
    assert len(desk.cli("state", "files", "-l", "2").out.splitlines()) == 2
    chunks = desk.cli("state", "chunks", "--json", "-e", "orders").json
    assert [c["status"] for c in chunks[0]["chunks"]] == ["completed"] * 4
    assert "attempts 1/" in desk.cli("state", "chunks").out
    shown = desk.cli("state", "show", "--json").json
    assert shown[0]["runs"][0]["rows"] == 200
    assert "night-1  completed" in desk.cli("state", "show").out

    resumed = desk.cli("resume", "--json").json
    assert resumed, "resuming what is finished is a no-op that says so"
    assert desk.delivered() == ALL


def test_run_and_its_alias(desk: Desk) -> None:
    done = desk.cli("coordinator", "--json", "-w", "2")
    assert (done.json["status"], done.json["rows"]) == ("completed", 200)
    assert desk.delivered() == ALL
    assert "validate" in desk.cli("run").out, "the summary says what to do next"
    assert len(desk.delivered()) == 400, "a second run is a second campaign in its own folder"
    assert len(list((desk.out / "orders").glob("*/_SUCCESS"))) == 2


def test_requeue_of_failed_chunks(own_shop: tuple[Desk, str], postgres: EmbeddedPostgres) -> None:
    desk, database = own_shop
    desk.cli("submit")
    postgres.psql("ALTER TABLE orders RENAME TO away", database=database)
    done = desk.cli("resume", "--json", code=5).json
    assert "rivet-fleet requeue" in str(done["next_steps"])
    assert (done["code"], done["retryable"]) == ("RIVET_CAMPAIGN_INCOMPLETE", False)
    assert {one["class"] for one in done["failures"]} == {"SourceRefused"}
    assert {one["kind"] for one in done["failures"]} == {"source"} and len(done["failures"]) == 4
    assert desk.delivered() == []
    assert "failed" in desk.cli("status").out
    postgres.psql("ALTER TABLE away RENAME TO orders", database=database)
    one = desk.cli("requeue", "-e", "orders", "--chunk", "2", "--json").json
    assert one == {"failed": 1, "lost": 0}
    assert "requeued 3 failed" in desk.cli("requeue", "-e", "orders").out
    desk.cli("resume")
    assert desk.delivered() == ALL


def test_cancel_then_run_again(desk: Desk) -> None:
    desk.cli("submit", "--campaign-id", "unwanted")
    cancelled = desk.cli("cancel", "--yes", "--json").json
    assert cancelled["campaign_id"] == "unwanted"
    assert "cancelled" in desk.cli("cancel", "--yes", "--campaign-id", "unwanted").out
    desk.cli("worker", "--campaign-id", "unwanted")  # ends with 0: a Job replaces no pod of it
    desk.cli("run")
    assert desk.delivered() == ALL


def test_gc_removes_only_what_nobody_names(desk: Desk) -> None:
    desk.cli("run")
    staging = desk.out / "orders" / ".staging" / "lost-run"
    staging.mkdir(parents=True)
    (staging / "part.parquet.0123456789abcdef").write_bytes(b"x" * 100)
    assert desk.cli("gc", "--json").json["staged_files"] == 0, "it is younger than an hour"
    swept = desk.cli("gc", "--min-age-s", "0", "--json").json
    assert (swept["staged_files"], swept["staged_bytes"]) == (1, 100)
    assert "removed 0 staged files" in desk.cli("gc", "--min-age-s", "0").out
    desk.cli("validate")
    assert desk.delivered() == ALL


def test_gc_removes_a_published_parts_staged_name_that_a_power_cut_brought_back(
    desk: Desk,
) -> None:
    desk.cli("run")
    ((path, receipt),) = run_sqlite(desk.state, "SELECT path, receipt_json FROM file_log LIMIT 1")
    staged = desk.out / "orders" / ".staging" / json.loads(receipt)["staged"]
    staged.parent.mkdir(parents=True, exist_ok=True)
    os.link(desk.out / "orders" / path, staged)
    assert desk.cli("gc", "--min-age-s", "0", "--json").json["staged_files"] == 1
    assert not staged.exists()
    desk.cli("validate")
    assert desk.delivered() == ALL


def test_reset_and_migrate(desk: Desk) -> None:
    assert "schema version" in desk.cli("state", "migrate").out
    assert desk.cli("state", "show").out == "no campaign yet\n"
    desk.cli("run")
    desk.refused("state", "reset", "-e", "orders", code=1, named="Forget the runs", hint="--yes")
    for verb in ("reset-chunks", "reset"):
        out = desk.cli("state", verb, "-e", "orders", "--yes").out
        assert "orders" in out and "not touched" in out
    assert run_sqlite(desk.state, "SELECT count(*) FROM chunk_task") == [(0,)]
    assert desk.delivered() == ALL, "delivered files stay"
    desk.cli("run")
    assert len(desk.delivered()) == 400


def test_schema_config_accepts_the_examples_and_refuses_nonsense(desk: Desk) -> None:
    schema = json.loads(desk.bare("schema", "config").out)
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    check.validate(yaml.safe_load((ROOT / "examples" / "fleet.yaml").read_text()))
    assert list(check.iter_errors({"sauce": 1}))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions(desk: Desk, shell: str) -> None:
    script = desk.bare("completions", shell).out
    assert "_RIVET_FLEET_COMPLETE" in script
    if shell == "bash":
        checked = subprocess.run(["bash", "-n"], input=script, text=True, check=False)
        assert checked.returncode == 0


def test_version_and_help(desk: Desk) -> None:
    assert desk.bare("--version").out.strip() == f"rivet-fleet, version {__version__}"
    help_text = desk.bare("--help").out
    for command in ("run", "resume", "requeue", "state", "completions"):
        assert re.search(rf"^  {command}\s", help_text, re.MULTILINE)
    assert "--depth" in desk.bare("validate", "-h").out


def test_a_log_of_versioned_json_events(desk: Desk) -> None:
    done = desk.cli("--log-json", "--log-level", "info", "submit")
    events = [json.loads(line) for line in done.err.splitlines() if line.startswith("{")]
    assert {e["event"] for e in events} >= {"export.planned"}
    assert all(e["event_version"] == 1 for e in events if "event_version" in e)


def test_a_worker_waits_for_its_campaign(desk: Desk) -> None:
    worker = desk.start("worker", "-c", str(desk.config), "--wait-s", "100")
    assert worker.stderr is not None
    assert any("there is no state yet" in line for line in worker.stderr), "it did not wait"
    assert not desk.state.exists()
    desk.cli("submit")
    desk.finish(worker)
    assert desk.delivered() == ALL


def test_a_rivet_configuration_unchanged(
    tmp_path: Path, database: str, postgres: EmbeddedPostgres
) -> None:
    """examples/rivet_postgres.yaml as it stands; only the server is another one (so is TLS)."""
    postgres.psql(
        "CREATE TABLE customers (id bigint PRIMARY KEY, name text);"
        "INSERT INTO customers SELECT i, 'c' || i FROM generate_series(1, 50) i;"
        "CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint, total numeric(18,2),"
        " status text);"
        "INSERT INTO orders SELECT i, i % 50, i, CASE WHEN i % 2 = 0 THEN 'open' ELSE 'paid' END "
        "FROM generate_series(1, 300) i; ANALYZE;",
        database=database.rpartition("/")[2],
    )
    desk = Desk(folder=tmp_path, environment={"DATABASE_URL": database})
    text = (ROOT / "examples" / "rivet_postgres.yaml").read_text()
    desk.write(text.replace("mode: verify-full", "mode: disable"))
    done = desk.cli("run")
    assert "notifications is ignored" in done.err
    counts = {p.parent.parent.name: 0 for p in tmp_path.rglob("*.parquet")}
    for part in tmp_path.rglob("*.parquet"):
        counts[part.parent.parent.name] += pq.read_metadata(part).num_rows
    assert counts == {"customers": 50, "orders": 300}
    lines = [line for part in tmp_path.rglob("*.csv") for line in part.read_text().splitlines()[1:]]
    assert len(lines) == 150


def test_fleet_yaml_with_another_name_is_another_campaign(desk: Desk) -> None:
    desk.cli("submit")
    desk.write(fleet_yaml().replace("name: shop", "name: other"))
    desk.refused("status", code=1, named="other", hint="--state-url")
