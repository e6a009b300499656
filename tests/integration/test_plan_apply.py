"""plan and apply over a real PostgreSQL: exactly the sealed ranges, whatever happens between."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rivet_fleet.contracts.artifact import artifact_text, read_artifact
from rivet_fleet.contracts.seals import Sealer
from rivet_fleet.demo.embedded import EmbeddedPostgres
from tests.integration.fleet_cli import Desk, fleet_yaml, run_sqlite, seal_anew
from tests.waiting import until

Shop = tuple[Desk, str]
KEYED = Sealer(key=b"correct-horse-battery-staple")


def plan(desk: Desk, *more: str) -> tuple[Path, dict[str, Any]]:
    path = desk.folder / "plan.json"
    desk.cli("plan", "-o", str(path), *more)
    return path, json.loads(path.read_text())


def ranges(artifact: dict[str, Any]) -> list[Any]:
    (run,) = artifact["campaign"]["runs"]
    return [chunk["chunk_range"] for chunk in run["chunks"]]


def stored(desk: Desk) -> list[Any]:
    rows = run_sqlite(desk.state, "SELECT range_json FROM chunk_task ORDER BY chunk_index")
    return [json.loads(row[0]) for row in rows]


def resealed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Somebody with the program's own functions: what the seal cannot know about."""
    from rivet_fleet.contracts.codec import from_plain, to_plain

    artifact = read_artifact(path.read_text())
    plain = to_plain(artifact)
    change(plain)
    path.write_text(artifact_text(from_plain(type(artifact), plain)))


def test_pa1_apply_executes_exactly_the_planned_ranges(
    own_shop: Shop, postgres: EmbeddedPostgres
) -> None:
    desk, database = own_shop
    path, artifact = plan(desk)
    assert artifact["exports"][0]["facts"]["key_minimum"] == ["1"]
    # Ten times the rows, elsewhere: a plan made now would be another one.
    postgres.psql(
        "INSERT INTO orders SELECT i, 'new', 0 FROM generate_series(100001, 102000) i;"
        "DELETE FROM orders WHERE id <= 50; ANALYZE orders",
        database=database,
    )
    done = desk.bare("apply", str(path))
    assert stored(desk) == ranges(artifact)
    assert desk.delivered() == [*range(51, 201), *range(100_001, 102_001)]
    assert "warning" not in done.err
    # The same plan is one campaign: applied again it has nothing left to do.
    before = run_sqlite(desk.state, "SELECT max(journal_id) FROM run_journal")
    for more in ((), ("--submit-only",), ("--force",)):
        again = desk.bare("apply", str(path), *more)
        assert "already applied: campaign" in again.out and "is completed" in again.out
        assert "2150 rows" in again.out and "4/4 chunks" in again.out
    (told,) = desk.bare("apply", str(path), "--json").json["runs"]
    assert (told["rows"], told["status"]) == (2150, "completed")
    assert run_sqlite(desk.state, "SELECT max(journal_id) FROM run_journal") == before
    assert len(list((desk.out / "orders").glob("*/_SUCCESS"))) == 1
    later = desk.cli("plan", "--json").json
    assert ranges(later) != ranges(artifact)
    (advice,) = later["prioritization"]["ordered_exports"]
    assert advice["predicted"]["provenance"] == "measured", "history knows its own success"
    assert later["exports"][0]["preflight"]["rows"] == 2150
    assert later["exports"][0]["preflight"]["rows_from"] == "measured today"


def test_pa2_nobody_writes_to_a_plan_after_it_was_made(own_shop: Shop) -> None:
    desk, _ = own_shop
    path, _ = plan(desk)
    before = path.read_bytes(), path.stat().st_mtime_ns
    path.chmod(0o444)
    desk.bare("apply", str(path))
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_pa5_the_ranges_of_a_plan_are_a_partition(own_shop: Shop) -> None:
    """Over any facts: tests/property/test_partition.py; here as they stand in a file."""
    desk, _ = own_shop
    _, artifact = plan(desk)
    found = ranges(artifact)
    assert found[0]["lower"] is None and found[-1]["upper"] is None
    assert [one["upper"] for one in found[:-1]] == [one["lower"] for one in found[1:]]
    assert len(found) == 4 and all(one["columns"] == ["id"] for one in found)


def test_planning_changes_nothing_anywhere(own_shop: Shop) -> None:
    desk, _ = own_shop
    done = desk.cli("plan")
    assert sorted(p.name for p in desk.folder.iterdir()) == ["fleet.yaml"]
    for said in ("orders", "4 chunks", "score", "[small_table]", "[no_history]", "wave"):
        assert said in done.out, done.out


def test_pa10_a_changed_byte_is_refused_even_with_force(own_shop: Shop) -> None:
    desk, _ = own_shop
    path, artifact = plan(desk)
    whole = path.read_text()
    (cut,) = ranges(artifact)[0]["upper"]
    for old, new in (
        (f'"{cut}"', f'"{int(cut) + 1}"'),
        ("orders", "0rders"),
        ('"sha256:', '"sha256:0'),
    ):
        assert old in whole
        path.write_text(whole.replace(old, new, 1))
        done = desk.bare("--json-errors", "apply", str(path), "--force", code=3)
        assert done.error["code"] == "RIVET_PLAN_TAMPERED"
    path.write_text(whole[:-20])
    done = desk.bare("--json-errors", "apply", str(path), "--force", code=1)
    assert done.error["code"] == "RIVET_PLAN_UNREADABLE"
    assert not desk.out.exists()


def test_pa10_with_a_key_only_its_holder_makes_a_plan(own_shop: Shop) -> None:
    desk, _ = own_shop
    desk.write(fleet_yaml(tail="state: {key_env: STATE_KEY}\n"))
    desk.environment["STATE_KEY"] = "correct-horse-battery-staple"
    path, artifact = plan(desk)
    whole = path.read_text()
    forged = read_artifact(artifact_text(read_artifact(whole, KEYED)))
    path.write_text(artifact_text(forged))
    error = desk.bare("--json-errors", "apply", str(path), "--force", code=3).error
    assert error["code"] == "RIVET_PLAN_NOT_KEYED" and "without a key" in error["error"]
    path.write_text(whole)
    error = desk.bare("--json-errors", "apply", str(path), "--force", code=1).error
    assert error["code"] == "RIVET_PLAN_CONFIG_UNNAMED"
    assert not desk.out.exists() and not desk.state.exists()
    desk.bare("apply", str(path), "-c", str(desk.config))
    assert stored(desk) == ranges(artifact)


def test_another_configuration_or_source_is_refused_even_with_force(
    own_shop: Shop, shop: str
) -> None:
    desk, _ = own_shop
    path, _ = plan(desk)
    right = dict(desk.environment)
    desk.environment["SHOP_URL"] = shop
    done = desk.bare("--json-errors", "apply", str(path), "--force", code=1)
    assert done.error["code"] == "RIVET_CONFIG_SOURCE_MISMATCH"
    desk.environment = right
    desk.write(fleet_yaml(extra="mode: chunked, chunk_size: 60"))
    done = desk.bare("--json-errors", "apply", str(path), "--force", code=1)
    assert done.error["code"] == "RIVET_CONFIG_CHANGED"
    assert "orders" in done.error["error"]
    assert not desk.out.exists()


def test_pa3_an_old_plan_warns_and_then_wants_force(own_shop: Shop) -> None:
    desk, _ = own_shop
    path, artifact = plan(desk)

    def aged(hours: float) -> None:
        def change(plain: dict[str, Any]) -> None:
            plain["created_at_s"] = artifact["created_at_s"] - hours * 3600

        resealed(path, change)

    aged(25)
    done = desk.bare("--json-errors", "apply", str(path), code=1)
    assert done.error["code"] == "RIVET_PLAN_STALE" and "--force" in done.error["hint"]
    assert not desk.out.exists()
    done = desk.bare("apply", str(path), "--force", "--submit-only")
    assert "forced although the plan is 25.0 hours old" in done.err
    applied = run_sqlite(desk.state, "SELECT data_json FROM run_journal WHERE event='plan.applied'")
    assert json.loads(applied[0][0])["forced"] == ["stale"]


def test_pa4_a_moved_cursor_wants_force(own_shop: Shop) -> None:
    desk, _ = own_shop
    desk.cli("run")
    mark = "UPDATE export_state SET last_cursor_value = ?"
    run_sqlite(desk.state, mark, ("2024-01-01",))
    seal_anew(f"sqlite:///{desk.state}")
    path, artifact = plan(desk)
    assert artifact["exports"][0]["cursor_snapshot"] == "2024-01-01"
    run_sqlite(desk.state, mark, ("2024-01-02",))
    seal_anew(f"sqlite:///{desk.state}")
    done = desk.bare("--json-errors", "apply", str(path), code=1)
    assert done.error["code"] == "RIVET_PLAN_CURSOR_DRIFT" and "orders" in done.error["error"]
    done = desk.bare("apply", str(path), "--force", "--submit-only")
    assert "the high-water mark has moved: orders" in done.err


def test_pa7_the_configuration_is_found_where_it_was_or_beside_the_plan(
    own_shop: Shop, tmp_path: Path
) -> None:
    desk, _ = own_shop
    path, _ = plan(desk)
    moved = Desk(folder=tmp_path / "elsewhere", environment=desk.environment)
    moved.folder.mkdir()
    beside = moved.folder / "plan.json"
    beside.write_bytes(path.read_bytes())
    desk.config.rename(moved.folder / "hidden.yaml")
    done = moved.bare("--json-errors", "apply", str(beside), code=1)
    assert "is not here" in done.error["error"] and "-c" in done.error["hint"]
    desk.write(fleet_yaml())
    moved.bare("apply", str(beside), "--submit-only")
    assert desk.state.exists(), "the state database beside the configuration, as for run"
    assert stored(desk)


def test_pa9_no_secret_is_in_a_plan(own_shop: Shop) -> None:
    desk, _ = own_shop
    url = desk.environment["SHOP_URL"]
    scheme, _, place = url.partition("://")
    user = place.partition("@")[0].partition(":")[0]
    secret = "s3cr3t-&-long"
    with_password = f"{scheme}://{user}:s3cr3t-%26-long@{place.partition('@')[2]}"
    desk.environment["SHOP_URL"] = with_password
    path, artifact = plan(desk)
    text = path.read_text() + desk.cli("plan").said + desk.cli("plan", "--json").said
    assert secret not in text and "s3cr3t" not in text
    identity = artifact["campaign"]["runs"][0]["plan"]["read"]["source_identity"]
    assert f"{user}@" in identity
    # What is executed cannot be masked: a query that repeats the secret is refused.
    desk.write(
        fleet_yaml()
        .replace("table: orders", f"query: \"SELECT 1 AS id, '{secret}' AS x\"")
        .replace("mode: chunked, chunk_size: 50", "mode: full")
    )
    error = desk.refused("plan", code=1, named="hold a secret", hint="password_env")
    assert error["code"] == "RIVET_PLAN_HOLDS_SECRET"


def test_an_applied_plan_survives_a_kill(own_shop: Shop) -> None:
    desk, _ = own_shop
    slow = "tuning: {batch_size: 10, throttle_ms: 400}"
    desk.write(fleet_yaml(extra=f"mode: chunked, chunk_size: 50, {slow}"))
    path, artifact = plan(desk)
    process = desk.start("apply", str(path))
    until(lambda: desk.state.exists() and _committed(desk) >= 1, what="a first chunk")
    meanwhile = desk.bare("apply", str(path))
    assert f"is being worked on by a coordinator, pid {process.pid}" in meanwhile.out
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert _committed(desk) < 4
    done = desk.bare("apply", str(path))
    assert "is stored already" in done.err
    assert desk.delivered() == list(range(1, 201))
    assert stored(desk) == ranges(artifact)


def _committed(desk: Desk) -> int:
    import sqlite3

    try:
        rows = run_sqlite(
            desk.state, "SELECT count(*) FROM chunk_task WHERE status IN ('committed', 'completed')"
        )
    except sqlite3.OperationalError:
        return 0  # no schema yet
    return int(rows[0][0])


@pytest.mark.parametrize("workers", ["1", "3"])
def test_waves_and_priorities_are_followed_by_the_fleet(
    own_shop: Shop, postgres: EmbeddedPostgres, workers: str
) -> None:
    """Two exports in the file's order, the second one of the first wave: it goes first."""
    desk, database = own_shop
    postgres.psql(
        "CREATE TABLE items AS SELECT i::bigint AS id, 'x' AS note FROM generate_series(1, 200) i;"
        "ALTER TABLE items ADD PRIMARY KEY (id); ANALYZE items",
        database=database,
    )
    both = fleet_yaml(
        extra="mode: chunked, chunk_size: 50, wave: 2",
        campaign="workers: 1, waves: true, order: priority",
        tail="  - {name: items, table: items, format: parquet, mode: chunked, chunk_size: 50,\n"
        "     wave: 1, destination: {type: local, path: ./out/items}}\n",
    )
    desk.write(both)
    path, artifact = plan(desk)
    assert [run["plan"]["export_name"] for run in artifact["campaign"]["runs"]] == [
        "items",
        "orders",
    ]
    desk.bare("apply", str(path), "--submit-only")
    waiting = desk.cli("status", "--json").json
    assert {e["export_name"]: e["wave"] for e in waiting["exports"]} == {"items": 1, "orders": 2}
    assert "earlier_wave_first" in {reason["code"] for reason in waiting["reasons"]}
    desk.bare("apply", str(path), "-w", workers)
    claims = run_sqlite(
        desk.state,
        "SELECT export_name FROM run_journal WHERE event = 'chunk.claimed' ORDER BY journal_id",
    )
    assert [row[0] for row in claims] == ["items"] * 4 + ["orders"] * 4
    assert desk.delivered("items") == desk.delivered("orders") == list(range(1, 201))
