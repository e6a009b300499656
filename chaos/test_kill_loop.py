"""The kill loop for a minute per state; ``make chaos`` runs it without an end."""

from __future__ import annotations

import os

import pytest

from chaos.arena import STATES
from chaos.conftest import SEED
from chaos.kill_loop import LoopOptions, run_loop
from rivet_fleet.demo.embedded import EmbeddedPostgresMissing
from tests.conftest import missing


def _seed() -> int:
    """The session's seed, which conftest printed first."""
    return int(os.environ[SEED])


@pytest.mark.parametrize("state", STATES)
def test_a_minute_of_blows(state: str) -> None:
    options = LoopOptions(seed=_seed(), seconds=60.0, state=state)
    try:
        tally = run_loop(options)
    except EmbeddedPostgresMissing as absent:
        missing(str(absent))
    assert tally.campaigns >= 1
    assert tally.blows.total() >= 1


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("state", STATES)
def test_two_million_rows_once(state: str) -> None:
    """Also ``python -m chaos.kill_loop --rows 2000000 --campaigns 1 --state …``."""
    options = LoopOptions(seed=_seed(), seconds=0.0, state=state, rows=2_000_000, campaigns=1)
    try:
        tally = run_loop(options)
    except EmbeddedPostgresMissing as absent:
        missing(str(absent))
    assert tally.rows == 2_000_000
