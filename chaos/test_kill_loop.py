"""The kill loop for one campaign per state; ``make chaos`` runs it without an end."""

from __future__ import annotations

import os
import random
from itertools import islice

import pytest

from chaos.conftest import SEED, USUAL_SEED, product_of_sources
from chaos.decisions import Blow, decisions
from chaos.kill_loop import LoopOptions, run_loop
from chaos.sources import MISSING
from chaos.stores import MISSING_STORES, STORES
from tests.conftest import missing


def _seed() -> int:
    """The session's seed, which conftest printed first."""
    return int(os.environ[SEED])


@product_of_sources(mariadb=["sqlite"])
def test_a_campaign_under_blows(source: str, state: str) -> None:
    options = LoopOptions(seed=_seed(), seconds=0.0, source=source, state=state, campaigns=1)
    try:
        tally = run_loop(options)
    except MISSING as absent:
        missing(str(absent))
    assert tally.campaigns == 1
    assert tally.blows.total() >= 1


@pytest.mark.parametrize("store", STORES)
def test_a_campaign_into_a_bucket_under_blows(store: str) -> None:
    """The server that holds it among those who fall."""
    options = LoopOptions(
        seed=_seed(), seconds=0.0, state="sqlite", destination=store, campaigns=1, rows=2000
    )
    try:
        tally = run_loop(options)
    except (*MISSING, *MISSING_STORES) as absent:
        missing(str(absent))
    assert tally.campaigns == 1
    assert tally.blows.total() >= 1


@pytest.mark.parametrize("state_can_crash", [True, False])
def test_the_usual_seed_holds_every_blow(state_can_crash: bool) -> None:
    """One campaign is short: what it does not meet is met by ``make chaos`` alone."""
    usual = decisions(random.Random(USUAL_SEED), state_can_crash=state_can_crash)
    kinds = set(Blow) - {Blow.CRASH_STORE}
    kinds -= set() if state_can_crash else {Blow.CRASH_STATE}
    assert {decision.blow for decision in islice(usual, 7)} == kinds


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("store", STORES)
@product_of_sources()
def test_campaign_after_campaign_into_a_bucket(source: str, state: str, store: str) -> None:
    options = LoopOptions(
        seed=_seed(), seconds=0.0, source=source, state=state, destination=store, campaigns=5
    )
    try:
        tally = run_loop(options)
    except (*MISSING, *MISSING_STORES) as absent:
        missing(str(absent))
    assert tally.campaigns == 5


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
