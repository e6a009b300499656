"""Kill points of delivering and reopening into object stores: a real campaign dies there, and what
it had staged may be lost as well, as by a lifecycle rule.

By default each store's campaign is killed once behind a commit and once in a reopening, and a
receipt is published twice; the rest is ``-m soak``. They overlap in time, because most of one is
waiting.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product

import pytest

from chaos.arena import Arena, arena
from chaos.killpoint_scenarios import NeverReached, play
from chaos.processes import kill, until
from chaos.scenario import Shape
from chaos.source_data import ORDERS
from chaos.sources import MISSING
from chaos.standstill import standing_still, stopping_at
from chaos.stores import MISSING_STORES, STORES, running_store
from rivet_fleet.contracts.killpoints import KillAction, KillPoint
from tests.conftest import missing

_AT_ONCE = 3
_RECOVER_S = 30.0
_SLEEPING = Shape(chunk_count=6, lease_ttl_s=2.0)
_ROWS = 2000
_TRIES = 3
_POINTS = (
    KillPoint.STAGE_WRITTEN,
    KillPoint.PART_STAGED,
    KillPoint.CHUNK_COMMITTED,
    KillPoint.PART_RENAMED,
    KillPoint.PART_PUBLISHED,
    KillPoint.REOPEN_STAGED_DISCARDED,
    KillPoint.REOPEN_VISIBLE_REMOVED,
    KillPoint.CHUNK_REOPENED,
)
_BY_DEFAULT = (
    KillPoint.PART_RENAMED,
    KillPoint.REOPEN_STAGED_DISCARDED,
)


@pytest.fixture(scope="module")
def ground() -> Iterator[Arena]:
    """One source for all stores."""
    try:
        with arena("postgres", rows=_ROWS, tables=(ORDERS,)) as ground:
            yield ground
    except MISSING as absent:
        missing(str(absent))


@pytest.fixture(scope="module", params=STORES)
def place(request: pytest.FixtureRequest, ground: Arena) -> Iterator[Arena]:
    """An arena that delivers into one store."""
    try:
        with running_store(request.param) as store:
            yield replace(ground, store=store)
    except MISSING_STORES as absent:
        missing(str(absent))


def _reached(place: Arena, point: KillPoint, action: KillAction) -> list[int]:
    """Losing what is staged asks a store, and meanwhile another worker may publish it."""
    for _ in range(_TRIES):
        try:
            return play(place, point, "sqlite", action)
        except NeverReached:
            continue
    return play(place, point, "sqlite", action)


def _slept(place: Arena, point: KillPoint) -> None:
    """One receipt in two processes: who committed it sleeps at ``point``, somebody else publishes,
    and then the sleeper does."""
    with place.campaign("sqlite", tables=[ORDERS], shape=_SLEEPING) as campaign:
        coordinator = campaign.start(armed=stopping_at(campaign, point, 2))
        sleeper = standing_still(campaign, point)
        until(
            lambda: {task.status for task in campaign.tasks()} == {"completed"},
            what="the others publish everything",
        )
        kill(sleeper, signal.SIGCONT)
        assert coordinator.wait(_RECOVER_S) == 0
        campaign.expect_exactly_once()
        campaign.expect_completed()
        assert not [event for _, event, _ in campaign.events() if event == "chunk.reopened"]
        campaign.expect_tidy()


def _played(
    place: Arena, killed: Iterable[tuple[KillPoint, KillAction]], slept: Iterable[KillPoint]
) -> None:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        dead = [pool.submit(_reached, place, point, action) for point, action in killed]
        asleep = [pool.submit(_slept, place, point) for point in slept]
        assert all(one.result()[-1] == 0 for one in dead)
        for one in asleep:
            one.result()


def test_every_row_once_in_a_store_whatever_dies(place: Arena) -> None:
    killed = [(point, KillAction.KILL) for point in _BY_DEFAULT]
    _played(place, killed, [KillPoint.CHUNK_COMMITTED])


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_every_row_once_in_a_store_at_every_point(place: Arena) -> None:
    actions = set(KillAction) - {KillAction.STOP}
    _played(place, product(_POINTS, actions), [KillPoint.PART_RENAMED, KillPoint.PART_PUBLISHED])
