"""A worker that is early: before its campaign is submitted, before its state database is up."""

from __future__ import annotations

from pathlib import Path

import pytest

from rivet_fleet.contracts.clock import SystemClock
from rivet_fleet.coordination import wiring
from rivet_fleet.demo.embedded import embedded_postgres
from rivet_fleet.errors import StateRefused
from tests.integration.conftest import ROWS
from tests.integration.fleet_cli import Desk
from tests.integration.test_state_copy import old


def test_a_worker_waits_for_the_state_and_for_its_campaign(desk: Desk) -> None:
    with embedded_postgres(settings={"fsync": "off"}) as server:
        desk.environment["RIVET_FLEET_STATE_URL"] = server.create_database("fleet")
        server.stop(mode="fast")
        given = ("-c", str(desk.config), "--campaign-id", "c1")
        desk.finish(desk.start("worker", *given), code=2)
        worker = desk.start("worker", *given, "--wait-s", "100")
        try:
            assert worker.stderr is not None
            assert any("open the state" in line for line in worker.stderr), "it did not wait"
            server.start()
            desk.cli("submit", "--campaign-id", "c1")
            desk.finish(worker)
        finally:
            worker.kill()
            worker.wait()
    assert desk.delivered() == list(range(1, ROWS + 1))


def test_an_older_schema_is_waited_for_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = old(f"sqlite:///{tmp_path / 'state.db'}", "0004")
    with pytest.raises(StateRefused, match="version 0004"):
        wiring._await_version(store, SystemClock(), 0.0)
    monkeypatch.setattr(wiring.time, "sleep", lambda _seconds: store.migrate())
    wiring._await_version(store, SystemClock(), 60.0)
    store.close()
