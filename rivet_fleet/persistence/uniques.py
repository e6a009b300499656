"""What parts know about unique keys: written with the commit, read by the finalizer alone."""

from __future__ import annotations

from collections.abc import Sequence

from rivet_fleet.contracts.keys import RunId
from rivet_fleet.contracts.part import StagedPart
from rivet_fleet.contracts.quality import UniqueStats
from rivet_fleet.persistence.database import Database, Record, Transaction

_ADD = """
INSERT INTO part_unique (run_id, chunk_index, part_number, fence, position, keys, duplicates,
                         complete, shift, entries)
VALUES (:run_id, :chunk_index, :part_number, :fence, :position, :keys, :duplicates, :complete,
        :shift, :entries)
"""
# Only what a part of the ledger still stands for: a reopened chunk's parts are voided.
_STATS = """
SELECT u.keys, u.duplicates, u.complete, u.shift, u.entries FROM part_unique u
JOIN file_log f ON f.run_id = u.run_id AND f.chunk_index = u.chunk_index
  AND f.part_number = u.part_number AND f.fence = u.fence AND f.status <> 'voided'
WHERE u.run_id = :run_id AND u.position = :position
ORDER BY u.chunk_index, u.part_number
"""
_FORGET_FORMER = """
DELETE FROM part_unique WHERE run_id IN (
  SELECT run_id FROM chunk_run WHERE namespace = :namespace AND campaign_name = :campaign_name
    AND export_name = :export_name AND run_id <> :run_id AND status <> 'in_progress')
"""


class Uniques:
    """Reading, as plain values."""

    _db: Database

    def unique_stats(
        self, run_id: RunId, position: int, columns: tuple[str, ...]
    ) -> list[UniqueStats]:
        """See ``Store.unique_stats``."""
        named = {"run_id": run_id, "position": position}
        rows = self._db.one(lambda tx: tx.all(_STATS, **named))
        return [_stats_from(row, columns) for row in rows]


def add_uniques(tx: Transaction, task: Record, fence: int, parts: Sequence[StagedPart]) -> None:
    """The statistics of a chunk's parts, in the transaction that commits it (Q1)."""
    named = {"run_id": task.run_id, "chunk_index": task.chunk_index, "fence": fence}
    values = [
        {
            **named,
            "part_number": part.part_number,
            "position": position,
            "keys": stats.keys,
            "duplicates": stats.duplicates,
            "complete": int(stats.complete),
            "shift": stats.shift,
            "entries": stats.entries,
        }
        for part in parts
        for position, stats in enumerate(part.uniques)
    ]
    if values:
        tx.run_many(_ADD, values)


def forget_former(tx: Transaction, run: Record) -> None:
    """Former runs of the export need theirs no more: only the last can be reopened usefully."""
    tx.run(
        _FORGET_FORMER,
        campaign_name=run.campaign_name,
        export_name=run.export_name,
        run_id=run.run_id,
    )


def _stats_from(row: Record, columns: tuple[str, ...]) -> UniqueStats:
    return UniqueStats(
        columns=columns,
        keys=row[0],
        duplicates=row[1],
        complete=bool(row[2]),
        shift=row[3],
        entries=bytes(row[4]),
    )
