"""The seam to a source server, and what a run did to it by the server's own account."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

from bench.schema import Engine, TableSpec

_SETTLE_TIMEOUT_S = 10.0
_POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a server listens, and who may read."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    encrypted: bool = False

    def url(self, scheme: str) -> str:
        """``scheme://user:password@host:port/database``, and that it is to be encrypted."""
        secret = f":{self.password}" if self.password else ""
        query = f"?{_ENCRYPTED[scheme]}" if self.encrypted else ""
        return f"{scheme}://{self.user}{secret}@{self.host}:{self.port}/{self.database}{query}"


_ENCRYPTED = {"postgresql": "sslmode=require", "mysql": "ssl-mode=REQUIRED"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedTable:
    """One filled table. ``source_bytes`` is its size in the source without secondary indexes;
    ``checks`` are the source's own answers, one row of texts in the order of the checks."""

    spec: TableSpec
    rows: int
    source_bytes: int
    checks: tuple[str, ...]


class SourceServer(Protocol):
    """One started server. Nobody but the benchmark uses it."""

    @property
    def engine(self) -> Engine:
        """Which engine it is."""
        ...

    @property
    def address(self) -> Address:
        """Where it listens."""
        ...

    @property
    def scheme(self) -> str:
        """Of its URLs."""
        ...

    @property
    def pid(self) -> int:
        """Its main process. Raises RuntimeError when it is gone."""
        ...

    @property
    def statement_log(self) -> Path:
        """Where it writes the duration of every statement."""
        ...

    def version(self) -> str:
        """As it says itself."""
        ...

    def query(self, sql: str) -> list[list[str]]:
        """Rows of texts. Raises RuntimeError."""
        ...

    def durations_s(self, log: bytes) -> list[float]:
        """The statement durations in a piece of ``statement_log``, in seconds."""
        ...

    def floor_command(self, table: str, at: Address | None = None) -> list[str]:
        """The engine's own client, reading a whole table as fast as the wire allows; ``at``: by
        another way than its own address."""
        ...

    def client_environ(self) -> dict[str, str]:
        """Variables that ``floor_command`` needs."""
        ...

    def load(self, spec: TableSpec, generate: Sequence[str]) -> None:
        """Create the table and fill it from the command's output. Raises RuntimeError."""
        ...

    def fill_from(self, spec: TableSpec, rows: int) -> None:
        """Create the table from the first rows of the one it is a subset of."""
        ...

    def settle(self, table: str) -> None:
        """Statistics and whatever else the engine wants after a load."""
        ...

    def table_bytes(self, table: str) -> int:
        """Its size on disk, out-of-line values included, secondary indexes not."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Where the server stood when a run began."""

    log_offset: int
    cpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCost:
    """What happened since a ``Watch``."""

    cpu_s: float
    statements: int
    longest_statement_s: float


def watch(server: SourceServer) -> Watch:
    """Begin: nobody else may use the server until ``cost_since``."""
    return Watch(log_offset=server.statement_log.stat().st_size, cpu_s=server_cpu_s(server.pid))


def cost_since(server: SourceServer, began: Watch) -> ServerCost:
    """End: waits until the run's connections are gone, so that their CPU is counted."""
    deadline_s = time.monotonic() + _SETTLE_TIMEOUT_S
    while _connected(server.pid) and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)
    with server.statement_log.open("rb") as log:
        log.seek(began.log_offset)
        durations_s = server.durations_s(log.read())
    return ServerCost(
        cpu_s=server_cpu_s(server.pid) - began.cpu_s,
        statements=len(durations_s),
        longest_statement_s=max(durations_s, default=0.0),
    )


def _processes(pid: int) -> list[psutil.Process]:
    main = psutil.Process(pid)
    return [main, *main.children()]


def _connected(pid: int) -> bool:
    """True while the server holds a client's connection, closed by the client or not."""
    for process in _processes(pid):
        try:
            found = process.net_connections(kind="tcp")
        except psutil.NoSuchProcess:
            continue
        if any(connection.status != psutil.CONN_LISTEN for connection in found):
            return True
    return False


def server_cpu_s(pid: int) -> float:
    """User and system time of the server, of its processes that ended and of those alive."""
    main, *children = _processes(pid)
    times = main.cpu_times()
    total_s = times.user + times.system + times.children_user + times.children_system
    for child in children:
        try:
            own = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total_s += own.user + own.system
    return float(total_s)
