"""A state as a former program left it."""

from __future__ import annotations

from rivet_fleet.persistence.commits import SEALED_OF_PART, seal_commit, seal_part, standing_parts
from rivet_fleet.persistence.seals import SEALED_OF_RUN, seal_run
from rivet_fleet.persistence.store import Store


def as_former(store: Store, *, mark: str) -> None:
    """Its runs get seals of an older kind, its parts and commits such of no submission."""
    sealer = store._db.sealer
    with store._db.migrating() as connection:
        ask = connection.exec_driver_sql
        for run in ask(f"SELECT {SEALED_OF_RUN} FROM chunk_run").fetchall():
            tasks = ask(
                "SELECT * FROM chunk_task WHERE run_id = ? ORDER BY chunk_index", (run.run_id,)
            ).fetchall()
            ranges = [task.range_json for task in tasks]
            seal = seal_run(sealer, dict(run._mapping), ranges, mark=mark)["seal"]
            ask("UPDATE chunk_run SET seal = ? WHERE run_id = ?", (seal, run.run_id))
            rows = ask(
                f"SELECT {SEALED_OF_PART}, file_id, status FROM file_log WHERE run_id = ? "
                "ORDER BY chunk_index, part_number",
                (run.run_id,),
            ).fetchall()
            for row in rows:
                seal = seal_part(sealer, dict(row._mapping), "")
                ask("UPDATE file_log SET seal = ? WHERE file_id = ?", (seal, row.file_id))
            parts = standing_parts(rows)
            for task in tasks:
                if task.commit_seal is not None:
                    mine = [dict(part._mapping) for part in parts.get(task.chunk_index, ())]
                    seal = seal_commit(sealer, dict(task._mapping), mine, "")
                    ask(
                        "UPDATE chunk_task SET commit_seal = ? WHERE task_id = ?",
                        (seal, task.task_id),
                    )
