"""What a command imports before it does anything: it pays for no more. Told by a process of its own
and never timed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from rivet_fleet.cli.main import _COMMANDS, cli
from tests.integration.fleet_cli import COMPILED

_HEAVY = (
    *("sqlalchemy", "pydantic", "psycopg", "pymysql", "pyarrow", "structlog", "yaml", "psutil"),
    *("rich", "numpy", "alembic", "asyncio", "cryptography"),
)
_NO_SOURCE = (
    *("psycopg", "pymysql", "rich", "numpy", "alembic", "cryptography", "pyarrow.parquet"),
    *("rivet_fleet.persistence.schema", "rivet_fleet.execution.engines.source"),
)
"""Of a command that asks the state alone, which is a file."""
_OTHERS = (
    *("sqlalchemy.dialects.postgresql", "pymysql", "rich", "numpy", "alembic", "cryptography"),
    "rivet_fleet.execution.sources.mysql.source",
)
"""Of a first run from PostgreSQL, which is not there, that makes its state, a file."""
_TELL = """
import json, os, sys
def leave(code, leave=os._exit):
    print(json.dumps([code, [n for n, m in sys.modules.items() if m is not None]]), file=sys.stderr)
    sys.stderr.flush()
    leave(code)
os._exit = leave
from rivet_fleet.cli.main import main
main()
"""


def imported(folder: Path, *words: str) -> tuple[int, set[str]]:
    """The command's exit code, and every module that it has imported at its end."""
    done = subprocess.run(
        [sys.executable, "-c", _TELL, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, **COMPILED},
        timeout=60,
    )
    code, modules = json.loads(done.stderr.splitlines()[-1])
    return code, set(modules)


@pytest.mark.parametrize(
    ("words", "code", "without"),
    [
        (("--help",), 0, _HEAVY),
        (("run", "--help"), 0, _HEAVY),
        (("help", "state", "reset"), 0, _HEAVY),
        (("status", "-c", "fleet.yaml"), 1, _NO_SOURCE),
        (("run", "-c", "fleet.yaml"), 2, _OTHERS),
    ],
    ids=lambda words: " ".join(words[:2]) if isinstance(words, tuple) else str(words),
)
def test_a_command_imports_no_more_than_it_needs(
    tmp_path: Path, words: tuple[str, ...], code: int, without: tuple[str, ...]
) -> None:
    (tmp_path / "fleet.yaml").write_text(
        "source: {type: postgres, url: postgresql://reader@127.0.0.1:1/shop}\n"
        "exports: [{name: t, table: t, format: csv, destination: {type: local, path: out}}]\n"
    )
    ended, modules = imported(tmp_path, *words)
    found = {
        one for one in modules for name in without if one == name or one.startswith(f"{name}.")
    }
    assert (ended, found) == (code, set())


_HELP_OF_ALL = """
import json, sys
import click
from rivet_fleet.cli.main import _COMMANDS, cli
cli._explains = True
root = click.Context(cli, info_name="rivet-fleet")
def told(command, context, words):
    yield " ".join(words), command.get_help(context)
    for name in getattr(command, "commands", ()):
        inner = command.commands[name]
        yield from told(inner, click.Context(inner, info_name=name, parent=context), [*words, name])
found = {}
for name in _COMMANDS:
    command = cli.get_command(root, name)
    found.update(told(command, click.Context(command, info_name=name, parent=root), [name]))
heavy = [name for name in ("sqlalchemy", "pydantic", "pyarrow") if name in sys.modules]
print(json.dumps([found, heavy]))
"""


def test_what_is_explained_without_its_program_is_explained_as_with_it() -> None:
    command = [sys.executable, "-c", _HELP_OF_ALL]
    environment = {**os.environ, **COMPILED}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=60, env=environment
    )
    found, heavy = json.loads(done.stdout)
    assert heavy == []
    root = click.Context(cli, info_name="rivet-fleet")
    for name in _COMMANDS:
        whole = cli.get_command(root, name)
        assert whole is not None
        # Which names its help option has a command keeps from whoever asked it first.
        whole._help_option = None
        assert found[name] == whole.get_help(click.Context(whole, info_name=name, parent=root))
    assert "state reset" in found


def test_help_as_the_value_of_an_option_is_no_question(tmp_path: Path) -> None:
    """The command is done, with all that it needs."""
    code, modules = imported(tmp_path, "status", "-c", "absent.yaml", "-e", "--help")
    assert code == 1 and "pydantic" not in modules, "status has no -e"
    code, modules = imported(tmp_path, "files", "-c", "absent.yaml", "-e", "--help")
    assert code == 1 and "pydantic" in modules, "the configuration was looked for"
