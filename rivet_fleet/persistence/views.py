"""What status, progress and reports read. Nothing here changes anything but ``write_journal``."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache

from rivet_fleet.contracts.codec import dumps, loads
from rivet_fleet.contracts.counters import CounterReading, RunCounters
from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.foreign import SAID_CHARS_MAX
from rivet_fleet.contracts.keys import CampaignId, ChunkRange, RunId, TaskId
from rivet_fleet.contracts.plan import ExportPlan
from rivet_fleet.contracts.proof import RunProof
from rivet_fleet.contracts.quality import Acceptance, RunFindings
from rivet_fleet.contracts.seals import SpoiltRow, of_one_row, tampered
from rivet_fleet.contracts.state import (
    JournalEntry,
    JournalFilter,
    Outage,
    RunStatus,
    RunView,
    TaskCounts,
    TaskStatus,
    TaskView,
    WorkerView,
)
from rivet_fleet.errors import StateRefused, StateTampered
from rivet_fleet.persistence.database import Database, Record, Transaction
from rivet_fleet.persistence.guards import typed, understood
from rivet_fleet.persistence.journal import (
    JOURNAL_COLUMNS,
    entry_from,
    filter_sql,
    note,
    unreadable_entry,
)
from rivet_fleet.persistence.seals import (
    SEALED_OF_RUN,
    SEALED_OF_TASK,
    WORDS,
    Ranges,
    check_run,
    check_words,
)

_ERROR_CHARS_MAX = 2 * SAID_CHARS_MAX
"""What is read of an error's text: ours are shorter, and whoever else wrote it is not to fill every
reader's memory and screen."""
_TASKS = f"""
SELECT {SEALED_OF_TASK}, task_id, status, fence, commit_fence, attempts, attempts_max, owner,
       owner_name, lease_expires_at_s, not_before_s, read_at_s, rows_written, pages_read,
       substr(error_class, 1, {_ERROR_CHARS_MAX}) AS error_class,
       substr(last_error, 1, {_ERROR_CHARS_MAX}) AS last_error, updated_at_s
FROM chunk_task
"""
COMMITTED = f"""{_TASKS}
WHERE campaign_id = :campaign_id AND status = 'committed' AND updated_at_s <= NOW_S - :idle_s
ORDER BY updated_at_s, task_id LIMIT :limit
"""
# From the journal, because a chunk's row forgets its first claim when it is claimed again.
_RUNS = f"""
SELECT {SEALED_OF_RUN}, status,
       created_at_s, finished_at_s, finalize_fence, generation, manifest_fingerprint,
       substr(error, 1, {_ERROR_CHARS_MAX}) AS error, findings_json,
       (SELECT j.at_s FROM run_journal j
        WHERE j.run_id = chunk_run.run_id AND j.event = '{EventName.CHUNK_CLAIMED.value}'
        ORDER BY j.journal_id LIMIT 1) AS first_claim_at_s,
       {WORDS}
FROM chunk_run WHERE SCOPE ORDER BY position
"""
# The failed ones again that are tried no more: of the others the index alone is read.
_COUNTS = """
SELECT run_id, status, count(*), 0 FROM chunk_task
WHERE run_id IN (SELECT run_id FROM chunk_run WHERE SCOPE) GROUP BY run_id, status
UNION ALL
SELECT run_id, status, 0, count(*) FROM chunk_task
WHERE run_id IN (SELECT run_id FROM chunk_run WHERE SCOPE)
  AND status = 'failed' AND attempts >= attempts_max GROUP BY run_id, status
"""
_SIZES = """
SELECT run_id, sum(rows) AS rows, sum(bytes) AS bytes, sum(changed_values) AS changed_values,
       count(*) AS files
FROM file_log
WHERE status <> 'voided' AND run_id IN (SELECT run_id FROM chunk_run WHERE SCOPE) GROUP BY run_id
"""
_JOURNAL_COUNTS = """
SELECT event, count(*) AS entries FROM run_journal
WHERE namespace = :namespace AND campaign_id = :campaign_id GROUP BY event
"""
_WORKERS = """
SELECT w.worker_id, w.name, w.host_id, w.pid, w.pid_started_at_s, w.started_at_s,
       w.heartbeat_at_s, CASE WHEN w.heartbeat_at_s >= NOW_S - :alive_within_s THEN 1 ELSE 0 END,
       w.rss_bytes, (SELECT min(t.task_id) FROM chunk_task t
                     WHERE t.status = 'running' AND t.owner = w.worker_id) AS task_id
FROM worker w WHERE w.namespace = :namespace AND w.ended_at_s IS NULL HOST_FILTER
ORDER BY w.heartbeat_at_s DESC, w.worker_id
"""


class Views(Ranges):
    """Reading, as plain values."""

    _db: Database

    def now_s(self) -> float:
        """The database's own clock, epoch seconds: the only one that leases go by (F3)."""
        return self._db.one(lambda tx: float(tx.scalar("SELECT NOW_S")))

    def committed_tasks(
        self, campaign_id: CampaignId, *, idle_s: float, limit: int = 100
    ) -> list[TaskView]:
        """Committed tasks nobody has touched for ``idle_s``, the longest first: to be rolled
        forward. At most ``limit``. Raises StateTampered where one is not what its run sealed, once
        no other is left."""
        values = {"campaign_id": campaign_id, "idle_s": idle_s, "limit": limit}

        def work(tx: Transaction) -> tuple[list[Record], list[SpoiltRow]]:
            return tx.each(COMMITTED, lambda row: row, **values), tx.left_out

        rows, spoilt = self._db.one(work)
        found = []
        for row in rows:
            try:
                found.append(self._task_from(row))
            except (StateTampered, StateRefused) as error:
                if not of_one_row(error):
                    raise
                spoilt.append(error)
        if spoilt and not found:
            raise spoilt[0]
        return found

    def task(self, run_id: RunId, chunk_index: int) -> TaskView | None:
        """One chunk's task, or None. Raises StateTampered when it is not what its run sealed."""
        sql = _TASKS + "WHERE run_id = :run_id AND chunk_index = :chunk_index"
        row = self._db.one(lambda tx: tx.first(sql, run_id=run_id, chunk_index=chunk_index))
        return None if row is None else self._task_from(row)

    def tasks(
        self, run_id: RunId, *, status: TaskStatus | None = None, limit: int = 1_000_000
    ) -> list[TaskView]:
        """The tasks of a run, or those of one status, in chunk order. Raises StateTampered."""
        only = "" if status is None else "AND status = :status"
        sql = f"{_TASKS} WHERE run_id = :run_id {only} ORDER BY chunk_index LIMIT :limit"
        values: dict[str, object] = {"run_id": run_id, "limit": limit}
        if status is not None:
            values["status"] = status.value
        return [self._task_from(row) for row in self._db.one(lambda tx: tx.all(sql, **values))]

    def _task_from(self, row: Record) -> TaskView:
        self._check_task(row)
        return _task_from(row)

    def run(self, run_id: RunId) -> RunView | None:
        """One run and what its chunks and parts add up to, on one snapshot; None when there is none
        of this id. Raises StateTampered."""
        found = self._db.read(lambda tx: _runs(tx, "run_id = :run_id", run_id=run_id))
        return found[0] if found else None

    def runs(self, campaign_id: CampaignId) -> list[RunView]:
        """Every run of a campaign and what its chunks and parts add up to, in plan order, on one
        snapshot. Raises StateTampered."""
        scope = "campaign_id = :campaign_id"
        return self._db.read(lambda tx: _runs(tx, scope, campaign_id=campaign_id))

    def workers(
        self, *, host_id: str | None = None, alive_within_s: float = 60.0
    ) -> list[WorkerView]:
        """Workers, of one host or of all, whose row is not marked ended, newest heartbeat first;
        ``alive`` says whether that was ``alive_within_s`` ago or less."""
        only = "" if host_id is None else "AND w.host_id = :host_id"
        values: dict[str, object] = {"alive_within_s": alive_within_s}
        if host_id is not None:
            values["host_id"] = host_id
        sql = _WORKERS.replace("HOST_FILTER", only)
        return self._db.one(lambda tx: tx.each(sql, _worker_from, **values))

    def journal(
        self,
        *,
        campaign_id: CampaignId | None = None,
        run_id: RunId | None = None,
        after_id: int = 0,
        limit: int = 1000,
        only: JournalFilter | None = None,
        newest: bool = False,
    ) -> list[JournalEntry]:
        """What happened, in that order: the first ``limit``, or with ``newest`` the last. On
        PostgreSQL ids are drawn before they are committed: see ``coordination.journal``."""
        where = "namespace = :namespace AND journal_id > :after_id"
        values: dict[str, object] = {"after_id": after_id, "limit": limit}
        for name, value in (("campaign_id", campaign_id), ("run_id", run_id)):
            if value is not None:
                where += f" AND {name} = :{name}"
                values[name] = value
        if only is not None:
            more, named = filter_sql(only)
            where += more
            values.update(named)
        sql = (
            f"SELECT {JOURNAL_COLUMNS} FROM run_journal WHERE {where} "
            f"ORDER BY journal_id {'DESC' if newest else ''} LIMIT :limit"
        )
        found = self._db.one(lambda tx: tx.each(sql, entry_from, unreadable_entry, **values))
        return found[::-1] if newest else found

    def journal_counts(self, campaign_id: CampaignId) -> dict[str, int]:
        """How many entries of a campaign there are of each event."""
        sql = _JOURNAL_COUNTS
        make = lambda row: (row.event, int(row.entries))  # noqa: E731
        return dict(self._db.one(lambda tx: tx.each(sql, make, campaign_id=campaign_id)))

    def write_journal(self, event: Event) -> None:
        """Append an event that belongs to no transition of the store, and waits for no disk."""
        self._db.write(lambda tx: note(tx, event), durable=False)

    def metrics(
        self,
        *,
        campaign_name: str | None = None,
        export_name: str | None = None,
        limit: int = 20,
    ) -> list[dict[str, object]]:
        """Rows of ``export_metrics``, by column: one for each run that ended, newest first, at most
        ``limit``."""
        given = {"campaign_name": campaign_name, "export_name": export_name}
        named = {name: value for name, value in given.items() if value is not None}
        only = "".join(f" AND {name} = :{name}" for name in named)
        values: dict[str, object] = {"limit": limit, **named}
        sql = (
            f"SELECT * FROM export_metrics WHERE namespace = :namespace{only} "
            "ORDER BY metrics_id DESC LIMIT :limit"
        )
        return self._db.one(lambda tx: tx.each(sql, lambda row: dict(row._mapping), **values))


@lru_cache(maxsize=1024)
def plan_of(plan_json: str) -> ExportPlan:
    """A stored plan; each text is understood once."""
    return loads(ExportPlan, plan_json)


@lru_cache(maxsize=1024)
def _proof(proof_json: str) -> RunProof:
    return loads(RunProof, proof_json)


@lru_cache(maxsize=1024)
def found_by_gates(findings_json: str | None) -> RunFindings | None:
    """What gates said of a run, as it is stored without a seal. Raises StateTampered."""
    if findings_json is None:
        return None
    return understood(RunFindings, findings_json, "what the gates of a run said (findings_json)")


def _runs(tx: Transaction, scope: str, **values: object) -> list[RunView]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    spent: Counter[str] = Counter()
    for run_id, status, number, tried in tx.all(_COUNTS.replace("SCOPE", scope), **values):
        counts[run_id][status] += number
        spent[run_id] += tried
    sizes = {row[0]: row for row in tx.all(_SIZES.replace("SCOPE", scope), **values)}
    sql = _RUNS.replace("SCOPE", scope)
    rows: Sequence[Record] = tx.all(sql, **values)
    for row in rows:
        check_run(tx.sealer, row)
        check_words(tx.sealer, row)
        # Paths are made of what the plan says, and the row is what was found.
        if plan_of(row.plan_json).run_id != row.run_id:
            raise tampered(f"the plan of run {row.run_id}")
    return [
        _run_from(row, _counted(counts[row[0]]), spent[row[0]], sizes.get(row[0])) for row in rows
    ]


@typed("the status of a chunk")
def _counted(counts: Mapping[str, int]) -> TaskCounts:
    return TaskCounts(**counts)


@typed("a run of the state")
def _run_from(row: Record, counts: TaskCounts, spent: int, sizes: Record | None) -> RunView:
    return RunView(
        run_id=RunId(row.run_id),
        campaign_id=CampaignId(row.campaign_id),
        export_name=row.export_name,
        status=RunStatus(row.status),
        plan=plan_of(row.plan_json),
        plan_hash=row.plan_hash,
        expected_tasks=row.expected_tasks,
        counts=counts,
        spent=spent,
        rows=int(sizes[1]) if sizes is not None else 0,
        bytes=int(sizes[2]) if sizes is not None else 0,
        created_at_s=row.created_at_s,
        finished_at_s=row.finished_at_s,
        first_claim_at_s=row.first_claim_at_s,
        finalize_fence=row.finalize_fence,
        error=row.error,
        changed_values=int(sizes[3]) if sizes is not None else 0,
        files=int(sizes[4]) if sizes is not None else 0,
        generation=row.generation,
        manifest_fingerprint=row.manifest_fingerprint,
        findings=found_by_gates(row.findings_json),
        acceptance=None if row.acceptance_json is None else loads(Acceptance, row.acceptance_json),
        proof=None if row.proof_json is None else _proof(row.proof_json),
    )


@typed("a chunk of the state")
def _task_from(row: Record) -> TaskView:
    return TaskView(
        task_id=TaskId(row.task_id),
        campaign_id=CampaignId(row.campaign_id),
        run_id=RunId(row.run_id),
        export_name=row.export_name,
        chunk_index=row.chunk_index,
        chunk_range=loads(ChunkRange, row.range_json),
        status=TaskStatus(row.status),
        fence=row.fence,
        commit_fence=row.commit_fence,
        attempts=row.attempts,
        attempts_max=row.attempts_max,
        priority=row.priority,
        owner=row.owner,
        owner_name=row.owner_name,
        lease_expires_at_s=row.lease_expires_at_s,
        not_before_s=row.not_before_s,
        delivering=row.status == "running" and row.read_at_s is not None,
        rows_written=row.rows_written,
        pages_read=row.pages_read,
        error_class=row.error_class,
        last_error=row.last_error,
        updated_at_s=row.updated_at_s,
    )


@typed("a worker of the state")
def _worker_from(row: Record) -> WorkerView:
    return WorkerView(
        worker_id=row[0],
        name=row[1],
        host_id=row[2],
        pid=int(row[3]),
        pid_started_at_s=float(row[4]),
        started_at_s=float(row[5]),
        heartbeat_at_s=float(row[6]),
        alive=bool(row[7]),
        rss_bytes=int(row[8]),
        running_task=row[9],
    )


# ------------------------------------------------------------------------------------------
# What the journal knows of a source that cannot be connected. It survives every process.

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
        """What the journal knows of an outage of the one source that these runs read: what was
        given back since one of their chunks was last committed or failed. For people."""
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
            with typed("what the journal knows of an outage"):
                since_s, last_s = float(row.since_s), float(row.last_s)
            return Outage(since_s=since_s, last_s=last_s, tries=row.tries, message=last)

        def told(tx: Transaction) -> Outage | None:
            found = None
            with tx.leaving_out("an outage of a source"):
                found = work(tx)
            return found

        return self._db.read(told)


# ------------------------------------------------------------------------------------------
# The looks at a source's counters, one row for each run.

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
_BY_RUN = "SELECT run_id, source, before_json, after_json FROM export_harm WHERE run_id = :run_id"
_OF_CAMPAIGN = """
SELECT h.run_id, h.source, h.before_json, h.after_json
FROM export_harm h JOIN chunk_run r ON r.run_id = h.run_id
WHERE r.campaign_id = :campaign_id ORDER BY r.position
"""


class Counters:
    """Written once before and as often as a run ends after; read for people. No word of it waits
    for the disk: it is evidence of the best effort, and nothing is decided by it."""

    _db: Database

    def note_counters_before(self, run_id: RunId, source: str, reading: CounterReading) -> None:
        """The source's counters before the run; only the first word counts, and none after the
        run has ended."""
        named = {"run_id": run_id, "source": source, "before_json": dumps(reading)}
        self._db.write(lambda tx: tx.run(_BEFORE, **named), durable=False)

    def counters_of(self, run_id: RunId) -> RunCounters | None:
        """The looks at the source of one run; None where nobody looked before it."""
        make = lambda row: _counters_of(*row)  # noqa: E731
        return next(iter(self._db.one(lambda tx: tx.each(_BY_RUN, make, run_id=run_id))), None)

    def note_counters_after(self, run_id: RunId, reading: CounterReading) -> None:
        """The counters after the run's end, with the event; nothing without a look before."""

        def work(tx: Transaction) -> None:
            tx.run(_AFTER, run_id=run_id, after_json=dumps(reading))
            row = tx.first(_OF_RUN, run_id=run_id)
            if row is not None:
                looked = _counters_of(*row[:4])
                note(tx, counters_event(looked, CampaignId(row.campaign_id), row.export_name))

        self._db.write(work, durable=False)

    def counters(self, campaign_id: CampaignId) -> list[RunCounters]:
        """The looks at the sources of a campaign's runs, in its order. For people."""
        make = lambda row: _counters_of(*row)  # noqa: E731
        return self._db.one(lambda tx: tx.each(_OF_CAMPAIGN, make, campaign_id=campaign_id))


def counters_event(looked: RunCounters, campaign_id: CampaignId, export_name: str) -> Event:
    """What the counters did."""
    return Event(
        name=EventName.SOURCE_COUNTED,
        campaign_id=campaign_id,
        run_id=looked.run_id,
        export_name=export_name,
        data={"source": looked.source, "risen": looked.risen, "context": looked.before.context},
    )


_COUNTERS = "what the counters of a source said (export_harm)"


def _counters_of(run_id: str, source: str, before_json: str, after_json: str | None) -> RunCounters:
    return RunCounters(
        run_id=RunId(run_id),
        source=source,
        before=understood(CounterReading, before_json, _COUNTERS),
        after=None if after_json is None else understood(CounterReading, after_json, _COUNTERS),
    )
