"""Facts about a table or query that every engine finds by the same questions in the same order.

The frame owns the order of the questions and what each answer means; an engine owns their SQL.
Weak metadata may weaken a plan, never fail it: a key that cannot be described in time, or that the
server refuses to look at, is left out with its reason. The one that the user asked for is refused.
"""

from __future__ import annotations

import difflib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from rivet_fleet.contracts.columns import INTEGERS, MOMENTS
from rivet_fleet.contracts.facts import (
    WALKED,
    ColumnFacts,
    FactsRequest,
    IndexFacts,
    KeyFacts,
    ProbedDensity,
    QueryTable,
    SourceFacts,
    leading_index,
)
from rivet_fleet.contracts.foreign import foreign_line
from rivet_fleet.contracts.keys import KeyTuple, RelationName
from rivet_fleet.contracts.window import Newest, NewestRequest
from rivet_fleet.errors import ConfigError, SourceRefused, StatementTimeout
from rivet_fleet.execution.engines.session import whole
from rivet_fleet.execution.paging import KeyDialect, Progress, above, beneath

METADATA_TIMEOUT_S = 30.0
"""What one question about metadata may take."""
KEYS_MAX = 8
"""Keys that are described of one table."""

At = TypeVar("At")
"""What a session's ``reading`` yields: the connection or cursor of one use."""
Ask = Callable[[str], Sequence[tuple[Any, ...]]]
"""All rows of one statement, within one use of the session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much there is, and who says so."""

    rows: int | None
    provenance: str
    width_bytes: int | None = None


def introspect(
    request: FactsRequest,
    table: Callable[[FactsRequest], SourceFacts],
    query: Callable[[FactsRequest], SourceFacts],
) -> SourceFacts:
    """Facts for one export. Raises SourceRefused when it is not there or not readable."""
    if (request.relation is None) == (request.query is None):
        raise ConfigError(f"export {request.export_name}: either a table or a query")
    return table(request) if request.relation else query(request)


# ------------------------------------------------------------------------------------------
# A query over one table (ADR 0028)

_FEW = 20
"""Where a query is expected to return fewer than one of so many rows of its table, a walk along the
key would pass them all, and the query's own plan may lead to these by a shorter way."""
UNKNOWN_SIZE = Size(rows=None, provenance="none")


class Measured(Protocol):
    """The one table of a query, with how much there is."""

    @property
    def size(self) -> Size:
        """Of the table."""
        ...


M = TypeVar("M", bound=Measured)


def table_beneath(
    asking: AbstractContextManager[At],
    look: Callable[[At], M | str],
    request: FactsRequest,
    size: Size,
) -> M | str:
    """The one table whose rows a query's are, or why the query is read by itself: the end of a
    sentence about it. ``look`` may find that its table cannot be asked about. ``size``: of the
    query."""
    try:
        with asking as at:
            found = look(at)
    except (SourceRefused, StatementTimeout) as error:
        return f"its table is not to be looked at ({error.message})"
    if isinstance(found, str) or request.key_columns:
        return found
    rows, of = size.rows, found.size.rows
    if rows is None or of is None or rows * _FEW >= of:
        return found
    return f"the server expects {rows} of its table's {of} rows, and knows its own way to them"


def as_keys(columns: tuple[ColumnFacts, ...], table: QueryTable | None) -> tuple[ColumnFacts, ...]:
    """A query's columns, those of its table's keys as the table has them."""
    known = {column.name: column for column in table.columns} if table else {}
    return tuple(known.get(column.name, column) for column in columns)


# ------------------------------------------------------------------------------------------
# Casts


class Cast(Protocol):
    """What the server makes of a column under an override."""

    def __call__(self, column: ColumnFacts, override: str, *, asked: bool) -> ColumnFacts:
        """The column as it is then sent, or ``refused_cast``. ``asked``: by the user, by name."""
        ...


def with_casts(
    columns: tuple[ColumnFacts, ...], request: FactsRequest, cast: Cast
) -> tuple[ColumnFacts, ...]:
    """The columns with their overrides, and those without a type with the cast that is to serve
    them. Raises ConfigError for an override of a column that is not there."""
    asked = dict(request.casts)
    known = [column.name for column in columns]
    for name in asked:
        if name not in known:
            raise ConfigError(
                f"export {request.export_name}: `columns:` names {name!r}, which is not there",
                hint=f"columns: {', '.join(known)}",
            )

    def sent(column: ColumnFacts) -> ColumnFacts:
        if column.name in asked:
            return replace(cast(column, asked[column.name], asked=True), uncast=column)
        way = request.unsupported_cast
        if column.type is not None or way is None:
            return column
        found = replace(cast(column, way, asked=False), uncast=column)
        if found.type is None:
            return found
        return replace(found, cast=way, unsupported_reason=column.unsupported_reason)

    return tuple(sent(column) for column in columns)


_CAST_CHARS_MAX = 400
"""Of what a server says of one cast: a table may have a thousand columns."""


def apart(what: str, relation: RelationName, ours: str, theirs: Mapping[str, str]) -> str:
    """What a plan says of ``what`` of a relation that the server computes when it is read: in our
    session, where its user's own (``theirs``) is another."""
    settings = "; ".join(f"{name} {value}" for name, value in theirs.items())
    return (
        f"{what} of {relation} is computed in our session ({ours}), and its user's own has "
        f"{settings}: where that decides a day, a text or a row, write `query: SELECT * FROM "
        f"{relation}`, which is read in its user's session"
    )


def refused_cast(column: ColumnFacts, override: str, said: str, hint: str | None) -> ColumnFacts:
    """The column when the server cannot cast it so. This is its own trouble: the plan names it
    beside the others, and goes on with other exports. ``hint``: another cast to try."""
    said = foreign_line(said, chars_max=_CAST_CHARS_MAX)
    return replace(
        column,
        type=None,
        unsupported_reason=f"this server cannot read it as {override} ({said})",
        cast_hint=hint if hint != override else None,
        cast_refused=True,
    )


# ------------------------------------------------------------------------------------------
# Keys: which there are, and what is known of each.
#
# Values travel as the server's own text and are compared by the server alone: its collations are
# not Python's.


class ProbedKeys(KeyDialect, Protocol):
    """What looking at keys asks of a ``KeyDialect`` besides reading by them."""

    @property
    def count(self) -> str:
        """``count(*)`` as this engine calls it whatever is in the way."""
        ...

    def text_expression(self, name: str) -> str:
        """The column as text from which the dialect makes the same key again."""
        ...

    def ordered(self, columns: tuple[str, ...], sign: str) -> str:
        """What stands behind ORDER BY; ``sign`` is ``<`` for rising, ``>`` for falling."""
        ...

    def key_of(self, columns: tuple[str, ...], row: tuple[Any, ...] | None) -> KeyTuple | None:
        """The key from one answer of ``text_expression`` of each column. Raises SourceRefused for
        a value that cannot be a key."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyProbe:
    """One key of a FROM item, within one use of the session. ``ask`` gives a statement's rows."""

    ask: Ask
    item: str
    keys: ProbedKeys
    columns: tuple[str, ...]

    @property
    def texts(self) -> str:
        """The key's columns as they travel."""
        return ", ".join(self.keys.text_expression(name) for name in self.columns)

    @property
    def not_null(self) -> str:
        """The condition that the key has a value."""
        return " AND ".join(f"{self.keys.column_ref(name)} IS NOT NULL" for name in self.columns)

    def first(self, where: str, sign: str = "<", skip: int = 0) -> KeyTuple | None:
        """The key ``skip`` rows behind the first one that ``where`` lets through, rising; falling
        with ``>``. None when there is none."""
        order = self.keys.ordered(self.columns, sign)
        offset = f" OFFSET {skip}" if skip else ""
        found = self.ask(
            f"SELECT {self.texts} FROM {self.item} WHERE {where} ORDER BY {order} LIMIT 1{offset}"
        )
        return self.keys.key_of(self.columns, found[0] if found else None)

    def key_at(self, key: KeyTuple | None, operator: str, skip: int) -> KeyTuple | None:
        """One step of a walk; see ``KeyAt``."""
        where = self.not_null
        if key is not None:
            where = self.keys.row_comparison(self.columns, operator, key)
        return self.first(where, skip=skip)

    def count_between(self, low: int, high: int, most: int) -> int:
        """Rows with a whole number in ``[low, high)``, counted up to ``most``."""
        where = " AND ".join(
            self.keys.span_comparison(self.columns[0], sign, str(end))
            for sign, end in ((">=", low), ("<", high))
        )
        some = f"SELECT 1 FROM {self.item} WHERE {where} LIMIT {most}"
        ((found,),) = self.ask(f"SELECT {self.keys.count} FROM ({some}) AS w")
        return whole(found)

    def has_nulls(self) -> bool:
        """Whether a row has no value in one of the columns."""
        where = " OR ".join(f"{self.keys.column_ref(name)} IS NULL" for name in self.columns)
        return bool(self.ask(f"SELECT 1 FROM {self.item} WHERE {where} LIMIT 1"))


class Look(Enum):
    """What a key is looked at for; an engine nudges its optimizer by it."""

    ENDS = "looking at"
    WINDOW = "probing"
    STEP = "walking"


class Keyed(ABC, Generic[At]):
    """What keys are looked for in: one table or query of one engine.

    ``size`` says how many rows there are about; ``keys`` how the columns are compared.
    """

    def __init__(
        self,
        columns: tuple[ColumnFacts, ...],
        indexes: tuple[IndexFacts, ...],
        size: Size,
        keys: ProbedKeys,
    ) -> None:
        self.columns, self.indexes = columns, indexes
        self.size, self.keys = size, keys
        self._by_name = {column.name: column for column in columns}

    # ------------------------------------------------------------ an engine's own

    @abstractmethod
    def asking(self, look: Look, shown: str) -> AbstractContextManager[At]:
        """One use of the session, of ``METADATA_TIMEOUT_S``; ``shown`` names the key."""

    @abstractmethod
    def rows(self, at: At, sql: str) -> Sequence[tuple[Any, ...]]:
        """All rows of one statement."""

    @abstractmethod
    def item(self, columns: tuple[str, ...]) -> str:
        """What stands after FROM to look at this key."""

    @abstractmethod
    def orderable(self, column: ColumnFacts) -> bool:
        """True when the column's text stands exactly for its place in the order."""

    @abstractmethod
    def unfit(self, column: ColumnFacts) -> tuple[str, str] | None:
        """Why the column that the user asked for cannot be of a key, and what to do; or None."""

    @abstractmethod
    def quoted(self, name: str) -> str:
        """A name as this engine quotes it."""

    @abstractmethod
    def finite(self, name: str) -> str:
        """The condition that a date or moment lies within the calendar."""

    @abstractmethod
    def boundaries(
        self, at: At, probe: KeyProbe, lowest: KeyTuple, highest: KeyTuple | None, most: int
    ) -> tuple[tuple[KeyTuple, ...], str]:
        """Row quantiles, at most ``most``, and who says so."""

    def obstacle(self, columns: tuple[str, ...]) -> str | None:
        """Why these columns are no key, or None."""
        return None

    def boundaries_most(self, request: FactsRequest) -> int:
        """How many are looked for; where each costs a statement, no more than the cuts take."""
        return request.boundaries_max

    # ------------------------------------------------------------ the same for all

    def describe(
        self, request: FactsRequest, warnings: list[str]
    ) -> tuple[tuple[KeyFacts, ...], tuple[IndexFacts, ...]]:
        """What is known of the keys, and the indexes: those that turned out to be no key say why.
        Raises SourceRefused for a key that was asked for and cannot be one."""
        usable = usable_keys(self.columns, self.indexes, self.orderable)
        asked = (self._requested(request),) if request.key_columns else None
        indexes, found = self.indexes, []
        for names in asked or usable[:KEYS_MAX]:
            shown = f"key ({', '.join(names)})"
            obstacle = self.obstacle(names)
            try:
                if obstacle is None:
                    unique = any(set(key) <= set(names) for key in usable)
                    found.append(self._described(request, names, unique=unique))
            except StatementTimeout:
                warnings.append(
                    f"{shown} could not be described within {METADATA_TIMEOUT_S:.0f} s: "
                    "is there an index on it?"
                )
            except SourceRefused as error:
                obstacle = error.message
            if obstacle is not None and asked:
                raise SourceRefused(
                    f"export {request.export_name}: {shown} cannot be one: {obstacle}",
                    hint="cut the export by another column, or leave the choice to the plan",
                )
            if obstacle is not None:
                warnings.append(f"export {request.export_name}: {shown} is left out: {obstacle}")
                indexes = tuple(
                    replace(index, obstacle=obstacle) if index.columns == names else index
                    for index in indexes
                )
        return tuple(found), indexes

    def _requested(self, request: FactsRequest) -> tuple[str, ...]:
        for name in request.key_columns:
            if name not in self._by_name:
                raise SourceRefused(
                    f"export {request.export_name}: there is no column {self.quoted(name)}",
                    hint=f"columns: {', '.join(self._by_name)}",
                )
            unfit = self.unfit(self._by_name[name])
            if unfit is not None:
                why, hint = unfit
                raise SourceRefused(f"export {request.export_name}: {why}", hint=hint)
        return request.key_columns

    def _probe(self, at: At, columns: tuple[str, ...]) -> KeyProbe:
        ask = partial(self.rows, at)
        return KeyProbe(ask=ask, item=self.item(columns), keys=self.keys, columns=columns)

    def _described(
        self, request: FactsRequest, names: tuple[str, ...], *, unique: bool
    ) -> KeyFacts:
        """One key. Raises StatementTimeout, and SourceRefused for what the server refuses."""
        with self.asking(Look.ENDS, ", ".join(names)) as at:
            facts = self._ends(at, names, self.boundaries_most(request), unique=unique)
        indexed = leading_index(self.indexes, names) is not None
        if request.probe_density and indexed:
            facts = self._probed(facts)
        if request.walk_rows is not None and indexed:
            facts = self._walked(facts, request.walk_rows)
        return facts

    def _ends(
        self, at: At, names: tuple[str, ...], boundaries_max: int, *, unique: bool
    ) -> KeyFacts:
        """Extremes and quantiles. Those of a moment are within the calendar."""
        probe, first = self._probe(at, names), self._by_name[names[0]]
        moment = len(names) == 1 and first.compared in MOMENTS
        where = self.finite(names[0]) if moment else probe.not_null
        lowest = probe.first(where)
        highest = probe.first(where, ">") if lowest else None
        boundaries: tuple[KeyTuple, ...] = ()
        provenance = "none"
        if lowest is not None:
            boundaries, provenance = self.boundaries(at, probe, lowest, highest, boundaries_max)
        nullable = any(self._by_name[name].nullable for name in names)
        return KeyFacts(
            columns=names,
            minimum=lowest,
            maximum=highest,
            boundaries=boundaries,
            provenance=provenance if boundaries else "none",
            has_nulls=nullable and probe.has_nulls(),
            unique=unique,
        )

    def _probed(self, facts: KeyFacts) -> KeyFacts:
        """How densely a whole-number key is filled, where the statistics leave it in doubt."""
        column = self._by_name[facts.columns[0]]
        integer = column.compared in INTEGERS
        if not integer or len(facts.columns) > 1 or not facts.minimum or not facts.maximum:
            return facts
        first, last = whole(facts.minimum[0]), whole(facts.maximum[0])
        if not worth_probing(self.size.rows, self.size.provenance, last - first + 1):
            return facts

        def count(low: int, high: int, most: int) -> int:
            with self.asking(Look.WINDOW, column.name) as at:
                return self._probe(at, facts.columns).count_between(low, high, most)

        return replace(facts, probed=probe(count, first, last))

    def _walked(self, facts: KeyFacts, every: int) -> KeyFacts:
        """Exact boundaries. Every step is a use of its own: a walk may take minutes."""

        def step(key: KeyTuple | None, operator: str, skip: int) -> KeyTuple | None:
            with self.asking(Look.STEP, ", ".join(facts.columns)) as at:
                return self._probe(at, facts.columns).key_at(key, operator, skip)

        found = walk_keys(
            step, columns=facts.columns, every=every, boundaries_max=WALKED_BOUNDARIES_MAX
        )
        return facts if found is None else replace(facts, boundaries=found, provenance=WALKED)


def usable_keys(
    columns: tuple[ColumnFacts, ...],
    indexes: tuple[IndexFacts, ...],
    orderable: Callable[[ColumnFacts], bool],
) -> tuple[tuple[str, ...], ...]:
    """The column tuples a keyset can walk: unique, whole, ordered, NOT NULL, exact as text."""
    by_name = {column.name: column for column in columns}
    found: list[tuple[str, ...]] = []
    for index in indexes:
        sound = index.unique and index.valid and index.ready and index.ordered
        if not sound or index.partial or index.expression or index.obstacle:
            continue
        keys = [by_name.get(name) for name in index.columns]
        if all(key is not None and not key.nullable and orderable(key) for key in keys):
            found.append(index.columns)
    return tuple(dict.fromkeys(found))


def thinned(keys: Sequence[KeyTuple], most: int) -> tuple[KeyTuple, ...]:
    """At most ``most`` of the keys, evenly spaced: as many before the first of them, and behind the
    last, as between two."""
    if len(keys) <= most:
        return tuple(keys)
    gaps = most + 1
    return tuple(keys[(i * (len(keys) + 1) + gaps // 2) // gaps - 1] for i in range(1, gaps))


# ------------------------------------------------------------------------------------------
# The greatest row of a cursor: where an incremental run ends (ADR 0011).

NEWEST_TIMEOUT_S = 300.0
"""As long as a page may take: without an index the table is scanned."""


class CursorKeys(ProbedKeys, Protocol):
    """What looking for the newest row asks of the dialect besides. A cursor is one column, or the
    first of two that has a value."""

    def first_of(self, columns: tuple[str, ...]) -> str:
        """The cursor. Raises SourceRefused or ConfigError where two have no order in common."""
        ...

    def first_text(self, columns: tuple[str, ...]) -> str:
        """The cursor as text from which the dialect makes the same value again."""
        ...

    def sign(self, name: str, sign: str) -> str:
        """A comparison by the order of this column."""
        ...

    def falling(self, name: str, expression: str) -> str:
        """What stands behind ORDER BY for an expression that has this column's order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NewestLook:
    """What is looked for: a cursor of ``item``, whose columns are ``by_name`` as they are now."""

    request: NewestRequest
    by_name: dict[str, ColumnFacts]
    keys: CursorKeys
    item: str
    beyond: str = ""
    """The least value that is no mark, as SQL; empty where every value is one."""
    moved: str | None = None
    """A SELECT of the mark moved back by the overlap; None where there is nothing to move."""


def cursor_columns(request: NewestRequest) -> tuple[str, ...]:
    """The cursor's own column, and the one that stands in where it has no value."""
    return (request.columns[0], *((request.fallback,) if request.fallback else ()))


def by_name(request: NewestRequest, columns: Iterable[ColumnFacts]) -> dict[str, ColumnFacts]:
    """The columns that are there. Raises SourceRefused when one that is looked at is not."""
    found = {column.name: column for column in columns}
    for name in (*request.columns, *cursor_columns(request)):
        if name not in found:
            raise SourceRefused(f"there is no column {name}", hint="plan the export again")
    return found


def newest(ask: Ask, look: NewestLook) -> Newest:
    """The greatest row of a cursor as it is now, in the server's own order. ``ask`` gives a
    statement's rows within one use of the session."""
    request, keys, item, beyond = look.request, look.keys, look.item, look.beyond
    names, first_name, ties = cursor_columns(request), request.columns[0], request.columns[1:]
    cursor = keys.first_of(names)
    marks = f"{cursor} IS NOT NULL"
    if beyond:
        marks = f"{cursor} {keys.sign(first_name, '<')} {beyond}"
    texts = [keys.first_text(names), *(keys.text_expression(name) for name in ties)]
    order = f" ORDER BY {keys.ordered(ties, '>')}" if ties else ""

    def greatest(wanted: Sequence[str], *more: str) -> tuple[Any, ...] | None:
        one = (
            f"SELECT {cursor} FROM {item} WHERE {' AND '.join(wanted)} "
            f"ORDER BY {keys.falling(first_name, cursor)} LIMIT 1"
        )
        found = ask(
            f"SELECT {', '.join((*texts, *more))} FROM {item} "
            f"WHERE {cursor} {keys.sign(first_name, '=')} ({one}){order} LIMIT 1"
        )
        return found[0] if found else None

    def some(where: str) -> bool:
        return bool(ask(f"SELECT 1 FROM {item} WHERE {where} LIMIT 1"))

    found, there = greatest([marks, *above(keys, request)]), None
    if found is None and request.above is not None:
        there = greatest([marks], beneath(keys, request))
    nullable = all(look.by_name[name].nullable for name in names)
    nulls = " AND ".join(f"{keys.column_ref(name)} IS NULL" for name in names)
    below = there is not None and bool(whole(there[-1] or 0))
    return Newest(
        values=keys.key_of(request.columns, found),
        nulls=nullable and some(nulls),
        endless=bool(beyond) and some(f"{cursor} {keys.sign(first_name, '>=')} {beyond}"),
        overlap=_text(ask(look.moved)) if look.moved is not None else None,
        below=keys.key_of(request.columns, there[:-1]) if there and below else None,
        vacant=found is None and request.above is not None and there is None,
    )


def _text(rows: Sequence[tuple[Any, ...]]) -> str | None:
    ((found,),) = rows
    return None if found is None else str(found)


# ------------------------------------------------------------------------------------------
# Walking a key's index in bounded statements: exact row percentiles.
#
# Used when a plan asks for chunks of exactly so many rows (``chunk_dense``, ADR 0012). Nothing is
# numbered and nothing is sorted: each step skips a bounded number of index entries.

KeyAt = Callable[[KeyTuple | None, str, int], KeyTuple | None]
"""``(from, operator, skip)``: the key ``skip`` entries behind the first one that is
``operator from``; from the very beginning when ``from`` is None. None when there is none."""

STEP_ROWS_MAX = 50_000
"""Index entries one statement skips at most, so that each stays short."""
WALK_S_MAX = 600.0
WALKED_BOUNDARIES_MAX = 50_000
"""As many chunks as a plan may have."""


def walk_keys(
    key_at: KeyAt,
    *,
    columns: tuple[str, ...],
    every: int,
    boundaries_max: int,
    step_max: int = STEP_ROWS_MAX,
    now_s: Callable[[], float] = time.monotonic,
) -> tuple[KeyTuple, ...] | None:
    """Every ``every``-th key, rising: each but the last range holds exactly so many rows of a
    unique key. Equal keys stay together, so ranges of others may be smaller or larger by one run.

    At most ``boundaries_max``; None when it takes longer than ``WALK_S_MAX``. Raises
    MalformedData when the walk comes back to a key it has passed.
    """
    began_s = now_s()
    at, progress = key_at(None, ">=", 0), Progress(columns)
    found: list[KeyTuple] = []
    while at is not None and len(found) < boundaries_max:
        begin, rest = at, every
        while at is not None and rest > 0:
            if now_s() - began_s > WALK_S_MAX:
                return None
            step = min(rest, step_max)
            ahead = key_at(at, ">=", step)
            at = key_at(at, ">", 0) if ahead == at else ahead
            if at is not None:
                progress.to(">", at)
            rest -= step
        if at is not None and at != begin:
            found.append(at)
    return tuple(found)


# ------------------------------------------------------------------------------------------
# How densely a whole-number key is filled: bounded counts in windows spread over its span.
#
# Asked for by ``check --probe``, and made only where the catalogue's number is doubtful
# (Rivet: Discovery). Each window is one statement over at most ``WINDOW_KEYS`` values of an index.

WINDOWS = 50
WINDOW_KEYS = 10_000
ROWS_MAX = 4 * WINDOW_KEYS
"""Rows one window counts at most: values may repeat."""
SMALL_ROWS = 50_000
SPAN_FACTOR = 4
_GOLDEN = 0.618_033_988_749_895

CountBetween = Callable[[int, int, int], int]
"""``(first, end, most)``: how many rows have a key in ``[first, end)``, counted up to ``most``."""


def worth_probing(rows: int | None, provenance: str, span: int) -> bool:
    """False for a small table, and where the span and the statistics agree."""
    if rows is None or provenance != "statistics":
        return True
    return rows >= SMALL_ROWS and span > SPAN_FACTOR * rows


def probe_windows(minimum: int, maximum: int) -> list[tuple[int, int]]:
    """Half-open windows, one in each of ``WINDOWS`` equal strata, at places that follow no
    period. The same for the same extremes."""
    span = maximum - minimum + 1
    strata = min(WINDOWS, span)
    found = []
    for i in range(strata):
        first = minimum + span * i // strata
        room = minimum + span * (i + 1) // strata - first
        width = min(WINDOW_KEYS, room)
        offset = int(((i + 1) * _GOLDEN % 1.0) * (room - width))
        found.append((first + offset, first + offset + width))
    return found


def probe(count_between: CountBetween, minimum: int, maximum: int) -> ProbedDensity:
    """Count every window. The caller bounds the time of each statement."""
    rows = keys = 0
    for first, end in probe_windows(minimum, maximum):
        rows += count_between(first, end, ROWS_MAX)
        keys += end - first
    return ProbedDensity(rows=rows, keys=keys)


# ------------------------------------------------------------------------------------------
# Which relations a name that is not there may have meant.

SHOWN = 3


def close_relations(wanted: RelationName, listed: Sequence[RelationName]) -> str | None:
    """The sentence "did you mean …?" with three of ``listed`` at most; None when none is close.

    ``wanted`` has the schema it was looked for in. What lies in that schema comes before any
    namesake elsewhere: a server often holds a dozen copies of one application.
    """

    def likeness(relation: RelationName) -> float:
        return difflib.SequenceMatcher(None, str(wanted), str(relation)).ratio()

    folded = wanted.name.lower()
    near = difflib.get_close_matches(wanted.name, {each.name for each in listed}, n=SHOWN)
    close = [each for each in listed if each.name.lower() == folded or each.name in near]
    close.sort(
        key=lambda each: (
            each.schema != wanted.schema,
            each.name.lower() != folded,
            -likeness(each),
            str(each),
        )
    )
    return f"did you mean {', '.join(map(str, close[:SHOWN]))}?" if close else None
