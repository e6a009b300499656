"""Claiming, heartbeats and reaping: who owns a task, by the database's clock only (F3)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from rivet_fleet.contracts.codec import loads
from rivet_fleet.contracts.events import EVENT_VERSION, Event, EventName
from rivet_fleet.contracts.keys import CampaignId, ChunkRange, RunId, TaskId
from rivet_fleet.contracts.seals import SpoiltRow, of_one_row
from rivet_fleet.contracts.state import Claim, Reaped, TaskStatus, Verb, WorkerIdentity, after_reap
from rivet_fleet.errors import StateRefused, StateTampered
from rivet_fleet.persistence.budgets import has_room
from rivet_fleet.persistence.database import Database, Record, Transaction
from rivet_fleet.persistence.guards import CLAIMABLE, effect, guard, status_in
from rivet_fleet.persistence.journal import note_all
from rivet_fleet.persistence.ledger import Ledger
from rivet_fleet.persistence.seals import Ranges, refuse_without_budget

# ------------------------------------------------------------------------------------------
# A SQLite state belongs to one host: its WAL lives in memory that hosts do not share.

QUIET_S = 30.0
"""How long the former host must have been silent before another one may take over (a laptop
that was rebooted, a container that was replaced)."""

_READ = "SELECT value FROM fleet_meta WHERE key = 'host_id'"
_LAST_SIGN = """
SELECT NOW_S - max(at_s) AS silent_s FROM (
  SELECT at_s FROM fleet_meta WHERE key = 'host_id'
  UNION ALL
  SELECT heartbeat_at_s FROM worker WHERE host_id = :host_id AND ended_at_s IS NULL) seen
"""
_WRITE = """
INSERT INTO fleet_meta (key, value, at_s) VALUES ('host_id', :host_id, NOW_S)
ON CONFLICT (key) DO UPDATE SET value = excluded.value, at_s = excluded.at_s
"""


def require_this_host(tx: Transaction, worker: WorkerIdentity) -> None:
    """Raise StateRefused while another host uses this state; take it over when that is quiet."""
    owner = tx.scalar(_READ)
    if owner == worker.host_id:
        return
    if owner is not None:
        quiet_s = tx.scalar(_LAST_SIGN, host_id=owner)
        if quiet_s < QUIET_S:
            raise StateRefused(
                f"this SQLite state is in use by host {owner}, and this is {worker.host_id}",
                hint="workers on several hosts need a PostgreSQL state database; if that host "
                f"is gone for good, try again in {QUIET_S - quiet_s:.0f} s",
                code="RIVET_STATE_SEVERAL_HOSTS",
            )
    tx.run(_WRITE, host_id=worker.host_id)


# The run's status is a scalar subquery on purpose: an EXISTS may become a join, and a join may
# lose the index order that lets the scan stop at the first row.
_PICK = f"""
SELECT t.task_id FROM chunk_task t
WHERE t.campaign_id = :campaign_id AND {CLAIMABLE} GROUP_FILTER
  AND (t.not_before_s IS NULL OR t.not_before_s <= NOW_S)
  AND (SELECT r.status FROM chunk_run r WHERE r.run_id = t.run_id) = 'in_progress'
  AND (SELECT c.status FROM campaign c
       WHERE c.campaign_id = :campaign_id AND c.halted_reason IS NULL) = 'active'
ORDER BY t.priority DESC, t.run_position, t.chunk_index
LIMIT 1
"""
# Uncorrelated, so it is asked once, and the scan still stops at its first row. By the group and
# not by its budget: a budget that appears is never missed, and one that was taken away is.
UNBUDGETED = """NOT EXISTS (
    SELECT 1 FROM chunk_run m WHERE m.campaign_id = :campaign_id AND m.source_group <> '')"""
PICK_ANY = _PICK.replace("GROUP_FILTER", f"AND {UNBUDGETED}")
PICK_IN_GROUP = _PICK.replace("GROUP_FILTER", "AND t.source_group = :group_name")

_CLAIM_COLUMNS = (
    "task_id, campaign_id, run_id, export_name, chunk_index, range_json, fence, attempts, "
    "attempts_max, source_group, namespace, run_position, priority, generation"
)
CLAIM_SET = f"""{effect(Verb.CLAIM)}, owner = :worker_id, owner_name = :name,
  owner_host = :host_id, owner_pid = :pid, lease_expires_at_s = NOW_S + :lease_ttl_s,
  not_before_s = NULL, claimed_at_s = NOW_S, read_at_s = NULL, updated_at_s = NOW_S"""
# Fenced and of a running chunk alone: else whoever lost its lease would mark another one's reader,
# and the budget would let one more read (ADR 0035).
MARK_READ = f"""
UPDATE chunk_task SET read_at_s = NOW_S
WHERE {guard(Verb.RENEW).replace(":", ":read_")} AND read_at_s IS NULL
"""

# SQLite changes no rows in a CTE; its one writer needs no single statement either.
CLAIM_TWO_STATEMENTS = f"""
UPDATE chunk_task SET {CLAIM_SET}
WHERE task_id = (PICK) RETURNING {_CLAIM_COLUMNS}
"""
CLAIM_NOTE = f"""
INSERT INTO run_journal (namespace, at_s, event_version, event, campaign_id, run_id,
                         export_name, chunk_index, worker_id, message, data_json)
SELECT :namespace, NOW_S, {EVENT_VERSION}, '{EventName.CHUNK_CLAIMED.value}', campaign_id, run_id,
       export_name, chunk_index, owner, '',
       '{{"attempt": ' || attempts || ', "fence": ' || fence || '}}'
FROM CLAIMED
"""
# The picked row is locked in a CTE, which PostgreSQL evaluates exactly once.
CLAIM_ONE_STATEMENT = f"""
WITH MARKED picked AS (PICK LOCK_TASKS),
claimed AS (
  UPDATE chunk_task u SET {CLAIM_SET}
  FROM picked WHERE u.task_id = picked.task_id
  RETURNING {", ".join(f"u.{name}" for name in [*_CLAIM_COLUMNS.split(", "), "owner"])}
),
noted AS ({CLAIM_NOTE.replace("FROM CLAIMED", "FROM claimed")})
SELECT {_CLAIM_COLUMNS} FROM claimed
"""

_GROUPS = """
SELECT DISTINCT source_group FROM chunk_run
WHERE campaign_id = :campaign_id AND status = 'in_progress'
"""
_PEEK = PICK_IN_GROUP.replace(
    "SELECT t.task_id", "SELECT -t.priority AS priority, t.run_position, t.chunk_index"
)

RENEW = f"UPDATE chunk_task SET lease_expires_at_s = NOW_S + :lease_ttl_s WHERE {guard(Verb.RENEW)}"
_FENCE = "SELECT fence FROM chunk_task WHERE task_id = :task_id"
# A worker that is heard of again lives, whoever took it for dead. A lease that is confirmed in
# passing says 0 bytes, and must not overwrite what the heartbeat measured.
_BEAT = """
INSERT INTO worker (namespace, worker_id, name, host_id, pid, pid_started_at_s, started_at_s,
                    heartbeat_at_s, rss_bytes)
VALUES (:namespace, :worker_id, :name, :host_id, :pid, :pid_started_at_s, NOW_S, NOW_S, :rss_bytes)
ON CONFLICT (worker_id) DO UPDATE SET heartbeat_at_s = NOW_S, ended_at_s = NULL,
  ended_reason = NULL,
  rss_bytes = CASE WHEN excluded.rss_bytes > 0 THEN excluded.rss_bytes ELSE worker.rss_bytes END
"""
_FREE_FINALIZING = """
UPDATE chunk_run SET finalize_lease_expires_at_s = NULL
WHERE finalize_owner = :worker_id AND status = 'in_progress'
  AND finalize_lease_expires_at_s IS NOT NULL
"""
_END_WORKER = """
UPDATE worker SET ended_at_s = NOW_S, ended_reason = :reason
WHERE worker_id = :worker_id AND ended_at_s IS NULL
"""

_REAP_COLUMNS = (
    "t.task_id, t.run_id, t.export_name, t.chunk_index, t.fence, t.attempts, t.attempts_max, "
    "t.owner, t.owner_name, t.campaign_id"
)
EXPIRED = "t.lease_expires_at_s < NOW_S"
REAPABLE = f"""
SELECT {_REAP_COLUMNS} FROM chunk_task t
WHERE t.{status_in(Verb.REAP)} AND EXPIRED_FILTER
  AND t.namespace = :namespace CAMPAIGN_FILTER
ORDER BY t.lease_expires_at_s LIMIT :limit LOCK_TASKS
"""
# A row that is locked now is left alone here, too: the last transaction of a dead process may
# still be ending at the server. If it does not commit, the lease's end takes the row back.
OWNED = f"""
SELECT {_REAP_COLUMNS} FROM chunk_task t
WHERE t.{status_in(Verb.REAP)} AND t.owner = :worker_id
ORDER BY t.task_id LOCK_TASKS
"""
REAP_SET = effect(Verb.REAP, status=":status")
# The selected row is locked (or SQLite's only writer is here), so the fence cannot have moved;
# it is named all the same, because every transition carries its guard in the same statement.
_REAP = f"""
UPDATE chunk_task SET REAP_SET, lease_expires_at_s = NULL,
  error_class = 'WorkerDied', last_error = :reason, updated_at_s = NOW_S
WHERE {guard(Verb.REAP)} AND fence = :fence
"""


class Claims(Ledger, Ranges):
    """Claim, renew and reap, over one database."""

    _db: Database
    _budgeted: dict[str, bool]

    def claim(
        self,
        campaign_id: CampaignId,
        worker: WorkerIdentity,
        lease_ttl_s: float,
        *,
        only: Sequence[RunId] = (),
        read: tuple[TaskId, int] | None = None,
    ) -> Claim | None:
        """The claimable task of highest priority, lowest chunk index, of an active campaign whose
        source group has a free slot; of the runs ``only`` where some are named. None is not the
        end of work (F5). A claim whose answer was
        lost runs out with its lease: one attempt is spent, nothing else happens. Raises
        StateTampered for a chunk that is not what its run sealed; it was given back.

        ``read``: task and fence of a running chunk that the worker has read to its end: from this
        transaction on it counts for no budget any more, whether another one is found or not."""
        values: dict[str, object] = {
            "campaign_id": campaign_id,
            "worker_id": worker.worker_id,
            "name": worker.name,
            "host_id": worker.host_id,
            "pid": worker.pid,
            "lease_ttl_s": lease_ttl_s,
            **{f"only_{number}": run_id for number, run_id in enumerate(only)},
        }
        if read is not None:
            values["read_task_id"], values["read_fence"] = read
        # F7: only campaigns with source groups lock a group's row. A claim that finds a chunk has
        # proven in its own statement that there is no group; an empty one proves nothing and asks.
        if not self._budgeted.get(campaign_id, False):
            row = self._claim_unbudgeted(worker, values)
            if row is not None or not self._has_budget(campaign_id):
                return self._sealed_claim(row)
        return self._sealed_claim(self._claim_within_budget(worker, values))

    def _sealed_claim(self, row: Record | None) -> Claim | None:
        """What was claimed, if it is what its run's seal covers; else it goes back as it was."""
        if row is None:
            return None
        try:
            self._check_task(row)
        except (StateTampered, StateRefused):
            self.release(TaskId(row[0]), row[6])
            raise
        return _claim_from(row)

    def _claim_unbudgeted(self, worker: WorkerIdentity, values: dict[str, object]) -> Record | None:
        """None also when any run of the campaign is in a source group."""
        if self._db.dialect.one_statement_claim:
            sql = _marking(_picking(CLAIM_ONE_STATEMENT, PICK_ANY, _named(values)), values)
            return self._db.one(lambda tx: tx.first(sql, **values))

        def work(tx: Transaction) -> Record | None:
            _mark_read(tx, values)
            return self._claim_in(tx, worker, PICK_ANY, values)

        return self._db.write(work)

    def _has_budget(self, campaign_id: CampaignId) -> bool:
        """Whether the campaign's claims go by groups. Kept when True."""
        sql = f"SELECT CASE WHEN {UNBUDGETED} THEN 0 ELSE 1 END"
        found = bool(self._db.one(lambda tx: tx.scalar(sql, campaign_id=campaign_id)))
        # A "no" is asked anew each time: a group that appears later must not be overlooked.
        if found:
            self._budgeted[campaign_id] = True
        return found

    def _claim_in(
        self, tx: Transaction, worker: WorkerIdentity, pick: str, values: dict[str, object]
    ) -> Record | None:
        if self._db.dialect.one_statement_claim:
            sql = _marking(_picking(CLAIM_ONE_STATEMENT, pick, _named(values)), {})
            return tx.first(sql, **values)
        require_this_host(tx, worker)
        row = tx.first(_picking(CLAIM_TWO_STATEMENTS, pick, _named(values)), **values)
        if row is not None:
            source = "chunk_task WHERE task_id = :task_id"
            tx.run(CLAIM_NOTE.replace("CLAIMED", source), task_id=row[0])
        return row

    def _claim_within_budget(
        self, worker: WorkerIdentity, values: dict[str, object]
    ) -> Record | None:
        """Groups in the order of their best task; each in a transaction of its own, so that
        two claimers never hold one group's row while they wait for another's. Raises StateTampered
        for a group whose budget is not what was configured, or StateRefused for one that is sealed
        with another key, once the others have nothing."""
        spoilt: SpoiltRow | None = None
        # The order is read without locks: one that is old by a moment changes who is asked first,
        # while what may run is decided behind each group's own lock.
        for group_name in self._db.read(lambda tx: _groups_in_order(tx, values)):
            try:
                claim = self._db.write(
                    lambda tx, g=group_name: self._claim_in_group(tx, worker, g, values)  # type: ignore[misc]
                )
            except (StateTampered, StateRefused) as error:
                if not of_one_row(error):
                    raise
                spoilt = spoilt or error
                continue
            if claim is not None:
                return claim
        if spoilt is not None:
            raise spoilt
        return None

    def _claim_in_group(
        self, tx: Transaction, worker: WorkerIdentity, group_name: str, values: dict[str, object]
    ) -> Record | None:
        # Before the count, which is to be without it.
        _mark_read(tx, values)
        room = has_room(tx, group_name)
        if room is False:
            return None
        row = self._claim_in(tx, worker, PICK_IN_GROUP, {**values, "group_name": group_name})
        # Whether a budget may be missing is said by the seal of the run, which is known only with a
        # chunk. Raising rolls the claim back: no attempt is spent.
        if row is not None and room is None:
            known = self._ask_sealed(tx, row.run_id)
            refuse_without_budget(group_name, whole=known is not None and known.whole)
        return row

    def renew(
        self,
        worker: WorkerIdentity,
        claims: Sequence[tuple[TaskId, int]],
        lease_ttl_s: float,
        rss_bytes: int,
    ) -> list[TaskId]:
        """Heartbeat: extend the leases whose fence still matches, refresh the worker row. Returns
        the tasks that are lost. The worker row is created on first use. A task that left
        ``running`` under the same fence (its own commit was faster than the heartbeat) is not
        lost: the fence decides (F2)."""

        def work(tx: Transaction) -> list[TaskId]:
            if self._db.dialect.one_host:
                require_this_host(tx, worker)
            tx.run(_BEAT, **_worker_values(worker), rss_bytes=rss_bytes)
            lost = []
            for task_id, fence in sorted(claims):
                named = {"task_id": task_id, "fence": fence, "lease_ttl_s": lease_ttl_s}
                if tx.run(RENEW, **named) == 0 and tx.scalar(_FENCE, task_id=task_id) != fence:
                    lost.append(task_id)
            return lost

        return self._db.write(work)

    def reap_expired(
        self, campaign_id: CampaignId | None = None, *, limit: int = 100
    ) -> list[Reaped]:
        """Take back running tasks whose lease ran out by the database's clock, the longest expired
        first: each is pending again with a new fence, or failed when its attempts are spent. At
        most ``limit``, and no others than those that are returned; a malformed one stays."""
        only = "" if campaign_id is None else "AND t.campaign_id = :campaign_id"
        sql = REAPABLE.replace("EXPIRED_FILTER", EXPIRED).replace("CAMPAIGN_FILTER", only)
        values: dict[str, object] = {"limit": limit}
        if campaign_id is not None:
            values["campaign_id"] = campaign_id
        # Looking first keeps idle reapers from taking SQLite's only write lock for nothing.
        look = sql.replace("LOCK_TASKS", "")
        if not self._db.one(lambda tx: tx.each(look, lambda row: row, **values)):
            return []
        return self._db.write(lambda tx: _take_back(tx, sql, "lease expired", **values))

    def reap_worker(self, worker_id: str, reason: str) -> list[Reaped]:
        """Take back every running task of a process that was seen to end; its worker row is
        marked ended, and a run it was finishing is free for the next finalizer, whose fence
        keeps it out should it live after all. ``reason`` (signal or exit code) is kept on tasks
        that end as failed."""

        def work(tx: Transaction) -> list[Reaped]:
            tx.run(_END_WORKER, worker_id=worker_id, reason=reason)
            tx.run(_FREE_FINALIZING, worker_id=worker_id)
            return _take_back(tx, OWNED, reason, worker_id=worker_id)

        return self._db.write(work)


@cache
def _picking(statement: str, pick: str, only: tuple[str, ...]) -> str:
    """``only``: the parameters that name runs, where a claim is for some alone."""
    runs = f"WHERE t.run_id IN ({', '.join(f':{name}' for name in only)}) AND t.campaign_id"
    return statement.replace("PICK", pick.replace("WHERE t.campaign_id", runs) if only else pick)


def _marking(statement: str, values: dict[str, object]) -> str:
    """With what marks the chunk that was read, where ``values`` name one, in the same statement."""
    marked = f"marked AS ({MARK_READ})," if "read_task_id" in values else ""
    return statement.replace("MARKED", marked)


def _mark_read(tx: Transaction, values: dict[str, object]) -> None:
    if "read_task_id" in values:
        tx.run(MARK_READ, read_task_id=values["read_task_id"], read_fence=values["read_fence"])


def _named(values: dict[str, object]) -> tuple[str, ...]:
    return tuple(name for name in values if name.startswith("only_"))


def _groups_in_order(tx: Transaction, values: dict[str, object]) -> list[str]:
    named = {"campaign_id": values["campaign_id"]}
    ranked = []
    for (group_name,) in tx.all(_GROUPS, **named):
        best = tx.first(_PEEK, **named, group_name=group_name)
        if best is not None:
            ranked.append((tuple(best), group_name))
    return [group_name for _, group_name in sorted(ranked)]


def _take_back(tx: Transaction, sql: str, reason: str, **values: object) -> list[Reaped]:
    """Those that ``sql`` selects, but for malformed ones."""
    taken = []
    events = []
    for row in tx.each(sql, lambda row: row, **values):
        status = after_reap(row.attempts, row.attempts_max)
        changed = tx.run(
            _REAP.replace("REAP_SET", REAP_SET),
            task_id=row.task_id,
            fence=row.fence,
            status=status.value,
            reason=reason,
        )
        if changed == 1:
            taken.append(_reaped_from(row, status))
            events.extend(_reap_events(row, status, reason))
    note_all(tx, events)
    return taken


def _reap_events(row: Record, status: TaskStatus, reason: str) -> list[Event]:
    names = [EventName.CHUNK_REAPED]
    if status is TaskStatus.FAILED:
        names.append(EventName.CHUNK_FAILED)
    return [
        Event(
            name=name,
            campaign_id=row.campaign_id,
            run_id=row.run_id,
            export_name=row.export_name,
            chunk_index=row.chunk_index,
            worker_id=row.owner,
            message=reason,
            data={
                "owner_name": row.owner_name,
                "attempts": row.attempts,
                "attempts_max": row.attempts_max,
                "status": status.value,
            },
        )
        for name in names
    ]


def _reaped_from(row: Record, status: TaskStatus) -> Reaped:
    return Reaped(
        task_id=TaskId(row.task_id),
        run_id=RunId(row.run_id),
        export_name=row.export_name,
        chunk_index=row.chunk_index,
        status=status,
        fence=row.fence + 1,
        attempts=row.attempts,
        owner=row.owner,
        owner_name=row.owner_name,
    )


def _claim_from(row: Record) -> Claim:
    return Claim(
        task_id=TaskId(row[0]),
        campaign_id=CampaignId(row[1]),
        run_id=RunId(row[2]),
        export_name=row[3],
        chunk_index=row[4],
        chunk_range=loads(ChunkRange, row[5]),
        fence=row[6],
        attempt=row[7],
        attempts_max=row[8],
        source_group=row[9],
        generation=row.generation,
    )


def _worker_values(worker: WorkerIdentity) -> dict[str, object]:
    return {
        "worker_id": worker.worker_id,
        "name": worker.name,
        "host_id": worker.host_id,
        "pid": worker.pid,
        "pid_started_at_s": worker.pid_started_at_s,
    }
