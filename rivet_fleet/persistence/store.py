"""The seam to the state database: one method is one transaction is one transition.

Every method raises StateUnavailable (retry with a new connection may work) or StateRefused.
All times are the database's own clock (F3). Events that belong to a transition are written to
the journal inside the same transaction by the store itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rivet_fleet.contracts.counters import CounterReading, RunCounters
from rivet_fleet.contracts.events import Event, Told
from rivet_fleet.contracts.identity import CampaignIdentity
from rivet_fleet.contracts.keys import CampaignId, RunId, TaskId
from rivet_fleet.contracts.manifest import LedgerPart, StagedPart
from rivet_fleet.contracts.plan import CampaignPlan, ExportPlan
from rivet_fleet.contracts.proof import RunProof
from rivet_fleet.contracts.protection import (
    GovernorLease,
    GovernorWord,
    SourceBudget,
    Standing,
)
from rivet_fleet.contracts.quality import RunFindings, UniqueStats
from rivet_fleet.contracts.state import (
    Accepted,
    CampaignStatus,
    CampaignView,
    Claim,
    Failure,
    FinalizeLease,
    FinishedRun,
    GroupView,
    JournalEntry,
    JournalFilter,
    MeasuredRun,
    Outage,
    Progression,
    Reaped,
    RunView,
    SubmitOutcome,
    TaskStatus,
    TaskView,
    WorkerIdentity,
    WorkerView,
)
from rivet_fleet.contracts.window import StoredMark


class Store(Protocol):
    """What the fleet remembers."""

    @property
    def namespace(self) -> str:
        """The one it sees and changes: every method is about what is within it, and StateRefused
        for the id of a campaign or run of another (N1). Hosts, schema and clock are shared."""
        ...

    @property
    def shared(self) -> bool:
        """True when other hosts, and so other teams, may use the same database."""
        ...

    # -- schema ---------------------------------------------------------------------------
    def migrate(self, *, for_all: bool = False) -> None:
        """Bring the schema to this program's version; safe when many start at once. ``for_all``:
        other namespaces' programs, too. Raises StateRefused when the schema is newer than the
        program, and while others live by an older one."""
        ...

    def check_version(self) -> None:
        """Raise StateRefused unless the schema is exactly this program's version."""
        ...

    def close(self) -> None:
        """Give every connection back. Never raises."""
        ...

    def check_seals(self, campaign_id: CampaignId) -> None:
        """Check every run and every range of a campaign against its seal (ADR 0024). What is read
        later is checked again when it is read. Raises StateTampered, StateRefused."""
        ...

    def reseal(self, old_key: bytes | None, *, by: str) -> int:
        """Seal everything of the namespace anew, with the key of this store, where it is sealed
        with the old one now (None: without a key); the number of runs. Raises
        StateTampered, and StateRefused also while anybody works; then nothing was changed."""
        ...

    def now_s(self) -> float:
        """The database's clock, epoch seconds."""
        ...

    # -- campaigns ------------------------------------------------------------------------
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
        StateRefused when it differs, when another campaign of the same name has an export
        in progress (one in-progress run per campaign name and export), or when an export's
        high-water mark is not the one it was planned at (W6) and not ``any_mark``.
        """
        ...

    def campaign(self, campaign_id: CampaignId) -> CampaignView | None:
        """One campaign, or None."""
        ...

    def campaigns(
        self, *, name: str | None = None, active_only: bool = False
    ) -> list[CampaignView]:
        """Newest first."""
        ...

    def accept_campaigns(self, campaign_name: str, identity: CampaignIdentity, event: Event) -> int:
        """Every campaign of this name belongs to ``identity`` from now on; ``event`` tells it in
        the same transaction. How many there are. StateRefused while a live worker holds a chunk
        of one: what it works for does not change under it."""
        ...

    def finish_campaign(self, campaign_id: CampaignId) -> CampaignStatus:
        """Settle the campaign if all its runs are over or stuck on spent chunks.

        active → completed when every run is completed; active → incomplete when no task can
        ever be claimed, reaped, published or finalized any more and some run is not
        completed. Otherwise nothing changes. Returns the status afterwards.
        """
        ...

    def cancel(self, campaign_id: CampaignId) -> int:
        """active/incomplete → cancelled; pending tasks stay as they are, running ones lose
        their fence (bumped, pending). Returns how many running tasks were taken back."""
        ...

    # -- the task machine -----------------------------------------------------------------
    def claim(
        self, campaign_id: CampaignId, worker: WorkerIdentity, lease_ttl_s: float
    ) -> Claim | None:
        """The claimable task of highest priority, lowest chunk index, of an active campaign
        whose source group has a free slot. None is not the end of work (F5)."""
        ...

    def renew(
        self,
        worker: WorkerIdentity,
        claims: Sequence[tuple[TaskId, int]],
        lease_ttl_s: float,
        rss_bytes: int,
    ) -> list[TaskId]:
        """Heartbeat: extend the leases whose fence still matches, refresh the worker row.
        Returns the tasks that are lost. The worker row is created on first use."""
        ...

    def commit(
        self,
        task_id: TaskId,
        fence: int,
        parts: Sequence[StagedPart],
        *,
        rows: int,
        pages: int,
        longest_statement_s: float | None = None,
        told: Sequence[Told] = (),
    ) -> None:
        """running → committed with its part rows and what they know about unique keys, in one
        transaction. Raises LeaseLost.
        Zero parts is allowed (an empty chunk). ``told`` is journaled before the transition."""
        ...

    def mark_published(self, task_id: TaskId, fence: int, told: Sequence[Told] = ()) -> None:
        """committed → completed; its part rows become published. Raises LeaseLost.
        ``told`` is journaled before the transition."""
        ...

    def fail(self, task_id: TaskId, fence: int, failure: Failure) -> TaskStatus:
        """running → failed. Raises LeaseLost."""
        ...

    def release(self, task_id: TaskId, fence: int, outage: str = "") -> None:
        """running → pending, the attempt given back. Raises LeaseLost.
        ``outage``: what the source said, when it could not be connected."""
        ...

    def reap_expired(
        self, campaign_id: CampaignId | None = None, *, limit: int = 100
    ) -> list[Reaped]:
        """Take back running tasks whose lease ran out by the database's clock."""
        ...

    def reap_worker(self, worker_id: str, reason: str) -> list[Reaped]:
        """Take back every running task of a process that was seen to end; its worker row is
        marked ended, and a run it was finishing is free for the next finalizer, whose fence
        keeps it out should it live after all. ``reason`` (signal or exit code) is kept on tasks
        that end as failed."""
        ...

    def reopen(self, task_id: TaskId, fence: int, reason: str) -> bool:
        """committed, completed or failed → pending: fence +1, attempts 0, part rows voided;
        a completed or failed run goes back to in progress, its campaign to active.
        False when the fence no longer matches (somebody else did it)."""
        ...

    def requeue(
        self,
        campaign_id: CampaignId,
        *,
        export_name: str | None = None,
        chunk_index: int | None = None,
    ) -> int:
        """failed → pending (attempts 0, fence +1) for tasks whose parts need no removal."""
        ...

    # -- roll forward and finalize ----------------------------------------------------------
    def committed_tasks(
        self, campaign_id: CampaignId, *, idle_s: float, limit: int = 100
    ) -> list[TaskView]:
        """Committed tasks nobody has touched for ``idle_s``: to be rolled forward."""
        ...

    def task(self, run_id: RunId, chunk_index: int) -> TaskView | None:
        """One task, or None."""
        ...

    def tasks(
        self, run_id: RunId, *, status: TaskStatus | None = None, limit: int = 1_000_000
    ) -> list[TaskView]:
        """In chunk order."""
        ...

    def parts(
        self, run_id: RunId, *, chunk_index: int | None = None, include_voided: bool = False
    ) -> list[LedgerPart]:
        """The ledger, in (chunk, part) order."""
        ...

    def lease_finalize(
        self, run_id: RunId, worker: WorkerIdentity, lease_ttl_s: float
    ) -> FinalizeLease | None:
        """The right to finish a run: in progress, all tasks completed, count equal to the
        expected one, no live finalizer. None otherwise."""
        ...

    def confirm_finalize(self, lease: FinalizeLease, lease_ttl_s: float) -> None:
        """Extend the finalizer's lease if its fence still matches and the run is still in
        progress; asked right before shared names are written. Raises LeaseLost."""
        ...

    def note_proof(self, lease: FinalizeLease, proof: RunProof, lease_ttl_s: float) -> None:
        """Keep what the source said of the whole run, until a chunk of it is reopened, and extend
        the finalizer's lease: whoever finishes it tells the same. Raises LeaseLost when its fence
        does not match any more."""
        ...

    def finalizable_runs(self, campaign_id: CampaignId) -> list[RunId]:
        """Runs in progress whose completed tasks equal the expected count (and > 0)."""
        ...

    def finish_run(self, lease: FinalizeLease, finished: FinishedRun) -> None:
        """in_progress → completed with its metrics row and progression, guarded by the
        finalize fence **and** by the count again. Raises LeaseLost."""
        ...

    def fail_run(
        self, lease: FinalizeLease, error: str, findings: RunFindings | None = None
    ) -> None:
        """in_progress → failed, with what was found. Raises LeaseLost. A reopened chunk bumps
        the finalize fence, so the lease alone proves that every chunk is still completed."""
        ...

    def accept_run(self, run_id: RunId, *, by: str, reason: str) -> Accepted:
        """failed by its quality gates → in progress with every chunk still completed, so that
        nothing but its end is left to do; finalize fence +1, its campaign active (S6).

        Accepted already: nothing changes, and the acceptance that holds is returned. Raises
        StateRefused for any other run, and for one that is not its export's newest."""
        ...

    def unique_stats(
        self, run_id: RunId, position: int, columns: tuple[str, ...]
    ) -> list[UniqueStats]:
        """What every part of the ledger knows about the unique key at ``position`` of the
        plan, in (chunk, part) order. Kept until a later run of the export is finished."""
        ...

    def last_plans(self, campaign_name: str, export_names: Sequence[str]) -> dict[str, ExportPlan]:
        """The sealed plan of each export's last completed run; exports without one, or whose
        run was forgotten, are left out. What schema drift is measured from."""
        ...

    # -- views ------------------------------------------------------------------------------
    def run(self, run_id: RunId) -> RunView | None:
        """One run, or None."""
        ...

    def runs(self, campaign_id: CampaignId) -> list[RunView]:
        """In plan order."""
        ...

    def run_finished_at_s(self, run_id: RunId) -> float:
        """When its last chunk was completed: the manifest's reproducible finish time."""
        ...

    def workers(
        self, *, host_id: str | None = None, alive_within_s: float = 60.0
    ) -> list[WorkerView]:
        """Workers whose row is not marked ended, newest heartbeat first."""
        ...

    def groups(self, campaign_id: CampaignId) -> list[GroupView]:
        """Every source group of a campaign, by name."""
        ...

    # -- protecting the source (ADR 0013) ---------------------------------------------------
    def set_budgets(self, budgets: Sequence[SourceBudget], *, by: str) -> list[str]:
        """Store what each named group may do, over all campaigns here; one that says nothing
        limits nothing. The names of those that changed; a change is journaled, and starts the
        governor's work anew."""
        ...

    def budgets(self) -> list[SourceBudget]:
        """Every budget, by group name."""
        ...

    def reserve(self, group_name: str, rows: float, size_bytes: float) -> float:
        """Reserve so much of a group's rates; the seconds until it may be used."""
        ...

    def reserve_retry(self, source_key: str, cost_s: float) -> float:
        """Reserve one retry of a source (``contracts.clock.retry_appointment``), over all processes
        and campaigns here; the seconds until it may be made."""
        ...

    def lease_governor(
        self,
        campaign_id: CampaignId,
        worker: WorkerIdentity,
        lease_ttl_s: float,
        *,
        patience_s: float,
    ) -> list[GovernorLease]:
        """The right to govern those monitored groups of the campaign that nobody has governed
        for ``patience_s``; each with a fence of its own."""
        ...

    def govern(self, lease: GovernorLease, word: GovernorWord, lease_ttl_s: float) -> SourceBudget:
        """Write what a sample led to, extend the lease, tell, and halt campaigns when ``word``
        says so: one transaction. The budget as it is now. Raises LeaseLost."""
        ...

    def leave_governor(self, lease: GovernorLease) -> None:
        """Somebody else may govern at once."""
        ...

    def lift_halt(self, campaign_id: CampaignId) -> bool:
        """An operator wants this campaign and its groups to run, whatever a governor stopped
        before. False when nobody had stopped the campaign."""
        ...

    def standing(self, task_id: TaskId) -> Standing:
        """How the group of a running chunk stands, for this chunk."""
        ...

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
        """In order of happening: the first ``limit``, or with ``newest`` the last."""
        ...

    def outage(self, campaign_id: CampaignId, run_ids: Sequence[RunId]) -> Outage | None:
        """What the journal knows of an outage of the one source that these runs read: what was
        given back since one of their chunks was last committed or failed. For people."""
        ...

    def write_journal(self, event: Event) -> None:
        """Events that belong to no transition of the store."""
        ...

    def metrics(
        self,
        *,
        campaign_name: str | None = None,
        export_name: str | None = None,
        limit: int = 20,
    ) -> list[dict[str, object]]:
        """``export_metrics`` rows, newest first."""
        ...

    def history(
        self, campaign_name: str, export_names: Sequence[str], *, limit: int = 20
    ) -> dict[str, list[MeasuredRun]]:
        """What the last ``limit`` ended runs of each export measured, newest first; exports
        without any are left out. Advice is made of it, never correctness."""
        ...

    def marks(self, campaign_name: str, export_names: Sequence[str]) -> dict[str, StoredMark]:
        """The mark of each export that has one, with what it is bound to (PA4 compares it)."""
        ...

    def accept_mark(
        self, campaign_name: str, export_name: str, at: StoredMark, binding: str, event: Event
    ) -> bool:
        """Bind the mark ``at`` to something else; ``event`` tells it in the same transaction.
        False when it is bound so already. StateRefused when it has changed, or a run of the
        export is in progress."""
        ...

    def progression(self, campaign_name: str) -> list[Progression]:
        """How far each export has come, by name. For people: nothing is decided by it (PG7)."""
        ...

    def note_counters_before(self, run_id: RunId, source: str, reading: CounterReading) -> None:
        """The source's counters before the run; only the first word counts, and none after the
        run has ended."""
        ...

    def note_counters_after(self, run_id: RunId, reading: CounterReading) -> None:
        """The counters after the run's end, with the event; nothing without a look before."""
        ...

    def counters(self, campaign_id: CampaignId) -> list[RunCounters]:
        """The looks at the sources of a campaign's runs, in its order. For people."""
        ...

    def reset_export(self, campaign_name: str, export_name: str, *, chunks_only: bool) -> int:
        """Forget runs and tasks of a campaign's export (and, unless ``chunks_only``, its cursor and
        progression). StateRefused while a live worker holds one of its chunks."""
        ...
