"""PostgreSQL as a benchmark's source: the embedded one, on a data folder that is kept."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.schema import Engine, TableSpec
from bench.sources.piping import pipe
from bench.sources.server import Address
from rivet_fleet.demo.embedded import EmbeddedPostgres

SETTINGS = {
    "fsync": "off",
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "autovacuum": "off",
    "log_min_duration_statement": "0",
}
"""Read-only work on loaded tables: durability and vacuum play no part. Every statement's
duration is logged, so that the longest is known exactly and not sampled."""

_MAJOR = 18
_USER = "postgres"
_SEPARATOR = "\x1f"
_DURATION = re.compile(rb"duration: (\d+(?:\.\d+)?) ms")


class PostgresServer:
    """A ``SourceServer``."""

    engine = Engine.POSTGRES
    scheme = "postgresql"

    def __init__(self, server: EmbeddedPostgres) -> None:
        self._server = server

    @property
    def address(self) -> Address:
        """Loopback, trusted."""
        return Address(
            host="127.0.0.1",
            port=self._server.port,
            user=_USER,
            password="",
            database="postgres",
        )

    @property
    def pid(self) -> int:
        """The postmaster."""
        if self._server.pid is None:
            raise RuntimeError(f"the source server is gone: see {self.statement_log}")
        return self._server.pid

    @property
    def statement_log(self) -> Path:
        """The server's own log."""
        return self._server.directory / "server.log"

    def version(self) -> str:
        """``SHOW server_version``."""
        return self.query("SHOW server_version")[0][0]

    def query(self, sql: str) -> list[list[str]]:
        """Rows of texts, by psql."""
        answer = self._server.psql(f"\\pset fieldsep '\\x1f'\n{sql};")
        return [line.split(_SEPARATOR) for line in answer.splitlines()]

    def durations_s(self, log: bytes) -> list[float]:
        """Parse and bind steps count by themselves."""
        return [float(found) / 1000.0 for found in _DURATION.findall(log)]

    def floor_command(self, table: str, at: Address | None = None) -> list[str]:
        """psql, binary COPY."""
        return self._psql(f"COPY {table} TO STDOUT (FORMAT binary)", at)

    def client_environ(self) -> dict[str, str]:
        """Nothing: the server trusts."""
        return {}

    def load(self, spec: TableSpec, generate: Sequence[str]) -> None:
        """COPY from standard input; lineitem comes as CSV, the others in the text format."""
        self.query(f"DROP TABLE IF EXISTS {spec.name}")
        self.query(spec.ddl(self.engine))
        form = " (FORMAT csv, HEADER)" if spec.name == "lineitem" else ""
        pipe(generate, self._psql(f"COPY {spec.name} FROM STDIN{form}"))

    def fill_from(self, spec: TableSpec, rows: int) -> None:
        """INSERT … SELECT in key order."""
        self.query(f"DROP TABLE IF EXISTS {spec.name}")
        self.query(spec.ddl(self.engine))
        keys = ", ".join(spec.key)
        self.query(
            f"INSERT INTO {spec.name} SELECT * FROM {spec.subset_of} ORDER BY {keys} LIMIT {rows}"
        )

    def settle(self, table: str) -> None:
        """Vacuumed and analyzed: no contender pays for hint bits or bad statistics."""
        self.query(f"VACUUM (ANALYZE, FREEZE) {table}")
        self.query("CHECKPOINT")

    def table_bytes(self, table: str) -> int:
        """``pg_table_size``: TOAST, but no indexes."""
        return int(self.query(f"SELECT pg_table_size('{table}')")[0][0])

    def _psql(self, command: str, at: Address | None = None) -> list[str]:
        url = at.url(self.scheme) if at else self._server.url()
        return [
            *(str(self._server.bin / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1"),
            *("-c", command, url),
        ]


@contextmanager
def postgres_server(folder: Path) -> Iterator[PostgresServer]:
    """Started on ``folder`` (made when it is not there), stopped cleanly at the end."""
    where = folder / f"postgres-{_MAJOR}"
    if not (where / "data" / "PG_VERSION").is_file():
        shutil.rmtree(where, ignore_errors=True)
    where.parent.mkdir(parents=True, exist_ok=True)
    server = EmbeddedPostgres(where, major=_MAJOR, settings=SETTINGS)
    (where / "server.log").unlink(missing_ok=True)
    # A lock file of a server that was killed: its process is long gone.
    _forget_dead(where / "data" / "postmaster.pid")
    server.start()
    try:
        yield PostgresServer(server)
    finally:
        server.stop(mode="fast")


def _forget_dead(lock: Path) -> None:
    if not lock.is_file():
        return
    pid = int(lock.read_text().split()[0])
    if Path(f"/proc/{pid}").exists() and pid != os.getpid():
        raise RuntimeError(f"process {pid} still serves {lock.parent}: end it first")
    lock.unlink()
