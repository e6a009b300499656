"""Every kill point × {SQLite, PostgreSQL} × {error, SIGKILL}: a real campaign dies there.

The scenarios overlap in time, because most of one is waiting: the first test starts all that
were selected, each test waits for its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import cast

import pytest

from chaos.arena import STATES, Arena
from chaos.killpoint_scenarios import SCENARIOS, play
from rivet_fleet.contracts.killpoints import KillAction, KillPoint

_AT_ONCE = 3
COORDINATOR_POINTS = (
    KillPoint.CAMPAIGN_PLANNED,
    KillPoint.CAMPAIGN_SUBMITTED,
)

Case = tuple[KillPoint, str, KillAction]
CASES: list[Case] = [
    (point, state, action)
    for point in KillPoint
    for state in STATES
    for action in (KillAction.ERROR, KillAction.KILL)
]


def _name(case: Case) -> str:
    point, state, action = case
    return f"{point.value}-{state}-{action.value}"


@pytest.fixture(scope="module")
def played(
    request: pytest.FixtureRequest, quiet_arena: Arena
) -> Iterator[dict[Case, Future[list[int]]]]:
    """Every selected case, started in order, a few at a time."""
    test = test_every_row_once_whatever_dies.__name__
    selected = [
        cast(Case, item.callspec.params["case"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == test
    ]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            yield {case: pool.submit(play, quiet_arena, *case) for case in selected}
        finally:
            pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_every_row_once_whatever_dies(case: Case, played: dict[Case, Future[list[int]]]) -> None:
    codes = played[case].result()
    assert codes[-1] == 0
    point, _, action = case
    if point in COORDINATOR_POINTS:
        assert codes == ([-9, 0] if action is KillAction.KILL else [1, 0])


def test_every_kill_point_has_a_scenario() -> None:
    assert set(SCENARIOS) == set(KillPoint)
