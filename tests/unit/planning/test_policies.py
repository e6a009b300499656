"""What becomes of what does not fit: an export's own word, else the defaults'; said in the plan."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rivet_fleet.contracts.codec import dumps, loads
from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, Fidelity, TypeKind
from rivet_fleet.contracts.facts import ColumnFacts, SourceFacts
from rivet_fleet.contracts.plan import ExportPlan
from rivet_fleet.errors import ConfigError, UnsupportedType
from rivet_fleet.planning.config.loaded import LoadedConfig, ValuePolicies, policies_of
from rivet_fleet.planning.config.models import ExportConfig
from rivet_fleet.planning.export_plan import NULL_UNDER_COERCE, plan_columns
from rivet_fleet.planning.planner import facts_request
from rivet_fleet.planning.request import casts_of
from tests.unit.planning.conftest import HEAD, TAIL, Loader
from tests.unit.planning.shapes import PRIMARY, column, index, table
from tests.unit.planning.test_planner import KEYED, only

ONE = HEAD + "  - name: a\n    table: t\n" + TAIL
LOSSY = replace(
    column("ratio", TypeKind.FLOAT32),
    native_type="double precision",
    type=ColumnType(kind=TypeKind.FLOAT32, fidelity=Fidelity.LOSSY),
)
CARRIED = replace(
    column("paid", TypeKind.STRING), native_type="money", unsupported_reason="no form", cast="text"
)


def export_of(loaded: LoadedConfig) -> ExportConfig:
    return loaded.config.exports[0]


def with_column(found: ColumnFacts) -> SourceFacts:
    return replace(KEYED, columns=(*KEYED.columns, found))


def spec_of(loaded: LoadedConfig, facts: SourceFacts, name: str) -> ColumnSpec:
    (found,) = (c for c in only(loaded, facts).plan.read.columns if c.name == name)
    return found


def test_an_export_is_strict_unless_told_otherwise(load_text: Loader) -> None:
    loaded = load_text(ONE)
    policies = policies_of(loaded.config, export_of(loaded))
    assert (policies.on_unrepresentable, policies.on_unsupported) == ("fail", "fail")
    assert policies.on_lossy == "warn"
    assert facts_request(loaded, export_of(loaded)).unsupported_cast is None
    assert only(loaded, KEYED).plan.read.on_unrepresentable == "fail"


def test_an_export_overrides_the_defaults(load_text: Loader) -> None:
    defaults = "defaults: {on_unrepresentable: coerce, on_unsupported: text, on_lossy: allow}\n"
    loaded = load_text(defaults + ONE)
    assert only(loaded, KEYED).plan.read.on_unrepresentable == "coerce"
    assert facts_request(loaded, export_of(loaded)).unsupported_cast == "text"
    own = load_text(defaults + ONE + "    on_unrepresentable: fail\n    on_unsupported: fail\n")
    assert only(own, KEYED).plan.read.on_unrepresentable == "fail"
    assert facts_request(own, export_of(own)).unsupported_cast is None


def test_words_that_are_no_policy_are_refused(load_text: Loader) -> None:
    with pytest.raises(ConfigError, match="must be one of fail, coerce"):
        load_text("defaults: {on_unrepresentable: ignore}\n" + ONE)


def test_where_a_policy_is_written_does_not_change_the_digest(load_text: Loader) -> None:
    plain = load_text(ONE)
    per_export = load_text(ONE + "    on_unrepresentable: coerce\n")
    by_default = load_text("defaults: {on_unrepresentable: coerce}\n" + ONE)
    assert per_export.digest == by_default.digest
    assert plain.digest != by_default.digest


@pytest.mark.parametrize("kind", list(TypeKind))
def test_a_not_null_column_that_may_become_null_is_planned_nullable(
    load_text: Loader, kind: TypeKind
) -> None:
    element = ColumnType(kind=TypeKind.INT32) if kind is TypeKind.LIST else None
    found = replace(column("x", kind), type=ColumnType(kind=kind, element=element))
    assert spec_of(load_text(ONE), with_column(found), "x").nullable is False
    coercing = load_text("defaults: {on_unrepresentable: coerce}\n" + ONE)
    assert spec_of(coercing, with_column(found), "x").nullable is (kind in NULL_UNDER_COERCE)


def test_a_column_carried_as_text_is_cast_and_said(load_text: Loader) -> None:
    loaded = load_text("defaults: {on_unsupported: text}\n" + ONE)
    assert spec_of(loaded, with_column(CARRIED), "paid").cast == "text"
    warnings = only(loaded, with_column(CARRIED)).plan.warnings
    assert "column paid (money) is exported as text: no form (on_unsupported)" in warnings


def test_a_lossy_column_is_said_refused_or_allowed(load_text: Loader) -> None:
    facts = with_column(LOSSY)
    assert any("may not keep every value" in w for w in only(load_text(ONE), facts).plan.warnings)
    allowed = only(load_text("defaults: {on_lossy: allow}\n" + ONE), facts)
    assert not any("may not keep" in warning for warning in allowed.plan.warnings)
    with pytest.raises(UnsupportedType, match=r"1 column.*on_lossy is fail") as caught:
        only(load_text("defaults: {on_lossy: fail}\n" + ONE), facts)
    assert "a.ratio (double precision): whose exported type" in caught.value.message


def test_a_part_of_a_primary_key_is_no_key() -> None:
    facts = table(indexes=(index("orders_pkey", "id", "line", primary=True),))
    part = replace(facts, columns=tuple(c for c in facts.columns if c.name != "line"))
    policies = ValuePolicies(on_unrepresentable="fail", on_unsupported="fail", on_lossy="warn")
    for found, key in ((facts, {"id", "line"}), (part, set())):
        specs = plan_columns("a", found, {}, policies).specs
        assert {one.name for one in specs if one.key} == key


def test_an_element_may_be_lossy_too(load_text: Loader) -> None:
    of_lossy = replace(LOSSY, type=ColumnType(kind=TypeKind.LIST, element=LOSSY.type))
    with pytest.raises(UnsupportedType):
        only(load_text("defaults: {on_lossy: fail}\n" + ONE), with_column(of_lossy))


def test_the_policy_survives_a_process_and_older_plans_mean_fail(load_text: Loader) -> None:
    loaded = load_text("defaults: {on_unrepresentable: coerce}\n" + ONE)
    plan = only(loaded, table(indexes=(PRIMARY,))).plan
    assert loads(ExportPlan, dumps(plan)).read.on_unrepresentable == "coerce"
    older = dumps(plan).replace('"on_unrepresentable":"coerce",', "")
    assert loads(ExportPlan, older).read.on_unrepresentable == "fail"


def test_a_column_with_a_dot_in_its_name_is_named_with_its_table(load_exports: Loader) -> None:
    loaded = load_exports(a="table: s.t\ncolumns: {t.a.b: text, s.t.c.d: uuid, e: date}")
    assert casts_of(export_of(loaded)) == {"a.b": "text", "c.d": "uuid", "e": "date"}
    query = load_exports(a="query: select 1\ncolumns: {a.b: text}")
    assert casts_of(export_of(query)) == {"a.b": "text"}
    with pytest.raises(ConfigError, match="names a table"):
        load_exports(a="table: t\ncolumns: {a.b: text}")
