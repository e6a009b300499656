"""What a mark is bound to: the kinds of its values, and the session of its query."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rivet_fleet.contracts.columns import ColumnType, TypeKind
from rivet_fleet.contracts.facts import SourceFacts
from rivet_fleet.contracts.window import (
    Bound,
    Subject,
    binding_text,
    describe_binding,
    differences,
    stored_binding,
)
from rivet_fleet.planning.binding import binding_of, refuse_other, remarks
from rivet_fleet.planning.config.connections import source_connection
from tests.unit.planning.conftest import Loader
from tests.unit.planning.shapes import PRIMARY, column, index, query, table

K = TypeKind
AT = "table: orders\nmode: incremental\ncursor_column: at\n"
COALESCE = "incremental_cursor_mode: coalesce\ncursor_fallback_column: made\n"
KEYED = "table: orders\nmode: chunked\nkeyset_incremental: true\nchunk_by_key: [at, id]\n"
ASKED = "query: SELECT at FROM orders\nmode: incremental\ncursor_column: at\n"
SESSION = (("TimeZone", "Europe/Berlin"), ("sql_mode", "ANSI_QUOTES," * 30), ("lc_time", "C"))


def facts(at: TypeKind = K.TIMESTAMP, id_: TypeKind = K.INT32) -> SourceFacts:
    columns = (column("id", id_), column("at", at), column("made", at, nullable=True))
    return table(columns=columns, indexes=(PRIMARY, index("by_at", "at", "id")))


def asked(*session: tuple[str, str]) -> SourceFacts:
    return query(columns=(column("at", K.TIMESTAMP),), session=session)


def binding(load_exports: Loader, settings: str, found: SourceFacts) -> tuple[Bound, ...]:
    loaded = load_exports(orders=settings)
    (export,) = loaded.config.exports
    return binding_of(loaded, export, found, source_connection(loaded, "default"))


@pytest.mark.parametrize("settings", [AT, AT + COALESCE, KEYED])
@pytest.mark.parametrize(
    ("was", "is_now", "other"),
    [
        ({}, {"at": K.TIMESTAMP_UTC}, True),
        ({}, {"at": K.DATE}, True),
        ({"at": K.DATE}, {"at": K.TIMESTAMP_UTC}, True),
        ({"at": K.INT32}, {"at": K.TIMESTAMP}, True),
        ({"at": K.INT32}, {"at": K.INT64}, False),
        ({"at": K.UINT64}, {"at": K.DECIMAL}, False),
        ({}, {"id_": K.STRING}, True),
        ({}, {"id_": K.INT64}, False),
    ],
)
def test_a_mark_goes_on_only_where_its_values_are_of_their_kind(
    load_exports: Loader, settings: str, was: Any, is_now: Any, other: bool
) -> None:
    before, now = (binding(load_exports, settings, facts(**one)) for one in (was, is_now))
    found = differences(before, now)
    # Of a coalesced cursor the key is part, too.
    assert [change.subject for change in found] == ([Subject.TYPE] if other else [])
    (export,) = load_exports(orders=settings).config.exports
    refused = refuse_other(export, binding_text(before), now, "cursor_column")
    assert (refused is not None) == other
    if refused is not None:
        assert "type was " in refused.reason and "state accept" in (refused.suggestion or "")


def test_an_override_changes_nothing_of_what_a_mark_holds(load_exports: Loader) -> None:
    plain = facts()
    sent = tuple(replace(c, type=ColumnType(kind=K.STRING), uncast=c) for c in plain.columns)
    casted = replace(plain, columns=sent)
    assert binding(load_exports, AT, plain) == binding(load_exports, AT, casted)


def test_the_session_of_a_query_is_bound_and_what_differs_of_it_is_shown(
    load_exports: Loader,
) -> None:
    before = binding(load_exports, ASKED, asked(*SESSION))
    assert differences(before, binding(load_exports, ASKED, asked(*reversed(SESSION)))) == ()
    now = binding(load_exports, ASKED, asked(("TimeZone", "UTC"), *SESSION[1:]))
    (change,) = differences(before, now)
    assert change.sentence == "session was TimeZone Europe/Berlin and is TimeZone UTC"
    assert len(describe_binding([one for one in now if one.subject is Subject.SESSION])) < 150
    assert differences(before, binding(load_exports, ASKED, asked())) == (), "it did not say"


def test_a_mark_that_an_earlier_program_bound_is_gone_on_from_and_told_once(
    load_exports: Loader,
) -> None:
    now = binding(load_exports, ASKED, asked(*SESSION))
    old = tuple(one for one in now if one.subject not in (Subject.TYPE, Subject.SESSION))
    assert differences(old, now) == ()
    (said,) = remarks(binding_text(old), now)
    assert "what type its columns had and under which settings its query was read" in said
    assert "type at a moment without a zone, session TimeZone Europe/Berlin" in said
    assert remarks(binding_text(now), now) == ()
    assert stored_binding(binding_text(now)) == now
