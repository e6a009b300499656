"""A plan is sealed, says everything that is wrong at once, and depends on nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rivet_fleet.contracts.codec import dumps, loads
from rivet_fleet.contracts.columns import TypeKind
from rivet_fleet.contracts.facts import SourceFacts
from rivet_fleet.contracts.identity import check_campaign_id, new_campaign_id, run_id_of
from rivet_fleet.contracts.keys import CampaignId, RangeKind, RelationName
from rivet_fleet.contracts.plan import CampaignPlan, PlannedRun
from rivet_fleet.errors import ConfigError, SourceRefused, UnsupportedType, UsageError
from rivet_fleet.planning.config.connections import source_connection
from rivet_fleet.planning.config.loaded import LoadedConfig
from rivet_fleet.planning.planner import facts_request, plan_campaign
from tests.unit.planning.conftest import HEAD, Loader, load
from tests.unit.planning.shapes import PRIMARY, column, heap, int_key, table

NOW = CampaignId("20240531T101112.123")
EXAMPLES = Path(__file__).parents[3] / "examples"


def plan(
    loaded: LoadedConfig,
    facts: SourceFacts | dict[str, SourceFacts],
    campaign_id: CampaignId = NOW,
    now_s: float | None = None,
    names: tuple[str, ...] = (),
) -> CampaignPlan:
    by_name = (
        facts
        if isinstance(facts, dict)
        else {export.name: facts for export in loaded.config.exports}
    )
    return plan_campaign(
        loaded,
        by_name,
        campaign_id=campaign_id,
        connections={n: source_connection(loaded, n) for n in loaded.used_sources()},
        now_s=now_s,
        only=names,
    )


def only(loaded: LoadedConfig, facts: SourceFacts) -> PlannedRun:
    (run,) = plan(loaded, facts).runs
    return run


KEYED = table(indexes=(PRIMARY,), keys=(int_key("id", *range(0, 1_000_001, 1000)),))


def test_the_plan_of_the_example_survives_a_process() -> None:
    loaded = load(
        EXAMPLES / "fleet.yaml",
        environ={"SHOP_PASSWORD": "sesame99", "BILLING_URL": "postgresql://b@db.example/b"},
    )
    made = plan(
        loaded,
        replace(
            KEYED,
            indexes=(
                PRIMARY,
                replace(PRIMARY, name="k", columns=("order_id", "line_no"), primary=False),
            ),
            columns=(
                *KEYED.columns,
                column("order_id", TypeKind.INT64),
                column("line_no", TypeKind.INT32),
            ),
        ),
    )
    assert loads(CampaignPlan, dumps(made)) == made
    assert made.campaign_name == "nightly"
    assert [(b.group_name, b.ceiling) for b in made.budgets] == [("shop-primary", 2)]
    assert [run.plan.attempts_max for run in made.runs] == [4, 4, 4]
    assert made.runs[0].plan.tuning.throttle_ms == 500
    assert made.runs[2].plan.read.source_identity == "postgres://b@db.example:5432/b"
    assert made.runs[2].plan.tuning.target_statement_ms == 200
    assert made.runs[2].plan.verify == "content"


def test_the_same_inputs_give_the_same_bytes(load_exports: Loader) -> None:
    loaded = load_exports(orders="table: orders\nmode: chunked")
    assert len({dumps(plan(loaded, KEYED)) for _ in range(20)}) == 1
    assert len({only(loaded, KEYED).plan_hash for _ in range(20)}) == 1


def test_the_resolved_relation_is_planned(load_exports: Loader) -> None:
    loaded = load_exports(orders="table: orders")
    request = facts_request(loaded, loaded.config.exports[0])
    assert request.relation == RelationName(schema="", name="orders")
    assert str(only(loaded, KEYED).plan.read.relation) == "public.orders"


def test_a_request_names_the_users_key_and_casts(load_exports: Loader) -> None:
    loaded = load_exports(
        a="table: s.orders\nmode: chunked\nchunk_by_key: code, id\nchunk_count: 5000\n"
        "columns: {total: 'decimal(18,2)', orders.ratio: text}",
        b="query: select 1 as x;\nmode: chunked\nchunk_column: x",
    )
    first, second = (facts_request(loaded, one) for one in loaded.config.exports)
    assert first.key_columns == ("code", "id")
    assert first.casts == (("ratio", "text"), ("total", "decimal(18,2)"))
    assert first.boundaries_max == 5000
    assert first.boundaries_wanted(rows=10**9) == 4999
    assert (second.relation, second.query, second.key_columns) == (None, "select 1 as x", ("x",))


@pytest.mark.parametrize(
    ("how", "rows", "wanted"),
    [
        ("mode: full", 10**9, 0),
        ("mode: chunked\nchunk_count: 4", 10**9, 3),
        ("mode: chunked\nchunk_count: 1", 10**9, 0),
        ("mode: chunked\nchunk_size: 1000", 10_000, 20),
        ("mode: chunked\nchunk_size: 1000", None, 1_000),
        ("mode: chunked", 40_000, 0),
        ("mode: chunked\nchunk_size_memory_mb: 64", 10_000, 1_000),
    ],
)
def test_no_more_boundaries_are_wanted_than_there_are_cuts(
    load_exports: Loader, how: str, rows: int | None, wanted: int
) -> None:
    loaded = load_exports(orders=f"table: orders\n{how}")
    request = facts_request(loaded, loaded.config.exports[0])
    assert request.boundaries_wanted(rows) == wanted


def test_every_unsupported_column_of_every_export_is_listed(load_exports: Loader) -> None:
    bad = tuple(
        replace(
            column(name, TypeKind.STRING),
            type=None,
            native_type=native,
            unsupported_reason="has no exact form",
            cast_hint=cast,
        )
        for name, native, cast in (("p", "point", "text"), ("t", "tsvector", None))
    )
    loaded = load_exports(a="table: a", b="table: b")
    with pytest.raises(UnsupportedType) as caught:
        plan(loaded, replace(KEYED, columns=(*KEYED.columns, *bad)))
    message = caught.value.message
    assert message.startswith("4 column(s)")
    assert "a.p (point): has no exact form; columns: {p: text}" in message
    assert "b.t (tsvector): has no exact form" in message


def test_every_refused_export_is_listed_with_its_line(load_exports: Loader) -> None:
    loaded = load_exports(
        a="table: a\nmode: chunked\nchunk_column: total",
        b="table: b\nmode: chunked\nchunk_by_key: nope",
        c="table: c\ncolumns: {totl: text}",
    )
    with pytest.raises(ConfigError) as caught:
        plan(loaded, KEYED)
    message = caught.value.message
    assert message.startswith("3 problems:")
    for words in ("fleet.yaml:10:", "fleet.yaml:16:", "fleet.yaml:21:21:", "did you mean 'total'?"):
        assert words in message


def test_missing_facts_and_tables_without_columns_are_refused(load_exports: Loader) -> None:
    loaded = load_exports(a="table: a", b="table: b")
    with pytest.raises(SourceRefused, match="export a: nothing is known"):
        plan(loaded, {"b": KEYED})
    with pytest.raises(SourceRefused, match="no columns"):
        plan(loaded, replace(KEYED, columns=(), indexes=()))


def test_two_exports_may_not_share_a_folder(load_text: Loader) -> None:
    one = "  - {name: %s, table: t, format: parquet, destination: {type: local, path: '%s'}}\n"
    loaded = load_text(HEAD + one % ("a", "out/{export}") + one % ("b", "./out//a/"))
    # Also where the other is not planned this time: it delivers there whenever it is.
    for names in ((), ("b",)):
        with pytest.raises(ConfigError, match=r"fleet.yaml:6:.*same destination as export a"):
            plan(loaded, KEYED, names=names)
    assert len(plan(loaded, KEYED, names=("a",)).runs) == 1


def test_placeholders_and_the_prefix(load_text: Loader, tmp_path: Path) -> None:
    text = (
        HEAD + "  - name: my export\n    table: shop.orders\n    format: parquet\n"
        "    destination: {type: local, path: 'o/{date}/{table}/{export}'}\n"
    )
    loaded = load_text(text)
    run = only(loaded, KEYED)
    assert run.plan.destination.prefix == f"{tmp_path}/o/2024-05-31/orders/my export"
    assert run.plan.run_id.startswith("my_export-")
    named = plan(loaded, KEYED, CampaignId("mine"), now_s=86_400.0 * 2)
    assert "/1970-01-03/" in named.runs[0].plan.destination.prefix
    with pytest.raises(ConfigError, match="needs a moment"):
        plan(loaded, KEYED, CampaignId("mine"))


def test_attempts(load_exports: Loader) -> None:
    retries = "table: t\ntuning: {max_retries: 7}"
    assert only(load_exports(a="table: t"), KEYED).plan.attempts_max == 4
    assert only(load_exports(a=retries), KEYED).plan.attempts_max == 8
    both = retries + "\nchunk_max_attempts: 2"
    assert only(load_exports(a=both), KEYED).plan.attempts_max == 2


def test_null_chunk_comes_last_and_every_index_once(load_exports: Loader) -> None:
    loaded = load_exports(a="table: t\nmode: chunked\nchunk_column: region\nchunk_count: 5")
    run = only(loaded, table(keys=(int_key("region", 1, 50, 100, unique=False),)))
    assert [chunk.chunk_index for chunk in run.chunks] == list(range(6))
    assert run.chunks[-1].chunk_range.kind is RangeKind.NULLS
    assert any("may be NULL" in warning for warning in run.plan.warnings)


def test_warnings_travel_with_the_plan(load_exports: Loader) -> None:
    facts = replace(table(heaps=()), warnings=("row security is on",), row_estimate=None)
    warnings = "\n".join(only(load_exports(a="table: t"), facts).plan.warnings)
    assert "row security is on" in warnings
    assert "one statement, limited to 3600 s in all" in warnings
    assert "no estimate of rows" in warnings
    blocks = "\n".join(only(load_exports(a="table: t"), table(heaps=(heap(),))).plan.warnings)
    assert "by heap block" in blocks


def test_columns_carry_casts_comments_and_key_flags(load_exports: Loader) -> None:
    columns = only(load_exports(a="table: t\ncolumns: {code: text}"), KEYED).plan.read.columns
    assert [one.name for one in columns if one.key] == ["id"]
    assert [one.cast for one in columns if one.name == "code"] == ["text"]


def test_campaign_ids() -> None:
    assert new_campaign_id(1_717_150_272.123) == NOW
    assert new_campaign_id(0.9999) == "19700101T000001.000"
    for bad in ("", "a/b", "../x", ".x", "a..b", "a b", "ä", "x" * 101, "a\n"):
        with pytest.raises(UsageError):
            check_campaign_id(bad)
    assert check_campaign_id("nightly-1") == "nightly-1"


def test_run_ids_are_safe_and_stay_apart() -> None:
    ids = {run_id_of(name, NOW) for name in ("a b", "a_b", "a/b", "ä b")}
    assert len(ids) == 4
    assert all(set(one) <= set("abcdefghijklmnopqrstuvwxyzT0123456789._-") for one in ids)
