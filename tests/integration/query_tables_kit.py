"""A query as the planner cuts it and the workers read it, beside the query's own result."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa

from rivet_fleet.contracts.basis import resting
from rivet_fleet.contracts.facts import FactsRequest, SourceFacts
from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.plan import ReadPlan, TuningPlan
from rivet_fleet.execution.source import PageLimit, Source
from rivet_fleet.planning.config.models import ExportConfig
from rivet_fleet.planning.export_plan import query_plan
from rivet_fleet.planning.strategy import Choice, choose
from tests.integration.postgres_source_kit import drain, read_plan

SMALL = PageLimit(rows_max=7, bytes_max=1 << 20)


def planned(source: Source, query: str, **knobs: Any) -> tuple[SourceFacts, Choice, ReadPlan]:
    """What a plan of this query would be."""
    export = ExportConfig.model_validate(
        {
            "name": "q",
            "query": query,
            "mode": "chunked",
            "chunk_count": 4,
            "format": "parquet",
            "destination": {"type": "local", "path": "out"},
            **knobs,
        }
    )
    asked = export.chunk_by_key or ((export.chunk_column,) if export.chunk_column else ())
    facts = source.introspect(
        FactsRequest(export_name="q", relation=None, query=query, key_columns=asked)
    )
    choice = choose(export, facts)
    assert isinstance(choice, Choice), choice
    sql, table, basis = query_plan(query, facts, choice.ranges)
    read = replace(
        read_plan(facts, query=sql), table=table, basis=resting(basis, choice.ranges, None)
    )
    return facts, choice, read


def rows_of(source: Source, read: ReadPlan, choice: Choice) -> list[list[tuple[Any, ...]]]:
    """The rows of every chunk, in small pages."""
    found = []
    for one in choice.ranges:
        table = drain(source.open_chunk(read, one, TuningPlan()), SMALL)
        found.append(tuples(table))
    return found


def tuples(table: pa.Table) -> list[tuple[Any, ...]]:
    return [tuple(map(repr, row.values())) for row in table.to_pylist()]


def divided(choice: Choice) -> bool:
    """Cut by a key, and read in pages of it."""
    return {one.kind for one in choice.ranges} == {RangeKind.KEYSET}


def by_itself(source: Source, facts: SourceFacts, query: str) -> list[tuple[Any, ...]]:
    """The query's own result: one statement."""
    whole = ChunkRange(kind=RangeKind.WHOLE)
    return tuples(drain(source.open_chunk(read_plan(facts, query=query), whole, TuningPlan())))
