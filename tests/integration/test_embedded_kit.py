"""The PostgreSQL of tests and demo, used by threads while others change the environment."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

from rivet_fleet.demo.embedded import EmbeddedPostgres

_NAMES = [f"RIVET_FLEET_TEST_CHURN_{number}" for number in range(40)]


def test_psql_does_not_mind_a_changing_environment(postgres: EmbeddedPostgres) -> None:
    """As pytest changes it at each test: without an own list one in ten failed with EFAULT."""
    over = threading.Event()

    def churn() -> None:
        length = 0
        while not over.is_set():
            length = (length + 1) % 500
            for name in _NAMES:
                os.environ[name] = "v" * length
            for name in _NAMES:
                os.environ.pop(name, None)

    churning = threading.Thread(target=churn)
    churning.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(postgres.psql, ["SELECT 1"] * 100))
    finally:
        over.set()
        churning.join()
    assert answers == ["1"] * 100
