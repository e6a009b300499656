"""What goes wrong while a campaign is under way: named, survived, and nothing is lost."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.demo.embedded import EmbeddedPostgres, embedded_postgres
from rivet_fleet.errors import StateUnavailable
from rivet_fleet.persistence.open import open_store
from tests.integration.fleet_cli import ORDERS, Desk, fleet_yaml, may_mount, mounted, run_sqlite
from tests.waiting import until

ALL = list(range(1, 201))
SLOW = "{type: postgres, url_env: SHOP_URL, tuning: {batch_size: 10, throttle_ms: 150}}"
HASTY = "{type: postgres, url_env: SHOP_URL, tuning: {retry_backoff_ms: 20}}"


@contextmanager
def running(desk: Desk, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command in the background; never left behind."""
    process = desk.start(*arguments, "-c", str(desk.config))
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def statuses(desk: Desk) -> list[str]:
    """Of every chunk, from the SQLite state; nothing while it is not there yet."""
    try:
        return [row[0] for row in run_sqlite(desk.state, "SELECT status FROM chunk_task")]
    except Exception:
        return []


def test_two_coordinators_on_one_campaign(
    own_shop: tuple[Desk, str], postgres: EmbeddedPostgres
) -> None:
    desk, name = own_shop
    desk.write(fleet_yaml(source=SLOW))
    with running(desk, "run") as first:
        until(lambda: "running" in statuses(desk), what="a running chunk")
        with psycopg.connect(postgres.url(name)) as blocker:
            blocker.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
            error = desk.refused("run", code=1, named=f"pid {first.pid}", hint="resume --join")
            assert error["code"] == "RIVET_CAMPAIGN_COORDINATED"
        desk.finish(first)
    assert desk.delivered() == ALL


def test_the_state_database_goes_away_in_the_middle(desk: Desk) -> None:
    with embedded_postgres(settings={"fsync": "off"}) as server:
        desk.environment["RIVET_FLEET_STATE_URL"] = server.create_database("fleet")
        desk.write(fleet_yaml(source=SLOW))
        counted = "SELECT count(*) FROM chunk_task WHERE status = 'completed'"
        with running(desk, "run") as campaign:
            until(
                lambda: campaign.poll() is not None or _ask(server, counted) not in ("", "0"),
                what="a completed chunk",
            )
            server.stop(mode="fast")
            log = desk.folder / ".rivet_fleet" / "logs"
            until(
                lambda: any("state.retried" in f.read_text() for f in log.rglob("*.log")),
                what="a worker that noticed",
            )
            gone_s = time.monotonic()
            until(lambda: time.monotonic() - gone_s > 3.0, what="three seconds")
            assert campaign.poll() is None, "nobody may give up that soon"
            server.start()
            desk.finish(campaign)
        assert desk.delivered() == ALL


def test_a_source_that_is_away_costs_no_attempt(desk: Desk) -> None:
    """With one attempt a chunk and few retries a page, an outage far longer than both."""
    tuning = "batch_size: 10, throttle_ms: 150, max_retries: 1, retry_backoff_ms: 20"
    with embedded_postgres(settings={"fsync": "off"}) as server:
        desk.environment["SHOP_URL"] = server.create_database("shop")
        server.psql(ORDERS.format(name="orders", rows=len(ALL)), database="shop")
        desk.write(
            fleet_yaml(
                source=f"{{type: postgres, url_env: SHOP_URL, tuning: {{{tuning}}}}}",
                campaign="workers: 2, max_chunk_attempts: 1",
            )
        )
        with running(desk, "run") as campaign:
            until(lambda: "completed" in statuses(desk), what="a completed chunk")
            server.stop(mode="fast")
            given_back = "SELECT count(*) FROM run_journal WHERE event = 'chunk.released'"
            until(lambda: run_sqlite(desk.state, given_back)[0][0] >= 3, what="chunks given back")
            assert campaign.poll() is None
            reason = desk.cli("status", "--json").json["reasons"][0]
            assert reason["code"] == "source_away" and "no attempt is spent" in reason["sentence"]
            server.start()
            desk.finish(campaign)
    assert desk.delivered() == ALL
    assert {row[0] for row in run_sqlite(desk.state, "SELECT attempts FROM chunk_task")} == {1}


def _ask(server: EmbeddedPostgres, sql: str) -> str:
    try:
        return server.psql(sql, database="fleet")
    except RuntimeError:
        return ""


# ---------------------------------------------------------------- disks


@pytest.fixture
def bulky(postgres: EmbeddedPostgres, database: str, tmp_path: Path) -> Desk:
    """A desk whose table makes about 4 MB of uncompressed Parquet in 8 chunks."""
    name = database.rpartition("/")[2]
    postgres.psql(
        "CREATE TABLE orders (id bigint PRIMARY KEY, note text);"
        "INSERT INTO orders SELECT i, (SELECT string_agg(md5(i::text || j), '') "
        "FROM generate_series(1, 63) j) FROM generate_series(1, 2000) i; ANALYZE orders;",
        database=name,
    )
    return Desk(folder=tmp_path, environment={"SHOP_URL": database})


BULK = "mode: chunked, chunk_size: 250, compression: none"


ATTEMPTS = "SELECT DISTINCT attempts FROM chunk_task"


def bigger(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=32m", str(folder)], check=True)


def test_a_destination_that_fills_up_is_waited_for(bulky: Desk) -> None:
    if not may_mount():
        pytest.skip("needs the right to mount a tmpfs")
    bulky.write(
        fleet_yaml(
            source=HASTY, extra=BULK, campaign="workers: 1, max_chunk_attempts: 2, lease_ttl_s: 5"
        )
    )
    with mounted(bulky.out, "size=1m"), running(bulky, "run") as campaign:
        told = "SELECT data_json FROM run_journal WHERE event = 'destination.full'"
        until(lambda: statuses(bulky) and run_sqlite(bulky.state, told), what="a full disk")
        (reason, *_) = [
            one
            for one in bulky.cli("status", "--json").json["reasons"]
            if one["code"] == "destination_full"
        ]
        assert "its files need" in reason["sentence"] and "are free" in reason["sentence"]
        assert bulky.delivered() == [], "no _SUCCESS before everything is there"
        bigger(bulky.out)
        bulky.finish(campaign)
        assert bulky.delivered() == list(range(1, 2001))
    assert run_sqlite(bulky.state, ATTEMPTS) == [(1,)], "none was spent"


def test_who_has_no_patience_with_a_full_destination_spends_attempts(bulky: Desk) -> None:
    if not may_mount():
        pytest.skip("needs the right to mount a tmpfs")
    campaign = "workers: 1, max_chunk_attempts: 2, lease_ttl_s: 5, full_patience_s: 0"
    bulky.write(fleet_yaml(source=HASTY, extra=BULK, campaign=campaign))
    with mounted(bulky.out, "size=2m"):
        done = bulky.cli("run", code=5)
        assert "DestinationFull" in done.said and "free space" in done.said
        assert "rivet-fleet requeue" in done.said
        visible = [p for p in bulky.out.rglob("*.parquet") if ".staging" not in p.parts]
        assert visible, "what was delivered before stays"
        bigger(bulky.out)
        kept = {p: p.stat().st_mtime_ns for p in visible}
        bulky.cli("requeue")
        bulky.cli("resume")
        assert bulky.delivered() == list(range(1, 2001))
        assert {p: p.stat().st_mtime_ns for p in visible} == kept, "nothing is done twice"


def test_a_spool_that_fills_up_is_waited_for(bulky: Desk) -> None:
    if not may_mount():
        pytest.skip("needs the right to mount a tmpfs")
    bulky.write(
        fleet_yaml(
            source=HASTY,
            extra=BULK,
            campaign="workers: 1, max_chunk_attempts: 2, lease_ttl_s: 5",
            tail="spool_dir: ./spool\n",
        )
    )
    with mounted(bulky.folder / "spool", "size=200k") as spool, running(bulky, "run") as campaign:
        told = "SELECT 1 FROM run_journal WHERE event = 'destination.full'"
        until(lambda: statuses(bulky) and run_sqlite(bulky.state, told), what="a full spool")
        bigger(spool)
        bulky.finish(campaign)
    assert bulky.delivered() == list(range(1, 2001))
    assert run_sqlite(bulky.state, ATTEMPTS) == [(1,)], "none was spent"


def test_a_state_that_fills_up_is_waited_for_like_one_that_is_away(tmp_path: Path) -> None:
    if not may_mount():
        pytest.skip("needs the right to mount a tmpfs")
    with mounted(tmp_path / "state", "size=1m,mode=0700") as folder:
        store = open_store(f"sqlite:///{folder / 'state.db'}")
        store.migrate()
        filler = folder / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        word = Event(name=EventName.WORKER_STARTED, message="m" * 50_000)
        with pytest.raises(StateUnavailable) as caught:
            for _ in range(40):
                store.write_journal(word)
        assert "free space" in (caught.value.hint or "")
        filler.unlink()
        store.write_journal(word)
        store.close()


# ---------------------------------------------------------------- files deleted under our feet


def test_a_part_deleted_while_running_is_extracted_again(desk: Desk) -> None:
    desk.write(fleet_yaml(source=SLOW))
    with running(desk, "run") as campaign:
        part = until(lambda: next(desk.out.glob("orders/*/*.parquet"), None), what="a visible part")
        until(lambda: "completed" in statuses(desk), what="its chunk's completion")
        part.unlink()
        desk.finish(campaign)
    assert desk.delivered() == ALL
    desk.cli("validate")
    assert "chunk.reopened" in desk.cli("journal").out


def test_m5_a_part_deleted_after_success(desk: Desk) -> None:
    desk.cli("run")
    part = sorted(desk.out.glob("orders/*/*.parquet"))[1]
    part.unlink()
    done = desk.cli("validate", code=3)
    assert "RIVET_VERIFY_PART_MISSING" in done.out and part.name in done.out
    assert "1 lost" in desk.cli("requeue", "--lost").out
    assert desk.delivered() == [], "nobody may believe in it meanwhile"
    desk.cli("resume")
    assert desk.delivered() == ALL
    desk.cli("validate")


# ---------------------------------------------------------------- schema


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("DROP COLUMN note", "note is gone"),
        ("RENAME COLUMN note TO remark", "remark (text) is new"),
        ("ADD COLUMN extra int", "extra (integer) is new"),
        ("ALTER COLUMN total TYPE double precision", "total was numeric(10,2)"),
    ],
)
def test_a_source_that_changed_after_planning(
    own_shop: tuple[Desk, str], postgres: EmbeddedPostgres, change: str, named: str
) -> None:
    desk, database = own_shop
    desk.cli("submit")
    postgres.psql(f"ALTER TABLE orders {change}", database=database)
    done = desk.cli("resume", code=4)
    assert "SchemaDrift" in done.out and named in done.out and "orders" in done.out
    assert [p for p in desk.out.rglob("*.parquet") if ".staging" not in p.parts] == []
    assert not list(desk.out.rglob("_SUCCESS"))
    error = desk.refused("run", code=5, named="ended incomplete", hint="--new")
    assert error["code"] == "RIVET_CAMPAIGN_INCOMPLETE"
    desk.cli("run", "--new")
    assert desk.delivered() == ALL, "a new campaign is planned for the new shape"


def test_new_gives_nothing_up_before_it_knows(
    own_shop: tuple[Desk, str], postgres: EmbeddedPostgres
) -> None:
    desk, database = own_shop
    desk.cli("submit")
    (former,) = run_sqlite(desk.state, "SELECT campaign_id, status FROM campaign")

    def stands() -> list[tuple[str, str]]:
        return run_sqlite(desk.state, "SELECT campaign_id, status FROM campaign")

    postgres.psql("ALTER TABLE orders RENAME TO elsewhere", database=database)
    desk.refused("submit", "--new", code=1, named="orders", hint="")
    assert stands() == [former], "what cannot be planned costs nothing"
    postgres.psql("ALTER TABLE elsewhere RENAME TO orders", database=database)
    desk.environment["RIVET_FLEET_TEST_KILL"] = "campaign.planned:kill"
    desk.cli("submit", "--new", code=-signal.SIGKILL)
    assert stands() == [former], "planned, and not stored"
    desk.environment["RIVET_FLEET_TEST_KILL"] = "campaign.submitted:kill"
    desk.cli("submit", "--new", code=-signal.SIGKILL)
    del desk.environment["RIVET_FLEET_TEST_KILL"]
    assert sorted(status for _, status in stands()) == ["active", "cancelled"]
    assert (former[0], "cancelled") in stands()
    desk.cli("resume")
    assert desk.delivered() == ALL


# ---------------------------------------------------------------- stopping


def test_ctrl_c_while_planning(own_shop: tuple[Desk, str], postgres: EmbeddedPostgres) -> None:
    desk, name = own_shop
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'rivet-fleet%' "
        "AND wait_event_type = 'Lock'"
    )
    with psycopg.connect(postgres.url(name)) as blocker:
        blocker.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        with running(desk, "--json-errors", "run") as campaign:
            until(lambda: postgres.psql(waiting, database=name) != "0", what="a waiting planner")
            campaign.send_signal(signal.SIGINT)
            done = desk.finish(campaign, code=6)
    assert done.error["exit_class"] == "stopped" and "start it again" in done.error["hint"]
    assert run_sqlite(desk.state, "SELECT * FROM campaign") == []
    desk.cli("run")
    assert desk.delivered() == ALL


def test_ctrl_c_while_running_then_resume(desk: Desk) -> None:
    desk.write(fleet_yaml(source=SLOW))
    with running(desk, "run") as campaign:
        until(lambda: "running" in statuses(desk), what="a running chunk")
        campaign.send_signal(signal.SIGINT)
        done = desk.finish(campaign, code=6)
    assert "rivet-fleet resume" in done.out
    desk.cli("resume")
    assert desk.delivered() == ALL
