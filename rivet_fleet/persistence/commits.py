"""The ledger as it is read, and what of it is sealed: parts, commits, that it is whole (ADR 0024).

A part's seal covers its row and the submission of its run. A commit's covers under which fence a
chunk was read, its rows, and what all its parts are; so no part can vanish, come from another chunk
or attempt, or be exchanged, whatever a status says.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from rivet_fleet.contracts.codec import canonical_json, from_plain, loads
from rivet_fleet.contracts.keys import ChunkRange, RunId
from rivet_fleet.contracts.manifest import (
    ColumnStats,
    LedgerPart,
    PartDigest,
    PartStatus,
    RunLedger,
)
from rivet_fleet.contracts.reconcile import ComparedRange, RangeResult
from rivet_fleet.contracts.seals import Sealer, digest_of, is_sealed_range, tampered
from rivet_fleet.contracts.state import FinalizeLease
from rivet_fleet.errors import LeaseLost, StateTampered
from rivet_fleet.persistence.database import Database, Record, Transaction
from rivet_fleet.persistence.guards import typed
from rivet_fleet.persistence.seals import (
    RUN_SEAL,
    SEALED_OF_RUN,
    as_number,
    check_run,
    of_submission,
    said_by,
    sealed_run,
)

SEALED_OF_PART = (
    "run_id, export_name, chunk_index, part_number, fence, path, rows, bytes, fingerprint, md5, "
    "receipt_json, columns_json, changed_values, seal"
)
COMMITS = """
SELECT task_id, run_id, chunk_index, coalesce(commit_fence, fence) AS fence, rows_written,
       commit_seal, status, result_json
FROM chunk_task WHERE run_id = :run_id ORDER BY chunk_index
"""
"""The chunks of a run, with what their commits say; ``fence``: the one that each was committed
under, which a repair that was given up leaves behind."""
_FENCES = "SELECT chunk_index, fence FROM chunk_task WHERE run_id = :run_id"
_RESULTS = COMMITS.replace("status, result_json", "status, result_json, range_json")
_VOIDED = "voided"
_READ = ("committed", "completed")
Parts = Mapping[object, Sequence[Record]]


def seal_part(sealer: Sealer, part: Mapping[str, Any], submission: str) -> str:
    """The seal of one row of the ledger. ``submission``: its run's, as in ``RunSeal``."""
    return sealer.seal("part", _of_part(part, submission))


def check_part(sealer: Sealer, row: Record, submission: str) -> None:
    """Raise StateTampered when the part is not the one that was committed."""
    what = f"part {row.path} of run {row.run_id}"
    with typed(what):
        sealer.check(row.seal, "part", _of_part(row._mapping, submission), what)


def _of_part(part: Mapping[str, Any], submission: str) -> dict[str, object]:
    texts = ("run_id", "export_name", "path", "fingerprint", "md5", "receipt_json", "columns_json")
    numbers = ("chunk_index", "part_number", "fence", "rows", "bytes", "changed_values")
    return {
        **{n: part[n] for n in texts},
        **{n: as_number(part[n]) for n in numbers},
        **of_submission(submission),
    }


def seal_commit(
    sealer: Sealer, commit: Mapping[str, Any], parts: Sequence[Mapping[str, Any]], submission: str
) -> str:
    """The seal of a chunk's commit: under which fence, of how many rows in which ``parts``, all of
    the chunk that are not voided, in the order of their numbers."""
    return sealer.seal("commit", _of_commit(commit, parts, submission))


def check_commit(sealer: Sealer, task: Record, parts: Sequence[Record], submission: str) -> None:
    """Raise StateTampered unless the chunk was committed under its fence with exactly these
    parts."""
    what = f"the commit of chunk {task.chunk_index} of run {task.run_id}"
    with typed(what):
        fields = _of_commit(task._mapping, [part._mapping for part in parts], submission)
        sealer.check(task.commit_seal, "commit", fields, what)


def _of_commit(
    commit: Mapping[str, Any], parts: Sequence[Mapping[str, Any]], submission: str
) -> dict[str, object]:
    # A chunk of an edited status may have no number of rows at all: that is no sealed one.
    said = {name: commit[name] for name in ("run_id", "chunk_index", "fence", "rows_written")}
    if submission:
        contents = [_of_part(part, submission) for part in parts]
        said |= {"submission": submission, "contents": digest_of(canonical_json(contents).decode())}
    if commit["result_json"] is not None:
        said["result"] = digest_of(str(commit["result_json"]))
    return said | {"parts": len(parts)}


# ---------------------------------------------------------------- the whole ledger of a run


def standing_parts(rows: Sequence[Record]) -> Parts:
    """By chunk, the parts that are not voided, in the order of ``rows``: by their numbers."""
    found: dict[object, list[Record]] = defaultdict(list)
    for row in rows:
        if row.status != _VOIDED:
            found[row.chunk_index].append(row)
    return found


def check_commits(
    sealer: Sealer, seal: str | None, tasks: Sequence[Record], rows: Sequence[Record]
) -> None:
    """Raise StateTampered for a chunk that counts as read though nobody committed it so: its
    status was edited, or rows of its parts were. ``seal``: its run's; ``tasks`` (``COMMITS``) and
    ``rows``, with their status, of one moment."""
    with typed("the seal of a run"):
        said = said_by(seal)
    parts = standing_parts(rows)
    for task in tasks:
        # Of a program that sealed no commits one without a seal is believed; a seal that is there
        # is compared all the same.
        if task.status in _READ and (said.commits or task.commit_seal is not None):
            check_commit(sealer, task, _of_its_fence(task, parts), said.submission)


def check_whole(
    sealer: Sealer, run: Record, tasks: Sequence[Record], rows: Sequence[Record]
) -> None:
    """Raise StateTampered unless each chunk of the run was committed once, with exactly the parts
    that are there, whatever statuses say. ``run``: as ``check_run`` found it good.

    Of former programs' runs as far as their seals go: before commits were sealed, a chunk without
    one is believed; before commits covered their parts, numbers and sums are compared."""
    said, parts = said_by(run.seal), standing_parts(rows)
    indexes = [task.chunk_index for task in tasks]
    if said.commits and indexes != list(range(run.expected_tasks)):
        raise tampered(f"the list of chunks of run {run.run_id}")
    for task in tasks:
        mine = _of_its_fence(task, parts)
        if said.commits or task.commit_seal is not None:
            check_commit(sealer, task, mine, said.submission)
        if said.commits and not said.submission:
            _check_sums(task, mine)


def _of_its_fence(task: Record, parts: Parts) -> Sequence[Record]:
    """All parts of a chunk. Raises StateTampered for one of another attempt than was committed:
    reopening voids those before it, so that somebody brought it back."""
    mine = parts.get(task.chunk_index, ())
    for part in mine:
        if part.fence != task.fence:
            raise _of_another_attempt(part, task)
    return mine


def _of_another_attempt(part: Record, task: Record) -> StateTampered:
    return tampered(
        f"part {part.path} of run {part.run_id}, of another attempt (fence {part.fence}) than the "
        f"one that chunk {task.chunk_index} stands at (fence {task.fence}),"
    )


def _check_sums(task: Record, mine: Sequence[Record]) -> None:
    with typed(f"the parts of chunk {task.chunk_index} of run {task.run_id}"):
        numbers = [part.part_number for part in mine]
        rows = sum(part.rows for part in mine)
        if numbers != list(range(len(mine))) or rows != task.rows_written:
            raise ValueError


# ---------------------------------------------------------------- reading it


# Voided parts of former attempts have the same numbers as those that stand: file_id keeps them in
# the order of their attempts.
_PARTS = f"""
SELECT {SEALED_OF_PART}, status
FROM file_log WHERE run_id = :run_id CHUNK_FILTER VOIDED_FILTER
ORDER BY chunk_index, part_number, file_id
"""
_STANDING = _PARTS.replace("CHUNK_FILTER", "").replace("VOIDED_FILTER", "AND status <> 'voided'")
_LEASED = f"""
SELECT {SEALED_OF_RUN} FROM chunk_run
WHERE run_id = :run_id AND status = 'in_progress' AND finalize_fence = :finalize_fence
"""
_COMPLETED = f"""
SELECT {SEALED_OF_RUN} FROM chunk_run WHERE run_id = :run_id AND status = 'completed'
"""


class Deliveries:
    """The ledger as it is read, compared with its seals."""

    _db: Database

    def parts(
        self, run_id: RunId, *, chunk_index: int | None = None, include_voided: bool = False
    ) -> list[LedgerPart]:
        """The ledger of a run or of one chunk, in (chunk, part) order; what was voided on demand
        only. Raises StateTampered for a part that is not the one that was committed, and of a run
        for a chunk that counts as read though nobody committed it so."""
        sql = _PARTS.replace("VOIDED_FILTER", "" if include_voided else "AND status <> 'voided'")
        values: dict[str, object] = {"run_id": run_id}
        if chunk_index is not None:
            values["chunk_index"] = chunk_index
        chunk = "" if chunk_index is None else "AND chunk_index = :chunk_index"
        sql = sql.replace("CHUNK_FILTER", chunk)

        def work(tx: Transaction) -> tuple[str | None, Sequence[Record], Sequence[Record]]:
            tasks = tx.all(COMMITS, run_id=run_id) if chunk_index is None else ()
            return tx.scalar(RUN_SEAL, run_id=run_id), tasks, tx.all(sql, **values)

        seal, tasks, rows = self._db.read(work)
        check_commits(self._db.sealer, seal, tasks, rows)
        return _parts_from(rows, self._db.sealer, seal)

    def comparison(self, run_id: RunId) -> list[ComparedRange]:
        """The ranges of a run that compares another one, by chunk, with what was found of each; no
        result of one that is not done. Raises StateTampered for one that nobody committed so."""
        return self._db.read(lambda tx: read_comparison(tx, run_id))

    def whole_ledger(self, lease: FinalizeLease) -> RunLedger:
        """All that a run's manifest is made of, of one moment at which the finalizer's lease held.
        Raises LeaseLost, and StateTampered unless each chunk of the plan was committed once with
        exactly these parts, whatever statuses say (ADR 0024)."""
        found = self._whole(_LEASED, run_id=lease.run_id, finalize_fence=lease.finalize_fence)
        if found is None:
            raise LeaseLost(f"run {lease.run_id} is not this finalizer's any more")
        return found

    def completed_ledger(self, run_id: RunId) -> RunLedger | None:
        """The same of a run that is completed at that moment; None of any other, which is its
        finalizer's. Raises StateTampered."""
        return self._whole(_COMPLETED, run_id=run_id)

    def _whole(self, which: str, **named: object) -> RunLedger | None:
        def work(
            tx: Transaction,
        ) -> tuple[Record | None, Sequence[Record], Sequence[Record], Sequence[Record]]:
            # Run, chunks and parts of one moment: of two readings a trigger, or whoever toggles a
            # status, could show a row to one alone.
            mine = {"run_id": named["run_id"]}
            tasks, fences = tx.all(COMMITS, **mine), tx.all(_FENCES, **mine)
            return tx.first(which, **named), tasks, fences, tx.all(_STANDING, **mine)

        run, tasks, fences, rows = self._db.read(work)
        if run is None:
            return None
        check_run(self._db.sealer, run)
        check_whole(self._db.sealer, run, tasks, rows)
        return RunLedger(
            parts=_parts_from(rows, self._db.sealer, run.seal),
            fences={task.chunk_index: task.fence for task in fences},
        )


def read_parts(tx: Transaction, sql: str, run_id: RunId, **values: object) -> list[LedgerPart]:
    """What ``sql`` selects (``SEALED_OF_PART`` and the status) of one run's rows, each compared
    with its seal. Raises StateTampered."""
    rows = tx.all(sql, run_id=run_id, **values)
    return _parts_from(rows, tx.sealer, tx.scalar(RUN_SEAL, run_id=run_id))


def read_comparison(tx: Transaction, run_id: str) -> list[ComparedRange]:
    """See ``Deliveries.comparison``; inside the transaction of others."""
    tasks, sealed = tx.all(_RESULTS, run_id=run_id), sealed_run(tx, run_id)
    # A range that is gone, or another one, would take what was found in it along.
    if [task.chunk_index for task in tasks] != list(range(sealed.expected_tasks if sealed else 0)):
        raise tampered(f"the list of chunks of run {run_id}")
    for task in tasks:
        if sealed and not is_sealed_range(sealed.digests, task.chunk_index, task.range_json):
            raise tampered(f"the range of chunk {task.chunk_index} of run {run_id}")
    check_commits(tx.sealer, tx.scalar(RUN_SEAL, run_id=run_id), tasks, ())
    return [_compared_from(task) for task in tasks]


@typed("the result of a chunk")
def _compared_from(task: Record) -> ComparedRange:
    done = task.status in _READ and task.result_json is not None
    return ComparedRange(
        chunk_index=task.chunk_index,
        chunk_range=loads(ChunkRange, task.range_json),
        result=loads(RangeResult, task.result_json) if done else None,
    )


def _parts_from(rows: Sequence[Record], sealer: Sealer, seal: str | None) -> list[LedgerPart]:
    """Rows of the ledger as values, each compared with its seal. ``seal``: their run's. Raises
    StateTampered."""
    with typed("the seal of a run"):
        submission = said_by(seal).submission
    return [_part_from(row, sealer, submission) for row in rows]


@typed("a part of the ledger")
def _part_from(row: Record, sealer: Sealer, submission: str) -> LedgerPart:
    check_part(sealer, row, submission)
    return LedgerPart(
        run_id=row.run_id,
        export_name=row.export_name,
        chunk_index=row.chunk_index,
        part_number=row.part_number,
        fence=row.fence,
        path=row.path,
        digest=PartDigest(
            rows=row.rows,
            size_bytes=row.bytes,
            fingerprint=row.fingerprint,
            md5_base64=row.md5,
        ),
        receipt=json.loads(row.receipt_json),
        status=PartStatus(row.status),
        columns=tuple(from_plain(ColumnStats, c) for c in json.loads(row.columns_json)),
    )
