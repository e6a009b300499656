"""The protocol's end over a store that carries commits out late, explored state by state (F10).

One chunk of one part, processes as slow as it takes: workers that claim, commit and publish, a
reaper, an operator or a loss that reopens, and finalizers that read the ledger, remove what is late
and deliver. A publisher's request may stay on its way at the store, which proves its upload gone
meanwhile and carries it out at any later moment. ``broken`` takes one rule away.

``explore`` returns what went wrong first, None when nothing can. Two finalizers are what a lease
that ran out makes of one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

FENCE_MAX = 5
FINALIZERS = 2


class Broken(Enum):
    """A rule that is not kept."""

    NOTHING = "nothing"
    LEAVES_LATE = "the manifest is written without a look at the run's folder"
    REMOVES_LATER = "every name that the reading does not know is removed, later ones too"
    ENDS_UNFENCED = "a run is ended by a reading that does not hold any more"


class Task(Enum):
    """The chunk's status."""

    PENDING = 0
    RUNNING = 1
    COMMITTED = 2
    COMPLETED = 3


@dataclass(frozen=True, slots=True)
class Finalizer:
    """``read``: the fence of the ledger that it found whole; ``found``: what was still visible
    behind its look at the run's folder, None before that."""

    read: int = 0
    found: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class State:
    """Sets hold fences: of the one part's bytes, staged, on their way and visible."""

    task: Task = Task.PENDING
    fence: int = 0
    staged: frozenset[int] = frozenset()
    on_their_way: frozenset[int] = frozenset()
    visible: frozenset[int] = frozenset()
    finalizers: tuple[Finalizer, ...] = (Finalizer(),) * FINALIZERS
    delivered: int = 0
    """The fence that the manifest names."""
    beside: frozenset[int] = frozenset()
    """What else lies there as the manifest is written, and lay there at the look before it."""
    reopened: bool = False

    def at(self, index: int, finalizer: Finalizer) -> State:
        """With another finalizer in its place."""
        others = list(self.finalizers)
        others[index] = finalizer
        return replace(self, finalizers=tuple(others))


def explore(broken: Broken) -> tuple[str | None, int]:
    """The first violation, and how many states there are."""
    seen = {State()}
    ahead = deque(seen)
    while ahead:
        for state in _next(ahead.popleft(), broken):
            if state in seen:
                continue
            seen.add(state)
            if (wrong := _wrong(state)) is not None:
                return wrong, len(seen)
            ahead.append(state)
    if not any(state.delivered for state in seen):
        return "nothing is ever delivered", len(seen)
    return None, len(seen)


def _wrong(state: State) -> str | None:
    if state.task is Task.COMPLETED and state.fence not in state.visible:
        return "a completed chunk's part is gone"
    if state.delivered and state.delivered not in state.visible:
        return "a manifest names a part that is not there"
    if state.beside:
        return "a late part lies beside a manifest"
    return None


def _next(state: State, broken: Broken) -> Iterator[State]:
    if not state.delivered:
        yield from _worked(state)
        yield from _reopened(state)
        for index, finalizer in enumerate(state.finalizers):
            yield from _finalized(state, index, finalizer, broken)
    for late in state.on_their_way:
        yield replace(
            state,
            on_their_way=state.on_their_way - {late},
            visible=state.visible | {late},
            staged=state.staged - {late},
        )


def _worked(state: State) -> Iterator[State]:
    fence, staged = state.fence, state.staged
    if state.task is Task.PENDING and fence < FENCE_MAX:
        yield replace(state, task=Task.RUNNING, fence=fence + 1)
    if state.task is Task.RUNNING:
        yield replace(state, task=Task.COMMITTED, staged=staged | {fence})
        if fence < FENCE_MAX:  # its lease ran out
            yield replace(state, task=Task.PENDING, fence=fence + 1)
    if state.task is Task.COMMITTED and fence in staged:
        shown = state.visible | {fence}
        yield replace(state, staged=staged - {fence}, visible=shown)
        yield replace(state, on_their_way=state.on_their_way | {fence})
    if state.task is Task.COMMITTED and fence in state.visible:
        yield replace(state, task=Task.COMPLETED)


def _reopened(state: State) -> Iterator[State]:
    """The store has proven the upload gone, and what was visible is removed first (F9)."""
    committed = state.task in (Task.COMMITTED, Task.COMPLETED)
    if committed and state.fence < FENCE_MAX and not state.reopened:
        yield replace(
            state,
            task=Task.PENDING,
            fence=state.fence + 1,
            staged=state.staged - {state.fence},
            visible=state.visible - {state.fence},
            reopened=True,
        )


def _finalized(state: State, index: int, finalizer: Finalizer, broken: Broken) -> Iterator[State]:
    read = finalizer.read
    completed = state.task is Task.COMPLETED
    if read == 0:
        if completed:
            yield state.at(index, Finalizer(read=state.fence))
        return
    yield state.at(index, Finalizer())  # it dies, or gives up
    if finalizer.found is None:
        later = broken is Broken.REMOVES_LATER
        late = {one for one in state.visible if one < read or (later and one > read)}
        found = state.visible if broken is Broken.LEAVES_LATE else state.visible - late
        yield replace(state.at(index, replace(finalizer, found=found)), visible=found)
    # The run's last transaction is fenced: none where the chunk was reopened behind the reading.
    elif (completed and state.fence == read) or broken is Broken.ENDS_UNFENCED:
        beside = (state.visible & finalizer.found) - {read}
        yield replace(state, delivered=read, beside=beside)
