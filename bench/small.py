"""Campaigns in which everything but reading counts, beside rivet-cli's on the same configuration.

One row, many small tables, a giant among them, a thousand chunks; the commands that only ask; and
the memory of a fleet. Both programs get the same file: what one of them does not know, it does
not need. Neither is told anything about durability: what each promises is what it pays for.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.contenders import RIVET
from bench.fidelity import parquet_files
from bench.fleet import URL_VARIABLE
from bench.peers_env import PeersEnvironment
from bench.rivet_cli import RIVET_CLI, RIVET_TYPES, program
from bench.rounds import Bench, Limits, play, row_error, say
from bench.schema import Engine
from bench.sources.server import SourceServer
from bench.values import RunResult

FLEET = "rivet-fleet"
TABLES_MAX = 500
SMALL_ROWS = 1_000
GIANT_ROWS = 1_000_000
CHUNKED_ROWS = 300_000
CHUNK_ROWS = 300
FLEET_WORKERS = 4
_SCHEMA = "small"
_EXPORT = """\
  - name: {name}
    table: {table}
    {mode}
    format: parquet
    compression: zstd
    compression_level: 3
    tuning: {{profile: fast}}
    destination: {{type: local, path: "{folder}/output/{name}"}}
"""
_COLUMNS = {
    Engine.POSTGRES: "id bigint PRIMARY KEY, name text, amount numeric(12,2), at timestamptz",
    Engine.MARIADB: "id bigint PRIMARY KEY, name varchar(40), amount decimal(12,2), at datetime(6)",
}
_ROWS = {
    Engine.POSTGRES: (
        "SELECT g, 'row ' || g, g * 0.37, timestamptz '2024-01-01' + g * interval '1 minute' "
        "FROM generate_series(1, {rows}) g"
    ),
    Engine.MARIADB: (
        "SELECT seq, concat('row ', seq), seq * 0.37, '2024-01-01' + interval seq minute "
        "FROM seq_1_to_{rows}"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One line of the report. ``tables``: name → rows; ``workers``: of the fleet, and how many
    rivet-cli's threads are told (0: the case has none); ``ask``: a command that only asks."""

    name: str
    tables: tuple[tuple[str, int], ...] = ()
    workers: int = 0
    mode: str = "mode: full"
    ask: tuple[str, ...] = ()
    shared_memory: bool = False

    @property
    def rows(self) -> int:
        """How many are to be delivered."""
        return 0 if self.ask else sum(rows for _, rows in self.tables)


def _many(count: int) -> tuple[tuple[str, int], ...]:
    return tuple((f"t{number:03}", SMALL_ROWS) for number in range(count))


ONE_ROW = "one row"
HUNDRED = "100 tables of 1,000 rows"
MANY_TABLES = f"{TABLES_MAX} tables of 1,000 rows"
GIANT = "one table of 1 M rows and 99 of 1,000"
MANY_CHUNKS = "1,000 chunks of 300 rows"
HELP = "run --help"
CHECK = f"check of {TABLES_MAX} tables"
DOCTOR = f"doctor of {TABLES_MAX} tables"
MEMORY = f"1 M rows in {FLEET_WORKERS * 4} chunks, {FLEET_WORKERS} workers"
CASES = (
    Case(name=ONE_ROW, tables=(("one_row", 1),), workers=1),
    Case(name=HELP, ask=("run", "--help")),
    Case(name=HUNDRED, tables=_many(100), workers=2),
    Case(name=MANY_TABLES, tables=_many(TABLES_MAX), workers=2),
    Case(name=GIANT, tables=(*_many(99), ("giant", GIANT_ROWS)), workers=2),
    Case(
        name=MANY_CHUNKS,
        tables=(("chunked", CHUNKED_ROWS),),
        workers=2,
        mode=f"mode: chunked\n    chunk_size: {CHUNK_ROWS}\n    chunk_column: id\n    parallel: 2",
    ),
    Case(name=CHECK, tables=_many(TABLES_MAX), ask=("check",)),
    Case(name=DOCTOR, tables=_many(TABLES_MAX), ask=("doctor",)),
    Case(
        name=MEMORY,
        tables=(("giant", GIANT_ROWS),),
        workers=FLEET_WORKERS,
        mode=(
            f"mode: chunked\n    chunk_count: {FLEET_WORKERS * 4}\n    chunk_column: id\n"
            f"    parallel: {FLEET_WORKERS}"
        ),
        shared_memory=True,
    ),
)


def small(bench: Bench, peers: PeersEnvironment, limits: Limits) -> list[RunResult]:
    """Every case by both programs, in turns; a first round that is not measured warms all."""
    _fill(bench.server)
    found: list[RunResult] = []
    for case in CASES:
        for number in range(limits.rounds + 1):
            for words in (_fleet, partial(_peer, peers)):
                result = _played(bench, case, words, number)
                if number:
                    found.append(result)
                    say(_line(result))
    return found


Words = Callable[[Case, Path], Sequence[str]]


def _fleet(case: Case, config: Path) -> Sequence[str]:
    said = [sys.executable, "-m", "rivet_fleet"]
    if case.ask[-1:] == ("--help",):
        return [*said, *case.ask]
    if case.ask:
        return [*said, *case.ask, "-c", str(config)]
    return [*said, "run", "-c", str(config), "-w", str(case.workers), "--json"]


def _peer(peers: PeersEnvironment, case: Case, config: Path) -> Sequence[str]:
    said = [str(program(peers))]
    if case.ask[-1:] == ("--help",):
        return [*said, *case.ask]
    if case.ask:
        return [*said, *case.ask, "-c", str(config)]
    parallel = ["--parallel-exports"] if len(case.tables) > 1 else []
    return [*said, "run", "-c", str(config), *parallel]


def _played(bench: Bench, case: Case, words: Words, number: int) -> RunResult:
    """One program, one case, a fresh folder and process."""
    ours = words is _fleet
    blank = RunResult(
        engine=bench.server.engine.value,
        table=case.name,
        contender=FLEET if ours else RIVET_CLI,
        group=RIVET if ours else RIVET_CLI,
        round=number,
        rows=case.rows,
    )
    folder = Path(tempfile.mkdtemp(prefix="rivet-fleet-bench-"))
    try:
        (folder / "output").mkdir()
        config = configured(folder, bench.server.engine, case)
        url = bench.server.address.url(bench.server.scheme)
        return play(
            bench,
            blank,
            words(case, config),
            folder,
            environ={**bench.environ, URL_VARIABLE: url},
            arrived=None if case.ask else partial(_arrived, folder, case),
            shared_memory=case.shared_memory,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _arrived(folder: Path, case: Case) -> str | None:
    return row_error(parquet_files(folder / "output"), case.rows)


def configured(folder: Path, engine: Engine, case: Case) -> Path:
    """Write the file that both read."""
    lines = [f"source: {{type: {RIVET_TYPES[engine]}, url_env: {URL_VARIABLE}}}\n", "exports:\n"]
    for name, _ in case.tables:
        lines.append(
            _EXPORT.format(
                name=name, table=_named(engine, name), mode=case.mode, folder=folder.resolve()
            )
        )
    path = folder / "rivet.yaml"
    path.write_text("".join(lines))
    return path


def _named(engine: Engine, name: str) -> str:
    """With its schema; MariaDB's tables lie in the benchmark's own database."""
    return f"{_SCHEMA}.{name}" if engine is Engine.POSTGRES else f"bench.{_SCHEMA}_{name}"


def _fill(server: SourceServer) -> None:
    """All tables, when they are not there yet."""
    engine = server.engine
    wanted = dict(table for case in CASES for table in case.tables)
    if engine is Engine.POSTGRES:
        server.query(f"CREATE SCHEMA IF NOT EXISTS {_SCHEMA}")
    for statement in _missing(server, wanted):
        server.query(statement)


def _missing(server: SourceServer, wanted: dict[str, int]) -> Iterator[str]:
    engine = server.engine
    for name, rows in wanted.items():
        table = _named(engine, name)
        schema, _, bare = table.rpartition(".")
        there = server.query(
            "SELECT count(*) FROM information_schema.tables "
            f"WHERE table_schema = '{schema}' AND table_name = '{bare}'"
        )
        if there == [["1"]] and server.query(f"SELECT count(*) FROM {table}") == [[str(rows)]]:
            continue
        yield f"DROP TABLE IF EXISTS {table}"
        yield f"CREATE TABLE {table} ({_COLUMNS[engine]})"
        yield f"INSERT INTO {table} {_ROWS[engine].format(rows=rows)}"
        yield f"ANALYZE {'TABLE ' if engine is Engine.MARIADB else ''}{table}"


def _line(result: RunResult) -> str:
    outcome = result.error or (
        f"{result.wall_s:6.2f} s wall, {result.client_cpu_s:6.2f} s CPU, "
        f"{result.tree_rss_bytes / 2**20:5.0f} MB, {result.statements} statements"
    )
    return (
        f"round {result.round}  {result.engine:8} {result.table:38} {result.contender:12} {outcome}"
    )
