"""Each numbered contract of the documentation has a test that names it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.house.test_documented import table

TESTS = Path(__file__).parents[1]
PLAN_IDS = [row[0] for row in table("plans.md", "id")]


def test_the_ten_rules_of_plans_are_documented() -> None:
    assert [f"PA{n}" for n in range(1, 11)] == PLAN_IDS


@pytest.mark.parametrize("contract", PLAN_IDS)
def test_every_rule_of_plans_has_a_test_that_names_it(contract: str) -> None:
    named = re.compile(rf"^def test_{contract.lower()}_", re.MULTILINE)
    files = [*TESTS.rglob("test_*.py")]
    assert any(named.search(path.read_text(encoding="utf-8")) for path in files), contract
