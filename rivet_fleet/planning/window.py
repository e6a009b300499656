"""Which rows an incremental or windowed run reads: the cursor, its key, the sealed window. Pure.

The window is decided here once and read by everybody (ADR 0011, W1 to W4, W7).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from rivet_fleet.contracts.columns import MOMENTS, TypeKind
from rivet_fleet.contracts.facts import ColumnFacts, SourceFacts, leading_index
from rivet_fleet.contracts.keys import ChunkRange, KeyTuple, RangeKind
from rivet_fleet.contracts.window import (
    MARK_ABOVE,
    MARK_OTHER,
    CursorPlan,
    Newest,
    NewestRequest,
    RowWindow,
    WindowBound,
    describe_mark,
    describe_window,
    mark_text,
    mark_values,
)
from rivet_fleet.planning.candidates import (
    INTEGERS,
    column_of,
    has_inheriting_children,
    key_facts,
    led_by,
    named,
    usable_keys,
)
from rivet_fleet.planning.config.models import ExportConfig
from rivet_fleet.planning.config.problems import did_you_mean
from rivet_fleet.planning.cuts import Refusal, whole_range
from rivet_fleet.planning.request import is_cut
from rivet_fleet.planning.strategy import Choice, choose

# ------------------------------------------------------------------------------------------
# What a cursor can tell and what it cannot: which types rise, which rows stay unseen. Pure.

RISING_KINDS = INTEGERS | MOMENTS | frozenset({TypeKind.DECIMAL})
"""Types whose values are handed out in their own order, as a rule. Text and uuid have an order,
but nobody hands them out by it: what comes later lies below the mark as often as above."""

_UPDATED = re.compile(r"(^|_)(updat|modif|chang|edit|touch|refresh)(e|ed|y|ied|ication|)(_|$)")


def name_suggests_updated(name: str) -> bool:
    """``updated_at``, ``last_update``, ``modifiedOn``: a name for when a row changed."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return _UPDATED.search(words) is not None


def is_update_mark(column: ColumnFacts) -> bool:
    """True when the server moves the column with every update, as far as it tells."""
    if column.set_on_update is None:
        return name_suggests_updated(column.name)
    return column.set_on_update


def not_rising(export: ExportConfig, setting: str, facts: SourceFacts, name: str) -> Refusal | None:
    """Why a column is no cursor although it has an order; None when it is one, or
    ``cursor_is_monotonic`` says so."""
    column = column_of(facts, name)
    if column is None or column.compared in RISING_KINDS or export.cursor_is_monotonic:
        return None
    return Refusal(
        setting=setting,
        reason=f"column {name} ({column.native_type}) does not rise by itself: rows that come "
        "later with a value below the mark would never be read, and nothing would fail"
        + _whatever_is_sent(column),
        suggestion="cursor_is_monotonic: true says that each new value is greater than all before "
        "it, as with ULIDs and UUIDs of version 7; else use a moment or a number, or mode: full",
    )


def unseen_by(
    export: ExportConfig, facts: SourceFacts, columns: tuple[str, ...], fallback: str | None
) -> str:
    """One sentence: which rows an export with this cursor never delivers."""
    if export.keyset_incremental:
        name = ", ".join(columns)
        missed = ["every update of a row that was read", "deletes", _late(name, export)]
    else:
        name = columns[0]
        shown = name if fallback is None else f"coalesce({name}, {fallback})"
        column = column_of(facts, name)
        missed = [_updates(name, column), "deletes", _late(shown, export)]
        name = shown
    return f"what {name} cannot see is never delivered: {'; '.join(filter(None, missed))}"


def _updates(name: str, column: ColumnFacts | None) -> str:
    if column is not None and is_update_mark(column):
        return ""
    if name_suggests_updated(name):
        return f"updates that leave {name} as it is (nothing on the server is known to set it)"
    return f"updates of rows below the mark (nothing says that {name} changes with its row)"


def _late(name: str, export: ExportConfig) -> str:
    if export.cursor_overlap_s:
        return f"rows that are committed more than {export.cursor_overlap_s:g} s after their {name}"
    help_ = "" if export.keyset_incremental else "; cursor_overlap_s reads some of them again"
    return f"rows that are committed below the mark, after a run that read above them{help_}"


CURSOR_KINDS = RISING_KINDS | frozenset({TypeKind.UUID, TypeKind.STRING, TypeKind.BINARY})
"""Types whose text the server turns back into the same value, in an order of its own. What counts
is the column's own type: ``columns:`` changes what is sent, and neither how rows are compared nor
what a mark holds."""
UNIX_KINDS = INTEGERS | frozenset({TypeKind.DECIMAL})
DAY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """What is compared: ``columns`` is the cursor and the key behind it."""

    mode: str
    setting: str
    columns: tuple[str, ...]
    fallback: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Moving:
    """What was found out about a cursor: the stored mark with its binding, and the source's
    newest row."""

    mark: str | None
    newest: Newest
    binding: str | None = None
    elsewhere: str | None = None
    """Without a mark: how far Rivet has read the export, by its own state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Windowed:
    """The decided window; ``cursor`` None for a window that leaves no mark."""

    window: RowWindow
    cursor: CursorPlan | None = None
    warnings: tuple[str, ...] = ()
    beyond: str | None = None
    """What is wrong with a mark that lies above everything; None when it does not."""
    unseen: str | None = None
    """Which rows no run will ever deliver, in one sentence; None for a window without a mark."""


def reads_window(export: ExportConfig) -> bool:
    """True when the export reads only a part of its rows."""
    return export.mode in ("incremental", "time_window") or export.keyset_incremental


def cursor_of(export: ExportConfig, facts: SourceFacts) -> Cursor | Refusal | None:
    """The export's cursor, or why it cannot be one; None when it has none."""
    if export.mode == "time_window":
        return _time_column(export, facts)
    if export.keyset_incremental:
        columns = export.chunk_by_key or ()
        found = _first_refused("chunk_by_key", facts, columns)
        found = found or not_rising(export, "chunk_by_key", facts, columns[0])
        return found or Cursor(mode="key", setting="chunk_by_key", columns=columns)
    if export.mode != "incremental" or export.cursor_column is None:
        return None
    name, fallback = export.cursor_column, export.cursor_fallback_column
    refused = _first_refused("cursor_column", facts, (name,))
    refused = refused or not_rising(export, "cursor_column", facts, name)
    if refused is None and fallback is not None:
        refused = _first_refused("cursor_fallback_column", facts, (fallback,))
        refused = refused or _unlike(facts, name, fallback)
    if refused is not None:
        return refused
    if export.cursor_overlap_s and _kind_of(facts, name) not in MOMENTS:
        return Refusal(
            setting="cursor_overlap_s",
            reason=f"column {name} is not read as a date or a moment: no seconds lie below it",
            suggestion="remove it, or use a moment as cursor_column",
        )
    columns = (name,)
    if not (fallback is None and _is_key(facts, columns)):
        columns += tuple(one for one in _tie_breaker(export, facts) if one != name)
    mode = "single_column" if fallback is None else "coalesce"
    return Cursor(mode=mode, setting="cursor_column", columns=columns, fallback=fallback)


def newest_request(
    export: ExportConfig, facts: SourceFacts, query: str | None, mark: str | None
) -> NewestRequest | None:
    """What has to be asked of the source; None when nothing has, or nothing can be."""
    cursor = cursor_of(export, facts)
    if not isinstance(cursor, Cursor):
        return None
    if export.mode == "time_window" and not led_by(facts, cursor.columns[0]):
        return None  # a scan of the table, only to say what may be NULL
    values = None if mark is None else mark_values(mark, cursor.columns, cursor.fallback)
    return NewestRequest(
        relation=facts.relation,
        query=query if facts.relation is None else None,
        columns=cursor.columns,
        fallback=cursor.fallback,
        above=values,
        overlap_s=export.cursor_overlap_s or 0.0,
        whole=cursor.mode == "key",
    )


def window_of(
    export: ExportConfig, facts: SourceFacts, moving: Moving | None, now_s: float
) -> Windowed | Refusal | None:
    """The window of one run; None for an export that reads everything."""
    cursor = cursor_of(export, facts)
    if not isinstance(cursor, Cursor):
        return cursor
    nullable = any(c.nullable for c in facts.columns if c.name == cursor.columns[0])
    newest = moving.newest if moving is not None else Newest(values=None, nulls=nullable)
    warnings = _unseen(export, cursor, newest)
    if export.mode == "time_window":
        window = _since(export, facts, cursor.columns[0], now_s)
        return Windowed(window=window, warnings=(*warnings, *_cost(facts, cursor)))
    if moving is None:
        return Refusal(setting=cursor.setting, reason="the source was not asked what is new")
    mark = moving.mark
    before: KeyTuple | None = None
    if mark is not None:
        before = mark_values(mark, cursor.columns, cursor.fallback)
        if before is None:
            return _other_mark(export, cursor, mark)
    beyond = None if before is None else _beyond(export, cursor, before, newest)
    if beyond is not None and export.on_mark_above == "fail":
        return Refusal(
            setting="on_mark_above",
            reason=beyond,
            suggestion="on_mark_above: warn lets it run, and deliver nothing",
            code=MARK_ABOVE,
        )
    # The source was asked for rows above the mark: none, and the mark stays where it is, even
    # when the rows it came from are gone.
    after = newest.values or before
    lower = _lower(before, newest)
    window = RowWindow(
        columns=cursor.columns,
        fallback=cursor.fallback,
        lower=lower,
        upper=None if after is None else WindowBound(values=after, inclusive=True),
        empty=after is None or (before == after and newest.overlap is None),
    )
    plan = CursorPlan(
        mode=cursor.mode,
        columns=cursor.columns,
        fallback=cursor.fallback,
        overlap_s=export.cursor_overlap_s or 0.0,
        mark_before=mark,
        binding_before=moving.binding,
        mark_after=None if after is None else mark_text(cursor.columns, cursor.fallback, after),
    )
    warnings += [*_ahead(facts, cursor, after, now_s), *_coarse(export, facts, cursor, after)]
    if not window.empty:
        warnings += _cost(facts, cursor)
    return Windowed(
        window=window,
        cursor=plan,
        warnings=tuple(warnings),
        beyond=beyond,
        unseen=unseen_by(export, facts, cursor.columns, cursor.fallback),
    )


def _lower(before: KeyTuple | None, newest: Newest) -> WindowBound | None:
    if before is None:
        return None
    if newest.overlap is not None:
        return WindowBound(values=(newest.overlap,), inclusive=True)
    return WindowBound(values=before, inclusive=False)


def _since(export: ExportConfig, facts: SourceFacts, name: str, now_s: float) -> RowWindow:
    """``[now - days_window, ∞)`` in UTC; a date counts as a whole day."""
    days = export.days_window or 0
    if export.time_column_type == "unix":
        cutoff = str(int(now_s) - days * DAY_S)
    else:
        moment = datetime.fromtimestamp(int(now_s), tz=UTC) - timedelta(days=days)
        dated = _kind_of(facts, name) is TypeKind.DATE
        cutoff = moment.strftime("%Y-%m-%d" if dated else "%Y-%m-%d %H:%M:%S")
    return RowWindow(columns=(name,), lower=WindowBound(values=(cutoff,), inclusive=True))


# ---------------------------------------------------------------- what can be a cursor


def _time_column(export: ExportConfig, facts: SourceFacts) -> Cursor | Refusal | None:
    name = export.time_column
    if name is None:
        return None
    unix = export.time_column_type == "unix"
    refused = _first_refused("time_column", facts, (name,), UNIX_KINDS if unix else MOMENTS)
    return refused or Cursor(mode="time_window", setting="time_column", columns=(name,))


def _first_refused(
    setting: str,
    facts: SourceFacts,
    columns: tuple[str, ...],
    kinds: frozenset[TypeKind] = CURSOR_KINDS,
) -> Refusal | None:
    names = [column.name for column in facts.columns]
    for name in columns:
        column = column_of(facts, name)
        if column is None:
            return Refusal(
                setting=setting,
                reason=f"there is no column {name!r}",
                suggestion=did_you_mean(name, names) or f"columns: {', '.join(names[:20])}",
            )
        if column.type is None or column.compared not in kinds:
            order = "moments or numbers of seconds" if setting == "time_column" else "text"
            return Refusal(
                setting=setting,
                reason=f"column {name} ({column.native_type}) cannot tell what is new: its values "
                f"have no exact order as {order}{_whatever_is_sent(column)}",
                suggestion=_use_instead(facts, kinds),
            )
    return None


def _whatever_is_sent(column: ColumnFacts) -> str:
    if column.uncast is None or (column.uncast.type and column.type == column.uncast.type):
        return ""
    return "; the source compares it as it is, whatever `columns:` makes of what is delivered"


def _use_instead(facts: SourceFacts, kinds: frozenset[TypeKind]) -> str | None:
    known = [column for column in facts.columns if column.type is not None]
    fit = [column.name for column in known if column.compared in kinds & MOMENTS]
    fit = fit or [column.name for column in known if column.compared in kinds]
    return f"columns that could: {', '.join(fit[:10])}" if fit else None


def _unlike(facts: SourceFacts, name: str, fallback: str) -> Refusal | None:
    if name != fallback and _kind_of(facts, name) is _kind_of(facts, fallback):
        return None
    first, second = column_of(facts, name), column_of(facts, fallback)
    native = f"{first and first.native_type} and {second and second.native_type}"
    return Refusal(
        setting="cursor_fallback_column",
        reason=f"{name} and {fallback} ({native}) must be two columns of one type: the server "
        "would compare others by rules of its own",
        suggestion="name a column of the cursor's type",
    )


def _kind_of(facts: SourceFacts, name: str) -> TypeKind | None:
    column = column_of(facts, name)
    return column.compared if column is not None else None


def _is_key(facts: SourceFacts, columns: tuple[str, ...]) -> bool:
    return any(index.columns == columns for index in usable_keys(facts))


def _tie_breaker(export: ExportConfig, facts: SourceFacts) -> tuple[str, ...]:
    """A key that tells rows with one cursor value apart; empty when none is proven."""
    if facts.relation is not None:
        keys = usable_keys(facts)
        return keys[0].columns if keys else ()
    asked = export.chunk_by_key or ()
    key = key_facts(facts, asked) if asked else None
    return asked if key is not None and key.unique and not key.has_nulls else ()


def _other_mark(export: ExportConfig, cursor: Cursor, mark: str) -> Refusal:
    first, *keys = cursor.columns
    shown = first if cursor.fallback is None else f"coalesce({first}, {cursor.fallback})"
    wanted = named((shown, *keys))
    return Refusal(
        setting=cursor.setting,
        reason=f"the stored mark is {describe_mark(mark)}, which says nothing about {wanted}",
        suggestion=f"`rivet-fleet state reset -e {export.name}` forgets it, and all is read anew",
        code=MARK_OTHER,
    )


# ---------------------------------------------------------------- what has to be said


def _unseen(export: ExportConfig, cursor: Cursor, newest: Newest) -> list[str]:
    first = cursor.columns[0]
    found = []
    if newest.nulls and cursor.fallback is not None:
        found.append(
            f"there are rows where both {first} and {cursor.fallback} are NULL: they are in no "
            "window and are never read"
        )
    elif newest.nulls:
        instead = (
            "; incremental_cursor_mode: coalesce gives them another column"
            if export.mode == "incremental"
            else ""
        )
        found.append(
            f"there are rows where {first} is NULL: they are in no window and are never read"
            + instead
        )
    if newest.endless and export.mode != "time_window":
        found.append(
            f"there are rows where {first} is infinite or not a number: such a value is never the "
            "mark, and its rows are never read"
        )
    if cursor.mode != "time_window" and not _tells_ties_apart(cursor, export):
        found.append(
            f"no key tells rows with the same {first} apart: a row that comes later with exactly "
            "the mark's value is not read; cursor_overlap_s or a unique NOT NULL key helps"
        )
    return found


def _tells_ties_apart(cursor: Cursor, export: ExportConfig) -> bool:
    return cursor.mode == "key" or len(cursor.columns) > 1 or bool(export.cursor_overlap_s)


def _beyond(export: ExportConfig, cursor: Cursor, mark: KeyTuple, newest: Newest) -> str | None:
    """A table below its own mark: every run would deliver nothing, for ever."""
    name = cursor.columns[0]
    if cursor.fallback is not None:
        name = f"coalesce({name}, {cursor.fallback})"
    shown = len(cursor.columns) if cursor.mode == "key" else 1
    at = ", ".join(mark[:shown])
    reset = (
        f"what is written below the mark is never read; `rivet-fleet state reset -e {export.name}` "
        "reads the table anew"
    )
    if newest.vacant:
        return (
            f"no row has a {name} any more, and the mark is {at}: the table was emptied, or is "
            f"being reloaded; {reset}"
        )
    if newest.below is None:
        return None
    return (
        f"the greatest {name} ({', '.join(newest.below[:shown])}) lies below the mark ({at}): the "
        "table was reloaded or restored, its newest rows were deleted, or its clock went back; "
        + reset
    )


def _cost(facts: SourceFacts, cursor: Cursor) -> tuple[str, ...]:
    if facts.relation is None or (cursor.fallback is None and led_by(facts, cursor.columns[0])):
        return ()
    rows = "" if facts.row_estimate is None else f" (about {facts.row_estimate:,} rows)"
    if cursor.fallback is not None:
        return (
            f"no index serves coalesce({cursor.columns[0]}, {cursor.fallback}): every run reads "
            f"the whole table{rows}",
        )
    return (
        f"no index begins with {cursor.columns[0]}: every run reads the whole table{rows} to find "
        "what is new",
    )


def _ahead(facts: SourceFacts, cursor: Cursor, after: KeyTuple | None, now_s: float) -> list[str]:
    """A mark in the future hides everything that is written before it."""
    name = cursor.columns[0]
    if after is None or _kind_of(facts, name) not in MOMENTS:
        return []
    tomorrow = datetime.fromtimestamp(now_s + DAY_S, tz=UTC).strftime("%Y-%m-%d")
    if after[0][:10] <= tomorrow or after[0].endswith("BC"):
        return []
    return [
        f"the newest {name} is {after[0]}, in the future: rows written with the present "
        "moment will be below the mark and are not read"
    ]


def _coarse(
    export: ExportConfig, facts: SourceFacts, cursor: Cursor, after: KeyTuple | None
) -> list[str]:
    """Whole seconds or days are shared by many rows: the mark's own may not be over yet."""
    name = cursor.columns[0]
    if after is None or export.cursor_overlap_s or _kind_of(facts, name) not in MOMENTS:
        return []
    if "." in after[0]:
        return []
    day = _kind_of(facts, name) is TypeKind.DATE
    return [
        f"{name} counts whole {'days' if day else 'seconds'}: a row that is written, or an old one "
        f"that is updated, later in the mark's own {'day' if day else 'second'} may lie below the "
        f"mark and is not read then; cursor_overlap_s: {86_400 if day else 1} reads that "
        f"{'day' if day else 'second'} again"
    ]


# ------------------------------------------------------------------------------------------
# How the rows of a window are read: along the cursor's index where one serves it. Pure.


def choose_windowed(
    export: ExportConfig, facts: SourceFacts, window: RowWindow
) -> Choice | Refusal:
    """The strategy of one export within its window."""
    within = describe_window(window)
    if window.empty:
        return _one(RangeKind.WHOLE, (), "whole", within)
    # Without a lower bound nearly every row is new: nothing is saved by the cursor's order.
    if window.lower is not None and (export.keyset_incremental or not is_cut(export)):
        along = _along(facts, window)
        if along is not None:
            return along
    found = choose(export, facts)
    if isinstance(found, Refusal):
        return found
    # How many of the table's rows are new is not known.
    known = window.lower is None
    estimates = found.estimates if known else (None,) * len(found.ranges)
    return replace(found, reason=f"{found.reason}; rows with {within}", estimates=estimates)


def _along(facts: SourceFacts, window: RowWindow) -> Choice | None:
    """One chunk in the cursor's own order: a run costs the rows it reads."""
    first = window.columns[0]
    if window.fallback is not None or facts.relation is None or not led_by(facts, first):
        return None
    if has_inheriting_children(facts):
        return None
    within = describe_window(window)
    if _walks(facts, window.columns):
        by = f"new rows in the order of {named(window.columns)}"
        return _one(RangeKind.KEYSET, window.columns, "keyset", f"{by}: {within}")
    # Equal values must be equal as text, or a page could end among them.
    if len(window.columns) == 1 and _kind_of(facts, first) in INTEGERS | MOMENTS:
        return _one(RangeKind.SPAN, (first,), "span", f"new rows in the order of {first}: {within}")
    return None


def _walks(facts: SourceFacts, columns: tuple[str, ...]) -> bool:
    """True when an index gives the rows in this order, unique in it. Behind a cursor's own index
    the primary key is the order of equal values, or few enough are sorted."""
    keys = [index.columns for index in usable_keys(facts)]
    if columns in keys:
        return True
    unique = any(set(key) <= set(columns) for key in keys)
    whole = leading_index(facts.indexes, columns) is not None
    primary = any(i.primary and i.columns == columns[1:] for i in usable_keys(facts))
    return unique and (whole or primary)


def _one(kind: RangeKind, columns: tuple[str, ...], strategy: str, reason: str) -> Choice:
    ranges = whole_range() if kind is RangeKind.WHOLE else [ChunkRange(kind=kind, columns=columns)]
    return Choice(strategy=strategy, reason=reason, ranges=tuple(ranges), estimates=(None,))
