"""What passes by itself while pages are read: a server without statements, a locked account, a
table that is exchanged for another. Waited out, and every row is delivered once."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.errors import RetryClass, SourceBusy
from tests.integration.fleet_cli import Desk, fleet_yaml, run_sqlite
from tests.integration.mysql_source_kit import LIMIT, Sql, facts_of, read_plan, source, sql
from tests.waiting import until

__all__ = ["source", "sql"]

ROWS = 20_000
ALL = list(range(1, ROWS + 1))
TUNING = "batch_size: 1000, throttle_ms: 200, retry_backoff_ms: 100"


@pytest.fixture
def desk(tmp_path: Path, sql: Sql, mysql_url_any: str) -> Desk:
    """A run over ``orders``, whose key is a unique index named u; one attempt for each chunk."""
    sql.execute("CREATE TABLE orders (id int NOT NULL, a int NOT NULL, UNIQUE u (id))")
    rows = ", ".join(f"({i}, {i})" for i in ALL)
    sql.execute(f"INSERT INTO orders VALUES {rows}")
    sql.execute("ANALYZE TABLE orders")
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": mysql_url_any})
    desk.write(config())
    return desk


def config(attempts: int = 1, tuning: str = TUNING) -> str:
    return fleet_yaml(
        source=f"{{type: mysql, url_env: SHOP_URL, tuning: {{{tuning}}}}}",
        extra="mode: chunked, chunk_count: 4",
        campaign=f"workers: 2, max_chunk_attempts: {attempts}, lease_ttl_s: 5",
    )


@contextmanager
def reading(desk: Desk, sql: Sql) -> Iterator[subprocess.Popen[str]]:
    """The run, once pages are read; never left behind."""
    counted = "SHOW GLOBAL STATUS LIKE 'Com_stmt_execute'"
    before = int(sql.execute(counted)[0][1])
    process = desk.start("run", "-c", str(desk.config))
    try:
        until(
            lambda: int(sql.execute(counted)[0][1]) > before + 4 or process.poll() is not None,
            what="some pages",
        )
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def journal(desk: Desk, event: str) -> int:
    asked = f"SELECT count(*) FROM run_journal WHERE event = '{event}'"
    return int(run_sqlite(desk.state, asked)[0][0])


def logs(desk: Desk) -> str:
    folder = desk.folder / ".rivet_fleet" / "logs"
    return "".join(file.read_text() for file in folder.rglob("*.log"))


@contextmanager
def without_statements(sql: Sql) -> Iterator[None]:
    ((before,),) = sql.execute("SELECT @@GLOBAL.max_prepared_stmt_count")
    sql.execute("SET GLOBAL max_prepared_stmt_count = 0")
    try:
        yield
    finally:
        sql.execute(f"SET GLOBAL max_prepared_stmt_count = {before}")


def test_a_server_without_statements_left_is_waited_for(sql, desk) -> None:
    with reading(desk, sql) as campaign:
        with without_statements(sql):
            until(lambda: logs(desk).count("source.retried") >= 2, what="both workers waiting")
            assert campaign.poll() is None
        desk.finish(campaign)
    assert desk.delivered() == ALL


def test_a_chunk_that_finds_no_statement_left_when_it_is_opened_waits_too(sql, source) -> None:
    sql.numbers(10)
    read = read_plan(facts_of(source, "numbers"))
    keys = ChunkRange(kind=RangeKind.KEYSET, columns=("i",))
    with without_statements(sql), pytest.raises(SourceBusy) as busy:
        source.open_chunk(read, keys, TuningPlan())
    assert busy.value.retry is RetryClass.TRANSIENT and busy.value.code == "MYSQL_1461"
    assert source.open_chunk(read, keys, TuningPlan()).read_page(LIMIT).batch.num_rows == 10


def test_a_locked_account_is_an_outage(sql, desk) -> None:
    """However long it lasts, it costs no attempt, as a server that is away."""
    user = f"l_{sql.database}"[:32]
    sql.execute(f"CREATE USER {user}@'%' IDENTIFIED BY 'pw'")
    sql.execute(f"GRANT SELECT ON {sql.database}.* TO {user}@'%'")
    place = desk.environment["SHOP_URL"].rpartition("@")[2]
    desk.environment["SHOP_URL"] = f"mysql://{user}:pw@{place}"
    desk.write(config(tuning=f"{TUNING}, max_retries: 1"))
    try:
        with reading(desk, sql) as campaign:
            sql.execute(f"ALTER USER {user}@'%' ACCOUNT LOCK")
            threads = f"SELECT id FROM information_schema.processlist WHERE user = '{user}'"
            for (thread,) in sql.execute(threads):
                sql.execute(f"KILL {thread}")
            until(lambda: journal(desk, "chunk.released") >= 2, what="chunks given back")
            assert campaign.poll() is None
            sql.execute(f"ALTER USER {user}@'%' ACCOUNT UNLOCK")
            desk.finish(campaign)
    finally:
        sql.execute(f"DROP USER {user}@'%'")
    assert desk.delivered() == ALL
    assert {row[0] for row in run_sqlite(desk.state, "SELECT attempts FROM chunk_task")} == {1}


# ---------------------------------------------------------------- another table takes the name

COPY = (
    "CREATE TABLE orders_new (id int NOT NULL, a int NOT NULL, UNIQUE k2 (id))",
    "INSERT INTO orders_new SELECT * FROM orders",
)


@pytest.mark.parametrize(
    "swap",
    [
        (*COPY, "RENAME TABLE orders TO orders_old, orders_new TO orders"),
        ("ALTER TABLE orders ADD PRIMARY KEY (id), DROP INDEX u",),
    ],
    ids=["renamed", "primary"],
)
def test_the_index_is_chosen_anew_when_its_name_is_gone(sql, desk, swap) -> None:
    with reading(desk, sql) as campaign:
        for statement in swap:
            sql.execute(statement)
        desk.finish(campaign)
    assert desk.delivered() == ALL
    desk.cli("validate")
    told = [line for line in logs(desk).splitlines() if "source.retried" in line]
    assert told and all(f"{sql.database}.orders" in line for line in told), told
    assert not any("_rivet'" in line for line in told), told


def test_a_table_that_is_away_for_a_moment_is_waited_for(sql, desk) -> None:
    """An exchange in two statements: chunks that are read and chunks that are opened in the gap."""
    desk.write(config(attempts=3))
    for statement in COPY:
        sql.execute(statement)
    with reading(desk, sql) as campaign:
        sql.execute("RENAME TABLE orders TO orders_old")
        until(lambda: "source.retried" in logs(desk), what="a page that is tried again")
        sql.execute("RENAME TABLE orders_new TO orders")
        desk.finish(campaign)
    assert desk.delivered() == ALL


def test_a_table_that_is_gone_ends_by_its_name(sql, desk) -> None:
    desk.write(config(attempts=2, tuning=f"{TUNING}, max_retries: 2"))
    with reading(desk, sql) as campaign:
        sql.execute("DROP TABLE orders")
        done = desk.finish(campaign, code=5)
    assert f"{sql.database}.orders" in done.said and "_rivet" not in done.said
    assert {row[0] for row in run_sqlite(desk.state, "SELECT attempts FROM chunk_task")} == {2}


def test_a_key_that_is_unique_no_more_is_drift(sql, desk) -> None:
    """Of rows that share a key, a page that goes on behind its last one would skip the rest."""
    with reading(desk, sql) as campaign:
        sql.execute("ALTER TABLE orders ADD INDEX plain (id), DROP INDEX u")
        done = desk.finish(campaign, code=None)
    assert done.code in (4, 5)
    said = desk.cli("status", "--json", code=None).out
    assert "has no unique index any more" in said or "no unique index any more" in done.said
