"""A split is a partition: every row is in exactly one chunk, whatever the statistics say."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rivet_fleet.contracts.civil import DAY_US, micros_of, server_date, server_moment
from rivet_fleet.contracts.columns import ColumnType, TypeKind
from rivet_fleet.contracts.facts import (
    ColumnFacts,
    IndexFacts,
    KeyFacts,
    PhysicalRelation,
    SourceCapabilities,
    SourceFacts,
)
from rivet_fleet.contracts.keys import ChunkRange, KeyTuple, RangeKind, RelationName
from rivet_fleet.planning.config.models import CHUNKS_MAX, ExportConfig
from rivet_fleet.planning.cuts import joint_block_ranges
from rivet_fleet.planning.strategy import Choice, choose

RELATION = RelationName(schema="s", name="t")
INTEGERS = st.one_of(st.integers(-50, 50), st.integers(-(2**70), 2**70))
ESTIMATES = st.one_of(st.none(), st.just(0), st.integers(1, 10**7), st.integers(1, 10**14))


def export(knobs: dict[str, Any]) -> ExportConfig:
    return ExportConfig.model_validate(
        {
            "name": "t",
            "table": "s.t",
            "mode": "chunked",
            "format": "parquet",
            "destination": {"type": "local", "path": "o"},
            **knobs,
        }
    )


def facts(
    columns: dict[str, TypeKind],
    *,
    samples: list[KeyTuple],
    estimate: int | None,
    nullable: bool = False,
    unique: bool = True,
    extremes: bool = True,
    heaps: tuple[PhysicalRelation, ...] = (),
) -> SourceFacts:
    names = tuple(columns)
    known = extremes and bool(samples)
    return SourceFacts(
        engine="any",
        server_version="1",
        capabilities=SourceCapabilities(keyset=True, composite_keyset=True, block_ranges=True),
        relation=RELATION,
        columns=tuple(
            ColumnFacts(name=n, native_type=k.value, type=ColumnType(kind=k), nullable=nullable)
            for n, k in columns.items()
        ),
        indexes=(IndexFacts(name="u", columns=names, unique=unique),) if not nullable else (),
        keys=(
            KeyFacts(
                columns=names,
                minimum=samples[0] if known else None,
                maximum=samples[-1] if known else None,
                boundaries=tuple(samples[1:-1] if known else samples),
                provenance="histogram",
                has_nulls=nullable,
                unique=unique,
            ),
        ),
        heaps=heaps,
        row_estimate=estimate,
    )


SIZES = st.one_of(
    st.just({}),
    st.builds(lambda n: {"chunk_size": n}, st.integers(1, 10**6)),
    st.builds(lambda n: {"chunk_count": n}, st.integers(1, 300)),
)


def decided(chosen: object) -> Choice:
    assert isinstance(chosen, Choice), chosen
    assert len(chosen.ranges) == len(chosen.estimates)
    return chosen


def chain(ranges: tuple[ChunkRange, ...]) -> list[KeyTuple]:
    """The cuts of one contiguous, half-open, open-ended chain."""
    assert ranges[0].lower is None
    assert ranges[-1].upper is None
    cuts = []
    for left, right in itertools.pairwise(ranges):
        assert left.upper is not None
        assert left.upper == right.lower
        cuts.append(left.upper)
    assert len(set(cuts)) == len(cuts)
    return cuts


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(INTEGERS, max_size=60, unique=True).map(sorted),
    probes=st.lists(INTEGERS, max_size=30),
    estimate=ESTIMATES,
    size=SIZES,
    unique=st.booleans(),
    nullable=st.booleans(),
    extremes=st.booleans(),
)
def test_integer_ranges_hold_every_key_once(
    values: list[int],
    probes: list[int],
    estimate: int | None,
    size: dict[str, Any],
    unique: bool,
    nullable: bool,
    extremes: bool,
) -> None:
    shape = facts(
        {"id": TypeKind.INT64},
        samples=[(str(v),) for v in values],
        estimate=estimate,
        unique=unique,
        nullable=nullable,
        extremes=extremes,
    )
    choice = decided(choose(export({"chunk_column": "id", **size}), shape))
    nulls = [one for one in choice.ranges if one.kind is RangeKind.NULLS]
    assert len(nulls) == (1 if nullable else 0)
    keyed = tuple(one for one in choice.ranges if one.kind is not RangeKind.NULLS)
    assert len(keyed) <= CHUNKS_MAX
    cuts = [int(cut[0]) for cut in chain(keyed)]
    assert cuts == sorted(cuts)
    for probe in [*values[:20], *probes, *cuts[:20]]:
        homes = [
            one
            for one in keyed
            if (one.lower is None or int(one.lower[0]) <= probe)
            and (one.upper is None or probe < int(one.upper[0]))
        ]
        assert len(homes) == 1


MOMENTS = st.integers(-4_000 * 366, 9_000 * 366)
OUTSIDE = (("infinity",), ("-infinity",), ("0000-00-00",))
"""What has no place in the calendar may still be among a server's samples."""


@settings(max_examples=100, deadline=None)
@given(
    days=st.lists(MOMENTS, max_size=30, unique=True).map(sorted),
    kind=st.sampled_from([TypeKind.DATE, TypeKind.TIMESTAMP, TypeKind.TIMESTAMP_UTC]),
    strange=st.sets(st.sampled_from(OUTSIDE)),
    size=st.one_of(
        st.builds(lambda n: {"chunk_by_days": n}, st.integers(100, 100_000)),
        st.builds(lambda n: {"chunk_count": n}, st.integers(1, 40)),
    ),
    nullable=st.booleans(),
    indexed=st.booleans(),
)
def test_windows_of_time_hold_every_moment_once(
    days: list[int],
    kind: TypeKind,
    strange: set[KeyTuple],
    size: dict[str, Any],
    nullable: bool,
    indexed: bool,
) -> None:
    unit = 1 if kind is TypeKind.DATE else DAY_US
    write = server_date if kind is TypeKind.DATE else server_moment
    shape = facts(
        {"at": kind},
        samples=[*((write(day * unit),) for day in days), *strange],
        estimate=1_000_000,
        unique=indexed,
        nullable=nullable,
        extremes=False,
    )
    choice = decided(choose(export({"chunk_column": "at", **size}), shape))
    assert sum(one.kind is RangeKind.NULLS for one in choice.ranges) == nullable
    cuts = [
        micros_of(cut[0])
        for cut in chain(tuple(one for one in choice.ranges if one.kind is not RangeKind.NULLS))
    ]
    assert cuts == sorted(cuts), "S1: half-open, contiguous, open at both ends"
    if "chunk_by_days" in size:
        assert all(cut % DAY_US == 0 for cut in cuts), "midnights, whatever the day's length"


def check_ordered(choice: Choice, samples: list[KeyTuple]) -> None:
    """Cuts are samples in the order they came in: the server's, whatever it is."""
    cuts = chain(choice.ranges)
    positions = [samples.index(cut) for cut in cuts]
    assert positions == sorted(positions)


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.text(max_size=5), max_size=60, unique=True),
    estimate=ESTIMATES,
    size=SIZES,
    extremes=st.booleans(),
)
def test_text_ranges_keep_the_servers_order(
    values: list[str], estimate: int | None, size: dict[str, Any], extremes: bool
) -> None:
    samples: list[KeyTuple] = [(value,) for value in values]
    shape = facts({"code": TypeKind.STRING}, samples=samples, estimate=estimate, extremes=extremes)
    check_ordered(decided(choose(export({"chunk_by_key": "code", **size}), shape)), samples)


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.tuples(INTEGERS, st.text(max_size=3)), max_size=60, unique=True),
    estimate=ESTIMATES,
    size=SIZES,
)
def test_composite_ranges_keep_the_servers_order(
    values: list[tuple[int, str]], estimate: int | None, size: dict[str, Any]
) -> None:
    samples: list[KeyTuple] = [(str(a), b) for a, b in values]
    shape = facts({"a": TypeKind.INT64, "b": TypeKind.STRING}, samples=samples, estimate=estimate)
    choice = decided(choose(export({"chunk_by_key": ["a", "b"], **size}), shape))
    assert all(one.columns == ("a", "b") for one in choice.ranges)
    check_ordered(choice, samples)


HEAPS = st.lists(
    st.tuples(st.integers(0, 10**6), st.one_of(st.none(), st.integers(0, 10**9))),
    min_size=1,
    max_size=8,
)


@settings(max_examples=100, deadline=None)
@given(
    shapes=HEAPS,
    estimate=ESTIMATES,
    size=SIZES,
    full=st.booleans(),
)
def test_block_ranges_hold_every_block_of_every_heap_once(
    shapes: list[tuple[int, int | None]],
    estimate: int | None,
    size: dict[str, Any],
    full: bool,
) -> None:
    heaps = tuple(
        PhysicalRelation(
            name=RelationName(schema="s", name=f"p{i}"), blocks=blocks, row_estimate=rows
        )
        for i, (blocks, rows) in enumerate(shapes)
    )
    shape = facts({"x": TypeKind.FLOAT64}, samples=[], estimate=estimate, unique=False, heaps=heaps)
    knobs = {"mode": "full"} if full else size
    choice = decided(choose(export(knobs), shape))
    assert len(choice.ranges) <= CHUNKS_MAX + len(heaps)
    for heap in heaps:
        own = [one for one in choice.ranges if one.relation == heap.name]
        assert own[0].block_first == 0
        assert own[-1].block_end is None
        for left, right in itertools.pairwise(own):
            assert left.block_first is not None
            assert left.block_end is not None
            assert left.block_first < left.block_end == right.block_first
    assert {one.relation for one in choice.ranges} == {heap.name for heap in heaps}


@settings(max_examples=100)
@given(
    sizes=st.lists(st.integers(min_value=0, max_value=50), min_size=1, max_size=6),
    count=st.integers(min_value=1, max_value=9),
)
def test_joint_ranges_are_a_partition_of_the_blocks_of_all_heaps(
    sizes: list[int], count: int
) -> None:
    heaps = [
        PhysicalRelation(name=RelationName(schema="s", name=f"h{i}"), blocks=n, row_estimate=None)
        for i, n in enumerate(sizes)
    ]
    ranges = joint_block_ranges(heaps, count)
    assert ranges[0].block_first == 0 and ranges[-1].block_end is None
    assert 1 <= len(ranges) <= count and {one.relation for one in ranges} == {None}
    assert all(a.block_end == b.block_first for a, b in itertools.pairwise(ranges))
    shares = [
        sum(max(0, min(n, one.block_end or n) - (one.block_first or 0)) for n in sizes)
        for one in ranges
    ]
    assert sum(shares) == sum(sizes)
    assert max(shares) <= sum(sizes) // count + len(sizes) + 1
