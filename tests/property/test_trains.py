"""Pages that are asked for at once (ADR 0031) are a partition of the rows: whatever the keys'
density is, whoever inserts and deletes meanwhile, and wherever one of them fails or is left."""

from __future__ import annotations

import random
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rivet_fleet.contracts.keys import ChunkRange, RangeKind, RelationName
from rivet_fleet.contracts.plan import ReadPlan, TuningPlan
from rivet_fleet.errors import MalformedData, SourceUnavailable, StopRequested, ValueTooLarge
from rivet_fleet.execution.chunkreader import PagedReader
from rivet_fleet.execution.extract import Pages
from rivet_fleet.execution.servo import Allowance, PageServo
from rivet_fleet.execution.source import Page, PageLimit
from rivet_fleet.execution.types import Footing
from tests.property.test_progress import ID, Engine, Pacer, Row, Statement

STEADY = settings(deadline=None, derandomize=True, max_examples=150)


@dataclass
class Wire(Statement):
    """A statement on the one connection: what is left in the middle ends it."""

    connection: Connection = field(default_factory=lambda: Connection())

    def receive(self, *, rows_max: int | None, bytes_max: int | None) -> None:
        assert self.connection.reads in (self, None), "two statements at once"
        assert not self.connection.closed, "a page of a connection that was given up"
        self.connection.reads = self
        super().receive(rows_max=rows_max, bytes_max=bytes_max)
        if self.ended:
            self.connection.reads = None

    def abandon(self) -> None:
        if not self.ended:
            self.connection.closed, self.connection.reads = True, None
        super().abandon()


class Connection:
    closed = False
    reads: Wire | None = None
    under_way = 0


class Trains(Engine):
    """A ``ReadingEngine`` that takes several statements at once; rows may change before each."""

    def __init__(
        self, rows: list[Row], failures: dict[int, int], at_once: int, changes: Any = None
    ) -> None:
        super().__init__(rows, failures)
        self.at_once, self.changes = at_once, changes
        self.connection = Connection()
        self.trains: list[int] = []

    def pages_at_once(self, page_s: float) -> int:
        return self.at_once

    def _fresh(self) -> Connection:
        assert not self.connection.under_way, "another statement while pages are under way"
        if self.connection.closed:
            self.connection = Connection()
        return self.connection

    def open_stream(self, *arguments: Any, **named: Any) -> Wire:
        self._fresh()
        return self._open(*arguments, **named)

    def _open(self, *arguments: Any, **named: Any) -> Wire:
        if self.changes is not None:
            self.changes(self)
        made = super().open_stream(*arguments, **named)
        return Wire(made.rows, made.fails_at_bytes, made.as_text, connection=self.connection)

    def open_train(
        self, selects: Any, columns: Any, walk: Any, *, packed: bool
    ) -> Generator[Wire, None, None]:
        connection = self._fresh()
        self.trains.append(len(selects))
        try:
            for left in range(len(selects) - 1, -1, -1):
                connection.under_way = left
                yield self._open(selects[-1 - left], columns, walk, packed=packed)
        finally:
            connection.closed = connection.closed or connection.under_way > 0
            connection.under_way = 0

    def reconnect(self) -> None:
        self.connection = Connection()


def reader_of(engine: Engine, chunk: ChunkRange) -> PagedReader:
    plan = ReadPlan(
        source="s",
        engine="postgres",
        source_identity="",
        relation=RelationName(schema="public", name="rows"),
        query=None,
        columns=(ID,),
    )
    return PagedReader(engine, plan, chunk, Footing(plan, chunk, lambda: ()), row_bytes_max=40_000)


BY_ID = ChunkRange(kind=RangeKind.KEYSET, columns=("id",))


def pages_of(reader: PagedReader, limits: list[PageLimit]) -> Generator[Page, None, None]:
    """Every page to the chunk's end; one that fails is read again."""
    for number in range(10_000):
        try:
            page = reader.read_page(limits[number % len(limits)])
        except SourceUnavailable:
            reader.reconnect()
            continue
        yield page
        if page.last:
            return
    raise AssertionError("it never ends")


GAPS = st.lists(st.sampled_from([1, 1, 1, 2, 5, 40, 1_000_000_007]), min_size=1, max_size=120)
LIMITS = st.lists(
    st.builds(
        PageLimit,
        rows_max=st.integers(1, 30),
        bytes_max=st.sampled_from([100, 5_000, 1 << 20]),
        piece_rows_max=st.none() | st.just(7),
        piece_bytes_max=st.just(1 << 20),
        pages_max=st.integers(1, 6),
        page_s=st.just(0.1),
    ),
    min_size=1,
    max_size=4,
)


@STEADY
@given(
    gaps=GAPS,
    limits=LIMITS,
    ends=st.tuples(st.none() | st.integers(0, 150), st.none() | st.integers(0, 150)),
    failing=st.dictionaries(st.integers(0, 60), st.integers(0, 400), max_size=5),
)
def test_pages_asked_for_at_once_are_a_partition(gaps, limits, ends, failing) -> None:
    keys, at = [], 0
    for gap in gaps:
        at += gap
        keys.append(at)
    lower, upper = (None if end is None else (str(end),) for end in ends)
    chunk = ChunkRange(kind=RangeKind.KEYSET, columns=("id",), lower=lower, upper=upper)
    engine = Trains([Row(key, 20) for key in keys], failing, at_once=6)
    found = [
        key
        for page in pages_of(reader_of(engine, chunk), limits)
        for key in page.batch.column(0).to_pylist()
    ]
    wanted = [
        key
        for key in keys
        if (lower is None or key >= int(lower[0])) and (upper is None or key < int(upper[0]))
    ]
    assert sorted(found) == wanted


@STEADY
@given(seed=st.integers(0, 1 << 30), rows=st.integers(30, 200), limits=LIMITS)
def test_a_row_that_nobody_touches_comes_once_whatever_others_do(seed, rows, limits) -> None:
    """Rows with odd keys stay; those with even ones come and go before every statement."""
    chance = random.Random(seed)
    stay = [2 * n + 1 for n in range(rows)]

    def churn(engine: Engine) -> None:
        others = chance.sample(range(0, 2 * rows, 2), chance.randint(0, rows))
        engine.rows = [Row(key, 20) for key in sorted([*stay, *others])]

    engine = Trains([Row(key, 20) for key in stay], {}, at_once=6, changes=churn)
    found = [
        key
        for page in pages_of(reader_of(engine, BY_ID), limits)
        for key in page.batch.column(0).to_pylist()
    ]
    assert [key for key in sorted(found) if key % 2] == stay
    assert len(found) == len(set(found))


AT_ONCE = PageLimit(rows_max=10, bytes_max=1 << 20, pages_max=4, page_s=0.1)


def dense(rows: int, **named: Any) -> Trains:
    return Trains([Row(n, 20) for n in range(1, rows + 1)], {}, at_once=4, **named)


def test_a_train_needs_to_know_how_dense_keys_are() -> None:
    engine = dense(100)
    reader = reader_of(engine, BY_ID)
    first = reader.read_page(AT_ONCE)
    assert (first.followed, first.asked_rows, engine.trains) == (False, None, [])
    second = reader.read_page(AT_ONCE)
    assert (second.followed, second.asked_rows, engine.trains) == (True, 10, [4])
    # The last one has no reckoned end: it passes whatever gap there is.
    rows = [second, *(reader.read_page(AT_ONCE) for _ in range(3))]
    assert [page.batch.num_rows for page in rows] == [8, 9, 9, 10]
    assert [page.followed for page in rows] == [True, True, True, False]


def test_pages_that_have_become_too_large_are_left() -> None:
    engine = dense(100)
    reader = reader_of(engine, BY_ID)
    pages = [reader.read_page(AT_ONCE), reader.read_page(AT_ONCE)]
    connection = engine.connection
    pages.append(reader.read_page(PageLimit(rows_max=2, bytes_max=1 << 20)))
    assert connection.closed and engine.connection is not connection
    assert (pages[-1].batch.num_rows, pages[-1].followed) == (2, False)
    pages += pages_of(reader, [PageLimit(rows_max=2, bytes_max=1 << 20)])
    found = [key for page in pages for key in page.batch.column(0).to_pylist()]
    assert found == list(range(1, 101))


def test_pages_that_were_asked_for_long_ago_are_left(monkeypatch) -> None:
    engine = dense(100)
    reader = reader_of(engine, BY_ID)
    for _ in range(2):
        reader.read_page(AT_ONCE)
    monkeypatch.setattr("rivet_fleet.execution.chunkreader._AHEAD_S_MAX", 0.0)
    connection = engine.connection
    reader.read_page(AT_ONCE)
    assert connection.closed


def test_behind_a_failure_pages_are_read_one_by_one() -> None:
    engine = dense(100)
    engine.failures = {2: 100}
    reader = reader_of(engine, BY_ID)
    found = [
        key for page in pages_of(reader, [AT_ONCE]) for key in page.batch.column(0).to_pylist()
    ]
    assert found == list(range(1, 101))
    assert engine.trains == [4]


def test_a_reader_that_is_closed_between_two_pages_leaves_nothing_under_way() -> None:
    engine = dense(100)
    reader = reader_of(engine, BY_ID)
    for _ in range(2):
        reader.read_page(AT_ONCE)
    with pytest.raises(StopRequested):
        raise StopRequested("stop")
    reader.close()
    assert engine.connection.closed


def test_a_row_too_wide_in_a_train_is_named_by_its_own_key() -> None:
    """Also where keys were denser than reckoned, and pages before it left a rest behind."""
    keys = [*range(1, 29, 3), *range(29, 120)]
    engine = Trains([Row(key, 100_000 if key == 53 else 20) for key in keys], {}, at_once=4)
    reader = reader_of(engine, BY_ID)
    with pytest.raises(ValueTooLarge, match=r"\(id\) = \(53\)"):
        list(pages_of(reader, [replace(AT_ONCE, bytes_max=2_000)]))
    assert engine.trains == [4]


def test_rows_from_beyond_a_reckoned_end_are_refused() -> None:
    engine = dense(100)
    reader = reader_of(engine, BY_ID)
    reader.read_page(AT_ONCE)
    engine.rows = [Row(key, 20) for key in range(1, 101)]
    open_stream = engine._open

    def careless(select: Any, *arguments: Any, **named: Any) -> Wire:
        where = tuple(one for one in select.where if "<" not in one)
        return open_stream(
            type(select)(
                columns=select.columns, source=select.source, where=where, limit=select.limit
            ),
            *arguments,
            **named,
        )

    engine._open = careless  # type: ignore[method-assign]
    with pytest.raises(MalformedData, match="whole number"):
        reader.read_page(AT_ONCE)


class Settled(PageServo):
    """Every page may be one of ten rows, and of four at once."""

    def limit(self, *_: Allowance) -> PageLimit:
        return AT_ONCE


class Watching(Pacer):
    """Asks whether anything is under way whenever it could wait."""

    def __init__(self, engine: Trains) -> None:
        super().__init__([Allowance()])
        self.engine, self.waits = engine, 0

    def allowance(self) -> Allowance:
        assert not self.engine.connection.under_way
        return super().allowance()

    def wait(self, seconds: float) -> None:
        assert not self.engine.connection.under_way
        self.waits += 1


def test_protection_is_asked_between_trains_and_never_within() -> None:
    engine = dense(100)
    pacer = Watching(engine)
    tuning = TuningPlan(throttle_ms=1.0, retry_backoff_ms=1.0)
    pages = Pages(reader_of(engine, BY_ID), tuning, pacer, lambda: 0.0, Settled(150, 0))
    found: list[int] = []
    while not pages.ended:
        found += pages.next().column(0).to_pylist()
        if pages.between:
            pages.throttle()
    assert found == list(range(1, 101))
    assert pacer.asked == pacer.waits == 1 + len(engine.trains)
    assert len(engine.trains) == 3
