"""Sealing a state anew: each row is checked by its present seal first (ADR 0024)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, text

from rivet_fleet.contracts.seals import Sealer, tampered
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
from rivet_fleet.persistence.seals import (
    KINDS_OF_WORD,
    SEALED_OF_MARK,
    SEALED_OF_RUN,
    WORDS,
    check_budget,
    check_mark,
    check_run,
    check_words,
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


def reseal(connection: Connection, old: Sealer | None, new: Sealer, namespace: str | None) -> int:
    """Seal every row anew, those of one namespace or of all; how many runs there were.

    ``old`` checks each row first; None takes what is there as it is (a state of a program that
    sealed nothing). Raises StateTampered or StateRefused before anything of the transaction
    is kept.
    """
    within = "" if namespace is None else " AND namespace = :namespace"
    named = {} if namespace is None else {"namespace": namespace}
    runs = connection.execute(
        text(f"SELECT {SEALED_OF_RUN} FROM chunk_run WHERE 1 = 1{within}"), named
    ).fetchall()
    for run in runs:
        _reseal_run(connection, old, new, run)
        _reseal_ledger(connection, old, new, run)
    if old is not None:
        _reseal_words(connection, old, new, within, named)
    budgets = f"SELECT * FROM source_budget WHERE 1 = 1{within}"
    for row in connection.execute(text(budgets), named).fetchall():
        seal = _anew(old, check_budget, new, seal_budget)(row)
        connection.execute(
            text(
                "UPDATE source_budget SET seal = :seal "
                "WHERE namespace = :namespace AND group_name = :group_name"
            ),
            {"seal": seal, "namespace": row.namespace, "group_name": row.group_name},
        )
    marks = f"""SELECT {SEALED_OF_MARK} FROM export_state
                WHERE last_cursor_value IS NOT NULL{within}"""
    for row in connection.execute(text(marks), named).fetchall():
        seal = _anew(old, check_mark, new, seal_mark)(row)
        connection.execute(
            text(
                "UPDATE export_state SET mark_seal = :seal WHERE namespace = :namespace "
                "AND campaign_name = :campaign_name AND export_name = :export_name"
            ),
            {
                "seal": seal,
                "namespace": row.namespace,
                "campaign_name": row.campaign_name,
                "export_name": row.export_name,
            },
        )
    return len(runs)


def _reseal_run(connection: Connection, old: Sealer | None, new: Sealer, run: Record) -> None:
    if old is not None:
        check_run(old, run)
    ranges = connection.execute(
        text("SELECT range_json FROM chunk_task WHERE run_id = :id ORDER BY chunk_index"),
        {"id": run.run_id},
    ).scalars()
    said = said_by(run.seal)
    # Of its own kind: a newer one would promise seals that its rows do not have.
    sealed = seal_run(new, dict(run._mapping), ranges, mark=said.mark, submission=said.submission)
    # The ranges are the chunks' own words: sealed as they are, an edited one would become a good
    # one.
    if old is not None and said_by(sealed["seal"]).chunks != said.chunks:
        raise tampered(f"the list of chunks of run {run.run_id}")
    connection.execute(
        text(
            "UPDATE chunk_run SET seal = :seal, chunk_digests = :chunk_digests WHERE run_id = :id"
        ),
        {**sealed, "id": run.run_id},
    )


def _reseal_ledger(connection: Connection, old: Sealer | None, new: Sealer, run: Record) -> None:
    submission, named = said_by(run.seal).submission, {"run_id": run.run_id}
    rows = connection.execute(text(_PARTS), named).fetchall()
    if old is not None:
        for row in rows:
            check_part(old, row, submission)
    anew = {row.file_id: seal_part(new, dict(row._mapping), submission) for row in rows}
    _update(connection, "UPDATE file_log SET seal = :seal WHERE file_id = :key", anew)
    if old is None:
        return
    parts, commits = standing_parts(rows), {}
    for task in connection.execute(text(COMMITS), named).fetchall():
        if task.commit_seal is not None:
            mine = parts.get(task.chunk_index, ())
            check_commit(old, task, mine, submission)
            of_parts = [dict(part._mapping) for part in mine]
            commits[task.task_id] = seal_commit(new, dict(task._mapping), of_parts, submission)
    _update(connection, "UPDATE chunk_task SET commit_seal = :seal WHERE task_id = :key", commits)


def _reseal_words(
    connection: Connection, old: Sealer, new: Sealer, within: str, named: Mapping[str, str]
) -> None:
    sql = f"SELECT run_id, seal, {WORDS} FROM chunk_run WHERE 1 = 1{within}"
    for row in connection.execute(text(sql), dict(named)).fetchall():
        check_words(old, row)
        for kind in KINDS_OF_WORD:
            word = getattr(row, f"{kind}_json")
            if word is not None and getattr(row, f"{kind}_seal") is not None:
                connection.execute(
                    text(f"UPDATE chunk_run SET {kind}_seal = :seal WHERE run_id = :id"),
                    {
                        "seal": seal_word(new, kind, row.run_id, word, run_seal=row.seal),
                        "id": row.run_id,
                    },
                )


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


def _update(connection: Connection, sql: str, seals: Mapping[object, str]) -> None:
    """One UPDATE for each row, sent in batches."""
    rows = [{"key": key, "seal": seal} for key, seal in seals.items()]
    for start in range(0, len(rows), _BATCH_ROWS):
        connection.execute(text(sql), rows[start : start + _BATCH_ROWS])
