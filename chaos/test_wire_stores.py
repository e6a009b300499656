"""Toxiproxy between the fleet and its store: slow, narrow, away for seconds.

A worker that has just committed a chunk stands still while the way breaks, and then goes on. By
default each store meets one fault; the full product is ``-m soak``. Campaigns overlap in time,
because most of one is waiting.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from typing import cast

import pytest

from chaos.arena import Arena, arena
from chaos.processes import kill, until
from chaos.scenario import Shape
from chaos.source_data import ORDERS
from chaos.sources import MISSING
from chaos.standstill import standing_still, stopping_at
from chaos.stores import MISSING_STORES, STORES, running_store
from chaos.wire import Toxic, Toxiproxy, ToxiproxyMissing, toxiproxy
from rivet_fleet.contracts.killpoints import KillPoint
from tests.conftest import missing

_AT_ONCE = 3
_ROWS = 1500
_SHAPE = Shape(chunk_count=6, lease_ttl_s=2.0)
_RECOVER_S = 150.0
"""From the broken way to the campaign's end: a silent connection is given up after a minute."""
_SLOW = (Toxic.LATENCY, Toxic.NARROW, Toxic.STEEP)
Case = tuple[str, Toxic]
_BY_DEFAULT: tuple[Case, ...] = (
    ("gcs", Toxic.LATENCY),
    ("azure", Toxic.STEEP),
    ("s3", Toxic.DOWN),
)
CASES = [
    pytest.param(case, id="-".join((case[0], case[1].value)), marks=marks)
    for cases, marks in (
        (_BY_DEFAULT, ()),
        ([c for c in product(STORES, Toxic) if c not in _BY_DEFAULT], pytest.mark.soak),
    )
    for case in cases
]


@pytest.fixture(scope="module")
def played(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Case, Future[None]]]:
    """Every selected case, a few at a time: one source for all, one server for each kind."""
    selected = [
        cast(Case, item.callspec.params["case"])
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.originalname == test_a_broken_way_to_a_store_costs_time_and_nothing_else.__name__
    ]
    try:
        with ExitStack() as held:
            log = tmp_path_factory.mktemp("wires") / "toxiproxy.log"
            proxy = held.enter_context(toxiproxy(log))
            ground = held.enter_context(arena("postgres", rows=_ROWS, tables=(ORDERS,)))
            places = {
                kind: replace(ground, store=held.enter_context(running_store(kind)))
                for kind in dict.fromkeys(kind for kind, _ in selected)
            }
            pool = held.enter_context(ThreadPoolExecutor(_AT_ONCE))
            held.callback(pool.shutdown, cancel_futures=True)
            yield {case: pool.submit(_play, places[case[0]], proxy, case[1]) for case in selected}
    except (*MISSING, *MISSING_STORES, ToxiproxyMissing) as absent:
        missing(str(absent))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", CASES)
def test_a_broken_way_to_a_store_costs_time_and_nothing_else(
    case: Case, played: dict[Case, Future[None]]
) -> None:
    played[case].result()


def _play(place: Arena, proxy: Toxiproxy, toxic: Toxic) -> None:
    store = place.store
    assert store is not None
    wire = proxy.wire(f"{store.server.kind}-{toxic.value}", f"http://127.0.0.1:{store.port}")
    place = replace(place, store=replace(store, port=wire.port))
    with place.campaign("sqlite", tables=[ORDERS], shape=_SHAPE) as campaign:
        armed = stopping_at(campaign, KillPoint.CHUNK_COMMITTED, 2)
        coordinator = campaign.start(armed=armed)
        stopped = standing_still(campaign, KillPoint.CHUNK_COMMITTED)
        wire.break_with(toxic)
        broken_s = time.monotonic()
        kill(stopped, signal.SIGCONT)
        if toxic not in _SLOW:
            longer_than_lease_s = broken_s + 1.5 * _SHAPE.lease_ttl_s
            until(lambda: time.monotonic() > longer_than_lease_s, what="a lease runs out")
            wire.mend(toxic)
        assert coordinator.wait(_RECOVER_S) == 0
        if toxic in _SLOW:
            wire.mend(toxic)
        campaign.expect_exactly_once()
        campaign.expect_completed()
        campaign.expect_tidy()
