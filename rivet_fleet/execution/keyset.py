"""Pages of a unique key, and which of them can be asked for before those before them have come.

What is left of a chunk is a list of stretches of the key's order. A page reads one of them from its
beginning, as far as its limit goes, and what it has read is gone from it. Of a key of whole numbers
a stretch can be divided ahead, at bounds that are reckoned from how dense the keys were: whatever
the density is there, the stretches are a partition of it (ADR 0031).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pyarrow as pa

from rivet_fleet.contracts.keys import ChunkRange, KeyTuple, shown_key
from rivet_fleet.errors import MalformedData
from rivet_fleet.execution.paging import (
    Accepted,
    KeyDialect,
    KeysOfRow,
    PageEnd,
    Progress,
    Select,
    Walk,
)
from rivet_fleet.execution.source import PageLimit

_FILL = 0.9
"""Pages whose ends are reckoned are to be so full: where keys are a little denser they fit."""
_RECKONED_MAX = 2**63 - 1
"""A larger number has another type, and a comparison with it may be none that an index serves."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """A place in the key's order: the values of a key, or where ``reckoned`` a number of its first
    column's alone."""

    values: KeyTuple
    reckoned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stretch:
    """Rows that are still to be read: ``lower`` is an operator and its mark, ``upper`` stands
    behind the last one; None is an open end."""

    lower: tuple[str, _Mark] | None
    upper: _Mark | None


class _Density:
    """How many rows there are for each number of the key's first column, by the last page."""

    def __init__(self) -> None:
        self.rows_each = 0.0
        self._first: int | None = None
        self._rows = 0

    def begin_page(self) -> None:
        self._first, self._rows = None, 0

    def add(self, first: KeyTuple, last: KeyTuple, rows: int) -> None:
        """Of the page that goes on. What stands between two pages has no rows, and tells nothing of
        those behind it."""
        if self._first is None:
            self._first = int(first[0])
        self._rows += rows
        self.rows_each = self._rows / (int(last[0]) - self._first + 1)


class KeysetPager:
    """Pages of a unique key: ``(k…) > last ORDER BY k… LIMIT n``."""

    cuttable = True
    piecewise = True
    streamed = False

    def __init__(
        self,
        dialect: KeyDialect,
        columns: str,
        source: str,
        chunk_range: ChunkRange,
        keys_of_row: KeysOfRow,
        *,
        index_walk: bool,
    ) -> None:
        self.walk = Walk.KEY if index_walk else Walk.ANY
        self._dialect = dialect
        self._columns, self._source, self._keys = columns, source, chunk_range.columns
        self._keys_of_row = keys_of_row
        lower, upper = chunk_range.lower, chunk_range.upper
        self._left = [
            _Stretch(
                lower=None if lower is None else (">=", _Mark(lower)),
                upper=None if upper is None else _Mark(upper),
            )
        ]
        self._at = 0
        """Which stretch the page reads whose rows come next."""
        self._progress = Progress(chunk_range.columns)
        self._density = _Density() if dialect.reckons(self._keys[0]) else None
        self._rows_max = self._asked = 0

    def select(self, limit: PageLimit) -> Select:
        """The next ``rows_max`` rows of the key's order, of the stretch that is being read."""
        self._rows_max = max(1, limit.rows_max)
        self._go_to(self._at if self._at < len(self._left) else 0)
        return self._select(self._left[self._at])

    def train(self, limit: PageLimit, pages: int) -> tuple[Select, ...]:
        """The last of them has no reckoned end: it goes on over whatever gap there is."""
        self._rows_max = max(1, limit.rows_max)
        self._join()
        self._divide(pages - len(self._left) + 1)
        self._go_to(0)
        return tuple(self._select(stretch) for stretch in self._left[:pages])

    def end(self, batch: pa.RecordBatch, *, changed: bool) -> PageEnd:
        """Behind the last row that arrived, or at the stretch's end. One comparison is denied
        outright, as the server does with the operator's own negator; of a row comparison only the
        other operator of its family is a range of the index."""
        rows, keys = batch.num_rows, self._keys
        if rows < self._asked:
            return PageEnd(rows=rows, within=(), last=len(self._left) == 1)
        if rows:
            mark = self._keys_of_row(batch, rows - 1)
        else:  # all of them were handed on
            lower = self._left[self._at].lower
            assert lower is not None, "rows that were accepted left a mark"
            mark = lower[1].values
        if len(keys) == 1:
            within = f"NOT ({self._dialect.row_comparison(keys, '>', mark)})"
        else:
            within = self._dialect.row_comparison(keys, "<=", mark)
        return PageEnd(rows=rows, within=(within,))

    def accept(
        self, batch: pa.RecordBatch, wire_bytes: int, *, cut: bool, changed: bool = False
    ) -> Accepted:
        """Go on behind the last row; fewer rows than are still asked for were the stretch's
        last."""
        rows, stretch = batch.num_rows, self._left[self._at]
        if rows:
            first, last = (self._keys_of_row(batch, row) for row in (0, rows - 1))
            self._check_place(stretch, first, last)
            self._progress.begins(first)
            operator, values = self._progress.to(">", last)
            self._left[self._at] = replace(stretch, lower=(operator, _Mark(values)))
            if self._density is not None:
                self._density.add(first, last, rows)
        # A page that was cut short has fewer rows than were asked for, too, and others follow.
        if not cut:
            if rows < self._asked:
                del self._left[self._at]
                self._go_to(self._at)
            else:
                self._go_to(self._at + 1)
        else:
            self._asked -= rows
        return Accepted(rows=rows, last=not self._left)

    # ------------------------------------------------------------ stretches

    def _go_to(self, at: int) -> None:
        self._at, self._asked = at, self._rows_max
        if self._density is not None:
            self._density.begin_page()

    def _join(self) -> None:
        """What was divided ahead and not read is one again."""
        joined: list[_Stretch] = []
        for stretch in self._left:
            upper = joined[-1].upper if joined else None
            if upper is not None and stretch.lower == (">=", upper):
                joined[-1] = replace(joined[-1], upper=stretch.upper)
            else:
                joined.append(stretch)
        self._left = joined

    def _divide(self, pages: int) -> None:
        """The last stretch into so many, none of which is expected to hold more than a page."""
        whole, density = self._left[-1], self._density
        if pages < 2 or density is None or density.rows_each <= 0 or whole.lower is None:
            return
        width = int(_FILL * self._rows_max / density.rows_each)
        if width < 1:
            return
        begin = int(whole.lower[1].values[0])
        end = _RECKONED_MAX if whole.upper is None else int(whole.upper.values[0])
        divided, lower = [], whole.lower
        for number in range(1, pages):
            bound = begin + number * width
            if bound >= min(end, _RECKONED_MAX):
                break
            mark = _Mark((str(bound),), reckoned=True)
            divided.append(_Stretch(lower=lower, upper=mark))
            lower = ">=", mark
        self._left = [*self._left[:-1], *divided, replace(whole, lower=lower)]

    def _check_place(self, stretch: _Stretch, first: KeyTuple, last: KeyTuple) -> None:
        """Rows outside of a reckoned stretch are another page's, too."""
        lower, upper = stretch.lower, stretch.upper
        before = lower is not None and lower[1].reckoned and int(first[0]) < _number(lower[1])
        if before or (upper is not None and upper.reckoned and int(last[0]) >= _number(upper)):
            raise MalformedData(
                f"chunk key ({', '.join(self._keys)}): a page between two bounds holds "
                f"{shown_key(first if before else last)!r}, which is not between them: the source "
                "does not compare this key as a whole number",
                hint="nothing of this chunk was delivered; cut the export by another key "
                "(`chunk_column`, `chunk_by_key`), or read it in one chunk (`mode: full`)",
                code="RIVET_KEY_NO_PROGRESS",
            )

    def _select(self, stretch: _Stretch) -> Select:
        where = []
        if stretch.lower is not None:
            where.append(self._compared(*stretch.lower))
        if stretch.upper is not None:
            where.append(self._compared("<", stretch.upper))
        return Select(
            columns=self._columns,
            source=self._source,
            where=tuple(where),
            order_by=self._dialect.key_list(self._keys),
            limit=self._rows_max,
            resumed=stretch.lower is not None
            and (stretch.lower[0] == ">" or stretch.lower[1].reckoned),
        )

    def _compared(self, operator: str, mark: _Mark) -> str:
        if mark.reckoned:
            return self._dialect.span_comparison(self._keys[0], operator, *mark.values)
        return self._dialect.row_comparison(self._keys, operator, mark.values)


def _number(mark: _Mark) -> int:
    return int(mark.values[0])
