"""One arena for all scenarios that leave the servers alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chaos.arena import Arena, arena
from rivet_fleet.demo.embedded import EmbeddedPostgresMissing
from tests.conftest import missing

ROWS = 3000


@pytest.fixture(scope="session")
def quiet_arena() -> Iterator[Arena]:
    """Four tables of 3000 rows; do not restart its server."""
    try:
        with arena(rows=ROWS) as made:
            yield made
    except EmbeddedPostgresMissing as absent:
        missing(str(absent))
