"""The journal: one row per event, in the transaction of the transition it tells about."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rivet_fleet.contracts.codec import to_plain
from rivet_fleet.contracts.events import EVENT_VERSION, Event, Told
from rivet_fleet.contracts.state import JournalEntry, JournalFilter
from rivet_fleet.persistence.database import Record, Transaction
from rivet_fleet.persistence.guards import typed

# When it was told is by the database's clock (F3); this process's clock says how long ago alone.
_INSERT = f"""
INSERT INTO run_journal (namespace, at_s, event_version, event, campaign_id, run_id, export_name,
                         chunk_index, worker_id, message, data_json)
VALUES (:namespace, NOW_S - :ago_s, {EVENT_VERSION}, :event, :campaign_id, :run_id, :export_name,
        :chunk_index, :worker_id, :message, :data_json)
"""

JOURNAL_COLUMNS = (
    "journal_id, at_s, event, campaign_id, run_id, export_name, chunk_index, worker_id, "
    "message, data_json"
)


def note(tx: Transaction, event: Event) -> None:
    """Append one event."""
    note_all(tx, [event])


def note_all(tx: Transaction, events: Sequence[Event], *, told: Sequence[Told] = ()) -> None:
    """Append what was ``told`` before, then ``events``, each in their order."""
    rows = [_values(t.event, t.ago_s()) for t in told] + [_values(e) for e in events]
    if rows:
        tx.run_many(_INSERT, rows)


def _values(event: Event, ago_s: float = 0.0) -> dict[str, object]:
    return {
        "ago_s": ago_s,
        "event": event.name.value,
        "campaign_id": event.campaign_id,
        "run_id": event.run_id,
        "export_name": event.export_name,
        "chunk_index": event.chunk_index,
        "worker_id": event.worker_id,
        "message": event.message,
        "data_json": json.dumps(to_plain(event.data), ensure_ascii=False),
    }


def filter_sql(only: JournalFilter) -> tuple[str, dict[str, object]]:
    """Further conditions, each beginning with AND, and their values."""
    where, values = "", dict[str, object]()
    if only.export_name is not None:
        where, values["only_export"] = " AND export_name = :only_export", only.export_name
    if only.events:
        names = {f"event_{number}": event for number, event in enumerate(only.events)}
        where += f" AND event IN ({', '.join(f':{name}' for name in names)})"
        values.update(names)
    if only.worker is not None:
        where += """ AND (worker_id = :only_worker OR worker_id IN
                     (SELECT w.worker_id FROM worker w
                      WHERE w.namespace = :namespace AND w.name = :only_worker))"""
        values["only_worker"] = only.worker
    if only.since_s is not None:
        where += " AND at_s >= :since_s"
        values["since_s"] = only.since_s
    return where, values


def unreadable_entry(row: Record) -> JournalEntry:
    """In the place of a row that is no entry: whoever counts or follows ids has its id."""
    return JournalEntry(
        journal_id=row[0],
        at_s=0.0,
        event="journal.unreadable",
        campaign_id=None,
        run_id=None,
        export_name=None,
        chunk_index=None,
        worker_id=None,
        message="an entry that no program of the fleet wrote so: it was edited",
    )


@typed("an entry of the journal")
def entry_from(row: Record) -> JournalEntry:
    """A journal row as a value; columns in the order of ``JOURNAL_COLUMNS``. Raises
    StateTampered."""
    return JournalEntry(
        journal_id=row[0],
        at_s=row[1],
        event=row[2],
        campaign_id=row[3],
        run_id=row[4],
        export_name=row[5],
        chunk_index=row[6],
        worker_id=row[7],
        message=row[8],
        data=dict(json.loads(row[9])),
    )
