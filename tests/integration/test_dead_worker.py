"""A worker that was killed: whoever looks on its host is told at once, and goes on at once."""

from __future__ import annotations

from tests.integration.conftest import ROWS
from tests.integration.fleet_cli import Desk, ended, run_sqlite
from tests.waiting import until

HOLDS = """
SELECT 1 FROM worker w JOIN chunk_task t ON t.owner = w.worker_id WHERE t.status = 'running'
"""


def test_a_worker_that_was_killed_is_told_dead_at_once(desk: Desk) -> None:
    desk.cli("submit")
    desk.environment["RIVET_FLEET_TEST_KILL"] = "part.staged:stop"
    with ended(desk.start("worker", "-c", str(desk.config))) as worker:
        until(lambda: run_sqlite(desk.state, HOLDS), what="a worker that holds a chunk and beats")
        worker.kill()
        worker.communicate()
    del desk.environment["RIVET_FLEET_TEST_KILL"]
    said = desk.cli("status").out
    assert "0 workers alive" in said and "its process has ended" in said
    assert "whose process has ended: whoever works on its host takes it back at once" in said
    assert "More workers would help" not in said
    desk.cli("worker")
    assert desk.delivered() == list(range(1, ROWS + 1))
