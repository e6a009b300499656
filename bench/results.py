"""The results as JSON: every single run, section by section; a new section replaces the old."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.values import (
    ClaimRate,
    Fidelity,
    Lifecycle,
    MemoryPoint,
    Results,
    RunResult,
    Section,
    Startup,
    TableFacts,
)

VERSION = 2
KINDS = ("contest", "chunks", "servo", "stores", "links", "small", "memory", "startup", "claims")
_LISTS: Mapping[str, type[Any]] = {
    "runs": RunResult,
    "fidelity": Fidelity,
    "memory": MemoryPoint,
    "lifecycles": Lifecycle,
    "claims": ClaimRate,
    "startup": Startup,
}


def results_path(output: Path, scale: float) -> Path:
    """One file per scale: a quick look never replaces a measurement."""
    return output / f"benchmark-scale-{scale:g}.json"


def read_results(path: Path, scale: float) -> Results:
    """What is known so far; nothing when there is no file of this version."""
    empty = Results(scale=scale, machine={}, sections={})
    if not path.is_file():
        return empty
    found = json.loads(path.read_text())
    if found.get("version") != VERSION:
        return empty
    sections = [_section(each) for each in found["sections"]]
    return Results(
        scale=scale, machine=found["machine"], sections={each.key: each for each in sections}
    )


def merged(known: Results, machine: dict[str, str], new: Sequence[Section]) -> Results:
    """``new`` over what is known, in the order of the report: by kind, then as measured first."""
    sections = {**known.sections, **{section.key: section for section in new}}
    ordered = sorted(sections.values(), key=lambda each: KINDS.index(each.kind))
    return Results(
        scale=known.scale,
        machine={**known.machine, **machine},
        sections={each.key: each for each in ordered},
    )


def write_results(path: Path, results: Results) -> None:
    """The file, whole."""
    path.parent.mkdir(exist_ok=True)
    body = {
        "version": VERSION,
        "scale": results.scale,
        "machine": results.machine,
        "sections": [dataclasses.asdict(section) for section in results.sections.values()],
    }
    path.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n")


def _section(found: Mapping[str, Any]) -> Section:
    lists = {
        name: tuple(kind(**_tuples(each)) for each in found[name]) for name, kind in _LISTS.items()
    }
    table = found["table"] and TableFacts(**found["table"])
    return Section(key=found["key"], context=found["context"], table=table, **lists)


def _tuples(value: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows no tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
