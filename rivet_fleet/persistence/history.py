"""What former runs measured, and where exports stand: read when the next campaign is planned."""

from __future__ import annotations

from collections.abc import Sequence

from rivet_fleet.contracts.codec import loads
from rivet_fleet.contracts.keys import RunId
from rivet_fleet.contracts.plan import ExportPlan
from rivet_fleet.contracts.state import MeasuredRun
from rivet_fleet.persistence.database import Database, Record, Transaction
from rivet_fleet.persistence.seals import SEALED_OF_RUN, check_run

_ENDED = """
SELECT run_id, run_at_s, status, total_rows, bytes_written, duration_ms, work_ms, chunks, retries
FROM export_metrics
WHERE export_name = :export_name AND namespace = :namespace AND campaign_name = :campaign_name
ORDER BY metrics_id DESC LIMIT :limit
"""
# A run whose chunks failed for good never ends by itself: its campaign was given up, or rests
# incomplete. Without these the history would know successes only.
_GIVEN_UP = """
SELECT r.run_id, coalesce(c.finished_at_s, r.created_at_s) AS run_at_s, 'failed' AS status,
       0 AS total_rows, 0 AS bytes_written, 0 AS duration_ms,
       (SELECT sum(CASE WHEN t.committed_at_s > t.claimed_at_s
                        THEN t.committed_at_s - t.claimed_at_s ELSE 0 END) * 1000
        FROM chunk_task t WHERE t.run_id = r.run_id AND t.claimed_at_s IS NOT NULL
          AND t.committed_at_s IS NOT NULL) AS work_ms,
       r.expected_tasks AS chunks,
       (SELECT coalesce(sum(CASE WHEN t.attempts > 1 THEN t.attempts - 1 ELSE 0 END), 0)
        FROM chunk_task t WHERE t.run_id = r.run_id) AS retries
FROM chunk_run r JOIN campaign c ON c.campaign_id = r.campaign_id
WHERE r.namespace = :namespace AND r.campaign_name = :campaign_name
  AND r.export_name = :export_name
  AND r.status IN ('in_progress', 'cancelled') AND c.status IN ('incomplete', 'cancelled')
  AND EXISTS (SELECT 1 FROM chunk_task t WHERE t.run_id = r.run_id AND t.status = 'failed')
ORDER BY run_at_s DESC LIMIT :limit
"""
_LAST_PLAN = """
SELECT SEALED FROM export_state s JOIN chunk_run r ON r.run_id = s.last_run_id
WHERE s.namespace = :namespace AND s.campaign_name = :campaign_name
  AND s.export_name = :export_name
"""


class Histories:
    """Reading, as plain values."""

    _db: Database

    def history(
        self, campaign_name: str, export_names: Sequence[str], *, limit: int = 20
    ) -> dict[str, list[MeasuredRun]]:
        """See ``Store.history``."""

        def work(tx: Transaction) -> dict[str, list[MeasuredRun]]:
            named = {"campaign_name": campaign_name, "limit": limit}
            found = {}
            for name in export_names:
                rows = [
                    *tx.all(_ENDED, **named, export_name=name),
                    *tx.all(_GIVEN_UP, **named, export_name=name),
                ]
                if rows:
                    runs = sorted(map(_measured_from, rows), key=lambda run: -run.run_at_s)
                    found[name] = runs[:limit]
            return found

        return self._db.read(work)

    def last_plans(self, campaign_name: str, export_names: Sequence[str]) -> dict[str, ExportPlan]:
        """See ``Store.last_plans``."""

        def work(tx: Transaction) -> dict[str, str]:
            named = {"campaign_name": campaign_name}
            sealed = ", ".join(f"r.{name}" for name in SEALED_OF_RUN.split(", "))
            sql = _LAST_PLAN.replace("SEALED", sealed)
            found = {n: tx.first(sql, **named, export_name=n) for n in export_names}
            runs = {name: run for name, run in found.items() if run is not None}
            for run in runs.values():
                check_run(tx.sealer, run)
            return {name: run.plan_json for name, run in runs.items()}

        return {name: loads(ExportPlan, plan) for name, plan in self._db.read(work).items()}


def _measured_from(row: Record) -> MeasuredRun:
    return MeasuredRun(
        run_id=RunId(row.run_id),
        run_at_s=row.run_at_s,
        succeeded=row.status == "success",
        rows=row.total_rows,
        bytes=row.bytes_written,
        duration_s=row.duration_ms / 1000,
        work_s=None if row.work_ms is None else row.work_ms / 1000,
        chunks=row.chunks,
        retries=row.retries,
    )
