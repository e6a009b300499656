"""Campaigns as a whole: submit, settle, cancel, forget."""

from __future__ import annotations

from collections.abc import Sequence

from rivet_fleet.contracts.codec import dumps
from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.identity import CampaignIdentity, checked_id
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.plan import CampaignPlan, PlannedRun
from rivet_fleet.contracts.state import CampaignStatus, CampaignView, SubmitOutcome
from rivet_fleet.errors import StateRefused
from rivet_fleet.persistence.budgets import configure
from rivet_fleet.persistence.database import Database, Record, Transaction
from rivet_fleet.persistence.finalizers import ONLY_COMPLETED
from rivet_fleet.persistence.guards import CLAIMABLE, typed, understood
from rivet_fleet.persistence.journal import note, note_all
from rivet_fleet.persistence.ledger import LOCK_CAMPAIGN
from rivet_fleet.persistence.marks import refuse_moved_marks
from rivet_fleet.persistence.repairs import restore_runs
from rivet_fleet.persistence.seals import seal_run

_ADD_CAMPAIGN = """
INSERT INTO campaign (namespace, campaign_id, campaign_name, config_digest, config_path,
                      identity_json, status, created_at_s)
VALUES (:namespace, :campaign_id, :campaign_name, :config_digest, :config_path,
        :identity_json, 'active', NOW_S)
ON CONFLICT (campaign_id) DO NOTHING
"""
_ADD_RUN = """
INSERT INTO chunk_run (namespace, run_id, campaign_id, campaign_name, export_name, position,
                       priority, source_group, plan_json, plan_hash, status, expected_tasks,
                       created_at_s, seal, chunk_digests)
VALUES (:namespace, :run_id, :campaign_id, :campaign_name, :export_name, :position,
        :priority, :source_group, :plan_json, :plan_hash, 'in_progress', :expected_tasks,
        NOW_S, :seal, :chunk_digests)
"""
_ADD_TASK = """
INSERT INTO chunk_task (namespace, run_id, campaign_id, export_name, run_position, chunk_index,
                        range_json, status, attempts_max, priority, source_group, updated_at_s)
VALUES (:namespace, :run_id, :campaign_id, :export_name, :run_position, :chunk_index,
        :range_json, 'pending', :attempts_max, :priority, :source_group, NOW_S)
"""
_IN_PROGRESS = """
SELECT campaign_id FROM chunk_run
WHERE namespace = :namespace AND campaign_name = :campaign_name
  AND export_name = :export_name AND status = 'in_progress'
"""
_CAMPAIGNS = """
SELECT campaign_id, campaign_name, config_digest, config_path, status, created_at_s, finished_at_s,
       halted_reason, identity_json
FROM campaign WHERE namespace = :namespace
"""

# What could still change without an operator: claimable tasks of runs in progress, tasks
# somebody runs or may publish, and runs somebody may finish. Spelled like the claim (ordered,
# first row only), because a bare EXISTS lets PostgreSQL prefer a scan of the table.
OPEN_WORK = f"""
SELECT
  (SELECT t.task_id FROM chunk_task t
   WHERE t.campaign_id = :campaign_id AND {CLAIMABLE}
     AND (SELECT r.status FROM chunk_run r WHERE r.run_id = t.run_id) = 'in_progress'
   ORDER BY t.priority DESC, t.run_position, t.chunk_index LIMIT 1) IS NOT NULL
  OR EXISTS (SELECT 1 FROM chunk_task t
             WHERE t.status = 'running' AND t.campaign_id = :campaign_id)
  OR EXISTS (SELECT 1 FROM chunk_task t
             WHERE t.campaign_id = :campaign_id AND t.status = 'committed')
  OR EXISTS (SELECT 1 FROM chunk_run
             WHERE campaign_id = :campaign_id AND status = 'in_progress' AND {ONLY_COMPLETED})
"""
_RUN_STATUSES = "SELECT DISTINCT status FROM chunk_run WHERE campaign_id = :campaign_id"
_SETTLE = """
UPDATE campaign SET status = :status, finished_at_s = NOW_S
WHERE campaign_id = :campaign_id AND status = 'active'
"""
_CANCEL = """
UPDATE campaign SET status = 'cancelled', finished_at_s = coalesce(finished_at_s, NOW_S)
WHERE campaign_id = :campaign_id AND status IN ('active', 'incomplete', 'cancelled')
"""
_COMPLETE_AGAIN = """
UPDATE campaign SET status = 'completed', finished_at_s = NOW_S WHERE campaign_id = :campaign_id
"""
# The fence goes up: whoever is finishing such a run right now ends nothing any more.
_CANCEL_RUNS = """
UPDATE chunk_run SET status = 'cancelled', finished_at_s = NOW_S,
  finalize_fence = finalize_fence + 1, finalize_lease_expires_at_s = NULL
WHERE campaign_id = :campaign_id AND status = 'in_progress'
"""
_CANCELLED = CampaignStatus.CANCELLED.value
# The attempt is given back: that the campaign was cancelled says nothing of the chunk.
_TAKE_BACK = """
UPDATE chunk_task SET status = 'pending', fence = fence + 1, attempts = attempts - 1,
  lease_expires_at_s = NULL, updated_at_s = NOW_S
WHERE campaign_id = :campaign_id AND status = 'running'
RETURNING run_id, export_name, chunk_index, owner
"""
_HELD = """
SELECT count(*) FROM chunk_task t
WHERE t.status = 'running' AND t.export_name = :export_name AND t.lease_expires_at_s >= NOW_S
  AND t.namespace = :namespace
  AND (SELECT r.campaign_name FROM chunk_run r WHERE r.run_id = t.run_id) = :campaign_name
"""
_HELD_OF_NAME = _HELD.replace("AND t.export_name = :export_name ", "")
_BELONGS = """
UPDATE campaign SET identity_json = :identity_json
WHERE namespace = :namespace AND campaign_name = :campaign_name
"""
_OF_EXPORT = """
WHERE namespace = :namespace AND campaign_name = :campaign_name AND export_name = :export_name
"""
"""Two campaigns of one namespace may have exports of one name."""
_FORGET_COUNTERS = """
DELETE FROM export_harm WHERE run_id IN (
  SELECT run_id FROM chunk_run
  WHERE namespace = :namespace AND campaign_name = :campaign_name AND export_name = :export_name)
"""
_EMPTIED = """
UPDATE campaign SET status = 'cancelled', finished_at_s = NOW_S
WHERE namespace = :namespace AND status IN ('active', 'incomplete')
  AND NOT EXISTS (SELECT 1 FROM chunk_run r WHERE r.campaign_id = campaign.campaign_id)
"""


class Campaigns:
    """Submission and verdict."""

    _db: Database

    def submit(
        self,
        plan: CampaignPlan,
        *,
        any_mark: bool = False,
        replacing: Sequence[CampaignId] = (),
    ) -> SubmitOutcome:
        """Store campaign, groups, runs and **all** tasks in one transaction, which also cancels
        the campaigns it is ``replacing``: both happen or neither does (B5).

        The same id again is a no-op (``created=False``) when the config digest is the same;
        StateRefused when it differs, when another campaign of the same name has an export in
        progress (one in-progress run per campaign name and export), or when an export's high-water
        mark is not the one it was planned at (W6) and not ``any_mark``. Two identical submissions
        at once create one campaign.
        """
        refuse_empty(plan)
        # Before the transaction: a server ends one that is idle for long, and a large campaign on
        # a busy machine takes its time to lay out.
        runs = [_run_values(plan, i, run) for i, run in enumerate(plan.runs)]
        tasks = [_task_values(plan, i, run) for i, run in enumerate(plan.runs)]
        for run, chunks in zip(runs, tasks, strict=True):
            run |= seal_run(self._db.sealer, run, (str(c["range_json"]) for c in chunks))

        def work(tx: Transaction) -> SubmitOutcome:
            created = tx.run(
                _ADD_CAMPAIGN,
                campaign_id=plan.campaign_id,
                campaign_name=plan.campaign_name,
                config_digest=plan.config_digest,
                config_path=plan.config_path,
                identity_json=None if plan.identity is None else dumps(plan.identity),
            )
            if created == 0:
                _refuse_changed(tx, plan)
                return SubmitOutcome(campaign_id=plan.campaign_id, created=False)
            # In one order: two who replace the same campaigns must not wait for each other.
            for former in sorted(replacing):
                _give_up(tx, former)
            _refuse_overlap(tx, plan)
            if not any_mark:
                refuse_moved_marks(tx, plan)
            _insert(tx, plan, runs, tasks)
            return SubmitOutcome(campaign_id=plan.campaign_id, created=True)

        outcome = self._db.write(work)
        # Behind the commit, as in ``cancel``: claims that did not see it yet are found then.
        for former in replacing:
            self._take_back(former)
        if outcome.created:
            self._db.dialect.refresh_statistics(self._db.engine)
        return outcome

    def campaign(self, campaign_id: CampaignId) -> CampaignView | None:
        """One campaign, or None when there is none of this id."""
        sql = _CAMPAIGNS + "AND campaign_id = :campaign_id"
        row = self._db.one(lambda tx: tx.first(sql, campaign_id=campaign_id))
        return None if row is None else _campaign_from(row)

    def campaigns(
        self, *, name: str | None = None, active_only: bool = False
    ) -> list[CampaignView]:
        """The namespace's campaigns, those of one name, or active ones only; newest first."""
        where = ""
        values: dict[str, object] = {}
        if name is not None:
            where += " AND campaign_name = :name"
            values["name"] = name
        if active_only:
            where += " AND status = 'active'"
        sql = f"{_CAMPAIGNS} {where} ORDER BY created_at_s DESC, campaign_id"
        return [_campaign_from(r) for r in self._db.one(lambda tx: tx.all(sql, **values))]

    def accept_campaigns(self, campaign_name: str, identity: CampaignIdentity, event: Event) -> int:
        """Every campaign of this name belongs to ``identity`` from now on; ``event`` tells it in
        the same transaction. How many there are. StateRefused while a live worker holds a chunk
        of one: what it works for does not change under it."""

        def work(tx: Transaction) -> int:
            if tx.scalar(_HELD_OF_NAME, campaign_name=campaign_name):
                raise held(f"campaign {campaign_name}")
            named = {"campaign_name": campaign_name, "identity_json": dumps(identity)}
            changed = tx.run(_BELONGS, **named)
            note(tx, event)
            return changed

        return self._db.write(work)

    def finish_campaign(self, campaign_id: CampaignId) -> CampaignStatus:
        """Settle the campaign if all its runs are over or stuck on spent chunks.

        active → completed when every run is completed; active → incomplete when no task can
        ever be claimed, reaped, published or finalized any more and some run is not
        completed. Otherwise nothing changes. Returns the status afterwards.
        """

        def work(tx: Transaction) -> CampaignStatus:
            text = tx.scalar(LOCK_CAMPAIGN, campaign_id=campaign_id)
            if text is None:
                raise StateRefused(f"there is no campaign {campaign_id}")
            if CampaignStatus(text).over:
                return CampaignStatus(text)
            verdict = _verdict(tx, campaign_id)
            if verdict is not CampaignStatus.ACTIVE:
                tx.run(_SETTLE, campaign_id=campaign_id, status=verdict.value)
                note(tx, Event(name=_VERDICT_EVENTS[verdict], campaign_id=campaign_id))
            return verdict

        # Looked at without any lock first: most of the time there is nothing to settle.
        quick = self._db.one(lambda tx: tx.scalar(OPEN_WORK, campaign_id=campaign_id))
        view = self.campaign(campaign_id) if quick else None
        return view.status if view is not None else self._db.write(work)

    def cancel(self, campaign_id: CampaignId) -> int:
        """active/incomplete → cancelled; pending tasks stay as they are, running ones lose their
        fence (bumped, pending). Returns how many running tasks were taken back. Its runs are
        cancelled too, so that a new submission may start; one that was being repaired is completed
        as it was before, and the campaign with it where nothing else is open. On a cancelled
        campaign it takes back whatever a late claim started."""

        def mark(tx: Transaction) -> int:
            before, taken = _give_up(tx, campaign_id)
            if before is None:
                raise StateRefused(f"there is no campaign {campaign_id}")
            if before == CampaignStatus.COMPLETED.value:
                raise StateRefused(f"campaign {campaign_id} is {before}: nothing to cancel")
            return taken

        # Two transactions: a claim that starts after the first sees the verdict, so the second
        # finds every claim that came before it.
        taken = self._db.write(mark)
        return taken + self._take_back(campaign_id)

    def _take_back(self, campaign_id: CampaignId) -> int:
        def work(tx: Transaction) -> int:
            if tx.scalar(LOCK_CAMPAIGN, campaign_id=campaign_id) != _CANCELLED:
                return 0
            rows = tx.all(_TAKE_BACK, campaign_id=campaign_id)
            note_all(tx, [_taken_event(campaign_id, row) for row in rows])
            return len(rows)

        return self._db.write(work)

    def reset_export(self, campaign_name: str, export_name: str, *, chunks_only: bool) -> int:
        """Forget runs and tasks of a campaign's export (and, unless ``chunks_only``, its cursor and
        progression). StateRefused while a live worker holds one of its chunks. Returns how many
        runs were forgotten."""

        def work(tx: Transaction) -> int:
            named = {"campaign_name": campaign_name, "export_name": export_name}
            if tx.scalar(_HELD, **named):
                raise held(f"export {export_name}")
            tx.run(_FORGET_COUNTERS, **named)
            runs = tx.run(f"DELETE FROM chunk_run {_OF_EXPORT}", **named)
            tx.run(_EMPTIED)
            if not chunks_only:
                tx.run(f"DELETE FROM export_state {_OF_EXPORT}", **named)
                tx.run(f"DELETE FROM export_progression {_OF_EXPORT}", **named)
            return runs

        return self._db.write(work)


_VERDICT_EVENTS = {
    CampaignStatus.COMPLETED: EventName.CAMPAIGN_COMPLETED,
    CampaignStatus.INCOMPLETE: EventName.CAMPAIGN_INCOMPLETE,
}


def _give_up(tx: Transaction, campaign_id: CampaignId) -> tuple[str | None, int]:
    """Cancel the campaign unless it is completed, or is so without the repairs that are given up
    with it (ADR 0032); its status before, None for an unknown one, and how many chunks of those
    somebody was reading."""
    before: str | None = tx.scalar(LOCK_CAMPAIGN, campaign_id=campaign_id)
    if before is None or tx.run(_CANCEL, campaign_id=campaign_id) == 0:
        return before, 0
    taken = restore_runs(tx, campaign_id)
    statuses = {row[0] for row in tx.all(_RUN_STATUSES, campaign_id=campaign_id)}
    if before != _CANCELLED and statuses == {CampaignStatus.COMPLETED.value}:
        tx.run(_COMPLETE_AGAIN, campaign_id=campaign_id)
        note(tx, Event(name=EventName.CAMPAIGN_COMPLETED, campaign_id=campaign_id))
        return before, taken
    tx.run(_CANCEL_RUNS, campaign_id=campaign_id)
    if before != _CANCELLED:
        note(tx, Event(name=EventName.CAMPAIGN_CANCELLED, campaign_id=campaign_id))
    return before, taken


def refuse_empty(plan: CampaignPlan) -> None:
    """Raise StateRefused for a campaign without runs or a run without chunks: neither could
    ever finish as a success."""
    if not plan.runs:
        raise StateRefused(f"campaign {plan.campaign_name} has no exports")
    for run in plan.runs:
        if not run.chunks:
            raise StateRefused(f"export {run.plan.export_name} was planned without any chunk")


def refuse_changed(plan: CampaignPlan, stored_digest: str) -> None:
    """Raise StateRefused when the campaign was submitted with another configuration."""
    if stored_digest != plan.config_digest:
        raise StateRefused(
            f"campaign {plan.campaign_id} was submitted with another configuration",
            hint="resume it with the original configuration, or submit under a new id",
            code="RIVET_CONFIG_CHANGED",
        )


def held(what: str) -> StateRefused:
    """The refusal to change what somebody works on."""
    return StateRefused(
        f"a live worker holds a chunk of {what}", hint="stop or cancel the campaign first"
    )


def overlap(export_name: str, campaign_name: str, other: str) -> StateRefused:
    """The refusal of a second run of an export that is still in progress."""
    return StateRefused(
        f"export {export_name} of campaign {campaign_name} is still in progress in {other}",
        hint="`rivet-fleet resume` or `requeue` finishes it, "
        f"`rivet-fleet cancel --campaign-id {other}` ends it",
        code="RIVET_EXPORT_IN_PROGRESS",
    )


def _refuse_changed(tx: Transaction, plan: CampaignPlan) -> None:
    digest = tx.scalar(
        "SELECT config_digest FROM campaign WHERE campaign_id = :campaign_id",
        campaign_id=plan.campaign_id,
    )
    refuse_changed(plan, digest)


def _refuse_overlap(tx: Transaction, plan: CampaignPlan) -> None:
    for run in plan.runs:
        name = run.plan.export_name
        other = tx.scalar(_IN_PROGRESS, campaign_name=plan.campaign_name, export_name=name)
        if other is not None:
            raise overlap(name, plan.campaign_name, other)


def _insert(
    tx: Transaction,
    plan: CampaignPlan,
    runs: Sequence[dict[str, object]],
    tasks: Sequence[Sequence[dict[str, object]]],
) -> None:
    tx.run_many(_ADD_RUN, runs)
    for of_run in tasks:
        tx.run_many(_ADD_TASK, of_run)
    data = {"exports": len(plan.runs), "chunks": sum(len(r.chunks) for r in plan.runs)}
    name = EventName.CAMPAIGN_SUBMITTED
    note(tx, Event(name=name, campaign_id=plan.campaign_id, data=data))
    groups = {run.plan.source_group for run in plan.runs if run.plan.source_group}
    configure(tx, plan.budgets, by=plan.campaign_id, groups=groups, submitting=plan.campaign_id)


def _run_values(plan: CampaignPlan, position: int, run: PlannedRun) -> dict[str, object]:
    return {
        "run_id": run.plan.run_id,
        "campaign_id": plan.campaign_id,
        "campaign_name": plan.campaign_name,
        "export_name": run.plan.export_name,
        "position": position,
        "priority": run.plan.priority,
        "source_group": run.plan.source_group or "",
        "plan_json": dumps(run.plan),
        "plan_hash": run.plan_hash,
        "expected_tasks": len(run.chunks),
    }


def _task_values(plan: CampaignPlan, position: int, run: PlannedRun) -> list[dict[str, object]]:
    same = {
        "run_id": run.plan.run_id,
        "campaign_id": plan.campaign_id,
        "export_name": run.plan.export_name,
        "run_position": position,
        "attempts_max": run.plan.attempts_max,
        "priority": run.plan.priority,
        "source_group": run.plan.source_group or "",
    }
    return [
        {**same, "chunk_index": c.chunk_index, "range_json": dumps(c.chunk_range)}
        for c in run.chunks
    ]


def _verdict(tx: Transaction, campaign_id: CampaignId) -> CampaignStatus:
    statuses = {row[0] for row in tx.all(_RUN_STATUSES, campaign_id=campaign_id)}
    if statuses == {CampaignStatus.COMPLETED.value}:
        return CampaignStatus.COMPLETED
    if tx.scalar(OPEN_WORK, campaign_id=campaign_id):
        return CampaignStatus.ACTIVE
    return CampaignStatus.INCOMPLETE


def _taken_event(campaign_id: CampaignId, row: Record) -> Event:
    return Event(
        name=EventName.CHUNK_REAPED,
        campaign_id=campaign_id,
        run_id=row.run_id,
        export_name=row.export_name,
        chunk_index=row.chunk_index,
        worker_id=row.owner,
        message="campaign cancelled",
        data={"status": "pending"},
    )


@typed("a campaign of the state")
def _campaign_from(row: Record) -> CampaignView:
    return CampaignView(
        campaign_id=CampaignId(checked_id(row[0])),
        campaign_name=row[1],
        config_digest=row[2],
        config_path=row[3],
        status=CampaignStatus(row[4]),
        created_at_s=row[5],
        finished_at_s=row[6],
        halted=row[7],
        identity=None
        if row[8] is None
        else understood(CampaignIdentity, row[8], f"whose campaign {row[0]} is (identity_json)"),
    )
