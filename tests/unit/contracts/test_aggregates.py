"""Measures of columns: which, how pieces of them are joined, and what a server may say."""

from __future__ import annotations

from decimal import Decimal

import pytest

from rivet_fleet.contracts.aggregates import (
    asked_of,
    differing,
    digest_of,
    joined,
    measures_of,
    scaled,
    written,
)
from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, Fidelity, TypeKind
from rivet_fleet.contracts.facts import Measure, number_of
from rivet_fleet.contracts.reconcile import RangeVerdict, Side, judged_measures

NAN = Decimal("NaN")


def column(kind: TypeKind, name: str = "c", **more: object) -> ColumnSpec:
    fidelity = more.pop("fidelity", Fidelity.EXACT)
    kinds = {"precision": 20, "scale": 2} if kind is TypeKind.DECIMAL else {}
    kind_of = ColumnType(kind=kind, fidelity=fidelity, **kinds)  # type: ignore[arg-type]
    return ColumnSpec(name=name, native_type="", type=kind_of, **more)  # type: ignore[arg-type]


def test_what_two_servers_may_mean_otherwise_is_not_compared() -> None:
    """Sums of floating numbers hang on their order, extremes of texts on a collation."""
    said = {kind: {one.value for one in measures_of(column(kind))} for kind in TypeKind}
    assert all("nulls" in measures for measures in said.values())
    assert said[TypeKind.FLOAT64] == {"nulls", "min", "max"}
    assert said[TypeKind.STRING] == {"nulls", "bytes"}
    assert said[TypeKind.DECIMAL] == {"nulls", "min", "max", "sum"}
    assert said[TypeKind.JSON] == said[TypeKind.FLOAT32] == {"nulls"}
    for changed in ({"cast": "text"}, {"fidelity": Fidelity.LOSSY}):
        assert measures_of(column(TypeKind.INT64, **changed)) == (Measure.NULLS,)


def test_pieces_are_joined_exactly_and_nan_is_above_all_numbers() -> None:
    wide = scaled(10**77 + 1, 2)
    assert joined(Measure.SUM, [wide, None, wide]) == scaled(2 * 10**77 + 2, 2)
    assert joined(Measure.SUM, []) == joined(Measure.NULLS, [None]) == 0
    assert joined(Measure.LEAST, [NAN, Decimal(3), None]) == 3
    assert written(joined(Measure.MOST, [NAN, Decimal(3)])) == "NaN"
    assert written(joined(Measure.LEAST, [NAN])) == written(joined(Measure.SUM, [NAN])) == "NaN"
    assert joined(Measure.MOST, []) is None
    both = [Decimal("Infinity"), Decimal("-Infinity")]
    assert written(joined(Measure.SUM, both)) == "NaN"
    assert [written(Decimal(one)) for one in ("-0.0", "1.50", "1E+3")] == ["0", "1.5", "1000"]
    assert written(None) != written(Decimal(0))


def test_sides_differ_by_measure_and_their_digests_add_up() -> None:
    asked = asked_of([column(TypeKind.DECIMAL, "total"), column(TypeKind.STRING, "note")])
    one = [Decimal(n) for n in ("0", "1.00", "5", "6", "1", "40")]
    other = [Decimal(n) for n in ("0", "1", "5", "6.01", "0", "40")]
    assert differing(asked, one, other) == {"total": ("sum",), "note": ("nulls",)}
    # Of two ranges together: a row that lies in another one is the same row.
    sums = [
        sum(int(digest_of(asked, side), 16) for side in pair)
        for pair in ((one, other), (other, one))
    ]
    assert sums[0] % 2**64 == sums[1] % 2**64
    assert digest_of(asked, one) != digest_of(asked, other)


@pytest.mark.parametrize("said", ["", "x", b"\xff", "1e999999999", "9" * 401, "1e-500", "(1,2)"])
def test_a_server_that_says_no_number_is_refused(said: object) -> None:
    """Ten bytes of a power of ten are hours of a process that writes it out."""
    with pytest.raises(ValueError, match="number"):
        number_of(said)


def test_what_a_server_says_is_a_number() -> None:
    assert number_of(None) is None and number_of(b"-1.50") == Decimal("-1.5")
    assert number_of(7) == 7 and number_of("5e-324") == Decimal("5e-324")
    assert written(number_of("NaN")) == "NaN"


@pytest.mark.parametrize(
    ("source", "files", "measures", "verdict"),
    [
        (Side(rows=3), Side(rows=3), {}, RangeVerdict.MATCH),
        (Side(rows=3), Side(rows=3), {"a": ("sum",)}, RangeVerdict.MISMATCH),
        # No row is lacking: none that left the settled ones can be why.
        (Side(rows=3, unsettled=5), Side(rows=3), {"a": ("sum",)}, RangeVerdict.MISMATCH),
        (Side(rows=2, unsettled=1), Side(rows=3), {"a": ("sum",)}, RangeVerdict.UNSETTLED),
        (Side(rows=2), Side(rows=3), {"a": ("sum",)}, RangeVerdict.MISMATCH),
        (Side(rows=2), Side(rows=3), {}, RangeVerdict.MISMATCH),
    ],
)
def test_measures_are_judged_with_the_numbers_of_rows(source, files, measures, verdict) -> None:
    found, sentence = judged_measures(source, files, measures)
    assert found is verdict
    assert ("sum of a" in sentence) == bool(measures)
