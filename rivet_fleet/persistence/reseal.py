"""Sealing a state anew: each row is checked by its present seal first (ADR 0024).

Everything is read before anything is written, and only rows that were read get a seal: what comes
in meanwhile, by a trigger, too, gets none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, text

from rivet_fleet.contracts.codec import loads
from rivet_fleet.contracts.keys import ChunkRange
from rivet_fleet.contracts.plan import ExportPlan
from rivet_fleet.contracts.reconcile import RangeResult
from rivet_fleet.contracts.seals import Sealer, digest_of, tampered
from rivet_fleet.errors import StateRefused
from rivet_fleet.persistence.commits import (
    COMMITS,
    SEALED_OF_PART,
    check_commit,
    check_part,
    seal_commit,
    seal_part,
    standing_parts,
)
from rivet_fleet.persistence.database import Record
from rivet_fleet.persistence.guards import typed
from rivet_fleet.persistence.seals import (
    KINDS_OF_WORD,
    PROMISES,
    SEALED_OF_MARK,
    SEALED_OF_RUN,
    WORDS,
    check_budget,
    check_mark,
    check_run,
    check_words,
    of_budget,
    said_by,
    seal_budget,
    seal_mark,
    seal_run,
    seal_word,
)

_BATCH_ROWS = 1000
_PARTS = f"""
SELECT {SEALED_OF_PART}, file_id, status FROM file_log WHERE run_id = :run_id
ORDER BY chunk_index, part_number, file_id
"""


_SEAL_RUN = "UPDATE chunk_run SET seal = :seal, chunk_digests = :chunk_digests WHERE run_id = :id"
_SEAL_PART = "UPDATE file_log SET seal = :seal WHERE file_id = :id"
_SEAL_COMMIT = "UPDATE chunk_task SET commit_seal = :seal WHERE task_id = :id"
_SEAL_BUDGET = (
    "UPDATE source_budget SET seal = :seal "
    "WHERE namespace = :namespace AND group_name = :group_name"
)
_SEAL_MARK = (
    "UPDATE export_state SET mark_seal = :seal WHERE namespace = :namespace "
    "AND campaign_name = :campaign_name AND export_name = :export_name"
)
NOT_SHOWN = "RIVET_STATE_NOT_SHOWN"
"""There is something else to be sealed than what an operator has said yes to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunToSeal:
    """A run as it would be sealed. ``kept``: all else that would be: its row, what its seal
    promises, its words, commits and parts, a line each. Whatever of them is another, a line is."""

    run_id: str
    plan_json: str
    ranges: Sequence[str]
    kept: Sequence[str]

    def plan(self) -> ExportPlan:
        """As this program understands it. Raises StateTampered."""
        with typed(f"the plan of run {self.run_id}"):
            return loads(ExportPlan, self.plan_json)

    def chunk_ranges(self) -> list[ChunkRange]:
        """In the order of the chunks. Raises StateTampered."""
        with typed(f"the ranges of run {self.run_id}"):
            return [loads(ChunkRange, one) for one in self.ranges]


@dataclass(slots=True)
class ToSeal:
    """Everything that would be sealed, as it was read in one transaction."""

    runs: list[RunToSeal] = field(default_factory=list)
    budgets: list[dict[str, object]] = field(default_factory=list)
    marks: list[Record] = field(default_factory=list)
    seals: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By statement, the new seal of each row that was read."""
    _digest: Any = field(default_factory=hashlib.sha256)

    @property
    def fingerprint(self) -> str:
        """64 hex digits over every column and former seal that was read, in order."""
        return str(self._digest.hexdigest())

    def note(self, kind: str, rows: Sequence[Any]) -> Sequence[Any]:
        """The rows, which are part of the fingerprint from now on."""
        for row in rows:
            self._digest.update(ascii((kind, tuple(row))).encode() + b"\n")
        return rows

    def give(self, sql: str, **values: object) -> None:
        """A row gets a seal."""
        self.seals.setdefault(sql, []).append(values)


def reseal(
    connection: Connection,
    old: Sealer | None,
    new: Sealer,
    namespace: str | None,
    shown: str | None = None,
) -> int:
    """Seal every row anew, those of one namespace or of all; how many runs there were.

    ``old`` checks each row first; None takes what is there as it is (a state of a program that
    sealed nothing). ``shown``: the fingerprint of what may be sealed, None for whatever is there.
    Raises StateTampered or StateRefused before anything is written.
    """
    found = to_seal(connection, old, new, namespace)
    if shown is not None and shown != found.fingerprint:
        raise StateRefused(
            "what is there now is not what was shown, or the fingerprint is another's: nothing "
            "was changed",
            hint="`rivet-fleet state reseal` shows what is there now; who changed it?",
            code=NOT_SHOWN,
        )
    for sql, values in found.seals.items():
        for start in range(0, len(values), _BATCH_ROWS):
            connection.execute(text(sql), values[start : start + _BATCH_ROWS])
    return len(found.runs)


def to_seal(
    connection: Connection, old: Sealer | None, new: Sealer, namespace: str | None
) -> ToSeal:
    """Read and check all that ``reseal`` seals, and compute its seals. Changes nothing. Raises
    StateTampered, StateRefused."""
    found = ToSeal()
    within = "" if namespace is None else " AND namespace = :namespace"
    named = {} if namespace is None else {"namespace": namespace}

    def rows(kind: str, sql: str) -> Sequence[Record]:
        return found.note(kind, connection.execute(text(sql), named).fetchall())

    runs = f"SELECT {SEALED_OF_RUN} FROM chunk_run WHERE 1 = 1{within} ORDER BY run_id"
    for run in rows("run", runs):
        ranges = _run(connection, found, old, new, run)
        kept = _row(run)
        kept += _words(connection, found, old, new, run) if old is not None else []
        kept += _ledger(connection, found, old, new, run)
        found.runs.append(
            RunToSeal(run_id=run.run_id, plan_json=run.plan_json, ranges=ranges, kept=kept)
        )
    budgets = f"SELECT * FROM source_budget WHERE 1 = 1{within} ORDER BY namespace, group_name"
    for row in connection.execute(text(budgets), named).fetchall():
        seal = _anew(old, check_budget, new, seal_budget)(row)
        # Not its other columns: what a governor decides moves by itself, and no seal covers it.
        found.note("budget", [(sorted(of_budget(dict(row._mapping)).items()), row.seal)])
        found.budgets.append(of_budget(dict(row._mapping)))
        found.give(_SEAL_BUDGET, seal=seal, namespace=row.namespace, group_name=row.group_name)
    marks = f"""SELECT {SEALED_OF_MARK} FROM export_state
                WHERE last_cursor_value IS NOT NULL{within}
                ORDER BY namespace, campaign_name, export_name"""
    for row in rows("mark", marks):
        found.marks.append(row)
        found.give(
            _SEAL_MARK,
            seal=_anew(old, check_mark, new, seal_mark)(row),
            namespace=row.namespace,
            campaign_name=row.campaign_name,
            export_name=row.export_name,
        )
    return found


def _run(
    connection: Connection, found: ToSeal, old: Sealer | None, new: Sealer, run: Record
) -> list[str]:
    if old is not None:
        check_run(old, run)
    sql = "SELECT range_json FROM chunk_task WHERE run_id = :id ORDER BY chunk_index"
    rows = found.note("range", connection.execute(text(sql), {"id": run.run_id}).fetchall())
    ranges = [row.range_json for row in rows]
    said = said_by(run.seal)
    # Of its own kind: a newer one would promise seals that its rows do not have.
    with typed(f"the list of chunks of run {run.run_id}"):
        sealed = seal_run(
            new, dict(run._mapping), ranges, mark=said.mark, submission=said.submission
        )
    # The ranges are the chunks' own words: sealed as they are, an edited one would become a good
    # one.
    if old is not None and said_by(sealed["seal"]).chunks != said.chunks:
        raise tampered(f"the list of chunks of run {run.run_id}")
    found.give(_SEAL_RUN, **sealed, id=run.run_id)
    return ranges


def _row(run: Record) -> list[str]:
    """Its columns beside its plan, which says some of them, too, and which kind of seal it has: one
    of a former program would be sealed anew as such, and promises less."""
    said = said_by(run.seal)
    names = [name for name in SEALED_OF_RUN.split(", ") if name not in ("plan_json", "seal")]
    promised = f"its seal promises: {PROMISES[said.mark]} {said.submission}".rstrip()
    return [*(f"its {name}: {getattr(run, name)!r}" for name in names), promised]


def _part(row: Record) -> str:
    """All that is sealed of a part; of its long columns the digest."""
    names = [name for name in SEALED_OF_PART.split(", ") if name not in ("run_id", "seal")]
    said = {
        name: digest_of(str(value)) if name.endswith("_json") else value
        for name, value in ((name, getattr(row, name)) for name in names)
    }
    return f"part of chunk {row.chunk_index}, {row.status}: {said!r}"


def _ledger(
    connection: Connection, found: ToSeal, old: Sealer | None, new: Sealer, run: Record
) -> list[str]:
    submission, named = said_by(run.seal).submission, {"run_id": run.run_id}
    rows = found.note("part", connection.execute(text(_PARTS), named).fetchall())
    if old is not None:
        for row in rows:
            check_part(old, row, submission)
    for row in rows:
        seal = seal_part(new, dict(row._mapping), submission)
        found.give(_SEAL_PART, seal=seal, id=row.file_id)
    if old is None:
        return []
    parts, kept = standing_parts(rows), [_part(row) for row in rows]
    for task in found.note("commit", connection.execute(text(COMMITS), named).fetchall()):
        if task.commit_seal is not None:
            mine = parts.get(task.chunk_index, ())
            check_commit(old, task, mine, submission)
            of_parts = [dict(part._mapping) for part in mine]
            seal = seal_commit(new, dict(task._mapping), of_parts, submission)
            found.give(_SEAL_COMMIT, seal=seal, id=task.task_id)
            kept.append(
                f"chunk {task.chunk_index} was read under fence {task.fence}: "
                f"{task.rows_written} rows in {len(mine)} parts{_result(task)}"
            )
    return kept


def _result(task: Record) -> str:
    """What a comparison found of the chunk; of its many words the digest."""
    if task.result_json is None:
        return ""
    with typed(f"the result of chunk {task.chunk_index} of run {task.run_id}"):
        verdict = loads(RangeResult, task.result_json).verdict.value
    return f", compared: {verdict} ({digest_of(task.result_json)})"


def _words(
    connection: Connection, found: ToSeal, old: Sealer, new: Sealer, run: Record
) -> list[str]:
    sql = f"SELECT run_id, seal, {WORDS} FROM chunk_run WHERE run_id = :id"
    (row,) = found.note("words", connection.execute(text(sql), {"id": run.run_id}).fetchall())
    check_words(old, row)
    kept = []
    for kind in KINDS_OF_WORD:
        word = getattr(row, f"{kind}_json")
        if word is not None and getattr(row, f"{kind}_seal") is not None:
            seal = seal_word(new, kind, row.run_id, word, run_seal=row.seal)
            sql = f"UPDATE chunk_run SET {kind}_seal = :seal WHERE run_id = :id"
            found.give(sql, seal=seal, id=row.run_id)
            kept.append(f"{kind}: {word}")
    return kept


def _anew(
    old: Sealer | None,
    check: Callable[[Sealer, Record], None],
    new: Sealer,
    seal: Callable[[Sealer, Mapping[str, Any]], str],
) -> Callable[[Record], str]:
    def act(row: Record) -> str:
        if old is not None:
            check(old, row)
        return seal(new, row._mapping)

    return act
