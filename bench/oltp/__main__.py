"""Measure what the application feels, with and without us, protected and not."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.machine import machine_facts, moment_facts
from bench.oltp.arms import arms
from bench.oltp.figures import Window, table
from bench.oltp.sources import ENGINES, HISTORY, database
from bench.oltp.window import Load, measure
from bench.render import replace_between_markers

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "explanation" / "protection-figures.md"
Measured = dict[str, dict[str, list[Window]]]


def main(arguments: Sequence[str] | None = None) -> int:
    """All rounds of all ways on both engines, interleaved."""
    options = _options(arguments)
    load = Load(processes=options.processes, rate=options.rate, seconds=options.seconds)
    load_before, began_s = os.getloadavg()[0], time.monotonic()
    measured: Measured = {}
    for engine in options.engine or ENGINES:
        with database(engine) as urls:
            found = measured.setdefault(engine, {one.name: [] for one in arms()})
            for number in range(options.rounds):
                for arm in arms():
                    say(f"{engine}, round {number + 1} of {options.rounds}: {arm.name}")
                    # The same stream of transactions for every way of a round.
                    found[arm.name].append(measure(arm, engine, urls, load, seed=number + 1))
    facts = {**machine_facts(), **moment_facts(ROOT, load_before=load_before)}
    text = report(measured, load, options.rounds, facts)
    print(text)
    say(f"took {time.monotonic() - began_s:.0f} s")
    if options.write_docs:
        DOCS.write_text(replace_between_markers(DOCS.read_text(encoding="utf-8"), text))
    return 0


def report(measured: Measured, load: Load, rounds: int, facts: dict[str, str]) -> str:
    """What was measured, where and how."""
    lines = [
        f"{load.processes} processes of the application, together "
        f"{load.processes * load.rate:g} transactions a second for {load.seconds:g} s; "
        f"{rounds} rounds, interleaved; the percentiles are medians of the rounds' own.",
        "",
        *(f"- **{arm.name}**: {arm.told}" for arm in arms()),
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
    ]
    for engine, found in measured.items():
        lines += ["", f"### {engine}", "", table(found)]
    return "\n".join(lines) + "\n"


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
    parser.add_argument("--seconds", type=float, default=7.0, help="length of a window (7)")
    parser.add_argument("--processes", type=int, default=4, help="of the application (4)")
    parser.add_argument("--rate", type=float, default=20.0, help="transactions/s of each (20)")
    parser.add_argument("--write-docs", action="store_true", help=f"into {DOCS.name}")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
