"""Kill points of delivering and reopening into object stores: a real campaign dies there, and what
it had staged may be lost as well, as by a lifecycle rule.

By default each store's campaign is killed once behind a commit and once in a reopening; the rest
is ``-m soak``. They overlap in time, because most of one is waiting.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest

from chaos.arena import Arena, arena
from chaos.killpoint_scenarios import NeverReached, play
from chaos.source_data import ORDERS
from chaos.sources import MISSING
from chaos.stores import MISSING_STORES, STORES, running_store
from rivet_fleet.contracts.killpoints import KillAction, KillPoint
from tests.conftest import missing

_AT_ONCE = 3
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


def _played(place: Arena, cases: list[tuple[KillPoint, KillAction]]) -> None:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        played: list[Future[list[int]]] = [
            pool.submit(_reached, place, point, action) for point, action in cases
        ]
        assert all(one.result()[-1] == 0 for one in played)


def test_every_row_once_in_a_store_whatever_dies(place: Arena) -> None:
    _played(place, [(point, KillAction.KILL) for point in _BY_DEFAULT])


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_every_row_once_in_a_store_at_every_point(place: Arena) -> None:
    _played(
        place,
        [
            (point, action)
            for point in _POINTS
            for action in KillAction
            if action is not KillAction.STOP
        ],
    )
