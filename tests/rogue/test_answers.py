"""Whatever shape an answer has, and whichever question of a verb it is the answer to: the verb
gives values of their types, or refuses by a name and a code.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from inspect import getmembers, isfunction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest

from rivet_fleet.contracts.aggregates import asked_of
from rivet_fleet.contracts.codec import fits
from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.contracts.facts import FactsRequest, SourceFacts
from rivet_fleet.contracts.keys import ChunkRange, RangeKind, RelationName
from rivet_fleet.contracts.plan import ReadPlan, TuningPlan
from rivet_fleet.contracts.proof import ChangeReading, ProofOutcome, ProofPlan, Prove, RunProof
from rivet_fleet.contracts.state import FinalizeLease
from rivet_fleet.contracts.url import DatabaseUrl, parse_database_url
from rivet_fleet.contracts.window import NewestRequest
from rivet_fleet.coordination.proof import prove_run
from rivet_fleet.errors import ConfigError, RivetFleetError, SchemaDrift
from rivet_fleet.execution import registry
from rivet_fleet.execution.proof import PageProofs
from rivet_fleet.execution.signals import SourceSignals
from rivet_fleet.execution.source import ChunkReader, PageLimit, Source
from tests.integration.postgres_source_kit import read_plan
from tests.model.store import MemoryStore
from tests.rogue import postgres_server
from tests.rogue.between import SHAPES, Between, between
from tests.rogue.tcp import Memory, Peer, rogue
from tests.unit.coordination.fleets import make_fleet, memory_plan

BY_I = ChunkRange(kind=RangeKind.KEYSET, columns=("i",))
ID = ColumnSpec(name="i", native_type="bigint", type=ColumnType(kind=TypeKind.INT64))
LIMIT = PageLimit(rows_max=5000, bytes_max=1 << 20)
NUMBERS = RelationName(schema="", name="numbers")
QUERY = "SELECT i, 'a' AS t FROM numbers"
GROWN_MB_MAX = 300


@dataclass
class Asked:
    """What a verb is asked with."""

    source: Source
    signals: SourceSignals
    read: ReadPlan

    @contextlib.contextmanager
    def reader(self) -> Iterator[ChunkReader]:
        with contextlib.closing(self.source.open_chunk(self.read, BY_I, TuningPlan())) as opened:
            yield opened


def introspect(asked: Asked) -> object:
    made = {"export_name": "e", "boundaries_max": 9, "walk_rows": 2000}
    asked.source.introspect(
        FactsRequest(relation=None, query=QUERY, key_columns=("i",), **made)  # type: ignore[arg-type]
    )
    return asked.source.introspect(FactsRequest(relation=NUMBERS, query=None, **made))  # type: ignore[arg-type]


def look_ahead(asked: Asked) -> object:
    found: object = asked.source.look_ahead([NUMBERS, replace(NUMBERS, name="nothing")])
    assert fits(ChangeReading, asked.source.read_changes(NUMBERS))
    made = FactsRequest(export_name="e", relation=NUMBERS, query=None, boundaries_max=9)
    assert fits(SourceFacts, asked.source.introspect(made))
    return found


def newest(asked: Asked) -> object:
    request = {"relation": NUMBERS, "query": None, "columns": ("i",)}
    asked.source.newest(NewestRequest(**request, above=("9000000",)))  # type: ignore[arg-type]
    return asked.source.newest(NewestRequest(**request))  # type: ignore[arg-type]


def pages(asked: Asked) -> object:
    with asked.reader() as reader:
        reader.count_pages(PageProofs(Prove.ALL), 5.0)
        return reader.read_page(LIMIT)


def reconnected(asked: Asked) -> object:
    with asked.reader() as reader:
        return reader.reconnect()


def proven(asked: Asked) -> object:
    with asked.reader() as reader:
        return reader.prove()


def every_signal(asked: Asked) -> object:
    found = 0.0
    for name in (one for spec in ("postgresql", "mysql") for one in registry.signal_specs(spec)):
        with contextlib.suppress(RivetFleetError):
            found = asked.signals.read(name)
    return found


VERBS: dict[type[Any], dict[str, Callable[[Asked], object]]] = {
    Source: {
        "look_ahead": look_ahead,
        "introspect": introspect,
        "newest": newest,
        "read_changes": lambda a: a.source.read_changes(NUMBERS),
        "count_rows": lambda a: a.source.count_rows(a.read, BY_I, 5.0),
        "measure": lambda a: a.source.measure(a.read, BY_I, asked_of([ID]), TuningPlan()),
        "open_chunk": lambda a: a.source.open_chunk(a.read, BY_I, TuningPlan()),
        "list_relations": lambda a: a.source.list_relations(),
        "describe_server": lambda a: a.source.describe_server(),
        "check_readable": lambda a: (
            a.source.check_readable(NUMBERS, None),
            a.source.check_readable(None, QUERY),
        )[0],
        "read_counters": lambda a: a.source.read_counters(),
        "position": lambda a: a.source.position(),
        "identify": lambda a: a.source.identify(),
        "ping": lambda a: a.source.ping(),
    },
    ChunkReader: {"read_page": pages, "reconnect": reconnected, "prove": proven},
    SourceSignals: {"read": every_signal, "query": lambda a: a.signals.query("SELECT 42")},
}
ASK_NOTHING = {"close", "pack", "count_pages"}


def test_every_verb_that_asks_is_tried() -> None:
    for seam, tried in VERBS.items():
        verbs = {name for name, _ in getmembers(seam, isfunction) if not name.startswith("_")}
        assert tried.keys() == verbs - ASK_NOTHING


@pytest.fixture(scope="module", params=["postgres", "mariadb"])
def way(request: pytest.FixtureRequest) -> Iterator[tuple[Between, DatabaseUrl, ReadPlan]]:
    server = request.getfixturevalue(request.param)
    where = parse_database_url(server.create_database("answers"))
    ask = server.psql if request.param == "postgres" else server.sql
    numbers = ", ".join(f"({i})" for i in range(1, 3001))
    ask(
        f"CREATE TABLE numbers (i bigint NOT NULL PRIMARY KEY); "
        f"INSERT INTO numbers VALUES {numbers}",
        database="answers",
    )
    with between(where) as (armed, url), asking(url) as asked:
        every = FactsRequest(export_name="e", relation=NUMBERS, query=None)
        yield armed, url, read_plan(asked.source.introspect(every))


@contextlib.contextmanager
def asking(url: DatabaseUrl, read: ReadPlan | None = None) -> Iterator[Asked]:
    """Everything new: a connection says who it is, and is asked who it is."""
    more: dict[str, Any] = {"tls_mode": "disable", "application_name": "rivet-test"}
    with (
        contextlib.closing(registry.open_source(url.scheme, url, **more)) as source,
        contextlib.closing(registry.open_signals(url.scheme, url, **more)) as signals,
    ):
        yield Asked(source, signals, read)  # type: ignore[arg-type]


def wrong(act: Callable[[Asked], object], given: Any, asked: Asked) -> str:
    """What came of a verb; empty when it was as it should be."""
    try:
        answer = act(asked)
    except RivetFleetError as error:
        # Of these the class says enough.
        named = error.code is not None or isinstance(error, SchemaDrift | ConfigError)
        return "" if named else f"without a code: {error!r}"
    except Exception as error:
        return f"not ours: {error!r}"
    return "" if fits(given, answer) else f"of another type: {answer!r}"[:300]


TRIED = [(seam, verb) for seam, verbs in VERBS.items() for verb in verbs]


@pytest.mark.parametrize(("seam", "verb"), TRIED, ids=lambda one: getattr(one, "__name__", one))
def test_a_verb_gives_what_it_says_or_refuses(
    way: tuple[Between, DatabaseUrl, ReadPlan], seam: type[Any], verb: str
) -> None:
    """Of a verb that asks much, each answer comes in some of the shapes, and all of them come."""
    act, given = VERBS[seam][verb], get_type_hints(getattr(seam, verb))["return"]
    armed, url, read = way
    armed.arm(-1, SHAPES["no row"])
    with asking(url, read) as asked:
        asked.source.ping()
        introduced = 0 if verb == "ping" else armed.met
        act(asked)
        results = armed.met
    # A test's seconds are few.
    some = min(8, max(1, (results - introduced) // 3))
    memory, outcomes = Memory(), {}
    memory.begin()
    for number in range(introduced, results):
        for name in list(SHAPES)[number % some :: some]:
            armed.arm(number, SHAPES[name])
            with asking(url, read) as asked:
                outcomes[number, name] = wrong(act, given, asked)
    assert outcomes
    assert not {each: said for each, said in outcomes.items() if said}
    assert memory.grown_mb < GROWN_MB_MAX


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("client_encoding", b"NO-SUCH"), ("client_encoding", b"\xff")),
        *(("server_encoding", b"\xff"), ("server_version", b"\xff"), ("server_version", b"")),
        *(("server_version", b"99999999999.9"), ("standard_conforming_strings", b"\xff")),
    ],
)
def test_whatever_a_server_says_of_itself_ends_by_name(name: str, value: bytes) -> None:
    def start(peer: Peer) -> None:
        told = postgres_server.status(name.encode(), value)
        peer.say(told + postgres_server.STARTED.replace(b"server_version", b"other_version"))

    with rogue(postgres_server.Script("start", start)) as server:
        url = parse_database_url(f"postgresql://reader:word@127.0.0.1:{server.port}/shop")
        for verb, act in VERBS[Source].items():
            with asking(url) as asked:
                said = wrong(act, get_type_hints(getattr(Source, verb))["return"], asked)
                assert not said, verb


def test_a_run_whose_count_is_none_is_unproven_by_name(
    way: tuple[Between, DatabaseUrl, ReadPlan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends all the same: the last two answers are the count and how often rows were changed."""
    armed, url, read = way
    armed.arm(-1, SHAPES["no row"])
    with asking(url) as asked:
        before = asked.source.read_changes(NUMBERS)
    made = memory_plan((1,))
    proof = ProofPlan(prove=Prove.ALL, counted=BY_I, before=before)
    (planned,) = made.runs
    plan = replace(planned.plan, read=replace(read, source="shop"), proof=proof)
    store = MemoryStore(time.time)
    store.submit(replace(made, runs=(replace(planned, plan=plan),)))
    noted: list[RunProof] = []
    monkeypatch.setattr(store, "note_proof", lambda _lease, proof, _ttl_s, **_: noted.append(proof))
    monkeypatch.setattr(store, "confirm_finalize", lambda *_: None)
    delivered: Any = SimpleNamespace(digest=SimpleNamespace(rows=3000))
    fleet = make_fleet(store, tmp_path)
    (run,) = store.runs(made.campaign_id)
    lease = FinalizeLease(run_id=run.run_id, finalize_fence=1)

    def proven() -> RunProof:
        with asking(url) as asked:
            monkeypatch.setattr(fleet, "open_source", lambda *_: asked.source)
            prove_run(fleet, run, lease, [delivered])
            fleet.drop_sources()
        return noted.pop()

    armed.arm(-1, SHAPES["no row"])
    assert proven().outcome is ProofOutcome.PROVEN
    told = []
    for number in range(armed.met):
        armed.arm(number, SHAPES["text"])
        told.append(proven())
    assert {one.outcome for one in told} <= {ProofOutcome.PROVEN, ProofOutcome.UNPROVEN}
    assert any("[RIVET_SOURCE_ANSWER]" in one.sentence for one in told)
