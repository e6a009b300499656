"""A cursor of another program as a mark of ours: in the source's own form, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from rivet_fleet.contracts.columns import TypeKind
from rivet_fleet.contracts.window import describe_mark, mark_values
from rivet_fleet.planning.binding import mark_of_value
from rivet_fleet.planning.cuts import Refusal
from rivet_fleet.planning.window import Cursor
from tests.integration.increment_kit import export_of
from tests.unit.planning.shapes import column, table

WITH_OFFSET, WITHOUT = "2025-05-05 05:05:05+00", "2025-05-05 05:05:05.000000"


def mark_of(kind: TypeKind, value: str, sample: str = "", **more: Any) -> str | Refusal:
    facts = table(columns=(column("at", kind), column("id", TypeKind.INT64)))
    cursor = Cursor(mode="single_column", setting="cursor_column", columns=("at", "id"), **more)
    return mark_of_value(export_of(), facts, cursor, value, sample)


@pytest.mark.parametrize(
    ("kind", "value", "sample", "written"),
    [
        (TypeKind.INT64, "17", "18", "17"),
        (TypeKind.INT64, " -5 ", "18", "-5"),
        (TypeKind.DECIMAL, "1.50", "2.00", "1.50"),
        (TypeKind.DATE, "2026-01-02", "2026-02-02", "2026-01-02"),
        (TypeKind.DATE, "2026-01-02T00:00:00", "2026-02-02", "2026-01-02"),
        (TypeKind.TIMESTAMP, "2026-01-02T03:04:05.678901", WITHOUT, "2026-01-02 03:04:05.678901"),
        (TypeKind.TIMESTAMP, "2026-01-02 03:04:05", WITHOUT, "2026-01-02 03:04:05"),
        (TypeKind.TIMESTAMP_UTC, "2026-01-02T03:04:05Z", WITH_OFFSET, "2026-01-02 03:04:05+00"),
        (
            TypeKind.TIMESTAMP_UTC,
            "2026-01-02T05:04:05+02:00",
            WITH_OFFSET,
            "2026-01-02 03:04:05+00",
        ),
        (TypeKind.TIMESTAMP_UTC, "2026-01-02 03:04:05", WITHOUT, "2026-01-02 03:04:05"),
        (TypeKind.STRING, "01J8", "01J9", "01J8"),
        (TypeKind.STRING, " 01J8\t", "01J9", " 01J8\t"),
    ],
)
def test_it_is_written_as_the_source_writes_it(
    kind: TypeKind, value: str, sample: str, written: str
) -> None:
    mark = mark_of(kind, value, sample)
    assert isinstance(mark, str)
    assert mark_values(mark, ("at", "id"), None) == (written,)
    assert mark_values(mark, ("at",), None) is None and mark_values(mark, ("at", "id"), "b") is None
    assert describe_mark(mark) == f"at, id = {written}"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (TypeKind.INT64, "1.5"),
        (TypeKind.INT64, "2026-01-01"),
        (TypeKind.DECIMAL, "1e5"),
        (TypeKind.DECIMAL, "NaN"),
        (TypeKind.DATE, "yesterday"),
        (TypeKind.TIMESTAMP, "1767225600"),
        (TypeKind.TIMESTAMP_UTC, "2026-01-02'; DROP TABLE t"),
        (TypeKind.STRING, ""),
    ],
)
def test_what_is_no_value_of_the_cursor_is_refused(kind: TypeKind, value: str) -> None:
    refused = mark_of(kind, value)
    assert isinstance(refused, Refusal) and "is no value of at" in refused.reason


def test_a_cursor_of_one_value_is_no_mark_of_a_key_of_two() -> None:
    facts = table(columns=(column("a", TypeKind.INT64), column("b", TypeKind.INT64)))
    cursor = Cursor(mode="key", setting="chunk_by_key", columns=("a", "b"))
    export = export_of(
        mode="chunked", cursor_column=None, chunk_by_key=["a", "b"], keyset_incremental=True
    )
    refused = mark_of_value(export, facts, cursor, "1", "1")
    assert isinstance(refused, Refusal) and "the key has 2 columns" in refused.reason


def test_a_coalesced_cursor_keeps_its_fallback() -> None:
    mark = mark_of(TypeKind.INT64, "5", fallback="made")
    assert isinstance(mark, str) and mark_values(mark, ("at", "id"), "made") == ("5",)
