"""A window: which rows of an export a run reads at all, whatever its chunks are.

A window is ANDed to every statement of every strategy, so that any number of chunks and workers
share one set of rows and a resumed run reads exactly the same set (ADR 0011).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rivet_fleet.contracts.keys import KeyTuple, RelationName, shown_key


class WindowNulls(Enum):
    """What becomes of rows whose first window column is NULL."""

    OUTSIDE = "outside"
    INSIDE = "inside"
    ONLY = "only"
    """Nothing but those rows; then there are no bounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowBound:
    """One end. ``values`` are the server's own text, for the first of the window's columns or
    for all of them; several are compared as one row."""

    values: KeyTuple
    inclusive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RowWindow:
    """Rows between two bounds of ``columns``, compared as one row; None is an open end.

    With ``fallback`` the first column's value is ``COALESCE(column, fallback)``, computed by the
    server and never written to a file. ``empty`` is the window without any row.
    """

    columns: tuple[str, ...]
    fallback: str | None = None
    lower: WindowBound | None = None
    upper: WindowBound | None = None
    nulls: WindowNulls = WindowNulls.OUTSIDE
    empty: bool = False

    def __post_init__(self) -> None:
        if not self.columns:
            raise ValueError("a window needs a column")
        for bound in (self.lower, self.upper):
            if bound is not None and not 1 <= len(bound.values) <= len(self.columns):
                raise ValueError(
                    f"{len(bound.values)} bound values for {len(self.columns)} window columns"
                )
        if self.nulls is WindowNulls.ONLY and (self.lower or self.upper):
            raise ValueError("a window of NULLs alone has no bounds")


def describe_window(window: RowWindow) -> str:
    """One short human line for a window, for plans, status and messages."""
    first, *rest = window.columns
    if window.fallback is not None:
        first = f"coalesce({first}, {window.fallback})"
    if window.empty:
        return f"no rows: nothing new by {first}"
    if window.nulls is WindowNulls.ONLY:
        return f"{first} is null"
    low, high = window.lower, window.upper
    opened = "[" if low is not None and low.inclusive else "("
    closed = "]" if high is not None and high.inclusive else ")"
    ends = (
        ("-∞" if low is None else shown_key(low.values)),
        ("∞" if high is None else shown_key(high.values)),
    )
    nulls = " or null" if window.nulls is WindowNulls.INSIDE else ""
    return f"({', '.join((first, *rest))}) in {opened}{ends[0]}; {ends[1]}{closed}{nulls}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewestRequest:
    """What is asked of a source before a window can be drawn: its greatest row of ``columns``,
    of those above ``above`` when that is given. With ``overlap_s`` the source also says which
    cursor lies so many seconds below ``above``. ``whole``: all of ``columns`` are the cursor,
    else the first alone.
    """

    relation: RelationName | None
    query: str | None
    columns: tuple[str, ...]
    fallback: str | None = None
    above: KeyTuple | None = None
    overlap_s: float = 0.0
    whole: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Newest:
    """``values``: the greatest row whose cursor is a finite value, None when there is none.

    ``nulls``: some row's cursor is NULL. ``endless``: some row's cursor is infinite or not a
    number. ``overlap``: the value the overlap begins at, None when there is no such value.

    Where nothing is above the mark: ``below`` is the greatest row there is when its cursor lies
    below the mark's, ``vacant`` says that no row has a cursor at all.
    """

    values: KeyTuple | None
    nulls: bool = False
    endless: bool = False
    overlap: str | None = None
    below: KeyTuple | None = None
    vacant: bool = False
