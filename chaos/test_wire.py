"""Toxiproxy between the fleet and its databases, in each phase of a chunk.

By default a covering set: every toxic and every phase on both wires, and for the workers alone
what a coordinator elsewhere makes worse; all that with PostgreSQL as the source and the state, and
with MariaDB what its own wire can do. The full product is ``-m soak``. Scenarios overlap in time,
because most of one is waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import product
from typing import TypeAlias, cast

import pytest

from chaos.arena import STATES, Arena
from chaos.sources import SOURCES
from chaos.wire import Toxic, ToxiproxyMissing, toxiproxy
from chaos.wire_scenarios import Cut, Fault, Phase, Survived, play
from tests.conftest import missing

_AT_ONCE = 5
Factory: TypeAlias = pytest.TempPathFactory

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
_COVERING_MARIADB = (
    (Phase.PAGE, Cut.SOURCE, Toxic.HALF_OPEN),
    (Phase.HEARTBEAT, Cut.SOURCE, Toxic.DEAF),
    (Phase.CLAIM, Cut.SOURCE, Toxic.DOWN),
    (Phase.PAGE, Cut.SOURCE, Toxic.NARROW),
    (Phase.PAGE, Cut.SOURCE, Toxic.RESET),
)
COVERING = [Fault(phase=phase, cut=cut, toxic=toxic) for phase, cut, toxic in _COVERING]
# A coordinator that shares no wire with the workers may finalize without meeting the fault.
REST = [
    fault
    for phase, cut, toxic in product(Phase, Cut, set(Toxic) - {Toxic.STEEP})
    if (fault := Fault(phase=phase, cut=cut, toxic=toxic)) not in COVERING
    and not (phase is Phase.FINALIZE and cut is Cut.STATE_OF_WORKERS)
]
COVERING_MARIADB = [Fault(phase=p, cut=c, toxic=t) for p, c, t in _COVERING_MARIADB]
BY_DEFAULT = {
    **{("postgres", "postgres", fault): None for fault in COVERING},
    **{("mariadb", "postgres", fault): None for fault in COVERING_MARIADB},
}
"""In order: what takes longest comes first."""
Case = tuple[str, str, Fault]
_SOAK: list[Case] = [
    case
    for source, state, fault in product(SOURCES, STATES, [*COVERING, *REST])
    if (case := (source, state, fault)) not in BY_DEFAULT
    # A SQLite file has no wire.
    and (state == "postgres" or fault.cut is Cut.SOURCE)
]


def _name(case: Case) -> str:
    source, state, fault = case
    return f"{source}-{state}-{fault.name}"


CASES = [
    *(pytest.param(case, id=_name(case)) for case in BY_DEFAULT),
    *(pytest.param(case, id=_name(case), marks=pytest.mark.soak) for case in _SOAK),
]


@pytest.fixture(scope="module")
def played(
    request: pytest.FixtureRequest, arena_of: Callable[[str], Arena], tmp_path_factory: Factory
) -> Iterator[dict[Case, Future[Survived]]]:
    """Every selected case, started in order, a few at a time."""
    test = test_a_broken_wire_costs_time_and_nothing_else.__name__
    selected = [
        cast(Case, item.callspec.params["case"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == test
    ]
    arenas = {source: arena_of(source) for source, _, _ in selected}
    try:
        with (
            toxiproxy(tmp_path_factory.mktemp("wires") / "toxiproxy.log") as proxy,
            ThreadPoolExecutor(_AT_ONCE) as pool,
        ):
            try:
                yield {c: pool.submit(play, arenas[c[0]], proxy, *c[1:]) for c in selected}
            finally:
                pool.shutdown(cancel_futures=True)
    except ToxiproxyMissing as absent:
        missing(str(absent))


@pytest.mark.parametrize("case", CASES)
def test_a_broken_wire_costs_time_and_nothing_else(
    case: Case, played: dict[Case, Future[Survived]]
) -> None:
    survived = played[case].result()
    print(f"{_name(case)}: {survived}")
    if case[2].cut is Cut.SOURCE:
        # However long the source is away, heartbeats hold the chunk.
        assert survived.reaped == 0


def test_every_toxic_and_every_phase_on_both_wires() -> None:
    for wires in ({Cut.SOURCE}, {Cut.STATE, Cut.STATE_OF_WORKERS}):
        covered = [fault for fault in COVERING if fault.cut in wires]
        assert {fault.phase for fault in covered} == set(Phase)
        # Little is sent to a database.
        assert {fault.toxic for fault in covered} == set(Toxic) - {Toxic.STEEP}
