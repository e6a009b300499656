"""The program: commands, and the one place where an error becomes a message and an exit code."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import threading
import traceback
from dataclasses import replace
from types import FrameType
from typing import Any, NoReturn

import click

from rivet_fleet import __version__
from rivet_fleet.cli import nursery
from rivet_fleet.cli.say import begin_output, document_said, loudness_options, show_cursor
from rivet_fleet.errors import ExitCode, RivetFleetError, StateError

_COMMANDS = {
    "init": "rivet_fleet.cli.init:init",
    "doctor": "rivet_fleet.cli.check:doctor",
    "run": "rivet_fleet.cli.campaign:run",
    "coordinator": "rivet_fleet.cli.campaign:run",
    "submit": "rivet_fleet.cli.campaign:submit",
    "worker": "rivet_fleet.cli.worker:worker",
    "resume": "rivet_fleet.cli.campaign:resume",
    "check": "rivet_fleet.cli.check:check",
    "plan": "rivet_fleet.cli.plan:plan",
    "apply": "rivet_fleet.cli.plan:apply",
    "status": "rivet_fleet.cli.inspect:status",
    "validate": "rivet_fleet.cli.inspect:validate",
    "reconcile": "rivet_fleet.cli.reconcile:reconcile",
    "repair": "rivet_fleet.cli.repair:repair",
    "files": "rivet_fleet.cli.inspect:files",
    "journal": "rivet_fleet.cli.metrics:journal",
    "metrics": "rivet_fleet.cli.metrics:metrics",
    "requeue": "rivet_fleet.cli.operate:requeue",
    "accept": "rivet_fleet.cli.operate:accept",
    "cancel": "rivet_fleet.cli.operate:cancel",
    "gc": "rivet_fleet.cli.operate:gc",
    "state": "rivet_fleet.cli.state:state",
    "schema": "rivet_fleet.cli.misc:schema",
    "help": "rivet_fleet.cli.misc:help_of",
    "completions": "rivet_fleet.cli.misc:completions",
    "demo": "rivet_fleet.cli.misc:demo",
}


_NEEDS_NOTHING = "rivet_fleet.cli.misc"
"""The module whose commands import what they need themselves."""
_STEPS_MAX = 20
_STARTS_WORKERS = ("run", "coordinator", "resume", "apply", "reconcile", "repair")


def _leaves(command: click.Command) -> list[click.Command]:
    if not isinstance(command, click.Group):
        return [command]
    return [leaf for one in command.commands.values() for leaf in _leaves(one)]


class LazyGroup(click.Group):
    """Imports a command's module only when it is used: ``--help`` answers at once."""

    _explains: bool | None = None
    """Whether a command is asked what it does, and not to do it; None as long as nobody knows."""
    _passing: frozenset[str] = frozenset()
    """Modules that were imported for what they declare alone."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order a newcomer meets them."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        target = _COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        light = module == _NEEDS_NOTHING
        if self._explains and not light and sys.modules.keys() & {module} <= self._passing:
            return self._declared(module, attribute)
        # Importing makes much that lives as long as the process: nothing to collect, nor to
        # look at again.
        gc.disable()
        if not light:
            nursery.import_lean()
        command: click.Command = getattr(importlib.import_module(module), attribute)
        gc.freeze()
        gc.enable()
        return command

    def _declared(self, module: str, attribute: str) -> click.Command:
        """The command with its options and words. Should it be called all the same (``--help`` was
        the value of another option), everything begins anew with all of it imported."""
        declared, passing = nursery.import_declared(module)
        self._passing |= passing
        command: click.Command = getattr(declared, attribute)

        def begin_anew(context: click.Context) -> Any:
            for name in self._passing:
                del sys.modules[name]
            self._explains = False
            program = context.find_root().info_name
            return self.main(self._arguments, program, standalone_mode=False)

        for leaf in _leaves(command):
            leaf.invoke = begin_anew  # type: ignore[assignment, method-assign]
        return command

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **how: Any) -> Any:
        """As click's; the words are kept."""
        self._arguments = list(args)
        return super().make_context(info_name, args, *more, **how)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A mistyped command gets a suggestion."""
        import difflib

        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], _COMMANDS, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            ctx.fail(f"No such command '{args[0]}'.{hint}")
        asked = {"-h", "--help"} & set(args)
        if self._explains is None:
            self._explains = bool(asked) or args[:1] == ["help"] or ctx.resilient_parsing
        if args and args[0] in _STARTS_WORKERS and not asked and not ctx.resilient_parsing:
            nursery.begin(main)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table below, so that help imports nothing."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_HELP.items()))


_HELP = {
    "init": "Scaffold a commented configuration from live databases.",
    "doctor": "Verify credentials, privileges, state, destinations and limits.",
    "run": "Plan a campaign, start workers, show progress, finish (alias: coordinator).",
    "submit": "Plan and store a campaign for workers elsewhere; repeatable.",
    "worker": "Work on a campaign until it is over; any number, on any host.",
    "resume": "Continue an interrupted campaign by its stored plan.",
    "check": "Say what a run would do, and as which types; writes nothing.",
    "plan": "Decide what a run would do, show it, and seal it for review.",
    "apply": "Execute exactly the ranges of a sealed plan.",
    "status": "Show where a campaign stands, and why something waits.",
    "validate": "Check delivered files against their manifest.",
    "reconcile": "Compare delivered files with their source, down to the row.",
    "repair": "Read what differs from the source again, in place of what was delivered.",
    "files": "Print the files of the newest complete run of an export.",
    "journal": "Show what happened, in order.",
    "metrics": "Show numbers of the campaign and of former runs.",
    "requeue": "Give failed (or lost) chunks another chance.",
    "accept": "Deliver a run that its quality gates refused.",
    "cancel": "Give a campaign up.",
    "gc": "Remove staged bytes that nobody will ever publish.",
    "state": "Inspect, migrate and reset the state database.",
    "schema": "Print the JSON Schema of the configuration, or every code of an error.",
    "help": "Say what a command does, and its options.",
    "completions": "Print a shell completion script.",
    "demo": "Show the whole thing on a real embedded PostgreSQL.",
}


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="rivet-fleet")
@loudness_options
@click.option("--json-errors", is_flag=True, help="Errors as one JSON object on stderr.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default=None,
    help="What goes to stderr; default: warning, and error beside the progress of run and resume. "
    "Goes before -q and -v.",
)
@click.option("--log-json", is_flag=True, help="Log lines as versioned JSON events.")
@click.pass_context
def cli(ctx: click.Context, json_errors: bool, log_level: str | None, log_json: bool) -> None:
    """Extract tables from production databases with a fleet of workers.

    Every row ends up in exactly one visible file, whatever is killed.

    \b
    First steps:
      rivet-fleet demo                     see it work, nothing needed
      rivet-fleet init --source-url-env DATABASE_URL -o fleet.yaml
      rivet-fleet doctor                   is everything there that a run needs
      rivet-fleet run                      extract with workers on this host
      rivet-fleet status                   ask what it is waiting for
      rivet-fleet files -e orders          print what was delivered
    """
    ctx.obj = {"json_errors": json_errors, "log_level": log_level, "log_json": log_json}


def main() -> None:
    """The entry point. Exit codes: docs/reference/exit-codes.md."""
    _leave(_main(sys.argv[1:]))


def _leave(code: int) -> NoReturn:
    """End the process now. Whatever must be closed was closed by its owner; taking an
    interpreter and its libraries apart costs a tenth of a second and helps nobody."""
    show_cursor()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass  # the reader has gone, or the stream was closed before us
    os._exit(code)


def _main(arguments: list[str]) -> int:
    threading.excepthook = _tell_thread
    begin_output()
    if not _OWN_SIGNALS & set(arguments):
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        result: Any = cli.main(args=arguments, prog_name="rivet-fleet", standalone_mode=False)
        return int(result) if isinstance(result, int) else int(ExitCode.OK)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (click.Abort, click.ClickException, KeyboardInterrupt, RivetFleetError) as error:
        return _show(arguments, error)
    except SystemExit:
        return int(ExitCode.OK)  # click's own, where the reader of its help has gone
    except Exception as defect:
        return _show_defect(arguments, defect)


_OWN_SIGNALS = {*_STARTS_WORKERS, "worker"}
"""Who works with others stops in an order of its own."""


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """SIGTERM ends a command as an interrupt does: by a name, and with what was asked for as
    JSON."""
    raise KeyboardInterrupt


_DOCUMENTS = {"--json", "--json-lines", "--discover"}
"""Options that ask for JSON where people would read words."""


def _show(arguments: list[str], error: BaseException) -> int:
    from rivet_fleet.cli.failure import failure_of, say_failure

    failure = failure_of(error)
    if isinstance(error, StateError):
        # What the state holds begins no line of ours.
        failure = replace(failure, message=" ".join(failure.message.splitlines()))
    lines = "--json-lines" in arguments
    said = "\0".join(arguments).split("\0--\0")[0].split("\0")
    say_failure(
        failure,
        on_stdout=bool(_DOCUMENTS & set(said)) and (lines or not document_said()),
        json_errors="--json-errors" in arguments,
    )
    return failure.exit_code


def _show_defect(arguments: list[str], defect: Exception) -> int:
    """The last door. What a library says of a value that it could not take holds the value: a
    secret, a row, a command to the terminal. So its kind and our steps to it are told, no word."""
    if "--json-errors" not in arguments:
        steps = traceback.format_tb(defect.__traceback__)[-_STEPS_MAX:]
        _say_steps("".join(steps).rstrip())
    return _show(arguments, defect)


def _tell_thread(ended: threading.ExceptHookArgs) -> None:
    """A thread that ends by what nobody foresaw: as at the last door, no word of what was said."""
    if ended.exc_type is SystemExit:
        return
    steps = "".join(traceback.format_tb(ended.exc_traceback)[-_STEPS_MAX:])
    name = ended.thread.name if ended.thread is not None else "a thread"
    _say_steps(f"{steps}unexpected {ended.exc_type.__name__} in {name}")


def _say_steps(steps: str) -> None:
    from rivet_fleet.cli.failure import say_steps

    say_steps(steps)
