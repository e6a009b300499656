"""MariaDB as a benchmark's source, on a data folder that is kept."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.schema import Engine, TableSpec
from bench.sources.piping import pipe
from bench.sources.server import Address
from tests.servers.mariadb import EmbeddedMariadb

SETTINGS = {
    "innodb_buffer_pool_size": str(3 * 2**30),
    "innodb_log_file_size": str(512 * 2**20),
    "innodb_flush_log_at_trx_commit": "0",
    "innodb_doublewrite": "OFF",
    "innodb_stats_persistent": "ON",
    "performance_schema": "OFF",
    "local_infile": "ON",
    "default_time_zone": "+00:00",
    "slow_query_log": "ON",
    "long_query_time": "0",
    "log_output": "FILE",
    "thread_cache_size": "0",
}
"""Read-only work on loaded tables held in memory. Every statement's duration is logged."""

_DATABASE = "bench"
_DURATION = re.compile(rb"^# Query_time: (\d+(?:\.\d+)?) ", re.MULTILINE)
_CSV = r" FIELDS TERMINATED BY ',' OPTIONALLY ENCLOSED BY '\"' ESCAPED BY '' IGNORE 1 LINES"


class MariadbServer:
    """A ``SourceServer``."""

    engine = Engine.MARIADB
    scheme = "mysql"

    def __init__(self, server: EmbeddedMariadb, statement_log: Path) -> None:
        self._server = server
        self.statement_log = statement_log

    @property
    def address(self) -> Address:
        """Loopback, the administrator."""
        return Address(
            host="127.0.0.1",
            port=self._server.port,
            user="root",
            password=self._server.password,
            database=_DATABASE,
        )

    @property
    def pid(self) -> int:
        """The server."""
        if self._server.pid is None:
            raise RuntimeError(f"the source is gone: see {self._server.directory / 'server.log'}")
        return self._server.pid

    def version(self) -> str:
        """``SELECT version()``."""
        return self.query("SELECT version()")[0][0]

    def query(self, sql: str) -> list[list[str]]:
        """Rows of texts, by the engine's own client."""
        answer = self._server.sql(sql, database=_DATABASE)
        return [line.split("\t") for line in answer.splitlines()]

    def durations_s(self, log: bytes) -> list[float]:
        """The slow log's ``Query_time``: from the statement's arrival to its last byte sent."""
        return [float(found) for found in _DURATION.findall(log)]

    def floor_command(self, table: str, at: Address | None = None) -> list[str]:
        """The engine's client, row by row instead of the whole result."""
        options = ["--quick", "--batch", "--skip-column-names"]
        if at is not None:
            options += [f"--port={at.port}", *(["--ssl"] if at.encrypted else [])]
        return self._client(*options, f"--execute=SELECT * FROM {table}")

    def client_environ(self) -> dict[str, str]:
        """The password and where the client's libraries lie."""
        return {**self._server.install.environment, "MYSQL_PWD": self._server.password}

    def load(self, spec: TableSpec, generate: Sequence[str]) -> None:
        """LOAD DATA from standard input; lineitem comes as CSV, the others tab-separated."""
        self.query(f"DROP TABLE IF EXISTS {spec.name}")
        self.query(spec.ddl(self.engine) + " CHARACTER SET utf8mb4")
        form = _CSV if spec.name == "lineitem" else ""
        # Into an empty table without checks, rows are written in bulk and without undo.
        statement = (
            "SET SESSION unique_checks=0, foreign_key_checks=0; "
            f"LOAD DATA LOCAL INFILE '/dev/stdin' INTO TABLE {spec.name} "
            f"CHARACTER SET utf8mb4{form}"
        )
        command = self._client("--local-infile=1", f"--execute={statement}")
        pipe(generate, command, env=self.client_environ())

    def fill_from(self, spec: TableSpec, rows: int) -> None:
        """INSERT … SELECT in key order."""
        self.query(f"DROP TABLE IF EXISTS {spec.name}")
        self.query(spec.ddl(self.engine) + " CHARACTER SET utf8mb4")
        keys = ", ".join(spec.key)
        self.query(
            f"INSERT INTO {spec.name} SELECT * FROM {spec.subset_of} ORDER BY {keys} LIMIT {rows}"
        )

    def settle(self, table: str) -> None:
        """Statistics."""
        self.query(f"ANALYZE TABLE {table}")

    def table_bytes(self, table: str) -> int:
        """The clustered index with its overflow pages."""
        return int(
            self.query(
                "SELECT data_length FROM information_schema.tables "
                f"WHERE table_schema = '{_DATABASE}' AND table_name = '{table}'"
            )[0][0]
        )

    def _client(self, *arguments: str) -> list[str]:
        return [
            *(str(self._server.install.client), "--no-defaults", "--protocol=TCP"),
            *(f"--host={self.address.host}", f"--port={self.address.port}", "--user=root"),
            *("--default-character-set=utf8mb4", *arguments, _DATABASE),
        ]


@contextmanager
def mariadb_server(folder: Path, **settings: str) -> Iterator[MariadbServer]:
    """Started on ``folder`` (made when it is not there), stopped cleanly at the end.

    ``settings``: server variables over the module's own. Raises EmbeddedMariadbMissing.
    """
    where = folder / "mariadb"
    secret, log = where / "password", where / "data" / "statements.log"
    if not secret.is_file():
        shutil.rmtree(where, ignore_errors=True)
    where.parent.mkdir(parents=True, exist_ok=True)
    every = {**SETTINGS, "slow_query_log_file": str(log), **settings}
    server = EmbeddedMariadb(where, settings=every)
    if secret.is_file():
        server.password = secret.read_text()
    log.unlink(missing_ok=True)
    try:
        server.start()
        server.sql(f"CREATE DATABASE IF NOT EXISTS {_DATABASE} CHARACTER SET utf8mb4")
        secret.write_text(server.password)
        secret.chmod(0o600)
        yield MariadbServer(server, log)
    finally:
        server.stop(mode="fast")
