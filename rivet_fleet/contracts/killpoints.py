"""Every moment at which a process may die, by name; a scenario in ``chaos/`` dies at each.

``reach`` costs one attribute read when nothing is armed. Arming is done once, by the CLI, from
the environment of the test that wants it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum


class KillPoint(Enum):
    """Named after what has just become true."""

    CAMPAIGN_PLANNED = "campaign.planned"
    CAMPAIGN_SUBMITTED = "campaign.submitted"
    CHUNK_CLAIMED = "chunk.claimed"
    PAGE_READ = "page.read"
    CHUNK_READ = "chunk.read"
    CHUNK_HANDED_OVER = "chunk.handed_over"
    PART_SPOOLED = "part.spooled"
    PART_DIGESTED = "part.digested"
    STAGE_WRITTEN = "stage.written"
    PART_STAGED = "part.staged"
    CHUNK_COMMITTED = "chunk.committed"
    PART_RENAMED = "part.renamed"
    PART_PUBLISHED = "part.published"
    CHUNK_COMPLETED = "chunk.completed"
    CHUNK_FAILED = "chunk.failed"
    CHUNK_RELEASED = "chunk.released"
    CHUNK_REAPED = "chunk.reaped"
    REOPEN_STAGED_DISCARDED = "reopen.staged_discarded"
    REOPEN_VISIBLE_REMOVED = "reopen.visible_removed"
    CHUNK_REOPENED = "chunk.reopened"
    REPAIR_BEGUN = "repair.begun"
    REPLACED_REMOVED = "replaced.removed"
    FINALIZE_LEASED = "finalize.leased"
    PROOF_NOTED = "proof.noted"
    MANIFEST_COPY_WRITTEN = "manifest.copy_written"
    MANIFEST_WRITTEN = "manifest.written"
    MANIFEST_VERIFIED = "manifest.verified"
    SUCCESS_WRITTEN = "success.written"
    LATEST_WRITTEN = "latest.written"
    RUN_FINISHED = "run.finished"
    REPORT_WRITTEN = "report.written"


class KillAction(Enum):
    """What happens there."""

    ERROR = "error"
    """An unexpected exception is raised."""
    KILL = "kill"
    """The process gets SIGKILL from itself."""
    STOP = "stop"
    """The process is paused (SIGSTOP) until somebody continues it."""


class KillPointReached(RuntimeError):
    """Raised by an armed ``error`` kill point. Deliberately not one of our own errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arming:
    """``point:action[:nth[:marker]]``: die at the nth time, once for all processes that share
    ``marker`` (a file path that is created exclusively at the moment of dying)."""

    point: KillPoint
    action: KillAction
    nth: int = 1
    marker: str | None = None


_armed: tuple[Arming, ...] = ()
_hits: dict[KillPoint, int] = {}
_observer: Callable[[KillPoint], None] | None = None


def parse_armings(text: str) -> tuple[Arming, ...]:
    """``;``-separated armings. Raises ValueError on anything it does not understand."""
    armings = []
    for item in filter(None, (part.strip() for part in text.split(";"))):
        point, action, *rest = item.split(":", 3)
        armings.append(
            Arming(
                point=KillPoint(point),
                action=KillAction(action),
                nth=int(rest[0]) if rest else 1,
                marker=rest[1] if len(rest) > 1 else None,
            )
        )
    return tuple(armings)


def arm(armings: tuple[Arming, ...]) -> None:
    """Replace what is armed and forget the hits so far."""
    global _armed
    _armed = armings
    _hits.clear()


def observe(observer: Callable[[KillPoint], None] | None) -> None:
    """Call ``observer`` at every point: how tests prove that each point is reached."""
    global _observer
    _observer = observer


def reach(point: KillPoint) -> None:
    """The process has just come to ``point``; if it is armed, it ends here."""
    if _observer is not None:
        _observer(point)
    if not _armed:
        return
    _hits[point] = hits = _hits.get(point, 0) + 1
    for arming in _armed:
        if arming.point is point and hits >= arming.nth and _first(arming.marker):
            _die(arming)


def _first(marker: str | None) -> bool:
    if marker is None:
        return True
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True


def _die(arming: Arming) -> None:
    if arming.action is KillAction.ERROR:
        raise KillPointReached(f"kill point {arming.point.value}")
    kill = signal.SIGKILL if arming.action is KillAction.KILL else signal.SIGSTOP
    # To this very thread: of a signal to the process another one may take notice first, and this
    # one goes on for a moment.
    signal.pthread_kill(threading.get_ident(), kill)
