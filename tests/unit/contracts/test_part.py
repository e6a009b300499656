"""Receipts of parts: what older ones lack, and how checksums add up."""

from __future__ import annotations

import pytest

from rivet_fleet.contracts.codec import dumps, from_plain, loads
from rivet_fleet.contracts.manifest import ColumnStats, added_checksums


def test_a_column_from_before_there_were_checksums_has_none() -> None:
    plain = {"name": "id", "nulls": 1, "minimum": None, "maximum": None, "changed": 0}
    assert from_plain(ColumnStats, plain) == ColumnStats(name="id", nulls=1)
    now = ColumnStats(name="id", nulls=1, checksum="value64:00000000000000ff")
    assert loads(ColumnStats, dumps(now)) == now


@pytest.mark.parametrize(
    ("checksums", "total"),
    [
        (["value64:ffffffffffffffff", "value64:0000000000000003"], "value64:0000000000000002"),
        (["value64:00000000000000ff"], "value64:00000000000000ff"),
        (["value64:0000000000000001", None], None),
        (["value64:0000000000000001", "cell64:0000000000000001"], None),
        ([None, None], None),
        ([], None),
    ],
)
def test_checksums_of_one_kind_add_up(checksums: list[str | None], total: str | None) -> None:
    assert added_checksums(checksums) == total
