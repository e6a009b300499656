"""Behind a real PgBouncer: transaction mode, and one server connection for everybody."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from rivet_fleet.contracts.facts import FactsRequest
from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.demo.embedded import EmbeddedPostgres
from rivet_fleet.errors import RetryClass, SourceBusy
from rivet_fleet.execution.source import Source
from rivet_fleet.execution.sources.postgres import ENGINE as POSTGRES
from tests.conftest import missing
from tests.integration.fleet_cli import Desk
from tests.integration.postgres_source_kit import drain, read_plan
from tests.servers.pgbouncer import PgBouncer, PgBouncerMissing, pgbouncer
from tests.waiting import until

TABLES = """
CREATE TABLE keyed (id bigint PRIMARY KEY, note text);
INSERT INTO keyed SELECT i, 'n' || i FROM generate_series(1, 6000) i;
CREATE TABLE keyless (n int NOT NULL, note text);
INSERT INTO keyless SELECT i, repeat('x', 200) FROM generate_series(1, 6000) i;
CREATE TABLE spanned (id int PRIMARY KEY, n int NOT NULL);
INSERT INTO spanned SELECT i, i FROM generate_series(1, 6000) i;
CREATE INDEX ON spanned (n);
ANALYZE;
"""
CONFIG = """\
source: {type: postgres, url_env: SHOP_URL}
campaign: {name: pooled, workers: 3, lease_ttl_s: 5}
exports:
  - {name: keyed, table: keyed, mode: chunked, chunk_size: 250, format: parquet,
     destination: {type: local, path: ./out/keyed}}
  - {name: keyless, table: keyless, mode: chunked, chunk_size: 500, format: parquet,
     destination: {type: local, path: ./out/keyless}}
  - {name: spanned, table: spanned, mode: chunked, chunk_column: n, chunk_size: 250,
     format: parquet, destination: {type: local, path: ./out/spanned}}
"""
READER = """
import glob, os, duckdb
for name, key in (("keyed", "id"), ("keyless", "n"), ("spanned", "id")):
    done = [os.path.dirname(one) for one in glob.glob(f"out/{name}/*/_SUCCESS")]
    parts = [part for run in done for part in glob.glob(f"{run}/*.parquet")]
    say = f"SELECT count(*), count(DISTINCT {key}), sum({key}) FROM read_parquet({parts})"
    print(name, *duckdb.sql(say).fetchall()[0])
"""
EVERY_ROW_ONCE = [f"{name} 6000 6000 18003000" for name in ("keyed", "keyless", "spanned")]
LEFT_BEHIND = "SELECT name, setting FROM pg_settings WHERE source = 'session' ORDER BY name"
FORGOTTEN = ("statement_timeout", "lock_timeout", "TimeZone", "application_name", "search_path")


@pytest.fixture(scope="module")
def shop(postgres: EmbeddedPostgres) -> str:
    """A filled database that is only read; its name."""
    postgres.create_database("pooled_shop")
    postgres.psql(TABLES, database="pooled_shop")
    return "pooled_shop"


@contextmanager
def pooled(server: EmbeddedPostgres, **settings: str) -> Iterator[PgBouncer]:
    try:
        with pgbouncer(server.port, **settings) as running:
            yield running
    except PgBouncerMissing as absent:
        missing(str(absent))


@pytest.fixture
def pooler(postgres: EmbeddedPostgres) -> Iterator[PgBouncer]:
    with pooled(postgres) as running:
        yield running


@pytest.fixture
def desk(tmp_path: Path, pooler: PgBouncer, shop: str) -> Desk:
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": pooler.url(shop)})
    desk.write(CONFIG)
    return desk


def settings_of(url: str) -> tuple[list[object], dict[str, object]]:
    """What a plain client's session is like: everything set for it, and the values of some."""
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as client:
        left = client.execute(LEFT_BEHIND).fetchall()
        named = {one: client.execute(f"SHOW {one}".encode()).fetchone() for one in FORGOTTEN}
    return list(left), dict(named)


def read(desk: Desk) -> list[str]:
    """What DuckDB, in a process of its own, finds beside each ``_SUCCESS``."""
    done = subprocess.run(
        [sys.executable, "-c", READER], cwd=desk.folder, text=True, capture_output=True, check=True
    )
    return done.stdout.splitlines()


def test_a_campaign_through_one_server_connection(desk: Desk, pooler: PgBouncer, shop: str) -> None:
    """Three workers share it, every row is delivered once, and nothing of ours stays in it."""
    before = settings_of(pooler.url(shop))
    desk.cli("run")
    runs = desk.cli("state", "chunks", "--json").json
    assert sum(len(run["chunks"]) for run in runs) >= 50
    assert read(desk) == EVERY_ROW_ONCE
    servers = [one for one in pooler.show("SERVERS") if one["database"] == shop]
    assert len(servers) == 1, servers
    assert settings_of(pooler.url(shop)) == before


def test_a_pooler_that_dies_in_mid_campaign(desk: Desk, pooler: PgBouncer) -> None:
    running = desk.start("run", "-c", str(desk.config))
    until(lambda: list(desk.out.glob("*/*/*.parquet")), what="a first file")
    pooler.kill()
    pooler.start()
    desk.finish(running)
    assert read(desk) == EVERY_ROW_ONCE


def test_the_pooler_is_named_once_and_stops_nothing(desk: Desk) -> None:
    findings = desk.cli("doctor", "--json").json["findings"]
    assert [one["subject"] for one in findings if one["code"] == "RIVET_SOURCE_POOLER"] == [
        "source default"
    ]
    said = desk.cli("check", "-e", "keyed").out
    assert said.count("the connection goes through a pooler") == 1, said


def test_statement_mode_is_refused(desk: Desk, postgres: EmbeddedPostgres, shop: str) -> None:
    with pooled(postgres, pool_mode="statement") as pooler:
        desk.environment["SHOP_URL"] = pooler.url(shop)
        desk.refused("run", code=1, named="statement pooling mode", hint="pool_mode=transaction")


def test_a_pool_that_is_taken_is_waited_for_within_its_limit(
    postgres: EmbeddedPostgres, shop: str
) -> None:
    """Somebody else holds the one server connection: the pooler's limit ends our wait, and it
    counts as a source that is busy, not as one that is broken."""
    with pooled(postgres, query_wait_timeout="1") as pooler:
        source = POSTGRES.open_source(
            parse_database_url(pooler.url(shop)), application_name="rivet-test"
        )
        with psycopg.connect(pooler.url(shop), prepare_threshold=None) as other:
            other.execute("SELECT 1")
            with pytest.raises(SourceBusy) as refused:
                source.list_relations()
        assert refused.value.retry is RetryClass.TRANSIENT
        assert "query_wait_timeout" in (refused.value.hint or "")
        assert source.list_relations().relations, "and once it is free, all is well"
        statement_s, rest_s = statement_and_wait_s(source, pooler.url(shop))
        assert statement_s > 0.25 and rest_s > 0.45, (
            "the wait is no statement's, and takes none off"
        )
        source.close()


def statement_and_wait_s(source: Source, pooled: str) -> tuple[float, float]:
    """How long a statement of 0.3 s is said to take that waits half a second for the one server
    connection; and the rest of the time until its rows were there."""
    query = "SELECT 1 AS n, pg_sleep(0.3)::text AS s"
    request = FactsRequest(export_name="e", relation=None, query=query)
    read = read_plan(source.introspect(request), query=query)
    reader = source.open_chunk(read, ChunkRange(kind=RangeKind.WHOLE), TuningPlan())
    with psycopg.connect(pooled, prepare_threshold=None) as other:
        other.execute("SELECT 1")  # in a transaction, which keeps the connection
        began_s = time.monotonic()
        leaving = threading.Timer(0.5, other.rollback)
        leaving.start()
        drain(reader)
        spent_s = time.monotonic() - began_s
        leaving.join()
    return reader.longest_statement_s, spent_s - reader.longest_statement_s
