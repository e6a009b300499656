"""What ``init`` suggests: scores, thresholds and choices at every border of their tables."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from rivet_fleet.contracts.columns import TypeKind
from rivet_fleet.contracts.discovery import CursorReason
from rivet_fleet.contracts.facts import ColumnFacts, ListedRelation, RelationKind
from rivet_fleet.contracts.keys import RelationName
from rivet_fleet.planning import discovery
from rivet_fleet.planning.judging import peak_mb
from rivet_fleet.planning.window import name_suggests_updated
from tests.unit.planning.shapes import ABLE, PRIMARY, column, index, table

R = CursorReason
K = TypeKind
FILLER = tuple(column(f"f{i}", K.STRING) for i in range(5))
"""Behind a column so that its position earns the whole bonus of five."""


def listed(name: str = "orders", *, schema: str = "public", **more) -> ListedRelation:
    return ListedRelation(
        **{
            "name": RelationName(schema=schema, name=name),
            "kind": RelationKind.TABLE,
            "from_item": f'"{schema}"."{name}"',
            **more,
        }
    )


@pytest.mark.parametrize(
    ("name", "kind", "nullable", "score", "reasons"),
    [
        ("at", K.TIMESTAMP, False, 40, [R.TIMESTAMP_TYPE]),
        ("at", K.TIMESTAMP_UTC, False, 40, [R.TIMESTAMP_TYPE]),
        ("updated_at", K.TIMESTAMP, False, 80, [R.TIMESTAMP_TYPE, R.NAME_SUGGESTS_UPDATED]),
        ("modified_at", K.TIMESTAMP, False, 80, [R.TIMESTAMP_TYPE, R.NAME_SUGGESTS_UPDATED]),
        ("created_at", K.TIMESTAMP, False, 60, [R.TIMESTAMP_TYPE, R.NAME_SUGGESTS_CREATED]),
        ("at", K.TIMESTAMP, True, 30, [R.TIMESTAMP_TYPE, R.NULLABLE]),
        ("last_update", K.TIMESTAMP, False, 80, [R.TIMESTAMP_TYPE, R.NAME_SUGGESTS_UPDATED]),
        ("id", K.INT64, False, 25, [R.INTEGER_MONOTONIC, R.PRIMARY_KEY]),
    ],
)
def test_the_score_of_a_cursor(name, kind, nullable, score, reasons) -> None:
    facts = table(columns=(column(name, kind, nullable=nullable), *FILLER), indexes=(PRIMARY,))
    (found,) = discovery.cursor_candidates(facts)
    assert (found.score, list(found.reasons)) == (score + 5, reasons)


@pytest.mark.parametrize(("behind", "bonus"), [(0, 1), (1, 2), (3, 4), (4, 5), (5, 5)])
def test_earlier_columns_earn_up_to_five(behind: int, bonus: int) -> None:
    facts = table(columns=(column("at", K.TIMESTAMP), *FILLER[:behind]), indexes=())
    assert discovery.cursor_candidates(facts)[0].score == 40 + bonus


def test_no_other_column_is_a_cursor() -> None:
    columns = (column("n", K.INT64), column("day", K.DATE), column("word", K.STRING))
    assert discovery.cursor_candidates(table(columns=columns, indexes=(PRIMARY,))) == ()


def test_equal_scores_are_ordered_by_name() -> None:
    columns = (column("b", K.TIMESTAMP), column("a", K.TIMESTAMP), *FILLER)
    found = discovery.cursor_candidates(table(columns=columns, indexes=()))
    assert [one.column for one in found] == ["a", "b"]


def test_a_fallback_is_the_first_certain_timestamp_when_the_best_may_be_null() -> None:
    columns = (
        column("seen_at", K.TIMESTAMP),
        column("created_at", K.TIMESTAMP),
        column("updated_at", K.TIMESTAMP, nullable=True),
    )
    facts = table(columns=columns, indexes=())
    candidates = discovery.cursor_candidates(facts)
    assert candidates[0].column == "updated_at"
    assert discovery.cursor_fallback(facts, candidates) == "seen_at"
    certain = table(columns=columns[:2], indexes=())
    assert discovery.cursor_fallback(certain, discovery.cursor_candidates(certain)) is None
    alone = table(columns=columns[2:], indexes=())
    assert discovery.cursor_fallback(alone, discovery.cursor_candidates(alone)) is None


def test_chunk_candidates_prefer_the_primary_key() -> None:
    found = discovery.chunk_candidates(table(indexes=(PRIMARY, index("by_line", "line"))))
    assert [(one.column, one.score, one.indexed) for one in found] == [
        ("id", 60, True),
        ("line", 20, True),
        ("region", 20, False),
    ]


@pytest.mark.parametrize(
    ("rows", "size"),
    [
        (0, 100_000),
        (999_999, 100_000),
        (1_000_000, 250_000),
        (9_999_999, 250_000),
        (10_000_000, 1_000_000),
        (99_999_999, 1_000_000),
        (100_000_000, 2_500_000),
    ],
)
def test_chunk_sizes(rows: int, size: int) -> None:
    assert discovery.chunk_size_of(rows) == size


@pytest.mark.parametrize(
    ("rows", "count"), [(499_999, 1), (500_000, 2), (4_999_999, 2), (5_000_000, 4)]
)
def test_parallel(rows: int, count: int) -> None:
    assert discovery.parallel_of(rows, 100) == count


def test_parallel_is_one_for_wide_rows_where_the_source_wants_it() -> None:
    assert discovery.parallel_of(10**7, 1_023, wide_rows=False) == 4
    assert discovery.parallel_of(10**7, 1_024, wide_rows=False) == 1
    assert discovery.parallel_of(10**7, 1_024) == 4


def test_parallel_keeps_the_predicted_memory_below_its_limit(monkeypatch) -> None:
    monkeypatch.setattr(discovery, "PEAK_MB_MAX", peak_mb(3, 10**6))
    assert discovery.parallel_of(10**7, 10**6) == 3


def facts_of(rows: int | None, **more):
    return table(row_estimate=rows, row_estimate_provenance="statistics", **more)


def suggested(facts, modes=("full", "chunked", "incremental"), one=None):
    return discovery.suggest(
        one or listed(),
        facts,
        source="shop",
        export_name="orders",
        default_schema="public",
        modes=modes,
    )


def test_more_than_a_hundred_thousand_rows_are_cut() -> None:
    found = suggested(facts_of(100_001, indexes=(PRIMARY,)))
    assert (found.mode, found.chunk_by_key, found.chunk_size) == ("chunked", ("id",), 100_000)
    assert found.parallel == 1
    assert suggested(facts_of(100_000, indexes=(PRIMARY,))).mode == "full"
    assert suggested(facts_of(None, indexes=(PRIMARY,))).mode == "full"


def moment(name: str, *, on_update: bool | None = False, nullable: bool = False) -> ColumnFacts:
    return replace(column(name, K.TIMESTAMP, nullable=nullable), set_on_update=on_update)


LAST = moment("last_update", on_update=True)
BY_LAST = index("by_last", "last_update", unique=False)


@pytest.mark.parametrize(
    ("why", "rows", "columns", "indexes", "mode", "cursor", "doubt"),
    [
        ("kept by the server", 10**6, [moment("rental_date"), LAST], [BY_LAST], "incremental",
         "last_update", None),
        ("a trigger and its name", 10**6, [moment("updatedAt", on_update=None)],
         [index("by_it", "updatedAt", unique=False)], "incremental", "updatedAt", None),
        ("small", 16, [moment("rental_date"), LAST], [BY_LAST], "full", "last_update", "small"),
        ("as large as small", 100_000, [LAST], [BY_LAST], "full", "last_update", "small"),
        ("of unknown size", None, [LAST], [BY_LAST], "full", "last_update", "nobody knows"),
        ("a business date", 10**6, [moment("rental_date")], [], "chunked", "rental_date",
         "updates of rows that were read once would never be read"),
        ("a small business date", 16, [moment("rental_date")], [], "full", "rental_date",
         "updates of rows that were read once would never be read"),
        ("a creation", 10**6, [moment("created_at")], [], "chunked", "created_at", "ever added"),
        ("a trigger, but no name", 10**6, [moment("at", on_update=None)], [], "chunked", "at",
         "nothing says that at changes"),
        ("a name alone", 10**6, [moment("updated_at")],
         [index("by_it", "updated_at", unique=False)], "chunked", "updated_at",
         "nothing on the server sets updated_at"),
        ("no index", 10**6, [LAST], [], "chunked", "last_update", "no index begins with it"),
        ("maybe NULL", 10**6, [replace(LAST, nullable=True)], [BY_LAST], "chunked", "last_update",
         "may be NULL"),
        ("no moment", 10**6, [], [], "chunked", None, "no timestamp"),
    ],
)  # fmt: skip
def test_incremental_is_proposed_only_beyond_doubt(
    why: str, rows, columns, indexes, mode: str, cursor, doubt
) -> None:
    facts = facts_of(rows, columns=(column("id", K.INT64), *columns), indexes=(PRIMARY, *indexes))
    found = suggested(facts)
    assert (found.mode, found.cursor_column) == (mode, cursor), why
    assert (found.cursor_doubt is None) == (doubt is None), why
    assert (doubt or "") in (found.cursor_doubt or ""), why


@pytest.mark.parametrize(
    ("name", "told"),
    [
        *((name, True) for name in ("updated_at", "last_update", "modifiedOn", "changed")),
        *((name, True) for name in ("ModificationDate", "date_modified", "last_edited_at")),
        *((name, False) for name in ("created_at", "rental_date", "exchanged", "at", "due")),
    ],
)
def test_names_for_when_a_row_changed(name: str, told: bool) -> None:
    assert name_suggests_updated(name) is told


def test_without_a_key_blocks_are_cut_and_else_an_indexed_column() -> None:
    found = suggested(facts_of(600_000, indexes=()))
    assert (found.mode, found.chunk_by_key, found.chunk_column) == ("chunked", (), None)
    unable = replace(ABLE, block_ranges=False)
    plain = index("by_line", "line", unique=False)
    found = suggested(facts_of(600_000, indexes=(plain,), capabilities=unable, heaps=()))
    assert (found.mode, found.chunk_column, found.parallel) == ("chunked", "line", 2)
    found = suggested(facts_of(600_000, indexes=(), capabilities=unable, heaps=()))
    assert (found.mode, found.chunk_column) == ("full", None)
    assert "nothing to cut them by" in found.mode_reason


@pytest.mark.parametrize(
    ("schema", "name", "written"),
    [
        ("public", "orders", "orders"),
        ("sales", "orders", "sales.orders"),
        ("public", "sales.orders", '"sales.orders"'),
        ("public", "Odd Name", '"Odd Name"'),
        ("a.b", 'c"d', '"a.b"."c""d"'),
    ],
)
def test_a_name_is_written_so_that_it_means_itself(schema: str, name: str, written: str) -> None:
    odd = listed(name, schema=schema)
    found = suggested(facts_of(600_000, indexes=(PRIMARY,)), one=odd)
    assert (found.table, found.query) == (written, None)
    assert (found.chunk_by_key, found.chunk_column) == (("id",), None)


def test_export_names_differ_where_case_does_not_count() -> None:
    assert discovery.export_name_of(listed("Orders"), "public", {"orders"}) == "Orders_2"


def test_a_left_out_view_is_taken_by_the_glob_that_its_reason_shows() -> None:
    view = listed("it's [a*]", kind=RelationKind.VIEW)
    _, ((_, reason),) = discovery.chosen([view], (), ())
    _, glob, *_ = shlex.split(reason.partition("; ")[2])
    assert discovery.chosen([view], (glob,), ()) == ([view], [])


def test_casts_are_suggested_for_what_cannot_be_carried() -> None:
    columns = (
        column("id", K.INT64),
        ColumnFacts(
            name="many",
            native_type="numeric",
            type=None,
            nullable=True,
            cast_hint="decimal(38,10)",
        ),
        ColumnFacts(name="host", native_type="inet", type=None, nullable=True, cast_hint="text"),
    )
    found = discovery.overrides_of(columns)
    assert [(one.column, one.override, one.review) for one in found] == [
        ("many", "decimal(38,18)", True),
        ("host", "text", False),
    ]


def test_row_groups_are_smaller_for_many_wide_columns() -> None:
    assert discovery.row_group_mb_of(FILLER) == 64
    assert discovery.row_group_mb_of(FILLER[:4]) == 128


def test_globs_choose_and_exclude_wins() -> None:
    every = [
        listed("orders"),
        listed("orders_tmp"),
        listed("seen", kind=RelationKind.VIEW),
        listed("heir", inherits_from=RelationName(schema="public", name="orders")),
        listed("secret", schema="hidden", missing="GRANT …"),
    ]

    def names(include=(), exclude=()):
        wanted, skipped = discovery.chosen(every, include, exclude)
        return [one.name.name for one in wanted], [one.name.name for one, _ in skipped]

    assert names() == (["orders", "orders_tmp"], ["seen", "heir", "secret"])
    assert names(("*",), ("*_tmp", "hidden.*")) == (["orders", "seen", "heir"], [])
    assert names(("public.or*",), ("*tmp",)) == (["orders"], [])
    assert names(("nothing",)) == ([], [])


def test_export_names_are_safe_and_unique() -> None:
    taken: set[str] = set()
    for one, expected in (
        (listed("orders"), "orders"),
        (listed("orders"), "orders_2"),
        (listed("orders", schema="eu"), "eu_orders"),
        (listed("../etc/x"), "etc_x"),
        (listed("…"), "table"),
        (listed("Straße 1"), "Straße_1"),
    ):
        name = discovery.export_name_of(one, "public", taken)
        assert name == expected
        taken.add(name)
    for expected in ("crm_orders", "crm_orders_2"):
        name = discovery.export_name_of(listed("orders"), "public", taken, source="crm")
        assert name == expected
        taken.add(name)
    long = discovery.export_name_of(listed("ä" * 63 + "x" * 63), "public", taken)
    assert len(long.encode()) <= 120
