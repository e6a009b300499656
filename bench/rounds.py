"""The contest: every contender in turn, round after round, each run in a fresh process."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from bench.contenders import DEFAULTS_ONE_CHUNK, Contender, Job, fleet_command
from bench.process import Measured, run_measured
from bench.server import cost_since, watch
from bench.tables import Table
from bench.values import MemoryPoint, RunResult
from rivet_fleet.demo.embedded import EmbeddedPostgres

RUN_TIMEOUT_S = 900.0
_ERROR_CHARS_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where runs happen."""

    server: EmbeddedPostgres
    root: Path
    environ: dict[str, str]


def run_rounds(
    bench: Bench,
    contenders: Sequence[Contender],
    tables: Sequence[Table],
    *,
    rounds: int,
    deadline_s: float,
) -> list[RunResult]:
    """A B C, A B C, …; a round that would end after ``deadline_s`` (monotonic) is not begun.

    The first round always runs. Before it, the first contender reads every table once, unmeasured:
    all caches are warm.
    """
    for table in tables:
        run_once(bench, contenders[0], table, number=0)
    results: list[RunResult] = []
    longest_s = 0.0
    for number in range(1, rounds + 1):
        began_s = time.monotonic()
        if number > 1 and began_s + longest_s > deadline_s:
            say(f"no time for round {number}")
            break
        for table in tables:
            for contender in contenders:
                results.append(run_once(bench, contender, table, number=number))
                say(_line(results[-1]))
        longest_s = max(longest_s, time.monotonic() - began_s)
    return results


def run_once(bench: Bench, contender: Contender, table: Table, *, number: int) -> RunResult:
    """One contender, one table, one fresh folder and process; wrong row counts are errors."""
    with _job(bench, table) as job:
        command = contender.command(job)
        began = watch(bench.server)
        measured = _run(bench, command, job)
        cost = cost_since(bench.server, began)
        written = list(job.output.rglob("*.parquet"))
        error = _failure(measured)
        if contender.writes_parquet and error is None:
            error = _row_error(written, table.rows)
        return RunResult(
            contender=contender.name,
            table=table.name,
            round=number,
            rows=table.rows,
            wall_s=measured.wall_s,
            client_cpu_s=measured.cpu_s,
            server_cpu_s=cost.cpu_s,
            peak_rss_bytes=peak_rss_bytes(measured),
            coordinator_rss_bytes=measured.root.rss_bytes if contender.workers else None,
            longest_statement_s=cost.longest_statement_s,
            statements=cost.statements,
            output_bytes=sum(path.stat().st_size for path in written),
            error=error,
        )


def memory_point(bench: Bench, table: Table) -> MemoryPoint:
    """One worker, one chunk, defaults: the peak of the worker process."""
    with _job(bench, table) as job:
        command = fleet_command(job, workers=1, export=DEFAULTS_ONE_CHUNK)
        began = watch(bench.server)
        measured = _run(bench, command, job)
        cost = cost_since(bench.server, began)
        error = _failure(measured) or _row_error(list(job.output.rglob("*.parquet")), table.rows)
        return MemoryPoint(
            rows=table.rows,
            peak_rss_bytes=peak_rss_bytes(measured),
            longest_statement_s=cost.longest_statement_s,
            wall_s=measured.wall_s,
            error=error,
        )


def peak_rss_bytes(measured: Measured) -> int:
    """The largest worker where there are workers (not the coordinator), else the process."""
    workers = [p.rss_bytes for p in measured.descendants if " worker " in f"{p.command} "]
    return max(workers, default=measured.root.rss_bytes)


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _job(bench: Bench, table: Table) -> Iterator[Job]:
    folder = Path(tempfile.mkdtemp(prefix="rivet-fleet-bench-"))
    job = Job(url=bench.server.url(), table=table.name, folder=folder)
    job.output.mkdir()
    try:
        yield job
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(bench: Bench, command: Sequence[str], job: Job) -> Measured:
    return run_measured(command, folder=job.folder, env=bench.environ, timeout_s=RUN_TIMEOUT_S)


def _failure(measured: Measured) -> str | None:
    if measured.exit_code == 0:
        return None
    lines = measured.last_words.splitlines() or ["no message"]
    return f"exit code {measured.exit_code}: {lines[-1][:_ERROR_CHARS_MAX]}"


def _row_error(written: Sequence[Path], expected: int) -> str | None:
    """Count by the files' own footers: a contender that drops rows has not done the work."""
    found = sum(pq.read_metadata(path).num_rows for path in written)
    return None if found == expected else f"{found:,} rows written instead of {expected:,}"


def _line(result: RunResult) -> str:
    outcome = result.error or (
        f"{result.wall_s:6.2f} s wall, {result.client_cpu_s:6.2f} s CPU, "
        f"{result.peak_rss_bytes / 2**20:5.0f} MB, longest statement "
        f"{result.longest_statement_s:.3f} s"
    )
    return f"round {result.round}  {result.table:9} {result.contender:42} {outcome}"
