"""What can happen, by name: the one catalogue behind logs, journal, progress and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

EVENT_VERSION = 1


class EventName(Enum):
    """noun.verb, past tense. Documented in docs/reference/events.md."""

    CAMPAIGN_SUBMITTED = "campaign.submitted"
    CAMPAIGN_RESUMED = "campaign.resumed"
    CAMPAIGN_COMPLETED = "campaign.completed"
    CAMPAIGN_INCOMPLETE = "campaign.incomplete"
    CAMPAIGN_CANCELLED = "campaign.cancelled"
    CAMPAIGN_STOPPED = "campaign.stopped"
    PLAN_APPLIED = "plan.applied"
    EXPORT_PLANNED = "export.planned"
    EXPORT_LEFT_OUT = "export.left_out"
    SCHEMA_CHANGED = "schema.changed"
    WORKER_STARTED = "worker.started"
    WORKER_STOPPED = "worker.stopped"
    WORKER_DIED = "worker.died"
    WORKER_RECYCLED = "worker.recycled"
    WORKER_REFUSED = "worker.refused"
    CHUNK_CLAIMED = "chunk.claimed"
    PAGE_READ = "page.read"
    PART_STAGED = "part.staged"
    CHUNK_PAUSED = "chunk.paused"
    CHUNK_RESUMED = "chunk.resumed"
    CHUNK_COMMITTED = "chunk.committed"
    PART_PUBLISHED = "part.published"
    CHUNK_COMPLETED = "chunk.completed"
    CHUNK_FAILED = "chunk.failed"
    CHUNK_RELEASED = "chunk.released"
    CHUNK_REAPED = "chunk.reaped"
    CHUNK_REOPENED = "chunk.reopened"
    LEASE_LOST = "lease.lost"
    SOURCE_RETRIED = "source.retried"
    SOURCE_HELD = "source.held"
    SOURCE_COUNTED = "source.counted"
    SOURCE_CHANGED = "source.changed"
    STATE_RETRIED = "state.retried"
    STATE_RESEALED = "state.resealed"
    DESTINATION_RETRIED = "destination.retried"
    BUDGET_CHANGED = "budget.changed"
    GOVERNOR_ELECTED = "governor.elected"
    GOVERNOR_SHED = "governor.shed"
    GOVERNOR_REGAINED = "governor.regained"
    GOVERNOR_PAUSED = "governor.paused"
    GOVERNOR_RESUMED = "governor.resumed"
    GOVERNOR_ABORTED = "governor.aborted"
    SIGNAL_LOST = "signal.lost"
    SIGNAL_FOUND = "signal.found"
    QUALITY_JUDGED = "quality.judged"
    QUALITY_FAILED = "quality.failed"
    RUN_PROVEN = "run.proven"
    SHAPE_DRIFTED = "shape.drifted"
    MANIFEST_WRITTEN = "manifest.written"
    RUN_COMPLETED = "run.completed"
    MARK_MOVED = "mark.moved"
    MARK_KEPT = "mark.kept"
    MARK_ADOPTED = "mark.adopted"
    MARK_ACCEPTED = "mark.accepted"
    CAMPAIGN_ACCEPTED = "campaign.accepted"
    RUN_FAILED = "run.failed"
    RUN_ACCEPTED = "run.accepted"
    STAGED_SWEPT = "staged.swept"


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
