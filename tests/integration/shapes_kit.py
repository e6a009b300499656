"""Cutting a real table as the planner does, and reading every chunk: what is where."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rivet_fleet.contracts.facts import FactsRequest, SourceFacts
from rivet_fleet.contracts.keys import RelationName
from rivet_fleet.execution.source import Source
from rivet_fleet.planning.config.models import CHUNK_SIZE_DEFAULT, ExportConfig
from rivet_fleet.planning.strategy import Choice, choose
from tests.integration.postgres_source_kit import read_all, read_plan


def shaped(**knobs: Any) -> ExportConfig:
    return ExportConfig.model_validate(
        {
            "name": "t",
            "table": "t",
            "mode": "chunked",
            "format": "parquet",
            "destination": {"type": "local", "path": "out"},
            **knobs,
        }
    )


def look(source: Source, export: ExportConfig, *, schema: str) -> SourceFacts:
    """Facts as ``submit`` asks for them."""
    walked = (export.chunk_size or CHUNK_SIZE_DEFAULT) if export.chunk_dense else None
    column = export.partition_by or export.chunk_column
    return source.introspect(
        FactsRequest(
            export_name="t",
            relation=RelationName(schema=schema, name="t"),
            query=None,
            key_columns=(column,) if column else (),
            walk_rows=walked,
        )
    )


def cut(facts: SourceFacts, export: ExportConfig) -> Choice:
    found = choose(export, facts)
    assert isinstance(found, Choice), found
    return found


def ids_by_chunk(source: Source, facts: SourceFacts, choice: Choice) -> list[list[int]]:
    """The ids of every chunk, values that fit no type made NULL."""
    plan = read_plan(facts)
    columns = tuple(replace(one, nullable=True) for one in plan.columns)
    read = replace(plan, on_unrepresentable="coerce", columns=columns)
    return [read_all(source, read, one).column("id").to_pylist() for one in choice.ranges]


def assert_each_once(chunks: list[list[int]], rows: int) -> None:
    """Every row is in exactly one chunk (S1)."""
    assert sorted(one for chunk in chunks for one in chunk) == list(range(1, rows + 1))
