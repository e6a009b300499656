"""The one door to the terminal: nothing that others wrote reaches it as a command to it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeVar

import click

from rivet_fleet.contracts.foreign import flat, printable, printable_json
from rivet_fleet.errors import UsageError

Command = TypeVar("Command", bound=Callable[..., Any])
_COPY_BYTES = 1024 * 1024
_SHOW_CURSOR = "\x1b[?25h"
_documents: list[None] = []
_gone: list[None] = []


def say(text: str, *, err: bool = False, nl: bool = True, as_json: bool = False) -> None:
    """Print lines for people without control and direction characters, or one JSON document, in
    which they stand escaped. Raises UsageError when standard output cannot be written."""
    _print(printable_json(text) if as_json else printable(text), err=err, nl=nl)
    if as_json and not err:
        _documents.append(None)


def say_line(text: str, *, err: bool = False) -> None:
    """One line that holds names or values of others: none of them begins another line."""
    _print(flat(text), err=err)


def give(path: Path) -> None:
    """A file's bytes, as they are, to whoever reads standard output. Raises UsageError when they
    could not all be written, and when that is a terminal, to which bytes could be commands."""
    try:
        with path.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer, _COPY_BYTES)
        sys.stdout.buffer.flush()
    except BrokenPipeError as failure:
        # Unlike a report, of which a reader may have seen enough.
        _refuse_output(failure)
    except OSError as failure:
        _refuse_output(failure)


def refuse_stream(*, as_json: bool) -> None:
    """Raise UsageError where standard output cannot be a delivery."""
    if as_json:
        raise UsageError(
            "--json and a delivery would share standard output",
            hint="leave --json out: the report stands on stderr",
            code="RIVET_STDOUT_SHARED",
        )
    if sys.stdout.isatty():
        raise UsageError(
            "standard output is a terminal, to which bytes of a file could be commands",
            hint="give it a file or a pipe: `rivet-fleet run -c … > orders.csv`",
            code="RIVET_STDOUT_SHARED",
        )


def begin_output() -> None:
    """A new invocation: nothing was said yet."""
    _documents.clear()
    _gone.clear()


def document_said() -> bool:
    """Whether standard output holds a JSON document already."""
    return bool(_documents)


def reader_gone() -> bool:
    """Whether whoever read standard output has gone: what only shows something may end."""
    return bool(_gone)


def confirm(question: str, *, yes: bool, hint: str = "--yes says it") -> None:
    """Ask on a terminal before something is forgotten or given up. ``yes``: the answer was given on
    the command line. Raises UsageError when the answer is no, or nobody can be asked."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise _unconfirmed(f"{question} nobody can be asked here", hint)
    if not click.confirm(flat(question), err=True):
        raise _unconfirmed(f"{question} The answer was no", hint)


def show_cursor() -> None:
    """Give a terminal its cursor back, whatever was drawing on it when the process ended."""
    try:
        if sys.__stderr__ is not None and sys.__stderr__.isatty():
            sys.__stderr__.write(_SHOW_CURSOR)
            sys.__stderr__.flush()
    except (OSError, ValueError):
        pass  # the terminal has gone


def _unconfirmed(message: str, hint: str) -> UsageError:
    return UsageError(f"{message}: nothing was changed", hint=hint, code="RIVET_NOT_CONFIRMED")


def _print(text: str, *, err: bool, nl: bool = True) -> None:
    try:
        click.echo(text, err=err, nl=nl)
    except BrokenPipeError:
        _lose_reader(err)
    except OSError as failure:
        if not err:
            _refuse_output(failure)


def _lose_reader(err: bool) -> None:
    """A reader that has seen enough ends no work, and changes no exit code."""
    _drop_output(sys.stderr if err else sys.stdout)
    if not err:
        _gone.append(None)


def _refuse_output(failure: OSError) -> NoReturn:
    _drop_output(sys.stdout)
    raise UsageError(
        f"standard output cannot be written: {failure.strerror}",
        hint="give it a file or a pipe that can hold it; what the command did is done",
        code="RIVET_OUTPUT_UNWRITABLE",
    ) from None


def _drop_output(stream: TextIO) -> None:
    """What could not be written stays in the stream's buffer, and would fail again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


# ------------------------------------------------------------------------------------------
# How much a command says: before its name or behind it.

_LOUDNESS = "rivet_fleet.loudness"
_LEVELS = {-1: "error", 0: None, 1: "info"}


def _keep_loudness(context: click.Context, parameter: click.Parameter, value: int) -> None:
    """Before the command or behind it: what was said twice counts twice."""
    step = -1 if parameter.name == "quiet" else 1
    context.meta[_LOUDNESS] = context.meta.get(_LOUDNESS, 0) + step * int(value)


def loudness_options(command: Command) -> Command:
    """``-q`` and ``-v``."""
    quiet = click.option(
        "-q",
        "--quiet",
        is_flag=True,
        expose_value=False,
        callback=_keep_loudness,
        help="Errors, and what was asked for: no progress, no warnings, no closing report.",
    )
    verbose = click.option(
        "-v",
        "--verbose",
        count=True,
        expose_value=False,
        callback=_keep_loudness,
        help="More of the log on stderr; twice: all of it.",
    )
    return quiet(verbose(command))


def is_quiet() -> bool:
    """Whether only errors and what was asked for are to be said."""
    return int(click.get_current_context().meta.get(_LOUDNESS, 0)) < 0


def log_level() -> str | None:
    """The level that was asked for, by name or by ``-q`` and ``-v``; None when by neither."""
    context = click.get_current_context()
    options: dict[str, str | None] = context.find_root().obj or {}
    loudness = int(context.meta.get(_LOUDNESS, 0))
    return options.get("log_level") or _LEVELS.get(max(loudness, -1), "debug")
