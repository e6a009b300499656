"""``partition_by``: one export for each period, each a run like any other (ADR 0012). Pure.

The periods are half-open and contiguous, the first open below and the last above, NULLs have a
partition of their own: every row is in exactly one, whatever is written meanwhile (S1).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from urllib.parse import quote

from rivet_fleet.contracts.civil import date_text, days_of, year_month_of
from rivet_fleet.contracts.facts import SourceFacts
from rivet_fleet.contracts.plan import CampaignPlan, PlannedRun
from rivet_fleet.planning.candidates import column_of, key_facts
from rivet_fleet.planning.config.loaded import LoadedConfig, PartitionRange
from rivet_fleet.planning.config.models import ExportConfig, FleetConfig
from rivet_fleet.planning.config.problems import (
    DUPLICATE_EXPORT,
    PARTITION_INVALID,
    Problem,
    did_you_mean,
)
from rivet_fleet.planning.config.rules import PARTITION
from rivet_fleet.planning.cuts import Scale, anchors_of, scale_of
from rivet_fleet.planning.request import casts_of

PARTITIONS_MAX = 4_000
"""Ten years of days. Each is a run: thousands more are hard to operate."""
DEFAULT_PARTITION = "__HIVE_DEFAULT_PARTITION__"
"""The folder of rows without a value, as Hive, Spark, Trino and DuckDB name it."""
NULL_SUFFIX = "null"
_COARSER = {"day": "month", "month": "year"}
_CUT_OFF = {"day": 0, "month": 3, "year": 6}


@dataclass(frozen=True, slots=True, kw_only=True)
class Expanded:
    """The configuration with an export for each partition, and what is known of each."""

    loaded: LoadedConfig
    facts: Mapping[str, SourceFacts]
    only: tuple[str, ...]
    problems: tuple[tuple[str, Problem], ...] = ()
    """What keeps an export of the file, by name, from being partitioned."""


def expand(
    loaded: LoadedConfig, facts: Mapping[str, SourceFacts], only: Collection[str] = ()
) -> Expanded:
    """Put the partitions in the place of every partitioned export whose facts are known.

    A problem for a column that cannot partition, too many partitions, or a name that another export
    has; ``only`` is without those exports then, and names all the others.
    """
    exports: list[ExportConfig] = []
    partitions: dict[str, PartitionRange] = {}
    problems: list[tuple[str, Problem]] = []
    for export in loaded.config.exports:
        found = facts.get(export.name)
        wanted = not only or export.name in only
        if export.partition_by is None or found is None or not wanted:
            exports.append(export)
            continue
        periods = _periods(loaded, export, found)
        if isinstance(periods, Problem):
            problems.append((export.name, periods))
            continue
        for one in periods:
            child = _child(export, one)
            exports.append(child)
            partitions[child.name] = one
    problems += _taken(loaded, partitions)
    if problems:
        wrong = {name for name, _ in problems}
        asked = [e.name for e in loaded.config.exports if not only or e.name in only]
        fine = tuple(name for name in asked if name not in wrong)
        rest = (
            expand(loaded, facts, fine) if fine else Expanded(loaded=loaded, facts=facts, only=())
        )
        return replace(rest, problems=tuple(problems))
    if not partitions:
        return Expanded(loaded=loaded, facts=facts, only=tuple(only))
    return _expanded(loaded, facts, tuple(only), tuple(exports), partitions)


def _expanded(
    loaded: LoadedConfig,
    facts: Mapping[str, SourceFacts],
    only: tuple[str, ...],
    exports: tuple[ExportConfig, ...],
    partitions: dict[str, PartitionRange],
) -> Expanded:
    parents = {name: one.parent for name, one in partitions.items()}
    config: FleetConfig = loaded.config.model_copy(update={"exports": exports})
    queries = {n: loaded.queries[p] for n, p in parents.items() if p in loaded.queries}
    return Expanded(
        loaded=replace(
            loaded,
            config=config,
            written=tuple(export.name for export in loaded.config.exports),
            partitions=partitions,
            sections={**loaded.sections, **{n: loaded.sections[p] for n, p in parents.items()}},
            queries={**loaded.queries, **queries},
        ),
        facts={**facts, **{name: facts[parent] for name, parent in parents.items()}},
        only=tuple(e.name for e in exports if e.name in only or parents.get(e.name) in only)
        if only
        else (),
    )


def folded(plan: CampaignPlan) -> CampaignPlan:
    """The same campaign with one run for each export of the file, all its chunks together: to
    speak of, not to run."""
    families: dict[str, list[PlannedRun]] = {}
    for run in plan.runs:
        families.setdefault(run.plan.written_name, []).append(run)
    return replace(plan, runs=tuple(_folded(name, runs) for name, runs in families.items()))


def _folded(name: str, runs: list[PlannedRun]) -> PlannedRun:
    if len(runs) == 1 and not runs[0].plan.family:
        return runs[0]
    plan = runs[0].plan
    said = dict.fromkeys(warning for run in runs for warning in run.plan.warnings)
    chunks = [chunk for run in runs for chunk in run.chunks]
    return PlannedRun(
        plan=replace(
            plan,
            export_name=name,
            reason=f"{len(runs)} partitions, {plan.export_name} to {runs[-1].plan.export_name}",
            warnings=tuple(said),
        ),
        chunks=tuple(replace(chunk, chunk_index=i) for i, chunk in enumerate(chunks)),
    )


def _child(export: ExportConfig, one: PartitionRange) -> ExportConfig:
    path = export.destination.below[1].replace("{export}", export.name)
    path = path.replace(PARTITION, f"{quote(one.column, safe='')}={one.value}")
    suffix = NULL_SUFFIX if one.value == DEFAULT_PARTITION else one.value
    return export.model_copy(
        update={
            "name": f"{export.name}__{suffix}",
            "destination": export.destination.placed(path),
        }
    )


def _taken(
    loaded: LoadedConfig, partitions: Mapping[str, PartitionRange]
) -> list[tuple[str, Problem]]:
    names = {export.name for export in loaded.config.exports}
    return [
        (
            one.parent,
            Problem(
                at=(*loaded.export_key(name), "name"),
                what=f"export {name}",
                reason=f"a partition of export {one.parent} has the same name",
                suggestion="give the export another name",
                code=DUPLICATE_EXPORT,
            ),
        )
        for name, one in partitions.items()
        if name in names
    ]


def _periods(
    loaded: LoadedConfig, export: ExportConfig, facts: SourceFacts
) -> list[PartitionRange] | Problem:
    name = export.partition_by or ""
    column, scale = column_of(facts, name), scale_of(facts, (name,))
    if column is None or scale is None or not scale.day or name in casts_of(export):
        native = f" ({column.native_type})" if column else ""
        known = [one.name for one in facts.columns]
        return _refused(
            loaded,
            export,
            f"column {name}{native} is not read as a date or a moment",
            did_you_mean(name, known) if column is None else "choose a date or timestamp column",
        )
    key = key_facts(facts, (name,))
    try:
        anchors = anchors_of(key, scale)
    except ValueError:
        return _refused(loaded, export, f"a bound of {name} cannot be read as a moment", None)
    granularity = export.partition_granularity or "day"
    edges = _edges(anchors, scale, granularity)
    if len(edges) > PARTITIONS_MAX:
        coarser = _COARSER.get(granularity)
        return _refused(
            loaded,
            export,
            f"{len(edges)} partitions by {granularity} are more than {PARTITIONS_MAX}",
            f"write partition_granularity: {coarser}" if coarser else "read a part with query:",
        )
    shared = tuple(anchors)
    found = [
        PartitionRange(
            parent=export.name,
            column=name,
            value=_value(day, granularity),
            lower=None if i == 0 else day * scale.day,
            upper=None if i == len(edges) - 1 else edges[i + 1] * scale.day,
            anchors=shared,
        )
        for i, day in enumerate(edges)
    ]
    if column.nullable or key is None or key.has_nulls or not edges:
        rest = PartitionRange(
            parent=export.name,
            column=name,
            value=DEFAULT_PARTITION,
            nulls=bool(edges),
            everything=not edges,
        )
        found.append(rest)
    return found


def _value(day: int, granularity: str) -> str:
    """``2024-02-29``, ``2024-02`` or ``2024``."""
    text = date_text(day)
    return text[: len(text) - _CUT_OFF[granularity]]


def _refused(
    loaded: LoadedConfig, export: ExportConfig, reason: str, suggestion: str | None
) -> Problem:
    return Problem(
        at=(*loaded.export_key(export.name), "partition_by"),
        what=f"export {export.name}, partition_by",
        reason=reason,
        suggestion=suggestion,
        code=PARTITION_INVALID,
    )


def _edges(anchors: list[int], scale: Scale, granularity: str) -> list[int]:
    """The first day of every period between the extremes; one more than allowed at most."""
    if not anchors:
        return []
    last = anchors[-1] // scale.day
    day = _begin(anchors[0] // scale.day, granularity)
    found: list[int] = []
    while day <= last and len(found) <= PARTITIONS_MAX:
        found.append(day)
        day = _next(day, granularity)
    return found


def _begin(day: int, granularity: str) -> int:
    year, month = year_month_of(day)
    if granularity == "year":
        return days_of(year, 1, 1)
    return days_of(year, month, 1) if granularity == "month" else day


def _next(day: int, granularity: str) -> int:
    year, month = year_month_of(day)
    if granularity == "year":
        return days_of(year + 1, 1, 1)
    if granularity == "month":
        return days_of(year + month // 12, month % 12 + 1, 1)
    return day + 1
