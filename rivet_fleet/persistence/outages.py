"""What the journal knows of a source that cannot be connected. It survives every process."""

from __future__ import annotations

from collections.abc import Sequence

from rivet_fleet.contracts.events import EventName
from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.state import Outage
from rivet_fleet.persistence.database import Database, Transaction

ANSWERED = (EventName.CHUNK_COMMITTED.value, EventName.CHUNK_FAILED.value)
"""The source was there, or said why not: a failure to connect gives the chunk back instead."""

# The newest answer is near the journal's end, unless there was none.
_ANSWERED = """
SELECT journal_id FROM run_journal
WHERE campaign_id = :campaign_id AND run_id IN (RUN_IDS) AND event IN (:committed, :failed)
ORDER BY journal_id DESC LIMIT 1
"""
_GIVEN_BACK = """
FROM run_journal
WHERE campaign_id = :campaign_id AND run_id IN (RUN_IDS) AND journal_id > :answered_id
  AND event = :released AND message <> ''
"""
_SINCE = f"SELECT COUNT(*) AS tries, MIN(at_s) AS since_s, MAX(at_s) AS last_s {_GIVEN_BACK}"
_LAST = f"SELECT message {_GIVEN_BACK} ORDER BY journal_id DESC LIMIT 1"


class Outages:
    """Read for people: nothing is decided by it."""

    _db: Database

    def outage(self, campaign_id: CampaignId, run_ids: Sequence[RunId]) -> Outage | None:
        """See ``Store.outage``."""
        named: dict[str, object] = {f"run_{n}": run_id for n, run_id in enumerate(run_ids)}
        if not named:
            return None
        listed = ", ".join(f":{name}" for name in named)
        named["campaign_id"] = campaign_id
        released = {**named, "released": EventName.CHUNK_RELEASED.value}

        def work(tx: Transaction) -> Outage | None:
            answered_id = tx.scalar(
                _ANSWERED.replace("RUN_IDS", listed),
                **named,
                committed=ANSWERED[0],
                failed=ANSWERED[1],
            )
            since = {**released, "answered_id": answered_id or 0}
            row = tx.first(_SINCE.replace("RUN_IDS", listed), **since)
            last = tx.scalar(_LAST.replace("RUN_IDS", listed), **since)
            if row is None or not row.tries:
                return None
            return Outage(since_s=row.since_s, last_s=row.last_s, tries=row.tries, message=last)

        return self._db.read(work)
