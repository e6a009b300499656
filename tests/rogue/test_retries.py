"""However a source fails, whatever the limits and however many processes read it: the fleet tries
it again ``RETRIES_SAVED_MAX + T / RETRY_EVERY_S`` times in T seconds at most, and what it receives
anew is paid for by tries. Beside those, each process connects once, and once more to ask a source
that refuses who it is: paid for behind it.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rivet_fleet.contracts import clock
from rivet_fleet.contracts.clock import RETRIES_SAVED_MAX, RETRY_EVERY_S
from rivet_fleet.contracts.events import EventName
from rivet_fleet.contracts.plan import CampaignPlan
from rivet_fleet.contracts.state import JournalFilter
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.coordination import worker
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.errors import (
    DestinationRefused,
    LeaseLost,
    RetryClass,
    SchemaDrift,
    SourceBusy,
    SourceRefused,
    SourceUnavailable,
    StopRequested,
    WorkerUnfit,
)
from rivet_fleet.execution.chunkreader import PagedReader
from rivet_fleet.execution.destination import Presence
from rivet_fleet.execution.registry import open_source
from rivet_fleet.execution.types import Footing
from tests.property.test_progress import ID, Engine, Row, Statement
from tests.rogue import mysql_server, postgres_server
from tests.rogue.tcp import rogue
from tests.rogue.turns import play_fleet, tuned
from tests.unit.coordination.fleets import memory_plan

WORKERS = 3
LASTS_S = 60.0
REREAD_BYTES = 20
ROWS, ROW_BYTES = 12, 100
STATEMENTS_MAX = 2000
TRIES_MAX = RETRIES_SAVED_MAX + LASTS_S / RETRY_EVERY_S


@dataclass
class Broken:
    """A source that counts, and fails at random: at connecting, in a statement, or in its rows."""

    chance: random.Random
    fails: float
    away: float
    within_bytes: int = ROW_BYTES
    """Where in its rows a statement fails; before the first one: it moves nothing."""
    busy: float = 0.0
    connections_max: float = 2 * WORKERS + TRIES_MAX
    connections: int = 0
    statements: list[Statement] = field(default_factory=list)
    behind: Callable[[], None] = lambda: None
    """Called behind the last page of a chunk."""
    floods: int = 0
    known: bool = False
    """Whether a chunk is refused plainly, and only who asks for the source is flooded."""
    flood_bytes: int = 0
    """What the answer to opening a chunk takes, before it is cut off."""

    def connect(self) -> None:
        self.connections += 1
        if self.connections > self.connections_max:
            pytest.fail(f"{self.connections} connections")  # at once: more may come without end
        if self.chance.random() < self.away:
            error = SourceUnavailable("nobody answers", retry=RetryClass.RECONNECT)
            error.connected = False
            raise error

    def flood(self) -> None:
        self.floods += 1
        error = SourceRefused("larger than any answer may be", retry=RetryClass.PERMANENT)
        error.received_bytes = self.flood_bytes
        raise error

    @property
    def received_bytes(self) -> int:
        return sum(statement.wire_bytes for statement in self.statements)


class BrokenEngine(Engine):
    """``Engine`` over one connection of ``Broken``."""

    def __init__(self, broken: Broken) -> None:
        super().__init__([Row(n, ROW_BYTES) for n in range(1, ROWS + 1)], {})
        self.broken = broken

    def open_stream(self, *args: Any, **kwargs: Any) -> Statement:
        if len(self.broken.statements) > STATEMENTS_MAX:
            pytest.fail("statements without end")
        if self.broken.chance.random() < self.broken.busy:
            raise SourceBusy("not now", retry=RetryClass.TRANSIENT)
        made = super().open_stream(*args, **kwargs)
        if self.broken.chance.random() < self.broken.fails:
            made.fails_at_bytes = self.broken.chance.randrange(self.broken.within_bytes)
        self.broken.statements.append(made)
        return made

    def reconnect(self) -> None:
        self.broken.connect()


class BrokenReader(PagedReader):
    """Of ``BrokenEngine``."""

    def prove(self) -> Any:
        self._engine.broken.behind()  # type: ignore[attr-defined]
        return super().prove()


class BrokenSource:
    """A ``Source`` as far as a chunk needs one: connected at first use, and until it is closed."""

    longest_statement_s = 0.01

    def __init__(self, broken: Broken) -> None:
        self.broken, self.connected = broken, False

    def open_chunk(self, read: Any, chunk_range: Any, tuning: Any) -> PagedReader:
        if not self.connected:
            self.broken.connect()
        self.connected = True
        if self.broken.flood_bytes:
            if self.broken.known:
                raise SchemaDrift("another column")
            self.broken.flood()
        engine = BrokenEngine(self.broken)
        footing = Footing(read, chunk_range, lambda: ())
        return BrokenReader(engine, read, chunk_range, footing, row_bytes_max=tuning.max_row_bytes)

    def identify(self) -> tuple[()]:
        if not self.connected:
            self.broken.connect()
        self.connected = True
        if self.broken.known:
            self.broken.flood()
        return ()

    def read_counters(self) -> Any:
        raise SourceUnavailable("no counters")

    def close(self) -> None:
        self.connected = False


def small_plan(chunks: int, attempts_max: int, **tuning: object) -> CampaignPlan:
    """Chunks of one key, and only the first of them has rows."""
    plan = tuned(memory_plan((chunks,)), **tuning)
    (run,) = plan.runs
    made = replace(run.plan, read=replace(run.plan.read, columns=(ID,)), attempts_max=attempts_max)
    return replace(plan, runs=(replace(run, plan=made),))


@pytest.fixture(autouse=True)
def dear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes cost as much here as many more would."""
    monkeypatch.setattr(clock, "REREAD_BYTES_PER_RETRY", REREAD_BYTES)


def hard(**limits: object) -> dict[str, object]:
    """A source that never works, and limits that hold nobody back."""
    many: dict[str, object] = {"attempts_max": 1000, "max_retries": 1000, "retry_backoff_ms": 0}
    broken = {
        "seed": 1,
        "fails": 1.0,
        "away": 0.0,
        "busy": 0.0,
        "within_bytes": ROW_BYTES,
        "chunks": 3,
    }
    return {**many, **broken, "page_bytes": 300, **limits}


@settings(deadline=None, max_examples=40, derandomize=True)
@example(**hard(away=1.0))
@example(**hard())
@example(**hard(within_bytes=3 * ROW_BYTES, max_retries=0))
@example(**hard(busy=1.0, max_retries=0))
@example(**hard(page_bytes=1, max_retries=0, fails=0.5))
@given(
    seed=st.integers(0, 999),
    fails=st.sampled_from([0.0, 0.5, 1.0]),
    away=st.sampled_from([0.0, 0.5, 1.0]),
    busy=st.sampled_from([0.0, 0.0, 1.0]),
    within_bytes=st.sampled_from([1, ROW_BYTES, 3 * ROW_BYTES]),
    chunks=st.integers(1, 6),
    attempts_max=st.sampled_from([1, 3, 1000]),
    max_retries=st.sampled_from([0, 3, 1000]),
    retry_backoff_ms=st.sampled_from([0, 1, 2000]),
    page_bytes=st.sampled_from([1, 300, 5000]),
)
def test_a_fleet_tries_a_source_again_by_the_budget_whatever_its_limits(
    seed,
    fails,
    away,
    busy,
    within_bytes,
    chunks,
    attempts_max,
    max_retries,
    retry_backoff_ms,
    page_bytes,
) -> None:
    plan = small_plan(
        chunks,
        attempts_max,
        max_retries=max_retries,
        retry_backoff_ms=retry_backoff_ms,
        batch_bytes_max=page_bytes,
    )
    broken = Broken(random.Random(seed), fails, away, within_bytes, busy)
    with TemporaryDirectory() as folder:
        play_fleet(
            plan,
            lambda: BrokenSource(broken),  # type: ignore[arg-type, return-value]
            Path(folder),
            workers=WORKERS,
            lasts_s=LASTS_S,
        )
    # What one read delivers, with a block behind each row that is cut; what tries pay for; and as
    # much again is in hand at the end.
    once = 2 * ROWS * ROW_BYTES
    assert broken.received_bytes <= 2 * once + TRIES_MAX * REREAD_BYTES


class Refuses:
    """The campaign's destination, but for one verb."""

    def __init__(self, real: Any, **verbs: Any) -> None:
        self._real = real
        vars(self).update(verbs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def unwritable(fleet: Fleet, broken: Broken) -> None:
    """Its trouble begins when all is read: a process's own, each time."""

    def stage(*_: Any) -> None:
        raise DestinationRefused("read-only")

    real = fleet.open_destination
    fleet.open_destination = lambda plan: Refuses(real(plan), stage=stage)  # type: ignore[assignment, return-value]


def losing(fleet: Fleet, broken: Broken) -> None:
    real = fleet.open_destination
    fleet.open_destination = lambda plan: Refuses(  # type: ignore[assignment, return-value]
        real(plan), publish=lambda *_: Presence.MISSING
    )


def paused(fleet: Fleet, broken: Broken) -> None:
    def behind() -> None:
        raise StopRequested("given back while its source group rests")

    broken.behind = behind


def overtaken(fleet: Fleet, broken: Broken) -> None:
    def behind() -> None:
        fleet.store.reap_worker(fleet.identity.worker_id, "lease expired")
        raise LeaseLost("another owner")

    broken.behind = behind


def overtaken_and_failing(fleet: Fleet, broken: Broken) -> None:
    def behind() -> None:
        fleet.store.reap_worker(fleet.identity.worker_id, "lease expired")
        raise SourceBusy("not now", retry=RetryClass.TRANSIENT)

    broken.behind = behind


def unforeseen(fleet: Fleet, broken: Broken) -> None:
    def behind() -> None:
        raise RuntimeError("a defect of ours")

    broken.behind = behind


WAYS = [unwritable, losing, paused, overtaken, overtaken_and_failing, unforeseen]


@pytest.mark.parametrize("way", WAYS)
def test_what_was_read_of_a_chunk_that_goes_back_is_paid_for(
    way: Callable[[Fleet, Broken], None], tmp_path: Path
) -> None:
    """Each read is the chunk's last, as far as the source can tell, and none is delivered."""
    broken = Broken(random.Random(1), 0.0, 0.0)
    play_fleet(
        small_plan(1, 1000, max_retries=0),
        lambda: BrokenSource(broken),  # type: ignore[arg-type, return-value]
        tmp_path,
        workers=1,
        lasts_s=LASTS_S,
        change=lambda fleet: way(fleet, broken),
    )
    once = ROWS * ROW_BYTES
    assert 2 * once <= broken.received_bytes <= 2 * once + TRIES_MAX * REREAD_BYTES


def test_who_ends_by_a_defect_and_holds_no_chunk_rests_by_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it tended may have asked the source, and whoever takes its place does the same."""
    ends = 0

    def tends(*_: Any) -> None:
        nonlocal ends
        ends += 1
        if ends > WORKERS + TRIES_MAX:
            pytest.fail(f"{ends} defects in {LASTS_S} s")
        raise RuntimeError("a defect of ours")

    monkeypatch.setattr(worker, "tend", tends)
    play_fleet(
        small_plan(1, 3),
        lambda: BrokenSource(Broken(random.Random(1), 0.0, 0.0)),  # type: ignore[arg-type, return-value]
        tmp_path,
        workers=WORKERS,
        lasts_s=LASTS_S,
        change=lambda fleet: None,
    )
    assert ends > WORKERS


@pytest.mark.parametrize("known", [False, True])
def test_answers_that_flood_are_paid_for_though_no_chunk_is_tried_again(
    known: bool, tmp_path: Path
) -> None:
    chunks = 6 * int(TRIES_MAX)
    broken = Broken(random.Random(1), 0.0, 0.0, connections_max=9e9, flood_bytes=REREAD_BYTES)
    broken.known = known
    play_fleet(
        small_plan(chunks, 1, max_retries=0),
        lambda: BrokenSource(broken),  # type: ignore[arg-type, return-value]
        tmp_path,
        workers=WORKERS,
        lasts_s=LASTS_S,
    )
    assert WORKERS < broken.floods <= WORKERS + TRIES_MAX


def test_the_fleet_says_that_tries_wait_once_for_each_process(tmp_path: Path) -> None:
    plan = small_plan(6, 3, max_retries=1000, retry_backoff_ms=0)
    broken = Broken(random.Random(1), 0.0, 1.0, connections_max=9 + TRIES_MAX)
    store = play_fleet(
        plan,
        lambda: BrokenSource(broken),  # type: ignore[arg-type, return-value]
        tmp_path,
        workers=9,
        lasts_s=LASTS_S,
    )
    told = store.journal(only=JournalFilter(events=(EventName.SOURCE_HELD.value,)))
    assert 0 < len(told) <= 9 and len({entry.worker_id for entry in told}) == len(told)
    run = store.runs(plan.campaign_id)[0]
    assert {task.attempts for task in store.tasks(run.run_id)} == {0}, "nothing is spent"


def test_tries_that_move_nothing_end_a_chunk_however_many_are_left(tmp_path: Path) -> None:
    plan = small_plan(1, 2, max_retries=1000, retry_backoff_ms=1000)
    broken = Broken(random.Random(1), 1.0, 0.0)
    store = play_fleet(
        plan,
        lambda: BrokenSource(broken),  # type: ignore[arg-type, return-value]
        tmp_path,
        workers=1,
        lasts_s=3600.0,
        hang_timeout_s=100.0,
    )
    (task,) = store.tasks(store.runs(plan.campaign_id)[0].run_id)
    assert task.attempts == 2
    assert len(broken.statements) < 20
    (kept,) = store._tasks_of(task.run_id)
    assert kept.longest_statement_s == BrokenSource.longest_statement_s, "told of what failed, too"


ROGUES = [
    ("postgres", "login", "reset"),
    ("postgres", "start", "end"),
    ("postgres", "introduction", "an error with escapes, then end"),
    ("postgres", "login", "notices without end"),
    ("mysql", "login", "16 MB packets without end"),
    ("mysql", "greeting", "reset"),
    ("mysql", "login", "end"),
    ("mysql", "question", "an error with escapes, then end"),
]


@pytest.mark.parametrize(("engine", "phase", "act"), ROGUES)
def test_a_server_that_breaks_sessions_is_met_by_the_budget(
    engine: str, phase: str, act: str, tmp_path: Path
) -> None:
    """Counted at its socket."""
    peers = {"postgres": postgres_server, "mysql": mysql_server}[engine]
    plan = small_plan(4, 1000, max_retries=1000, retry_backoff_ms=0)
    with rogue(peers.Script(phase, peers.MESSAGES[act])) as server:
        scheme = {"postgres": "postgresql", "mysql": "mysql"}[engine]
        url = parse_database_url(f"{scheme}://reader:word@127.0.0.1:{server.port}/shop")
        # Who is flooded ends, and takes it for a lack of its own.
        with contextlib.suppress(WorkerUnfit):
            play_fleet(
                plan,
                lambda: open_source(engine, url, tls_mode="disable", application_name="t"),
                tmp_path,
                workers=WORKERS,
                lasts_s=LASTS_S,
            )
        floods = act.endswith("without end")
        assert len(server.peers) <= (WORKERS if floods else 2 * WORKERS + TRIES_MAX)
        assert len(server.peers) >= (1 if floods else WORKERS)
