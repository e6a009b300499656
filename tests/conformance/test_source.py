"""Every source, through the seam alone: what ``execution.source`` promises holds for each engine.

``engines`` says how a database of each is had and which words its SQL has; nothing here asks which
engine it is.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import pyarrow as pa
import pytest

from rivet_fleet.contracts.basis import BasisKind, Consequence, resting
from rivet_fleet.contracts.columns import TypeKind
from rivet_fleet.contracts.facts import FactsRequest, NoteKind, RelationKind, SourceFacts
from rivet_fleet.contracts.keys import ChunkRange, KeyTuple, RangeKind, RelationName
from rivet_fleet.contracts.parameters import Parameter, ParameterType
from rivet_fleet.contracts.plan import ReadPlan, TuningPlan
from rivet_fleet.contracts.proof import Prove, moved
from rivet_fleet.contracts.url import DatabaseUrl
from rivet_fleet.contracts.window import NewestRequest, RowWindow, WindowBound, WindowNulls
from rivet_fleet.demo.embedded import free_port
from rivet_fleet.errors import (
    ConfigError,
    RetryClass,
    RivetFleetError,
    SchemaDrift,
    SourceBusy,
    SourceError,
    SourceRefused,
    SourceUnavailable,
    StatementTimeout,
    ValueTooLarge,
)
from rivet_fleet.execution import registry
from rivet_fleet.execution.engines import ground
from rivet_fleet.execution.engines import source as engine_source
from rivet_fleet.execution.proof import PageProofs
from rivet_fleet.execution.signals import SourceSignals
from rivet_fleet.execution.source import ChunkReader, Page, PageLimit, Source
from tests.conformance.engines import (
    NUMBERS,
    PASSWORD,
    SERVERS,
    Carried,
    KeyKind,
    Server,
    each,
    opened,
)
from tests.integration.postgres_source_kit import drain, random_cuts, read_plan
from tests.waiting import until

ROWS = 600
ALL = list(range(1, ROWS + 1))
SMALL = PageLimit(rows_max=100, bytes_max=1 << 20)
WHOLE = ChunkRange(kind=RangeKind.WHOLE)
BY_I = ChunkRange(kind=RangeKind.KEYSET, columns=("i",))
NUMBER_ROWS = list(range(1, NUMBERS + 1))
HOSTILE = '100% é "it\'s" `x`\\; -- ${HOME} {a} /*'


# ---------------------------------------------------------------- what the tests share


@pytest.fixture(scope="module")
def servers(request: pytest.FixtureRequest) -> Iterator[Callable[[type[Server]], Server]]:
    """One database of each engine for the whole module, made when it is first asked for."""
    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda kind: stack.enter_context(opened(kind, request)))


@pytest.fixture(params=SERVERS, ids=lambda kind: kind.name)
def server(
    request: pytest.FixtureRequest, servers: Callable[[type[Server]], Server]
) -> Iterator[Server]:
    one = servers(request.param)
    yield one
    # A server notices late that a client has gone: what the next test sees is its own.
    until(lambda: not one.sessions(), what="the end of every session of ours")


@pytest.fixture(autouse=True)
def known_faults(request: pytest.FixtureRequest, server: Server) -> None:
    """What an engine's table says it answers otherwise than the seam: red once it does not."""
    if reason := server.faults.get(request.node.originalname):
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))


@pytest.fixture
def source(server: Server) -> Iterator[Source]:
    with connected(server.url) as one:
        yield one


@contextlib.contextmanager
def connected(url: DatabaseUrl, **options: Any) -> Iterator[Source]:
    with contextlib.closing(
        registry.open_source(url.scheme, url, application_name="rivet-test", **options)
    ) as one:
        yield one


@contextlib.contextmanager
def watching(url: DatabaseUrl) -> Iterator[SourceSignals]:
    with contextlib.closing(
        registry.open_signals(url.scheme, url, application_name="rivet-fleet governor")
    ) as one:
        yield one


def facts_of(
    source: Source,
    name: str | None,
    *keys: str,
    query: str | None = None,
    casts: tuple[tuple[str, str], ...] = (),
) -> SourceFacts:
    relation = None if name is None else RelationName(schema="", name=name)
    return source.introspect(
        FactsRequest(
            export_name="e",
            relation=relation,
            query=query,
            key_columns=keys,
            casts=casts,
            boundaries_max=50,
        )
    )


def planned(source: Source, name: str | None, *keys: str, query: str | None = None) -> ReadPlan:
    return read_plan(facts_of(source, name, *keys, query=query), query=query)


def numbered(table: pa.Table, column: str = "n") -> list[int]:
    return list(table.column(column).to_pylist())


def read_all(source: Source, read: ReadPlan, chunk: ChunkRange) -> pa.Table:
    """The chunk in small nominal pages, and once more in packed ones: they must not differ."""
    found = drain(source.open_chunk(read, chunk, TuningPlan()), SMALL)
    reader = source.open_chunk(read, chunk, TuningPlan())
    reader.pack()
    packed = drain(reader, SMALL)
    assert packed.schema.equals(found.schema, check_metadata=True)
    for one, other in zip(packed.columns, found.columns, strict=True):
        # NaN is not equal to itself, and is the same value all the same.
        assert one.equals(other) or repr(one.to_pylist()) == repr(other.to_pylist())
    return found


def partition(
    source: Source,
    read: ReadPlan,
    kind: RangeKind,
    columns: tuple[str, ...],
    cuts: Sequence[KeyTuple | None],
) -> pa.Table:
    """Every range between two of the cuts, one behind the other."""
    return pa.concat_tables(
        read_all(source, read, ChunkRange(kind=kind, columns=columns, lower=low, upper=high))
        for low, high in itertools.pairwise(cuts)
    )


def pages_of(reader: ChunkReader, limit: PageLimit) -> list[Page]:
    found = []
    while not found or not found[-1].last:
        found.append(reader.read_page(limit))
    reader.close()
    return found


def proven(source: Source, read: ReadPlan, chunk: ChunkRange, limit: PageLimit) -> PageProofs:
    """What came of asking the server about every page."""
    reader = source.open_chunk(read, chunk, TuningPlan())
    proofs = PageProofs(Prove.ALL)
    reader.count_pages(proofs, 5.0)
    found = pages_of(reader, limit)
    assert sum(one.batch.num_rows for one in found) == source.count_rows(read, WHOLE, 5.0)
    return proofs


def wide(server: Server) -> str:
    """3000 rows of 8 KB, which is more than a link holds: their statement is at work until somebody
    takes them."""
    if "wide" not in server.kept:
        server.kept["wide"] = server.table(
            "i int NOT NULL PRIMARY KEY, pad varchar(8000) NOT NULL",
            "SELECT i, repeat('x', 8000) FROM numbers",
        )
    return str(server.kept["wide"])


@contextlib.contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """``act``, while the block runs."""
    helper = threading.Thread(target=act)
    helper.start()
    try:
        yield
    finally:
        helper.join()


def when_at_work(server: Server, act: Callable[[int], None]) -> Callable[[], None]:
    """Do something to the one session that sleeps in a statement, once there is one."""

    def done() -> None:
        (session,) = until(lambda: server.sessions(running="sleep"), what="a statement of ours")
        act(session)

    return done


# ---------------------------------------------------------------- keys and cuts


@pytest.mark.parametrize(("server", "key"), each("keys"), indirect=["server"])
def test_a_key_of_every_kind_is_sampled_cut_and_paged(
    server: Server, source: Source, key: KeyKind
) -> None:
    casts = (("k", key.cast),) if key.cast else ()
    ddl = key.ddl
    if key.collation is not None:
        if not (collations := server.sql(key.collation)):
            pytest.skip("this server has no such collation")
        ddl = f"{ddl} COLLATE {server.quoted(collations[0][0])}"
    name = server.table(
        f"k {ddl} NOT NULL PRIMARY KEY, n int NOT NULL",
        f"SELECT {key.value}, i FROM numbers WHERE i <= {ROWS}",
    )
    server.sql(server.analyze.format(name))
    facts = facts_of(source, name, casts=casts)
    (found,) = facts.keys
    assert found.columns == ("k",) and found.unique and not found.has_nulls
    assert facts.capabilities.keyset and 10 <= len(found.boundaries) <= 50
    cuts = random_cuts(list(found.boundaries), random.Random(7))
    read = read_plan(facts, casts)
    got = partition(source, read, RangeKind.KEYSET, ("k",), cuts)
    in_order = server.sql(f"SELECT n FROM {name} ORDER BY k")
    assert [(n,) for n in numbered(got)] == in_order
    for end, ordered in ((found.minimum, in_order[0]), (found.maximum, in_order[-1])):
        bounds = {"lower": end} if end == found.maximum else {}
        chunk = ChunkRange(kind=RangeKind.KEYSET, columns=("k",), **bounds)
        reader = source.open_chunk(read, chunk, TuningPlan())
        first = reader.read_page(PageLimit(rows_max=1, bytes_max=1 << 20))
        reader.close()
        assert first.batch.column("n").to_pylist() == [*ordered]


def test_a_composite_key_is_sampled_and_paged_in_its_order(server: Server, source: Source) -> None:
    odd, last = server.quoted("A b"), server.keys_named("bytes")
    word = "CASE i % 3 WHEN 0 THEN 'x' WHEN 1 THEN 'Y' ELSE 'é' END"
    name = server.table(
        f"{odd} varchar(10) NOT NULL, b {last.ddl} NOT NULL, c bigint NOT NULL, n int NOT NULL, "
        f"PRIMARY KEY (c, {odd}, b)",
        f"SELECT {word}, {last.value}, i % 11, i FROM numbers WHERE i <= {ROWS}",
    )
    facts = facts_of(source, name)
    (key,) = facts.keys
    assert key.columns == ("c", "A b", "b") and facts.capabilities.composite_keyset
    assert 10 <= len(key.boundaries) <= 50
    cuts = random_cuts(list(key.boundaries), random.Random(3))
    got = partition(source, read_plan(facts), RangeKind.KEYSET, key.columns, cuts)
    in_order = server.sql(f"SELECT n FROM {name} ORDER BY c, {odd}, b")
    assert [(n,) for n in numbered(got)] == in_order
    everything = ChunkRange(kind=RangeKind.KEYSET, columns=key.columns)
    proofs = proven(source, read_plan(facts), everything, SMALL)
    assert proofs.proven >= 5 and proofs.unproven == 0


def test_nulls_of_a_key_are_a_range_of_their_own(server: Server, source: Source) -> None:
    name = server.table(
        "k bigint, n int NOT NULL",
        "SELECT CASE WHEN i % 50 = 0 THEN NULL WHEN i < 300 THEN 77 ELSE i * 1000000007 END, i "
        f"FROM numbers WHERE i <= {ROWS}",
    )
    server.sql(f"CREATE INDEX {name}_k ON {name} (k)")
    facts = facts_of(source, name, "k")
    (key,) = facts.keys
    assert key.has_nulls and not key.unique
    read = read_plan(facts)
    for kind in (RangeKind.SPAN, RangeKind.WINDOW):
        got = partition(
            source, read, kind, ("k",), [None, ("77",), ("78",), ("1000",), ("9" * 25,), None]
        )
        nulls = read_all(source, read, ChunkRange(kind=RangeKind.NULLS, columns=("k",)))
        assert numbered(nulls) == list(range(50, ROWS + 1, 50))
        assert sorted(numbered(got) + numbered(nulls)) == ALL


def test_a_unique_index_that_holds_nulls_is_no_key(server: Server, source: Source) -> None:
    text = server.keys_named("text").ddl
    name = server.table(f"k {text}, n int NOT NULL")
    server.sql(f"CREATE UNIQUE INDEX {name}_k ON {name} (k)")
    server.sql(f"INSERT INTO {name} VALUES ('', 1), ('a', 2), (NULL, 3), (NULL, 4)")
    assert all(key.has_nulls for key in facts_of(source, name).keys)
    (key,) = facts_of(source, name, "k").keys
    assert key.has_nulls and (key.minimum, key.maximum) == (("",), ("a",))
    read = planned(source, name)
    nulls = ChunkRange(kind=RangeKind.NULLS, columns=("k",))
    assert sorted(numbered(read_all(source, read, nulls))) == [3, 4]
    assert source.count_rows(read, nulls, 5.0) == 2
    got = partition(source, read, RangeKind.WINDOW, ("k",), [None, ("a",), None])
    assert numbered(got) == [1, 2]


@pytest.mark.parametrize("kind", [RangeKind.KEYSET, RangeKind.SPAN, RangeKind.WINDOW])
def test_ranges_are_half_open(source: Source, kind: RangeKind) -> None:
    read = planned(source, "numbers")

    def rows(lower: int | None, upper: int | None) -> list[int]:
        low, high = (None if one is None else (str(one),) for one in (lower, upper))
        chunk = ChunkRange(kind=kind, columns=("i",), lower=low, upper=high)
        return sorted(numbered(read_all(source, read, chunk), "i"))

    assert rows(10, 20) == list(range(10, 20))
    assert rows(None, 1) == rows(20, 20) == rows(NUMBERS + 1, None) == rows(-5, 1) == []
    assert rows(None, 2) == rows(-5, 2) == [1]
    assert rows(NUMBERS, None) == rows(NUMBERS, 10**12) == [NUMBERS]
    assert rows(None, None) == NUMBER_ROWS


def test_a_key_that_the_server_refuses_to_look_at_is_refused_by_its_name(source: Source) -> None:
    several = "SELECT (SELECT i FROM numbers WHERE i > n.i) AS k FROM numbers AS n"
    assert [one.name for one in facts_of(source, None, query=several).columns] == ["k"]
    with pytest.raises(SourceRefused, match=r"export e: key \(k\) cannot be one: "):
        facts_of(source, None, "k", query=several)


@pytest.mark.parametrize("kind", [RangeKind.WINDOW, RangeKind.KEYSET, RangeKind.SPAN])
def test_a_count_is_of_its_range(source: Source, kind: RangeKind) -> None:
    read = planned(source, "numbers")

    def counted(lower: str | None, upper: str | None) -> int:
        low, high = (None if one is None else (one,) for one in (lower, upper))
        chunk = ChunkRange(kind=kind, columns=("i",), lower=low, upper=high)
        return source.count_rows(read, chunk, 5.0)

    assert counted("10", "20") == 10
    assert counted(None, "3") == 2
    assert counted(str(NUMBERS), None) == 1
    assert counted(None, None) == NUMBERS


@pytest.mark.parametrize("kind", [RangeKind.WINDOW, RangeKind.SPAN])
def test_a_count_without_bounds_leaves_out_what_has_no_value(
    server: Server, source: Source, kind: RangeKind
) -> None:
    read = planned(source, server.table("n int NOT NULL, k int", "VALUES (1, 1), (2, NULL)"))
    assert source.count_rows(read, ChunkRange(kind=kind, columns=("k",)), 5.0) == 1
    assert source.count_rows(read, ChunkRange(kind=RangeKind.NULLS, columns=("k",)), 5.0) == 1


def test_the_rows_of_blocks_are_not_counted(source: Source) -> None:
    with pytest.raises(ConfigError):
        source.count_rows(planned(source, "numbers"), ChunkRange(kind=RangeKind.BLOCKS), 5.0)


def test_blocks_cover_every_row_once_where_there_are_blocks(server: Server, source: Source) -> None:
    name = server.table("n int NOT NULL, pad text", "SELECT i, repeat('x', 200) FROM numbers")
    facts = facts_of(source, name)
    read = read_plan(facts)
    if not facts.capabilities.block_ranges:
        assert facts.heaps == ()
        with pytest.raises(ConfigError):
            source.open_chunk(read, ChunkRange(kind=RangeKind.BLOCKS), TuningPlan())
        return
    (heap,) = facts.heaps
    assert heap.blocks > 10
    rows: list[int] = []
    for first, end in ((0, 7), (7, heap.blocks // 2), (heap.blocks // 2, None)):
        chunk = ChunkRange(
            kind=RangeKind.BLOCKS, relation=heap.name, block_first=first, block_end=end
        )
        rows += numbered(read_all(source, read, chunk))
    assert sorted(rows) == NUMBER_ROWS


@pytest.mark.parametrize("kind", [RangeKind.WHOLE, RangeKind.KEYSET, RangeKind.SPAN])
def test_an_empty_table_has_no_rows_and_no_bounds(
    server: Server, source: Source, kind: RangeKind
) -> None:
    facts = facts_of(source, server.table("i int NOT NULL PRIMARY KEY"))
    assert (facts.keys[0].minimum, facts.keys[0].boundaries) == (None, ())
    columns = () if kind is RangeKind.WHOLE else ("i",)
    chunk = ChunkRange(kind=kind, columns=columns)
    assert read_all(source, read_plan(facts), chunk).num_rows == 0
    assert source.count_rows(read_plan(facts), chunk, 5.0) == 0


def test_a_window_is_anded_to_every_range(server: Server, source: Source) -> None:
    name = server.table(
        "i int NOT NULL PRIMARY KEY, at int",
        f"SELECT i, CASE WHEN i % 7 = 0 THEN NULL ELSE i % 100 END FROM numbers WHERE i <= {ROWS}",
    )
    window = RowWindow(
        columns=("at",),
        lower=WindowBound(values=("10",), inclusive=False),
        upper=WindowBound(values=("20",), inclusive=True),
        nulls=WindowNulls.INSIDE,
    )
    read = replace(planned(source, name), window=window)
    wanted = [i for i in ALL if i % 7 == 0 or 10 < i % 100 <= 20]
    for kind, columns in ((RangeKind.WHOLE, ()), (RangeKind.KEYSET, ("i",))):
        chunk = ChunkRange(kind=kind, columns=columns)
        assert sorted(numbered(read_all(source, read, chunk), "i")) == wanted
        assert source.count_rows(read, chunk, 5.0) == len(wanted)


# ---------------------------------------------------------------- pages


@pytest.mark.parametrize("kind", [RangeKind.KEYSET, RangeKind.SPAN, RangeKind.WHOLE])
def test_no_page_has_more_rows_than_its_limit(source: Source, kind: RangeKind) -> None:
    columns = () if kind is RangeKind.WHOLE else ("i",)
    chunk = ChunkRange(kind=kind, columns=columns)
    reader = source.open_chunk(planned(source, "numbers"), chunk, TuningPlan())
    found = pages_of(reader, PageLimit(rows_max=700, bytes_max=1 << 20))
    assert max(one.batch.num_rows for one in found) <= 700 and len(found) >= 5
    assert [n for one in found for n in one.batch.column("i").to_pylist()] == NUMBER_ROWS
    assert all(one.statement_s >= 0 and one.complete for one in found)
    assert all(one.batch.schema.equals(reader.schema) for one in found)
    assert reader.resumable is (kind is not RangeKind.WHOLE)


@pytest.mark.parametrize("kind", [RangeKind.KEYSET, RangeKind.SPAN])
def test_a_page_far_over_its_bytes_is_cut_and_continued(
    server: Server, source: Source, kind: RangeKind
) -> None:
    chunk = ChunkRange(kind=kind, columns=("i",))
    reader = source.open_chunk(planned(source, wide(server)), chunk, TuningPlan())
    found = pages_of(reader, PageLimit(rows_max=NUMBERS, bytes_max=1 << 20))
    assert max(one.wire_bytes for one in found) < 3 << 20
    assert [n for one in found for n in one.batch.column("i").to_pylist()] == NUMBER_ROWS


def test_a_row_wider_than_a_page_is_a_page(server: Server, source: Source) -> None:
    name = server.table(
        f"i int NOT NULL PRIMARY KEY, pad {server.long_text} NOT NULL",
        "SELECT i, repeat('x', 300000) FROM numbers WHERE i <= 5",
    )
    reader = source.open_chunk(planned(source, name), BY_I, TuningPlan())
    found = pages_of(reader, PageLimit(rows_max=100, bytes_max=1 << 16))
    assert [len(one) for page in found for one in page.batch.column("pad").to_pylist()] == [
        300_000
    ] * 5
    assert max(one.batch.num_rows for one in found) <= 2


def test_a_page_is_handed_on_in_pieces_where_it_can_be(server: Server, source: Source) -> None:
    reader = source.open_chunk(planned(source, wide(server)), BY_I, TuningPlan())
    limit = replace(PIECES, bytes_max=1 << 30)
    found = pages_of(reader, limit)
    assert [n for one in found for n in one.batch.column("i").to_pylist()] == NUMBER_ROWS
    if reader.piecewise:
        assert not found[0].complete and max(one.batch.num_rows for one in found) < 1000
    assert found[-1].complete


PIECES = PageLimit(rows_max=NUMBERS, bytes_max=1 << 30, piece_rows_max=500, piece_bytes_max=1 << 30)


def test_a_value_that_is_too_large_is_named_and_leaves_the_source(
    server: Server, source: Source
) -> None:
    read = planned(source, wide(server))
    reader = source.open_chunk(read, BY_I, TuningPlan(max_value_bytes=1000))
    with pytest.raises(ValueTooLarge, match="pad") as caught:
        drain(reader)
    assert caught.value.retry is RetryClass.PERMANENT
    reader.close()
    # Thousands of rows were still on their way; none of them may be taken for these.
    assert numbered(read_all(source, planned(source, "numbers"), BY_I), "i") == NUMBER_ROWS
    with connected(server.url, max_value_bytes=1000) as strict, pytest.raises(ValueTooLarge):
        drain(strict.open_chunk(read, BY_I, TuningPlan()))


@pytest.mark.parametrize("kind", [RangeKind.KEYSET, RangeKind.SPAN])
def test_every_page_is_what_the_server_counts(source: Source, kind: RangeKind) -> None:
    chunk = ChunkRange(kind=kind, columns=("i",))
    limit = PageLimit(rows_max=700, bytes_max=1 << 20)
    proofs = proven(source, planned(source, "numbers"), chunk, limit)
    assert proofs.proven >= 5 and proofs.unproven == 0


# ---------------------------------------------------------------- retries and stops


def test_a_session_killed_between_pages_costs_no_row_and_doubles_none(
    server: Server, source: Source
) -> None:
    reader = source.open_chunk(planned(source, "numbers"), BY_I, TuningPlan())
    rows: list[int] = []
    for kill in (True, True, False, True, False):
        if kill:
            (session,) = server.sessions()
            server.kill(session)
            with pytest.raises(SourceUnavailable) as caught:
                reader.read_page(SMALL)
            assert caught.value.retry is RetryClass.RECONNECT and reader.resumable
            reader.reconnect()
        rows += reader.read_page(SMALL).batch.column("i").to_pylist()
    rows += numbered(drain(reader), "i")
    assert rows == NUMBER_ROWS


def test_a_session_killed_between_pieces_costs_what_was_not_handed_on(
    server: Server, source: Source
) -> None:
    """The statement is still open on the server: it waits for us to take its rows."""
    reader = source.open_chunk(planned(source, wide(server)), BY_I, TuningPlan())
    rows = reader.read_page(PIECES).batch.column("i").to_pylist()
    if not reader.piecewise:
        pytest.skip("this engine's pages come whole")
    (session,) = server.sessions()
    server.kill(session)
    with pytest.raises(SourceUnavailable) as caught:
        while True:
            rows += reader.read_page(PIECES).batch.column("i").to_pylist()
    assert caught.value.retry is RetryClass.RECONNECT and reader.resumable
    reader.reconnect()
    rows += numbered(drain(reader, PIECES), "i")
    assert rows == NUMBER_ROWS


def test_a_session_killed_in_a_statement_is_unavailable(server: Server, source: Source) -> None:
    query = f"SELECT i, CASE WHEN i = 3 THEN {server.sleep.format(60)} END AS s FROM numbers"
    reader = source.open_chunk(planned(source, None, query=query), WHOLE, TuningPlan())
    with meanwhile(when_at_work(server, server.kill)), pytest.raises(SourceUnavailable) as caught:
        reader.read_page(SMALL)
    assert caught.value.retry is RetryClass.RECONNECT
    assert source.ping()


def test_a_statement_that_is_cancelled_is_no_broken_link(server: Server, source: Source) -> None:
    query = f"SELECT i, CASE WHEN i = 3 THEN {server.sleep.format(60)} END AS s FROM numbers"
    reader = source.open_chunk(planned(source, None, query=query), WHOLE, TuningPlan())
    with meanwhile(when_at_work(server, server.cancel)), pytest.raises(StatementTimeout):
        reader.read_page(SMALL)
    assert source.ping()


def test_a_broken_stream_is_not_continued(source: Source) -> None:
    reader = source.open_chunk(planned(source, "numbers"), WHOLE, TuningPlan())
    reader.read_page(SMALL)
    with pytest.raises(SourceUnavailable):
        reader.reconnect()


@pytest.mark.parametrize("chunk", [WHOLE, BY_I], ids=["stream", "piece"])
def test_a_reader_that_stops_leaves_no_statement_and_a_usable_source(
    server: Server, source: Source, chunk: ChunkRange
) -> None:
    reader = source.open_chunk(planned(source, wide(server)), chunk, TuningPlan())
    assert not reader.read_page(PIECES if chunk is BY_I else SMALL).last
    at_rest = server.whole_in_steps if chunk is WHOLE else not reader.piecewise
    assert server.sessions(running="") or at_rest
    reader.close()
    reader.close()
    until(lambda: not server.sessions(running=""), what="the statement's end")
    assert source.ping() and source.ping()
    until(lambda: len(server.sessions()) == 1, what="the end of the session that was left")
    source.close()
    source.close()
    until(lambda: not server.sessions(), what="our session's end")
    assert source.ping(), "a closed source opens itself anew"


def test_a_table_that_is_away_for_a_moment_is_looked_for_again(
    server: Server, source: Source
) -> None:
    """Between the two renames of a swap its name stands for nothing; then for the new table."""
    columns, fill = "i int NOT NULL PRIMARY KEY", "SELECT i FROM numbers WHERE i <= 900"
    name, other = server.table(columns, fill), server.table(columns, fill)
    plan = planned(source, name)
    reader = source.open_chunk(plan, BY_I, TuningPlan())
    rows = reader.read_page(SMALL).batch.column("i").to_pylist()
    server.sql(f"ALTER TABLE {name} RENAME TO {name}_old")
    with pytest.raises(SourceBusy) as caught:
        reader.read_page(SMALL)
    assert caught.value.retry is RetryClass.TRANSIENT
    server.sql(f"ALTER TABLE {other} RENAME TO {name}")
    reader.reconnect()
    rows += numbered(drain(reader), "i")
    assert rows == list(range(1, 901))


# ---------------------------------------------------------------- errors by class


AFTER: dict[str, tuple[type[SourceError], RetryClass | None]] = {
    "deadlock": (SourceBusy, RetryClass.TRANSIENT),
    "memory": (SourceBusy, RetryClass.TRANSIENT),
    "disk": (SourceBusy, RetryClass.TRANSIENT),
    "shutdown": (SourceUnavailable, RetryClass.RECONNECT),
    "cancelled": (StatementTimeout, None),
    "value": (SourceRefused, RetryClass.PERMANENT),
}


@pytest.mark.parametrize(("server", "told"), each("raised"), indirect=["server"])
def test_what_the_server_says_mid_page_has_its_class_and_the_page_is_read_again(
    server: Server, source: Source, told: str
) -> None:
    query = (
        "SELECT i, CASE WHEN i = 150 AND EXISTS (SELECT 1 FROM armed WHERE yes = 1) "
        f"THEN {server.raised[told]} END AS f FROM numbers WHERE i <= 300"
    )
    server.sql("UPDATE armed SET yes = 0")
    reader = source.open_chunk(planned(source, None, "i", query=query), BY_I, TuningPlan())
    rows = reader.read_page(SMALL).batch.column("i").to_pylist()
    server.sql("UPDATE armed SET yes = 1")
    with pytest.raises(SourceError) as caught:
        reader.read_page(SMALL)
    error, retry = AFTER[told]
    assert type(caught.value) is error and caught.value.retry is (retry or caught.value.retry)
    assert caught.value.connected
    # A function may put a row's values into its words, whatever code of the server's it raises.
    assert "as told" not in caught.value.message and "as told" in (caught.value.unmasked or "")
    server.sql("UPDATE armed SET yes = 0")
    reader.reconnect()
    rows += numbered(drain(reader), "i")
    assert rows == list(range(1, 301))


def test_a_functions_words_are_left_out_of_what_is_asked_about_a_source_too(
    server: Server, source: Source
) -> None:
    query = (
        "SELECT i FROM numbers WHERE CASE WHEN EXISTS (SELECT 1 FROM armed WHERE yes = 1) "
        f"THEN {server.raised['deadlock']} END IS NULL"
    )
    server.sql("UPDATE armed SET yes = 0")
    read = planned(source, None, query=query)
    server.sql("UPDATE armed SET yes = 1")
    with pytest.raises(SourceBusy) as caught:
        source.count_rows(read, WHOLE, 5.0)
    server.sql("UPDATE armed SET yes = 0")
    assert "as told" not in caught.value.message and "as told" in (caught.value.unmasked or "")


def test_what_is_not_there_is_refused_for_good_with_close_names(
    server: Server, source: Source
) -> None:
    server.sql("CREATE TABLE customers (i int NOT NULL PRIMARY KEY)")
    with pytest.raises(SourceRefused) as caught:
        facts_of(source, "custmers")
    assert caught.value.retry is RetryClass.PERMANENT and "customers" in (caught.value.hint or "")
    for asked in (
        lambda: facts_of(source, None, query="SELECT nothing_of_it FROM numbers"),
        lambda: facts_of(source, None, query="SELECT FROM WHERE"),
        lambda: facts_of(source, None, query="SELECT i FROM nowhere"),
        lambda: facts_of(source, "numbers", "nothing_of_it"),
        lambda: source.check_readable(RelationName(schema="", name="nowhere"), None),
        lambda: source.check_readable(None, "SELECT nothing_of_it FROM numbers"),
        lambda: source.newest(
            NewestRequest(
                relation=RelationName(schema="", name="numbers"), query=None, columns=("no",)
            )
        ),
    ):
        with pytest.raises(SourceRefused) as caught:
            asked()
        assert caught.value.retry is RetryClass.PERMANENT
    assert source.ping()


def test_a_missing_right_names_the_grant(server: Server) -> None:
    with connected(server.may_see_nothing()) as source:
        for asked in (
            lambda: facts_of(source, "numbers"),
            lambda: facts_of(source, None, query="SELECT i FROM numbers"),
            lambda: source.check_readable(RelationName(schema="", name="numbers"), None),
            lambda: source.check_readable(None, "SELECT i FROM numbers"),
        ):
            with pytest.raises(SourceRefused) as caught:
                asked()
            assert caught.value.retry is RetryClass.PERMANENT
            assert "SELECT" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("change", "error", "hint"),
    [
        ({"database": "nowhere"}, SourceRefused, ""),
        ({"user": "nobody_here"}, SourceRefused, "user name"),
        ({"password": "wrong-Pässwörd-😀"}, SourceRefused, "password"),
        ({"port": 0}, SourceUnavailable, "running"),
    ],
    ids=["database", "user", "password", "port"],
)
def test_a_connection_that_cannot_be_made_says_why(
    server: Server, change: dict[str, Any], error: type[SourceError], hint: str
) -> None:
    if "port" in change:
        change = {"port": free_port()}
    target = replace(server.url, **change)
    with connected(target) as source, pytest.raises(error) as caught:
        source.ping()
    assert not caught.value.connected and target.identity in caught.value.message
    assert hint in (caught.value.hint or "")
    said = f"{caught.value} {caught.value.hint} {caught.value!r} {source!r}"
    assert PASSWORD not in said and "wrong-P" not in said


def test_an_option_that_nobody_knows_is_refused(server: Server) -> None:
    with pytest.raises(ConfigError, match=r"tls\.mode"):
        registry.open_source(
            server.url.scheme, server.url, application_name="x", tls_mode="perhaps"
        )
    target = replace(server.url, options=(*server.url.options, ("no_such_option", "1")))
    with pytest.raises((ConfigError, SourceRefused)), connected(target) as source:
        source.ping()


def timed_out(server: Server, source: Source) -> StatementTimeout:
    query = f"SELECT i, CASE WHEN i = 3 THEN {server.sleep.format(60)} END AS s FROM numbers"
    read = planned(source, None, query=query)
    tuning = TuningPlan(statement_timeout_s=0.2, whole_read_timeout_s=0.2)
    reader = source.open_chunk(read, WHOLE, tuning)
    with pytest.raises(StatementTimeout) as caught:
        drain(reader)
    return caught.value


def test_a_statement_ends_at_its_limit(server: Server, source: Source) -> None:
    assert "statement_timeout_s" in (timed_out(server, source).hint or "")
    endless = f"SELECT i FROM numbers WHERE i = 3 AND {server.sleep.format(60)} IS NOT NULL"
    with pytest.raises(StatementTimeout):
        source.count_rows(planned(source, None, query=endless), WHOLE, 0.2)
    assert source.ping()


def test_the_longest_statement_is_whole_whatever_is_handed_on_of_it(
    server: Server, source: Source
) -> None:
    """Rows take their time, and a few of them fill what is received at once."""
    query = (
        f"SELECT i, repeat('x', 100000) AS pad, {server.sleep.format(0.04)} AS s "
        "FROM numbers WHERE i <= 9"
    )
    read = planned(source, None, query=query)
    reader = source.open_chunk(read, WHOLE, TuningPlan())
    assert reader.longest_statement_s < 0.2
    pages = pages_of(reader, PageLimit(rows_max=1, bytes_max=1 << 20))
    assert len(pages) >= 9
    longest_s = max(page.statement_s for page in pages)
    # Its clock is not ours: a sleep may be a tick shorter than what it was asked for.
    if server.whole_in_steps:
        assert 0.03 <= longest_s < 0.3, "each page is a statement"
    else:
        assert longest_s == pages[-1].statement_s >= 0.3
        assert max(page.pace_s for page in pages) < 0.75 * longest_s
    assert reader.longest_statement_s >= longest_s
    by_key = source.open_chunk(read, BY_I, TuningPlan())
    assert by_key.longest_statement_s < 0.2, "of another chunk"
    assert len(pages_of(by_key, PageLimit(rows_max=100, bytes_max=1 << 20))) == 1
    assert by_key.longest_statement_s >= 0.3
    assert source.count_rows(planned(source, "numbers"), WHOLE, 5.0)
    assert source.longest_statement_s < 0.2


def test_the_longest_statement_is_also_a_count_and_one_that_failed(
    server: Server, source: Source
) -> None:
    timed_out(server, source)
    assert 0.15 <= source.longest_statement_s < 5
    slow = f"SELECT i FROM numbers WHERE i = 3 AND {server.sleep.format(0.3)} IS NOT NULL"
    source.count_rows(planned(source, None, query=slow), WHOLE, 5.0)
    assert 0.25 <= source.longest_statement_s < 5


def test_a_statement_that_ran_into_its_limit_is_not_to_be_repeated(
    server: Server, source: Source
) -> None:
    assert timed_out(server, source).retry is RetryClass.PERMANENT


def test_a_lock_is_waited_for_no_longer_than_allowed(server: Server, source: Source) -> None:
    name = server.table("i int NOT NULL PRIMARY KEY", "SELECT i FROM numbers WHERE i <= 10")
    # Without a limit of its own, the wait would run into the statement's.
    tuning = TuningPlan(lock_timeout_s=server.lock_timeout_s, statement_timeout_s=8.0)
    reader = source.open_chunk(planned(source, name), BY_I, tuning)
    with server.locked(name), pytest.raises(SourceBusy) as caught:
        reader.read_page(SMALL)
    assert caught.value.retry is RetryClass.TRANSIENT
    assert caught.value.code is not None and caught.value.error_class == "RelationLocked"
    assert reader.read_page(SMALL).last


def test_a_query_that_writes_is_refused(server: Server, source: Source) -> None:
    with pytest.raises(SourceRefused) as caught:
        read_all(source, planned(source, None, query=server.writing), WHOLE)
    assert caught.value.hint == "exports read only; the query tries to write"
    assert server.sql("SELECT count(*) FROM numbers") == [(NUMBERS,)]


def test_a_secret_is_never_shown(server: Server, source: Source) -> None:
    for query in (
        f"SELECT 1 AS n WHERE 'password={PASSWORD}' =",
        f'SELECT 1 AS n FROM "{PASSWORD}"',
        f"SELECT 1 AS n, {PASSWORD.replace('-', '_')}()",
    ):
        with pytest.raises(SourceRefused) as caught:
            facts_of(source, None, query=query)
        assert PASSWORD not in f"{caught.value} {caught.value.hint} {caught.value!r} {source!r}"


# ---------------------------------------------------------------- drift and what a plan rests on


def test_drift_lists_every_difference(server: Server, source: Source) -> None:
    name = server.table("a int NOT NULL, b text, c decimal(5,2), d int")
    read = planned(source, name)
    server.sql(f"ALTER TABLE {name} DROP COLUMN b, ADD COLUMN e date")
    for change in server.loosened:
        server.sql(change.format(name))
    with pytest.raises(SchemaDrift) as caught:
        source.open_chunk(read, WHOLE, TuningPlan())
    for said in (
        "a was NOT NULL and may be NULL",
        "b is gone",
        "(5,2) and is ",
        "e (date) is new",
    ):
        assert said in caught.value.message


def test_what_a_plan_rests_on_is_proven_when_opened_when_reconnected_and_behind_the_end(
    server: Server, source: Source
) -> None:
    name = server.table("i int NOT NULL PRIMARY KEY", "SELECT i FROM numbers WHERE i <= 300")
    facts = facts_of(source, name)
    read = replace(read_plan(facts), basis=resting(facts.basis, [BY_I], None))
    assert {BasisKind.RELATION, BasisKind.INDEX} <= {fact.kind for fact in read.basis}
    reader = source.open_chunk(read, BY_I, TuningPlan())
    assert drain(reader).num_rows == 300 and reader.prove() == ()

    other = server.table("i int NOT NULL PRIMARY KEY", "SELECT i FROM numbers WHERE i <= 300")
    reader = source.open_chunk(read, BY_I, TuningPlan())
    reader.read_page(SMALL)
    server.sql(f"ALTER TABLE {name} RENAME TO {name}_was")
    server.sql(f"ALTER TABLE {other} RENAME TO {name}")
    assert drain(reader).num_rows == 200
    assert {one.consequence for one in reader.prove()} <= {Consequence.TOLD}

    reader = source.open_chunk(read, BY_I, TuningPlan())
    reader.read_page(SMALL)
    server.drop_key(name)
    for act in (
        reader.reconnect,
        reader.prove,
        lambda: source.open_chunk(read, BY_I, TuningPlan()),
    ):
        with pytest.raises(SchemaDrift, match="unique"):
            act()


@pytest.fixture
def looks(source: Source, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the source is asked beside its pages, as it goes."""
    asked: list[str] = []
    session = source._session
    reading = session.reading

    def recorded(settings: Any, *, doing: str, **options: Any) -> Any:
        asked.append(doing)
        return reading(settings, doing=doing, **options)

    monkeypatch.setattr(session, "reading", recorded)
    return asked


BELOW = replace(BY_I, upper=("300",))
ABOVE = replace(BY_I, lower=("300",))
COMPARING = "comparing the source"


def _compared(looks: list[str], act: Callable[[], object]) -> bool:
    looks.clear()
    act()
    return any(COMPARING in doing for doing in looks)


def test_a_chunk_begins_on_the_last_look_behind_the_one_before(
    server: Server, source: Source, looks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = server.table("i int NOT NULL PRIMARY KEY", "SELECT i FROM numbers WHERE i <= 600")
    facts = facts_of(source, name)
    read = replace(read_plan(facts), basis=resting(facts.basis, [BY_I], None))

    def begun(chunk: ChunkRange = ABOVE, like: ReadPlan = read) -> ChunkReader:
        return source.open_chunk(like, chunk, TuningPlan())

    first = begun(BELOW)
    below = drain(first).num_rows
    assert _compared(looks, begun), "nothing was proven yet"
    first.prove()
    assert not _compared(looks, begun)
    reader = begun()
    assert below + drain(reader).num_rows == 600
    assert _compared(looks, reader.prove), "its own pages are proven"

    other = replace(ABOVE, kind=RangeKind.SPAN)
    assert _compared(looks, lambda: begun(other)), "other statements rest on other facts"
    assert _compared(looks, lambda: begun(like=replace(read, basis=read.basis[:1])))
    with monkeypatch.context() as later:
        later.setattr(ground, "GROUND_S_MAX", -1.0)
        assert _compared(looks, begun), "it was long ago"
    reader.prove()
    source.close()
    source.ping()
    assert _compared(looks, begun), "another connection"


CHANGES = {
    "renamed": "DROP COLUMN n, ADD COLUMN m int",
    "as wide": "DROP COLUMN n, ADD COLUMN n real",
    "wider": "DROP COLUMN n, ADD COLUMN n double precision",
}


@pytest.mark.parametrize("change", [*CHANGES, "unkeyed"])
def test_what_changed_behind_the_last_look_is_told_as_that(
    server: Server, source: Source, change: str
) -> None:
    name = server.table(
        "i int NOT NULL PRIMARY KEY, n int", "SELECT i, i FROM numbers WHERE i <= 600"
    )
    facts = facts_of(source, name)
    read = replace(read_plan(facts), basis=resting(facts.basis, [BY_I], None))
    first = source.open_chunk(read, BELOW, TuningPlan())
    drain(first)
    assert first.prove() == ()
    if change == "unkeyed":
        server.drop_key(name)
    else:
        server.sql(f"ALTER TABLE {name} {CHANGES[change]}")

    def delivered() -> None:
        reader = source.open_chunk(read, ABOVE, TuningPlan())
        drain(reader)
        reader.prove()

    with pytest.raises(SchemaDrift):
        delivered()
    with pytest.raises(SchemaDrift):
        source.open_chunk(read, ABOVE, TuningPlan())


def test_a_server_that_is_behind_the_plan_is_neither_read_nor_counted(
    server: Server, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The window's end was seen on one replica; another one, which lacks rows below it, answers."""
    monkeypatch.setattr(engine_source, "BEHIND_S_MAX", 0.0)
    relation = facts_of(source, "numbers").relation
    with server.ahead() as ahead:
        seen = source.newest(NewestRequest(relation=relation, query=None, columns=("i",))).position
        if not seen:
            pytest.skip("this server does not say how far it has come")
        read = replace(planned(source, "numbers"), position=seen)
        assert source.count_rows(read, WHOLE, 5.0) == NUMBERS
        assert numbered(read_all(source, read, BY_I), "i") == NUMBER_ROWS
        reader = source.open_chunk(read, BY_I, TuningPlan())
        # As if the plan had been made on a server that is far ahead of this one.
        object.__setattr__(read, "position", ahead)
        # What was proven is gone with its connection: a page that is cut ends it, too.
        source._session.close()
        for verb in (
            lambda: reader.read_page(PageLimit(rows_max=10, bytes_max=1 << 20)),
            reader.prove,
            reader.reconnect,
            lambda: source.open_chunk(read, BY_I, TuningPlan()),
            lambda: source.count_rows(read, WHOLE, 5.0),
        ):
            with pytest.raises(SourceBusy, match="has not come as far") as refused:
                verb()
            assert refused.value.code == engine_source.BEHIND
            assert refused.value.retry is RetryClass.TRANSIENT
            assert not source._session.usable, "the next connection may lead to another one"
        object.__setattr__(read, "position", seen)
        assert source.count_rows(read, WHOLE, 5.0) == NUMBERS, "of whoever answers next"


def test_a_source_says_who_it_is_and_keeps_to_it(server: Server, source: Source) -> None:
    found = source.identify()
    assert all(fact.kind is BasisKind.SOURCE for fact in found)
    with connected(server.url) as again:
        assert again.identify() == found
    sealed = [fact for fact in facts_of(source, "numbers").basis if fact.kind is BasisKind.SOURCE]
    assert set(sealed) == set(found)


# ---------------------------------------------------------------- types


def carried_table(server: Server, source: Source) -> pa.Table:
    """Every type and value of the engine in one table: the values, NULLs, and read once."""
    if "carried" not in server.kept:
        columns = ", ".join(f"c{at} {one.ddl}" for at, one in enumerate(server.carried))
        most = max(len(one.values) for one in server.carried)
        rows = [
            [one.values[row][0] if row < len(one.values) else "NULL" for one in server.carried]
            for row in range(most + 1)
        ]
        name = server.table(f"k int NOT NULL PRIMARY KEY, {columns}")
        for number, row in enumerate(rows):
            server.sql(f"INSERT INTO {name} VALUES ({number}, {', '.join(row)})")
        facts = facts_of(source, name)
        chunk = ChunkRange(kind=RangeKind.KEYSET, columns=("k",))
        server.kept["carried"] = (facts, read_all(source, read_plan(facts), chunk))
    return server.kept["carried"]


def stored(column: pa.ChunkedArray) -> list[object]:
    """The values as Arrow stores them: Python has no date for all that the others may hold."""
    array = column.combine_chunks()
    if isinstance(array.type, pa.BaseExtensionType):
        array = array.storage
    if pa.types.is_date32(array.type):
        array = array.cast(pa.int32())
    elif pa.types.is_temporal(array.type):
        array = array.cast(pa.int64())
    return list(array.to_pylist())


@pytest.mark.parametrize(("server", "carried"), each("carried"), indirect=["server"])
def test_a_value_of_every_type_arrives_as_it_is(
    server: Server, source: Source, carried: Carried
) -> None:
    facts, table = carried_table(server, source)
    name = f"c{server.carried.index(carried)}"
    (column,) = (one for one in facts.columns if one.name == name)
    assert column.type is not None and column.type.kind is carried.kind and column.nullable
    found = stored(table.column(name))
    wanted = [value for _, value in carried.values]
    # By their text: NaN is not equal to itself, and -0.0 is equal to 0.0.
    assert list(map(repr, found[: len(wanted)])) == list(map(repr, wanted))
    assert set(map(repr, found[len(wanted) :])) == {"None"}


def test_every_kind_of_type_is_tried_or_known_to_be_absent(server: Server) -> None:
    assert {one.kind for one in server.carried} ^ server.without == {*TypeKind}


# ---------------------------------------------------------------- a query


def test_a_query_gives_what_its_table_gives(source: Source) -> None:
    for text in ("SELECT i FROM numbers", "SELECT i FROM numbers; ", "SELECT i FROM numbers -- x"):
        facts = facts_of(source, None, "i", query=text)
        (key,) = facts.keys
        assert (key.minimum, key.maximum) == (("1",), (str(NUMBERS),))
        assert facts.relation is None and facts.heaps == ()
        assert facts.table is not None and facts.table.queries[0].columns == ("i",)
        read = read_plan(facts, query=text)
        assert numbered(read_all(source, read, WHOLE), "i") == NUMBER_ROWS
        got = partition(source, read, RangeKind.KEYSET, ("i",), [None, ("7",), None])
        assert numbered(got, "i") == NUMBER_ROWS
        assert source.count_rows(read, BY_I, 5.0) == NUMBERS
        assert source.check_readable(None, text) == ()


def test_a_parameter_is_its_value_whatever_it_holds(server: Server, source: Source) -> None:
    word = "it''s \\ \" %s {} ${HOME} é -- /* ; '"
    name = server.table(f"{server.quoted(HOSTILE)} int NOT NULL", "VALUES (4)")
    shown = str(RelationName(schema="", name=HOSTILE))
    placed = registry.place_parameters(
        server.url.scheme,
        f"SELECT i, ${{word}} AS w, ${{name}} AS v FROM numbers, {name} WHERE i < ${{most}}",
        {
            "word": Parameter(value=word, type=ParameterType.TEXT),
            "name": Parameter(value=shown, type=ParameterType.IDENTIFIER),
            "most": Parameter(value="3", type=ParameterType.NUMBER),
        },
    )
    found = read_all(source, planned(source, None, query=placed.sql), WHOLE)
    assert found.to_pydict() == {"i": [1, 2], "w": [word, word], "v": [4, 4]}


# ---------------------------------------------------------------- the newest mark, counters


def newest_of(source: Source, name: str, *columns: str, **more: Any) -> Any:
    relation = RelationName(schema="", name=name)
    return source.newest(NewestRequest(relation=relation, query=None, columns=columns, **more))


def test_the_newest_row_is_the_greatest_of_its_cursor_and_key(
    server: Server, source: Source
) -> None:
    name = server.table("i int NOT NULL PRIMARY KEY, at int, made int")
    assert newest_of(source, name, "at", "i").values is None
    assert newest_of(source, name, "at", "i", above=("1", "1")).vacant
    server.sql(f"INSERT INTO {name} VALUES (1, 5, 1), (2, 9, 1), (3, 9, 1), (4, NULL, 30)")
    found = newest_of(source, name, "at", "i")
    assert (found.values, found.nulls, found.endless) == (("9", "3"), True, False)
    assert newest_of(source, name, "at", "i", above=("9", "2"), whole=True).values == ("9", "3")
    at_end = newest_of(source, name, "at", "i", above=("9", "3"), whole=True)
    assert (at_end.values, at_end.below, at_end.vacant) == (None, None, False)
    behind = newest_of(source, name, "at", "i", above=("12", "1"), whole=True)
    assert (behind.values, behind.below) == (None, ("9", "3"))
    assert newest_of(source, name, "at", "i", fallback="made").values == ("30", "4")
    assert not newest_of(source, name, "i").nulls
    query = f"SELECT i, at FROM {name}"
    asked = NewestRequest(relation=None, query=query, columns=("at", "i"))
    assert source.newest(asked).values == ("9", "3")


@pytest.mark.parametrize("kind", ["date", "timestamp", "timestamp_utc"])
def test_an_overlap_begins_so_many_seconds_below_the_mark(
    server: Server, source: Source, kind: str
) -> None:
    name = server.table(
        f"i int NOT NULL PRIMARY KEY, at {server.keys_named(kind).ddl}",
        "VALUES (1, '2024-03-31 00:00:00'), (2, '2024-03-30 00:00:00')",
    )
    top = newest_of(source, name, "at", "i").values
    found = newest_of(source, name, "at", "i", above=top, overlap_s=86_400.0)
    assert found.values is None and found.overlap is not None
    at, before = (datetime.fromisoformat(one) for one in (top[0], found.overlap))
    assert (at - before).total_seconds() == 86_400.0


def test_the_counters_of_a_relation_never_count_less_than_was_changed(
    server: Server, source: Source
) -> None:
    name = server.table("i int NOT NULL PRIMARY KEY", "SELECT i FROM numbers WHERE i <= 10")
    relation = RelationName(schema="", name=name)
    relation = facts_of(source, name).relation or relation
    before = source.read_changes(relation)
    server.sql(f"INSERT INTO {name} SELECT i + 100 FROM numbers WHERE i <= 50")
    server.sql(f"DELETE FROM {name} WHERE i <= 5")
    server.sql(server.flush)

    def told() -> bool:
        movement = moved(before, source.read_changes(relation))
        return movement is None or (movement.inserted >= 50 and movement.deleted >= 5)

    until(told, what="the server's own count")


def test_the_looks_at_a_source_only_rise(server: Server, source: Source) -> None:
    first = source.read_counters()
    read_all(source, planned(source, "numbers"), BY_I)
    second = source.read_counters()
    assert first.counters and first.counters.keys() == second.counters.keys()
    assert all(second.counters[name] >= count for name, count in first.counters.items())
    assert second.taken_at_s >= first.taken_at_s and second.context["version"]
    assert abs(second.taken_at_s - time.time()) < 60


def test_a_signal_is_a_number_or_refused(server: Server) -> None:
    specs = registry.signal_specs(server.url.scheme)
    refused = set()
    with watching(server.owner) as signals:
        for name, spec in specs.items():
            assert spec.meaning
            try:
                assert signals.read(name) >= 0
            except SourceRefused as error:
                refused.add(name)
                assert "replicate" in error.message
        assert len(refused) <= 1
        assert signals.query("SELECT 1.5") == 1.5
        for sql in (
            "SELECT 1, 2",
            "SELECT i FROM numbers WHERE i < 0",
            "SELECT NULL",
            "SELECT 'x'",
        ):
            with pytest.raises(SourceRefused, match="one number"):
                signals.query(sql)
        for sql in ("DELETE FROM numbers", server.writing):
            with pytest.raises(SourceError):
                signals.query(sql)
        with pytest.raises(ConfigError, match="no signal nothing_of_it"):
            signals.read("nothing_of_it")
    with watching(server.may_see_nothing()) as signals:
        for name, spec in specs.items():
            if spec.needs is not None:
                with pytest.raises(SourceRefused):
                    signals.read(name)
    assert server.sql("SELECT count(*) FROM numbers") == [(NUMBERS,)]


# ---------------------------------------------------------------- listing, and names


def test_every_relation_is_listed_once_with_what_it_is(server: Server, source: Source) -> None:
    name = server.table("i int NOT NULL PRIMARY KEY", "SELECT i FROM numbers WHERE i <= 70")
    parted = server.table(server.parted)
    for part in server.parts:
        server.sql(part.format(parted))
    server.sql(f"CREATE VIEW {name}_seen AS SELECT * FROM {name}")
    found = source.list_relations()
    names = [one.name for one in found.relations]
    assert len(names) == len(set(names))
    of = {one.name.name: one for one in found.relations}
    assert all(one.name.schema == found.default_schema for one in found.relations)
    assert of[name].kind is RelationKind.TABLE and of[name].missing is None
    assert of[f"{name}_seen"].kind is RelationKind.VIEW
    assert of[parted].kind is RelationKind.PARTITIONED
    assert not any(one.startswith(f"{parted}_") for one in of)
    for one in (of[name], of[f"{name}_seen"]):
        assert server.sql(f"SELECT count(*) FROM {one.from_item}") == [(70,)]
        assert source.check_readable(one.name, None) == ()
    with connected(server.may_see_nothing()) as blind:
        theirs = {one.name.name: one.missing for one in blind.list_relations().relations}
    assert all("SELECT" in str(missing) for one, missing in theirs.items() if one != "armed")


def test_a_server_describes_itself(server: Server, source: Source) -> None:
    found = source.describe_server()
    # Some servers know accounts, which are users at a host.
    assert found.user.partition("@")[0] == server.url.user
    assert found.database == server.url.database
    assert found.tls is None or found.tls.startswith("TLS")
    assert abs(found.now_s - time.time()) < 60
    assert (found.connections_max or 0) > 1
    assert found.connections_used is None or found.connections_used >= 1
    assert source.ping() == found.version
    # The reader may run what writes; the other one may read little, and that alone.
    assert [note.kind for note in found.notes] == [NoteKind.POWERFUL_USER]
    with connected(server.may_see_nothing()) as blind:
        assert blind.describe_server().notes == ()


def test_a_hostile_name_is_a_name(server: Server, source: Source) -> None:
    """A table, a key and a column, from the listing to the last page."""
    table, key, value = (f"{HOSTILE}{end}" for end in "tkv")
    quoted = {one: server.quoted(one) for one in (table, key, value)}
    server.sql(
        f"CREATE TABLE {quoted[table]} ({quoted[key]} varchar(80) NOT NULL PRIMARY KEY, "
        f"{quoted[value]} int)"
    )
    server.sql(
        f"INSERT INTO {quoted[table]} SELECT concat('{{%s}}', i), i FROM numbers WHERE i < 9"
    )
    (listed,) = (one for one in source.list_relations().relations if one.name.name == table)
    assert server.sql(f"SELECT count(*) FROM {listed.from_item}") == [(8,)]
    assert source.check_readable(listed.name, None) == ()
    facts = facts_of(source, table)
    assert facts.keys[0].columns == (key,)
    cuts: Sequence[KeyTuple | None] = [None, ("{%s}3",), None]
    got = partition(source, read_plan(facts), RangeKind.KEYSET, (key,), cuts)
    assert numbered(got, value) == list(range(1, 9))
    newest = newest_of(source, table, value, key)
    assert newest.values == ("8", "{%s}8") and newest.nulls is False
    query = f"SELECT * FROM {quoted[table]}"
    asked = planned(source, None, key, query=query)
    chunk = ChunkRange(kind=RangeKind.KEYSET, columns=(key,))
    assert numbered(read_all(source, asked, chunk), value) == list(range(1, 9))
    server.sql(f"DROP TABLE {quoted[table]}")
    with pytest.raises(RivetFleetError):
        facts_of(source, table)


# ---------------------------------------------------------------- pages asked for at once

AT_ONCE = PageLimit(rows_max=100, bytes_max=1 << 20, pages_max=5, page_s=1e-9)
"""A page so short that the way to any server is worth five of them."""


@pytest.fixture
def afar(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any server is a distance away."""
    monkeypatch.setattr(server.near, 0.0)


def gapped(server: Server) -> str:
    """A key of two whole numbers with holes, few of a first one, and a gap of two billion."""
    if "gapped" not in server.kept:
        first = "3 * (i - i % 3) + CASE WHEN i > 1200 THEN 2000000000 ELSE 0 END"
        server.kept["gapped"] = server.table(
            "a bigint NOT NULL, b int NOT NULL, n bigint NOT NULL, PRIMARY KEY (a, b)",
            f"SELECT {first}, i % 3, i FROM numbers",
        )
    return str(server.kept["gapped"])


def ids(pages: list[Page]) -> list[int]:
    return [n for page in pages for n in page.batch.column(2).to_pylist()]


@pytest.mark.usefixtures("afar")
def test_pages_asked_for_at_once_hold_every_row(server: Server, source: Source) -> None:
    read = planned(source, gapped(server), "a", "b")
    chunk = ChunkRange(kind=RangeKind.KEYSET, columns=("a", "b"))
    pages = pages_of(source.open_chunk(read, chunk, TuningPlan()), AT_ONCE)
    assert ids(pages) == NUMBER_ROWS
    assert any(page.followed for page in pages) is server.trains
    in_pieces = replace(AT_ONCE, piece_rows_max=40, piece_bytes_max=1 << 20)
    pages = pages_of(source.open_chunk(read, chunk, TuningPlan()), in_pieces)
    assert ids(pages) == NUMBER_ROWS
    # And the rows of a query over that table, by its key.
    query = f"SELECT a, b, n FROM {server.kept['gapped']} WHERE n <> 7"
    read = planned(source, None, query=query)
    pages = pages_of(source.open_chunk(read, chunk, TuningPlan()), AT_ONCE)
    assert ids(pages) == [n for n in NUMBER_ROWS if n != 7]


@pytest.mark.usefixtures("afar")
def test_a_session_that_ends_while_pages_are_under_way_costs_no_row(
    server: Server, source: Source
) -> None:
    read = planned(source, gapped(server), "a", "b")
    chunk = ChunkRange(kind=RangeKind.KEYSET, columns=("a", "b"))
    reader = source.open_chunk(read, chunk, TuningPlan())
    pages = [reader.read_page(AT_ONCE), reader.read_page(AT_ONCE)]
    for session in server.sessions():
        server.kill(session)
    while not pages[-1].last:
        try:
            pages.append(reader.read_page(AT_ONCE))
        except SourceUnavailable:
            reader.reconnect()
    assert ids(pages) == NUMBER_ROWS


@pytest.mark.usefixtures("afar")
def test_a_reader_that_is_closed_leaves_nothing_under_way(server: Server, source: Source) -> None:
    read = planned(source, gapped(server), "a", "b")
    chunk = ChunkRange(kind=RangeKind.KEYSET, columns=("a", "b"))
    reader = source.open_chunk(read, chunk, TuningPlan())
    for _ in range(2):
        reader.read_page(AT_ONCE)
    reader.close()
    assert ids(pages_of(source.open_chunk(read, chunk, TuningPlan()), AT_ONCE)) == NUMBER_ROWS
