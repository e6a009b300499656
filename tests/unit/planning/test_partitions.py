"""Partitions: contiguous periods, open ends, a place for NULL, and names that stay readable."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rivet_fleet.contracts.civil import DAY_US, server_date, server_moment
from rivet_fleet.contracts.columns import TypeKind
from rivet_fleet.contracts.facts import SourceFacts
from rivet_fleet.contracts.keys import CampaignId, RangeKind
from rivet_fleet.contracts.plan import CampaignPlan
from rivet_fleet.errors import ConfigError
from rivet_fleet.planning.config.connections import source_connection
from rivet_fleet.planning.config.loaded import PartitionRange
from rivet_fleet.planning.export_plan import destination_plan
from rivet_fleet.planning.partitions import (
    DEFAULT_PARTITION,
    PARTITIONS_MAX,
    _child,
    expand,
    folded,
)
from rivet_fleet.planning.planner import consider
from tests.unit.planning.conftest import Loader
from tests.unit.planning.shapes import COLUMNS, PRIMARY, column, index, key, table

HEAD = """\
source: {type: postgres, url: postgresql://reader@localhost:5432/shop}
exports:
  - name: plain
    table: public.plain
    format: parquet
    destination: {type: local, path: out/plain}
  - name: orders
    table: public.orders
    format: parquet
    destination: {type: local, path: 'out/{export}/{partition}'}
    partition_by: at
"""
Plan = Callable[..., CampaignPlan]
PERIOD = PartitionRange(parent="orders", column="at", value="2026-01", lower=0, upper=1)


def facts(
    *days: int,
    kind: TypeKind = TypeKind.TIMESTAMP_UTC,
    nullable: bool = False,
    indexed: bool = True,
) -> SourceFacts:
    scale = 1 if kind is TypeKind.DATE else DAY_US
    write = server_date if kind is TypeKind.DATE else server_moment
    texts = [(write(day * scale),) for day in sorted(days)]
    return table(
        columns=(*COLUMNS, column("at", kind, nullable=nullable)),
        indexes=(PRIMARY, *((index("orders_at", "at", unique=False),) if indexed else ())),
        keys=(
            key(
                "at",
                minimum=texts[0] if texts else None,
                maximum=texts[-1] if texts else None,
                boundaries=tuple(texts[1:-1]),
                has_nulls=nullable,
                unique=False,
            ),
        ),
    )


@pytest.fixture
def plan(load_text: Loader) -> Plan:
    def run(found: SourceFacts, extra: str = "") -> CampaignPlan:
        loaded = load_text(HEAD + "".join(f"    {line}\n" for line in extra.splitlines()))
        return (
            consider(
                loaded,
                {"plain": table(indexes=(PRIMARY,)), "orders": found},
                campaign_id=CampaignId("20260101T000000.000"),
                connections={"default": source_connection(loaded, "default")},
                now_s=1_767_225_600.0,
                only=("plain", "orders"),
            )
            .decided({}, now_s=1_767_225_600.0)
            .plan
        )

    return run


MONTHS = tuple(range(19_723, 19_723 + 100, 9))  # 2024-01-01 to 2024-04


def test_each_month_is_a_run_with_a_folder_of_its_own(plan: Plan) -> None:
    found = plan(facts(*MONTHS, nullable=True), "partition_granularity: month")
    names = [run.plan.export_name for run in found.runs]
    months = [f"orders__2024-{month:02d}" for month in (1, 2, 3, 4)]
    assert names == ["plain", *months, "orders__null"]
    assert {run.plan.family for run in found.runs[1:]} == {"orders"}
    prefixes = [run.plan.destination.prefix.rpartition("/out/")[2] for run in found.runs[1:]]
    assert prefixes == [
        *(f"orders/at=2024-{month:02d}" for month in (1, 2, 3, 4)),
        f"orders/at={DEFAULT_PARTITION}",
    ]
    assert len({run.plan.run_id for run in found.runs}) == 6
    (first,), (second,) = (run.chunks for run in found.runs[1:3])
    assert first.chunk_range.lower is None
    assert first.chunk_range.upper == second.chunk_range.lower == ("2024-02-01 00:00:00",)
    assert found.runs[4].chunks[0].chunk_range.upper is None
    assert found.runs[5].chunks[0].chunk_range.kind is RangeKind.NULLS


@pytest.mark.parametrize(
    "extra", ["", "mode: chunked\nchunk_count: 3", "mode: chunked\nchunk_by_days: 2"]
)
@pytest.mark.parametrize("granularity", ["day", "month", "year"])
@pytest.mark.parametrize("kind", [TypeKind.DATE, TypeKind.TIMESTAMP])
def test_partitions_and_their_chunks_tile_the_whole_axis(
    plan: Plan, kind: TypeKind, granularity: str, extra: str
) -> None:
    found = plan(facts(*MONTHS, kind=kind), f"partition_granularity: {granularity}\n{extra}")
    ranges = [chunk.chunk_range for run in found.runs[1:] for chunk in run.chunks]
    assert ranges[0].lower is None
    assert ranges[-1].upper is None
    for left, right in itertools.pairwise(ranges):
        assert left.upper is not None
        assert left.upper == right.lower


@settings(max_examples=50)
@given(
    st.sets(st.integers(-800_000, 3_000_000), min_size=1, max_size=5),
    st.sampled_from(["month", "year"]),
)
def test_periods_are_contiguous_over_leap_years_and_before_christ(
    days: set[int], granularity: str
) -> None:
    from rivet_fleet.planning.cuts import Scale
    from rivet_fleet.planning.partitions import _edges

    edges = _edges(sorted(days), Scale(read=int, write=str, day=1), granularity)
    longest = {"month": 31, "year": 366}[granularity]
    assert edges[0] <= min(days)
    assert len(edges) > PARTITIONS_MAX or edges[-1] <= max(days) < edges[-1] + longest
    assert all(0 < after - before <= longest for before, after in itertools.pairwise(edges))


def test_rows_without_a_calendar_value_are_still_delivered(plan: Plan) -> None:
    found = plan(facts())
    assert [run.plan.export_name for run in found.runs] == ["plain", "orders__null"]
    assert found.runs[1].chunks[0].chunk_range.kind is RangeKind.WHOLE


def test_without_an_index_a_partition_is_one_statement(plan: Plan) -> None:
    found = plan(facts(*MONTHS, indexed=False), "partition_granularity: month")
    kinds = {chunk.chunk_range.kind for run in found.runs[1:] for chunk in run.chunks}
    assert kinds == {RangeKind.WINDOW}
    assert any("no index begins" in warning for warning in found.runs[1].plan.warnings)


def test_too_many_partitions_are_refused_with_the_granularity_that_fits(plan: Plan) -> None:
    with pytest.raises(ConfigError, match="more than 4000") as refused:
        plan(facts(0, 5_000))
    assert "partition_granularity: month" in str(refused.value.hint)
    assert refused.value.code == "RIVET_CONFIG_PARTITION_INVALID"


def test_a_column_without_a_calendar_is_refused(load_text: Loader) -> None:
    loaded = load_text(HEAD.replace("partition_by: at", "partition_by: id"))
    expanded = expand(loaded, {"orders": table(indexes=(PRIMARY,))})
    ((name, problem),) = expanded.problems
    assert (name, expanded.only) == ("orders", ("plain",))
    said = loaded.error(problem).message
    assert "date or a moment" in said and "fleet.yaml:11:" in said


def test_a_name_that_a_partition_would_take_is_refused(load_text: Loader) -> None:
    loaded = load_text(HEAD.replace("name: plain", "name: orders__2024-01-01"))
    expanded = expand(loaded, {"orders": facts(*MONTHS)})
    ((name, problem),) = expanded.problems
    assert (name, expanded.only) == ("orders", ("orders__2024-01-01",))
    assert loaded.error(problem).code == "RIVET_CONFIG_DUPLICATE_EXPORT"


def test_check_speaks_of_the_export_as_a_whole(plan: Plan) -> None:
    whole = folded(plan(facts(*MONTHS, nullable=True), "partition_granularity: month"))
    assert [run.plan.export_name for run in whole.runs] == ["plain", "orders"]
    assert len(whole.runs[1].chunks) == 5
    assert "5 partitions" in whole.runs[1].plan.reason


@pytest.mark.parametrize(
    ("path", "anchor"),
    [
        ("out/{export}/{partition}", "out"),
        ("out/raw/x-{partition}/all", "out/raw"),
        ("{export}/{partition}", "."),
        ("/data/{partition}", "/data"),
        ("/{partition}", "/"),
    ],
)
def test_what_a_program_puts_together_is_no_part_of_the_anchor(
    load_text: Loader, path: str, anchor: str
) -> None:
    """Nor in the child of an export, whose path knows its period already."""
    loaded = load_text(HEAD.replace("out/{export}/{partition}", path))
    folder = loaded.path.absolute().parent
    plain, parent = (destination_plan(loaded, one, "2026-01-02") for one in loaded.config.exports)
    child = destination_plan(loaded, _child(loaded.config.exports[1], PERIOD), "2026-01-02")
    assert plain.anchor == plain.prefix == str(folder / "out" / "plain")
    assert parent.anchor == child.anchor == str((folder / anchor).resolve())
    assert child.prefix != parent.prefix and "at=2026-01" in child.prefix


@pytest.mark.parametrize(
    ("path", "anchor"),
    [
        ("out/${day}/{partition}", "out"),
        ("out/raw/x-${day}/all/{partition}", "out/raw"),
        ("${day}/{partition}", "."),
        ("out/{export}/${day}/{partition}", "out"),
        ("out/${$}/${day}/{partition}", "out/$"),
        ("${root}/raw/${day}/{partition}", "/data/raw"),
        ("/mnt${root}/${day}/{partition}", "/"),
        ("${root}/{partition}", "/data"),
    ],
)
def test_nor_is_what_a_variable_holds_unless_it_is_the_root(
    load_text: Loader, path: str, anchor: str
) -> None:
    text = HEAD.replace("out/{export}/{partition}", path)
    loaded = load_text(text, params={"day": "2026-01-02"}, environ={"root": "/data"})
    parent = loaded.config.exports[1]
    for one in (parent, _child(parent, PERIOD)):
        planned = destination_plan(loaded, one, "2026-01-02")
        assert planned.anchor == str((loaded.path.absolute().parent / anchor).resolve())
        assert "${" not in planned.prefix
