"""Which strategy is chosen and why; every trap of chunking that planning can fall into."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rivet_fleet.contracts.columns import TypeKind
from rivet_fleet.contracts.facts import SourceCapabilities, SourceFacts
from rivet_fleet.contracts.keys import RangeKind
from rivet_fleet.planning.config.models import CHUNKS_MAX, ExportConfig
from rivet_fleet.planning.cuts import CHUNKS_UNKNOWN, HEAPS_AT_ONCE_MAX, Refusal
from rivet_fleet.planning.strategy import Choice, choose
from tests.unit.planning.shapes import (
    PRIMARY,
    assert_contiguous,
    column,
    heap,
    index,
    int_key,
    key,
    query,
    table,
)


def export(**more: object) -> ExportConfig:
    return ExportConfig.model_validate(
        {
            "name": "orders",
            "table": "public.orders",
            "mode": "chunked",
            "format": "parquet",
            "destination": {"type": "local", "path": "out"},
            **more,
        }
    )


def chosen(facts: SourceFacts, **more: object) -> Choice:
    result = choose(export(**more), facts)
    assert isinstance(result, Choice), result
    return result


def refused(facts: SourceFacts, **more: object) -> Refusal:
    result = choose(export(**more), facts)
    assert isinstance(result, Refusal), result
    return result


EVEN = int_key("id", *range(0, 1_000_001, 1000))


# ---------------------------------------------------------------- automatic


def test_automatic_takes_the_primary_key_before_other_indexes() -> None:
    facts = table(
        indexes=(index("a_ref", "ref"), index("pk", "id", "line", primary=True)),
        keys=(key("id", "line", boundaries=(("1", "2"), ("5", "1"))),),
    )
    choice = chosen(facts)
    assert choice.strategy == "keyset"
    assert choice.ranges[0].columns == ("id", "line")
    assert "primary key pk (id, line)" in choice.reason


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("code", "ref", "id"), "id"),
        (("code", "ref"), "ref"),
        (("code",), "code"),
    ],
)
def test_automatic_prefers_integer_then_uuid_then_text(
    names: tuple[str, ...], expected: str
) -> None:
    facts = table(
        indexes=tuple(index(f"u_{name}", name) for name in names),
        keys=tuple(key(name, boundaries=(("1",), ("2",))) for name in names),
    )
    assert chosen(facts).ranges[0].columns == (expected,)


def test_automatic_choice_does_not_depend_on_catalogue_order() -> None:
    indexes = (index("b", "code"), index("a", "code"))
    forward = chosen(table(indexes=indexes, row_estimate=10))
    backward = chosen(table(indexes=indexes[::-1], row_estimate=10))
    assert forward == backward


def test_without_a_key_heap_blocks_are_ranged_over() -> None:
    choice = chosen(table())
    assert choice.strategy == "blocks"
    assert choice.ranges[0].block_first == 0
    assert choice.ranges[-1].block_end is None
    assert "no unique NOT NULL index" in choice.reason


def test_block_ranges_need_a_server_that_can_read_them() -> None:
    old = SourceCapabilities(keyset=True, composite_keyset=True, block_ranges=False)
    choice = chosen(table(capabilities=old))
    assert choice.strategy == "whole"
    assert "this version of the source cannot" in choice.reason


def test_a_view_is_read_whole() -> None:
    assert [one.kind for one in chosen(table(heaps=())).ranges] == [RangeKind.WHOLE]


def test_block_numbers_repeat_so_each_partition_is_ranged_over_alone() -> None:
    facts = table(heaps=(heap("p1", 1000, 100_000), heap("p2", 500, 50_000), heap("p3", 0, 0)))
    choice = chosen(facts, chunk_size=50_000)
    by_heap: dict[str, list[tuple[int | None, int | None]]] = {}
    for one in choice.ranges:
        assert one.relation is not None
        by_heap.setdefault(one.relation.name, []).append((one.block_first, one.block_end))
    assert by_heap == {"p1": [(0, 500), (500, None)], "p2": [(0, None)], "p3": [(0, None)]}


def test_an_inheritance_parents_key_does_not_cover_its_children() -> None:
    facts = table(indexes=(PRIMARY,), keys=(EVEN,), heaps=(heap("orders"), heap("orders_old")))
    choice = chosen(facts)
    assert choice.strategy == "blocks"
    assert "inherit" in choice.reason
    assert refused(facts, chunk_by_key="id").reason.startswith("index orders_pkey does not cover")
    assert {one.kind for one in chosen(facts, chunk_column="id").ranges} == {RangeKind.SPAN}


def test_a_partitioned_tables_key_covers_its_partitions() -> None:
    facts = table(indexes=(PRIMARY,), keys=(EVEN,), heaps=(heap("p1"), heap("p2")))
    assert chosen(facts).strategy == "keyset"


def test_a_text_key_without_statistics_gives_way_to_blocks() -> None:
    choice = chosen(table(indexes=(index("u", "code"),), keys=(key("code"),)))
    assert choice.strategy == "blocks"
    assert "no statistics yet" in choice.reason


def test_a_small_table_is_one_chunk() -> None:
    facts = table(indexes=(PRIMARY,), keys=(int_key("id", 1, 500),), row_estimate=500)
    assert len(chosen(facts).ranges) == 1


def test_an_empty_table_is_one_open_chunk() -> None:
    facts = table(indexes=(PRIMARY,), keys=(key("id"),), row_estimate=0)
    (only,) = chosen(facts).ranges
    assert (only.lower, only.upper) == (None, None)


def test_an_empty_table_without_key_is_one_chunk_per_heap() -> None:
    facts = table(heaps=(heap("p1", 0, 0), heap("p2", 0, 0)), row_estimate=0)
    assert [(r.block_first, r.block_end) for r in chosen(facts).ranges] == [(0, None), (0, None)]


def test_mode_full_is_one_chunk_through_the_best_key() -> None:
    (only,) = chosen(table(indexes=(PRIMARY,), keys=(EVEN,)), mode="full").ranges
    assert (only.kind, only.lower, only.upper) == (RangeKind.KEYSET, None, None)


def test_mode_full_without_key_is_one_chunk_per_heap() -> None:
    choice = chosen(table(heaps=(heap("p1"), heap("p2"))), mode="full")
    assert [(one.block_first, one.block_end) for one in choice.ranges] == [(0, None), (0, None)]


# ---------------------------------------------------------------- sizes


def test_the_number_of_chunks_follows_rows_not_the_span_of_sparse_ids() -> None:
    sparse = int_key("id", 1, 100, 200, 5_000, 1_600_000_000)
    facts = table(indexes=(PRIMARY,), keys=(sparse,), row_estimate=7_000_000)
    choice = chosen(facts, chunk_column="id", chunk_size=100_000)
    assert 1 < len(choice.ranges) <= 70
    assert_contiguous(list(choice.ranges))


def test_sparse_ids_without_statistics_are_bounded_and_said_so() -> None:
    bare = int_key("id", 1, 1_600_000_000, provenance="none")
    facts = table(indexes=(PRIMARY,), keys=(bare,), row_estimate=7_000_000)
    choice = chosen(facts, chunk_column="id", chunk_size=100_000)
    assert len(choice.ranges) == 70
    assert any("no statistics" in warning for warning in choice.warnings)


def test_boundaries_of_skewed_keys_come_from_statistics() -> None:
    skewed = int_key("id", 1, 10, 20, 30, 1_000_000)
    facts = table(indexes=(PRIMARY,), keys=(skewed,), row_estimate=400)
    choice = chosen(facts, chunk_size=100)
    assert [one.upper for one in choice.ranges] == [("10",), ("20",), ("30",), None]


def test_a_missing_row_estimate_is_said() -> None:
    facts = table(indexes=(PRIMARY,), keys=(EVEN,), row_estimate=None)
    choice = chosen(facts)
    assert len(choice.ranges) <= CHUNKS_UNKNOWN
    assert any("no estimate" in warning for warning in choice.warnings)


def test_an_estimate_of_zero_that_the_extremes_contradict_is_not_believed() -> None:
    facts = table(indexes=(PRIMARY,), keys=(int_key("id", 1, 10_000_000),), row_estimate=0)
    assert len(chosen(facts).ranges) == CHUNKS_UNKNOWN


def test_too_many_chunks_enlarge_the_chunk_and_say_so() -> None:
    huge = int_key("id", 1, 10**12)
    facts = table(indexes=(PRIMARY,), keys=(huge,), row_estimate=10**10)
    choice = chosen(facts, chunk_size=1)
    assert len(choice.ranges) == CHUNKS_MAX
    assert any("enlarged" in warning for warning in choice.warnings)


def test_too_many_block_chunks_are_bounded_too() -> None:
    facts = table(heaps=(heap("orders", 10**7, 10**9),), row_estimate=10**9)
    assert len(chosen(facts, chunk_size=1).ranges) == CHUNKS_MAX


def test_chunk_count_is_kept() -> None:
    facts = table(indexes=(PRIMARY,), keys=(EVEN,))
    assert len(chosen(facts, chunk_count=37).ranges) == 37
    assert len(chosen(table(), chunk_count=10).ranges) == 10


def test_a_memory_target_becomes_rows_by_the_rows_width() -> None:
    facts = table(indexes=(PRIMARY,), keys=(EVEN,), row_width_bytes=1024)
    assert len(chosen(facts, chunk_size_memory_mb=100).ranges) == 10


def test_a_heap_that_was_never_analysed_is_sized_by_its_blocks() -> None:
    facts = table(heaps=(heap("orders", 100_000, None),), row_estimate=None)
    assert len(chosen(facts).ranges) > 50


# ---------------------------------------------------------------- chunk_column


def test_a_unique_not_null_chunk_column_is_paged_by_key() -> None:
    facts = table(indexes=(PRIMARY,), keys=(EVEN,))
    assert {one.kind for one in chosen(facts, chunk_column="id").ranges} == {RangeKind.KEYSET}


def test_a_repeated_chunk_column_is_paged_by_span() -> None:
    facts = table(keys=(int_key("line", 1, 50, 100, unique=False),))
    choice = chosen(facts, chunk_column="line")
    assert {one.kind for one in choice.ranges} == {RangeKind.SPAN}
    assert_contiguous(list(choice.ranges))


def test_null_keys_are_outside_every_range_so_they_get_their_own_chunk() -> None:
    facts = table(keys=(int_key("region", 1, 50, 100, unique=False, has_nulls=True),))
    choice = chosen(facts, chunk_column="region")
    assert choice.ranges[-1].kind is RangeKind.NULLS
    assert choice.ranges[-1].columns == ("region",)
    assert [one.kind for one in choice.ranges].count(RangeKind.NULLS) == 1
    assert_contiguous(list(choice.ranges))


def test_a_nullable_column_gets_its_null_chunk_even_when_no_null_was_seen() -> None:
    facts = table(keys=(int_key("region", 1, 50, 100),))
    assert chosen(facts, chunk_column="region").ranges[-1].kind is RangeKind.NULLS


@pytest.mark.parametrize("name", ["total", "ratio", "code", "ref"])
def test_columns_that_are_not_whole_numbers_are_refused(name: str) -> None:
    # Decimals fall between integer windows.
    assert "fall out of the ranges" in refused(table(), chunk_column=name).reason


def test_keys_above_two_to_the_63_are_not_special() -> None:
    top = 2**64 - 1
    facts = table(
        columns=(column("id", TypeKind.UINT64),),
        indexes=(PRIMARY,),
        keys=(int_key("id", 2**63 - 5, 2**63 + 5, top),),
    )
    choice = chosen(facts, chunk_count=4)
    uppers = [int(one.upper[0]) for one in choice.ranges if one.upper]
    assert all(2**63 - 5 < cut <= top for cut in uppers)
    assert len(choice.ranges) == 4


@pytest.mark.parametrize("text", ["abc", "", "1.5", "nan"])
def test_a_bound_that_cannot_be_read_is_an_error_and_never_an_empty_success(text: str) -> None:
    facts = table(indexes=(PRIMARY,), keys=(key("id", minimum=(text,), maximum=("9",)),))
    assert "cannot be read" in refused(facts, chunk_column="id").reason


def test_a_bound_with_a_zero_fraction_is_a_whole_number() -> None:
    facts = table(indexes=(PRIMARY,), keys=(key("id", minimum=("1.000",), maximum=("9.0",)),))
    assert len(chosen(facts, chunk_column="id", chunk_count=3).ranges) == 3


def test_a_misspelt_column_is_refused_with_a_suggestion() -> None:
    found = refused(table(), chunk_column="regoin")
    assert found.suggestion == "did you mean 'region'?"


def test_a_column_read_as_another_type_is_not_cut_by_arithmetic() -> None:
    # Its own order is not the order of the numbers it is read as.
    facts = table(columns=(column("code", TypeKind.INT64),), indexes=(index("u", "code"),))
    assert refused(facts, chunk_column="code", columns={"code": "bigint"})
    texts = key("code", minimum=("10",), maximum=("9",), boundaries=(("100",), ("11",), ("8",)))
    choice = chosen(
        table(
            columns=(column("code", TypeKind.INT64),), indexes=(index("u", "code"),), keys=(texts,)
        ),
        columns={"code": "bigint"},
        chunk_count=4,
    )
    assert [one.upper for one in choice.ranges] == [("100",), ("11",), ("8",), None]


# ---------------------------------------------------------------- chunk_by_key


def test_a_composite_key_keeps_the_servers_samples_and_order() -> None:
    samples = tuple((str(a), b) for a in (3, 1, 2) for b in ("z", "a"))
    facts = table(
        indexes=(index("u", "id", "code"),),
        keys=(key("id", "code", minimum=("9", "9"), maximum=("0", "0"), boundaries=samples),),
    )
    choice = chosen(facts, chunk_by_key=["id", "code"], chunk_count=7)
    assert [one.upper for one in choice.ranges[:-1]] == list(samples)
    assert chosen(facts, chunk_by_key="id, code", chunk_count=7) == choice


def test_collation_order_is_the_servers_and_never_compared_here() -> None:
    samples = (("ä",), ("a",), ("Z",), ("z",))
    facts = table(indexes=(index("u", "code"),), keys=(key("code", boundaries=samples),))
    choice = chosen(facts, chunk_by_key="code", chunk_count=5)
    assert [one.upper for one in choice.ranges[:-1]] == list(samples)


def test_no_chunk_is_empty_because_a_sample_is_the_minimum() -> None:
    found = key("code", minimum=("a",), maximum=("c",), boundaries=(("a",), ("b",)))
    facts = table(indexes=(index("u", "code"),), keys=(found,))
    choice = chosen(facts, chunk_by_key="code", chunk_count=3)
    assert [one.upper for one in choice.ranges] == [("b",), None]


def test_a_uuid_key_needs_no_minimum() -> None:
    samples = tuple((f"{i:08x}-0000-0000-0000-000000000000",) for i in range(9))
    facts = table(indexes=(index("u", "ref"),), keys=(key("ref", boundaries=samples),))
    assert len(chosen(facts, chunk_by_key="ref", chunk_count=10).ranges) == 10


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"unique": False}, "is not unique"),
        ({"partial": True}, "is partial"),
        ({"expression": True}, "is on an expression"),
        ({"valid": False}, "is not valid"),
        ({"ready": False}, "is not ready yet"),
        ({"ordered": False}, "does not return rows in order"),
    ],
)
def test_indexes_that_are_no_keys_are_refused_with_the_reason(
    flags: dict[str, bool], reason: str
) -> None:
    facts = table(indexes=(index("bad", "code", **flags), PRIMARY), keys=(EVEN,))
    found = refused(facts, chunk_by_key="code")
    assert f"index bad {reason}" in found.reason
    assert "Usable keys: orders_pkey (id)" in found.reason
    assert found.suggestion == "write chunk_by_key: [id]"
    alone = table(indexes=(index("bad", "id", primary=True, **flags),), keys=(EVEN,))
    assert chosen(alone).strategy == "blocks"


def test_a_key_column_that_may_be_null_is_refused() -> None:
    facts = table(indexes=(index("u", "region"),))
    assert "may be NULL" in refused(facts, chunk_by_key="region").reason


def test_a_key_that_was_seen_to_hold_nulls_or_ties_is_refused() -> None:
    for flag in ({"has_nulls": True}, {"unique": False}):
        facts = table(indexes=(index("u", "code"),), keys=(key("code", **flag),))
        assert "found to hold" in refused(facts, chunk_by_key="code").reason


def test_an_inexact_key_is_refused() -> None:
    facts = table(indexes=(index("u", "ratio"),))
    assert "no exact key" in refused(facts, chunk_by_key="ratio").reason


def test_key_columns_in_another_order_are_refused_with_the_right_order() -> None:
    facts = table(indexes=(index("u", "id", "line"),))
    found = refused(facts, chunk_by_key=["line", "id"])
    assert found.suggestion == "write chunk_by_key: [id, line]"


def test_composite_keys_need_the_capability() -> None:
    plain = SourceCapabilities(keyset=True, composite_keyset=False, block_ranges=True)
    facts = table(indexes=(index("u", "id", "line"),), capabilities=plain)
    assert "several columns" in refused(facts, chunk_by_key=["id", "line"]).reason


def test_fewer_boundaries_than_chunks_is_said() -> None:
    facts = table(indexes=(index("u", "code"),), keys=(key("code", boundaries=(("m",),)),))
    choice = chosen(facts, chunk_by_key="code", chunk_count=8)
    assert len(choice.ranges) == 2
    assert any("2 chunks instead of 8" in warning for warning in choice.warnings)


# ---------------------------------------------------------------- queries


def test_a_query_is_one_chunk_unless_told_how_to_divide_it() -> None:
    assert [one.kind for one in chosen(query(), table=None, query="q").ranges] == [RangeKind.WHOLE]


def test_a_query_divided_by_a_column_keeps_its_nulls() -> None:
    facts = query(keys=(int_key("region", 1, 500, 1000, has_nulls=True, unique=False),))
    choice = chosen(facts, table=None, query="q", chunk_column="region")
    assert {one.kind for one in choice.ranges} == {RangeKind.SPAN, RangeKind.NULLS}


def test_a_querys_key_that_is_not_proven_unique_never_pages_by_it() -> None:
    weak = key("code", unique=False, boundaries=(("a",), ("b",)))
    found = refused(query(keys=(weak,)), table=None, query="q", chunk_by_key="code")
    assert "could lose rows" in found.reason
    ties = int_key("id", 1, 500, 1000, unique=False)
    choice = chosen(query(keys=(ties,)), table=None, query="q", chunk_by_key="id")
    assert {one.kind for one in choice.ranges} == {RangeKind.SPAN}


def test_a_querys_proven_key_is_paged_by() -> None:
    proven = key("code", boundaries=(("a",), ("b",)))
    choice = chosen(query(keys=(proven,)), table=None, query="q", chunk_by_key="code")
    assert choice.strategy == "keyset"


def test_where_rights_differ_blocks_are_read_through_the_relation() -> None:
    facts = table(heaps=(heap("a", 40, 4000), heap("b", 20, 2000)), rights_apart="a has a policy")
    choice = chosen(facts, chunk_count=3)
    assert "a has a policy" in choice.reason and "through the relation" in choice.reason
    assert [(one.relation, one.block_first, one.block_end) for one in choice.ranges] == [
        (None, 0, 10),
        (None, 10, 20),
        (None, 20, None),
    ]
    many = tuple(heap(f"h{i}", 9, 90) for i in range(HEAPS_AT_ONCE_MAX + 1))
    assert chosen(replace(facts, heaps=many), chunk_count=3).strategy == "whole"
