"""Duplicates are found across pages, parts and chunks, within a cap, and never denied falsely."""

from __future__ import annotations

import datetime as dt
import random
from decimal import Decimal

import pyarrow as pa
import pytest

from rivet_fleet.contracts.quality import UniqueFound, UniqueKey
from rivet_fleet.execution.uniqueness import UniqueCounter, merge_unique

CAP = 100_000


def chunks_of(
    chunks: list[list[list[object]]], kind: pa.DataType, *, within: bool = False, cap: int = CAP
) -> UniqueFound:
    """Each chunk is a list of pages; every chunk is one part."""
    key = UniqueKey(columns=("a",), within_chunks=within, entries_max=cap)
    schema = pa.schema([("a", kind)])
    parts = []
    for pages in chunks:
        counter = UniqueCounter(schema, key)
        for page in pages:
            counter.add(pa.RecordBatch.from_arrays([pa.array(page, kind)], schema=schema))
        parts.append(counter.take())
    return merge_unique(key, parts, entries_max=cap)


VALUES = {
    pa.int32(): (1, 2, 3),
    pa.uint64(): (2**64 - 1, 0, 2**63),
    pa.bool_(): (True, False, None),
    pa.float64(): (0.0, 1.5, float("nan")),
    pa.string(): ("a", "", "ä"),
    pa.large_string(): ("a", "", "ä"),
    pa.binary(): (b"a", b"", b"\x00"),
    pa.date32(): (dt.date(1, 1, 1), dt.date(2024, 1, 1), dt.date(9999, 12, 31)),
    pa.timestamp("us", "UTC"): tuple(dt.datetime(2024, 1, d, tzinfo=dt.UTC) for d in (1, 2, 3)),
    pa.time64("us"): (dt.time(0), dt.time(12), dt.time(23, 59)),
    pa.decimal128(38, 2): (Decimal("1.00"), Decimal("-1.00"), Decimal("9" * 36 + ".99")),
    pa.list_(pa.int32()): ([1], [1, 2], []),
    pa.binary(16): (b"0" * 16, b"1" * 16, b"2" * 16),
}


@pytest.mark.parametrize("kind", VALUES, ids=str)
def test_every_type_tells_equal_from_different(kind: pa.DataType) -> None:
    values = list(VALUES[kind])
    keys = sum(value is not None for value in values)
    different = chunks_of([[values[:1]], [values[1:]]], kind)
    assert (different.keys, different.duplicates, different.complete) == (keys, 0, True)
    for again in ([[values, values[:1]]], [[values], [values[:1]]]):
        assert chunks_of(again, kind).duplicates == 1


def test_floats_that_are_equal_are_equal() -> None:
    zero = chunks_of([[[0.0]], [[-0.0]]], pa.float64())
    assert zero.duplicates == 1


def test_nulls_are_not_compared() -> None:
    found = chunks_of([[[None, 1, None]], [[None, 2]]], pa.int64())
    assert (found.keys, found.duplicates, found.complete) == (2, 0, True)


def test_several_columns_together() -> None:
    key = UniqueKey(columns=("a", "b"), within_chunks=False, entries_max=CAP)
    schema = pa.schema([("a", pa.int32()), ("b", pa.string())])
    rows = [(1, "x"), (1, "y"), (2, "x"), (None, "x"), (None, "x"), (1, "y")]
    counter = UniqueCounter(schema, key)
    a, b = zip(*rows, strict=True)
    counter.add(pa.RecordBatch.from_arrays([pa.array(a, pa.int32()), pa.array(b)], schema=schema))
    found = merge_unique(key, [counter.take()], entries_max=CAP)
    assert (found.keys, found.duplicates) == (4, 1)


def test_parts_of_one_chunk_share_what_was_seen() -> None:
    key = UniqueKey(columns=("a",), within_chunks=True, entries_max=CAP)
    schema = pa.schema([("a", pa.int64())])
    counter = UniqueCounter(schema, key)
    parts = []
    for page in ([3, 1], [2, 3]):
        counter.add(pa.RecordBatch.from_arrays([pa.array(page)], schema=schema))
        parts.append(counter.take())
    assert [part.entries for part in parts] == [b"", b""]
    assert merge_unique(key, parts, entries_max=CAP).duplicates == 1


def test_merging_counts_as_one_counter_would() -> None:
    """Any split of the same rows into chunks and pages gives the same verdict."""
    chance = random.Random(7)
    for _ in range(50):
        values = [chance.randrange(60) for _ in range(chance.randrange(1, 80))]
        chunks: list[list[list[object]]] = [[[]]]
        for value in values:
            if chance.random() < 0.1:
                chunks.append([[]])
            if chance.random() < 0.2:
                chunks[-1].append([])
            chunks[-1][-1].append(value)
        found = chunks_of(chunks, pa.int64())
        assert found.duplicates == len(values) - len(set(values))
        assert found.complete


def test_above_the_cap_nothing_is_promised_but_what_is_found_is_true() -> None:
    values = list(range(20_000))
    random.Random(1).shuffle(values)
    once = chunks_of([[values[:10_000]], [values[10_000:]]], pa.int64(), cap=1_000)
    assert (once.duplicates, once.complete) == (0, False)
    assert once.shift >= 4
    twice = chunks_of([[values], [values]], pa.int64(), cap=1_000)
    assert 0 < twice.duplicates <= 20_000


def test_the_cap_holds_in_every_part() -> None:
    key = UniqueKey(columns=("a",), within_chunks=False, entries_max=1_024)
    schema = pa.schema([("a", pa.string())])
    counter = UniqueCounter(schema, key)
    for start in range(0, 200_000, 10_000):
        page = pa.array([str(n) for n in range(start, start + 10_000)])
        counter.add(pa.RecordBatch.from_arrays([page], schema=schema))
    stats = counter.take()
    assert len(stats.entries) <= 8 * 1_024
    assert not stats.complete


def test_ascending_numbers_need_no_room() -> None:
    rising = [[list(range(n, n + 1000)) for n in range(0, 10_000, 1000)]]
    assert chunks_of(rising, pa.int64(), within=True, cap=1_000).complete
    tie = [[[1, 2, 3], [3, 4]]]
    found = chunks_of(tie, pa.int64(), within=True)
    assert (found.duplicates, found.complete) == (1, True)
    falling = [[list(range(10_000, 0, -1))]]
    assert not chunks_of(falling, pa.int64(), within=True, cap=1_000).complete


def test_one_sampled_part_makes_the_whole_unknown() -> None:
    """Q4: the coarsest sample decides, however much room the merge has."""
    key = UniqueKey(columns=("a",), within_chunks=False, entries_max=1_024)
    schema = pa.schema([("a", pa.string())])
    parts = []
    for count in (10, 5_000):
        counter = UniqueCounter(schema, key)
        page = pa.array([f"{count}-{n}" for n in range(count)])
        counter.add(pa.RecordBatch.from_arrays([page], schema=schema))
        parts.append(counter.take())
    assert [part.complete for part in parts] == [True, False]
    for order in (parts, parts[::-1]):
        found = merge_unique(key, order, entries_max=CAP)
        assert (found.duplicates, found.complete) == (0, False)
        assert found.shift == parts[1].shift
