"""What can happen: the one table behind log, journal, progress, report and reference page.

A new event is a member of ``EventName`` and the line that emits it; ``scripts/write_reference.py``
then writes docs/reference/events.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Literal, Protocol

EVENT_VERSION = 1

Level = Literal["debug", "info", "warning", "error"]
DEBUG: Level = "debug"
INFO: Level = "info"
WARNING: Level = "warning"
ERROR: Level = "error"

TRANSITION = "transition"
"""The store on behalf of whoever made the transition: it journals the event inside the
transition's own transaction, so the entry is there if and only if the transition is."""


@dataclass(frozen=True, slots=True)
class News:
    """How progress tells an event as it happens. ``colour`` is one of a terminal's, or ``dim``.
    ``live_only``: not in plain lines, where it would crowd the rest out."""

    words: str
    colour: str
    live_only: bool = False


@dataclass(frozen=True, slots=True)
class Count:
    """How the closing report counts an event: under ``key`` for programs, in words for people."""

    key: str
    one: str
    many: str


@dataclass(frozen=True, slots=True)
class _Row:
    """What is known of an event; ``EventName`` says what each field means."""

    name: str
    by: str
    level: Level
    when: str
    data: str = ""
    journaled: bool = True
    news: News | None = None
    count: Count | None = None


class EventName(Enum):
    """noun.verb, past tense; the value is what logs and journal hold.

    ``by``: who emits it, TRANSITION or a process in words. ``level``: how loud it is in the log.
    ``when`` and ``data``: its sentence and its fields in docs/reference/events.md, in Markdown.
    ``journaled``: False where there are too many to keep. ``news``: its line in progress; None
    where it is no news. ``count``: its number in the closing report, which tells them in the
    order of this table.
    """

    _value_: str
    by: str
    level: Level
    when: str
    data: str
    journaled: bool
    news: News | None
    count: Count | None

    def __new__(cls, row: _Row) -> EventName:
        """A member of this row, whose value is the row's name."""
        member = object.__new__(cls)
        member._value_ = row.name
        member.by, member.level, member.when, member.data = row.by, row.level, row.when, row.data
        member.journaled, member.news, member.count = row.journaled, row.news, row.count
        return member

    if TYPE_CHECKING:  # the checker takes the value for Any where there is a __new__

        @property
        def value(self) -> str:
            """noun.verb."""

    @property
    def verb(self) -> str:
        """What happened, without to what."""
        return self.value.partition(".")[2]

    @property
    def written_by_store(self) -> bool:
        """Whether the store journals it by itself. Emitting it as well would double it. Of a part's
        own events the store is told with the transition they led to (``Told``)."""
        return self.by == TRANSITION

    # Campaigns and their plans
    CAMPAIGN_SUBMITTED = _Row(
        "campaign.submitted",
        TRANSITION,
        INFO,
        "the campaign, its runs and all their tasks were stored",
        data="`exports`, `chunks`",
    )
    CAMPAIGN_RESUMED = _Row(
        "campaign.resumed", "coordinator", INFO, "a coordinator continues a stored campaign"
    )
    CAMPAIGN_COMPLETED = _Row(
        "campaign.completed", TRANSITION, INFO, "the last run of the campaign completed"
    )
    CAMPAIGN_INCOMPLETE = _Row(
        "campaign.incomplete",
        TRANSITION,
        ERROR,
        "nothing can be claimed, published or finished any more, and some run is not completed",
    )
    CAMPAIGN_CANCELLED = _Row(
        "campaign.cancelled",
        TRANSITION,
        WARNING,
        "an operator gave the campaign up; running chunks lost their fence",
    )
    CAMPAIGN_STOPPED = _Row(
        "campaign.stopped",
        "coordinator",
        WARNING,
        "the coordinator was told to stop before the end; resumable",
    )
    PLAN_APPLIED = _Row(
        "plan.applied",
        "coordinator",
        INFO,
        "a sealed plan became a campaign; what was forced is said",
        data="`created_at`, `forced`",
    )
    EXPORT_PLANNED = _Row(
        "export.planned",
        "coordinator",
        INFO,
        "one export's chunks were decided",
        data="`chunks`, `warnings`",
    )
    EXPORT_LEFT_OUT = _Row(
        "export.left_out",
        "submitter",
        WARNING,
        "the campaign was planned without it: another session holds a lock on its relation, or "
        "the source cannot send a column as it was asked to (the message says more)",
    )
    SCHEMA_CHANGED = _Row(
        "schema.changed",
        "submitter",
        WARNING,
        "a submitted export's columns differ from its last completed run's; one entry per "
        "difference",
        data="`code`, `column`, `before`, `after`, `policy`",
    )

    # Protection of the source
    BUDGET_CHANGED = _Row(
        "budget.changed",
        TRANSITION,
        INFO,
        "the budget of a source group is another one now; `changes` holds old and new numbers",
        data="`source_group`, `changes`",
    )
    GOVERNOR_ELECTED = _Row(
        "governor.elected",
        TRANSITION,
        INFO,
        "a process watches the source group from now on; the former one died, left or never was",
        data="`source_group`, `governor`, `fence`",
    )
    GOVERNOR_SHED = _Row(
        "governor.shed",
        TRANSITION,
        WARNING,
        "a signal is above `shed_above`: fewer chunks, smaller pages",
        data="`source_group`, `signal`, `value`, `threshold`, `from`, `to`, `page_share`",
    )
    GOVERNOR_REGAINED = _Row(
        "governor.regained",
        TRANSITION,
        INFO,
        "all signals were calm: one chunk more, larger pages",
        data="`source_group`, `from`, `to`, `page_share`",
    )
    GOVERNOR_PAUSED = _Row(
        "governor.paused",
        TRANSITION,
        WARNING,
        "nothing of the group runs: a signal above `pause_above`, a flag file, the hour",
        data="`source_group`, `signal`, `value`, `threshold`, `from`, `to`, `opens_in_s`",
    )
    GOVERNOR_RESUMED = _Row(
        "governor.resumed",
        TRANSITION,
        INFO,
        "the pause is over",
        data="`source_group`, `from`, `to`",
    )
    GOVERNOR_ABORTED = _Row(
        "governor.aborted",
        TRANSITION,
        ERROR,
        "a signal was above `abort_above` twice: the campaign is stopped, resumable",
        data="`source_group`, `signal`, `value`, `threshold`",
    )
    SIGNAL_LOST = _Row(
        "signal.lost",
        TRANSITION,
        WARNING,
        "a signal could not be read three times in a row; `on_unreadable` counts",
        data="`source_group`, `signal`",
    )
    SIGNAL_FOUND = _Row(
        "signal.found",
        TRANSITION,
        INFO,
        "the signal can be read again",
        data="`source_group`, `signal`",
    )
    SOURCE_COUNTED = _Row(
        "source.counted",
        TRANSITION,
        INFO,
        "a run ended: by how much the source's own counters rose meanwhile, everybody's work "
        "among it; null when the server counted anew",
        data="`source`, `risen`, `context`",
    )

    # The way of a chunk
    CHUNK_CLAIMED = _Row(
        "chunk.claimed",
        TRANSITION,
        DEBUG,
        "pending or failed → running: attempt +1, fence +1",
        data="`attempt`, `fence`",
    )
    PAGE_READ = _Row(
        "page.read",
        "worker",
        DEBUG,
        "a page, or a piece of one, arrived ([ADR 0016](../adr/0016-a-page-in-pieces.md))",
        data="`rows`, `rows_total`, `statement_s`",
        journaled=False,
    )
    CHUNK_PAUSED = _Row(
        "chunk.paused",
        "worker",
        INFO,
        "the chunk rests at a page boundary: its source group may not go on now (the message "
        "says why)",
    )
    CHUNK_RESUMED = _Row(
        "chunk.resumed",
        "worker",
        INFO,
        "it goes on with its next page",
        data="`rested_s`",
    )
    PART_STAGED = _Row(
        "part.staged",
        TRANSITION,
        DEBUG,
        "a part is stored durably and invisibly",
        data="`path`, `rows`, `bytes`",
    )
    CHUNK_COMMITTED = _Row(
        "chunk.committed",
        TRANSITION,
        DEBUG,
        "running → committed, with its part rows: this attempt has won",
        data="`rows`, `parts`, `bytes`, `fence`, `longest_statement_s`",
    )
    CHUNK_COMPARED = _Row(
        "chunk.compared",
        TRANSITION,
        DEBUG,
        "the files of a range were compared with their source",
        data="`verdict`, `source_rows`, `files_rows`, `looks`",
    )
    PART_PUBLISHED = _Row(
        "part.published",
        TRANSITION,
        DEBUG,
        "a part is visible (told again when somebody confirms it)",
        data="`path`, `rows`, `bytes`",
    )
    PART_REMOVED = _Row(
        "part.removed",
        "worker",
        WARNING,
        "a store showed a part after its attempt was given up; it was removed before the run ended",
        data="`path`, `fence`",
    )
    CHUNK_COMPLETED = _Row(
        "chunk.completed",
        TRANSITION,
        INFO,
        "committed → completed: all its parts are visible",
        data="`fence`",
    )
    CHUNK_RELEASED = _Row(
        "chunk.released",
        TRANSITION,
        INFO,
        "running → pending on a graceful stop, or because the source could not be connected "
        "(the message says why): the attempt is given back",
    )

    # Workers, and what is saved of those that die
    WORKER_STARTED = _Row(
        "worker.started",
        "worker",
        INFO,
        "a worker process has its connections and begins to claim",
        data="`pid`, `worker_name`, `host_id`",
    )
    WORKER_STOPPED = _Row("worker.stopped", "worker", INFO, "a worker leaves in good order")
    WORKER_REFUSED = _Row(
        "worker.refused",
        "worker",
        ERROR,
        "a worker process lacks something itself and ends; its chunk went back without spending"
        " an attempt (ADR 0023)",
        data="`code`, `worker_name`, `host_id`, `pid`",
        news=News("worker unfit", "red"),
    )
    CHUNK_REAPED = _Row(
        "chunk.reaped",
        TRANSITION,
        WARNING,
        "a chunk was taken back from an owner that is gone: the rescue",
        data="`owner_name`, `attempts`, `attempts_max`, `status`",
        news=News("rescued", "yellow"),
        count=Count("rescues", "chunk rescued", "chunks rescued"),
    )
    WORKER_DIED = _Row(
        "worker.died",
        "coordinator",
        WARNING,
        "a worker process ended by a signal or an unexpected exit code",
        data="`status`, `pid`, `name`",
        news=News("worker died", "red"),
        count=Count("workers_died", "worker died", "workers died"),
    )
    WORKER_RECYCLED = _Row(
        "worker.recycled",
        "worker",
        INFO,
        "a worker above its memory ceiling leaves after its chunk; a fresh process follows",
        data="`rss_bytes`",
        news=News("worker recycled", "dim"),
        count=Count("workers_recycled", "worker recycled", "workers recycled"),
    )

    # What goes wrong on the way
    CHUNK_FAILED = _Row(
        "chunk.failed",
        TRANSITION,
        WARNING,
        "running → failed: one attempt, or the whole budget, is spent",
        data="`error_class`, `code`, `permanent`, `page`, `attempts`, `attempts_max`, "
        "`longest_statement_s`; after a reap `owner_name`, `status`",
        news=News("failed", "red"),
        count=Count("failed_attempts", "attempt failed", "attempts failed"),
    )
    SOURCE_RETRIED = _Row(
        "source.retried",
        "worker or coordinator",
        WARNING,
        "a statement failed and is tried again",
        data="`attempt`, `wait_s`, `error_class`",
        news=News("source retried", "dim", live_only=True),
        count=Count("source_retries", "source retry", "source retries"),
    )
    SOURCE_HELD = _Row(
        "source.held",
        "worker",
        WARNING,
        "the fleet's budget of retries for a source is spent: a try waits its turn ([ADR "
        "0013](../adr/0013-protecting-the-source.md)); once for each worker and source, until a"
        " chunk of it is delivered",
        data="`source`, `wait_s`",
    )
    SOURCE_CHANGED = _Row(
        "source.changed",
        "worker",
        WARNING,
        "what the plan rests on is another than planned, and the rows are right all the same: a"
        " table swapped, truncated or rewritten under a keyset run, an index renamed, a setting"
        " that a `query:` means (it is read as it was planned) ([ADR "
        "0018](../adr/0018-what-a-plan-rests-on.md)); once for each worker and difference",
        data="`kind`, `subject`, `before`, `after`",
        count=Count("source_changes", "change of the source told", "changes of the source told"),
    )
    STATE_RETRIED = _Row(
        "state.retried",
        "any process",
        WARNING,
        "the state database did not answer and is tried again; or it is not there yet, or of an"
        " older version, and a worker waits for it",
        data="`attempt`, `error`",
        news=News("state retried", "dim", live_only=True),
        count=Count("state_retries", "state retry", "state retries"),
    )
    DESTINATION_RETRIED = _Row(
        "destination.retried",
        "any process",
        WARNING,
        "publishing, a manifest or a report could not be written and is tried again",
    )
    DESTINATION_FULL = _Row(
        "destination.full",
        "worker",
        WARNING,
        "a destination or the spool has no room for a chunk's files: the chunk went back without"
        " spending an attempt, and its worker waits; how much is needed and free, where that is"
        " known",
        data="`needed_bytes`, `free_bytes`, `place`, `wait_s`",
        news=News("full", "yellow"),
    )
    LEASE_LOST = _Row(
        "lease.lost",
        "worker",
        WARNING,
        "a worker found that another owns its chunk now; it discards and goes on",
        news=News("lease lost", "yellow"),
        count=Count("leases_lost", "lease lost", "leases lost"),
    )
    CHUNK_REOPENED = _Row(
        "chunk.reopened",
        TRANSITION,
        WARNING,
        "a part was proven lost, or an operator requeued: pending again, old parts voided",
        data="`fence`",
        news=News("reopened", "yellow"),
        count=Count("reopened", "chunk reopened", "chunks reopened"),
    )

    # The end of a run
    QUALITY_JUDGED = _Row(
        "quality.judged",
        "finalizer",
        INFO,
        "a quality gate holds",
        data="`code`, `outcome`, `refuses`",
    )
    QUALITY_FAILED = _Row(
        "quality.failed",
        "finalizer",
        ERROR,
        "a quality gate does not hold, or could not be judged; `refuses` says whether the run "
        "is delivered",
        data="`code`, `outcome`, `refuses`",
    )
    RUN_PROVEN = _Row(
        "run.proven",
        TRANSITION,
        INFO,
        "the source was asked about the whole of a run",
        data="`outcome`, `delivered`, `counted`, `longest_statement_s`",
    )
    SHAPE_DRIFTED = _Row(
        "shape.drifted",
        "finalizer",
        WARNING,
        "rows, bytes or bytes per row are far from what former runs had",
        data="`code`, `usual`, `now`, `samples`",
    )
    MANIFEST_WRITTEN = _Row(
        "manifest.written",
        TRANSITION,
        INFO,
        "a run's manifest is complete under its own and its canonical name",
        data="`manifest`",
    )
    RUN_COMPLETED = _Row(
        "run.completed",
        TRANSITION,
        INFO,
        "the run's last transaction: progression and metrics are recorded",
        data="`rows`, `bytes`, `files`",
        news=News("run completed", "green"),
    )
    RUN_RECONCILED = _Row(
        "run.reconciled",
        TRANSITION,
        INFO,
        "all ranges of a run were compared with their source; what is verified moves with it where "
        "all of them match",
        data="`verdict`, `match`, `mismatch`, `unsettled`, `unknown`",
        news=News("compared with its source", "green"),
    )
    RUN_REPAIRING = _Row(
        "run.repairing",
        TRANSITION,
        INFO,
        "ranges of a delivered run are read again, as its next generation (ADR 0032)",
        data="`generation`, `chunks`",
        news=News("being repaired", "yellow"),
    )
    RUN_RESTORED = _Row(
        "run.restored",
        TRANSITION,
        INFO,
        "a repair was given up: the run is completed in the generation before it, as it was",
        data="`generation`, `chunks`",
        news=News("as before its repair", "yellow"),
    )
    RUN_FAILED = _Row(
        "run.failed",
        TRANSITION,
        ERROR,
        "the run cannot finish as a success; told without a journal entry while a finalizer "
        "will try again",
        news=News("run failed", "red"),
    )
    RUN_ACCEPTED = _Row(
        "run.accepted",
        TRANSITION,
        WARNING,
        "an operator takes responsibility for a run that its gates refused: it is finished, "
        "nothing is read again",
        data="`by`, `reason`, `gates`",
    )
    PARTITION_VANISHED = _Row(
        "partition.vanished",
        "coordinator",
        WARNING,
        "a partition of the last whole delivery has no rows any more; its folder goes on naming "
        "what was delivered then",
        data="`partitions`",
    )

    # Marks
    MARK_MOVED = _Row(
        "mark.moved",
        TRANSITION,
        INFO,
        "a completed run moved the high-water mark of its export, in the same transaction",
        data="`before`, `after`",
    )
    MARK_KEPT = _Row(
        "mark.kept",
        TRANSITION,
        WARNING,
        "a run of a forced plan completed, but the mark is no longer the one it began at: it, "
        "or what it is bound to, stays",
        data="`before`, `after`",
    )
    MARK_ADOPTED = _Row(
        "mark.adopted",
        TRANSITION,
        WARNING,
        "a completed run bound a mark that an earlier version had stored without saying what it"
        " belongs to",
        data="`binding`",
    )

    # What operators do
    MARK_IMPORTED = _Row(
        "mark.imported",
        TRANSITION,
        WARNING,
        "an operator's `state import`: an export goes on where another program stopped",
        data="`by`, `from`, `value`, `mark`, `binding`",
    )
    MARK_ACCEPTED = _Row(
        "mark.accepted",
        TRANSITION,
        WARNING,
        "an operator's `state accept`: the mark goes on under another meaning",
        data="`by`, `reason`, `mark`, `before`, `after`",
    )
    CAMPAIGN_ACCEPTED = _Row(
        "campaign.accepted",
        TRANSITION,
        WARNING,
        "an operator's `state accept --campaign`: campaigns of the name belong to this "
        "configuration from now on",
        data="`by`, `reason`, `campaigns`, `before`, `after`",
    )
    STATE_LEFT_OUT = _Row(
        "state.left_out",
        "any process",
        WARNING,
        "a row of the state is not like anything that a program of the fleet wrote, and what is"
        " about many rows went on without it; once for each process and row",
        data="`code`",
        journaled=False,
    )
    STATE_RESEALED = _Row(
        "state.resealed",
        "operator",
        WARNING,
        "an operator sealed the state anew, with another key or with none",
    )
    STAGED_SWEPT = _Row(
        "staged.swept", "operator", INFO, "`gc` removed staged bytes that no ledger row needs"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened. ``data`` is plain JSON without secrets."""

    name: EventName
    campaign_id: str | None = None
    run_id: str | None = None
    export_name: str | None = None
    chunk_index: int | None = None
    worker_id: str | None = None
    message: str = ""
    data: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An event that is journaled within the transition it led to, and not by itself.

    ``ago_s``: how many seconds ago it happened; asked when it is written, however often the
    transition had to be tried.
    """

    event: Event
    ago_s: Callable[[], float]


class Emit(Protocol):
    """Where events go. Never raises: telling must not change what is told."""

    def __call__(self, event: Event) -> None:
        """Tell everybody who listens."""
        ...
