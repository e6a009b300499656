"""The source's server crashes, is shut down, or stands still in the middle of a chunk.

With PostgreSQL the kill loop of the default run crashes it; the rest is ``-m soak``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest

from chaos.arena import STATES, Arena, arena
from chaos.conftest import ROWS
from chaos.source_scenarios import Ill, play
from chaos.sources import MISSING, SOURCES
from rivet_fleet.demo.embedded import EmbeddedPostgres
from tests.conftest import missing

_BY_DEFAULT = {("mariadb", "sqlite", ill) for ill in (Ill.CRASH, Ill.SHUTDOWN, Ill.PAUSE)}
CASES = [
    pytest.param(
        source,
        state,
        ill,
        id=f"{source}-{state}-{ill.value}",
        marks=[] if (source, state, ill) in _BY_DEFAULT else pytest.mark.soak,
    )
    for source, state, ill in product(SOURCES, STATES, Ill)
]


@pytest.fixture(scope="module")
def rough_arena(source: str, state_server: EmbeddedPostgres) -> Iterator[Arena]:
    """An arena whose source is nobody else's."""
    try:
        with arena(source, rows=ROWS, state_server=state_server) as made:
            yield made
    except MISSING as absent:
        missing(str(absent))


@pytest.mark.parametrize(("source", "state", "ill"), CASES, scope="module")
def test_an_ill_source_costs_time_and_nothing_else(
    rough_arena: Arena, state: str, ill: Ill
) -> None:
    print(f"{rough_arena.engine}, {ill.value}: noticed after {play(rough_arena, state, ill)} s")
