"""One campaign under chaos: its configuration, its processes, and how it must end."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg

from chaos.judge import OracleProcess
from chaos.processes import (
    ChaosTimeout,
    Coordinator,
    is_stopped,
    kill,
    start_coordinator,
    until,
    workers_of,
)
from chaos.source_data import SourceTable
from chaos.stores import ChaosStore, own_place
from rivet_fleet.persistence.dialects import holder_pid

CAMPAIGN_ID = "chaos"
_operating = threading.Lock()
_LOG_SHOWN = 6000
_NOT_IDLE = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND state <> 'idle' AND client_port = ANY('{ports}')
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How the campaign is cut and how impatient it is."""

    chunk_count: int = 60
    workers: int = 2
    lease_ttl_s: float = 2.0
    drain_grace_s: float = 5.0
    attempts_max: int = 100
    throttle_ms: float = 0.0
    batch_size: int | None = None
    verify: str = "size"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A row of ``chunk_task``, as far as chaos is concerned."""

    export_name: str
    chunk_index: int
    status: str
    attempts: int
    fence: int


@dataclass(slots=True, kw_only=True)
class Campaign:
    """One campaign's folder, configuration and processes. Close it, whatever happened."""

    folder: Path
    engine: str
    source_url: str
    state_url: str
    tables: Sequence[SourceTable]
    digests: Mapping[str, Path]
    oracle: OracleProcess
    shape: Shape = field(default_factory=Shape)
    replay: str = ""
    store: ChaosStore | None = None
    """Where it delivers to; None: to a folder."""
    _place: str = field(default_factory=own_place)
    coordinators: list[Coordinator] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(self._config_text())
        for table in self.tables if self.store is None else ():
            self.oracle.watch(self.prefix(table.name))

    @property
    def config(self) -> Path:
        """The configuration file; its path is in every process's command line."""
        return self.folder / "chaos.yaml"

    def prefix(self, table: str) -> Path:
        """The destination folder of one table; of a store what was fetched of it last."""
        return self.folder / "out" / table

    def _below(self, table: str) -> str:
        return f"{self._place}/{table}"

    def start(
        self,
        *,
        armed: str = "",
        command: str = "run",
        host_id: str | None = None,
        arguments: Sequence[str] = (),
    ) -> Coordinator:
        """A coordinator process. ``armed`` as RIVET_FLEET_TEST_KILL understands it."""
        environment = {"RIVET_FLEET_TEST_KILL": armed, "RIVET_FLEET_TESTING": "1"}
        environment |= dict(self.store.variables) if self.store is not None else {}
        if host_id is not None:
            environment["RIVET_FLEET_TEST_HOST_ID"] = host_id
        coordinator = start_coordinator(
            self.config,
            self.folder / f"coordinator-{len(self.coordinators) + 1}.log",
            arguments=[
                *("--log-level", "info", command),
                *("--config", str(self.config), "--campaign-id", CAMPAIGN_ID),
                *arguments,
            ],
            environment=environment,
        )
        self.coordinators.append(coordinator)
        return coordinator

    def run_to_end(
        self,
        *,
        armed: str = "",
        provoke: Callable[[Campaign, Coordinator], None] | None = None,
        deadline_s: float = 60.0,
        starts_max: int = 6,
        wanted: int = 0,
    ) -> list[int]:
        """Start coordinators until one ends with the ``wanted`` code; all exit codes.

        ``provoke`` is called once, right after the first start. Raises ChaosTimeout.
        """
        end_s = time.monotonic() + deadline_s
        codes: list[int] = []
        while not codes or codes[-1] != wanted:
            if len(codes) == starts_max:
                raise ChaosTimeout(f"no success after {starts_max} starts: exit codes {codes}")
            coordinator = self.start(armed=armed)
            if provoke is not None and not codes:
                provoke(self, coordinator)
            codes.append(coordinator.wait(max(0.1, end_s - time.monotonic())))
        return codes

    def expect_exactly_once(self) -> dict[str, dict[str, Any]]:
        """The oracle's verdict over every table; raises AssertionError with its findings."""
        self._fetch()
        verdicts = {
            table.name: self.oracle.judge(self.prefix(table.name), self.digests[table.name])
            for table in self.tables
        }
        bad = {name: v["failures"] for name, v in verdicts.items() if not v["ok"]}
        assert not bad, f"the oracle refuses: {json.dumps(bad, indent=1)}"
        return verdicts

    def _fetch(self) -> None:
        """What is visible in a store now."""
        if self.store is not None:
            for table in self.tables:
                self.store.fetch(self._below(table.name), self.prefix(table.name))

    def expect_tidy(self) -> None:
        """After a sweep nothing is staged any more, and no worker is left."""
        self.operate("gc", "--min-age-s", "0")
        self._fetch()
        left = [p for p in (self.folder / "out").rglob(".staging/**/*") if p.is_file()]
        assert not left, f"staged files nobody swept: {left}"
        if self.store is not None:
            uploads = self.store.staged(self._place)
            assert not uploads, f"uploads nobody swept: {uploads}"
        self.expect_no_workers()

    def lose_staged(self) -> None:
        """Delete behind everybody's back what is staged, as a lifecycle rule does."""
        if self.store is not None:
            self.store.lose_staged(self._place)
        for staged in (self.folder / "out").rglob(".staging/**/*.parquet.*"):
            staged.unlink(missing_ok=True)

    def expect_no_workers(self, deadline_s: float = 30.0) -> None:
        """No worker process of this campaign is left."""
        until(lambda: not workers_of(self.config), what="all workers gone", deadline_s=deadline_s)

    def expect_completed(self) -> list[Task]:
        """Every task is completed, and the visible files bear exactly the ledger's fences."""
        tasks = self.tasks()
        assert tasks and {t.status for t in tasks} == {"completed"}, tasks
        assert all(t.attempts >= 1 and t.fence >= t.attempts for t in tasks), tasks
        named = {(p.name.rpartition("-f")[0], p.stem.rpartition("-f")[2]) for p in self.parts()}
        known = {f"{t.export_name}-c{t.chunk_index:06d}": str(t.fence) for t in tasks}
        for chunk, fence in named:
            assert known[chunk.rpartition("-p")[0]] == fence, f"{chunk} is visible with f{fence}"
        return tasks

    def parts(self) -> list[Path]:
        """Every visible part."""
        return sorted((self.folder / "out").glob("*/*/*.parquet"))

    def tasks(self) -> list[Task]:
        """The task table, read beside the program."""
        rows = self.query(
            "SELECT export_name, chunk_index, status, attempts, fence FROM chunk_task "
            "ORDER BY export_name, chunk_index"
        )
        names = ("export_name", "chunk_index", "status", "attempts", "fence")
        return [Task(**dict(zip(names, row, strict=True))) for row in rows]

    def events(self) -> list[tuple[float, str, str]]:
        """(time, event, message) of the journal, by the state database's clock."""
        return [
            (float(at_s), str(event), str(message))
            for at_s, event, message in self.query(
                "SELECT at_s, event, message FROM run_journal ORDER BY journal_id"
            )
        ]

    def pause(self, worker: psutil.Process) -> None:
        """Stop it between its transactions with the state: within one it would stop everybody
        else, too, who then waits for a lock and does nothing that could be looked at."""

        def paused_outside() -> bool:
            kill(worker, signal.SIGSTOP)
            until(lambda: is_stopped(worker), what=f"worker {worker.pid} is paused")
            if not self._is_in_state(worker.pid):
                return True
            kill(worker, signal.SIGCONT)
            return False

        until(paused_outside, what=f"worker {worker.pid} is paused outside the state")

    def _is_in_state(self, paused_pid: int) -> bool:
        if self.state_url.startswith("sqlite:///"):
            path = Path(self.state_url.removeprefix("sqlite:///"))
            return holder_pid(path.with_name(path.name + ".lock")) == paused_pid
        ports = {each.laddr.port for each in psutil.Process(paused_pid).net_connections("tcp")}
        return bool(self.query(_NOT_IDLE.replace("ports", ",".join(map(str, ports)))))

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows from the state database; empty while its tables are not there yet."""
        if self.state_url.startswith("sqlite:///"):
            path = self.state_url.removeprefix("sqlite:///")
            with contextlib.closing(sqlite3.connect(path, timeout=10)) as database:
                try:
                    return database.execute(sql).fetchall()
                except sqlite3.OperationalError:
                    return []
        with psycopg.connect(self.state_url, autocommit=True) as connection:
            try:
                return connection.execute(sql.encode()).fetchall()
            except psycopg.errors.UndefinedTable:
                return []

    def operate(self, command: str, *arguments: str) -> str:
        """An operator's verb, in this process: the commands hold no logic of their own."""
        from rivet_fleet.cli.main import cli

        output = io.StringIO()
        variables = self.store.variables if self.store is not None else {}
        with _operating, _environment(variables), contextlib.redirect_stdout(output):
            cli.main(
                args=[
                    *("--log-level", "error", command),
                    *("--config", str(self.config), "--campaign-id", CAMPAIGN_ID),
                    *arguments,
                ],
                prog_name="rivet-fleet",
                standalone_mode=False,
            )
        return output.getvalue()

    def logs(self) -> str:
        """The tails of every log, for a failure's message."""
        told = [f"replay: {self.replay}"] if self.replay else []
        for path in sorted(self.folder.rglob("*.log")):
            tail = path.read_bytes()[-_LOG_SHOWN:].decode(errors="replace")
            told.append(f"==> {path}\n{tail}")
        return "\n".join(told)

    def said(self, event: str, *, pid: int | None = None) -> bool:
        """A process of this campaign, or the worker ``pid`` itself, has logged ``event``."""
        lines = [line for path in self.folder.rglob("*.log") for line in _lines(path)]
        if pid is None:
            return any(event in line for line in lines)
        found = (re.search(rf"\bworker_id=(\S+) pid={pid}\b", line) for line in lines)
        worker_id = next((match[1] for match in found if match), None)
        return worker_id is not None and any(event in line and worker_id in line for line in lines)

    def close(self) -> None:
        """Kill, by their ids, whatever of this campaign still runs."""
        for coordinator in self.coordinators:
            coordinator.signal(signal.SIGKILL)
            coordinator.process.wait()
        for process in workers_of(self.config):
            kill(process)

    def remove(self) -> None:
        """Forget the files of a campaign that ended well."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _config_text(self) -> str:
        shape = self.shape
        batch = "" if shape.batch_size is None else f", batch_size: {shape.batch_size}"
        head = f"""\
campaign: {{name: chaos, prove: all, workers: {shape.workers}, lease_ttl_s: {shape.lease_ttl_s},
  drain_grace_s: {shape.drain_grace_s}, max_chunk_attempts: {shape.attempts_max}}}
state: {{url: "{self.state_url}", namespace: default}}
spool_dir: {self.folder / "spool"}
source:
  type: {self.engine}
  url: {self.source_url}
  tuning: {{profile: fast, retry_backoff_ms: 20, max_retries: 10,
    throttle_ms: {shape.throttle_ms}{batch}}}
exports:
"""
        exports = [
            f"  - {{name: {t.name}, table: {t.name}, {t.read}, "
            f"chunk_count: {shape.chunk_count}, format: parquet, verify: {shape.verify}, "
            f"destination: {self._destination(t.name)}}}\n"
            for t in self.tables
        ]
        return head + "".join(exports)

    def _destination(self, table: str) -> str:
        if self.store is not None:
            return self.store.block(self._below(table))
        return f"{{type: local, path: {self.prefix(table)}}}"


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Of this process, for the length of a block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, text in before.items():
            os.environ.pop(name)
            if text is not None:
                os.environ[name] = text


def _lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()
