"""What a plan rests on beside its columns: facts that are sealed, and what follows when one is
another (ADR 0018). Pure.

Column names, types and nullability are compared with a plan by ``execution.types``; here is what
decides which rows those columns hold, in which order they come, and who sees them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum

from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.window import RowWindow

UNKNOWN = ""
"""The value of what this user may not know, or this server does not say: never a difference."""
SERVER = "server"
"""The subject of one server among several that may stand for each other (replicas, failover)."""

INSTANCE = "server's own place"
"""The subject of a server that has no number: host, port and folder by its own account. Two that
differ are two servers, or one that has moved; two that are equal may be two all the same."""


class BasisKind(Enum):
    """What kind of thing is compared."""

    SOURCE = "source"
    """The database itself."""
    RELATION = "relation"
    """Which table or view the name stands for, and which file holds its rows."""
    INDEX = "index"
    """A unique index that makes the key a key: its columns, and how it orders them."""
    KEY = "key"
    """The type of a column whose order cuts a query, in its table, and that it is never NULL: the
    query's own columns do not say it (ADR 0028)."""
    COLUMN = "column"
    """The type of a column that is read, where pages do not say it themselves: never sealed here,
    for ``ReadPlan.columns`` holds it and a chunk's opening compares it; behind its pages it is
    compared with the opening's."""
    COLLATION = "collation"
    """What orders a text column: character set, collation, provider, version."""
    DEFINITION = "definition"
    """What a view, or a name in a query, stands for."""
    RIGHTS = "rights"
    """Who reads, and which policies decide what that role sees."""
    SESSION = "session"
    """A setting that a query means, as a fresh session of today's has it: never sealed here, for
    ``ReadPlan.session`` holds it and every statement sets it."""


class Consequence(Enum):
    """What follows from a difference."""

    FATAL = "fatal"
    """The chunk fails for good, by name: its rows would not be the plan's."""
    TOLD = "told"
    """The rows are right; the operator is told once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BasisFact:
    """One thing that is true of a source. ``value`` is for people and for comparing by equality;
    ``columns`` are those of the relation that it speaks of."""

    kind: BasisKind
    subject: str
    value: str
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BasisDifference:
    """A fact that is another one now. ``before`` and ``after`` are its values; ``after`` is empty
    when it is gone. ``sentence`` says it to a person."""

    kind: BasisKind
    subject: str
    before: str
    after: str
    consequence: Consequence
    sentence: str

    @property
    def data(self) -> dict[str, str]:
        """What an event says of it."""
        return {
            "kind": self.kind.value,
            "subject": self.subject,
            "before": self.before,
            "after": self.after,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliance:
    """What one way of reading relies on.

    ``compared``: columns whose values are compared with bounds or marks. ``key``: the columns that
    must tell every two rows apart, empty where none must. ``blocks``: rows are found by their
    place; then every page proves the heaps itself, in its own snapshot (``ReadPlan.heaps``).
    """

    compared: frozenset[str]
    key: tuple[str, ...] = ()
    blocks: bool = False


def reliance(chunk_range: ChunkRange, window: RowWindow | None) -> Reliance:
    """What reading this range, within the window, relies on."""
    compared: set[str] = set()
    if window is not None:
        compared |= {*window.columns, *((window.fallback,) if window.fallback else ())}
    if chunk_range.kind in (RangeKind.KEYSET, RangeKind.SPAN, RangeKind.WINDOW):
        compared |= set(chunk_range.columns)
    return Reliance(
        compared=frozenset(compared),
        key=chunk_range.columns if chunk_range.kind is RangeKind.KEYSET else (),
        blocks=chunk_range.kind is RangeKind.BLOCKS,
    )


def relies(use: Reliance, fact: BasisFact) -> bool:
    """True when this way of reading relies on the fact."""
    match fact.kind:
        case BasisKind.RELATION:
            return not use.blocks
        case BasisKind.INDEX:
            return bool(use.key) and set(fact.columns) <= set(use.key)
        case BasisKind.COLLATION | BasisKind.KEY:
            return bool(use.compared & set(fact.columns))
        case _:
            return True


def of_session(session: Iterable[tuple[str, str]]) -> tuple[BasisFact, ...]:
    """Settings as facts: a difference is told, and what is read is what was planned."""
    return tuple(
        BasisFact(kind=BasisKind.SESSION, subject=name, value=value) for name, value in session
    )


def resting(
    basis: Iterable[BasisFact], ranges: Collection[ChunkRange], window: RowWindow | None
) -> tuple[BasisFact, ...]:
    """The facts that a plan with these ranges rests on, in one order."""
    uses = {reliance(one, window) for one in ranges}
    found = [fact for fact in basis if any(relies(use, fact) for use in uses)]
    return tuple(sorted(found, key=lambda one: (one.kind.value, one.subject, one.value)))


def mark_basis(basis: Iterable[BasisFact], columns: tuple[str, ...]) -> tuple[BasisFact, ...]:
    """What a mark over these columns means: the database it was taken from, and their order. It
    is stored with the mark, and compared before the mark is continued (ADR 0020). What proves
    nothing when it is equal does not say which database it is."""
    kept = [
        fact
        for fact in basis
        if (fact.kind is BasisKind.SOURCE and fact.subject != INSTANCE)
        or (fact.kind is BasisKind.COLLATION and set(fact.columns) & set(columns))
    ]
    return tuple(sorted(kept, key=lambda one: (one.kind.value, one.subject, one.value)))


def differences(
    planned: Iterable[BasisFact],
    now: Iterable[BasisFact],
    chunk_range: ChunkRange,
    window: RowWindow | None,
) -> tuple[BasisDifference, ...]:
    """How what the plan rests on differs from what is now, for one of its chunks; the fatal ones
    first. What was never sealed (a plan of an older program) is not compared."""
    use = reliance(chunk_range, window)
    before = [fact for fact in planned if relies(use, fact)]
    after = {(fact.kind, fact.subject): fact for fact in now}
    found = _index_differences(before, after.values(), use)
    for fact in before:
        if fact.kind is BasisKind.INDEX or fact.value == UNKNOWN:
            continue
        other = after.get((fact.kind, fact.subject))
        if other is None or other.value not in (fact.value, UNKNOWN):
            found.append(_changed(fact, other.value if other else ""))
    return tuple(sorted(found, key=lambda one: (one.consequence.value, one.kind.value)))


def other_source(planned: Iterable[BasisFact], now: Iterable[BasisFact]) -> str:
    """How the source differs from the planned one, whatever follows from it; empty when it does
    not, or does not say."""
    after = {fact.subject: fact.value for fact in now if fact.kind is BasisKind.SOURCE}
    for fact in planned:
        other = after.get(fact.subject, UNKNOWN)
        known = fact.kind is BasisKind.SOURCE and UNKNOWN not in (fact.value, other)
        if known and other != fact.value:
            return _sentence(fact, other)
    return ""


def _changed(fact: BasisFact, after: str) -> BasisDifference:
    told = fact.kind in (BasisKind.RELATION, BasisKind.SESSION)
    told = told or fact.subject in (SERVER, INSTANCE)
    return BasisDifference(
        kind=fact.kind,
        subject=fact.subject,
        before=fact.value,
        after=after,
        consequence=Consequence.TOLD if told else Consequence.FATAL,
        sentence=_sentence(fact, after),
    )


def _sentence(fact: BasisFact, after: str) -> str:
    now = f"is now {after}" if after else "is gone"
    match fact.kind:
        case BasisKind.SOURCE:
            return f"the source's {fact.subject} was {fact.value} and {now}"
        case BasisKind.RELATION:
            return (
                f"the {fact.subject} behind the name was {fact.value} and {now} "
                "(swapped, created again, truncated or rewritten)"
            )
        case BasisKind.COLUMN:
            return f"column {fact.subject} was {fact.value} when the chunk was opened and {now}"
        case BasisKind.KEY:
            return f"key column {fact.subject} was {fact.value} and {now}"
        case BasisKind.COLLATION:
            return f"key column {fact.subject} was ordered by {fact.value} and {now}"
        case BasisKind.SESSION:
            return (
                f"{fact.subject} of the source's own session was {fact.value} and {now}: "
                "the query is read as it was planned"
            )
        case BasisKind.DEFINITION:
            return f"{fact.subject} is defined otherwise than when it was planned"
        case _:
            return f"{fact.subject} was {fact.value} and {now}"


# ---------------------------------------------------------------- the key's index


def _index_differences(
    planned: Collection[BasisFact], now: Collection[BasisFact], use: Reliance
) -> list[BasisDifference]:
    """A key needs an index that is unique over some of its columns, and the order of the one over
    all of them. An index of another name that does the same is as good."""
    before = _ordering([fact for fact in planned if fact.kind is BasisKind.INDEX], use)
    if not before:
        return []
    unique = [fact for fact in now if fact.kind is BasisKind.INDEX and relies(use, fact)]
    if {(one.subject, one.value) for one in before} & {(one.subject, one.value) for one in unique}:
        return []
    key = f"key ({', '.join(use.key)})"
    was = before[0]
    if not unique:
        sentence = f"the {key} is unique by no index any more: rows of equal keys would be lost"
        return [_index_changed(was, "", Consequence.FATAL, sentence)]
    is_now = _ordering(unique, use)[0]
    same = {_undirected(one.value) for one in before} & {_undirected(one.value) for one in unique}
    if same or (_plain(was) and _plain(is_now)):
        sentence = f"index {was.subject} of the {key} was {was.value}; now {is_now.subject}"
        sentence += f" {is_now.value} serves it in the same order"
        return [_index_changed(was, is_now.value, Consequence.TOLD, sentence)]
    sentence = f"the {key} was ordered by index {was.subject} {was.value} and is now by "
    sentence += f"{is_now.subject} {is_now.value}"
    return [_index_changed(was, is_now.value, Consequence.FATAL, sentence)]


def _ordering(indexes: list[BasisFact], use: Reliance) -> list[BasisFact]:
    """Those over the whole key, which give its order; else those that only make it unique."""
    return [one for one in indexes if one.columns == use.key] or indexes


def _undirected(value: str) -> str:
    """Which way an index runs decides which end a page starts from, not which row follows which."""
    return value.replace(" desc", "")


def _plain(fact: BasisFact) -> bool:
    """True for an index in the order of its columns' own types and collations."""
    return _undirected(fact.value) == f"({', '.join(fact.columns)})"


def _index_changed(
    fact: BasisFact, after: str, consequence: Consequence, sentence: str
) -> BasisDifference:
    return BasisDifference(
        kind=fact.kind,
        subject=fact.subject,
        before=fact.value,
        after=after,
        consequence=consequence,
        sentence=sentence,
    )
