"""One incremental export, run after run, over a real source: planned and read as the fleet does."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from rivet_fleet.contracts.facts import FactsRequest
from rivet_fleet.contracts.keys import RangeKind, RelationName
from rivet_fleet.execution.source import PageLimit, Source
from rivet_fleet.planning.config.models import ExportConfig
from rivet_fleet.planning.cuts import Refusal
from rivet_fleet.planning.request import casts_of
from rivet_fleet.planning.strategy import Choice
from rivet_fleet.planning.window import Moving, Windowed, choose_windowed, newest_request, window_of
from tests.integration.postgres_source_kit import TuningPlan, drain, read_plan

NOW_S = 1_767_225_600.0  # 2026-01-01
SMALL = PageLimit(rows_max=3, bytes_max=1 << 20)


def export_of(**knobs: Any) -> ExportConfig:
    return ExportConfig.model_validate(
        {
            "name": "t",
            "table": "t",
            "mode": "incremental",
            "cursor_column": "at",
            "format": "parquet",
            "destination": {"type": "local", "path": "out"},
            **knobs,
        }
    )


@dataclass(slots=True, kw_only=True)
class Planned:
    """A run that is decided and not read yet."""

    source: Source
    read: Any
    windowed: Windowed
    choice: Choice

    def ids(self) -> list[int]:
        """What all of its chunks hold."""
        found: list[int] = []
        for one in self.choice.ranges:
            reader = self.source.open_chunk(self.read, one, TuningPlan())
            found += drain(reader, SMALL).column("id").to_pylist()
        return found

    @property
    def kinds(self) -> set[RangeKind]:
        return {one.kind for one in self.choice.ranges}

    @property
    def warned(self) -> str:
        return "; ".join(self.windowed.warnings)


@dataclass(slots=True, kw_only=True)
class Follower:
    """An export and its mark. ``schema`` is empty where the source resolves it."""

    source: Source
    export: ExportConfig
    schema: str = ""
    mark: str | None = None
    runs: list[list[int]] = field(default_factory=list)

    def plan(self, *, now_s: float = NOW_S) -> Planned:
        query = self.export.query
        facts = self.source.introspect(
            FactsRequest(
                export_name="t",
                relation=None if query else RelationName(schema=self.schema, name="t"),
                query=query,
                key_columns=self.export.chunk_by_key or (),
                casts=tuple(casts_of(self.export).items()),
                boundaries_max=0 if self.mark else 10,
            )
        )
        request = newest_request(self.export, facts, query, self.mark)
        moving = None
        if request is not None:
            moving = Moving(mark=self.mark, newest=self.source.newest(request))
        windowed = window_of(self.export, facts, moving, now_s)
        assert isinstance(windowed, Windowed), windowed
        choice = choose_windowed(self.export, facts, windowed.window)
        assert not isinstance(choice, Refusal), choice
        read = replace(
            read_plan(facts, query=query), window=windowed.window, on_unrepresentable="coerce"
        )
        read = replace(read, columns=tuple(replace(c, nullable=True) for c in read.columns))
        return Planned(source=self.source, read=read, windowed=windowed, choice=choice)

    def deliver(self, planned: Planned) -> list[int]:
        """Read a planned run and move the mark, as the finalizer does."""
        ids = planned.ids()
        assert len(ids) == len(set(ids)), "a row twice within a run"
        self.runs.append(sorted(ids))
        if planned.windowed.cursor is not None:
            self.mark = planned.windowed.cursor.mark_after
        return self.runs[-1]

    def run(self) -> list[int]:
        return self.deliver(self.plan())
