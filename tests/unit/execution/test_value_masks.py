"""What decoders say of a value that they cannot take: its column, and the value on demand alone."""

from __future__ import annotations

import pytest

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.errors import MalformedData, UnsupportedType
from rivet_fleet.execution.arrays import malformed, not_representable

COLUMN = ColumnSpec(name="born", native_type="date", type=ColumnType(kind=TypeKind.DATE))


def test_a_decoder_tells_a_value_on_demand_alone() -> None:
    with pytest.raises(MalformedData) as bad:
        malformed(COLUMN, "{} is no date", "SSN 878")
    with pytest.raises(UnsupportedType) as large:
        not_representable(COLUMN, "{} is beyond every date", "read it as text", "SSN 878")
    assert "errors: {row_values: shown}" in (large.value.hint or "")
    for error in (bad.value, large.value):
        assert "SSN" not in error.message and "born" in error.message and "***" in error.message
        assert "SSN 878 is " in (error.unmasked or "")


def test_what_is_said_of_no_value_is_said_to_everybody() -> None:
    with pytest.raises(MalformedData) as bad:
        malformed(COLUMN, "it ends too early")
    assert bad.value.message == "column born: it ends too early" and bad.value.unmasked is None
