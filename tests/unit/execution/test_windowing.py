"""A window as SQL: both engines, every strategy, every treatment of NULL."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest

from rivet_fleet.contracts.codec import from_plain, to_plain
from rivet_fleet.contracts.keys import ChunkRange, KeyTuple, RangeKind
from rivet_fleet.contracts.window import RowWindow, WindowBound, WindowNulls, describe_window
from rivet_fleet.execution.keyset import KeysetPager
from rivet_fleet.execution.paging import (
    KeyDialect,
    Select,
    SpanPager,
    conditions,
    windowed,
)
from rivet_fleet.execution.source import PageLimit
from rivet_fleet.execution.sources.mysql.statements import Keys
from tests.postgres_keys import PlainKeys

MYSQL: KeyDialect = Keys(
    native_types={"at": "datetime(6)", "made": "datetime(6)", "id": "bigint(20)", "day": "date"}
)
POSTGRES: KeyDialect = PlainKeys()
LOWER = WindowBound(values=("2026-01-01 00:00:00", "7"), inclusive=False)
UPPER = WindowBound(values=("2026-01-02 00:00:00", "9"), inclusive=True)
PAIR = RowWindow(columns=("at", "id"), lower=LOWER, upper=UPPER)


def test_a_pair_is_one_row_comparison_where_an_index_serves_it() -> None:
    assert conditions(POSTGRES, PAIR) == (
        """(_rivet."at", _rivet."id") > ('2026-01-01 00:00:00', '7')""",
        """(_rivet."at", _rivet."id") <= ('2026-01-02 00:00:00', '9')""",
    )
    assert conditions(MYSQL, PAIR) == (
        "(_rivet.`at` > '2026-01-01 00:00:00' OR "
        "(_rivet.`at` = '2026-01-01 00:00:00' AND _rivet.`id` > 7))",
        "(_rivet.`at` < '2026-01-02 00:00:00' OR "
        "(_rivet.`at` = '2026-01-02 00:00:00' AND _rivet.`id` <= 9))",
    )


def test_a_bound_may_name_the_cursor_alone() -> None:
    window = RowWindow(
        columns=("at", "id"), lower=WindowBound(values=("2026-01-01",), inclusive=True)
    )
    assert conditions(POSTGRES, window) == ("""_rivet."at" >= '2026-01-01'""",)


def test_coalesce_is_computed_by_the_server() -> None:
    window = RowWindow(columns=("at", "id"), fallback="made", lower=LOWER)
    both = """COALESCE(_rivet."at", _rivet."made")"""
    assert conditions(POSTGRES, window) == (
        f"({both} > '2026-01-01 00:00:00' OR ({both} = '2026-01-01 00:00:00' "
        """AND _rivet."id" > '7'))""",
    )
    # Next to an expression MySQL compares an uncast moment as text.
    (mysql,) = conditions(MYSQL, window)
    assert "COALESCE(_rivet.`at`, _rivet.`made`) > CAST('2026-01-01 00:00:00' AS DATETIME(6))" in (
        mysql
    )


def test_nulls_are_outside_inside_or_alone() -> None:
    low = WindowBound(values=("2026-01-01",), inclusive=True)
    null = '_rivet."day" IS NULL'
    assert conditions(POSTGRES, RowWindow(columns=("day",))) == (f"NOT ({null})",)
    inside = RowWindow(columns=("day",), lower=low, nulls=WindowNulls.INSIDE)
    assert conditions(POSTGRES, inside) == (f"""({null} OR (_rivet."day" >= '2026-01-01'))""",)
    assert conditions(POSTGRES, RowWindow(columns=("day",), nulls=WindowNulls.INSIDE)) == ()
    assert conditions(POSTGRES, RowWindow(columns=("day",), nulls=WindowNulls.ONLY)) == (null,)
    both = RowWindow(columns=("at",), fallback="made", nulls=WindowNulls.ONLY)
    assert conditions(POSTGRES, both) == ('_rivet."at" IS NULL AND _rivet."made" IS NULL',)
    with pytest.raises(ValueError, match="no bounds"):
        RowWindow(columns=("day",), lower=low, nulls=WindowNulls.ONLY)


@pytest.mark.parametrize("dialect", [POSTGRES, MYSQL])
def test_an_empty_window_never_touches_the_table(dialect: KeyDialect) -> None:
    assert conditions(dialect, RowWindow(columns=("at",), lower=LOWER_ONE, empty=True)) == (
        "FALSE",
    )


LOWER_ONE = WindowBound(values=("2026-01-01 00:00:00",), inclusive=False)


def _batch(*rows: KeyTuple) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([{str(i): v for i, v in enumerate(row)} for row in rows])


def _keys(batch: pa.RecordBatch, row: int) -> KeyTuple:
    return tuple(column[row].as_py() for column in batch.columns)


def _pages(chunk: ChunkRange, make: Callable[..., KeysetPager | SpanPager]) -> list[Select]:
    pager = make("*", "t", chunk)
    limit = PageLimit(rows_max=1, bytes_max=100)
    first = windowed(pager.select(limit), POSTGRES, PAIR, chunk)
    pager.accept(_batch(("2026-01-01 12:00:00", "8")[: len(chunk.columns)]), 1, cut=False)
    return [first, windowed(pager.select(limit), POSTGRES, PAIR, chunk)]


def test_a_page_in_the_windows_own_order_has_one_lower_bound() -> None:
    """Two of them, and PostgreSQL would begin each page at the mark again."""

    def make(columns: str, source: str, chunk: ChunkRange) -> KeysetPager:
        return KeysetPager(POSTGRES, columns, source, chunk, _keys, index_walk=True)

    first, second = _pages(ChunkRange(kind=RangeKind.KEYSET, columns=("at", "id")), make)
    assert first.where == conditions(POSTGRES, PAIR)
    assert second.where == (
        """(_rivet."at", _rivet."id") > ('2026-01-01 12:00:00', '8')""",
        conditions(POSTGRES, PAIR)[1],
    )
    by_key = _pages(ChunkRange(kind=RangeKind.KEYSET, columns=("id", "at")), make)
    assert all(page.where[-2:] == conditions(POSTGRES, PAIR) for page in by_key)
    begun = ChunkRange(kind=RangeKind.KEYSET, columns=("at", "id"), lower=("2026-01-01", "1"))
    assert _pages(begun, make)[0].where[1:] == conditions(POSTGRES, PAIR)


def test_every_page_of_a_span_is_windowed() -> None:
    def make(columns: str, source: str, chunk: ChunkRange) -> SpanPager:
        return SpanPager(POSTGRES, columns, source, chunk, _keys)

    for page in _pages(ChunkRange(kind=RangeKind.SPAN, columns=("id",)), make):
        assert page.where[-2:] == conditions(POSTGRES, PAIR)


def test_a_window_says_what_it_holds_and_survives_the_plan() -> None:
    assert describe_window(PAIR) == ("(at, id) in (2026-01-01 00:00:00, 7; 2026-01-02 00:00:00, 9]")
    assert describe_window(RowWindow(columns=("at",), empty=True)) == "no rows: nothing new by at"
    window = RowWindow(columns=("at",), fallback="made", nulls=WindowNulls.INSIDE)
    assert describe_window(window) == "(coalesce(at, made)) in (-∞; ∞) or null"
    assert from_plain(RowWindow, to_plain(PAIR)) == PAIR
    with pytest.raises(ValueError, match="bound values"):
        RowWindow(columns=("at",), lower=LOWER)
