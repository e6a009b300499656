"""How a chunk is cut into pages: pure state machines, one per kind of range, for every engine.

``select`` says what the next page reads and changes nothing; ``accept`` takes what arrived and
moves on. A page that failed is simply selected again: no row is seen twice, none is skipped.
SQL comes from the engine's ``KeyDialect``; what one engine alone can do (heap blocks) is a pager
in its own folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import NoReturn, Protocol

import pyarrow as pa

from rivet_fleet.contracts.keys import ChunkRange, KeyTuple, RangeKind, shown_key
from rivet_fleet.contracts.window import NewestRequest, RowWindow, WindowBound, WindowNulls
from rivet_fleet.errors import MalformedData
from rivet_fleet.execution.source import PageLimit

KeysOfRow = Callable[[pa.RecordBatch, int], KeyTuple]
"""The key values of one row of a batch, each as the server's text."""


class Walk(Enum):
    """How a page is meant to be read; an engine nudges its optimizer towards it."""

    ANY = "any"
    KEY = "key"
    """In the order of the key's index, so that a page costs only its own rows."""
    BLOCKS = "blocks"


class KeyDialect(Protocol):
    """The SQL of comparing and ordering chunk keys. Values are the server's own text."""

    def column_ref(self, name: str) -> str:
        """A column of what is read."""
        ...

    def key_list(self, columns: tuple[str, ...]) -> str:
        """What stands after ORDER BY."""
        ...

    def row_comparison(self, columns: tuple[str, ...], operator: str, values: KeyTuple) -> str:
        """``(k1, k2) > (v1, v2)`` in a form this engine's index can serve."""
        ...

    def span_comparison(self, column: str, operator: str, value: str) -> str:
        """One bound of a span; it may lie outside the column's type."""
        ...

    def coalesced_comparison(self, column: str, fallback: str, operator: str, value: str) -> str:
        """``COALESCE(column, fallback) > value``; both columns are of one type."""
        ...

    def reckons(self, column: str) -> bool:
        """True for whole numbers that are compared and ordered as such, and whose text is their
        digits: a bound between two of them can be reckoned."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Select:
    """One page's SELECT, in parts."""

    columns: str
    source: str
    where: tuple[str, ...] = ()
    order_by: str | None = None
    limit: int | None = None
    resumed: bool = False
    """True when the statement goes on behind rows that were read, in the order of its key."""
    proof: str | None = None
    """Instead of ``limit``: an expression of the engine's that limits nothing, and that fails the
    statement before its first row when what is read is not what was planned. As a limit it is
    evaluated even where no scan is left, because a policy or constraint excludes every row."""

    def sql(self) -> str:
        """The statement."""
        where = f" WHERE {' AND '.join(self.where)}" if self.where else ""
        order = f" ORDER BY {self.order_by}" if self.order_by else ""
        most = self.proof if self.limit is None else self.limit
        limit = f" LIMIT {most}" if most is not None else ""
        return f"SELECT {self.columns} FROM {self.source}{where}{order}{limit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """Which of the arrived rows belong to the page, and whether it was the last one."""

    rows: int
    last: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PageEnd:
    """Where a page ends: how many of the rows that arrived last belong to it, and what its rows
    fulfil besides its own conditions, which the rows of the next page do not. ``within`` is None
    for a page that nothing can be asked about; ``last`` when there is no next page."""

    rows: int
    within: tuple[str, ...] | None
    last: bool = False


class Pager(Protocol):
    """Cuts one chunk into statements."""

    @property
    def walk(self) -> Walk:
        """How the pages are meant to be read."""
        ...

    @property
    def cuttable(self) -> bool:
        """True when a page may be cut short after any row and continued behind it."""
        ...

    @property
    def piecewise(self) -> bool:
        """True when rows may be handed on while their statement goes on: ``accept`` takes each
        such piece as if the page had been cut behind it."""
        ...

    @property
    def streamed(self) -> bool:
        """True when the next statement may return any number of rows, in no order to continue
        in: they are handed on as they arrive, and ``accept`` is told of its end alone."""
        ...

    def select(self, limit: PageLimit) -> Select:
        """The next page's statement."""
        ...

    def train(self, limit: PageLimit, pages: int) -> tuple[Select, ...]:
        """The statements of the next pages, at most so many: those whose rows are known to be none
        of each other's before any has come (ADR 0031). ``accept`` and ``end`` are told of one
        after the other; whoever leaves before the last one asks anew."""
        ...

    def end(self, batch: pa.RecordBatch, *, changed: bool) -> PageEnd:
        """Where the page ends whose last rows these are, when nothing is cut off: what ``accept``
        will say, and nothing is moved. Changes nothing."""
        ...

    def accept(
        self, batch: pa.RecordBatch, wire_bytes: int, *, cut: bool, changed: bool = False
    ) -> Accepted:
        """What arrived for the statement last selected, or all that had not been handed on of
        it. ``changed``: a policy had to change some of its values; then the page holds all of the
        rows or none, so that they are counted exactly once."""
        ...


class Progress:
    """Whether a walk moves on. A bound rises with each page, so none can come again: where one
    does, the source reads our bound as another key, and the pages would never end or skip rows.

    Besides the last one, one of those that were is kept, a later one after twice as many pages
    (R. P. Brent's cycle finding): any circle is found, by two comparisons for each page.
    """

    def __init__(self, columns: tuple[str, ...]) -> None:
        self._columns = columns
        self._kept: tuple[str, KeyTuple] | None = None
        self._last: tuple[str, KeyTuple] | None = None
        self._steps, self._keep_at = 0, 1

    def to(self, operator: str, values: KeyTuple) -> tuple[str, KeyTuple]:
        """The walk goes on behind (or at) these values. Raises MalformedData when it went on
        there before."""
        bound = operator, values
        if bound in (self._kept, self._last):
            self._stands_still(values)
        self._last, self._steps = bound, self._steps + 1
        if self._steps == self._keep_at:
            self._kept, self._keep_at = bound, 2 * self._keep_at
        return bound

    def begins(self, values: KeyTuple) -> None:
        """The first row behind the last bound. Raises MalformedData when it is the bound's."""
        if (">", values) == self._last:
            self._stands_still(values)

    def _stands_still(self, values: KeyTuple) -> NoReturn:
        raise MalformedData(
            f"chunk key ({', '.join(self._columns)}): a page behind {shown_key(values)!r} holds "
            "that key again: the source does not compare this key as it orders it, or reads it "
            "as another one",
            hint="nothing of this chunk was delivered; cut the export by another key "
            "(`chunk_column`, `chunk_by_key`), or read it in one chunk (`mode: full`)",
            code="RIVET_KEY_NO_PROGRESS",
        )


class SpanPager:
    """Pages of a column that may repeat: a page never ends inside a run of equal values.

    A page asks for one row more than it may hold. When all of them arrive, the rows of the
    last value may be incomplete: they are left to the next page, which begins at that value.
    The width of a sub-span thus follows the density exactly, and gaps cost nothing. A single
    value with more rows than a page is read in one statement, streamed. Where values had to be
    changed the whole values are read once more without the last one: which rows the changes
    belong to is known of a statement, not of a row.
    """

    piecewise = False

    def __init__(
        self,
        dialect: KeyDialect,
        columns: str,
        source: str,
        chunk_range: ChunkRange,
        keys_of_row: KeysOfRow,
    ) -> None:
        self.walk = Walk.KEY
        self._dialect = dialect
        self._columns, self._source, self._range = columns, source, chunk_range
        self._keys_of_row = keys_of_row
        (self._column,) = chunk_range.columns
        self._from: tuple[str, KeyTuple | None] = (">=", chunk_range.lower)
        self._progress = Progress(chunk_range.columns)
        self._heavy: KeyTuple | None = None
        self._until: KeyTuple | None = None
        self._asked = 0

    @property
    def cuttable(self) -> bool:
        """A run of equal values has no order to continue in."""
        return self._heavy is None and self._until is None

    @property
    def streamed(self) -> bool:
        """All rows of one value may be any number."""
        return self._heavy is not None

    def select(self, limit: PageLimit) -> Select:
        """The next sub-span, or all rows of one over-full value."""
        if self._heavy is not None:
            where: tuple[str, ...] = (
                self._dialect.span_comparison(self._column, "=", *self._heavy),
            )
            return Select(columns=self._columns, source=self._source, where=where)
        operator, value = self._from
        # The first span is open below, and rows without a value are a chunk of their own.
        where = (f"{self._dialect.column_ref(self._column)} IS NOT NULL",)
        if value is not None:
            where = (self._dialect.span_comparison(self._column, operator, *value),)
        upper = self._until or self._range.upper
        if upper is not None:
            where = (*where, self._dialect.span_comparison(self._column, "<", *upper))
        if self._until is not None:
            return Select(columns=self._columns, source=self._source, where=where)
        self._asked = max(1, limit.rows_max) + 1
        return Select(
            columns=self._columns,
            source=self._source,
            where=where,
            order_by=self._dialect.column_ref(self._column),
            limit=self._asked,
        )

    def train(self, limit: PageLimit, pages: int) -> tuple[Select, ...]:
        """One: where the next begins is known when its last value has come."""
        return (self.select(limit),)

    def end(self, batch: pa.RecordBatch, *, changed: bool) -> PageEnd:
        """Before the last value that arrived, or at the end of the chunk or of the whole values."""
        rows = batch.num_rows
        if self._until is not None or rows < self._asked:
            return PageEnd(rows=rows, within=(), last=self._until is None)
        tail = self._keys_of_row(batch, rows - 1)
        kept = self._first_row_of(batch, tail)
        if kept == 0 or changed:
            return PageEnd(rows=0, within=None)
        beyond = self._dialect.span_comparison(self._column, ">=", *tail)
        return PageEnd(rows=kept, within=(f"NOT ({beyond})",))

    def accept(
        self, batch: pa.RecordBatch, wire_bytes: int, *, cut: bool, changed: bool = False
    ) -> Accepted:
        """Keep whole values only; remember where the next page begins."""
        rows = batch.num_rows
        if self._until is not None:
            self._from, self._until = self._progress.to(">=", self._until), None
            return Accepted(rows=rows, last=False)
        if self._heavy is not None:
            self._from, self._heavy = self._progress.to(">", self._heavy), None
            return Accepted(rows=rows, last=False)
        if rows < self._asked and not cut:
            return Accepted(rows=rows, last=True)
        if rows == 0:
            return Accepted(rows=0, last=False)
        tail = self._keys_of_row(batch, rows - 1)
        kept = self._first_row_of(batch, tail)
        if kept == 0:
            self._heavy = tail
        elif changed:
            self._until = tail
            return Accepted(rows=0, last=False)
        else:
            self._from = self._progress.to(">=", tail)
        return Accepted(rows=kept, last=False)

    def _first_row_of(self, batch: pa.RecordBatch, tail: KeyTuple) -> int:
        """The first row of the run of equal values at the end, by bisection."""
        low, high = 0, batch.num_rows - 1
        while low < high:
            middle = (low + high) // 2
            if self._keys_of_row(batch, middle) == tail:
                high = middle
            else:
                low = middle + 1
        return low


def _within(dialect: KeyDialect, chunk_range: ChunkRange) -> tuple[str, ...]:
    """What the rows of a SPAN or WINDOW fulfil: those without a value are outside of each."""
    (column,) = chunk_range.columns
    where = []
    if chunk_range.lower is not None:
        where.append(dialect.span_comparison(column, ">=", *chunk_range.lower))
    if chunk_range.upper is not None:
        where.append(dialect.span_comparison(column, "<", *chunk_range.upper))
    return tuple(where) or (f"{dialect.column_ref(column)} IS NOT NULL",)


def range_conditions(dialect: KeyDialect, chunk_range: ChunkRange) -> tuple[str, ...]:
    """What a row of the range fulfils, to be joined by AND. Raises ValueError for BLOCKS: they
    are an engine's own."""
    if chunk_range.kind is RangeKind.BLOCKS:
        raise ValueError("a range of blocks has no conditions that every engine knows")
    if chunk_range.kind is RangeKind.KEYSET:
        keys, bounds = chunk_range.columns, ((">=", chunk_range.lower), ("<", chunk_range.upper))
        return tuple(
            dialect.row_comparison(keys, sign, bound) for sign, bound in bounds if bound is not None
        )
    if chunk_range.kind in (RangeKind.SPAN, RangeKind.WINDOW):
        return _within(dialect, chunk_range)
    if chunk_range.kind is RangeKind.NULLS:
        return tuple(f"{dialect.column_ref(name)} IS NULL" for name in chunk_range.columns)
    return ()


def whole_select(dialect: KeyDialect, columns: str, source: str, chunk_range: ChunkRange) -> Select:
    """All rows of a range in one statement, in no order."""
    where = range_conditions(dialect, chunk_range)
    return Select(columns=columns, source=source, where=where)


# ------------------------------------------------------------------------------------------
# A window as conditions of a statement: one place for every strategy and every engine.

NOTHING = "FALSE"
"""Every engine answers it without touching the table, and without an operator."""


def windowed(
    select: Select, dialect: KeyDialect, window: RowWindow | None, chunk_range: ChunkRange
) -> Select:
    """The statement, restricted to the window."""
    if window is None:
        return select
    if select.resumed and _passed(window, chunk_range):
        # An index scan starts at the first bound it is given: two of them, and every page
        # would walk again what the pages before it have read.
        window = replace(window, lower=None)
    return replace(select, where=(*select.where, *conditions(dialect, window)))


def conditions(dialect: KeyDialect, window: RowWindow) -> tuple[str, ...]:
    """What a row of the window fulfils, to be joined by AND."""
    if window.empty:
        return (NOTHING,)
    null = _null(dialect, window)
    if window.nulls is WindowNulls.ONLY:
        return (null,)
    bounds = [
        _bound(dialect, window, sign, bound)
        for sign, bound in ((">", window.lower), ("<", window.upper))
        if bound is not None
    ]
    if window.nulls is WindowNulls.INSIDE:
        return (f"({null} OR ({' AND '.join(bounds)}))",) if bounds else ()
    # A comparison with NULL is never true: the bounds keep NULLs out by themselves.
    return tuple(bounds) if bounds else (f"NOT ({null})",)


def compared_columns(window: RowWindow | None, chunk_range: ChunkRange) -> tuple[str, ...]:
    """Every column whose values a statement of this chunk may compare or order."""
    names = chunk_range.columns
    if window is not None:
        names += (*window.columns, *((window.fallback,) if window.fallback else ()))
    return tuple(dict.fromkeys(names))


def above(dialect: KeyDialect, request: NewestRequest) -> tuple[str, ...]:
    """What a row fulfils that is new since a mark: spelled as when it is read (CC7)."""
    if request.above is None:
        return ()
    lower = WindowBound(values=request.above, inclusive=False)
    window = RowWindow(columns=request.columns, fallback=request.fallback, lower=lower)
    return conditions(dialect, window)


def beneath(dialect: KeyDialect, request: NewestRequest) -> str:
    """The condition that a row's cursor lies below the mark's: the table was reloaded since."""
    assert request.above is not None
    count = len(request.columns) if request.whole else 1
    upper = WindowBound(values=request.above[:count], inclusive=False)
    window = RowWindow(columns=request.columns[:count], fallback=request.fallback, upper=upper)
    return " AND ".join(conditions(dialect, window))


def _null(dialect: KeyDialect, window: RowWindow) -> str:
    names = (window.columns[0], *((window.fallback,) if window.fallback else ()))
    return " AND ".join(f"{dialect.column_ref(name)} IS NULL" for name in names)


def _bound(dialect: KeyDialect, window: RowWindow, sign: str, bound: WindowBound) -> str:
    """``(c, k) > (…)``; with a fallback written out, because one side is an expression."""
    operator = f"{sign}=" if bound.inclusive else sign
    names = window.columns[: len(bound.values)]
    if window.fallback is None:
        return dialect.row_comparison(names, operator, bound.values)
    pair, value = (names[0], window.fallback), bound.values[0]
    if len(names) == 1:
        return dialect.coalesced_comparison(*pair, operator, value)
    beyond = dialect.coalesced_comparison(*pair, sign, value)
    equal = dialect.coalesced_comparison(*pair, "=", value)
    rest = dialect.row_comparison(names[1:], operator, bound.values[1:])
    return f"({beyond} OR ({equal} AND {rest}))"


def _passed(window: RowWindow, chunk_range: ChunkRange) -> bool:
    """Every row behind one of the window's rows, in the chunk's order, is above the lower bound."""
    if window.lower is None or window.fallback is not None:
        return False
    if window.nulls is not WindowNulls.OUTSIDE:
        return False
    count = len(window.lower.values)
    return chunk_range.columns[:count] == window.columns[:count]
