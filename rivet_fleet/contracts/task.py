"""The task machine of docs/adr/0001: states, verbs and the only transitions there are."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class TaskStatus(Enum):
    """Where a chunk task stands. The values are the database text."""

    PENDING = "pending"
    RUNNING = "running"
    COMMITTED = "committed"
    COMPLETED = "completed"
    FAILED = "failed"


class RunStatus(Enum):
    """Where one export's run stands."""

    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class CampaignStatus(Enum):
    """Where a campaign stands. Only ``active`` campaigns hand out chunks."""

    ACTIVE = "active"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """True when nobody will ever claim a chunk of it again without an operator's verb."""
        return self is not CampaignStatus.ACTIVE


class Verb(Enum):
    """What may be done to a task."""

    ENQUEUE = "enqueue"
    CLAIM = "claim"
    RENEW = "renew"
    COMMIT = "commit"
    COMPLETE = "complete"
    FAIL = "fail"
    RELEASE = "release"
    REAP = "reap"
    REOPEN = "reopen"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One row of the table: where it may start, where it ends, what it does to the numbers.

    ``attempts``: +1 spends one, -1 gives one back, 0 leaves them, None resets to zero.
    ``fence``: how much the fence grows. ``fenced``: the caller must name the current fence.
    """

    sources: frozenset[TaskStatus]
    target: TaskStatus
    attempts: int | None
    fence: int
    fenced: bool


_P, _R, _C, _D, _F = (
    TaskStatus.PENDING,
    TaskStatus.RUNNING,
    TaskStatus.COMMITTED,
    TaskStatus.COMPLETED,
    TaskStatus.FAILED,
)

TRANSITIONS: dict[Verb, Transition] = {
    Verb.ENQUEUE: Transition(sources=frozenset(), target=_P, attempts=None, fence=0, fenced=False),
    Verb.CLAIM: Transition(
        sources=frozenset({_P, _F}), target=_R, attempts=+1, fence=+1, fenced=False
    ),
    Verb.RENEW: Transition(sources=frozenset({_R}), target=_R, attempts=0, fence=0, fenced=True),
    Verb.COMMIT: Transition(sources=frozenset({_R}), target=_C, attempts=0, fence=0, fenced=True),
    Verb.COMPLETE: Transition(sources=frozenset({_C}), target=_D, attempts=0, fence=0, fenced=True),
    Verb.FAIL: Transition(sources=frozenset({_R}), target=_F, attempts=0, fence=0, fenced=True),
    Verb.RELEASE: Transition(sources=frozenset({_R}), target=_P, attempts=-1, fence=0, fenced=True),
    Verb.REAP: Transition(sources=frozenset({_R}), target=_P, attempts=0, fence=+1, fenced=False),
    Verb.REOPEN: Transition(
        sources=frozenset({_C, _D, _F}), target=_P, attempts=None, fence=+1, fenced=True
    ),
}
"""A reap ends in FAILED instead of PENDING when the budget is spent; a permanent failure
spends the whole budget. Everything else is as the table says."""


def after_reap(attempts: int, attempts_max: int) -> TaskStatus:
    """Where a reaped task goes: back to the queue, or to the poison shelf."""
    return TaskStatus.PENDING if attempts < attempts_max else TaskStatus.FAILED
