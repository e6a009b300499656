"""The PostgreSQL of tests and demo, used by threads while others change the environment."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from rivet_fleet.demo.embedded import EmbeddedPostgres, _is_ours

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


@pytest.mark.parametrize("squatted", ["link", "writable", "file", "another's"])
def test_programs_that_somebody_else_may_have_put_there_are_not_run(tmp_path, squatted) -> None:
    ours, found = tmp_path / "ours", tmp_path / "found"
    ours.mkdir(mode=0o755)
    assert _is_ours(ours) and not _is_ours(found)
    if squatted == "link":
        found.symlink_to(ours)
    elif squatted == "file":
        found.write_text("")
    else:
        found.mkdir()
        found.chmod(0o777 if squatted == "writable" else 0o755)
    if squatted == "another's":
        if os.geteuid() != 0:
            pytest.skip("only root gives a folder away")
        os.chown(found, 65534, 65534)
    assert not _is_ours(found)
