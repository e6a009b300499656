"""What a cursor can tell: types that rise by themselves, and the one sentence of what it misses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rivet_fleet.contracts.columns import TypeKind
from rivet_fleet.planning.config.models import ExportConfig
from rivet_fleet.planning.cuts import Refusal
from rivet_fleet.planning.window import Cursor, cursor_of, unseen_by
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
