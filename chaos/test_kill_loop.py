"""The kill loop for a while per state; ``make chaos`` runs it without an end."""

from __future__ import annotations

import os

import pytest

from chaos.conftest import SEED, product_of_sources
from chaos.kill_loop import LoopOptions, run_loop
from chaos.sources import MISSING
from tests.conftest import missing


def _seed() -> int:
    """The session's seed, which conftest printed first."""
    return int(os.environ[SEED])


_SECONDS = 30.0


@product_of_sources(mariadb=["sqlite"])
def test_half_a_minute_of_blows(source: str, state: str) -> None:
    options = LoopOptions(seed=_seed(), seconds=_SECONDS, source=source, state=state)
    try:
        tally = run_loop(options)
    except MISSING as absent:
        missing(str(absent))
    assert tally.campaigns >= 1
    assert tally.blows.total() >= 1


@pytest.mark.soak
@pytest.mark.timeout(900)
@product_of_sources()
def test_two_million_rows_once(source: str, state: str) -> None:
    """Also ``python -m chaos.kill_loop --rows 2000000 --campaigns 1 --source … --state …``."""
    options = LoopOptions(
        seed=_seed(), seconds=0.0, source=source, state=state, rows=2_000_000, campaigns=1
    )
    try:
        tally = run_loop(options)
    except MISSING as absent:
        missing(str(absent))
    assert tally.rows == 2_000_000
