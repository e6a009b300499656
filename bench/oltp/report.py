"""The page's text: what was measured, where and how. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from bench.oltp.arms import ALONE, ARMS
from bench.oltp.figures import Window, alone_p95_ms, table
from bench.oltp.permits import Step, staircase
from bench.oltp.stream import Load


@dataclass(slots=True, kw_only=True)
class Measured:
    """Of one engine: each way's windows, the last window's staircase of the governed ones, and
    what failed."""

    windows: dict[str, list[Window]]
    stairs: dict[str, tuple[Step, ...]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One invocation."""

    command: str
    load: Load
    took_s: float
    facts: Mapping[str, str]


def report(run: Run, measured: Mapping[str, Measured]) -> str:
    """What stands between the markers."""
    load = run.load
    lines = [
        f"`{run.command}`, {run.took_s:.0f} s. {load.processes} processes of the application, "
        f"together {load.processes * load.rate:g} transactions a second: {load.lead_s:g} s of "
        f"lead-in, then {load.seconds:g} s that count.",
        "",
        *(f"- **{arm.name}**: {arm.told}" for arm in ARMS),
        "",
        *(f"- {name}: {value}" for name, value in run.facts.items()),
    ]
    for engine, found in measured.items():
        lines += ["", f"### {engine}", "", *_engine(found, load)]
    return "\n".join(lines) + "\n"


def _engine(found: Measured, load: Load) -> list[str]:
    lines = [table(found.windows), ""]
    alone = found.windows[ALONE.name]
    if alone:
        cores = median(one.application_cores for one in alone)
        lines.append(
            f"Rounds: {len(alone)}. Alone, the application's processes take "
            f"{cores:.2f} of a core and have a p95 of {alone_p95_ms(alone):.1f} ms. "
            "Chunks allowed in the last round, from the first transaction on:"
        )
    lines.append("")
    lines += [
        f"- {name}: {staircase(stairs, end_s=load.whole_s)}"
        for name, stairs in found.stairs.items()
    ]
    # One line each: the program's last words are on standard error.
    lines += [f"- failed: {one.splitlines()[0]}" for one in found.failures]
    return lines
