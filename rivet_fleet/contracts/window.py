"""Which rows of an export a run reads at all: windows, and the marks from which they go on.

A window is ANDed to every statement of every strategy, so that any number of chunks and workers
share one set of rows and a resumed run reads exactly the same set (ADR 0011).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from rivet_fleet.contracts.codec import canonical_json, dumps, from_plain
from rivet_fleet.contracts.foreign import flat
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
    position: str = ""
    """How far the server had come in what it repeats of others, in its own words, at this look at
    the latest; empty where it does not say."""


# ------------------------------------------------------------------------------------------
# What a high-water mark means, stored beside it: a value that fits one source, one table, one
# filter, one cursor and one place of delivery says nothing about any other (ADR 0020).

MARK_OTHER = "RIVET_MARK_OTHER"
"""The code of every refusal to go on from a mark that belongs to something else."""
MARK_ABOVE = "RIVET_MARK_ABOVE"
"""The code of the refusal to deliver nothing because the whole table lies below its mark."""
SHOWN_MAX = 120
SETTINGS_MAX = 1_000
"""Of a session's settings all are kept, to show those that differ."""


class Subject(Enum):
    """What a mark is bound to."""

    SOURCE = "source"
    RELATION = "relation"
    QUERY = "query"
    CURSOR = "cursor"
    KEY = "key"
    COLLATION = "collation"
    TYPE = "type"
    """What the values of the mark's columns are: the same text is another moment, or stands
    elsewhere in the order, where its column has become another type."""
    SESSION = "session"
    """The settings under which a query is read: they decide what its values are."""
    MODE = "mode"
    DESTINATION = "destination"
    FORMAT = "format"


UNCONTINUABLE = frozenset({Subject.CURSOR, Subject.KEY})
"""A mark holds no value of other columns: nobody can accept these."""
UNTOLD = frozenset({Subject.COLLATION, Subject.TYPE, Subject.SESSION})
"""What a source may not tell today, or an earlier program did not bind: then it is not compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """One subject. ``digest`` is of the exact value, ``shown`` is for people. ``told``: what a
    source says of itself; where both sides have it, it decides alone (B4), unless the source is
    ``replaceable``: one of several servers that may stand for each other, as replicas do."""

    subject: Subject
    shown: str
    digest: str
    told: str = ""
    replaceable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMark:
    """A mark as the state has it. ``binding``: as ``binding_text`` wrote it; None for a mark of
    a program that bound nothing."""

    value: str
    binding: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundChange:
    """A subject that is another one now. Empty: there was, or is, none."""

    subject: Subject
    before: str
    after: str

    @property
    def sentence(self) -> str:
        """What a person reads."""
        return f"{self.subject.value} was {self.before or 'none'} and is {self.after or 'none'}"


def bound(
    subject: Subject, value: object, shown: str, *, told: str = "", replaceable: bool = False
) -> Bound:
    """``value``: plain JSON, compared by its digest alone."""
    digest = "sha256:" + hashlib.sha256(canonical_json(value)).hexdigest()
    most = SETTINGS_MAX if subject is Subject.SESSION else SHOWN_MAX
    line = _cut(" ".join(shown.split()), most)
    return Bound(subject=subject, shown=line, digest=digest, told=told, replaceable=replaceable)


def bound_session(settings: Sequence[tuple[str, str]]) -> Bound:
    """The settings under which a query is read."""
    shown = _SEPARATOR.join(f"{name} {value}" for name, value in settings)
    return bound(Subject.SESSION, sorted(settings), shown)


_SEPARATOR = "; "


def _cut(line: str, most: int) -> str:
    return line if len(line) <= most else line[: most - 1] + "…"


def binding_text(binding: Sequence[Bound]) -> str | None:
    """As it is stored; None for a binding that says nothing."""
    return dumps(tuple(binding)) if binding else None


def stored_binding(text: str | None) -> tuple[Bound, ...]:
    """What ``binding_text`` wrote; empty when nothing was."""
    return () if text is None else tuple(from_plain(Bound, one) for one in json.loads(text))


def differences(before: Sequence[Bound], now: Sequence[Bound]) -> tuple[BoundChange, ...]:
    """Which subjects a mark was bound to otherwise (B1): the one guard against a mark of another
    source. A mark without any binding differs from nothing: it is adopted."""
    if not before or not now:
        return ()
    was, is_now = ({one.subject: one for one in side} for side in (before, now))
    found: list[BoundChange] = []
    for subject in Subject:
        old, new = was.get(subject), is_now.get(subject)
        if old is not None and new is not None and same(old, new):
            continue
        if subject in UNTOLD and (old is None or new is None):
            continue
        if subject is Subject.TYPE and any(one.subject in UNCONTINUABLE for one in found):
            continue  # of other columns, and that is said
        if old is not None or new is not None:
            shown = (old.shown if old else "", new.shown if new else "")
            if subject is Subject.SESSION:
                shown = (_apart(*shown), _apart(*reversed(shown)))
            found.append(BoundChange(subject=subject, before=shown[0], after=shown[1]))
    return tuple(found)


def _apart(shown: str, other: str) -> str:
    """The settings of one session that the other has not, or has otherwise."""
    there = other.split(_SEPARATOR)
    return _SEPARATOR.join(one for one in shown.split(_SEPARATOR) if one not in there)


def same(before: Bound, now: Bound) -> bool:
    """What both sides were told decides, else what they are called."""
    if before.told and now.told and (before.told == now.told or not now.replaceable):
        return before.told == now.told
    return before.digest == now.digest


def replaced(before: Sequence[Bound], now: Sequence[Bound]) -> str | None:
    """The source when another server answers under its name, which may be its replica."""
    was = {one.subject: one for one in before}
    for one in now:
        old = was.get(one.subject)
        if old is not None and old.told and one.told and old.told != one.told and same(old, one):
            return f"{old.told} was, and {one.told} is, behind {one.shown}"
    return None


def describe_changes(changes: Sequence[BoundChange]) -> str:
    """``source was … and is …; format was … and is …``."""
    return "; ".join(change.sentence for change in changes)


def describe_binding(binding: Sequence[Bound]) -> str:
    """One line for people: ``source …, relation …``."""
    return ", ".join(f"{one.subject.value} {_cut(one.shown, SHOWN_MAX)}" for one in binding)


# ------------------------------------------------------------------------------------------
# How an incremental run goes on where the last one ended: policy and marks (ADR 0011).
#
# A mark is one opaque text (PA4, CC8). It names its columns, so that a mark of one cursor is
# never taken for a mark of another; nobody but ``mark_values`` looks inside.


@dataclass(frozen=True, slots=True, kw_only=True)
class CursorPlan:
    """The cursor of one export, sealed (CC2): a worker and ``apply`` know nothing else of it.

    ``columns``: the cursor, and behind it the key that tells equal cursors apart. ``mode`` is
    ``single_column``, ``coalesce`` or ``key``. The run reads from ``mark_before`` (None: from the
    beginning) to ``mark_after``; the two are equal when nothing is new. ``binding`` is what the
    mark means from this run on, ``binding_before`` what was stored beside it (ADR 0020).
    """

    mode: str
    columns: tuple[str, ...]
    fallback: str | None = None
    overlap_s: float = 0.0
    mark_before: str | None = None
    mark_after: str | None = None
    binding: tuple[Bound, ...] = ()
    binding_before: str | None = None


def mark_text(columns: tuple[str, ...], fallback: str | None, values: KeyTuple) -> str:
    """The mark as it is stored."""
    body: dict[str, object] = {"by": list(columns), "at": list(values)}
    if fallback is not None:
        body["or"] = fallback
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def mark_values(mark: str, columns: tuple[str, ...], fallback: str | None) -> KeyTuple | None:
    """The values of a stored mark, of the first of its columns at least: a mark of another program
    (``state import``) knows the cursor alone, and then all its ties are below it. None when it is
    a mark of other columns."""
    try:
        body = json.loads(mark)
        same = (body["by"], body.get("or")) == (list(columns), fallback)
        values = tuple(str(one) for one in body["at"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return values if same and 1 <= len(values) <= len(columns) else None


def describe_mark(mark: str) -> str:
    """One short human line: ``updated_at, id = 2026-01-01 00:00:00, 7``."""
    try:
        body = json.loads(mark)
        first, *rest = body["by"]
        shown = f"coalesce({first}, {body['or']})" if "or" in body else first
        return flat(f"{', '.join((shown, *rest))} = {shown_key(tuple(body['at']))}")
    except (ValueError, KeyError, TypeError, AttributeError):
        return flat(mark)


def advances(before: str | None, after: str) -> bool:
    """True when a boundary moved on (PG3): as whole numbers, else as numbers, else by bytes.

    For people only: the source's own order is known to the source alone, which is why the mark
    itself is never compared but only replaced by the plan that began at it.
    """
    if before is None:
        return True
    return _values(before) < _values(after)


def _values(mark: str) -> list[tuple[int, float | int | bytes]]:
    try:
        texts = [str(one) for one in json.loads(mark)["at"]]
    except (ValueError, KeyError, TypeError):
        texts = [mark]
    return [_comparable(text) for text in texts]


def _comparable(text: str) -> tuple[int, float | int | bytes]:
    for make in (int, float):
        try:
            number = make(text)
        except ValueError:
            continue
        if number == number:  # not NaN
            return 0, number
    return 1, text.encode()
