"""One arena for all scenarios that leave the servers alone."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest

from chaos.arena import Arena, arena
from rivet_fleet.demo.embedded import EmbeddedPostgresMissing
from tests.conftest import missing

ROWS = 3000
SEED = "RIVET_FLEET_CHAOS_SEED"


def pytest_configure(config: pytest.Config) -> None:
    """One seed for the whole session, chosen before any test process starts."""
    os.environ.setdefault(SEED, str(secrets.randbelow(2**31)))


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """The seed is printed first: whatever fails can be replayed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and not hasattr(session.config, "workerinput"):
        reporter.write_line(f"chaos seed {os.environ[SEED]} (replay: {SEED}={os.environ[SEED]})")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long chaos runs only when ``-m`` asks for it."""
    if config.option.markexpr:
        return
    long = [item for item in items if item.get_closest_marker("soak") is not None]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@pytest.fixture(scope="session")
def quiet_arena() -> Iterator[Arena]:
    """Four tables of 3000 rows; do not restart its server."""
    try:
        with arena(rows=ROWS) as made:
            yield made
    except EmbeddedPostgresMissing as absent:
        missing(str(absent))
