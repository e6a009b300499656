"""The parts of the benchmark beside the contest: chunks, servo, memory, start-up."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial

from bench.contenders import RIVET, Contender
from bench.fleet import ONE_CHUNK, ONE_CHUNK_FAST, Job, chunk_times, chunks, run_command
from bench.rounds import Bench, Contest, Limits, run_once, run_rounds, say
from bench.sources.server import LoadedTable
from bench.tables import first_rows
from bench.values import Lifecycle, MemoryPoint, RunResult, Startup

MANY_CHUNKS = 100
ONE, MANY = "1 chunk", f"{MANY_CHUNKS} chunks"
PAGES, STATEMENT = "pages of the default target", "one unbounded statement"
MEMORY_ROWS = {
    "events": (10_000, 100_000, 1_000_000, 10_000_000),
    "wide": (100, 1_000, 10_000, 100_000),
}
_HELP = ("-m", "rivet_fleet", "--help")
_HELP_RUNS = 11


def many_chunks(
    bench: Bench, table: LoadedTable, limits: Limits
) -> tuple[Contest, list[Lifecycle]]:
    """The same table as one chunk and as a hundred, one worker, in turns."""
    lifecycles: list[Lifecycle] = []

    def look(job: Job, result: RunResult) -> None:
        count = MANY_CHUNKS if result.contender == MANY else 1
        if result.error is None and result.round > 0:
            times = chunk_times(job, bench.environ)
            lifecycles.append(lifecycle(times, result, chunk_count=count))

    contest = run_rounds(
        bench,
        [_variant(ONE, how=chunks(1)), _variant(MANY, how=chunks(MANY_CHUNKS))],
        table,
        limits,
        inspect=look,
    )
    return contest, lifecycles


def lifecycle(
    times: Mapping[str, Sequence[float]], result: RunResult, *, chunk_count: int
) -> Lifecycle:
    """One worker's chunks keep their order: n-th claim, n-th staging, n-th completion. Pure."""
    claimed, completed = times["chunk.claimed"], times["chunk.completed"]
    staged = times.get("part.staged", ())
    reading_s, read_until = 0.0, claimed[0]
    for begun, ended in zip(claimed, completed, strict=True):
        # A chunk without rows stages nothing; with several parts, the last before the completion.
        done = max((moment for moment in staged if begun <= moment <= ended), default=begun)
        # The next chunk is read while this one is delivered: no moment counts twice.
        reading_s += max(0.0, done - max(begun, read_until))
        read_until = max(read_until, done)
    whole_s = completed[-1] - claimed[0]
    return Lifecycle(
        engine=result.engine,
        table=result.table,
        chunks=chunk_count,
        round=result.round,
        wall_s=result.wall_s,
        reading_s=reading_s,
        protocol_s=whole_s - reading_s,
    )


def servo(bench: Bench, table: LoadedTable, limits: Limits) -> Contest:
    """The same table in pages of the default target and in one statement, one chunk each."""
    return run_rounds(
        bench,
        [
            _variant(STATEMENT, how=ONE_CHUNK_FAST, query=True),
            _variant(PAGES, how=ONE_CHUNK_FAST),
        ],
        table,
        limits,
    )


def _variant(name: str, *, how: str, query: bool = False) -> Contender:
    command = partial(run_command, workers=1, how=how, query=query)
    return Contender(name=name, group=RIVET, command=command)


def memory(bench: Bench, table: LoadedTable) -> list[MemoryPoint]:
    """One worker, one chunk, everything at its default, over ever more rows."""
    points: list[MemoryPoint] = []
    for rows in MEMORY_ROWS[table.spec.name]:
        some = first_rows(bench.server, table, rows)
        run = run_once(bench, _variant("memory", how=ONE_CHUNK), some, number=1)
        points.append(
            MemoryPoint(
                engine=run.engine,
                table=table.spec.name,
                rows=some.rows,
                peak_rss_bytes=run.peak_rss_bytes,
                tree_rss_bytes=run.tree_rss_bytes,
                longest_statement_s=run.longest_statement_s,
                wall_s=run.wall_s,
                error=run.error,
            )
        )
        worker = run.error or f"{run.peak_rss_bytes / 2**20:.0f} MB"
        say(f"memory   {run.engine:8} {table.spec.name:10} {some.rows:>10,} rows: {worker}")
        if some is table:
            break
    return points


def startup(environ: Mapping[str, str]) -> Startup:
    """``rivet-fleet --help`` again and again; the first, which compiles modules, is left out."""
    walls_s: list[float] = []
    for _ in range(_HELP_RUNS):
        began_s = time.monotonic()
        subprocess.run(
            [sys.executable, *_HELP], check=True, stdout=subprocess.DEVNULL, env=dict(environ)
        )
        walls_s.append(time.monotonic() - began_s)
    return Startup(command="rivet-fleet --help", wall_s=tuple(walls_s[1:]))
