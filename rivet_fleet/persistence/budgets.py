"""Budgets of source groups: configured, enforced at claim, paced (ADR 0013)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence

from rivet_fleet.contracts.clock import RETRIES_SAVED_MAX, RETRY_EVERY_S, RETRY_WAIT_MAX_S
from rivet_fleet.contracts.codec import dumps, loads
from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.identity import namespace_of
from rivet_fleet.contracts.keys import CampaignId, TaskId
from rivet_fleet.contracts.protection import (
    BUDGET_NUMBERS,
    PAGE_SHARE_MIN,
    GovernorLease,
    GovernorWord,
    MonitorPlan,
    SourceBudget,
    Standing,
)
from rivet_fleet.contracts.seals import Sealer, SpoiltRow, tampered
from rivet_fleet.contracts.state import GroupView, WorkerIdentity, shown_numbers
from rivet_fleet.errors import LeaseLost, StateTampered
from rivet_fleet.persistence.database import Database, Record, Transaction
from rivet_fleet.persistence.guards import typed
from rivet_fleet.persistence.journal import note_all
from rivet_fleet.persistence.seals import (
    SEALED_OF_BUDGET,
    SEALED_OF_RUN,
    SEALED_OF_TASK,
    Ranges,
    check_budget,
    check_run,
    is_whole,
    refuse_without_budget,
    seal_budget,
)

_COLUMNS = f"{SEALED_OF_BUDGET}, permits, page_share, paused_reason, resumes_at_s, " + (
    "halted_reason, valid_until_s, sampled_at_s, readings_json, governor_name"
)


def _of_b(columns: str) -> str:
    return ", ".join(f"b.{name}" for name in columns.split(", "))


BUDGET_COLUMNS = _of_b(_COLUMNS)
# Beside a chunk's row, which is of the same namespace.
_OF_BUDGET = BUDGET_COLUMNS.removeprefix("b.namespace, ")
# The limits that a claim keeps, and whether anything closes the group altogether.
ROOM = f"""
SELECT {BUDGET_COLUMNS}, b.ceiling,
  CASE WHEN b.paused_reason IS NOT NULL OR b.halted_reason IS NOT NULL
         OR b.valid_until_s < NOW_S THEN 1 ELSE 0 END AS closed
FROM source_budget b WHERE b.namespace = :namespace AND b.group_name = :group_name
"""
LOCK_ROOM = ROOM + " LOCK_ROW"


def _reads(task: str) -> str:
    # One that is delivered while its worker reads the next one is no load (ADR 0035).
    return f"{task}.status = 'running' AND {task}.read_at_s IS NULL"


# By the run's group, which is sealed, and not by what the chunk's row repeats of it.
COUNT_RUNNING = f"""
SELECT count(*) FROM chunk_task t JOIN chunk_run r ON r.run_id = t.run_id
WHERE {_reads("t")} AND r.namespace = :namespace AND r.source_group = :group_name
"""
_STORED = f"""
SELECT {_of_b(SEALED_OF_BUDGET)}
FROM source_budget b WHERE b.namespace = :namespace AND b.group_name = :group_name LOCK_ROW
"""
_SAID = (*BUDGET_NUMBERS, "ceiling", "monitor_json", "configured_by", "seal")
_SAY = f"""
INSERT INTO source_budget (namespace, group_name, configured_at_s, {", ".join(_SAID)})
VALUES (:namespace, :group_name, NOW_S, {", ".join(f":{name}" for name in _SAID)})
ON CONFLICT (namespace, group_name) DO"""
_CONFIGURE = f"""{_SAY} UPDATE SET configured_at_s = excluded.configured_at_s,
  {", ".join(f"{name} = excluded.{name}" for name in _SAID)}
"""
# A budget that says nothing is a row, too: one that is missing was taken away.
_SAY_NOTHING = f"{_SAY} NOTHING"
# A monitor that fails closed opens the group with its first sample, not before.
# The fence goes up: a governor that was elected under the former words decides nothing any more.
_WATCH_ANEW = """
UPDATE source_budget SET permits = NULL, page_share = 1.0, paused_reason = NULL,
  resumes_at_s = NULL, valid_until_s = CASE WHEN :fail_closed = 1 THEN NOW_S END,
  governor_fence = governor_fence + 1, governor_lease_expires_at_s = NULL
WHERE namespace = :namespace AND group_name = :group_name
"""
_ADD_PACE = """
INSERT INTO source_pace (namespace, group_name) VALUES (:namespace, :group_name)
ON CONFLICT (namespace, group_name) DO NOTHING
"""
_LIFT = """
UPDATE source_budget SET halted_reason = NULL, sampled_at_s = NULL, readings_json = '[]'
WHERE namespace = :namespace AND group_name = :group_name
"""
_RUNS_IN_GROUP = f"""
SELECT {SEALED_OF_RUN} FROM chunk_run
WHERE namespace = :namespace AND source_group = :group_name AND status = 'in_progress'
  AND campaign_id <> :besides
"""
_PACED = """
SELECT count(*) FROM source_budget
WHERE namespace = :namespace AND group_name = :group_name
  AND (rows_per_s IS NOT NULL OR bytes_per_s IS NOT NULL)
"""
USERS = """
SELECT DISTINCT r.campaign_id FROM chunk_run r
WHERE r.namespace = :namespace AND r.source_group = :group_name AND r.status = 'in_progress'
"""


def _per_s(kind: str) -> str:
    return (
        f"(SELECT b.{kind}_per_s FROM source_budget b "
        "WHERE b.namespace = source_pace.namespace AND b.group_name = source_pace.group_name)"
    )


def _reserved(kind: str) -> str:
    """One column of ``source_pace`` after a reservation (GCRA): its slot begins where the former
    one ends, never in the past, so nothing is saved up; it may be used once the slot begins."""
    free = f"{kind}_free_at_s"
    return f"""CASE WHEN :{kind} > 0 AND {_per_s(kind)} > 0
    THEN (CASE WHEN {free} > NOW_S THEN {free} ELSE NOW_S END) + :{kind} / {_per_s(kind)}
    ELSE {free} END"""


def _begins(kind: str) -> str:
    return f"""CASE WHEN :{kind} > 0 AND {_per_s(kind)} > 0
    THEN {kind}_free_at_s - :{kind} / {_per_s(kind)} - NOW_S ELSE 0.0 END"""


RESERVE = f"""
UPDATE source_pace SET
  rows_free_at_s = {_reserved("rows")},
  bytes_free_at_s = {_reserved("bytes")}
WHERE namespace = :namespace AND group_name = :group_name
RETURNING {_begins("rows")}, {_begins("bytes")}
"""
# All askers together are let in at most RETRIES_SAVED_MAX + T / RETRY_EVERY_S times within any T
# seconds, as long as nobody has to wait for RETRY_WAIT_MAX_S; from there on each once in so many
# seconds.
_LATEST = f"NOW_S + {RETRY_WAIT_MAX_S}"
_EARLIEST = f"NOW_S - {RETRIES_SAVED_MAX * RETRY_EVERY_S}"
_PAID = f"""(CASE WHEN source_retry.paid_until_s > {_EARLIEST}
  THEN source_retry.paid_until_s ELSE {_EARLIEST} END + :cost_s)"""
_FIRST = f"({_EARLIEST} + :cost_s)"
RESERVE_RETRY = f"""
INSERT INTO source_retry (namespace, source_key, paid_until_s)
VALUES (:namespace, :source_key,
        CASE WHEN {_FIRST} > {_LATEST} THEN {_LATEST} ELSE {_FIRST} END)
ON CONFLICT (namespace, source_key) DO UPDATE SET
  paid_until_s = CASE WHEN {_PAID} > {_LATEST} THEN {_LATEST} ELSE {_PAID} END
RETURNING paid_until_s - NOW_S
"""
# Earlier claims first, by the database's clock: every worker computes the same order.
STANDING = f"""
SELECT {", ".join(f"t.{name}" for name in SEALED_OF_TASK.split(", "))},
  r.namespace AS of_namespace, r.source_group AS of_group, {_OF_BUDGET}, NOW_S AS now_s,
  (SELECT count(*) FROM chunk_task o JOIN chunk_run p ON p.run_id = o.run_id
   WHERE {_reads("o")} AND p.namespace = :namespace AND p.source_group = r.source_group
     AND (o.claimed_at_s < t.claimed_at_s
          OR (o.claimed_at_s = t.claimed_at_s AND o.task_id < t.task_id))) AS ahead
FROM chunk_task t JOIN chunk_run r ON r.run_id = t.run_id
LEFT JOIN source_budget b ON b.namespace = :namespace AND b.group_name = r.source_group
WHERE t.task_id = :task_id
"""
GROUP_VIEWS = f"""
SELECT g.source_group AS name, {BUDGET_COLUMNS}, b.governor_lease_expires_at_s > NOW_S AS governed,
  (SELECT count(*) FROM chunk_task t JOIN chunk_run r ON r.run_id = t.run_id
   WHERE {_reads("t")} AND r.namespace = :namespace
     AND r.source_group = g.source_group) AS running,
  (SELECT count(*) FROM chunk_task t JOIN chunk_run r ON r.run_id = t.run_id
   WHERE {_reads("t")} AND r.source_group = g.source_group
     AND r.campaign_id = :campaign_id) AS running_here
FROM (SELECT DISTINCT source_group FROM chunk_run
      WHERE campaign_id = :campaign_id AND source_group <> '') g
LEFT JOIN source_budget b ON b.namespace = :namespace AND b.group_name = g.source_group
ORDER BY g.source_group
"""


def has_room(tx: Transaction, group_name: str) -> bool | None:
    """Whether one more chunk of the group may run; None when nobody has said anything of it, not
    even that it is unlimited: it depends on the chunk's run whether that may be. Locks the group's
    row where that matters, so the answer holds until the transaction ends."""
    limits = tx.first(ROOM, group_name=group_name)
    if limits is None:
        return None
    if limits.ceiling != budget_from(limits, tx.sealer).ceiling:
        raise tampered(f"the ceiling of source group {group_name}")
    # So far without a lock (F7): claims of a group that nothing limits must not queue for its row.
    if not _limited(limits):
        return True
    limits = tx.first(LOCK_ROOM, group_name=group_name)
    if limits is None:
        return None
    if limits.closed:
        return False
    most = [n for n in (limits.ceiling, _permits(limits)) if n is not None]
    # Counted in a statement of its own: it must see what was committed while we waited.
    return not most or tx.scalar(COUNT_RUNNING, group_name=group_name) < min(most)


def _limited(limits: Record) -> bool:
    return bool(limits.closed) or limits.ceiling is not None or limits.permits is not None


class Budgets(Ranges):
    """Source groups, over one database."""

    _db: Database

    def set_budgets(self, budgets: Sequence[SourceBudget], *, by: str) -> list[str]:
        """Store what each named group may do, over all campaigns here; one that says nothing
        limits nothing. The names of those that changed; a change is journaled, and starts the
        governor's work anew. Raises StateTampered where one that is there is not what was
        configured."""
        return self._db.write(lambda tx: configure(tx, budgets, by=by))

    def budgets(self) -> list[SourceBudget]:
        """Every budget of the namespace that limits anything, by group name. Raises StateTampered
        for one that is not what was configured."""
        sql = (
            f"SELECT {BUDGET_COLUMNS} FROM source_budget b WHERE b.namespace = :namespace "
            "ORDER BY b.group_name"
        )
        rows = self._db.one(lambda tx: tx.all(sql))
        found = [budget_from(row, self._db.sealer) for row in rows]
        return [budget for budget in found if not budget.unlimited]

    def reserve(self, group_name: str, rows: float, size_bytes: float) -> float:
        """Reserve so much of a group's rates; the seconds until it may be used. One statement:
        askers queue for one row and nothing else."""
        values = {"group_name": group_name, "rows": float(rows), "bytes": float(size_bytes)}
        # A server takes a single statement without BEGIN and COMMIT around it; on SQLite whatever
        # writes goes through the file's lock, one statement or not.
        once = self._db.one if self._db.dialect.one_statement_claim else self._db.write
        row = once(lambda tx: tx.first(RESERVE, **values))
        if row is None:
            # No row is right only where no rate is configured; else somebody took the row away, and
            # going on would mean going on unpaced.
            if self._db.one(lambda tx: tx.scalar(_PACED, group_name=group_name)):
                raise tampered(f"the pace of source group {group_name}")
            return 0.0
        return max(0.0, float(row[0]), float(row[1]))

    def reserve_retry(self, source_key: str, cost_s: float) -> float:
        """Reserve one retry of a source, over all processes and campaigns here; the seconds
        until it may be made. One statement, as for a rate."""
        values = {"source_key": source_key, "cost_s": float(cost_s)}
        once = self._db.one if self._db.dialect.one_statement_claim else self._db.write
        return max(0.0, once(lambda tx: float(tx.scalar(RESERVE_RETRY, **values))))

    def standing(self, task_id: TaskId) -> Standing:
        """How the group of a running chunk stands, for this chunk; nothing limits one that is gone.
        Raises StateTampered when the chunk, or its group's budget, is not what was sealed."""
        row = self._db.one(lambda tx: tx.first(STANDING, task_id=task_id))
        if row is None:
            return Standing()
        self._check_task(row)
        # By the first a chunk is held to its budget, by the second others see it run.
        if (row.of_namespace, row.of_group) != (row.namespace, row.source_group):
            raise tampered(f"the source group of run {row.run_id}")
        if row.group_name is None:
            known = self._db.one(lambda tx: self._ask_sealed(tx, row.run_id))
            refuse_without_budget(row.source_group, whole=known is not None and known.whole)
            return Standing()
        return _standing(row, self._db.sealer)

    def groups(self, campaign_id: CampaignId) -> list[GroupView]:
        """Every source group of a campaign, by name, with what runs in it now. One whose budget is
        not what was configured, or was taken away, is left out; raises StateTampered for it where
        there is no other."""

        def work(tx: Transaction) -> tuple[list[GroupView], list[SpoiltRow]]:
            make = lambda row: _group_view(row, tx)  # noqa: E731
            return tx.each(GROUP_VIEWS, make, campaign_id=campaign_id), tx.left_out

        found, spoilt = self._db.read(work)
        if spoilt and not found:
            raise spoilt[0]
        return found


def configure(
    tx: Transaction,
    budgets: Sequence[SourceBudget],
    *,
    by: str,
    groups: Iterable[str] = (),
    submitting: str = "",
) -> list[str]:
    """Store budgets; the names of those that changed. ``groups``: those that the campaign is in
    that is ``submitting``; one of which nobody has said anything is said to be unlimited.

    Raises StateTampered for a budget that is not what was sealed, or that runs in progress miss,
    unless the configuration that is submitted puts its own in the place."""
    changed = []
    given = {budget.group_name: budget for budget in budgets}
    for name in sorted({*given, *groups}):
        if name in given and _configure_one(tx, given[name], by=by, submitting=submitting):
            changed.append(name)
        elif name not in given and tx.first(_STORED, group_name=name) is None:
            _refuse_taken_away(tx, name, besides=submitting)
            _say_nothing(tx, SourceBudget(group_name=name), by)
    return changed


def _configure_one(tx: Transaction, budget: SourceBudget, *, by: str, submitting: str) -> bool:
    """True when it changed what holds."""
    name = budget.group_name
    stored = _stored(tx, name, submitting=submitting)
    if stored == budget:
        return False
    before = None if stored is None or stored.unlimited else stored
    if stored is None and budget.unlimited:
        _say_nothing(tx, budget, by)
        return False
    values = _values(budget)
    seal = seal_budget(tx.sealer, {"namespace": tx.namespace, **values})
    tx.run(_CONFIGURE, **values, seal=seal, configured_by=by)
    tx.run(_ADD_PACE, group_name=name)
    if before is None or budget.unlimited or before.monitor != budget.monitor:
        closed = budget.monitor is not None and budget.monitor.fail_closed
        tx.run(_WATCH_ANEW, group_name=name, fail_closed=int(closed))
    if before is None or budget.unlimited:
        tx.run(_LIFT, group_name=name)
    if before is None and budget.unlimited:
        return False
    tell(tx, name, EventName.BUDGET_CHANGED, *changed_words(before, budget), by)
    return True


def _stored(tx: Transaction, group_name: str, *, submitting: str) -> SourceBudget | None:
    row = tx.first(_STORED, group_name=group_name)
    try:
        if row is not None:
            return budget_from(row, tx.sealer)
        _refuse_taken_away(tx, group_name)
    except StateTampered:
        if not submitting:
            raise
    return None


def _say_nothing(tx: Transaction, budget: SourceBudget, by: str) -> None:
    values = _values(budget)
    seal = seal_budget(tx.sealer, {"namespace": tx.namespace, **values})
    tx.run(_SAY_NOTHING, **values, seal=seal, configured_by=by)
    tx.run(_ADD_PACE, group_name=budget.group_name)


def _refuse_taken_away(tx: Transaction, group_name: str, *, besides: str = "") -> None:
    """Call it where a group has no row. Raises StateTampered when a run in progress, of another
    campaign than ``besides``, was stored with one."""
    for run in tx.all(_RUNS_IN_GROUP, group_name=group_name, besides=besides):
        check_run(tx.sealer, run)
        refuse_without_budget(group_name, whole=is_whole(run.seal))


def tell(
    tx: Transaction,
    group_name: str,
    name: EventName,
    message: str,
    data: dict[str, object],
    by: str | None,
) -> None:
    """One journal entry for every campaign that works on the group; one without when none does."""
    users = tx.each(USERS, lambda row: _user(tx, row[0]), group_name=group_name) or [None]
    note_all(
        tx,
        [
            Event(
                name=name,
                campaign_id=user,
                worker_id=by,
                message=message,
                data={"source_group": group_name, **data},
            )
            for user in users
        ],
    )


def _user(tx: Transaction, campaign_id: str) -> str | None:
    # To write to the journal of another namespace's campaign is refused, for all of them.
    if namespace_of(campaign_id) != tx.namespace:
        raise tampered(f"a run whose campaign is {campaign_id}")
    return campaign_id


def changed_words(
    before: SourceBudget | None, after: SourceBudget
) -> tuple[str, dict[str, object]]:
    """A sentence and the numbers of a changed budget."""
    changes: dict[str, object] = {}
    for name in BUDGET_NUMBERS:
        was = None if before is None else getattr(before, name)
        if was != getattr(after, name):
            changes[name] = [was, getattr(after, name)]
    if (None if before is None else before.monitor) != after.monitor:
        changes["monitor"] = "changed"
    if after.unlimited:
        return f"source group {after.group_name} has no budget any more", {"changes": changes}
    said = ", ".join(
        f"{name} {_limit(value[0])} -> {_limit(value[1])}"
        if isinstance(value, list)
        else f"{name} {value}"
        for name, value in changes.items()
    )
    return f"budget of source group {after.group_name}: {said}", {"changes": changes}


def _limit(value: object) -> str:
    return "none" if value is None else str(value)


def _values(budget: SourceBudget) -> dict[str, object]:
    monitor = budget.monitor
    return {
        "group_name": budget.group_name,
        **{name: getattr(budget, name) for name in BUDGET_NUMBERS},
        "ceiling": budget.ceiling,
        "monitor_json": None if monitor is None else dumps(monitor),
    }


def budget_from(row: Record, sealer: Sealer) -> SourceBudget:
    """A row of ``source_budget`` as a value. Raises StateTampered for one that is not what
    was configured."""
    check_budget(sealer, row)
    return SourceBudget(
        group_name=row.group_name,
        **{name: getattr(row, name) for name in BUDGET_NUMBERS},
        monitor=None if row.monitor_json is None else loads(MonitorPlan, row.monitor_json),
    )


def _permits(row: Record) -> int | None:
    """How many chunks the governor lets run. Raises StateTampered for what is no number: it is not
    sealed, and what the sealed limits allow bounds it (ADR 0024)."""
    if row.permits is not None and (not isinstance(row.permits, int) or row.permits < 0):
        raise tampered(f"what the governor said of source group {_group_of(row)}")
    return None if row.permits is None else int(row.permits)


def _page_share(row: Record) -> float:
    """How much of a page the governor allows: never more than a whole one, whatever stands there.
    Raises StateTampered for what is no number."""
    share = row.page_share
    if not isinstance(share, int | float) or not math.isfinite(share):
        raise tampered(f"what the governor said of source group {_group_of(row)}")
    return min(1.0, max(PAGE_SHARE_MIN, float(share)))


def _group_of(row: Record) -> str:
    return str(row._mapping.get("group_name") or row._mapping.get("name", ""))


def _standing(row: Record, sealer: Sealer) -> Standing:
    budget = budget_from(row, sealer)
    if budget.unlimited:
        return Standing()
    paused = row.paused_reason
    if paused is None and row.valid_until_s is not None and row.valid_until_s < row.now_s:
        paused = "nobody watches the source, and on_unreadable is pause"
    for_s = None if row.resumes_at_s is None else row.resumes_at_s - row.now_s
    return Standing(
        budget=budget,
        ahead=row.ahead,
        permits=_permits(row),
        page_share=_page_share(row),
        paused=paused,
        paused_for_s=for_s,
        halted=row.halted_reason,
    )


def _group_view(row: Record, tx: Transaction) -> GroupView:
    if row.group_name is None:
        _refuse_taken_away(tx, row.name)
    budget = None if row.group_name is None else budget_from(row, tx.sealer)
    if budget is None or budget.unlimited:
        return GroupView(
            group_name=row.name, slots_max=None, running=row.running, running_here=row.running_here
        )
    readings_json = "[]"
    # Shown, and gone by nowhere: the next sample writes it anew.
    with tx.leaving_out(f"source group {row.name}: what was read"):
        readings_json = _readings(row)
    return GroupView(
        group_name=row.name,
        slots_max=budget.ceiling,
        running=row.running,
        running_here=row.running_here,
        **shown_numbers(budget),
        permits=_permits(row),
        page_share=_page_share(row),
        paused=row.paused_reason,
        resumes_at_s=row.resumes_at_s,
        halted=row.halted_reason,
        valid_until_s=row.valid_until_s,
        sampled_at_s=row.sampled_at_s,
        monitored=budget.monitor is not None,
        governor=row.governor_name if row.governed else None,
        readings_json=readings_json,
    )


@typed("what the governor of a source group read (readings_json)")
def _readings(row: Record) -> str:
    """The text, each of whose readings is whole: it has no seal."""
    for one in json.loads(row.readings_json):
        texts = [one["name"], one["level"], one["error"] or ""]
        if not all(isinstance(said, str) for said in texts):
            raise TypeError("a reading is told by texts")
        float(one["value"] or 0)
    return str(row.readings_json)


# ------------------------------------------------------------------------------------------
# The governor's lease and what it decides: every write names its fence (ADR 0013).

GOVERNABLE = """
SELECT b.group_name FROM source_budget b
WHERE b.namespace = :namespace AND b.monitor_json IS NOT NULL
  AND coalesce(b.governor_lease_expires_at_s, b.configured_at_s) <= NOW_S - :patience_s
  AND b.group_name IN (SELECT r.source_group FROM chunk_run r
                       WHERE r.campaign_id = :campaign_id AND r.status = 'in_progress')
ORDER BY b.group_name
"""
LEASE = f"""
UPDATE source_budget SET governor_owner = :worker_id, governor_name = :name,
  governor_fence = governor_fence + 1, governor_lease_expires_at_s = NOW_S + :lease_ttl_s
WHERE namespace = :namespace AND group_name = :group_name AND monitor_json IS NOT NULL
  AND coalesce(governor_lease_expires_at_s, configured_at_s) <= NOW_S - :patience_s
RETURNING {_COLUMNS}, governor_fence
"""
# No sample lifts a halt: that is an operator's word (``lift_halt``), or a new configuration's.
GOVERN = f"""
UPDATE source_budget SET permits = :permits, page_share = :page_share,
  paused_reason = :paused_reason, resumes_at_s = NOW_S + :resumes_in_s,
  valid_until_s = NOW_S + :valid_for_s, sampled_at_s = NOW_S, readings_json = :readings_json,
  halted_reason = coalesce(:halt, halted_reason),
  governor_lease_expires_at_s = NOW_S + :lease_ttl_s
WHERE namespace = :namespace AND group_name = :group_name AND governor_fence = :fence
RETURNING {_COLUMNS}
"""
HOLD = """
UPDATE source_budget SET governor_lease_expires_at_s = NOW_S + :lease_ttl_s
WHERE namespace = :namespace AND group_name = :group_name AND governor_fence = :fence
"""
# 0 and not NULL: by NULL a successor would count its patience from the configuration (GOVERNABLE),
# by 0 it may begin at once.
_LEAVE = """
UPDATE source_budget SET governor_lease_expires_at_s = 0
WHERE namespace = :namespace AND group_name = :group_name AND governor_fence = :fence
"""
_HALT = f"""
UPDATE campaign SET halted_reason = :halt
WHERE status = 'active' AND halted_reason IS NULL AND campaign_id IN ({USERS})
"""
_LIFT_CAMPAIGN = """
UPDATE campaign SET halted_reason = NULL
WHERE campaign_id = :campaign_id AND halted_reason IS NOT NULL
"""
_LIFT_GROUPS = """
UPDATE source_budget SET halted_reason = NULL
WHERE namespace = :namespace AND halted_reason IS NOT NULL AND group_name IN (
  SELECT r.source_group FROM chunk_run r WHERE r.campaign_id = :campaign_id)
"""


class Governors:
    """One governor per group, over one database."""

    _db: Database

    def lease_governor(
        self,
        campaign_id: CampaignId,
        worker: WorkerIdentity,
        lease_ttl_s: float,
        *,
        patience_s: float,
    ) -> list[GovernorLease]:
        """The right to govern those monitored groups of the campaign that nobody has governed
        for ``patience_s``; each with a fence of its own. One whose budget is not what was
        configured is governed by nobody; it is told, and the others are."""
        values = {"patience_s": patience_s, "campaign_id": campaign_id}
        names = self._db.one(lambda tx: tx.each(GOVERNABLE, lambda row: row[0], **values))
        leases = []
        for name in names:
            with self._db.leaving_out(f"source group {name}, which nobody governs,"):
                lease = self._db.write(
                    lambda tx, n=name: _lease(tx, n, worker, lease_ttl_s, patience_s)  # type: ignore[misc]
                )
                if lease is not None:
                    leases.append(lease)
        return leases

    def govern(self, lease: GovernorLease, word: GovernorWord, lease_ttl_s: float) -> SourceBudget:
        """Write what a sample led to, extend the lease, tell, and halt campaigns when ``word``
        says so: one transaction. The budget as it is now. Raises LeaseLost."""

        def work(tx: Transaction) -> SourceBudget:
            row = tx.first(
                GOVERN,
                group_name=lease.budget.group_name,
                fence=lease.fence,
                lease_ttl_s=lease_ttl_s,
                permits=word.permits,
                page_share=word.page_share,
                paused_reason=word.paused,
                resumes_in_s=word.resumes_in_s,
                valid_for_s=word.valid_for_s,
                readings_json=word.readings_json,
                halt=word.halt,
            )
            if row is None:
                raise _led_by_another(lease.budget.group_name)
            for name, message, data in word.told:
                tell(tx, lease.budget.group_name, name, message, dict(data), lease.worker_id)
            if word.halt is not None:
                tx.run(_HALT, group_name=lease.budget.group_name, halt=word.halt)
            return budget_from(row, tx.sealer)

        return self._db.write(work)

    def hold_governor(self, lease: GovernorLease, lease_ttl_s: float) -> None:
        """Extend the lease alone: what a sample led to stays, and grows no younger. Raises
        LeaseLost."""
        name = lease.budget.group_name
        values = {"group_name": name, "fence": lease.fence, "lease_ttl_s": lease_ttl_s}
        if not self._db.write(lambda tx: tx.run(HOLD, **values)):
            raise _led_by_another(name)

    def leave_governor(self, lease: GovernorLease) -> None:
        """Give the lease back: somebody else may govern at once. Nothing happens when another
        has it already."""
        values = {"group_name": lease.budget.group_name, "fence": lease.fence}
        self._db.write(lambda tx: tx.run(_LEAVE, **values))

    def lift_halt(self, campaign_id: CampaignId) -> bool:
        """An operator wants this campaign and its groups to run, whatever a governor stopped
        before. False when nobody had stopped the campaign."""

        def work(tx: Transaction) -> bool:
            tx.run(_LIFT_GROUPS, campaign_id=campaign_id)
            return tx.run(_LIFT_CAMPAIGN, campaign_id=campaign_id) > 0

        return self._db.write(work)


def _led_by_another(group_name: str) -> LeaseLost:
    return LeaseLost(f"somebody else governs source group {group_name}")


def _lease(
    tx: Transaction, group_name: str, worker: WorkerIdentity, ttl_s: float, patience_s: float
) -> GovernorLease | None:
    row = tx.first(
        LEASE,
        group_name=group_name,
        worker_id=worker.worker_id,
        name=worker.name,
        lease_ttl_s=ttl_s,
        patience_s=patience_s,
    )
    if row is None:
        return None
    message = f"{worker.name} watches source group {group_name}"
    data: dict[str, object] = {"governor": worker.name, "fence": row.governor_fence}
    tell(tx, group_name, EventName.GOVERNOR_ELECTED, message, data, worker.worker_id)
    return GovernorLease(
        budget=budget_from(row, tx.sealer),
        fence=row.governor_fence,
        worker_id=worker.worker_id,
        permits=_permits(row),
        page_share=_page_share(row),
        paused=row.paused_reason,
    )
