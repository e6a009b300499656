"""Whatever command fails, and however: with ``--json`` standard output is one JSON document that a
scheduler can decide by, and standard error has the sentence with the same code."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from rivet_fleet.cli import main, nursery, say
from rivet_fleet.contracts.codes import CODES
from rivet_fleet.errors import ExitCode
from tests.integration.fleet_cli import FAILURE_FIELDS, FAILURE_KEYS

CONFIG = """\
source: {type: postgres, url_env: NOWHERE_URL}
campaign: {name: shop}
exports:
  - {name: orders, table: orders, format: parquet, destination: {type: local, path: out}}
"""
GIVEN = {
    ("apply",): ("plan.json",),
    ("accept",): ("--reason", "right", "orders"),
    ("init",): ("--source-url-env", "NOWHERE_URL"),
    ("state", "accept"): ("--campaign",),
    ("state", "copy"): ("--to", "postgresql://u@127.0.0.1:1/x"),
}
"""What a command cannot do without."""
WITHOUT = {("schema", "errors")}
"""It needs nothing, and fails at nothing."""


def commands(
    group: click.Group = main.cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


TELLS_JSON = [
    path
    for path, command in commands()
    if path not in WITHOUT and any("--json" in parameter.opts for parameter in command.params)
]


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., dict[str, Any]]]:
    """Run a command in this process, in a folder of its own: its failure as JSON."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nursery, "begin", lambda _main: None)
    for name in ("RIVET_FLEET_CONFIG", "RIVET_FLEET_STATE_URL", "RIVET_STATE_URL", "NOWHERE_URL"):
        monkeypatch.delenv(name, raising=False)

    def fails(*arguments: str) -> dict[str, Any]:
        code = main._main([*arguments])
        out, err = capsys.readouterr()
        body: dict[str, Any] = json.loads(out)
        own = {"doctor_version", "config_path", "all_ok", "findings"} & set(body)
        assert set(body) - own == FAILURE_FIELDS, arguments
        assert all(set(one) == {"export_name", *FAILURE_KEYS} for one in body["failures"])
        assert body["exit_code"] == code != 0 and body["message"], arguments
        assert own or f"error [{body['code']}]: {body['message']}" in err, arguments
        row = CODES.get(body["code"])
        assert row is None or (row.exit_code, row.kind.value) == (code, body["kind"])
        return body

    before = signal.getsignal(signal.SIGTERM)
    yield fails
    signal.signal(signal.SIGTERM, before)


def test_every_command_that_answers_in_json_is_here() -> None:
    assert {("run",), ("status",), ("files",), ("validate",), ("state", "chunks")} <= {*TELLS_JSON}
    assert len(TELLS_JSON) > 20


@pytest.mark.parametrize("path", TELLS_JSON, ids=" ".join)
def test_every_command_fails_in_json(
    path: tuple[str, ...],
    here: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = (*path, "--json")
    needed = GIVEN.get(path, ())
    assert here(*words, *needed, "--nonsense")["code"] == "RIVET_USAGE"
    alone = here(*words, *needed)
    expected = {("apply",): "RIVET_USAGE", ("init",): "RIVET_CONFIG_INVALID"}
    assert alone["code"] == expected.get(path, "RIVET_CONFIG_NOT_NAMED")
    if path in GIVEN and path[0] in ("apply", "init"):
        return
    Path("fleet.yaml").write_text(CONFIG.replace("table:", "tabel:"))
    typo = here(*words, *needed)
    assert (typo["code"], typo["kind"], typo["retryable"]) == (
        *("RIVET_CONFIG_INVALID", "configuration"),
        False,
    )
    assert "fleet.yaml:4" in typo["message"] and "table" in (typo["hint"] or typo["message"])


LOOKS = [path for path in TELLS_JSON if path[0] in ("status", "files", "journal", "metrics")]


@pytest.mark.parametrize("path", LOOKS, ids=" ".join)
def test_what_looks_where_nothing_is_says_so(
    path: tuple[str, ...], here: Callable[..., dict[str, Any]]
) -> None:
    Path("fleet.yaml").write_text(CONFIG)
    body = here(*path, "--json")
    assert (body["code"], body["class"]) == ("RIVET_STATE_ABSENT", "StateRefused")


def test_a_configuration_that_anybody_could_have_put_there_must_be_named(
    here: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    Path("fleet.yaml").write_text(CONFIG)
    tmp_path.chmod(0o777)
    assert here("status", "--json")["code"] == "RIVET_STATE_ABSENT", "this user's own"
    Path("fleet.yaml").chmod(0o666)
    body = here("status", "--json")
    assert body["code"] == "RIVET_CONFIG_NOT_OURS" and "can be written by others" in body["message"]
    assert here("status", "--json", "-c", "fleet.yaml")["code"] != "RIVET_CONFIG_NOT_OURS"


@pytest.mark.parametrize(
    ("end", "code", "name"),
    [
        (KeyboardInterrupt(), ExitCode.STOPPED, "RIVET_STOPPED"),
        (click.Abort(), ExitCode.STOPPED, "RIVET_STOPPED"),
        (ValueError("anna@example.org"), ExitCode.GENERIC, "RIVET_UNEXPECTED"),
    ],
    ids=["interrupt", "abort", "defect"],
)
def test_nothing_ends_without_a_name(
    end: BaseException,
    code: int,
    name: str,
    here: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fall(**_options: object) -> None:
        raise end

    monkeypatch.setattr(main.cli, "main", fall)
    body = here("status", "--json")
    assert (body["code"], body["exit_code"]) == (name, code)
    assert body["retryable"] is (code == ExitCode.STOPPED) and "anna" not in str(body)


@pytest.mark.parametrize(
    ("command", "told"), [("validate", True), ("run", False), ("worker", False)]
)
def test_a_signal_is_told_by_whoever_has_no_order_of_its_own(
    command: str,
    told: bool,
    here: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def killed(**_options: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError("it went on")

    monkeypatch.setattr(main.cli, "main", killed)
    try:
        body = here(command, "--json")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert body["code"] == ("RIVET_STOPPED" if told else "RIVET_UNEXPECTED")


def test_a_document_that_was_said_stays_alone(
    here: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def tell(**_options: object) -> None:
        say.say('{"rows": 1}', as_json=True)
        raise ValueError("then something else")

    monkeypatch.setattr(main.cli, "main", tell)
    assert main._main(["status", "--json"]) == ExitCode.GENERIC
    out, err = capsys.readouterr()
    assert json.loads(out) == {"rows": 1} and "RIVET_UNEXPECTED" in err


def test_a_full_standard_output_is_an_error_with_a_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_text: str, *, err: bool, nl: bool) -> None:
        if not err:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(click, "echo", full)
    monkeypatch.setattr(say, "_drop_output", lambda _stream: None)
    with pytest.raises(Exception, match="No space left") as told:
        say.say("rows")
    assert getattr(told.value, "code", None) == "RIVET_OUTPUT_UNWRITABLE"


def test_a_reader_that_leaves_changes_no_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_text: str, *, err: bool, nl: bool) -> None:
        raise BrokenPipeError

    def tell(**_options: object) -> int:
        say.say("many rows")
        return 5

    monkeypatch.setattr(click, "echo", gone)
    monkeypatch.setattr(say, "_drop_output", lambda _stream: None)
    monkeypatch.setattr(main.cli, "main", tell)
    assert main._main(["status"]) == ExitCode.INCOMPLETE and say.reader_gone()


def test_a_configuration_is_found_where_it_is_said_to_be(
    here: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of the folder, then the variable."""
    Path("elsewhere.yaml").write_text(CONFIG.replace("table:", "tabel:"))
    monkeypatch.setenv("RIVET_FLEET_CONFIG", "elsewhere.yaml")
    assert "elsewhere.yaml:4" in here("status", "--json")["message"]
    Path("fleet.yaml").write_text(CONFIG.replace("format:", "fromat:"))
    assert "fleet.yaml:4" in here("status", "--json")["message"]
    Path("third.yaml").write_text(CONFIG.replace("exports:", "exprots:"))
    assert "third.yaml:" in here("status", "--json", "-c", "third.yaml")["message"]


def test_the_table_is_printed_for_people_and_for_programs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main._main(["schema", "errors", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["code"] for one in listed] == list(CODES)
    keys = {"code", "kind", "class", "exit_code", "retryable", "says", "action"}
    assert all(set(one) == keys and one["action"] for one in listed)
    assert main._main(["schema", "errors"]) == 0
    said = capsys.readouterr().out
    assert all(f"{code}  " in said for code in CODES)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("help", "state", "reset"), "rivet-fleet state reset"),
        (("help", "run"), "--export"),
        (("help",), "Commands:"),
        (("-V",), "rivet-fleet, version"),
    ],
    ids=" ".join,
)
def test_help_and_version(
    words: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main._main([*words]) == 0
    assert expected in capsys.readouterr().out


def test_help_of_what_is_no_command(here: Callable[..., dict[str, Any]]) -> None:
    assert main._main(["help", "rnu"]) == ExitCode.GENERIC


@pytest.mark.parametrize(
    ("words", "level"),
    [
        (("status",), "warning"),
        (("-q", "status"), "error"),
        (("status", "-q"), "error"),
        (("status", "-v"), "info"),
        (("-v", "status", "-v"), "debug"),
        (("--log-level", "warning", "status", "-vv"), "warning"),
    ],
    ids=" ".join,
)
def test_loudness_before_and_behind_the_command(
    words: tuple[str, ...],
    level: str,
    here: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rivet_fleet.cli import invocation

    asked: list[str] = []
    monkeypatch.setattr(invocation, "configure_logging", lambda **o: asked.append(o["level"]))
    Path("fleet.yaml").write_text(CONFIG)
    main._main([*words])
    assert asked[-1] == level
