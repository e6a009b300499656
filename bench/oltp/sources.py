"""The application's database on both engines: durable, small, with one big table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rivet_fleet.demo.embedded import embedded_postgres
from tests.servers.mariadb import embedded_mariadb

ACCOUNTS = 50_000
HISTORY = 400_000
ENGINES = ("postgres", "mariadb")
_POSTGRES = f"""
CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL);
INSERT INTO account SELECT i, 0 FROM generate_series(1, {ACCOUNTS}) i;
CREATE TABLE movement (id bigserial PRIMARY KEY, account int NOT NULL, amount int NOT NULL);
CREATE TABLE history (id int PRIMARY KEY, note text NOT NULL, at timestamptz NOT NULL);
INSERT INTO history SELECT i, repeat(md5(i::text), 5), now() FROM generate_series(1, {HISTORY}) i;
CREATE ROLE extractor LOGIN IN ROLE pg_monitor;
GRANT SELECT ON history TO extractor;
VACUUM ANALYZE;
"""
_MARIADB = f"""
CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL);
INSERT INTO account SELECT seq, 0 FROM seq_1_to_{ACCOUNTS};
CREATE TABLE movement (id bigint AUTO_INCREMENT PRIMARY KEY, account int NOT NULL,
    amount int NOT NULL);
CREATE TABLE history (id int PRIMARY KEY, note text NOT NULL, at datetime NOT NULL);
INSERT INTO history SELECT seq, REPEAT(MD5(seq), 5), '2026-01-01' FROM seq_1_to_{HISTORY};
CREATE USER extractor;
GRANT SELECT ON oltp.history TO extractor;
GRANT PROCESS ON *.* TO extractor;
ANALYZE TABLE history;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """A running server: the URLs of the application's user and of the extraction's, its process."""

    application_url: str
    extraction_url: str
    pid: int


@contextmanager
def database(engine: str) -> Iterator[Database]:
    """Started, filled, and stopped at the end. Raises RuntimeError when it did not start."""
    if engine == "postgres":
        with embedded_postgres(settings={"max_wal_size": "2GB"}) as postgres:
            url = postgres.create_database("oltp")
            postgres.psql(_POSTGRES, database="oltp")
            yield _database(url, postgres.url("oltp", user="extractor"), postgres.pid)
    else:
        with embedded_mariadb(settings={"innodb_flush_log_at_trx_commit": "1"}) as mariadb:
            url = mariadb.create_database("oltp")
            mariadb.sql(_MARIADB, database="oltp")
            yield _database(url, mariadb.url("oltp", user="extractor"), mariadb.pid)


def _database(application_url: str, extraction_url: str, pid: int | None) -> Database:
    if pid is None:
        raise RuntimeError("the server is gone")
    return Database(application_url=application_url, extraction_url=extraction_url, pid=pid)
