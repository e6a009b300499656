"""schema, help, completions, demo."""

from __future__ import annotations

import json
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from rivet_fleet.cli.options import json_option
from rivet_fleet.cli.say import say
from rivet_fleet.errors import UsageError


@click.group()
def schema() -> None:
    """Print machine-readable descriptions of the program's inputs."""


@schema.command("config")
def config_schema() -> int:
    """The JSON Schema (draft 2020-12) of the configuration file, for editors."""
    from rivet_fleet.execution.registry import destination_kinds
    from rivet_fleet.planning.config.load import config_json_schema

    say(json.dumps(config_json_schema(destination_kinds()), indent=2), as_json=True)
    return 0


@schema.command("errors")
@json_option
def errors_schema(as_json: bool) -> int:
    """Every code that a stop can have: whose business it is, exit code, whether to try again, and
    what to do next."""
    from rivet_fleet.contracts.codes import CODES, catalogue

    if as_json:
        say(json.dumps(catalogue(), indent=2), as_json=True)
        return 0
    for one in CODES.values():
        again = "retryable" if one.retryable else "not retryable"
        say(f"{one.name}  {one.kind.value}, exit {int(one.exit_code)}, {again}")
        say(f"    {one.says}\n    next: {one.action}")
    return 0


@click.command("help")
@click.argument("words", nargs=-1, metavar="[COMMAND]...")
def help_of(words: tuple[str, ...]) -> int:
    """What a command does, and its options: `rivet-fleet help state reset`."""
    context = click.get_current_context().find_root()
    command: click.Command = context.command
    for word in words:
        inner = command.get_command(context, word) if isinstance(command, click.Group) else None
        if inner is None:
            raise UsageError(
                f"there is no command {' '.join(words)!r}", hint="`rivet-fleet help` lists them"
            )
        command, context = inner, click.Context(inner, info_name=word, parent=context)
    say(command.get_help(context))
    return 0


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completions(shell: str) -> int:
    """Print a completion script, for example: eval "$(rivet-fleet completions bash)"."""
    kind = get_completion_class(shell)
    if kind is None:
        raise UsageError(f"no completion for {shell}")
    program = click.get_current_context().find_root().command
    say(kind(program, {}, "rivet-fleet", "_RIVET_FLEET_COMPLETE").source())
    return 0


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("demo-output"),
    show_default=True,
    help="Where the files and the state go; made anew by each demo.",
)
@click.option(
    "--rows",
    type=click.IntRange(min=10_000),
    default=2_000_000,
    show_default=True,
    help="Rows of the largest table.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 16),
    default=3,
    show_default=True,
    help="Worker processes.",
)
def demo(output: Path, rows: int, workers: int) -> int:
    """A shop on a real PostgreSQL, a fleet, a kill -9, a rescue, and an independent check."""
    from rivet_fleet.cli.environment import read_environment
    from rivet_fleet.demo.show import run_demo

    read_environment()
    return run_demo(output, rows=rows, workers=workers)
