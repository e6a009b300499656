"""Reading and decoding alone: rivet-fleet's own pages of one table, dropped as they arrive.

``python -m bench.decode_only CONFIG``: one process, one connection, the planner's own columns and
first chunks, the servo's own pages. What a whole run costs beyond this is encoding and delivery.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.plan import PlannedRun
from rivet_fleet.coordination.wiring import load
from rivet_fleet.errors import SourceError
from rivet_fleet.execution import registry
from rivet_fleet.execution.extract import Pages, page_servo
from rivet_fleet.execution.servo import Allowance
from rivet_fleet.execution.source import Source
from rivet_fleet.planning.config.connections import source_connection
from rivet_fleet.planning.planner import facts_request, plan_campaign


def main() -> int:
    """Read every export of the configuration; the rows on standard output."""
    loaded = load(Path(sys.argv[1]), params={}, environ=os.environ)
    rows = 0
    for export in loaded.config.exports:
        connection = source_connection(loaded, loaded.source_name(export))
        source = registry.open_source(
            connection.engine, connection.url, application_name="rivet-fleet bench"
        )
        facts = {export.name: source.introspect(facts_request(loaded, export))}
        plan = plan_campaign(
            loaded,
            facts,
            campaign_id=CampaignId("2000-01-01-decode"),
            connections={connection.name: connection},
        )
        rows += sum(_drained(source, run) for run in plan.runs)
        source.close()
    print(rows)
    return 0


class _Restless:
    """A ``Pacer`` of a run that nothing holds back; an error ends the measurement."""

    def wait(self, seconds: float) -> None:
        """Nothing is waited for."""

    def allowance(self) -> Allowance:
        """Everything."""
        return Allowance()

    def retry_in_s(self, wait_s: float, lost_bytes: int, answer_bytes: int = 0) -> float:
        return wait_s

    def retried(self, error: SourceError, attempt: int, wait_s: float) -> None:
        """Raises ``error``."""
        raise error


def _drained(source: Source, run: PlannedRun) -> int:
    """Rows of all chunks of a run, read and dropped."""
    tuning, rows, servo = run.plan.tuning, 0, None
    for chunk in run.chunks:
        reader = source.open_chunk(run.plan.read, chunk.chunk_range, tuning)
        reader.pack()
        servo = servo or page_servo(reader, tuning)
        pages = Pages(reader, tuning, _Restless(), jitter=lambda: 0.0, servo=servo)
        while not pages.ended:
            rows += pages.next().num_rows
        reader.close()
    return rows


if __name__ == "__main__":
    sys.exit(main())
