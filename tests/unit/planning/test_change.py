"""What is told about columns and numbers that differ from former runs."""

from __future__ import annotations

import pytest

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.contracts.keys import RunId
from rivet_fleet.contracts.quality import SchemaChangeCode, ShapeChangeCode
from rivet_fleet.contracts.state import MeasuredRun
from rivet_fleet.planning.change import schema_changes, shape_changes

INT = ColumnType(kind=TypeKind.INT32)
BIG = ColumnType(kind=TypeKind.INT64)


def column(
    name: str,
    native: str = "integer",
    kind: ColumnType = INT,
    *,
    nullable: bool = False,
    cast: str | None = None,
) -> ColumnSpec:
    return ColumnSpec(name=name, native_type=native, type=kind, nullable=nullable, cast=cast)


BASE = (column("a"), column("b"), column("c"))


@pytest.mark.parametrize(
    ("after", "code", "sentence"),
    [
        ((*BASE, column("d")), SchemaChangeCode.ADDED, "column d (integer) is new"),
        (BASE[:2], SchemaChangeCode.REMOVED, "column c (integer) is gone"),
        (
            (*BASE[:2], column("c", "bigint", BIG)),
            SchemaChangeCode.RETYPED,
            "column c was integer and is bigint",
        ),
        (
            (*BASE[:2], column("c", cast="text")),
            SchemaChangeCode.RETYPED,
            "column c was integer and is integer as text",
        ),
        (
            (*BASE[:2], column("c", kind=BIG)),
            SchemaChangeCode.RETYPED,
            "column c was exported as int32 and is exported as int64",
        ),
        (
            (*BASE[:2], column("c", nullable=True)),
            SchemaChangeCode.NULLABILITY,
            "column c was NOT NULL and is nullable",
        ),
        (
            (BASE[1], BASE[0], BASE[2]),
            SchemaChangeCode.REORDERED,
            "the order of columns was a, b, c and is b, a, c",
        ),
    ],
)
def test_each_kind_of_difference_is_one_change(after, code, sentence) -> None:
    (change,) = schema_changes(BASE, after)
    assert (change.code, change.sentence) == (code, sentence)


def test_equal_columns_are_no_change_and_several_are_all_told() -> None:
    assert schema_changes(BASE, BASE) == ()
    both = schema_changes(BASE, (column("b", "bigint", BIG, nullable=True), column("z")))
    assert [change.code.name for change in both] == [
        "REMOVED", "REMOVED", "ADDED", "RETYPED", "NULLABILITY",
    ]  # fmt: skip


def former(*runs: tuple[int, int], succeeded: bool = True) -> list[MeasuredRun]:
    return [
        MeasuredRun(
            run_id=RunId(f"r{i}"), run_at_s=float(i), succeeded=succeeded, rows=rows, bytes=size,
            duration_s=1.0, work_s=1.0, chunks=1, retries=0,
        )
        for i, (rows, size) in enumerate(runs)
    ]  # fmt: skip


MB = 1024 * 1024


@pytest.mark.parametrize(
    ("rows", "size", "mode", "factor", "codes"),
    [
        (10_000, 4 * MB, "full", 2.0, []),
        (20_000, 8 * MB, "full", 2.0, []),
        (20_001, 8 * MB, "full", 2.0, ["ROWS"]),
        (4_999, 2 * MB, "full", 2.0, ["ROWS"]),
        (0, 0, "full", 2.0, ["ROWS", "BYTES"]),
        (10_000, 9 * MB, "full", 2.0, ["BYTES", "ROW_WIDTH"]),
        (10_000, 9 * MB, "incremental", 2.0, ["ROW_WIDTH"]),
        (100_000, 40 * MB, "incremental", 2.0, []),
        (0, 0, "full", 0.0, []),
        (21_000, 8 * MB, "chunked", 3.0, []),
    ],
)
def test_numbers_far_from_the_median_are_told(rows, size, mode, factor, codes) -> None:
    usual = former((10_000, 4 * MB), (9_000, 4 * MB), (11_000, 4 * MB))
    found = shape_changes(usual, rows=rows, size_bytes=size, mode=mode, factor=factor)
    assert [change.code.name for change in found] == codes


def test_small_tables_and_failed_runs_are_no_measure() -> None:
    assert shape_changes(former((3, 90)), rows=7, size_bytes=900, mode="full", factor=2.0) == ()
    bad = former((10_000, 4 * MB), succeeded=False)
    assert shape_changes(bad, rows=0, size_bytes=0, mode="full", factor=2.0) == ()


def test_the_sentence_names_both_numbers() -> None:
    (rows,) = shape_changes(former((9_000, 10)), rows=0, size_bytes=0, mode="full", factor=2.0)
    assert rows.code is ShapeChangeCode.ROWS
    assert rows.sentence == "0 rows; the last run had 9,000"
