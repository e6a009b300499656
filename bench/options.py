"""What the command line may choose."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from bench.contenders import DECODE, FLOOR, GROUPS
from bench.schema import TABLES, Engine

PARTS = ("contest", "chunks", "servo", "stores", "links", "small", "memory", "startup", "claims")
FLOORS = "floors"
"""A word for the contest between the floors alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """One invocation. ``command`` is how to say it again."""

    engines: tuple[Engine, ...]
    tables: tuple[str, ...]
    contenders: tuple[str, ...]
    parts: tuple[str, ...]
    workers: tuple[int, ...]
    scale: float
    events_rows: int | None
    rounds: int
    budget_s: float
    write_docs: bool
    render_only: bool
    strict: bool
    command: str


def parse_options(arguments: Sequence[str]) -> Options:
    """Raises SystemExit with a message, as argparse does."""
    found = _parser().parse_args(arguments)
    parts, groups = found.only, found.contenders
    if FLOORS in parts:
        parts = (*(part for part in parts if part not in (FLOORS, "contest")), "contest")
        groups = (FLOOR, DECODE)
    return Options(
        engines=tuple(Engine(name) for name in found.engines),
        tables=found.tables,
        contenders=groups,
        parts=parts,
        workers=tuple(int(count) for count in found.workers.split(",")),
        scale=found.scale,
        events_rows=found.events_rows,
        rounds=found.rounds,
        budget_s=found.budget_s,
        write_docs=found.write_docs,
        render_only=found.render_only,
        strict=found.strict,
        command=" ".join(("python -m bench", *arguments)),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    add = parser.add_argument
    engines = tuple(engine.value for engine in Engine)
    _choice(parser, "--engines", engines, engines, "source engines")
    _choice(parser, "--tables", tuple(TABLES), tuple(TABLES), "tables of the contest")
    _choice(parser, "--contenders", GROUPS, GROUPS, "who takes part; the floor always does")
    _choice(parser, "--only", PARTS, (*PARTS, FLOORS), "parts; floors: the floors' contest")
    add("--workers", default="1,2,4", help="rivet-fleet's worker counts (default 1,2,4)")
    add("--scale", type=float, default=1.0, help="TPC-H scale factor; other tables follow it")
    add("--events-rows", type=int, default=None, help="default: 10 million at scale 1")
    add("--rounds", type=int, default=3, help="medians are taken over so many (default 3)")
    add("--budget-s", type=float, default=14_400.0, help="no round is begun that would end later")
    add("--write-docs", action="store_true", help="put the report into docs/explanation")
    add("--render-only", action="store_true", help="measure nothing; render what is known")
    add("--strict", action="store_true", help="exit 1 when a goal is missed")
    return parser


def _choice(
    parser: argparse.ArgumentParser,
    name: str,
    default: tuple[str, ...],
    known: tuple[str, ...],
    what: str,
) -> None:
    """A comma-separated choice among ``known``."""

    def chosen(text: str) -> tuple[str, ...]:
        wanted = tuple(part.strip() for part in text.split(",") if part.strip())
        unknown = [part for part in wanted if part not in known]
        if unknown or not wanted:
            raise argparse.ArgumentTypeError(f"choose from {', '.join(known)}")
        return wanted

    parser.add_argument(
        name,
        type=chosen,
        default=default,
        metavar="A,B,…",
        help=f"{what}: {', '.join(known)} (default: all)",
    )
