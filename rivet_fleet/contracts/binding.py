"""What a high-water mark means, stored beside it: a value that fits one source, one table, one
filter, one cursor and one place of delivery says nothing about any other (ADR 0020)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from rivet_fleet.contracts.codec import canonical_json, dumps, from_plain

MARK_OTHER = "RIVET_MARK_OTHER"
"""The code of every refusal to go on from a mark that belongs to something else."""
MARK_ABOVE = "RIVET_MARK_ABOVE"
"""The code of the refusal to deliver nothing because the whole table lies below its mark."""
SHOWN_MAX = 120


class Subject(Enum):
    """What a mark is bound to."""

    SOURCE = "source"
    RELATION = "relation"
    QUERY = "query"
    CURSOR = "cursor"
    KEY = "key"
    COLLATION = "collation"
    MODE = "mode"
    DESTINATION = "destination"
    FORMAT = "format"


UNCONTINUABLE = frozenset({Subject.CURSOR, Subject.KEY})
"""A mark holds no value of other columns: nobody can accept these."""
UNTOLD = frozenset({Subject.COLLATION})
"""What a source may not tell today: then it is not compared."""


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
    line = " ".join(shown.split())
    if len(line) > SHOWN_MAX:
        line = line[: SHOWN_MAX - 1] + "…"
    return Bound(subject=subject, shown=line, digest=digest, told=told, replaceable=replaceable)


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
    found = []
    for subject in Subject:
        old, new = was.get(subject), is_now.get(subject)
        if old is not None and new is not None and same(old, new):
            continue
        if subject in UNTOLD and (old is None or new is None):
            continue
        if old is not None or new is not None:
            found.append(
                BoundChange(
                    subject=subject,
                    before=old.shown if old else "",
                    after=new.shown if new else "",
                )
            )
    return tuple(found)


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
    return ", ".join(f"{one.subject.value} {one.shown}" for one in binding)
