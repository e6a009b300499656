"""A window as conditions of a statement: one place for every strategy and every engine."""

from __future__ import annotations

from dataclasses import replace

from rivet_fleet.contracts.keys import ChunkRange
from rivet_fleet.contracts.window import NewestRequest, RowWindow, WindowBound, WindowNulls
from rivet_fleet.execution.paging import KeyDialect, Select

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
