"""At 50,000 tasks every hot statement uses an index: EXPLAIN says so on both backends."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from rivet_fleet.persistence import budgets, campaigns, claims, finalizers, views
from tests.campaigns import campaign_plan
from tests.stores import SqlBackend, sqlite_backend

EXPORTS = 5
CHUNKS = 10_000

_CLAIM = claims.CLAIM_ONE_STATEMENT.replace("MARKED ", "")
STATEMENTS = {
    "claim": _CLAIM.replace("PICK", claims.PICK_ANY),
    "claim in a group": _CLAIM.replace("PICK", claims.PICK_IN_GROUP),
    "mark what was read": claims.MARK_READ,
    "reap": claims.REAPABLE.replace("EXPIRED_FILTER", claims.EXPIRED).replace(
        "CAMPAIGN_FILTER", ""
    ),
    "reap a worker": claims.OWNED,
    "count a group's running": budgets.COUNT_RUNNING,
    "how a group stands": budgets.STANDING,
    "the groups of a campaign": budgets.GROUP_VIEWS,
    "committed": views.COMMITTED,
    "finalizable": finalizers.FINALIZABLE.replace("ALL_COMPLETED", finalizers.ALL_COMPLETED),
    "settle": campaigns.OPEN_WORK,
}
PARAMETERS: dict[str, object] = {
    "namespace": "default",
    "campaign_id": "c1",
    "group_name": "db",
    "task_id": 30_055,
    "read_task_id": 30_055,
    "read_fence": 1,
    "worker_id": "w",
    "name": "w",
    "host_id": "h",
    "pid": 1,
    "lease_ttl_s": 60.0,
    "limit": 100,
    "idle_s": 1.0,
}

# The mixture in the middle of a campaign: most done, some committed and failed, few running.
_MIDWAY = """
WITH numbered AS (SELECT task_id AS id, run_position * 10000 + chunk_index AS n FROM chunk_task)
UPDATE chunk_task SET
  status = CASE WHEN n < 30000 THEN 'completed' WHEN n < 30050 THEN 'committed'
                WHEN n < 30066 THEN 'running' WHEN n < 30070 THEN 'failed' ELSE 'pending' END,
  attempts = CASE WHEN n < 30068 THEN 1 WHEN n < 30070 THEN 3 ELSE 0 END,
  owner = CASE WHEN n BETWEEN 30050 AND 30065 THEN 'w' END,
  lease_expires_at_s = CASE WHEN n BETWEEN 30050 AND 30065 THEN NOW_S - 5 END
FROM numbered WHERE numbered.id = chunk_task.task_id
"""


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def midway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SqlBackend]:
    if request.param == "sqlite":
        backend = sqlite_backend(tmp_path_factory.mktemp("plans"))
    else:
        server = request.getfixturevalue("postgres")
        backend = SqlBackend(server.create_database("store_plans"))
    backend.store.submit(campaign_plan(chunks=(CHUNKS,) * EXPORTS, groups=("db",) * EXPORTS))
    backend.execute(_MIDWAY)
    with backend.sql._db.connected() as connection:
        connection.exec_driver_sql("ANALYZE" if request.param == "sqlite" else "VACUUM ANALYZE")
    yield backend
    backend.store.close()


def plan_of(backend: SqlBackend, sql: str, **changes: object) -> str:
    dialect = backend.sql._db.dialect
    if not dialect.one_statement_claim:
        # SQLite runs the same pick inside an UPDATE of its own.
        sql = re.sub(r"WITH picked AS \((.*?)\),\s*claimed AS.*", r"\1", sql, flags=re.S)
    for name, fragment in dialect.fragments.items():
        sql = sql.replace(name, fragment.replace("::", r"\:\:"))
    explain = "EXPLAIN" if dialect.one_statement_claim else "EXPLAIN QUERY PLAN"
    used = {k: v for k, v in {**PARAMETERS, **changes}.items() if re.search(rf"(?<!:):{k}\b", sql)}
    with backend.sql._db.connected() as connection:
        rows = connection.execute(text(f"{explain} {sql}"), used).fetchall()
    return "\n".join(str(row[-1]) for row in rows)


@pytest.mark.parametrize("name", STATEMENTS)
def test_no_hot_statement_scans_the_tasks(midway: SqlBackend, name: str) -> None:
    plan = plan_of(midway, STATEMENTS[name])
    assert "Seq Scan on chunk_task" not in plan, plan
    # SQLite says SCAN for a whole table or a whole index, SEARCH for a range of an index. A
    # partial index that holds only the rows in question may be scanned whole.
    scans = re.findall(r"SCAN (?:t|u|chunk_task)\b.*", plan)
    partial = ("ix_chunk_task_running", "ix_chunk_task_committed", "ix_chunk_task_claim")
    assert all(any(index in scan for index in partial) for scan in scans), plan


@pytest.mark.parametrize("name", ["claim", "claim in a group"])
def test_the_claim_stops_at_the_first_row_of_its_index(midway: SqlBackend, name: str) -> None:
    plan = plan_of(midway, STATEMENTS[name])
    assert "ix_chunk_task_claim" in plan
    assert "Sort" not in plan and "TEMP B-TREE" not in plan, plan


def test_a_fresh_campaign_is_claimed_by_its_index_at_once(midway: SqlBackend) -> None:
    midway.store.submit(campaign_plan(campaign_id="c2", name="fresh", chunks=(5000,)))
    plan = plan_of(midway, STATEMENTS["claim"], campaign_id="c2")
    assert "ix_chunk_task_claim" in plan and "Seq Scan on chunk_task" not in plan, plan
