"""Profiles, memory and formats: numbers in, plan values out; and the published schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from rivet_fleet import __version__
from rivet_fleet.execution import registry
from rivet_fleet.planning.config.fields import MIB
from rivet_fleet.planning.config.load import config_json_schema
from rivet_fleet.planning.config.models import ExportConfig, SourceConfig, TuningConfig
from rivet_fleet.planning.export_plan import (
    DATA_BYTES_MIN,
    PROCESS_BYTES,
    TUNING_PROFILES,
    format_plan,
    memory_budget,
    tuning_plan,
)

BUDGET = memory_budget(150)
EXAMPLES = Path(__file__).parents[3] / "examples"


def source(**more: Any) -> SourceConfig:
    return SourceConfig.model_validate({"type": "postgres", "url_env": "X", **more})


def tuning(**more: Any) -> TuningConfig:
    return TuningConfig.model_validate(more)


def export(**more: Any) -> ExportConfig:
    return ExportConfig.model_validate(
        {
            "name": "a",
            "table": "t",
            "format": "parquet",
            "destination": {"type": "local", "path": "o"},
            **more,
        }
    )


@pytest.mark.parametrize(
    ("environment", "timeout_s", "rest_share", "retries"),
    [
        ("local", 0, 0, 1),
        ("replica", 300, 0.2, 3),
        ("production", 300, 0.2, 3),
        (None, 300, 0.2, 3),
    ],
)
def test_the_environment_chooses_the_profile(
    environment: str | None, timeout_s: float, rest_share: float, retries: int
) -> None:
    plan = tuning_plan(source(environment=environment), tuning(), BUDGET)
    assert (plan.statement_timeout_s, plan.rest_share, plan.max_retries) == (
        timeout_s,
        rest_share,
        retries,
    )
    assert plan.throttle_ms == 0


def test_a_profiles_rest_gives_way_to_the_users_word_and_to_a_governor() -> None:
    asked = tuning(rest_share=0.5)
    assert tuning_plan(source(), tuning(throttle_ms=0), BUDGET).rest_share == 0
    assert tuning_plan(source(tuning={"throttle_ms": 9}), tuning(), BUDGET).rest_share == 0
    assert tuning_plan(source(), tuning(), BUDGET, watched=True).rest_share == 0
    assert tuning_plan(source(), asked, BUDGET, watched=True).rest_share == 0.5
    both = tuning_plan(source(tuning={"throttle_ms": 9}), asked, BUDGET)
    assert (both.throttle_ms, both.rest_share) == (9, 0.5)


RIVETS_PROFILES = {
    # field: (fast, balanced, safe); None: the profile says nothing
    "batch_size": (None, None, 2_000),
    "batch_size_memory_mb": (64, 32, None),
    "throttle_ms": (0, 0, 500),
    "rest_share": (None, 0.2, None),
    "statement_timeout_s": (0, 300, 120),
    "max_retries": (1, 3, 10),
    "retry_backoff_ms": (1_000, 2_000, 5_000),
    "lock_timeout_s": (0, 30, 10),
}
"""Rivet's profiles, number by number. Its balanced rests 50 ms after every 10,000 rows, whatever
the source does; here it rests a share of the time that the source was busy. The batch sizes of fast
and balanced bound rows where no memory limit does; here the memory limit and the time target do,
and only safe bounds rows.
The memory threshold is the worker's ceiling; adaptive and min_parallel are the governor's."""


@pytest.mark.parametrize("field", RIVETS_PROFILES)
def test_each_profile_has_the_numbers_that_rivet_gives_it(field: str) -> None:
    named = [TUNING_PROFILES[name].get(field) for name in ("fast", "balanced", "safe")]
    assert tuple(named) == RIVETS_PROFILES[field]
    assert {name for profile in TUNING_PROFILES.values() for name in profile} == set(
        RIVETS_PROFILES
    )


def test_an_explicit_profile_wins_and_fields_override_one_by_one() -> None:
    plan = tuning_plan(
        source(environment="local", tuning={"profile": "safe", "lock_timeout_s": 3}),
        tuning(throttle_ms=7),
        BUDGET,
    )
    assert (plan.throttle_ms, plan.lock_timeout_s, plan.statement_timeout_s) == (7, 3, 120)
    assert (plan.max_retries, plan.retry_backoff_ms, plan.batch_rows_max) == (10, 5000, 2000)
    assert tuning_plan(source(), tuning(throttle_ms=0), BUDGET).throttle_ms == 0


def test_rows_are_limited_only_where_rows_were_asked_for() -> None:
    assert tuning_plan(source(), tuning(), BUDGET).batch_rows_max is None
    assert tuning_plan(source(), tuning(batch_size=123), BUDGET).batch_rows_max == 123
    nearer = tuning_plan(source(tuning={"batch_size": 5}), tuning(batch_size_memory_mb=2), BUDGET)
    assert (nearer.batch_rows_max, nearer.batch_bytes_max) == (None, 2 * MIB)


@pytest.mark.parametrize(
    ("ceiling_mb", "page_mb", "group_mb"),
    [(128, 1, 1), (150, 3, 4), (220, 17, 21), (512, 64, 94), (65_536, 64, 128)],
)
def test_memory(ceiling_mb: int, page_mb: int, group_mb: int) -> None:
    budget = memory_budget(ceiling_mb)
    assert (budget.page_bytes // MIB, budget.row_group_bytes // MIB) == (page_mb, group_mb)
    data = max(ceiling_mb * MIB - PROCESS_BYTES, DATA_BYTES_MIN)
    assert 3 * budget.page_bytes + budget.row_group_bytes <= data


def test_no_page_and_no_value_is_larger_than_the_ceiling_allows() -> None:
    plan = tuning_plan(source(tuning={"batch_size_memory_mb": 900}), tuning(), BUDGET)
    assert plan.batch_bytes_max == BUDGET.page_bytes
    assert plan.max_value_bytes == 8 * MIB
    assert tuning_plan(source(), tuning(max_value_mb=2), BUDGET).max_value_bytes == 2 * MIB
    assert tuning_plan(source(), tuning(max_value_mb=0), BUDGET).max_value_bytes == 8 * MIB


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ("zstd", None)),
        ({"compression": "gzip", "compression_level": 4}, ("gzip", 4)),
        ({"compression_profile": "none"}, ("none", None)),
        ({"compression_profile": "fast"}, ("snappy", None)),
        ({"compression_profile": "balanced", "compression": "lz4"}, ("zstd", 3)),
        ({"compression_profile": "compact", "compression_level": 1}, ("zstd", 9)),
        ({"format": "csv"}, ("none", None)),
    ],
)
def test_compression(settings: dict[str, Any], expected: tuple[str, int | None]) -> None:
    plan, _ = format_plan(export(**settings), BUDGET)
    assert (plan.compression, plan.compression_level) == expected


def test_differences_are_written_only_for_those_who_ask() -> None:
    assert format_plan(export(), BUDGET)[0].encodings == "classic"
    assert format_plan(export(parquet={}), BUDGET)[0].encodings == "classic"
    assert format_plan(export(parquet={"encodings": "auto"}), BUDGET)[0].encodings == "auto"


def test_row_groups_fit_the_ceiling_and_say_so() -> None:
    plan, warnings = format_plan(export(parquet={"target_row_group_mb": 128}), BUDGET)
    assert plan.row_group_bytes == BUDGET.row_group_bytes
    assert "4 MB are used" in warnings[0]
    smaller, silent = format_plan(export(parquet={"max_row_group_mb": 4}), BUDGET)
    assert (smaller.row_group_bytes, silent) == (4 * MIB, [])
    fixed = {"row_group_strategy": "fixed_rows", "row_group_rows": 5000}
    assert format_plan(export(parquet=fixed), BUDGET)[0].row_group_rows == 5000
    assert format_plan(export(max_file_size="1.5MB"), BUDGET)[0].file_bytes_max == 1_572_864


def test_the_schema_is_valid_and_names_the_version() -> None:
    schema = config_json_schema(registry.destination_kinds())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"].endswith("2020-12/schema")
    assert __version__ in schema["title"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_fits_the_schema(path: Path) -> None:
    jsonschema.Draft202012Validator(config_json_schema(registry.destination_kinds())).validate(
        yaml.safe_load(path.read_text())
    )


def test_the_schema_refuses_what_the_program_refuses() -> None:
    validator = jsonschema.Draft202012Validator(config_json_schema(registry.destination_kinds()))
    good = yaml.safe_load((EXAMPLES / "fleet.yaml").read_text())
    for change in ({"exprts": []}, {"campaign": {"workers": "many"}}, {"exports": 3}):
        assert not validator.is_valid({**good, **change})
    assert validator.is_valid({**good, "campaign": {"workers": "${WORKERS}"}})


@pytest.mark.parametrize(
    ("written", "limit_s"),
    [({}, 3600.0), ({"profile": "fast"}, 0.0), ({"whole_read_timeout_s": 5}, 5.0)],
)
def test_a_read_that_cannot_be_cut_has_an_hour(written: dict[str, object], limit_s: float) -> None:
    source = SourceConfig.model_validate({"type": "postgres", "url_env": "X", "tuning": written})
    plan = tuning_plan(source, TuningConfig(), memory_budget(150))
    assert plan.whole_read_timeout_s == limit_s
