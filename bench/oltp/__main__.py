"""Measure what the application feels, with and without us, protected and not."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from bench.machine import machine_facts, moment_facts
from bench.oltp.arms import ALONE, ARMS, Arm, Goal
from bench.oltp.figures import Window, alone_p95_ms
from bench.oltp.gauge import Gauge, endpoint
from bench.oltp.report import Measured, Run, report
from bench.oltp.sources import ENGINES, HISTORY, database
from bench.oltp.stream import Load
from bench.oltp.window import Place, measure
from bench.render import replace_between_markers

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "explanation" / "protection-figures.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """All rounds of all ways on both engines, interleaved. Exit code 1 when a window failed."""
    options = _options(arguments)
    load = Load(
        processes=options.processes,
        rate=options.rate,
        lead_s=options.lead,
        seconds=options.seconds,
    )
    load_before, began_s = os.getloadavg()[0], time.monotonic()
    engines = options.engine or list(ENGINES)
    measured = {}
    for number, engine in enumerate(engines, start=1):
        # Each engine has its share of the time; what is left over goes to the next one.
        until_s = began_s + 60 * options.minutes * number / len(engines)
        measured[engine] = _engine(engine, load, options.rounds, until_s)
    run = Run(
        command=" ".join(["python -m bench.oltp", *(arguments or sys.argv[1:])]),
        load=load,
        took_s=time.monotonic() - began_s,
        facts={**machine_facts(), **moment_facts(ROOT, load_before=load_before)},
    )
    text = report(run, measured)
    print(text)
    if options.write_docs:
        DOCS.write_text(replace_between_markers(DOCS.read_text(encoding="utf-8"), text))
    return 1 if any(found.failures for found in measured.values()) else 0


def _engine(engine: str, load: Load, rounds: int, until_s: float) -> Measured:
    """Rounds until they are done or one more would not fit; at least one."""
    gauge, found = Gauge(), Measured(windows={one.name: [] for one in ARMS})
    with database(engine) as one, endpoint(gauge) as url:
        place = Place(engine=engine, database=one, load=load, gauge=gauge)
        longest_s = 0.0
        for number in range(1, rounds + 1):
            began_s = time.monotonic()
            if number > 1 and began_s + longest_s > until_s:
                say(f"{engine}: no time for round {number}")
                break
            for arm in ARMS:
                say(f"{engine}, round {number} of {rounds}: {arm.name}")
                _window(arm, place, found, url, number)
            longest_s = max(longest_s, time.monotonic() - began_s)
    return found


def _window(arm: Arm, place: Place, found: Measured, url: str, number: int) -> None:
    """One more window of a way; a failed one is kept as a sentence, and the others go on."""
    alone: list[Window] = found.windows[ALONE.name]
    try:
        if arm.governed and not alone:
            raise RuntimeError(f"{arm.name}: nothing is known of the application alone")
        goal = Goal(url=url, alone_ms=alone_p95_ms(alone) if alone else 0.0)
        # The same stream of transactions for every way of a round.
        window, stairs = measure(arm, place, goal, seed=number)
    except (RuntimeError, OSError, subprocess.SubprocessError, psutil.Error) as error:
        found.failures.append(f"round {number}, {arm.name}: {error}")
        say(found.failures[-1])
        return
    found.windows[arm.name].append(window)
    if arm.governed:
        found.stairs[arm.name] = stairs


def say(text: str) -> None:
    """Progress, to standard error."""
    print(f"bench.oltp: {text}", file=sys.stderr, flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.oltp",
        description="The latency of an application's transactions while its database is "
        f"extracted (a table of {HISTORY:,} rows, over and over).",
    )
    parser.add_argument("--engine", action="append", choices=ENGINES, help="default: both")
    parser.add_argument("--rounds", type=int, default=3, help="windows of each way (3)")
    parser.add_argument("--lead", type=float, default=2.0, help="uncounted seconds before (2)")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a window (4)")
    parser.add_argument("--processes", type=int, default=4, help="of the application (4)")
    parser.add_argument("--rate", type=float, default=30.0, help="transactions/s of each (30)")
    parser.add_argument("--minutes", type=float, default=6.0, help="no round beyond these (6)")
    parser.add_argument("--write-docs", action="store_true", help=f"into {DOCS.name}")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
