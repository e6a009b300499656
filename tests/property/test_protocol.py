"""Every interleaving of a small fleet over a store that is late (F10, ADR 0026)."""

from __future__ import annotations

import pytest

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
