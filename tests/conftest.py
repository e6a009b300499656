"""Servers the tests need: started and stopped here, real, loopback only."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from rivet_fleet.demo.embedded import EmbeddedPostgres, EmbeddedPostgresMissing, embedded_postgres

_numbers = itertools.count(1)


def missing(reason: str) -> None:
    """A missing server skips on a laptop and fails where CI is set."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """One PostgreSQL for the whole test session (source or state). Do not restart it."""
    try:
        with embedded_postgres(settings={"fsync": "off"}) as server:
            yield server
    except EmbeddedPostgresMissing as absent:
        missing(str(absent))


@pytest.fixture
def database(postgres: EmbeddedPostgres) -> str:
    """The URL of a new empty database on the session's server."""
    return postgres.create_database(f"t{os.getpid()}_{next(_numbers)}")
