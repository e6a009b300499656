"""Each numbered contract of the documentation has a test that names it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.house.test_documented import table

TESTS = Path(__file__).parents[1]
DOCS = TESTS.parent / "docs"
PLAN_IDS = [row[0] for row in table("plans.md", "id")]
CURSOR_IDS = [f"CC{n}" for n in range(1, 11)]
PROGRESSION_IDS = [f"PG{n}" for n in range(1, 9)]


def test_the_ten_rules_of_plans_are_documented() -> None:
    assert [f"PA{n}" for n in range(1, 11)] == PLAN_IDS


def test_the_rules_of_cursors_and_progression_are_documented() -> None:
    text = (DOCS / "reference" / "incremental.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (CC\d+|PG\d+) \|", text, re.MULTILINE) == [
        *CURSOR_IDS,
        *PROGRESSION_IDS,
    ]


@pytest.mark.parametrize("contract", [*PLAN_IDS, *CURSOR_IDS, *PROGRESSION_IDS])
def test_every_numbered_rule_has_a_test_that_names_it(contract: str) -> None:
    named = re.compile(rf"^def test_(\w+_)?{contract.lower()}_", re.MULTILINE)
    files = [*TESTS.rglob("test_*.py")]
    assert any(named.search(path.read_text(encoding="utf-8")) for path in files), contract
