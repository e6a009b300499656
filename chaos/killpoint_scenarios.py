"""How to get a process to each kill point, and what the task table must look like afterwards."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from chaos.arena import Arena
from chaos.processes import Coordinator, is_stopped, kill, until
from chaos.scenario import Campaign, Shape
from chaos.source_data import ORDERS
from rivet_fleet.contracts.killpoints import KillAction, KillPoint

Provoke = Callable[[Campaign, Coordinator], None]

_CHUNKS = 30
"""So many that what one death touches is the smaller part of them."""
_TOUCHED_MAX = 6
"""One death touches a handful of chunks at most: those of the processes that went with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """``nth``: at which hit of a process it dies. ``first``: what has to happen before, armed
    as ``point:action``. ``attempts``/``fences``: of the chunk it happened to, by action.
    ``again``: it was free by then, and whoever ends at this moment may have claimed it."""

    nth: int = 1
    first: str = ""
    provoke: Provoke | None = None
    drain_grace_s: float = 5.0
    after_kill: tuple[int, int] = (1, 1)
    after_error: tuple[int, int] = (1, 1)
    again: bool = False


def _stopped_worker(campaign: Campaign, coordinator: Coordinator) -> psutil.Process:
    """The worker that paused itself at the first point."""
    return until(
        lambda: next(filter(is_stopped, coordinator.workers()), None),
        what="a worker pauses itself",
    )


def _lose_staged(campaign: Campaign, coordinator: Coordinator) -> None:
    """Delete staged bytes under the feet of a worker that has just committed them."""
    worker = _stopped_worker(campaign, coordinator)
    campaign.lose_staged()
    kill(worker, signal.SIGCONT)


def _ask_to_leave(campaign: Campaign, coordinator: Coordinator) -> None:
    """SIGTERM to a worker in the middle of a chunk."""
    worker = _stopped_worker(campaign, coordinator)
    kill(worker, signal.SIGTERM)
    kill(worker, signal.SIGCONT)


_ATTEMPT_LOST = Scenario(nth=3, after_kill=(2, 3), after_error=(2, 2))
_ROLLED_FORWARD = Scenario(nth=3)
_REOPENED = Scenario(
    first="chunk.committed:stop:3",
    provoke=_lose_staged,
    after_kill=(1, 3),
    after_error=(1, 3),
)
_ONCE = Scenario()

SCENARIOS: dict[KillPoint, Scenario] = {
    KillPoint.CAMPAIGN_PLANNED: _ONCE,
    KillPoint.CAMPAIGN_SUBMITTED: _ONCE,
    KillPoint.CHUNK_CLAIMED: _ATTEMPT_LOST,
    KillPoint.PAGE_READ: _ATTEMPT_LOST,
    KillPoint.CHUNK_READ: _ATTEMPT_LOST,
    KillPoint.CHUNK_HANDED_OVER: _ATTEMPT_LOST,
    KillPoint.PART_SPOOLED: _ATTEMPT_LOST,
    KillPoint.PART_DIGESTED: _ATTEMPT_LOST,
    KillPoint.STAGE_WRITTEN: _ATTEMPT_LOST,
    KillPoint.PART_STAGED: _ATTEMPT_LOST,
    KillPoint.CHUNK_COMMITTED: _ROLLED_FORWARD,
    KillPoint.PART_RENAMED: _ROLLED_FORWARD,
    KillPoint.PART_PUBLISHED: _ROLLED_FORWARD,
    KillPoint.CHUNK_COMPLETED: _ROLLED_FORWARD,
    KillPoint.CHUNK_FAILED: Scenario(
        first="part.digested:error:3", after_kill=(2, 2), after_error=(2, 2)
    ),
    KillPoint.CHUNK_RELEASED: Scenario(
        first="page.read:stop:3",
        provoke=_ask_to_leave,
        drain_grace_s=0.0,
        after_kill=(1, 2),
        after_error=(1, 2),
    ),
    KillPoint.CHUNK_REAPED: Scenario(
        first="part.staged:kill:3", after_kill=(2, 3), after_error=(2, 3), again=True
    ),
    KillPoint.REOPEN_STAGED_DISCARDED: _REOPENED,
    KillPoint.REOPEN_VISIBLE_REMOVED: _REOPENED,
    KillPoint.CHUNK_REOPENED: replace(_REOPENED, again=True),
    KillPoint.FINALIZE_LEASED: _ONCE,
    KillPoint.PROOF_NOTED: _ONCE,
    KillPoint.MANIFEST_COPY_WRITTEN: _ONCE,
    KillPoint.MANIFEST_WRITTEN: _ONCE,
    KillPoint.MANIFEST_VERIFIED: _ONCE,
    KillPoint.SUCCESS_WRITTEN: _ONCE,
    KillPoint.LATEST_WRITTEN: _ONCE,
    KillPoint.RUN_FINISHED: _ONCE,
    KillPoint.REPORT_WRITTEN: _ONCE,
}

OF_REPAIRS = (KillPoint.REPAIR_BEGUN, KillPoint.REPLACED_REMOVED)
"""Of commands behind a delivery: tests/integration/test_repair_kills.py dies there."""


class NeverReached(AssertionError):
    """Nobody came by the kill point: somebody else had done that step already."""


def play(arena: Arena, point: KillPoint, state: str, action: KillAction) -> list[int]:
    """One real campaign that dies at ``point`` and must still deliver every row once.

    Returns the coordinators' exit codes. Raises AssertionError with the logs as a note;
    NeverReached where nobody died.
    """
    scenario = SCENARIOS[point]
    shape = Shape(chunk_count=_CHUNKS, drain_grace_s=scenario.drain_grace_s)
    case = f"{point.value}-{arena.engine}-{state}-{action.value}"
    replay = f"pytest 'chaos/test_kill_points.py::test_every_row_once_whatever_dies[{case}]'"
    with arena.campaign(state, tables=[ORDERS], shape=shape, replay=replay) as campaign:
        marker = campaign.folder / "marker"
        codes = campaign.run_to_end(
            armed=_armed(scenario, point, action, marker), provoke=scenario.provoke
        )
        if not marker.exists():
            raise NeverReached(f"{point.value} was never reached")
        campaign.expect_exactly_once()
        _expect_numbers(campaign, scenario, action)
        campaign.expect_tidy()
    return codes


def _armed(scenario: Scenario, point: KillPoint, action: KillAction, marker: Path) -> str:
    armed = f"{point.value}:{action.value}:{scenario.nth}:{marker}"
    return f"{scenario.first}:{marker}-first;{armed}" if scenario.first else armed


def _expect_numbers(campaign: Campaign, scenario: Scenario, action: KillAction) -> None:
    """Attempts and fences tell exactly what happened to the chunk, and to how few."""
    tasks = campaign.expect_completed()
    assert len(tasks) >= _CHUNKS, f"{len(tasks)} chunks are too few"
    touched = [(t.attempts, t.fence) for t in tasks if (t.attempts, t.fence) != (1, 1)]
    wanted = scenario.after_kill if action is KillAction.KILL else scenario.after_error
    possible = {wanted}
    if scenario.again:
        attempts, fence = wanted
        # Claimed meanwhile by somebody who died, or who gave it back.
        possible |= {(attempts + 1, fence + 2), (attempts, fence + 1)}
    assert wanted == (1, 1) or possible & set(touched), f"{wanted} not among {touched}"
    assert len(touched) <= _TOUCHED_MAX, f"too many chunks were touched: {touched}"
