"""What of a state is sealed, and the checks at every reading of it (ADR 0024).

A run's seal covers its plan, its place and the digests of all its chunks' ranges; a budget's, a
mark's and a proof's their own, as those of parts and commits do (``commits``). What a chunk's row
repeats of its run (campaign, export, group, place) is compared with the run. What moves by itself
(statuses, attempts, leases, what a governor decides) is not sealed; ADR 0024 names every such
column.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from rivet_fleet.contracts.identity import checked_id, namespace_of
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.protection import BUDGET_NUMBERS
from rivet_fleet.contracts.seals import (
    Sealer,
    digest_of,
    is_sealed_range,
    range_digests,
    tampered,
)
from rivet_fleet.persistence.database import Database, Record, Transaction
from rivet_fleet.persistence.guards import typed

SEALED_OF_RUN = (
    "run_id, namespace, campaign_id, campaign_name, export_name, position, priority, "
    "source_group, expected_tasks, plan_json, plan_hash, seal"
)
"""The columns that ``check_run`` needs."""
RUN_SEAL = "SELECT seal FROM chunk_run WHERE run_id = :run_id"
SEALED_OF_TASK = (
    "run_id, chunk_index, range_json, namespace, campaign_id, export_name, run_position, priority, "
    "source_group"
)
"""The columns that ``Ranges._check_task`` needs: by them a chunk is picked, counted and read."""
SEALED_OF_BUDGET = f"namespace, group_name, {', '.join(BUDGET_NUMBERS)}, monitor_json, seal"
_DIGESTS = f"SELECT {SEALED_OF_RUN}, chunk_digests FROM chunk_run WHERE run_id = :run_id"
_KEPT_MAX = 4096
_KINDS = {"": "run", "2.": "run with budget", "3.": "run with commits", "4.": "run with parts"}
"""By the mark in a run's seal: what else is sealed of it, so that what is missing there was taken
away. From 2 on its group's budget and its proof, from 3 on its chunks' commits; from 4 on a commit
covers its parts, and both the submission that they are of. Runs of former programs keep their
kind."""
PROMISES = {
    "": "ranges",
    "2.": "ranges, budget, proof",
    "3.": "ranges, budget, proof, commits",
    "4.": "ranges, budget, proof, commits, parts",
}
"""By the same mark, what an operator reads of it."""
_SUBMISSION_BYTES = 16


# ---------------------------------------------------------------- runs and their chunks


@dataclass(frozen=True, slots=True)
class RunSeal:
    """What ``chunk_run.seal`` says: ``<digest of the chunks' digests>.<mark><submission>.<seal>``.

    ``submission``: a random name of the storing of the run, so that nothing of a former run of the
    same id fits this one; empty where the mark (a key of ``_KINDS``) promises none."""

    chunks: str
    mark: str
    submission: str
    seal: str

    @property
    def whole(self) -> bool:
        """Its group's budget, and its proof, must be there with their seals."""
        return self.mark >= "2."

    @property
    def commits(self) -> bool:
        """Every chunk that was read has a sealed commit."""
        return self.mark >= "3."


def said_by(seal: str | None) -> RunSeal:
    """A run's seal taken apart; whether it holds ``check_run`` says."""
    of_chunks, _, rest = (seal or "").partition(".")
    # The kind is part of what is sealed: who takes the mark away breaks the seal.
    mark = rest[:2] if rest[:2] in _KINDS else ""
    rest = rest.removeprefix(mark)
    submission, _, rest = rest.partition(".") if mark >= "4." else ("", "", rest)
    return RunSeal(of_chunks, mark, submission, rest)


def seal_run(
    sealer: Sealer,
    run: Mapping[str, Any],
    ranges: Iterable[str],
    *,
    mark: str = "4.",
    submission: str | None = None,
) -> dict[str, str]:
    """``seal`` and ``chunk_digests`` of a run's row; ``ranges`` as they are stored, in order.

    A run that is stored now is of the newest kind (``mark``) and gets a new ``submission``; one
    that is sealed anew keeps both."""
    if submission is None:
        submission = secrets.token_hex(_SUBMISSION_BYTES) if mark >= "4." else ""
    digests = range_digests(ranges)
    of_chunks = digest_of(digests)
    seal = sealer.seal(_KINDS[mark], _of_run(run, of_chunks, submission))
    named = f"{submission}." if submission else ""
    return {"seal": f"{of_chunks}.{mark}{named}{seal}", "chunk_digests": digests}


def check_run(sealer: Sealer, row: Record) -> None:
    """Raise StateTampered when the run is not what was sealed, StateRefused as ``check``."""
    what = f"run {row.run_id} of export {row.export_name}"
    with typed(what):
        checked_id(row.run_id)
        said = said_by(row.seal)
        fields = _of_run(row._mapping, said.chunks, said.submission)
        sealer.check(said.seal, _KINDS[said.mark], fields, what)
        if row.namespace != namespace_of(row.run_id):
            raise tampered(f"the namespace of {what}")


def as_number(value: object) -> object:
    """An integer of any kind as one; what is none stays what it is, and differs from what was
    sealed: 1.5 is not 1."""
    return int(value) if isinstance(value, Integral) else value


def is_whole(seal: str | None) -> bool:
    """True for a run whose group's budget, and whose proof, must be there with their seals."""
    return said_by(seal).whole


def _of_run(run: Mapping[str, Any], of_chunks: str, submission: str) -> dict[str, object]:
    names = ("run_id", "campaign_id", "campaign_name", "export_name", "source_group", "plan_hash")
    numbers = ("position", "priority", "expected_tasks")
    return {
        **{name: run[name] for name in names},
        **{name: as_number(run[name]) for name in numbers},
        # The stored text and not what this program understands of it: a field that only a later
        # version reads must not be free to be edited.
        "plan": digest_of(run["plan_json"]),
        "chunks": of_chunks,
        **of_submission(submission),
    }


def of_submission(submission: str) -> dict[str, str]:
    """What binds something to one submission of its run; nothing in runs of former programs."""
    return {"submission": submission} if submission else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedRun:
    """What a run's seal says of its chunks. ``digests``: of their ranges, in order."""

    namespace: str
    campaign_id: str
    export_name: str
    position: int
    priority: int
    source_group: str
    expected_tasks: int
    digests: str
    whole: bool

    def differs(self, task: Record) -> str | None:
        """What of a chunk's row is not as its run says, None when all is. ``SEALED_OF_TASK``."""
        of_types = isinstance(task.chunk_index, int) and isinstance(task.range_json, str)
        if not of_types or not is_sealed_range(self.digests, task.chunk_index, task.range_json):
            return "range"
        said = {
            "namespace": (task.namespace, self.namespace),
            "campaign": (task.campaign_id, self.campaign_id),
            "export": (task.export_name, self.export_name),
            "place": (task.run_position, self.position),
            "priority": (task.priority, self.priority),
            "source group": (task.source_group, self.source_group),
        }
        return next((name for name, (found, sealed) in said.items() if found != sealed), None)


class Ranges:
    """What is sealed of runs, asked for once per run: plans never change."""

    _db: Database
    _sealed: dict[str, SealedRun]

    def _check_task(self, task: Record) -> None:
        """Raise StateTampered when a chunk's row (``SEALED_OF_TASK``) is not what its run's seal
        covers."""
        known = self._sealed.get(task.run_id)
        if known is not None and known.differs(task) is None:
            return
        # Not asked for yet, or of a run that was reset and planned again under its id.
        known = self._db.one(lambda tx: self._ask_sealed(tx, task.run_id))
        wrong = "run" if known is None else known.differs(task)
        if wrong is not None:
            raise tampered(f"the {wrong} of chunk {task.chunk_index} of run {task.run_id}")

    def _ask_sealed(self, tx: Transaction, run_id: str) -> SealedRun | None:
        """What is sealed of a run as the state has it now, None when there is no such run.
        Raises StateTampered."""
        if len(self._sealed) >= _KEPT_MAX:
            # All at once: a process works on few runs at a time, and asks for those again.
            self._sealed.clear()
        found = sealed_run(tx, run_id)
        if found is not None:
            self._sealed[run_id] = found
        return found

    def check_seals(self, campaign_id: CampaignId) -> None:
        """Check every run and every range of a campaign against its seal (ADR 0024). What is read
        later is checked again when it is read. Raises StateTampered, StateRefused."""

        def work(tx: Transaction) -> Sequence[Record]:
            runs = tx.all(_RUNS_OF_CAMPAIGN, campaign_id=campaign_id)
            for run in runs:
                check_run(tx.sealer, run)
            budgets = {row.group_name: row for row in tx.all(_BUDGETS)}
            for run in runs:
                if run.source_group in budgets:
                    check_budget(tx.sealer, budgets[run.source_group])
                else:
                    refuse_without_budget(run.source_group, whole=is_whole(run.seal))
            found = tx.all(_TASKS_OF_CAMPAIGN, campaign_id=campaign_id)
            number = {run.run_id: 0 for run in runs}
            for task in found:
                number[task.run_id] = number.get(task.run_id, 0) + 1
            for run in runs:
                if number[run.run_id] != run.expected_tasks:
                    raise tampered(f"the number of chunks of run {run.run_id}")
            return found

        # Behind the snapshot: a run that is not known yet is asked for over another connection.
        for task in self._db.read(work):
            self._check_task(task)


_RUNS_OF_CAMPAIGN = f"SELECT {SEALED_OF_RUN} FROM chunk_run WHERE campaign_id = :campaign_id"
# By the run, so that a chunk that was moved to another campaign is seen.
_TASKS_OF_CAMPAIGN = f"""
SELECT {SEALED_OF_TASK} FROM chunk_task
WHERE run_id IN (SELECT run_id FROM chunk_run WHERE campaign_id = :campaign_id)
"""
_BUDGETS = f"SELECT {SEALED_OF_BUDGET} FROM source_budget WHERE namespace = :namespace"


def sealed_run(tx: Transaction, run_id: str) -> SealedRun | None:
    """What the seal of a run says, None when there is no such run. Raises StateTampered."""
    row = tx.first(_DIGESTS, run_id=run_id)
    if row is None:
        return None
    check_run(tx.sealer, row)
    digests = str(row.chunk_digests or "")
    if digest_of(digests) != said_by(row.seal).chunks:
        raise tampered(f"the list of chunks of run {run_id}")
    return SealedRun(
        namespace=row.namespace,
        campaign_id=row.campaign_id,
        export_name=row.export_name,
        position=row.position,
        priority=row.priority,
        source_group=row.source_group,
        expected_tasks=row.expected_tasks,
        digests=digests,
        whole=is_whole(row.seal),
    )


def refuse_without_budget(group_name: str, *, whole: bool) -> None:
    """Raise StateTampered for a group whose budget's row is gone. ``whole``: of a run in it."""
    if group_name and whole:
        raise tampered(f"the budget of source group {group_name}")


# ---------------------------------------------------------------- budgets, marks, words


def seal_budget(sealer: Sealer, budget: Mapping[str, Any]) -> str:
    """The seal of what a source group may do; ``budget`` with its namespace."""
    return sealer.seal("budget", of_budget(budget))


def check_budget(sealer: Sealer, row: Record) -> None:
    """Raise StateTampered when the budget is not the configured one."""
    what = f"the budget of source group {row.group_name}"
    with typed(what):
        sealer.check(row.seal, "budget", of_budget(row._mapping), what)


_SEALED_BY_FIRST = ("chunks_max", "connections_max", "rows_per_s", "bytes_per_s", "chunks_min")
"""The numbers that the first seals covered whatever they were. One that came later is covered where
it says something: what was sealed before it came still holds, also where nobody has the key."""


def of_budget(budget: Mapping[str, Any]) -> dict[str, object]:
    """What the seal of a budget covers."""
    fields = {name: budget[name] for name in ("namespace", "group_name", "monitor_json")}
    for name, number in BUDGET_NUMBERS.items():
        # A state on its way through former versions has no column yet of one that came later.
        value = budget[name] if name in _SEALED_BY_FIRST else budget.get(name, number.default)
        if name in _SEALED_BY_FIRST or value != number.default:
            # What a configuration says as 5 comes back from a column of this kind as 5.0.
            whole = number.kind is float and isinstance(value, int)
            fields[name] = float(value) if whole else value
    return fields


def seal_mark(sealer: Sealer, mark: Mapping[str, Any]) -> str:
    """The seal of a high-water mark and of what it is bound to."""
    return sealer.seal("mark", _of_mark(mark))


def check_mark(sealer: Sealer, row: Record) -> None:
    """Raise StateTampered when the mark is not where a run or an operator left it."""
    what = f"the high-water mark of export {row.export_name}"
    with typed(what):
        sealer.check(row.mark_seal, "mark", _of_mark(row._mapping), what)


def _of_mark(mark: Mapping[str, Any]) -> dict[str, object]:
    names = ("namespace", "campaign_name", "export_name", "last_cursor_value", "mark_binding")
    return {name: mark[name] for name in names}


def seal_word(
    sealer: Sealer, kind: str, run_id: str, word_json: str, *, run_seal: str | None
) -> str:
    """The seal of a word on a whole run: ``proof`` what the source said of it, ``acceptance`` that
    an operator takes responsibility. ``run_seal`` tells which submission it was said of."""
    return sealer.seal(kind, _of_word(run_id, word_json, run_seal))


def check_words(sealer: Sealer, row: Record) -> None:
    """Raise StateTampered when a word on a run is not what was kept. Needs ``run_id``, ``seal``
    and ``WORDS``."""
    for kind in KINDS_OF_WORD:
        word, seal = getattr(row, f"{kind}_json"), getattr(row, f"{kind}_seal")
        if word is not None and (seal or is_whole(row.seal)):
            what = f"the {kind} of run {row.run_id}"
            with typed(what):
                sealer.check(seal, kind, _of_word(row.run_id, word, row.seal), what)


def _of_word(run_id: str, word_json: str, run_seal: str | None) -> dict[str, object]:
    return {"run_id": run_id, "word": word_json, **of_submission(said_by(run_seal).submission)}


KINDS_OF_WORD = ("proof", "acceptance")
WORDS = ", ".join(f"{kind}_json, {kind}_seal" for kind in KINDS_OF_WORD)
SEALED_OF_MARK = "namespace, campaign_name, export_name, last_cursor_value, mark_binding, mark_seal"
