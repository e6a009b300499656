"""``python -m bench``: load the data, run the contest, judge the floors, print one report."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.claims import STATES, measure_claims
from bench.contenders import FLOOR, Contender, contenders
from bench.floors import judge
from bench.machine import machine_facts
from bench.peers_env import PeersEnvironment, peers_environment
from bench.render import render, write_docs
from bench.rounds import Bench, memory_point, run_rounds, say
from bench.server import SETTINGS
from bench.summary import summarise
from bench.tables import Table, first_rows, load_lineitem, load_wide
from bench.values import ClaimRate, MemoryPoint, Results, RunResult
from rivet_fleet.demo.embedded import EmbeddedPostgres, embedded_postgres

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs" / "explanation" / "benchmarks.md"
OUTPUT = ROOT / "bench-output"
WIDE_ROWS = 100_000
MEMORY_ROWS = (10_000, 100_000, 1_000_000, 10_000_000)
LOAD_WARNING = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Everything; 0 even when a floor is missed, unless ``--strict``."""
    options = _options(arguments)
    # As Ctrl-C does: servers are stopped and folders removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    load_before = os.getloadavg()[0]
    if load_before > LOAD_WARNING:
        say(f"warning: the machine is not quiet (load {load_before:.2f})")
    deadline_s = time.monotonic() + options.budget_s
    peers = peers_environment(ROOT)
    with embedded_postgres(settings=SETTINGS) as server:
        facts = machine_facts(ROOT, server, peers, load_before=load_before)
        tables, runs, memory = _extract(server, peers, options, deadline_s)
    results = _results(facts, tables, runs, memory, _claims(options), options)
    _write(results, options)
    failed = [floor for floor in results.floors if floor.passed is False]
    return 1 if failed and options.strict else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    add = parser.add_argument
    add("--scale", type=float, default=1.0, help="TPC-H scale factor; the wide table follows it")
    add("--rounds", type=int, default=3, help="medians are taken over so many rounds")
    add("--workers", default="1,2,4", help="rivet-fleet's worker counts (default 1,2,4)")
    add("--budget-s", type=float, default=1800.0, help="no round is begun that would end later")
    add("--quick", action="store_true", help="scale 0.1, one round: a look, not a measurement")
    add("--skip-contest", action="store_true", help="memory and claims only")
    add("--skip-memory", action="store_true", help="no memory by rows")
    add("--skip-claims", action="store_true", help="no claims per second")
    add("--write-docs", action="store_true", help="put the report into docs/explanation")
    add("--strict", action="store_true", help="exit 1 when a floor is missed")
    options = parser.parse_args(arguments)
    if options.quick:
        options.scale, options.rounds = min(options.scale, 0.1), 1
    return options


def _extract(
    server: EmbeddedPostgres,
    peers: PeersEnvironment,
    options: argparse.Namespace,
    deadline_s: float,
) -> tuple[list[Table], list[RunResult], list[MemoryPoint]]:
    """Load, then everything that reads the source."""
    say("loading lineitem and the wide table …")
    lineitem = load_lineitem(server, peers.tpchgen, options.scale)
    tables = [lineitem, load_wide(server, max(1, int(WIDE_ROWS * options.scale)))]
    bench = Bench(server=server, root=ROOT, environ=dict(os.environ))
    workers = [int(count) for count in options.workers.split(",")]
    runs: list[RunResult] = []
    if not options.skip_contest:
        field: list[Contender] = contenders(server, peers, workers)
        runs = run_rounds(bench, field, tables, rounds=options.rounds, deadline_s=deadline_s)
    memory = [] if options.skip_memory else _memory(bench, lineitem)
    return tables, runs, memory


def _memory(bench: Bench, lineitem: Table) -> list[MemoryPoint]:
    """10⁴, 10⁵, … rows, the last being all of lineitem."""
    points: list[MemoryPoint] = []
    for rows in MEMORY_ROWS:
        table = first_rows(bench.server, lineitem, rows)
        points.append(memory_point(bench, table))
        say(f"memory  {table.rows:>9,} rows: {points[-1].peak_rss_bytes / 2**20:.0f} MB")
        if table is lineitem:
            break
    return points


def _claims(options: argparse.Namespace) -> list[ClaimRate]:
    if options.skip_claims:
        return []
    say("claims per second …")
    return [measure_claims(ROOT, state) for state in STATES]


def _results(
    facts: dict[str, str],
    tables: Sequence[Table],
    runs: Sequence[RunResult],
    memory: Sequence[MemoryPoint],
    claims: Sequence[ClaimRate],
    options: argparse.Namespace,
) -> Results:
    ours = [run for run in runs if run.contender.startswith("rivet-fleet")]
    rounds = max((run.round for run in runs), default=0)
    return Results(
        machine={**facts, "data": f"scale {options.scale:g}", "rounds": str(rounds)},
        tables=tuple(dataclasses.asdict(table) for table in tables),
        floor_contender=FLOOR,
        runs=tuple(runs),
        summaries=summarise(runs, FLOOR),
        memory=tuple(memory),
        claims=tuple(claims),
        floors=judge(ours, memory, claims),
    )


def _write(results: Results, options: argparse.Namespace) -> None:
    """JSON with every single run, the report on standard output, the document when asked."""
    OUTPUT.mkdir(exist_ok=True)
    body = json.dumps(dataclasses.asdict(results), indent=2, ensure_ascii=False)
    (OUTPUT / "benchmark.json").write_text(body + "\n")
    report = render(results)
    (OUTPUT / "benchmark.md").write_text(report)
    print(report)
    if options.write_docs:
        write_docs(DOCS, results)
    say(f"every run: {(OUTPUT / 'benchmark.json').relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
