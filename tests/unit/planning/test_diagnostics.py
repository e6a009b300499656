"""Which diagnostics a plan carries, by their rule."""

from __future__ import annotations

from typing import Any

import pytest

from rivet_fleet.contracts.columns import TypeKind
from rivet_fleet.contracts.facts import SourceFacts
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.planning.config.models import ExportConfig
from rivet_fleet.planning.diagnostics import diagnose
from rivet_fleet.planning.strategy import Choice, choose
from tests.unit.planning.shapes import COLUMNS, PRIMARY, column, index, int_key, key, query, table
from tests.unit.planning.test_strategy import export

DATED = table(
    columns=(*COLUMNS, column("at", TypeKind.DATE, nullable=True)),
    keys=(key("at", minimum=("2024-01-01",), maximum=("2024-01-09",)),),
)


def rules(facts: SourceFacts, one: ExportConfig, **more: Any) -> set[str]:
    choice = choose(one, facts)
    assert isinstance(choice, Choice), choice
    found = diagnose(one, facts=facts, choice=choice, tuning=TuningPlan(), **more)
    assert all(each.severity in ("note", "warning", "degraded") for each in found)
    return {each.rule for each in found}


@pytest.mark.parametrize(
    ("facts", "knobs", "expected"),
    [
        (query(), {}, {"unbounded-statement"}),
        (table(), {}, {"no-key"}),
        (table(indexes=(PRIMARY,), row_estimate=None), {}, {"no-row-estimate"}),
        (table(indexes=(PRIMARY,)), {"mode": "full"}, {"one-chunk"}),
        (
            DATED,
            {"chunk_column": "at", "chunk_by_days": 2},
            {"unindexed-window", "null-chunk"},
        ),
        (
            table(indexes=(index("u", "id"),), keys=(int_key("id", 1, 5, 9, provenance="walk"),)),
            {"chunk_column": "id", "chunk_dense": True},
            {"dense-surrogate"},
        ),
        (table(indexes=(PRIMARY,), row_estimate=10), {}, set()),
    ],
)
def test_what_a_plan_says_about_itself(
    facts: SourceFacts, knobs: dict[str, Any], expected: set[str]
) -> None:
    assert rules(facts, export(**knobs)) == expected


def test_gates_that_may_stay_unknown_are_told() -> None:
    facts = table(indexes=(PRIMARY,))
    assert "quality-unique-no-cap" in rules(facts, export(), uncompared=("too many",))
