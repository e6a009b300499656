"""One arena per source engine for all scenarios that leave the servers alone.

Where a test takes ``source``, it runs once for each engine; what goes beyond the time of the
default run is marked ``soak`` (``make chaos-all`` runs everything).
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from chaos.arena import STATES, Arena, arena
from chaos.sources import MISSING, SOURCES
from rivet_fleet.demo.embedded import (
    EmbeddedPostgres,
    EmbeddedPostgresMissing,
    embedded_postgres,
)
from tests.conftest import missing

ROWS = 3000
SEED = "RIVET_FLEET_CHAOS_SEED"
USUAL_SEED = 52_902
"""Of the default run, so that it can be repeated: the seed of 60,000 under which every kind of blow
has fallen soonest, after about four seconds."""
HERE = Path(__file__).parent


def product_of_sources(
    states: Sequence[str] = STATES, *, mariadb: Sequence[str] = ()
) -> pytest.MarkDecorator:
    """A test with ``source`` and ``state``, over every pair of them.

    ``mariadb``: the states with which MariaDB belongs to the default run; the others are ``soak``.
    """
    return pytest.mark.parametrize(
        ("source", "state"),
        [
            pytest.param(
                source,
                state,
                id=f"{source}-{state}",
                marks=[] if source == "postgres" or state in mariadb else pytest.mark.soak,
            )
            for source in SOURCES
            for state in states
        ],
    )


def pytest_configure(config: pytest.Config) -> None:
    """One seed for the whole session, chosen before any test process starts: long runs have one
    of their own each."""
    seed = secrets.randbelow(2**31) if config.option.markexpr else USUAL_SEED
    os.environ.setdefault(SEED, str(seed))


def _turn(item: pytest.Item) -> int:
    if HERE not in item.path.parents:
        return 2
    return 0 if item.path.stem == "test_kill_loop" else 1


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """The seed is printed first: whatever fails can be replayed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and not hasattr(session.config, "workerinput"):
        reporter.write_line(f"chaos seed {os.environ[SEED]} (replay: {SEED}={os.environ[SEED]})")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long chaos runs only when ``-m`` asks for it. The longest files first, each with its tests
    in their order: begun last, the kill loops would be a tail of minutes for one tester alone."""
    items.sort(key=_turn)
    if config.option.markexpr:
        return
    long = [item for item in items if item.get_closest_marker("soak") is not None]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@pytest.fixture(scope="session")
def state_server() -> Iterator[EmbeddedPostgres]:
    """One PostgreSQL for the states of all quiet arenas; do not restart it."""
    try:
        with embedded_postgres(settings={"fsync": "off"}) as server:
            yield server
    except EmbeddedPostgresMissing as absent:
        missing(str(absent))


@pytest.fixture(scope="session")
def arena_of(state_server: EmbeddedPostgres) -> Iterator[Callable[[str], Arena]]:
    """The quiet arena of an engine, made when it is first asked for: four tables of 3000 rows."""
    made: dict[str, Arena] = {}
    with contextlib.ExitStack() as cleanup:

        def of(engine: str) -> Arena:
            try:
                if engine not in made:
                    made[engine] = cleanup.enter_context(
                        arena(engine, rows=ROWS, state_server=state_server)
                    )
            except MISSING as absent:
                missing(str(absent))
            return made[engine]

        yield of


@pytest.fixture
def quiet_arena(source: str, arena_of: Callable[[str], Arena]) -> Arena:
    """The arena of the test's ``source``; do not restart its server."""
    return arena_of(source)
