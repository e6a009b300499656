"""The looks at a source's counters, one row for each run."""

from __future__ import annotations

from rivet_fleet.contracts.codec import dumps, loads
from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.harm import HarmReading, RunHarm
from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.persistence.database import Database, Transaction
from rivet_fleet.persistence.journal import note

# The first look counts: a later worker of the same run finds it there.
_BEFORE = """
INSERT INTO export_harm (run_id, source, before_json)
SELECT r.run_id, :source, :before_json FROM chunk_run r
WHERE r.run_id = :run_id AND r.status = 'in_progress'
ON CONFLICT (run_id) DO NOTHING
"""
_AFTER = "UPDATE export_harm SET after_json = :after_json WHERE run_id = :run_id"
_OF_RUN = """
SELECT h.run_id, h.source, h.before_json, h.after_json, r.campaign_id, r.export_name
FROM export_harm h JOIN chunk_run r ON r.run_id = h.run_id WHERE h.run_id = :run_id
"""
_OF_CAMPAIGN = """
SELECT h.run_id, h.source, h.before_json, h.after_json
FROM export_harm h JOIN chunk_run r ON r.run_id = h.run_id
WHERE r.campaign_id = :campaign_id ORDER BY r.position
"""
FORGET_HARM = """
DELETE FROM export_harm WHERE run_id IN (
  SELECT run_id FROM chunk_run
  WHERE namespace = :namespace AND campaign_name = :campaign_name AND export_name = :export_name)
"""


class Harms:
    """Written once before and as often as a run ends after; read for people."""

    _db: Database

    def note_harm_before(self, run_id: RunId, source: str, reading: HarmReading) -> None:
        """See ``Store.note_harm_before``."""
        named = {"run_id": run_id, "source": source, "before_json": dumps(reading)}
        self._db.one(lambda tx: tx.run(_BEFORE, **named))

    def note_harm_after(self, run_id: RunId, reading: HarmReading) -> None:
        """See ``Store.note_harm_after``."""

        def work(tx: Transaction) -> None:
            tx.run(_AFTER, run_id=run_id, after_json=dumps(reading))
            row = tx.first(_OF_RUN, run_id=run_id)
            if row is not None:
                harm = _harm(*row[:4])
                note(tx, harm_event(harm, CampaignId(row.campaign_id), row.export_name))

        self._db.write(work)

    def harm(self, campaign_id: CampaignId) -> list[RunHarm]:
        """See ``Store.harm``."""
        rows = self._db.one(lambda tx: tx.all(_OF_CAMPAIGN, campaign_id=campaign_id))
        return [_harm(*row) for row in rows]


def harm_event(harm: RunHarm, campaign_id: CampaignId, export_name: str) -> Event:
    """What the counters did."""
    return Event(
        name=EventName.SOURCE_COUNTED,
        campaign_id=campaign_id,
        run_id=harm.run_id,
        export_name=export_name,
        data={"source": harm.source, "risen": harm.risen, "context": harm.before.context},
    )


def _harm(run_id: str, source: str, before_json: str, after_json: str | None) -> RunHarm:
    return RunHarm(
        run_id=RunId(run_id),
        source=source,
        before=loads(HarmReading, before_json),
        after=None if after_json is None else loads(HarmReading, after_json),
    )
