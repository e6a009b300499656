"""The page servo against real servers: one that slows down, one that cancels, a hot standby."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pyarrow.parquet as pq
import pytest

from rivet_fleet.contracts.facts import FactsRequest
from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.plan import FormatPlan, TuningPlan
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.demo.embedded import EmbeddedPostgres
from rivet_fleet.errors import SourceBusy, SourceError, StatementTimeout
from rivet_fleet.execution import registry
from rivet_fleet.execution.extract import ExtractResult, PageProgress, extract_chunk
from rivet_fleet.execution.servo import PROBE_ROWS, Allowance
from rivet_fleet.execution.source import Source
from rivet_fleet.execution.sources.postgres import ENGINE as POSTGRES
from tests.integration.fleet_cli import ORDERS, Desk, fleet_yaml
from tests.integration.postgres_source_kit import read_plan, source, sql
from tests.waiting import until

__all__ = ["source", "sql"]

PATIENCE_S = 60.0
BY_ID = ChunkRange(kind=RangeKind.KEYSET, columns=("id",))
QUERY = "SELECT id, pace() AS p FROM numbers"

Sql = psycopg.Connection[tuple[object, ...]]


class Pacer:
    """Waits for nothing and remembers why it was asked to."""

    def __init__(self) -> None:
        self.errors: list[SourceError] = []

    def wait(self, seconds: float) -> None:
        pass

    def allowance(self) -> Allowance:
        return Allowance()

    def retry_in_s(self, wait_s: float, lost_bytes: int, answer_bytes: int = 0) -> float:
        return wait_s

    def retried(self, error: SourceError, attempt: int, wait_s: float) -> None:
        self.errors.append(error)


@pytest.fixture
def numbers(sql: Sql) -> Sql:
    """A table whose every row takes as long to read as ``knob`` says."""
    sql.execute("CREATE TABLE knob (ms float8 NOT NULL); INSERT INTO knob VALUES (0)")
    sql.execute("CREATE TABLE numbers (id int PRIMARY KEY)")
    sql.execute("INSERT INTO numbers SELECT i FROM generate_series(1, 20000) i; ANALYZE numbers")
    # Declared STABLE, so that it runs for the rows that are returned and for no others.
    sql.execute(
        "CREATE FUNCTION pace() RETURNS int STABLE COST 10000 LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM pg_sleep(ms / 1000) FROM knob WHERE ms > 0; RETURN 1; END $$"
    )
    return sql


@pytest.fixture
def extract(tmp_path: Path) -> Callable[..., ExtractResult]:
    def extract(
        source: Source,
        *,
        pacer: Pacer | None = None,
        on_page: Callable[[PageProgress], None] = lambda progress: None,
        **tuning: object,
    ) -> ExtractResult:
        facts = source.introspect(FactsRequest(export_name="q", relation=None, query=QUERY))
        settings = TuningPlan(**tuning)  # type: ignore[arg-type]
        plan = FormatPlan(format="parquet")
        return extract_chunk(
            reader=source.open_chunk(read_plan(facts, query=QUERY), BY_ID, settings),
            part_format=registry.open_format(plan),
            format_plan=plan,
            tuning=settings,
            spool_path=lambda number: tmp_path / f"p{number}.parquet",
            pacer=pacer or Pacer(),
            on_page=on_page,
        ).finish()

    return extract


def ids(result: ExtractResult) -> list[int]:
    return [i for part in result.parts for i in pq.read_table(part.path)["id"].to_pylist()]


class AtWork:
    """Runs ``act`` once, from another thread, as soon as a page is being read on the server."""

    def __init__(self, url: str, act: Callable[[Sql, int], object]) -> None:
        self._url, self._act = url, act
        self._thread = threading.Thread(target=self._run)
        self._error: BaseException | None = None

    def __enter__(self) -> AtWork:
        return self

    def start(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        active = (
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'rivet-test' "
            "AND state = 'active' AND query LIKE '%;COPY%' AND wait_event = 'PgSleep' "
            "AND datname = current_database()"
        )
        with psycopg.connect(self._url, autocommit=True) as watching:
            found: list[int] = []
            until(lambda: found.extend(r[0] for r in watching.execute(active)) or found)
            self._act(watching, found[0])


def test_a_source_that_slows_is_spared_within_two_pages(numbers, source, extract) -> None:
    pages: list[int] = []

    def on_page(progress: PageProgress) -> None:
        pages.append(progress.page_rows)
        if len(pages) == 6:
            numbers.execute("UPDATE knob SET ms = 1")
        if len(pages) == 14:
            numbers.execute("UPDATE knob SET ms = 0")

    result = extract(source, on_page=on_page, batch_rows_max=1000)
    assert ids(result) == list(range(1, 20001))
    # As many as it may ask for, but where this machine was busy; the seventh met the slow source.
    assert max(pages[:7]) == 1000
    # ÷5, and the next are near what 37 to 105 ms allow, at 1 ms a row and more.
    assert all(5 <= rows <= 200 for rows in pages[7:14])
    assert 1000 in pages[14:]


def test_an_administrator_who_cancels_is_heard_and_survived(
    numbers, source, extract, database
) -> None:
    pacer, pages = Pacer(), []

    def on_page(progress: PageProgress) -> None:
        pages.append(progress.page_rows)
        if len(pages) == 2:
            numbers.execute("UPDATE knob SET ms = 2")
            watching.start()

    def cancel(server: Sql, pid: int) -> None:
        server.execute("SELECT pg_cancel_backend(%s)", (pid,))
        numbers.execute("UPDATE knob SET ms = 0")

    with AtWork(database, cancel) as watching:
        result = extract(source, pacer=pacer, on_page=on_page, batch_rows_max=1000)
    assert ids(result) == list(range(1, 20001))
    assert [(type(e), e.code) for e in pacer.errors] == [(StatementTimeout, "SQLSTATE_57014")]
    assert pages[:3] == [500, 1000, 200]


def test_a_page_over_the_statement_limit_becomes_smaller(numbers, source, extract) -> None:
    pacer, pages = Pacer(), []
    numbers.execute("DELETE FROM numbers WHERE id > 600; UPDATE knob SET ms = 2")
    result = extract(
        source,
        pacer=pacer,
        on_page=lambda progress: pages.append(progress.page_rows),
        statement_timeout_s=0.5,
    )
    assert ids(result) == list(range(1, 601))
    assert [type(e) for e in pacer.errors] == [StatementTimeout]  # the probe of 500 rows
    assert pages[0] == 100


def test_a_row_over_the_statement_limit_is_an_error_with_a_hint(numbers, source, extract) -> None:
    pacer = Pacer()
    numbers.execute("UPDATE knob SET ms = 5000")
    with pytest.raises(StatementTimeout) as caught:
        extract(source, pacer=pacer, statement_timeout_s=0.2)
    assert "statement_timeout_s" in (caught.value.hint or "")
    assert len(pacer.errors) == TuningPlan().max_retries


def test_a_worker_knows_the_source_when_it_begins_the_next_chunk(
    tmp_path: Path, postgres: EmbeddedPostgres, database: str
) -> None:
    postgres.psql(ORDERS.format(name="orders", rows=20_000), database=database.rpartition("/")[2])
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": database})
    desk.write(fleet_yaml(extra="mode: chunked, chunk_size: 10000"))
    desk.cli("--log-level", "debug", "run")
    (log,) = tmp_path.glob(".rivet_fleet/logs/*/worker-*.log")
    firsts = [
        int(rows)
        for rows, total in re.findall(
            r" page\.read .*\brows=(\d+) rows_total=(\d+)", log.read_text()
        )
        if rows == total
    ]
    assert firsts[0] == PROBE_ROWS
    assert len(firsts) == 2 and firsts[1] > 2 * PROBE_ROWS, firsts


@pytest.fixture(scope="module")
def standby(postgres: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    """A hot standby of the session's server that lets replay cancel its queries at once."""
    # Not pytest's folder: that is private to its user, and the server may run as another.
    where = Path(tempfile.mkdtemp(prefix="rivet-fleet-standby-"))
    where.chmod(0o755)
    settings = {
        "hot_standby": "on",
        "hot_standby_feedback": "off",
        "max_standby_streaming_delay": "0",
        "fsync": "off",
    }
    server = EmbeddedPostgres(where / "standby", major=postgres.major, settings=settings)
    server.directory.mkdir()
    user = {} if os.geteuid() else {"user": "nobody", "extra_groups": []}
    if user:
        shutil.chown(server.directory, "nobody")
    subprocess.run(
        [
            str(server.bin / "pg_basebackup"),
            *("-D", str(server.directory / "data"), "-d", postgres.url()),
            *("--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"),
        ],
        check=True,
        cwd="/",
        **user,  # type: ignore[call-overload]
    )
    try:
        server.start()
        yield server
    finally:
        server.stop(mode="immediate")
        shutil.rmtree(where, ignore_errors=True)


def test_a_recovery_conflict_on_a_standby_costs_one_page(
    numbers, standby, extract, database
) -> None:
    """VACUUM on the primary removes rows that a page on the standby could still see."""
    name = database.rsplit("/", 1)[1]
    numbers.execute("CREATE TABLE churn (n int); INSERT INTO churn SELECT generate_series(1, 1000)")

    def caught_up() -> None:
        position = numbers.execute("SELECT pg_current_wal_lsn()").fetchone()
        with psycopg.connect(standby.url(), autocommit=True) as replica:
            replayed = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
            until(lambda: replica.execute(replayed, position).fetchone() == (True,))

    caught_up()
    source = POSTGRES.open_source(
        parse_database_url(standby.url(name)), application_name="rivet-test"
    )
    pacer, pages = Pacer(), []

    def on_page(progress: PageProgress) -> None:
        pages.append(progress.page_rows)
        if len(pages) == 2:
            numbers.execute("UPDATE knob SET ms = 10")
            caught_up()
            watching.start()

    def conflict(_: Sql, __: int) -> None:
        numbers.execute("DELETE FROM churn")
        numbers.execute("VACUUM churn")
        until(lambda: pacer.errors)
        numbers.execute("UPDATE knob SET ms = 0")

    with AtWork(standby.url(name), conflict) as watching:
        result = extract(source, pacer=pacer, on_page=on_page, batch_rows_max=1000)
    source.close()
    assert ids(result) == list(range(1, 20001))
    assert (type(pacer.errors[0]), pacer.errors[0].code) == (SourceBusy, "SQLSTATE_40001")
    assert pages[:3] == [500, 1000, 1000 // 5 ** len(pacer.errors)]
    with psycopg.connect(standby.url(name), autocommit=True) as replica:
        conflicts = "SELECT confl_snapshot FROM pg_stat_database_conflicts WHERE datname = %s"
        (count,) = replica.execute(conflicts, (name,)).fetchone() or (0,)
    assert isinstance(count, int) and count >= 1
