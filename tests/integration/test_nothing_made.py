"""Looking makes nothing: where no campaign is, every command but those that begin one says so and
leaves the folder as it was; where an older program's state is, it stays of that version. Asked of
every command there is, in one process of the program."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.fleet_cli import Desk
from tests.integration.test_state_copy import old

ASK = """
import contextlib, io, json, os, sqlite3, sys
import click
from rivet_fleet.cli.main import _main, cli

def commands(group, path=()):
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command

def ask(path, command):
    options = {option for parameter in command.params for option in parameter.opts}
    if "--config" not in options or " ".join(path) in sys.argv[1:]:
        return
    given = ["-c", "fleet.yaml"]
    for parameter in command.params:
        wanted = parameter.required or "--export" in parameter.opts
        if wanted and parameter.name != "config":
            word = "1" if isinstance(parameter.type, click.types.IntParamType) else "orders"
            given += [word] if isinstance(parameter, click.Argument) else [parameter.opts[0], word]
    if path == ("state", "accept"):
        given += ["--export", "orders"]  # or --campaign: one of the two is required
    if path == ("worker",):
        given += ["--wait-s", "0.1"]  # nor does waiting make anything
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = _main([*path, *given])
    left = sorted(os.path.join(at, name) for at, folders, files in os.walk(".")
                  for name in folders + files)
    version = None
    if os.path.exists(".rivet_state.db"):
        with contextlib.closing(sqlite3.connect(".rivet_state.db")) as file:
            (version,) = file.execute("SELECT version_num FROM rivet_fleet_version").fetchone()
    print(json.dumps([" ".join(path), code, said.getvalue(), left, version]), flush=True)

for at in ("none", "old"):
    os.chdir(at)
    for path, command in commands(cli):
        ask(path, command)
    os.chdir("..")
    sys.argv += ["resume", "reconcile", "repair"]  # go on with what an older program began
"""
BEGIN = (
    "run",
    "coordinator",
    "submit",
    "apply",
    "state migrate",
    "state copy",
    "init",
    "state import",
)
"""What makes a state, by its purpose; ``state copy`` refuses a source that is not there."""
NEED_NO_STATE = {"doctor", "check", "plan"}
CONFIG = """
source: {type: postgres, url: "postgresql://nobody@127.0.0.1:1/none"}
spool_dir: SPOOL
exports:
  - {name: orders, table: orders, format: parquet, destination: {type: local, path: ./out/orders}}
"""


Answers = dict[str, tuple[int, str, list[str], str | None]]
OLD = "0004"


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> tuple[Answers, Answers]:
    """What each command said where nothing is, and where an older program's state is."""
    folder: Path = tmp_path_factory.mktemp("nothing")
    spool = folder.parent / "no" / "spool"
    for name in ("none", "old"):
        (folder / name).mkdir()
        (folder / name / "fleet.yaml").write_text(CONFIG.replace("SPOOL", str(spool)))
    old(f"sqlite:///{folder / 'old' / '.rivet_state.db'}", OLD).close()
    done = subprocess.run(
        [sys.executable, "-c", ASK, *BEGIN],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not spool.parent.exists(), "doctor looked whether it can be made"
    said = [json.loads(line) for line in done.stdout.splitlines()]
    return (
        {name: tuple(rest) for name, *rest in said if rest[-1] is None},
        {name: tuple(rest) for name, *rest in said if rest[-1] is not None},
    )


@pytest.fixture
def answers(asked) -> Answers:
    return asked[0]


def test_every_command_was_asked(answers) -> None:
    assert {"status", "journal", "validate", "gc", "worker", "state show", "state reset"} <= set(
        answers
    )
    assert set(answers) >= NEED_NO_STATE


def test_nothing_is_left_behind(answers) -> None:
    left = {name: found for name, (_, _, found, _) in answers.items() if found != ["./fleet.yaml"]}
    assert left == {}


def test_where_no_campaign_is_that_is_said(answers) -> None:
    for name, (code, said, *_) in answers.items():
        assert code != 0, name
        if name not in NEED_NO_STATE:
            assert "[RIVET_STATE_ABSENT]: no campaign here (looked at /" in said, (name, said)
            assert ".rivet_fleet_state.db)" in said and "state migrate" not in said


def test_an_older_state_is_migrated_by_what_goes_on_alone(asked) -> None:
    answers = asked[1]
    assert set(answers) == set(asked[0]) - {"resume", "reconcile", "repair"}
    assert {name for name, answer in answers.items() if answer[-1] != OLD} == set()
    assert not [one for *_, found, _ in answers.values() for one in found if "before" in one]
    code, said, *_ = answers["worker"]
    assert code == 9 and "[RIVET_WORKER_VERSION]" in said and f"version {OLD}" in said
    for name, (code, said, *_) in answers.items():
        if name not in NEED_NO_STATE | {"worker"}:
            assert code == 1 and "`rivet-fleet state migrate`" in said, (name, said)


def test_a_server_without_a_state_gets_no_tables(tmp_path: Path, postgres, database: str) -> None:
    desk = Desk(folder=tmp_path, environment={"RIVET_FLEET_STATE_URL": database})
    desk.write(CONFIG.replace("SPOOL", str(tmp_path / "spool")))
    done = desk.cli("cancel", code=1)
    assert "[RIVET_STATE_ABSENT]: no campaign here (looked at postgresql://" in done.err
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    assert postgres.psql(tables, database=database.rpartition("/")[2]).strip() == "0"
