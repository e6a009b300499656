"""Toxiproxy between the fleet and its databases, in each phase of a chunk.

By default a covering set: every toxic and every phase on both wires, and for the workers alone
what a coordinator elsewhere makes worse. The full product is ``-m soak``. Scenarios overlap in
time, because most of one is waiting.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import product
from typing import cast

import pytest

from chaos.arena import Arena
from chaos.wire import Toxic, ToxiproxyMissing, toxiproxy
from chaos.wire_scenarios import Cut, Fault, Phase, Survived, play
from tests.conftest import missing

_AT_ONCE = 5

_COVERING = (
    # The longest first: a silent source is asked about after ten seconds.
    (Phase.PAGE, Cut.SOURCE, Toxic.HALF_OPEN),
    (Phase.HEARTBEAT, Cut.SOURCE, Toxic.DEAF),
    (Phase.CLAIM, Cut.SOURCE, Toxic.DOWN),
    (Phase.PAGE, Cut.SOURCE, Toxic.NARROW),
    (Phase.PAGE, Cut.SOURCE, Toxic.RESET),
    (Phase.COMMIT, Cut.SOURCE, Toxic.RESET),
    (Phase.PUBLISH, Cut.SOURCE, Toxic.LATENCY),
    (Phase.FINALIZE, Cut.SOURCE, Toxic.DOWN),
    (Phase.CLAIM, Cut.STATE, Toxic.DEAF),
    (Phase.PAGE, Cut.STATE, Toxic.NARROW),
    (Phase.COMMIT, Cut.STATE, Toxic.HALF_OPEN),
    (Phase.PUBLISH, Cut.STATE, Toxic.RESET),
    (Phase.HEARTBEAT, Cut.STATE, Toxic.LATENCY),
    (Phase.FINALIZE, Cut.STATE, Toxic.DOWN),
    (Phase.CLAIM, Cut.STATE_OF_WORKERS, Toxic.HALF_OPEN),
    (Phase.COMMIT, Cut.STATE_OF_WORKERS, Toxic.DOWN),
    (Phase.HEARTBEAT, Cut.STATE_OF_WORKERS, Toxic.HALF_OPEN),
)
COVERING = [Fault(phase=phase, cut=cut, toxic=toxic) for phase, cut, toxic in _COVERING]
# A coordinator that shares no wire with the workers may finalize without meeting the fault.
REST = [
    fault
    for phase, cut, toxic in product(Phase, Cut, Toxic)
    if (fault := Fault(phase=phase, cut=cut, toxic=toxic)) not in COVERING
    and not (phase is Phase.FINALIZE and cut is Cut.STATE_OF_WORKERS)
]
CASES = [
    *(pytest.param(fault, id=fault.name) for fault in COVERING),
    *(pytest.param(fault, id=fault.name, marks=pytest.mark.soak) for fault in REST),
]


@pytest.fixture(scope="module")
def played(
    request: pytest.FixtureRequest, quiet_arena: Arena
) -> Iterator[dict[Fault, Future[Survived]]]:
    """Every selected fault, started in order, a few at a time."""
    test = test_a_broken_wire_costs_time_and_nothing_else.__name__
    selected = [
        cast(Fault, item.callspec.params["fault"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == test
    ]
    try:
        with (
            toxiproxy(quiet_arena.root / "toxiproxy.log") as proxy,
            ThreadPoolExecutor(_AT_ONCE) as pool,
        ):
            try:
                yield {f: pool.submit(play, quiet_arena, proxy, f) for f in selected}
            finally:
                pool.shutdown(cancel_futures=True)
    except ToxiproxyMissing as absent:
        missing(str(absent))


@pytest.mark.parametrize("fault", CASES)
def test_a_broken_wire_costs_time_and_nothing_else(
    fault: Fault, played: dict[Fault, Future[Survived]]
) -> None:
    survived = played[fault].result()
    print(f"{fault.name}: {survived}")
    if fault.cut is Cut.SOURCE:
        # However long the source is away, heartbeats hold the chunk.
        assert survived.reaped == 0


def test_every_toxic_and_every_phase_on_both_wires() -> None:
    for wires in ({Cut.SOURCE}, {Cut.STATE, Cut.STATE_OF_WORKERS}):
        covered = [fault for fault in COVERING if fault.cut in wires]
        assert {fault.phase for fault in covered} == set(Phase)
        assert {fault.toxic for fault in covered} == set(Toxic)
