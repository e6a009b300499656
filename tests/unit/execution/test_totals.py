"""Measures of columns against Python's own arithmetic."""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rivet_fleet.contracts.aggregates import asked_of, written
from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.execution.totals import Totals
from rivet_fleet.execution.types import arrow_schema


def spec(kind: TypeKind, **more: Any) -> ColumnSpec:
    return ColumnSpec(name="c", native_type="", type=ColumnType(kind=kind, **more))


def measured(one: ColumnSpec, *pieces: list[Any], flags: Any = None) -> dict[str, str]:
    asked = asked_of([one])
    totals = Totals(asked)
    (field,) = arrow_schema((one,))
    for piece in pieces:
        totals.add({"c": pa.array(piece, field.type)}, flags)
    pairs = zip(asked, totals.values, strict=True)
    return {each.measure.value: written(value) for each, value in pairs}


INTEGERS = {
    TypeKind.INT16: (-(2**15), 2**15 - 1),
    TypeKind.INT64: (-(2**63), 2**63 - 1),
    TypeKind.UINT64: (0, 2**64 - 1),
}


@settings(max_examples=25, derandomize=True, deadline=None)
@given(st.data(), st.sampled_from([*INTEGERS, 12, 38, 76]))
def test_sums_are_exact_wherever_the_rows_are_cut(data: Any, kind: TypeKind | int) -> None:
    if isinstance(kind, int):
        one, scale = spec(TypeKind.DECIMAL, precision=kind, scale=3), 3
        low, high = 1 - 10**kind, 10**kind - 1
    else:
        (low, high), one, scale = INTEGERS[kind], spec(kind), 0
    edges = st.sampled_from([low, high, 0])
    units = data.draw(st.lists(st.none() | edges | st.integers(low, high), max_size=12))
    cut = data.draw(st.integers(0, 12))
    with localcontext() as exact:
        exact.prec = 200
        values = [n if n is None or not scale else Decimal(n).scaleb(-scale) for n in units]
        known = [Decimal(one) for one in values if one is not None]
        expected = {
            "nulls": str(values.count(None)),
            "min": written(min(known, default=None)),
            "max": written(max(known, default=None)),
            "sum": written(sum(known, Decimal(0))),
        }
    # Outside: what is measured must be exact in whatever context.
    assert measured(one, values[:cut], values[cut:]) == expected


def test_each_kind_is_measured_as_a_server_would() -> None:
    nan, inf = float("nan"), float("inf")
    share = spec(TypeKind.FLOAT64)
    assert measured(share, [1.5, None], [-0.0]) == {"nulls": "1", "min": "0", "max": "1.5"}
    assert measured(share, [nan], [2.0]) == {"nulls": "0", "min": "2", "max": "NaN"}
    assert measured(share, [nan, 2.0]) == {"nulls": "0", "min": "2", "max": "NaN"}
    assert measured(share, [nan]) == {"nulls": "0", "min": "NaN", "max": "NaN"}
    assert measured(share, [inf, 0.1])["max"] == "Infinity"
    assert measured(share, [0.1])["min"] == "0.1"
    assert measured(spec(TypeKind.STRING), ["né", None, ""]) == {"nulls": "1", "bytes": "3"}
    assert measured(spec(TypeKind.BOOL), [True, False, True, None]) == {"nulls": "1", "sum": "2"}
    assert measured(spec(TypeKind.DATE), [None, 5, -3]) == {"nulls": "1", "min": "-3", "max": "5"}
    assert measured(spec(TypeKind.TIMESTAMP_UTC), [10**15 + 1])["max"] == str(10**15 + 1)


@pytest.mark.parametrize("flags", [[True, False, True]])
def test_only_settled_rows_are_measured(flags: list[bool]) -> None:
    found = measured(spec(TypeKind.INT64), [1, 20, None], flags=np.array(flags))
    assert found == {"nulls": "1", "min": "1", "max": "1", "sum": "1"}
