"""Refusals name file, line, column, reason and a suggestion; what is right is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rivet_fleet.errors import ConfigError
from rivet_fleet.execution import registry
from rivet_fleet.planning.config.digests import changed_exports
from rivet_fleet.planning.config.fields import parse_size
from rivet_fleet.planning.config.load import (
    ALERT_DROPPED,
    CONFIG_BYTES_MAX,
    Installed,
    load_config,
    state_url,
)
from rivet_fleet.planning.config.loaded import LoadedConfig
from tests.unit.planning.conftest import HEAD, Loader, load

GOOD = (
    HEAD
    + """\
  - name: orders
    table: public.orders
    format: parquet
    destination: {type: local, path: out}
"""
)
EXAMPLES = Path(__file__).parents[3] / "examples"


def refusal(load_text: Loader, text: str, **more: object) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_text(text, **more)
    return caught.value


def said(error: ConfigError) -> str:
    return f"{error.message}\n{error.hint or ''}"


@pytest.mark.parametrize("name", ["rivet_postgres.yaml", "fleet.yaml"])
def test_the_examples_load(name: str) -> None:
    loaded = load(EXAMPLES / name)
    assert loaded.config.exports
    assert loaded.digest.startswith("sha256:")


def test_a_rivet_file_says_what_the_fleet_decides_instead() -> None:
    warnings = "\n".join(load(EXAMPLES / "rivet_postgres.yaml").warnings)
    for name in ("parallel_exports", "notifications"):
        assert f"{name} is ignored" in warnings
    assert "rivet_postgres.yaml:13:" in warnings


def test_an_alert_that_nobody_would_send_is_refused_until_it_is_known(load_text: Loader) -> None:
    alerts = f"notifications: {{slack: {{webhook_url_env: HOOK, on: [failure]}}}}\n{GOOD}"
    with pytest.raises(ConfigError, match=r"fleet.yaml:1:.*nobody would be told") as caught:
        load_text(alerts)
    assert caught.value.code == ALERT_DROPPED
    assert "ignored_settings: [notifications]" in said(caught.value)
    known = load_text(f"ignored_settings: [notifications]\n{alerts}")
    assert any("notifications is ignored" in one for one in known.warnings)
    assert load_text(f"notifications: {{slack: }}\n{GOOD}").digest == known.digest
    with pytest.raises(ConfigError, match="ignored_settings"):
        load_text(f"ignored_settings: [quality]\n{GOOD}")


# (what replaces what in GOOD, line, words that must be said)
EDITS = [
    ("    table:", "    tabel:", 7, "unknown key", "did you mean 'table'?"),
    ("  - name: orders", "  - name: a/../orders", 5, "must not hold", ""),
    ("  - name: orders", "  - name: .orders", 5, "begin with a dot", ""),
    ("  - name: orders", '  - name: "a\\0b"', 5, "control characters", ""),
    ("  - name: orders", "  - name: 12", 5, "must be text", "quotes"),
    ("path: out", "path: ../out", 8, "must not hold '..'", ""),
    ("path: out", "path: {date}", 8, "must be text", '"{date}"'),
    ("path: out", "path: 'out/{dat}'", 8, "unknown placeholder {dat}", "did you mean 'date'?"),
    ("path: out", "bucket: b", 8, "not supported yet", ""),
    ("type: local", "type: s3", 8, "path: has no meaning for type s3", "use prefix"),
    ("type: local", "type: lokal", 8, "must be one of ", "did you mean 'local'?"),
    ("type: postgres", "type: postgress", 2, "not supported", "did you mean 'postgres'?"),
    ("format: parquet", "format: parquett", 7, "must be one of", "did you mean 'parquet'?"),
    ("    format:", "    mode: chunkd\n    format:", 7, "full, chunked", "'chunked'"),
    ("    format:", "    mode: cdc\n    format:", 7, "not supported yet: mode", ""),
    ("    format:", "    mode: incremental\n    format:", 7, "needs cursor_column", "updated_at"),
    ("    format:", "    cursor_column: id\n    format:", 7, "without mode: incremental", "add"),
    ("    format:", "    partition_by: d\n    format:", 9, "needs {partition}", "out/{partition}"),
    ("    format:", "    partition_granularity: day\n    format:", 7, "without partition_by", ""),
    ("path: out", "path: 'out/{partition}'", 8, "{partition} needs partition_by", ""),
    (
        "    format:",
        "    quality: {row_count_mni: 1}\n    format:",
        7,
        "unknown key",
        "row_count_min",
    ),
    (
        "    format:",
        "    quality: {row_count_min: 2, row_count_max: 1}\n    format:",
        7,
        "less",
        "",
    ),
    ("    format:", "    quality: {null_ratio_max: {a: 1.1}}\n    format:", 7, "less than", ""),
    ("    format:", "    quality: {unique_columns: [[a, a]]}\n    format:", 7, "different", ""),
    ("    format:", "    meta_columns: {row_hash: [a, a]}\n    format:", 7, "different", ""),
    ("    format:", "    meta_columns: {rowhash: true}\n    format:", 7, "unknown", "row_hash"),
    ("    format:", "    chunk_dense: true\n    format:", 7, "no meaning", "mode: chunked"),
    ("    format:", "    chunk_by_days: 1\n    format:", 7, "no meaning", "mode: chunked"),
    ("    format:", "    chunk_by_days: 0\n    format:", 7, "greater than", ""),
    ("    format:", "    on_schema_drift: fial\n    format:", 7, "must be one of", "'fail'"),
    ("    format:", "    chunk_count: 5\n    format:", 7, "no meaning", "add mode: chunked"),
    ("    format:", "    batch_size: 5\n    format:", 7, "wrong place", "belongs under tuning:"),
    ("    format:", "    workers: 5\n    format:", 7, "wrong place", "belongs under campaign:"),
    ("    format:", "    wave: true\n    format:", 7, "must be a number", ""),
    ("    format:", "    wave: soon\n    format:", 7, "must be a whole number", ""),
    ("    format:", "    max_file_size: 3 parsecs\n    format:", 7, "must be a size", ""),
    ("    format:", "    max_file_size: 0\n    format:", 7, "greater than", ""),
    ("    format:", "    compression_level: 23\n    format:", 7, "1 to 22", ""),
    ("    format:", "    columns: {a: 'int); drop'}\n    format:", 7, "must be a type", ""),
    ("    format:", "    columns: {other.a: text}\n    format:", 7, "does not read", ""),
    ("    format:", "    query: select 1\n    format:", 7, "exactly one of table", ""),
    ("    format:", "    source: shop\n    format:", 7, "no such source", ""),
    ("public.orders", "a.b.c", 6, "has 3 parts", "where the dot is the name's own"),
    ("public.orders", "größe", 6, "outside quotes", """write '"größe"'"""),
    ("name: orders", 'name: "\\ud83d\\ude00"', 5, "half of one", "the character itself"),
    ("    table:", '    "\\udc80": 1\n    table:', 6, "half of one", "the character itself"),
    ("name: orders", 'name: "a{date}"', 5, "must not hold {date}", ""),
    ("public.orders", "public.orders;--", 6, "plain name", """write 'public."orders;--"'"""),
    ("    format: parquet", "    format: csv\n    compression: zstd", 8, "uncompressed", ""),
]


@pytest.mark.parametrize(("old", "new", "line", "reason", "suggestion"), EDITS)
def test_what_is_wrong_is_named_with_its_line(
    load_text: Loader, old: str, new: str, line: int, reason: str, suggestion: str
) -> None:
    assert old in GOOD
    error = refusal(load_text, GOOD.replace(old, new, 1))
    expected_line = line if line != 7 or new != "    tabel:" else 6
    assert f"fleet.yaml:{expected_line}:" in error.message
    assert reason in error.message
    assert suggestion in said(error)


def test_a_column_is_named_too(load_text: Loader) -> None:
    error = refusal(load_text, GOOD.replace("    table:", "    tabel:"))
    assert "fleet.yaml:6:5: exports[0].tabel: unknown key" in error.message


def test_every_problem_is_listed_at_once_in_the_order_of_the_file(load_text: Loader) -> None:
    text = GOOD.replace("format: parquet", "wave: x\n    form: a").replace("out}", "out, x: 1}")
    message = refusal(load_text, text).message
    assert message.startswith("4 problems:")
    assert [int(line.split(":")[1]) for line in message.split("\n")[1:]] == [5, 7, 8, 9]


def test_the_tuning_of_a_source_is_found_when_misplaced(load_text: Loader) -> None:
    error = refusal(load_text, GOOD.replace("exports:", "  statement_timeout_s: 3\nexports:"))
    assert error.message.endswith("this key is in the wrong place")
    assert error.hint == "'statement_timeout_s' belongs under tuning:"


def test_tabs_get_a_hint(load_text: Loader) -> None:
    error = refusal(load_text, "source:\n\ttype: postgres\n")
    assert "fleet.yaml:2:1:" in error.message
    assert "tab" in error.message
    assert "spaces" in (error.hint or "")


def test_unquoted_braces_get_a_hint(load_text: Loader) -> None:
    error = refusal(load_text, GOOD.replace("{type: local, path: out}", "{x}/y"))
    assert "fleet.yaml:8:" in error.message
    assert "quotes" in (error.hint or "")


def test_duplicate_keys_are_refused(load_text: Loader) -> None:
    error = refusal(load_text, GOOD + "    format: csv\n")
    assert "fleet.yaml:9:5" in error.message
    assert "already given in line 7" in error.message


def test_duplicate_exports_have_a_code(load_text: Loader) -> None:
    error = refusal(load_text, GOOD + GOOD.split("exports:\n")[1])
    assert error.code == "RIVET_CONFIG_DUPLICATE_EXPORT"
    assert "fleet.yaml:9:" in error.message


def test_no_exports_have_a_code(load_text: Loader) -> None:
    error = refusal(load_text, HEAD.replace("exports:", "exports: []"))
    assert error.code == "RIVET_CONFIG_NO_EXPORTS"


@pytest.mark.parametrize("text", ["", "- a\n", "just text", "null\n"])
def test_a_file_that_is_no_configuration(load_text: Loader, text: str) -> None:
    assert "must hold keys and values" in refusal(load_text, text).message


def test_a_missing_file_and_a_huge_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.yaml")
    (tmp_path / "big.yaml").write_text("#" * (CONFIG_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match="larger than"):
        load(tmp_path / "big.yaml")


def test_hostile_nesting_is_refused(load_text: Loader) -> None:
    assert "too deeply" in refusal(load_text, "a: " + "[" * 50_000).message
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]" for i in range(1, 12)]
    assert "too large" in refusal(load_text, "\n".join(lines)).message


@pytest.mark.parametrize(
    "text", ["a: !!bool hunter2", "a: !!timestamp hunter2", "a: !!int ''", "a: !!float ''"]
)
def test_a_tag_over_what_it_cannot_hold_is_refused_by_its_place(load_text, text):
    message = refusal(load_text, text).message
    assert "fleet.yaml:1:4: a: this value cannot be read as YAML" in message
    assert "hunter2" not in message


@pytest.mark.parametrize("text", ["params: 5", "params: {a: [env]}", "params: [a, b]"])
def test_parameters_that_are_no_mapping_are_refused(load_text, text):
    assert "fleet.yaml:1:" in refusal(load_text, text).message


# ---------------------------------------------------------------- variables


def test_variables_come_from_params_before_the_environment(load_text: Loader) -> None:
    text = GOOD.replace("path: out", "path: 'out/${DAY}'").replace(
        "    format", "    wave: ${N}\n    format"
    )
    loaded = load_text(text, params={"DAY": "p"}, environ={"DAY": "e", "N": "3"})
    assert loaded.config.exports[0].destination.path == "out/p"
    assert loaded.config.exports[0].wave == 3


def test_an_unset_variable_is_an_error_that_says_how_to_set_it(load_text: Loader) -> None:
    error = refusal(load_text, GOOD.replace("path: out", "path: '${DAY}'"))
    assert "fleet.yaml:8:" in error.message
    assert error.hint == "pass --param DAY=VALUE or export DAY=VALUE"


def test_an_unused_param_is_a_warning(load_text: Loader) -> None:
    loaded = load_text(GOOD, params={"TYPO": "1"})
    assert any("TYPO" in warning for warning in loaded.warnings)


def test_a_variable_cannot_add_structure(load_text: Loader) -> None:
    text = GOOD.replace("path: out", "path: '${P}'")
    loaded = load_text(text, environ={"P": "x', type: evil, z: 'y"})
    assert loaded.config.exports[0].destination.type == "local"


def test_words_that_older_yaml_takes_for_flags_stay_text(load_text: Loader) -> None:
    loaded = load_text(
        GOOD.replace("name: orders", "name: on").replace("path: out", "path: 2024-01-01")
    )
    assert loaded.config.exports[0].name == "on"
    assert loaded.config.exports[0].destination.path == "2024-01-01"


# ---------------------------------------------------------------- query files


def test_a_query_file_is_read_and_digested(load_text: Loader, tmp_path: Path) -> None:
    (tmp_path / "q.sql").write_text("select 1 as a;\n")
    text = GOOD.replace("table: public.orders", "query_file: q.sql")
    first = load_text(text)
    assert first.queries == {"orders": "select 1 as a"}
    (tmp_path / "q.sql").write_text("select 2 as a")
    assert load_text(text).digest != first.digest


@pytest.mark.parametrize("name", ["../q.sql", "/etc/hostname", "link/hostname"])
def test_a_query_file_stays_below_the_configuration(
    load_text: Loader, tmp_path: Path, name: str
) -> None:
    os.symlink("/etc", tmp_path / "link")
    error = refusal(load_text, GOOD.replace("table: public.orders", f"query_file: {name}"))
    assert "below the configuration's folder" in error.message


# ---------------------------------------------------------------- digest


def test_the_digest_ignores_key_order_and_comments(load_text: Loader) -> None:
    swapped = GOOD.replace(
        "    table: public.orders\n    format: parquet\n",
        "    format: parquet # same\n    table: public.orders\n",
    )
    assert load_text(swapped).digest == load_text(GOOD).digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("path: out", "path: out2"),
        ("public.orders", "public.orders2"),
        ("parquet", "csv"),
        ("localhost:5432/shop", "localhost:5433/shop"),
        ("localhost:5432/shop", "localhost:5432/shop2"),
        ("    format:", "    mode: chunked\n    chunk_count: 3\n    format:"),
        ("    format:", "    tuning: {batch_size: 5}\n    format:"),
        ("exports:", "campaign: {worker_memory_mb: 256}\nexports:"),
        ("exports:", "campaign: {max_chunk_attempts: 9}\nexports:"),
    ],
)
def test_the_digest_changes_with_everything_a_plan_depends_on(
    load_text: Loader, old: str, new: str
) -> None:
    before, after = load_text(GOOD), load_text(GOOD.replace(old, new))
    assert before.digest != after.digest
    assert changed_exports(before.sections, after.sections) == ("orders",)


@pytest.mark.parametrize(
    "new", ["campaign: {workers: 9, lease_ttl_s: 5}\n", "state: {url_env: X}\n", "spool_dir: s\n"]
)
def test_a_campaign_may_be_resumed_with_other_runtime_settings(load_text: Loader, new: str) -> None:
    assert load_text(new + GOOD).digest == load_text(GOOD).digest


def test_the_digest_changes_with_the_order_of_exports(load_text: Loader) -> None:
    second = GOOD.split("exports:\n")[1].replace("orders", "users").replace("out", "out2")
    first = GOOD.split("exports:\n")[1]
    forward, backward = load_text(HEAD + first + second), load_text(HEAD + second + first)
    assert forward.digest != backward.digest
    assert forward.sections == backward.sections


# ---------------------------------------------------------------- sources, state


def test_an_export_must_say_which_of_several_sources(load_text: Loader) -> None:
    text = GOOD.replace(
        HEAD,
        "sources:\n  a: {type: postgres, url_env: A}\n"
        "  b: {type: postgres, url_env: B}\nexports:\n",
    )
    assert "source is required here; known: a, b" in refusal(load_text, text).message
    only = text.replace("  b: {type: postgres, url_env: B}\n", "")
    loaded = load_text(only)
    assert loaded.source_name(loaded.config.exports[0]) == "a"
    assert loaded.used_sources() == {"a"}


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("url_env: A\n  url_file: b", "url_env and url_file exclude each other"),
        ("url_env: A\n  host: b", "url_env and host exclude each other"),
        ("host: h\n  user: u", "database missing"),
        ("tls: {mode: verify-full}", "no connection is given"),
        ("host: h\n  user: u\n  database: d\n  password: p\n  password_env: P", "exclude each"),
        (
            "url_env: A\n  tls: {mode: require, accept_invalid_certs: true}",
            "contradicts mode require",
        ),
    ],
)
def test_contradictory_sources_are_refused(load_text: Loader, source: str, reason: str) -> None:
    text = GOOD.replace("url: postgresql://reader@localhost:5432/shop", source)
    error = refusal(load_text, text)
    assert reason in error.message
    assert "fleet.yaml:" in error.message


def test_a_misspelt_source_group_is_refused(load_text: Loader) -> None:
    groups = "source_groups: {primary: {max_running_chunks: 2}}\n"
    text = GOOD.replace("    format:", "    source_group: primery\n    format:")
    assert "did you mean 'primary'?" in said(refusal(load_text, groups + text))
    assert load_text(text).config.exports[0].source_group == "primery"


WATCHED = """\
source_groups:
  primary:
    max_running_chunks: 2
    monitor:
      signals:
        SIGNAL
"""


def test_a_signal_the_engine_cannot_tell_is_refused_with_its_place(load_text: Loader) -> None:
    text = said(refusal(load_text, WATCHED.replace("SIGNAL", "lock_wait: {pause_above: 1}") + GOOD))
    assert "fleet.yaml:6:" in text
    assert "postgres has no such signal; known: lock_waits, running_sessions" in text
    assert "did you mean 'lock_waits'?" in text
    text = said(refusal(load_text, WATCHED.replace("SIGNAL", "queue: {pause_above: 1}") + GOOD))
    assert "give it sql: or http:" in text


@pytest.mark.parametrize(
    "signal",
    ["lock_waits: {pause_above: 1}", "queue: {sql: SELECT 1, pause_above: 1}"],
)
def test_a_signal_of_the_engine_or_of_ones_own_is_accepted(load_text: Loader, signal: str) -> None:
    loaded = load_text(WATCHED.replace("SIGNAL", signal) + GOOD)
    assert loaded.config.source_groups["primary"].monitor is not None


def test_signals_of_an_unknown_engine_are_not_reported_beside_it(load_text: Loader) -> None:
    text = WATCHED.replace("SIGNAL", "queue: {pause_above: 1}") + GOOD
    text = said(refusal(load_text, text.replace("type: postgres", "type: postgre", 1)))
    assert "this source type is not supported" in text
    assert "no such signal" not in text


def test_the_state_database_falls_back_to_a_file_beside_the_configuration(
    load_text: Loader, tmp_path: Path
) -> None:
    loaded = load_text(GOOD)
    assert state_url(loaded) == f"sqlite:///{tmp_path}/.rivet_fleet_state.db"
    assert state_url(loaded, {"RIVET_STATE_URL": "b"}) == "b"
    assert state_url(loaded, {"RIVET_STATE_URL": "sqlite:/rivets.db"}) == state_url(loaded)
    both = {"RIVET_FLEET_STATE_URL": "a", "RIVET_STATE_URL": "b"}
    assert state_url(load_text(GOOD, environ=both)) == "a"
    named = load_text("state: {url_env: MINE}\n" + GOOD, environ={**both, "MINE": "c"})
    assert state_url(named) == "c"
    with pytest.raises(ConfigError, match=r"fleet.yaml:1:.*MINE is not set"):
        state_url(load_text("state: {url_env: MINE}\n" + GOOD))


def test_sizes() -> None:
    assert parse_size("1.5GB") == 1_610_612_736
    assert parse_size("64 mb") == 64 * 1024 * 1024
    for wrong in ("", "0", "-1MB", "1XB", "0.1B", "1e9"):
        with pytest.raises(ValueError):
            parse_size(wrong)


def test_loading_takes_what_the_installation_has_as_arguments(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(GOOD.replace("postgres\n", "other\n", 1))
    loaded = load_config(
        path,
        params={},
        environ={},
        installed=Installed(
            engines=frozenset({"other"}),
            destinations=registry.destination_kinds(),
            formats=frozenset({"parquet"}),
            engine_signals=lambda engine: frozenset(),
            default_ports={},
            place_parameters=registry.place_parameters,
        ),
    )
    assert isinstance(loaded, LoadedConfig)
