"""The kill loop for a minute per state; ``make chaos`` runs it without an end."""

from __future__ import annotations

import os
import secrets

import pytest

from chaos.arena import STATES
from chaos.kill_loop import LoopOptions, run_loop
from rivet_fleet.demo.embedded import EmbeddedPostgresMissing
from tests.conftest import missing

SEED = "RIVET_FLEET_CHAOS_SEED"


def _seed() -> int:
    """A fresh one every time, unless a failed run is to be replayed."""
    return int(os.environ.get(SEED) or secrets.randbelow(2**31))


@pytest.mark.parametrize("state", STATES)
def test_a_minute_of_blows(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = LoopOptions(seed=_seed(), seconds=60.0, state=state)
    with capsys.disabled():
        print(f"\nkill loop, {state}: seed {options.seed}")
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
