"""Verdicts, recommendations and warnings at every border of their tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rivet_fleet.contracts.priority import Severity, Verdict
from rivet_fleet.planning.judging import (
    Access,
    peak_mb,
    preflight,
    recommended_parallel,
    recommended_profile,
    sparse_range,
    verdict,
)

V = Verdict
M = 1_000_000
MIB = 1024 * 1024


def access(**changes: Any) -> Access:
    return Access(**{"uses_index": True, "cursor": True, "rows": 1000, **changes})


@pytest.mark.parametrize(
    ("uses_index", "cursor", "rows", "expected"),
    [
        (True, True, 10 * M, V.EFFICIENT),
        (True, True, 10 * M + 1, V.ACCEPTABLE),
        (True, True, None, V.ACCEPTABLE),
        (True, False, 10, V.ACCEPTABLE),
        (True, False, 10**12, V.ACCEPTABLE),
        (False, True, 99_999, V.ACCEPTABLE),
        (False, False, 99_999, V.ACCEPTABLE),
        (False, True, 100_000, V.DEGRADED),
        (False, False, M, V.DEGRADED),
        (False, False, None, V.DEGRADED),
        (None, False, None, V.DEGRADED),
        (False, True, 50 * M, V.DEGRADED),
        (False, True, 50 * M + 1, V.UNSAFE),
        (False, False, M + 1, V.UNSAFE),
        (None, False, M + 1, V.UNSAFE),
    ],
)
def test_the_verdict_table(
    uses_index: bool | None, cursor: bool, rows: int | None, expected: Verdict
) -> None:
    assert verdict(access(uses_index=uses_index, cursor=cursor, rows=rows)) is expected


def test_a_known_width_that_fits_in_memory_softens_unsafe() -> None:
    large: dict[str, Any] = {"uses_index": False, "cursor": False, "rows": 2 * M}
    assert verdict(access(**large, row_bytes=100)) is V.DEGRADED
    assert peak_mb(15, 10**6) < 2048 < peak_mb(16, 10**6)
    assert verdict(access(**large, row_bytes=10**6, parallel=15)) is V.DEGRADED
    assert verdict(access(**large, row_bytes=10**6, parallel=16)) is V.UNSAFE


def test_the_memory_model() -> None:
    assert peak_mb(1, 0) == 16 + 18
    assert peak_mb(2, 2048) == 16 + 2 * (18 + 43.5)
    assert peak_mb(1, 10**9) == 16 + 128


@pytest.mark.parametrize(
    ("uses_index", "rows", "parallel", "profile"),
    [
        (True, M, 1, "fast"),
        (True, M + 1, 1, "balanced"),
        (True, 10 * M + 1, 1, "safe"),
        (False, 100_000, 1, "balanced"),
        (False, 100_000, 2, "safe"),
        (False, 100_001, 2, "balanced"),
        (False, M + 1, 1, "safe"),
        (True, None, 1, "balanced"),
        (False, None, 1, "safe"),
    ],
)
def test_the_profile_table(uses_index: bool, rows: int | None, parallel: int, profile: str) -> None:
    assert (
        recommended_profile(access(uses_index=uses_index, rows=rows, parallel=parallel)) == profile
    )


@pytest.mark.parametrize(
    ("changes", "parallel"),
    [
        ({"chunked": False, "rows": M}, 1),
        ({"rows": 49_999}, 1),
        ({"rows": 50_000}, 2),
        ({"rows": 499_999}, 2),
        ({"rows": 500_000}, 4),
        ({"rows": 5 * M, "uses_index": False}, 2),
        ({"rows": 5 * M + 1, "uses_index": False}, 1),
        ({"rows": None}, 2),
        ({"rows": None, "uses_index": False}, 1),
        ({"rows": M, "keyset": True, "parallel": 7}, 7),
    ],
)
def test_the_parallel_table(changes: dict[str, Any], parallel: int) -> None:
    assert recommended_parallel(access(**{"chunked": True, **changes})) == parallel


def test_a_range_is_sparse_below_a_tenth_and_above_ten_windows() -> None:
    spread = {"rows": 10_000, "rows_per_chunk": 10_000}
    assert sparse_range(access(**spread, key_span=110_001))
    assert not sparse_range(access(**spread, key_span=100_000)), "a tenth is dense enough"
    assert not sparse_range(access(rows=1, rows_per_chunk=100, key_span=1000)), "ten windows"
    assert sparse_range(access(rows=1, rows_per_chunk=100, key_span=1001))
    assert not sparse_range(access(rows=0, key_span=10**9))
    assert not sparse_range(access(rows=None, key_span=10**9))
    assert not sparse_range(access(rows=1, key_span=None))


def warned(**changes: Any) -> dict[str, Severity]:
    return {one.code: one.severity for one in preflight(access(**changes)).warnings}


def test_warnings_at_their_thresholds() -> None:
    assert warned() == {}
    assert warned(parallel=4, connections_max=4) == {"connection_limit": Severity.HIGH}
    assert warned(parallel=4, connections_max=5) == {}
    sparse = warned(rows=10, key_span=10**9, rows_per_chunk=10)
    assert sparse == {"sparse_range": Severity.MEDIUM}
    assert warned(rows=M, rows_per_chunk=256 * 1024, row_bytes=1024) == {}
    oversized = {"oversized_chunk": Severity.MEDIUM}
    assert warned(rows=M, rows_per_chunk=256 * 1024 + 1, row_bytes=1024) == oversized
    assert warned(rows=None, rows_per_chunk=256 * 1024 + 1, row_bytes=1024) == oversized
    assert warned(rows=3, rows_per_chunk=256 * 1024 + 1, row_bytes=1024) == {}, "all there is"
    assert warned(parallel=2, rows=5 * M) == {}
    assert warned(parallel=2, rows=5 * M + 1) == {"parallel_memory": Severity.HIGH}
    assert warned(uses_index=False, rows=99_999) == {}
    assert warned(uses_index=False, rows=100_000) == {"missing_index": Severity.MEDIUM}
    assert warned(uses_index=None, rows=10**9) == {}, "unknown is not missing"


@given(
    st.builds(
        Access,
        uses_index=st.sampled_from([True, False, None]),
        cursor=st.booleans(),
        rows=st.none(),
        row_bytes=st.none() | st.integers(0, 10**7),
        parallel=st.integers(1, 64),
    ),
    st.integers(0, 10**10),
    st.integers(0, 10**10),
)
def test_more_rows_never_make_a_better_verdict(one: Access, rows: int, others: int) -> None:
    order = list(Verdict)
    fewer, more = (order.index(verdict(replace(one, rows=n))) for n in sorted((rows, others)))
    assert fewer <= more
