"""Which errors are a process's own (ADR 0023): the table, and what a worker does with it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest

from rivet_fleet.contracts.basis import (
    INSTANCE,
    SERVER,
    UNKNOWN,
    BasisFact,
    BasisKind,
    Consequence,
    differences,
    mark_basis,
    other_source,
)
from rivet_fleet.contracts.events import EventName
from rivet_fleet.contracts.identity import CAMPAIGN_OTHER
from rivet_fleet.contracts.keys import ChunkRange, RangeKind, RunId
from rivet_fleet.contracts.plan import PLAN_VERSION
from rivet_fleet.contracts.state import TaskStatus
from rivet_fleet.coordination import fitness
from rivet_fleet.coordination.attempt import Attempt
from rivet_fleet.coordination.fitness import (
    Defect,
    asks_source,
    defect_of,
    refuse_before_claim,
)
from rivet_fleet.coordination.heartbeat import Heartbeat, HeartbeatLimits
from rivet_fleet.coordination.tend import tend
from rivet_fleet.coordination.worker import Worker
from rivet_fleet.errors import (
    ConfigError,
    DataIntegrityError,
    DestinationFull,
    DestinationRefused,
    DestinationUnavailable,
    ExitCode,
    RelationLocked,
    SchemaDrift,
    SourceBusy,
    SourceRefused,
    SourceUnavailable,
    StatementTimeout,
    StateRefused,
    StateTampered,
    StopRequested,
    UsageError,
    ValueTooLarge,
    WorkerUnfit,
)
from tests.model.store import MemoryStore
from tests.unit.coordination.fleets import (
    CAMPAIGN,
    DatabaseClock,
    make_fleet,
    memory_plan,
    open_store,
    spooled,
)


def unconnected(error):
    error.connected = False
    return error


def of_spool(error):
    error.spool = True
    return error


TABLE = [
    (unconnected(SourceRefused("password")), Defect.LOGIN),
    (unconnected(SourceUnavailable("nobody answers")), None),
    (unconnected(SourceBusy("too many connections")), None),
    (SourceRefused("no such table"), None),
    (StatementTimeout("slow"), None),
    (ValueTooLarge("wide"), None),
    (SchemaDrift("another column"), None),
    (DataIntegrityError("another byte"), None),
    (of_spool(DestinationRefused("read-only")), Defect.SPOOL),
    (of_spool(DestinationUnavailable("EIO")), Defect.SPOOL),
    (of_spool(DestinationFull("full")), None),
    (DestinationRefused("read-only"), Defect.DESTINATION),
    (DestinationUnavailable("EIO"), None),
    (DestinationFull("full"), None),
    (ModuleNotFoundError("psycopg"), Defect.INSTALLATION),
    (RuntimeError("a bug"), None),
]


@pytest.mark.parametrize(("error", "defect"), TABLE, ids=lambda one: str(one)[:30])
def test_only_what_proves_a_defect_of_the_process_counts_as_one(error, defect) -> None:
    assert defect_of(error) is defect
    found = fitness.unfit_of(error)
    assert (found.code if found else None) == (defect.value if defect else None)
    if found:
        assert found.exit_code is ExitCode.UNFIT
        assert "no attempt is spent" in found.hint


def fact(value, *, subject="system", kind=BasisKind.SOURCE):
    return BasisFact(kind=kind, subject=subject, value=value)


@pytest.mark.parametrize(
    ("now", "other"),
    [
        ([fact("1")], False),
        ([fact("2")], True),
        ([fact(UNKNOWN)], False),
        ([], False),
        ([fact("2", subject="database")], False),
        ([fact("2", kind=BasisKind.RIGHTS)], False),
    ],
)
def test_another_source_is_told_by_what_it_says_of_itself(now, other) -> None:
    assert bool(other_source([fact("1")], now)) is other
    assert other_source([fact("a", subject=SERVER)], [fact("b", subject=SERVER)])
    assert not other_source([], now)


def test_a_place_tells_two_servers_apart_and_says_of_none_who_it_is() -> None:
    """Two that are equal may be two: no mark is gone on from for it."""
    planned, now = fact("a:3306 /d, id 1", subject=INSTANCE), fact("b:3306 /d", subject=INSTANCE)
    assert other_source([planned], [now]) and not other_source([planned], [planned])
    (told,) = differences([planned], [now], ChunkRange(kind=RangeKind.WHOLE), None)
    assert told.consequence is Consequence.TOLD, "it may have moved, or a replica taken over"
    assert mark_basis([planned, fact("1")], ()) == (fact("1"),)


class Asked:
    """A source that answers who it is, and fails to open chunks as it is told."""

    def __init__(self, error=None, identity=(), who=None) -> None:
        self.error, self.identity, self.who = error, identity, who

    def open_chunk(self, *_):
        raise self.error

    def identify(self):
        if self.who is not None:
            raise self.who
        return self.identity

    def close(self) -> None:
        pass


def fleet_with(tmp_path, open_source, chunks=(3,)):
    plan = memory_plan(chunks)
    run = plan.runs[0]
    read = replace(run.plan.read, basis=(fact("1"),))
    tuning = replace(run.plan.tuning, max_retries=0)
    run = replace(run, plan=replace(run.plan, read=read, tuning=tuning))
    store = MemoryStore(DatabaseClock())
    store.submit(replace(plan, runs=(run,)))
    fleet = make_fleet(store, tmp_path)
    fleet.open_source = open_source
    events = fleet.emit.__self__
    return store, fleet, events


def work(store, fleet, tmp_path, exports=()) -> ExitCode:
    spool = tmp_path / "spool"
    spool.mkdir(exist_ok=True)
    limits = HeartbeatLimits(lease_ttl_s=30.0, hang_timeout_s=60.0)
    heartbeat = Heartbeat(lambda: store, fleet.identity, limits, clock=fleet.clock, emit=fleet.emit)
    return Worker(fleet, heartbeat, CAMPAIGN, spool, exports).run()


def refuses(store, fleet, events, tmp_path, code: Defect) -> WorkerUnfit:
    with pytest.raises(WorkerUnfit) as found:
        work(store, fleet, tmp_path)
    assert found.value.code == code.value
    told = [event for event in events if event.name is EventName.WORKER_REFUSED]
    assert [event.data["code"] for event in told] == [code.value]
    run = store.runs(CAMPAIGN)[0]
    tasks = store.tasks(run.run_id)
    assert run.counts.pending == run.counts.total == len(tasks)
    assert {task.attempts for task in tasks} == {0}
    return found.value


@pytest.mark.parametrize("names", [("typo",), ("e0", "typo")])
def test_a_worker_for_exports_that_nobody_planned_claims_nothing_else(tmp_path, names):
    store, fleet, _ = fleet_with(tmp_path, lambda *_: Asked(SourceRefused("asked")))
    with pytest.raises(UsageError, match="has no export 'typo'"):
        work(store, fleet, tmp_path, names)
    (run,) = store.runs(CAMPAIGN)
    assert run.counts.pending == run.counts.total
    assert {task.fence for task in store.tasks(run.run_id)} == {0}


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (Asked(unconnected(SourceRefused("password"))), Defect.LOGIN),
        (Asked(SourceRefused("no such table"), [fact("2")]), Defect.OTHER_SOURCE),
        (Asked(SchemaDrift("columns"), [fact("2")]), Defect.OTHER_SOURCE),
        (Asked(SourceBusy("not there"), [fact("2")]), Defect.OTHER_SOURCE),
        (
            Asked(SourceRefused("gone"), who=unconnected(SourceRefused("password"))),
            Defect.LOGIN,
        ),
        (Asked(ConfigError("ca"), who=ConfigError("ca")), Defect.CONFIGURATION),
        (Asked(ImportError("a driver")), Defect.INSTALLATION),
    ],
)
def test_a_defect_met_with_a_chunk_gives_it_back(tmp_path, source, code) -> None:
    store, fleet, events = fleet_with(tmp_path, lambda *_: source)
    found = refuses(store, fleet, events, tmp_path, code)
    told = "it may refuse everybody" in found.message
    assert told is (code is not Defect.INSTALLATION)


@pytest.mark.parametrize(
    "error",
    [SourceRefused("no such table"), SchemaDrift("columns"), RelationLocked("locked")],
)
def test_what_the_planned_source_itself_refuses_is_the_chunks(tmp_path, error) -> None:
    """One turn of the loop by hand: on the real one the chunk would be tried until it is spent."""
    store, fleet, _ = fleet_with(tmp_path, lambda *_: Asked(error, [fact("1")]), (1,))
    claim = store.claim(CAMPAIGN, fleet.identity, 30.0)
    spool = tmp_path / "spool"
    spool.mkdir()
    limits = HeartbeatLimits(lease_ttl_s=30.0, hang_timeout_s=60.0)
    beat = Heartbeat(lambda: store, fleet.identity, limits, clock=fleet.clock, emit=fleet.emit)
    Worker(fleet, beat, CAMPAIGN, spool)._fail_or_give_back(Attempt(claim), error)
    (task,) = store.tasks(claim.run_id)
    assert task.attempts >= 1
    assert task.error_class == type(error).__name__


def test_no_word_of_the_state_leads_out_of_the_spool(tmp_path) -> None:
    store, fleet, _ = fleet_with(tmp_path, lambda *_: Asked(SourceRefused("unasked")))
    claim = store.claim(CAMPAIGN, fleet.identity, 30.0)
    for elsewhere in ("../../x", "/x"):
        path = Attempt(replace(claim, run_id=RunId(elsewhere))).spool_path(tmp_path, 0)
        assert path.resolve().parent == tmp_path.resolve()
    claims = [replace(claim, task_id=t, fence=f) for t in (1, 11) for f in (1, 11)]
    names = {Attempt(one).spool_path(tmp_path, n) for one in claims for n in (0, 1)}
    assert len(names) == 8
    for path in names:
        path.touch()
    Attempt(claims[0]).clean(tmp_path)
    assert len(list(tmp_path.glob("*.part"))) == 6, "another attempt's files are left alone"


def test_a_source_without_room_for_us_is_not_met_by_one_more_connection() -> None:
    assert asks_source(SourceBusy("not there")) and asks_source(SourceRefused("no such table"))
    assert not asks_source(unconnected(SourceBusy("too many connections")))
    assert not asks_source(RelationLocked("locked")) and not asks_source(SourceUnavailable("gone"))


def test_an_edited_state_met_with_a_chunk_gives_it_back_and_ends_the_worker(tmp_path) -> None:
    source = Asked(StateTampered("the budget of source group shop is not what was sealed"))
    store, fleet, _ = fleet_with(tmp_path, lambda *_: source)
    with pytest.raises(StateTampered):
        work(store, fleet, tmp_path)
    run = store.runs(CAMPAIGN)[0]
    assert run.counts.pending == run.counts.total
    assert {task.attempts for task in store.tasks(run.run_id)} == {0}


def test_what_is_wrong_before_a_claim_claims_nothing(tmp_path) -> None:
    def missing(name, identity):
        raise ConfigError("the environment variable SHOP_URL is not set")

    store, fleet, events = fleet_with(tmp_path, missing)
    found = refuses(store, fleet, events, tmp_path, Defect.CONFIGURATION)
    assert "SHOP_URL" in found.message
    assert not [e for e in store.journal(campaign_id=CAMPAIGN) if e.event == "chunk.claimed"]


def test_each_destination_is_written_to_before_its_first_page_and_once(tmp_path) -> None:
    """This host lacks the second one alone; a chunk of the first is another's."""
    store = open_store(DatabaseClock(), (1, 1))
    first, second = store.runs(CAMPAIGN)
    others = store.claim(CAMPAIGN, make_fleet(store, tmp_path, name="other").identity, 30.0)
    assert others.run_id == first.run_id
    fleet = make_fleet(store, tmp_path)
    fleet.open_source = lambda *_: Asked(AssertionError("read for nothing"))
    real, probed = fleet.open_destination, []

    class Probed:
        def __init__(self, plan) -> None:
            self.real, self.name = real(plan), plan.prefix.rpartition("/")[2]

        def __getattr__(self, name):
            return getattr(self.real, name)

        def check(self) -> None:
            probed.append(self.name)
            if self.name == second.export_name:
                raise DestinationRefused("read-only")

    fleet.open_destination = Probed
    with pytest.raises(WorkerUnfit) as found:
        work(store, fleet, tmp_path)
    assert found.value.code == Defect.DESTINATION.value
    assert probed == [first.export_name, second.export_name]
    (task,) = store.tasks(second.run_id)
    assert (task.status.value, task.attempts) == ("pending", 0)
    looked_at: set[str] = set()
    for _ in range(3):
        fitness.refuse_claimed_destination(fleet, first.run_id, looked_at)
    assert probed[2:] == [first.export_name], "a probe costs: once for each process"


def test_a_plan_of_a_newer_version_is_not_guessed_at(tmp_path) -> None:
    plan = memory_plan((1,))
    run = plan.runs[0]
    newer = replace(run, plan=replace(run.plan, plan_version=PLAN_VERSION + 1))
    store = MemoryStore(DatabaseClock())
    store.submit(replace(plan, runs=(newer,)))
    with pytest.raises(WorkerUnfit) as found:
        refuse_before_claim(make_fleet(store, tmp_path), CAMPAIGN, set())
    assert found.value.code == Defect.VERSION.value


def test_a_spool_without_room_or_gone_claims_nothing(tmp_path, monkeypatch) -> None:
    store, fleet, events = fleet_with(tmp_path, lambda *_: Asked())
    monkeypatch.setattr(fitness, "SPOOL_FREE_BYTES_MIN", 1 << 62)
    refuses(store, fleet, events, tmp_path, Defect.SPOOL)
    monkeypatch.undo()
    with pytest.raises(WorkerUnfit, match="spool"):
        fitness.spool_is_full(tmp_path / "gone")


def test_a_state_of_another_schema_is_another_version_and_nothing_else_is() -> None:
    for code in ("RIVET_STATE_SCHEMA_NEWER", "RIVET_STATE_SCHEMA_OLD", "RIVET_STATE_IN_USE"):
        found = fitness.refuse_state(StateRefused("9998", code=code))
        assert found is not None
        assert found.code == Defect.VERSION.value
    assert fitness.refuse_state(StateRefused("moved", code="RIVET_STATE_MOVED")) is None
    found = fitness.refuse_state(StateRefused("of another", code=CAMPAIGN_OTHER))
    assert found is not None and found.code == Defect.CONFIGURATION.value


def test_a_destination_that_refuses_the_end_of_a_run_ends_the_process(tmp_path) -> None:
    store = open_store(DatabaseClock(), (1,))
    fleet = make_fleet(store, tmp_path)
    claim = store.claim(CAMPAIGN, fleet.identity, 30.0)
    real = fleet.destination(claim.run_id)
    from rivet_fleet.coordination.commit import deliver_chunk

    deliver_chunk(fleet, claim, fleet.planned_run(claim.run_id).plan, spooled(tmp_path / "s"))

    class Refuses:
        def __getattr__(self, name):
            return getattr(real, name)

        def put_atomic(self, path, body, *, durable=True):
            raise DestinationRefused("read-only")

    fleet._destinations = dict.fromkeys(fleet._destinations, Refuses())
    tended = tend(fleet, CAMPAIGN)
    assert tended.refused is not None
    assert tended.refused.code == Defect.DESTINATION.value


@pytest.mark.parametrize("told", [StateTampered("the plan"), StopRequested("a stop")])
def test_a_chunk_whose_plan_cannot_be_read_goes_back_at_once(tmp_path, told) -> None:
    """Asked again, the state would say the same, and the chunk would stay until its lease ends."""
    store, fleet, _ = fleet_with(tmp_path, lambda *_: Asked(told))
    claim = store.claim(CAMPAIGN, fleet.identity, 30.0)
    asked = []

    def planned_run(run_id):
        asked.append(run_id)
        raise told

    fleet.store = SimpleNamespace(run=planned_run, release=store.release)
    limits = HeartbeatLimits(lease_ttl_s=30.0, hang_timeout_s=60.0)
    beat = Heartbeat(lambda: store, fleet.identity, limits, clock=fleet.clock, emit=fleet.emit)
    spool = tmp_path / "spool"
    spool.mkdir()
    with suppress(StateTampered):
        Worker(fleet, beat, CAMPAIGN, spool)._work(Attempt(claim))
    assert asked == [claim.run_id]
    assert {(task.status, task.attempts) for task in store.tasks(claim.run_id)} == {
        (TaskStatus.PENDING, 0)
    }
