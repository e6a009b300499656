"""The generated reference pages are what the program is: no key, command or option missing."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import click
import pytest

from rivet_fleet.cli.main import _COMMANDS, _HELP, cli
from rivet_fleet.planning.config import models

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "write_reference", ROOT / "scripts" / "write_reference.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_fresh(writer: ModuleType) -> None:
    for name, text in writer.pages().items():
        assert (REFERENCE / name).read_text(encoding="utf-8") == text, (
            f"docs/reference/{name} is stale: run .venv/bin/python scripts/write_reference.py"
        )


def test_every_configuration_key_is_documented_with_a_meaning(writer: ModuleType) -> None:
    text = (REFERENCE / "configuration.md").read_text(encoding="utf-8")
    shown = {model for _, model in writer.BLOCKS}
    for model in vars(models).values():
        if not (isinstance(model, type) and issubclass(model, models.Block)):
            continue
        if model is models.Block:
            continue
        assert model in shown, f"{model.__name__} has no section"
        for name, info in model.model_fields.items():
            assert info.description, f"{model.__name__}.{name} has no meaning"
            assert f"| `{name}` |" in text


def test_every_command_and_option_is_documented_with_a_meaning() -> None:
    text = (REFERENCE / "cli.md").read_text(encoding="utf-8")
    assert set(_HELP) == set(_COMMANDS) - {"coordinator"}, "--help lists every command"
    for path, command in _walk("rivet-fleet", cli):
        assert f" {path}\n" in text or f" {path} (alias" in text, f"{path} is not documented"
        assert command.help, f"{path} has no sentence"
        for option in command.params:
            if not isinstance(option, click.Option) or option.hidden:
                continue
            assert option.help, f"{path} {option.opts[-1]} has no meaning"
            assert option.opts[-1] in text


def _walk(path: str, command: click.Command) -> list[tuple[str, click.Command]]:
    found = [(path, command)]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and name != "coordinator":
                found += _walk(f"{path} {name}", inner)
    return found
