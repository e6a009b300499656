"""What a cursor can tell: types that rise by themselves, and the one sentence of what it misses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rivet_fleet.contracts.columns import ColumnType, TypeKind
from rivet_fleet.contracts.facts import ColumnFacts, SourceFacts
from rivet_fleet.contracts.window import Newest
from rivet_fleet.planning.config.models import ExportConfig
from rivet_fleet.planning.cuts import Refusal
from rivet_fleet.planning.window import Cursor, Moving, cursor_of, unseen_by, window_of
from tests.unit.planning.shapes import PRIMARY, column, index, table

COLUMNS = (
    column("id", TypeKind.INT64),
    column("code", TypeKind.STRING),
    column("ref", TypeKind.UUID),
    column("due", TypeKind.DATE),
    column("price", TypeKind.DECIMAL),
    replace(column("touched", TypeKind.TIMESTAMP), set_on_update=True),
    column("updated_at", TypeKind.TIMESTAMP),
    column("flag", TypeKind.BOOL),
)
FACTS = table(
    columns=COLUMNS, indexes=(PRIMARY, index("by_code", "code"), index("by_ref", "ref", "id"))
)


def export(**more: Any) -> ExportConfig:
    return ExportConfig.model_validate(
        {
            "name": "t",
            "table": "t",
            "mode": "incremental",
            "format": "parquet",
            "destination": {"type": "local", "path": "out"},
            **more,
        }
    )


KEYED = {"mode": "chunked", "keyset_incremental": True}


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"cursor_column": "code"}, "cursor_column"),
        ({"cursor_column": "ref"}, "cursor_column"),
        ({**KEYED, "chunk_by_key": "code"}, "chunk_by_key"),
        ({**KEYED, "chunk_by_key": ["ref", "id"]}, "chunk_by_key"),
    ],
)
def test_what_does_not_rise_by_itself_needs_a_word(settings: dict[str, Any], setting: str) -> None:
    refused = cursor_of(export(**settings), FACTS)
    assert isinstance(refused, Refusal)
    assert refused.setting == setting
    assert "cursor_is_monotonic: true" in (refused.suggestion or "")
    assert isinstance(cursor_of(export(**settings, cursor_is_monotonic=True), FACTS), Cursor)


def test_that_word_makes_no_cursor_of_what_has_no_order() -> None:
    refused = cursor_of(export(cursor_column="flag", cursor_is_monotonic=True), FACTS)
    assert isinstance(refused, Refusal)


@pytest.mark.parametrize("name", ["id", "due", "price", "touched", "updated_at"])
def test_what_rises_is_taken(name: str) -> None:
    assert isinstance(cursor_of(export(cursor_column=name), FACTS), Cursor)


@pytest.mark.parametrize(
    ("settings", "said", "unsaid"),
    [
        ({"cursor_column": "touched"}, "deletes; rows that are committed below", "updates"),
        ({"cursor_column": "updated_at"}, "updates that leave updated_at as it is", "nothing says"),
        ({"cursor_column": "due"}, "nothing says that due changes with its row", "leave"),
        ({"cursor_column": "due", "cursor_overlap_s": 60}, "more than 60 s after", "again"),
        ({**KEYED, "chunk_by_key": "id"}, "every update of a row that was read", "overlap"),
    ],
)
def test_what_it_misses_is_one_sentence(settings: dict[str, Any], said: str, unsaid: str) -> None:
    columns = tuple(settings.get("chunk_by_key", settings.get("cursor_column")).split())
    sentence = unseen_by(export(**settings), FACTS, columns, None)
    assert said in sentence
    assert unsaid not in sentence


# -- columns that `columns:` reads as another type: the source still compares them by their own ---

K = TypeKind
TAKEN, PROMISED, NEVER = "taken", "promised", "never"
"""As a cursor: by itself, where it is said to rise, not at all."""
CASTS = [
    (K.STRING, K.INT64, PROMISED),
    (K.STRING, K.DECIMAL, PROMISED),
    (K.STRING, K.DATE, PROMISED),
    (K.STRING, K.TIMESTAMP, PROMISED),
    (K.STRING, K.TIMESTAMP_UTC, PROMISED),
    (K.UUID, K.STRING, PROMISED),
    (K.BINARY, K.UUID, PROMISED),
    (K.ENUM, K.STRING, NEVER),
    (K.JSON, K.STRING, NEVER),
    (K.BOOL, K.INT32, NEVER),
    (K.TIME, K.STRING, NEVER),
    (K.FLOAT64, K.DECIMAL, NEVER),
    (K.INT32, K.INT64, TAKEN),
    (K.INT64, K.STRING, TAKEN),
    (K.DECIMAL, K.FLOAT64, TAKEN),
    (K.DATE, K.STRING, TAKEN),
    (K.TIMESTAMP, K.TIMESTAMP_UTC, TAKEN),
    (K.TIMESTAMP_UTC, K.DATE, TAKEN),
]
MOVES = {K.DATE, K.TIMESTAMP, K.TIMESTAMP_UTC}
WHOLE = {K.INT32, K.INT64, K.DECIMAL}


def cast(name: str, own: TypeKind, sent: TypeKind, **more: Any) -> ColumnFacts:
    plain = column(name, own, **more)
    return replace(plain, type=ColumnType(kind=sent), uncast=plain)


def with_cast(own: TypeKind, sent: TypeKind) -> SourceFacts:
    first, second = cast("c", own, sent), cast("f", own, sent, nullable=True)
    plain = column("like", sent)
    return replace(
        FACTS,
        columns=(COLUMNS[0], first, second, plain),
        indexes=(PRIMARY, index("by_c", "c", "id"), index("by_f", "f", unique=False)),
    )


@pytest.mark.parametrize(("own", "sent", "expected"), CASTS)
@pytest.mark.parametrize(
    "settings", [{"cursor_column": "c"}, {**KEYED, "chunk_by_key": ["c", "id"]}]
)
def test_a_cursor_is_judged_by_the_type_that_the_source_compares(
    settings: dict[str, Any], own: TypeKind, sent: TypeKind, expected: str
) -> None:
    facts = with_cast(own, sent)
    found = cursor_of(export(**settings), facts)
    assert isinstance(found, Cursor) == (expected is TAKEN)
    if isinstance(found, Refusal):
        assert "whatever `columns:` makes of what is delivered" in found.reason
    promised = cursor_of(export(**settings, cursor_is_monotonic=True), facts)
    assert isinstance(promised, Cursor) == (expected is not NEVER)


@pytest.mark.parametrize(("own", "sent", "expected"), CASTS)
def test_what_goes_with_a_cursor_is_judged_by_that_type_too(
    own: TypeKind, sent: TypeKind, expected: str
) -> None:
    facts = with_cast(own, sent)

    def taken(**settings: Any) -> bool:
        settings = {"cursor_column": "c", "cursor_is_monotonic": True, **settings}
        return isinstance(cursor_of(export(**settings), facts), Cursor)

    coalesced = {"incremental_cursor_mode": "coalesce"}
    assert taken(**coalesced, cursor_fallback_column="f") == (expected is not NEVER)
    alike = own is sent and expected is not NEVER
    assert taken(**coalesced, cursor_fallback_column="like") == alike
    assert taken(cursor_overlap_s=60) == (own in MOVES)
    timed = {"cursor_column": None, "mode": "time_window", "time_column": "c", "days_window": 3}
    assert taken(**timed) == (own in MOVES)
    assert taken(**timed, time_column_type="unix") == (own in WHOLE)


@pytest.mark.parametrize(
    ("order", "expected"), [(K.DECIMAL, TAKEN), (K.STRING, PROMISED), (None, NEVER)]
)
def test_a_type_that_is_not_carried_is_a_cursor_as_it_is_ordered(
    order: TypeKind | None, expected: str
) -> None:
    plain = replace(column("c", K.STRING), type=None, order=order)
    read = replace(plain, type=ColumnType(kind=K.DECIMAL), uncast=plain)
    facts = replace(FACTS, columns=(COLUMNS[0], read))
    assert isinstance(cursor_of(export(cursor_column="c"), facts), Cursor) == (expected is TAKEN)
    promised = cursor_of(export(cursor_column="c", cursor_is_monotonic=True), facts)
    assert isinstance(promised, Cursor) == (expected is not NEVER)


def test_a_window_of_days_begins_as_the_column_itself_is_compared() -> None:
    asked = export(mode="time_window", time_column="c", days_window=1)
    begins = []
    for own, sent in ((K.TIMESTAMP_UTC, K.DATE), (K.DATE, K.TIMESTAMP_UTC)):
        found = window_of(asked, with_cast(own, sent), Moving(mark=None, newest=NOTHING), 86_400.5)
        assert found is not None and not isinstance(found, Refusal) and found.window.lower
        begins.append(found.window.lower.values)
    assert begins == [("1970-01-01 00:00:00",), ("1970-01-01",)]


NOTHING = Newest(values=None)
