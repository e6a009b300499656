"""A short fuzz run of both compiled decoders; the long one runs under sanitizers by hand."""

from __future__ import annotations

import random
import sys

import pytest

from tests.fuzz.decoders import fuzz


@pytest.mark.parametrize("engine", ["postgres", "postgres-rows", "mysql"])
def test_damaged_streams_are_refused_or_give_valid_arrow(engine: str) -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}", file=sys.stderr)
    refused, accepted = fuzz(engine, 5_000 if engine == "postgres-rows" else 20_000, seed)
    assert refused and accepted
