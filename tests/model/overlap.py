"""Workers with three slots each, explored state by state (ADR 0035): one chunk is read while the
one before it is staged and committed, and the one before that is published.

All chunks are of one source group. Whatever a process does takes as long as it likes; leases run
out, processes die, chunks fail and are given back, a few times in all. One chunk may kill whoever
reads it. ``broken`` takes one rule away. ``explore`` returns what went wrong first, None when
nothing can.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum


class Broken(Enum):
    """A rule that is not kept."""

    NOTHING = "nothing"
    MARKS_UNFENCED = "whoever has read a chunk marks it, whosever it is by now"
    KEEPS_MARK = "a chunk that is claimed again counts as read"
    CLAIMS_EARLY = "the next chunk is claimed before the last one is read"
    COUNTS_ALL = "what is delivered counts as if it were read"
    COMMITS_UNFENCED = "what was delivered is committed whosever the chunk is by now"
    SHARES_ALWAYS = "a chunk that was tried before shares its worker with its neighbour"


class Status(Enum):
    """The chunk's."""

    PENDING = 0
    RUNNING = 1
    COMMITTED = 2
    COMPLETED = 3
    FAILED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What there is. ``troubles``: so many times something goes wrong for no reason. ``poison``:
    the chunk that kills its readers."""

    chunks: int = 3
    workers: int = 2
    budget: int = 1
    troubles: int = 2
    attempts_max: int = 99
    poison: int | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A row of ``chunk_task``. ``read``: its mark. ``visible``: fences of its part."""

    status: Status = Status.PENDING
    fence: int = 0
    attempts: int = 0
    read: bool = False
    visible: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Held:
    """What a worker believes to own. ``whole``: read to its end."""

    chunk: int
    fence: int
    attempt: int
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Worker:
    """Its slots. What it publishes is committed: it owns that no more."""

    reading: Held | None = None
    delivering: Held | None = None
    showing: Held | None = None


@dataclass(frozen=True, slots=True)
class State:
    """The database and the processes."""

    chunks: tuple[Chunk, ...]
    workers: tuple[Worker, ...]
    troubles: int = 0

    def with_chunk(self, index: int, chunk: Chunk) -> State:
        """With another row in its place."""
        rows = (*self.chunks[:index], chunk, *self.chunks[index + 1 :])
        return replace(self, chunks=rows)

    def with_worker(self, index: int, worker: Worker) -> State:
        """With another process in its place."""
        return replace(self, workers=(*self.workers[:index], worker, *self.workers[index + 1 :]))

    def owns(self, held: Held) -> bool:
        """What the guard of every transition asks."""
        row = self.chunks[held.chunk]
        return row.status is Status.RUNNING and row.fence == held.fence


def explore(world: World, broken: Broken = Broken.NOTHING) -> tuple[str | None, int]:
    """The first violation, and how many states there are."""
    first = State((Chunk(),) * world.chunks, (Worker(),) * world.workers)
    before: dict[State, set[State]] = {first: set()}
    ahead = deque([first])
    while ahead:
        state = ahead.popleft()
        for after in _next(state, world, broken):
            if after not in before:
                before[after] = set()
                if (wrong := _wrong(after, world)) is not None:
                    return wrong, len(before)
                ahead.append(after)
            before[after].add(state)
    return _never(before, world), len(before)


def _wrong(state: State, world: World) -> str | None:
    reading = [
        held
        for worker in state.workers
        for held in (worker.reading, worker.delivering)
        if held is not None and not held.whole and state.owns(held)
    ]
    if len(reading) > world.budget:
        return "more chunks are read than the budget allows"
    for index, chunk in enumerate(state.chunks):
        if len(chunk.visible) > 1:
            return "a chunk is visible twice"
        if chunk.status is Status.COMPLETED and chunk.fence not in chunk.visible:
            return "a completed chunk's part is gone"
        if chunk.status is Status.FAILED and world.troubles == 0 and index != world.poison:
            return "a chunk fails for what its neighbour does"
    return None


def _never(before: dict[State, set[State]], world: World) -> str | None:
    """From wherever it stands, it ends well; and what all this is for does happen."""
    if not any(
        worker.reading and worker.delivering and state.owns(worker.delivering)
        for state in before
        for worker in state.workers
    ):
        return "nothing is ever read while something is delivered"
    ended = [s for s in before if all(_ended(c, i, world) for i, c in enumerate(s.chunks))]
    good, waiting = set(ended), list(ended)
    while waiting:
        new = before[waiting.pop()] - good
        good |= new
        waiting += new
    return None if len(good) == len(before) else "it does not end"


def _ended(chunk: Chunk, index: int, world: World) -> bool:
    return chunk.status is (Status.FAILED if index == world.poison else Status.COMPLETED)


def _next(state: State, world: World, broken: Broken) -> Iterator[State]:
    for index, worker in enumerate(state.workers):
        yield from _claimed(state, index, worker, world, broken)
        yield from _read(state, index, worker, world, broken)
        yield from _delivered(state, index, worker, broken)
        if state.troubles < world.troubles:
            yield from _troubled(state, index, worker)
    yield from _tended(state, world)


def _claimed(
    state: State, index: int, worker: Worker, world: World, broken: Broken
) -> Iterator[State]:
    """The mark, the count and the claim, in one transaction."""
    former = worker.reading
    if former is not None:
        ready = former.whole or broken is Broken.CLAIMS_EARLY
        if worker.delivering is not None or not ready:
            return
        state = _marked(state, former, broken)
        aside = replace(worker, reading=None, delivering=former)
        yield state.with_worker(index, aside)  # nothing was found, or nothing is wanted
        if former.attempt > 1 and broken is not Broken.SHARES_ALWAYS:
            return
    else:
        aside = worker
    counted = [
        c
        for c in state.chunks
        if c.status is Status.RUNNING and (not c.read or broken is Broken.COUNTS_ALL)
    ]
    found = next((i for i, c in enumerate(state.chunks) if c.status is Status.PENDING), None)
    if found is None or len(counted) >= world.budget:
        return
    row = state.chunks[found]
    row = replace(
        row,
        status=Status.RUNNING,
        fence=row.fence + 1,
        attempts=row.attempts + 1,
        read=row.read and broken is Broken.KEEPS_MARK,
    )
    held = Held(found, row.fence, row.attempts)
    yield state.with_chunk(found, row).with_worker(index, replace(aside, reading=held))


def _marked(state: State, held: Held, broken: Broken) -> State:
    row = state.chunks[held.chunk]
    unfenced = broken is Broken.MARKS_UNFENCED and row.status is Status.RUNNING
    if state.owns(held) or unfenced:
        return state.with_chunk(held.chunk, replace(row, read=True))
    return state


def _read(
    state: State, index: int, worker: Worker, world: World, broken: Broken
) -> Iterator[State]:
    held = worker.reading
    if held is None or held.whole:
        return
    shares = held.attempt == 1 or broken is Broken.SHARES_ALWAYS
    if (worker.delivering or worker.showing) and not shares:
        return  # it waits until it is alone
    if held.chunk == world.poison:
        yield state.with_worker(index, Worker())
    else:
        yield state.with_worker(index, replace(worker, reading=replace(held, whole=True)))


def _delivered(state: State, index: int, worker: Worker, broken: Broken) -> Iterator[State]:
    if (late := worker.showing) is not None:
        shown = state.with_worker(index, replace(worker, showing=None))
        yield _shown(shown, late.chunk, late.fence)
    held = worker.delivering
    if held is None:
        return
    free = state.with_worker(index, replace(worker, delivering=None))
    row = state.chunks[held.chunk]
    if state.owns(held):
        done = state.with_chunk(held.chunk, replace(row, status=Status.COMMITTED))
        if late is None:
            goes_on = replace(worker, delivering=None, showing=held)
            yield done.with_worker(index, goes_on)
        else:
            yield done  # it waits in its slot, and finds on its next turn that it has committed
    elif row.status is Status.COMMITTED and row.fence == held.fence:
        if late is None:
            yield state.with_worker(index, replace(worker, delivering=None, showing=held))
    elif broken is Broken.COMMITS_UNFENCED and row.status is Status.RUNNING:
        yield free.with_chunk(
            held.chunk,
            replace(row, status=Status.COMPLETED, visible=row.visible | {held.fence}),
        )
    else:
        yield free  # its lease is lost: it discards what it staged


def _shown(state: State, index: int, fence: int) -> State:
    """Publishing is anybody's, any number of times; the transition names the fence."""
    row = state.chunks[index]
    if row.status is not Status.COMMITTED or row.fence != fence:
        return state
    shown = replace(row, status=Status.COMPLETED, visible=row.visible | {fence})
    return state.with_chunk(index, shown)


def _troubled(state: State, index: int, worker: Worker) -> Iterator[State]:
    """It dies with all; either is given back or fails; either's lease runs out."""
    state = replace(state, troubles=state.troubles + 1)
    if worker.reading or worker.delivering or worker.showing:
        yield state.with_worker(index, Worker())
    for slot, held in (("reading", worker.reading), ("delivering", worker.delivering)):
        if held is not None and state.owns(held):
            row = state.chunks[held.chunk]
            freed = state.with_worker(index, replace(worker, **{slot: None}))
            given_back = replace(row, status=Status.PENDING, attempts=row.attempts - 1)
            yield freed.with_chunk(held.chunk, given_back)
            reaped = replace(row, status=Status.PENDING, fence=row.fence + 1)
            yield state.with_chunk(held.chunk, reaped)


def _tended(state: State, world: World) -> Iterator[State]:
    """Anybody takes back what nobody alive holds, and publishes what rests."""
    held = {
        (one.chunk, one.fence)
        for worker in state.workers
        for one in (worker.reading, worker.delivering)
        if one is not None
    }
    for index, row in enumerate(state.chunks):
        if row.status is Status.COMMITTED:
            yield _shown(state, index, row.fence)
        if row.status is Status.RUNNING and (index, row.fence) not in held:
            spent = row.attempts >= world.attempts_max
            status = Status.FAILED if spent else Status.PENDING
            yield state.with_chunk(index, replace(row, status=status, fence=row.fence + 1))
