"""Every kill point × {PostgreSQL, MariaDB} as the source × {SQLite, PostgreSQL} as the state ×
{error, SIGKILL}: a real campaign dies there.

By default, with PostgreSQL as the source, every point is killed over each state and fails over one
of them, in turn; with MariaDB the points at which a connection to the source is open are killed
over SQLite. The rest is ``-m soak``.

The scenarios overlap in time, because most of one is waiting: the first test starts all that
were selected, each test waits for its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle
from typing import cast

import pytest

from chaos.arena import STATES, Arena
from chaos.killpoint_scenarios import OF_REPAIRS, SCENARIOS, play
from chaos.sources import SOURCES
from rivet_fleet.contracts.killpoints import KillAction, KillPoint

_AT_ONCE = 3
_POINTS = [point for point in KillPoint if point not in OF_REPAIRS]
COORDINATOR_POINTS = (
    KillPoint.CAMPAIGN_PLANNED,
    KillPoint.CAMPAIGN_SUBMITTED,
)

Case = tuple[KillPoint, str, str, KillAction]
_WHILE_READING = {
    ("mariadb", "sqlite", KillAction.KILL, point)
    for point in (
        KillPoint.CAMPAIGN_PLANNED,
        KillPoint.CHUNK_CLAIMED,
        KillPoint.PAGE_READ,
        KillPoint.PART_SPOOLED,
        KillPoint.PART_STAGED,
        KillPoint.CHUNK_FAILED,
        KillPoint.CHUNK_RELEASED,
    )
}
_BY_DEFAULT = {
    *(("postgres", state, KillAction.KILL, point) for state in STATES for point in _POINTS),
    *(("postgres", state, KillAction.ERROR, p) for p, state in zip(_POINTS, cycle(STATES))),
    *_WHILE_READING,
}
CASES = [
    pytest.param(
        (point, source, state, action),
        id=f"{point.value}-{source}-{state}-{action.value}",
        marks=[] if (source, state, action, point) in _BY_DEFAULT else pytest.mark.soak,
    )
    for source in SOURCES
    for point in _POINTS
    for state in STATES
    for action in (KillAction.ERROR, KillAction.KILL)
]


@pytest.fixture(scope="module")
def played(
    request: pytest.FixtureRequest, arena_of: Callable[[str], Arena]
) -> Iterator[dict[Case, Future[list[int]]]]:
    """Every selected case, started in order, a few at a time."""
    test = test_every_row_once_whatever_dies.__name__
    selected = [
        cast(Case, item.callspec.params["case"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == test
    ]
    arenas = {source: arena_of(source) for _, source, _, _ in selected}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            yield {
                case: pool.submit(play, arenas[case[1]], case[0], *case[2:]) for case in selected
            }
        finally:
            pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("case", CASES)
def test_every_row_once_whatever_dies(case: Case, played: dict[Case, Future[list[int]]]) -> None:
    codes = played[case].result()
    assert codes[-1] == 0
    point, _, _, action = case
    if point in COORDINATOR_POINTS:
        assert codes == ([-9, 0] if action is KillAction.KILL else [1, 0])


def test_every_kill_point_has_a_scenario() -> None:
    assert set(SCENARIOS) | {*OF_REPAIRS} == set(KillPoint)


def test_by_default_every_point_is_killed_over_each_state_and_fails_over_one() -> None:
    of = {
        (state, action): {
            point
            for source, *how, point in _BY_DEFAULT
            if (source, *how) == ("postgres", state, action)
        }
        for state in STATES
        for action in KillAction
    }
    every = set(_POINTS)
    assert all(of[state, KillAction.KILL] == every for state in STATES)
    assert of["sqlite", KillAction.ERROR] | of["postgres", KillAction.ERROR] == every
