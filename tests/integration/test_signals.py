"""What real servers tell a governor: pressure by others, never our own, and never too low."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import psycopg
import pymysql
import pytest

from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.demo.embedded import EmbeddedPostgres
from rivet_fleet.errors import SourceError, SourceRefused
from rivet_fleet.execution import registry
from rivet_fleet.execution.signals import SourceSignals, read_http
from tests.integration.mysql_source_kit import Sql
from tests.servers.mariadb import EmbeddedMariadb
from tests.waiting import until


@contextlib.contextmanager
def opened(url: str, user: str | None = None) -> Iterator[SourceSignals]:
    address = parse_database_url(
        url if user is None else url.replace("://postgres@", f"://{user}@")
    )
    engine = "postgres" if url.startswith("postgres") else "mysql"
    signals = registry.open_signals(
        engine, address, tls_mode="disable", application_name="rivet-fleet governor"
    )
    yield signals
    signals.close()


def test_postgres_counts_others_and_not_us(database: str) -> None:
    with (
        opened(database) as signals,
        psycopg.connect(database) as holder,
        psycopg.connect(database) as theirs,
        psycopg.connect(database, application_name="rivet-fleet worker-1") as ours,
    ):
        holder.execute("CREATE TABLE t (id int)")
        holder.commit()
        holder.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        before = signals.read("running_sessions")
        errors: list[BaseException] = []

        def wait(connection: psycopg.Connection) -> None:
            try:
                connection.execute("SELECT * FROM t")
            except psycopg.Error as error:
                errors.append(error)

        mine = threading.Thread(target=wait, args=(ours,))
        mine.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        until(lambda: signals.query(waiting) == 1, what="our own wait")
        assert signals.read("lock_waits") == 0, "our own wait is not pressure"
        other = threading.Thread(target=wait, args=(theirs,))
        other.start()
        until(lambda: signals.read("lock_waits") == 1, what="the application's wait")
        assert signals.read("running_sessions") >= before + 1
        until(lambda: signals.read("longest_transaction_s") >= 0.05, what="an old transaction")
        holder.rollback()
        mine.join()
        other.join()
        assert not errors


def test_postgres_statistics_are_not_frozen(database: str) -> None:
    with opened(database) as signals, psycopg.connect(database, autocommit=True) as admin:
        before = signals.read("requested_checkpoints")
        admin.execute("CREATE TABLE c AS SELECT 1 AS one")
        admin.execute("CHECKPOINT")
        until(lambda: signals.read("requested_checkpoints") > before, what="a checkpoint")


def test_a_number_that_is_none_is_refused(database: str) -> None:
    with opened(database) as signals:
        for sql in ("SELECT 'NaN'::float8", "SELECT 'Infinity'::float8", "SELECT 'NaN'::numeric"):
            with pytest.raises(SourceRefused, match="did not give one number"):
                signals.query(sql)
        assert signals.usable, "nothing is the matter with the connection"


def test_without_privilege_postgres_signals_are_refused_not_zero(
    postgres: EmbeddedPostgres, database: str
) -> None:
    name = database.rpartition("/")[2]
    postgres.psql(f"CREATE ROLE plain_{name} LOGIN", database=name)
    with opened(database, user=f"plain_{name}") as signals:
        for signal in ("running_sessions", "longest_transaction_s", "replication_lag_s"):
            with pytest.raises(SourceRefused, match="pg_read_all_stats"):
                signals.read(signal)
        assert signals.read("lock_waits") == 0


def test_every_signal_of_mariadb_counts_others(
    mariadb: EmbeddedMariadb, mysql_database: str
) -> None:
    theirs = Sql(mysql_database)
    theirs.execute("CREATE TABLE t (id int PRIMARY KEY) ENGINE=InnoDB")
    theirs.execute("INSERT INTO t VALUES (1)")
    mariadb.sql(
        "CREATE OR REPLACE USER watcher@'%'; CREATE OR REPLACE USER plain@'%';"
        "GRANT SELECT, PROCESS, SLAVE MONITOR ON *.* TO watcher@'%';"
        "GRANT SELECT ON *.* TO plain@'%'"
    )
    root = mysql_database.partition("//")[2].partition("@")[0]
    with (
        opened(mysql_database.replace(f"{root}@", "watcher@")) as signals,
        contextlib.closing(_blocked(mysql_database)) as waiter,
    ):
        assert signals.read("log_waits") >= 0
        next(waiter)
        until(lambda: signals.read("lock_waits") == 1, what="a row lock that is waited for")
        assert signals.read("running_sessions") == 1
        until(lambda: signals.read("longest_transaction_s") >= 1, what="an old transaction")
        with pytest.raises(SourceRefused, match="does not replicate"):
            signals.read("replication_lag_s")
    with opened(mysql_database.replace(f"{root}@", "plain@")) as signals:
        for name in ("running_sessions", "longest_transaction_s"):
            with pytest.raises(SourceRefused, match="PROCESS"):
                signals.read(name)
        with pytest.raises(SourceRefused):
            signals.read("replication_lag_s")
        assert signals.query("SELECT 2") == 2.0


def _blocked(url: str) -> Iterator[None]:
    """An application's update waits for a row that another one holds, until it is closed."""
    holder, waiter = Sql(url), Sql(url)
    holder.connection.begin()
    holder.execute("UPDATE t SET id = 1 WHERE id = 1")

    def wait() -> None:
        with contextlib.suppress(pymysql.MySQLError):
            waiter.execute("UPDATE t SET id = 1 WHERE id = 1")

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        holder.connection.rollback()
        thread.join()


def test_an_endpoint_that_is_away_or_says_nothing_is_unreadable() -> None:
    with pytest.raises(SourceError, match=r"127\.0\.0\.1:9/"):
        read_http("http://127.0.0.1:9/", None)
