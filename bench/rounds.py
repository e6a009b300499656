"""The contest: every contender in turn, round after round, each run in a fresh process."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow.parquet as pq

from bench.contenders import RIVET, Contender
from bench.fidelity import compare, parquet_files
from bench.fleet import URL_VARIABLE, Job
from bench.process import Measured, run_measured
from bench.sources.server import LoadedTable, SourceServer, cost_since, watch
from bench.values import Fidelity, RunResult

RUN_TIMEOUT_S = 900.0
_ERROR_CHARS_MAX = 200
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where runs happen."""

    server: SourceServer
    environ: Mapping[str, str]

    def environ_of(self, contender: Contender) -> dict[str, str]:
        """What a contender's process sees: the server's URL, unless it has its own way there, and
        what it needs itself."""
        url = self.server.address.url(self.server.scheme)
        return {**self.environ, URL_VARIABLE: url, **contender.environ}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many rounds, and until when (monotonic) one may still be begun."""

    rounds: int
    deadline_s: float


@dataclass(slots=True, kw_only=True)
class Contest:
    """What a contest found out so far."""

    runs: list[RunResult] = field(default_factory=list)
    fidelity: list[Fidelity] = field(default_factory=list)


Inspect = Callable[[Job, RunResult], None]
"""Looks at a finished job before its folder is removed."""


def run_rounds(
    bench: Bench,
    contenders: Sequence[Contender],
    table: LoadedTable,
    limits: Limits,
    inspect: Inspect | None = None,
) -> Contest:
    """A B C, A B C, …; a round that would end after the deadline is not begun.

    The first round always runs. Before it, the first contender reads the table once, unmeasured:
    all caches are warm. What a contender's first files hold is compared with the source.
    """
    run_once(bench, contenders[0], table, number=0)
    contest = Contest()
    longest_s = 0.0
    for number in range(1, limits.rounds + 1):
        began_s = time.monotonic()
        if number > 1 and began_s + longest_s > limits.deadline_s:
            say(f"no time for round {number}")
            break
        for contender in contenders:
            if number <= (contender.rounds_max or limits.rounds):
                _take_part(bench, contender, table, number, contest, inspect)
        longest_s = max(longest_s, time.monotonic() - began_s)
    return contest


def _take_part(
    bench: Bench,
    contender: Contender,
    table: LoadedTable,
    number: int,
    contest: Contest,
    inspect: Inspect | None,
) -> None:
    wrong: list[str] = []

    def look(job: Job, result: RunResult) -> None:
        if number == 1 and contender.writes_parquet and result.error is None:
            files = parquet_files(job.output)
            found = compare(contender.name, bench.server.engine, table, files)
            contest.fidelity.append(found)
            wrong.extend((*found.values, *found.unreadable))
        if inspect is not None:
            inspect(job, result)

    result = run_once(bench, contender, table, number=number, inspect=look)
    if wrong and contender.group == RIVET:
        # A peer's changes are noted; ours are an error, however fast it was.
        result = replace(result, error=f"content differs from the source: {', '.join(wrong)}")
    contest.runs.append(result)
    say(_line(result))


def run_once(
    bench: Bench,
    contender: Contender,
    table: LoadedTable,
    *,
    number: int,
    inspect: Inspect | None = None,
) -> RunResult:
    """One contender, one table, one fresh folder and process; wrong row counts are errors."""
    blank = RunResult(
        engine=bench.server.engine.value,
        table=table.spec.name,
        contender=contender.name,
        group=contender.group,
        round=number,
        rows=table.rows,
    )
    if contender.unavailable is not None:
        return replace(blank, error=f"not available: {contender.unavailable}")
    with _job(bench, table) as job:

        def arrived() -> str | None:
            if contender.fetch is not None:
                contender.fetch(job)
            return row_error(parquet_files(job.output), table.rows)

        result = play(
            bench,
            blank,
            contender.command(job),
            job.folder,
            environ=bench.environ_of(contender),
            arrived=arrived if contender.writes_parquet else None,
        )
        size_bytes = sum(path.stat().st_size for path in parquet_files(job.output))
        result = replace(result, output_bytes=size_bytes)
        if inspect is not None:
            inspect(job, result)
        return result


def play(
    bench: Bench,
    blank: RunResult,
    command: Sequence[str],
    folder: Path,
    *,
    environ: Mapping[str, str],
    arrived: Callable[[], str | None] | None,
    shared_memory: bool = False,
) -> RunResult:
    """``blank`` with what the command cost itself and the server; ``arrived`` looks at a good
    run's files and says what is wrong with them. ``shared_memory``: see ``run_measured``."""
    began = watch(bench.server)
    measured = run_measured(
        command, folder=folder, env=environ, timeout_s=RUN_TIMEOUT_S, shared_memory=shared_memory
    )
    cost = cost_since(bench.server, began)
    error = _failure(measured, secret=bench.server.address.password)
    if error is None and arrived is not None:
        error = arrived()
    return replace(
        blank,
        wall_s=measured.wall_s,
        client_cpu_s=measured.cpu_s,
        server_cpu_s=cost.cpu_s,
        peak_rss_bytes=peak_rss_bytes(measured),
        tree_rss_bytes=measured.tree_rss_bytes,
        tree_pss_bytes=measured.tree_pss_bytes,
        longest_statement_s=cost.longest_statement_s,
        statements=cost.statements,
        error=error,
    )


def peak_rss_bytes(measured: Measured) -> int:
    """The largest worker where there are workers (not the coordinator), else the largest."""
    workers = [p.rss_bytes for p in measured.descendants if " worker " in f"{p.command} "]
    everybody = [measured.root.rss_bytes, *(p.rss_bytes for p in measured.descendants)]
    return max(workers or everybody)


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _job(bench: Bench, table: LoadedTable) -> Iterator[Job]:
    folder = Path(tempfile.mkdtemp(prefix="rivet-fleet-bench-"))
    job = Job(engine=bench.server.engine, spec=table.spec, folder=folder)
    job.output.mkdir()
    try:
        yield job
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _failure(measured: Measured, *, secret: str) -> str | None:
    if measured.exit_code == 0:
        return None
    last = telling_line(measured.last_words)
    last = last.replace(secret, "***") if secret else last
    return f"exit code {measured.exit_code}: {last[:_ERROR_CHARS_MAX]}"


def telling_line(text: str) -> str:
    """The last line that speaks of an error, else the last one; without a terminal's colours."""
    lines = [line.strip() for line in _COLOURS.sub("", text).splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower()]
    return next(reversed(telling or lines), "no message")


def row_error(written: Sequence[Path], expected: int) -> str | None:
    """Count by the files' own footers: a contender that drops rows has not done the work."""
    found = sum(pq.read_metadata(path).num_rows for path in written)
    return None if found == expected else f"{found:,} rows written instead of {expected:,}"


def _line(result: RunResult) -> str:
    outcome = result.error or (
        f"{result.wall_s:6.2f} s wall, {result.client_cpu_s:6.2f} s CPU, "
        f"{result.peak_rss_bytes / 2**20:5.0f} MB, longest statement "
        f"{result.longest_statement_s:.3f} s"
    )
    where = f"{result.engine:8} {result.table:10}"
    return f"round {result.round}  {where} {result.contender:40} {outcome}"
