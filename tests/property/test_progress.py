"""Every statement moves a chunk on: random rows, limits and failures, and a bound on statements.

What is asked of the source is bounded by a function of the rows: a keyset chunk of n rows takes at
most n + 1 statements and one more for each that failed; ranges of a column that repeats at most
three times as many (a value too full for a page is met, then read alone).
"""

from __future__ import annotations

import bisect
import itertools
import math
import re
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.contracts.keys import ChunkRange, RangeKind, RelationName
from rivet_fleet.contracts.plan import ReadPlan, TuningPlan
from rivet_fleet.errors import RetryClass, SourceUnavailable, ValueTooLarge
from rivet_fleet.execution.chunkreader import PagedReader, text_column
from rivet_fleet.execution.extract import Pages
from rivet_fleet.execution.servo import Allowance
from rivet_fleet.execution.types import Footing

ID = ColumnSpec(
    name="id", native_type="bigint", type=ColumnType(kind=TypeKind.INT64), nullable=False
)
SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False)])
BLOCK_BYTES = 50
VALUE_BYTES_MAX = 1000
STEPS_OF_FLOODS = 5000


@dataclass
class Row:
    key: int
    width_bytes: int


@dataclass
class Statement:
    """A ``PageStream``: bytes come in blocks, a row is ready with its last byte."""

    rows: list[Row]
    fails_at_bytes: int | None
    as_text: bool
    wire_bytes: int = 0
    ended: bool = False
    seconds: float = 0.01
    statement_s: float = 0.01
    changed: dict[str, int] = field(default_factory=dict)
    floods: bool = False
    """Bytes come for ever behind the rows, and never an end."""
    taken: int = 0
    ends: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ends = list(itertools.accumulate(row.width_bytes for row in self.rows))

    def _complete(self) -> int:
        return bisect.bisect_right(self.ends, self.wire_bytes)

    @property
    def rows_ready(self) -> int:
        return self._complete() - self.taken

    def receive(self, *, rows_max: int | None, bytes_max: int | None) -> None:
        before, total = self.wire_bytes, self.ends[-1] if self.ends else 0
        while not self.ended:
            if rows_max is not None and self.rows_ready >= rows_max:
                return
            if bytes_max is not None and self.wire_bytes - before > bytes_max:
                return
            if self.fails_at_bytes is not None and self.wire_bytes >= self.fails_at_bytes:
                raise SourceUnavailable("gone", retry=RetryClass.RECONNECT)
            most = math.inf if self.floods else total
            self.wire_bytes = int(min(most, self.wire_bytes + BLOCK_BYTES))
            self.ended = self.wire_bytes == total and not self.floods

    def take(self, rows_max: int | None = None) -> pa.RecordBatch:
        upto = (
            self._complete() if rows_max is None else min(self._complete(), self.taken + rows_max)
        )
        keys = [row.key for row in self.rows[self.taken : upto]]
        self.taken = upto
        if self.as_text:
            return pa.record_batch([pa.array(map(str, keys), pa.string())], names=["k"])
        return pa.record_batch([pa.array(keys, pa.int64())], schema=SCHEMA)

    def abandon(self) -> None:
        self.ended = True


class Keys:
    """A ``KeyDialect`` of one number."""

    def column_ref(self, name: str) -> str:
        return name

    def key_list(self, columns: tuple[str, ...]) -> str:
        return ", ".join(columns)

    def row_comparison(self, columns: Any, operator: str, values: Any) -> str:
        return self.span_comparison(columns[0], operator, values[0])

    def span_comparison(self, column: str, operator: str, value: str) -> str:
        return f"{column} {operator} {value}"

    def coalesced_comparison(self, column: str, fallback: str, operator: str, value: str) -> str:
        raise AssertionError("no cursor here")

    def reckons(self, column: str) -> bool:
        return True


class Engine:
    """A ``ReadingEngine`` over given rows; it reads the SQL that pagers write with ``Keys``."""

    identity, keys, decodes_at_once = "rows", Keys(), True
    longest_statement_s = 0.01

    def __init__(
        self,
        rows: list[Row],
        failures: dict[int, int],
        floods: dict[int, int] | None = None,
    ) -> None:
        """``floods``: how many rows a statement gives before it floods."""
        self.rows, self.failures, self.floods = rows, failures, floods or {}
        self.asked = 0

    def carries_key(self, column: ColumnSpec) -> bool:
        return True

    def key_text(self, value: Any) -> str:
        return str(value)

    def hidden_column(self, name: str) -> ColumnSpec:
        return text_column(name, native_type="text", wire_type="25")

    def select_list(self, columns: Any, hidden_keys: Any) -> str:
        return "as text" if hidden_keys else "id"

    def from_item(self, relation: Any, query: Any, *, only: bool) -> str:
        return "rows"

    def open_stream(
        self, select: Any, columns: Any, walk: Any, *, packed: bool, held: bool = False
    ) -> Statement:
        sql = select.sql()
        rows = self.rows
        for operator, bound in re.findall(r"id (>=|>|<|=) (\d+)", sql):
            value = int(bound)
            holds = {
                ">": lambda key, v=value: key > v,
                ">=": lambda key, v=value: key >= v,
                "<": lambda key, v=value: key < v,
                "=": lambda key, v=value: key == v,
            }[operator]
            rows = [row for row in rows if holds(row.key)]
        limit = re.search(r"LIMIT (\d+)", sql)
        rows = rows[: int(limit[1])] if limit else rows
        as_text = "as text" in sql
        fails = None if as_text else self.failures.get(self.asked)
        flood = None if as_text else self.floods.get(self.asked)
        self.asked += not as_text
        if flood is not None:
            return Statement(rows[:flood], None, as_text, floods=True)
        return Statement(rows, fails, as_text)

    connected = True

    def pages_at_once(self, page_s: float) -> int:
        return 1

    def reconnect(self) -> None:
        """Nothing to do: a statement knows of no other."""


@dataclass
class Pacer:
    """Grants what it was told, in turns."""

    allowances: list[Allowance]
    retries: int = 0
    asked: int = 0

    def wait(self, seconds: float) -> None:
        """No time passes."""

    def retry_in_s(self, wait_s: float, lost_bytes: int, answer_bytes: int = 0) -> float:
        return wait_s

    def retried(self, error: Exception, attempt: int, wait_s: float) -> None:
        self.retries += 1

    def allowance(self) -> Allowance:
        self.asked += 1
        return self.allowances[self.asked % len(self.allowances)]


def read(rows: list[Row], kind: RangeKind, tuning: TuningPlan, pacer: Pacer, engine: Engine):
    plan = ReadPlan(
        source="s",
        engine="postgres",
        source_identity="",
        relation=RelationName(schema="public", name="rows"),
        query=None,
        columns=(ID,),
    )
    chunk = ChunkRange(kind=kind, columns=("id",) if kind is not RangeKind.WHOLE else ())
    footing = Footing(plan, chunk, lambda: ())
    reader = PagedReader(engine, plan, chunk, footing, row_bytes_max=tuning.max_row_bytes)
    pages = Pages(reader, tuning, pacer, lambda: 0.0)
    found: list[int] = []
    steps = 0
    flooded = STEPS_OF_FLOODS if engine.floods else 0
    while not pages.ended:
        batch = pages.next()
        steps += 1
        most = 3 * len(rows) + sum(r.width_bytes for r in rows) + 10 + flooded
        assert steps <= most, "it never ends"
        assert batch.num_rows or pages.progress.page_bytes or pages.between
        found += batch.column(0).to_pylist()
    return found


LIMITS = st.builds(
    Allowance,
    share=st.sampled_from([1.0, 0.25, 0.01]),
    rows_max=st.none() | st.integers(1, 50),
    bytes_max=st.none() | st.integers(1, 3000),
)
WIDTHS = st.sampled_from([1, 40, 400, 1000, 3000, 4 * VALUE_BYTES_MAX])


@settings(deadline=None)
@given(
    widths=st.lists(WIDTHS, min_size=1, max_size=25),
    kind=st.sampled_from([RangeKind.KEYSET, RangeKind.SPAN]),
    repeats=st.integers(1, 4),
    limits=st.lists(LIMITS, min_size=1, max_size=3),
    page_bytes=st.integers(1, 5000),
    failing=st.sets(st.integers(0, 30), max_size=6),
    fails_at_bytes=st.integers(0, 3000),
)
def test_statements_are_bounded_by_rows(
    widths, kind, repeats, limits, page_bytes, failing, fails_at_bytes
) -> None:
    unique = kind is RangeKind.KEYSET
    rows = [Row(n if unique else n // repeats, width) for n, width in enumerate(widths, 1)]
    # Two that fail in a row are the most that this many retries forgive.
    failures = {n: fails_at_bytes for n in failing if not {n - 1, n - 2} & failing}
    tuning = TuningPlan(batch_bytes_max=page_bytes, max_value_bytes=VALUE_BYTES_MAX, max_retries=3)
    engine, pacer = Engine(rows, failures), Pacer(limits)
    try:
        assert read(rows, kind, tuning, pacer, engine) == [row.key for row in rows]
    except SourceUnavailable:
        # All rows of one value are one statement that cannot be continued.
        assert not unique
    factor = 1 if unique else 3
    assert engine.asked <= factor * (len(rows) + 1) + pacer.retries


@settings(deadline=None)
@given(
    before=st.lists(WIDTHS, max_size=5),
    kind=st.sampled_from([RangeKind.KEYSET, RangeKind.SPAN, RangeKind.WHOLE]),
    limits=st.lists(LIMITS, min_size=1, max_size=3),
    page_bytes=st.integers(1, 5000),
)
def test_a_row_that_is_too_wide_is_refused_once_by_its_key(
    before, kind, limits, page_bytes
) -> None:
    # Where a streamed row begins is known to a page's worth of bytes.
    # A row that fits into a page is read anyway.
    widest = max(4 * VALUE_BYTES_MAX, 8 * page_bytes)
    widths = [*before, widest + 10_000, 1]
    rows = [Row(n, width) for n, width in enumerate(widths, 1)]
    tuning = TuningPlan(batch_bytes_max=page_bytes, max_value_bytes=VALUE_BYTES_MAX)
    engine = Engine(rows, {})
    with pytest.raises(ValueTooLarge) as caught:
        read(rows, kind, tuning, Pacer(limits), engine)
    place = f"number {len(before) + 1} of" if kind is RangeKind.WHOLE else f"= ({len(before) + 1})"
    assert place in caught.value.message
    assert caught.value.code == "RIVET_ROW_TOO_LARGE"
    assert caught.value.retry is RetryClass.PERMANENT
    assert engine.asked <= 3 * (len(rows) + 1)


@settings(deadline=None, max_examples=50)
@given(
    widths=st.lists(WIDTHS, min_size=1, max_size=25),
    kind=st.sampled_from([RangeKind.KEYSET, RangeKind.SPAN, RangeKind.WHOLE]),
    limits=st.lists(LIMITS, min_size=1, max_size=3),
    page_bytes=st.integers(1, 5000),
    floods=st.dictionaries(st.integers(0, 8), st.integers(0, 5), min_size=1),
)
def test_a_server_that_floods_is_left_after_as_many_statements_as_rows(
    widths, kind, limits, page_bytes, floods
) -> None:
    """What never ends is cut where rows came before it, and refused where none did."""
    rows = [Row(n, width) for n, width in enumerate(widths, 1)]
    tuning = TuningPlan(batch_bytes_max=page_bytes, max_value_bytes=VALUE_BYTES_MAX, max_retries=3)
    engine, pacer = Engine(rows, {}, floods), Pacer(limits)
    try:
        found = read(rows, kind, tuning, pacer, engine)
        assert found == [row.key for row in rows] or kind is RangeKind.WHOLE
    except ValueTooLarge as error:
        assert error.retry is RetryClass.PERMANENT
    assert engine.asked <= 3 * (len(rows) + 1) + pacer.retries
