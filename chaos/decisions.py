"""What the kill loop does next: drawn from a seed, so that a run can be replayed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum


class Blow(Enum):
    """What can happen to a fleet."""

    KILL_WORKER = "kill -9 a worker"
    PAUSE_WORKER = "pause a worker past its lease"
    KILL_COORDINATOR = "kill -9 the coordinator"
    STOP_COORDINATOR = "SIGTERM to the coordinator"
    CRASH_STATE = "crash and restart the state database"
    CRASH_SOURCE = "crash and restart the source"
    PAUSE_SOURCE = "pause the source past a lease"
    CRASH_STORE = "crash and restart the object store"


_WEIGHTS = {
    Blow.KILL_WORKER: 8,
    Blow.PAUSE_WORKER: 3,
    Blow.KILL_COORDINATOR: 3,
    Blow.STOP_COORDINATOR: 1,
    Blow.CRASH_STATE: 2,
    Blow.CRASH_SOURCE: 1,
    Blow.PAUSE_SOURCE: 1,
    Blow.CRASH_STORE: 3,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """After ``wait_s``, ``blow`` falls; ``pick`` (0 to 1) chooses among the workers."""

    wait_s: float
    blow: Blow
    pick: float


def decisions(
    rng: random.Random, *, state_can_crash: bool, into_store: bool = False
) -> Iterator[Decision]:
    """Endless; the same generator state gives the same decisions."""
    absent = {Blow.CRASH_STATE: not state_can_crash, Blow.CRASH_STORE: not into_store}
    blows = [blow for blow in Blow if not absent.get(blow)]
    weights = [_WEIGHTS[blow] for blow in blows]
    while True:
        yield Decision(
            wait_s=rng.uniform(0.2, 1.6),
            blow=rng.choices(blows, weights)[0],
            pick=rng.random(),
        )
