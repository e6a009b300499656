"""What the mark of an export would be bound to now, and whether it may be gone on from. Pure.

The values are those of the plan; the comparison is ``contracts.window.differences`` (ADR 0020).
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime

from rivet_fleet.contracts.basis import SERVER, BasisKind, mark_basis
from rivet_fleet.contracts.columns import INTEGERS, TypeKind
from rivet_fleet.contracts.facts import SourceFacts
from rivet_fleet.contracts.window import (
    MARK_OTHER,
    UNCONTINUABLE,
    Bound,
    Subject,
    bound,
    bound_session,
    describe_binding,
    describe_changes,
    differences,
    mark_text,
    replaced,
    stored_binding,
)
from rivet_fleet.planning.candidates import column_of
from rivet_fleet.planning.config.connections import SourceConnection
from rivet_fleet.planning.config.loaded import LoadedConfig
from rivet_fleet.planning.config.models import ExportConfig
from rivet_fleet.planning.cuts import Refusal
from rivet_fleet.planning.export_plan import destination_plan
from rivet_fleet.planning.window import Cursor, cursor_of

KEYSET = "keyset_incremental"


def binding_of(
    loaded: LoadedConfig, export: ExportConfig, facts: SourceFacts, connection: SourceConnection
) -> tuple[Bound, ...]:
    """Every subject, in the order of ``Subject``; empty for an export that leaves no mark."""
    cursor = cursor_of(export, facts)
    if not isinstance(cursor, Cursor) or export.mode == "time_window":
        return ()
    first, *rest = cursor.columns
    own, keys = ([first, *rest], []) if cursor.mode == "key" else ([first], rest)
    mode = KEYSET if cursor.mode == "key" else export.mode
    # The day of a delivery is no other destination.
    place = destination_plan(loaded, export, "{date}")
    found = [
        _source(connection, facts),
        _relation(facts),
        bound(Subject.CURSOR, [own, cursor.fallback], _cursor_words(own, cursor.fallback)),
        bound(Subject.KEY, keys, ", ".join(keys) or "none"),
        *_collations(facts, cursor),
        *_types(facts, cursor),
        *([bound_session(facts.session)] if facts.session else []),
        bound(Subject.MODE, mode, mode),
        bound(
            Subject.DESTINATION,
            # Another variable for its secret makes no other destination.
            [*place.place, {}],
            f"{place.kind} {place.prefix}",
        ),
        bound(Subject.FORMAT, export.format, export.format),
    ]
    query = loaded.queries.get(export.name)
    if facts.relation is None and query is not None:
        found.append(bound(Subject.QUERY, query, query))
    order = list(Subject)
    return tuple(sorted(found, key=lambda one: order.index(one.subject)))


def _source(connection: SourceConnection, facts: SourceFacts) -> Bound:
    """What the server says of itself where that is enough to know it by, and where it is, without
    the user: whose rights count is for the plan to compare."""
    place = connection.identity.partition("://")[2].rpartition("@")[2]
    told = {one.subject: one.value for one in mark_basis(facts.basis, ()) if one.value}
    server = told.pop(SERVER, "")
    if server:
        database = f"{server}/{place.rpartition('/')[2]}"
        return bound(Subject.SOURCE, place, place, told=database, replaceable=True)
    # A database's number alone is its server's: another server counts from the same one.
    whole = "; ".join(f"{name} {told[name]}" for name in sorted(told)) if len(told) > 1 else ""
    return bound(Subject.SOURCE, place, f"{place} ({whole})" if whole else place, told=whole)


def _compared(cursor: Cursor) -> tuple[str, ...]:
    return (*cursor.columns, *((cursor.fallback,) if cursor.fallback else ()))


_WORDS = {
    **dict.fromkeys((*INTEGERS, TypeKind.DECIMAL), "number"),
    TypeKind.STRING: "text",
    TypeKind.BINARY: "bytes",
    TypeKind.TIMESTAMP: "moment without a zone",
    TypeKind.TIMESTAMP_UTC: "moment in UTC",
}
"""What the text of a value stands for. Numbers are ordered alike, however wide they are."""


def _types(facts: SourceFacts, cursor: Cursor) -> list[Bound]:
    """What the values of the mark's own columns are."""
    # As the query itself tells them: whether its table is looked at may change from day to day.
    own = {column.name: column.compared for column in facts.columns}
    known = [(name, own.get(name)) for name in _compared(cursor)]
    kinds = {name: _WORDS.get(kind, kind.value) for name, kind in known if kind is not None}
    words = ", ".join(f"{name} a {word}" for name, word in kinds.items())
    return [bound(Subject.TYPE, kinds, words)] if kinds else []


def _collations(facts: SourceFacts, cursor: Cursor) -> list[Bound]:
    """How the server orders the mark's own columns, where it tells."""
    columns = _compared(cursor)
    known = {
        one.subject: one.value
        for one in mark_basis(facts.basis, columns)
        if one.kind is BasisKind.COLLATION and one.value and one.subject in columns
    }
    words = ", ".join(f"{name} by {value}" for name, value in known.items())
    return [bound(Subject.COLLATION, known, words)] if known else []


def _relation(facts: SourceFacts) -> Bound:
    relation = facts.relation
    if relation is None:
        return bound(Subject.RELATION, None, "a query")
    return bound(Subject.RELATION, [relation.schema, relation.name], str(relation))


def _cursor_words(columns: list[str], fallback: str | None) -> str:
    words = ", ".join(columns)
    return words if fallback is None else f"coalesce({words}, {fallback})"


def refuse_other(
    export: ExportConfig, stored: str | None, now: tuple[Bound, ...], setting: str
) -> Refusal | None:
    """Why the stored mark is not gone on from; None when it is this very subject's."""
    changes = differences(stored_binding(stored), now)
    if not changes:
        return None
    reset = f"`rivet-fleet state reset -e {export.name}` forgets it, and all is read anew"
    accept = f"`rivet-fleet state accept -e {export.name}` goes on from it all the same"
    lost = any(change.subject in UNCONTINUABLE for change in changes)
    return Refusal(
        setting=setting,
        reason=f"the stored mark belongs to something else: {describe_changes(changes)}",
        suggestion=f"set it back; {reset}" if lost else f"set it back; {accept}; {reset}",
        code=MARK_OTHER,
    )


def remarks(stored: str | None, now: tuple[Bound, ...]) -> tuple[str, ...]:
    """What is said of a mark that is gone on from: one that an earlier program stored is bound by
    the next run, once; another server may be the same source."""
    if stored is None:
        return (
            "the stored mark does not say what it belongs to; this run binds it to "
            f"{describe_binding(now)}",
        )
    before = stored_binding(stored)
    untold = _untold(before, now)
    other = replaced(before, now)
    if other is None:
        return untold
    return (
        *untold,
        f"another server than the mark's answers now: {other}. A replica that took over is the "
        "same source; if it is another one, `state reset` reads it anew",
    )


def _untold(before: tuple[Bound, ...], now: tuple[Bound, ...]) -> tuple[str, ...]:
    known = {one.subject for one in before}
    new = [one for one in now if one.subject in _SINCE and one.subject not in known]
    if not new:
        return ()
    return (
        f"the stored mark does not say {' and '.join(_SINCE[one.subject] for one in new)}; "
        f"this run binds it to {describe_binding(new)}",
    )


_SINCE = {
    Subject.TYPE: "what type its columns had",
    Subject.SESSION: "under which settings its query was read",
}
"""What a mark that an earlier program has bound does not say."""


# ------------------------------------------------------------------------------------------
# A cursor of another program, as a mark of ours. Pure.

_WHOLE = re.compile(r"[+-]?\d{1,40}")
_NUMBER = re.compile(r"[+-]?\d{1,80}(\.\d{1,80})?")
_OFFSET = "+00"
"""How a source that says them writes UTC behind a moment."""


def begun_elsewhere(export: ExportConfig, value: str) -> str:
    """What a plan says that reads everything although Rivet has read some of it."""
    return (
        f"Rivet's state in this folder has the cursor of {export.name} at {value}, and this state "
        "has no mark: everything is read anew; `rivet-fleet state import` goes on from there"
    )


def mark_of_value(
    export: ExportConfig, facts: SourceFacts, cursor: Cursor, value: str, sample: str | None
) -> str | Refusal:
    """The mark of an export whose rows up to ``value`` another program has delivered, all those of
    that very value among them. ``sample``: a value of the cursor as this source writes it."""
    if export.keyset_incremental and len(cursor.columns) > 1:
        return Refusal(
            setting=cursor.setting,
            reason=f"the cursor is one value, and the key has {len(cursor.columns)} columns",
        )
    column = column_of(facts, cursor.columns[0])
    kind = column.compared if column is not None else None
    # Of a text blanks are part, and where it stands among the others.
    plain = value if kind is TypeKind.STRING else value.strip()
    written = _as_written(kind, plain, sample or "")
    if written is None:
        native = column.native_type if column is not None else "unknown"
        return Refusal(
            setting=cursor.setting,
            reason=f"{value!r} is no value of {cursor.columns[0]} ({native})",
        )
    return mark_text(cursor.columns, cursor.fallback, (written,))


def _as_written(kind: TypeKind | None, value: str, sample: str) -> str | None:
    """The value in the source's own form; None where it is none of its type."""
    if kind in INTEGERS:
        return str(int(value)) if _WHOLE.fullmatch(value) else None
    if kind is TypeKind.DECIMAL:
        return value if _NUMBER.fullmatch(value) else None
    if kind in (TypeKind.STRING, TypeKind.UUID):
        return value or None
    try:
        if kind is TypeKind.DATE:
            return str(date.fromisoformat(value[:10]))
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    if kind not in (TypeKind.TIMESTAMP, TypeKind.TIMESTAMP_UTC):
        return None
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return moment.isoformat(" ") + (_OFFSET if sample.endswith(_OFFSET) else "")
