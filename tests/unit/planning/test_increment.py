"""The rules of cursors, one by one (CC1 to CC10), and what a plan says about them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rivet_fleet.contracts.codec import dumps, loads
from rivet_fleet.contracts.columns import TypeKind
from rivet_fleet.contracts.facts import SourceFacts
from rivet_fleet.contracts.keys import CampaignId, ChunkRange, RangeKind
from rivet_fleet.contracts.plan import CampaignPlan, ExportPlan
from rivet_fleet.contracts.priority import CursorQuality, ReasonKind
from rivet_fleet.contracts.window import (
    Newest,
    NewestRequest,
    RowWindow,
    WindowBound,
    advances,
    describe_mark,
    mark_text,
    mark_values,
)
from rivet_fleet.errors import ConfigError
from rivet_fleet.execution.keyset import KeysetPager
from rivet_fleet.execution.paging import Select, above, conditions, windowed
from rivet_fleet.execution.source import PageLimit
from rivet_fleet.execution.sources.mysql.statements import Keys
from rivet_fleet.planning.advice import advise
from rivet_fleet.planning.config.connections import source_connection
from rivet_fleet.planning.config.loaded import LoadedConfig
from rivet_fleet.planning.planner import plan_campaign
from rivet_fleet.planning.window import Moving
from tests.postgres_keys import PlainKeys
from tests.unit.planning.conftest import Loader
from tests.unit.planning.shapes import PRIMARY, column, index, int_key, table

POSTGRES = PlainKeys()
NOW_S = 1_700_000_000.0
AT = column("at", TypeKind.TIMESTAMP_UTC)
ORDERS = table(
    columns=(
        column("id", TypeKind.INT64),
        AT,
        column("made", TypeKind.TIMESTAMP_UTC, nullable=True),
        column("share", TypeKind.FLOAT64),
    ),
    indexes=(PRIMARY, index("orders_at", "at", unique=False)),
    keys=(int_key("id", *range(0, 1_000_001, 1000)),),
)
INCREMENTAL = "table: orders\nmode: incremental\ncursor_column: at\n"
COALESCE = "incremental_cursor_mode: coalesce\ncursor_fallback_column: made\n"
MARK = mark_text(("at", "id"), None, ("2023-01-01 00:00:00+00", "7"))
NEWEST = ("2023-11-01 00:00:00+00", "9")


def campaign(
    loaded: LoadedConfig,
    facts: SourceFacts = ORDERS,
    mark: str | None = None,
    newest: tuple[str, ...] | None = NEWEST,
    **more: Any,
) -> CampaignPlan:
    moving = Moving(mark=mark, newest=Newest(values=newest, **more))
    return plan_campaign(
        loaded,
        {export.name: facts for export in loaded.config.exports},
        campaign_id=CampaignId("20240531T101112.123"),
        connections={n: source_connection(loaded, n) for n in loaded.used_sources()},
        now_s=NOW_S,
        moving={export.name: moving for export in loaded.config.exports},
    )


def planned(loaded: LoadedConfig, *args: Any, **more: Any) -> ExportPlan:
    (run,) = campaign(loaded, *args, **more).runs
    return run.plan


def window(loaded: LoadedConfig, *args: Any, **more: Any) -> RowWindow:
    found = planned(loaded, *args, **more).read.window
    assert found is not None
    return found


# -- the numbered rules -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", ["incremental_cursor_mode: coalesce", "cursor_fallback_column: made"]
)
def test_cc1_fallback_and_coalesce_go_together(load_exports: Loader, settings: str) -> None:
    with pytest.raises(ConfigError, match=r"fleet\.yaml:\d+.*coalesce"):
        load_exports(orders=INCREMENTAL + settings)
    assert load_exports(orders=INCREMENTAL + COALESCE)


def test_cc2_the_plan_holds_the_cursor(load_exports: Loader) -> None:
    cursor = planned(load_exports(orders=INCREMENTAL), mark=MARK).cursor
    assert cursor is not None
    assert (cursor.mode, cursor.columns, cursor.fallback) == ("single_column", ("at", "id"), None)
    assert cursor.mark_before == MARK
    assert mark_values(cursor.mark_after or "", ("at", "id"), None) == NEWEST


def test_cc3_the_sealed_plan_is_all_that_is_needed(load_exports: Loader) -> None:
    plan = campaign(load_exports(orders=INCREMENTAL + COALESCE))
    again = loads(CampaignPlan, dumps(plan))
    assert again == plan
    assert again.runs[0].plan_hash == plan.runs[0].plan_hash
    assert again.runs[0].plan.read.window is not None
    assert again.runs[0].plan.read.window.fallback == "made"


def test_cc4_the_mark_is_the_newest_row_and_the_next_run_begins_behind_it(
    load_exports: Loader,
) -> None:
    loaded = load_exports(orders=INCREMENTAL)
    first = window(loaded)
    assert first.lower is None
    assert first.upper == WindowBound(values=NEWEST, inclusive=True)
    after = planned(loaded).cursor.mark_after  # type: ignore[union-attr]
    later = ("2023-11-02 00:00:00+00", "12")
    second = window(loaded, mark=after, newest=later)
    assert second.lower == WindowBound(values=NEWEST, inclusive=False)
    assert second.upper == WindowBound(values=later, inclusive=True)


def test_cc5_the_coalesced_value_is_never_a_column(load_exports: Loader) -> None:
    plan = planned(load_exports(orders=INCREMENTAL + COALESCE))
    assert [c.name for c in plan.read.columns] == [c.name for c in ORDERS.columns]
    assert plan.cursor is not None
    assert "coalesce(at, made)" in describe_mark(plan.cursor.mark_after or "")


def test_cc6_pages_are_ordered_by_cursor_and_key_in_one_level(load_exports: Loader) -> None:
    (run,) = campaign(load_exports(orders=INCREMENTAL), mark=MARK).runs
    (chunk,) = run.chunks
    assert chunk.chunk_range == ChunkRange(kind=RangeKind.KEYSET, columns=("at", "id"))
    pager = KeysetPager(
        POSTGRES, "*", "t AS _rivet", chunk.chunk_range, lambda *_: (), index_walk=True
    )
    page = pager.select(PageLimit(rows_max=5, bytes_max=1))
    sql = windowed(page, POSTGRES, run.plan.read.window, chunk.chunk_range).sql()
    assert sql.count("SELECT") == 1
    assert sql.endswith('ORDER BY _rivet."at" USING <, _rivet."id" USING < LIMIT 5')


@pytest.mark.parametrize("dialect", [POSTGRES, Keys(native_types={"at": "datetime", "id": "int"})])
@pytest.mark.parametrize("fallback", [None, "made"])
def test_cc7_planning_and_reading_compare_with_one_expression(
    dialect: Any, fallback: str | None
) -> None:
    values = ("2023-01-01 00:00:00", "7")
    asked = NewestRequest(
        relation=None, query="q", columns=("at", "id"), fallback=fallback, above=values
    )
    lower = WindowBound(values=values, inclusive=False)
    read = RowWindow(columns=("at", "id"), fallback=fallback, lower=lower)
    whole = ChunkRange(kind=RangeKind.WHOLE)
    page = windowed(Select(columns="*", source="t"), dialect, read, whole)
    assert above(dialect, asked) == page.where == conditions(dialect, read)


def test_cc8_a_mark_is_one_opaque_text_of_its_own_columns(load_exports: Loader) -> None:
    assert mark_values(MARK, ("at", "id"), None) == ("2023-01-01 00:00:00+00", "7")
    for columns, fallback in ((("at",), None), (("at", "id"), "made"), (("made", "id"), None)):
        assert mark_values(MARK, columns, fallback) is None
    assert mark_values("2023-01-01", ("at",), None) is None
    loaded = load_exports(orders=INCREMENTAL + COALESCE)
    with pytest.raises(ConfigError, match="the stored mark is at, id = 2023-01-01") as refused:
        planned(loaded, mark=MARK)
    assert "state reset -e orders" in (refused.value.hint or "")


def test_cc9_names_are_quoted_by_each_engine() -> None:
    name = 'a"`b'
    low = WindowBound(values=("1",), inclusive=False)
    (quoted,) = conditions(POSTGRES, RowWindow(columns=(name,), lower=low))
    assert quoted == """_rivet."a""`b" > '1'"""
    mysql = Keys(native_types={name: "int"})
    (quoted,) = conditions(mysql, RowWindow(columns=(name,), lower=low))
    assert quoted == '_rivet.`a"``b` > 1'


def test_cc10_values_are_literals_under_every_setting_or_refused() -> None:
    low = WindowBound(values=("it's \\ 1",), inclusive=False)
    (text,) = conditions(POSTGRES, RowWindow(columns=("c",), lower=low))
    assert text == """_rivet."c" >  E'it''s \\\\ 1'"""
    with pytest.raises(ConfigError, match="no value of a bigint key"):
        conditions(Keys(native_types={"c": "bigint"}), RowWindow(columns=("c",), lower=low))


# -- what is new --------------------------------------------------------------------------------


def test_nothing_new_is_one_task_that_reads_nothing(load_exports: Loader) -> None:
    (run,) = campaign(load_exports(orders=INCREMENTAL), mark=MARK, newest=None).runs
    assert len(run.chunks) == 1
    assert run.plan.read.window is not None
    assert run.plan.read.window.empty
    assert run.plan.cursor is not None
    assert run.plan.cursor.mark_after == MARK


def test_a_first_run_is_cut_as_the_whole_table_would_be(load_exports: Loader) -> None:
    (run,) = campaign(load_exports(orders=INCREMENTAL)).runs
    assert len(run.chunks) == 10
    assert run.plan.strategy == "keyset"
    cut = load_exports(orders=INCREMENTAL + "chunk_count: 3")
    (run,) = campaign(cut, mark=MARK).runs
    assert [c.chunk_range.columns for c in run.chunks] == [("id",)] * 3


def test_how_far_the_server_had_come_is_sealed_with_a_window_that_moves_a_mark(
    load_exports: Loader,
) -> None:
    loaded = load_exports(orders=INCREMENTAL)
    assert planned(loaded, mark=MARK, position="0/5").read.position == "0/5"
    assert planned(loaded, position="0/5").read.position == "0/5"
    assert planned(loaded, mark=MARK, newest=None, position="0/5").read.position == ""
    days = "table: orders\nmode: time_window\ntime_column: at\ndays_window: 3\n"
    assert planned(load_exports(orders=days), position="0/5").read.position == ""


def test_an_overlap_begins_below_the_mark(load_exports: Loader) -> None:
    loaded = load_exports(orders=INCREMENTAL + "cursor_overlap_s: 60")
    found = window(loaded, mark=MARK, newest=None, overlap="2022-12-31 23:59:00+00")
    assert found.lower == WindowBound(values=("2022-12-31 23:59:00+00",), inclusive=True)
    assert found.upper == WindowBound(values=("2023-01-01 00:00:00+00", "7"), inclusive=True)
    assert not found.empty


def test_what_a_mark_cannot_see_is_said(load_exports: Loader) -> None:
    loaded = load_exports(orders=INCREMENTAL)
    far = ("2999-01-01 00:00:00+00", "1")
    said = "; ".join(planned(loaded, newest=far, nulls=True, endless=True).warnings)
    for words in ("at is NULL", "never the mark", "in the future"):
        assert words in said
    bare = replace(ORDERS, indexes=())
    said = "; ".join(planned(loaded, bare, newest=NEWEST[:1]).warnings)
    assert "no index begins with at: every run reads the whole table (about 1,000,000 rows)" in said
    assert "no key tells rows with the same at apart" in said


def test_moments_of_whole_seconds_are_warned_of(load_exports: Loader) -> None:
    words = "at counts whole seconds"
    loaded = load_exports(orders=INCREMENTAL)
    assert words in "; ".join(planned(loaded, newest=("2023-01-01 00:00:00+00", "7")).warnings)
    fine = ("2023-01-01 00:00:00.25+00", "7")
    assert words not in "; ".join(planned(loaded, newest=fine).warnings)
    overlapping = load_exports(orders=INCREMENTAL + "cursor_overlap_s: 1")
    assert words not in "; ".join(planned(overlapping).warnings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("cursor_column: share", "share .* cannot tell what is new"),
        ("cursor_column: att", "no column 'att'"),
        ("cursor_column: id\ncursor_overlap_s: 5", "not read as a date or a moment"),
        ("cursor_column: id\n" + COALESCE, "two columns of one type"),
    ],
)
def test_what_cannot_be_a_cursor_is_refused(
    load_exports: Loader, settings: str, words: str
) -> None:
    loaded = load_exports(orders=f"table: orders\nmode: incremental\n{settings}")
    with pytest.raises(ConfigError, match=words):
        campaign(loaded, newest=("1",))


def test_the_source_must_have_been_asked(load_exports: Loader) -> None:
    loaded = load_exports(orders=INCREMENTAL)
    with pytest.raises(ConfigError, match="was not asked what is new"):
        plan_campaign(
            loaded,
            {"orders": ORDERS},
            campaign_id=CampaignId("20240531T101112.123"),
            connections={n: source_connection(loaded, n) for n in loaded.used_sources()},
        )


@pytest.mark.parametrize(
    ("kind", "type_", "cutoff"),
    [
        (TypeKind.TIMESTAMP_UTC, "timestamp", "2023-11-07 22:13:20"),
        (TypeKind.DATE, "timestamp", "2023-11-07"),
        (TypeKind.INT64, "unix", "1699395200"),
    ],
)
def test_a_time_window_is_computed_once_in_utc(
    load_exports: Loader, kind: TypeKind, type_: str, cutoff: str
) -> None:
    settings = f"time_column: at\ndays_window: 7\ntime_column_type: {type_}"
    loaded = load_exports(orders=f"table: orders\nmode: time_window\n{settings}")
    facts = replace(ORDERS, columns=(ORDERS.columns[0], column("at", kind)))
    plan = planned(loaded, facts)
    assert plan.read.window == RowWindow(
        columns=("at",), lower=WindowBound(values=(cutoff,), inclusive=True)
    )
    assert plan.cursor is None


def test_boundaries_advance_as_numbers_and_then_as_bytes() -> None:
    def at(value: str) -> str:
        return mark_text(("c",), None, (value,))

    assert advances(None, at("1"))
    assert advances(at("9"), at("10"))
    assert not advances(at("10"), at("9"))
    assert advances(at("18446744073709551614"), at("18446744073709551615"))
    assert advances(at("9.5"), at("10.25"))
    assert advances(at("a"), at("b"))
    assert not advances(at("b"), at("b"))


# -- what is advised ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "facts", "quality"),
    [
        (INCREMENTAL, ORDERS, CursorQuality.STRONG_MONOTONIC),
        (INCREMENTAL, replace(ORDERS, indexes=(PRIMARY,)), CursorQuality.WEAK_MULTI_CANDIDATE),
        (INCREMENTAL + COALESCE, ORDERS, CursorQuality.WEAK_MULTI_CANDIDATE),
    ],
)
def test_the_score_follows_the_cursors_index_and_range(
    load_exports: Loader, settings: str, facts: SourceFacts, quality: CursorQuality
) -> None:
    loaded = load_exports(orders=settings)
    plan = campaign(loaded, facts, mark=None)
    (one,) = advise(loaded, {"orders": facts}, plan, {}, now_s=NOW_S).campaign.ordered_exports
    assert f"cursor {quality.value}" in [part.what for part in one.score_parts]


def test_a_short_time_window_is_fresh(load_exports: Loader) -> None:
    settings = "time_column: at\ndays_window: 7"
    loaded = load_exports(orders=f"table: orders\nmode: time_window\n{settings}")
    plan = campaign(loaded)
    (one,) = advise(loaded, {"orders": ORDERS}, plan, {}, now_s=NOW_S).campaign.ordered_exports
    kinds = {reason.kind for reason in one.reasons}
    assert {ReasonKind.FRESHNESS_HINT_RECENT, ReasonKind.NO_TIME_CURSOR} <= kinds
