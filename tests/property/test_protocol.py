"""Every interleaving of a small fleet: over a store that is late (F10, ADR 0026), and with three
slots for each worker (ADR 0035)."""

from __future__ import annotations

import pytest

from tests.model import overlap
from tests.model.protocol import Broken, explore


def test_no_interleaving_leaves_a_late_part_beside_a_manifest_or_takes_a_good_one() -> None:
    wrong, states = explore(Broken.NOTHING)
    assert wrong is None
    assert states > 2_000, "the model has lost its processes"


@pytest.mark.parametrize(
    ("broken", "wrong"),
    [
        (Broken.LEAVES_LATE, "a late part lies beside a manifest"),
        (Broken.REMOVES_LATER, "a completed chunk's part is gone"),
        (Broken.ENDS_UNFENCED, "a manifest names a part that is not there"),
    ],
)
def test_each_rule_of_the_runs_end_is_needed(broken: Broken, wrong: str) -> None:
    assert explore(broken)[0] == wrong


ONE_READER = overlap.World(budget=1, troubles=1)
POISONED = overlap.World(workers=1, budget=9, troubles=0, attempts_max=2, poison=1)


@pytest.mark.parametrize(
    "world",
    [
        ONE_READER,
        overlap.World(chunks=2, budget=1, troubles=2),
        overlap.World(chunks=2, budget=2, troubles=2),
        POISONED,
        overlap.World(workers=2, budget=9, troubles=0, attempts_max=3, poison=0),
    ],
    ids=str,
)
def test_the_slots_keep_the_protocol_and_the_budget(world: overlap.World) -> None:
    wrong, states = overlap.explore(world)
    assert wrong is None
    assert states > 100, "the model has lost its processes"


@pytest.mark.parametrize(
    ("world", "broken", "wrong"),
    [
        (ONE_READER, overlap.Broken.MARKS_UNFENCED, "more chunks are read than the budget allows"),
        (ONE_READER, overlap.Broken.KEEPS_MARK, "more chunks are read than the budget allows"),
        (ONE_READER, overlap.Broken.CLAIMS_EARLY, "more chunks are read than the budget allows"),
        (ONE_READER, overlap.Broken.COMMITS_UNFENCED, "a completed chunk's part is gone"),
        (
            ONE_READER,
            overlap.Broken.COUNTS_ALL,
            "nothing is ever read while something is delivered",
        ),
        (POISONED, overlap.Broken.SHARES_ALWAYS, "a chunk fails for what its neighbour does"),
    ],
    ids=str,
)
def test_each_rule_of_the_slots_is_needed(
    world: overlap.World, broken: overlap.Broken, wrong: str
) -> None:
    assert overlap.explore(world, broken)[0] == wrong
